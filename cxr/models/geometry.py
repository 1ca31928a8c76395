"""Does a layer move pixels? Then maps would be laid over the wrong places of the image.

A map is laid over the whole image. That is right for convolutions and pooling, whose grids tile the image. A crop,
a wide border, a flip or a shift inside a model puts each cell elsewhere, so the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from cxr.core.errors import InputError
from cxr.models.graph import has_weights, ordered

_TILES = (  # their grids tile that of their input
    *(layers.AveragePooling2D, layers.MaxPooling2D, layers.UpSampling2D, layers.Activation, layers.ReLU),
    *(layers.Dropout, layers.SpatialDropout2D, layers.Rescaling, layers.Normalization, layers.Softmax),
)
_SMALLEST = 4  # cells a side; coarser grids have no maps


def refuse_moved(model: keras.Model) -> None:
    """Raise InputError, with the layer's name, if a layer between image and logits moves pixels.

    Each operation without weights from one grid to another is tried: where does its output change if a small
    square of its input does? Small shifts pass: those that a convolution without padding behind a border takes
    back, and up to one cell behind the first weights.

    Args: model: flat, with a layer `logits`.
    """
    weighted = False
    consumers: dict[Any, list[Any]] = {}
    nodes = ordered(model.get_layer("logits").output)
    for node in nodes:
        for parent in node.parent_nodes:
            consumers.setdefault(parent, []).append(node)
    for node in nodes:
        op = node.operation
        if has_weights(op) and not isinstance(op, layers.Normalization):
            weighted = True
        elif _is_tried(node):
            allowed = (1.25 if weighted else 0.6) + max(map(_takes_back, consumers.get(node, [])), default=0.0)
            if _moves(node, allowed):
                raise InputError(
                    f"'{op.name}' ({type(op).__name__}) of {model.name} moves pixels: maps would be laid over the "
                    "wrong places: crop, pad or turn the images before the model gets them, and build it without "
                    "this layer"
                )


def _is_tried(node: Any) -> bool:
    if isinstance(node.operation, _TILES) or len(node.input_tensors) != 1 or len(node.output_tensors) != 1:
        return False
    shapes = [tuple(tensor.shape) for tensor in (node.input_tensors[0], node.output_tensors[0])]
    return all(len(shape) == 4 and None not in shape[1:] and min(shape[1:3]) >= _SMALLEST for shape in shapes)


def _takes_back(node: Any) -> float:
    """How many cells of a border a convolution or pooling without padding takes away on each side."""
    op = node.operation
    size = getattr(op, "kernel_size", getattr(op, "pool_size", (1,)))
    return (max(size) - 1) / 2 if getattr(op, "padding", "") == "valid" else 0.0


def _moves(node: Any, allowed: float) -> bool:
    call = keras.Model(node.input_tensors[0], node.output_tensors[0])
    shape, out = (tuple(t.shape[1:3]) for t in (node.input_tensors[0], node.output_tensors[0]))
    scale = max(shape[0] / out[0], shape[1] / out[1], 1.0)
    half = max(1, int(np.ceil(scale)))
    squares = list(_squares(shape))
    images = np.full((len(squares) + 1, *shape, node.input_tensors[0].shape[3]), 0.5, np.float32)
    for image, (row, column) in zip(images[1:], squares, strict=True):
        image[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1] = 1
    found = np.asarray(call(images, training=False), np.float64)
    if found.shape[1:3] != out:  # Keras' RandomCrop gives another size than it says
        return True
    change = np.abs(found[1:] - found[:1]).sum(axis=-1)
    for where, square in zip(change, squares, strict=True):
        where = np.where(where >= where.max() / 2, where, 0)
        if where.max() == 0:
            return True  # it is not shown
        for axis in (0, 1):
            profile = where.sum(axis=1 - axis)
            centre = (np.arange(out[axis]) @ profile / profile.sum() + 0.5) * shape[axis] / out[axis] - 0.5
            if abs(centre - square[axis]) > allowed + 0.5 * scale:
                return True
    return False


def _squares(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The centres of five small squares: four towards the corners, and one beside the middle."""
    for rows, columns in ((1, 1), (1, 5), (5, 1), (5, 5), (3, 2)):
        yield shape[0] * rows // 6, shape[1] * columns // 6
