"""Sequences of tokens as feature maps: the grids of a vision transformer.

A transformer works on a sequence of tokens [n, t, d]: one for each cell of the image, and perhaps a few of its own
(a class token, registers). `with_grids` rebuilds a network so that the sequence passes through a layer of shape
[n, side, side, d] before every block. This layer changes no value. Target layers, CAMs and checkpoints then work
as in a convolutional network.

Which token belongs to which cell is not believed but tried: which tokens change if a band of the image does?
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import KerasTensor, layers

from cxr.core.errors import InputError
from cxr.models import graph
from cxr.models.flatten import Copies

_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention, layers.AdditiveAttention)


@dataclass(frozen=True)
class Layout:
    """Where the cells of the image stand in a sequence of tokens: rows of cells, one after another."""

    side: int  # cells
    before: int  # tokens that are no cell, at the beginning
    after: int  # and at the end

    @property
    def cells(self) -> slice:
        """Of the tokens, those that are cells."""
        return slice(self.before, self.before + self.side**2)


def with_grids(flat: keras.Model) -> keras.Model:
    """A copy of a flat classifier whose tokens pass through grids; `flat` itself if it needs none or has them.

    Before each operation that mixes tokens, such as attention, the last cut of the graph gets a grid, named
    `<its layer>_token_grid`. If the head pools the last sequence, that gets `<its layer>_pooled_token_grid`.

    Raises: InputError if the tokens of `flat` are not the cells of its image in rows.
    """
    nodes = graph.ordered(flat.get_layer("logits").output)
    if graph.token_grids(nodes):  # a checkpoint of a study
        return flat
    cuts = graph.cuts(nodes)
    sequences = [place for place, node in enumerate(nodes) if node in cuts and _is_sequence(node.output_tensors)]
    mixers = [place for place, node in enumerate(nodes) if sequences and _mixes(node, is_cut=node in cuts)]
    if not mixers:
        return flat
    before_mixers = {max((place for place in sequences if place < mixer), default=-1) for mixer in mixers} - {-1}
    names = {place: graph.TOKEN_GRID for place in before_mixers}
    if sequences[-1] >= mixers[-1] and _is_pooled(nodes, cuts, sequences[-1]):
        names[sequences[-1]] = graph.POOLED_TOKEN_GRID
    layouts: dict[int, Layout] = {}
    grids: dict[int, tuple[str, Layout]] = {}
    for place, ending in sorted(names.items()):
        node = nodes[place]
        tokens = node.output_tensors[0].shape[1]
        if tokens not in layouts:
            layouts[tokens] = _layout(flat.name, node, [one for one in nodes[:place] if one in cuts])
        grids[id(node.operation)] = ending, layouts[tokens]
    return _Gridded(grids).copy(flat) if grids else flat


def _is_sequence(tensors: list[KerasTensor]) -> bool:
    return len(tensors) == 1 and len(tensors[0].shape) == 3 and None not in tensors[0].shape[1:]


def _mixes(node: Any, is_cut: bool) -> bool:
    """Whether an operation on sequences lets one token have an effect on others. Layers of users are tried."""
    op = node.operation
    if isinstance(op, _ATTENTION):
        return all(len(tensor.shape) == 3 for tensor in node.output_tensors)
    if isinstance(op, layers.Permute) or type(op).__name__ == "Transpose":  # in MLP-Mixer, beside a shortcut
        return _is_sequence(node.input_tensors) and _is_sequence(node.output_tensors) and not is_cut
    if type(op).__module__.startswith("keras.") or not (
        _is_sequence(node.input_tensors) and _is_sequence(node.output_tensors)
    ):
        return False
    x = np.random.default_rng(0).normal(size=(2, *node.input_tensors[0].shape[1:])).astype(np.float32)
    x[1] = x[0]
    x[1, x.shape[1] // 2] *= -1
    found = np.asarray(keras.Model(node.input_tensors[0], node.output_tensors[0])(x, training=False))
    return int((found[0] != found[1]).any(axis=-1).sum()) > 1


def _is_pooled(nodes: list[Any], cuts: set[Any], sequence: int) -> bool:
    """Whether the first vector behind a sequence is made of all its tokens."""
    vector = next(
        node for node in nodes[sequence + 1 :] if node in cuts and len(node.output_tensors[0].shape) == 2
    )
    pools = (layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D, layers.Flatten, layers.Reshape)
    return isinstance(vector.operation, pools) or type(vector.operation).__name__ in ("Mean", "Max")


def _layout(name: str, node: Any, earlier: list[Any]) -> Layout:
    """How the tokens of a node lie on the last feature map of the cuts before it, or in the image itself."""
    source = next(one for one in reversed(earlier) if len(one.output_tensors[0].shape) == 4).output_tensors[0]
    tokens = keras.Model(source, node.output_tensors[0])
    plain = np.random.default_rng(0).uniform(0, 255, (1, *source.shape[1:])).astype(np.float32)
    other = 255 - plain

    def response(images: np.ndarray) -> np.ndarray:
        """By how much each token changes: [n, t]."""
        found = [np.asarray(tokens(one, training=False), np.float64) for one in (images, plain)]
        return np.abs(found[0] - found[1]).sum(axis=-1)

    is_cell = response(other)[0] > 0
    before, after = (int(np.argmax(ends)) for ends in (is_cell, is_cell[::-1]))
    layout = Layout(math.isqrt(len(is_cell) - before - after), before, after)

    def in_order(axis: int) -> bool:
        """Whether a band of rows (axis 1) or columns (2) changes the tokens of that row or column most."""
        bands = np.repeat(plain, layout.side, axis=0)
        edges = np.linspace(0, source.shape[axis], layout.side + 1).round().astype(int)
        for band, (start, stop) in zip(bands, itertools.pairwise(edges), strict=True):
            part = (*[slice(None)] * (axis - 1), slice(start, stop))
            band[part] = other[0][part]
        strongest = response(bands)[:, layout.cells].argmax(axis=0).reshape(layout.side, layout.side)
        return bool((strongest == np.expand_dims(np.arange(layout.side), 2 - axis)).all())

    fits = layout.cells.stop + after == len(is_cell) and is_cell.any() and min(source.shape[1:3]) >= layout.side
    if not (fits and in_order(1) and in_order(2)):
        raise InputError(
            f"{name} is a transformer, and the {len(is_cell)} tokens of '{node.operation.name}' are not the cells "
            "of a square image in rows, with others such as a class token before or behind them: maps would lie "
            "over the wrong places: make the tokens with one patch embedding, such as Conv2D(d, patch, "
            "strides=patch) and Reshape((-1, d))"
        )
    return layout


class Call(NamedTuple):
    """One call of an attention layer."""

    layer: layers.MultiHeadAttention
    inputs: tuple[KerasTensor, KerasTensor, KerasTensor]  # query, value and key, each [n, t, d]


@dataclass(frozen=True)
class Attention:
    """The self-attention of a network, from image to head."""

    calls: list[Call]
    layout: Layout
    read: np.ndarray  # float [t]: the share of each token in what the head reads; they sum to 1


def attention(model: keras.Model) -> Attention:
    """The self-attention of a flat classifier that `with_grids` made.

    Raises: InputError if it has no `keras.layers.MultiHeadAttention` on its tokens, or one that is masked.
    """
    nodes = graph.ordered(model.get_layer("logits").output)
    grids = [node.operation for node in graph.token_grids(nodes)]
    calls = [_call_of(node, model.name) for node in nodes if isinstance(node.operation, layers.MultiHeadAttention)]
    if not grids or not calls:
        raise InputError(
            f"method: attention_rollout needs a transformer with layers.MultiHeadAttention on its tokens, and "
            f"{model.name} has none in its graph: use another method"
        )
    before, after = 0, 0
    with contextlib.suppress(ValueError):
        before, after = model.get_layer(f"{grids[-1].name}_cells").cropping
    layout = Layout(grids[-1].output.shape[1], before, after)
    cuts = graph.cuts(nodes)
    last = [node for node in nodes if node in cuts and _is_sequence(node.output_tensors)][-1].output_tensors[0]
    return Attention(calls, layout, _read(last, graph.head_input(model)))


def _call_of(node: Any, name: str) -> Call:
    given = dict(zip(("query", "value", "key"), node.arguments.args, strict=False)) | node.arguments.kwargs
    masked = [key for key, value in given.items() if "mask" in key and value is not None and value is not False]
    if masked:
        raise InputError(f"method: '{node.operation.name}' of {name} is masked ({masked[0]}): use another method")
    value = given["value"]
    return Call(node.operation, (given["query"], value, value if given.get("key") is None else given["key"]))


def _read(sequence: KerasTensor, head_input: KerasTensor) -> np.ndarray:
    """The tokens on which the input of the head depends, each with the same share: float [t]."""
    head = keras.Model(sequence, head_input)
    x = np.random.default_rng(0).normal(size=(1, *sequence.shape[1:])).astype(np.float32)
    plain = np.asarray(head(x, training=False))
    changed = np.repeat(x, sequence.shape[1], axis=0)
    changed[np.arange(sequence.shape[1]), np.arange(sequence.shape[1])] *= -1
    read = (np.asarray(head(changed, training=False)) != plain).any(axis=1)
    return read / read.sum()


class _Gridded(Copies):
    """Copies of a graph's layers; the tokens of some pass through a grid."""

    def __init__(self, grids: dict[int, tuple[str, Layout]]) -> None:
        super().__init__(["image"])
        self._grids = grids  # by the id of the layer before: the ending of the grid's name, and its layout

    def copy(self, flat: keras.Model) -> keras.Model:
        image = keras.Input(flat.input_shape[1:], name="image")
        return keras.Model(image, self.run(flat, image), name=flat.name)

    def _call(self, parent: keras.Model, op: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        outputs = super()._call(parent, op, *args, **kwargs)
        return _through_grid(op.name, outputs, *self._grids[id(op)]) if id(op) in self._grids else outputs


def _through_grid(layer: str, x: KerasTensor, ending: str, layout: Layout) -> KerasTensor:
    count, (before, after), name = layout.side**2, (layout.before, layout.after), f"{layer}{ending}"
    cells = layers.Cropping1D((before, after), name=f"{name}_cells")(x) if before + after else x
    grid = layers.Reshape((layout.side, layout.side, x.shape[-1]), name=name)(cells)
    parts = [layers.Reshape((count, x.shape[-1]), name=f"{name}_back")(grid)]
    if before:
        parts.insert(0, layers.Cropping1D((0, count + after), name=f"{name}_before")(x))
    if after:
        parts.append(layers.Cropping1D((before + count, 0), name=f"{name}_after")(x))
    return layers.Concatenate(axis=1, name=f"{name}_joined")(parts) if len(parts) > 1 else parts[0]
