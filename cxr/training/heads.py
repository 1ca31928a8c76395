"""Extra heads of the transfer stage, which differ only by seed."""

from __future__ import annotations

from typing import Any

import keras

MAX_HEADS = 1000
_HEAD_SEEDS = 2**31  # seeds of heads begin here; seeds of runs are smaller


def another(head: keras.Model, seed: int) -> keras.Model:
    """A head like `head`, with new weights from seeds of its own.

    Keras' defaults would draw from the global seed instead. Layers of the same kind get different seeds; the last
    one of each kind gets `seed` itself.
    """
    kinds = [type(layer) for layer in head.layers]

    def reseeded(layer: keras.Layer) -> keras.Layer:
        behind = kinds[head.layers.index(layer) + 1 :].count(type(layer))
        return type(layer).from_config(_reseeded(layer.get_config(), seed + behind * _HEAD_SEEDS))

    return keras.models.clone_model(head, clone_function=reseeded)


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
