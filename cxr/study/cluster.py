"""Where the notebooks of a study run: an embedded Dask cluster, a scheduler's address, any Dask cluster class."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import dask
import distributed
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr.core.errors import InputError, first_line
from cxr.study import worker as study_worker
from cxr.study.shared_files import Shared

_DASHBOARD = "127.0.0.1:8787"  # of the embedded cluster: for this machine only
_CONNECT_SECONDS = 10
_WAIT_SECONDS = 3600  # for the first worker: a batch system has queues


class ClusterParams(BaseModel):
    """A parameter file of a cluster, such as `params/clusters/slurm.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")] = Field(
        description="a Dask cluster class, or a function that gives a cluster, as package.module.Class"
    )
    options: dict[str, Any] = Field({}, description="its keyword arguments")
    workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="how many, at the most; without it as many as `options` start"
    )
    minimum: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="how many there are when there is little to do; without it `workers` are there all the time",
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.minimum is not None and (self.workers is None or self.minimum > self.workers):
            raise ValueError(f"minimum is at most workers ({self.workers}), got {self.minimum}")
        return self

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
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}, got {e['input']!r}" for e in error.errors()
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
            self.client.run(study_worker.stop_all, on_error="ignore")


def check(scheduler: str) -> None:
    """Raise InputError where `opened` would, as far as it can be known without starting anything."""
    if "://" not in scheduler and scheduler != "local":
        _class_of(ClusterParams.read(_file(scheduler)), scheduler)


@contextlib.contextmanager
def opened(scheduler: str, *, jobs: int, devices: int) -> Iterator[Cluster]:
    """A cluster, ready to work: it has a worker.

    Args:
        scheduler: `local`, embedded in this process; the address of a scheduler that is running (`tcp://host:8786`,
            `tls://...`); or a file as `ClusterParams` has it.
        jobs: of the embedded one: notebooks at once; 0: one for each GPU, or for every two cores without one.
        devices: of the embedded one: GPUs that a notebook needs.
    Raises: InputError when there is no such scheduler, the cluster does not start, or no worker comes within an
        hour.
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
            cluster = stack.enter_context(_started(ClusterParams.read(_file(scheduler)), scheduler))
            client = stack.enter_context(distributed.Client(cluster))
            dashboard = client.dashboard_link
        try:
            client.register_plugin(study_worker.Notebooks())
        except ImportError as error:
            raise InputError(
                f"--scheduler {scheduler}: a worker lacks the package cxr ({first_line(error)}): install the "
                "version that the study is started with"
            ) from None
        found = Cluster(client, scheduler == "local", dashboard)
        if not client.nthreads():
            print(f"waiting for a worker of {client.scheduler.address}; dashboard: {dashboard}", flush=True)
            try:
                # a task: a cluster with a minimum of 0 starts no worker without one
                client.submit(socket.gethostname, pure=False).result(timeout=_WAIT_SECONDS)
            except TimeoutError:
                raise InputError(
                    f"--scheduler {scheduler}: no worker came within an hour: start some with `dask worker "
                    f"{client.scheduler.address} --nthreads 1`, or look why the cluster starts none"
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
def _started(params: ClusterParams, scheduler: str) -> Iterator[Any]:
    """A cluster of the class that a file names; closed at the end, and where it does not start."""
    new = _class_of(params, scheduler)
    # Dask closes these when Python exits; one that has not started would then fail once more.
    instances = getattr(new, "_instances", distributed.SpecCluster._instances)
    before = set(instances)
    try:
        cluster = new(**params.options)
    except Exception as error:  # each class has errors of its own
        for left in set(instances) - before:
            with contextlib.suppress(Exception):
                left.close(timeout=10)
            instances.discard(left)
        raise InputError(
            f"--scheduler {scheduler}: {params.cluster} does not start: {first_line(error)}: mend `options`, or "
            "see to what it needs"
        ) from None
    with cluster:
        if params.workers is not None:
            least = params.workers if params.minimum is None else params.minimum
            if hasattr(cluster, "adapt"):  # which replaces a worker that is lost, as at the end of a job's time
                cluster.adapt(minimum=least, maximum=params.workers)
            else:
                cluster.scale(params.workers)
        yield cluster


def _class_of(params: ClusterParams, scheduler: str) -> Any:
    module, _, name = params.cluster.rpartition(".")
    package = module.partition(".")[0]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        if getattr(error, "name", None) == package:
            what = f"needs {package}: pip install {package.replace('_', '-')}"
        else:
            what = f"{params.cluster} cannot be imported: {first_line(error)}"
    except AttributeError:
        what = f"the module {module} has no {name}: mend `cluster`"
    raise InputError(f"--scheduler {scheduler}: {what}")


def _file(scheduler: str) -> Path:
    if scheduler.endswith((".yaml", ".yml")):
        return Path(scheduler)
    raise InputError(
        f"--scheduler {scheduler}: use local, an address such as tcp://host:8786, or the YAML file of a cluster, "
        "such as those in params/clusters"
    )


def check_workers(cluster: Cluster, shared: Shared) -> None:
    """See that all workers can do the work of a study. Raises InputError that names the first that cannot."""
    for worker, trouble in cluster.client.run(study_worker.trouble, shared, on_error="return").items():
        if trouble:  # an exception where cxr is not installed at all
            raise InputError(f"the worker {worker}: {trouble}")
