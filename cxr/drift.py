"""How far two stacks of attribution maps lie apart: one value per image and metric. Pure NumPy.

A map of either stage is brought to the image grid by one fixed pipeline (`prepare`): min-max at its own
grid, half-pixel bilinear to the image grid, min-max again. Both steps are affine, so the result is that of
upsampling the raw map, but a map's minimum stays exactly 0 whatever the raw scale and offset were, and the
many equal zeros that a ReLU leaves stay tied (rounding would otherwise rank them at random).

What every metric rests on is computed once a map (`Features`), with a single sort that serves the overlap
at every q, the rank correlation, the Gini coefficient and the top-10 % energy; `score` then compares two.

Coordinates are those of pixel centres, (row, column) from (0, 0) to (H - 1, W - 1); distances are divided by
the image diagonal sqrt(H^2 + W^2), so that they do not depend on the resolution and stay under 1.

Rows of the two stacks are pairs: join by image id before calling.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxr.errors import InputError

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03


@dataclass(frozen=True)
class Metric:
    """What a reader of a value needs: its name, axis label, value for identical maps and direction.

    `identical` is the value of two identical maps. `signed` metrics are fine-tuned minus transfer and flip
    sign when the stages are swapped; all others are symmetric. `higher_is_more_stable` is None where
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
        Metric("iou05", 1.0, False, "IoU of the top 5 % area", True),
        Metric("iou10", 1.0, False, "IoU of the top 10 % area", True),
        Metric("iou20", 1.0, False, "IoU of the top 20 % area", True),
        Metric("iou30", 1.0, False, "IoU of the top 30 % area", True),
        Metric("soft_iou", 1.0, False, "Soft IoU (sum of minima / sum of maxima)", True),
        Metric("pearson", 1.0, False, "Pearson correlation", True, (-1, 1)),
        Metric("spearman", 1.0, False, "Spearman rank correlation", True, (-1, 1)),
        Metric("ssim", 1.0, False, "SSIM", True, (-1, 1)),
        Metric("gini_change", 0.0, True, "Change in Gini coefficient (fine-tuned - transfer)", None, (-1, 1)),
        Metric("entropy_change", 0.0, True, "Change in normalised entropy (fine-tuned - transfer)", None, (-1, 1)),
        Metric(
            "top10_energy_change",
            0.0,
            True,
            "Change in top-10 % energy share (fine-tuned - transfer)",
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
    maps = _stack(maps, "maps")
    height, width = _size(size)
    h, w = maps.shape[1:]
    if height < h or width < w:
        raise InputError(
            f"upsample: maps of {h}x{w} cannot be brought to {height}x{width}, which is smaller; "
            f"ask for a size of at least {h}x{w}."
        )
    rows, columns = _bilinear_weights(h, height), _bilinear_weights(w, width)
    return (rows @ maps.astype(np.float64) @ columns.T).astype(np.float32)


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
    maps = _stack(maps, "maps").astype(np.float64)
    low, spread = _low_and_range(maps)
    spread[spread == 0] = np.nan
    low[np.isnan(spread)] = np.nan
    return ((maps - low[:, None, None]) / spread[:, None, None]).astype(np.float32)


def degenerate(maps: np.ndarray, *, relative_range: float = 1e-6) -> np.ndarray:
    """Which maps say nothing: constant (all zero above all), not finite, or next to constant.

    Next to constant means a range (maximum minus minimum) below `relative_range` times the stack's median
    range, where the median is over the finite maps of non-zero range: a stack in which most maps vanished
    must not thereby lower the bar to zero. It is a property of the stack: pass all maps of a cell at once.

    Parameters
    ----------
    maps : array [n, h, w], raw maps at their own grid.
    relative_range : the threshold, relative; 0 flags only constant maps and those that are not finite.

    Returns
    -------
    bool [n], True for degenerate maps.
    """
    if not relative_range >= 0:
        raise InputError(f"degenerate: relative_range must be 0 or more, got {relative_range}.")
    _, spread = _low_and_range(_stack(maps, "maps").astype(np.float64))
    alive = np.isfinite(spread) & (spread > 0)
    if not alive.any():
        return ~alive
    return ~alive | (spread < relative_range * np.median(spread[alive]))


def prepare(maps: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Raw maps [n, h, w] to scored ones: float32 [n, H, W] in [0, 1], NaN where constant or not finite.

    Samples at most one input pixel apart determine a bilinear surface, so only a constant map comes out
    constant: what `degenerate` says of the raw map holds for the prepared one.
    """
    return normalise(upsample(normalise(maps), size))


def compare_maps(
    transfer: np.ndarray,
    fine_tuned: np.ndarray,
    *,
    size: int | tuple[int, int],
    names: Iterable[str] | None = None,
    relative_range: float = 1e-6,
    chunk: int = 32,
) -> dict[str, np.ndarray]:
    """Every drift metric of every pair of maps.

    Parameters
    ----------
    transfer, fine_tuned : arrays [n, h, w] and [n, h2, w2] of raw maps; row i of both is the same image and
        class. The grids may differ.
    size : the image grid on which maps are compared, one integer or (H, W); at least as large as either grid,
        and at least 7 for SSIM, whose window is 7x7.
    names : the metrics wanted, default all of `METRICS`; what others alone need is then not computed.
    relative_range : see `degenerate`, which is applied to each stack.
    chunk : pairs upsampled at a time; bounds the memory, does not change any value.

    Returns
    -------
    dict of float64 [n] per metric, in the order of `METRICS`, NaN where either map is degenerate, and
    "degenerate_transfer" and "degenerate_fine_tuned", bool [n].

    Raises
    ------
    InputError : on stacks of other shapes or different lengths, unknown names, or a size too small.

    Notes
    -----
    With T and F the prepared maps and N = H W pixels:

    centroid_shift   distance of the intensity-weighted centroids / diagonal.
    peak_shift       distance of the maxima / diagonal; a tie of several pixels counts at their mean position
                     (a maximum in a corner is a plateau after upsampling; its mean treats all corners alike).
    iou05 ... iou30  I / (2k - I), where I counts pixels in both top-k sets and k = max(1, round(q N)), halves
                     to the even side; among equal values the lower row-major pixel index enters first.
    soft_iou         sum min(T, F) / sum max(T, F).
    pearson          over the N pixels.
    spearman         Pearson of ranks, ties at their average rank.
    ssim             Wang et al. (2004), eq. 13 with K = (0.01, 0.03), L = 1, uniform 7x7 windows, sample
                     covariance, mean over whole windows: scikit-image's default with data_range=1.
    gini_change      G = 2 sum_i i x_(i) / (N sum x) - (N + 1) / N, x ascending, i from 1.
    entropy_change   Shannon entropy of the map divided by its sum, over log N: 1 uniform, 0 one pixel.
    top10_energy_change  share of the sum in the top-k pixels for q = 0.1.
    """
    transfer, fine_tuned = _stack(transfer, "transfer"), _stack(fine_tuned, "fine_tuned")
    if len(transfer) != len(fine_tuned):
        raise InputError(
            f"compare_maps: {len(transfer)} transfer maps against {len(fine_tuned)} fine-tuned ones; "
            "join both by image id first, so that row i is the same image in both."
        )
    if chunk < 1:
        raise InputError(f"compare_maps: chunk must be at least 1, got {chunk}.")
    wanted = _wanted(names)
    size = _size(size)
    if "ssim" in wanted and min(size) < SSIM_WINDOW:
        raise InputError(
            f"compare_maps: size {size[0]}x{size[1]} is smaller than SSIM's window, "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}; ask for a larger size, or leave 'ssim' out of names."
        )
    for maps in (transfer, fine_tuned):  # also for stacks too bad to be scored
        upsample(maps[:0], size)

    flags = {
        "degenerate_transfer": degenerate(transfer, relative_range=relative_range),
        "degenerate_fine_tuned": degenerate(fine_tuned, relative_range=relative_range),
    }
    usable = np.flatnonzero(~(flags["degenerate_transfer"] | flags["degenerate_fine_tuned"]))
    values = {name: np.full(len(transfer), np.nan) for name in wanted}
    for start in range(0, len(usable), chunk):
        index = usable[start : start + chunk]
        pairs = zip(index, prepare(transfer[index], size), prepare(fine_tuned[index], size), strict=True)
        for i, t, f in pairs:
            for name, value in score(Features(t), Features(f), wanted).items():
                values[name][i] = value
    return values | flags


class Features:
    """What the metrics need of one prepared map (`prepare`), each computed once and on demand.

    Kept apart from the comparison so that a map compared with several others (another stage, another image
    of its class, another seed) is sorted and filtered once.
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
        keys = (~self.flat32.view(np.uint32)).astype(np.uint64) << np.uint64(32)
        keys |= np.arange(self.pixels, dtype=np.uint64)
        keys.sort()
        return (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)

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
        runs = np.flatnonzero(np.diff(self.descending)) + 1
        edges = np.concatenate(([0], runs, [self.pixels]))
        # A run from a to b - 1 has the mean position (a + b - 1) / 2; all positions average (N - 1) / 2.
        # Negated, because the order is descending.
        ranks = (self.pixels - edges[:-1] - edges[1:]) / 2
        centred = np.empty(self.pixels)
        centred[self.order] = np.repeat(ranks, np.diff(edges))
        return _unit(centred)

    @cached_property
    def local(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean square over every whole SSIM window, [H - 6, W - 6] each."""
        values = self.flat.reshape(self.shape)
        return _window_mean(values), _window_mean(values * values)

    @cached_property
    def gini(self) -> float:
        weights = np.arange(self.pixels, 0, -1, dtype=np.float64)
        n = self.pixels
        return float(2 * (weights @ self.descending) / (n * self.total) - (n + 1) / n)

    @cached_property
    def entropy(self) -> float:
        # With p = x / s: -sum p log p = log s - sum(x log x) / s; 0 log 0 is 0.
        logs = np.log(np.where(self.flat > 0, self.flat, 1.0))
        return float((math.log(self.total) - self.flat @ logs / self.total) / math.log(self.pixels))

    @cached_property
    def top10_energy(self) -> float:
        return float(self.descending[: top_count(0.1, self.pixels)].sum() / self.total)


def score(transfer: Features, fine_tuned: Features, names: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics `names` (default all) of one pair of maps of the same size; see `compare_maps`."""
    if transfer.shape != fine_tuned.shape:
        raise InputError(
            f"score: maps of {transfer.shape} and {fine_tuned.shape} cannot be compared; prepare both at one size."
        )
    return {name: float(_SCORES[name](transfer, fine_tuned)) for name in _wanted(names)}


def top_count(q: float, pixels: int) -> int:
    """Number of pixels in the top-q area: round(q * pixels), halves to the even side, at least 1."""
    return max(1, round(q * pixels))


def _distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, int]) -> float:
    return math.hypot(*(a - b)) / math.hypot(*shape)


def _top_iou(t: Features, f: Features, q: float) -> float:
    k = top_count(q, t.pixels)
    member = np.zeros(t.pixels, dtype=bool)
    member[f.order[:k]] = True
    both = np.count_nonzero(member[t.order[:k]])
    return both / (2 * k - both)


def _soft_iou(t: Features, f: Features) -> float:
    smaller = np.minimum(t.flat, f.flat).sum()
    return smaller / (t.total + f.total - smaller)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return min(1.0, max(-1.0, a @ b))  # rounding can step over the bounds


def _ssim(t: Features, f: Features) -> float:
    (mean_t, square_t), (mean_f, square_f) = t.local, f.local
    mean_tf = _window_mean((t.flat * f.flat).reshape(t.shape))
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    product, squares = mean_t * mean_f, mean_t * mean_t + mean_f * mean_f
    numerator = (2 * product + c1) * (2 * sample * (mean_tf - product) + c2)
    numerator /= (squares + c1) * (sample * (square_t + square_f - squares) + c2)
    return numerator.mean()


_SCORES: dict[str, Callable[[Features, Features], float]] = {
    "centroid_shift": lambda t, f: _distance(t.centroid, f.centroid, t.shape),
    "peak_shift": lambda t, f: _distance(t.peak, f.peak, t.shape),
    "iou05": lambda t, f: _top_iou(t, f, 0.05),
    "iou10": lambda t, f: _top_iou(t, f, 0.10),
    "iou20": lambda t, f: _top_iou(t, f, 0.20),
    "iou30": lambda t, f: _top_iou(t, f, 0.30),
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


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Mean over every whole 7x7 window of float64 [H, W]: [H - 6, W - 6]. Sums of 2, 4 and 7, each way."""
    for _ in range(2):  # rows, then (transposed) columns
        two = values[:-1] + values[1:]
        four = two[:-2] + two[2:]
        values = (four[:-3] + two[4:-1] + values[6:]).T
    return values / SSIM_WINDOW**2


def _bilinear_weights(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: each output pixel as a weighted mean of at most two input pixels."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    weights[np.arange(target), low] += 1 - (position - low)
    weights[np.arange(target), high] += position - low
    return weights


def _low_and_range(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and range of each float64 map, [n] each; range NaN where not finite."""
    low, high = maps.min((1, 2)), maps.max((1, 2))
    with np.errstate(invalid="ignore", over="ignore"):
        spread = high - low
    spread[~np.isfinite(spread)] = np.nan
    return low, spread


def _stack(maps: np.ndarray, name: str) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(f"{name}: expected a stack of maps [n, h, w], got an array of shape {maps.shape}.")
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
