"""cxr.report.consistency: every checkpoint of a run, and what falls first."""

import numpy as np
import pandas as pd
import pytest
from test_consistency import by_pairs

from cxr.attribution import maps
from cxr.report import consistency
from cxr.report.consistency import ALL
from cxr.report.scoring import ScoredMaps

CLASSES = ("a", "b")
N = 40


class Run:
    """A stored run with these files."""

    def __init__(self, tables, **attributes):
        self.tables, self.params, self.tags = tables, {}, {}
        vars(self).update(attributes)

    def table(self, name):
        return self.tables[name]

    def has(self, name):
        return name in self.tables


def predictions(rng, ids, label):
    p = rng.uniform(0.5, 1, N)
    right = rng.random(N) < 0.8
    other = np.where(label == "a", "b", "a")
    own = np.where(right, p, 1 - p)
    table = pd.DataFrame({"image_id": ids, "predicted": np.where(right, label, other)})
    table["p_0"] = np.where(label == "a", own, 1 - own)
    return table.assign(p_1=1 - table["p_0"])


@pytest.fixture
def scored(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(N)])
    label = np.where(np.arange(N) % 2, "a", "b")
    images = pd.DataFrame({"image_id": ids, "label": label, "explained": label, "scored": True})
    images["patient_id"] = [f"p{k // 3}" for k in range(N)]
    names = ("before", "epoch_001", "epoch_002", "after")
    told = {name: predictions(rng, ids, label) for name in names}
    tables = {f"predictions_{name}.parquet": told[name] for name in ("before", "after")}
    course = [told["before"].assign(epoch=0), told["epoch_001"].assign(epoch=1), told["epoch_002"].assign(epoch=2)]
    tables["course_predictions.parquet"] = pd.concat(course).sample(frac=1, random_state=0)
    index = (label == "b").astype(int)
    for number, name in enumerate(names):
        values = (rng.random((N, 4, 4)) ** (number + 1)).astype(np.float32)
        values[7] = 0
        maps.MapSet(ids, index, values, name, "layercam", "layer", CLASSES, "").save(tmp_path / f"{name}.npz")
    attribute = Run(
        {"images.parquet": images},
        params={"architecture": "A", "seed": "1"},
        tags={"cxr.image_size": "16", "cxr.train_run": "t"},
        file=lambda name: tmp_path,
    )
    return ScoredMaps(attribute, "layercam", train=Run(tables)), told


def test_every_checkpoint_and_class_is_that_of_the_definition(scored):
    scored_maps, told = scored
    table = consistency.table(scored_maps, n_boot=200).set_index(["checkpoint", "label"])
    assert table.index.unique(0).tolist() == ["before", "epoch_001", "epoch_002", "after"]
    assert table["epoch"].groupby(level=0, sort=False).first().tolist()[:3] == [0, 1, 2]
    assert np.isnan(table.at[("after", "a"), "epoch"])
    images = scored_maps.images
    for checkpoint, label in table.index:
        if label == ALL:
            continue
        kept = (images["label"] == label) & (told[checkpoint]["predicted"] == label)
        kept &= np.arange(N) != 7  # an empty map of class a
        values = scored_maps.read(checkpoint).maps[kept].astype(float)
        p = told[checkpoint].loc[kept, f"p_{CLASSES.index(label)}"].to_numpy()
        expected = by_pairs(values, p, images.loc[kept, "patient_id"].to_numpy())
        row = table.loc[checkpoint, label]
        assert row["consistency"] == pytest.approx(expected, rel=1e-9)
        assert row["n_images"] == kept.sum() and row["ci_low"] <= expected <= row["ci_high"]
        assert row["n_empty"] == (label == "a" and told[checkpoint].at[7, "predicted"] == "a")
    assert table.at[("before", ALL), "consistency"] == pytest.approx(table.loc["before"]["consistency"][:2].mean())
    assert table["replicates"].map(len).eq(200).all()


def test_a_large_class_is_represented_by_the_same_images_under_every_checkpoint(scored, monkeypatch):
    monkeypatch.setattr(consistency, "MOST", 12)
    table = consistency.table(scored[0], n_boot=100)
    own = table[table["label"] != ALL]
    assert (own["n_images"] + own["n_empty"] <= 12).all() and (own["n_images"] > 5).all()


def test_without_predictions_of_epochs_there_are_two_checkpoints(scored):
    scored_maps, _ = scored
    del scored_maps.train.tables["course_predictions.parquet"]
    assert consistency.table(scored_maps, n_boot=100)["checkpoint"].unique().tolist() == ["before", "after"]


def run_rows(values, *, seed=0, noise=0.01, n_boot=400):
    """Rows of one run: before, epochs, and after, which is as the last epoch."""
    rng = np.random.default_rng(seed)
    names = ["before", *(f"epoch_{k:03d}" for k in range(1, len(values))), "after"]
    rows = []
    for name, epoch, value in zip(names, [*range(len(values)), np.nan], [*values, values[-1]], strict=True):
        draws = value + rng.normal(0, noise, n_boot)
        row = {"architecture": "A", "method": "layercam", "seed": seed, "checkpoint": name, "epoch": epoch}
        counts = {"n_images": 50, "n_patients": 30, "n_empty": 0}
        rows.append({**row, "label": ALL, "consistency": value, "replicates": draws, **counts})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("values", "auc", "expected"),
    [
        ([0.4, 0.5, 0.3, 0.2], [0.9, 0.95, 0.95, 0.8], (2, 3, "consistency")),
        ([0.4, 0.5, 0.51, 0.2], [0.9, 0.8, 0.9, 0.9], (3, 1, "AUC")),
        ([0.4, 0.2, 0.2, 0.2], [0.9, 0.8, 0.8, 0.8], (1, 1, "same epoch")),
        ([0.4, 0.39, 0.41, 0.4], [0.9, 0.89, 0.91, 0.9], (np.nan, np.nan, "neither")),
        ([0.4, 0.5, 0.35, 0.6], [0.9, 0.9, 0.9, 0.9], (2, np.nan, "consistency")),
    ],
)
def test_which_falls_first(values, auc, expected):
    measured = pd.DataFrame({"architecture": "A", "seed": 0, "epoch": range(len(auc)), "auc_macro": auc})
    row = consistency.falls(run_rows(values), measured, auc_margin=0.02).iloc[0]
    np.testing.assert_array_equal([row["consistency_falls"], row["auc_falls"]], expected[:2])
    assert row["first"] == expected[2]


def test_seeds_are_pooled_and_the_change_is_tested():
    rows = pd.concat([run_rows([0.4, 0.3 + 0.01 * seed], seed=seed) for seed in range(3)])
    found = consistency.pooled(rows).set_index("checkpoint")
    assert found.at["before", "consistency_median"] == pytest.approx(0.4)
    assert found.at["after", "consistency_median"] == pytest.approx(0.31)
    assert found.at["after", "consistency_ci_low"] < 0.3 and found.at["after", "n_seeds"] == 3
    few = consistency.pooled(rows.assign(n_patients=9))
    assert few["consistency_ci_low"].isna().all() and few["consistency_median"].notna().all()
    assert consistency.changes(rows.assign(n_patients=9))["p"].isna().all()
    change = consistency.changes(rows)
    row = change.iloc[0]
    assert row["change"] == pytest.approx(-0.09) and row["change_ci_high"] < 0 and row["p_holm"] == row["p"] < 0.05
    text = consistency.sentence(consistency.Consistencies(found, change, pd.DataFrame(), pd.DataFrame(), 0.95))
    assert "rises in 0 of 1 cells and falls in 1" in text and "set `checkpoint_every`" in text
    falls = pd.DataFrame({"first": ["consistency", "neither", "consistency"]})
    text = consistency.sentence(consistency.Consistencies(found, change, falls, pd.DataFrame(), 0.95))
    assert "falls before AUC in 2 of 3 runs, after it in 0" in text and "in 1 neither falls" in text


def test_where_a_class_has_no_value_the_mean_of_all_has_none():
    none = {"consistency": np.nan, "replicates": np.full(3, np.nan), "n_images": 1, "n_patients": 1, "n_empty": 0}
    some = {"consistency": 0.4, "replicates": np.full(3, 0.4), "n_images": 9, "n_patients": 5, "n_empty": 2}
    row = consistency._mean([none, some])
    assert np.isnan(row["consistency"]) and row["n_images"] == 10 and row["label"] == ALL
    row = consistency._mean([some, some | {"consistency": 0.6}])
    assert row["consistency"] == pytest.approx(0.5) and row["replicates"] == pytest.approx([0.4] * 3)
    rows = run_rows([0.4, np.nan])
    change = consistency.changes(rows)
    assert change["change"].isna().all()
    found = consistency.Consistencies(consistency.pooled(rows), change, pd.DataFrame(), pd.DataFrame(), 0.95)
    assert consistency.sentence(found).startswith("Not known")
