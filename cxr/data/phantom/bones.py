"""The density of the bones: ribs, spine, clavicles, scapulae, humeral heads."""

from __future__ import annotations

import numpy as np

from cxr.data.phantom.chest import Chest
from cxr.data.phantom.coordinates import GRID, Shot, View
from cxr.data.phantom.drawing import ramp
from cxr.data.phantom.patients import Person


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
