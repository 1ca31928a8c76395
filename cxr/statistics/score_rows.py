"""One metric's scores of all networks and images, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.core.errors import InputError

Cell = tuple[str, str]
KEYS = ["architecture", "method", "seed", "image_id", "patient_id"]


@dataclass(frozen=True)
class Scores:
    """What contrasts, rank tests and rankings are computed from; made by `of`.

    Attributes
    ----------
    values : float64, rows (seed, image_id, patient_id) x columns (architecture, method). Columns are in the order
        in which the cells first appear. NaN where there is no value (an empty map, or no such image).
    n_boot : number of bootstrap replicates.
    level : of the intervals.
    """

    values: pd.DataFrame
    n_boot: int = 2000
    level: float = 0.95

    @classmethod
    def of(cls, table: pd.DataFrame, metric: str, *, n_boot: int = 2000, level: float = 0.95) -> Scores:
        """The values of `metric`, a column of `table`, which has a row an image with the columns `KEYS`.

        Raises InputError for missing columns, missing labels, infinite values, an image that occurs twice in a
        cell and seed, and an image with more than one patient.
        """
        missing = [name for name in (*KEYS, metric) if name not in table.columns]
        if missing:
            raise InputError(f"scores: columns {missing} are missing; there are {list(table.columns)}.")
        if table.empty or table[KEYS].isna().any(axis=None):
            raise InputError(
                "scores: no rows, or rows without architecture, method, seed, image_id or patient_id."
            )
        rows = table[KEYS].assign(value=table[metric].to_numpy(dtype=float))
        if np.isinf(rows["value"]).any():
            raise InputError(f"scores: {np.isinf(rows['value']).sum()} values of {metric} are infinite.")
        double = rows.duplicated(["architecture", "method", "seed", "image_id"])
        if double.any():
            row = rows[double].iloc[0]
            raise InputError(
                f"scores: image {row['image_id']!r} appears more than once for {row['architecture']} under "
                f"{row['method']}, seed {row['seed']}."
            )
        owners = rows.groupby("image_id")["patient_id"].nunique()
        if (owners > 1).any():
            raise InputError(f"scores: image {owners.index[owners > 1][0]!r} belongs to more than one patient.")
        values = rows.pivot(
            index=["seed", "image_id", "patient_id"], columns=["architecture", "method"], values="value"
        )
        cells = rows[["architecture", "method"]].drop_duplicates()
        return cls(values[pd.MultiIndex.from_frame(cells)], n_boot, level)

    @property
    def methods(self) -> list[str]:
        return list(self.values.columns.unique("method"))

    def architectures(self, *methods: str) -> list[str]:
        """The architectures that have scores under each of these methods."""
        cells = self.values.columns
        return [a for a in cells.unique("architecture") if all((a, method) in cells for method in methods)]
