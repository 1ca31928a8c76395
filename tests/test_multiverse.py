"""The multiverse: maps and tables with overlaps, orders and flips worked out by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr.core.errors import InputError
from cxr.metrics import baselines, multiverse, multiverse_rankings, similarity
from cxr.report import comparison, sections

OVERLAPS = ["overlap_q05", "overlap_q10", "overlap", "overlap_q30"]
LAYERS = {
    "default": "pen",
    "layer-penultimate": "pen",
    "layer-final": "last",
    "score-logit": "pen",
    "score-probability": "pen",
    "layers-fused": "stem, pen",
}


def relu_maps(n, h, w, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(n, h, w)), 0).astype(np.float32)


def images(n, wrong=()):
    """n images of n patients; those numbered in `wrong` are not classified correctly by both."""
    number = np.arange(n)
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in number],
            "patient_id": [f"p{k}" for k in number],
            "both_correct": ~np.isin(number, list(wrong)),
        }
    )


def score_variant(before, after, **options):
    """`multiverse.score_variant` of images of one class, each of another patient."""
    return multiverse.score_variant(before, after, [0] * len(before), range(len(before)), **options)


def scores(values, n=3):
    """A variant's scores: `values` a number, or per column a number or n of them; others 0.5, two patients 0."""
    values = dict.fromkeys(multiverse.VALUES, values) if not isinstance(values, dict) else values
    given = {name: values.get(name, 0.5) for name in multiverse.VALUES}
    given |= {name: values.get(name, 0) for name in multiverse.TWO_PATIENTS.values()}
    out = {name: np.broadcast_to(np.float64(value), n).copy() for name, value in given.items()}
    return out | {"empty": np.isnan(out["overlap@image"]), "cells": np.full(n, values.get("cells", 256))}


def run(variants, architecture="A", seed=0, method="layercam", rows=None, layers=LAYERS):
    rows = images(3) if rows is None else rows
    found = {variant: scores(values, len(rows)) for variant, values in variants.items()}
    return multiverse.long_table(found, rows, architecture=architecture, seed=seed, method=method, layers=layers)


def study(cells, rows=None):
    """Runs of {(architecture, method): {variant: values}}, one seed."""
    return pd.concat(
        [run(variants, a, method=m, rows=rows) for (a, m), variants in cells.items()], ignore_index=True
    )


def at(frame, **keys):
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    return frame


def planted(layercam, gradcampp, variant="default"):
    """A study with one variant: {architecture: value or values by column} under each method."""
    methods = {"layercam": layercam, "gradcampp": gradcampp}
    return study({(a, m): {variant: v} for m, values in methods.items() for a, v in values.items()})


# ---------------------------------------------------------------- scoring


def test_known_overlaps_on_the_native_grid():
    # 100 cells in descending order, and the same pushed on by 5: the top k share k - 5, of 2k - (k - 5) = k + 5.
    before = np.arange(100, 0, -1.0).reshape(1, 10, 10)
    after = np.roll(before.ravel(), 5).reshape(1, 10, 10)
    got = score_variant(before, after, size=40)
    expected = {"overlap_q05": 0, "overlap_q10": 5 / 15, "overlap": 15 / 25, "overlap_q30": 25 / 35}
    for name, value in expected.items():
        assert got[f"{name}@native"][0] == value
    assert not got["empty"][0]
    # On an image grid of the layer's own size, the two grids are one.
    same = score_variant(before, after, size=10)
    for name, value in expected.items():
        assert same[f"{name}@image"][0] == value


def test_known_overlap_on_the_image_grid():
    # A lit top half against a lit left half of 2x2 cells, at 4x4: profiles 1, 0.75, 0.25, 0. The highest 30 % are
    # round(4.8) = 5 pixels: the first row, and one of the four tied at 0.75; in the other map, columns. Of the 7
    # pixels in a first line, 1 is in both; of the 12 in a first or second line, 4: agreement 1/21. Shared are
    # (0, 0); (0, 1) and (1, 0) with 1/4 each; (1, 1) with 1/4 in one order and 1/16 in two.
    top, left = np.array([[[1.0, 1.0], [0, 0]]]), np.array([[[1.0, 0.0], [1.0, 0]]])
    got = score_variant(top, left, size=4)
    shared = 1 + 2 / 4 + 1 / 21 / 4 + 20 / 21 / 16
    assert got["overlap_q30@image"][0] == pytest.approx(shared / (10 - shared), abs=1e-15)
    # One cell of the two that are lit: they agree on one of three.
    shared = 1 / 3 / 2 + 2 / 3 / 4
    assert got["overlap_q30@native"][0] == pytest.approx(shared / (2 - shared), abs=1e-15)


@pytest.mark.parametrize("side, size", [(4, 32), (8, 96), (7, (30, 41))])
def test_image_grid_is_compare_maps_exactly(side, size):
    before, after = relu_maps(9, side, side, 1), relu_maps(9, side, side, 2)
    before[2], after[5, 0, 0], after[7] = 0, np.nan, 3.0
    got = score_variant(before, after, size=size)
    whole = similarity.compare_maps(before, after, size=size)
    own = similarity.compare_maps(before, after, size=side, names=OVERLAPS)
    for name in OVERLAPS:
        np.testing.assert_array_equal(got[f"{name}@image"], whole[name])
        np.testing.assert_array_equal(got[f"{name}@native"], own[name])
    assert np.flatnonzero(got["empty"]).tolist() == [2, 5, 7]
    assert all(np.flatnonzero(np.isnan(got[name])).tolist() == [2, 5, 7] for name in multiverse.VALUES)
    assert set(got) == {*multiverse.VALUES, *multiverse.TWO_PATIENTS.values(), "empty", "cells"}
    assert got["empty"].dtype == bool and set(got["cells"]) == {side * side}


def test_two_patients_are_those_of_the_baselines_on_both_grids():
    before, after = relu_maps(12, 6, 5, 1), relu_maps(12, 6, 5, 2)
    before[2], after[5], after[7] = 0, 3.0, 0
    label, patient = np.arange(12) % 2, np.arange(12) // 3
    got = multiverse.score_variant(before, after, label, patient, size=(24, 30), draws=3)
    for grid, size in (("image", (24, 30)), ("native", (6, 5))):
        own = baselines.baselines(before, after, label, patient, size=size, draws=3, names=OVERLAPS)
        for name in OVERLAPS:
            np.testing.assert_array_equal(got[f"{name}_two_patients@{grid}"], own[f"{name}_two_patients"])
    assert np.isfinite(got["overlap_two_patients@image"]).sum() == 9
    for options in ({"workers": 1}, {"workers": 3}):
        again = multiverse.score_variant(before, after, label, patient, size=(24, 30), draws=3, **options)
        for name in multiverse.TWO_PATIENTS.values():
            np.testing.assert_array_equal(again[name], got[name])
    alone = score_variant(before[:1], after[:1], size=24)
    assert np.isnan(alone["overlap_two_patients@image"]).all() and alone["overlap@image"][0] > 0, (
        "no other patient"
    )


def test_native_grid_by_sets():
    before, after = relu_maps(20, 6, 7, 3), relu_maps(20, 6, 7, 4)
    got = score_variant(before, after, size=48)
    for q, name in multiverse.QS.items():
        k = max(1, round(q * 42))
        for i in range(20):
            tops = [set(np.argsort(-m[i].ravel(), kind="stable")[:k]) for m in (before, after)]
            assert got[f"{name}@native"][i] == len(tops[0] & tops[1]) / len(tops[0] | tops[1])


def test_four_by_four_has_one_cell_at_five_per_cent():
    got = score_variant(relu_maps(50, 4, 4, 5), relu_maps(50, 4, 4, 6), size=32)
    assert set(got["overlap_q05@native"]) == {0.0, 1.0}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-20, 20), side=st.integers(2, 9))
def test_scoring_is_symmetric_and_blind_to_scale(seed, power, side):
    before, after = relu_maps(3, side, side, seed), relu_maps(3, side, side, seed + 1)
    one = score_variant(before, after, size=16)
    other = score_variant(after, before * np.float32(2.0**power), size=16)
    for name in (*multiverse.VALUES, "empty"):
        np.testing.assert_array_equal(one[name], other[name])
    same = score_variant(before, before, size=16)
    for name in multiverse.VALUES:
        assert (same[name][~same["empty"]] == 1).all()


def test_scoring_refuses_maps_of_other_shapes():
    with pytest.raises(InputError, match="at the same layer"):
        score_variant(relu_maps(2, 4, 4), relu_maps(2, 8, 8), size=32)
    with pytest.raises(InputError, match="3 images, but 2 labels and 3 patients"):
        multiverse.score_variant(relu_maps(3, 4, 4), relu_maps(3, 4, 4), [0, 0], [1, 2, 3], size=32)
    with pytest.raises(InputError, match="smaller"):
        score_variant(relu_maps(2, 8, 8), relu_maps(2, 8, 8), size=4)


# ---------------------------------------------------------------- the table of a run


def test_long_table(tmp_path):
    rows = images(3, wrong=[1])
    table = run({"score-logit": 0.2, "default": {"overlap@image": [0.1, 0.2, np.nan]}}, "A", 7, rows=rows)
    assert list(table.columns) == [
        *("architecture", "seed", "method", "variant", "maps_of", "layer", "image_id", "patient_id"),
        *("both_correct", "empty", "cells", *multiverse.VALUES, *multiverse.TWO_PATIENTS.values()),
    ]
    assert list(dict.fromkeys(table["variant"])) == ["default", "score-logit", "layer-penultimate"]
    default = at(table, variant="default")
    np.testing.assert_array_equal(default["overlap@image"], [0.1, 0.2, np.nan])
    assert default["empty"].tolist() == [False, False, True]
    assert default["both_correct"].tolist() == [True, False, True]
    assert default["image_id"].tolist() == ["i0", "i1", "i2"] and set(table["seed"]) == {7}
    assert (at(table, variant="score-logit")["overlap_q05@native"] == 0.2).all()
    # The same layer as the default: its maps, under another name. The final layer was not scored: no rows.
    alias = at(table, variant="layer-penultimate")
    assert set(alias["maps_of"]) == {"default"} and set(alias["layer"]) == {"pen"}
    np.testing.assert_array_equal(alias["overlap@image"], default["overlap@image"])
    assert all(isinstance(name, str) for name in table.columns)
    table.to_parquet(tmp_path / "multiverse.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "multiverse.parquet"), table)


def test_one_layer_has_one_set_of_maps():
    layers = {"default": "pen", "score-logit": "pen", "layer-final": "x", "layer-last_conv": "x"}
    table = run({"default": 0.3, "score-logit": 0.4, "layer-final": 0.7}, layers=layers)
    assert (at(table, variant="layer-last_conv")["overlap@image"] == 0.7).all()
    maps = table.drop_duplicates("variant").set_index("variant")["maps_of"].to_dict()
    assert maps == {
        "default": "default",
        "score-logit": "score-logit",  # another score at the same layer is another map
        "layer-final": "layer-final",
        "layer-last_conv": "layer-final",
    }


# ---------------------------------------------------------------- analyses


def test_values_pool_seeds_and_split_images():
    rows = images(4, wrong=[3])
    one = run(
        {"default": {"overlap@image": [0.1, 0.2, 0.4, 0.9], "overlap_q10@native": [0.5, 0.5, 0.6, 1]}}, rows=rows
    )
    two = run({"default": {"overlap@image": [0.3, 0.5, np.nan, 0.9]}}, seed=1, rows=rows)
    frame = multiverse_rankings.analyses(pd.concat([one, two]))
    assert len(frame) == 2 * 4 * 2 * 2  # grids, q, images, scales
    assert (at(frame, scale="raw")["value"].to_numpy() == at(frame, scale="corrected")["value"].to_numpy()).all()
    own, frame = at(frame, is_default=True), at(frame, scale="raw")  # two patients share nothing here
    correct = at(frame, grid="image", q=0.2, images="correct").iloc[0]
    assert correct["value"] == pytest.approx(0.3)  # of .1 .2 .4 .3 .5
    assert (correct["n_images"], correct["n_empty"]) == (6, 1)
    everything = at(frame, grid="image", q=0.2, images="all").iloc[0]
    assert everything["value"] == pytest.approx(0.4)  # and .9 .9
    half = multiverse_rankings.analyses(run({"default": {"overlap@image": [0.1, 0.2, 0.5, 0.9]}}, rows=images(4)))
    assert at(half, is_default=True)["value"].item() == pytest.approx(0.35)
    assert (everything["n_images"], everything["n_empty"]) == (8, 1)
    assert at(frame, grid="native", q=0.1, images="correct")["value"].item() == 0.5  # five .5 and a .6
    assert own[[*multiverse.AXES, "value"]].values.tolist() == [
        ["default", "image", 0.2, "correct", "corrected", correct["value"]]
    ]
    assert frame["complete"].all() and not frame["uses_default_maps"].any()


def test_corrected_values_are_of_each_seeds_medians():
    one = run({"default": {"overlap@image": [0.1, 0.6, 0.9], "overlap_two_patients@image": [0.3, 0.2, 0.1]}})
    two = run(
        {"default": {"overlap@image": [0.5, 0.4, 0.9], "overlap_two_patients@image": [0.3, np.nan, 0.5]}}, seed=1
    )
    frame = at(multiverse_rankings.analyses(pd.concat([one, two])), grid="image", q=0.2).set_index("scale")
    assert frame.loc["raw", "value"] == pytest.approx((0.6 + 0.5) / 2)
    # medians 0.6 and 0.2; 0.5 and 0.4
    assert frame.loc["corrected", "value"] == pytest.approx((0.4 / 0.8 + 0.1 / 0.6) / 2)
    assert frame["is_default"].to_dict() == {"raw": False, "corrected": True}
    # Where two patients have the same map there is nothing to correct with: no value, not ranked.
    same = run({"default": {"overlap_two_patients@image": 1.0}})
    frame = at(multiverse_rankings.analyses(same), grid="image", q=0.2).set_index("scale")
    assert frame["complete"].to_dict() == {"raw": True, "corrected": False} and frame["value"].isna()["corrected"]


def test_top_areas_of_few_cells_make_no_analysis():
    # 5, 10, 20, 30 % of 64 cells: 3, 6, 13, 19; of 36: 2, 4, 7, 11. A top area has 8 in every run.
    rows = images(3, wrong=[0])
    coarse = {"default": {"cells": 64}, "layer-final": {"cells": 36}, "score-logit": {"cells": 64}}
    table = pd.concat([run(coarse, "A", rows=rows), run({**coarse, "score-logit": 0.4}, "B", rows=rows)])
    frame = multiverse_rankings.analyses(table)
    kept = frame.groupby("variant")["q"].unique().map(list).to_dict()
    assert kept == {"default": [0.2, 0.3], "layer-final": [0.3], "score-logit": [0.2, 0.3]}
    assert set(frame["grid"]) == {"image", "native"}, "a grid of pixels holds no more than its cells"
    left = multiverse_rankings.too_coarse(table)
    assert left.values.tolist() == [
        *(["default", 0.05, 3, 8], ["default", 0.1, 6, 8]),
        *(["layer-final", 0.05, 2, 8], ["layer-final", 0.1, 4, 8], ["layer-final", 0.2, 7, 8]),
        *(["score-logit", 0.05, 3, 8], ["score-logit", 0.1, 6, 8]),
    ]
    assert len(frame.drop_duplicates(multiverse.AXES)) + left["n"].sum() == 3 * 2 * 4 * 2 * 2
    assert multiverse_rankings.too_coarse(run({"default": 0.5})).empty
    # The study's own analysis stays, whatever its grid.
    tiny = run({"default": {"cells": 16}})
    own = multiverse_rankings.analyses(tiny)
    assert own[multiverse.AXES].to_dict("records") == [{**multiverse.DEFAULT, "images": "correct"}]
    assert multiverse_rankings.too_coarse(tiny)["n"].sum() + 1 == 2 * 4 * 2


def test_the_default_analysis_is_the_studys_value():
    rng = np.random.default_rng(0)
    rows = images(31)
    columns = ("overlap@image", "overlap_two_patients@image")
    runs = [
        run({"default": {name: rng.random(31) for name in columns}}, a, s, rows=rows)
        for a in "AB"
        for s in (0, 1, 2)
    ]
    table = pd.concat(runs)
    analyses = multiverse_rankings.analyses(table)
    frame = at(analyses, is_default=True).set_index("architecture")
    for a in "AB":
        own = at(table, architecture=a, variant="default")
        flags = {"empty_before": False, "empty_after": False}
        two_patients = own["overlap_two_patients@image"]
        own = own.assign(overlap=own["overlap@image"], overlap_two_patients=two_patients, **flags)
        study = comparison.summarise(own, n_boot=100)
        assert frame.at[a, "value"] == pytest.approx(study["overlap_corrected_median"], abs=1e-15)
        raw = at(analyses, architecture=a, grid="image", q=0.2, scale="raw")["value"].item()
        assert raw == pytest.approx(study["overlap_median"], abs=1e-15)


def test_a_variant_of_one_method_pairs_with_the_others_default():
    table = study(
        {
            ("A", "layercam"): {"default": 0.1, "layers-fused": 0.2},
            ("A", "gradcampp"): {"default": 0.3, "score-probability": 0.4},
        }
    )
    frame = at(multiverse_rankings.analyses(table), grid="image", q=0.05, scale="raw")
    frame = frame.set_index(["variant", "method"])
    assert frame["value"].to_dict() == {
        ("default", "layercam"): 0.1,
        ("default", "gradcampp"): 0.3,
        ("layers-fused", "layercam"): 0.2,
        ("layers-fused", "gradcampp"): 0.3,
        ("score-probability", "layercam"): 0.1,
        ("score-probability", "gradcampp"): 0.4,
    }
    same = frame.index[frame["uses_default_maps"]].tolist()
    assert same == [("layers-fused", "gradcampp"), ("score-probability", "layercam")]
    assert frame["complete"].all()


def test_same_layer_as_default_is_filled_and_a_skipped_layer_is_incomplete():
    # A has a cut of its own; B's cut is its default layer; the final layer of B was too small.
    cut = {"default": "pen", "layer-cut": "sum", "layer-final": "last"}
    a = run({"default": 0.6, "layer-cut": 0.1, "layer-final": 0.7}, "A", layers=cut)
    b = run({"default": 0.5}, "B", layers={"default": "pen", "layer-cut": "pen"})
    frame = at(multiverse_rankings.analyses(pd.concat([a, b])), grid="image", q=0.2, scale="raw")
    frame = frame.set_index(["variant", "architecture"])
    assert frame.loc[("layer-cut", "B"), ["value", "complete", "n_images"]].tolist() == [0.5, True, 3]
    assert frame.loc[("layer-cut", "A"), ["value", "complete"]].tolist() == [0.1, True]
    assert frame.loc[("layer-final", "A"), ["value", "complete"]].tolist() == [0.7, False]
    assert np.isnan(frame.at[("layer-final", "B"), "value"])
    assert frame.loc[("layer-final", "B"), ["complete", "n_images"]].tolist() == [False, 0]


def test_a_seed_without_the_variant_or_a_cell_without_a_value_is_incomplete():
    some = run({"default": 0.6, "score-logit": 0.1}, seed=0)
    frame = multiverse_rankings.analyses(pd.concat([some, run({"default": 0.6}, seed=1)]))
    assert not at(frame, variant="score-logit")["complete"].any()
    assert at(frame, variant="default")["complete"].all()
    dead = planted({"A": np.nan, "B": 0.3}, {"A": 0.2, "B": 0.4})
    frame = multiverse_rankings.analyses(dead)
    assert not at(frame, method="layercam")["complete"].any()
    assert at(frame, method="gradcampp")["complete"].all()
    assert set(at(frame, method="layercam", architecture="A")["n_empty"]) == {3}


def test_repeated_maps_make_no_analysis():
    frame = multiverse_rankings.analyses(study({("A", m): {"default": 0.6} for m in ("layercam", "gradcampp")}))
    assert set(frame["variant"]) == {"default"}  # layer-penultimate is the default in every run
    # Nor when a method that has no layers takes no part in it.
    table = pd.concat([run({"default": 0.6}), run({"default": 0.5}, method="occlusion", layers={"default": ""})])
    assert set(multiverse_rankings.analyses(table)["variant"]) == {"default"}
    # All classified correctly: one level of images, which the study's own setting names.
    assert set(frame["images"]) == {"correct"}
    assert set(multiverse_rankings.analyses(table, images="all")["images"]) == {"all"}


def test_the_default_has_the_images_of_the_study():
    table = run({"default": 0.5}, rows=images(3, wrong=[0]))
    own = at(multiverse_rankings.analyses(table, images="all"), is_default=True)
    assert own[multiverse.AXES].to_dict("records") == [{**multiverse.DEFAULT, "images": "all"}]


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_carries_no_meaning(seed):
    rng = np.random.default_rng(seed)
    rows = images(5, wrong=[2])
    variants = ("default", "score-logit")
    table = pd.concat(
        [
            run({v: {n: rng.random(5) for n in multiverse.VALUES} for v in variants}, a, s, m, rows)
            for a in "AB"
            for s in (0, 1)
            for m in ("layercam", "gradcampp")
        ]
    )
    keys = [*multiverse.AXES, "architecture", "method"]
    frames = [
        multiverse_rankings.analyses(t).sort_values(keys, ignore_index=True)
        for t in (table, table.sample(frac=1, random_state=seed))
    ]
    pd.testing.assert_frame_equal(*frames)


# ---------------------------------------------------------------- rankings


def q_flip():
    """A > B > C at every q under both methods, but C > A > B under Grad-CAM++ on the image grid at q = 0.05."""
    a, b, c = 0.6, 0.5, 0.4
    flipped = {name: c for name in multiverse.VALUES} | {"overlap_q05@image": 0.9}
    return planted({"A": a, "B": b, "C": c}, {"A": a, "B": b, "C": flipped})


def test_a_ranking_that_flips_with_q():
    frame = multiverse_rankings.rankings(multiverse_rankings.analyses(q_flip()))
    assert len(frame) == 16  # grids, q, scales
    assert (frame["order_a"] == "A > B > C").all() and (frame["tau_a"] == 1).all()
    assert frame["same_order_as_default_a"].all()
    odd = frame[~frame["same_order_as_default_b"]]
    assert odd[["grid", "q", "scale"]].values.tolist() == [["image", 0.05, "raw"], ["image", 0.05, "corrected"]]
    odd = odd.iloc[0]
    # Of the pairs AB, AC, BC, the last two turn over: tau = (1 - 2) / 3.
    assert odd["order_b"] == "C > A > B" and odd["tau_b"] == pytest.approx(-1 / 3)
    assert odd["spread_a"] == pytest.approx(0.2) and odd["spread_b"] == pytest.approx(0.4)
    assert odd["reversal"]
    assert frame["reversal"].sum() == 2
    assert at(frame, is_default=True)[["grid", "q"]].values.tolist() == [["image", 0.2]]


def test_ties_are_orders_of_their_own():
    tied = {"overlap_q10@image": 0.6}
    table = planted({"A": 0.6, "B": {**dict.fromkeys(multiverse.VALUES, 0.5), **tied}}, {"A": 0.6, "B": 0.7})
    frame = multiverse_rankings.rankings(multiverse_rankings.analyses(table))
    tie = at(frame, grid="image", q=0.1).iloc[0]
    assert tie["order_a"] == "A = B" and not tie["same_order_as_default_a"]
    assert np.isnan(tie["tau_a"]) and tie["spread_a"] == 0
    assert not tie["reversal"]  # a tie is neither order
    assert at(frame, is_default=True)["reversal"].item()


def test_coinciding_methods_are_not_asked():
    table = study(
        {
            (a, m): {"default": v, "layer-final": v}
            for m, values in {"layercam": (0.6, 0.5), "gradcampp": (0.3, 0.4)}.items()
            for a, v in zip("AB", values, strict=True)
        }
    )
    frame = multiverse_rankings.rankings(multiverse_rankings.analyses(table), coincide={"layer-final"})
    assert at(frame, variant="layer-final")["reversal"].isna().all()
    assert at(frame, variant="default")["reversal"].all()
    assert at(frame, variant="layer-final")["same_order_as_default_a"].all()


def test_incomplete_analyses_are_not_ranked():
    table = study(
        {
            ("A", "layercam"): {"default": 0.6, "layer-final": 0.1},
            ("B", "layercam"): {"default": 0.5},
            ("A", "gradcampp"): {"default": 0.6, "layer-final": 0.1},
            ("B", "gradcampp"): {"default": 0.5, "layer-final": 0.2},
        }
    )
    frame = multiverse_rankings.analyses(table)
    assert set(frame["variant"]) == {"default", "layer-final"}
    ranked = multiverse_rankings.rankings(frame)
    assert set(ranked["variant"]) == {"default"}


def test_without_a_default_nothing_is_compared_with_it():
    dead = dict.fromkeys(multiverse.VALUES, 0.3) | {"overlap@image": np.nan}
    frame = multiverse_rankings.analyses(planted({"A": dead, "B": 0.5}, {"A": 0.6, "B": 0.5}))
    ranked = multiverse_rankings.rankings(frame)
    assert len(ranked) == 14 and not ranked["is_default"].any()
    assert ranked["same_order_as_default_a"].isna().all() and ranked["tau_a"].isna().all()
    assert ranked["same_order_as_default_b"].all() and ranked["reversal"].all()
    nothing = multiverse_rankings.rankings(multiverse_rankings.analyses(planted({"A": np.nan}, {"A": 0.6})))
    assert len(nothing) == 0 and list(nothing.columns) == list(ranked.columns)
    assert multiverse_rankings.summary(nothing)["n"].tolist() == [0]
    assert multiverse_rankings.influence(nothing)["n_a"].tolist() == [0] * 5


def test_one_architecture_has_no_ranking():
    ranked = multiverse_rankings.rankings(multiverse_rankings.analyses(planted({"A": 0.3}, {"A": 0.6})))
    assert set(ranked["order_a"]) == {"A"} and len(ranked) == 16
    for name in ("same_order_as_default_a", "same_order_as_default_b", "reversal", "tau_a", "tau_b"):
        assert ranked[name].isna().all()


@settings(max_examples=6)
@given(
    values=st.lists(
        st.lists(st.integers(1, 4), min_size=3, max_size=3), min_size=16, max_size=16
    )  # few values: many ties
)
def test_rankings_by_brute_force(values):
    values = np.array(values, float).reshape(2, 8, 3)  # method, column, architecture
    cells = [
        {a: dict(zip(multiverse.VALUES, method[:, i], strict=True)) for i, a in enumerate("ABC")}
        for method in values
    ]
    frame = multiverse_rankings.rankings(multiverse_rankings.analyses(planted(*cells)))
    frame = at(frame, scale="raw")
    default = multiverse.VALUES.index("overlap@image")
    for row, (_, got) in enumerate(frame.iterrows()):
        sides = values[:, row]
        for side, own, reference in zip("ab", sides, values[:, default], strict=True):
            pairs = list(combinations(range(3), 2))
            signs = [[np.sign(v[i] - v[j]) for i, j in pairs] for v in (own, reference)]
            assert got[f"same_order_as_default_{side}"] == (signs[0] == signs[1])
            ranks = {a: set() for a in "ABC"}
            for rank, tie in enumerate(got[f"order_{side}"].split(" > ")):
                for a in tie.split(" = "):
                    ranks[a].add(rank)
            dense = stats.rankdata(-own, method="dense") - 1
            assert [ranks[a] for a in "ABC"] == [{rank} for rank in dense]
        x, y = sides
        turns = any((x[i] - x[j]) * (y[i] - y[j]) < 0 for i, j in pairs)
        assert got["reversal"] == turns


# ---------------------------------------------------------------- summary


def test_summary_of_the_planted_flip():
    table = multiverse_rankings.summary(
        multiverse_rankings.rankings(multiverse_rankings.analyses(q_flip()))
    ).set_index(["axis", "level"])
    assert list(table.index) == [
        *(("all", "all"), ("variant", "default"), ("grid", "image"), ("grid", "native")),
        *(("q", q) for q in ("0.05", "0.1", "0.2", "0.3")),
        ("images", "correct"),
        *(("scale", "raw"), ("scale", "corrected")),
    ]
    whole = table.loc[("all", "all")]
    # Fifteen analyses beside the default; on either scale one turns over under Grad-CAM++, and reverses.
    assert whole[["n", "n_a", "n_b", "n_reversal"]].tolist() == [16, 15, 15, 16]
    assert whole["share_a"] == 1 and whole["share_b"] == 13 / 15 and whole["share_reversal"] == 1 / 8
    assert table.loc[("q", "0.05"), ["n", "n_b", "share_b", "share_reversal"]].tolist() == [4, 4, 0.5, 0.5]
    assert table.loc[("q", "0.2"), ["n", "n_b", "share_b", "share_reversal"]].tolist() == [4, 3, 1, 0]
    assert table.loc[("scale", "raw"), ["n", "n_b"]].tolist() == [8, 8]
    assert table.loc[("scale", "corrected"), ["n", "n_b", "share_b"]].tolist() == [8, 7, 6 / 7]
    assert table.loc[("grid", "image"), "share_b"] == 5 / 7 and table.loc[("grid", "native"), "share_b"] == 1


def test_influence_of_the_planted_flip():
    table = multiverse_rankings.influence(
        multiverse_rankings.rankings(multiverse_rankings.analyses(q_flip()))
    ).set_index("axis")
    # On either scale, q: on either grid 6 pairs of levels, of which 3, those of q = 0.05 on the image grid, flip;
    # grid: one pair at each q, of which that of q = 0.05 flips. The scale changes nothing.
    assert table.loc["q", ["n_b", "flips_b", "n_a", "flips_a"]].tolist() == [24, 3 / 12, 24, 0]
    assert table.loc["grid", ["n_b", "flips_b"]].tolist() == [8, 1 / 4]
    assert table.loc["scale", ["n_b", "flips_b"]].tolist() == [8, 0]
    assert table.loc["q", ["n_reversal", "flips_reversal"]].tolist() == [24, 3 / 12]
    for axis in ("variant", "images"):
        assert table.at[axis, "n_b"] == 0 and np.isnan(table.at[axis, "flips_b"])


def test_repeated_default_maps_and_coinciding_methods_do_not_count():
    table = study(
        {
            ("A", "layercam"): {"default": 0.6, "layer-final": 0.3},
            ("B", "layercam"): {"default": 0.5, "layer-final": 0.4},
            ("A", "gradcampp"): {"default": 0.6, "layer-final": 0.3, "score-probability": 0.1},
            ("B", "gradcampp"): {"default": 0.5, "layer-final": 0.4, "score-probability": 0.2},
        }
    )
    ranked = multiverse_rankings.rankings(multiverse_rankings.analyses(table), coincide={"layer-final"})
    rows = multiverse_rankings.summary(ranked).set_index(["axis", "level"])
    whole = rows.loc[("all", "all")]
    # layercam: 15 of the default variant agree, 16 of layer-final do not; its score-probability is its default.
    assert whole[["n", "n_a", "n_b", "n_reversal"]].tolist() == [48, 31, 47, 32]
    assert whole["share_a"] == 15 / 31 and whole["share_b"] == 15 / 47
    assert whole["share_reversal"] == 16 / 32  # score-probability against the default maps
    positive = rows.loc[("variant", "score-probability")]
    assert positive["n_a"] == 0 and np.isnan(positive["share_a"]) and positive["share_b"] == 0
    final = rows.loc[("variant", "layer-final")]
    assert final["n_reversal"] == 0 and np.isnan(final["share_reversal"])
    effect = multiverse_rankings.influence(ranked).set_index("axis")
    # variant: at each of 16, layercam has one pair, which flips; Grad-CAM++ three, of which score-probability and
    # layer-final agree.
    assert effect.loc["variant", ["n_a", "flips_a", "n_b", "flips_b"]].tolist() == [16, 1, 48, 2 / 3]
    assert effect.loc["variant", ["n_reversal", "flips_reversal"]].tolist() == [16, 1]


def test_how_much_of_the_overlap_another_score_changes_is_told():
    table = study(
        {
            ("A", "layercam"): {"default": 0.6, "score-logit": 0.55},
            ("B", "layercam"): {"default": 0.5, "score-logit": 0.51},
            ("A", "gradcampp"): {"default": 0.6, "score-logit": 0.6, "score-probability": 0.7},
            ("B", "gradcampp"): {"default": 0.5, "score-logit": 0.5, "score-probability": 0.5},
        }
    )
    text = sections.other_scores(multiverse_rankings.analyses(table))
    most = "as the explained score, the overlap differs by at most"
    logit = f"With the logit {most} 0.050 (4 values): A, LayerCAM, has 0.550 instead of 0.600."
    probability = f"With the probability {most} 0.100 (2 values): A, Grad-CAM++, has 0.700 instead of 0.600."
    assert text == f"{logit} {probability}"
    assert sections.other_scores(multiverse_rankings.analyses(run({"default": 0.6}))) == ""


def test_from_maps_to_summary():
    """The whole path, on maps whose overlap is planted: in A the evidence stays, in B it moves by a cell."""
    rows = images(6, wrong=[5])
    base = relu_maps(6, 8, 8, 9) + 0.1
    tables = []
    for architecture, shift in (("A", 0), ("B", 1)):
        for method in ("layercam", "gradcampp"):
            moved = np.roll(base, shift, axis=2)
            found = {"default": score_variant(base, moved, size=32)}
            layers = {"default": "pen", "layer-penultimate": "pen"}
            tables.append(
                multiverse.long_table(found, rows, architecture=architecture, seed=0, method=method, layers=layers)
            )
    frame = multiverse_rankings.analyses(pd.concat(tables))
    assert set(frame["q"]) == {0.2, 0.3}, "5 and 10 % of 8x8 cells are too few"
    assert (at(frame, architecture="A")["value"] == 1).all()
    assert (at(frame, architecture="B")["value"] < 1).all()
    ranked = multiverse_rankings.rankings(frame)
    assert len(ranked) == 16 and set(ranked["order_a"]) == {"A > B"} and not ranked["reversal"].any()
    whole = multiverse_rankings.summary(ranked).iloc[0]
    assert (whole["share_a"], whole["share_b"], whole["share_reversal"]) == (1, 1, 0)
