"""The lesions of each class, and their masks.

Each function takes two streams of random numbers: of the patient (`trait`: where and what kind) and of the image
(`visit`: extent and opacity). It returns the density float32 [size, size] and the mask bool [size, size].
"""

from __future__ import annotations

import numpy as np

from cxr.data.phantom.drawing import View, cord, patch_at, ramp, ridges, table_at, texture
from cxr.data.phantom.patients import Chest

Rng = np.random.Generator

MASK_FRACTION = 0.25
"""A pixel belongs to a lesion if the envelope of the density exceeds this fraction of its maximum there."""


def _normal(trait: Rng, visit: Rng, view: View, chest: Chest) -> tuple[None, np.ndarray]:
    return None, np.zeros((view.size, view.size), bool)


def _above(envelope: np.ndarray) -> np.ndarray:
    return envelope > MASK_FRACTION * envelope.max()


def _consolidation(trait: Rng, visit: Rng, view: View, chest: Chest) -> tuple[np.ndarray, np.ndarray]:
    """One dense patch, sometimes with a sharp edge at a fissure, with air bronchograms."""
    sign = trait.choice([-1, 1])
    # Centres of upper, middle (lingula) and lower lobe as (share of the width, y, half-axes, fissure's side).
    share, y, ax, ay, fissure = [
        (0.58, -0.38, 0.23, 0.24, 1), (0.62, 0.13, 0.20, 0.15, -1), (0.60, 0.30, 0.25, 0.22, -1)
    ][trait.integers(3)]  # fmt: skip
    y += trait.normal(0, 0.05)
    grow = np.clip(np.exp(trait.normal(0.0, 0.24) + visit.normal(0, 0.12)), 0.75, 1.6)
    ax, ay = ax * grow * trait.uniform(0.75, 1.2), ay * grow * trait.uniform(0.75, 1.2)
    x = sign * share * table_at(chest.width, y) + trait.normal(0, 0.03)
    y = min(y, table_at(chest.dome, x) - 0.10)  # it must stay above the diaphragm in a small lung
    edge = texture(view, trait.standard_normal((22, 22), dtype=np.float32))
    mottle = texture(view, trait.standard_normal((46, 46), dtype=np.float32))
    dx, dy = view.x - np.float32(x), view.y - np.float32(y)
    r = np.sqrt((dx / np.float32(ax)) ** 2 + (dy / np.float32(ay)) ** 2)
    envelope = ramp(1 - r + np.float32(0.17) * edge, 0.38)
    if trait.random() < 0.55:
        slope = sign * trait.uniform(-0.1, 0.35)
        offset = fissure * (dy - np.float32(slope) * dx)
        envelope *= ramp(np.float32(0.62 * ay) - offset, 0.014)
    envelope *= chest.lung
    bronchi = np.zeros_like(envelope)
    for _ in range(trait.integers(0, 5)):
        away = np.arctan2(y + 0.03, abs(x) - 0.16) + trait.normal(0, 0.35)
        at = (x + trait.normal(0, 0.3 * ax), y + trait.normal(0, 0.3 * ay))
        bronchi += cord(view, at, away if sign > 0 else np.pi - away, 1.1 * ax, 0.0075, 0.55)
    solid = envelope * (1 + np.float32(0.10) * mottle)
    opacity = 0.33 * np.exp(trait.normal(0, 0.25) + visit.normal(0, 0.1))
    return np.float32(opacity) * solid * np.clip(1 - bronchi, 0.3, 1), _above(envelope)


def _interstitial(trait: Rng, visit: Rng, view: View, chest: Chest) -> tuple[np.ndarray, np.ndarray]:
    """A net of fine lines and a faint haze in both lungs, mostly at the bases or the periphery."""
    n = int(trait.integers(62, 84))
    coarse = texture(view, trait.standard_normal((n, n), dtype=np.float32))
    fine = texture(view, trait.standard_normal((n + 30, n + 30), dtype=np.float32))
    slow = texture(view, trait.standard_normal((14, 14), dtype=np.float32))
    basal = trait.uniform(0.35, 0.95)
    rim = trait.uniform(0.0, 0.6)
    reach = visit.normal(0, 0.08)
    zone = 1 - np.float32(basal) * (1 - ramp(view.y + np.float32(0.10 + reach), 0.5))
    zone *= 1 - np.float32(rim) * (1 - ramp(chest.wall - np.float32(0.55 - reach), 0.4))
    envelope = chest.lung * zone * np.clip(1 + np.float32(0.30) * slow, np.float32(0.3), np.float32(1.6))
    net = np.float32(0.7) * ridges(coarse, 0.42) + np.float32(0.45) * ridges(fine, 0.5)
    opacity = 0.20 * np.exp(trait.normal(0, 0.28) + visit.normal(0, 0.1))
    return np.float32(opacity) * envelope * (net + np.float32(0.12)), _above(envelope)


def _ground_glass(trait: Rng, visit: Rng, view: View, chest: Chest) -> tuple[np.ndarray, np.ndarray]:
    """Hazy patches in the outer parts of both lungs, mostly in the lower half; vessels stay visible."""
    edge = texture(view, trait.standard_normal((26, 26), dtype=np.float32))
    clear = np.ones((view.size, view.size), np.float32)
    grow = np.exp(visit.normal(0, 0.12))
    for sign in (-1, 1):
        for _ in range(trait.integers(2, 5)):
            y = float(np.clip(trait.normal(0.12, 0.30), -0.55, 0.50))
            x = sign * table_at(chest.width, y) * trait.uniform(0.66, 0.92)
            ax, ay = trait.uniform(0.10, 0.19) * grow, trait.uniform(0.12, 0.24) * grow
            weight = trait.uniform(0.55, 1.0)
            patch = patch_at(view, x, y, 2.1 * max(ax, ay))
            if patch is not None:
                r = np.sqrt((patch.dx / np.float32(ax)) ** 2 + (patch.dy / np.float32(ay)) ** 2)
                blob = ramp(1 - r + np.float32(0.24) * edge[patch.where], 0.6)
                clear[patch.where] *= 1 - np.float32(weight) * blob
    envelope = (1 - clear) * chest.lung
    opacity = 0.17 * np.exp(trait.normal(0, 0.28) + visit.normal(0, 0.1))
    return np.float32(opacity) * envelope, _above(envelope)


def _cavities(trait: Rng, visit: Rng, view: View, chest: Chest) -> tuple[np.ndarray, np.ndarray]:
    """Cavities with thick walls, some with a fluid level, and nodules, in the upper halves of the lungs."""
    density = np.zeros((view.size, view.size), np.float32)
    mask = np.zeros((view.size, view.size), bool)
    opacity = 0.26 * np.exp(trait.normal(0, 0.25) + visit.normal(0, 0.1))
    grow = np.exp(visit.normal(0, 0.08))
    first = trait.choice([-1, 1])
    spots = [(True, trait.uniform(0.060, 0.125)) for _ in range(trait.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))]
    spots += [(False, trait.uniform(0.022, 0.050)) for _ in range(trait.integers(2, 8))]
    for hollow, radius in spots:
        y = trait.uniform(-0.58, -0.10) if hollow else trait.uniform(-0.60, 0.12)
        x = (first if trait.random() < 0.65 else -first) * table_at(chest.width, y) * trait.uniform(0.42, 0.84)
        wall = trait.uniform(0.20, 0.42)
        lobes = [(k, trait.normal(0, 0.16 / k**1.5), trait.uniform(0, 2 * np.pi)) for k in (2, 3, 5)]
        level = trait.uniform(0.1, 0.6) if trait.random() < 0.3 else np.inf
        strength = opacity * trait.uniform(0.7, 1.2)
        radius *= grow
        patch = patch_at(view, x, y, 1.9 * radius)
        if patch is None:
            continue
        angle = np.arctan2(patch.dy, patch.dx)
        shape = 1 + sum(np.float32(a) * np.cos(k * angle + np.float32(p)) for k, a, p in lobes)
        r = np.hypot(patch.dx, patch.dy) / (np.float32(radius) * shape)
        lung = chest.lung[patch.where]
        outside = ramp(1 - r, 0.30 if hollow else 0.45)
        envelope = outside * lung
        if envelope.max() < 0.2:  # nearly all of it is outside the lung
            continue
        spot = outside
        if hollow:
            lumen = ramp(np.float32(1 - wall) - r, 0.10)
            fluid = ramp(patch.dy - np.float32(min(level, 9.0) * radius), 0.008)
            halo = np.float32(0.22) * ramp(np.float32(1.4) - r, 0.45)
            spot = outside * (1 - lumen * (1 - np.float32(0.7) * fluid)) + halo * (1 - outside)
            spot -= np.float32(0.18) * lumen * (1 - fluid)
        density[patch.where] += np.float32(strength) * spot * lung
        mask[patch.where] |= _above(envelope)
    return density, mask


LESIONS = {
    "cavities": _cavities,
    "consolidation": _consolidation,
    "ground_glass": _ground_glass,
    "interstitial": _interstitial,
    "normal": _normal,
}
