"""Which files can be used: every pixel of an image and of its masks is decoded."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data.cache import add_hashes, default_cache, read_hashes
from cxr.data.formats import Unusable
from cxr.data.images import decode, decoder_versions, inside_mask
from cxr.data.phantom.rows import is_phantom
from cxr.data.reading import for_each, naming, need_root, read_file
from cxr.data.tables import MASKS


def check_images(manifest: pd.DataFrame, root: Path | None) -> None:
    """Decode every pixel of every image and mask of a manifest. For the phantom (`root` None) do nothing.

    Raises InputError with the number of unusable images and up to five of them. An image is also unusable if its
    mask is not a PNG or does not have the proportions of the image.
    """
    if is_phantom(manifest):
        return
    folder = need_root(root)
    names = [name for name in MASKS if name in manifest]
    for_each(lambda row: _check(row, read_file(folder, row.path), folder, names), manifest, what="checking")


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
    lost = sorted(set(manifest["label"]) - set(kept["label"]))
    if lost:
        raise InputError(
            f"{count}, among them all of {some(lost)}: {some(listed)}: restore them, or leave the class out",
            items=listed,
        )
    warnings.warn(f"{count} and are left out (on_bad_image: skip): {some(listed)}", stacklevel=3)
    return kept, skipped
