"""cxr.report.groups: drift and performance of groups, and their differences."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.report import groups

CLASSES = ["a", "b", "c"]
OPTIONS = {"n_boot": 300}


def study(rng, *, seeds=3, n=180, less=0.2, architectures=("A",), methods=("layercam",)):
    """Scores and predictions of images with a class, a sex and a site; women's maps overlap less by `less`."""
    ids = [f"i{k:03d}" for k in range(n)]
    patient = [f"p{k // 2:03d}" for k in range(n)]
    sex = np.where(np.arange(n) // 2 % 3, "F", "M")  # of the patient
    site = np.select([np.arange(n) < 8, np.arange(n) < 100, np.arange(n) >= n - 4], ["small", "x", ""], "y")
    label = rng.choice(CLASSES, n)
    facts = {"image_id": ids, "patient_id": patient, "label": label, "group_sex": sex, "group_site": site}
    scores, predictions = [], {}
    for architecture in architectures:
        for seed in range(seeds):
            for method in methods:
                overlap = np.clip(0.6 + rng.normal(0, 0.08, n) - less * (sex == "F"), 0, 1)
                overlap[5] = np.nan
                two = np.where(np.isnan(overlap), np.nan, np.clip(0.2 + rng.normal(0, 0.05, n), 0, 1))
                cell = {"architecture": architecture, "method": method, "seed": seed}
                table = pd.DataFrame({**cell, **facts, "overlap": overlap, "overlap_two_patients": two})
                scores.append(table.drop(index=rng.choice(n, 10, replace=False)))  # seeds score other images
            for checkpoint in ("before", "after"):
                p = rng.dirichlet(np.ones(3), n) + 0.5 * np.eye(3)[np.searchsorted(CLASSES, label)]
                p /= p.sum(1, keepdims=True)
                right = np.array(CLASSES)[p.argmax(1)] == label
                own = pd.DataFrame({**facts, "split": "test", "correct": right})
                own[[f"p_{k}" for k in range(3)]] = p
                predictions[architecture, seed, checkpoint] = own.sample(frac=1, random_state=seed)
    return pd.concat(scores, ignore_index=True), predictions


NAMES = ["label", "sex", "site"]


def test_medians_of_groups_are_means_over_seeds_with_their_corrected_form():
    scores, _ = study(np.random.default_rng(0))
    found = groups.drift(scores, NAMES, "overlap", **OPTIONS).set_index(["group", "value"])
    assert found.index.tolist() == [
        *(("label", name) for name in CLASSES),
        *(("sex", value) for value in "FM"),
        *(("site", value) for value in ("small", "x", "y", groups.NO_VALUE)),
    ]
    own = scores[scores["group_sex"] == "F"].dropna(subset=["overlap"])
    medians = own.groupby("seed")[["overlap", "overlap_two_patients"]].median()
    row = found.loc[("sex", "F")]
    assert row["overlap_median"] == pytest.approx(medians["overlap"].mean())
    corrected = (medians["overlap"] - medians["overlap_two_patients"]) / (1 - medians["overlap_two_patients"])
    assert row["overlap_corrected_median"] == pytest.approx(corrected.mean())
    assert row["n_images"] == len(own) and row["n_patients"] == own["patient_id"].nunique()
    assert row["overlap_ci_low"] < row["overlap_median"] < row["overlap_ci_high"]
    small = found.loc[("site", "small")]
    assert small["n_patients"] == 4 and np.isnan(small["overlap_ci_low"]) and small["overlap_median"] > 0


def test_performance_is_the_auc_where_every_class_is_there():
    _, predictions = study(np.random.default_rng(1))
    found = groups.performance(predictions, NAMES, **OPTIONS).set_index(["group", "value"])
    assert set(found.loc["label", "measure"]) == {"accuracy"}
    assert found.loc["sex", "measure"].tolist() == ["macro AUC", "macro AUC"]
    aucs, hits = [], []
    for (_, _, checkpoint), table in predictions.items():
        if checkpoint == "after":
            own = table[table["group_sex"] == "M"]
            aucs.append(np.mean([roc_auc_score(own["label"] == c, own[f"p_{k}"]) for k, c in enumerate(CLASSES)]))
            hits.append(table.loc[table["label"] == "b", "correct"].mean())
    assert found.at[("sex", "M"), "after_median"] == pytest.approx(np.mean(aucs))
    assert found.at[("label", "b"), "after_median"] == pytest.approx(np.mean(hits))
    assert found.at[("sex", "M"), "after_ci_low"] < np.mean(aucs) < found.at[("sex", "M"), "after_ci_high"] <= 1


def test_intervals_of_few_and_unlike_seeds_stay_within_what_can_be():
    scores, predictions = study(np.random.default_rng(3))
    shares = {0: 0.9, 1: 0.5, 2: 0.1}  # right answers of class b: the mean less t times its error is below 0
    for (_, seed, _), table in predictions.items():
        own = table["label"] == "b"
        table.loc[own, "correct"] = np.arange(own.sum()) < shares[seed] * own.sum()
    scores.loc[scores["label"] == "b", "overlap"] *= scores["seed"].map({0: 1.5, 1: 0.5, 2: 0.01})
    found = groups.performance(predictions, ["label"], **OPTIONS).set_index("value").loc["b"]
    low, high = found[["after_ci_low", "after_ci_high"]]
    assert 0 < low < found["after_median"] < high < 1 and low < 0.05 and high > 0.95
    drift = groups.drift(scores, ["label"], "overlap", **OPTIONS).set_index("value").loc["b"]
    assert drift["overlap_ci_low"] == 0 and drift["overlap_ci_high"] == 1 and drift["overlap_corrected_ci_low"] < 0


def test_a_difference_that_is_there_is_found_and_no_other():
    scores, predictions = study(np.random.default_rng(2), seeds=4)
    found = groups.differences(scores, predictions, NAMES, "overlap", **OPTIONS)
    keys = found[["measure", "group", "value"]].apply(tuple, axis=1).tolist()
    assert keys == [
        *(("overlap_corrected", "label", name) for name in CLASSES),
        ("overlap_corrected", "sex", "F"),
        ("overlap_corrected", "site", "x"),  # "small" and "no value" are left out
        ("macro AUC", "sex", "F"),
        ("macro AUC", "site", "x"),
    ]
    row = found[(found["group"] == "sex") & (found["method"] == "layercam")].iloc[0]
    by_seed = []
    for _, own in scores.dropna(subset=["overlap"]).groupby("seed"):
        parts = own.groupby("group_sex")[["overlap", "overlap_two_patients"]].median()
        corrected = (parts["overlap"] - parts["overlap_two_patients"]) / (1 - parts["overlap_two_patients"])
        by_seed.append(corrected["F"] - corrected["M"])
    assert row["difference"] == pytest.approx(np.mean(by_seed))
    assert row["difference_ci_high"] < -0.15 and row["p_holm"] < 0.05 and row["n_seeds"] == 4
    assert (found.drop(index=row.name)["p_holm"] > 0.05).all()
    assert row["p_holm"] == pytest.approx(min(1, 7 * row["p"]))


def test_false_positives_over_all_groups_are_about_as_rare_as_the_level_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(30):
        scores, predictions = study(rng, seeds=1, n=120, less=0)
        hits += (groups.differences(scores, predictions, NAMES, "overlap", n_boot=200)["p_holm"] < 0.05).any()
    assert hits <= 4  # of 30; at 0.05, five or more have a probability of 0.016


def test_a_metric_without_a_corrected_form_is_tested_itself():
    scores, predictions = study(np.random.default_rng(4), seeds=2, n=80)
    scores = scores.rename(columns={"overlap": "centroid_shift"}).drop(columns="overlap_two_patients")
    found = groups.differences(scores, predictions, ["sex"], "centroid_shift", **OPTIONS)
    assert found["measure"].tolist() == ["centroid_shift", "macro AUC"]
    assert "centroid_shift_corrected_median" not in groups.drift(scores, ["sex"], "centroid_shift", **OPTIONS)


def test_seeds_with_other_test_images_are_joined_by_image():
    _, predictions = study(np.random.default_rng(5), seeds=2)
    for key, table in predictions.items():
        odd = table["image_id"].str[-1].isin(["1", "3"])
        predictions[key] = table[~odd if key[1] else odd | (table["image_id"] >= "i020")]
    found = groups.performance(predictions, ["sex"], **OPTIONS).set_index("value")
    expected = []
    for (_, _, checkpoint), table in predictions.items():
        own = table[table["group_sex"] == "F"]
        if checkpoint == "after":
            expected.append(
                np.mean([roc_auc_score(own["label"] == c, own[f"p_{k}"]) for k, c in enumerate(CLASSES)])
            )
    assert found.at["F", "after_median"] == pytest.approx(np.mean(expected))


def test_the_sentence_names_the_widest_range_and_what_is_too_small():
    scores, predictions = study(np.random.default_rng(2), seeds=4)
    found = groups.Groups(
        groups.drift(scores, NAMES, "overlap", **OPTIONS),
        groups.performance(predictions, NAMES, **OPTIONS),
        groups.differences(scores, predictions, NAMES, "overlap", **OPTIONS),
        "overlap",
        0.95,
    )
    text = groups.sentence(found)
    low, high = found.drift.query("group == 'sex'")["overlap_corrected_median"]
    assert f"that of sex in A under LayerCAM: corrected overlap from {low:.2f} (F) to {high:.2f} (M)" in text
    assert "1 of 7 tests find that a group differs" in text
    apart = found.differences.query("method == 'layercam' and group == 'sex'")["difference"].item()
    assert f"sex F: {apart:+.2f} in corrected overlap, A under LayerCAM" in text
    assert text.endswith("(fewer than 10 patients in a cell): site small, site no value.")
    nothing = groups.Groups(pd.DataFrame(), pd.DataFrame(), found.differences[:0], "overlap", 0.95)
    assert groups.sentence(nothing).startswith("Not asked")
