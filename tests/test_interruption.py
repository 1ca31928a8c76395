"""Kills, full disks, and stores that do not answer: nothing is lost, and a message says what happened."""

import errno
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import psutil
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
from cxr.study import claims, grid, holding, report_page, resuming, runner, study_run
from cxr.study.session import Session, State
from cxr.study.session import runner as own_identity
from cxr.tracking import connection, views


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


def parent_of(tmp_path, runner: str) -> str:
    """A study's own run, with the claim of a runner."""
    claim = claims.Claim(f"c{next(COUNT)}", 1, runner)
    tags = {"cxr.stage": "study", "cxr.fingerprint": session(tmp_path).fingerprint}
    tags[f"cxr.claim.{claim.token}"] = claim.text
    return tracking.create_run(experiment="fake", name="study", tags=tags, params={})


COUNT = itertools.count()


def claims_on(run_id: str) -> list[claims.Claim]:
    found = tracking.stored(run_id).tags
    return [
        claims.Claim.read(key.removeprefix("cxr.claim."), found[key])
        for key in found
        if key.startswith("cxr.claim.")
    ]


def dead() -> str:
    """The identity of a process on this machine that has ended: its number has been given to this process."""
    host, pid, start = own_identity().rsplit(":", 2)
    return f"{host}:{pid}:1{start}"


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


@pytest.mark.skipif(os.name != "posix", reason="umask")
@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o027, 0o640, 0o750)])
def test_files_are_for_those_whom_the_umask_lets_in(tmp_path, store, mask, file, folder):
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    before = os.umask(mask)
    try:
        (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
        with atomic(tmp_path / "new" / "table.csv") as temporary:
            temporary.write_text("patient")
        report_page.export(tmp_path / "n.ipynb", tmp_path / "new" / "report.html")
        run = tracking.create_run(experiment=f"umask {mask}", name="x", tags={}, params={})
        tracking.log_file_as(run, tmp_path / "new" / "report.html", "report.html")
        tracking.log_text(run, "patient", "deep/text.txt")
        with resuming.claimed(tmp_path / "new" / "out"):
            made = [*(tmp_path / "new").rglob("*"), *folder_of(run).rglob("*")]
            modes = {path: path.stat().st_mode & 0o777 for path in made}
    finally:
        os.umask(before)
    assert len(made) >= 6
    assert set(modes.values()) == {file, folder}


def folder_of(run_id: str) -> Path:
    return Path(unquote(urlsplit(mlflow.get_run(run_id).info.artifact_uri).path))


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
        state = State()
        with holding.held(session(tmp_path), state, holding.refuse_if_running(session(tmp_path))):
            assert state.parent == parent and tracking.stored(parent).status == "RUNNING"
            assert [claim.runner for claim in claims_on(parent)] == [own_identity()]
            assert started[0].poll() is not None and started[1].poll() is not None
            assert started[2].poll() is None  # it belongs to another run
            tracking.end_run(parent, "FINISHED")
        assert claims_on(parent) == []
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [tracking.stored(run).status for run in runs] == ["KILLED", "KILLED", "FINISHED"]


def test_a_study_on_another_machine_lives_as_long_as_it_gives_signs_of_life(tmp_path, store, monkeypatch, capsys):
    monkeypatch.setattr(claims, "DEAD_SECONDS", 15.0)
    monkeypatch.setattr(claims, "LOOK_SECONDS", 0.1)
    own = session(tmp_path, seed=[3])
    tags = {"cxr.stage": "study", "cxr.fingerprint": own.fingerprint}
    parent = tracking.create_run(experiment="fake", name="study", tags=tags, params={})
    child = tracking.create_run(experiment="fake", name="c", tags={}, params={}, parent=parent)
    begun, dead_now = threading.Event(), threading.Event()

    def there():
        for beat in itertools.count():
            claim = claims.Claim("there", 4, "elsewhere:12:34", beat)
            tracking.set_tags(parent, {"cxr.claim.there": claim.text, "cxr.alive": "1999-01-01T00:00:00+00:00"})
            begun.set()
            if dead_now.wait(0.1):
                return

    thread = threading.Thread(target=there)
    thread.start()
    assert begun.wait(60)
    try:
        with pytest.raises(
            InputError, match="'fake' is being run already, by process 12 on elsewhere: wait for it"
        ):
            holding.refuse_if_running(own)
        assert "was begun by process 12 on elsewhere, and has not ended" in capsys.readouterr().out
        holding.refuse_if_running(session(tmp_path, seed=[7]))  # same name, other settings: not the same study
    finally:
        dead_now.set()
        thread.join()
    assert tracking.stored(child).status == "RUNNING"
    began, state = time.monotonic(), State()
    watch = holding.refuse_if_running(own)
    assert time.monotonic() - began >= 15
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits again"))
    with holding.held(own, state, watch) as held:
        monkeypatch.undo()
        assert state.parent == parent
        assert tracking.stored(child).status == "KILLED"
        assert [(claim.runner, claim.term) for claim in claims_on(parent)] == [(own_identity(), 5)]
        # the other one wakes up
        assert not claims.holds(claims.Claim("there", 4, "elsewhere:12:34", 9), claims_on(parent))
        tracking.set_tags(parent, {"cxr.claim.later": claims.Claim("later", 6, "elsewhere:1:2").text})
        with pytest.raises(InputError, match="another process runs this study now"):
            held.beat()
        tracking.end_run(parent, "FINISHED")
    assert [claim.token for claim in claims_on(parent) if claim.term > 5] == ["later"]


def test_the_clock_may_be_set_while_a_study_runs(tmp_path, store, monkeypatch):
    """psutil adds the time at which the machine started, which Linux counts back from the clock."""
    identity = own_identity()
    boot_time = psutil._pslinux.boot_time if sys.platform == "linux" else None
    for step in (-3600.0, -5.0, 5.0, 3600.0):
        if boot_time is not None:
            monkeypatch.setattr(psutil._pslinux, "boot_time", lambda step=step: boot_time() + step)
            monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", boot_time() + step, raising=False)
        assert processes.lives(identity) == os.getpid()
        assert processes.identity(os.getpid()) == identity


def test_a_process_of_another_container_or_before_a_restart_is_not_looked_for_here():
    host, pid, start = own_identity().rsplit(":", 2)
    ticks, _, place = start.partition("@")
    assert processes.is_here(own_identity()) == bool(place) or sys.platform != "linux"
    for other in (f"{host}:{pid}:{ticks}@{place[::-1]}x", f"other:{pid}:{start}", "", "x", "a:b:c"):
        assert not processes.is_here(other) and not processes.lives(other)


@pytest.mark.slow
def test_of_many_that_start_at_once_one_runs_the_study(tmp_path, store):
    """For real: three processes, one store."""
    code = "\n".join(
        [
            "import sys, time",
            "from pathlib import Path",
            "sys.path.insert(0, sys.argv[3])",
            "import test_interruption",
            "from cxr import tracking",
            "from cxr.core.errors import InputError",
            "from cxr.study import holding, session",
            "tracking.connect(sys.argv[1])",
            "folder = Path(sys.argv[2])",
            "own = test_interruption.session(folder, seed=[4])",
            "print('ready', flush=True)",
            "while not (folder / 'go').exists(): time.sleep(0.02)",
            "try:",
            "    watch = holding.refuse_if_running(own)",
            "    with holding.held(own, session.State(), watch) as held:",
            "        print('runs', flush=True)",
            "        while not (folder / 'end').exists(): time.sleep(0.1)",
            "        held.beat()",
            "except InputError as error:",
            "    print(error)",
        ]
    )
    tracking.experiment_id("fake")
    words = [sys.executable, "-c", code, store, str(tmp_path), os.path.dirname(__file__)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in started:
            while process.stdout.readline() not in ("ready\n", ""):
                pass  # it may wait until another one has opened the store
        (tmp_path / "go").touch()
        deadline = time.monotonic() + 300
        while sum(process.poll() is None for process in started) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        (tmp_path / "end").touch()
        said = [process.communicate(timeout=300)[0].splitlines()[-1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert said.count("runs") == 1, said
    assert sum("is being run already, by process" in line for line in said) == 2, said
    assert [process.returncode for process in started] == [0] * 3


def test_two_studies_do_not_write_into_one_folder(tmp_path):
    code = "import sys; from pathlib import Path; from cxr.study import resuming\n"
    code += "with resuming.claimed(Path(sys.argv[1])):\n    print('has it', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline() == b"has it\n"
        # whatever is written there, as by a machine whose processes cannot be seen from here
        for text in (None, "elsewhere:12:34", ""):
            if text is not None:
                (tmp_path / ".running").write_text(text)
            pid = {None: other.pid, "elsewhere:12:34": 12}.get(text)
            who = f"another study is writing there .process {pid} on .*--out" if pid else "writing there: choose"
            with pytest.raises(InputError, match=who), resuming.claimed(tmp_path):
                pass
        other.kill()
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


@pytest.mark.parametrize("damage", ["missing", '{"train/A/s0": "a', "[]", '{"train/A/s0": 7}', "\0"])
def test_a_damaged_record_of_a_finished_study_is_made_from_its_runs(tmp_path, store, capsys, damage):
    own = session(tmp_path, seed=[100 + len(damage)])
    tags = {"cxr.complete": "true"}
    parent = tracking.create_run(
        experiment="fake", name="study", tags={**tags, "cxr.stage": "study", "cxr.fingerprint": own.fingerprint},
        params={},
    )  # fmt: skip

    def complete(name, parent=None, **more):
        run = tracking.create_run(experiment="fake", name=name, tags={**tags, **more}, params={}, parent=parent)
        tracking.end_run(run, "FINISHED")
        return run

    expected = {"train/A/s0": complete("train A s0", parent), "compare": complete("compare", parent)}
    # one of an earlier study that it used, and one that somebody ran by hand afterwards
    expected["score/A/s0/layercam"] = complete("score A s0 layercam", **{"cxr.study": parent})
    complete("train A s0")
    tracking.end_run(parent, "FINISHED")
    assert views.STUDY == "cxr.study"
    if damage != "missing":
        tracking.log_text(parent, damage, "steps.json")
    assert resuming.recorded(own) == expected
    assert "steps.json of run" in capsys.readouterr().out
    tracking.log_text(parent, json.dumps(expected), "steps.json")
    assert resuming.recorded(own) == expected and capsys.readouterr().out == ""


def test_runs_whose_process_was_killed_do_not_stay_running(store):
    def made(process):
        tags = {"cxr.process": process} if process else {}
        return tracking.create_run(experiment="by hand", name="x", tags=tags, params={})

    runs = [made(process) for process in (dead(), own_identity(), "elsewhere:1:2", "")]
    tracking.end_abandoned("by hand")
    assert [tracking.stored(run).status for run in runs] == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]


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


@pytest.fixture
def secret(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    before = mlflow.get_tracking_uri()
    yield lambda uri: uri.replace("://", "://anna:s3cr%40t@")
    mlflow.set_tracking_uri(before)


def test_a_password_in_the_address_is_used_and_goes_nowhere_else(secret):
    with server(200) as (uri, _):
        assert tracking.connect(secret(uri)) == tracking.resolve(secret(uri)) == uri
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "anna"
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s3cr@t"
        assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == uri
        os.environ["MLFLOW_TRACKING_URI"] = secret(uri)  # as a person's environment may have it
        list(connection.mlflow_client().search_experiments())
        assert mlflow.get_tracking_uri() == uri
    assert "s3cr" not in tracking.ui_command(secret("postgresql://host/runs"))


@pytest.mark.parametrize("statuses", [(), (401,), (403,), (404,), (500,)])
def test_no_error_of_a_store_shows_the_password(secret, monkeypatch, statuses):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server(*statuses or [200]) as (uri, _):
        address = uri if statuses else f"http://127.0.0.1:{servers.free_port()}"
        with pytest.raises(InputError) as error:
            tracking.connect(secret(address))
        assert "s3cr" not in str(error.value) and address.removeprefix("http://") in str(error.value)
        mlflow.set_tracking_uri(secret(address))
        with pytest.raises(Exception) as error:
            connection.ask(mlflow.MlflowClient(secret(address)).search_experiments)
        if isinstance(error.value, InputError | tracking.StoreGone):
            assert "s3cr" not in str(error.value)


@pytest.mark.parametrize("uri", ["postgresql://127.0.0.1:9/runs", "mysql+nothing://127.0.0.1:9/runs"])
def test_no_error_of_a_database_shows_its_password(secret, uri):
    with pytest.raises(InputError) as error:
        tracking.connect(secret(uri))
    assert "s3cr" not in str(error.value) and uri in str(error.value)


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
