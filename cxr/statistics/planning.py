"""What a study of a given size can show: the power at a difference, and the smallest difference it finds.

The variance components of an estimate (`cxr.statistics.estimates.Estimate`) say what more seeds and what more
patients would reduce. The difference is the reader's, never the observed one: power at the observed effect only
repeats the p-value (Hoenig and Heisey 2001, Am. Stat. 55:19).
"""

from math import nan, sqrt

import numpy as np
from scipy import optimize, special

from cxr.statistics.estimates import Estimate, half_width

POWER = 0.8  # that a study should have


def power(
    est: Estimate,
    *,
    effect: float,
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
    est : an `estimate`. Variance components from few seeds are rough. With one seed: the power over patients, for
        these networks.
    effect : the difference that matters to you.
    seeds, patients : None: as in est. `seeds` needs an est of two or more.

    Returns
    -------
    float in [0, 1]; NaN if est has no variance, or has one seed where `seeds` asks for others.
    """
    if not est.se > 0 or (seeds is not None and not est.df_seeds):
        return nan
    k = est.n_seeds if seeds is None else seeds
    n = est.n_patients if patients is None else patients
    scale = est.n_patients / n
    c, shift = est.var_patients * scale, abs(effect)
    if est.df_seeds:
        training = max(est.var_seeds - est.var_residual, 0.0)
        a, df = (training + est.var_residual * scale) / k, est.df_seeds * (k - 1) / (est.n_seeds - 1)
        # The middle points of 2000 equal slices of the chi-square distribution.
        slices = special.gammaincinv(df / 2, (np.arange(2000) + 0.5) / 2000) * 2 / df
    else:
        a, df, slices = 0.0, 0.0, np.ones(1)
    half = half_width(a * slices, df, c, n - 1, alpha)
    spread = sqrt(a + c)
    return float((special.ndtr((shift - half) / spread) + special.ndtr((-shift - half) / spread)).mean())


def smallest_effect(est: Estimate, *, wanted: float = POWER, alpha: float = 0.05) -> float:
    """The smallest difference that a study like this one, with the same seeds and patients, finds with a chance
    of `wanted`: where `power` reaches it, two-sided at alpha. NaN if est has no variance.
    """
    if not est.se > 0:
        return nan
    high = est.se
    while power(est, effect=high, alpha=alpha) < wanted:
        high *= 2
    return float(optimize.brentq(lambda effect: power(est, effect=effect, alpha=alpha) - wanted, 0, high))
