"""What pictures are drawn with: soft edges, smooth noise, points, discs and lines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from cxr.data.phantom.coordinates import View, pixel_centres, to_pixels


def ramp(distance: np.ndarray, half_width: float) -> np.ndarray:
    """A smooth step (Hermite): 0 up to `distance` -half_width, 1 from half_width on."""
    t = distance * np.float32(0.5 / half_width)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    # In place, as this is the most frequent operation.
    curve = t * np.float32(-2)
    curve += np.float32(3)
    curve *= t
    curve *= t
    return curve


def _spline_weights(coordinates: np.ndarray, n: int) -> np.ndarray:
    """Weights [len(coordinates), n] of a uniform cubic B-spline with n coefficients over [-1.5, 1.5]."""
    position = (coordinates + 1.5) * ((n - 4) / 3.0) + 1.0
    first = np.clip(np.floor(position), 1, n - 3).astype(int)
    t = np.clip(position - first, 0.0, 1.0)
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    weights = np.zeros((len(coordinates), n), np.float32)
    rows = np.arange(len(coordinates))
    for tap in range(4):
        weights[rows, first + tap - 1] = taps[tap]
    return weights


def texture(view: View, lattice: np.ndarray) -> np.ndarray:
    """Smooth noise, about standard normal, float32 [size, size]: a B-spline surface through white noise.

    It follows the shift and the scale of the pose. It does not follow the rotation, as a product of two matrices
    cannot rotate.
    """
    centres, shot = pixel_centres(view.size), view.shot
    rows = _spline_weights((centres - shot.shift[1]) / shot.scale, lattice.shape[0])
    columns = _spline_weights((centres - shot.shift[0]) / shot.scale, lattice.shape[1])
    # 151/315 is the sum of squared weights of one axis, averaged over the phase.
    return (rows @ lattice @ columns.T) * np.float32(315 / 151)


def splat(view: View, xy: np.ndarray, area: np.ndarray, sigma: float) -> np.ndarray:
    """Density of points `xy` [n, 2] that are blurred by `sigma`; each point adds `area` [n] (density x area)."""
    size = view.size
    points = to_pixels(view, xy)
    inside = np.all((points > -1) & (points < size), axis=1)
    points = points[inside] + 1
    weight = area[inside] * (size / 2) ** 2
    corner = np.floor(points).astype(int)
    (fx, fy), (cx, cy) = (points - corner).T, corner.T
    span = size + 3
    at = np.concatenate([cy * span + cx, cy * span + cx + 1, (cy + 1) * span + cx, (cy + 1) * span + cx + 1])
    share = np.concatenate([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])
    grid = np.bincount(at, weights=np.tile(weight, 4) * share, minlength=span * span).astype(np.float32)
    field = grid.reshape(span, span)[1 : size + 1, 1 : size + 1]
    return gaussian_filter(field, sigma * view.shot.scale * size / 2, mode="constant", truncate=3.0)


class _Patch(NamedTuple):
    where: tuple[slice, slice]
    dx: np.ndarray  # canonical offsets from the centre
    dy: np.ndarray


def patch_at(view: View, x: float, y: float, reach: float) -> _Patch | None:
    """The pixels within `reach` of a point; None if there are none."""
    ((px, py),) = to_pixels(view, np.array([[x, y]]))
    half = reach * view.shot.scale * view.size / 2 + 1
    left, right = max(0, int(px - half)), min(view.size, int(px + half) + 2)
    top, bottom = max(0, int(py - half)), min(view.size, int(py + half) + 2)
    if left >= right or top >= bottom:
        return None
    where = (slice(top, bottom), slice(left, right))
    return _Patch(where, view.x[where] - np.float32(x), view.y[where] - np.float32(y))


def add_haze(density: np.ndarray, view: View, x: float, y: float, sigma: float, strength: float) -> None:
    patch = patch_at(view, x, y, 3 * sigma)
    if patch is not None:
        square = (patch.dx * patch.dx + patch.dy * patch.dy) * np.float32(-0.5 / sigma**2)
        density[patch.where] += np.float32(strength) * np.exp(square)


def ridges(noise: np.ndarray, sharpness: float) -> np.ndarray:
    """A net of lines, values 0 to 1: they run where smooth noise crosses zero."""
    return np.exp(-((noise * np.float32(1 / sharpness)) ** 2))


def add_disc(
    density: np.ndarray, view: View, x: float, y: float, radius: float, strength: float, softness: float
) -> None:
    patch = patch_at(view, x, y, radius * (1 + softness))
    if patch is not None:
        r = np.hypot(patch.dx, patch.dy) * np.float32(1 / radius)
        density[patch.where] += np.float32(strength) * ramp(1 - r, softness)


def cord(
    view: View, centre: tuple[float, float], angle: float, length: float, sigma: float, strength: float
) -> np.ndarray:
    t = np.linspace(-0.5, 0.5, 160)
    line = np.array(centre) + length * t[:, None] * np.array([np.cos(angle), np.sin(angle)])
    taper = np.sqrt(1 - (2 * t) ** 2)
    return splat(view, line, strength * sigma * np.sqrt(2 * np.pi) * length / 160 * taper, sigma)
