"""Rank tests with the patient as unit: Friedman and Wilcoxon. They are about the networks examined only."""

from itertools import combinations
from math import nan

import numpy as np
import pandas as pd
from scipy import stats

from cxr.statistics.estimates import holm
from cxr.statistics.score_rows import Scores


def paired_tests(scores: Scores) -> pd.DataFrame:
    """Rank tests between architectures within each method, the patient as unit; about these networks only.

    A patient's value is the mean over the images and seeds that all compared architectures have. Friedman's test
    compares all architectures (3 or more), Wilcoxon's signed-rank test each pair (differences of 0 are dropped;
    SciPy chooses between exact and normal). Seeds are not a source of chance here: with enough patients, networks
    that differ only by the luck of their seed become significant. For claims about architectures use
    `cxr.statistics.contrasts.compare_architectures`.

    Returns
    -------
    DataFrame: method, test ("friedman" or "wilcoxon"), a, b (empty for friedman), statistic (chi-square; the
    smaller rank sum), effect (Kendall's W in [0, 1]; the matched-pairs rank-biserial correlation in [-1, 1],
    > 0 if a is larger, Kerby 2014), p, p_holm (over a method's pairs; NaN for friedman), n_patients, n_seeds,
    scope ("these networks"). NaN with fewer than two patients.
    """
    rows = []
    for method in scores.methods:
        own = scores.architectures(method)
        cells = scores.values.xs(method, axis=1, level="method")
        if len(own) > 2:
            rows.append(
                {"method": method, "test": "friedman", "a": "", "b": ""} | friedman_test(per_patient(cells))
            )
        for a, b in combinations(own, 2):
            row = {"method": method, "test": "wilcoxon", "a": a, "b": b}
            rows.append(row | _wilcoxon(per_patient(cells[[a, b]])))
    names = ["method", "test", "a", "b", "statistic", "effect", "p", "p_holm", "n_patients", "n_seeds"]
    table = pd.DataFrame(rows, columns=names)
    pairs = table[table["test"] == "wilcoxon"]
    table["p_holm"] = pairs.groupby("method", sort=False)["p"].transform(holm).astype(float)
    return table.assign(scope="these networks")


def per_patient(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over the rows that every column has: patients x columns; attrs hold the number of seeds."""
    shared = cells.dropna()
    out = shared.groupby("patient_id").mean()
    out.attrs["n_seeds"] = shared.index.get_level_values("seed").nunique()
    return out


def friedman_test(patients: pd.DataFrame) -> dict[str, float | int]:
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
