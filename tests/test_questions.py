"""The study's own questions, on small tables whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cxr.report import evidence as report_evidence
from cxr.report import questions
from cxr.report.judgement import FRAGILE, NO_SPREAD, OPEN
from cxr.report.questions import NO, SOME, YES

MARGINS = report_evidence.Margins(auc=0.02, centroid=0.5, overlap=0.1)
CELLS = [("A", "layercam"), ("A", "gradcampp"), ("B", "layercam"), ("B", "gradcampp")]
ASKED = dict(
    zip(
        ("accuracy", "moved", "seeds", "null", "disease", "network", "method", "class", "checks"),
        questions.QUESTIONS,
        strict=True,
    )
)


def study(columns, *, seeds=(0, 1, 2), cells=CELLS, n=80, sd=0.01):
    """A score table: every column of `columns` holds its centre, or a centre by cell, with a little noise."""
    rng, tables = np.random.default_rng(0), []
    for architecture, method in cells:
        for seed in seeds:
            table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)]})
            table["patient_id"] = [f"p{k // 2}" for k in range(n)]
            table = table.assign(architecture=architecture, method=method, seed=seed)
            for name, centre in {"overlap_two_patients": 0.3, "centroid_shift": 0.02, **columns}.items():
                centre = centre[architecture, method] if isinstance(centre, dict) else centre
                table[name] = centre + rng.normal(0, sd / 2) + rng.normal(0, sd, n)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def predictions(architectures, seeds, n=300):
    rng, out = np.random.default_rng(1), {}
    for name in architectures:
        for seed in seeds:
            labels = np.arange(n) % 3
            logits = np.eye(3)[labels] * 4 + rng.normal(0, 1, (n, 3))
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "split": "test"})
            table = table.assign(patient_id=[f"p{k}" for k in range(n)], label=np.array(["a", "b", "c"])[labels])
            for checkpoint in ("before", "after"):
                out[name, seed, checkpoint] = table.assign(p_0=p[:, 0], p_1=p[:, 1], p_2=p[:, 2])
    return out


def checked(table, failing=()):
    rows = table[["architecture", "method"]].drop_duplicates().assign(n_seeds=table["seed"].nunique())
    rows = rows.merge(pd.DataFrame({"checkpoint": ["before", "after"]}), how="cross")
    fails = [cell in failing for cell in zip(rows["architecture"], rows["method"], strict=True)]
    return rows.assign(passes_checks=~np.array(fails), passes_class=~np.array(fails), passes_head=True)


def ask(table, *, failing=(), classes=None, check=True):
    seeds = sorted(table["seed"].unique())
    checks = checked(table, failing) if check else pd.DataFrame()
    evidence = report_evidence.gather(
        table,
        pd.DataFrame(),
        predictions(table["architecture"].unique(), seeds),
        metric="overlap",
        margins=MARGINS,
        map_checks=checks,
        n_boot=200,
    )
    asked = questions.gather(evidence, table, checks=checks, classes=classes, n_boot=200)
    return questions.answers(asked), asked


def answer(table, question, **options):
    return ask(table, **options)[0][ASKED[question]]


def test_moved_in_every_cell_with_the_value_by_hand():
    judgement = answer(study({"overlap": 0.65}, sd=1e-4), "moved")
    assert judgement.verdict == YES
    assert "0.50" in judgement.evidence  # (0.65 - 0.3) / (1 - 0.3)


def test_identical_maps_did_not_move():
    assert answer(study({"overlap": 0.99}), "moved").verdict == NO


def test_maps_that_are_identical_in_every_image_did_not_move():
    table = study({"overlap": 0.5}).assign(overlap=1.0)
    judgement = answer(table, "moved")
    assert (
        judgement.verdict == NO and "In 0 of 4 cells no more is left than two patients share" in judgement.evidence
    )
    alike = study({"overlap": 0.5}).assign(overlap=0.65, overlap_two_patients=0.3)
    assert answer(alike, "moved").verdict == OPEN, "no spread elsewhere: no test"


def test_moved_in_some_cells_is_in_part():
    overlap = dict.fromkeys(CELLS, 0.99) | {("B", "gradcampp"): 0.5}
    judgement = answer(study({"overlap": overlap}), "moved")
    assert judgement.verdict == SOME
    assert judgement.evidence.startswith("yes in 1 and no in 3 of 4 cells")


def test_cells_whose_maps_fail_do_not_count():
    overlap = dict.fromkeys(CELLS, 0.99) | {("B", "gradcampp"): 0.5}
    judgement = answer(study({"overlap": overlap}), "moved", failing=[("B", "gradcampp")])
    assert judgement.verdict == NO
    assert "without 1 cell whose maps do not pass" in judgement.evidence
    assert "B gradcampp" not in judgement.evidence, "the range is of cells that count"


@pytest.mark.parametrize("options", [{"failing": CELLS}, {"check": False}])
def test_nothing_is_said_of_maps_that_all_fail_or_were_not_checked(options):
    for question in ("moved", "null", "disease", "network", "method"):
        table = study({"overlap": 0.5, "overlap_more_training": 0.9, "lesion_energy_change": 0.1})
        assert answer(table, question, **options).verdict == OPEN


def test_overlap_near_that_of_two_patients_and_of_chance_is_said():
    text = answer(study({"overlap": 0.3, "overlap_chance": 0.15}), "moved").evidence
    assert "in 0 no more than chance" in text
    assert int(text.split("In ")[1].split(" of")[0]) >= 3  # cells with nothing above two patients


def test_the_matched_null_is_above_below_or_missing():
    assert answer(study({"overlap": 0.5, "overlap_more_training": 0.9}), "null").verdict == YES
    assert answer(study({"overlap": 0.9, "overlap_more_training": 0.5}), "null").verdict == NO
    missing = answer(study({"overlap": 0.5}), "null")
    assert missing.verdict == OPEN and "placebo" in missing.needed


def test_the_null_is_on_the_corrected_scale():
    _, asked = ask(study({"overlap": 0.44, "overlap_more_training": 0.86}, sd=1e-4))
    assert asked.null["A", "layercam"].value == pytest.approx(0.8 - 0.2, abs=0.01)


def test_disease_towards_away_and_in_part():
    assert answer(study({"overlap": 0.5, "lesion_energy_change": 0.05}), "disease").verdict == "towards"
    assert answer(study({"overlap": 0.5, "lesion_energy_change": -0.05}), "disease").verdict == "away"
    both = dict.fromkeys(CELLS, 0.05) | {("A", "layercam"): -0.05}
    judgement = answer(study({"overlap": 0.5, "lesion_energy_change": both}), "disease")
    assert judgement.verdict == SOME
    assert judgement.evidence.startswith("towards in 3 and away in 1 of 4 cells")
    assert answer(study({"overlap": 0.5}), "disease").verdict == OPEN


def test_the_network_matters_only_as_far_as_other_analyses_agree():
    overlap = {("A", m): 0.5 for m in ("layercam", "gradcampp")} | {
        ("B", m): 0.8 for m in ("layercam", "gradcampp")
    }
    judgement = answer(study({"overlap": overlap}), "network")
    assert judgement.verdict in (YES, FRAGILE)  # without a multiverse, the text says so
    assert "not checked in other analyses" in judgement.evidence


def test_the_method_matters_within_a_network():
    overlap = {(a, "layercam"): 0.5 for a in "AB"} | {(a, "gradcampp"): 0.8 for a in "AB"}
    assert answer(study({"overlap": overlap}), "method").verdict == YES
    assert answer(study({"overlap": 0.6}), "method").verdict == NO  # all within the margin
    one = study({"overlap": 0.6}, cells=[("A", "layercam")])
    assert answer(one, "method").verdict == OPEN


def test_two_normalisations_are_not_two_methods():
    cells = [("A", "gradcampp"), ("A", "gradcampp_authors")]
    table = study({"overlap": {cells[0]: 0.4, cells[1]: 0.8}}, cells=cells)
    assert answer(table, "method").evidence == "Not asked: one method"


def test_the_class_matters_after_holm_over_all_cells():
    table = study({"overlap": 0.6})
    rows = [
        {"group": "label", "architecture": a, "method": m, "value": v, "difference": d, "p": p, "n_seeds": 3}
        for a, m in CELLS
        for v, d, p in (("x", 0.2, 0.001), ("y", -0.1, 0.6))
    ]
    rows.append(rows[0] | {"group": "sex", "p": 1e-9, "difference": 0.9})  # another question
    classes = pd.DataFrame(rows)
    judgement = answer(table, "class", classes=classes)
    assert judgement.verdict == YES
    assert "x against the other classes +0.20" in judgement.evidence and "4 of 8" in judgement.evidence
    assert answer(table, "class", classes=classes.assign(p=0.04)).verdict == OPEN
    same = answer(table, "class", classes=classes.assign(p=np.nan, difference=0.0))  # identical maps
    assert same.verdict == OPEN and same.needed == NO_SPREAD
    assert answer(table, "class").verdict == OPEN


def test_the_checks_themselves_are_a_question():
    table = study({"overlap": 0.6})
    assert answer(table, "checks").verdict == YES
    some = answer(table, "checks", failing=[("A", "gradcampp")])
    assert some.verdict == SOME and "In 6 of 8 cases" in some.evidence
    assert some.needed == "A gradcampp fail (class) before and after"
    assert answer(table, "checks", failing=CELLS).verdict == NO
    assert answer(table, "checks", check=False).verdict == OPEN


def test_one_network_with_one_seed_gets_answers_about_itself():
    columns = {
        "overlap": 0.5,
        "overlap_two_heads": 0.9,
        "lesion_energy_change": 0.05,
        "overlap_more_training": 0.9,
    }
    table = study(columns, cells=[("A", "layercam")], seeds=(0,))
    found, _ = ask(table)
    for question in ("moved", "null"):
        assert found[ASKED[question]].verdict == YES
        assert "these networks only" in found[ASKED[question]].evidence
    assert found[ASKED["seeds"]].verdict == OPEN and "needs three seeds" in found[ASKED["seeds"]].needed
    above = study(columns | {"overlap": 0.95}, cells=[("A", "layercam")], seeds=(0,))
    assert answer(above, "seeds").verdict == NO, "another head alone moves it further"
    assert found[ASKED["disease"]].verdict == "towards"
    assert found[ASKED["network"]].verdict == OPEN


def test_the_table_and_the_tags_have_every_question():
    found, _ = ask(study({"overlap": 0.6}))
    assert list(questions.table(found)["question"]) == list(questions.QUESTIONS)
    assert set(questions.table(found)["answer"]) <= set(questions.ANSWERS)
    assert questions.tags(found)["cxr.answer.2"] == f"{found[ASKED['moved']].verdict}: {ASKED['moved']}"


def test_disease_is_the_mean_with_the_interval_of_t_over_seeds():
    """With all images alike within a seed, only seeds vary: SciPy's t interval over their means."""
    table = study({"overlap": 0.6, "lesion_energy_change": 0.0}, cells=[("A", "layercam")])
    means = {0: 0.01, 1: 0.03, 2: 0.08}
    table["lesion_energy_change"] = table["seed"].map(means)
    _, asked = ask(table)
    est = asked.disease["A", "layercam"]
    low, high = stats.t.interval(0.95, 2, np.mean([*means.values()]), stats.sem([*means.values()]))
    assert (est.low, est.high) == pytest.approx((low, high))
