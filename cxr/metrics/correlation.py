"""Whether two maps rise and fall together: Pearson's and Spearman's correlation over all pixels."""

import math

import numpy as np

from cxr.metrics.map_features import Features


def pearson(before: Features, after: Features) -> float:
    """Pearson's correlation over the H W pixels."""
    return _correlation(before.once(_centred), after.once(_centred))


def spearman(before: Features, after: Features) -> float:
    """Pearson's correlation of ranks; ties have their average rank."""
    return _correlation(before.once(_centred_ranks), after.once(_centred_ranks))


def _centred(features: Features) -> np.ndarray:
    """Values with mean 0 and norm 1: a dot product of two is Pearson's correlation."""
    return _unit(features.flat - features.total / features.pixels)


def _centred_ranks(features: Features) -> np.ndarray:
    """The same of average ranks: a dot product of two is Spearman's correlation."""
    n = features.pixels
    change = features.descending[1:] != features.descending[:-1]
    run = np.zeros(n, dtype=np.intp)  # number of the run of equal values, by place in the order
    np.cumsum(change, out=run[1:])
    last = np.append(np.flatnonzero(change), n - 1)
    first = np.append(0, last[:-1] + 1)
    # The mean over all places is (n - 1) / 2. The sign is turned, because the order is descending.
    ranks = ((n - 1 - first - last) / 2)[run]
    centred = np.empty(n)
    centred[features.order] = _unit(ranks)
    return centred


def _unit(centred: np.ndarray) -> np.ndarray:
    return centred / math.sqrt(centred @ centred)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return min(1.0, max(-1.0, a @ b))  # rounding can step over the bounds
