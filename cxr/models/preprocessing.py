"""How a network expects the values of an image, and the layer that makes them so."""

from __future__ import annotations

import difflib

import keras
import numpy as np
from keras import layers

from cxr.core.errors import InputError
from cxr.models.flatten import models_within, operations
from cxr.models.graph import has_weights

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
# What each mode makes of grey values in [0, 255]: `scale * grey + offset`, with one number or one for each
# channel. `caffe` also swaps red and blue, which makes no difference to three equal channels; its means are of
# blue, green, red.
PREPROCESSING: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((1.0,), (0.0,)),
    "tf": ((1 / 127.5,), (-1.0,)),
    "torch": (tuple(1 / (255 * _IMAGENET_STD)), tuple(-_IMAGENET_MEAN / _IMAGENET_STD)),
    "caffe": ((1.0,) * 3, (-103.939, -116.779, -123.68)),
    "unit": ((1 / 255,), (0.0,)),
}
# Families of keras.applications: how the name begins (the first that fits counts), the mode of its
# `preprocess_input`, and names of layers that identify the family if no model in the graph has its name.
_FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ConvNeXt", "none", ()),  # it preprocesses itself, as the other two of "none" do
    ("DenseNet", "torch", ("conv1_relu", "conv5_block1_concat", "pool4_relu")),
    ("EfficientNet", "none", ("stem_activation", "block6a_expand_conv", "top_activation")),
    ("InceptionResNetV2", "tf", ("mixed_7a", "conv_7b_ac")),
    ("InceptionV3", "tf", ("mixed3", "mixed10")),
    ("MobileNetV3", "none", ("conv_bn", "expanded_conv_project_bn")),
    ("MobileNetV2", "tf", ("block_13_expand_relu", "out_relu")),
    ("MobileNet", "tf", ("conv_dw_1_relu", "conv_pw_13_relu")),
    ("NASNet", "tf", ("stem_conv1", "stem_bn1")),
    ("ResNet50V2", "tf", ("conv2_block1_preact_relu", "post_relu")),
    ("ResNet101V2", "tf", ()),
    ("ResNet152V2", "tf", ()),
    ("ResNet", "caffe", ("conv1_relu", "conv5_block3_out")),
    ("VGG", "caffe", ("block1_conv1", "block5_conv3", "block5_pool")),
    ("Xception", "tf", ("block1_conv1_act", "block14_sepconv2_act")),
)
_PREPROCESSES = (layers.Rescaling, layers.Normalization)
_ARITHMETIC = {"TrueDivide", "Divide", "Subtract", "Multiply", "Add", "BiasAdd"}


def preprocessing_layer(mode: str) -> keras.Layer:
    """The layer `preprocessing` for a key of PREPROCESSING."""
    scale, offset = (values[0] if len(values) == 1 else list(values) for values in PREPROCESSING[mode])
    return layers.Rescaling(scale, offset, name="preprocessing")


def find_preprocessing(model: keras.Model) -> tuple[str, str]:
    """How `model` expects the values of an image (a key of PREPROCESSING), and why.

    `none`, if the model begins with Rescaling, Normalization or arithmetic (`preprocess_input(x)` in a model
    leaves arithmetic). Otherwise the mode of the classifier of keras.applications that it holds, which is
    recognised by the names of models or layers. Raises InputError if nothing is recognised, since a guess could be
    wrong.
    """
    names = set()
    for op in operations(model):
        if isinstance(op, _PREPROCESSES):
            return "none", f"the model does that itself ({type(op).__name__} '{op.name}')"
        if not isinstance(op, keras.Layer) and type(op).__name__ in _ARITHMETIC:
            return "none", f"the model does that itself (it begins with {type(op).__name__})"
        if has_weights(op):
            break
    for nested in models_within(model):
        if (family := family_of(nested.name)) is not None:
            return family[1], f"of keras.applications.{family[0]}* by the name of the model '{nested.name}'"
    names = {op.name for op in operations(model)}
    for family, mode, signs in _FAMILIES:
        if signs and names.issuperset(signs):
            return mode, f"of keras.applications.{family}* by the names of layers such as '{signs[-1]}'"
    raise InputError(
        f"preprocessing: {model.name} does not show what it expects: say so, as one of {', '.join(PREPROCESSING)} "
        "(none: it takes grey values of 0 to 255; tf: -1 to 1; unit: 0 to 1), or as the name of a classifier of "
        "keras.applications"
    )


def family_of(name: str) -> tuple[str, str] | None:
    """The family of keras.applications that a name belongs to, and the family's mode of preprocessing.

    The name is that of a classifier, or the one that Keras gives its model:
    MobileNetV2 and mobilenetv2_1.00_224 both give (MobileNetV2, tf). None if the name belongs to no family.
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next(((family, mode) for family, mode, _ in _FAMILIES if plain.startswith(family.lower())), None)


def given(preprocessing: str) -> tuple[str, str]:
    if preprocessing in PREPROCESSING:
        return preprocessing, "as given"
    if hasattr(keras.applications, preprocessing) and (family := family_of(preprocessing)) is not None:
        return family[1], f"of keras.applications.{preprocessing}"
    known = [*PREPROCESSING, *(n for n in dir(keras.applications) if n[0].isupper())]
    close = difflib.get_close_matches(preprocessing, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"use auto, {', '.join(PREPROCESSING)} or"
    raise InputError(
        f"preprocessing: unknown '{preprocessing}': {hint}"
        + ("" if close else " the name of a classifier of keras.applications")
    )
