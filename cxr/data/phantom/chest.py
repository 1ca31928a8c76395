"""The outline of the lungs: between chest wall, mediastinum with heart, and diaphragm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from cxr.data.phantom.coordinates import GRID, Shot, View
from cxr.data.phantom.drawing import ramp
from cxr.data.phantom.patients import Person

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
