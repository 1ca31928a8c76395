import base64
import json
import math
import zlib

import pandas as pd
import pytest

from cxr.tracking import descriptions, views

CLAIMS = pd.DataFrame({"claim": ["All is well"], "verdict": ["cannot tell"], "evidence": ["none"]})
ANSWERS = pd.DataFrame({"question": ["Is all well?"], "answer": ["cannot tell"], "numbers": ["none"]})
SUMMARY = pd.DataFrame(
    {
        "architecture": ["A", "A"],
        "method": ["layercam", "gradcam"],
        "seeds": [3, 3],
        "map_check": ["no", "yes"],
        "auc_macro_before": [0.948, 0.948],
        "auc_macro_after": [0.957, 0.957],
        "centroid_shift_median": [0.02341, 0.01],
        "overlap_median": [0.5487, 0.6880],
        "overlap_ci_low": [0.4671, 0.6582],
        "overlap_ci_high": [0.6303, 0.7179],
        "overlap_two_patients_median": [0.2230, 0.2818],
        "overlap_two_seeds_median": [0.5538, math.nan],
        "overlap_corrected_median": [0.4194, 0.5656],
        "n_images": [111, 111],
    }
)
ANSWER = "The evidence moved. It moved as far as another seed moves it."
VALUES = SUMMARY.iloc[0].drop(["architecture", "method", "map_check", "overlap_two_seeds_median"]).to_dict()
SETTINGS = {"architecture": "A", "seed": 1, "weights": "source", "image_size": 64}
CELL = {"architecture": "A", "seed": 1, "method": "layercam"}
MAPS = pd.DataFrame({"method": ["layercam"], "checkpoint": ["after"], "maps": [5], "empty": [1]})
STUDY = {"answers": ANSWERS, "n_runs": 76, "experiment_id": "1"}


def test_tables_have_a_line_a_row_and_cells_that_cannot_break_them():
    rows = [{"name": "a|b", "value": "0.12"}, {"name": "<script>\nx", "value": 3}]
    assert descriptions.table(rows).splitlines() == [
        "| name | value |",
        "| --- | --- |",
        "| a&#124;b | 0.12 |",
        "| &lt;script&gt; x | 3 |",
    ]
    assert descriptions.table(pd.DataFrame({"a": [1], "b": ["x"]})) == descriptions.table([{"a": 1, "b": "x"}])
    assert descriptions.table([]) == ""


def test_links_and_pictures_are_relative_to_the_server():
    run = descriptions.run_link("a [run](http://evil)", "7", "abc")
    assert run.startswith("[a &#91;run&#93;(http&#58;//evil)](#/experiments/7/runs/abc")
    assert descriptions.table([{"run": run}]).endswith(f"| {run} |")
    assert descriptions.image("abc") == "![overview.png](get-artifact?path=overview.png&run_uuid=abc)"
    assert "path=a%2Fb+c.html" in descriptions.artifact_link("report", "abc", "a/b c.html")


def texts_of(data):
    """Of every kind of run, and of the experiment."""
    settings, attribute = {**SETTINGS, "data": data}, {"layer": "relu", "grid": "4x4", "score": "log_odds"}
    tags = {"cxr.answer": ANSWER, "cxr.synthetic": "yes" if data == "phantom" else "no"}
    comparison = descriptions.compare(SUMMARY, ANSWERS, CLAIMS, run_id="abc", data=data)
    return {
        "train": descriptions.train(settings, {"before": {"auc_macro": 0.5}}),
        "attribute": descriptions.attribute(settings, **attribute, maps=MAPS, scored=4, of=5),
        "score": descriptions.score(CELL, VALUES, data=data),
        "compare": descriptions.answered(comparison, tags),
        "study": descriptions.study("s", data=data, summary=SUMMARY, answer=ANSWER, **STUDY),
        "experiment": descriptions.experiment("1", data=data, summary=SUMMARY, answer=ANSWER),
    }


def test_the_first_line_is_the_answer_or_what_the_run_did_with_its_number():
    first = {name: text.splitlines()[0] for name, text in texts_of("/data/mine").items()}
    assert first["train"] == "Training of **A, seed 1**: AUC on the test set 0.50 before fine-tuning."
    assert first["attribute"] == ("Maps of **A, seed 1** before and after fine-tuning: the maps were not checked.")
    assert first["score"] == (
        "Overlap of the evidence before and after fine-tuning, **A, seed 1, layercam**: 0.55 [0.47, 0.63] "
        "(two patients: 0.22)."
    )
    assert first["compare"] == first["study"] == ANSWER
    # the UI shows one line of an experiment's description
    assert first["experiment"] == "The evidence moved."
    assert "It moved as far as another seed moves it." in texts_of("/data/mine")["experiment"]


@pytest.mark.parametrize("data", ["phantom", "/data/mine"])
def test_every_text_says_first_whether_images_are_synthetic(data):
    for text in texts_of(data).values():
        assert text.startswith("**SYNTHETIC DATA.** ") == ("SYNTHETIC DATA" in text) == (data == "phantom")
        assert ("synthetic images" in text.lower()) == (data == "phantom"), text
        assert "None" not in text and "nan" not in text
    version = descriptions.model_version("A", 1, experiment_id="1", train_run="abc", data=data)
    assert ("synthetic images" in version) == (data == "phantom")


def test_tables_have_eight_columns_at_most_rounded_numbers_and_the_mark_of_maps_that_fail():
    for text in texts_of("/data/mine").values():
        for line in text.splitlines():
            assert not line.startswith("|") or line.count("|") - 1 <= 8
    for name in ("compare", "study", "experiment"):
        text = texts_of("/data/mine")[name]
        assert "| A | layercam | FAIL | 0.55 &#91;0.47, 0.63&#93; | 0.22 | 0.55 | 0.42 | 0.95→0.96 |" in text
        assert "| A | gradcam | pass | 0.69 &#91;0.66, 0.72&#93; | 0.28 | - | 0.57 | 0.95→0.96 |" in text
        assert text.index("| map checks | overlap |") < text.index("0.55 &#91;")
    caution = "after fine-tuning: random"
    first, *others = descriptions.score(CELL, VALUES, data="/data/mine", caution=caution).splitlines()
    assert first.startswith("**Maps fail their checks: this describes the maps, not the network.** Overlap of the")
    assert f"Failed checks: {caution}." in others
    assert {"| centroid shift | 0.023 |", "| images | 111 |", "| two patients | 0.22 |"} <= set(others)


def test_what_a_run_says_of_its_numbers():
    settings = {**SETTINGS, "data": "phantom"}
    text = descriptions.train(settings, {"before": {"auc_macro": 0.9, "ece": 0.1}, "after": {"auc_macro": 1.0}})
    assert "| before | 0.90 | 0.10 |" in text and "| after | 1.00 |" in text and "matched null" not in text
    more = {name: {"auc_macro": value} for name, value in (("before", 0.9), ("after", 1.0), ("continued", 0.9))}
    text = descriptions.train(settings, more)
    assert "matched null" in text and "0.90 before fine-tuning, 1.00 after fine-tuning." in text
    checks = pd.DataFrame({"method": ["layercam"], "checkpoint": ["after"], "passes_checks": [False]})
    options = {"layer": "relu", "grid": "4x4", "score": "logit", "maps": MAPS, "scored": 4, "of": 5}
    text = descriptions.attribute(settings, **options, checks=checks)
    assert "at `relu` (4x4) and explain the logit; 4 of 5" in text
    assert "| layercam | after | 5 | 1 | FAIL |" in text
    assert "fine-tuning: the maps of 0 of 1 methods pass their checks." in text
    text = descriptions.attribute(settings, **options, checks=checks.assign(passes_checks=True))
    assert "fine-tuning: the maps of 1 of 1 methods pass their checks (layercam)." in text


def test_a_study_tells_its_answers_failures_and_runs():
    failures = {"score/A/s0/x": "no | map"}
    links = {"report_run": "c1", "figure_run": "c1"}
    text = descriptions.study("s", data="phantom", summary=SUMMARY, failures=failures, **links, **STUDY)
    assert text.startswith(
        "**SYNTHETIC DATA.** The study s has no answer in one sentence: 1 of its notebooks failed or were not run."
    )
    for words in (
        *("Is all well?", "cannot tell", "0.55", "no &#124; map", "Its 76 runs: ["),
        *("path=report.html", "![overview"),
    ):
        assert words in text
    assert "none" not in text  # what the answers rest on is in the report


def test_studies_of_one_name_are_told_apart():
    before = {"name": "s", "seed": "0, 1", "image_size": "64", "jobs": "1"}
    now = {"name": "s", "seed": "0, 1, 2", "image_size": "64", "jobs": "2", "added": "x"}
    changed = descriptions.difference(now, before)
    assert changed == {"seed": ("0, 1", "0, 1, 2"), "added": ("", "x")}
    assert descriptions.study_name("s", "2026-11-25", changed) == "study s 2026-11-25 (seed 0, 1, 2, added x)"
    assert descriptions.study_name("s", "2026-11-25", {}) == "study s 2026-11-25"
    assert len(descriptions.study_name("s", "2026-11-25", {"a": ("", "x" * 900)})) < 120
    assert descriptions.differs(changed, "[it](#)").startswith(
        "Other settings than [it](#): `seed` 0, 1 → 0, 1, 2"
    )
    assert descriptions.differs({}, "[it](#)") == ""


# -- views


def state_of(value: str) -> dict:
    packed = json.loads(value)["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_views_are_what_the_ui_reads():
    tags = views.tags(["layercam", "gradcampp"], ["x", "y"])
    assert {key.rpartition(".")[2] for key in tags} == {key for key, _ in views.KEYS.values()}
    assert all(len(value) < 20_000 for value in tags.values())  # MLflow's limit
    assert tags == views.tags(["layercam", "gradcampp"], ["x", "y"])
    assert [json.loads(value)["name"] for value in tags.values()] == list(views.KEYS)
    state = state_of(tags["mlflow.sharedViewState.cxr-scores"])
    assert "tags.`overlap`" in state["selectedColumns"]
    sections = {section["name"]: section["display"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections.keys()
    assert sections["Drift"] and not sections["Model metrics"]
    maps = state_of(tags["mlflow.sharedViewState.cxr-maps"])
    assert [chart["imageKeys"] for chart in maps["compareRunCharts"]] == [
        ["layercam/x"],
        ["layercam/y"],
        ["gradcampp/x"],
        ["gradcampp/y"],
    ]
    assert views.has(tags) and not views.has({})


def test_many_classes_still_make_a_view():
    tags = views.tags([f"method_{i}" for i in range(8)], [f"a class with a long name {i}" for i in range(100)])
    assert all(len(value) < 20_000 for value in tags.values())


def test_addresses_of_views():
    assert views.address("3", "maps").endswith("&compareRunsMode=CHART")
    assert "CHART" not in views.address("3", "scores") and "CHART" in views.address("3", "charts")
    assert views.address("3", "scores").startswith("#/experiments/3/runs?viewStateShareKey=cxr-scores&")
