"""How often each row, patient or seed is drawn, and statistics of values that count so often.

A bootstrap replicate is not a resampled table but a count per row: how often that row was drawn. Thousands of
replicates are then a few array operations, and tables that share rows can be resampled alike.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

Statistic = Literal["median", "mean"]
# Rows x replicates in memory at a time. Draws are made block by block, so the results of an rng_seed depend on it.
BLOCK = 2_000_000
_MANY = 128  # from so many replicates on, summing all of them at once is faster


def row_weights(
    seed: np.ndarray, patient: np.ndarray, *, n_boot: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each row is drawn: blocks of int64 [replicates, n], n_boot replicates in all.

    Seeds and patients are drawn independently of each other: a patient of a seed counts as often as the product.
    Draws with replacement from P units are a multinomial vector of counts, and so is the sum of several such
    draws. A patient that is drawn m times therefore draws its k images by one multinomial of m k.
    """
    seed_of_row, seeds = pd.factorize(seed)
    patient_of_row, patients = pd.factorize(patient)
    groups, group_of_row = np.unique(seed_of_row * len(patients) + patient_of_row, return_inverse=True)
    seed_of_group, patient_of_group = np.divmod(groups, len(patients))
    sizes = np.bincount(group_of_row)
    rows_by_group = np.argsort(group_of_row, kind="stable")
    first = np.cumsum(sizes) - sizes

    block = max(1, BLOCK // len(seed_of_row))
    for start in range(0, n_boot, block):
        b = min(block, n_boot - start)
        seed_draws = _draw(rng, np.full(b, len(seeds)), len(seeds))
        patient_draws = _draw(rng, np.full(b, len(patients)), len(patients))
        group_draws = seed_draws[:, seed_of_group] * patient_draws[:, patient_of_group]
        weights = np.empty((b, len(seed_of_row)), dtype=np.int64)
        for size in np.unique(sizes):
            these = np.flatnonzero(sizes == size)
            rows = rows_by_group[first[these][:, None] + np.arange(size)]  # [groups, size]
            weights[:, rows] = _draw(rng, group_draws[:, these] * size, size)
        yield weights


def patient_draws(patients: int, n_boot: int, rng_seed: int) -> np.ndarray:
    """int64 [n_boot, patients]: how often each is among so many draws with replacement."""
    return _draw(np.random.default_rng(rng_seed), np.full(n_boot, patients), patients)


def _draw(rng: np.random.Generator, draws: np.ndarray, units: int) -> np.ndarray:
    """Counts [..., units] of `draws` [...] even draws with replacement from so many units."""
    if units == 1:
        return draws[..., None]
    return rng.multinomial(draws, np.full(units, 1 / units))


def counts_by_row(weights: np.ndarray) -> np.ndarray:
    """Weights [b, n] as int32 [n, b]: the fastest layout for work on one image in all replicates at once."""
    return np.ascontiguousarray(weights.T, dtype=np.int32)


def weighted(statistic: Statistic, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The statistic of `values` [n], each counted as often as `weights` int [b, n] says: float64 [b]."""
    return {"mean": _weighted_mean, "median": _weighted_median}[statistic](values, weights)


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
