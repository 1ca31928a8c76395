import base64
import json
import zlib

import pandas as pd
import pytest

from cxr.tracking import descriptions, views

CLAIMS = pd.DataFrame({"claim": ["All is well"], "verdict": ["cannot tell"], "evidence": ["none"]})
HEADLINE = pd.DataFrame({"architecture": ["A"], "method": ["layercam"], "corrected overlap": ["0.5 [0.4, 0.6]"]})


def test_tables_have_a_line_a_row_and_cells_that_cannot_break_them():
    rows = [{"name": "a|b", "value": 0.12345}, {"name": "<script>\nx", "value": 3}]
    assert descriptions.table(rows).splitlines() == [
        "| name | value |",
        "| --- | --- |",
        "| a&#124;b | 0.123 |",
        "| &lt;script&gt; x | 3 |",
    ]
    assert descriptions.table(pd.DataFrame({"a": [1], "b": ["x"]})) == descriptions.table([{"a": 1, "b": "x"}])
    assert descriptions.table([]) == ""


def test_links_and_pictures_are_relative_to_the_server():
    run = descriptions.run_link("a [run](http://evil)", "7", "abc")
    assert run.startswith("[a &#91;run&#93;(http://evil)](#/experiments/7/runs/abc")
    assert descriptions.table([{"run": run}]).endswith(f"| {run} |")
    assert descriptions.image("abc") == "![overview.png](get-artifact?path=overview.png&run_uuid=abc)"
    assert "path=a%2Fb+c.html" in descriptions.artifact_link("report", "abc", "a/b c.html")


@pytest.mark.parametrize("data", ["phantom", "/data/mine"])
def test_every_text_says_whether_images_are_synthetic(data):
    settings = {"architecture": "A", "seed": 1, "weights": "source", "image_size": 64, "data": data}
    maps = pd.DataFrame({"method": ["layercam"], "checkpoint": ["after"], "maps": [5], "empty": [1]})
    texts = [
        descriptions.train(settings, {"before": {"auc_macro": 0.5}}),
        descriptions.attribute(settings, layer="relu", grid="4x4", score="log_odds", maps=maps, scored=4, of=5),
        descriptions.score({"architecture": "A", "seed": 1, "method": "layercam"}, HEADLINE, data=data),
        descriptions.compare(HEADLINE, CLAIMS, run_id="abc", data=data),
        descriptions.study("s", data=data, headline=None, claims=None, runs=[], experiment_id="1"),
        descriptions.experiment("1", data=data),
        descriptions.model_version("A", 1, experiment_id="1", train_run="abc", data=data),
    ]
    for text in texts:
        assert ("synthetic images" in text.lower()) == (data == "phantom"), text
        assert "None" not in text and "nan" not in text


def test_what_a_run_says_of_its_numbers():
    settings = {"architecture": "A", "seed": 1, "weights": "source", "image_size": 64, "data": "phantom"}
    text = descriptions.train(settings, {"before": {"auc_macro": 0.9, "ece": 0.1}, "after": {"auc_macro": 1.0}})
    assert "| before | 0.900 | 0.100 |" in text and "| after | 1.000 |" in text
    maps = pd.DataFrame({"method": ["layercam"], "checkpoint": ["after"], "maps": [5], "empty": [1]})
    checks = pd.DataFrame({"method": ["layercam"], "checkpoint": ["after"], "passes_checks": [False]})
    options = {"layer": "relu", "grid": "4x4", "score": "logit", "maps": maps, "scored": 4, "of": 5}
    text = descriptions.attribute(settings, **options, checks=checks)
    assert "at `relu` (4x4), which explain the logit; 4 of 5" in text
    assert "| layercam | after | 5 | 1 | no |" in text
    cell = {"architecture": "A", "seed": 1, "method": "layercam"}
    text = descriptions.score(cell, HEADLINE, data="phantom", caution="after: random")
    assert "| corrected overlap | 0.5 &#91;0.4, 0.6&#93; |" in text and "**Caution: after: random**" in text


def test_a_study_tells_its_verdicts_failures_and_runs():
    text = descriptions.study(
        "s",
        data="phantom",
        headline=HEADLINE,
        claims=CLAIMS,
        runs=[("train A s0", "r1")],
        experiment_id="1",
        report_run="c1",
        figure_run="c1",
        failures={"score/A/s0/x": "no | map"},
    )
    for words in (
        "All is well",
        "cannot tell",
        "0.5",
        "no &#124; map",
        "[train A s0](",
        "path=report.html",
        "![overview",
    ):
        assert words in text
    assert "none" not in text  # what the verdicts rest on is in the report


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
    assert "metrics.`overlap_median`" in state["selectedColumns"]
    conditions = ["tags.`cxr.schema` = '3'", "tags.`cxr.stage` = 'score'", "attributes.status = 'FINISHED'"]
    assert state["searchFilter"] == " AND ".join(conditions)
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
    assert "CHART" not in views.address("3", "scores") and "CHART" in views.address("3", "scores", charts=True)
    assert views.address("3", "scores").startswith("#/experiments/3/runs?viewStateShareKey=cxr-scores&")
