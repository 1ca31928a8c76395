"""Nested Keras models as one flat graph, in which every layer can be named.

A user's network may be nested: a backbone inside a Sequential, as in transfer-learning tutorials. In Keras, the
layers inside a nested model have outputs in a graph of their own, which is not connected to the outer model's
input ("Graph disconnected"). `flatten` builds one new graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from cxr.core.errors import InputError, first_line
from cxr.models.graph import has_weights

_OTHER_PRECISIONS = ("float16", "bfloat16", "float64")


def flatten(model: keras.Model) -> keras.Model:
    """`model` as one flat graph without nested models: the same function, with the same weights.

    It takes Sequential and functional models within one another, to any depth, and layers and models that are
    called several times or with several inputs. Layers keep their names. If two have the same name, the later one
    gets its model's name in front (`backbone_conv1`), and a number if needed. Augmentation layers stay: in
    inference they do nothing. Calls lose their argument `training`: Keras overrides it by that of the whole
    model's call.

    Layers of other precisions (mixed_float16) compute in float32, with the same weights.

    The result is a copy with the weights that `model` has now. It must be a copy: in Keras a layer's `output` is
    that of its first call, so a layer of the old graph cannot be named in the new one.

    Raises InputError for subclassed models, which have no graph; for Lambda layers, whose code a safely loaded
    checkpoint cannot hold; and for layers that cannot be copied.
    """
    require_graph(model)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name),
        model_inputs(model),
    )
    names = {x._keras_history.operation.name for x in keras.tree.flatten(inputs)}
    outputs = Copies(names).run(model, inputs)
    return keras.Model(inputs, outputs, name=model.name)


def operations(model: keras.Model) -> Iterator[keras.Operation]:
    """Layers and other operations of a model and of its nested models, each once, in the order of the graph."""
    for op in members(model):
        if isinstance(op, keras.Model):
            yield from operations(op)
        else:
            yield op


def members(model: keras.Model) -> list[keras.Operation]:
    require_graph(model)
    return model.layers if isinstance(model, keras.Sequential) else model.operations


def require_graph(model: keras.Model) -> None:
    own_call = not type(model).call.__module__.startswith("keras.")
    if own_call or not isinstance(model, keras.Sequential | keras.Function):
        raise InputError(
            f"{model.name} is a {type(model).__name__} with a `call` of its own, and has no graph in which "
            "a layer could be explained: build it with the functional API, keras.Model(inputs, outputs)"
        )
    if not model.built:
        raise InputError(f"{model.name} has no input yet: begin it with keras.Input(shape)")


class Copies:
    """Rebuilds models as one graph of copies of their layers: one copy of each, however often it is called."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)
        # By the original's id. The original is kept beside the copy, so that its id is not used again.
        self.copies: dict[int, tuple[keras.Operation, keras.Operation]] = {}

    def run(self, model: keras.Model, inputs: Any) -> Any:
        """The outputs of `model` for symbolic inputs, which have the structure of its own inputs."""
        call = partial(self._call, model)
        if isinstance(model, keras.Sequential):
            x = inputs
            for layer in model.layers:
                x = call(layer, x)
            return x
        # `keras.models.clone_model` does the same, but does not enter nested models
        return model._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=call)

    def _call(self, parent: keras.Model, op: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("training", None)  # the call of the whole model decides it
        if isinstance(op, keras.Model):
            require_graph(op)
            return self.run(op, args[0])
        if (inside := _inside(op, args, kwargs)) is not None:
            return self.run(inside, args[0])
        if id(op) in self.copies:
            return self.copies[id(op)][1](*args, **kwargs)
        copy = self._copy(parent, op)
        outputs = copy(*args, **kwargs)
        if has_weights(op):
            copy.set_weights(op.get_weights())
            if isinstance(op, layers.Normalization):
                copy.finalize_state()  # computes its mean and variance from the weights
        self.copies[id(op)] = op, copy
        return outputs

    def _copy(self, parent: keras.Model, op: keras.Operation) -> keras.Operation:
        if isinstance(op, layers.Lambda):
            raise InputError(
                f"'{op.name}' of {parent.name} is a Lambda layer, whose code cannot be loaded safely from a "
                "checkpoint: call keras.ops (or preprocess_input) on the tensor itself, or use a layer"
            )
        try:
            config = {**op.get_config(), "name": self._name(parent, op)}
            if "dtype" in config and getattr(op, "compute_dtype", "float32") in _OTHER_PRECISIONS:
                config["dtype"] = "float32"  # maps of few digits would be maps of rounding
            return _from_config(type(op), config)
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


def _inside(op: keras.Operation, args: tuple, kwargs: dict[str, Any]) -> keras.Function | None:
    """The graph of the layers inside a layer of other packages, such as a whole block of a transformer.

    None for a layer of Keras; for one with weights of its own or a `call` that takes `training`, which a graph of
    its layers would lose; and where that graph cannot be made, or computes something else.
    """
    single = len(args) == 1 and not kwargs and isinstance(args[0], keras.KerasTensor)
    if type(op).__module__.startswith("keras.") or not isinstance(op, keras.Layer) or not single:
        return None
    own = len(op.weights) - sum(len(layer.weights) for layer in op._layers)
    if own or not op.weights or "training" in inspect.signature(op.call).parameters:
        return None
    x = keras.Input(batch_shape=args[0].shape, dtype=args[0].dtype)
    try:
        inside = keras.Function(x, op.call(x), name=op.name)
        values = np.random.default_rng(0).normal(size=[n or 2 for n in x.shape]).astype(np.float32)
        same = np.allclose(inside(values), op(values, training=False), rtol=1e-4, atol=1e-5)
    except Exception:  # code of other packages may do anything with a symbolic tensor: it stays one layer
        return None
    return inside if same else None


def _from_config(kind: type, config: Mapping[str, Any]) -> keras.Operation:
    """An operation of a class and a configuration.

    Some layers (of keras-hub's ViT) also list what they derive, which their constructor does not take. They are
    made without it, if the new layer then lists the same.
    """
    try:
        return kind.from_config(dict(config))
    except TypeError:
        takes = {*inspect.signature(kind).parameters, "name", "dtype", "trainable"}
        made = kind(**{key: value for key, value in config.items() if key in takes})
        if made.get_config() != config:
            raise
        return made


def model_inputs(model: keras.Model) -> Any:
    """The model's symbolic inputs, in the structure in which it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
