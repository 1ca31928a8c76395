"""Extra heads of the transfer stage, which differ only by seed: their seeds, and the file that holds them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cxr.core.errors import InputError

Head = tuple[np.ndarray, ...]  # weights of `build.head`: kernel float32 [d, n_classes], bias float32 [n_classes]
MAX_HEADS = 1000
_HEAD_SEEDS = 2**31  # seeds of heads begin here; seeds of runs are smaller


def another(head: keras.Model, seed: int) -> keras.Model:
    """A head like `head`, with new weights from seeds of its own.

    Keras' defaults would draw from the global seed instead. Layers of the same kind get different seeds; the last
    one of each kind gets `seed` itself.
    """
    kinds = [type(layer) for layer in head.layers]

    def anew(layer: keras.Layer) -> keras.Layer:
        behind = kinds[head.layers.index(layer) + 1 :].count(type(layer))
        return type(layer).from_config(_reseeded(layer.get_config(), seed + behind * _HEAD_SEEDS))

    return keras.models.clone_model(head, clone_function=anew)


def _reseeded(config: Any, seed: int) -> Any:
    """A layer's configuration with every seed in it replaced by `seed`, also in its initializers."""
    if not isinstance(config, dict):
        return config
    return {key: seed if key == "seed" else _reseeded(value, seed) for key, value in config.items()}


def head_seed(seed: int, number: int) -> int:
    """Seed of extra head `number` (0 to MAX_HEADS - 1) of a run: 2^31 + (MAX_HEADS seed + number) mod 2^31.

    It is the seed of no run: those are below 2^31. Two runs share a head's seed only if their own seeds are two
    million apart.
    """
    return _HEAD_SEEDS + (MAX_HEADS * seed + number) % _HEAD_SEEDS


def save_heads(path: str | Path, heads: Sequence[Head]) -> None:
    """Write heads to an `.npz` file (no pickle): the weights of head k as `k_0` (kernel), `k_1` (bias), ..."""
    arrays = {f"{k}_{i}": weight for k, head in enumerate(heads) for i, weight in enumerate(head)}
    with open(path, "wb") as file:  # NumPy would append a suffix to a name without
        np.savez(file, **arrays)


def load_heads(path: str | Path) -> list[Head]:
    """Read the heads that `save_heads` wrote, in order. Raises InputError if the file is not one of these."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as heads ({error}): run 1_train again") from None
    heads = []
    while f"{len(heads)}_0" in arrays:
        names = [f"{len(heads)}_{i}" for i in range(len(arrays))]
        heads.append(tuple(arrays.pop(name) for name in names if name in arrays))
    if arrays:
        raise InputError(f"{path}: holds {', '.join(arrays)} beside heads: give a file that save_heads wrote")
    return heads
