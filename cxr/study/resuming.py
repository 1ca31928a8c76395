"""What is done already, and what an interrupted study left behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError
from cxr.core.execution import RUN_LINE
from cxr.core.files import atomic
from cxr.study import session as sessions
from cxr.study import shared_files, study_run
from cxr.study.console import duration, say
from cxr.study.grid import Setup, Step
from cxr.study.session import Session, State

# ---------------------------------------------------------------------------------------- what is done


def find_done(session: Session, state: State) -> None:
    """Fill `state.recorded` and `state.runs`; with `fresh`, nothing counts as done."""
    if session.fresh:
        return
    state.recorded = _recorded(session)
    for step in session.steps:
        if all(key in state.runs for key in step.needs):
            run = study_run.find_step(
                step,
                session.study.name,
                session.fingerprint_of(step, state.runs),
                recorded=state.recorded.get(step.key, ""),
                has_notebook=lambda run_id, step=step: _is_executed_by(session.setup, step, run_id),
            )
            if run is not None:
                state.runs[step.key] = run.run_id


def _recorded(session: Session) -> dict[str, str]:
    """Keys of steps to run ids, from when this very study last ended; empty if it has not ended yet."""
    ended = study_run.find(session, complete=True)
    return ended[0].json("steps.json") if ended else {}


# ---------------------------------------------------------------------------------------- runners


def stop_abandoned(session: Session) -> None:
    """Clean up after runners of this study that were killed. Raises InputError while one still runs it."""
    for run in study_run.find(session):
        if run.status == "RUNNING":
            check_abandoned(run, session.study.name)
            tracking.end_run(run.run_id, "KILLED")


def check_abandoned(run: tracking.StoredRun, name: str) -> None:
    """If the runner of a study is dead, stop its notebooks and end their runs.

    A runner on another machine counts as dead after `study_run.DEAD_SECONDS` without a sign of life. Its notebooks
    cannot be stopped from here.

    Raises:
        InputError: the runner lives.
    """
    advice = "wait for it, stop it, or choose another `name`"
    runner = run.tags.get("cxr.runner", "")
    host, _, pid = runner.rpartition(":")[0].rpartition(":")
    if host == socket.gethostname():
        if processes.lives(runner):
            raise InputError(f"the study '{name}' is being run already, by process {pid}: {advice}")
    else:
        silent = study_run.seconds_silent(run)
        if silent < study_run.DEAD_SECONDS:
            raise InputError(
                f"the study '{name}' is being run already, by process {pid} on {host} (last sign of life "
                f"{duration(max(0.0, silent))} ago; it counts as dead after {duration(study_run.DEAD_SECONDS)}): "
                f"{advice}"
            )
    children = tracking.find(experiment=name, parent=run.run_id, complete=False)
    left = [child for child in children if child.status == "RUNNING"]
    stopped = processes.stop_orphans({child.run_id: child.tags.get("cxr.process", "") for child in left})
    if stopped:
        say(f"  an earlier run of this study was killed: stopped {stopped} processes that were still running")
    for child in left:
        if not tracking.stored(child.run_id).complete:  # it may have ended just now
            tracking.end_run(child.run_id, "KILLED")


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the folder, and keep other studies out of it: they would overwrite each other's notebooks.

    Raises: InputError: another study is writing there, or nobody can.
    """
    lock = out / shared_files.RUNNING
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        holder = lock.read_text(encoding="utf-8")
        pid = processes.lives(holder)
        if pid not in (0, os.getpid()):
            raise InputError(f"{out}: another study is writing there (process {pid}): choose another with --out")
    try:
        with atomic(lock) as temporary:
            temporary.write_text(sessions.runner(), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there ({error.strerror}): choose another folder with --out"
        ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- notebooks


def log_missing_notebooks(session: Session, state: State) -> None:
    """Log notebooks of done steps that are not logged, because the study was killed before it could do so."""
    for step in session.steps:
        run_id = state.runs.get(step.key)
        if run_id is None or tracking.stored(run_id).has("notebook.ipynb"):
            continue
        if not tracking.stored(run_id).tags.get("mlflow.parentRunId"):
            continue  # run by hand, in Jupyter
        if _is_executed_by(session.setup, step, run_id):
            tracking.log_file_as(run_id, session.setup.executed(step), "notebook.ipynb")
        else:
            say(f"  {step.name}: run {run_id} has all results but no notebook, because the study was killed")


def _is_executed_by(setup: Setup, step: Step, run_id: str) -> bool:
    """Whether the step's notebook in the study's folder belongs to this run, and is complete."""
    return _run_of(setup.log(step)) == run_id and _is_complete(setup.executed(step))


def _run_of(log: Path) -> str:
    """The run id in the first line of a step's log."""
    try:
        first = log.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return first.removeprefix(RUN_LINE) if first.startswith(RUN_LINE) else ""


def _is_complete(notebook: Path) -> bool:
    """Whether papermill executed the notebook to its end, without an error."""
    try:
        record = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(record.get("end_time")) and not record.get("exception")


# ---------------------------------------------------------------------------------------- mixed code


def find_mixed(session: Session, state: State) -> list[str]:
    """Keys of done steps whose runs have another fingerprint than they would have now."""
    done = [step for step in session.steps if step.key in state.runs]
    return [
        step.key
        for step in done
        if tracking.stored(state.runs[step.key]).fingerprint != session.fingerprint_of(step, state.runs)
    ]


def note_mixed(state: State, mixed: list[str]) -> None:
    """Print and tag that code or data changed while the study ran; if they did not, clear an earlier tag."""
    text = ", ".join(mixed)
    runs = [state.parent, *([state.runs["compare"]] if "compare" in state.runs else [])]
    for run_id in runs:
        if mixed or "cxr.mixed_code" in tracking.stored(run_id).tags:
            tracking.set_tags(run_id, {"cxr.mixed_code": text[:5000]})
    if mixed:
        say(
            f"CAUTION: the code, the data or the weights changed while the study ran. {len(mixed)} notebooks ran "
            f"with another version than the rest, and do not belong in one report: {text}. Run the same command "
            "again: it runs these notebooks, and those that depend on them, again."
        )
