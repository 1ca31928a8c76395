"""Order of architectures by stability: ranks, how sure they are, and orders that reverse between methods.

How sure an order is, is counted over paired replicates (`cxr.statistics.bootstrap.paired_replicates`).
"""

from itertools import combinations

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.statistics.score_rows import require_columns


def order(summary: pd.DataFrame) -> pd.DataFrame:
    """Stability rank of each architecture under each method; 1 is the most stable.

    Parameters
    ----------
    summary : columns architecture, method, value, higher_is_more_stable (bool, the same in every row: it is
        one metric's table), a row per architecture and method.

    Returns
    -------
    float DataFrame, architectures x methods in the order in which they first appear. Ties share their mean
    rank; a cell that is missing or NaN has rank NaN and does not count among the others.
    """
    values = _cells(summary)
    return values.rank(axis=0, ascending=not _direction(summary), method="average")


def rank_probabilities(replicates: pd.DataFrame, *, higher_is_more_stable: bool = True) -> pd.DataFrame:
    """P(rank = r) of each architecture under each method, over paired replicates.

    Parameters
    ----------
    replicates : as `paired_replicates` returns them.
    higher_is_more_stable : direction of the metric; rank 1 is the most stable.

    Returns
    -------
    float DataFrame, index (method, architecture), columns 1 ... number of architectures under any method.
    Architectures tied in a replicate share its ranks evenly, so that rows and, per method, columns sum to 1.
    NaN for a method with any NaN replicate.
    """
    methods = replicates.columns.unique("method")
    parts = {method: replicates.xs(method, axis=1, level="method") for method in methods}
    ranks = range(1, max(part.shape[1] for part in parts.values()) + 1)
    out = {}
    for method, part in parts.items():
        stability = part.to_numpy() if higher_is_more_stable else -part.to_numpy()
        for i, architecture in enumerate(part.columns):
            own = stability[:, [i]]
            ahead, level = (stability > own).sum(1), (stability == own).sum(1)
            out[method, architecture] = (
                [np.nan] * len(ranks)
                if np.isnan(stability).any()
                else [float((((ahead < r) & (r <= ahead + level)) / level).mean()) for r in ranks]
            )
    table = pd.DataFrame.from_dict(out, orient="index", columns=pd.Index(ranks, name="rank"))
    table.index = pd.MultiIndex.from_tuples(out, names=["method", "architecture"])
    return table


def p_order(replicates: pd.DataFrame, method: str, a: str, b: str, *, higher_is_more_stable: bool = True) -> float:
    """Share of paired replicates in which `a` is more stable than `b` under `method`; ties count one half.

    So p_order(a, b) + p_order(b, a) = 1. NaN if a replicate of either cell is.
    """
    difference = _difference(replicates, method, a, b, higher_is_more_stable)
    if np.isnan(difference).any():
        return float("nan")
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def p_reversal(
    replicates: pd.DataFrame,
    method_a: str,
    method_b: str,
    a: str,
    b: str,
    *,
    higher_is_more_stable: bool = True,
) -> float:
    """Share of paired replicates in which `a` is the more stable under `method_a`, `b` under `method_b`.

    Strictly in both: ties support no reversal. NaN if a replicate of any of the four cells is.
    """
    first = _difference(replicates, method_a, a, b, higher_is_more_stable)
    second = _difference(replicates, method_b, a, b, higher_is_more_stable)
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    return float(((first > 0) & (second < 0)).mean())


def reversals(
    table: pd.DataFrame, method_a: str, method_b: str, *, replicates: pd.DataFrame | None = None
) -> list[dict[str, str | float]]:
    """Pairs of architectures whose order by the point estimates differs between two methods.

    Parameters
    ----------
    table : as for `order`.
    method_a, method_b : the methods.
    replicates : as `paired_replicates` returns them, of the same metric; without them the probabilities
        are NaN.

    Returns
    -------
    A dict per pair: `stabler_a` and `stabler_b`, the architecture more stable under method_a and the one more
    stable under method_b; `margin_a` and `margin_b` (both > 0), by how much each leads under its method, in
    the metric's units; `p_order_a` and `p_order_b`, the bootstrap share of each lead (`p_order`);
    `p_reversal`, that of both at once (`p_reversal`). Widest reversal (smaller of the margins) first. Ties
    and missing cells are no reversal.

    A flip of two point estimates is weak evidence: read it with its probabilities, and never at a layer where
    the two methods are the same map up to scale.
    """
    values, higher = _cells(table), _direction(table)
    for method in (method_a, method_b):
        if method not in values.columns:
            raise InputError(f"reversals: no method {method!r} in the table; it has {list(values.columns)}.")
    stability = values if higher else -values
    found = []
    for pair in combinations(values.index, 2):
        leads = [stability.at[pair[0], m] - stability.at[pair[1], m] for m in (method_a, method_b)]
        if not leads[0] * leads[1] < 0:  # NaN too
            continue
        a, b = pair if leads[0] > 0 else pair[::-1]
        margins = {"margin_a": float(abs(leads[0])), "margin_b": float(abs(leads[1]))}
        options = {"higher_is_more_stable": higher}
        nan = float("nan")
        found.append(
            {"stabler_a": a, "stabler_b": b}
            | margins
            | {
                "p_order_a": nan if replicates is None else p_order(replicates, method_a, a, b, **options),
                "p_order_b": nan if replicates is None else p_order(replicates, method_b, b, a, **options),
                "p_reversal": (
                    nan if replicates is None else p_reversal(replicates, method_a, method_b, a, b, **options)
                ),
            }
        )
    return sorted(found, key=lambda row: -min(row["margin_a"], row["margin_b"]))


def _difference(replicates: pd.DataFrame, method: str, a: str, b: str, higher: bool) -> np.ndarray:
    for cell in ((a, method), (b, method)):
        if cell not in replicates.columns:
            raise InputError(f"replicates: no column {cell}; there are {list(replicates.columns)}.")
    difference = (replicates[a, method] - replicates[b, method]).to_numpy()
    return difference if higher else -difference


def _cells(summary: pd.DataFrame) -> pd.DataFrame:
    """The values as architectures x methods, in the order in which they first appear."""
    require_columns(summary, ("architecture", "method", "value", "higher_is_more_stable"), "summary")
    double = summary.duplicated(["architecture", "method"])
    if double.any():
        row = summary[double].iloc[0]
        raise InputError(
            f"summary: {row['architecture']} under {row['method']} appears more than once; "
            "pass one metric's table, with one row per architecture and method."
        )
    table = summary.pivot(index="architecture", columns="method", values="value").astype(float)
    return table.loc[summary["architecture"].unique(), summary["method"].unique()]


def _direction(summary: pd.DataFrame) -> bool:
    directions = set(summary["higher_is_more_stable"].tolist())
    if directions not in ({True}, {False}):
        raise InputError(
            "summary: higher_is_more_stable must be True in every row or False in every row, got "
            f"{sorted(map(str, directions))}; a signed metric has no order of stability: rank its absolute "
            "value instead."
        )
    return directions.pop()
