"""From where to where in the chest: the evidence in its zones, before and after fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr.core.display import say
from cxr.core.errors import some
from cxr.metrics import regions
from cxr.metrics import zones as chest
from cxr.report.consistency import ALL
from cxr.statistics.score_rows import Cell

if TYPE_CHECKING:  # a score run, which has no study, need not load what reads one
    from cxr.report.scores import Study


def of_lungs(lungs: np.ndarray | None) -> dict[str, np.ndarray]:
    """The zones of images: masks bool [n, H, W] by name (`cxr.metrics.zones.of_lungs`); {} without lung masks.

    Says how many images have no zones, and why.

    Args: lungs: bool [n, H, W]; None: no masks are known.
    """
    if lungs is None or not lungs.any():
        return {}
    found = chest.of_lungs(lungs)
    why = Counter(reason for reason in found.missing if reason)
    if why:
        reasons = [f"{reason} ({count})" for reason, count in why.most_common()]
        print(f"zones: {why.total()} of {len(lungs)} images have none: {some(reasons)}")
    return found.masks


def of_study(study: Study, unsound: Container[Cell], *, level: float = 0.95, n_boot: int = 2000) -> pd.DataFrame:
    """Where the evidence lies in the chest before and after, by network, method, class and zone.

    Args: unsound: the cells whose maps do not pass their checks.

    Returns: `summary`, or no rows where no image has zones.
    """
    table = study.score_tables("zones.parquet")
    if table.empty:
        say("No lung masks are known for these images, so nothing is said of zones of the chest.")
        return table
    return summary(table, unsound, level=level, n_boot=n_boot)


def summary(
    table: pd.DataFrame, unsound: Container[Cell], *, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """The means over images, by network, method, class and zone.

    Args:
        table: `cxr.metrics.regions.region_table` of the zones, with the columns of `comparison.score_table`.
        unsound: the cells whose maps do not pass their checks.

    Returns: `cxr.metrics.regions.summary` of the zones (as `region`), with `label` (a class, or ALL first) and
        passes_checks (bool).
    """
    parts = {ALL: table, **dict(tuple(table.groupby("label")))}
    found = [regions.summary(part, level=level, n_boot=n_boot).assign(label=name) for name, part in parts.items()]
    out = pd.concat(found, ignore_index=True)
    cells = zip(out["architecture"], out["method"], strict=True)
    return out.assign(passes_checks=[cell not in unsound for cell in cells])


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """Which zone gained and which lost most, a row a cell and class, of maps that pass their checks.

    Args: table: of `of_study`.

    Returns: architecture, method, label, images, gained, lost: a zone, by how many points of 100 its share
        changed, and the interval; "-" where no interval excludes 0. No rows where no maps pass.
    """
    rows = []
    shown = table[table["passes_checks"]]
    for (architecture, method, label), part in shown.groupby(["architecture", "method", "label"], sort=False):
        row = {"architecture": architecture, "method": method, "label": label, "images": part["n_images"].max()}
        for name, direction, order in (("gained", "towards", False), ("lost", "away", True)):
            moved = part[part["direction"] == direction].sort_values("energy_change", ascending=order)
            row[name] = _text(moved.iloc[0]) if len(moved) else "-"
        rows.append(row)
    return pd.DataFrame(rows)


def _text(row: pd.Series) -> str:
    change, low, high = (100 * row[f"energy_change{part}"] for part in ("", "_ci_low", "_ci_high"))
    return f"{row['region'].replace('_', ' ')} {change:+.1f} [{low:+.1f}, {high:+.1f}]"
