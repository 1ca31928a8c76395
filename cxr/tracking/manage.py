"""Runs as whoever runs notebooks handles them: created, tagged, ended, without being open in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cxr.core.params import SCHEMA

if TYPE_CHECKING:
    pass
from cxr.tracking import log
from cxr.tracking.connection import experiment_id, mlflow_client
from cxr.tracking.query import SCHEMA_TAG


def create_run(
    *, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
) -> str:
    """Create a run, without opening it in this process, and return its id."""
    client = mlflow_client()
    family = {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment_id(experiment), tags={SCHEMA_TAG: SCHEMA, **tags, **family}, run_name=name)
    log.log_params(run.info.run_id, params)
    return run.info.run_id


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of any run."""
    for key, value in tags.items():
        mlflow_client().set_tag(run_id, key, value)


def end_run(run_id: str, status: str) -> None:
    """End any run as FINISHED, FAILED or KILLED; only a FINISHED one can be complete."""
    client = mlflow_client()
    if status != "FINISHED" and "cxr.complete" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "cxr.complete")
    client.set_terminated(run_id, status)


def reopen_run(run_id: str) -> None:
    """Say of an ended run that it is running again."""
    mlflow_client().update_run(run_id, status="RUNNING")
