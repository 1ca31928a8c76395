"""Layers by name: those at which maps are computed, and those that stay frozen in fine-tuning."""

from __future__ import annotations

import contextlib
import difflib

import keras

from cxr.core.errors import InputError
from cxr.models import graph

MIN_GRID = 4
TARGETS = ("shallower", "penultimate", "penultimate_cut", "last_conv", "final")  # names for any network's layers


def target_layer(model: keras.Model, name: str) -> str:
    """The layer of `model` that `name` means: one of TARGETS (see `cxr.models.graph.targets`) or a layer's name.

    Raises InputError if there is no such layer, if its output is not a feature map, or if its grid is smaller than
    4x4 (such a map localises nothing).
    """
    if name in TARGETS:
        found = graph.target_layers(model)
        if name not in found:
            raise InputError(
                f"target_layer: {model.name} has no '{name}': it has {', '.join(found)}, and layers by name"
            )
        name = found[name]
    try:
        shape = model.get_layer(name).output.shape
    except ValueError:
        names = [layer.name for layer in model.layers]
        close = difflib.get_close_matches(name, names, n=4) or names[-8:]
        raise InputError(
            f"target_layer: {model.name} has no layer '{name}': use {', '.join(TARGETS)} or a "
            f"layer's name, such as {', '.join(close)}"
        ) from None
    if len(shape) != 4:
        raise InputError(f"target_layer: '{name}' of {model.name} has no feature map (its output is {shape[1:]})")
    if min(shape[1:3]) < MIN_GRID:
        raise InputError(
            f"target_layer: '{name}' of {model.name} is {shape[1]}x{shape[2]} at image_size "
            f"{model.input_shape[1]}, and a map needs at least {MIN_GRID}x{MIN_GRID}: use larger images or "
            "an earlier layer"
        )
    return name


def target_layers(model: keras.Model) -> dict[str, str]:
    """The model's layer for each of TARGETS that it has on a grid of at least 4x4. Two may be the same layer."""
    found = {}
    for name in TARGETS:
        with contextlib.suppress(InputError):
            found[name] = target_layer(model, name)
    return found


def frozen_layers(model: keras.Model, name: str) -> list[keras.Layer]:
    """The layers that `fine_tune_from: name` freezes: the layer of that name and all layers that it depends on.

    `name` is one of TARGETS or any layer's name; "" freezes nothing. Raises InputError for an unknown name, and
    for a layer that leaves nothing to train.
    """
    if not name:
        return []
    if name not in {layer.name for layer in model.layers}:
        try:
            name = target_layer(model, name)
        except InputError as error:
            raise InputError(f"fine_tune_from: {str(error).removeprefix('target_layer: ')}") from None
    frozen = keras.Model(model.input, model.get_layer(name).output).layers
    if model.get_layer("logits") in frozen:
        raise InputError(
            f"fine_tune_from: up to '{name}' is all of {model.name}, which leaves nothing to train: name an "
            f"earlier layer, '{graph.head_input(model)._keras_history.operation.name}' at the latest"
        )
    return frozen
