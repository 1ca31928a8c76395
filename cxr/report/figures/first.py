"""The first picture of a report: one image before and after, beside the overlap of every cell."""

from __future__ import annotations

import textwrap
from itertools import permutations, product
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.report.figures.areas import outline
from cxr.report.figures.style import AFTER, BASELINES, BEFORE, METHOD_LABELS, PAGE

if TYPE_CHECKING:
    from cxr.report.pictures import Panel

_GROUPS = {
    "yes": "maps pass their checks",
    "not checked": "maps were not checked",
    "no": "maps fail their checks",
}
"""By `map_check`: the heading over the cells, in the order in which they are drawn."""
_MARKS = ("two_patients", "two_seeds", "more_training")
_FONT = 8.0
_LINE = 0.15  # inches: a line of text
_ROW = 0.36  # inches: a cell's name and, below it, its marks
_EDGE = 0.1  # inches
_HEADING = 0.24
_BELOW = 0.62  # inches: the axis' numbers and label
_LETTER = 0.062  # inches: the mean width of a letter
_GREYS = 24  # of the radiograph: with more, the file grows and nobody sees it


def first_picture(panel: Panel | None, summary: pd.DataFrame, *, level: float, synthetic: bool) -> Figure:
    """One image with its maps before and after, and the overlap of every cell between its baselines.

    Parameters
    ----------
    panel : `cxr.report.pictures.median_image`; None: no image is drawn.
    summary : `cxr.report.comparison.pooled`: architecture, method, map_check, overlap_median, overlap_ci_low,
        overlap_ci_high, and where known overlap_two_patients_median, overlap_two_seeds_median,
        overlap_more_training_median.
    level : of the intervals, for the axis label.
    synthetic : whether the images are made by the phantom; the picture then says so.

    Cells whose maps fail their checks are drawn below the others, in grey.
    """
    groups = _groups(summary)
    marks = [name for name in _MARKS if summary.get(f"overlap_{name}_median", pd.Series()).notna().any()]
    message, beside = _message(groups)
    banner = 0.27 if synthetic else 0.0
    top = _EDGE + banner + 0.2 + (_LINE if beside else 0.0) + 0.12
    rows = sum(map(len, groups.values())) * _ROW + _HEADING * len(groups) * (list(groups) != ["yes"])
    right = rows + _LINE * (len(marks) + 1.8) + _BELOW
    longest = max(len(_cell_name(row)) for row in summary.to_dict("records"))
    stacked = right > 2.7 or longest * _LETTER > 2.3
    side = float(np.clip((right - 0.9) / 1.5, 1.9, 2.1)) if stacked else 1.45
    images = 0.0
    if panel is not None:
        lines = len(_caption(panel, side, stacked=stacked))
        images = (1.5 * side + 0.4 if stacked else side + 0.25) + _LINE * lines
    height = top + max(right, images) + 0.05
    figure = plt.figure(figsize=(PAGE, height))
    if synthetic:
        style = {"weight": "bold", "color": "white", "va": "top", "fontsize": _FONT}
        box = {"facecolor": "#A33C00", "linewidth": 0, "pad": 3}
        where = ((_EDGE + 0.05) / PAGE, 1 - (_EDGE + 0.03) / height)
        figure.text(*where, "SYNTHETIC DATA: simulated images, no patients", bbox=box, **style)
    y = _EDGE + banner
    figure.text(_EDGE / PAGE, 1 - y / height, message, va="top", fontsize=9.5, weight="bold")
    figure.text(_EDGE / PAGE, 1 - (y + 0.2) / height, beside, va="top", fontsize=_FONT, color="0.25")
    start = 2 * _EDGE
    if panel is not None:
        _images(figure, panel, top, side, stacked=stacked)
        start = _EDGE + (side if stacked else 3 * side + 0.1) + 0.3
    wide, tall = PAGE - start - 0.2, right - _BELOW
    spare = max(0.0, images - right) / 2
    axis = figure.add_axes((start / PAGE, 1 - (top + spare + tall) / height, wide / PAGE, tall / height))
    _cells(axis, groups, marks, wide=wide, tall=tall)
    label = f"overlap (0 none, 1 identical), median, {100 * level:.0f}\N{NO-BREAK SPACE}% interval"
    label = "\n".join([*textwrap.wrap(label, int((wide + 0.3) / _LETTER)), "further right: moved less"])
    axis.set_xlabel(label, fontsize=_FONT, labelpad=2)
    return figure


def _groups(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The cells by `map_check`, in the order of `_GROUPS`; in each the highest overlap first."""
    ordered = summary.sort_values("overlap_median", ascending=False, na_position="last", kind="stable")
    found = {name: ordered[ordered["map_check"] == name] for name in _GROUPS}
    return {name: rows for name, rows in found.items() if len(rows)}


def _message(groups: dict[str, pd.DataFrame]) -> tuple[str, str]:
    """What the picture shows, in one sentence, and what to compare it with."""
    name, rows = next(iter(groups.items()))
    if rows["overlap_median"].isna().all():
        return "Every pair of maps has an empty map: there is no overlap before and after fine-tuning", ""
    overlap = _range(rows["overlap_median"])
    beside = [
        f"{_name(key)}: {_range(rows[f'overlap_{key}_median'])}"
        for key in _MARKS
        if f"overlap_{key}_median" in rows and rows[f"overlap_{key}_median"].notna().any()
    ]
    if name == "no":
        return f"No maps pass their checks (overlap before and after fine-tuning: {overlap})", "; ".join(beside)
    return f"Before and after fine-tuning, the strongest 20 % overlap by {overlap}", "; ".join(beside)


def _name(baseline: str) -> str:
    """The name of a baseline, without what stands in brackets."""
    return BASELINES[baseline][0].split(" (")[0]


def _range(values: pd.Series) -> str:
    """The lowest and the highest value, as text."""
    low, high = (f"{value:.2f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _images(figure: Figure, panel: Panel, top: float, side: float, *, stacked: bool) -> None:
    """The image with its map before, its map after and both outlines; `top` and `side` in inches."""
    high = figure.get_figheight()
    small = (side - 0.06) / 2 if stacked else side
    first = top + _LINE + 0.03
    second = first + side + _LINE + 0.06 if stacked else first
    spots = {
        "both": (_EDGE if stacked else _EDGE + 2 * (side + 0.05), first, side),
        "before": (_EDGE, second, small),
        "after": (_EDGE + small + (0.06 if stacked else 0.05), second, small),
    }
    step = 255 / (_GREYS - 1)
    grey = np.rint(np.rint(panel.image / step) * step)
    for name, (x, y, wide) in spots.items():
        axis = figure.add_axes((x / PAGE, 1 - (y + wide) / high, wide / PAGE, wide / high))
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.axis("off")
        for part in ("before", "after") if name == "both" else (name,):
            values = getattr(panel, part)
            if name != "both":
                axis.imshow(
                    np.round(values, 1), cmap="inferno", vmin=0, vmax=1, alpha=0.5, interpolation="nearest"
                )
            outline(axis, values, part, width=1.6)
        if name == "both":
            axis.set_title(f"both: overlap {panel.overlap:.2f}", fontsize=_FONT, weight="bold", pad=3)
            if panel.map_check == "no":
                box = {"facecolor": "black", "alpha": 0.7, "linewidth": 0, "pad": 2}
                style = {"ha": "center", "va": "bottom", "color": "white", "fontsize": _FONT, "bbox": box}
                axis.text(0.5, 0.03, "maps fail their checks", transform=axis.transAxes, **style)
        else:
            colour = BEFORE if name == "before" else AFTER
            axis.set_title(name, fontsize=_FONT, color=colour, weight="bold", pad=3)
    below = second + small + 0.05
    text = "\n".join(_caption(panel, side, stacked=stacked))
    figure.text(_EDGE / PAGE, 1 - below / high, text, va="top", fontsize=_FONT, color="0.25")


def _caption(panel: Panel, side: float, *, stacked: bool) -> list[str]:
    """The lines below the images: what is outlined, whose maps these are, and which image it is."""
    name = panel.image_id if len(panel.image_id) <= 32 else f"…{panel.image_id[-31:]}"
    texts = (
        "outlined: the strongest 20\N{NO-BREAK SPACE}%",
        f"{panel.architecture}, {METHOD_LABELS[panel.method]}, seed\N{NO-BREAK SPACE}{panel.seed}",
        f"the median image: {name}, {panel.label}",
    )
    letters = int((side if stacked else 3 * side + 0.1) / _LETTER)
    return [line for text in texts for line in textwrap.wrap(text, letters, break_on_hyphens=False)]


def _cells(axis: Axes, groups: dict[str, pd.DataFrame], marks: list[str], *, wide: float, tall: float) -> None:
    """A row for each cell, with a heading for each group and a name for each mark; y in inches from the top."""
    axis.set(xlim=(0, 1), ylim=(tall, 0), yticks=[])
    axis.tick_params(axis="x", labelsize=_FONT)
    axis.spines[["top", "left", "right"]].set_visible(False)
    y = 0.0
    for number, (group, rows) in enumerate(groups.items()):
        colour = "0.45" if group == "no" else "black"
        if list(groups) != ["yes"]:
            axis.text(0, y + 0.2, _GROUPS[group], fontsize=_FONT, weight="bold", color=colour, va="bottom")
            y += _HEADING
        spots = {}
        for row in rows.to_dict("records"):
            spot = y + _ROW - 0.1
            _cell(axis, row, marks, spot, colour)
            spots[spot] = row
            y += _ROW
        if number == 0:
            _name_marks(axis, spots, marks, y, wide)
            y += _LINE * (len(marks) + 1.8)


def _cell_name(row: dict) -> str:
    return f"{row['architecture']}, {METHOD_LABELS[row['method']]}"


def _cell(axis: Axes, row: dict, marks: list[str], y: float, colour: str) -> None:
    """The name of a cell, its point with the interval, and the marks of its baselines."""
    axis.text(0, y - 0.1, _cell_name(row), fontsize=_FONT, color=colour, va="bottom")
    axis.plot([0, 1], [y, y], color="0.87", linewidth=0.8, zorder=0)
    faint = 1.0 if colour == "black" else 0.45
    for key in marks:
        spot = row[f"overlap_{key}_median"]
        axis.plot([spot, spot], [y - 0.07, y + 0.07], color=BASELINES[key][2], linewidth=2.6, alpha=faint)
    value = row["overlap_median"]
    if np.isnan(value):
        axis.text(0.5, y, "n/a: empty maps", fontsize=_FONT, ha="center", va="center", color=colour)
        return
    axis.plot([row["overlap_ci_low"], row["overlap_ci_high"]], [y, y], color=colour, linewidth=1.4, zorder=3)
    axis.plot(value, y, "o", color=colour, markersize=5, zorder=4)


def _name_marks(axis: Axes, spots: dict[float, dict], marks: list[str], y: float, wide: float) -> None:
    """Name the point and each mark below the lowest row that has it, each on a line of its own."""
    names = {"overlap_median": ("before and after", "black")}
    names |= {f"overlap_{key}_median": (_name(key), BASELINES[key][2]) for key in marks}
    known = {
        column: [(spot, row[column]) for spot, row in spots.items() if pd.notna(row[column])] for column in names
    }
    names = {column: name for column, name in names.items() if known[column]}
    values = [known[column][-1][1] for column in names]
    widths = [(len(text) * _LETTER + 0.08) / wide for text, _ in names.values()]
    for (column, (text, colour)), (line, left) in zip(names.items(), _places(values, widths), strict=True):
        spot, value = known[column][-1]
        height = y + _LINE * (line + 0.8)
        axis.plot([value, value], [spot + 0.08, height], color=colour, linewidth=0.7)
        style = {"ha": "right" if left else "left", "va": "center", "fontsize": _FONT, "color": colour}
        axis.text(value + (-0.03 if left else 0.03) / wide, height, text, **style)


def _places(values: list[float], widths: list[float]) -> list[tuple[int, bool]]:
    """For names under marks at `values` (0 to 1), the line of each, and whether it stands left of its mark.

    A name crosses no mark's line that leads further down, and keeps inside 0 to 1. Where that cannot be, it is the
    arrangement with the fewest faults.
    """
    count = range(len(values))
    best, fewest = [(line, value > 0.5) for line, value in zip(count, values, strict=True)], np.inf
    for lines in permutations(count):
        for sides in product((True, False), repeat=len(values)):
            faults = 0
            for own in count:
                value, width = values[own], widths[own]
                low, high = (value - width, value) if sides[own] else (value, value + width)
                deeper = [values[k] for k in count if lines[k] > lines[own]]
                faults += (low < 0) + (high > 1) + sum(low - 0.01 < spot < high + 0.01 for spot in deeper)
            if faults < fewest:
                best, fewest = list(zip(lines, sides, strict=True)), faults
    return best
