"""Names and values as MLflow takes them."""

from __future__ import annotations

import re
from typing import Any

_MAX_PARAM = 500  # characters; MLflow would cut at 6000, and a table of runs is unreadable long before


def param_value(value: Any) -> str:
    """A parameter as MLflow shows and filters it: lists with commas; long ones cut (see parameters.yaml)."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _MAX_PARAM else f"{text[: _MAX_PARAM - 30]} … (see parameters.yaml)"


def key_of(name: str) -> str:
    """A name that MLflow takes as metric or image key, whatever file or class it comes from."""
    clean = re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)
    clean = "/".join(part.strip(" ") for part in clean.split("/") if part.strip(" .")) or "_"
    return clean
