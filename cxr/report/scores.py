"""The score runs of a comparison, with the runs behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cxr.core.errors import InputError

if TYPE_CHECKING:
    from cxr.tracking import RunInfo


def run_table(infos: Sequence[RunInfo]) -> pd.DataFrame:
    """One row a score run, from what it logged: run_id, architecture, method, seed, target_layer, layer, grid,
    methods_coincide, passes_checks, attribute_run, train_run, auc_macro_before and auc_macro_after.

    Raises InputError when two runs are of one cell, or their target layers differ."""
    columns = ("architecture", "method", "seed", "target_layer", "layer", "grid", "methods_coincide")
    columns += ("passes_checks", "attribute_run", "train_run")
    performance = ("auc_macro_before", "auc_macro_after")
    table = pd.DataFrame(
        [
            {
                "run_id": info.run_id,
                **{column: info.params[column] for column in columns},
                **{metric: info.metrics[metric] for metric in performance},
            }
            for info in infos
        ]
    )
    twice = table[table.duplicated(["architecture", "method", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"score_run_ids: two runs are of {row['architecture']}, {row['method']}, seed {row['seed']}: name one"
        )
    layers = sorted(set(table["target_layer"]))
    if len(layers) > 1:
        raise InputError(f"score_run_ids: target layers {', '.join(layers)} cannot be pooled: name runs of one")
    return table


def latest_cells(infos: Sequence[RunInfo]) -> list[str]:
    """Ids of the newest run of every architecture, seed and method among `infos` (newest first), all of the newest
    run's images, settings and target layer. Raises InputError when there is none."""
    if not infos:
        raise InputError("no finished score run in the experiment: run 3_score.ipynb first, or set `name`")
    same = ("target_layer", "image_size", "weights", "images", "explain")
    newest = {key: infos[0].params[key] for key in same}
    cells: dict[tuple[str, ...], str] = {}
    for info in infos:
        if all(info.params[key] == value for key, value in newest.items()):
            cell = tuple(info.params[key] for key in ("architecture", "seed", "method"))
            cells.setdefault(cell, info.run_id)
    return [cells[cell] for cell in sorted(cells)]
