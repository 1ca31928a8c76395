"""What a check found, and the report of all findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Picture:
    """Images side by side with one caption, each uint8 [h, w], of one height."""

    caption: str
    images: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Finding:
    """What one check found. `files` are paths as in the manifest; `text` is plain text, never HTML."""

    check: str
    severity: Severity
    text: str
    table: pd.DataFrame | None = None
    files: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All findings, errors first. `counts`: patients and images by class and split (an image with several findings
    counts for each); `classes`: what they are, such as "in 5 classes"; `images`, `patients`: their numbers."""

    name: str
    source: str
    full: bool
    findings: list[Finding]
    counts: pd.DataFrame
    classes: str
    images: int
    patients: int
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]
