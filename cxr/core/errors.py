"""The one exception for input that a person can put right, and how messages list things and cite other errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SHOWN = 5  # how many files, rows or patients a message lists


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line exits with 2.

    `items`: all of what the message lists only the first of; empty where it lists nothing.
    """

    def __init__(self, message: str, *, items: Iterable[Any] = ()) -> None:
        super().__init__(message)
        self.items = [str(item) for item in items]


def first_line(error: BaseException, most: int = 300) -> str:
    """What an exception says, on one line; without its full stop; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most].rstrip(".")


def some(items: Iterable[Any]) -> str:
    """The first SHOWN of them, and how many more there are."""
    items = [_line(str(item)) for item in items]
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _line(text: str, most: int = 300) -> str:
    """On one line whatever a file's name has in it, and not longer than a person reads."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
