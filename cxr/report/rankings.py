"""How architectures rank by a metric under each method, and where two methods disagree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from cxr.metrics.metric_table import sign_of_stability
from cxr.statistics import stability_ranks


def ranking(
    summary: pd.DataFrame, metric: str, draws: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[dict[str, str | float]]]:
    """Ranks (1: most stable) and reversals between each two methods.

    Args:
        summary: `pooled`.
        metric: a metric with a direction.
        draws: `cxr.statistics.bootstrap.paired_replicates` of the metric; None: no probabilities.

    Returns: (one row an architecture; a column a method, and `P(<method>)`, the bootstrap probability of that
        rank), and the reversals of `cxr.statistics.stability_ranks.reversals` with `method_a`, `method_b` added.
        Ties share their mean rank. A cell that is missing or NaN has rank NaN, and does not count among the
        others.
    Raises: InputError for a metric without a direction.
    """
    sign = sign_of_stability(metric)
    values = summary.pivot(index="architecture", columns="method", values=f"{metric}_median")
    stability = sign * values.loc[summary["architecture"].unique(), summary["method"].unique()]
    draws = None if draws is None else sign * draws
    methods = list(stability.columns)
    ranks = stability.rank(ascending=False)
    if draws is not None:
        probability = stability_ranks.rank_probabilities(draws)
        for method in methods:
            ranks[f"P({method})"] = [
                probability.at[(method, name), int(rank)] if rank == rank and rank == int(rank) else np.nan
                for name, rank in ranks[method].items()
            ]
    found = [
        {"method_a": method_a, "method_b": method_b, **row}
        for method_a, method_b in combinations(methods, 2)
        for row in stability_ranks.reversals(stability, method_a, method_b, replicates=draws)
    ]
    return ranks, found
