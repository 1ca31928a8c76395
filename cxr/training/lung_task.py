"""The task that the lung finder learns: chests of the phantom, with far more variety than the phantom has.

The phantom's images resemble each other. Here builds, poses, exposures, lesions and everything that lies in the
way (arms, jaw, tubes, devices, letters) vary so much that radiographs of many hospitals should lie in between.
Nothing is measured from patients.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage import exposure

from cxr.data.phantom.anatomy import draw_anatomy, draw_distractors
from cxr.data.phantom.drawing import Shot, View, add_haze, cord, draw_shot, make_view, ramp
from cxr.data.phantom.lesions import LESIONS
from cxr.data.phantom.patients import Chest, Person, draw_person, make_chest
from cxr.data.phantom.rendering import GLYPHS, Marker, burn_marker, expose

_FINER = 4 / 3  # so much larger than the result are images drawn, before they are warped


def render(seed: int, index: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Image `index` of the task, and where its lungs are.

    Returns: uint8 [size, size]; and float32 [size, size], the share of each pixel that is aerated lung, as
        `rendering.render` has it: without the lung behind heart and diaphragm. The same arguments give the same.
    """
    rng = np.random.default_rng([seed, index])
    person, shot = _person(rng), _shot(rng)
    view = make_view(round(size * _FINER), shot)
    chest = make_chest(person, shot, view)
    density = draw_anatomy(person, shot, view, chest) + draw_distractors(rng, person, view, chest)
    for lesion in LESIONS.values():
        if rng.random() < 0.3:
            drawn, _ = lesion(rng, rng, view, chest)
            if drawn is not None:
                density += np.float32(rng.uniform(0.5, 3)) * drawn
    _fill_lungs(density, view, chest, rng)
    _put_in_the_way(density, view, chest, rng)
    image = expose(density, shot, view, rng)
    for _ in range(rng.integers(4)):
        x, y = rng.uniform(-0.95, 0.95, 2)
        if max(abs(x), abs(y)) > 0.7:
            letters = list(GLYPHS)[: 2 if rng.random() < 0.7 else None]
            height, bright, plate = rng.uniform(0.05, 0.3), rng.uniform(0.6, 1), rng.random() < 0.2
            burn_marker(image, Marker(str(rng.choice(letters)), x, y, height, bright, plate))
    image, lungs = _warp(image, chest.lung, size, rng)
    return np.rint(_develop(image, rng) * 255).astype(np.uint8), lungs


def render_stack(seed: int, indices: range, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """`render` for several indices: uint8 [n, size, size] and float32 [n, size, size]."""
    images, lungs = zip(*(render(seed, index, size) for index in indices), strict=True)
    return np.stack(images), np.stack(lungs)


def _person(rng: np.random.Generator) -> Person:
    """Children and adults, slim and obese, with small and large hearts."""
    return draw_person(rng)._replace(
        width=rng.uniform(0.58, 0.88),
        top=rng.uniform(-0.88, -0.55),
        dome=rng.uniform(0.15, 0.6),
        dome_gap=rng.uniform(-0.06, 0.14),
        heart=rng.uniform(0.8, 1.8),
        habitus=rng.normal(1, 0.13),
        bone=rng.uniform(0.4, 2.0),
        rib_pitch=rng.uniform(0.12, 0.19),
        rib_start=rng.uniform(-0.9, -0.6),
        rib_drop=rng.uniform(0.15, 0.65),
        breast=rng.uniform(0.05, 0.3) if rng.random() < 0.45 else 0.0,
        vessels=rng.uniform(0.5, 1.8),
        markings=rng.beta(1.2, 2),
    )


def _shot(rng: np.random.Generator) -> Shot:
    """From the whole trunk to a part of the lungs, turned, under- and overexposed."""
    edges = np.where(rng.random(4) < 0.25, rng.uniform(0, 0.12, 4), 0)
    return draw_shot(rng)._replace(
        shift=(rng.normal(0, 0.08), rng.normal(0, 0.10)),
        angle=np.deg2rad(rng.normal(0, 6)),
        scale=rng.uniform(0.68, 1.4),
        turn=rng.normal(0, 0.05),
        breath=np.clip(rng.normal(0, 0.07), -0.12, 0.12),
        level=rng.normal(0.8, 0.12),
        latitude=rng.uniform(0.12, 0.45),
        tilt=tuple(rng.normal(0, 0.12, 2)),
        quanta=rng.uniform(0.002, 0.04),
        blur=rng.uniform(0.003, 0.02),
        collimation=tuple(edges),
    )


def _fill_lungs(density: np.ndarray, view: View, chest: Chest, rng: np.random.Generator) -> None:
    """More or less air, haze, and in some a side that is opaque, wholly or below a line. Adds to `density`."""
    density += np.float32(rng.uniform(-0.25, 0.3)) * chest.lung
    if rng.random() < 0.25:
        side, line = rng.choice([-1, 1]), np.float32(rng.uniform(-0.8, 0.5))
        opaque = (np.sign(view.x) == side) * ramp(view.y - line, rng.uniform(0.05, 0.4))
        density += np.float32(rng.uniform(0.1, 0.5)) * chest.lung * opaque
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 4)):
            x, y = rng.choice([-1, 1]) * rng.uniform(0.15, 0.6), rng.uniform(-0.5, 0.6)
            add_haze(density, view, x, y, rng.uniform(0.08, 0.3), rng.uniform(0.1, 0.45))


def _put_in_the_way(density: np.ndarray, view: View, chest: Chest, rng: np.random.Generator) -> None:
    """A denser mid-line, arms, a jaw, gas in the abdomen, devices and tubes. Adds to `density`."""
    middle = ramp(np.float32(rng.uniform(0.05, 0.25)) - np.abs(view.x), 0.08)
    density += np.float32(rng.uniform(0, 0.5)) * middle
    if rng.random() < 0.35:
        for side in (-1, 1):
            if rng.random() < 0.7:
                top, bottom = rng.uniform(0.75, 1.25, 2)
                along = top + (bottom - top) * (view.y + 1) / 2
                arm = ramp(np.float32(rng.uniform(0.08, 0.25)) - np.abs(side * view.x - along), 0.04)
                arm *= ramp((view.y - np.float32(rng.uniform(-1, 0.3))) * rng.choice([-1, 1]), 0.1)
                density += np.float32(rng.uniform(0.2, 1)) * arm
    if rng.random() < 0.3:
        jaw = _ellipse(
            view, rng.normal(0, 0.15), -rng.uniform(1, 1.4), rng.uniform(0.2, 0.5), rng.uniform(0.25, 0.45)
        )
        density += np.float32(rng.uniform(0.2, 0.9)) * ramp(jaw, 0.25)
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(-0.6, 0.6), rng.uniform(0.75, 1.1)
            gas = _ellipse(view, x, y, rng.uniform(0.06, 0.25), rng.uniform(0.05, 0.15))
            density -= np.float32(rng.uniform(0.1, 0.4)) * ramp(gas, 0.5) * (1 - chest.lung)
    if rng.random() < 0.15:
        x, y, wide, high = *rng.uniform(-0.9, 0.9, 2), *rng.uniform(0.03, 0.15, 2)
        density += np.float32(rng.uniform(0.3, 1.2)) * ((np.abs(view.x - x) < wide) & (np.abs(view.y - y) < high))
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 4)):
            at, angle, length = tuple(rng.uniform(-0.8, 0.8, 2)), rng.uniform(0, np.pi), rng.uniform(0.3, 1.8)
            density += cord(view, at, angle, length, rng.uniform(0.005, 0.012), rng.uniform(0.1, 0.5))


def _ellipse(view: View, x: float, y: float, wide: float, high: float) -> np.ndarray:
    """1 at the centre of an ellipse, 0 at its edge, and below outside."""
    return 1 - ((view.x - np.float32(x)) / wide) ** 2 - ((view.y - np.float32(y)) / high) ** 2


def _warp(
    image: np.ndarray, lungs: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both at `size`, with other proportions, and bent smoothly."""
    old = len(image)
    stretch = np.exp(rng.normal(0, 0.12, 2))
    reach, smooth = rng.uniform(0, 0.03) * size, rng.uniform(0.06, 0.16) * size
    at = (np.arange(size) + 0.5) * old / size - 0.5
    where = []
    for axis, grid in enumerate(np.meshgrid(at, at, indexing="ij")):
        bend = gaussian_filter(rng.standard_normal((size, size)), smooth)
        middle = (old - 1) / 2
        where.append((grid - middle) * stretch[axis] + middle + reach * bend / np.abs(bend).max())
    beyond = "nearest" if rng.random() < 0.5 else "constant"
    image = map_coordinates(gaussian_filter(image, 0.5), where, order=1, mode=beyond)
    return image, map_coordinates(lungs.astype(np.float32), where, order=1, mode="constant")


def _develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey values 0 to 1 as different machines and archives show them."""
    image, kind = np.clip(image, 0, 1), rng.random()
    if kind < 0.2:
        image = exposure.equalize_adapthist(image, clip_limit=rng.uniform(0.005, 0.04))
    elif kind < 0.35:
        image = exposure.equalize_hist(image)
    image = image ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.3:
        uneven = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.1, 0.3) * len(image))
        image = image * (1 + 0.35 * uneven / np.abs(uneven).max())
    low, high = rng.uniform(0, 0.2), rng.uniform(0.75, 1)
    image = low + (high - low) * np.clip(image, 0, 1)
    return 1 - image if rng.random() < 0.03 else image
