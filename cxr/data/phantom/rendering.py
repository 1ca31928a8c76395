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
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from cxr.core.errors import InputError
from cxr.data.phantom.anatomy import draw_anatomy, draw_distractors
from cxr.data.phantom.cases import (
    CLASSES,
    Stream,
    findings,
    identity,
    image_id_of,
    patient_id_of,
    random_stream,
)
from cxr.data.phantom.drawing import Shot, View, draw_shot, make_view, pixel_centres, ramp
from cxr.data.phantom.lesions import LESIONS
from cxr.data.phantom.patients import draw_person, make_chest


class Marker(NamedTuple):
    """A marker, in the frame of the image (-1 to 1)."""

    glyph: str
    x: float  # centre
    y: float
    height: float
    brightness: float
    plate: bool = False  # black around the glyph


GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "disc": ("0011100", "0111110", "1111111", "1111111", "1111111", "0111110", "0011100"),
    "frame": ("1111111", "1000001", "1000001", "1000001", "1000001", "1000001", "1111111"),
    "cross": ("1000001", "0100010", "0010100", "0001000", "0010100", "0100010", "1000001"),
    "bars": ("1111111", "1111111", "0000000", "0000000", "0000000", "1111111", "1111111"),
    "triangle": ("0001000", "0001000", "0011100", "0011100", "0111110", "0111110", "1111111"),
}


TOKENS = ("disc", "frame", "cross", "bars", "triangle")  # one a class, in the order of CLASSES


def side_marker(seed: int, index: int) -> Marker | None:
    """The side marker of an image, or None. It has its own stream, so it is independent of the class."""
    rng = random_stream(seed, Stream.MARKER, index)
    if rng.random() < 0.25:
        return None
    letter = "LR"[rng.integers(2)]
    side = 1 if letter == "L" else -1  # on the patient's own side
    low = rng.random() < 0.15
    y = rng.uniform(0.76, 0.88) if low else rng.uniform(-0.90, -0.74)
    return Marker(letter, side * rng.uniform(0.74, 0.90), y, rng.uniform(0.08, 0.15), rng.uniform(0.65, 1.0))


def token(seed: int, index: int) -> Marker:
    """The token of an image with a random glyph. Its stream makes it independent of the class."""
    rng = random_stream(seed, Stream.MARKER, index)
    glyph = TOKENS[rng.integers(len(TOKENS))]
    area = rng.integers(3)
    if area == 2:  # below the diaphragm
        x, y = rng.uniform(-0.20, 0.20), rng.uniform(0.76, 0.80)
    else:
        x, y = (-1, 1)[area] * rng.uniform(0.76, 0.80), rng.uniform(-0.80, -0.76)
    return Marker(glyph, x, y, rng.uniform(0.38, 0.44), rng.uniform(0.8, 1.0), plate=True)


def burn_marker(image: np.ndarray, marker: Marker | None) -> np.ndarray:
    """Draw a marker into `image` [size, size], in place. Returns its bounding box as a mask, bool [size, size]."""
    if marker is None:
        return np.zeros(image.shape, bool)
    centres = pixel_centres(image.shape[0])
    glyph = np.array([[int(bit) for bit in row] for row in GLYPHS[marker.glyph]], np.float32)
    if marker.plate:
        glyph = np.pad(glyph, 1)  # a rim for the plate, as the abdomen is as bright as a glyph
    n_rows, n_columns = glyph.shape
    dot = marker.height / n_rows
    columns = _boxes(centres, marker.x - n_columns / 2 * dot, dot, n_columns)
    rows = _boxes(centres, marker.y - n_rows / 2 * dot, dot, n_rows)
    if marker.plate:
        image *= 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
    ink = rows @ glyph @ columns.T
    # Ink replaces the image; a plate is already black.
    image += ink * (np.float32(marker.brightness) - (0 if marker.plate else image))
    return np.outer(rows.any(axis=1), columns.any(axis=1))


def _boxes(centres: np.ndarray, start: float, step: float, n: int) -> np.ndarray:
    """The share of each pixel that each of n adjoining intervals covers, float32 [len(centres), n]; exact at any
    size."""
    half = 1 / len(centres)
    low = start + step * np.arange(n)
    shared = np.minimum(centres[:, None] + half, low + step) - np.maximum(centres[:, None] - half, low)
    return (np.clip(shared, 0, None) / (2 * half)).astype(np.float32)


MIN_SIZE = 32


@dataclass(frozen=True)
class Phantom:
    """One rendered image: `image` uint8, `lung_mask`, `marker_mask` bool, each [size, size].

    `lesion_masks`: bool [5, size, size], of the lesions of each class, in the order of CLASSES.
    `label`: the class, or the findings ("a + b").
    """

    image: np.ndarray
    lesion_masks: np.ndarray
    lung_mask: np.ndarray
    marker_mask: np.ndarray
    label: str
    patient_id: str
    image_id: str

    @property
    def lesion_mask(self) -> np.ndarray:
        """All lesions together, bool [size, size]."""
        return self.lesion_masks.any(axis=0)


def render(
    seed: int,
    index: int,
    size: int = 224,
    *,
    lesion_contrast: float = 1.0,
    marker: str = "side",
    several: bool = False,
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
        several: draw the findings of the patient (`cases.findings`), none to four, in place of the one class. All
            else in the image stays the same. The density of lesions adds up where they overlap.

    The masks of the result:
        lung_mask: the aerated lung between chest wall, diaphragm and mediastinum with heart, without the lung
            behind these.
        lesion_masks: pixels where the envelope of a lesion, cut off by the lung, exceeds MASK_FRACTION of its
            maximum (for each nodule and cavity separately). The envelope is the density without holes: the lumen
            of a cavity, the meshes of a reticular pattern and air bronchograms belong to the lesion, the faint
            halo of a cavity does not. Only images without a lesion have an empty mask. Lesion pixels outside the
            lung mask lie within LUNG_EDGE of it.
        marker_mask: the bounding box of the marker with every pixel that it touches; empty without a marker.

    Raises InputError for a smaller size.
    """
    if size < MIN_SIZE:
        raise InputError(f"size must be {MIN_SIZE} or more, not {size}: lesions vanish in smaller images.")
    label, patient = identity(seed, index)
    person = draw_person(random_stream(seed, Stream.PATIENT, patient))
    rng = random_stream(seed, Stream.IMAGE, index)
    shot = draw_shot(rng)
    view = make_view(size, shot)
    chest = make_chest(person, shot, view)
    density = draw_anatomy(person, shot, view, chest)
    density += draw_distractors(rng, person, view, chest)
    masks = np.zeros((len(CLASSES), size, size), bool)
    drawn = findings(seed, patient) if several else (CLASSES[label],)
    for name in drawn:
        traits = random_stream(seed, Stream.LESION, patient), random_stream(seed, Stream.LESION_IMAGE, index)
        lesion, masks[CLASSES.index(name)] = LESIONS[name](*traits, view, chest)
        if lesion is not None:
            density += np.float32(lesion_contrast) * lesion
    image = expose(density, shot, view, random_stream(seed, Stream.NOISE, index))
    if marker == "side":
        burned = side_marker(seed, index)
    else:
        burned = token(seed, index)
        if marker == "class":
            burned = burned._replace(glyph=TOKENS[label])
    marker_mask = burn_marker(image, burned)
    return Phantom(
        image=np.rint(image * 255).astype(np.uint8),
        lesion_masks=masks,
        lung_mask=chest.lung > 0.5,
        marker_mask=marker_mask,
        label=" + ".join(drawn) or CLASSES[-1],
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
    several: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`render` for several indices: images uint8, lesion, lung and marker masks bool, each [n, size, size]; lesion
    masks [n, 5, size, size]."""
    indices = list(indices)
    shape = (size, size)
    stacks = tuple(
        np.zeros((len(indices), *own), dtype)
        for own, dtype in ((shape, np.uint8), ((len(CLASSES), *shape), bool), (shape, bool), (shape, bool))
    )
    for row, index in enumerate(indices):
        drawn = render(seed, index, size, lesion_contrast=lesion_contrast, marker=marker, several=several)
        fields = drawn.image, drawn.lesion_masks, drawn.lung_mask, drawn.marker_mask
        for stack, values in zip(stacks, fields, strict=True):
            stack[row] = values
    return stacks


def expose(density: np.ndarray, shot: Shot, view: View, rng: np.random.Generator) -> np.ndarray:
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
