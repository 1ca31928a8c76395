"""Pixels and masks of the images in a manifest (see `cxr.data.manifest`)."""

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
    """All images in the order of the manifest, uint8 [n, size, size], grey values 0 to 255, read-only.

    With a `cache` the array is a file that is mapped into memory; images are written to it as they are decoded, so
    that any number of images needs little memory. Without a cache the array is in memory.

    From file to pixels: colour becomes luminance with the weights of `skimage.color.rgb2gray`. Transparent pixels
    become black. Palettes are expanded. 16-bit grey is scaled from 0..65535. An EXIF orientation is applied. The
    whole image is resized to the square without keeping its aspect ratio, by Pillow's BILINEAR filter in float32,
    with half-pixel centres: anti-aliased when shrinking (a triangle as wide as the scale), bilinear interpolation
    when enlarging, as in `tf.image.resize(method="bilinear", antialias=True)`. The result is rounded.

    Args:
        manifest: the rows to load.
        root: the folder of the paths (`cxr.data.manifest.data_root(settings)`); None for the phantom.
        size: side in pixels, at least 1.
        cache: folder of the cache; None: no cache. The key of an entry depends on the ids and hashes of all
            rows, the size and the code. A hit reads no image file. If another process is writing the entry, this
            one waits for it. Before an entry is written, the least recently used entries are removed until the
            cache fits into `$CXR_CACHE_GIB` GiB (50); a process that still reads a removed entry can go on (on
            Windows such an entry stays).
        lesion_contrast: that of the settings; only the phantom needs it.
        verify: compare each file's hash with the manifest. Without it the cache is neither read nor written.

    Raises InputError with a count and up to five names if files are missing, cannot be decoded to the end, or
    changed since the manifest was made; and if the cache cannot be written.
    """
    if size < 1:
        raise InputError(f"size: expected at least 1 pixel, got {size}")
    if not len(manifest):
        raise InputError("manifest: it has no rows: give a manifest with at least one image")
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
    """Masks by region, each bool [n, size, size] in the order of the manifest; {} if there are none.

    The phantom has "lesion", "lung" and "marker" (see `cxr.data.phantom.rendering.render`). It needs
    `lesion_contrast` and no `root`. Files have "lesion" and "lung" if the manifest has the columns `lesion_mask`
    and `lung_mask`. Masks of files are PNG images; pixels that are neither black nor transparent are
    inside. An image without a mask gets False everywhere.

    Masks are resized to the square like the images. A pixel is inside if at least half of its area is. In a
    region too small for that, the pixels with the largest share are inside, so that a lesion never vanishes.

    Raises InputError like `load_images` if files are missing, damaged or changed, and if a mask is not a PNG (the
    noise of a JPEG would lie inside).
    """
    if size < 1:
        raise InputError(f"size: expected at least 1 pixel, got {size}")
    if is_phantom(manifest):
        contrast = need_contrast(lesion_contrast)
        verify_phantom(manifest, contrast)
        # Drop the pictures of each part at once: they need as much memory as a mask.
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
    """The images in the order of the manifest, as blocks uint8 [1, size, size]."""

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
