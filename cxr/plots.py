"""Figures. Maps that are compared share one colour scale; intervals are drawn; colours suit any colour vision."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.drift import METRICS

# Okabe and Ito's palette (2008): distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD_LABELS = {"layercam": "LayerCAM", "gradcampp": "Grad-CAM++"}
STAGE_LABELS = {"transfer": "transfer (frozen backbone)", "fine_tuned": "fine-tuned"}
_MARKERS = "osD^vP*"


def contact_sheet(images: np.ndarray, titles: Sequence[str], *, columns: int = 8) -> Figure:
    """Grey images [n, h, w] (uint8) in rows of `columns`, all on the scale 0 to 255, each under its title."""
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 1.8 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=7)
    figure.tight_layout(pad=0.4)
    return figure


def history(table: pd.DataFrame, curves: Mapping[str, str], *, ylabel: str, title: str = "") -> Figure:
    """Curves over epochs: `curves` maps a label to a column of `table`, which has the column `epoch`."""
    figure, axis = plt.subplots(figsize=(5, 3))
    for colour, (label, column) in zip(COLOURS, curves.items(), strict=False):
        axis.plot(table["epoch"], table[column], marker="o", markersize=3, color=colour, label=label)
    axis.set(xlabel="epoch", ylabel=ylabel, title=title)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str], *, title: str = "") -> Figure:
    """Confusion matrix [true, predicted] of counts; colours show shares of the true class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.8 + 0.62 * len(classes)
    figure, axis = plt.subplots(figsize=(side + 0.8, side))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, int(count), ha="center", va="center", color=colour, fontsize=9)
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=35, ha="right")
    axis.set_yticks(ticks, classes)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axis, label="share of the true class", fraction=0.046)
    figure.tight_layout()
    return figure


def reliability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Reliability diagram: accuracy against confidence, per stage; marker areas show how many images a bin has."""
    figure, axis = plt.subplots(figsize=(4.2, 4))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect calibration")
    for colour, (stage, table) in zip(COLOURS, tables.items(), strict=False):
        table = table[table["n"] > 0]
        axis.plot(table["confidence"], table["accuracy"], color=colour, label=STAGE_LABELS.get(stage, stage))
        axis.scatter(table["confidence"], table["accuracy"], s=3 + table["n"], color=colour, alpha=0.6)
    axis.set(xlabel="confidence of the predicted class", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def overlay(
    image: np.ndarray,
    transfer: np.ndarray,
    fine_tuned: np.ndarray,
    *,
    title: str = "",
    outline: np.ndarray | None = None,
    columns: int = 4,
) -> Figure:
    """Image, transfer map, fine-tuned map and their difference, in `columns` (4, 2 or 1).

    Args:
        image: uint8 [h, w].
        transfer, fine_tuned: maps [h, w] in [0, 1] (`cxr.drift.prepare`); NaN for a degenerate one, which stays
            blank and is named.
        title: of the whole figure.
        outline: bool [h, w], drawn as a contour on the image (the phantom's lesion).

    Both maps are on the scale 0 to 1, the difference on -1 to 1, in every figure.
    """
    rows = 4 // columns
    size = (2.75 * columns, 2.75 * rows + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    axes = axes.ravel()
    for axis in axes:
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
    axes[0].set_title("image", fontsize=9)
    if outline is not None and outline.any():
        axes[0].contour(outline, levels=[0.5], colors=COLOURS[4], linewidths=1)
        axes[0].set_title("image, lesion outlined", fontsize=9)
    for axis, values, name in ((axes[1], transfer, "transfer"), (axes[2], fine_tuned, "fine-tuned")):
        empty = not np.isfinite(values).all()
        shown = axis.imshow(np.nan_to_num(values), cmap="inferno", vmin=0, vmax=1, alpha=0.0 if empty else 0.55)
        axis.set_title(f"{name}: degenerate map" if empty else name, fontsize=9)
    heat = plt.cm.ScalarMappable(shown.norm, shown.cmap)
    figure.colorbar(heat, ax=axes[2], fraction=0.05).set_label("attribution of both, min-max", fontsize=8)
    difference = axes[3].imshow(np.nan_to_num(fine_tuned - transfer), cmap="PuOr_r", vmin=-1, vmax=1, alpha=0.7)
    axes[3].set_title("fine-tuned minus transfer", fontsize=9)
    bar = figure.colorbar(plt.cm.ScalarMappable(difference.norm, difference.cmap), ax=axes[3], fraction=0.05)
    bar.set_label("difference", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def show(figure: Figure) -> None:
    """Display a figure in a notebook and close it.

    As an image, for with `MPLBACKEND=Agg` in the environment `plt.show()` would show nothing.
    """
    from IPython.display import Image, display

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    display(Image(buffer.getvalue()))


def pixels(figure: Figure, *, dpi: int = 90) -> np.ndarray:
    """A figure as uint8 [h, w, 3], for MLflow's image grid; the figure is closed."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    array = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return array


def drift_by_class(table: pd.DataFrame, metrics: Sequence[str], *, title: str = "") -> Figure:
    """Per-image values of `metrics` by class: box (median, quartiles), whiskers at 5 and 95 %, and every image.

    The dashed line is the value of two identical maps.
    """
    classes = sorted(table["label"].unique())
    figure, axes = plt.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 4.2), squeeze=False)
    rng = np.random.default_rng(0)
    for axis, name in zip(axes[0], metrics, strict=True):
        groups = [table.loc[table["label"] == label, name].dropna().to_numpy() for label in classes]
        axis.boxplot(groups, whis=(5, 95), showfliers=False, widths=0.6, medianprops={"color": COLOURS[1]})
        for position, values in enumerate(groups, start=1):
            jitter = rng.uniform(-0.2, 0.2, len(values))
            axis.plot(position + jitter, values, ".", color=COLOURS[0], alpha=0.35, markersize=4)
        axis.axhline(METRICS[name].identical, color="grey", linestyle="--", linewidth=1)
        axis.set_xticks(range(1, len(classes) + 1), classes, rotation=35, ha="right")
        axis.set(ylabel=_wrapped(METRICS[name].label), xlabel="class")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


def performance(runs: pd.DataFrame) -> Figure:
    """Macro AUC of both stages, a line a seed. `runs`: architecture, seed, auc_macro_transfer,
    auc_macro_fine_tuned; one row a trained pair."""
    names = list(dict.fromkeys(runs["architecture"]))
    figure, axis = plt.subplots(figsize=(1.6 + 1.5 * len(names), 3.4))
    for position, name in enumerate(names):
        for _, row in runs[runs["architecture"] == name].iterrows():
            values = [row["auc_macro_transfer"], row["auc_macro_fine_tuned"]]
            colour = COLOURS[position % len(COLOURS)]
            axis.plot([position - 0.2, position + 0.2], values, color=colour, linewidth=1)
            axis.plot(position - 0.2, values[0], "o", color=colour, markerfacecolor="white")
            axis.plot(position + 0.2, values[1], "o", color=colour)
    axis.plot([], [], "o", color="black", markerfacecolor="white", label=STAGE_LABELS["transfer"])
    axis.plot([], [], "o", color="black", label=STAGE_LABELS["fine_tuned"])
    axis.set_xticks(range(len(names)), names)
    axis.set(ylabel="macro AUC, one-vs-rest (test set)", xlim=(-0.5, len(names) - 0.5))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def drift(summary: pd.DataFrame, metrics: Sequence[str], *, level: float = 0.95) -> Figure:
    """Median drift by architecture and method, with bootstrap intervals, one panel a metric.

    `summary`: architecture, method, and for each metric `<name>_median`, `<name>_ci_low`, `<name>_ci_high`.
    """
    names, methods = (list(dict.fromkeys(summary[column])) for column in ("architecture", "method"))
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(0.8 + 1.6 * len(names) * len(metrics), 3.6), squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, method in enumerate(methods):
            cell = summary[summary["method"] == method].set_index("architecture").reindex(names)
            middle, low, high = (
                cell[f"{metric}_{part}"].to_numpy(float) for part in ("median", "ci_low", "ci_high")
            )
            offset = (number - (len(methods) - 1) / 2) * 0.22
            axis.errorbar(
                np.arange(len(names)) + offset,
                middle,
                yerr=[middle - low, high - middle],
                fmt=_MARKERS[number],
                color=COLOURS[number],
                capsize=3,
                label=METHOD_LABELS.get(method, method),
            )
        axis.axhline(METRICS[metric].identical, color="grey", linestyle="--", linewidth=1, label="identical maps")
        axis.set_xticks(range(len(names)), names, rotation=15)
        label = f"{_wrapped(METRICS[metric].label)}\nmedian, {level:.0%} interval"
        axis.set(ylabel=label, xlim=(-0.5, len(names) - 0.5))
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def ranking(ranks: pd.DataFrame, *, title: str = "") -> Figure:
    """How architectures rank from most stable (1) down, under each method: crossing lines are reversals.

    `ranks`: one row an architecture, one column a method, and, where given, `P(<method>)`: the bootstrap
    probability of that very rank, written beside the point.
    """
    methods = [column for column in ranks.columns if not column.startswith("P(")]
    figure, axis = plt.subplots(figsize=(2.4 + 1.8 * len(methods), 0.9 + 0.7 * len(ranks)))
    for number, (name, row) in enumerate(ranks.iterrows()):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(range(len(methods)), row[methods].to_numpy(float), "-o", color=colour, markersize=9)
        spot = (len(methods) - 1, row[methods[-1]])
        axis.annotate(name, spot, (10, 0), textcoords="offset points", va="center", color=colour)
        for position, method in enumerate(methods):
            if f"P({method})" in ranks:
                text = f"P = {row[f'P({method})']:.2f}"
                spot = (position, row[method])
                axis.annotate(text, spot, (0, 9), textcoords="offset points", ha="center", fontsize=8)
    axis.set_xticks(range(len(methods)), [METHOD_LABELS.get(method, method) for method in methods])
    axis.set_yticks(range(1, len(ranks) + 1))
    axis.set(ylabel="rank (1: most stable)", title=title, xlim=(-0.3, len(methods) - 0.1))
    axis.set_ylim(len(ranks) + 0.4, 0.4)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 30)
