"""Images, their labels and their splits: the manifest, patient-grouped splits, and loading.

A manifest is a DataFrame with the columns `COLUMNS`, one row an image, sorted by `image_id`:

    image_id    str, unique: the path without its suffix (with it where two files differ in the suffix only)
    path        str, '/'-separated, relative to the data root, or absolute; "phantom://<seed>/<index>", with
                "?marker=class" or "?marker=random" behind it for images with a token (`cxr.data.phantom.render`)
    label       str, the class
    patient_id  str, what splits are grouped by
    split       "train", "val" or "test"
    sha256      of the file's bytes; for the phantom of everything that its pixels depend on

and, where the source has them, `lesion_mask`, `lung_mask` or both (a path like `path`; empty: no mask for this
image), each followed by the sha256 of the masks' bytes, `lesion_mask_sha256` and `lung_mask_sha256`.

The manifest says which bytes a study used; `load_images` refuses bytes that have changed since.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import PIL
from tqdm import tqdm

from cxr.core import arrays
from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.core.progress import progress
from cxr.data import images, phantom
from cxr.data.images import Unusable, decode, inside_mask, square, square_mask
from cxr.data.layouts import MASKS, folder_rows, read_csv, source, table_rows, unlabelled_rows
from cxr.data.splits import assign_splits, check_given_splits, limit_per_class, val_from_train

COLUMNS = ("image_id", "path", "label", "patient_id", "split", "sha256")

# Rendering 128 x 128 takes about 10 ms, starting a process a second: give each at least two seconds' work.
_PIXELS_A_PROCESS = 200 * 128**2
_CACHE_GIB = 50.0
_ROWS_AT_ONCE = 8  # that a thread is handed
_PHANTOM = re.compile(r"(phantom://(\d+)/(\d+))(?:\?marker=(class|random))?")


# --- the manifest ---------------------------------------------------------------------------------


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
        rows = _phantom_rows(settings) if labelled else _phantom_rows(settings).assign(label="")
    elif not labelled:
        rows = unlabelled_rows(root, table, settings)
    else:
        rows = folder_rows(root, settings) if table is None else table_rows(table, settings)
    manifest = rows.sort_values("image_id", kind="stable", ignore_index=True)
    skipped: list[dict[str, str]] = []
    if root is not None and settings.on_bad_image == "skip":
        manifest, skipped = _without_bad(manifest, root, settings)
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
        manifest["sha256"] = _for_each(
            lambda row: hashlib.sha256(_read(root, row.path)).hexdigest(), manifest, what="hashing"
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


def with_markers(manifest: pd.DataFrame, marker: str, *, lesion_contrast: float) -> pd.DataFrame:
    """The manifest of the same phantom images with the token of `marker`: "class" (it betrays the class) or
    "random" (drawn whatever the class); see `phantom.render`. `path` and `sha256` differ, nothing else does.

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
    return manifest.assign(path=paths, sha256=_phantom_hashes(paths, lesion_contrast))


def _columns(present: Iterable[str]) -> list[str]:
    """The columns of a manifest that has those `present`, in order."""
    present = set(present)
    masks = [name for name in MASKS if name in present]
    return [*COLUMNS, *(column for name in masks for column in (name, f"{name}_sha256"))]


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
            "sha256": _phantom_hashes(paths, settings.lesion_contrast),
        }
    )


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
    _for_each(lambda row: _check(row, _read(folder, row.path), folder, names), manifest, what="checking")


def _check(row: Any, content: bytes, folder: Path, masks: Sequence[str]) -> None:
    """Decode a row's image and masks; raises Unusable."""
    width, height = decode(content).size
    for name in masks:
        if path := getattr(row, name):
            with _naming(name, path):
                rows, columns = inside_mask(_read(folder, path)).shape
                # Up to a pixel, since one may have been made on a smaller copy of the other.
                if abs(columns * height - rows * width) > max(width, height, columns, rows):
                    raise Unusable(f"has {columns}x{rows} pixels, other proportions than {width}x{height}")


def _without_bad(
    manifest: pd.DataFrame, root: Path, settings: DataParams
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The rows whose files decode fully, with their sha256, and path and reason of the others.

    The bytes that were decoded once, by the same code, are not decoded again: a file in the cache holds their
    hashes. Raises InputError where more than `max_skipped_fraction` are bad, or all of a class.
    """
    masks = [name for name in MASKS if name in manifest]
    parts = [_source_hash(images.__file__), PIL.__version__, *_versions("pydicom")]
    ledger = default_cache() / f"usable-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.txt"
    known = _ledger(ledger)

    def work(row: Any) -> tuple[str, str]:
        try:
            content = _read(root, row.path)
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 not in known or any(getattr(row, name) for name in masks):
                _check(row, content, root, masks)
        except Unusable as trouble:
            return "", str(trouble)
        return sha256, ""

    results = _for_each(work, manifest, what="decoding")
    good = np.array([not reason for _, reason in results])
    skipped = [
        {"path": path, "reason": reason}
        for path, (_, reason) in zip(manifest["path"], results, strict=True)
        if reason
    ]
    kept = manifest[good].assign(sha256=[sha256 for sha256, _ in results if sha256]).reset_index(drop=True)
    _write_ledger(ledger, set(kept["sha256"]))
    if not skipped:
        return kept, []
    listed = [f"{item['path']} ({item['reason']})" for item in skipped]
    count = f"{len(skipped)} of {len(manifest)} images cannot be used"
    if len(skipped) > settings.max_skipped_fraction * len(manifest):
        raise InputError(
            f"{count}, more than max_skipped_fraction ({settings.max_skipped_fraction:g}): {some(listed)}: "
            "restore or remove them, or raise max_skipped_fraction",
            items=listed,
        )
    lost = sorted(set(manifest["label"]) - set(kept["label"]))
    if lost:
        raise InputError(f"{count}, among them all of {some(lost)}: {some(listed)}: restore them", items=listed)
    warnings.warn(f"{count} and are left out (on_bad_image: skip): {some(listed)}", stacklevel=3)
    return kept, skipped


def _ledger(path: Path) -> set[str]:
    """Hashes of files that decode; empty where there is no such file, which costs time and nothing else."""
    try:
        return set(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return set()


def _write_ledger(path: Path, hashes: set[str]) -> None:
    known = _ledger(path)  # again: another process may have written meanwhile
    if hashes <= known:
        return
    with suppress(OSError):  # without it the next run decodes again
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write("\n".join(sorted(known | hashes)))
        os.replace(file.name, path)


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

    With a `cache` nothing but the images in work is in memory, however many there are: they go to a file as they
    are decoded, and the array returned is that file, mapped into memory. Otherwise an array in memory.

    Colour becomes luminance with the weights of `skimage.color.rgb2gray`; transparency is composited on black;
    palettes are expanded; 16-bit grey is scaled from 0..65535; an EXIF orientation is applied. The whole image
    is resized to the square, its aspect ratio not kept, by Pillow's BILINEAR filter in float32: a triangle as
    wide as the scale when shrinking (anti-aliased), bilinear interpolation when enlarging, half-pixel centres,
    as `tf.image.resize(method="bilinear", antialias=True)` has it. Then rounded to the nearest integer.

    With `verify` each file's sha256 is compared with the manifest's. What was verified is cached as `.npy` in
    the folder `cache` (None: no cache) under a key that depends on the ids and hashes of all rows, the size,
    and the code; a hit reads no image file. Without `verify` the cache is neither read nor written. Who wants an
    entry that another process is writing waits for it. The cache keeps to `$CXR_CACHE_GIB` (50): before an entry
    is written, those least recently used go until there is room; one that is still being read from is lost to
    others only (on Windows it stays).

    `root`: `data_root(settings)`. `lesion_contrast` is needed for the phantom and for nothing else.
    Raises InputError, with a count and up to five names, for files that are missing, cannot be decoded
    to the end, or have changed since the manifest was made; and when the cache cannot be written.
    """
    if size < 1:
        raise InputError(f"size: at least 1 pixel, got {size}")
    if not len(manifest):
        raise InputError("manifest: no rows: there is no image to load")
    if _is_phantom(manifest):
        contrast = _contrast(lesion_contrast)
        if verify:
            _verify_phantom(manifest, contrast)

        def make() -> Iterator[np.ndarray]:
            return (part[0] for part in _render(manifest, size, contrast, what="rendering"))

    else:
        folder = _root(root)

        def make() -> Iterator[np.ndarray]:
            return _read_all(manifest, folder, size, verify)

    if cache is None or not verify:
        one = np.dtype((np.uint8, (size, size)))
        stack = np.fromiter((image for block in make() for image in block), one, len(manifest))
        stack.flags.writeable = False
        return stack
    path = Path(cache) / f"images-{_cache_key(manifest, size)}.npy"
    return _cached(path, (len(manifest), size, size), make)


def load_regions(
    manifest: pd.DataFrame, *, root: Path | None, size: int, lesion_contrast: float | None = None
) -> dict[str, np.ndarray]:
    """Masks by region in the manifest's row order, each bool [n, size, size]; {} when there are none.

    The phantom has "lesion", "lung" and "marker" (`phantom.render`); it needs `lesion_contrast`, no `root`.
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
        # the pictures are dropped at once: with those of all rows in memory, as many bytes again
        parts = [masks for _, *masks in _render(manifest, size, contrast, what="masks")]
        lesion, lung, marker = (np.concatenate(stack) for stack in zip(*parts, strict=True))
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
                    raise Unusable("changed since the manifest was made")
                return square_mask(inside_mask(content), size)

        return np.stack(_for_each(work, manifest, what=name))

    return {name.removesuffix("_mask"): load(name) for name in MASKS if name in manifest}


def default_cache() -> Path:
    """Folder for cached images: `$CXR_CACHE`, else `$XDG_CACHE_HOME/cxr`, else `~/.cache/cxr`."""
    if own := os.environ.get("CXR_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr"


@contextmanager
def _naming(column: str, path: str) -> Iterator[None]:
    """Say which of a row's files is unusable, where it is not the image."""
    try:
        yield
    except Unusable as trouble:
        raise Unusable(f"{column} {path}: {trouble}") from None


def _for_each(work: Callable[[Any], Any], manifest: pd.DataFrame, *, what: str) -> list[Any]:
    """`work(row)` of every row, as `_stream`."""
    return list(_stream(work, manifest, what=what))


def _stream(work: Callable[[Any], Any], manifest: pd.DataFrame, *, what: str) -> Iterator[Any]:
    """`work(row)` of every row, in order, in threads: reading, hashing, decoding and resizing release the GIL.

    A few rows are in work at a time, so that results do not pile up before whoever takes them.
    All rows are tried; at the end InputError names those for which `work` raised Unusable.
    """

    def attempt(row: Any) -> Any:
        try:
            return work(row)
        except Unusable as trouble:
            return trouble

    def attempts(rows: list[Any]) -> list[Any]:
        return [attempt(row) for row in rows]

    bad = []
    ahead: deque[tuple[list[Any], Future]] = deque()

    def first() -> Iterator[Any]:
        rows, future = ahead.popleft()
        for row, result in zip(rows, future.result(), strict=True):
            bar.update()
            if isinstance(result, Unusable):
                bad.append(f"{row.path} ({result})")
            else:
                yield result

    # Handing a row to a thread takes a tenth of the time that a small image does: several at once.
    at_once = min(_ROWS_AT_ONCE, math.ceil(len(manifest) / (4 * _cores())))
    with (
        ThreadPoolExecutor(_cores()) as pool,
        tqdm(total=len(manifest), desc=what, unit="image", delay=2) as bar,
    ):
        rows = manifest.itertuples(index=False)
        while some_rows := list(islice(rows, at_once)):
            ahead.append((some_rows, pool.submit(attempts, some_rows)))
            if len(ahead) > 2 * _cores():
                yield from first()
        while ahead:
            yield from first()
    if bad:
        raise InputError(
            f"{len(bad)} of {len(manifest)} images cannot be used: {some(bad)}: restore or remove them, then make "
            "the manifest anew"
        )


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        raise Unusable(f"not found in {root}") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    except ValueError:  # of a path with a NUL character
        raise Unusable("cannot be read: no name that a file can have") from None


def _read_all(manifest: pd.DataFrame, root: Path, size: int, verify: bool) -> Iterator[np.ndarray]:
    """The images in blocks of one, uint8 [1, size, size]."""

    def work(row: Any) -> np.ndarray:
        content = _read(root, row.path)
        if verify and hashlib.sha256(content).hexdigest() != row.sha256:
            raise Unusable("changed since the manifest was made")
        return square(decode(content), size)[None]

    return _stream(work, manifest, what="loading")


def _cached(path: Path, shape: tuple[int, ...], make: Callable[[], Iterable[np.ndarray]]) -> np.memmap:
    def read(warn: bool) -> np.memmap | None:
        """What is there, as the entry used last; None when there is nothing, or no such array."""
        try:
            images = arrays.read(path, shape, np.uint8)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError) as error:
            if warn:
                warnings.warn(f"{path}: cached images are damaged ({error}) and are made anew", stacklevel=4)
            return None
        with suppress(OSError):  # a cache that others filled and that may only be read
            os.utime(path)
        return images

    if (images := read(warn=False)) is not None:
        return images
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waits = f"images: waiting for another process that is writing {path}"
        with arrays.locked(path.with_suffix(".lock"), lambda: progress(waits)):
            if (images := read(warn=True)) is not None:  # another has made it since
                return images
            return write_entry(path, shape, np.uint8, make())
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write the image cache ({error.strerror}): set CXR_CACHE to a folder of your "
            "own, with room"
        ) from None


def write_entry(path: Path, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """Write an entry of the cache, images or features (`features`), for which there is room then. The caller
    holds its lock. Raises as `store.write`, and InputError for a CXR_CACHE_GIB that is no number."""
    for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):  # of a process that was killed
        left.unlink(missing_ok=True)
    _make_room(path, math.prod(shape) * np.dtype(dtype).itemsize)
    return arrays.write(path, shape, dtype, blocks)


def _make_room(path: Path, size: int) -> None:
    """Remove the entries least recently used beside `path`, images and features (`features`), until those left
    and `size` bytes more are allowed. Raises InputError for a CXR_CACHE_GIB that is no number."""
    text = os.environ.get("CXR_CACHE_GIB", "")
    try:
        allowed = float(text or _CACHE_GIB) * 2**30
    except ValueError:
        allowed = -1.0
    if not 0 <= allowed < math.inf:
        raise InputError(f"CXR_CACHE_GIB: a number of GiB that cached images and features may take, got {text!r}")
    entries = []
    for entry in (*path.parent.glob("images-*.npy"), *path.parent.glob("features-*.npy")):
        with suppress(FileNotFoundError):  # another process makes room too
            found = entry.stat()
            entries.append((found.st_mtime_ns, found.st_size, entry))
    total = size + sum(other for _, other, entry in entries if entry != path)
    for _, other, entry in sorted(entries):
        if total > allowed and entry != path:
            with suppress(OSError):  # on Windows one that is open cannot go
                entry.unlink(missing_ok=True)
                total -= other


def _cache_key(manifest: pd.DataFrame, size: int) -> str:
    rows = manifest[["image_id", "sha256"]].to_csv(index=False, lineterminator="\n")
    parts = [
        rows,
        str(size),
        _source_hash(images.__file__),
        _source_hash(phantom.__file__),
        PIL.__version__,
        np.__version__,
        *_versions("pydicom"),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _versions(*packages: str) -> Iterator[str]:
    """Of those that are installed: images of their formats are decoded by them."""
    for package in packages:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _source_hash(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _phantom_hashes(paths: Iterable[str], lesion_contrast: float) -> list[str]:
    rest = f"lesion_contrast={float(lesion_contrast)!r} {_source_hash(phantom.__file__)}"
    return [hashlib.sha256(f"{path} {rest}".encode()).hexdigest() for path in paths]


def _verify_phantom(manifest: pd.DataFrame, lesion_contrast: float) -> None:
    expected = _phantom_hashes(manifest["path"], lesion_contrast)
    changed = (manifest["sha256"] != expected).sum()
    if changed:
        raise InputError(
            f"phantom: {changed} of {len(manifest)} images changed since the manifest was made: "
            f"lesion_contrast is another (got {lesion_contrast:g}), or cxr/phantom.py is: use those of then, or "
            "make the manifest anew"
        )


def _render(
    manifest: pd.DataFrame, size: int, lesion_contrast: float, *, what: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """(images, lesion, lung, marker masks) of up to 16 rows at a time, in order, in processes where that pays:
    rendering holds the GIL.

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
    with tqdm(total=len(keys), desc=what, unit="image", delay=2) as bar:
        for part in joblib.Parallel(jobs, return_as="generator")(tasks):
            yield part
            bar.update(len(part[0]))


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
