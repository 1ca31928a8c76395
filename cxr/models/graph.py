"""Any Keras classifier as one flat graph, and what its graph says: preprocessing, head, target layers.

A foreign network may be nested (a backbone inside a Sequential, as transfer-learning tutorials have it). In Keras
the layers inside a nested model have outputs in a graph of their own, which is not connected to the outer model's
input ("Graph disconnected"). Here it is laid out anew as one graph, in which every layer can be named.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from cxr.core.errors import InputError, first_line

RESERVED = ("image", "grey_to_rgb", "preprocessing", "pool", "logits", "probabilities")  # names of layers of ours

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
# What each mode makes of grey values in [0, 255]: `scale * grey + offset`, one number or one a channel. `caffe`
# swaps red and blue too, which three equal channels do not show; its means are of blue, green and red.
PREPROCESSING: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((1.0,), (0.0,)),
    "tf": ((1 / 127.5,), (-1.0,)),
    "torch": (tuple(1 / (255 * _IMAGENET_STD)), tuple(-_IMAGENET_MEAN / _IMAGENET_STD)),
    "caffe": ((1.0,) * 3, (-103.939, -116.779, -123.68)),
    "unit": ((1 / 255,), (0.0,)),
}
# Families of keras.applications: how the name begins (the first that fits), the mode of its `preprocess_input`,
# and layers by which it is known when its own layers stand in the model without the family's name.
_FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ConvNeXt", "none", ()),  # includes its preprocessing, as the other two of "none" do
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

_IDENTITY = (  # in inference
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.ActivityRegularization,
    layers.Identity,
)
_FRAMES = (layers.ZeroPadding2D, layers.Cropping2D)  # on a grid that is no feature map's own
_NORMALISING = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.UnitNormalization,
)
_POOLING = (layers.AveragePooling2D, layers.MaxPooling2D)
_MERGING = (layers.Add, layers.Average, layers.Concatenate, layers.Maximum, layers.Minimum, layers.Multiply)
_GLOBAL_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_PREPROCESSES = (layers.Rescaling, layers.Normalization)
_ARITHMETIC = {"TrueDivide", "Divide", "Subtract", "Multiply", "Add", "BiasAdd"}
_RECTIFIED = {"relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "exponential", "softmax"}


@dataclass(frozen=True)
class Adapted:
    """What `adapt` found in a model, and did with it: its attribute `adapted`, until it is saved."""

    preprocessing: str  # a key of PREPROCESSING
    preprocessing_why: str
    head: str  # what the model's own head was
    multi_label: bool  # probabilities are sigmoids, each class for itself
    channels: int  # that the foreign network takes


@dataclass(frozen=True)
class Target:
    """One of a model's target layers, and why it is that one."""

    layer: str
    grid: tuple[int, int]
    signed: bool  # its values may be negative
    why: str


def flatten(model: keras.Model) -> keras.Model:
    """`model` as one flat graph without nested models: the same function, with the same weights.

    Sequential and functional models within one another, to any depth; layers and models that are called several
    times, with several inputs. Layers keep their names; where two have one name, the later is put behind its
    model's (`backbone_conv1`), and numbered if need be. Augmentation layers stay: in inference they do nothing.
    Calls lose their argument `training`, which Keras overrides by that of the whole model's call.

    It is a copy, with the weights that `model` has now: a layer's `output` in Keras is that of its first call, so
    that a layer that is in the old graph cannot be named in the new one.

    Raises InputError for subclassed models, which have no graph; Lambda layers, whose code a safely loaded
    checkpoint cannot hold; and layers that cannot be copied.
    """
    _require_graph(model)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name),
        _inputs(model),
    )
    names = {x._keras_history.operation.name for x in keras.tree.flatten(inputs)}
    outputs = _Copies(names).run(model, inputs)
    return keras.Model(inputs, outputs, name=model.name)


def adapt(
    model: keras.Model,
    *,
    preprocessing: str = "auto",
    classes: int | None = None,
    image_size: int | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """A foreign classifier as `cxr.models.build` makes them, with the same probabilities.

    Args:
        model: takes images [n, side, side, 1 or 3]; nested or flat. Its head: Dense with softmax, or with a linear
            output, which is the logits, by itself or before an Activation or Softmax; Dense(1) with sigmoid or
            linear, whose one logit z becomes two, -z/2 and z/2, with the softmax (1 - sigmoid(z), sigmoid(z));
            Dense with sigmoid, for labels that do not exclude each other. Or none, a backbone, which gets `pool`,
            `dropout`, `logits` and `probabilities`, if `classes` is given.
        preprocessing: what the model expects of grey values in [0, 255]: a key of PREPROCESSING (`none`: it does
            that itself), the name of a classifier of keras.applications, or `auto`, which finds it: see
            `find_preprocessing`.
        classes: how many there are to be; None: as many as the model has.
        image_size: side in pixels, where the model leaves it open.
        dropout: rate, for a backbone.
        name: of the new model; None: the model's.

    Returns: a copy, flat, all of it trainable, from `image` [n, side, side, 1] (grey values, 0 to 255) through
        `grey_to_rgb` (for three channels), `preprocessing` and the model's own layers to `logits` [n, classes] and
        `probabilities`. Its attribute `adapted` says what was found. With several labels `probabilities` are
        sigmoids, and the score `probability` of `cxr.attribution.cams` (the softmax margin) is not about them: use
        the logit.
    Raises: InputError for what does not fit, with what to do.
    """
    _require_graph(model)
    side, channels = _input(model, image_size)
    mode, why = find_preprocessing(model) if preprocessing == "auto" else _given(preprocessing)
    if channels == 1 and len(PREPROCESSING[mode][1]) > 1:
        raise InputError(
            f"preprocessing: {mode} is for three channels, and {model.name} takes one: use none, tf or unit"
        )
    image = keras.Input((side, side, 1), name="image")
    x = layers.Concatenate(name="grey_to_rgb")([image] * 3) if channels == 3 else image
    x = preprocessing_layer(mode)(x)
    copies = _Copies(RESERVED)
    try:
        outputs = keras.tree.flatten(copies.run(model, keras.tree.pack_sequence_as(_inputs(model), [x])))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{model.name} at image_size {side}: {first_line(error)}") from None
    if len(outputs) != 1:
        raise InputError(f"{model.name} has {len(outputs)} outputs: give the model of one of them")
    probabilities, head, multi_label = _head(outputs[0], model.name, classes, dropout)
    flat = keras.Model(image, probabilities, name=name or model.name)
    for layer in flat.layers:  # which of them train is for the stages of training to say
        layer.trainable = True
    flat.adapted = Adapted(mode, why, head, multi_label, channels)
    return flat


def preprocessing_layer(mode: str) -> keras.Layer:
    """The layer `preprocessing` for a key of PREPROCESSING."""
    scale, offset = (values[0] if len(values) == 1 else list(values) for values in PREPROCESSING[mode])
    return layers.Rescaling(scale, offset, name="preprocessing")


def find_preprocessing(model: keras.Model) -> tuple[str, str]:
    """What `model` expects of an image's values (a key of PREPROCESSING), and why.

    `none`, if it begins with Rescaling, Normalization or arithmetic, as `preprocess_input(x)` in a model leaves
    it. Otherwise that of the classifier of keras.applications that it holds, by a model's or its layers' names.
    Raises InputError when neither tells: there is no guess that could be right without a sign.
    """
    names = set()
    for op in operations(model):
        if isinstance(op, _PREPROCESSES):
            return "none", f"the model does that itself ({type(op).__name__} '{op.name}')"
        if not isinstance(op, keras.Layer) and type(op).__name__ in _ARITHMETIC:
            return "none", f"the model does that itself (it begins with {type(op).__name__})"
        if _has_weights(op):
            break
    for nested in _models(model):
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
    """The family of keras.applications to which the name of a classifier, or the one that Keras gives its model,
    belongs, and the family's mode of preprocessing: MobileNetV2 and mobilenetv2_1.00_224 to (MobileNetV2, tf)."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next(((family, mode) for family, mode, _ in _FAMILIES if plain.startswith(family.lower())), None)


def operations(model: keras.Model) -> Iterator[keras.Operation]:
    """Layers and other operations of a model and of the models within, each once, in the order of the graph."""
    for op in _members(model):
        if isinstance(op, keras.Model):
            yield from operations(op)
        else:
            yield op


def _models(model: keras.Model) -> Iterator[keras.Model]:
    """The model and those within it, outer ones first."""
    yield model
    for op in _members(model):
        if isinstance(op, keras.Model):
            yield from _models(op)


def _members(model: keras.Model) -> list[keras.Operation]:
    _require_graph(model)
    return model.layers if isinstance(model, keras.Sequential) else model.operations


def _require_graph(model: keras.Model) -> None:
    own_call = not type(model).call.__module__.startswith("keras.")
    if own_call or not isinstance(model, keras.Sequential | keras.Function):
        raise InputError(
            f"{model.name} is a {type(model).__name__} with a `call` of its own, and has no graph in which "
            "a layer could be explained: build it with the functional API, keras.Model(inputs, outputs)"
        )
    if not model.built:
        raise InputError(f"{model.name} has no input yet: begin it with keras.Input(shape)")


class _Copies:
    """Lays out models as one graph of copies of their layers: one copy a layer, however often it is called."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)
        self.copies: dict[int, tuple[keras.Operation, keras.Operation]] = {}  # the first keeps its id in use

    def run(self, model: keras.Model, inputs: Any) -> Any:
        """The outputs of `model` for symbolic inputs of the structure of its own."""
        _require_graph(model)
        call = partial(self._call, model)
        if isinstance(model, keras.Sequential):
            x = inputs
            for layer in model.layers:
                x = call(layer, x)
            return x
        # as `keras.models.clone_model` does it, which does not go into nested models
        return model._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=call)

    def _call(self, parent: keras.Model, op: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("training", None)  # which whoever calls the model decides for all of it
        if isinstance(op, keras.Model):
            return self.run(op, args[0])
        if id(op) in self.copies:
            return self.copies[id(op)][1](*args, **kwargs)
        copy = self._copy(parent, op)
        outputs = copy(*args, **kwargs)
        if _has_weights(op):
            copy.set_weights(op.get_weights())
            if isinstance(op, layers.Normalization):
                copy.finalize_state()  # its mean and variance are made of the weights
        self.copies[id(op)] = op, copy
        return outputs

    def _copy(self, parent: keras.Model, op: keras.Operation) -> keras.Operation:
        if isinstance(op, layers.Lambda):
            raise InputError(
                f"'{op.name}' of {parent.name} is a Lambda layer, whose code cannot be loaded safely from a "
                "checkpoint: call keras.ops (or preprocess_input) on the tensor itself, or use a layer"
            )
        try:
            return type(op).from_config({**op.get_config(), "name": self._name(parent, op)})
        except (NotImplementedError, TypeError, ValueError) as error:
            raise InputError(
                f"'{op.name}' of {parent.name} ({type(op).__name__}) cannot be copied ({first_line(error)}): "
                "give its class a get_config, and what it uses keras.saving.register_keras_serializable()"
            ) from None

    def _name(self, parent: keras.Model, op: keras.Operation) -> str:
        name, number = op.name, 0
        while name in self.taken:
            name = f"{parent.name}_{op.name}" + (f"_{number}" if number else "")
            number += 1
        self.taken.add(name)
        return name


def _inputs(model: keras.Model) -> Any:
    """The model's symbolic inputs, in the structure in which it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


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


def _given(preprocessing: str) -> tuple[str, str]:
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


def _head(output: KerasTensor, name: str, classes: int | None, dropout: float) -> tuple[KerasTensor, str, bool]:
    """(probabilities, what the model's own head was, whether labels do not exclude each other)."""
    op = _producer(output)
    if len(output.shape) == 4 or isinstance(op, (*_GLOBAL_POOLING, layers.Flatten)):
        if classes is None:
            raise InputError(f"{name} ends without a head ('{op.name}'): say how many classes it is to have")
        x = layers.GlobalAveragePooling2D(name="pool")(output) if len(output.shape) == 4 else output
        x = layers.Dropout(dropout, name="dropout")(x)
        logits = layers.Dense(classes, name="logits")(x)
        return layers.Activation("softmax", dtype="float32", name="probabilities")(logits), "none", False
    activation, own = _activation(op), ""
    if not isinstance(op, layers.Dense) and activation in ("softmax", "sigmoid", "linear"):
        own = f" + {type(op).__name__}({activation})"
        op = _producer(op.input)
    dense = isinstance(op, layers.Dense) and len(op.input.shape) == 2
    if own and dense:
        dense = _activation(op) == "linear"
    if not dense or activation not in ("softmax", "sigmoid", "linear"):
        last = _producer(output)
        raise InputError(
            f"{name} ends with '{last.name}' ({type(last).__name__}), not with logits of "
            "a Dense layer and their softmax or sigmoid: end it with Dense(n, activation='softmax'), or give its "
            "backbone alone"
        )
    units, kernel = op.units, [np.array(weights) for weights in op.get_weights()]
    head = f"Dense({units}, {_activation(op)}){own}"
    if units == 1:
        if activation == "softmax":
            raise InputError(f"{name} ends with a softmax over one class, which is always 1: use Dense(2)")
        units, kernel = 2, [np.concatenate([-w / 2, w / 2], axis=-1) for w in kernel]
        head += ": one logit z as two, -z/2 and z/2"
        activation = "softmax"
    if classes not in (None, units):
        raise InputError(f"{name} is for {units} classes, and there are to be {classes}")
    multi_label = activation == "sigmoid"
    dense = layers.Dense(units, use_bias=op.use_bias, name="logits", dtype=op.dtype_policy)
    logits = dense(op.input)
    dense.set_weights(kernel)
    function = "sigmoid" if multi_label else "softmax"
    return layers.Activation(function, dtype="float32", name="probabilities")(logits), head, multi_label


def _has_weights(op: keras.Operation) -> bool:
    return bool(getattr(op, "weights", None))


def _producer(tensor: KerasTensor) -> keras.Operation:
    return tensor._keras_history.operation


def _activation(op: keras.Operation) -> str:
    """The name of the activation that an operation is, or ends with; "linear" if none."""
    if isinstance(op, layers.ReLU):
        return "leaky_relu" if op.negative_slope or op.threshold else "relu"
    function = getattr(op, "activation", None)
    if function is not None:
        return getattr(function, "__name__", type(function).__name__).lower()
    if isinstance(op, layers.Softmax):
        return "softmax" if op.axis in (-1, 1) else "other"
    return "linear" if isinstance(op, keras.Layer) else type(op).__name__.lower()


def target_layers(model: keras.Model) -> dict[str, str]:
    """The layers of `targets` by name, without the reasons."""
    return {name: target.layer for name, target in targets(model).items()}


def targets(model: keras.Model) -> dict[str, Target]:
    """The target layers of any flat classifier, found in its graph.

    - `final`: the last feature map before the head, which begins with flattening or with pooling to one position.
    - `penultimate`: on the next finer grid (about twice that of `final`: a sixteenth of the image's side in most
      networks), the last feature map on which alone all that follows depends, a *cut* of the graph, in a rectified
      form where there is one, since CAMs assume activations that are not negative: itself; its successor through
      normalisation and an activation, which a shortcut may bypass (pre-activation ResNets); or its predecessor
      through layers of one input (DenseNet). Without a cut on that grid (NASNet, whose cells see the last two) the
      last sum or concatenation there.
    - `penultimate_cut`: that cut itself, where `penultimate` is another layer.
    - `shallower`: to the grid of `penultimate` what `penultimate` is to that of `final`.
    - `last_conv`: the last convolution of all, a cut or not.

    Returns those that there are, on whatever grid: whether one is fine enough is asked when it is used. Raises
    InputError when the model has no layer `logits`, or no feature map on which alone they depend.
    """
    return _Graph(model).targets()


def head_input(model: keras.Model) -> KerasTensor:
    """What the head of a flat classifier starts from, [n, d]: the first vector behind the last feature map on
    which alone the logits depend, such as the output of global pooling or Flatten. Raises InputError as `targets`.
    """
    return _Graph(model).head_input()


def feeds_pooling(model: keras.Model, layer: str) -> bool:
    """Whether `layer` is the last feature map, of which the head of a flat classifier sees the mean alone: the
    gradient is then the same at all positions."""
    tensor, averaged = head_input(model), False
    while (op := _producer(tensor)).name != layer:
        if _is_global_average(op):
            averaged = True
        elif not isinstance(op, (*_IDENTITY, layers.Flatten, layers.Reshape)):
            return False
        tensor = op.input
    return averaged


def _is_global_average(op: keras.Operation) -> bool:
    if isinstance(op, layers.AveragePooling2D):
        return tuple(op.pool_size) == tuple(op.input.shape[1:3])
    return isinstance(op, layers.GlobalAveragePooling2D) or (
        type(op).__name__ == "Mean" and sorted(np.atleast_1d(op.axis)) == [1, 2]
    )


class _Graph:
    """The calls (Keras' nodes) between the image and the logits of a flat classifier, in the graph's order."""

    def __init__(self, model: keras.Model) -> None:
        self.name = model.name
        if "logits" not in {layer.name for layer in model.layers}:
            raise InputError(f"{model.name} has no layer 'logits': make it with cxr.models.graph.adapt")
        self.nodes = _ordered(model.get_layer("logits").output)
        self.consumers: dict[Any, list[Any]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for parent in node.parent_nodes:
                self.consumers[parent].append(node)
        self.cuts = self._cuts()
        # what is in front of the first weights is an image still, and no feature map
        first = next(i for i, node in enumerate(self.nodes) if _has_weights(node.operation))
        calls = Counter(node.operation for node in self.nodes)
        self.maps = [node for node in self.nodes[first:] if calls[node.operation] == 1 and _is_map(node)]

    def _cuts(self) -> set[Any]:
        """Nodes through which all paths from the image to the logits go: as many as there are at all."""
        into: dict[Any, int] = {}
        for node in self.nodes:
            into[node] = sum(into[parent] for parent in node.parent_nodes) or 1
        out_of = dict.fromkeys(self.nodes, 0)
        out_of[self.nodes[-1]] = 1
        for node in reversed(self.nodes):
            for parent in node.parent_nodes:
                out_of[parent] += out_of[node]
        return {node for node in self.nodes if into[node] * out_of[node] == into[self.nodes[-1]]}

    def targets(self) -> dict[str, Target]:
        final = self._final()
        found = {"final": _target(final, "the last feature map")}
        level = final
        for name in ("penultimate", "shallower"):
            if (last := self._next_finer(level)) is None:
                break
            node, why = self._rectified_form(last)
            found[name] = _target(node, why)
            if name == "penultimate" and last in self.cuts:
                is_cut = node in self.cuts
                found["penultimate_cut"] = found[name] if is_cut else _target(last, _LAST_CUT)
            level = last
        convolutions = [n for n in self.maps if isinstance(n.operation, layers.Conv2D | layers.SeparableConv2D)]
        if convolutions:
            found["last_conv"] = _target(convolutions[-1], "the last convolution")
        order = ("shallower", "penultimate", "penultimate_cut", "last_conv", "final")
        return {name: found[name] for name in order if name in found}

    def head_input(self) -> KerasTensor:
        behind = self.nodes[self.nodes.index(self._final()) + 1 : -1]
        vectors = [node.output_tensors[0] for node in behind if node in self.cuts]
        return next((x for x in vectors if len(x.shape) == 2), self.nodes[-1].input_tensors[0])

    def _final(self) -> Any:
        maps = set(self.maps)
        found = None
        for node in self.nodes:
            if node in self.cuts and _begins_head(node):
                break
            if node in self.cuts and node in maps and not isinstance(node.operation, _IDENTITY):
                found = node
        if found is None:
            raise InputError(f"{self.name} has no feature map on which alone its logits depend")
        return found

    def _next_finer(self, level: Any) -> Any | None:
        """The last cut before `level` on the next grid of about twice its side (odd sides are halved upwards);
        without one the last sum or concatenation on that grid."""
        before = self.maps[: self.maps.index(level)]
        finer = [node for node in before if _side(node) > _side(level) and _side(node) >= 2 * _side(level) - 1]
        if not finer:
            return None
        side = min(_side(node) for node in finer)
        on = [node for node in finer if _side(node) == side and not isinstance(node.operation, _IDENTITY)]
        merged = [node for node in on if len(node.parent_nodes) > 1]
        return ([node for node in on if node in self.cuts] or merged or on)[-1]

    def _rectified_form(self, last: Any) -> tuple[Any, str]:
        what = _LAST_CUT if last in self.cuts else _LAST_MERGED
        if _is_rectified(last):
            return last, what
        if (node := self._rectified_successor(last)) is not None:
            bypassed = "" if node in self.cuts else "; shortcuts bypass it"
            return node, f"the rectified form of {last.operation.name}, {what}{bypassed}"
        node = last
        while (
            len(node.parent_nodes) == 1
            and _is_map(parent := node.parent_nodes[0])
            and _side(parent) == _side(last)
        ):
            node = parent
            if node in self.maps and node in self.cuts and _is_rectified(node):
                return node, f"the last rectified cut of the graph on this grid, before {last.operation.name}"
        return last, f"{what}; there is no rectified one beside it"

    def _rectified_successor(self, node: Any) -> Any | None:
        """The first rectified map that is made of `node` by normalisation and activation alone."""
        waiting = [node]
        while waiting:
            for consumer in self.consumers[waiting.pop(0)]:
                op = consumer.operation
                if consumer in self.maps and _activation(op) in _RECTIFIED and not _has_weights(op):
                    return consumer
                if isinstance(op, (*_NORMALISING, *_IDENTITY)):
                    waiting.append(consumer)
        return None


_LAST_CUT = "the last cut of the graph on this grid"
_LAST_MERGED = "the last sum or concatenation on this grid, which has no cut"


def _target(node: Any, why: str) -> Target:
    signed = not _is_rectified(node)
    grid = tuple(node.output_tensors[0].shape[1:3])
    return Target(node.operation.name, grid, signed, why + " (values of either sign)" * signed)


def _ordered(tensor: KerasTensor) -> list[Any]:
    """The nodes that `tensor` is made by, each behind all that it depends on."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(_node(tensor), False)]
    while stack:  # no recursion: a deep network is deeper than Python's stack
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in reversed(node.parent_nodes))
    return order


def _node(tensor: KerasTensor) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _is_map(node: Any) -> bool:
    """A layer's feature map, on the grid of its own."""
    if not isinstance(node.operation, keras.Layer) or isinstance(node.operation, _FRAMES):
        return False
    shapes = [tuple(tensor.shape) for tensor in node.output_tensors]
    return len(shapes) == 1 and len(shapes[0]) == 4 and None not in shapes[0][1:3]


def _side(node: Any) -> int:
    return min(node.output_tensors[0].shape[1:3])


def _begins_head(node: Any) -> bool:
    """Flattens feature maps, or pools them to one position."""
    shape = node.output_tensors[0].shape
    pools = isinstance(node.operation, _POOLING + _GLOBAL_POOLING) or type(node.operation).__name__ in (
        "Mean",
        "Max",
    )
    return len(shape) != 4 or (pools and tuple(shape[1:3]) == (1, 1))


def _is_rectified(node: Any) -> bool:
    """Whether no value can be negative."""
    op = node.operation
    if _activation(op) in _RECTIFIED:
        return True
    keeps = isinstance(op, (*_POOLING, *_IDENTITY, *_FRAMES, *_MERGING)) or type(op).__name__ in (
        "Add",
        "Multiply",
    )
    return keeps and bool(node.parent_nodes) and all(_is_rectified(parent) for parent in node.parent_nodes)
