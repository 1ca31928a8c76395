"""Reading and measuring the maps of one attribute run: no MLflow here, files in a folder stand for the run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.metrics import regions, similarity
from cxr.metrics.metric_table import METRICS
from cxr.report import comparison, score_summary, scoring

IDS = ["a", "b", "c", "d", "e"]
SCORED = [True, True, False, True, True]
SIZE = 16
SHA = {"before": "1" * 64, "after": "2" * 64}


@dataclass
class FolderRun:
    """A finished run whose artifacts are the files of a folder."""

    folder: Path
    run_id: str = "run"
    name: str = "a run"
    link: str = "[a run](#)"
    params: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)

    def file(self, name):
        return self.folder / name

    def has(self, name):
        return self.file(name).exists()

    def table(self, name):
        read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
        return read(self.file(name))

    def json(self, name):
        return json.loads(self.file(name).read_text())


def raw(seed):
    return np.maximum(np.random.default_rng(seed).normal(size=(len(IDS), 4, 4)), 0).astype(np.float32)


def save(path, checkpoint, seed, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "image_id": np.array(IDS[::-1]),  # rows of a file are in any order
        "class_index": np.array([0, 1, 0, 1, 0], np.int32)[::-1],
        "maps": raw(seed)[::-1],
        "checkpoint": checkpoint,
        "method": "layercam",
        "layer": "deep",
        "classes": ("x", "y"),
        "checkpoint_sha256": SHA.get(checkpoint, "3" * 64),
    }
    maps.MapSet(**{**values, **changes}).save(path)


@pytest.fixture
def attribute(tmp_path):
    images = pd.DataFrame(
        {
            "image_id": IDS,
            "patient_id": ["p0", "p1", "p2", "p3", "p3"],
            "split": "test",
            "label": ["x", "y", "x", "y", "x"],
            "explained": ["x", "y", "x", "y", "x"],
            "both_correct": SCORED,
            "scored": SCORED,
        }
    )
    images.to_parquet(tmp_path / "images.parquet")
    folder = tmp_path / "maps" / "layercam"
    for seed, checkpoint in enumerate(("before", "after", "head_1", "epoch_001", "epoch_002")):
        save(folder / f"{checkpoint}.npz", checkpoint, seed)
    tags = {
        "image_size": SIZE,
        "weights": "none",
        "images": "correct",
        "explain": "true",
        "score": "log_odds",
        "methods_coincide": "",
    }
    return FolderRun(
        tmp_path,
        "attribute-run",
        params={"architecture": "Net", "seed": "3", "target_layer": "", "layer": "deep", "grid": "4x4"},
        tags={f"cxr.{key}": str(value) for key, value in tags.items()},
    )


@pytest.fixture
def train(tmp_path):
    return FolderRun(
        tmp_path,
        "train-run",
        params={"data": "phantom", **{f"checkpoint_sha256_{key}": value for key, value in SHA.items()}},
        metrics={"auc_macro_before": 0.8, "auc_macro_after": 0.9, "seconds_before": 7.0, "n_images": 5.0},
    )


@pytest.fixture
def scored_maps(attribute, train):
    return scoring.ScoredMaps(attribute, "layercam", train=train)


def test_maps_are_joined_by_image_and_reduced_to_the_scored(scored_maps):
    before, after = scored_maps.pair()
    assert before.image_id.tolist() == after.image_id.tolist() == IDS
    np.testing.assert_array_equal(before.maps, raw(0))
    np.testing.assert_array_equal(after.maps, raw(1))
    assert scored_maps.rows.tolist() == [0, 1, 3, 4]
    assert scored_maps.scored["image_id"].tolist() == ["a", "b", "d", "e"]
    np.testing.assert_array_equal(scored_maps.keep_scored(after).maps, raw(1)[[0, 1, 3, 4]])
    np.testing.assert_array_equal(scored_maps.heads(), [raw(2)[[0, 1, 3, 4]]])
    epochs = scored_maps.epochs()
    assert list(epochs) == [1, 2]
    np.testing.assert_array_equal(epochs[2], raw(4)[[0, 1, 3, 4]])


def test_a_map_of_another_checkpoint_is_refused(scored_maps, attribute):
    save(attribute.folder / "maps/layercam/after.npz", "after", 1, checkpoint_sha256="9" * 64)
    with pytest.raises(InputError, match="made from another checkpoint"):
        scored_maps.pair()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "after"}, "holds maps of checkpoint 'after'"),
        ({"method": "gradcampp"}, "holds maps of method 'gradcampp'"),
        ({"class_index": np.array([1, 1, 0, 1, 0], np.int32)}, "explained for another class"),
        ({"image_id": np.array(["a", "b", "c", "d", "z"])}, "2 images are only in it or only in images.parquet"),
    ],
)
def test_a_head_that_holds_other_maps_is_refused(scored_maps, attribute, changes, message):
    save(attribute.folder / "maps/layercam/head_1.npz", **{"checkpoint": "head_1", "seed": 2, **changes})
    with pytest.raises(InputError, match=message):
        scored_maps.heads()


def test_params_name_the_runs_and_what_was_read(scored_maps):
    assert scored_maps.cell == {"architecture": "Net", "seed": 3, "method": "layercam"}
    assert scored_maps.params == {
        **{"architecture": "Net", "seed": "3", "target_layer": "", "layer": "deep", "grid": "4x4"},
        **{"image_size": "16", "weights": "none", "images": "correct", "explain": "true", "score": "log_odds"},
        **{
            "methods_coincide": "",
            "passes_checks": "",
            "attribute_run": "attribute-run",
            "train_run": "train-run",
        },
    }


@pytest.mark.parametrize(
    ("passes", "param", "caution"),
    [
        ([True, True], "True", ""),
        ([True, False], "False", "after fine-tuning: it is random"),
        ([False, False], "False", "before fine-tuning: it is random; after fine-tuning: it is random"),
    ],
)
def test_checks_of_the_own_method_make_the_caution(attribute, train, passes, param, caution):
    checks = pd.DataFrame({"checkpoint": ["before", "after"], "method": "layercam", "passes_checks": passes})
    checks["reason"] = np.where(passes, None, "it is random")
    other = checks.assign(method="gradcampp", passes_checks=False, reason="of another method")
    pd.concat([other, checks]).to_csv(attribute.folder / "map_checks.csv", index=False)
    scored_maps = scoring.ScoredMaps(attribute, "layercam", train=train)
    assert scored_maps.params["passes_checks"] == param and scored_maps.caution == caution


def test_regions_are_those_of_the_scored_images(scored_maps, attribute):
    assert scored_maps.regions() == {}
    masks = np.random.default_rng(5).random((5, SIZE, SIZE)) > 0.5
    regions.save(attribute.folder / "regions.npz", IDS, {"lung": masks})
    found = scored_maps.regions()
    assert list(found) == ["lung"]
    np.testing.assert_array_equal(found["lung"], masks[[0, 1, 3, 4]])


def test_the_course_compares_each_epoch_with_the_start(scored_maps):
    before, _ = scored_maps.pair()
    table = scoring.course(scored_maps, scored_maps.keep_scored(before))
    assert table["epoch"].tolist() == [1] * 4 + [2] * 4
    keep = [0, 1, 3, 4]
    expected = similarity.compare_maps(raw(0)[keep], raw(4)[keep], size=SIZE)
    for name in METRICS:
        np.testing.assert_array_equal(table.loc[table["epoch"] == 2, name], expected[name])
    assert set(table["architecture"]) == {"Net"} and table["image_id"].tolist() == ["a", "b", "d", "e"] * 2


def test_without_checkpoints_during_fine_tuning_the_course_is_empty(scored_maps, attribute):
    for path in attribute.folder.glob("maps/layercam/epoch_*.npz"):
        path.unlink()
    before, _ = scored_maps.pair()
    assert scoring.course(scored_maps, scored_maps.keep_scored(before)).empty


def test_the_multiverse_has_the_default_maps_and_each_variant(scored_maps, attribute):
    assert scoring.multiverse_table(scored_maps).empty
    own = attribute.folder / "variants" / "layercam"
    for seed, checkpoint in enumerate(("before", "after"), start=7):
        save(own / "score-logit" / f"{checkpoint}.npz", checkpoint, seed)
    layers = {"default": "deep", "score-logit": "deep", "layer-same": "deep", "score-probability": "deep"}
    (attribute.folder / "variants.json").write_text(json.dumps({"methods": ["layercam"], "layers": layers}))
    table = scoring.multiverse_table(scored_maps)
    # `layer-same` is at the layer of the default maps; `score-probability` has no maps of this method.
    assert table["variant"].unique().tolist() == ["default", "score-logit", "layer-same"]
    assert len(table) == 3 * len(IDS), "all images, not the scored ones alone"
    for variant, pair in {"default": (0, 1), "score-logit": (7, 8), "layer-same": (0, 1)}.items():
        expected = similarity.compare_maps(*map(raw, pair), size=SIZE, names=["overlap"])["overlap"]
        np.testing.assert_array_equal(table.loc[table["variant"] == variant, "overlap@image"], expected)


def test_variants_of_other_methods_are_no_variants(scored_maps, attribute):
    (attribute.folder / "variants.json").write_text(json.dumps({"methods": ["gradcampp"], "layers": {}}))
    assert scored_maps.variants() == ({}, {})


# ---------------------------------------------------------------- what a score run says


@pytest.fixture
def table(scored_maps):
    before, after = scored_maps.pair()
    values = similarity.compare_maps(before.maps, after.maps, size=SIZE, rows=scored_maps.rows)
    values |= {f"{name}_chance": np.full(4, 0.1) for name in METRICS}
    return comparison.score_table(values, scored_maps.scored, **scored_maps.cell)


def test_metrics_are_the_summary_the_performance_and_the_regions(scored_maps, table):
    located = {f"lung_{column}": np.arange(4) / 10 for column in regions.COLUMNS}
    table = table.assign(**located)
    summary = comparison.summarise(table, n_boot=20)
    where = regions.summary(table)
    found = score_summary.metrics(summary, where, scored_maps.train.metrics)
    assert next(iter(found)) == "overlap_median"
    assert summary.items() <= found.items()
    assert (found["auc_macro_before"], found["auc_macro_after"]) == (0.8, 0.9)
    assert "seconds_before" not in found and found["n_images"] == 4
    assert found["lung_energy_change"] == pytest.approx(0.15)
    assert {"lung_area", "lung_energy_before", "lung_energy_after"} <= set(found)


def test_without_regions_there_are_no_metrics_of_regions(scored_maps, table):
    where = regions.summary(table)
    assert where.empty
    summary = comparison.summarise(table, n_boot=20)
    found = score_summary.metrics(summary, where, scored_maps.train.metrics)
    assert set(found) == {*summary, "auc_macro_before", "auc_macro_after"}


def test_the_overview_has_a_row_a_metric_and_a_column_a_measured_baseline(table):
    summary = comparison.summarise(table, n_boot=20)
    found = score_summary.overview(summary)
    assert found["metric"].tolist() == list(METRICS)
    assert found.columns.tolist() == [
        *("metric", "identical maps", "median", "q25", "q75", "ci_low", "ci_high", "chance"),
    ]
    row = found.set_index("metric").loc["overlap"]
    assert row["median"] == table["overlap"].median() and row["chance"] == pytest.approx(0.1)


def test_the_headline_is_one_row_of_text(scored_maps, table):
    found = score_summary.headline(scored_maps, comparison.summarise(table, n_boot=20))
    assert len(found) == 1
    assert found.loc[0, "architecture"] == "Net" and found.loc[0, "AUC after"] == "0.900"
    assert found.loc[0, "overlap"].startswith(f"{table['overlap'].median():.3f} [")
    assert score_summary.title(scored_maps) == "Net, LayerCAM, seed 3"
