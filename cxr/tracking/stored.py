"""Runs that are there: which there are, and what each holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from cxr.core.errors import InputError, first_line, without_password
from cxr.core.execution import STAGES
from cxr.core.params import SCHEMA, Params
from cxr.tracking import artifacts, descriptions, readable, views
from cxr.tracking.connection import ask, connect, is_server, mlflow_client
from cxr.tracking.provenance import OF_PHANTOM
from cxr.tracking.source import sha256

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_TAG = "cxr.schema"
IDENTITY = "cxr.id."
"""Prefix of the tags that hold parameters which are ids or hashes (`run.log_params`)."""
PLACES = frozenset(
    {"data", "data_root", "weights", "plan", "output", "model_a", "model_b", "like_a", "like_b", "module"}
)
"""Parameters that are kept as tags of the same name: they say where files are, and results depend on the files'
contents. (`OF_PHANTOM` too, for other images.)"""
_OF_THIS_SCHEMA = f"tags.`{SCHEMA_TAG}` = '{SCHEMA}'"
_COMPLETE = "attributes.status = 'FINISHED' and tags.`cxr.complete` = 'true'"
_NEWEST = ["attributes.start_time DESC"]


@dataclass(frozen=True)
class StoredRun:
    """A run of the store: what it says of itself, and what it holds."""

    run_id: str
    name: str
    stage: str
    status: str
    params: dict[str, str]  # with those that are kept as tags (`IDENTITY`, `PLACES`)
    tags: dict[str, str]
    metrics: dict[str, float]
    experiment_id: str
    experiment_name: str

    @property
    def complete(self) -> bool:
        """Whether `Run.finish` closed it, and nothing failed after that."""
        return self.status == "FINISHED" and self.tags.get("cxr.complete") == "true"

    @property
    def fingerprint(self) -> str:
        """Empty for a run that was not opened by `start`."""
        return self.tags.get("cxr.fingerprint", "")

    @property
    def readable(self) -> dict[str, str]:
        """Its main numbers as tags for people (`cxr.tracking.readable`)."""
        return readable.tags(self.stage, self.params, self.metrics)

    @property
    def link(self) -> descriptions.Link:
        """A link for a description: its name and, relative to the server, its page."""
        return descriptions.run_link(self.name, self.experiment_id, self.run_id)

    def artifacts(self) -> list[str]:
        """The names of what it holds, at the top level; folders end in `/`."""
        found = mlflow_client().list_artifacts(self.run_id)
        return [item.path + ("/" if item.is_dir else "") for item in found]

    def has(self, name: str) -> bool:
        """Whether it holds a file or folder of that name, at the top level."""
        return bool({name, f"{name}/"} & set(self.artifacts()))

    def file(self, name: str) -> Path:
        """A local copy of a file or folder, which is deleted when this process exits.

        Each file is compared with the SHA-256 that was noted when it was logged; runs of older versions lack some.

        Raises:
            InputError: there is no such artifact; names it, and what the run holds instead. A file is not the one
                that was logged, or was taken away from a folder or added.
        """
        return artifacts.fetch(self, name)

    def table(self, name: str) -> pd.DataFrame:
        """A table that a run logged. Raises InputError as `file` does."""
        import pandas as pd

        path = self.file(name)
        return pd.read_parquet(path) if artifacts.table_suffix(name) == ".parquet" else pd.read_csv(path)

    def json(self, name: str) -> Any:
        """What a JSON file holds. Raises InputError as `file` does."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of its notebook, as `parameters.yaml` holds them. Raises InputError as `file` does."""
        import yaml

        return yaml.safe_load(self.file("parameters.yaml").read_text(encoding="utf-8"))

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """Versions of packages that it was made with, as far as it had them."""
        found = self.json("environment.json")["packages"]
        return {name: found[name] for name in names if name in found}


def stored(run_id: str) -> StoredRun:
    """A run by its id.

    Raises:
        InputError: there is no such run, or another version of cxr made it, which named things differently.
    """
    try:
        run = mlflow_client().get_run(run_id)
    except MlflowException as error:
        uri = without_password(mlflow.get_tracking_uri())
        raise InputError(
            f"no run '{run_id}' in {uri} ({first_line(error)}): mend the run id, or MLFLOW_TRACKING_URI if the "
            "run is kept elsewhere"
        ) from None
    found = _stored(run, mlflow_client().get_experiment(run.info.experiment_id).name)
    if found.stage and found.tags.get(SCHEMA_TAG) != SCHEMA:
        raise InputError(
            f"run {run_id} ({found.name}) was made by an earlier version of cxr, whose names differ: run its "
            "notebook again, or use that version"
        )
    return found


def started(run_id: str) -> datetime:
    """When a run began, in UTC, by the clock of the machine that opened it."""
    return datetime.fromtimestamp(mlflow_client().get_run(run_id).info.start_time / 1000, UTC)


def run_url(run_id: str) -> str:
    """Where the run's page is: on the tracking server, or, for a store on this machine, where `cxr ui` shows
    it."""
    uri = mlflow.get_tracking_uri()
    server = uri.rstrip("/") if is_server(uri) else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{mlflow_client().get_run(run_id).info.experiment_id}/runs/{run_id}"


def front_page(server: str) -> str:
    """The address of the scores of the study that ended last, or, if none has, of the experiment changed last.

    `server`: the address of the UI; the answer where the store has no experiment with views.
    """
    changed = mlflow_client().search_experiments(order_by=["last_update_time DESC"], max_results=1000)
    with_views = {item.name: item.experiment_id for item in changed if views.has(item.tags)}
    with_study = [name for name in experiments_with("study") if name in with_views]
    first = next(iter([*with_study, *with_views]), None)
    return server if first is None else f"{server}/{views.address(with_views[first], 'scores')}"


def find(
    stage: str | None = None,
    *,
    experiment: str,
    fingerprint: str | None = None,
    complete: bool = True,
    parent: str | None = None,
) -> list[StoredRun]:
    """Runs of an experiment, newest first; none if there is no such experiment.

    Runs that an earlier version of cxr made are left out: their names differ (see `count_earlier`).

    Args:
        stage: of this stage only.
        experiment: the experiment's name.
        fingerprint: with this fingerprint only (and unedited, see `Run.finish`).
        complete: complete runs only.
        parent: children of this run only.
    """
    conditions = [_OF_THIS_SCHEMA]
    tags = {"cxr.stage": stage, "cxr.fingerprint": fingerprint, "mlflow.parentRunId": parent}
    for tag, value in tags.items():
        if value is not None:
            if not re.fullmatch(r"[A-Za-z0-9_\-]*", value):  # none can end the quotes it stands in
                raise InputError(f"'{value}': not a stage, fingerprint or run id")
            conditions.append(f"tags.`{tag}` = '{value}'")
    runs = _search(experiment, *conditions, *([_COMPLETE] if complete else []))
    return [run for run in runs if fingerprint is None or run.tags.get("cxr.edited") != "true"]


def plans_cited(experiment: str) -> dict[str, str]:
    """Frozen plans that the studies of an experiment cite: the first digits of the hash to the date."""
    tags = [run.tags for run in find("study", experiment=experiment, complete=False)]
    return {own["cxr.plan"]: own["cxr.plan_date"] for own in tags if "cxr.plan" in own}


def count_earlier(experiment: str) -> int:
    """How many complete runs of an experiment an earlier version of cxr made; `find` leaves them out."""
    complete = "tags.`cxr.complete` = 'true'"
    return len(_search(experiment, complete, f"tags.`{SCHEMA_TAG}` IS NULL")) + len(
        _search(experiment, complete, f"tags.`{SCHEMA_TAG}` != '{SCHEMA}'")
    )


def _search(experiment: str, *conditions: str) -> list[StoredRun]:
    """Runs of an experiment, by its name, that meet all conditions, newest first."""
    found = mlflow_client().get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = ask(
        mlflow.search_runs,
        [found.experiment_id],
        " and ".join(conditions),
        order_by=_NEWEST,
        output_format="list",
    )
    return [_stored(run, experiment) for run in runs]


def experiments_with(stage: str) -> list[str]:
    """Names of the experiments that hold a complete run of a stage, that with the newest such run first."""
    client, found = mlflow_client(), {}
    condition = f"{_OF_THIS_SCHEMA} and tags.`cxr.stage` = '{stage}' and {_COMPLETE}"
    for experiment in ask(mlflow.search_experiments):
        newest = client.search_runs([experiment.experiment_id], condition, max_results=1, order_by=_NEWEST)
        found.update((experiment.name, run.info.start_time) for run in newest)
    return sorted(found, key=found.get, reverse=True)


def upstream(*run_ids: str) -> dict[str, str]:
    """The `inputs` of a notebook that reads these complete runs, all of one stage, in any order.

    Runs are told by their ids: a stage that was run again hands on other numbers (on another machine, or where
    `deterministic` is off), so that what was computed from its first run is not what the second would give.

    Raises:
        InputError: a run does not exist, is not complete, or has another stage than the first.
    """
    runs = [stored(run_id) for run_id in run_ids]
    for run in runs:
        if not run.complete:
            raise InputError(f"run {run.run_id} ({run.name}) is {run.status} and not complete: run it again")
        if run.stage != runs[0].stage:
            raise InputError(f"run {run.run_id} ({run.name}) is a {run.stage} run, and others are {runs[0].stage}")
    ids = sorted(set(run_ids))
    return {runs[0].stage: ids[0] if len(ids) == 1 else sha256("\n".join(ids))}


def take(stage: str, settings: Params) -> StoredRun:
    """The complete run that a notebook reads: the one that it names, or the latest that fits.

    Args:
        stage: of the run: "train" or "attribute".
        settings: the notebook's. `<stage>_run_id` names the run; empty: the latest one of the experiment `name`
            that fits `architecture` and `seed`, where these are given.

    Raises:
        InputError: there is no such run, it is not complete, of another stage, or does not fit.
    """
    connect()
    given = getattr(settings, f"{stage}_run_id")
    if given:
        run = stored(given)
        if run.stage != stage or not run.complete:
            raise InputError(
                f"{stage}_run_id: run {given} ({run.name}) is a {run.status} {run.stage or 'other'} run: name a "
                f"finished {stage} run, or run {STAGES[stage]}.ipynb again"
            )
        if reason := misfit(run, settings):
            raise InputError(
                f"{stage}_run_id: run {given} ({run.name}) {reason}: name another run, or leave it out"
            )
        return run
    for run in find(stage, experiment=settings.name):
        if not misfit(run, settings):
            return run
    wanted = "".join(f", {name} {' or '.join(values)}" for name, values in _filters(settings).items())
    raise InputError(
        f"no finished {stage} run in the experiment '{settings.name}'{wanted}: run {STAGES[stage]}.ipynb first, "
        "or name the experiment that has one with the parameter `name`"
    )


def misfit(run: StoredRun, settings: Params) -> str:
    """Why a run does not fit the filters of a notebook (architecture, seed, method); empty when it fits."""
    for name, values in _filters(settings).items():
        if run.params.get(name) not in values:
            return f"is of {name} {run.params.get(name)}, not {' or '.join(values)}"
    return ""


def _filters(settings: Params) -> Mapping[str, list[str]]:
    """The filters that are given, with the values that fit, as MLflow keeps them."""
    given = {name: getattr(settings, name) for name in sorted(settings.filters)}
    return {name: list(map(str, values)) for name, values in given.items() if values}


def _stored(run: mlflow.entities.Run, experiment: str) -> StoredRun:
    tags = run.data.tags
    identities = {key.removeprefix(IDENTITY): tags[key] for key in tags if key.startswith(IDENTITY)}
    return StoredRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        stage=run.data.tags.get("cxr.stage", ""),
        status=run.info.status,
        params={
            **run.data.params,
            **identities,
            **{key: tags[key] for key in (PLACES | OF_PHANTOM) & tags.keys()},
        },
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        experiment_id=run.info.experiment_id,
        experiment_name=experiment,
    )
