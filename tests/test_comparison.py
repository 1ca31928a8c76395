from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from cxr import comparison
from cxr.drift import METRICS
from cxr.errors import InputError

NAMES = ("DenseNet201", "ResNet50V2", "InceptionV3")


def scores(centres, *, seeds=(0, 1), n=40, spread=0.02):
    """Per-image rows: `centres[architecture, method]` is the middle of iou20; every other metric is 0.5."""
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
                    **dict.fromkeys(METRICS, 0.5),
                    "degenerate_transfer": False,
                    "degenerate_fine_tuned": False,
                }
            )
            table["iou20"] = centre + rng.normal(0, spread, n)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def runs(centres, seeds=(0, 1), auc=(0.97, 0.995)):
    return pd.DataFrame(
        [
            {"architecture": a, "method": m, "seed": str(s), "auc_macro_transfer": auc[0] + 0.001 * s}
            | {"auc_macro_fine_tuned": auc[1]}
            for a, m in centres
            for s in seeds
        ]
    )


PLAIN = {(name, m): v for m in ("layercam", "gradcampp") for name, v in zip(NAMES, (0.6, 0.8, 0.4), strict=True)}
REVERSED = {**PLAIN, ("ResNet50V2", "gradcampp"): 0.3, ("InceptionV3", "gradcampp"): 0.7}


def test_summarise_by_hand():
    table = scores({("A", "m"): 0.5}, seeds=(0,), n=4)
    table["iou20"] = [0.1, np.nan, 0.3, 0.8]
    table["degenerate_fine_tuned"] = [False, True, False, False]
    out = comparison.summarise(table, n_boot=200)
    counts = {"n_images": 4, "n_scored": 3, "n_degenerate": 1, "n_degenerate_transfer": 0}
    assert {key: out[key] for key in counts} == counts
    assert (out["n_degenerate_fine_tuned"], out["n_patients"], out["n_seeds"]) == (1, 2, 1)
    assert out["iou20_median"] == 0.3 and out["iou20_q25"] == pytest.approx(0.2)
    assert out["iou20_ci_low"] >= 0.1 and out["iou20_ci_high"] <= 0.8
    assert {f"{name}_median" for name in METRICS} <= set(out)


def test_pooled_has_a_row_a_cell_and_the_mean_auc_over_seeds():
    summary = comparison.pooled(scores(PLAIN), runs(PLAIN), n_boot=200)
    assert list(zip(summary["architecture"], summary["method"], strict=True)) == list(PLAIN)
    assert (summary["seeds"] == 2).all() and (summary["n_images"] == 80).all()
    assert summary["auc_macro_transfer"].iloc[0] == pytest.approx(0.9705)
    np.testing.assert_allclose(summary["iou20_median"], list(PLAIN.values()), atol=0.01)
    assert (
        (summary["iou20_ci_low"] < summary["iou20_median"]) & (summary["iou20_ci_high"] > summary["iou20_median"])
    ).all()
    assert list(comparison.headline(summary).columns)[:3] == ["architecture", "method", "seeds"]


@pytest.mark.parametrize(("centres", "pairs"), [(PLAIN, 0), (REVERSED, 3)])
def test_ranking_and_reversals(centres, pairs):
    table = scores(centres)
    summary = comparison.pooled(table, runs(centres), n_boot=200)
    ranks, found = comparison.ranking(summary, "iou20", comparison.replicates(table, "iou20", n_boot=200))
    assert ranks["layercam"].to_dict() == {"DenseNet201": 2, "ResNet50V2": 1, "InceptionV3": 3}
    assert (ranks["P(layercam)"] > 0.99).all()
    assert len(found) == pairs and all(row["p_reversal"] > 0.99 for row in found)


def test_ranking_goes_the_other_way_for_a_shift():
    summary = pd.DataFrame(
        {
            "architecture": ["A", "B"],
            "method": "m",
            "centroid_shift_median": [0.1, 0.02],
            "gini_change_median": 0.0,
        }
    )
    ranks, _ = comparison.ranking(summary, "centroid_shift", None)
    assert ranks["m"].to_dict() == {"A": 2, "B": 1} and list(ranks.columns) == ["m"]
    with pytest.raises(InputError, match="gini_change has no direction"):
        comparison.ranking(summary, "gini_change", None)


def claims(centres, *, coincide=False):
    table = scores(centres)
    summary = comparison.pooled(table, runs(centres), n_boot=200)
    ranks, found = comparison.ranking(summary, "iou20", comparison.replicates(table, "iou20", n_boot=200))
    texts = comparison.claims(summary, ranks, found, metric="iou20", methods_coincide=coincide, auc_margin=0.02)
    return texts["this study"].tolist()


def test_claims_say_what_was_found():
    auc, centroid, overlap, extremes, reversal = claims(PLAIN)
    assert auc.startswith("3 of 3 above 0.99") and "0.970 → 0.995 (+0.025, beyond ±0.02)" in auc
    assert "DenseNet201 0.500 of the image diagonal" in centroid
    assert "ResNet50V2 0.80" in overlap
    assert "InceptionV3 moves most and ResNet50V2 least" in extremes and extremes.endswith("as in the paper")
    assert reversal.startswith("No pair")
    swapped = {**PLAIN, ("DenseNet201", "layercam"): 0.9}
    assert claims(swapped)[3].endswith("half as in the paper")
    assert "ResNet50V2 is the stabler under layercam and InceptionV3 under gradcampp" in claims(REVERSED)[4]


def test_no_reversal_is_claimed_where_both_methods_are_one_map():
    assert claims(REVERSED, coincide=True)[4].startswith("Cannot be asked at the last feature map")


def test_one_architecture_and_one_method_have_no_ranking():
    texts = claims({("ResNet50V2", "layercam"): 0.5})
    assert texts[3] == "One architecture has no ranking" and texts[4].startswith("Needs two methods")


@dataclass
class Info:
    run_id: str
    params: dict
    metrics: dict = field(default_factory=lambda: {"auc_macro_transfer": 0.9, "auc_macro_fine_tuned": 0.95})


def info(run_id, architecture="A", seed="0", method="m", target="penultimate", size="128"):
    params = {"architecture": architecture, "seed": seed, "method": method, "target_layer": target, "layer": "x"}
    extra = {"grid": "8x8", "methods_coincide": "False", "image_size": size}
    return Info(run_id, {**params, **extra, "weights": "source", "images": "correct", "explain": "true"})


def test_run_table_refuses_what_cannot_be_pooled():
    assert comparison.run_table([info("1"), info("2", seed="1")])["run_id"].tolist() == ["1", "2"]
    with pytest.raises(InputError, match="two runs are of A, m, seed 0"):
        comparison.run_table([info("1"), info("2")])
    with pytest.raises(InputError, match="target layers final, penultimate cannot be pooled"):
        comparison.run_table([info("1"), info("2", seed="1", target="final")])


def test_latest_cells_takes_the_newest_of_each_cell_with_the_same_settings():
    newest_first = [
        info("5", seed="1"),
        info("4"),
        info("3"),
        info("2", seed="2", size="64"),
        info("1", method="n"),
    ]
    assert comparison.latest_cells(newest_first) == ["4", "1", "5"]
    with pytest.raises(InputError, match="no finished score run"):
        comparison.latest_cells([])


def test_readable_tables():
    table = pd.DataFrame(
        {
            "architecture": ["CompactDenseNet", "X"],
            "seeds": [2, 2],
            "iou20_median": [0.51234, float("nan")],
            "iou20_ci_low": [0.5, float("nan")],
            "iou20_ci_high": [1.0, float("nan")],
            "n_images": [120.0, 7.0],
        }
    )
    assert comparison.text(comparison.readable(table)).splitlines() == [
        "architecture     seeds        IoU of top 20%  images",
        "CompactDenseNet      2  0.512 [0.500, 1.000]     120",
        "X                    2              - [-, -]       7",
    ]
    assert "<b>" not in comparison.html(pd.DataFrame({"a": ["<b>class</b>"]}))
