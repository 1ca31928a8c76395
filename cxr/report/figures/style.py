"""Colours, markers and names that all figures share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

# Okabe and Ito's palette (2008): distinguishable with any colour vision. Grey for their yellow, lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")


METHOD_LABELS = {
    "layercam": "LayerCAM",
    "gradcampp": "Grad-CAM++",
    "gradcam": "Grad-CAM",
    "hirescam": "HiResCAM",
    "scorecam": "Score-CAM",
    "smoothgrad": "SmoothGrad",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}


CHECKPOINT_LABELS = {"before": "before fine-tuning", "after": "after fine-tuning"}


MARKERS = "osD^vP*<"


DASHES = ("-", "--", ":", "-.")


WIDTH = 9.0  # inches: at 100 dpi the 900 pixels of a report's column


# Baselines of drift: suffix of the columns, legend, colours of the band and of its median, hatch.
BASELINES = {
    "two_patients": ("two patients (same class)", "#BDBDBD", "#8A8A8A", None),
    "two_heads": ("two heads", "#56B4E9", "#2E8BC0", None),
    "two_seeds": ("two seeds", "#E69F00", "#B37B00", "/////"),
}


def wrapped(label: str) -> str:
    return textwrap.fill(label, 30)


def method_style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: a known method's own; others take those that no known one of the figure uses."""
    known = list(METHOD_LABELS)
    if method in known:
        place = known.index(method)
    else:
        free = [number for number in range(len(COLOURS)) if number >= len(known) or known[number] not in methods]
        others = [name for name in methods if name not in known]
        place = (free or list(range(len(COLOURS))))[others.index(method) % max(1, len(free))]
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def plain(name: object) -> str:
    return str(name).replace("_", " ")


def signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")
