"""Where a user's images are and what is known of them: folders of classes, and manifest tables."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data.images import FORMATS, SUFFIXES

MASKS = ("lesion_mask", "lung_mask")
PARQUET = (".parquet", ".pq")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


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
    if path.suffix.lower() not in (".csv", *PARQUET):
        raise InputError(
            f"data: {path} is neither a folder nor a .csv or .parquet file: give the folder that holds one "
            "sub-folder a class, or a table"
        )
    return path.parent, path


def has_labels(settings: Any) -> bool:
    """Whether images have labels: class folders, or a table with the label column.

    A table is also taken for labelled where it lacks the column, other than "label", that `label_column` names:
    `table_rows` says then what is wrong. Raises InputError as `source` does, and where the table cannot be read.
    """
    root, table = source(settings)
    if root is None:
        return True
    if table is None:
        return bool(_folders(root))
    _, found = _read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    return settings.label_column in found or settings.label_column != "label"


def unlabelled_rows(root: Path, table: Path | None, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label (""), patient_id of a table's images, or of all below a folder, at any depth; str.

    And split, lesion_mask and lung_mask where a table has them. Raises InputError.
    """
    if table is not None:
        return table_rows(table, settings, labelled=False)
    _only_for_tables(root, settings)
    paths = _images_below(root, root, settings.image_folder)
    if not paths:
        raise InputError(
            f"{root}: no {FORMATS} files: give a folder that holds some, with one of the suffixes "
            f"{', '.join(SUFFIXES)}, or a table (CSV or Parquet) with the column path"
        )
    return pd.DataFrame({"path": paths, "label": ""}).assign(**_identities(paths, settings, root))


def folder_rows(root: Path, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label, patient_id of the images in class folders, str.

    And split where these lie in folders train, val and test (`SPLIT_FOLDERS`; "val" may be absent, see
    `cxr.data.splits.val_from_train`). Raises InputError.
    """
    _only_for_tables(root, settings)
    parts = _split_folders(root)
    if parts is None:
        rows = _class_rows(root, root, settings)
    else:
        named = parts.items()
        rows = [{**row, "split": split} for split, part in named for row in _class_rows(root, part, settings)]
    frame = pd.DataFrame(rows)
    if "split" in frame and settings.given_splits == "ignore":
        frame = frame.drop(columns="split")
    if settings.label_pattern:
        frame["label"] = _labels_by_name(frame, settings.label_pattern)
    frame = _classes(frame, settings, where=str(root))
    return frame.assign(**_identities(frame["path"].tolist(), settings, root))


def table_rows(table: Path, settings: DataParams, *, labelled: bool = True) -> pd.DataFrame:
    """image_id, path, label, patient_id of the images that a table lists, str.

    And split, lesion_mask and lung_mask where it has them. Not `labelled`: every label is "", whatever the table
    says. Raises InputError.
    """
    if settings.patient_pattern and settings.patient_column:
        raise InputError(
            f"patient_pattern: is for folders without a manifest, and {table} names the patients: leave it empty "
            "(or patient_column, if the table names none)"
        )
    for name in ("label_pattern", "image_folder"):
        if getattr(settings, name):
            raise InputError(f"{name}: is for folders without a table, and {table} is one: leave it empty")
    frame, found = _table(table, settings, labelled=labelled)
    wanted = ["path"] + ["label"] * labelled + ["patient_id"] * bool(settings.patient_column)
    wanted += ["split"] * ("split" in frame)
    for name in wanted:
        frame[name] = frame[name].str.strip()
        missing = frame.loc[frame[name] == "", "line"].tolist()
        if missing:
            hint = " (or leave the whole column out)" if name == "split" else ""
            raise InputError(f"{table}: no {found[name]} in line {some(missing)}: fill it in{hint}", items=missing)
    frame = _classes(frame, settings, where=str(table)) if labelled else frame.assign(label="")
    frame["path"] = _paths(frame["path"], table, settings)
    twice = frame["path"][frame["path"].duplicated()].unique().tolist()
    if twice:
        raise InputError(f"{table}: listed more than once: {some(twice)}: keep one row a file", items=twice)
    masks = []
    for name in (name for name in MASKS if name in frame):
        frame[name] = [_normalised(path.strip()) if path.strip() else "" for path in frame[name]]
        if (frame[name] != "").any():  # else the column says nothing
            masks.append(name)
    for name in ("path", *masks):
        # those to be skipped are found out when they are read
        listed = frame[name][(frame[name] != "") & (settings.on_bad_image == "stop")]
        absent = [path for path in listed if not _is_file(table.parent / path)]
        if absent:
            what = "files" if name == "path" else f"files of the column {name}"
            raise InputError(
                f"{table}: {len(absent)} of {len(listed)} {what} do not exist: {some(absent)}: paths are "
                f"relative to {table.parent}, or absolute{_path_hint(absent, name, settings)}",
                items=absent,
            )
    paths = frame["path"].tolist()
    own = {"image_id": _image_ids(paths)} if settings.patient_column else _identities(paths, settings, table)
    return frame.assign(**own)[[*dict.fromkeys([*wanted, "label", "patient_id"]), *masks, "image_id"]]


def _identities(paths: list[str], settings: DataParams, where: Path) -> dict[str, list[str]]:
    """image_id, and patient_id by `patient_pattern`, or each image its own, with a warning."""
    ids = _image_ids(paths)
    if settings.patient_pattern:
        return {"image_id": ids, "patient_id": _patients(paths, settings.patient_pattern, where)}
    _warn_of_single_patients(where)
    return {"image_id": ids, "patient_id": ids}


def extra_columns(settings: DataParams) -> pd.DataFrame | None:
    """What a user's table says beyond path, label, patient, split and masks, str, "" where it says nothing.

    Index: path as in the manifest, every row of the table, in its order; None for folders and the phantom.
    Raises InputError as `table_rows` does where the table cannot be read.
    """
    _, table = source(settings)
    if table is None:
        return None
    frame, _ = _table(table, settings)
    frame = frame[frame["path"].str.strip() != ""]
    paths = _paths(frame["path"].str.strip(), table, settings)
    own = {"path", "label", "patient_id", "split", "line", "", *MASKS}
    return frame[[name for name in frame if name not in own]].set_axis(pd.Index(paths, name="path"))


# --- folders --------------------------------------------------------------------------------------


def _only_for_tables(root: Path, settings: DataParams) -> None:
    for name in ("path_template", "label_separator"):
        if getattr(settings, name):
            raise InputError(f"{name}: is for tables, and {root} is read as folders of classes: leave it empty")


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _split_folders(root: Path) -> dict[str, Path] | None:
    """Train, val and test folders by split; None where there is no train with a test."""
    known = {alias: split for split, aliases in SPLIT_FOLDERS.items() for alias in aliases}
    folders = _folders(root)
    parts: dict[str, Path] = {}
    others = []
    for folder in folders:
        split = known.get(folder.name.lower())
        if split is None:
            others.append(folder.name)
        elif split in parts:
            raise InputError(
                f"{root}: {parts[split].name} and {folder.name} both say {split}: keep one folder a split"
            )
        else:
            parts[split] = folder
    if not {"train", "test"} <= set(parts):
        return None
    if others:
        raise InputError(
            f"{root}: beside {' and '.join(sorted(folder.name for folder in parts.values()))} there is "
            f"{some(others)}: a folder holds either splits or classes; move these away, or give the folder that "
            "is meant"
        )
    return parts


def _class_rows(root: Path, parent: Path, settings: DataParams) -> list[dict[str, str]]:
    """path, label of the images in the class folders below `parent`, paths relative to `root`."""
    entries = sorted(entry for entry in parent.iterdir() if not _is_hidden(entry.name))
    folders = _folders(parent)
    loose = [entry.name for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    layout = f"expected one sub-folder a class with {FORMATS} files in it, or a manifest.csv"
    if not entries:
        raise InputError(f"{parent}: the folder is empty: {layout}")
    if not folders:
        more = f" ({len(loose)} images lie in the folder itself)" if loose else ""
        raise InputError(f"{parent}: no class folders{more}: {layout}")
    if loose:
        warnings.warn(
            f"{parent}: {len(loose)} images beside the class folders are left out: {some(loose)}", stacklevel=5
        )
    above = {parent.resolve(), *parent.resolve().parents}
    loops = [folder.name for folder in folders if folder.resolve() in above]
    if loops:
        raise InputError(f"{parent}: {some(loops)} is a link to a folder that holds it: remove the link")
    rows = [
        {"path": path, "label": folder.name}
        for folder in folders
        for path in _images_below(root, folder, settings.image_folder)
    ]
    without = sorted({folder.name for folder in folders} - {row["label"] for row in rows})
    if without:
        below = f" below a folder '{settings.image_folder}' (image_folder)" if settings.image_folder else ""
        raise InputError(
            f"{parent}: no {FORMATS} files{below} in {some(without)}: every sub-folder is a class; put its "
            f"images there (files without one of the suffixes {', '.join(SUFFIXES)} are found by a table only) or "
            "move the folder away",
            items=without,
        )
    return rows


def _images_below(root: Path, folder: Path, image_folder: str) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        if image_folder and image_folder not in Path(parent).relative_to(folder).parts:
            continue
        found += [
            (Path(parent) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".")
            and Path(name).suffix.lower() in SUFFIXES
            and not _is_device(os.path.join(parent, name))
        ]
    undecodable = [path.encode(errors="backslashreplace").decode() for path in found if not _is_text(path)]
    if undecodable:
        raise InputError(
            f"{root}: {len(undecodable)} file names are not UTF-8: {some(undecodable)}: rename them",
            items=undecodable,
        )
    return sorted(found)


def _is_device(path: str) -> bool:
    """Whether it is a pipe or a device, which may be read for ever. (What is not there is told of later.)"""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, for one
        return False


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _labels_by_name(frame: pd.DataFrame, pattern: str) -> list[str]:
    compiled = _compiled("label_pattern", pattern, "the label's part")
    matches = [compiled.search(path.rsplit("/", 1)[-1]) for path in frame["path"]]
    found = [match.group(1) if match else None for match in matches]
    if not any(found):
        raise InputError(
            f"label_pattern: {pattern!r} finds no label in any of {len(frame)} file names, e.g. "
            f"{some(frame['path'].iloc[:1])}: change the pattern, or leave it empty"
        )
    return [name or folder for name, folder in zip(found, frame["label"], strict=True)]


def _warn_of_single_patients(where: Path) -> None:
    warnings.warn(
        f"{where}: every image counts as a patient of its own. If a patient can have several images, they "
        "may now lie on both sides of a split, and intervals are too short: set patient_pattern (a regular "
        "expression whose first group in a file's name is the patient), or add a manifest.csv with the columns "
        "path, label, patient_id",
        stacklevel=5,
    )


# --- classes --------------------------------------------------------------------------------------


def _classes(frame: pd.DataFrame, settings: DataParams, *, where: str) -> pd.DataFrame:
    """The rows that have a class, with it as the label: by `label_map`, `label_separator` and `multi_label`."""
    separator, mapping = settings.label_separator, settings.label_map
    cells = [
        [part.strip() for part in label.split(separator) if part.strip()] if separator else [label]
        for label in frame["label"]
    ]
    seen = sorted({label for labels in cells for label in labels})
    strange = [label for label in mapping if label not in seen]
    if strange:
        raise InputError(f"{where}: label_map has {some(strange)}, which no image has: found {some(seen)}")
    wanted = mapping or {label: label for label in seen}
    # in the order of label_map, each class once
    hits = [
        list(dict.fromkeys(wanted[label] for label in wanted if label in labels)) for labels in map(set, cells)
    ]
    several = [path for path, hit in zip(frame["path"], hits, strict=True) if len(hit) > 1]
    if several and settings.multi_label == "refuse":
        raise InputError(
            f"{where}: {len(several)} images have several classes: {some(several)}: set multi_label to single "
            "(leave them out) or first_of_priority (the first in label_map)",
            items=several,
        )
    most = 1 if settings.multi_label == "single" else len(wanted)
    keep = np.array([1 <= len(hit) <= most for hit in hits], bool)
    if not keep.all():
        none = sum(not hit for hit in hits)
        more = sum(len(hit) > most for hit in hits)
        unmapped = pd.Series([label for labels in cells for label in labels if label not in wanted]).value_counts()
        reasons = [f"{none} have no label of label_map"] * (none > 0) + [f"{more} have several classes"] * (
            more > 0
        )
        found = f" (not in label_map: {some(f'{name} {n}x' for name, n in unmapped.items())})" * bool(
            len(unmapped)
        )
        warnings.warn(
            f"{where}: {(~keep).sum()} of {len(frame)} images are left out: {', '.join(reasons)}{found}",
            stacklevel=4,
        )
    if not keep.any():
        raise InputError(f"{where}: no image is left: every one has several classes or none")
    frame = frame[keep].assign(label=[hit[0] for hit in hits if 1 <= len(hit) <= most]).reset_index(drop=True)
    alike = pd.Series(sorted(set(frame["label"])))
    clash = alike[alike.str.casefold().duplicated(keep=False)].tolist()
    if clash:
        raise InputError(
            f"{where}: classes {some(clash)} differ in upper and lower case only: give them one name (label_map)"
        )
    return frame


# --- tables ---------------------------------------------------------------------------------------


def _table(table: Path, settings: DataParams, *, labelled: bool = True) -> tuple[pd.DataFrame, dict[str, str]]:
    """All of a table as str, and the names that path, label (if `labelled`), patient_id and split have in it.

    The columns of those names are renamed to path, ...; "line" says where a row stands.
    """
    rows, found = _read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    names = {
        "path": settings.path_column,
        "label": settings.label_column if labelled else "",
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
    # a column that has one of our names but is not the one that is meant
    taken = [key for key in names if key in found and key not in chosen]
    return frame.drop(columns=taken).rename(columns=chosen), names


def _paths(cells: pd.Series, table: Path, settings: DataParams) -> list[str]:
    """The cells of the path column as paths: as they are, or put into `path_template`.

    Folders with wildcards are searched once. A file that is not found keeps its template.
    """
    template = settings.path_template.replace("\\", "/")
    if not template:
        return [_normalised(path) for path in cells]
    folder, _, name = template.rpartition("/")
    if not any(c in folder for c in "*?["):
        return [_normalised(template.replace("{}", cell)) for cell in cells]
    places: dict[str, list[str]] = {}
    for place in sorted(place for place in table.parent.glob(folder) if place.is_dir()):
        inside = place.relative_to(table.parent)
        if not any(_is_hidden(part) for part in inside.parts):
            for entry in os.scandir(place):
                places.setdefault(entry.name, []).append((inside / entry.name).as_posix())
    files = [name.replace("{}", cell) for cell in cells]
    twice = [path for file in dict.fromkeys(files) if len(places.get(file, [])) > 1 for path in places[file]]
    if twice:
        raise InputError(
            f"{table}: path_template: {template!r} finds more than one file of a name: {some(twice)}: remove "
            "the copies, or make the template narrower",
            items=twice,
        )
    return [
        places[file][0] if file in places else _normalised(template.replace("{}", cell))
        for file, cell in zip(files, cells, strict=True)
    ]


def _path_hint(absent: list[str], column: str, settings: DataParams) -> str:
    if any("\\" in path for path in absent):
        return "; write / in place of \\"
    if column == "path" and not settings.path_template and not any("/" in path for path in absent):
        return "; if they are names of files in other folders, set path_template, e.g. 'images*/**/{}'"
    return ""


def _read_parquet(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """As `read_csv`; a cell without value is "", and "line" is the row's number from 1."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())[:200]})"
        ) from None
    columns = [str(name) for name in table.column_names]
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: a column name occurs twice in {', '.join(columns)}: rename or drop one")
    cells = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    rows = zip(*cells, strict=True)
    return [{**dict(zip(columns, row, strict=True)), "line": str(k)} for k, row in enumerate(rows, 1)], columns


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


def _patients(paths: list[str], pattern: str, root: Path) -> list[str]:
    compiled = _compiled("patient_pattern", pattern, "the patient's part")
    matches = [compiled.search(path.rsplit("/", 1)[-1]) for path in paths]
    without = [path for path, match in zip(paths, matches, strict=True) if not (match and match.group(1))]
    if without:
        raise InputError(
            f"patient_pattern: {pattern!r} finds no patient in {len(without)} of {len(paths)} file names in "
            f"{root}: {some(without)}: change the pattern, or write a manifest.csv",
            items=without,
        )
    return [match.group(1) for match in matches]


def _compiled(name: str, pattern: str, what: str) -> re.Pattern:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{name}: {pattern!r} is not a regular expression: {error}") from None
    if not compiled.groups:
        raise InputError(f"{name}: {pattern!r} has no group: put {what} in parentheses")
    return compiled


def _normalised(path: str) -> str:
    return PurePath(os.path.normpath(path)).as_posix()


def _image_ids(paths: Sequence[str]) -> list[str]:
    stems = [path[: -len(PurePath(path).suffix)] if PurePath(path).suffix else path for path in paths]
    counts = pd.Series(stems).value_counts()
    ids = [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    # "a.png" keeping its suffix may now be what "a.png.png" lost it for.
    return ids if len(set(ids)) == len(ids) else list(paths)
