"""Class by class, or finding by finding: did its evidence move, and further than the same training again?

The questions of the study (`cxr.report.questions`) are about all images. Here each class is asked for itself, and
Holm's correction is over all classes and cells together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr.metrics import regions
from cxr.metrics.metric_table import METRICS, sign_of_stability
from cxr.report.evidence import CELL, Evidence, over_drift, primary_scores
from cxr.report.judgement import OPEN
from cxr.report.questions import DISEASE, NO, YES
from cxr.statistics import contrasts
from cxr.statistics.bootstrap import FEW_PATIENTS
from cxr.statistics.estimates import Estimate, holm, p_value

FAILS, FEW = "maps fail", "few patients"
"""In place of an answer: the maps of the cell do not pass their checks; there are fewer than `FEW_PATIENTS`."""
SHOWN = ("architecture", "method", "class", "n_patients", "drift", "drift_ci_low", "drift_ci_high", "moved")


def of_study(evidence: Evidence, scores: pd.DataFrame, *, n_boot: int = 2000) -> pd.DataFrame:
    """One row a cell and class.

    Args:
        evidence: of the same study.
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).

    Returns: architecture, method, class; n_images (over all seeds, with a value of it), n_patients; drift,
        drift_ci_low, drift_ci_high: the primary metric of the class, in the form that verdicts test, corrected
        by two patients of this class (no interval with fewer than `FEW_PATIENTS`); moved: whether it is further
        from identical maps than the margin ("yes", "no", "cannot tell", `FAILS`, `FEW`), with p_moved after Holm's
        correction over all rows that are tested; beyond_null, p_beyond_null: the same for "further than as many
        epochs again move it" (`OPEN` and NaN where the null was not trained). Where masks of lesions are known:
        lesion_area, lesion_energy_before, lesion_energy_after (means over images), and the same of other_lesions
        (those of the image's other findings).
    """
    metric, margins = evidence.metric, evidence.margins
    sign = sign_of_stability(metric)
    most = 1 if evidence.corrected else METRICS[metric].bounds[1]
    null = (1.0 if sign > 0 else 0.0) - sign * margins.overlap
    options = {"n_boot": n_boot, "level": margins.level}
    rows, moved, beyond = [], [], []
    for label, own in scores.dropna(subset=[metric]).groupby("label", sort=True):
        primary = primary_scores(own, metric, **options)
        more = over_drift(own, metric, "more_training", **options)
        for cell, part in own.groupby(CELL, sort=False):
            found = contrasts.contrast(primary, {cell: 1})
            row = {**dict(zip(CELL, cell, strict=True)), "class": label}
            row |= {"n_images": len(part), "n_patients": part["patient_id"].nunique()}
            few = row["n_patients"] < FEW_PATIENTS
            ends = (np.nan, np.nan) if few else np.clip((found.low, found.high), None, most)
            row |= {"drift": found.value, "drift_ci_low": ends[0], "drift_ci_high": ends[1]}
            why = FAILS if cell in evidence.unsound else FEW if few else ""
            rows.append(row | {"untested": why} | _lesions(part))
            away = ("less", "greater") if sign > 0 else ("greater", "less")
            moved.append(_sides(found, null, away))
            beyond.append(_sides(more.get(cell), 0.0, ("greater", "less")))
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    tested = (table["untested"] == "").to_numpy()
    for name, sides in (("moved", moved), ("beyond_null", beyond)):
        answers, p = _judged(np.array(sides), tested, margins.alpha)
        table[name] = np.where(tested, answers, table["untested"])
        table[f"p_{name}"] = p
    order = ["architecture", "method", "class"]
    return table.drop(columns="untested").sort_values(order, kind="stable", ignore_index=True)


def _sides(found: Estimate | None, null: float, sides: tuple[str, str]) -> list[float]:
    return [np.nan, np.nan] if found is None else [p_value(found, null, side) for side in sides]


def _judged(p: np.ndarray, tested: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers and Holm's p-values (of the side that is nearer), of the rows that are tested.

    Args: p: [rows, 2], one-sided, for yes and for no.
    """
    corrected = np.full(p.shape, np.nan)
    for side in range(2):
        corrected[tested, side] = holm(p[tested, side])
    answers = np.where(corrected[:, 0] < alpha, YES, np.where(corrected[:, 1] < alpha, NO, OPEN))
    known = ~np.isnan(corrected).all(axis=1)
    smallest = np.full(len(p), np.nan)
    smallest[known] = np.nanmin(corrected[known], axis=1)
    return answers, smallest


def _lesions(part: pd.DataFrame) -> Mapping[str, float]:
    """Mean area and energy in the class' own lesions, and in the others' of the same images."""
    found = {}
    for name in (DISEASE, "other_lesions"):
        if name in regions.regions_in(part):
            own = part[part[f"{name}_energy_change"].notna()]
            found |= {
                f"{name}_{key}": own[f"{name}_{key}"].mean() for key in ("area", "energy_before", "energy_after")
            }
    return found


def sentence(table: pd.DataFrame) -> str:
    """What the table says, in a sentence or two, for the report."""
    if table.empty:
        return "Not asked: there is no class with a value."
    tested = table[~table["moved"].isin([FAILS, FEW])]
    if tested.empty:
        return "No class can be judged: the maps fail their checks, or there are too few patients."
    by = tested.groupby("class", sort=True)["moved"].agg(lambda answers: (answers == YES).sum())
    cells = tested.groupby("class")["moved"].size()
    listed = ", ".join(f"{name} in {by[name]} of {cells[name]}" for name in by.index)
    text = f"The evidence moved (Holm over all {len(tested)} cells and classes that are tested): {listed}."
    if (tested["beyond_null"] != OPEN).any():
        further = (tested["beyond_null"] == YES).sum()
        text += f" Further than the same training again moves it: in {further} of {len(tested)}."
    return text
