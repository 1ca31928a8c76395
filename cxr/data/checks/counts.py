"""How much the numbers of patients and seeds can show."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import special

from cxr.core.params import DataParams, StudyParams
from cxr.data.checks.findings import Finding
from cxr.statistics import estimates, planning

FEW_PATIENTS = 10  # of a class in the test split; warn of fewer


def class_counts(manifest: pd.DataFrame, settings: DataParams) -> list[Finding]:
    """How precisely the test patients of each class can measure an AUC, next to what the study asks for."""
    patients = manifest[manifest["split"] == "test"].groupby("label")["patient_id"].nunique()
    patients = patients.reindex(sorted(set(manifest["label"])), fill_value=0)
    half = {name: 1.96 * auc_error(0.95, n, int(patients.sum() - n)) for name, n in patients.items()}
    table = pd.DataFrame(
        {
            "class": patients.index,
            "test patients": patients.to_numpy(),
            "AUC 0.95 known to within": [round(half[name], 3) for name in patients.index],
        }
    )
    few = patients[patients < FEW_PATIENTS]
    found = []
    if len(few):
        names = ", ".join(f"{name} {n}" for name, n in few.items())
        text = (
            f"fewer than {FEW_PATIENTS} patients in the test split: {names}: too few to say anything about these "
            "classes alone: add patients, merge classes, or raise test_fraction"
        )
        found.append(Finding("class counts", "warning", text, table))
    if not isinstance(settings, StudyParams):
        return found
    # The error of a mean over classes that share patients lies between that of independent errors and the mean
    # error (all errors equal). Take the larger one.
    wide = float(np.mean(list(half.values())))
    text = (
        f"{patients.sum()} test patients, {patients.min()} to {patients.max()} a class: with so many patients "
        f"an AUC of 0.95 is known to about ±{wide:.3f}; auc_margin is ±{settings.auc_margin:g}. A change between "
        "stages is known a little better, as the patients are the same"
    )
    found.append(Finding("class counts", "note", text, None if few.size else table))
    found.append(_seeds(int(patients.sum()), settings))
    return found


def auc_error(auc: float, positive: int, negative: int) -> float:
    """Standard error of an AUC with so many patients with and without the class; NaN if either is 0.

    Source: Hanley and McNeil (1982), the variance of the Mann-Whitney statistic, but with normal scores of equal
    spread. Their exponential scores make the error a third too large at an AUC of 0.95.
    """
    if not positive or not negative:
        return math.nan
    z = special.ndtri(auc)
    # The chance that two with the class score above one without it, or one with it above two without.
    both = auc - 2 * special.owens_t(z, 1 / math.sqrt(3))
    variance = auc * (1 - auc) + (positive + negative - 2) * (both - auc**2)
    return math.sqrt(variance / (positive * negative))


def _seeds(patients: int, settings: StudyParams) -> Finding:
    """The chance to detect a difference between architectures, with the spreads that docs/inference.md assumes."""
    seeds = len(settings.seed)
    if seeds == 1:
        text = "one seed: results describe these checkpoints only, not another training of the same networks"
        return Finding("seeds", "warning", text)
    # Spread of a difference of medians: noise of an image 0.15 in each network (the variance of a median is pi/2
    # times that of a mean), noise of a seed 0.02 in each. What patients have in common cancels.
    residual = 2 * math.pi / 2 * 0.15**2 / max(patients, 2)
    between = 2 * 0.02**2 + residual
    plan = estimates.Estimate(
        *(0.0, math.sqrt(between / seeds), seeds - 1.0, math.nan, math.nan, 0.95),
        *(seeds, max(patients, 2), between, 0.0, residual),
    )
    chances = {effect: planning.power(plan, effect=effect) for effect in (0.05, 0.1)}
    text = (
        f"{seeds} seeds and {patients} test patients: a difference of 0.05 in {settings.primary_metric} between "
        f"two architectures is found with a chance of {chances[0.05]:.2f}, one of 0.1 with {chances[0.1]:.2f}, if "
        "seeds and images vary as assumed in docs/inference.md"
    )
    return Finding("seeds", "note", text)
