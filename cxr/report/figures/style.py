"""Colours, markers and names that all figures share."""

from __future__ import annotations

import textwrap

from cxr.core import methods

# The palette of Okabe and Ito (2008) suits any colour vision. Grey replaces its yellow: it is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")


BEFORE, AFTER = COLOURS[0], COLOURS[1]


METHOD_LABELS = methods.LABELS


CHECKPOINT_LABELS = {"before": "before fine-tuning", "after": "after fine-tuning"}


MARKERS = "osD^vP*<>"


DASHES = ("-", "--", ":", "-.")


WIDTH = 9.0  # inches: at 100 dpi the 900 pixels of a report's column


PAGE = 7.3  # inches: a page 1100 pixels wide, at 150 dpi


# by the suffix of the columns: label, colour of the band, colour of its median, hatch
BASELINES = {
    "two_patients": ("two patients (same class)", "#BDBDBD", "#6E6E6E", None),
    "two_heads": ("two heads", "#56B4E9", "#2E8BC0", None),
    "two_seeds": ("two seeds", "#E69F00", "#B37B00", "/////"),
    "more_training": ("as many epochs again", "#009E73", "#006B4F", "....."),
}


def wrapped(label: str) -> str:
    """A label in lines of at most 30 characters."""
    return textwrap.fill(label, 30)


def method_style(method: str) -> tuple[str, str]:
    """Colour and marker of a method, the same in every figure."""
    place = list(METHOD_LABELS).index(method)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def plain(name: object) -> str:
    """A name with spaces in place of underscores."""
    return str(name).replace("_", " ")


def signed(value: float) -> str:
    """A number with one decimal and a typographic minus sign; never "-0.0"."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")
