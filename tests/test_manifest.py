"""cxr.data.manifest: which images, classes, patients and hashes a manifest has, with files made here."""

import hashlib
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from data_files import (
    HEADER,
    encoded,
    grouped,
    noise,
    params,
    put,
    refused,
    rows_of,
    write_table,
)

from cxr.core.errors import InputError
from cxr.data.loading import check_images, load_images, load_regions
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
from cxr.data.phantom.rows import with_random_markers
from cxr.data.splits import SPLITS

# --- manifests ---------------------------------------------------------------------------------------------------


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
    with pytest.warns(UserWarning, match="each file is treated as a separate patient.*patient_pattern"):
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


def test_relative_data_and_home_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert data_root(params("images")) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert data_root(params("~/images")) == folder
    assert os.path.isabs(data_root(params("images")))


def test_class_index_goes_by_name_and_refuses_others():
    numbers = class_index(pd.Series(["b", "a", "b"], index=[7, 3, 9]), ["a", "b"])
    assert numbers.tolist() == [1, 0, 1] and numbers.dtype == np.int32
    with pytest.raises(KeyError):
        class_index(["c"], ["a", "b"])


# --- the shortcut ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["transfer", "fine_tune"])
def test_shortcut(stage, tmp_path):
    chosen = params(phantom_images=30, lesion_contrast=1.5, shortcut=stage)
    plain = build_manifest(params(phantom_images=30, lesion_contrast=1.5))
    by_class = build_manifest(chosen)
    at_random = with_random_markers(by_class, 1.5)
    assert by_class["path"].tolist() == [f"{path}?marker=class" for path in plain["path"]]
    assert at_random["path"].tolist() == [f"{path}?marker=random" for path in plain["path"]]
    for other in (by_class, at_random):
        same = ["image_id", "label", "patient_id", "split"]
        pd.testing.assert_frame_equal(other[same], plain[same])
    assert len(set(plain["sha256"]) | set(by_class["sha256"]) | set(at_random["sha256"])) == 90
    with pytest.raises(InputError, match="30 of 30 images changed.*lesion_contrast .now 1. or the code"):
        with_random_markers(by_class, 1.0)
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


def test_shortcut_needs_the_phantom(folder):
    refused(
        "shortcut: 'transfer' needs the markers of the phantom, but .*images holds",
        grouped(folder, shortcut="transfer"),
    )


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        (r"p\d+", "has no group"),
        ("(q)", "no patient in 24 of 24 file names"),
    ],
)
def test_bad_patient_pattern(folder, pattern, match):
    refused(match, params(folder, patient_pattern=pattern))


def test_patient_pattern_does_not_see_the_class(folder):
    refused("no patient in 24 of 24", params(folder, patient_pattern="(ill|well)"))


def test_pattern_with_a_manifest(table):
    refused("leave it empty", grouped(table))


def test_too_few_patients(folder):
    for file in (folder / "ill").glob("p00[2-5]*"):
        file.unlink()
    refused("class 'ill' has 2 patients, too few.*add images of more patients", grouped(folder))


def test_too_few_patients_after_the_limit(folder):
    refused("class 'ill' has 2 patients.*max_images_per_class", grouped(folder, max_images_per_class=3))


def with_split(choose):
    """The table with a split column: choose(i) for row i (0 to 11 are ill, two rows a patient, then well)."""
    return lambda rows: [[*HEADER, "split"], *([*row, choose(i)] for i, row in enumerate(rows))]


def with_rows(change):
    return lambda rows: [HEADER, *change(rows)]


def blank_patients(rows):
    return [[*row[:2], ""] if i in (1, 4) else row for i, row in enumerate(rows)]


# name: (from the rows of a good table to all lines of a bad one, what the message says)
TABLE_ERRORS = {
    "column twice": (lambda rows: [["path", "label", "label"], *rows], "appears twice in path, label, label"),
    "no patient": (with_rows(blank_patients), "no patient_id in line 3, 6: fill it in$"),
    "no label": (with_rows(lambda rows: [[rows[0][0], " ", "1"], *rows[1:]]), "no label in line 2: fill it in$"),
    "split not filled in": (
        with_split(lambda i: "" if i == 2 else "train"),
        "no split in line 4: .*leave the whole column out",
    ),
    "no test split": (
        with_split(lambda i: "val" if i % 12 < 4 else "train"),
        "split column has train, val: it needs train, val and test",
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


def test_read_manifest_refuses_other_files(table, tmp_path):
    with pytest.raises(InputError, match="of a manifest that cxr wrote, found path, label, patient_id"):
        read_manifest(table)
    with pytest.raises(InputError, match="cannot read the manifest"):
        read_manifest(tmp_path / "none.csv")
