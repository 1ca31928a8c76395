"""Gates: conditions on metrics, such as `overlap_median>=0.5`. A CI job fails if one does not hold."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cxr.core.errors import InputError

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_EXPRESSION = re.compile(r"\s*(?P<metric>[^<>=]*[^<>=\s])\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>[^<>=\s]+)\s*")


@dataclass(frozen=True)
class Gate:
    """A condition: metric, sign (>=, <=, >, <), limit."""

    metric: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.limit:.15g}"

    def passes(self, value: float | None) -> bool:
        """Whether the condition holds for a value. A missing value (None or NaN) fails."""
        return value is not None and not math.isnan(value) and bool(_OPERATORS[self.sign](value, self.limit))


def parse(text: str) -> Gate:
    """Parse `METRIC OPERATOR NUMBER`. Nothing is run as code. Raises InputError for anything else."""
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        hint = "" if re.search("[<>]", text) else ": in a shell, put the whole in quotes, because of > and <"
        raise InputError(f"gate '{text}': expected METRIC>=NUMBER (or >, <=, <), as 'overlap_median>=0.5'{hint}")
    try:
        limit = float(found["limit"])
    except ValueError:
        limit = math.nan
    if math.isnan(limit):
        raise InputError(f"gate '{text}': '{found['limit']}' is not a number")
    return Gate(found["metric"], found["sign"], limit)


def check(gates: Collection[Gate], known: Collection[str]) -> None:
    """Raise InputError if the metric of a gate is not among the `known` names; the message lists the closest."""
    for gate in gates:
        if gate.metric not in known:
            close = difflib.get_close_matches(gate.metric, known, n=4, cutoff=0.5)
            some = close or [
                name for name in ("overlap_median", "overlap_corrected_median", "n_empty") if name in known
            ]
            raise InputError(
                f"gate '{gate}': no metric '{gate.metric}' is measured here: use {', '.join(some)}, or another of "
                f"the {len(known)} metrics of a run (docs/drift.md)"
            )


def judge(gates: Collection[Gate], metrics: Mapping[str, float]) -> list[dict]:
    """One dict per gate: gate, metric, value, ci_low, ci_high (None if there is none), passed."""
    return [
        {
            "gate": str(gate),
            "metric": gate.metric,
            "value": _number(metrics.get(gate.metric)),
            **_interval(gate.metric, metrics),
            "passed": gate.passes(metrics.get(gate.metric)),
        }
        for gate in gates
    ]


def line(result: Mapping) -> str:
    """One result of `judge` as a line for people."""
    value = "no value (NaN)" if result["value"] is None else f"measured {result['value']:.4g}"
    interval = "" if result["ci_low"] is None else f" [{result['ci_low']:.4g}, {result['ci_high']:.4g}]"
    return f"gate {result['gate']}: {'passed' if result['passed'] else 'FAILED'}, {value}{interval}"


def _interval(metric: str, metrics: Mapping[str, float]) -> dict[str, float | None]:
    stem = metric.removesuffix("_median")
    ends = {f"ci_{end}": _number(metrics.get(f"{stem}_ci_{end}")) for end in ("low", "high")}
    return ends if None not in ends.values() else dict.fromkeys(ends)


def _number(value: float | None) -> float | None:
    """A finite number, or None, since JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)
