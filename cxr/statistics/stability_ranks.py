"""Orders of architectures by stability that reverse between two methods, by point estimates alone.

Stability is a metric with the sign that makes higher values more stable. Whether a reversal is more than chance is
a question for `cxr.statistics.contrasts.crossover`.
"""

from itertools import combinations

import pandas as pd


def reversals(stability: pd.DataFrame, method_a: str, method_b: str) -> list[dict[str, str | float]]:
    """Pairs of architectures whose order by the point estimates differs between two methods.

    Parameters
    ----------
    stability : architectures x methods.
    method_a, method_b : the methods.

    Returns
    -------
    A dict per pair: `stabler_a` and `stabler_b`, the architecture more stable under method_a and the one more
    stable under method_b; `margin_a` and `margin_b` (both > 0), by how much each leads under its method, in
    the metric's units. Widest reversal (smaller of the margins) first. Ties and missing cells are no reversal.
    """
    found = []
    for pair in combinations(stability.index, 2):
        leads = [stability.at[pair[0], m] - stability.at[pair[1], m] for m in (method_a, method_b)]
        if not leads[0] * leads[1] < 0:  # NaN too
            continue
        a, b = pair if leads[0] > 0 else pair[::-1]
        row = {"stabler_a": a, "stabler_b": b}
        found.append(row | {"margin_a": float(abs(leads[0])), "margin_b": float(abs(leads[1]))})
    return sorted(found, key=lambda row: -min(row["margin_a"], row["margin_b"]))
