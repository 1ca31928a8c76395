"""Images, their labels and their splits: the manifest, patient-grouped splits, and loading.

A manifest is a DataFrame with the columns `COLUMNS`, one row an image, sorted by `image_id`:

    image_id    str, unique: the path without its suffix (with it where two files differ in the suffix only)
    path        str, '/'-separated, relative to the data root, or absolute; "phantom://<seed>/<index>", with
                "?marker=class" or "?marker=random" behind it for images with a token
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.data.cache import cached_array
from cxr.data.formats import Unusable
from cxr.data.images import decode, decoder_versions, inside_mask, square, square_mask
from cxr.data.phantom.rows import generator_hash, is_phantom, need_contrast, render_rows, verify_phantom
from cxr.data.reading import for_each, naming, need_root, read_file, stream
from cxr.data.tables import MASKS


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
    if is_phantom(manifest):
        contrast = need_contrast(lesion_contrast)
        if verify:
            verify_phantom(manifest, contrast)

        def make() -> Iterator[np.ndarray]:
            return (part[0] for part in render_rows(manifest, size, contrast, what="rendering"))

    else:
        folder = need_root(root)

        def make() -> Iterator[np.ndarray]:
            return _read_all(manifest, folder, size, verify)

    if cache is None or not verify:
        one = np.dtype((np.uint8, (size, size)))
        stack = np.fromiter((image for block in make() for image in block), one, len(manifest))
        stack.flags.writeable = False
        return stack
    path = Path(cache) / f"images-{_cache_key(manifest, size)}.npy"
    return cached_array(path, (len(manifest), size, size), make)


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
    if is_phantom(manifest):
        contrast = need_contrast(lesion_contrast)
        verify_phantom(manifest, contrast)
        # the pictures are dropped at once: with those of all rows in memory, as many bytes again
        parts = [masks for _, *masks in render_rows(manifest, size, contrast, what="masks")]
        lesion, lung, marker = (np.concatenate(stack) for stack in zip(*parts, strict=True))
        return {"lesion": lesion, "lung": lung, "marker": marker}

    def load(name: str) -> np.ndarray:
        folder = need_root(root)

        def work(row: Any) -> np.ndarray:
            path = getattr(row, name)
            if not path:
                return np.zeros((size, size), bool)
            with naming(name, path):
                content = read_file(folder, path)
                if hashlib.sha256(content).hexdigest() != getattr(row, f"{name}_sha256"):
                    raise Unusable("changed since the manifest was made")
                return square_mask(inside_mask(content), size)

        return np.stack(for_each(work, manifest, what=name))

    return {name.removesuffix("_mask"): load(name) for name in MASKS if name in manifest}


def _read_all(manifest: pd.DataFrame, root: Path, size: int, verify: bool) -> Iterator[np.ndarray]:
    """The images in blocks of one, uint8 [1, size, size]."""

    def work(row: Any) -> np.ndarray:
        content = read_file(root, row.path)
        if verify and hashlib.sha256(content).hexdigest() != row.sha256:
            raise Unusable("changed since the manifest was made")
        return square(decode(content), size)[None]

    return stream(work, manifest, what="loading")


def _cache_key(manifest: pd.DataFrame, size: int) -> str:
    rows = manifest[["image_id", "sha256"]].to_csv(index=False, lineterminator="\n")
    parts = [rows, str(size), generator_hash(), *decoder_versions()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
