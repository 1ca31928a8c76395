"""Where a user's images are and what is known of them: folders of classes, and manifest tables."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from cxr.errors import InputError, some
from cxr.images import SUFFIXES
from cxr.params import DataParams

MASKS = ("lesion_mask", "lung_mask")


def source(settings: Any) -> tuple[Path | None, Path | None]:
    """(data root, manifest CSV): (None, None) for the phantom, (folder, None) for folders of classes."""
    if settings.data == "phantom":
        return None, None
    if not settings.data:
        raise InputError("data: empty: give 'phantom', a folder with one sub-folder a class, or a manifest CSV")
    path = Path(settings.data).expanduser().absolute()
    if path.is_dir():
        table = path / "manifest.csv"
        return path, table if table.is_file() else None
    if not path.exists():
        raise InputError(
            f"data: {path} does not exist: give 'phantom', a folder with one sub-folder a class, or a manifest CSV"
        )
    if path.suffix.lower() != ".csv":
        raise InputError(
            f"data: {path} is neither a folder nor a .csv file: give the folder that holds one sub-folder "
            "a class, or a manifest CSV"
        )
    return path.parent, path


def folder_rows(root: Path, settings: DataParams) -> pd.DataFrame:
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    layout = "expected one sub-folder a class with PNG or JPEG files in it, or a manifest.csv"
    if not entries:
        raise InputError(f"{root}: the folder is empty: {layout}")
    if not folders:
        more = f" ({len(loose)} images lie in the folder itself)" if loose else ""
        raise InputError(f"{root}: no class folders{more}: {layout}")
    if loose:
        warnings.warn(
            f"{root}: {len(loose)} images beside the class folders are left out: {some(loose)}", stacklevel=3
        )
    rows = [{"path": path, "label": folder.name} for folder in folders for path in _images_below(root, folder)]
    without = sorted({folder.name for folder in folders} - {row["label"] for row in rows})
    if without:
        raise InputError(
            f"{root}: no PNG or JPEG files in {some(without)}: every sub-folder is a class; put its images "
            "there or move the folder away"
        )
    paths = [row["path"] for row in rows]
    ids = _image_ids(paths)
    patients = _patients(paths, settings.patient_pattern, root) if settings.patient_pattern else ids
    if not settings.patient_pattern:
        warnings.warn(
            f"{root}: every image counts as a patient of its own. If a patient can have several images, they "
            "may now lie on both sides of a split: set patient_pattern (a regular expression whose first group "
            "in a file's name is the patient), or add a manifest.csv with the columns path, label, patient_id",
            stacklevel=3,
        )
    return pd.DataFrame(rows).assign(image_id=ids, patient_id=patients)


def table_rows(table: Path, settings: DataParams) -> pd.DataFrame:
    if settings.patient_pattern:
        raise InputError(
            f"patient_pattern: is for folders without a manifest, and {table} names the patients: leave it empty"
        )
    rows, found = read_csv(table)
    lacking = [name for name in ("path", "label", "patient_id") if name not in found]
    if lacking:
        raise InputError(
            f"{table}: no column {', '.join(lacking)}: a manifest has the columns path, label, patient_id and "
            f"optionally split; found {', '.join(found)}"
        )
    if not rows:
        raise InputError(f"{table}: no rows: list one image a row")
    wanted = ["path", "label", "patient_id"] + ["split"] * ("split" in found)
    frame = pd.DataFrame(rows, dtype=str)
    for name in wanted:
        frame[name] = frame[name].str.strip()
        missing = frame.loc[frame[name] == "", "line"].tolist()
        if missing:
            hint = " (or leave the whole column out)" if name == "split" else ""
            raise InputError(f"{table}: no {name} in line {some(missing)}: fill it in{hint}")
    frame["path"] = [_normalised(path) for path in frame["path"]]
    twice = frame["path"][frame["path"].duplicated()].unique().tolist()
    if twice:
        raise InputError(f"{table}: listed more than once: {some(twice)}: keep one row a file")
    masks = []
    for name in (name for name in MASKS if name in found):
        frame[name] = [_normalised(path.strip()) if path.strip() else "" for path in frame[name]]
        if (frame[name] != "").any():  # else the column says nothing
            masks.append(name)
    for name in ("path", *masks):
        listed = frame[name][frame[name] != ""]
        absent = [path for path in listed if not (table.parent / path).is_file()]
        if absent:
            what = "files" if name == "path" else f"files of the column {name}"
            raise InputError(
                f"{table}: {len(absent)} of {len(listed)} {what} do not exist: {some(absent)}: paths are "
                f"relative to {table.parent}, or absolute"
            )
    return frame[[*wanted, *masks]].assign(image_id=_image_ids(frame["path"].tolist()))


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows, each with its line number under "line", and the column names. No value is interpreted, so "007"
    stays "007" and a class may be called "NA"."""
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
        raise InputError(f"{path}: a column name occurs twice in {', '.join(columns)}: rename or drop one")
    return rows, columns


def _images_below(root: Path, folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(parent) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def _patients(paths: list[str], pattern: str, root: Path) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient_pattern: {pattern!r} is not a regular expression: {error}") from None
    if not compiled.groups:
        raise InputError(f"patient_pattern: {pattern!r} has no group: put the patient's part in parentheses")
    matches = [compiled.search(path.rsplit("/", 1)[-1]) for path in paths]
    without = [path for path, match in zip(paths, matches, strict=True) if not (match and match.group(1))]
    if without:
        raise InputError(
            f"patient_pattern: {pattern!r} finds no patient in {len(without)} of {len(paths)} file names in "
            f"{root}: {some(without)}: change the pattern, or write a manifest.csv"
        )
    return [match.group(1) for match in matches]


def _normalised(path: str) -> str:
    return PurePath(os.path.normpath(path)).as_posix()


def _image_ids(paths: Sequence[str]) -> list[str]:
    stems = [path[: -len(PurePath(path).suffix)] if PurePath(path).suffix else path for path in paths]
    counts = pd.Series(stems).value_counts()
    ids = [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    # "a.png" keeping its suffix may now be what "a.png.png" lost it for.
    return ids if len(set(ids)) == len(ids) else list(paths)
