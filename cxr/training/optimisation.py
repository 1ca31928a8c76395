"""How a model is compiled: optimizer, loss, and TensorFlow's rewriting of graphs.

`FlatAdam` is here because Keras' Adam adds operations to the graph for each weight, and a deep network has
hundreds of weights. Tracing and optimising this graph takes most of the time before the first step of
fine-tuning. Each of these operations is elementwise. So the same update of all weights in one vector gives the
same bits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from cxr.core.params import TrainParams
from cxr.core.progress import progress

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults


class FlatAdam(keras.optimizers.Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1, in the form with "epsilon hat"), bit for bit Keras' own.

    It overrides Keras' public methods `build` and `apply`. Its state is two vectors, the first and the second
    moments of all weights in the order of `build`, beside Keras' step counter and learning rate. `build` it first;
    `apply` takes the same weights in the same order. It updates one replica.

    It refuses with a ValueError what it does not support: weights that are not float32 or have constraints, and
    sparse or missing gradients.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate, name="flat_adam")

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        for variable in variables:
            if variable.dtype != "float32" or variable.constraint is not None:
                raise ValueError(
                    f"FlatAdam updates float32 weights without constraints, not {variable.path} "
                    f"({variable.dtype}): use keras.optimizers.Adam"
                )
        super().build(variables)
        self._sizes = [math.prod(variable.shape) for variable in variables]
        self._first, self._second = (
            self.add_variable((sum(self._sizes),), dtype="float32", name=name)
            for name in ("first_moment", "second_moment")
        )

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        for weight, gradient in zip(trainable_variables, grads, strict=True):
            if not isinstance(gradient, tf.Tensor):
                found = "no" if gradient is None else "a sparse"
                raise ValueError(f"FlatAdam: {weight.path} has {found} gradient: use keras.optimizers.Adam")
        gradient = tf.concat([tf.reshape(each, [-1]) for each in grads], 0)
        step = tf.cast(self.iterations.value + 1, tf.float32)
        one_minus_power_1, one_minus_power_2 = (1 - tf.pow(beta, step) for beta in (_BETA_1, _BETA_2))
        rate = self.learning_rate * tf.sqrt(one_minus_power_2) / one_minus_power_1
        first, second = self._first.value, self._second.value
        first = first.assign_add((gradient - first) * (1 - _BETA_1))
        second = second.assign_add((tf.square(gradient) - second) * (1 - _BETA_2))
        update = first * rate / (tf.sqrt(second) + _EPSILON)
        for weight, part in zip(trainable_variables, tf.split(update, list(self._sizes)), strict=True):
            weight.value.assign_sub(tf.reshape(part, weight.shape))
        self.iterations.assign_add(1)


def compile_model(
    model: keras.Model, learning_rate: float, settings: TrainParams, labels: np.ndarray, *, steps_at_once: int = 1
) -> None:
    """Compile a model to logits in a way that makes its first step quick.

    There are few operations, and all variables exist before the step: it would be traced again if it made any.

    Args:
        labels: of the training images: int [n] classes, or float [n, findings] (`FindingsLoss`).
        steps_at_once: how many steps one call of the compiled graph takes. The bits do not depend on it.
    """
    with model.distribute_strategy.scope():
        optimizer = make_optimizer(learning_rate, settings)
        optimizer.build(model.trainable_variables)
        if labels.ndim == 2:
            loss = FindingsLoss(finding_weights(labels) if settings.class_weights else None)
            accuracy = keras.metrics.MeanMetricWrapper(right_findings, name="accuracy")
        else:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")  # "accuracy" would be built late
        options = {"jit_compile": settings.xla, "steps_per_execution": steps_at_once}
        model.compile(optimizer, loss=loss, metrics=[accuracy], **options)


class FindingsLoss(keras.losses.Loss):
    """Binary cross-entropy of several findings an image, from logits.

    Of an image: the sum over the findings that are known of it, divided by the number of all findings. So each
    known label counts the same, and one that is not known (NaN) counts nothing: neither the loss nor a gradient
    depends on it (*U-Ignore* of Irvin et al. 2019, CheXpert, arXiv 1901.07031, section 4).

    Args: weights: float [2, findings], of images without and with a finding (`finding_weights`); None: all 1.
    """

    def __init__(self, weights: np.ndarray | None = None) -> None:
        super().__init__(name="findings_loss")
        self._weights = None if weights is None else np.asarray(weights, np.float32)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels, known = _known(y_true)
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels, tf.cast(y_pred, tf.float32))
        if self._weights is not None:
            each *= tf.where(labels > 0.5, self._weights[1], self._weights[0])
        return tf.reduce_mean(each * known, axis=-1)


def right_findings(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """The share of an image's known findings that its logits, cut at 0, say right: float32 [n]."""
    labels, known = _known(y_true)
    right = tf.cast((y_pred > 0) == (labels > 0.5), tf.float32)
    return tf.reduce_sum(right * known, axis=-1) / tf.maximum(tf.reduce_sum(known, axis=-1), 1)


def _known(y_true: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels with 0 for those that are not known, and 1 where they are known, both float32 [n, findings]."""
    known = tf.cast(~tf.math.is_nan(y_true), tf.float32)
    return tf.where(tf.math.is_nan(y_true), tf.zeros_like(y_true), y_true), known


def finding_weights(labels: np.ndarray) -> np.ndarray:
    """Weights with which images with and without a finding count the same: float32 [2, findings], 1 on average.

    n / (2 n_without) and n / (2 n_with), by finding, over the n images of which it is known (as scikit-learn's
    "balanced" weights of two classes). Args: labels: float [n, findings], NaN where not known.
    """
    counts = np.stack([(labels == 0).sum(axis=0), (labels == 1).sum(axis=0)])
    return (counts.sum(axis=0) / (2 * np.maximum(counts, 1))).astype(np.float32)


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
