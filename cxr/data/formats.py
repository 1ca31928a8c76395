"""What all readers of image files share: the formats, the header, and the words for a file that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
FORMATS = "PNG, JPEG, TIFF or DICOM"
MAX_PIXELS = 2 * 89_478_485  # of one image: Pillow's own limit; a radiograph has 30 million at most
# How files begin that are often among images: what to call them.
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
    """One file's trouble, in words; `for_each` gathers them into one InputError."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image without its pixels being decoded.

    format : "PNG", "JPEG", "TIFF" or "DICOM".
    width, height : pixels, upright (an EXIF orientation is applied).
    mode : Pillow's mode, or DICOM's photometric interpretation ("MONOCHROME2", ...).
    bits : stored bits a channel.
    frames : images in the file; `decode` refuses more than one.
    details : what else could tell one hospital's files from another's, by name, one line each.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    frames: int = 1
    details: dict[str, str] = field(default_factory=dict)


def as_unusable(error: Exception, start: bytes) -> Unusable:
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
        return f"not a {FORMATS} file, but HTML or XML: what a download saves when it fails"
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            return f"not a {FORMATS} file, but {name}"
    if not start.strip(b"\0"):
        return f"not a {FORMATS} file: it begins with zeros, as one does whose copying broke off"
    return f"not a {FORMATS} file, or its beginning is damaged"


def one_line(error: Exception) -> str:
    """An exception's text as one line of moderate length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise Unusable(f"damaged: {width}x{height} pixels")
    if min(width, height) == 1:
        raise Unusable(f"{width}x{height} pixels: a line or a dot, no picture")
    if width * height > MAX_PIXELS:
        raise Unusable(f"too large: {width}x{height} pixels, and more than {MAX_PIXELS} are not read")


def stretched(values: np.ndarray) -> np.ndarray:
    """min..max as 0..255, float32; a constant image is black."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unusable("has values that are not finite (NaN or infinity)")
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.float32)


def detail_lines(found: dict[str, Any]) -> dict[str, str]:
    """Those that say something, each as one line of moderate length."""
    lines = {
        name: " ".join(str(value).split()).strip("\0 ")[:200] for name, value in found.items() if value is not None
    }
    return {name: line for name, line in lines.items() if line}
