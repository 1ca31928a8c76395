"""What a foreign model does to an image before its first weights: values, positions, precision."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from cxr.attribution import explaining
from cxr.core.errors import InputError
from cxr.models import foreign

SIDE = 96


def network(*first, between=(), channels=1, name="theirs"):
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, channels)),
            *first,
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            *between,
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ],
        name=name,
    )


def unit():
    return layers.Rescaling(1 / 255)


def adapted_to(low, high):
    layer = layers.Normalization(axis=None)
    layer.adapt(np.random.default_rng(0).uniform(low, high, (4, SIDE, SIDE, 1)))
    return layer


# --- values


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg_small", "densenet_mine", "mobilenetv2_mine", "EfficientNetLike"]
)
def test_a_name_alone_says_nothing(name):
    inner = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Conv2D(3, 3, name="conv1_conv")], name=name)
    theirs = keras.Sequential([inner, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    with pytest.raises(InputError, match="does not show what it expects: say so"):
        foreign.adapt(theirs)


def test_layers_that_only_some_of_a_family_have_say_nothing():
    """A ResNet34 with Keras' names has conv5_block3_out, but not the layers of a ResNet50."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for name in ("conv1_conv", "conv2_block1_1_conv", "conv5_block3_2_conv"):
        x = layers.Conv2D(4, 3, padding="same", name=name)(x)
    x = layers.ReLU(name="conv5_block3_out")(x)
    with pytest.raises(InputError, match="does not show what it expects"):
        foreign.adapt(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), name="resnet50"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0"])
def test_a_network_without_its_preprocessing_has_to_be_asked(name):
    base = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), include_preprocessing=False
    )
    theirs = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    with pytest.raises(InputError, match="does not show what it expects"):
        foreign.adapt(theirs)
    with pytest.raises(InputError, match=f"{name} of keras.applications begins with Rescaling, and .* does not"):
        foreign.adapt(theirs, preprocessing=name)
    assert foreign.adapt(theirs, preprocessing="tf").adapted.preprocessing == "tf"


@pytest.mark.parametrize("name", ["resnet_v2", "mobilenet_v3", "resnet18"])
def test_only_names_of_classifiers_name_a_preprocessing(name):
    with pytest.raises(InputError, match=f"preprocessing: unknown '{name}'"):
        foreign.adapt(network(channels=3), preprocessing=name)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (
            lambda: adapted_to(0, 1),
            "'normalization.* makes .* of grey values of 0 to 255, so the model expects other",
        ),
        (lambda: adapted_to(-1, 1), "expects other values"),
        (lambda: adapted_to(0, 65535), "expects other values"),
        (lambda: adapted_to(0, 4095), "expects other values"),
        (lambda: layers.Normalization(axis=None), "expects other values"),  # never adapted
        (lambda: layers.Rescaling(255.0), "'rescaling.* expects other values"),
        (lambda: layers.Rescaling(1 / 65535), "expects other values"),
        (lambda: adapted_to(0, 255), ""),
        (lambda: layers.Rescaling(1 / 127.5, -1), ""),
    ],
)
def test_own_preprocessing_has_to_be_for_grey_values(first, said):
    theirs = network(first())
    if said:
        with pytest.raises(InputError, match=said):
            foreign.adapt(theirs)
    assert foreign.adapt(theirs, **({"preprocessing": "unit"} if said else {})).adapted.preprocessing in (
        "none",
        "unit",
    )
    if said:  # the user's word counts
        assert foreign.adapt(theirs, preprocessing="none").adapted.preprocessing_why == "as given"


# --- positions


def functional(change):
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(change(unit()(inputs)))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), name="theirs")


MOVING = {
    "CenterCrop": lambda: network(unit(), layers.CenterCrop(64, 64)),
    "Cropping2D": lambda: network(unit(), layers.Cropping2D(8)),
    "Cropping2D of one side": lambda: network(unit(), layers.Cropping2D(((10, 0), (0, 0)))),
    "ZeroPadding2D": lambda: network(unit(), layers.ZeroPadding2D(16)),
    "Resizing that crops": lambda: network(unit(), layers.Resizing(64, 32, crop_to_aspect_ratio=True)),
    "Resizing that pads": lambda: network(unit(), layers.Resizing(64, 32, pad_to_aspect_ratio=True)),
    "RandomCrop": lambda: network(unit(), layers.RandomCrop(64, 64)),
    "Permute": lambda: network(unit(), layers.Permute((2, 1, 3))),
    "Cropping2D behind weights": lambda: network(unit(), between=[layers.Cropping2D(8)]),
    "ZeroPadding2D behind weights": lambda: network(unit(), between=[layers.ZeroPadding2D(8)]),
    "slice": lambda: functional(lambda x: x[:, 16:-16, 16:-16]),
    "pad": lambda: functional(lambda x: ops.pad(x, ((0, 0), (20, 0), (0, 0), (0, 0)))),
    "flip": lambda: functional(lambda x: ops.flip(x, axis=2)),
    "roll": lambda: functional(lambda x: ops.roll(x, 20, axis=1)),
    "crop_images": lambda: functional(lambda x: ops.image.crop_images(x, 8, 8, 16, 16)),
}
STAYING = {
    "nothing": lambda: network(unit()),
    "Resizing": lambda: network(unit(), layers.Resizing(64, 64)),
    "Resizing to another shape": lambda: network(unit(), layers.Resizing(64, 32)),
    "enlarging": lambda: network(unit(), layers.Resizing(128, 128)),
    "UpSampling2D": lambda: network(unit(), layers.UpSampling2D(2)),
    "augmentation": lambda: network(
        unit(), layers.RandomFlip(name="turned"), layers.RandomZoom(0.2), layers.RandomTranslation(0.2, 0.2)
    ),
    "a border for a convolution": lambda: network(
        unit(), layers.ZeroPadding2D(3), layers.Conv2D(3, 7, padding="valid")
    ),
    "image.resize": lambda: functional(lambda x: ops.image.resize(x, (64, 64))),
    "abs": lambda: functional(ops.abs),
}


@pytest.mark.parametrize("name", MOVING)
def test_layers_that_move_pixels_are_refused_by_name(name):
    with pytest.raises(
        InputError, match=r"^'\w+' \(\w+\) of theirs moves pixels: maps would be laid over"
    ) as error:
        foreign.adapt(MOVING[name]())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", STAYING)
def test_layers_that_leave_pixels_where_they_are_pass(name):
    assert foreign.adapt(STAYING[name]()).adapted.preprocessing == "none"


# --- precision


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_models_of_other_precisions_are_explained_in_float32(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(1)
        theirs = network(unit())
        ours = foreign.adapt(theirs)
    finally:
        keras.config.set_dtype_policy(before)
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE), np.uint8)
    grey = images[..., None].astype(np.float32)
    np.testing.assert_allclose(ours(grey), np.asarray(theirs(grey), np.float32), atol=0.02)
    assert {layer.compute_dtype for layer in ours.layers[1:]} == {"float32"}
    methods = [
        "gradcampp",
        "gradcampp_authors",
        "layercam",
        "gradcam",
        "hirescam",
        "integrated_gradients",
        "occlusion",
    ]
    found = explaining.attribute(ours, images, np.array([0, 1]), layer="final", methods=methods)
    assert {maps.dtype for maps in found.values()} == {np.dtype(np.float32)}
    keras.utils.set_random_seed(1)
    plain = foreign.adapt(network(unit()))
    plain.set_weights([np.asarray(weight, np.float32) for weight in ours.get_weights()])
    same = explaining.attribute(plain, images, np.array([0, 1]), layer="final", methods=methods)
    for name in methods:
        np.testing.assert_allclose(found[name], same[name], rtol=1e-4, atol=1e-6)
