"""Drift metrics: hand-worked small maps, SciPy and scikit-image as oracles, and properties."""

import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats
from skimage.metrics import structural_similarity

from cxr.core.errors import InputError
from cxr.metrics import baselines, map_features, map_grids, metric_table, overlap, similarity
from cxr.report import comparison, score_summary

SIGNED = [m.name for m in metric_table.METRICS.values() if m.signed]
SYMMETRIC = [m.name for m in metric_table.METRICS.values() if not m.signed]
TABLE = (
    "centroid_shift peak_shift overlap_q05 overlap_q10 overlap overlap_q30 soft_iou pearson spearman ssim "
    "gini_change entropy_change top10_energy_change"
).split()
OVERLAPS = ["overlap_q05", "overlap_q10", "overlap", "overlap_q30"]


def relu_maps(n, h, w, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(n, h, w)), 0).astype(np.float32)


def one(t, f, size, names=None):
    result = similarity.compare_maps(np.array([t]), np.array([f]), size=size, names=names)
    return {name: value[0] for name, value in result.items()}


# Values are multiples of 1/64 so that scaling and offsetting them below is exact.
raw_maps = arrays(np.float32, (5, 6), elements=st.integers(0, 64).map(lambda k: k / 64)).filter(
    lambda m: np.ptp(m) > 0
)


# ---------------------------------------------------------------- the table


def test_metrics_are_the_designs_table():
    assert list(metric_table.METRICS) == TABLE
    assert SIGNED == ["gini_change", "entropy_change", "top10_energy_change"]
    for name, metric in metric_table.METRICS.items():
        assert metric.name == name
        assert metric.higher_is_more_stable is (None if metric.signed else metric.identical == 1.0)


def test_a_metric_is_one_function_and_one_entry(monkeypatch):
    """Values, baselines, summary and overview go through the table."""
    calls = []

    def mean_of(features):
        calls.append(features)
        return float(features.flat.mean())

    def mean_change(before, after):
        return after.once(mean_of) - before.once(mean_of)

    mine = metric_table.Metric(
        name="mean_change",
        label="Change in mean",
        compute=mean_change,
        identical=0.0,
        higher_is_more_stable=None,
        signed=True,
        bounds=(-1, 1),
    )
    monkeypatch.setitem(metric_table.METRICS, "mean_change", mine)
    before, after = relu_maps(4, 5, 5), relu_maps(4, 5, 5, seed=1)
    values = similarity.compare_maps(before, after, size=8)
    prepared = [map_grids.prepare(maps, 8).astype(float).mean((1, 2)) for maps in (before, after)]
    np.testing.assert_allclose(values["mean_change"], prepared[1] - prepared[0], atol=1e-12)
    assert len(calls) == 8, "each map once"
    values |= baselines.baselines(before, after, [0] * 4, range(4), size=8, draws=2)
    images = pd.DataFrame({"image_id": list("abcd"), "patient_id": range(4)})
    table = comparison.score_table(values, images, architecture="Net", seed=0, method="layercam")
    row = score_summary.overview(comparison.summarise(table, n_boot=20)).set_index("metric").loc["mean_change"]
    assert row["median"] == np.median(values["mean_change"])
    assert row["two_patients"] == np.median(values["mean_change_two_patients"]) > 0


def test_what_a_metric_needs_of_one_map_is_computed_once():
    features, calls = map_features.Features(map_grids.prepare(relu_maps(1, 4, 4), 8)[0]), []

    def scaled(of, factor):
        calls.append(factor)
        return of.flat * factor

    assert features.once(scaled, 2) is features.once(scaled, 2)
    np.testing.assert_array_equal(features.once(scaled, 3), features.flat * 3)
    assert calls == [2, 3]


# ---------------------------------------------------------------- upsampling


def test_upsample_by_hand():
    # Two pixels to four: samples at -0.25 (clamped to 0), 0.25, 0.75, 1.25 (clamped to 1).
    row = [0.0, 1.0, 3.0, 4.0]
    np.testing.assert_array_equal(map_grids.upsample(np.array([[[0.0, 4.0]]]), (1, 4)), [[row]])
    both = map_grids.upsample(np.array([[[0.0, 4.0], [8.0, 12.0]]]), 4)
    np.testing.assert_array_equal(both[0], np.array(row) + np.array([[0.0], [2.0], [6.0], [8.0]]))
    assert both.dtype == np.float32


@pytest.mark.parametrize("h, w, size", [(14, 14, (224, 224)), (5, 7, (23, 40)), (1, 3, (4, 3)), (6, 6, (7, 6))])
def test_upsample_equals_map_coordinates(h, w, size):
    maps = np.random.default_rng(0).normal(size=(3, h, w)).astype(np.float32)
    rows = (np.arange(size[0]) + 0.5) * h / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * w / size[1] - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = [ndimage.map_coordinates(m.astype(float), grid, order=1, mode="nearest") for m in maps]
    np.testing.assert_allclose(map_grids.upsample(maps, size), expected, atol=1e-6)


@pytest.mark.slow
def test_upsample_equals_tensorflow():
    tf = pytest.importorskip("tensorflow")
    maps = relu_maps(3, 12, 14)
    expected = tf.image.resize(maps[..., None], (224, 160), method="bilinear", antialias=False)[..., 0]
    np.testing.assert_allclose(map_grids.upsample(maps, (224, 160)), expected.numpy(), atol=2e-6)


def test_upsample_to_the_same_grid_changes_nothing():
    maps = relu_maps(2, 9, 8)
    np.testing.assert_array_equal(map_grids.upsample(maps, (9, 8)), maps)


def test_upsample_keeps_plateaus_exact():
    # A third is no binary fraction, and 7 to 50 gives weights that are none either.
    maps = np.full((1, 7, 7), 1 / 3, np.float32)
    assert np.unique(map_grids.upsample(maps, 50)).tolist() == [np.float32(1 / 3)]


@pytest.mark.parametrize("size", [7, (8, 7), (7, 8)])
def test_downsampling_is_refused(size):
    with pytest.raises(InputError, match="8x8"):
        map_grids.upsample(np.zeros((1, 8, 8)), size)


@given(raw_maps)
@settings(max_examples=50)
def test_upsampling_never_makes_a_map_constant(m):
    for size in ((5, 6), (6, 6), (7, 9)):
        assert np.ptp(map_grids.upsample(m[None], size)) > 0


# ---------------------------------------------------------------- normalising and empty maps


def test_normalise():
    maps = np.array([[[2.0, 4.0], [3.0, 6.0]], [[5, 5], [5, 5]], [[0, np.nan], [1, 2]], [[0, np.inf], [1, 2]]])
    out = map_grids.normalise(maps)
    np.testing.assert_array_equal(out[0], [[0, 0.5], [0.25, 1]])
    assert np.isnan(out[1:]).all() and out.dtype == np.float32


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_not_finite_without_warnings(value, recwarn):
    maps = relu_maps(3, 4, 4)
    maps[1, 2, 2] = value
    maps[2] = value
    assert map_grids.is_empty(maps).tolist() == [False, True, True]
    assert np.isnan(map_grids.normalise(maps)[1:]).all()
    assert not recwarn.list


@pytest.mark.parametrize("h, w, size", [(14, 14, 224), (5, 7, (23, 40)), (6, 6, 6)])
def test_prepare_is_its_plain_definition_to_the_last_bit(h, w, size):
    def plain(m):
        m = m.astype(float)
        return ((m - m.min()) / (m.max() - m.min())).astype(np.float32)

    maps = relu_maps(6, h, w) + np.float32(0.3)
    expected = [plain(up) for up in map_grids.upsample(np.array([plain(m) for m in maps]), size)]
    np.testing.assert_array_equal(map_grids.prepare(maps, size), expected)


def test_empty_ignores_vanished_maps_in_the_median():
    base = np.array([[0.0, 1.0], [0.5, 0.25]])
    map_set = np.stack([base, 2 * base, 3 * base, 0 * base, 0 * base, 0 * base, 1.9e-6 * base, 2.1e-6 * base])
    # Median range of the six that did not vanish: of 1, 2, 3, 1.9e-6, 2.1e-6 it is 1; hence 1e-6.
    assert map_grids.is_empty(map_set).tolist() == [False] * 3 + [True] * 3 + [False] * 2
    # Without the small ones' pull it is 2, hence 2e-6.
    large = np.concatenate([map_set, 2 * base[None], 3 * base[None], 3 * base[None]])
    assert map_grids.is_empty(large).tolist() == [False] * 3 + [True] * 4 + [False] * 4
    assert map_grids.is_empty(large, relative_range=0).tolist() == [False] * 3 + [True] * 3 + [False] * 5


def test_empty_counts_range_not_height():
    # A constant map of any height says nothing; neither does a ripple of 1e-7 on a height of 1.
    base = np.array([[0.0, 1.0], [0.5, 0.25]])
    assert map_grids.is_empty(np.stack([base, base, 0 * base + 7, 1 + 1e-7 * base])).tolist() == [
        False, False, True, True,
    ]  # fmt: skip


def test_only_vanished_maps():
    assert map_grids.is_empty(np.zeros((3, 4, 4))).all()
    result = similarity.compare_maps(np.zeros((3, 4, 4)), relu_maps(3, 4, 4), size=8)
    assert result["empty_before"].all() and not result["empty_after"].any()
    assert all(np.isnan(result[name]).all() for name in TABLE)


def test_empty_pairs_are_nan_and_leave_the_others_alone():
    t, f = relu_maps(5, 6, 6), relu_maps(5, 7, 7, seed=1)
    clean = similarity.compare_maps(t, f, size=12)
    t[1], f[3, 0, 0] = 0, np.nan
    result = similarity.compare_maps(t, f, size=12)
    assert result["empty_before"].tolist() == [False, True, False, False, False]
    assert result["empty_after"].tolist() == [False, False, False, True, False]
    for name in TABLE:
        assert result[name].dtype == np.float64
        np.testing.assert_array_equal(result[name][[0, 2, 4]], clean[name][[0, 2, 4]])
        assert np.isnan(result[name][[1, 3]]).all()


# ---------------------------------------------------------------- values by hand

T2, F2 = [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]  # opposite corners of a 2x2 map
UP = [[1.0, 0.5], [0.5, 0.0]]
NO_SSIM = [name for name in TABLE if name != "ssim"]


def test_rows_have_the_values_that_they_have_among_all():
    t, f = np.random.default_rng(5).random((2, 24, 5, 5)).astype(np.float32)
    t[3] = 0
    f[10] *= 1e-8  # empty beside the others only
    f[17] = np.nan
    whole = similarity.compare_maps(t, f, size=16)
    assert whole["empty_before"].sum() == 1 and whole["empty_after"].sum() == 2
    for rows in ([10], [17, 3, 0], list(range(0, 24, 2)), []):
        for name, value in similarity.compare_maps(t, f, size=16, rows=np.array(rows, int)).items():
            np.testing.assert_array_equal(value, whole[name][rows])


def test_opposite_corners():
    got = one(T2, F2, 2, NO_SSIM)
    # Centroids and peaks at (0, 0) and (1, 1): sqrt 2 apart on a diagonal of sqrt 8.
    assert got["centroid_shift"] == pytest.approx(0.5)
    assert got["peak_shift"] == pytest.approx(0.5)
    # k = 1 for every q (0.3 x 4 = 1.2): disjoint.
    assert [got[name] for name in ("overlap_q05", "overlap_q10", "overlap", "overlap_q30")] == [0, 0, 0, 0]
    assert got["soft_iou"] == 0
    # Mean 1/4: cov = 0 - 4/16 = -1/4, var = 1 - 1/4 = 3/4.
    assert got["pearson"] == pytest.approx(-1 / 3)
    assert got["spearman"] == pytest.approx(-1 / 3)  # two-valued maps: ranks are affine in the values
    assert got["gini_change"] == got["entropy_change"] == got["top10_energy_change"] == 0


def test_concentration_by_hand():
    got = one(T2, UP, 2, NO_SSIM)
    # T: x = (0, 0, 0, 1): G = 2 * 4 / (4 * 1) - 5/4 = 3/4; entropy 0; top-1 holds everything.
    # F: x = (0, .5, .5, 1), sum 2: G = 2 * (0 + 1 + 1.5 + 4) / (4 * 2) - 5/4 = 3/8.
    assert got["gini_change"] == pytest.approx(3 / 8 - 3 / 4)
    # p = (1/2, 1/4, 1/4): entropy 1.5 bits of 2.
    assert got["entropy_change"] == pytest.approx(0.75)
    assert got["top10_energy_change"] == pytest.approx(1 / 2 - 1)
    # Centroid of F: rows (1.5, 0.5)/2 -> 0.25, columns alike; T at 0. The peak stays.
    assert got["centroid_shift"] == pytest.approx(math.hypot(0.25, 0.25) / math.sqrt(8))
    assert got["peak_shift"] == 0
    assert got["soft_iou"] == pytest.approx(1 / 2)
    # cov = 1/4 (1 * 1) - 1/4 * 1/2 = 1/8; var T = 3/16, var F = 1.5/4 - 1/4 = 1/8.
    assert got["pearson"] == pytest.approx((1 / 8) / math.sqrt(3 / 16 / 8))
    # Ranks T (4, 2, 2, 2), F (4, 2.5, 2.5, 1): centred dot 1.5*1.5 + .5*1.5 = 3; norms^2 3 and 4.5.
    assert got["spearman"] == pytest.approx(3 / math.sqrt(3 * 4.5))


def test_overlap_by_hand():
    # 10 x 10 with all values different: T descends in row-major order, F starts 5 pixels later (cyclic).
    t = np.arange(100, 0, -1.0).reshape(10, 10)
    f = np.roll(t.ravel(), 5).reshape(10, 10)
    got = one(t, f, 10)
    for name, k in (("overlap_q05", 5), ("overlap_q10", 10), ("overlap", 20), ("overlap_q30", 30)):
        assert got[name] == pytest.approx((k - 5) / (k + 5)), name


def test_ties_at_the_edge_of_the_area_are_taken_at_random():
    # 30 equal maxima, 20 wanted: each is in the area with 2/3. The 20 maxima of F are all in its area.
    t = np.zeros(100)
    t[50:80] = 1.0
    f = np.zeros(100)
    f[60:80] = 1.0
    got = one(t.reshape(10, 10), f.reshape(10, 10), 10)
    assert got["overlap"] == pytest.approx((40 / 3) / (40 - 40 / 3))
    # 30 wanted: T has its maxima. F adds 10 of 80 zeros: of the 10 zeros of F in T's area 10/8 on average.
    assert got["overlap_q30"] == pytest.approx((20 + 10 / 8) / (60 - 20 - 10 / 8))


def sparse(*cells, side=8):
    out = np.zeros(side * side, np.float32)
    out[list(cells)] = np.linspace(1, 0.5, len(cells))
    return out.reshape(side, side)


def test_sparse_maps_that_share_nothing_overlap_as_chance():
    # 13 of 64 cells are wanted. 2 are positive, 11 of 62 zeros fill up. Each map's 2 cells are zeros of the other,
    # and 60 cells are zeros in both: I = 4 * 11/62 + 60 * (11/62)^2, if the orders of zeros are independent.
    shared = 4 * 11 / 62 + 60 * (11 / 62) ** 2
    for a, b in (((0, 1), (62, 63)), ((0, 1), (2, 3)), ((5, 40), (6, 41))):
        got = one(sparse(*a), sparse(*b), 8, ["overlap"])["overlap"]
        assert got == pytest.approx(shared / (26 - shared), abs=1e-12)
    assert got == pytest.approx(0.2 / 1.8, abs=0.003)  # chance


def test_sparse_maps_that_share_all_have_overlap_1_whatever_their_values():
    one_map = sparse(9, 30)
    assert all(one(one_map, one_map, 8)[name] == 1 for name in OVERLAPS)
    almost = one_map.copy()
    almost[one_map > 0] *= [1.0, 1.001]
    assert one(one_map, almost, 8, ["overlap"])["overlap"] == 1
    # 5 positive cells, of which 5, 4, ... 0 are shared: from 1 down to chance.
    others = [sparse(*range(first, first + 5)) for first in range(6)]
    values = [one(others[0], other, 8, ["overlap"])["overlap"] for other in others]
    assert values[0] == 1 and (np.diff(values) < 0).all() and values[-1] == pytest.approx(0.11, abs=0.015)


def by_random_orders(t, f, q, rng, n=20_000):
    """The mean number of pixels in both top areas, the ties of each map in random orders of their own."""
    k = map_features.top_count(q, t.size)
    areas = []
    for values in (t.ravel(), f.ravel()):
        noise = rng.random((n, values.size))
        order = np.lexsort((noise, np.broadcast_to(-values, noise.shape)), axis=-1)
        member = np.zeros(noise.shape, bool)
        np.put_along_axis(member, order[:, :k], True, axis=-1)
        areas.append(member)
    return (areas[0] & areas[1]).sum(1).mean()


def by_one_order(t, f, q, rng, n=20_000):
    """The same, where a tied pixel is in the area of a map if the pixel's random number is below its weight."""
    k = map_features.top_count(q, t.size)
    noise, areas = rng.random((n, t.size)), []
    for values in (t.ravel(), f.ravel()):
        edge = np.sort(values)[-k]
        weight = (k - (values > edge).sum()) / (values == edge).sum()
        areas.append((values > edge) | ((values == edge) & (noise < weight)))
    return (areas[0] & areas[1]).sum(1).mean()


@pytest.mark.parametrize("seed", range(6))
def test_the_intersection_is_that_of_random_tie_orders(seed):
    """A brute-force average over tie orders: shared with the probability `agreement`, otherwise independent."""
    rng = np.random.default_rng(seed)
    t, f = (rng.integers(0, 3, (2, 6, 6)) * (rng.random((2, 6, 6)) < 0.35)).astype(np.float32)
    for q in (0.1, 0.2, 0.3):
        k = map_features.top_count(q, 36)
        sets = []
        for values in (t, f):
            edge = np.sort(values, axis=None)[-k]
            exact = (values >= edge).sum() == k
            sets.append((values >= edge if exact else values > edge, values >= edge))
        (above_t, reach_t), (above_f, reach_f) = sets
        union = (above_t | above_f).sum()
        agreement = (above_t & above_f).sum() / union if union else 1
        agreement *= (reach_t & reach_f).sum() / (reach_t | reach_f).sum()
        tied_in_both = reach_t.sum() > k and reach_f.sum() > k
        agreement = agreement if tied_in_both else 0
        expected = agreement * by_one_order(t, f, q, rng) + (1 - agreement) * by_random_orders(t, f, q, rng)
        got = overlap.overlap(*map(map_features.Features, (t, f)), q)
        assert 2 * k * got / (1 + got) == pytest.approx(expected, abs=0.05), q  # IoU = I / (2k - I)


def test_without_ties_the_overlap_is_that_of_two_sets():
    t, f = np.random.default_rng(3).random((2, 40, 9, 7), np.float32)
    got = similarity.compare_maps(t, f, size=(9, 7), names=OVERLAPS)
    for name, q in zip(OVERLAPS, (0.05, 0.10, 0.20, 0.30), strict=True):
        k = map_features.top_count(q, 63)
        for i in range(40):
            first, second = (set(np.argsort(-m[i], axis=None)[:k]) for m in (t, f))
            assert got[name][i] == len(first & second) / len(first | second)


@given(raw_maps, raw_maps)
@settings(max_examples=40)
def test_flipping_both_maps_and_exchanging_them_keeps_the_overlap(t, f):
    expected = one(t, f, (5, 6), OVERLAPS)  # multiples of 1/64: many ties
    assert one(f, t, (5, 6), OVERLAPS) == expected
    assert one(t[::-1], f[::-1], (5, 6), OVERLAPS) == expected
    assert one(t[:, ::-1], f[:, ::-1], (5, 6), OVERLAPS) == expected
    same = one(t, t, (5, 6), OVERLAPS)
    assert all(0 <= expected[name] <= 1 and same[name] == 1 for name in OVERLAPS)


@pytest.mark.parametrize("corner", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_peak_in_a_corner_is_treated_alike_in_all_corners(corner):
    t, f = np.zeros((2, 4, 4))
    t[corner] = f[1, 1] = f[1, 2] = f[2, 1] = f[2, 2] = 1.0
    # Upsampled 4 -> 16, the corner's plateau is 2 x 2 pixels, mean 0.5 from the edge (at 7.5 - 7); F's is
    # centred. Distance 7 in both directions of a 16 x 16 image.
    assert one(t, f, 16)["peak_shift"] == pytest.approx(7 * math.sqrt(2) / (16 * math.sqrt(2)))


def test_the_image_diagonal_normalises_rectangles():
    t, f = np.zeros((2, 3, 4))
    t[0, 0] = f[0, 3] = 1
    got = one(t, f, (3, 4), NO_SSIM)
    assert got["peak_shift"] == got["centroid_shift"] == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    "q, pixels, k", [(0.05, 224 * 224, 2509), (0.2, 50176, 10035), (0.3, 10, 3), (0.05, 4, 1), (0.05, 50, 2)]
)
def test_top_count(q, pixels, k):
    assert map_features.top_count(q, pixels) == k


# ---------------------------------------------------------------- independent implementations


@pytest.fixture(scope="module")
def pairs():
    """Ten pairs of rectified random maps, on different grids, prepared at 56 x 48, and their table."""
    t, f = relu_maps(10, 14, 14), relu_maps(10, 12, 12, seed=1)
    f[:5] = 0.7 * t[:5, 1:-1, 1:-1] + 0.3 * f[:5]
    table = similarity.compare_maps(t, f, size=(56, 48))
    return map_grids.prepare(t, (56, 48)), map_grids.prepare(f, (56, 48)), table


def compare_with(pairs, name, reference, **tolerance):
    t, f, table = pairs
    expected = [reference(a.astype(float), b.astype(float)) for a, b in zip(t, f, strict=True)]
    assert np.ptp(table[name]) > 0.005  # the pairs do differ
    np.testing.assert_allclose(table[name], expected, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))


def test_many_tied_zeros_survive_preparing(pairs):
    assert all((m == 0).sum() > 50 for m in pairs[0])


def test_pearson_and_spearman_equal_scipy(pairs):
    compare_with(pairs, "pearson", lambda a, b: stats.pearsonr(a.ravel(), b.ravel()).statistic)
    compare_with(pairs, "spearman", lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic)


def test_ssim_equals_scikit_image(pairs):
    compare_with(pairs, "ssim", lambda a, b: structural_similarity(a, b, data_range=1))


def test_ssim_at_the_smallest_size():
    t, f = relu_maps(1, 7, 7)[0], relu_maps(1, 7, 7, seed=3)[0]
    a, b = (map_grids.normalise(m[None])[0].astype(float) for m in (t, f))
    assert one(t, f, 7)["ssim"] == pytest.approx(structural_similarity(a, b, data_range=1), abs=1e-12)


def test_centroid_and_peak_equal_ndimage(pairs):
    diagonal = math.hypot(56, 48)
    compare_with(
        pairs,
        "centroid_shift",
        lambda a, b: math.dist(ndimage.center_of_mass(a), ndimage.center_of_mass(b)) / diagonal,
    )
    top = lambda m: np.argwhere(m == m.max()).mean(0)  # noqa: E731
    compare_with(pairs, "peak_shift", lambda a, b: math.dist(top(a), top(b)) / diagonal)


@pytest.mark.parametrize(
    "name, q", [("overlap_q05", 0.05), ("overlap_q10", 0.1), ("overlap", 0.2), ("overlap_q30", 0.3)]
)
def test_iou_equals_sets(pairs, name, q):
    def top(m):
        return set(sorted(range(m.size), key=lambda i: (-m.ravel()[i], i))[: round(q * m.size)])

    # Enlarged maps have a few equal pixels at their borders, of which some may be tied at the edge of an area.
    compare_with(pairs, name, lambda a, b: len(top(a) & top(b)) / len(top(a) | top(b)), rtol=0, atol=0.004)


@given(arrays(np.float32, (7, 9), elements=st.integers(0, 4).map(lambda k: k / 4)).filter(np.ptp))
@settings(max_examples=60)
def test_ranks_and_ssim_of_many_ties_and_few_windows(m):
    a = map_grids.normalise(m[None])[0]
    b = relu_maps(1, 7, 9)[0]
    got = one(a, b, (7, 9))
    b = map_grids.normalise(b[None])[0].astype(float)
    assert got["spearman"] == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-12)
    # 7x9 has three windows, all in the last row of windows.
    assert got["ssim"] == pytest.approx(structural_similarity(a.astype(float), b, data_range=1), abs=1e-12)


def test_soft_iou_and_concentration_equal_plain_definitions(pairs):
    def gini(m):  # mean absolute difference over all ordered pairs, halved, over the mean
        x = m.ravel()
        return np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())

    entropy = lambda m: stats.entropy(m.ravel()) / math.log(m.size)  # noqa: E731
    energy = lambda m: np.sort(m.ravel())[-round(0.1 * m.size) :].sum() / m.sum()  # noqa: E731
    compare_with(pairs, "soft_iou", lambda a, b: np.minimum(a, b).sum() / np.maximum(a, b).sum())
    compare_with(pairs, "gini_change", lambda a, b: gini(b) - gini(a), rtol=1e-8)
    compare_with(pairs, "entropy_change", lambda a, b: entropy(b) - entropy(a), rtol=1e-8)
    compare_with(pairs, "top10_energy_change", lambda a, b: energy(b) - energy(a), rtol=1e-8)


def test_independent_maps_overlap_by_chance():
    # q / (2 - q) = 1/9 at q = 0.2, up to the sampling of 200 pairs of 400 pixels.
    rng = np.random.default_rng(0)
    t, f = rng.random((2, 200, 20, 20))
    got = similarity.compare_maps(t, f, size=20)
    assert got["overlap"].mean() == pytest.approx(1 / 9, abs=0.01)
    assert got["pearson"].mean() == pytest.approx(0, abs=0.01)


# ---------------------------------------------------------------- properties


@given(raw_maps)
@settings(max_examples=40)
def test_identical_maps(m):
    got = one(m, m, 11)
    for name, metric in metric_table.METRICS.items():
        assert got[name] == pytest.approx(metric.identical, abs=1e-12), name


@given(raw_maps, raw_maps)
@settings(max_examples=40)
def test_ranges_and_swapping_the_checkpoints(t, f):
    forth, back = one(t, f, 11), one(f, t, 11)
    for name, metric in metric_table.METRICS.items():
        assert metric.bounds[0] <= forth[name] <= metric.bounds[1], name
    for name in SYMMETRIC:
        assert forth[name] == pytest.approx(back[name], abs=1e-12), name
    for name in SIGNED:
        assert forth[name] == -back[name], name


@given(raw_maps, raw_maps, st.integers(-20, 20), st.integers(-20, 20), st.integers(-64, 64), st.integers(-64, 64))
@settings(max_examples=40)
def test_scale_and_offset_of_the_raw_maps_change_nothing(t, f, scale_t, scale_f, offset_t, offset_f):
    # Powers of two and 64ths: float32 holds the changed maps exactly, so the values must be equal exactly.
    expected = one(t, f, 11)
    scaled = [(np.float32(2.0) ** s) * (m + np.float32(o / 64)) for m, s, o in
              ((t, scale_t, offset_t), (f, scale_f, offset_f))]  # fmt: skip
    got = one(*scaled, 11)
    assert got == expected


def test_any_scale_and_offset_changes_next_to_nothing():
    t, f = relu_maps(4, 14, 14).astype(float), relu_maps(4, 14, 14, seed=1).astype(float)
    expected, got = (similarity.compare_maps(a, b, size=56) for a, b in ((t, f), (t * 0.3 + 1.7, f * 913.1 - 5)))
    for name in TABLE:
        np.testing.assert_allclose(got[name], expected[name], atol=2e-6, err_msg=name)


@given(
    arrays(np.float32, (5, 5), elements=st.integers(0, 64).map(lambda k: k / 64)).filter(np.any),
    arrays(np.float32, (5, 5), elements=st.integers(0, 64).map(lambda k: k / 64)).filter(np.any),
    st.integers(-3, 3),
    st.integers(-3, 3),
)
@settings(max_examples=40)
def test_a_common_shift_changes_nothing(t, f, down, right):
    # The grid doubles, so a shift by one cell is one by two pixels. Zero borders of 8 cells, 16 pixels, hold
    # the shift (6), the bilinear tail (1) and all SSIM windows that touch it (6).
    t, f = np.pad(t, 8), np.pad(f, 8)
    expected = one(t, f, 42)
    got = one(np.roll(t, (down, right), (0, 1)), np.roll(f, (down, right), (0, 1)), 42)
    for name in TABLE:
        assert got[name] == pytest.approx(expected[name], abs=1e-9), name


def test_permuting_pixels_keeps_rank_and_overlap():
    rng = np.random.default_rng(0)
    t, f = np.round(rng.random((2, 8, 8)), 1)
    order = rng.permutation(64)
    names = ["overlap_q05", "overlap_q10", "overlap", "overlap_q30", "soft_iou", "pearson", "spearman", *SIGNED]
    got = one(t.ravel()[order].reshape(8, 8), f.ravel()[order].reshape(8, 8), 8, names)
    assert got == pytest.approx(one(t, f, 8, names), abs=1e-12)


# ---------------------------------------------------------------- the call


def test_workers_and_names_do_not_change_values():
    t, f = relu_maps(7, 6, 6), relu_maps(7, 5, 5, seed=1)
    t[2] = 0
    whole = similarity.compare_maps(t, f, size=14)
    assert list(whole) == [*TABLE, "empty_before", "empty_after"]
    for workers in (1, 2, 3, 20):
        for name, value in similarity.compare_maps(t, f, size=14, workers=workers).items():
            np.testing.assert_array_equal(value, whole[name])
    some = similarity.compare_maps(t, f, size=14, names=("ssim", "overlap"))
    assert list(some) == ["overlap", "ssim", "empty_before", "empty_after"]
    np.testing.assert_array_equal(some["overlap"], whole["overlap"])


def test_the_default_number_of_workers_is_that_of_the_cores_or_of_what_a_study_allows(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = similarity._cores()
    assert 1 <= own <= os.cpu_count()
    for value, cores in (("1", 1), (str(own + 5), own), ("", own), ("0", own), ("4,2", own)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert similarity._cores() == cores


@pytest.mark.parametrize("n, workers, parts", [(0, 2, 0), (1, 4, 1), (10, 2, 2), (300, 2, 5)])
def test_parts_are_short_and_cover_every_row_once(n, workers, parts):
    seen = []
    similarity.in_parts(lambda part: seen.append(part.tolist()), np.arange(n)[::-1], workers)
    assert len(seen) == parts and sorted(sum(seen, [])) == list(range(n))


def test_what_a_part_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        similarity.in_parts(lambda part: 1 // 0, np.arange(100), 2)


def test_inputs_are_left_as_they_were():
    t, f = relu_maps(2, 6, 6), relu_maps(2, 6, 6, seed=1)
    before = t.copy(), f.copy()
    similarity.compare_maps(t, f, size=12)
    np.testing.assert_array_equal((t, f), before)


def test_no_pairs_give_empty_columns():
    result = similarity.compare_maps(np.zeros((0, 6, 6)), np.zeros((0, 7, 7)), size=12)
    assert {name: value.shape for name, value in result.items()} == dict.fromkeys(result, (0,))


@pytest.mark.parametrize(
    "t, f, options, message",
    [
        (np.zeros((2, 4, 4)), np.zeros((3, 4, 4)), {}, "2 maps before against 3"),
        (np.zeros((4, 4)), np.zeros((1, 4, 4)), {}, r"before: expected a set"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4, 1)), {}, r"after: expected a set"),
        (np.zeros((1, 4, 4), complex), np.zeros((1, 4, 4)), {}, "real numbers"),
        (np.zeros((1, 4, 4)), np.zeros((1, 9, 9)), {}, "9x9"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {"size": 6}, "ssim.*7x7"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {"size": 0}, "positive"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {"size": (8, 8, 3)}, "height, width"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), {"names": ["overlap_q25"]}, "overlap_q25"),
    ],
)
def test_bad_input(t, f, options, message):
    with pytest.raises(InputError, match=message):
        similarity.compare_maps(t, f, **({"size": 8} | options))


def test_scoring_imports_neither_tensorflow_nor_mlflow():
    heavy = "{'tensorflow', 'keras', 'mlflow'}"
    code = f"import sys, cxr.metrics.baselines, cxr.metrics.regions; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
