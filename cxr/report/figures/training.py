"""Figures of images, training and performance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cxr.report.figures.style import AFTER, BEFORE, CHECKPOINT_LABELS, COLOURS, FONT, WIDTH

_SIDES = {"before": BEFORE, "after": AFTER}


def contact_sheet(images: np.ndarray, titles: Sequence[str], *, columns: int = 8, heading: str = "") -> Figure:
    """Grey images, uint8 [n, h, w], in rows of at most `columns`, each with its title; black is 0, white 255."""
    columns = max(1, min(columns, len(images), 6))  # more leave no room for titles
    rows = -(-len(images) // columns)
    wide = min(1.6, WIDTH / columns)
    lines = [textwrap.fill(title, max(8, int(wide / 0.07))) for title in titles]
    above = 0.14 * max((text.count("\n") + 1 for text in lines), default=1) + 0.05
    tall = wide + above
    size = (wide * columns, tall * rows + 0.3 * bool(heading))
    figure = plt.figure(figsize=size)
    # One axes for all, in inches: with one for each image, a sheet takes seconds
    axis = figure.add_axes((0, 0, 1, tall * rows / size[1]))
    for number, (image, title) in enumerate(zip(images, lines, strict=True)):
        left, top = number % columns * wide, number // columns * tall + above
        extent = (left + 0.03, left + wide - 0.03, top + wide - 0.06, top)
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
        axis.text(left + wide / 2, top - 0.03, title, fontsize=FONT, ha="center", va="bottom")
    axis.set(xlim=(0, size[0]), ylim=(tall * rows, 0), aspect="auto")
    axis.axis("off")
    if heading:
        figure.suptitle(heading, fontsize=9.5, weight="bold", y=1 - 0.08 / size[1], va="top")
    return figure


def outlined(images: np.ndarray, masks: np.ndarray, titles: Sequence[str], *, heading: str = "") -> Figure:
    """A `contact_sheet` with the outline of a mask on each image: masks bool [n, h, w], as the images."""
    figure = contact_sheet(images, titles, heading=heading)
    (axis,) = figure.axes
    for image, mask in zip(axis.images, masks, strict=True):
        left, right, low, high = image.get_extent()
        x = np.linspace(left, right, 2 * mask.shape[1] + 1)[1::2]  # centres of pixels
        y = np.linspace(high, low, 2 * mask.shape[0] + 1)[1::2]
        if mask.any() and not mask.all():
            axis.contour(x, y, mask, levels=[0.5], colors=[AFTER], linewidths=1)
    return figure


def history(table: pd.DataFrame, curves: Mapping[str, str], *, ylabel: str, title: str = "") -> Figure:
    """Curves over epochs: `curves` maps a label to a column of `table`, which has the column `epoch`."""
    figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
    colours = dict(zip(curves, COLOURS, strict=False))
    for label, column in curves.items():
        axis.plot(table["epoch"], table[column], marker="o", markersize=3, color=colours[label])
    ends = {label: (table["epoch"].iloc[-1], table[column].iloc[-1]) for label, column in curves.items()}
    first, last = table["epoch"].min(), table["epoch"].max()
    span = max(last - first, 1)
    axis.set_xlim(first - 0.03 * span, last + (0.03 + 0.02 * max(map(len, curves))) * span)
    axis.locator_params(axis="x", integer=True)
    axis.set_xticks([tick for tick in axis.get_xticks() if first <= tick <= last])
    _finish(axis, xlabel="epoch", ylabel=ylabel, title=title)
    name_ends(axis, ends, colours)
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str], *, title: str = "") -> Figure:
    """Confusion matrix [true, predicted] of counts; colours show shares of the true class.

    Counts [n, 2, 2] are of findings (`cxr.metrics.findings.confusion`): each has a row, with the numbers of images
    that have it and are called or missed, and of those that have it not.
    """
    if counts.ndim == 3:
        return _calls(counts, classes, title)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(1.5 + 0.55 * len(classes), WIDTH - 1.2)
    figure, axis = plt.subplots(figsize=(side + 1.2, side + 0.4), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, int(count), ha="center", va="center", color=colour, fontsize=FONT)
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, classes)
    right = np.trace(counts) / max(counts.sum(), 1)
    message = f"{right:.0%} of {int(counts.sum())} images are classified correctly"
    _finish(
        axis, xlabel="predicted class", ylabel="true class", title=f"{title}:\n{message}" if title else message
    )
    _share_bar(figure, axis, image, "share of the true class")
    return figure


def _share_bar(figure: Figure, axis: Axes, image: AxesImage, label: str) -> None:
    bar = figure.colorbar(image, ax=axis, fraction=0.046)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)


def _calls(counts: np.ndarray, findings: Sequence[str], title: str) -> Figure:
    """A row a finding, from counts [n, 2, 2] (without and with it; not called and called)."""
    names = ("called", "missed", "called", "not called")
    cells = np.stack([counts[:, 1, 1], counts[:, 1, 0], counts[:, 0, 1], counts[:, 0, 0]], axis=1)
    of = np.repeat(np.stack([counts[:, 1].sum(1), counts[:, 0].sum(1)], axis=1), 2, axis=1)
    shares = cells / np.maximum(of, 1)
    figure, axis = plt.subplots(figsize=(5.2, 1.7 + 0.36 * len(findings)), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(cells):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, int(count), ha="center", va="center", color=colour, fontsize=FONT)
    axis.axvline(1.5, color="black", linewidth=1)
    axis.set_xticks(range(4), names)
    axis.set_yticks(range(len(findings)), findings)
    found, false = (shares[:, column].mean() for column in (0, 2))
    message = f"{found:.0%} of images with a finding are called, and {false:.0%} of those without (means)"
    _finish(
        axis,
        xlabel="images with the finding        |        images without it",
        ylabel="",
        title=f"{title}:\n{message}" if title else message,
    )
    _share_bar(figure, axis, image, "share of these images")
    return figure


def reliability(tables: Mapping[str, pd.DataFrame], *, several: bool = False) -> Figure:
    """Reliability diagram: accuracy against confidence, before and after.

    `several`: of several findings an image: how often a finding is there against its probability.
    `tables`: for each checkpoint confidence, accuracy and n, one row a bin; a marker's area grows with n. Bins
    without an image are not drawn. The axes begin below the lowest value.
    """
    figure, axis = plt.subplots(figsize=(4.2, 3.9), layout="constrained")
    shown = {name: table[table["n"] > 0] for name, table in tables.items()}
    lowest = min(table[["confidence", "accuracy"]].min().min() for table in shown.values())
    start = max(0.0, np.floor(10 * lowest) / 10)
    axis.plot([start, 1], [start, 1], color="grey", linewidth=1, linestyle="--")
    for number, (checkpoint, table) in enumerate(shown.items()):
        style = {"color": _SIDES[checkpoint]}
        axis.plot(table["confidence"], table["accuracy"], **style)
        axis.scatter(table["confidence"], table["accuracy"], s=3 + table["n"], alpha=0.6, **style)
        text = CHECKPOINT_LABELS[checkpoint]
        axis.text(0.03, 0.96 - 0.06 * number, text, transform=axis.transAxes, va="top", fontsize=FONT, **style)
    axis.set(xlim=(start, 1.01), ylim=(start, 1.01))
    title = "Below the dashed line: the network is too sure"
    labels = {"xlabel": "confidence of the predicted class", "ylabel": "accuracy"}
    if several:
        labels = {"xlabel": "probability of a finding", "ylabel": "share of images that have it"}
    _finish(axis, **labels, title=title)
    return figure


def performance(runs: pd.DataFrame) -> Figure:
    """Macro AUC before and after, with a line for each seed.

    `runs`: architecture, seed, auc_macro_before, auc_macro_after; one row a training.
    """
    names = list(dict.fromkeys(runs["architecture"]))
    width = min(WIDTH, max(4.5, 0.9 + 1.15 * len(names)))
    figure, axis = plt.subplots(figsize=(width, 3.0), layout="constrained")
    for position, name in enumerate(names):
        for _, row in runs[runs["architecture"] == name].iterrows():
            values = [row["auc_macro_before"], row["auc_macro_after"]]
            axis.plot([position - 0.22, position + 0.22], values, color="0.6", linewidth=1, zorder=1)
            axis.plot(position - 0.22, values[0], "o", color=BEFORE, markersize=5)
            axis.plot(position + 0.22, values[1], "o", color=AFTER, markersize=5)
    change = runs["auc_macro_after"] - runs["auc_macro_before"]
    low, high = (f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") for value in (change.min(), change.max()))
    spots = [position + side for position in range(len(names)) for side in (-0.22, 0.22)]
    axis.set_xticks(spots, ["before", "after"] * len(names))
    lines = [textwrap.fill(name, max(8, int((width - 0.8) / len(names) / 0.066))) for name in names]
    for position, text in enumerate(lines):
        below = {
            "xycoords": axis.get_xaxis_transform(),
            "textcoords": "offset points",
            "ha": "center",
            "va": "top",
        }
        axis.annotate(text, (position, 0), (0, -18), fontsize=FONT, **below)
    for edge in np.arange(len(names) - 1) + 0.5:
        axis.axvline(edge, color="0.88", linewidth=0.8, zorder=0)
    axis.set_xlim(-0.5, len(names) - 0.5)
    title = f"Macro AUC changes by {low}" + (f" to {high}" if high != low else "")
    _finish(axis, xlabel="", ylabel="macro AUC (test set)\na line a seed", title=title)
    axis.tick_params(axis="x", length=0)
    return figure


def name_ends(axis: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Name lines at their right ends, in their colours; names that would lie on one another are moved apart.

    ends: by name, the last point of its line. Call it when the axis' size and limits are final.
    """
    figure = axis.get_figure()
    figure.canvas.draw()  # a layout sets the size
    low, high = axis.get_ylim()
    tall = axis.get_window_extent().height / figure.dpi
    step = 0.15 * (high - low) / tall  # the height of a line of text
    order = sorted(ends, key=lambda name: ends[name][1])
    heights = [ends[name][1] for name in order]
    for number in range(1, len(heights)):
        heights[number] = max(heights[number], heights[number - 1] + step)
    shift = np.mean([ends[name][1] for name in order]) - np.mean(heights)
    shift = min(shift, high - 0.3 * step - heights[-1])
    for name, height in zip(order, heights, strict=True):
        style = {"color": colours[name], "fontsize": FONT, "va": "center", "annotation_clip": False}
        axis.annotate(name, (ends[name][0], height + shift), (6, 0), textcoords="offset points", **style)
    axis.set_ylim(low, high)


def _finish(axis: Axes, *, xlabel: str, ylabel: str, title: str) -> None:
    """Labels, title and ticks at readable sizes, and no frame above and at the right."""
    axis.set_xlabel(xlabel, fontsize=FONT)
    axis.set_ylabel(ylabel, fontsize=FONT)
    axis.set_title(title, fontsize=9.5, weight="bold", loc="left")
    axis.tick_params(labelsize=FONT)
    axis.spines[["top", "right"]].set_visible(False)
