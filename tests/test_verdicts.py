import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.metrics.metric_table import METRICS
from cxr.report import evidence as report_evidence
from cxr.report import judgement, verdicts
from cxr.statistics import planning

NAMES = ("DenseNet201", "ResNet50V2", "InceptionV3")
MARGINS = report_evidence.Margins(auc=0.02, centroid=0.05, overlap=0.05)
METHODS = ("layercam", "gradcampp")
# From the paper: ResNet moves least, Inception most.
PLAIN = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.6, 0.8, 0.4), strict=True)}
REVERSED = {**PLAIN, ("ResNet50V2", "gradcampp"): 0.3, ("InceptionV3", "gradcampp"): 0.7}


def scores(centres, *, seeds, shift=0.01, two_heads=None, n=120):
    rng = np.random.default_rng(1)
    tables = []
    for (architecture, method), centre in centres.items():
        for seed in seeds:
            table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)]})
            table["patient_id"] = [f"p{k // 2}" for k in range(n)]
            table = table.assign(architecture=architecture, method=method, seed=seed)
            table["overlap"] = centre + rng.normal(0, 0.005) + rng.normal(0, 0.03, n)
            table["centroid_shift"] = np.abs(shift + rng.normal(0, 0.003, n))
            if two_heads is not None:
                table["overlap_two_heads"] = two_heads + rng.normal(0, 0.02, n)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def predictions(*, seeds, noise, names=NAMES, n=120):
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


def two_seeds(centre, *, pairs=((0, 1), (1, 2), (2, 0)), n=120):
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


def judge(table, *, seeds=(0, 1, 2), again=None, noise=None, coincide=False):
    noise = noise or {"before": 0.3, "after": 0.3}
    evidence = report_evidence.gather(
        table,
        pd.DataFrame() if again is None else again,
        predictions(seeds=seeds, noise=noise),
        metric="overlap",
        margins=MARGINS,
        n_boot=150,
        coincide=coincide,
    )
    claims = verdicts.claims(evidence)
    keys = ("auc", "stable", "centroid", "beyond", "depends", "extremes", "reversal")
    return dict(zip(keys, claims.values(), strict=True)), evidence


@pytest.fixture(scope="module")
def clear():
    """The claims and the evidence of a study with clear effects over three seeds."""
    return judge(scores(PLAIN, seeds=(0, 1, 2)), again=two_seeds(0.95))


def test_clear_effects_over_three_seeds_are_settled(clear):
    found, _ = clear
    expected = {key: judgement.SUPPORTED for key in found} | {"reversal": judgement.CONTRADICTED}
    assert {key: item.verdict for key, item in found.items()} == expected
    assert "keeps its order under both methods" in found["reversal"].evidence
    assert "InceptionV3 layercam" in found["beyond"].evidence and "two seeds" in found["beyond"].evidence


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
    found, _ = judge(scores(REVERSED, seeds=(0, 1, 2)))
    assert found["reversal"].verdict == judgement.SUPPORTED
    assert "ResNet50V2 against InceptionV3" in found["reversal"].evidence and found["reversal"].needed == ""
    assert found["beyond"].verdict == judgement.OPEN and "extra_heads" in found["beyond"].needed


def test_the_opposite_order_contradicts_the_paper():
    upside_down = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.6, 0.4, 0.8), strict=True)}
    found, _ = judge(scores(upside_down, seeds=(0, 1, 2)))
    assert found["extremes"].verdict == judgement.CONTRADICTED


def test_one_seed_settles_nothing_about_architectures():
    found, _ = judge(scores(REVERSED, seeds=(0,), two_heads=0.95), seeds=(0,))
    for key in ("depends", "extremes", "reversal"):
        assert found[key].verdict == judgement.OPEN and "two training seeds" in found[key].needed
        assert "these networks" in found[key].evidence
    assert found["centroid"].verdict == judgement.SUPPORTED and "these networks only" in found["centroid"].evidence
    assert found["beyond"].verdict == judgement.SUPPORTED and "two heads" in found["beyond"].evidence
    assert "results describe these checkpoints only, not another training" in verdicts.scope(3, 1)
    assert "One network cannot represent others" in verdicts.scope(1, 2)
    assert "3 networks cannot represent all others" in verdicts.scope(3, 2)


def test_equal_architectures_within_the_margin_contradict_dependence():
    same = {(name, m): 0.6 for m in METHODS for name in NAMES}
    found, _ = judge(scores(same, seeds=range(8), n=400), seeds=range(8))
    assert found["depends"].verdict == judgement.CONTRADICTED and "all within" in found["depends"].evidence
    assert found["extremes"].verdict == judgement.OPEN


def test_what_is_open_says_what_it_would_take():
    near = {(name, m): v for m in METHODS for name, v in zip(NAMES, (0.60, 0.61, 0.59), strict=True)}
    found, evidence = judge(scores(near, seeds=(0, 1), n=40), seeds=(0, 1))
    assert found["depends"].verdict == judgement.OPEN
    assert any(word in found["depends"].needed for word in ("training seeds", "patients", "no realistic sample"))
    est = evidence.pairs["estimate"].iloc[0]
    alone = planning.seeds_needed(est, effect=0.05, alpha=0.05)
    among = planning.seeds_needed(est, effect=0.05, alpha=0.05 / 3)
    assert alone <= among, "Holm asks for more"
    assert f"about {max(among, 3)} training seeds" in judgement.seeds_for(est, est.value - 0.05, tests=3)


def test_evidence_that_moves_no_more_than_another_seed_would():
    found, _ = judge(scores(PLAIN, seeds=(0, 1, 2)), again=two_seeds(0.3))
    assert found["beyond"].verdict == judgement.CONTRADICTED


def test_a_wandering_centroid_and_a_changed_auc_are_contradicted():
    found, evidence = judge(scores(PLAIN, seeds=(0, 1, 2), shift=0.2), noise={"before": 0.9, "after": 0.1})
    assert found["centroid"].verdict == judgement.CONTRADICTED
    assert found["stable"].verdict == judgement.CONTRADICTED and found["auc"].verdict != judgement.CONTRADICTED
    assert all(est.low > 0.02 for est in evidence.auc_change.values())


def test_nothing_is_asked_where_it_cannot_be():
    found, _ = judge(scores(REVERSED, seeds=(0, 1, 2)), coincide=True)
    assert found["reversal"].verdict == judgement.OPEN and "last feature map" in found["reversal"].evidence
    one = scores({("ResNet50V2", "layercam"): 0.5}, seeds=(0, 1))
    found, _ = judge(one, seeds=(0, 1))
    assert found["depends"].evidence == "One architecture" and found["reversal"].evidence == "Not asked"
    assert found["extremes"].verdict == judgement.OPEN


def test_the_table_has_a_row_a_claim(clear):
    table = verdicts.table(dict(enumerate(clear[0].values())))
    assert list(table.columns) == ["claim", "verdict", "evidence", "what it would take"] and len(table) == 7
    assert set(table["verdict"]) <= {judgement.SUPPORTED, judgement.CONTRADICTED, judgement.OPEN}


def test_auc_is_that_of_the_test_set_and_its_change_is_paired(clear):
    _, evidence = clear
    by_hand = []
    for seed in (0, 1, 2):
        table = predictions(seeds=(0, 1, 2), noise={"before": 0.3, "after": 0.3})["ResNet50V2", seed, "after"]
        p = table[["p_0", "p_1", "p_2"]].to_numpy()
        labels = table["label"].map({"a": 0, "b": 1, "c": 2})
        by_hand.append(np.mean([roc_auc_score(labels == k, p[:, k]) for k in range(3)]))
    assert evidence.auc["ResNet50V2"].value == pytest.approx(np.mean(by_hand))
    assert evidence.auc["ResNet50V2"].n_patients == 60 and METRICS["overlap"].higher_is_more_stable


def test_power_grows_with_seeds_and_effect_and_one_seed_plans_nothing(clear):
    _, evidence = clear
    power = report_evidence.power_table(evidence.pairs)
    assert len(power) == 24 and power["power"].between(0, 1).all()
    for _, rows in power.groupby(["effect", "patients"]):
        assert rows.sort_values("seeds")["power"].is_monotonic_increasing
    at = power.set_index(["effect", "patients", "seeds"])["power"]
    assert at[0.1, 60, 5] > at[0.02, 60, 5] and at[0.02, 240, 10] >= at[0.02, 60, 10]
    _, evidence = judge(scores(PLAIN, seeds=(0,)), seeds=(0,))
    assert report_evidence.power_table(evidence.pairs).empty


def test_a_study_in_which_nothing_moves_claims_no_difference():
    table = scores(PLAIN, seeds=(0, 1), two_heads=0.9).assign(overlap=1.0, centroid_shift=0.0)
    found, _ = judge(table, seeds=(0, 1), again=two_seeds(0.9, pairs=((0, 1),)), noise={"before": 0, "after": 0})
    assert found["beyond"].verdict == judgement.CONTRADICTED, "another seed moves them, fine-tuning does not"
    for key in ("depends", "extremes", "reversal"):
        assert found[key].verdict == judgement.OPEN and "without any spread" in found[key].needed
        assert "nan" not in found[key].evidence and "(no interval)" in found[key].evidence
