"""Estimates with intervals and p-values, when few training seeds share one test set. NumPy and SciPy.

Seeds and patients are crossed: k networks of a kind are examined on the same patients. A claim about the kind
of network, not about these k, must count two sources of chance, as multi-reader multi-case studies do with
readers (here seeds) and cases (here patients). For a statistic theta_s of each seed s (a median, a difference
of medians, an AUC difference), smooth enough to be nearly linear in seed and patient effects,

    theta_s = mu + T_s + P + E_s,

T_s is what the training did, P what these patients contribute whatever the network, E_s what they contribute
under this network alone. The mean over seeds has variance (var T + var E) / k + var P. The sample variance
S2 of theta_s has expectation var T + var E, for P is common to all seeds; and the covariance between seeds of
bootstrap replicates under one draw of patients estimates var P. So

    Var(mean) = S2 / k + max(Cov, 0)          (Obuchowski and Rockette 1995, for one treatment effect),

which for balanced means is the ANOVA's (MS_seed + MS_patient - MS_error) / (k n). A percentile bootstrap over
two or three seeds has too little to draw from, and a test over patients alone takes seeds' luck for an effect.

Level. S2 / k has k - 1 degrees of freedom, Cov about n - 1. A t quantile with Satterthwaite's degrees of
freedom (Hillis 2007) rejects up to 13 % at a nominal 5 % with two seeds, and up to 8 % if S2 is not let fall
under its share from patients, for the degrees of freedom are then estimated from one number. Used instead is
Banerjee's (1960) interval, which gives each source its own quantile:

    half-width^2 = t(k - 1)^2 S2 / k + t(n - 1)^2 max(Cov, 0).

For normal effects it holds its level whatever the two variances are: given the estimates the chance to cover
is F(half-width^2 / Var), F the distribution function of chi-square with one degree of freedom, which is
concave, so at least the average, weighted by the sources' shares of Var, of what t intervals over each source
alone would cover, and each of these covers its level. It is t over seeds where patients contribute nothing, t
over patients where seeds come out alike, and conservative in between; tests/benchmarks/bench_inference.py
measures by how much. P-values are the levels at which the interval, or its one-sided half, touches the null.

With one seed only the patients vary, and every statement is about these very networks: n_seeds says so.

References: Obuchowski and Rockette (1995) Commun. Stat. Simul. Comput. 24:285. Hillis (2007) Stat. Med.
26:596. Banerjee (1960) Sankhya 22:357. Schuirmann (1987) J. Pharmacokinet. Biopharm. 15:657 (TOST). Holm
(1979) Scand. J. Stat. 6:65. Berger (1982) Technometrics 24:295 (intersection-union). Gail and Simon (1985)
Biometrics 41:361 (qualitative interaction). Kerby (2014) Compr. Psychol. 3:1 (rank-biserial).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, nan, sqrt

import numpy as np
import pandas as pd
from scipy import optimize, special

from cxr.core.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A quantity over trainings and patients (over patients alone with one seed), with its variance by source.

    value: mean over seeds. se: sqrt(var_seeds / n_seeds + var_patients). df: Satterthwaite's degrees of freedom
    of se^2, to describe it; interval and tests use those of each source (see the module). low, high: interval
    of the given level. var_seeds: S2, between seeds (NaN with one seed). var_patients: max(Cov, 0) between
    seeds; with one seed the whole bootstrap variance. var_residual: the part of var_seeds that is patients
    under one network alone, and shrinks with more patients (NaN with one seed).

    What the data cannot give is NaN: all but value with one patient, or a replicate without a value; df, low
    and high where se is 0 (replicates and seeds all alike, from heavy ties or a perfect AUC, prove no certainty).
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


NOTHING = Estimate(nan, nan, nan, nan, nan, nan, 0, 0, nan, nan, nan)


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
    theta, draws = np.asarray(per_seed, dtype=float), np.asarray(replicates, dtype=float)
    if theta.ndim != 1 or len(theta) == 0 or draws.ndim != 2 or draws.shape[1] != len(theta) or len(draws) < 2:
        raise InputError(
            "estimate: expected per_seed [k] and replicates [n_boot, k] with k of 1 and n_boot of 2 or more, "
            f"got shapes {theta.shape} and {draws.shape}."
        )
    if not 0 < level < 1:
        raise InputError(f"estimate: level must lie between 0 and 1, got {level}.")
    k, value = len(theta), float(theta.mean())
    if n_patients < 2 or not (np.isfinite(theta).all() and np.isfinite(draws).all()):
        return Estimate(value, nan, nan, nan, nan, level, k, n_patients, nan, nan, nan)
    if k == 1:
        between, patients, residual = nan, float(draws.var(ddof=1)), nan
    else:
        covariance = np.cov(draws, rowvar=False)
        common = (covariance.sum() - np.trace(covariance)) / (k * (k - 1))
        between, patients = float(theta.var(ddof=1)), max(float(common), 0.0)
        residual = max(float(np.trace(covariance)) / k - patients, 0.0)
    a = 0.0 if k == 1 else between / k
    se = sqrt(a + patients)
    share = (a**2 / (k - 1) if k > 1 else 0) + patients**2 / (n_patients - 1)
    df = se**4 / share if share > 0 else nan
    half = half_width(a, k - 1, patients, n_patients - 1, 1 - level) if se > 0 else nan
    low, high = float(value - half), float(value + half)
    return Estimate(value, se, df, low, high, level, k, n_patients, between, patients, residual)


def p_value(est: Estimate, null: float = 0.0, alternative: str = "two-sided") -> float:
    """P-value of the hypothesis that the quantity equals `null`, or lies on its other side.

    Parameters
    ----------
    est : `estimate`.
    null : the value under the null.
    alternative : "two-sided", or what is to be shown: "less" or "greater" than null.

    Returns
    -------
    float in [0, 1], consistent with the interval: two-sided p < 1 - level where null lies outside. NaN if the
    estimate has no standard error, or one of 0.
    """
    if alternative not in ("two-sided", "less", "greater"):
        raise InputError(f"p_value: alternative must be two-sided, less or greater, got {alternative!r}.")
    if not est.se > 0:
        return nan
    distance = abs(est.value - null)
    a = 0.0 if est.n_seeds == 1 else est.var_seeds / est.n_seeds
    p = _touching(distance, a, est.n_seeds - 1, est.var_patients, est.n_patients - 1)
    if alternative == "two-sided":
        return p
    return p / 2 if (est.value > null) == (alternative == "greater") else 1 - p / 2


def equivalence(est: Estimate, margin: float) -> float:
    """P-value of TOST: that the quantity lies within -margin and +margin (Schuirmann 1987).

    The larger of the two one-sided p-values; below alpha exactly if the 1 - 2 alpha interval lies inside.
    """
    if not 0 < margin < inf:
        raise InputError(f"equivalence: margin must be positive, got {margin}.")
    return max(p_value(est, -margin, "greater"), p_value(est, margin, "less"))


def holm(p: Sequence[float] | pd.Series) -> np.ndarray | pd.Series:
    """P-values adjusted for their number by Holm's (1979) step-down; NaN stays NaN and does not count.

    Returns what was given: a Series with its index, otherwise float64 [m].
    """
    raw = np.asarray(p, dtype=float)
    if raw.ndim != 1 or (raw < 0).any() or (raw > 1).any():
        raise InputError(f"holm: expected p-values [m] between 0 and 1, got {raw.tolist()}.")
    known = np.flatnonzero(~np.isnan(raw))
    rank = known[np.argsort(raw[known], kind="stable")]
    out = np.full(len(raw), nan)
    steps = raw[rank] * np.arange(len(rank), 0, -1)
    out[rank] = np.minimum(np.maximum.accumulate(steps), 1)
    return pd.Series(out, index=p.index, name=p.name) if isinstance(p, pd.Series) else out


def half_width(a: float | np.ndarray, df_a: int, c: float, df_c: int, alpha: float) -> float | np.ndarray:
    """Banerjee's: of two independent variances a and c with their degrees of freedom (df_a 0: a counts 0)."""
    seeds = a * special.stdtrit(df_a, alpha / 2) ** 2 if df_a else 0.0
    return np.sqrt(seeds + c * special.stdtrit(df_c, alpha / 2) ** 2)


def _touching(distance: float, a: float, df_a: int, c: float, df_c: int) -> float:
    """The alpha at which `half_width` is the distance: between those of t with either source's degrees."""
    t = distance / sqrt(a + c)
    by_patients = 2 * special.stdtr(df_c, -t)
    by_seeds = 2 * special.stdtr(df_a, -t) if df_a else by_patients
    if a == 0 or by_seeds == by_patients:
        return float(by_patients)
    if c == 0:
        return float(by_seeds)
    # Nothing below 1e-140, for the square of a t quantile must not overflow; a hair of room for rounding.
    low, high = sorted(log(max(p, 1e-140)) for p in (by_seeds, by_patients))
    low, high = low - 1e-9, min(high + 1e-9, 0.0)

    def excess(log_alpha: float) -> float:
        return float(half_width(a, df_a, c, df_c, exp(log_alpha))) - distance

    for end, beyond in ((low, excess(low) <= 0), (high, excess(high) >= 0)):
        if beyond:  # by rounding, or below 1e-140
            return exp(end)
    return exp(optimize.brentq(excess, low, high, xtol=1e-10))
