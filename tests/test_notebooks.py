"""The notebooks, executed for real on a tiny network: as a study, and by hand through papermill."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pytest
from commands import cxr, papermill
from conftest import PROJECT

from cxr import tracking
from cxr.attribution import maps, thumbnails
from cxr.cli import main
from cxr.metrics import baselines, regions, zones
from cxr.metrics.metric_table import METRICS
from cxr.report import questions
from cxr.report.consistency import ALL

pytestmark = pytest.mark.slow
TWO = ("--set", "architecture=[CompactResNetV2,CompactInception]", "method=[layercam,gradcampp]", "jobs=2")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = tmp_path_factory.mktemp("study")
    return store, cxr("study", "params/smoke.yaml", *TWO, "--out", store / "out", store=store)


@pytest.fixture
def store(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study[0]}/mlflow.db")
    tracking.connect()
    return study[0]


def only(stage, architecture="CompactResNetV2", **params):
    params |= {"architecture": architecture} if architecture else {}
    found = [
        info
        for info in tracking.find(stage, experiment="smoke")
        if all(info.params[key] == value for key, value in params.items()) and "mlflow.parentRunId" in info.tags
    ]
    assert len(found) == 1
    return found[0]


def test_the_study_ends_with_a_table_and_a_report(study, store):
    _, done = study
    lines = [line.removeprefix("! ").split() for line in done.stdout.splitlines()]  # marked: the maps fail
    assert ["CompactResNetV2", "layercam"] in [line[:2] for line in lines]
    assert ["CompactResNetV2", "gradcampp"] in [line[:2] for line in lines]
    html = (store / "out" / "report.html").read_text()
    assert "Does the evidence move under fine-tuning?" in html and html.count("data:image/png;base64") >= 12
    assert "from cxr import" not in html, "the report shows no code"
    assert (
        "What this study says" in html
        and "each trained once: results describe these checkpoints only, not another training" in html
    )
    assert f"runs/{only('score', method='layercam').run_id}" in html, "numbers are linked to their runs"
    widths = [len(re.findall(r"<th\b", head)) for head in re.findall(r"<thead>.*?</thead>", html, re.DOTALL)]
    assert widths and max(widths) <= 8


def test_the_report_opens_with_the_answer_and_the_run_holds_it(study, store):
    html = (store / "out" / "report.html").read_text()
    compare = only("compare", architecture=None)
    sentences = compare.file("answer.txt").read_text(encoding="utf-8").splitlines()
    assert compare.tags["cxr.synthetic"] == "yes" and compare.tags["cxr.answer"] == " ".join(sentences)
    headings = (f">{text}<a class" for text in ("What this study says", "The paper's claims", "Appendix"))
    places = [html.index(text) for text in ("SYNTHETIC DATA", *map(escape, sentences), *headings)]
    assert places == sorted(places)
    contents = re.search(r"<nav.*?</nav>", html, re.DOTALL)[0]
    links = re.findall(r'href="#([^"]+)"', contents)
    assert len(links) >= 15 and all(html.count(f'id="{link}"') == 1 for link in links)
    assert compare.has("first_picture.png")


def test_a_second_start_does_nothing(study, store):
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    done = cxr("study", "params/smoke.yaml", *TWO, "--out", store / "out", store=store)
    assert "9 done already, 0 to run" in done.stdout
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


@pytest.mark.skipif(browser.find() is None, reason=f"no browser: none of {', '.join(browser.NAMES)} is installed")
def test_a_person_finds_runs_maps_reports_and_models_in_the_ui(store):
    path = PROJECT / "tests" / "benchmarks" / "ui_screenshots.py"
    spec = importlib.util.spec_from_file_location("ui_screenshots", path)
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    with screenshots.server(tracking.resolve()) as address:
        assert screenshots.look(address, screenshots.pages("smoke")) == {}


def test_the_train_run_holds_what_it_should(store):
    info = only("train")
    assert info.params["architecture"] == "CompactResNetV2" and info.params["seed"] == "0"
    for checkpoint in ("before", "after", "continued"):
        assert 0 <= info.metrics[f"auc_macro_{checkpoint}"] <= 1
        names = ("accuracy", "balanced_accuracy", "ece", "auc_normal", "sensitivity_normal", "specificity_normal")
        assert {f"{name}_{checkpoint}" for name in names} <= set(info.metrics)
        assert {"transfer/val_loss", "fine_tuning/val_loss"} <= set(info.metrics)
        predictions = info.table(f"predictions_{checkpoint}.parquet")
        np.testing.assert_allclose(predictions.filter(regex=r"^p_\d+$").sum(axis=1), 1, atol=1e-5)
        assert len(predictions) == 100
    held = set(info.artifacts())
    figures = {"contact_sheet.png", "reliability.png", "confusion_before.png", "confusion_after.png"}
    assert (
        figures | {"manifest.csv", "notebook.ipynb", "parameters.yaml", "environment.json", "checkpoints/"} <= held
    )
    recorded = info.json("checkpoints.json")
    assert recorded["before"]["weights_sha256"] != recorded["after"]["weights_sha256"]
    kept = {path.name for path in info.file("checkpoints").iterdir()}
    assert kept == {
        *("before.keras", "after.keras", "continued.keras", "heads.npz", "epoch_001.keras", "epoch_002.keras"),
        "MLmodel",
    }
    course = info.table("course.parquet")
    assert course["epoch"].tolist() == [0, 1, 2]
    assert course["auc_macro"].iloc[0] == pytest.approx(info.metrics["auc_macro_before"])


def test_maps_come_from_the_checkpoints_and_the_images_of_the_train_run(store):
    info = only("attribute")
    recorded = only("train").json("checkpoints.json")
    images = info.table("images.parquet")
    for method in ("layercam", "gradcampp"):
        for checkpoint in ("before", "after", "continued"):
            map_set = maps.load(info.file(f"maps/{method}/{checkpoint}.npz"))
            assert (map_set.method, map_set.checkpoint, map_set.layer) == (
                method,
                checkpoint,
                "conv4_block4_preact_relu",
            )
            assert map_set.checkpoint_sha256 == recorded[checkpoint]["sha256"]
            assert map_set.image_id.tolist() == images["image_id"].tolist() and (images["split"] == "test").all()
            assert [map_set.classes[k] for k in map_set.class_index] == images["label"].tolist()
            assert map_set.maps.shape[1:] == (4, 4)
    assert "images/" in info.artifacts(), "the image grid has overlays"
    ids, masks = regions.load(info.file("regions.npz"))
    assert ids.tolist() == images["image_id"].tolist() and set(masks) == {"lesion", "lung", "marker"}
    assert (masks["lesion"].any(axis=(1, 2)) == (images["label"] != "normal")).all()
    small = thumbnails.thumbnails(info.file("thumbnails.npz"), ids[:2])
    assert small.shape == (2, 64, 64) and small.std() > 10


def test_variants_of_the_default_are_other_maps_of_the_same_images(store):
    info = only("attribute")
    stored = info.json("variants.json")
    default = maps.load(info.file("maps/gradcampp/before.npz"))
    folder = info.file("variants/gradcampp")
    found = {path.name for path in folder.iterdir()}
    assert {"score-logit", "score-probability", "layer-penultimate_cut", "layer-shallower"} <= found
    for name in found:
        map_set = maps.load(folder / name / "before.npz")
        assert map_set.image_id.tolist() == default.image_id.tolist() and map_set.layer == stored["layers"][name]
        assert map_set.maps.shape != default.maps.shape or not np.allclose(map_set.maps, default.maps)


def test_maps_are_tested_against_the_model(store):
    table = only("attribute").table("map_checks.csv")
    assert sorted(zip(table["checkpoint"], table["method"], strict=True)) == [
        (checkpoint, method) for checkpoint in ("after", "before") for method in ("gradcampp", "layercam")
    ]
    assert (table["passes_checks"] == (table["reason"].isna())).all() and (table["n_images"] <= 4).all()
    for method in ("layercam", "gradcampp"):
        passes_checks = table.loc[table["method"] == method, "passes_checks"].all()
        assert only("score", method=method).params["passes_checks"] == str(passes_checks)


def test_the_comparison_judges_every_claim(store):
    info = only("compare", architecture=None)
    claims = info.table("claims.csv")
    assert len(claims) == 6 and set(claims["verdict"]) <= {"supported", "contradicted", "fragile", "cannot tell"}
    assert (
        claims.loc[claims["claim"].str.contains("depends on the architecture"), "verdict"].item() == "cannot tell"
    )
    asked = info.table("questions.csv")
    assert len(asked) == 9 and set(asked["answer"]) <= set(questions.ANSWERS)
    assert info.tags["cxr.answer.9"] == f"{asked['answer'].iloc[8]}: Do the maps pass their checks?"
    held = set(info.artifacts())
    tables = {
        "summary.csv",
        "pairs.csv",
        "paired_tests.csv",
        "interaction.csv",
        "analyses.parquet",
        "multiverse.csv",
    }
    tables |= {"regions.csv", "course.csv", "settled.csv", "sensitivity.csv", "map_checks.csv"}
    tables |= {"answers.csv", "groups.csv", "groups_differences.csv", "consistency.csv", "zones.csv"}
    figures = {"drift.png", "specification_curve_layercam.png", "regions.png", "course.png"}
    figures |= {"answers.png", "groups.png", "consistency.png", "consistency_course.png", "zones.png"}
    assert tables | figures <= held and "examples/" in held
    analyses = info.table("analyses.parquet")
    default = analyses[analyses["is_default"] & (analyses["method"] == "layercam")]
    for architecture, value in default.set_index("architecture")["value"].items():
        rows = only("score", architecture, method="layercam").table("multiverse.parquet")
        medians = rows[rows["variant"] == "default"][["overlap@image", "overlap_two_patients@image"]].median()
        assert value == pytest.approx(baselines.corrected(*medians))


def test_score_runs_share_one_set_of_metric_names(store):
    runs = [only("score", method=method) for method in ("layercam", "gradcampp")]
    for info in runs:
        table = info.table("drift.parquet")
        assert set(METRICS) <= set(table.columns) and len(table) == info.metrics["n_images"]
        assert info.metrics["overlap_median"] == pytest.approx(table["overlap"].median())
        assert info.metrics["overlap_ci_low"] <= info.metrics["overlap_median"] <= info.metrics["overlap_ci_high"]
        for level in ("chance", "two_patients", "two_heads", "more_training"):
            assert info.metrics[f"overlap_{level}_median"] == pytest.approx(table[f"overlap_{level}"].median())
        assert info.metrics["lesion_energy_change"] == pytest.approx(
            table["lesion_energy_change"].mean(), abs=1e-9
        )
        course = info.table("course.parquet")
        assert set(course["epoch"]) == {1, 2} and len(course) == 2 * len(table)
        assert {"multiverse.parquet", "drift_by_class.png"} <= set(info.artifacts())
        chest = info.table("zones.parquet")
        assert chest["image_id"].tolist() == table["image_id"].tolist()
        shares = sum(chest[f"{zone}_energy_after"] for zone in zones.ZONES)
        np.testing.assert_allclose(shares[~np.isnan(table["overlap"])], 1)
        answered = info.table("answers.parquet").set_index("image_id").loc[table["image_id"]]
        assert answered["overlap"].tolist() == pytest.approx(table["overlap"].tolist(), nan_ok=True)
        agreement = info.table("consistency.parquet")
        assert set(agreement["checkpoint"]) == {"before", "epoch_001", "epoch_002", "after"}
    assert {name for name in runs[0].metrics if "undefined" not in name} == set(runs[1].metrics)


def test_cxr_drift_measures_the_same_between_the_checkpoints_as_the_study(store, tmp_path):
    train = only("train")
    a, b = (train.file(f"checkpoints/{checkpoint}.keras") for checkpoint in ("before", "after"))
    words = ["--split", "test", "--images", "all", "--draws", "1", "--n-boot", "100", "--name", "smoke-drift"]
    words += ["--method", "gradcampp,layercam", "--set", "phantom_images=100", "--out", tmp_path / "d.parquet"]
    cxr("drift", a, b, "phantom", *words, store=store)
    (info,) = tracking.find("drift", experiment="smoke-drift")
    table = pd.read_parquet(tmp_path / "d.parquet")
    assert info.params["layer"] == only("attribute").params["layer"]
    for method, prefix in (("gradcampp", ""), ("layercam", "layercam/")):
        study = only("score", method=method)
        theirs = study.table("drift.parquet")
        ours = table[table["method"] == method].reset_index(drop=True)
        names = [f"{metric}{level}" for metric in METRICS for level in ("", "_two_patients", "_chance")]
        names += ["image_id", "patient_id", "explained", "empty_before", "empty_after"]
        # up to rounding, as another number of threads computes
        pd.testing.assert_frame_equal(ours[names], theirs[names], rtol=1e-3, atol=1e-3)
        same = {name for name in study.metrics if "two_heads" not in name and f"{prefix}{name}" in info.metrics}
        same -= {"peak_memory_mib"}
        assert {
            "overlap_median",
            "overlap_ci_low",
            "overlap_corrected_median",
            "pearson_chance_median",
            "n_scored",
        } <= same
        assert {name: info.metrics[f"{prefix}{name}"] for name in same} == pytest.approx(
            {name: study.metrics[name] for name in same}, rel=1e-3, abs=1e-3
        )
        in_chest = info.table("zones.csv").set_index(["label", "method", "region"]).loc[ALL, method]
        for when in ("before", "after"):
            found = study.table("zones.parquet")[[f"{zone}_energy_{when}" for zone in zones.ZONES]].mean()
            assert in_chest[f"energy_{when}"].tolist() == pytest.approx(found.tolist(), abs=1e-3)
    assert info.metrics["auc_macro_before"] == pytest.approx(train.metrics["auc_macro_before"])
    assert "zones.png" in info.artifacts() and "zones of the chest" in info.file("report.html").read_text()


def test_every_run_holds_its_executed_notebook_and_no_error(store):
    for info in tracking.find(experiment="smoke"):
        if info.stage == "study":
            continue
        notebook = info.json("notebook.ipynb")
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code)
        assert {"mlflow.source.git.commit", "cxr.fingerprint"} <= set(info.tags)


def scored_by_hand(architecture):
    return [
        info
        for info in tracking.find("score", experiment="smoke")
        if "mlflow.parentRunId" not in info.tags and info.params["architecture"] == architecture
    ]


def older(stage):
    """The architecture whose run of a stage is not the latest one."""
    return tracking.find(stage, experiment="smoke")[-1].params["architecture"]


def test_pretraining_by_hand_writes_weights_and_how_they_were_made(tmp_path, monkeypatch):
    small = {"source_images": 64, "epochs": 2, "image_size": 48, "batch_size": 16, "output": tmp_path / "weights"}
    words = [word for key, value in small.items() for word in ("-p", key, value)]
    papermill("notebooks/0_pretrain.ipynb", tmp_path / "0.ipynb", *words, store=tmp_path)
    record = json.loads((tmp_path / "weights" / "CompactResNetV2.json").read_text())
    assert record["sha256"] == tracking.contents(tmp_path / "weights" / "CompactResNetV2.npz")
    assert record["parameters"]["source_images"] == 64 and 0 <= record["val_object_accuracy"] <= 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.connect()
    (info,) = tracking.find("pretrain", experiment="pretrain")
    assert info.params["architecture"] == "CompactResNetV2"
    held = set(info.artifacts())
    assert {"source_task.png", "history.png", "history.parquet", "weights/"} <= held
    assert info.table("history.parquet")["epoch"].tolist() == [1, 2]


def test_training_the_lung_finder_by_hand_writes_weights_that_are_read_again(tmp_path, monkeypatch):
    words = ("-p", "images", 32, "-p", "epochs", 1, "-p", "output", tmp_path / "weights")
    papermill("notebooks/0_lungs.ipynb", tmp_path / "0.ipynb", *words, store=tmp_path)
    file = tmp_path / "weights" / "lungs.npz"
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["sha256"] == tracking.contents(file) and record["parameters"]["images"] == 32
    shipped = json.loads((PROJECT / "cxr/models/pretrained/lungs.json").read_text())
    assert record.keys() == shipped.keys() and shipped["dice_phantom"] >= 0.95
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.connect()
    (info,) = tracking.find("lungs", experiment="lungs")
    assert {"lung_task.png", "history.png", "history.parquet", "weights/"} <= set(info.artifacts())
    assert 0 <= info.metrics["dice_phantom"] <= 1


def test_by_hand_through_papermill_on_the_latest_run(store, tmp_path):
    """`-f` takes the study's own file; run ids default to the latest fitting run. As in a terminal: Jupyter starts
    the kernel."""
    words = ["notebooks/3_score.ipynb", tmp_path / "3.ipynb", "-f", "params/smoke.yaml", "-p"]
    words += ["method", "layercam"]
    environment = {**os.environ, "CXR_CACHE": f"{store}/cache"}
    subprocess.run([Path(sys.executable).with_name("papermill"), *words], cwd=PROJECT, env=environment, check=True)
    by_hand = scored_by_hand("CompactResNetV2")  # the architecture of the file
    assert len(by_hand) == 1 and by_hand[0].has("notebook.ipynb")
    planned = only("score", method="layercam")
    a, b = (info.table("drift.parquet") for info in (by_hand[0], planned))
    pd.testing.assert_frame_equal(a, b)


def test_by_hand_the_architecture_selects_the_run_that_is_scored(store, tmp_path):
    architecture = older("attribute")  # the latest is of the other one
    before = {info.run_id for info in scored_by_hand(architecture)}
    words = ("notebooks/3_score.ipynb", tmp_path / "3.ipynb")
    few = ("-p", "baseline_draws", "1", "-p", "n_boot", "100")
    papermill(*words, "-p", "name", "smoke", "-p", "architecture", architecture, *few, store=store)
    [info] = [info for info in scored_by_hand(architecture) if info.run_id not in before]
    planned = only("score", architecture=architecture, method="layercam")
    assert info.params["attribute_run"] == planned.params["attribute_run"]
    assert info.metrics["overlap_median"] == planned.metrics["overlap_median"]


def test_by_hand_an_architecture_without_a_run_is_refused(store, tmp_path):
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    words = ("notebooks/3_score.ipynb", tmp_path / "3.ipynb", "-p", "name", "smoke")
    said = papermill(*words, "-p", "architecture", "CompactDenseNet", store=store, fails=True)
    assert "no finished attribute run in the experiment 'smoke', architecture CompactDenseNet" in said
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


def test_by_hand_the_architecture_selects_the_training_that_is_explained(store, tmp_path):
    architecture = older("train")  # the latest is of the other one
    cheap = ("-p", "name", "smoke", "-p", "images", "all", "-p", "multiverse", False, "-p", "map_check_images", 0)
    before = {info.run_id for info in tracking.find("attribute", experiment="smoke")}
    words = ("notebooks/2_attribute.ipynb", tmp_path / "2.ipynb", *cheap)
    papermill(*words, "-p", "architecture", architecture, "-p", "seed", 0, store=store)
    [info] = [i for i in tracking.find("attribute", experiment="smoke") if i.run_id not in before]
    assert info.params["architecture"] == architecture and info.tags["mlflow.runName"].endswith("s0")
    assert info.tags["cxr.train_run"] == only("train", architecture=architecture).run_id
    planned = only("attribute", architecture=architecture)
    for name in ("maps/gradcampp/after.npz", "maps/layercam/head_1.npz", "maps/layercam/epoch_001.npz"):
        a, b = (maps.load(one.file(name)) for one in (info, planned))
        # up to rounding: by hand all cores compute, in the study one for each notebook
        np.testing.assert_allclose(a.maps, b.maps, rtol=1e-4, atol=1e-6, err_msg=name)
    assert not info.has("map_checks.csv")


def test_by_hand_a_training_that_does_not_fit_is_refused(store, tmp_path):
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    words = ("notebooks/2_attribute.ipynb", tmp_path / "2.ipynb", "-p", "name", "smoke")
    words += ("-p", "train_run_id", only("train").run_id, "-p", "architecture", "CompactDenseNet")
    said = papermill(*words, store=store, fails=True)
    assert "is of architecture CompactResNetV2" in said
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


def test_by_hand_filters_choose_the_runs_that_are_compared(store, tmp_path):
    words = ("notebooks/4_compare.ipynb", tmp_path / "4.ipynb")
    words += ("-p", "name", "smoke", "-p", "n_boot", "100")
    papermill(*words, "-p", "architecture", "CompactInception", "-p", "method", "layercam", store=store)
    summary = tracking.find("compare", experiment="smoke")[0].table("summary.csv")
    assert summary[["architecture", "method"]].values.tolist() == [["CompactInception", "layercam"]]
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    said = papermill(*words, "-p", "architecture", "CompactDenseNet", store=store, fails=True)
    assert "no finished score run in the experiment 'smoke' fits" in said
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


def test_the_explorer_shows_a_study_and_leaves_no_run(store, tmp_path):
    before = {info.run_id for info in tracking.find(experiment="smoke", complete=False)}
    papermill("notebooks/explore.ipynb", tmp_path / "e.ipynb", store=store)
    cells = json.loads((tmp_path / "e.ipynb").read_text())["cells"]
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert any("image/png" in data for data in shown), "a picture without a kernel"
    html = "".join("".join(data.get("text/html", "")) for data in shown)
    assert "Overlap of the top 20 % area (IoU)" in html and "two patients" in html
    assert {info.run_id for info in tracking.find(experiment="smoke", complete=False)} == before


def test_a_misspelt_parameter_by_hand_fails_and_says_so(store, tmp_path):
    words = ("notebooks/3_score.ipynb", tmp_path / "3.ipynb")
    said = papermill(*words, "-p", "methud", "layercam", store=store, fails=True)
    assert "unknown parameter 'methud': did you mean 'method'?" in said


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["target_layer=conv9"], "target_layer: CompactResNetV2 has no layer 'conv9'"),
        (["target_layer=final"], "is 2x2 at image_size 64, and a map needs at least 4x4"),
        (["fine_tune_from=conv9"], "fine_tune_from: CompactResNetV2 has no layer 'conv9'"),
        (["fine_tune_from=logits"], "leaves nothing to train"),
        (["weights=nowhere"], "'nowhere' is none of imagenet, source and none"),
        (["data=nowhere"], "nowhere"),
        (["imagesize=64"], "unknown parameter 'imagesize': did you mean 'image_size' or 'images'?"),
        (["phantom_images=many"], "phantom_images: should be a valid integer"),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(assignments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(PROJECT)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["study", "params/smoke.yaml", "--tracking-uri", store, "--out", str(tmp_path / "out")]
    assert main.main([*words, "--set", *assignments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not list(tmp_path.rglob("*.ipynb"))


def test_own_images_in_folders(real_cxr5, tmp_path):
    settings = ["name=real", f"data={real_cxr5}", "max_images_per_class=14", "method=[layercam]", "seed=[0,1]"]
    settings += ["groups=[label,source_size]", "placebo=false", "checkpoint_every=0", "multiverse=false"]
    settings += ["map_check_images=0", "extra_heads=0", "architecture=[tiny_nets:small]"]
    out = tmp_path / "out"
    done = cxr("study", "params/smoke.yaml", "--set", *settings, "--out", out, store=tmp_path)
    assert "tiny_nets" in done.stdout
    html = (out / "report.html").read_text()
    assert "each trained 2 times" in html and "No masks of lesion or lung are known" in html
    assert "1024x1024 L" in html and "other values" in html


def test_a_shortcut_is_trained_in_one_stage_and_measured_with_random_markers(tmp_path):
    settings = [
        "name=known",
        "architecture=[tiny_nets:small]",
        "shortcut=fine_tune",
        "method=[layercam]",
        "checkpoint_every=0",
        "multiverse=false",
        "placebo=false",
        "map_check_images=0",
    ]
    cxr("study", "params/smoke.yaml", "--set", *settings, "--out", tmp_path / "out", store=tmp_path)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "AUC with random markers" in html and "a marker tells the class" in html
    assert "Which metrics follow the movement that is known" in html
