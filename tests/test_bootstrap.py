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
    n = len(values)
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(n)] if images is None else images,
            "patient_id": [f"p{k}" for k in range(n)] if patients is None else patients,
            "seed": [0] * n if seeds is None else seeds,
            "value": values,
        }
    )


def cells(values, direction=True):
    """{(architecture, method): value} as a summary."""
    rows = [(a, m, v, direction) for (a, m), v in values.items()]
    return pd.DataFrame(rows, columns=["architecture", "method", "value", "higher_is_more_stable"])


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
    assert resampling.weighted(np.ptp, values, weights) == [np.ptp(repeated)]


def test_unit_weights_give_the_plain_median():
    for n in (1, 2, 5, 6):
        values = np.random.default_rng(n).normal(size=n)
        assert resampling.weighted("median", values, np.ones((1, n), int)) == [np.median(values)]


def test_no_weight_at_all_is_nan():
    for statistic in ("median", "mean", np.median):
        got = resampling.weighted(statistic, np.array([1.0, 2.0]), np.array([[0, 0], [0, 3]]))
        np.testing.assert_array_equal(got, [np.nan, 2.0])


# ---------------------------------------------------------------- the resampling scheme


def all_weights(seed, patient, n_boot=4000, crossed=False):
    blocks = resampling.row_weights(
        np.array(seed), np.array(patient), n_boot=n_boot, rng=np.random.default_rng(0), crossed=crossed
    )
    return np.concatenate(list(blocks))


def test_replicates_have_as_many_units_as_the_data_on_every_level():
    # Balanced: 2 seeds x 3 patients x 2 images. Nested, every replicate holds 12 images and whole patients.
    seed, patient = np.repeat([0, 1], 6), np.tile(np.repeat([0, 1, 2], 2), 2)
    for crossed in (False, True):
        w = all_weights(seed, patient, crossed=crossed)
        assert w.shape == (4000, 12) and (w >= 0).all()
        assert (w.sum(1) == 12).all()
        assert (w.reshape(-1, 6, 2).sum(2) % 2 == 0).all()  # a patient drawn m times brings 2 m images
        assert (w.reshape(-1, 2, 6).sum(2) % 6 == 0).all()  # a seed drawn c times brings 6 c
        np.testing.assert_allclose(w.mean(0), 1, atol=0.1)


def test_seed_draws_are_even():
    w = all_weights([0, 0, 1, 1], [0, 1, 2, 3])
    draws = np.bincount(w[:, :2].sum(1) // 2, minlength=3) / len(w)  # how often seed 0: 0, 1 or 2 times
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


def test_crossed_draws_a_patient_alike_under_every_seed():
    seed, patient = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    both = lambda w: w[(w[:, :3].sum(1) > 0) & (w[:, 3:].sum(1) > 0)]  # noqa: E731  both seeds drawn once
    crossed, nested = (both(all_weights(seed, patient, crossed=c)) for c in (True, False))
    np.testing.assert_array_equal(crossed[:, :3], crossed[:, 3:])
    assert (nested[:, :3] != nested[:, 3:]).any(1).mean() > 0.7


def test_exact_distribution_of_a_tiny_bootstrap():
    # Three patients, one image each, values 0, 1, 5: 27 equally likely samples.
    medians = [np.median(s) for s in product([0, 1, 5], repeat=3)]
    got = bootstrap.bootstrap([0, 1, 5], ["a", "b", "c"], n_boot=20_000)
    for value in (0, 1, 5):
        assert (got == value).mean() == pytest.approx(medians.count(value) / 27, abs=0.015)


def test_exact_distribution_with_seeds():
    # Seeds with values (0, 0) and (1, 1): the mean is the share of draws of the second seed.
    got = bootstrap.bootstrap([0, 0, 1, 1], list("abcd"), seed=[7, 7, 9, 9], statistic="mean", n_boot=8000)
    assert sorted(set(got)) == [0, 0.5, 1]
    np.testing.assert_allclose([(got == v).mean() for v in (0, 0.5, 1)], [0.25, 0.5, 0.25], atol=0.02)


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


def test_a_function_gives_what_its_name_gives():
    values, patient = np.random.default_rng(3).normal(size=20), np.arange(20) // 3
    for name, function in (("median", np.median), ("mean", np.mean)):
        by_name = bootstrap.bootstrap(values, patient, statistic=name, n_boot=200)
        np.testing.assert_allclose(
            bootstrap.bootstrap(values, patient, statistic=function, n_boot=200), by_name, rtol=1e-12
        )


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
    one_seed = ["only"] * 30
    np.testing.assert_array_equal(first, bootstrap.bootstrap(values, named, seed=one_seed, n_boot=50, rng_seed=5))


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


def coverage(*, seeds, patients, images, crossed, spread, repeats=200):
    """Share of 95 % intervals of the mean that hold the true 0; spread of (patient, seed, image) effects."""
    hits = 0
    for i in range(repeats):
        rng = np.random.default_rng(i)
        patient = np.tile(np.repeat(np.arange(patients), images), seeds)
        seed = np.repeat(np.arange(seeds), patients * images)
        effects = [s * rng.normal(size=n) for s, n in zip(spread, (patients, seeds, len(seed)), strict=True)]
        low, high = bootstrap.interval(
            bootstrap.bootstrap(
                effects[0][patient] + effects[1][seed] + effects[2],
                patient,
                seed=seed,
                statistic="mean",
                n_boot=200,
                rng_seed=i,
                crossed=crossed,
            )
        )
        hits += low <= 0 <= high
    return hits / repeats


def test_coverage_with_several_images_a_patient():
    got = coverage(seeds=1, patients=40, images=3, crossed=False, spread=(1, 0, 0.5))
    assert 0.88 <= got <= 0.99


def test_patients_that_recur_under_every_seed_need_crossed():
    options = {"seeds": 3, "patients": 40, "images": 1, "spread": (1, 0, 0.3)}
    assert 0.87 <= coverage(crossed=True, **options) <= 0.99
    assert coverage(crossed=False, **options) < 0.85  # the reason for the option


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
    assert list(got) == ["n_images", "n_patients", "median", "q25", "q75", "ci_low", "ci_high", "mean"]
    assert (got["n_images"], got["n_patients"]) == (4, 3)
    assert (got["median"], got["q25"], got["q75"], got["mean"]) == (2.5, 1.75, 3.25, 2.5)
    expected = bootstrap.interval(bootstrap.bootstrap([1, 2, 3, 4], list("aabc"), n_boot=500), 0.9)
    assert (got["ci_low"], got["ci_high"]) == expected
    assert 1 <= got["ci_low"] <= 2.5 <= got["ci_high"] <= 4
    assert {type(v) for v in got.values()} == {int, float}


def test_summarise_one_patient_and_none():
    one = bootstrap.summarise([1, 2], ["a", "a"])
    assert (one["n_images"], one["n_patients"], one["median"]) == (2, 1, 1.5)
    assert np.isnan([one["ci_low"], one["ci_high"]]).all()
    none = bootstrap.summarise([np.nan], ["a"])
    assert (none.pop("n_images"), none.pop("n_patients")) == (0, 0)
    assert np.isnan(list(none.values())).all()


# ---------------------------------------------------------------- ranks and reversals


def test_order():
    values = {("A", "L"): 0.7, ("B", "L"): 0.5, ("C", "L"): 0.7, ("A", "G"): 0.1, ("B", "G"): 0.2}
    ranks = stability_ranks.order(cells(values))
    assert ranks.index.tolist() == ["A", "B", "C"] and ranks.columns.tolist() == ["L", "G"]
    np.testing.assert_array_equal(ranks, [[1.5, 2], [3, 1], [1.5, np.nan]])
    lower = stability_ranks.order(cells(values, direction=False))
    np.testing.assert_array_equal(lower, [[2.5, 1], [1, 2], [2.5, np.nan]])


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
    (found,) = stability_ranks.reversals(cells(POINT), "L", "G", replicates=draws)
    assert (found["stabler_a"], found["stabler_b"]) == ("A", "B")
    assert (found["margin_a"], found["margin_b"]) == pytest.approx((0.1, 0.2))
    # A leads under L in draws 1 and 2 and ties in 4; B under G in 1, 3, 4; both strictly in 1 alone.
    assert (found["p_order_a"], found["p_order_b"], found["p_reversal"]) == (2.5 / 4, 3 / 4, 1 / 4)
    # Lower is more stable: B leads under L in the same draws, A under G.
    (flipped,) = stability_ranks.reversals(cells(POINT, direction=False), "L", "G", replicates=draws)
    assert (flipped["stabler_a"], flipped["stabler_b"]) == ("B", "A")
    assert (flipped["p_order_a"], flipped["p_order_b"], flipped["p_reversal"]) == (2.5 / 4, 3 / 4, 1 / 4)


def test_reversals_without_replicates_ties_and_gaps():
    (found,) = stability_ranks.reversals(cells(POINT), "L", "G")
    assert np.isnan([found["p_order_a"], found["p_order_b"], found["p_reversal"]]).all()
    assert stability_ranks.reversals(cells(POINT | {("B", "G"): 0.3}), "L", "G") == []  # a tie
    assert stability_ranks.reversals(cells(POINT | {("B", "G"): np.nan}), "L", "G") == []
    assert stability_ranks.reversals(cells(POINT), "L", "L") == []


def test_reversals_come_widest_first():
    values = {("A", "L"): 3, ("B", "L"): 2, ("C", "L"): 1, ("A", "G"): 1, ("B", "G"): 2, ("C", "G"): 3.5}
    found = stability_ranks.reversals(cells(values), "L", "G")
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
    np.testing.assert_allclose(
        stability_ranks.rank_probabilities(draws, higher_is_more_stable=False), expected[:, ::-1] / 4
    )


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
    b = table(hard - 0.01, patients=patients, seeds=seeds, images=images).sample(frac=1, random_state=1)
    tables = {("A", "L"): a, ("B", "L"): b}
    for crossed in (False, True):
        draws = bootstrap.paired_replicates(tables, n_boot=300, crossed=crossed)
        assert draws.columns.tolist() == [("A", "L"), ("B", "L")] and len(draws) == 300
        assert draws["A", "L"].std() > 0.05
        np.testing.assert_allclose(draws["A", "L"] - draws["B", "L"], 0.01)  # in every single replicate
        assert stability_ranks.p_order(draws, "L", "A", "B") == 1


def test_one_cell_is_a_plain_bootstrap():
    values, patients = np.random.default_rng(1).normal(size=12), np.arange(12) // 2
    images = [f"i{k:02}" for k in range(12)]
    draws = bootstrap.paired_replicates({("A", "L"): table(values, patients=patients, images=images)}, n_boot=80)
    np.testing.assert_array_equal(draws["A", "L"], bootstrap.bootstrap(values, patients, n_boot=80))


def test_cells_may_lack_images():
    # B lacks two patients and has NaN for a third; what it keeps is drawn as in A.
    a = table(np.arange(8.0))
    b = table(np.arange(8.0)).iloc[:6]
    b.loc[3, "value"] = np.nan
    draws = bootstrap.paired_replicates({("A", "L"): a, ("B", "L"): b}, n_boot=2000, statistic="mean")
    restricted = a.loc[[0, 1, 2, 4, 5]]
    same = bootstrap.paired_replicates({("A", "L"): a, ("B", "L"): restricted}, n_boot=2000, statistic="mean")
    pd.testing.assert_frame_equal(draws, same)
    assert draws["B", "L"].mean() == pytest.approx(12 / 5, abs=0.1)
    assert draws["A", "L"].mean() == pytest.approx(3.5, abs=0.1)


def test_row_and_table_order_carry_no_meaning():
    rng = np.random.default_rng(2)
    a, b = table(rng.normal(size=9)), table(rng.normal(size=9))
    forth = bootstrap.paired_replicates({("A", "L"): a, ("B", "L"): b}, n_boot=40)
    back = bootstrap.paired_replicates({("B", "L"): b[::-1], ("A", "L"): a[::-1]}, n_boot=40)
    pd.testing.assert_frame_equal(forth, back[forth.columns.tolist()])


def test_paired_with_one_patient_is_nan():
    draws = bootstrap.paired_replicates({("A", "L"): table([1.0, 2], patients=["p", "p"])}, n_boot=5)
    assert draws.shape == (5, 1) and draws.isna().all(axis=None)


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


@pytest.mark.parametrize("statistic, plain", [("median", np.median), ("mean", np.mean), (np.ptp, np.ptp)])
def test_patient_replicates_are_statistics_of_the_drawn_rows(statistic, plain, monkeypatch):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 2)
    values = {("A", "L", 0): rng.normal(size=24), ("A", "L", 1): rng.normal(size=24)}
    tables = {cell: table(v, patients=patients) for cell, v in values.items()}
    tables["B", "L", 0] = table(rng.normal(size=24), patients=patients).iloc[4:]  # lacks two patients
    tables["B", "L", 0].loc[7, "value"] = np.nan
    draws = bootstrap.patient_replicates(tables, n_boot=60, statistic=statistic)
    assert draws.columns.tolist() == list(tables) and draws.shape == (60, 3)
    weights = bootstrap.patient_weights(patients, n_boot=60)
    for cell, t in tables.items():
        t = t.dropna()
        for drawn, got in zip(weights[:, t.index], draws[cell], strict=True):
            assert got == pytest.approx(plain(np.repeat(t["value"].to_numpy(), drawn)))
    monkeypatch.setattr(resampling, "BLOCK", 100)  # memory is bounded, results are the same
    back = bootstrap.patient_replicates(
        {cell: t.sample(frac=1, random_state=0) for cell, t in reversed(tables.items())},
        n_boot=60,
        statistic=statistic,
    )
    np.testing.assert_allclose(back[list(tables)], draws)


def test_patient_replicates_covary_by_what_patients_share():
    rng = np.random.default_rng(1)
    hard, own = rng.normal(size=200), rng.normal(size=(2, 200))
    tables = {("A", "L", s): table(hard + own[s]) for s in range(2)}
    draws = bootstrap.patient_replicates(tables, n_boot=4000, statistic="mean")
    expected = np.cov(hard + own[0], hard + own[1], bias=True) / 200
    np.testing.assert_allclose(np.cov(draws.to_numpy().T), expected, rtol=0.15)


def test_patient_replicates_with_too_little_are_nan():
    one = bootstrap.patient_replicates({("A",): table([1.0, 2], patients=["p", "p"])}, n_boot=5)
    assert one.shape == (5, 1) and one.isna().all(axis=None)
    # A cell of one patient among three: NaN exactly where that patient was not drawn.
    tables = {("A",): table([1.0, 2, 3]), ("B",): table([4.0])}
    draws = bootstrap.patient_replicates(tables, n_boot=200)
    missing = bootstrap.patient_weights(["p0", "p1", "p2"], n_boot=200)[:, 0] == 0
    np.testing.assert_array_equal(draws[("B",)].isna().to_numpy().ravel(), missing)
    assert 0 < missing.sum() < 200


@pytest.mark.parametrize(
    "tables, message",
    [
        ({}, "no tables"),
        ({"A": table([1.0, 2])}, "tuples"),
        ({("A", 0): table([1.0, 2]).drop(columns="value")}, "value"),
        ({("A", 0): table([1.0, 2], images=["i", "i"])}, "more than once"),
        ({("A", 0): table([1.0, np.inf])}, "infinite"),
        ({("A", 0): table([np.nan, np.nan])}, "no value"),
        ({("A", 0): table([1.0, 2], patients=["p", None])}, "missing"),
    ],
)
def test_bad_patient_tables(tables, message):
    with pytest.raises(InputError, match=message):
        bootstrap.patient_replicates(tables)


def test_bad_patient_weights():
    for patient in ([], ["a", None], [["a", "b"]]):
        with pytest.raises(InputError, match="patient_weights"):
            bootstrap.patient_weights(patient)
    with pytest.raises(InputError, match="n_boot"):
        bootstrap.patient_weights(["a", "b"], n_boot=0)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "values, patient, options, message",
    [
        ([1, 2], ["a"], {}, "one length"),
        ([1, 2], ["a", "b"], {"seed": [1]}, "seed"),
        ([1, np.inf], ["a", "b"], {}, "infinite"),
        ([1, 2], ["a", None], {}, "patient is missing"),
        ([1, 2], ["a", "b"], {"statistic": "mode"}, "mode"),
        ([1, 2], ["a", "b"], {"n_boot": 0}, "n_boot"),
    ],
)
def test_bad_bootstrap(values, patient, options, message):
    with pytest.raises(InputError, match=message):
        bootstrap.bootstrap(values, patient, **options)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_bad_level(level):
    with pytest.raises(InputError, match="level"):
        bootstrap.interval(np.arange(3.0), level)


@pytest.mark.parametrize(
    "tables, message",
    [
        ({}, "no tables"),
        ({"A": table([1.0, 2])}, "architecture, method"),
        ({("A", "L"): table([1.0, 2]).drop(columns="seed")}, "seed"),
        ({("A", "L"): table([1.0, 2], images=["i", "i"])}, "more than once"),
        ({("A", "L"): table([1.0, np.inf])}, "infinite"),
        ({("A", "L"): table([np.nan, np.nan])}, "no value"),
        ({("A", "L"): table([1.0, 2], patients=["p", None])}, "patient_id is missing"),
        ({("A", "L"): table([1.0, 2]), ("B", "L"): table([1.0, 2], seeds=[0, 1])}, "same run seeds"),
        ({("A", "L"): table([1.0, 2]), ("B", "L"): table([1.0, 2], patients=["p0", "q"])}, "one patient"),
    ],
)
def test_bad_tables(tables, message):
    with pytest.raises(InputError, match=message):
        bootstrap.paired_replicates(tables)


def test_bad_summaries_and_cells():
    with pytest.raises(InputError, match="more than once"):
        stability_ranks.order(pd.concat([cells(POINT), cells(POINT)]))
    with pytest.raises(InputError, match="signed"):
        stability_ranks.order(cells(POINT, direction=None))
    mixed = cells(POINT)
    mixed["higher_is_more_stable"] = [True, False] * 3
    with pytest.raises(InputError, match="every row"):
        stability_ranks.order(mixed)
    with pytest.raises(InputError, match="higher_is_more_stable"):
        stability_ranks.order(mixed.drop(columns="higher_is_more_stable"))
    with pytest.raises(InputError, match="no method 'X'"):
        stability_ranks.reversals(cells(POINT), "L", "X")
    with pytest.raises(InputError, match="no column"):
        stability_ranks.p_order(replicates({("A", "L"): [1.0]}), "L", "A", "B")


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
