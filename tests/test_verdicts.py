"""The rules of the verdicts: by hand, on small tables, and on whole studies with known answers."""

from dataclasses import replace
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxr.metrics.metric_table import METRICS
from cxr.report import evidence as report_evidence
from cxr.report import judgement, questions, robustness, verdicts
from cxr.report.judgement import CONTRADICTED, FRAGILE, OPEN, SUPPORTED
from cxr.statistics import estimates
from cxr.statistics.estimates import Estimate

NAMES = ("DenseNet201", "ResNet50V2", "InceptionV3")
MARGINS = report_evidence.Margins(auc=0.02, centroid=0.5, overlap=0.1)
METHODS = ("layercam", "gradcampp")
# From the paper: ResNet moves least, Inception most.
PLAIN = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.6, 0.8, 0.4), strict=True)}
REVERSED = {**PLAIN, ("ResNet50V2", "gradcampp"): 0.3, ("InceptionV3", "gradcampp"): 0.7}
KEYS = ("auc", "stable", "centroid", "depends", "extremes", "reversal")


def scores(centres, *, seeds, shift=0.01, two_heads=None, n=120, two_patients=None):
    rng = np.random.default_rng(1)
    tables = []
    for (architecture, method), centre in centres.items():
        for seed in seeds:
            table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)]})
            table["patient_id"] = [f"p{k // 2}" for k in range(n)]
            table = table.assign(architecture=architecture, method=method, seed=seed)
            table["overlap"] = centre + rng.normal(0, 0.005) + rng.normal(0, 0.03, n)
            table["centroid_shift"] = np.abs(shift + rng.normal(0, 0.003, n))
            table["centroid_shift_two_patients"] = np.abs(0.1 + rng.normal(0, 0.01, n))
            if two_heads is not None:
                table["overlap_two_heads"] = two_heads + rng.normal(0, 0.02, n)
            if two_patients is not None:
                table["overlap_two_patients"] = two_patients[architecture, method] + rng.normal(0, 0.02, n)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def predictions(*, seeds, noise, names=NAMES, n=600):
    """`noise` of the scores of both stages: 0 is a perfect classifier."""
    rng = np.random.default_rng(2)
    out = {}
    for name in names:
        for seed in seeds:
            for checkpoint in ("before", "after"):
                labels = np.arange(n) % 3
                p = np.eye(3)[labels] + rng.normal(0, noise[checkpoint], (n, 3))
                p = np.exp(p) / np.exp(p).sum(1, keepdims=True)
                table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "split": "test"})
                table["patient_id"] = [f"p{k // 2}" for k in range(n)]
                table["label"] = np.array(["a", "b", "c"])[labels]
                out[name, seed, checkpoint] = table.assign(p_0=p[:, 0], p_1=p[:, 1], p_2=p[:, 2])
    return out


def two_seeds(centre, *, pairs=((0, 1), (0, 2), (1, 2)), n=120):
    rng = np.random.default_rng(3)
    rows = []
    for architecture in NAMES:
        for method in METHODS:
            for a, b in pairs:
                table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)]})
                table["patient_id"] = [f"p{k // 2}" for k in range(n)]
                values = centre + rng.normal(0, 0.02, n)
                rows.append(
                    table.assign(architecture=architecture, method=method, seed_a=a, seed_b=b, overlap=values)
                )
    return pd.concat(rows, ignore_index=True)


def checks(table, *, failing=()):
    """All maps pass, except those of the cells `failing`, after fine-tuning."""
    rows = table[["architecture", "method"]].drop_duplicates().assign(n_seeds=table["seed"].nunique())
    rows = rows.merge(pd.DataFrame({"checkpoint": ["before", "after"]}), how="cross")
    cells = list(zip(rows["architecture"], rows["method"], strict=True))
    fails = (rows["checkpoint"] == "after") & np.array([cell in failing for cell in cells])
    return rows.assign(passes_checks=~fails, passes_class=~fails, passes_head=True)


def judge(table, *, seeds=(0, 1, 2), again=None, noise=None, map_checks=None, **options):
    noise = noise or {"before": 0.3, "after": 0.3}
    evidence = report_evidence.gather(
        table,
        pd.DataFrame() if again is None else again,
        predictions(seeds=seeds, noise=noise),
        metric="overlap",
        margins=options.pop("margins", MARGINS),
        n_boot=150,
        map_checks=checks(table) if map_checks is None else map_checks,
        **options,
    )
    return dict(zip(KEYS, verdicts.claims(evidence).values(), strict=True)), evidence


def beyond(evidence):
    """The study's own question whether fine-tuning moves the evidence further than another seed does."""
    return questions.beyond_seeds(questions.Asked(evidence, *({} for _ in range(5))))


def again(evidence, **changes):
    """The claims on the same evidence with some parts changed."""
    return dict(zip(KEYS, verdicts.claims(replace(evidence, **changes)).values(), strict=True))


def analyses(centres, *, other=None, n=8, turned=0, variant="score-softmax"):
    """The study's own analysis and `n` others with the same values; the last `turned` have those of `other`."""
    rows = []
    for number in range(n + 1):
        values = other if number > n - turned else centres
        for (architecture, method), value in values.items():
            own = {"variant": "default" if number == 0 else f"{variant}{number}", "grid": "image", "q": 0.2}
            own |= {"scale": "corrected", "images": "correct", "architecture": architecture, "method": method}
            rows.append(
                own | {"value": value, "is_default": number == 0, "uses_default_maps": False, "complete": True}
            )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- the rules by hand


def est(value, sd, *, k=3, n=50):
    """An estimate whose variance comes from seeds alone."""
    se = sd / sqrt(k)
    half = stats.t.ppf(0.975, k - 1) * se
    return Estimate(value, se, k - 1.0, value - half, value + half, 0.95, k, n, sd**2, 0.0, 0.0, k - 1.0)


def test_one_level_for_all():
    assert MARGINS.alpha == pytest.approx(0.025)
    assert replace(MARGINS, level=0.9).alpha == pytest.approx(0.05)


def test_supported_needs_every_member_each_at_the_level():
    assert judgement.settle([0.02, 0.024], [0.98, 0.97], 0.025) == (SUPPORTED, [0, 1])
    assert judgement.settle([0.02, 0.026], [0.98, 0.97], 0.025) == (OPEN, [1])
    assert judgement.settle([0.02, nan], [0.98, nan], 0.025) == (OPEN, [1])
    assert judgement.settle([], [], 0.025)[0] == OPEN


def test_contradicted_is_holms_over_all_members():
    assert judgement.settle([0.98, 0.02], [0.02, 0.98], 0.025)[0] == OPEN  # 2 x 0.02 = 0.04
    assert judgement.settle([0.99, 0.02], [0.012, 0.98], 0.025) == (CONTRADICTED, [0])  # 2 x 0.012 = 0.024
    # Step down: 2 x 0.01, then 1 x 0.024.
    assert judgement.settle([0.99, 0.97], [0.01, 0.024], 0.025) == (CONTRADICTED, [0, 1])


def test_an_open_claim_says_what_the_design_finds():
    found = judgement.judge_all([0.5, 0.01], [0.5, 0.99], "text", [est(0.0, 0.1), est(1.0, 0.2)], 0.025)
    assert found.verdict == OPEN and "with 80% power (3 seeds, 50 patients)" in found.needed
    smallest = float(found.needed.split()[1])
    nct = stats.nct.sf(stats.t.ppf(0.975, 2), 2, smallest / (0.1 / sqrt(3)))
    assert nct == pytest.approx(0.8, abs=0.02), "of the open member alone, and not of the observed effect"
    assert judgement.finds([est(0.0, 0.1), est(0.0, 0.4)], 0.025) == judgement.finds([est(9.0, 0.4)], 0.025)
    assert judgement.finds([est(0, 0.0)], 0.025) == judgement.NO_SPREAD
    one = estimates.estimate([0.3], np.random.default_rng(0).normal(size=(50, 1)), n_patients=20)
    assert judgement.finds([one], 0.025) == judgement.MORE_SEEDS
    assert judgement.judge_all([0.5], [0.5], "t", [est(0, 1)], 0.025, missing="maps").needed == "maps"


def with_change(*values, sd=0.002):
    """Evidence with these changes of AUC and nothing else."""
    change = {name: est(value, sd) for name, value in zip("ABCDEF", values, strict=False)}
    empty = pd.DataFrame()
    return report_evidence.Evidence(
        "overlap", True, MARGINS, {}, change, {}, {}, "", empty, empty, {}, empty, False
    )


def test_performance_is_stable_within_both_margins_or_not_beyond_either():
    se = 0.002 / sqrt(3)
    reach = stats.t.ppf(0.975, 2) * se  # 0.00497
    for side in (1, -1):
        assert verdicts.stable_performance(with_change(side * (0.02 - 1.01 * reach))).verdict == SUPPORTED
        assert verdicts.stable_performance(with_change(side * (0.02 - 0.99 * reach))).verdict == OPEN
        assert verdicts.stable_performance(with_change(side * (0.02 + 0.99 * reach))).verdict == OPEN
        assert verdicts.stable_performance(with_change(side * (0.02 + 1.01 * reach))).verdict == CONTRADICTED
    # With a second architecture Holm asks for 0.0125; a smaller p of one contradicts for all.
    assert verdicts.stable_performance(with_change(0, 0.02 + 1.01 * reach)).verdict == OPEN
    far = stats.t.ppf(1 - 0.0125, 2) * se
    assert verdicts.stable_performance(with_change(0, -0.02 - 1.01 * far)).verdict == CONTRADICTED
    open_one = verdicts.stable_performance(with_change(0.02))
    assert "power" in open_one.needed and "patients in the test set" not in open_one.needed


def test_auc_near_one_is_judged_on_the_logit_scale():
    # Mean 0.995, se 0.001: on its own scale 0.99 lies outside t's interval of two df, on the logit scale inside.
    auc = est(0.995, 0.001 * sqrt(3))
    assert auc.low > 0.99
    found = estimates.proportion(auc)
    half = stats.t.ppf(0.975, 2) * 0.001 / (0.995 * 0.005)
    logit = np.log(0.995 / 0.005)
    assert (found.low, found.high) == pytest.approx(
        (1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit)))
    )
    assert 0.98 < found.low < 0.99 < found.high < 1 and found.value == 0.995
    blank = with_change()
    assert verdicts.high_auc(replace(blank, auc={"A": found})).verdict == OPEN
    sure = estimates.proportion(est(0.998, 0.0005 * sqrt(3)))
    assert verdicts.high_auc(replace(blank, auc={"A": sure})).verdict == SUPPORTED
    perfect = estimates.proportion(est(1.0, 0.0))
    assert isnan(perfect.low) and perfect.value == 1
    assert verdicts.high_auc(replace(blank, auc={"A": perfect})).verdict == OPEN


# ---------------------------------------------------------------- whole studies


@pytest.fixture(scope="module")
def clear():
    """The claims and the evidence of a study with clear effects over three seeds."""
    return judge(scores(PLAIN, seeds=(0, 1, 2)), again=two_seeds(0.95))


def test_clear_effects_over_three_seeds_are_settled(clear):
    found, evidence = clear
    expected = {key: SUPPORTED for key in found} | {"reversal": CONTRADICTED}
    assert {key: item.verdict for key, item in found.items()} == expected
    assert "keeps its order under both methods" in found["reversal"].evidence
    # 0.95 minus 0.4, 0.6 and 0.8: ResNet is nearest to 0.
    answer = beyond(evidence)
    assert answer.verdict == "yes"
    assert answer.evidence.startswith("Overlap of two seeds minus that of before/after: +0.15")
    assert "(ResNet50V2 " in answer.evidence and " to +0.55" in answer.evidence
    for key in ("depends", "extremes", "reversal"):
        assert "not checked in other analyses" in found[key].evidence


def test_patients_of_one_seed_alone_contribute_no_covariance():
    """Where splits vary with the seed, a patient is drawn with the same weight in each test set that has it."""
    noise = {"before": 1.0, "after": 1.0}
    one = predictions(seeds=(0,), noise=noise, names=["A"], n=240)

    def var_patients(others):
        both = {(name, seed, stage): table for (name, _, stage), table in one.items() for seed in (0, 1)}
        for (name, seed, stage), table in both.items():
            if seed == 1:
                both[name, seed, stage] = table.assign(patient_id=others(table["patient_id"]))
        auc, _ = report_evidence._performance(both, n_boot=2000, level=0.95)
        return auc["A"].var_patients

    same = var_patients(lambda patient: patient)
    assert same > 0
    assert var_patients(lambda patient: "other-" + patient) < 0.1 * same
    half = var_patients(lambda patient: patient.where(np.arange(240) < 120, "other-" + patient))
    assert 0.25 * same < half < 0.75 * same


def test_a_reversal_is_found_with_its_pairs():
    found, evidence = judge(scores(REVERSED, seeds=(0, 1, 2)))
    assert found["reversal"].verdict == SUPPORTED
    assert "+0.30 [0.28, 0.31] under gradcampp" in found["reversal"].evidence and found["reversal"].needed == ""
    assert beyond(evidence).verdict == OPEN and "three seeds" in beyond(evidence).needed


def test_the_opposite_order_contradicts_the_paper():
    upside_down = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.6, 0.4, 0.8), strict=True)}
    found, _ = judge(scores(upside_down, seeds=(0, 1, 2)))
    assert found["extremes"].verdict == CONTRADICTED


def test_one_seed_settles_nothing_about_architectures():
    found, evidence = judge(scores(REVERSED, seeds=(0,), two_heads=0.95), seeds=(0,))
    for key in ("depends", "extremes", "reversal"):
        assert found[key].verdict == OPEN and "two training seeds" in found[key].needed
        assert "these networks" in found[key].evidence
    assert found["centroid"].verdict == SUPPORTED and "these networks only" in found["centroid"].evidence
    assert beyond(evidence).verdict == OPEN and "two heads" in beyond(evidence).evidence


def test_the_scope_says_what_new_trainings_are():
    assert "results describe these checkpoints only, not another training" in verdicts.scope(3, 1)
    assert "One network cannot represent others" in verdicts.scope(1, 2)
    three = verdicts.scope(3, 2)
    assert "3 networks cannot represent all others" in three and "the same split" in three
    assert "same pretrained weights" in three and "other splits" in verdicts.scope(3, 2, vary_split=True)


def test_equal_architectures_within_the_margin_contradict_dependence():
    same = {(name, m): 0.6 for m in METHODS for name in NAMES}
    found, _ = judge(scores(same, seeds=range(8), n=400), seeds=range(8))
    assert found["depends"].verdict == CONTRADICTED and "all within" in found["depends"].evidence
    assert found["extremes"].verdict == OPEN


def test_the_corrected_overlap_decides_and_the_raw_one_stands_beside_it():
    # A leads by 0.2 in overlap, but two of its patients share so much more that B leads in what is left:
    # (0.7 - 0.6) / 0.4 = 0.25 against (0.5 - 0.2) / 0.8 = 0.375.
    cells = {("DenseNet201", "layercam"): 0.7, ("ResNet50V2", "layercam"): 0.5}
    shared = {("DenseNet201", "layercam"): 0.6, ("ResNet50V2", "layercam"): 0.2}
    found, evidence = judge(scores(cells, seeds=(0, 1, 2), n=400, two_patients=shared))
    (row,) = evidence.pairs.itertuples()
    assert evidence.corrected and evidence.metric_text == "corrected overlap"
    assert row.difference == pytest.approx(0.25 - 0.375, abs=0.03)
    assert row.difference_raw == pytest.approx(0.2, abs=0.02)
    assert found["depends"].evidence.startswith("Corrected overlap: layercam: DenseNet201 - ResNet50V2 -0.1")


def test_holm_counts_all_methods_and_pairs_but_not_the_twin():
    cells = {(name, m): 0.6 for m in (*METHODS, "gradcampp_authors") for name in NAMES}
    _, evidence = judge(scores(cells, seeds=(0, 1)), seeds=(0, 1))
    asked = evidence.pairs[evidence.pairs["method"] != "gradcampp_authors"]
    assert len(evidence.pairs) == 9 and len(asked) == 6
    np.testing.assert_allclose(asked["p_holm"], estimates.holm(asked["p"].to_numpy()))
    assert evidence.pairs.loc[evidence.pairs["method"] == "gradcampp_authors", "p_holm"].isna().all()


def test_evidence_that_moves_no_more_than_another_seed_would():
    _, evidence = judge(scores(PLAIN, seeds=(0, 1, 2)), again=two_seeds(0.3))
    assert beyond(evidence).verdict == "no"


def test_beyond_seeds_is_a_jackknife_over_seeds():
    again = two_seeds(0.95)
    table = scores(PLAIN, seeds=(0, 1, 2))
    _, evidence = judge(table, again=again)
    own = table[(table["architecture"] == NAMES[0]) & (table["method"] == "layercam")]
    drift = own.groupby("seed")["overlap"].median()
    pairs = again[(again["architecture"] == NAMES[0]) & (again["method"] == "layercam")]
    pairs = pairs.groupby(["seed_a", "seed_b"])["overlap"].median()
    excess = {pair: value - drift[list(pair)].mean() for pair, value in pairs.items()}
    mean = np.mean(list(excess.values()))
    pseudo = [3 * mean - 2 * next(v for pair, v in excess.items() if seed not in pair) for seed in range(3)]
    found = evidence.excess[NAMES[0], "layercam"]
    assert found.value == pytest.approx(mean) and found.var_seeds == pytest.approx(np.var(pseudo, ddof=1))
    assert (found.n_seeds, found.n_patients) == (3, 60)


def test_two_seeds_are_one_pair_and_two_heads_do_not_show_that_another_seed_moves_less():
    pair = two_seeds(0.95, pairs=((0, 1),))
    _, evidence = judge(scores(PLAIN, seeds=(0, 1)), seeds=(0, 1), again=pair)
    assert beyond(evidence).verdict == OPEN and "three seeds" in beyond(evidence).needed
    _, evidence = judge(scores(PLAIN, seeds=(0, 1), two_heads=0.95), seeds=(0, 1), again=pair)
    assert evidence.against == "two heads" and beyond(evidence).verdict == OPEN
    assert "two heads differ by less" in beyond(evidence).needed


def test_a_wandering_centroid_and_a_changed_auc_are_contradicted():
    found, evidence = judge(scores(PLAIN, seeds=(0, 1, 2), shift=0.2), noise={"before": 0.9, "after": 0.1})
    assert found["centroid"].verdict == CONTRADICTED
    assert found["stable"].verdict == CONTRADICTED and found["auc"].verdict != CONTRADICTED
    assert all(change.low > 0.02 for change in evidence.auc_change.values())


@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_two_patients_and_white_noise_do_not_stay_put(scale):
    # The centroid moves as far as between two patients: a little (white noise), or much.
    rng = np.random.default_rng(0)
    table = scores(PLAIN, seeds=(0, 1, 2))
    table["centroid_shift"] = scale * rng.rayleigh(size=len(table))
    table["centroid_shift_two_patients"] = scale * rng.rayleigh(size=len(table))
    found, evidence = judge(table)
    assert found["centroid"].verdict == CONTRADICTED
    assert all(share.value == pytest.approx(1, abs=0.15) for share in evidence.shift.values())
    found, _ = judge(table.drop(columns="centroid_shift_two_patients"))
    assert found["centroid"].verdict == OPEN and "two patients" in found["centroid"].needed


def test_nothing_is_asked_where_it_cannot_be():
    found, _ = judge(scores(REVERSED, seeds=(0, 1, 2)), coincide=True)
    assert found["reversal"].verdict == OPEN and "last feature map" in found["reversal"].evidence
    one = scores({("ResNet50V2", "layercam"): 0.5}, seeds=(0, 1))
    found, _ = judge(one, seeds=(0, 1))
    assert found["depends"].evidence == "One architecture" and found["reversal"].evidence == "Not asked"
    assert found["extremes"].verdict == OPEN


def test_the_table_has_a_row_a_claim(clear):
    table = verdicts.table(dict(enumerate(clear[0].values())))
    assert list(table.columns) == ["claim", "verdict", "evidence", "limits"] and len(table) == 6
    assert set(table["verdict"]) <= {SUPPORTED, CONTRADICTED, FRAGILE, OPEN}


def test_auc_is_that_of_the_test_set_and_its_change_is_paired(clear):
    _, evidence = clear
    by_hand = []
    for seed in (0, 1, 2):
        table = predictions(seeds=(0, 1, 2), noise={"before": 0.3, "after": 0.3})["ResNet50V2", seed, "after"]
        p = table[["p_0", "p_1", "p_2"]].to_numpy()
        labels = table["label"].map({"a": 0, "b": 1, "c": 2})
        by_hand.append(np.mean([roc_auc_score(labels == k, p[:, k]) for k in range(3)]))
    assert evidence.auc["ResNet50V2"].value == pytest.approx(np.mean(by_hand))
    assert evidence.auc["ResNet50V2"].n_patients == 300 and METRICS["overlap"].higher_is_more_stable


def test_test_sets_of_seeds_may_differ():
    # Seed 1 has other patients than seed 0: nothing in common, so patients contribute no covariance.
    own = predictions(seeds=(0, 1), noise={"before": 0.9, "after": 0.9}, names=("DenseNet201",))
    for (_, seed, _), table in own.items():
        table["patient_id"] = f"s{seed}" + table["patient_id"]
    auc, _ = report_evidence._performance(own, n_boot=400, level=0.95)
    assert auc["DenseNet201"].n_patients == 600
    alone, _ = report_evidence._performance(
        {key: table for key, table in own.items() if key[1] == 0}, n_boot=400, level=0.95
    )
    assert auc["DenseNet201"].var_patients < 0.2 * alone["DenseNet201"].var_patients


def test_power_grows_with_seeds_and_effect_and_one_seed_plans_nothing(clear):
    _, evidence = clear
    power = report_evidence.power_table(evidence.pairs)
    assert len(power) == 24 and power["power"].between(0, 1).all()
    for _, rows in power.groupby(["effect", "patients"]):
        assert rows.sort_values("seeds")["power"].is_monotonic_increasing
    at = power.set_index(["effect", "patients", "seeds"])["power"]
    assert at[0.1, 60, 5] >= at[0.05, 60, 5] and at[0.05, 240, 10] >= at[0.05, 60, 10]
    _, evidence = judge(scores(PLAIN, seeds=(0,)), seeds=(0,))
    assert report_evidence.power_table(evidence.pairs).empty


def test_a_study_in_which_nothing_moves_claims_no_difference():
    table = scores(PLAIN, seeds=(0, 1), two_heads=0.9).assign(overlap=1.0, centroid_shift=0.0)
    found, evidence = judge(table, seeds=(0, 1), noise={"before": 0, "after": 0})
    assert beyond(evidence).verdict == "no", "another head moves them, fine-tuning does not"
    for key in ("depends", "extremes", "reversal"):
        assert found[key].verdict == OPEN and "without any spread" in found[key].needed
        assert "nan" not in found[key].evidence and "(no interval)" in found[key].evidence


# ---------------------------------------------------------------- maps that fail their checks


def test_failing_maps_leave_claims_about_maps_open_and_say_why():
    table = scores(PLAIN, seeds=(0, 1, 2))
    failing = [("InceptionV3", m) for m in METHODS]
    found, _ = judge(table, again=two_seeds(0.95), map_checks=checks(table, failing=failing))
    assert {key for key in KEYS if found[key].verdict == OPEN} == {"centroid", "extremes", "reversal"}
    for key in ("centroid", "extremes", "reversal"):
        assert "InceptionV3 layercam" in found[key].needed
        assert "fail (class) after" in found[key].needed
    assert found["auc"].verdict == SUPPORTED and found["stable"].verdict == SUPPORTED
    # The other two differ and pass: enough for "depends".
    assert found["depends"].verdict == SUPPORTED and "InceptionV3" not in found["depends"].evidence


def test_maps_without_checks_are_no_ground_for_a_claim():
    table = scores(REVERSED, seeds=(0, 1, 2))
    found, evidence = judge(table, map_checks=pd.DataFrame())
    assert set(evidence.unsound.values()) == {"were not checked"} and len(evidence.unsound) == 6
    assert {found[key].verdict for key in ("centroid", "depends", "extremes", "reversal")} == {OPEN}
    assert "were not checked" in found["reversal"].needed and found["auc"].verdict == SUPPORTED
    some = checks(table)
    some["n_seeds"] -= some["architecture"] == "ResNet50V2"
    found = report_evidence.unsound(some, table)
    assert found == {("ResNet50V2", m): "were not checked under every seed" for m in METHODS}


def test_cells_that_pass_can_contradict_a_claim_about_all():
    table = scores(PLAIN, seeds=(0, 1, 2), shift=0.2)
    found, _ = judge(table, map_checks=checks(table, failing=[("InceptionV3", "layercam")]))
    assert found["centroid"].verdict == CONTRADICTED


# ---------------------------------------------------------------- fragile


UPSIDE_DOWN = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.6, 0.4, 0.8), strict=True)}


@pytest.mark.parametrize(("turned", "verdict"), [(0, SUPPORTED), (2, SUPPORTED), (3, FRAGILE), (8, FRAGILE)])
def test_an_order_needs_the_declared_majority_of_analyses(clear, turned, verdict):
    _, evidence = clear
    found = again(evidence, analyses=analyses(PLAIN, other=UPSIDE_DOWN, turned=turned))
    assert found["extremes"].verdict == found["depends"].verdict == verdict
    assert f"holds in {8 - turned} of 8 other analyses" in found["extremes"].evidence
    if verdict == FRAGILE:
        assert "supported here, but" in found["extremes"].evidence and "75%" in found["extremes"].evidence
    found = again(
        evidence,
        analyses=analyses(PLAIN, other=UPSIDE_DOWN, turned=3),
        margins=replace(MARGINS, majority=0.6),
    )
    assert found["extremes"].verdict == SUPPORTED


def test_a_contradicted_order_needs_the_majority_too():
    found, _ = judge(scores(UPSIDE_DOWN, seeds=(0, 1, 2)), analyses=analyses(UPSIDE_DOWN, other=PLAIN, turned=7))
    assert found["extremes"].verdict == FRAGILE and "contradicted here, but" in found["extremes"].evidence


def test_a_reversal_needs_the_majority():
    _, evidence = judge(scores(REVERSED, seeds=(0, 1, 2)))
    found = again(evidence, analyses=analyses(REVERSED, other=PLAIN, turned=1))
    assert found["reversal"].verdict == SUPPORTED and "7 of 8" in found["reversal"].evidence
    found = again(evidence, analyses=analyses(REVERSED, other=PLAIN, turned=6))
    assert found["reversal"].verdict == FRAGILE


def test_which_analyses_count():
    lead = [("layercam", "ResNet50V2", "InceptionV3", 1)]
    table = analyses(PLAIN, other=UPSIDE_DOWN, turned=2)
    assert robustness.agreement(table, lead) == (8, 6)
    assert robustness.agreement(table, [*lead, ("gradcampp", "InceptionV3", "ResNet50V2", 1)]) == (8, 0)
    assert robustness.agreement(table.assign(uses_default_maps=True), lead) == (0, 0)
    assert robustness.agreement(table.assign(complete=table["q"] > 1), lead) == (0, 0)
    both = [*lead, ("gradcampp", "ResNet50V2", "InceptionV3", 1)]
    final = table.assign(variant=table["variant"].replace("score-softmax8", "layer-final"))
    assert robustness.agreement(final, both) == (7, 6) and robustness.agreement(final, lead) == (8, 6)
    half = table.assign(uses_default_maps=table["method"] == "layercam")  # one that only Grad-CAM++ has
    assert robustness.agreement(half, both) == (8, 6) and robustness.agreement(half, lead) == (0, 0)
    tied = table.assign(value=0.5)
    assert robustness.agreement(tied, lead) == (8, 0)


def test_both_layers_must_agree(clear):
    _, evidence = clear
    for layer, verdict in (("layer-penultimate_cut", FRAGILE), ("layer-final", SUPPORTED)):
        others = analyses(PLAIN, other=UPSIDE_DOWN, n=9, turned=1)
        others["variant"] = others["variant"].replace("score-softmax9", layer)
        found = again(evidence, analyses=others)
        assert found["extremes"].verdict == verdict
    found = again(
        evidence, analyses=others.assign(variant=others["variant"].replace("layer-final", "layer-penultimate"))
    )
    assert "turns round at penultimate" in found["extremes"].evidence


def test_both_normalisations_of_gradcampp_must_agree():
    cells = {("DenseNet201", "gradcampp"): 0.7, ("ResNet50V2", "gradcampp"): 0.4}
    same = {(name, "gradcampp_authors"): value for (name, _), value in cells.items()}
    level = {(name, "gradcampp_authors"): 0.5 for name, _ in cells}
    found, _ = judge(scores(cells, seeds=(0, 1, 2)))
    assert "not checked under gradcampp_authors" in found["depends"].evidence
    found, _ = judge(scores(cells | same, seeds=(0, 1, 2)))
    assert found["depends"].verdict == SUPPORTED and "not checked under" not in found["depends"].evidence
    found, _ = judge(scores(cells | level, seeds=(0, 1, 2)))
    assert found["depends"].verdict == FRAGILE
    assert "gradcampp_authors does not show it" in found["depends"].evidence
    turned = {("ResNet50V2", "gradcampp_authors"): 0.7, ("DenseNet201", "gradcampp_authors"): 0.4}
    found, _ = judge(scores(cells | turned, seeds=(0, 1, 2)))
    assert found["depends"].verdict == FRAGILE


def test_a_claim_about_all_cells_is_not_contradicted_by_one_normalisation():
    table = scores({("DenseNet201", m): 0.5 for m in ("gradcampp", "gradcampp_authors")}, seeds=(0, 1, 2))
    table.loc[table["method"] == "gradcampp", "centroid_shift"] += 0.2
    found, _ = judge(table)
    assert found["centroid"].verdict == FRAGILE and "one normalisation" in found["centroid"].evidence
    found, _ = judge(table.assign(centroid_shift=0.2 + 0.001 * np.arange(len(table)) % 7))
    assert found["centroid"].verdict == CONTRADICTED
