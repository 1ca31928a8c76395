"""Names in Markdown: text of users and of data, which may hold anything, stays text."""

from __future__ import annotations

import re
from typing import Any

_ENTITIES = {sign: f"&#{ord(sign)};" for sign in "|[]`*\\"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ADDRESS = re.compile(r"(:)(?=//)|(?<=\bwww)(\.)", re.IGNORECASE)  # becomes a link by itself


def plain(text: Any) -> str:
    """Text on one line that makes no link, picture, tag, code or emphasis, also within a table or a link."""
    text = "".join(_ENTITIES.get(sign, sign) for sign in " ".join(str(text).split()))
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", text)


def code(text: Any) -> str:
    """Text on one line as code, whatever backticks it holds."""
    text = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`"
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"
