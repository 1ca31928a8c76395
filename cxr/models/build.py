"""Networks by name: the paper's, their compact networks, those of keras.applications, the user's own.

A model is one flat functional graph. It takes grey values in [0, 255], shape [n, side, side, 1], and returns class
probabilities. Its layers are: preprocessing, the backbone's own layers, `pool`, `dropout`, `logits`,
`probabilities`. Any layer can be named as a target, and a saved checkpoint loads without code of this package. A
whole classifier of the user's keeps its own head, between `preprocessing` and `logits`
(`cxr.models.foreign.adapt`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import KerasTensor, layers

from cxr.core import architectures
from cxr.core.errors import InputError, first_line
from cxr.models import compact, foreign, graph
from cxr.models.preprocessing import preprocessing_layer


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built: `features` maps a preprocessed image tensor to the last feature map."""

    features: Callable[[KerasTensor], KerasTensor]
    channels: int
    preprocessing: str  # a key of `cxr.models.preprocessing.PREPROCESSING`


def _application(name: str) -> Callable[[KerasTensor], KerasTensor]:
    def features(x: KerasTensor) -> KerasTensor:
        application = getattr(keras.applications, name)
        return application(include_top=False, weights=None, input_tensor=x).output

    return features


ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture(
        getattr(compact, network.function) if network.function else _application(name),
        network.channels,
        network.preprocessing,
    )
    for name, network in architectures.NETWORKS.items()
}


def build(
    architecture: str,
    *,
    n_classes: int,
    image_size: int,
    dropout: float = 0.0,
    devices: int = 0,
    multi_label: bool = False,
) -> keras.Model:
    """A flat classifier with random weights. Seed Keras first if you want the same ones again.

    It takes grey values in [0, 255], [n, image_size, image_size, 1], and returns probabilities, [n, n_classes]: a
    softmax, or, with `multi_label`, a sigmoid for each class, which do not exclude each other. The model is named
    after its architecture. `devices` is the number of GPUs that it will be trained on (see `strategy`).

    `architecture` is one of ARCHITECTURES, another classifier of keras.applications, or `package.module:function`.
    The function is called as function(n_classes=n_classes, image_size=image_size). It returns a keras.Model: a
    classifier with a softmax (with `multi_label`: sigmoids); a backbone, to which a head is added; or what
    `cxr.models.foreign.adapt` made of one. The model keeps the weights that the function gives it.

    Raises InputError for an unknown architecture, an image that is too small for it, more devices than there are,
    and a model that `cxr.models.foreign.adapt` refuses.
    """
    # A global counter numbers InceptionV3's convolutions. Reset it, so that a layer has the same name whatever was
    # built before.
    keras.utils.clear_session(free_memory=False)
    with strategy(devices).scope():  # after `clear_session`, which would end it
        if architecture in ARCHITECTURES:
            return _build_own(architecture, n_classes, image_size, dropout, multi_label)
        name = architectures.plain(architecture)
        options = {"classes": n_classes, "dropout": dropout, "name": name, "multi_label": multi_label}
        if architectures.is_entry_point(architecture):
            return _build_by_user(architecture, image_size, options)
        return foreign.adapt(application_network(architecture, image_size), preprocessing=architecture, **options)


def _build_own(
    architecture: str, n_classes: int, image_size: int, dropout: float, multi_label: bool
) -> keras.Model:
    spec = ARCHITECTURES[architecture]
    inputs = keras.Input((image_size, image_size, 1), name="image")
    x = layers.Concatenate(name="grey_to_rgb")([inputs] * 3) if spec.channels == 3 else inputs
    x = preprocessing_layer(spec.preprocessing)(x)
    try:
        x = spec.features(x)
    except ValueError as error:
        raise _too_small(architecture, image_size, error) from None
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(n_classes, name="logits")(x)
    x = layers.Activation("sigmoid" if multi_label else "softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=architecture)


def application_network(application: str, image_size: int) -> keras.Model:
    """The backbone of a classifier of keras.applications, as Keras makes it."""
    architectures.find(application)
    try:
        return getattr(keras.applications, application)(
            include_top=False, weights=None, input_shape=(image_size, image_size, 3)
        )
    except ValueError as error:
        raise _too_small(application, image_size, error) from None


def _too_small(architecture: str, image_size: int, error: ValueError) -> InputError:
    return InputError(f"image_size {image_size} does not fit {architecture} ({first_line(error)}): use 224")


def _build_by_user(architecture: str, image_size: int, options: Mapping[str, Any]) -> keras.Model:
    function = architectures.function(architecture)
    try:
        model = function(n_classes=options["classes"], image_size=image_size)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = architectures.failure(error, architectures.source(architecture))
        raise InputError(f"architecture: {architecture} failed: {reason}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"architecture: {architecture} returned a {type(model).__name__}, not a keras.Model")
    try:
        if not hasattr(model, "adapted"):
            model = foreign.adapt(model, image_size=image_size, **options)
    except InputError as error:
        message = str(error)
        if message.startswith("preprocessing:"):
            message += ", by returning cxr.models.foreign.adapt(model, preprocessing=...)"
        raise InputError(f"architecture: {architecture}: {message}") from None
    wanted = ((None, image_size, image_size, 1), (None, options["classes"]))
    if (model.input_shape, model.output_shape) != wanted:
        raise InputError(
            f"architecture: {architecture} returned a model from {model.input_shape} to {model.output_shape}, and "
            f"was asked for one from {wanted[0]} to {wanted[1]}"
        )
    if model.adapted.multi_label != options["multi_label"]:
        wanted = (
            "sigmoids, as findings do not exclude" if options["multi_label"] else "a softmax, as classes exclude"
        )
        raise InputError(
            f"architecture: {architecture} has {model.adapted.head}: end it with {wanted} each other (the "
            "parameter task says which they are)"
        )
    named = keras.Model(model.input, model.output, name=options["name"])
    named.adapted = model.adapted
    return named


def strategy(devices: int) -> tf.distribute.Strategy:
    """The strategy under which a model is built, to be trained on several GPUs. 0 and 1: TensorFlow's default.

    The GPUs share each batch, each has all weights, and gradients are averaged (data parallelism with
    `tf.distribute.MirroredStrategy`). Without GPUs, virtual CPU devices work too
    (`tf.config.set_logical_device_configuration`). With several devices Keras draws one more order of images.
    Batches then differ from those of one device: equal seeds give similar weights, not equal ones.

    Raises InputError for more devices than there are.
    """
    if devices <= 1:
        return tf.distribute.get_strategy()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(found):
        raise InputError(
            f"devices: {devices} were asked for, and TensorFlow sees {len(found)} "
            f"{found[0].device_type}{'s' if len(found) > 1 else ''}: lower devices, or 0 for one"
        )
    return tf.distribute.MirroredStrategy([device.name for device in found[:devices]])


def backbone(model: keras.Model) -> keras.Model:
    """The part of `model` from image to last feature map, sharing its layers."""
    final = graph.target_layers(model)["final"]
    return keras.Model(model.input, model.get_layer(final).output, name=f"{model.name}_backbone")


def to_features(model: keras.Model) -> keras.Model:
    """The part of `model` from images to the input of the head, [n, d]. Shares the model's layers.

    The head starts from the output of `pool`, or of what a foreign classifier has in its place, such as Flatten.
    """
    return keras.Model(model.input, graph.head_input(model))


def head(model: keras.Model) -> keras.Model:
    """The part of `model` from the output of `to_features`, [n, d], to the logits, [n, n_classes].

    It has `dropout` and `logits`, and in a foreign classifier all layers in between. Shares the model's layers.
    """
    return keras.Model(graph.head_input(model), model.get_layer("logits").output)


def head_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of `head`, in the order of the graph."""
    before = to_features(model).layers
    return [
        layer for layer in keras.Model(model.input, model.get_layer("logits").output).layers if layer not in before
    ]


@contextlib.contextmanager
def computing(model: keras.Model, precision: str) -> Iterator[None]:
    """Within the context, the backbone's layers compute in `precision`: float32, mixed_float16 or mixed_bfloat16.

    Weights stay float32. So do preprocessing, pooling, logits and probabilities. Functions that were traced before
    keep the precision that they were traced in.
    """
    inside = {layer.name for layer in backbone(model).layers} - {"image", "grey_to_rgb", "preprocessing"}
    policies = {layer: layer.dtype_policy for layer in model.layers if layer.name in inside}
    try:
        for layer in policies:
            layer.dtype_policy = precision
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy
