"""Baselines: partners by rule, brute force over all pairs, the torus null, two heads, and more training."""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from cxr.metrics import baselines, map_features, map_grids, metric_table, similarity

SIGNED = [name for name, metric in metric_table.METRICS.items() if metric.signed]


def relu_maps(n, h, w, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(n, h, w)), 0).astype(np.float32)


def blobs(rng, n, side, sigma=2.0):
    """Smooth random maps: autocorrelated, as attribution maps are."""
    return ndimage.gaussian_filter(rng.normal(size=(n, side, side)), (0, sigma, sigma), mode="wrap")


def features(m, size):
    return map_features.Features(map_grids.prepare(np.asarray(m)[None], size)[0])


def partners(*args, **options):
    return baselines.partners(*args, **options)[1]


def levels(t, f, label=None, patient=None, **options):
    label = np.zeros(len(t), int) if label is None else label
    patient = np.arange(len(t)) if patient is None else patient
    return baselines.baselines(t, f, label, patient, **({"size": 8} | options))


# ---------------------------------------------------------------- partners


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40),
    st.integers(1, 6),
    st.integers(0, 3),
)
@settings(max_examples=60)
def test_partners_keep_the_rule(rows, draws, rng_seed):
    label, patient = [r[0] for r in rows], [r[1] for r in rows]
    table = partners(label, patient, draws=draws, rng_seed=rng_seed)
    assert table.shape == (len(rows), draws) and table.dtype.kind == "i"
    for i, row in enumerate(table.tolist()):
        eligible = {j for j in range(len(rows)) if label[j] == label[i] and patient[j] != patient[i]}
        found = [j for j in row if j >= 0]
        assert len(set(found)) == len(found) == min(draws, len(eligible))
        assert set(found) <= eligible
        assert row[len(found) :] == [-1] * (draws - len(found))


def test_partners_by_hand():
    # Class a: patients 1, 1, 2. Class b: one patient with two images. Class c: a single image.
    table = partners(list("aaabbc"), [1, 1, 2, 3, 3, 4], draws=3)
    assert table[:2].tolist() == [[2, -1, -1]] * 2
    assert sorted(table[2].tolist()) == [-1, 0, 1] and table[2, 2] == -1
    assert (table[3:] == -1).all()


def test_partners_are_uniform_for_one_image_and_balanced_over_images():
    # Image 0 shares its patient with image 1; 2 to 6 are eligible, each in 2 of 5 tables.
    patient = [0, 0, 2, 3, 4, 4, 6]
    seen = np.zeros(7)
    for rng_seed in range(1000):
        np.add.at(seen, partners([0] * 7, patient, draws=2, rng_seed=rng_seed)[0], 1)
    assert seen[:2].sum() == 0
    assert stats.chisquare(seen[2:]).pvalue > 0.01
    one_each = partners([0] * 9, range(9), draws=3)
    assert np.bincount(one_each.ravel()).tolist() == [3] * 9


def test_partners_depend_on_the_seed_and_not_on_names():
    label, patient = list("aabbabab") * 3, list(range(24))
    base = partners(label, patient, draws=2)
    renamed = partners([{"a": "y", "b": "x"}[k] for k in label], [f"p{p}" for p in patient], draws=2)
    np.testing.assert_array_equal(base, renamed)
    assert (base != partners(label, patient, draws=2, rng_seed=1)).any()


# ---------------------------------------------------------------- two patients


def test_two_patients_is_the_mean_over_partners():
    t, f = relu_maps(12, 5, 5), relu_maps(12, 6, 6, seed=1)
    label, patient = np.arange(12) % 2, np.arange(12) // 3
    got = levels(t, f, label, patient, draws=2, rng_seed=7, size=9)
    table = partners(label, patient, draws=2, rng_seed=7)
    for i in range(12):
        scores = [similarity.score(features(t[i], 9), features(f[j], 9)) for j in table[i]]
        for name in metric_table.METRICS:
            pair = [abs(s[name]) if name in SIGNED else s[name] for s in scores]
            assert got[f"{name}_two_patients"][i] == pytest.approx(np.mean(pair), abs=1e-12), name


def test_with_all_eligible_as_partners_row_order_is_irrelevant():
    t, f = relu_maps(10, 4, 4), relu_maps(10, 4, 4, seed=1)
    label, patient = np.arange(10) % 2, np.arange(10) // 2 % 3
    order = np.random.default_rng(3).permutation(10)
    base = levels(t, f, label, patient, draws=9)
    moved = levels(t[order], f[order], label[order], patient[order], draws=9)
    for name in metric_table.METRICS:
        np.testing.assert_allclose(moved[f"{name}_two_patients"], base[f"{name}_two_patients"][order], atol=1e-12)


def test_signed_baselines_are_absolute():
    # Gini of one pixel of four 3/4; of (0, .5, .5, 1) 3/8. Three patients: F of both others is the second map.
    one, wide = [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.5], [0.5, 0.0]]
    t, f = np.array([one, wide, one]), np.array([wide, wide, wide])
    got = levels(t, f, size=2, names=["gini_change"], draws=2)
    np.testing.assert_allclose(got["gini_change_two_patients"], [3 / 8, 0, 3 / 8], atol=1e-7)
    # A map that keeps its values keeps its concentration (no upsampling here).
    np.testing.assert_allclose(got["gini_change_chance"], [3 / 8, 0, 3 / 8], atol=1e-7)
    two_heads = baselines.two_heads(t, [np.array([wide, one, one])], size=2, names=["gini_change"])
    np.testing.assert_allclose(two_heads["gini_change_two_heads"], [3 / 8, 3 / 8, 0], atol=1e-7)


def test_empty_maps_are_left_out():
    t, f = relu_maps(6, 5, 5), relu_maps(6, 5, 5, seed=1)
    patient = [0, 1, 2, 3, 4, 4]
    t[0], f[1] = 0, 0
    got = levels(t, f, [0, 0, 0, 0, 1, 1], patient, names=["overlap", "pearson"], draws=3)
    plain = similarity.compare_maps(t, f, size=8, names=["overlap"])["overlap"]
    assert np.isnan(plain).tolist() == [True, True] + [False] * 4
    assert np.isnan(got["overlap_chance"]).tolist() == np.isnan(plain).tolist()
    # Images 4 and 5 are of one patient: no partner.
    assert np.isnan(got["overlap_two_patients"]).tolist() == [True, True, False, False, True, True]
    # F of 1 is empty, T of 0 is, which does not spoil F of 0: partners of 2 are 0 and 3.
    pairs = [similarity.score(features(t[2], 8), features(f[j], 8))["pearson"] for j in (0, 3)]
    assert got["pearson_two_patients"][2] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_only_empty_partners_give_nan():
    t, f = relu_maps(2, 5, 5), relu_maps(2, 5, 5, seed=1)
    f[1] = np.nan
    got = levels(t, f, names=["overlap"])
    assert np.isnan(got["overlap_two_patients"]).all() and np.isnan(got["overlap_chance"]).tolist() == [
        False,
        True,
    ]


# ---------------------------------------------------------------- chance


def test_moves_are_the_symmetries_and_translations():
    raw = np.arange(16.0).reshape(4, 4)
    symmetries = [baselines._moved(raw, k, 0, 0) for k in range(8)]
    dihedral = [np.rot90(m, k) for m in (raw, raw.T) for k in range(4)]
    assert {m.tobytes() for m in symmetries} == {np.ascontiguousarray(m).tobytes() for m in dihedral}
    rectangle = np.arange(6.0).reshape(2, 3)
    four = {baselines._moved(rectangle, k, 0, 0).tobytes() for k in range(4)}
    assert four == {m.tobytes() for m in (rectangle, rectangle[::-1], rectangle[:, ::-1], rectangle[::-1, ::-1])}
    np.testing.assert_array_equal(
        baselines._moved(np.array([[1, 2, 3], [4, 5, 6]]), 0, 1, 2), [[5, 6, 4], [2, 3, 1]]
    )


def test_over_all_moves_the_intersection_is_exactly_that_of_independent_areas():
    rng = np.random.default_rng(0)
    t, f = rng.random((2, 5, 5))
    k = map_features.top_count(0.2, 25)
    ious = [
        similarity.score(features(t, 5), features(baselines._moved(f, s, d, r), 5), ["overlap"])["overlap"]
        for s in range(8)
        for d in range(5)
        for r in range(5)
    ]
    shared = [2 * k * iou / (1 + iou) for iou in ious]  # IoU = I / (2k - I)
    assert np.mean(shared) == pytest.approx(k * k / 25, abs=1e-12)


def test_chance_draws_every_move_equally_often(monkeypatch):
    drawn = []
    monkeypatch.setattr(baselines, "_moved", lambda raw, *move: drawn.append(move) or raw)
    t = relu_maps(60, 2, 2)
    levels(t, t, size=4, names=["overlap"], draws=20)
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 8 * 2 * 2 and stats.chisquare(counts).pvalue > 0.01
    for maps, size in ((relu_maps(60, 2, 3), 4), (t, (4, 5))):  # no transposition
        drawn.clear()
        levels(maps, maps, size=size, names=["overlap"], draws=4)
        assert {move[0] for move in drawn} == {0, 1, 2, 3}


def test_chance_of_the_top_areas_overlap():
    # A strong common prior and smooth maps: the moved map must forget it. q = 0.2 at the maps' own grid, so that
    # the mean intersection is q^2 N up to sampling: tested with the standard error over images.
    rng = np.random.default_rng(1)
    prior = 4 * blobs(rng, 1, 20)
    t, f = prior + blobs(rng, 250, 20), prior + blobs(rng, 250, 20)
    names = ["overlap", "pearson"]
    plain = similarity.compare_maps(t, f, size=20, names=names)
    got = levels(t, f, size=20, names=names, draws=1)
    assert plain["overlap"].mean() > 0.6
    share = 2 * got["overlap_chance"] / (1 + got["overlap_chance"])
    assert abs(share.mean() - 0.2) < 3 * stats.sem(share)
    assert abs(got["pearson_chance"].mean()) < 3 * stats.sem(got["pearson_chance"])
    # IoU is convex in the intersection: compact areas lie above q / (2 - q), though not far.
    assert 0.2 / 1.8 < got["overlap_chance"].mean() < 0.17


def test_chance_of_scattered_areas_is_q_over_2_minus_q():
    t, f = np.random.default_rng(2).random((2, 150, 20, 20))
    got = levels(t, f, size=20, names=["overlap_q05", "overlap", "overlap_q30"], draws=2)
    for name, q in (("overlap_q05", 0.05), ("overlap", 0.2), ("overlap_q30", 0.3)):
        for level in ("chance", "two_patients"):
            assert got[f"{name}_{level}"].mean() == pytest.approx(q / (2 - q), abs=0.006), (name, level)


def test_chance_of_a_row_does_not_depend_on_other_rows():
    t, f = relu_maps(5, 5, 5), relu_maps(5, 5, 5, seed=1)
    base = levels(t, f, names=["overlap", "pearson"])
    changed = levels(
        np.concatenate([t[:3], 2 * relu_maps(4, 5, 5, seed=8)]),
        np.concatenate([f[:3], relu_maps(4, 5, 5, seed=9)]),
        [1, 0, 1, 0, 0, 1, 2],
        [5] * 7,
        names=["pearson"],
    )
    np.testing.assert_array_equal(changed["pearson_chance"][:3], base["pearson_chance"][:3])


# ---------------------------------------------------------------- what the levels tell apart


def test_independent_maps_have_two_patients_near_chance_and_near_plain():
    rng = np.random.default_rng(3)
    t, f = blobs(rng, 150, 14), blobs(rng, 150, 14)
    got = levels(t, f, size=14, names=["overlap", "ssim"])
    plain = similarity.compare_maps(t, f, size=14, names=["overlap", "ssim"])
    for name in ("overlap", "ssim"):
        chance, two_patients = got[f"{name}_chance"], got[f"{name}_two_patients"]
        se = np.hypot(stats.sem(chance), stats.sem(two_patients))
        assert abs(chance.mean() - two_patients.mean()) < 4 * se
        assert abs(plain[name].mean() - two_patients.mean()) < 4 * stats.sem(plain[name])


def test_a_common_prior_raises_two_patients_and_the_correction_discounts_it():
    rng = np.random.default_rng(4)
    prior, own = 2 * blobs(rng, 1, 14), blobs(rng, 100, 14)
    noise = lambda: 0.5 * blobs(rng, 100, 14)  # noqa: E731
    options = {"size": 14, "names": ["overlap"]}
    # The prior alone: much overlap, none of it the image's own.
    t, f = prior + noise(), prior + noise()
    bare = similarity.compare_maps(t, f, **options)["overlap"]
    got = levels(t, f, **options)
    two_patients, chance = got["overlap_two_patients"].mean(), got["overlap_chance"].mean()
    assert bare.mean() > 0.5 and two_patients > 0.5 > 0.2 > chance
    error = stats.sem(bare - got["overlap_two_patients"]) / (1 - two_patients)
    assert abs(baselines.corrected(bare.mean(), two_patients)) < 3 * error < 0.15
    # Evidence of the image's own beside it: more than patients share.
    t, f = prior + 3 * own + noise(), prior + 3 * own + noise()
    kept = similarity.compare_maps(t, f, **options)["overlap"].mean()
    assert baselines.corrected(kept, levels(t, f, **options)["overlap_two_patients"].mean()) > 0.5


def test_levels_by_class():
    # Class 0 has one prior, class 1 none: partners must be drawn within the class.
    rng = np.random.default_rng(5)
    label = np.arange(80) % 2
    prior = 3 * blobs(rng, 1, 12) * (label == 0)[:, None, None]
    t, f = prior + blobs(rng, 80, 12), prior + blobs(rng, 80, 12)
    got = levels(t, f, label, size=12, names=["overlap"])["overlap_two_patients"]
    assert got[label == 0].mean() > got[label == 1].mean() + 0.2


# ---------------------------------------------------------------- the call


def test_columns_names_and_repeatability():
    t, f = relu_maps(6, 5, 5), relu_maps(6, 5, 5, seed=1)
    before = t.copy(), f.copy()
    whole = levels(t, f)
    assert list(whole) == [
        f"{name}_{level}" for name in metric_table.METRICS for level in ("two_patients", "chance")
    ]
    assert all(v.dtype == np.float64 and v.shape == (6,) for v in whole.values())
    some = levels(t, f, names=["ssim", "overlap"])
    assert list(some) == ["overlap_two_patients", "overlap_chance", "ssim_two_patients", "ssim_chance"]
    for name, value in some.items():
        np.testing.assert_array_equal(value, whole[name])
    assert any((levels(t, f, rng_seed=1)[name] != whole[name]).any() for name in whole)
    np.testing.assert_array_equal((t, f), before)
    assert levels(t[:0], f[:0], names=["overlap"])["overlap_chance"].shape == (0,)


def test_workers_do_not_change_values():
    t, f = relu_maps(30, 5, 5), relu_maps(30, 5, 5, seed=1)
    label, patient = np.arange(30) % 3, np.arange(30) // 2
    calls = (
        lambda workers: levels(t, f, label, patient, workers=workers),
        lambda workers: baselines.two_heads(t, [f, t[::-1]], size=8, workers=workers),
    )
    for call in calls:
        whole = call(1)
        for workers in (2, 7):
            for name, value in call(workers).items():
                np.testing.assert_array_equal(value, whole[name])


def test_prepared_maps_are_reused_and_do_not_pile_up(monkeypatch):
    alive, most, made = weakref.WeakSet(), [0], [0]

    class Counted(map_features.Features):
        def __init__(self, prepared):
            super().__init__(prepared)
            alive.add(self)
            made[0] += 1
            most[0] = max(most[0], len(alive))

    monkeypatch.setattr(baselines, "Features", Counted)
    n, draws = 60, 3
    levels(
        relu_maps(n, 5, 5), relu_maps(n, 5, 5, seed=1), np.arange(n) % 2, names=["overlap"], draws=draws, workers=1
    )
    # A map before each, a moved one each draw, a map after each and again where a ring closes.
    assert made[0] <= n + n * draws + n + 2 * draws
    assert most[0] <= 2 * draws + 3


# ---------------------------------------------------------------- two heads and the corrected overlap


def test_two_heads_is_the_mean_over_other_seeds():
    t, a, b = (relu_maps(5, 4, 4, seed=k) for k in range(3))
    t[0], a[1], b[1], b[2] = 0, 0, np.nan, 0
    got = baselines.two_heads(t, [a, b], size=9)
    assert list(got) == [f"{name}_two_heads" for name in metric_table.METRICS]
    to_a, to_b = (similarity.compare_maps(t, other, size=9) for other in (a, b))
    for name in metric_table.METRICS:
        x, y = (np.abs(v[name]) if name in SIGNED else v[name] for v in (to_a, to_b))
        expected = [np.nan, np.nan, x[2], (x[3] + y[3]) / 2, (x[4] + y[4]) / 2]
        np.testing.assert_allclose(got[f"{name}_two_heads"], expected, atol=1e-12, err_msg=name)


def test_two_heads_of_the_same_maps_is_identity():
    t = relu_maps(3, 5, 5)
    got = baselines.two_heads(t, [t, 2 * t], size=8)
    for name, metric in metric_table.METRICS.items():
        np.testing.assert_allclose(got[f"{name}_two_heads"], metric.identical, atol=1e-12)


def test_more_training_compares_after_with_continued_on_the_images_of_the_metric():
    before, after, continued = (relu_maps(5, 4, 4, seed=k) for k in range(3))
    before[0], after[1], continued[2] = 0, np.nan, 0
    got = baselines.more_training(before, after, continued, size=9)
    assert list(got) == [f"{name}_more_training" for name in metric_table.METRICS]
    for name in metric_table.METRICS:
        pairs = [features(each[3], 9) for each in (after, continued)]
        expected = similarity.score(*pairs, [name])[name]
        expected = abs(expected) if name in SIGNED else expected
        values = got[f"{name}_more_training"]
        assert np.isnan(values[:3]).all() and np.isfinite(values[3:]).all()
        assert values[3] == pytest.approx(expected, abs=1e-12)
    assert list(baselines.more_training(before, after, continued, size=9, names=["overlap"])) == [
        "overlap_more_training"
    ]


def test_more_training_by_hand():
    # the strongest 20 % of 5 x 5 cells are 5: the upper row, and a row that shares two cells with it
    after, continued = np.zeros((2, 1, 5, 5))
    after[0, 0], continued[0, 0, :2], continued[0, 1, 2:] = 1, 1, 1
    found = baselines.more_training(after, after, continued, size=5, names=["overlap", "gini_change"])
    assert found["overlap_more_training"] == pytest.approx(2 / 8)
    assert found["gini_change_more_training"] == pytest.approx(0)
    same = baselines.more_training(after, after, 3 * after + 1, size=5, names=["overlap"])
    assert same["overlap_more_training"] == 1


def test_corrected_by_hand():
    assert baselines.corrected(0.7, 0.4) == pytest.approx(0.5)
    assert baselines.corrected(0.4, 0.4) == 0 and baselines.corrected(1.0, 0.4) == 1
    assert baselines.corrected(0.1, 0.4) == pytest.approx(-0.5)
    # Another seed would keep (0.8 - 0.4) / (1 - 0.4) = 2/3; this one keeps half of what one could, 3/4 of that.
    assert baselines.corrected(0.7, 0.4, 0.8) == pytest.approx(0.75)
    got = baselines.corrected(np.array([0.7, np.nan, 0.9, 0.5]), np.array([0.4, 0.4, 1.0, np.nan]))
    np.testing.assert_allclose(got, [0.5, np.nan, np.nan, np.nan])
    assert np.isnan(baselines.corrected(0.7, 0.4, 0.3))
