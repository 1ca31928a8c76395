"""The score runs of a comparison, with the runs behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from cxr import tracking
from cxr.attribution import maps, passing
from cxr.core.errors import InputError, some
from cxr.core.params import ScoreParams, TrainParams
from cxr.report import comparison
from cxr.tracking import views
from cxr.tracking.stored import PLACES

if TYPE_CHECKING:
    from cxr.core.params import CompareParams
    from cxr.tracking import StoredRun

SAME = ("target_layer", "image_size", "weights", "images", "explain", "score")
"""Parameters of a score run that say how its maps were made."""


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
        """Parameters of the first score run; all but those of the cell are the same in all."""
        return self.score_runs[0].params

    @property
    def training_params(self) -> Mapping[str, str]:
        """Parameters of the first training run; all but those of the cell are the same in all."""
        return next(iter(self.training_runs.values())).params

    @property
    def attribution(self) -> Mapping[str, str]:
        """Settings of the first attribute run (`AttributeParams`), as text; they are the same in all."""
        first = next(iter(self.attribute_runs.values()))
        return {key: str(value) for key, value in first.settings.items() if key not in _MAY_DIFFER}

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
            one cell; or the runs, or those behind them, are not of the same images and settings.
    """
    tracking.connect()
    runs = _named(settings) if settings.score_run_ids else _latest(settings)
    table = run_table(runs)
    training_runs = {key: tracking.stored(key) for key in table["train_run"].unique()}
    attribute_runs = {key: tracking.stored(key) for key in table["attribute_run"].unique()}
    _check_splits(training_runs)
    for kind in (training_runs.values(), attribute_runs.values(), runs):
        _check_alike(kind)
    return Study(
        score_runs=runs,
        runs=table,
        scores=pd.concat([run.table("drift.parquet") for run in runs], ignore_index=True),
        training_runs=training_runs,
        attribute_runs=attribute_runs,
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
    taken = latest_cells(fitting)
    newer = fitting[: next(place for place, run in enumerate(fitting) if run.run_id in taken)]
    if newer:
        print(
            f"not read: {len(newer)} newer score runs that were made by hand, beside a study, or in an edited "
            f"notebook ({some(run.run_id for run in newer)}): name them in score_run_ids to read them"
        )
    return [tracking.stored(run_id) for run_id in taken]


def _check_splits(training_runs: Mapping[str, StoredRun]) -> None:
    """Raise InputError where splits vary with the seed in some trainings and not in others."""
    varied = {key: run.params.get("vary_split") == "True" for key, run in training_runs.items()}
    if len(set(varied.values())) > 1:
        names = ", ".join(training_runs[key].name for key, varies in varied.items() if varies)
        raise InputError(
            f"score_run_ids: splits vary with the seed (vary_split) in some trainings only ({names}): they cannot "
            "be pooled with the others; name score runs of one kind, or choose them by architecture and seed"
        )


_MAY_DIFFER = PLACES | {
    *("architecture", "seed", "method", "name", "train_run_id", "attribute_run_id"),
    *("attribute_batch_size", "overlays_per_class"),
}
"""Settings in which runs of one comparison may differ. Images are told by their manifest, not by their place."""


def _settings(run: StoredRun) -> dict[str, str]:
    """What results of a run depend on, but for its cell: its settings, and the images of a training."""
    own = {key: str(value) for key, value in run.settings.items() if key not in _MAY_DIFFER}
    if "weights" in run.settings:
        own["weights"] = _weights(run.settings["weights"])
    if own.get("vary_split") != "True" and "cxr.inputs.manifest" in run.tags:
        own["images"] = run.tags["cxr.inputs.manifest"][:12]
    return own


def _weights(weights: str) -> str:
    return weights if weights in ("imagenet", "none", "source") else "of a file"


def _check_alike(runs: Iterable[StoredRun]) -> None:
    """Raise InputError where runs of one stage were made of other images or with other settings."""
    first, *others = runs
    wanted = _settings(first)
    for run in others:
        own = _settings(run)
        for name in sorted(wanted.keys() & own.keys()):
            if own[name] != wanted[name]:
                raise InputError(
                    f"score_run_ids: {run.name} (run {run.run_id}) was made with {name} {own[name]}, and "
                    f"{first.name} (run {first.run_id}) with {wanted[name]}: they cannot be pooled; name score "
                    "runs of one kind"
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

    Runs of studies count, or, where there are none, runs that were made by hand; runs of edited notebooks do not.
    Of these, only runs with the newest run's images and settings count.

    Args:
        runs: score runs, newest first.

    Raises InputError when there is none.
    """
    runs = [run for run in runs if run.tags.get("cxr.edited") != "true"]
    runs = [run for run in runs if {"mlflow.parentRunId", views.STUDY} & run.tags.keys()] or runs
    if not runs:
        raise InputError("no finished score run in the experiment: run 3_score.ipynb first, or set `name`")
    trainings = {key: _if_there(key) for key in {run.params["train_run"] for run in runs}}
    newest = _kind(runs[0], trainings)
    cells: dict[tuple[str, ...], str] = {}
    for run in runs:
        if _kind(run, trainings) == newest:
            cell = tuple(run.params[key] for key in ("architecture", "seed", "method"))
            cells.setdefault(cell, run.run_id)
    return [cells[cell] for cell in sorted(cells)]


def _if_there(run_id: str) -> StoredRun | None:
    """A run; None where it is gone, or of an earlier version."""
    try:
        return tracking.stored(run_id)
    except InputError:
        return None


def _kind(run: StoredRun, trainings: Mapping[str, StoredRun | None]) -> dict[str, str]:
    """Images and settings of a score run, and of its training if that is still there."""
    train = trainings[run.params["train_run"]]
    own = {} if train is None else train.params
    trained = {f"train {key}": own[key] for key in TrainParams.model_fields if key in own}
    scored = {key: run.params[key] for key in (*ScoreParams.model_fields, *SAME) if key in run.params}
    given = train is not None and own.get("vary_split") != "True"
    images = train.tags.get("cxr.inputs.manifest", "") if given else ""
    left_out = {*_MAY_DIFFER, *(f"train {key}" for key in _MAY_DIFFER)}
    same = {key: value for key, value in (trained | scored).items() if key not in left_out}
    return same | {"images": images, "weights": _weights(run.params["weights"])}
