"""cxr.data.groups: which columns of a table become groups, and which are refused."""

import numpy as np
import pandas as pd
import pytest
from data_files import list_files, params, refused, rows_of, write_folder, write_table
from hypothesis import given
from hypothesis import strategies as st

from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.core.params import DataParams, DriftParams
from cxr.data import groups
from cxr.data.checks import checklist
from cxr.data.manifest import COLUMNS, build_manifest, list_images, manifest_hash, read_manifest, write_manifest
from cxr.training.stages import prediction_table

AGES = ["17", "39", "40", "59", "60", "", "81", "40"]


def with_columns(folder):
    """A table of 24 images of 12 patients: each patient has one sex, and each image an age and a name."""
    rows = rows_of(list_files(folder))
    more = [[*row, "FM"[int(row[2]) % 2], AGES[k % 8], f"name {k}"] for k, row in enumerate(rows)]
    return write_table(
        folder.parent / "more.csv", more, columns=("path", "label", "patient_id", "sex", "age", "name")
    )


@pytest.fixture
def table(tmp_path):
    return with_columns(write_folder(tmp_path / "images"))


def test_declared_columns_and_no_others_are_in_the_manifest(table, tmp_path):
    settings = params(table, groups=["label", "sex", "age"], bands={"age": [40, 60]})
    manifest = build_manifest(settings)
    assert list(manifest.columns) == [*COLUMNS, "group_sex", "group_age"]
    names = {"17": "under 40", "39": "under 40", "40": "40 to 59", "59": "40 to 59", "": ""}
    told = names | {"60": "60 and over", "81": "60 and over"}
    listed = pd.read_csv(table, dtype=str, keep_default_na=False).set_index("path")
    assert (manifest["group_sex"] == listed.loc[manifest["path"], "sex"].to_numpy()).all()
    assert manifest["group_age"].tolist() == [told[age] for age in listed.loc[manifest["path"], "age"]]
    write_manifest(manifest, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.csv"), manifest)
    assert "name 3" not in (tmp_path / "manifest.csv").read_text()
    assert list(list_images(params(table), labelled=True).columns) == list(COLUMNS)


def test_the_default_changes_no_manifest(table):
    plain = build_manifest(params(table))
    assert list(plain.columns) == list(COLUMNS)
    assert manifest_hash(plain) == manifest_hash(build_manifest(params(table, groups=[])))
    assert manifest_hash(plain) != manifest_hash(build_manifest(params(table, groups=["sex"])))


def test_values_travel_into_predictions_and_images(table):
    manifest = build_manifest(params(table, groups=["sex"]))
    p = np.tile(np.float32([0.75, 0.25]), (len(manifest), 1))
    predictions = prediction_table(manifest.iloc[::-1], p, ["ill", "well"])
    assert predictions["group_sex"].tolist() == manifest["group_sex"].tolist()[::-1]
    images = maps.select(predictions, predictions, images="correct", explain="true")
    assert images["group_sex"].tolist() == manifest["group_sex"].tolist()
    assert images.columns[-1] == "group_sex" and images["scored"].sum() == 12


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"groups": ["label", "sxe"]}, "groups: no column 'sxe': did you mean sex"),
        ({"groups": ["patient_id"]}, "groups: no column 'patient_id'"),
        ({"groups": ["name"], "bands": {"name": [3]}}, "bands: the column name has 24 values that are not"),
    ],
)
def test_refused(table, more, match):
    refused(match, params(table, **more))
    with pytest.raises(InputError, match=match):
        checklist.run(params(table, **more))


def test_columns_of_many_values_are_refused(tmp_path):
    def column(values):
        return pd.DataFrame({"x": values, "line": [str(k) for k in range(len(values))]})

    def made(values, **more):
        return groups.of_table(column(values), DataParams(groups=["x"], **more), among=["x"], where="t.csv")

    numbers = [str(k) for k in range(13)]
    with pytest.raises(InputError, match=r"t.csv: groups: the column x has 13 .* \(0 to 12\).*bands: {x: \[6\]}"):
        made(numbers)
    assert made(numbers[:12])["group_x"].tolist() == numbers[:12]
    assert set(made(numbers, bands={"x": [6]})["group_x"]) == {"under 6", "6 and over"}
    texts = [f"site {k}" for k in range(51)]
    assert len(made(texts[:50])) == 50
    with pytest.raises(InputError, match="51 different values, more than 50, and 0 of them have 10 images"):
        made(texts)
    pooled = made([*texts, *["large"] * 10, *["small"] * 9, ""])["group_x"]
    assert pooled.value_counts().to_dict() == {"other values": 51 + 9, "large": 10, "": 1}
    assert made([" a  b ", "a b"])["group_x"].tolist() == ["a b", "a b"]


@pytest.mark.parametrize("data", ["phantom", "folder"])
def test_folders_and_the_phantom_have_labels_only(data, tmp_path):
    data = data if data == "phantom" else write_folder(tmp_path / "images")
    refused("groups: .* has no column sex, only label: .*give a table", params(data, groups=["label", "sex"]))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"groups": ["sex", "sex"]}, "groups: list every entry once"),
        ({"bands": {"age": [40]}}, "'age' is no column of numbers in groups"),
        ({"bands": {"label": [40]}}, "'label' is no column of numbers in groups"),
        ({"groups": ["age"], "bands": {"age": [60, 40]}}, "bands: age: give ascending numbers"),
        ({"groups": ["age"], "bands": {"age": []}}, "at least one"),
    ],
)
def test_parameters(more, match):
    with pytest.raises(InputError, match=match):
        DataParams.check(more, where="x")


def test_two_models_are_not_compared_by_group():
    with pytest.raises(InputError, match="groups: only a study compares groups"):
        DriftParams.check({"groups": ["sex"]}, where="x")


@given(
    st.lists(st.integers(-50, 150), min_size=1, max_size=30),
    st.lists(st.integers(0, 100), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_a_number_is_in_the_band_that_its_name_says(numbers, edges):
    for number, name in zip(numbers, groups.banded(pd.Series(numbers, dtype=float), edges), strict=True):
        if name.startswith("under"):
            assert number < int(name.split()[1])
        elif name.endswith("over"):
            assert number >= int(name.split()[0])
        else:
            low, high = (int(word) for word in name.split(" to "))
            assert low <= number <= high


def test_names_of_bands_and_their_order():
    assert groups.band_names([0.5, 1], whole=False) == ["under 0.5", "0.5 to under 1", "1 and over"]
    assert groups.banded(pd.Series([39.5, 40.0, np.nan]), [40]) == ["under 40", "40 and over", ""]
    bands = ["under 5", "5 to 39", "40 to 59", "100 and over"]
    assert groups.ordered(["b", *reversed(bands), "a", "b"]) == [*bands, "a", "b"]
    assert groups.ordered(["10", "9", "-1"]) == ["-1", "9", "10"]
