"""External test sets beside the study's own: how well both checkpoints classify there, and how far evidence moves.

Nothing is trained on them. The baselines are those of `5_drift`: chance, and two patients of the same set.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cxr import tracking
from cxr.core.errors import InputError
from cxr.core.tables import span
from cxr.report import comparison

OWN = "test"
"""The study's own test set, in the column `set`."""


def of_study(
    run_ids: Sequence[str], summary: pd.DataFrame, metric: str, *, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """One row a set, architecture and method; the study's own test set first. No rows without external sets.

    Args:
        run_ids: runs of `5_drift` on external sets, of all trainings.
        summary: `comparison.pooled` of the study's own test set.
        metric: the primary metric.

    Returns: set, architecture, method, n_images (scored, over all seeds), n_patients, auc_macro_before and
        auc_macro_after (means over seeds; NaN if a class has no image), drift, drift_ci_low and drift_ci_high (the
        metric, corrected by two patients of the same set if it has such a form), two_patients (median).
    Raises: InputError: a run is no finished comparison on an external set.
    """
    if not run_ids:
        return pd.DataFrame()
    runs = [tracking.stored(run_id) for run_id in run_ids]
    for run in runs:
        if run.stage != "drift" or not run.complete or "external" not in run.params:
            raise InputError(
                f"external_run_ids: run {run.run_id} ({run.name}) is no finished comparison on an external set of "
                "a study: name others"
            )
    scores = pd.concat([run.table("drift.parquet").assign(set=run.params["external"]) for run in runs])
    tables = [_rows(OWN, summary, metric)]
    for name, own in scores.groupby("set", sort=False):
        of_set = [run for run in runs if run.params["external"] == name]
        known = pd.DataFrame(
            [
                {
                    "architecture": run.params["architecture"],
                    "seed": int(run.params["train_seed"]),
                    "method": method,
                    **{key: run.metrics.get(key, float("nan")) for key in ("auc_macro_before", "auc_macro_after")},
                }
                for run in of_set
                for method in own["method"].unique()
            ]
        )
        tables.append(_rows(str(name), comparison.pooled(own, known, level=level, n_boot=n_boot), metric))
    return pd.concat(tables, ignore_index=True)


def _rows(name: str, pooled: pd.DataFrame, metric: str) -> pd.DataFrame:
    form = f"{metric}_corrected" if f"{metric}_corrected_median" in pooled else metric
    table = pooled[
        ["architecture", "method", "n_images", "n_patients", "auc_macro_before", "auc_macro_after"]
    ].copy()
    for part, column in (("", "median"), ("_ci_low", "ci_low"), ("_ci_high", "ci_high")):
        table[f"drift{part}"] = pooled[f"{form}_{column}"]
    table["two_patients"] = pooled.get(f"{metric}_two_patients_median")
    table.insert(0, "set", name)
    return table


SHOWN = ("set", "architecture", "method", "auc_macro_before", "auc_macro_after")
SHOWN += ("drift", "drift_ci_low", "drift_ci_high")


def sentence(table: pd.DataFrame) -> str:
    """What the table says, in two sentences a set, for the report."""
    if table.empty:
        return "Not asked: the study names no test set from elsewhere (`external`)."
    own, text = table[table["set"] == OWN], []
    for name, rows in table[table["set"] != OWN].groupby("set", sort=False):
        aucs = span(rows["auc_macro_after"])
        auc = f"macro AUC after fine-tuning is {aucs} ({span(own['auc_macro_after'])} on the study's own test set)"
        if rows["auc_macro_after"].isna().all():
            auc = "there is no macro AUC, as a class has no image"
        text.append(
            f"On {name} ({rows['n_patients'].max()} patients), {auc}. The drift is {span(rows['drift'])} "
            f"({span(own['drift'])} on the study's own)."
        )
    return " ".join(text)
