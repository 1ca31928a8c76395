"""Adam whose update takes a handful of operations, however many weights there are.

`keras.optimizers.Adam` needs some twenty operations to update one weight, and a DenseNet201 has hundreds of
weights. Tracing and optimising this graph takes most of the time before the first step of fine-tuning. Each of
these operations is elementwise. So the same update of all weights in one vector gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

_UNSUPPORTED = (
    "weight_decay",
    "clipnorm",
    "global_clipnorm",
    "clipvalue",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


@keras.saving.register_keras_serializable("cxr")
class FlatAdam(keras.optimizers.Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1, in the form with "epsilon hat"), bit for bit Keras' own.

    It overrides Keras' public methods `build`, `apply` and `get_config`. Its state is two vectors, the first and
    the second moments of all weights in the order of `build`, beside Keras' step counter and learning rate.

    It refuses with a ValueError what it does not support: Keras' other options of an optimizer (decay, clipping,
    averaging, accumulation, a loss scale of its own; a `LossScaleOptimizer` around it is fine), weights that are
    not float32 or have constraints, sparse or missing gradients, and several replicas.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "flat_adam",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        asked = [key for key in _UNSUPPORTED if getattr(self, key)]
        if asked:
            raise ValueError(f"FlatAdam does not know {', '.join(asked)}: use keras.optimizers.Adam")
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("FlatAdam updates one replica, not several: use keras.optimizers.Adam")
        for variable in variables:
            if variable.dtype != "float32" or variable.constraint is not None:
                raise ValueError(
                    f"FlatAdam updates float32 weights without constraints, not {variable.path} "
                    f"({variable.dtype}): use keras.optimizers.Adam"
                )
        super().build(variables)
        # Only ids: Keras would treat variables that are attributes as the optimizer's own, and save them.
        self._ids = [id(variable) for variable in variables]
        self._sizes = [math.prod(variable.shape) for variable in variables]
        self._first, self._second = (
            self.add_variable((sum(self._sizes),), dtype="float32", name=name)
            for name in ("first_moment", "second_moment")
        )

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        weights = list(trainable_variables)
        if not self.built:
            self.build(weights)
        if [id(weight) for weight in weights] != list(self._ids):
            raise ValueError("FlatAdam updates the weights that it was built with, all of them and in order")
        for weight, gradient in zip(weights, grads, strict=True):
            if not isinstance(gradient, tf.Tensor):
                found = "no" if gradient is None else "a sparse"
                raise ValueError(f"FlatAdam: {weight.path} has {found} gradient: use keras.optimizers.Adam")
        gradient = tf.concat([tf.reshape(each, [-1]) for each in grads], 0)
        step = tf.cast(self.iterations.value + 1, tf.float32)
        one_minus_power_1, one_minus_power_2 = (1 - tf.pow(beta, step) for beta in (self.beta_1, self.beta_2))
        rate = self.learning_rate * tf.sqrt(one_minus_power_2) / one_minus_power_1
        first, second = self._first.value, self._second.value
        first = first.assign_add((gradient - first) * (1 - self.beta_1))
        second = second.assign_add((tf.square(gradient) - second) * (1 - self.beta_2))
        update = first * rate / (tf.sqrt(second) + self.epsilon)
        for weight, part in zip(weights, tf.split(update, list(self._sizes)), strict=True):
            weight.value.assign_sub(tf.reshape(part, weight.shape))
        self.iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        config = {key: value for key, value in super().get_config().items() if key in ("name", "learning_rate")}
        return {**config, "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
