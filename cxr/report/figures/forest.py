"""The figure of drift by group: a forest plot."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.layout import place_legend
from cxr.report.figures.style import COLOURS, MARKERS, METHOD_LABELS, WIDTH, wrapped


def groups(table: pd.DataFrame, *, metric: str = "overlap", level: float = 0.95) -> Figure:
    """Drift of every group: a row a group, a point with its interval for each architecture, a panel a method.

    Parameters
    ----------
    table : one row an architecture, method, group and value, with `<metric>_corrected_<part>` or else
        `<metric>_<part>` (part: median, ci_low, ci_high). Points without an interval are hollow: the group has too
        few patients.
    metric : the primary metric.
    level : of the intervals, for the axis label.
    """
    corrected = f"{metric}_corrected_median" in table
    stem = f"{metric}_corrected" if corrected else metric
    names, methods = (list(dict.fromkeys(table[key])) for key in ("architecture", "method"))
    rows = list(table.drop_duplicates(["group", "value"])[["group", "value"]].itertuples(index=False, name=None))
    # a gap between columns of the table
    gaps = np.cumsum([k > 0 and row[0] != rows[k - 1][0] for k, row in enumerate(rows)])
    place = dict(zip(rows, np.arange(len(rows)) + 0.6 * gaps, strict=True))
    columns = min(3, len(methods))
    blocks = -(-len(methods) // columns)
    high = max(2.4, 0.8 + (0.16 + 0.11 * len(names)) * (len(rows) + 0.6 * gaps[-1]))
    figure, axes = plt.subplots(
        blocks, columns, figsize=(WIDTH, high * blocks + 0.5), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, method in zip(axes.flat, methods, strict=False):
        for number, name in enumerate(names):
            own = table[(table["architecture"] == name) & (table["method"] == method)]
            spot = np.array([place[row.group, row.value] for row in own.itertuples()])
            offset = (number - (len(names) - 1) / 2) * 0.7 / len(names)
            _points(axis, own, stem, spot + offset, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
        if corrected:
            axis.axvline(0, color="grey", linestyle=":", linewidth=1.2)
        for spot in place.values():
            axis.axhline(spot + 0.5, color="0.93", linewidth=0.8, zorder=0)
        axis.set_title(METHOD_LABELS[method], fontsize=9)
        what = f"corrected {METRICS[metric].label.split(' (')[0].split(' of ')[0].lower()}" if corrected else ""
        axis.set_xlabel(f"{what or wrapped(METRICS[metric].label)}, {level:.0%} interval", fontsize=9)
        axis.tick_params(labelsize=8, labelbottom=True)
    for axis in axes.flat[len(methods) :]:
        axis.remove()
    first = axes.flat[0]
    first.set_yticks(list(place.values()), [f"{_short(group)}{value}" for group, value in place], fontsize=8)
    first.set_ylim(max(place.values()) + 0.6, -0.6)
    handles = {
        name: Line2D([], [], color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)], linewidth=1.3)
        for k, name in enumerate(names)
    }
    if table[f"{stem}_ci_low"].isna().any():
        handles["too few patients"] = Line2D(
            [], [], color="black", marker="o", markerfacecolor="white", linestyle=""
        )
    if corrected:
        handles["0: two patients"] = Line2D([], [], color="grey", linestyle=":", linewidth=1.2)
    place_legend(figure, handles.values(), handles)
    return figure


def _short(group: str) -> str:
    """What stands before a value: classes speak for themselves."""
    return "" if group == "label" else f"{group}: "


def _points(axis: Axes, rows: pd.DataFrame, stem: str, y: np.ndarray, colour: str, marker: str) -> None:
    value, low, high = (rows[f"{stem}_{part}"].to_numpy(float) for part in ("median", "ci_low", "ci_high"))
    sure = np.isfinite(low + high)
    axis.hlines(y[sure], low[sure], high[sure], color=colour, linewidth=1.3)
    style = {"linestyle": "", "marker": marker, "color": colour, "markersize": 5, "zorder": 3}
    axis.plot(value[sure], y[sure], **style)
    axis.plot(value[~sure], y[~sure], markerfacecolor="white", **style)
