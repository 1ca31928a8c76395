"""A study: the grid as notebooks, each executed by papermill in a process of its own, as MLflow runs.

`plan` lays the grid out as steps, `command` is what one step runs, and `run` runs those that are not done yet.
A step is done when the experiment has a complete run with its fingerprint (`tracking.fingerprint`); so the same
command resumes what was interrupted, and a changed parameter runs again only what depends on it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import queue
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import yaml
from distributed.utils import CancelledError
from tqdm import tqdm

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError, first_line
from cxr.core.execution import ENVIRONMENT, PROGRESS, RUN_LINE
from cxr.core.files import atomic, from_here
from cxr.core.params import Params, StudyParams
from cxr.study import cluster, shared_files, worker
from cxr.study.grid import Step, command, plan, settings
from cxr.tracking import descriptions

if TYPE_CHECKING:
    import pandas as pd

    from cxr.data import checks

_ON_GPU = frozenset({"train", "attribute"})  # stages that use one, if there is one
_LOOK_SECONDS = 0.3
_STOPPED_SECONDS = 30.0  # for workers to end the runs of notebooks that were stopped
# A runner on another machine cannot be looked at: it gives a sign of life, and without one for long it is dead.
_SIGN_OF_LIFE_SECONDS = 60.0
_DEAD_SECONDS = 900.0  # longer than a runner waits for its store
_ALIVE = "cxr.alive"
_SCHEDULER_GONE = "the Dask scheduler is gone: what is done is kept; start one, and give the same command again"


@dataclass
class _Session:
    """What `run` knows while it runs."""

    study: StudyParams
    params_file: Path
    overrides: Mapping[str, Any]
    out: Path
    notebooks: Path
    environment: dict[str, str]
    fresh: bool
    manifest: pd.DataFrame | None = None
    manifest_hash: str = ""
    parent: str = ""
    recorded: dict[str, str] = field(default_factory=dict)  # of the steps when this study last ended
    runs: dict[str, str] = field(default_factory=dict)  # of the steps that are done
    failures: dict[str, str] = field(default_factory=dict)
    progress: dict[str, str] = field(default_factory=dict)  # the last progress line of each running step
    alive: float = 0.0  # when the last sign of life was given, by time.monotonic()


def default_out(study: StudyParams) -> Path:
    """Where executed notebooks, logs and the report go when nothing else is said."""
    return tracking.project() / "mlruns" / "studies" / study.name


def _environment(uri: str, notebooks: Path, jobs: int) -> dict[str, str]:
    """What the children's environment has besides this process'. The user's own number of threads is kept."""
    values = {"MLFLOW_TRACKING_URI": uri, **ENVIRONMENT}
    if notebooks != (tracking.project() / "notebooks").resolve():
        values["CXR_NOTEBOOKS"] = str(notebooks)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
            values[name] = os.environ.get(name, threads)
    return values


# ----------------------------------------------------------------------------------------------- dry run


def dry_run(
    study: StudyParams,
    params_file: str | Path,
    overrides: Mapping[str, Any],
    *,
    tracking_uri: str | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    notebooks: str | Path | None = None,
) -> None:
    """Print what `run` would do, as shell commands; nothing is created. Arguments and errors as for `run`.

    A step that is done stands there as a comment with its run's id. A command typed by hand makes its own run;
    `<key>` in it is to be replaced by the id of the run of that step.
    """
    session = _session(study, params_file, overrides, tracking_uri, out, fresh, jobs, notebooks)
    steps = _validated(session)
    uri = session.environment["MLFLOW_TRACKING_URI"]
    _read_manifest(session)
    if not tracking.is_new(uri):
        tracking.connect(uri)
        _find_done(session, steps)
    for name, value in session.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"mkdir -p {shlex.quote(from_here(session.out))}")
    for step in steps:
        if step.key in session.runs:
            print(f"# {step.key}: done already, run {session.runs[step.key]}")
        else:
            print(f"# {step.key}\n{shlex.join(_command(session, step))}")


# --------------------------------------------------------------------------------------------------- run


def run(
    study: StudyParams,
    params_file: str | Path,
    overrides: Mapping[str, Any],
    *,
    tracking_uri: str | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    notebooks: str | Path | None = None,
    scheduler: str = "local",
) -> int:
    """Run all steps of a study that are not done, and print how it goes and what came out.

    A step that fails leaves a FAILED run with its notebook; what depends on it is not run, the rest is. Ctrl-C (or
    SIGTERM) stops the notebooks, and their runs end as KILLED.

    Args:
        study: the validated study, `StudyParams.read(params_file, overrides)`.
        params_file: the YAML file, which the notebooks get too.
        overrides: of `--set`; laid over the file.
        tracking_uri: see `tracking.connect`.
        out: folder for executed notebooks, logs and the report; default `mlruns/studies/<name>`.
        fresh: run everything, done or not, under a new parent run.
        jobs: notebooks at once; default the study's.
        notebooks: their folder; default `tracking.notebooks_folder()`.
        scheduler: where they run, see `cluster.opened`.

    Returns:
        The exit code: 0, 1 if a step failed, 130 if interrupted.

    Raises:
        InputError: found wrong before the first notebook starts: a parameter, the data, weights, a layer, the
            store, the scheduler, a worker. Or the scheduler has gone.
    """
    cluster.check(scheduler)
    session = _session(study, params_file, overrides, tracking_uri, out, fresh, jobs, notebooks)
    steps = _validated(session)
    tracking.connect(session.environment["MLFLOW_TRACKING_URI"])
    _read_manifest(session)
    if earlier := tracking.count_earlier(study.name):
        runs = f"{earlier} run{'s' * (earlier > 1)}"
        _say(f"experiment {study.name}: {runs} of an earlier version of cxr, which this study does not use")
    try:
        return _run(session, steps, scheduler, study.jobs if jobs is None else jobs)
    except tracking.StoreGone as error:
        _say(f"stopped: {error}")
    except Exception as error:
        if not tracking.disk_full(error):
            raise
        reason = first_line(error)
        _say(f"stopped: the disk is full, that of {session.out} or of the store: {reason}")
        _say("What is done is kept: make room, and give the same command again.")
        with contextlib.suppress(Exception):  # on a full disk this may fail too; the next start puts it right
            _end_all(session)
    return 1


def _end_all(session: _Session, status: str = "FAILED") -> None:
    """End the runs of a study that stops half-way, its own last."""
    if session.parent:
        for child in tracking.find(experiment=session.study.name, parent=session.parent, complete=False):
            if child.status == "RUNNING":
                tracking.end_run(child.run_id, "KILLED")
        tracking.end_run(session.parent, status)


def _run(session: _Session, steps: list[Step], scheduler: str, jobs: int) -> int:
    """What `run` does after the first checks."""
    _stop_abandoned(session)
    _find_done(session, steps)
    waiting = [step for step in steps if step.key not in session.runs]
    _make_folder(session.out)
    done = len(session.runs)
    _say(
        f"study {session.study.name}: {len(steps)} notebooks, {done} done already, {len(waiting)} to run, "
        f"into {from_here(session.out)}"
    )
    code = 0
    with _claimed(session.out):
        _mend_notebooks(session, steps)
        if waiting:
            with cluster.opened(scheduler, jobs=jobs, devices=session.study.devices) as where:
                if not _run_waiting(session, steps, waiting, where):
                    return 130
            mixed = _of_other_code(session, steps)
            code = 1 if session.failures or mixed else 0
            tracking.log_text(json.dumps(session.runs, indent=1), "steps.json", run_id=session.parent)
            _note_mixed(session, mixed)
            _describe(session, steps)
            if not code:
                tracking.set_tags(session.parent, {"cxr.complete": "true"})
            tracking.end_run(session.parent, "FAILED" if code else "FINISHED")
        _print_results(session, steps)
    return code


def _run_waiting(session: _Session, steps: list[Step], waiting: list[Step], where: cluster.Cluster) -> bool:
    """Run the steps that are not done, after the last checks; False when interrupted."""
    shared = None if where.embedded else _shared(session, waiting)
    if shared is not None:
        cluster.check_workers(where, shared)
    report = None
    if any(step.stage in _ON_GPU for step in waiting):
        to_train = [step.parameters["architecture"] for step in waiting if step.stage == "train"]
        report = preflight(session.study, session.manifest, list(dict.fromkeys(to_train)))
    session.parent = _open_parent(session)
    _say(f"  {where.slots} at a time; dashboard: {where.dashboard}")
    if report is not None:
        from cxr.data import checks_page

        page = checks_page.write(report, session.out / "checks.html")
        tracking.log_file_as(session.parent, page, "checks.html")
    with processes.terminable():
        try:
            _run_all(session, waiting, where, shared, total=len(steps))
        except KeyboardInterrupt:
            _interrupted(session)
            return False
        except InputError:
            _end_all(session)
            raise
    return True


def _of_other_code(session: _Session, steps: list[Step]) -> list[str]:
    """Keys of the done steps whose runs are not what they would be with the code and weights as they are now."""
    done = [step for step in steps if step.key in session.runs]
    return [
        step.key
        for step in done
        if tracking.run_info(session.runs[step.key]).fingerprint != _fingerprint(session, step)
    ]


def _note_mixed(session: _Session, mixed: list[str]) -> None:
    """Say it, and tag it, where code or data changed while the study ran; else take away what was said before."""
    text = ", ".join(mixed)
    runs = [session.parent, *([session.runs["compare"]] if "compare" in session.runs else [])]
    for run_id in runs:
        if mixed or "cxr.mixed_code" in tracking.run_info(run_id).tags:
            tracking.set_tags(run_id, {"cxr.mixed_code": text[:5000]})
    if mixed:
        _say(
            f"CAUTION: the code, the data or the weights changed while the study ran. {len(mixed)} notebooks are "
            f"of another version than the rest, and do not belong into one report: {text}. Run the same command "
            "again: it runs those, and what depends on them, anew."
        )


def _mend_notebooks(session: _Session, steps: list[Step]) -> None:
    """Log the notebooks of done steps whose study was killed between the notebook's end and its logging."""
    for step in steps:
        run_id = session.runs.get(step.key)
        if run_id is None or "notebook.ipynb" in tracking.artifact_names(run_id):
            continue
        if not tracking.run_info(run_id).tags.get("mlflow.parentRunId"):
            continue  # run by hand, in Jupyter
        if _is_executed_by(session, step, run_id):
            tracking.log_file_as(run_id, session.out / f"{step.file}.ipynb", "notebook.ipynb")
        else:
            _say(f"  {step.name}: run {run_id} has whole results, but no notebook, as the study was killed")


def _is_executed_by(session: _Session, step: Step, run_id: str) -> bool:
    """Whether the step's notebook in the study's folder is that of this run, and whole."""
    return _run_of(session.out / f"{step.file}.log") == run_id and _executed(session.out / f"{step.file}.ipynb")


def _run_of(log: Path) -> str:
    """The run id in the first line of a step's log."""
    try:
        first = log.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return first.removeprefix(RUN_LINE) if first.startswith(RUN_LINE) else ""


def _executed(notebook: Path) -> bool:
    """Whether papermill wrote that notebook to its end."""
    try:
        record = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(record.get("end_time")) and not record.get("exception")


def preflight(study: StudyParams, manifest: pd.DataFrame, architectures: list[str]) -> checks.Report:
    """Find out what would fail later on, before training starts: data, unreadable images, weights, target layers.

    The networks of `architectures` are built in another process, as TensorFlow takes seconds and memory.

    Returns:
        What `cxr check` finds in the headers; its warnings are printed.

    Raises:
        InputError: the first thing that is wrong.
    """
    from cxr.data import checks, loading

    report = checks.run(study, manifest=manifest)
    if errors := report.of("error"):
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        named = f": {', '.join(map(repr, errors[0].files[:3]))}" if errors[0].files else ""
        named += ", ..." if len(errors[0].files) > 3 else ""
        raise InputError(f"data: {errors[0].text}{named}{more}. `cxr check PARAMS.yaml` shows all")
    for finding in report.of("warning"):
        _say(f"  {finding.check}: {finding.text}")
    loading.check_images(manifest, loading.data_root(study))
    if not architectures:
        return report
    common = {
        "weights": study.weights,
        "target": study.target_layer,
        "image_size": study.image_size,
        "n_classes": len(loading.classes(manifest)),
        "fine_tune_from": study.fine_tune_from,
    }
    wanted = json.dumps([{"architecture": name, **common} for name in architectures])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", _CHECK_MODELS, wanted],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode < 0:
        raise InputError(
            f"the models cannot be built: {worker.killed('the process that builds them', done.returncode)}"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(json.loads(last) if done.returncode == 2 else f"the models cannot be built: {last}")
    return report


_CHECK_MODELS = """
import json, sys
from cxr.core.errors import InputError
from cxr.models import description
try:
    for check in json.loads(sys.argv[1]):
        description.check(check.pop("architecture"), **check)
except InputError as error:
    print("\\n" + json.dumps(str(error)), file=sys.stderr)
    sys.exit(2)
"""


def export_report(notebook: str | Path, html: str | Path) -> None:
    """Write an executed notebook as a page for readers: no code, no prompts, images inside the file.

    Left out are cells tagged `hide`, what went to stderr, and progress lines.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    pages = copy.deepcopy(nbformat.read(str(notebook), as_version=4))
    for cell in pages.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_for_readers, cell.outputs) if output is not None]
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # "Alternative text is missing"
    config = Config()
    config.TagRemovePreprocessor.remove_cell_tags = {"hide"}
    config.TagRemovePreprocessor.enabled = True
    exporter = HTMLExporter(
        config=config,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        require_js_url="",  # a report opens without a network, and asks nobody for anything
        mathjax_url="",
    )
    body, _ = exporter.from_notebook_node(pages, resources={"metadata": {"path": str(Path(notebook).parent)}})
    with atomic(html) as temporary:
        temporary.write_text(body, encoding="utf-8")


def _for_readers(output: Any) -> Any:
    if "text/markdown" in output.get("data", {}):
        # Markdown lets HTML through, and names of paths and studies stand in it: none of ours has a tag.
        text = output.data["text/markdown"].replace("<", "&lt;")
        return type(output)({**output, "data": {**output.data, "text/markdown": text}})
    if output.output_type != "stream":
        return output
    lines = [line for line in output.text.splitlines(keepends=True) if not line.startswith(PROGRESS)]
    if output.name == "stderr" or not lines:
        return None
    return type(output)({**output, "text": "".join(lines)})


def _session(study, params_file, overrides, tracking_uri, out, fresh, jobs, notebooks) -> _Session:
    folder = Path(notebooks).resolve() if notebooks else tracking.notebooks_folder()
    jobs = cluster.embedded_slots(study.jobs if jobs is None else jobs, study.devices)
    return _Session(
        study=study,
        params_file=Path(params_file),
        overrides=overrides,
        out=Path(out) if out else default_out(study),
        notebooks=folder,
        environment=_environment(tracking.resolve(tracking_uri), folder, jobs),
        fresh=fresh,
    )


def _command(session: _Session, step: Step) -> list[str]:
    return command(
        step,
        params_file=session.params_file,
        overrides=session.overrides,
        out=session.out,
        notebooks=session.notebooks,
        runs=session.runs,
    )


def _settings(session: _Session, step: Step) -> Params:
    return settings(
        step,
        params_file=session.params_file,
        overrides=session.overrides,
        notebooks=session.notebooks,
        runs=session.runs,
    )


def _validated(session: _Session) -> list[Step]:
    """The plan, after a look at the parameters of every notebook."""
    steps = plan(session.study)
    for step in steps:
        ours = session.study.model_dump()
        values = _settings(session, step)
        theirs = values.model_dump()
        for name in theirs.keys() & ours.keys() - step.parameters.keys() - values.filters - {"data"}:
            if theirs[name] != ours[name]:
                raise InputError(
                    f"{step.notebook}.ipynb would run with {name} = {theirs[name]!r} where a study has "
                    f"{ours[name]!r}, as it is not in {session.params_file}: add it there"
                )
    return steps


def _read_manifest(session: _Session) -> pd.DataFrame:
    from cxr.data import loading

    session.manifest = loading.build_manifest(session.study)
    session.manifest_hash = loading.manifest_hash(session.manifest)
    return session.manifest


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"{path}: cannot write there ({error.strerror}): choose another folder with --out"
        ) from None


# ---------------------------------------------------------------------------------------- what is done


def _fingerprint(session: _Session, step: Step) -> str:
    inputs = worker.inputs(step, session.runs, session.manifest_hash)
    return tracking.fingerprint(step.stage, _settings(session, step), inputs, notebooks=session.notebooks)


def _done(session: _Session, step: Step, fingerprint: str) -> tracking.RunInfo | None:
    if session.fresh:
        return None
    return worker.done(
        step,
        session.study.name,
        fingerprint,
        recorded=session.recorded.get(step.key, ""),
        reported=lambda run_id: _is_executed_by(session, step, run_id),
    )


def _recorded(session: _Session) -> dict[str, str]:
    """Keys of steps to run ids, as this very study ended last; empty if it has not."""
    fingerprint = _study_fingerprint(session)
    ended = tracking.find("study", experiment=session.study.name, fingerprint=fingerprint)
    return json.loads(tracking.fetch(ended[0].run_id, "steps.json").read_text()) if ended else {}


def _find_done(session: _Session, steps: list[Step]) -> None:
    if not session.fresh:
        session.recorded = _recorded(session)
    for step in steps:
        if all(key in session.runs for key in step.needs):
            run = _done(session, step, _fingerprint(session, step))
            if run is not None:
                session.runs[step.key] = run.run_id


# ---------------------------------------------------------------------------------------- the parent run


def _open_parent(session: _Session) -> str:
    """The study's own run: the one of this name and these settings and images if there is one, or a new one."""
    fingerprint = _study_fingerprint(session)
    runner = {"cxr.runner": _runner(), _ALIVE: _now()}
    if not session.fresh:
        for run in tracking.find("study", experiment=session.study.name, fingerprint=fingerprint, complete=False):
            tracking.reopen_run(run.run_id)
            tracking.set_tags(run.run_id, runner)
            return run.run_id
    parent = tracking.create_run(
        experiment=session.study.name,
        name=descriptions.study_name(session.study.name, _now()[:10], _changed(session)[0]),
        tags={"cxr.stage": "study", "cxr.fingerprint": fingerprint, **runner, **tracking.git_tags()},
        params=session.study.model_dump(),
    )
    text = yaml.safe_dump(session.study.model_dump(mode="json"), sort_keys=False)
    tracking.log_text(text, "parameters.yaml", run_id=parent)
    return parent


def _study_fingerprint(session: _Session) -> str:
    values = session.study.model_dump(mode="json", exclude={"name", "data", "jobs"})
    return tracking.sha256(json.dumps([values, session.manifest_hash], sort_keys=True))


def _runner() -> str:
    return processes.identity(os.getpid())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stop_abandoned(session: _Session) -> None:
    """Refuse if this very study is being run; end what is left of it where its runner was killed."""
    fingerprint = _study_fingerprint(session)
    for run in tracking.find("study", experiment=session.study.name, fingerprint=fingerprint, complete=False):
        if run.status == "RUNNING":
            _check_abandoned(run, session.study.name)
            tracking.end_run(run.run_id, "KILLED")


def _check_abandoned(run: tracking.RunInfo, name: str) -> None:
    """A study that says it is running: refuse while its runner lives, else stop its notebooks and end their runs.

    A runner on another machine lives if its last sign of life is not older than `_DEAD_SECONDS`; the notebooks
    of a dead one cannot be reached from here.
    """
    advice = "wait for it, stop it, or choose another `name`"
    runner = run.tags.get("cxr.runner", "")
    host, _, pid = runner.rpartition(":")[0].rpartition(":")
    if host == socket.gethostname():
        if processes.lives(runner):
            raise InputError(f"the study '{name}' is being run already, by process {pid}: {advice}")
    else:
        silent = _seconds_since(run.tags.get(_ALIVE, ""))
        if silent < _DEAD_SECONDS:
            raise InputError(
                f"the study '{name}' is being run already, by process {pid} on {host} (last sign of life "
                f"{_duration(max(0.0, silent))} ago; it counts as dead after {_duration(_DEAD_SECONDS)}): {advice}"
            )
    children = tracking.find(experiment=name, parent=run.run_id, complete=False)
    left = [child for child in children if child.status == "RUNNING"]
    stopped = processes.stop_orphans({child.run_id: child.tags.get("cxr.process", "") for child in left})
    if stopped:
        _say(f"  an earlier run of this study was killed: stopped {stopped} processes that it had left")
    for child in left:
        if not tracking.run_info(child.run_id).complete:  # it may have ended just now
            tracking.end_run(child.run_id, "KILLED")


def _seconds_since(moment: str) -> float:
    """Seconds from an ISO time to now; infinite where there is none."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() if moment else float("inf")


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep other studies out of the folder, where they would write over each other's notebooks."""
    lock = out / shared_files.RUNNING
    with contextlib.suppress(FileNotFoundError):
        holder = lock.read_text(encoding="utf-8")
        pid = processes.lives(holder)
        if pid not in (0, os.getpid()):
            raise InputError(f"{out}: another study is writing there (process {pid}): choose another with --out")
    with atomic(lock) as temporary:
        temporary.write_text(_runner(), encoding="utf-8")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- running


def _shared(session: _Session, waiting: list[Step]) -> shared_files.Shared:
    """What workers elsewhere have to see."""
    return shared_files.used_by(
        session.study,
        runner=_runner(),
        tracking_uri=session.environment["MLFLOW_TRACKING_URI"],
        out=session.out,
        params_file=session.params_file,
        notebooks=[session.notebooks / f"{name}.ipynb" for name in sorted({step.notebook for step in waiting})],
        manifest=session.manifest,
    )


def _run_all(
    session: _Session,
    waiting: list[Step],
    where: cluster.Cluster,
    shared: shared_files.Shared | None,
    *,
    total: int,
) -> None:
    """Hand the steps to Dask, and follow what becomes of them; fills `session.runs` and `session.failures`.

    Args: shared: what workers elsewhere have to see; None for the embedded cluster.
    Raises: tracking.StoreGone, OSError for a full disk, InputError when the scheduler is gone or a new worker
        lacks something; nothing is left running.
    """
    running: dict[str, float] = {}  # keys of the steps that run, and when they began
    events: queue.SimpleQueue = queue.SimpleQueue()  # they come in Dask's own thread
    where.client.subscribe_topic(session.parent, lambda event: events.put(event[1]))
    waiting = list(waiting)
    futures = _submit(session, waiting, where, shared)
    bar = _bar(session.study.name, total, done=total - len(waiting))
    try:
        while waiting:
            ended = {step.key: step for step in waiting if futures[step.key].done()}
            told = [events.get() for _ in range(events.qsize())]
            for event in told:
                if event["key"] in ended:  # what began and ended since the last look is told in this order
                    _note_event(session, running, event)
            for step in ended.values():
                waiting.remove(step)
                began = running.pop(step.key, None)
                session.progress.pop(step.key, None)
                seconds = 0.0 if began is None else time.monotonic() - began
                said = _end(session, step, futures[step.key])
                _report_end(session, step, said, seconds, total)
                bar.update()
            for event in told:
                if event["key"] not in ended:
                    _note_event(session, running, event)
            if where.lost and waiting:
                raise InputError(_SCHEDULER_GONE)
            _show_running(session, bar, [step for step in waiting if step.key in running])
            if time.monotonic() - session.alive > _SIGN_OF_LIFE_SECONDS:
                tracking.set_tags(session.parent, {_ALIVE: _now()})
                session.alive = time.monotonic()
            if not ended:
                time.sleep(_LOOK_SECONDS)
    except BaseException:  # Ctrl-C, a full disk, a store that is gone: nothing is left running
        where.stop()
        with contextlib.suppress(TimeoutError):  # for the workers to say in the store how their runs ended
            distributed.wait([futures[step.key] for step in waiting if step.key in running], _STOPPED_SECONDS)
        raise
    finally:
        bar.close()
        where.client.unsubscribe_topic(session.parent)


def _submit(
    session: _Session, waiting: list[Step], where: cluster.Cluster, shared: shared_files.Shared | None
) -> dict[str, distributed.Future]:
    """One task a step, by its key; whoever needs another gets what that returns."""
    futures: dict[str, distributed.Future] = {}
    overrides, environment = session.overrides, session.environment
    if shared is not None:
        overrides = {**overrides, **shared_files.absolute(session.study)}
        environment = {"CXR_NOTEBOOKS": str(session.notebooks)}
    attempt = f"{session.parent[:8]}.{time.time_ns():x}"  # a task's key is never used twice
    for rank, step in enumerate(waiting):
        job = worker.Job(
            step=step,
            study=session.study.name,
            parent=session.parent,
            tracking_uri=session.environment["MLFLOW_TRACKING_URI"],
            shared=shared,
            fingerprint="" if step.needs else _fingerprint(session, step),
            recorded=session.recorded.get(step.key, ""),
            fresh=session.fresh,
            params_file=session.params_file.absolute(),
            notebooks=session.notebooks,
            out=session.out.absolute(),
            overrides=overrides,
            environment=environment,
            manifest_hash=session.manifest_hash,
        )
        needs = {
            key: futures[key] if key in futures else worker.Done(session.runs[key], 0.0, again=True)
            for key in step.needs
        }
        futures[step.key] = where.client.submit(
            worker.perform,
            job,
            needs,
            key=f"{step.key}@{attempt}",
            pure=False,
            priority=-rank,  # one cell of the grid after the other
            resources={"GPU": 1} if where.hands_out_gpus and step.stage in _ON_GPU else None,
        )
    return futures


def _note_event(session: _Session, running: dict[str, float], event: Mapping[str, Any]) -> None:
    """What a worker says of a step."""
    key = event["key"]
    if "progress" in event:
        session.progress[key] = event["progress"]
        return
    where = "" if event["host"] == socket.gethostname() else f" on {event['host']}"
    name = key.replace("/", " ")
    if event.get("again"):
        _say(f"  {name}: its worker was lost; goes on{where or ' here'}")
    else:
        _say(f"  {name}: started{where}")
    running[key] = time.monotonic()


def _end(session: _Session, step: Step, future: distributed.Future) -> str:
    """Note whether the step is done or has failed; returns "done", "again", "failed" or "not run"."""
    try:
        done: worker.Done = future.result()
    except worker.StepFailed as failure:
        if failure.key != step.key:  # Dask hands on the failure of what it needs
            lacking = next(key for key in step.needs if key in session.failures)
            session.failures[step.key] = f"not run: needs {lacking}"
            return "not run"
        session.failures[step.key] = failure.reason
        return "failed"
    except distributed.KilledWorker:
        session.failures[step.key] = (
            "its worker was lost, again and again, each time with this notebook: it may need more memory than "
            "there is"
        )
        return "failed"
    except CancelledError:
        raise InputError(_SCHEDULER_GONE) from None
    session.runs[step.key] = done.run_id
    if done.changed:
        _say(f"  {step.name}: the code or the settings changed after the study had started")
    return "again" if done.again else "done"


def _interrupted(session: _Session) -> None:
    _end_all(session, "KILLED")
    _say(
        f"interrupted: {len(session.runs)} notebooks are done and kept, the one(s) that ran ended as KILLED. "
        "The same command goes on from here."
    )


# ---------------------------------------------------------------------------------------- what is said


def _say(text: str) -> None:
    tqdm.write(text)  # above the bar, where there is one
    sys.stdout.flush()


def _bar(name: str, total: int, *, done: int) -> tqdm:
    """On a terminal, a bar over a study's notebooks; elsewhere none, as lines say what has ended."""
    return tqdm(
        desc=name,
        total=total,
        initial=done,
        unit="notebook",
        file=sys.stdout,
        disable=None,
        leave=False,
        dynamic_ncols=True,
        smoothing=0,
    )


def _show_running(session: _Session, bar: tqdm, running: list[Step]) -> None:
    """Say behind the bar what the running notebooks last said."""
    said = [f"{step.name} {session.progress.get(step.key, '')}".strip() for step in running]
    bar.set_postfix_str(" | ".join(said))


def _report_end(session: _Session, step: Step, what: str, seconds: float, total: int) -> None:
    if what == "failed":
        files = f" (see {from_here(session.out / step.file)}.ipynb and .log)"
        said = f"FAILED after {_duration(seconds)}: {session.failures[step.key]}{files}"
    elif what == "not run":
        said = session.failures[step.key]
    elif what == "again":
        said = f"done already, run {session.runs[step.key]}"
    else:
        said = f"done in {_duration(seconds)}"
    _say(f"{_count(session, total)} {step.name}: {said}")


def _count(session: _Session, total: int) -> str:
    return f"[{len(session.runs) + len(session.failures)}/{total}]"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print_results(session: _Session, steps: list[Step]) -> None:
    """What came out, where the report is, and what failed."""
    in_order = {step.key: session.runs[step.key] for step in steps if step.key in session.runs}
    table = results(in_order)
    if table is not None:
        from cxr.core import tables

        _say("\n" + tables.text(tables.readable(table)))
    if "compare" in session.runs:
        _say(f"\nreport: {from_here(_fetch_report(session))}")
    uri = session.environment["MLFLOW_TRACKING_URI"]
    _say(f"runs:   {tracking.ui_command(uri)}  (experiment '{session.study.name}')")
    if session.failures:
        _say(f"\n{len(session.failures)} of {len(steps)} notebooks failed or were not run:")
        for key, reason in session.failures.items():
            _say(f"  {key}: {reason}")
        _say("Mend the cause and run the same command: what is done is not done again.")


def _describe(session: _Session, steps: list[Step]) -> None:
    """Give the study's run and the experiment their descriptions, and the experiment its views."""
    name, data = session.study.name, session.study.data
    experiment = tracking.experiment_id(name)
    done = {step.key: session.runs[step.key] for step in steps if step.key in session.runs}
    numbers, claims, compare = results(done), None, done.get("compare", "")
    held = tracking.artifact_names(compare) if compare else []
    if numbers is not None:
        from cxr.core import tables

        numbers = tables.readable(numbers)
    if "claims.csv" in held:
        claims = tracking.read_table(compare, "claims.csv")
    changed, before = _changed(session)
    text = descriptions.study(
        name,
        data=data,
        headline=numbers,
        claims=claims,
        runs=[(step.name, done[step.key]) for step in steps if step.key in done],
        experiment_id=experiment,
        report_run=compare,
        figure_run=compare if descriptions.FIGURE in held else "",
        failures=session.failures,
        differs=descriptions.differs(changed, before),
    )
    tracking.describe_run(session.parent, text)
    last = tracking.link(session.parent)
    text = descriptions.experiment(experiment, data=data, headline=numbers, last=last)
    from cxr.data.loading import classes

    tracking.describe_experiment(name, text, methods=session.study.method, classes=classes(session.manifest))


def _changed(session: _Session) -> tuple[dict[str, tuple[str, str]], str]:
    """Settings that differ from those of the study run of this name before this one, and a link to that."""
    runs = tracking.find("study", experiment=session.study.name, complete=False)
    runs = [run for run in runs if run.fingerprint != _study_fingerprint(session)]
    if not runs:
        return {}, ""
    settings = {key: tracking.param_value(value) for key, value in session.study.model_dump().items()}
    return descriptions.difference(settings, runs[0].params), tracking.link(runs[0].run_id)


def _fetch_report(session: _Session) -> Path:
    """The compare run's report as a file; made of its notebook if that was run by hand."""
    run_id, html = session.runs["compare"], session.out / "report.html"
    if "report.html" in tracking.artifact_names(run_id):
        with atomic(html) as temporary:
            shutil.copyfile(tracking.fetch(run_id, "report.html"), temporary)
    else:
        export_report(tracking.fetch(run_id, "notebook.ipynb"), html)
        tracking.log_file_as(run_id, html, "report.html")
    return html


def results(runs: Mapping[str, str]) -> pd.DataFrame | None:
    """The study's table: the compare run's `summary.csv`, or one row a score run; None if there is neither.

    Args:
        runs: keys of steps (see `plan`) to run ids.

    Returns: columns `architecture`, `method`, `seeds` or `seed`, and the metrics that score runs carry
        (`auc_macro_before`, `overlap_median`, ...).
    """
    import pandas as pd

    from cxr.report import comparison

    if "compare" in runs and "summary.csv" in tracking.artifact_names(runs["compare"]):
        return tracking.read_table(runs["compare"], "summary.csv")
    rows = []
    for key, run_id in runs.items():
        stage, *cell = key.split("/")
        if stage == "score":
            metrics = tracking.run_info(run_id).metrics
            names = [name for name in comparison.HEADLINE if name not in comparison.OF_SEVERAL_RUNS]
            values = {name: metrics.get(name) for name in names}
            rows.append({"architecture": cell[0], "method": cell[2], "seed": cell[1].removeprefix("s"), **values})
    return pd.DataFrame(rows) if rows else None
