"""A study on Kubernetes, one of whose pods dies, has the tables of the same study on one machine.

    sudo .venv/bin/python tests/benchmarks/on_kubernetes.py [--params params/smoke.yaml] [--keep]

Linux, as root, which a mount namespace takes (names of services are in an /etc/hosts of its own). The client,
Dask's operator, scheduler and workers are what they are on Kubernetes; Kubernetes itself is a stand-in, whose pods
are processes of this machine (`tests/kubernetes_standin.py`). The cluster is that of
`params/clusters/kubernetes.yaml` with two workers, the store an MLflow server that asks for name and password.
When images are being explained, the pod that does it is killed. Exit status 1 when a table, map or checkpoint
differs from the local run's, where each process computes with one thread as well: another number rounds otherwise.
"""

import argparse
import base64
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

import servers  # noqa: E402
import two_hosts  # noqa: E402

SERVICE = "cxr-scheduler.default"
HOSTS = f"127.0.0.1 localhost {SERVICE} {SERVICE}.svc.cluster.local\n"
USER, PASSWORD = two_hosts.USER, two_hosts.PASSWORD


def kubeconfig(port: int) -> dict:
    names = {"cluster": "standin", "user": "standin", "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "standin",
        "contexts": [{"name": "standin", "context": names}],
        "clusters": [{"name": "standin", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "standin", "user": {"token": "any"}}],
    }


def cluster_file() -> dict:
    """`params/clusters/kubernetes.yaml` with two workers of one thread."""
    given = yaml.safe_load((ROOT / "params" / "clusters" / "kubernetes.yaml").read_text(encoding="utf-8"))
    worker = given["options"]["custom_cluster_spec"]["spec"]["worker"]
    given["workers"] = worker["replicas"] = 2
    worker["spec"]["containers"][0]["env"] += [{"name": k, "value": v} for k, v in two_hosts.ONE_THREAD.items()]
    return given


def environment(folder: Path, uri: str) -> dict[str, str]:
    """As on two hosts, with this checkout, which the pods have too."""
    return two_hosts.environment(folder, uri) | {"PYTHONPATH": str(ROOT)}


def kill_a_pod(study, experiment: str) -> None:
    """Wait for an attribute run, and kill the worker that its notebook belongs to, with all else in its pod."""
    import psutil

    from cxr import processes, tracking
    from cxr.errors import InputError

    while study.poll() is None:
        time.sleep(1)
        try:
            found = tracking.find("attribute", experiment=experiment, complete=False)
        except InputError:  # 403 between an experiment's making and its maker's permission
            continue
        for run in found:
            if run.status == "RUNNING" and (pid := processes.lives(run.tags.get("cxr.process", ""))):
                parents = psutil.Process(pid).parents()
                worker = next(p for p in parents if os.getpgid(p.pid) == p.pid and "dask" in " ".join(p.cmdline()))
                os.killpg(worker.pid, signal.SIGKILL)
                print(f"killed the pod with run {run.run_id}", flush=True)
                return
    raise RuntimeError("the study ended before a pod could be killed")


def main(params: Path, keep: bool) -> int:
    from cxr.params import StudyParams

    experiment = StudyParams.read(params, {}).name
    folder = Path(tempfile.mkdtemp(prefix="cxr-kubernetes-"))
    print(f"in {folder}", flush=True)
    with ExitStack() as stack:
        for name in ("pods", "server", "runner/home", "runner/tmp", "alone/home", "alone/tmp"):
            (folder / name).mkdir(parents=True)
        uri = stack.enter_context(servers.mlflow_server(folder / "server", f"sqlite:///{folder}/server/{{}}.db"))
        servers.create_user(uri, USER, PASSWORD)
        port = servers.free_port()
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(port)))
        (folder / "kubernetes.yaml").write_text(yaml.safe_dump(cluster_file()))
        words = [sys.executable, str(ROOT / "tests" / "kubernetes_standin.py"), str(port), str(folder / "pods")]
        standin = two_hosts.started(stack, words, folder / "standin.log")
        stack.callback(lambda: (standin.terminate(), time.sleep(5)))
        servers.wait_for_answer(f"http://127.0.0.1:{port}/version", standin, folder / "standin.log")
        make_secret(port)
        of_runner = environment(folder / "runner", uri) | {"KUBECONFIG": str(folder / "kubeconfig")}
        words = [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", "default"]
        words += ["--module", "dask_kubernetes.operator.controller"]
        two_hosts.started(stack, words, folder / "operator.log", env=of_runner)

        words = [sys.executable, "-m", "cxr.cli", "study", str(params), "--out", str(folder / "runner" / "out")]
        words += ["--scheduler", str(folder / "kubernetes.yaml")]
        began = time.monotonic()
        study = two_hosts.started(stack, words, folder / "runner.log", env=of_runner, cwd=ROOT)
        os.environ.update(of_runner)
        kill_a_pod(study, experiment)
        print(f"on Kubernetes: exit status {study.wait()} after {time.monotonic() - began:.0f} s", flush=True)
        two_hosts.call_export(folder / "runner" / "tables", experiment, of_runner)

        of_alone = environment(folder / "alone", f"sqlite:///{folder}/alone/mlflow.db")
        words = [sys.executable, "-m", "cxr.cli", "study", str(params), "--out", str(folder / "alone" / "out")]
        alone = two_hosts.started(stack, words, folder / "alone.log", env=of_alone, cwd=ROOT)
        print(f"on one machine: exit status {alone.wait()}", flush=True)
        two_hosts.call_export(folder / "alone" / "tables", experiment, of_alone)
        print((folder / "standin.log").read_text())
    return two_hosts.conclude(folder, study.returncode or alone.returncode, keep)


def make_secret(port: int) -> None:
    """`kubectl create secret generic mlflow --from-literal=username=... --from-literal=password=...`"""
    import requests

    data = {"username": USER, "password": PASSWORD}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlflow"}, "data": data}
    address = f"http://127.0.0.1:{port}/api/v1/namespaces/default/secrets"
    requests.post(address, json=secret, timeout=10).raise_for_status()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params" / "smoke.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the folder where it is")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        if os.name != "posix" or os.getuid() != 0:
            print("needs root: it makes a mount namespace", file=sys.stderr)
            sys.exit(2)
        hosts = Path(tempfile.mkstemp(prefix="cxr-hosts-")[1])
        hosts.write_text(HOSTS)
        move_in = 'mount --bind "$0" /etc/hosts; rm "$0"; exec "$@"'
        words = ["unshare", "--mount", "sh", "-ec", move_in, str(hosts), sys.executable, *sys.argv, "--inside"]
        os.execvp(words[0], words)
    sys.exit(main(arguments.params.resolve(), arguments.keep))
