"""cxr.data.loading: manifests, splits, loading, with files made here and, if it is there, the real sample."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2gray

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data import dicom, formats, images, reading, tables
from cxr.data.cache import default_cache
from cxr.data.loading import load_images, load_regions
from cxr.data.manifest import (
    COLUMNS,
    build_manifest,
    class_index,
    classes,
    data_root,
    manifest_hash,
    manifest_text,
    read_manifest,
    write_manifest,
)
from cxr.data.phantom import cases, rendering
from cxr.data.phantom import rows as phantom_rows
from cxr.data.phantom.rows import with_markers
from cxr.data.splits import SPLITS, assign_splits, limit_per_class
from cxr.data.usable import check_images

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real-cxr5"
FRACTIONS = {"train": 0.55, "val": 0.15, "test": 0.30}


def noise(seed, shape=(12, 9)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(values, fmt="PNG", **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, six patients each, two images a patient, named p<patient>_<view>.png."""
    root = tmp_path / "images"
    for c, name in enumerate(("ill", "well")):
        for patient in range(6):
            for view in range(2):
                number = 100 * c + 10 * patient + view
                put(root / name / f"p{c}{patient:02d}_{view}.png", noise(number))
    return root


def params(path="phantom", **more):
    return DataParams(data=str(path), **more)


def grouped(path, **more):
    return params(path, patient_pattern=r"(p\d+)_", **more)


def write_table(path, rows, columns=("path", "label", "patient_id")):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(columns)] + [",".join(row) for row in rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table(folder):
    """A manifest CSV beside the folder; patients are called 007 and the like."""
    rows = [
        (f"images/{file.parent.name}/{file.name}", file.parent.name, f"0{file.name[1:4]}")
        for file in sorted(folder.rglob("*.png"))
    ]
    return write_table(folder.parent / "list.csv", rows)


def rows_of(table):
    return [line.split(",") for line in table.read_text().splitlines()[1:]]


# --- manifests --------------------------------------------------------------------------------------------------


def test_folder(folder):
    manifest = build_manifest(grouped(folder))
    assert tuple(manifest.columns) == COLUMNS
    assert len(manifest) == 24
    assert manifest["image_id"].is_monotonic_increasing and manifest["image_id"].is_unique
    row = manifest.set_index("image_id").loc["ill/p003_1"]
    assert row["path"] == "ill/p003_1.png"
    assert row["label"] == "ill"
    assert row["patient_id"] == "p003"
    assert row["sha256"] == hashlib.sha256((folder / "ill/p003_1.png").read_bytes()).hexdigest()
    assert classes(manifest) == ["ill", "well"]
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    pd.testing.assert_frame_equal(manifest, build_manifest(grouped(folder)))


def test_folder_takes_nested_files_and_any_case_and_leaves_hidden_ones(folder):
    put(folder / "ill" / "deep" / "er" / "p099_0.PNG", noise(1000))
    put(folder / "ill" / "p098_0.JPeG", encoded(noise(1001), "JPEG"))
    put(folder / "ill" / ".p097_0.png", noise(1002))
    put(folder / "ill" / ".cache" / "p096_0.png", noise(1003))
    put(folder / ".hidden" / "p095_0.png", noise(1004))
    put(folder / "ill" / "notes.txt", b"no image")
    paths = set(build_manifest(grouped(folder))["path"])
    assert len(paths) == 26
    assert {"ill/deep/er/p099_0.PNG", "ill/p098_0.JPeG"} < paths


def test_folder_without_pattern_warns_and_every_image_is_a_patient(folder):
    with pytest.warns(UserWarning, match="every image counts as a patient of its own.*patient_pattern"):
        manifest = build_manifest(params(folder))
    assert manifest["patient_id"].nunique() == 24


def test_images_beside_the_class_folders_are_named_in_a_warning(folder):
    put(folder / "stray.png", noise(5))
    with pytest.warns(UserWarning, match="left out: stray.png"):
        assert len(build_manifest(grouped(folder))) == 24


def test_image_id_keeps_the_suffix_where_files_differ_in_it_only(folder):
    put(folder / "ill" / "p000_0.jpg", encoded(noise(7), "JPEG"))
    ids = set(build_manifest(grouped(folder))["image_id"])
    assert {"ill/p000_0.png", "ill/p000_0.jpg", "ill/p000_1"} < ids
    # "p000_0.png.png" would lose its suffix and be called what "p000_0.png" is: then all keep theirs.
    put(folder / "ill" / "p000_0.png.png", noise(8))
    manifest = build_manifest(grouped(folder))
    assert (manifest["image_id"] == manifest["path"]).all()


def test_table(table):
    manifest = build_manifest(params(table))
    assert len(manifest) == 24
    assert manifest["patient_id"].str.fullmatch(r"0\d{3}").all()  # leading zeros are kept
    assert data_root(params(table)) == table.parent
    assert len(load_images(manifest, root=data_root(params(table)), size=8, cache=None)) == 24


def test_folder_with_a_manifest_uses_it(folder):
    rows = [(f"{f.parent.name}/{f.name}", "class " + f.name[4:6], f.name[1:4]) for f in folder.rglob("*.png")]
    write_table(folder / "manifest.csv", rows)
    manifest = build_manifest(params(folder))
    assert classes(manifest) == ["class _0", "class _1"]
    assert data_root(params(folder)) == folder


def test_table_odds_and_ends(folder, table):
    """Excel's byte order mark and line ends, blank lines, further columns, absolute and dotted paths, names
    that pandas would read as missing."""
    rows = rows_of(table)
    rows[0][0] = str(folder / "ill" / "p000_0.png")
    rows[1][0] = "./images/../images/ill/p000_1.png"
    for row in rows:
        row[1] = {"ill": "NA", "well": " None "}[row[1]]
        row[2:] = ["CT,2", row[2]]
    lines = ["path,label,age,patient_id", *(f'{p},{c},"{a}",{q}' for p, c, a, q in rows), ""]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    manifest = build_manifest(params(table))
    assert classes(manifest) == ["NA", "None"]
    assert str(folder / "ill" / "p000_0.png") in set(manifest["path"])
    assert "images/ill/p000_1.png" in set(manifest["path"])
    assert len(load_images(manifest, root=table.parent, size=8, cache=None)) == 24


def test_given_splits_are_honoured(table):
    splits = ["train", "train", "train", "val", "test", "test"]
    rows = [[*row, splits[int(row[2][-2:])]] for row in rows_of(table)]
    write_table(table, rows, ("path", "label", "patient_id", "split"))
    manifest = build_manifest(params(table, split_seed=3))
    assert dict(zip(manifest["path"], manifest["split"], strict=True)) == {row[0]: row[3] for row in rows}


def test_phantom():
    chosen = params(phantom_images=60, phantom_seed=4)
    manifest = build_manifest(chosen)
    expected = cases.catalogue(60, 4).set_index("image_id")
    assert tuple(manifest.columns) == COLUMNS and len(manifest) == 60
    assert classes(manifest) == sorted(cases.CLASSES)
    for row in manifest.itertuples():
        assert row.path == f"phantom://4/{expected.loc[row.image_id, 'index']}"
        assert row.label == expected.loc[row.image_id, "label"]
        assert row.patient_id == expected.loc[row.image_id, "patient_id"]
    assert manifest["sha256"].is_unique
    pd.testing.assert_frame_equal(manifest, build_manifest(chosen))
    assert data_root(chosen) is None
    check_images(manifest, None)


@pytest.mark.parametrize("seed", range(8))
def test_smallest_phantoms_can_be_split(seed):
    for n in (30, 40, 60):
        manifest = build_manifest(params(phantom_images=n, phantom_seed=seed))
        assert pd.crosstab(manifest["label"], manifest["split"]).to_numpy().min() >= 1


@pytest.mark.parametrize("module", [path.name for path in sorted(phantom_rows.FOLDER.glob("*.py"))])
def test_phantom_hash_depends_on_contrast_and_on_the_generators_source(module, monkeypatch, tmp_path):
    first = build_manifest(params(phantom_images=60))
    assert (first["sha256"] != build_manifest(params(phantom_images=60, lesion_contrast=0.9))["sha256"]).all()
    changed = shutil.copytree(phantom_rows.FOLDER, tmp_path / "phantom")
    monkeypatch.setattr(phantom_rows, "FOLDER", changed)
    pd.testing.assert_frame_equal(first, build_manifest(params(phantom_images=60)))
    with (changed / module).open("a") as file:
        file.write("\n")
    assert (first["sha256"] != build_manifest(params(phantom_images=60))["sha256"]).all()
    with pytest.raises(InputError, match="60 of 60 images changed since the manifest was made"):
        load_images(first, root=None, size=32, cache=None, lesion_contrast=1.0)


def test_hash_is_that_of_the_written_file_and_changes_with_a_pixel(folder, tmp_path):
    manifest = build_manifest(grouped(folder))
    path = tmp_path / "written.csv"
    write_manifest(manifest, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest_hash(manifest)
    assert path.read_bytes().startswith(b"image_id,path,label,patient_id,split,sha256\nill/p000_0,ill/p000_0.png,")
    assert b"\r" not in path.read_bytes()
    pd.testing.assert_frame_equal(read_manifest(path), manifest)
    # Row numbers, column order and further columns are not part of a manifest.
    shuffled = manifest.assign(extra="1")[["extra", *reversed(COLUMNS)]].set_index(np.arange(24) + 5)
    assert manifest_text(shuffled) == manifest_text(manifest)

    pixels = noise(0)
    pixels[3, 3] ^= 1
    put(folder / "ill" / "p000_0.png", pixels)
    assert manifest_hash(build_manifest(grouped(folder))) != manifest_hash(manifest)


def test_copies_across_splits_are_warned_of(folder):
    content = encoded(noise(0))
    for patient in range(6):
        put(folder / "well" / f"p1{patient:02d}_0.png", content)
    with pytest.warns(UserWarning, match="byte for byte the same.*ill/p000_0.png"):
        build_manifest(grouped(folder))


# --- what is refused --------------------------------------------------------------------------------------------


def refused(match, chosen):
    with warnings.catch_warnings(), pytest.raises(InputError, match=match) as caught:
        warnings.simplefilter("error")
        build_manifest(chosen)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path):
    refused("nowhere does not exist: give", params(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="does not exist"):
        data_root(params(tmp_path / "nowhere"))


def test_no_data_named():
    refused("data: empty: give", params(""))


def test_neither_folder_nor_csv(tmp_path):
    refused("neither a folder nor a .csv", params(put(tmp_path / "scan.png", noise(0))))


def test_empty_folder(tmp_path):
    put(tmp_path / "data" / ".DS_Store", b"")
    refused("the folder is empty: expected one sub-folder a class", params(tmp_path / "data"))


def test_no_class_folders(tmp_path):
    put(tmp_path / "data" / "a.png", noise(0))
    refused(r"no class folders \(1 images lie in the folder itself\)", params(tmp_path / "data"))


def test_class_folder_without_images(folder):
    put(folder / "blank" / "readme.txt", b"")
    refused("no PNG, JPEG, TIFF or DICOM files in blank: every sub-folder is a class", grouped(folder))


def test_one_class(folder):
    for file in (folder / "well").iterdir():
        file.unlink()
    (folder / "well").rmdir()
    refused("at least two classes are needed, found ill", grouped(folder))


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("(p", "not a regular expression"),
        (r"p\d+", "has no group"),
        ("(q)", "no patient in 24 of 24 file names"),
    ],
)
def test_bad_patient_pattern(folder, pattern, match):
    refused(match, params(folder, patient_pattern=pattern))


def test_patient_pattern_sees_the_file_name_only(folder):
    refused("no patient in 24 of 24", params(folder, patient_pattern="(ill|well)"))


def test_pattern_with_a_manifest(table):
    refused("leave it empty", grouped(table))


def test_too_few_patients(folder):
    for file in (folder / "ill").glob("p00[2-5]*"):
        file.unlink()
    refused("class 'ill' has 2 patients, too few.*add images of more patients", grouped(folder))


def test_too_few_patients_after_the_limit(folder):
    refused("class 'ill' has 2 patients.*max_images_per_class", grouped(folder, max_images_per_class=3))


HEADER = ["path", "label", "patient_id"]


def with_split(choose):
    """The table with a split column: choose(i) for row i (0 to 11 are ill, two rows a patient, then well)."""
    return lambda rows: [[*HEADER, "split"], *([*row, choose(i)] for i, row in enumerate(rows))]


def with_rows(change):
    return lambda rows: [HEADER, *change(rows)]


def blank_patients(rows):
    return [[*row[:2], ""] if i in (1, 4) else row for i, row in enumerate(rows)]


# name: (from the rows of a good table to all lines of a bad one, what the message says)
TABLE_ERRORS = {
    "lacks a column": (
        lambda rows: [HEADER[:2], *(row[:2] for row in rows)],
        "no column patient_id.*found path, label$",
    ),
    "other separator": (
        lambda rows: [[";".join(HEADER)], *([";".join(row)] for row in rows)],
        "no column path, label, patient_id.*found path;label;patient_id",
    ),
    "column twice": (lambda rows: [["path", "label", "label"], *rows], "occurs twice in path, label, label"),
    "no rows": (with_rows(lambda rows: []), "no rows"),
    "empty": (lambda rows: [], "the file is empty"),
    "ragged": (
        with_rows(lambda rows: [*rows[:3], [*rows[3], "x"], *rows[4:]]),
        "line 5 has 4 fields, the header has 3",
    ),
    "no patient": (with_rows(blank_patients), "no patient_id in line 3, 6: fill it in$"),
    "no label": (with_rows(lambda rows: [[rows[0][0], " ", "1"], *rows[1:]]), "no label in line 2: fill it in$"),
    "row twice": (
        with_rows(lambda rows: [*rows, ["./" + rows[2][0], "ill", "9"]]),
        "listed more than once: images/ill/p001_0.png: keep one",
    ),
    "no file": (
        with_rows(lambda rows: [*rows, ["images/x.png", "ill", "9"]]),
        "1 of 25 files do not exist: images/x.png: paths are relative to",
    ),
    "split not filled in": (
        with_split(lambda i: "" if i == 2 else "train"),
        "no split in line 4: .*leave the whole column out",
    ),
    "no test split": (
        with_split(lambda i: "val" if i % 12 < 4 else "train"),
        "split column has train, val: it needs all of train, val and test",
    ),
    "other split": (
        with_split(lambda i: ("valid", "train", "test")[i % 12 // 4]),
        "split column has test, train, valid: it needs",
    ),
    "patient torn": (
        with_split(lambda i: SPLITS[i % 3]),
        r"12 patients are in more than one split: 0000 \(train, val\).* and 7 more",
    ),
    "class absent": (
        with_split(lambda i: SPLITS[i // 4] if i < 12 else SPLITS[(i - 12) // 6]),
        r"class 'well' \(6 patients\) has no image in test",
    ),
}


@pytest.mark.parametrize("case", TABLE_ERRORS)
def test_bad_table(table, case):
    change, match = TABLE_ERRORS[case]
    table.write_text("".join(",".join(row) + "\n" for row in change(rows_of(table))))
    refused(match, params(table))


def test_many_missing_files_are_counted_and_five_named(table):
    for file in (table.parent / "images" / "ill").iterdir():
        file.unlink()
    refused(
        r"12 of 24 files do not exist: (images/ill/p\w+.png, ){4}images/ill/p\w+.png and 7 more",
        params(table),
    )


def test_table_in_another_encoding(table):
    table.write_bytes(table.read_bytes() + "images/é.png,ill,1\n".encode("latin-1"))
    refused("not UTF-8", params(table))


def test_unclosed_quote(table):
    table.write_text(table.read_text() + '"images/a.png,ill,1\n')
    refused("save it as comma-separated values", params(table))


def test_read_manifest_refuses_other_files(table, tmp_path):
    with pytest.raises(InputError, match="of a manifest that cxr wrote, found path, label, patient_id"):
        read_manifest(table)
    with pytest.raises(InputError, match="cannot read the manifest"):
        read_manifest(tmp_path / "none.csv")


# --- splits and limits ------------------------------------------------------------------------------------------


@st.composite
def cohorts(draw):
    """(labels, patients): 2 to 4 classes, at least 6 patients of one class each, others with several classes."""
    n_classes = draw(st.integers(2, 4))
    labels, patients = [], []
    for c in range(n_classes):
        for p in range(draw(st.integers(6, 20))):
            n = draw(st.integers(1, 4))
            labels += [f"c{c}"] * n
            patients += [f"{c}-{p}"] * n
    for p in range(draw(st.integers(0, 10))):
        mixed = draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=5))
        labels += [f"c{c}" for c in mixed]
        patients += [f"mixed-{p}"] * len(mixed)
    order = np.random.default_rng(draw(st.integers(0, 2**16))).permutation(len(labels))
    return np.array(labels)[order], np.array(patients)[order]


def split_table(labels, split):
    return pd.crosstab(np.asarray(labels), np.asarray(split)).reindex(columns=list(SPLITS), fill_value=0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cohort=cohorts(), seed=st.integers(0, 2**31 - 1))
def test_split_properties(cohort, seed):
    labels, patients = cohort
    split = assign_splits(labels, patients, val_fraction=0.15, test_fraction=0.30, seed=seed)
    assert set(split) == set(SPLITS) and len(split) == len(labels)
    assert (pd.Series(split).groupby(patients).nunique() == 1).all()
    counts = split_table(labels, split)
    assert counts.to_numpy().min() >= 1
    share = counts.div(counts.sum(axis=1), axis=0)
    largest = pd.crosstab(labels, patients).max(axis=1) / counts.sum(axis=1)
    for name, fraction in FRACTIONS.items():
        # Within one largest patient of that class: what no grouped split can promise to beat.
        assert (share[name] - fraction).abs().le(largest + 1e-9).all()
    again = assign_splits(labels, patients, val_fraction=0.15, test_fraction=0.30, seed=seed)
    assert (split == again).all()
    back = assign_splits(labels[::-1], patients[::-1], val_fraction=0.15, test_fraction=0.30, seed=seed)
    assert (split[::-1] == back).all()  # row order carries no meaning


def test_split_is_exact_where_it_can_be():
    labels = np.repeat(["a", "b"], [100, 40])
    patients = np.arange(140).astype(str)
    split = assign_splits(labels, patients, val_fraction=0.15, test_fraction=0.30, seed=1)
    assert split_table(labels, split).to_numpy().tolist() == [[55, 15, 30], [22, 6, 12]]


def frequencies(labels, patients, row, **fractions):
    splits = [assign_splits(labels, patients, seed=seed, **fractions)[row] for seed in range(400)]
    return pd.Series(splits).value_counts(normalize=True).reindex(SPLITS, fill_value=0)


@pytest.mark.parametrize("row", [0, 10, -1], ids=["six images", "one", "three"])
def test_each_patient_is_in_each_split_as_often_as_the_fractions_say(row):
    """Over seeds, whatever the number of its images: else splits would differ in more than chance."""
    patients = np.repeat(np.arange(60), [6] + [1] * 58 + [3]).astype(str)
    labels = np.where(np.arange(len(patients)) % 2 == 0, "a", "b")
    share = frequencies(labels, patients, row, val_fraction=0.25, test_fraction=0.25)
    # Four standard errors: 4 sqrt(0.25 / 400) = 0.1 and 4 sqrt(0.25 0.75 / 400) = 0.087.
    assert share["train"] == pytest.approx(0.5, abs=0.1)
    assert share["val"] == pytest.approx(0.25, abs=0.087)
    assert share["test"] == pytest.approx(0.25, abs=0.087)


def test_a_patient_too_large_for_a_split_is_elsewhere():
    """20 of a class' 100 images, where validation has 15."""
    patients = np.r_[np.repeat("big", 20), np.arange(180).astype(str)]
    labels = np.repeat(["a", "b"], 100)
    share = frequencies(labels, patients, 0, val_fraction=0.15, test_fraction=0.42)
    assert share["val"] == 0
    assert min(share["train"], share["test"]) > 0.3


@given(n=st.integers(3, 5), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_three_patients_suffice(n, seed):
    labels = np.repeat(["a", "b", "c"], [n, 3, 40])
    patients = np.arange(len(labels)).astype(str)
    split = assign_splits(labels, patients, val_fraction=0.15, test_fraction=0.30, seed=seed)
    assert split_table(labels, split).to_numpy().min() >= 1


def test_class_that_cannot_be_everywhere():
    """Four patients; each class is three of them, so any two in one split leave a class without that split."""
    labels = ["a", "a", "a", "b", "b", "b", "c", "c", "c", "d", "d", "d"]
    patients = ["1", "2", "3", "1", "2", "4", "1", "3", "4", "2", "3", "4"]
    with pytest.raises(InputError, match=r"class '\w' has 3 patients, too few for each of train, val and test"):
        assign_splits(labels, patients, val_fraction=0.15, test_fraction=0.30, seed=0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cohort=cohorts(), at_most=st.integers(1, 30), seed=st.integers(0, 1000))
def test_limit_properties(cohort, at_most, seed):
    labels, patients = cohort
    keep = limit_per_class(labels, patients, at_most=at_most, seed=seed)
    frame = pd.DataFrame({"label": labels, "patient": patients, "keep": keep})
    by_class = frame.groupby("label")["keep"].agg(["sum", "size"])
    assert (by_class["sum"] == np.minimum(by_class["size"], at_most)).all()
    for _, rows in frame.groupby("label"):
        kept = rows.groupby("patient")["keep"].mean()
        assert ((kept > 0) & (kept < 1)).sum() <= 1  # at most one patient of a class is cut
    assert (keep == limit_per_class(labels, patients, at_most=at_most, seed=seed)).all()


def test_limit_in_a_manifest(folder):
    manifest = build_manifest(grouped(folder, max_images_per_class=8))
    assert manifest.groupby("label").size().to_dict() == {"ill": 8, "well": 8}
    assert manifest["patient_id"].nunique() == 8
    others = [build_manifest(grouped(folder, max_images_per_class=8, split_seed=seed)) for seed in range(1, 6)]
    assert any(set(other["image_id"]) != set(manifest["image_id"]) for other in others)


# --- loading ----------------------------------------------------------------------------------------------------


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


def test_orientation_is_applied(tmp_path):
    values = np.zeros((16, 32), np.uint8)
    values[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    loaded = load_one(tmp_path, encoded(values, "JPEG", exif=exif, quality=95), 16, "x.jpg").astype(int)
    assert loaded[:6].max() < 20 and loaded[-6:].min() > 235


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


def test_jpeg_that_lacks_its_last_byte_is_refused(folder):
    content = encoded(noise(0, (40, 40)), "JPEG")
    put(folder / "ill" / "p000_0.png", content[:-1])
    with pytest.raises(InputError, match="1 of 24 images.*truncated"):
        check_images(build_manifest(grouped(folder)), folder)


def test_changed_and_missing_files(folder):
    manifest = build_manifest(grouped(folder))
    before = load_images(manifest, root=folder, size=8, cache=None)
    put(folder / "ill" / "p003_0.png", noise(999))
    with pytest.raises(InputError, match=r"1 of 24.*ill/p003_0.png \(changed since the manifest was made\)"):
        load_images(manifest, root=folder, size=8, cache=None)
    after = load_images(manifest, root=folder, size=8, cache=None, verify=False)
    row = manifest.index[manifest["image_id"] == "ill/p003_0"][0]
    assert np.flatnonzero((before != after).any(axis=(1, 2))).tolist() == [row]
    (folder / "ill" / "p003_0.png").unlink()
    for use in (
        lambda: check_images(manifest, folder),
        lambda: load_images(manifest, root=folder, size=8, cache=None),
    ):
        with pytest.raises(InputError, match=r"ill/p003_0.png \(not found in "):
            use()


def test_load_refuses_what_it_cannot_make_sense_of(folder):
    manifest = build_manifest(grouped(folder))
    with pytest.raises(InputError, match="root: the images are files"):
        load_images(manifest, root=None, size=8, cache=None)
    with pytest.raises(InputError, match="size: at least 1"):
        load_images(manifest, root=folder, size=0, cache=None)
    with pytest.raises(InputError, match="no rows"):
        load_images(manifest[:0], root=folder, size=8, cache=None)
    with pytest.raises(InputError, match="size: at least 1"):
        load_regions(manifest, root=folder, size=0)
    made = build_manifest(params(phantom_images=30))
    with pytest.raises(InputError, match="lesion_contrast is needed"):
        load_images(made, root=None, size=32, cache=None)
    with pytest.raises(InputError, match="lesion_contrast is needed"):
        load_regions(made, root=None, size=32)
    with pytest.raises(InputError, match="do not mix"):
        load_images(pd.concat([made, manifest]), root=folder, size=32, cache=None, lesion_contrast=1.0)


def test_rows_come_in_the_manifests_order(folder):
    manifest = build_manifest(grouped(folder))
    images = load_images(manifest, root=folder, size=16, cache=None)
    order = np.random.default_rng(0).permutation(len(manifest))
    assert (load_images(manifest.iloc[order], root=folder, size=16, cache=None) == images[order]).all()


def test_phantom_images_and_masks():
    manifest = build_manifest(params(phantom_images=30, phantom_seed=2, lesion_contrast=1.5)).iloc[::-3]
    images = load_images(manifest, root=None, size=48, cache=None, lesion_contrast=1.5)
    regions = load_regions(manifest, root=None, size=48, lesion_contrast=1.5)
    assert images.dtype == np.uint8 and list(regions) == ["lesion", "lung", "marker"]
    for row, path in enumerate(manifest["path"]):
        expected = rendering.render(2, int(path.rsplit("/", 1)[1]), 48, lesion_contrast=1.5)
        assert (images[row] == expected.image).all()
        for name, masks in regions.items():
            assert masks.dtype == bool and masks.shape == (10, 48, 48)
            assert (masks[row] == getattr(expected, f"{name}_mask")).all()
    with pytest.raises(InputError, match="10 of 10 images changed.*lesion_contrast is another"):
        load_regions(manifest, root=None, size=48, lesion_contrast=1.0)


# --- the shortcut -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["transfer", "fine_tune"])
def test_shortcut(stage, tmp_path):
    chosen = params(phantom_images=30, lesion_contrast=1.5, shortcut=stage)
    plain = build_manifest(params(phantom_images=30, lesion_contrast=1.5))
    by_class = build_manifest(chosen)
    at_random = with_markers(by_class, "random", lesion_contrast=1.5)
    assert by_class["path"].tolist() == [f"{path}?marker=class" for path in plain["path"]]
    assert at_random["path"].tolist() == [f"{path}?marker=random" for path in plain["path"]]
    for other in (by_class, at_random):
        same = ["image_id", "label", "patient_id", "split"]
        pd.testing.assert_frame_equal(other[same], plain[same])
    assert len(set(plain["sha256"]) | set(by_class["sha256"]) | set(at_random["sha256"])) == 90
    pd.testing.assert_frame_equal(with_markers(at_random, "class", lesion_contrast=1.5), by_class)
    write_manifest(at_random, tmp_path / "m.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "m.csv"), at_random)

    both = pd.concat([by_class.iloc[:4], at_random.iloc[2:6], plain.iloc[:2]])  # modes may mix in one manifest
    options = {"root": None, "size": 48, "lesion_contrast": 1.5}
    images = np.asarray(load_images(both, cache=tmp_path / "cache", **options))
    regions = load_regions(both, **options)
    for row, path in enumerate(both["path"]):
        number, _, marker = path.rsplit("/", 1)[1].partition("?marker=")
        expected = rendering.render(0, int(number), 48, lesion_contrast=1.5, marker=marker or "side")
        assert (images[row] == expected.image).all()
        assert (regions["marker"][row] == expected.marker_mask).all()
    check_images(at_random, None)


def test_markers_of_other_manifests_are_refused(folder):
    for manifest in (build_manifest(grouped(folder)), build_manifest(params(phantom_images=30))):
        with pytest.raises(InputError, match="only images of a phantom with a shortcut have tokens"):
            with_markers(manifest, "random", lesion_contrast=2.5)
    manifest = build_manifest(params(phantom_images=30, shortcut="transfer"))
    with pytest.raises(InputError, match="class or random, got 'side'"):
        with_markers(manifest, "side", lesion_contrast=2.5)
    with pytest.raises(InputError, match="30 of 30 images changed.*lesion_contrast is another"):
        with_markers(manifest, "random", lesion_contrast=1.0)
    broken = manifest.assign(path=manifest["path"].str.replace("class", "side"))
    with pytest.raises(InputError, match="phantom paths read"):
        load_images(broken, root=None, size=32, cache=None, lesion_contrast=2.5, verify=False)


def test_shortcut_needs_the_phantom(folder):
    refused(
        "shortcut: 'transfer' needs the phantom's markers, and .*images holds",
        grouped(folder, shortcut="transfer"),
    )


# --- masks ------------------------------------------------------------------------------------------------------


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
        (encoded(noise(1, (9, 12))), "has 12x9 pixels, other proportions than 9x12"),
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


# --- the cache --------------------------------------------------------------------------------------------------


def only_entry(cache):
    (entry,) = cache.iterdir()
    return entry


def test_cache_hit_equals_fresh_and_reads_no_file(folder, tmp_path):
    cache = tmp_path / "cache" / "deep"
    manifest = build_manifest(grouped(folder))
    fresh = load_images(manifest, root=folder, size=16, cache=None)
    first = load_images(manifest, root=folder, size=16, cache=cache)
    for file in folder.rglob("*.png"):
        file.unlink()
    hit = load_images(manifest, root=folder, size=16, cache=cache)
    assert type(first) is type(hit) is np.memmap
    assert (np.asarray(first) == fresh).all() and (np.asarray(hit) == fresh).all()
    for found in (fresh, first, hit):
        with pytest.raises(ValueError, match="read-only"):
            found[0, 0, 0] = 1
    only_entry(cache)  # no temporary file stays behind


def test_cache_key(folder, tmp_path, monkeypatch):
    manifest = build_manifest(grouped(folder))

    def entries():
        return len(list(tmp_path.joinpath("cache").iterdir()))

    def load(manifest, size=16):
        return load_images(manifest, root=folder, size=size, cache=tmp_path / "cache")

    load(manifest)
    load(manifest.assign(split="train", label="x", patient_id="y"))  # no pixel depends on these
    assert entries() == 1
    load(manifest, size=17)
    load(manifest[::-1])
    assert entries() == 3
    for number, module in enumerate((images, dicom, formats), start=4):
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(module.__file__).read_bytes() + b"\n")
        monkeypatch.setattr(module, "__file__", str(changed))
        load(manifest)
        assert entries() == number


def test_unverified_images_do_not_touch_the_cache(folder, tmp_path):
    manifest = build_manifest(grouped(folder))
    load_images(manifest, root=folder, size=16, cache=tmp_path / "cache", verify=False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an array"),
        lambda path: np.save(path, np.zeros((24, 16, 16), np.float32)),
        lambda path: np.save(path, np.zeros((23, 16, 16), np.uint8)),
        lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    ],
    ids=["cut", "empty", "text", "type", "shape", "pickle"],
)
def test_damaged_cache_is_made_anew(folder, tmp_path, damage):
    manifest = build_manifest(grouped(folder))
    fresh = np.array(load_images(manifest, root=folder, size=16, cache=tmp_path / "cache"))
    damage(only_entry(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="cached images are damaged .* made anew"):
        found = load_images(manifest, root=folder, size=16, cache=tmp_path / "cache")
        assert (np.asarray(found) == fresh).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_images(manifest, root=folder, size=16, cache=tmp_path / "cache")
        assert (np.asarray(found) == fresh).all()


def test_cache_that_cannot_be_written(folder, tmp_path):
    blocker = put(tmp_path / "file", b"")
    manifest = build_manifest(grouped(folder))
    with pytest.raises(InputError, match="cannot write the image cache.*CXR_CACHE"):
        load_images(manifest, root=folder, size=16, cache=blocker / "cache")


def test_concurrent_writers(folder, tmp_path):
    manifest = build_manifest(grouped(folder))
    fresh = load_images(manifest, root=folder, size=16, cache=None)
    results = []

    def work():
        results.append(load_images(manifest, root=folder, size=16, cache=tmp_path / "cache"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all((np.asarray(result) == fresh).all() for result in results)
    only_entry(tmp_path / "cache")


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CXR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "cxr"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "cxr"
    monkeypatch.setenv("CXR_CACHE", "~/own")
    assert default_cache() == tmp_path / "own"


def test_relative_data_and_home_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert data_root(params("images")) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert data_root(params("~/images")) == folder
    assert os.path.isabs(data_root(params("images")))


# --- real images ------------------------------------------------------------------------------------------------


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


def test_class_index_goes_by_name_and_refuses_others():
    numbers = class_index(pd.Series(["b", "a", "b"], index=[7, 3, 9]), ["a", "b"])
    assert numbers.tolist() == [1, 0, 1] and numbers.dtype == np.int32
    with pytest.raises(KeyError):
        class_index(["c"], ["a", "b"])
