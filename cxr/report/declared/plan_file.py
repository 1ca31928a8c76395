"""The file of a frozen plan: YAML that a person can read, whose first line is the SHA-256 of all that follows.

YAML, not Markdown: one text is both what a person reads and what is compared, so the two cannot differ. The hash
covers comments too, so nothing can be added between the lines; `tail -n +2 FILE | sha256sum` gives it without this
package. It shows that a plan was changed. It cannot show when the plan was written: for that, give the file or its
hash to somebody else (a repository, a registry) before the study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cxr.core import yaml_values
from cxr.core.errors import InputError, first_line

FORMAT = 1
HASH = "sha256: "
_HEAD = """\
# The frozen plan of a study. Do not edit it: a plan that does not fit its hash is refused. To change your mind,
# write another plan with `cxr plan`. The hash is that of all lines below the first: tail -n +2 FILE | sha256sum
"""
_NEEDED = ("format", "study", "question", "written", "parameters", "design", "claims")


@dataclass(frozen=True)
class Plan:
    """A frozen plan that fits its hash; made by `read`.

    path: of the file. sha256: its hash, 64 digits. text: of the whole file. values: what it says.
    """

    path: str
    sha256: str
    text: str
    values: Mapping[str, Any]

    @property
    def written(self) -> datetime:
        """When it was written, in UTC, by the clock of the machine that wrote it."""
        return datetime.fromisoformat(self.values["written"]).astimezone(UTC)

    @property
    def parameters(self) -> dict[str, Any]:
        """All declared parameters of the study, as JSON has them."""
        return {**self.values["parameters"]["defaults"], **self.values["parameters"]["changed"]}

    @property
    def short(self) -> str:
        """The first 12 digits of the hash."""
        return self.sha256[:12]

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the runs that cite it."""
        return {"cxr.plan": self.short, "cxr.plan_date": self.written.isoformat(timespec="seconds")}


def frozen(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a plan with its hash.

    Args: parts: a comment (the first may be empty) to the keys that follow it; values are those of YAML.
    """
    body = _HEAD
    for comment, values in parts.items():
        dumped = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        body += f"\n# {comment}\n{dumped}" if comment else dumped
    return f"{HASH}{_sha256(body)}\n{body}"


class _Dumper(yaml.SafeDumper):
    """Writes short lists on one line."""

    def represent_list(self, data: list) -> yaml.Node:
        short = all(not isinstance(item, list | dict) for item in data) and sum(len(str(i)) + 2 for i in data) < 90
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=short)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(list, _Dumper.represent_list)


def check_free(path: Path) -> None:
    """Raise InputError if there is a file already: a plan is never overwritten."""
    if path.exists():
        raise InputError(
            f"{path}: exists already, and a plan is never overwritten: choose another file with --output"
        )


def write(path: Path, text: str) -> None:
    """Write a plan. Raises InputError if there is a file already, or it cannot be written."""
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:  # also if another process has just written it
        raise InputError(f"{path}: cannot write there ({error.strerror}): choose another with --output") from None


def read(path: str | Path) -> Plan:
    """Read a plan. Raises InputError if it cannot be read, is no plan, or was changed after it was frozen."""
    try:
        text = yaml_values.text_of(Path(path))  # with line ends of "\n", whatever git has checked out
    except OSError as error:
        raise InputError(f"{path}: cannot read the plan ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a plan: it is no text in UTF-8") from None
    first, _, body = text.partition("\n")
    if not first.startswith(HASH):
        raise InputError(f"{path}: not a plan: its first line must be 'sha256: ...'. `cxr plan` writes plans")
    said, found = first.removeprefix(HASH).strip(), _sha256(body)
    if said != found:
        raise InputError(
            f"{path}: this plan was changed after it was frozen: its first line says sha256 {said[:12]}, and its "
            f"content has {found[:12]}. Restore the file, or write a new plan with `cxr plan`"
        )
    try:
        values = yaml.safe_load(body)
        plan = Plan(str(path), found, text, values)
        missing = [name for name in _NEEDED if name not in values]
        if missing or values["format"] != FORMAT or plan.written is None or not plan.parameters:
            raise ValueError(f"it lacks {', '.join(missing)}" if missing else f"format {values['format']}")
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: not a plan that this version of cxr reads ({first_line(error)}): use the version of cxr "
            "that wrote it, or write a new plan with `cxr plan`"
        ) from None
    return plan


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
