"""Clusters, what their workers must see, and workers that are lost."""

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import servers
import test_study
import yaml
from conftest import PROJECT
from PIL import Image
from test_study import write_notebooks, write_params

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.data import manifest as data_manifest
from cxr.study import cluster, grid, preflight, runner, session, shared_files
from cxr.study import worker as study_worker

# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: slum", "cluster: String should match pattern"),
        ("workers: 2", "cluster: Field required"),
        ("cluster: a.B\nworkers: 0", "workers: Input should be greater than or equal to 1, got 0"),
        ("cluster: a.B\nworker: 2", "worker: Extra inputs are not permitted"),
        ("cluster: a.B\nworkers: 2\nminimum: 3", r"file: .*minimum must be at most workers \(2\), got 3"),
        ("cluster: a.B\nminimum: 0", r"minimum must be at most workers \(None\)"),
        ("- slurm", "expected 'key: value' lines, got a list"),
        ("", "cluster: Field required"),
        ("a: [", "not a YAML file"),
        ("cluster: distributed.NoCluster", "the module distributed has no NoCluster: correct `cluster`"),
        ("cluster: distributed.none.Cluster", "distributed.none.Cluster cannot be imported: No module named"),
        ("cluster: not_there.here.Cluster", "needs not_there: pip install not-there"),
    ],
)
def test_a_cluster_s_file_is_checked(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        cluster.check(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("file", sorted((PROJECT / "params" / "clusters").glob("*.yaml")), ids=lambda f: f.name)
def test_the_files_that_come_with_it_are_valid(file):
    assert cluster.ClusterParams.read(file).options


@pytest.mark.parametrize("scheduler", ["there.yaml", "here", "slurm"])
def test_an_unknown_scheduler_is_refused(scheduler):
    with pytest.raises(InputError, match=f"{scheduler}: (cannot read the parameter file|use local, an address)"):
        cluster.check(scheduler)


def test_no_scheduler_at_an_address(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with (
        pytest.raises(InputError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers .*`dask scheduler`"),
        cluster.opened("tcp://127.0.0.1:9", jobs=1, devices=0),
    ):
        pass


# ------------------------------------------------------------------------------------- any cluster class


CLASSES = """
import distributed

class Unadaptive:
    def __init__(self, **options):
        self.own = distributed.LocalCluster(**options)
        self.scheduler_address = self.own.scheduler_address
        self.scheduler_comm = self.own.scheduler_comm
        self.loop = self.own.loop
        self.security = self.own.security
        self.status = self.own.status
        self.dashboard_link = self.own.dashboard_link

    def scale(self, n):
        self.own.scale(n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.own.close()

def function(**options):
    return distributed.LocalCluster(**options)
"""
THREADS = {"n_workers": 0, "processes": False, "dashboard_address": ":0"}


@pytest.fixture
def own_classes(tmp_path, monkeypatch):
    """Writes a file for --scheduler with these keys; it can name the classes in CLASSES."""
    (tmp_path / "own_clusters.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)

    def write(**keys) -> str:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(keys))
        return str(tmp_path / "own.yaml")

    yield write
    sys.modules.pop("own_clusters", None)


@pytest.mark.parametrize(
    ("keys", "workers"),
    [
        ({"cluster": "distributed.LocalCluster", "workers": 2, "minimum": 0}, 1),  # starts none without a task
        ({"cluster": "own_clusters.function", "workers": 2}, 2),
        ({"cluster": "own_clusters.function", "options": {"n_workers": 2}}, 2),
        ({"cluster": "own_clusters.Unadaptive", "workers": 2}, 2),
    ],
)
def test_a_class_or_function_gives_a_cluster_that_ends_with_the_study(own_classes, keys, workers, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    keys["options"] = {**THREADS, **keys.get("options", {})}
    with cluster.opened(own_classes(**keys), jobs=1, devices=0) as where:
        assert not where.embedded and where.slots >= 1
        where.client.wait_for_workers(workers, timeout=30)
        address = where.client.scheduler.address
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        cluster._connected(address)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("SSHCluster", {"hosts": []}, "hosts"), ("LocalCluster", {"interface": "nowhere0"}, "nowhere0")],
)
def test_options_that_do_not_fit_are_one_message(own_classes, name, options, message):
    file = own_classes(cluster=f"distributed.{name}", options=options)
    with (
        pytest.raises(InputError, match=f"own.yaml: distributed.{name} does not start: .*{message}.*`options`"),
        cluster.opened(file, jobs=1, devices=0),
    ):
        pass


# ------------------------------------------------------------------------------------------- the embedded one


@pytest.mark.parametrize(
    ("visible", "jobs", "devices", "shares"),
    [
        ("0,1,2", 0, 0, ["0", "1", "2"]),
        ("0,1,2", 2, 1, ["0", "1"]),
        ("4,5,6,7,8", 0, 2, ["4,5", "6,7"]),
        ("-1", 3, 0, []),
        ("", 3, 0, []),
    ],
)
def test_gpus_are_given_one_to_a_worker_or_as_many_as_a_notebook_needs(
    visible, jobs, devices, shares, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cluster._shares(jobs, devices) == shares
    assert cluster.embedded_slots(jobs, devices) == (len(shares) or 3)


def test_gpus_are_counted_as_nvidia_smi_does(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.gpus() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert cluster.gpus() == ["0", "1"]


def test_the_embedded_cluster_s_workers_have_a_gpu_each_and_its_dashboard_answers_here_only(monkeypatch):
    import requests
    from distributed import get_worker

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    before = [c.laddr for c in psutil.Process().net_connections("tcp")]

    def own() -> str:
        time.sleep(0.2)
        return study_worker.gpus_of(get_worker())

    with cluster.opened("local", jobs=0, devices=0) as found:
        assert found.embedded and found.slots == 2 and found.hands_out_gpus and not found.lost
        seen = found.client.gather([found.client.submit(own, pure=False, resources={"GPU": 1}) for _ in range(4)])
        assert set(seen) == {"3", "5"}
        assert "Status" in requests.get(found.dashboard, timeout=20).text
        port = int(found.dashboard.split(":")[2].split("/")[0])
        opened = [c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        opened = [address for address in opened if address not in before]
        assert port in {address.port for address in opened}
        assert {address.ip for address in opened} == {"127.0.0.1"}
        for address in opened:  # a page of the web that leads the browser here under a name of its own
            url = f"http://127.0.0.1:{address.port}/health"
            assert requests.get(url, headers={"Host": "evil.example"}, timeout=20).status_code == 403
            assert requests.get(url, headers={"Host": f"localhost:{address.port}"}, timeout=20).status_code == 200
        words = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        words |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "bokeh, x"}
        page = f"http://127.0.0.1:{port}/status/ws"
        evil = requests.get(page, headers={**words, "Origin": "http://evil.example"}, timeout=20)
        assert evil.status_code == 403
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with cluster.opened("local", jobs=3, devices=0) as found:
        assert found.slots == 3 and not found.hands_out_gpus


# ------------------------------------------------------------------------------------------- processes


SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]


@pytest.fixture
def plugin():
    found = study_worker.Notebooks()
    found.setup(None)
    yield found
    found.stop()


def test_nothing_of_a_stopped_study_task_or_worker_starts(plugin):
    def never():
        raise AssertionError("started")

    plugin.stop("1")
    plugin.stop("train/b@2")
    assert plugin.launch("train/a@1", never) is None and plugin.launch("train/b@2", never) is None
    process = plugin.launch("train/a@2", lambda: subprocess.Popen(SLEEP))
    assert process.poll() is None
    plugin.stop()
    assert process.wait(20) is not None
    assert plugin.launch("train/c@3", never) is None


def test_a_notebook_that_starts_while_its_study_is_stopped_does_not_live_on(plugin):
    began, started = threading.Event(), []

    def slowly():
        began.set()
        time.sleep(1)
        return subprocess.Popen(SLEEP)

    thread = threading.Thread(target=lambda: started.append(plugin.launch("train/a@1", slowly)))
    thread.start()
    began.wait(20)
    plugin.stop("1")
    thread.join(20)
    assert started[0].wait(20) is not None


def test_a_stop_waits_until_the_task_has_ended_its_run(plugin):
    said = []

    def task():
        with plugin.executing("train/a@1"):
            plugin.launch("train/a@1", lambda: subprocess.Popen(SLEEP)).wait()
            time.sleep(1)  # its run ends in the store
            said.append("the run has ended")

    thread = threading.Thread(target=task)
    thread.start()
    while "train/a@1" not in plugin.running:
        time.sleep(0.01)
    plugin.stop("1", patience=30)
    assert said == ["the run has ended"]
    thread.join()


@pytest.mark.skipif(os.name != "posix", reason="kill")
def test_a_notebook_dies_with_its_worker():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    code = "import sys, time; from cxr.core import processes; processes.die_with(sys.argv[1]); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", code, processes.identity(worker.pid)])
    try:
        time.sleep(3)
        assert child.poll() is None
        worker.kill()
        worker.wait()
        assert child.wait(20) == 1
    finally:
        worker.kill()
        child.kill()
        child.wait()


def test_a_worker_on_another_machine_cannot_be_watched_from_here():
    processes.die_with("elsewhere:1:2")  # this process must not end


# ------------------------------------------------------------------------------------------- what is shared


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for label in ("ill", "well"):
        (folder / label).mkdir(parents=True)
        for k in range(20):
            noise = np.random.default_rng(k + 100 * (label == "ill")).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(noise).save(folder / label / f"{label}{k}.png")
    return folder


@pytest.fixture
def shared(tmp_path, images):
    """What a study of these images uses."""
    params = write_params(tmp_path / "study.yaml", data=str(images), weights=str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "DenseNet201.npz").write_bytes(b"weights")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / shared_files.RUNNING).write_text(session.runner())
    settings = StudyParams.read(params)
    steps = grid.plan(settings)
    setup = grid.Setup(params, {}, notebooks=write_notebooks(tmp_path / "notebooks"), out=tmp_path / "out")
    uri, manifest = f"sqlite:///{tmp_path}/store/mlflow.db", data_manifest.build_manifest(settings)
    return shared_files.used_by(session.Session(settings, setup, steps, manifest, uri, environment={}), steps)


def test_a_study_shares_parameters_notebooks_some_images_weights_and_its_folder(tmp_path, images, shared):
    assert shared_files.trouble(shared) == ""
    suffixes = [Path(name).suffix for name in shared.files]
    assert suffixes.count(".ipynb") == 4 and suffixes.count(".yaml") == 1 and suffixes.count(".npz") == 1
    assert 3 <= suffixes.count(".png") <= 4
    # a table of images is included
    settings = StudyParams(data=str(images))
    data_manifest.write_manifest(data_manifest.build_manifest(settings), images / "own.csv")
    settings = settings.model_copy(update={"data": str(images / "own.csv")})
    table = shared_files._images(settings, data_manifest.build_manifest(settings))
    assert table[0] == images / "own.csv" and all(path.is_file() for path in table)


@pytest.mark.parametrize("kind", [".yaml", ".ipynb", ".png", ".npz"])
def test_a_file_that_a_worker_lacks_or_has_otherwise_is_named(shared, kind):
    path = next(Path(name) for name in shared.files if name.endswith(kind))
    path.write_bytes(path.read_bytes() + b" ")
    assert shared_files.trouble(shared).startswith(f"has another file at {path} than the study: all machines")
    path.unlink()
    said = shared_files.trouble(shared)
    assert said.startswith(f"cannot read {path} (No such file") and "under the same path (docs/cluster.md)" in said


def test_the_folder_for_notebooks_must_be_the_very_same_and_let_one_write(tmp_path, shared, monkeypatch):
    probe = tmp_path / "out" / ".running"
    probe.write_text("another study, on another disk")
    assert shared_files.trouble(shared).startswith(f"does not see {probe}, which the study wrote: all")
    probe.unlink()
    assert shared_files.trouble(shared).startswith(f"does not see {probe}")
    probe.write_text(shared.runner)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shared_files.tempfile, "NamedTemporaryFile", refuse)
    assert shared_files.trouble(shared) == (
        f"cannot write to {tmp_path}/out (Permission denied): allow it, or choose another folder with --out"
    )


def test_another_version_and_a_store_for_one_machine_are_refused(shared):
    other = dataclasses.replace(shared, version="other")
    assert shared_files.trouble(other).startswith("has another version of the package cxr: install the version")
    other = dataclasses.replace(shared, host="elsewhere")
    assert re.match(r"is on another machine .* than the study \(elsewhere\), and the store sqlite:.*MLflow server",
                    shared_files.trouble(other))  # fmt: skip
    assert not shared_files.trouble(dataclasses.replace(other, tracking_uri="http://there:5000"))


def test_relative_paths_are_those_of_the_runner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = StudyParams(data="images", weights="w/x.npz")
    assert shared_files.absolute(settings) == {"data": f"{tmp_path}/images", "weights": f"{tmp_path}/w/x.npz"}
    assert shared_files.absolute(StudyParams(data="phantom", weights="imagenet")) == {}


# ------------------------------------------------------------------------------------------- workers elsewhere


@contextlib.contextmanager
def started(folder, *words, **environment):
    """A module that runs with a home and a cache of its own; it and its children are killed at the end."""
    (folder / "tmp").mkdir(parents=True)
    own = {"HOME": str(folder), "CXR_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "CXR"))}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env={**clean, **own, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            one.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def services(tmp_path_factory, new_store):
    """The addresses of an MLflow server and of a Dask scheduler."""
    folder, host = tmp_path_factory.mktemp("services"), "127.0.0.1"
    server, scheduler = (str(servers.free_port()) for _ in range(2))
    mlflow = (
        *("mlflow", "server", "--backend-store-uri", new_store(folder), "--workers", "1", "--serve-artifacts"),
        *("--artifacts-destination", str(folder / "artifacts"), "--host", host, "--port", server),
    )
    dask = ("dask", "scheduler", "--host", host, "--port", scheduler, "--no-dashboard")
    with (
        started(folder / "server", *mlflow, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
        started(folder / "scheduler", *dask),
    ):
        _wait(lambda: _answers(server) and _answers(scheduler))
        yield f"http://{host}:{server}", f"tcp://{host}:{scheduler}"


@pytest.fixture
def hosts(tmp_path, monkeypatch, services):
    """An MLflow server, a Dask scheduler, and two workers, each with its own home and cache."""
    uri, scheduler = services
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    words = ("dask", "worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name")
    with contextlib.ExitStack() as stack:

        def start(name):
            return stack.enter_context(started(tmp_path / name, *words, name))

        workers = {name: start(name) for name in ("left", "right")}
        yield types.SimpleNamespace(uri=uri, scheduler=scheduler, start=start, workers=workers)


def _answers(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def _wait(condition, seconds=600):  # on a busy machine
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "timeout"
        time.sleep(0.5)


TABLE = """
import hashlib, pandas as pd
manifest = data_manifest.build_manifest(settings)
run.table(manifest.assign(seed=settings.seed), "table.parquet", show=False)
"""


def assert_tables(params, seeds):
    """The tables of the train runs of these seeds are those that this process computes."""
    manifest = data_manifest.build_manifest(StudyParams.read(params))
    runs = tracking.find("train", experiment="fake")
    found = {run.params["seed"]: run.table("table.parquet") for run in runs}
    assert found.keys() == seeds
    for seed, table in found.items():
        pd.testing.assert_frame_equal(table, manifest.assign(seed=int(seed)), check_exact=True)


@pytest.fixture
def two_seeds(tmp_path, images, monkeypatch):
    """The parameter file of a study of two cells, with a relative path to the images."""
    for name, own in {"1_train": {"data": "phantom"}, "2_attribute": {"data": ""}}.items():
        monkeypatch.setitem(test_study.PARAMETERS, name, {**test_study.PARAMETERS[name], **own})
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)  # workers run in other folders, where this path does not exist
    return write_params(tmp_path / "study.yaml", seed=[0, 1], method=["layercam"], data="images", jobs=2)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-Z")
def test_a_study_goes_on_after_its_process_was_stopped():
    """As by Ctrl-Z, or when a laptop sleeps: longer than Dask waits for a worker's sign of life."""
    code = """
        import os, subprocess, time
        from cxr.study import cluster
        with cluster.opened("local", jobs=1, devices=0) as found:
            subprocess.run(["sh", "-c", "(sleep 6; kill -CONT $0) & kill -STOP $0", str(os.getpid())])
            time.sleep(2)
            print(found.client.submit(pow, 2, 5).result(timeout=10))
    """
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "1s"}  # Dask makes 5 s of it
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "32\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_study_on_two_workers_goes_on_when_one_is_killed(tmp_path, two_seeds, hosts, capsys):
    wait = "import os, time\nif not os.path.exists(os.environ['HOME'] + '/../lost'):\n    time.sleep(60)"
    notebooks = write_notebooks(tmp_path / "notebooks", train=TABLE + wait)
    params = two_seeds
    shared = {"out": tmp_path / "out", "notebooks": notebooks, "scheduler": hosts.scheduler}
    killed = {}

    def kill_one():
        def training():
            try:
                runs = tracking.find("train", experiment="fake", complete=False)
            except Exception:
                return False
            pids = [processes.lives(run.tags.get("cxr.process", "")) for run in runs if run.status == "RUNNING"]
            killed["papermills"] = [psutil.Process(pid) for pid in pids if pid]
            return len(killed["papermills"]) == 2

        _wait(training)
        victim = next(one for one in killed["papermills"] if one.ppid() == hosts.workers["right"].pid)
        hosts.workers["right"].kill()
        (tmp_path / "lost").touch()
        killed["left over"] = victim

    tracking.connect(hosts.uri)
    thread = threading.Thread(target=kill_one)
    thread.start()
    code = runner.run(StudyParams.read(params), params, {}, **shared)
    thread.join()
    out = capsys.readouterr().out
    assert code == 0, out + (tmp_path / "left" / "log.txt").read_text()[-3000:]
    assert "its worker was lost; it restarts here" in out
    assert not killed["left over"].is_running() or killed["left over"].status() == psutil.STATUS_ZOMBIE

    # one run per step, also for the step of the lost worker
    runs = tracking.find(experiment="fake", complete=False)
    assert sorted(run.name.partition(" 2")[0] for run in runs) == sorted(  # the study's name has the date
        [*(f"{stage} CompactDenseNet s{seed}{end}" for seed in (0, 1)
           for stage, end in (("train", ""), ("attribute", ""), ("score", " layercam"))), "compare", "study fake"]
    )  # fmt: skip
    assert {run.status for run in runs} == {"FINISHED"}
    assert sum("cxr.resumed_on" in run.tags for run in runs) == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out").glob("*.ipynb"))) == len(list((tmp_path / "out").glob("*.log"))) == 7
    assert_tables(params, {"0", "1"})

    assert runner.run(StudyParams.read(params), params, {}, **shared) == 0
    assert "7 done already, 0 to run" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_that_cannot_do_the_work_are_named_before_it_starts(shared, hosts):
    there = dataclasses.replace(shared, tracking_uri=hosts.uri)
    missing = next(Path(name) for name in shared.files if name.endswith(".png"))
    with cluster.opened(hosts.scheduler, jobs=0, devices=0) as found:
        found.client.wait_for_workers(2, timeout=60)
        with pytest.raises(InputError, match=r"the worker tcp://.*another version of the package"):
            cluster.check_workers(found, dataclasses.replace(there, version="other"))
        with pytest.raises(InputError, match=r"worker tcp://.*in its environment: no MLflow server answers at"):
            cluster.check_workers(found, dataclasses.replace(there, tracking_uri="http://127.0.0.1:9"))
        content = missing.read_bytes()
        missing.unlink()
        with pytest.raises(InputError, match=rf"the worker tcp://.*cannot read {missing} .*same folder there"):
            cluster.check_workers(found, there)
        missing.write_bytes(content)
        cluster.check_workers(found, there)
        missing.unlink()
        cluster.check_workers(found, there)  # a worker looks once for each runner


@pytest.mark.slow
def test_a_worker_that_joins_later_is_checked_at_its_first_step(tmp_path, two_seeds, hosts, monkeypatch):
    """All workers see all files when the study starts. Then other workers replace them, and an image goes."""
    notebooks = write_notebooks(tmp_path / "notebooks")
    check_workers = cluster.check_workers

    def then_replaced(where, shared):
        check_workers(where, shared)
        for process in hosts.workers.values():
            process.kill()
            process.wait()
        image = next(Path(name) for name in shared.files if name.endswith(".png"))
        image.rename(image.with_suffix(".gone"))
        hosts.start("late")

    monkeypatch.setattr(cluster, "check_workers", then_replaced)
    options = {"out": tmp_path / "out", "notebooks": notebooks, "scheduler": hosts.scheduler}
    with pytest.raises(InputError, match=r"the worker tcp://.*: cannot read .*\.png .*same path"):
        runner.run(StudyParams.read(two_seeds, {"name": "late"}), two_seeds, {"name": "late"}, **options)
    [run] = tracking.find(experiment="late", complete=False)
    assert (run.stage, run.status) == ("study", "FAILED")
    assert not (tmp_path / "out" / ".running").exists()


@pytest.mark.slow
def test_a_study_on_a_cluster_of_two_processes_from_a_file(tmp_path, two_seeds, capsys, monkeypatch, new_store):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path / "store"))
    options = {"out": Path("out"), "notebooks": write_notebooks(tmp_path / "notebooks", train=TABLE)}
    options["scheduler"] = str(PROJECT / "params" / "clusters" / "local.yaml")
    overrides = {"seed": [0]}
    assert runner.run(StudyParams.read(two_seeds, overrides), Path("study.yaml"), overrides, **options) == 0
    assert "  2 at a time; dashboard: http://127.0.0.1" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.ipynb"))) == 4
    assert_tables(two_seeds, {"0"})
