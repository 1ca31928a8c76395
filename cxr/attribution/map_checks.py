"""Does an attribution map pass its checks? Five checks of each method on each checkpoint, and a verdict.

Each check sets the map beside a rival that should know less of the class, and asks which of the two the class
follows (`following.follow`). The gain of an image is by how much the map is better, in log-odds. Log-odds,
because a probability saturates: where the network is sure, nothing moves it.

- `deletion`, `insertion`: the rival is a random map of the same grid. Blurring the strongest 20 % of the map must
  lower the log-odds of the class more; keeping it alone must save more.
- `class`: the rival is the map for the runner-up, the most probable other class of this image. The log-odds of
  the class against the runner-up must follow the map for the class. A map that is the same for all classes
  gains nothing.
- `head`: the rival is the map under a head of random weights (`randomising`). A map that does not use the head
  gains nothing.
- `weights`: the rival is the map of a network all of whose weights are random. A map of the image alone gains
  nothing.

The last three take deletion and insertion together, the mean of both gains.

A check passes where the interval of the mean gain over patients lies above 0, the same rule for all. No limit
has to be chosen. Fixed limits on how alike maps may stay when weights are randomised do not work: such
similarity depends on the network, the grid and the measure (Binder et al. 2023, Shortcomings of Top-Down
Randomization-Based Sanity Checks for Evaluations of Deep Neural Network Explanations, CVPR; Sixt et al. 2020,
When Explanations Lie, ICML). Nor does the overlap with maps of the randomised network against what two
patients share: where each image has its evidence in a place of its own, two patients share no more than
chance, and a right map must fail. (Integrated gradients of a CompactResNetV2 on 30 images: two patients 0.177,
random networks 0.167, difference 0.008 [-0.004, 0.019].) So the map of the randomised network is a rival like
the others.

No check proves that a map is right. A map that fails one of them supports no statement about the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial

import keras
import numpy as np
import pandas as pd

from cxr.attribution import explaining, following, passing, randomising, scores
from cxr.attribution.cases import Cases
from cxr.attribution.checkpoints import Checkpoints
from cxr.attribution.maps import MapSet
from cxr.attribution.passing import CHECKS
from cxr.core.errors import InputError
from cxr.core.progress import progress
from cxr.metrics import map_grids
from cxr.models import build

_DRAWS = 2  # of random weights in each part of the images; an image is explained under one of them

Explain = Callable[[np.ndarray, np.ndarray, Sequence[str]], Mapping[str, np.ndarray]]


def measure(
    checkpoints: Checkpoints,
    model: keras.Model,
    map_sets: Mapping[str, Mapping[str, MapSet]],
    cases: Cases,
    rows: np.ndarray,
    *,
    layer: str,
    score: str = scores.DEFAULT,
    batch_size: int = 32,
) -> pd.DataFrame:
    """`gains` of every method on every checkpoint, on some of the images (`until_settled`).

    Args:
        model: one of the checkpoints; the others lend it their weights.
        map_sets: by checkpoint and method; their rows are those of `cases`.
        rows: int [m], the images that may be used, in this order (`Cases.checked`).
        layer, score: by which the maps were made (`explaining.attribute`).
        batch_size: images per pass.

    Returns: checkpoint, image_id, patient_id, method, row (in `rows`, from 0), check, gain.
    """
    images, classes = cases.pixels[rows], cases.class_index[rows]
    patients = cases.table["patient_id"].to_numpy()[rows]
    predict = following.logits_function(model, batch_size)
    found = []
    for checkpoint, of_checkpoint in map_sets.items():
        maps = {method: own.maps[rows] for method, own in of_checkpoint.items()}
        with checkpoints.lend(checkpoint, model):
            table = until_settled(
                model, images, classes, patients, maps, layer=layer, score=score, predict=predict,
                batch_size=batch_size, label=f"{checkpoint}, checks",
            )  # fmt: skip
        table.insert(0, "checkpoint", checkpoint)
        found.append(table)
    table = pd.concat(found, ignore_index=True)
    for place, name in enumerate(("image_id", "patient_id"), start=1):
        table.insert(place, name, cases.table[name].to_numpy()[rows][table["row"]])
    return table


def until_settled(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    patients: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    layer: str,
    score: str = scores.DEFAULT,
    predict: following.Predict | None = None,
    batch_size: int = 32,
    level: float = 0.95,
    label: str = "",
) -> pd.DataFrame:
    """`gains` of the maps of a network, image after image, of each check until its outcome is clear.

    After each quarter of the images (`passing.looks`) a check is left out that passes beyond doubt,
    and a method whose verdict no other image is likely to change (`passing.unsettled`). So each check of each
    method has gains of the first rows, or of all.

    Args:
        images, class_index, maps, batch_size: as for `gains`. The first images should be like all of them.
        patients: [n], the patient of each image.
        layer, score: by which the maps were made (`explaining.attribute`).
        predict: as for `gains`.
        level: of the verdict's intervals.
        label: name of the work in progress lines; empty: none.
    """
    predict = predict or following.logits_function(model, batch_size)

    def explain(images: np.ndarray, class_index: np.ndarray, methods: Sequence[str]) -> dict[str, np.ndarray]:
        options = {"layer": layer, "score": score, "batch_size": batch_size}
        return explaining.attribute(model, images, class_index, methods=methods, **options)

    left: dict[str, tuple[str, ...]] = dict.fromkeys(maps, CHECKS)
    tables: list[pd.DataFrame] = []
    first = 0
    for last in passing.looks(len(images)):
        part = slice(first, last)
        table = gains(
            model, explain, images[part], class_index[part],
            {method: maps[method][part] for method in left}, checks=left, predict=predict, batch_size=batch_size,
            rng_seed=first, label=f"{label}, images {first + 1} to {last}" if label else "",
        )  # fmt: skip
        tables.append(table.assign(row=table["row"] + first))
        if last == len(images):
            break
        found = dict(tuple(pd.concat(tables).groupby("method")))
        for method, checks in left.items():
            of_method = found[method][found[method]["check"].isin(checks)]
            left[method] = passing.unsettled(of_method, patients, last / len(images), level=level)
        left = {method: checks for method, checks in left.items() if checks}
        if not left:
            break
        first = last
    return pd.concat(tables, ignore_index=True)


def gains(
    model: keras.Model,
    explain: Explain,
    images: np.ndarray,
    class_index: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    checks: Mapping[str, Sequence[str]] | None = None,
    predict: following.Predict | None = None,
    batch_size: int = 32,
    rng_seed: int = 0,
    label: str = "",
) -> pd.DataFrame:
    """By how much each map is better than its rivals, for each image and check, in log-odds.

    With d and k the log-odds of the class under deletion and insertion (`following.follow`), the gain of
    `deletion` is d of a random map minus d of the map, that of `insertion` is k of the map minus k of a random
    map. The random map is two, a field and its reverse, whose d and k are averaged. The gain of the other
    checks is half the sum of both against their rival; for `class`, d and k are the log-odds of the class
    against the runner-up (the difference of their logits). A rival's map that is empty counts as a random one.

    Cost of an image: 8 forward passes for each method, 4 for each grid, 1; and explaining it three more times (all
    CAMs together take about 1.3 passes). Two CAMs take about 25, three about 33. A check that is not asked for
    saves what its rival takes: two passes for each method and an explanation, or two of the grid; `deletion` or
    `insertion` alone take one pass for each method. Random weights are drawn twice, and each image is
    explained under one draw of the head and one of the network.

    Parameters
    ----------
    model : a classifier as `cxr.models.build` makes it. Its weights are changed, and restored to the bit at
        the end, also after an error.
    explain : (images, class_index, methods) -> maps [n, h, w] by method. It must be deterministic and read the
        model's weights at every call, as `explaining.attribute` does.
    images : uint8 [n, side, side].
    class_index : int [n], the class that the maps explain.
    maps : by method, what `explain` returns for them.
    checks : by method, those to measure (of CHECKS); None: all of all.
    predict : `following.logits_function` of the model, where it is at hand.
    batch_size : images per pass.
    rng_seed : of random maps and weights.
    label : name of the work in progress lines; empty: none.

    Returns
    -------
    One row a method, image and measured check: method, row, check (of CHECKS), gain (float64; NaN where the map is
    empty: `cxr.metrics.map_grids.is_empty`).

    Raises
    ------
    InputError : for shapes that do not fit each other or the model, and a model without log-odds (`scores.Head`).
    """
    images, classes = _checked(model, images, class_index)
    exclusive = scores.Head(model).exclusive
    predict = predict or following.logits_function(model, batch_size)
    logits = predict(images)
    runner_up = np.where(np.arange(logits.shape[1]) == classes[:, None], -np.inf, logits).argmax(1)

    checks = dict.fromkeys(maps, CHECKS) if checks is None else checks
    grids = {method: np.shape(maps[method])[1:] for method in checks}
    kinds: dict[tuple[str, Hashable], set[str]] = {}  # what has to be followed
    for method, own in checks.items():
        for check in own:
            for key, asked in _needs(check, method, grids[method]).items():
                kinds.setdefault(key, set()).update(asked)

    if label:
        progress(f"{label}: explains the other class, random heads and random networks")
    rivals: dict[tuple[str, Hashable], np.ndarray] = {}
    layers = {"head": build.head_layers(model), "weights": model.layers}
    for name in ("class", *layers):
        methods = [method for method, own in checks.items() if name in own]
        of_methods = partial(explain, methods=methods)
        if not methods:
            continue
        if name == "class":
            found = of_methods(images, runner_up)
        else:
            draws = {"draws": _DRAWS, "rng_seed": rng_seed}
            found = randomising.explained(of_methods, layers[name], images, classes, **draws)
        rivals |= {(name, method): found[method] for method in methods}
    for grid in set(grids.values()):
        random = following.random_maps(len(images), grid, rng_seed)
        rivals |= {("random", grid): random, ("reverse", grid): -random}
    rivals |= {("own", method): maps[method] for method in checks}
    followed = following.follow(
        predict, images, {key: _told(rivals[key]) for key in kinds}, kinds=kinds, batch_size=batch_size,
        rng_seed=rng_seed, label=f"{label}, follows" if label else "",
    )  # fmt: skip

    def log_odds(key: tuple[str, Hashable]) -> np.ndarray:  # [n, 2]: deletion, insertion
        values = followed[key]
        found = scores.of_images(values.reshape(-1, values.shape[-1]), np.repeat(classes, 2), exclusive=exclusive)
        return np.reshape(found, values.shape[:-1])

    def against_runner_up(key: tuple[str, Hashable]) -> np.ndarray:
        own, other = (
            np.take_along_axis(followed[key].astype(float), index[:, None, None], -1)[..., 0]
            for index in (classes, runner_up)
        )
        return own - other

    def gain(check: str, method: str) -> np.ndarray:
        if check in following.KINDS:
            chance = (log_odds(("random", grids[method])) + log_odds(("reverse", grids[method]))) / 2
            kind = following.KINDS.index(check)
            return (log_odds(("own", method)) - chance)[:, kind] * (-1, 1)[kind]
        odds = against_runner_up if check == "class" else log_odds
        better = odds(("own", method)) - odds((check, method))
        return (better[:, 1] - better[:, 0]) / 2

    tables = []
    for method, own in checks.items():
        table = pd.DataFrame({"row": np.arange(len(images)), **{check: gain(check, method) for check in own}})
        table.loc[map_grids.is_empty(maps[method]), list(own)] = np.nan
        tables.append(table.assign(method=method).melt(["method", "row"], var_name="check", value_name="gain"))
    return pd.concat(tables, ignore_index=True)


def _needs(check: str, method: str, grid: tuple[int, ...]) -> dict[tuple[str, Hashable], Collection[str]]:
    """What a check follows: (whose map, method or grid) to kinds of `following.KINDS`."""
    if check in following.KINDS:
        return dict.fromkeys([("own", method), ("random", grid), ("reverse", grid)], (check,))
    return dict.fromkeys([("own", method), (check, method)], following.KINDS)


def _told(maps: np.ndarray) -> np.ndarray:
    """Maps in [0, 1], all 0 where they are empty and say nothing."""
    unit = map_grids.normalise(maps)
    unit[map_grids.is_empty(maps) | np.isnan(unit).any((1, 2))] = 0
    return unit


def _checked(model: keras.Model, images: np.ndarray, class_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, classes = np.asarray(images), np.asarray(class_index)
    side, n_classes = model.input_shape[1], model.output_shape[-1]
    if images.shape[1:] != (side, side):
        raise InputError(
            f"gains: images must be [n, {side}, {side}], as the model takes them, got {images.shape}."
        )
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(
            f"gains: class_index must be one integer for each of {len(images)} images, got "
            f"{classes.dtype} {classes.shape}."
        )
    if len(classes) and not 0 <= classes.min() <= classes.max() < n_classes:
        raise InputError(f"gains: class_index must lie between 0 and {n_classes - 1}, got {classes}.")
    return images, classes
