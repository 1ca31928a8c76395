"""Do the fields of a DICOM header agree with each other and with the pixels? What contradicts is refused by name.

A wrong field does not stop a decoder: it gives a picture with other grey values, or another picture.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from cxr.data.formats import Unusable

_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
_POLARITY = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
_NO_SIGN = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # JPEG of 8 and 12 bits, lossy
_WINDOWS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_JPEG, _JPEG_2000 = b"\xff\xd8", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


def check_header(dataset: Any) -> None:
    """Raise Unusable if fields of a header contradict each other. Pixels are not needed.

    `dataset`: of pydicom, with Rows and Columns. A missing field is left to the decoder, which names it.
    """
    kind = photometric(dataset)
    samples = _whole(dataset, "SamplesPerPixel")
    expected = _SAMPLES.get(kind, 3)
    if samples not in (None, expected):
        raise Unusable(f"its header contradicts itself: SamplesPerPixel {samples} for {kind}")
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape in _POLARITY.values() and shape != _POLARITY.get(kind, shape):
        raise Unusable(f"its header contradicts itself: PresentationLUTShape {shape} for {kind}: what is white?")
    frames = _whole(dataset, "NumberOfFrames")
    if frames is not None and frames > 1:
        raise Unusable(f"{frames} frames in one DICOM file: save the one to use as a file of its own")
    if frames is not None and frames < 1:
        raise Unusable(f"its header contradicts itself: NumberOfFrames {frames}")
    _check_bits(dataset)
    _check_padding(dataset)
    _check_rescale(dataset)
    _check_window(dataset)
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if dataset.get(name):
            table(dataset, name)


def photometric(dataset: Any) -> str:
    """The photometric interpretation. Raises Unusable for one that cannot be read."""
    kind = str(dataset.get("PhotometricInterpretation") or "")
    if kind not in _SAMPLES and not kind.startswith("YBR"):
        raise Unusable(
            f"DICOM of the photometric interpretation {kind or '(none)'}: only grey and RGB can be read"
        )
    return kind


def looked_up(values: np.ndarray, dataset: Any, name: str) -> tuple[np.ndarray, int]:
    """Values behind the first table of `name`, int64 of the same shape, and the largest value in the table.

    pydicom counts the entries of tables of 8 bits in 8 bits, which is wrong for more than 256 entries.

    Args: values: whole numbers. Those below or above the table get its first or last value (DICOM PS3.3 C.11.1).
    """
    entries, first = table(dataset, name)
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)], int(entries.max())


def table(dataset: Any, name: str) -> tuple[np.ndarray, int]:
    """The first table of `name` (ModalityLUTSequence or VOILUTSequence): int64 [n], and the first input.

    Raises Unusable if the table is not the one that its LUTDescriptor describes.
    """
    item = dataset[name].value[0]
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or data is None or np.size(descriptor) != 3:
        raise Unusable(f"{name}: LUTDescriptor {descriptor}: expected three numbers, and LUTData")
    number, bits = int(descriptor[0]) or 2**16, int(descriptor[2])
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        values = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.int64)
    else:
        values = np.atleast_1d(np.asarray(data, np.int64))
    if len(values) != number:
        raise Unusable(f"{name}: LUTData has {len(values)} values, and LUTDescriptor says {number}")
    if not 8 <= bits <= 16 or values.min() < 0 or values.max() >= 2**bits:
        raise Unusable(f"{name}: LUTData has values up to {values.max()}, and LUTDescriptor says {bits} bits")
    return values, int(descriptor[1])


def check_pixel_data(dataset: Any) -> None:
    """Raise Unusable if the bytes of the pixels are not of the size, number and kind that the header says."""
    if "PixelData" not in dataset:
        return
    data = dataset.PixelData
    if dataset.get("BitsAllocated") is None:
        return  # the decoder says so
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        samples = _whole(dataset, "SamplesPerPixel") or 1
        subsampled = 2 / 3 if "422" in photometric(dataset) else 1
        bits = dataset.Rows * dataset.Columns * samples * subsampled * dataset.BitsAllocated
        if len(data) > math.ceil(bits / 8) + 1:  # one byte makes the number even
            raise Unusable(
                f"its header contradicts its pixels: {dataset.Columns}x{dataset.Rows} of {dataset.BitsAllocated} "
                f"bits are {math.ceil(bits / 8)} bytes, and there are {len(data)}: wrong size, or "
                "several frames"
            )
        return
    from pydicom.encaps import generate_fragments, parse_basic_offsets
    from pydicom.uid import RLELossless

    stream = io.BytesIO(data)
    parse_basic_offsets(stream)  # it comes before the fragments
    fragments = list(generate_fragments(stream))
    begin = (_JPEG, *_JPEG_2000)
    run_lengths = dataset.file_meta.TransferSyntaxUID == RLELossless
    frames = len(fragments) if run_lengths else sum(fragment.startswith(begin) for fragment in fragments)
    if frames > 1:
        raise Unusable(
            f"{frames} frames in one DICOM file, and the header says one: save the one to use as a file of its own"
        )
    if fragments and fragments[0].startswith(begin):
        _check_stream(dataset, b"".join(fragments))


def _check_stream(dataset: Any, content: bytes) -> None:
    """Compare the header of a JPEG or JPEG 2000 picture with DICOM's."""
    try:
        picture = Image.open(io.BytesIO(content), formats=("JPEG", "JPEG2000"))
    except Exception:
        return  # a kind that Pillow does not know: the decoder says what is wrong
    width, height = picture.size
    if (width, height) != (dataset.Columns, dataset.Rows):
        raise Unusable(
            f"its header contradicts its pixels: {dataset.Columns}x{dataset.Rows}, and the picture inside has "
            f"{width}x{height}"
        )
    if not content.startswith(_JPEG):
        return  # pydicom reads the sign of JPEG 2000 from its own header
    if _whole(dataset, "PixelRepresentation") == 1 and dataset.file_meta.TransferSyntaxUID in _NO_SIGN:
        raise Unusable("its header contradicts its pixels: PixelRepresentation 1, and a JPEG has no sign")
    kind, transform = photometric(dataset), picture.info.get("adobe_transform")
    ycc = transform == 1 or "jfif" in picture.info
    if len(picture.getbands()) == 3 and ((kind == "RGB" and ycc) or (kind != "RGB" and transform == 0)):
        raise Unusable(
            f"its header contradicts its pixels: {kind}, and the JPEG inside says {'YCbCr' if ycc else 'RGB'}"
        )


def stored_values(dataset: Any, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The values that the header says are stored, and where they are padding.

    Args:
        raw: of a grey image, int or float [rows, columns], as its bytes say, with all BitsAllocated.

    Returns: the values of BitsStored bits, with their sign; and bool [rows, columns], None without padding.
    Raises: Unusable if a pixel that is no padding has more bits than BitsStored, or all are padding.
    """
    values = raw
    unused = 8 * raw.itemsize - int(dataset.get("BitsStored") or 0) if raw.dtype.kind in "iu" else 0
    if unused:
        values = np.right_shift(np.left_shift(raw, unused), unused)  # repeats the sign, if there is one
    padding = _is_padding(dataset, raw, values)
    if unused:
        wrong = values != raw
        if raw.dtype.kind == "i":  # the unused bits may repeat the sign, or be 0
            wrong &= (raw < 0) | (raw >= 2 ** int(dataset.BitsStored))
        if padding is not None:
            wrong &= ~padding
        if wrong.any():
            raise Unusable(
                f"its header contradicts its pixels: BitsStored {dataset.BitsStored}, and {wrong.sum()} pixels "
                f"have more bits, such as {raw[wrong][0]}"
            )
    if padding is not None and padding.all():
        raise Unusable("all of its pixels have the PixelPaddingValue")
    return values, padding if padding is not None and padding.any() else None


def _is_padding(dataset: Any, *candidates: np.ndarray) -> np.ndarray | None:
    ends = [_whole(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [end for end in ends if end is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    return np.logical_or.reduce([(values >= low) & (values <= high) for values in candidates])


def _check_bits(dataset: Any) -> None:
    names = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    allocated, stored, high, signed = (_whole(dataset, name) for name in names)
    if signed not in (None, 0, 1):
        raise Unusable(f"its header contradicts itself: PixelRepresentation {signed}: expected 0 or 1")
    if None not in (allocated, stored) and not 1 <= stored <= allocated:
        raise Unusable(f"its header contradicts itself: BitsStored {stored} of BitsAllocated {allocated}")
    if None not in (stored, high) and high != stored - 1:
        raise Unusable(
            f"its header contradicts itself: HighBit {high} for BitsStored {stored}: only values in the lowest "
            "bits can be read"
        )


def _check_padding(dataset: Any) -> None:
    value, limit = (_whole(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None and limit is not None:
        raise Unusable("its header contradicts itself: PixelPaddingRangeLimit without PixelPaddingValue")
    allocated, signed = _whole(dataset, "BitsAllocated"), _whole(dataset, "PixelRepresentation")
    if allocated is None or signed is None:
        return
    low, high = (-(2 ** (allocated - 1)), 2 ** (allocated - 1) - 1) if signed else (0, 2**allocated - 1)
    for name, end in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if end is not None and not low <= end <= high:
            raise Unusable(
                f"its header contradicts itself: {name} {end}, and pixels have {low} to {high} "
                f"(BitsAllocated {allocated}, PixelRepresentation {signed})"
            )


def _check_rescale(dataset: Any) -> None:
    slope, intercept = (_numbers(dataset, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if dataset.get("ModalityLUTSequence") and (slope or intercept):
        raise Unusable(
            "its header contradicts itself: ModalityLUTSequence and RescaleSlope: only one may be there"
        )
    if len(slope) != len(intercept) or len(slope) > 1:
        raise Unusable(
            f"its header contradicts itself: RescaleSlope {_text(slope)}, RescaleIntercept {_text(intercept)}: "
            "expected one of each"
        )
    if slope and not (math.isfinite(slope[0]) and math.isfinite(intercept[0]) and slope[0] != 0):
        raise Unusable(f"RescaleSlope {slope[0]:g}, RescaleIntercept {intercept[0]:g} give no grey values")


def _check_window(dataset: Any) -> None:
    if dataset.get("VOILUTSequence"):
        return  # it counts, not the window
    centres, widths = (_numbers(dataset, name) for name in ("WindowCenter", "WindowWidth"))
    if len(centres) != len(widths):
        raise Unusable(
            f"its header contradicts itself: WindowCenter {_text(centres)}, WindowWidth {_text(widths)}: expected "
            "one width for each centre"
        )
    if not all(map(math.isfinite, (*centres, *widths))):
        raise Unusable(f"WindowCenter {_text(centres)}, WindowWidth {_text(widths)}: not finite")
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if centres and function not in _WINDOWS:
        raise Unusable(f"VOILUTFunction {function}: expected {', '.join(_WINDOWS)}")


def _whole(dataset: Any, name: str) -> int | None:
    """The value of a field; None without one. Raises Unusable for several values."""
    value = dataset.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bytes) or np.size(value) != 1:
        raise Unusable(f"{name} has no value that can be read: expected one whole number")
    return int(value)


def _numbers(dataset: Any, name: str) -> list[float]:
    value = dataset.get(name)
    if value is None or value == "":
        return []
    return [float(number) for number in (value if np.size(value) != 1 or hasattr(value, "append") else [value])]


def _text(numbers: list[float]) -> str:
    return "\\".join(f"{number:g}" for number in numbers) or "(none)"
