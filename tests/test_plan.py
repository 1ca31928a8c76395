"""Frozen plans: what they say, that a change is seen, and how a study and its report keep to one."""

import hashlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from math import isnan, sqrt
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from cxr import tracking
from cxr.cli import main
from cxr.core.errors import InputError
from cxr.core.params import AttributeParams, CompareParams, ScoreParams, StudyParams, TrainParams
from cxr.data import manifest as data_manifest
from cxr.report import scores, verdicts
from cxr.report.declared import asked, contents, deviations, effects, plan_file, section
from cxr.report.declared.deviations import ADDED, CHANGED, CONTRADICTS, NOT_DONE
from cxr.report.declared.section import AFTERWARDS, KEPT
from cxr.statistics import planning
from cxr.statistics.estimates import Estimate
from cxr.study import preflight, study_run
from cxr.study.grid import Setup
from cxr.study.session import Session

NOW = datetime(2020, 1, 2, 5, 0, tzinfo=UTC)  # before any test
SMALL = {
    "name": "demo",
    "phantom_images": 60,
    "architecture": ["CompactDenseNet", "CompactResNetV2"],
    "seed": [0, 1],
    "method": ["layercam"],
}
TWO = StudyParams(**SMALL)


@pytest.fixture(scope="module")
def images():
    return data_manifest.build_manifest(TWO)


@pytest.fixture
def path(tmp_path, images):
    """The file of a plan of `TWO`."""
    path = tmp_path / "plan.yaml"
    plan_file.write(path, contents.text(TWO, images, now=NOW))
    return path


@pytest.fixture
def plan(path):
    return plan_file.read(path)


def values_of(study):
    return study.model_dump(mode="json")


def lines_of(found):
    return [(each.what, each.declared, each.now, each.status, each.contradicts) for each in found]


# -- the file


def test_a_plan_says_what_will_be_judged_with_what(plan, images):
    values = plan.values
    assert plan.written == NOW and values["question"] == contents.QUESTION and values["study"] == "demo"
    assert list(values["claims"]) == [judge.__name__ for judge in verdicts.CLAIMS.values()]
    assert values["claims"]["stable_performance"].endswith("(macro AUC within ±0.02)")
    assert values["primary_metric"]["name"] == "overlap" and values["primary_metric"]["corrected"].startswith(
        "yes"
    )
    assert values["judged_with"]["auc_margin"] == 0.02 and values["judged_with"]["level"] == 0.95
    assert set(values["judged_with"]) == {*deviations.binding()} - {"primary_metric"}
    assert values["design"]["architectures"] == TWO.architecture and values["design"]["seeds"] == [0, 1]
    counted = values["design"]["images"]
    assert sum(counted["images"].values()) == 60 == len(images)
    test = images[images["split"] == "test"]
    assert (counted["images"]["test"], counted["patients"]["test"]) == (len(test), test["patient_id"].nunique())
    assert counted["manifest_sha256"] == data_manifest.manifest_hash(images)
    assert values["software"]["cxr"]
    # every parameter is there once; those that differ from the defaults are told apart
    parameters = values["parameters"]
    assert set(parameters["changed"]) == {"name", "phantom_images", "architecture", "method"}
    assert plan.parameters == {k: v for k, v in values_of(TWO).items() if k not in deviations.NOT_DECLARED}


def test_its_hash_is_that_of_all_lines_below_the_first(path, plan):
    first, _, body = path.read_bytes().partition(b"\n")
    assert first == f"sha256: {hashlib.sha256(body).hexdigest()}".encode() == f"sha256: {plan.sha256}".encode()
    assert plan.short == plan.sha256[:12]
    assert plan.tags == {"cxr.plan": plan.short, "cxr.plan_date": "2020-01-02T05:00:00+00:00"}


@given(data=st.data())
@settings(max_examples=60)
def test_any_changed_byte_is_seen(data, tmp_path_factory):
    original = contents.text(TWO, None, now=NOW).encode()
    at = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != original[at]))
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_bytes(original[:at] + bytes([other]) + original[at + 1 :])
    with pytest.raises(InputError, match="plan"):
        plan_file.read(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("level: 0.95", "level: 0.9"), ("# The design.", "# The design: declared early."), ("\n\n", "\n")],
)
def test_a_changed_plan_is_refused_with_both_hashes(path, plan, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=f"was changed after it was frozen: .* says sha256 {plan.short}.*Restore"):
        plan_file.read(path)


def test_line_ends_of_another_system_are_no_change(path, plan):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert plan_file.read(path).sha256 == plan.sha256


def test_what_is_no_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the plan"):
        plan_file.read(tmp_path / "none.yaml")
    path = tmp_path / "study.yaml"
    path.write_text("name: demo\n")
    with pytest.raises(InputError, match="its first line must be 'sha256: "):
        plan_file.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no text in UTF-8"):
        plan_file.read(path)
    # a hash that fits does not make a plan of anything
    for body, message in (
        ("format: 1\n", "it lacks study, question"),
        ("- 1\n", "not a plan that"),
        ("a: [", "not a plan"),
    ):
        path.write_text(f"sha256: {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
        with pytest.raises(InputError, match=message):
            plan_file.read(path)


def test_a_plan_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already, and a plan is never overwritten: .*--output"):
        plan_file.write(path, "sha256: x\n")
    assert path.read_bytes() == before


def test_everything_that_is_judged_has_a_name_of_its_own():
    texts = asked.texts(TWO)
    assert set(texts) == set(asked.TABLES)
    for kind, table in asked.TABLES.items():
        assert len(texts[kind]) == len(table), "two functions share a name"
        assert not any("{" in text for text in texts[kind].values()), "a margin without its value"
    assert texts == asked.texts(CompareParams()), "a study and its report judge the same"


def test_only_a_metric_that_is_1_for_identical_maps_is_corrected():
    assert contents.corrected("overlap").startswith("yes") and contents.corrected("spearman").startswith("yes")
    assert contents.corrected("centroid_shift").startswith("no")


def test_exclusions_follow_the_parameters(images):
    def text(**values):
        return " | ".join(contents.exclusions(StudyParams(**values)))

    assert "both checkpoints predict" in text() and "none is left out" in text(images="all")
    assert "the study stops" in text()
    assert "more than 2% stop" in text(on_bad_image="skip", max_skipped_fraction=0.02)
    assert "on up to 7 images" in text(map_check_images=7) and "not checked" in text(map_check_images=0)
    assert "all but a, b are left out" in text(label_map={"a": "x", "b": "y"})
    assert "at most 9 images" in text(max_images_per_class=9)


@pytest.mark.parametrize(("metric", "message"), [("iou", "unknown metrics"), ("gini_change", "no direction")])
def test_a_primary_metric_that_cannot_be_judged_is_refused(metric, message):
    with pytest.raises(InputError, match=message):
        contents.text(StudyParams(primary_metric=metric), None)


# -- what the design can find


def of_seeds_alone(variance, seeds=3):
    """A difference whose only variance is between seeds."""
    return Estimate(
        0.0, sqrt(variance / seeds), seeds - 1.0, 0.0, 0.0, 0.95, seeds, 100, variance, 0.0, 0.0, seeds - 1.0
    )


@pytest.mark.parametrize(("seeds", "alpha"), [(2, 0.05), (3, 0.05), (5, 0.05), (5, 0.01)])
def test_the_smallest_difference_is_that_of_the_noncentral_t_test(seeds, alpha):
    sd = 0.03

    def power(effect):
        critical = stats.t.ppf(1 - alpha / 2, seeds - 1)
        return stats.ncf.sf(critical**2, 1, seeds - 1, (effect / sd) ** 2 * seeds)  # the square of t is F

    expected = optimize.brentq(lambda effect: power(effect) - 0.8, 1e-4, 2)
    found = planning.smallest_effect(of_seeds_alone(sd**2), seeds=seeds, patients=100, alpha=alpha)
    assert found == pytest.approx(expected, rel=0.01)


@given(st.floats(0.01, 0.06), st.integers(2, 6), st.integers(20, 500))
@settings(max_examples=25)
def test_it_has_the_power_and_nothing_smaller_has(sd, seeds, patients):
    est = effects.assumed(sd, seeds=seeds, patients=patients, level=0.95)
    found = planning.smallest_effect(est, seeds=seeds, patients=patients)
    assert planning.power(est, effect=found) == pytest.approx(planning.POWER)
    assert planning.power(est, effect=0.99 * found) < planning.POWER
    more = planning.smallest_effect(est, seeds=seeds + 1, patients=2 * patients)
    assert more < found


def test_where_nothing_is_found_it_says_so():
    assert planning.smallest_effect(of_seeds_alone(1.0), seeds=2, patients=100) > 1
    assert isnan(planning.smallest_effect(of_seeds_alone(0.0), seeds=3, patients=100))
    assert "one seed" in effects.declared(StudyParams(seed=[0]), 100)
    assert "one architecture" in effects.declared(StudyParams(architecture=["CompactDenseNet"]), 100)
    assert "not counted" in effects.declared(StudyParams(), 0)


def test_without_a_pilot_both_assumptions_are_stated_as_such():
    found = effects.declared(StudyParams(seed=[0, 1, 2]), 150)
    first, second = found["smallest"]
    assert all(
        "ASSUMPTIONS" in row["rests_on"] and "0.15 between patients" in row["rests_on"] for row in (first, second)
    )
    assert "0.02 between seeds" in first["rests_on"] and "0.05 between seeds" in second["rests_on"]
    # three pairs under two methods
    assert 0 < first["in_one_comparison"] < first["in_the_strictest_of_6"]
    assert first["in_one_comparison"] < second["in_one_comparison"]
    est = effects.assumed(0.02, seeds=3, patients=150, level=0.95)
    assert planning.power(est, effect=first["in_one_comparison"]) == pytest.approx(0.8, abs=0.01)


def pilot_scores(seeds=(0, 1, 2), architectures=("A", "B")):
    rng = np.random.default_rng(0)
    rows = []
    for architecture in architectures:
        for seed in seeds:
            luck = rng.normal(0, 0.03)
            for image in range(40):
                value = 0.5 + luck + rng.normal(0, 0.05)
                rows.append((architecture, "layercam", seed, f"i{image}", f"p{image}", value))
    return pd.DataFrame(rows, columns=["architecture", "method", "seed", "image_id", "patient_id", "overlap"])


@pytest.fixture
def pilot(monkeypatch):
    """Replaces the store by one that holds the scores that it is called with."""

    def use(table):
        asked_for = []
        monkeypatch.setattr(tracking, "is_new", lambda uri: False)
        monkeypatch.setattr(tracking, "connect", lambda uri: uri)
        open_ = lambda settings: asked_for.append(settings.name) or SimpleNamespace(scores=table)  # noqa: E731
        monkeypatch.setattr(scores, "open", open_)
        return asked_for

    return use


def test_a_pilot_gives_its_own_variances(pilot):
    from cxr.statistics import contrasts
    from cxr.statistics.score_rows import Scores

    asked_for = pilot(pilot_scores())
    study = StudyParams(
        architecture=["CompactDenseNet", "CompactInception"], method=["layercam"], seed=[0, 1, 2, 3, 4]
    )
    found = effects.declared(study, 80, pilot="small")
    assert asked_for == ["small"]
    (row,) = found["smallest"]
    assert row["rests_on"].startswith("the pilot 'small', layercam: A - B (3 seeds, 40 patients")
    (est,) = contrasts.compare_architectures(Scores.of(pilot_scores(), "overlap"))["estimate"]
    expected = planning.smallest_effect(est, seeds=5, patients=80)
    assert row["in_one_comparison"] == round(expected, 3) == row["in_the_strictest_of_1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"seeds": (0,)}, "--pilot small: it has one seed"), ({"architectures": ("A",)}, "it has one architecture")],
)
def test_a_pilot_that_shows_no_spread_is_refused(pilot, values, message):
    pilot(pilot_scores(**values))
    with pytest.raises(InputError, match=message):
        effects.declared(StudyParams(), 80, pilot="small")


def test_a_pilot_that_is_not_there_is_refused(tmp_path, new_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    missing = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(InputError, match="--pilot small: there is no store at"):
        effects.declared(StudyParams(), 80, pilot="small", tracking_uri=missing)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(InputError, match="--pilot small: no finished score run"):
        effects.declared(StudyParams(), 80, pilot="small", tracking_uri=new_store(tmp_path))


# -- deviations


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"jobs": 4, "plan": "somewhere.yaml"}, []),
        ({"seed": [0, 1, 2, 3]}, [("seeds", "-", "[2, 3]", ADDED, False)]),
        ({"seed": [1]}, [("seeds", "[0]", "-", NOT_DONE, False)]),
        ({"method": ["layercam", "gradcam"]}, [("methods", "-", "[gradcam]", ADDED, False)]),
        ({"method": ["gradcam"]}, [
            ("methods", "[layercam]", "-", NOT_DONE, True),
            ("methods", "-", "[gradcam]", ADDED, False),
        ]),
        ({"architecture": ["CompactDenseNet"]}, [("architectures", "[CompactResNetV2]", "-", NOT_DONE, True)]),
        ({"auc_margin": 0.05}, [("auc_margin", "0.02", "0.05", CHANGED, True)]),
        ({"level": 0.9}, [("level", "0.95", "0.9", CHANGED, True)]),
        ({"primary_metric": "spearman"}, [("primary_metric", "overlap", "spearman", CHANGED, True)]),
        ({"images": "all", "overlap_margin": 0.3}, [
            ("overlap_margin", str(TWO.overlap_margin), "0.3", CHANGED, True),  # what contradicts comes first
            ("images", "correct", "all", CHANGED, False),
        ]),
        ({"label_map": {"a": "b"}}, [("label_map", "{}", "{a: b}", CHANGED, False)]),
    ],
)  # fmt: skip
def test_deviations(plan, values, expected):
    found = deviations.find(plan, values_of(StudyParams(**{**SMALL, **values})))
    assert lines_of(found) == expected


def test_other_images_and_parameters_of_another_version_are_deviations(plan):
    ours = values_of(TWO)
    here = plan.values["design"]["images"]["manifest_sha256"]
    assert deviations.find(plan, ours, manifest_hash=here) == []
    (other,) = deviations.find(plan, ours, manifest_hash="f" * 64)
    assert (other.what, other.now, other.contradicts) == ("image set", "manifest ffffffffffff", False)
    older = {
        **plan.values,
        "parameters": {
            **plan.values["parameters"],
            "changed": {**plan.values["parameters"]["changed"], "gone": 3},
        },
    }
    del older["parameters"]["defaults"]["dropout"]
    older = plan_file.Plan(plan.path, plan.sha256, plan.text, older)
    assert lines_of(deviations.find(older, ours)) == [("gone", "3", "no such parameter", NOT_DONE, False)]
    assert ("dropout", "-", "0.5", ADDED, False) in lines_of(deviations.find(older, {**ours, "dropout": 0.5}))


def test_a_study_that_contradicts_its_plan_is_refused_with_a_way_out(plan):
    def refused(**values):
        deviations.refuse(plan, deviations.find(plan, values_of(StudyParams(**{**SMALL, **values}))))

    refused()
    refused(seed=[0, 1, 2], images="all", method=["layercam", "gradcam"])
    with pytest.raises(InputError) as error:
        refused(level=0.9, architecture=["CompactDenseNet"], seed=[0, 5])
    message = str(error.value)
    assert message.startswith(f"{plan.path} (sha256 {plan.short}): this study contradicts the plan: ")
    assert "level: the plan declares 0.95, and this study has 0.9" in message
    assert "architectures: [CompactResNetV2] not done" in message and "seeds" not in message
    way_out = message.partition("--set ")[2].partition(", or write a new plan")[0]
    from shlex import split

    from cxr.core.params import read_overrides

    kept = read_overrides(split(way_out))
    refused(**{**kept, "seed": [0, 5]})
    assert kept == {"level": 0.95, "architecture": TWO.architecture}


def test_parameters_that_decide_verdicts_are_parameters():
    assert {"primary_metric", "level", "auc_margin", "centroid_margin"} <= set(deviations.binding())
    assert set(deviations.binding()) <= set(CompareParams.model_fields)
    assert deviations.NOT_DECLARED <= set(StudyParams.model_fields)


# -- the study


def session_of(study, tmp_path, images, plan=None):
    setup = Setup(tmp_path / "study.yaml", {}, PROJECT / "notebooks", tmp_path / "out")
    return Session(study, setup, [], images, "", {}, plan=plan)


def test_a_study_prints_its_plan_and_the_deviations(path, plan, tmp_path, images):
    kept = preflight.about_plan(session_of(TWO, tmp_path, images, plan), {})
    assert kept == [f"plan {path}: sha256 {plan.short}, of 2020-01-02 05:00 UTC", "  the study keeps to the plan"]
    more = StudyParams(**{**SMALL, "seed": [0, 1, 2]})
    lines = preflight.about_plan(session_of(more, tmp_path, images.iloc[1:], plan), {})
    assert "  deviates from the plan: seeds: [2] added afterwards" in lines
    assert any(
        line.startswith("  deviates from the plan: image set: the plan declares manifest ") for line in lines
    )
    assert preflight.about_plan(session_of(TWO, tmp_path, images), {}) == []
    (caution,) = preflight.about_plan(session_of(TWO, tmp_path, images), {"abc": "2026-01-02T00:00:00+00:00"})
    assert "cites the plan abc of 2026-01-02" in caution and "--plan" in caution


def test_a_plan_is_read_before_a_study_and_refused_if_changed(path, plan):
    assert preflight.read_plan(TWO) is None
    assert preflight.read_plan(StudyParams(**SMALL, plan=str(path))) == plan
    path.write_text(path.read_text() + "# one more line\n")
    with pytest.raises(InputError, match="was changed after it was frozen"):
        preflight.read_plan(StudyParams(**SMALL, plan=str(path)))


def test_a_plan_is_part_of_the_comparisons_fingerprint_and_of_no_others(path, tmp_path):
    copy = tmp_path / "elsewhere.yaml"
    copy.write_bytes(path.read_bytes())

    def compare(plan):
        return tracking.fingerprint("compare", CompareParams(plan=str(plan)), {"score": "x"})

    assert compare(path) == compare(copy) != compare("")
    plan_file.write(tmp_path / "other.yaml", contents.text(TWO, None, now=NOW, question="Another?"))
    assert compare(tmp_path / "other.yaml") != compare(path)
    with pytest.raises(InputError, match="plan: cannot read"):
        compare(tmp_path / "none.yaml")
    for model in (TrainParams, AttributeParams, ScoreParams):
        assert "plan" not in model.model_fields


def test_workers_get_the_plan_by_its_absolute_path_and_check_it(path, plan, tmp_path, images):
    from cxr.study import shared_files

    study = StudyParams(**SMALL, plan=str(path))
    (tmp_path / "study.yaml").touch()
    assert shared_files.absolute(study) == {"plan": str(path)} and shared_files.absolute(TWO) == {}
    shared = shared_files.used_by(session_of(study, tmp_path, images, plan), [])
    assert shared.files[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def store(tmp_path, monkeypatch, new_store):
    uri = new_store(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tracking.connect(uri)
    return uri


def opened(session):
    """The study's own run, as a study that starts opens it."""
    parent, _ = study_run.open_parent(session, {})
    study_run.reopen(session, parent)
    return parent


def test_the_studys_run_cites_and_holds_its_plan(path, plan, tmp_path, images, store):
    study = StudyParams(**SMALL, plan=str(path))
    assert tracking.plans_cited("demo") == {}
    without = opened(session_of(TWO, tmp_path, images))
    parent = opened(session_of(study, tmp_path, images, plan))
    run = tracking.stored(parent)
    assert run.tags.items() >= plan.tags.items() and run.file("plan.yaml").read_text() == plan.text
    assert "cxr.plan" not in tracking.stored(without).tags and not tracking.stored(without).has("plan.yaml")
    assert tracking.plans_cited("demo") == {plan.short: "2020-01-02T05:00:00+00:00"}
    # resumed, wherever the file lies then
    moved = StudyParams(**SMALL, plan=str(tmp_path / "moved.yaml"))
    assert opened(session_of(moved, tmp_path, images, plan)) == parent
    assert opened(session_of(TWO, tmp_path, images)) == without


# -- the report


CELLS = [(a, s, "layercam") for a in TWO.architecture for s in TWO.seed]


def report_table(plan, *, cells=CELLS, judged=None, manifest_hash=None, sections=(), **values):
    parameters = {**values_of(TWO), **values}
    here = plan.values["design"]["images"].get("manifest_sha256", "")
    return section.table(
        plan,
        parameters,
        judged=judged or asked.texts(TWO),
        cells=cells,
        manifest_hash=here if manifest_hash is None else manifest_hash,
        sections=sections,
    )


def rows_of(table, what):
    return [tuple(row) for row in table.loc[table["what"] == what].to_numpy().tolist()]


def test_a_study_that_keeps_to_its_plan(plan):
    table = report_table(plan)
    assert set(table["status"]) == {KEPT} and tuple(table.columns) == section.COLUMNS
    assert rows_of(table, "seeds") == [("seeds", "[0, 1]", "[0, 1]", KEPT)]
    assert rows_of(table, "claims") == [("claims", "6", "6", KEPT)]
    assert rows_of(table, "questions") == [("questions", "9", "9", KEPT)]
    assert rows_of(table, "auc_margin") == [("auc_margin", "0.02", "0.02", KEPT)]
    ((_, counted, _, _),) = rows_of(table, "image set")
    assert counted.startswith("60 images of ")
    sentence = section.cites(plan, table)
    assert (
        sentence.endswith("The study keeps to it.")
        and plan.short in sentence
        and "2020-01-02 05:00 UTC" in sentence
    )


def test_what_the_plan_does_not_name_was_looked_at_afterwards(plan):
    judged = {"claims": {**asked.texts(TWO)["claims"], "new": "Something else"}, "hopes": {"where": "Where?"}}
    del judged["claims"]["reversal"]
    judged["claims"]["extremes"] = "Reworded"
    headings = ["The paper's claims", "What was declared before", "The numbers", "Methods", "Runs"]
    table = report_table(plan, judged=judged, sections=[*headings, "Where the evidence is"])
    assert ("claims", "-", "Something else", AFTERWARDS) in rows_of(table, "claims")
    assert ("claims", plan.values["claims"]["reversal"], "-", NOT_DONE) in rows_of(table, "claims")
    assert ("claims", plan.values["claims"]["extremes"], "Reworded", CHANGED) in rows_of(table, "claims")
    assert ("claims", "4", "4", KEPT) in rows_of(table, "claims")
    assert rows_of(table, "hopes") == [("hopes", "-", "Where?", AFTERWARDS)]
    assert rows_of(table, "other sections") == [("other sections", "-", "Where the evidence is", AFTERWARDS)]


def test_the_report_names_deviations_missing_cells_and_other_images(plan):
    table = report_table(plan, cells=CELLS[:-1], seed=[0, 1, 7], images="all", manifest_hash="f" * 64)
    assert rows_of(table, "seeds") == [("seeds", "-", "[7]", ADDED)]
    assert rows_of(table, "cells") == [("cells", "CompactResNetV2 s1 layercam", "-", NOT_DONE)]
    assert ("images", "correct", "all", CHANGED) in rows_of(table, "images")
    assert any(row[2] == "manifest ffffffffffff" and row[3] == CHANGED for row in rows_of(table, "image set"))
    assert section.cites(plan, table).endswith("The study departs from it in 4 points.")


def test_verdicts_that_do_not_test_the_plan_are_said_aloud(plan):
    table = report_table(plan, level=0.9)
    assert rows_of(table, "level") == [("level", "0.95", "0.9", CONTRADICTS)]
    assert section.cites(plan, table).endswith("**The verdicts do not test what it declares: level.**")


def test_images_that_were_not_counted_cannot_be_compared(tmp_path):
    plan_file.write(tmp_path / "p.yaml", contents.text(TWO, None, now=NOW))
    plan = plan_file.read(tmp_path / "p.yaml")
    table = report_table(plan, manifest_hash="a" * 64)
    assert rows_of(table, "image set") == [
        ("image set", "not counted", "manifest aaaaaaaaaaaa", "cannot be compared")
    ]
    assert section.cites(plan, table).endswith("The study keeps to it.")


def test_when_the_plan_was_written():
    hour = timedelta(hours=1)
    before = section.when(NOW, [NOW + hour, NOW + 2 * hour], [NOW + hour, NOW + 2 * hour])
    assert before == "The first training of this report began on 2020-01-02 06:00 UTC, after the plan."
    late = section.when(NOW, [NOW + hour, NOW - hour], [NOW + hour, NOW - hour])
    assert late == "**This plan was written after the first training**, which began on 2020-01-02 04:00 UTC."
    known = section.when(NOW, [NOW + hour], [NOW + hour, NOW - hour, NOW - 2 * hour])
    assert "2 other trainings of the experiment, not in this report, began before the plan" in known


@pytest.fixture
def study(store, images):
    """A study of one cell in a store: its runs hold parameters only."""
    common = {"name": "demo"}
    inputs = {"manifest": data_manifest.manifest_hash(images)}
    own = {name: value for name, value in SMALL.items() if name in TrainParams.model_fields}
    one = {"architecture": "CompactDenseNet", "seed": 0}
    runs = {}
    for stage, settings_ in (
        ("train", TrainParams(**{**own, **one})),
        ("attribute", AttributeParams(**common, method=["layercam"], images="all")),
        ("score", ScoreParams(**common, method="layercam")),
    ):
        run = tracking.start(stage, settings_, inputs=inputs if stage == "train" else {})
        run.finish()
        runs[stage] = tracking.stored(run.run_id)
    row = {**one, "seed": "0", "method": "layercam", "run_id": runs["score"].run_id}
    row |= {"train_run": runs["train"].run_id, "attribute_run": runs["attribute"].run_id}
    return scores.Study(
        score_runs=[runs["score"]],
        runs=pd.DataFrame([row]),
        scores=pd.DataFrame(),
        training_runs={runs["train"].run_id: runs["train"]},
        attribute_runs={runs["attribute"].run_id: runs["attribute"]},
    )


def test_the_section_of_a_study_in_a_store(study, path, plan, tmp_path, images):
    alone = section.of(CompareParams(name="demo"), study)
    assert alone.sentences == section.NO_PLAN and alone.table.empty and alone.text == "" and alone.tags == {}

    cited = section.of(CompareParams(name="demo", plan=str(path), centroid_margin=0.3), study)
    assert (cited.text, cited.tags) == (plan.text, plan.tags)
    rows = {tuple(row) for row in cited.table.to_numpy().tolist()}
    assert {
        ("centroid_margin", str(TWO.centroid_margin), "0.3", CONTRADICTS),
        ("architectures", "[CompactResNetV2]", "-", CONTRADICTS),
        ("seeds", "[1]", "-", NOT_DONE),
        ("methods", "[layercam]", "[layercam]", KEPT),
        ("images", "correct", "all", CHANGED),
    } <= rows
    assert not any(row[0] in ("phantom_images", "name", "dropout") for row in rows), "they are as declared"
    assert any(row[0] == "image set" and row[1].startswith("60 images") and row[3] == KEPT for row in rows)
    ((_, _, others, status),) = rows_of(cited.table, "other sections")
    assert "Where the evidence is" in others and "Verdicts" not in others and status == AFTERWARDS
    assert "after the plan" in cited.sentences

    late = tmp_path / "late.yaml"
    plan_file.write(late, contents.text(TWO, images, now=datetime.now(UTC) + timedelta(minutes=1)))
    assert (
        "**This plan was written after the first training**"
        in section.of(CompareParams(name="demo", plan=str(late)), study).sentences
    )


def test_a_plan_that_an_earlier_run_cites_is_not_hidden(study, path, plan, tmp_path, images):
    opened(session_of(StudyParams(**SMALL, plan=str(path)), tmp_path, images, plan))
    alone = section.of(CompareParams(name="demo"), study).sentences
    assert "This report cites no plan, but an earlier run of the study does" in alone and plan.short in alone
    other = tmp_path / "other.yaml"
    plan_file.write(other, contents.text(TWO, images, now=NOW, question="Another?"))
    found = section.of(CompareParams(name="demo", plan=str(other)), study).sentences
    assert f"Other plans of this study: `{plan.short}` of 2020-01-02." in found
    assert "Other plans" not in section.of(CompareParams(name="demo", plan=str(path)), study).sentences


# -- the command line


def test_the_command_writes_a_plan_and_says_what_it_declares(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    assert main.main(["plan", "study.yaml", "--set", "level=0.9", "--question", "Do maps\nmove?"]) == 0
    plan = plan_file.read("plans/demo.yaml")
    assert plan.values["question"] == "Do maps move?" and plan.parameters["level"] == 0.9
    assert abs(datetime.now(UTC) - plan.written) < timedelta(minutes=1)
    out = capsys.readouterr().out
    assert plan.sha256 in out and "plans/demo.yaml" in out and "declares: 9 questions; 6 claims; overlap; " in out
    assert out.count("ASSUMPTIONS") == 2
    assert main.main(["plan", "study.yaml"]) == 2
    assert "plans/demo.yaml: exists already, and a plan is never overwritten" in capsys.readouterr().err


def test_a_plan_can_be_written_before_the_images_are_at_hand(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    words = ["--set", "data=/nowhere", "--output", str(tmp_path / "p.yaml")]
    assert main.main(["plan", str(tmp_path / "study.yaml"), *words]) == 0
    assert "warning: the images are not counted, and the plan says so: data: /nowhere" in capsys.readouterr().err
    plan = plan_file.read(tmp_path / "p.yaml")
    assert plan.values["design"]["images"] == {"counted": False, "data": "/nowhere"}
    assert plan.values["smallest_difference"].startswith("not known")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda text: text.replace("seeds:", "Seeds:"), [], "was changed after it was frozen"),
        (lambda text: text, ["--set", "auc_margin=0.5"], "this study contradicts the plan: auc_margin"),
        (lambda text: text, ["--set", "method=[gradcam]"], "keep to the plan with --set 'method=[layercam]'"),
    ],
)
def test_a_study_with_a_wrong_plan_ends_with_2_before_anything_is_made(
    path, tmp_path, capsys, change, words, message
):
    path.write_text(change(path.read_text()))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    uri = f"sqlite:///{tmp_path}/none.db"
    words = [*words, "--plan", str(path), "--tracking-uri", uri, "--out", str(tmp_path / "out")]
    assert main.main(["study", str(tmp_path / "study.yaml"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists() and not (tmp_path / "out").exists()


def test_a_dry_run_gives_the_plan_to_the_notebooks_and_prints_deviations(path, plan, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    words = ["--plan", str(path), "--dry-run", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    assert main.main(["study", str(tmp_path / "study.yaml"), *words, "--set", "seed=[0,1,2]"]) == 0
    out = capsys.readouterr().out
    assert f"# plan {path}: sha256 {plan.short}" in out
    assert "#   deviates from the plan: seeds: [2] added afterwards" in out
    assert f"plan: {path}" in out


def test_planning_the_embedded_study_loads_no_large_library(tmp_path):
    code = (
        "import sys\nfrom cxr.cli import main\n"
        f"code = main.main(['plan', 'params/study.yaml', '--output', {str(tmp_path / 'p.yaml')!r}])\n"
        "heavy = ('tensorflow', 'keras', 'mlflow', 'distributed', 'matplotlib')\n"
        "print(code, [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert plan_file.read(tmp_path / "p.yaml").values["design"]["images"]["counted"]


@pytest.mark.slow
def test_another_plan_makes_another_report_and_trains_nothing_again(tmp_path, store, monkeypatch, capsys):
    from test_study import write_notebooks, write_params

    from cxr.study import runner

    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)  # networks are built in other tests
    notebooks = write_notebooks(tmp_path / "notebooks", compare="print('cites', settings.plan)")
    compare = notebooks / "4_compare.ipynb"
    compare.write_text(compare.read_text().replace("# Parameters\\n", "# Parameters\\nplan = ''\\n"))
    params = write_params(tmp_path / "study.yaml", method=["layercam"])

    def go(**overrides) -> str:
        study = StudyParams.read(params, overrides)
        options = {"out": tmp_path / "out", "notebooks": notebooks, "tracking_uri": store}
        assert runner.run(study, params, overrides, **options) == 0
        return capsys.readouterr().out

    def plan_of(name: str, **values) -> str:
        study = StudyParams.read(params, values)
        text = contents.text(study, data_manifest.build_manifest(study), question=name)
        plan_file.write(tmp_path / f"{name}.yaml", text)
        return str(tmp_path / f"{name}.yaml")

    first, second = plan_of("first"), plan_of("second")
    out = go(plan=first)
    assert f"plan {first}: sha256 " in out and "the study keeps to the plan" in out
    assert out.index("the study keeps to the plan") < out.index("train CompactDenseNet s0: started")
    (study,) = tracking.find("study", experiment="fake")
    assert study.tags["cxr.plan"] == plan_file.read(first).short and study.has("plan.yaml")
    assert f"cites {first}" in tracking.find("compare", experiment="fake")[0].file("notebook.ipynb").read_text()
    assert "4 done already, 0 to run" in go(plan=first)
    assert "3 done already, 1 to run" in go(plan=second)
    stages = ("train", "attribute", "score", "compare", "study")
    assert [len(tracking.find(stage, experiment="fake")) for stage in stages] == [1, 1, 1, 2, 2]
    out = go()
    assert out.count("CAUTION: an earlier run of this study cites the plan") == 2
