"""Figures of how far the evidence moved, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.example_images import ExampleGrid
from cxr.report.figures.layout import arrange, make_panels, name_axis, shared_legend
from cxr.report.figures.marks import bands, dots
from cxr.report.figures.style import BASELINES, COLOURS, WIDTH, wrapped


def drift_by_class(table: pd.DataFrame, metrics: Sequence[str], *, title: str = "") -> Figure:
    """Per-image values of `metrics` by class: a box (median, quartiles), whiskers at 5 and 95 %, a point an image.

    `table` has a row an image, with `label` and the metrics. The dashed line is the value of two identical maps.
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
        axis.set(ylabel=wrapped(METRICS[name].label), xlabel="class")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


def drift(summary: pd.DataFrame, metrics: Sequence[str], *, level: float = 0.95) -> Figure:
    """Median drift by architecture and method, with bootstrap intervals, one panel a metric.

    Parameters
    ----------
    summary : one row an architecture and method: architecture, method, and for each metric `<name>_median`,
        `<name>_ci_low`, `<name>_ci_high`. Optional baselines, each with `_median`, `_ci_low` and `_ci_high`, are
        drawn as bands behind the point of their cell: `<name>_two_patients` (the map before of one patient against
        the map after of another of the same class), `<name>_two_heads` (heads of two seeds), `<name>_two_seeds`
        (fine-tuned checkpoints of two seeds), `<name>_more_training` (the checkpoint after, and the same after as
        many epochs again). `<name>_chance_median` (independent maps) is a dotted line.
    metrics : names in `cxr.metrics.metric_table.METRICS`.
    level : of the intervals, for the axis label.
    """
    names, methods, cells, slot = arrange(summary)
    figure, axes = make_panels(len(metrics), names, methods)
    for axis, metric in zip(axes, metrics, strict=True):
        _drift_panel(axis, cells, metric, slot, level=level)
        name_axis(axis, names)
    shared_legend(figure, axes)
    return figure


def _drift_panel(axis: Axes, cells: pd.DataFrame, metric: str, slot: float, *, level: float) -> None:
    """One metric of `drift`: the baselines, identical maps, and each cell's point."""
    bands(axis, cells, metric, slot)
    identical = METRICS[metric].identical
    axis.axhline(identical, color="grey", linestyle="--", linewidth=1, label="identical maps")
    dots(axis, cells, f"{metric}_median", f"{metric}_ci_low", f"{metric}_ci_high")
    axis.set_ylabel(f"{wrapped(METRICS[metric].label)}\nmedian, {level:.0%} interval")


def pair(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    panels: Sequence[Mapping[str, object]],
    *,
    title: str = "",
    level: float = 0.95,
) -> Figure:
    """The drift between two models, before (A) and after (B), as in `drift`; below it examples, as in `examples`.

    Parameters
    ----------
    summary, metrics, level : as for `drift`, of one architecture (the pair) and its methods. `<name>_two_heads`
        compares A with models that differ from it by their seed, `<name>_two_seeds` B likewise.
    panels : as for `examples`, with A's map as before and B's as after; without any, nothing is drawn below.
    title : of the whole figure.
    """
    _, methods, cells, slot = arrange(summary)
    block = ExampleGrid.of(panels) if panels else None
    above, legend, below = 3.6, 0.5 if len(methods) < 4 else 0.7, block.height if block else 0.0
    high = above + legend + below
    figure = plt.figure(figsize=(WIDTH, high))
    figure.set_layout_engine("constrained", rect=(0, (legend + below) / high, 1, above / high))
    axes = list(figure.subplots(1, len(metrics), squeeze=False)[0])
    for axis, metric in zip(axes, metrics, strict=True):
        _drift_panel(axis, cells, metric, slot, level=level)
        axis.set_xticks([])  # the legend names the methods
        axis.set_xlim(-0.7 * slot * len(methods), 0.7 * slot * len(methods))
    ours = {BASELINES[key][0]: f"two seeds of {model}" for key, model in (("two_heads", "A"), ("two_seeds", "B"))}
    ours[BASELINES["two_patients"][0]] = "two patients"
    shared_legend(figure, axes, rename=ours, above=below / high)
    if block:
        block.draw(figure, at=((WIDTH - block.width) / 2, above + legend), names=("A", "B"))
    figure.suptitle(title, fontsize=10)
    return figure


def corrected(index: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """The corrected overlap by architecture and method.

    Parameters
    ----------
    index : one row an architecture and method: architecture, method, corrected, ci_low, ci_high. 0: no more
        overlap than two patients have; 1: identical maps.
    level : of the intervals, for the axis label.
    """
    names, methods, cells, _ = arrange(index)
    figure, (axis,) = make_panels(1, names, methods)
    axis.axhline(0, color="grey", linestyle=":", linewidth=1.2, label="0: two patients")
    axis.axhline(1, color="grey", linestyle="--", linewidth=1, label="1: identical maps")
    dots(axis, cells, "corrected", "ci_low", "ci_high")
    axis.set_ylabel(f"corrected overlap,\n{level:.0%} interval")
    name_axis(axis, names)
    shared_legend(figure, [axis])
    return figure
