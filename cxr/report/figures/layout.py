"""Panels, axes and legends of figures about architectures and methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.report.figures.style import WIDTH


def slot_width(methods: Sequence[str]) -> float:
    """The width of a method's place at an architecture's tick; ticks are 1 apart."""
    return min(0.3, 0.86 / len(methods))


def arrange(
    table: pd.DataFrame, names: list[str] | None = None, methods: list[str] | None = None
) -> tuple[list[str], list[str], pd.DataFrame, float]:
    """Give each architecture and method its place along x.

    Args:
        table: one row an architecture and method.
        names, methods: their order; None: that of the table.

    Returns: architectures, methods, a table with one row for every pair of them (NaN where `table` has none) and
        its place as the column `x`, and the width of a pair's place.
    """
    keys = ["architecture", "method"]
    names = names or list(dict.fromkeys(table["architecture"]))
    methods = methods or list(dict.fromkeys(table["method"]))
    cells = table.set_index(keys).reindex(pd.MultiIndex.from_product([names, methods], names=keys))
    slot = slot_width(methods)
    inside = (np.arange(len(methods)) - (len(methods) - 1) / 2) * slot
    return names, methods, cells.assign(x=(np.arange(len(names))[:, None] + inside).ravel()), slot


def fit_columns(count: int, cells: int, *, most: int = 3) -> tuple[int, float]:
    """How many of `count` panels stand side by side, and the width of each in inches.

    `cells`: architectures x methods in a panel; `most`: never more panels in a row.
    """
    tight, ample = (float(np.clip(1.2 + room * cells, 2.9, WIDTH)) for room in (0.13, 0.27))
    columns = max(1, min(count, most, int(WIDTH // tight)))
    return columns, min(ample, WIDTH / columns)


def make_panels(
    count: int,
    names: Sequence[str],
    methods: Sequence[str],
    *,
    sharey: bool = False,
    most: int = 3,
    height: float = 3.1,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, each wide enough for all architectures and methods; `height` in inches a row.

    At most `most` panels stand side by side, and fewer where the page is too narrow.
    """
    columns, width = fit_columns(count, len(names) * len(methods), most=most)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(columns * width, 4.5), height * rows + 0.7),
        squeeze=False,
        sharey=sharey,
        layout="constrained",
    )
    for axis in axes.flat[count:]:
        axis.remove()
    for axis in axes.flat[:count]:
        axis.tick_params(labelleft=True)
    return figure, list(axes.flat[:count])


def name_axis(axis: Axes, names: Sequence[str], *, labels: bool = True) -> None:
    """Name the architectures along x, with a faint line between them; long names are turned."""
    figure = axis.get_figure()
    columns = axis.get_subplotspec().get_gridspec().ncols
    room = (figure.get_figwidth() / columns - 0.9) / len(names)
    turn = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) * 0.082 > room else {}
    )
    axis.set_xticks(range(len(names)), names if labels else [""] * len(names), fontsize=9, **turn)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)
    axis.tick_params(axis="y", labelsize=9)
    for edge in np.arange(len(names) - 1) + 0.5:
        axis.axvline(edge, color="0.88", linewidth=0.8, zorder=0)


def shared_legend(
    figure: Figure,
    axes: Sequence[Axes],
    *,
    extra: Mapping[str, object] | None = None,
    rename: Mapping[str, str] | None = None,
    above: float | None = None,
) -> None:
    """Add one legend for all panels, under the figure, or with its lower edge at the share `above` of the height.

    Every label occurs once. `rename` gives labels another name; `extra` handles come last.
    """
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault((rename or {}).get(label, label), handle)
    # first the points (methods), then lines and bands (baselines)
    lines = {label for label, h in handles.items() if not (isinstance(h, Line2D) and h.get_marker() != "None")}
    handles = dict(sorted(handles.items(), key=lambda item: item[0] in lines)) | (extra or {})
    place_legend(figure, handles.values(), handles, above=above)


def place_legend(
    figure: Figure, handles: Iterable[object], labels: Iterable[str], *, above: float | None = None
) -> None:
    """Add a legend as `shared_legend` does, with as many columns as fit the width."""
    labels = list(labels)
    # a letter of 8-point text is about 0.063 inches wide, a handle with its gaps 0.6
    for columns in range(len(labels), 0, -1):
        parts = np.array_split(np.array([len(label) for label in labels]), columns)  # as Matplotlib fills them
        if sum(0.6 + 0.063 * part.max() for part in parts) < figure.get_figwidth():
            break
    figure.legend(
        list(handles),
        labels,
        loc="outside lower center" if above is None else "lower center",
        bbox_to_anchor=None if above is None else (0, above, 1, 1),
        ncols=columns,
        frameon=False,
        fontsize=8,
        columnspacing=1.5,
    )
