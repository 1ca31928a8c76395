"""Raw maps to a common grid and scale, and which maps are empty.

A map of either checkpoint is brought to the image grid by one fixed pipeline (`prepare`): min-max on its own grid,
half-pixel bilinear to the image grid, min-max again. All steps are affine, so the result equals upsampling the raw
map. The first min-max keeps a map's minimum at exactly 0, whatever the raw scale and offset are, so that the many
equal zeros that a ReLU leaves stay tied. (Without it, rounding would rank them at random.)
"""

from functools import lru_cache

import numpy as np

from cxr.core.errors import InputError


def upsample(maps: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Bilinear upsampling with half-pixel centres and clamped edges, as two matrix products R M C^T.

    The convention of `tf.image.resize(method="bilinear", antialias=False)`: output pixel i samples the input
    at (i + 0.5) h / H - 0.5, clamped to [0, h - 1].

    Parameters
    ----------
    maps : array [n, h, w], any real dtype.
    size : (H, W), or one integer for a square; at least as large as the maps in both directions.

    Returns
    -------
    float32 [n, H, W]; computed in float64, so that equal float32 neighbours stay exactly equal.

    Raises
    ------
    InputError : on other shapes, and on downsampling, which bilinear sampling would alias.
    """
    maps = checked_maps(maps, "maps")
    height, width = grid_size(size)
    h, w = maps.shape[1:]
    if height < h or width < w:
        raise InputError(
            f"upsample: maps of {h}x{w} cannot be brought to {height}x{width}, which is smaller; "
            f"ask for a size of at least {h}x{w}."
        )
    rows, columns = _bilinear_weights(h, height), _bilinear_weights(w, width)
    out = np.empty((len(maps), height, width), np.float32)
    for i, small in enumerate(maps.astype(np.float64)):  # one by one: its float64 values stay in the cache
        out[i] = rows @ small @ columns.T
    return out


def normalise(maps: np.ndarray) -> np.ndarray:
    """Min-max of each map to [0, 1].

    Parameters
    ----------
    maps : array [n, h, w], any real dtype.

    Returns
    -------
    float32 [n, h, w]; every map has minimum 0 and maximum 1 exactly. A map of zero range, or with a value
    that is not finite, has no such form and comes out all NaN.
    """
    maps = checked_maps(maps, "maps")
    out = np.empty(maps.shape, np.float32)
    for i in range(len(maps)):  # as in `upsample`
        low, spread = (part[0] for part in _low_and_range(maps[i : i + 1]))
        values = maps[i].astype(np.float64)
        if spread > 0:
            values -= low
            values /= spread
            out[i] = values
        else:
            out[i] = np.nan
    return out


def is_empty(maps: np.ndarray, *, relative_range: float = 1e-6) -> np.ndarray:
    """Which maps say nothing: constant (all zero above all), not finite, or next to constant.

    Next to constant means a range (maximum minus minimum) below `relative_range` times the set's median
    range, where the median is over the finite maps of non-zero range: a set in which most maps vanished
    must not thereby lower the bar to zero. It is a property of the set: pass all maps of a cell at once.

    Parameters
    ----------
    maps : array [n, h, w], raw maps at their own grid.
    relative_range : the threshold, relative; 0 flags only constant maps and those that are not finite.

    Returns
    -------
    bool [n], True for empty maps.
    """
    if not relative_range >= 0:
        raise InputError(f"is_empty: relative_range must be 0 or more, got {relative_range}.")
    _, spread = _low_and_range(checked_maps(maps, "maps"))
    alive = np.isfinite(spread) & (spread > 0)
    if not alive.any():
        return ~alive
    return ~alive | (spread < relative_range * np.median(spread[alive]))


def prepare(maps: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Raw maps [n, h, w] to scored ones: float32 [n, H, W] in [0, 1], NaN where constant or not finite.

    Samples at most one input pixel apart determine a bilinear surface, so only a constant map comes out
    constant: what `is_empty` says of the raw map holds for the prepared one.
    """
    return normalise(upsample(normalise(maps), size))


@lru_cache(maxsize=32)
def _bilinear_weights(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: each output pixel as a weighted mean of at most two input pixels."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    weights[np.arange(target), low] += 1 - (position - low)
    weights[np.arange(target), high] += position - low
    weights.flags.writeable = False
    return weights


def _low_and_range(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and range of each map, float64 [n] each; range NaN where not finite."""
    low, high = (part((1, 2)).astype(np.float64) for part in (maps.min, maps.max))
    with np.errstate(invalid="ignore", over="ignore"):
        spread = high - low
    spread[~np.isfinite(spread)] = np.nan
    return low, spread


def checked_maps(maps: np.ndarray, name: str) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(f"{name}: expected a set of maps [n, h, w], got an array of shape {maps.shape}.")
    if maps.dtype.kind not in "fiub":
        raise InputError(f"{name}: expected real numbers, got dtype {maps.dtype}.")
    return maps


def grid_size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in pair):
        raise InputError(f"size: expected one positive integer or (height, width), got {size!r}.")
    return int(pair[0]), int(pair[1])
