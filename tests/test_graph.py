import importlib
import inspect
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from cxr.attribution import explaining
from cxr.core import architectures
from cxr.core.errors import InputError
from cxr.models import flatten, foreign, graph
from cxr.models import preprocessing as models_preprocessing

SIDE = 24


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def image(channels=3, side=SIDE):
    return keras.Input((side, side, channels))


def backbone(name="backbone", channels=3):
    """24 -> 12 -> 6, its last map rectified, statistics that are not those of a new layer."""
    inputs = image(channels)
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(name="down1")(x)
    x = layers.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    model = keras.Model(inputs, x, name=name)
    bn = model.get_layer("bn")
    bn.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in bn.get_weights()])
    return model


def nested(*head, preprocessing=True):
    return keras.Sequential(
        [image(), *([layers.Rescaling(1 / 255)] if preprocessing else []), backbone(), *head], name="theirs"
    )


def grey(n=3, side=SIDE):
    return np.random.default_rng(0).uniform(0, 255, (n, side, side, 1)).astype(np.float32)


def reload(model, tmp_path):
    model.save(tmp_path / "x.keras")
    return keras.models.load_model(tmp_path / "x.keras", safe_mode=True)


HEADS = {
    "softmax": ([layers.Dense(3, activation="softmax")], "Dense(3, softmax)"),
    "activation": ([layers.Dense(3), layers.Activation("softmax")], "Dense(3, linear) + Activation(softmax)"),
    "layer": ([layers.Dense(3), layers.Softmax()], "Dense(3, linear) + Softmax(softmax)"),
    "hidden": ([layers.Dense(4, activation="relu"), layers.Dense(3, activation="softmax")], "Dense(3, softmax)"),
    "no bias": ([layers.Dense(3, use_bias=False, activation="softmax")], "Dense(3, softmax)"),
    "logits": ([layers.Dense(3)], "Dense(3, linear)"),
    "multi-label": ([layers.Dense(3, activation="sigmoid")], "Dense(3, sigmoid)"),
    "binary": ([layers.Dense(1, activation="sigmoid")], "Dense(1, sigmoid): one logit z as two, -z/2 and z/2"),
    "binary logit": ([layers.Dense(1)], "Dense(1, linear): one logit z as two, -z/2 and z/2"),
}


@pytest.mark.parametrize("head", HEADS)
def test_adapted_gives_the_same_probabilities(head, tmp_path):
    tops, found = HEADS[head]
    theirs = nested(layers.GlobalAveragePooling2D(), *(type(top).from_config(top.get_config()) for top in tops))
    ours = foreign.adapt(theirs)
    want = theirs(grey().repeat(3, -1))
    if head == "logits":
        want = tf.nn.softmax(want).numpy()
    if head.startswith("binary"):
        want = want if head == "binary" else tf.sigmoid(want).numpy()
        want = np.concatenate([1 - want, want], axis=1)
    np.testing.assert_allclose(ours(grey()), want, atol=1e-6)
    assert ours.adapted.head == found and ours.adapted.multi_label == (head == "multi-label")
    assert ours.adapted.preprocessing == "none" and "Rescaling" in ours.adapted.preprocessing_why
    assert ours.input_shape == (None, SIDE, SIDE, 1) and ours.output_names == ["probabilities"]
    assert not [layer for layer in ours.layers if isinstance(layer, keras.Model)]
    names = [layer.name for layer in ours.layers]
    assert names[:3] == ["image", "grey_to_rgb", "preprocessing"] and names[-2:] == ["logits", "probabilities"]
    again = reload(ours, tmp_path)
    np.testing.assert_array_equal(again(grey()), ours(grey()))
    assert graph.target_layers(again) == graph.target_layers(ours)


def test_maps_are_those_of_the_original():
    theirs = nested(layers.GlobalAveragePooling2D(), layers.Dense(4, activation="relu"), layers.Dense(2))
    classes = np.array([0, 1, 1])
    got = explaining.attribute(
        foreign.adapt(theirs), grey()[..., 0], classes, layer="conv2", methods=["layercam", "gradcam"]
    )
    rescaling, body, *head = theirs.layers  # the tape's own route, by the nested model's parts
    activations = body(rescaling(grey().repeat(3, -1)))
    with tf.GradientTape() as tape:
        tape.watch(activations)
        x = activations
        for layer in head:
            x = layer(x)
        score = tf.gather(x, classes, batch_dims=1) - tf.gather(x, 1 - classes, batch_dims=1)  # log-odds
    gradient = tape.gradient(score, activations)
    layercam = tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradient) * activations, -1))
    weights = tf.reduce_mean(gradient, (1, 2), keepdims=True)
    np.testing.assert_allclose(got["layercam"], layercam, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        got["gradcam"], tf.nn.relu(tf.reduce_sum(weights * activations, -1)), rtol=1e-4, atol=1e-7
    )


@given(st.lists(st.integers(0, 7), max_size=4))
@settings(max_examples=4)
def test_however_a_chain_is_nested_it_is_the_same_flat_graph(cuts):
    keras.utils.set_random_seed(0)
    chain = [
        layers.Rescaling(1 / 255, name="r"),
        layers.Conv2D(3, 3, name="a"),
        layers.ReLU(name="b"),
        layers.MaxPooling2D(name="c"),
        layers.Conv2D(4, 3, name="d"),
        layers.Flatten(name="e"),
        layers.Dense(2, activation="softmax", name="f"),
    ]
    plain = keras.Sequential([image(1, 12), *chain])
    parts = plain.layers
    for number, cut in enumerate(sorted(cuts)):
        if 0 < cut < len(parts):  # the first `cut` of them become a model, which may hold models already
            inner = keras.Sequential([image(1, 12), *parts[:cut]], name=f"part{number}")
            parts = [inner, *parts[cut:]]
    theirs = keras.Sequential([image(1, 12), *parts])
    flat = flatten.flatten(theirs)
    assert [layer.name for layer in flat.layers][1:] == [layer.name for layer in chain]
    np.testing.assert_allclose(flat(grey(side=12)), plain(grey(side=12)), atol=1e-6)
    assert graph.target_layers(foreign.adapt(theirs)) == graph.target_layers(foreign.adapt(plain))


def test_shared_layers_several_inputs_and_equal_names():
    conv = layers.Conv2D(3, 3, padding="same", name="conv1")
    twice = keras.Sequential([image(), conv, layers.ReLU(), conv], name="twice")
    a, b = image(), image()
    merge = keras.Model({"a": a, "b": b}, {"sum": a + b, "other": layers.Concatenate()([a, b])}, name="merge")
    inputs = image()
    left, right = backbone("left"), backbone("right")
    merged = merge({"a": twice(inputs), "b": twice(twice(inputs))})
    x = layers.Add()([left(merged["sum"]), right(inputs), left(inputs)])
    theirs = keras.Model(inputs, [layers.Flatten()(x), merged["other"]])
    flat = flatten.flatten(theirs)
    assert not [layer for layer in flat.layers if isinstance(layer, keras.Model)]
    assert flat.count_params() == theirs.count_params(), "a shared layer is one layer still"
    rgb = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    for ours, want in zip(flat(rgb), theirs(rgb), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-5)
    names = {layer.name for layer in flat.layers}
    assert {"conv1", "left_conv1", "right_conv1"} <= names
    assert names == {layer.name for layer in flatten.flatten(theirs).layers}, "names are the same every time"
    assert {layer.name for layer in theirs.layers} >= {"left", "right"}, "the original is as it was"


def test_state_augmentation_and_own_statistics_come_along(tmp_path):
    normalise = layers.Normalization()
    normalise.adapt(np.random.default_rng(0).normal(100, 30, (4, SIDE, SIDE, 1)))
    augment = keras.Sequential([image(1), layers.RandomFlip(), layers.RandomRotation(0.1)], name="augment")
    inner = keras.Sequential([image(1), normalise, layers.Conv2D(3, 3, activation="relu")], name="inner")
    inner.trainable = False
    inputs = image(1)
    x = layers.GlobalAveragePooling2D()(inner(augment(inputs), training=False))
    theirs = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(x)))
    ours = foreign.adapt(theirs)
    want = tf.nn.softmax(theirs(grey(), training=False)).numpy()
    np.testing.assert_allclose(ours(grey(), training=False), want, atol=1e-6)
    np.testing.assert_allclose(reload(ours, tmp_path)(grey(), training=False), want, atol=1e-6)
    assert all(layer.trainable for layer in ours.layers)
    assert "random_flip" in {layer.name for layer in ours.layers}


@pytest.mark.parametrize("name", architectures.APPLICATIONS)
def test_preprocessing_of_every_application_is_that_of_its_own_module(name):
    module = sys.modules[getattr(keras.applications, name).__module__]
    _, mode = models_preprocessing.family_of(name)
    rgb = grey().repeat(3, -1)
    np.testing.assert_allclose(
        models_preprocessing.preprocessing_layer(mode)(rgb),
        module.preprocess_input(rgb.copy()),
        rtol=1e-5,
        atol=1e-4,
    )


def test_names_and_hashes_are_those_of_keras():
    names = {name for name in dir(keras.applications) if name[0].isupper()}
    assert names == set(architectures.APPLICATIONS)
    modules = {sys.modules[getattr(keras.applications, name).__module__] for name in names}
    modules.add(importlib.import_module("keras.src.applications.resnet"))
    source = "".join(map(inspect.getsource, modules))
    for weights in architectures.APPLICATIONS.values():
        assert weights.hash in source  # "" too, of the two MobileNets that Keras knows no hash of
        assert weights.url.startswith("https://storage.googleapis.com/") and weights.url.endswith(".h5")


class Asked(Exception):
    """Instead of a download."""


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("EfficientNetB0", "VGG16")),
    ],
)
def test_files_of_weights_are_those_that_keras_asks_for(name, monkeypatch):
    def get_file(fname, origin, **options):
        raise Asked(fname, origin, options.get("file_hash"))

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(Asked) as asked:
        getattr(keras.applications, name)(include_top=False, weights="imagenet", input_shape=(64, 64, 3))
    weights = architectures.APPLICATIONS[name]
    assert asked.value.args == (weights.file, weights.url, weights.hash or None)


def headed(base, *, prepare=None):
    inputs = image(3, base.input_shape[1])
    x = base(prepare(inputs) if prepare else inputs, training=False)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


# preprocessing, and target layers with their grids, at 96 px (NASNetMobile: 224)
APPLICATIONS = {
    "MobileNetV2": ("tf", "block_6_expand_relu", 12, "block_13_expand_relu", 6, "out_relu", 3),
    "MobileNetV3Small": ("none", "activation_1", 12, "activation_11", 6, "activation_17", 3),
    "EfficientNetB0": (
        "none", "block4a_expand_activation", 12, "block6a_expand_activation", 6, "top_activation", 3,
    ),
    "VGG16": ("caffe", "block4_conv3", 12, "block5_conv3", 6, "block5_pool", 3),
    "Xception": ("tf", "block4_sepconv1_act", 12, "block13_sepconv1_act", 6, "block14_sepconv2_act", 3),
    "ConvNeXtTiny": (
        "none", "convnext_tiny_downsampling_layernorm_1", 12, "convnext_tiny_downsampling_layernorm_2", 6,
        "layer_normalization", 3,
    ),
    "NASNetMobile": ("tf", "activation_70", 28, "activation_129", 14, "activation_187", 7),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["MobileNetV2", *(pytest.param(n, marks=pytest.mark.slow) for n in list(APPLICATIONS)[1:])]
)
def test_applications_inside_a_model(name, tmp_path):
    mode, *rest = APPLICATIONS[name]
    keras.utils.clear_session(free_memory=False)
    side = 224 if name == "NASNetMobile" else 96
    base = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(side, side, 3))
    theirs = headed(base)
    ours = foreign.adapt(theirs)
    assert ours.adapted.preprocessing == mode
    found = graph.targets(ours)
    got = [
        part for key in ("shallower", "penultimate", "final") for part in (found[key].layer, found[key].grid[0])
    ]
    assert got == rest
    assert graph.feeds_pooling(ours, rest[-2]) and not graph.feeds_pooling(ours, rest[2])
    rgb = keras.Model(ours.input, ours.get_layer("preprocessing").output)(grey(1, side))
    probabilities = ours(grey(1, side))
    np.testing.assert_allclose(probabilities, theirs(rgb), atol=1e-6)
    if name in ("MobileNetV2", "ConvNeXtTiny"):  # the second has layers that Keras' module of it registers
        np.testing.assert_array_equal(reload(ours, tmp_path)(grey(1, side)), probabilities)
    # flat, as tutorials that end a network by itself have it: known by its layers
    if name not in ("NASNetMobile", "ConvNeXtTiny"):
        top = layers.Dense(2)(layers.GlobalAveragePooling2D()(base.output))
        assert models_preprocessing.find_preprocessing(keras.Model(base.input, top))[0] == mode


@pytest.mark.parametrize("module", ["mobilenet_v2", "vgg16", "densenet"])
def test_preprocess_input_inside_is_found_and_kept(module, tmp_path):
    prepare = getattr(keras.applications, module).preprocess_input
    theirs = headed(backbone(), prepare=prepare)
    ours = foreign.adapt(theirs)
    assert ours.adapted.preprocessing == "none" and "arithmetic" not in ours.adapted.preprocessing_why
    want = theirs(grey().repeat(3, -1))
    np.testing.assert_allclose(ours(grey()), want, atol=1e-6)
    np.testing.assert_allclose(reload(ours, tmp_path)(grey()), want, atol=1e-6)


# ------------------------------------------------------------------------------------- target layers by the graph


def classifier(x, inputs, pool=layers.GlobalAveragePooling2D):
    return foreign.adapt(keras.Model(inputs, layers.Dense(2)(pool()(x))), preprocessing="unit")


def test_targets_of_a_plain_network_that_flattens():
    inputs = image(1, 48)
    x = inputs
    for width in (2, 3, 4):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{width}")(x)
        x = layers.MaxPooling2D(name=f"pool{width}")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    model = classifier(x, inputs, layers.Flatten)
    assert graph.target_layers(model) == {
        "shallower": "conv3",
        "penultimate": "conv4",
        "penultimate_cut": "conv4",
        "last_conv": "conv4",
        "final": "pool4",
    }
    assert not graph.feeds_pooling(model, "pool4") and graph.head_input(model).shape == (None, 6 * 6 * 4)
    assert graph.targets(model)["final"].why == "the last feature map"


def mean_of_whole_grid():
    return lambda x: layers.Flatten()(layers.AveragePooling2D(12)(x))


def two_pools():
    return lambda x: layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


@pytest.mark.parametrize(
    ("pool", "feeds", "width"),
    [
        (layers.GlobalAveragePooling2D, True, 3),
        (lambda: lambda x: keras.ops.mean(x, axis=(1, 2)), True, 3),
        (lambda: lambda x: layers.GlobalAveragePooling2D()(layers.Dropout(0.1)(x)), True, 3),
        (mean_of_whole_grid, True, 3),
        (lambda: lambda x: layers.Flatten()(layers.AveragePooling2D(4)(x)), False, 27),
        (layers.GlobalMaxPooling2D, False, 3),
        (layers.Flatten, False, 432),
        (two_pools, False, 6),
    ],
)
def test_what_stands_behind_the_last_feature_map(pool, feeds, width):
    inputs = image(1)
    x = layers.Conv2D(2, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(3, 3, strides=2, padding="same", activation="relu", name="last")(x)
    model = classifier(x, inputs, pool)
    final = graph.target_layers(model)["final"]
    assert final.startswith("average_pooling2d" if width == 27 else "last")
    assert graph.feeds_pooling(model, "last") == feeds and graph.head_input(model).shape == (None, width)
    maps = explaining.attribute(model, grey()[..., 0], np.array([0, 1, 0]), layer="last")
    scaled = [m / np.maximum(m.max((1, 2), keepdims=True), 1e-12) for m in maps.values()]
    assert np.allclose(*scaled, atol=1e-4) == feeds, "where it says so, and only there, both methods coincide"


def test_a_residual_sum_gives_way_to_its_rectified_successor_and_streams_have_no_cut():
    inputs = image(1)
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.ReLU(name="preact")(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, strides=2, padding="same")(y)
    x = layers.Add(name="sum")([layers.MaxPooling2D(1, strides=2)(x), y])
    model = classifier(layers.ReLU(name="post")(x), inputs)
    found = graph.targets(model)
    assert (found["penultimate"].layer, found["penultimate_cut"].layer) == ("preact", "stem")
    assert "shortcuts bypass it" in found["penultimate"].why and "either sign" in found["penultimate_cut"].why

    a, b = (layers.Conv2D(3, 3, padding="same", activation="relu", name=f"{k}1")(inputs) for k in "ab")
    a = layers.Add(name="mixed")([a, b])
    a, b = (layers.Conv2D(3, 3, strides=2, activation="relu", name=f"{k}2")(x) for k, x in (("a", a), ("b", b)))
    found = graph.targets(classifier(layers.Concatenate(name="end")([a, b]), inputs))
    assert found["penultimate"].layer == "mixed" and "has no cut" in found["penultimate"].why
    assert "penultimate_cut" not in found and found["final"].layer == "end"


# ------------------------------------------------------------------------------------- what is refused


class Subclassed(keras.Model):
    def call(self, x):
        return x


def conv_head():
    return nested(layers.Conv2D(3, 1), layers.GlobalAveragePooling2D(), layers.Softmax())


def two_inputs():
    a, b = image(), image()
    return keras.Model([a, b], layers.Dense(2)(layers.Flatten()(layers.Add()([a, b]))))


GAP = layers.GlobalAveragePooling2D


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Subclassed(name="sub"), {}, "sub is a Subclassed with a `call` of its own.*functional API"),
        (lambda: keras.Sequential([layers.Dense(2)], name="s"), {}, "s has no input yet"),
        (
            lambda: nested(layers.Lambda(lambda x: x), GAP(), layers.Dense(2)),
            {},
            "'lambda.*' of theirs is a Lambda",
        ),
        (lambda: nested(), {}, r"theirs ends without a head \('conv2'\): say how many classes"),
        (conv_head, {}, "theirs ends with 'softmax.*not with logits of a Dense layer"),
        (lambda: nested(GAP(), layers.Dense(2, activation="relu")), {}, "'dense.*' .Dense., not with logits"),
        (lambda: nested(GAP(), layers.Dense(1, activation="softmax")), {}, "one class, which is always 1"),
        (lambda: nested(GAP(), layers.Dense(3)), {"classes": 2}, "theirs is for 3 classes, and there are to be 2"),
        (lambda: nested(GAP(), layers.Dense(3), preprocessing=False), {}, "theirs does not show what it expects"),
        (lambda: nested(GAP(), layers.Dense(3)), {"preprocessing": "VGG61"}, "unknown 'VGG61': did you mean VGG1"),
        (lambda: nested(GAP(), layers.Dense(3)), {"preprocessing": "qqq"}, "unknown 'qqq': use auto, none, tf"),
        (lambda: nested(GAP(), layers.Dense(3)), {"image_size": 32}, "takes images of 24x24, not image_size 32"),
        (two_inputs, {}, "has 2 inputs"),
        (
            lambda: keras.Sequential([image(4), layers.Flatten(), layers.Dense(2)], name="s"),
            {"preprocessing": "none"},
            "s takes .None, 24, 24, 4.: it has to take images .* of 1 or 3 channels",
        ),
        (
            lambda: keras.Sequential([keras.Input((None, None, 3)), GAP(), layers.Dense(2)], name="s"),
            {"preprocessing": "none"},
            "s takes images of any size: say which with image_size",
        ),
        (
            lambda: keras.Sequential([image(1), layers.Flatten(), layers.Dense(2)], name="s"),
            {"preprocessing": "caffe"},
            "caffe is for three channels, and s takes one",
        ),
    ],
)
def test_what_cannot_be_adapted_is_told_on_one_line(make, options, message):
    with pytest.raises(InputError, match=message) as error:
        foreign.adapt(make(), **options)
    assert "\n" not in str(error.value)


def test_an_open_size_and_a_network_of_vectors():
    base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(3, 3, strides=2), GAP(), layers.Dense(2)])
    ours = foreign.adapt(base, preprocessing="unit", image_size=32)
    assert ours.input_shape == (None, 32, 32, 1) and graph.targets(ours)["final"].grid == (15, 15)
    flat = foreign.adapt(keras.Sequential([image(1), layers.Flatten(), layers.Dense(2)]), preprocessing="unit")
    with pytest.raises(InputError, match="has no feature map that all paths to its logits go through"):
        graph.targets(flat)
    with pytest.raises(InputError, match="has no layer 'logits': make it with cxr.models.foreign.adapt"):
        graph.targets(backbone())
