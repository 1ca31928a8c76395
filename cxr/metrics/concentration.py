"""How concentrated a map is, and how that changed: Gini coefficient, entropy, energy of the top tenth."""

import math
from functools import lru_cache

import numpy as np

from cxr.metrics.map_features import Features, top_count


def gini_change(before: Features, after: Features) -> float:
    """Change of G = 2 sum_i i x_(i) / (N sum x) - (N + 1) / N, with x ascending, i from 1 and N = H W."""
    return after.once(_gini) - before.once(_gini)


def entropy_change(before: Features, after: Features) -> float:
    """Change of the Shannon entropy of the map divided by its sum, over log N: 1 is uniform, 0 is one pixel."""
    return after.once(_entropy) - before.once(_entropy)


def top10_energy_change(before: Features, after: Features) -> float:
    """Change of the share of the sum that lies in the top-10 % area."""
    return after.once(_top10_energy) - before.once(_top10_energy)


def _gini(features: Features) -> float:
    # Ranks less their mean (N + 1) / 2, whose share of the sum is the definition's last term.
    ranks = _centred_places(features.pixels)
    return float(2 * (ranks @ features.descending) / (features.pixels * features.total))


def _entropy(features: Features) -> float:
    # With p = x / s: -sum p log p = log s - sum(x log x) / s; 0 log 0 is 0.
    logs = np.log(np.maximum(features.flat, 1e-300))
    return float((math.log(features.total) - features.flat @ logs / features.total) / math.log(features.pixels))


def _top10_energy(features: Features) -> float:
    return float(features.descending[: top_count(0.1, features.pixels)].sum() / features.total)


@lru_cache(maxsize=8)
def _centred_places(n: int) -> np.ndarray:
    """Ranks of n values in descending order, less their mean: (n - 1) / 2 ... -(n - 1) / 2; read-only."""
    places = (n - 1) / 2 - np.arange(n)
    places.flags.writeable = False
    return places
