"""The manifest: which images a study uses, and each one's class, patient, split and hash.

A manifest is a DataFrame with the columns `COLUMNS`, one row an image, sorted by `image_id`:

    image_id    str, unique: the path without its suffix; with the suffix if two files differ only in it
    path        str, with "/", relative to the data root, or absolute; for the phantom see `cxr.data.phantom.rows`
    label       str, the class
    patient_id  str; no patient is in two splits
    split       "train", "val" or "test"
    sha256      hash of the file's bytes; for the phantom a hash of everything that its pixels depend on

If the source has masks, there are also `lesion_mask` or `lung_mask` or both: paths like `path`, empty if an image
has no mask. After each follows the hash of the masks' bytes, `lesion_mask_sha256` and `lung_mask_sha256`.
If an image can have several findings (`task: multi_label`), `label` names those that it has, and there is a column
`finding_<name>` for each finding (`cxr.data.multi_label`).
Last come the columns that the parameter `groups` declares, as `group_<name>` (`cxr.data.groups`).

With the parameter `pseudonymise`, image_id, path, patient_id and the masks are pseudonyms (`cxr.data.pseudonyms`).
They are given as soon as the files are listed. So all that follows, and all that it says, has no other names.

The manifest says which bytes a study used. `cxr.data.loading.load_images` refuses files that changed since.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.files import require_regular
from cxr.core.params import DataParams
from cxr.data import groups, lung_masks, multi_label, pseudonyms
from cxr.data.folders import folder_rows, image_rows, refuse_table_options, subfolders
from cxr.data.formats import FORMATS, SUFFIXES
from cxr.data.labels import identities
from cxr.data.loading import drop_unusable
from cxr.data.phantom.rows import phantom_rows
from cxr.data.reading import MAX_BYTES, for_each, hash_file, naming
from cxr.data.splits import assign_splits, check_given_splits, limit_per_class, val_from_train
from cxr.data.tables import MASKS, OWN, PARQUET, file_paths, read_csv, read_parquet, read_table, table_rows


def source(settings: Any) -> tuple[Path | None, Path | None]:
    """(data root, table): (None, None) for the phantom, (folder, None) for folders. Raises InputError."""
    if settings.data == "phantom":
        return None, None
    if not settings.data:
        raise InputError("data: it is empty: give 'phantom', a folder with one sub-folder per class, or a table")
    path = pseudonyms.path_of(settings.data)
    if path.is_dir():
        table = path / "manifest.csv"
        return path, _regular(table, settings) if table.exists() and not table.is_dir() else None
    shown = settings.data if pseudonyms.is_neutral(settings.data) else path
    if not path.exists():
        raise InputError(
            f"data: {shown} does not exist: give 'phantom', a folder with one sub-folder per class, or a table"
        )
    if path.suffix.lower() not in (".csv", *PARQUET):
        raise InputError(
            f"data: {shown} is neither a folder nor a .csv or .parquet file: give a folder with one sub-folder "
            "per class, or a table"
        )
    return path.parent, _regular(path, settings)


def _regular(table: Path, settings: Any) -> Path:
    """The path of a table. Raises InputError for a pipe or a device, and for a file that is too large."""
    try:
        require_regular(table, most=MAX_BYTES)
    except OSError as error:
        shown = settings.data if pseudonyms.is_neutral(settings.data) else table
        raise InputError(
            f"data: {shown} cannot be read as a table: {error.strerror}: give a CSV or Parquet file"
        ) from None
    return table


def has_labels(settings: Any) -> bool:
    """Whether the images have labels: there are class folders, or a table has the label column.

    A table that lacks a `label_column` other than "label" also counts as labelled: `tables.table_rows` then says
    what is wrong. Raises InputError like `source`, and if the table cannot be read.
    """
    root, table = source(settings)
    if root is None:
        return True
    if table is None:
        return bool(subfolders(root))
    _, found = read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    named = settings.label_column != "label" or settings.label_columns
    return settings.label_column in found or bool(named)


def unlabelled_rows(root: Path, table: Path | None, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label ("") and patient_id of a table's images, or of all images below a folder, str.

    Also split, lesion_mask and lung_mask, if a table has them, or lung_mask of folders. Raises InputError.
    """
    if table is not None:
        return table_rows(table, settings, labelled=False)
    refuse_table_options(root, settings)
    paths = image_rows(root, settings)
    if not paths:
        raise InputError(
            f"{root}: no {FORMATS} files: give a folder with files that have one of the suffixes "
            f"{', '.join(SUFFIXES)}, or a table (CSV or Parquet) with the column path"
        )
    found = pd.DataFrame({"path": paths, "label": ""})
    return found.assign(**identities(paths, settings, root), **lung_masks.columns(root, paths, settings))


def extra_columns(settings: DataParams) -> pd.DataFrame | None:
    """All other columns of a table (not path, label, patient, split or masks), str, "" for no value.

    The index is the path as in the manifest; all files of the table are there, in its order. None for folders and
    the phantom. Raises InputError like `tables.table_rows` if the table cannot be read.
    """
    _, table = source(settings)
    if table is None:
        return None
    frame, _ = read_table(table, settings)
    frame = frame[frame["path"].str.strip() != ""]
    paths = file_paths(frame["path"].str.strip(), table, settings)
    found = frame[[name for name in frame if name not in OWN]].set_axis(pd.Index(paths, name="path"))
    return found[~found.index.duplicated()]  # of several rows of a file (`repeated_rows`), the first


COLUMNS = ("image_id", "path", "label", "patient_id", "split", "sha256")


def build_manifest(settings: DataParams, *, vary: int | None = None) -> pd.DataFrame:
    """The manifest of `settings.data`. The same settings and files give the identical frame.

    `vary`: with `vary_split`, the seed of the training. It is added to `split_seed` for the splits. Which images
    `max_images_per_class` chooses depends on `split_seed` alone: all trainings have the same images.

    `settings.data` is one of
    - "phantom": the synthetic data set. With a `shortcut` every path ends in "?marker=class": these are the images
      of the stage that has the shortcut, and of the test. `cxr.data.phantom.rows.with_random_markers` gives those
      of the other stage;
    - a table (CSV or Parquet), or a folder with a `manifest.csv`: columns path (relative to the table's folder, or
      absolute), label, patient_id, and optionally split, lesion_mask and lung_mask. Other columns are ignored,
      except those that `groups` declares.
      `path_column`, `label_column`, `patient_column` and `split_column` give other names;
    - a folder with one sub-folder per class. All image files (`cxr.data.formats.SUFFIXES`) at any depth of a
      sub-folder belong to its class; hidden files are ignored. The first group of `patient_pattern` in a file's
      name is the patient. Without a pattern each image is treated as a separate patient, with a warning;
    - a folder with folders train, test and usually val, each with one sub-folder per class.

    docs/data.md has examples and explains `label_map`, `label_separator` and `multi_label`.

    With `on_bad_image: skip`, files that cannot be decoded and images whose masks do not fit are left out first,
    with a warning. `manifest.attrs["skipped"]` lists them as {"path", "reason"}; otherwise it is []. Then
    `max_images_per_class` limits each class (see `splits.limit_per_class`). Given splits are kept unless
    `given_splits` is ignore; otherwise `splits.assign_splits` makes them.

    Every file is read for its hash. No file is decoded unless bad ones are skipped: see `loading.check_images`.

    Returns a DataFrame with the columns `COLUMNS`, those of masks and of groups, all str, sorted by image_id, with
    a RangeIndex. Raises InputError if data are missing or incomplete, if the splits cannot all have every class,
    or if splits are to vary that the data give.
    """
    root, table, manifest, skipped = _listed(settings, labelled=True)
    where = str(root if table is None or isinstance(root, pseudonyms.Folder) else table)
    if "split" in manifest:
        if vary is not None:
            raise InputError(
                f"vary_split: {where} gives splits, and they are the same for every seed: set "
                "given_splits to ignore, or vary_split to false"
            )
        if table is None and "val" not in set(manifest["split"]):
            manifest["split"] = _val_from_train(manifest, root, settings)
        check_given_splits(multi_label.with_and_without(manifest), where=where)
    else:
        manifest["split"] = _made_splits(manifest, settings, vary or 0)
    manifest = _hashed(manifest, root)
    if root is not None:
        _warn_of_copies(manifest)
    manifest = manifest[_columns(manifest)].astype(str)
    manifest.attrs["skipped"] = skipped
    return manifest


def with_splits_of(manifest: pd.DataFrame, settings: DataParams, seed: int) -> pd.DataFrame:
    """`build_manifest(settings, vary=seed)` from that of another seed: only splits differ. Reads no file."""
    return manifest.assign(split=_made_splits(manifest, settings, seed))


def _made_splits(manifest: pd.DataFrame, settings: DataParams, vary: int) -> np.ndarray:
    rows = multi_label.with_and_without(manifest)
    splits = assign_splits(
        rows["label"],
        rows["patient_id"],
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.split_seed + vary,
    )
    by_patient = dict(zip(rows["patient_id"], splits, strict=True))
    return manifest["patient_id"].map(by_patient).to_numpy()


def list_images(settings: DataParams, *, labelled: bool, hashed: bool = True) -> pd.DataFrame:
    """All images of `settings.data` as in `build_manifest`, but without making splits: for use without training.

    `split` is what folders or a column give, if `given_splits` is honour, and "" otherwise.

    Args:
        settings: which data.
        labelled: read labels (see `has_labels`). Otherwise all labels are "", and the images of a folder
            may lie at any depth.
        hashed: compute the hash of every file. Otherwise hashes are "", no file is read, and images cannot be
            loaded from this manifest.
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
) -> tuple[Path | pseudonyms.Folder | None, Path | None, pd.DataFrame, list[dict[str, str]]]:
    """Data root, table, the rows that `settings` select, sorted by image_id, and skipped files.

    From here on, all names are pseudonyms, if `settings` ask for them.
    """
    root, table = source(settings)
    if settings.shortcut != "none" and root is not None:
        raise InputError(
            f"shortcut: '{settings.shortcut}' needs the markers of the phantom, but {root} holds other images: "
            "set shortcut to none, or data to phantom"
        )
    if settings.task == "multi_label" and root is not None and table is None:
        raise InputError(
            f"task: multi_label needs a table, but {root} is read as folders of classes, where an image has one: "
            "give a table, or set task to single_label"
        )
    if root is None:
        groups.refuse(settings, where="the phantom")
        rows = phantom_rows(settings) if labelled else phantom_rows(settings).assign(label="")
    else:
        rows, root = pseudonyms.replaced(lambda: _rows(root, table, settings, labelled), settings, root)
    manifest = rows.sort_values("image_id", kind="stable", ignore_index=True)
    skipped: list[dict[str, str]] = []
    if root is not None and settings.on_bad_image == "skip":
        manifest, skipped = drop_unusable(manifest, root, settings)
    if settings.max_images_per_class:
        by_class = multi_label.by_class(manifest)
        keep = limit_per_class(
            by_class["label"],
            by_class["patient_id"],
            at_most=settings.max_images_per_class,
            seed=settings.split_seed,
        )
        manifest = manifest.loc[by_class.index[keep].unique()].reset_index(drop=True)
    return root, table, manifest, skipped


def _rows(root: Path, table: Path | None, settings: DataParams, labelled: bool) -> pd.DataFrame:
    if not labelled:
        return unlabelled_rows(root, table, settings)
    return folder_rows(root, settings) if table is None else table_rows(table, settings)


def _hashed(manifest: pd.DataFrame, root: Path | pseudonyms.Folder | None) -> pd.DataFrame:
    """Add the hash of every file and mask that is not known yet."""
    if root is None:
        return manifest
    if "sha256" not in manifest:
        manifest["sha256"] = for_each(lambda row: hash_file(root, row.path), manifest, what="hashing")
    for name in MASKS:
        if name in manifest:

            def work(row: Any, name: str = name) -> str:
                path = getattr(row, name)
                with naming(name, path):
                    return hash_file(root, path) if path else ""

            manifest[f"{name}_sha256"] = for_each(work, manifest, what=f"hashing {name}")
    return manifest


def data_root(settings: Any) -> Path | pseudonyms.Folder | None:
    """The absolute folder that paths in the manifest are relative to; None for the phantom.

    If the data set has pseudonyms, it is one that finds the files by them (`pseudonyms.Folder`).
    `settings` is any object with the attribute `data`. Raises InputError if there is no such folder or table.
    """
    root = source(settings)[0]
    return root if root is None else pseudonyms.folder(root, pseudonyms.neutral(settings).data)


def classes(manifest: pd.DataFrame) -> list[str]:
    """The names of the classes, or of the findings, sorted.

    The position in this list is the number of a class everywhere.
    """
    return multi_label.names(manifest) or sorted(set(manifest["label"]))


def class_index(labels: pd.Series, names: Sequence[str]) -> np.ndarray:
    """The position of each label in `names` (see `classes`), int32 [n]. Raises KeyError for other labels."""
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[label] for label in labels], np.int32)


def manifest_text(manifest: pd.DataFrame) -> str:
    """The manifest as CSV: the columns in their order, rows as they are, newline "\\n"."""
    return manifest[_columns(manifest)].to_csv(index=False, lineterminator="\n")


def manifest_hash(manifest: pd.DataFrame) -> str:
    """SHA-256 (hex) of `manifest_text` in UTF-8; a file by `write_manifest` has the same hash."""
    return hashlib.sha256(manifest_text(manifest).encode()).hexdigest()


def write_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Write `manifest_text` to `path`. `read_manifest` returns the identical frame."""
    Path(path).write_bytes(manifest_text(manifest).encode())


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a file of `write_manifest`. Raises InputError for other files."""
    rows, found = read_csv(Path(path))
    if found != _columns(found):
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)} of a manifest that cxr wrote, "
            f"found {', '.join(found)}: give a file of write_manifest"
        )
    manifest = pd.DataFrame(rows, columns=found, dtype=str)
    if manifest.empty or manifest["image_id"].duplicated().any():
        raise InputError(f"{path}: no rows, or one image_id twice: write the manifest again")
    return manifest


def _columns(present: Iterable[str]) -> list[str]:
    """The columns of a manifest in order, with those of masks, findings and groups that are `present`."""
    present = list(present)
    masks = [column for name in MASKS if name in present for column in (name, f"{name}_sha256")]
    return [*COLUMNS, *masks, *multi_label.columns(present), *groups.columns(present)]


def _val_from_train(manifest: pd.DataFrame, root: Path | pseudonyms.Folder, settings: DataParams) -> np.ndarray:
    warnings.warn(
        f"{root}: no val folder: {settings.val_fraction:g} of train (val_fraction) becomes val, by patient",
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
            f"{len(copies)} files are byte for byte the same in two splits, e.g. {some(first)}: remove the "
            "copies, or give them one patient_id",
            stacklevel=3,
        )
