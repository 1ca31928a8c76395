"""Methods that query the network about changed images, tens of times an image.

Beside the CAMs they show what does not depend on gradients inside the network.

Each method is a function (model, layer, score) -> a function (images float32 [n, side, side, 1], classes int32
[n]) -> maps, named as in the table `cxr.core.methods`. Only `scorecam` uses the layer. The score is one of
`cxr.core.methods.SCORES`; `scorecam` always takes the probability. All maps are of positive evidence: at least 0,
not normalised, on a grid of their own whose cells tile the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from cxr.attribution import scores
from cxr.attribution.cams import signature

SCORECAM_CHANNELS = 32
SMOOTHGRAD_SAMPLES = 16
SMOOTHGRAD_NOISE = 0.1  # of the image's range of grey values
SMOOTHGRAD_SEED = 0
IG_STEPS = 64
OCCLUSION_GRID = 8
MAX_PIXEL_GRID = 64

Explain = Callable[[tf.Tensor, tf.Tensor], np.ndarray]


def scorecam(model: keras.Model, layer: str, score: str = scores.DEFAULT) -> Explain:
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279) by tf-keras-vis, on the layer's own grid.

    It uses the SCORECAM_CHANNELS channels of the layer that vary most over the image ("Faster Score-CAM"): that
    many forward passes an image. A channel's weight is the class' probability for the image masked by that
    channel, *whatever the `score`*, as in tf-keras-vis and in the authors' code. (A weight has to be positive.
    For 24 phantom images and three compact networks, log-odds as weights left 52 of 72 maps empty, and their
    increase over a black image 18.) Weights are divided by the largest of the image, lest probabilities under
    1e-38 count as 0.

    Images go one by one, because tf-keras-vis chooses the channels for all images of a batch together.
    """
    from tf_keras_vis.scorecam import Scorecam

    explainer, head = Scorecam(_to_features(model), clone=False), scores.Head(model, "log_odds")
    predict = explainer.model.predict
    channels = min(SCORECAM_CHANNELS, model.get_layer(layer).output.shape[-1])

    def log_weights(masked: list[np.ndarray], class_index: tf.Tensor, batch_size: int) -> np.ndarray:
        features = predict(masked, batch_size=batch_size, verbose=0)  # no progress bar for every image
        log_p = tf.math.log_sigmoid(head.scores(features, tf.repeat(class_index, len(features))))
        return np.stack([log_p - tf.reduce_max(log_p), np.zeros(len(log_p))], axis=1)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        maps = []
        for image, class_index in zip(images, classes, strict=True):
            explainer.model.predict = partial(log_weights, class_index=class_index)
            found = explainer(
                lambda p: p[:, 0] / p[:, 1],  # tf-keras-vis has taken the softmax of (log weight, 0)
                image[None],
                penultimate_layer=layer,
                seek_penultimate_conv_layer=False,
                max_N=channels,
                expand_cam=False,
                normalize_cam=False,
            )
            maps.append(found)
        return np.concatenate(maps)

    return explain


def smoothgrad(model: keras.Model, layer: str, score: str = scores.DEFAULT) -> Explain:
    """SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825) by tf-keras-vis: the mean of |d score / d pixel| over
    SMOOTHGRAD_SAMPLES copies of the image with normal noise of SMOOTHGRAD_NOISE times its range of grey values.

    The grid: pixels, averaged to at most MAX_PIXEL_GRID a side. The layer is not used.

    The copies of an image are one batch, and every image gets the same noise. A map therefore depends neither on
    the other images nor on the batch size, and two checkpoints are compared under the same noise.
    """
    from tf_keras_vis.saliency import Saliency

    explainer, head = Saliency(_to_features(model), clone=False), scores.Head(model, score)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        maps = []
        for image, class_index in zip(images, classes, strict=True):
            copies = tf.repeat(image[None], SMOOTHGRAD_SAMPLES, axis=0)
            explained = partial(head.scores, classes=tf.repeat(class_index, SMOOTHGRAD_SAMPLES))
            with _numpy_seed(SMOOTHGRAD_SEED):
                noisy = explainer(
                    explained, copies, smooth_samples=1, smooth_noise=SMOOTHGRAD_NOISE, normalize_map=False
                )
            maps.append(np.mean(noisy, axis=0))
        return _pixel_grid(np.stack(maps))

    return explain


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, from which tf-keras-vis draws its noise; afterwards it is as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def integrated_gradients(model: keras.Model, layer: str, score: str = scores.DEFAULT) -> Explain:
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365, equation 1): the positive part of what
    each cell adds to the score, from a flat image of the image's own mean grey to the image.

    Baseline: the mean grey. From black, dark pixels could never be evidence, and in a radiograph they are (air).
    Grid: pixels, averaged with their signs to at most MAX_PIXEL_GRID a side, then rectified. As in a CAM, a cell
    counts by what it adds as a whole; a cell that speaks against the class counts as 0. The layer is not used.
    """
    signed = signed_integrated_gradients(model, score)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        return np.maximum(_pixel_grid(signed(images, classes)), 0)

    return explain


def signed_integrated_gradients(
    model: keras.Model, score: str = scores.DEFAULT, *, steps: int = IG_STEPS
) -> Explain:
    """As `integrated_gradients`, but one signed value a pixel: [n, side, side].

    The sum of a map is the score of the image minus that of its baseline, up to the error of the numerical
    integral. That is the midpoint rule on `steps` intervals whose ends grow as squares: the gradient changes
    fastest where the contrast is small. On phantom images, for CompactResNetV2 and CompactInception with their
    source weights, the error is about 3 % of a typical difference (6 % at 32 steps; 2 to 10 % with even
    intervals).
    """
    to_features, head = _to_features(model), scores.Head(model, score)
    ends = (np.linspace(0, 1, steps + 1) ** 2).tolist()

    @tf.function(input_signature=signature(model), autograph=False)
    def gradient(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            explained = head.scores(to_features([images], training=False), classes)
        return tape.gradient(explained, images)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        baseline = _mean_grey(images)
        total = tf.zeros_like(images)
        for start, end in itertools.pairwise(ends):
            total += (end - start) * gradient(baseline + (start + end) / 2 * (images - baseline), classes)
        return ((images - baseline) * total).numpy()[..., 0]

    return explain


def occlusion(model: keras.Model, layer: str, score: str = scores.DEFAULT) -> Explain:
    """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2): the drop of the score when one cell of an
    OCCLUSION_GRID x OCCLUSION_GRID grid is painted in the image's mean grey; 0 where the score rises.

    The cells do not overlap and tile the image; each takes one forward pass. The layer is not used.
    """
    to_features, head = _to_features(model), scores.Head(model, score)

    @tf.function(input_signature=signature(model), autograph=False)
    def score_of(images, classes):
        return head.scores(to_features([images], training=False), classes)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        grey = _mean_grey(images)
        cell = np.arange(images.shape[1]) * OCCLUSION_GRID // images.shape[1]  # of each row or column
        drops = np.zeros((len(images), OCCLUSION_GRID, OCCLUSION_GRID), np.float32)
        whole = score_of(images, classes)
        for row, column in np.ndindex(OCCLUSION_GRID, OCCLUSION_GRID):
            painted = ((cell == row)[:, None] & (cell == column))[None, ..., None]
            drops[:, row, column] = whole - score_of(tf.where(painted, grey, images), classes)
        return np.maximum(drops, 0)

    return explain


def _to_features(model: keras.Model) -> keras.Model:
    """From images to the input of the layer `logits`, from which `scores.Head` goes on."""
    # The input is a list of one, as tf-keras-vis passes it: Keras warns of other structures.
    return keras.Model([model.input], model.get_layer("logits").input)


def _mean_grey(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)


def _pixel_grid(maps: np.ndarray) -> np.ndarray:
    """Area averages on a grid of at most MAX_PIXEL_GRID a side: [n, side, side] -> [n, h, h]."""
    side = min(maps.shape[1], MAX_PIXEL_GRID)
    return tf.image.resize(maps[..., None], (side, side), method="area").numpy()[..., 0]
