"""cxr.data.loading: pixels and masks, with files made here and, if it is there, the real sample."""

import hashlib
import io
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from data_files import (
    FRACTIONS,
    HEADER,
    REAL,
    encoded,
    grouped,
    noise,
    params,
    put,
    refused,
    rows_of,
    split_table,
    write_table,
)
from PIL import Image
from skimage.color import rgb2gray

from cxr.core.errors import InputError
from cxr.data import formats, reading, tables
from cxr.data.loading import check_images, load_images, load_regions
from cxr.data.manifest import (
    COLUMNS,
    build_manifest,
    classes,
    data_root,
    manifest_hash,
    manifest_text,
    read_manifest,
    write_manifest,
)
from cxr.data.phantom import rendering

# --- pixels ------------------------------------------------------------------------------------------------------


def load_one(tmp_path, content, size, name="x.png"):
    put(tmp_path / name, content)
    content = (tmp_path / name).read_bytes()
    manifest = pd.DataFrame(
        [["x", name, "a", "1", "train", hashlib.sha256(content).hexdigest()]], columns=list(COLUMNS)
    )
    check_images(manifest, tmp_path)
    images = load_images(manifest, root=tmp_path, size=size, cache=None)
    assert images.dtype == np.uint8 and images.shape == (1, size, size) and not images.flags.writeable
    return images[0]


def triangle(n, size):
    """Resampling matrix [size, n]: triangle of half-width max(1, n / size), half-pixel centres, rows sum to 1."""
    scale = n / size
    centre = (np.arange(size)[:, None] + 0.5) * scale
    weight = np.clip(1 - np.abs(np.arange(n) + 0.5 - centre) / max(scale, 1), 0, None)
    return weight / weight.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("shape", "size"), [((16, 16), 16), ((61, 40), 16), ((40, 97), 16), ((9, 30), 33)])
def test_resize(tmp_path, shape, size):
    """Smaller, larger and rectangular, against the two matrix products."""
    values = noise(3, shape)
    expected = triangle(shape[0], size) @ values @ triangle(shape[1], size).T
    loaded = load_one(tmp_path, values, size)
    assert np.abs(loaded - expected).max() <= 0.5 + 1e-3
    if shape == (size, size):
        assert (loaded == values).all()


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 75])
def test_rows_come_in_order_and_all_are_tried(count, cores, monkeypatch):
    """Threads are handed several rows at once."""
    monkeypatch.setattr(reading, "cores", lambda: cores)
    rows = pd.DataFrame({"path": [str(number) for number in range(count)]})
    assert reading.for_each(lambda row: int(row.path) ** 2, rows, what="") == [k * k for k in range(count)]
    tried = []

    def work(row):
        tried.append(row.path)
        if int(row.path) % 3 == 0:
            raise formats.Unusable("third")

    with pytest.raises(InputError, match=f"^{-(-count // 3)} of {count} images cannot be used: 0 .third."):
        reading.for_each(work, rows, what="")
    assert sorted(tried, key=int) == list(rows["path"])


def test_colour_becomes_luminance(tmp_path):
    values = noise(4, (20, 20, 3))
    expected = 255 * rgb2gray(values)
    assert np.abs(load_one(tmp_path, values, 20) - expected).max() <= 0.5 + 1e-3
    grey = noise(5, (20, 20))
    assert (load_one(tmp_path, np.dstack([grey] * 3), 20) == grey).all()


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    content = encoded(smooth, "JPEG", quality=95)
    loaded = load_one(tmp_path, content, 64, "x.JPG")
    assert (loaded == np.asarray(Image.open(io.BytesIO(content)))).all()
    assert np.abs(loaded.astype(int) - smooth).mean() < 1.5
    cmyk = load_one(tmp_path, encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 55)), "JPEG", quality=95), 16, "y.jpg")
    assert np.abs(cmyk.astype(int) - 200).max() <= 2


def test_alpha_is_composited_on_black(tmp_path):
    grey, alpha = noise(6, (20, 20)), noise(7, (20, 20))
    expected = grey * (alpha / 255)
    assert np.abs(load_one(tmp_path, np.dstack([grey, grey, grey, alpha]), 20) - expected).max() <= 1
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    assert np.abs(load_one(tmp_path, encoded(la), 20) - expected).max() <= 1
    # A grey value that is declared transparent.
    keyed = load_one(tmp_path, encoded(np.full((8, 8), 90, np.uint8), transparency=90), 8)
    assert (keyed == 0).all()


def test_palette_is_expanded(tmp_path):
    index = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)).convert("P")
    index.putpalette([10, 10, 10, 200, 200, 200, 255, 0, 0, 0, 0, 255])
    assert load_one(tmp_path, encoded(index), 2).tolist() == [[10, 200], [54, 18]]  # 0.2125, 0.0721 x 255
    assert load_one(tmp_path, encoded(index, transparency=1), 2).tolist() == [[10, 0], [54, 18]]


def test_one_bit(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert load_one(tmp_path, encoded(bits), 2).tolist() == [[0, 255], [255, 0]]


def test_sixteen_bits_are_scaled_by_the_types_range(tmp_path):
    values = np.array([[0, 65535], [257 * 100, 257 * 100 + 128]], np.uint16)
    assert load_one(tmp_path, encoded(values), 2).tolist() == [[0, 255], [100, 100]]
    dark = np.full((4, 4), 257 * 3, np.uint16)  # twelve bits in sixteen stay dark: no guess at the range
    assert (load_one(tmp_path, encoded(dark), 4) == 3).all()


def damaged(folder):
    content = encoded(noise(0, (40, 40)), "JPEG")
    put(folder / "ill" / "p000_0.png", content[: len(content) // 2])
    png = bytearray(encoded(noise(1, (40, 40))))
    put(folder / "ill" / "p000_1.png", bytes(png[: len(png) // 2]))
    png[len(png) // 2] ^= 255
    put(folder / "ill" / "p001_0.png", bytes(png))
    put(folder / "ill" / "p001_1.png", b"")
    put(folder / "ill" / "p002_0.png", b"GIF89a, perhaps")
    stream = io.BytesIO()
    Image.fromarray(noise(2)).save(stream, "BMP")
    put(folder / "well" / "p102_1.png", stream.getvalue())
    return build_manifest(grouped(folder))


def test_damaged_files(folder):
    manifest = damaged(folder)
    for use in (
        lambda: check_images(manifest, folder),
        lambda: load_images(manifest, root=folder, size=8, cache=None),
    ):
        with pytest.raises(InputError) as caught:
            use()
        message = str(caught.value)
        assert message.startswith(
            "6 of 24 images cannot be used: ill/p000_0.png (damaged: image file is truncated"
        )
        assert "ill/p000_1.png (damaged: " in message and "ill/p001_0.png (damaged: " in message
        assert "ill/p002_0.png (not a PNG, JPEG, TIFF or DICOM file" in message
        assert " and 1 more: " in message and "p102_1" not in message


def test_changed_and_missing_files(folder):
    manifest = build_manifest(grouped(folder))
    put(folder / "ill" / "p003_0.png", noise(999))
    with pytest.raises(InputError, match=r"1 of 24.*ill/p003_0.png \(changed since the manifest was made\)"):
        load_images(manifest, root=folder, size=8, cache=None)
    (folder / "ill" / "p003_0.png").unlink()
    for use in (
        lambda: check_images(manifest, folder),
        lambda: load_images(manifest, root=folder, size=8, cache=None),
    ):
        with pytest.raises(InputError, match=r"ill/p003_0.png \(not found in "):
            use()


def test_files_need_their_folder(folder):
    with pytest.raises(InputError, match="root: the images are files"):
        load_images(build_manifest(grouped(folder)), root=None, size=8, cache=None)


def test_rows_come_in_the_manifests_order(folder):
    manifest = build_manifest(grouped(folder))
    images = load_images(manifest, root=folder, size=16, cache=None)
    order = np.random.default_rng(0).permutation(len(manifest))
    assert (load_images(manifest.iloc[order], root=folder, size=16, cache=None) == images[order]).all()


def test_phantom_images_and_masks(tmp_path):
    manifest = build_manifest(params(phantom_images=30, phantom_seed=2, lesion_contrast=1.5)).iloc[::-3]
    images = load_images(manifest, root=None, size=48, cache=None, lesion_contrast=1.5)
    regions = load_regions(manifest, root=None, size=48, lesion_contrast=1.5)
    for _ in ("made", "read"):
        kept = load_regions(manifest, root=None, size=48, lesion_contrast=1.5, cache=tmp_path)
        assert list(kept) == list(regions) and all((kept[name] == regions[name]).all() for name in kept)
        (entry,) = tmp_path.glob("masks-*.npy")
    with pytest.warns(UserWarning, match="cached masks are damaged"):
        content = bytearray(entry.read_bytes())
        content[5] ^= 1
        entry.write_bytes(content)
        again = load_regions(manifest, root=None, size=48, lesion_contrast=1.5, cache=tmp_path)
    assert all((again[name] == regions[name]).all() for name in again)
    assert images.dtype == np.uint8 and list(regions) == ["lesion", "lung", "marker"]
    for row, path in enumerate(manifest["path"]):
        expected = rendering.render(2, int(path.rsplit("/", 1)[1]), 48, lesion_contrast=1.5)
        assert (images[row] == expected.image).all()
        for name, masks in regions.items():
            assert masks.dtype == bool and masks.shape == (10, 48, 48)
            assert (masks[row] == getattr(expected, f"{name}_mask")).all()
    with pytest.raises(InputError, match="10 of 10 images changed.*lesion_contrast .now 1. or the code"):
        load_regions(manifest, root=None, size=48, lesion_contrast=1.0)


# --- masks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def masked(folder, table):
    """The table with a lesion mask for every `ill` image, named in the column `lesion_mask`."""
    rows = []
    for number, row in enumerate(rows_of(table)):
        mask = ""
        if row[1] == "ill":
            mask = f"masks/{number}.png"
            put(table.parent / mask, np.where(noise(50 + number) > 128, 255, 0).astype(np.uint8))
        rows.append([*row, mask])
    return write_table(table, rows, ("path", "label", "patient_id", "lesion_mask"))


def test_masks_of_a_table(masked, tmp_path):
    manifest = build_manifest(params(masked))
    assert list(manifest.columns) == [*COLUMNS, "lesion_mask", "lesion_mask_sha256"]
    for row in manifest.itertuples():
        content = (masked.parent / row.lesion_mask).read_bytes() if row.label == "ill" else b""
        assert row.lesion_mask_sha256 == (hashlib.sha256(content).hexdigest() if content else "")
    write_manifest(manifest, tmp_path / "m.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "m.csv"), manifest)
    assert hashlib.sha256((tmp_path / "m.csv").read_bytes()).hexdigest() == manifest_hash(manifest)
    check_images(manifest, masked.parent)

    shuffled = manifest.sample(frac=1, random_state=0)
    regions = load_regions(shuffled, root=masked.parent, size=24)
    assert list(regions) == ["lesion"]
    for row, mask in zip(shuffled.itertuples(), regions["lesion"], strict=True):
        assert mask.dtype == bool and mask.shape == (24, 24)
        if row.label != "ill":
            assert not mask.any()
            continue
        inside = np.asarray(Image.open(masked.parent / row.lesion_mask)) > 0  # 12 x 9
        share = box(12, 24) @ inside @ box(9, 24).T
        clear = np.abs(share - 0.5) > 1e-6
        assert (mask == (share >= 0.5))[clear].all() and clear.mean() > 0.8


def box(n, size):
    """Share of each of n pixels in each of `size`, [size, n]; when enlarging, the pixel under the centre."""
    if size > n:
        return np.eye(n)[((np.arange(size) + 0.5) * n / size).astype(int)]
    edges = np.arange(size + 1) * n / size
    low, high = np.maximum(edges[:-1, None], np.arange(n)), np.minimum(edges[1:, None], np.arange(n) + 1)
    return np.clip(high - low, 0, None) * size / n


def test_a_manifest_without_masks_has_the_text_it_always_had(folder, table, masked):
    rows = [row[:3] for row in rows_of(masked)]
    plain = build_manifest(params(write_table(folder.parent / "plain.csv", rows)))
    assert manifest_text(plain).splitlines()[0] == "image_id,path,label,patient_id,split,sha256"
    blank = write_table(folder.parent / "blank.csv", [[*row, " ", ""] for row in rows], (*HEADER, *tables.MASKS))
    assert manifest_text(build_manifest(params(blank))) == manifest_text(plain)
    assert load_regions(plain, root=folder.parent, size=8) == {}
    with_mask = build_manifest(params(masked))
    assert manifest_text(with_mask[list(COLUMNS)]) == manifest_text(plain)


def test_changed_masks_are_noticed(masked):
    manifest = build_manifest(params(masked))
    put(masked.parent / "masks" / "3.png", np.zeros((12, 9), np.uint8))
    assert manifest_hash(build_manifest(params(masked))) != manifest_hash(manifest)
    with pytest.raises(InputError, match=r"1 of 24 images.*lesion_mask masks/3.png: changed since the manifest"):
        load_regions(manifest, root=masked.parent, size=8)
    (masked.parent / "masks" / "3.png").unlink()
    refused("1 of 12 files of the column lesion_mask do not exist: masks/3.png: paths", params(masked))
    with pytest.raises(InputError, match=r"lesion_mask masks/3.png: not found in"):
        check_images(manifest, masked.parent)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (encoded(noise(1), "JPEG"), "a mask has to be a PNG"),
        (encoded(noise(1))[:60], "damaged"),
        (b"", "empty: the file has 0 bytes"),
        (encoded(noise(1, (9, 12))), "has 12x9 pixels, other proportions than the image .9x12."),
    ],
)
def test_unusable_masks(masked, content, match):
    put(masked.parent / "masks" / "3.png", content)
    with pytest.raises(InputError, match=f"1 of 24 images.*lesion_mask masks/3.png: {match}"):
        check_images(build_manifest(params(masked)), masked.parent)


def test_a_mask_may_be_of_another_resolution(masked):
    put(masked.parent / "masks" / "3.png", noise(1, (31, 23)))  # 12 x 9 at 2.57 times the size, rounded
    check_images(build_manifest(params(masked)), masked.parent)


def inside(tmp_path, content, size):
    put(tmp_path / "x.png", noise(0, (4, 4)))
    put(tmp_path / "m.png", content)
    digest = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("x.png", "m.png")]
    row = ["x", "x.png", "a", "1", "train", digest[0], "m.png", digest[1]]
    manifest = pd.DataFrame([row], columns=[*COLUMNS, "lung_mask", "lung_mask_sha256"])
    return load_regions(manifest, root=tmp_path, size=size)["lung"][0].astype(int).tolist()


def test_every_pixel_that_is_not_black_is_inside(tmp_path):
    expected = [[0, 1], [1, 0]]
    assert inside(tmp_path, np.array([[0, 1], [255, 0]], np.uint8), 2) == expected
    assert inside(tmp_path, np.array([[0, 1], [65535, 0]], np.uint16), 2) == expected
    assert (
        inside(tmp_path, encoded(Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")), 2)
        == expected
    )
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 1, 2] = colour[1, 0, 0] = 1  # too dark for luminance
    assert inside(tmp_path, colour, 2) == expected
    alpha = np.array([[[9, 9, 9, 0], [9, 9, 9, 255]], [[0, 0, 9, 255], [0, 0, 0, 255]]], np.uint8)
    assert inside(tmp_path, alpha, 2) == expected
    palette = Image.fromarray(np.array([[1, 2], [2, 0]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0, 200, 0, 0])
    assert inside(tmp_path, encoded(palette), 2) == expected


def test_small_regions_do_not_vanish(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    assert inside(tmp_path, values, 2) == [[0, 0], [0, 0]]
    values[1, 6] = 1  # a sixteenth of its pixel
    assert inside(tmp_path, values, 2) == [[0, 1], [0, 0]]
    values[4:, :4] = 1
    assert inside(tmp_path, values, 2) == [[0, 0], [1, 0]]
    assert inside(tmp_path, np.array([[1, 0], [0, 0]], np.uint8), 4) == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0] * 4,
        [0] * 4,
    ]


@pytest.mark.slow
@pytest.mark.skipif(reading.cores() < 2, reason="one core: nothing is rendered in processes")
def test_rendering_in_processes_from_an_unguarded_script(tmp_path):
    """joblib's processes do not run the script a second time."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            print("ran")
            from cxr.core.params import DataParams
            from cxr.data import loading, manifest
            from cxr.data.phantom import rendering, rows
            rows._PIXELS_A_PROCESS = 1
            manifest = manifest.build_manifest(DataParams(phantom_images=30, lesion_contrast=1.0))
            images = loading.load_images(manifest, root=None, size=48, cache=None, lesion_contrast=1.0)
            alone = rendering.render_stack(0, [29, 0], 48, lesion_contrast=1.0)[0]
            assert (images[[29, 0]] == alone).all()
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran\n"


def test_import_is_light():
    code = "import sys, cxr.data; print({'tensorflow', 'mlflow', 'keras', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# --- real images -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the sample of real radiographs (shared/data/real-cxr5) is not here")
def test_real_sample(tmp_path):
    chosen = params(REAL, val_fraction=FRACTIONS["val"], test_fraction=FRACTIONS["test"])
    manifest = build_manifest(chosen)
    assert len(manifest) == 555
    assert manifest["patient_id"].nunique() == 357
    assert classes(manifest) == [
        "adult_no_finding",
        "bacterial_pneumonia",
        "covid19",
        "normal",
        "viral_pneumonia",
    ]
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    shares = split_table(manifest["label"], manifest["split"]) / 111
    for name, fraction in FRACTIONS.items():
        assert (shares[name] - fraction).abs().max() < 0.01
    check_images(manifest, data_root(chosen))
    images = np.asarray(load_images(manifest, root=data_root(chosen), size=64, cache=tmp_path))
    assert images.shape == (555, 64, 64)
    assert images.std(axis=(1, 2)).min() > 5
    path = REAL / manifest["path"].iloc[17]
    values = np.asarray(Image.open(path).convert("L"), float)
    expected = triangle(values.shape[0], 64) @ values @ triangle(values.shape[1], 64).T
    assert np.abs(images[17] - expected).max() <= 0.5 + 1e-3
