"""Which score runs a comparison reads."""

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
    monkeypatch.setattr(tracking, "connect", lambda: None)
    monkeypatch.setattr(tracking, "find", lambda stage, *, experiment: list(RUNS.values()))
    monkeypatch.setattr(
        tracking, "stored", lambda run_id: (RUNS | others).get(run_id) or SimpleNamespace(run_id=run_id, params={})
    )
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
