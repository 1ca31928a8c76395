"""Figures of what metrics and studies can see."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.rows import LETTER
from cxr.report.figures.style import COLOURS, FONT, MARKERS, METHOD_LABELS, WIDTH, signed
from cxr.report.figures.training import name_ends


def metrics_seen(table: pd.DataFrame, *, limit: float = 3.0) -> Figure:
    """Effect sizes of a known change under every metric; framed where the metric sees it.

    Parameters
    ----------
    table : one row a metric, architecture and method: metric, architecture, method, standardised (effect size of
        the observed drift against two heads; NaN where missing), sees (bool).
    limit : colours span -limit to limit, whatever the data: two studies can be compared.
    """
    keys = ["metric", "architecture", "method"]
    metrics, names, methods = (list(dict.fromkeys(table[key])) for key in keys)
    rows = [(name, method) for name in names for method in methods]
    rows = [c for c in rows if ((table["architecture"] == c[0]) & (table["method"] == c[1])).any()]
    cells = table.set_index(keys)
    sees = set(cells.index[cells["sees"].eq(True)])
    values = np.full((len(rows), len(metrics)), np.nan)
    for row, cell in enumerate(rows):
        for column, metric in enumerate(metrics):
            if (metric, *cell) in cells.index:
                values[row, column] = cells.at[(metric, *cell), "standardised"]
    everywhere = sum(all((metric, *cell) in sees for cell in rows) for metric in metrics)
    title = f"{everywhere} of {len(metrics)} metrics see the change in every cell (black frames)"
    labels = [f"{name},\n{METHOD_LABELS[method]}" for name, method in rows]
    left = LETTER * max(len(line) for label in labels for line in label.splitlines()) + 0.3
    width = float(np.clip(left + 0.36 * len(metrics) + 1.0, 5.6, WIDTH))
    figure, axis = plt.subplots(figsize=(width, max(3.2, 2.3 + 0.34 * len(rows))), layout="constrained")
    axis.set_facecolor("0.88")
    shown = axis.imshow(np.ma.masked_invalid(values), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text, dark = ("n/a", False) if np.isnan(value) else (signed(value), abs(value) > 0.65 * limit)
        colour = "white" if dark else "black"
        axis.text(column, row, text, ha="center", va="center", fontsize=FONT, color=colour)
        if (metrics[column], *rows[row]) in sees:
            frame = {"fill": False, "edgecolor": "black", "linewidth": 1.0}
            axis.add_patch(Rectangle((column - 0.45, row - 0.43), 0.9, 0.86, **frame))
    known = [METRICS[m].label.split(" (")[0] if m in METRICS else m.replace("_", " ") for m in metrics]
    letters = 18 if (width - left - 1.0) / len(metrics) > 0.34 else 40  # two lines need that room
    axis.set_xticks(
        range(len(metrics)), [textwrap.fill(name, letters) for name in known], fontsize=FONT, rotation=90
    )
    axis.set_yticks(range(len(rows)), labels, fontsize=FONT)
    for edge in [i - 0.5 for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]]:
        axis.axhline(edge, color="white", linewidth=3)
    bar = figure.colorbar(shown, ax=axis, extend="both", fraction=0.05, pad=0.02)
    missing = "\n(grey: not available)" if np.isnan(values).any() else ""
    bar.set_label(f"drift against\ntwo heads (effect size){missing}", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)
    figure.suptitle(textwrap.fill(title, int(11 * width)), fontsize=9.5, weight="bold")
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
    size = (float(np.clip(2.4 * columns, 4.5, WIDTH)), 2.1 * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    colours = {f"{count} patients": COLOURS[number % len(COLOURS)] for number, count in enumerate(patients)}
    for axis, effect in zip(axes.flat, effects, strict=False):
        axis.axhline(wanted, color="grey", linestyle="--", linewidth=1)
        for number, count in enumerate(patients):
            line = table[(table["effect"] == effect) & (table["patients"] == count)].sort_values("seeds")
            style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            axis.plot(line["seeds"], line["power"], color=colours[f"{count} patients"], **style)
        name = f"a difference of {effect:g}" if isinstance(effect, int | float) else str(effect)
        axis.set_title(name, fontsize=FONT, weight="bold")
        axis.set(ylim=(-0.02, 1.05), xticks=seeds)
        axis.grid(axis="y", color="0.92")
        axis.tick_params(labelbottom=True, labelsize=FONT)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("number of seeds", fontsize=FONT)
    for axis in axes.flat[len(effects) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("power\n(chance to find it)", fontsize=FONT)
    needed = _seeds_needed(table, effects, patients[0], wanted)
    figure.suptitle(textwrap.fill(needed, int(11 * size[0])), fontsize=9.5, weight="bold", x=0.01, ha="left")
    first = axes.flat[0]
    start = table[(table["effect"] == effects[0]) & (table["seeds"] == seeds[-1])].set_index("patients")["power"]
    ends = {f"{count} patients": (seeds[-1], float(start[count])) for count in patients if count in start}
    room = max(seeds[-1] - seeds[0], 1)
    first.set_xlim(seeds[0] - 0.06 * room, seeds[-1] + (0.06 + 0.062 * 14 / (size[0] / columns - 0.7)) * room)
    name_ends(first, ends, colours)
    return figure


def _seeds_needed(table: pd.DataFrame, effects: list, patients: int, wanted: float) -> str:
    """How many seeds find the effects with the fewest patients of the table, in one sentence."""
    most, texts = table["seeds"].max(), []
    for effect in effects:
        own = table[(table["effect"] == effect) & (table["patients"] == patients) & (table["power"] >= wanted)]
        name = f"{effect:g}" if isinstance(effect, int | float) else str(effect)
        texts.append(f"{own['seeds'].min()} for {name}" if len(own) else f"more than {most} for {name}")
    return f"Seeds for a power of {wanted:g} with {patients} patients: {', '.join(texts)}"
