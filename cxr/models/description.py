"""What is known of a network before it is trained: its description, and a check of all that can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from cxr.core.errors import InputError
from cxr.core.methods import TABLE
from cxr.models import graph, size, tokens
from cxr.models.build import ARCHITECTURES, build
from cxr.models.targets import MIN_GRID, frozen_layers, target_layer
from cxr.models.weights import find_weights, load_backbone


@dataclass(frozen=True)
class Description:
    """What was found in a model, to be shown and logged."""

    architecture: str
    input: str
    preprocessing: str
    preprocessing_why: str
    head: str
    parameters: int
    targets: dict[str, graph.Target]  # also those whose grid is too small to be used

    def tags(self) -> dict[str, str]:
        """Tags of a run: `preprocessing`, and `layer_<target>` with its grid."""
        layers = {f"layer_{key}": f"{t.layer} {t.grid[0]}x{t.grid[1]}" for key, t in self.targets.items()}
        return {"preprocessing": self.preprocessing, **layers}

    def lines(self) -> str:
        """Text of a few lines, for a person."""
        rows = [
            ("input", self.input),
            ("preprocessing", f"{self.preprocessing}: {self.preprocessing_why}"),
            ("head", self.head),
            ("parameters", f"{self.parameters:,}"),
            *(
                (key, f"{t.layer}, {t.grid[0]}x{t.grid[1]}{_too_coarse(t)}: {t.why}")
                for key, t in self.targets.items()
            ),
        ]
        return "\n".join([self.architecture, *(f"  {key:16} {text}" for key, text in rows)])


def _too_coarse(target: graph.Target) -> str:
    return "" if min(target.grid) >= MIN_GRID else f" (under {MIN_GRID}x{MIN_GRID}: refused at this size)"


def describe(model: keras.Model) -> Description:
    """What was found in a model that `cxr.models.build` or `cxr.models.foreign.adapt` made.

    Raises InputError for a model that was loaded from a file.
    """
    adapted = getattr(model, "adapted", None)
    spec = ARCHITECTURES.get(model.name)
    if adapted is not None:
        mode, why, head = adapted.preprocessing, adapted.preprocessing_why, adapted.head
    elif spec is not None:
        mode, why, head = spec.preprocessing, "of this architecture", "none"
    else:
        raise InputError(f"{model.name}: describe the model that build or adapt made, not one that was loaded")
    channels = model.get_layer("preprocessing").output.shape[-1]
    grey = "as it is" if channels == 1 else "copied into three channels"
    side = model.input_shape[1]
    return Description(
        architecture=model.name,
        input=f"{side}x{side}, grey values 0 to 255, {grey}",
        preprocessing=mode,
        preprocessing_why=why,
        head=head if head != "none" else "added: global average pooling, dropout, logits, softmax",
        parameters=model.count_params(),
        targets=graph.targets(model),
    )


def check(
    architecture: str,
    *,
    weights: str,
    target: str,
    image_size: int,
    n_classes: int,
    fine_tune_from: str = "",
    methods: Sequence[str] = (),
    multi_label: bool = False,
) -> size.Size:
    """Try everything about a model that can fail, before training starts. Returns how large it is.

    Raises InputError as `build`, `target_layer`, `frozen_layers` and `load_backbone` do, and for methods that read
    the attention of a network without.
    """
    find_weights(architecture, weights)  # first, as it fails fast
    model = build(architecture, n_classes=n_classes, image_size=image_size, multi_label=multi_label)
    target_layer(model, target)
    frozen_layers(model, fine_tune_from)
    if any(TABLE[method].kind == "attention" for method in methods):
        tokens.attention(model)
    load_backbone(model, weights)
    return size.of_model(model)
