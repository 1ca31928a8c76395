"""Figures. Maps that are compared share one colour scale; intervals are drawn; colours suit any colour vision.

Every function takes tables or arrays and returns a Matplotlib figure, at most 9 inches wide, so that its text
stays readable on a page or in a report some 900 pixels wide. What is missing (NaN, or a cell without a row) is
marked "n/a" where a reader would look for it, and never drawn as a number. A method has the same colour and marker
in every figure, whichever others are shown beside it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cxr.core.errors import InputError
from cxr.metrics.metric_table import METRICS

# Okabe and Ito's palette (2008): distinguishable with any colour vision. Grey for their yellow, lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
METHOD_LABELS = {
    "layercam": "LayerCAM",
    "gradcampp": "Grad-CAM++",
    "gradcam": "Grad-CAM",
    "hirescam": "HiResCAM",
    "scorecam": "Score-CAM",
    "smoothgrad": "SmoothGrad",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}
CHECKPOINT_LABELS = {"before": "before fine-tuning", "after": "after fine-tuning"}
_MARKERS = "osD^vP*<"
_DASHES = ("-", "--", ":", "-.")
_WIDTH = 9.0  # inches: at 100 dpi the 900 pixels of a report's column
# Baselines of drift: suffix of the columns, legend, colours of the band and of its median, hatch.
_BASELINES = {
    "two_patients": ("two patients (same class)", "#BDBDBD", "#8A8A8A", None),
    "two_heads": ("two heads", "#56B4E9", "#2E8BC0", None),
    "two_seeds": ("two seeds", "#E69F00", "#B37B00", "/////"),
}
# The choices of an analysis, in the order of the rows under a specification curve.
_CHOICES = {"variant": "variant", "q": "area q", "grid": "grid", "images": "images"}


def contact_sheet(images: np.ndarray, titles: Sequence[str], *, columns: int = 8, heading: str = "") -> Figure:
    """Grey images [n, h, w] (uint8) in rows of `columns`, all on the scale 0 to 255, each under its title."""
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
    """Reliability diagram: accuracy against confidence, before and after; marker areas show how many images a bin
    has."""
    figure, axis = plt.subplots(figsize=(4.2, 4))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect calibration")
    for colour, (checkpoint, table) in zip(COLOURS, tables.items(), strict=False):
        table = table[table["n"] > 0]
        axis.plot(
            table["confidence"],
            table["accuracy"],
            color=colour,
            label=CHECKPOINT_LABELS.get(checkpoint, checkpoint),
        )
        axis.scatter(table["confidence"], table["accuracy"], s=3 + table["n"], color=colour, alpha=0.6)
    axis.set(xlabel="confidence of the predicted class", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def overlay(
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    *,
    title: str = "",
    outline: np.ndarray | None = None,
) -> Figure:
    """Image, map before, map after and their difference, side by side.

    Args:
        image: uint8 [h, w].
        before, after: maps [h, w] in [0, 1] (`similarity.prepare`); NaN for an empty one, which stays
            blank and is named.
        title: of the whole figure.
        outline: bool [h, w], drawn as a contour on the image (the phantom's lesion).

    Both maps are on the scale 0 to 1, the difference on -1 to 1, in every figure.
    """
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    names, shown, difference = _draw_maps(axes, image, before, after, outline)
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, fontsize=9)
    heat = plt.cm.ScalarMappable(shown.norm, shown.cmap)
    figure.colorbar(heat, ax=axes[2], fraction=0.05).set_label("attribution of both, min-max", fontsize=8)
    bar = figure.colorbar(plt.cm.ScalarMappable(difference.norm, difference.cmap), ax=axes[3], fraction=0.05)
    bar.set_label("difference", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def tiles(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, *, outline: np.ndarray | None = None
) -> Figure:
    """The panels of `overlay` as four square tiles, for MLflow's image grid.

    The grid makes 256 pixels of a picture and, in a run's own page, cuts its lower half off. So there are no
    margins, names are inside the tiles, and the two maps stand above: before, after; image, difference.
    """
    figure = plt.figure(figsize=(6, 6))
    where = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 0)]
    axes = [figure.add_axes((*corner, 0.497, 0.497)) for corner in where]
    names, *_ = _draw_maps(axes, image, before, after, outline)
    box = {"facecolor": "black", "edgecolor": "none", "pad": 2}
    for axis, name in zip(axes, names, strict=True):
        axis.set_aspect("auto")  # which the tiles have already, unless the image is no square
        axis.text(0.03, 0.97, name, transform=axis.transAxes, va="top", color="white", fontsize=13, bbox=box)
    return figure


def _draw_maps(axes, image, before, after, outline):
    """Draw image, both maps and their difference; returns their names, and what the two colour scales are of."""
    names = ["image", "before", "after", "after minus before"]
    for axis in axes:
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
    if outline is not None and outline.any():
        axes[0].contour(outline, levels=[0.5], colors=COLOURS[4], linewidths=1)
        names[0] = "image, lesion outlined"
    for number, values in ((1, before), (2, after)):
        empty = not np.isfinite(values).all()
        alpha = 0.0 if empty else 0.55
        shown = axes[number].imshow(np.nan_to_num(values), cmap="inferno", vmin=0, vmax=1, alpha=alpha)
        names[number] += ": empty map" * empty
    difference = axes[3].imshow(np.nan_to_num(after - before), cmap="PuOr_r", vmin=-1, vmax=1, alpha=0.7)
    return names, shown, difference


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
    """Macro AUC before and after, a line a seed. `runs`: architecture, seed, auc_macro_before,
    auc_macro_after; one row a trained pair."""
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


def drift(summary: pd.DataFrame, metrics: Sequence[str], *, level: float = 0.95) -> Figure:
    """Median drift by architecture and method, with bootstrap intervals, one panel a metric.

    Parameters
    ----------
    summary : one row an architecture and method: architecture, method, and for each metric `<name>_median`,
        `<name>_ci_low`, `<name>_ci_high`. Optional, each with `_median`, `_ci_low`, `_ci_high`, and drawn behind
        the point of its own cell: `<name>_two_patients` (map before of one patient against the map after of
        another of the same class), `<name>_two_heads` (heads of two seeds), `<name>_two_seeds` (two
        fine-tuned checkpoints that differ by seed), as bands; `<name>_chance` (independent maps), as a dotted
        line, for which `_median` is enough.
    metrics : names in `cxr.metrics.metric_table.METRICS`.
    level : of the intervals, for the axis label.

    Raises
    ------
    InputError : a column is missing, there are no rows, or two rows for one cell (pool seeds first).
    """
    parts = [f"{metric}_{part}" for metric in metrics for part in ("median", "ci_low", "ci_high")]
    names, methods, cells, slot = _cells(summary, "drift", parts)
    figure, axes = _panels(len(metrics), names, methods)
    for axis, metric in zip(axes, metrics, strict=True):
        _drift_panel(axis, cells, metric, slot, level=level)
        _name_axis(axis, names)
    _legend(figure, axes)
    return figure


def _drift_panel(axis: Axes, cells: pd.DataFrame, metric: str, slot: float, *, level: float) -> None:
    """One metric of `drift`: the baselines, identical maps, and each cell's point."""
    _baselines(axis, cells, metric, slot)
    identical = METRICS[metric].identical
    axis.axhline(identical, color="grey", linestyle="--", linewidth=1, label="identical maps")
    _dots(axis, cells, f"{metric}_median", f"{metric}_ci_low", f"{metric}_ci_high")
    axis.set_ylabel(f"{_wrapped(METRICS[metric].label)}\nmedian, {level:.0%} interval")


def pair(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    panels: Sequence[Mapping[str, object]],
    *,
    title: str = "",
    level: float = 0.95,
) -> Figure:
    """The drift between two models, A and B: above as `drift` has it, below examples as `examples` has them.

    Parameters
    ----------
    summary, metrics, level : as for `drift`, of one architecture (the pair) and its methods. `<name>_two_heads`
        is of models that differ from A by their seed, `<name>_two_seeds` of models that differ from B by theirs.
    panels : as for `examples`, with before for A's map and after for B's; none: nothing is drawn below.
    title : of the whole figure.

    Raises
    ------
    InputError : as `drift` and `examples`.
    """
    parts = [f"{metric}_{part}" for metric in metrics for part in ("median", "ci_low", "ci_high")]
    _, methods, cells, slot = _cells(summary, "pair", parts)
    block = _Examples.of(panels, "pair") if panels else None
    above, legend, below = 3.6, 0.5 if len(methods) < 4 else 0.7, block.height if block else 0.0
    high = above + legend + below
    figure = plt.figure(figsize=(_WIDTH, high))
    figure.set_layout_engine("constrained", rect=(0, (legend + below) / high, 1, above / high))
    axes = list(figure.subplots(1, len(metrics), squeeze=False)[0])
    for axis, metric in zip(axes, metrics, strict=True):
        _drift_panel(axis, cells, metric, slot, level=level)
        axis.set_xticks([])  # the legend names the methods
        axis.set_xlim(-0.7 * slot * len(methods), 0.7 * slot * len(methods))
    ours = {_BASELINES[key][0]: f"two seeds of {model}" for key, model in (("two_heads", "A"), ("two_seeds", "B"))}
    ours[_BASELINES["two_patients"][0]] = "two patients"
    _legend(figure, axes, rename=ours, above=below / high)
    if block:
        block.draw(figure, at=((_WIDTH - block.width) / 2, above + legend), names=("A", "B"))
    figure.suptitle(title, fontsize=10)
    return figure


def corrected(index: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """The corrected overlap by architecture and method.

    Parameters
    ----------
    index : one row an architecture and method: architecture, method, corrected, ci_low, ci_high. 0: no more
        overlap than two patients have; 1: identical maps. Optional: share_of_two_heads (1: as much as two heads
        that differ by seed), with share_of_two_heads_ci_low and _ci_high where known: a second panel, same scale.
    level : of the intervals, for the axis label.

    Raises
    ------
    InputError : as `drift`.
    """
    names, methods, cells, _ = _cells(index, "corrected", ["corrected", "ci_low", "ci_high"])
    shown = [("corrected", "ci_low", "ci_high", "identical maps")]
    if "share_of_two_heads" in cells and cells["share_of_two_heads"].notna().any():
        bounds = [f"share_of_two_heads_{end}" for end in ("ci_low", "ci_high")]
        cells = cells.assign(**{name: np.nan for name in bounds if name not in cells})
        shown.append(("share_of_two_heads", *bounds, "two heads"))
    figure, axes = _panels(len(shown), names, methods, sharey=True)
    for axis, (middle, low, high, one) in zip(axes, shown, strict=True):
        axis.axhline(0, color="grey", linestyle=":", linewidth=1.2, label="0: two patients")
        axis.axhline(1, color="grey", linestyle="--", linewidth=1, label="1: the level named above")
        _dots(axis, cells, middle, low, high)
        axis.set_title(f"1 = {one}", fontsize=9)
        axis.set_ylabel(f"corrected overlap,\n{level:.0%} interval")
        _name_axis(axis, names)
    _legend(figure, axes)
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


def specification_curve(
    analyses: pd.DataFrame,
    rankings: pd.DataFrame | None = None,
    *,
    method: str,
    label: str = "median overlap (IoU)",
) -> Figure:
    """Specification curve (Simonsohn, Simmons and Nelson 2020) of the architectures' stability under one method.

    Parameters
    ----------
    analyses : one row an analysis x architecture x method: variant, q, grid, images (the choices that make a
        analysis), architecture, method, value (higher is more stable; NaN where missing), complete (bool),
        is_default (bool, one analysis a method); optional borrowed (bool: the variant exists for another method
        only), whose rows are left out, since they repeat the default variant's.
    rankings : `multiverse.rankings`: the choices, method_a, method_b and reversal (bool, missing where it
        cannot be asked). Where `method` is one of the two, a last row marks the analyses in which they rank some
        pair of architectures in opposite ways. None: no such row.
    method : the one to show.
    label : what `value` is.

    Analyses stand from left to right by the difference between the architectures that the default analysis finds
    most and least stable; negative ones reverse that finding; those that lack either value come last. The upper
    panel has a dot an architecture, hollow where the analysis is incomplete; below are the difference and the
    choices.

    Raises
    ------
    InputError : a column is missing, the method has no rows, or it has not exactly one default analysis with a
        value.
    """
    _require(analyses, "specification_curve", [*_CHOICES, "architecture", "method", "value", "complete"])
    _require(analyses, "specification_curve", ["is_default"])
    table = analyses[analyses["method"] == method]
    if "borrowed" in table:
        table = table[~table["borrowed"].astype(bool)]
    if table.empty:
        raise InputError(
            f"plots.specification_curve: no analysis has the method '{method}'; "
            f"the table has {', '.join(analyses['method'].unique())}."
        )
    keys = list(_CHOICES)
    if table.duplicated([*keys, "architecture"]).any():
        raise InputError(
            f"plots.specification_curve: '{method}' has several rows for one analysis and architecture; "
            "pool them first."
        )
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    names = list(dict.fromkeys(table["architecture"]))
    default = np.unique(codes[table["is_default"].to_numpy(bool)])
    values = table.assign(analysis=codes).pivot(index="analysis", columns="architecture", values="value")[names]
    if len(default) != 1 or values.loc[default[0]].isna().all():
        raise InputError(
            f"plots.specification_curve: '{method}' has {len(default)} default analyses; mark exactly one with "
            "is_default, one that has values."
        )
    ranked = values.loc[default[0]].dropna().sort_values(ascending=False, kind="stable").index
    first, last = ranked[0], ranked[-1]
    difference = values[first] - values[last]
    # With one architecture all differences are 0: its values then give the order.
    order = (difference if first != last else values[first]).sort_values(kind="stable", na_position="last").index
    values, difference = values.loc[order], difference.loc[order]
    chosen = table.assign(analysis=codes).groupby("analysis")[keys].first().loc[order]
    complete = table["complete"].to_numpy(bool)
    complete = pd.Series(complete).groupby(codes).all().loc[order].to_numpy()
    x = np.arange(len(order))
    here = list(order).index(default[0])

    options = {}
    for key in keys:
        found = [value for value in dict.fromkeys(chosen.loc[chosen.index.sort_values(), key]) if pd.notna(value)]
        options[key] = sorted(found) if key == "q" else found
    options = {key: found for key, found in options.items() if found}
    opposite = _reversed_analyses(rankings, chosen, method)
    if opposite is not None:
        options["opposite"] = [opposite[0]]
        chosen = chosen.assign(opposite=np.where(opposite[1], opposite[0], None))
    heights = [2.3, *([1.2] if first != last else []), *(0.08 + 0.18 * len(found) for found in options.values())]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(_WIDTH, sum(heights) + 1.0),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)
    axes = axes[:, 0]
    for axis in axes:
        axis.axvspan(here - 0.5, here + 0.5, color=COLOURS[4], alpha=0.35, linewidth=0)
        axis.tick_params(labelsize=8)
    size = float(np.clip(240 / len(x), 3, 7))
    for number, name in enumerate(names):
        colour, value = COLOURS[number % len(COLOURS)], values[name].to_numpy(float)
        for marks, face in ((complete, colour), (~complete, "white")):
            axes[0].plot(
                x[marks],
                value[marks],
                _MARKERS[number % len(_MARKERS)],
                color=colour,
                markerfacecolor=face,
                markersize=size,
                label=name if face != "white" else None,
            )
    axes[0].set_ylabel(label)
    axes[0].grid(axis="y", color="0.9")
    axes[0].set_title(f"{METHOD_LABELS.get(method, method)}: {len(x)} analyses", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(Rectangle((0, 0), 1, 1, color=COLOURS[4], alpha=0.35, linewidth=0))
    labels.append("default analysis")
    if not complete.all():
        handles.append(Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle=""))
        labels.append("incomplete analysis (hollow, pale)")
    if first != last:
        axis = axes[1]
        height = difference.to_numpy(float)
        known = np.isfinite(height)
        colours = [
            (COLOURS[1] if value < 0 else "#4D4D4D", 1.0 if solid else 0.4)
            for value, solid in zip(height[known], complete[known], strict=True)
        ]
        axis.bar(x[known], height[known], width=0.8, color=colours)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_ylabel(f"{first}\n\N{MINUS SIGN} {last}", fontsize=8)
        ranks = values.rank(axis=1)  # ties share a rank, and are another order than none
        whole = values.notna().all(axis=1).to_numpy() & complete  # what is not complete is not ranked
        same = (ranks.to_numpy() == ranks.loc[default[0]].to_numpy()).all(1) & whole
        negative, asked = height < 0, known & complete
        text = f"reversed in {int((negative & asked).sum())} of {int(asked.sum())} complete analyses"
        if len(names) > 2 and whole[here]:
            text += f"; all {len(names)} as in the default analysis in {int(same.sum())} of {int(whole.sum())}"
        axis.set_title(text, fontsize=8, loc="left", pad=3)
    for axis, (key, found) in zip(axes[-len(options) :], options.items(), strict=True):
        for row, option in enumerate(found):
            spots = x[(chosen[key] == option).to_numpy()]
            axis.plot(
                spots,
                np.full(len(spots), row),
                "|",
                color=COLOURS[1] if key == "opposite" else "black",
                markersize=8,
                markeredgewidth=1.6,
            )
        axis.set_yticks(range(len(found)), [_option(key, option) for option in found], fontsize=8)
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set_ylabel(
            _CHOICES.get(key, "reversal"), fontsize=8, rotation=0, ha="right", va="center", fontweight="bold"
        )
        axis.tick_params(axis="x", bottom=False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[-1].set_xlim(-0.8, len(x) - 0.2)
    axes[-1].set_xlabel("analysis, sorted by the difference" if first != last else "analysis, sorted by the value")
    axes[-1].tick_params(axis="x", bottom=True)
    axes[-1].spines["bottom"].set_visible(True)
    figure.align_ylabels(axes[: -len(options)])
    figure.align_ylabels(axes[-len(options) :])
    _figure_legend(figure, handles, labels)
    return figure


def course(course: pd.DataFrame, *, metric: str = "overlap") -> Figure:
    """Drift from the checkpoint before over the epochs of fine-tuning, and below it performance, on one time axis.

    Parameters
    ----------
    course : one row an architecture, method, seed and epoch (0: before fine-tuning): architecture, method,
        seed, epoch, value (median of `metric`), ci_low, ci_high, auc (macro AUC on the test set at that epoch).
        Optional: two_patients and two_heads, the baselines, whose values at the last epoch stand at the right
            edge.
    metric : a name in `cxr.metrics.metric_table.METRICS`.

    A colour an architecture, a line style a method, a thin line with its interval a seed; with several seeds their
    mean is a thick line, over the epochs that all of them have. More than three methods take a panel each.

    Raises
    ------
    InputError : a column is missing or there are no rows.
    """
    _require(course, "course", ["architecture", "method", "seed", "epoch", "value", "ci_low", "ci_high", "auc"])
    names, methods = (list(dict.fromkeys(course[column])) for column in ("architecture", "method"))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    groups = [methods] if len(methods) <= 3 else [[method] for method in methods]
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure = plt.figure(figsize=(_WIDTH if columns > 1 else 7.5, 3.0 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.6] * rows + [2.0])
    lower = figure.add_subplot(grid[-1, :])
    axes = []
    for number, group in enumerate(groups):
        spot = grid[number // columns, number % columns]
        axis = figure.add_subplot(spot, sharex=lower, sharey=axes[0] if axes else None)
        axes.append(axis)
        if len(groups) > 1:
            axis.set_title(METHOD_LABELS.get(group[0], group[0]), fontsize=9)
        axis.axhline(METRICS[metric].identical, color="grey", linewidth=1, linestyle=(0, (1, 1)))
        for style, method in zip(_DASHES, group, strict=False):
            for name in names:
                cell = course[(course["architecture"] == name) & (course["method"] == method)]
                _seed_lines(axis, cell, "value", colour=colours[name], style=style)
        if number % columns == 0:
            axis.set_ylabel(f"{_wrapped(METRICS[metric].label)}\nmedian", fontsize=9)
    for name in names:
        runs = course[course["architecture"] == name].drop_duplicates(["seed", "epoch"])
        _seed_lines(lower, runs, "auc", colour=colours[name], style="-")
    last = float(course["epoch"].max())
    first = float(course["epoch"].min())
    span = max(last - first, 1.0)
    levels = [
        (column, marker) for column, marker in (("two_patients", "x"), ("two_heads", "s")) if column in course
    ]
    levels = [(column, marker) for column, marker in levels if course[column].notna().any()]
    for axis, group in zip(axes, groups, strict=True):
        for column, marker in levels:
            for place, method in enumerate(group):
                for name in names:
                    cell = course[(course["architecture"] == name) & (course["method"] == method)]
                    final = cell[cell["epoch"] == cell["epoch"].max()]
                    spots = last + span * (0.03 + 0.07 * place + np.array([0, 0.03, 0.06]))
                    axis.plot(
                        spots,
                        np.full(3, final[column].mean()),
                        color=colours[name],
                        linestyle=_DASHES[place],
                        linewidth=1.2,
                        marker=marker,
                        markevery=[1],
                        markersize=5,
                    )
    lower.set(xlabel="epoch of fine-tuning (0: before)", ylabel="macro AUC (test set)")
    lower.set_xlim(first - 0.02 * span, last + span * (0.03 + 0.07 * max(map(len, groups)) * bool(levels)))
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.set_xticks([tick for tick in lower.get_xticks() if first <= tick <= last])
    for axis in axes if levels else ():
        axis.axvline(last + 0.015 * span, color="0.85", linewidth=0.8)
    for axis in (*axes, lower):
        axis.grid(axis="y", color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    handles = {name: Line2D([], [], color=colours[name], linewidth=2) for name in names}
    if len(groups) == 1:
        for style, method in zip(_DASHES, methods, strict=False):
            handles[METHOD_LABELS.get(method, method)] = Line2D([], [], color="black", linestyle=style)
    handles["identical maps"] = Line2D([], [], color="grey", linewidth=1, linestyle=(0, (1, 1)))
    for column, marker in levels:
        text = f"{_BASELINES[column][0]}, last epoch"
        handles[text] = Line2D([], [], color="black", marker=marker, linewidth=1.2, markersize=5)
    if course["seed"].nunique() > 1:
        handles["mean of the seeds (thin: each)"] = Line2D([], [], color="black", linewidth=2)
    _figure_legend(figure, handles.values(), handles)
    return figure


def examples(panels: Sequence[Mapping[str, object]], *, title: str = "") -> Figure:
    """Example images chosen by rule: a row a class, and for each rule image, map before and map after.

    Parameters
    ----------
    panels : dicts with class, rule (such as "least drift"), image (uint8 [h, w]), before and after (maps
        [h, w] in [0, 1]; NaN for an empty one, which is named), text (shown above the three; id and value).
        Classes and rules stand in the order in which they come; a class without a panel for a rule has a gap.
    title : of the whole figure.

    All maps are on one colour scale, 0 to 1.

    Raises
    ------
    InputError : no panels, two for one class and rule, a missing key, or a map outside [0, 1].
    """
    block = _Examples.of(panels, "examples", top=0.62 if title else 0.38)
    figure = plt.figure(figsize=(block.width, block.height))
    block.draw(figure, at=(0.0, 0.0), names=("before", "after"))
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / block.height, va="top")
    return figure


@dataclass(frozen=True)
class _Examples:
    """Example images, laid out in inches: what `examples` draws, wherever in a figure it stands."""

    placed: dict[tuple[str, str], Mapping[str, object]]  # by class and rule
    left: float
    top: float
    tile: float  # the width of an image
    tall: float  # its height

    _RIGHT: ClassVar[float] = 0.1
    _BOTTOM: ClassVar[float] = 0.85
    _GAP: ClassVar[float] = 0.1

    @classmethod
    def of(cls, panels: Sequence[Mapping[str, object]], what: str, *, top: float = 0.38) -> _Examples:
        panels = list(panels)
        if not panels:
            raise InputError(f"plots.{what}: there are no panels; select at least one image.")
        placed = {}
        for number, panel in enumerate(panels):
            wanted = ("class", "rule", "image", "before", "after", "text")
            if missing := [key for key in wanted if key not in panel]:
                raise InputError(f"plots.{what}: panel {number} lacks {', '.join(missing)}.")
            place = (panel["class"], panel["rule"])
            if place in placed:
                raise InputError(f"plots.{what}: two panels for the class '{place[0]}' and the rule '{place[1]}'.")
            for checkpoint in ("before", "after"):
                values = np.asarray(panel[checkpoint])
                if np.nanmin(values, initial=0) < 0 or np.nanmax(values, initial=0) > 1 + 1e-6:
                    raise InputError(
                        f"plots.{what}: map {checkpoint} of panel {number} leaves 0 to 1, the colour scale of all "
                        "maps; bring it there with cxr.metrics.map_grids.prepare."
                    )
            placed[place] = panel
        height, width = np.shape(panels[0]["image"])
        longest = max(len(word) for label, _ in placed for word in _plain(label).split())
        left = float(np.clip(0.25 + 0.075 * longest, 0.8, 2.0))
        rules = len({rule for _, rule in placed})
        tile = min((_WIDTH - left - cls._RIGHT - cls._GAP * (rules - 1)) / (3 * rules), 1.9)
        return cls(placed, left, top, tile, tile * height / width)

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(label for label, _ in self.placed))

    @property
    def rules(self) -> list[str]:
        return list(dict.fromkeys(rule for _, rule in self.placed))

    @property
    def width(self) -> float:
        return self.left + self._RIGHT + 3 * self.tile * len(self.rules) + self._GAP * (len(self.rules) - 1)

    @property
    def height(self) -> float:
        return self.top + self._row * len(self.classes) + self._BOTTOM

    @property
    def _row(self) -> float:
        return self.tall + 0.26

    def draw(self, figure: Figure, *, at: tuple[float, float], names: tuple[str, str]) -> None:
        """Draw it into `figure`, `at` inches from its left and from its top; `names` are those of the two maps."""
        size = figure.get_size_inches()
        tile, tall = self.tile, self.tall

        def spot(x: float, y: float) -> tuple[float, float]:
            """A point at inches from the left and from the top."""
            return (at[0] + x) / size[0], 1 - (at[1] + y) / size[1]

        def place(x: float, y: float, wide: float, high: float) -> Axes:
            return figure.add_axes((*spot(x, y + high), wide / size[0], high / size[1]))

        heat = plt.cm.ScalarMappable(plt.Normalize(0, 1), "inferno")
        for line, label in enumerate(self.classes):
            y = self.top + self._row * line + 0.22
            name = textwrap.fill(_plain(label), 16, break_long_words=False)
            figure.text(*spot(self.left - 0.12, y + tall / 2), name, ha="right", va="center", fontsize=9)
            for block, rule in enumerate(self.rules):
                x = self.left + block * (3 * tile + self._GAP)
                middle = x + 1.5 * tile
                if line == 0:
                    figure.text(*spot(middle, self.top - 0.02), rule, ha="center", va="bottom", weight="bold")
                panel = self.placed.get((label, rule))
                if panel is None:
                    style = {"ha": "center", "va": "center", "fontsize": 8, "color": "0.4"}
                    figure.text(*spot(middle, y + tall / 2), "no such image", **style)
                    continue
                # The text belongs to all three, and may be wider than one of them.
                figure.text(*spot(middle, y - 0.03), panel["text"], ha="center", va="bottom", fontsize=7.5)
                for number, part in enumerate(("image", "before", "after")):
                    axis = place(x + number * tile + 0.015, y, tile - 0.03, tall)
                    _example(axis, panel["image"], None if part == "image" else panel[part], heat)
                    if line == len(self.classes) - 1:
                        axis.set_xlabel(("image", *names)[number], fontsize=8, labelpad=2)
        inside = self.width - self.left
        below = place(self.left + 0.2 * inside, self.height - 0.48, 0.5 * inside, 0.12)
        bar = figure.colorbar(heat, cax=below, orientation="horizontal")
        both = "before and after" if "before" in names else "both models"
        bar.set_label(f"attribution, min-max of each map ({both}, all images)", fontsize=8, labelpad=2)
        bar.ax.tick_params(labelsize=8)


def _example(axis: Axes, image: np.ndarray, values: np.ndarray | None, heat: plt.cm.ScalarMappable) -> None:
    """An image, under a map where there is one."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    shape = np.shape(image)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    if values is None:
        return
    values = np.asarray(values, float)
    if np.isfinite(values).all():
        axis.imshow(values, cmap=heat.cmap, norm=heat.norm, alpha=0.55, extent=extent, aspect="auto")
    else:
        paper = {"facecolor": "black", "alpha": 0.6, "linewidth": 0}
        style = {"color": "white", "fontsize": 7, "ha": "center", "va": "center", "bbox": paper}
        axis.text(0.5, 0.5, "empty\nmap", transform=axis.transAxes, **style)


def regions(summary: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Where the evidence is: its share inside each region before and after fine-tuning, and the change.

    Parameters
    ----------
    summary : one row an architecture, method and region: architecture, method, region, area (the region's share of
        the image, which is what a uniform map has inside), energy_before, energy_after (mean shares of the
        map's sum inside), energy_change (mean of after minus before), energy_change_ci_low,
        energy_change_ci_high.
    level : of the intervals, for the axis label.

    Raises
    ------
    InputError : as `drift`, for each region.
    """
    change = ["energy_change", "energy_change_ci_low", "energy_change_ci_high"]
    _require(summary, "regions", ["region", "area", "energy_before", "energy_after", *change])
    found = list(dict.fromkeys(summary["region"]))
    names, methods = (list(dict.fromkeys(summary[column])) for column in ("architecture", "method"))
    columns, width = _columns(len(found), len(names) * len(methods))
    blocks = -(-len(found) // columns)
    size = (min(_WIDTH, max(columns * width, 4.5)), 4.6 * blocks + 0.7)
    figure, grid = plt.subplots(
        2 * blocks, columns, figsize=size, height_ratios=[3, 2] * blocks, squeeze=False, layout="constrained"
    )
    used = []
    for number, region in enumerate(found):
        upper, lower = (grid[2 * (number // columns) + row, number % columns] for row in (0, 1))
        _, _, cells, slot = _cells(summary[summary["region"] == region], "regions", change, names, methods)
        x = cells["x"].to_numpy()
        areas = cells["area"].to_numpy(float)
        ends = (x - 0.46 * slot, x + 0.46 * slot)
        upper.hlines(areas, *ends, color="black", linestyle=(0, (2, 1)), linewidth=1.2, label="a uniform map")
        for method, part in cells.groupby(level="method", sort=False):
            colour, marker = _method_style(method, methods)
            before, after = (part[f"energy_{name}"].to_numpy(float) for name in ("before", "after"))
            spots = part["x"].to_numpy()
            for spot, start, stop in zip(spots, before, after, strict=True):
                if np.isfinite(start + stop):
                    arrow = {"arrowstyle": "->", "color": colour, "shrinkA": 2, "shrinkB": 1, "linewidth": 1.2}
                    upper.annotate("", (spot, stop), (spot, start), arrowprops=arrow)
                else:
                    _not_available(upper, spot)
            upper.plot(spots, before, marker, color=colour, markerfacecolor="white", markersize=5)
            upper.plot(spots, after, marker, color=colour, markersize=5)
        lower.axhline(0, color="grey", linestyle="--", linewidth=1)
        _dots(lower, cells, *change)
        tallest = np.nanmax(cells[["area", "energy_before", "energy_after"]].to_numpy(float), initial=0)
        upper.set_ylim(0, 1.12 * tallest or 1)
        upper.set_title(region, fontsize=10)
        upper.set_ylabel("mean share of the\nevidence inside", fontsize=9)
        lower.set_ylabel(f"change (after\n\N{MINUS SIGN} before), {level:.0%} interval", fontsize=9)
        _name_axis(upper, names, labels=False)
        _name_axis(lower, names)
        used += [upper, lower]
    for axis in set(grid.flat) - set(used):
        axis.remove()
    handles = {"before": Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="")}
    handles["after"] = Line2D([], [], color="black", marker="o", linestyle="")
    _legend(figure, used, extra=handles)
    return figure


def map_checks(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Does a map pass its checks? Gain over a random map in the deletion and insertion games.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and seed: architecture, method, checkpoint ("before" or
        "after"), seed, deletion_gain, deletion_gain_ci_low, deletion_gain_ci_high, the same for
        insertion_gain (area between the curve of a random map and the map's, positive when the map is better),
        passes_checks (bool).
    level : of the intervals, for the axis label.

    A panel a game and a checkpoint; seeds stand side by side. Filled: the map passes; hollow and crossed: it
    fails.

    Raises
    ------
    InputError : a column is missing, there are no rows, or two rows for one architecture, method, checkpoint and
    seed.
    """
    games = [f"{game}_gain{part}" for game in ("deletion", "insertion") for part in ("", "_ci_low", "_ci_high")]
    keys = ["architecture", "method", "checkpoint", "seed"]
    _require(table, "map_checks", [*keys, *games, "passes_checks"])
    _unique(table, "map_checks", keys)
    names, methods, checkpoints, seeds = (list(dict.fromkeys(table[key])) for key in keys)
    checkpoints.sort(key=lambda checkpoint: [*CHECKPOINT_LABELS, checkpoint].index(checkpoint))
    panels = [(checkpoint, game) for checkpoint in checkpoints for game in ("deletion", "insertion")]
    figure, axes = _panels(len(panels), names, methods * len(seeds), sharey=True, most=2, height=2.7)
    slot = _slot(methods)
    for axis, (checkpoint, game) in zip(axes, panels, strict=True):
        axis.axhline(0, color="grey", linestyle="--", linewidth=1, label="a random map")
        for number, seed in enumerate(seeds):
            offset = (number - (len(seeds) - 1) / 2) * 0.85 * slot / len(seeds)
            part = table[(table["checkpoint"] == checkpoint) & (table["seed"] == seed)]
            _, _, cells, _ = _cells(part, "map_checks", games, names, methods) if len(part) else [None] * 4
            if cells is None:
                continue
            cells["x"] += offset
            bounds = [f"{game}_gain", f"{game}_gain_ci_low", f"{game}_gain_ci_high"]
            _dots(axis, cells, *bounds, passed=cells["passes_checks"].eq(True))
        axis.set_title(f"{game}, {checkpoint}", fontsize=9)
        axis.set_ylabel(f"{game} gain over a\nrandom map, {level:.0%} interval", fontsize=9)
        _name_axis(axis, names)
    handles = {
        "passes": Line2D([], [], color="black", marker="o", linestyle="", markersize=5),
        "fails": (
            Line2D([], [], color="black", marker="o", linestyle="", markerfacecolor="white", markersize=6),
            Line2D([], [], color="black", marker="x", linestyle="", markersize=6),
        ),
    }
    _legend(figure, axes, extra=handles)
    return figure


def perturbation_curves(curves: pd.DataFrame, *, title: str = "") -> Figure:
    """Probability of the explained class as pixels are deleted, and as they are inserted, most important first.

    Parameters
    ----------
    curves : method (also "random" and "centre", maps that know nothing of the model), kind ("deletion" or
        "insertion"), share (of the pixels changed, 0 to 1), probability (mean over
        images); where random maps are on several grids, `grid` tells them apart, and each has its line.
    title : of the whole figure.

    Raises
    ------
    InputError : a column is missing, there are no rows, a kind is unknown, or a curve has two values for one
        share.
    """
    _require(curves, "perturbation_curves", ["method", "kind", "share", "probability"])
    kinds = {"deletion": "deleted", "insertion": "inserted"}
    unknown = sorted(set(curves["kind"]) - set(kinds))
    if unknown:
        raise InputError(f"plots.perturbation_curves: unknown kind {unknown[0]!r}; use {' or '.join(kinds)}.")
    _unique(curves, "perturbation_curves", [c for c in ("method", "grid", "kind", "share") if c in curves])
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
            colour, marker = _method_style(name, methods)
            style = {"color": colour, "marker": marker, "markersize": 4, "markevery": max(1, len(line) // 8)}
            axis.plot(line["share"], line["probability"], label=METHOD_LABELS.get(name, name), **style)
        better = "a good map falls early" if kind == "deletion" else "a good map rises early"
        axis.set_title(f"{kind}: {better}", fontsize=9)
        axis.set(xlabel=f"share of the pixels {kinds[kind]}", xlim=(0, 1), ylim=(0, 1))
        axis.grid(color="0.92")
    axes[0][0].set_ylabel("probability of the explained class")
    figure.suptitle(title, fontsize=10)
    _legend(figure, axes[0])
    return figure


def randomisation(cascade: pd.DataFrame, *, limit: float) -> Figure:
    """Cascading randomisation (Adebayo et al. 2018): how like itself a map stays as weights are lost, head first.

    Parameters
    ----------
    cascade : many rows (images) a method, checkpoint and level: method, checkpoint, level (0, 1, ...: how far
        randomisation has gone), up_to (the name of that level's last layer), spearman (rank correlation with the
        map of the intact network; NaN for an empty map).
    limit : a map whose median is above this at the last level has survived what it should not.

    Medians are lines, the quartiles bands; a panel a checkpoint.

    Raises
    ------
    InputError : a column is missing, there are no rows, or a level has two names.
    """
    _require(cascade, "randomisation", ["method", "checkpoint", "level", "up_to", "spearman"])
    levels = cascade.groupby("level", sort=True)["up_to"].unique()
    if (levels.map(len) > 1).any():
        level = levels.index[(levels.map(len) > 1).argmax()]
        raise InputError(
            f"plots.randomisation: level {level} is called {' and '.join(map(str, levels[level]))}; "
            "draw one architecture at a time."
        )
    methods, checkpoints = (list(dict.fromkeys(cascade[column])) for column in ("method", "checkpoint"))
    checkpoints.sort(key=lambda checkpoint: [*CHECKPOINT_LABELS, checkpoint].index(checkpoint))
    figure, axes = plt.subplots(
        1,
        len(checkpoints),
        figsize=(_WIDTH if len(checkpoints) > 1 else 5.5, 4.2),
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
            colour, marker = _method_style(method, methods)
            label = METHOD_LABELS.get(method, method)
            axis.plot(x, parts[0.5], marker=marker, markersize=4, color=colour, label=label)
            axis.fill_between(x, parts[0.25], parts[0.75], color=colour, alpha=0.12, linewidth=0)
        axis.set_xticks(x, [names[0] for names in levels], rotation=40, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(CHECKPOINT_LABELS.get(checkpoint, checkpoint), fontsize=9)
        axis.set_xlabel("randomised from the head down to")
        low = cascade["spearman"].min()
        axis.set_ylim(-1.02 if low < -0.5 else -0.52, 1.02)
    axes[0][0].set_ylabel("Spearman correlation with\nthe intact model's map\n(median, quartiles)")
    _legend(figure, axes[0])
    return figure


def metrics_seen(table: pd.DataFrame, *, limit: float = 3.0) -> Figure:
    """Which metrics see a change that is known to be there: effect sizes, outlined where the metric sees it.

    Parameters
    ----------
    table : one row a metric, architecture and method: metric, architecture, method, standardised (effect size of
        the observed drift against two heads; NaN where missing), sees (bool).
    limit : the colours span -limit to limit, always the same, so that two studies can be compared.

    Raises
    ------
    InputError : a column is missing, there are no rows, or two rows for one metric, architecture and method.
    """
    keys = ["metric", "architecture", "method"]
    _require(table, "metrics_seen", [*keys, "standardised", "sees"])
    _unique(table, "metrics_seen", keys)
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
    size = (float(np.clip(3.6 + 0.55 * len(columns), 4.5, _WIDTH)), max(2.3 + 0.3 * len(metrics), 3.6))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set_facecolor("0.88")
    shown = axis.imshow(np.ma.masked_invalid(values), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if texts:
            text, dark = ("n/a", False) if np.isnan(value) else (_signed(value), abs(value) > 0.65 * limit)
            colour = "white" if dark else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        if (metrics[row], *columns[column]) in sees:
            axis.add_patch(
                Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, fill=False, edgecolor="black", linewidth=1.6)
            )
    turn = {"rotation": 90 if len(columns) > 20 else 40, "ha": "center" if len(columns) > 20 else "right"}
    axis.set_xticks(range(len(columns)), [METHOD_LABELS.get(m, m) for _, m in columns], fontsize=8, **turn)
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
    _figure_legend(figure, handles, labels)
    return figure


def power(table: pd.DataFrame, *, wanted: float = 0.8) -> Figure:
    """Power against the number of seeds: a line a number of patients, a panel an effect.

    Parameters
    ----------
    table : seeds, patients, effect (a number or its name), power (0 to 1).
    wanted : the power at which a dashed line stands.

    Raises
    ------
    InputError : a column is missing, there are no rows, or two rows for one effect, patients and seeds.
    """
    keys = ["effect", "patients", "seeds"]
    _require(table, "power", [*keys, "power"])
    _unique(table, "power", keys)
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
                marker=_MARKERS[number % len(_MARKERS)],
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
    _legend(figure, axes.flat[: len(effects)])
    return figure


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 30)


def _require(table: pd.DataFrame, what: str, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"plots.{what}: the table lacks {', '.join(missing)}; it has {', '.join(table.columns)}.")
    if table.empty:
        raise InputError(f"plots.{what}: the table has no rows; nothing was scored, or a filter left nothing.")


def _unique(table: pd.DataFrame, what: str, keys: list[str]) -> None:
    twice = table.duplicated(keys)
    if twice.any():
        cell = ", ".join(f"{key} {table.loc[twice, key].iloc[0]}" for key in keys)
        raise InputError(f"plots.{what}: several rows for {cell}; pool them first.")


def _slot(methods: Sequence[str]) -> float:
    """The width that a method has beside each architecture's tick; ticks are 1 apart."""
    return min(0.3, 0.86 / len(methods))


def _cells(
    table: pd.DataFrame,
    what: str,
    columns: Sequence[str],
    names: list[str] | None = None,
    methods: list[str] | None = None,
) -> tuple[list[str], list[str], pd.DataFrame, float]:
    """Architectures, methods, and the table with one row each of their pairs (NaN where there was none) and the
    column `x`: where the pair stands. Last the width of a pair's slot."""
    keys = ["architecture", "method"]
    _require(table, what, [*keys, *columns])
    _unique(table, what, keys)
    names = names or list(dict.fromkeys(table["architecture"]))
    methods = methods or list(dict.fromkeys(table["method"]))
    cells = table.set_index(keys).reindex(pd.MultiIndex.from_product([names, methods], names=keys))
    slot = _slot(methods)
    inside = (np.arange(len(methods)) - (len(methods) - 1) / 2) * slot
    return names, methods, cells.assign(x=(np.arange(len(names))[:, None] + inside).ravel()), slot


def _method_style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: a known method's own; others take those that no known one of the figure uses."""
    known = list(METHOD_LABELS)
    if method in known:
        place = known.index(method)
    else:
        free = [number for number in range(len(COLOURS)) if number >= len(known) or known[number] not in methods]
        others = [name for name in methods if name not in known]
        place = (free or list(range(len(COLOURS))))[others.index(method) % max(1, len(free))]
    return COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]


def _dots(
    axis: Axes, cells: pd.DataFrame, middle: str, low: str, high: str, *, passed: pd.Series | None = None
) -> None:
    """A point and its interval for each cell. The interval is drawn where it is, even when the point lies outside.
    Where `passed` is given and False, the point is hollow and crossed."""
    methods = list(cells.index.unique("method"))
    for method, part in cells.groupby(level="method", sort=False):
        colour, marker = _method_style(method, methods)
        x = part["x"].to_numpy()
        value, bottom, top = (part[column].to_numpy(float) for column in (middle, low, high))
        axis.errorbar(
            x,
            (bottom + top) / 2,
            yerr=(top - bottom) / 2,
            fmt="none",
            ecolor=colour,
            elinewidth=1.3,
            capsize=2.5 if len(cells) <= 16 else 0,
        )
        good = np.ones(len(x), bool) if passed is None else passed[part.index].to_numpy(bool)
        size = 5.5 if len(cells) <= 16 else 4.0
        label = METHOD_LABELS.get(method, method)
        style = {"linestyle": "", "markersize": size, "color": colour, "zorder": 3}
        axis.plot(x[good], value[good], marker=marker, label=label, **style)
        if not good.all():
            axis.plot(x[~good], value[~good], marker=marker, markerfacecolor="white", **style)
            axis.plot(x[~good], value[~good], marker="x", **{**style, "zorder": 4, "markersize": size + 2})
        for spot in x[np.isnan(value)]:
            _not_available(axis, spot)


def _not_available(axis: Axes, x: float) -> None:
    style = {"rotation": 90, "ha": "center", "fontsize": 7, "color": "0.35"}
    paper = {"facecolor": "white", "linewidth": 0, "pad": 0.5}
    axis.text(x, 0.02, "n/a", transform=axis.get_xaxis_transform(), bbox=paper, zorder=4, **style)


def _baselines(axis: Axes, cells: pd.DataFrame, metric: str, slot: float) -> None:
    """Each cell's baselines behind its point: bands (interval) with a line (median); chance: a line."""
    wide = 0.92 * slot
    for suffix, (label, colour, line, hatch) in _BASELINES.items():
        stem = f"{metric}_{suffix}"
        if f"{stem}_median" not in cells or cells[f"{stem}_median"].isna().all():
            continue
        known = cells[cells[f"{stem}_median"].notna()]
        x, middle = known["x"].to_numpy(), known[f"{stem}_median"].to_numpy(float)
        low, high = (
            known[f"{stem}_{end}"].to_numpy(float) if f"{stem}_{end}" in known else np.full(len(x), np.nan)
            for end in ("ci_low", "ci_high")
        )
        sure = np.isfinite(low + high)
        # Without one known interval the band has no height, but it keeps its place in the legend.
        axis.bar(
            x[sure] if sure.any() else x,
            (high - low)[sure] if sure.any() else np.zeros(len(x)),
            wide,
            bottom=low[sure] if sure.any() else middle,
            color=(colour, 0.45),
            edgecolor=(colour, 0.7),
            linewidth=0,
            hatch=hatch,
            label=label,
            zorder=0.5,
        )
        axis.hlines(middle, x - wide / 2, x + wide / 2, color=line, linewidth=1.6, zorder=0.8)
    if f"{metric}_chance_median" in cells and cells[f"{metric}_chance_median"].notna().any():
        x, middle = cells["x"].to_numpy(), cells[f"{metric}_chance_median"].to_numpy(float)
        axis.hlines(
            middle, x - wide / 2, x + wide / 2, color="black", linestyle=(0, (1, 1)), linewidth=1.2, label="chance"
        )
    axis.use_sticky_edges = False


def _columns(count: int, cells: int, *, most: int = 3) -> tuple[int, float]:
    """How many of `count` panels of so many cells (architectures x methods) stand side by side, and how wide."""
    tight, ample = (float(np.clip(1.2 + room * cells, 2.9, _WIDTH)) for room in (0.13, 0.27))
    columns = max(1, min(count, most, int(_WIDTH // tight)))
    return columns, min(ample, _WIDTH / columns)


def _panels(
    count: int,
    names: Sequence[str],
    methods: Sequence[str],
    *,
    sharey: bool = False,
    most: int = 3,
    height: float = 3.1,
) -> tuple[Figure, list[Axes]]:
    """`count` panels wide enough for architectures x methods, side by side as a page allows, at most `most`."""
    columns, width = _columns(count, len(names) * len(methods), most=most)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(columns * width, 4.5), height * rows + 0.7),
        squeeze=False,
        sharey=sharey,
        layout="constrained",
    )
    for axis in axes.flat[count:]:
        axis.remove()
    for axis in axes.flat[:count]:
        axis.tick_params(labelleft=True)
    return figure, list(axes.flat[:count])


def _name_axis(axis: Axes, names: Sequence[str], *, labels: bool = True) -> None:
    """Architectures along x, a faint line between them; their names turned where they would overlap."""
    figure = axis.get_figure()
    columns = axis.get_subplotspec().get_gridspec().ncols
    room = (figure.get_figwidth() / columns - 0.9) / len(names)
    turn = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) * 0.082 > room else {}
    )
    axis.set_xticks(range(len(names)), names if labels else [""] * len(names), fontsize=9, **turn)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)
    axis.tick_params(axis="y", labelsize=9)
    for edge in np.arange(len(names) - 1) + 0.5:
        axis.axvline(edge, color="0.88", linewidth=0.8, zorder=0)


def _legend(
    figure: Figure,
    axes: Sequence[Axes],
    *,
    extra: Mapping[str, object] | None = None,
    rename: Mapping[str, str] | None = None,
    above: float | None = None,
) -> None:
    """One legend under the figure (or above that share of its height) for all its panels: every label once, by its
    name in `rename` where it has one, `extra` at the end."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault((rename or {}).get(label, label), handle)
    # Points (the methods) come first, lines and bands (what they are read against) after them.
    lines = {label for label, h in handles.items() if not (isinstance(h, Line2D) and h.get_marker() != "None")}
    handles = dict(sorted(handles.items(), key=lambda item: item[0] in lines)) | (extra or {})
    _figure_legend(figure, handles.values(), handles, above=above)


def _figure_legend(
    figure: Figure, handles: Iterable[object], labels: Iterable[str], *, above: float | None = None
) -> None:
    """A legend under the figure, or above a share of its height, in as many columns as its width holds."""
    labels = list(labels)
    # 8-point text is some 0.063 inches a letter, a handle with its gaps 0.6.
    for columns in range(len(labels), 0, -1):
        parts = np.array_split(np.array([len(label) for label in labels]), columns)  # as Matplotlib fills them
        if sum(0.6 + 0.063 * part.max() for part in parts) < figure.get_figwidth():
            break
    figure.legend(
        list(handles),
        labels,
        loc="outside lower center" if above is None else "lower center",
        bbox_to_anchor=None if above is None else (0, above, 1, 1),
        ncols=columns,
        frameon=False,
        fontsize=8,
        columnspacing=1.5,
    )


def _seed_lines(axis: Axes, table: pd.DataFrame, column: str, *, colour: str, style: str) -> None:
    """A line a seed over the epochs, with its interval (for drift); several are thin, with their mean."""
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


def _option(key: str, value: object) -> str:
    """A choice as a reader would write it."""
    if key == "q":
        return f"top {float(value):.0%}"
    return _plain(value)


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")


def _reversed_analyses(
    rankings: pd.DataFrame | None, chosen: pd.DataFrame, method: str
) -> tuple[str, np.ndarray] | None:
    """A label, and for each row of `chosen` whether the two methods of `rankings` rank some pair of architectures
    in opposite ways there; None where `method` is not one of the two, or it is nowhere known."""
    if rankings is None or rankings.empty:
        return None
    _require(rankings, "specification_curve (rankings)", [*_CHOICES, "method_a", "method_b", "reversal"])
    table = rankings[(rankings["method_a"] == method) | (rankings["method_b"] == method)].dropna(subset="reversal")
    if table.empty:
        return None
    other = table["method_b"].where(table["method_a"] == method, table["method_a"]).unique()
    opposite = set(table.loc[table["reversal"].astype(bool), list(_CHOICES)].itertuples(index=False, name=None))
    rows = chosen[list(_CHOICES)].itertuples(index=False, name=None)
    label = "against " + ", ".join(METHOD_LABELS.get(name, name) for name in other)
    return label, np.array([row in opposite for row in rows])
