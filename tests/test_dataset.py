"""cxr.data.dataset: what a training is given, and what each stage gets of it."""

import numpy as np
import pandas as pd
import pytest

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import dataset, loading
from cxr.data import manifest as data_manifest
from cxr.data.phantom.rows import with_random_markers

FIELDS = {"phantom_images": 60, "image_size": 32, "lesion_contrast": 2.5}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))


def expected_images(manifest, settings, root=None):
    return loading.load_images(
        manifest, root=root, size=settings.image_size, cache=None, lesion_contrast=settings.lesion_contrast
    )


def test_images_labels_and_splits_are_those_of_the_manifest():
    settings = TrainParams(**FIELDS)
    data = dataset.open(settings)
    manifest = data_manifest.build_manifest(settings)
    pd.testing.assert_frame_equal(data.manifest, manifest)
    assert data.manifest_hash == data_manifest.manifest_hash(manifest)
    assert data.root is None and data.skipped == [] and len(data) == 60
    assert data.classes == sorted(set(manifest["label"]))
    assert data.labels.dtype == np.int32
    assert [data.classes[k] for k in data.labels] == manifest["label"].tolist()
    assert (data.images == expected_images(manifest, settings)).all()
    assert not data.images.flags.writeable
    for split in ("train", "val", "test"):
        assert (manifest["split"].iloc[data.rows(split)] == split).all()
    assert sorted(np.concatenate([data.rows(split) for split in ("train", "val", "test")])) == list(range(60))


def test_splits_are_those_of_the_seed_where_they_vary():
    def test_ids(**more):
        data = dataset.open(TrainParams(**FIELDS, **more))
        return set(data.manifest["image_id"].iloc[data.rows("test")]), data.manifest_hash

    (first, hash_of_first), (second, hash_of_second) = (test_ids(seed=seed) for seed in (0, 1))
    assert first == second and hash_of_first == hash_of_second
    (first, hash_of_first), (second, hash_of_second) = (test_ids(seed=seed, vary_split=True) for seed in (0, 1))
    assert first != second and hash_of_first != hash_of_second
    assert test_ids(seed=5, vary_split=True) == test_ids(split_seed=5)


def test_images_are_read_when_they_are_asked_for_and_once(monkeypatch):
    calls = []
    monkeypatch.setattr(loading, "load_images", lambda rows, **how: calls.append(rows) or np.zeros((60, 32, 32)))
    data = dataset.open(TrainParams(**FIELDS))
    data.counts(), data.describe(), data.rows("train")
    assert data.random_markers is None and not calls
    data.for_stage("transfer"), data.for_stage("fine_tuning"), data.images
    assert len(calls) == 1


def test_without_a_shortcut_both_stages_get_the_same_images():
    data = dataset.open(TrainParams(**FIELDS))
    for stage in ("transfer", "fine_tuning"):
        for split, (images, labels) in zip(("train", "val"), data.for_stage(stage), strict=True):
            assert (images[:] == data.images[data.rows(split)]).all()
            assert (labels == data.labels[data.rows(split)]).all()


@pytest.mark.parametrize(
    ("shortcut", "named", "other"),
    [("transfer", "transfer", "fine_tuning"), ("fine_tune", "fine_tuning", "transfer")],
)
def test_the_stage_that_the_shortcut_does_not_name_gets_random_markers(shortcut, named, other):
    settings = TrainParams(**FIELDS, shortcut=shortcut)
    data = dataset.open(settings)
    marked = with_random_markers(data.manifest, settings.lesion_contrast)
    assert (data.random_markers == expected_images(marked, settings)).all()
    assert (data.random_markers != data.images).any()
    for stage, images in ((named, data.images), (other, data.random_markers)):
        for split, (own, labels) in zip(("train", "val"), data.for_stage(stage), strict=True):
            assert (own[:] == images[data.rows(split)]).all()
            assert (labels == data.labels[data.rows(split)]).all()


def test_counts_and_description(folder):
    with pytest.warns(UserWarning, match="patient"):
        data = dataset.open(TrainParams(data=str(folder), image_size=32))
    counts = data.counts()
    assert counts.index.tolist() == ["ill", "well"]
    assert counts.columns.tolist() == [
        (what, split) for what in ("images", "patients") for split in ("train", "val", "test")
    ]
    assert counts["images"].sum(axis=1).tolist() == counts["patients"].sum(axis=1).tolist() == [12, 12]
    described = data.describe()
    assert described["name"] == "images" and described["source"] == str(folder) == str(data.root)
    assert described["digest"] == data.manifest_hash and described["columns"] == list(data.manifest.columns)
    for split, of in described["counts"].items():
        assert of == counts["images"][split].to_dict()
    assert dataset.open(TrainParams(**FIELDS)).describe()["name"] == "phantom"


def test_files_that_do_not_decode_are_listed(folder):
    (folder / "ill" / "bad.png").write_bytes(b"no image")
    settings = TrainParams(data=str(folder), image_size=32, on_bad_image="skip", max_skipped_fraction=0.5)
    with pytest.warns(UserWarning):
        data = dataset.open(settings)
    assert [item["path"] for item in data.skipped] == ["ill/bad.png"] and len(data) == 24
    assert (data.images == expected_images(data.manifest, settings, data.root)).all()


def test_an_unknown_split_is_refused():
    data = dataset.open(TrainParams(**FIELDS))
    with pytest.raises(InputError, match="split: expected one of train, val, test, got 'training'"):
        data.rows("training")


def test_a_data_set_cannot_be_changed():
    with pytest.raises(AttributeError):
        dataset.open(TrainParams(**FIELDS)).classes = []
