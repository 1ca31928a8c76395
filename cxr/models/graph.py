"""The graph of a flat classifier: its target layers, and the input of its head.

A *cut* is a layer that every path from the image to the logits goes through.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from cxr.core.errors import InputError

_IDENTITY = (  # in inference
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.ActivityRegularization,
    layers.Identity,
)
_FRAMES = (layers.ZeroPadding2D, layers.Cropping2D)  # their grids are not those of feature maps
_NORMALISING = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.UnitNormalization,
)
_POOLING = (layers.AveragePooling2D, layers.MaxPooling2D)
_MERGING = (layers.Add, layers.Average, layers.Concatenate, layers.Maximum, layers.Minimum, layers.Multiply)
GLOBAL_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
TOKEN_GRID, POOLED_TOKEN_GRID = "_token_grid", "_pooled_token_grid"
"""How the names of layers end through which tokens pass as a grid (`cxr.models.tokens`): before an operation that
mixes tokens, and before the head pools them."""
_RECTIFIED = {"relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "exponential", "softmax"}


@dataclass(frozen=True)
class Target:
    """One of a model's target layers, and why this layer was chosen."""

    layer: str
    grid: tuple[int, int]
    signed: bool  # its values may be negative
    why: str


def has_weights(op: keras.Operation) -> bool:
    return bool(getattr(op, "weights", None))


def producer(tensor: KerasTensor) -> keras.Operation:
    return tensor._keras_history.operation


def activation_of(op: keras.Operation) -> str:
    """The name of the activation that an operation is or ends with; "linear" if there is none."""
    if isinstance(op, layers.ReLU):
        return "leaky_relu" if op.negative_slope or op.threshold else "relu"
    function = getattr(op, "activation", None)
    if function is not None:
        return getattr(function, "__name__", type(function).__name__).lower()
    if isinstance(op, layers.Softmax):
        return "softmax" if op.axis in (-1, 1) else "other"
    return "linear" if isinstance(op, keras.Layer) else type(op).__name__.lower()


def configuration(model: keras.Model) -> list[Any]:
    """The configuration of each layer, without the ids that Keras gives objects: they differ between processes."""

    def without_id(part: dict[str, Any]) -> dict[str, Any]:
        part.pop("shared_object_id", None)
        return part

    return json.loads(model.to_json(), object_hook=without_id)["config"]["layers"]


def differ_in_weights_alone(one: keras.Model, other: keras.Model) -> bool:
    """Whether two networks compute the same once they have the same weights.

    Also False where this cannot be known: with layers of other packages, and with Normalization, which keeps what
    it once derived from its weights.
    """
    known = all(
        type(op).__module__.startswith(("keras.", "cxr.")) and not isinstance(op, layers.Normalization)
        for op in (*one.operations, *other.operations)
    )
    return known and configuration(one) == configuration(other)


def target_layers(model: keras.Model) -> dict[str, str]:
    """The names of the layers that `targets` finds, without the reasons."""
    return {name: target.layer for name, target in targets(model).items()}


def targets(model: keras.Model) -> dict[str, Target]:
    """The target layers of any flat classifier, found in its graph.

    - `final`: the last feature map before the head. The head begins with flattening or with pooling to one
    position.
    - `penultimate`: on the next finer grid (about twice that of `final`; a sixteenth of the image's side in most
      networks), the last cut of the graph. CAMs assume activations that are not negative, so the rectified form of
      the cut is taken if there is one: the cut itself; its successor through normalisation and an activation,
      which a shortcut may bypass (pre-activation ResNets); or its predecessor through layers of one input
      (DenseNet). If no layer on that grid is a cut (in NASNet each cell sees the last two), the last sum or
      concatenation there.
    - `penultimate_cut`: the cut itself, if `penultimate` is another layer.
    - `shallower`: the same as `penultimate`, one grid finer.
    - `last_conv`: the last convolution of all, a cut or not.

    A transformer has the grids of its tokens instead (`cxr.models.tokens`). `final`: the last whose tokens reach
    the head, by pooling or by attention. `penultimate`: the last before an operation that mixes tokens; this is
    `final` if the head reads a class token. `shallower`: with half of these operations behind it.

    Returns those that exist, also on grids that are too small for maps (see `cxr.models.targets`). Raises
    InputError if the model has no layer `logits`, or no feature map that is a cut.
    """
    return _Graph(model).targets()


def head_input(model: keras.Model) -> KerasTensor:
    """The input of a flat classifier's head, [n, d], such as the output of global pooling or Flatten.

    It is the first vector after `final` that is a cut. Raises InputError as `targets` does.
    """
    return _Graph(model).head_input()


def feeds_pooling(model: keras.Model, layer: str) -> bool:
    """Whether `layer` is the last feature map and the head sees only its mean over positions.

    The gradient is then the same at all positions: Grad-CAM++ and LayerCAM give the same map up to a factor, and
    comparing these methods compares nothing.
    """
    tensor, averaged = head_input(model), False
    while (op := producer(tensor)).name != layer:
        if _is_global_average(op):
            averaged = True
        elif not isinstance(op, (*_IDENTITY, layers.Flatten, layers.Reshape)):
            return False
        tensor = op.input
    return averaged


def _is_global_average(op: keras.Operation) -> bool:
    if isinstance(op, layers.GlobalAveragePooling1D):
        return True
    if isinstance(op, layers.AveragePooling2D):
        return tuple(op.pool_size) == tuple(op.input.shape[1:3])
    return isinstance(op, layers.GlobalAveragePooling2D) or (
        type(op).__name__ == "Mean" and sorted(np.atleast_1d(op.axis)) == [1, 2]
    )


class _Graph:
    """The calls (Keras' nodes) between the image and the logits of a flat classifier, in the graph's order."""

    def __init__(self, model: keras.Model) -> None:
        self.name = model.name
        if "logits" not in {layer.name for layer in model.layers}:
            raise InputError(f"{model.name} has no layer 'logits': make it with cxr.models.foreign.adapt")
        self.nodes = ordered(model.get_layer("logits").output)
        self.consumers: dict[Any, list[Any]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for parent in node.parent_nodes:
                self.consumers[parent].append(node)
        self.cuts = cuts(self.nodes)
        self.grids = token_grids(self.nodes)
        # before the first weights there are images, not feature maps
        first = next(i for i, node in enumerate(self.nodes) if has_weights(node.operation))
        calls = Counter(node.operation for node in self.nodes)
        self.maps = [node for node in self.nodes[first:] if calls[node.operation] == 1 and _is_map(node)]

    def targets(self) -> dict[str, Target]:
        if self.grids:
            return self._of_tokens()
        final = self._final()
        found = {"final": _target(final, "the last feature map")}
        level = final
        for name in ("penultimate", "shallower"):
            if (last := self._next_finer(level)) is None:
                break
            node, why = self._rectified_form(last)
            found[name] = _target(node, why)
            if name == "penultimate" and last in self.cuts:
                is_cut = node in self.cuts
                found["penultimate_cut"] = found[name] if is_cut else _target(last, _LAST_CUT)
            level = last
        convolutions = [n for n in self.maps if isinstance(n.operation, layers.Conv2D | layers.SeparableConv2D)]
        if convolutions:
            found["last_conv"] = _target(convolutions[-1], "the last convolution")
        order = ("shallower", "penultimate", "penultimate_cut", "last_conv", "final")
        return {name: found[name] for name in order if name in found}

    def _of_tokens(self) -> dict[str, Target]:
        mixed = [node for node in self.grids if not node.operation.name.endswith(POOLED_TOKEN_GRID)]
        found = {}
        if len(mixed) > 1:
            behind = max(2, len(mixed) // 2)
            found["shallower"] = _target(mixed[-behind], f"tokens before the last {behind} blocks")
        found["penultimate"] = _target(mixed[-1], "tokens before the last block")
        reach = "which the head pools" if self.grids[-1] is not mixed[-1] else "that reach the head"
        found["final"] = _target(self.grids[-1], f"the last tokens {reach}")
        return found

    def head_input(self) -> KerasTensor:
        behind = self.nodes[self.nodes.index(self._final()) + 1 : -1]
        vectors = [node.output_tensors[0] for node in behind if node in self.cuts]
        return next((x for x in vectors if len(x.shape) == 2), self.nodes[-1].input_tensors[0])

    def _final(self) -> Any:
        if self.grids:
            return self.grids[-1]
        maps = set(self.maps)
        found = None
        for node in self.nodes:
            if node in self.cuts and _begins_head(node):
                break
            if node in self.cuts and node in maps and not isinstance(node.operation, _IDENTITY):
                found = node
        if found is None:
            raise InputError(f"{self.name} has no feature map that all paths to its logits go through")
        return found

    def _next_finer(self, level: Any) -> Any | None:
        """The last cut before `level` on the next grid of about twice its side (odd sides are halved upwards).

        If no layer on that grid is a cut: the last sum or concatenation there.
        """
        before = self.maps[: self.maps.index(level)]
        finer = [node for node in before if _side(node) > _side(level) and _side(node) >= 2 * _side(level) - 1]
        if not finer:
            return None
        side = min(_side(node) for node in finer)
        on = [node for node in finer if _side(node) == side and not isinstance(node.operation, _IDENTITY)]
        merged = [node for node in on if len(node.parent_nodes) > 1]
        return ([node for node in on if node in self.cuts] or merged or on)[-1]

    def _rectified_form(self, last: Any) -> tuple[Any, str]:
        what = _LAST_CUT if last in self.cuts else _LAST_MERGED
        if _is_rectified(last):
            return last, what
        if (node := self._rectified_successor(last)) is not None:
            bypassed = "" if node in self.cuts else "; shortcuts bypass it"
            return node, f"the rectified form of {last.operation.name}, {what}{bypassed}"
        node = last
        while (
            len(node.parent_nodes) == 1
            and _is_map(parent := node.parent_nodes[0])
            and _side(parent) == _side(last)
        ):
            node = parent
            if node in self.maps and node in self.cuts and _is_rectified(node):
                return node, f"the last rectified cut of the graph on this grid, before {last.operation.name}"
        return last, f"{what}; there is no rectified one beside it"

    def _rectified_successor(self, node: Any) -> Any | None:
        """The first rectified map after `node`, with nothing but normalisation and activation in between."""
        waiting = [node]
        while waiting:
            for consumer in self.consumers[waiting.pop(0)]:
                op = consumer.operation
                if consumer in self.maps and activation_of(op) in _RECTIFIED and not has_weights(op):
                    return consumer
                if isinstance(op, (*_NORMALISING, *_IDENTITY)):
                    waiting.append(consumer)
        return None


_LAST_CUT = "the last layer at this resolution that every path goes through"
_LAST_MERGED = "the last sum or concatenation on this grid, which has no cut"


def token_grids(nodes: list[Any]) -> list[Any]:
    """Those of `nodes` through which tokens pass as a grid."""
    return [node for node in nodes if node.operation.name.endswith(TOKEN_GRID)]


def cuts(nodes: list[Any]) -> set[Any]:
    """The nodes that every path to the last of `nodes` (`ordered`) goes through, found by counting paths."""
    into: dict[Any, int] = {}
    for node in nodes:
        into[node] = sum(into[parent] for parent in node.parent_nodes) or 1
    out_of = dict.fromkeys(nodes, 0)
    out_of[nodes[-1]] = 1
    for node in reversed(nodes):
        for parent in node.parent_nodes:
            out_of[parent] += out_of[node]
    return {node for node in nodes if into[node] * out_of[node] == into[nodes[-1]]}


def _target(node: Any, why: str) -> Target:
    signed = not _is_rectified(node)
    grid = tuple(node.output_tensors[0].shape[1:3])
    return Target(node.operation.name, grid, signed, why + " (values of either sign)" * signed)


def ordered(tensor: KerasTensor) -> list[Any]:
    """The nodes that compute `tensor`, each after all that it depends on."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(_node(tensor), False)]
    while stack:  # no recursion: a deep network has more layers than Python's stack has frames
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in reversed(node.parent_nodes))
    return order


def _node(tensor: KerasTensor) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _is_map(node: Any) -> bool:
    """Whether the node's output is a feature map on a grid of its own."""
    if not isinstance(node.operation, keras.Layer) or isinstance(node.operation, _FRAMES):
        return False
    shapes = [tuple(tensor.shape) for tensor in node.output_tensors]
    return len(shapes) == 1 and len(shapes[0]) == 4 and None not in shapes[0][1:3]


def _side(node: Any) -> int:
    return min(node.output_tensors[0].shape[1:3])


def _begins_head(node: Any) -> bool:
    """Whether the node flattens feature maps, or pools them to one position."""
    shape = node.output_tensors[0].shape
    pools = isinstance(node.operation, _POOLING + GLOBAL_POOLING) or type(node.operation).__name__ in (
        "Mean",
        "Max",
    )
    return len(shape) != 4 or (pools and tuple(shape[1:3]) == (1, 1))


def _is_rectified(node: Any) -> bool:
    """Whether no value can be negative."""
    op = node.operation
    if activation_of(op) in _RECTIFIED:
        return True
    keeps = isinstance(op, (*_POOLING, *_IDENTITY, *_FRAMES, *_MERGING)) or type(op).__name__ in (
        "Add",
        "Multiply",
    )
    return keeps and bool(node.parent_nodes) and all(_is_rectified(parent) for parent in node.parent_nodes)
