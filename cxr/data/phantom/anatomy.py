"""The density of a healthy body: soft tissue, lungs, heart, airways, vessels, abdomen."""

from __future__ import annotations

import numpy as np

from cxr.data.phantom.bones import draw_bones
from cxr.data.phantom.chest import Chest
from cxr.data.phantom.coordinates import GRID, Shot, View
from cxr.data.phantom.drawing import add_haze, ramp, ridges, splat, texture
from cxr.data.phantom.patients import Person


def draw_anatomy(person: Person, shot: Shot, view: View, chest: Chest) -> np.ndarray:
    """Density of the body without lesions and distractors, float32 [size, size]."""
    x, y, lung = view.x, view.y, chest.lung
    side = np.abs(x)
    body = _body(person, view)
    density = body.copy()
    # Air: deepest in the middle of each lung; some lung lies behind heart, mediastinum and diaphragm.
    depth = np.sqrt(np.clip(1.02 - np.clip(chest.wall, 0, 1) ** 2.5, 0, 1))
    behind = ramp(1 - chest.wall, 0.02) * ramp(chest.dome[view.ix] + 0.10 - y, 0.12)
    behind *= ramp(y - np.float32(person.top), 0.03)
    density -= depth * (np.float32(0.56) * lung + np.float32(0.10) * behind)
    density += _heart(view, chest)
    density += draw_bones(person, shot, view, chest)
    density += _airways(shot, view)
    density += _vessels(person, view) * (np.float32(0.15) + np.float32(0.85) * lung)
    # Abdomen: denser than the chest; gas in the fundus.
    below = y - chest.dome[view.ix]
    inside = ramp(1 - chest.wall, 0.03)
    density += np.float32(0.12) * ramp(below, 0.02) * inside
    if person.gas > 0.35:
        gx, gy = 0.36, person.dome + person.dome_gap + shot.breath + 0.13
        bubble = ((x - gx) / (0.10 + 0.08 * person.gas)) ** 2 + ((y - gy) / 0.065) ** 2
        density -= np.float32(0.24 * person.gas) * ramp(1 - bubble, 0.6) * ramp(below - 0.03, 0.015)
    if person.breast > 0:
        bx, by = 0.42 * person.width / 0.74, person.breast_y
        disc = ((side - bx) / 0.33) ** 2 + (y - by) ** 2 / np.where(y > by, 0.24, 0.42) ** 2
        density += np.float32(person.breast) * ramp(1 - disc, 0.28)
    density += np.float32(0.018) * texture(view, person.soft) * body
    fine = ridges(texture(view, person.lattice), 0.5)
    density += np.float32(0.085 * person.markings) * fine * lung
    return density


def _body(person: Person, view: View) -> np.ndarray:
    """Soft tissue with neck, shoulders and flanks; nothing outside."""
    side = np.abs(GRID)
    shoulder = -1.02 + 0.50 * np.clip(side - 0.20, 0, None) ** 1.6 - 0.9 * np.clip(0.24 - side, 0, None)
    flank = person.width + 0.19 * person.habitus**3 + 0.28 * (1 - ramp(GRID + 0.25, 0.35))
    thick = np.float32(person.habitus) * (np.float32(1.02) - np.float32(0.20) * view.x * view.x)
    thick *= ramp(view.y - shoulder.astype(np.float32)[view.ix], 0.05)
    return thick * ramp(flank.astype(np.float32)[view.iy] - np.abs(view.x), 0.035)


def _heart(view: View, chest: Chest) -> np.ndarray:
    right, left = chest.medial
    middle, half = (left - right) / 2, (left + right) / 2
    offset = (view.x - middle[view.iy]) / half[view.iy]
    bulk = np.sqrt(np.clip(1 - offset * offset, 0, 1))
    chamber = ramp(GRID + 0.02, 0.14).astype(np.float32)[view.iy]
    return bulk * (np.float32(0.06) + np.float32(0.11) * chamber)


def _airways(shot: Shot, view: View) -> np.ndarray:
    """Trachea and main bronchi: negative density."""
    centre = (shot.turn - 0.018 * ramp(GRID + 0.55, 0.3)).astype(np.float32)
    across = (view.x - centre[view.iy]) * np.float32(1 / 0.05)
    tube = np.sqrt(np.clip(1 - across * across, 0, 1)) * ramp(np.float32(-0.27) - view.y, 0.04)
    steps = np.linspace(0, 1, 48)[:, None]
    carina = np.array([shot.turn - 0.018, -0.29])
    ends = np.array([[-0.17, -0.08], [0.19, -0.13]])
    points = np.concatenate([carina + steps * (end - carina) for end in ends])
    area = np.full(len(points), 0.0055 * 0.2 / 48 * 1.0)
    return np.float32(-0.21) * tube - splat(view, points, area, 0.018)


_HILA = ((-0.165, -0.02), (0.18, -0.07))


def _vessels(person: Person, view: View) -> np.ndarray:
    xy, radius, piece = person.tree
    area = 0.85 * person.vessels * radius**1.35 * piece
    density = np.zeros((view.size, view.size), np.float32)
    for low, high in ((0.0, 0.0055), (0.0055, 0.0105), (0.0105, 1.0)):
        chosen = (radius >= low) & (radius < high)
        density += splat(view, xy[chosen], area[chosen], 0.62 * float(radius[chosen].mean()))
    for x, y in _HILA:
        add_haze(density, view, x, y, 0.07, 0.10 * person.vessels)
    return density
