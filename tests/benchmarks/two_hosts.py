"""A study on two hosts, one of which dies half-way, has the tables of the same study on one machine.

    sudo .venv/bin/python tests/benchmarks/two_hosts.py [--params params/smoke.yaml] [--keep]

Linux, as root, with PostgreSQL's programs (Debian: `apt-get install postgresql iproute2`). The hosts, `left` and
`right`, are sets of namespaces (network, mounts, processes, host name): each has its own address, and no way to
anywhere but a bridge in between; its own clone of this checkout and home, and not the other's files. What they
share with the runner is what a study needs: the runner's folder, under the same path, and the cache. On the
bridge's address there are an MLflow server, with PostgreSQL, name and password, and a Dask scheduler; on each host
one Dask worker. Then

1. `cxr study` runs a grid of two architectures and two seeds there. When a training on `right` has ended at least
   one epoch, `right` is cut off: all its processes are killed at once, and its network is taken away.
2. `cxr study` runs the same locally, with SQLite, and other folders.
3. Every table, map and checkpoint of both stores is compared, and what differs is printed. Exit status 1 when
   anything does.

Each process computes with one thread everywhere: another number of threads rounds otherwise.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

import kill_study  # noqa: E402
import servers  # noqa: E402

NET = "10.77.0"  # the runner and the servers are .1
HOSTS = {"left": 2, "right": 3}
SHARED = ("runner", "cache")  # folders that hosts and runner have in common
USER, PASSWORD = "researcher", "a-password-of-researchers"
GRID = ("architecture=[CompactResNetV2,CompactDenseNet]", "seed=[0,1]")
# its name, an empty folder in place of each of the others', and the worker
MOVE_IN = """
hostname "$1"; shift
while [ "$1" != -- ]; do mount -t tmpfs none "$1"; shift; done
shift; exec "$@"
"""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def shell(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check, capture_output=not check)


@contextmanager
def network(tag: str) -> Iterator[None]:
    """A bridge with the runner's address, and a network namespace a host, which reaches nothing but the bridge."""
    bridge = f"{tag}-br"
    try:
        shell("ip", "link", "add", bridge, "type", "bridge")
        shell("ip", "address", "add", f"{NET}.1/24", "dev", bridge)
        shell("ip", "link", "set", bridge, "up")
        for host, number in HOSTS.items():
            space, cable = f"{tag}-{host}", f"{tag}-{host[0]}"
            shell("ip", "netns", "add", space)
            shell("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            shell("ip", "link", "set", cable, "master", bridge, "up")
            inside = ("ip", "-n", space)
            shell(*inside, "address", "add", f"{NET}.{number}/24", "dev", "eth0")
            shell(*inside, "link", "set", "eth0", "up")
            shell(*inside, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            shell("ip", "link", "delete", f"{tag}-{host[0]}", check=False)
            shell("ip", "netns", "delete", f"{tag}-{host}", check=False)
        shell("ip", "link", "delete", bridge, check=False)


def furnish(folder: Path, clone_of: Path) -> None:
    """A clone of the checkout, as it is committed, and empty folders for everything else."""
    for name in ("home", "cache", "tmp"):
        (folder / name).mkdir(parents=True)
    shell("git", "clone", "--quiet", str(clone_of), str(folder / "checkout"))


def environment(folder: Path, uri: str) -> dict[str, str]:
    """What the processes of a host, or of the runner, find in their environment."""
    # of the environment that this script was started in, only the way to the programs
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "CXR_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(folder / "checkout"),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **ONE_THREAD,
    }


class Host:
    """A worker in namespaces of its own."""

    def __init__(self, name: str, tag: str, folder: Path, uri: str, scheduler: str) -> None:
        self.name, self.tag, self.folder = name, tag, folder / name
        others = [str(path) for path in folder.iterdir() if path.is_dir() and path.name not in (name, *SHARED)]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1"]
        worker += ["--name", name, "--no-dashboard", "--local-directory", str(self.folder / "tmp")]
        words = ["ip", "netns", "exec", f"{tag}-{name}"]
        words += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
        words += ["sh", "-ec", MOVE_IN, "sh", name, *others, "--", *worker]
        with open(folder / f"{name}.log", "w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=self.folder / "checkout",
                env=environment(self.folder, uri) | {"CXR_CACHE": str(folder / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def cut_off(self) -> int:
        """End it as a power cut does: no process gets a last word. Returns how many ran."""
        shell("ip", "link", "set", f"{self.tag}-{self.name[0]}", "down", check=False)
        import psutil

        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return 0
        if family:
            family[0].kill()  # the first process of its namespace: the kernel kills the others with it
        self.process.wait()
        return len(family)


def started(stack: ExitStack, words: list[str], log: Path, **options) -> subprocess.Popen:
    """Start a process that is killed, with all its children, when the stack unwinds."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    stack.callback(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
    return process


def study(folder: Path, params: Path, name: str, *options: str) -> list[str]:
    words = [sys.executable, "-m", "cxr.cli", "study", str(params), "--set", *GRID]
    return [*words, "--out", str(folder / name), *options]


def dask_scheduler(stack: ExitStack, folder: Path) -> str:
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", f"{NET}.1", "--port", "8786"]
    started(stack, [*words, "--no-dashboard"], folder / "scheduler.log", env={**os.environ, **ONE_THREAD})
    return f"tcp://{NET}.1:8786"


def trains_on(host: str, experiment: str) -> str:
    """The id of a training that runs on a host, and has an epoch behind it; empty if there is none."""
    from cxr import tracking

    for run in tracking.find("train", experiment=experiment, complete=False):
        where = run.tags.get("cxr.process", "").partition(":")[0]
        epochs = [key for key in run.metrics if key.startswith(("transfer/", "fine_tuning/"))]
        if run.status == "RUNNING" and where == host and epochs:
            return run.run_id
    return ""


def export(folder: Path, experiment: str) -> None:
    """What the complete runs of the store in the environment hold, as FOLDER/STAGE ARCHITECTURE SEED METHOD/..."""
    from cxr import tracking

    tracking.connect()
    for run in reversed(tracking.find(experiment=experiment)):  # of runs with equal fingerprints, the newest stays
        cell = [run.params.get(key, "") for key in ("architecture", "seed", "method")]
        if run.stage == "study":
            continue
        own = folder / " ".join(filter(None, [run.stage, *(cell if run.stage != "compare" else [])]))
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        import mlflow

        mlflow.artifacts.download_artifacts(run_id=run.run_id, dst_path=str(own))
        shutil.rmtree(own / "images", ignore_errors=True)  # of the image grid, whose names hold the time


def compare(ours: Path, theirs: Path) -> pd.DataFrame:
    """One row a kind of file: how many there are, how many are equal, and the largest difference of a number."""
    rows = []
    names = {path.relative_to(root) for root in (ours, theirs) for path in root.rglob("*") if path.is_file()}
    for name in sorted(names):
        kind = "/".join([name.parts[0].split()[0], *name.parts[1:]])
        a, b = ours / name, theirs / name
        if not (a.is_file() and b.is_file()):
            rows.append((kind, False, np.nan))
        elif digest := kill_study.content_hash(a):
            equal = digest == kill_study.content_hash(b)
            rows.append((kind, equal, 0.0 if equal else difference(a, b)))
    table = pd.DataFrame(rows, columns=["file", "equal", "largest difference"])
    files = table.groupby("file")
    largest = files["largest difference"].agg(lambda values: values.max(skipna=False))
    return pd.DataFrame({"files": files.size(), "equal": files["equal"].sum(), "largest difference": largest})


def conclude(folder: Path, failed: int, keep: bool) -> int:
    """Print how the `tables` of `runner` and `alone` compare.

    Returns the exit status: 0 if nothing failed, and all files, of which there are some, are equal; `folder` is
    then removed, unless it is to be kept.
    """
    table = compare(folder / "runner" / "tables", folder / "alone" / "tables")
    print(table.to_string())
    different = int((table["files"] - table["equal"]).sum())
    print(f"{int(table['files'].sum())} files of each compared: {different} differ")
    wrong = different or failed or not len(table)
    if not keep and not wrong:
        shutil.rmtree(folder)
    return int(bool(wrong))


def difference(a: Path, b: Path) -> float:
    """The largest difference of two numbers at the same place; NaN where the tables have not the same shape."""
    numbers = []
    for path in (a, b):
        if path.suffix in (".csv", ".parquet"):
            frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
            numbers.append([frame.drop(columns=list(kill_study.COLUMNS & set(frame))).select_dtypes("number")])
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                numbers.append([file[key] for key in sorted(file) if file[key].dtype.kind in "fiub"])
        else:
            return float("nan")
    arrays = [[np.asarray(part, float) for part in one] for one in numbers]
    if [one.shape for one in arrays[0]] != [one.shape for one in arrays[1]]:
        return float("nan")
    return max((float(np.nanmax(np.abs(x - y), initial=0.0)) for x, y in zip(*arrays, strict=True)), default=0.0)


def wait_for(process: subprocess.Popen, host: Host, experiment: str) -> float:
    """Wait for the study to end; cut the host off once a training is under way there. Returns after how long."""
    began, cut = time.monotonic(), None
    while process.poll() is None:
        time.sleep(1)
        if cut is None and (run_id := trains_on(host.name, experiment)):
            cut = time.monotonic() - began
            killed = host.cut_off()
            print(f"after {cut:.0f} s: run {run_id} trained on {host.name}: {killed} processes killed", flush=True)
    assert cut is not None, "no training was seen on the host that was to die"
    return time.monotonic() - began


def main(params: Path, keep: bool) -> int:
    if os.name != "posix" or os.getuid() != 0:
        print("needs root: it makes network namespaces", file=sys.stderr)
        return 2
    if servers.postgres_programs() is None:
        print("needs PostgreSQL's programs (Debian: apt-get install postgresql)", file=sys.stderr)
        return 2
    from cxr.core.params import StudyParams

    experiment = StudyParams.read(params, {}).name
    folder = Path(tempfile.mkdtemp(prefix="cxr-hosts-"))
    print(f"in {folder}", flush=True)
    tag = f"cxr{os.getpid() % 10000}"
    with ExitStack() as stack:
        for name in ("left", "right", "runner", "alone"):
            furnish(folder / name, ROOT)
        for name in ("server", "cache"):
            (folder / name).mkdir()
        stack.enter_context(network(tag))
        databases = stack.enter_context(servers.postgres())
        options = {"host": f"{NET}.1", "port": 5000, "workers": 2}
        uri = stack.enter_context(servers.mlflow_server(folder / "server", databases, **options))
        servers.create_user(uri, USER, PASSWORD)
        os.environ.update(environment(folder / "runner", uri))
        scheduler = dask_scheduler(stack, folder)
        hosts = {name: Host(name, tag, folder, uri, scheduler) for name in HOSTS}
        for host in hosts.values():
            stack.callback(host.cut_off)
        print(f"hosts: {meet(scheduler)}", flush=True)

        words = study(folder / "runner", params, "out", "--scheduler", scheduler, "--tracking-uri", uri)
        cwd = {"cwd": folder / "runner" / "checkout"}
        runner = started(stack, words, folder / "runner.log", **cwd, env=environment(folder / "runner", uri))
        seconds = wait_for(runner, hosts["right"], experiment)
        print(f"on two hosts, one of them lost: exit status {runner.returncode} after {seconds:.0f} s", flush=True)
        call_export(folder / "runner" / "tables", experiment, environment(folder / "runner", uri))

        store = f"sqlite:///{folder}/alone/mlflow.db"
        words = study(folder / "alone", params, "out", "--scheduler", "local", "--tracking-uri", store)
        cwd = {"cwd": folder / "alone" / "checkout"}
        began = time.monotonic()
        alone = started(stack, words, folder / "alone.log", **cwd, env=environment(folder / "alone", store))
        print(f"on one machine: exit status {alone.wait()} after {time.monotonic() - began:.0f} s", flush=True)
        call_export(folder / "alone" / "tables", experiment, environment(folder / "alone", store))

    return conclude(folder, runner.returncode or alone.returncode, keep)


def meet(scheduler: str) -> str:
    """Wait for both workers; what each says of where it is."""
    from distributed import Client

    def place() -> str:
        import os
        import socket

        import cxr

        return f"{socket.gethostname()} with {os.path.dirname(cxr.__file__)}"

    with Client(scheduler, timeout=60) as client:
        client.wait_for_workers(len(HOSTS), timeout=60)
        return "; ".join(client.run(place).values())


def call_export(folder: Path, experiment: str, given: dict[str, str]) -> None:
    """`export` in a process of its own: a process has one store."""
    folder.mkdir()
    words = [sys.executable, __file__, "--export", str(folder), experiment]
    subprocess.run(words, env=given, check=True, cwd=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params" / "smoke.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the folders where they are")
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export(Path(arguments.export[0]), arguments.export[1])
        sys.exit(0)
    sys.exit(main(arguments.params.resolve(), arguments.keep))
