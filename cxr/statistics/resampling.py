"""How often each patient is drawn, and statistics of values that count so often.

A bootstrap replicate is not a resampled table but a count per row: how often that row was drawn. Thousands of
replicates are then a few array operations, and tables that share rows can be resampled alike.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

Statistic = Literal["median", "mean"]
BLOCK = 2_000_000  # rows x replicates in memory at a time
_MANY = 128  # from so many replicates on, summing all of them at once is faster


def patient_draws(patients: int, n_boot: int, rng_seed: int) -> np.ndarray:
    """int64 [n_boot, patients]: how often each is among so many draws with replacement. Read-only.

    The last ones are kept, if they are small: hundreds of intervals are over the same patients.
    """
    draw = _kept_draws if patients * n_boot <= BLOCK else _draws
    return draw(patients, n_boot, rng_seed)


def _draws(patients: int, n_boot: int, rng_seed: int) -> np.ndarray:
    if patients == 1:
        drawn = np.ones((n_boot, 1), dtype=np.int64)
    else:
        shares = np.full(patients, 1 / patients)
        drawn = np.random.default_rng(rng_seed).multinomial(patients, shares, size=n_boot)
    drawn.flags.writeable = False
    return drawn


_kept_draws = lru_cache(maxsize=8)(_draws)


def counts_by_row(weights: np.ndarray) -> np.ndarray:
    """Weights [b, n] as int32 [n, b]: the fastest layout for work on one image in all replicates at once."""
    return np.ascontiguousarray(weights.T, dtype=np.int32)


def weighted(statistic: Statistic, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The statistic of `values` [n], each counted as often as `weights` int [b, n] says: float64 [b]."""
    return {"mean": _weighted_mean, "median": _weighted_median}[statistic](values, weights)


def replicates(statistic: Statistic, values: np.ndarray, draws: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The statistic of `values` [n] in each replicate, block by block: float64 [b]; NaN where none is drawn.

    Args:
        draws: int [m, b], how often each unit is drawn (`counts_by_row`).
        rows: int [n], the unit of each value.
    """
    out = np.full(draws.shape[1], np.nan)
    if not len(values):
        return out
    block = max(1, BLOCK // len(values))
    for start in range(0, len(out), block):
        part = slice(start, start + block)
        out[part] = weighted(statistic, values, draws[rows, part].T)
    return out


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1)
    return np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`np.median` of the values repeated by their weights: the mean of the lower and the upper middle one."""
    rank = np.argsort(values, kind="stable")
    ascending, upto = values[rank], weights.T[rank]
    if upto.shape[1] < _MANY:  # one replicate after the other
        upto = np.cumsum(np.ascontiguousarray(upto.T), axis=1, dtype=upto.dtype).T
    else:
        for before, row in pairwise(upto):  # all replicates at once
            row += before
    total = upto[-1]
    # The j-th smallest (from 0) is the first value with more than j counted up to it.
    lower, half = (upto <= (total - 1) // 2).sum(0), total // 2
    upper = lower.copy()  # except where exactly half are counted up to it
    split = np.flatnonzero(upto[np.minimum(lower, len(upto) - 1), np.arange(len(total))] <= half)
    upper[split] = (upto[:, split] <= half[split]).sum(0)
    last = len(values) - 1
    middle = (ascending[np.minimum(lower, last)] + ascending[np.minimum(upper, last)]) / 2
    return np.where(total > 0, middle, np.nan)
