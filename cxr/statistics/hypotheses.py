"""Tests and intervals for what a study claims, when few training seeds share one test set. NumPy/SciPy/pandas.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, inf, isnan, log, nan, sqrt

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from cxr.core.errors import InputError
from cxr.statistics import bootstrap

Cell = tuple[str, str]
KEYS = ["architecture", "method", "seed", "image_id", "patient_id"]
NETWORKS = "these networks"


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


_NOTHING = Estimate(nan, nan, nan, nan, nan, nan, 0, 0, nan, nan, nan)


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
    half = _half_width(a, k - 1, patients, n_patients - 1, 1 - level) if se > 0 else nan
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


def contrast(
    scores: pd.DataFrame,
    metric: str,
    weights: Mapping[Cell, float],
    *,
    statistic: bootstrap.Statistic = "median",
    n_boot: int = 2000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> Estimate:
    """A weighted sum of cells' statistics on the images that all of these cells have, through `estimate`.

    Parameters
    ----------
    scores : per-image rows with columns architecture, method, seed, image_id, patient_id and the metric
        (NaN: an empty map, dropped); an image at most once a cell and seed.
    metric : a column of scores.
    weights : of each (architecture, method); {("A", "m"): 1, ("B", "m"): -1} is a difference, one cell with
        weight 1 its own median. Images count in a seed if every cell named has a value for them there
        (paired); seeds without such an image are left out. Pairing by seed is right whether or not a
        seed's number makes two architectures alike.
    statistic, n_boot, rng_seed : as for `cxr.statistics.bootstrap.patient_replicates`.
    level : of the interval.
    """
    return _contrast(_wide(scores, metric), dict(weights), statistic, n_boot, level, rng_seed)


def compare_architectures(
    scores: pd.DataFrame,
    metric: str,
    *,
    statistic: bootstrap.Statistic = "median",
    n_boot: int = 2000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Every two architectures under each method: does one move more, over trainings and patients?

    Parameters as for `contrast`.

    Returns
    -------
    DataFrame: method, a, b, difference (statistic of a minus that of b on paired images, mean over seeds),
    low, high, se, df, p, p_holm, n_seeds, n_patients. Holm is over the pairs within a method: "which architectures
    differ" is asked of each method by itself. With n_seeds 1 a row is about these networks only. NaN where
    a pair shares no images, or too few patients.
    """
    wide = _wide(scores, metric)
    rows = []
    for method in _order(scores, "method"):
        own = [a for a in _order(scores, "architecture") if (a, method) in wide.columns]
        for a, b in combinations(own, 2):
            est = _contrast(wide, {(a, method): 1, (b, method): -1}, statistic, n_boot, level, rng_seed)
            rows.append({"method": method, "a": a, "b": b} | _row(est))
    names = ["method", "a", "b", *_row(_NOTHING)]
    table = pd.DataFrame(rows, columns=names)
    adjusted = table.groupby("method", sort=False)["p"].transform(holm)
    table.insert(names.index("p") + 1, "p_holm", adjusted.astype(float))
    return table


def interaction(
    scores: pd.DataFrame,
    metric: str,
    *,
    statistic: bootstrap.Statistic = "median",
    n_boot: int = 2000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Does the difference between architectures depend on the method?

    Parameters as for `contrast`.

    Returns
    -------
    DataFrame, a row per pair of methods and pair of architectures: method_a, method_b, a, b, difference =
    (a - b under method_a) - (a - b under method_b) on the images that all four cells have, low, high, se, df,
    p, p_holm (over all rows), n_seeds, n_patients; p_friedman, the same in every row of a pair of methods:
    Friedman's test over all (>= 3) architectures of the patients' mean difference between the two methods
    (means over images and seeds that all have). It is about these networks only, whatever n_seeds.
    """
    wide = _wide(scores, metric)
    rows = []
    for first, second in combinations(_order(scores, "method"), 2):
        own = [a for a in _order(scores, "architecture") if {(a, first), (a, second)} <= set(wide.columns)]
        if len(own) < 2:
            continue
        changes = pd.DataFrame({a: wide[a, first] - wide[a, second] for a in own})
        friedman = _friedman(_per_patient(changes))["p"]
        for a, b in combinations(own, 2):
            cells = {(a, first): 1, (b, first): -1, (a, second): -1, (b, second): 1}
            est = _contrast(wide, cells, statistic, n_boot, level, rng_seed)
            rows.append(
                {"method_a": first, "method_b": second, "a": a, "b": b} | _row(est) | {"p_friedman": friedman}
            )
    names = ["method_a", "method_b", "a", "b", *_row(_NOTHING), "p_friedman"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(names.index("p") + 1, "p_holm", holm(table["p"].astype(float)))
    return table


def crossover(
    scores: pd.DataFrame,
    metric: str,
    method_a: str,
    method_b: str,
    *,
    statistic: bootstrap.Statistic = "median",
    n_boot: int = 2000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Does the order of two architectures reverse between two methods (qualitative interaction)?

    The null: not both orders are strict and opposite. p = `reversal_p` of the two differences: below alpha if
    both are significant, two-sided at alpha, with opposite signs. To find one the direction of which was not
    named beforehand is to try two intersection-union tests (Berger 1982), each at level alpha / 2: Bonferroni's
    two give alpha whatever the dependence between methods; where it is not negative, as with
    maps of the same networks, the level is alpha / 2 (as Gail and Simon 1985 show for independent ones).

    Parameters as for `contrast`; method_a and method_b are two of the methods.

    Returns
    -------
    DataFrame, a row per pair of architectures under both: a, b, difference_a, low_a, high_a (a minus b under
    method_a), difference_b, low_b, high_b (under method_b), on the images that all four cells have; p, p_holm
    (over pairs), p_reversal (share of bootstrap replicates over seeds, patients and images in which the order that
    was seen under method_a holds there and is reversed under method_b: `cxr.statistics.bootstrap.p_reversal`; a
    description, not a test; with a tie seen, 0), n_seeds, n_patients.
    """
    wide = _wide(scores, metric)
    if method_a == method_b:
        raise InputError(f"crossover: name two methods, got {method_a!r} twice.")
    for method in (method_a, method_b):
        if method not in wide.columns.get_level_values("method"):
            raise InputError(f"crossover: no method {method!r} in the scores.")
    options = (statistic, n_boot, level, rng_seed)
    rows = []
    own = [a for a in _order(scores, "architecture") if {(a, method_a), (a, method_b)} <= set(wide.columns)]
    for a, b in combinations(own, 2):
        cells = [(a, method_a), (b, method_a), (a, method_b), (b, method_b)]
        shared = wide[cells].dropna()
        first = _contrast(shared, {cells[0]: 1, cells[1]: -1}, *options)
        second = _contrast(shared, {cells[2]: 1, cells[3]: -1}, *options)
        row = {"a": a, "b": b}
        for end, est in (("_a", first), ("_b", second)):
            row |= {"difference" + end: est.value, "low" + end: est.low, "high" + end: est.high}
        row |= {"p": reversal_p(first, second), "p_reversal": _share(shared, cells, first.value, options)}
        rows.append(row | {"n_seeds": first.n_seeds, "n_patients": first.n_patients})
    names = ["a", "b"] + [f"{c}_{m}" for m in "ab" for c in ("difference", "low", "high")]
    table = pd.DataFrame(rows, columns=[*names, "p", "p_reversal", "n_seeds", "n_patients"])
    table.insert(len(names) + 1, "p_holm", holm(table["p"].astype(float)))
    return table


def reversal_p(first: Estimate, second: Estimate) -> float:
    """P-value that two quantities differ from 0 in opposite directions: see `crossover`.

    Twice the larger one-sided p-value in the better of the two directions, at most 1.
    """
    directions = (("greater", "less"), ("less", "greater"))
    worst = [max(p_value(first, 0, one), p_value(second, 0, two)) for one, two in directions]
    return nan if isnan(p_value(first)) or isnan(p_value(second)) else min(1.0, 2 * min(worst))


def paired_tests(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rank tests between architectures within each method, the patient as unit; about these networks only.

    A patient's value is its mean over the images and seeds that all compared architectures have. Friedman's test
    over all architectures (>= 3), Wilcoxon's signed-rank test for each pair (differences of 0 dropped;
    SciPy chooses between exact and normal). Seeds are not a source of chance here: networks that differ by
    their seed's luck alone become significant with enough patients. For claims about architectures use
    `compare_architectures`.

    Parameters as for `contrast`.

    Returns
    -------
    DataFrame: method, test ("friedman" or "wilcoxon"), a, b (empty for friedman), statistic (chi-square; the
    smaller rank sum), effect (Kendall's W in [0, 1]; the matched-pairs rank-biserial correlation in [-1, 1],
    > 0 if a is larger, Kerby 2014), p, p_holm (over a method's pairs; NaN for friedman), n_patients, n_seeds,
    scope ("these networks"). NaN with fewer than two patients.
    """
    wide = _wide(scores, metric)
    rows = []
    for method in _order(scores, "method"):
        own = [a for a in _order(scores, "architecture") if (a, method) in wide.columns]
        cells = wide.xs(method, axis=1, level="method")[own]
        if len(own) > 2:
            rows.append({"method": method, "test": "friedman", "a": "", "b": ""} | _friedman(_per_patient(cells)))
        for a, b in combinations(own, 2):
            row = {"method": method, "test": "wilcoxon", "a": a, "b": b}
            rows.append(row | _wilcoxon(_per_patient(cells[[a, b]])))
    names = ["method", "test", "a", "b", "statistic", "effect", "p", "p_holm", "n_patients", "n_seeds"]
    table = pd.DataFrame(rows, columns=names)
    pairs = table[table["test"] == "wilcoxon"]
    table["p_holm"] = pairs.groupby("method", sort=False)["p"].transform(holm).astype(float)
    return table.assign(scope=NETWORKS)


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
    half = _half_width(a * slices, k - 1, c, n - 1, alpha)
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


def _half_width(a: float | np.ndarray, df_a: int, c: float, df_c: int, alpha: float) -> float | np.ndarray:
    """Banerjee's: of two independent variances a and c with their degrees of freedom (df_a 0: a counts 0)."""
    seeds = a * special.stdtrit(df_a, alpha / 2) ** 2 if df_a else 0.0
    return np.sqrt(seeds + c * special.stdtrit(df_c, alpha / 2) ** 2)


def _touching(distance: float, a: float, df_a: int, c: float, df_c: int) -> float:
    """The alpha at which `_half_width` is the distance: between those of t with either source's degrees."""
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
        return float(_half_width(a, df_a, c, df_c, exp(log_alpha))) - distance

    for end, beyond in ((low, excess(low) <= 0), (high, excess(high) >= 0)):
        if beyond:  # by rounding, or below 1e-140
            return exp(end)
    return exp(optimize.brentq(excess, low, high, xtol=1e-10))


def _wide(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values as rows (seed, image_id, patient_id) x columns (architecture, method), NaN where there is none."""
    missing = [name for name in (*KEYS, metric) if name not in scores.columns]
    if missing:
        raise InputError(f"scores: columns {missing} are missing; there are {list(scores.columns)}.")
    if scores.empty or scores[KEYS].isna().any(axis=None):
        raise InputError("scores: no rows, or rows without architecture, method, seed, image_id or patient_id.")
    values = scores[KEYS].assign(value=scores[metric].to_numpy(dtype=float))
    if np.isinf(values["value"]).any():
        raise InputError(f"scores: {np.isinf(values['value']).sum()} values of {metric} are infinite.")
    double = values.duplicated(["architecture", "method", "seed", "image_id"])
    if double.any():
        row = values[double].iloc[0]
        raise InputError(
            f"scores: image {row['image_id']!r} appears more than once for {row['architecture']} under "
            f"{row['method']}, seed {row['seed']}."
        )
    owners = values.groupby("image_id")["patient_id"].nunique()
    if (owners > 1).any():
        raise InputError(f"scores: image {owners.index[owners > 1][0]!r} belongs to more than one patient.")
    return values.pivot(
        index=["seed", "image_id", "patient_id"], columns=["architecture", "method"], values="value"
    )


def _contrast(
    wide: pd.DataFrame,
    weights: dict[Cell, float],
    statistic: bootstrap.Statistic,
    n_boot: int,
    level: float,
    rng_seed: int,
) -> Estimate:
    absent = [cell for cell in weights if cell not in wide.columns]
    if absent or not weights:
        raise InputError(f"contrast: no rows of {absent}; there are {list(wide.columns)}.")
    shared = wide[list(weights)].dropna()
    seeds = list(shared.index.unique("seed"))
    if not seeds:
        return _NOTHING
    tables = {
        (*cell, seed): part[cell].rename("value").reset_index()
        for seed, part in shared.groupby("seed")
        for cell in weights
    }
    draws = bootstrap.patient_replicates(tables, n_boot=n_boot, rng_seed=rng_seed, statistic=statistic)
    point = {
        key: bootstrap._weighted(statistic, t["value"].to_numpy(), np.ones((1, len(t)), dtype=int))[0]
        for key, t in tables.items()
    }
    per_seed = [sum(w * point[*cell, s] for cell, w in weights.items()) for s in seeds]
    replicates = [sum(w * draws[*cell, s].to_numpy() for cell, w in weights.items()) for s in seeds]
    patients = shared.index.get_level_values("patient_id").nunique()
    return estimate(per_seed, np.stack(replicates, axis=1), n_patients=patients, level=level)


def _row(est: Estimate) -> dict[str, float | int]:
    return {
        "difference": est.value,
        "low": est.low,
        "high": est.high,
        "se": est.se,
        "df": est.df,
        "p": p_value(est),
        "n_seeds": est.n_seeds,
        "n_patients": est.n_patients,
    }


def _share(shared: pd.DataFrame, cells: list[Cell], lead: float, options: tuple) -> float:
    """`p_reversal` of the order seen under the first method, on rows that all four cells have."""
    statistic, n_boot, _, rng_seed = options
    if shared.empty:
        return nan
    tables = {cell: shared[cell].rename("value").reset_index() for cell in cells}
    draws = bootstrap.paired_replicates(
        tables, n_boot=n_boot, rng_seed=rng_seed, statistic=statistic, crossed=True
    )
    (a, method_a), (b, _), (_, method_b), _ = cells
    if lead == 0:
        return 0.0
    return bootstrap.p_reversal(draws, method_a, method_b, *((a, b) if lead > 0 else (b, a)))


def _per_patient(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over the rows that every column has: patients x columns; attrs hold the number of seeds."""
    shared = cells.dropna()
    out = shared.groupby("patient_id").mean()
    out.attrs["n_seeds"] = shared.index.get_level_values("seed").nunique()
    return out


def _friedman(patients: pd.DataFrame) -> dict[str, float | int]:
    n, treatments = patients.shape
    out = {"statistic": nan, "effect": nan, "p": nan, "n_patients": n, "n_seeds": patients.attrs["n_seeds"]}
    if n < 2 or treatments < 3:
        return out
    if (patients.to_numpy() == patients.to_numpy()[:, :1]).all():  # SciPy divides 0 by 0
        return out | {"statistic": 0.0, "effect": 0.0, "p": 1.0}
    found = stats.friedmanchisquare(*patients.to_numpy().T)
    effect = found.statistic / (n * (treatments - 1))
    return out | {"statistic": float(found.statistic), "effect": float(effect), "p": float(found.pvalue)}


def _wilcoxon(patients: pd.DataFrame) -> dict[str, float | int]:
    n = len(patients)
    out = {"statistic": nan, "effect": nan, "p": nan, "n_patients": n, "n_seeds": patients.attrs["n_seeds"]}
    if n < 2:
        return out
    difference = patients.iloc[:, 0].to_numpy() - patients.iloc[:, 1].to_numpy()
    difference = difference[difference != 0]
    if len(difference) == 0:
        return out | {"statistic": 0.0, "effect": 0.0, "p": 1.0}
    rank = stats.rankdata(abs(difference))
    effect = rank @ np.sign(difference) / rank.sum()
    found = stats.wilcoxon(difference)
    return out | {"statistic": float(found.statistic), "effect": float(effect), "p": float(found.pvalue)}


def _order(scores: pd.DataFrame, name: str) -> list:
    """Labels in the order in which they first appear."""
    return list(scores[name].unique())
