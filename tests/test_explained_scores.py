import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from cxr.attribution import explaining, scores
from cxr.core.errors import InputError
from cxr.core.methods import METHODS, SCORES
from cxr.core.methods import cams as cams_of
from cxr.models import build, foreign


def by_hand(logits, classes):
    """Log-odds in extended precision, straight from their definition log(p / (1 - p))."""
    exact = np.asarray(logits, np.longdouble)
    own = exact[np.arange(len(classes)), classes]
    others = [np.log(np.exp(np.delete(row, c) - row[c]).sum()) for row, c in zip(exact, classes, strict=True)]
    return own * 0 - np.array(others)


def random_logits(n=6, n_classes=4, scale=3.0):
    rng = np.random.default_rng(0)
    return rng.normal(0, scale, (n, n_classes)), rng.integers(0, n_classes, n)


def gradient(logits, classes, score, **options):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        found = scores.of_images(logits, classes, score, **options)
    return tape.gradient(found, logits).numpy()


def test_scores_by_hand():
    logits, classes = random_logits()
    log_odds = by_hand(logits, classes)
    probability = 1 / (1 + np.exp(-log_odds))
    expected = {"log_odds": log_odds, "logit": logits[range(6), classes], "probability": probability}
    assert set(expected) == set(SCORES) and scores.DEFAULT == "log_odds"
    for score, values in expected.items():
        found = scores.of_images(tf.constant(logits), classes, score)
        assert found.dtype == tf.float64
        np.testing.assert_allclose(found, values.astype(float), rtol=1e-14)
    np.testing.assert_array_equal(scores.of_images(logits, classes), scores.of_images(logits, classes, "log_odds"))
    softmax = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(scores.of_images(logits, classes, "probability"), softmax[range(6), classes])


def test_log_odds_of_two_classes_are_a_difference():
    np.testing.assert_allclose(scores.of_images([[1.0, 3.5], [2.0, -1.0]], [1, 1]), [2.5, -3.0])


@given(st.floats(-1e4, 1e4), st.sampled_from(["log_odds", "probability"]))
def test_what_all_logits_share_does_not_count(shift, score):
    logits, classes = random_logits()
    found, shifted = (scores.of_images(z, classes, score).numpy() for z in (logits, logits + shift))
    np.testing.assert_allclose(shifted, found, rtol=1e-10, atol=1e-10)
    one, other = (scores.of_images(z, classes, "logit").numpy() for z in (logits, logits + 1))
    np.testing.assert_allclose(other - one, 1)


def test_a_shift_of_float32_logits_costs_no_digits():
    logits, classes = random_logits()
    logits = np.round(logits.astype(np.float32) * 64) / 64  # so that float32 holds the sums exactly
    for score in ("log_odds", "probability"):
        found, shifted = (scores.of_images(z, classes, score).numpy() for z in (logits, logits + np.float32(4096)))
        np.testing.assert_allclose(shifted, found, rtol=1e-12)


def test_gradients_by_hand():
    logits, classes = random_logits()
    rows = np.arange(6)
    p = tf.nn.softmax(logits).numpy()
    contrast = -p / (1 - p[rows, classes])[:, None]  # the others, weighted by their share of the rest
    contrast[rows, classes] = 1
    np.testing.assert_allclose(gradient(logits, classes, "log_odds"), contrast, rtol=1e-12)
    np.testing.assert_allclose(gradient(logits, classes, "logit"), np.eye(4)[classes])
    slope = (p * (1 - p))[rows, classes][:, None]
    np.testing.assert_allclose(gradient(logits, classes, "probability"), slope * contrast, rtol=1e-12)


def test_the_gradient_of_a_probability_that_rounds_to_one_does_not_vanish():
    logits = np.array([[60.0, 0.0, 0.0]])
    assert scores.of_images(logits, [0], "probability").numpy() == 1
    slope = 2 * np.exp(-60.0)  # 1 - p
    expected = [[slope, -slope / 2, -slope / 2]]
    np.testing.assert_allclose(gradient(logits, [0], "probability"), expected, rtol=1e-12)
    np.testing.assert_allclose(gradient(logits, [1], "log_odds"), [[-1, 1, 0]], atol=1e-12)


def test_an_output_with_a_sigmoid_of_its_own_does_not_depend_on_the_others():
    logits, classes = random_logits()
    own = logits[range(6), classes]
    np.testing.assert_array_equal(scores.of_images(logits, classes, "log_odds", exclusive=False), own)
    found = scores.of_images(logits, classes, "probability", exclusive=False)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-own)))
    np.testing.assert_array_equal(gradient(logits, classes, "log_odds", exclusive=False), np.eye(4)[classes])
    np.testing.assert_array_equal(scores.of_images([[2.0]], [0], exclusive=False), [2])


def test_bad_input():
    with pytest.raises(InputError, match="score: unknown softmax: use log_odds, logit, probability"):
        scores.of_images([[1.0, 2.0]], [0], "softmax")
    with pytest.raises(InputError, match="log_odds of a softmax over one class"):
        scores.of_images([[1.0]], [0])


def network(*end, name="net"):
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for layer in end:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def test_a_head_gives_the_scores_of_the_model_and_reads_its_weights_at_every_call():
    model = build.build("CompactResNetV2", n_classes=4, image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1)).astype(np.float32)
    classes = np.array([3, 0, 1])
    head = scores.Head(model, "probability")
    assert head.exclusive
    to_features = keras.Model(model.input, head.input)
    for factor in (1, 5):
        dense = model.get_layer("logits")
        dense.set_weights([dense.get_weights()[0] * factor, np.arange(4.0)])
        features = to_features(images)
        assert head.logits(features).dtype == tf.float64
        p = model(images).numpy()[range(3), classes]
        np.testing.assert_allclose(head.scores(features, classes), p, rtol=1e-5)


def test_what_the_last_layer_says_decides_what_log_odds_are():
    softmax = scores.Head(network(layers.Dense(3, name="logits"), layers.Softmax()))
    sigmoid = scores.Head(network(layers.Dense(3, name="logits"), layers.Activation("sigmoid")))
    assert softmax.exclusive and not sigmoid.exclusive
    features = np.ones((2, 8), np.float32)
    z = sigmoid.logits(features).numpy()
    np.testing.assert_array_equal(sigmoid.scores(features, [2, 0]), z[[0, 1], [2, 0]])
    # no bias, and foreign classifiers, whose one sigmoid output becomes two classes
    scores.Head(network(layers.Dense(3, name="logits", use_bias=False), layers.Softmax())).scores(features, [0, 1])
    one = foreign.adapt(network(layers.Dense(1, activation="sigmoid")), preprocessing="none")
    own = scores.Head(one)
    inner = keras.Model(one.input, own.input)(np.full((1, 16, 16, 1), 1.0, np.float32))
    p = one(np.full((1, 16, 16, 1), 1.0, np.float32)).numpy()[0, 1]
    np.testing.assert_allclose(own.scores(inner, [1])[0], np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)
    many = foreign.adapt(network(layers.Dense(3, activation="sigmoid")), preprocessing="none")
    assert not scores.Head(many).exclusive


def test_a_model_whose_end_is_unknown_is_refused_unless_the_logit_is_explained():
    ends = {
        "logits": [layers.Dense(3, name="logits")],
        "tanh": [layers.Dense(3, name="logits"), layers.Activation("tanh", name="tanh")],
        "then": [layers.Dense(3, name="logits"), layers.Softmax(), layers.Softmax(name="then")],
    }
    for end, added in ends.items():
        model = network(*added)
        with pytest.raises(InputError, match=f"net ends with '{end}', not with the softmax or the .* logit"):
            scores.Head(model)
        scores.Head(model, "logit")
    with pytest.raises(InputError, match="score: unknown margin"):
        scores.Head(network(layers.Dense(3, name="logits")), "margin")
    with pytest.raises(InputError, match="'logits' of net is not a Dense layer with a linear output"):
        scores.Head(network(layers.Dense(3, name="logits", activation="softmax")))


@pytest.fixture(scope="module")
def twins():
    """Two networks with the same predictions: one vector is added to every class' kernel, a number to every bias.

    Kernels are multiples of 2^-12, so that float32 holds the sums exactly.
    """
    found = []
    for shift in (0, 1):
        keras.utils.set_random_seed(0)
        model = build.build("CompactResNetV2", n_classes=4, image_size=64)
        kernel, bias = model.get_layer("logits").get_weights()
        common = np.random.default_rng(1).normal(0, kernel.std(), (len(kernel), 1))
        kernel, common = (np.round(values * 4096) / 4096 for values in (kernel, common))
        model.get_layer("logits").set_weights([kernel + shift * common, bias + shift * 3])
        found.append(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    a, b = (model(images[..., None].astype(np.float32)).numpy() for model in found)
    np.testing.assert_allclose(a, b, atol=3e-6)
    return found, images, np.array([3, 0])


@pytest.mark.parametrize("score", SCORES)
def test_networks_with_the_same_predictions_have_the_same_maps(twins, score):
    models, images, classes = twins
    methods = (*cams_of(METHODS), "scorecam")
    if score == "log_odds":  # for the others, these are slow
        methods += ("smoothgrad", "integrated_gradients", "occlusion")
    options = {"layer": "penultimate", "methods": methods, "score": score}
    a, b = (explaining.attribute(model, images, classes, **options) for model in models)
    off = {}
    for name in methods:
        assert (a[name].max((1, 2)) > 0).all()
        unit = [maps / maps.max((1, 2), keepdims=True) for maps in (a[name], b[name])]
        off[name] = float(np.abs(unit[0] - unit[1]).max())
    if score == "logit":
        assert off.pop("scorecam") < 1e-6, "it takes the probability whatever the score"
        assert off["layercam"] > 0.3 and min(off.values()) > 0.01, off
    else:
        assert max(off.values()) < 1e-6, off
