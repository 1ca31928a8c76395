"""Attribution maps of a classifier: gradient CAMs, and methods that ask the model about changed images.

CAMS are functions of (A, G) alone: the activations of a target layer and the gradient of a score with respect to
them. One compiled forward pass, and one backward pass that ends at the shallowest layer wanted, serve every CAM
at every layer, so another method, layer or normalisation costs next to nothing (`variants`).

INPUT_METHODS run the model on changed images, tens of times an image: they do not depend on gradients inside the
network, which is what they are for beside the CAMs.

All maps are of positive evidence: at least 0, raw, on a grid of their own whose cells tile the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cxr.core.errors import InputError
from cxr.core.progress import progress
from cxr.models import build, targets

SCORECAM_CHANNELS = 32
SMOOTHGRAD_SAMPLES = 16
SMOOTHGRAD_NOISE = 0.1  # of the image's range of grey values
SMOOTHGRAD_SEED = 0
IG_STEPS = 64
OCCLUSION_GRID = 8
MAX_PIXEL_GRID = 64

Cam = Callable[[tf.Tensor, tf.Tensor], np.ndarray]
Explain = Callable[[tf.Tensor, tf.Tensor], np.ndarray]
Key = TypeVar("Key", bound=Hashable)


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
        layer: one of `build.TARGETS` or a layer's name. Methods outside LAYER_METHODS have no use for it.
        methods: names from METHODS.
        batch_size: images per pass.
        label: what to call this in progress lines; empty: none are printed.

    Returns: per method, maps float32 [n, h, w], not normalised, at least 0: on the layer's own grid for
        LAYER_METHODS, else on the method's. A map may be all zero or hold NaN: see `map_grids.is_empty`.
    Raises: InputError for an unknown layer or method, a grid under 4x4, or no image.
    """
    explain = _explainer(model, layer, tuple(methods))
    return _in_batches(explain, images, class_index, batch_size, label)


def attribute_heads(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    heads: Iterable[tuple[np.ndarray, ...]],
    *,
    layer: str,
    methods: Iterable[str] = ("layercam", "gradcampp"),
    batch_size: int = 32,
    label: str = "",
) -> list[dict[str, np.ndarray]]:
    """`attribute`, once for each of several heads on the same backbone, compiled once for all of them.

    Args: heads: their weights, (kernel [d, n_classes], bias [n_classes]) each, as `head` takes them; the others as
        `attribute`.
    Returns: what `attribute` does, a head. The model keeps its own head.
    Raises: InputError as `attribute` and `head`.
    """
    explain = _explainer(model, layer, tuple(methods))
    results = []
    for number, weights in enumerate(heads, start=1):
        with head(model, *weights):
            name = f"{label}, head {number}" if label else ""
            results.append(_in_batches(explain, images, class_index, batch_size, name))
    return results


def explainer(
    model: keras.Model, *, layer: str, methods: Iterable[str] = ("layercam", "gradcampp"), batch_size: int = 32
) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """A function (images, class_index) -> what `attribute` returns, compiled once: it follows the model's
    weights, as they are when it is called. Args and errors as for `attribute`.
    """
    explain = _explainer(model, layer, tuple(methods))
    return lambda images, class_index: _in_batches(explain, images, class_index, batch_size, "")


def variants_explainer(
    model: keras.Model, *, layer: str, methods: Iterable[str] = ("layercam", "gradcampp"), batch_size: int = 32
) -> Callable[[np.ndarray, np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """A function (images, class_index) -> the maps of `variants`, compiled once; as `explainer`."""
    explain, _, _ = _variants_explainer(model, layer, tuple(methods))
    return lambda images, class_index: _in_batches(explain, images, class_index, batch_size, "")


@contextmanager
def head(model: keras.Model, *weights: np.ndarray) -> Iterator[None]:
    """Give the head of `model` other weights, in place, and its own again at the end.

    What was compiled for the model follows: it reads the same variables.
    Args: kernel [d, n_classes] and bias [n_classes], or all weights of the head that a foreign classifier has, in
        the order of its layers (`cxr.models.build.head`). Raises InputError for other shapes.
    """
    variables = [variable for layer in build.head_layers(model) for variable in layer.weights]
    own = [np.array(variable) for variable in variables]
    got, fits = [np.shape(weight) for weight in weights], [weight.shape for weight in own]
    if got != fits:
        raise InputError(f"head: {model.name} needs weights (kernel, bias) of shapes {fits}, got {got}")
    try:
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)
        yield
    finally:
        for variable, weight in zip(variables, own, strict=True):
            variable.assign(weight)


@dataclass(frozen=True)
class Variant:
    """Maps of one CAM under one choice other than the default's."""

    maps: np.ndarray  # float32 [n, h, w], at least 0
    layer: str  # the layer's name in the model; several are joined by "+"


def variants(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    *,
    layer: str,
    methods: Iterable[str] = ("layercam", "gradcampp"),
    batch_size: int = 32,
    label: str = "",
) -> tuple[dict[tuple[str, str], Variant], dict[str, str]]:
    """The default maps of CAMs, and those under other choices that a reader could have made as well.

    - `default`: what `attribute` returns.
    - `layer-<name>`, for each of `cxr.models.targets.TARGETS`: at that layer, where it is another one.
    - `score-softmax`: the gradient of the class' probability instead of its logit.
    - `norm-positive` (gradcampp): see `gradcampp_positive`.
    - `layers-fused` (layercam): see `fuse`; over `shallower`, `penultimate` and `final`, as far as there are.

    One forward pass and one backward pass to the shallowest layer serve all; the softmax needs another backward
    pass through the layers behind `layer`.

    Args: as `attribute`; methods from CAMS.
    Returns: the variants by (method, variant name), and by variant name why one is missing.
    Raises: InputError as `attribute`, and for a method that is no CAM.
    """
    explain, where, missing = _variants_explainer(model, layer, tuple(methods))
    maps = _in_batches(explain, images, class_index, batch_size, label)
    return {key: Variant(values, where[key[1]]) for key, values in maps.items()}, missing


def _variants_explainer(model: keras.Model, layer: str, methods: Sequence[str]):
    """What `_in_batches` calls, the layer of each variant, and by variant name why one is missing."""
    others = [name for name in methods if name not in CAMS]
    if others:
        raise InputError(f"method: {', '.join(others)} has no variants: use {', '.join(CAMS)}")
    own = targets.target_layer(model, layer)
    named, missing = _layers_beside(model, own)
    at = {"default": own, **{f"layer-{name}": real for name, real in named.items() if real != own}}
    variant_at = {real: variant for variant, real in at.items()}
    fused = [named[name] for name in ("shallower", "penultimate", "final") if name in named]
    if len(fused) < 2:
        missing["layers-fused"] = f"needs two of shallower, penultimate and final, and there are {len(fused)}"
    wanted = [*((real, "logit") for real in at.values()), (own, "probability")]
    compute = activations_and_gradients(model, wanted)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> dict[tuple[str, str], np.ndarray]:
        found = dict(zip(wanted, compute(images, classes), strict=True))
        maps = {}
        for method in methods:
            for variant, real in at.items():
                maps[method, variant] = CAMS[method](*found[real, "logit"])
            maps[method, "score-softmax"] = CAMS[method](*found[own, "probability"])
        if "gradcampp" in methods:
            maps["gradcampp", "norm-positive"] = gradcampp_positive(*found[own, "logit"])
        if "layercam" in methods and len(fused) > 1:
            maps["layercam", "layers-fused"] = fuse([maps["layercam", variant_at[real]] for real in fused])
        return maps

    where = {**at, "score-softmax": own, "norm-positive": own, "layers-fused": "+".join(fused)}
    return explain, where, missing


def _layers_beside(model: keras.Model, own: str) -> tuple[dict[str, str], dict[str, str]]:
    """The model's layers by target name, each layer once (`own` under any name that it has), and by variant name
    why a target has none of its own."""
    named: dict[str, str] = {}
    missing = {}
    for name in targets.TARGETS:
        try:
            real = targets.target_layer(model, name)
        except InputError as error:
            missing[f"layer-{name}"] = str(error)
            continue
        same = "default" if real == own else next((f"layer-{n}" for n, r in named.items() if r == real), "")
        if same:
            missing[f"layer-{name}"] = f"{real} is the layer of {same}"
        if same in ("", "default"):
            named[name] = real
    return named, missing


def _explainer(model: keras.Model, layer: str, methods: Sequence[str]):
    """What `_in_batches` calls: (images float32 [n, side, side, 1], classes int32 [n]) -> maps by method."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InputError(f"method: unknown {', '.join(unknown)}: use {', '.join(METHODS)}")
    layer = targets.target_layer(model, layer)
    cams = [name for name in methods if name in CAMS]
    compute = activations_and_gradients(model, [(layer, "logit")]) if cams else None
    others = {name: INPUT_METHODS[name](model, layer) for name in methods if name in INPUT_METHODS}

    def explain(images: tf.Tensor, classes: tf.Tensor) -> dict[str, np.ndarray]:
        maps = {}
        if compute is not None:
            [(activations, gradients)] = compute(images, classes)
            maps = {name: CAMS[name](activations, gradients) for name in cams}
        maps |= {name: other(images, classes) for name, other in others.items()}
        return {name: maps[name] for name in methods}

    return explain


def _in_batches(
    explain: Callable[[tf.Tensor, tf.Tensor], dict[Key, np.ndarray]],
    images: np.ndarray,
    class_index: np.ndarray,
    batch_size: int,
    label: str,
) -> dict[Key, np.ndarray]:
    if len(images) == 0:
        raise InputError("attribution: there is no image to explain")
    batches: dict[Key, list[np.ndarray]] = {}
    report = max(1, len(images) // batch_size // 4)
    for number, first in enumerate(range(0, len(images), batch_size)):
        part = slice(first, first + batch_size)
        found = explain(
            tf.convert_to_tensor(images[part][..., None], tf.float32),
            tf.convert_to_tensor(class_index[part], tf.int32),
        )
        for key, maps in found.items():
            batches.setdefault(key, []).append(np.asarray(maps, np.float32))
        if label and number % report == 0:
            progress(f"{label}: image {min(first + batch_size, len(images))}/{len(images)}")
    return {key: np.concatenate(maps) for key, maps in batches.items()}


def activations_and_gradients(
    model: keras.Model, wanted: Sequence[tuple[str, str]]
) -> Callable[[tf.Tensor, tf.Tensor], list[tuple[tf.Tensor, tf.Tensor]]]:
    """A compiled function (images float32 [n, side, side, 1], classes int32 [n]) -> a pair (A, G) for each of
    `wanted`, which are (layer, score): the output of the layer [n, h, w, k] and the gradient with respect to it of
    each image's score, the `logit` of its class or its `probability`.

    As a graph, a backward pass ends at the first layer wanted: nothing before it is differentiated. One trace
    serves all batch sizes.
    """
    names = list(dict.fromkeys(layer for layer, _ in wanted))
    outputs = [model.get_layer(name).output for name in names]
    whole = keras.Model(model.input, [*outputs, model.get_layer("logits").output])

    @tf.function(input_signature=_signature(model), autograph=False)
    def compute(images, classes):
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(images)  # so that the tape records; differentiated is with respect to A only
            *found, logits = whole(images, training=False)
            scores = {"logit": _class_logit(logits, classes), "probability": _margin(logits, classes)}
        activations = dict(zip(names, found, strict=True))
        # p = sigmoid(margin), and its slope p (1 - p) in a form that does not vanish when p rounds to 1
        slope = tf.sigmoid(scores["probability"]) * tf.sigmoid(-scores["probability"])
        seeds = {"logit": tf.ones_like(slope), "probability": slope}
        gradients = {}
        for score in dict.fromkeys(score for _, score in wanted):
            at = [layer for layer, s in wanted if s == score]
            sources = [activations[layer] for layer in at]
            found = tape.gradient(scores[score], sources, output_gradients=seeds[score])
            gradients |= {(layer, score): gradient for layer, gradient in zip(at, found, strict=True)}
        return [(activations[layer], gradients[layer, score]) for layer, score in wanted]

    return compute


def _signature(model: keras.Model) -> list[tf.TensorSpec]:
    return [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32), tf.TensorSpec((None,), tf.int32)]


def _class_logit(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, classes, batch_dims=1)


def _margin(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """log(p / (1 - p)) of the class' probability p: its logit over the log-sum-exp of the others."""
    is_class = tf.one_hot(classes, tf.shape(logits)[1], on_value=True, off_value=False)
    others = tf.where(is_class, tf.constant(-np.inf, logits.dtype), logits)
    return _class_logit(logits, classes) - tf.reduce_logsumexp(others, axis=1)


def layercam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """LayerCAM: relu(sum_k relu(G_k) * A_k), Jiang et al. 2021 (IEEE TIP 30), equations 4 to 6.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradients) * activations, axis=-1)).numpy()


def hirescam(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """HiResCAM: relu(sum_k G_k * A_k), Draelos and Carin 2020 (arXiv 2011.08891), equation 5, and a ReLU, as all
    maps here are of positive evidence.

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

    It multiplies by exp(score), which overflows float32 above a score of 89 and cancels in a normalised map: the
    score is shifted to 0.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0, equal to tf-keras-vis' on the full model
        up to that factor.
    """
    return _compiled_gradcampp(tuple(activations.shape[1:]))(activations, gradients).numpy()


@lru_cache(maxsize=32)
def _compiled_gradcampp(shape: tuple[int, int, int]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    # as a graph, its two dozen elementwise steps take a third of the time (its `Gradcam` computes in NumPy and
    # cannot be compiled)
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    signature = [tf.TensorSpec((None, *shape), tf.float32)] * 2
    return tf.function(partial(_by_tf_keras_vis, GradcamPlusPlus), input_signature=signature, autograph=False)


def gradcampp_positive(activations: tf.Tensor, gradients: tf.Tensor) -> np.ndarray:
    """Grad-CAM++ as its authors' code normalises: a channel's alphas are divided by their sum over the positions
    of positive gradient (tf-keras-vis: over all positions, where the sum can be negative, which flips the
    channel's sign).

    alpha = G^2 / (2 G^2 + G^3 sum A) (equation 19; exp(score), in every term, cancels), which is
    1 / (2 + G sum A) where G > 0, and only there does the weight sum(alpha * relu(G)) see it.

    Args: A and G [n, h, w, k]. Returns: maps [n, h, w], at least 0.
    """
    denominator = 2 + gradients * tf.reduce_sum(activations, axis=(1, 2), keepdims=True)
    alphas = tf.where(gradients > 0, tf.math.reciprocal_no_nan(denominator), 0)
    alphas = tf.math.divide_no_nan(alphas, tf.reduce_sum(alphas, axis=(1, 2), keepdims=True))
    weights = tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()


def fuse(maps: Sequence[np.ndarray]) -> np.ndarray:
    """LayerCAM maps of several layers as one, as torch-cam does it: min-max each, tanh(2 M) (Jiang et al. 2021,
    equation 7), bilinear to the largest grid (half-pixel, the convention of `similarity.upsample`), maximum.

    A constant map adds nothing; one that is not finite makes the fused map so.
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
    """tf-keras-vis is given the linear model sum(A * G), whose gradient at A is G, which makes its arithmetic
    exact without another pass through the network."""
    explain = explainer(_linear_model(tuple(activations.shape[1:])), clone=False)
    return explain(
        # 0, and one number for the whole batch, whose gradient is each image's own: the batch's size stays open
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


def scorecam(model: keras.Model, layer: str) -> Explain:
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279) by tf-keras-vis, on the SCORECAM_CHANNELS channels of the
    layer that vary most over the image ("Faster Score-CAM"): that many forward passes an image.

    A channel's weight is the class' probability for the image masked by that channel (tf-keras-vis takes the
    softmax itself, of the logits).
    Images go one by one: tf-keras-vis would choose the channels for all images of a batch together.
    """
    from tf_keras_vis.scorecam import Scorecam

    explainer = Scorecam(_to_logits(model), clone=False)
    explainer.model.predict = partial(explainer.model.predict, verbose=0)  # else a progress bar an image
    channels = min(SCORECAM_CHANNELS, model.get_layer(layer).output.shape[-1])

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        maps = [
            explainer(
                partial(_class_logit, classes=classes[i : i + 1]),
                images[i : i + 1],
                penultimate_layer=layer,
                seek_penultimate_conv_layer=False,
                max_N=channels,
                expand_cam=False,
                normalize_cam=False,
            )
            for i in range(len(images))
        ]
        return np.concatenate(maps)

    return explain


def smoothgrad(model: keras.Model) -> Explain:
    """SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825) by tf-keras-vis: the mean of |d logit / d pixel| over
    SMOOTHGRAD_SAMPLES copies of the image with normal noise of SMOOTHGRAD_NOISE times its range of grey values.

    The grid: pixels, averaged to at most MAX_PIXEL_GRID a side.
    The copies of an image go as one batch, and every image sees the same noise: so its map depends neither on the
    other images nor on the batch size, and two checkpoints are compared under the same noise.
    """
    from tf_keras_vis.saliency import Saliency

    explainer = Saliency(_to_logits(model), clone=False)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        maps = []
        for image, class_index in zip(images, classes, strict=True):
            copies = tf.repeat(image[None], SMOOTHGRAD_SAMPLES, axis=0)
            score = partial(_class_logit, classes=tf.repeat(class_index, SMOOTHGRAD_SAMPLES))
            with _numpy_seed(SMOOTHGRAD_SEED):
                noisy = explainer(
                    score, copies, smooth_samples=1, smooth_noise=SMOOTHGRAD_NOISE, normalize_map=False
                )
            maps.append(np.mean(noisy, axis=0))
        return _pixel_grid(np.stack(maps))

    return explain


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """tf-keras-vis draws its noise from NumPy's global generator: seed that, and leave it as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def integrated_gradients(model: keras.Model) -> Explain:
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365, equation 1): the positive part of what
    each cell adds to the class' logit on the way from a flat image of the image's own mean grey.

    The baseline: from black, dark pixels could never be evidence, and in a radiograph they are (air). The grid:
    pixels, averaged with their signs to at most MAX_PIXEL_GRID a side, then rectified: a cell counts by what it
    adds as a whole, as in a CAM, and cells that speak against the class count as nothing.
    """
    signed = signed_integrated_gradients(model)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        return np.maximum(_pixel_grid(signed(images, classes)), 0)

    return explain


def signed_integrated_gradients(model: keras.Model, *, steps: int = IG_STEPS) -> Explain:
    """As `integrated_gradients`, a pixel each and with signs: [n, side, side], whose sum is the logit of the image
    over that of its baseline, up to the error of the sum for the integral: that of the midpoint rule on `steps`
    intervals that widen as squares, since the gradient changes fastest where there is hardly any contrast. On
    phantom images, CompactResNetV2 and CompactInception with their source weights, that error is about 3 % of a
    typical difference (6 % at 32 steps; with even intervals 2 to 10 %)."""
    to_logits = _to_logits(model)
    ends = (np.linspace(0, 1, steps + 1) ** 2).tolist()

    @tf.function(input_signature=_signature(model), autograph=False)
    def gradient(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            score = _class_logit(to_logits([images], training=False), classes)
        return tape.gradient(score, images)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        baseline = _mean_grey(images)
        total = tf.zeros_like(images)
        for start, end in itertools.pairwise(ends):
            total += (end - start) * gradient(baseline + (start + end) / 2 * (images - baseline), classes)
        return ((images - baseline) * total).numpy()[..., 0]

    return explain


def occlusion(model: keras.Model) -> Explain:
    """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2): by how much the class' logit drops, if it
    does, when one cell of an OCCLUSION_GRID x OCCLUSION_GRID grid is painted in the image's mean grey.

    The cells do not overlap and tile the image: one forward pass each.
    """
    to_logits = _to_logits(model)

    @tf.function(input_signature=_signature(model), autograph=False)
    def score(images, classes):
        return _class_logit(to_logits([images], training=False), classes)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> np.ndarray:
        grey = _mean_grey(images)
        cell = np.arange(images.shape[1]) * OCCLUSION_GRID // images.shape[1]  # of each row or column
        drops = np.zeros((len(images), OCCLUSION_GRID, OCCLUSION_GRID), np.float32)
        whole = score(images, classes)
        for row, column in np.ndindex(OCCLUSION_GRID, OCCLUSION_GRID):
            painted = ((cell == row)[:, None] & (cell == column))[None, ..., None]
            drops[:, row, column] = whole - score(tf.where(painted, grey, images), classes)
        return np.maximum(drops, 0)

    return explain


def _to_logits(model: keras.Model) -> keras.Model:
    # its input is a list of one, as tf-keras-vis passes it: Keras warns of other structures
    return keras.Model([model.input], model.get_layer("logits").output)


def _mean_grey(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)


def _pixel_grid(maps: np.ndarray) -> np.ndarray:
    """Area averages on a grid of at most MAX_PIXEL_GRID a side: [n, side, side] -> [n, h, h]."""
    side = min(maps.shape[1], MAX_PIXEL_GRID)
    return tf.image.resize(maps[..., None], (side, side), method="area").numpy()[..., 0]


CAMS: Mapping[str, Cam] = {
    "layercam": layercam,
    "gradcampp": gradcampp,
    "gradcam": gradcam,
    "hirescam": hirescam,
}
INPUT_METHODS: Mapping[str, Callable[[keras.Model, str], Explain]] = {
    "scorecam": scorecam,
    "smoothgrad": lambda model, layer: smoothgrad(model),
    "integrated_gradients": lambda model, layer: integrated_gradients(model),
    "occlusion": lambda model, layer: occlusion(model),
}
METHODS: tuple[str, ...] = (*CAMS, *INPUT_METHODS)
LAYER_METHODS: tuple[str, ...] = (*CAMS, "scorecam")  # whose map depends on the target layer and has its grid
