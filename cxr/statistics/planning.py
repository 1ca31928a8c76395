"""How many training seeds and test patients a study needs to show a difference.

The variance components of an estimate (`cxr.statistics.estimates.Estimate`) say what more seeds and what more
patients would reduce.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import nan, sqrt

import numpy as np
from scipy import special

from cxr.statistics.estimates import Estimate, half_width

POWER = 0.8  # that a study should have


def power(
    est: Estimate,
    *,
    effect: float | None = None,
    seeds: int | None = None,
    patients: int | None = None,
    alpha: float = 0.05,
) -> float:
    """Chance that a study with so many seeds and patients shows a difference of `effect`, two-sided at alpha.

    It follows from the variance components of `est`, (var T + var E) / seeds + var P, where var E and var P scale
    with 1 / patients. It integrates over the distribution of S2, and takes Cov as known (Cov has n - 1 degrees of
    freedom). If patients contribute nothing, it is the power of the noncentral t test.

    Parameters
    ----------
    est : an `estimate` with two seeds or more. Variance components from few seeds are rough.
    effect : the difference that matters to you. None takes the observed value, which is often too large, because
        large differences are noticed.
    seeds, patients : None: as in est.

    Returns
    -------
    float in [0, 1]; NaN if est has one seed, or no variance.
    """
    k = est.n_seeds if seeds is None else seeds
    n = est.n_patients if patients is None else patients
    if est.n_seeds < 2 or not est.se > 0:
        return nan
    scale = est.n_patients / n
    training = max(est.var_seeds - est.var_residual, 0.0)
    a, c = (training + est.var_residual * scale) / k, est.var_patients * scale
    shift = abs(est.value if effect is None else effect)
    # The middle points of 2000 equal slices of the chi-square distribution.
    slices = special.gammaincinv((k - 1) / 2, (np.arange(2000) + 0.5) / 2000) * 2 / (k - 1)
    half = half_width(a * slices, k - 1, c, n - 1, alpha)
    spread = sqrt(a + c)
    return float((special.ndtr((shift - half) / spread) + special.ndtr((-shift - half) / spread)).mean())


def seeds_needed(
    est: Estimate, *, effect: float | None = None, alpha: float = 0.05, at_most: int = 50
) -> int | None:
    """Fewest training seeds (2 or more), on the same patients, at which `power` reaches `POWER`.

    None if that takes more than at_most, if only more patients would help (see `patients_needed`), or if est has
    one seed and therefore does not say how seeds vary.
    """
    return _fewest(lambda k: power(est, effect=effect, seeds=k, alpha=alpha), at_most)


def patients_needed(
    est: Estimate,
    *,
    effect: float | None = None,
    seeds: int | None = None,
    alpha: float = 0.05,
    at_most: int = 100_000,
) -> int | None:
    """Fewest test patients (2 or more), with as many seeds (or `seeds`), at which `power` reaches `POWER`.

    None if that takes more than at_most, if only more seeds would help, or if est has one seed.
    """
    return _fewest(lambda n: power(est, effect=effect, seeds=seeds, patients=n, alpha=alpha), at_most)


def _fewest(power_of: Callable[[int], float], at_most: int) -> int | None:
    """Smallest whole number from 2 to `at_most` at which `power_of`, which never falls, reaches `POWER`."""
    if not power_of(at_most) >= POWER:  # NaN too
        return None
    return 2 + bisect_left(range(2, at_most), POWER, key=power_of)
