"""Methods that read the attention of a transformer.

Each method is a function (model, layer, score) -> a function (images float32 [n, side, side, 1], classes int32
[n]) -> maps, named as in the table `cxr.core.methods`.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cxr.attribution import scores
from cxr.attribution.cams import signature
from cxr.models import tokens


def attention_rollout(
    model: keras.Model, layer: str, score: str = scores.DEFAULT
) -> Callable[[tf.Tensor, tf.Tensor], np.ndarray]:
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928, section 3): how much of what the head reads has
    come from each cell, if attention did nothing but mix tokens.

    A block's attention is the mean over its heads; with the shortcut, 0.5 A + 0.5 I; the blocks are multiplied. Of
    the product, the mean of the rows that the head reads: the class token's, or all if the head pools. All layers
    are used, whatever `layer` is.

    The map is the same for every class and does not see the head, so the checks of maps that ask for the class and
    the head fail by construction.

    Maps [n, side, side] on the grid of tokens, at least 0; with the tokens that are no cells they would sum to 1.
    Raises: InputError for a network without `keras.layers.MultiHeadAttention` on its tokens.
    """
    attention = tokens.attention(model)
    layout, read = attention.layout, tf.constant(attention.read[None, None], tf.float32)
    called = keras.Model(model.input, [each for call in attention.calls for each in call.inputs])

    @tf.function(input_signature=signature(model), autograph=False)
    def compute(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        found = iter(called(images, training=False))
        mixed = []
        for call in attention.calls:
            query, value, key = (next(found) for _ in call.inputs)
            _, weights = call.layer(query, value, key, return_attention_scores=True, training=False)
            mixed.append(tf.reduce_mean(tf.cast(weights, tf.float32), axis=1))  # [n, t, t]
        rows = tf.repeat(read, tf.shape(images)[0], axis=0)
        for one in reversed(mixed):
            rows = 0.5 * (tf.matmul(rows, one) + rows)
        return tf.reshape(rows[:, 0, layout.cells], (-1, layout.side, layout.side))

    return lambda images, classes: compute(images, classes).numpy()
