"""Differences between architectures and methods, over new trainings and new patients.

Each is a weighted sum of cells' medians (a cell: one architecture under one method) on the images that all named
cells have, with its interval and test from `cxr.statistics.estimates`.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from cxr.statistics import bootstrap, stability_ranks
from cxr.statistics.estimates import NOTHING, Estimate, estimate, holm, p_value, reversal_p
from cxr.statistics.rank_tests import friedman_test, per_patient
from cxr.statistics.score_rows import Cell, Scores


def contrast(scores: Scores, weights: Mapping[Cell, float]) -> Estimate:
    """A weighted sum of cells' medians on the images that all of these cells have, through `estimate`.

    Parameters
    ----------
    scores : with a column for each named cell.
    weights : one for each (architecture, method): {("A", "m"): 1, ("B", "m"): -1} is a difference, one cell with
        weight 1 its own median. An image counts under a seed if every named cell has a value for it there
        (paired). Seeds without such an image are left out. Pairing by seed is correct even if equal seeds have
        nothing in common between architectures.
    """
    shared = scores.values[list(weights)].dropna()
    if shared.empty:
        return NOTHING
    by_seed = shared.unstack("seed").sort_index(axis=1)  # columns (architecture, method, seed)
    draws = bootstrap.patient_replicates(by_seed, n_boot=scores.n_boot)
    medians = by_seed.median()
    replicates = sum(weight * draws[cell].to_numpy() for cell, weight in weights.items())
    return estimate(
        sum(weight * medians[cell] for cell, weight in weights.items()),
        np.ascontiguousarray(replicates),  # the order in memory decides the last digit of a covariance
        n_patients=by_seed.index.unique("patient_id").size,
        level=scores.level,
    )


def compare_architectures(scores: Scores) -> pd.DataFrame:
    """Every pair of architectures under each method: does the evidence of one move more, over trainings and
    patients?

    Returns
    -------
    DataFrame: method, a, b, difference (median of a minus that of b on paired images, mean over seeds), low, high,
    se, df, p, p_holm, n_seeds, n_patients, estimate (`Estimate`). Holm counts the pairs within a method, because
    each method is asked by itself which architectures differ. With n_seeds 1 a row is about these networks only.
    NaN where a pair shares no images, or too few patients.
    """
    rows = []
    for method in scores.methods:
        for a, b in combinations(scores.architectures(method), 2):
            est = contrast(scores, {(a, method): 1, (b, method): -1})
            rows.append({"method": method, "a": a, "b": b} | _row(est) | {"estimate": est})
    table = pd.DataFrame(rows, columns=["method", "a", "b", *_row(NOTHING), "estimate"])
    table["p_holm"] = table.groupby("method", sort=False)["p"].transform(holm).astype(float)
    return table


def interaction(scores: Scores) -> pd.DataFrame:
    """Does the difference between architectures depend on the method?

    Returns
    -------
    DataFrame, a row per pair of methods and pair of architectures: method_a, method_b, a, b, difference =
    (a - b under method_a) - (a - b under method_b) on the images that all four cells have, low, high, se, df,
    p, p_holm (over all rows), n_seeds, n_patients; p_friedman, the same in every row of a pair of methods:
    Friedman's test over all (>= 3) architectures of the patients' mean difference between the two methods
    (means over images and seeds that all have). It is about these networks only, whatever n_seeds.
    """
    rows = []
    for first, second in combinations(scores.methods, 2):
        own = scores.architectures(first, second)
        changes = pd.DataFrame({a: scores.values[a, first] - scores.values[a, second] for a in own})
        for a, b in combinations(own, 2):
            est = contrast(scores, {(a, first): 1, (b, first): -1, (a, second): -1, (b, second): 1})
            row = {"method_a": first, "method_b": second, "a": a, "b": b} | _row(est)
            rows.append(row | {"p_friedman": friedman_test(per_patient(changes))["p"]})
    table = pd.DataFrame(rows, columns=["method_a", "method_b", "a", "b", *_row(NOTHING), "p_friedman"])
    return table.assign(p_holm=holm(table["p"].astype(float)))


def crossover(scores: Scores, method_a: str, method_b: str) -> pd.DataFrame:
    """Does the order of two architectures reverse between two methods (qualitative interaction)?

    Null hypothesis: the two orders are not both strict and opposite. p is `estimates.reversal_p` of the two
    differences.

    Returns
    -------
    DataFrame, a row per pair of architectures under both: a, b, difference_a, low_a, high_a (a minus b under
    method_a), difference_b, low_b, high_b (under method_b), on the images that all four cells have; p, p_holm
    (over pairs), p_reversal (share of bootstrap replicates over seeds, patients and images in which the order that
    was seen under method_a holds there and is reversed under method_b:
    `cxr.statistics.stability_ranks.p_reversal`; a description, not a test; 0 where a tie was seen), n_seeds,
    n_patients.
    """
    rows = []
    for a, b in combinations(scores.architectures(method_a, method_b), 2):
        cells = [(a, method_a), (b, method_a), (a, method_b), (b, method_b)]
        shared = Scores(scores.values[cells].dropna(), scores.n_boot, scores.level)
        first = contrast(shared, {cells[0]: 1, cells[1]: -1})
        second = contrast(shared, {cells[2]: 1, cells[3]: -1})
        row = {"a": a, "b": b}
        for end, est in (("a", first), ("b", second)):
            row |= {f"difference_{end}": est.value, f"low_{end}": est.low, f"high_{end}": est.high}
        row |= {"p": reversal_p(first, second), "p_holm": float("nan")}
        row |= {"p_reversal": _share(shared, cells, first.value)}
        rows.append(row | {"n_seeds": first.n_seeds, "n_patients": first.n_patients})
    names = ["a", "b", *(f"{part}_{end}" for end in "ab" for part in ("difference", "low", "high"))]
    table = pd.DataFrame(rows, columns=[*names, "p", "p_holm", "p_reversal", "n_seeds", "n_patients"])
    return table.assign(p_holm=holm(table["p"].astype(float)))


def _row(est: Estimate) -> dict[str, float | int]:
    return {
        "difference": est.value,
        "low": est.low,
        "high": est.high,
        "se": est.se,
        "df": est.df,
        "p": p_value(est),
        "p_holm": float("nan"),  # known when the table is whole
        "n_seeds": est.n_seeds,
        "n_patients": est.n_patients,
    }


def _share(shared: Scores, cells: list[Cell], lead: float) -> float:
    """`p_reversal` of the order that was seen under the first method, on rows that all four cells have."""
    if shared.values.empty:
        return float("nan")
    if lead == 0:
        return 0.0
    draws = bootstrap.paired_replicates(shared.values, n_boot=shared.n_boot)
    (a, method_a), (b, _), (_, method_b), _ = cells
    return stability_ranks.p_reversal(draws, method_a, method_b, *((a, b) if lead > 0 else (b, a)))
