"""Per-image scores as tables: the columns they need, and the same values side by side."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr.core.errors import InputError

Cell = tuple[str, str]


KEYS = ["architecture", "method", "seed", "image_id", "patient_id"]


def wide_scores(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values as rows (seed, image_id, patient_id) x columns (architecture, method), NaN where there is none."""
    missing = [name for name in (*KEYS, metric) if name not in scores.columns]
    if missing:
        raise InputError(f"scores: columns {missing} are missing; there are {list(scores.columns)}.")
    if scores.empty or scores[KEYS].isna().any(axis=None):
        raise InputError("scores: no rows, or rows without architecture, method, seed, image_id or patient_id.")
    values = scores[KEYS].assign(value=scores[metric].to_numpy(dtype=float))
    if np.isinf(values["value"]).any():
        raise InputError(f"scores: {np.isinf(values['value']).sum()} values of {metric} are infinite.")
    double = values.duplicated(["architecture", "method", "seed", "image_id"])
    if double.any():
        row = values[double].iloc[0]
        raise InputError(
            f"scores: image {row['image_id']!r} appears more than once for {row['architecture']} under "
            f"{row['method']}, seed {row['seed']}."
        )
    owners = values.groupby("image_id")["patient_id"].nunique()
    if (owners > 1).any():
        raise InputError(f"scores: image {owners.index[owners > 1][0]!r} belongs to more than one patient.")
    return values.pivot(
        index=["seed", "image_id", "patient_id"], columns=["architecture", "method"], values="value"
    )


def in_order(scores: pd.DataFrame, name: str) -> list:
    """Labels in the order in which they first appear."""
    return list(scores[name].unique())


def require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{name}: columns {missing} are missing; there are {list(table.columns)}.")
