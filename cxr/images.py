"""One image file: from the bytes to what the network sees, and masks of regions."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg")

# ITU-R BT.709 as in skimage.color.rgb2gray; the last entry is Pillow's offset.
_LUMINANCE = (0.2125, 0.7154, 0.0721, 0.0)


class Unusable(Exception):
    """One file's trouble, in words; `_for_each` gathers them into one InputError."""


def decode(content: bytes) -> Image.Image:
    """The image with all its pixels decoded, upright."""
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG"])
        image.load()
        return ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise Unusable("not a PNG or JPEG file") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise Unusable(f"damaged: {error}") from None


def square(image: Image.Image, size: int) -> np.ndarray:
    values = np.asarray(_grey(image).resize((size, size), Image.Resampling.BILINEAR))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def inside_mask(content: bytes) -> np.ndarray:
    """Where a mask image is neither black nor transparent, bool [height, width]."""
    image = decode(content)
    if not content.startswith(b"\x89PNG"):
        raise Unusable("a mask has to be a PNG: JPEG's noise leaves pixels that are not quite black")
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"))
        return values[..., :3].any(axis=-1) & (values[..., 3] > 0)
    values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return values.any(axis=-1) if values.ndim == 3 else values != 0


def square_mask(inside: np.ndarray, size: int) -> np.ndarray:
    """Where at least half of a pixel's area is inside, or the largest share if that is less; bool [size, size]."""
    whole = Image.fromarray(inside.astype(np.float32))
    share = np.asarray(whole.resize((size, size), Image.Resampling.BOX))
    return share >= np.clip(share.max(), 1e-6, 0.5) - 1e-6 if inside.any() else np.zeros((size, size), bool)


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
