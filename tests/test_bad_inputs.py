"""Bad and odd inputs, and what a user is told.

Files: `decode` and `header` succeed or raise Unusable, and nothing else. Folders and tables: InputError, one line.
"""

import gzip
import io
import os
import re
import struct
import time
import zlib

import numpy as np
import pytest
from data_files import encoded
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless
from test_images import NOISE, dicom

from cxr.core.errors import InputError
from cxr.core.params import DataParams, StudyParams
from cxr.data.formats import Unusable
from cxr.data.images import decode, header, square
from cxr.data.loading import check_images
from cxr.data.manifest import build_manifest, data_root

PNG, JPEG, TIFF, DICOM = encoded(NOISE), encoded(NOISE, "JPEG"), encoded(NOISE, "TIFF"), dicom()
OK = ""  # is read


def png_of(width, height, chunks=b""):
    """A PNG that claims a size; its pixels are a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(bytes(50))) + chunk(b"IEND", b"")


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
    "DICOM named .png": (DICOM, OK),
    "DICOM: preamble only": (DICOM[:132], "without an image"),
    "DICOM cut in the header": (DICOM[:300], "without an image|damaged"),
    "DICOM cut in the pixels": (DICOM[:-50], "damaged"),
    "DICOM without pixels": (dicom(PixelData=None), "without pixels"),
    "DICOM report (SR)": (dicom(PixelData=None, Rows=None, Modality="SR"), r"without an image \(Modality SR\)"),
    "DICOM of several frames": (dicom(NumberOfFrames=3), "3 frames in one DICOM file"),
    "DICOM without Rows": (dicom(Rows=None), "without an image"),
    "DICOM without BitsAllocated": (dicom(BitsAllocated=None), "damaged: .*Bits Allocated"),
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


def lines(*more, header="path,label,patient_id", without=0):
    return lambda root: written(root, "\n".join([header, *good(root)[without:], *more]) + "\n")


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
    "pipe named .png": (folder(lambda root: os.mkfifo(root / "ill" / "x.png")), {}, OK),
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
    assert re.search(expected, said) if expected else said == OK
    assert "\n" not in said and "\0" not in said and len(said) < 2000


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
    "a megabyte": ("#" * 1_000_001, "1000001 bytes: such a file has at most 1000000"),
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
        (os.mkfifo, "study.yaml: not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "study.yaml: not a regular file"),
        (os.mkdir, "study.yaml: cannot read the parameter file .Is a directory"),
        (lambda path: path.symlink_to("study.yaml"), "study.yaml: cannot read the parameter file"),
    ],
)
def test_what_is_no_file_of_parameters(make, expected, tmp_path):
    make(tmp_path / "study.yaml")
    with pytest.raises(InputError, match=expected):
        StudyParams.read(tmp_path / "study.yaml")
