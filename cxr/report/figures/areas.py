"""Outlines of the compared areas: the strongest 20 % of a map."""

from __future__ import annotations

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes

from cxr.metrics.map_features import top_count
from cxr.report.figures.style import AFTER, BEFORE

SHARE = 0.2  # of the area, as the metric overlap takes it
SIDES = {"before": BEFORE, "after": AFTER}  # colours


def edge(values: np.ndarray) -> float:
    """The level whose contour bounds the strongest 20 % of a map [h, w]: between the last pixel in and the next.

    Pixels that are tied for the last places are left out, as the map does not say which of them belong to the area
    (`cxr.metrics.overlap`). NaN for an empty map.
    """
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return float("nan")
    falling = np.sort(values, axis=None)[::-1].astype(float)
    count = top_count(SHARE, falling.size)
    last, following = falling[count - 1], falling[min(count, falling.size - 1)]
    if last > following:
        return float(last + following) / 2
    higher = falling[falling > last]  # ties at the edge
    return float(last + higher[-1]) / 2 if len(higher) else float(last + falling[falling < last][0]) / 2


def outline(axis: Axes, values: np.ndarray, side: str, *, width: float = 1.4) -> None:
    """Outline the strongest 20 % of a map [h, w] in the colour of its `side`; an empty map has no outline.

    side: "before" or "after". A dark rim keeps the line visible on bright and on dark parts of an image.
    """
    level = edge(values)
    if np.isnan(level):
        return
    line = axis.contour(values, levels=[level], colors=[SIDES[side]], linewidths=width)
    line.set_path_effects([patheffects.withStroke(linewidth=width + 1.0, foreground="black")])
