"""Finished runs, as the notebooks after them take them up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.core.errors import InputError
from cxr.core.execution import STAGES
from cxr.core.params import Params
from cxr.tracking import artifacts, descriptions
from cxr.tracking.connection import connect
from cxr.tracking.query import RunInfo, find, link, run_info, run_url

if TYPE_CHECKING:
    import pandas as pd


class StoredRun(RunInfo):
    """A run that is there, with what it holds. Files are checked by their hash when they are fetched."""

    @property
    def url(self) -> str:
        """Where its page in the MLflow UI is."""
        return run_url(self.run_id)

    @property
    def link(self) -> descriptions.Link:
        """A link to it, for a description."""
        return link(self.run_id)

    def has(self, name: str) -> bool:
        """Whether it holds a file or folder of that name, at the top level."""
        return bool({name, f"{name}/"} & set(artifacts.artifact_names(self.run_id)))

    def file(self, name: str) -> Path:
        """A local copy of a file or folder. Raises InputError when it is missing or not what the run logged."""
        return artifacts.fetch(self.run_id, name)

    def table(self, name: str) -> pd.DataFrame:
        """A table that a run logged. Raises InputError as `file` does."""
        return artifacts.read_table(self.run_id, name)

    def json(self, name: str) -> Any:
        """What a JSON file holds. Raises InputError as `file` does."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))


def stored(run_id: str) -> StoredRun:
    """A run by its id. Raises InputError when there is none, or an earlier version made it."""
    return _stored(run_info(run_id))


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
        run = run_info(given)
        if run.stage != stage or not run.complete:
            raise InputError(
                f"{stage}_run_id: run {given} ({run.name}) is a {run.status} {run.stage or 'other'} run: name a "
                f"finished {stage} run, or run {STAGES[stage]}.ipynb again"
            )
        if reason := misfit(run, settings):
            raise InputError(
                f"{stage}_run_id: run {given} ({run.name}) {reason}: name another run, or leave it out"
            )
        return _stored(run)
    runs = find(stage, experiment=settings.name)
    fitting = [run for run in runs if not misfit(run, settings)]
    if fitting:
        return _stored(fitting[0])
    wanted = "".join(f", {name} {_or(values)}" for name, values in _filters(settings).items())
    raise InputError(
        f"no finished {stage} run in the experiment '{settings.name}'{wanted}: run {STAGES[stage]}.ipynb first, "
        "or name the experiment that has one with the parameter `name`"
    )


def misfit(run: RunInfo, settings: Params) -> str:
    """Why a run does not fit the filters of a notebook (architecture, seed, method); empty when it fits."""
    for name, values in _filters(settings).items():
        if run.params.get(name) not in values:
            return f"is of {name} {run.params.get(name)}, not {_or(values)}"
    return ""


def _filters(settings: Params) -> Mapping[str, list[str]]:
    """The filters that are given, with the values that fit, as MLflow keeps them."""
    given = {name: getattr(settings, name) for name in sorted(settings.filters)}
    return {name: list(map(str, values)) for name, values in given.items() if values}


def _or(values: list[str]) -> str:
    return " or ".join(values)


def _stored(run: RunInfo) -> StoredRun:
    return StoredRun(**{field.name: getattr(run, field.name) for field in fields(RunInfo)})
