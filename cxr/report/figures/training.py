"""Figures of images, training and performance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.report.figures.style import CHECKPOINT_LABELS, COLOURS


def contact_sheet(images: np.ndarray, titles: Sequence[str], *, columns: int = 8, heading: str = "") -> Figure:
    """Grey images, uint8 [n, h, w], in rows of `columns`, each with its title; black is 0, white 255."""
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.6 * columns, 1.8 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=7)
    if heading:
        figure.suptitle(heading, fontsize=9)
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
    """Reliability diagram: accuracy against confidence, before and after.

    `tables`: for each checkpoint confidence, accuracy and n, one row a bin; a marker's area grows with n.
    """
    figure, axis = plt.subplots(figsize=(4.2, 4))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect calibration")
    for colour, (checkpoint, table) in zip(COLOURS, tables.items(), strict=False):
        table = table[table["n"] > 0]
        axis.plot(
            table["confidence"],
            table["accuracy"],
            color=colour,
            label=CHECKPOINT_LABELS[checkpoint],
        )
        axis.scatter(table["confidence"], table["accuracy"], s=3 + table["n"], color=colour, alpha=0.6)
    axis.set(xlabel="confidence of the predicted class", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def performance(runs: pd.DataFrame) -> Figure:
    """Macro AUC before and after, with a line for each seed.

    `runs`: architecture, seed, auc_macro_before, auc_macro_after; one row a training.
    """
    names = list(dict.fromkeys(runs["architecture"]))
    figure, axis = plt.subplots(figsize=(1.6 + 1.5 * len(names), 3.4))
    for position, name in enumerate(names):
        for _, row in runs[runs["architecture"] == name].iterrows():
            values = [row["auc_macro_before"], row["auc_macro_after"]]
            colour = COLOURS[position % len(COLOURS)]
            axis.plot([position - 0.2, position + 0.2], values, color=colour, linewidth=1)
            axis.plot(position - 0.2, values[0], "o", color=colour, markerfacecolor="white")
            axis.plot(position + 0.2, values[1], "o", color=colour)
    axis.plot([], [], "o", color="black", markerfacecolor="white", label=CHECKPOINT_LABELS["before"])
    axis.plot([], [], "o", color="black", label=CHECKPOINT_LABELS["after"])
    axis.set_xticks(range(len(names)), names)
    axis.set(ylabel="macro AUC, one-vs-rest (test set)", xlim=(-0.5, len(names) - 0.5))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
