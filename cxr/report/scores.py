"""The score runs of a comparison, with the runs behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from cxr import tracking
from cxr.attribution import maps, passing
from cxr.core.errors import InputError
from cxr.report import comparison

if TYPE_CHECKING:
    from cxr.core.params import CompareParams
    from cxr.tracking import StoredRun


@dataclass(frozen=True)
class Study:
    """What a comparison reads; made by `open`.

    score_runs: one a cell (architecture, seed, method).
    runs: one row a score run (`run_table`).
    scores: the per-image rows of all score runs (`cxr.report.comparison.score_table`).
    training_runs, attribute_runs: the runs behind the score runs, by their ids.
    """

    score_runs: Sequence[StoredRun]
    runs: pd.DataFrame
    scores: pd.DataFrame
    training_runs: Mapping[str, StoredRun]
    attribute_runs: Mapping[str, StoredRun]

    @property
    def params(self) -> Mapping[str, str]:
        """Parameters of the first score run; image size, layer and images are the same in all."""
        return self.score_runs[0].params

    @property
    def training_params(self) -> Mapping[str, str]:
        """Parameters of the first training run; data and settings are the same in all."""
        return next(iter(self.training_runs.values())).params

    @property
    def methods_coincide(self) -> bool:
        """Whether LayerCAM and Grad-CAM++ are the same map in all runs."""
        return bool((self.runs["methods_coincide"] == "True").all())

    def cells(self) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Architecture, method, and the rows of `runs`: one row a seed."""
        for (architecture, method), rows in self.runs.groupby(comparison.CELL, sort=False):
            yield architecture, method, rows

    def rows_of(self, architecture: str, method: str) -> pd.DataFrame:
        """The rows of `scores` of one architecture and method."""
        return self.scores[(self.scores["architecture"] == architecture) & (self.scores["method"] == method)]

    def maps_of(self, attribute_run: str, method: str, checkpoint: str) -> maps.MapSet:
        """The maps of one checkpoint ("before" or "after") by one method."""
        return maps.load(self.attribute_runs[attribute_run].file(f"maps/{method}/{checkpoint}.npz"))

    def two_seeds(self, names: Sequence[str]) -> pd.DataFrame:
        """Two seeds: `comparison.two_seeds_table` of all cells, for the metrics `names`."""
        tables = []
        for architecture, method, rows in self.cells():
            map_sets = {
                int(row.seed): self.maps_of(row.attribute_run, method, "after") for row in rows.itertuples()
            }
            images = self.rows_of(architecture, method)[["image_id", "patient_id", "seed"]]
            tables.append(
                comparison.two_seeds_table(
                    map_sets,
                    images,
                    architecture=architecture,
                    method=method,
                    size=int(self.params["image_size"]),
                    names=names,
                )
            )
        return pd.concat(tables, ignore_index=True)

    def predictions(self) -> dict[tuple[str, int, str], pd.DataFrame]:
        """Predictions by architecture, seed and checkpoint, as `cxr.report.evidence.gather` takes them."""
        return {
            (run.params["architecture"], int(run.params["seed"]), checkpoint): run.table(
                f"predictions_{checkpoint}.parquet"
            )
            for run in self.training_runs.values()
            for checkpoint in ("before", "after")
        }

    def splits(self) -> pd.DataFrame:
        """One row a split of the first training: split, images, patients; of all, unless `vary_split`."""
        table = self.training_runs[self.runs["train_run"].iloc[0]].table("predictions_after.parquet")
        counts = table.groupby("split", sort=False)
        return counts.agg(images=("image_id", "size"), patients=("patient_id", "nunique")).reset_index()

    def score_tables(self, name: str) -> pd.DataFrame:
        """The rows of a table of all score runs that hold it; without rows where none does."""
        found = [run.table(name) for run in self.score_runs if run.has(name)]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    def auc_by_epoch(self) -> pd.DataFrame:
        """Performance of the checkpoints during fine-tuning: epoch, auc_macro, architecture, seed."""
        return pd.concat(
            run.table("course.parquet")[["epoch", "auc_macro"]].assign(
                architecture=run.params["architecture"], seed=int(run.params["seed"])
            )
            for run in self.training_runs.values()
        )

    def map_checks(self) -> pd.DataFrame:
        """The checks of maps of all attribute runs, with architecture and seed; no rows where there are none."""
        tables = [table for _, table in self._of_attribute_runs("map_checks.csv")]
        if not tables:
            return pd.DataFrame()
        table = pd.concat(tables, ignore_index=True)
        return table[table["method"].isin(self.runs["method"])]

    def checks_over_seeds(self) -> pd.DataFrame:
        """`passing.over_seeds` of the methods that are compared; no rows where no map was checked."""
        found = self._of_attribute_runs("map_checks.parquet")
        tables = [table[table["method"].isin(rows["method"])] for rows, table in found]
        return passing.over_seeds(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame())

    def _of_attribute_runs(self, name: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """Of each attribute run that has this table: its rows of `runs`; the table with architecture and seed."""
        for key, rows in self.runs.groupby("attribute_run", sort=False):
            run, first = self.attribute_runs[key], rows.iloc[0]
            if run.has(name):
                yield rows, run.table(name).assign(architecture=first["architecture"], seed=int(first["seed"]))


def open(settings: CompareParams) -> Study:
    """The score runs that `score_run_ids` names, or else the latest of every cell, with all that they hold.

    `architecture`, `seed` and `method` of the settings choose among the latest runs; runs that are named must fit.

    Raises:
        InputError: there is no such run; a named run is not a complete score run, or does not fit; two runs are of
            one cell, their target layers differ, or splits vary with the seed in some trainings only.
    """
    tracking.connect()
    runs = _named(settings) if settings.score_run_ids else _latest(settings)
    table = run_table(runs)
    training_runs = {key: tracking.stored(key) for key in table["train_run"].unique()}
    _check_splits(training_runs)
    return Study(
        score_runs=runs,
        runs=table,
        scores=pd.concat([run.table("drift.parquet") for run in runs], ignore_index=True),
        training_runs=training_runs,
        attribute_runs={key: tracking.stored(key) for key in table["attribute_run"].unique()},
    )


def _named(settings: CompareParams) -> list[StoredRun]:
    runs = [tracking.stored(run_id) for run_id in settings.score_run_ids]
    for run in runs:
        if run.stage != "score" or not run.complete:
            raise InputError(f"score_run_ids: run {run.run_id} ({run.name}) is no finished score run: name others")
        if reason := tracking.misfit(run, settings):
            raise InputError(
                f"score_run_ids: run {run.run_id} ({run.name}) {reason}: leave it out, or change the filter"
            )
    return runs


def _latest(settings: CompareParams) -> list[StoredRun]:
    found = tracking.find("score", experiment=settings.name)
    fitting = [run for run in found if not tracking.misfit(run, settings)]
    if found and not fitting:
        raise InputError(
            f"no finished score run in the experiment '{settings.name}' fits: run 3_score.ipynb for it, or change "
            f"architecture, seed and method. The newest {tracking.misfit(found[0], settings)}"
        )
    return [tracking.stored(run_id) for run_id in latest_cells(fitting)]


def _check_splits(training_runs: Mapping[str, StoredRun]) -> None:
    """Raise InputError where splits vary with the seed in some trainings and not in others."""
    varied = {key: run.params.get("vary_split") == "True" for key, run in training_runs.items()}
    if len(set(varied.values())) > 1:
        names = ", ".join(training_runs[key].name for key, varies in varied.items() if varies)
        raise InputError(
            f"score_run_ids: splits vary with the seed (vary_split) in some trainings only ({names}): they cannot "
            "be pooled with the others; name score runs of one kind, or choose them by architecture and seed"
        )


def run_table(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """One row a score run: run_id, architecture, method, seed, target_layer, layer, grid, methods_coincide,
    attribute_run, train_run, auc_macro_before and auc_macro_after, as the runs logged them.

    Raises InputError when two runs are of one cell, or their target layers or explained scores differ."""
    columns = ("architecture", "method", "seed", "target_layer", "layer", "grid", "methods_coincide")
    columns += ("attribute_run", "train_run")
    performance = ("auc_macro_before", "auc_macro_after")
    table = pd.DataFrame(
        [
            {
                "run_id": run.run_id,
                **{column: run.params[column] for column in columns},
                **{metric: run.metrics[metric] for metric in performance},
            }
            for run in runs
        ]
    )
    twice = table[table.duplicated(["architecture", "method", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"score_run_ids: two runs are of {row['architecture']}, {row['method']}, seed {row['seed']}: name one"
        )
    for name, what in (("target_layer", "target layers"), ("score", "explained scores")):
        found = sorted({run.params[name] for run in runs})
        if len(found) > 1:
            raise InputError(f"score_run_ids: {what} {', '.join(found)} cannot be pooled: name runs of one")
    return table


def latest_cells(runs: Sequence[StoredRun]) -> list[str]:
    """Ids of the newest run of every cell (architecture, seed, method), in the order of the cells.

    Args:
        runs: score runs, newest first.

    Only runs with the newest run's images, settings and target layer count. Raises InputError when there is none.
    """
    if not runs:
        raise InputError("no finished score run in the experiment: run 3_score.ipynb first, or set `name`")
    same = ("target_layer", "image_size", "weights", "images", "explain", "score")
    newest = {key: runs[0].params[key] for key in same}
    cells: dict[tuple[str, ...], str] = {}
    for run in runs:
        if all(run.params[key] == value for key, value in newest.items()):
            cell = tuple(run.params[key] for key in ("architecture", "seed", "method"))
            cells.setdefault(cell, run.run_id)
    return [cells[cell] for cell in sorted(cells)]
