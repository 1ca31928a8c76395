"""How large a network is: the numbers from which its memory is estimated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # what estimates memory need not load Keras
    import keras


class Size(NamedTuple):
    """The size of a network."""

    parameters: int
    activations: int  # numbers that all layers together give for one image


def of_model(model: keras.Model) -> Size:
    """The size of a flat classifier as `cxr.models.build` makes it."""
    outputs = (layer.output for layer in model.layers)
    tensors = [tensor for output in outputs for tensor in (output if isinstance(output, list) else [output])]
    return Size(model.count_params(), sum(math.prod(tensor.shape[1:]) for tensor in tensors))
