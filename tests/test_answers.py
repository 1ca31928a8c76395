"""cxr.report.answers: answers, log-odds, and their relation to drift."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from cxr.attribution.maps import MapSet
from cxr.metrics.similarity import compare_maps
from cxr.report import answers
from cxr.report.scoring import ScoredMaps

N, CLASSES = 60, ("a", "b", "c")


def test_log_odds_are_differences_of_logits_far_beyond_where_p_rounds_to_1():
    logits = np.array([[0.3, -1, 2], [40, 0, 1], [85, 0, -3], [-60, 0, 0.5]], np.float32)
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = (e / e.sum(1, keepdims=True)).astype(np.float32)
    assert p[1, 0] == 1
    expected = logits[:, 0] - special.logsumexp(logits[:, 1:].astype(float), axis=1)
    np.testing.assert_allclose(answers.log_odds(p, np.zeros(4, int)), expected, rtol=1e-5)
    ends = answers.log_odds(np.float32([[1, 0], [0, 1]]), np.array([0, 0]))
    np.testing.assert_allclose(ends, [87.336, -87.336], atol=1e-3)


def test_the_four_answers():
    images = pd.DataFrame(
        {"label": list("aaaaa"), "predicted_before": list("abab") + ["b"], "predicted_after": list("aabb") + ["c"]}
    )
    assert answers.answers(images).tolist() == ["kept right", "fixed", "broken", "kept wrong", "kept wrong"]


@pytest.mark.parametrize("shape", [(30,), (200,)])
def test_spearman_is_scipys_of_the_repeated_values(shape):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 8, shape).astype(float), rng.normal(size=shape)
    weights, rows = rng.poisson(1, (20, 300)), rng.permutation(300)[: shape[0]]
    expected = [stats.spearmanr(np.repeat(x, w), np.repeat(y, w)).statistic for w in weights[:, rows]]
    np.testing.assert_allclose(answers.spearman(x, y, weights, rows), expected, atol=1e-12)
    assert np.isnan(answers.spearman(np.ones(shape), y, weights, rows)).all()


class Run:
    """A stored run with these tables."""

    def __init__(self, **held):
        self.tables = held.pop("tables")
        self.params, self.tags = held.get("params", {}), held.get("tags", {})

    def table(self, name):
        return self.tables[name]


def test_the_table_of_a_run_holds_every_image_with_its_drift_and_certainty(monkeypatch):
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(N)])
    label = rng.choice(CLASSES, N)
    predictions = {}
    for name in ("before", "after"):
        p = rng.dirichlet(np.ones(3), N).astype(np.float32)
        table = pd.DataFrame({"image_id": ids, **{f"p_{k}": p[:, k] for k in range(3)}})
        predictions[name] = table.assign(predicted=np.array(CLASSES)[p.argmax(1)]).sample(frac=1, random_state=3)
    by_id = {name: table.set_index("image_id").loc[ids] for name, table in predictions.items()}
    images = pd.DataFrame({"image_id": ids, "patient_id": ids, "label": label, "explained": label})
    for name in by_id:
        images[f"predicted_{name}"] = by_id[name]["predicted"].to_numpy()
    images["scored"] = (images[["predicted_before", "predicted_after"]].T == label).T.all(axis=1)
    index = np.array([CLASSES.index(name) for name in label])
    sets = {}
    for name in ("before", "after"):
        values = rng.random((N, 4, 4)).astype(np.float32)
        values[3] = 0
        sets[name] = MapSet(ids, index, values, name, "layercam", "layer", CLASSES, "")
    attribute = Run(
        tables={"images.parquet": images},
        params={"architecture": "A", "seed": "2"},
        tags={"cxr.image_size": "16", "cxr.train_run": "t"},
    )
    train = Run(tables={f"predictions_{name}.parquet": table for name, table in predictions.items()})
    scored = ScoredMaps(attribute, "layercam", train=train)
    monkeypatch.setattr(ScoredMaps, "pair", lambda self: (sets["before"], sets["after"]))
    table = answers.table(scored)
    assert len(table) == N > images["scored"].sum()
    drift = compare_maps(sets["before"].maps, sets["after"].maps, size=16, names=["overlap"])
    np.testing.assert_array_equal(table["overlap"], drift["overlap"])
    assert np.isnan(table["overlap"][3]) and table["empty_before"][3]
    assert table["answer"].tolist() == answers.answers(images).tolist()
    own = by_id["after"].loc["i05", f"p_{index[5]}"]
    assert table["log_odds_after"][5] == pytest.approx(np.log(own / (1 - own)), rel=1e-4)
    np.testing.assert_allclose(table["log_odds_change"], table["log_odds_after"] - table["log_odds_before"])


def rows(rng, seeds=3, n=120, effect=0.2, slope=0.0, changed=0.3):
    """A cell: `changed` of the images change their answer and overlap less by `effect`."""
    tables = []
    patient = [f"p{k // 2}" for k in range(n)]
    for seed in range(seeds):
        answer = np.where(rng.random(n) < changed, np.where(rng.random(n) < 0.5, "fixed", "broken"), "kept right")
        change = rng.normal(size=n)
        overlap = 0.6 + rng.normal(0, 0.05, n) - effect * (answer != "kept right") - slope * np.abs(change)
        tables.append(
            pd.DataFrame(
                {
                    "architecture": "A",
                    "method": "layercam",
                    "seed": seed,
                    "image_id": [f"i{k}" for k in range(n)],
                    "patient_id": patient,
                    "answer": answer,
                    "overlap": np.clip(overlap, 0, 1),
                    "log_odds_change": change,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_medians_by_answer_and_the_difference_between_changed_and_kept():
    table = rows(np.random.default_rng(0))
    found = answers.by_answer(table, n_boot=300).set_index("answer")
    for answer in ("kept right", "fixed", "broken"):
        own = table[table["answer"] == answer]
        expected = own.groupby("seed")["overlap"].median().mean()
        assert found.at[answer, "overlap_median"] == pytest.approx(expected)
        assert found.at[answer, "n_images"] == len(own)
        assert found.at[answer, "n_patients"] == own["patient_id"].nunique()
        assert found.at[answer, "overlap_ci_low"] < expected < found.at[answer, "overlap_ci_high"]
    assert found.loc["kept wrong", ["n_images", "n_patients"]].tolist() == [0, 0]
    assert found.loc["kept wrong", ["overlap_median", "overlap_ci_low"]].isna().all()

    row = answers.summary(table, n_boot=300).iloc[0]
    medians = table.assign(part=table["answer"] == "kept right").groupby(["part", "seed"])["overlap"].median()
    assert row["difference"] == pytest.approx((medians[False] - medians[True]).mean())
    assert row["difference"] == pytest.approx(-0.2, abs=0.03)
    assert row["difference_ci_low"] < -0.2 + 0.03 and row["difference_ci_high"] < 0 and row["p"] < 0.05
    assert row["p_holm"] == row["p"] and row["n_changed"] == (table["answer"] != "kept right").sum()


def test_drift_follows_certainty_where_it_does():
    rng = np.random.default_rng(0)
    none, some = (answers.summary(rows(rng, effect=0, slope=slope), n_boot=300).iloc[0] for slope in (0, 0.1))
    assert none["spearman_ci_low"] < 0 < none["spearman_ci_high"] and abs(none["spearman"]) < 0.2
    assert some["spearman_ci_low"] > 0.4 and some["spearman"] < 0.95


def test_a_true_null_is_rejected_about_as_often_as_the_level_says():
    rng = np.random.default_rng(5)
    p = [answers.summary(rows(rng, seeds=2, n=60, effect=0), n_boot=200)["p"].iloc[0] for _ in range(60)]
    assert np.mean(np.array(p) < 0.05) <= 0.12


def test_few_patients_are_counted_and_not_tested():
    table = rows(np.random.default_rng(2), seeds=1, n=60, changed=0.06)
    assert 0 < (table["answer"] != "kept right").sum() < 10
    found = answers.by_answer(table, n_boot=200).set_index("answer")
    assert found.loc["broken", ["overlap_ci_low", "overlap_ci_high"]].isna().all()
    assert found.at["broken", "overlap_median"] < 0.6
    summary = answers.summary(table, n_boot=200)
    assert np.isnan(summary["p"].iloc[0]) and np.isnan(summary["p_holm"].iloc[0])
    text = answers.sentence(answers.Answers(found.reset_index(), summary, 0.95))
    assert text.startswith(f"Only {summary['n_changed'].iloc[0]} images at most changed their answer")


def test_cells_without_a_single_map_and_without_changed_answers():
    table = rows(np.random.default_rng(2), seeds=2, n=40, changed=0)
    for empty in (False, True):
        known = table.assign(overlap=np.nan) if empty else table
        found = answers.by_answer(known, n_boot=100).set_index("answer")
        assert found["n_images"].tolist() == [0 if empty else 80, 0, 0, 0]
        row = answers.summary(known, n_boot=100).iloc[0]
        assert np.isnan(row["p"]) and np.isnan(row["spearman"]) == empty and row["n_changed"] == 0


def test_the_sentence_says_what_was_found():
    rng = np.random.default_rng(0)
    lower, higher = (answers.summary(rows(rng, effect=effect), n_boot=300) for effect in (0.2, -0.2))
    text = answers.sentence(answers.Answers(pd.DataFrame(), lower, 0.95))
    assert f"overlap by {lower['overlap_changed'].iloc[0]:.2f}, those of images that stay right by 0.6" in text
    assert "is shown in 1 of 1 cells, the opposite in 0 (tests at 5%, Holm over cells)" in text
    text = answers.sentence(answers.Answers(pd.DataFrame(), higher, 0.95))
    assert "is shown in 0 of 1 cells, the opposite in 1" in text
    assert answers.sentence(answers.Answers(pd.DataFrame(), pd.DataFrame(), 0.95)).startswith("Not asked")
