"""Where notebooks run: clusters, what travels to their workers, and a worker that is lost."""

import os
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
import test_study
import yaml
from PIL import Image
from test_study import write_notebooks, write_params

from cxr import cluster, data, processes, shipping, study, task, tracking
from cxr.errors import InputError
from cxr.params import StudyParams

# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduler: slum", "scheduler: Input should be 'slurm' or 'kubernetes', got 'slum'"),
        ("scheduler: slurm\nworkers: 0", "workers: Input should be greater than or equal to 1, got 0"),
        ("scheduler: slurm\nworker: 2", "worker: Extra inputs are not permitted"),
        ("- slurm", "not a YAML file of 'key: value' lines"),
        ("", "not a YAML file"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_cluster_s_file_is_checked(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        cluster.check(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("scheduler", ["there.yaml", "here", "slurm2"])
def test_an_unknown_scheduler_is_refused(scheduler):
    with pytest.raises(InputError, match=f"--scheduler {scheduler}: (cannot read it|use local, an address)"):
        cluster.check(scheduler)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("scheduler: slurm")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match="needs dask-jobqueue, which is not installed: .*EXTRAS=dev,slurm"):
        cluster.check(str(tmp_path / "c.yaml"))


def test_no_scheduler_at_an_address(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with (
        pytest.raises(InputError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers .*`dask scheduler`"),
        cluster.opened("tcp://127.0.0.1:9", jobs=1, devices=0),
    ):
        pass


# ------------------------------------------------------------------------------------- Slurm and Kubernetes

# Submitting is starting, on this machine; `--test-only` comes first.
SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then
  grep -q "^#SBATCH -p nowhere" "$2" || exit 0
  echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1
fi
here=$(dirname "$0")
cp "$1" "$here/job.sh"
setsid bash "$here/job.sh" > "$here/log" 2>&1 < /dev/null &
echo $! > "$here/pid"
echo "Submitted batch job 7"
"""
SCANCEL = """#!/bin/bash
kill -- -$(cat "$(dirname "$0")/pid")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A file for --scheduler, by options; Slurm's commands are stand-ins."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(**options) -> str:
        given = {"cores": 1, "memory": "1GB", "python": sys.executable, "local_directory": str(tmp_path)}
        file = tmp_path / "slurm.yaml"
        file.write_text(yaml.safe_dump({"scheduler": "slurm", "options": given | options}))
        return str(file)

    return write


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "nowhere"}, "Slurm takes no such job, .*: sbatch: error: invalid partition specified: nowhere"),
        ({"cors": 1}, "its options do not fit: .*cors"),
        ({"cores": None}, "its options do not fit: .*cores"),
    ],
)
def test_what_slurm_would_refuse_is_told_at_once(slurm, options, message):
    with pytest.raises(InputError, match=message), cluster.opened(slurm(**options), jobs=1, devices=0):
        pass


def test_without_slurm_s_commands(slurm, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no `sbatch` on this"), cluster.opened(slurm(), jobs=1, devices=0):
        pass


def test_slurm_s_jobs_are_workers_and_end_with_the_study(slurm, tmp_path):
    with cluster.opened(slurm(), jobs=1, devices=0) as where:
        assert where.slots == 1 and not where.embedded
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
        assert worker.is_running()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()


def test_no_kubernetes_here_is_one_message(tmp_path):
    """In a process of its own: dask-kubernetes has something to say when a process ends."""
    (tmp_path / "k.yaml").write_text("scheduler: kubernetes\n")
    code = (
        "import sys; from cxr import cluster; from cxr.errors import InputError\n"
        "try:\n    with cluster.opened(sys.argv[1], jobs=1, devices=0): pass\n"
        "except InputError as error: print(error)"
    )
    hidden = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none"), "KUBERNETES_SERVICE_HOST": ""}
    words = [sys.executable, "-c", code, str(tmp_path / "k.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **hidden}, timeout=120)
    assert "--scheduler kubernetes: no Dask cluster can be had (" in done.stdout and not done.stderr, done.stderr


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

    def own() -> str:
        time.sleep(0.2)
        return task.gpus_of(get_worker())

    with cluster.opened("local", jobs=0, devices=0) as found:
        assert found.embedded and found.slots == 2 and found.hands_out_gpus and not found.lost
        seen = found.client.gather([found.client.submit(own, pure=False, resources={"GPU": 1}) for _ in range(4)])
        assert set(seen) == {"3", "5"}
        assert "Status" in requests.get(found.dashboard, timeout=20).text
        port = int(found.dashboard.split(":")[2].split("/")[0])
        listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port}
        assert listening == {"127.0.0.1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with cluster.opened("local", jobs=3, devices=0) as found:
        assert found.slots == 3 and not found.hands_out_gpus


# ------------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(os.name != "posix", reason="kill")
def test_a_notebook_dies_with_its_worker():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    code = "import sys, time; from cxr import processes; processes.die_with(sys.argv[1]); time.sleep(100)"
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
    processes.die_with("elsewhere:1:2")  # and this process lives


# ------------------------------------------------------------------------------------------- shipping


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
def run_id(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tracking.connect(f"sqlite:///{tmp_path}/store/mlflow.db")
    return tracking.create_run(experiment="ship", name="study", tags={}, params={})


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_worker_finds_the_same_manifest_in_what_was_sent(tmp_path, images, run_id, kind, monkeypatch):
    monkeypatch.setattr(shipping, "_PART_BYTES", 2000)  # several parts
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "DenseNet201.npz").write_bytes(b"weights")
    settings = StudyParams(data=str(images), weights=str(tmp_path / "w"))
    if kind == "table":
        data.write_manifest(data.build_manifest(settings), images / "own.csv")
        settings = settings.model_copy(update={"data": str(images / "own.csv")})
    manifest = data.build_manifest(settings)
    shipping.publish(run_id, settings, manifest)
    assert len([name for name in tracking.RunFiles.names(_files_of(run_id)) if name.endswith(".tar")]) > 1
    shutil.move(images, tmp_path / "gone")

    found = shipping.fetch(run_id, data.manifest_hash(manifest))
    there = settings.model_copy(update=found)
    assert Path(there.data).is_relative_to(tmp_path / "cache")
    assert data.manifest_hash(data.build_manifest(there)) == data.manifest_hash(manifest)
    assert (Path(there.weights) / "DenseNet201.npz").read_bytes() == b"weights"
    text = data.manifest_text(manifest)
    assert shipping.visible(there.data, text) and not shipping.visible(settings.data, text)

    # once is enough, for sender and worker
    before = set((tmp_path / "cache").rglob("*.png"))
    monkeypatch.setattr(shipping, "_checked", None)
    assert shipping.fetch(run_id, data.manifest_hash(manifest)) == found
    assert set((tmp_path / "cache").rglob("*.png")) == before
    shutil.move(tmp_path / "gone", images)
    monkeypatch.setattr(shipping, "_files", None)
    shipping.publish(run_id, settings, manifest)


def _files_of(run_id):
    return types.SimpleNamespace(_run_id=run_id, _folder="data")


def test_damaged_or_other_images_are_refused(tmp_path, images, run_id):
    settings = StudyParams(data=str(images))
    manifest = data.build_manifest(settings)
    shipping.publish(run_id, settings, manifest)
    with pytest.raises(InputError, match="holds other images than the study's"):
        shipping.fetch(run_id, "0" * 64)
    [part] = (tmp_path / "store").rglob("*.tar")
    part.write_bytes(part.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(InputError, match="part-00000.tar' is damaged"):
        shipping.fetch(run_id, data.manifest_hash(manifest))


def test_files_outside_of_the_folder_cannot_be_sent(tmp_path, images, run_id):
    table = tmp_path / "lists" / "own.csv"
    table.parent.mkdir()
    rows = [f"{path},{path.parent.name},{path.stem}" for path in sorted(images.rglob("*.png"))]
    table.write_text("\n".join(["path,label,patient_id", *rows]))
    settings = StudyParams(data=str(table))
    with pytest.raises(InputError, match="40 files lie outside of .*lists, such as .*put the images where every"):
        shipping.publish(run_id, settings, data.build_manifest(settings))


# ------------------------------------------------------------------------------------------- workers elsewhere


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """An MLflow server, a Dask scheduler, and two workers that share no folder."""
    server, scheduler = (f"127.0.0.1:{free_port()}" for _ in range(2))
    running = []

    def start(name, *words, **environment):
        folder = tmp_path / name
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
        running.append(process)
        return process

    host, port = server.split(":")
    start(
        "server", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server/mlflow.db",
        "--artifacts-destination", str(tmp_path / "server" / "artifacts"), "--serve-artifacts",
        "--host", host, "--port", port, "--workers", "1", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )  # fmt: skip
    start("scheduler", "dask", "scheduler", "--host", host, "--port", scheduler.split(":")[1], "--no-dashboard")

    def worker(name):
        words = ("dask", "worker", f"tcp://{scheduler}", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        return start(name, *words, "--name", name)

    found = types.SimpleNamespace(
        uri=f"http://{server}",
        scheduler=f"tcp://{scheduler}",
        start=worker,
        workers={name: worker(name) for name in ("left", "right")},
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    monkeypatch.setattr(study, "preflight", lambda *_: None)
    _wait(lambda: _answers(server) and _answers(scheduler))
    yield found
    for process in running:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            one.kill()
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _wait(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_study_on_two_workers_that_share_nothing_goes_on_when_one_is_killed(
    tmp_path, images, hosts, capsys, monkeypatch
):
    import threading

    for name, own in {"1_train": {"data": "phantom"}, "2_attribute": {"data": ""}}.items():
        monkeypatch.setitem(test_study.PARAMETERS, name, {**test_study.PARAMETERS[name], **own})
    wait = "import os, time\nif not os.path.exists(os.environ['HOME'] + '/../lost'):\n    time.sleep(60)"
    notebooks = write_notebooks(tmp_path / "notebooks", train=wait)
    params = write_params(tmp_path / "study.yaml", seed=[0, 1], method=["layercam"], data="images")
    monkeypatch.chdir(tmp_path)  # the workers are in other folders: there is nothing of that name
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
    code = study.run(StudyParams.read(params), params, {}, **shared)
    thread.join()
    out = capsys.readouterr().out
    assert code == 0, out + (tmp_path / "left" / "log.txt").read_text()[-3000:]
    assert "its worker was lost; goes on here" in out
    assert not killed["left over"].is_running() or killed["left over"].status() == psutil.STATUS_ZOMBIE

    # one run a step, the lost one's too; its notebook came back through the store
    runs = tracking.find(experiment="fake", complete=False)
    assert sorted(run.name.partition(" 2")[0] for run in runs) == sorted(  # the study's has the date
        [*(f"{stage} CompactDenseNet s{seed}{end}" for seed in (0, 1)
           for stage, end in (("train", ""), ("attribute", ""), ("score", " layercam"))), "compare", "study fake"]
    )  # fmt: skip
    assert {run.status for run in runs} == {"FINISHED"}
    assert sum("cxr.resumed_on" in run.tags for run in runs) == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out").glob("*.ipynb"))) == 7
    # the images went through the store
    assert len(list((tmp_path / "left" / "cache").rglob("*.png"))) == 40

    assert study.run(StudyParams.read(params), params, {}, **shared) == 0
    assert "7 done already, 0 to run" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_that_cannot_do_the_work_are_named_before_it_starts(tmp_path, hosts):
    with cluster.opened(hosts.scheduler, jobs=0, devices=0) as found:
        cluster.check_workers(found, tracking_uri=hosts.uri, version=task.version())
        with pytest.raises(InputError, match=r"the worker tcp://.*another version of the package"):
            cluster.check_workers(found, tracking_uri=hosts.uri, version="other")
        with pytest.raises(InputError, match=r"the worker tcp://.*no MLflow server answers .*environment"):
            cluster.check_workers(found, tracking_uri="http://127.0.0.1:9", version=task.version())
        with pytest.raises(InputError, match=r"is a file of this machine, and the workers are elsewhere"):
            cluster.check_workers(found, tracking_uri="sqlite:////x/mlflow.db", version=task.version())
