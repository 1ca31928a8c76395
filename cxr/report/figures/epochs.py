"""Figures of the course of fine-tuning, epoch by epoch: a panel a method, and performance below."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.style import COLOURS, FONT, METHOD_LABELS, WIDTH
from cxr.report.figures.training import name_ends

_PARTS = [f"consistency_{part}" for part in ("median", "ci_low", "ci_high")]


def course(course: pd.DataFrame, *, metric: str = "overlap", summary: pd.DataFrame | None = None) -> Figure:
    """Drift from the checkpoint before over the epochs of fine-tuning, a panel a method; below it performance.

    Parameters
    ----------
    course : one row an architecture, method, seed and epoch (0: before fine-tuning): architecture, method,
        seed, epoch, value (median of `metric`), ci_low, ci_high, auc (macro AUC on the test set at that epoch).
    metric : a name in `cxr.metrics.metric_table.METRICS`.
    summary : `cxr.report.comparison.pooled`, for the lines of two seeds; None: no such lines.

    Colours stand for architectures. Each seed is a thin line with its interval; with several seeds, a thick line
    is their mean over the epochs that all of them have. The axis of a distance is turned, so that higher always
    means moved less.
    """
    names, methods = (list(dict.fromkeys(course[column])) for column in ("architecture", "method"))
    measured = METRICS[metric]
    last = course.sort_values("epoch").groupby(["architecture", "method", "seed"]).tail(1)
    means = last.groupby(["architecture", "method"])["value"].mean()
    what = measured.label.split(" (")[0]
    title = f"{what} with the checkpoint before: {_range(means)} at the last epoch"
    figure, axes, lower = _frame(names, methods, course["epoch"], title=title)
    colours = _colours(names)
    known = summary is not None and f"{metric}_two_seeds_median" in summary
    for axis, method in zip(axes, methods, strict=True):
        axis.axhline(measured.identical, color="grey", linewidth=1, linestyle=(0, (1, 1)))
        for name in names:
            cell = course[(course["architecture"] == name) & (course["method"] == method)]
            _seed_lines(axis, cell, "value", colour=colours[name])
            if known:
                row = summary[(summary["architecture"] == name) & (summary["method"] == method)]
                for value in row[f"{metric}_two_seeds_median"].dropna():
                    axis.axhline(value, color=colours[name], linewidth=1.2, linestyle="--")
    if measured.higher_is_more_stable is False:
        axes[0].invert_yaxis()
    label = (
        [what, "median; higher: moved less"] if measured.higher_is_more_stable is not None else [what, "median"]
    )
    if known:
        label.append("dashed: two seeds")
    if course["seed"].nunique() > 1:
        label.append("thick: mean of the seeds")
    _label(axes, label)
    for name in names:
        runs = course[course["architecture"] == name].drop_duplicates(["seed", "epoch"])
        _seed_lines(lower, runs, "auc", colour=colours[name])
    _name_lines(lower, colours)
    return figure


def consistency_course(table: pd.DataFrame, auc: pd.DataFrame) -> Figure:
    """Consistency (mean of the classes) over the epochs of fine-tuning, a panel a method; below it AUC.

    Parameters
    ----------
    table : as for `consistency`, with epoch (0: before; NaN: not during fine-tuning, not drawn). A line is the
        mean over seeds, a band its interval.
    auc : architecture, epoch, auc (mean over seeds).
    """
    table = table[(table["label"] == "all classes") & table["epoch"].notna()].sort_values("epoch")
    names, methods = (list(dict.fromkeys(table[key])) for key in ("architecture", "method"))
    cells = table.groupby(["architecture", "method"])["consistency_median"]
    title = f"Consistency changes by {_range(cells.last() - cells.first(), sign=True)}"
    rise = auc.sort_values("epoch").groupby("architecture")["auc"]
    title += f" during fine-tuning, AUC by {_range(rise.last() - rise.first(), sign=True)}"
    figure, axes, lower = _frame(names, methods, table["epoch"], title=title)
    colours = _colours(names)
    for axis, method in zip(axes, methods, strict=True):
        for name in names:
            own = table[(table["architecture"] == name) & (table["method"] == method)]
            epochs, value, low, high = (own[column].to_numpy(float) for column in ("epoch", *_PARTS))
            axis.plot(epochs, value, color=colours[name], marker=".")
            axis.fill_between(epochs, low, high, color=colours[name], alpha=0.15, linewidth=0)
    axes[0].set_ylim(0, 1.08 * np.nanmax(table[_PARTS].to_numpy(float), initial=0.1))
    _label(axes, ["consistency", "mean of the classes", "higher: maps agree more"])
    for name in names:
        own = auc[auc["architecture"] == name].sort_values("epoch")
        lower.plot(own["epoch"], own["auc"], color=colours[name], marker=".")
    _name_lines(lower, colours)
    return figure


def _colours(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _frame(
    names: Sequence[str], methods: Sequence[str], epochs: pd.Series, *, title: str
) -> tuple[Figure, list[Axes], Axes]:
    """A figure with a panel for each method, which share their axes, and a wide panel for AUC below."""
    columns = min(3, len(methods))
    blocks = -(-len(methods) // columns)
    title = "\n".join(textwrap.wrap(title, 88))
    figure = plt.figure(figsize=(WIDTH, 2.1 * blocks + 2.2), layout="constrained")
    figure.suptitle(title, fontsize=9.5, weight="bold", x=0.01, ha="left")
    grid = figure.add_gridspec(blocks + 1, columns)
    axes: list[Axes] = []
    for number, method in enumerate(methods):
        shared = {"sharex": axes[0], "sharey": axes[0]} if axes else {}
        axis = figure.add_subplot(grid[number // columns, number % columns], **shared)
        axis.set_title(textwrap.fill(METHOD_LABELS[method], 26), fontsize=FONT, weight="bold")
        axes.append(axis)
    lower = figure.add_subplot(grid[-1, :])
    lower.set_ylabel("macro AUC\n(test set)", fontsize=FONT)
    first, last = float(epochs.min()), float(epochs.max())
    span = max(last - first, 1.0)
    axes[0].set_xlim(first - 0.03 * span, last + 0.03 * span)
    lower.set_xlim(first - 0.02 * span, last + (0.02 + 0.012 * max(map(len, names))) * span)  # names at the right
    for axis in (*axes, lower):
        axis.grid(axis="y", color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("epoch of fine-tuning (0: before)", fontsize=FONT)
        axis.tick_params(labelsize=FONT)
    for axis in (axes[0], lower):
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.set_xticks([tick for tick in axis.get_xticks() if first <= tick <= last])
    return figure, axes, lower


def _label(axes: Sequence[Axes], lines: Sequence[str]) -> None:
    """Label the y of the panels at the left."""
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("\n".join(lines), fontsize=FONT)


def _name_lines(lower: Axes, colours: Mapping[str, str]) -> None:
    """Name the architectures at the ends of their lines of AUC: the colours are those of all panels."""
    ends: dict[str, tuple[float, float]] = {}
    for name, colour in colours.items():
        thick = [line for line in lower.get_lines() if line.get_color() == colour]
        x, y = thick[-1].get_xdata(), thick[-1].get_ydata()
        ends[name] = (float(x[-1]), float(y[-1]))
    name_ends(lower, ends, colours)


def _range(values: pd.Series, *, sign: bool = False) -> str:
    """The lowest and the highest value, as text."""
    form = "+.2f" if sign else ".2f"
    low, high = (format(value, form).replace("-", "\N{MINUS SIGN}") for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _seed_lines(axis: Axes, table: pd.DataFrame, column: str, *, colour: str) -> None:
    """Draw a line for each seed, for drift with its interval; of several seeds also the mean, as a thick line."""
    seeds = table["seed"].unique()
    for seed in seeds:
        run = table[table["seed"] == seed].sort_values("epoch")
        thin = {"linewidth": 0.8, "alpha": 0.7} if len(seeds) > 1 else {"linewidth": 1.8}
        mark = "." if len(run) == 1 else None
        axis.plot(run["epoch"], run[column], color=colour, marker=mark, **thin)
        if column == "value":
            faint = {"color": colour, "alpha": 0.14 / len(seeds), "linewidth": 0}
            axis.fill_between(run["epoch"], run["ci_low"], run["ci_high"], **faint)
    if len(seeds) > 1:
        wide = table.pivot(index="epoch", columns="seed", values=column).dropna()
        axis.plot(wide.index, wide.mean(axis=1), color=colour, linewidth=2.2)
