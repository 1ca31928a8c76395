"""Groups of images that a study compares: the columns of a table that the parameter `groups` declares.

A manifest holds the value of each image as `group_<name>`. Only declared columns are read: no other column of a
table gets into a manifest, and so none into the store.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams

PREFIX = "group_"
MOST_NUMBERS = 12  # different numbers in a column without bands
MOST_VALUES = 50  # different values in any column: of more, only those of many images are groups
LEAST_IMAGES = 10  # of a value in a column with more than MOST_VALUES
OTHER = "other values"


def declared(settings: DataParams) -> list[str]:
    """The columns that have to be read: `groups` without the label, which every image has."""
    return [name for name in settings.groups if name != "label"]


def columns(present: Iterable[str]) -> list[str]:
    """The columns of groups among the columns of a table, in their order."""
    return [name for name in present if name.startswith(PREFIX)]


def refuse(settings: DataParams, *, where: str) -> None:
    """Raise InputError if a column is declared: folders and the phantom have none."""
    if names := declared(settings):
        raise InputError(
            f"groups: {where} has no column {some(names)}, only label: leave the others out, or give a table (CSV "
            "or Parquet) that has them"
        )


def of_table(frame: pd.DataFrame, settings: DataParams, *, among: Sequence[str], where: str) -> pd.DataFrame:
    """The groups of each row of a table.

    Args:
        frame: rows of the table, str, with the line number as "line".
        among: the columns that may be declared.
        where: the table, for messages.

    Returns: a column `group_<name>` for each declared column, str; "" where the table has no value. Numbers with
        `bands` become the names of their bands (`band_names`). In a column with more than MOST_VALUES different
        values, those of fewer than LEAST_IMAGES images become OTHER.
    Raises: InputError for an unknown column, for values that are no numbers under `bands`, for a column of numbers
        without bands, and for a column with too many values.
    """
    out = pd.DataFrame(index=frame.index)
    for name in declared(settings):
        if name not in among:
            close = difflib.get_close_matches(name, [*among, "label"], n=3, cutoff=0.5) or ["label", *among]
            raise InputError(f"{where}: groups: no column '{name}': did you mean {' or '.join(close[:5])}?")
        cells = frame[name].map(lambda cell: " ".join(cell.split()))
        numbers = pd.to_numeric(cells, errors="coerce").astype(float)
        known = cells != ""
        if name in settings.bands:
            strange = cells[known & ~numbers.abs().lt(float("inf"))]
            if len(strange):
                raise InputError(
                    f"{where}: bands: the column {name} has {len(strange)} values that are not numbers, such as "
                    f"{some(strange.unique())} (line {frame.loc[strange.index[0], 'line']}): write numbers, or "
                    "nothing where they are not known"
                )
            cells = pd.Series(banded(numbers, settings.bands[name]), index=frame.index)
        values = cells[known].unique()
        if name not in settings.bands and numbers[known].notna().all() and len(values) > MOST_NUMBERS:
            low, high = numbers.min(), numbers.max()
            raise InputError(
                f"{where}: groups: the column {name} has {len(values)} different numbers ({low:g} to {high:g}): "
                f"say where its bands begin, such as bands: {{{name}: [{(low + high) / 2:.0f}]}}"
            )
        out[PREFIX + name] = cells if len(values) <= MOST_VALUES else _pooled(cells, name, where)
    return out


def _pooled(cells: pd.Series, name: str, where: str) -> pd.Series:
    """Rare values as OTHER: names of patients or free text are no groups, and do not get into the store."""
    counts = cells[cells != ""].value_counts()
    frequent = counts.index[counts >= LEAST_IMAGES]
    if frequent.empty or len(frequent) > MOST_VALUES:
        raise InputError(
            f"{where}: groups: the column {name} has {len(counts)} different values, more than {MOST_VALUES}, and "
            f"{len(frequent)} of them have {LEAST_IMAGES} images or more: name a column of few values"
        )
    return cells.where(cells.isin(frequent) | (cells == ""), OTHER)


def banded(numbers: pd.Series, edges: Sequence[float]) -> list[str]:
    """The band of each number, by name; "" for NaN. `edges`, ascending: where the second and later bands begin."""
    whole = bool((numbers.dropna() % 1 == 0).all())
    names = band_names(edges, whole=whole)
    place = pd.Series(edges, dtype=float).searchsorted(numbers.to_numpy(), side="right")
    return ["" if lacking else names[k] for k, lacking in zip(place, numbers.isna(), strict=True)]


def band_names(edges: Sequence[float], *, whole: bool) -> list[str]:
    """The names of bands: [40, 60] gives "under 40", "40 to 59", "60 and over".

    If the values are not `whole` numbers, the band in the middle is "40 to under 60".
    """
    whole = whole and all(float(edge).is_integer() for edge in edges)
    between = [
        f"{low:g} to {high - 1:g}" if whole else f"{low:g} to under {high:g}"
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]


def ordered(values: Iterable[str]) -> list[str]:
    """Values of a column, each once, in the order of a table: bands and numbers by size, then text by name."""

    def key(value: str) -> tuple[int, float, str]:
        if found := re.fullmatch(r"under (\S+)", value):
            return 0, float("-inf"), found[1]
        found = re.match(r"[-+]?\d+(\.\d*)?", value)
        return (0, float(found[0]), value) if found else (1, 0.0, value)

    return sorted(set(values), key=key)
