"""What images of every class have and what says nothing about the class: nipples, granulomas, scars, leads."""

from __future__ import annotations

import numpy as np

from cxr.data.phantom.chest import Chest
from cxr.data.phantom.coordinates import View
from cxr.data.phantom.drawing import add_disc, cord, splat
from cxr.data.phantom.patients import Person


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
