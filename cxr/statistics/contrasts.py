"""Differences between architectures and methods, over new trainings and new patients.

Each is a weighted sum of cells' statistics (a cell: one architecture under one method) on the images that all
named cells have, with its interval and test from `cxr.statistics.estimates`. The statistic is that of `Scores`: a
median, or two medians combined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from cxr.statistics import bootstrap
from cxr.statistics.estimates import NOTHING, Estimate, holm, p_value, reversal_p, same_order_p, total
from cxr.statistics.rank_tests import friedman_test, per_patient
from cxr.statistics.score_rows import Cell, Scores


def contrast(scores: Scores, weights: Mapping[Cell, float]) -> Estimate:
    """A weighted sum of cells' statistics, over new trainings and new patients.

    Methods of one architecture are paired by seed: they explain the same networks. Architectures are not: seed 0
    of one has nothing in common with seed 0 of another (`estimates.total`).

    Parameters
    ----------
    scores : with a column for each named cell.
    weights : one for each (architecture, method): {("A", "m"): 1, ("B", "m"): -1} is a difference, one cell with
        weight 1 its own statistic. The images are those of `shared`. Seeds without such an image are left out.
    """
    scores = shared(scores, list(weights))
    if scores.values.empty:
        return NOTHING
    parts = {"value": scores.values.unstack("seed")}
    if scores.combine:
        parts["reference"] = scores.reference.unstack("seed")
    wide = pd.concat(parts, axis=1).sort_index(axis=1)  # columns (part, architecture, method, seed)
    held = wide["value"].dropna(axis=1, how="all").columns
    draws, medians = bootstrap.patient_replicates(wide, n_boot=scores.n_boot), wide.median()

    def statistic(cell: tuple) -> tuple[float, np.ndarray]:
        names = [(part, *cell) for part in parts]
        both = [medians[name] for name in names], [draws[name].to_numpy() for name in names]
        return tuple(scores.combine(*own) if scores.combine else own[0] for own in both)

    groups = []
    for architecture in dict.fromkeys(architecture for architecture, _ in weights):
        theta, replicates = [], []
        for seed in held[held.get_level_values("architecture") == architecture].unique("seed"):
            found = [(w, *statistic((a, method, seed))) for (a, method), w in weights.items() if a == architecture]
            theta.append(sum(weight * value for weight, value, _ in found))
            replicates.append(sum(weight * drawn for weight, _, drawn in found))
        groups.append((theta, np.stack(replicates, axis=1)))
    return total(groups, n_patients=wide.index.unique("patient_id").size, level=scores.level)


def shared(scores: Scores, cells: Sequence[Cell]) -> Scores:
    """The scores of some cells on the images that they share; other rows and values are left out.

    An image counts in a network if the network has a value of it under each of its named methods, and each other
    named architecture has such a network.
    """
    architectures = dict.fromkeys(architecture for architecture, _ in cells)
    own = [scores.values[[cell for cell in cells if cell[0] == name]].dropna() for name in architectures]
    images = set.intersection(*(set(rows.index.unique("image_id")) for rows in own))
    values = pd.concat([rows[rows.index.isin(images, level="image_id")] for rows in own], axis=1).sort_index()
    values = values[list(cells)]
    reference = scores.reference
    if reference is not None:
        reference = reference.loc[values.index, list(cells)].where(values.notna())
    return replace(scores, values=values, reference=reference)


def compare_architectures(scores: Scores) -> pd.DataFrame:
    """Every pair of architectures under each method: does the evidence of one move more, over trainings and
    patients?

    Returns
    -------
    DataFrame: method, a, b, difference (a's statistic minus b's on shared images, means over seeds), low, high,
    se, df, p, p_holm, n_seeds, n_patients, estimate (`Estimate`). Holm counts all rows, because "some pair differs
    under some method" is one question. With n_seeds 1 a row is about these networks only. NaN where a pair shares
    no images, or too few patients.
    """
    rows = []
    for method in scores.methods:
        for a, b in combinations(scores.architectures(method), 2):
            est = contrast(scores, {(a, method): 1, (b, method): -1})
            rows.append({"method": method, "a": a, "b": b} | _row(est) | {"estimate": est})
    table = pd.DataFrame(rows, columns=["method", "a", "b", *_row(NOTHING), "estimate"])
    return table.assign(p_holm=holm(table["p"].astype(float)))


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
    method_a), difference_b, low_b, high_b (under method_b), on the images that all four cells share; p, p_holm
    (over pairs), p_same_order (`estimates.same_order_p`), n_seeds, n_patients, estimate_a, estimate_b
    (`Estimate`).
    """
    rows = []
    for a, b in combinations(scores.architectures(method_a, method_b), 2):
        own = shared(scores, [(name, method) for method in (method_a, method_b) for name in (a, b)])
        both = [contrast(own, {(a, method): 1, (b, method): -1}) for method in (method_a, method_b)]
        row = {"a": a, "b": b}
        for end, est in zip("ab", both, strict=True):
            row |= {f"difference_{end}": est.value, f"low_{end}": est.low, f"high_{end}": est.high}
        row |= {"p": reversal_p(*both), "p_same_order": same_order_p(*both)}
        row |= {"n_seeds": both[0].n_seeds, "n_patients": both[0].n_patients}
        rows.append(row | dict(zip(("estimate_a", "estimate_b"), both, strict=True)))
    names = ["a", "b", *(f"{part}_{end}" for end in "ab" for part in ("difference", "low", "high"))]
    names += ["p", "p_holm", "p_same_order", "n_seeds", "n_patients", "estimate_a", "estimate_b"]
    table = pd.DataFrame(rows, columns=names)
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
