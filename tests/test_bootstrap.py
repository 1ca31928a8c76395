"""Bootstrap, intervals and reversals: tiny cases by hand, SciPy as oracle, coverage by simulation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr.statistics import bootstrap, resampling, stability_ranks


def table(values, *, patients=None, seeds=None, images=None):
    """Values [n] with the index of `Scores.values`; by default an image a patient, under one seed."""
    numbers = range(len(values))
    seeds = [0] * len(values) if seeds is None else seeds
    images = [f"i{k:02}" for k in numbers] if images is None else images
    patients = [f"p{k:02}" for k in numbers] if patients is None else patients
    index = pd.MultiIndex.from_arrays([seeds, images, patients], names=["seed", "image_id", "patient_id"])
    return pd.Series(values, index, dtype=float)


def stability(values):
    """{(architecture, method): value} as architectures x methods."""
    return pd.Series(values).unstack()


# ---------------------------------------------------------------- weighted statistics


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda rows: any(w for _, w in rows)
    )
)
@settings(max_examples=200)
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


def test_patients_are_drawn_with_all_their_images():
    # Patients of 1 and 3 images: the second one is drawn not, once or twice, with 1/4, 1/2, 1/4.
    draws = bootstrap.bootstrap([0, 1, 2, 6], [0, 1, 1, 1], statistic="mean", n_boot=4000)
    means = {0: 0.0, 1: 9 / 4, 2: 3.0}
    for times, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert np.isclose(draws, means[times]).mean() == pytest.approx(share, abs=0.03)
    assert np.isclose(draws[:, None], list(means.values())).any(axis=1).all(), "images are not drawn again"


def test_variance_is_that_between_patients():
    # Mean of equal numbers of images: (n - 1) / n of the variance of patients' means over n; a second stage within
    # patients would make it 1.35 times as large here.
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)[:, None] * 0.5 + rng.normal(size=(40, 2))
    draws = bootstrap.bootstrap(values.ravel(), np.repeat(np.arange(40), 2), statistic="mean", n_boot=20_000)
    assert draws.var() == pytest.approx(values.mean(1).var() / 40, rel=0.04)


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


def test_reproducible_and_blind_to_what_patients_are_called():
    values, patient = np.random.default_rng(4).normal(size=30), np.arange(30) // 2
    first = bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=5)
    np.testing.assert_array_equal(first, bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=5))
    assert (first != bootstrap.bootstrap(values, patient, n_boot=50, rng_seed=6)).any()
    named = [f"patient {p:02}" for p in patient]
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
    (found,) = stability_ranks.reversals(stability(POINT), "L", "G")
    assert (found["stabler_a"], found["stabler_b"]) == ("A", "B")
    assert (found["margin_a"], found["margin_b"]) == pytest.approx((0.1, 0.2))


def test_ties_and_gaps_are_no_reversal():
    assert stability_ranks.reversals(stability(POINT | {("B", "G"): 0.3}), "L", "G") == []  # a tie
    assert stability_ranks.reversals(stability(POINT | {("B", "G"): np.nan}), "L", "G") == []
    assert stability_ranks.reversals(stability(POINT), "L", "L") == []


def test_reversals_come_widest_first():
    values = {("A", "L"): 3, ("B", "L"): 2, ("C", "L"): 1, ("A", "G"): 1, ("B", "G"): 2, ("C", "G"): 3.5}
    found = stability_ranks.reversals(stability(values), "L", "G")
    assert [(f["stabler_a"], f["stabler_b"]) for f in found] == [("A", "C"), ("A", "B"), ("B", "C")]


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
    empty = pd.concat({"A": table([1.0, 2, 3]), "B": table([np.nan] * 3)}, axis=1)
    assert bootstrap.patient_replicates(empty, n_boot=5).isna().all().tolist() == [False, True]
    # A column of one patient among three: NaN exactly where that patient was not drawn.
    values = pd.concat({"A": table([1.0, 2, 3]), "B": table([4.0])}, axis=1)
    draws = bootstrap.patient_replicates(values, n_boot=200)
    missing = bootstrap.patient_weights(["p00", "p01", "p02"], n_boot=200)[:, 0] == 0
    np.testing.assert_array_equal(draws["B"].isna(), missing)
    assert 0 < missing.sum() < 200
