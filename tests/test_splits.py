"""cxr.data.splits: splits and limits, grouped by patient."""

import numpy as np
import pandas as pd
import pytest
from data_files import FRACTIONS, grouped, params, split_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr.core.errors import InputError
from cxr.data.manifest import (
    build_manifest,
    with_splits_of,
)
from cxr.data.splits import SPLITS, assign_splits, limit_per_class


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


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
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
@settings(max_examples=30)
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
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


def test_varied_splits_differ_by_seed_and_the_images_do_not(folder):
    options = grouped(folder, max_images_per_class=8)
    plain = build_manifest(options)
    pd.testing.assert_frame_equal(build_manifest(options, vary=0), plain)
    own = {seed: build_manifest(options, vary=seed) for seed in range(1, 4)}
    for seed, manifest in own.items():
        same = [name for name in plain if name != "split"]
        pd.testing.assert_frame_equal(manifest[same], plain[same])
        assert manifest.groupby("patient_id")["split"].nunique().max() == 1
        alone = assign_splits(
            plain["label"], plain["patient_id"], val_fraction=0.15, test_fraction=0.25, seed=seed
        )
        assert manifest["split"].tolist() == alone.tolist()
        pd.testing.assert_frame_equal(with_splits_of(plain, options, seed), manifest)
        assert with_splits_of(plain, options, seed).attrs == manifest.attrs
    test = {frozenset(rows.loc[rows["split"] == "test", "image_id"]) for rows in (plain, *own.values())}
    assert len(test) > 1, "seeds differ in their test images"
    shifted = build_manifest(grouped(folder, split_seed=4), vary=3)
    assert shifted["split"].tolist() == build_manifest(grouped(folder, split_seed=7))["split"].tolist()


def test_splits_that_the_data_give_do_not_vary(tmp_path, folder):
    files = sorted(folder.rglob("*.png"))
    rows = [f"{file},{file.parent.name},{file.name},{SPLITS[k % 3]}" for k, file in enumerate(files)]
    table = tmp_path / "given.csv"
    table.write_text("\n".join(["path,label,patient_id,split", *rows]) + "\n")
    with pytest.raises(InputError, match="vary_split: .*gives splits.*set given_splits to ignore"):
        build_manifest(params(table), vary=1)
    ignored = params(table, given_splits="ignore")
    assert build_manifest(ignored, vary=1)["split"].tolist() != build_manifest(ignored, vary=2)["split"].tolist()
