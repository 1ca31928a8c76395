from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from cxr.attribution import maps
from cxr.core import tables
from cxr.core.errors import InputError
from cxr.data.splits import assign_splits
from cxr.metrics import similarity
from cxr.metrics.metric_table import METRICS
from cxr.report import comparison, headlines, sections
from cxr.report import scores as report_scores

NAMES = ("DenseNet201", "ResNet50V2", "InceptionV3")


def scores(centres, *, seeds=(0, 1), n=40, spread=0.02, metrics=("centroid_shift", "pearson")):
    """Per-image rows: `centres[architecture, method]` is the middle of overlap; the other `metrics` are 0.5."""
    rng = np.random.default_rng(0)
    tables = []
    for (architecture, method), centre in centres.items():
        for seed in seeds:
            ids = np.arange(n)
            table = pd.DataFrame(
                {
                    "architecture": architecture,
                    "seed": seed,
                    "method": method,
                    "image_id": [f"i{k}" for k in ids],
                    "patient_id": [f"p{k // 2}" for k in ids],
                    "label": np.where(ids % 2, "a", "b"),
                    **dict.fromkeys(metrics, 0.5),
                    "empty_before": False,
                    "empty_after": False,
                }
            )
            table["overlap"] = centre + rng.normal(0, spread, n)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def runs(centres, seeds=(0, 1), auc=(0.97, 0.995)):
    return pd.DataFrame(
        [
            {"architecture": a, "method": m, "seed": str(s), "auc_macro_before": auc[0] + 0.001 * s}
            | {"passes_checks": "True"}
            | {"auc_macro_after": auc[1]}
            for a, m in centres
            for s in seeds
        ]
    )


PLAIN = {(name, m): v for m in ("layercam", "gradcampp") for name, v in zip(NAMES, (0.6, 0.8, 0.4), strict=True)}
REVERSED = {**PLAIN, ("ResNet50V2", "gradcampp"): 0.3, ("InceptionV3", "gradcampp"): 0.7}


def test_summarise_by_hand():
    table = scores({("A", "m"): 0.5}, seeds=(0,), n=4, metrics=METRICS)
    table["overlap"] = [0.1, np.nan, 0.3, 0.8]
    table["empty_after"] = [False, True, False, False]
    out = comparison.summarise(table, n_boot=200)
    counts = {"n_images": 4, "n_scored": 3, "n_empty": 1, "n_empty_before": 0}
    assert {key: out[key] for key in counts} == counts
    assert (out["n_empty_after"], out["n_patients"], out["n_seeds"]) == (1, 2, 1)
    assert out["overlap_median"] == 0.3 and out["overlap_q25"] == pytest.approx(0.2)
    assert out["overlap_ci_low"] >= 0.1 and out["overlap_ci_high"] <= 0.8
    assert {f"{name}_median" for name in METRICS} <= set(out)
    # The empty pair counted as 0, then as 1: medians of 0, 0.1, 0.3, 0.8 and of 0.1, 0.3, 0.8, 1.
    assert out["overlap_median_if_empty_0"] == pytest.approx(0.2)
    assert out["overlap_median_if_empty_1"] == pytest.approx(0.55)
    other = table.assign(seed=1, overlap=[0.5, 0.5, 0.5, 0.5], empty_after=False)
    out = comparison.summarise(pd.concat([table, other]), n_boot=50)
    assert out["overlap_median_if_empty_0"] == pytest.approx((0.2 + 0.5) / 2)
    assert out["overlap_median_if_empty_1"] == pytest.approx((0.55 + 0.5) / 2)


def test_empty_pairs_are_spoken_of_where_they_matter(monkeypatch):
    said = []
    monkeypatch.setattr(sections, "say", said.append)
    summary = pd.DataFrame({"architecture": ["A", "B"], "method": "m", "n_empty": 5, "n_images": 40})
    summary = summary.assign(overlap_median_if_empty_0=[0.5, 0.5], overlap_median_if_empty_1=[0.515, 0.6])
    sections.empty_pairs(summary)
    (text,) = said
    assert "B under m (5 of 40 pairs): 0.50 to 0.60" in text and "A under m" not in text
    sections.empty_pairs(summary.iloc[:1])
    assert len(said) == 1


def test_pooled_has_a_row_a_cell_and_the_mean_auc_over_seeds():
    summary = comparison.pooled(scores(PLAIN), runs(PLAIN), n_boot=200)
    assert list(zip(summary["architecture"], summary["method"], strict=True)) == list(PLAIN)
    assert (summary["seeds"] == 2).all() and (summary["n_images"] == 80).all()
    assert summary["auc_macro_before"].iloc[0] == pytest.approx(0.9705)
    np.testing.assert_allclose(summary["overlap_median"], list(PLAIN.values()), atol=0.01)
    assert (
        (summary["overlap_ci_low"] < summary["overlap_median"])
        & (summary["overlap_ci_high"] > summary["overlap_median"])
    ).all()
    assert list(headlines.headline(summary).columns)[:3] == ["architecture", "method", "seeds"]


@pytest.mark.parametrize(("centres", "pairs"), [(PLAIN, 0), (REVERSED, 3)])
def test_ranking_and_reversals(centres, pairs):
    table = scores(centres)
    summary = comparison.pooled(table, runs(centres), n_boot=200)
    ranks, found = comparison.ranking(summary, "overlap")
    assert ranks["layercam"].to_dict() == {"DenseNet201": 2, "ResNet50V2": 1, "InceptionV3": 3}
    assert ranks.columns.tolist() == ["layercam", "gradcampp"]
    assert len(found) == pairs and not any(name.startswith("p_") for row in found for name in row)


def test_ranking_goes_the_other_way_for_a_shift():
    summary = pd.DataFrame(
        {
            "architecture": ["A", "B"],
            "method": "m",
            "centroid_shift_median": [0.1, 0.02],
        }
    )
    ranks, _ = comparison.ranking(summary, "centroid_shift")
    assert ranks["m"].to_dict() == {"A": 2, "B": 1} and list(ranks.columns) == ["m"]


def test_the_corrected_metric_is_ranked_where_there_is_one():
    summary = pd.DataFrame({"architecture": ["A", "B"], "method": "m", "overlap_median": [0.7, 0.5]})
    assert comparison.ranking(summary, "overlap")[0]["m"].to_dict() == {"A": 1, "B": 2}
    summary["overlap_corrected_median"] = [0.25, 0.375]
    assert comparison.ranking(summary, "overlap")[0]["m"].to_dict() == {"A": 2, "B": 1}


def test_tied_architectures_share_a_rank_and_a_missing_one_has_none():
    cells = [("A", "L", 0.7), ("B", "L", 0.5), ("C", "L", 0.7), ("A", "G", 0.1), ("B", "G", 0.2)]
    summary = pd.DataFrame(cells, columns=["architecture", "method", "overlap_median"])
    ranks, _ = comparison.ranking(summary, "overlap")
    assert ranks.index.tolist() == ["A", "B", "C"] and ranks.columns.tolist() == ["L", "G"]
    np.testing.assert_array_equal(ranks, [[1.5, 2], [3, 1], [1.5, np.nan]])


def test_a_metric_without_a_direction_has_no_ranking():
    summary = pd.DataFrame({"architecture": ["A"], "method": "m", "gini_change_median": 0.0})
    with pytest.raises(InputError, match="gini_change has no direction"):
        comparison.ranking(summary, "gini_change")


def test_baselines_and_the_corrected_overlap():
    table = scores({("A", "m"): 0.6}, seeds=(0,), n=40, spread=0.0)
    table["overlap_two_patients"], table["overlap_two_heads"] = 0.2, 0.9
    out = comparison.summarise(table, n_boot=200)
    assert out["overlap_two_patients_median"] == pytest.approx(0.2) and out[
        "overlap_two_heads_ci_low"
    ] == pytest.approx(0.9)
    assert out["overlap_corrected_median"] == pytest.approx((0.6 - 0.2) / (1 - 0.2))
    assert out["overlap_corrected_ci_low"] == pytest.approx(0.5) == out["overlap_corrected_ci_high"]
    assert "centroid_shift_corrected_median" not in out, "its value for identical maps is not 1"


def test_the_matched_null_is_pooled():
    centres = {("A", "layercam"): 0.5, ("A", "gradcampp"): 0.7, ("B", "layercam"): 0.8}
    table = scores(centres, spread=0.0)
    table["overlap_more_training"] = np.where(table["seed"] == 0, 0.6, 0.8)
    summary = comparison.pooled(table, runs(centres), n_boot=50)
    assert summary["overlap_more_training_median"].tolist() == pytest.approx([0.7] * 3)


def test_the_report_shows_the_headline_in_tables_of_at_most_eight_columns():
    table = scores(PLAIN, metrics=METRICS).assign(
        overlap_two_patients=0.2, overlap_two_heads=0.9, overlap_more_training=0.8
    )
    again = table[["architecture", "method", "image_id", "patient_id"]].assign(seed_a=0, seed_b=1, overlap=0.7)
    summary = comparison.pooled(table, runs(PLAIN), two_seeds=again, n_boot=50)
    headline = headlines.headline(summary)
    result, beside, images = headlines.in_tables(headline)
    run_ids = runs(PLAIN).assign(run_id="abc")
    shown = [tables.readable(each) for each in (headlines.with_runs(result, run_ids), beside, images)]
    assert [len(each.columns) for each in shown] == [8, 8, 7] and {len(each) for each in shown} == {len(PLAIN)}
    assert "as many epochs again" in shown[1] and "score runs" in shown[0]
    assert {name for each in shown for name in each} >= set(tables.readable(headline)) - {"seeds"}
    every = [tables.readable(each) for each in headlines.every_metric(summary)]
    assert {f"{name}_median" for name in METRICS} <= {n for each in headlines.every_metric(summary) for n in each}
    for each in [*shown, *every]:
        assert list(each)[2] == "passes its checks" and len(each.columns) <= 8, "before the numbers of maps"


def test_the_caution_names_the_maps_that_fail_or_were_not_checked(monkeypatch):
    said = []
    monkeypatch.setattr(sections, "say", said.append)
    cells = pd.DataFrame({"architecture": ["A", "A", "B", "C"], "method": ["layercam", "gradcampp"] * 2})
    sections.caution(cells.assign(map_check=["no", "no", "yes", "not checked"]))
    assert "do not pass their checks: A (LayerCAM, Grad-CAM++).**" in said[0]
    assert "were not checked: C (Grad-CAM++).**" in said[1]
    sections.caution(cells.assign(map_check="yes"))
    assert len(said) == 2


@pytest.mark.parametrize("name", sections.SHOWN)
def test_what_the_report_shows_of_wide_tables_has_at_most_eight_columns(name):
    assert len(sections.SHOWN[name]) <= 8


def test_how_metrics_follow_the_marker_has_a_row_a_method_and_metric():
    cells = [("A", "layercam"), ("A", "gradcam"), ("B", "layercam"), ("B", "gradcam")]
    rows = [(*cell, metric, k) for k, cell in enumerate(cells) for metric in ("pearson", "overlap")]
    seen = pd.DataFrame(rows, columns=["architecture", "method", "metric", "follows"])
    table = sections.following(seen)
    assert list(table) == ["method", "metric", "A", "B"]
    assert table[table["method"] == "layercam"].values.tolist() == [
        ["layercam", "overlap", 0, 2],
        ["layercam", "pearson", 0, 2],
    ], "metrics in the order of METRICS"


def test_a_cell_passes_its_checks_if_both_checkpoints_do():
    table, cells = scores(PLAIN), runs(PLAIN)
    checks = cells[["architecture", "method"]].drop_duplicates()
    checks = checks.merge(pd.DataFrame({"checkpoint": ["before", "after"]}), how="cross")
    first = (checks["architecture"] == checks["architecture"].iloc[0]) & (checks["checkpoint"] == "after")
    found = comparison.pooled(table, cells, checks=checks.assign(passes_checks=~first), n_boot=100)
    own = found["architecture"] == checks["architecture"].iloc[0]
    assert set(found.loc[own, "map_check"]) == {"no"} and set(found.loc[~own, "map_check"]) == {"yes"}
    assert set(comparison.pooled(table, cells, n_boot=100)["map_check"]) == {"not checked"}


def test_the_share_of_two_seeds():
    table = scores({("A", "m"): 0.6}, spread=0.0).assign(overlap_two_patients=0.2)
    again = table[["architecture", "method", "image_id", "patient_id"]].assign(seed_a=0, seed_b=1, overlap=0.7)
    summary = comparison.pooled(table, runs({("A", "m"): 0.6}), two_seeds=again, n_boot=100)
    assert summary["overlap_corrected_median"].item() == pytest.approx(0.5)
    assert summary["overlap_share_of_two_seeds"].item() == pytest.approx((0.6 - 0.2) / (0.7 - 0.2))
    assert summary["overlap_two_seeds_ci_low"].item() == pytest.approx(0.7)


def map_set(values, ids):
    return maps.MapSet(np.array(list(ids)), np.zeros(len(ids), int), values, "after", "m", "l", ("a",), "")


def test_two_seeds_use_no_image_that_either_training_may_have_seen():
    """Where splits vary with the seed: images in the test sets of both, and none where they share none."""
    rng = np.random.default_rng(0)
    n = 400
    labels, patients = np.arange(n) % 2, np.arange(n) // 2
    who, fractions = (labels.astype(str), patients.astype(str)), {"val_fraction": 0.15, "test_fraction": 0.25}
    split = {seed: assign_splits(*who, **fractions, seed=seed) for seed in (0, 1, 2)}
    ids = np.array([f"i{k:03d}" for k in range(n)])
    rows, sets = [], {}
    for seed, own in split.items():
        tested = np.flatnonzero(own == "test")
        rows.append(pd.DataFrame({"image_id": ids[tested], "patient_id": patients[tested], "seed": seed}))
        sets[seed] = map_set(rng.random((len(tested), 4, 4)), ids[tested])
    images = pd.concat(rows)
    options = {"architecture": "A", "method": "m", "size": 8, "names": ["overlap"]}
    table = comparison.two_seeds_table(sets, images, **options)
    assert len(table.groupby(["seed_a", "seed_b"])) == 3
    for (a, b), pair in table.groupby(["seed_a", "seed_b"]):
        both = ids[(split[a] == "test") & (split[b] == "test")]
        assert sorted(pair["image_id"]) == sorted(both) and 0 < len(both) < 100
    apart = images[(images["seed"] != 1) | ~images["image_id"].isin(images.loc[images["seed"] == 0, "image_id"])]
    table = comparison.two_seeds_table({0: sets[0], 1: sets[1]}, apart, **options)
    assert table.empty and {"seed_a", "seed_b", "image_id", "patient_id", "overlap"} <= set(table)


def test_two_seeds_compare_the_images_that_count_under_both_seeds():
    rng = np.random.default_rng(0)
    one, two = rng.random((3, 4, 4)), rng.random((3, 4, 4))
    images = pd.DataFrame(
        {"image_id": ["i", "j", "j", "k"], "patient_id": ["p", "q", "q", "r"], "seed": [0, 0, 1, 1]}
    )
    options = {"architecture": "A", "method": "m", "size": 16, "names": ["overlap", "pearson"]}
    table = comparison.two_seeds_table({0: map_set(one, "ijk"), 1: map_set(two, "kji")}, images, **options)
    assert table[["architecture", "method", "seed_a", "seed_b", "image_id"]].values.tolist() == [
        ["A", "m", 0, 1, "j"]
    ]
    by_hand = similarity.compare_maps(one[[1]], two[[1]], size=16)
    assert (
        table["pearson"].item() == by_hand["pearson"].item()
        and table["overlap"].item() == by_hand["overlap"].item()
    )
    assert comparison.two_seeds_table({0: map_set(one, "ijk")}, images, **options).empty
    three = images.assign(seed=2).drop_duplicates("image_id")
    map_sets = {seed: map_set(one, "ijk") for seed in (0, 1, 2)}
    table = comparison.two_seeds_table(map_sets, pd.concat([images, three]), **options)
    assert set(zip(table["seed_a"], table["seed_b"], strict=True)) == {(0, 1), (0, 2), (1, 2)}
    four = comparison.two_seeds_table(
        map_sets | {3: map_set(one, "ijk")}, pd.concat([images, three, three.assign(seed=3)]), **options
    )
    assert four[["seed_a", "seed_b"]].drop_duplicates().shape == (6, 2), "all pairs"
    assert (table["overlap"] == 1).all()


def test_sensitivity_is_drift_beside_noise_per_patient():
    rng = np.random.default_rng(0)
    table = scores({("A", "m"): 0.5}, seeds=(0,), n=60, spread=0.05)
    table["overlap_two_heads"] = 0.9 + rng.normal(0, 0.02, 60)
    table["pearson"], table["pearson_two_heads"] = 0.8 + rng.normal(0, 0.05, (2, 60))
    table["marker_energy_change"] = -((1 - table["overlap"]) ** 2)  # as far as overlap says, never mind the sign
    found = comparison.sensitivity(table, region="marker").set_index("metric")
    d = ((1 - table["overlap"]) - (1 - table["overlap_two_heads"])).groupby(table["patient_id"]).mean()
    assert found.loc["overlap", "standardised"] == pytest.approx(d.mean() / d.std())
    assert found["sees"].to_dict() == {"overlap": True, "pearson": False}
    assert found.loc["overlap", "follows"] == pytest.approx(1) and abs(found.loc["pearson", "follows"]) < 0.4
    table["overlap"], table["overlap_two_heads"] = 1.0, 1.0  # nothing moves
    assert not comparison.sensitivity(table)["sees"].any()
    assert comparison.sensitivity(table.drop(columns=["overlap_two_heads", "pearson_two_heads"])).empty


def test_course_starts_before_fine_tuning():
    rows = pd.concat([scores({("A", "m"): v}, seeds=(0,)).assign(epoch=e) for e, v in ((1, 0.8), (2, 0.6))])
    auc = pd.DataFrame({"architecture": "A", "seed": 0, "epoch": [0, 1, 2], "auc_macro": [0.9, 0.95, 0.96]})
    table = comparison.course(rows, auc, metric="overlap", n_boot=100)
    assert table["epoch"].tolist() == [0, 1, 2] and table["auc"].tolist() == [0.9, 0.95, 0.96]
    assert table["value"].tolist() == pytest.approx([1, 0.8, 0.6], abs=0.01)
    assert table["ci_low"].iloc[1] < table["value"].iloc[1] < table["ci_high"].iloc[1]


def test_html_escapes_and_links():
    page = tables.html(
        pd.DataFrame({"a<b": ["<script>"], "run": ["0123456789"]}),
        links={"run": lambda key: f"http://x/{key}?a&b"},
    )
    assert "<script>" not in page and "&lt;script&gt;" in page and "a&lt;b" in page
    assert '<a href="http://x/0123456789?a&amp;b">01234567</a>' in page


@dataclass
class Info:
    run_id: str
    params: dict
    tags: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=lambda: {"auc_macro_before": 0.9, "auc_macro_after": 0.95})


def info(run_id, architecture="A", seed="0", method="m", target="penultimate", size="128", score="log_odds"):
    params = {"architecture": architecture, "seed": seed, "method": method, "target_layer": target, "layer": "x"}
    extra = {"grid": "8x8", "methods_coincide": "False", "image_size": size, "passes_checks": "True"}
    extra |= {"attribute_run": "a", "train_run": "t"}
    extra |= {"weights": "source", "images": "correct", "explain": "true", "score": score}
    return Info(run_id, {**params, **extra})


def test_run_table_refuses_what_cannot_be_pooled():
    assert report_scores.run_table([info("1"), info("2", seed="1")])["run_id"].tolist() == ["1", "2"]
    with pytest.raises(InputError, match="two runs are of A, m, seed 0"):
        report_scores.run_table([info("1"), info("2")])
    with pytest.raises(InputError, match="target layers final, penultimate cannot be pooled"):
        report_scores.run_table([info("1"), info("2", seed="1", target="final")])
    with pytest.raises(InputError, match="explained scores log_odds, logit cannot be pooled"):
        report_scores.run_table([info("1"), info("2", seed="1", score="logit")])


def test_latest_cells_takes_the_newest_of_each_cell_with_the_same_settings():
    newest_first = [
        info("5", seed="1"),
        info("4"),
        info("3"),
        info("2", seed="2", size="64"),
        info("0", seed="3", score="logit"),
        info("1", method="n"),
    ]
    assert report_scores.latest_cells(newest_first) == ["4", "1", "5"]
    with pytest.raises(InputError, match="no finished score run"):
        report_scores.latest_cells([])


def test_readable_tables():
    table = pd.DataFrame(
        {
            "architecture": ["CompactDenseNet", "X"],
            "seeds": [2, 2],
            "overlap_median": [0.51234, float("nan")],
            "overlap_ci_low": [0.5, float("nan")],
            "overlap_ci_high": [1.0, float("nan")],
            "n_images": [120.0, 7.0],
        }
    )
    assert tables.text(tables.readable(table)).splitlines() == [
        "architecture     seeds               overlap  images",
        "CompactDenseNet      2  0.512 [0.500, 1.000]     120",
        "X                    2                     -       7",
    ]
    assert "<b>" not in tables.html(pd.DataFrame({"a": ["<b>class</b>"]}))
