"""FlatAdam is Keras' Adam to the bit, is saved and restored, and refuses what it does not do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.training.flat_adam import FlatAdam

SHAPES = [(3, 3, 2, 5), (5,), (), (7, 1), (1,)]


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def gradients(rng, scale=1.0):
    return [tf.constant((scale * rng.normal(size=shape)).astype(np.float32)) for shape in SHAPES]


def graph_step(optimizer, weights):
    return tf.function(lambda grads: optimizer.apply(grads, weights), autograph=False)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(1e-6, 1.0),
    betas=st.tuples(st.floats(0.0, 0.99), st.floats(0.5, 0.9999)),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
)
def test_updates_are_those_of_keras_to_the_bit(seed, rate, betas, scale):
    ours, theirs = variables(seed), variables(seed)
    options = {"learning_rate": rate, "beta_1": betas[0], "beta_2": betas[1]}
    flat, adam = FlatAdam(**options), keras.optimizers.Adam(**options)
    flat.build(ours)
    adam.build(theirs)
    steps = [graph_step(flat, ours), graph_step(adam, theirs)]
    rng = np.random.default_rng(seed)
    for _ in range(4):
        grads = gradients(rng, scale)
        for step in steps:
            step(grads)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    assert int(flat.iterations) == int(adam.iterations) == 4


def test_two_steps_by_hand():
    """Algorithm 1 with the betas of its defaults, in float64, on one weight."""
    weight = keras.Variable(np.float32([1.0]))
    optimizer = FlatAdam(0.1)
    expected, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -2.0), start=1):
        optimizer.apply([tf.constant([g])], [weight])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected -= 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    assert float(weight[0]) == pytest.approx(expected, rel=1e-5)


def small_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4, "relu")(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(FlatAdam(0.01, beta_1=0.8), loss=loss, jit_compile=False)
    return model


def fit(model, epochs):
    rng = np.random.default_rng(0)
    return model.fit(rng.normal(size=(32, 6)), np.arange(32) % 3, 8, epochs, verbose=0, shuffle=False)


def test_a_saved_model_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, first = small_model(), small_model()
    fit(whole, 4)
    fit(first, 2)
    first.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    assert isinstance(again.optimizer, FlatAdam) and again.optimizer.get_config() == first.optimizer.get_config()
    # step, rate and two vectors: the model's weights are not among them
    assert [tuple(v.shape) for v in again.optimizer.variables] == [(), (), (43,), (43,)]
    fit(again, 2)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_scaled_loss_leads_where_an_unscaled_one_does():
    ours, theirs = variables(), variables()
    flat = keras.optimizers.LossScaleOptimizer(FlatAdam(0.01), initial_scale=2.0**10)
    plain = FlatAdam(0.01)
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = gradients(rng)
        flat.apply([g * 2.0**10 for g in grads], ours)  # powers of two: the bits are the same
        plain.apply(grads, theirs)
    before = [np.array(each) for each in ours]
    flat.apply([g * np.inf for g in gradients(rng)], ours)  # is left out
    for a, b, c in zip(ours, theirs, before, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
        np.testing.assert_array_equal(np.array(a), c)


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0},
        {"weight_decay": 0.01},
        {"use_ema": True},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 8.0},
    ],
)
def test_options_that_it_does_not_know_are_refused(options):
    with pytest.raises(
        ValueError, match=f"FlatAdam does not know {next(iter(options))}: use keras.optimizers.Adam"
    ):
        FlatAdam(0.01, **options)


def test_weights_and_gradients_that_it_does_not_know_are_refused():
    weights, grads = variables(), gradients(np.random.default_rng(0))
    optimizer = FlatAdam(0.01)
    sparse = tf.IndexedSlices(tf.ones((1, 1)), tf.constant([0]), tf.constant([7, 1]))
    for wrong, message in ((None, "has no gradient"), (sparse, "has a sparse gradient")):
        with pytest.raises(ValueError, match=message):
            optimizer.apply([*grads[:3], wrong, grads[4]], weights)
    with pytest.raises(ValueError, match="all of them and in order"):
        optimizer.apply(grads[::-1], weights[::-1])
    for weight in (
        keras.Variable(np.zeros(2), dtype="float16"),
        keras.layers.Dense(1, kernel_constraint="non_neg"),
    ):
        if isinstance(weight, keras.Layer):
            weight.build((None, 2))
            weight = weight.kernel
        with pytest.raises(ValueError, match="float32 weights without constraints"):
            FlatAdam(0.01).build([weight])
