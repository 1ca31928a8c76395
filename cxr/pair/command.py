"""`cxr drift`: run the notebook 5_drift with papermill as one MLflow run, print its result, write it to files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from cxr import tracking
from cxr.core import execution, processes, terminal
from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.core.params import DriftParams
from cxr.data import pseudonyms
from cxr.pair import compare, gates, images, models

_TABLES = (".parquet", ".csv")
_FIGURES = (".png", ".pdf")


def run(
    settings: DriftParams, *, out: str | Path, figure: str | Path = "", tracking_uri: str | None = None
) -> int:
    """Compare two models, print the result, and write it to files.

    The MLflow run holds the same, and the notebook and the models' hashes.

    Args:
        settings: the notebook's parameters.
        out: path of the per-image table, .parquet or .csv; the report page is written beside it, as .html.
        figure: path of the figure, .png or .pdf; empty: beside the table, as .png.
        tracking_uri: see `cxr.tracking.connect`.

    Returns: the exit code: 0; or 1 if a gate or the notebook fails.
    Raises: InputError: bad input, found before the notebook starts or by the notebook.
    """
    out = Path(out)
    figure = Path(figure) if figure else out.with_suffix(".png")
    notebook = tracking.notebooks_folder() / f"{tracking.STAGES['drift']}.ipynb"
    tracking.keep_key_out(settings, tracking.resolve(tracking_uri))
    _check(settings, notebook, out, figure)
    said = pseudonyms.notice(settings)
    settings = pseudonyms.neutral(settings)  # the notebook gets the images by this name, and holds no path
    tracking.connect(tracking_uri)
    if pseudonyms.is_neutral(settings.data):
        print(terminal.wrapped(said), flush=True)
    tracking.end_abandoned(settings.name)  # of a command that was killed
    run_id = tracking.create_run(
        experiment=settings.name,
        name=f"drift {models.label(models.files(settings))}",
        tags={"cxr.stage": "drift", "cxr.process": processes.identity(os.getpid())},
        params={},
    )
    if _execute(settings, notebook.parent, run_id):
        return 1
    run = tracking.stored(run_id)
    _write(run, "drift.parquet", out)
    _write(run, f"drift{figure.suffix}", figure)
    results = run.json("gates.json")
    page = out.with_suffix(".html")
    _write(run, "report.html", page)
    print(run.file("summary.txt").read_text(encoding="utf-8"))
    print(f"\nreport:  {page}\ntable:   {out}\nfigure:  {figure}\nrun:     {tracking.run_url(run_id)}")
    if how := _how_to_see_it():
        print(f"         shown by: {how}")
    for result in results:
        print(terminal.wrapped(gates.line(result), hang=2))
    return 0 if all(result["passed"] for result in results) else 1


def _check(settings: DriftParams, notebook: Path, out: Path, figure: Path) -> None:
    """Check the input as far as a second or two allow, without TensorFlow. Raises InputError."""
    conditions = [gates.parse(text) for text in settings.gate]
    for path, suffixes, what in ((out, _TABLES, "--out"), (figure, _FIGURES, "--figure")):
        if path.suffix not in suffixes:
            raise InputError(f"{what} {path}: its name has to end in {' or '.join(suffixes)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{what} {path}: cannot write there ({error.strerror})") from None
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"{what} {path}: cannot write into {path.parent.absolute()}")
    if not notebook.is_file():
        raise InputError(f"{notebook} does not exist: run `cxr drift` in a checkout, or set CXR_NOTEBOOKS")
    models.files(settings)
    manifest, _ = images.find(settings, hashed=False)
    gates.check(conditions, compare.metric_names(settings, manifest))


def _execute(settings: DriftParams, notebooks: Path, run_id: str) -> int:
    """Run the notebook with papermill, with its progress on stderr. Log it, and end the run if it failed.

    Returns: 0; or 1 if the notebook failed. Raises: the InputError that the notebook raised.
    """
    folder = tracking.scratch()
    parameters, executed, log = (folder / name for name in ("parameters.yaml", "drift.ipynb", "log.txt"))
    parameters.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    words = execution.command(notebooks / f"{tracking.STAGES['drift']}.ipynb", executed, params_file=parameters)
    environment = {
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_EXPERIMENT_NAME": settings.name,
        "CXR_WORKER": processes.identity(os.getpid()),
    }
    status = "FAILED"
    try:
        with processes.terminable():
            code = _run(words, environment, log)
        if code == 0 and tracking.stored(run_id).complete:
            status = ""
            return 0
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if executed.is_file():
            tracking.log_file_as(run_id, executed, "notebook.ipynb")
        if status:
            if log.is_file():
                tracking.log_file_as(run_id, log, "log.txt")
            tracking.end_run(run_id, status)
    kind, reason = execution.error_of(executed) or ("", execution.last_line(log))
    tracking.set_tags(run_id, {"cxr.error": f"{kind}: {reason}"[:500]})
    if kind == InputError.__name__:
        raise InputError(reason)
    how = _how_to_see_it()
    where = f"see notebook.ipynb and log.txt of {tracking.run_url(run_id)}{f' (`{how}`)' if how else ''}"
    print(f"cxr: the notebook failed: {kind}: {reason}: {where}", file=sys.stderr)
    return 1


def _run(words: list[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command, with its output in `log`. Returns its exit code. Ctrl-C stops the command first."""
    terminal = sys.stderr.isatty()
    process = execution.start(words, environment)
    with process, log.open("w", encoding="utf-8") as file:
        try:
            for line in process.stdout:
                file.write(line)
                if line.startswith(execution.PROGRESS):
                    text = f"\r\x1b[K{line.strip()}" if terminal else line
                    print(text, end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            processes.stop([process.pid])
            raise
        finally:
            if terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return process.returncode


def _write(run: tracking.StoredRun, name: str, path: Path) -> None:
    found = run.file(name)
    try:
        with atomic(path) as temporary:
            if path.suffix == ".csv":
                pd.read_parquet(found).to_csv(temporary, index=False)
            else:
                shutil.copyfile(found, temporary)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}): run {run.run_id} holds it, as {name}"
        ) from None


def _how_to_see_it() -> str:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    return "" if tracking.is_server(uri) else tracking.ui_command(uri)
