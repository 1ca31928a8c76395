"""What all readers of image files share: formats, headers, and messages about files that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from cxr.core.errors import on_one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
FORMATS = "PNG, JPEG, TIFF or DICOM"
MAX_PIXELS = 2 * 89_478_485  # of one image: Pillow's own limit; radiographs have at most 30 million
# First bytes of other files that are often found among images, and their names.
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"RIFF": "a WebP or other RIFF file",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x00\x00\x00\x0cjP": "a bare JPEG 2000",
    b"version https://git-lfs": "a Git LFS pointer, the file itself was not fetched",
}


class Unusable(Exception):
    """What is wrong with one file, on one line. `cxr.data.reading` gathers several into one InputError."""

    def __init__(self, message: str) -> None:
        super().__init__(on_one_line(message, most=450))  # texts of a header may hold line breaks and commands


@dataclass(frozen=True)
class Header:
    """What a file says about its image before its pixels are decoded.

    format : "PNG", "JPEG", "TIFF" or "DICOM".
    width, height : pixels, upright (an EXIF orientation is applied).
    mode : Pillow's mode, or DICOM's photometric interpretation ("MONOCHROME2", ...).
    bits : stored bits per channel.
    frames : number of images in the file; `images.decode` refuses more than one.
    details : name to text, one line each: what else may differ between the files of hospitals.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    frames: int = 1
    details: dict[str, str] = field(default_factory=dict)


def as_unusable(error: Exception, start: bytes) -> Unusable:
    """Any error of a reader as Unusable. `start`: the first bytes of the file."""
    if isinstance(error, Unusable):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Unusable(f"too large: {one_line(error)}")
    if isinstance(error, Image.UnidentifiedImageError):
        return Unusable(_what_else(start))
    return Unusable(f"damaged: {one_line(error)}")


def _what_else(start: bytes) -> str:
    if not start:
        return "empty: the file has 0 bytes"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return f"not a {FORMATS} file, but HTML or XML: perhaps the page of a failed download"
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            return f"not a {FORMATS} file, but {name}"
    if not start.strip(b"\0"):
        return f"not a {FORMATS} file: it begins with zeros: perhaps its copy was interrupted"
    return f"not a {FORMATS} file, or its beginning is damaged"


def one_line(error: Exception) -> str:
    """The text of an exception on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_size(width: int, height: int) -> None:
    """Raise Unusable for images that are too small or too large to be read."""
    if width < 1 or height < 1:
        raise Unusable(f"damaged: {width}x{height} pixels")
    if min(width, height) == 1:
        raise Unusable(f"{width}x{height} pixels: a line or a dot, not a picture")
    if width * height > MAX_PIXELS:
        raise Unusable(f"too large: {width}x{height} pixels; at most {MAX_PIXELS} are read")


def stretched(values: np.ndarray) -> np.ndarray:
    """Scale values from min..max to 0..255, float32. A constant image becomes black."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unusable("has values that are not finite (NaN or infinity)")
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.float32)


def detail_lines(found: dict[str, Any]) -> dict[str, str]:
    """The entries that are not empty, each as one line of at most 200 characters."""
    lines = {
        name: " ".join(str(value).split()).strip("\0 ")[:200] for name, value in found.items() if value is not None
    }
    return {name: line for name, line in lines.items() if line}
