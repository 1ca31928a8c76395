"""The figure of the checks of maps."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report.figures.layout import shared_legend, slot_width
from cxr.report.figures.style import CHECKPOINT_LABELS, METHOD_LABELS, WIDTH, method_style

CHECKS = {
    "deletion": "a random map,\nits pixels blurred",
    "insertion": "a random map,\nits pixels kept",
    "class": "the map for\nanother class",
    "head": "the map under\na random head",
    "weights": "the map of a\nrandom network",
}
"""By check (`cxr.attribution.map_checks`): the rival, as a panel's title."""


def map_checks(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Whether maps pass their checks: how much better than its rival each map is, for each check.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and seed: architecture, method, checkpoint ("before" or
        "after"), seed (or "all seeds"); for each check (CHECKS) its gain in log-odds with the interval, such as
        deletion_gain, deletion_gain_ci_low and deletion_gain_ci_high, and passes_deletion (bool).
    level : of the intervals, for the axis label.

    There is a column of panels for each check and a row for each checkpoint. A filled point passes, a hollow and
    crossed one fails.
    """
    networks = list(dict.fromkeys(zip(table["architecture"], table["seed"], strict=True)))
    methods, checkpoints = (list(dict.fromkeys(table[key])) for key in ("method", "checkpoint"))
    checkpoints.sort(key=list(CHECKPOINT_LABELS).index)
    height = len(checkpoints) * (0.35 + len(networks) * max(0.22, 0.13 * len(methods))) + 1.5
    figure, axes = plt.subplots(
        len(checkpoints),
        len(CHECKS),
        figsize=(WIDTH, height),
        sharex="col",
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    slot = slot_width(methods)
    place = {
        (*network, method): row + (number - (len(methods) - 1) / 2) * slot
        for row, network in enumerate(networks)
        for number, method in enumerate(methods)
    }
    for panels, checkpoint in zip(axes, checkpoints, strict=True):
        part = table[table["checkpoint"] == checkpoint]
        for axis, (check, rival) in zip(panels, CHECKS.items(), strict=True):
            axis.axvline(0, color="grey", linestyle="--", linewidth=1)
            for method, own in part.groupby("method", sort=False):
                y = np.array(
                    [place[key] for key in zip(own["architecture"], own["seed"], own["method"], strict=True)]
                )
                _dots(axis, own, y, check, method)
            if checkpoint == checkpoints[0]:
                axis.set_title(rival, fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(axis="x", color="0.94")
        names = [f"{name}, {seed if seed == 'all seeds' else f'seed {seed}'}" for name, seed in networks]
        panels[0].set_yticks(range(len(networks)), names, fontsize=8)
        panels[0].set_ylim(len(networks) - 0.5, -0.5)
        panels[-1].yaxis.set_label_position("right")
        panels[-1].set_ylabel(CHECKPOINT_LABELS[checkpoint].replace(" ", "\n", 1), fontsize=9)
    axes[-1][len(CHECKS) // 2].set_xlabel(
        f"log-odds of the class by which the map is better than …, {level:.0%} interval", fontsize=9
    )
    handles = {
        "passes": Line2D([], [], color="black", marker="o", linestyle="", markersize=5),
        "fails": (
            Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor="white", markersize=6),
            Line2D([], [], color="black", marker="x", linestyle="", markersize=6),
        ),
    }
    shared_legend(figure, list(axes.flat), extra=handles)
    return figure


def _dots(axis: plt.Axes, own: pd.DataFrame, y: np.ndarray, check: str, method: str) -> None:
    """A point with its interval for each row of `own`, at the heights `y`; "n/a" where there is no gain."""
    colour, marker = method_style(method)
    gain, low, high = (own[f"{check}_{part}"].to_numpy(float) for part in ("gain", "gain_ci_low", "gain_ci_high"))
    # the point may lie outside its interval
    axis.errorbar((low + high) / 2, y, xerr=(high - low) / 2, fmt="none", ecolor=colour, elinewidth=1.3, capsize=2)
    good = own[f"passes_{check}"].eq(True).to_numpy()
    style = {"linestyle": "", "markersize": 4.5, "color": colour, "zorder": 3}
    axis.plot(gain[good], y[good], marker=marker, label=METHOD_LABELS[method], **style)
    axis.plot(gain[~good], y[~good], marker=marker, markerfacecolor="white", **style)
    axis.plot(gain[~good], y[~good], marker="x", **{**style, "zorder": 4, "markersize": 6})
    for spot in y[np.isnan(gain)]:
        where = {"transform": axis.get_yaxis_transform(), "ha": "center", "va": "center"}
        axis.text(0.5, spot, "n/a", fontsize=7, color="0.35", **where)
