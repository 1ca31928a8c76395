"""The one exception for input that a person can put right, and how its messages list things."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SHOWN = 5  # how many files, rows or patients a message lists


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line exits with 2."""


def some(items: Iterable[Any]) -> str:
    """The first SHOWN of them, and how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
