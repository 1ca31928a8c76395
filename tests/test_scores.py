"""Which score runs a comparison reads."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from cxr import tracking
from cxr.core.errors import InputError
from cxr.core.params import CompareParams
from cxr.report import scores, sections
from cxr.tracking import StoredRun


def stored_run(run_id, architecture="CompactResNetV2", seed="0", method="layercam", stage="score"):
    params = {"architecture": architecture, "seed": seed, "method": method, "target_layer": "penultimate"}
    params |= {"layer": "x", "grid": "8x8", "methods_coincide": "False", "passes_checks": "True"}
    params |= {"image_size": "64", "weights": "none", "images": "all", "explain": "true", "score": "log_odds"}
    params |= {"attribute_run": f"a{architecture}{seed}", "train_run": f"t{architecture}{seed}"}
    return StoredRun(
        run_id=run_id,
        name=f"{stage} {architecture} s{seed} {method}",
        experiment_id="1",
        experiment_name="study",
        stage=stage,
        status="FINISHED",
        params=params,
        metrics={"auc_macro_before": 0.9, "auc_macro_after": 0.95},
        tags={"cxr.complete": "true"},
    )


def behind(run_id, *, images="abc", **settings):
    """A train or attribute run."""
    tags = {"cxr.inputs.manifest": images}
    return SimpleNamespace(run_id=run_id, name=f"run {run_id}", params=settings, tags=tags, settings=settings)


RUNS = {
    run.run_id: run  # the newest first
    for run in (
        stored_run("5"),
        stored_run("4", method="gradcampp"),
        stored_run("3", seed="1"),
        stored_run("2", architecture="CompactDenseNet"),
        stored_run("1"),
    )
}


@pytest.fixture(autouse=True)
def store(monkeypatch):
    others = {"train": stored_run("train", stage="train")}
    monkeypatch.setattr(StoredRun, "settings", {"n_boot": 300})
    monkeypatch.setattr(tracking, "connect", lambda: None)
    monkeypatch.setattr(tracking, "find", lambda stage, *, experiment: list(RUNS.values()))
    monkeypatch.setattr(tracking, "stored", lambda run_id: (RUNS | others).get(run_id) or behind(run_id))
    monkeypatch.setattr(StoredRun, "table", lambda run, name: pd.DataFrame({"run": [run.run_id], "name": name}))


def read(**settings):
    return scores.open(CompareParams(name="study", **settings)).runs["run_id"].tolist()


def test_by_default_the_latest_run_of_every_cell():
    assert read() == ["2", "4", "5", "3"], "in the order of the cells; not 1, of which 5 is a newer run"


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"architecture": "CompactDenseNet"}, ["2"]),
        ({"architecture": ["CompactResNetV2", "CompactDenseNet"], "seed": 0}, ["2", "4", "5"]),
        ({"method": ["layercam"], "seed": [0, 1], "architecture": ["CompactResNetV2"]}, ["5", "3"]),
        ({"method": "gradcampp"}, ["4"]),
    ],
)
def test_filters_choose_among_the_runs(filters, ids):
    assert read(**filters) == ids


def test_filters_that_nothing_fits_are_refused():
    with pytest.raises(InputError, match="no finished score run in the experiment 'study' fits.* seed 0, not 7"):
        read(seed=7)


def test_runs_that_are_named_are_taken_in_their_order_and_must_fit():
    assert read(score_run_ids=["3", "2"]) == ["3", "2"]
    assert read(score_run_ids=["3", "1"], architecture="CompactResNetV2", method="layercam") == ["3", "1"]
    with pytest.raises(InputError, match="run 2 .* is of architecture CompactDenseNet, not Compact"):
        read(score_run_ids=["3", "2"], architecture="CompactResNetV2")
    with pytest.raises(InputError, match="run 4 .* is of method gradcampp, not layercam"):
        read(score_run_ids=["4"], method="layercam")


def test_a_run_of_another_stage_is_refused():
    with pytest.raises(InputError, match="run train .* is no finished score run"):
        read(score_run_ids=["train"])


def test_a_study_holds_the_rows_and_the_runs_behind_them():
    study = scores.open(CompareParams(name="study", method="layercam"))
    assert study.scores["run"].tolist() == ["2", "5", "3"] and set(study.scores["name"]) == {"drift.parquet"}
    assert set(study.training_runs) == {"tCompactDenseNet0", "tCompactResNetV20", "tCompactResNetV21"}
    assert [(a, m, len(rows)) for a, m, rows in study.cells()] == [
        ("CompactDenseNet", "layercam", 1),
        ("CompactResNetV2", "layercam", 2),
    ]


def newest_first(monkeypatch, *runs, **others):
    found = {run.run_id: run for run in runs}
    monkeypatch.setattr(tracking, "find", lambda stage, *, experiment: list(found.values()))
    monkeypatch.setattr(tracking, "stored", lambda key: found.get(key) or others.get(key) or behind(key))


def test_runs_made_by_hand_or_edited_are_not_read_beside_those_of_a_study(monkeypatch, capsys):
    edited = replace(stored_run("8"), tags={"cxr.edited": "true", "mlflow.parentRunId": "p"})
    own = [replace(stored_run(key, seed=seed), tags={"mlflow.parentRunId": "p"}) for key, seed in ("20", "31")]
    adopted = replace(stored_run("4", method="gradcampp"), tags={"cxr.study": "p"})
    newest_first(monkeypatch, stored_run("9", seed="1"), edited, *own, adopted)
    assert read() == ["4", "2", "3"]
    assert "not read: 2 newer score runs" in (said := capsys.readouterr().out) and "(9, 8)" in said
    newest_first(monkeypatch, stored_run("9", seed="1"), edited)
    assert read() == ["9"], "without a study, those made by hand"


@pytest.mark.parametrize("behind_the_old", [{"images": "other"}, {"fine_tune_epochs": "9"}, {"data": "/moved"}])
def test_images_and_settings_are_not_mixed(monkeypatch, behind_the_old):
    new, old = stored_run("2", seed="0"), replace(stored_run("1", seed="1"))
    newest_first(monkeypatch, new, old, tCompactResNetV21=behind("tCompactResNetV21", **behind_the_old))
    alike = "data" in behind_the_old
    trained = tracking.stored("tCompactResNetV20").params | ({"fine_tune_epochs": "4"} if not alike else {})
    newest_first(
        monkeypatch,
        *(new, old),
        tCompactResNetV20=behind("tCompactResNetV20", **trained),
        tCompactResNetV21=behind("tCompactResNetV21", **{**trained, **behind_the_old}),
    )
    if alike:
        assert read() == read(score_run_ids=["2", "1"]) == ["2", "1"]
        return
    assert read() == ["2"]
    what = "images other, and .* with abc" if "images" in behind_the_old else "fine_tune_epochs 9, and .* with 4"
    with pytest.raises(InputError, match=f"run tCompactResNetV21.* was made with {what}.*cannot be pooled"):
        read(score_run_ids=["2", "1"])


def test_a_section_without_rows_says_why(capsys):
    seen = pd.DataFrame({"metric": ["overlap"], "sees": [True]})
    assert sections.blind(seen).empty and sections.following(seen).empty
    assert sections.failing(pd.DataFrame()).empty
    evidence = SimpleNamespace(pairs=pd.DataFrame(columns=["n_patients", "estimate"]))
    assert sections.power(evidence).empty
    assert capsys.readouterr().out, "the sentence is shown"


def test_trainings_with_and_without_varied_splits_are_not_pooled():
    def run(name, **params):
        return SimpleNamespace(name=name, params=params)

    scores._check_splits({"a": run("one", vary_split="True"), "b": run("two", vary_split="True")})
    scores._check_splits({"a": run("one", vary_split="False"), "b": run("earlier")})
    with pytest.raises(InputError, match=r"in some trainings only \(two\)"):
        scores._check_splits({"a": run("one", vary_split="False"), "b": run("two", vary_split="True")})
