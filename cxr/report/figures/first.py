"""The first picture of a report: one image before and after, beside the overlap of every cell."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.core.tables import span
from cxr.report.figures import rows
from cxr.report.figures.areas import outline
from cxr.report.figures.output import PaletteFigure
from cxr.report.figures.style import AFTER, BASELINES, BEFORE, FONT, METHOD_LABELS, WIDTH

if TYPE_CHECKING:
    from cxr.report.pictures import Panel

_MARKS = ("two_patients", "two_seeds", "more_training")
_EDGE = 0.1  # inches


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
    groups = rows.grouped(summary, "overlap_median")
    marks = rows.known(summary, "overlap", _MARKS)
    message, beside = _message(groups)
    banner = 0.27 if synthetic else 0.0
    top = _EDGE + banner + 0.2 + (rows.LINE if beside else 0.0) + 0.12
    tall = rows.height(groups, len(marks))
    right = tall + rows.BELOW
    longest = max(len(rows.cell_name(row)) for row in summary.to_dict("records"))
    stacked = right > 2.7 or longest * rows.LETTER > 2.3
    side = float(np.clip((right - 0.9) / 1.5, 1.9, 2.1)) if stacked else 1.45
    images = 0.0
    if panel is not None:
        lines = len(_caption(panel, side, stacked=stacked))
        images = (1.5 * side + 0.4 if stacked else side + 0.25) + rows.LINE * lines
    height = top + max(right, images) + 0.05
    figure = plt.figure(figsize=(WIDTH, height), FigureClass=PaletteFigure)
    if synthetic:
        style = {"weight": "bold", "color": "white", "va": "top", "fontsize": FONT}
        box = {"facecolor": "#A33C00", "linewidth": 0, "pad": 3}
        where = ((_EDGE + 0.05) / WIDTH, 1 - (_EDGE + 0.03) / height)
        figure.text(*where, "SYNTHETIC DATA: simulated images, no patients", bbox=box, **style)
    y = _EDGE + banner
    figure.text(_EDGE / WIDTH, 1 - y / height, message, va="top", fontsize=9.5, weight="bold")
    figure.text(_EDGE / WIDTH, 1 - (y + 0.2) / height, beside, va="top", fontsize=FONT, color="0.25")
    start = 2 * _EDGE
    if panel is not None:
        _images(figure, panel, top, side, stacked=stacked)
        start = _EDGE + (side if stacked else 3 * side + 0.1) + 0.3
    wide = WIDTH - start - 0.2
    axis = rows.axis_at(figure, start, top + max(0.0, images - right) / 2, wide, tall)
    axis.set_xlim(0, 1)
    rows.cells(axis, groups, "overlap", {key: f"overlap_{key}" for key in marks})
    label = f"overlap (0 none, 1 identical), median, {100 * level:.0f}\N{NO-BREAK SPACE}% interval"
    label = "\n".join([*textwrap.wrap(label, int((wide + 0.3) / rows.LETTER)), "further right: moved less"])
    axis.set_xlabel(label, fontsize=FONT, labelpad=2)
    return figure


def _message(groups: dict[str, pd.DataFrame]) -> tuple[str, str]:
    """What the picture shows, in one sentence, and what to compare it with."""
    name, cells = next(iter(groups.items()))
    if cells["overlap_median"].isna().all():
        return "Every pair of maps has an empty map: there is no overlap before and after fine-tuning", ""
    overlap = span(cells["overlap_median"])
    beside = [
        f"{BASELINES[key][0]}: {span(cells[f'overlap_{key}_median'])}"
        for key in rows.known(cells, "overlap", _MARKS)
    ]
    if name == "no":
        return f"No maps pass their checks (overlap before and after fine-tuning: {overlap})", "; ".join(beside)
    return f"Before and after fine-tuning, the strongest 20 % overlap by {overlap}", "; ".join(beside)


def _images(figure: Figure, panel: Panel, top: float, side: float, *, stacked: bool) -> None:
    """The image with its map before, its map after and both outlines; `top` and `side` in inches."""
    high = figure.get_figheight()
    small = (side - 0.06) / 2 if stacked else side
    first = top + rows.LINE + 0.03
    second = first + side + rows.LINE + 0.06 if stacked else first
    spots = {
        "both": (_EDGE if stacked else _EDGE + 2 * (side + 0.05), first, side),
        "before": (_EDGE, second, small),
        "after": (_EDGE + small + (0.06 if stacked else 0.05), second, small),
    }
    for name, (x, y, wide) in spots.items():
        axis = figure.add_axes((x / WIDTH, 1 - (y + wide) / high, wide / WIDTH, wide / high))
        picture = axis.imshow(panel.image, cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
        for part in ("before", "after") if name == "both" else (name,):
            values = getattr(panel, part)
            if name != "both":
                axis.imshow(
                    np.round(values, 1), cmap="inferno", vmin=0, vmax=1, alpha=0.5, interpolation="nearest"
                )
            outline(values, part, [picture], width=1.6)
        if name == "both":
            axis.set_title(f"both: overlap {panel.overlap:.2f}", fontsize=FONT, weight="bold", pad=3)
            if panel.map_check == "no":
                box = {"facecolor": "black", "alpha": 0.7, "linewidth": 0, "pad": 2}
                style = {"ha": "center", "va": "bottom", "color": "white", "fontsize": FONT, "bbox": box}
                axis.text(0.5, 0.03, "maps fail their checks", transform=axis.transAxes, **style)
        else:
            colour = BEFORE if name == "before" else AFTER
            axis.set_title(name, fontsize=FONT, color=colour, weight="bold", pad=3)
    below = second + small + 0.05
    text = "\n".join(_caption(panel, side, stacked=stacked))
    figure.text(_EDGE / WIDTH, 1 - below / high, text, va="top", fontsize=FONT, color="0.25")


def _caption(panel: Panel, side: float, *, stacked: bool) -> list[str]:
    """The lines below the images: what is outlined, whose maps these are, and which image it is."""
    name = panel.image_id if len(panel.image_id) <= 32 else f"…{panel.image_id[-31:]}"
    texts = (
        "outlined: the strongest 20\N{NO-BREAK SPACE}%",
        f"{panel.architecture}, {METHOD_LABELS[panel.method]}, seed\N{NO-BREAK SPACE}{panel.seed}",
        f"the median image: {name}" + ("" if name.endswith(f": {panel.label}") else f", {panel.label}"),
    )
    letters = int((side if stacked else 3 * side + 0.1) / rows.LETTER)
    return [line for text in texts for line in textwrap.wrap(text, letters, break_on_hyphens=False)]
