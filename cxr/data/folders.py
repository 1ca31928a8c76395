"""Data sets that are folders: one sub-folder a class, with or without folders train, val and test above them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data import groups, lung_masks
from cxr.data.formats import FORMATS, SUFFIXES
from cxr.data.labels import assign_classes, compiled_pattern, identities
from cxr.data.walk import Walk, is_hidden, is_thumbnails, refuse_pictures_about_images, warn_of_equal_names

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def folder_rows(root: Path, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label and patient_id of the images in class folders, str.

    Also split, if the class folders lie in folders train, val and test (see `SPLIT_FOLDERS`; without val see
    `cxr.data.splits.val_from_train`), and lung_mask (`cxr.data.lung_masks`). Raises InputError.
    """
    refuse_table_options(root, settings)
    parts = _split_folders(root)
    walk = Walk(root, settings.image_folder)
    if parts is None:
        rows = _class_rows(walk, root, settings)
    else:
        named = parts.items()
        rows = [{**row, "split": split} for split, part in named for row in _class_rows(walk, part, settings)]
    walk.warn()
    frame = pd.DataFrame(rows)
    if not settings.image_folder:
        refuse_pictures_about_images(root, frame["path"].tolist(), classes=settings.label_map)
    if "split" in frame and settings.given_splits == "ignore":
        frame = frame.drop(columns="split")
    if settings.label_pattern:
        frame["label"] = _labels_by_name(frame, settings.label_pattern)
    frame = assign_classes(frame, settings, where=str(root))
    paths = frame["path"].tolist()
    below = [path.removeprefix(f"{folder}/") for path, folder in zip(paths, frame["folder"], strict=True)]
    masks = lung_masks.columns(root, paths, settings)
    frame = frame.assign(**identities(paths, settings, root, below=below), **masks)
    owners = frame["folder"] + ("\n" + frame["patient_id"] if settings.patient_pattern else "")
    warn_of_equal_names(root, paths, owners.tolist())
    return frame.drop(columns="folder")


def image_rows(root: Path, settings: DataParams) -> list[str]:
    """Paths of all image files below `root`, at any depth, relative to it, sorted. Raises InputError."""
    walk = Walk(root, settings.image_folder)
    paths = walk.files(root)
    walk.warn()
    if not settings.image_folder:
        refuse_pictures_about_images(root, paths)
    if not settings.patient_pattern:
        warn_of_equal_names(root, paths, [""] * len(paths))
    return paths


def refuse_table_options(root: Path, settings: DataParams) -> None:
    """Raise InputError for parameters that only tables have."""
    for name in ("path_template", "label_separator", "label_columns", "only", "repeated_rows"):
        if getattr(settings, name) != DataParams.model_fields[name].default:
            raise InputError(f"{name}: it is for tables, but {root} is read as folders of classes: leave it empty")
    groups.refuse(settings, where=str(root))


def subfolders(parent: Path) -> list[Path]:
    """The folders in `parent`, sorted, without hidden ones and those of thumbnails."""
    return sorted(
        entry
        for entry in parent.iterdir()
        if entry.is_dir() and not is_hidden(entry.name) and not is_thumbnails(entry.name)
    )


def _split_folders(root: Path) -> dict[str, Path] | None:
    """The folders of train, val and test by split; None unless there are at least train and test."""
    known = {alias: split for split, aliases in SPLIT_FOLDERS.items() for alias in aliases}
    folders = subfolders(root)
    parts: dict[str, Path] = {}
    others = []
    for folder in folders:
        split = known.get(folder.name.lower())
        if split is None:
            others.append(folder.name)
        elif split in parts:
            raise InputError(
                f"{root}: {parts[split].name} and {folder.name} both stand for {split}: keep one folder per split"
            )
        else:
            parts[split] = folder
    if not {"train", "test"} <= set(parts):
        return None
    if others:
        raise InputError(
            f"{root}: beside {' and '.join(sorted(folder.name for folder in parts.values()))} there is "
            f"{some(others)}: a folder holds either splits or classes; move these away, or give another folder"
        )
    return parts


def _class_rows(walk: Walk, parent: Path, settings: DataParams) -> list[dict[str, str]]:
    """path, label and class folder of the images in `parent`, as `walk` finds them; paths are below its root.

    With `label_pattern` the images may lie in `parent` itself; they have no label then.
    """
    entries = sorted(entry for entry in parent.iterdir() if not is_hidden(entry.name))
    folders = subfolders(parent)
    for entry in entries:
        if entry.is_dir() and is_thumbnails(entry.name):
            walk.leave_out(entry)
    loose = [entry.name for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    layout = f"expected one sub-folder per class with {FORMATS} files, or a manifest.csv"
    if not entries:
        raise InputError(f"{parent}: the folder is empty: {layout}")
    if not folders and loose and settings.label_pattern:  # a flat folder: names tell the classes
        return [{"path": path, "label": "", "folder": "."} for path in walk.files(parent)]
    if not folders:
        more = f" ({len(loose)} images are in the folder itself)" if loose else ""
        raise InputError(f"{parent}: no class folders{more}: {layout}")
    if loose:
        warning = UserWarning(
            f"{parent}: {len(loose)} images beside the class folders are left out: {some(loose)}"
        )
        warning.items = loose  # names that `cxr.data.pseudonyms` leaves out
        warnings.warn(warning, stacklevel=5)
    above = {parent.resolve(), *parent.resolve().parents}
    loops = [folder.name for folder in folders if folder.resolve() in above]
    if loops:
        raise InputError(f"{parent}: {some(loops)} is a link to a folder above it: remove the link")
    rows = [
        {"path": path, "label": folder.name, "folder": folder.relative_to(walk.root).as_posix()}
        for folder in folders
        for path in walk.files(folder)
    ]
    without = sorted({folder.name for folder in folders} - {row["label"] for row in rows})
    if without:
        below = f" below a folder '{settings.image_folder}' (image_folder)" if settings.image_folder else ""
        raise InputError(
            f"{parent}: no {FORMATS} files{below} in {some(without)}: every sub-folder is a class; put its "
            f"images there (only a table finds files with other suffixes than {', '.join(SUFFIXES)}), or move the "
            "folder away",
            items=without,
        )
    return rows


def _labels_by_name(frame: pd.DataFrame, pattern: str) -> list[str]:
    compiled = compiled_pattern("label_pattern", pattern, "the label's part")
    matches = [compiled.search(path.rsplit("/", 1)[-1]) for path in frame["path"]]
    found = [match.group(1) if match else None for match in matches]
    if not any(found):
        raise InputError(
            f"label_pattern: {pattern!r} finds no label in {len(frame)} file names, e.g. "
            f"{some(frame['path'].iloc[:1])}: change the pattern, or leave it empty"
        )
    return [name or folder for name, folder in zip(found, frame["label"], strict=True)]
