"""The course of drift: drift and performance, epoch by epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr.metrics.metric_table import METRICS
from cxr.statistics import bootstrap


def course(
    drifts: pd.DataFrame, auc: pd.DataFrame, *, metric: str, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """Drift from the checkpoint before fine-tuning, and performance, epoch by epoch.

    Args:
        drifts: per-image rows of the checkpoints during fine-tuning (`score_table`), with `epoch` (1, 2, ...).
        auc: architecture, seed, epoch (0: before fine-tuning), auc_macro.

    Returns: architecture, method, seed, epoch, value (median of the metric; at epoch 0 that of identical maps),
        ci_low, ci_high (over patients), n_scored, auc.
    """
    keys = ["architecture", "method", "seed", "epoch"]
    rows = []
    for cell, table in drifts.groupby(keys, sort=False):
        values = bootstrap.summarise(
            table[metric].to_numpy(float), table["patient_id"].to_numpy(), level=level, n_boot=n_boot
        )
        names = ("value", "ci_low", "ci_high", "n_scored")
        found = (values[name] for name in ("median", "ci_low", "ci_high", "n_images"))
        rows.append(dict(zip(keys, cell, strict=True)) | dict(zip(names, found, strict=True)))
    table = pd.DataFrame(rows)
    same = METRICS[metric].identical
    start = table.drop_duplicates(keys[:3]).assign(epoch=0, value=same, ci_low=same, ci_high=same)
    table = pd.concat([start, table]).sort_values("epoch", kind="stable", ignore_index=True)
    return table.merge(auc.rename(columns={"auc_macro": "auc"}), on=["architecture", "seed", "epoch"])


def settled(
    course: pd.DataFrame, *, auc_margin: float, identical: float = 1.0, share: float = 0.5
) -> pd.DataFrame:
    """When evidence moves, beside when performance has settled.

    Args:
        course: architecture, method, seed, epoch (0: before), value (median of a metric), auc; one row an epoch.
        identical: the metric's value for identical maps.
        auc_margin: AUC has settled from the first epoch on after which it stays within this of the last epoch's.
        share: of the drift at the last epoch.

    Returns: architecture, method, seed, epochs, final_drift (distance of the last epoch's value from
        `identical`), epoch_moved (the first with at least `share` of the final drift), epoch_settled, first:
        "evidence", "AUC" or "same epoch".
    """
    rows = []
    for (architecture, method, seed), table in course.groupby(["architecture", "method", "seed"], sort=False):
        table = table.sort_values("epoch")
        epochs, drift = table["epoch"].to_numpy(), np.abs(identical - table["value"].to_numpy(float))
        moved = epochs[np.argmax(drift >= share * drift[-1])]
        off = np.flatnonzero(np.abs(table["auc"].to_numpy(float) - table["auc"].iloc[-1]) > auc_margin)
        stable = epochs[off[-1] + 1] if len(off) else epochs[0]
        first = "evidence" if moved < stable else "AUC" if stable < moved else "same epoch"
        rows.append(
            {
                **{"architecture": architecture, "method": method, "seed": seed, "epochs": int(epochs[-1])},
                **{"final_drift": drift[-1], "epoch_moved": moved, "epoch_settled": stable, "first": first},
            }
        )
    return pd.DataFrame(rows)
