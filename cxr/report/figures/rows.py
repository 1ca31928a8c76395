"""Cells as rows: the name of each, its point with the interval, and the marks of its baselines with their names.

The axis of such rows has inches from the top as y, so that texts keep their distances whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.style import BASELINES, FONT, METHOD_LABELS

HEADINGS = {
    "yes": "maps pass their checks",
    "not checked": "maps were not checked",
    "no": "maps fail their checks",
}
"""By `map_check`: the heading over the cells, in the order in which they are drawn."""
LINE = 0.15  # inches: a line of text
LETTER = 0.062  # inches: the mean width of a letter
HEADING = 0.24  # inches
ROW = 0.36  # inches: a cell's name and, below it, its marks
BELOW = 0.62  # inches: the axis' numbers and label
_FAILED = "0.45"


def grouped(summary: pd.DataFrame, column: str, *, falling: bool = True) -> dict[str, pd.DataFrame]:
    """The cells by `map_check`, in the order of HEADINGS; in each the greatest value of `column` first.

    With `falling=False` the lowest comes first. Without a column `map_check` all cells are in one group, "yes".
    """
    table = summary if "map_check" in summary else summary.assign(map_check="yes")
    ordered = table.sort_values(column, ascending=not falling, na_position="last", kind="stable")
    found = {name: ordered[ordered["map_check"] == name] for name in HEADINGS}
    return {name: rows for name, rows in found.items() if len(rows)}


def has_headings(groups: Mapping[str, pd.DataFrame]) -> bool:
    return list(groups) != ["yes"]


def known(summary: pd.DataFrame, metric: str, baselines: Sequence[str]) -> list[str]:
    """Those of `baselines` that some cell has for this metric."""
    columns = {key: f"{metric}_{key}_median" for key in baselines}
    return [key for key, column in columns.items() if column in summary and summary[column].notna().any()]


def names_height(marks: int) -> float:
    """Inches that the names of a point and of `marks` marks need."""
    return LINE * (marks + 1.8)


def height(groups: Mapping[str, pd.DataFrame], marks: int) -> float:
    """Inches of all rows, their headings, and the names of `marks` marks; without the axis' numbers and label."""
    rows = sum(map(len, groups.values())) * ROW + HEADING * len(groups) * has_headings(groups)
    return rows + names_height(marks)


def axis_at(figure: Figure, x: float, y: float, wide: float, tall: float) -> Axes:
    """An axes whose place and size are in inches from the left and from the top; its y are inches from its top."""
    across, high = figure.get_size_inches()
    axis = figure.add_axes((x / across, 1 - (y + tall) / high, wide / across, tall / high))
    axis.set(ylim=(tall, 0), yticks=[])
    axis.patch.set_visible(False)  # the name of a row may reach into the panel at the right
    axis.tick_params(axis="x", labelsize=FONT)
    axis.spines[["top", "left", "right"]].set_visible(False)
    return axis


def cell_name(row: Mapping) -> str:
    """Network and method; the method alone where the network has no name."""
    return ", ".join(filter(None, (row["architecture"], METHOD_LABELS[row["method"]])))


def cells(
    axis: Axes,
    groups: Mapping[str, pd.DataFrame],
    stem: str,
    marks: Mapping[str, str],
    *,
    named: bool = True,
    intervals: bool = False,
    point: str = "before and after",
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw a row for each cell into an axis of `axis_at`, whose limits along x are set.

    Args:
        groups: of `grouped`.
        stem: of the columns `<stem>_median`, `<stem>_ci_low` and `<stem>_ci_high` of the points.
        marks: baselines (of BASELINES) and the stems of their columns.
        named: whether cells and marks are named; not in a panel to the right of one that names them.
        intervals: whether the baselines' intervals are drawn: a thin line at the end of the mark.
        point: what the points are; "" names neither points nor marks, and leaves no room for names.
        names: by baseline, where it is not that of BASELINES.
    """
    y = 0.0
    for number, (group, rows) in enumerate(groups.items()):
        colour = _FAILED if group == "no" else "black"
        if has_headings(groups):
            if named:
                axis.text(
                    _left(axis), y + 0.2, HEADINGS[group], fontsize=FONT, weight="bold", color=colour, va="bottom"
                )
            y += HEADING
        spots = {}
        for row in rows.to_dict("records"):
            spot = y + ROW - 0.1
            if named:
                axis.text(_left(axis), spot - 0.1, cell_name(row), fontsize=FONT, color=colour, va="bottom")
            _cell(axis, row, stem, marks, spot, colour, intervals=intervals)
            spots[spot] = row
            y += ROW
        if number == 0 and point:
            if named:
                shown = {f"{stem}_median": (point, "black")}
                shown |= {
                    f"{own}_median": ((names or {}).get(key, BASELINES[key][0]), BASELINES[key][1])
                    for key, own in marks.items()
                }
                found = {
                    column: [(spot, row[column]) for spot, row in spots.items() if pd.notna(row[column])]
                    for column in shown
                }
                last = [
                    (*shown[column], values[-1][1], values[-1][0]) for column, values in found.items() if values
                ]
                name_marks(axis, last, y)
            y += names_height(len(marks))


def _left(axis: Axes) -> float:
    return axis.get_xlim()[0]


def _cell(
    axis: Axes, row: Mapping, stem: str, marks: Mapping[str, str], y: float, colour: str, *, intervals: bool
) -> None:
    axis.plot(axis.get_xlim(), [y, y], color="0.87", linewidth=0.8, zorder=0)
    faint = 1.0 if colour == "black" else 0.45
    for number, (key, own) in enumerate(marks.items()):
        style = {"color": BASELINES[key][1], "alpha": faint}
        axis.plot([row[f"{own}_median"]] * 2, [y - 0.07, y + 0.07], linewidth=2.6, **style)
        if intervals:
            ends = [row.get(f"{own}_{end}", np.nan) for end in ("ci_low", "ci_high")]
            edge = y + (0.07 if number % 2 else -0.07)  # bands of neighbours overlap: every other one lies above
            axis.plot(ends, [edge, edge], linewidth=1.2, **style)
    value = row[f"{stem}_median"]
    if np.isnan(value):
        middle = {"ha": "center", "va": "center", "color": colour}
        axis.text(np.mean(axis.get_xlim()), y, "n/a: empty maps", fontsize=FONT, **middle)
        return
    axis.plot([row[f"{stem}_ci_low"], row[f"{stem}_ci_high"]], [y, y], color=colour, linewidth=1.4, zorder=3)
    axis.plot(value, y, "o", color=colour, markersize=5, zorder=4)


def name_marks(axis: Axes, marks: Sequence[tuple[str, str, float, float]], y: float) -> None:
    """Name marks below the height `y`, each on a line of its own, with a line that leads up to it.

    marks: name, colour, value and the height at which the mark stands.
    """
    low, high = axis.get_xlim()
    wide = axis.get_position().width * axis.get_figure().get_figwidth()
    shares = [(value - low) / (high - low) for _, _, value, _ in marks]
    widths = [(len(text) * LETTER + 0.08) / wide for text, *_ in marks]
    for (text, colour, value, spot), (line, left) in zip(marks, places(shares, widths), strict=True):
        end = y + LINE * (line + 0.8)
        axis.plot([value, value], [spot + 0.08, end], color=colour, linewidth=0.7)
        style = {"ha": "right" if left else "left", "va": "center", "fontsize": FONT, "color": colour}
        axis.text(value + (high - low) * (-0.03 if left else 0.03) / wide, end, text, **style)


def places(values: Sequence[float], widths: Sequence[float]) -> list[tuple[int, bool]]:
    """For names under marks at `values` (0 to 1), the line of each, and whether it stands left of its mark.

    No name crosses a line that leads to a name further down, or leaves 0 to 1, where that can be. Names to the
    left of their marks go down from left to right, those to the right from right to left; of all ways to split
    them the one with the fewest faults is taken.
    """
    rising = list(np.argsort(values, kind="stable"))
    best: list[tuple[int, bool]] = []
    fewest = np.inf
    for split in range(len(values) + 1):
        rightwards, leftwards = rising[:split][::-1], rising[split:]
        for order in (rightwards + leftwards, leftwards + rightwards):
            lines = {own: line for line, own in enumerate(order)}
            faults = 0.0
            for own in order:
                left = own in leftwards
                low, high = (
                    (values[own] - widths[own], values[own]) if left else (values[own], values[own] + widths[own])
                )
                deeper = [values[k] for k in order if lines[k] > lines[own]]
                beyond = max(0.0, -low) + max(0.0, high - 1)  # a tenth of the width is as bad as a line crossed
                faults += 10 * beyond + sum(low - 0.01 < spot < high + 0.01 for spot in deeper)
            if faults < fewest:
                best, fewest = [(lines[own], own in leftwards) for own in range(len(values))], faults
    return best


def panel(
    figure: Figure,
    groups: Mapping[str, pd.DataFrame],
    metric: str,
    marks: Sequence[str],
    *,
    at: tuple[float, float],
    size: tuple[float, float],
    level: float,
    named: bool,
    point: str,
    names: Mapping[str, str] | None = None,
) -> Axes:
    """Draw one metric of all cells: an axis on which further right always means that the evidence moved less."""
    axis = axis_at(figure, *at, *size)
    measured = METRICS[metric]
    stems = {key: f"{metric}_{key}" for key in marks}
    table = pd.concat(groups.values())
    columns = [f"{stem}_{part}" for stem in (metric, *stems.values()) for part in ("median", "ci_low", "ci_high")]
    values = table[[column for column in columns if column in table]].to_numpy(float)
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=0)
    if measured.higher_is_more_stable:
        axis.set_xlim(min(0, 1.05 * low), 1)
    elif measured.higher_is_more_stable is False:
        axis.set_xlim(1.05 * high or 1, 0)
    else:
        axis.set_xlim(1.1 * min(low, -0.05), 1.1 * max(high, 0.05))
    cells(axis, groups, metric, stems, named=named, intervals=True, point=point, names=names)
    label = measured.label.split(" (")
    unit = f"({label[1]}" if len(label) > 1 and not measured.higher_is_more_stable else ""
    lines = [label[0], *([unit] if unit else []), f"median, {100 * level:.0f}\N{NO-BREAK SPACE}% interval"]
    if measured.higher_is_more_stable is not None:
        lines += [f"further right: moved less ({measured.identical:g}: identical)"]
    axis.set_xlabel("\n".join(lines), fontsize=FONT, labelpad=2)
    return axis


def new_figure(height: float, title: str, *, width: float) -> Figure:
    """A figure with its title at the upper left; `height` in inches below the title."""
    lines = title.count("\n") + 1
    figure = plt.figure(figsize=(width, height + title_height(lines)))
    figure.text(0.1 / width, 1 - 0.1 / figure.get_figheight(), title, va="top", fontsize=9.5, weight="bold")
    return figure


def title_height(lines: int) -> float:
    return 0.2 + 0.19 * lines
