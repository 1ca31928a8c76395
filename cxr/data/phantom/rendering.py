"""The synthetic data set: procedurally drawn frontal chest radiographs of five classes.

Nothing here is measured from patients. A picture is built as attenuation: soft tissue, minus the air of the
lungs, plus bones, vessels, distractors and lesions. Then follow blur, detector noise and an exposure curve. Every
shape is a function of continuous coordinates, so that an index is the same picture at every size.

Coordinates (the *canonical* frame): x points to the image's right (the patient's left) and y down. Both run from
-1 to 1 over an image without pose, so the unit of length is half the image's side.

Anatomy, pose, distractors, exposure and marker have separate streams of random numbers (`cases.Stream`). So they
are independent of the class by construction: only the lesions depend on it. The one exception is asked for by
name: with `marker="class"` a token outside the lungs shows the class, as a shortcut that a network can learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.ndimage import gaussian_filter

from cxr.core.errors import InputError
from cxr.data.phantom.anatomy import draw_anatomy
from cxr.data.phantom.cases import (
    CLASSES,
    Stream,
    identity,
    image_id_of,
    natural_number,
    patient_id_of,
    random_stream,
)
from cxr.data.phantom.chest import make_chest
from cxr.data.phantom.coordinates import Shot, View, draw_shot, make_view, pixel_centres
from cxr.data.phantom.distractors import draw_distractors
from cxr.data.phantom.drawing import ramp
from cxr.data.phantom.lesions import LESIONS
from cxr.data.phantom.marker import TOKENS, burn_marker, side_marker, token
from cxr.data.phantom.patients import draw_person

MARKERS: tuple[str, ...] = ("side", "class", "random")
MIN_SIZE = 32


@dataclass(frozen=True)
class Phantom:
    """One rendered image: `image` uint8, `lesion_mask`, `lung_mask`, `marker_mask` bool, each [size, size]."""

    image: np.ndarray
    lesion_mask: np.ndarray
    lung_mask: np.ndarray
    marker_mask: np.ndarray
    label: str
    patient_id: str
    image_id: str


def render(
    seed: int, index: int, size: int = 224, *, lesion_contrast: float = 1.0, marker: str = "side"
) -> Phantom:
    """Image `index` of the data set `seed`, at `size` x `size` pixels; dense is bright.

    The same arguments always give the same bytes.

    Args:
        seed, index: 0 or more.
        size: in pixels, at least MIN_SIZE.
        lesion_contrast: 0 or more; multiplies the density of every lesion, which sets the difficulty. With 0
            lesions are invisible. The masks do not depend on it.
        marker: what is burned into the image. Nothing else in the image depends on it.
            "side": in three of four images a letter, L or R, that is independent of the class.
            "class": in every image a token: a bright glyph on a black plate in an upper corner or below the
            diaphragm, outside the lungs except for a rare edge. Each class has its own glyph.
            "random": the same token at the same place, but with a random glyph of the five.

    The masks of the result:
        lung_mask: the aerated lung between chest wall, diaphragm and mediastinum with heart, without the lung
            behind these.
        lesion_mask: pixels where the envelope of a lesion, cut off by the lung, exceeds MASK_FRACTION of its
            maximum (for each nodule and cavity separately). The envelope is the density without holes: the lumen
            of a cavity, the meshes of a reticular pattern and air bronchograms belong to the lesion, the faint
            halo of a cavity does not. Only normal images have an empty mask. Lesion pixels outside the lung mask
            lie within LUNG_EDGE of it.
        marker_mask: the bounding box of the marker with every pixel that it touches; empty without a marker.

    Raises InputError for other arguments.
    """
    seed, index, size = natural_number(seed, "seed"), natural_number(index, "index"), natural_number(size, "size")
    if size < MIN_SIZE:
        raise InputError(f"size must be {MIN_SIZE} or more, not {size}: lesions vanish in smaller images.")
    if not (isinstance(lesion_contrast, Real) and np.isfinite(lesion_contrast) and lesion_contrast >= 0):
        raise InputError(f"lesion_contrast must be a finite number, 0 or more, not {lesion_contrast!r}.")
    if marker not in MARKERS:
        raise InputError(f"marker must be one of {', '.join(MARKERS)}, not {marker!r}.")
    label, patient = identity(seed, index)
    person = draw_person(random_stream(seed, Stream.PATIENT, patient))
    rng = random_stream(seed, Stream.IMAGE, index)
    shot = draw_shot(rng)
    view = make_view(size, shot)
    chest = make_chest(person, shot, view)
    density = draw_anatomy(person, shot, view, chest)
    density += draw_distractors(rng, person, view, chest)
    lesion, mask = LESIONS[CLASSES[label]](
        random_stream(seed, Stream.LESION, patient), random_stream(seed, Stream.LESION_IMAGE, index), view, chest
    )
    if lesion is not None:
        density += np.float32(lesion_contrast) * lesion
    image = _expose(density, shot, view, random_stream(seed, Stream.NOISE, index))
    if marker == "side":
        burned = side_marker(seed, index)
    else:
        burned = token(seed, index)
        if marker == "class":
            burned = burned._replace(glyph=TOKENS[label])
    marker_mask = burn_marker(image, burned)
    return Phantom(
        image=np.rint(image * 255).astype(np.uint8),
        lesion_mask=mask,
        lung_mask=chest.lung > 0.5,
        marker_mask=marker_mask,
        label=CLASSES[label],
        patient_id=patient_id_of(seed, patient),
        image_id=image_id_of(seed, index),
    )


def render_stack(
    seed: int,
    indices: Sequence[int],
    size: int = 224,
    *,
    lesion_contrast: float = 1.0,
    marker: str = "side",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`render` for several indices: images uint8, lesion, lung and marker masks bool, each [n, size, size]."""
    indices = list(indices)
    size = natural_number(size, "size")
    stacks = tuple(np.zeros((len(indices), size, size), dtype) for dtype in (np.uint8, bool, bool, bool))
    for row, index in enumerate(indices):
        phantom = render(seed, index, size, lesion_contrast=lesion_contrast, marker=marker)
        fields = phantom.image, phantom.lesion_mask, phantom.lung_mask, phantom.marker_mask
        for stack, values in zip(stacks, fields, strict=True):
            stack[row] = values
    return stacks


def _expose(density: np.ndarray, shot: Shot, view: View, rng: np.random.Generator) -> np.ndarray:
    """Grey values 0 to 1: blur, quantum noise, exposure curve, collimation."""
    size = view.size
    centres = pixel_centres(size)
    density = gaussian_filter(density, shot.blur * size / 2, truncate=3.0)
    # Beer-Lambert: the number of photons falls as exp(-density), so relative noise grows as exp(density / 2).
    # Photons per pixel are proportional to its area, so averaged pixels have the noise of the coarser image.
    noise = rng.standard_normal((size, size), dtype=np.float32)
    density += np.float32(shot.quanta * size / 224) * noise * np.exp(density * np.float32(0.9))
    density += np.float32(shot.tilt[0]) * centres[None, :] + np.float32(shot.tilt[1]) * centres[:, None]
    grey = 1 / (1 + np.exp((np.float32(shot.level) - density) * np.float32(1 / shot.latitude)))
    left, right, top, bottom = (2 * edge for edge in shot.collimation)
    if left or right:
        grey *= (ramp(centres + 1 - left, 0.01) * ramp(1 - right - centres, 0.01))[None, :]
    if top or bottom:
        grey *= (ramp(centres + 1 - top, 0.01) * ramp(1 - bottom - centres, 0.01))[:, None]
    return grey
