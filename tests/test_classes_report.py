"""Class by class, and test sets from elsewhere: small tables whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from test_questions import CELLS, MARGINS, checked, predictions, study

from cxr.core.errors import InputError
from cxr.report import classes, elsewhere
from cxr.report import evidence as report_evidence
from cxr.report.questions import NO, YES


def table_of(scores, *, failing=()):
    found = report_evidence.gather(
        scores,
        pd.DataFrame(),
        predictions(scores["architecture"].unique(), sorted(scores["seed"].unique())),
        metric="overlap",
        margins=MARGINS,
        map_checks=checked(scores, failing),
        n_boot=200,
    )
    return classes.of_study(found, scores, n_boot=200)


def by_class(**overlaps):
    """Scores of images of several classes; each class has an overlap of its own."""
    parts = []
    for number, (label, value) in enumerate(overlaps.items()):
        part = study({"overlap": value, "overlap_more_training": 0.9}, cells=CELLS[:2])
        own = {"image_id": part["image_id"] + label, "patient_id": part["patient_id"] + str(number)}
        parts.append(part.assign(label=label, **own))
    return pd.concat(parts, ignore_index=True)


def test_each_class_is_asked_for_itself():
    table = table_of(by_class(moved=0.65, stayed=0.995, more=0.95)).set_index(["method", "class"])
    for method in ("layercam", "gradcampp"):
        assert table.at[(method, "moved"), "drift"] == pytest.approx((0.65 - 0.3) / 0.7, abs=0.02)
        assert table.at[(method, "moved"), "moved"] == YES and table.at[(method, "stayed"), "moved"] == NO
        assert table.at[(method, "moved"), "beyond_null"] == YES
        assert table.at[(method, "more"), "beyond_null"] == NO
    assert (table["n_patients"] == 40).all() and (table["n_images"] == 240).all()
    said = classes.sentence(table.reset_index())
    assert "moved in 2 of 2" in said and "stayed in 0 of 2" in said


def test_maps_that_fail_and_few_patients_have_no_answer():
    scores = by_class(a=0.65, b=0.65)
    rare = scores[(scores["label"] == "b") & scores["patient_id"].isin([f"p{k}1" for k in range(5)])]
    table = table_of(pd.concat([scores[scores["label"] == "a"], rare]), failing=[CELLS[0]])
    answers = table.set_index(["method", "class"])["moved"].to_dict()
    assert answers == {
        ("layercam", "a"): classes.FAILS,
        ("layercam", "b"): classes.FAILS,
        ("gradcampp", "a"): YES,
        ("gradcampp", "b"): classes.FEW,
    }
    few = table[table["class"] == "b"]
    assert few["drift_ci_low"].isna().all() and few["p_moved"].isna().all()


def test_the_sides_of_all_rows_are_one_family():
    p = np.array([[0.01, 0.9], [0.02, 0.9], [0.9, 0.001]])
    answers, smallest = classes._judged(p, np.array([True, True, True]), 0.05)
    np.testing.assert_allclose(smallest, [0.03, 0.04, 0.003])  # Holm of three by hand
    assert answers.tolist() == [YES, YES, NO]


def test_without_sets_from_elsewhere_nothing_is_said():
    assert elsewhere.of_study([], pd.DataFrame(), "overlap").empty
    assert elsewhere.sentence(pd.DataFrame()).startswith("Not asked")


def test_a_run_that_is_no_external_comparison_is_refused(monkeypatch):
    class Run:
        run_id, name, stage, complete, params = "abc", "drift a -> b", "drift", True, {}

    monkeypatch.setattr(elsewhere.tracking, "stored", lambda run_id: Run)
    with pytest.raises(InputError, match="run abc .* is no finished comparison on an external set"):
        elsewhere.of_study(["abc"], pd.DataFrame(), "overlap")


def test_a_set_without_a_class_has_no_auc():
    rows = pd.DataFrame({"set": ["test", "there"], "n_patients": [50, 30], "auc_macro_after": [0.9, np.nan]})
    text = elsewhere.sentence(rows.assign(drift=[0.5, 0.25]))
    assert text == (
        "On there (30 patients), there is no macro AUC, as a class has no image. The drift is 0.25 (0.50 on the "
        "study's own)."
    )
