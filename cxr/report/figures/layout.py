"""Panels, axes and legends of figures about architectures and methods; checks of the tables they show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.core.errors import InputError
from cxr.report.figures.style import WIDTH


def require_columns(table: pd.DataFrame, what: str, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"plots.{what}: the table lacks {', '.join(missing)}; it has {', '.join(table.columns)}.")
    if table.empty:
        raise InputError(f"plots.{what}: the table has no rows; nothing was scored, or a filter left nothing.")


def require_unique(table: pd.DataFrame, what: str, keys: list[str]) -> None:
    twice = table.duplicated(keys)
    if twice.any():
        cell = ", ".join(f"{key} {table.loc[twice, key].iloc[0]}" for key in keys)
        raise InputError(f"plots.{what}: several rows for {cell}; pool them first.")


def slot_width(methods: Sequence[str]) -> float:
    """The width that a method has beside each architecture's tick; ticks are 1 apart."""
    return min(0.3, 0.86 / len(methods))


def arrange(
    table: pd.DataFrame,
    what: str,
    columns: Sequence[str],
    names: list[str] | None = None,
    methods: list[str] | None = None,
) -> tuple[list[str], list[str], pd.DataFrame, float]:
    """Architectures, methods, and the table with one row each of their pairs (NaN where there was none) and the
    column `x`: where the pair stands. Last the width of a pair's slot."""
    keys = ["architecture", "method"]
    require_columns(table, what, [*keys, *columns])
    require_unique(table, what, keys)
    names = names or list(dict.fromkeys(table["architecture"]))
    methods = methods or list(dict.fromkeys(table["method"]))
    cells = table.set_index(keys).reindex(pd.MultiIndex.from_product([names, methods], names=keys))
    slot = slot_width(methods)
    inside = (np.arange(len(methods)) - (len(methods) - 1) / 2) * slot
    return names, methods, cells.assign(x=(np.arange(len(names))[:, None] + inside).ravel()), slot


def fit_columns(count: int, cells: int, *, most: int = 3) -> tuple[int, float]:
    """How many of `count` panels of so many cells (architectures x methods) stand side by side, and how wide."""
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
    """`count` panels wide enough for architectures x methods, side by side as a page allows, at most `most`."""
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
    """Architectures along x, a faint line between them; their names turned where they would overlap."""
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
    """One legend under the figure (or above that share of its height) for all its panels: every label once, by its
    name in `rename` where it has one, `extra` at the end."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault((rename or {}).get(label, label), handle)
    # Points (the methods) come first, lines and bands (what they are read against) after them.
    lines = {label for label, h in handles.items() if not (isinstance(h, Line2D) and h.get_marker() != "None")}
    handles = dict(sorted(handles.items(), key=lambda item: item[0] in lines)) | (extra or {})
    place_legend(figure, handles.values(), handles, above=above)


def place_legend(
    figure: Figure, handles: Iterable[object], labels: Iterable[str], *, above: float | None = None
) -> None:
    """A legend under the figure, or above a share of its height, in as many columns as its width holds."""
    labels = list(labels)
    # 8-point text is some 0.063 inches a letter, a handle with its gaps 0.6.
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
