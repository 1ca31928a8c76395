"""The pose of an exposure, and the coordinates of its pixels in the frame of the body."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np


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
