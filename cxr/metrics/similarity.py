"""How far two sets of attribution maps lie apart: one value per image and metric. Pure NumPy.

A map of either checkpoint is brought to the image grid by one fixed pipeline (`prepare`): min-max at its own
grid, half-pixel bilinear to the image grid, min-max again. Both steps are affine, so the result is that of
upsampling the raw map, but a map's minimum stays exactly 0 whatever the raw scale and offset were, and the
many equal zeros that a ReLU leaves stay tied (rounding would otherwise rank them at random).

What every metric rests on is computed once a map (`Features`), with a single sort that serves the overlap
at every q, the rank correlation, the Gini coefficient and the top-10 % energy; `score` then compares two.

Coordinates are those of pixel centres, (row, column) from (0, 0) to (H - 1, W - 1); distances are divided by
the image diagonal sqrt(H^2 + W^2), so that they do not depend on the resolution and stay under 1.

Rows of the two sets are pairs: join by image id before calling. They are scored in threads (`in_parts`), each
image by itself, so that no value depends on their number.
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from threadpoolctl import threadpool_limits

from cxr.core.errors import InputError

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03
# Rows a part of `in_parts`: many beside the few maps that `baselines` prepares twice where two parts meet,
# few enough for all threads to end together.
_PART = 64
_SAMPLE = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # from mean square to sample variance
_SHARES = (0.05, 0.1, 0.2, 0.3)  # q of the overlaps


@dataclass(frozen=True)
class Metric:
    """What a reader of a value needs: its name, axis label, value for identical maps and direction.

    `identical` is the value of two identical maps. `signed` metrics are after minus before and flip
    sign when the two are swapped; all others are symmetric. `higher_is_more_stable` is None where
    neither direction means stability (signed changes). `bounds`: no value lies beyond.
    """

    name: str
    identical: float
    signed: bool
    label: str
    higher_is_more_stable: bool | None
    bounds: tuple[float, float] = (0, 1)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("centroid_shift", 0.0, False, "Centroid shift (fraction of the image diagonal)", False),
        Metric("peak_shift", 0.0, False, "Peak shift (fraction of the image diagonal)", False),
        Metric("overlap_q05", 1.0, False, "Overlap of the top 5 % area (IoU)", True),
        Metric("overlap_q10", 1.0, False, "Overlap of the top 10 % area (IoU)", True),
        Metric("overlap", 1.0, False, "Overlap of the top 20 % area (IoU)", True),
        Metric("overlap_q30", 1.0, False, "Overlap of the top 30 % area (IoU)", True),
        Metric("soft_iou", 1.0, False, "Soft IoU (sum of minima / sum of maxima)", True),
        Metric("pearson", 1.0, False, "Pearson correlation", True, (-1, 1)),
        Metric("spearman", 1.0, False, "Spearman rank correlation", True, (-1, 1)),
        Metric("ssim", 1.0, False, "SSIM", True, (-1, 1)),
        Metric("gini_change", 0.0, True, "Change in Gini coefficient (after - before)", None, (-1, 1)),
        Metric("entropy_change", 0.0, True, "Change in normalised entropy (after - before)", None, (-1, 1)),
        Metric(
            "top10_energy_change",
            0.0,
            True,
            "Change in top-10 % energy share (after - before)",
            None,
            (-1.0, 1.0),
        ),
    )
}


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
    maps = _checked_maps(maps, "maps")
    height, width = _size(size)
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
    maps = _checked_maps(maps, "maps")
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
    _, spread = _low_and_range(_checked_maps(maps, "maps"))
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


def compare_maps(
    before: np.ndarray,
    after: np.ndarray,
    *,
    size: int | tuple[int, int],
    names: Iterable[str] | None = None,
    relative_range: float = 1e-6,
    workers: int | None = None,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every drift metric of every pair of maps.

    Parameters
    ----------
    before, after : arrays [n, h, w] and [n, h2, w2] of raw maps; row i of both is the same image and
        class. The grids may differ.
    size : the image grid on which maps are compared, one integer or (H, W); at least as large as either grid,
        and at least 7 for SSIM, whose window is 7x7.
    names : the metrics wanted, default all of `METRICS`; what others alone need is then not computed.
    relative_range : see `is_empty`, which is applied to each set.
    workers : images scored at a time, see `in_parts`. A few MB of memory each, whatever n; no value depends on it.
    rows : int [m], the pairs wanted, by row number; default all. Their values are those that they have among all:
        the others tell what is empty.

    Returns
    -------
    dict of float64 [m] per metric, in the order of `METRICS`, NaN where either map is empty, and
    "empty_before" and "empty_after", bool [m]; in the order of `rows`.

    Raises
    ------
    InputError : on sets of other shapes or different lengths, unknown names, or a size too small.

    Notes
    -----
    With T and F the prepared maps and N = H W pixels:

    centroid_shift   distance of the intensity-weighted centroids / diagonal.
    peak_shift       distance of the maxima / diagonal; a tie of several pixels counts at their mean position
                     (a maximum in a corner is a plateau after upsampling; its mean treats all corners alike).
    overlap, overlap_q05, ...  I / (2k - I), where I counts pixels in both top-k sets and k = max(1, round(q N)),
                     halves to the even side; among equal values the lower row-major pixel index enters first.
    soft_iou         sum min(T, F) / sum max(T, F).
    pearson          over the N pixels.
    spearman         Pearson of ranks, ties at their average rank.
    ssim             Wang et al. (2004), eq. 13 with K = (0.01, 0.03), L = 1, uniform 7x7 windows, sample
                     covariance, mean over whole windows: scikit-image's default with data_range=1.
    gini_change      G = 2 sum_i i x_(i) / (N sum x) - (N + 1) / N, x ascending, i from 1.
    entropy_change   Shannon entropy of the map divided by its sum, over log N: 1 uniform, 0 one pixel.
    top10_energy_change  share of the sum in the top-k pixels for q = 0.1.
    """
    before, after = _checked_maps(before, "before"), _checked_maps(after, "after")
    if len(before) != len(after):
        raise InputError(
            f"compare_maps: {len(before)} maps before against {len(after)} after; "
            "join both by image id first, so that row i is the same image in both."
        )
    wanted = _wanted(names)
    size = _size(size)
    if "ssim" in wanted and min(size) < SSIM_WINDOW:
        raise InputError(
            f"compare_maps: size {size[0]}x{size[1]} is smaller than SSIM's window, "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}; ask for a larger size, or leave 'ssim' out of names."
        )
    for maps in (before, after):  # also for sets too bad to be scored
        upsample(maps[:0], size)

    flags = {
        "empty_before": is_empty(before, relative_range=relative_range),
        "empty_after": is_empty(after, relative_range=relative_range),
    }
    rows = np.arange(len(before)) if rows is None else np.asarray(rows, int)
    flags = {name: flag[rows] for name, flag in flags.items()}
    usable = np.flatnonzero(~(flags["empty_before"] | flags["empty_after"]))
    values = {name: np.full(len(rows), np.nan) for name in wanted}

    def fill(part: np.ndarray) -> None:
        for at in part.tolist():
            i = rows[at]
            pair = (Features(prepare(maps[i : i + 1], size)[0]) for maps in (before, after))
            for name, value in score(*pair, wanted).items():
                values[name][at] = value

    in_parts(fill, usable, workers)
    return values | flags


def in_parts(work: Callable[[np.ndarray], None], rows: np.ndarray, workers: int | None = None) -> None:
    """Call `work` with each part of `rows`, consecutive and short, in threads.

    NumPy computes outside Python's lock, so that they do so at once. Meanwhile BLAS keeps to one
    thread, in the whole process: its own would be in each other's way, and how it shares out a sum changes the
    last digits.

    Parameters
    ----------
    work : writes its results where the caller finds them, each row's the same whatever part it is in.
    rows : [n], row numbers.
    workers : threads; default the cores this process may use, and no more than OMP_NUM_THREADS, which a study
        that runs several notebooks at once sets for each.
    """
    if workers is None:
        workers = _cores()
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}.")
    length = max(1, min(_PART, -(-len(rows) // workers)))
    parts = [rows[start : start + length] for start in range(0, len(rows), length)]
    # 24 MB that nothing touches: freed, they tell glibc to keep arrays of a map's size for the next ones. Else it
    # returns their pages each time, and their faults take longer than the arithmetic.
    np.empty(3 << 20)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, parts):  # raises what a part raised
            pass


class Features:
    """What the metrics need of one prepared map (`prepare`), each computed once and on demand.

    Kept apart from the comparison so that a map compared with several others (of the other checkpoint, of another
    image of its class, of another seed) is sorted and filtered once.
    """

    def __init__(self, prepared: np.ndarray):
        """`prepared`: float32 [H, W], minimum 0 and maximum 1."""
        self.shape = prepared.shape
        self.flat32 = np.ascontiguousarray(prepared, dtype=np.float32).ravel()
        self.flat = self.flat32.astype(np.float64)

    @property
    def pixels(self) -> int:
        return self.flat.size

    @cached_property
    def total(self) -> float:
        return float(self.flat.sum())

    @cached_property
    def order(self) -> np.ndarray:
        """Pixel indices from the highest value to the lowest; among equal values the lower index first.

        Bit patterns of floats >= 0 order as the floats do, so (inverted pattern, index) in one 64-bit key
        turns a stable argsort into a plain sort, which NumPy vectorises: several times faster.
        """
        keys = (~self.flat32.view(np.uint32)).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= np.arange(self.pixels, dtype=np.uint64)
        keys.sort()
        keys &= np.uint64(0xFFFFFFFF)
        return keys.view(np.int64)

    @cached_property
    def descending(self) -> np.ndarray:
        return self.flat[self.order]

    @cached_property
    def centroid(self) -> np.ndarray:
        """Intensity-weighted mean (row, column)."""
        values = self.flat.reshape(self.shape)
        height, width = self.shape
        return np.array([values.sum(1) @ np.arange(height), values.sum(0) @ np.arange(width)]) / self.total

    @cached_property
    def peak(self) -> np.ndarray:
        """(row, column) of the maximum; the mean position of tied ones."""
        tied = np.flatnonzero(self.flat32 == self.flat32.max())
        return np.array([index.mean() for index in np.unravel_index(tied, self.shape)])

    @cached_property
    def centred(self) -> np.ndarray:
        """Values with mean 0 and norm 1: a dot product of two is Pearson's correlation."""
        return _unit(self.flat - self.total / self.pixels)

    @cached_property
    def centred_ranks(self) -> np.ndarray:
        """The same of average ranks: a dot product of two is Spearman's correlation."""
        n = self.pixels
        change = self.descending[1:] != self.descending[:-1]
        run = np.zeros(n, dtype=np.intp)  # of equal values, by place in the order
        np.cumsum(change, out=run[1:])
        last = np.append(np.flatnonzero(change), n - 1)
        first = np.append(0, last[:-1] + 1)
        # All places average (n - 1) / 2; less those of the run, because the order is descending.
        ranks = ((n - 1 - first - last) / 2)[run]
        centred = np.empty(self.pixels)
        centred[self.order] = _unit(ranks)
        return centred

    @cached_property
    def tops(self) -> dict[float, np.ndarray]:
        """The pixels of each top-q area as a set: a bit a pixel, in as many uint64 as it takes."""
        sets = {}
        for q in _SHARES:
            member = np.zeros(-(-self.pixels // 64) * 64, dtype=bool)
            member[self.order[: top_count(q, self.pixels)]] = True
            sets[q] = np.packbits(member).view(np.uint64)
        return sets

    @cached_property
    def local(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """SSIM's parts of one map in every window (`_window_means`): the mean m, m^2 + c1 / 2, and the sample
        variance + c2 / 2. Sums of two maps' second and third are the factors of its denominator."""
        mean, square = (_window_means(values, self.shape[1]) for values in (self.flat, self.flat * self.flat))
        squared = mean * mean
        square -= squared
        square *= _SAMPLE
        square += SSIM_K2**2 / 2
        squared += SSIM_K1**2 / 2
        return mean, squared, square

    @cached_property
    def gini(self) -> float:
        # Ranks less their mean (N + 1) / 2, whose share of the sum is the definition's last term.
        ranks = _centred_places(self.pixels)
        return float(2 * (ranks @ self.descending) / (self.pixels * self.total))

    @cached_property
    def entropy(self) -> float:
        # With p = x / s: -sum p log p = log s - sum(x log x) / s; 0 log 0 is 0.
        logs = np.log(np.maximum(self.flat, 1e-300))
        return float((math.log(self.total) - self.flat @ logs / self.total) / math.log(self.pixels))

    @cached_property
    def top10_energy(self) -> float:
        return float(self.descending[: top_count(0.1, self.pixels)].sum() / self.total)


def score(before: Features, after: Features, names: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics `names` (default all) of one pair of maps of the same size; see `compare_maps`."""
    if before.shape != after.shape:
        raise InputError(
            f"score: maps of {before.shape} and {after.shape} cannot be compared; prepare both at one size."
        )
    return {name: float(_SCORES[name](before, after)) for name in _wanted(names)}


def top_count(q: float, pixels: int) -> int:
    """Number of pixels in the top-q area: round(q * pixels), halves to the even side, at least 1."""
    return max(1, round(q * pixels))


def _distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, int]) -> float:
    return math.hypot(*(a - b)) / math.hypot(*shape)


def _top_iou(t: Features, f: Features, q: float) -> float:
    both = int(np.bitwise_count(t.tops[q] & f.tops[q]).sum())
    return both / (2 * top_count(q, t.pixels) - both)


def _soft_iou(t: Features, f: Features) -> float:
    smaller = np.minimum(t.flat, f.flat).sum()
    return smaller / (t.total + f.total - smaller)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return min(1.0, max(-1.0, a @ b))  # rounding can step over the bounds


def _ssim(t: Features, f: Features) -> float:
    (mean_t, squared_t, variance_t), (mean_f, squared_f, variance_f) = t.local, f.local
    # (2 m_t m_f + c1) (2 cov + c2) / ((m_t^2 + m_f^2 + c1) (var_t + var_f + c2)), in place: memory is what costs.
    height, width = t.shape
    covariance = _window_means(t.flat * f.flat, width)
    product = mean_t * mean_f
    covariance -= product
    covariance *= 2 * _SAMPLE
    covariance += SSIM_K2**2
    product *= 2
    product += SSIM_K1**2
    product *= covariance
    denominator = squared_t + squared_f
    denominator *= variance_t + variance_f
    product /= denominator
    edge = SSIM_WINDOW - 1
    return _window_total(product, width) / ((height - edge) * (width - edge))


_SCORES: dict[str, Callable[[Features, Features], float]] = {
    "centroid_shift": lambda t, f: _distance(t.centroid, f.centroid, t.shape),
    "peak_shift": lambda t, f: _distance(t.peak, f.peak, t.shape),
    "overlap_q05": lambda t, f: _top_iou(t, f, 0.05),
    "overlap_q10": lambda t, f: _top_iou(t, f, 0.10),
    "overlap": lambda t, f: _top_iou(t, f, 0.20),
    "overlap_q30": lambda t, f: _top_iou(t, f, 0.30),
    "soft_iou": _soft_iou,
    "pearson": lambda t, f: _correlation(t.centred, f.centred),
    "spearman": lambda t, f: _correlation(t.centred_ranks, f.centred_ranks),
    "ssim": _ssim,
    "gini_change": lambda t, f: f.gini - t.gini,
    "entropy_change": lambda t, f: f.entropy - t.entropy,
    "top10_energy_change": lambda t, f: f.top10_energy - t.top10_energy,
}


def _unit(centred: np.ndarray) -> np.ndarray:
    return centred / math.sqrt(centred @ centred)


def _window_means(flat: np.ndarray, width: int) -> np.ndarray:
    """Means over 7x7 windows of a flat float64 map [H W], by the pixel at their upper left: [(H - 6) W - 6].

    Flat sums are faster than sums of rows. Windows at the last six pixels of a row wrap round the edge, which
    `_window_total` leaves out.
    """
    for step in (1, width):  # sums of 2, 4 and 7, each way
        two = flat[:-step] + flat[step:]
        four = two[: -2 * step] + two[2 * step :]
        seven = four[: -3 * step] + two[4 * step : -step]
        seven += flat[6 * step :]
        flat = seven
    flat /= SSIM_WINDOW**2
    return flat


def _window_total(values: np.ndarray, width: int) -> float:
    """Sum over the windows of `_window_means` that are whole. The last row has no others."""
    last = len(values) - (width - SSIM_WINDOW + 1)
    return values[:last].reshape(-1, width)[:, : 1 - SSIM_WINDOW].sum() + values[last:].sum()


@lru_cache(maxsize=8)
def _centred_places(n: int) -> np.ndarray:
    """Ranks of n values in descending order, less their mean: (n - 1) / 2 ... -(n - 1) / 2; read-only."""
    places = (n - 1) / 2 - np.arange(n)
    places.flags.writeable = False
    return places


def _cores() -> int:
    """Cores for this process: those it may run on, fewer if OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores


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


def _checked_maps(maps: np.ndarray, name: str) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(f"{name}: expected a set of maps [n, h, w], got an array of shape {maps.shape}.")
    if maps.dtype.kind not in "fiub":
        raise InputError(f"{name}: expected real numbers, got dtype {maps.dtype}.")
    return maps


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in pair):
        raise InputError(f"size: expected one positive integer or (height, width), got {size!r}.")
    return int(pair[0]), int(pair[1])


def _wanted(names: Iterable[str] | None) -> list[str]:
    if names is None:
        return list(METRICS)
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"names: unknown metrics {unknown}; known are {list(METRICS)}.")
    return [name for name in METRICS if name in names]
