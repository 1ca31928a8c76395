"""Figures of the maps of one image, and of the regions in which evidence lies."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.report.figures import areas, rows, sheets
from cxr.report.figures.style import AFTER, BEFORE, COLOURS, FONT, WIDTH

# inches: of the pictures of `overlay`, and the white line between those of `tiles`
_LEFTS, _TOP, _SIDE = (0.05, 1.82, 3.59, 5.5), 0.42, 1.6
_SEAM = 0.0135


def overlay(
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    *,
    title: str = "",
    outline: np.ndarray | None = None,
) -> Figure:
    """An image, its map before, its map after and their difference, side by side.

    Args:
        image: uint8 [h, w].
        before, after: maps [h, w] in [0, 1] (`cxr.metrics.map_grids.prepare`); empty ones (NaN) stay blank and are
            labelled.
        title: of the whole figure.
        outline: bool [h, w], drawn as a contour on the image (the phantom's lesion).

    Both maps are on the scale 0 to 1, the difference on -1 to 1, in every figure. The strongest 20 % of each map
    is outlined on it, and those of both maps on the image.
    """
    tall = _SIDE * image.shape[0] / image.shape[1]
    bottom = _TOP + tall
    figure = plt.figure(figsize=(WIDTH, bottom + 0.75))
    extents = [(left, left + _SIDE, bottom, _TOP) for left in _LEFTS]
    axis = sheets.new_sheet(figure, (_LEFTS[0], _LEFTS[3] + _SIDE, bottom, _TOP))
    names = _draw_maps(axis, extents, image, before, after, outline)
    for left, name, colour in zip(_LEFTS, names, ("black", BEFORE, AFTER, "black"), strict=True):
        style = {"ha": "center", "va": "bottom", "fontsize": FONT, "color": colour}
        axis.text(left + _SIDE / 2, _TOP - 0.07, name, **style)
    for left, scale, label in (
        ((_LEFTS[1] + _LEFTS[2]) / 2, sheets.heat(), "attribution, min-max of each map"),
        (_LEFTS[3], sheets.difference(), "difference"),
    ):
        place = (left, left + _SIDE, bottom + 0.17, bottom + 0.05)
        sheets.colour_bar(sheets.axes_at(figure, place), scale, label)
    below = "outlined: the strongest 20 % of the map before (blue) and after (orange)"
    figure.supxlabel(below, y=0.05 / figure.get_figheight(), va="bottom", fontsize=FONT)
    figure.suptitle(title, y=1 - 0.05 / figure.get_figheight(), va="top", fontsize=9.5, weight="bold")
    return figure


def tiles(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, *, outline: np.ndarray | None = None
) -> Figure:
    """The panels of `overlay` as four square tiles, for MLflow's image grid.

    The grid shrinks a picture to 256 pixels, and a run's page cuts off its lower half. So there are no margins,
    names are inside the tiles, and the maps before and after are in the upper row, image and difference below.
    """
    side, far = 4.5, 2.25
    figure = plt.figure(figsize=(side, side))
    axis = sheets.new_sheet(figure, (0, side, side, 0))
    corners = [(0, far), (0, 0), (far, 0), (far, far)]
    extents = [(left, left + far - _SEAM, top + far, top + _SEAM) for left, top in corners]
    names = _draw_maps(axis, extents, image, before, after, outline)
    box = {"facecolor": "black", "edgecolor": "none", "pad": 2}
    for (left, top), name in zip(corners, names, strict=True):
        axis.text(left + 0.07, top + 0.07, name, va="top", color="white", fontsize=10, bbox=box)
    return figure


def _draw_maps(
    axis: Axes,
    extents: Sequence[sheets.Extent],
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    lesion: np.ndarray | None,
) -> list[str]:
    """Draw the pictures of `overlay` at their places on an axes; returns their names."""
    heat = sheets.heat()
    colours = (
        None,
        heat.to_rgba(before, alpha=0.55),  # an empty map is transparent
        heat.to_rgba(after, alpha=0.55),
        sheets.difference().to_rgba(np.nan_to_num(after - before), alpha=0.7),
    )
    drawn = [sheets.picture(axis, image, *each) for each in zip(extents, colours, strict=True)]
    names = ["image", "before", "after", "after minus before"]
    if lesion is not None and lesion.any():
        areas.contour(lesion, 0.5, drawn[:1], color=COLOURS[4], linewidth=1.2, linestyle="--")
        names[0] = "image, lesion dashed"
    for number, (side, values) in enumerate(zip(areas.SIDES, (before, after), strict=True), start=1):
        names[number] += ": empty map" * (not np.isfinite(values).all())
        areas.outline(values, side, [drawn[0], drawn[number], drawn[3]], width=1.2)
    return names


def regions(summary: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """The share of the evidence inside each region, before and after fine-tuning: a row a cell, a panel a region.

    Parameters
    ----------
    summary : one row an architecture, method and region: architecture, method, region, area (the region's share of
        the image, and so the share of a uniform map), energy_before, energy_after (mean shares of the
        map's sum inside), energy_change (mean of after minus before), energy_change_ci_low,
        energy_change_ci_high.
    level : of the interval of the change, which is drawn about the point after: it includes the point before where
        the change may be none.
    """
    found = list(dict.fromkeys(summary["region"]))
    keys = ["architecture", "method"]
    listed = summary.drop_duplicates(keys)[keys].to_dict("records")
    spots = 0.44 * (np.arange(len(listed)) + 1) - 0.13  # a name and two points
    tall = spots[-1] + 0.1 + rows.names_height(2)
    title = "Right of the dashed mark: more of the evidence lies inside than in a uniform map"
    figure = rows.new_figure(0.25 + tall + rows.BELOW, title, width=WIDTH)
    gap, top = 0.3, rows.title_height(1) + 0.25
    wide = (WIDTH - 0.3 - gap * (len(found) - 1)) / len(found)
    for number, region in enumerate(found):
        axis = rows.axis_at(figure, 0.15 + number * (wide + gap), top, wide, tall)
        axis.set_title(f"inside: {region.replace('_', ' ')}", fontsize=FONT, weight="bold", pad=4)
        cells = summary[summary["region"] == region].set_index(keys)
        reach = cells["energy_before"] + cells["energy_change_ci_high"]
        shares = cells[["area", "energy_before", "energy_after"]].assign(reach=reach)
        axis.set_xlim(0, 1.08 * np.nanmax(shares.to_numpy(float), initial=0) or 1)
        axis.locator_params(axis="x", nbins=4)
        named: dict[str, tuple[str, float, float]] = {}
        for cell, spot in zip(listed, spots, strict=True):
            if number == 0:
                axis.text(0, spot - 0.14, rows.cell_name(cell), fontsize=FONT, va="bottom")
            axis.plot(axis.get_xlim(), [spot, spot], color="0.87", linewidth=0.8, zorder=0)
            key = tuple(cell.values())
            if key in cells.index:
                named |= _region(axis, cells.loc[key], spot)
        if number == 0:
            rows.name_marks(axis, [(text, *values) for text, values in named.items()], spots[-1] + 0.1)
    label = f"mean share of the evidence inside; line: {100 * level:.0f}\N{NO-BREAK SPACE}% interval of the change"
    style = {"ha": "center", "va": "bottom", "fontsize": FONT}
    figure.text(0.5, 0.07 / figure.get_figheight(), f"{label}\nfurther right: more evidence inside", **style)
    return figure


def _region(axis: Axes, cell: pd.Series, y: float) -> dict[str, tuple[str, float, float]]:
    """Draw one cell in one region; returns what its marks are: name to colour, value and height."""
    before, after = cell["energy_before"], cell["energy_after"]
    if not np.isfinite(before + after):
        axis.text(np.mean(axis.get_xlim()), y, "n/a", fontsize=FONT, ha="center", va="center", color="0.35")
        return {}
    axis.plot([cell["area"]] * 2, [y - 0.08, y + 0.08], color="black", linestyle=(0, (1.5, 0.8)), linewidth=1.6)
    ends = [before + cell[f"energy_change_ci_{end}"] for end in ("low", "high")]
    axis.plot(ends, [y + 0.05, y + 0.05], color=AFTER, linewidth=1.4)
    axis.plot(before, y - 0.05, "o", color=BEFORE, markersize=5, zorder=3)
    axis.plot(after, y + 0.05, "o", color=AFTER, markersize=5, zorder=3)
    values = {"a uniform map": ("black", cell["area"]), "before": (BEFORE, before), "after": (AFTER, after)}
    return {name: (colour, value, y) for name, (colour, value) in values.items()}
