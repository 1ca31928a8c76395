"""Several findings an image: miniature tables with the headers and oddities of public sets, and every rule."""

import csv
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_layouts import params, put, whole_patients

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data import multi_label
from cxr.data.checks import checklist, page
from cxr.data.manifest import build_manifest, classes, read_manifest, write_manifest
from cxr.data.phantom import cases, rendering

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
).split(",")


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def findings(manifest):
    """How many images have, have not, and may have each finding."""
    return {
        name: tuple(int((manifest[f"finding_{name}"] == value).sum()) for value in ("1", "0", ""))
        for name in multi_label.names(manifest)
    }


def quiet(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return build_manifest(settings)


# --- public sets ----------------------------------------------------------------------------------------------


def test_nih(tmp_path):
    labels = ["Effusion|Mass", "No Finding", "Mass", "Hernia|Effusion"]
    names = (
        "Atelectasis Cardiomegaly Consolidation Edema Emphysema Fibrosis Infiltration Nodule Pleural_Thickening"
    )
    labels += [*names.split(), "Pneumonia|Pneumothorax"]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    ).split(",")  # the last comma is the table's: a column without a name
    rows = []
    for k in range(140):
        name = f"{k // 2:08d}_{k % 2:03d}.png"
        put(tmp_path / f"images_{1 + k % 3:03d}" / "images" / name)
        age, sex = "058Y" if k % 9 == 0 else str(20 + k % 60), "MF"[k % 2]
        rows.append(
            [
                name,
                labels[k % len(labels)],
                k % 2,
                k // 2,
                age,
                sex,
                "PA" if k % 3 else "AP",
                2682,
                2749,
                0.1,
                0.1,
                "",
            ]
        )
    manifest = build_manifest(params("nih-multi-label", write(tmp_path / "Data_Entry_2017.csv", header, rows)))
    assert len(manifest) == 140 and whole_patients(manifest) and len(classes(manifest)) == 14
    assert findings(manifest)["effusion"] == (20, 120, 0) and findings(manifest)["hernia"] == (10, 130, 0)
    row = manifest[manifest["path"].str.endswith("00000001_001.png")].iloc[0]  # the fourth image
    assert (row["label"], row["finding_hernia"], row["finding_mass"]) == ("effusion + hernia", "1", "0")
    assert set(manifest.loc[manifest["label"] == multi_label.NONE, "finding_mass"]) == {"0"}
    assert set(manifest["group_Patient Gender"]) == {"M", "F"} and set(manifest["group_View Position"]) == {
        "PA",
        "AP",
    }
    path = tmp_path / "manifest.csv"
    write_manifest(manifest, path)
    pd.testing.assert_frame_equal(read_manifest(path), manifest)


@pytest.fixture
def chexpert(tmp_path):
    """40 patients with a frontal and a lateral view each. Cardiomegaly is uncertain in every fifth."""
    root, rows = tmp_path / "CheXpert-v1.0-small", []
    for k in range(40):
        for view in ("view1_frontal", "view2_lateral"):
            path = f"CheXpert-v1.0-small/train/patient{k:05d}/study1/{view}.jpg"
            put(tmp_path / path).rename(tmp_path / path)
            labels = dict.fromkeys(CHEXPERT[5:], "")
            labels |= {"Cardiomegaly": "-1.0" if k % 5 == 0 else "1.0" if k % 2 else "0.0"}
            labels |= {"Edema": "1.0" if k % 3 == 0 else "", "Atelectasis": "0.0" if k % 4 else "1.0"}
            labels |= {
                "Consolidation": "1.0" if k % 4 == 1 else "0.0",
                "Pleural Effusion": "1.0" if k % 4 == 2 else "",
            }
            frontal = "frontal" in view
            facts = [
                "Female" if k % 2 else "Male",
                40 + k,
                "Frontal" if frontal else "Lateral",
                "AP" if frontal else "",
            ]
            rows.append([path, *facts, *labels.values()])
    return write(root / "train.csv", CHEXPERT, rows)


@pytest.mark.parametrize(
    ("rule", "cardiomegaly"), [("ignore", (16, 16, 8)), ("zero", (16, 24, 0)), ("one", (24, 16, 0))]
)
def test_chexpert(chexpert, rule, cardiomegaly):
    manifest = build_manifest(params("chexpert", chexpert, uncertain=rule))
    assert len(manifest) == 40 and whole_patients(manifest)  # frontal views only
    assert set(manifest["patient_id"]) == {f"patient{k:05d}" for k in range(40)}
    assert findings(manifest)["cardiomegaly"] == cardiomegaly
    assert findings(manifest)["edema"] == (14, 26, 0)  # blank: not mentioned
    assert set(manifest["group_Sex"]) == {"Male", "Female"}
    truth = multi_label.truth(manifest)
    assert (
        truth.shape == (40, 5)
        and np.isnan(truth[:, classes(manifest).index("cardiomegaly")]).sum() == cardiomegaly[2]
    )


def test_chexperts_uncertain_and_blank_labels_need_a_rule(chexpert):
    with pytest.raises(
        InputError, match="Cardiomegaly has 8 labels that are uncertain.*set uncertain to zero, one or"
    ):
        build_manifest(params("chexpert", chexpert, uncertain="refuse"))
    with pytest.raises(InputError, match="Edema has 26 labels that are blank.*set blank to zero or ignore"):
        build_manifest(params("chexpert", chexpert, blank="refuse"))
    with pytest.raises(
        InputError, match=r"only: no row has 'Frontl' in Frontal/Lateral: found 'Frontal', 'Lateral'"
    ):
        build_manifest(params("chexpert", chexpert, only={"Frontal/Lateral": ["Frontl"]}))
    with pytest.raises(InputError, match="only: no column 'Frontal_Lateral': did you mean"):
        build_manifest(params("chexpert", chexpert, only={"Frontal_Lateral": ["Frontal"]}))
    with pytest.raises(InputError, match="label_columns: no column Oedema: there are"):
        build_manifest(params("chexpert", chexpert, label_columns={"Edema": "edema", "Oedema": "other"}))
    with pytest.raises(InputError, match="column Age: '40' in line 2 is no label of a finding: write 1"):
        build_manifest(params("chexpert", chexpert, label_columns={"Edema": "edema", "Age": "age"}))


def test_mimic_cxr_joined_as_its_file_says(tmp_path):
    ids = [(f"1{k:07d}", f"5{k:07d}", f"{k:08x}-aaaa") for k in range(60)]
    read = {
        "metadata": pd.DataFrame(
            [(d, s, t, ("LATERAL", "PA", "AP")[k % 3], "2544") for k, (s, t, d) in enumerate(ids)],
            columns=["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows"],
        ),
        "chexpert": pd.DataFrame(
            [
                (s, t, *["1.0" if (k + i) % 4 == 0 else "-1.0" if (k + i) % 7 == 0 else "" for i in range(5)])
                for k, (s, t, _) in enumerate(ids)
            ],
            columns=[
                "subject_id",
                "study_id",
                "Atelectasis",
                "Cardiomegaly",
                "Consolidation",
                "Edema",
                "Pleural Effusion",
            ],
        ),
        "split": pd.DataFrame(
            [(d, t, s, ("train", "validate", "test")[k // 6 % 3]) for k, (s, t, d) in enumerate(ids)],
            columns=["dicom_id", "study_id", "subject_id", "split"],
        ),
    }
    for name, table in read.items():
        table.to_csv(tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False)
    for s, t, d in ids:
        put(tmp_path / f"files/p{s[:2]}/p{s}/s{t}/{d}.jpg".replace(".jpg", ".jpeg")).rename(
            tmp_path / f"files/p{s[:2]}/p{s}/s{t}/{d}.jpg"
        )
    text = params.__globals__["PROJECT"].joinpath("params/mimic-cxr.yaml").read_text()
    code = "\n".join(
        line.removeprefix("#   ") for line in text.split("JOIN'\n")[1].split("#   JOIN")[0].splitlines()
    )
    exec(code.replace('f"mimic', f'f"{tmp_path}/mimic').replace('"table.csv"', f'"{tmp_path}/table.csv"'), {})
    manifest = build_manifest(params("mimic-cxr", tmp_path / "table.csv"))
    assert len(manifest) == 40 and set(manifest["split"]) == {"train", "val", "test"}
    assert set(manifest["group_ViewPosition"]) == {"PA", "AP"} and manifest["patient_id"].iloc[0] == "10000001"


def test_padchest(tmp_path):
    labels = [
        "['cardiomegaly', 'pleural effusion']",
        "['normal']",
        "[' infiltrates', '']",
        "['nodule', 'air trapping']",
    ]
    labels += [
        "['pneumonia', 'consolidation', 'unchanged']",
        "['atelectasis', 'alveolar pattern']",
        "['pneumothorax']",
        "",
    ]
    header = [
        "",
        "ImageID",
        "ImageDir",
        "StudyDate_DICOM",
        "StudyID",
        "PatientID",
        "PatientBirth",
        "PatientSex_DICOM",
    ]
    header += ["ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Labels", "Localizations"]
    rows = []
    for k in range(160):
        name, folder = f"{k:06d}_abc.png", k % 5
        put(tmp_path / str(folder) / name)
        view = "PA" if k % 4 else "L"
        rows.append(
            [k, name, folder, 20141010, f"s{k}", f"p{k // 2}", "1940.0", "FMO"[k % 3], "POSTEROANTERIOR", view]
        )
        rows[-1] += ["Manual review", "No", labels[k // 4 % len(labels)], "[]"]
    rows.append([160, "000160_abc.png", 0, 20141010, "s", "p9999", "", "F", "", "AP", "", "No", "nan", ""])
    put(tmp_path / "0" / "000160_abc.png")
    settings = params("padchest", write(tmp_path / "labels.csv", header, rows))
    with pytest.warns(UserWarning, match="16 of 121 images are left out: no finding is known of them"):
        manifest = build_manifest(settings)
    assert len(manifest) == 105 and whole_patients(manifest)
    assert findings(manifest)["infiltrates"] == (15, 90, 0)
    write(tmp_path / "labels.csv", header, [*rows[:-1], [*rows[-1][:-2], "cardiomegaly", ""]])
    with pytest.raises(InputError, match=r"'cardiomegaly' is no list such as \['a', 'b'\], which label_separator"):
        build_manifest(settings)


def test_vindr_cxr(tmp_path):
    header = ["image_id", "rad_id", "Aortic enlargement", "Cardiomegaly", "ILD", "Lung Opacity", "Nodule/Mass"]
    header += ["Pleural effusion", "Pleural thickening", "Pulmonary fibrosis", "Other diseases", "No finding"]
    rows = []
    for k in range(96):
        put(tmp_path / "train" / f"{k:032x}.png").rename(tmp_path / "train" / f"{k:032x}.dicom")
        for reader in range(3):  # of three readers, k % 4 see finding k // 4 % 8
            seen = ["1" if i == k // 4 % 8 and reader < k % 4 else "0" for i in range(8)]
            rows.append([f"{k:032x}", f"R{reader}", *seen, "0", "0" if "1" in seen else "1"])
    table = write(tmp_path / "annotations" / "image_labels_train.csv", header, rows)
    manifest = quiet(params("vindr-cxr", table))
    assert len(manifest) == 96 and manifest["patient_id"].is_unique
    assert sum(found[0] for found in findings(manifest).values()) == 48
    anyone = quiet(params("vindr-cxr", table, repeated_rows="any"))
    assert sum(found[0] for found in findings(anyone).values()) == 72
    with pytest.raises(InputError, match=r"listed more than once.*repeated_rows: any or majority"):
        quiet(params("vindr-cxr", table, repeated_rows="refuse"))


def test_rsna_rows_of_one_image_have_one_class(tmp_path):
    names = ["Normal", "Lung Opacity", "No Lung Opacity / Not Normal"]
    rows = [[f"id{k:04d}", names[k % 3]] for k in range(60) for _ in range(1 + k % 2)]  # a row a box
    for k in range(60):
        put(tmp_path / "stage_2_train_images" / f"id{k:04d}.png").rename(
            tmp_path / "stage_2_train_images" / f"id{k:04d}.dcm"
        )
    table = write(tmp_path / "stage_2_detailed_class_info.csv", ["patientId", "class"], rows)
    manifest = build_manifest(params("rsna-pneumonia", table))
    assert manifest["label"].value_counts().to_dict() == {
        "normal": 20,
        "lung_opacity": 20,
        "other_abnormality": 20,
    }
    assert manifest["patient_id"].iloc[0] == "id0000" and not multi_label.columns(manifest)
    write(table, ["patientId", "class"], [*rows, ["id0000", "Lung Opacity"]])
    with pytest.raises(InputError, match=r"rows of one file differ in label: stage_2_train_images/id0000.dcm"):
        build_manifest(params("rsna-pneumonia", table))


def test_shenzhen(tmp_path):
    for k in range(1, 41):
        put(tmp_path / "CXR_png" / f"CHNCXR_{k:04d}_{int(k > 20)}.png")
        (tmp_path / "ClinicalReadings").mkdir(exist_ok=True)
        (tmp_path / "ClinicalReadings" / f"CHNCXR_{k:04d}_{int(k > 20)}.txt").write_text("male 45yrs\nnormal")
    (tmp_path / "CXR_png" / "Thumbs.db").write_bytes(b"x")
    manifest = build_manifest(params("shenzhen", tmp_path / "CXR_png"))
    assert manifest["label"].value_counts().to_dict() == {"normal": 20, "tuberculosis": 20}
    assert manifest["patient_id"].iloc[0] == "0001"


# --- rules ----------------------------------------------------------------------------------------------------


def settings(table, **more):
    given = {"task": "multi_label", "label_separator": "|", "label_map": {"a": "a", "b": "b"}} | more
    return DataParams(data=str(table), **given)


@pytest.fixture
def table(tmp_path):
    """60 images, each of its own patient: a third with a, a third with a and b, a third with neither."""
    for k in range(60):
        put(tmp_path / f"{k:02d}.png")
    rows = [[f"{k:02d}.png", ("a", "b|a", "c")[k % 3], f"p{k}"] for k in range(60)]
    return write(tmp_path / "table.csv", ["path", "label", "patient_id"], rows)


def test_every_split_has_images_with_and_without_each_finding(table):
    manifest = build_manifest(settings(table))
    assert findings(manifest) == {"a": (40, 20, 0), "b": (20, 40, 0)}
    for split, rows in manifest.groupby("split"):
        share = len(rows) / 60
        assert findings(rows)["b"][0] == pytest.approx(20 * share, abs=1.5), split
        assert min(findings(rows)["a"][:2]) > 0
    assert set(manifest["label"]) == {"a", "a + b", multi_label.NONE}
    by_class = multi_label.by_class(manifest)
    assert by_class["label"].value_counts().to_dict() == {"a": 40, "b": 20, multi_label.NONE: 20}
    few = build_manifest(settings(table, max_images_per_class=15))
    assert (
        findings(few)["b"][0] == 15
        and findings(few)["a"][0] >= 15
        and (few["label"] == multi_label.NONE).sum() == 15
    )


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (
            {"label_map": {"a": "a", "c": "a"}},
            "needs two findings or more, got a: for one, set task to single_label",
        ),
        ({"label_map": {"a": "a", "z": "b"}}, "label_map has z, but no image has this label: found a, b, c"),
        ({"label_map": {"a": "a", "b": "a", "c": "b"}, "split_seed": 0}, None),
    ],
)
def test_findings_that_cannot_be_learned_are_refused(table, more, match):
    if match is None:
        assert findings(build_manifest(settings(table, **more))) == {"a": (40, 20, 0), "b": (20, 40, 0)}
        return
    with pytest.raises(InputError, match=match):
        build_manifest(settings(table, **more))


def test_a_finding_that_all_images_have_is_refused(tmp_path, table):
    rows = [[f"{k:02d}.png", "a|b" if k % 2 else "a", f"p{k}"] for k in range(60)]
    write(table, ["path", "label", "patient_id"], rows)
    with pytest.raises(
        InputError, match="finding 'a': no image is known to be without it, so nothing can be learned"
    ):
        build_manifest(settings(table))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"multi_label": "single"}, "task: multi_label keeps them: remove multi_label"),
        ({"label_columns": {"a": "a"}}, "label_columns: .*leave label_map and label_separator empty"),
        ({"label_map": {}}, "task: multi_label needs the names of the findings"),
        ({"data": "phantom", "shortcut": "transfer", "label_map": {}}, "shortcut: its marker shows one class"),
        ({"task": "single_label", "label_columns": {"a": "a"}}, "label_columns: .*set task to multi_label"),
    ],
)
def test_contradicting_parameters_are_refused(more, match):
    given = {"data": "x.csv", "task": "multi_label", "label_separator": "|", "label_map": {"a": "a"}} | more
    with pytest.raises(ValueError, match=match):
        DataParams(**given)


def test_folders_of_classes_have_one_class_an_image(tmp_path):
    for k in range(12):
        put(tmp_path / "ab"[k % 2] / f"{k}.png")
    with pytest.raises(InputError, match=r"task: multi_label needs a table, but .* is read as folders of classes"):
        build_manifest(settings(tmp_path, label_separator=""))


VOTES = st.lists(st.lists(st.sampled_from(["1", "0", ""]), min_size=1, max_size=5), min_size=1, max_size=6)


@given(VOTES)
def test_rows_of_one_file_are_joined_by_their_votes(files):
    frame = pd.DataFrame(
        [(f"{k}", "", str(k), vote) for k, votes in enumerate(files) for vote in votes],
        columns=["path", "label", "line", "finding_a"],
    )
    for rule in ("any", "majority"):
        merged = multi_label.merge_rows(frame, rule, where="table")
        expected = []
        for votes in files:
            known = [vote for vote in votes if vote]
            has = "1" in known if rule == "any" else known.count("1") > known.count("0")
            expected.append("" if not known else "1" if has else "0")
        assert merged["finding_a"].tolist() == expected and merged["path"].tolist() == [
            str(k) for k in range(len(files))
        ]


# --- the phantom ----------------------------------------------------------------------------------------------


def test_cxr_check_counts_images_once_and_findings_each(table):
    report = checklist.run(settings(table), full=True)
    assert (report.images, report.patients, report.classes) == (60, 60, "with 2 findings")
    counts = report.counts.set_index("class").filter(like=" images").sum(axis=1)
    assert counts.to_dict() == {"a": 40, "b": 20, multi_label.NONE: 20}
    assert "60 images of 60 patients with 2 findings" in page.lines(report)
    assert not report.of("error")


def test_the_phantom_draws_the_findings_of_each_patient():
    manifest = build_manifest(DataParams(task="multi_label", phantom_images=600))
    assert classes(manifest) == list(cases.FINDINGS)
    shares = {name: found[0] / 600 for name, found in findings(manifest).items()}
    assert all(0.25 < share < 0.45 for share in shares.values()), shares
    assert manifest.groupby("patient_id")["label"].nunique().max() == 1 and whole_patients(manifest)
    several = manifest[manifest["label"].str.count(r"\+") == 1]
    assert len(several) > 100  # independent: two of four with 4 choose 2 pairs
    pairs = several["label"].value_counts()
    assert len(pairs) == 6


def test_lesions_add_up_and_nothing_else_changes():
    index = next(k for k in range(200) if len(cases.findings(3, cases.identity(3, k)[1])) == 2)
    both = rendering.render(3, index, 96, several=True)
    plain = rendering.render(3, index, 96, several=True, lesion_contrast=0)
    assert " + " in both.label and both.lesion_masks.any(axis=(1, 2)).sum() == 2
    changed = both.image.astype(int) - plain.image
    outside = ~both.lesion_mask & (np.abs(changed) > 40)
    assert outside.mean() < 0.01 and np.abs(changed)[both.lesion_mask].mean() > 10
    one = rendering.render(3, index, 96)
    np.testing.assert_array_equal(one.lung_mask, both.lung_mask)
    np.testing.assert_array_equal(one.marker_mask, both.marker_mask)
