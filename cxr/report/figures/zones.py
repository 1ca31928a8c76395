"""The figure of the zones of the chest: sketches with the evidence before and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cxr.metrics.zones import ZONES, of_lungs
from cxr.report.figures import rows
from cxr.report.figures.style import FONT, METHOD_LABELS, WIDTH

_COLUMNS = 3
_ALPHA = 0.55  # so that black text can be read on every colour
_SIDE = 2.3  # inches: a sketch
_HEAD = 0.4  # inches: its name
_HEIGHT, _ACROSS = 100, 130  # cells of the sketch


def zones(table: pd.DataFrame) -> Figure:
    """The share of the evidence in each zone of the chest, before and after: a sketch for each network and method.

    Parameters
    ----------
    table : one row an architecture, method and zone (`region`): energy_before, energy_after, energy_change,
        direction ("unclear" where the interval of the change includes 0), passes_checks.
    """
    keys = ["architecture", "method"]
    listed = table.drop_duplicates(keys).sort_values("passes_checks", ascending=False, kind="stable")
    title = "Where in the chest the evidence lies: its share in percent, before → after"
    sketch_tall = _SIDE * _HEIGHT / _ACROSS
    tall = -(-len(listed) // _COLUMNS) * (sketch_tall + _HEAD)
    figure = rows.new_figure(tall + 0.85, title, width=WIDTH)
    widest = np.nanmax(table["energy_change"].abs().to_numpy(float), initial=0.01)
    limit = np.ceil(100 * widest)
    heat = ScalarMappable(Normalize(-limit, limit), "PuOr_r")
    sketch = of_lungs(_lungs()[None]).masks
    top = rows.title_height(1) - 0.05
    for number, (_, cell) in enumerate(listed.iterrows()):
        left = 0.1 + (number % _COLUMNS) * (WIDTH - 0.2) / _COLUMNS
        above = top + (number // _COLUMNS) * (sketch_tall + _HEAD) + _HEAD
        axis = rows.axis_at(figure, left, above, _SIDE, sketch_tall)
        axis.set_ylim(_HEIGHT - 0.5, -0.5)
        own = table[(table["architecture"] == cell["architecture"]) & (table["method"] == cell["method"])]
        _draw(axis, own.set_index("region"), sketch, heat, passes=cell["passes_checks"])
        fails = "" if cell["passes_checks"] else ": maps FAIL"
        name = f"{cell['architecture']}{fails}\n{METHOD_LABELS[cell['method']]}"
        axis.set_title(name, fontsize=FONT, pad=3, color="0.4" if fails else "black")
    bar_axis = rows.axis_at(figure, WIDTH / 2 - 1.5, top + tall + 0.12, 3.0, 0.1)
    bar = figure.colorbar(heat, cax=bar_axis, orientation="horizontal", alpha=_ALPHA)
    label = "change, points of 100; bold: the interval excludes 0\nthe patient's right lung is on the left"
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)
    return figure


def _lungs() -> np.ndarray:
    """Two lungs as a drawing, bool [H, W]."""
    y, x = np.mgrid[:_HEIGHT, :_ACROSS]
    inside = np.zeros((_HEIGHT, _ACROSS), bool)
    for centre in (29, 101):
        inside |= (np.abs(x - centre) / 20) ** 2.6 + (np.abs(y - 45) / 40) ** 2.6 < 1
    return inside


def _draw(
    axis: Axes, own: pd.DataFrame, sketch: dict[str, np.ndarray], heat: ScalarMappable, *, passes: bool
) -> None:
    values = np.zeros((_HEIGHT, _ACROSS))
    for zone in ZONES:
        values[sketch[zone][0]] = 100 * own.loc[zone, "energy_change"]
    axis.imshow(values, cmap=heat.cmap, norm=heat.norm, alpha=_ALPHA if passes else _ALPHA / 2)
    for zone in ZONES:
        axis.contour(sketch[zone][0], levels=[0.5], colors="0.35", linewidths=0.7)
        row = own.loc[zone]
        y, x = (np.median(where) for where in np.nonzero(sketch[zone][0]))
        if zone == "outside":
            y, x = _HEIGHT - 5, _ACROSS / 2
        shares = 100 * row[["energy_before", "energy_after"]].to_numpy(float)
        text = "{:.0f}→{:.0f}".format(*shares) if np.isfinite(shares).all() else "n/a"
        style = {"ha": "center", "va": "center", "fontsize": FONT, "color": "black" if passes else "0.35"}
        axis.text(
            x,
            y,
            f"outside {text}" if zone == "outside" else text,
            weight="normal" if row["direction"] == "unclear" else "bold",
            **style,
        )
    axis.set_xticks([])
    axis.spines[:].set_visible(True)
