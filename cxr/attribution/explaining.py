"""Attribution maps of a classifier by any method: what notebooks and commands call.

`attribute` gives the maps of one network. `explainer` compiles once, for callers that explain again: the same
network, also with the weights of other checkpoints and heads. So does `checkpoint_explainer`, which also gives the
maps of CAMs under other choices that a reader could have made as well.

All maps are of positive evidence: at least 0, not normalised, on a grid of their own whose cells tile the image.
Which methods there are, and of which kind: the table `cxr.core.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

from cxr.attribution import attention, cams, perturbing, scores
from cxr.core.errors import InputError
from cxr.core.methods import LABELS, SCORES, TABLE
from cxr.core.methods import cams as cams_of
from cxr.core.params import DEFAULT_METHODS
from cxr.core.progress import progress
from cxr.models import build, compiled, targets

Key = TypeVar("Key", bound=Hashable)

_OUTPUT = "output"  # beside the names of methods
_MODULES = {"cams": cams, "perturbing": perturbing, "attention": attention}


def function_of(method: str) -> Callable[..., Any]:
    """The function of a method: it bears the method's name, in the module that its kind names."""
    return getattr(_MODULES[TABLE[method].kind], method)


def attribute(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    *,
    layer: str,
    methods: Iterable[str] = DEFAULT_METHODS,
    score: str = scores.DEFAULT,
    batch_size: int = 32,
    label: str = "",
) -> dict[str, np.ndarray]:
    """Raw attribution maps of one checkpoint.

    What is compiled for a model, layer and score is kept with the model, once for all CAMs and once for each other
    method: a second call only computes, also after the weights have changed.

    Args:
        model: a flat classifier as `cxr.models.build` makes it (its logits in a layer named `logits`).
        images: grey values uint8 [n, side, side].
        class_index: int [n], the class that is explained, per image.
        layer: one of `build.TARGETS` or a layer's name. Methods that take no layer ignore it.
        methods: names from the table `cxr.core.methods`.
        score: what is explained of the class, one of `cxr.core.methods.SCORES`: see `cxr.attribution.scores`.
        batch_size: images per pass.
        label: name of the work in progress lines; empty: no progress lines.

    Returns: per method, maps float32 [n, h, w], not normalised, at least 0: on the layer's own grid for CAMs and
        Score-CAM, else on the method's. A map may be all zero or hold NaN: see `map_grids.is_empty`.
    Raises: InputError for an unknown layer or method, a score that the model does not have, a grid under 4x4, or
        no image.
    """
    explain = _explainer(model, layer, tuple(methods), score)
    return _in_batches(explain, images, class_index, batch_size, label)


def predict_and_attribute(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray | None,
    *,
    layer: str,
    methods: Sequence[str] = DEFAULT_METHODS,
    score: str = scores.DEFAULT,
    batch_size: int = 32,
    label: str = "",
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The model's probabilities, and what `attribute` returns, from the same passes.

    Args: as of `attribute`, but class_index: None for the class of the highest probability, per image; and
        methods: CAMs alone (`cxr.core.methods.cams`).
    Returns: (probabilities float32 [n, n_classes], maps).
    """
    explain = _explainer(model, layer, methods, score, with_output=True)
    class_index = np.full(len(images), -1) if class_index is None else class_index
    found = _in_batches(explain, images, class_index, batch_size, label)
    return found.pop(_OUTPUT), found


def explainer(
    model: keras.Model,
    *,
    layer: str,
    methods: Iterable[str] = DEFAULT_METHODS,
    score: str = scores.DEFAULT,
    batch_size: int = 32,
) -> Callable[..., dict[str, np.ndarray]]:
    """A function (images, class_index, label="") -> what `attribute` returns, compiled once.

    It uses the model's weights as they are when it is called. Args and errors as for `attribute`.
    """
    explain = _explainer(model, layer, tuple(methods), score)

    def explained(images: np.ndarray, class_index: np.ndarray, label: str = "") -> dict[str, np.ndarray]:
        return _in_batches(explain, images, class_index, batch_size, label)

    return explained


@contextmanager
def head(model: keras.Model, *weights: np.ndarray) -> Iterator[None]:
    """Give the head of `model` other weights, in place; at the end it has its own again.

    Functions that were compiled for the model use the other weights too: they read the same variables.
    Args: kernel [d, n_classes] and bias [n_classes], or all weights of the head that a foreign classifier has, in
        the order of its layers (`cxr.models.build.head`).
    Raises: InputError for other shapes.
    """
    variables = [variable for layer in build.head_layers(model) for variable in layer.weights]
    got, fits = [np.shape(weight) for weight in weights], [tuple(variable.shape) for variable in variables]
    if got != fits:
        raise InputError(f"head: {model.name} needs weights (kernel, bias) of shapes {fits}, got {got}")
    with assigned(variables, weights):
        yield


@contextmanager
def assigned(variables: Sequence[keras.Variable], values: Sequence[Any]) -> Iterator[None]:
    """Give variables other values, in place; at the end they have their own again (`given_back`)."""
    with given_back(variables):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        yield


@contextmanager
def given_back(variables: Sequence[keras.Variable]) -> Iterator[list[np.ndarray]]:
    """Values of variables, which may be assigned within. At the end, also after an error, they are restored."""
    own = [variable.numpy() for variable in variables]
    try:
        yield own
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


@dataclass(frozen=True)
class Variant:
    """Maps of one CAM under one choice other than the default's."""

    maps: np.ndarray  # float32 [n, h, w], at least 0
    layer: str  # the layer's name in the model; several are joined by "+"


class Explained(NamedTuple):
    """All maps of one checkpoint, and their variants: the maps of CAMs under other choices.

    The variants' names:
    - `layer-<name>`, for each of `cxr.models.targets.TARGETS`: at that layer, if it is another one.
    - `score-<name>`, for each other one of `cxr.core.methods.SCORES`: of that score. A method has none if its
      maps would be the default's up to a factor (`proportional` in `cxr.core.methods`).
    - `layers-fused` (layercam): see `cams.fuse`; over those of `shallower`, `penultimate` and `final` that the
      model has.
    """

    maps: dict[str, np.ndarray]  # by method: float32 [n, h, w], at least 0
    variants: dict[tuple[str, str], Variant]  # by (method, variant name)
    missing: dict[str, str]  # by variant name: why there is none


def checkpoint_explainer(
    model: keras.Model,
    *,
    layer: str,
    methods: Sequence[str],
    score: str = scores.DEFAULT,
    with_variants: bool = False,
    batch_size: int = 32,
) -> Callable[..., Explained]:
    """A function (images, class_index, label="") -> all maps of a checkpoint, compiled once.

    They are the maps by any methods, with the variants of those that are CAMs if `with_variants`. All CAMs are
    computed together: one forward pass and one backward pass to the shallowest layer serve all of them and their
    variants, and each other score needs another backward pass through the layers behind `layer`. The other methods
    follow one after another, as each takes many passes.

    It uses the model's weights as they are when it is called. Args and errors as for `attribute`.
    """
    together = cams_of(methods)
    others = {method: _explainer(model, layer, [method], score) for method in methods if method not in together}
    where: dict[str, str] = {}
    missing: dict[str, str] = {}
    if together and with_variants:
        by_cams, where, missing = _variants_explainer(model, layer, together, score)
    elif together:
        by_cams = _explainer(model, layer, together, score)

    def explained(images: np.ndarray, class_index: np.ndarray, label: str = "") -> Explained:
        def maps_of(explain: Callable, what: str) -> dict:
            return _in_batches(explain, images, class_index, batch_size, f"{label}, {what}" if label else "")

        found: dict[str, np.ndarray] = {}
        beside: dict[tuple[str, str], np.ndarray] = {}
        if together and with_variants:
            beside = maps_of(by_cams, "CAMs and their variants")
            found = {method: beside.pop((method, "default")) for method in together}
        elif together:
            found = maps_of(by_cams, "CAMs")
        for method, explain in others.items():
            found |= maps_of(explain, method)
        return Explained(
            {method: found[method] for method in methods},
            {key: Variant(maps, where[key[1]]) for key, maps in beside.items()},
            missing,
        )

    return explained


def _explainer(model: keras.Model, layer: str, methods: Sequence[str], score: str, *, with_output: bool = False):
    """What `_in_batches` calls: (images float32 [n, side, side, 1], classes int32 [n]) -> maps by method.

    `with_output`: also the model's output, as `_OUTPUT`; there has to be a CAM among the methods.
    """
    unknown = [name for name in methods if name not in TABLE]
    if unknown:
        raise InputError(f"method: unknown {', '.join(unknown)}: use {', '.join(TABLE)}")
    layer = targets.target_layer(model, layer)

    def kept(what: str, make: Callable[[], Any]) -> Any:
        return compiled.kept(model, (what, layer, score), make)

    all_cams = cams_of(methods)
    compute = None
    if all_cams:
        compute = kept("CAMs", lambda: cams.activations_and_gradients(model, [(layer, score)]))
    others = {
        name: kept(name, partial(function_of(name), model, layer, score))
        for name in methods
        if name not in all_cams
    }

    def explain(images: tf.Tensor, classes: tf.Tensor) -> dict[str, np.ndarray]:
        maps = {}
        if compute is not None:
            [(activations, gradients)], output = compute(images, classes)
            maps = {name: function_of(name)(activations, gradients) for name in all_cams}
        maps |= {name: other(images, classes) for name, other in others.items()}
        found = {name: maps[name] for name in methods}
        return found | {_OUTPUT: output} if with_output else found

    return explain


def _variants_explainer(model: keras.Model, layer: str, methods: Sequence[str], score: str):
    """What `_in_batches` calls, for CAMs; the layer of each variant; and by variant name why one is missing."""
    own = targets.target_layer(model, layer)
    named, missing = _layers_beside(model, own)
    at = {"default": own, **{f"layer-{name}": real for name, real in named.items() if real != own}}
    variant_at = {real: variant for variant, real in at.items()}
    fused = list(dict.fromkeys(named[name] for name in ("shallower", "penultimate", "final") if name in named))
    if len(fused) < 2:
        missing["layers-fused"] = f"needs two of shallower, penultimate and final, and there are {len(fused)}"
    by_score, same = _scores_beside(model, methods, score)
    missing |= same
    wanted = [*((real, score) for real in at.values()), *((own, other) for other in by_score)]
    compute = cams.activations_and_gradients(model, wanted)

    def explain(images: tf.Tensor, classes: tf.Tensor) -> dict[tuple[str, str], np.ndarray]:
        found = dict(zip(wanted, compute(images, classes)[0], strict=True))
        maps = {}
        for method in methods:
            for variant, real in at.items():
                maps[method, variant] = function_of(method)(*found[real, score])
        for other, of_methods in by_score.items():
            for method in of_methods:
                maps[method, f"score-{other}"] = function_of(method)(*found[own, other])
        if "layercam" in methods and len(fused) > 1:
            maps["layercam", "layers-fused"] = cams.fuse([maps["layercam", variant_at[real]] for real in fused])
        return maps

    where = {**at, **{f"score-{other}": own for other in by_score}, "layers-fused": "+".join(fused)}
    return explain, where, missing


def _scores_beside(
    model: keras.Model, methods: Sequence[str], score: str
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """By score other than `score` the methods whose maps it changes, and by variant name why a method has none."""
    found = {}
    missing = {}
    for other in SCORES:
        if other == score:
            continue
        try:
            exclusive = scores.Head(model, other).exclusive
        except InputError as error:
            missing[f"score-{other}"] = str(error)
            continue
        factor = {score, other} == {"log_odds", "probability"} or not exclusive
        equal = not exclusive and {score, other} == {"log_odds", "logit"}
        same = [name for name in methods if equal or (factor and TABLE[name].proportional)]
        if same:
            which = "equal to" if equal else "up to a factor"
            names = " and ".join(LABELS[name] for name in same)
            missing[f"score-{other}"] = f"maps of {names} are {which} those of {score}"
        if others := [name for name in methods if name not in same]:
            found[other] = others
    return found, missing


def _layers_beside(model: keras.Model, own: str) -> tuple[dict[str, str], dict[str, str]]:
    """The model's layers by target name, each layer once (`own` under every name that it has), and by variant name
    why a target has no variant of its own."""
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
