"""Which attribution methods there are: the one table that parameters, explanations and figures read.

To add a method, write a function of its name in the module of `cxr.attribution` that its kind names, and add a row
here. `cams`: a function (A, G) -> maps of the activations of a layer and the gradients of a score at it.
`perturbing` and `attention`: a function (model, layer, score) -> a function (images, classes) -> maps, which may
query the model as often as it needs.

Without TensorFlow, so that parameters are checked at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    label: str  # in figures, tables and reports
    kind: Literal["cams", "perturbing", "attention"]  # the module of cxr.attribution that has its function
    # The map is multiplied by c > 0 when the gradients are. Log-odds and probability, whose gradients at an image
    # differ by such a factor, then have the same map.
    proportional: bool = False


SCORE_LABELS: dict[str, str] = {"log_odds": "log-odds", "logit": "logit", "probability": "probability"}
SCORES: tuple[str, ...] = tuple(SCORE_LABELS)
"""What a map can explain of a class (`cxr.attribution.scores`); the first is the default."""


TABLE: dict[str, Method] = {
    "layercam": Method("LayerCAM", "cams", proportional=True),
    "gradcampp": Method("Grad-CAM++", "cams"),
    "gradcampp_authors": Method("Grad-CAM++ (authors' normalisation)", "cams"),
    "gradcam": Method("Grad-CAM", "cams", proportional=True),
    "hirescam": Method("HiResCAM", "cams", proportional=True),
    "scorecam": Method("Score-CAM", "perturbing"),
    "smoothgrad": Method("SmoothGrad", "perturbing"),
    "integrated_gradients": Method("integrated gradients", "perturbing"),
    "occlusion": Method("occlusion", "perturbing"),
    "attention_rollout": Method("attention rollout", "attention"),
}
METHODS: tuple[str, ...] = tuple(TABLE)
LABELS: dict[str, str] = {name: method.label for name, method in TABLE.items()}


def cams(names: Iterable[str] = TABLE) -> list[str]:
    """Those of `names` that are CAMs, in their order: one backward pass serves all of them."""
    return [name for name in names if TABLE[name].kind == "cams"]
