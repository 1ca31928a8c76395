"""Figures of consistency: before and after by class, and along fine-tuning beside AUC."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report.figures.layout import arrange, make_panels, name_axis, place_legend, shared_legend
from cxr.report.figures.marks import mark_missing
from cxr.report.figures.style import COLOURS, METHOD_LABELS, WIDTH, method_style

_PARTS = [f"consistency_{part}" for part in ("median", "ci_low", "ci_high")]


def consistency(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Consistency before and after fine-tuning by class, with intervals; a panel an architecture.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and label (a class or "all classes"), with
        consistency_median, consistency_ci_low, consistency_ci_high. Checkpoints between before and after are
        not drawn.
    level : of the intervals, for the axis label.
    """
    names, methods, labels = (list(dict.fromkeys(table[key])) for key in ("architecture", "method", "label"))
    figure, axes = make_panels(len(names), labels, methods, sharey=True, most=2)
    for axis, name in zip(axes, names, strict=True):
        own = table[table["architecture"] == name].drop(columns="architecture")
        own = own.rename(columns={"label": "architecture"})
        for checkpoint, side in (("before", -0.25), ("after", 0.25)):
            _, _, cells, slot = arrange(own[own["checkpoint"] == checkpoint], labels, methods)
            for method, part in cells.groupby(level="method", sort=False):
                colour, marker = method_style(method)
                x = part["x"].to_numpy() + side * slot
                value, low, high = (part[column].to_numpy(float) for column in _PARTS)
                axis.vlines(x, low, high, color=colour, linewidth=1.2)
                fill = {"markerfacecolor": "white"} if checkpoint == "before" else {"label": METHOD_LABELS[method]}
                axis.plot(x, value, marker, color=colour, markersize=5, **fill)
                for spot in x[np.isnan(value)]:
                    mark_missing(axis, spot)
        axis.set_title(name, fontsize=9)
        name_axis(axis, labels)
        axis.set_ylabel(f"consistency,\n{level:.0%} interval", fontsize=9)
    _from_zero(axes[0], table)
    handles = {"before": Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="")}
    handles["after"] = Line2D([], [], color="black", marker="o", linestyle="")
    shared_legend(figure, axes, extra=handles)
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
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
    columns = min(3, len(methods))
    blocks = -(-len(methods) // columns)
    figure = plt.figure(figsize=(WIDTH if columns > 1 else 6.0, 2.5 * blocks + 2.5), layout="constrained")
    grid = figure.add_gridspec(blocks + 1, columns)
    axes: list[Axes] = []
    for number, method in enumerate(methods):
        shared = {"sharex": axes[0], "sharey": axes[0]} if axes else {}
        axis = figure.add_subplot(grid[number // columns, number % columns], **shared)
        axes.append(axis)
        for name in names:
            own = table[(table["architecture"] == name) & (table["method"] == method)]
            epochs, value, low, high = (own[column].to_numpy(float) for column in ("epoch", *_PARTS))
            axis.plot(epochs, value, color=colours[name], marker=".")
            axis.fill_between(epochs, low, high, color=colours[name], alpha=0.15, linewidth=0)
        axis.set_title(METHOD_LABELS[method], fontsize=9)
        if number % columns == 0:
            axis.set_ylabel("consistency\n(mean of the classes)", fontsize=9)
    _from_zero(axes[0], table)
    lower = figure.add_subplot(grid[-1, :])
    for name in names:
        own = auc[auc["architecture"] == name].sort_values("epoch")
        lower.plot(own["epoch"], own["auc"], color=colours[name], marker=".")
    lower.set_ylabel("macro AUC (test set)", fontsize=9)
    for axis in (*axes, lower):
        axis.grid(axis="y", color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("epoch of fine-tuning (0: before)", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=8)
    place_legend(figure, [Line2D([], [], color=colours[name], linewidth=2) for name in names], names)
    return figure


def _from_zero(axis: Axes, table: pd.DataFrame) -> None:
    """Let the panels that share the axis begin at 0 and end above the highest value of the table."""
    axis.set_ylim(0, 1.08 * np.nanmax(table[_PARTS].to_numpy(float), initial=0.1))
