"""Gradient CAMs: maps from the activations A of a layer and the gradients G of a score at it.

One compiled forward pass, and one backward pass that ends at the shallowest layer wanted, serve every CAM at every
layer (`activations_and_gradients`). Another method, layer or normalisation therefore costs next to nothing.

A CAM is a function (A, G) -> maps, named as in the table `cxr.core.methods`. All maps are of positive evidence: at
least 0, not normalised, on the layer's own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cxr.attribution.scores import Head

Pairs = list[tuple[tf.Tensor, tf.Tensor]]


def activations_and_gradients(
    model: keras.Model, wanted: Sequence[tuple[str, str]]
) -> Callable[[tf.Tensor, tf.Tensor], tuple[Pairs, tf.Tensor]]:
    """A compiled function (images float32 [n, side, side, 1], classes int32 [n]) -> a pair (A, G) for each of
    `wanted`, and the model's output, float32 [n, n_classes].

    A class of -1 stands for the one of the largest output.

    Args:
        model: its logits are the output of a layer named `logits`.
        wanted: pairs (layer, score), the score one of `cxr.core.methods.SCORES`.
    Returns: A is the layer's output, G the gradient of each image's score at it, both float32 [n, h, w, k].
    Raises: InputError for a score that the model does not have (`scores.Head`).

    The backward pass ends at the first layer wanted: nothing before it is differentiated. One trace serves all
    batch sizes.
    """
    names = list(dict.fromkeys(layer for layer, _ in wanted))
    heads = {score: Head(model, score) for score in dict.fromkeys(score for _, score in wanted)}
    head_input = next(iter(heads.values())).input
    whole = keras.Model(model.input, [*(model.get_layer(name).output for name in names), head_input, model.output])

    @tf.function(input_signature=signature(model), autograph=False)
    def compute(images, classes):
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(images)  # so that the tape records; gradients are taken at A only
            *found, features, output = whole(images, training=False)
            classes = tf.where(classes < 0, tf.argmax(output, axis=1, output_type=tf.int32), classes)
            explained = {score: head.scores(features, classes) for score, head in heads.items()}
        activations = dict(zip(names, found, strict=True))
        gradients = {}
        for score in heads:
            at = [layer for layer, s in wanted if s == score]
            found = tape.gradient(explained[score], [activations[layer] for layer in at])
            gradients |= {(layer, score): gradient for layer, gradient in zip(at, found, strict=True)}
        found = [(activations[layer], gradients[layer, score]) for layer, score in wanted]
        # some models have other types
        return [tuple(tf.cast(part, tf.float32) for part in pair) for pair in found], tf.cast(output, tf.float32)

    return compute


def signature(model: keras.Model) -> list[tf.TensorSpec]:
    """Of a compiled function of (images float32 [n, side, side, 1], classes int32 [n]), for any n."""
    return [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32), tf.TensorSpec((None,), tf.int32)]


def layercam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """LayerCAM: relu(sum_k relu(G_k) * A_k), Jiang et al. 2021 (IEEE TIP 30), equations 4 to 6.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradients) * activations, axis=-1)).numpy()


def hirescam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """HiResCAM: relu(sum_k G_k * A_k), Draelos and Carin 2020 (arXiv 2011.08891), equation 5.

    The ReLU is ours: all maps here are of positive evidence.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    return tf.nn.relu(tf.reduce_sum(gradients * activations, axis=-1)).numpy()


def gradcam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2) by tf-keras-vis, from A and G.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0, equal to tf-keras-vis' on the full model.
    """
    from tf_keras_vis.gradcam import Gradcam

    return np.asarray(_by_tf_keras_vis(Gradcam, activations, gradients))


def gradcampp(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063) by tf-keras-vis, from A and G.

    tf-keras-vis multiplies by exp(score), which overflows float32 above a score of 89. The factor cancels in a
    normalised map, so the score is shifted to 0.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0, equal to tf-keras-vis' on the full model
        up to that factor.
    """
    return _compiled_gradcampp(tuple(activations.shape[1:]))(activations, gradients).numpy()


@lru_cache(maxsize=32)
def _compiled_gradcampp(shape: tuple[int, int, int]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    # Compiled, its two dozen elementwise steps take a third of the time. (Its `Gradcam` computes in NumPy and
    # cannot be compiled.)
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    signature = [tf.TensorSpec((None, *shape), tf.float32)] * 2
    return tf.function(partial(_by_tf_keras_vis, GradcamPlusPlus), input_signature=signature, autograph=False)


def gradcampp_authors(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """Grad-CAM++, normalised as its authors' code does.

    A channel's alphas are divided by their sum over the positions of positive gradient. tf-keras-vis sums over all
    positions; that sum can be negative, which flips the channel's sign.

    alpha = G^2 / (2 G^2 + G^3 sum A) (equation 19; exp(score) is in every term and cancels). Where G > 0 this is
    1 / (2 + G sum A). Other positions do not matter: the weight is sum(alpha * relu(G)).

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    denominator = 2 + gradients * tf.reduce_sum(activations, axis=(1, 2), keepdims=True)
    alphas = tf.where(gradients > 0, tf.math.reciprocal_no_nan(denominator), 0)
    alphas = tf.math.divide_no_nan(alphas, tf.reduce_sum(alphas, axis=(1, 2), keepdims=True))
    weights = tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()


def fuse(maps: Sequence[np.ndarray]) -> np.ndarray:
    """One map from LayerCAM maps of several layers, as torch-cam makes it.

    Each map is scaled to [0, 1] by its minimum and maximum, passed through tanh(2 M) (Jiang et al. 2021,
    equation 7), and enlarged bilinearly to the largest grid (half-pixel centres, as `map_grids.upsample`). The
    fused map is their maximum. A constant map adds nothing; a map that is not finite makes the fused map not
    finite.

    Args: maps [n, h, w], one array a layer. Returns: float32 [n, H, W] in [0, 1].
    """
    size = max((m.shape[1:] for m in maps), key=np.prod)
    scaled = []
    for layer in maps:
        low, high = (f(layer, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        spread = np.where(high == low, 1, high - low)
        unit = np.tanh(2 * (layer - low) / spread)
        scaled.append(tf.image.resize(unit[..., None], size, method="bilinear").numpy()[..., 0])
    return np.maximum.reduce(scaled)


def _by_tf_keras_vis(explainer: type, activations: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """The map of a tf-keras-vis class, from A and G alone.

    tf-keras-vis gets the linear model sum(A * G), whose gradient at A is G. Its arithmetic is then exact, without
    another pass through the network.
    """
    explain = explainer(_linear_model(tuple(activations.shape[1:])), clone=False)
    return explain(
        # 0: one number for the whole batch, whose gradient is each image's own, so that the batch's size stays
        # open
        lambda output: tf.reduce_sum(output - tf.stop_gradient(output), axis=0),
        [activations, gradients],
        penultimate_layer="activations_out",
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )


@lru_cache(maxsize=8)
def _linear_model(shape: tuple[int, int, int]) -> keras.Model:
    activations = keras.Input(shape, name="activations")
    gradients = keras.Input(shape, name="gradients")
    x = layers.Activation("linear", name="activations_out")(activations)
    flat = [layers.Flatten()(x), layers.Flatten()(gradients)]
    return keras.Model([activations, gradients], layers.Dot(axes=1)(flat))
