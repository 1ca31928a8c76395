"""Estimates with intervals and p-values when a few training seeds share one test set. NumPy and SciPy.

Seeds and patients are crossed: k networks of a kind are examined on the same patients. A claim about the kind of
network, not about these k networks, must count two sources of chance, as multi-reader multi-case studies do with
readers (here seeds) and cases (here patients). Take a statistic theta_s of each seed s (a median, a difference
of medians, an AUC difference) that is smooth enough to be nearly linear in seed and patient effects:

    theta_s = mu + T_s + P + E_s.

T_s is the effect of the training, P the effect of these patients on every network, and E_s their effect on this
network alone. The mean over seeds has variance (var T + var E) / k + var P. The sample variance S2 of theta_s
has expectation var T + var E, because P is common to all seeds. The covariance between seeds, of bootstrap
replicates under one draw of patients, estimates var P. Therefore

    Var(mean) = S2 / k + max(Cov, 0)          (Obuchowski and Rockette 1995, for one treatment effect).

For balanced means this is the ANOVA's (MS_seed + MS_patient - MS_error) / (k n). A percentile bootstrap over two
or three seeds has too few values to draw from. A test over patients alone mistakes the luck of seeds for an
effect.

Level: S2 / k has k - 1 degrees of freedom, Cov about n - 1. With two seeds, a t quantile with Satterthwaite's
degrees of freedom (Hillis 2007) rejects up to 13 % at a nominal 5 %, and up to 8 % if S2 is kept above its share
from patients, because the degrees of freedom are estimated from a single number. This module uses Banerjee's
(1960) interval, which gives each source its own quantile:

    half-width^2 = t(k - 1)^2 S2 / k + t(n - 1)^2 max(Cov, 0).

For normal effects it holds its level whatever the two variances are. Given the estimates, the chance to cover is
F(half-width^2 / Var), where F is the distribution function of chi-square with one degree of freedom. F is
concave, so the chance is at least the average, weighted by the sources' shares of Var, of what t intervals over
each source alone would cover, and each of these covers its level. The interval is that of t over seeds where
patients contribute nothing, that of t over patients where seeds are all alike, and conservative in between;
tests/benchmarks/bench_inference.py measures by how much. A p-value is the level at which the interval, or its
one-sided half, touches the null.

**Several kinds of network** (`total`): trainings of two architectures have nothing in common, even under one seed
number; their patients are the same. The variance of a difference of means is then the sum of S2 / k over the
architectures plus the variance that patients contribute to the difference. The sum of S2 / k has Welch's (1947)
degrees of freedom, which reach 2 (k - 1) where both architectures vary alike. One pooled variance would have
2 (k - 1) always, but rejects up to 15 % at 5 % if only one of the two varies.

With one seed only the patients vary, and every statement is about these networks only; n_seeds says so.

References: Obuchowski and Rockette (1995) Commun. Stat. Simul. Comput. 24:285. Hillis (2007) Stat. Med. 26:596.
Banerjee (1960) Sankhya 22:357. Welch (1947) Biometrika 34:28. Efron and Stein (1981) Ann. Stat. 9:586 (jackknife).
Schuirmann (1987) J. Pharmacokinet. Biopharm. 15:657 (TOST). Holm (1979) Scand. J. Stat. 6:65. Berger (1982)
Technometrics 24:295 (intersection-union). Gail and Simon (1985) Biometrics 41:361 (qualitative interaction). Kerby
(2014) Compr. Psychol. 3:1 (rank-biserial).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, log, nan, sqrt
from typing import Literal

import numpy as np
import pandas as pd
from scipy import optimize, special

from cxr.statistics import bootstrap

Alternative = Literal["two-sided", "less", "greater"]


@dataclass(frozen=True)
class Estimate:
    """A quantity over trainings and patients, with its variance by source. With one seed, over patients alone.

    Attributes
    ----------
    value : mean over seeds.
    se : sqrt(var_seeds / n_seeds + var_patients).
    n_seeds : seeds of each kind of network; the fewest, if kinds have different numbers.
    df : Satterthwaite's degrees of freedom of se^2, for description only. Interval and tests use those of each
        source (see the module).
    low, high : interval of the given level.
    var_seeds : S2, the variance between seeds (of several kinds of network: n_seeds times the sum of their
        S2 / k); NaN with one seed.
    var_patients : max(Cov, 0) between seeds; with one seed the whole bootstrap variance.
    var_residual : the part of var_seeds that comes from patients under one network alone. It shrinks with more
        patients. NaN with one seed.
    df_seeds : degrees of freedom of var_seeds; 0 with one seed.

    What the data cannot give is NaN: everything except value with one patient or with a replicate without a
    value; df, low and high where se is 0. (Replicates and seeds are then all alike, from many ties or a perfect
    AUC, which is no proof of certainty.)
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    level: float
    n_seeds: int
    n_patients: int
    var_seeds: float
    var_patients: float
    var_residual: float
    df_seeds: float


NOTHING = Estimate(nan, nan, nan, nan, nan, nan, 0, 0, nan, nan, nan, 0.0)
Group = tuple[Sequence[float], np.ndarray]


def estimate(
    per_seed: Sequence[float], replicates: np.ndarray, *, n_patients: int, level: float = 0.95
) -> Estimate:
    """Mean of a statistic over seeds, and its interval over new trainings and new patients.

    Parameters
    ----------
    per_seed : float [k], the statistic under each seed.
    replicates : float [n_boot, k], the same statistics under one common bootstrap over patients
        (`cxr.statistics.bootstrap.patient_replicates`, or from `cxr.statistics.bootstrap.patient_weights`).
    n_patients : number of patients resampled.
    level : of the interval.
    """
    return total([(per_seed, replicates)], n_patients=n_patients, level=level)


def total(groups: Sequence[Group], *, n_patients: int, level: float = 0.95) -> Estimate:
    """Sum of the means of several kinds of network, trained independently and examined on the same patients.

    Parameters
    ----------
    groups : for each kind, the arguments `per_seed` [k] and `replicates` [n_boot, k] of `estimate`. Numbers of
        seeds may differ. Signs are part of the values: a difference of two architectures is the total of one and
        of the other times -1. The replicates of all kinds must come from the same draws of patients.
    n_patients, level : as for `estimate`.
    """
    thetas = [np.asarray(theta, dtype=float) for theta, _ in groups]
    draws = [np.asarray(replicates, dtype=float) for _, replicates in groups]
    value, k = float(sum(theta.mean() for theta in thetas)), min(map(len, thetas))
    if n_patients < 2 or not all(np.isfinite(values).all() for values in (*thetas, *draws)):
        return Estimate(value, nan, nan, nan, nan, level, k, n_patients, nan, nan, nan, 0.0)
    if k == 1:
        whole = float(sum(own.mean(axis=1) for own in draws).var(ddof=1))
        return _estimate(value, nan, 0.0, whole, nan, k, n_patients, level)
    covariance = np.cov(np.hstack(draws), rowvar=False)
    kind = np.repeat(np.arange(len(draws)), [len(theta) for theta in thetas])
    kinds, residual = range(len(draws)), []
    common = np.array([[covariance[np.ix_(kind == g, kind == h)].mean() for h in kinds] for g in kinds])
    for g, theta in enumerate(thetas):  # within a kind, networks do not share E_s with themselves
        own, size = np.diag(covariance)[kind == g].mean(), len(theta)
        common[g, g] = (size * common[g, g] - own) / (size - 1)
        residual.append(max(own - max(common[g, g], 0.0), 0.0) / size)
    sources = np.array([theta.var(ddof=1) / len(theta) for theta in thetas])
    shares = sum(source**2 / (len(theta) - 1) for source, theta in zip(sources, thetas, strict=True))
    df = float(sources.sum() ** 2 / shares) if shares > 0 else float(sum(map(len, thetas)) - len(thetas))
    patients = max(float(common.sum()), 0.0)
    return _estimate(value, k * float(sources.sum()), df, patients, k * float(sum(residual)), k, n_patients, level)


def _estimate(
    value: float,
    between: float,
    df_seeds: float,
    patients: float,
    residual: float,
    k: int,
    n_patients: int,
    level: float,
) -> Estimate:
    """An `Estimate` with what follows from its components."""
    a = between / k if df_seeds else 0.0
    se = sqrt(a + patients)
    share = (a**2 / df_seeds if df_seeds else 0) + patients**2 / (n_patients - 1)
    df = se**4 / share if share > 0 else nan
    half = half_width(a, df_seeds, patients, n_patients - 1, 1 - level) if se > 0 else nan
    low, high = float(value - half), float(value + half)
    return Estimate(value, se, df, low, high, level, k, n_patients, between, patients, residual, df_seeds)


def over_pairs(
    pairs: Sequence[tuple[int, int]], values: np.ndarray, replicates: np.ndarray, *, n_patients: int, level: float
) -> Estimate:
    """Mean of a quantity of pairs of networks, over new trainings and new patients, by a jackknife over seeds.

    Pairs that share a seed are not independent. With k seeds the mean over all pairs has one pseudo-value a seed:
    k times the mean minus (k - 1) times the mean without the pairs of this seed. They take the place of
    independent values in `estimate`. The jackknife's variance is too large rather than too small on average (Efron
    and Stein 1981), most where pairs vary by themselves.

    Parameters
    ----------
    pairs : [m], of three seeds or more: all pairs, or at least one without each seed.
    values : float [m], the quantity of each pair.
    replicates : float [n_boot, m], the same under one common bootstrap over patients.
    n_patients, level : as for `estimate`.
    """
    seeds = sorted({seed for pair in pairs for seed in pair})
    k = len(seeds)
    without = np.array([[seed not in pair for seed in seeds] for pair in pairs], dtype=float)  # pairs x seeds
    own = k / len(pairs) - (k - 1) * without / without.sum(axis=0)
    return estimate(np.asarray(values) @ own, np.asarray(replicates) @ own, n_patients=n_patients, level=level)


def on_logit(est: Estimate) -> Estimate:
    """An estimate of a proportion, such as an AUC, on the logit scale, by the delta method.

    An AUC near 1 varies less upwards than downwards. On this scale its interval is symmetric, and back on its own
    scale it stays between 0 and 1 (Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2). Variances
    are those of the estimate times 1 / (value (1 - value))^2: single seeds or replicates may be 1, their mean may
    not. A value of 0 or 1 has no interval and no test.
    """
    slope = est.value * (1 - est.value)
    if not (0 < est.value < 1 and est.se > 0):
        edge = float(special.logit(np.clip(est.value, 0, 1)))
        return replace(est, value=edge, se=nan, low=nan, high=nan)
    parts = (part / slope**2 for part in (est.var_seeds, est.var_patients, est.var_residual))
    between, patients, residual = parts
    return _estimate(
        float(special.logit(est.value)), between, est.df_seeds, patients, residual, est.n_seeds, est.n_patients,
        est.level,
    )  # fmt: skip


def proportion(est: Estimate) -> Estimate:
    """The same estimate with the interval of `on_logit`, back on its own scale: asymmetric, in (0, 1)."""
    found = on_logit(est)
    return replace(est, low=float(special.expit(found.low)), high=float(special.expit(found.high)))


def located(
    per_seed: Sequence[float],
    replicates: np.ndarray,
    *,
    n_patients: int,
    level: float,
    least: int = 0,
    on: Callable[[Estimate], Estimate] | None = None,
) -> tuple[float, float, float]:
    """Value and interval for a table: (value, low, high), from the same arguments as `estimate`.

    With several seeds they are those of `estimate`, over new trainings and new patients: percentiles over so few
    seeds would be too short. With one seed the interval holds percentiles over patients, and describes this
    network. All NaN without any seed; no interval with fewer than `least` patients. `on` gives the estimate's
    interval on another scale, such as `proportion`; percentiles need none.
    """
    per_seed = np.asarray(per_seed, dtype=float)  # a Series would be indexed by its seeds
    if len(per_seed) == 0:
        return nan, nan, nan
    if n_patients < least:
        return float(per_seed.mean()), nan, nan
    if len(per_seed) == 1:
        return (float(per_seed[0]), *bootstrap.interval(replicates[:, 0], level))
    found = estimate(per_seed, replicates, n_patients=n_patients, level=level)
    found = found if on is None else on(found)
    return found.value, found.low, found.high


def p_value(est: Estimate, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """P-value of the hypothesis that the quantity equals `null`, or lies on its other side.

    Parameters
    ----------
    est : `estimate`.
    null : the value under the null.
    alternative : "two-sided", or the claim to show: "less" or "greater" than null.

    Returns
    -------
    float in [0, 1], consistent with the interval: two-sided p < 1 - level exactly if null lies outside. NaN if the
    standard error is missing or 0.
    """
    if not est.se > 0:
        return nan
    distance = abs(est.value - null)
    a = est.var_seeds / est.n_seeds if est.df_seeds else 0.0
    p = _touching(distance, a, est.df_seeds, est.var_patients, est.n_patients - 1)
    if alternative == "two-sided":
        return p
    return p / 2 if (est.value > null) == (alternative == "greater") else 1 - p / 2


def equivalence(est: Estimate, margin: float) -> float:
    """P-value of TOST, for the claim that the quantity lies between -margin and +margin (Schuirmann 1987).

    It is the larger of the two one-sided p-values, and below alpha exactly if the 1 - 2 alpha interval lies
    inside.
    """
    return max(p_value(est, -margin, "greater"), p_value(est, margin, "less"))


def reversal_p(first: Estimate, second: Estimate) -> float:
    """P-value that two quantities differ from 0 in opposite directions.

    The direction is not named beforehand, so that these are two intersection-union tests (Berger 1982), each at
    level alpha / 2: p is twice the larger one-sided p-value in the better of the two directions, at most 1. By
    Bonferroni, the two give alpha whatever the dependence between the quantities is. If it is not negative, as
    with maps of the same networks, the level is alpha / 2 (as Gail and Simon 1985 show for independent ones). NaN
    if either p-value is.
    """
    return _both(first, second, (("greater", "less"), ("less", "greater")))


def same_order_p(first: Estimate, second: Estimate) -> float:
    """P-value that two quantities differ from 0 in the same direction; otherwise as `reversal_p`."""
    return _both(first, second, (("greater", "greater"), ("less", "less")))


def _both(first: Estimate, second: Estimate, directions: Sequence[tuple[Alternative, Alternative]]) -> float:
    worst = [np.maximum(p_value(first, 0, one), p_value(second, 0, two)) for one, two in directions]
    return float(np.minimum(1.0, 2 * np.min(worst)))  # NaN passes through all three


def holm(p: Sequence[float] | pd.Series) -> np.ndarray | pd.Series:
    """P-values adjusted for their number by Holm's (1979) step-down method; NaN stays NaN and does not count.

    Returns a Series with its index if `p` is one, otherwise float64 [m].
    """
    raw = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(raw))
    rank = known[np.argsort(raw[known], kind="stable")]
    out = np.full(len(raw), nan)
    steps = raw[rank] * np.arange(len(rank), 0, -1)
    out[rank] = np.minimum(np.maximum.accumulate(steps), 1)
    return pd.Series(out, index=p.index, name=p.name) if isinstance(p, pd.Series) else out


def half_width(
    a: float | np.ndarray, df_a: float | np.ndarray, c: float, df_c: int, alpha: float
) -> float | np.ndarray:
    """Banerjee's half-width for two independent variances with their degrees of freedom (df_a 0: without a)."""
    seeds = a * special.stdtrit(df_a, alpha / 2) ** 2 if np.all(df_a) else 0.0
    return np.sqrt(seeds + c * special.stdtrit(df_c, alpha / 2) ** 2)


def _touching(distance: float, a: float, df_a: float, c: float, df_c: int) -> float:
    """The alpha at which `half_width` equals the distance: between the alphas of t with either source's df."""
    t = distance / sqrt(a + c)
    by_patients = 2 * special.stdtr(df_c, -t)
    by_seeds = 2 * special.stdtr(df_a, -t) if df_a else by_patients
    if a == 0 or by_seeds == by_patients:
        return float(by_patients)
    if c == 0:
        return float(by_seeds)
    # Nothing below 1e-140, so that the square of a t quantile does not overflow; 1e-9 leaves room for rounding.
    low, high = sorted(log(max(p, 1e-140)) for p in (by_seeds, by_patients))
    low, high = low - 1e-9, min(high + 1e-9, 0.0)

    def excess(log_alpha: float) -> float:
        return float(half_width(a, df_a, c, df_c, exp(log_alpha))) - distance

    for end, beyond in ((low, excess(low) <= 0), (high, excess(high) >= 0)):
        if beyond:  # by rounding, or below 1e-140
            return exp(end)
    return exp(optimize.brentq(excess, low, high, xtol=1e-10))
