"""Pixels and masks of the images in a manifest (see `cxr.data.manifest`), and which files can be used."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data import multi_label
from cxr.data.cache import add_hashes, default_cache, read_hashes
from cxr.data.cache import entry as cache_entry
from cxr.data.formats import Unusable
from cxr.data.images import decode, decoder_versions, inside_mask, square, square_mask
from cxr.data.phantom.cases import CLASSES
from cxr.data.phantom.rows import generator_hash, is_phantom, render_rows, verify_phantom
from cxr.data.reading import for_each, naming, read_file, stream
from cxr.data.tables import MASKS


def load_images(
    manifest: pd.DataFrame,
    *,
    root: Path | None,
    size: int,
    cache: Path | None,
    lesion_contrast: float = 1.0,
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
        lesion_contrast: that of the settings; only the phantom depends on it, and refuses another one than its
            manifest was made with.

    Raises InputError with a count and up to five names if files are missing, cannot be decoded to the end, or
    changed since the manifest was made; and if the cache cannot be written.
    """
    phantom = is_phantom(manifest)
    if phantom:
        verify_phantom(manifest, lesion_contrast)
    elif root is None:
        raise InputError(
            "root: the images are files, so root is needed: give the folder of their paths (manifest.data_root)"
        )

    def make() -> Iterator[np.ndarray]:
        if phantom:
            return (part[0] for part in render_rows(manifest, size, lesion_contrast, what="rendering"))
        return _read_all(manifest, root, size)

    if cache is None:
        one = np.dtype((np.uint8, (size, size)))
        stack = np.fromiter((image for block in make() for image in block), one, len(manifest))
        stack.flags.writeable = False
        return stack
    return _cached("images", cache, manifest, (size, size), np.uint8, make)


def _cached(
    what: str,
    cache: Path,
    manifest: pd.DataFrame,
    shape: tuple[int, ...],
    dtype: Any,
    make: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """What the cache holds for all rows, or `make` gives: [n, *shape]. The last entry of `shape` is the size."""
    path = Path(cache) / f"{what}-{_cache_key(manifest, shape[-1])}.npy"
    try:
        return cache_entry(path, (len(manifest), *shape), dtype, make)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write the image cache ({error.strerror}): set CXR_CACHE to a folder that "
            "you can write to and that has room"
        ) from None


def load_regions(
    manifest: pd.DataFrame,
    *,
    root: Path | None,
    size: int,
    cache: Path | None = None,
    lesion_contrast: float = 1.0,
    findings: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Masks by region, each bool [n, size, size] in the order of the manifest; {} if there are none.

    The phantom has "lesion", "lung" and "marker" (see `cxr.data.phantom.rendering.render`). If an image can have
    several findings, `findings` names one for each row: "lesion" is the lesion of this finding, and
    "other_lesions" are those of the others, where they do not lie upon it. Files have "lesion"
    and "lung" if the manifest has the columns `lesion_mask` and `lung_mask`. Masks of files are PNG images; pixels
    that are neither black nor transparent are inside. An image without a mask gets False everywhere.

    Masks are resized to the square like the images. A pixel is inside if at least half of its area is. In a
    region too small for that, the pixels with the largest share are inside, so that a lesion never vanishes.

    Only masks of the phantom are kept in the `cache` (as by `load_images`): drawing them takes long.

    Raises InputError like `load_images` if files are missing, damaged or changed, and if a mask is not a PNG (the
    noise of a JPEG would lie inside).
    """
    if is_phantom(manifest):
        verify_phantom(manifest, lesion_contrast)

        def make() -> Iterator[np.ndarray]:
            for _, lesions, *others in render_rows(manifest, size, lesion_contrast, what="masks"):
                yield np.concatenate([lesions, np.stack(others, axis=1)], axis=1)

        shape = (len(CLASSES) + 2, size, size)
        if cache is None:
            drawn = np.concatenate(list(make()))
        else:
            drawn = _cached("masks", cache, manifest, shape, bool, make)
        lesions, lung, marker = drawn[:, :-2], drawn[:, -2], drawn[:, -1]
        regions = {"lesion": lesions.any(axis=1), "lung": lung, "marker": marker}
        if len(findings):
            own = lesions[np.arange(len(drawn)), [CLASSES.index(name) for name in findings]]
            regions |= {"lesion": own, "other_lesions": regions["lesion"] & ~own}
        return regions

    def load(name: str) -> np.ndarray:
        def work(row: Any) -> np.ndarray:
            path = getattr(row, name)
            if not path:
                return np.zeros((size, size), bool)
            with naming(name, path):
                content = read_file(root, path, getattr(row, f"{name}_sha256"))
                return square_mask(inside_mask(content), size)

        return np.stack(for_each(work, manifest, what=name))

    return {name.removesuffix("_mask"): load(name) for name in MASKS if name in manifest}


def _read_all(manifest: pd.DataFrame, root: Path, size: int) -> Iterator[np.ndarray]:
    """The images in the order of the manifest, as blocks uint8 [1, size, size]."""

    def work(row: Any) -> np.ndarray:
        return square(decode(read_file(root, row.path, row.sha256)), size)[None]

    return stream(work, manifest, what="loading")


def _cache_key(manifest: pd.DataFrame, size: int) -> str:
    rows = manifest[["image_id", "sha256"]].to_csv(index=False, lineterminator="\n")
    parts = [rows, str(size), generator_hash(), *decoder_versions()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def check_images(manifest: pd.DataFrame, root: Path | None) -> None:
    """Decode every pixel of every image and mask of a manifest. For the phantom (`root` None) do nothing.

    Raises InputError with the number of unusable images and up to five of them. An image is also unusable if its
    mask is not a PNG or does not have the proportions of the image.
    """
    if is_phantom(manifest):
        return
    names = [name for name in MASKS if name in manifest]
    for_each(
        lambda row: _check(row, read_file(root, row.path, row.sha256), root, names), manifest, what="checking"
    )


def _check(row: Any, content: bytes, folder: Path, masks: Sequence[str]) -> None:
    """Decode the image and the masks of a row. Raises Unusable."""
    width, height = decode(content).size
    for name in masks:
        if path := getattr(row, name):
            with naming(name, path):
                rows, columns = inside_mask(read_file(folder, path)).shape
                # Allow one pixel: the mask may have been drawn on a smaller copy of the image.
                if abs(columns * height - rows * width) > max(width, height, columns, rows):
                    raise Unusable(
                        f"has {columns}x{rows} pixels, other proportions than the image ({width}x{height})"
                    )


def drop_unusable(
    manifest: pd.DataFrame, root: Path, settings: DataParams
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The rows whose files decode fully, with their sha256; and {"path", "reason"} of each of the others.

    A file in the cache holds the hashes of images that this code has decoded; they are not decoded again.
    Raises InputError if more than `max_skipped_fraction` of the images are bad, or all images of a class.
    """
    masks = [name for name in MASKS if name in manifest]
    parts = decoder_versions()
    ledger = default_cache() / f"usable-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.txt"
    known = read_hashes(ledger)

    def work(row: Any) -> tuple[str, str]:
        try:
            content = read_file(root, row.path)
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 not in known or any(getattr(row, name) for name in masks):
                _check(row, content, root, masks)
        except Unusable as trouble:
            return "", str(trouble)
        return sha256, ""

    results = for_each(work, manifest, what="decoding")
    good = np.array([not reason for _, reason in results])
    skipped = [
        {"path": path, "reason": reason}
        for path, (_, reason) in zip(manifest["path"], results, strict=True)
        if reason
    ]
    kept = manifest[good].assign(sha256=[sha256 for sha256, _ in results if sha256]).reset_index(drop=True)
    add_hashes(ledger, set(kept["sha256"]))
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
    lost = sorted(set(multi_label.by_class(manifest)["label"]) - set(multi_label.by_class(kept)["label"]))
    if lost:
        raise InputError(
            f"{count}, among them all of {some(lost)}: {some(listed)}: restore them, or leave the class out",
            items=listed,
        )
    warnings.warn(f"{count} and are left out (on_bad_image: skip): {some(listed)}", stacklevel=3)
    return kept, skipped
