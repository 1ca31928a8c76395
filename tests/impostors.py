"""Maps that look like explanations of a class and are none. Checks of maps must fail them."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from scipy.ndimage import sobel

from cxr.attribution import following, randomising
from cxr.models import build

Explain = Callable[[np.ndarray, np.ndarray], np.ndarray]


def wrong_class(model: keras.Model, explain: Explain) -> Explain:
    """The map for the runner-up: the most probable class other than the one that is asked for."""
    predict = following.logits_function(model)

    def impostor(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        logits = predict(images)
        others = np.where(np.arange(logits.shape[1]) == classes[:, None], -np.inf, logits)
        return explain(images, others.argmax(1))

    return impostor


def head_free(model: keras.Model, layer: str) -> Explain:
    """The sum of a layer's positive activations. It uses neither the class nor the head."""
    signature = [tf.TensorSpec((None, *model.input_shape[1:3]), tf.float32)]
    activations = keras.Model(model.input, model.get_layer(layer).output)

    @tf.function(input_signature=signature, autograph=False)
    def summed(images):
        return tf.reduce_sum(tf.nn.relu(activations(images[..., None], training=False)), axis=-1)

    return lambda images, classes: summed(tf.constant(images, tf.float32)).numpy()


def edges(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The strength of the image's edges, in cells of 8 x 8 pixels. It does not use the network at all."""
    strength = np.stack([np.hypot(sobel(image, 0), sobel(image, 1)) for image in images.astype(float)])
    n, height, width = strength.shape
    cut = strength[:, : height // 8 * 8, : width // 8 * 8]
    return cut.reshape(n, height // 8, 8, width // 8, 8).mean((2, 4))


def other_head(model: keras.Model, explain: Explain, rng_seed: int) -> Explain:
    """The map of the same network under one given head of random weights."""

    def impostor(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        with randomising.randomised(build.head_layers(model), rng_seed):
            return explain(images, classes)

    return impostor
