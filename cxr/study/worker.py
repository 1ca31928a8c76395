"""One step of a study, as a Dask worker does it: its notebook in a process of its own, logged as an MLflow run.

A task (`Job`) tells where things are: a worker sees the study's files under the same paths, has this package in
the same version, and reaches the store. It looks for them before its first task of a study (`shared_files`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from cxr import tracking
from cxr.core import arrays, execution, processes
from cxr.core.errors import InputError, first_line
from cxr.study import shared_files
from cxr.study.grid import Step, command, settings
from cxr.study.shared_files import Shared

# Two kernels that start at once can pick the same TCP port.
_STAGGER_SECONDS = 2.0
_PLUGIN = "cxr"


@dataclass(frozen=True)
class Job:
    """A step, and all that a worker has to know of its study.

    Attributes:
        step: which notebook, for which cell of the grid.
        study: the MLflow experiment.
        parent: the study's own run; also the topic of Dask's events, on which is told how it goes.
        tracking_uri: of the store.
        shared: what a worker elsewhere has to see; None for a worker that is a thread of the sender.
        fingerprint: that the step will have; "" where it depends on runs that are not there yet.
        recorded: the run of the step when this study last ended, preferred among runs with equal
            fingerprints; "" for none.
        fresh: whether runs of other studies count as done.
        params_file, notebooks, out: the study's file, the folder of the notebooks, and the folder that the
            executed notebook and its log go to.
        overrides: laid over the file.
        environment: of the notebook's process, besides the worker's own.
        manifest_hash: of the study's images.
    """

    step: Step
    study: str
    parent: str
    tracking_uri: str
    shared: Shared | None
    fingerprint: str
    recorded: str
    fresh: bool
    params_file: Path
    notebooks: Path
    out: Path
    overrides: Mapping[str, Any]
    environment: Mapping[str, str]
    manifest_hash: str


@dataclass(frozen=True)
class Done:
    """A step that has its run. `again` when it was there already; `seconds` is then what it took at the time."""

    run_id: str
    seconds: float
    again: bool = False
    changed: bool = False  # code or settings, between the study's start and the notebook's


class StepFailed(Exception):
    """A step has no run. Its arguments: the step's key, why (one line), the run that failed ("" for none)."""

    @property
    def key(self) -> str:
        return self.args[0]

    @property
    def reason(self) -> str:
        return self.args[1]

    @property
    def run_id(self) -> str:
        return self.args[2]


class Notebooks(WorkerPlugin):
    """What a worker is executing; it stops with the worker, and when nobody waits for it any more."""

    name = _PLUGIN

    def setup(self, worker: Worker) -> None:
        self.running: dict[str, subprocess.Popen] = {}  # by the task's key
        self.stopped: set[str] = set()
        self.stores: dict[str, int] = {}
        self.checked: set[str] = set()  # runners whose files this worker sees
        self.lock = threading.Lock()

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        if start == "executing" and finish == "released":  # its study was stopped, or has died
            threading.Thread(target=self.stop, args=([key],)).start()

    def teardown(self, worker: Worker) -> None:
        self.stop()

    def stop(self, keys: list[str] | None = None) -> None:
        """Stop the notebooks of these tasks (None: of all): politely, so that they are saved; then for good."""
        import psutil

        papermills, families = [], []
        for key, process in list(self.running.items()):
            if keys is not None and key not in keys:
                continue
            self.stopped.add(key)
            with contextlib.suppress(psutil.NoSuchProcess):
                families += psutil.Process(process.pid).children(recursive=True)
                if process.poll() is None:
                    papermills.append(psutil.Process(process.pid))
        processes.stop(papermills, [*papermills, *families])

    @contextlib.contextmanager
    def using(self, uri: str) -> Iterator[None]:
        """MLflow knows one store a process: studies with different ones take turns."""
        with self.lock:
            others = [other for other, count in self.stores.items() if count and other != uri]
            if others:
                raise InputError(f"this worker is busy with the store {others[0]}: use other workers, or wait")
            if os.environ.get("MLFLOW_TRACKING_URI") != uri:
                tracking.connect(uri)
            self.stores[uri] = self.stores.get(uri, 0) + 1
        try:
            yield
        finally:
            with self.lock:
                self.stores[uri] -= 1

    def trouble(self, shared: Shared) -> str:
        """What keeps this worker from working for a study; empty for nothing. It looks once for each runner."""
        if shared.runner in self.checked:
            return ""
        if found := shared_files.trouble(shared):
            return found
        try:
            with self.using(shared.tracking_uri):
                self.checked.add(shared.runner)
        except InputError as error:
            return f"in its environment: {error}"
        return ""


def stop_all(dask_worker: Worker) -> None:
    """Stop all notebooks of a worker (for `distributed.Client.run`)."""
    dask_worker.plugins[_PLUGIN].stop()


def trouble(shared: Shared, dask_worker: Worker) -> str:
    """`Notebooks.trouble` of a worker (for `distributed.Client.run`)."""
    return dask_worker.plugins[_PLUGIN].trouble(shared)


def perform(job: Job, needs: Mapping[str, Done]) -> Done:
    """Execute a step's notebook, unless there is such a run already; on a worker that has the plugin `Notebooks`.

    Args: needs: of the steps that it needs, by key.
    Raises:
        InputError: the worker, which has joined after the study had begun, lacks something.
        StepFailed: the notebook failed, was stopped, or could not be started; its run, if any, has ended.
        tracking.StoreGone, OSError: the store is gone, or a disk is full: nothing else will work either.
    """
    plugin: Notebooks = get_worker().plugins[_PLUGIN]
    key = get_worker().get_current_task()
    if job.shared is not None and (lacks := plugin.trouble(job.shared)):
        raise InputError(f"the worker {get_worker().address}: {lacks}")
    with _failing(job), plugin.using(job.tracking_uri):
        runs = {name: done.run_id for name, done in needs.items()}
        fingerprint = _fingerprint(job, runs)
        found = done(
            job.step,
            job.study,
            fingerprint,
            recorded=job.recorded,
            parent=job.parent if job.fresh else None,
        )
        if found is not None:
            return Done(found.run_id, (found.end - found.start).total_seconds(), again=True)
        run_id = _open(job, fingerprint)
        began = time.monotonic()
        code = _execute(job, run_id, runs, plugin, key)
        return _end(job, run_id, code, time.monotonic() - began, stopped=key in plugin.stopped)


def done(
    step: Step,
    study: str,
    fingerprint: str,
    *,
    recorded: str = "",
    parent: str | None = None,
    reported: Callable[[str], bool] = lambda run_id: False,
) -> tracking.RunInfo | None:
    """The complete run with the results that a step would give, or None.

    Of runs with equal fingerprints it is the one `recorded`: a newer one, run by hand, would ask for all the rest
    anew. A compare run counts once it has its report, or the notebook that the report is made of.
    Args: parent: consider its children only. reported: of a compare run's id, whether that notebook is elsewhere.
    """
    found = tracking.find(step.stage, experiment=study, fingerprint=fingerprint, parent=parent)
    if step.stage == "compare":
        found = [run for run in found if has_report(run.run_id) or reported(run.run_id)]
    return next((run for run in found if run.run_id == recorded), found[0] if found else None)


def has_report(run_id: str) -> bool:
    """Whether a compare run has its report, or the notebook that it is made of."""
    return bool({"report.html", "notebook.ipynb"} & set(tracking.artifact_names(run_id)))


def inputs(step: Step, runs: Mapping[str, str], manifest_hash: str) -> dict[str, str]:
    """The inputs of a step, with the runs of those that it needs, as `tracking.fingerprint` takes them."""
    if step.needs:
        return tracking.upstream(*(runs[key] for key in step.needs))
    return {"manifest": manifest_hash}


@contextlib.contextmanager
def _failing(job: Job) -> Iterator[None]:
    """What goes wrong with one step as StepFailed; what will go wrong with all passes through."""
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
        raise StepFailed(job.step.key, f"{what} (on {socket.gethostname()})" if elsewhere else what, "") from None


def _fingerprint(job: Job, runs: Mapping[str, str]) -> str:
    values = settings(
        job.step, params_file=job.params_file, overrides=job.overrides, notebooks=job.notebooks, runs=runs
    )
    found = tracking.fingerprint(
        job.step.stage, values, inputs(job.step, runs, job.manifest_hash), notebooks=job.notebooks
    )
    if job.shared is not None and job.fingerprint not in ("", found):
        raise InputError(
            "the code, a notebook or the weights (those of your own in the cache too) differ from those where the "
            "study runs: have the same here"
        )
    return found


def _open(job: Job, fingerprint: str) -> str:
    """The run of a step: that of a worker which was lost half-way, or a new one. Returns its id."""
    step, host = job.step, socket.gethostname()
    known = {"experiment": job.study, "fingerprint": fingerprint, "parent": job.parent}
    lost = [run for run in tracking.find(step.stage, **known, complete=False) if run.status == "RUNNING"]
    if lost:
        processes.stop_orphans({run.run_id: run.tags.get("cxr.process", "") for run in lost})
        tracking.set_tags(lost[0].run_id, {"cxr.resumed_on": host})
        _tell(job, began=lost[0].run_id, again=True)
        return lost[0].run_id
    run_id = tracking.create_run(
        experiment=job.study,
        name=step.name,
        parent=job.parent,
        tags={"cxr.stage": step.stage, "cxr.fingerprint": fingerprint},
        params=step.parameters,
    )
    _tell(job, began=run_id)
    return run_id


def _execute(job: Job, run_id: str, runs: Mapping[str, str], plugin: Notebooks, key: str) -> int:
    """Run papermill with its output in the step's log. Returns its exit code."""
    import psutil

    step = job.step
    own = processes.identity(os.getpid())
    environment = {
        **_threads(job),
        **job.environment,
        "MLFLOW_TRACKING_URI": job.tracking_uri,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_EXPERIMENT_NAME": job.study,
        "CXR_WORKER": own,
    }
    if gpus := gpus_of(get_worker()):
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    words = command(
        step,
        params_file=job.params_file,
        overrides=job.overrides,
        out=job.out,
        notebooks=job.notebooks,
        runs=runs,
    )
    (job.out / f"{step.file}.ipynb").unlink(missing_ok=True)  # an older run's is not this one's
    # in a folder that other users of this machine cannot write to, and hence not lock
    own_folder = Path(tempfile.gettempdir()) / f"cxr-{os.getuid() if os.name == 'posix' else 0}"
    own_folder.mkdir(mode=0o700, exist_ok=True)
    waits = f"{execution.PROGRESS}waiting for another notebook to start ({own_folder / 'start.lock'})"
    with (job.out / f"{step.file}.log").open("w", encoding="utf-8") as log:
        log.write(f"{execution.RUN_LINE}{run_id}\n")  # by which the study knows whose they are
        log.flush()
        with arrays.locked(own_folder / "start.lock", lambda: _tell(job, progress=waits)):
            if key in plugin.stopped:
                return -2
            process = execution.start(words, environment)
            plugin.running[key] = process
            with contextlib.suppress(psutil.NoSuchProcess):
                tracking.set_tags(run_id, {"cxr.process": processes.identity(process.pid)})
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STAGGER_SECONDS)
        with process:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(execution.PROGRESS):
                    _tell(job, progress=line.strip())
    plugin.running.pop(key, None)
    return process.returncode


def _threads(job: Job) -> dict[str, str]:
    """Shares of the machine's cores, where a worker executes several notebooks; the user's own number is kept."""
    at_once = get_worker().state.nthreads
    if job.shared is None or at_once == 1:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // at_once))
    return {name: os.environ.get(name, share) for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")}


def gpus_of(worker: Worker) -> str:
    """The GPUs that an embedded worker has to itself, from its name ("GPU 0", "GPU 0,1"); else empty."""
    name = str(worker.name)
    return name.removeprefix("GPU ") if name.startswith("GPU ") else ""


def _end(job: Job, run_id: str, code: int, seconds: float, *, stopped: bool) -> Done:
    """Give the run its notebook; raise StepFailed unless the run is complete."""
    step = job.step
    notebook, log = (job.out / f"{step.file}.{suffix}" for suffix in ("ipynb", "log"))
    if notebook.is_file():
        tracking.log_file_as(run_id, notebook, "notebook.ipynb")
    run = tracking.run_info(run_id)
    if code == 0 and run.complete:
        return Done(run_id, seconds, changed="cxr.fingerprint.planned" in run.tags)
    if stopped:
        if not run.complete:
            tracking.end_run(run_id, "KILLED")
        raise StepFailed(step.key, "stopped", run_id)
    if code == 0:
        reason = "the notebook ended without `tracking.finish()`"
    elif code < 0:
        reason = killed("papermill", code)
    else:
        error = execution.error_of(notebook)
        reason = ": ".join(error).strip().splitlines()[0] if error else execution.last_line(log)
    tracking.end_run(run_id, "FAILED")
    tracking.set_tags(run_id, {"cxr.error": reason[:500]})
    tracking.log_file_as(run_id, log, "log.txt")
    raise StepFailed(step.key, reason, run_id)


def killed(what: str, code: int) -> str:
    """What a negative exit code of a child says."""
    return f"{what} was killed (signal {-code}); the system does that when memory is short"


def _tell(job: Job, **what: Any) -> None:
    """An event for the study: {"key", "host"} and `progress`, or `began` (a run id) and perhaps `again`."""
    get_worker().log_event(job.parent, {"key": job.step.key, "host": socket.gethostname(), **what})
