"""FlatAdam is Keras' Adam to the bit, and refuses what it does not do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.training.optimisation import FlatAdam

SHAPES = [(3, 3, 2, 5), (5,), (), (7, 1), (1,)]


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def gradients(rng, scale=1.0):
    return [tf.constant((scale * rng.normal(size=shape)).astype(np.float32)) for shape in SHAPES]


def graph_step(optimizer, weights):
    return tf.function(lambda grads: optimizer.apply(grads, weights), autograph=False)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(1e-6, 1.0),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
)
def test_updates_are_those_of_keras_to_the_bit(seed, rate, scale):
    ours, theirs = variables(seed), variables(seed)
    flat, adam = FlatAdam(rate), keras.optimizers.Adam(rate)
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
    optimizer.build([weight])
    expected, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -2.0), start=1):
        optimizer.apply([tf.constant([g])], [weight])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected -= 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    assert float(weight[0]) == pytest.approx(expected, rel=1e-5)


def test_a_scaled_loss_leads_where_an_unscaled_one_does():
    ours, theirs = variables(), variables()
    flat = keras.optimizers.LossScaleOptimizer(FlatAdam(0.01), initial_scale=2.0**10)
    plain = FlatAdam(0.01)
    flat.build(ours)
    plain.build(theirs)
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


def test_weights_and_gradients_that_it_does_not_know_are_refused():
    weights, grads = variables(), gradients(np.random.default_rng(0))
    optimizer = FlatAdam(0.01)
    sparse = tf.IndexedSlices(tf.ones((1, 1)), tf.constant([0]), tf.constant([7, 1]))
    for wrong, message in ((None, "has no gradient"), (sparse, "has a sparse gradient")):
        with pytest.raises(ValueError, match=message):
            optimizer.apply([*grads[:3], wrong, grads[4]], weights)
    for weight in (
        keras.Variable(np.zeros(2), dtype="float16"),
        keras.layers.Dense(1, kernel_constraint="non_neg"),
    ):
        if isinstance(weight, keras.Layer):
            weight.build((None, 2))
            weight = weight.kernel
        with pytest.raises(ValueError, match="float32 weights without constraints"):
            FlatAdam(0.01).build([weight])
