"""DICOM files: header and presentation values (docs/data.md)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cxr.data import dicom_fields
from cxr.data.formats import Header, Unusable, as_unusable, check_size, detail_lines, one_line

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


def is_dicom(start: bytes) -> bool:
    """Whether a file has the preamble of DICOM, or begins with group 0002 or 0008 as old files do."""
    if start[128:132] == b"DICM":
        return True
    group, element, kind = start[:2], start[2:4], start[4:6]
    explicit = kind in (b"UL", b"UI", b"OB", b"CS", b"DA", b"TM", b"LO", b"SH", b"PN", b"ST")
    implicit = element in (b"\0\0", b"\5\0", b"\10\0", b"\26\0", b"\30\0") and start[6:8] == b"\0\0"
    return group in (b"\2\0", b"\10\0") and (explicit or implicit)


def is_burned_in(details: Mapping[str, str]) -> bool:
    """Whether a header (`Header.details`) says that text is burnt into the pixels: BurnedInAnnotation is YES."""
    return details.get("BurnedInAnnotation", "").upper() == "YES"


def says_burned_in(path: Path) -> bool:
    """`is_burned_in` of a file; False for one that is no DICOM file or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(0)
            return is_dicom(start) and is_burned_in(dicom_header(file, start).details)
    except (OSError, ValueError, Unusable):
        return False


def about_burned_in(count: int, of: int) -> str:
    """What a person should know of `count` images whose headers say that text is burnt in; empty for none."""
    if not count:
        return ""
    return (
        f"{count} of {of} images have text burnt into their pixels (DICOM: BurnedInAnnotation is YES): it may "
        "name the patient, and pseudonyms do not remove it: look at these images before you share pictures"
    )


def _dicom_read(file: BinaryIO, start: bytes, *, pixels: bool) -> Any:
    """A pydicom Dataset with an image. Raises Unusable, and any error of pydicom."""
    import pydicom  # here: it is slow to import, and most data sets need none

    # its warnings quote values of the header, such as names, and would get into notebooks
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

    if _DEFLATED in start:
        raise Unusable(
            "a deflated DICOM (transfer syntax 1.2.840.10008.1.2.1.99) cannot be read: save it inflated"
        )
    dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=start[128:132] != b"DICM")
    if dataset.get("Rows") is None or dataset.get("Columns") is None:
        kind = " ".join(str(dataset.get("Modality") or "").split())[:16]
        raise Unusable(f"a DICOM file without an image{f' (Modality {kind})' if kind else ''}")
    check_size(int(dataset.Columns), int(dataset.Rows))
    dicom_fields.check_header(dataset)
    return dataset


def dicom_header(file: BinaryIO, start: bytes) -> Header:
    try:
        dataset = _dicom_read(file, start, pixels=False)
        return Header(
            format="DICOM",
            width=int(dataset.Columns),
            height=int(dataset.Rows),
            mode=str(dataset.get("PhotometricInterpretation") or ""),
            bits=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
            frames=int(dataset.get("NumberOfFrames") or 1),
            details=detail_lines({name: dataset.get(name) for name in _DICOM_DETAILS}),
        )
    except Exception as error:
        raise as_unusable(error, start) from None


def dicom_image(content: bytes) -> Image.Image:
    try:
        return _dicom_decoded(_dicom_read(io.BytesIO(content), content[:512], pixels=True))
    except Exception as error:
        raise as_unusable(error, content[:512]) from None


def _dicom_decoded(dataset: Any) -> Image.Image:
    from pydicom.pixels import apply_rescale, pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unusable("a DICOM file without pixels (no Pixel Data)")
    if "TransferSyntaxUID" not in dataset.file_meta:  # no meta header: pydicom found out how values are encoded
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
    dicom_fields.check_pixel_data(dataset)
    kind = dicom_fields.photometric(dataset)
    is_grey = kind.startswith("MONOCHROME")
    try:
        # Grey values keep all bits, to be compared with the header (pydicom cuts them off). YBR becomes RGB.
        values = pixel_array(dataset, raw=is_grey, correct_unused_bits=not is_grey)
    except (RuntimeError, NotImplementedError) as error:
        # no decoder is installed, or all failed; Pillow, for example, does not know 12-bit JPEG
        raise Unusable(
            f"DICOM compressed as {_syntax(dataset)} that cannot be decoded ({one_line(error)}): {_INFLATE}"
        ) from None
    if not is_grey:
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[-1] != 3:
            raise Unusable(
                f"colour DICOM with {values.shape[-1]} channels of {values.dtype}: only 8-bit RGB can be read"
            )
        return Image.fromarray(values)
    if values.ndim != 2:
        raise Unusable(f"damaged: pixels of the shape {values.shape}")
    values, padding = dicom_fields.stored_values(dataset, values)
    inside = values if padding is None else values[~padding]
    if dataset.get("ModalityLUTSequence"):
        grey = _presented(dicom_fields.looked_up(inside, dataset, "ModalityLUTSequence")[0], dataset)
    else:
        grey = _presented(apply_rescale(inside, dataset), dataset)
    if grey.min() == grey.max() and inside.min() != inside.max():
        raise Unusable("its tables or windows show nothing: all pixels become one grey")
    if kind == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:  # black, whatever its value is
        whole = np.zeros(values.shape, np.float32)
        whole[~padding] = grey
        grey = whole
    return Image.fromarray(grey)


def _presented(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Values behind the modality LUT as grey values, float32 from 0 to 255, of the same shape."""
    from pydicom.pixels import apply_windowing

    if not np.isfinite(values).all():
        raise Unusable("has values that are not finite (NaN or infinity)")
    if dataset.get("VOILUTSequence"):
        # White is the largest value of the table: its descriptor often names more bits than its values have.
        values, high = dicom_fields.looked_up(values, dataset, "VOILUTSequence")
        low = 0.0
    elif dataset.get("WindowCenter") in (None, "") or dataset.get("WindowWidth") in (None, ""):
        low, high = float(values.min()), float(values.max())
    else:
        with np.errstate(over="ignore"):
            low, high = apply_windowing(np.array([-1e12, 1e12]), dataset, index=0)
        if not low < high:
            raise Unusable(
                f"DICOM window of centre {dataset.WindowCenter} and width {dataset.WindowWidth} shows nothing"
            )
        values = apply_windowing(values, dataset, index=0)
    scale = 255 / (high - low) if high > low else 0
    return ((values.astype(np.float64) - low) * scale).clip(0, 255).astype(np.float32)


def _syntax(dataset: Any) -> str:
    return str(getattr(dataset.file_meta.TransferSyntaxUID, "name", "unknown")).partition(",")[0]


def _guessed_syntax(dataset: Any) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
