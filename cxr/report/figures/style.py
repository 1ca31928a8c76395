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


WIDTH = 7.3  # inches: a page 1100 pixels wide, at 150 dpi


FONT = 8.0  # points: the smallest text on such a page that people read with ease


# by the suffix of the columns: name and colour
BASELINES = {
    "two_patients": ("two patients", "#6E6E6E"),
    "two_heads": ("two heads", "#2E8BC0"),
    "two_seeds": ("two seeds", "#B37B00"),
    "more_training": ("as many epochs again", "#006B4F"),
    "chance": ("chance", "#9B4A77"),
}


def wrapped(label: str) -> str:
    """A label in lines of at most 30 characters."""
    return textwrap.fill(label, 30)


def plain(name: object) -> str:
    """A name with spaces in place of underscores."""
    return str(name).replace("_", " ")


def signed(value: float) -> str:
    """A number with one decimal and a typographic minus sign; never "-0.0"."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")
