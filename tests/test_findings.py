"""Several findings an image: the loss, the measures and the calls, against by-hand numbers and scikit-learn."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import multi_label
from cxr.metrics import classification, findings
from cxr.report import answers
from cxr.training import optimisation, stages

NAMES = ["effusion", "mass"]


def predictions(n=200, seed=0, unknown=0.2):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 2)) < [0.3, 0.1]).astype(float)
    p = 1 / (1 + np.exp(-(1.5 * truth - 1 + rng.normal(size=(n, 2)))))
    truth[rng.random((n, 2)) < unknown] = np.nan
    return truth, p.astype(np.float32)


def test_measures_are_those_of_scikit_learn_on_the_labels_that_are_known():
    truth, p = predictions()
    cuts = np.array([0.4, 0.35])
    found = findings.performance(truth, p, NAMES, cuts)
    p = p.astype(float)
    for k, name in enumerate(NAMES):
        known = ~np.isnan(truth[:, k])
        y, q = truth[known, k], p[known, k]
        assert found[f"auc_{name}"] == pytest.approx(metrics.roc_auc_score(y, q), abs=1e-12)
        assert found[f"average_precision_{name}"] == pytest.approx(metrics.average_precision_score(y, q))
        assert found[f"sensitivity_{name}"] == pytest.approx(metrics.recall_score(y, q >= cuts[k]))
        assert found[f"specificity_{name}"] == pytest.approx(metrics.recall_score(1 - y, q < cuts[k]))
        edges = np.linspace(0, 1, 16)
        gap = sum(
            abs(y[inside].mean() - q[inside].mean()) * inside.mean()
            for low, high in zip(edges, edges[1:], strict=False)
            if (inside := (q > low) & (q <= high)).any()
        )
        assert found[f"ece_{name}"] == pytest.approx(gap)
    known = ~np.isnan(truth)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth[known], p[known]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth[known], p[known]))
    assert found["accuracy"] == pytest.approx(((p >= cuts) == (truth == 1))[known].mean())
    assert found["auc_macro"] == pytest.approx((found["auc_effusion"] + found["auc_mass"]) / 2)
    assert found["balanced_accuracy"] == pytest.approx(
        (found["sensitivity_macro"] + found["specificity_macro"]) / 2
    )
    assert found["n_images"] == 200


def test_the_threshold_is_youdens_and_calls_reach_it():
    truth = np.array([[0], [0], [1], [0], [1], [1], [np.nan]], float)
    p = np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6], [0.99]])
    truth, p = np.hstack([truth, truth]), np.hstack([p, p])
    # from 0.5 on: 2/3 of those with it, none of those without (2/3); from 0.3 on: 1 and 1/3 (2/3): the higher
    np.testing.assert_allclose(findings.best_thresholds(truth, p), [0.5, 0.5])
    counts = findings.confusion(truth, p, np.array([0.5, 0.3]))
    assert counts[0].tolist() == [[3, 0], [1, 2]] and counts[1].tolist() == [[2, 1], [0, 3]]
    table = findings.reliability(truth, p)
    assert table["n"].sum() == 12 and len(table) == 15


@given(st.integers(0, 2**31 - 1))
def test_replicates_of_the_auc_are_those_of_the_drawn_images(seed):
    truth, p = predictions(40, seed, unknown=0.3)
    weights = np.random.default_rng(seed).integers(0, 3, (4, 40))
    found = classification.auc_replicates(truth, p, weights)
    for own, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(40), own)
        aucs = []
        for k in range(2):
            y = truth[rows, k]
            y, q = y[~np.isnan(y)], p[rows, k][~np.isnan(y)]
            aucs.append(metrics.roc_auc_score(y, q) if len(set(y)) == 2 else np.nan)
        np.testing.assert_allclose(value, np.mean(aucs), atol=1e-12)


@pytest.mark.parametrize(
    ("truth", "p", "match"),
    [
        ([[1, 0], [1, 1]], [[0.5, 0.5], [0.5, 0.5]], "all images have the finding 'effusion', or none has"),
        ([[1, 0], [0, 2]], [[0.5, 0.5], [0.5, 0.5]], "labels of findings must be 0, 1 or NaN"),
        ([[1, 0], [0, 1]], [[0.5, 3.5], [0.5, 0.5]], "pass the sigmoids, not the logits"),
        ([[1, 0], [0, 1]], [[0.5], [0.5]], r"got shapes \(2, 2\) and \(2, 1\)"),
    ],
)
def test_predictions_that_are_none_are_refused(truth, p, match):
    with pytest.raises(InputError, match=match):
        findings.performance(np.array(truth, float), np.array(p), NAMES, np.array([0.5, 0.5]))


def test_the_loss_is_binary_cross_entropy_of_the_labels_that_are_known():
    labels = np.array([[1, 0, np.nan], [np.nan, 1, 0]], np.float32)
    logits = np.array([[2.0, -1.0, 50.0], [-30.0, 0.5, 1.5]], np.float32)
    softplus = np.log1p(np.exp(np.array([-2.0, -1.0, -0.5, 1.5])))  # of the known ones, by hand
    expected = np.array([softplus[0] + softplus[1], softplus[2] + softplus[3]]) / 3
    np.testing.assert_allclose(optimisation.FindingsLoss().call(labels, logits), expected, rtol=1e-6)
    weights = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    expected = np.array([4 * softplus[0] + 2 * softplus[1], 5 * softplus[2] + 3 * softplus[3]]) / 3
    np.testing.assert_allclose(optimisation.FindingsLoss(weights).call(labels, logits), expected, rtol=1e-6)
    with tf.GradientTape() as tape:
        x = tf.Variable(logits)
        loss = optimisation.FindingsLoss()(labels, x)
    gradient = tape.gradient(loss, x).numpy()
    assert gradient[0, 2] == 0 == gradient[1, 0] and (gradient[~np.isnan(labels)] != 0).all()
    np.testing.assert_allclose(optimisation.right_findings(tf.constant(labels), tf.constant(logits)), [1, 0.5])


def test_images_with_and_without_a_finding_weigh_the_same():
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]], np.float32)
    weights = optimisation.finding_weights(labels)
    np.testing.assert_allclose(weights, [[4 / 6, 3 / 4], [2, 3 / 2]])
    assert 3 * weights[0, 0] == pytest.approx(weights[1, 0]) and 2 * weights[0, 1] == pytest.approx(weights[1, 1])


@pytest.mark.parametrize("class_weights", [False, True])
def test_a_head_learns_findings_that_features_show(class_weights):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 3)).astype(np.float32)
    y = (x[:, :2] > [0, 1]).astype(np.float32)
    y[:20] = np.where(rng.random((20, 2)) < 0.5, np.nan, y[:20])
    settings = TrainParams(
        data="phantom", task="multi_label", class_weights=class_weights, transfer_epochs=40, transfer_patience=40
    )
    from cxr.training import fitting

    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    history = fitting.fit(model, (x[:120], y[:120]), (x[120:], y[120:]), "transfer", settings)
    assert history["val_loss"].min() < 0.5 * history["val_loss"].iloc[0] and history["val_accuracy"].max() > 0.85


def test_fine_tuning_can_keep_the_epoch_of_the_highest_auc():
    from cxr.training import fitting

    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    for y in ((x[:, 0] + rng.normal(size=80) > 0).astype(np.int32), (x[:, :2] > 0).astype(np.float32)):
        settings = TrainParams(
            data="phantom", fine_tune_epochs=6, fine_tune_patience=6, fine_tune_monitor="val_auc"
        )
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        history = fitting.fit(model, (x[:40], y[:40]), (x[40:], y[40:]), "fine_tuning", settings)
        best = fitting.best_epoch(history)
        assert best == history["val_auc"].argmax() + 1 and "val_auc" in history
        logits = model.predict(x[40:], verbose=0)
        if y.ndim == 1:
            auc = metrics.roc_auc_score(y[40:], logits[:, 1] - logits[:, 0])
        else:
            auc = np.mean([metrics.roc_auc_score(y[40:, k], logits[:, k]) for k in range(2)])
        assert auc == pytest.approx(history["val_auc"].max())  # the weights are of that epoch


def test_predictions_have_a_row_for_each_finding_that_an_image_has():
    manifest = pd.DataFrame(
        {
            "image_id": list("xyz"),
            "patient_id": list("ppq"),
            "split": "test",
            "label": ["a + b", "a", "no finding"],
        }
    ).assign(finding_a=["1", "1", "0"], finding_b=["1", "", "0"], group_sex=["F", "F", "M"])
    p = np.array([[0.9, 0.2], [0.4, 0.9], [0.1, 0.1]], np.float32)
    table = stages.prediction_table(manifest, p, ["a", "b"], np.array([0.5, 0.5]))
    assert table["predicted"].tolist() == ["a", "b", "no finding"] and table["correct"].tolist() == [
        False,
        False,
        True,
    ]
    cases = multi_label.by_finding(table)
    assert cases["image_id"].tolist() == ["x: a", "x: b", "y: a"] and cases["image"].tolist() == ["x", "x", "y"]
    assert cases["label"].tolist() == ["a", "b", "a"] and cases["correct"].tolist() == [True, False, False]
    assert cases["predicted"].tolist() == ["a", "not called", "not called"]
    assert cases["group_sex"].tolist() == ["F"] * 3 and not [name for name in cases if "finding_" in name]
    np.testing.assert_allclose(cases["p_1"], [0.2, 0.2, 0.9])
    odds = answers.log_odds(cases[["p_0", "p_1"]].to_numpy(), np.array([0, 1, 0]), exclusive=False)
    np.testing.assert_allclose(odds, np.log([0.9 / 0.1, 0.2 / 0.8, 0.4 / 0.6]), rtol=1e-6)
    assert np.isfinite(answers.log_odds(np.array([[1.0, 0.0]]), np.array([0]), exclusive=False)).all()
