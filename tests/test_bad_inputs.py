"""Bad and odd inputs, and what a user is told.

Files: `decode` and `header` succeed or raise Unusable, and nothing else. Folders and tables: InputError, one line.
"""

import gzip
import io
import os
import re
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from data_files import encoded
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless
from test_images import NOISE, RAMP, TWELVE, dicom, table

from cxr.core.errors import InputError
from cxr.core.params import DataParams, StudyParams
from cxr.data.formats import Unusable
from cxr.data.images import decode, header, square
from cxr.data.loading import check_images
from cxr.data.manifest import build_manifest, data_root

PNG, JPEG, TIFF, DICOM = encoded(NOISE), encoded(NOISE, "JPEG"), encoded(NOISE, "TIFF"), dicom()
COLOUR = encoded(np.dstack([NOISE, NOISE // 2, NOISE // 3]), "JPEG")
OK = ""  # is read


def png_of(width, height, chunks=b""):
    """A PNG that claims a size; its pixels are a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(bytes(50))) + chunk(b"IEND", b"")


def with_tag(content, tag, value):
    """A little-endian TIFF with another value of a tag that holds one whole number."""
    content = bytearray(content)
    (first,) = struct.unpack_from("<I", content, 4)
    (n,) = struct.unpack_from("<H", content, first)
    (at,) = (
        at for at in range(first + 2, first + 2 + 12 * n, 12) if struct.unpack_from("<H", content, at)[0] == tag
    )
    struct.pack_into("<I", content, at + 8, value)
    return bytes(content)


def text_bomb():
    body = b"Comment\0\0" + zlib.compress(bytes(100_000_000))
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))


def pages(fmt):
    return encoded(NOISE, fmt, save_all=True, append_images=[Image.fromarray(255 - NOISE)])


# name: (bytes, what the message has in it; OK: the file is read)
FILES = {
    "no bytes": (b"", "empty: the file has 0 bytes"),
    "one byte": (b"\x89", "not a PNG, JPEG, TIFF or DICOM file"),
    "zeros only": (bytes(5000), "begins with zeros"),
    "text named .png": (b"just some text\n" * 20, "not a PNG, JPEG, TIFF or DICOM file"),
    "web page saved as .jpg": (
        b"<!DOCTYPE html><html>404</html>",
        "HTML or XML: perhaps the page of a failed download",
    ),
    "web page after a byte-order mark": (b"\xef\xbb\xbf\n <html></html>", "HTML or XML"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML or XML"),
    "GIF": (encoded(NOISE, "GIF"), "but a GIF"),
    "BMP": (encoded(NOISE, "BMP"), "but a BMP"),
    "WebP": (b"RIFF\x00\x01\x00\x00WEBPVP8 ", "but a WebP"),
    "PDF": (b"%PDF-1.7\n", "but a PDF"),
    "ZIP": (b"PK\x03\x04" + bytes(100), "but a ZIP archive"),
    "gzip": (gzip.compress(PNG), "but a gzip archive"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "the file itself was not fetched"),
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40), "bare JPEG 2000"),
    "PNG named .jpg": (PNG, OK),
    "PNG: signature only": (PNG[:8], "damaged|not a PNG"),
    "PNG cut in the header": (PNG[:20], "damaged|not a PNG"),
    "PNG cut in the pixels": (PNG[: len(PNG) // 2], "damaged"),
    "PNG without its end": (PNG[:-12], OK),
    "PNG with a flipped pixel byte": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "damaged"),
    "PNG with bytes behind its end": (PNG + b"junk", OK),
    "PNG of 0x5": (png_of(0, 5), "damaged|not a PNG"),
    "PNG of 1x1": (encoded(NOISE[:1, :1]), "1x1 pixels: a line or a dot"),
    "PNG of 1x12": (encoded(NOISE[:, :1]), "1x12 pixels: a line or a dot"),
    "PNG that claims 60000x60000": (png_of(60000, 60000), "too large: .*3600000000"),
    "PNG that claims 2147483647 a side": (png_of(2**31 - 1, 2**31 - 1), "too large"),
    "PNG with a text that inflates to 100 MB": (png_of(20, 20, text_bomb()), "damaged: .*[Tt]oo large|[Ee]xceeds"),
    "PNG, animated": (pages("PNG"), "2 images in one file"),
    "PNG of 1 bit": (encoded(Image.fromarray(NOISE).convert("1")), OK),
    "PNG with a palette": (encoded(Image.fromarray(NOISE).convert("P")), OK),
    "PNG, fully transparent": (encoded(np.zeros((9, 9, 4), np.uint8)), OK),
    "JPEG named .png": (JPEG, OK),
    "JPEG: first marker only": (JPEG[:2], "not a PNG, JPEG|damaged"),
    "JPEG cut in the tables": (JPEG[:100], "not a PNG, JPEG|damaged"),
    "JPEG cut in the pixels": (JPEG[: len(JPEG) - 40], "damaged: image file is truncated"),
    "JPEG without its last byte": (JPEG[:-1], "damaged: image file is truncated"),
    "JPEG, CMYK": (encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"), OK),
    "JPEG, progressive": (encoded(NOISE, "JPEG", progressive=True), OK),
    "JPEG with damaged EXIF": (encoded(NOISE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), OK),
    "TIFF cut in the header": (TIFF[:6], "not a PNG, JPEG|damaged"),
    "TIFF cut in the pixels": (TIFF[: len(TIFF) - 60], "damaged|not a PNG"),
    "TIFF of two pages": (pages("TIFF"), "2 images in one file: save the one"),
    "TIFF of CIELAB colours": (encoded(Image.new("LAB", (9, 9)), "TIFF"), "its colour mode LAB cannot be read"),
    "TIFF with NaN": (encoded(np.full((5, 5), np.nan, np.float32), "TIFF"), "not finite"),
    "TIFF of floats, constant": (encoded(np.full((5, 5), 7, np.float32), "TIFF"), OK),
    "TIFF with more rows than strips": (with_tag(TIFF, 257, 20), "1 strips, and 16x20 pixels need 2"),
    "TIFF of floats with more rows than strips": (
        with_tag(encoded(NOISE.astype(np.float32), "TIFF"), 257, 6_000_000),
        "1 strips, and 16x6000000 pixels need 500000",
    ),
    "TIFF with strips of fewer rows": (with_tag(TIFF, 278, 4), "1 strips, and 16x12 pixels need 3"),
    "TIFF with wider rows than it has": (
        with_tag(TIFF, 256, 17),
        "192 bytes of pixels, and 17x12 pixels need 204",
    ),
    "TIFF with narrower rows than it has": (
        with_tag(TIFF, 256, 15),
        "192 bytes of pixels, and 15x12 pixels need 180",
    ),
    "TIFF with fewer bytes than pixels": (
        with_tag(TIFF, 279, 100),
        "100 bytes of pixels, and 16x12 pixels need 192",
    ),
    "TIFF whose writer gave no sizes": (with_tag(TIFF, 279, 0), OK),
    "DICOM named .png": (DICOM, OK),
    "DICOM: preamble only": (DICOM[:132], "without an image"),
    "DICOM cut in the header": (DICOM[:300], "without an image|damaged"),
    "DICOM cut in the pixels": (DICOM[:-50], "damaged"),
    "DICOM without pixels": (dicom(PixelData=None), "without pixels"),
    "DICOM report (SR)": (dicom(PixelData=None, Rows=None, Modality="SR"), r"without an image \(Modality SR\)"),
    "DICOM of several frames": (dicom(NumberOfFrames=3), "3 frames in one DICOM file"),
    "DICOM without Rows": (dicom(Rows=None), "without an image"),
    "DICOM without BitsAllocated": (dicom(BitsAllocated=None), "damaged: .*Bits Allocated"),
    "DICOM whose header holds a line break and a command to the terminal": (
        DICOM.replace(b"MONOCHROME2 ", b"MO\nNO\x1b[2JE2 "),
        r"interpretation MO\\nNO\\x1b\[2JE2: only grey and RGB",
    ),
    "DICOM without photometric interpretation": (
        dicom(PhotometricInterpretation=None),
        r"interpretation \(none\)",
    ),
    "DICOM of palette colours": (dicom(kind="PALETTE COLOR"), "PALETTE COLOR: only grey and RGB"),
    "DICOM of 60000x60000": (dicom(Rows=60000, Columns=60000), "too large: 60000x60000"),
    "DICOM with more rows than pixels": (dicom(Rows=999), "damaged: .*less than expected"),
    "DICOM, window of width 0": (dicom(WindowCenter=5, WindowWidth=0), "damaged: .*[Ww]idth"),
    "DICOM, deflated": (dicom(syntax=DeflatedExplicitVRLittleEndian), "a deflated DICOM"),
    "DICOM, JPEG-LS": (
        dicom(syntax=JPEGLSLossless, pixels=encapsulate([bytes(40)])),
        "cannot be decoded .*: decompress",
    ),
    "DICOM, JPEG that is none": (
        dicom(syntax=JPEGBaseline8Bit, pixels=encapsulate([bytes(40)])),
        "cannot be decoded|damaged",
    ),
    "DICOM without preamble": (dicom(preamble=False), OK),
    "DICOM, 12 bits stored, values of 16": (dicom(NOISE.astype(np.uint16) * 200, **TWELVE), "BitsStored 12, and"),
    "DICOM, 8 bits stored of 7": (dicom(BitsStored=7, HighBit=6), "BitsStored 7, and .* pixels have more bits"),
    "DICOM, signed, 10 bits stored, values of 12": (
        dicom(RAMP.astype(np.int16) - 2000, BitsStored=10, HighBit=9),
        "BitsStored 10, and .* pixels have more bits",
    ),
    "DICOM, more bits stored than allocated": (
        dicom(BitsStored=12, HighBit=11),
        "BitsStored 12 of BitsAllocated 8",
    ),
    "DICOM, values in the highest bits": (dicom(RAMP * 16, BitsStored=12), "HighBit 15 for BitsStored 12"),
    "DICOM, sign 2": (dicom(PixelRepresentation=2), "PixelRepresentation 2: expected 0 or 1"),
    "DICOM, grey of three samples": (dicom(np.dstack([NOISE] * 3)), "SamplesPerPixel 3 for MONOCHROME2"),
    "DICOM, RGB of one sample": (dicom(kind="RGB"), "SamplesPerPixel 1 for RGB"),
    "DICOM, MONOCHROME3": (dicom(kind="MONOCHROME3"), "MONOCHROME3: only grey and RGB"),
    "DICOM, polarity said twice": (
        dicom(PresentationLUTShape="INVERSE"),
        "PresentationLUTShape INVERSE for MONOCHROME2",
    ),
    "DICOM, polarity said twice, the same": (dicom(kind="MONOCHROME1", PresentationLUTShape="INVERSE"), OK),
    "DICOM, padding that no pixel can have": (
        dicom(PixelPaddingValue=300),
        "PixelPaddingValue 300, and pixels have",
    ),
    "DICOM, limit of padding alone": (dicom(PixelPaddingRangeLimit=9), "RangeLimit without PixelPaddingValue"),
    "DICOM, nothing but padding": (
        dicom(NOISE * 0, PixelPaddingValue=0),
        "all of its pixels have the PixelPadding",
    ),
    "DICOM, slope without intercept": (dicom(RescaleSlope=2), r"RescaleSlope 2, RescaleIntercept \(none\)"),
    "DICOM, slope 0": (dicom(RescaleSlope=0, RescaleIntercept=1), "RescaleSlope 0, .* give no grey values"),
    "DICOM, table and slope": (
        dicom(ModalityLUTSequence=table(range(256), 8), RescaleSlope=2, RescaleIntercept=0),
        "ModalityLUTSequence and RescaleSlope",
    ),
    "DICOM, centre without width": (dicom(WindowCenter=5), r"WindowCenter 5, WindowWidth \(none\)"),
    "DICOM, two centres and one width": (dicom(WindowCenter=[5, 6], WindowWidth=9), r"WindowCenter 5\\6, WindowW"),
    "DICOM, empty window": (dicom(WindowCenter="", WindowWidth=""), OK),
    "DICOM, window of another scale": (
        dicom(WindowCenter=30000, WindowWidth=100),
        "tables or windows show nothing",
    ),
    "DICOM, window of an unknown kind": (
        dicom(WindowCenter=99, WindowWidth=9, VOILUTFunction="CUBIC"),
        "VOILUTFunction CUBIC: expected LINEAR",
    ),
    "DICOM, VOI table with too few values": (
        dicom(VOILUTSequence=table(range(50), 8, number=99)),
        "VOILUTSequence: LUTData has 50 values, and LUTDescriptor says 99",
    ),
    "DICOM, VOI table with too large values": (
        dicom(VOILUTSequence=table([0, 4095], 8)),
        "VOILUTSequence: LUTData has values up to 4095, and LUTDescriptor says 8 bits",
    ),
    "DICOM, modality table with too large values": (
        dicom(ModalityLUTSequence=table([0, 300], 8)),
        "ModalityLUTSequence: LUTData has values up to 300",
    ),
    "DICOM, VOI table of other values": (
        dicom(RAMP.astype(np.int16) - 9000, VOILUTSequence=table(range(9), 8)),
        "tables or windows show nothing",
    ),
    "DICOM with half its columns": (dicom(Columns=8), "8x12 of 8 bits are 96 bytes, and there are 192"),
    "DICOM with fewer rows": (dicom(Rows=11), "16x11 of 8 bits are 176 bytes, and there are 192"),
    "DICOM, no frame": (dicom(NumberOfFrames=0), "NumberOfFrames 0"),
    "DICOM, two JPEG frames, one declared": (
        dicom(syntax=JPEGBaseline8Bit, pixels=encapsulate([JPEG, JPEG])),
        "2 frames in one DICOM file, and the header says one",
    ),
    "DICOM, JPEG turned": (
        dicom(NOISE.reshape(16, 12), syntax=JPEGBaseline8Bit, pixels=encapsulate([JPEG])),
        "12x16, and the picture inside has 16x12",
    ),
    "DICOM, JPEG with a sign": (
        dicom(syntax=JPEGBaseline8Bit, pixels=encapsulate([JPEG]), PixelRepresentation=1),
        "PixelRepresentation 1, and a JPEG has no sign",
    ),
    "DICOM, JPEG with more bits": (
        dicom(syntax=JPEGBaseline8Bit, pixels=encapsulate([JPEG]), BitsStored=7, HighBit=6),
        "BitsStored 7, and",
    ),
    "DICOM, colour JPEG called RGB": (
        dicom(np.dstack([NOISE] * 3), kind="RGB", syntax=JPEGBaseline8Bit, pixels=encapsulate([COLOUR])),
        "RGB, and the JPEG inside says YCbCr",
    ),
    "DICOM, colour JPEG": (
        dicom(np.dstack([NOISE] * 3), kind="YBR_FULL_422", syntax=JPEGBaseline8Bit, pixels=encapsulate([COLOUR])),
        OK,
    ),
}


def verdict(content):
    """What `decode` and then `square` make of a file: "" or the message."""
    try:
        assert square(decode(content), 8).shape == (8, 8)
    except Unusable as trouble:
        return str(trouble)
    return OK


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_file(name):
    content, expected = FILES[name]
    said = verdict(content)
    assert re.search(expected, said) if expected else said == OK
    assert "\n" not in said and len(said) < 500
    try:
        found = header(io.BytesIO(content))
        assert found.width > 0 and found.height > 0
    except Unusable as trouble:
        assert said != OK, trouble


FUZZED = {
    "PNG": PNG,
    "PNG of 16 bits": encoded(NOISE.astype(np.uint16) * 250),
    "PNG with a palette": encoded(Image.fromarray(NOISE).convert("P")),
    "JPEG": JPEG,
    "JPEG, progressive": encoded(NOISE, "JPEG", progressive=True),
    "TIFF": TIFF,
    "TIFF, LZW": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "TIFF of floats": encoded(NOISE.astype(np.float32), "TIFF"),
    "DICOM": DICOM,
    "DICOM with a window": dicom(NOISE.astype(np.uint16), WindowCenter=100, WindowWidth=50),
    "DICOM without preamble": dicom(preamble=False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUZZED)
def test_any_bytes_are_read_or_unusable(name):
    """A few bytes changed, pieces lost or doubled: Unusable or an image, quickly."""
    content, rng = FUZZED[name], np.random.default_rng(7)
    start = time.monotonic()
    unusable = 0
    for round_ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 600 if round_ % 2 else len(content)), rng.integers(1, 5)):
            damaged[place] = rng.integers(0, 256)
        if round_ % 5 == 0:
            a, b = sorted(rng.integers(0, len(damaged), 2))
            damaged[a:b] = damaged[a:b] * 2 if round_ % 2 else b""
        unusable += verdict(bytes(damaged)) != OK
        try:
            header(io.BytesIO(bytes(damaged)))
        except Unusable:
            pass
    assert unusable > 0
    assert time.monotonic() - start < 15


# --- folders and tables -----------------------------------------------------------------------------------------


def good(root):
    """Two classes of six images, and the lines of a table of them."""
    for name in ("ill", "well"):
        for k in range(6):
            path = root / name / f"{name}{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(np.random.default_rng(len(name) * 10 + k).integers(0, 256, (5, 5), np.uint8)))
    return [f"{name}/{name}{k}.png,{name},{k}" for name in ("ill", "well") for k in range(6)]


def written(root, text, name="list.csv"):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def lines(*more, header="path,label,patient_id", without=0, pad=""):
    return lambda root: written(root, "\n".join([header, *(g + pad for g in good(root)[without:]), *more]) + "\n")


def content(make):
    return lambda root: written(root, make("path,label,patient_id\n" + "\n".join(good(root)) + "\n"))


def folder(change):
    def make(root):
        good(root)
        change(root)
        return root

    return make


def folder_of(name):
    return lambda root: written(root, PNG, name).parent


def link_loop(root):
    (root / "loop").symlink_to(root, target_is_directory=True)


def renamed(a, b):
    return lambda root: (root / a).rename(root / b)


def socket_at(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # the whole path may be too long


def sparse(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def nested(root, levels):
    """Folders within folders, and an image in the last one: made from within, as their path is too long."""
    here = os.getcwd()
    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    try:
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        with open("x.png", "wb") as file:
            file.write(PNG)
    finally:
        os.chdir(here)


def remove_nested(root):
    """Delete folders within folders from within: pytest, which cleans up, would recurse too deep."""
    here = os.getcwd()
    os.chdir(root)
    try:
        levels = 0
        while os.path.isdir("d"):
            os.chdir("d")
            levels += 1
        os.remove("x.png")
        for _ in range(levels):
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def beside(name):
    """Six more images in a folder of this name."""
    return lambda root: [
        copied(f"{name}/{k}.png", encoded(NOISE + np.uint8(k + len(name))))(root) for k in range(6)
    ]


def linked(root, link):
    elsewhere = root / ".elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y.png").write_bytes(PNG)
    link.symlink_to(elsewhere)


def copied(path, data=PNG):
    def change(root):
        target = os.fsencode(root) + b"/" + (path if isinstance(path, bytes) else path.encode())
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)

    return change


# name: (root -> what `data` is, further parameters, what the message has in it; OK: the study goes on)
SETS = {
    "folder that is not there": (lambda root: root / "nowhere", {}, "does not exist"),
    "no data named": (lambda root: "", {}, "data: it is empty: give"),
    "folder with hidden files only": (folder_of(".DS_Store"), {}, "the folder is empty: expected one sub-folder"),
    "folder of images": (folder_of("a.png"), {}, r"no class folders \(1 images are in the folder itself\)"),
    "an image beside the class folders": (
        folder(lambda root: [renamed(f"{n}/{n}1.png", f"{n}.png")(root) for n in ("ill",)]),
        {},
        OK,
    ),
    "class folder without images": (
        folder(copied("blank/readme.txt")),
        {},
        "no PNG, JPEG, TIFF or DICOM files in blank: every sub-folder is a class",
    ),
    "class folder with HTML in its name": (folder(renamed("ill", "<b>ill<!-- b>")), {}, OK),
    "class folder with a line break in its name": (folder(renamed("ill", "il\nl")), {}, OK),
    "empty class folder with a line break in its name": (
        folder(lambda root: (root / "a\nb").mkdir()),
        {},
        r"in a\\nb:",
    ),
    "class folder called ..x": (folder(renamed("ill", "..x")), {}, "at least two classes"),
    "class names in other scripts": (folder(renamed("ill", "肺炎 Lungenentzündung")), {}, OK),
    "class names that MLflow cannot tell apart": (
        folder(lambda root: [renamed("ill", "a+b")(root), renamed("well", "a%b")(root)]),
        {},
        "'a%b' and 'a.b' are both 'a_b' as metric names; rename one",
    ),
    "class called macro": (folder(renamed("ill", "macro")), {}, "'macro' cannot name a class's metrics"),
    "class name of 200 letters": (folder(renamed("ill", "x" * 200)), {}, "cannot name a class's metrics"),
    "classes Ill and ill": (folder(copied("Ill/x.png")), {}, "Ill, ill differ only in upper and lower case"),
    "link to the folder itself": (folder(link_loop), {}, "loop is a link to a folder above it"),
    "link that leads to itself": (
        folder(lambda root: (root / "ill" / "x.png").symlink_to("x.png")),
        {},
        "cannot be used: ill/x.png .*cannot be read",
    ),
    "link to nothing": (
        folder(lambda root: (root / "ill" / "x.png").symlink_to("gone.png")),
        {},
        "ill/x.png .not found",
    ),
    "pipe named .png": (
        folder(lambda root: os.mkfifo(root / "ill" / "x.png")),
        {},
        r"1 of 13 images cannot be used: ill/x.png \(cannot be read: it is a pipe, not a regular file",
    ),
    "socket named .png": (folder(lambda root: socket_at(root / "ill" / "x.png")), {}, "x.png .*it is a socket"),
    "device named .png": (
        folder(lambda root: (root / "ill" / "x.png").symlink_to("/dev/zero")),
        {},
        "ill/x.png .*it is a device, not a regular file",
    ),
    "image of 4 GiB": (
        folder(lambda root: sparse(root / "ill" / "x.tif", 2**32)),
        {},
        "ill/x.tif .*it has 4,294,967,296 bytes, and at most 1,073,741,824 are read",
    ),
    "table with a pipe": (
        lambda root: (os.mkfifo(root / "pipe.png"), lines("pipe.png,ill,3")(root))[1],
        {},
        "pipe.png .*it is a pipe",
    ),
    "table with a mask that is a device": (
        lines("ill/ill0.png,ill,0,/dev/zero", header="path,label,patient_id,lung_mask", without=1, pad=","),
        {},
        "lung_mask /dev/zero: cannot be read: it is a device",
    ),
    "table that is a pipe": (lambda root: (os.mkfifo(root / "x.csv"), root / "x.csv")[1], {}, "it is a pipe"),
    "folder with a pipe for a table": (
        folder(lambda root: os.mkfifo(root / "manifest.csv")),
        {},
        "manifest.csv cannot be read as a table: it is a pipe",
    ),
    "table of 4 GiB": (lambda root: sparse(root / "x.csv", 2**32), {}, "it has 4,294,967,296 bytes"),
    "masks beside the images": (folder(beside("masks")), {}, r"6 of 18 images .*annotations: masks \(6\)"),
    "masks in folders of classes": (
        folder(lambda root: [copied(f"{n}/Ground Truth/{n}0.png")(root) for n in ("ill", "well")]),
        {},
        r"2 of 14 images .*Ground Truth \(2\): move",
    ),
    "LungMask_png": (folder(beside("LungMask_png")), {}, r"LungMask_png \(6\)"),
    "annotations": (folder(beside("ill/x/annotations")), {}, r"annotations \(6\)"),
    "segmentation-v2": (folder(beside("well/segmentation-v2")), {}, r"segmentation-v2 \(6\)"),
    "classes label_0 and label_1": (
        folder(lambda root: [renamed("ill", "label_0")(root), renamed("well", "label_1")(root)]),
        {},
        OK,
    ),
    "a class that is called mask": (
        folder(renamed("ill", "with_mask")),
        {"label_map": {"with_mask": "mask", "well": "none"}},
        OK,
    ),
    "masks left out by image_folder": (
        folder(
            lambda root: [beside(f"{n}/{part}")(root) for n in ("ill", "well") for part in ("masks", "images")]
        ),
        {"image_folder": "images"},
        OK,
    ),
    "masks beside their images in one folder": (
        folder(lambda root: copied("ill/ill0_mask.png")(root)),
        {},
        "1 of 13 files are named as masks or annotations of others: ill/ill0_mask.png",
    ),
    "masks of lungs beside their images in one folder": (
        folder(
            lambda root: [copied(f"ill/ill_0{k}{end}.png")(root) for k in (1, 2) for end in ("", "_lung_mask")]
        ),
        {},
        "2 of 16 files are named as masks or annotations of others: ill/ill_01_lung_mask.png",
    ),
    "a name with the word mask and no image beside it": (folder(copied("ill/mask_1.png")), {}, OK),
    "system folders and thumbnails": (
        folder(
            lambda root: [copied(f"{n}/x.png")(root) for n in ("@eaDir", "lost+found", "ill/Thumbs", "thumbnails")]
        ),
        {},
        OK,
    ),
    "link to a folder elsewhere": (folder(lambda root: linked(root, root / "ill" / "more")), {}, OK),
    "link to another class": (
        folder(lambda root: (root / "ill" / "more").symlink_to(root / "well")),
        {},
        "well is a link to .*ill/more, whose images would count twice",
    ),
    "link to the data folder": (
        folder(lambda root: (root / "ill" / "more").symlink_to(root)),
        {},
        "ill/more is a link to the data folder, whose images",
    ),
    "link in a circle within a class": (
        folder(lambda root: [(root / "ill" / "a").mkdir(), (root / "ill" / "a" / "b").symlink_to("..")]),
        {},
        "ill/a/b is a link to .*ill, whose images",
    ),
    "1100 folders within each other": (folder(lambda root: nested(root / "ill", 1100)), {}, "more than 100 deep"),
    "90 folders within each other": (folder(lambda root: nested(root / "ill", 90)), {}, OK),
    "folders within each other, searched for a table": (
        lambda root: (nested(root / "deep", 1100), lines()(root))[1],
        {"path_template": "**/{}"},
        "12 of 12 files do not exist|nested too deep",
    ),
    "folder named x.png": (folder(lambda root: (root / "ill" / "x.png").mkdir()), {}, OK),
    "file name that is not UTF-8": (folder(copied(b"ill/\xff.png")), {}, "1 file names are not UTF-8"),
    "image of zero bytes": (
        folder(copied("ill/x.png", b"")),
        {},
        r"1 of 13 images cannot be used: ill/x.png \(empty",
    ),
    "web page among the images": (folder(copied("ill/x.jpg", b"<html>")), {}, "x.jpg .not a PNG.*HTML"),
    "train beside classes": (
        folder(lambda root: [copied(f"{n}/a/x.png")(root) for n in ("train", "test")]),
        {},
        "beside test and train there is ill, well",
    ),
    "table without labels": (
        lines(header="path,diagnosis,patient_id"),
        {},
        "no column label: .*found path, diagnosis",
    ),
    "table with semicolons": (
        content(lambda text: text.replace(",", ";")),
        {},
        "no column path, label, patient_id",
    ),
    "table of one column too many": (lines("ill/x.png,ill,3,4"), {}, "line 14 has 4 fields, the header has 3"),
    "table with an open quote": (lines('"ill/x.png,ill,3'), {}, "save it as comma-separated values"),
    "table with a row twice": (lines("./ill/ill0.png,ill,0"), {}, "listed more than once: ill/ill0.png"),
    "table with a file that is not there": (
        lines("ill/gone.png,ill,3"),
        {},
        "1 of 13 files do not exist: ill/gone.png",
    ),
    "table with an absolute path that is not there": (lines("/gone/x.png,ill,3"), {}, "do not exist: /gone/x.png"),
    "table with ../": (lines("../../gone/x.png,ill,3"), {}, "do not exist: ../../gone/x.png"),
    "table with a NUL character": (
        lines("ill/\0.png,ill,3"),
        {},
        r"do not exist: ill/\\x00.png|line contains NUL",
    ),
    "table with a field of 200000 letters": (lines("x" * 200_000 + ",ill,3"), {}, "field larger than field limit"),
    "table with a path of 10000 letters": (lines("x" * 10_000 + ",ill,3"), {}, "1 of 13 files"),
    "table with backslashes": (lines("ill\\ill0.png,ill,3"), {}, r"write / in place of \\"),
    "table with a folder for a file": (lines("ill,ill,3"), {}, "do not exist: ill"),
    "table in Latin-1": (
        lambda root: written(root, b"path,label,patient_id\n" + b"\xe9.png,ill,1\n"),
        {},
        "not UTF-8",
    ),
    "table in UTF-16": (content(lambda text: text.encode("utf-16")), {}, "not UTF-8"),
    "table with a byte-order mark": (content(lambda text: text.encode("utf-8-sig")), {}, OK),
    "table with Windows line ends": (content(lambda text: text.replace("\n", "\r\n")), {}, OK),
    "table without rows": (lambda root: written(root, "path,label,patient_id\n"), {}, "no rows"),
    "table of zero bytes": (lambda root: written(root, ""), {}, "the file is empty"),
    "table that is a folder": (
        folder(lambda root: (root / "manifest.csv").mkdir()),
        {},
        "no PNG, .* in manifest.csv",
    ),
    "Excel file": (
        lambda root: written(root, b"PK\x03\x04", "list.xlsx"),
        {},
        "neither a folder nor a .csv or .parquet",
    ),
    "Parquet that is none": (
        lambda root: written(root, b"PAR1 and no more", "list.parquet"),
        {},
        "not a Parquet file",
    ),
    "Parquet of zero bytes": (lambda root: written(root, b"", "list.parquet"), {}, "not a Parquet file"),
    "label_map with a misspelt label": (
        folder(lambda root: None),
        {"label_map": {"il": "x"}},
        "label_map has il, but no image has this label: found ill, well",
    ),
    "label_map that leaves one class": (
        folder(lambda root: None),
        {"label_map": {"ill": "x"}},
        "at least two classes",
    ),
    "patient_pattern that is none": (
        folder(lambda root: None),
        {"patient_pattern": "("},
        "not a regular expression",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETS)
def test_data_set(name, tmp_path):
    make, more, expected = SETS[name]
    root = make(tmp_path / "data" if name == "folder that is not there" else tmp_path)
    settings, said = DataParams(data=str(root), **more), OK
    try:
        check_images(build_manifest(settings), data_root(settings))
    except InputError as error:
        said = str(error)
    finally:
        for folder in (tmp_path / "ill", tmp_path / "deep"):
            if (folder / "d").is_dir():
                remove_nested(folder)
    assert re.search(expected, said) if expected else said == OK
    assert "\n" not in said and "\0" not in said and len(said) < 2000


@pytest.mark.parametrize("make", [os.mkfifo, socket_at, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_are_models_parameters_and_plans(tmp_path, monkeypatch, make):
    """None of them may be waited for, or read without end."""
    from cxr.core.params import DriftParams
    from cxr.pair import models
    from cxr.report.declared import plan_file

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    make(path)
    for read in (
        StudyParams.read,
        plan_file.read,
        lambda path: models.files(DriftParams(model_a=str(path), model_b=str(path))),
    ):
        with pytest.raises(InputError, match="it is a (pipe|socket|device), not a regular file"):
            read(path)


# --- files of parameters ----------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

# name: (the file's text, what the message has in it; OK: it is read)
PARAMETERS = {
    "nothing": ("", OK),
    "a billion laughs": (BOMB, "anchors and aliases .* are not read: write 'a' out .line 1, column 4"),
    "an alias": ("data: &x phantom\nname: *x\n", "anchors and aliases"),
    "deep brackets": ("seed: " + "[" * 100_000, "more than 20 brackets within brackets .line 1"),
    "deep braces": ("seed: " + "{a: " * 5000, "more than 20 brackets within brackets"),
    "deep dashes": ("- " * 5000 + "a", "more than 20 brackets within brackets"),
    "a megabyte": ("#" * 1_000_001, "it has 1,000,001 bytes, and at most 1,000,000 are read"),
    "a tag with code": ("data: !!python/object/apply:os.system [ls]\n", "tags are not read"),
    "a key with code": ("'import os; x': 1\n", "unknown parameter 'import os; x'"),
    "a tag": ("data: !!str 5\n", "tags are not read"),
    "a merge": ("<<: {seed: 1}\n", "'<<' is not read"),
    "a key twice": ("seed: 0\nname: a\nseed: 1\n", "'seed' is there twice: remove one .line 3, column 1"),
    "a key twice, inside": ("label_map: {a: b, a: c}\n", "'a' is there twice"),
    "an octal number": ("seed: 010\n", "'010' would be read as another number: .* .line 1, column 7"),
    "a number in sixties": ("image_size: 1:04\n", "'1:04' would be read as another number"),
    "a fraction in sixties": ("level: 0:0.9\n", "'0:0.9' would be read as another number"),
    "a hexadecimal number": ("seed: 0x10\n", "'0x10' would be read as another number"),
    "a number of 5000 digits": ("seed: " + "9" * 5000, "would be read as another number"),
    "a date that is none": ("name: 2024-99-99\n", OK),
    "a date": ("name: 2024-01-01\n", OK),
    "a word that is true": (
        "patient_column: yes\n",
        "patient_column: should be a valid string, got True: put",
    ),
    "two documents": ("name: a\n---\nname: b\n", "not a YAML file: .*another document .line 2"),
    "a list as a key": ("? [1]\n: 2\n", "not a YAML file: found unhashable key"),
    "an open bracket": ("seed: [1\n", "not a YAML file: .* .line 2, column 1"),
    "a control character": ("name: a\x07\n", "not a YAML file: special characters are not allowed"),
    "Latin-1": (b"name: \xe9\n", "not a YAML file: not UTF-8 .* at byte 6"),
    "UTF-16": ("name: a\n".encode("utf-16"), "not a YAML file: not UTF-8"),
    "a byte-order mark": ("name: a\n".encode("utf-8-sig"), OK),
    "beyond U+FFFF": ("data: 😀\n", OK),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_file_of_parameters(name, tmp_path):
    text, expected = PARAMETERS[name]
    path, said, start = written(tmp_path, text, "study.yaml"), OK, time.monotonic()
    try:
        StudyParams.read(path)
    except InputError as error:
        said = str(error)
    assert re.search(expected, said) if expected else said == OK
    assert "\n" not in said and len(said) < 500 and time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (os.mkdir, "study.yaml: cannot read the parameter file .it is a folder"),
        (lambda path: path.symlink_to("study.yaml"), "study.yaml: cannot read the parameter file"),
    ],
)
def test_what_is_no_file_of_parameters(make, expected, tmp_path):
    make(tmp_path / "study.yaml")
    with pytest.raises(InputError, match=expected):
        StudyParams.read(tmp_path / "study.yaml")
