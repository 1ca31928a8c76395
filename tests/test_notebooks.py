"""The notebooks, executed for real on a tiny network: as a study, and by hand through papermill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from cxr import cli, maps, tracking
from cxr.drift import METRICS

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def run(*words, store, ok=True):
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "CXR_CACHE": f"{store}/cache",
    }
    done = subprocess.run(
        [str(BIN / words[0]), *map(str, words[1:])], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode == 0) is ok, done.stdout[-3000:] + done.stderr[-6000:]
    return done


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = tmp_path_factory.mktemp("study")
    done = run("cxr", "study", "params/smoke.yaml", "--out", store / "out", store=store)
    return store, done


@pytest.fixture
def store(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study[0]}/mlflow.db")
    tracking.connect()
    return study[0]


def only(stage, **params):
    found = [
        info
        for info in tracking.find(stage, experiment="smoke")
        if all(info.params[key] == value for key, value in params.items()) and "mlflow.parentRunId" in info.tags
    ]
    assert len(found) == 1
    return found[0]


def test_the_study_ends_with_a_table_and_a_report(study):
    store, done = study
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["CompactResNetV2", "layercam"] in [line[:2] for line in lines]
    assert ["CompactResNetV2", "gradcampp"] in [line[:2] for line in lines]
    html = (store / "out" / "report.html").read_text()
    assert "Does the evidence move under fine-tuning?" in html and html.count("data:image/png;base64") >= 3
    assert "from cxr import" not in html, "the report shows no code"
    assert "claims beside this study" in html


def test_a_second_start_does_nothing(study, store):
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    done = run("cxr", "study", "params/smoke.yaml", "--out", store / "out", store=store)
    assert "5 done already, 0 to run" in done.stdout
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


def test_the_train_run_holds_what_it_should(store):
    info = only("train")
    assert info.params["architecture"] == "CompactResNetV2" and info.params["seed"] == "0"
    for stage in ("transfer", "fine_tuned"):
        assert 0 <= info.metrics[f"auc_macro_{stage}"] <= 1
        names = ("accuracy", "balanced_accuracy", "ece", "auc_normal", "sensitivity_normal", "specificity_normal")
        assert {f"{name}_{stage}" for name in names} <= set(info.metrics)
        assert f"{stage}/val_loss" in info.metrics
        predictions = tracking.read_table(info.run_id, f"predictions_{stage}.parquet")
        np.testing.assert_allclose(predictions.filter(regex=r"^p_\d+$").sum(axis=1), 1, atol=1e-5)
        assert len(predictions) == 100
    held = set(tracking.artifacts(info.run_id))
    figures = {"contact_sheet.png", "reliability.png", "confusion_transfer.png", "confusion_fine_tuned.png"}
    assert (
        figures | {"manifest.csv", "notebook.ipynb", "parameters.yaml", "environment.json", "checkpoints/"} <= held
    )
    recorded = json.loads(tracking.fetch(info.run_id, "checkpoints.json").read_text())
    assert recorded["transfer"]["weights_sha256"] != recorded["fine_tuned"]["weights_sha256"]


def test_maps_come_from_the_checkpoints_and_the_images_of_the_train_run(store):
    info = only("attribute")
    recorded = json.loads(tracking.fetch(only("train").run_id, "checkpoints.json").read_text())
    images = tracking.read_table(info.run_id, "images.parquet")
    for method in ("layercam", "gradcampp"):
        for stage in ("transfer", "fine_tuned"):
            stack = maps.load(tracking.fetch(info.run_id, f"maps/{method}/{stage}.npz"))
            assert (stack.method, stack.stage, stack.layer) == (method, stage, "conv4_block4_preact_relu")
            assert stack.checkpoint_sha256 == recorded[stage]["sha256"]
            assert stack.image_id.tolist() == images["image_id"].tolist() and (images["split"] == "test").all()
            assert [stack.classes[k] for k in stack.class_index] == images["label"].tolist()
            assert stack.maps.shape[1:] == (4, 4)
    assert "images/" in tracking.artifacts(info.run_id), "the image grid has overlays"


def test_score_runs_share_one_set_of_metric_names(store):
    runs = [only("score", method=method) for method in ("layercam", "gradcampp")]
    for info in runs:
        table = tracking.read_table(info.run_id, "drift.parquet")
        assert set(METRICS) <= set(table.columns) and len(table) == info.metrics["n_images"]
        assert info.metrics["iou20_median"] == pytest.approx(table["iou20"].median())
        assert info.metrics["iou20_ci_low"] <= info.metrics["iou20_median"] <= info.metrics["iou20_ci_high"]
    assert {name for name in runs[0].metrics if "undefined" not in name} == set(runs[1].metrics)


def test_every_run_holds_its_executed_notebook_and_no_error(store):
    for info in tracking.find(experiment="smoke"):
        if info.stage == "study":
            continue
        notebook = json.loads(tracking.fetch(info.run_id, "notebook.ipynb").read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code)
        assert {"mlflow.source.git.commit", "cxr.fingerprint"} <= set(info.tags)


def test_by_hand_through_papermill_on_the_latest_run(store, tmp_path):
    """`-f` takes the study's own file; run ids default to the latest fitting run."""
    common = ("-f", "params/smoke.yaml", "--no-progress-bar")
    run(
        "papermill",
        "notebooks/3_score.ipynb",
        tmp_path / "3.ipynb",
        *common,
        "-p",
        "method",
        "layercam",
        store=store,
    )
    run("papermill", "notebooks/4_compare.ipynb", tmp_path / "4.ipynb", *common, store=store)
    by_hand = [
        info for info in tracking.find("score", experiment="smoke") if "mlflow.parentRunId" not in info.tags
    ]
    assert len(by_hand) == 1 and "notebook.ipynb" in tracking.artifacts(by_hand[0].run_id)
    a, b = (
        tracking.read_table(info.run_id, "drift.parquet")
        for info in (by_hand[0], only("score", method="layercam"))
    )
    pd.testing.assert_frame_equal(a, b)


def test_a_misspelt_parameter_by_hand_fails_and_says_so(store, tmp_path):
    words = ("papermill", "notebooks/3_score.ipynb", tmp_path / "3.ipynb", "--no-progress-bar")
    done = run(*words, "-p", "methud", "layercam", store=store, ok=False)
    assert "unknown parameter 'methud': did you mean 'method'?" in done.stderr


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["target_layer=conv9"], "target_layer: CompactResNetV2 has no layer 'conv9'"),
        (["target_layer=final"], "is 2x2 at image_size 64, and a map needs at least 4x4"),
        (["weights=nowhere"], "'nowhere' is none of imagenet, source and none"),
        (["data=nowhere"], "nowhere"),
        (["imagesize=64"], "unknown parameter 'imagesize': did you mean 'image_size'?"),
        (["phantom_images=many"], "phantom_images: should be a valid integer"),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(assignments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(PROJECT)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["study", "params/smoke.yaml", "--tracking-uri", store, "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--set", *assignments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not list(tmp_path.rglob("*.ipynb"))


def test_own_images_in_folders(real_cxr5, tmp_path):
    settings = ["name=real", f"data={real_cxr5}", "max_images_per_class=14", "method=[layercam]"]
    out = tmp_path / "out"
    done = run("cxr", "study", "params/smoke.yaml", "--set", *settings, "--out", out, store=tmp_path)
    assert "CompactResNetV2" in done.stdout and (out / "report.html").is_file()
