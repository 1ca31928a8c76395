"""Figures of the maps of one image, and of the regions in which evidence lies."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from cxr.report.figures.layout import arrange, fit_columns, name_axis, shared_legend
from cxr.report.figures.marks import dots, mark_missing
from cxr.report.figures.style import COLOURS, WIDTH, method_style


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

    The grid shrinks a picture to 256 pixels, and a run's page cuts off its lower half. So there are no margins,
    names are inside the tiles, and the maps before and after are in the upper row, image and difference below.
    """
    figure = plt.figure(figsize=(6, 6))
    where = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 0)]
    axes = [figure.add_axes((*corner, 0.497, 0.497)) for corner in where]
    names, *_ = _draw_maps(axes, image, before, after, outline)
    box = {"facecolor": "black", "edgecolor": "none", "pad": 2}
    for axis, name in zip(axes, names, strict=True):
        axis.set_aspect("auto")  # fills the tile, also for an image that is not square
        axis.text(0.03, 0.97, name, transform=axis.transAxes, va="top", color="white", fontsize=13, bbox=box)
    return figure


def _draw_maps(
    axes: Sequence[Axes], image: np.ndarray, before: np.ndarray, after: np.ndarray, outline: np.ndarray | None
) -> tuple[list[str], AxesImage, AxesImage]:
    """Draw the pictures of `overlay`; returns their names, and a map and the difference for colour bars."""
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


def regions(summary: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """The share of the evidence inside each region, before and after fine-tuning, and the change.

    Parameters
    ----------
    summary : one row an architecture, method and region: architecture, method, region, area (the region's share of
        the image, and so the share of a uniform map), energy_before, energy_after (mean shares of the
        map's sum inside), energy_change (mean of after minus before), energy_change_ci_low,
        energy_change_ci_high.
    level : of the intervals, for the axis label.
    """
    change = ["energy_change", "energy_change_ci_low", "energy_change_ci_high"]
    found = list(dict.fromkeys(summary["region"]))
    names, methods = (list(dict.fromkeys(summary[column])) for column in ("architecture", "method"))
    columns, width = fit_columns(len(found), len(names) * len(methods))
    blocks = -(-len(found) // columns)
    size = (min(WIDTH, max(columns * width, 4.5)), 4.6 * blocks + 0.7)
    figure, grid = plt.subplots(
        2 * blocks, columns, figsize=size, height_ratios=[3, 2] * blocks, squeeze=False, layout="constrained"
    )
    used = []
    for number, region in enumerate(found):
        upper, lower = (grid[2 * (number // columns) + row, number % columns] for row in (0, 1))
        _, _, cells, slot = arrange(summary[summary["region"] == region], names, methods)
        x = cells["x"].to_numpy()
        areas = cells["area"].to_numpy(float)
        ends = (x - 0.46 * slot, x + 0.46 * slot)
        upper.hlines(areas, *ends, color="black", linestyle=(0, (2, 1)), linewidth=1.2, label="a uniform map")
        for method, part in cells.groupby(level="method", sort=False):
            colour, marker = method_style(method)
            before, after = (part[f"energy_{name}"].to_numpy(float) for name in ("before", "after"))
            spots = part["x"].to_numpy()
            for spot, start, stop in zip(spots, before, after, strict=True):
                if np.isfinite(start + stop):
                    arrow = {"arrowstyle": "->", "color": colour, "shrinkA": 2, "shrinkB": 1, "linewidth": 1.2}
                    upper.annotate("", (spot, stop), (spot, start), arrowprops=arrow)
                else:
                    mark_missing(upper, spot)
            upper.plot(spots, before, marker, color=colour, markerfacecolor="white", markersize=5)
            upper.plot(spots, after, marker, color=colour, markersize=5)
        lower.axhline(0, color="grey", linestyle="--", linewidth=1)
        dots(lower, cells, *change)
        tallest = np.nanmax(cells[["area", "energy_before", "energy_after"]].to_numpy(float), initial=0)
        upper.set_ylim(0, 1.12 * tallest or 1)
        upper.set_title(region, fontsize=10)
        upper.set_ylabel("mean share of the\nevidence inside", fontsize=9)
        lower.set_ylabel(f"change (after\n\N{MINUS SIGN} before), {level:.0%} interval", fontsize=9)
        name_axis(upper, names, labels=False)
        name_axis(lower, names)
        used += [upper, lower]
    for axis in set(grid.flat) - set(used):
        axis.remove()
    handles = {"before": Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="")}
    handles["after"] = Line2D([], [], color="black", marker="o", linestyle="")
    shared_legend(figure, used, extra=handles)
    return figure
