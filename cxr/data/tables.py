"""Data sets that are tables (CSV or Parquet), one row an image."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from cxr.core.errors import InputError, close_to, some
from cxr.core.params import DataParams
from cxr.data import groups, lung_masks, multi_label
from cxr.data.labels import assign_classes, identities, image_ids, normalised
from cxr.data.walk import is_hidden

MASKS = ("lesion_mask", "lung_mask")
PARQUET = (".parquet", ".pq")
OWN = frozenset({"path", "label", "patient_id", "split", "line", "", *MASKS})
"""Columns of `read_table` that have a meaning of their own; all others are the user's."""


def table_rows(table: Path, settings: DataParams, *, labelled: bool = True) -> pd.DataFrame:
    """image_id, path, label and patient_id of the images that a table lists, str.

    Also split, lesion_mask and lung_mask, if the table has them, and the columns of `groups.of_table` and, for
    several findings an image, of `multi_label`. If not `labelled`, every label is "", and there are none of these.
    Raises InputError.
    """
    if settings.patient_pattern and settings.patient_column:
        raise InputError(
            f"patient_pattern: it is for folders, but {table} names the patients: leave it empty (or leave "
            "patient_column empty, if the table does not name them)"
        )
    for name in ("label_pattern", "image_folder"):
        if getattr(settings, name):
            raise InputError(f"{name}: it is for folders, but {table} is a table: leave it empty")
    frame, found = read_table(table, settings, labelled=labelled)
    wanted = ["path"] + ["label"] * (labelled and not settings.label_columns)
    wanted += ["patient_id"] * bool(settings.patient_column) + ["split"] * ("split" in frame)
    may_be_blank = "label" if settings.label_map else ""  # a map says what blank labels are
    for name in wanted:
        frame[name] = frame[name].str.strip()
        blank = (frame[name] == "") & (name != may_be_blank)
        missing = frame.loc[blank, "line"].tolist()
        if missing:
            hint = " (or leave the whole column out)" if name == "split" else ""
            raise InputError(f"{table}: no {found[name]} in line {some(missing)}: fill it in{hint}", items=missing)
    others = [name for name in frame if name not in OWN]
    if labelled:
        assign = multi_label.assign_findings if settings.task == "multi_label" else assign_classes
        frame = assign(frame, settings, where=str(table))
        frame = frame.join(groups.of_table(frame, settings, among=others, where=str(table)))
    else:
        frame = frame.assign(label="")
    frame["path"] = file_paths(frame["path"], table, settings)
    read = [name for name in frame if name not in others]  # what a row says, beside columns that nobody asked for
    twice = frame["path"][frame["path"].duplicated()].unique().tolist()
    if twice and settings.repeated_rows == "refuse":
        raise InputError(
            f"{table}: listed more than once: {some(twice)}: keep one row a file, or say how rows are joined "
            "(repeated_rows: any or majority)",
            items=twice,
        )
    frame = multi_label.merge_rows(frame[read], settings.repeated_rows, where=str(table))
    masks = []
    for name in (name for name in MASKS if name in frame):
        frame[name] = [normalised(path.strip()) if path.strip() else "" for path in frame[name]]
        if (frame[name] != "").any():  # an empty column says nothing
            masks.append(name)
    for name in ("path", *masks):
        # with "skip", missing files are found when they are read
        listed = frame[name][(frame[name] != "") & (settings.on_bad_image == "stop")]
        absent = [path for path in listed if not _is_there(table.parent / path)]
        if absent:
            what = "files" if name == "path" else f"files of the column {name}"
            raise InputError(
                f"{table}: {len(absent)} of {len(listed)} {what} do not exist: {some(absent)}: paths are "
                f"relative to {table.parent}, or absolute{_path_hint(absent, name, settings)}",
                items=absent,
            )
    paths = frame["path"].tolist()
    if settings.lung_mask_folder:
        if "lung_mask" in masks:
            raise InputError(f"lung_mask_folder: {table} has a column lung_mask: leave one of both out")
        frame = frame.assign(**lung_masks.columns(table.parent, paths, settings))
        masks.append("lung_mask")
    own = {"image_id": image_ids(paths)} if settings.patient_column else identities(paths, settings, table)
    kept = [*dict.fromkeys([*wanted, "label", "patient_id"]), *masks]
    kept += [*multi_label.columns(frame), *groups.columns(frame)]
    return frame.assign(**own)[[*kept, "image_id"]]


def _is_there(path: Path) -> bool:
    """Whether a path names a file of any kind; `reading.opened` refuses pipes and devices."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # for example a name that is too long, or has a NUL character
        return False


def read_table(table: Path, settings: DataParams, *, labelled: bool = True) -> tuple[pd.DataFrame, dict[str, str]]:
    """A whole table as str, and the names of its columns for path, label (if `labelled`), patient_id and split.

    These columns are renamed to path, label, patient_id and split. The column "line" is the row's line number.
    """
    rows, found = read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    names = {
        "path": settings.path_column,
        "label": settings.label_column if labelled and not settings.label_columns else "",
        "patient_id": settings.patient_column,
        "split": settings.split_column,
    }
    optional = {"split"} if settings.split_column in ("", "split") or settings.given_splits == "ignore" else set()
    needed = [name for key, name in names.items() if name and key not in optional]
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise InputError(
            f"{table}: no column {', '.join(lacking)}: a manifest has the columns path, label, patient_id and "
            "optionally split, or others that path_column, label_column, patient_column and split_column name; "
            f"found {', '.join(found)}"
        )
    if not rows:
        raise InputError(f"{table}: no rows: list one image a row")
    if settings.given_splits == "ignore":
        names["split"] = ""
    chosen = {name: key for key, name in names.items() if name in found and name}
    frame = pd.DataFrame(rows, dtype=str)
    frame = frame[_selected(frame, settings.only, table)].reset_index(drop=True)
    # A column with one of our names that the parameters do not choose.
    taken = [key for key in names if key in found and key not in chosen and key not in settings.label_columns]
    return frame.drop(columns=taken).rename(columns=chosen), names


def _selected(frame: pd.DataFrame, only: Mapping[str, Sequence[str]], table: Path) -> np.ndarray:
    """The rows that have one of the values that the parameter `only` names, bool [n]. Raises InputError."""
    keep = np.ones(len(frame), bool)
    for name, values in only.items():
        if name not in frame or name == "line":
            close = close_to(name, frame) or [column for column in frame if column != "line"]
            raise InputError(
                f"{table}: only: no column '{name}': did you mean {' or '.join(map(repr, close[:5]))}?"
            )
        cells = frame[name].str.strip()
        if unseen := sorted(set(values) - set(cells)):
            raise InputError(
                f"{table}: only: no row has {some(map(repr, unseen))} in {name}: found "
                f"{some(map(repr, cells.value_counts().index))}"
            )
        keep &= cells.isin(values).to_numpy()
    if not keep.any():
        raise InputError(f"{table}: only: no row has all the values asked for ({dict(only)}): ask for fewer")
    return keep


def file_paths(cells: pd.Series, table: Path, settings: DataParams) -> list[str]:
    """The cells of the path column as paths: unchanged, or filled into `path_template`.

    Folders with wildcards are searched once. A file that is not found keeps the template.
    """
    template = settings.path_template.replace("\\", "/")
    if not template:
        return [normalised(path) for path in cells]
    folder, _, name = template.rpartition("/")
    if not any(c in folder for c in "*?["):
        return [normalised(template.replace("{}", cell)) for cell in cells]
    places: dict[str, list[str]] = {}
    try:
        found = sorted(place for place in table.parent.glob(folder) if place.is_dir())
    except RecursionError:
        raise InputError(
            f"{table}: path_template: folders beside the table are nested too deep: move them away, or make the "
            "template narrower"
        ) from None
    for place in found:
        inside = place.relative_to(table.parent)
        if not any(is_hidden(part) for part in inside.parts):
            for entry in os.scandir(place):
                places.setdefault(entry.name, []).append((inside / entry.name).as_posix())
    files = [name.replace("{}", cell) for cell in cells]
    twice = [path for file in dict.fromkeys(files) if len(places.get(file, [])) > 1 for path in places[file]]
    if twice:
        raise InputError(
            f"{table}: path_template: {template!r} finds several files of one name: {some(twice)}: remove "
            "the copies, or make the template narrower",
            items=twice,
        )
    return [
        places[file][0] if file in places else normalised(template.replace("{}", cell))
        for file, cell in zip(files, cells, strict=True)
    ]


def _path_hint(absent: list[str], column: str, settings: DataParams) -> str:
    if any("\\" in path for path in absent):
        return "; write / in place of \\"
    if column == "path" and not settings.path_template and not any("/" in path for path in absent):
        return "; if the files are in other folders, set path_template, e.g. 'images*/**/{}'"
    return ""


def read_parquet(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Like `read_csv`; a cell without a value is "", and "line" is the number of the row, from 1."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())[:200]})"
        ) from None
    columns = [str(name) for name in table.column_names]
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: a column name appears twice in {', '.join(columns)}: rename or drop one")
    cells = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    rows = zip(*cells, strict=True)
    return [{**dict(zip(columns, row, strict=True)), "line": str(k)} for k, row in enumerate(rows, 1)], columns


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value)  # NaN is no value


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV file, with the line number as "line", and the names of its columns.

    All values stay text: "007" stays "007", and a class may be called "NA". Raises InputError.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read the manifest ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        rows = []
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(values)} fields, the header has {len(columns)}: "
                    "put quotes around values with commas"
                )
            rows.append({**dict(zip(columns, values, strict=True)), "line": str(reader.line_num)})
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}: save it as comma-separated values") from None
    if not columns:
        raise InputError(f"{path}: the file is empty: expected the columns path, label, patient_id")
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: a column name appears twice in {', '.join(columns)}: rename or drop one")
    return rows, columns
