"""Which runs there are, and what each says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from cxr.core.errors import InputError, first_line
from cxr.core.params import SCHEMA
from cxr.tracking import descriptions, views
from cxr.tracking.names import param_value
from cxr.tracking.source import sha256

if TYPE_CHECKING:
    pass
from cxr.core.execution import STAGES
from cxr.tracking.connection import is_server, mlflow_client

SCHEMA_TAG = "cxr.schema"


_OF_THIS_SCHEMA = f"tags.`{SCHEMA_TAG}` = '{SCHEMA}'"


@dataclass(frozen=True)
class RunInfo:
    """What a run says of itself. `start` and `end` are in UTC; `end` is None while it runs."""

    run_id: str
    name: str
    stage: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    start: datetime
    end: datetime | None
    experiment_name: str

    @property
    def complete(self) -> bool:
        """Whether `finish` closed it, and nothing failed after that."""
        return self.status == "FINISHED" and self.tags.get("cxr.complete") == "true"

    @property
    def fingerprint(self) -> str:
        """Empty for a run that was not opened by `start`."""
        return self.tags.get("cxr.fingerprint", "")


def run_info(run_id: str) -> RunInfo:
    """What a run says of itself.

    Raises:
        InputError: there is no such run, or another version of cxr made it, which named things differently.
    """
    try:
        run = mlflow_client().get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"no run '{run_id}' in {mlflow.get_tracking_uri()} ({first_line(error)}): mend the run id, or "
            "MLFLOW_TRACKING_URI if the run is kept elsewhere"
        ) from None
    found = _info(run, mlflow_client().get_experiment(run.info.experiment_id).name)
    if found.stage and found.tags.get(SCHEMA_TAG) != SCHEMA:
        raise InputError(
            f"run {run_id} ({found.name}) was made by an earlier version of cxr, whose names differ: run its "
            "notebook again, or use that version"
        )
    return found


def run_url(run_id: str) -> str:
    """Where the run's page is: on the tracking server, or, for a store on this machine, where `cxr ui` shows
    it."""
    uri = mlflow.get_tracking_uri()
    server = uri.rstrip("/") if is_server(uri) else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{mlflow_client().get_run(run_id).info.experiment_id}/runs/{run_id}"


def front_pages(server: str, most: int = 3) -> list[str]:
    """Lines with the addresses of the views (`cxr.tracking.views`) of the experiments that were changed last."""
    lines = []
    found = mlflow_client().search_experiments(order_by=["last_update_time DESC"], max_results=100)
    for experiment in [item for item in found if views.has(item.tags)][:most]:
        lines.append(f"  {experiment.name}")
        lines += [f"    {name:9} {server}/{views.address(experiment.experiment_id, name)}" for name in views.KEYS]
    return lines


def link(run_id: str) -> descriptions.Link:
    """A link to a run for a description: its name and, relative to the server, its page."""
    run = mlflow_client().get_run(run_id)
    return descriptions.run_link(run.info.run_name, run.info.experiment_id, run_id)


def find(
    stage: str | None = None,
    *,
    experiment: str,
    fingerprint: str | None = None,
    complete: bool = True,
    parent: str | None = None,
) -> list[RunInfo]:
    """Runs of an experiment, newest first; none if there is no such experiment.

    Runs that an earlier version of cxr made are left out: their names differ (see `count_earlier`).

    Args:
        stage: of this stage only.
        experiment: the experiment's name.
        fingerprint: with this fingerprint only (and unedited, see `finish`).
        complete: complete runs only.
        parent: children of this run only.
    """
    client = mlflow_client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    conditions = [_OF_THIS_SCHEMA]
    for value in (stage, fingerprint, parent):  # ids and hashes only: none can end the quotes it stands in
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_\-]*", value):
            raise InputError(f"'{value}': not a stage, fingerprint or run id")
    if stage is not None:
        conditions.append(f"tags.`cxr.stage` = '{stage}'")
    if fingerprint is not None:
        conditions.append(f"tags.`cxr.fingerprint` = '{fingerprint}'")
    if complete:
        conditions += ["attributes.status = 'FINISHED'", "tags.`cxr.complete` = 'true'"]
    if parent is not None:
        conditions.append(f"tags.`mlflow.parentRunId` = '{parent}'")
    runs = [_info(run, experiment) for run in _search(found.experiment_id, conditions)]
    return [run for run in runs if fingerprint is None or run.tags.get("cxr.edited") != "true"]


def count_earlier(experiment: str) -> int:
    """How many complete runs of an experiment an earlier version of cxr made; `find` leaves them out."""
    client = mlflow_client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    complete = "tags.`cxr.complete` = 'true'"
    oldest = client.search_runs(
        [found.experiment_id], complete, max_results=1, order_by=["attributes.start_time ASC"]
    )
    if all(run.data.tags.get(SCHEMA_TAG) == SCHEMA for run in oldest):
        return 0  # later ones are of this version too: no need to read them all
    # MLflow cannot ask for runs without a tag
    return sum(run.data.tags.get(SCHEMA_TAG) != SCHEMA for run in _search(found.experiment_id, [complete]))


def _search(experiment: str, conditions: Sequence[str]) -> Iterator[mlflow.entities.Run]:
    """Runs of an experiment, by its id, that meet all conditions, newest first."""
    token = None
    while True:
        page = mlflow_client().search_runs(
            [experiment],
            " and ".join(conditions),
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def latest(stage: str, *, experiment: str, **params: Any) -> str:
    """The id of the newest complete run of a stage whose logged parameters are `params`.

    Raises:
        InputError: there is none; the message says which notebook to run first.
    """
    wanted = {key: param_value(value) for key, value in params.items()}
    for run in find(stage, experiment=experiment):
        if all(run.params.get(key) == value for key, value in wanted.items()):
            return run.run_id
    which = "".join(f", {key} {value}" for key, value in wanted.items())
    raise InputError(
        f"no finished {stage} run in the experiment '{experiment}'{which} ({mlflow.get_tracking_uri()}): run "
        f"{STAGES.get(stage, stage)}.ipynb first, or name the experiment that has one with the parameter `name`"
    )


def experiments_with(stage: str) -> list[str]:
    """Names of the experiments that hold a complete run of a stage, that with the newest such run first."""
    client, found, token = mlflow_client(), {}, None
    condition = (
        f"{_OF_THIS_SCHEMA} and tags.`cxr.stage` = '{stage}' and attributes.status = 'FINISHED' and "
        "tags.`cxr.complete` = 'true'"
    )
    while True:
        page = client.search_experiments(page_token=token)
        for experiment in page:
            newest = client.search_runs(
                [experiment.experiment_id], condition, max_results=1, order_by=["attributes.start_time DESC"]
            )
            found.update((experiment.name, run.info.start_time) for run in newest)
        token = page.token
        if not token:
            return sorted(found, key=found.get, reverse=True)


def upstream(*run_ids: str) -> dict[str, str]:
    """The `inputs` of a notebook that reads these complete runs, all of one stage, in any order.

    Runs are told by their ids: a stage that was run again hands on other numbers (on another machine, or where
    `deterministic` is off), so that what was computed from its first run is not what the second would give.

    Raises:
        InputError: a run does not exist, is not complete, or has another stage than the first.
    """
    runs = [run_info(run_id) for run_id in run_ids]
    if not runs:
        raise InputError("no run ids given: name the runs to read")
    for run in runs:
        if not run.complete:
            raise InputError(f"run {run.run_id} ({run.name}) is {run.status} and not complete: run it again")
        if run.stage != runs[0].stage:
            raise InputError(f"run {run.run_id} ({run.name}) is a {run.stage} run, and others are {runs[0].stage}")
    ids = sorted(set(run_ids))
    return {runs[0].stage: ids[0] if len(ids) == 1 else sha256("\n".join(ids))}


def _info(run: mlflow.entities.Run, experiment: str) -> RunInfo:
    return RunInfo(
        run_id=run.info.run_id,
        name=run.info.run_name,
        stage=run.data.tags.get("cxr.stage", ""),
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        start=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        end=datetime.fromtimestamp(run.info.end_time / 1000, UTC) if run.info.end_time else None,
        experiment_name=experiment,
    )
