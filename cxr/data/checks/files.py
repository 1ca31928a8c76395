"""Which files can be read to the end, and which show nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from cxr.core.errors import some
from cxr.core.params import DataParams
from cxr.data import images
from cxr.data.checks.findings import Finding, Picture
from cxr.data.formats import Unusable
from cxr.data.reading import for_each, opened, read_file

THUMB = 32  # side in pixels of the thumbnails that are compared
CONSTANT = 4.0  # grey values: an image whose thumbnail has a smaller standard deviation shows nothing
SHOWN = 24  # pictures with one finding
_TAIL = 4096  # bytes at the end of a file where its end mark must be; some writers add a few bytes after it


@dataclass(frozen=True)
class Look:
    """What is known about one file. `thumb`: uint8 [THUMB, THUMB], or None if no pixel was decoded."""

    header: Any = None
    size: int = 0
    trouble: str = ""
    thumb: np.ndarray | None = None


def look_at_all(manifest: pd.DataFrame, root: Path, full: bool) -> list[Look]:
    """Read the header of each file of the manifest, in its order; with `full` decode the files too."""
    what = "decoding" if full else "headers"
    return for_each(lambda row: _look(root, row, full), manifest, what=what)


def _look(root: Path, row: Any, full: bool) -> Look:
    try:
        with opened(root, row.path) as file:
            header = images.header(file)
            size = file.seek(0, 2)
            # only `decode` knows whether a file with several images can be used, and whether the pixels of a DICOM
            # file fit its header
            whole = header.frames == 1 and header.format != "DICOM" and _has_end(file, header.format, size)
        if whole and not full:
            return Look(header, size)
        # Decode a file without an end mark: files of some programs lack it and are whole.
        image = images.decode(read_file(root, row.path, row.sha256))
        return Look(header, size, thumb=images.square(image, THUMB) if full else None)
    except Unusable as trouble:
        return Look(trouble=str(trouble))


def _has_end(file: BinaryIO, kind: str, size: int) -> bool:
    """Whether the file has its end, if its format has an end that can be looked for."""
    if kind in ("JPEG", "PNG"):
        file.seek(max(0, size - _TAIL))
        return (b"\xff\xd9" if kind == "JPEG" else b"IEND") in file.read()
    if kind == "TIFF":
        file.seek(0)
        with Image.open(file, formats=["TIFF"]) as image:
            tags = image.tag_v2
            pairs = [(tags.get(a, ()), tags.get(b, ())) for a, b in ((273, 279), (324, 325))]
            return all(at + n <= size for starts, counts in pairs for at, n in zip(starts, counts, strict=False))
    return True


def unreadable(manifest: pd.DataFrame, looks: Sequence[Look], settings: DataParams) -> list[Finding]:
    """Files that cannot be used: an error, or a warning if they are skipped and few."""
    bad = [(path, look.trouble) for path, look in zip(manifest["path"], looks, strict=True) if look.trouble]
    skipped = [(item["path"], item["reason"]) for item in manifest.attrs.get("skipped", [])]
    if not bad and not skipped:
        return []
    bad += skipped
    total = len(manifest) + len(skipped)
    skip = settings.on_bad_image == "skip"
    few = len(bad) <= settings.max_skipped_fraction * total
    if skip and few:
        severity, advice = "warning", "they are left out (on_bad_image: skip)"
    elif skip:
        severity, advice = "error", f"more than max_skipped_fraction ({settings.max_skipped_fraction:g})"
    else:
        severity, advice = "error", "restore or remove them, or set on_bad_image: skip"
    listed = some(f"{path} ({reason})" for path, reason in bad)
    text = f"{len(bad)} of {total} files cannot be used: {listed}: {advice}"
    table = pd.DataFrame(bad, columns=["file", "reason"])
    return [Finding("unreadable", severity, text, table, table["file"].tolist())]


def near_constant(rows: pd.DataFrame, thumbs: np.ndarray, root: Path) -> list[Finding]:
    """Images that are nearly one grey; `thumbs` uint8 [n, THUMB, THUMB] are theirs."""
    if rows.empty:
        return []
    table = pd.DataFrame(
        {
            "file": rows["path"].to_numpy(),
            "class": rows["label"].to_numpy(),
            "mean grey": thumbs.mean(axis=(1, 2)).round(1),
            "standard deviation": thumbs.std(axis=(1, 2)).round(2),
        }
    )
    text = (
        f"{_number(len(rows), 'image')} nearly one grey (standard deviation under {CONSTANT:g} of 255): they are "
        "blank, or their values use few of the file's bits, so that all is dark: leave them out, or rescale them"
    )
    pictures = [Picture(path, shown_images(root, path)) for path in table["file"].head(SHOWN)]
    return [Finding("near-constant images", "warning", text, table, table["file"].tolist(), pictures)]


def _number(n: int, what: str) -> str:
    return f"{n} {what} is" if n == 1 else f"{n} {what}s are"


def shown_images(root: Path, *paths: str, side: int = 160) -> tuple[np.ndarray, ...]:
    """The images at these paths for a picture of a finding, each uint8 [side, side]."""
    return tuple(images.square(images.decode(read_file(root, path)), side) for path in paths)
