"""Randomisation: does a map depend on what the model has learned?

Cascading randomisation of the weights (Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv 1810.03292). A
map that survives it describes the image, not the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
import pandas as pd

from cxr.core.progress import progress
from cxr.metrics import map_features, map_grids, similarity
from cxr.models import targets

Explain = Callable[[keras.Model], Mapping[str, np.ndarray]]


def cascade(
    model: keras.Model,
    explain: Explain,
    *,
    layer: str,
    size: int,
    rng_seed: int = 0,
    label: str = "",
) -> pd.DataFrame:
    """How much of the maps is left while the model's weights are randomised, from the logits downwards.

    Levels, each with all layers of those before it: 0 the logits; 1 all layers behind `layer`; 2 half of the
    layers from there down; 3 all weights. A level that adds no layer is left out. (Behind the last feature map
    there are only the logits.)

    A layer is randomised by a permutation of the entries of each of its weight tensors. This keeps their
    distribution, and so the scale of what they do. BatchNorm's moving mean and variance were learned too, and are
    permuted as well. (On the three compact networks no conclusion changed when these, or BatchNorm as a whole,
    stayed as they were.) Tensors of equal entries, such as a new bias, stay as they are.

    Parameters
    ----------
    model : a flat functional model with a layer `logits`. Its weights are changed in place, and restored to the
        bit at the end, also after an error.
    explain : model -> per method raw maps [n, h, w]. It is called once on the model as it is, then once for each
        level, with the same object. It must be deterministic and read the weights at every call (no clone of the
        model). A compiled function does so, since the weights are variables: compile it once, outside.
    layer : the target layer, as `cxr.models.targets.target_layer` knows it.
    size : the image grid on which maps are compared.
    rng_seed : the permutations are a function of this and the layers.
    label : name of the work in progress lines; empty: no progress lines.

    Returns
    -------
    One row a method, level and image: method, level (int), up_to (the deepest layer randomised), row, spearman and
    overlap (`similarity.compare_maps`) of the map and that of the intact model, vanished (bool: the intact model's
    map was usable, and this one is empty). Both metrics are NaN if one of the maps is empty. A vanished map counts
    as one that does not survive.

    Raises
    ------
    InputError : for an unknown layer, and for maps of another shape.
    """
    levels = _levels(model, targets.target_layer(model, layer))
    before = explain(model)
    intact = {name: _features(map_set, size) for name, map_set in before.items()}
    kept = [(variable, variable.numpy()) for variable in model.weights]
    rng = np.random.default_rng(rng_seed)
    rows = []
    try:
        for level, names in enumerate(levels):
            if label:
                progress(f"{label}: weights randomised down to {names[-1]}")
            for name in names:
                _permute(model.get_layer(name), rng)
            for method, map_set in explain(model).items():
                for row, (a, b) in enumerate(zip(intact[method], _features(map_set, size), strict=True)):
                    both = a is not None and b is not None
                    alike = similarity.score(a, b, ("spearman", "overlap")) if both else {}
                    rows.append(
                        {
                            "method": method,
                            "level": level,
                            "up_to": names[-1],
                            "row": row,
                            "spearman": alike.get("spearman", np.nan),
                            "overlap": alike.get("overlap", np.nan),
                            "vanished": a is not None and b is None,
                        }
                    )
    finally:
        for variable, value in kept:
            variable.assign(value)
    return pd.DataFrame(rows)


def _features(maps: np.ndarray, size: int) -> list[map_features.Features | None]:
    """The features of each map; None for an empty one."""
    bad = map_grids.is_empty(maps)
    return [
        None if b else map_features.Features(m) for b, m in zip(bad, map_grids.prepare(maps, size), strict=True)
    ]


def _levels(model: keras.Model, layer: str) -> list[list[str]]:
    """Names of the layers with weights that each level adds, those nearest the output first."""
    names = [found.name for found in model.layers]  # in topological order
    target = names.index(layer)
    weighted = [found.name for found in model.layers if _floating(found)][::-1]
    behind = [name for name in weighted if names.index(name) > target and name != "logits"]
    rest = [name for name in weighted if names.index(name) <= target]
    half = (len(rest) + 1) // 2
    return [level for level in (["logits"], behind, rest[:half], rest[half:]) if level]


def _floating(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Its weights, without a dropout's random state."""
    return [variable for variable in layer.weights if "float" in str(variable.dtype)]


def _permute(layer: keras.layers.Layer, rng: np.random.Generator) -> None:
    for variable in _floating(layer):
        value = variable.numpy()
        variable.assign(rng.permutation(value.ravel()).reshape(value.shape))
