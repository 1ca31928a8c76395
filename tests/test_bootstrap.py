"""Bootstrap, intervals, ranks and reversals: tiny cases by hand, SciPy as oracle, coverage by simulation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr.core.errors import InputError
from cxr.statistics import bootstrap, resampling, stability_ranks


def table(values, *, patients=None, seeds=None, images=None):
    """Values [n] with the index of `Scores.values`; by default an image a patient, under one seed."""
    numbers = range(len(values))
    seeds = [0] * len(values) if seeds is None else seeds
    images = [f"i{k:02}" for k in numbers] if images is None else images
    patients = [f"p{k:02}" for k in numbers] if patients is None else patients
    index = pd.MultiIndex.from_arrays([seeds, images, patients], names=["seed", "image_id", "patient_id"])
    return pd.Series(values, index, dtype=float)


def side_by_side(tables):
    """Cells as `Scores.values`: {(architecture, method): `table`}."""
    return pd.concat(tables, axis=1, names=["architecture", "method"]).sort_index()


def stability(values):
    """{(architecture, method): value} as architectures x methods."""
    return pd.Series(values).unstack()


def replicates(columns):
    frame = pd.DataFrame(columns)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns, names=["architecture", "method"])
    return frame


# ---------------------------------------------------------------- weighted statistics


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda rows: any(w for _, w in rows)
    )
)
@settings(max_examples=200, deadline=None)
def test_weighted_statistics_are_those_of_the_repeated_values(rows):
    values, weights = np.array([v for v, _ in rows], float), np.array([[w for _, w in rows]])
    repeated = np.repeat(values, weights[0])
    assert resampling.weighted("median", values, weights) == [np.median(repeated)]
    assert resampling.weighted("mean", values, weights) == pytest.approx([repeated.mean()])


def test_no_weight_at_all_is_nan():
    for statistic in ("median", "mean"):
        got = resampling.weighted(statistic, np.array([1.0, 2.0]), np.array([[0, 0], [0, 3]]))
        np.testing.assert_array_equal(got, [np.nan, 2.0])


@pytest.mark.parametrize("replicates", [1, 2, resampling._MANY - 1, resampling._MANY, 300])
def test_weighted_medians_are_those_of_repeated_values_however_many_there_are(replicates):
    rng = np.random.default_rng(replicates)
    values = rng.integers(0, 9, 37).astype(float)  # with ties
    weights = rng.integers(0, 3, (replicates, 37)).astype(np.int32)
    weights[0] = 0
    found = resampling._weighted_median(values, weights.copy())
    assert np.isnan(found[0])
    for k in range(1, replicates):
        assert found[k] == np.median(np.repeat(values, weights[k]))


# ---------------------------------------------------------------- the resampling scheme


def all_weights(seed, patient, n_boot=4000):
    rng = np.random.default_rng(0)
    blocks = resampling.row_weights(np.array(seed), np.array(patient), n_boot=n_boot, rng=rng)
    return np.concatenate(list(blocks))


def test_replicates_have_as_many_units_as_the_data_on_every_level():
    # Balanced: 2 seeds x 3 patients x 2 images. Every replicate holds 12 images and whole patients.
    seed, patient = np.repeat([0, 1], 6), np.tile(np.repeat([0, 1, 2], 2), 2)
    w = all_weights(seed, patient)
    assert w.shape == (4000, 12) and (w >= 0).all()
    assert (w.sum(1) == 12).all()
    assert (w.reshape(-1, 6, 2).sum(2) % 2 == 0).all()  # a patient drawn m times brings 2 m images
    assert (w.reshape(-1, 2, 6).sum(2) % 6 == 0).all()  # a seed drawn c times brings 6 c
    np.testing.assert_allclose(w.mean(0), 1, atol=0.1)
    draws = np.bincount(w[:, :6].sum(1) // 6, minlength=3) / len(w)  # how often seed 0: 0, 1 or 2 times
    np.testing.assert_allclose(draws, [0.25, 0.5, 0.25], atol=0.03)


def test_patients_are_drawn_with_all_their_images():
    # Patients of 1 and 3 images: draws (2, 0), (1, 1), (0, 2) with 1/4, 1/2, 1/4.
    w = all_weights([0] * 4, [0, 1, 1, 1])
    first, second = w[:, 0], w[:, 1:].sum(1)
    np.testing.assert_array_equal(second, 3 * (2 - first))
    np.testing.assert_allclose(np.bincount(first) / len(w), [0.25, 0.5, 0.25], atol=0.03)
    # Within the second, drawn once, its images are drawn with replacement: all three alike in 3/27.
    once = w[first == 1, 1:]
    assert (once.max(1) == 3).mean() == pytest.approx(3 / 27, abs=0.03)


def test_a_patient_is_drawn_alike_under_every_seed():
    w = all_weights(np.repeat([0, 1], 3), np.tile([0, 1, 2], 2))
    both = w[(w[:, :3].sum(1) > 0) & (w[:, 3:].sum(1) > 0)]  # both seeds drawn once
    np.testing.assert_array_equal(both[:, :3], both[:, 3:])


def test_exact_distribution_of_a_tiny_bootstrap():
    # Three patients, one image each, values 0, 1, 5: 27 equally likely samples.
    medians = [np.median(s) for s in product([0, 1, 5], repeat=3)]
    got = bootstrap.bootstrap([0, 1, 5], ["a", "b", "c"], n_boot=20_000)
    for value in (0, 1, 5):
        assert (got == value).mean() == pytest.approx(medians.count(value) / 27, abs=0.015)


@pytest.mark.parametrize("statistic, function", [("median", np.median), ("mean", np.mean)])
def test_one_image_a_patient_is_scipys_bootstrap(statistic, function):
    values = np.random.default_rng(1).gamma(2, size=61)
    got = bootstrap.bootstrap(values, np.arange(61), statistic=statistic, n_boot=20_000)
    expected = stats.bootstrap(
        (values,), function, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    )
    # The largest difference of the two distribution functions; 0.0195 is passed once in 1,000 by chance.
    assert stats.ks_2samp(got, expected.bootstrap_distribution).statistic < 0.0195
    if statistic == "mean":  # a median's quantiles jump from one value to the next
        low, high = bootstrap.interval(got)
        assert low == pytest.approx(expected.confidence_interval.low, abs=0.06 * got.std())
        assert high == pytest.approx(expected.confidence_interval.high, abs=0.06 * got.std())


def test_exact_distribution_of_the_median():
    # The median of 61 draws is at most the k-th smallest value if 31 or more draws are.
    got = bootstrap.bootstrap(np.arange(1.0, 62), np.arange(61), n_boot=20_000)
    for k in range(20, 43):
        assert (got <= k).mean() == pytest.approx(stats.binom.sf(30, 61, k / 61), abs=0.012)


def test_blocks_hold_the_asked_number(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK", 50)
    got = bootstrap.bootstrap(np.arange(20.0), np.arange(20), n_boot=7)  # blocks of 2
    assert got.shape == (7,) and len(set(got)) > 2


def test_reproducible_and_label_blind():
    values, patient = np.random.default_rng(4).normal(size=30), np.arange(30) // 2
    first = bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=5)
    np.testing.assert_array_equal(first, bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=5))
    assert (first != bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=6)).any()
    named = [f"patient {p}" for p in patient]
    np.testing.assert_array_equal(first, bootstrap.bootstrap(values, named, n_boot=50, rng_seed=5))


def test_nan_is_dropped_first():
    values, patient = [3.0, np.nan, 1.0, 2.0, np.nan], ["a", "a", "b", "c", "d"]
    np.testing.assert_array_equal(
        bootstrap.bootstrap(values, patient, n_boot=99),
        bootstrap.bootstrap([3.0, 1, 2], list("abc"), n_boot=99),
    )


def test_fewer_than_two_patients_give_no_interval():
    for values, patient in (
        ([1, 2, 3], list("aaa")),
        ([1, 2, np.nan], list("aab")),
        ([np.nan], ["a"]),
        ([], []),
    ):
        got = bootstrap.bootstrap(values, patient, n_boot=10)
        assert got.shape == (10,) and np.isnan(got).all()
        assert np.isnan(bootstrap.interval(got)).all()


# ---------------------------------------------------------------- coverage


def test_coverage_with_several_images_a_patient():
    hits = 0  # 95 % intervals of the mean that hold the true 0
    for i in range(200):
        rng = np.random.default_rng(i)
        patient = np.repeat(np.arange(40), 3)
        values = rng.normal(size=40)[patient] + 0.5 * rng.normal(size=120)
        draws = bootstrap.bootstrap(values, patient, statistic="mean", n_boot=200, rng_seed=i)
        low, high = bootstrap.interval(draws)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_coverage_over_crossed_seeds_and_patients():
    hits = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        patients, seeds = np.tile(np.arange(40), 3), np.repeat(np.arange(3), 40)
        values = rng.normal(size=40)[patients] + 0.3 * rng.normal(size=120)
        tables = {("A", "L"): table(values, patients=patients, seeds=seeds, images=patients)}
        low, high = bootstrap.interval(bootstrap.paired_replicates(side_by_side(tables), n_boot=200)["A", "L"])
        hits += low <= 0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_ignoring_patients_would_undercover():
    # What the patient level is for: 20 patients of 10 alike images.
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[patient] + 0.1 * rng.normal(size=200)
    clustered = bootstrap.bootstrap(values, patient, statistic="mean").std()
    flat = bootstrap.bootstrap(values, np.arange(200), statistic="mean").std()
    assert clustered / flat == pytest.approx(np.sqrt(10), rel=0.15)


# ---------------------------------------------------------------- interval and summary


def test_interval_by_hand():
    # 0 ... 100: the 2.5 % and 97.5 % points.
    assert bootstrap.interval(np.arange(101.0)[::-1]) == pytest.approx((2.5, 97.5))
    assert bootstrap.interval(np.arange(101.0), level=0.5) == pytest.approx((25, 75))
    assert np.isnan(bootstrap.interval(np.array([1.0, np.nan, 2.0]))).all()


def test_summarise_by_hand():
    got = bootstrap.summarise([1, 2, 3, 4, np.nan], ["a", "a", "b", "c", "d"], n_boot=500, level=0.9)
    assert list(got) == ["n_images", "median", "q25", "q75", "ci_low", "ci_high"]
    assert (got["n_images"], got["median"], got["q25"], got["q75"]) == (4, 2.5, 1.75, 3.25)
    expected = bootstrap.interval(bootstrap.bootstrap([1, 2, 3, 4], list("aabc"), n_boot=500), 0.9)
    assert (got["ci_low"], got["ci_high"]) == expected
    assert 1 <= got["ci_low"] <= 2.5 <= got["ci_high"] <= 4
    assert {type(v) for v in got.values()} == {int, float}


def test_summarise_one_patient_and_none():
    one = bootstrap.summarise([1, 2], ["a", "a"])
    assert (one["n_images"], one["median"]) == (2, 1.5)
    assert np.isnan([one["ci_low"], one["ci_high"]]).all()
    none = bootstrap.summarise([np.nan], ["a"])
    assert none.pop("n_images") == 0
    assert np.isnan(list(none.values())).all()


# ---------------------------------------------------------------- ranks and reversals


# Under L: A > B > C. Under G: B > A, A > C and B > C: one reversal, A and B.
POINT = {("A", "L"): 0.7, ("B", "L"): 0.6, ("C", "L"): 0.1, ("A", "G"): 0.3, ("B", "G"): 0.5, ("C", "G"): 0.1}


def test_reversals_by_hand():
    draws = replicates(
        {
            ("A", "L"): [7.0, 7, 5, 6],
            ("B", "L"): [6.0, 6, 6, 6],
            ("A", "G"): [3.0, 5, 3, 3],
            ("B", "G"): [5.0, 4, 5, 5],
        }
    )
    (found,) = stability_ranks.reversals(stability(POINT), "L", "G", replicates=draws)
    assert (found["stabler_a"], found["stabler_b"]) == ("A", "B")
    assert (found["margin_a"], found["margin_b"]) == pytest.approx((0.1, 0.2))
    # A leads under L in draws 1 and 2 and ties in 4; B under G in 1, 3, 4; both strictly in 1 alone.
    assert (found["p_order_a"], found["p_order_b"], found["p_reversal"]) == (2.5 / 4, 3 / 4, 1 / 4)


def test_reversals_without_replicates_ties_and_gaps():
    (found,) = stability_ranks.reversals(stability(POINT), "L", "G")
    assert np.isnan([found["p_order_a"], found["p_order_b"], found["p_reversal"]]).all()
    assert stability_ranks.reversals(stability(POINT | {("B", "G"): 0.3}), "L", "G") == []  # a tie
    assert stability_ranks.reversals(stability(POINT | {("B", "G"): np.nan}), "L", "G") == []
    assert stability_ranks.reversals(stability(POINT), "L", "L") == []


def test_reversals_come_widest_first():
    values = {("A", "L"): 3, ("B", "L"): 2, ("C", "L"): 1, ("A", "G"): 1, ("B", "G"): 2, ("C", "G"): 3.5}
    found = stability_ranks.reversals(stability(values), "L", "G")
    assert [(f["stabler_a"], f["stabler_b"]) for f in found] == [("A", "C"), ("A", "B"), ("B", "C")]


def test_rank_probabilities_by_hand():
    draws = replicates({("A", "L"): [3.0, 1, 2, 1], ("B", "L"): [2.0, 2, 2, 1], ("C", "L"): [1.0, 3, 1, 1]})
    got = stability_ranks.rank_probabilities(draws)
    assert got.index.tolist() == [("L", "A"), ("L", "B"), ("L", "C")] and got.columns.tolist() == [1, 2, 3]
    third = 1 / 3
    # Ranks of A: 1, 3, 1 or 2, any; of B: 2, 2, 1 or 2, any; of C: 3, 1, 3, any.
    expected = np.array(
        [
            [1.5 + third, 0.5 + third, 1 + third],
            [0.5 + third, 2.5 + third, third],
            [1 + third, third, 2 + third],
        ]
    )
    np.testing.assert_allclose(got, expected / 4)


def test_rank_probabilities_and_order_agree_for_two():
    rng = np.random.default_rng(0)
    draws = replicates({cell: rng.integers(0, 3, 200).astype(float) for cell in (("A", "L"), ("B", "L"))})
    got = stability_ranks.rank_probabilities(draws)
    assert got.loc[("L", "A"), 1] == pytest.approx(stability_ranks.p_order(draws, "L", "A", "B"))
    assert stability_ranks.p_order(draws, "L", "A", "B") + stability_ranks.p_order(
        draws, "L", "B", "A"
    ) == pytest.approx(1)


def test_nan_replicates_give_no_probability():
    draws = replicates(
        {("A", "L"): [1.0, np.nan], ("B", "L"): [0.0, 0], ("A", "G"): [0.0, 0], ("B", "G"): [1.0, 1]}
    )
    assert np.isnan(stability_ranks.p_order(draws, "L", "A", "B"))
    assert np.isnan(stability_ranks.p_reversal(draws, "L", "G", "A", "B"))
    got = stability_ranks.rank_probabilities(draws)
    assert got.loc["L"].isna().all(axis=None) and got.loc[("G", "B"), 1] == 1


# ---------------------------------------------------------------- paired replicates


def test_pairing_cancels_what_cells_share():
    rng = np.random.default_rng(0)
    patients, seeds = np.tile(np.arange(30), 2), np.repeat([1, 2], 30)
    images = [f"x{p}" for p in patients]
    hard = rng.normal(size=30)[patients]
    a = table(hard, patients=patients, seeds=seeds, images=images)
    draws = bootstrap.paired_replicates(side_by_side({("A", "L"): a, ("B", "L"): a - 0.01}), n_boot=300)
    assert draws.columns.tolist() == [("A", "L"), ("B", "L")] and len(draws) == 300
    assert draws["A", "L"].std() > 0.05
    np.testing.assert_allclose(draws["A", "L"] - draws["B", "L"], 0.01)  # in every single replicate
    assert stability_ranks.p_order(draws, "L", "A", "B") == 1


def test_one_cell_is_a_plain_bootstrap():
    values, patients = np.random.default_rng(1).normal(size=12), np.arange(12) // 2
    draws = bootstrap.paired_replicates(side_by_side({("A", "L"): table(values, patients=patients)}), n_boot=80)
    np.testing.assert_array_equal(draws["A", "L"], bootstrap.bootstrap(values, patients, n_boot=80))


def test_cells_may_lack_images():
    # B lacks two patients and has NaN for a third; what it keeps is drawn as in A.
    a, b = table(np.arange(8.0)), table(np.arange(8.0)).iloc[:6].copy()
    b.iloc[3] = np.nan
    draws = bootstrap.paired_replicates(side_by_side({("A", "L"): a, ("B", "L"): b}), n_boot=2000)
    kept = a.iloc[[0, 1, 2, 4, 5]]
    same = bootstrap.paired_replicates(side_by_side({("A", "L"): a, ("B", "L"): kept}), n_boot=2000)
    pd.testing.assert_frame_equal(draws, same)
    assert draws["B", "L"].max() == 5 and draws["A", "L"].mean() == pytest.approx(3.5, abs=0.1)


def test_the_order_of_rows_and_cells_carries_no_meaning():
    rng = np.random.default_rng(2)
    forth = side_by_side({("A", "L"): table(rng.normal(size=9)), ("B", "L"): table(rng.normal(size=9))})
    draws = bootstrap.paired_replicates(forth, n_boot=40)
    back = bootstrap.paired_replicates(forth.iloc[::-1, ::-1], n_boot=40)
    pd.testing.assert_frame_equal(draws, back[draws.columns.tolist()])


def test_paired_with_one_patient_is_nan():
    draws = bootstrap.paired_replicates(side_by_side({("A", "L"): table([1.0, 2], patients=["p", "p"])}), n_boot=5)
    assert draws.shape == (5, 1) and draws.isna().all(axis=None)


@pytest.mark.parametrize("other", [table([1.0, 2], seeds=[0, 1]), table([np.nan, np.nan])])
def test_cells_without_the_same_seeds_are_refused(other):
    with pytest.raises(InputError, match="same run seeds.* 'A', 'L'|same run seeds.* 'B', 'L'"):
        bootstrap.paired_replicates(side_by_side({("A", "L"): table([1.0, 2]), ("B", "L"): other}))


# ---------------------------------------------------------------- patients alone


def test_patient_weights_draw_whole_patients():
    patient = np.array(["b", "a", "b", "c", "b"])
    got = bootstrap.patient_weights(patient, n_boot=4000)
    assert got.shape == (4000, 5) and got.dtype == np.int64
    np.testing.assert_array_equal(got[:, [0, 0]], got[:, [2, 4]])
    np.testing.assert_array_equal(got[:, [1, 3, 0]].sum(1), 3)  # three draws of three patients
    assert got.mean(0) == pytest.approx(np.ones(5), abs=0.05)
    assert got[:, 1].var() == pytest.approx(3 * 1 / 3 * 2 / 3, abs=0.05)  # binomial(3, 1 / 3)
    # The set of patients decides, not their order or how many images they have.
    again = bootstrap.patient_weights(["a", "b", "c"], n_boot=4000)
    np.testing.assert_array_equal(again, got[:, [1, 0, 3]])


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_patient_replicates_are_statistics_of_the_drawn_rows(statistic, monkeypatch):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 2)
    values = table(np.arange(24), patients=patients).to_frame("a")
    values["a"], values["b"], values["c"] = rng.normal(size=(3, 24))
    values.iloc[:4, 2] = values.iloc[7, 2] = np.nan  # lacks two patients and an image
    draws = bootstrap.patient_replicates(values, n_boot=60, statistic=statistic)
    assert draws.columns.tolist() == list("abc") and draws.shape == (60, 3)
    for row, drawn in enumerate(bootstrap.patient_weights(patients, n_boot=60)):
        repeated = values.loc[values.index.repeat(drawn)]
        np.testing.assert_allclose(draws.loc[row], repeated.agg(statistic))
    monkeypatch.setattr(resampling, "BLOCK", 100)  # memory is bounded, results are the same
    back = bootstrap.patient_replicates(
        values.sample(frac=1, random_state=0)[list("cba")], n_boot=60, statistic=statistic
    )
    np.testing.assert_allclose(back[list("abc")], draws)


def test_patient_replicates_covary_by_what_patients_share():
    rng = np.random.default_rng(1)
    hard, own = rng.normal(size=200), rng.normal(size=(2, 200))
    values = pd.concat([table(hard + own[s]) for s in range(2)], axis=1)
    draws = bootstrap.patient_replicates(values, n_boot=4000, statistic="mean")
    expected = np.cov(hard + own[0], hard + own[1], bias=True) / 200
    np.testing.assert_allclose(np.cov(draws.to_numpy().T), expected, rtol=0.15)


def test_patient_replicates_with_too_little_are_nan():
    one = bootstrap.patient_replicates(table([1.0, 2], patients=["p", "p"]).to_frame(), n_boot=5)
    assert one.shape == (5, 1) and one.isna().all(axis=None)
    # A column of one patient among three: NaN exactly where that patient was not drawn.
    values = pd.concat({"A": table([1.0, 2, 3]), "B": table([4.0])}, axis=1)
    draws = bootstrap.patient_replicates(values, n_boot=200)
    missing = bootstrap.patient_weights(["p00", "p01", "p02"], n_boot=200)[:, 0] == 0
    np.testing.assert_array_equal(draws["B"].isna(), missing)
    assert 0 < missing.sum() < 200
