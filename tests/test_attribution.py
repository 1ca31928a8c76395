import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.layercam import Layercam

from cxr import attribution, models
from cxr.errors import InputError
from cxr.params import ARCHITECTURES, METHODS

PAPER = [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[:3]]
COMPACT = list(ARCHITECTURES[3:])
N_CLASSES = 5


@pytest.fixture(scope="module", params=[*COMPACT, *PAPER])
def case(request):
    """A network with random weights of a sensible scale, three images and three classes."""
    keras.utils.set_random_seed(0)
    size = 96 if request.param != "InceptionV3" else 128
    model = models.build(request.param, n_classes=N_CLASSES, image_size=size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, size // 8, size // 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return model, images, np.array([4, 0, 2])


def unit(maps):
    """Each map over its maximum, as tf-keras-vis' oracles and ours differ by a positive factor a map."""
    return maps / maps.max(axis=(1, 2), keepdims=True)


def oracle(model, images, classes, layer, explainer):
    """tf-keras-vis as documented: the full model, its logits, and back-propagation through all of it."""
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    maps = explainer(to_logits, clone=False)(
        lambda output: tf.gather(output, classes, batch_dims=1),
        tf.constant(images[..., None], tf.float32),
        penultimate_layer=layer,
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    return np.asarray(maps)


def test_equal_to_tf_keras_vis_on_the_full_model(case):
    model, images, classes = case
    layer = models.target_layer(model, "penultimate")
    ours = attribution.attribute(model, images, classes, layer="penultimate", batch_size=2)
    for name, explainer in (("layercam", Layercam), ("gradcampp", GradcamPlusPlus)):
        theirs = oracle(model, images, classes, layer, explainer)
        assert ours[name].shape == theirs.shape and ours[name].dtype == np.float32
        assert theirs.max(axis=(1, 2)).min() > 0, "the oracle's maps must not be empty"
        np.testing.assert_allclose(unit(ours[name]), unit(theirs), atol=1e-5)


def test_methods_are_the_same_map_at_final_and_not_before(case):
    model, images, classes = case
    if min(model.get_layer("pool").input.shape[1:3]) < models.MIN_GRID:
        spec_final = models.ARCHITECTURES[model.name].final
        with pytest.raises(InputError, match=f"'{spec_final}' of {model.name} is .* needs at least 4x4"):
            attribution.attribute(model, images, classes, layer="final")
        model = models.build(model.name, n_classes=N_CLASSES, image_size=192)
        images = images.repeat(2, 1).repeat(2, 2)[:, :192, :192]
    final = attribution.attribute(model, images, classes, layer="final")
    np.testing.assert_allclose(unit(final["layercam"]), unit(final["gradcampp"]), atol=1e-5)
    earlier = attribution.attribute(model, images, classes, layer="penultimate")
    assert np.abs(unit(earlier["layercam"]) - unit(earlier["gradcampp"])).max() > 1e-3


def test_layercam_by_hand():
    # two channels on a 2x2 grid
    a = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 4.0]]], np.float32)[None]
    g = np.array([[[1.0, -1.0], [0.5, 2.0]], [[-3.0, 1.0], [-1.0, -1.0]]], np.float32)[None]
    expected = [[1 * 1 + 0, 3 * 0.5 + 0], [0 + 1, 0]]
    np.testing.assert_allclose(attribution.layercam(tf.constant(a), tf.constant(g))[0], expected)


def test_layercam_is_rectified_where_activations_are_negative():
    a = tf.constant(-np.ones((1, 4, 4, 2), np.float32))
    assert attribution.layercam(a, tf.ones_like(a)).max() == 0


def test_gradcampp_by_hand():
    # one channel, alphas from equation 19 with exp(score) = 1: alpha = g^2 / (2 g^2 + g^3 * sum A), then over
    # their sum; weight = sum alpha * relu(g); map = relu(weight * A)
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    g = np.array([[1.0, 0.5], [0.0, 2.0]])
    alpha = np.divide(g**2, 2 * g**2 + g**3 * a.sum(), out=np.zeros_like(g), where=g != 0)
    weight = (alpha / alpha.sum() * np.maximum(g, 0)).sum()
    arrays = (tf.constant(v.astype(np.float32)[None, ..., None]) for v in (a, g))
    np.testing.assert_allclose(attribution.gradcampp(*arrays)[0], weight * a, rtol=1e-5)


@pytest.mark.parametrize("shift", [500.0, -500.0])
def test_large_logits_neither_overflow_nor_vanish(shift):
    keras.utils.set_random_seed(0)
    model = models.build("CompactInception", n_classes=2, image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    before = attribution.attribute(model, images, np.array([0, 1]), layer="penultimate")
    model.get_layer("logits").bias.assign_add([shift, shift])
    after = attribution.attribute(model, images, np.array([0, 1]), layer="penultimate")
    for name in METHODS:
        assert before[name].max() > 0
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)


def test_batch_size_does_not_matter_and_the_last_batch_does_not_retrace():
    keras.utils.set_random_seed(0)
    model = models.build("CompactResNetV2", n_classes=N_CLASSES, image_size=96)
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    classes = np.array([4, 0, 2])
    whole = attribution.attribute(model, images, classes, layer="penultimate", batch_size=3)
    for name, maps in attribution.attribute(model, images, classes, layer="penultimate", batch_size=2).items():
        np.testing.assert_allclose(maps, whole[name], rtol=1e-3, atol=1e-6 * whole[name].max())
    compute = attribution.activations_and_gradients(model, models.target_layer(model, "penultimate"))
    for n in (3, 2):
        compute(tf.constant(images[:n, ..., None], tf.float32), tf.constant(classes[:n], tf.int32))
    assert compute.experimental_get_tracing_count() == 1


def test_works_on_a_model_that_is_not_trainable():
    inputs = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 3, strides=4, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Softmax()(layers.Dense(2, name="logits")(x))
    model = keras.Model(inputs, outputs)
    model.trainable = False
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
    assert attribution.attribute(model, images, np.array([0]), layer="conv")["layercam"].shape == (1, 8, 8)


def test_bad_input():
    model = models.build("CompactResNetV2", n_classes=2, image_size=64)
    images = np.zeros((1, 64, 64), np.uint8)
    with pytest.raises(InputError, match="method: unknown gradcam3: use layercam, gradcampp"):
        attribution.attribute(model, images, np.array([0]), layer="penultimate", methods=["gradcam3"])
    with pytest.raises(InputError, match="no layer 'conv4_block3_ou'.*such as conv4_block3_out"):
        attribution.attribute(model, images, np.array([0]), layer="conv4_block3_ou")
    with pytest.raises(InputError, match="has no feature map"):
        attribution.attribute(model, images, np.array([0]), layer="pool")
    with pytest.raises(InputError, match="no image"):
        attribution.attribute(model, images[:0], np.array([], int), layer="penultimate")
