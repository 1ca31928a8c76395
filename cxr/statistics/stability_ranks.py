"""Order of architectures by stability: how sure it is, and orders that reverse between methods.

Stability is a metric with the sign that makes higher values more stable. How sure an order is, is counted over
paired replicates of it (`cxr.statistics.bootstrap.paired_replicates`): columns (architecture, method).
"""

from itertools import combinations

import numpy as np
import pandas as pd


def rank_probabilities(replicates: pd.DataFrame) -> pd.DataFrame:
    """P(rank = r) of each architecture under each method, over paired replicates; rank 1 is the most stable.

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
        stability = part.to_numpy()
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


def p_order(replicates: pd.DataFrame, method: str, a: str, b: str) -> float:
    """Share of paired replicates in which `a` is more stable than `b` under `method`; ties count one half.

    So p_order(a, b) + p_order(b, a) = 1. NaN if a replicate of either cell is.
    """
    difference = replicates[a, method] - replicates[b, method]
    if difference.isna().any():
        return float("nan")
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def p_reversal(replicates: pd.DataFrame, method_a: str, method_b: str, a: str, b: str) -> float:
    """Share of paired replicates in which `a` is the more stable under `method_a`, `b` under `method_b`.

    Strictly in both: ties support no reversal. NaN if a replicate of any of the four cells is.
    """
    first, second = (replicates[a, method] - replicates[b, method] for method in (method_a, method_b))
    if first.isna().any() or second.isna().any():
        return float("nan")
    return float(((first > 0) & (second < 0)).mean())


def reversals(
    stability: pd.DataFrame, method_a: str, method_b: str, *, replicates: pd.DataFrame | None = None
) -> list[dict[str, str | float]]:
    """Pairs of architectures whose order by the point estimates differs between two methods.

    Parameters
    ----------
    stability : architectures x methods.
    method_a, method_b : the methods.
    replicates : of the same quantity; without them the probabilities are NaN.

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
    found = []
    for pair in combinations(stability.index, 2):
        leads = [stability.at[pair[0], m] - stability.at[pair[1], m] for m in (method_a, method_b)]
        if not leads[0] * leads[1] < 0:  # NaN too
            continue
        a, b = pair if leads[0] > 0 else pair[::-1]
        row = {"stabler_a": a, "stabler_b": b}
        row |= {"margin_a": float(abs(leads[0])), "margin_b": float(abs(leads[1]))}
        row |= dict.fromkeys(("p_order_a", "p_order_b", "p_reversal"), float("nan"))
        if replicates is not None:
            row["p_order_a"] = p_order(replicates, method_a, a, b)
            row["p_order_b"] = p_order(replicates, method_b, b, a)
            row["p_reversal"] = p_reversal(replicates, method_a, method_b, a, b)
        found.append(row)
    return sorted(found, key=lambda row: -min(row["margin_a"], row["margin_b"]))
