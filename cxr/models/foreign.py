"""The user's classifier, rebuilt like those of the package: one flat graph from grey values to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import KerasTensor, layers

from cxr.core.errors import InputError, first_line
from cxr.models import geometry, tokens
from cxr.models.flatten import Copies, model_inputs, require_graph
from cxr.models.graph import GLOBAL_POOLING, activation_of, producer
from cxr.models.preprocessing import PREPROCESSING, check_own, find_preprocessing, given, preprocessing_layer

RESERVED = ("image", "grey_to_rgb", "preprocessing", "pool", "logits", "probabilities")  # names of added layers


@dataclass(frozen=True)
class Adapted:
    """What `adapt` found in a model and did with it: the model's attribute `adapted`, which saving loses."""

    preprocessing: str  # a key of PREPROCESSING
    preprocessing_why: str
    head: str  # what the model's own head was
    multi_label: bool  # probabilities are sigmoids, one for each class
    channels: int  # of the images that the network takes


def adapt(
    model: keras.Model,
    *,
    preprocessing: str = "auto",
    classes: int | None = None,
    image_size: int | None = None,
    dropout: float = 0.0,
    name: str | None = None,
    multi_label: bool = False,
) -> keras.Model:
    """A flat classifier like those of `cxr.models.build`, with the same probabilities as the user's `model`.

    Args:
        model: takes images [n, side, side, 1 or 3]; nested or flat. Its head is one of these:
            - Dense with softmax; or with a linear output (the logits), alone or before an Activation or Softmax;
            - Dense(1) with sigmoid or linear: its logit z becomes two, -z/2 and z/2, whose softmax is
              (1 - sigmoid(z), sigmoid(z));
            - Dense with sigmoid, for labels that do not exclude each other;
            - none (a backbone, which ends with a feature map or with tokens): it gets `pool`, `dropout`, `logits`
              and `probabilities`, if `classes` is given.
        preprocessing: how grey values in [0, 255] become what the model expects: a key of PREPROCESSING
            (`none`: the model does it itself), the name of a classifier of keras.applications, or `auto` (see
            `find_preprocessing`).
        classes: the number of classes that is wanted; None: as many as the model has.
        image_size: side in pixels, if the model leaves it open.
        dropout: rate, for a backbone.
        name: of the new model; None: the model's.
        multi_label: a backbone gets sigmoids in place of a softmax; a head of the model's own stays as it is.

    Returns: a flat copy, all of it trainable. It goes from `image` [n, side, side, 1] (grey values, 0 to 255)
        through `grey_to_rgb` (for three channels), `preprocessing` and the model's own layers to `logits` [n,
        classes] and `probabilities`, all in float32. Its attribute `adapted` says what was found. With several
        labels, `probabilities` are sigmoids, and the log-odds of a class are its logit (`cxr.attribution.scores`).
    Raises: InputError if the model does not fit; the message says what to do.
    """
    require_graph(model)
    side, channels = _input(model, image_size)
    guessed = preprocessing == "auto"
    mode, why = find_preprocessing(model) if guessed else given(preprocessing, model)
    if channels == 1 and len(PREPROCESSING[mode][1]) > 1:
        raise InputError(
            f"preprocessing: {mode} is for three channels, and {model.name} takes one: use none, tf or unit"
        )
    image = keras.Input((side, side, 1), name="image")
    x = layers.Concatenate(name="grey_to_rgb", dtype="float32")([image] * 3) if channels == 3 else image
    x = preprocessing_layer(mode)(x)
    copies = Copies(RESERVED)
    try:
        outputs = keras.tree.flatten(copies.run(model, keras.tree.pack_sequence_as(model_inputs(model), [x])))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{model.name} at image_size {side}: {first_line(error)}") from None
    if len(outputs) != 1:
        raise InputError(f"{model.name} has {len(outputs)} outputs: give the model of one of them")
    probabilities, head, multi_label = _head(outputs[0], model.name, classes, dropout, multi_label)
    flat = keras.Model(image, probabilities, name=name or model.name)
    geometry.refuse_moved(flat)
    if guessed and mode == "none":
        check_own(flat)
    flat = tokens.with_grids(flat)
    for layer in flat.layers:  # the stages of training decide which layers train
        layer.trainable = True
    flat.adapted = Adapted(mode, why, head, multi_label, channels)
    return flat


def _input(model: keras.Model, image_size: int | None) -> tuple[int, int]:
    """(side, channels) of the images that a model takes."""
    if len(model.inputs) != 1:
        raise InputError(f"{model.name} has {len(model.inputs)} inputs: it has to take images alone")
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise InputError(
            f"{model.name} takes {shape}: it has to take images (n, side, side, channels) of 1 or 3 channels"
        )
    if None in shape[1:3] and image_size is None:
        raise InputError(f"{model.name} takes images of any size: say which with image_size")
    height, width = (image_size if n is None else n for n in shape[1:3])
    if height != width or image_size not in (None, height):
        wanted = "square images" if image_size is None else f"image_size {image_size}"
        raise InputError(f"{model.name} takes images of {height}x{width}, not {wanted}")
    return height, shape[3]


def _head(
    output: KerasTensor, name: str, classes: int | None, dropout: float, multi_label: bool
) -> tuple[KerasTensor, str, bool]:
    """(probabilities, a description of the model's own head, whether labels do not exclude each other)."""
    op = producer(output)
    if len(output.shape) in (3, 4) or isinstance(op, (*GLOBAL_POOLING, layers.Flatten)):
        if classes is None:
            raise InputError(f"{name} ends without a head ('{op.name}'): say how many classes it is to have")
        pools = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalAveragePooling2D}
        x = output
        if len(output.shape) in pools:
            x = pools[len(output.shape)](name="pool", dtype="float32")(output)
        x = layers.Dropout(dropout, name="dropout", dtype="float32")(x)
        logits = layers.Dense(classes, name="logits", dtype="float32")(x)
        return _probabilities(logits, multi_label), "none", multi_label
    activation, own = activation_of(op), ""
    if not isinstance(op, layers.Dense) and activation in ("softmax", "sigmoid", "linear"):
        own = f" + {type(op).__name__}({activation})"
        op = producer(op.input)
    dense = isinstance(op, layers.Dense) and len(op.input.shape) == 2
    if own and dense:
        dense = activation_of(op) == "linear"
    if not dense or activation not in ("softmax", "sigmoid", "linear"):
        last = producer(output)
        raise InputError(
            f"{name} ends with '{last.name}' ({type(last).__name__}), not with logits of "
            "a Dense layer and their softmax or sigmoid: end it with Dense(n, activation='softmax'), or give its "
            "backbone alone"
        )
    units, kernel = op.units, [np.array(weights) for weights in op.get_weights()]
    head = f"Dense({units}, {activation_of(op)}){own}"
    if units == 1:
        if activation == "softmax":
            raise InputError(f"{name} ends with a softmax over one class, which is always 1: use Dense(2)")
        units, kernel = 2, [np.concatenate([-w / 2, w / 2], axis=-1) for w in kernel]
        head += ": one logit z as two, -z/2 and z/2"
        activation = "softmax"
    if classes not in (None, units):
        raise InputError(f"{name} is for {units} classes, and there are to be {classes}")
    multi_label = activation == "sigmoid"
    dense = layers.Dense(units, use_bias=op.use_bias, name="logits", dtype="float32")
    logits = dense(op.input)
    dense.set_weights(kernel)
    return _probabilities(logits, multi_label), head, multi_label


def _probabilities(logits: KerasTensor, multi_label: bool) -> KerasTensor:
    function = "sigmoid" if multi_label else "softmax"
    return layers.Activation(function, dtype="float32", name="probabilities")(logits)
