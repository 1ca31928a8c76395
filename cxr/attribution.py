"""Attribution maps: one forward and one backward pass through the network's tail serve every gradient CAM.

A compiled function returns the activations A of the target layer and the gradients G = d logit / dA. A method is a
function of (A, G) alone, so a further method costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cxr import models
from cxr.console import progress
from cxr.errors import InputError

Method = Callable[[tf.Tensor, tf.Tensor], np.ndarray]


def attribute(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    *,
    layer: str,
    methods: Iterable[str] = ("layercam", "gradcampp"),
    batch_size: int = 32,
    label: str = "",
) -> dict[str, np.ndarray]:
    """Raw attribution maps of one checkpoint.

    Args:
        model: a flat classifier as `cxr.models.build` makes it (its logits in a layer named `logits`).
        images: grey values uint8 [n, side, side].
        class_index: int [n], the class whose logit is explained, per image.
        layer: `penultimate`, `final` or another name that `cxr.models.target_layer` knows.
        methods: names from METHODS.
        batch_size: images per pass.
        label: what to call this in progress lines; empty: none are printed.

    Returns: per method, maps float32 [n, h, w] on the layer's own grid, not normalised, at least 0. A map may be
        all zero or hold NaN: see `cxr.drift.degenerate`.
    Raises: InputError for an unknown layer or method, a grid under 4x4, or no image.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InputError(f"method: unknown {', '.join(unknown)}: use {', '.join(METHODS)}")
    if len(images) == 0:
        raise InputError("attribution: there is no image to explain")
    compute = activations_and_gradients(model, models.target_layer(model, layer))
    batches: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    report = max(1, len(images) // batch_size // 4)
    for number, first in enumerate(range(0, len(images), batch_size)):
        part = slice(first, first + batch_size)
        activations, gradients = compute(
            tf.convert_to_tensor(images[part, ..., None], tf.float32),
            tf.convert_to_tensor(class_index[part], tf.int32),
        )
        for name, maps in batches.items():
            maps.append(np.asarray(METHODS[name](activations, gradients), np.float32))
        if label and number % report == 0:
            progress(f"{label}: image {min(first + batch_size, len(images))}/{len(images)}")
    return {name: np.concatenate(maps) for name, maps in batches.items()}


def activations_and_gradients(model: keras.Model, layer: str) -> Callable[[tf.Tensor, tf.Tensor], tuple]:
    """A compiled function (images float32 [n, side, side, 1], classes int32 [n]) -> (A, G), both [n, h, w, k]:
    the output of `layer` and the gradient of each image's class logit (not the softmax) with respect to it.

    As a graph, the backward pass ends at A: nothing before it is differentiated. One trace serves all batch sizes.
    """
    both = keras.Model(model.input, [model.get_layer(layer).output, model.get_layer("logits").output])

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *model.input_shape[1:]), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ],
        autograph=False,
    )
    def compute(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)  # so that the tape records; differentiated is with respect to A only
            activations, logits = both(images, training=False)
            score = tf.gather(logits, classes, batch_dims=1)
        return activations, tape.gradient(score, activations)

    return compute


def layercam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """LayerCAM: relu(sum_k relu(G_k) * A_k), Jiang et al. 2021 (IEEE TIP 30), equations 4 to 6.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradients) * activations, axis=-1)).numpy()


def gradcampp(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063) by tf-keras-vis, from A and G.

    tf-keras-vis is given the linear model sum(A * G), whose gradient at A is G, which makes its arithmetic exact
    without another pass through the network. It multiplies by exp(score), which overflows float32 above a score
    of 89 and cancels in a normalised map: the score is shifted to 0.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0, equal to tf-keras-vis' on the full model
        up to that factor.
    """
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    explain = GradcamPlusPlus(_linear_model(tuple(activations.shape[1:])), clone=False)
    maps = explain(
        lambda output: output - tf.stop_gradient(output),
        [activations, gradients],
        penultimate_layer="activations_out",
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    return np.asarray(maps)


METHODS: Mapping[str, Method] = {"layercam": layercam, "gradcampp": gradcampp}


@lru_cache(maxsize=8)
def _linear_model(shape: tuple[int, int, int]) -> keras.Model:
    activations = keras.Input(shape, name="activations")
    gradients = keras.Input(shape, name="gradients")
    x = layers.Activation("linear", name="activations_out")(activations)
    flat = [layers.Flatten()(x), layers.Flatten()(gradients)]
    return keras.Model([activations, gradients], layers.Dot(axes=1)(flat))
