"""Everything that the report judges, in one place: what a plan declares, and what a report is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cxr.core.params import CompareParams, StudyParams
from cxr.core.tables import percent
from cxr.report import questions, verdicts

TABLES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "questions": questions.QUESTIONS,
    "claims": verdicts.CLAIMS,
}
"""The tables of what is judged, by what they hold. Each maps a text to the function that judges it."""


def texts(settings: StudyParams | CompareParams) -> dict[str, dict[str, str]]:
    """What is judged with these margins: for each of `TABLES`, the name of the function to the text."""
    margins = {"auc": settings.auc_margin, "centroid": percent(settings.centroid_margin)}
    return {
        kind: {judge.__name__: text.format(**margins) for text, judge in table.items()}
        for kind, table in TABLES.items()
    }
