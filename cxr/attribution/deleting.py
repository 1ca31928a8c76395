"""Deletion and insertion: does the class probability follow the pixels that a map ranks high?

After RISE (Petsiuk, Das and Saenko 2018, arXiv 1806.07421), against maps that know nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from cxr.core.errors import InputError
from cxr.core.progress import progress
from cxr.metrics import map_grids

RANDOM, CENTRE = "random", "centre"
KINDS = ("deletion", "insertion")


class Perturbation(NamedTuple):
    """`areas`: one row an image and method. `curves`: the curves, averaged over images. See `perturbation`."""

    areas: pd.DataFrame
    curves: pd.DataFrame


def perturbation(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    steps: int = 10,
    blur: float = 1 / 16,
    random_draws: int = 2,
    batch_size: int = 32,
    rng_seed: int = 0,
    label: str = "",
) -> Perturbation:
    """Deletion and insertion AUC of every map, and of baselines that know nothing of the model.

    Deletion replaces pixels by those of the blurred image, the most important first; insertion starts from the
    blurred image and reveals the original's pixels, the most important first (RISE, section 4.3). The class
    probability is followed over the share of pixels changed, 0, 1 / steps, ..., 1; its area (trapezoid) is small
    for a good map under deletion, and large under insertion.

    Replacement. RISE deletes to a constant and inserts into a blur. Here both use the blur. On a radiograph a
    patch of even grey is itself a finding: over lung it looks like a consolidation, over the mediastinum like a
    lucency. A constant also adds an edge of full contrast. Deletion could then raise the probability that it
    should lower. A blur removes focal opacities and texture, and leaves exposure and anatomy. Its price: what is
    larger than the blur (a big heart, a white lung) is not deleted. This weakens the test for such classes, but
    favours no map, because every map and baseline is followed between the same two images. A large `blur` (10)
    turns the replacement into the image's mean grey.

    What the test can and cannot say. The model was trained on no images like those in between (Hooker et al. 2019,
    arXiv 1806.10758): a probability may fall because a picture is odd, not because evidence is gone. Therefore
    read no AUC alone: a baseline of the same smoothness makes pictures just as odd, and only the difference
    counts. The test is about the ranking of pixels, for this model and this replacement. It does not say that the
    pixels are the disease.

    Baselines. "random": white noise on the grid of the maps, upsampled as they are. (Noise by pixel would break up
    every structure of the image, and the test would compare smoothness.) Insertion by a map is deletion in the
    reverse order, so each of `random_draws` draws also gives the curves of its negative. The mean of all of them
    has the same area under deletion as under insertion. "centre": a Gaussian about the image's centre. Only its
    order of pixels counts, which is the same for every width.

    Equal values in a map, such as a rectifier's zeros, are ordered by a smooth random map, the same for all maps
    of a grid. Where a map says nothing, the test thus takes it as chance, not as "from the top down".

    Cost: 2 + 2 (steps - 1) (methods + 1 + random_draws x grids) forward passes an image.

    Parameters
    ----------
    model : from grey values in [0, 255], float32 [n, side, side, 1], to class probabilities [n, c].
    images : uint8 [n, side, side].
    class_index : int [n], the class whose probability is followed.
    maps : per method [n, h, w], raw or normalised; rows as `images`; at most side x side. No method may be named
        "random" or "centre".
    steps : number of intervals of the share of pixels.
    blur : standard deviation of the Gaussian blur, as a share of the side.
    random_draws : random maps an image.
    batch_size : images per pass.
    rng_seed : the random maps of row i are a function of this, i and the grid.
    label : name of the work in progress lines; empty: no progress lines.

    Returns
    -------
    areas : columns row (position in the set), method, grid ("8x8"; empty for "centre"), deletion, insertion
        (both in [0, 1]). "random" has one row an image and grid. NaN where the map is empty
        (`cxr.metrics.map_grids.is_empty`).
    curves : columns method, grid, kind ("deletion", "insertion"), share, probability (mean over images), n_images.

    Raises
    ------
    InputError : for shapes that do not fit each other or the model, reserved names, and options out of range.
    """
    images, classes, maps = _checked(model, images, class_index, maps)
    for name, value, low in (
        ("steps", steps, 2),
        ("random_draws", random_draws, 1),
        ("batch_size", batch_size, 1),
    ):
        if value < low:
            raise InputError(f"perturbation: {name} must be at least {low}, got {value}.")
    if not blur > 0:
        raise InputError(f"perturbation: blur must be positive, got {blur}: it is a share of the image's side.")

    n, side = images.shape[:2]
    grids = list(dict.fromkeys(map_set.shape[1:] for map_set in maps.values()))
    usable = {name: ~map_grids.is_empty(map_set) for name, map_set in maps.items()}
    shares = np.linspace(0, 1, steps + 1)
    counts = np.round(shares[1:-1] * side * side)
    predict = _class_probability(model)
    centre = _ranks(_centre(side), np.zeros((side, side)))
    keys = [*((name, _grid(map_set.shape[1:])) for name, map_set in maps.items())]
    keys += [(CENTRE, ""), *((RANDOM, _grid(grid)) for grid in grids)]
    found = {key: np.full((n, 2, steps + 1), np.nan) for key in keys}

    for row in range(n):
        orders: list[tuple[tuple[str, str], np.ndarray]] = []
        ties = {}
        for grid in grids:
            noise = np.random.default_rng([rng_seed, row, *grid]).standard_normal((random_draws, *grid))
            fields = map_grids.prepare(noise, side)
            ties[grid] = fields[0]
            orders += [((RANDOM, _grid(grid)), _ranks(field, fields[0])) for field in fields]
        for name, map_set in maps.items():
            if usable[name][row]:
                prepared = map_grids.prepare(map_set[[row]], side)[0]
                orders.append(((name, _grid(map_set.shape[1:])), _ranks(prepared, ties[map_set.shape[1:]])))
        orders.append(((CENTRE, ""), centre))

        image = images[row].astype(np.float32)
        blurred = gaussian_filter(image, blur * side, mode="reflect")
        pictures = [image[None], blurred[None]]
        for _, ranks in orders:
            first = ranks < counts[:, None, None]
            pictures += [np.where(first, blurred, image), np.where(first, image, blurred)]
        p = _in_batches(predict, np.concatenate(pictures), classes[row], batch_size)

        start, end = p[:2]
        inner = p[2:].reshape(len(orders), 2, steps - 1)
        collected: dict[tuple[str, str], list[np.ndarray]] = {}
        for (key, _), (deletion, insertion) in zip(orders, inner, strict=True):
            pair = np.array([[start, *deletion, end], [end, *insertion, start]])
            collected.setdefault(key, []).append(pair)
            if (
                key[0] == RANDOM
            ):  # its negative: the deletion curve of one is the insertion curve of the other, backwards
                collected[key].append(pair[::-1, ::-1])
        for key, pairs in collected.items():
            found[key][row] = np.mean(pairs, axis=0)
        if label and (row + 1) % max(1, n // 4) == 0:
            progress(f"{label}: image {row + 1}/{n}")

    areas, curves = [], []
    for (name, grid), values in found.items():
        area = np.trapezoid(values, shares, axis=-1)
        areas.append(
            pd.DataFrame(
                {
                    "row": np.arange(n),
                    "method": name,
                    "grid": grid,
                    "deletion": area[:, 0],
                    "insertion": area[:, 1],
                }
            )
        )
        kept = values[~np.isnan(area[:, 0])]
        for kind, mean in zip(KINDS, kept.mean(0) if len(kept) else np.full((2, steps + 1), np.nan), strict=True):
            curves.append(
                pd.DataFrame(
                    {
                        "method": name,
                        "grid": grid,
                        "kind": kind,
                        "share": shares,
                        "probability": mean,
                        "n_images": len(kept),
                    }
                )
            )
    return Perturbation(pd.concat(areas, ignore_index=True), pd.concat(curves, ignore_index=True))


def _checked(
    model: keras.Model, images: np.ndarray, class_index: np.ndarray, maps: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    images, classes = np.asarray(images), np.asarray(class_index)
    side, n_classes = model.input_shape[1], model.output_shape[-1]
    if images.ndim != 3 or len(images) == 0 or images.shape[1:] != (side, side):
        raise InputError(
            f"perturbation: images must be [n, {side}, {side}], as the model takes them, got {images.shape}."
        )
    if images.dtype != np.uint8:
        raise InputError(f"perturbation: images must be grey values of dtype uint8, got {images.dtype}.")
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(
            f"perturbation: class_index must be one integer for each of {len(images)} images, got "
            f"{classes.dtype} {classes.shape}."
        )
    if classes.min() < 0 or classes.max() >= n_classes:
        raise InputError(f"perturbation: class_index must lie between 0 and {n_classes - 1}, got {classes}.")
    maps = {name: np.asarray(map_set) for name, map_set in maps.items()}
    reserved = [name for name in maps if name in (RANDOM, CENTRE)]
    if not maps or reserved:
        raise InputError(
            f"perturbation: maps must hold one set for each method, none of them named '{RANDOM}' or '{CENTRE}' "
            f"(the baselines), got {list(maps)}."
        )
    for name, map_set in maps.items():
        map_grids.upsample(map_set[:0], side)  # refuses other shapes, and grids that are too large
        if len(map_set) != len(images):
            raise InputError(f"perturbation: {len(map_set)} maps by {name} for {len(images)} images.")
    return images, classes, maps


def _grid(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _centre(side: int) -> np.ndarray:
    distance = (np.arange(side) - (side - 1) / 2) ** 2
    return np.exp(-(distance[:, None] + distance) / (2 * (side / 4) ** 2))


def _ranks(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """int [s, s]: 0 for the largest value; among equal ones, by `ties`, then by index (lexsort is stable)."""
    order = np.lexsort((-ties.ravel(), -values.ravel()))
    ranks = np.empty(values.size, np.int64)
    ranks[order] = np.arange(values.size)
    return ranks.reshape(values.shape)


def _class_probability(model: keras.Model) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
    """A compiled function (float32 [n, side, side], classes int32 [n]) -> probability [n]; one trace for all n."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *model.input_shape[1:3]), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ],
        autograph=False,
    )
    def predict(images, classes):
        return tf.gather(model(images[..., None], training=False), classes, batch_dims=1)

    return predict


def _in_batches(predict: Callable, pictures: np.ndarray, class_index: int, batch_size: int) -> np.ndarray:
    parts = (pictures[first : first + batch_size] for first in range(0, len(pictures), batch_size))
    return np.concatenate([predict(part, np.full(len(part), class_index, np.int32)).numpy() for part in parts])
