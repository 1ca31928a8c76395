"""The MLflow UI shows what a study logs: in a browser, on a small store made by hand."""

import importlib.util

import browser
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from cxr import tracking
from cxr.core import tables
from cxr.core.params import AttributeParams, CompareParams, ScoreParams, TrainParams
from cxr.report import headlines
from cxr.tracking import descriptions

NAME = "seen"


def screenshots():
    spec = importlib.util.spec_from_file_location("ui_screenshots", PROJECT / "tests/benchmarks/ui_screenshots.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure() -> matplotlib.figure.Figure:
    drawn = matplotlib.figure.Figure(figsize=(6, 3))
    drawn.subplots().plot([0, 1])
    return drawn


def log_study() -> None:
    """One run a stage, as the notebooks log them; two score runs."""
    settings = TrainParams(name=NAME, architecture="CompactResNetV2", seed=0)
    run = tracking.start("train", settings, name="train CompactResNetV2 s0", inputs={"manifest": "a" * 64})
    train = run.run_id
    tracking.log_dataset(
        "phantom",
        "a" * 64,
        source="drawn",
        columns=["image_id", "label"],
        counts={"train": {"x": 3}, "test": {"x": 2}},
    )
    measured = {"auc_macro": 0.9, "accuracy": 0.8, "ece": 0.1}
    for checkpoint in ("before", "after"):
        run.text("no weights", f"checkpoints/{checkpoint}.keras")
        params = {"architecture": settings.architecture, "seed": 0}
        loadable = checkpoint == "after"
        tracking.log_model(checkpoint, params=params, metrics=measured, sha256="b" * 64, loadable=loadable)
        run.metrics({f"auc_macro_{checkpoint}": 0.9})
    run.describe(descriptions.train(settings.model_dump(), {"after": measured}), figure=figure())
    tracking.register(architecture=settings.architecture, seed=0, weights="source", data="phantom")
    run.finish()

    run = tracking.start(
        "attribute",
        AttributeParams(name=NAME),
        name="attribute CompactResNetV2 s0",
        inputs=tracking.upstream(train),
        settings_as_params=False,
        params={"architecture": settings.architecture, "seed": 0},
    )
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    run.image(picture, key="layercam/x")
    run.image(picture, key="gradcampp/x")
    tracking.log_dataset_of(train)
    maps = pd.DataFrame({"method": ["layercam"], "checkpoint": ["before"], "maps": [2], "empty": [0]})
    text = descriptions.attribute(settings.model_dump(), layer="relu", grid="4x4", maps=maps, scored=2, of=2)
    run.describe(text, figure=figure())
    run.finish()

    names = [name for name in headlines.HEADLINE if name not in headlines.OF_SEVERAL_RUNS]
    values = {name: number / 20 for number, name in enumerate(names)}
    scores, attribute = [], run.run_id
    for method in ("layercam", "gradcampp"):
        cell = {"architecture": settings.architecture, "seed": 0, "method": method}
        run = tracking.start(
            "score",
            ScoreParams(name=NAME, method=method),
            name=f"score CompactResNetV2 s0 {method}",
            inputs=tracking.upstream(attribute),
            params=cell,
        )
        scores.append(run.run_id)
        run.metrics({**values, "other": 1.0})
        tracking.log_dataset_of(train)
        headline = tables.readable(headlines.headline_of_one({**cell, **values}))
        links = [tracking.stored(train).link]
        run.describe(descriptions.score(cell, headline, data="phantom", links=links), figure=figure())
        tracking.tag_model(train, {f"{method}.overlap_median": 0.5, f"{method}.score_run": scores[-1]})
        run.finish()

    compare = tracking.start(
        "compare", CompareParams(name=NAME), name="compare", inputs=tracking.upstream(*scores)
    )
    compare.text("<h1>Verdicts</h1>", "report.html")
    claims = pd.DataFrame({"claim": ["All is well"], "verdict": ["cannot tell"]})
    headline = tables.readable(pd.DataFrame([{**cell, **values}]))
    text = descriptions.compare(headline, claims, run_id=compare.run_id, data="phantom")
    compare.describe(text, figure=figure())
    compare.finish()
    study = tracking.create_run(experiment=NAME, name=f"study {NAME}", tags={"cxr.stage": "study"}, params={})
    tracking.end_run(study, "FINISHED")
    text = descriptions.experiment(tracking.experiment_id(NAME), data="phantom", headline=headline)
    tracking.describe_experiment(NAME, text, methods=["layercam", "gradcampp"], classes=["x"])


@pytest.fixture
def store(tmp_path, monkeypatch, new_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tracking.connect(new_store(tmp_path))


@pytest.mark.slow
def test_a_person_finds_runs_maps_reports_and_models(store):
    if browser.find() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    log_study()
    module = screenshots()
    with module.server(store) as address:
        assert module.look(address, module.pages(NAME)) == {}
