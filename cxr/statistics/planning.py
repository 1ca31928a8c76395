"""How many training seeds and test patients a study needs to show a difference.

The variance components of an estimate (`cxr.statistics.estimates.Estimate`) say what more seeds and what more
patients would reduce.
"""

from math import nan, sqrt

import numpy as np
from scipy import special

from cxr.core.errors import InputError
from cxr.statistics.estimates import Estimate, half_width


def power(
    est: Estimate,
    *,
    effect: float | None = None,
    seeds: int | None = None,
    patients: int | None = None,
    alpha: float = 0.05,
) -> float:
    """Chance that a study of so many seeds and patients shows, two-sided at alpha, a difference of `effect`.

    From the variance components of `est`: (var T + var E) / seeds + var P, where var E and var P scale with
    1 / patients. Integrates over the distribution of S2; Cov counts as known (it has n - 1 degrees of
    freedom). Where patients contribute nothing this is the noncentral t test's power.

    Parameters
    ----------
    est : an `estimate` with two seeds or more. The components of so few seeds are themselves rough.
    effect : None takes the observed value, which, having been observed because large, is often too large: give
        the difference that would matter where you know it.
    seeds, patients : None: as in est.

    Returns
    -------
    float in [0, 1]; NaN if est has one seed, or no variance.
    """
    k = est.n_seeds if seeds is None else seeds
    n = est.n_patients if patients is None else patients
    if k < 2 and seeds is not None or n < 2:
        raise InputError(f"power: two seeds and two patients are the least, got {seeds} and {n}.")
    if not 0 < alpha < 1:
        raise InputError(f"power: alpha must lie between 0 and 1, got {alpha}.")
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
    est: Estimate, *, effect: float | None = None, power: float = 0.8, alpha: float = 0.05, at_most: int = 50
) -> int | None:
    """Fewest training seeds, on the same patients, at which `power` (the function) reaches this power.

    None if more than at_most, if patients are what is missing (then see `patients_needed`), or if est has
    one seed and so says nothing of how seeds vary.
    """
    return _fewest(lambda k: _power(est, effect=effect, seeds=k, alpha=alpha), power, 2, at_most)


def patients_needed(
    est: Estimate,
    *,
    effect: float | None = None,
    seeds: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    at_most: int = 100_000,
) -> int | None:
    """Fewest test patients, with as many seeds (or `seeds`), at which `power` (the function) reaches this power.

    None if more than at_most, if seeds are what is missing, or if est has one seed.
    """
    return _fewest(lambda n: _power(est, effect=effect, seeds=seeds, patients=n, alpha=alpha), power, 2, at_most)


_power = power  # the planners have a parameter of that name


def _fewest(reached, target: float, least: int, at_most: int) -> int | None:
    """Smallest whole number in [least, at_most] where `reached`, which never falls, is `target` or more."""
    if not 0 < target < 1:
        raise InputError(f"power must lie between 0 and 1, got {target}.")
    if at_most < least or not reached(at_most) >= target:  # NaN too
        return None
    low, high = least - 1, at_most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= target else (middle, high)
    return high
