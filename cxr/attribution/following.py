"""Does a class follow the pixels that a map ranks high? Pixels are blurred, and the logits are followed.

After the deletion and insertion games of RISE (Petsiuk, Das and Saenko 2018, arXiv 1806.07421, section 4.3),
at one share of the area and without an interpretation of its own: `cxr.attribution.map_checks` compares maps
by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

from cxr.core.errors import InputError
from cxr.core.progress import progress
from cxr.metrics import map_grids
from cxr.metrics.map_features import top_count
from cxr.models import compiled

Key = TypeVar("Key", bound=Hashable)
Predict = Callable[[np.ndarray], np.ndarray]

KINDS = ("deletion", "insertion")
SHARE = 0.2  # of the area: the strongest fifth, which overlap compares too
BLUR = 1 / 16  # standard deviation of the Gaussian blur, as a share of the image's side


def logits_function(model: keras.Model, batch_size: int = 32) -> Predict:
    """A function from grey values [n, side, side] to logits float32 [n, n_classes], compiled once for all n.

    It uses the model's weights as they are when it is called.
    """
    predict = compiled.logits_and_output(model)

    def in_batches(images: np.ndarray) -> np.ndarray:
        parts = (images[first : first + batch_size, ..., None] for first in range(0, len(images), batch_size))
        return np.concatenate([predict(tf.constant(part, tf.float32))[0].numpy() for part in parts])

    return in_batches


def follow(
    predict: Predict,
    images: np.ndarray,
    maps: Mapping[Key, np.ndarray],
    *,
    kinds: Mapping[Key, Collection[str]] | None = None,
    share: float = SHARE,
    blur: float = BLUR,
    batch_size: int = 32,
    rng_seed: int = 0,
    label: str = "",
) -> dict[Key, np.ndarray]:
    """The logits of each image with the pixels blurred that a map ranks highest, and with all others blurred.

    Deletion blurs the given share of the pixels, the most important first; insertion blurs all but that share.
    If the map shows the evidence for a class, deletion lowers what the class gets, and insertion keeps it.

    Replacement. RISE deletes to a constant and inserts into a blur. Here both use the blur. On a radiograph a
    patch of even grey is itself a finding: over lung it looks like a consolidation, over the mediastinum like
    a lucency. A constant also adds an edge of full contrast. Deletion could then raise what it should lower. A
    blur removes focal opacities and texture, and leaves exposure and anatomy. Its price: what is larger than
    the blur (a big heart, a white lung) is not deleted. This weakens the check for such classes, but favours
    no map. A large `blur` (10) turns the replacement into the image's mean grey.

    The model was trained on no images like these (Hooker et al. 2019, arXiv 1806.10758): logits may fall because a
    picture is odd, not because evidence is gone. So read no value alone. Another map of the same smoothness makes
    pictures just as odd, and only the difference between two maps counts.

    One share is enough, that which the overlap compares: see docs/metrics.md.

    Equal values in a map, such as a rectifier's zeros, are ordered by a smooth random map (`random_maps`), the
    same for all maps of a grid. Where a map says nothing, the check thus takes it as chance, not as "from the
    top down". A map that is constant, or not finite, says nothing anywhere.

    Cost: a forward pass for each image, set of maps and kind, in full batches.

    Parameters
    ----------
    predict : from grey values in [0, 255], float32 [n, side, side], to numbers [n, c], as `logits_function`
    makes it.
    images : uint8 [n, side, side].
    maps : by any key, [n, h, w], raw or normalised; rows as `images`; at most side x side.
    kinds : by the same keys, which of KINDS are asked for; None: both of all.
    share : of the pixels, in (0, 1).
    blur : see BLUR.
    batch_size : images per call of `predict`.
    rng_seed : of the random order of equal values.
    label : name of the work in progress lines; empty: no progress lines.

    Returns
    -------
    By key: float32 [n, 2, c], deletion and insertion (KINDS); NaN where not asked for. A row depends on its image
    and map alone.

    Raises
    ------
    InputError : for shapes that do not fit each other, and options out of range.
    """
    images = np.asarray(images)
    if images.ndim != 3 or len(images) == 0 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        raise InputError(
            f"follow: images must be grey values uint8 [n, side, side], got {images.dtype} {images.shape}."
        )
    if not 0 < share < 1:
        raise InputError(f"follow: share must lie between 0 and 1, got {share}: it is a share of the pixels.")
    if not blur > 0:
        raise InputError(f"follow: blur must be positive, got {blur}: it is a share of the image's side.")
    n, side = images.shape[:2]
    maps = {key: np.asarray(values) for key, values in maps.items()}
    if not maps:
        raise InputError("follow: there is no set of maps.")
    for key, values in maps.items():
        map_grids.upsample(values[:0], side)  # refuses other shapes, and grids that are too large
        if len(values) != n:
            raise InputError(f"follow: {len(values)} maps by {key} for {n} images.")

    asked = [[kind in kinds[key] if kinds else True for kind in KINDS] for key in maps]
    count = top_count(share, side * side)
    noise = {grid: random_maps(n, grid, rng_seed) for grid in {values.shape[1:] for values in maps.values()}}

    def pictures() -> Iterator[np.ndarray]:
        for row in range(n):
            image = images[row].astype(np.float32)
            blurred = gaussian_filter(image, blur * side, mode="reflect")
            ties = {grid: map_grids.prepare(fields[[row]], side)[0] for grid, fields in noise.items()}
            for values, (deleted, inserted) in zip(maps.values(), asked, strict=True):
                prepared = map_grids.prepare(values[[row]], side)[0]  # all NaN where it says nothing
                inside = strongest(np.nan_to_num(prepared), ties[values.shape[1:]], count)
                if deleted:
                    yield np.where(inside, blurred, image)
                if inserted:
                    yield np.where(inside, image, blurred)
            if label and (row + 1) % max(1, n // 4) == 0:
                progress(f"{label}: image {row + 1}/{n}")

    made, found = pictures(), []
    with threadpool_limits(1, user_api="blas"):  # its threads would wait, busily, while the network computes
        while batch := list(islice(made, batch_size)):
            found.append(predict(np.stack(batch)))
    each = np.concatenate(found).reshape(n, np.count_nonzero(asked), -1)
    logits = np.full((n, len(maps), len(KINDS), each.shape[-1]), np.nan, np.float32)
    logits[:, np.array(asked)] = each
    return {key: logits[:, number] for number, key in enumerate(maps)}


def random_maps(n: int, grid: tuple[int, int], rng_seed: int = 0) -> np.ndarray:
    """Maps float64 [n, h, w] of normal noise on a grid. Enlarged, they are as smooth as other maps of this grid.

    The map of row i is a function of the grid, i and the seed.
    """
    return np.stack([np.random.default_rng([rng_seed, row, *grid]).standard_normal(grid) for row in range(n)])


def strongest(values: np.ndarray, ties: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest values are, bool [s, s]; among equal ones by `ties`, then the first.

    Args: values, ties [s, s]; count at least 1.
    """
    least = np.partition(values, -count, axis=None)[-count]
    inside = values > least
    equal = np.flatnonzero(values == least)
    first = np.argsort(-ties.ravel()[equal], kind="stable")[: count - np.count_nonzero(inside)]
    inside.flat[equal[first]] = True
    return inside
