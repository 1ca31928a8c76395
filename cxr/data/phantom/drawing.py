"""The pose of an exposure, and what is drawn in it: soft edges, smooth noise, points, discs and lines."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter


class Shot(NamedTuple):
    """What changes with every exposure. Lengths in the canonical unit (see `rendering`), angles in radians."""

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


class View(NamedTuple):
    """Canonical coordinates of the pixels of an image in a pose."""

    size: int  # side of the image in pixels
    shot: Shot
    x: np.ndarray  # [size, size]
    y: np.ndarray
    ix: np.ndarray  # int32 [size, size]: indices into tables over x, and (iy) over y
    iy: np.ndarray


_TABLE_SPAN, _TABLE_STEPS = 1.6, 4096  # tables run from -1.6 to 1.6 in the canonical frame
GRID = np.linspace(-_TABLE_SPAN, _TABLE_SPAN, _TABLE_STEPS, dtype=np.float32)
GRID.setflags(write=False)


def draw_shot(rng: np.random.Generator) -> Shot:
    """Pose and exposure of an image."""
    edges = np.where(rng.random(4) < 0.12, rng.uniform(0.005, 0.03, 4), 0.0)
    return Shot(
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
def pixel_centres(size: int) -> np.ndarray:
    """Centres of pixels along one axis, in the frame of the image: float32 [size], from -1 to 1."""
    centres = ((np.arange(size) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    centres.setflags(write=False)
    return centres


def make_view(size: int, shot: Shot) -> View:
    """The coordinates of all pixels under the pose of a shot."""
    centres = pixel_centres(size)
    u = (centres - shot.shift[0])[None, :] / np.float32(shot.scale)
    v = (centres - shot.shift[1])[:, None] / np.float32(shot.scale)
    cos, sin = np.float32(np.cos(shot.angle)), np.float32(np.sin(shot.angle))
    x, y = cos * u + sin * v, cos * v - sin * u
    return View(size, shot, x, y, _table_index(x), _table_index(y))


def _table_index(values: np.ndarray) -> np.ndarray:
    scaled = (values + np.float32(_TABLE_SPAN)) * np.float32((_TABLE_STEPS - 1) / (2 * _TABLE_SPAN)) + 0.5
    return np.clip(scaled, 0, _TABLE_STEPS - 1).astype(np.int32)


def to_pixels(view: View, xy: np.ndarray) -> np.ndarray:
    """Canonical points [n, 2] as pixels [n, 2] (x, y); the centre of the first pixel is 0."""
    shot = view.shot
    cos, sin = np.cos(shot.angle), np.sin(shot.angle)
    image = np.stack([cos * xy[:, 0] - sin * xy[:, 1], sin * xy[:, 0] + cos * xy[:, 1]], axis=1)
    image = image * shot.scale + np.array(shot.shift)
    return (image + 1.0) * (view.size / 2) - 0.5


def table_at(table: np.ndarray, value: float) -> float:
    """The entry of a table over x or y (see GRID) at a coordinate."""
    return float(table[_table_index(np.float32(value))])


def ramp(distance: np.ndarray, half_width: float) -> np.ndarray:
    """A smooth step (Hermite): 0 up to `distance` -half_width, 1 from half_width on."""
    t = distance * np.float32(0.5 / half_width)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    # In place, as this is the most frequent operation.
    curve = t * np.float32(-2)
    curve += np.float32(3)
    curve *= t
    curve *= t
    return curve


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


def texture(view: View, lattice: np.ndarray) -> np.ndarray:
    """Smooth noise, about standard normal, float32 [size, size]: a B-spline surface through white noise.

    It follows the shift and the scale of the pose. It does not follow the rotation, as a product of two matrices
    cannot rotate.
    """
    centres, shot = pixel_centres(view.size), view.shot
    rows = _spline_weights((centres - shot.shift[1]) / shot.scale, lattice.shape[0])
    columns = _spline_weights((centres - shot.shift[0]) / shot.scale, lattice.shape[1])
    # 151/315 is the sum of squared weights of one axis, averaged over the phase.
    return (rows @ lattice @ columns.T) * np.float32(315 / 151)


def splat(view: View, xy: np.ndarray, area: np.ndarray, sigma: float) -> np.ndarray:
    """Density of points `xy` [n, 2] that are blurred by `sigma`; each point adds `area` [n] (density x area)."""
    size = view.size
    points = to_pixels(view, xy)
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


def patch_at(view: View, x: float, y: float, reach: float) -> _Patch | None:
    """The pixels within `reach` of a point; None if there are none."""
    ((px, py),) = to_pixels(view, np.array([[x, y]]))
    half = reach * view.shot.scale * view.size / 2 + 1
    left, right = max(0, int(px - half)), min(view.size, int(px + half) + 2)
    top, bottom = max(0, int(py - half)), min(view.size, int(py + half) + 2)
    if left >= right or top >= bottom:
        return None
    where = (slice(top, bottom), slice(left, right))
    return _Patch(where, view.x[where] - np.float32(x), view.y[where] - np.float32(y))


def add_haze(density: np.ndarray, view: View, x: float, y: float, sigma: float, strength: float) -> None:
    patch = patch_at(view, x, y, 3 * sigma)
    if patch is not None:
        square = (patch.dx * patch.dx + patch.dy * patch.dy) * np.float32(-0.5 / sigma**2)
        density[patch.where] += np.float32(strength) * np.exp(square)


def ridges(noise: np.ndarray, sharpness: float) -> np.ndarray:
    """A net of lines, values 0 to 1: they run where smooth noise crosses zero."""
    return np.exp(-((noise * np.float32(1 / sharpness)) ** 2))


def add_disc(
    density: np.ndarray, view: View, x: float, y: float, radius: float, strength: float, softness: float
) -> None:
    patch = patch_at(view, x, y, radius * (1 + softness))
    if patch is not None:
        r = np.hypot(patch.dx, patch.dy) * np.float32(1 / radius)
        density[patch.where] += np.float32(strength) * ramp(1 - r, softness)


def cord(
    view: View, centre: tuple[float, float], angle: float, length: float, sigma: float, strength: float
) -> np.ndarray:
    t = np.linspace(-0.5, 0.5, 160)
    line = np.array(centre) + length * t[:, None] * np.array([np.cos(angle), np.sin(angle)])
    taper = np.sqrt(1 - (2 * t) ** 2)
    return splat(view, line, strength * sigma * np.sqrt(2 * np.pi) * length / 160 * taper, sigma)
