"""The engine by hand and against the ANOVA; SciPy as oracle; false positives by simulation."""

from dataclasses import replace
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr.core.errors import InputError
from cxr.metrics import baselines
from cxr.statistics import bootstrap, contrasts, estimates, planning, rank_tests
from cxr.statistics.score_rows import Scores

# Replicates that covary negatively between any two of three seeds: patients then count as nothing.
OPPOSED = np.eye(3)


def rows(values, *, architecture="A", method="L", seed=0, patients=None, images=None):
    n = len(values)
    return pd.DataFrame(
        {
            "architecture": architecture,
            "method": method,
            "seed": seed,
            "image_id": [f"i{k}" for k in range(n)] if images is None else images,
            "patient_id": [f"p{k}" for k in range(n)] if patients is None else patients,
            "overlap": values,
        }
    )


def grid(values, *, architectures="ABCD", methods="LGS", patients=None):
    """Scores from an array [architectures, methods, seeds, images]."""
    return pd.concat(
        [
            rows(values[a, m, s], architecture=architectures[a], method=methods[m], seed=s, patients=patients)
            for a, m, s in np.ndindex(values.shape[:3])
        ],
        ignore_index=True,
    )


def components(value, seeds, patients, residual=0.0, *, k=3, n=100, level=0.95):
    se = sqrt(seeds / k + patients)
    return estimates.Estimate(value, se, nan, nan, nan, level, k, n, seeds, patients, residual, k - 1.0)


# ---------------------------------------------------------------- the engine


def test_estimate_by_hand():
    # Variances 4 and 7, covariance 5; S2 of 1 and 3 is 2.
    est = estimates.estimate([1, 3], np.array([[0, 0], [2, 1], [4, 5]]), n_patients=10, level=0.9)
    assert (est.value, est.n_seeds, est.n_patients, est.level) == (2, 2, 10, 0.9)
    assert (est.var_seeds, est.var_patients, est.var_residual) == pytest.approx((2, 5, 0.5))
    assert est.se == pytest.approx(sqrt(2 / 2 + 5))
    assert est.df == pytest.approx(6**2 / (1**2 / 1 + 5**2 / 9))
    half = sqrt(stats.t.ppf(0.95, 1) ** 2 * 1 + stats.t.ppf(0.95, 9) ** 2 * 5)
    assert (est.low, est.high) == pytest.approx((2 - half, 2 + half))


def test_one_seed_is_t_over_patients():
    draws = np.random.default_rng(0).normal(0.3, 0.1, (500, 1))
    est = estimates.estimate([0.3], draws, n_patients=12)
    assert (est.se, est.df, est.n_seeds) == (pytest.approx(draws.std(ddof=1)), pytest.approx(11), 1)
    assert (est.low, est.high) == pytest.approx(stats.t.interval(0.95, 11, 0.3, draws.std(ddof=1)))
    assert isnan(est.var_seeds) and isnan(est.var_residual)
    assert estimates.p_value(est) == pytest.approx(2 * stats.t.sf(0.3 / est.se, 11))


def test_without_patients_it_is_t_over_seeds():
    theta = [0.1, 0.4, 0.3]
    est = estimates.estimate(theta, OPPOSED, n_patients=50)
    assert est.var_patients == 0 and est.df == pytest.approx(2)
    assert (est.low, est.high) == pytest.approx(stats.ttest_1samp(theta, 0).confidence_interval())
    for alternative in ("two-sided", "less", "greater"):
        for null in (-0.2, 0.25, 0.3, 1.0):
            expected = stats.ttest_1samp(theta, null, alternative=alternative).pvalue
            assert estimates.p_value(est, null, alternative) == pytest.approx(expected)


def test_tost_is_two_t_tests():
    theta = [0.001, -0.004, 0.006]
    est = estimates.estimate(theta, OPPOSED, n_patients=50, level=0.9)
    for margin in (0.003, 0.01, 0.02):
        lower = stats.ttest_1samp(theta, -margin, alternative="greater").pvalue
        upper = stats.ttest_1samp(theta, margin, alternative="less").pvalue
        p = estimates.equivalence(est, margin)
        assert p == pytest.approx(max(lower, upper))
        assert (p < 0.05) == (-margin < est.low and est.high < margin)
        assert estimates.p_value(est, margin, "less") == pytest.approx(upper)
    assert estimates.equivalence(est, 0.02) < 0.05 < estimates.equivalence(est, 0.003)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=5),
    st.floats(0.01, 2),
    st.integers(3, 400),
    st.sampled_from([0.8, 0.9, 0.95, 0.999]),
)
@settings(max_examples=100)
def test_p_values_are_the_interval_turned_round(theta, spread, patients, level):
    draws = spread * (np.random.default_rng(0).normal(size=(50, 1)) + 0.3 * np.eye(50)[:, : len(theta)])
    est = estimates.estimate(theta, draws, n_patients=patients, level=level)
    for end in (est.low, est.high):
        assert estimates.p_value(est, end) == pytest.approx(1 - level, rel=1e-5)
    assert estimates.p_value(est, est.high, "less") == pytest.approx((1 - level) / 2, rel=1e-5)
    assert estimates.p_value(est, est.high, "greater") == pytest.approx((1 + level) / 2, rel=1e-5)
    assert estimates.p_value(est, est.value) == pytest.approx(1)


def test_tiny_p_values():
    est = components(1, 1e-6, 1e-6, k=5, n=400)
    assert 0 < estimates.p_value(est) < estimates.p_value(est, 0.5) < 1e-6
    for k in (2, 60):  # a hair of S2, as from rounding
        assert 0 <= estimates.p_value(components(1, 1e-34, 1e-6, k=k, n=400)) < 1e-12
    assert estimates.p_value(components(1, 0.0, 1e-6, k=5, n=400)) == pytest.approx(2 * stats.t.sf(1000, 399))


def test_variance_is_the_anova_of_the_crossed_design():
    rng = np.random.default_rng(3)
    k, n = 4, 30
    values = rng.normal(0, 0.3, (k, 1)) + rng.normal(0, 1, n) + rng.normal(0, 0.7, (k, n))
    grand, by_seed, by_patient = values.mean(), values.mean(1), values.mean(0)
    ms_seed = n * ((by_seed - grand) ** 2).sum() / (k - 1)
    ms_patient = k * ((by_patient - grand) ** 2).sum() / (n - 1)
    ms_error = ((values - by_seed[:, None] - by_patient + grand) ** 2).sum() / ((k - 1) * (n - 1))
    by_seed = pd.DataFrame(values.T, index=pd.Index(range(n), name="patient_id"))
    draws = bootstrap.patient_replicates(by_seed, statistic="mean", n_boot=20_000)
    est = estimates.estimate(by_seed.mean(), draws, n_patients=n)
    assert est.value == pytest.approx(grand)
    assert est.var_seeds == pytest.approx(ms_seed / n)
    # A bootstrap's variance of a mean is (n - 1) / n of the unbiased one.
    shrunk = (n - 1) / n
    assert est.var_patients == pytest.approx(shrunk * (ms_patient - ms_error) / (k * n), rel=0.05)
    assert est.var_residual == pytest.approx(shrunk * ms_error / n, rel=0.05)
    assert est.se**2 == pytest.approx((ms_seed + ms_patient - ms_error) / (k * n), rel=0.06)


def test_no_estimate_from_one_patient_or_gaps():
    draws = np.random.default_rng(0).normal(size=(9, 2))
    for theta, replicates, patients in (
        ([1, 2], draws, 1),
        ([1, nan], draws, 9),
        ([1, 2], np.where(np.arange(9)[:, None] == 3, nan, draws), 9),
    ):
        est = estimates.estimate(theta, replicates, n_patients=patients)
        assert np.isnan(
            [est.se, est.df, est.low, est.high, estimates.p_value(est), estimates.equivalence(est, 1)]
        ).all()


def test_replicates_all_alike_prove_nothing():
    est = estimates.estimate([0, 0], np.zeros((9, 2)), n_patients=9)
    assert (est.value, est.se) == (0, 0)
    assert np.isnan(
        [est.low, est.high, estimates.p_value(est), estimates.p_value(est, 1), estimates.equivalence(est, 1)]
    ).all()
    assert isnan(planning.power(est, effect=1)) and isnan(planning.smallest_effect(est))


# ---------------------------------------------------------------- several kinds of network


def test_a_total_adds_independent_seeds_and_shares_patients():
    # Group a: S2 of 1, 3 is 2. Group b: S2 of 0, 3, 6 is 9. Replicates: a's two columns, and b's three.
    a, b = np.array([[0, 0], [2, 1], [4, 5]]), np.array([[1, 0, 0], [0, 0, 3], [0, 3, 0]])
    got = estimates.total([([1, 3], a), ([0, 3, 6], b)], n_patients=10, level=0.9)
    assert (got.value, got.n_seeds, got.n_patients) == (2 + 3, 2, 10)
    sources = (2 / 2, 9 / 3)
    assert got.var_seeds / got.n_seeds == pytest.approx(4)
    assert got.df_seeds == pytest.approx(4**2 / (sources[0] ** 2 / 1 + sources[1] ** 2 / 2))  # Welch
    whole = np.cov(np.hstack([a, b]).T)
    within_b = (whole[2, 3] + whole[2, 4] + whole[3, 4]) / 3
    common = whole[0, 1] + within_b + 2 * whole[:2, 2:].mean()
    assert got.var_patients == pytest.approx(max(common, 0))
    half = sqrt(stats.t.ppf(0.95, got.df_seeds) ** 2 * 4 + stats.t.ppf(0.95, 9) ** 2 * got.var_patients)
    assert (got.low, got.high) == pytest.approx((5 - half, 5 + half))


def test_equal_spread_gives_twice_the_degrees_of_freedom_of_a_pair():
    theta = np.array([0.1, 0.4, 0.3])
    got = estimates.total([(theta, OPPOSED), (-theta[::-1], -OPPOSED)], n_patients=50)
    assert got.df_seeds == pytest.approx(2 * (3 - 1)) and got.value == pytest.approx(0)
    assert got.var_seeds == pytest.approx(2 * theta.var(ddof=1))
    expected = stats.ttest_ind(theta + 0.2, theta, equal_var=False)
    got = estimates.total([(theta + 0.2, OPPOSED), (-theta, 0 * OPPOSED)], n_patients=50)
    assert estimates.p_value(got) == pytest.approx(expected.pvalue)


def test_one_seed_on_either_side_is_about_these_networks():
    draws = np.random.default_rng(0).normal(0, 0.1, (500, 4))
    got = estimates.total([([0.1, 0.2, 0.3], draws[:, :3]), ([0.0], -draws[:, 3:])], n_patients=40)
    assert got.n_seeds == 1 and got.df_seeds == 0 and isnan(got.var_seeds)
    assert got.se == pytest.approx((draws[:, :3].mean(1) - draws[:, 3]).std(ddof=1))


def test_what_patients_do_alike_to_two_architectures_cancels():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, (4000, 1))
    a, b = hard + rng.normal(0, 0.1, (4000, 3)), hard + rng.normal(0, 0.1, (4000, 3))
    theta = rng.normal(0, 0.1, 3)
    assert estimates.total([(theta, a), (-theta, -b)], n_patients=50).var_patients < 0.002
    assert estimates.total([(theta, a), (theta, b)], n_patients=50).var_patients == pytest.approx(4, rel=0.1)


def test_a_jackknife_over_seeds_by_hand():
    # Pairs 01, 02, 12 of 1, 2, 6: mean 3; without seed 0, 1, 2: 6, 2, 1. Pseudo-values 9 - 2 x that: -3, 5, 7.
    draws = np.array([[0.0, 0, 0], [1, 2, 3], [5, 3, 4]])
    got = estimates.over_pairs([(0, 1), (0, 2), (1, 2)], [1, 2, 6], draws, n_patients=9, level=0.95)
    assert got.value == pytest.approx(3) and got.var_seeds == pytest.approx(np.var([-3, 5, 7], ddof=1))
    pseudo = 3 * draws.mean(1, keepdims=True) - 2 * draws[:, [2, 1, 0]]
    assert got == estimates.estimate([-3, 5, 7], pseudo, n_patients=9)


def test_a_jackknife_over_some_pairs_leaves_out_those_of_a_seed():
    # Pair 13 is missing; the mean is 3.2.
    # Without seed 0: 3, 6; without 1: 2, 4, 6; without 2: 1, 4; without 3: 1, 2, 3.
    pairs, values = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)], [1, 2, 4, 3, 6]
    got = estimates.over_pairs(pairs, values, np.zeros((4, 5)), n_patients=9, level=0.95)
    pseudo = 4 * 3.2 - 3 * np.array([4.5, 4, 2.5, 2])
    assert got.value == pytest.approx(pseudo.mean()) and got.var_seeds == pytest.approx(pseudo.var(ddof=1))


def test_the_jackknife_of_sums_is_the_variance_of_seeds():
    # Where a pair is the sum of two seeds' effects, the mean over pairs is twice their mean.
    effect = np.random.default_rng(2).normal(size=5)
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    values = [effect[a] + effect[b] for a, b in pairs]
    got = estimates.over_pairs(pairs, values, np.zeros((4, len(pairs))), n_patients=9, level=0.95)
    assert got.value == pytest.approx(2 * effect.mean())
    assert got.var_seeds == pytest.approx(4 * effect.var(ddof=1)) and got.df_seeds == pytest.approx(4)


def test_treating_pairs_as_independent_would_be_too_sure():
    covered, naive = 0, 0
    for i in range(400):
        effect = np.random.default_rng(i).normal(size=4)
        pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
        values = np.array([effect[a] + effect[b] for a, b in pairs])
        got = estimates.over_pairs(pairs, values, np.zeros((4, 6)), n_patients=9, level=0.95)
        covered += got.low <= 0 <= got.high
        naive += stats.ttest_1samp(values, 0).pvalue > 0.05
    assert 0.925 < covered / 400 < 0.975 and naive / 400 < 0.9


def test_logit_scale_by_hand():
    # One source: df 2, se 0.01 at 0.9. On the logit scale se is 0.01 / 0.09.
    est = components(0.9, 3 * 0.01**2, 0.0)
    got = estimates.on_logit(est)
    assert got.value == pytest.approx(np.log(9)) and got.se == pytest.approx(0.01 / 0.09)
    half = stats.t.ppf(0.975, 2) * 0.01 / 0.09
    back = estimates.proportion(est)
    assert (back.low, back.high) == pytest.approx((1 / (1 + np.exp(half) / 9), 1 / (1 + np.exp(-half) / 9)))
    assert back.high - 0.9 < 0.9 - back.low and back.value == 0.9 and back.se == est.se
    assert estimates.p_value(got, np.log(back.low / (1 - back.low))) == pytest.approx(0.05)
    for edge in (0.0, 1.0):
        none = estimates.proportion(components(edge, 0.01, 0.0))
        assert none.value == edge and isnan(none.low) and isnan(estimates.p_value(estimates.on_logit(none), 4.6))


# ---------------------------------------------------------------- Holm, reversals


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, nan, 0.03, 0.005], index=list("abcde"))
    # Sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 raised to the one before.
    expected = pd.Series([0.03, 0.06, nan, 0.06, 0.02], index=list("abcde"))
    pd.testing.assert_series_equal(estimates.holm(p), expected)
    np.testing.assert_allclose(estimates.holm(p.to_numpy()), expected)
    np.testing.assert_array_equal(estimates.holm([0.6, 0.9]), [1, 1])
    assert len(estimates.holm([])) == 0 and np.isnan(estimates.holm([nan])).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_as_the_step_down_does(p, alpha):
    rejected, order = set(), np.argsort(p, kind="stable")
    for step, i in enumerate(order):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected.add(i)
    assert set(np.flatnonzero(estimates.holm(p) <= alpha)) == rejected


def test_reversal_is_the_larger_two_sided_p():
    up, down = components(0.3, 0.01, 0.001), components(-0.2, 0.01, 0.001)
    larger = pytest.approx(estimates.p_value(down))
    assert estimates.p_value(up) < estimates.p_value(down)
    assert estimates.reversal_p(up, down) == larger == estimates.reversal_p(down, up)
    assert estimates.reversal_p(up, up) == 1  # the same order
    assert estimates.reversal_p(up, components(0, 0.01, 0.001)) == 1
    assert estimates.same_order_p(up, replace(down, value=0.2)) == larger and estimates.same_order_p(up, down) == 1
    for first, second in ((up, components(1, 0.0, 0.0)), (components(1, 0.0, 0.0), up)):
        assert isnan(estimates.reversal_p(first, second)) and isnan(estimates.same_order_p(first, second))


def test_one_seed_has_percentiles_and_several_have_the_estimate():
    draws = np.random.default_rng(0).normal(0.3, 0.1, (500, 2))
    one = estimates.located([0.3], draws[:, :1], n_patients=12, level=0.9)
    assert one == (0.3, *bootstrap.interval(draws[:, 0], 0.9))
    est = estimates.estimate([0.3, 0.4], draws, n_patients=12, level=0.9)
    assert estimates.located([0.3, 0.4], draws, n_patients=12, level=0.9) == (est.value, est.low, est.high)
    alone = pd.Series([0.3], index=pd.Index([1], name="seed"))
    assert estimates.located(alone, draws[:, :1], n_patients=12, level=0.9) == one
    assert np.isnan(estimates.located([], draws[:, :0], n_patients=12, level=0.9)).all()


# ---------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def crossing():
    """Three architectures, two methods, three seeds, 40 patients of two images: A > B under L, B > A under G."""
    rng = np.random.default_rng(0)
    means = np.array([[0.7, 0.4], [0.5, 0.6], [0.5, 0.4]])[:, :, None, None]
    values = (
        means + rng.normal(0, 0.01, (3, 2, 3, 1)) + rng.normal(0, 0.1, 80) + rng.normal(0, 0.05, (3, 2, 3, 80))
    )
    return values, grid(values, patients=[f"p{i // 2}" for i in range(80)])


def test_compare_architectures(crossing):
    values, scores = crossing
    got = contrasts.compare_architectures(Scores.of(scores, "overlap", n_boot=200))
    assert got.columns.tolist() == [
        "method", "a", "b", "difference", "low", "high", "se", "df", "p", "p_holm", "n_seeds", "n_patients",
        "estimate",
    ]  # fmt: skip
    pairs = ["AB", "AC", "BC"]
    assert (got["method"] + got["a"] + got["b"]).tolist() == [m + p for m in "LG" for p in pairs]
    medians = np.median(values, axis=3).mean(2)  # mean over seeds of the medians over images
    assert got["difference"].tolist() == pytest.approx(
        [medians[ord(a) - 65, m] - medians[ord(b) - 65, m] for m in (0, 1) for a, b in pairs]
    )
    np.testing.assert_allclose(got["p_holm"], estimates.holm(got["p"].to_numpy()))  # one family
    assert (got["n_seeds"] == 3).all() and (got["n_patients"] == 40).all()
    first = got.iloc[0]
    assert first["low"] < 0.2 < first["high"] and first["p_holm"] < 0.01
    # The same through the public parts.
    est = contrasts.contrast(Scores.of(scores, "overlap", n_boot=200), {("A", "L"): 1, ("B", "L"): -1})
    assert est == first["estimate"]
    assert (est.value, est.se, estimates.p_value(est)) == tuple(first[["difference", "se", "p"]])
    by_seed = scores[scores["method"] == "L"].pivot(
        index=["image_id", "patient_id"], columns=["architecture", "seed"], values="overlap"
    )
    draws = bootstrap.patient_replicates(by_seed, n_boot=200)
    medians = [[np.median(values[a, 0, s]) for s in range(3)] for a in (0, 1)]
    groups = [(medians[0], draws["A"].to_numpy()), (-np.array(medians[1]), -draws["B"].to_numpy())]
    same = estimates.total(groups, n_patients=40)
    assert (est.value, est.se, est.df_seeds) == pytest.approx((same.value, same.se, same.df_seeds))
    assert 2 <= est.df_seeds <= 4


def test_methods_are_paired_by_seed(crossing):
    values, scores = crossing
    est = contrasts.contrast(Scores.of(scores, "overlap", n_boot=200), {("A", "L"): 1, ("A", "G"): -1})
    change = np.median(values[0, 0], axis=1) - np.median(values[0, 1], axis=1)
    assert est.var_seeds == pytest.approx(change.var(ddof=1)) and est.df_seeds == 2


def test_combined_statistics_are_of_medians_on_the_same_draws(crossing):
    values, scores = crossing
    rng = np.random.default_rng(5)
    scores = scores.assign(reference=rng.uniform(0.1, 0.3, len(scores)))
    own = Scores.of(scores, "overlap", n_boot=200, against="reference", combine=baselines.corrected)
    est = contrasts.contrast(own, {("A", "L"): 1})
    rows = scores[(scores["architecture"] == "A") & (scores["method"] == "L")]
    medians = rows.groupby("seed")[["overlap", "reference"]].median()
    by_hand = (medians["overlap"] - medians["reference"]) / (1 - medians["reference"])
    assert est.value == pytest.approx(by_hand.mean()) and est.var_seeds == pytest.approx(by_hand.var(ddof=1))
    wide = rows.pivot(index=["image_id", "patient_id"], columns="seed", values=["overlap", "reference"])
    draws = bootstrap.patient_replicates(wide, n_boot=200)
    replicates = baselines.corrected(draws["overlap"].to_numpy(), draws["reference"].to_numpy())
    same = estimates.estimate(by_hand, replicates, n_patients=40)
    assert (est.se, est.low) == pytest.approx((same.se, same.low))


def test_order_of_rows_carries_no_meaning(crossing):
    scores = crossing[1]
    forth, back = (Scores.of(s, "overlap", n_boot=50) for s in (scores, scores.sample(frac=1, random_state=0)))
    cells = {("A", "L"): 1, ("B", "L"): -1}
    assert contrasts.contrast(forth, cells) == contrasts.contrast(back, cells)


def test_only_shared_images_and_seeds_count():
    a = rows([1, 2, 3, 4.0, 9])
    b = rows([0, 0, 0, nan], images=["i0", "i1", "i2", "i3"])  # i3 empty, i4 missing
    other = rows([5.0, 6], architecture="A", seed=1)  # a seed that B lacks
    table = pd.concat([a, b.assign(architecture="B"), other])
    scores = Scores.of(table, "overlap", n_boot=50)
    est = contrasts.contrast(scores, {("A", "L"): 1, ("B", "L"): -1})
    # A: medians 2 and 5.5 of the images that B has, too; B has one seed, so this is about these networks.
    assert (est.value, est.n_seeds, est.n_patients) == ((2 + 5.5) / 2, 1, 3)
    assert contrasts.contrast(scores, {("A", "L"): 1}).value == (3 + 5.5) / 2


def test_nothing_shared_is_nan():
    table = pd.concat([rows([1.0, 2]), rows([1.0, 2], architecture="B", images=["x", "y"])])
    got = contrasts.compare_architectures(Scores.of(table, "overlap", n_boot=50)).iloc[0]
    assert (got["n_seeds"], got["n_patients"]) == (0, 0)
    assert np.isnan(got[["difference", "low", "high", "p", "p_holm"]].to_numpy(float)).all()


def test_one_architecture_or_method_gives_empty_tables():
    scores = Scores.of(rows([1.0, 2]), "overlap")
    two = Scores.of(pd.concat([rows([1.0, 2]), rows([1.0, 2], method="G")]), "overlap")
    for got in (
        contrasts.compare_architectures(scores),
        contrasts.interaction(scores),
        contrasts.interaction(two),
        rank_tests.paired_tests(scores),
        contrasts.crossover(two, "L", "G"),
    ):
        assert len(got) == 0 and {"a", "b", "p", "p_holm", "n_seeds"} <= set(got.columns)


def test_one_seed_says_so():
    scores = Scores.of(grid(np.random.default_rng(0).normal(size=(2, 2, 1, 12))), "overlap", n_boot=50)
    assert contrasts.compare_architectures(scores)["n_seeds"].tolist() == [1, 1]
    assert contrasts.interaction(scores)["n_seeds"].tolist() == [1]
    assert contrasts.crossover(scores, "L", "G")["n_seeds"].tolist() == [1]


def test_interaction(crossing):
    values, scores = crossing
    got = contrasts.interaction(Scores.of(scores, "overlap", n_boot=200))
    assert got[["method_a", "method_b"]].drop_duplicates().to_numpy().tolist() == [["L", "G"]]
    medians = np.median(values, axis=3).mean(2)
    ab, ac = got.iloc[0], got.iloc[1]
    change = medians[:, 0] - medians[:, 1]
    assert ab["difference"] == pytest.approx(change[0] - change[1])
    assert ab["low"] < 0.4 < ab["high"] and ab["p_holm"] < 0.01
    assert ac["low"] < 0.2 < ac["high"]
    np.testing.assert_allclose(got["p_holm"], estimates.holm(got["p"].to_numpy()))
    patients = (values[:, 0] - values[:, 1]).mean(1).reshape(3, 40, 2).mean(2)
    np.testing.assert_allclose(got["p_friedman"], stats.friedmanchisquare(*patients).pvalue)


def test_crossover(crossing):
    values, scores = crossing
    got = contrasts.crossover(Scores.of(scores, "overlap", n_boot=200), "L", "G")
    assert got.columns.tolist() == [
        "a", "b", "difference_a", "low_a", "high_a", "difference_b", "low_b", "high_b",
        "p", "p_holm", "p_same_order", "n_seeds", "n_patients", "estimate_a", "estimate_b",
    ]  # fmt: skip
    ab, ac = got.iloc[0], got.iloc[1]
    each = contrasts.compare_architectures(Scores.of(scores, "overlap", n_boot=200)).set_index(
        ["method", "a", "b"]
    )
    assert ab["p"] == pytest.approx(max(each.loc[("L", "A", "B"), "p"], each.loc[("G", "A", "B"), "p"]))
    assert (ab["difference_a"], ab["difference_b"]) == pytest.approx((0.2, -0.2), abs=0.05)
    assert ab["p_holm"] < 0.01 and ab["p_same_order"] == 1
    assert ab["p"] == estimates.reversal_p(ab["estimate_a"], ab["estimate_b"])
    assert ac["p"] > 0.2  # A leads C under L, but not the other way round under G
    np.testing.assert_allclose(got["p_holm"], estimates.holm(got["p"].to_numpy()))
    turned = contrasts.crossover(Scores.of(scores, "overlap", n_boot=200), "G", "L").iloc[0]
    assert (turned["difference_a"], turned["p"]) == pytest.approx((ab["difference_b"], ab["p"]))


def test_paired_tests_against_scipy(crossing):
    values, scores = crossing
    got = rank_tests.paired_tests(Scores.of(scores, "overlap"))
    assert (got["scope"] == "these networks").all() and (got["n_patients"] == 40).all()
    assert (got["n_seeds"] == 3).all()
    patients = values.mean(2).reshape(3, 2, 40, 2).mean(3)  # over seeds, then images
    for m, method in enumerate("LG"):
        part = got[got["method"] == method]
        friedman = part[part["test"] == "friedman"].iloc[0]
        expected = stats.friedmanchisquare(*patients[:, m])
        assert (friedman["statistic"], friedman["p"]) == pytest.approx((expected.statistic, expected.pvalue))
        assert friedman["effect"] == pytest.approx(expected.statistic / (40 * 2)) and isnan(friedman["p_holm"])
        pairs = part[part["test"] == "wilcoxon"]
        assert len(pairs) == 3
        for row in pairs.itertuples():
            expected = stats.wilcoxon(patients[ord(row.a) - 65, m], patients[ord(row.b) - 65, m])
            assert (row.statistic, row.p) == pytest.approx((expected.statistic, expected.pvalue))
        np.testing.assert_allclose(pairs["p_holm"], estimates.holm(pairs["p"].to_numpy()))


def paired_tests(*tables):
    return rank_tests.paired_tests(Scores.of(pd.concat(tables), "overlap"))


def test_rank_biserial_by_hand():
    # Differences 1, -2, 3, 4, and a 0 that is dropped: ranks 1, 2, 3, 4; (1 - 2 + 3 + 4) / 10.
    a, b = [1, 0, 3, 4, 7.0], [0, 2, 0, 0, 7.0]
    (got,) = paired_tests(rows(a), rows(b, architecture="B")).itertuples()
    assert (got.effect, got.statistic, got.n_patients) == (pytest.approx(0.6), 2, 5)
    (got,) = paired_tests(rows(b), rows(a, architecture="B")).itertuples()
    assert got.effect == pytest.approx(-0.6)


def test_rank_tests_of_equal_values_and_of_one_patient():
    same = paired_tests(*(rows([1.0, 2], architecture=a) for a in "ABC"))
    assert same["p"].tolist() == [1, 1, 1, 1] and same["effect"].tolist() == [0, 0, 0, 0]
    one = paired_tests(*(rows([1.0, 2], architecture=a, patients=["p", "p"]) for a in "ABC"))
    assert one["p"].isna().all() and (one["n_patients"] == 1).all()


def test_patients_count_once_in_rank_tests():
    # The mean over a patient's images and seeds: patient p differs by (1 + 3) / 2, q by 1.
    images = {"patients": ["p", "p", "q"]}
    a, b = rows([1.0, 3, 1], **images), rows([0.0, 0, 0], architecture="B", **images)
    (got,) = paired_tests(a, b).itertuples()
    assert got.n_patients == 2 and got.p == pytest.approx(stats.wilcoxon([2, 1]).pvalue)


# ---------------------------------------------------------------- planning


def test_power_is_the_noncentral_t_where_patients_contribute_nothing():
    est = components(0.5, 0.04, 0.0, k=3, n=100)
    for k, effect in ((2, 0.5), (3, 0.3), (5, 0.2), (20, 0.1)):
        critical, shift = stats.t.ppf(0.975, k - 1), effect / sqrt(0.04 / k)
        expected = stats.nct.sf(critical, k - 1, shift) + stats.nct.cdf(-critical, k - 1, shift)
        assert planning.power(est, effect=effect, seeds=k) == pytest.approx(expected, abs=1e-3)
    assert planning.power(est, effect=0) == pytest.approx(0.05, abs=1e-3)
    assert planning.power(est, effect=0.5) == planning.power(est, effect=-0.5, seeds=3, patients=100)


def test_power_grows_with_seeds_and_patients_up_to_a_limit():
    est = components(0.05, 0.0008, 0.0002, 0.0005, k=3, n=100)
    by_seeds = [planning.power(est, effect=0.05, seeds=k) for k in (2, 3, 5, 10, 50)]
    by_patients = [planning.power(est, effect=0.05, patients=n) for n in (20, 100, 1000, 100_000)]
    assert by_seeds == sorted(by_seeds) and by_patients == sorted(by_patients)
    # With endless seeds the patients' variance is left, with endless patients the training's (0.0008 - 0.0005).
    assert planning.power(est, effect=0.05, seeds=10_000) == pytest.approx(
        stats.norm.sf(1.984 - 0.05 / sqrt(0.0002)), abs=0.005
    )
    endless = planning.power(components(0.05, 0.0003, 0, k=3), effect=0.05, seeds=3)
    assert by_patients[-1] == pytest.approx(endless, abs=0.01)


def test_power_of_independent_seeds_is_that_of_welchs_test():
    rng, repeats = np.random.default_rng(0), 20_000
    for k, effect in ((2, 0.1), (3, 0.06), (5, 0.05)):
        paired = components(0.0, 0.0008, 0.0, k=3)  # 0.02 ** 2 from each of two architectures
        planned = planning.power(replace(paired, df_seeds=3.1), effect=effect, seeds=k)
        a, b = rng.normal(effect, 0.02, (k, repeats)), rng.normal(0, 0.02, (k, repeats))
        found = (stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05).mean()
        assert planned == pytest.approx(found, abs=0.012)
        assert planned > planning.power(paired, effect=effect, seeds=k)


def test_the_smallest_effect_does_not_depend_on_what_was_observed():
    est = components(0.05, 0.0008, 0.0001, 0.0002, k=3, n=100)
    smallest = planning.smallest_effect(est)
    assert planning.power(est, effect=smallest) == pytest.approx(0.8)
    assert planning.smallest_effect(replace(est, value=0.5)) == smallest
    assert smallest < planning.smallest_effect(est, alpha=0.01) and smallest < planning.smallest_effect(
        est, wanted=0.9
    )
    # One seed: over patients alone. Two-sided t of 19 df; power takes the variance as known.
    single = estimates.estimate([0.3], np.random.default_rng(0).normal(size=(50, 1)), n_patients=20)
    expected = (stats.t.ppf(0.975, 19) + stats.norm.ppf(0.8)) * single.se
    assert planning.smallest_effect(single) == pytest.approx(expected, rel=1e-3)
    assert isnan(planning.power(single, effect=1, seeds=3)), "one seed says nothing of how seeds vary"


# ---------------------------------------------------------------- simulation


@pytest.mark.parametrize("k, seed_sd", [(2, 0.0), (2, 0.05), (3, 0.05), (5, 0.02)])
def test_false_positives_of_the_engine(k, seed_sd):
    """Difference of two architectures of one expectation: at most 5 %, where patients alone give far more."""
    n, repeats, hits, naive = 60, 300, 0, 0
    for i in range(repeats):
        rng = np.random.default_rng([k, i])
        d = rng.normal(0, seed_sd * sqrt(2), (k, 1)) + rng.normal(0, 0.08, n) + rng.normal(0, 0.15, (k, n))
        weights = bootstrap.patient_weights(np.arange(n), n_boot=100, rng_seed=i)
        est = estimates.estimate(d.mean(1), weights @ d.T / n, n_patients=n)
        hits += estimates.p_value(est) < 0.05
        naive += stats.wilcoxon(d.mean(0)).pvalue < 0.05
    assert 0.005 < hits / repeats < 0.07  # 0.05 and two standard errors
    assert naive / repeats < 0.09 if seed_sd == 0 else naive / repeats > 0.1


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop(columns="seed"), "seed"),
        (lambda t: t.drop(columns="overlap"), "overlap"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(patient_id=None), "patient_id"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "more than once"),
        (lambda t: t.assign(overlap=np.inf), "infinite"),
        (lambda t: pd.concat([t, t.assign(architecture="B", patient_id="q")]), "more than one patient"),
    ],
)
def test_bad_scores(change, message):
    with pytest.raises(InputError, match=message):
        Scores.of(change(rows([1.0, 2, 3])), "overlap")
