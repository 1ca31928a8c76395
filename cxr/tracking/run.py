"""Runs as they are made: that of a notebook, opened, logged to, closed; and those of whoever runs notebooks."""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import yaml
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from cxr.core import display, processes
from cxr.core.errors import InputError
from cxr.core.execution import STAGES, check_kernel
from cxr.core.params import SCHEMA, Params
from cxr.data import pseudonyms
from cxr.tracking import artifacts, descriptions, entities
from cxr.tracking.connection import (
    ask,
    check_reach,
    connect,
    experiment_id,
    keep_key_out,
    key_of,
    mlflow_client,
    notebooks_folder,
    param_value,
)
from cxr.tracking.provenance import OF_PHANTOM, environment, fingerprint, git_tags
from cxr.tracking.source import cell_version, code_cells
from cxr.tracking.stored import IDENTITY, PLACES, SCHEMA_TAG, StoredRun, find, run_url, stored, upstream

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


_FIGURE_PIXELS = 800  # the UI shows a picture in its own size, in a column about so wide


class Run:
    """The run of this notebook, which `start` opens: logs, shows, and closes at the end.

    What is logged to MLflow and shown to a reader is one call: `figure`, `table`.

    Attributes:
        run_id: of the run in MLflow.
        stage: a key of `STAGES`.
        fingerprint: of what its results depend on.
    """

    def __init__(self, run_id: str, stage: str, fingerprint: str, cells: Sequence[str]) -> None:
        self.run_id, self.stage, self.fingerprint = run_id, stage, fingerprint
        self._cells = list(cells)

    @property
    def url(self) -> str:
        """Where the run's page in the MLflow UI is."""
        return run_url(self.run_id)

    def figure(self, figure: Figure, name: str, *, show: bool = True) -> None:
        """Log a figure as `name` (`.png`, `.svg`, `.pdf`), show it, and close it. `show=False` leaves it open."""
        with artifacts.new_file(self.run_id, name) as path:
            is_png = path.suffix == ".png"
            figure.savefig(path, bbox_inches="tight", dpi=display.FINE, **(display.PNG if is_png else {}))
            png = path.read_bytes() if is_png else b""
        if show:
            display.show_figure(figure, png)

    def table(
        self,
        table: pd.DataFrame,
        name: str,
        *,
        show: bool | int | Sequence[str] = True,
        links: Mapping[str, Callable[[str], str]] | None = None,
    ) -> None:
        """Log a table as `name` (`.csv`, `.parquet`; without its index), and show it as people read it.

        Args:
            table: of results; see `cxr.core.tables.readable` for how it is shown.
            show: False: not at all; a number: so many rows, the first; names: these columns. An empty table is
                not shown.
            links: for columns of run ids, what makes an id's address (`cxr.tracking.run_url`).
        """
        suffix = artifacts.table_suffix(name)
        with artifacts.new_file(self.run_id, name) as path:
            table.to_parquet(path, index=False) if suffix == ".parquet" else table.to_csv(path, index=False)
        if show is False or not len(table):
            return
        if show is not True:
            table = table.head(show) if isinstance(show, int) else table[list(show)]
        display.show_table(table, links=links)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers. Names may hold letters, digits, `_-./` and spaces; others become `_`.

        A value that is NaN or infinite is not logged, as SQL stores keep a NaN as 0 with a flag, and sort and plot
        it as 0; its name goes into the run's tag `cxr.undefined` (comma-separated) instead.
        """
        log_metrics(self.run_id, values, step)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, by which runs are filtered. The same value twice is no error, another value is.

        Places of files (`PLACES`) become tags, which may change: a run goes on where its files lie elsewhere.
        """
        _log_params(self.run_id, values)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, as text."""
        set_tags(self.run_id, {key: str(value) for key, value in values.items()})

    def json(self, values: Any, name: str) -> None:
        """Log anything that JSON can hold. Raises ValueError for NaN and infinity, which JSON has no words for."""
        self.text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False), name)

    def text(self, text: str, name: str) -> None:
        """Log text as a file, in UTF-8."""
        artifacts.log_text(self.run_id, text, name)

    def file(self, path: str | Path, folder: str = "") -> None:
        """Log a file, under its own name, into a folder of the run's artifacts."""
        artifacts.log_to(self.run_id, Path(path), folder)

    def image(self, image: np.ndarray, *, key: str, step: int = 0) -> None:
        """Log an image to the run's image grid.

        Args:
            image: uint8, (height, width), (height, width, 1), (height, width, 3) or (height, width, 4).
            key: the row of the grid; characters that MLflow refuses (class names, file names) become `_`.
            step: the column.
        """
        if image.dtype != "uint8":
            raise InputError(f"image '{key}': pixels have to be uint8 (0 to 255), got {image.dtype}")
        # MLflow's queue would drop errors
        mlflow_client().log_image(self.run_id, image, key=key_of(key), step=step, synchronous=True)

    def describe(self, text: str, *, figure: Figure | None = None) -> None:
        """Give the run its description in the MLflow UI (Markdown), with a figure below it, which is closed.

        The figure is logged as `overview.png`, small enough for the column that the UI shows it in. Where the run
        has the tag `cxr.answer`, the description begins with it.
        """
        text = descriptions.answered(text, stored(self.run_id).tags)
        if figure is not None:
            with artifacts.new_file(self.run_id, descriptions.FIGURE) as path:
                dpi = min(100, _FIGURE_PIXELS / figure.get_size_inches()[0])
                figure.savefig(path, bbox_inches="tight", dpi=dpi, **display.PNG)
            display.close(figure)
            text += "\n\n" + descriptions.image(self.run_id)
        entities.describe_run(self.run_id, text)

    def finish(self) -> None:
        """Close the run as FINISHED and complete; the last cell of a notebook. Prints who takes its id.

        Logs the peak memory of the kernel as the metric `peak_memory_mib` (not on Windows, which does not tell),
        and `sha256.json`: {artifact path: SHA-256} of all files that this process logged to the run. By these
        `StoredRun.file` knows the files again; the SHA-256 of `sha256.json` is the run's tag
        `cxr.artifacts_sha256`. (Images of the grid are not in it; files that are logged later have tags of their
        own, `cxr.sha256.NAME`.) Its main numbers, rounded, are tags too
        (`cxr.tracking.readable`).

        In Jupyter, the run is marked as `cxr.edited` when its cells differ from those that the notebook's file
        held at the start: its fingerprint, which was taken of the file, does not hold for it, and a study never
        reuses it. Comments, layout and saving the file make no difference.
        """
        client = mlflow_client()
        if self._is_edited():
            client.set_tag(self.run_id, "cxr.edited", "true")
        with suppress(ImportError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
            self.metrics({"peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10)})
        set_tags(self.run_id, stored(self.run_id).readable)
        hashes = artifacts.logged_hashes(self.run_id)
        self.json(hashes, artifacts.HASHES)
        client.set_tag(self.run_id, artifacts.HASHES_TAG, hashes[artifacts.HASHES])
        client.set_tag(self.run_id, "cxr.complete", "true")  # from here on, and not before, all is there
        # it waits for a server that is away, which `mlflow.end_run` cannot
        client.set_terminated(self.run_id, "FINISHED")
        mlflow.end_run("FINISHED")
        taken = _TAKEN_BY.get(self.stage, "")
        print(f"{self.stage} run {self.run_id}{taken}")

    def _is_edited(self) -> bool:
        """Whether this kernel ran cells that the notebook's file did not hold, or not all of its cells."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None or not self._cells:
            return False
        run = [source.strip() for source in shell.history_manager.input_hist_raw]
        run = [cell_version(source) for source in run if source and not source.startswith("# Parameters")]
        last = self._cells.index(run[-1]) if run and run[-1] in self._cells else len(self._cells) - 1
        return set(run) != set(self._cells[: last + 1])


_TAKEN_BY = {
    "train": ": 2_attribute takes it as train_run_id",
    "attribute": ": 3_score takes it as attribute_run_id",
    "score": ": 4_compare takes it in score_run_ids",
}


def start(
    stage: str,
    settings: Params,
    *,
    reads: Sequence[StoredRun] = (),
    inputs: Mapping[str, str] | None = None,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    settings_as_params: bool = True,
) -> Run:
    """Open the run of this notebook.

    Under `cxr study` the run exists already (MLFLOW_RUN_ID) and is taken up; by hand one is created in the
    experiment `settings.name`. Logged at once: all settings (with pseudonyms, if the images have them:
    `cxr.data.pseudonyms.neutral`) as parameters and as `parameters.yaml`, the
    fingerprint and its inputs, the git commit, and the versions of all packages as `environment.json`.

    A run that is still open when the kernel exits ends as FAILED. A notebook that papermill runs by hand is
    logged as `notebook.ipynb` then (under `cxr study`, the study does it).

    Args:
        stage: a key of `STAGES`.
        settings: the notebook's validated parameters; `name` is the experiment.
        reads: the complete runs that the notebook reads (`take`), all of one stage.
        inputs: what else the results depend on besides settings and code: `{"manifest": manifest_hash(df)}` for
            train. The study's runner computes the same.
        name: of the run, when it is created here; empty: the stage, and what `params` and `settings` say of
            architecture, seed and method.
        tags: more tags.
        params: more parameters to filter by, such as architecture and seed of the run that is read.
        settings_as_params: whether all settings are logged as parameters too; they are in `parameters.yaml` in
            any case. MLflow's image grid writes all parameters over each picture: few leave room for it.

    Raises:
        InputError: the store cannot be had, MLFLOW_RUN_ID names no run, or the kernel is not of the environment
            that has started the notebook.
    """
    check_kernel()
    keep_key_out(settings, connect())
    shown, settings = settings, pseudonyms.neutral(settings)
    inputs = {**(upstream(*(run.run_id for run in reads)) if reads else {}), **(inputs or {})}
    own_fingerprint = fingerprint(stage, settings, inputs)
    notebook = notebooks_folder() / f"{STAGES[stage]}.ipynb"
    cells = [cell_version(source) for source in code_cells(notebook)]
    logged = settings.model_dump(exclude=set(settings.filters)) if settings_as_params else {}
    # ids of the runs that are read are its inputs
    logged = {key: value for key, value in logged.items() if not key.endswith(("_run_id", "_run_ids"))}
    logged |= params or {}
    if mlflow.active_run():  # the cell was run again, in Jupyter
        mlflow.end_run("KILLED")
    given = os.environ.pop("MLFLOW_RUN_ID", "")
    if worker := os.environ.pop("CXR_WORKER", ""):
        processes.die_with(worker)
    own_tags = {
        SCHEMA_TAG: SCHEMA,
        **artifacts.ALL,
        "cxr.stage": stage,
        "cxr.fingerprint": own_fingerprint,
        **{f"cxr.inputs.{key}": value for key, value in inputs.items()},
        **git_tags(),
        **(tags or {}),
    }
    if given:
        info = stored(given)
        check_reach(mlflow_client().get_experiment_by_name(info.experiment_name))
        if info.fingerprint not in ("", own_fingerprint):
            own_tags["cxr.fingerprint.planned"] = info.fingerprint
        opened = ask(mlflow.start_run, run_id=given, tags=own_tags)
    else:
        experiment = experiment_id(settings.name)
        end_abandoned(settings.name)
        own_tags["cxr.process"] = processes.identity(os.getpid())
        opened = ask(
            mlflow.start_run, experiment_id=experiment, run_name=name or _name(stage, logged), tags=own_tags
        )
    run = Run(opened.info.run_id, stage, own_fingerprint, cells)
    # asked for now: at exit, papermill kills a kernel that takes longer than some seconds
    notebook = None if given else _papermill_output()
    if notebook is not None and settings is not shown:  # papermill writes the parameters into it
        print(
            "notebook.ipynb is not logged, as it holds the path of the images; with "
            f"`-p data {settings.data}` it is"
        )
        notebook = None
    atexit.register(_close, run.run_id, mlflow.get_tracking_uri(), notebook)
    run.params(logged)
    run.text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), "parameters.yaml")
    run.json(environment(), "environment.json")
    return run


def _name(stage: str, params: Mapping[str, Any]) -> str:
    """A run's name: "score CompactDenseNet s0 layercam", as far as one architecture, seed and method are known."""
    words = [params.get("architecture"), params.get("seed"), params.get("method")]
    words[1] = None if words[1] is None else f"s{words[1]}"
    return " ".join([stage, *(word for word in words if isinstance(word, str) and word)])


def _close(run_id: str, uri: str, notebook: Path | None) -> None:
    """At the kernel's exit. Registered after MLflow's own hook, hence run before it, which says FINISHED.

    `notebook` is what papermill writes, where a person runs it.
    """
    mlflow.set_tracking_uri(uri)
    run = mlflow.active_run()
    if run is not None and run.info.run_id == run_id:
        mlflow.end_run("FAILED")
    if notebook is not None and notebook.is_file():
        artifacts.log_file_as(run_id, notebook, "notebook.ipynb")


def _papermill_output() -> Path | None:
    """The notebook that papermill, run by hand, is writing: asked of the command line of the parent process.

    Papermill saves after every cell, hence before the kernel is told to exit. (It names the path to the notebook
    only with `--inject-output-path`.) None in Jupyter.
    """
    import psutil  # of ipykernel's own requirements

    try:
        # Windows has a launcher between a virtual environment's python and what it runs.
        for process in psutil.Process().parents()[:3]:
            words = process.cmdline()
            at = next((i for i, word in enumerate(words[:4]) if Path(word).stem == "papermill"), None)
            if at is None:
                continue
            from papermill.cli import papermill

            context = papermill.make_context("papermill", words[at + 1 :], resilient_parsing=True)
            output = context.params["output_path"]
            return Path(process.cwd()) / output if output else None
    except psutil.Error:
        pass  # another user's process, or one that has gone: there is nothing to log then
    return None


# ------------------------------------------------------------------------- runs that are not open in this process


def create_run(
    *, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
) -> str:
    """Create a run, without opening it in this process, and return its id."""
    family = {"mlflow.parentRunId": parent} if parent else {}
    run = mlflow_client().create_run(
        experiment_id(experiment), tags={SCHEMA_TAG: SCHEMA, **artifacts.ALL, **tags, **family}, run_name=name
    )
    _log_params(run.info.run_id, params)
    return run.info.run_id


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of any run."""
    if tags:
        mlflow_client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def remove_tag(run_id: str, key: str) -> None:
    """Remove a tag that a run has."""
    mlflow_client().delete_tag(run_id, key)


def delete_run(run_id: str) -> None:
    """Delete any run; MLflow can restore it until `mlflow gc`."""
    mlflow_client().delete_run(run_id)


def log_metrics(run_id: str, values: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers of any run, as `Run.metrics` does for its own."""
    client = mlflow_client()
    now = int(time.time() * 1000)
    numbers = {key_of(name): float(value) for name, value in values.items()}
    finite = [Metric(key, value, now, step or 0) for key, value in numbers.items() if math.isfinite(value)]
    for first in range(0, len(finite), 1000):  # MLflow's limit for one request
        client.log_batch(run_id, metrics=finite[first : first + 1000])
    undefined = [key for key, value in numbers.items() if not math.isfinite(value)]
    if undefined:
        known = client.get_run(run_id).data.tags.get("cxr.undefined", "")
        names = dict.fromkeys([*(known.split(",") if known else []), *undefined])
        client.log_batch(run_id, tags=[RunTag("cxr.undefined", ",".join(names))])


def end_run(run_id: str, status: str) -> None:
    """End any run as FINISHED, FAILED or KILLED; only a FINISHED one can be complete.

    A run that another process has deleted (one that does not get to run a study deletes its own) has ended.
    """
    client = mlflow_client()
    try:
        if status != "FINISHED" and "cxr.complete" in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, "cxr.complete")
        client.set_terminated(run_id, status)
    except MlflowException:
        if client.get_run(run_id).info.lifecycle_stage != LifecycleStage.DELETED:
            raise


def end_abandoned(experiment: str) -> None:
    """End the runs of an experiment that say they are running, though their process on this machine has ended."""
    for run in find(experiment=experiment, complete=False):
        process = run.tags.get("cxr.process", "")
        if run.status == "RUNNING" and processes.is_here(process) and not processes.lives(process):
            end_run(run.run_id, "KILLED")


def reopen_run(run_id: str) -> None:
    """Say of an ended run that it is running again."""
    mlflow_client().update_run(run_id, status="RUNNING")


def _log_params(run_id: str, values: Mapping[str, Any]) -> None:
    """Log parameters; ids of runs, hashes and places as tags, which `StoredRun.params` holds too.

    A comparison of runs opens in the UI on the first three parameters, by name, that differ: of these, people
    learn nothing. Parameters of MLflow cannot change, and files may lie elsewhere when a run goes on.
    """
    texts = {key: param_value(value) for key, value in values.items()}
    identities = {key for key in texts if _IS_IDENTITY.search(key)}
    unread = OF_PHANTOM if texts.get("data", "phantom") != "phantom" else frozenset()
    places = texts.keys() & (PLACES | unread)
    items = [Param(key, text) for key, text in texts.items() if key not in identities | places]
    for first in range(0, len(items), 100):  # MLflow's limit for one request
        mlflow_client().log_batch(run_id, params=items[first : first + 100])
    set_tags(run_id, {f"{IDENTITY}{key}": texts[key] for key in identities if texts[key]})
    set_tags(run_id, {key: texts[key] for key in places})


_IS_IDENTITY = re.compile(r"_run$|sha256|^resumed$")
