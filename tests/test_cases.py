from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr.attribution import cases, keeping, maps, thumbnails
from cxr.attribution.explaining import Explained, Variant
from cxr.core.errors import InputError
from cxr.core.params import AttributeParams, TrainParams
from cxr.data import manifest
from cxr.metrics import regions

SIDE = 32


class Stored:
    """A train run as `tracking.take` gives it: a phantom's manifest, and predictions of both checkpoints."""

    def __init__(self, folder, wrong=()):
        settings = TrainParams(phantom_images=60, image_size=SIDE)
        self.manifest = manifest.build_manifest(settings)
        manifest.write_manifest(self.manifest, folder / "manifest.csv")
        self.folder, self.wrong = folder, wrong
        self.params = {"data_root": "", "image_size": str(SIDE), "lesion_contrast": "2.5"}

    def file(self, name):
        return self.folder / name

    def table(self, name):
        table = self.manifest[["image_id", "patient_id", "split", "label"]].copy()
        right = ~table["image_id"].isin(self.wrong if "after" in name else [])
        return table.assign(predicted=table["label"].where(right, "normal"), correct=right)


class Kept:
    """A run that keeps what is logged: file names, and what JSON says."""

    def __init__(self):
        self.files, self.values = {}, {}

    def file(self, path, folder=""):
        self.files[f"{folder}/{path.name}".lstrip("/")] = path.read_bytes()

    def json(self, values, name):
        self.values[name] = values


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_CACHE", str(folder / "cache"))
        train = Stored(folder)
        sick = train.manifest.query("split == 'test' and label != 'normal'")["image_id"].iloc[0]
        train.wrong = (sick,)
        yield cases.choose(train, AttributeParams()), train, sick


def test_the_images_of_the_split_are_explained_and_those_that_both_classify_are_scored(chosen):
    found, train, wrong = chosen
    test = train.manifest[train.manifest["split"] == "test"]
    assert found.table["image_id"].tolist() == sorted(test["image_id"]) == found.image_id.tolist()
    assert found.table.loc[~found.table["scored"], "image_id"].tolist() == [wrong]
    assert found.n_scored == len(test) - 1 == found.counts()["images"].sum()
    assert found.pixels.shape == (len(test), SIDE, SIDE) and found.pixels.dtype == np.uint8 and found.size == SIDE
    assert [found.classes[number] for number in found.class_index] == found.table["label"].tolist()
    assert set(found.regions) == {"lesion", "lung", "marker"}
    assert (found.regions["lesion"].any(axis=(1, 2)) == (found.table["label"] != "normal")).all()
    assert set(found.predictions) == {"before", "after"} and (found.predictions["after"]["split"] == "test").all()


def test_another_split_and_all_images(chosen, monkeypatch, tmp_path):
    _, train, wrong = chosen
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    settings = AttributeParams(attribute_split="test", images="all", explain="predicted")
    found = cases.choose(train, settings)
    assert found.table["scored"].all()
    assert found.table.set_index("image_id").loc[wrong, "explained"] == "normal"
    val = cases.choose(train, AttributeParams(attribute_split="val"))
    assert set(val.image_id) == set(train.manifest.query("split == 'val'")["image_id"])


def test_images_that_are_shown_are_the_first_of_each_class_by_id_among_the_scored(chosen):
    found, _, _ = chosen
    shown = found.table.loc[found.shown(2)]
    assert shown["scored"].all() and shown["label"].value_counts().eq(2).all()
    for label in shown["label"].unique():
        mine = shown[shown["label"] == label]
        ids = found.table.query("scored and label == @label")["image_id"]
        assert mine["image_id"].tolist() == ids.tolist()[:2]
    assert len(found.shown(0)) == 0
    assert found.table.loc[found.checked(6), "scored"].all() and len(found.checked(6)) == 6


def map_sets(found, **values):
    rng = np.random.default_rng(0)
    made = {}
    for checkpoint in ("before", "after"):
        values = rng.random((len(found.table), 4, 4)).astype(np.float32)
        kept = keeping.Keeper(Kept(), found, layer="conv", sha256=lambda name: name * 2)
        made[checkpoint] = kept.keep(checkpoint, {"layercam": values})["layercam"]
    return made


def test_examples_are_ready_for_figures(chosen):
    found, _, _ = chosen
    sets = map_sets(found)
    sets["after"].maps[found.shown(1)[0]] = 0
    shown = list(cases.examples(found, sets, per_class=2))
    assert [example.rank for example in shown if example.label == shown[0].label] == [0, 1]
    assert [example.image_id for example in shown] == found.table.loc[found.shown(2), "image_id"].tolist()
    first = shown[0].panels
    assert list(first) == ["image", "before", "after", "outline"]
    assert first["image"].shape == first["before"].shape == first["outline"].shape == (SIDE, SIDE)
    assert first["before"].min() == 0 and first["before"].max() == 1 and np.isnan(first["after"]).all()
    assert list(cases.examples(found, sets, per_class=0)) == []


def test_maps_are_kept_as_sets_that_name_checkpoint_layer_and_class(chosen, tmp_path):
    found, _, _ = chosen
    run = Kept()
    keeper = keeping.Keeper(run, found, layer="conv", sha256=lambda name: f"hash of {name}")
    values = np.random.default_rng(0).random((len(found.table), 4, 4)).astype(np.float32)
    kept = keeper.keep("before", {"layercam": values, "occlusion": values * 2})
    keeper.keep_variants("before", {("layercam", "score-logit"): Variant(values * 3, "other")})
    names = {"maps/layercam/before.npz", "maps/occlusion/before.npz", "variants/layercam/score-logit/before.npz"}
    assert set(run.files) == names and kept["occlusion"].grid == "4x4"
    for name, scale, layer in (("maps/occlusion/before.npz", 2, "conv"), (max(names), 3, "other")):
        (tmp_path / "m.npz").write_bytes(run.files[name])
        read = maps.load(tmp_path / "m.npz")
        np.testing.assert_array_equal(read.maps, values * np.float32(scale))
        assert (read.checkpoint, read.layer, read.checkpoint_sha256) == ("before", layer, "hash of before")
        assert read.image_id.tolist() == found.image_id.tolist() and read.classes == tuple(found.classes)
        np.testing.assert_array_equal(read.class_index, found.class_index)


def test_layers_of_variants_are_told_and_missing_ones_printed(chosen, monkeypatch, capsys):
    found, _, _ = chosen
    run = Kept()
    keeper = keeping.Keeper(run, found, layer="conv", sha256=str)
    monkeypatch.setattr(keeping.targets, "target_layers", lambda model: {"penultimate": "conv", "final": "last"})
    variants = {("layercam", "layer-final"): Variant(np.zeros((1, 4, 4)), "last")}
    explained = Explained({"layercam": None, "occlusion": None}, variants, {"layers-fused": "there is one layer"})
    keeper.log_layers(SimpleNamespace(), explained)
    layers = {"layer-penultimate": "conv", "layer-final": "last", "default": "conv"}
    assert run.values["variants.json"] == {"methods": ["layercam"], "layers": layers}
    assert "no maps of their own for layers-fused: there is one layer" in capsys.readouterr().out
    run.values.clear()
    keeper.log_layers(SimpleNamespace(), Explained({"occlusion": None}, {}, {}))
    assert not run.values


def test_small_copies_and_masks_are_kept(chosen, tmp_path):
    found, _, _ = chosen
    run = Kept()
    keeping.log_images(run, found)
    assert set(run.files) == {"thumbnails.npz", "regions.npz"}
    for name, content in run.files.items():
        (tmp_path / name).write_bytes(content)
    small = thumbnails.thumbnails(tmp_path / "thumbnails.npz", found.image_id[::-1])
    np.testing.assert_array_equal(small, found.pixels[::-1])
    ids, masks = regions.load(tmp_path / "regions.npz")
    assert ids.tolist() == found.image_id.tolist()
    np.testing.assert_array_equal(masks["lesion"], found.regions["lesion"])


def test_images_are_shrunk_by_area_to_at_most_the_side():
    images = np.arange(4 * 256 * 256, dtype=np.uint32).reshape(4, 256, 256) // 1024 % 256
    small = thumbnails.shrink(images.astype(np.uint8))
    assert small.shape == (4, 128, 128) and small.dtype == np.uint8
    assert np.abs(small[:, 64, 64].astype(int) - images[:, 128, 128]).max() <= 2
    same = thumbnails.shrink(small)
    np.testing.assert_array_equal(same, small)


def test_thumbnails_come_in_the_order_asked_for(tmp_path):
    images = np.stack([np.full((2, 2), k, np.uint8) for k in range(3)])
    thumbnails.save_thumbnails(tmp_path / "t.npz", ["i", "j", "k"], images)
    assert thumbnails.thumbnails(tmp_path / "t.npz", np.array(["k", "i"]))[:, 0, 0].tolist() == [2, 0]
    with pytest.raises(InputError, match="lacks image z"):
        thumbnails.thumbnails(tmp_path / "t.npz", np.array(["z"]))


def test_empty_maps_are_counted_by_method_and_checkpoint(chosen):
    found, _, _ = chosen
    sets = map_sets(found)
    sets["after"].maps[:3] = 0
    counts = keeping.count_empty({name: {"layercam": sets[name]} for name in sets})
    n = len(found.table)
    expected = [("layercam", "before", n, 0), ("layercam", "after", n, 3)]
    assert counts.to_records(index=False).tolist() == expected
    assert keeping.empty_metrics(counts) == {"n_empty_layercam_before": 0, "n_empty_layercam_after": 3}
    assert isinstance(counts, pd.DataFrame)
