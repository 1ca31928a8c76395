"""What images of every class have: soft tissue, lungs, heart, airways, vessels, abdomen, bones, distractors.

Distractors (nipples, granulomas, scars, leads) say nothing about the class.
"""

from __future__ import annotations

import numpy as np

from cxr.data.phantom.drawing import GRID, Shot, View, add_disc, add_haze, cord, ramp, ridges, splat, texture
from cxr.data.phantom.patients import Chest, Person


def draw_bones(person: Person, shot: Shot, view: View, chest: Chest) -> np.ndarray:
    """Density of all bones, float32 [size, size]."""
    x, y = view.x, view.y
    side = np.abs(x)
    # Ribs are fainter over heart and abdomen, through scatter and depth.
    bone = _ribs(person, view, chest) * (np.float32(0.45) + np.float32(0.55) * chest.lung)
    # Spine: bodies and discs; it turns less than the front of the chest.
    spine_x = x - np.float32(0.3 * shot.turn)
    bodies = 0.8 + 0.2 * np.cos(GRID * np.float32(2 * np.pi / 0.145))
    spine = ramp(np.float32(0.078) - np.abs(spine_x), 0.012) * bodies.astype(np.float32)[view.iy]
    pedicles = np.exp(-(((np.abs(spine_x) - np.float32(0.045)) / np.float32(0.014)) ** 2))
    spine += np.float32(0.35) * pedicles * (bodies > 0.85).astype(np.float32)[view.iy]
    bone += np.float32(0.085) * spine
    # Clavicles: an S from the sternum up and out to the shoulder.
    at = np.abs(GRID - shot.turn)
    along = (at - 0.06) / 0.67
    centre = person.top + 0.26 - 0.15 * along - 0.035 * np.sin(2 * np.pi * np.clip(along, 0, 1))
    girth = 0.026 + 0.018 * np.exp(-((along / 0.12) ** 2)) + 0.008 * along
    shaft = ramp(along - 0.02, 0.03) * ramp(1.12 - along, 0.06)
    gap = (y - centre.astype(np.float32)[view.ix]) / girth.astype(np.float32)[view.ix]
    bone += np.float32(0.21) * shaft.astype(np.float32)[view.ix] * _tube(gap)
    # Scapulae: a blade between three lines.
    slim = person.width / 0.74
    out = 0.50 + 0.14 * (1 - person.scapula)
    blade = ramp(side - np.float32(out * slim) - np.float32(0.24) * (y + np.float32(0.55)), 0.02)
    blade *= ramp(np.float32(0.02) - y - np.float32(1.5) * (side - np.float32(0.80 * slim)), 0.05)
    blade *= ramp(y + np.float32(0.62) + np.float32(0.15) * (side - np.float32(0.6)), 0.03)
    bone += np.float32(0.10) * blade
    # Humeral heads, at the edge of the picture.
    head = ((side - np.float32(1.04)) / 0.15) ** 2 + ((y + np.float32(0.58)) / 0.15) ** 2
    bone += np.float32(0.11) * ramp(1 - head, 0.25)
    return np.float32(person.bone) * bone


def _tube(gap: np.ndarray) -> np.ndarray:
    """Profile of a long bone across its axis (-1 to 1); the edges are denser (cortex)."""
    square = gap * gap
    return ramp(1 - square, 0.22) * (np.float32(0.72) + np.float32(0.38) * np.minimum(square, 1))


def _ribs(person: Person, view: View, chest: Chest) -> np.ndarray:
    """Posterior and anterior arcs. Each is the level sets of one height field, so all ribs cost as much as one.

    A rib is a tilted ring. Its back part falls from the spine to the wall, steepest at the wall. Its front part
    falls further towards the sternum, where it ends in cartilage.
    """
    cage = chest.wall * np.float32(1 / 1.03)
    room = np.sqrt(np.clip(1 - cage * cage, 1e-3, 1))
    within = ramp(1 - cage, 0.012)
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
    end = ramp(cage - np.float32(0.40), 0.06)
    bone += np.float32(0.085) * _comb(front, slope, person, 0.036) * within * end
    if person.cartilage > 0:
        near = np.exp(-(((cage - np.float32(0.37)) / np.float32(0.05)) ** 2))
        bone += np.float32(0.10 * person.cartilage) * _comb(front, slope, person, 0.026) * near
    return bone


def _comb(height: np.ndarray, slope: np.ndarray, person: Person, girth: float) -> np.ndarray:
    """A tube at the height of every rib. `slope` makes `girth` the thickness across the rib, not along y."""
    number = (height - np.float32(person.rib_start)) * np.float32(1 / person.rib_pitch)
    nearest = np.clip(np.rint(number), 0, 10)
    girth = np.float32(girth / person.rib_pitch) * np.sqrt(1 + np.minimum(slope * slope, 100))
    # Without a limit, ribs that are vertical at the wall would merge.
    return _tube((number - nearest) / np.minimum(girth, np.float32(0.5)))


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


def draw_distractors(rng: np.random.Generator, person: Person, view: View, chest: Chest) -> np.ndarray:
    """Density of the distractors, float32 [size, size]."""
    density = np.zeros((view.size, view.size), np.float32)
    if rng.random() < 0.25:  # nipples
        x, y, r = 0.40 * person.width / 0.74, rng.uniform(0.22, 0.40), rng.uniform(0.022, 0.034)
        strength = rng.uniform(0.06, 0.14)
        for sign in (-1, 1):
            dx, dy = rng.normal(0, 0.02, 2)
            add_disc(density, view, sign * x + dx, y + dy, r, strength, 0.5)
    for _ in range(rng.choice([0, 1, 2, 4], p=[0.55, 0.25, 0.12, 0.08])):  # healed granulomas
        x, y = rng.choice([-1, 1]) * rng.uniform(0.22, 0.60), rng.uniform(-0.55, 0.45)
        add_disc(density, view, x, y, rng.uniform(0.010, 0.022), rng.uniform(0.10, 0.32), 0.35)
    for _ in range(rng.choice([0, 1, 2], p=[0.75, 0.17, 0.08])):  # scars and plate atelectasis
        x, y = rng.choice([-1, 1]) * rng.uniform(0.30, 0.50), rng.uniform(0.05, 0.42)
        strength = rng.uniform(0.1, 0.2)
        density += cord(view, (x, y), rng.uniform(-0.5, 0.5), rng.uniform(0.12, 0.3), 0.006, strength)
    density *= chest.lung
    if rng.random() < 0.22:  # monitoring leads
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(-0.65, 0.65), rng.uniform(-0.55, 0.5)
            add_disc(density, view, x, y, rng.uniform(0.022, 0.030), rng.uniform(0.25, 0.5), 0.15)
            t = np.linspace(0, 1, 700)
            bend = rng.normal(0, 0.25)
            end = np.array([x + rng.normal(0, 0.4), -1.3 if rng.random() < 0.6 else 1.3])
            line = np.stack([x + (end[0] - x) * t + bend * np.sin(np.pi * t), y + (end[1] - y) * t], axis=1)
            length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
            density += splat(view, line, np.full(700, rng.uniform(0.25, 0.5) * 0.010 * length / 700), 0.004)
    return density
