"""The text of `cxr params`: default, description and type of each parameter of a study."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from cxr.core.errors import InputError
from cxr.core.params import Params, StudyParams

_INDENT = 6
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "mapping"}
_SIGNS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def lines(keys: Sequence[str] = (), *, width: int = 100) -> str:
    """The parameters `keys`, by default all, in the groups of `cxr.core.params`.

    Raises InputError for a key that is no parameter of a study; it suggests similar ones.
    """
    unknown = [key for key in keys if key not in StudyParams.model_fields]
    if unknown:
        raise InputError("; ".join(map(StudyParams.unknown, unknown)))
    parts = []
    for title, fields in groups():
        entries = [_entry(key, field, width) for key, field in fields.items() if not keys or key in keys]
        if entries:
            parts.append("\n".join([title, *entries]))
    return "\n\n".join(parts)


def groups() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """(title, fields by key) for each class from which `StudyParams` inherits; each field is there once."""
    # The axes of the grid come first: most people set them.
    for model in StudyParams.__mro__[: StudyParams.__mro__.index(Params)]:
        fields = StudyParams.model_fields
        own = {key: fields[key] for key in inspect.get_annotations(model) if key in fields}
        yield (model.__doc__ or "More").strip().splitlines()[0].removesuffix("."), own


def type_of(field: FieldInfo) -> str:
    """The allowed values in words: 'whole number, at least 1', 'one of: none, light', 'list of text'."""
    limits = [
        f"{word} {getattr(rule, sign)}"
        for rule in _rules(field)
        for sign, word in _SIGNS.items()
        if hasattr(rule, sign)
    ]
    return ", ".join([_type(field.annotation), *limits])


def _rules(field: FieldInfo) -> list[Any]:
    """The field's limits, one by one."""
    found = []
    for rule in field.metadata:
        found += rule.metadata if isinstance(rule, FieldInfo) else [rule]
    return found


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of: {', '.join(str(one).lower() if isinstance(one, bool) else str(one) for one in inner)}"
    if origin is list:
        return f"list of {_type(inner[0])}"
    if hasattr(annotation, "__metadata__"):  # Annotated: a limit of the entries of a list
        return type_of(FieldInfo.from_annotation(annotation))
    return _WORDS[origin or annotation]


def _entry(key: str, field: FieldInfo, width: int) -> str:
    default = yaml.safe_dump(field.get_default(call_default_factory=True), default_flow_style=True, width=10**6)
    default = default.removesuffix("\n").removesuffix("\n...")
    wrap = {"width": max(40, min(width, 100)), "subsequent_indent": " " * _INDENT, "break_on_hyphens": False}
    head = textwrap.wrap(f"  {key}: {default}", **wrap)
    text = f"{field.description} [{type_of(field)}]"
    return "\n".join([*head, *textwrap.wrap(text, initial_indent=" " * _INDENT, **wrap)])
