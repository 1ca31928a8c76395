"""How a worker executes one step: papermill in a process of its own, logged as an MLflow run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import get_worker

from cxr import tracking
from cxr.core import execution, processes
from cxr.core.errors import InputError, first_line
from cxr.study import claims, session, study_run, worker
from cxr.study.console import killed
from cxr.study.grid import Setup, Step
from cxr.study.shared_files import Shared


@dataclass(frozen=True)
class Job:
    """A step, and all that a worker has to know about its study.

    Attributes:
        step: which notebook, for which cell of the grid.
        study: the MLflow experiment.
        parent: the id of the study's own run; also the topic of the events that workers send (`tell`).
        tracking_uri: of the store.
        setup: the study's files, with absolute paths unless the worker is a thread of the runner.
        shared: what the worker must see; None if it is a thread of the runner.
        fingerprint: that the step will have; "" if it needs runs that do not exist yet.
        recorded: the run of this step when the study last ended; "" for none.
        fresh: whether only runs of this study count as done.
        environment: further environment variables of the notebook.
        manifest_hash: of the images and splits of the step's training.
    """

    step: Step
    study: str
    parent: str
    tracking_uri: str
    setup: Setup
    shared: Shared | None
    fingerprint: str
    recorded: str
    fresh: bool
    environment: Mapping[str, str]
    manifest_hash: str

    def tell(self, **what: Any) -> None:
        """Send the runner an event about this step, from a worker.

        Args: `progress`, a line; or `began=True`, with `again=True` if another worker had begun.
        """
        get_worker().log_event(self.parent, {"key": self.step.key, "host": socket.gethostname(), **what})


@dataclass(frozen=True)
class Done:
    """A step that has its run.

    Attributes:
        again: whether the run existed already.
    """

    run_id: str
    again: bool = False


class StepFailed(Exception):
    """A step has no run. Its arguments: the step's key, and the reason in one line."""

    @property
    def key(self) -> str:
        return self.args[0]

    @property
    def reason(self) -> str:
        return self.args[1]


def execute(job: Job, needs: Mapping[str, Done]) -> Done:
    """Execute the notebook of a step, unless its run exists already. Runs on a worker with the plugin `Notebooks`.

    Args: needs: the steps that this one needs, by key.
    Raises:
        InputError: the worker joined after the study began, and lacks something.
        StepFailed: the notebook failed, was stopped, or could not start; its run, if any, has ended.
        tracking.StoreGone, OSError: the store does not answer, or a disk is full: all other steps would fail too.
    """
    plugin = worker.plugin_of(get_worker())
    key = get_worker().get_current_task()
    if job.shared is not None and (lacks := plugin.trouble(job.shared)):
        raise InputError(f"the worker {get_worker().address}: {lacks}")
    with _failing(job), plugin.executing(key), plugin.using(job.tracking_uri):
        if plugin.is_stopped(key):
            raise StepFailed(job.step.key, "stopped")
        runs = {name: done.run_id for name, done in needs.items()}
        fingerprint = _fingerprint(job, runs)
        found = study_run.find_step(
            job.step,
            job.study,
            fingerprint,
            recorded=job.recorded,
            parent=job.parent if job.fresh else None,
        )
        if found is not None:
            return Done(found.run_id, again=True)
        run_id = _open(job, fingerprint)
        code = _run_papermill(job, run_id, runs, plugin, key)
        return _end(job, run_id, code, stopped=plugin.is_stopped(key))


@contextlib.contextmanager
def _failing(job: Job) -> Iterator[None]:
    """Turn errors of this one step into StepFailed; errors that stop all steps pass through."""
    try:
        yield
    except (StepFailed, tracking.StoreGone):
        raise
    except Exception as error:
        if tracking.disk_full(error):
            raise
        said = first_line(error, most=1000)
        what = said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"
        elsewhere = job.shared is not None and job.shared.host != socket.gethostname()
        raise StepFailed(job.step.key, f"{what} (on {socket.gethostname()})" if elsewhere else what) from None


def _fingerprint(job: Job, runs: Mapping[str, str]) -> str:
    found = job.setup.fingerprint(job.step, runs, job.manifest_hash)
    if job.shared is not None and job.fingerprint not in ("", found):
        raise InputError(
            "the code, a notebook or the weights differ from those where the study runs: install the same code, "
            "and put the same weights here (your own weights in the cache count too)"
        )
    return found


def _open(job: Job, fingerprint: str) -> str:
    """Open the run of a step: the run of a worker that was lost, or a new one. Returns its id."""
    step, host = job.step, socket.gethostname()
    known = {"experiment": job.study, "fingerprint": fingerprint, "parent": job.parent}
    own = {"cxr.worker": processes.identity(os.getpid())}
    lost = [run for run in tracking.find(step.stage, **known, complete=False) if run.status == "RUNNING"]
    processes.stop_orphans({run.run_id: run.tags.get("cxr.process", "") for run in lost})
    again, others = claims.resumed(
        [claims.Started(run.run_id, here=processes.is_here(run.tags.get("cxr.worker", ""))) for run in lost]
    )
    for other in others:
        tracking.end_run(other, "KILLED")
    if again:
        tracking.set_tags(again, {**own, "cxr.resumed_on": host, "cxr.process": ""})
        job.tell(began=True, again=True)
        return again
    run_id = tracking.create_run(
        experiment=job.study,
        name=step.name,
        parent=job.parent,
        tags={"cxr.stage": step.stage, "cxr.fingerprint": fingerprint, **own},
        params=step.params,
    )
    job.tell(began=True, again=bool(lost))
    return run_id


def _run_papermill(job: Job, run_id: str, runs: Mapping[str, str], plugin: worker.Notebooks, key: str) -> int:
    """Run papermill, with its output in the step's log, and return its exit code. `key`: of the Dask task."""
    import psutil

    job.setup.executed(job.step).unlink(missing_ok=True)  # it belongs to an earlier run
    with job.setup.log(job.step).open("w", encoding="utf-8") as log:
        log.write(f"{execution.RUN_LINE}{run_id}\n")  # tells a resumed study whose log and notebook these are
        log.flush()
        words, environment = job.setup.command(job.step, runs), _environment(job, run_id)
        process = plugin.launch(key, lambda: execution.start(words, environment))
        if process is None:
            return -2
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            tracking.set_tags(run_id, {"cxr.process": processes.identity(process.pid)})
        with process:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(execution.PROGRESS):
                    job.tell(progress=line.strip())
    return process.returncode


def _environment(job: Job, run_id: str) -> dict[str, str]:
    """Environment variables of the notebook, besides the worker's own."""
    # A thread of the runner has its share in `job.environment`.
    threads = {} if job.shared is None else session.share_of_cores(get_worker().state.nthreads)
    found = {
        **threads,
        **job.environment,
        "MLFLOW_TRACKING_URI": job.tracking_uri,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_EXPERIMENT_NAME": job.study,
        "CXR_WORKER": processes.identity(os.getpid()),
    }
    if gpus := worker.gpus_of(get_worker()):
        found["CUDA_VISIBLE_DEVICES"] = gpus
    return found


def _end(job: Job, run_id: str, code: int, *, stopped: bool) -> Done:
    """Log the notebook; raise StepFailed unless the run is complete. `code`: papermill's exit code."""
    step, notebook, log = job.step, job.setup.executed(job.step), job.setup.log(job.step)
    if notebook.is_file():
        tracking.log_file_as(run_id, notebook, "notebook.ipynb")
    run = tracking.stored(run_id)
    if code == 0 and run.complete:
        return Done(run_id)
    processes.stop_orphans({run_id: ""})  # a kernel that lives on without papermill would write to the run
    if stopped:
        if not run.complete:
            tracking.end_run(run_id, "KILLED")
        raise StepFailed(step.key, "stopped")
    if code == 0:
        reason = "the notebook ended without `run.finish()`"
    elif code < 0:
        reason = killed("papermill", code)
    else:
        error = execution.error_of(notebook)
        reason = ": ".join(error).strip().splitlines()[0] if error else execution.last_line(log)
    tracking.end_run(run_id, "FAILED")
    tracking.set_tags(run_id, {"cxr.error": reason[:500]})
    tracking.log_file_as(run_id, log, "log.txt")
    raise StepFailed(step.key, reason)
