"""How often each row, patient or seed is drawn, and statistics of values that count so often.

A bootstrap replicate is not a resampled table but a count per row: how often that row was drawn. Thousands of
replicates are then a few array operations, and tables that share rows can be resampled alike.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from cxr.core.errors import InputError

Statistic = str | Callable[[np.ndarray], float]


# Rows x replicates held at a time. Part of what an rng_seed means: draws are made block by block.
BLOCK = 2_000_000


_MANY = 128  # replicates that are better summed up at once


def row_weights(
    seed: np.ndarray, patient: np.ndarray, *, n_boot: int, rng: np.random.Generator, crossed: bool
) -> Iterator[np.ndarray]:
    """How often each row is drawn: blocks of int64 [replicates, n], n_boot replicates in all.

    Drawing m of P units m times with replacement is a multinomial count vector, and so is the sum of several
    such draws: a seed drawn c times draws its P patients by one multinomial of c P; a patient drawn m times
    its k images by one of m k.
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
        if crossed:
            patient_draws = _draw(rng, np.full(b, len(patients)), len(patients))
            group_draws = seed_draws[:, seed_of_group] * patient_draws[:, patient_of_group]
        else:
            group_draws = np.empty((b, len(groups)), dtype=np.int64)
            for s in range(len(seeds)):
                mine = np.flatnonzero(seed_of_group == s)
                group_draws[:, mine] = _draw(rng, seed_draws[:, s] * len(mine), len(mine))
        weights = np.empty((b, len(seed_of_row)), dtype=np.int64)
        for size in np.unique(sizes):
            these = np.flatnonzero(sizes == size)
            rows = rows_by_group[first[these][:, None] + np.arange(size)]  # [groups, size]
            weights[:, rows] = _draw(rng, group_draws[:, these] * size, size)
        yield weights


def patient_draws(patients: int, n_boot: int, rng_seed: int) -> np.ndarray:
    """int64 [n_boot, patients]: how often each is among so many draws with replacement."""
    check_draws(n_boot)
    return _draw(np.random.default_rng(rng_seed), np.full(n_boot, patients), patients)


def _draw(rng: np.random.Generator, draws: np.ndarray, units: int) -> np.ndarray:
    """Counts [..., units] of `draws` [...] even draws with replacement from so many units."""
    if units == 1:
        return draws[..., None]
    return rng.multinomial(draws, np.full(units, 1 / units))


def counts_by_row(weights: np.ndarray) -> np.ndarray:
    """Weights [b, n] as int32 [n, b]: what is done image by image to all replicates at once is then fastest."""
    return np.ascontiguousarray(weights.T, dtype=np.int32)


def weighted(statistic: Statistic, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The statistic of `values` [n] with each counted as often as `weights` int [b, n] says: float64 [b]."""
    if statistic == "mean":
        total = weights.sum(1)
        return np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan)
    if statistic == "median":
        return _weighted_median(values, weights)
    return np.array([statistic(np.repeat(values, w)) if w.any() else np.nan for w in weights], float)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`np.median` of the values repeated by their weights: the mean of the lower and the upper middle one."""
    rank = np.argsort(values, kind="stable")
    ascending, upto = values[rank], weights.T[rank]
    if upto.shape[1] < _MANY:  # one replicate after the other
        upto = np.cumsum(np.ascontiguousarray(upto.T), axis=1, dtype=upto.dtype).T
    else:
        for before, row in pairwise(upto):  # all at once: the quicker the more there are
            row += before
    total = upto[-1]
    # The j-th smallest (from 0) is the first value with more than j counted up to it.
    lower, half = (upto <= (total - 1) // 2).sum(0), total // 2
    upper = lower.copy()  # but where exactly half are counted up to it
    split = np.flatnonzero(upto[np.minimum(lower, len(upto) - 1), np.arange(len(total))] <= half)
    upper[split] = (upto[:, split] <= half[split]).sum(0)
    last = len(values) - 1
    middle = (ascending[np.minimum(lower, last)] + ascending[np.minimum(upper, last)]) / 2
    return np.where(total > 0, middle, np.nan)


def check_draws(n_boot: int) -> None:
    if n_boot < 1:
        raise InputError(f"bootstrap: n_boot must be at least 1, got {n_boot}.")


def check_statistic(statistic: Statistic) -> None:
    if not callable(statistic) and statistic not in ("median", "mean"):
        raise InputError(f"bootstrap: statistic must be 'median', 'mean' or a function, got {statistic!r}.")
