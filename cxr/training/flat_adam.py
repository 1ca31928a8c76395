"""Adam whose update takes a handful of operations, however many weights there are.

`keras.optimizers.Adam` needs some twenty operations to update one weight, and a DenseNet201 has hundreds of
weights. Tracing and optimising this graph takes most of the time before the first step of fine-tuning. Each of
these operations is elementwise. So the same update of all weights in one vector gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

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
