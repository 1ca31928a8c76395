"""How architectures rank by a metric under each method, and where two methods disagree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.metrics.metric_table import METRICS
from cxr.report.comparison import CELL
from cxr.statistics import bootstrap, stability_ranks


def replicates(scores: pd.DataFrame, metric: str, *, n_boot: int = 2000) -> pd.DataFrame:
    """Bootstrap medians of `metric` in every cell from the same draws (`bootstrap.paired_replicates`)."""
    tables = {
        cell: table[["image_id", "patient_id", "seed"]].assign(value=table[metric].to_numpy(float))
        for cell, table in scores.groupby(CELL, sort=False)
    }
    return bootstrap.paired_replicates(tables, n_boot=n_boot, crossed=True)


def ranking(
    summary: pd.DataFrame, metric: str, draws: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[dict[str, str | float]]]:
    """Ranks (1: most stable) and reversals between each two methods.

    Args:
        summary: `pooled`.
        metric: a metric with a direction (`higher_is_more_stable` is not None).
        draws: `replicates` of the metric, or None if they could not be had.

    Returns: (one row an architecture; a column a method, and `P(<method>)`, the bootstrap probability of that
        rank), and the reversals of `cxr.statistics.stability_ranks.reversals` with `method_a`, `method_b` added.
    Raises: InputError for a metric without a direction.
    """
    higher = METRICS[metric].higher_is_more_stable
    if higher is None:
        raise InputError(f"primary_metric: {metric} has no direction of stability: use another, such as overlap")
    values = summary[CELL].assign(value=summary[f"{metric}_median"], higher_is_more_stable=higher)
    ranks = stability_ranks.order(values)
    methods = list(ranks.columns)
    if draws is not None:
        probability = stability_ranks.rank_probabilities(draws, higher_is_more_stable=higher)
        for method in methods:
            ranks[f"P({method})"] = [
                probability.at[(method, name), int(rank)] if rank == rank and rank == int(rank) else np.nan
                for name, rank in ranks[method].items()
            ]
    found = []
    for number, method_a in enumerate(methods):
        for method_b in methods[number + 1 :]:
            for row in stability_ranks.reversals(values, method_a, method_b, replicates=draws):
                found.append({"method_a": method_a, "method_b": method_b, **row})
    return ranks, found
