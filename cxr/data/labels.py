"""Which class, which patient and which id an image has, from its label, its file's name or its path."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, on_one_line, some
from cxr.core.names import metric_names
from cxr.core.params import DataParams


def identities(
    paths: list[str], settings: DataParams, where: Path, *, below: list[str] | None = None
) -> dict[str, list[str]]:
    """image_id and patient_id of files. Without a `patient_pattern` each file is a patient, with a warning.

    Args: below: the paths without class folders, which are no patients; None: the whole paths.
    """
    ids = image_ids(paths)
    if settings.patient_pattern:
        return {"image_id": ids, "patient_id": _patients(below or paths, settings.patient_pattern, where)}
    warnings.warn(
        f"{where}: each file is treated as a separate patient. If a patient has several images, they may now be "
        "in two splits, and intervals are too short: set patient_pattern (a regular expression; its first group "
        "in a file's name is the patient), or add a manifest.csv with the columns path, label, patient_id",
        stacklevel=4,
    )
    return {"image_id": ids, "patient_id": ids}


def assign_classes(frame: pd.DataFrame, settings: DataParams, *, where: str) -> pd.DataFrame:
    """The rows that have one class, by `label_map`, `label_separator` and `multi_label`; `label` is the class."""
    mapping = settings.label_map
    cells = [labels or [""] for labels in read_cells(frame["label"], settings.label_separator, where=where)]
    seen = sorted({label for labels in cells for label in labels})
    refuse_unseen(mapping, seen, where=where)
    wanted = mapping or {label: label for label in seen}
    # The classes of each image, once each, in the order of label_map.
    hits = [
        list(dict.fromkeys(wanted[label] for label in wanted if label in labels)) for labels in map(set, cells)
    ]
    several = [path for path, hit in zip(frame["path"], hits, strict=True) if len(hit) > 1]
    if several and settings.multi_label == "refuse":
        raise InputError(
            f"{where}: {len(several)} images have several classes: {some(several)}: set multi_label to single "
            "(leave them out) or first_of_priority (take the first in label_map)",
            items=several,
        )
    most = 1 if settings.multi_label == "single" else len(wanted)
    keep = np.array([1 <= len(hit) <= most for hit in hits], bool)
    if not keep.all():
        none = sum(not hit for hit in hits)
        more = sum(len(hit) > most for hit in hits)
        unmapped = pd.Series([label for labels in cells for label in labels if label not in wanted]).value_counts()
        unmapped = unmapped.rename(index={"": "blank"})
        reasons = [f"{none} have no label in label_map"] * (none > 0) + [f"{more} have several classes"] * (
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
        raise InputError(
            f"{where}: no image is left, as all have several classes or none: change label_map or multi_label"
        )
    frame = frame[keep].assign(label=[hit[0] for hit in hits if 1 <= len(hit) <= most]).reset_index(drop=True)
    alike = pd.Series(sorted(set(frame["label"])))
    clash = alike[alike.str.casefold().duplicated(keep=False)].tolist()
    metric_names(alike.tolist())  # raises, rather than after a training
    if clash:
        raise InputError(
            f"{where}: classes {some(clash)} differ only in upper and lower case: give them one name in label_map"
        )
    return frame


LIST = "[]"
"""The `label_separator` of cells that hold a list, such as "['a', 'b']"."""


def read_cells(cells: Iterable[str], separator: str, *, where: str) -> list[list[str]]:
    """The labels in each cell of a table, stripped, without empty ones.

    Args: separator: between labels; "": a cell is one label, as it is; `LIST`: a cell is a list of texts.
    Raises: InputError: a cell that is no list, though `separator` says so.
    """
    if not separator:
        return [[cell] if cell else [] for cell in cells]
    found = []
    for cell in cells:
        parts: object = cell.split(separator)
        if separator == LIST:
            try:
                parts = ast.literal_eval(cell.strip()) if cell.strip() not in ("", "nan") else []
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                parts = None
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise InputError(
                f"{where}: {on_one_line(cell, 60)!r} is no list such as ['a', 'b'], which label_separator "
                f"'{LIST}' says: correct it, or give another separator"
            )
        found.append([part.strip() for part in parts if part.strip()])
    return found


def refuse_unseen(label_map: Iterable[str], seen: Iterable[str], *, where: str) -> None:
    """Raise InputError for labels of `label_map` that no image has: they may be misspelt."""
    seen = sorted(set(seen))
    if strange := [label for label in label_map if label not in seen]:
        raise InputError(
            f"{where}: label_map has {some(strange)}, but no image has this label: found {some(seen)}"
        )


def _patients(paths: list[str], pattern: str, root: Path) -> list[str]:
    """The first group of the pattern in each file's name, or, if it is not in every name, in each path."""
    compiled = compiled_pattern("patient_pattern", pattern, "the patient's part")
    without: list[str] = []
    for places in ([path.rsplit("/", 1)[-1] for path in paths], paths):
        matches = [compiled.search(place) for place in places]
        without = [path for path, match in zip(paths, matches, strict=True) if not (match and match.group(1))]
        if not without:
            return [match.group(1) for match in matches]
    raise InputError(
        f"patient_pattern: {pattern!r} finds no patient in {len(without)} of {len(paths)} file names, nor in the "
        f"names of their folders, in {root}: {some(without)}: change the pattern, or write a manifest.csv",
        items=without,
    )


def compiled_pattern(name: str, pattern: str, what: str) -> re.Pattern:
    """A regular expression with a group; InputError, with the parameter's `name`, for anything else."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{name}: {pattern!r} is not a regular expression: {error}") from None
    if not compiled.groups:
        raise InputError(f"{name}: {pattern!r} has no group: put {what} in parentheses")
    return compiled


def normalised(path: str) -> str:
    """A path with "/" and without "." and ".." parts."""
    return PurePath(os.path.normpath(path)).as_posix()


def image_ids(paths: Sequence[str]) -> list[str]:
    """The id of each image: its path without the suffix, or with it if two files differ only in the suffix."""
    stems = [path[: -len(PurePath(path).suffix)] if PurePath(path).suffix else path for path in paths]
    counts = pd.Series(stems).value_counts()
    ids = [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    # "a.png", which keeps its suffix, may equal "a.png.png" without it.
    return ids if len(set(ids)) == len(ids) else list(paths)
