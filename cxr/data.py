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

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import PIL
from tqdm import tqdm

from cxr import images, phantom
from cxr.errors import InputError, some
from cxr.images import Unusable, decode, inside_mask, square, square_mask
from cxr.layouts import MASKS, folder_rows, read_csv, source, table_rows
from cxr.params import DataParams
from cxr.splits import assign_splits, check_given_splits, limit_per_class

COLUMNS = ("image_id", "path", "label", "patient_id", "split", "sha256")

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
    root, table = source(settings)
    if settings.shortcut != "none" and root is not None:
        raise InputError(
            f"shortcut: '{settings.shortcut}' needs the phantom's markers, and {root} holds other images: set "
            "shortcut to none, or data to phantom"
        )
    if root is None:
        manifest = _phantom_rows(settings)
    else:
        manifest = folder_rows(root, settings) if table is None else table_rows(table, settings)
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
        check_given_splits(manifest, where=str(table))
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

    def work(row: Any) -> None:
        width, height = decode(_read(folder, row.path)).size
        for name in names:
            if path := getattr(row, name):
                with _naming(name, path):
                    rows, columns = inside_mask(_read(folder, path)).shape
                    # Up to a pixel, since one may have been made on a smaller copy of the other.
                    if abs(columns * height - rows * width) > max(width, height, columns, rows):
                        raise Unusable(f"has {columns}x{rows} pixels, other proportions than {width}x{height}")

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
        stack = make()
        stack.flags.writeable = False
        return stack
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
    """`work(row)` of every row, in order, in threads: reading, hashing, decoding and resizing release the GIL."""

    def attempt(row: Any) -> Any:
        try:
            return work(row)
        except Unusable as trouble:
            return trouble

    rows = list(manifest.itertuples(index=False))
    with ThreadPoolExecutor(_cores()) as pool:
        results = list(tqdm(pool.map(attempt, rows), total=len(rows), desc=what, unit="image", delay=2))
    bad = [
        f"{row.path} ({result})" for row, result in zip(rows, results, strict=True) if isinstance(result, Unusable)
    ]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(rows)} images cannot be used: {some(bad)}: restore or remove them, then make "
            "the manifest anew"
        )
    return results


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        raise Unusable(f"not found in {root}") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None


def _read_all(manifest: pd.DataFrame, root: Path, size: int, verify: bool) -> np.ndarray:
    def work(row: Any) -> np.ndarray:
        content = _read(root, row.path)
        if verify and hashlib.sha256(content).hexdigest() != row.sha256:
            raise Unusable("changed since the manifest was made")
        return square(decode(content), size)

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
    stack = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several notebooks may write the same entry at once: each its own file, and the last rename wins.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.save(file, stack, allow_pickle=False)
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
        _source_hash(images.__file__),
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
