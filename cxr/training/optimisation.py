"""How a model is compiled: optimizer, loss, and TensorFlow's rewriting of graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.training.flat_adam import FlatAdam


def compile_model(model: keras.Model, learning_rate: float, settings: TrainParams) -> None:
    """Compile a model in a way that makes its first step quick.

    There are few operations, and all variables exist before the step: it would be traced again if it made any.
    """
    with model.distribute_strategy.scope():
        optimizer = make_optimizer(learning_rate, settings)
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],  # "accuracy" would be built late
            jit_compile=settings.xla,
        )


@contextlib.contextmanager
def graph_optimizers(*, on: bool) -> Iterator[None]:
    """Within the context, say whether TensorFlow rewrites graphs that run for the first time, also of data sets.

    Rewriting a deep network's step takes seconds, and saves no time on a CPU (measured with DenseNet201). On a GPU
    it chooses the layout of tensors. It may change bits. So it is switched for all of `fit`: if only a part of it
    were rewritten, an epoch would depend on which epoch came first in its process.
    """
    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": not on})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def make_optimizer(learning_rate: float, settings: TrainParams) -> keras.optimizers.Optimizer:
    """The optimizer that the settings ask for. With several replicas, Adam is Keras' own instead of `FlatAdam`."""
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    elif tf.distribute.get_strategy().num_replicas_in_sync > 1:
        progress("training on several devices uses Keras' own Adam: its first step takes longer")
        optimizer = keras.optimizers.Adam(learning_rate)
    else:
        optimizer = FlatAdam(learning_rate)
    if settings.precision == "mixed_float16":  # without scaling, small gradients would become zero
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
