"""The embedded data set: procedurally generated frontal chest radiographs of five classes.

Nothing here is measured from patients. A picture is built in the attenuation domain: soft tissue, minus
the air of the lungs, plus bones, vessels, distractors and lesions; then blur, detector noise and an
exposure curve.
Every shape is a function of continuous coordinates, so that an index is the same picture at every size.

The canonical frame has x to the image's right (the patient's left) and y downwards, both in [-1, 1] over an
image without pose; lengths in this module are in that unit (1 is half the image's side).

Random streams are separate (`_rng`), so that anatomy, pose, distractors, exposure and marker are
independent of the class by construction: the class enters through the lesions alone. The one exception is asked
for by name: with `marker="class"` a token outside the lungs shows the class, a shortcut for a network to take.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from cxr.core.errors import InputError

CLASSES: tuple[str, ...] = ("cavities", "consolidation", "ground_glass", "interstitial", "normal")
MARKERS: tuple[str, ...] = ("side", "class", "random")

MASK_FRACTION = 0.25
"""A pixel belongs to a lesion where the density envelope exceeds this fraction of its own maximum."""

LUNG_EDGE = 0.012
"""Half-width of the lung's soft edge (canonical unit): no lesion pixel lies farther outside the lung along x
(chest wall, mediastinum) or y (diaphragm)."""

MIN_SIZE = 32

# One cycle of the catalogue: 18 rounds of one image of every class. Per class 12 patients, a quarter of
# them with several images: 9 x 1 + 2 + 3 + 4 = 18.
_VISITS = (1,) * 9 + (2, 3, 4)
_ROUNDS = sum(_VISITS)
_CYCLE_IMAGES = _ROUNDS * len(CLASSES)
_CYCLE_PATIENTS = len(_VISITS) * len(CLASSES)

# Streams of random numbers.
_CATALOGUE, _PATIENT, _IMAGE, _MARKER, _NOISE, _LESION, _LESION_IMAGE = range(7)


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


# --- who is who -----------------------------------------------------------------------------------


def catalogue(n_images: int, seed: int) -> pd.DataFrame:
    """The first `n_images` images of the data set `seed`: columns index, image_id, label, patient_id.

    Every five consecutive images (from a multiple of five on) hold each class once, so that class counts
    differ by one at most. A patient has one class; one patient in four has two to four images. A row
    depends on (seed, index) alone: a shorter catalogue is the beginning of a longer one.

    Raises InputError for a negative `n_images` or `seed`.
    """
    n_images, seed = _natural(n_images, "n_images"), _natural(seed, "seed")
    rows = [_identity(seed, index) for index in range(n_images)]
    return pd.DataFrame(
        {
            "index": np.arange(n_images, dtype=np.int64),
            "image_id": pd.Series([_image_id(seed, index) for index in range(n_images)], dtype=str),
            "label": pd.Series([CLASSES[label] for label, _ in rows], dtype=str),
            "patient_id": pd.Series([_patient_id(seed, patient) for _, patient in rows], dtype=str),
        }
    )


def _identity(seed: int, index: int) -> tuple[int, int]:
    """Class number and patient number of an image."""
    cycle, place = divmod(index, _CYCLE_IMAGES)
    return _cycle(seed, cycle)[place]


@lru_cache(maxsize=256)
def _cycle(seed: int, cycle: int) -> tuple[tuple[int, int], ...]:
    """(class, patient) of the images of one cycle. Shuffled numbers: a patient's id tells no class."""
    rng = _rng(seed, _CATALOGUE, cycle)
    numbers = rng.permutation(_CYCLE_PATIENTS).reshape(len(CLASSES), len(_VISITS)) + cycle * _CYCLE_PATIENTS
    visits = [rng.permutation(np.repeat(row, _VISITS)) for row in numbers]
    order = [rng.permutation(len(CLASSES)) for _ in range(_ROUNDS)]
    return tuple((int(c), int(visits[c][r])) for r in range(_ROUNDS) for c in order[r])


def _image_id(seed: int, index: int) -> str:
    return f"phantom-s{seed}-{index:06d}"


def _patient_id(seed: int, patient: int) -> str:
    return f"p{seed}-{patient:05d}"


def _rng(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, stream, number]))


def _natural(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, not {value!r}.") from None
    if number < 0:
        raise InputError(f"{name} must be 0 or more, not {number}.")
    return number


# --- rendering ------------------------------------------------------------------------------------


def render(
    seed: int, index: int, size: int = 224, *, lesion_contrast: float = 1.0, marker: str = "side"
) -> Phantom:
    """Image `index` of the data set `seed`, at `size` x `size` pixels.

    `lesion_contrast` multiplies the density of every lesion (0 leaves none to be seen, and the masks as they
    are); difficulty is tuned with it. The image is uint8, dense is bright. Same bytes for the same arguments,
    whatever was rendered before.

    `lung_mask`: the aerated lung between chest wall, diaphragm and mediastinum with heart (not the lung
    behind those).
    `lesion_mask`: pixels where the density envelope of a lesion, cut off by the lung, exceeds MASK_FRACTION
    of its maximum, each nodule and cavity by itself. The envelope is the density without its holes: the
    lumen of a cavity, the meshes of a reticular pattern and air bronchograms count as lesion; a cavity's
    faint halo does not. The mask does not depend on `lesion_contrast`, and is empty for normal images
    alone. Lesion pixels outside the lung mask lie within LUNG_EDGE of it.
    `marker_mask`: the bounding box of the marker, which holds every pixel that it touches; empty without one.

    `marker` says what is burned in, and nothing else of the image depends on it:
    - "side": in three images of four a letter, L or R, that has nothing to do with the class;
    - "class": in every image a token, a bright glyph on a black plate in an upper corner or below the diaphragm,
      outside the lungs but for a rare edge; each class has a glyph of its own, so that the token betrays it;
    - "random": the same token at the same place, its glyph one of the five at random, whatever the class.

    Raises InputError for a negative seed or index, a size under MIN_SIZE, a contrast that is negative or
    not finite, and an unknown marker.
    """
    seed, index, size = _natural(seed, "seed"), _natural(index, "index"), _natural(size, "size")
    if size < MIN_SIZE:
        raise InputError(f"size must be {MIN_SIZE} or more, not {size}: lesions vanish in smaller images.")
    if not (isinstance(lesion_contrast, Real) and np.isfinite(lesion_contrast) and lesion_contrast >= 0):
        raise InputError(f"lesion_contrast must be a finite number, 0 or more, not {lesion_contrast!r}.")
    if marker not in MARKERS:
        raise InputError(f"marker must be one of {', '.join(MARKERS)}, not {marker!r}.")
    label, patient = _identity(seed, index)
    person = _person(_rng(seed, _PATIENT, patient))
    rng = _rng(seed, _IMAGE, index)
    shot = _shot(rng)
    view = _view(size, shot)
    chest = _chest(person, shot, view)
    density = _anatomy(person, shot, view, chest)
    density += _distractors(rng, person, view, chest)
    lesion, mask = _LESIONS[CLASSES[label]](
        _rng(seed, _LESION, patient), _rng(seed, _LESION_IMAGE, index), view, chest
    )
    if lesion is not None:
        density += np.float32(lesion_contrast) * lesion
    image = _expose(density, shot, view, _rng(seed, _NOISE, index))
    if marker == "side":
        burned = _marker(seed, index)
    else:
        burned = _token(seed, index)
        if marker == "class":
            burned = burned._replace(glyph=_TOKENS[label])
    marker_mask = _burn_marker(image, burned)
    return Phantom(
        image=np.rint(image * 255).astype(np.uint8),
        lesion_mask=mask,
        lung_mask=chest.lung > 0.5,
        marker_mask=marker_mask,
        label=CLASSES[label],
        patient_id=_patient_id(seed, patient),
        image_id=_image_id(seed, index),
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
    size = _natural(size, "size")
    stacks = tuple(np.zeros((len(indices), size, size), dtype) for dtype in (np.uint8, bool, bool, bool))
    for row, index in enumerate(indices):
        phantom = render(seed, index, size, lesion_contrast=lesion_contrast, marker=marker)
        fields = phantom.image, phantom.lesion_mask, phantom.lung_mask, phantom.marker_mask
        for stack, values in zip(stacks, fields, strict=True):
            stack[row] = values
    return stacks


# --- patient, pose, coordinates -------------------------------------------------------------------


class _Person(NamedTuple):
    """What stays with a patient. Lengths in the canonical unit; a density of 1 is a mean soft tissue path."""

    width: float  # half-width of the thoracic cavity
    top: float  # y of the lung apices
    dome: float  # y of the right dome at mid inspiration
    dome_gap: float  # how much lower the left dome is
    heart: float  # scale of the heart's width
    knob: float  # aortic knob
    habitus: float  # soft tissue, 1 is average
    bone: float  # bone density
    rib_pitch: float
    rib_start: float
    rib_drop: float
    scapula: float  # density of the scapulae over the lungs (arms rolled forward or not)
    breast: float  # density of breast shadows, 0 for none
    breast_y: float
    gas: float  # gastric bubble
    vessels: float  # prominence of the vessels
    markings: float  # prominence of fine interstitial markings, healthy range
    cartilage: float  # calcified rib cartilage
    tree: tuple[np.ndarray, np.ndarray, np.ndarray]  # vessel points: xy [n, 2], radius [n], length [n]
    lattice: np.ndarray  # noise of the fine markings
    soft: np.ndarray  # noise of muscle and fat


class _Shot(NamedTuple):
    """What changes with every exposure."""

    shift: tuple[float, float]
    angle: float
    scale: float
    turn: float  # rotation about the long axis, as a sideways shift of the mid-line structures
    breath: float  # diaphragm, y
    level: float  # density that becomes mid-grey
    latitude: float  # width of the exposure curve
    tilt: tuple[float, float]  # uneven exposure across the field
    quanta: float  # noise
    blur: float
    collimation: tuple[float, float, float, float]  # black borders: left, right, top, bottom


class _View(NamedTuple):
    """Canonical coordinates of the pixels of a size under a pose."""

    size: int
    shot: _Shot
    x: np.ndarray  # [size, size]
    y: np.ndarray
    ix: np.ndarray  # indices into tables over x and over y
    iy: np.ndarray


class _Chest(NamedTuple):
    lung: np.ndarray  # soft lung mask, 0 to 1
    wall: np.ndarray  # |x| over the half-width of the cavity
    width: np.ndarray  # that half-width, table over y
    medial: tuple[np.ndarray, np.ndarray]  # mediastinal borders, image left and right, tables over y
    dome: np.ndarray  # y of the diaphragm, table over x


_TABLE_SPAN, _TABLE_STEPS = 1.6, 4096
_GRID = np.linspace(-_TABLE_SPAN, _TABLE_SPAN, _TABLE_STEPS, dtype=np.float32)
_GRID.setflags(write=False)


def _person(rng: np.random.Generator) -> _Person:
    female = rng.random() < 0.45
    return _Person(
        width=rng.uniform(0.68, 0.79),
        top=rng.uniform(-0.84, -0.74),
        dome=rng.uniform(0.37, 0.52),
        dome_gap=rng.uniform(0.0, 0.08),
        heart=rng.uniform(0.86, 1.18),
        knob=rng.uniform(0.0, 1.0),
        habitus=rng.normal(1.0, 0.07),
        bone=rng.uniform(0.75, 1.25),
        rib_pitch=rng.uniform(0.146, 0.172),
        rib_start=rng.uniform(-0.86, -0.80),
        rib_drop=rng.uniform(0.40, 0.58),
        scapula=rng.uniform(0.0, 1.0),
        breast=rng.uniform(0.05, 0.16) if female else 0.0,
        breast_y=rng.uniform(0.22, 0.40),
        gas=rng.uniform(0.0, 1.0),
        vessels=rng.uniform(0.6, 1.2),
        markings=rng.beta(1.5, 3.0),
        cartilage=max(0.0, rng.uniform(-1.0, 1.0)),
        tree=_vessel_tree(rng),
        lattice=rng.standard_normal((72, 72), dtype=np.float32),
        soft=rng.standard_normal((20, 20), dtype=np.float32),
    )


def _shot(rng: np.random.Generator) -> _Shot:
    edges = np.where(rng.random(4) < 0.12, rng.uniform(0.005, 0.03, 4), 0.0)
    return _Shot(
        shift=(rng.normal(0.0, 0.03), rng.normal(0.0, 0.03)),
        angle=np.deg2rad(rng.normal(0.0, 1.8)),
        scale=rng.uniform(0.93, 1.10),
        turn=rng.normal(0.0, 0.016),
        breath=rng.normal(0.0, 0.035),
        level=rng.normal(0.80, 0.075),
        latitude=rng.uniform(0.18, 0.28),
        tilt=(rng.normal(0.0, 0.05), rng.normal(0.0, 0.04)),
        quanta=rng.uniform(0.004, 0.015),
        blur=rng.uniform(0.0035, 0.0075),
        collimation=tuple(edges),
    )


@lru_cache(maxsize=16)
def _pixel_centres(size: int) -> np.ndarray:
    centres = ((np.arange(size) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    centres.setflags(write=False)
    return centres


def _view(size: int, shot: _Shot) -> _View:
    centres = _pixel_centres(size)
    u = (centres - shot.shift[0])[None, :] / np.float32(shot.scale)
    v = (centres - shot.shift[1])[:, None] / np.float32(shot.scale)
    cos, sin = np.float32(np.cos(shot.angle)), np.float32(np.sin(shot.angle))
    x, y = cos * u + sin * v, cos * v - sin * u
    return _View(size, shot, x, y, _table_index(x), _table_index(y))


def _table_index(values: np.ndarray) -> np.ndarray:
    scaled = (values + np.float32(_TABLE_SPAN)) * np.float32((_TABLE_STEPS - 1) / (2 * _TABLE_SPAN)) + 0.5
    return np.clip(scaled, 0, _TABLE_STEPS - 1).astype(np.int32)


def _to_pixels(view: _View, xy: np.ndarray) -> np.ndarray:
    """Canonical points [n, 2] in pixel units [n, 2] (x, y); the centre of the first pixel is 0."""
    shot = view.shot
    cos, sin = np.cos(shot.angle), np.sin(shot.angle)
    image = np.stack([cos * xy[:, 0] - sin * xy[:, 1], sin * xy[:, 0] + cos * xy[:, 1]], axis=1)
    image = image * shot.scale + np.array(shot.shift)
    return (image + 1.0) * (view.size / 2) - 0.5


# --- drawing --------------------------------------------------------------------------------------


def _ramp(distance: np.ndarray, half_width: float) -> np.ndarray:
    """0 to 1 over `distance` from -half_width to half_width, smooth (Hermite)."""
    t = distance * np.float32(0.5 / half_width)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    # In place: the most frequent operation of all.
    curve = t * np.float32(-2)
    curve += np.float32(3)
    curve *= t
    curve *= t
    return curve


def _spline_table(knots: Sequence[tuple[float, float]]) -> np.ndarray:
    at, values = zip(*knots, strict=True)
    inside = np.clip(_GRID, at[0], at[-1])
    return PchipInterpolator(at, values)(inside).astype(np.float32)


def _spline_weights(coordinates: np.ndarray, n: int) -> np.ndarray:
    """Weights [len(coordinates), n] of a uniform cubic B-spline with n coefficients over [-1.5, 1.5]."""
    position = (coordinates + 1.5) * ((n - 4) / 3.0) + 1.0
    first = np.clip(np.floor(position), 1, n - 3).astype(int)
    t = np.clip(position - first, 0.0, 1.0)
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    weights = np.zeros((len(coordinates), n), np.float32)
    rows = np.arange(len(coordinates))
    for tap in range(4):
        weights[rows, first + tap - 1] = taps[tap]
    return weights


def _texture(view: _View, lattice: np.ndarray) -> np.ndarray:
    """Smooth noise, about standard normal: a B-spline surface through white noise.

    It follows shift and scale of the pose, not the rotation, which a product of two matrices cannot."""
    centres, shot = _pixel_centres(view.size), view.shot
    rows = _spline_weights((centres - shot.shift[1]) / shot.scale, lattice.shape[0])
    columns = _spline_weights((centres - shot.shift[0]) / shot.scale, lattice.shape[1])
    # 151/315 is the mean over the phase of the sum of squared weights, once per axis.
    return (rows @ lattice @ columns.T) * np.float32(315 / 151)


def _splat(view: _View, xy: np.ndarray, area: np.ndarray, sigma: float) -> np.ndarray:
    """Density of points blurred by `sigma`: each adds `area` (density x canonical area) in all."""
    size = view.size
    points = _to_pixels(view, xy)
    inside = np.all((points > -1) & (points < size), axis=1)
    points = points[inside] + 1
    weight = area[inside] * (size / 2) ** 2
    corner = np.floor(points).astype(int)
    (fx, fy), (cx, cy) = (points - corner).T, corner.T
    span = size + 3
    at = np.concatenate([cy * span + cx, cy * span + cx + 1, (cy + 1) * span + cx, (cy + 1) * span + cx + 1])
    share = np.concatenate([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])
    grid = np.bincount(at, weights=np.tile(weight, 4) * share, minlength=span * span).astype(np.float32)
    field = grid.reshape(span, span)[1 : size + 1, 1 : size + 1]
    return gaussian_filter(field, sigma * view.shot.scale * size / 2, mode="constant", truncate=3.0)


class _Patch(NamedTuple):
    where: tuple[slice, slice]
    dx: np.ndarray  # canonical offsets from the centre
    dy: np.ndarray


def _patch(view: _View, x: float, y: float, reach: float) -> _Patch | None:
    """The pixels within `reach` of a point, None if there are none."""
    ((px, py),) = _to_pixels(view, np.array([[x, y]]))
    half = reach * view.shot.scale * view.size / 2 + 1
    left, right = max(0, int(px - half)), min(view.size, int(px + half) + 2)
    top, bottom = max(0, int(py - half)), min(view.size, int(py + half) + 2)
    if left >= right or top >= bottom:
        return None
    where = (slice(top, bottom), slice(left, right))
    return _Patch(where, view.x[where] - np.float32(x), view.y[where] - np.float32(y))


# --- anatomy --------------------------------------------------------------------------------------


def _chest(person: _Person, shot: _Shot, view: _View) -> _Chest:
    """Lungs: the cavity, cut by mediastinum with heart, and by the diaphragm."""
    broadest = 0.42
    rise = np.clip((broadest - _GRID) / (broadest - person.top), 0, 1)
    apex = 0.29 * person.width / 0.74
    width = apex + (person.width - apex) * (1 - rise**2.2) ** 0.66
    width = np.where(_GRID > broadest, person.width - 0.06 * (_GRID - broadest) ** 2, width)
    # The medial contour leans out towards the apex, which makes it a dome.
    lean = apex - (apex - 0.09) * np.sqrt(1 - np.clip((rise - 0.72) / 0.28, 0, 1) ** 2)
    h, k = person.heart, person.knob
    sink = 0.6 * shot.breath
    left = _spline_table([(-1.3, 0.10), (-0.62, 0.105), (-0.50, 0.12), (-0.37, 0.145 + 0.055 * k),
                          (-0.25, 0.122), (-0.13 + sink, 0.15), (-0.03 + sink, 0.165),
                          (0.12 + sink, 0.25 * h), (0.27 + sink, 0.345 * h), (0.40 + sink, 0.395 * h),
                          (0.52 + sink, 0.40 * h), (0.70 + sink, 0.42 * h)])  # fmt: skip
    right = _spline_table([(-1.3, 0.10), (-0.62, 0.11), (-0.45, 0.12), (-0.25, 0.112), (-0.08 + sink, 0.128),
                           (0.08 + sink, 0.165 * h), (0.24 + sink, 0.20 * h), (0.40 + sink, 0.195 * h),
                           (0.55 + sink, 0.19 * h), (0.70 + sink, 0.19 * h)])  # fmt: skip
    right, left = np.maximum(right - shot.turn, lean), np.maximum(left + shot.turn, lean)
    side = np.abs(_GRID)
    crest = 0.37
    lateral = (side - crest) / (person.width - crest)
    fall = np.where(lateral > 0, 0.30 * np.clip(lateral, 0, 1.4) ** 1.9, 0.12 * lateral**2)
    dome = person.dome + shot.breath + fall + np.where(_GRID > 0, person.dome_gap, 0)
    width, dome = width.astype(np.float32), dome.astype(np.float32)
    right, left = right.astype(np.float32), left.astype(np.float32)
    half = width[view.iy]
    away = np.abs(view.x)
    border = np.where(view.x > 0, left[view.iy], right[view.iy])
    top = view.y - np.float32(person.top)
    lung = _ramp(half - away, LUNG_EDGE) * _ramp(away - border, LUNG_EDGE) * _ramp(top, LUNG_EDGE)
    lung *= _ramp(dome[view.ix] - view.y, LUNG_EDGE)
    return _Chest(lung, away / half, width, (right, left), dome)


def _anatomy(person: _Person, shot: _Shot, view: _View, chest: _Chest) -> np.ndarray:
    x, y, lung = view.x, view.y, chest.lung
    side = np.abs(x)
    body = _body(person, view)
    density = body.copy()
    # Air: deepest in the middle of each lung; some lung lies behind heart, mediastinum and diaphragm.
    depth = np.sqrt(np.clip(1.02 - np.clip(chest.wall, 0, 1) ** 2.5, 0, 1))
    behind = _ramp(1 - chest.wall, 0.02) * _ramp(chest.dome[view.ix] + 0.10 - y, 0.12)
    behind *= _ramp(y - np.float32(person.top), 0.03)
    density -= depth * (np.float32(0.56) * lung + np.float32(0.10) * behind)
    density += _heart(view, chest)
    density += _bones(person, shot, view, chest)
    density += _airways(shot, view)
    density += _vessels(person, view) * (np.float32(0.15) + np.float32(0.85) * lung)
    # Abdomen: denser than the chest; gas in the fundus.
    below = y - chest.dome[view.ix]
    inside = _ramp(1 - chest.wall, 0.03)
    density += np.float32(0.12) * _ramp(below, 0.02) * inside
    if person.gas > 0.35:
        gx, gy = 0.36, person.dome + person.dome_gap + shot.breath + 0.13
        bubble = ((x - gx) / (0.10 + 0.08 * person.gas)) ** 2 + ((y - gy) / 0.065) ** 2
        density -= np.float32(0.24 * person.gas) * _ramp(1 - bubble, 0.6) * _ramp(below - 0.03, 0.015)
    if person.breast > 0:
        bx, by = 0.42 * person.width / 0.74, person.breast_y
        disc = ((side - bx) / 0.33) ** 2 + (y - by) ** 2 / np.where(y > by, 0.24, 0.42) ** 2
        density += np.float32(person.breast) * _ramp(1 - disc, 0.28)
    density += np.float32(0.018) * _texture(view, person.soft) * body
    fine = _ridges(_texture(view, person.lattice), 0.5)
    density += np.float32(0.085 * person.markings) * fine * lung
    return density


def _body(person: _Person, view: _View) -> np.ndarray:
    """Soft tissue with neck, shoulders and flanks; nothing outside."""
    side = np.abs(_GRID)
    shoulder = -1.02 + 0.50 * np.clip(side - 0.20, 0, None) ** 1.6 - 0.9 * np.clip(0.24 - side, 0, None)
    flank = person.width + 0.19 * person.habitus**3 + 0.28 * (1 - _ramp(_GRID + 0.25, 0.35))
    thick = np.float32(person.habitus) * (np.float32(1.02) - np.float32(0.20) * view.x * view.x)
    thick *= _ramp(view.y - shoulder.astype(np.float32)[view.ix], 0.05)
    return thick * _ramp(flank.astype(np.float32)[view.iy] - np.abs(view.x), 0.035)


def _heart(view: _View, chest: _Chest) -> np.ndarray:
    right, left = chest.medial
    middle, half = (left - right) / 2, (left + right) / 2
    offset = (view.x - middle[view.iy]) / half[view.iy]
    bulk = np.sqrt(np.clip(1 - offset * offset, 0, 1))
    chamber = _ramp(_GRID + 0.02, 0.14).astype(np.float32)[view.iy]
    return bulk * (np.float32(0.06) + np.float32(0.11) * chamber)


def _bones(person: _Person, shot: _Shot, view: _View, chest: _Chest) -> np.ndarray:
    x, y = view.x, view.y
    side = np.abs(x)
    # Scatter and depth wash the ribs out over heart and abdomen.
    bone = _ribs(person, view, chest) * (np.float32(0.45) + np.float32(0.55) * chest.lung)
    # Spine: bodies and discs; it turns less than the front of the chest.
    spine_x = x - np.float32(0.3 * shot.turn)
    bodies = 0.8 + 0.2 * np.cos(_GRID * np.float32(2 * np.pi / 0.145))
    spine = _ramp(np.float32(0.078) - np.abs(spine_x), 0.012) * bodies.astype(np.float32)[view.iy]
    pedicles = np.exp(-(((np.abs(spine_x) - np.float32(0.045)) / np.float32(0.014)) ** 2))
    spine += np.float32(0.35) * pedicles * (bodies > 0.85).astype(np.float32)[view.iy]
    bone += np.float32(0.085) * spine
    # Clavicles: an S from the sternum up and out to the shoulder.
    at = np.abs(_GRID - shot.turn)
    along = (at - 0.06) / 0.67
    centre = person.top + 0.26 - 0.15 * along - 0.035 * np.sin(2 * np.pi * np.clip(along, 0, 1))
    girth = 0.026 + 0.018 * np.exp(-((along / 0.12) ** 2)) + 0.008 * along
    shaft = _ramp(along - 0.02, 0.03) * _ramp(1.12 - along, 0.06)
    gap = (y - centre.astype(np.float32)[view.ix]) / girth.astype(np.float32)[view.ix]
    bone += np.float32(0.21) * shaft.astype(np.float32)[view.ix] * _tube(gap)
    # Scapulae: a blade between three lines.
    slim = person.width / 0.74
    out = 0.50 + 0.14 * (1 - person.scapula)
    blade = _ramp(side - np.float32(out * slim) - np.float32(0.24) * (y + np.float32(0.55)), 0.02)
    blade *= _ramp(np.float32(0.02) - y - np.float32(1.5) * (side - np.float32(0.80 * slim)), 0.05)
    blade *= _ramp(y + np.float32(0.62) + np.float32(0.15) * (side - np.float32(0.6)), 0.03)
    bone += np.float32(0.10) * blade
    # Humeral heads, at the edge of the picture.
    head = ((side - np.float32(1.04)) / 0.15) ** 2 + ((y + np.float32(0.58)) / 0.15) ** 2
    bone += np.float32(0.11) * _ramp(1 - head, 0.25)
    return np.float32(person.bone) * bone


def _tube(gap: np.ndarray) -> np.ndarray:
    """Profile of a long bone across its axis (-1 to 1): the cortex shows at the edges."""
    square = gap * gap
    return _ramp(1 - square, 0.22) * (np.float32(0.72) + np.float32(0.38) * np.minimum(square, 1))


def _ribs(person: _Person, view: _View, chest: _Chest) -> np.ndarray:
    """Posterior and anterior arcs: level sets of one height field each, so that all ribs cost as one.

    A rib is a tilted ring: its back falls from the spine to the wall, steepest at the wall, and its front
    goes on falling towards the sternum, where it ends in cartilage.
    """
    cage = chest.wall * np.float32(1 / 1.03)
    room = np.sqrt(np.clip(1 - cage * cage, 1e-3, 1))
    within = _ramp(1 - cage, 0.012)
    drop = (np.float32(person.rib_drop) * chest.width)[view.iy]
    reach = chest.width[view.iy]
    round_ = cage / room  # -d(room)/d(cage), steep at the wall

    # Half parabola, half ellipse.
    back = view.y - drop * (np.float32(0.5) * (cage * cage + 1 - room))
    slope = drop * (cage + np.float32(0.5) * round_) / reach
    bone = np.float32(0.125) * _comb(back, slope, person, 0.031) * within

    fall = np.float32(1.05) * drop
    fallen = np.float32(0.35) * room + np.float32(0.65) * (1 - cage)
    front = view.y - drop - fall * fallen - np.float32(0.01)
    slope = fall * (np.float32(0.65) + np.float32(0.35) * round_) / reach
    end = _ramp(cage - np.float32(0.40), 0.06)
    bone += np.float32(0.085) * _comb(front, slope, person, 0.036) * within * end
    if person.cartilage > 0:
        near = np.exp(-(((cage - np.float32(0.37)) / np.float32(0.05)) ** 2))
        bone += np.float32(0.10 * person.cartilage) * _comb(front, slope, person, 0.026) * near
    return bone


def _comb(height: np.ndarray, slope: np.ndarray, person: _Person, girth: float) -> np.ndarray:
    """A tube at every rib's height; `slope` keeps the thickness across the rib, not along y."""
    number = (height - np.float32(person.rib_start)) * np.float32(1 / person.rib_pitch)
    nearest = np.clip(np.rint(number), 0, 10)
    girth = np.float32(girth / person.rib_pitch) * np.sqrt(1 + np.minimum(slope * slope, 100))
    # Ribs that stand on end at the wall would merge.
    return _tube((number - nearest) / np.minimum(girth, np.float32(0.5)))


def _airways(shot: _Shot, view: _View) -> np.ndarray:
    """Trachea and main bronchi: negative density."""
    centre = (shot.turn - 0.018 * _ramp(_GRID + 0.55, 0.3)).astype(np.float32)
    across = (view.x - centre[view.iy]) * np.float32(1 / 0.05)
    tube = np.sqrt(np.clip(1 - across * across, 0, 1)) * _ramp(np.float32(-0.27) - view.y, 0.04)
    steps = np.linspace(0, 1, 48)[:, None]
    carina = np.array([shot.turn - 0.018, -0.29])
    ends = np.array([[-0.17, -0.08], [0.19, -0.13]])
    points = np.concatenate([carina + steps * (end - carina) for end in ends])
    area = np.full(len(points), 0.0055 * 0.2 / 48 * 1.0)
    return np.float32(-0.21) * tube - _splat(view, points, area, 0.018)


def _vessel_tree(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points along two trees that branch from the hila: xy [n, 2], radius [n], length of the piece [n]."""
    steps = 28
    points, radii, pieces = [], [], []
    for sign, hilum in ((-1.0, (-0.155, -0.03)), (1.0, (0.165, -0.08))):
        n = 8
        heading = np.linspace(-1.25, 1.35, n) + rng.normal(0, 0.12, n)  # 0 is sideways, positive is down
        start = np.array(hilum) + rng.normal(0, 1, (n, 2)) * (0.018, 0.045)
        radius = rng.uniform(0.014, 0.021, n)
        reach = rng.uniform(0.17, 0.26, n)
        for _ in range(4):
            bend = rng.normal(0, 0.35, len(heading))
            along = (np.arange(steps) + 0.5) / steps
            angle = heading[:, None] + bend[:, None] * along
            step = (reach / steps)[:, None]
            way = np.stack([sign * np.cos(angle) * step, np.sin(angle) * step], axis=2).cumsum(axis=1)
            way += start[:, None, :]
            points.append(way.reshape(-1, 2))
            radii.append((radius[:, None] * (1 - 0.3 * along)).ravel())
            pieces.append(np.repeat(reach / steps, steps))
            start, heading = np.repeat(way[:, -1], 2, axis=0), np.repeat(angle[:, -1], 2)
            fork = np.tile([-1.0, 1.0], len(heading) // 2)
            heading = heading + fork * rng.uniform(0.15, 0.6, len(heading))
            radius = np.repeat(radius, 2) * rng.uniform(0.55, 0.78, len(heading))
            reach = np.repeat(reach, 2) * rng.uniform(0.6, 0.95, len(heading))
    return np.concatenate(points), np.concatenate(radii), np.concatenate(pieces)


_HILA = ((-0.165, -0.02), (0.18, -0.07))


def _add_haze(density: np.ndarray, view: _View, x: float, y: float, sigma: float, strength: float) -> None:
    patch = _patch(view, x, y, 3 * sigma)
    if patch is not None:
        square = (patch.dx * patch.dx + patch.dy * patch.dy) * np.float32(-0.5 / sigma**2)
        density[patch.where] += np.float32(strength) * np.exp(square)


def _vessels(person: _Person, view: _View) -> np.ndarray:
    xy, radius, piece = person.tree
    area = 0.85 * person.vessels * radius**1.35 * piece
    density = np.zeros((view.size, view.size), np.float32)
    for low, high in ((0.0, 0.0055), (0.0055, 0.0105), (0.0105, 1.0)):
        chosen = (radius >= low) & (radius < high)
        density += _splat(view, xy[chosen], area[chosen], 0.62 * float(radius[chosen].mean()))
    for x, y in _HILA:
        _add_haze(density, view, x, y, 0.07, 0.10 * person.vessels)
    return density


def _ridges(noise: np.ndarray, sharpness: float) -> np.ndarray:
    """A net of lines, 0 to 1: where smooth noise crosses zero."""
    return np.exp(-((noise * np.float32(1 / sharpness)) ** 2))


# --- distractors, in any class --------------------------------------------------------------------


def _distractors(rng: np.random.Generator, person: _Person, view: _View, chest: _Chest) -> np.ndarray:
    density = np.zeros((view.size, view.size), np.float32)
    if rng.random() < 0.25:  # nipples
        x, y, r = 0.40 * person.width / 0.74, rng.uniform(0.22, 0.40), rng.uniform(0.022, 0.034)
        strength = rng.uniform(0.06, 0.14)
        for sign in (-1, 1):
            dx, dy = rng.normal(0, 0.02, 2)
            _add_disc(density, view, sign * x + dx, y + dy, r, strength, 0.5)
    for _ in range(rng.choice([0, 1, 2, 4], p=[0.55, 0.25, 0.12, 0.08])):  # healed granulomas
        x, y = rng.choice([-1, 1]) * rng.uniform(0.22, 0.60), rng.uniform(-0.55, 0.45)
        _add_disc(density, view, x, y, rng.uniform(0.010, 0.022), rng.uniform(0.10, 0.32), 0.35)
    for _ in range(rng.choice([0, 1, 2], p=[0.75, 0.17, 0.08])):  # scars and plate atelectasis
        x, y = rng.choice([-1, 1]) * rng.uniform(0.30, 0.50), rng.uniform(0.05, 0.42)
        strength = rng.uniform(0.1, 0.2)
        density += _cord(view, (x, y), rng.uniform(-0.5, 0.5), rng.uniform(0.12, 0.3), 0.006, strength)
    density *= chest.lung
    if rng.random() < 0.22:  # monitoring leads
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(-0.65, 0.65), rng.uniform(-0.55, 0.5)
            _add_disc(density, view, x, y, rng.uniform(0.022, 0.030), rng.uniform(0.25, 0.5), 0.15)
            t = np.linspace(0, 1, 700)
            bend = rng.normal(0, 0.25)
            end = np.array([x + rng.normal(0, 0.4), -1.3 if rng.random() < 0.6 else 1.3])
            line = np.stack([x + (end[0] - x) * t + bend * np.sin(np.pi * t), y + (end[1] - y) * t], axis=1)
            length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
            density += _splat(view, line, np.full(700, rng.uniform(0.25, 0.5) * 0.010 * length / 700), 0.004)
    return density


def _add_disc(
    density: np.ndarray, view: _View, x: float, y: float, radius: float, strength: float, softness: float
) -> None:
    patch = _patch(view, x, y, radius * (1 + softness))
    if patch is not None:
        r = np.hypot(patch.dx, patch.dy) * np.float32(1 / radius)
        density[patch.where] += np.float32(strength) * _ramp(1 - r, softness)


def _cord(
    view: _View, centre: tuple[float, float], angle: float, length: float, sigma: float, strength: float
) -> np.ndarray:
    t = np.linspace(-0.5, 0.5, 160)
    line = np.array(centre) + length * t[:, None] * np.array([np.cos(angle), np.sin(angle)])
    taper = np.sqrt(1 - (2 * t) ** 2)
    return _splat(view, line, strength * sigma * np.sqrt(2 * np.pi) * length / 160 * taper, sigma)


# --- lesions --------------------------------------------------------------------------------------
#
# Each takes the patient's stream (where, what kind), the image's (extent, opacity), and returns the density
# [size, size] float32 and the mask [size, size] bool.

_Rng = np.random.Generator


def _normal(trait: _Rng, visit: _Rng, view: _View, chest: _Chest) -> tuple[None, np.ndarray]:
    return None, np.zeros((view.size, view.size), bool)


def _above(envelope: np.ndarray) -> np.ndarray:
    return envelope > MASK_FRACTION * envelope.max()


def _consolidation(trait: _Rng, visit: _Rng, view: _View, chest: _Chest) -> tuple[np.ndarray, np.ndarray]:
    """One dense patch, sharp at a fissure now and then, with air bronchograms."""
    sign = trait.choice([-1, 1])
    # Centres of upper, middle (lingula) and lower lobe as (share of the width, y, half-axes, fissure's side).
    share, y, ax, ay, fissure = [
        (0.58, -0.38, 0.23, 0.24, 1), (0.62, 0.13, 0.20, 0.15, -1), (0.60, 0.30, 0.25, 0.22, -1)
    ][trait.integers(3)]  # fmt: skip
    y += trait.normal(0, 0.05)
    grow = np.clip(np.exp(trait.normal(0.0, 0.24) + visit.normal(0, 0.12)), 0.75, 1.6)
    ax, ay = ax * grow * trait.uniform(0.75, 1.2), ay * grow * trait.uniform(0.75, 1.2)
    x = sign * share * _at(chest.width, y) + trait.normal(0, 0.03)
    y = min(y, _at(chest.dome, x) - 0.10)  # a low lung volume must not push it under the diaphragm
    edge = _texture(view, trait.standard_normal((22, 22), dtype=np.float32))
    mottle = _texture(view, trait.standard_normal((46, 46), dtype=np.float32))
    dx, dy = view.x - np.float32(x), view.y - np.float32(y)
    r = np.sqrt((dx / np.float32(ax)) ** 2 + (dy / np.float32(ay)) ** 2)
    envelope = _ramp(1 - r + np.float32(0.17) * edge, 0.38)
    if trait.random() < 0.55:
        slope = sign * trait.uniform(-0.1, 0.35)
        offset = fissure * (dy - np.float32(slope) * dx)
        envelope *= _ramp(np.float32(0.62 * ay) - offset, 0.014)
    envelope *= chest.lung
    bronchi = np.zeros_like(envelope)
    for _ in range(trait.integers(0, 5)):
        away = np.arctan2(y + 0.03, abs(x) - 0.16) + trait.normal(0, 0.35)
        at = (x + trait.normal(0, 0.3 * ax), y + trait.normal(0, 0.3 * ay))
        bronchi += _cord(view, at, away if sign > 0 else np.pi - away, 1.1 * ax, 0.0075, 0.55)
    solid = envelope * (1 + np.float32(0.10) * mottle)
    opacity = 0.33 * np.exp(trait.normal(0, 0.25) + visit.normal(0, 0.1))
    return np.float32(opacity) * solid * np.clip(1 - bronchi, 0.3, 1), _above(envelope)


def _interstitial(trait: _Rng, visit: _Rng, view: _View, chest: _Chest) -> tuple[np.ndarray, np.ndarray]:
    """A net of fine lines through both lungs, most of it at the bases or the periphery, over a faint haze."""
    n = int(trait.integers(62, 84))
    coarse = _texture(view, trait.standard_normal((n, n), dtype=np.float32))
    fine = _texture(view, trait.standard_normal((n + 30, n + 30), dtype=np.float32))
    slow = _texture(view, trait.standard_normal((14, 14), dtype=np.float32))
    basal = trait.uniform(0.35, 0.95)
    rim = trait.uniform(0.0, 0.6)
    reach = visit.normal(0, 0.08)
    zone = 1 - np.float32(basal) * (1 - _ramp(view.y + np.float32(0.10 + reach), 0.5))
    zone *= 1 - np.float32(rim) * (1 - _ramp(chest.wall - np.float32(0.55 - reach), 0.4))
    envelope = chest.lung * zone * np.clip(1 + np.float32(0.30) * slow, np.float32(0.3), np.float32(1.6))
    net = np.float32(0.7) * _ridges(coarse, 0.42) + np.float32(0.45) * _ridges(fine, 0.5)
    opacity = 0.20 * np.exp(trait.normal(0, 0.28) + visit.normal(0, 0.1))
    return np.float32(opacity) * envelope * (net + np.float32(0.12)), _above(envelope)


def _ground_glass(trait: _Rng, visit: _Rng, view: _View, chest: _Chest) -> tuple[np.ndarray, np.ndarray]:
    """Hazy patches in the outer parts of both lungs, more of them below; vessels stay visible."""
    edge = _texture(view, trait.standard_normal((26, 26), dtype=np.float32))
    clear = np.ones((view.size, view.size), np.float32)
    grow = np.exp(visit.normal(0, 0.12))
    for sign in (-1, 1):
        for _ in range(trait.integers(2, 5)):
            y = float(np.clip(trait.normal(0.12, 0.30), -0.55, 0.50))
            x = sign * _at(chest.width, y) * trait.uniform(0.66, 0.92)
            ax, ay = trait.uniform(0.10, 0.19) * grow, trait.uniform(0.12, 0.24) * grow
            weight = trait.uniform(0.55, 1.0)
            patch = _patch(view, x, y, 2.1 * max(ax, ay))
            if patch is not None:
                r = np.sqrt((patch.dx / np.float32(ax)) ** 2 + (patch.dy / np.float32(ay)) ** 2)
                blob = _ramp(1 - r + np.float32(0.24) * edge[patch.where], 0.6)
                clear[patch.where] *= 1 - np.float32(weight) * blob
    envelope = (1 - clear) * chest.lung
    opacity = 0.17 * np.exp(trait.normal(0, 0.28) + visit.normal(0, 0.1))
    return np.float32(opacity) * envelope, _above(envelope)


def _cavities(trait: _Rng, visit: _Rng, view: _View, chest: _Chest) -> tuple[np.ndarray, np.ndarray]:
    """Thick-walled cavities, some with a fluid level, and nodules, in the upper halves of the lungs."""
    density = np.zeros((view.size, view.size), np.float32)
    mask = np.zeros((view.size, view.size), bool)
    opacity = 0.26 * np.exp(trait.normal(0, 0.25) + visit.normal(0, 0.1))
    grow = np.exp(visit.normal(0, 0.08))
    first = trait.choice([-1, 1])
    spots = [(True, trait.uniform(0.060, 0.125)) for _ in range(trait.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))]
    spots += [(False, trait.uniform(0.022, 0.050)) for _ in range(trait.integers(2, 8))]
    for hollow, radius in spots:
        y = trait.uniform(-0.58, -0.10) if hollow else trait.uniform(-0.60, 0.12)
        x = (first if trait.random() < 0.65 else -first) * _at(chest.width, y) * trait.uniform(0.42, 0.84)
        wall = trait.uniform(0.20, 0.42)
        lobes = [(k, trait.normal(0, 0.16 / k**1.5), trait.uniform(0, 2 * np.pi)) for k in (2, 3, 5)]
        level = trait.uniform(0.1, 0.6) if trait.random() < 0.3 else np.inf
        strength = opacity * trait.uniform(0.7, 1.2)
        radius *= grow
        patch = _patch(view, x, y, 1.9 * radius)
        if patch is None:
            continue
        angle = np.arctan2(patch.dy, patch.dx)
        shape = 1 + sum(np.float32(a) * np.cos(k * angle + np.float32(p)) for k, a, p in lobes)
        r = np.hypot(patch.dx, patch.dy) / (np.float32(radius) * shape)
        lung = chest.lung[patch.where]
        outside = _ramp(1 - r, 0.30 if hollow else 0.45)
        envelope = outside * lung
        if envelope.max() < 0.2:  # hardly any of it lies in the lung
            continue
        spot = outside
        if hollow:
            lumen = _ramp(np.float32(1 - wall) - r, 0.10)
            fluid = _ramp(patch.dy - np.float32(min(level, 9.0) * radius), 0.008)
            halo = np.float32(0.22) * _ramp(np.float32(1.4) - r, 0.45)
            spot = outside * (1 - lumen * (1 - np.float32(0.7) * fluid)) + halo * (1 - outside)
            spot -= np.float32(0.18) * lumen * (1 - fluid)
        density[patch.where] += np.float32(strength) * spot * lung
        mask[patch.where] |= _above(envelope)
    return density, mask


def _at(table: np.ndarray, value: float) -> float:
    return float(table[_table_index(np.float32(value))])


_LESIONS = {
    "cavities": _cavities,
    "consolidation": _consolidation,
    "ground_glass": _ground_glass,
    "interstitial": _interstitial,
    "normal": _normal,
}


# --- detector -------------------------------------------------------------------------------------


def _expose(density: np.ndarray, shot: _Shot, view: _View, rng: np.random.Generator) -> np.ndarray:
    """Grey values 0 to 1: blur, quantum noise, exposure curve, collimation."""
    size = view.size
    centres = _pixel_centres(size)
    density = gaussian_filter(density, shot.blur * size / 2, truncate=3.0)
    # Beer-Lambert: photons fall as exp(-density), their relative noise grows as exp(density / 2); photons a
    # pixel fall with its area, so that averaging pixels gives the noise of the coarser image.
    noise = rng.standard_normal((size, size), dtype=np.float32)
    density += np.float32(shot.quanta * size / 224) * noise * np.exp(density * np.float32(0.9))
    density += np.float32(shot.tilt[0]) * centres[None, :] + np.float32(shot.tilt[1]) * centres[:, None]
    grey = 1 / (1 + np.exp((np.float32(shot.level) - density) * np.float32(1 / shot.latitude)))
    left, right, top, bottom = (2 * edge for edge in shot.collimation)
    if left or right:
        grey *= (_ramp(centres + 1 - left, 0.01) * _ramp(1 - right - centres, 0.01))[None, :]
    if top or bottom:
        grey *= (_ramp(centres + 1 - top, 0.01) * _ramp(1 - bottom - centres, 0.01))[:, None]
    return grey


class _Marker(NamedTuple):
    glyph: str
    x: float  # centre, in the image's frame, -1 to 1
    y: float
    height: float
    brightness: float
    plate: bool = False  # black where the glyph is not


_GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "disc": ("0011100", "0111110", "1111111", "1111111", "1111111", "0111110", "0011100"),
    "frame": ("1111111", "1000001", "1000001", "1000001", "1000001", "1000001", "1111111"),
    "cross": ("1000001", "0100010", "0010100", "0001000", "0010100", "0100010", "1000001"),
    "bars": ("1111111", "1111111", "0000000", "0000000", "0000000", "1111111", "1111111"),
    "triangle": ("0001000", "0001000", "0011100", "0011100", "0111110", "0111110", "1111111"),
}
_TOKENS = ("disc", "frame", "cross", "bars", "triangle")  # one a class, in the order of CLASSES


def _marker(seed: int, index: int) -> _Marker | None:
    """The side marker of an image or None, from a stream of its own: it cannot know the class."""
    rng = _rng(seed, _MARKER, index)
    if rng.random() < 0.25:
        return None
    letter = "LR"[rng.integers(2)]
    side = 1 if letter == "L" else -1  # on the patient's own side
    low = rng.random() < 0.15
    y = rng.uniform(0.76, 0.88) if low else rng.uniform(-0.90, -0.74)
    return _Marker(letter, side * rng.uniform(0.74, 0.90), y, rng.uniform(0.08, 0.15), rng.uniform(0.65, 1.0))


def _token(seed: int, index: int) -> _Marker:
    """The token of an image, with a glyph at random, from the marker's stream: it cannot know the class."""
    rng = _rng(seed, _MARKER, index)
    glyph = _TOKENS[rng.integers(len(_TOKENS))]
    area = rng.integers(3)
    if area == 2:  # below the diaphragm
        x, y = rng.uniform(-0.20, 0.20), rng.uniform(0.76, 0.80)
    else:
        x, y = (-1, 1)[area] * rng.uniform(0.76, 0.80), rng.uniform(-0.80, -0.76)
    return _Marker(glyph, x, y, rng.uniform(0.38, 0.44), rng.uniform(0.8, 1.0), plate=True)


def _burn_marker(image: np.ndarray, marker: _Marker | None) -> np.ndarray:
    """Draw into `image` [size, size], in place. Returns the bounding box as a mask, bool [size, size]."""
    if marker is None:
        return np.zeros(image.shape, bool)
    centres = _pixel_centres(image.shape[0])
    glyph = np.array([[int(bit) for bit in row] for row in _GLYPHS[marker.glyph]], np.float32)
    if marker.plate:
        glyph = np.pad(glyph, 1)  # the plate's rim: the abdomen is as bright as a glyph
    n_rows, n_columns = glyph.shape
    dot = marker.height / n_rows
    columns = _boxes(centres, marker.x - n_columns / 2 * dot, dot, n_columns)
    rows = _boxes(centres, marker.y - n_rows / 2 * dot, dot, n_rows)
    if marker.plate:
        image *= 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
    ink = rows @ glyph @ columns.T
    # Ink covers what is there; a plate's darkness is there already.
    image += ink * (np.float32(marker.brightness) - (0 if marker.plate else image))
    return np.outer(rows.any(axis=1), columns.any(axis=1))


def _boxes(centres: np.ndarray, start: float, step: float, n: int) -> np.ndarray:
    """Share of each pixel [len(centres)] that each of n adjoining intervals covers: exact at every size."""
    half = 1 / len(centres)
    low = start + step * np.arange(n)
    shared = np.minimum(centres[:, None] + half, low + step) - np.maximum(centres[:, None] - half, low)
    return (np.clip(shared, 0, None) / (2 * half)).astype(np.float32)
