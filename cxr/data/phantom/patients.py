"""What is the same in all images of a patient: build, bones and the tree of vessels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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
