"""Figures of the checks of maps."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report.figures.layout import (
    arrange,
    make_panels,
    name_axis,
    shared_legend,
    slot_width,
)
from cxr.report.figures.marks import dots
from cxr.report.figures.style import CHECKPOINT_LABELS, METHOD_LABELS, WIDTH, method_style


def map_checks(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Whether maps pass their checks: the gain over a random map in the deletion and insertion games.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and seed: architecture, method, checkpoint ("before" or
        "after"), seed, deletion_gain, deletion_gain_ci_low, deletion_gain_ci_high, the same for
        insertion_gain (area between the curve of a random map and the map's, positive when the map is better),
        passes_checks (bool).
    level : of the intervals, for the axis label.

    There is one panel for each game and checkpoint; seeds stand side by side. A filled point passes, a hollow and
    crossed one fails.
    """
    keys = ["architecture", "method", "checkpoint", "seed"]
    names, methods, checkpoints, seeds = (list(dict.fromkeys(table[key])) for key in keys)
    checkpoints.sort(key=list(CHECKPOINT_LABELS).index)
    panels = [(checkpoint, game) for checkpoint in checkpoints for game in ("deletion", "insertion")]
    figure, axes = make_panels(len(panels), names, methods * len(seeds), sharey=True, most=2, height=2.7)
    slot = slot_width(methods)
    for axis, (checkpoint, game) in zip(axes, panels, strict=True):
        axis.axhline(0, color="grey", linestyle="--", linewidth=1, label="a random map")
        for number, seed in enumerate(seeds):
            offset = (number - (len(seeds) - 1) / 2) * 0.85 * slot / len(seeds)
            part = table[(table["checkpoint"] == checkpoint) & (table["seed"] == seed)]
            if part.empty:
                continue
            _, _, cells, _ = arrange(part, names, methods)
            cells["x"] += offset
            bounds = [f"{game}_gain", f"{game}_gain_ci_low", f"{game}_gain_ci_high"]
            dots(axis, cells, *bounds, passed=cells["passes_checks"].eq(True))
        axis.set_title(f"{game}, {checkpoint}", fontsize=9)
        axis.set_ylabel(f"{game} gain over a\nrandom map, {level:.0%} interval", fontsize=9)
        name_axis(axis, names)
    handles = {
        "passes": Line2D([], [], color="black", marker="o", linestyle="", markersize=5),
        "fails": (
            Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor="white", markersize=6),
            Line2D([], [], color="black", marker="x", linestyle="", markersize=6),
        ),
    }
    shared_legend(figure, axes, extra=handles)
    return figure


def perturbation_curves(curves: pd.DataFrame, *, title: str = "") -> Figure:
    """Probability of the explained class as pixels are deleted, and as they are inserted, most important first.

    Parameters
    ----------
    curves : method (also "random" and "centre", maps that do not depend on the model), kind ("deletion" or
        "insertion"), share (of the pixels changed, 0 to 1), probability (mean over images). Where random maps are
        on several grids, `grid` names them, and each has its own line.
    title : of the whole figure.
    """
    kinds = {"deletion": "deleted", "insertion": "inserted"}
    shown = [kind for kind in kinds if (curves["kind"] == kind).any()]
    methods = [method for method in dict.fromkeys(curves["method"]) if method not in ("random", "centre")]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4.4 * len(shown), 3.9), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, kind in zip(axes[0], shown, strict=True):
        table = curves[curves["kind"] == kind].sort_values("share")
        noise = table[table["method"] == "random"]
        grids = list(noise.groupby("grid", sort=False)) if "grid" in noise else [("", noise)]
        for number, (grid, line) in enumerate(grids):
            label = f"random map ({grid})" if len(grids) > 1 else "random map"
            style = {"color": "0.55", "linestyle": "--", "linewidth": 2 - 0.6 * number}
            axis.plot(line["share"], line["probability"], label=label, **style)
        centre = table[table["method"] == "centre"]
        if len(centre):
            style = {"color": "0.55", "linestyle": ":", "linewidth": 2}
            axis.plot(centre["share"], centre["probability"], label="centre prior", **style)
        for name in methods:
            line = table[table["method"] == name]
            colour, marker = method_style(name)
            style = {"color": colour, "marker": marker, "markersize": 4, "markevery": max(1, len(line) // 8)}
            axis.plot(line["share"], line["probability"], label=METHOD_LABELS[name], **style)
        better = "a good map falls early" if kind == "deletion" else "a good map rises early"
        axis.set_title(f"{kind}: {better}", fontsize=9)
        axis.set(xlabel=f"share of the pixels {kinds[kind]}", xlim=(0, 1), ylim=(0, 1))
        axis.grid(color="0.92")
    axes[0][0].set_ylabel("probability of the explained class")
    figure.suptitle(title, fontsize=10)
    shared_legend(figure, axes[0])
    return figure


def randomisation(cascade: pd.DataFrame, *, limit: float) -> Figure:
    """Cascading randomisation (Adebayo et al. 2018): how similar maps stay as weights are randomised, head first.

    Parameters
    ----------
    cascade : many rows (images) a method, checkpoint and level: method, checkpoint, level (0, 1, ...: how far
        randomisation has gone), up_to (the name of that level's last layer), spearman (rank correlation with the
        map of the intact network; NaN for an empty map).
    limit : a map whose median is above this at the last level does not depend on the weights as it should.

    Lines are medians, bands quartiles; there is one panel for each checkpoint.
    """
    levels = cascade.groupby("level", sort=True)["up_to"].unique()
    methods, checkpoints = (list(dict.fromkeys(cascade[column])) for column in ("method", "checkpoint"))
    checkpoints.sort(key=list(CHECKPOINT_LABELS).index)
    figure, axes = plt.subplots(
        1,
        len(checkpoints),
        figsize=(WIDTH if len(checkpoints) > 1 else 5.5, 4.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    x = np.arange(len(levels))
    for axis, checkpoint in zip(axes[0], checkpoints, strict=True):
        axis.axhline(limit, color="black", linestyle="--", linewidth=1, label=f"survival limit ({limit:g})")
        axis.axhline(0, color="0.7", linewidth=0.8)
        for method in methods:
            cell = cascade[(cascade["method"] == method) & (cascade["checkpoint"] == checkpoint)]
            if cell["spearman"].notna().sum() == 0:
                continue
            parts = cell.groupby("level")["spearman"].quantile([0.25, 0.5, 0.75]).unstack().reindex(levels.index)
            colour, marker = method_style(method)
            label = METHOD_LABELS[method]
            axis.plot(x, parts[0.5], marker=marker, markersize=4, color=colour, label=label)
            axis.fill_between(x, parts[0.25], parts[0.75], color=colour, alpha=0.12, linewidth=0)
        axis.set_xticks(x, [names[0] for names in levels], rotation=40, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(CHECKPOINT_LABELS[checkpoint], fontsize=9)
        axis.set_xlabel("randomised from the head down to")
        low = cascade["spearman"].min()
        axis.set_ylim(-1.02 if low < -0.5 else -0.52, 1.02)
    axes[0][0].set_ylabel("Spearman correlation with\nthe intact model's map\n(median, quartiles)")
    shared_legend(figure, axes[0])
    return figure
