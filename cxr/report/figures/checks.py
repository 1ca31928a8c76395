"""The figure of the checks of maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.report.figures import rows
from cxr.report.figures.areas import SIDES
from cxr.report.figures.style import FONT, WIDTH

CHECKS = {
    "deletion": "a random map,\nits pixels blurred",
    "insertion": "a random map,\nits pixels kept",
    "class": "the map for\nanother class",
    "head": "the map under\na random head",
    "weights": "the map of a\nrandom network",
}
"""By check (`cxr.attribution.map_checks`): the rival, as a panel's title."""
_OFFSETS = {"before": -0.05, "after": 0.05}  # inches
_ROW = 0.42  # inches: a name and two points
_GAP = 0.16  # inches between panels


def map_checks(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Whether maps pass their checks: how much better than its rival each map is, for each check.

    Parameters
    ----------
    table : one row an architecture, method, checkpoint and seed: architecture, method, checkpoint ("before" or
        "after"), seed (or "all seeds"); for each check (CHECKS) its gain in log-odds with the interval, such as
        deletion_gain, deletion_gain_ci_low and deletion_gain_ci_high, and passes_deletion (bool).
    level : of the intervals, for the axis label.

    There is a panel for each check and a row for each network, method and seed, with a point before and one after.
    A filled point passes, a hollow and crossed one fails. Rows in which a map fails a check stand below the
    others, under a heading.
    """
    keys = ["architecture", "method", "seed"]
    passes = [f"passes_{check}" for check in CHECKS]
    good = table[passes].eq(True).all(axis=1)
    each = table.assign(good=good).groupby(keys, sort=False)["good"].all()
    ordered = [*each.index[each], *each.index[~each]]
    failing = int((~each).sum())
    where, y = {}, 0.0
    headings = {}
    for number, key in enumerate(ordered):
        if failing and number in (0, len(ordered) - failing):
            headings[y + 0.2] = rows.HEADINGS["yes" if each[key] else "no"]
            y += rows.HEADING
        where[key] = y + _ROW - 0.12
        y += _ROW
    tall = y + rows.names_height(1)
    title = f"{int(good.sum())} of {len(table)} sets of maps pass all {len(CHECKS)} checks"
    figure = rows.new_figure(0.42 + tall + rows.BELOW, title, width=WIDTH)
    wide = (WIDTH - 0.3 - _GAP * (len(CHECKS) - 1)) / len(CHECKS)
    top = rows.title_height(1) + 0.42
    for number, (check, rival) in enumerate(CHECKS.items()):
        axis = rows.axis_at(figure, 0.15 + number * (wide + _GAP), top, wide, tall)
        axis.set_zorder(len(CHECKS) - number)  # names reach over the panels at the right
        parts = [f"{check}_gain{part}" for part in ("", "_ci_low", "_ci_high")]
        values = table[parts].to_numpy(float)
        axis.set_xlim(1.08 * np.nanmin(values, initial=-0.05), 1.08 * np.nanmax(values, initial=0.1))
        axis.set_title(rival, fontsize=FONT, pad=4)
        axis.axvline(0, color="grey", linestyle="--", linewidth=1, zorder=0)
        axis.locator_params(axis="x", nbins=3)
        for row in table.to_dict("records"):
            _point(axis, row, check, where[tuple(row[key] for key in keys)])
        if number == 0:
            left = axis.get_xlim()[0]
            paper = {"facecolor": "white", "linewidth": 0, "pad": 0}
            for spot, text in headings.items():
                axis.text(left, spot, text, fontsize=FONT, weight="bold", va="bottom", bbox=paper)
            for key, spot in where.items():
                seed = "" if key[2] == "all seeds" else f", seed {key[2]}"
                name = rows.cell_name({"architecture": key[0], "method": key[1]}) + seed
                axis.text(left, spot - 0.12, name, fontsize=FONT, va="bottom", bbox=paper)
            _name_sides(axis, table, parts[0], where, keys)
    label = (
        f"log-odds of the class by which the map is better than …, {100 * level:.0f}\N{NO-BREAK SPACE}% interval"
    )
    style = {"ha": "center", "va": "bottom", "fontsize": FONT}
    middle = 0.07 / figure.get_figheight()
    figure.text(
        0.5, middle, f"{label}\nfurther right: more of a map than its rival; hollow and crossed: fails", **style
    )
    return figure


def _point(axis: Axes, row: Mapping, check: str, y: float) -> None:
    """A point with its interval; "n/a" where there is no gain."""
    colour, y = SIDES[row["checkpoint"]], y + _OFFSETS[row["checkpoint"]]
    gain, low, high = (row[f"{check}_{part}"] for part in ("gain", "gain_ci_low", "gain_ci_high"))
    if np.isnan(gain):
        axis.text(np.mean(axis.get_xlim()), y, "n/a", fontsize=FONT, color=colour, ha="center", va="center")
        return
    axis.plot([low, high], [y, y], color=colour, linewidth=1.3)
    if row[f"passes_{check}"] is True or row[f"passes_{check}"] == 1:
        axis.plot(gain, y, "o", color=colour, markersize=4.5, zorder=3)
    else:
        axis.plot(gain, y, "o", color=colour, markerfacecolor="white", markersize=4.5, zorder=3)
        axis.plot(gain, y, "x", color=colour, markersize=6, zorder=4)


def _name_sides(axis: Axes, table: pd.DataFrame, column: str, where: Mapping, keys: list[str]) -> None:
    """Name the points before and after under the lowest row that has them."""
    lowest = max(where.values())
    found = {}
    for row in table.to_dict("records"):
        spot = where[tuple(row[key] for key in keys)]
        if np.isfinite(row[column]) and spot >= found.get(row["checkpoint"], (0.0, 0.0))[0]:
            found[row["checkpoint"]] = (spot, row[column])
    marks = [(name, SIDES[name], value, spot) for name, (spot, value) in found.items()]
    rows.name_marks(axis, marks, lowest + 0.1)
