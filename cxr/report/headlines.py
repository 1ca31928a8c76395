"""What a study prints of a summary: the few columns that matter, and every metric in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from cxr.metrics.metric_table import METRICS

# the columns that a study prints; their headings are in `cxr.core.tables.HEADINGS`
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
    "overlap_more_training_median",
    "overlap_corrected_median",
    "overlap_corrected_ci_low",
    "overlap_corrected_ci_high",
    "overlap_share_of_two_seeds",
    "n_images",
    "n_empty",
    "map_check",
)


# What the report shows of them: tables of at most eight columns. The checks of maps stand before their numbers.
_FIRST = ("architecture", "method", "map_check")
_OF_THE_RESULT = ("auc_macro_before", "auc_macro_after", "overlap", "overlap_corrected")
_OF_THE_BASELINES = (
    "overlap",
    "overlap_two_patients",
    "overlap_two_heads",
    "overlap_two_seeds",
    "overlap_more_training",
)
_OF_THE_IMAGES = ("centroid_shift", "overlap_share_of_two_seeds", "n_images", "n_empty")

# those that need several score runs
OF_SEVERAL_RUNS = frozenset({"overlap_two_seeds_median", "overlap_share_of_two_seeds", "map_check"})


def headline(summary: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cxr.report.comparison.pooled` that the study prints."""
    return summary[["architecture", "method", "seeds", *(name for name in HEADLINE if name in summary)]]


def in_tables(headline: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`headline` as the report shows it: the result, the overlap beside its baselines, and the images.

    Each has all rows, and some of the columns: at most eight where an interval stands with its median. Whether the
    maps pass their checks stands in each of them, before the numbers.
    """
    parts = (_OF_THE_RESULT, _OF_THE_BASELINES, _OF_THE_IMAGES)
    ends = ("", "_median", "_ci_low", "_ci_high")
    wanted = [[f"{name}{end}" for name in part for end in ends] for part in parts]
    wanted[0].append("seeds")
    return tuple(headline[[*_FIRST, *(name for name in headline if name in names)]] for names in wanted)


def headline_first(values: Mapping[str, float]) -> dict[str, float]:
    """The same values, with the overlap and the other `HEADLINE` metrics first.

    MLflow shows hundreds of metrics in the order in which they were logged: readers should see these first.
    """
    first = [name for name in ("overlap_median", "overlap_corrected_median", *HEADLINE) if name in values]
    return {name: values[name] for name in (*first, *values)}


def headline_of_one(values: Mapping[str, float | str]) -> pd.DataFrame:
    """The headline of a single score run, one row: architecture, method, seed, and `HEADLINE` metrics (NaN: none).

    `values`: parameters and metrics of the run.
    """
    names = [name for name in HEADLINE if name not in OF_SEVERAL_RUNS]
    return pd.DataFrame([{key: values.get(key, np.nan) for key in ("architecture", "method", "seed", *names)}])


def with_runs(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`headline` with the column "score runs": the run ids behind each row, with spaces between them.

    `runs`: of `cxr.report.scores.run_table`.
    """
    behind = runs.groupby(["architecture", "method"], sort=False)["run_id"].agg(" ".join)
    behind = behind.reset_index(name="score runs")
    return table.drop(columns="seeds").merge(behind, on=["architecture", "method"])


def every_metric(summary: pd.DataFrame, *, width: int = 4) -> Iterator[pd.DataFrame]:
    """Tables with the medians of all metrics, and then with those of two patients, `width` metrics a table."""
    for suffix in ("_median", "_two_patients_median"):
        names = [f"{name}{suffix}" for name in METRICS if f"{name}{suffix}" in summary]
        for start in range(0, len(names), width):
            yield summary[[*_FIRST, *names[start : start + width]]]


def by_cell(summary: pd.DataFrame, metric: str) -> dict[str, float]:
    """Metrics of the compare run: overlap or what `metric` is, of every architecture and method."""
    names = [f"{metric}_median", f"{metric}_corrected_median", f"{metric}_share_of_two_seeds"]
    return {
        f"{name}.{row['architecture']}.{row['method']}": row[name]
        for _, row in summary.iterrows()
        for name in names
        if name in summary
    }
