"""Images, their labels and their splits: the manifest, patient-grouped splits, and loading.

A manifest is a DataFrame with the columns `COLUMNS`, one row an image, sorted by `image_id`:

    image_id    str, unique: the path without its suffix (with it where two files differ in the suffix only)
    path        str, '/'-separated, relative to the data root, or absolute; "phantom://<seed>/<index>", with
                "?marker=class" or "?marker=random" behind it for images with a token (`cxr.phantom.render`)
    label       str, the class
    patient_id  str, what splits are grouped by
    split       "train", "val" or "test"
    sha256      of the file's bytes; for the phantom of everything that its pixels depend on

and, where the source has them, `lesion_mask`, `lung_mask` or both (a path like `path`; empty: no mask for this
image), each followed by the sha256 of the masks' bytes, `lesion_mask_sha256` and `lung_mask_sha256`.

The manifest says which bytes a study used; `load_images` refuses bytes that have changed since.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath
from typing import Any

import joblib
import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from cxr import phantom
from cxr.errors import InputError
from cxr.params import DataParams

COLUMNS = ("image_id", "path", "label", "patient_id", "split", "sha256")
MASKS = ("lesion_mask", "lung_mask")
SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg")
SHOWN = 5  # how many files, rows or patients a message lists

# ITU-R BT.709 as in skimage.color.rgb2gray; the last entry is Pillow's offset.
_LUMINANCE = (0.2125, 0.7154, 0.0721, 0.0)
# What a class that is absent from a split costs, where an imbalance costs less than 1 / the fraction of the split.
_ABSENT = 1e6
# Rendering 128 x 128 takes about 10 ms, starting a process a second: give each at least two seconds' work.
_PIXELS_A_PROCESS = 200 * 128**2
_PHANTOM = re.compile(r"(phantom://(\d+)/(\d+))(?:\?marker=(class|random))?")


# --- the manifest ---------------------------------------------------------------------------------


def build_manifest(settings: DataParams) -> pd.DataFrame:
    """The manifest of `settings.data`; the same settings and files give the identical frame.

    `settings.data` is one of
    - "phantom": the embedded data set (`cxr.phantom`). With a `shortcut`, every path ends in "?marker=class": the
      images of the stage that has the shortcut, and those of the test; `with_markers` gives the other stage's;
    - a folder that holds a `manifest.csv`, or the path of such a CSV: columns path (relative to the CSV's
      folder, or absolute), label, patient_id and optionally split, lesion_mask, lung_mask (see `load_regions`);
      further columns are ignored;
    - a folder with one sub-folder a class; PNG and JPEG files at any depth below it belong to the class,
      hidden ones are left out. The patient is the first group of `patient_pattern`, searched for in the
      file's name; without a pattern every image is its own patient, and a warning says so.

    With `max_images_per_class` at most so many images of each class are kept, see `limit_per_class`.
    A split column is honoured as it is; otherwise see `assign_splits`.

    Returns a DataFrame with the columns `COLUMNS` and those of masks, if any, all str, sorted by image_id, with a
    RangeIndex. Raises InputError when the data are missing, incomplete, or cannot be split so that every class is
    in every split. Reads every file for its sha256 but decodes none: that is `check_images`' work.
    """
    root, table = _source(settings)
    if settings.shortcut != "none" and root is not None:
        raise InputError(
            f"shortcut: '{settings.shortcut}' needs the phantom's markers, and {root} holds other images: set "
            "shortcut to none, or data to phantom"
        )
    if root is None:
        manifest = _phantom_rows(settings)
    else:
        manifest = _folder_rows(root, settings) if table is None else _table_rows(table, settings)
    manifest = manifest.sort_values("image_id", kind="stable", ignore_index=True)
    if settings.max_images_per_class:
        keep = limit_per_class(
            manifest["label"],
            manifest["patient_id"],
            at_most=settings.max_images_per_class,
            seed=settings.split_seed,
        )
        manifest = manifest[keep].reset_index(drop=True)
    if "split" in manifest:
        _check_given_splits(manifest, where=str(table))
    else:
        manifest["split"] = assign_splits(
            manifest["label"],
            manifest["patient_id"],
            val_fraction=settings.val_fraction,
            test_fraction=settings.test_fraction,
            seed=settings.split_seed,
        )
    if root is not None:
        manifest["sha256"] = _for_each(
            lambda row: hashlib.sha256(_read(root, row.path)).hexdigest(), manifest, what="hashing"
        )
        _warn_of_copies(manifest)
        for name in MASKS:
            if name in manifest:
                manifest[f"{name}_sha256"] = [
                    hashlib.sha256((root / path).read_bytes()).hexdigest() if path else ""
                    for path in manifest[name]
                ]
    return manifest[_columns(manifest)].astype(str)


def data_root(settings: Any) -> Path | None:
    """The absolute folder that the manifest's paths are relative to; None for the phantom.

    `settings` is anything with a `data` attribute. Raises InputError when there is no such folder or CSV.
    """
    return _source(settings)[0]


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
    rows, found = _read_csv(Path(path))
    if found != _columns(found):
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)} of a manifest that cxr wrote, "
            f"found {', '.join(found)}"
        )
    manifest = pd.DataFrame(rows, columns=found, dtype=str)
    if manifest.empty or manifest["image_id"].duplicated().any():
        raise InputError(f"{path}: a manifest has at least one row and no image_id twice: write it anew")
    return manifest


def with_markers(manifest: pd.DataFrame, marker: str, *, lesion_contrast: float) -> pd.DataFrame:
    """The manifest of the same phantom images with the token of `marker`: "class" (it betrays the class) or
    "random" (drawn whatever the class); see `cxr.phantom.render`. `path` and `sha256` differ, nothing else does.

    Raises InputError for images without tokens (files, and a phantom without `shortcut`), for another `marker`,
    and when `lesion_contrast`, which the hashes depend on, is not the one that the manifest was made with.
    """
    found = [_PHANTOM.fullmatch(path) for path in manifest["path"]]
    if not all(match and match.group(4) for match in found):
        raise InputError(
            "markers: only images of a phantom with a shortcut have tokens, and these are others: make the "
            "manifest with data: phantom and shortcut: transfer or fine_tune"
        )
    if marker not in ("class", "random"):
        raise InputError(f"markers: class or random, got {marker!r}")
    _verify_phantom(manifest, lesion_contrast)
    paths = [f"{match.group(1)}?marker={marker}" for match in found]
    return manifest.assign(path=paths, sha256=[_phantom_hash(path, lesion_contrast) for path in paths])


def _columns(present: Iterable[str]) -> list[str]:
    """The columns of a manifest that has those `present`, in order."""
    present = set(present)
    masks = [name for name in MASKS if name in present]
    return [*COLUMNS, *(column for name in masks for column in (name, f"{name}_sha256"))]


def _source(settings: Any) -> tuple[Path | None, Path | None]:
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


def _phantom_rows(settings: DataParams) -> pd.DataFrame:
    table = phantom.catalogue(settings.phantom_images, settings.phantom_seed)
    token = "" if settings.shortcut == "none" else "?marker=class"
    paths = [f"phantom://{settings.phantom_seed}/{index}{token}" for index in table["index"]]
    return pd.DataFrame(
        {
            "image_id": table["image_id"].astype(str).to_numpy(),
            "path": paths,
            "label": table["label"].astype(str).to_numpy(),
            "patient_id": table["patient_id"].astype(str).to_numpy(),
            "sha256": [_phantom_hash(path, settings.lesion_contrast) for path in paths],
        }
    )


def _folder_rows(root: Path, settings: DataParams) -> pd.DataFrame:
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
            f"{root}: {len(loose)} images beside the class folders are left out: {_some(loose)}", stacklevel=3
        )
    rows = [{"path": path, "label": folder.name} for folder in folders for path in _images_below(root, folder)]
    without = sorted({folder.name for folder in folders} - {row["label"] for row in rows})
    if without:
        raise InputError(
            f"{root}: no PNG or JPEG files in {_some(without)}: every sub-folder is a class; put its images "
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
            f"{root}: {_some(without)}: change the pattern, or write a manifest.csv"
        )
    return [match.group(1) for match in matches]


def _table_rows(table: Path, settings: DataParams) -> pd.DataFrame:
    if settings.patient_pattern:
        raise InputError(
            f"patient_pattern: is for folders without a manifest, and {table} names the patients: leave it empty"
        )
    rows, found = _read_csv(table)
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
            raise InputError(f"{table}: no {name} in line {_some(missing)}: fill it in{hint}")
    frame["path"] = [_normalised(path) for path in frame["path"]]
    twice = frame["path"][frame["path"].duplicated()].unique().tolist()
    if twice:
        raise InputError(f"{table}: listed more than once: {_some(twice)}: keep one row a file")
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
                f"{table}: {len(absent)} of {len(listed)} {what} do not exist: {_some(absent)}: paths are "
                f"relative to {table.parent}, or absolute"
            )
    return frame[[*wanted, *masks]].assign(image_id=_image_ids(frame["path"].tolist()))


def _normalised(path: str) -> str:
    return PurePath(os.path.normpath(path)).as_posix()


def _read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
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


def _image_ids(paths: Sequence[str]) -> list[str]:
    stems = [path[: -len(PurePath(path).suffix)] if PurePath(path).suffix else path for path in paths]
    counts = pd.Series(stems).value_counts()
    ids = [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    # "a.png" keeping its suffix may now be what "a.png.png" lost it for.
    return ids if len(set(ids)) == len(ids) else list(paths)


def _warn_of_copies(manifest: pd.DataFrame) -> None:
    spread = manifest.groupby("sha256")["split"].nunique()
    copies = manifest[manifest["sha256"].isin(spread.index[spread > 1])]
    if len(copies):
        first = copies.loc[copies["sha256"] == copies["sha256"].iloc[0], "path"].tolist()
        warnings.warn(
            f"{len(copies)} files lie in one split and, byte for byte the same, in another, e.g. {_some(first)}: "
            "drop the copies or give them one patient_id",
            stacklevel=3,
        )


# --- splits ---------------------------------------------------------------------------------------


def limit_per_class(labels: Sequence[str], patients: Sequence[str], *, at_most: int, seed: int) -> np.ndarray:
    """Which images to keep so that each class has at most `at_most`; bool [n].

    Patients are taken whole, in one random order for all classes, until the next one would exceed a class'
    limit; of that one its first images (in row order) fill the class up. So every class ends with
    min(at_most, its images), and at most one patient a class is cut.
    """
    labels, patients = np.asarray(labels, dtype=object), np.asarray(patients, dtype=object)
    names, number = np.unique(patients.astype(str), return_inverse=True)
    place = np.random.default_rng([seed, 1]).permutation(len(names))[number]
    order = np.argsort(place, kind="stable")
    rank = pd.Series(labels[order]).groupby(labels[order], sort=False).cumcount().to_numpy()
    keep = np.zeros(len(labels), bool)
    keep[order] = rank < at_most
    return keep


def assign_splits(
    labels: Sequence[str], patients: Sequence[str], *, val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """A split for each image, grouped by patient and stratified by class; "train", "val" or "test", str [n].

    Each patient in turn, in random order, is drawn into a split with the room that is left there for its classes
    as the odds. So a patient with many images is as likely in each split as the fractions say, unless it alone
    would be more than half of a class there. Then single patients move, small ones first, for as long as that
    lowers the sum over splits s and classes c of
    (share of c's images in s - fraction of s)^2 / fraction of s,
    in which a class absent from a split outweighs any imbalance.

    Why not scikit-learn's StratifiedGroupKFold: its folds are of equal size, so that 15 and 30 % take 3 and 6
    of 20, and a patient larger than a fold unbalances them. On 555 images of 357 patients (one with 28 of a
    class' 111) its worst class missed its share by 0.17 to 0.18, this by 0.003 in the median and 0.018 at most
    over 300 seeds; on a phantom of 100 images it left a class out of a split.

    Patients may have images of several classes. Row order does not matter. Raises InputError with fewer than
    two classes, with a class of fewer than three patients, or when a class cannot be had in every split.
    """
    label_names, label = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    patient_names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(label_names) < 2:
        raise InputError(f"data: at least two classes are needed, found {_some(label_names.tolist()) or 'none'}")
    counts = np.zeros((len(patient_names), len(label_names)))
    np.add.at(counts, (patient, label), 1)
    having = (counts > 0).sum(axis=0)
    for name, n in zip(label_names, having, strict=True):
        if n < 3:
            raise InputError(_too_few(name, n))
    fractions = np.array([1 - val_fraction - test_fraction, val_fraction, test_fraction])
    shares = counts / counts.sum(axis=0)
    rng = np.random.default_rng([seed, 2])
    for _ in range(20):  # a start in which no single move helps an absent class is rare: take another
        order = rng.permutation(len(patient_names))
        split = np.empty(len(order), int)
        split[order] = _allocate(shares[order], fractions, rng)
        present = np.array([(shares[split == s] > 0).any(axis=0) for s in range(3)])
        if present.all():
            return np.array(SPLITS)[split][patient]
    first = int(np.flatnonzero(~present.all(axis=0))[0])
    raise InputError(_too_few(label_names[first], having[first]))


def _allocate(shares: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Split number of each patient, int [patients]; `shares` [patients, classes] sums to 1 over patients."""
    fits = (shares[:, None, :] <= fractions[:, None] / 2).all(axis=-1)
    fits[~fits.any(axis=1), fractions.argmax()] = True
    have = np.zeros((len(fractions), shares.shape[1]))
    split = np.zeros(len(shares), int)
    for p, chance in enumerate(rng.random(len(shares))):
        # Not the split where the imbalance grows least, which for a large patient is nearly always the largest.
        room = np.clip(fractions[:, None] - have, 0, None) @ shares[p] * fits[p]
        odds = np.cumsum(room if room.sum() > 1e-12 else fractions * fits[p])
        split[p] = np.searchsorted(odds, chance * odds[-1], side="right")
        have[split[p]] += shares[p]

    size = shares.sum(axis=1)
    tiny = shares[shares > 0].min() / 2  # below: no image, whatever rounding left

    def cost(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        f = fractions[which][:, None]
        return ((rows - f) ** 2 / f + _ABSENT * (rows < tiny)).sum(axis=-1)

    everyone, all_splits = np.arange(len(shares)), np.arange(len(fractions))
    while True:
        now = cost(have, all_splits)
        leave = cost(have[split] - shares, split) - now[split]
        enter = np.stack([cost(have[s] + shares, np.full(len(shares), s)) - now[s] for s in all_splits], axis=1)
        change = leave[:, None] + enter
        change[everyone, split] = 0
        lowers = change < -1e-9
        if not lowers.any():
            return split
        fills = change < -_ABSENT / 2
        chosen = fills if fills.any() else lowers
        # The smallest patients first, so that the large ones stay where chance has put them if that can be.
        chosen &= (size == size[chosen.any(axis=1)].min())[:, None]
        p, s = np.unravel_index(np.where(chosen, change, 0).argmin(), change.shape)
        split[p] = s
        have = np.stack([shares[split == k].sum(axis=0) for k in all_splits])


def _too_few(name: str, n: int) -> str:
    return (
        f"data: class '{name}' has {n} patient{'s' if n != 1 else ''}, too few for each of train, val and "
        "test to hold one: add images of more patients, leave the class out or merge it with another, or raise "
        "max_images_per_class if that is what cut it down"
    )


def _check_given_splits(manifest: pd.DataFrame, *, where: str) -> None:
    found = sorted(set(manifest["split"]))
    if found != sorted(SPLITS):
        raise InputError(
            f"{where}: the split column has {_some(found)}: it needs all of train, val and test and nothing "
            "else; leave the column out to have the splits made"
        )
    spread = manifest.groupby("patient_id")["split"].agg(lambda values: ", ".join(sorted(set(values))))
    torn = [f"{patient} ({splits})" for patient, splits in spread.items() if ", " in splits]
    if torn:
        raise InputError(
            f"{where}: {len(torn)} patients are in more than one split: {_some(torn)}: a patient's images belong "
            "in one split; correct the column or leave it out"
        )
    if manifest["label"].nunique() < 2:
        raise InputError(f"{where}: at least two classes are needed, found {manifest['label'].iloc[0]}")
    table = pd.crosstab(manifest["label"], manifest["split"])
    for name, row in table.iterrows():
        absent = [split for split in SPLITS if row[split] == 0]
        if absent:
            patients = manifest.loc[manifest["label"] == name, "patient_id"].nunique()
            raise InputError(
                f"{where}: class '{name}' ({patients} patients) has no image in {', '.join(absent)}: every class "
                "needs images in every split; correct the split column, leave it out, or raise "
                "max_images_per_class if that is what cut the class down"
            )


# --- loading --------------------------------------------------------------------------------------


def check_images(manifest: pd.DataFrame, root: Path | None) -> None:
    """Decode every pixel of every file, masks too. Raises InputError that counts the unusable images and lists up
    to five; a mask is also unusable when it is not a PNG or its proportions are not those of its image.

    Nothing to do for the phantom (`root` None).
    """
    if _is_phantom(manifest):
        return
    folder = _root(root)
    names = [name for name in MASKS if name in manifest]

    def work(row: Any) -> None:
        width, height = _decode(_read(folder, row.path)).size
        for name in names:
            if path := getattr(row, name):
                with _naming(name, path):
                    rows, columns = _inside(_read(folder, path)).shape
                    # Up to a pixel, since one may have been made on a smaller copy of the other.
                    if abs(columns * height - rows * width) > max(width, height, columns, rows):
                        raise _Unusable(f"has {columns}x{rows} pixels, other proportions than {width}x{height}")

    _for_each(work, manifest, what="checking")


def load_images(
    manifest: pd.DataFrame,
    *,
    root: Path | None,
    size: int,
    cache: Path | None,
    lesion_contrast: float | None = None,
    verify: bool = True,
) -> np.ndarray:
    """The images in the manifest's row order, uint8 [n, size, size], grey values over 0..255; read-only.

    Colour becomes luminance with the weights of `skimage.color.rgb2gray`; transparency is composited on black;
    palettes are expanded; 16-bit grey is scaled from 0..65535; an EXIF orientation is applied. The whole image
    is resized to the square, its aspect ratio not kept, by Pillow's BILINEAR filter in float32: a triangle as
    wide as the scale when shrinking (anti-aliased), bilinear interpolation when enlarging, half-pixel centres,
    as `tf.image.resize(method="bilinear", antialias=True)` has it. Then rounded to the nearest integer.

    With `verify` each file's sha256 is compared with the manifest's. What was verified is cached as `.npy` in
    the folder `cache` (None: no cache) under a key that depends on the ids and hashes of all rows, the size,
    and the code; a hit reads no image file. Without `verify` the cache is neither read nor written.

    `root`: `data_root(settings)`. `lesion_contrast` is needed for the phantom and for nothing else.
    Raises InputError, with a count and up to five names, for files that are missing, cannot be decoded
    to the end, or have changed since the manifest was made.
    """
    if size < 1:
        raise InputError(f"size: at least 1 pixel, got {size}")
    if not len(manifest):
        raise InputError("manifest: no rows: there is no image to load")
    if _is_phantom(manifest):
        contrast = _contrast(lesion_contrast)
        if verify:
            _verify_phantom(manifest, contrast)

        def make() -> np.ndarray:
            return _render(manifest, size, contrast, what="rendering")[0]

    else:
        folder = _root(root)

        def make() -> np.ndarray:
            return _read_all(manifest, folder, size, verify)

    if cache is None or not verify:
        images = make()
        images.flags.writeable = False
        return images
    return _cached(Path(cache) / f"images-{_cache_key(manifest, size)}.npy", (len(manifest), size, size), make)


def load_regions(
    manifest: pd.DataFrame, *, root: Path | None, size: int, lesion_contrast: float | None = None
) -> dict[str, np.ndarray]:
    """Masks by region in the manifest's row order, each bool [n, size, size]; {} when there are none.

    The phantom has "lesion", "lung" and "marker" (`cxr.phantom.render`); it needs `lesion_contrast`, no `root`.
    Files have "lesion" and "lung" where the manifest has the columns `lesion_mask` and `lung_mask`: PNG images in
    which every pixel that is neither black nor transparent is inside; all False where the cell is empty. They are
    resized to the square as the images are: a pixel is inside when at least half of its area is, or, in a region
    too small for that, when no other pixel has a larger share, so that a lesion never vanishes.

    Raises InputError as `load_images` does: for files that are missing, damaged, or have changed since the
    manifest was made; and for a mask that is not a PNG (a JPEG's noise would lie inside).
    """
    if size < 1:
        raise InputError(f"size: at least 1 pixel, got {size}")
    if _is_phantom(manifest):
        contrast = _contrast(lesion_contrast)
        _verify_phantom(manifest, contrast)
        _, lesion, lung, marker = _render(manifest, size, contrast, what="masks")
        return {"lesion": lesion, "lung": lung, "marker": marker}

    def load(name: str) -> np.ndarray:
        folder = _root(root)

        def work(row: Any) -> np.ndarray:
            path = getattr(row, name)
            if not path:
                return np.zeros((size, size), bool)
            with _naming(name, path):
                content = _read(folder, path)
                if hashlib.sha256(content).hexdigest() != getattr(row, f"{name}_sha256"):
                    raise _Unusable("changed since the manifest was made")
                return _square_mask(_inside(content), size)

        return np.stack(_for_each(work, manifest, what=name))

    return {name.removesuffix("_mask"): load(name) for name in MASKS if name in manifest}


def default_cache() -> Path:
    """Folder for cached images: `$CXR_CACHE`, else `$XDG_CACHE_HOME/cxr`, else `~/.cache/cxr`."""
    if own := os.environ.get("CXR_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr"


class _Unusable(Exception):
    """One file's trouble, in words; `_for_each` gathers them into one InputError."""


@contextmanager
def _naming(column: str, path: str) -> Iterator[None]:
    """Say which of a row's files is unusable, where it is not the image."""
    try:
        yield
    except _Unusable as trouble:
        raise _Unusable(f"{column} {path}: {trouble}") from None


def _for_each(work: Callable[[Any], Any], manifest: pd.DataFrame, *, what: str) -> list[Any]:
    """`work(row)` of every row, in order, in threads: reading, hashing, decoding and resizing release the GIL."""

    def attempt(row: Any) -> Any:
        try:
            return work(row)
        except _Unusable as trouble:
            return trouble

    rows = list(manifest.itertuples(index=False))
    with ThreadPoolExecutor(_cores()) as pool:
        results = list(tqdm(pool.map(attempt, rows), total=len(rows), desc=what, unit="image", delay=2))
    bad = [
        f"{row.path} ({result})"
        for row, result in zip(rows, results, strict=True)
        if isinstance(result, _Unusable)
    ]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(rows)} images cannot be used: {_some(bad)}: restore or remove them, then make "
            "the manifest anew"
        )
    return results


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        raise _Unusable(f"not found in {root}") from None
    except OSError as error:
        raise _Unusable(f"cannot be read: {error.strerror}") from None


def _decode(content: bytes) -> Image.Image:
    """The image with all its pixels decoded, upright."""
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG"])
        image.load()
        return ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise _Unusable("not a PNG or JPEG file") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise _Unusable(f"damaged: {error}") from None


def _grey(image: Image.Image) -> Image.Image:
    """Mode "F", 0..255."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        scaled = values * np.float32(255 / 65535)
        key = image.info.get("transparency")
        return Image.fromarray(scaled if key is None else np.where(values == key, np.float32(0), scaled))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB").convert("L", _LUMINANCE)
    return image.convert("F")


def _square(image: Image.Image, size: int) -> np.ndarray:
    values = np.asarray(_grey(image).resize((size, size), Image.Resampling.BILINEAR))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _inside(content: bytes) -> np.ndarray:
    """Where a mask image is neither black nor transparent, bool [height, width]."""
    image = _decode(content)
    if not content.startswith(b"\x89PNG"):
        raise _Unusable("a mask has to be a PNG: JPEG's noise leaves pixels that are not quite black")
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"))
        return values[..., :3].any(axis=-1) & (values[..., 3] > 0)
    values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return values.any(axis=-1) if values.ndim == 3 else values != 0


def _square_mask(inside: np.ndarray, size: int) -> np.ndarray:
    """Where at least half of a pixel's area is inside, or the largest share if that is less; bool [size, size]."""
    whole = Image.fromarray(inside.astype(np.float32))
    share = np.asarray(whole.resize((size, size), Image.Resampling.BOX))
    return share >= np.clip(share.max(), 1e-6, 0.5) - 1e-6 if inside.any() else np.zeros((size, size), bool)


def _read_all(manifest: pd.DataFrame, root: Path, size: int, verify: bool) -> np.ndarray:
    def work(row: Any) -> np.ndarray:
        content = _read(root, row.path)
        if verify and hashlib.sha256(content).hexdigest() != row.sha256:
            raise _Unusable("changed since the manifest was made")
        return _square(_decode(content), size)

    return np.stack(_for_each(work, manifest, what="loading"))


def _cached(path: Path, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    def read() -> np.ndarray:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"holds {array.dtype} {array.shape}, not uint8 {shape}")
        return array

    if path.exists():
        try:
            return read()
        except (ValueError, OSError, EOFError) as error:
            warnings.warn(f"{path}: cached images are damaged ({error}) and are made anew", stacklevel=3)
    images = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several notebooks may write the same entry at once: each its own file, and the last rename wins.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.save(file, images, allow_pickle=False)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                file.close()
                os.unlink(file.name)
                raise
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write the image cache ({error.strerror}): set CXR_CACHE to a folder with room"
        ) from None
    return read()


def _cache_key(manifest: pd.DataFrame, size: int) -> str:
    rows = manifest[["image_id", "sha256"]].to_csv(index=False, lineterminator="\n")
    parts = [
        rows,
        str(size),
        _source_hash(__file__),
        _source_hash(phantom.__file__),
        PIL.__version__,
        np.__version__,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _source_hash(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _phantom_hash(path: str, lesion_contrast: float) -> str:
    text = f"{path} lesion_contrast={float(lesion_contrast)!r} {_source_hash(phantom.__file__)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _verify_phantom(manifest: pd.DataFrame, lesion_contrast: float) -> None:
    expected = [_phantom_hash(path, lesion_contrast) for path in manifest["path"]]
    changed = (manifest["sha256"] != expected).sum()
    if changed:
        raise InputError(
            f"phantom: {changed} of {len(manifest)} images changed since the manifest was made: "
            f"lesion_contrast is another (got {lesion_contrast:g}), or cxr/phantom.py is: use those of then, or "
            "make the manifest anew"
        )


def _render(manifest: pd.DataFrame, size: int, lesion_contrast: float, *, what: str) -> tuple[np.ndarray, ...]:
    """(images, lesion, lung, marker masks), in processes where that pays: rendering holds the GIL.

    joblib's processes, unlike multiprocessing's, do not run a caller's unguarded script a second time.
    """
    found = [_PHANTOM.fullmatch(path) for path in manifest["path"]]
    if not all(found):
        raise InputError(
            "manifest: phantom paths read phantom://<seed>/<index>, or end in ?marker=class or ?marker=random: "
            "make the manifest anew"
        )
    keys = [(int(match.group(2)), match.group(4) or "side", int(match.group(3))) for match in found]
    chunks = [
        (seed, marker, [index for *_, index in part][start : start + 16])
        for (seed, marker), part in ((key, list(group)) for key, group in groupby(keys, key=itemgetter(0, 1)))
        for start in range(0, len(part), 16)
    ]
    jobs = min(_cores(), max(1, len(keys) * size**2 // _PIXELS_A_PROCESS))
    task = joblib.delayed(phantom.render_stack)
    tasks = [
        task(seed, part, size, lesion_contrast=lesion_contrast, marker=marker) for seed, marker, part in chunks
    ]
    parts = []
    with tqdm(total=len(keys), desc=what, unit="image", delay=2) as bar:
        for part in joblib.Parallel(jobs, return_as="generator")(tasks):
            parts.append(part)
            bar.update(len(part[0]))
    return tuple(np.concatenate(stack) for stack in zip(*parts, strict=True))


def _is_phantom(manifest: pd.DataFrame) -> bool:
    own = manifest["path"].str.startswith("phantom://")
    if own.any() and not own.all():
        raise InputError("manifest: phantom images and files do not mix: make two manifests")
    return bool(own.any())


def _contrast(lesion_contrast: float | None) -> float:
    if lesion_contrast is None:
        raise InputError("phantom: lesion_contrast is needed: give that of the settings that made the manifest")
    return float(lesion_contrast)


def _root(root: Path | None) -> Path:
    if root is None:
        raise InputError("root: the images are files: give the folder their paths are relative to (data_root)")
    return Path(root)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _some(items: Iterable[Any]) -> str:
    items = [str(item) for item in items]
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
