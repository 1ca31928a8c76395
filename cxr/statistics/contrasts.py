"""Differences between architectures and methods, over new trainings and new patients.

Each is a weighted sum of cells' statistics (a cell: one architecture under one method) on the images that all
named cells have, with its interval and test from `cxr.statistics.estimates`.
"""

from collections.abc import Mapping
from itertools import combinations
from math import isnan, nan

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.statistics import bootstrap, resampling, stability_ranks
from cxr.statistics.estimates import NOTHING, Estimate, estimate, holm, p_value
from cxr.statistics.rank_tests import friedman_test, per_patient
from cxr.statistics.score_rows import Cell, in_order, wide_scores


def contrast(
    scores: pd.DataFrame,
    metric: str,
    weights: Mapping[Cell, float],
    *,
    statistic: resampling.Statistic = "median",
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
    return _contrast(wide_scores(scores, metric), dict(weights), statistic, n_boot, level, rng_seed)


def compare_architectures(
    scores: pd.DataFrame,
    metric: str,
    *,
    statistic: resampling.Statistic = "median",
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
    wide = wide_scores(scores, metric)
    rows = []
    for method in in_order(scores, "method"):
        own = [a for a in in_order(scores, "architecture") if (a, method) in wide.columns]
        for a, b in combinations(own, 2):
            est = _contrast(wide, {(a, method): 1, (b, method): -1}, statistic, n_boot, level, rng_seed)
            rows.append({"method": method, "a": a, "b": b} | _row(est))
    names = ["method", "a", "b", *_row(NOTHING)]
    table = pd.DataFrame(rows, columns=names)
    adjusted = table.groupby("method", sort=False)["p"].transform(holm)
    table.insert(names.index("p") + 1, "p_holm", adjusted.astype(float))
    return table


def interaction(
    scores: pd.DataFrame,
    metric: str,
    *,
    statistic: resampling.Statistic = "median",
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
    wide = wide_scores(scores, metric)
    rows = []
    for first, second in combinations(in_order(scores, "method"), 2):
        own = [a for a in in_order(scores, "architecture") if {(a, first), (a, second)} <= set(wide.columns)]
        if len(own) < 2:
            continue
        changes = pd.DataFrame({a: wide[a, first] - wide[a, second] for a in own})
        friedman = friedman_test(per_patient(changes))["p"]
        for a, b in combinations(own, 2):
            cells = {(a, first): 1, (b, first): -1, (a, second): -1, (b, second): 1}
            est = _contrast(wide, cells, statistic, n_boot, level, rng_seed)
            rows.append(
                {"method_a": first, "method_b": second, "a": a, "b": b} | _row(est) | {"p_friedman": friedman}
            )
    names = ["method_a", "method_b", "a", "b", *_row(NOTHING), "p_friedman"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(names.index("p") + 1, "p_holm", holm(table["p"].astype(float)))
    return table


def crossover(
    scores: pd.DataFrame,
    metric: str,
    method_a: str,
    method_b: str,
    *,
    statistic: resampling.Statistic = "median",
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
    was seen under method_a holds there and is reversed under method_b:
    `cxr.statistics.stability_ranks.p_reversal`; a description, not a test; 0 where a tie was seen), n_seeds,
    n_patients.
    """
    wide = wide_scores(scores, metric)
    if method_a == method_b:
        raise InputError(f"crossover: name two methods, got {method_a!r} twice.")
    for method in (method_a, method_b):
        if method not in wide.columns.get_level_values("method"):
            raise InputError(f"crossover: no method {method!r} in the scores.")
    options = (statistic, n_boot, level, rng_seed)
    rows = []
    own = [a for a in in_order(scores, "architecture") if {(a, method_a), (a, method_b)} <= set(wide.columns)]
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


def _contrast(
    wide: pd.DataFrame,
    weights: dict[Cell, float],
    statistic: resampling.Statistic,
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
        return NOTHING
    tables = {
        (*cell, seed): part[cell].rename("value").reset_index()
        for seed, part in shared.groupby("seed")
        for cell in weights
    }
    draws = bootstrap.patient_replicates(tables, n_boot=n_boot, rng_seed=rng_seed, statistic=statistic)
    point = {
        key: resampling.weighted(statistic, t["value"].to_numpy(), np.ones((1, len(t)), dtype=int))[0]
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
    return stability_ranks.p_reversal(draws, method_a, method_b, *((a, b) if lead > 0 else (b, a)))
