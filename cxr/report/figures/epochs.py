"""The figure of drift and performance, epoch by epoch."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.layout import place_legend
from cxr.report.figures.style import COLOURS, DASHES, METHOD_LABELS, WIDTH, wrapped


def course(course: pd.DataFrame, *, metric: str = "overlap") -> Figure:
    """Drift from the checkpoint before over the epochs of fine-tuning, and below it performance, on one time axis.

    Parameters
    ----------
    course : one row an architecture, method, seed and epoch (0: before fine-tuning): architecture, method,
        seed, epoch, value (median of `metric`), ci_low, ci_high, auc (macro AUC on the test set at that epoch).
    metric : a name in `cxr.metrics.metric_table.METRICS`.

    Colours stand for architectures, line styles for methods. Each seed is a thin line with its interval; with
    several seeds, a thick line is their mean over the epochs that all of them have. More than three methods have a
    panel each.
    """
    names, methods = (list(dict.fromkeys(course[column])) for column in ("architecture", "method"))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    groups = [methods] if len(methods) <= 3 else [[method] for method in methods]
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure = plt.figure(figsize=(WIDTH if columns > 1 else 7.5, 3.0 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.6] * rows + [2.0])
    lower = figure.add_subplot(grid[-1, :])
    axes = []
    for number, group in enumerate(groups):
        spot = grid[number // columns, number % columns]
        axis = figure.add_subplot(spot, sharex=lower, sharey=axes[0] if axes else None)
        axes.append(axis)
        if len(groups) > 1:
            axis.set_title(METHOD_LABELS[group[0]], fontsize=9)
        axis.axhline(METRICS[metric].identical, color="grey", linewidth=1, linestyle=(0, (1, 1)))
        for style, method in zip(DASHES, group, strict=False):
            for name in names:
                cell = course[(course["architecture"] == name) & (course["method"] == method)]
                _seed_lines(axis, cell, "value", colour=colours[name], style=style)
        if number % columns == 0:
            axis.set_ylabel(f"{wrapped(METRICS[metric].label)}\nmedian", fontsize=9)
    for name in names:
        runs = course[course["architecture"] == name].drop_duplicates(["seed", "epoch"])
        _seed_lines(lower, runs, "auc", colour=colours[name], style="-")
    last = float(course["epoch"].max())
    first = float(course["epoch"].min())
    span = max(last - first, 1.0)
    lower.set(xlabel="epoch of fine-tuning (0: before)", ylabel="macro AUC (test set)")
    lower.set_xlim(first - 0.02 * span, last + 0.03 * span)
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.set_xticks([tick for tick in lower.get_xticks() if first <= tick <= last])
    for axis in (*axes, lower):
        axis.grid(axis="y", color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    handles = {name: Line2D([], [], color=colours[name], linewidth=2) for name in names}
    if len(groups) == 1:
        for style, method in zip(DASHES, methods, strict=False):
            handles[METHOD_LABELS[method]] = Line2D([], [], color="black", linestyle=style)
    handles["identical maps"] = Line2D([], [], color="grey", linewidth=1, linestyle=(0, (1, 1)))
    if course["seed"].nunique() > 1:
        handles["mean of the seeds (thin: each)"] = Line2D([], [], color="black", linewidth=2)
    place_legend(figure, handles.values(), handles)
    return figure


def _seed_lines(axis: Axes, table: pd.DataFrame, column: str, *, colour: str, style: str) -> None:
    """Draw a line for each seed, for drift with its interval; of several seeds also the mean, as a thick line."""
    seeds = table["seed"].unique()
    for seed in seeds:
        run = table[table["seed"] == seed].sort_values("epoch")
        thin = {"linewidth": 0.8, "alpha": 0.7} if len(seeds) > 1 else {"linewidth": 1.8}
        mark = "." if len(run) == 1 else None
        axis.plot(run["epoch"], run[column], color=colour, linestyle=style, marker=mark, **thin)
        if column == "value":
            faint = {"color": colour, "alpha": 0.14 / len(seeds), "linewidth": 0}
            axis.fill_between(run["epoch"], run["ci_low"], run["ci_high"], **faint)
    if len(seeds) > 1:
        wide = table.pivot(index="epoch", columns="seed", values=column).dropna()
        axis.plot(wide.index, wide.mean(axis=1), color=colour, linestyle=style, linewidth=2.2)
