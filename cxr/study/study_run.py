"""The runs of a study in the store: its own, and those that already have the results of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from cxr import tracking
from cxr.study import session as sessions
from cxr.study.grid import Step
from cxr.study.session import Session, State
from cxr.tracking import descriptions, readable, views

if TYPE_CHECKING:
    import pandas as pd

RECORD = "steps.json"  # file of the study's own run: keys of steps to run ids, as the study ended
_ALIVE = "cxr.alive"


def open_parent(session: Session, claim: Mapping[str, str]) -> tuple[str, bool]:
    """The study's own run, for the claim of this process: its id, and whether it was made now.

    It is the newest run of this name with these settings, images and plan, or a new one if there is none or with
    `fresh`.

    Args: claim: the tag that holds the claim; it is written in one piece with a new run.
    """
    if not session.fresh:
        for run in find(session):
            tracking.set_tags(run.run_id, claim)
            return run.run_id, False
    parent = tracking.create_run(
        experiment=session.study.name,
        name=descriptions.study_name(session.study.name, _now()[:10], changed(session)[0]),
        tags={"cxr.stage": "study", "cxr.fingerprint": session.fingerprint, **claim, **tracking.git_tags()},
        params=session.study.model_dump(),
    )
    return parent, True


def reopen(session: Session, parent: str) -> None:
    """Say that the study's own run is running, which process runs it, and what it was asked to do."""
    tracking.reopen_run(parent)
    cites = session.plan.tags if session.plan else {}
    tracking.set_tags(parent, {"cxr.runner": sessions.runner(), _ALIVE: _now(), **cites})
    text = yaml.safe_dump(session.study.model_dump(mode="json"), sort_keys=False)
    tracking.log_text(parent, text, "parameters.yaml")
    if session.plan:
        tracking.log_text(parent, session.plan.text, "plan.yaml")


def find(session: Session, *, complete: bool = False) -> list[tracking.StoredRun]:
    """The runs of this very study: same name, settings, images and plan; the newest first."""
    return tracking.find(
        "study", experiment=session.study.name, fingerprint=session.fingerprint, complete=complete
    )


def changed(session: Session) -> tuple[dict[str, tuple[str, str]], str]:
    """Settings that differ from the previous study of this name, and a link to it; ({}, "") if there is none."""
    runs = tracking.find("study", experiment=session.study.name, complete=False)
    runs = [run for run in runs if run.fingerprint != session.fingerprint]
    if not runs:
        return {}, ""
    settings = {key: tracking.param_value(value) for key, value in session.study.model_dump().items()}
    return descriptions.difference(settings, runs[0].params), runs[0].link


def publish_grid(parent: str, runs: Mapping[str, str], summary: pd.DataFrame | None) -> None:
    """Mark the runs of a study that has ended as its own, and give them their numbers as people read them.

    The views of the UI then show these runs and no others. A run that an earlier study has made belongs to both,
    and is marked as that of the later one.

    Args:
        parent: the study's own run.
        runs: keys of steps (see `grid.plan`) to run ids.
        summary: of its comparison, a row an architecture and method; None where there is none.
    """
    rows = [] if summary is None else summary.to_dict("records")
    of_cell = {(row["architecture"], row["method"]): row for row in rows}
    for run_id in runs.values():
        run = tracking.stored(run_id)
        tags = {views.STUDY: parent, **run.readable}
        row = of_cell.get((run.params.get("architecture"), run.params.get("method")))
        if run.stage == "score" and row is not None:
            # one name for all seeds of a cell, by which the UI groups them
            checked = readable.checks(row["map_check"])
            tags[readable.CELL] = readable.cell(row["architecture"], row["method"], checked)
            tags["two seeds"] = readable.number(row.get("overlap_two_seeds_median"))
        tracking.set_tags(run_id, {key: value for key, value in tags.items() if run.tags.get(key) != value})


def headline_metrics(summary: pd.DataFrame) -> dict[str, float]:
    """A study's main numbers as metrics of its own run: `overlap/CompactDenseNet/layercam`, ...

    They are rounded, as they are for reading; the compare run holds them exactly.

    Args:
        summary: of its comparison, a row an architecture and method.
    """
    found = {}
    for row in summary.to_dict("records"):
        cell = f"{row['architecture']}/{row['method']}"
        for name, column in _HEADLINE.items():
            if math.isfinite(row.get(column, math.nan)):
                found[f"{name}/{cell}"] = round(row[column], 2)
        found[f"passes_checks/{cell}"] = float(readable.checks(row["map_check"]) == readable.PASS)
        for end in ("before", "after"):
            found[f"auc_{end}/{row['architecture']}"] = round(row[f"auc_macro_{end}"], 2)
    return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[0].partition("/")[0])))


_HEADLINE = {
    "overlap": "overlap_median",
    "two_patients": "overlap_two_patients_median",
    "two_seeds": "overlap_two_seeds_median",
    "corrected_overlap": "overlap_corrected_median",
}
_ORDER = ("passes_checks", *_HEADLINE, "auc_before", "auc_after")


def end_all(study: str, state: State, status: str = "FAILED") -> None:
    """End the runs of a study that stops half-way; the study's own run is the last, and ends with `status`."""
    if state.parent:
        for child in tracking.find(experiment=study, parent=state.parent, complete=False):
            if child.status == "RUNNING" and not tracking.stored(child.run_id).complete:  # it may have ended now
                tracking.end_run(child.run_id, "KILLED")
        tracking.end_run(state.parent, status)


def give_sign_of_life(parent: str) -> None:
    """Note the time, for people; `claims` tells by other means who lives."""
    tracking.set_tags(parent, {_ALIVE: _now()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def find_step(
    step: Step,
    study: str,
    fingerprint: str,
    *,
    recorded: str = "",
    parent: str | None = None,
    has_notebook: Callable[[str], bool] = lambda run_id: False,
) -> tracking.StoredRun | None:
    """The complete run of this fingerprint, or None.

    If several runs have it, `recorded` is preferred to newer ones: a newer run would have another id, and so all
    later steps would run again. A compare run counts only with its report, or with the notebook that the report
    is made from.

    Args:
        study: the MLflow experiment.
        recorded: the run of this step when the study last ended; "" for none.
        parent: look only at runs below this one; None: at all runs of the experiment.
        has_notebook: whether the executed notebook of a compare run is there, although it is not logged.
    """
    found = tracking.find(step.stage, experiment=study, fingerprint=fingerprint, parent=parent)
    if step.stage == "compare":
        found = [run for run in found if has_report(run) or has_notebook(run.run_id)]
    return next((run for run in found if run.run_id == recorded), found[0] if found else None)


def record_of(study: str, parent: str) -> dict[str, str]:
    """Keys of steps to run ids, from the complete runs of a study that ended.

    Args:
        study: the MLflow experiment.
        parent: the id of the study's own run.
    """
    runs = tracking.find(experiment=study)
    made = [run for run in runs if run.tags.get("mlflow.parentRunId") == parent]
    marked = [run for run in runs if run.tags.get(views.STUDY) == parent and run.run_id != parent]
    return {run.name.replace(" ", "/"): run.run_id for run in (*reversed(made), *reversed(marked))}


def has_report(run: tracking.StoredRun) -> bool:
    """Whether a compare run has its report, or the notebook that the report is made from."""
    return bool({"report.html", "notebook.ipynb"} & set(run.artifacts()))
