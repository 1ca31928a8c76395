"""One image file: from the bytes to what the network sees, and masks of regions.

All formats take the same path (docs/data.md):

    stored values -> presentation values -> grey, float32 0..255 -> square -> uint8 [size, size]

    stored          PNG, JPEG, TIFF and DICOM, recognised by their content, not by suffix
    presentation    DICOM: modality LUT or rescale, then the first VOI LUT or window; MONOCHROME1 inverted
    grey            8 bits: unchanged; 16 bits: times 255/65535; other types of TIFF: min..max of the image;
                    colour: ITU-R BT.709 luminance; transparent: on black; an EXIF orientation is applied
    square          the whole image is resized, its aspect ratio not kept (`cxr.data.loading.load_images`)
    uint8           rounded; the networks scale these values themselves (`cxr.models.build`)
"""

from __future__ import annotations

import hashlib
import io
from importlib.metadata import version
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps

from cxr.data import dicom, dicom_fields, formats
from cxr.data.cache import source_hash
from cxr.data.dicom import dicom_header, dicom_image, is_dicom
from cxr.data.formats import Header, Unusable, as_unusable, check_size, detail_lines, stretched

# ITU-R BT.709 as in skimage.color.rgb2gray; the last entry is Pillow's offset.
_LUMINANCE = (0.2125, 0.7154, 0.0721, 0.0)
_PILLOW = ("PNG", "JPEG", "TIFF")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I", "F"}


def decoder_versions() -> list[str]:
    """What pixels depend on besides the file: a hash of the code that decodes, and its libraries' versions."""
    code = source_hash(__file__, dicom.__file__, dicom_fields.__file__, formats.__file__)
    return [code, PIL.__version__, np.__version__, f"pydicom {version('pydicom')}"]


def header(file: BinaryIO) -> Header:
    """The header of an open image file. It reads only what it needs. Raises Unusable."""
    start = file.read(512)
    file.seek(0)
    if is_dicom(start):
        return dicom_header(file, start)
    try:
        with Image.open(file, formats=_PILLOW) as image:
            check_size(*image.size)
            _check_tiff(image)
            turned = image.format != "TIFF" and _orientation(image) in (
                5,
                6,
                7,
                8,
            )  # Pillow has already turned a TIFF
            width, height = image.size[::-1] if turned else image.size
            return Header(
                # "MPO" is a JPEG that holds more pictures
                format="JPEG" if image.format == "MPO" else image.format,
                width=width,
                height=height,
                mode=image.mode,
                bits=_bits(image, start),
                frames=_frames(image),
                details=_details(image),
            )
    except Exception as error:
        raise as_unusable(error, start) from None


def decode(content: bytes) -> Image.Image:
    """The image with all pixels decoded, upright.

    A grey DICOM, and a grey image without 1, 8 or 16 bits, has mode "F" and values from 0 to 255.

    Raises Unusable if a file is damaged, too large, of another format than `FORMATS`, or holds several images.
    """
    if is_dicom(content[:512]):
        return dicom_image(content)
    try:
        image = Image.open(io.BytesIO(content), formats=_PILLOW)
        check_size(*image.size)
        _check_tiff(image)
        if _frames(image) > 1:
            raise Unusable(f"{_frames(image)} images in one file: save the one to use as a file of its own")
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            raise Unusable(f"its colour mode {image.mode} cannot be read: save it as grey or RGB")
        bits, inverted = _bits(image, content), _is_inverted(image)
        image.load()
        if image.format == "TIFF" and image.mode not in ("1", "L", "LA", "P", "PA") and len(image.getbands()) == 1:
            return _tiff_grey(image, bits, inverted)  # Pillow has already turned it upright
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise as_unusable(error, content[:512]) from None


def square(image: Image.Image, size: int) -> np.ndarray:
    """A decoded image as the networks see it, uint8 [size, size], grey values 0 to 255."""
    values = np.rint(_grey(image).resize((size, size), Image.Resampling.BILINEAR))
    return values.clip(0, 255, out=values).astype(
        np.uint8
    )  # in place: new arrays are slow in threads (page faults)


def inside_mask(content: bytes) -> np.ndarray:
    """Where a mask image is neither black nor transparent, bool [height, width]."""
    image = decode(content)
    if not content.startswith(b"\x89PNG"):
        raise Unusable("a mask has to be a PNG: the noise of a JPEG leaves pixels that are not quite black")
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"))
        return values[..., :3].any(axis=-1) & (values[..., 3] > 0)
    values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return values.any(axis=-1) if values.ndim == 3 else values != 0


def square_mask(inside: np.ndarray, size: int) -> np.ndarray:
    """Pixels with at least half of their area inside; if there is none, those with the largest share.

    `inside`: bool [height, width]. Returns bool [size, size].
    """
    whole = Image.fromarray(inside.astype(np.float32))
    share = np.asarray(whole.resize((size, size), Image.Resampling.BOX))
    return share >= np.clip(share.max(), 1e-6, 0.5) - 1e-6 if inside.any() else np.zeros((size, size), bool)


def _grey(image: Image.Image) -> Image.Image:
    """The image in mode "F", values 0 to 255."""
    if image.mode == "F":
        return image
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


def _check_tiff(image: Image.Image) -> None:
    """Raise Unusable for a TIFF whose pieces do not make its rows: Pillow leaves the rest black, or shears it."""
    if image.format != "TIFF":
        return
    tags = image.tag_v2
    wide, high = (int(tags[tag]) for tag in (256, 257))
    if 324 in tags:
        name, places, sizes = "tiles", 324, 325
        across, down = (int(tags[tag]) for tag in (322, 323))
    else:
        name, places, sizes = "strips", 273, 279
        across, down = wide, min(high, int(tags.get(278, high)))
    planes = int(tags.get(277, 1)) if tags.get(284) == 2 else 1
    needed = -(-wide // across) * -(-high // down) * planes
    offsets, counts = tags.get(places, ()), tags.get(sizes, ())
    if len(offsets) != needed:
        raise Unusable(f"damaged: {len(offsets)} {name}, and {wide}x{high} pixels need {needed}")
    if tags.get(259, 1) != 1 or tags.get(262) == 6 or not any(counts):  # compressed, subsampled, or without sizes
        return
    row = -(-across * sum(tags.get(258, (1,))) // planes // 8)
    last = row * (high - (needed // planes - 1) * down) if name == "strips" else row * down
    least, most = (
        row * down * (needed - planes) + last * planes,
        row * down * needed + 8,
    )  # a last strip may be whole
    if not least <= sum(counts) <= most:
        raise Unusable(f"damaged: {sum(counts)} bytes of pixels, and {wide}x{high} pixels need {least}")


def _frames(image: Image.Image) -> int:
    """Pages of a TIFF or pictures of an animated PNG. A camera's JPEG with previews counts as one."""
    return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def _bits(image: Image.Image, start: bytes) -> int:
    if image.format == "PNG":
        return start[24]
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])
    return int(getattr(image, "bits", 8))


def _is_inverted(image: Image.Image) -> bool:
    """Whether zero is white in a TIFF. (Pillow inverts those of 1 and 8 bits itself.)"""
    return image.format == "TIFF" and image.tag_v2.get(262) == 0


def _tiff_grey(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    """Scale unsigned values of up to 16 bits by their range; others by min..max of the image."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if bits == 16 and not inverted:
            return image
        grey = values * np.float32(255 / (2**bits - 1))
    else:
        grey = stretched(np.asarray(image))
    return Image.fromarray(255 - grey if inverted else grey)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; for a PNG 1 if reading it would decode the image."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _details(image: Image.Image) -> dict[str, str]:
    """What may differ between hospitals: camera, software, resolution, compression."""
    found: dict[str, Any] = {}
    if image.format != "PNG" or "exif" in image.info:
        exif = image.getexif()
        found = {
            tag.name: exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software)
        }
    for key in ("Software", "Source", "Creator", "Author"):
        if isinstance(image.info.get(key), str):
            found.setdefault(key, image.info[key])
    if image.info.get("dpi"):
        found["dpi"] = "x".join(f"{float(value):g}" for value in image.info["dpi"])
    if tables := getattr(image, "quantization", None):
        text = repr(sorted((key, list(values)) for key, values in tables.items()))
        found["jpeg_tables"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    if image.format == "TIFF":
        found["compression"] = image.info.get("compression")
    return detail_lines(found)
