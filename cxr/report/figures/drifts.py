"""Figures of how far the evidence moved, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.metrics.metric_table import METRICS
from cxr.report.figures import rows
from cxr.report.figures.example_images import ExampleGrid
from cxr.report.figures.style import BASELINES, COLOURS, FONT, WIDTH, plain, wrapped

_MARKS = tuple(BASELINES)
_EDGE = 0.1  # inches
_LABEL = 0.85  # inches: an axis' numbers and its label of four lines


def drift_by_class(table: pd.DataFrame, metrics: Sequence[str], *, title: str = "") -> Figure:
    """Per-image values of `metrics` by class: a box (median, quartiles), whiskers at 5 and 95 %, a point an image.

    `table` has a row an image, with `label` and the metrics. Dashed: identical maps. In
    every panel, further right means that the evidence moved less.
    """
    classes = sorted(table["label"].unique())
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(WIDTH, 1.5 + 0.32 * len(classes)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    rng = np.random.default_rng(0)
    for axis, name in zip(axes[0], metrics, strict=True):
        groups = [table.loc[table["label"] == label, name].dropna().to_numpy() for label in classes]
        style = {"medianprops": {"color": COLOURS[1], "linewidth": 1.6}, "showfliers": False, "widths": 0.6}
        axis.boxplot(groups, whis=(5, 95), orientation="horizontal", **style)
        for position, values in enumerate(groups, start=1):
            jitter = rng.uniform(-0.2, 0.2, len(values))
            axis.plot(values, position + jitter, ".", color=COLOURS[0], alpha=0.35, markersize=4)
        axis.axvline(METRICS[name].identical, color="grey", linestyle="--", linewidth=1)
        axis.set_xlabel(wrapped(METRICS[name].label), fontsize=FONT)
        axis.tick_params(labelsize=FONT)
        if METRICS[name].higher_is_more_stable is False:
            axis.invert_xaxis()
    axes[0][0].set_yticks(range(1, len(classes) + 1), [plain(label) for label in classes], fontsize=FONT)
    axes[0][0].invert_yaxis()
    message = "Further right: moved less; dashed: identical maps"
    figure.suptitle(f"{title}\n{message}" if title else message, fontsize=9.5, weight="bold")
    return figure


def drift(summary: pd.DataFrame, metrics: Sequence[str], *, level: float = 0.95) -> Figure:
    """Median drift by architecture and method, with bootstrap intervals, one panel a metric.

    Parameters
    ----------
    summary : one row an architecture and method: architecture, method, and for each metric `<name>_median`,
        `<name>_ci_low`, `<name>_ci_high`. Optional baselines, each with `_median`, `_ci_low` and `_ci_high`, are
        marks beside the point of their cell: `<name>_two_patients` (the map before of one patient against
        the map after of another of the same class), `<name>_two_heads` (heads of two seeds), `<name>_two_seeds`
        (fine-tuned checkpoints of two seeds), `<name>_more_training` (the checkpoint after, and the same after as
        many epochs again), `<name>_chance` (independent maps). With `map_check` (of `comparison.pooled`), cells
        whose maps fail their checks are drawn below the others, in grey.
    metrics : names in `cxr.metrics.metric_table.METRICS`; cells are sorted by the first.
    level : of the intervals, for the axis label.

    In every panel, further right means that the evidence moved less.
    """
    groups = rows.grouped(summary, f"{metrics[0]}_median", falling=METRICS[metrics[0]].identical == 1)
    tall = rows.height(groups, len(_all_marks(summary, metrics)))
    title = _message(_all_marks(summary, metrics))
    figure = rows.new_figure(tall + _LABEL + 0.05, title, width=WIDTH)
    _draw(figure, groups, metrics, top=rows.title_height(1) + 0.05, tall=tall, level=level)
    return figure


def _all_marks(summary: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """The baselines that are drawn: those of the first metric."""
    return rows.known(summary, metrics[0], _MARKS)


def _message(marks: Sequence[str], *, seeds: str = "two seeds") -> str:
    """How to read the drift beside its nearest baseline."""
    if "two_seeds" in marks:
        return f"Left of “{seeds}”: the evidence moved further than another seed moves it"
    if "two_patients" in marks:
        return "Right of “two patients”: the maps share more than two patients do"
    return "Further right: the evidence moved less"


def _draw(
    figure: Figure,
    groups: Mapping[str, pd.DataFrame],
    metrics: Sequence[str],
    *,
    top: float,
    tall: float,
    level: float,
    point: str = "before and after",
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw a panel for each metric, side by side; `top` and `tall` in inches."""
    gap = 0.3
    wide = (WIDTH - 2.5 * _EDGE - gap * (len(metrics) - 1)) / len(metrics)
    for number, metric in enumerate(metrics):
        rows.panel(
            figure,
            groups,
            metric,
            rows.known(pd.concat(groups.values()), metric, _all_marks(pd.concat(groups.values()), metrics)),
            at=(_EDGE + number * (wide + gap), top),
            size=(wide, tall),
            level=level,
            named=number == 0,
            point=point,
            names=names,
        )


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
    title : the models and the number of images, below what the figure says.
    """
    table = summary.assign(architecture="")  # the title names the models
    groups = rows.grouped(table, f"{metrics[0]}_median", falling=METRICS[metrics[0]].identical == 1)
    marks = _all_marks(summary, metrics)
    tall = rows.height(groups, len(marks))
    block = ExampleGrid.of(panels) if panels else None
    message = _message(marks, seeds="two seeds of B")
    above = rows.title_height(2)
    figure = rows.new_figure(tall + _LABEL + (block.height + 0.1 if block else 0) + 0.19, message, width=WIDTH)
    figure.text(_EDGE / WIDTH, 1 - 0.3 / figure.get_figheight(), title, va="top", fontsize=FONT, color="0.25")
    names = {"two_heads": "two seeds of A", "two_seeds": "two seeds of B"}
    _draw(figure, groups, metrics, top=above, tall=tall, level=level, point="A and B", names=names)
    if block:
        block.draw(figure, at=((WIDTH - block.width) / 2, above + tall + _LABEL + 0.1), names=("A", "B"))
    return figure
