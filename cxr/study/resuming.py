"""What is done already, and which notebooks an interrupted study did not log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cxr import tracking
from cxr.core.errors import InputError, first_line
from cxr.core.execution import RUN_LINE
from cxr.core.files import atomic
from cxr.study import session as sessions
from cxr.study import shared_files, study_run
from cxr.study.console import say
from cxr.study.grid import Setup, Step
from cxr.study.session import Session, State

# ---------------------------------------------------------------------------------------- what is done


def find_done(session: Session, state: State) -> None:
    """Fill `state.recorded` and `state.runs`; with `fresh`, nothing counts as done."""
    if session.fresh:
        return
    state.recorded = recorded(session)
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


def recorded(session: Session) -> dict[str, str]:
    """Keys of steps to run ids, from when this very study last ended; empty if it has not ended yet.

    If the file of that record is damaged or missing, the record is made from the runs, and a line says so.
    """
    ended = study_run.find(session, complete=True)
    if not ended:
        return {}
    try:
        found = ended[0].json(study_run.RECORD)
        if isinstance(found, dict) and all(isinstance(run_id, str) for run_id in found.values()):
            return found
        said = "it is no table of run ids"
    except ValueError as error:  # an InputError, or no JSON
        said = first_line(error)
    say(f"  {study_run.RECORD} of run {ended[0].run_id} cannot be read, and is made from the runs: {said}")
    return study_run.record_of(session.study.name, ended[0].run_id)


# ---------------------------------------------------------------------------------------- the folder


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the folder, and keep other studies out of it: they would overwrite each other's notebooks.

    The system lets go of the lock when this process ends in any way.

    Raises: InputError: another study is writing there, or nobody can.
    """
    note = out / shared_files.RUNNING
    lock = FileLock(out / shared_files.LOCK)
    advice = "choose another folder with --out"
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        who = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else ""
        host, _, pid = who.rpartition(":")[0].rpartition(":")
        who = f" (process {pid} on {host})" if pid else ""
        raise InputError(f"{out}: another study is writing there{who}: {advice}") from None
    except NotImplementedError:
        raise InputError(f"{out}: this file system has no locks, which keep two studies apart: {advice}") from None
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror}): {advice}") from None
    try:
        with atomic(note) as temporary:
            temporary.write_text(sessions.runner(), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            (out / shared_files.LOCK).unlink(missing_ok=True)  # before the release, as in `arrays.locked`
        lock.release()


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
