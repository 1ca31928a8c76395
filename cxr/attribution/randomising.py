"""Maps of a network whose weights are randomised: what is left of a map without what the network has learned?

After the model parameter randomisation test (Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv
1810.03292).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import keras
import numpy as np

from cxr.attribution.explaining import given_back
from cxr.metrics import map_grids

Explain = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


@contextmanager
def randomised(layers: Iterable[keras.layers.Layer], rng_seed: int | list[int]) -> Iterator[None]:
    """Randomise the weights of `layers`, in place; at the end, also after an error, they are restored to the bit.

    Each entry of a weight tensor is drawn from the tensor's entries, with replacement. This keeps their
    distribution, and so the scale of what they do. (A permutation would too, and takes three times as long.)
    BatchNorm's moving mean and variance were learned too, and are drawn as well. Tensors of equal entries, such
    as a new bias, stay as they are, and so does a dropout's random state.

    Functions that were compiled for the model use the randomised weights too: they read the same variables.
    """
    rng = np.random.default_rng(rng_seed)
    variables = [variable for layer in layers for variable in layer.weights if "float" in str(variable.dtype)]
    with given_back(variables) as own:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(rng.choice(value.ravel(), value.shape))
        yield


def explained(
    explain: Explain,
    layers: Iterable[keras.layers.Layer],
    images: np.ndarray,
    class_index: np.ndarray,
    *,
    draws: int,
    rng_seed: int = 0,
) -> dict[str, np.ndarray]:
    """Maps of images, each under one of several draws of random weights in `layers`.

    The images are dealt to the draws at random, as evenly as possible, so that a mean over images is one over
    draws too: one draw alone can be lucky. It costs as much as explaining every image once.

    Args:
        explain: (images, class_index) -> maps [n, h, w] by method, with the weights as they are at the call
            (`explaining.explainer`).
        layers: of the model that is explained.
        images, class_index: [n].
        draws: how many, at least 1.
        rng_seed: the result is a function of the arguments and this.

    Returns: by method, maps float32 [n, h, w] in [0, 1]; all 0 where a map is empty. (Draws differ in scale.)
    """
    layers = list(layers)
    turn = np.random.default_rng(rng_seed).permutation(np.arange(len(images)) % draws)
    found: dict[str, np.ndarray] = {}
    for draw in np.unique(turn).tolist():
        rows = np.flatnonzero(turn == draw)
        with randomised(layers, [rng_seed, draw]):
            maps = explain(images[rows], class_index[rows])
        for method, values in maps.items():
            unit = map_grids.normalise(values)
            unit[map_grids.is_empty(values)] = 0
            found.setdefault(method, np.zeros((len(images), *values.shape[1:]), np.float32))[rows] = unit
    return found
