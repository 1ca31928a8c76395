"""TODO"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data.folders import folder_rows
from cxr.data.layouts import source, unlabelled_rows
from cxr.data.phantom.rows import phantom_rows
from cxr.data.reading import for_each, read_file
from cxr.data.splits import assign_splits, check_given_splits, limit_per_class, val_from_train
from cxr.data.tables import MASKS, read_csv, table_rows
from cxr.data.usable import drop_unusable

COLUMNS = ("image_id", "path", "label", "patient_id", "split", "sha256")


def build_manifest(settings: DataParams) -> pd.DataFrame:
    """The manifest of `settings.data`; the same settings and files give the identical frame.

    `settings.data` is one of
    - "phantom": the embedded data set (`phantom`). With a `shortcut`, every path ends in "?marker=class": the
      images of the stage that has the shortcut, and those of the test; `with_markers` gives the other stage's;
    - a folder that holds a `manifest.csv`, or the path of a table, CSV or Parquet: columns path (relative to the
      table's folder, or absolute), label, patient_id and optionally split, lesion_mask, lung_mask (see
      `load_regions`); further columns are ignored. `path_column` and the like name other columns;
    - a folder with one sub-folder a class; image files (`images.SUFFIXES`) at any depth below it belong to
      the class, hidden ones are left out. The patient is the first group of `patient_pattern`, searched for in the
      file's name; without a pattern every image is its own patient, and a warning says so;
    - a folder with the folders train, test and, as a rule, val, each with one sub-folder a class.

    docs/data.md has examples, and what `label_map`, `label_separator` and `multi_label` make of labels.

    With `on_bad_image: skip` files that do not decode to the end, or whose masks do not fit, are left out before
    anything else, with a warning; `manifest.attrs["skipped"]` lists them as {"path", "reason"} ([] otherwise).
    With `max_images_per_class` at most so many images of each class are kept, see `limit_per_class`.
    Given splits are honoured as they are unless `given_splits` says ignore; otherwise see `assign_splits`.

    Returns a DataFrame with the columns `COLUMNS` and those of masks, if any, all str, sorted by image_id, with a
    RangeIndex. Raises InputError when the data are missing, incomplete, or cannot be split so that every class is
    in every split. Reads every file for its sha256 but, unless bad ones are to be skipped, decodes
    none: that is `check_images`' work.
    """
    root, table, manifest, skipped = _listed(settings, labelled=True)
    if "split" in manifest:
        if table is None and "val" not in set(manifest["split"]):
            manifest["split"] = _val_from_train(manifest, root, settings)
        check_given_splits(manifest, where=str(table or root))
    else:
        manifest["split"] = assign_splits(
            manifest["label"],
            manifest["patient_id"],
            val_fraction=settings.val_fraction,
            test_fraction=settings.test_fraction,
            seed=settings.split_seed,
        )
    manifest = _hashed(manifest, root)
    if root is not None:
        _warn_of_copies(manifest)
    manifest = manifest[_columns(manifest)].astype(str)
    manifest.attrs["skipped"] = skipped
    return manifest


def list_images(settings: DataParams, *, labelled: bool, hashed: bool = True) -> pd.DataFrame:
    """A manifest of all images of `settings.data`, as `build_manifest` makes it, that is not split: nothing is
    trained on them. `split` is what folders or a column say ("honour"), or else "".

    Args:
        labelled: whether labels are read (see `layouts.has_labels`), or all are "". Without them a folder's
            images may lie at any depth.
        hashed: with the sha256 of every file; without (""), no file is read, and none can be loaded from it.
    """
    root, _, manifest, skipped = _listed(settings, labelled=labelled)
    if "split" not in manifest or settings.given_splits == "ignore":
        manifest["split"] = ""
    if not hashed:
        manifest["sha256"] = ""
    elif root is not None:
        manifest = _hashed(manifest, root)
    manifest = manifest[_columns(manifest) if hashed else list(COLUMNS)].astype(str)
    manifest.attrs["skipped"] = skipped
    return manifest


def _listed(
    settings: DataParams, *, labelled: bool
) -> tuple[Path | None, Path | None, pd.DataFrame, list[dict[str, str]]]:
    """Data root, table, the rows that `settings` ask for, sorted by image_id, and what was skipped of them."""
    root, table = source(settings)
    if settings.shortcut != "none" and root is not None:
        raise InputError(
            f"shortcut: '{settings.shortcut}' needs the phantom's markers, and {root} holds other images: set "
            "shortcut to none, or data to phantom"
        )
    if root is None:
        rows = phantom_rows(settings) if labelled else phantom_rows(settings).assign(label="")
    elif not labelled:
        rows = unlabelled_rows(root, table, settings)
    else:
        rows = folder_rows(root, settings) if table is None else table_rows(table, settings)
    manifest = rows.sort_values("image_id", kind="stable", ignore_index=True)
    skipped: list[dict[str, str]] = []
    if root is not None and settings.on_bad_image == "skip":
        manifest, skipped = drop_unusable(manifest, root, settings)
    if settings.max_images_per_class:
        keep = limit_per_class(
            manifest["label"],
            manifest["patient_id"],
            at_most=settings.max_images_per_class,
            seed=settings.split_seed,
        )
        manifest = manifest[keep].reset_index(drop=True)
    return root, table, manifest, skipped


def _hashed(manifest: pd.DataFrame, root: Path | None) -> pd.DataFrame:
    """With the sha256 of every file and mask, where it is not known yet."""
    if root is None:
        return manifest
    if "sha256" not in manifest:
        manifest["sha256"] = for_each(
            lambda row: hashlib.sha256(read_file(root, row.path)).hexdigest(), manifest, what="hashing"
        )
    for name in MASKS:
        if name in manifest:
            manifest[f"{name}_sha256"] = [
                hashlib.sha256((root / path).read_bytes()).hexdigest() if path else "" for path in manifest[name]
            ]
    return manifest


def data_root(settings: Any) -> Path | None:
    """The absolute folder that the manifest's paths are relative to; None for the phantom.

    `settings` is anything with a `data` attribute. Raises InputError when there is no such folder or CSV.
    """
    return source(settings)[0]


def classes(manifest: pd.DataFrame) -> list[str]:
    """The class names, sorted: the position in this list is a class' number everywhere."""
    return sorted(set(manifest["label"]))


def class_index(labels: pd.Series, names: Sequence[str]) -> np.ndarray:
    """The number of each label among `names` (`classes`), int32 [n]. Raises KeyError for any other label."""
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[label] for label in labels], np.int32)


def manifest_text(manifest: pd.DataFrame) -> str:
    """Canonical CSV of a manifest: `COLUMNS` and those of masks in order, rows as they are, newline "\\n"."""
    return manifest[_columns(manifest)].to_csv(index=False, lineterminator="\n")


def manifest_hash(manifest: pd.DataFrame) -> str:
    """sha256 (hex) of `manifest_text` in UTF-8, which is also that of a file by `write_manifest`."""
    return hashlib.sha256(manifest_text(manifest).encode()).hexdigest()


def write_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Write `manifest_text` to `path`; `read_manifest` gives back the identical frame."""
    Path(path).write_bytes(manifest_text(manifest).encode())


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote. Raises InputError when it is no such file."""
    rows, found = read_csv(Path(path))
    if found != _columns(found):
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)} of a manifest that cxr wrote, "
            f"found {', '.join(found)}"
        )
    manifest = pd.DataFrame(rows, columns=found, dtype=str)
    if manifest.empty or manifest["image_id"].duplicated().any():
        raise InputError(f"{path}: a manifest has at least one row and no image_id twice: write it anew")
    return manifest


def _columns(present: Iterable[str]) -> list[str]:
    """The columns of a manifest that has those `present`, in order."""
    present = set(present)
    masks = [name for name in MASKS if name in present]
    return [*COLUMNS, *(column for name in masks for column in (name, f"{name}_sha256"))]


def _val_from_train(manifest: pd.DataFrame, root: Path, settings: DataParams) -> np.ndarray:
    warnings.warn(
        f"{root}: no val folder: {settings.val_fraction:g} of train (val_fraction) becomes val, patients whole",
        stacklevel=3,
    )
    return val_from_train(
        manifest["label"],
        manifest["patient_id"],
        manifest["split"],
        val_fraction=settings.val_fraction,
        seed=settings.split_seed,
    )


def _warn_of_copies(manifest: pd.DataFrame) -> None:
    spread = manifest.groupby("sha256")["split"].nunique()
    copies = manifest[manifest["sha256"].isin(spread.index[spread > 1])]
    if len(copies):
        first = copies.loc[copies["sha256"] == copies["sha256"].iloc[0], "path"].tolist()
        warnings.warn(
            f"{len(copies)} files lie in one split and, byte for byte the same, in another, e.g. {some(first)}: "
            "drop the copies or give them one patient_id",
            stacklevel=3,
        )
