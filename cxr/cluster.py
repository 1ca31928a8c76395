"""Where the notebooks of a study run: an embedded Dask cluster, a scheduler's address, Slurm or Kubernetes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import dask
import distributed
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr import task, tracking
from cxr.errors import InputError, first_line

_DASHBOARD = "127.0.0.1:8787"  # of the embedded cluster: for this machine only
_CONNECT_SECONDS = 10
_WAIT_SECONDS = 3600  # for the first worker: a batch system has queues
_KINDS = {"slurm": "dask-jobqueue", "kubernetes": "dask-kubernetes"}


class ClusterParams(BaseModel):
    """A parameter file of a cluster, such as `params/clusters/slurm.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: Literal["slurm", "kubernetes"]
    workers: Annotated[int, Field(ge=1)] = Field(1, description="how many, at the most")
    minimum: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="how many there are when there is little to do; without it `workers` are there all the time",
    )
    options: dict[str, Any] = Field(
        {}, description="keyword arguments of dask_jobqueue.SLURMCluster or dask_kubernetes.operator.KubeCluster"
    )

    @classmethod
    def read(cls, path: Path) -> ClusterParams:
        """Read a file. Raises InputError."""
        try:
            return cls(**yaml.safe_load(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"--scheduler {path}: cannot read it ({error.strerror})") from None
        except (yaml.YAMLError, TypeError, UnicodeDecodeError):
            raise InputError(f"--scheduler {path}: not a YAML file of 'key: value' lines") from None
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()
            )
            raise InputError(f"--scheduler {path}: {what}") from None


@dataclass(frozen=True)
class Cluster:
    """A client of a Dask scheduler. `embedded`: its workers are threads of this process."""

    client: distributed.Client
    embedded: bool
    dashboard: str

    @property
    def slots(self) -> int:
        """How many notebooks run at once, with the workers that there are now; at least 1."""
        return max(1, sum(self.client.nthreads().values()))

    @property
    def hands_out_gpus(self) -> bool:
        """Whether a worker has said how many GPUs it has (`--resources GPU=1`)."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(worker["resources"].get("GPU") for worker in workers)

    @property
    def lost(self) -> bool:
        """Whether the scheduler is gone."""
        return self.client.status != "running"

    def stop(self) -> None:
        """Stop all notebooks that the workers are executing."""
        with contextlib.suppress(Exception):  # a scheduler that is gone has no workers to stop
            self.client.run(task.stop_all, on_error="ignore")


def check(scheduler: str) -> None:
    """Raise InputError where `opened` would, as far as it can be known without starting anything."""
    if "://" not in scheduler and scheduler != "local":
        params = ClusterParams.read(_file(scheduler))
        _class_of(params.scheduler)


@contextlib.contextmanager
def opened(scheduler: str, *, jobs: int, devices: int) -> Iterator[Cluster]:
    """A cluster, ready to work: it has a worker.

    Args:
        scheduler: `local`, embedded in this process; the address of a scheduler that is running (`tcp://host:8786`,
            `tls://...`); a file as `ClusterParams` has it, or `slurm` or `kubernetes` for
            `params/clusters/<name>.yaml`.
        jobs: of the embedded one: notebooks at once; 0: one for each GPU, or for every two cores without one.
        devices: of the embedded one: GPUs that a notebook needs.
    Raises: InputError when there is no such scheduler, and when no worker comes within an hour.
    """
    quiet = {"distributed.worker.memory.spill": False, "distributed.admin.system-monitor.interval": "2s"}
    with dask.config.set(quiet), contextlib.ExitStack() as stack:
        if scheduler == "local":
            cluster = stack.enter_context(_embedded(jobs, devices))
            client = stack.enter_context(distributed.Client(cluster))
            dashboard = f"http://127.0.0.1:{cluster.scheduler_info['services']['dashboard']}/status"
        elif "://" in scheduler:
            client = stack.enter_context(_connected(scheduler))
            dashboard = client.dashboard_link
        else:
            cluster = stack.enter_context(_started(ClusterParams.read(_file(scheduler))))
            client = stack.enter_context(distributed.Client(cluster))
            dashboard = client.dashboard_link
        client.register_plugin(task.Notebooks())
        found = Cluster(client, scheduler == "local", dashboard)
        if not client.nthreads():
            print(f"waiting for a worker of {client.scheduler.address}; dashboard: {dashboard}", flush=True)
            try:
                client.wait_for_workers(1, timeout=_WAIT_SECONDS)
            except TimeoutError:
                raise InputError(
                    f"--scheduler {scheduler}: no worker came within an hour: start some with `dask worker "
                    f"{client.scheduler.address} --nthreads 1`, or look why the batch system starts none"
                ) from None
        yield found


def embedded_slots(jobs: int, devices: int) -> int:
    """How many notebooks the embedded cluster runs at once. Args as for `opened`."""
    return len(_shares(jobs, devices)) or jobs or max(1, (os.cpu_count() or 1) // 2)


def _shares(jobs: int, devices: int) -> list[str]:
    """The GPUs of each embedded worker, as CUDA_VISIBLE_DEVICES has them; [] without GPUs."""
    found, each = gpus(), max(1, devices)
    shares = [",".join(found[first : first + each]) for first in range(0, len(found) - each + 1, each)]
    return shares[: jobs or None]


def gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return []
    return found.stdout.split() if found.returncode == 0 else []


@contextlib.contextmanager
def _embedded(jobs: int, devices: int) -> Iterator[distributed.SpecCluster]:
    """Scheduler and workers in this process: a worker a GPU (or so many as a notebook needs), or one without."""
    common = {"memory_limit": 0, "dashboard": False}
    of_gpu = {**common, "nthreads": 1, "resources": {"GPU": 1}}
    workers = {f"GPU {share}": {"cls": distributed.Worker, "options": of_gpu} for share in _shares(jobs, devices)}
    if not workers:
        options = {**common, "nthreads": embedded_slots(jobs, devices)}
        workers = {"CPU": {"cls": distributed.Worker, "options": options}}
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"protocol": "inproc://", "dashboard": True, "dashboard_address": _DASHBOARD},
    }
    # A notebook that fails is told of by the study; a taken port (another study's) is no matter.
    with _silenced(), distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False) as cluster:
        yield cluster


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    import warnings

    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            yield
    finally:
        logger.setLevel(before)


def _connected(address: str) -> distributed.Client:
    try:
        return distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({first_line(error)}): start one with "
            "`dask scheduler`, and mend the address"
        ) from None


@contextlib.contextmanager
def _started(params: ClusterParams) -> Iterator[Any]:
    """A cluster that Slurm or Kubernetes starts, and ends with the study."""
    new = _class_of(params.scheduler)
    cluster = _new_slurm(new, params.options) if params.scheduler == "slurm" else _new_kube(new, params.options)
    with cluster:
        # `scale` would leave a worker that is lost, such as a job at the end of its time, without a successor
        cluster.adapt(
            minimum=params.workers if params.minimum is None else params.minimum, maximum=params.workers
        )
        yield cluster


def _new_slurm(new: Any, options: dict[str, Any]) -> Any:
    """A SLURMCluster whose jobs Slurm would take; otherwise each is refused in the background, for an hour."""
    try:
        cluster = new(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--scheduler slurm: its options do not fit: {first_line(error)}") from None
    with tempfile.TemporaryDirectory(prefix="cxr-slurm-") as folder:
        script = Path(folder) / "job.sh"
        script.write_text(cluster.job_script(), encoding="utf-8")
        try:
            done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, timeout=120)
            said = "" if done.returncode == 0 else done.stderr.strip().replace("\n", "; ")
        except FileNotFoundError:
            said = "there is no `sbatch` on this machine: give the command on one that can submit jobs"
        except subprocess.TimeoutExpired:
            said = "`sbatch --test-only` has not answered for two minutes"
    if said:
        cluster.close()
        raise InputError(f"--scheduler slurm: Slurm takes no such job, mend `options` or see to Slurm: {said}")
    return cluster


def _new_kube(new: Any, options: dict[str, Any]) -> Any:
    """A KubeCluster whose scheduler answers; a failed one is removed here, and not at exit with a traceback."""
    from dask_kubernetes.operator.kubecluster import kubecluster

    print("waiting for Kubernetes to start a Dask scheduler; `kubectl get pods` tells what keeps it", flush=True)
    try:
        own = {"quiet": not sys.stdout.isatty(), "create_mode": kubecluster.CreateMode.CREATE_ONLY}
        return new(**own | options)
    except Exception as error:  # kr8s', httpx', Kubernetes' own, and of options
        atexit.unregister(kubecluster.reap_clusters)
        if "already exists" in str(error):  # it is not ours to remove
            raise InputError(
                f"--scheduler kubernetes: {first_line(error)}: another study has it, or one that was killed has "
                "left it (`kubectl delete daskcluster` with that name); or give yours another name, in all places "
                "of the file"
            ) from None
        for left in list(new._instances):
            with contextlib.suppress(Exception):
                left.close(timeout=10)
        raise InputError(
            f"--scheduler kubernetes: no Dask cluster can be had ({first_line(error)}): see that `kubectl get "
            "daskclusters` works here, that Dask's operator runs "
            "(https://kubernetes.dask.org/en/latest/installing.html), and that `options` fit KubeCluster"
        ) from None


def _class_of(kind: str) -> Any:
    try:
        if kind == "slurm":
            from dask_jobqueue import SLURMCluster

            return SLURMCluster
        from dask_kubernetes.operator import KubeCluster

        return KubeCluster
    except ImportError:
        raise InputError(
            f"--scheduler {kind}: needs {_KINDS[kind]}, which is not installed: `make EXTRAS=dev,{kind}` on a "
            f"fresh clone, or `pip install -c requirements.lock -e '.[{kind}]'`"
        ) from None


def _file(scheduler: str) -> Path:
    if scheduler in _KINDS:
        return tracking.project() / "params" / "clusters" / f"{scheduler}.yaml"
    if scheduler.endswith((".yaml", ".yml")):
        return Path(scheduler)
    raise InputError(
        f"--scheduler {scheduler}: use local, an address such as tcp://host:8786, slurm, kubernetes, or the YAML "
        "file of a cluster"
    )


def check_workers(cluster: Cluster, *, tracking_uri: str, version: str) -> None:
    """See that all workers can do the work of a study. Raises InputError that names the first that cannot."""
    if cluster.embedded:
        return
    if tracking_uri.startswith(("sqlite:", "file:", "/")):
        raise InputError(
            f"the store {tracking_uri} is a file of this machine, and the workers are elsewhere: give "
            "--tracking-uri the address of an MLflow server that all of them reach (docs/server.md)"
        )
    for worker, trouble in cluster.client.run(_trouble, tracking_uri, version, on_error="return").items():
        if trouble:  # an exception where cxr is not installed at all
            raise InputError(f"the worker {worker}: {trouble}")


def _trouble(uri: str, version: str) -> str:
    """What keeps this worker from working for a study; empty for nothing."""
    if task.version() != version:
        return "has another version of the package cxr: install the one that the study is started with"
    try:
        tracking.connect(uri)
    except InputError as error:
        return f"{error}, in the environment of the worker"
    return ""
