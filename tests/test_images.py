"""From stored values to grey, format by format."""

import io

import numpy as np
import pytest
import tifffile
from data_files import encoded
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from cxr.data.formats import Unusable
from cxr.data.images import decode, header, inside_mask, square

NOISE = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)


def dicom(values=NOISE, syntax=ExplicitVRLittleEndian, kind="MONOCHROME2", pixels=None, preamble=True, **tags):
    """A DICOM file of grey [rows, columns] or RGB [rows, columns, 3] values."""
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = kind
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes() if pixels is None else pixels
    dataset["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    if preamble:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["x"])
    stream = io.BytesIO()
    kinds = {ImplicitVRLittleEndian: (True, True), ExplicitVRBigEndian: (False, False)}
    implicit, little = kinds.get(syntax, (False, True))
    if preamble:
        dataset.save_as(stream, enforce_file_format=True)
    else:
        dataset.save_as(stream, implicit_vr=implicit, little_endian=little)
    return stream.getvalue()


def grey(content):
    """float64 [height, width], 0..255, of a file that decodes to grey."""
    image = decode(content)
    assert image.mode == "F"
    return np.asarray(image, float)


def table(values, bits, first=0, number=None):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) if number is None else number, first, bits])
    item.add_new("LUTData", "US", list(values))
    return [item]


# --- DICOM ------------------------------------------------------------------------------------------------------


def test_without_a_window_it_is_min_to_max():
    values = np.array([[100, 1100], [600, 350]], np.uint16)
    np.testing.assert_allclose(grey(dicom(values)), [[0, 255], [127.5, 63.75]], atol=1e-3)
    assert (grey(dicom(np.full((3, 3), 7, np.uint16))) == 0).all()


def test_window_and_rescale():
    values = np.array([[0, 1000], [2000, 4095]], np.uint16)
    # LINEAR_EXACT: centre 1000, width 1000 in rescaled values: 500 is black, 1500 white
    tags = {"WindowCenter": 1000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    np.testing.assert_allclose(grey(dicom(values, **tags)), [[0, 127.5], [255, 255]], atol=1e-3)
    rescaled = grey(dicom(values, RescaleSlope=0.5, RescaleIntercept=250, RescaleType="US", **tags))
    np.testing.assert_allclose(rescaled, [[0, 63.75], [191.25, 255]], atol=1e-3)


def test_of_several_windows_the_first_counts():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    first = grey(dicom(values, WindowCenter=100, WindowWidth=50))
    several = grey(dicom(values, WindowCenter=[100, 30], WindowWidth=[50, 500]))
    np.testing.assert_array_equal(several, first)
    assert (first != grey(dicom(values, WindowCenter=30, WindowWidth=500))).any()
    assert first.min() == 0 and first.max() == 255


def test_voi_table_comes_before_the_window():
    values = np.array([[0, 1], [2, 3]], np.uint8)
    content = dicom(values, VOILUTSequence=table([0, 4095, 2048, 1024], 12), WindowCenter=2, WindowWidth=2)
    np.testing.assert_allclose(grey(content), np.array([[0, 4095], [2048, 1024]]) * 255 / 4095, atol=1e-3)


RAMP = np.linspace(0, 4095, 192).round().astype(np.uint16).reshape(12, 16)
TWELVE = {"BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(("declared", "used"), [(16, 12), (12, 12), (16, 10), (14, 9), (8, 8)])
def test_a_table_that_names_more_bits_than_its_values_have_is_not_dark(declared, used):
    steps = (np.arange(4096) / 4095 * (2**used - 1)).round().astype(int).tolist()
    found = grey(dicom(RAMP, **TWELVE, VOILUTSequence=table(steps, declared)))
    window = grey(dicom(RAMP, **TWELVE, WindowCenter=2047.5, WindowWidth=4095, VOILUTFunction="LINEAR_EXACT"))
    np.testing.assert_allclose(found, window, atol=255 / (2**used - 1))


def padded(values, fill, **tags):
    """The same picture with a frame of one pixel of padding; grey values inside the frame, and the frame's."""
    framed = np.pad(values, 1, constant_values=fill)
    found = grey(dicom(framed, **tags))
    frame = np.ones(found.shape, bool)
    frame[1:-1, 1:-1] = False
    return found[1:-1, 1:-1], found[frame]


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("values", "fill", "tags"),
    [
        (RAMP, 65535, {"PixelPaddingValue": 65535}),
        (RAMP, 65535, {"PixelPaddingValue": 65535, **TWELVE}),  # above the bits stored
        (RAMP, 60000, {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 50000}),
        (RAMP, 60000, {"PixelPaddingValue": 50000, "PixelPaddingRangeLimit": 65535}),
        (RAMP + np.uint16(100), 0, {"PixelPaddingValue": 0}),
        (RAMP.astype(np.int16) - 1000, -2000, {"PixelPaddingValue": -2000}),
        (RAMP, 65535, {"PixelPaddingValue": 65535, "WindowCenter": 2000, "WindowWidth": 1000}),
        (RAMP, 65535, {"PixelPaddingValue": 65535, "RescaleSlope": 2, "RescaleIntercept": -5}),
        (RAMP, 65535, {"PixelPaddingValue": 65535, "VOILUTSequence": table(range(4096), 16)}),
    ],
)
def test_padding_is_black_and_changes_no_other_pixel(kind, values, fill, tags):
    without = {name: value for name, value in tags.items() if not name.startswith("PixelPadding")}
    inside, frame = padded(values, fill, kind=kind, **tags)
    np.testing.assert_allclose(inside, grey(dicom(values, kind=kind, **without)), atol=1e-3)
    assert (frame == 0).all()


def test_a_padding_value_that_no_pixel_has_changes_nothing():
    np.testing.assert_array_equal(grey(dicom(RAMP, PixelPaddingValue=9999)), grey(dicom(RAMP)))


def test_signed_values_of_12_bits_with_and_without_repeated_sign():
    values = np.array([[-2048, -1], [0, 2047]], np.int16)
    plain = grey(dicom(values, **TWELVE))
    np.testing.assert_array_equal(plain, grey(dicom(values)))
    np.testing.assert_array_equal(plain, grey(dicom(values & 0xFFF, **TWELVE)))


def test_modality_table():
    values = np.array([[0, 1], [2, 3]], np.uint8)
    content = dicom(values, ModalityLUTSequence=table([30, 20, 10, 0], 8))
    np.testing.assert_allclose(grey(content), [[255, 170], [85, 0]], atol=1e-3)


def test_monochrome1_is_inverted():
    np.testing.assert_allclose(grey(dicom(kind="MONOCHROME1")), 255 - grey(dicom()), atol=1e-4)
    tags = {"WindowCenter": 100, "WindowWidth": 80}
    np.testing.assert_allclose(grey(dicom(kind="MONOCHROME1", **tags)), 255 - grey(dicom(**tags)), atol=1e-4)


def test_signed_values():
    values = np.array([[-1000, 0], [500, 1000]], np.int16)
    np.testing.assert_allclose(grey(dicom(values)), [[0, 127.5], [191.25, 255]], atol=1e-3)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_byte_orders(syntax):
    values = NOISE.astype(np.uint16) * 13
    np.testing.assert_array_equal(grey(dicom(values, syntax)), grey(dicom(values)))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_without_preamble(syntax):
    content = dicom(syntax=syntax, preamble=False)
    assert content[:2] == b"\x08\x00"
    np.testing.assert_array_equal(grey(content), grey(dicom()))
    assert header(io.BytesIO(content)).format == "DICOM"


def test_run_lengths():
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(dicom()))
    dataset.compress(RLELossless)
    stream = io.BytesIO()
    dataset.save_as(stream)
    np.testing.assert_array_equal(grey(stream.getvalue()), grey(dicom()))


def test_jpeg_in_dicom():
    jpeg = encoded(NOISE, "JPEG", quality=90)
    content = dicom(syntax=JPEGBaseline8Bit, pixels=encapsulate([jpeg]), WindowCenter=128, WindowWidth=256)
    assert np.abs(grey(content) - np.asarray(decode(jpeg), float)).max() < 2


def test_lossless_jpeg_says_what_to_install():
    content = dicom(syntax=JPEGLosslessSV1, pixels=encapsulate([b"\xff\xd8" + bytes(50)]))
    with pytest.raises(Unusable, match="JPEG Lossless.* cannot be decoded .*: decompress it .*pip install"):
        decode(content)


def test_colour():
    values = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(dicom(values, kind="RGB"))), values)
    np.testing.assert_array_equal(square(decode(dicom(values, kind="RGB")), 5), square(decode(encoded(values)), 5))


def test_dicom_header():
    content = dicom(
        NOISE.astype(np.uint16), BitsStored=12, HighBit=11, Manufacturer="A\nB", PatientSex="F", ViewPosition="PA"
    )
    found = header(io.BytesIO(content))
    assert (found.format, found.width, found.height, found.mode, found.bits) == (
        "DICOM",
        16,
        12,
        "MONOCHROME2",
        12,
    )
    assert found.frames == 1
    assert found.details["PatientSex"] == "F" and found.details["ViewPosition"] == "PA"
    assert found.details["Manufacturer"] == "A B"
    assert "PatientName" not in found.details


# --- TIFF -------------------------------------------------------------------------------------------------------


def test_tiff_is_what_png_is():
    wide = NOISE.astype(np.uint16) * np.uint16(250)
    for values in (NOISE, wide, np.dstack([NOISE, NOISE // 2, NOISE // 3])):
        np.testing.assert_array_equal(
            square(decode(encoded(values, "TIFF")), 8), square(decode(encoded(values)), 8)
        )


@pytest.mark.parametrize(
    "layout",
    [
        {"rowsperstrip": 1},
        {"rowsperstrip": 7, "byteorder": ">"},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"tile": (16, 32)},
        {"tile": (16, 32), "compression": "zlib"},
        {"bigtiff": True, "rowsperstrip": 20},
    ],
)
@pytest.mark.parametrize("kind", ["grey", "16 bits", "colour", "colour by planes"])
def test_strips_and_tiles(layout, kind):
    values = np.random.default_rng(0).integers(0, 256, (45, 37), np.uint8)
    expected = {"16 bits": values.astype(np.uint16) * 250}.get(kind, values)
    options = {}
    if "colour" in kind:
        expected = np.dstack([values, 255 - values, values // 2])
        options = {"photometric": "rgb", "planarconfig": "separate" if "planes" in kind else "contig"}
    stored = np.moveaxis(expected, -1, 0) if "planes" in kind else expected
    file = io.BytesIO()
    tifffile.imwrite(file, stored, **layout, **options)
    np.testing.assert_array_equal(np.asarray(decode(file.getvalue())), expected)
    assert header(file).width == 37


def test_float_and_long_tiff_are_stretched():
    values = np.array([[-1.5, 0.5], [0, 2.5]], np.float32)
    expected = np.array([[0, 127.5], [95.625, 255]])
    np.testing.assert_allclose(grey(encoded(values, "TIFF")), expected, atol=1e-3)
    np.testing.assert_allclose(grey(encoded((values * 1e6).astype(np.int32), "TIFF")), expected, atol=1e-3)
    values[0, 0] = np.nan
    with pytest.raises(Unusable, match="not finite"):
        decode(encoded(values, "TIFF"))


@pytest.mark.parametrize("values", [NOISE, NOISE.astype(np.uint16) * 257, NOISE.astype(np.float32)])
def test_white_is_zero(values):
    """8 bits are turned by Pillow, the others here."""
    plain, turned = (encoded(values, "TIFF", tiffinfo={262: kind}) for kind in (1, 0))
    if values.dtype == np.uint8:  # Pillow writes the inverse, so that it reads as it was
        np.testing.assert_array_equal(square(decode(turned), 8), square(decode(plain), 8))
    else:
        total = square(decode(turned), 8).astype(int) + square(decode(plain), 8)
        assert np.abs(total - 255).max() <= 1


def test_pages_are_refused():
    pages = [Image.fromarray(NOISE), Image.fromarray(NOISE)]
    for fmt in ("TIFF", "PNG"):
        content = encoded(pages[0], fmt, save_all=True, append_images=[Image.fromarray(255 - NOISE)])
        with pytest.raises(Unusable, match="2 images in one file"):
            decode(content)
        assert header(io.BytesIO(content)).frames == 2


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    content = encoded(NOISE, fmt, exif=exif)
    plain = np.asarray(decode(encoded(NOISE, fmt)))
    np.testing.assert_array_equal(np.asarray(decode(content)), np.rot90(plain, turned))
    found = header(io.BytesIO(content))
    assert (found.width, found.height) == decode(content).size


def test_orientation_of_a_png_that_stands_behind_its_pixels_or_in_xmp():
    plain = encoded(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(NOISE, exif=exif)
    start = turned.index(b"eXIf") - 4
    length = 12 + int.from_bytes(turned[start : start + 4], "big")
    late = plain[:-12] + turned[start : start + length] + plain[-12:]  # between the pixels and the end
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>')
    for content in (late, encoded(NOISE, pnginfo=info)):
        np.testing.assert_array_equal(np.asarray(decode(content)), np.rot90(NOISE, 3))


def test_orientation_of_stretched_tiff():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = NOISE.astype(np.float32)
    np.testing.assert_array_equal(
        grey(encoded(values, "TIFF", exif=exif)), np.rot90(grey(encoded(values, "TIFF")), 3)
    )


# --- others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_kinds(mode, progressive):
    smooth = Image.fromarray(NOISE).resize((64, 48), Image.Resampling.BICUBIC).convert("RGB").convert(mode)
    content = encoded(smooth, "JPEG", quality=95, progressive=progressive)
    expected = np.asarray(smooth.convert("RGB").convert("L"), int)
    found = np.asarray(decode(content).convert("RGB").convert("L"), int)
    assert np.abs(found - expected).mean() < 2
    assert header(io.BytesIO(content)).mode == mode


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(NOISE), ("PNG", 16, 12, "L", 8)),
        (encoded(NOISE.astype(np.uint16)), ("PNG", 16, 12, "I;16", 16)),
        (encoded(Image.fromarray(NOISE).convert("1")), ("PNG", 16, 12, "1", 1)),
        (encoded(np.dstack([NOISE] * 4)), ("PNG", 16, 12, "RGBA", 8)),
        (encoded(NOISE, "JPEG"), ("JPEG", 16, 12, "L", 8)),
        (encoded(NOISE.astype(np.float32), "TIFF"), ("TIFF", 16, 12, "F", 32)),
    ],
)
def test_header(content, expected):
    found = header(io.BytesIO(content))
    assert (found.format, found.width, found.height, found.mode, found.bits) == expected


def test_details():
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Maker", "Soft\nware"
    found = header(io.BytesIO(encoded(NOISE, "JPEG", exif=exif, quality=80, dpi=(300, 300)))).details
    assert (found["Make"], found["Software"], found["dpi"]) == ("Maker", "Soft ware", "300x300")
    other = header(io.BytesIO(encoded(NOISE, "JPEG", quality=81))).details
    assert len(found["jpeg_tables"]) == 16 and found["jpeg_tables"] != other["jpeg_tables"]
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "viewer 2")
    assert header(io.BytesIO(encoded(NOISE, pnginfo=info))).details["Software"] == "viewer 2"


def test_header_reads_no_pixels():
    big = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    for content in (encoded(big), encoded(big, "JPEG"), dicom(big)):
        file = io.BytesIO(content)
        assert header(file).width == 1000
        cut = header(io.BytesIO(content[:70_000]))
        assert (cut.width, cut.height) == (1000, 1000)


def test_masks_are_png():
    for content in (encoded(NOISE, "JPEG"), encoded(NOISE, "TIFF"), dicom()):
        with pytest.raises(Unusable, match="a mask has to be a PNG"):
            inside_mask(content)
