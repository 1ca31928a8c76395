"""A study: the grid as notebooks, each executed by papermill in a process of its own, as MLflow runs.

`plan` lays the grid out as steps, `command` is what one step runs, and `run` runs those that are not done yet.
A step is done when the experiment has a complete run with its fingerprint (`tracking.fingerprint`); so the same
command resumes what was interrupted, and a changed parameter runs again only what depends on it.
"""

from __future__ import annotations

import ast
import concurrent.futures
import contextlib
import copy
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr import descriptions, tracking
from cxr.errors import InputError
from cxr.files import atomic
from cxr.params import NOTEBOOKS, Params, StudyParams, read_yaml

if TYPE_CHECKING:
    import pandas as pd
    import psutil

    from cxr import checks

# Two kernels that start at once can pick the same TCP port.
_STAGGER_SECONDS = 2.0
# How long one notebook of a stage takes, roughly, in units of any other; until one of the stage has been seen.
_USUAL_SECONDS = {"train": 100.0, "attribute": 15.0, "score": 10.0, "compare": 10.0}
_PROGRESS = "» "  # how a progress line of a notebook starts
_RUN_LINE = "run "  # how the first line of a step's log starts
_PATIENCE_SECONDS = 15.0  # for papermill to stop its kernel before both are killed
# A runner on another machine cannot be looked at: it gives a sign of life, and without one for long it is dead.
_SIGN_OF_LIFE_SECONDS = 60.0
_DEAD_SECONDS = 900.0  # longer than a runner waits for its store
_LOCK = ".running"
_ALIVE = "cxr.alive"


@dataclass(frozen=True)
class Step:
    """One notebook to execute.

    Attributes:
        key: unique, such as "score/CompactDenseNet/s0/layercam".
        stage: a key of `tracking.STAGES`.
        parameters: what the step lays over the parameter file, besides run ids: its box of the grid.
        needs: keys of the steps whose runs it reads.
    """

    key: str
    stage: str
    parameters: Mapping[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def notebook(self) -> str:
        return tracking.STAGES[self.stage]

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.key.replace("/", " ")

    @property
    def file(self) -> str:
        """The name of its executed notebook and log, without suffix."""
        return self.key.replace("/", "-")


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
    manifest_hash: str = ""
    classes: tuple[str, ...] = ()
    parent: str = ""
    recorded: dict[str, str] = field(default_factory=dict)  # of the steps when this study last ended
    runs: dict[str, str] = field(default_factory=dict)  # of the steps that are done
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # per stage
    progress: dict[str, str] = field(default_factory=dict)  # the last progress line of each running step
    alive: float = 0.0  # when the last sign of life was given, by time.monotonic()
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    starting: threading.Lock = field(default_factory=threading.Lock)


# ----------------------------------------------------------------------------------------------- planning


def plan(study: StudyParams) -> list[Step]:
    """The steps of a study, each after those that it needs; one cell of the grid after the other."""
    steps: list[Step] = []
    scores: list[str] = []
    for architecture in study.architecture:
        for seed in study.seed:
            cell = f"{architecture}/s{seed}"
            train = Step(f"train/{cell}", "train", {"architecture": architecture, "seed": seed})
            attribute = Step(f"attribute/{cell}", "attribute", {}, (train.key,))
            steps += [train, attribute]
            for method in study.method:
                scores.append(f"score/{cell}/{method}")
                steps.append(Step(scores[-1], "score", {"method": method}, (attribute.key,)))
    steps.append(Step("compare", "compare", {}, tuple(scores)))
    return steps


def handed_over(step: Step, runs: Mapping[str, str]) -> dict[str, Any]:
    """The run ids that a step gets; `<key>` in place of one that is not in `runs`."""
    ids = [runs.get(key, f"<{key}>") for key in step.needs]
    if step.stage == "attribute":
        return {"train_run_id": ids[0]}
    if step.stage == "score":
        return {"attribute_run_id": ids[0]}
    return {"score_run_ids": ids} if step.stage == "compare" else {}


def command(
    step: Step,
    *,
    params_file: str | Path,
    overrides: Mapping[str, Any],
    out: str | Path,
    notebooks: Path,
    runs: Mapping[str, str],
) -> list[str]:
    """The papermill command of a step, as `run` runs it and `dry_run` prints it.

    `runs` maps keys of steps to their run ids; those that are missing stand as `<key>`.
    """
    words = [
        *_papermill(),
        _from_here(notebooks / f"{step.notebook}.ipynb"),
        _from_here(Path(out) / f"{step.file}.ipynb"),
        *("-k", "python3", "--log-output", "--no-progress-bar"),
        *("-f", str(params_file)),
    ]
    ids = handed_over(step, runs)
    lists = {**overrides, **{key: value for key, value in ids.items() if isinstance(value, list)}}
    if lists:
        words += ["-y", json.dumps(lists)]  # JSON is YAML
    for key, value in step.parameters.items():
        words += ["-p", key, str(value)]
    for key, value in ids.items():
        if isinstance(value, str):
            words += ["-r", key, value]  # as it is: papermill's -p reads 123e4567… as a number
    return words


def settings(
    step: Step, *, params_file: Path, overrides: Mapping[str, Any], notebooks: Path, runs: Mapping[str, str]
) -> Params:
    """The validated parameters that the step's notebook will have: its own, the file's, the step's.

    Raises:
        InputError: a value does not fit, or the notebook does not have a parameter that it is given, which
            papermill only warns of.
    """
    path = notebooks / f"{step.notebook}.ipynb"
    own = notebook_parameters(path)
    model = NOTEBOOKS[step.notebook]
    unknown = [name for name in own if name not in model.model_fields]
    if unknown:
        raise InputError(f"{path}: its parameters cell sets {', '.join(unknown)}, which is no parameter of it")
    given = {**read_yaml(params_file), **overrides, **step.parameters, **handed_over(step, runs)}
    missing = [name for name in given if name in model.model_fields and name not in own]
    if missing:
        raise InputError(
            f"{path}: its parameters cell (tagged 'parameters') lacks {', '.join(missing)}: add each there, "
            "with its default"
        )
    return model.check({**own, **given}, where=f"{params_file} ({step.key})")


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and values of a notebook's cell tagged `parameters`. Raises InputError if it has none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise InputError(f"{path}: cannot read the notebook ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a Jupyter notebook (format 4)") from None
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise InputError(f"{path}: no cell is tagged 'parameters'")
    values = {}
    try:
        for statement in ast.parse("".join(tagged[0]["source"])).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                values[statement.target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, TypeError):
        raise InputError(f"{path}: the parameters cell may hold only `name = literal` lines") from None
    return values


def default_out(study: StudyParams) -> Path:
    """Where executed notebooks, logs and the report go when nothing else is said."""
    return tracking.project() / "mlruns" / "studies" / study.name


def _from_here(path: Path) -> str:
    """The path as a person in this folder, which is the notebooks' own too, would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _papermill() -> list[str]:
    beside = Path(sys.executable).parent
    found = shutil.which("papermill")
    if found and Path(found).parent.samefile(beside):
        return ["papermill"]
    return [sys.executable, "-m", "papermill"]  # the environment is not activated


def _environment(uri: str, notebooks: Path, jobs: int) -> dict[str, str]:
    """What the children's environment has besides this process'. The user's own number of threads is kept."""
    values = {"MLFLOW_TRACKING_URI": uri, "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if notebooks != (tracking.project() / "notebooks").resolve():
        values["CXR_NOTEBOOKS"] = str(notebooks)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
            values[name] = os.environ.get(name, threads)
    return values


def _jobs(wanted: int) -> int:
    return wanted or max(1, (os.cpu_count() or 1) // 2)


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
    print(f"mkdir -p {shlex.quote(_from_here(session.out))}")
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

    Returns:
        The exit code: 0, 1 if a step failed, 130 if interrupted.

    Raises:
        InputError: found wrong before the first notebook starts: a parameter, the data, weights, a layer, the
            store.
    """
    session = _session(study, params_file, overrides, tracking_uri, out, fresh, jobs, notebooks)
    jobs = _jobs(study.jobs if jobs is None else jobs)
    steps = _validated(session)
    tracking.connect(session.environment["MLFLOW_TRACKING_URI"])
    manifest = _read_manifest(session)
    try:
        return _run(session, steps, manifest, jobs)
    except tracking.StoreGone as error:
        _say(f"stopped: {error}")
    except Exception as error:
        if not tracking.disk_full(error):
            raise
        reason = str(error).splitlines()[0][:300]
        _say(f"stopped: the disk is full, that of {session.out} or of the store: {reason}")
        _say("What is done is kept: make room, and give the same command again.")
        with contextlib.suppress(Exception):  # on a full disk this may fail too; the next start puts it right
            _end_all(session)
    return 1


def _end_all(session: _Session) -> None:
    """End the runs of a study that stops half-way, its own last."""
    if session.parent:
        for child in tracking.find(experiment=session.study.name, parent=session.parent, complete=False):
            if child.status == "RUNNING":
                tracking.end_run(child.run_id, "KILLED")
        tracking.end_run(session.parent, "FAILED")


def _run(session: _Session, steps: list[Step], manifest: pd.DataFrame, jobs: int) -> int:
    """What `run` does after the first checks."""
    study = session.study
    _stop_abandoned(session)
    _find_done(session, steps)
    waiting = [step for step in steps if step.key not in session.runs]
    report = None
    if any(step.stage in ("train", "attribute") for step in waiting):
        to_train = [step.parameters["architecture"] for step in waiting if step.stage == "train"]
        report = preflight(study, manifest, list(dict.fromkeys(to_train)))
    _make_folder(session.out)
    done = len(session.runs)
    _say(
        f"study {study.name}: {len(steps)} notebooks, {done} done already, {len(waiting)} to run, "
        f"{jobs} at a time, into {_from_here(session.out)}"
    )
    code = 0
    with _claimed(session.out):
        _mend_notebooks(session, steps)
        if waiting:
            session.parent = _open_parent(session)
            if report is not None:
                from cxr import checks_page

                page = checks_page.write(report, session.out / "checks.html")
                tracking.log_file_as(session.parent, page, "checks.html")
            with _terminable():
                try:
                    _run_all(session, waiting, total=len(steps), jobs=jobs)
                except KeyboardInterrupt:
                    _interrupted(session)
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
        if run_id is None or "notebook.ipynb" in tracking.artifacts(run_id):
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
    return first.removeprefix(_RUN_LINE) if first.startswith(_RUN_LINE) else ""


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
    from cxr import checks, data

    report = checks.run(study, manifest=manifest)
    if errors := report.of("error"):
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        named = f": {', '.join(map(repr, errors[0].files[:3]))}" if errors[0].files else ""
        named += ", ..." if len(errors[0].files) > 3 else ""
        raise InputError(f"data: {errors[0].text}{named}{more}. `cxr check PARAMS.yaml` shows all")
    for finding in report.of("warning"):
        _say(f"  {finding.check}: {finding.text}")
    data.check_images(manifest, data.data_root(study))
    if not architectures:
        return report
    common = {
        "weights": study.weights,
        "target": study.target_layer,
        "image_size": study.image_size,
        "n_classes": len(data.classes(manifest)),
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
        raise InputError(f"the models cannot be built: {_killed('the process that builds them', done.returncode)}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(json.loads(last) if done.returncode == 2 else f"the models cannot be built: {last}")
    return report


_CHECK_MODELS = """
import json, sys
from cxr import models
from cxr.errors import InputError
try:
    for check in json.loads(sys.argv[1]):
        models.check(check.pop("architecture"), **check)
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
    lines = [line for line in output.text.splitlines(keepends=True) if not line.startswith(_PROGRESS)]
    if output.name == "stderr" or not lines:
        return None
    return type(output)({**output, "text": "".join(lines)})


def _session(study, params_file, overrides, tracking_uri, out, fresh, jobs, notebooks) -> _Session:
    folder = Path(notebooks).resolve() if notebooks else tracking.notebooks_folder()
    jobs = _jobs(study.jobs if jobs is None else jobs)
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
        theirs = _settings(session, step).model_dump()
        own_axes = {"architecture", "seed"} | ({"method"} if step.stage == "score" else set())
        for name in theirs.keys() & ours.keys() - own_axes - {"data"}:
            if theirs[name] != ours[name]:
                raise InputError(
                    f"{step.notebook}.ipynb would run with {name} = {theirs[name]!r} where a study has "
                    f"{ours[name]!r}, as it is not in {session.params_file}: add it there"
                )
    return steps


def _read_manifest(session: _Session) -> pd.DataFrame:
    from cxr import data

    manifest = data.build_manifest(session.study)
    session.manifest_hash = data.manifest_hash(manifest)
    session.classes = tuple(data.classes(manifest))
    return manifest


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
    if step.needs:
        inputs = tracking.upstream(*(session.runs[key] for key in step.needs))
    else:
        inputs = {"manifest": session.manifest_hash}
    return tracking.fingerprint(step.stage, _settings(session, step), inputs, notebooks=session.notebooks)


def _done(session: _Session, step: Step, fingerprint: str) -> tracking.RunInfo | None:
    if session.fresh:
        return None
    found = tracking.find(step.stage, experiment=session.study.name, fingerprint=fingerprint)
    if step.stage == "compare":
        found = [run for run in found if _has_report(session, step, run.run_id)]
    # Of twins, the one that this study has built on; a newer one, run by hand, would ask for all the rest anew.
    own = (run for run in found if session.recorded.get(step.key) == run.run_id)
    return next(own, found[0] if found else None)


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
                _note_done(session, step, run)


def _has_report(session: _Session, step: Step, run_id: str) -> bool:
    """Whether a compare run has its report, or the notebook that it is made of, logged or still to be logged."""
    logged = tracking.artifacts(run_id)
    return "report.html" in logged or "notebook.ipynb" in logged or _is_executed_by(session, step, run_id)


def _note_done(session: _Session, step: Step, run: tracking.RunInfo) -> None:
    session.runs[step.key] = run.run_id
    session.seconds.setdefault(step.stage, []).append((run.end - run.start).total_seconds())


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
    return _process(os.getpid())


def _process(pid: int) -> str:
    """`host:pid:create_time` of a process, which tells it from a later one with the same number."""
    import psutil  # of ipykernel's own requirements

    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.0f}"


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
        if _lives(runner):
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
    stopped = _stop_orphans(left)
    if stopped:
        _say(f"  an earlier run of this study was killed: stopped {stopped} processes that it had left")
    for child in left:
        if not tracking.run_info(child.run_id).complete:  # it may have ended just now
            tracking.end_run(child.run_id, "KILLED")


def _stop_orphans(runs: list[tracking.RunInfo]) -> int:
    """Stop papermill and the kernels of these runs, as far as they are on this machine. Returns how many.

    They are found by the tag `cxr.process`, and by the run's id in their environment: of a kernel whose papermill
    is gone, nothing else tells whose it is.
    """
    import psutil

    if not runs:
        return 0
    ids = {run.run_id for run in runs}
    first = {pid for run in runs if (pid := _lives(run.tags.get("cxr.process", "")))}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in first or process.environ().get("MLFLOW_RUN_ID") in ids:
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
    found.pop(os.getpid(), None)
    children = set()
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            children |= {child.pid for child in process.children()}
    _stop_processes([found[pid] for pid in found.keys() - children], found.values())
    return len(found)


def _lives(process: str) -> int:
    """The process id in `host:pid:create_time`, if that very process lives on this machine; else 0."""
    import psutil

    host, pid, created = (["", ""] + process.rsplit(":", 2))[-3:]
    if host != socket.gethostname() or not pid.isdecimal():
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(int(pid))
        # the clock may be set meanwhile: a second or two are no other process
        if found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(created)) < 3:
            return int(pid)
    return 0


def _seconds_since(moment: str) -> float:
    """Seconds from an ISO time to now; infinite where there is none."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() if moment else float("inf")


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep other studies out of the folder, where they would write over each other's notebooks."""
    lock = out / _LOCK
    with contextlib.suppress(FileNotFoundError):
        holder = lock.read_text(encoding="utf-8")
        pid = _lives(holder)
        if pid not in (0, os.getpid()):
            raise InputError(f"{out}: another study is writing there (process {pid}): choose another with --out")
    with atomic(lock) as temporary:
        temporary.write_text(_runner(), encoding="utf-8")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- running


def _run_all(session: _Session, waiting: list[Step], *, total: int, jobs: int) -> None:
    """Run the steps as what they need gets done; fills `session.runs` and `session.failures`."""
    running: dict[concurrent.futures.Future, tuple[Step, str, float]] = {}
    waiting = list(waiting)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                for step in list(waiting):
                    lacking = [key for key in step.needs if key in session.failures]
                    if lacking:
                        waiting.remove(step)
                        session.failures[step.key] = f"not run: needs {lacking[0]}"
                        _say(f"{_count(session, total)} {step.name}: {session.failures[step.key]}")
                    elif len(running) < jobs and all(key in session.runs for key in step.needs):
                        waiting.remove(step)
                        run_id = _begin(session, step)
                        if run_id:
                            future = pool.submit(_execute, session, step, run_id, stagger=jobs > 1)
                            running[future] = (step, run_id, time.monotonic())
                ended, _ = concurrent.futures.wait(running, 0.3, concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    step, run_id, began = running.pop(future)
                    seconds = time.monotonic() - began
                    _end(session, step, run_id, future.result(), seconds)
                    left = _left(
                        session, waiting, [(s, time.monotonic() - t) for s, _, t in running.values()], jobs
                    )
                    _report_end(session, step, seconds, left, total)
                _show_progress(session, running)
                if time.monotonic() - session.alive > _SIGN_OF_LIFE_SECONDS:
                    tracking.set_tags(session.parent, {_ALIVE: _now()})
                    session.alive = time.monotonic()
        except BaseException as error:  # a full disk, a store that is gone: nothing is left running
            _stop(session)
            if isinstance(error, KeyboardInterrupt):
                for _, run_id, _ in running.values():
                    tracking.end_run(run_id, "KILLED")
            raise


def _begin(session: _Session, step: Step) -> str:
    """Create the run of a step whose needs are done; empty if it turns out that there is such a run."""
    fingerprint = _fingerprint(session, step)
    run = _done(session, step, fingerprint)
    if run is not None:
        _note_done(session, step, run)
        _say(f"  {step.name}: done already, run {run.run_id}")
        return ""
    run_id = tracking.create_run(
        experiment=session.study.name,
        name=step.name,
        parent=session.parent,
        tags={"cxr.stage": step.stage, "cxr.fingerprint": fingerprint},
        params=step.parameters,
    )
    _say(f"  {step.name}: started")
    return run_id


def _execute(session: _Session, step: Step, run_id: str, *, stagger: bool) -> int:
    """Run papermill, in a thread, with its output in the step's log. Returns its exit code."""
    import psutil

    environment = {
        **os.environ,
        **session.environment,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_EXPERIMENT_NAME": session.study.name,
        "PYTHONIOENCODING": "utf-8",
    }
    (session.out / f"{step.file}.ipynb").unlink(missing_ok=True)  # an older run's is not this one's
    with (session.out / f"{step.file}.log").open("w", encoding="utf-8") as log:
        log.write(f"{_RUN_LINE}{run_id}\n")  # by which `_mend_notebooks` knows whose they are
        log.flush()
        with session.starting:
            process = subprocess.Popen(
                _command(session, step),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
            session.processes[step.key] = process
            with contextlib.suppress(psutil.NoSuchProcess):
                tracking.set_tags(run_id, {"cxr.process": _process(process.pid)})
            if stagger:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STAGGER_SECONDS)
        with process:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(_PROGRESS):
                    session.progress[step.key] = line.strip()
    session.processes.pop(step.key, None)
    session.progress.pop(step.key, None)
    return process.returncode


def _end(session: _Session, step: Step, run_id: str, code: int, seconds: float) -> None:
    """Give the run its notebook, and note whether the step is done or has failed."""
    notebook = session.out / f"{step.file}.ipynb"
    if notebook.is_file():
        tracking.log_file_as(run_id, notebook, "notebook.ipynb")
    run = tracking.run_info(run_id)
    if code == 0 and run.complete:
        session.runs[step.key] = run_id
        session.seconds.setdefault(step.stage, []).append(seconds)
        if "cxr.fingerprint.planned" in run.tags:
            _say(f"  {step.name}: the code or the settings changed after the study had started")
        return
    if code == 0:
        reason = "the notebook ended without `tracking.finish()`"
    elif code < 0:
        reason = _killed("papermill", code)
    else:
        reason = _error_of(notebook) or _last_line(session.out / f"{step.file}.log")
    session.failures[step.key] = reason
    tracking.end_run(run_id, "FAILED")
    tracking.set_tags(run_id, {"cxr.error": reason[:500]})
    tracking.log_file_as(run_id, session.out / f"{step.file}.log", "log.txt")


def _error_of(notebook: Path) -> str:
    """The last line of the traceback that an executed notebook holds; empty if it holds none."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return ""  # papermill died before, or while, it wrote: the log says why
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    if not errors:
        return ""
    return f"{errors[0]['ename']}: {errors[0]['evalue']}".strip().splitlines()[0]


def _killed(what: str, code: int) -> str:
    """What a negative exit code of a child says."""
    return f"{what} was killed (signal {-code}); the system does that when memory is short"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    return lines[-1] if lines else "papermill said nothing"


def _stop(session: _Session) -> None:
    """Stop papermill and its kernels: politely, so that the notebook is saved; then for good."""
    import psutil

    papermills, families = [], []
    for process in list(session.processes.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            families += psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                papermills.append(psutil.Process(process.pid))
    _stop_processes(papermills, [*papermills, *families])


def _stop_processes(first: Iterable[psutil.Process], all_of_them: Iterable[psutil.Process]) -> None:
    """Interrupt the first ones, which end the others; kill those that are left after `_PATIENCE_SECONDS`."""
    import psutil

    for process in first:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT) if os.name == "posix" else process.terminate()
    _, alive = psutil.wait_procs(list(all_of_them), timeout=_PATIENCE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM (a batch system's way to stop a job) does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread only
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(session: _Session) -> None:
    tracking.end_run(session.parent, "KILLED")
    _say(
        f"interrupted: {len(session.runs)} notebooks are done and kept, the one(s) that ran ended as KILLED. "
        "The same command goes on from here."
    )


# ---------------------------------------------------------------------------------------- what is said


def _say(text: str) -> None:
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, flush=True)


def _show_progress(session: _Session, running: Mapping[Any, tuple[Step, str, float]]) -> None:
    """On a terminal, one line that is written over: what the running notebooks last said."""
    if not sys.stdout.isatty() or not running:
        return
    parts = [
        f"{step.name} {_duration(time.monotonic() - began)} {session.progress.get(step.key, '')}".strip()
        for step, _, began in running.values()
    ]
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\x1b[K{' | '.join(parts)[:width]}", end="", flush=True)


def _report_end(session: _Session, step: Step, seconds: float, left: float | None, total: int) -> None:
    until = f"; about {_duration(left)} left" if left else ""
    if step.key in session.failures:
        _say(
            f"{_count(session, total)} {step.name}: FAILED after {_duration(seconds)}: "
            f"{session.failures[step.key]} (see {_from_here(session.out / step.file)}.ipynb and .log){until}"
        )
    else:
        _say(f"{_count(session, total)} {step.name}: done in {_duration(seconds)}{until}")


def _count(session: _Session, total: int) -> str:
    return f"[{len(session.runs) + len(session.failures)}/{total}]"


def _left(session: _Session, waiting: list[Step], running: list[tuple[Step, float]], jobs: int) -> float | None:
    """Seconds until the end, from the mean of the finished steps of each stage; None while nothing is known."""
    means = {stage: sum(known) / len(known) for stage, known in session.seconds.items()}
    if not means:
        return None
    # a stage that has not been seen takes its usual share, in units of those that have
    unit = sum(means.values()) / sum(_USUAL_SECONDS[stage] for stage in means)
    expected = {stage: means.get(stage, unit * usual) for stage, usual in _USUAL_SECONDS.items()}
    possible = [step for step in waiting if not any(key in session.failures for key in step.needs)]
    left = sum(expected[step.stage] for step in possible)
    return (left + sum(max(0.0, expected[step.stage] - elapsed) for step, elapsed in running)) / jobs


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print_results(session: _Session, steps: list[Step]) -> None:
    """What came out, where the report is, and what failed."""
    in_order = {step.key: session.runs[step.key] for step in steps if step.key in session.runs}
    table = results(in_order)
    if table is not None:
        from cxr import comparison

        _say("\n" + comparison.text(comparison.readable(table)))
    if "compare" in session.runs:
        _say(f"\nreport: {_from_here(_fetch_report(session))}")
    uri = session.environment["MLFLOW_TRACKING_URI"]
    option = "" if uri == tracking.default_uri() else f" --tracking-uri {shlex.quote(uri)}"
    _say(f"runs:   cxr ui{option}  (experiment '{session.study.name}')")
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
    held = tracking.artifacts(compare) if compare else []
    if numbers is not None:
        from cxr import comparison

        numbers = comparison.readable(numbers)
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
    tracking.describe_experiment(name, text, methods=session.study.method, classes=session.classes)


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
    if "report.html" in tracking.artifacts(run_id):
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
        (`auc_macro_transfer`, `iou20_median`, ...).
    """
    import pandas as pd

    from cxr import comparison

    if "compare" in runs and "summary.csv" in tracking.artifacts(runs["compare"]):
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
