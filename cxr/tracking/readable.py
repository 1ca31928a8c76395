"""A run's numbers as a person reads them: rounded, as tags, which the UI's tables of runs show.

The UI shows metrics with all their digits, and a median over some hundred images is uncertain in the second. So
metrics are logged exactly, and these tags are the columns of the views (`cxr.tracking.views`). A tag's name is the
heading of its column.

Pure functions; `Run.finish` and the end of a study set the tags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CELL = "cell"
"""The tag by which score runs are grouped: network and method, and whether the maps fail their checks."""
CHECKS = "map checks"
PASS, FAIL, UNCHECKED = "pass", "FAIL", "not checked"
MARK = "maps fail their checks"
"""What stands beside numbers of maps that fail their checks."""


def number(value: float | None) -> str:
    """A share, an overlap or an AUC with the two decimals that it is worth; "-" for none."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def interval(values: Mapping[str, float], name: str) -> str:
    """`<name>_median` with its interval in brackets, as far as `values` has them: "0.53 [0.49, 0.56]"."""
    low, high = (number(values.get(f"{name}_ci_{end}")) for end in ("low", "high"))
    median = number(values.get(f"{name}_median"))
    return median if "-" in (low, high) else f"{median} [{low}, {high}]"


def checks(passes: str) -> str:
    """What a run or a table says of the checks of maps ("True", "no", "not checked", ...), in the UI's words."""
    return {"True": PASS, "yes": PASS, "False": FAIL, "no": FAIL}.get(str(passes), UNCHECKED)


def cell(architecture: str, method: str, checked: str) -> str:
    """The tag `CELL`, short enough for a chart's legend; `checked`: of `checks`."""
    return f"{architecture} {method}{' (maps FAIL)' if checked == FAIL else ''}"


def tags(stage: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, str]:
    """The tags of a train or score run; empty for other stages.

    Args:
        params, metrics: as the run logged them.
    """
    if stage == "score":
        return _score(params, metrics)
    return _train(metrics) if stage == "train" else {}


def _score(params: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, str]:
    checked = checks(params.get("passes_checks", ""))
    return {
        CELL: cell(params.get("architecture", ""), params.get("method", ""), checked),
        CHECKS: checked,
        "overlap": interval(metrics, "overlap"),
        "two patients": number(metrics.get("overlap_two_patients_median")),
        "corrected overlap": interval(metrics, "overlap_corrected"),
        **_auc(metrics),
        "images": _count(metrics.get("n_images")),
    }


def _train(metrics: Mapping[str, float]) -> dict[str, str]:
    return {
        **_auc(metrics),
        "accuracy after": number(metrics.get("accuracy_after")),
        "calibration error after": number(metrics.get("ece_after")),
        "seconds": _count(sum(metrics.get(f"seconds_{part}", 0.0) for part in ("transfer", "fine_tuning"))),
    }


def _auc(metrics: Mapping[str, float]) -> dict[str, str]:
    return {f"AUC {end}": number(metrics.get(f"auc_macro_{end}")) for end in ("before", "after")}


def _count(value: Any) -> str:
    return "-" if value is None else f"{value:.0f}"
