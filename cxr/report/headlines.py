"""The few columns of a summary that a study prints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

# What a study prints; `cxr.core.tables.HEADINGS` says how it heads it.
HEADLINE = (
    "auc_macro_before",
    "auc_macro_after",
    "centroid_shift_median",
    "overlap_median",
    "overlap_ci_low",
    "overlap_ci_high",
    "overlap_two_patients_median",
    "overlap_two_heads_median",
    "overlap_two_seeds_median",
    "overlap_corrected_median",
    "overlap_corrected_ci_low",
    "overlap_corrected_ci_high",
    "overlap_share_of_two_seeds",
    "n_images",
    "n_empty",
    "map_check",
)


# Of these, what a single score run does not know.
OF_SEVERAL_RUNS = frozenset({"overlap_two_seeds_median", "overlap_share_of_two_seeds", "map_check"})


def headline(summary: pd.DataFrame) -> pd.DataFrame:
    """The columns of `pooled` that the study prints."""
    return summary[["architecture", "method", "seeds", *(name for name in HEADLINE if name in summary)]]


def headline_first(values: Mapping[str, float]) -> dict[str, float]:
    """The same metrics, overlap and what a study prints first: a run's page lists hundreds as they were logged,
    and the page that compares runs begins with the first."""
    first = [name for name in ("overlap_median", "overlap_corrected_median", *HEADLINE) if name in values]
    return {name: values[name] for name in (*first, *values)}


def headline_of_one(values: Mapping[str, float | str]) -> pd.DataFrame:
    """The same of a single score run, one row: its architecture, method and seed, and those of its metrics that a
    study prints; NaN where it has none."""
    names = [name for name in HEADLINE if name not in OF_SEVERAL_RUNS]
    return pd.DataFrame([{key: values.get(key, np.nan) for key in ("architecture", "method", "seed", *names)}])
