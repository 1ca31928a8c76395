"""What a study of a given size can show: the power at a difference, and the smallest difference it finds.

The variance components of an estimate (`cxr.statistics.estimates.Estimate`) say what more seeds and what more
patients would reduce. The difference is the reader's, never the observed one: power at the observed effect only
repeats the p-value (Hoenig and Heisey 2001, Am. Stat. 55:19).
"""

from math import nan, pi, sqrt

import numpy as np
from scipy import optimize, special

from cxr.statistics.estimates import Estimate, half_width

POWER = 0.8  # that a study should have


SEED_SDS = (0.02, 0.05)
IMAGE_SD = 0.15
"""Assumptions where no study has been run: standard deviations of a metric, between the medians of two seeds and
between patients under one network. docs/inference.md uses the same."""


def assumed(seed_sd: float, *, seeds: int, patients: int, level: float) -> Estimate:
    """A difference between the medians of two architectures, with the variances that are assumed.

    The variance of a median is pi / 2 times that of a mean. Both architectures have seeds of their own, which
    gives 2 (seeds - 1) degrees of freedom. What patients have in common cancels.
    """
    residual = 2 * pi / 2 * IMAGE_SD**2 / patients
    between = 2 * seed_sd**2 + residual
    return Estimate(
        *(0.0, sqrt(between / seeds), 2.0 * (seeds - 1), nan, nan, level),
        *(seeds, patients, between, 0.0, residual, 2.0 * (seeds - 1)),
    )


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
    freedom). If patients contribute nothing, it is the power of the noncentral t test. A difference of two kinds
    of network (`estimates.total`) has Welch's degrees of freedom, which depend on how S2 happens to fall on the
    two: power then also integrates over that, for kinds that vary alike.

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
        a = (max(est.var_seeds - est.var_residual, 0.0) + est.var_residual * scale) / k
        kinds = 2 if est.df_seeds > est.n_seeds - 1 + 1e-9 else 1
        df = kinds * (k - 1)
        # The middle points of equal slices of the chi-square distribution of S2, and of its split in two.
        slices = special.gammaincinv(df / 2, _middles(1000)) * 2 / df
        split = special.betaincinv((k - 1) / 2, (k - 1) / 2, _middles(40)) if kinds == 2 else np.ones(1)
        half = half_width(a * slices, ((k - 1) / (split**2 + (1 - split) ** 2))[:, None], c, n - 1, alpha)
    else:
        a, half = 0.0, half_width(0.0, 0.0, c, n - 1, alpha)
    spread = sqrt(a + c)
    return float(np.mean(special.ndtr((shift - half) / spread) + special.ndtr((-shift - half) / spread)))


def smallest_effect(
    est: Estimate,
    *,
    seeds: int | None = None,
    patients: int | None = None,
    wanted: float = POWER,
    alpha: float = 0.05,
) -> float:
    """The smallest difference that a study finds with a chance of `wanted`: where `power` reaches it, two-sided at
    alpha. The study has the seeds and patients of est, or as many as given. NaN where `power` is.
    """

    def lacking(effect: float) -> float:
        return power(est, effect=effect, seeds=seeds, patients=patients, alpha=alpha) - wanted

    high = est.se
    if np.isnan(lacking(high)):
        return nan
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0, high))


def _middles(number: int) -> np.ndarray:
    return (np.arange(number) + 0.5) / number
