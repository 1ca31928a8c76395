"""The procedural source task on which the compact backbones are pretrained.

Grey pictures show one object on a textured ground, both at random scale, orientation, contrast and blur. The task
is to name the texture and the object. It shares no class and no anatomy with chest radiographs.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

TEXTURES = ("gradient", "grating", "plaid", "checker", "white_noise", "cloud", "grain", "cells", "dots", "strokes")
OBJECTS = (
    "none", "blob", "disc", "ring", "triangle", "square", "cross", "star", "crescent", "bars", "cluster", "branch",
)  # fmt: skip


def render(seed: int, index: int, size: int = 96) -> tuple[np.ndarray, int, int]:
    """Picture `index` of the source task.

    Returns (image uint8 [size, size], number of its texture in TEXTURES, number of its object in OBJECTS). The
    same seed, index and size give the same picture.
    """
    rng = np.random.default_rng([seed, index])
    texture, thing = int(rng.integers(len(TEXTURES))), int(rng.integers(len(OBJECTS)))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    ground = _texture(TEXTURES[texture], x, y, rng)
    image = 0.5 + rng.uniform(0.03, 0.22) * ground
    if OBJECTS[thing] != "none":
        mask = _object(OBJECTS[thing], x, y, rng)
        level = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.6)
        kind = rng.integers(3)
        if kind == 0:  # an added density
            image = image + level * mask
        elif kind == 1:  # opaque
            image = image * (1 - mask) + (0.5 + level) * mask
        else:  # opaque, with a texture of its own
            filling = _texture(TEXTURES[rng.integers(len(TEXTURES))], x, y, rng)
            inside = 0.5 + 0.5 * level + rng.uniform(0.03, 0.22) * filling
            image = image * (1 - mask) + inside * mask
    image = image + rng.uniform(-0.2, 0.2) * x + rng.uniform(-0.2, 0.2) * y
    blur = rng.uniform(0, 1.2)
    if blur > 0.3:
        image = ndimage.gaussian_filter(image, blur)
    image = (image - 0.5) * rng.uniform(0.7, 1.3) + rng.uniform(0.3, 0.7)
    image = image + rng.normal(0, rng.uniform(0.005, 0.04), image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), texture, thing


def render_stack(seed: int, n: int, size: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures 0 to n-1: (images uint8 [n, size, size], textures int [n], objects int [n])."""
    rows = [render(seed, index, size) for index in range(n)]
    images, textures, things = zip(*rows, strict=True)
    return np.stack(images), np.array(textures), np.array(things)


def _turn(x, y, rng):
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _standard(field: np.ndarray) -> np.ndarray:
    return (field - field.mean()) / (field.std() + 1e-6)


def _texture(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    u, v = _turn(x, y, rng)
    frequency = np.exp(rng.uniform(np.log(3), np.log(16))) * 2 * np.pi
    phase = rng.uniform(0, 2 * np.pi)
    if name == "gradient":
        field = u + rng.uniform(-1, 1) * v * v
    elif name == "grating":
        field = np.sin(frequency * u + phase)
    elif name == "plaid":
        field = np.sin(frequency * u + phase) + np.sin(frequency * rng.uniform(0.7, 1.4) * v)
    elif name == "checker":
        field = np.sign(np.sin(frequency * u / 1.5 + phase) * np.sin(frequency * v / 1.5))
    elif name == "white_noise":
        field = ndimage.gaussian_filter(rng.normal(size=x.shape), rng.uniform(0, 0.8))
    elif name == "cloud":
        field = _spectral(x.shape, rng.uniform(1.2, 2.0), rng)
    elif name == "grain":
        field = np.sin(frequency * u + 2.5 * _standard(_spectral(x.shape, 1.8, rng)))
    elif name == "cells":
        points = rng.uniform(-0.55, 0.55, (int(rng.integers(12, 60)), 2))
        distance = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
        nearest = np.partition(distance, 1, axis=-1)
        field = np.minimum(nearest[..., 1] - nearest[..., 0], 0.05)
    elif name == "dots":
        lattice = np.cos(frequency * u / 1.5 + phase) * np.cos(frequency * v / 1.5)
        field = 1 / (1 + np.exp(-12 * (lattice - rng.uniform(0.3, 0.7))))
    else:  # strokes
        field = ndimage.gaussian_filter1d(rng.normal(size=x.shape), rng.uniform(4, 9), axis=0)
        field = ndimage.rotate(np.tile(field, (2, 2)), rng.uniform(0, 180), reshape=False, order=1)
        start = (field.shape[0] - x.shape[0]) // 2
        field = field[start : start + x.shape[0], start : start + x.shape[1]]
    return _standard(field).astype(np.float32)


def _spectral(shape: tuple[int, int], slope: float, rng: np.random.Generator) -> np.ndarray:
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    radius = np.maximum(np.hypot(fy, fx), 1 / shape[0])
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / radius**slope
    return np.fft.irfft2(spectrum, s=shape)


def _object(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How much of each pixel the object covers, in [0, 1], computed from its signed distance."""
    radius = np.exp(rng.uniform(np.log(0.1), np.log(0.32)))
    u, v = _turn(x - rng.uniform(-0.3, 0.3), y - rng.uniform(-0.3, 0.3), rng)
    v = v * rng.uniform(1.0, 1.5)
    r = np.hypot(u, v)
    edge = rng.uniform(0.008, 0.03)
    if name == "blob":
        return np.exp(-0.5 * (r / (0.6 * radius)) ** 2)
    if name == "disc":
        distance = r - radius
    elif name == "ring":
        distance = np.abs(r - radius) - radius * rng.uniform(0.12, 0.3)
    elif name == "triangle":
        distance = (
            np.maximum.reduce([u * np.cos(a) + v * np.sin(a) for a in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)])
            - 0.55 * radius
        )
    elif name == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.85 * radius
    elif name == "cross":
        width = radius * rng.uniform(0.15, 0.3)
        distance = np.minimum(
            np.maximum(np.abs(u) - radius, np.abs(v) - width), np.maximum(np.abs(v) - radius, np.abs(u) - width)
        )
    elif name == "star":
        distance = r - radius * (0.7 + 0.3 * np.cos(int(rng.integers(5, 8)) * np.arctan2(v, u)))
    elif name == "crescent":
        distance = np.maximum(r - radius, 0.9 * radius - np.hypot(u - 0.5 * radius, v))
    elif name == "bars":
        pitch = radius * rng.uniform(0.4, 0.7)
        stripe = np.abs((u / pitch + 0.5) % 1 - 0.5) * pitch - 0.22 * pitch
        distance = np.maximum(stripe, r - 1.2 * radius)
    elif name == "cluster":
        centres = rng.normal(0, 0.7 * radius, (int(rng.integers(5, 14)), 2))
        distance = np.hypot(u[..., None] - centres[:, 0], v[..., None] - centres[:, 1]).min(-1)
        distance = distance - radius * rng.uniform(0.12, 0.22)
    else:  # branch: a tree of segments
        distance = _branch(u, v, radius, rng)
    return 1 / (1 + np.exp(np.clip(distance / edge * 2, -30, 30)))


def _branch(u: np.ndarray, v: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    distance = np.full(u.shape, np.inf, np.float32)
    tips = [(-1.2 * radius, 0.0, 0.0, 1.1 * radius)]
    for _ in range(3):
        following = []
        for px, py, angle, length in tips:
            qx, qy = px + length * np.cos(angle), py + length * np.sin(angle)
            dx, dy = qx - px, qy - py
            t = np.clip(((u - px) * dx + (v - py) * dy) / (dx * dx + dy * dy), 0, 1)
            distance = np.minimum(distance, np.hypot(u - px - t * dx, v - py - t * dy) - 0.06 * radius)
            following += [(qx, qy, angle + side * rng.uniform(0.3, 0.9), 0.65 * length) for side in (-1, 1)]
        tips = following
    return distance
