"""The exception for input that a person can correct, and how messages list items and quote other errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

SHOWN = 5  # files, rows or patients that a message lists at most


class InputError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do. The command line then exits with 2.

    `items`: all items of which the message lists the first; empty if it lists none.
    """

    def __init__(self, message: str, *, items: Iterable[Any] = ()) -> None:
        super().__init__(_printable(message))  # names from data may hold line breaks
        self.items = [str(item) for item in items]
        self._shown = False

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show, and papermill prints: the message alone.

        The message says what to do; the lines of our code above it would hide it. `%debug` still goes there.
        """
        if not self._shown:  # IPython asks twice
            from cxr.core import display

            self._shown = True
            display.scroll_here()
        return [f"{type(self).__name__}: {self}"]


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an exception's text without its full stop; its type if it has no text.

    Addresses in it are without user name and password.
    """
    return without_password((str(error).strip().splitlines() or [type(error).__name__])[0])[:most].rstrip(".")


def without_password(text: str) -> str:
    """A text with its addresses as they may be shown: without what stands before an `@`."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)


def some(items: Iterable[Any]) -> str:
    """The first SHOWN items, and the number of the others."""
    items = [on_one_line(item) for item in items]
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def close_to(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """At most `n` of the known names that are like a mistyped one, then those that contain all of its words."""
    known, words = list(known), set(name.split("_"))
    similar = difflib.get_close_matches(name, known, n=n)
    return list(dict.fromkeys([*similar, *(other for other in known if words <= set(other.split("_")))]))[:n]


def on_one_line(text: Any, most: int = 300) -> str:
    """A text on one line, without its middle if it is longer than `most` characters."""
    text = _printable(str(text))
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def is_text(text: str) -> bool:
    """Whether files and stores can hold a text: it has no NUL, and no surrogates (of names that are not UTF-8)."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
