"""Marks in a panel of architectures and methods: points with intervals, and baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cxr.report.figures.style import BASELINES, METHOD_LABELS, method_style


def dots(
    axis: Axes, cells: pd.DataFrame, middle: str, low: str, high: str, *, passed: pd.Series | None = None
) -> None:
    """Draw a point with its interval for each cell.

    Args:
        cells: of `cxr.report.figures.layout.arrange`.
        middle, low, high: columns of `cells`. The point may lie outside its interval.
        passed: bool for each cell; where False, the point is hollow and crossed.
    """
    for method, part in cells.groupby(level="method", sort=False):
        colour, marker = method_style(method)
        x = part["x"].to_numpy()
        value, bottom, top = (part[column].to_numpy(float) for column in (middle, low, high))
        axis.errorbar(
            x,
            (bottom + top) / 2,
            yerr=(top - bottom) / 2,
            fmt="none",
            ecolor=colour,
            elinewidth=1.3,
            capsize=2.5 if len(cells) <= 16 else 0,
        )
        good = np.ones(len(x), bool) if passed is None else passed[part.index].to_numpy(bool)
        size = 5.5 if len(cells) <= 16 else 4.0
        label = METHOD_LABELS[method]
        style = {"linestyle": "", "markersize": size, "color": colour, "zorder": 3}
        axis.plot(x[good], value[good], marker=marker, label=label, **style)
        if not good.all():
            axis.plot(x[~good], value[~good], marker=marker, markerfacecolor="white", **style)
            axis.plot(x[~good], value[~good], marker="x", **{**style, "zorder": 4, "markersize": size + 2})
        for spot in x[np.isnan(value)]:
            mark_missing(axis, spot)


def mark_missing(axis: Axes, x: float) -> None:
    """Write "n/a" at `x`, at the bottom of the panel."""
    style = {"rotation": 90, "ha": "center", "fontsize": 7, "color": "0.35"}
    paper = {"facecolor": "white", "linewidth": 0, "pad": 0.5}
    axis.text(x, 0.02, "n/a", transform=axis.get_xaxis_transform(), bbox=paper, zorder=4, **style)


def bands(axis: Axes, cells: pd.DataFrame, metric: str, slot: float) -> None:
    """Draw the baselines of each cell behind its point: bands (interval) with a line (median), chance as a line.

    `cells` and `slot` are those of `cxr.report.figures.layout.arrange`.
    """
    wide = 0.92 * slot
    for suffix, (label, colour, line, hatch) in BASELINES.items():
        stem = f"{metric}_{suffix}"
        if f"{stem}_median" not in cells or cells[f"{stem}_median"].isna().all():
            continue
        known = cells[cells[f"{stem}_median"].notna()]
        x, middle = known["x"].to_numpy(), known[f"{stem}_median"].to_numpy(float)
        low, high = (
            known[f"{stem}_{end}"].to_numpy(float) if f"{stem}_{end}" in known else np.full(len(x), np.nan)
            for end in ("ci_low", "ci_high")
        )
        sure = np.isfinite(low + high)
        # without any known interval the band has no height, but stays in the legend
        axis.bar(
            x[sure] if sure.any() else x,
            (high - low)[sure] if sure.any() else np.zeros(len(x)),
            wide,
            bottom=low[sure] if sure.any() else middle,
            color=(colour, 0.45),
            edgecolor=(colour, 0.7),
            linewidth=0,
            hatch=hatch,
            label=label,
            zorder=0.5,
        )
        axis.hlines(middle, x - wide / 2, x + wide / 2, color=line, linewidth=1.6, zorder=0.8)
    if f"{metric}_chance_median" in cells and cells[f"{metric}_chance_median"].notna().any():
        x, middle = cells["x"].to_numpy(), cells[f"{metric}_chance_median"].to_numpy(float)
        axis.hlines(
            middle, x - wide / 2, x + wide / 2, color="black", linestyle=(0, (1, 1)), linewidth=1.2, label="chance"
        )
    axis.use_sticky_edges = False
