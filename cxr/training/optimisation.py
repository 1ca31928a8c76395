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
    """For a quick first step: few operations, and variables that are there before it, as it is traced anew
    when it makes any."""
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
    """Whether TensorFlow rewrites the graphs that are first run meanwhile, those of data sets among them.

    For a deep network's step it takes seconds, and saves none of its time on a CPU (measured: DenseNet201). On a
    GPU it chooses the layout of tensors. It may change bits: off for a part of `fit` alone, an epoch would depend
    on which of them came first in its process.
    """
    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": not on})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def make_optimizer(learning_rate: float, settings: TrainParams) -> keras.optimizers.Optimizer:
    """Under a strategy with several replicas Adam is Keras' own."""
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    elif tf.distribute.get_strategy().num_replicas_in_sync > 1:
        progress("training on several devices: with Keras' own Adam, whose first step takes longer")
        optimizer = keras.optimizers.Adam(learning_rate)
    else:
        optimizer = FlatAdam(learning_rate)
    if settings.precision == "mixed_float16":  # whose small gradients would be zero
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
