"""How a network expects the values of an image, and the layer that makes them so."""

from __future__ import annotations

import difflib
import functools
import random
import re
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from cxr.core.errors import InputError
from cxr.models.flatten import operations
from cxr.models.graph import has_weights, ordered

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
# Families of keras.applications: how the names of its classifiers begin (the first that fits counts), the mode of
# its `preprocess_input`, and classifiers such that each of the family has all layers of one of them.
_FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ConvNeXt", "none", ()),  # it preprocesses itself, as the other two of "none" do
    ("DenseNet", "torch", ("DenseNet121", "DenseNet169", "DenseNet201")),
    ("EfficientNet", "none", ()),
    ("InceptionResNetV2", "tf", ("InceptionResNetV2",)),
    ("InceptionV3", "tf", ("InceptionV3",)),
    ("MobileNetV3", "none", ()),
    ("MobileNetV2", "tf", ("MobileNetV2",)),
    ("MobileNet", "tf", ("MobileNet",)),
    ("NASNet", "tf", ("NASNetMobile", "NASNetLarge")),
    ("ResNet50V2", "tf", ("ResNet50V2",)),
    ("ResNet101V2", "tf", ()),
    ("ResNet152V2", "tf", ()),
    ("ResNet", "caffe", ("ResNet50",)),
    ("VGG", "caffe", ("VGG16",)),
    ("Xception", "tf", ("Xception",)),
)
# A layer of the last block of each family: without it, no classifier has to be built for comparison.
_SIGNS = {
    "DenseNet": "conv5_block16_concat",
    "InceptionResNetV2": "conv_7b_ac",
    "InceptionV3": "mixed10",
    "MobileNetV2": "block_13_expand_relu",
    "MobileNet": "conv_pw_13_relu",
    "NASNet": "stem_bn1",
    "ResNet50V2": "conv5_block3_preact_relu",
    "ResNet": "conv5_block3_out",
    "VGG": "block5_conv3",
    "Xception": "block14_sepconv2_act",
}
_ANY_WIDTH = ("MobileNet", "MobileNetV2")  # they have a parameter for the number of their filters
_PREPROCESSES = (layers.Rescaling, layers.Normalization)
_ARITHMETIC = {"TrueDivide", "Divide", "Subtract", "Multiply", "Add", "BiasAdd"}
_WIDEST, _NARROWEST = 400.0, 0.5  # how wide 0 to 255 may be before the first weights
_DEVIATIONS = 50.0  # the same behind a Normalization, in standard deviations


def preprocessing_layer(mode: str) -> keras.Layer:
    """The layer `preprocessing` for a key of PREPROCESSING."""
    scale, offset = (values[0] if len(values) == 1 else list(values) for values in PREPROCESSING[mode])
    return layers.Rescaling(scale, offset, name="preprocessing", dtype="float32")


def find_preprocessing(model: keras.Model) -> tuple[str, str]:
    """How `model` expects the values of an image (a key of PREPROCESSING), and why.

    `none`, if the model begins with Rescaling, Normalization or arithmetic (`preprocess_input(x)` in a model
    leaves arithmetic); `check_own` says whether these are made for 0 to 255. Otherwise the mode of the classifier
    of keras.applications that it holds: all layers have to be there, with their names, kinds and (but for
    MobileNet and MobileNetV2) shapes. Raises InputError if nothing is recognised, since a guess could be wrong.
    """
    if (own := _own_preprocessing(model)) is not None:
        return "none", f"the model does that itself ({own})"
    found = {op.name: op for op in operations(model)}
    for family, mode, classifiers in _FAMILIES:
        if classifiers and _SIGNS[family] in found:
            for classifier in classifiers:
                if _holds(found, classifier):
                    return mode, f"of keras.applications.{family}* by the names and kinds of all its layers"
    raise InputError(
        f"preprocessing: {model.name} does not show what it expects: say so, as one of {', '.join(PREPROCESSING)} "
        "(none: it takes grey values of 0 to 255; tf: -1 to 1; unit: 0 to 1), or as the name of a classifier of "
        "keras.applications"
    )


def _own_preprocessing(model: keras.Model) -> str | None:
    """What a model does to the values of an image before its first weights, in words; None for nothing."""
    for op in operations(model):
        if isinstance(op, _PREPROCESSES):
            return f"{type(op).__name__} '{op.name}'"
        if not isinstance(op, keras.Layer) and type(op).__name__ in _ARITHMETIC:
            return f"it begins with {type(op).__name__}"
        if has_weights(op):
            return None
    return None


def check_own(flat: keras.Model) -> None:
    """Raise InputError if a model's own preprocessing makes no sense of grey values of 0 to 255.

    What black and white images are at the first weights is computed: 0 to 255 may become 1 wide (divided by 255)
    to 255 wide (only shifted), with a margin; behind a Normalization at most _DEVIATIONS.

    Args: flat: what `cxr.models.foreign.adapt` makes, with the layer `preprocessing` of `none`.
    """
    before = []
    for node in ordered(flat.output):
        if has_weights(node.operation) and not isinstance(node.operation, layers.Normalization):
            break
        before.append(node.operation)
    tensor = node.input_tensors[0]
    if len(tensor.shape) != 4:
        return
    side = flat.input_shape[1]
    ends = np.stack([np.zeros((side, side, 1), np.float32), np.full((side, side, 1), 255, np.float32)])
    black, white = np.asarray(keras.Model(flat.input, tensor)(ends, training=False), np.float64)
    middle = black.shape[0] // 2, black.shape[1] // 2
    width = np.abs(white[middle] - black[middle]).max()
    by = [op for op in before if isinstance(op, _PREPROCESSES) and op.name != "preprocessing"]
    most = _DEVIATIONS if any(isinstance(op, layers.Normalization) for op in by) else _WIDEST
    inside = black[middle].max() <= 0 <= white[middle].min()  # the mean of a Normalization lies in 0 to 255
    shifted = bool(by) and isinstance(by[0], layers.Normalization) and not inside
    if not _NARROWEST <= width <= most or shifted:
        what = f"'{by[0].name}' ({type(by[0]).__name__})" if by else "its first operations"
        raise InputError(
            f"preprocessing: {what} of {flat.name} makes {black[middle].mean():.3g} to {white[middle].mean():.3g} "
            "of grey values of 0 to 255, so the model expects other values: say which: unit (0 to 1), tf (-1 to "
            "1), torch or caffe; or none, if this is right"
        )


def _holds(found: Mapping[str, keras.Operation], classifier: str) -> bool:
    """Whether all layers of a classifier of keras.applications are among those found, by name."""
    return all(
        name in found
        and type(found[name]).__name__ == kind
        and (classifier in _ANY_WIDTH or shapes == [tuple(weight.shape) for weight in found[name].weights])
        for name, kind, shapes in _layers_of(classifier)
    )


@functools.cache
def _layers_of(classifier: str) -> list[tuple[str, str, list[tuple[int, ...]]]]:
    """Name, kind and shapes of weights of the layers of a classifier that Keras does not number by a counter."""
    state = random.getstate()  # Keras draws seeds of initial weights from there: a study's must not depend on this
    network = getattr(keras.applications, classifier)(include_top=False, weights=None, input_shape=(224, 224, 3))
    random.setstate(state)
    return [
        (layer.name, type(layer).__name__, [tuple(weight.shape) for weight in layer.weights])
        for layer in network.layers
        if not isinstance(layer, layers.InputLayer) and not _is_numbered(layer)
    ]


def family_of(name: str) -> tuple[str, str] | None:
    """The family of keras.applications that a name belongs to, and the family's mode of preprocessing.

    The name is that of a classifier, or the one that Keras gives its model:
    MobileNetV2 and mobilenetv2_1.00_224 both give (MobileNetV2, tf). None if the name belongs to no family.
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next(((family, mode) for family, mode, _ in _FAMILIES if plain.startswith(family.lower())), None)


def _is_numbered(layer: keras.Layer) -> bool:
    """Whether Keras has made the name, from the layer's kind and a counter."""
    return re.sub(r"_\d+$", "", layer.name).replace("_", "") == type(layer).__name__.lower()


def given(preprocessing: str, model: keras.Model) -> tuple[str, str]:
    """The mode that the user names (a key of PREPROCESSING, or a classifier of keras.applications), and why.

    Raises InputError for other names, and for a classifier that preprocesses by itself where `model` does not.
    """
    if preprocessing in PREPROCESSING:
        return preprocessing, "as given"
    known = [*PREPROCESSING, *(n for n in dir(keras.applications) if n[0].isupper())]
    if preprocessing in known and (family := family_of(preprocessing)) is not None:
        if family[1] == "none" and _own_preprocessing(model) is None:
            raise InputError(
                f"preprocessing: {preprocessing} of keras.applications begins with Rescaling, and {model.name} "
                "does not (include_preprocessing=False?): say what it expects, as unit (0 to 1), tf (-1 to 1), "
                "torch, caffe or none (0 to 255)"
            )
        return family[1], f"of keras.applications.{preprocessing}"
    close = difflib.get_close_matches(preprocessing, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"use auto, {', '.join(PREPROCESSING)} or"
    raise InputError(
        f"preprocessing: unknown '{preprocessing}': {hint}"
        + ("" if close else " the name of a classifier of keras.applications")
    )
