"""Where images are and what is known of them: miniature copies of public sets, and every layout's edges."""

import re
import warnings
import zlib

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from PIL import Image

from cxr.core.errors import InputError
from cxr.core.files import sha256_file
from cxr.core.params import DataParams, StudyParams
from cxr.data.loading import check_images, load_regions
from cxr.data.manifest import build_manifest, data_root, extra_columns, list_images


def put(path, seed=None):
    """A small file with bytes of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = zlib.crc32(str(path).encode()) if seed is None else seed
    values = np.random.default_rng(number).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(values).save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
    return path


def params(file, data, **more):
    return StudyParams.read(PROJECT / "params" / f"{file}.yaml", {"data": str(data), **more})


def counts(manifest):
    return manifest["label"].value_counts().to_dict()


def whole_patients(manifest):
    return (manifest.groupby("patient_id")["split"].nunique() == 1).all()


# --- the four public sets -------------------------------------------------------------------------------------


@pytest.fixture
def kermany(tmp_path):
    root = tmp_path / "chest_xray"
    for split, first, n in (("train", 1, 8), ("test", 1, 4), ("val", 1900, 1)):
        for k in range(first, first + n):
            for view in range(2):
                put(root / split / "PNEUMONIA" / f"person{k}_bacteria_{10 * k + view}.jpeg")
                put(root / split / "PNEUMONIA" / f"person{k + 100}_virus_{10 * k + view}.jpeg")
                put(root / split / "NORMAL" / f"IM-{k:04d}-000{view + 1}.jpeg")
            put(root / split / "NORMAL" / f"NORMAL2-IM-{k:04d}-0001.jpeg")
        (root / split / ".DS_Store").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    return root


def test_kermany(kermany):
    settings = params("kermany", kermany)
    manifest = build_manifest(settings)
    assert counts(manifest) == {"normal": 39, "bacterial_pneumonia": 26, "viral_pneumonia": 26}
    assert whole_patients(manifest)
    # the same number in train and test counts as one patient
    assert set(manifest.loc[manifest["path"].str.contains("person1_"), "split"]).__len__() == 1
    row = manifest.set_index("path").loc["train/NORMAL/NORMAL2-IM-0003-0001.jpeg"]
    assert (row["patient_id"], row["label"]) == ("NORMAL2-IM-0003", "normal")
    check_images(manifest, data_root(settings))
    two = build_manifest(params("kermany", kermany, label_pattern="", label_map={}))
    assert counts(two) == {"NORMAL": 39, "PNEUMONIA": 52}


def test_kermanys_splits_share_patients(kermany):
    with pytest.raises(
        InputError, match=r"patients are in more than one split: IM-0001 \(test, train\).*given_splits"
    ):
        build_manifest(params("kermany", kermany, given_splits="honour"))


def test_covid_radiography(tmp_path):
    root = tmp_path / "COVID-19_Radiography_Dataset"
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for k in range(1, 7):
            put(root / name / "images" / f"{name}-{k}.png")
            put(root / name / "masks" / f"{name}-{k}.png")
        (root / f"{name}.metadata.xlsx").write_bytes(b"PK")
    (root / "README.md.txt").write_text("x")
    with pytest.warns(UserWarning, match="each file is treated as a separate patient"):
        manifest = build_manifest(params("covid-radiography", root))
    assert counts(manifest) == dict.fromkeys(("covid19", "lung_opacity", "normal", "viral_pneumonia"), 6)
    assert manifest["path"].str.contains("/images/").all()
    row = manifest.set_index("path").loc["Viral Pneumonia/images/Viral Pneumonia-3.png"]
    assert row["lung_mask"] == "Viral Pneumonia/masks/Viral Pneumonia-3.png"
    assert row["lung_mask_sha256"] == sha256_file(root / row["lung_mask"])
    check_images(manifest, root)
    lungs = load_regions(manifest, root=root, size=32)["lung"]
    assert lungs.shape == (24, 32, 32) and lungs.any(axis=(1, 2)).all()


@pytest.mark.filterwarnings("ignore:.*treated as a separate patient", "ignore:.*images have no mask")
def test_lung_masks_beside_the_images(tmp_path):
    """Also in deeper folders, of other file types, and in classes that have the name of the folder of images."""
    for name in ("images/images/a/x.jpg", "images/images/y.JPEG", "well/images/z.png", "well/images/masks/w.png"):
        put(tmp_path / name)
    for name in ("images/masks/a/x.png", "images/masks/y.png", "well/masks/other.png"):
        put(tmp_path / name)
    settings = DataParams(data=str(tmp_path), image_folder="images", lung_mask_folder="masks")
    with pytest.warns(UserWarning, match=r"2 of 4 images have no mask in a folder masks .*: well/images/masks/w"):
        found = list_images(settings, labelled=True).set_index("path")["lung_mask"]
    assert found.to_dict() == {
        "images/images/a/x.jpg": "images/masks/a/x.png",
        "images/images/y.JPEG": "images/masks/y.png",
        "well/images/z.png": "",
        "well/images/masks/w.png": "",
    }
    (tmp_path / "images").rename(tmp_path / "ill")  # without classes, a folder of this name is no class
    unlabelled = list_images(settings, labelled=False).set_index("path")["lung_mask"].to_dict()
    assert unlabelled == {re.sub("^images", "ill", k): re.sub("^images", "ill", v) for k, v in found.items()}


@pytest.mark.filterwarnings("ignore:.*treated as a separate patient")
@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"image_folder": "images", "lung_mask_folder": "lungs"}, "no image has a mask in a folder lungs"),
        ({"image_folder": "images", "lung_mask_folder": "images"}, "is the image_folder: name another"),
    ],
)
def test_lung_masks_that_are_not_there(tmp_path, more, match):
    for name in ("a/images/x.png", "a/masks/x.png", "b/images/y.png", "b/masks/y.png"):
        put(tmp_path / name)
    with pytest.raises(InputError, match=match):
        list_images(DataParams.check({"data": str(tmp_path), **more}, where="x"), labelled=True)


NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


@pytest.fixture
def nih(tmp_path):
    findings = [
        "No Finding",
        "Cardiomegaly",
        "Effusion",
        "Pneumothorax|Infiltration",
        "Cardiomegaly|Effusion",
        "Mass",
    ]
    lines = [NIH]
    for k in range(60):
        name = f"{k // 2:08d}_{k % 2:03d}.png"
        finding = findings[k // 2 % len(findings)]
        lines.append(
            f"{name},{finding},{k % 2},{k // 2},{40 + k}Y,M,{'PA' if k % 3 else 'AP'},2682,2749,0.143,0.143,"
        )
        put(tmp_path / f"images_{k % 3 + 1:03d}" / "images" / name)
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    put(tmp_path / "elsewhere" / "00000000_000.png", 1)
    return tmp_path / "Data_Entry_2017.csv"


def test_nih(nih):
    settings = params("nih-chestxray14", nih)
    match = r"20 of 60 images are left out: 10 have no label in label_map, 10 have several classes " + re.escape(
        "(not in label_map: Infiltration 10x, Mass 10x)"
    )
    with pytest.warns(UserWarning, match=match):
        manifest = build_manifest(settings)
    assert counts(manifest) == dict.fromkeys(("normal", "cardiomegaly", "effusion", "pneumothorax"), 10)
    assert whole_patients(manifest) and manifest["patient_id"].nunique() == 20
    assert "images_001/images/00000000_000.png" in set(manifest["path"])
    extra = extra_columns(settings)
    assert len(extra) == 60 and extra.loc["images_002/images/00000000_001.png", "View Position"] == "PA"
    assert list(extra) == [
        "Follow-up #",
        "Patient Age",
        "Patient Gender",
        "View Position",
        "OriginalImage[Width",
        "Height]",
        "OriginalImagePixelSpacing[x",
        "y]",
    ]


def test_priorities(nih):
    more = {"multi_label": "first_of_priority", "label_map": {"Effusion": "wet", "Cardiomegaly": "big"}}
    with pytest.warns(UserWarning, match="30 of 60 images are left out: 30 have no label"):
        assert counts(build_manifest(params("nih-chestxray14", nih, **more))) == {"wet": 20, "big": 10}
    more["label_map"] = {"Cardiomegaly": "big", "Effusion": "wet"}
    with pytest.warns(UserWarning, match="left out"):
        assert counts(build_manifest(params("nih-chestxray14", nih, **more))) == {"wet": 10, "big": 20}


def test_labels_that_become_one_class_are_one(nih):
    more = {"label_map": {"Effusion": "ill", "Cardiomegaly": "ill", "No Finding": "well"}, "multi_label": "refuse"}
    with pytest.warns(UserWarning, match="20 of 60 images are left out: 20 have no label"):
        assert counts(build_manifest(params("nih-chestxray14", nih, **more))) == {"ill": 30, "well": 10}


def test_part_of_the_archives(nih):
    for file in (nih.parent / "images_003" / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="10 of 40 files do not exist: images_[*]/images/0"):
        with pytest.warns(UserWarning, match="left out"):
            build_manifest(params("nih-chestxray14", nih))
    with pytest.warns(UserWarning, match="are left out"):
        manifest = build_manifest(params("nih-chestxray14", nih, on_bad_image="skip", max_skipped_fraction=1.0))
    assert not manifest["path"].str.startswith("images_003").any() and len(manifest) < 40


def test_ambiguous_names(nih):
    put(nih.parent / "images_003" / "images" / "00000000_000.png", 1)
    with pytest.raises(InputError, match="several files of one name: images_001/images/0.*, images_003/images/0"):
        with pytest.warns(UserWarning, match="left out"):
            build_manifest(params("nih-chestxray14", nih))


def test_four_disease(tmp_path):
    root = tmp_path / "chest_xray"
    for split, n in (("train", 6), ("val", 1), ("test", 2)):
        for k in range(n):
            put(root / split / "COVID19" / f"COVID19({k + len(split) * 10}).jpg.png")
            put(root / split / "NORMAL" / f"IM-{k + len(split) * 10:04d}-0001.jpeg")
            put(root / split / "PNEUMONIA" / f"person{k + len(split) * 10}_bacteria_4880.jpeg")
            put(root / split / "PNEUMONIA" / f"person{k + len(split) * 10}_bacteria_4881.jpeg")
            put(root / split / "TURBERCULOSIS" / f"Tuberculosis-{k + len(split) * 10}.png")
    manifest = build_manifest(params("four-disease", root))
    assert counts(manifest) == {"pneumonia": 18, "covid19": 9, "normal": 9, "tuberculosis": 9}
    assert manifest["patient_id"].nunique() == 36 and whole_patients(manifest)
    given = build_manifest(params("four-disease", root, given_splits="honour"))
    assert (given["path"].str.partition("/")[0] == given["split"]).all()


# --- folders with splits --------------------------------------------------------------------------------------


def split_folders(root, names):
    for k, split in enumerate(names):
        for c, name in enumerate(("ill", "well")):
            for n in range(8):
                put(root / split / name / f"p{k}{c}{n}_0.png")
                put(root / split / name / f"p{k}{c}{n}_1.png")
    return root


def folder(root, **more):
    return DataParams(data=str(root), patient_pattern=r"^(p\d+)_", **more)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "Testing"), ("TRAIN", "valid", "test")]
)
def test_split_folders(tmp_path, names):
    manifest = build_manifest(folder(split_folders(tmp_path, names)))
    assert (
        manifest["split"]
        == manifest["path"].str.partition("/")[0].map(dict(zip(names, ("train", "val", "test"), strict=True)))
    ).all()
    assert counts(manifest) == {"ill": 48, "well": 48}


def test_val_is_taken_from_train(tmp_path):
    root = split_folders(tmp_path, ("train", "test"))
    with pytest.warns(UserWarning, match="no val folder: 0.25 of train"):
        manifest = build_manifest(folder(root, val_fraction=0.25))
    assert manifest["split"].value_counts().to_dict() == {"test": 32, "train": 24, "val": 8}
    assert (manifest["path"].str.startswith("test/") == (manifest["split"] == "test")).all()
    assert whole_patients(manifest)
    val = manifest[manifest["split"] == "val"]
    assert counts(val) == {"ill": 4, "well": 4}
    with pytest.warns(UserWarning, match="no val folder"):
        pd.testing.assert_frame_equal(manifest, build_manifest(folder(root, val_fraction=0.25)))


def test_one_patient_cannot_be_in_train_and_val(tmp_path):
    root = split_folders(tmp_path, ("train", "test"))
    for file in (root / "train" / "ill").iterdir():
        if not file.name.startswith("p000"):
            file.unlink()
    with (
        pytest.warns(UserWarning, match="no val"),
        pytest.raises(InputError, match="'ill' has too few patients in train"),
    ):
        build_manifest(folder(root))


def test_two_folders_of_one_split(tmp_path):
    with pytest.raises(InputError, match="train and training both stand for train"):
        build_manifest(folder(split_folders(tmp_path, ("train", "training", "test"))))


def test_train_and_val_alone_are_classes(tmp_path):
    """Without a test folder nothing says that they are splits."""
    manifest = build_manifest(folder(split_folders(tmp_path, ("train", "val"))))
    assert counts(manifest) == {"train": 32, "val": 32}


def test_patients_in_the_names_of_folders(tmp_path):
    """As in CheXpert and MURA, where each study has a view1_frontal."""
    for name in ("ill", "well"):
        for k in range(6):
            for study in (1, 2):
                put(tmp_path / name / f"patient{k}{len(name)}" / f"study{study}" / "view1_frontal.png")
    with pytest.warns(UserWarning, match="24 of 24 images have the name of one in another folder of their class"):
        manifest = build_manifest(DataParams(data=str(tmp_path), patient_pattern=r"patient(\d+)"))
    assert manifest["patient_id"].nunique() == 12 and whole_patients(manifest)


def test_links_to_folders_are_followed(tmp_path):
    root = split_folders(tmp_path / "set", ("train", "val", "test"))
    put(tmp_path / "more" / "p999_0.png")
    (root / "train" / "ill" / "more").symlink_to(tmp_path / "more")
    assert "train/ill/more/p999_0.png" in set(build_manifest(folder(root))["path"])


def test_thumbnails_are_left_out_and_said(tmp_path):
    root = split_folders(tmp_path, ("train", "val", "test"))
    put(root / "train" / "ill" / "Thumbnails" / "p999_0.png")
    put(root / "train" / "@eaDir" / "p998_0.png")
    with pytest.warns(UserWarning, match="1 folders of thumbnails are left out: train/ill/Thumbnails"):
        assert len(build_manifest(folder(root))) == 96


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    files = [put(tmp_path / "pictures" / f"{k}.png") for k in range(24)]
    return pd.DataFrame(
        {
            "file": [file.name for file in files],
            "diagnosis": ["ill", "well"] * 12,
            "person": [k // 2 for k in range(24)],
            "age": [None if k == 3 else 50 + k for k in range(24)],
            "path": "another column",
        }
    )


MAPPED = {"path_column": "file", "label_column": "diagnosis", "patient_column": "person"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_any_name(tmp_path, rows, kind):
    table = tmp_path / f"list.{kind}"
    rows.to_csv(table, index=False) if kind == "csv" else rows.to_parquet(table)
    settings = DataParams(data=str(table), path_template="pictures/{}", **MAPPED)
    manifest = build_manifest(settings)
    assert len(manifest) == 24 and manifest["patient_id"].nunique() == 12
    assert set(manifest["path"]) == {f"pictures/{k}.png" for k in range(24)}
    extra = extra_columns(settings)
    assert list(extra) == ["age"] and extra.loc["pictures/3.png", "age"] == ""
    assert float(extra.loc["pictures/4.png", "age"]) == 54


def test_search_below_the_table(tmp_path, rows):
    table = tmp_path / "list.csv"
    rows.to_csv(table, index=False)
    manifest = build_manifest(DataParams(data=str(table), path_template="**/{}", **MAPPED))
    assert set(manifest["path"]) == {f"pictures/{k}.png" for k in range(24)}
    with pytest.raises(InputError, match=r"24 of 24 files do not exist.*set path_template, e\.g\."):
        build_manifest(DataParams(data=str(table), **MAPPED))


def test_table_without_patients(tmp_path, rows):
    table = tmp_path / "pictures" / "list.csv"
    rows.to_csv(table, index=False)
    named = {**MAPPED, "patient_column": ""}
    with pytest.warns(UserWarning, match="list.csv: each file is treated as a separate patient"):
        assert build_manifest(DataParams(data=str(table), **named))["patient_id"].nunique() == 24
    manifest = build_manifest(DataParams(data=str(table), patient_pattern=r"^(\d)", **named))
    assert set(manifest["patient_id"]) == set("0123456789")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_chexpert(tmp_path, kind):
    """Blank labels are left out by label_map, and the patient is in the name of a folder."""
    columns = "Path,Sex,Age,Frontal/Lateral,AP/PA,Pneumonia"
    rows = []
    for k in range(30):
        path = f"CheXpert-v1.0-small/train/patient{k // 2:05d}/study{k % 2 + 1}/view1_frontal.jpeg"
        put(tmp_path / path)
        rows.append([path, "Male", str(40 + k), "Frontal", "AP", (1.0, 0.0, -1.0, None)[k // 2 % 4]])
    frame = pd.DataFrame(rows, columns=columns.split(","))
    table = tmp_path / f"train.{kind}"
    frame.to_csv(table, index=False) if kind == "csv" else frame.to_parquet(table)
    named = {"path_column": "Path", "label_column": "Pneumonia", "patient_column": ""}
    more = {"patient_pattern": r"patient(\d+)", "label_map": {"1.0": "pneumonia", "0.0": "none"}}
    with pytest.warns(
        UserWarning,
        match=r"14 of 30 images are left out: 14 have no label .*\(not in label_map: -1.0 8x, blank 6x\)",
    ):
        manifest = build_manifest(DataParams(data=str(table), **named, **more))
    assert counts(manifest) == {"pneumonia": 8, "none": 8}
    assert manifest["patient_id"].nunique() == 8 and whole_patients(manifest)
    with pytest.raises(InputError, match="no Pneumonia in line"):
        build_manifest(DataParams(data=str(table), **named, patient_pattern=r"patient(\d+)"))


def test_given_splits_of_a_table(tmp_path, rows):
    table = tmp_path / "pictures" / "list.csv"
    rows["part"] = [("train", "val", "test")[k // 2 % 3] for k in range(24)]
    rows.to_csv(table, index=False)
    manifest = build_manifest(DataParams(data=str(table), split_column="part", **MAPPED))
    assert manifest.set_index("path").loc["4.png", "split"] == "test"
    again = build_manifest(DataParams(data=str(table), split_column="part", given_splits="ignore", **MAPPED))
    assert again["split"].value_counts()["train"] > 12
    with pytest.raises(InputError, match="no column fold"):
        build_manifest(DataParams(data=str(table), split_column="fold", **MAPPED))


def test_masks_stay_where_the_table_says(tmp_path, rows):
    rows["lung_mask"] = "pictures/" + rows["file"]
    rows.to_csv(tmp_path / "list.csv", index=False)
    settings = DataParams(data=str(tmp_path / "list.csv"), path_template="pictures/{}", **MAPPED)
    assert "lung_mask_sha256" in build_manifest(settings)
    assert list(extra_columns(settings)) == ["age"]


def test_no_table_no_extra_columns(tmp_path):
    assert extra_columns(DataParams()) is None
    assert extra_columns(folder(split_folders(tmp_path, ("train", "test")))) is None


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"multi_label": "single"}, "multi_label: single needs label_separator"),
        (
            {"multi_label": "first_of_priority", "label_separator": "|"},
            "needs the order of label_map, which is empty",
        ),
        ({"label_column": "path"}, "three different columns"),
        ({"path_column": ""}, "three different columns"),
        ({"path_template": "images/"}, "path_template: write {} once"),
        ({"path_template": "{}/x.png"}, "path_template: write {} once"),
        ({"label_map": {"a": " "}}, "neither may be empty"),
        ({"label_map": {"a": 3}}, "label_map.a: .*string"),
        ({"given_splits": "maybe"}, "given_splits: .*'honour' or 'ignore'"),
    ],
)
def test_parameters(more, match):
    with pytest.raises(InputError, match=match):
        DataParams.check(more, where="x")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"path_template": "{}"}, "path_template: it is for tables"),
        ({"label_separator": "|"}, "label_separator: it is for tables"),
        ({"only": {"view": ["PA"]}}, "only: it is for tables"),
        ({"repeated_rows": "any"}, "repeated_rows: it is for tables"),
        ({"label_pattern": "x(y)z"}, "label_pattern: 'x.y.z' finds no label in 64"),
        ({"label_pattern": "xyz"}, "label_pattern: 'xyz' has no group"),
        ({"image_folder": "pictures"}, r"below a folder 'pictures' \(image_folder\) in ill, well"),
    ],
)
def test_folders_refuse(tmp_path, more, match):
    with pytest.raises(InputError, match=match):
        build_manifest(folder(split_folders(tmp_path, ("train", "test")), **more))


def test_defaults_warn_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_manifest(folder(split_folders(tmp_path, ("train", "val", "test"))))
