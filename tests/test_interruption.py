"""Kills, full disks, and stores that do not answer: nothing is lost, and a message says what happened."""

import errno
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
import requests
import servers
import tenacity
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from urllib3.exceptions import ConnectTimeoutError

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.core.params import StudyParams, TrainParams
from cxr.data import dataset, manifest
from cxr.study import grid, resuming, runner, study_run
from cxr.study.session import Session, State
from cxr.study.session import runner as own_identity
from cxr.tracking import connection


@pytest.fixture(scope="module")
def store(tmp_path_factory, new_store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        yield tracking.connect(new_store(tmp_path_factory.mktemp("interruption")))


def session(tmp_path, *, steps=(), **values) -> Session:
    params = StudyParams(name="fake", phantom_images=60, **values)
    setup = grid.Setup(tmp_path / "x.yaml", {}, notebooks=tmp_path, out=tmp_path / "out")
    return Session(params, setup, steps, manifest.build_manifest(params), tracking_uri="", environment={})


def test_each_training_has_the_fingerprint_of_its_own_splits(tmp_path):
    """A run of other splits is never taken for done."""
    plain = session(tmp_path, seed=[0, 1])
    steps = grid.plan(plain.study)
    one, two = (next(s for s in steps if s.stage == "train" and s.parameters["seed"] == seed) for seed in (0, 1))
    assert plain.manifest_hash_of(one) == plain.manifest_hash_of(two) == plain.manifest_hash
    study = plain.study.model_copy(update={"vary_split": True})
    images = manifest.build_manifest(study, vary=0)
    varied = replace(
        plain, study=study, manifest=images, other_splits={1: manifest.with_splits_of(images, study, 1)}
    )
    assert varied.manifest_hash_of(one) == plain.manifest_hash != varied.manifest_hash_of(two)
    settings = TrainParams(phantom_images=60, seed=1, vary_split=True)
    assert varied.manifest_hash_of(two) == dataset.open(settings).manifest_hash
    assert varied.fingerprint != plain.fingerprint


def parent_of(tmp_path, runner: str, **tags) -> str:
    fingerprint = session(tmp_path).fingerprint
    tags = {"cxr.stage": "study", "cxr.fingerprint": fingerprint, "cxr.runner": runner, **tags}
    return tracking.create_run(experiment="fake", name="study", tags=tags, params={})


def dead() -> str:
    """The identity of a process on this machine that has ended."""
    return f"{socket.gethostname()}:{os.getpid()}:12345"


# -- files


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "x.npz"
    with atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npz" and not path.exists()
        temporary.write_text("first")
    assert path.read_text() == "first"
    with pytest.raises(OSError, match="full"), atomic(path) as temporary:
        temporary.write_text("sec")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


# -- killed studies


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_a_killed_study_left_running_is_stopped_and_its_runs_end(tmp_path, store):
    parent = parent_of(tmp_path, dead())
    runs = [
        tracking.create_run(experiment="fake", name=name, tags={}, params={}, parent=parent)
        for name in ("with tag", "found by its environment", "complete")
    ]
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    environments = [{**os.environ, "MLFLOW_RUN_ID": run} for run in (runs[1], "f" * 32)]
    started = [subprocess.Popen(sleep, start_new_session=True)]
    started += [subprocess.Popen(sleep, env=one, start_new_session=True) for one in environments]
    try:
        tracking.set_tags(runs[0], {"cxr.process": processes.identity(started[0].pid)})
        tracking.set_tags(runs[2], {"cxr.complete": "true", "cxr.process": dead()})
        tracking.end_run(runs[2], "FINISHED")
        resuming.stop_abandoned(session(tmp_path))
        assert started[0].poll() is not None and started[1].poll() is not None
        assert started[2].poll() is None  # it belongs to another run
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [tracking.stored(run).status for run in (*runs, parent)] == ["KILLED", "KILLED", "FINISHED", "KILLED"]


def test_a_study_on_another_machine_lives_as_long_as_it_gives_signs_of_life(tmp_path, store):
    moment = datetime.now(UTC)
    parent = parent_of(tmp_path, "elsewhere:12:34", **{"cxr.alive": moment.isoformat()})
    child = tracking.create_run(experiment="fake", name="c", tags={}, params={}, parent=parent)
    with pytest.raises(
        InputError, match=r"run already, by process 12 on elsewhere \(last sign of life . s ago; .*15 min"
    ):
        resuming.stop_abandoned(session(tmp_path))
    resuming.stop_abandoned(session(tmp_path, seed=[7]))  # same name, other settings: not the same study
    assert tracking.stored(child).status == "RUNNING"
    tracking.set_tags(parent, {"cxr.alive": (moment - timedelta(minutes=20)).isoformat()})
    resuming.stop_abandoned(session(tmp_path))
    assert [tracking.stored(run).status for run in (child, parent)] == ["KILLED", "KILLED"]


def test_two_studies_do_not_write_into_one_folder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / ".running").write_text(processes.identity(other.pid))
        with (
            pytest.raises(InputError, match=f"another study is writing there .process {other.pid}.*--out"),
            resuming.claimed(tmp_path),
        ):
            pass
        other.communicate(b"\n")
    with resuming.claimed(tmp_path):  # the other study is dead
        assert (tmp_path / ".running").read_text() == own_identity()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot write there .*--out"), resuming.claimed(tmp_path / "file"):
        pass


@pytest.mark.parametrize("case", ["own", "another run's", "half written"])
def test_a_notebook_that_was_not_logged_any_more_is_logged_at_the_next_start(tmp_path, store, case, capsys):
    step = grid.plan(StudyParams())[0]
    own = session(tmp_path, steps=[step])
    out = own.setup.out
    out.mkdir()
    run_id = tracking.create_run(experiment="fake", name="x", tags={}, params={}, parent="f" * 32)
    record = {} if case == "half written" else {"end_time": "now", "exception": None}
    (out / f"{step.file}.ipynb").write_text(json.dumps({"metadata": {"papermill": record}}))
    (out / f"{step.file}.log").write_text(f"run {'0' * 32 if case.startswith('another') else run_id}\nmore\n")
    resuming.log_missing_notebooks(own, State(runs={step.key: run_id}))
    assert (tracking.stored(run_id).has("notebook.ipynb")) == (case == "own")
    assert ("has all results but no notebook" in capsys.readouterr().out) == (case != "own")


@pytest.mark.parametrize("left", ["nothing", "its-notebook", "its-logged-notebook", "its-report"])
def test_a_compare_run_without_report_and_notebook_is_run_again(tmp_path, store, monkeypatch, left):
    step = grid.plan(StudyParams())[-1]
    own = session(tmp_path, steps=[step])
    out = own.setup.out
    out.mkdir()
    assert step.stage == "compare"
    tags = {"cxr.stage": "compare", "cxr.fingerprint": left, "cxr.complete": "true"}
    run_id = tracking.create_run(experiment="fake", name="compare", tags=tags, params={})
    tracking.end_run(run_id, "FINISHED")
    (tmp_path / "x").write_text("x")
    if left == "its-notebook":
        whole = {"metadata": {"papermill": {"end_time": "now", "exception": None}}}
        (out / f"{step.file}.ipynb").write_text(json.dumps(whole))
        (out / f"{step.file}.log").write_text(f"run {run_id}\n")
    elif left == "its-logged-notebook":
        tracking.log_file_as(run_id, tmp_path / "x", "notebook.ipynb")
    elif left == "its-report":
        tracking.log_file_as(run_id, tmp_path / "x", "report.html")
    state = State(runs=dict.fromkeys(step.needs, "f" * 32))
    monkeypatch.setattr(Session, "fingerprint_of", lambda *_: left)
    resuming.find_done(own, state)
    assert (step.key in state.runs) == (left != "nothing")
    # a worker finds the same when it comes to this step
    assert study_run.has_report(tracking.stored(run_id)) == (left in ("its-logged-notebook", "its-report"))


def test_code_that_changed_while_the_study_ran_is_said_and_tagged(tmp_path, store, monkeypatch, capsys):
    steps = grid.plan(StudyParams())[:1]
    own = session(tmp_path, steps=steps)
    tags = {"cxr.fingerprint": "aaa"}
    runs = {"compare": tracking.create_run(experiment="fake", name="x", tags={}, params={})}
    runs[steps[0].key] = tracking.create_run(experiment="fake", name="x", tags=tags, params={})
    state = State(runs=runs, parent=tracking.create_run(experiment="fake", name="x", tags={}, params={}))
    monkeypatch.setattr(Session, "fingerprint_of", lambda *_: "aaa")
    assert resuming.find_mixed(own, state) == []
    monkeypatch.setattr(Session, "fingerprint_of", lambda *_: "bbb")
    mixed = resuming.find_mixed(own, state)
    resuming.note_mixed(state, mixed)
    assert mixed == [steps[0].key]
    said = capsys.readouterr().out
    assert "changed while the study ran. 1 notebooks ran with another version" in said and mixed[0] in said
    for run in (state.parent, runs["compare"]):
        assert tracking.stored(run).tags["cxr.mixed_code"] == mixed[0]


@pytest.mark.slow
def test_several_processes_make_one_new_store(tmp_path):
    command = [sys.executable, "-c", "import sys; from cxr import tracking; tracking.connect(sys.argv[1])"]
    made = [
        subprocess.Popen([*command, f"sqlite:///{tmp_path}/new/mlflow.db"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in made]
    assert [process.returncode for process in made] == [0] * 2, errors
    assert not list(tmp_path.glob("**/*.lock"))


# -- stores that go away


@contextmanager
def server(*statuses: int, port: int = 0):
    """Answers each request with the next status; repeats the last. Yields its address and the requested paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            status = statuses[min(len(asked), len(statuses)) - 1]
            body = b'{"experiments": []}' if status == 200 else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", asked
        found.shutdown()


@pytest.fixture
def ask(monkeypatch):
    """Asks the store at an address as notebooks do, but MLflow waits only 0, 2, 4, ... s between attempts."""
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")

    def call(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        return list(connection.mlflow_client().search_experiments())

    yield call
    mlflow.set_tracking_uri(before)


def test_a_step_waits_ten_minutes_for_its_server():
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR, MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from urllib3.util import Retry

    retry = Retry(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), backoff_factor=MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get())
    seconds = 0.0
    while not retry.is_exhausted() and retry.total:
        retry = retry.increment(error=ConnectTimeoutError())
        seconds += retry.get_backoff_time()
    assert 590 < seconds < 620


def test_a_server_that_comes_back_is_waited_for(ask):
    port = servers.free_port()
    with ExitStack() as stack:
        later = threading.Timer(1.0, lambda: stack.enter_context(server(200, port=port)))
        later.start()
        assert ask(f"http://127.0.0.1:{port}") == []
        later.join()


def test_it_is_said_that_a_step_waits_for_its_server():
    uri = f"http://127.0.0.1:{servers.free_port()}"
    run = [sys.executable, "-c", f"from cxr import tracking; tracking.connect({uri!r})"]
    environment = {"MLFLOW_RUN_ID": "x", "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, **environment})
    assert re.search(r"WARNING Retrying .*Connection refused.*/mlflow/experiments", done.stderr), done.stderr


def test_a_server_that_has_trouble_is_asked_again(ask):
    with server(503, 502, 200) as (uri, asked):
        assert ask(uri) == [] and len(asked) == 3


def test_a_server_that_stays_away_ends_the_wait(ask, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(tracking.StoreGone, match="does not answer.* give the same command again"):
        ask(f"http://127.0.0.1:{servers.free_port()}")
    with server(500) as (uri, asked), pytest.raises(tracking.StoreGone, match="too many 500"):
        ask(uri)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [(401, InputError, r"refuses \(HTTP 401\)"), (403, InputError, "refuses"), (404, MlflowException, "404")],
)
def test_other_answers_are_not_waited_for(ask, monkeypatch, status, error, said):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    with server(status) as (uri, asked), pytest.raises(error, match=said):
        ask(uri)
    assert len(asked) == 1


def test_a_mistyped_address_is_refused_at_once(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    uri, began = f"http://127.0.0.1:{servers.free_port()}", time.monotonic()
    with pytest.raises(InputError, match=f"no MLflow server answers at {uri}: start it, or mend --tracking-uri"):
        tracking.connect(uri)
    assert time.monotonic() - began < 10


def sqlite_error(tmp_path, *, full: bool) -> MlflowException:
    """An error of SQLite, as MLflow raises it."""
    first = sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None)
    second = sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None)
    if full:
        first.execute("PRAGMA max_page_count = 1")
    else:
        second.execute("BEGIN EXCLUSIVE")
    with closing(first), closing(second):
        try:
            first.execute("CREATE TABLE t (x)")
        except sqlite3.OperationalError as error:
            found = MlflowException(f"(sqlite3.OperationalError) {error}")
            found.__cause__ = OperationalError("CREATE", {}, error)
            return found
    raise AssertionError("SQLite did it")


def failing(times: int, error: Exception):
    calls = []

    def call():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return call


def test_a_locked_database_and_a_broken_download_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(connection._retrying, "wait", tenacity.wait_none())
    locked, broken = sqlite_error(tmp_path, full=False), requests.exceptions.ChunkedEncodingError("broken")
    assert "database is locked" in str(locked)
    for error in (locked, broken):
        assert connection.ask(failing(3, error)) == 4
        with monkeypatch.context() as patch, pytest.raises(tracking.StoreGone):
            patch.setattr(connection._retrying, "stop", tenacity.stop_after_attempt(3))
            connection.ask(failing(3, error))


def test_other_errors_are_not_waited_for(tmp_path):
    full = sqlite_error(tmp_path, full=True)
    assert tracking.disk_full(full)
    for error in (full, MlflowException("Run 'x' not found"), ValueError("x")):
        with pytest.raises(type(error)):
            connection.ask(failing(1, error))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "the disk of .* is full: .*out/x"),
        (MlflowException("(sqlite3.OperationalError) database or disk is full"), "or of the store is full:"),
        (tracking.StoreGone("the MLflow store has not answered"), "stopped: the MLflow store has not answered"),
    ],
    ids=["disk", "store's disk", "store gone"],
)
def test_a_study_that_cannot_go_on_ends_with_a_message(tmp_path, monkeypatch, capsys, error, said):
    def fail(*_):
        raise error

    own = session(tmp_path)
    monkeypatch.setattr(runner, "_session", lambda *_, **__: own)
    monkeypatch.setattr(runner, "_run", fail)
    assert runner.run(StudyParams(), "x.yaml", {}) == 1
    assert re.search(said, capsys.readouterr().out)


def test_an_error_that_is_no_full_disk_is_not_swallowed():
    assert not tracking.disk_full(OSError(errno.EACCES, "denied"))
