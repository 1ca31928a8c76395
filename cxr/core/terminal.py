"""How wide text on a terminal is."""

from __future__ import annotations

import textwrap

WIDTH = 100
"""Columns that tables and sentences fill at most."""


def wrapped(text: str, *, hang: int = 0) -> str:
    """Text whose long lines are wrapped between words, with their own indent and `hang` columns more.

    A word that is longer than `WIDTH`, such as a path, stays whole.
    """
    return "\n".join(_wrapped(line, hang) for line in text.split("\n"))


def _wrapped(line: str, hang: int) -> str:
    if len(line) <= WIDTH:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")) + hang)
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
    return "\n".join(textwrap.wrap(line, WIDTH, **options))
