"""Energy inside masks and the pointing game by hand on small maps, summaries, and the file of masks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cxr.core.errors import InputError
from cxr.metrics import map_grids, metric_table, regions
from cxr.statistics import bootstrap, estimates

TOP, LEFT, ALL, NONE = (
    np.array(m, bool) for m in ([[1, 1], [0, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]])
)


def inside(maps, masks, size):
    """energy, area and hit of the maps: those of `region_table` before."""
    table = regions.region_table(maps, maps, {"x": masks}, size=size)
    return {"energy": table["x_energy_before"], "area": table["x_area"], "hit": table["x_hit_before"]}


def one(m, mask, size=2):
    got = inside(np.array([m], float), np.array([mask]), size=size)
    return tuple(float(got[name][0]) for name in ("energy", "area", "hit"))


# ---------------------------------------------------------------- by hand


def test_inside_by_hand():
    rising = [[0, 1], [2, 3]]  # prepared 0, 1/3, 2/3, 1: sum 2
    assert one(rising, TOP) == pytest.approx((1 / 6, 1 / 2, 0))
    assert one(rising, ~TOP) == pytest.approx((5 / 6, 1 / 2, 1))
    assert one(rising, LEFT) == pytest.approx((1 / 3, 1 / 2, 0))
    assert one(rising, ALL) == (1, 1, 1)
    tied = [[0, 3], [1, 3]]  # prepared 0, 1, 1/3, 1: sum 7/3, two maxima
    assert one(tied, TOP) == pytest.approx((3 / 7, 1 / 2, 1 / 2))
    # The offset of a raw map is no energy: the minimum counts as zero.
    assert one([[5, 6], [7, 8]], TOP) == pytest.approx((1 / 6, 1 / 2, 0))


def test_inside_at_the_image_grid():
    # One row 0, 4 upsampled to 0, 1, 3, 4: prepared 0, 1/4, 3/4, 1; a 4x4 image of such rows sums to 8.
    mask = np.zeros((4, 4), bool)
    mask[1:3, 2] = True
    assert one([[0, 4], [0, 4]], mask, 4) == pytest.approx((1.5 / 8, 2 / 16, 0))
    mask[:, 3] = [True, False, False, True]  # two of the four tied maxima
    assert one([[0, 4], [0, 4]], mask, 4) == pytest.approx((3.5 / 8, 4 / 16, 1 / 2))


def test_no_region_and_empty_maps_are_nan():
    maps = np.array([[[0, 1], [2, 3]], [[0, 1], [2, 3]], [[0, 0], [0, 0]], [[0, np.nan], [1, 1]]])
    got = inside(maps, np.array([TOP, NONE, TOP, TOP]), size=2)
    np.testing.assert_allclose(got["energy"], [1 / 6, np.nan, np.nan, np.nan], atol=1e-7)
    np.testing.assert_allclose(got["hit"], [0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(got["area"], [0.5, np.nan, 0.5, 0.5])


def test_next_to_constant_is_judged_over_all_maps():
    maps = np.random.default_rng(0).random((40, 3, 3))
    maps[35] = 1 + 1e-9 * maps[35]
    got = inside(maps, np.ones((40, 3, 3), bool), size=3)["energy"]
    assert np.flatnonzero(np.isnan(got)).tolist() == [35]


def test_region_table_by_hand():
    t, f = np.array([[[0.0, 1.0], [2.0, 3.0]]] * 3), np.array([[[3.0, 2.0], [1.0, 0.0]]] * 3)
    f[2] = 0
    masks = {"top": np.array([TOP, NONE, TOP]), "left": np.array([LEFT] * 3)}
    got = regions.region_table(t, f, masks, size=2)
    assert list(got) == [f"{name}_{column}" for name in ("top", "left") for column in regions.COLUMNS]
    nan = np.nan
    expected = {
        "top_area": [1 / 2, nan, 1 / 2],
        "top_energy_before": [1 / 6, nan, 1 / 6],
        "top_energy_after": [5 / 6, nan, nan],
        "top_energy_change": [4 / 6, nan, nan],
        "top_hit_before": [0, nan, 0],
        "top_hit_after": [1, nan, nan],
        "left_area": [1 / 2] * 3,
        "left_energy_before": [1 / 3] * 3,
        "left_energy_after": [2 / 3, 2 / 3, nan],
        "left_energy_change": [1 / 3, 1 / 3, nan],
        "left_hit_before": [0] * 3,
        "left_hit_after": [1, 1, nan],
    }
    for name, values in expected.items():
        assert got[name].dtype == np.float64
        np.testing.assert_allclose(got[name], values, atol=1e-7, err_msg=name)
    assert regions.regions_in(pd.DataFrame(got).columns) == ["top", "left"]
    assert regions.region_table(t, f, {}, size=2) == {}


# ---------------------------------------------------------------- independent implementation and properties


def test_inside_equals_ndimage():
    rng = np.random.default_rng(1)
    maps = np.maximum(rng.normal(size=(70, 6, 7)), 0)  # more than two chunks, tied zeros
    masks = rng.random((70, 20, 24)) < 0.3
    got = inside(maps, masks, size=(20, 24))
    for i, prepared in enumerate(map_grids.prepare(maps, (20, 24)).astype(float)):
        assert got["energy"][i] == pytest.approx(ndimage.sum_labels(prepared, masks[i]) / prepared.sum())
        tied = np.argwhere(prepared == prepared.max())
        assert got["hit"][i] == pytest.approx(np.mean([masks[i][tuple(p)] for p in tied]))
        assert got["area"][i] == masks[i].sum() / 480
    assert np.ptp(got["energy"]) > 0.05


@given(
    arrays(np.float32, (4, 5), elements=st.integers(0, 64).map(lambda k: k / 64)).filter(lambda m: np.ptp(m) > 0),
    arrays(bool, (8, 9)).filter(lambda m: m.any() and not m.all()),
    st.integers(-20, 20),
    st.integers(-64, 64),
)
@settings(max_examples=50)
def test_parts_add_up_and_scale_does_not_matter(m, mask, scale, offset):
    # Powers of two and 64ths: float32 holds the changed map exactly.
    inner, outer = one(m, mask, (8, 9)), one(m, ~mask, (8, 9))
    np.testing.assert_allclose(np.add(inner, outer), 1, atol=1e-12)
    assert all(0 <= value <= 1 for value in inner)
    assert one(np.float32(2.0) ** scale * (m + np.float32(offset / 64)), mask, (8, 9)) == inner


def test_random_masks_hold_their_area_of_the_energy():
    # What the area column is for: over random places, energy and hit average to it.
    rng = np.random.default_rng(2)
    got = inside(rng.random((400, 6, 6)), rng.random((400, 12, 12)) < 0.25, size=12)
    assert got["energy"].mean() == pytest.approx(got["area"].mean(), abs=0.01)
    assert got["hit"].mean() == pytest.approx(got["area"].mean(), abs=0.06)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "maps, masks, size, message",
    [
        (np.ones((2, 2)), np.ones((1, 2, 2), bool), 2, "expected a set"),
        (np.ones((2, 2, 2)), np.ones((1, 2, 2), bool), 2, r"'x': expected bool masks \(2, 2, 2\)"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2), bool), 4, r"\(1, 4, 4\)"),
        (np.ones((1, 2, 2)), np.full((1, 2, 2), 255, np.uint8), 2, "uint8"),
        (np.ones((1, 4, 4)), np.ones((1, 2, 2), bool), 2, "4x4"),
    ],
)
def test_inside_bad_input(maps, masks, size, message):
    with pytest.raises(InputError, match=message):
        inside(maps, masks, size=size)


def test_regions_in_needs_all_columns():
    columns = [f"lesion_{column}" for column in regions.COLUMNS]
    assert regions.regions_in(["top10_energy_change", "lung_area", 3, *columns]) == ["lesion"]
    assert regions.regions_in(columns[1:]) == []
    assert regions.regions_in(metric_table.METRICS) == []


# ---------------------------------------------------------------- summary


def table_of(change, *, architecture="A", seed=0, patient=None, area=0.25, start=0.3):
    change = np.asarray(change, float)
    columns = (np.full(len(change), area), start, start + change, change, 0.0, 1.0)
    return pd.DataFrame(
        {"architecture": architecture, "method": "layercam", "seed": seed}
        | {"image_id": [f"i{k}" for k in range(len(change))]}
        | {"patient_id": np.arange(len(change)) if patient is None else patient}
        | {f"lesion_{name}": value for name, value in zip(regions.COLUMNS, columns, strict=True)}
    )


def test_summary_finds_the_direction_and_its_numbers():
    changes = np.random.default_rng(0).normal(0, 0.05, 60)
    changes -= changes.mean()
    table = pd.concat(
        [
            table_of(changes + 0.1, architecture="in"),
            table_of(changes - 0.1, architecture="out"),
            table_of(changes, architecture="still"),
            table_of([0.4], architecture="one patient"),
        ]
    )
    got = regions.summary(table)
    assert (
        list(got.columns)
        == (
            "architecture method region n_images n_patients area energy_before energy_after energy_change "
            "energy_change_ci_low energy_change_ci_high hit_before hit_after direction"
        ).split()
    )
    assert got["architecture"].tolist() == ["in", "out", "still", "one patient"]
    assert got["direction"].tolist() == ["towards", "away", "unclear", "unclear"]
    first = got.iloc[0]
    assert (first["region"], first["n_images"], first["n_patients"]) == ("lesion", 60, 60)
    assert first["energy_change"] == pytest.approx(0.1) and first["energy_after"] == pytest.approx(0.4)
    assert (first["area"], first["hit_before"], first["hit_after"]) == (0.25, 0, 1)
    # The interval of a mean of 60 independent images: about 1.96 standard errors to each side.
    half = 1.96 * changes.std() / np.sqrt(60)
    assert first["energy_change_ci_low"] == pytest.approx(0.1 - half, abs=0.15 * half)
    assert first["energy_change_ci_high"] == pytest.approx(0.1 + half, abs=0.15 * half)
    assert np.isnan(got.iloc[3][["energy_change_ci_low", "energy_change_ci_high"]].astype(float)).all()


def test_summary_takes_all_numbers_over_the_same_images():
    table = table_of([0.2, 0.4, np.nan, np.nan], patient=[0, 1, 2, 3])
    table["lesion_energy_before"] = [0.1, 0.2, 0.9, 0.9]
    table["lesion_energy_after"] = [0.3, 0.6, np.nan, np.nan]
    table["lesion_area"] = [0.1, 0.3, 0.8, np.nan]
    row = regions.summary(table).iloc[0]
    assert row["n_images"] == row["n_patients"] == 2
    assert row["area"] == pytest.approx(0.2) and row["energy_change"] == pytest.approx(0.3)
    assert row["energy_after"] - row["energy_before"] == pytest.approx(row["energy_change"])


def test_summary_resamples_patients_and_crossed_seeds():
    rng = np.random.default_rng(1)
    patient = np.arange(30) // 3
    effect = rng.normal(0, 0.1, 10)[patient]
    table = pd.concat([table_of(effect + rng.normal(0, 0.01, 30), seed=s, patient=patient) for s in (0, 1)])
    row = regions.summary(table, n_boot=500).iloc[0]
    assert (row["n_images"], row["n_patients"]) == (60, 10)
    name = "lesion_energy_change"
    by_seed = table.pivot(index=["image_id", "patient_id"], columns="seed", values=name)
    draws = bootstrap.patient_replicates(by_seed, n_boot=500, statistic="mean").to_numpy()
    expected = estimates.estimate(by_seed.mean(), draws, n_patients=10)
    assert row["energy_change"] == pytest.approx(expected.value)
    assert row["energy_change_ci_low"] == pytest.approx(expected.low)
    assert row["energy_change_ci_high"] == pytest.approx(expected.high)
    # Ten patients, not sixty images: the interval is wide.
    assert expected.high - expected.low > 3 * 1.96 * table["lesion_energy_change"].std() / np.sqrt(60)


def test_summary_without_scored_images_and_without_regions():
    row = regions.summary(table_of([np.nan, np.nan])).iloc[0]
    assert row["n_images"] == 0 and row["direction"] == "unclear" and np.isnan(row["energy_change"])
    bare = table_of([0.1])[["architecture", "method", "seed", "image_id", "patient_id"]]
    assert regions.summary(bare).empty


# ---------------------------------------------------------------- the file


@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 11), st.integers(0, 9))
@settings(max_examples=30)
def test_masks_come_back_as_they_were(tmp_path_factory, n, height, width, rng_seed):
    path = tmp_path_factory.mktemp("masks") / "regions"  # also without a suffix
    rng = np.random.default_rng(rng_seed)
    masks = {name: rng.random((n, height, width)) < 0.5 for name in ("lung", "lesion", "a/b ü")}
    ids = [f"image {k}" for k in range(n)][::-1]
    regions.save(path, ids, masks)
    back_ids, back = regions.load(path)
    assert back_ids.tolist() == ids and list(back) == list(masks)
    for name in masks:
        assert back[name].dtype == bool
        np.testing.assert_array_equal(back[name], masks[name])


def test_masks_of_some_images_come_in_the_order_asked_for(tmp_path):
    masks = {"lesion": np.random.default_rng(3).random((5, 4, 6)) < 0.5}
    regions.save(tmp_path / "r.npz", list("abcde"), masks)
    ids, some = regions.load(tmp_path / "r.npz", ["e", "b"])
    assert ids.tolist() == ["e", "b"]
    np.testing.assert_array_equal(some["lesion"], masks["lesion"][[4, 1]])
    with pytest.raises(InputError, match="has no masks of image nobody"):
        regions.load(tmp_path / "r.npz", ["nobody"])


def test_masks_are_packed(tmp_path):
    masks = np.random.default_rng(0).random((20, 64, 64)) < 0.5  # as good as incompressible
    regions.save(tmp_path / "r.npz", [str(k) for k in range(20)], {"noise": masks})
    assert (tmp_path / "r.npz").stat().st_size < masks.size / 8 + 2000


def whole(**changes):
    parts = {
        "image_id": np.array(["a"]),
        "region": np.array(["x"]),
        "shape": np.array([3, 3]),
        "packed": np.zeros((1, 1, 2), np.uint8),
    }
    return {name: value for name, value in (parts | changes).items() if value is not None}


@pytest.mark.parametrize(
    "parts",
    [
        whole(packed=None),
        whole(image_id=np.array(["a"], object)),  # needs pickle
    ],
)
def test_load_refuses_other_archives(tmp_path, parts):
    np.savez(tmp_path / "r.npz", **parts)
    with pytest.raises(InputError, match="not a file of region masks"):
        regions.load(tmp_path / "r.npz")


def test_load_reads_a_plain_archive(tmp_path):
    np.savez(tmp_path / "r.npz", **whole())
    assert not regions.load(tmp_path / "r.npz")[1]["x"].any()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_load_refuses_other_files(tmp_path, content):
    (tmp_path / "r.npz").write_bytes(content)
    with pytest.raises(InputError, match="not a file of region masks"):
        regions.load(tmp_path / "r.npz")


def test_load_refuses_arrays_folders_and_nothing(tmp_path):
    np.save(tmp_path / "r.npy", np.zeros(3))
    for path in (tmp_path / "r.npy", tmp_path, tmp_path / "none.npz"):
        with pytest.raises(InputError, match="not a file of region masks"):
            regions.load(path)
