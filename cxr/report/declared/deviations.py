"""How a study differs from its plan: what was changed, added or not done, and what contradicts the plan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.report.declared.plan_file import Plan

CHANGED, ADDED, NOT_DONE, CONTRADICTS = "changed", "added afterwards", "not done", "contradicts the plan"
AXES = {"architecture": "architectures", "method": "methods", "seed": "seeds"}
NOT_DECLARED = frozenset({"data", "jobs", "plan", "pseudonymise"})
"""Parameters of which nothing is declared: a path and names (the manifest's hash stands for the images), how the
study runs, and the plan itself."""


@dataclass(frozen=True)
class Deviation:
    """One difference between a study and its plan.

    what: a parameter, an axis of the grid, or "image set". declared, now: both as text; "-" for nothing.
    status: CHANGED, ADDED or NOT_DONE. contradicts: whether the study can no longer test what was declared.
    """

    what: str
    declared: str
    now: str
    status: str
    contradicts: bool = False

    @property
    def line(self) -> str:
        """In one line."""
        if self.status == CHANGED:
            return f"{self.what}: the plan declares {self.declared}, and this study has {self.now}"
        return f"{self.what}: {self.now if self.status == ADDED else self.declared} {self.status}"


def binding() -> list[str]:
    """Parameters that decide the verdicts: with another value, a study does not test what the plan declares."""
    names = ("primary_metric", "level", "majority")
    return [name for name in StudyParams.model_fields if name in names or name.endswith("_margin")]


def find(plan: Plan, parameters: Mapping[str, Any], *, manifest_hash: str = "") -> list[Deviation]:
    """All deviations: first those that contradict the plan, then the others in the order of the parameters.

    Args:
        parameters: of the study, as JSON has them; a parameter that is not in it is not compared. Axes are lists.
        manifest_hash: of the study's images; empty: not compared.
    """
    declared, usual = plan.parameters, StudyParams().model_dump(mode="json")
    found = []
    for name, value in parameters.items():
        if name in NOT_DECLARED or name not in usual:
            continue
        if name in AXES:
            found += _of_axis(name, declared.get(name, []), value)
        elif name in declared and value != declared[name]:
            found.append(Deviation(name, as_text(declared[name]), as_text(value), CHANGED, name in binding()))
        elif name not in declared and value != usual[name]:  # the plan is of another version of cxr
            found.append(Deviation(name, "-", as_text(value), ADDED, name in binding()))
    gone = [name for name in declared if name not in usual]
    found += [Deviation(name, as_text(declared[name]), "no such parameter", NOT_DONE) for name in gone]
    planned = plan.values["design"].get("images", {}).get("manifest_sha256", "")
    if manifest_hash and planned and manifest_hash != planned:
        found.append(Deviation("image set", f"manifest {planned[:12]}", f"manifest {manifest_hash[:12]}", CHANGED))
    return sorted(found, key=lambda deviation: not deviation.contradicts)


def refuse(plan: Plan, deviations: Sequence[Deviation]) -> None:
    """Raise InputError if any deviation contradicts the plan; it says how to keep to the plan."""
    wrong = [deviation for deviation in deviations if deviation.contradicts]
    if not wrong:
        return
    declared = plan.parameters
    keep = []
    for deviation in wrong:
        if deviation.what in AXES.values():
            name = next(name for name, what in AXES.items() if what == deviation.what)
            keep.append(f"{name}={as_text(declared[name])}")
        elif deviation.what in declared:
            keep.append(f"{deviation.what}={as_text(declared[deviation.what])}")
    advice = f"keep to the plan with --set {' '.join(map(shlex.quote, keep))}, or " if keep else ""
    raise InputError(
        f"{plan.path} (sha256 {plan.short}): this study contradicts the plan: "
        f"{'; '.join(deviation.line for deviation in wrong)}: {advice}write a new plan with `cxr plan`"
    )


def as_text(value: Any) -> str:
    """A value as it is written in a parameter file, on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _of_axis(name: str, declared: Sequence[Any], now: Sequence[Any]) -> list[Deviation]:
    what, found = AXES[name], []
    if missing := [value for value in declared if value not in now]:
        found.append(Deviation(what, as_text(missing), "-", NOT_DONE, contradicts=name != "seed"))
    if added := [value for value in now if value not in declared]:
        found.append(Deviation(what, "-", as_text(added), ADDED))
    return found
