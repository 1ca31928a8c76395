"""Figures with a panel for each cell and a row for each group, answer or class."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metrics import baselines
from cxr.metrics.metric_table import METRICS
from cxr.report.figures import rows
from cxr.report.figures.style import AFTER, BASELINES, BEFORE, FONT, METHOD_LABELS, WIDTH, plain

_PITCH = 0.2  # inches: a row
_GAP = 0.3  # inches between panels
_PARTS = ("median", "ci_low", "ci_high")
_TOO_FEW = "hollow: too few patients for an interval"
_LESS = "further right: moved less"


def answers(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Median overlap by answer, beside two patients and two seeds; a panel a cell.

    Parameters
    ----------
    table : one row an architecture, method and answer: architecture, method, answer, n_images, overlap_median,
        overlap_ci_low, overlap_ci_high (NaN: no interval, or no image), and the cell's baselines
        `overlap_two_patients_median` and, where known, `overlap_two_seeds_median`: a line through its panel.
    level : of the intervals, for the axis label.
    """
    order = list(dict.fromkeys(table["answer"]))
    changed = table[table["answer"].isin(["fixed", "broken"])]["overlap_median"]
    kept = table[~table["answer"].isin(["fixed", "broken"])]["overlap_median"]
    title = f"Overlap where the answer changed: {_span(changed)}; where it stayed: {_span(kept)}"
    counts = table.groupby("answer")["n_images"].max()
    names = [f"{answer} ({counts[answer]})" for answer in order]
    known = [key for key in ("two_patients", "two_seeds") if f"overlap_{key}_median" in table]
    label = [f"overlap, {_interval(level)}", _LESS]
    if table["overlap_ci_low"].isna().any():
        label.append(_TOO_FEW)
    grid = Grid(table, names, np.zeros(len(order)), marks=len(known), title=title, label=label)
    for axis, own in grid:
        axis.set_xlim(0, 1)
        own = own.set_index("answer").reindex(order)
        _points(axis, own, "overlap", grid.spots)
        lines = {key: own[f"overlap_{key}_median"].max() for key in known}
        grid.draw_lines(axis, {key: value for key, value in lines.items() if np.isfinite(value)})
    return grid.figure


def groups(
    table: pd.DataFrame, *, metric: str = "overlap", level: float = 0.95, summary: pd.DataFrame | None = None
) -> Figure:
    """Drift of every group: a row a group, its point with the interval; a panel a cell.

    Parameters
    ----------
    table : one row an architecture, method, group and value, with `<metric>_corrected_<part>` or else
        `<metric>_<part>` (part: median, ci_low, ci_high). Points without an interval are hollow: the group has too
        few patients.
    metric : the primary metric.
    level : of the intervals, for the axis label.
    summary : `cxr.report.comparison.pooled`, for the line of two seeds; None: no such line.
    """
    corrected = f"{metric}_corrected_median" in table
    stem = f"{metric}_corrected" if corrected else metric
    keys = list(table.drop_duplicates(["group", "value"])[["group", "value"]].itertuples(index=False, name=None))
    gaps = 0.6 * np.cumsum([k > 0 and row[0] != keys[k - 1][0] for k, row in enumerate(keys)])
    measured = METRICS[metric]
    what = measured.label.split(" (")
    name = what[0].split(" of ")[0].lower() if corrected else what[0]
    unit = [] if corrected or len(what) == 1 else [f"({what[1]}"]
    direction = [_LESS] if corrected or measured.higher_is_more_stable is not None else []
    label = [f"{'corrected ' * corrected}{name}, {_interval(level)}", *unit, *direction]
    if table[f"{stem}_ci_low"].isna().any():
        label.append(_TOO_FEW)
    lines = _baselines(summary, metric, corrected)
    sure = table.dropna(subset=[f"{stem}_ci_low"])
    spread = sure.groupby(["architecture", "method", "group"])[f"{stem}_median"].agg(np.ptp).max()
    title = (
        f"Medians of groups with enough patients differ by up to {spread:.2g}"
        if len(sure)
        else "No group has enough patients"
    )
    names = [f"{_short(group)}{plain(value)}" for group, value in keys]
    grid = Grid(
        table, names, gaps, marks=max(map(len, lines.values()), default=int(corrected)), title=title, label=label
    )
    values = table[[f"{stem}_{part}" for part in _PARTS]].to_numpy(float)
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=0)
    limits = (1.05 * min(low, 0), 1) if measured.identical == 1 else (1.05 * high, 1.05 * min(low, 0))
    for axis, own in grid:
        axis.set_xlim(*limits)
        own = own.set_index(["group", "value"]).reindex(keys)
        _points(axis, own, stem, grid.spots)
        cell = tuple(grid.cell(axis))
        grid.draw_lines(axis, lines.get(cell, {"two_patients": 0.0} if corrected else {}))
    return grid.figure


def _baselines(
    summary: pd.DataFrame | None, metric: str, corrected: bool
) -> dict[tuple[str, str], dict[str, float]]:
    """By cell: two patients and two seeds, on the scale that is drawn."""
    found = {}
    for row in [] if summary is None else summary.to_dict("records"):
        two_patients, two_seeds = (
            row.get(f"{metric}_{key}_median", np.nan) for key in ("two_patients", "two_seeds")
        )
        if corrected:
            two_seeds, two_patients = float(baselines.corrected(two_seeds, two_patients)), 0.0
        values = {"two_patients": two_patients, "two_seeds": two_seeds}
        found[row["architecture"], row["method"]] = {key: v for key, v in values.items() if np.isfinite(v)}
    return found


def consistency(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Consistency before and after fine-tuning by class, with intervals; a panel a cell.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and label (a class or "all classes"), with
        consistency_median, consistency_ci_low, consistency_ci_high. Checkpoints between before and after are
        not drawn.
    level : of the intervals, for the axis label.
    """
    table = table[table["checkpoint"].isin(["before", "after"])]
    labels = list(dict.fromkeys(table["label"]))
    wide = table[table["label"] == "all classes"].pivot(
        index=["architecture", "method"], columns="checkpoint", values="consistency_median"
    )
    title = "Consistency before and after fine-tuning"
    if len(wide) and {"before", "after"} <= set(wide):
        title += f": all classes change by {_span(wide['after'] - wide['before'], sign=True)}"
    label = [f"consistency, {_interval(level)}", "further right: patients' maps agree more"]
    grid = Grid(table, [plain(name) for name in labels], np.zeros(len(labels)), marks=1, title=title, label=label)
    high = np.nanmax(table[[f"consistency_{part}" for part in _PARTS]].to_numpy(float), initial=0.1)
    for number, (axis, own) in enumerate(grid):
        axis.set_xlim(0, min(1.0, 1.08 * high))
        named = []
        for checkpoint, colour, side in (("before", BEFORE, -0.04), ("after", AFTER, 0.04)):
            part = own[own["checkpoint"] == checkpoint].set_index("label").reindex(labels)
            _points(axis, part, "consistency", grid.spots + side, colour=colour, hollow=False)
            last = part["consistency_median"].iloc[-1]
            if np.isfinite(last):
                named.append((checkpoint, colour, last, grid.spots[-1]))
        if number == 0:
            rows.name_marks(axis, named, grid.spots[-1] + 0.08)
    return grid.figure


class Grid:
    """A panel for each cell of a table and a row for each name; iterating draws: an axis and the cell's rows."""

    def __init__(
        self,
        table: pd.DataFrame,
        names: Sequence[str],
        gaps: np.ndarray,
        *,
        marks: int,
        title: str,
        label: Sequence[str],
    ) -> None:
        """names: of the rows. gaps: [rows], extra room above each, in rows. marks: lines that get a name.
        title: of the figure. label: parts of the axes' common label."""
        self._table, self._cells = (
            table,
            list(dict.fromkeys(zip(table["architecture"], table["method"], strict=True))),
        )
        self.spots = _PITCH * (np.arange(len(names)) + 0.6 + np.asarray(gaps))
        self._names = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
        left = 0.2 + rows.LETTER * max(map(len, self._names))
        across = max(1, min(len(self._cells), int((WIDTH - left) / 1.6)))
        wide = (WIDTH - left - 0.15 - _GAP * (across - 1)) / across
        inside = across * (wide + _GAP) - _GAP
        lines = textwrap.wrap("; ".join(label), int(inside / rows.LETTER))
        letters = int(wide / rows.LETTER)
        self._titles = {
            cell: textwrap.wrap(cell[0], letters) + textwrap.wrap(METHOD_LABELS[cell[1]], letters)
            for cell in self._cells
        }
        head = rows.LINE * max(map(len, self._titles.values())) + 0.08
        tall = self.spots[-1] + 0.12 + (rows.names_height(marks - 1) if marks else 0)
        below = 0.34  # the axis' numbers
        down = -(-len(self._cells) // across)
        title = "\n".join(textwrap.wrap(title, 88))
        self.figure = rows.new_figure(
            down * (head + tall + below) + rows.LINE * len(lines) + 0.1, title, width=WIDTH
        )
        style = {"ha": "center", "va": "bottom", "fontsize": FONT}
        middle = (left + inside / 2) / WIDTH
        self.figure.text(middle, 0.07 / self.figure.get_figheight(), "\n".join(lines), **style)
        top = rows.title_height(title.count("\n") + 1)
        self._axes = {}
        for number, cell in enumerate(self._cells):
            x = left + (number % across) * (wide + _GAP)
            y = top + (number // across) * (head + tall + below) + head
            self._axes[cell] = rows.axis_at(self.figure, x, y, wide, tall)
            if number % across == 0:
                self._axes[cell].set_yticks(self.spots, self._names, fontsize=FONT)
                self._axes[cell].tick_params(axis="y", length=0)

    def __iter__(self):
        for cell, axis in self._axes.items():
            own = self._table[(self._table["architecture"] == cell[0]) & (self._table["method"] == cell[1])]
            axis.set_title("\n".join(self._titles[cell]), fontsize=FONT, weight="bold", pad=4)
            yield axis, own
            axis.hlines(self.spots, *axis.get_xlim(), color="0.9", linewidth=0.8, zorder=0)
            axis.locator_params(axis="x", nbins=3)

    def cell(self, axis: Axes) -> tuple[str, str]:
        return next(cell for cell, own in self._axes.items() if own is axis)

    def draw_lines(self, axis: Axes, lines: Mapping[str, float]) -> None:
        """Draw baselines (of BASELINES) as lines through a panel; the first panel names them."""
        end = self.spots[-1] + 0.1
        for key, value in lines.items():
            axis.plot([value, value], [0, end], color=BASELINES[key][1], linewidth=1.4, zorder=1)
        if axis is next(iter(self._axes.values())):
            rows.name_marks(
                axis, [(BASELINES[k][0], BASELINES[k][1], v, end - 0.08) for k, v in lines.items()], end - 0.08
            )


def _points(
    axis: Axes, own: pd.DataFrame, stem: str, y: np.ndarray, *, colour: str = "black", hollow: bool = True
) -> None:
    """A point with its interval for each row; hollow without an interval; "n/a" where there is no value."""
    value, low, high = (own[f"{stem}_{part}"].to_numpy(float) for part in _PARTS)
    sure = np.isfinite(low + high)
    axis.hlines(y[sure], low[sure], high[sure], color=colour, linewidth=1.4, zorder=3)
    filled = sure if hollow else np.isfinite(value)
    style = {"linestyle": "", "marker": "o", "color": colour, "markersize": 4.5, "zorder": 4}
    axis.plot(value[filled], y[filled], **style)
    axis.plot(value[~filled], y[~filled], markerfacecolor="white", **style)
    for spot in y[np.isnan(value)] if hollow else []:
        axis.text(np.mean(axis.get_xlim()), spot, "n/a", fontsize=FONT, color="0.35", ha="center", va="center")


def _short(group: str) -> str:
    """What stands before a value: classes speak for themselves."""
    return "" if group == "label" else f"{plain(group)}: "


def _interval(level: float) -> str:
    return f"{100 * level:.0f}\N{NO-BREAK SPACE}% interval"


def _span(values: pd.Series, *, sign: bool = False) -> str:
    """The lowest and the highest value, as text."""
    values = values.dropna()
    if values.empty:
        return "n/a"
    low, high = (_number(value, sign) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _number(value: float, sign: bool) -> str:
    return f"{value:{'+' if sign else ''}.2f}".replace("-", "\N{MINUS SIGN}")
