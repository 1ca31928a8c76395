"""YAML as parameters are written: each value is what a person typed, or is refused.

Papermill reads the same files with PyYAML. What PyYAML reads in another way than it is written (`010` as 8, `1:30`
as 90), what it drops (the first of two equal keys), and what costs memory or runs code (aliases, tags, deep
brackets) is refused here, so that all readers agree.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cxr.core.errors import InputError, on_one_line
from cxr.core.files import require_regular

_MOST_BYTES = 1_000_000
_MOST_DEPTH = 20  # brackets within brackets
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DATE = "tag:yaml.org,2002:timestamp"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader. Dates are text, as papermill reads them."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != _DATE]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def text_of(path: Path) -> str:
    """The text of a small file.

    Raises: OSError: it cannot be read, is no regular file, or is too large. UnicodeDecodeError.
    """
    require_regular(path, most=_MOST_BYTES)
    return path.read_text(encoding="utf-8")


def read_file(path: Path) -> Any:
    """What a YAML file holds; None for an empty one. Raises OSError as `text_of`, and InputError as `parse`."""
    try:
        return parse(text_of(path), where=str(path), what="not a YAML file")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a YAML file: not UTF-8 ({error.reason} at byte {error.start})") from None


def parse(text: str, *, where: str, what: str) -> Any:
    """A YAML text as Python values: dicts, lists, text, numbers, true and false, None.

    Args:
        where, what: begin the message of an error.

    Raises:
        InputError: it is not YAML, or has what would not be read as it is written: an alias, a tag, a key twice, a
            number in another notation, or more than 20 levels. The message names the line and column.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InputError(f"{where}: {what}: {_said(error)}") from None
    except _Refused as error:
        raise InputError(f"{where}: {error}") from None


class _Refused(Exception):
    def __init__(self, what: str, mark: yaml.Mark) -> None:
        super().__init__(f"{what} ({_place(mark)})")


def _check_events(text: str) -> None:
    """Look through a text from its beginning, without building anything; `_Refused` ends the search."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        if event.anchor is not None:
            raise _Refused(
                f"anchors and aliases (& and *) are not read: write '{event.anchor[:40]}' out", event.start_mark
            )
        if event.tag is not None:
            raise _Refused(f"tags are not read: leave out '{event.tag}'", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MOST_DEPTH:
                raise _Refused(f"more than {_MOST_DEPTH} brackets within brackets", event.start_mark)


def _check_node(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and _is_read_otherwise(node):
            raise _Refused(
                f"'{node.value[:40]}' would be read as another number: write it in decimal digits, or in quotes",
                node.start_mark,
            )
        return
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(item)
        return
    seen = set()
    for key, value in node.value:
        if key.tag == _MERGE:
            raise _Refused("'<<' is not read: write the keys out", key.start_mark)
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise _Refused(f"'{key.value[:80]}' is there twice: remove one", key.start_mark)
            seen.add((key.tag, key.value))
        _check_node(key)
        _check_node(value)


def _is_read_otherwise(node: yaml.ScalarNode) -> bool:
    """Whether a number is octal, binary, hexadecimal, in sixties, or too long."""
    if node.tag == _NUMBERS[0]:
        return not _WHOLE.fullmatch(node.value.replace("_", "")) or len(node.value) > 300
    return ":" in node.value


def _said(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return on_one_line(problem) + (f" ({_place(mark)})" if mark else "")


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
