"""One metric's scores of all networks and images, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.core.errors import InputError

Cell = tuple[str, str]
Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]
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
    reference, combine : None, or reference values (of two patients, say) in the rows and columns of `values`, and
        a function of two medians. A network's statistic is then combine(median of its values, median of its
        reference values), on the same images and the same resampled patients; without them it is the median.
    """

    values: pd.DataFrame
    n_boot: int = 2000
    level: float = 0.95
    reference: pd.DataFrame | None = None
    combine: Combine | None = None

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        metric: str,
        *,
        n_boot: int = 2000,
        level: float = 0.95,
        against: str = "",
        combine: Combine | None = None,
    ) -> Scores:
        """The values of `metric`, a column of `table`, which has a row an image with the columns `KEYS`.

        `against`: the column of the reference values, which `combine` sets the metric's median against.

        Raises InputError for missing columns, missing labels, infinite values, an image that occurs twice in a
        cell and seed, and an image with more than one patient.
        """
        names = [metric, against] if combine else [metric]
        missing = [name for name in (*KEYS, *names) if name not in table.columns]
        if missing:
            raise InputError(f"scores: columns {missing} are missing; there are {list(table.columns)}.")
        if table.empty or table[KEYS].isna().any(axis=None):
            raise InputError(
                "scores: no rows, or rows without architecture, method, seed, image_id or patient_id."
            )
        rows = pd.concat([table[KEYS], table[names].astype(float)], axis=1)
        for name in names:
            if np.isinf(rows[name]).any():
                raise InputError(f"scores: {np.isinf(rows[name]).sum()} values of {name} are infinite.")
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
        cells = pd.MultiIndex.from_frame(rows[["architecture", "method"]].drop_duplicates())
        index = ["seed", "image_id", "patient_id"]
        values, *reference = (
            rows.pivot(index=index, columns=["architecture", "method"], values=name)[cells] for name in names
        )
        return cls(values, n_boot, level, *reference, **({"combine": combine} if combine else {}))

    @property
    def methods(self) -> list[str]:
        return list(self.values.columns.unique("method"))

    def architectures(self, *methods: str) -> list[str]:
        """The architectures that have scores under each of these methods."""
        cells = self.values.columns
        return [a for a in cells.unique("architecture") if all((a, method) in cells for method in methods)]
