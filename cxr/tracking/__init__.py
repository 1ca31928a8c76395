"""Runs, and what they hold: the only module that imports MLflow.

A notebook opens its run with `start`, logs with the `log_*` functions, and closes it with `finish` in its last
cell. The next notebook gets a run id, and takes what it needs with `fetch`, `read_table` and `run_info`.

A run is *complete* when its status is FINISHED and `finish` has tagged it `cxr.complete`. Only complete runs
are ever reused. What a run would give again is told by its *fingerprint*: a hash of the settings that matter to
its stage, of its inputs (the manifest's hash, the runs it reads) and of the code.
"""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import yaml

from cxr.core import architectures, arrays, processes
from cxr.core.errors import InputError, first_line
from cxr.core.params import SCHEMA, Params
from cxr.tracking import descriptions, views
from cxr.tracking.source import NOT_IN_CODE, cell_version, code_cells, code_version, contents, sha256

# Read while MLflow is imported. Data may be confidential and machines without a network: nothing phones home.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that is away is asked again for ten minutes: after 0, 4, 8, 16, 32, 64 and four times 120 s.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")

import mlflow
import requests
import tenacity
import urllib3
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

_SCHEMA_TAG = "cxr.schema"
_OF_THIS_SCHEMA = f"tags.`{_SCHEMA_TAG}` = '{SCHEMA}'"

# As Python ends, it looks through all objects once more for cycles: a second of every notebook, with MLflow and
# TensorFlow loaded, for memory that goes anyway.
atexit.register(gc.freeze)

# It logs that it asks a server again, which nobody would see.
urllib3.add_stderr_logger(logging.WARNING)

STAGES: dict[str, str] = {
    "pretrain": "0_pretrain",
    "train": "1_train",
    "attribute": "2_attribute",
    "score": "3_score",
    "compare": "4_compare",
    "drift": "5_drift",
}
"""The notebook of each stage."""

# What a stage computes does not depend on these. `data` is a path: the manifest's hash, an input of the train
# run, stands in for it. Runs that are read are inputs, however the notebook came by their ids.
_NOT_IN_FINGERPRINT = frozenset(
    {"name", "data", "jobs", "output", "train_run_id", "attribute_run_id", "score_run_ids", "gate"}
    | {"model_a", "model_b", "like_a", "like_b"}
)
_OF_PHANTOM = frozenset({"phantom_images", "phantom_seed", "lesion_contrast", "shortcut"})
_MAX_PARAM = 500  # characters; MLflow would cut at 6000, and a table of runs is unreadable long before
_PROBE_SECONDS = 5
_SHA256 = "sha256.json"
_SHA256_TAG = "cxr.artifacts_sha256"
_SERVER = ("http://", "https://")
_TEXT = "ä · → ≥"  # such as is in descriptions


@dataclass(frozen=True)
class RunInfo:
    """What a run says of itself. `start` and `end` are in UTC; `end` is None while it runs."""

    run_id: str
    name: str
    stage: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    start: datetime
    end: datetime | None
    experiment_name: str

    @property
    def complete(self) -> bool:
        """Whether `finish` closed it, and nothing failed after that."""
        return self.status == "FINISHED" and self.tags.get("cxr.complete") == "true"

    @property
    def fingerprint(self) -> str:
        """Empty for a run that was not opened by `start`."""
        return self.tags.get("cxr.fingerprint", "")


# ---------------------------------------------------------------------------------------------- the store


def project() -> Path:
    """The folder that holds `notebooks/` and `mlruns/`: the checkout, or else the current folder."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout
    here = Path.cwd()
    above = (folder for folder in (here, *here.parents) if (folder / "notebooks" / "1_train.ipynb").is_file())
    return next(above, here)


def notebooks_folder() -> Path:
    """Where the notebooks are: `CXR_NOTEBOOKS` (the study runner sets it), or `notebooks/` of the project."""
    return Path(os.environ.get("CXR_NOTEBOOKS") or project() / "notebooks").resolve()


def default_uri() -> str:
    """The store that is used when nothing else is said."""
    return f"sqlite:///{(project() / 'mlruns' / 'mlflow.db').as_posix()}"


def resolve(tracking_uri: str | None = None) -> str:
    """The absolute URI that `connect` would use."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    database = _sqlite_path(uri)
    return uri if database is None else f"sqlite:///{database.as_posix()}"


def is_server(uri: str) -> bool:
    """Whether that is the address of an MLflow server, which has a UI of its own."""
    return uri.startswith(_SERVER)


def ui_command(uri: str) -> str:
    """What a person types to see the runs of a store."""
    return "cxr ui" if uri == default_uri() else f"cxr ui --tracking-uri {shlex.quote(uri)}"


def is_new(tracking_uri: str) -> bool:
    """Whether that is a SQLite store that does not exist yet."""
    database = _sqlite_path(tracking_uri)
    return database is not None and not database.exists()


def connect(tracking_uri: str | None = None) -> str:
    """Choose the MLflow store for this process and its children, and see that it answers.

    Args:
        tracking_uri: empty: the environment's MLFLOW_TRACKING_URI, or else SQLite at `mlruns/mlflow.db`.
            SQLite paths may be relative to the current folder. A SQLite database is created where missing.

    Returns:
        The absolute URI, which is in the environment's MLFLOW_TRACKING_URI from here on.

    Raises:
        InputError: the store cannot be had, or not for all text (found out within about ten seconds).
    """
    uri = resolve(tracking_uri)
    database = _sqlite_path(uri)
    if database is not None:
        _check_database(database)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # forty lines about tables, the first time
    # a step of a study had its store a moment ago; a person who mistyped an address should not wait
    is_step = bool(os.environ.get("MLFLOW_RUN_ID"))
    at_once = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_PROBE_SECONDS)}
    with _environment(**({} if is_step else at_once)):
        try:
            lock = nullcontext()
            if database is not None:
                waits = f"waiting for another process that is opening the MLflow store {database}"
                lock = arrays.locked(database.with_name(f"{database.name}.lock"), lambda: print(waits, flush=True))
            with lock:  # MLflow makes the tables now: of two processes that find none, one would fail
                probe = functools.partial(mlflow.MlflowClient(uri).search_experiments, max_results=1)
                _ask(probe) if is_step else _check_text(uri, probe)
        # SQLAlchemy, requests, drivers: each store fails in its own way, and a person can only put right the URI
        except Exception as error:
            if isinstance(error, InputError):
                raise
            raise InputError(_unreachable(uri, error)) from None
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri  # which MLflow leaves alone when it was told the same URI before
    return uri


def _check_text(uri: str, probe: Callable[..., Any]) -> None:
    """See that a store answers, and a server about any text; raises InputError where it is about some text only.

    Every description and many names hold text beyond ASCII. PostgreSQL makes databases in SQL_ASCII where the
    system has no locale, and MLflow then answers 500, for which a study waits, as for a full disk.
    """
    if not is_server(uri):
        probe()
        return
    try:
        probe(filter_string=f"name = '{_TEXT}'")
    except MlflowException as error:
        if not isinstance(error.__context__, requests.exceptions.RetryError):
            raise
        probe()  # raises where the text is not what it is about
        raise InputError(
            f"the MLflow server at {uri} answers, but fails when it is asked about text such as '{_TEXT}': its "
            "database is not in UTF-8. Make it with `createdb --encoding UTF8 --template template0` "
            "(docs/server.md)"
        ) from None


def artifact_root() -> Path | None:
    """The local folder of a SQLite store's artifacts; None for a server, which has its own."""
    database = _sqlite_path(mlflow.get_tracking_uri())
    return database.parent / "artifacts" if database else None


def experiment_id(name: str) -> str:
    """The id of the experiment `name`, which is created where missing. Raises InputError if it was deleted."""
    client = _client()
    found = client.get_experiment_by_name(name)
    if found is None:
        root = artifact_root()
        try:
            # The UI then opens on runs and metrics, not on traces of language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            location = (root / name).as_uri() if root else None
            client.create_experiment(name, location, tags={**kind, **views.tags()})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment '{name}' was deleted: choose another `name`, restore it with `mlflow "
            f"experiments restore --experiment-id {found.experiment_id}`, or remove it for good with `mlflow gc`"
        )
    _check_reach(found)
    return found.experiment_id


def _check_reach(experiment: mlflow.entities.Experiment) -> None:
    """Raise InputError where a server's experiment has its files in a folder that this machine does not have.

    That is a server without --serve-artifacts. MLflow would make the folder, and keep the files here only.
    """
    uri, place = mlflow.get_tracking_uri(), urlsplit(experiment.artifact_location)
    root = Path(unquote(place.path)).parent
    if is_server(uri) and place.scheme in ("", "file") and not root.is_dir():
        raise InputError(
            f"the MLflow server at {uri} does not take files: it wants those of the experiment "
            f"'{experiment.name}' in {root}, which this machine does not have. Start it with --serve-artifacts "
            "(docs/server.md), and choose another `name`, as an experiment keeps its place; or mount that folder "
            "on every machine"
        )


class StoreGone(RuntimeError):
    """The store answered before, and has not for as long as it is waited for."""


class _Client:
    """An MLflow client whose calls go through `_ask`."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_ask, getattr(self._client, name))


def _client() -> _Client:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        connect()
    return _Client(mlflow.MlflowClient())


def _ask(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result of `call(*args, **options)`, a call to the store; waits for a store that is away.

    MLflow itself asks a server again that does not answer, or answers 408, 429 or 5xx. What it does not, is done
    here: a database that another process has locked, and a download that breaks off.

    Raises:
        StoreGone: it stayed away.
        InputError: a server refuses (`_refusal`). Other errors pass through at once.
    """
    uri = mlflow.get_tracking_uri()
    try:
        return _retrying(call, *args, **options)
    except Exception as error:
        if refusal := _refusal(error, uri):
            raise InputError(refusal) from None
        if not (_is_busy(error) or _is_away(error)):
            raise
        raise StoreGone(
            f"the MLflow store {uri} does not answer, after several attempts ({first_line(error, most=400)}): "
            "nothing that was logged is lost; see that it runs, and give the same command again. A server that "
            "answers 500 says why in its log (a full disk?)"
        ) from None


def _is_busy(error: BaseException) -> bool:
    """Whether trying again may help where MLflow does not: SQLite is locked, or a download broke off."""
    broken = requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError
    if isinstance(error, broken | requests.exceptions.Timeout):
        return True
    cause = error.__cause__ if isinstance(error, MlflowException) else error
    code = getattr(getattr(cause, "orig", None), "sqlite_errorcode", 0)  # of SQLAlchemy's error
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_away(error: BaseException) -> bool:
    """Whether MLflow has given up asking a server: it has no connection, or only answers 408, 429 and 5xx."""
    gone = requests.exceptions.ConnectionError | requests.exceptions.Timeout | requests.exceptions.RetryError
    return isinstance(error, MlflowException) and isinstance(error.__context__, gone)


_retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception(_is_busy),
    wait=tenacity.wait_fixed(2),
    stop=tenacity.stop_after_delay(600),
    reraise=True,
)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk (or a quota) is full, that of the store too."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return full or "database or disk is full" in text or "No space left on device" in text


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    path = unquote(urlsplit(uri).path)[1:]  # sqlite:///relative, sqlite:////absolute
    return Path(path).absolute()


def _check_database(path: Path) -> None:
    """Fail at once where MLflow would retry for minutes."""
    advice = "choose another store with --tracking-uri or MLFLOW_TRACKING_URI"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_PROBE_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except OSError as error:
        raise InputError(f"{path.parent}: cannot hold the MLflow store ({error.strerror}): {advice}") from None
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be used as the MLflow store ({error}): {advice}") from None


def _unreachable(uri: str, error: Exception) -> str:
    first = first_line(error)
    if not is_server(uri):
        advice = "mend --tracking-uri or MLFLOW_TRACKING_URI"
        return f"the MLflow store {uri} cannot be used: {advice}; it said: {first}"
    if refusal := _refusal(error, uri):
        return refusal
    if isinstance(error.__context__, requests.exceptions.SSLError):
        return (
            f"this machine does not trust the certificate of {uri}: name its file, or that of its authority, with "
            "MLFLOW_TRACKING_SERVER_CERT_PATH, and ask for the server by the name that is in it"
        )
    return (
        f"no MLflow server answers at {uri}: start it, or mend --tracking-uri or MLFLOW_TRACKING_URI "
        f"(unset, runs are kept in {default_uri()}); it said: {first}"
    )


def _refusal(error: Exception, uri: str) -> str:
    """What to do about an answer 401 or 403 of a server; empty for any other error."""
    if isinstance(error, MlflowException):
        code = error.get_http_status_code()
    else:
        code = getattr(getattr(error, "response", None), "status_code", 0)  # of `requests`, in downloads
    if code not in (401, 403) or not is_server(uri):
        return ""
    if "Invalid Host header" in str(error):
        return f"the MLflow server refuses the name in {uri}: start it with --allowed-hosts {urlsplit(uri).netloc}"
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if code == 403 and user:
        return (
            f"the MLflow server at {uri} does not let the user '{user}' do that (HTTP 403): an experiment is its "
            "maker's. Choose another `name`, or have EDIT on it granted (docs/server.md); it said: "
            f"{first_line(error)}"
        )
    return (
        f"the MLflow server at {uri} refuses (HTTP {code}): set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as it asks for them; it said: "
        f"{first_line(error)}"
    )


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------------------------ a notebook's run


def start(
    stage: str,
    settings: Params,
    *,
    name: str,
    inputs: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    settings_as_params: bool = True,
) -> mlflow.ActiveRun:
    """Open the run of this notebook; from here on the `log_*` functions log to it.

    Under `cxr study` the run exists already (MLFLOW_RUN_ID) and is taken up; by hand one is created in the
    experiment `settings.name`. Logged at once: all settings as parameters and as `parameters.yaml`, the
    fingerprint and its inputs, the git commit, and the versions of all packages as `environment.json`.

    A run that is still open when the kernel exits ends as FAILED. A notebook that papermill runs by hand is
    logged as `notebook.ipynb` then (under `cxr study`, the study does it).

    Args:
        stage: a key of `STAGES`.
        settings: the notebook's validated parameters; `name` is the experiment.
        name: of the run, when it is created here.
        inputs: what the results depend on besides settings and code: `{"manifest": manifest_hash(df)}` for
            train and pretrain, `upstream(run_id, ...)` for the others. The study runner computes the same.
        tags: more tags.
        params: more parameters to filter by, such as the upstream run's architecture and seed.
        settings_as_params: whether all settings are logged as parameters too; they are in `parameters.yaml` in any
            case. MLflow's image grid writes all parameters over each picture: few leave room for it.

    Raises:
        InputError: the store cannot be had, or MLFLOW_RUN_ID names no run.
    """
    connect()
    print_of_run = fingerprint(stage, settings, inputs)
    if mlflow.active_run():  # the cell was run again, in Jupyter
        mlflow.end_run("KILLED")
    given = os.environ.pop("MLFLOW_RUN_ID", "")
    if worker := os.environ.pop("CXR_WORKER", ""):
        processes.die_with(worker)
    own_tags = {
        _SCHEMA_TAG: SCHEMA,
        "cxr.stage": stage,
        "cxr.fingerprint": print_of_run,
        **{f"cxr.inputs.{key}": value for key, value in inputs.items()},
        **git_tags(),
        **(tags or {}),
    }
    if given:
        info = run_info(given)
        _check_reach(_client().get_experiment_by_name(info.experiment_name))
        planned = info.fingerprint
        if planned and planned != print_of_run:
            own_tags["cxr.fingerprint.planned"] = planned
        run = _ask(mlflow.start_run, run_id=given, tags=own_tags)
    else:
        experiment = experiment_id(settings.name)
        run = _ask(mlflow.start_run, experiment_id=experiment, run_name=name, tags=own_tags)
    atexit.register(_close, run.info.run_id, mlflow.get_tracking_uri(), by_hand=not given)
    log_params(run.info.run_id, {**(settings.model_dump() if settings_as_params else {}), **(params or {})})
    log_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), "parameters.yaml")
    log_json(environment(), "environment.json")
    return run


def finish() -> None:
    """Close this notebook's run as FINISHED and complete; the last cell of a notebook.

    Logs the peak memory of the kernel as the metric `peak_memory_mib` (not on Windows, which does not tell), and
    `sha256.json`: {artifact path: SHA-256} of all files that this process logged to the run, by which `fetch`
    knows them again; its own SHA-256 is the run's tag `cxr.artifacts_sha256`. (`log_image`'s are not in it.)

    In Jupyter, cells that differ from the notebook's file mark the run as `cxr.edited`: its fingerprint, which
    was taken of the file, does not hold for it, so that a study never reuses it.
    """
    run_id = _active()
    client = _client()
    if _edited(client.get_run(run_id).data.tags.get("cxr.stage", "")):
        client.set_tag(run_id, "cxr.edited", "true")
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
        log_metrics({"peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10)})
    log_json(_logged(run_id), _SHA256)
    client.set_tag(run_id, _SHA256_TAG, _logged(run_id)[_SHA256])
    client.set_tag(run_id, "cxr.complete", "true")  # from here on, and not before, all is there
    client.set_terminated(run_id, "FINISHED")  # waits for a server that is away, which `mlflow.end_run` cannot
    mlflow.end_run("FINISHED")


def log_params(run_id: str, values: Mapping[str, Any]) -> None:
    """Log parameters to any run; logging the same value twice is no error, another value is."""
    items = [Param(key, param_value(value)) for key, value in values.items()]
    for first in range(0, len(items), 100):  # MLflow's limit for one request
        _client().log_batch(run_id, params=items[first : first + 100])


def param_value(value: Any) -> str:
    """A parameter as MLflow shows and filters it: lists with commas; long ones cut (see parameters.yaml)."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _MAX_PARAM else f"{text[: _MAX_PARAM - 30]} … (see parameters.yaml)"


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers. Names may hold letters, digits, `_-./` and spaces; others become `_`.

    A value that is NaN or infinite is not logged, as SQL stores keep a NaN as 0 with a flag, and sort and plot
    it as 0; its name goes into the run's tag `cxr.undefined` (comma-separated) instead.
    """
    run_id = _active()
    client = _client()
    values = {_key(name): float(value) for name, value in metrics.items()}
    now = int(datetime.now(UTC).timestamp() * 1000)
    finite = [Metric(key, value, now, step or 0) for key, value in values.items() if math.isfinite(value)]
    for first in range(0, len(finite), 1000):  # MLflow's limit for one request
        client.log_batch(run_id, metrics=finite[first : first + 1000])
    undefined = [key for key, value in values.items() if not math.isfinite(value)]
    if undefined:
        known = client.get_run(run_id).data.tags.get("cxr.undefined", "")
        names = dict.fromkeys([*(known.split(",") if known else []), *undefined])
        client.log_batch(run_id, tags=[RunTag("cxr.undefined", ",".join(names))])


def log_table(df: pd.DataFrame, name: str) -> None:
    """Log a table as `name`, which ends in `.parquet` or `.csv` (without the index). `read_table` reads it."""
    suffix = _table_suffix(name)
    with _file(name) as path:
        df.to_parquet(path, index=False) if suffix == ".parquet" else df.to_csv(path, index=False)


def log_figure(fig: Figure, name: str) -> None:
    """Log a Matplotlib figure as `name` (`.png`, `.svg`, `.pdf`); it stays open."""
    with _file(name) as path:
        fig.savefig(path, bbox_inches="tight", dpi=150)


def log_image(image: np.ndarray, *, key: str, step: int = 0) -> None:
    """Log an image to the run's image grid.

    Args:
        image: uint8, (height, width), (height, width, 1), (height, width, 3) or (height, width, 4).
        key: the row of the grid; characters that MLflow refuses (class names, file names) become `_`.
        step: the column.

    Synchronous: MLflow's queue would drop errors.
    """
    if image.dtype != "uint8":
        raise InputError(f"log_image('{key}') takes uint8 pixels (0 to 255), got {image.dtype}")
    _client().log_image(_active(), image, key=_key(key), step=step, synchronous=True)


def log_json(values: Any, name: str) -> None:
    """Log anything that JSON can hold. NaN and infinities, which JSON has no words for, raise ValueError."""
    log_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False), name)


def log_text(text: str, name: str, *, run_id: str = "") -> None:
    """Log a text file, as UTF-8, to this notebook's run or to another."""
    with _file(name, run_id) as path:
        path.write_bytes(text.encode())


def log_file(path: str | Path, artifact_dir: str = "") -> None:
    """Log a file, under its own name, into the folder `artifact_dir` of the run's artifacts."""
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file to log")
    _log(_active(), Path(path), artifact_dir)


def log_file_as(run_id: str, path: str | Path, name: str) -> None:
    """Log a file to any run, open or ended, under another name."""
    with _file(name, run_id) as copy:
        shutil.copyfile(path, copy)


def _active() -> str:
    run = mlflow.active_run()
    if run is None:
        raise InputError("no run is open: run the cell that calls `tracking.start` first")
    return run.info.run_id


def _key(name: str) -> str:
    """A name that MLflow takes as metric or image key, whatever file or class it comes from."""
    clean = re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)
    clean = "/".join(part.strip(" ") for part in clean.split("/") if part.strip(" .")) or "_"
    return clean


@contextmanager
def _file(name: str, run_id: str = "") -> Iterator[Path]:
    """A file to write, which is logged as `name` at the end, to this notebook's run or to another."""
    folder, _, base = name.rpartition("/")
    _check_artifact_path(name)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / base
        yield path
        _log(run_id or _active(), path, folder)


def _log(run_id: str, path: Path, folder: str) -> None:
    """Log a file; what goes to the run that is open here is remembered for `finish`."""
    name = f"{folder}/{path.name}" if folder else path.name
    _check_artifact_path(name)
    digest = contents(path)
    _client().log_artifact(run_id, str(path), folder or None)
    active = mlflow.active_run()
    if active is not None and active.info.run_id == run_id:
        _logged(run_id)[name] = digest


@functools.cache
def _logged(run_id: str) -> dict[str, str]:
    """Artifact paths and SHA-256 of what this process has logged to its run; filled by `_log`."""
    return {}


def _check_artifact_path(name: str) -> None:
    """Names may come from data: none leads out of the run's own folder."""
    parts = name.split("/")
    if not all(part.strip() for part in parts) or {".", ".."} & set(parts) or "\\" in name or "\0" in name:
        raise InputError(
            f"artifact '{name}': not a plain path within the run (a, a/b): leave out '..', empty parts and "
            "backslashes"
        )


def _close(run_id: str, uri: str, *, by_hand: bool) -> None:
    """At the kernel's exit. Registered after MLflow's own hook, hence run before it, which says FINISHED."""
    mlflow.set_tracking_uri(uri)
    run = mlflow.active_run()
    if run is not None and run.info.run_id == run_id:
        mlflow.end_run("FAILED")
    notebook = _papermill_output() if by_hand else None
    if notebook is not None:
        log_file_as(run_id, notebook, "notebook.ipynb")


def _papermill_output() -> Path | None:
    """The notebook that papermill, run by hand, is writing: asked of the command line of the parent process.

    Papermill saves after every cell, hence before the kernel is told to exit. (It names the path to the notebook
    only with `--inject-output-path`.) None in Jupyter, or when the output is not a local file.
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
            path = Path(process.cwd()) / (context.params["output_path"] or "")
            return path if path.is_file() else None
    except psutil.Error:
        pass  # another user's process, or one that has gone: there is nothing to log then
    return None


def _edited(stage: str) -> bool:
    """Whether cells were run in this kernel that the notebook's file does not hold, or not all of its cells."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    notebook = notebooks_folder() / f"{STAGES.get(stage, '')}.ipynb"
    if shell is None or not notebook.is_file():
        return False
    run = [source.strip() for source in shell.history_manager.input_hist_raw]
    run = [cell_version(source) for source in run if source and not source.startswith("# Parameters")]
    cells = [cell_version(source) for source in code_cells(notebook)]
    last = cells.index(run[-1]) if run and run[-1] in cells else len(cells) - 1
    return set(run) != set(cells[: last + 1])


# ----------------------------------------------------------------------------------------- what the UI shows

_NOTE = "mlflow.note.content"  # the description of a run or an experiment, in Markdown
_DESCRIBED = "cxr.description_sha256"  # of the description that was written here: a person's own is left alone
_FIGURE_PIXELS = 800  # the UI shows a picture in its own size, in a column about so wide


def describe(text: str, *, figure: Figure | None = None) -> None:
    """Give this notebook's run its description (Markdown, `cxr.tracking.descriptions`), with a figure below it.

    The figure is logged as `overview.png`, small enough for the column that the UI shows it in.
    """
    run_id = _active()
    if figure is not None:
        with _file(descriptions.FIGURE) as path:
            figure.savefig(path, bbox_inches="tight", dpi=min(100, _FIGURE_PIXELS / figure.get_size_inches()[0]))
        text += "\n\n" + descriptions.image(run_id)
    describe_run(run_id, text)


def describe_run(run_id: str, text: str) -> None:
    """Give any run its description, unless a person has written another there."""
    _describe(_client().get_run(run_id).data.tags, text, functools.partial(_client().set_tag, run_id))


def describe_experiment(experiment: str, text: str, *, methods: Sequence[str], classes: Sequence[str]) -> None:
    """Give an experiment its description, unless a person has written another, and its views (`views`)."""
    client = _client()
    found = client.get_experiment_by_name(experiment)
    set_tag = functools.partial(client.set_experiment_tag, found.experiment_id)
    for key, value in views.tags(methods, [_key(name) for name in classes]).items():
        if found.tags.get(key) != value:
            set_tag(key, value)
    _describe(found.tags, text, set_tag)


def _describe(tags: Mapping[str, str], text: str, set_tag: Callable[[str, str], Any]) -> None:
    before = tags.get(_NOTE, "")
    if before and sha256(before) != tags.get(_DESCRIBED):
        return
    set_tag(_DESCRIBED, sha256(text))
    set_tag(_NOTE, text)


def log_dataset(
    name: str, digest: str, *, source: str, columns: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Log the data set of a train run as MLflow's own entities: what it is trained on, and its test split.

    Two entities, as MLflow keeps one role of a data set in a run.

    Args:
        name: of the data set, such as "phantom" or the folder's.
        digest: the manifest's hash; its beginning is enough to tell it by, and is shown beside the name.
        source: where it is; a path or a word, never read.
        columns: of the manifest.
        counts: split to {class: images}.
    """
    roles = {
        "training": (name, {split: counts[split] for split in counts if split != "test"}),
        "evaluation": (f"{name}, test split", {split: counts[split] for split in counts if split == "test"}),
    }
    schema = json.dumps({"mlflow_colspec": [{"name": column, "type": "string"} for column in columns]})
    datasets = []
    for role, (called, own) in roles.items():
        total = sum(sum(of.values()) for of in own.values())
        profile = json.dumps({"num_rows": total, "images_by_split_and_class": own})
        about = {
            "source_type": "local",
            "source": json.dumps({"uri": source}),
            "schema": schema,
            "profile": profile,
        }
        datasets.append((Dataset(called[:_MAX_DATASET_NAME], digest[:_DIGEST], **about), role))
    _log_datasets(datasets)


_MAX_DATASET_NAME, _DIGEST = 500, 12  # MLflow's limits are 500 and 36


def log_dataset_of(run_id: str) -> None:
    """Log the data set that a train run was evaluated on as one of this notebook's run too."""
    _log_datasets([(dataset, "evaluation") for dataset in _evaluated_on(_client().get_run(run_id))])


def _evaluated_on(run: mlflow.entities.Run) -> list[Dataset]:
    """Empty for a run of an older version."""
    found = run.inputs.dataset_inputs
    return [item.dataset for item in found if any(tag.value == "evaluation" for tag in item.tags)]


def _log_datasets(datasets: Sequence[tuple[Dataset, str]]) -> None:
    if datasets:
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", role)]) for dataset, role in datasets]
        _client().log_inputs(_active(), datasets=inputs)


def log_model(
    checkpoint: str,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    sha256: str,
    loadable: bool = False,
) -> None:
    """Log a checkpoint of this notebook's run as MLflow's own model entity; its file is logged before.

    The entity says what the model is and points to `checkpoints/<checkpoint>.keras` of the run: weights are kept
    once.

    Args:
        checkpoint: "before" or "after".
        params: to tell it by: architecture, seed, ...
        metrics: of this model on the test set; they become `model/<name>`, one column for both models of a run.
        sha256: of its file.
        loadable: whether `mlflow.keras` loads this one from "runs:/<run id>/checkpoints". One a run.
    """
    run_id = _active()
    client = _client()
    run = client.get_run(run_id)
    if loadable:
        log_text(_mlmodel(checkpoint, run_id), "checkpoints/MLmodel")
    where = f"runs:/{run_id}/checkpoints/{checkpoint}.keras"
    # external: MLflow then does not look for files of its own
    tags = {
        "cxr.stage": checkpoint,
        "cxr.checkpoint": where,
        "cxr.sha256": sha256,
        "mlflow.model.isExternal": "true",
    }
    model = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(
            r"""[/:.%"']""", "_", f"{params['architecture']}-s{params['seed']}-{checkpoint}"
        ),  # MLflow refuses them
        source_run_id=run_id,
        tags=tags,
        params={key: param_value(value) for key, value in params.items()},
        model_type="keras",
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    now = int(datetime.now(UTC).timestamp() * 1000)
    known = _evaluated_on(run)[:1]
    of = {"dataset_name": known[0].name, "dataset_digest": known[0].digest} if known else {}
    values = [
        Metric(f"model/{_key(key)}", float(value), now, 0, model_id=model.model_id, run_id=run_id, **of)
        for key, value in metrics.items()
        if math.isfinite(value)
    ]
    client.log_batch(run_id, metrics=values)


def _mlmodel(checkpoint: str, run_id: str) -> str:
    """The file by which `mlflow.keras.load_model` finds `<checkpoint>.keras` in its own folder."""
    flavour = {
        "data": checkpoint,
        "keras_version": importlib.metadata.version("keras"),
        "keras_backend": "tensorflow",
    }
    return yaml.safe_dump(
        {
            "artifact_path": "checkpoints",
            "flavors": {"keras": {**flavour, "save_exported_model": False}},
            "mlflow_version": mlflow.__version__,
            "run_id": run_id,
        }
    )


def model_name(experiment: str, architecture: str) -> str:
    """The name of the registered model of an architecture; MLflow refuses `/` and `:` in it."""
    return re.sub(r"[/:]", "_", f"{experiment}.{architecture}")


def register(*, architecture: str, seed: Any, weights: str, data: str) -> None:
    """Register the fine-tuned model of this notebook's train run: one version a training, once.

    A store without a registry, or one in which this user may not write, is said in one line and is no error.
    """
    run = run_info(_active())
    name = model_name(run.experiment_name, architecture)
    experiment = experiment_id(run.experiment_name)
    client = _client()
    with _registry():
        if _versions_of(run.run_id):
            return
        try:
            about = descriptions.model(architecture, experiment=run.experiment_name)
            client.create_registered_model(name, tags={"cxr.experiment": run.experiment_name}, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=f"runs:/{run.run_id}/checkpoints",
            run_id=run.run_id,
            tags={"architecture": architecture, "seed": str(seed), "weights": weights},
            description=descriptions.model_version(
                architecture, seed, experiment_id=experiment, train_run=run.run_id, data=data
            ),
        )
        client.set_registered_model_alias(name, f"s{seed}", version.version)
        for output in client.get_run(run.run_id).outputs.model_outputs:
            if client.get_logged_model(output.model_id).tags.get("cxr.stage") == "after":
                # a server sets this tag itself where it is told of the model, but then it wants the weights there
                registered = json.dumps([{"name": name, "version": version.version}])
                client.set_logged_model_tags(output.model_id, {"mlflow.modelVersions": registered})
        print(f"registered: models:/{name}/{version.version}, also models:/{name}@s{seed}")


def tag_model(train_run: str, tags: Mapping[str, Any]) -> None:
    """Set tags of the registered model of a train run, if there is one (see `register`). NaN is left out."""
    client = _client()
    with _registry():
        for version in _versions_of(train_run):
            for key, value in tags.items():
                if not (isinstance(value, float) and math.isnan(value)):
                    text = f"{value:.4f}" if isinstance(value, float) else str(value)
                    client.set_model_version_tag(version.name, version.version, key, text)


def _versions_of(train_run: str) -> list[Any]:
    return list(_client().search_model_versions(f"run_id = '{train_run}'"))


@contextmanager
def _registry() -> Iterator[None]:
    try:
        yield
    except StoreGone:
        raise
    except (MlflowException, NotImplementedError) as error:
        print(f"not registered as a model, which nothing depends on: {first_line(error, most=200)}")


# ------------------------------------------------------------------------------------------- other runs


def run_info(run_id: str) -> RunInfo:
    """What a run says of itself.

    Raises:
        InputError: there is no such run, or another version of cxr made it, which named things differently.
    """
    try:
        run = _client().get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"no run '{run_id}' in {mlflow.get_tracking_uri()} ({first_line(error)}): mend the run id, or "
            "MLFLOW_TRACKING_URI if the run is kept elsewhere"
        ) from None
    found = _info(run, _client().get_experiment(run.info.experiment_id).name)
    if found.stage and found.tags.get(_SCHEMA_TAG) != SCHEMA:
        raise InputError(
            f"run {run_id} ({found.name}) was made by an earlier version of cxr, whose names differ: run its "
            "notebook again, or use that version"
        )
    return found


def run_url(run_id: str) -> str:
    """Where the run's page is: on the tracking server, or, for a store on this machine, where `cxr ui` shows
    it."""
    uri = mlflow.get_tracking_uri()
    server = uri.rstrip("/") if is_server(uri) else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{_client().get_run(run_id).info.experiment_id}/runs/{run_id}"


def front_pages(server: str, most: int = 3) -> list[str]:
    """Lines with the addresses of the views (`cxr.tracking.views`) of the experiments that were changed last."""
    lines = []
    found = _client().search_experiments(order_by=["last_update_time DESC"], max_results=100)
    for experiment in [item for item in found if views.has(item.tags)][:most]:
        lines.append(f"  {experiment.name}")
        lines += [f"    {name:9} {server}/{views.address(experiment.experiment_id, name)}" for name in views.KEYS]
    return lines


def link(run_id: str) -> descriptions.Link:
    """A link to a run for a description: its name and, relative to the server, its page."""
    run = _client().get_run(run_id)
    return descriptions.run_link(run.info.run_name, run.info.experiment_id, run_id)


def find(
    stage: str | None = None,
    *,
    experiment: str,
    fingerprint: str | None = None,
    complete: bool = True,
    parent: str | None = None,
) -> list[RunInfo]:
    """Runs of an experiment, newest first; none if there is no such experiment.

    Runs that an earlier version of cxr made are left out: their names differ (see `count_earlier`).

    Args:
        stage: of this stage only.
        experiment: the experiment's name.
        fingerprint: with this fingerprint only (and unedited, see `finish`).
        complete: complete runs only.
        parent: children of this run only.
    """
    client = _client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    conditions = [_OF_THIS_SCHEMA]
    for value in (stage, fingerprint, parent):  # ids and hashes only: none can end the quotes it stands in
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_\-]*", value):
            raise InputError(f"'{value}': not a stage, fingerprint or run id")
    if stage is not None:
        conditions.append(f"tags.`cxr.stage` = '{stage}'")
    if fingerprint is not None:
        conditions.append(f"tags.`cxr.fingerprint` = '{fingerprint}'")
    if complete:
        conditions += ["attributes.status = 'FINISHED'", "tags.`cxr.complete` = 'true'"]
    if parent is not None:
        conditions.append(f"tags.`mlflow.parentRunId` = '{parent}'")
    runs = [_info(run, experiment) for run in _search(found.experiment_id, conditions)]
    return [run for run in runs if fingerprint is None or run.tags.get("cxr.edited") != "true"]


def count_earlier(experiment: str) -> int:
    """How many complete runs of an experiment an earlier version of cxr made; `find` leaves them out."""
    client = _client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    complete = "tags.`cxr.complete` = 'true'"
    oldest = client.search_runs(
        [found.experiment_id], complete, max_results=1, order_by=["attributes.start_time ASC"]
    )
    if all(run.data.tags.get(_SCHEMA_TAG) == SCHEMA for run in oldest):
        return 0  # later ones are of this version too: no need to read them all
    # MLflow cannot ask for runs without a tag
    return sum(run.data.tags.get(_SCHEMA_TAG) != SCHEMA for run in _search(found.experiment_id, [complete]))


def _search(experiment: str, conditions: Sequence[str]) -> Iterator[mlflow.entities.Run]:
    """Runs of an experiment, by its id, that meet all conditions, newest first."""
    token = None
    while True:
        page = _client().search_runs(
            [experiment],
            " and ".join(conditions),
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def latest(stage: str, *, experiment: str, **params: Any) -> str:
    """The id of the newest complete run of a stage whose logged parameters are `params`.

    Raises:
        InputError: there is none; the message says which notebook to run first.
    """
    wanted = {key: param_value(value) for key, value in params.items()}
    for run in find(stage, experiment=experiment):
        if all(run.params.get(key) == value for key, value in wanted.items()):
            return run.run_id
    which = "".join(f", {key} {value}" for key, value in wanted.items())
    raise InputError(
        f"no finished {stage} run in the experiment '{experiment}'{which} ({mlflow.get_tracking_uri()}): run "
        f"{STAGES.get(stage, stage)}.ipynb first, or name the experiment that has one with the parameter `name`"
    )


def experiments_with(stage: str) -> list[str]:
    """Names of the experiments that hold a complete run of a stage, that with the newest such run first."""
    client, found, token = _client(), {}, None
    condition = (
        f"{_OF_THIS_SCHEMA} and tags.`cxr.stage` = '{stage}' and attributes.status = 'FINISHED' and "
        "tags.`cxr.complete` = 'true'"
    )
    while True:
        page = client.search_experiments(page_token=token)
        for experiment in page:
            newest = client.search_runs(
                [experiment.experiment_id], condition, max_results=1, order_by=["attributes.start_time DESC"]
            )
            found.update((experiment.name, run.info.start_time) for run in newest)
        token = page.token
        if not token:
            return sorted(found, key=found.get, reverse=True)


def upstream(*run_ids: str) -> dict[str, str]:
    """The `inputs` of a notebook that reads these complete runs, all of one stage, in any order.

    Runs are told by their ids: a stage that was run again hands on other numbers (on another machine, or where
    `deterministic` is off), so that what was computed from its first run is not what the second would give.

    Raises:
        InputError: a run does not exist, is not complete, or has another stage than the first.
    """
    runs = [run_info(run_id) for run_id in run_ids]
    if not runs:
        raise InputError("no run ids given: name the runs to read")
    for run in runs:
        if not run.complete:
            raise InputError(f"run {run.run_id} ({run.name}) is {run.status} and not complete: run it again")
        if run.stage != runs[0].stage:
            raise InputError(f"run {run.run_id} ({run.name}) is a {run.stage} run, and others are {runs[0].stage}")
    ids = sorted(set(run_ids))
    return {runs[0].stage: ids[0] if len(ids) == 1 else sha256("\n".join(ids))}


def fetch(run_id: str, artifact_path: str) -> Path:
    """A local copy of an artifact (file or folder) of a run, which is deleted when this process exits.

    Each file is compared with the SHA-256 that the run logged in `finish` (runs of older versions have none).

    Raises:
        InputError: there is no such run or artifact; names both, and what the run holds instead. A file is not
            the one that the run logged, or was taken away from a folder or added to it.
    """
    info = run_info(run_id)
    _check_artifact_path(artifact_path)
    # MLflow puts what it downloads under its last name: `maps/x` and `variants/x` are two things
    folder = scratch() / run_id / PurePosixPath(artifact_path).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = _ask(
            mlflow.artifacts.download_artifacts, run_id=run_id, artifact_path=artifact_path, dst_path=str(folder)
        )
    except (MlflowException, OSError) as error:
        raise InputError(
            f"run {run_id} ({info.name}, {info.status}) has no artifact '{artifact_path}' that can be read: "
            f"{first_line(error)}. It holds: {', '.join(artifacts(run_id)) or 'nothing'}"
        ) from None
    if _SHA256_TAG in info.tags and artifact_path != _SHA256:
        _verify(info, artifact_path, Path(found))
    return Path(found)


def _verify(run: RunInfo, artifact_path: str, found: Path) -> None:
    """Raise InputError where a downloaded file or folder is not what the run logged.

    Files that are not in the run's table are taken as they are (the study adds some later), but not within a
    folder of which the run logged some: there, a missing or an added file counts as well.
    """
    logged = _logged_by(run)
    within = {name for name in logged if name.startswith(f"{artifact_path}/")}
    files = {artifact_path: found}
    if found.is_dir():
        files = {f"{artifact_path}/{p.relative_to(found).as_posix()}": p for p in found.rglob("*") if p.is_file()}
    which = f"run {run.run_id} ({run.name})"
    advice = _again(run)
    for name in sorted(within - set(files)):
        raise InputError(f"{which}: artifact '{name}', which the run logged, is missing: {advice}")
    for name, path in sorted(files.items()):
        if name not in logged:
            if within:
                raise InputError(f"{which}: artifact '{name}' was not logged by the run: remove it")
            continue
        digest = contents(path)
        if digest != logged[name]:
            raise InputError(
                f"{which}: artifact '{name}' is not the file that the run logged (sha256 {digest[:16]}… instead "
                f"of {logged[name][:16]}…): {advice}"
            )


def _logged_by(run: RunInfo) -> dict[str, str]:
    """The run's `sha256.json`, if it is the one that its tag tells of; this process fetches it once."""
    here = scratch() / run.run_id / _SHA256
    if here.is_file() and contents(here) == run.tags[_SHA256_TAG]:
        return json.loads(here.read_text(encoding="utf-8"))
    if _SHA256 not in artifacts(run.run_id):
        raise InputError(
            f"run {run.run_id} ({run.name}): '{_SHA256}', by which its files are known again, is missing: "
            f"{_again(run)}"
        )
    path = fetch(run.run_id, _SHA256)
    if contents(path) != run.tags[_SHA256_TAG]:
        raise InputError(
            f"run {run.run_id} ({run.name}): '{_SHA256}' is not the file that the run logged: {_again(run)}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _again(run: RunInfo) -> str:
    """What to do with a run whose files are not what they were. A study takes it for done while it is there."""
    notebook = STAGES.get(run.stage, "its notebook")
    return f"restore it, or delete the run (`mlflow runs delete --run-id {run.run_id}`) and run {notebook} again"


def artifacts(run_id: str) -> list[str]:
    """The names of what a run holds, at the top level; folders end in `/`."""
    return [item.path + ("/" if item.is_dir else "") for item in _client().list_artifacts(run_id)]


def read_table(run_id: str, name: str) -> pd.DataFrame:
    """A table that `log_table` logged. Raises InputError as `fetch` does."""
    import pandas as pd

    path = fetch(run_id, name)
    return pd.read_parquet(path) if _table_suffix(name) == ".parquet" else pd.read_csv(path)


def versions(run_id: str, names: Sequence[str]) -> dict[str, str]:
    """Versions of packages that a run was made with, as far as it had them."""
    found = json.loads(fetch(run_id, "environment.json").read_text())["packages"]
    return {name: found[name] for name in names if name in found}


def _info(run: mlflow.entities.Run, experiment: str) -> RunInfo:
    return RunInfo(
        run_id=run.info.run_id,
        name=run.info.run_name,
        stage=run.data.tags.get("cxr.stage", ""),
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        start=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        end=datetime.fromtimestamp(run.info.end_time / 1000, UTC) if run.info.end_time else None,
        experiment_name=experiment,
    )


def _table_suffix(name: str) -> str:
    suffix = Path(name).suffix
    if suffix not in (".parquet", ".csv"):
        raise InputError(f"table '{name}': the name has to end in .parquet or .csv")
    return suffix


@functools.cache
def scratch() -> Path:
    """This process' own folder for files on their way into or out of runs; deleted when it exits."""
    folder = Path(tempfile.mkdtemp(prefix="cxr-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --------------------------------------------------------------------------------------- the study's own runs


def create_run(
    *, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
) -> str:
    """Create a run, without opening it in this process, and return its id."""
    client = _client()
    family = {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment_id(experiment), tags={_SCHEMA_TAG: SCHEMA, **tags, **family}, run_name=name)
    log_params(run.info.run_id, params)
    return run.info.run_id


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of any run."""
    for key, value in tags.items():
        _client().set_tag(run_id, key, value)


def end_run(run_id: str, status: str) -> None:
    """End any run as FINISHED, FAILED or KILLED; only a FINISHED one can be complete."""
    client = _client()
    if status != "FINISHED" and "cxr.complete" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "cxr.complete")
    client.set_terminated(run_id, status)


def reopen_run(run_id: str) -> None:
    """Say of an ended run that it is running again."""
    _client().update_run(run_id, status="RUNNING")


# --------------------------------------------------------------------------------------------- provenance


def fingerprint(stage: str, settings: Params, inputs: Mapping[str, str], *, notebooks: Path | None = None) -> str:
    """SHA-256, in hexadecimal, of all that the results of a stage depend on.

    That is the settings that matter to it (not the names of things, paths or run ids), its inputs, and
    `code_version` of its notebook. Where `weights` stands for files, their contents count, not their path; where
    `architecture` is a function of the user's, so does the file that it is in. Versions of packages are not part
    of it: they are logged with each run.
    """
    values = settings.model_dump(mode="json")
    left_out = _NOT_IN_FINGERPRINT if values.get("data") == "phantom" else _NOT_IN_FINGERPRINT | _OF_PHANTOM
    values = {key: value for key, value in values.items() if key not in left_out}
    if "weights" in values:
        values["weights"] = _weights(values["weights"], values["architecture"])
    if architectures.is_entry_point(str(values.get("architecture"))):
        values["architecture_source"] = architectures.source_hash(values["architecture"])
    return sha256(
        json.dumps(
            {
                "stage": stage,
                "settings": values,
                "inputs": dict(inputs),
                "code": _code_version(_notebook_name(stage), notebooks or notebooks_folder()),
            },
            sort_keys=True,
            allow_nan=False,
        )
    )


def _code_version(notebook: str, folder: Path) -> str:
    """`code_version` of a notebook; where figures are the product (`4_compare`), what draws them counts."""
    drawn = {"report.figures"} if notebook == STAGES["compare"] else set()
    return code_version(folder / f"{notebook}.ipynb", without=NOT_IN_CODE - drawn)


def environment() -> dict[str, Any]:
    """Python, platform, and the version of every installed package, without importing any."""
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: installed[name] for name in sorted(installed, key=str.lower)},
    }


def git_tags() -> dict[str, str]:
    """The project's commit and whether tracked files differ from it; empty outside of a git repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "cxr.git.dirty": str(bool(dirty)).lower()}


def _git(*words: str) -> str:
    command = ["git", "-C", str(project()), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _notebook_name(stage: str) -> str:
    if stage not in STAGES:
        raise InputError(f"unknown stage '{stage}': known are {', '.join(STAGES)}")
    return STAGES[stage]


def _weights(weights: str, architecture: str) -> str:
    """`weights` as the fingerprint has it: with the contents of the files that it stands for.

    Those in the package are part of `code_version`, and Keras checks those of `imagenet`.
    """
    if weights in ("imagenet", "none"):
        return weights
    if weights == "source":
        from cxr.data.cache import default_cache

        own = default_cache() / "weights" / f"{architecture}.npz"  # as in models.find_weights
        return f"source {contents(own)}" if own.is_file() else "source"
    path = Path(weights).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.*")) if path.is_dir() else []
    return " ".join(["files", *(contents(file) for file in files if file.suffix in (".h5", ".keras", ".npz"))])
