"""One image file: from the bytes to what the network sees, and masks of regions.

There is one path, whatever the format (docs/data.md):

    stored values -> presentation values -> grey, float32 0..255 -> square -> uint8 [size, size]

    stored          PNG, JPEG, TIFF and DICOM, recognised by content, never by suffix
    presentation    DICOM: modality LUT or rescale, then the first VOI LUT or window; MONOCHROME1 inverted
    grey            8 bits: as they are; 16 bits: by 255/65535; TIFF of other types: min..max of the image;
                    colour: ITU-R BT.709 luminance; transparency: on black; an EXIF orientation is applied
    square          the whole image resized, aspect ratio not kept (`cxr.data.loading.load_images`)
    uint8           rounded; what the networks do to these is `cxr.models.build`' work
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
FORMATS = "PNG, JPEG, TIFF or DICOM"
MAX_PIXELS = 2 * 89_478_485  # of one image: Pillow's own limit; a radiograph has 30 million at most

# ITU-R BT.709 as in skimage.color.rgb2gray; the last entry is Pillow's offset.
_LUMINANCE = (0.2125, 0.7154, 0.0721, 0.0)
_PILLOW = ("PNG", "JPEG", "TIFF")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I", "F"}
_DICOM_DETAILS = (
    "ViewPosition",
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "PhotometricInterpretation",
    "PatientSex",
    "PatientAge",
    "InstitutionName",
    "StationName",
    "SoftwareVersions",
    "BodyPartExamined",
    "BurnedInAnnotation",
)
_INFLATE = (
    "decompress it (`gdcmconv --raw`, `dcmdjpeg`), or `pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`"
)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
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
    """One file's trouble, in words; `_for_each` gathers them into one InputError."""


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


def header(file: BinaryIO) -> Header:
    """The header of an open image file; reads no more of it than that takes. Raises Unusable."""
    start = file.read(512)
    file.seek(0)
    if _is_dicom(start):
        return _dicom_header(file, start)
    try:
        with Image.open(file, formats=_PILLOW) as image:
            _check_size(*image.size)
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)  # Pillow turns a TIFF's size
            width, height = image.size[::-1] if turned else image.size
            return Header(
                # "MPO" is a JPEG with further pictures behind it
                format="JPEG" if image.format == "MPO" else image.format,
                width=width,
                height=height,
                mode=image.mode,
                bits=_bits(image, start),
                frames=_frames(image),
                details=_details(image),
            )
    except Exception as error:
        raise _unusable(error, start) from None


def decode(content: bytes) -> Image.Image:
    """The image with all its pixels decoded, upright; what is grey with other than 1, 8 or 16 bits, and every grey
    DICOM, is of mode "F" with values from 0 to 255.

    Raises Unusable for files that are no `FORMATS`, damaged, of more than one image, or too large.
    """
    if _is_dicom(content[:512]):
        return _dicom_image(content)
    try:
        image = Image.open(io.BytesIO(content), formats=_PILLOW)
        _check_size(*image.size)
        if _frames(image) > 1:
            raise Unusable(f"{_frames(image)} images in one file: save the one that is meant by itself")
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            raise Unusable(f"colours of the kind {image.mode} are not read: save it as grey or RGB")
        bits, inverted = _bits(image, content), _is_inverted(image)
        image.load()
        if image.format == "TIFF" and image.mode not in ("1", "L", "LA", "P", "PA") and len(image.getbands()) == 1:
            return _tiff_grey(image, bits, inverted)  # which Pillow has turned upright
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise _unusable(error, content[:512]) from None


def square(image: Image.Image, size: int) -> np.ndarray:
    """A decoded image as the networks get it, uint8 [size, size]."""
    values = np.rint(_grey(image).resize((size, size), Image.Resampling.BILINEAR))
    return values.clip(0, 255, out=values).astype(np.uint8)  # in place: in threads each new array is page faults


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


# --- what Pillow reads ----------------------------------------------------------------------------


def _unusable(error: Exception, start: bytes) -> Unusable:
    if isinstance(error, Unusable):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Unusable(f"too large: {_words(error)}")
    if isinstance(error, Image.UnidentifiedImageError):
        return Unusable(_what_else(start))
    return Unusable(f"damaged: {_words(error)}")


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


def _words(error: Exception) -> str:
    """An exception's text as one line of moderate length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise Unusable(f"damaged: {width}x{height} pixels")
    if min(width, height) == 1:
        raise Unusable(f"{width}x{height} pixels: a line or a dot, no picture")
    if width * height > MAX_PIXELS:
        raise Unusable(f"too large: {width}x{height} pixels, and more than {MAX_PIXELS} are not read")


def _frames(image: Image.Image) -> int:
    """Pages of a TIFF, pictures of an animated PNG; a camera's JPEG with previews behind it counts as one."""
    return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def _bits(image: Image.Image, start: bytes) -> int:
    if image.format == "PNG":
        return start[24]
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])
    return int(getattr(image, "bits", 8))


def _is_inverted(image: Image.Image) -> bool:
    """Whether a TIFF's zero is white. (Pillow turns those of 1 and 8 bits itself.)"""
    return image.format == "TIFF" and image.tag_v2.get(262) == 0


def _tiff_grey(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    """16 bits and fewer, unsigned: by their range; signed, longer and floating: min..max of the image."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if bits == 16 and not inverted:
            return image
        grey = values * np.float32(255 / (2**bits - 1))
    else:
        grey = _stretched(np.asarray(image))
    return Image.fromarray(255 - grey if inverted else grey)


def _stretched(values: np.ndarray) -> np.ndarray:
    """min..max as 0..255, float32; a constant image is black."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unusable("has values that are not finite (NaN or infinity)")
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.float32)


def _orientation(image: Image.Image) -> int:
    """EXIF's; a PNG is asked only where that does not take decoding it."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _details(image: Image.Image) -> dict[str, str]:
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
    return _lines(found)


def _lines(found: dict[str, Any]) -> dict[str, str]:
    """Those that say something, each as one line of moderate length."""
    lines = {
        name: " ".join(str(value).split()).strip("\0 ")[:200] for name, value in found.items() if value is not None
    }
    return {name: line for name, line in lines.items() if line}


# --- DICOM ----------------------------------------------------------------------------------------


def _is_dicom(start: bytes) -> bool:
    """With the preamble that the standard wants, or beginning at once with group 0002 or 0008, as old files do."""
    if start[128:132] == b"DICM":
        return True
    group, element, kind = start[:2], start[2:4], start[4:6]
    explicit = kind in (b"UL", b"UI", b"OB", b"CS", b"DA", b"TM", b"LO", b"SH", b"PN", b"ST")
    implicit = element in (b"\0\0", b"\5\0", b"\10\0", b"\26\0", b"\30\0") and start[6:8] == b"\0\0"
    return group in (b"\2\0", b"\10\0") and (explicit or implicit)


def _dicom_read(file: BinaryIO, start: bytes, *, pixels: bool) -> Any:
    """A pydicom Dataset that has an image. Raises Unusable, and whatever pydicom does."""
    import pydicom  # here, since most data sets have none, and it takes a while

    if _DEFLATED in start:
        raise Unusable("a deflated DICOM (transfer syntax 1.2.840.10008.1.2.1.99) is not read: save it inflated")
    dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=start[128:132] != b"DICM")
    if dataset.get("Rows") is None or dataset.get("Columns") is None:
        kind = " ".join(str(dataset.get("Modality") or "").split())[:16]
        raise Unusable(f"a DICOM file without an image{f' (Modality {kind})' if kind else ''}")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    return dataset


def _dicom_header(file: BinaryIO, start: bytes) -> Header:
    try:
        dataset = _dicom_read(file, start, pixels=False)
        return Header(
            format="DICOM",
            width=int(dataset.Columns),
            height=int(dataset.Rows),
            mode=str(dataset.get("PhotometricInterpretation") or ""),
            bits=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
            frames=int(dataset.get("NumberOfFrames") or 1),
            details=_lines({name: dataset.get(name) for name in _DICOM_DETAILS}),
        )
    except Exception as error:
        raise _unusable(error, start) from None


def _dicom_image(content: bytes) -> Image.Image:
    try:
        return _dicom_decoded(_dicom_read(io.BytesIO(content), content[:512], pixels=True))
    except Exception as error:
        raise _unusable(error, content[:512]) from None


def _dicom_decoded(dataset: Any) -> Image.Image:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unusable("a DICOM file without pixels (no Pixel Data)")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise Unusable(f"{frames} frames in one DICOM file: save the one that is meant by itself")
    _check_decoder(dataset)
    kind = str(dataset.get("PhotometricInterpretation") or "")
    if not kind.startswith(("MONOCHROME1", "MONOCHROME2", "RGB", "YBR")):
        raise Unusable(f"DICOM with the photometric interpretation {kind or '(none)'}: only grey and RGB are read")
    try:
        values = pixel_array(dataset)  # YBR becomes RGB
    except RuntimeError as error:  # by every decoder that is there: 12-bit JPEG, for one, Pillow does not know
        raise Unusable(
            f"DICOM compressed as {_syntax(dataset)} that does not decode ({_words(error)}): {_INFLATE}"
        ) from None
    if values.ndim == 3:
        if values.dtype != np.uint8 or values.shape[-1] != 3:
            raise Unusable(
                f"colour DICOM with {values.shape[-1]} channels of {values.dtype}: only 8 bits are read"
            )
        return Image.fromarray(values)
    if values.ndim != 2:
        raise Unusable(f"damaged: pixels of the shape {values.shape}")
    values = apply_modality_lut(values, dataset)
    if not np.isfinite(values).all():
        raise Unusable("has values that are not finite (NaN or infinity)")
    if low_high := _voi_range(dataset):
        low, high = low_high
        if dataset.get("VOILUTSequence"):  # a table is entered by whole numbers
            values = np.rint(values).astype(np.int64)
        values = apply_voi_lut(values, dataset, index=0)
        grey = ((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.float32)
    else:
        grey = _stretched(values)
    return Image.fromarray(255 - grey if kind.startswith("MONOCHROME1") else grey)


def _voi_range(dataset: Any) -> tuple[float, float] | None:
    """What the VOI LUT or window makes of the lowest and the highest value; None: there is none."""
    from pydicom.pixels import apply_windowing

    if tables := dataset.get("VOILUTSequence"):
        return 0.0, 2.0 ** int(tables[0].LUTDescriptor[2]) - 1
    if dataset.get("WindowCenter") in (None, "") or dataset.get("WindowWidth") in (None, ""):
        return None
    with np.errstate(over="ignore"):
        low, high = apply_windowing(np.array([-1e12, 1e12]), dataset, index=0)
    if not low < high:
        raise Unusable(
            f"DICOM window of centre {dataset.WindowCenter} and width {dataset.WindowWidth} shows nothing"
        )
    return float(low), float(high)


def _check_decoder(dataset: Any) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:  # no meta header: pydicom has told implicit from explicit by looking
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
        return
    if not syntax.is_compressed:
        return
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        usable = False
    if not usable:
        raise Unusable(f"DICOM compressed as {_syntax(dataset)}, which no installed decoder reads: {_INFLATE}")


def _syntax(dataset: Any) -> str:
    return str(getattr(dataset.file_meta.TransferSyntaxUID, "name", "unknown")).partition(",")[0]


def _guessed_syntax(dataset: Any) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
