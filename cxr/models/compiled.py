"""What is compiled for a model: once, and kept with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import keras
import tensorflow as tf

Made = TypeVar("Made")

_KEPT = "__cxr_compiled__"
"""The attribute of a model with what was compiled for it. Keras neither tracks nor saves it."""


def kept(model: keras.Model, key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` returns. It is called once for a model and a key; the model keeps the result."""
    found: dict[Hashable, Any] = vars(model).setdefault(_KEPT, {})  # not a global: it goes with the model
    if key not in found:
        found[key] = make()
    return found[key]


def outputs(model: keras.Model, *, xla: bool = False) -> Callable[[tf.Tensor], Any]:
    """A compiled function from inputs [n, ...] to what `model` returns for them in inference.

    One trace serves every n. (Keras' `predict` traces once for full batches, and again for a last one that is
    smaller.) It uses the model's weights as they are when it is called.
    """

    def make() -> Callable[[tf.Tensor], Any]:
        signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]

        @tf.function(input_signature=signature, autograph=False, jit_compile=xla)
        def compute(inputs):
            return model(inputs, training=False)

        return compute

    return kept(model, ("outputs", xla), make)


def logits_and_output(model: keras.Model) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """`outputs` of a classifier: its logits (the layer of this name), and what it returns."""

    def make() -> keras.Model:
        return keras.Model(model.input, [model.get_layer("logits").output, model.output])

    return outputs(kept(model, "logits and output", make))
