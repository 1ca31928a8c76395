"""The build of a patient, which all images of the patient share, and the outline of the lungs that it gives.

The lungs lie between chest wall, mediastinum with heart, and diaphragm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from cxr.data.phantom.drawing import GRID, Shot, View, ramp


class Person(NamedTuple):
    """What stays the same in all images of a patient. Lengths in the canonical unit; density 1 is a mean path
    through soft tissue."""

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


def draw_person(rng: np.random.Generator) -> Person:
    """The traits of a patient."""
    female = rng.random() < 0.45
    return Person(
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


LUNG_EDGE = 0.012
"""Half-width of the soft edge of a lung, in the canonical unit. No lesion pixel lies farther outside a lung along
x (chest wall, mediastinum) or y (diaphragm)."""


class Chest(NamedTuple):
    """The lungs of a patient in a view."""

    lung: np.ndarray  # soft lung mask, 0 to 1, float32 [size, size]
    wall: np.ndarray  # |x| divided by the half-width of the cavity, [size, size]
    width: np.ndarray  # that half-width, table over y
    medial: tuple[np.ndarray, np.ndarray]  # mediastinal borders, image left and right, tables over y
    dome: np.ndarray  # y of the diaphragm, table over x


def _spline_table(knots: Sequence[tuple[float, float]]) -> np.ndarray:
    at, values = zip(*knots, strict=True)
    inside = np.clip(GRID, at[0], at[-1])
    return PchipInterpolator(at, values)(inside).astype(np.float32)


def make_chest(person: Person, shot: Shot, view: View) -> Chest:
    """The lungs: the cavity without the mediastinum with heart, above the diaphragm."""
    broadest = 0.42
    rise = np.clip((broadest - GRID) / (broadest - person.top), 0, 1)
    apex = 0.29 * person.width / 0.74
    width = apex + (person.width - apex) * (1 - rise**2.2) ** 0.66
    width = np.where(GRID > broadest, person.width - 0.06 * (GRID - broadest) ** 2, width)
    # The medial contour leans outwards near the apex, which makes the apex a dome.
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
    side = np.abs(GRID)
    crest = 0.37
    lateral = (side - crest) / (person.width - crest)
    fall = np.where(lateral > 0, 0.30 * np.clip(lateral, 0, 1.4) ** 1.9, 0.12 * lateral**2)
    dome = person.dome + shot.breath + fall + np.where(GRID > 0, person.dome_gap, 0)
    width, dome = width.astype(np.float32), dome.astype(np.float32)
    right, left = right.astype(np.float32), left.astype(np.float32)
    half = width[view.iy]
    away = np.abs(view.x)
    border = np.where(view.x > 0, left[view.iy], right[view.iy])
    top = view.y - np.float32(person.top)
    lung = ramp(half - away, LUNG_EDGE) * ramp(away - border, LUNG_EDGE) * ramp(top, LUNG_EDGE)
    lung *= ramp(dome[view.ix] - view.y, LUNG_EDGE)
    return Chest(lung, away / half, width, (right, left), dome)
