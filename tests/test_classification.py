"""Classification performance: hand values and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from cxr.core.errors import InputError
from cxr.metrics import classification as perf

CLASSES = ["COVID-19", "normal", "lung opacity"]


def predictions(n=400, c=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(c, size=n, p=[0.5, 0.3, 0.2])
    logits = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[labels]
    p = np.exp(2 * logits)
    return labels, p / p.sum(1, keepdims=True)


def test_keys():
    got = perf.performance(*predictions(), CLASSES)
    per_class = [f"{m}_{c}" for m in ("auc", "sensitivity", "specificity") for c in CLASSES]
    assert set(got) == {
        "auc_macro", "accuracy", "balanced_accuracy", "sensitivity_macro", "specificity_macro",
        "ece", "brier", "log_loss", "n_images", *per_class,
    }  # fmt: skip
    assert {type(v) for v in got.values()} == {float}


def test_by_hand():
    labels = np.array([0, 0, 1, 1, 1])
    p0 = np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    got = perf.performance(labels, np.stack([p0, 1 - p0], 1), ["a", "b"])
    # Predicted 0, 1, 0, 1, 1: right, wrong, wrong, right, right.
    assert got["accuracy"] == pytest.approx(3 / 5)
    for keys, value in (
        (("sensitivity_a", "specificity_b"), 1 / 2),
        (("sensitivity_b", "specificity_a"), 2 / 3),
        (("balanced_accuracy", "sensitivity_macro", "specificity_macro"), 7 / 12),
        (("auc_a", "auc_b", "auc_macro"), 5 / 6),  # of 6 pairs, 0.4 against 0.6 alone is in the wrong order
    ):
        assert [got[key] for key in keys] == pytest.approx([value] * len(keys))
    # Two equal terms an image: 2 (1 - p of the true class)^2.
    wrong = np.array([0.1, 0.6, 0.6, 0.2, 0.1])
    assert got["brier"] == pytest.approx(np.mean(2 * wrong**2))
    assert got["log_loss"] == pytest.approx(-np.mean(np.log(1 - wrong)))
    # Top probabilities 0.9 (right, twice), 0.6 (wrong, twice), 0.8 (right); 15 bins hold each apart.
    assert got["ece"] == pytest.approx((2 * 0.1 + 2 * 0.6 + 0.2) / 5)
    assert got["n_images"] == 5
    np.testing.assert_array_equal(perf.confusion(labels, np.stack([p0, 1 - p0], 1), 2), [[1, 1], [1, 2]])


def test_equals_scikit_learn():
    labels, p = predictions()
    got = perf.performance(labels, p, CLASSES)
    top = p.argmax(1)
    assert 0.5 < got["accuracy"] < 0.95
    assert got["auc_macro"] == pytest.approx(metrics.roc_auc_score(labels, p, multi_class="ovr"))
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(labels, top))
    assert got["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, top))
    assert got["log_loss"] == pytest.approx(metrics.log_loss(labels, p))
    recall = metrics.recall_score(labels, top, average=None)
    for k, name in enumerate(CLASSES):
        assert got[f"sensitivity_{name}"] == pytest.approx(recall[k])
        assert got[f"specificity_{name}"] == pytest.approx(metrics.recall_score(labels != k, top != k))
    brier = sum(metrics.brier_score_loss(labels == k, p[:, k]) for k in range(3))
    assert got["brier"] == pytest.approx(brier)
    np.testing.assert_array_equal(perf.confusion(labels, p, 3), metrics.confusion_matrix(labels, top))


def test_reliability_by_hand():
    # Bins (0, 1/4], (1/4, 1/2], (1/2, 3/4], (3/4, 1]: an edge belongs to the bin below it.
    p = np.array([[0.5, 0.5], [0.75, 0.25], [0.3, 0.7], [1.0, 0.0]])
    got = perf.reliability(np.array([0, 1, 1, 0]), p, bins=4)
    np.testing.assert_array_equal(got["center"], [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_array_equal(got["n"], [0, 1, 2, 1])
    np.testing.assert_allclose(got["confidence"], [np.nan, 0.5, 0.725, 1])
    np.testing.assert_allclose(got["accuracy"], [np.nan, 1, 0.5, 1])


def test_ece_equals_a_plain_loop():
    labels, p = predictions()
    top, right = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = (top > (m - 1) / 15) & (top <= m / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert perf.performance(labels, p, CLASSES)["ece"] == pytest.approx(expected)
    assert expected > 0.02
    assert perf.reliability(labels, p)["n"].sum() == len(labels)


def test_perfect_and_worst():
    labels = np.array([0, 1, 2, 0])
    best = perf.performance(labels, np.eye(3)[labels], CLASSES)
    assert (best["auc_macro"], best["accuracy"], best["ece"], best["brier"], best["log_loss"]) == (
        1,
        1,
        0,
        0,
        0,
    )
    worst = perf.performance(labels, np.eye(3)[(labels + 1) % 3], CLASSES)
    assert (worst["accuracy"], worst["ece"], worst["brier"]) == (0, 1, 2)
    assert worst["log_loss"] == pytest.approx(52 * math.log(2))  # clipped at epsilon, 2^-52


def test_ties():
    # A uniform prediction: no discrimination, and the first class is predicted.
    labels = np.array([0, 1, 2, 2])
    got = perf.performance(labels, np.full((4, 3), 1 / 3), CLASSES)
    assert (got["auc_macro"], got["accuracy"]) == (0.5, 0.25)
    assert perf.confusion(labels, np.full((4, 3), 1 / 3), 3)[:, 0].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("COVID-19", "COVID-19"),
        ("lung opacity", "lung opacity"),
        ("a/b", "a/b"),
        ("a//b", "a__b"),
        ("a/../b", "a_.._b"),
        ("b/", "b_"),
        ("effusion (left), 50%", "effusion _left__ 50_"),
        ("Ödem:x", "_dem_x"),
        ("正常", "u6b63u5e38"),
        ("Норма 2", "u41du43eu440u43cu430 2"),
    ],
)
def test_metric_name(name, expected):
    assert perf.metric_name(name) == expected


@given(st.text(alphabet="a B0_-./:(%é\n", min_size=1, max_size=8))
def test_mlflow_accepts_every_metric_name(name):
    import re
    from posixpath import normpath

    # What MLflow's validation asks of a metric name: these characters, and no other reading as a path.
    for key in (f"auc_{perf.metric_name(name)}", f"specificity_{perf.metric_name(name)}"):
        assert re.fullmatch(r"[/\w.\- ]+", key, re.ASCII) and normpath(key) == key and key[0] != "/"


@pytest.mark.parametrize(
    "classes", [["正常", "肺炎"], ["норма", "отёки"], ["सामान्य", "निमोनिया"], ["طبيعي", "التهاب"]]
)
def test_classes_in_any_script_have_metrics_and_images_of_their_own(classes):
    from cxr.tracking.connection import key_of

    found = perf.performance(
        np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]), classes
    )
    assert len([name for name in found if name.startswith("auc_")]) == 3
    assert all(key_of(name) == name for name in found)
    assert len({key_of(f"layercam/{name}") for name in classes}) == 2


@pytest.mark.slow
def test_mlflow_accepts_the_odd_metric_names():
    validation = pytest.importorskip("mlflow.utils.validation")
    for name in ("a/b", "a//b", "a/../b", "b/", "/b", "..", "effusion (left), 50%", "Ödem", "正常"):
        validation._validate_metric_name(f"auc_{perf.metric_name(name)}")


@pytest.mark.parametrize(
    "labels, p, classes, message",
    [
        ([0, 0, 1], np.eye(3)[[0, 0, 1]], CLASSES, "0 of 3 images are of class 'lung opacity'"),
        ([0, 0], np.eye(2)[[0, 1]], ["a", "b"], "2 of 2 images are of class 'a'"),
        ([0, 1], np.eye(3)[[0, 1]], ["a", "b"], "shapes"),
        ([0, 1, 1], np.eye(2)[[0, 1]], ["a", "b"], "shapes"),
        ([0, 2], np.eye(2)[[0, 1]], ["a", "b"], "from 0 to 1"),
        ([0.0, 1.0], np.eye(2)[[0, 1]], ["a", "b"], "integers"),
        ([0, 1], [[3.0, -1.0], [0.5, 0.5]], ["a", "b"], "not the logits"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], ["a", "b"], "row 0"),
        ([0, 1], [[0.9, 0.9], [0.5, 0.5]], ["a", "b"], "not a distribution"),
        ([0, 1], np.eye(2)[[0, 1]], ["a+b", "a%b"], "both"),
        ([0, 1], np.eye(2)[[0, 1]], ["macro", "b"], "macro"),
        ([0, 1], np.eye(2)[[0, 1]], ["", "b"], "rename"),
    ],
)
def test_bad_input(labels, p, classes, message):
    with pytest.raises(InputError, match=message):
        perf.performance(np.array(labels), np.array(p), classes)


def test_float32_softmax_is_a_distribution():
    labels, p = predictions()
    got = perf.performance(labels, p.astype(np.float32), CLASSES)
    assert got == pytest.approx(perf.performance(labels, p, CLASSES), abs=1e-6)


def test_auc_replicates_equal_scikit_learn():
    labels, p = predictions(n=150)
    p = np.round(p, 1)  # many ties
    p[:, 2] = 1 - p[:, :2].sum(1)
    p = np.abs(p)
    weights = np.random.default_rng(1).multinomial(150, np.full(150, 1 / 150), size=20)
    expected = [
        np.mean([metrics.roc_auc_score(labels == k, p[:, k], sample_weight=w) for k in range(3)]) for w in weights
    ]
    np.testing.assert_allclose(perf.auc_replicates(labels, p, weights), expected)
    assert len(np.unique(p[:, 0])) < 12 and np.std(expected) > 0.005


def test_unit_weights_give_the_auc_of_performance():
    labels, p = predictions()
    got = perf.auc_replicates(labels, p, np.ones((1, len(labels)), int))
    assert got == pytest.approx([perf.performance(labels, p, CLASSES)["auc_macro"]])


def test_a_weight_is_a_repetition_and_a_missing_class_nan():
    labels, p = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    # Pairs of a 0 and a 1: three in order, one tied.
    weights = np.array([[1, 1, 1, 1], [0, 2, 1, 1], [2, 2, 0, 0], [0, 0, 1, 3], [0, 0, 0, 0]])
    np.testing.assert_allclose(perf.auc_replicates(labels, p, weights), [3.5 / 4, 3 / 4, *[np.nan] * 3])


def test_auc_replicates_in_blocks():
    labels, p = predictions(n=60)
    weights = np.random.default_rng(2).integers(0, 3, (70_000, 60))  # more than one block
    got = perf.auc_replicates(labels, p, weights)
    np.testing.assert_array_equal(got[-50:], perf.auc_replicates(labels, p, weights[-50:]))
    assert got.shape == (70_000,)
