"""Figures of what metrics and studies can see."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.layout import place_legend, shared_legend
from cxr.report.figures.style import COLOURS, MARKERS, METHOD_LABELS, WIDTH, signed


def metrics_seen(table: pd.DataFrame, *, limit: float = 3.0) -> Figure:
    """Effect sizes of a known change under every metric; outlined where the metric sees it.

    Parameters
    ----------
    table : one row a metric, architecture and method: metric, architecture, method, standardised (effect size of
        the observed drift against two heads; NaN where missing), sees (bool).
    limit : colours span -limit to limit, whatever the data: two studies can be compared.
    """
    keys = ["metric", "architecture", "method"]
    metrics, names, methods = (list(dict.fromkeys(table[key])) for key in keys)
    columns = [(name, method) for name in names for method in methods]
    columns = [c for c in columns if ((table["architecture"] == c[0]) & (table["method"] == c[1])).any()]
    cells = table.set_index(keys)
    sees = set(cells.index[cells["sees"].eq(True)])
    values = np.full((len(metrics), len(columns)), np.nan)
    for row, metric in enumerate(metrics):
        for column, cell in enumerate(columns):
            if (metric, *cell) in cells.index:
                values[row, column] = cells.at[(metric, *cell), "standardised"]
    texts = len(columns) <= 13
    size = (float(np.clip(3.6 + 0.55 * len(columns), 4.5, WIDTH)), max(2.3 + 0.3 * len(metrics), 3.6))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set_facecolor("0.88")
    shown = axis.imshow(np.ma.masked_invalid(values), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if texts:
            text, dark = ("n/a", False) if np.isnan(value) else (signed(value), abs(value) > 0.65 * limit)
            colour = "white" if dark else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        if (metrics[row], *columns[column]) in sees:
            axis.add_patch(
                Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, fill=False, edgecolor="black", linewidth=1.6)
            )
    turn = {"rotation": 90 if len(columns) > 20 else 40, "ha": "center" if len(columns) > 20 else "right"}
    axis.set_xticks(range(len(columns)), [METHOD_LABELS[m] for _, m in columns], fontsize=8, **turn)
    if len(columns) <= 20:
        for label in axis.get_xticklabels():
            label.set_rotation_mode("anchor")
    labels = [METRICS[m].label.split(" (")[0] if m in METRICS else m.replace("_", " ") for m in metrics]
    axis.set_yticks(range(len(metrics)), labels, fontsize=8)
    axis.set_xlabel("method")
    upper = axis.secondary_xaxis("top")
    middles = [np.mean([i for i, (a, _) in enumerate(columns) if a == name]) for name in names]
    crowded = max(map(len, names)) * 0.072 * len(names) > size[0] - 3.4
    turn = {"rotation": 20, "ha": "left", "rotation_mode": "anchor"} if crowded else {}
    upper.set_xticks(middles, names, fontsize=8, **turn)
    upper.tick_params(length=0)
    for edge in [i - 0.5 for i in range(1, len(columns)) if columns[i][0] != columns[i - 1][0]]:
        axis.axvline(edge, color="white", linewidth=3)
    bar = figure.colorbar(shown, ax=axis, extend="both", fraction=0.05, pad=0.02)
    bar.set_label("drift against\ntwo heads (effect size)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    mark = Rectangle((0, 0), 1, 1, fill=False, edgecolor="black", linewidth=1.6)
    handles, labels = [mark], ["the metric sees the change"]
    if np.isnan(values).any():
        handles.append(Rectangle((0, 0), 1, 1, facecolor="0.88"))
        labels.append("not available")
    place_legend(figure, handles, labels)
    return figure


def power(table: pd.DataFrame, *, wanted: float = 0.8) -> Figure:
    """Power against the number of seeds, with a line for each number of patients and a panel for each effect.

    Parameters
    ----------
    table : seeds, patients, effect (a number or its name), power (0 to 1).
    wanted : the power of the dashed line.
    """
    effects = list(dict.fromkeys(table["effect"]))
    patients = sorted(table["patients"].unique())
    seeds = sorted(table["seeds"].unique())
    columns = min(3, len(effects))
    rows = -(-len(effects) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(3.0 * columns, 4.5), 2.8 * rows + 0.6),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axis, effect in zip(axes.flat, effects, strict=False):
        axis.axhline(wanted, color="grey", linestyle="--", linewidth=1, label=f"power {wanted:g}")
        for number, count in enumerate(patients):
            line = table[(table["effect"] == effect) & (table["patients"] == count)].sort_values("seeds")
            axis.plot(
                line["seeds"],
                line["power"],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                color=COLOURS[number % len(COLOURS)],
                label=f"{count} patients",
            )
        axis.set_title(
            f"a difference of {effect:g}" if isinstance(effect, int | float) else str(effect), fontsize=9
        )
        axis.set(ylim=(-0.02, 1.02), xticks=seeds)
        axis.grid(axis="y", color="0.92")
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("number of seeds")
    for axis in axes.flat[len(effects) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("power\n(chance to find it)")
    shared_legend(figure, axes.flat[: len(effects)])
    return figure
