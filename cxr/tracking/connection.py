"""Which MLflow store: its address, whether it answers, what it takes, and calls that wait while it is away."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import requests
import tenacity
from mlflow.exceptions import MlflowException

from cxr.core import arrays, names
from cxr.core.errors import InputError, first_line, without_password
from cxr.core.progress import progress
from cxr.data import pseudonyms
from cxr.tracking import views

_PROBE_SECONDS = 5
_SERVER = ("http://", "https://")
_MAX_PARAM = 500  # characters; MLflow would cut at 6000, and a table of runs is unreadable long before
_TEXT = "ä · → ≥"  # such as is in descriptions


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
    return _sqlite_uri(project() / "mlruns" / "mlflow.db")


def resolve(tracking_uri: str | None = None) -> str:
    """The absolute URI that `connect` would use.

    A user name and password in the address of a server go into the environment (MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD), where MLflow looks for them, and are not part of what is returned.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    if is_server(uri):
        given = urlsplit(uri)
        for name, value in (("USERNAME", given.username), ("PASSWORD", given.password)):
            if value is not None:
                os.environ[f"MLFLOW_TRACKING_{name}"] = unquote(value)
        return without_password(uri)
    database = _sqlite_path(uri)
    return uri if database is None else _sqlite_uri(database, uri.partition("?")[2])


def is_server(uri: str) -> bool:
    """Whether that is the address of an MLflow server, which has a UI of its own."""
    return uri.startswith(_SERVER)


def ui_command(uri: str) -> str:
    """What a person types to see the runs of a store."""
    return "cxr ui" if uri == default_uri() else f"cxr ui --tracking-uri {shlex.quote(without_password(uri))}"


def is_new(tracking_uri: str) -> bool:
    """Whether that is a SQLite store that does not exist yet."""
    database = _sqlite_path(tracking_uri)
    return database is not None and not database.exists()


def keep_key_out(settings: Any, tracking_uri: str, out: Path | None = None) -> None:
    """Raise InputError if the key of the images' pseudonyms would lie in the store, or in the folder `out`.

    Call it before the images are listed, which makes the key (`cxr.data.pseudonyms`).
    """
    data, database = getattr(settings, "data", "phantom"), _sqlite_path(tracking_uri)
    if data in ("", "phantom") or getattr(settings, "pseudonymise", False) is False:
        return
    if out is not None:
        pseudonyms.refuse_inside(out, "the folder of the study")
    place = urlsplit(tracking_uri)
    if database is not None:
        # a database that lies in the home folder itself does not make a store of all that is in it
        whole = database.parent != Path.home()
        pseudonyms.refuse_inside(database.parent if whole else database.parent / "artifacts", "the MLflow store")
    elif place.scheme in ("", "file"):
        pseudonyms.refuse_inside(Path(unquote(place.path)).absolute(), "the MLflow store")


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
                lock = arrays.locked(database.with_name(f"{database.name}.lock"), lambda: progress(waits))
            with lock:  # MLflow makes the tables now: of two processes that find none, one would fail
                probe = functools.partial(mlflow.MlflowClient(uri).search_experiments, max_results=1)
                ask(probe) if is_step else _check_text(uri, probe)
        except InputError:
            raise
        # SQLAlchemy, requests, drivers: each store fails in its own way, and a person can only put right the URI
        except Exception as error:
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


def experiment_id(name: str) -> str:
    """The id of the experiment `name`, which is created where missing. Raises InputError if it was deleted."""
    client = mlflow_client()
    found = client.get_experiment_by_name(name)
    if found is None:
        database = _sqlite_path(mlflow.get_tracking_uri())  # a server has a place of its own for files
        try:
            # The UI then opens on runs and metrics, not on traces of language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            location = (database.parent / "artifacts" / name).as_uri() if database else None
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
    check_reach(found)
    return found.experiment_id


def check_reach(experiment: mlflow.entities.Experiment) -> None:
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
    """An MLflow client whose calls go through `ask`."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return functools.partial(ask, getattr(self._client, name))


def mlflow_client() -> _Client:
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not given or (is_server(given) and given != without_password(given)):
        connect()
    return _Client(mlflow.MlflowClient())


def ask(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result of `call(*args, **options)`, a call to the store; waits for a store that is away.

    MLflow itself asks a server again that does not answer, or answers 408, 429 or 5xx. What it does not, is done
    here: a database that another process has locked, a download that breaks off, and a row that another process
    wrote first.

    Raises:
        StoreGone: it stayed away.
        InputError: a server refuses (`_refusal`). Other errors pass through at once.
    """
    uri = without_password(mlflow.get_tracking_uri())
    try:
        return _retrying(_again, call, *args, **options)
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


def _was_beaten(error: BaseException) -> bool:
    """Whether another process wrote a row first: MLflow looks for it, finds none, and then cannot add it.

    So it is with a data set that several notebooks log at once. Asked again, MLflow finds the row.
    """
    lost = ("IntegrityError", "UniqueViolation")  # as SQLite and MySQL, and as PostgreSQL call it
    return isinstance(error, MlflowException) and any(word in str(error) for word in lost)


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


_again = tenacity.Retrying(
    retry=tenacity.retry_if_exception(_was_beaten), stop=tenacity.stop_after_attempt(3), reraise=True
)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk (or a quota) is full, that of the store too."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return full or "database or disk is full" in text or "No space left on device" in text


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    # As SQLAlchemy reads it: only "?" ends the path, which "#" does in addresses of the web.
    path = unquote(uri.removeprefix("sqlite:///").partition("?")[0])  # sqlite:///relative, sqlite:////absolute
    return Path(path).absolute()


def _sqlite_uri(path: Path, query: str = "") -> str:
    """The address of a database file, of which `_sqlite_path` is the inverse; it stays as readable as possible."""
    text = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", path.as_posix()).replace("?", "%3F")
    return f"sqlite:///{text}{f'?{query}' if query else ''}"


def _check_database(path: Path) -> None:
    """Fail at once where MLflow would retry for minutes."""
    advice = "choose another store with --tracking-uri or MLFLOW_TRACKING_URI"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_PROBE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except OSError as error:
        raise InputError(f"{path.parent}: cannot hold the MLflow store ({error.strerror}): {advice}") from None
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be used as the MLflow store ({error}): {advice}") from None


def _unreachable(uri: str, error: Exception) -> str:
    first = first_line(error)
    if not is_server(uri):
        advice = "mend --tracking-uri or MLFLOW_TRACKING_URI"
        return f"the MLflow store {without_password(uri)} cannot be used: {advice}; it said: {first}"
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


def active_run_id() -> str:
    run = mlflow.active_run()
    if run is None:
        raise InputError("no run is open: run the cell that calls `tracking.start` first")
    return run.info.run_id


def param_value(value: Any) -> str:
    """A parameter as MLflow shows and filters it: lists with commas; long ones cut (see parameters.yaml)."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _MAX_PARAM else f"{text[: _MAX_PARAM - 30]} … (see parameters.yaml)"


def key_of(name: str) -> str:
    """A name that MLflow takes as metric or image key, whatever file or class it comes from."""
    return "/".join(part.strip(" ") for part in names.key(name).split("/") if part.strip(" .")) or "_"
