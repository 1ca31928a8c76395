"""Where the notebooks of a study run: a Dask cluster in this process, at an address, or of any class."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import socket
import subprocess
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import dask
import distributed
import tornado.web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tornado.httputil import HTTPServerRequest

from cxr.core.errors import InputError, first_line
from cxr.core.params import read_yaml
from cxr.study import worker as study_worker
from cxr.study.shared_files import Shared

_LOCAL = "127.0.0.1"
_DASHBOARD = f"{_LOCAL}:8787"  # of the embedded cluster; other machines cannot open it
_NAMES = (_LOCAL, "localhost")  # under which browsers of this machine may open it
_CONNECT_SECONDS = 10
_WAIT_SECONDS = 3600  # for the first worker, which may wait in the queue of a batch system


class ClusterParams(BaseModel):
    """A parameter file of a cluster, such as `params/clusters/slurm.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")] = Field(
        description="a Dask cluster class, or a function that returns a cluster, as package.module.Class"
    )
    options: dict[str, Any] = Field({}, description="its keyword arguments")
    workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the largest number of workers; without it, as many as `options` start"
    )
    minimum: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="the smallest number, when there is little to do; without it, always as many as `workers`",
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.minimum is not None and (self.workers is None or self.minimum > self.workers):
            raise ValueError(f"minimum must be at most workers ({self.workers}), got {self.minimum}")
        return self

    @classmethod
    def read(cls, path: Path) -> ClusterParams:
        """Read a cluster's file. Raises InputError."""
        try:
            return cls(**read_yaml(path))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}, got {e['input']!r}" for e in error.errors()
            )
            raise InputError(f"--scheduler {path}: {what}") from None


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that is ready to work.

    Attributes:
        client: connected to its scheduler.
        embedded: whether scheduler and workers are threads of this process.
    """

    client: distributed.Client
    embedded: bool

    @property
    def dashboard(self) -> str:
        """The address of Dask's pages."""
        if self.embedded:
            return f"http://127.0.0.1:{self.client.cluster.scheduler_info['services']['dashboard']}/status"
        return self.client.dashboard_link

    @property
    def slots(self) -> int:
        """How many notebooks run at once on the workers that there are now; at least 1."""
        return max(1, sum(self.client.nthreads().values()))

    @property
    def hands_out_gpus(self) -> bool:
        """Whether a worker was started with a number of GPUs (`--resources GPU=1`)."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(worker["resources"].get("GPU") for worker in workers)

    @property
    def lost(self) -> bool:
        """Whether the scheduler does not answer any more."""
        return self.client.status != "running"

    def stop(self, attempt: str, futures: Iterable[distributed.Future]) -> None:
        """Stop a study: its tasks do not start any more, and all its notebooks end, on all workers.

        Args:
            attempt: the end of the keys of its tasks.
            futures: of its tasks.
        """
        with contextlib.suppress(Exception):  # without a scheduler there are no workers to reach
            self.client.cancel(list(futures), force=True)
            self.client.run(study_worker.stop_all, attempt, on_error="ignore")


def check(scheduler: str) -> None:
    """Raise InputError for a bad `scheduler`, as far as that shows without starting anything."""
    if "://" not in scheduler and scheduler != "local":
        _class_of(ClusterParams.read(_file(scheduler)), scheduler)


@contextlib.contextmanager
def opened(scheduler: str, *, jobs: int, devices: int) -> Iterator[Cluster]:
    """A cluster with at least one worker; it is closed at the end, unless it was there before.

    Args:
        scheduler: `local`: embedded in this process; an address such as `tcp://host:8786` or `tls://...`: of a
            scheduler that runs already; or the path of a YAML file, as `ClusterParams` describes it.
        jobs: for `local`: notebooks at once; 0: one for each GPU, or for every two cores if there is no GPU.
        devices: for `local`: GPUs that each notebook needs.

    Raises:
        InputError: no scheduler answers, the cluster does not start, or no worker comes within an hour.
    """
    settings = {
        "distributed.worker.memory.spill": False,
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.worker.profile.enabled": False,  # of workers that only wait
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        if "://" in scheduler:
            client = stack.enter_context(_connected(scheduler))
        else:
            start = _embedded(jobs, devices) if scheduler == "local" else _started(scheduler)
            client = stack.enter_context(distributed.Client(stack.enter_context(start)))
        try:
            client.register_plugin(study_worker.Notebooks())
        except ImportError as error:
            raise InputError(
                f"--scheduler {scheduler}: a worker lacks the package cxr ({first_line(error)}): install there "
                "the version that starts the study"
            ) from None
        found = Cluster(client, scheduler == "local")
        if not client.nthreads():
            print(f"waiting for a worker of {client.scheduler.address}; dashboard: {found.dashboard}", flush=True)
            try:
                # a cluster with a minimum of 0 starts its first worker only for a task
                client.submit(socket.gethostname, pure=False).result(timeout=_WAIT_SECONDS)
            except TimeoutError:
                raise InputError(
                    f"--scheduler {scheduler}: no worker came within an hour: start some with `dask worker "
                    f"{client.scheduler.address} --nthreads 1`, or find out why the cluster starts none"
                ) from None
        yield found


def embedded_slots(jobs: int, devices: int) -> int:
    """How many notebooks the embedded cluster runs at once. Arguments as for `opened`."""
    return len(_shares(jobs, devices)) or jobs or max(1, (os.cpu_count() or 1) // 2)


def _shares(jobs: int, devices: int) -> list[str]:
    """The GPUs of each embedded worker, in the form of CUDA_VISIBLE_DEVICES; [] without GPUs."""
    found, each = gpus(), max(1, devices)
    shares = [",".join(found[first : first + each]) for first in range(0, len(found) - each + 1, each)]
    return shares[: jobs or None]


def gpus() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
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
    """Scheduler and workers in this process: one worker for the GPUs of each notebook, or one without GPUs."""
    common = {"memory_limit": 0, "dashboard": False, "dashboard_address": f"{_LOCAL}:0"}
    of_gpu = {**common, "nthreads": 1, "resources": {"GPU": 1}}
    workers = {f"GPU {share}": {"cls": distributed.Worker, "options": of_gpu} for share in _shares(jobs, devices)}
    if not workers:
        options = {**common, "nthreads": embedded_slots(jobs, devices)}
        workers = {"CPU": {"cls": distributed.Worker, "options": options}}
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"protocol": "inproc://", "dashboard": True, "dashboard_address": _DASHBOARD},
    }
    # Workers are threads here, and not lost when they give no sign of life: a machine slept, or Ctrl-Z.
    with warnings.catch_warnings(), dask.config.set({"distributed.scheduler.worker-ttl": None}):
        # A taken port does not matter: another study has it.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        # The study reports failed notebooks itself.
        with distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL) as found:
            for server in (found.scheduler, *found.workers.values()):
                _answer_to_own_names(server.http_application)
            yield found


def _answer_to_own_names(application: tornado.web.Application) -> None:
    """Refuse requests for other names, and of other pages: a page of the web can lead a browser here."""
    find = application.find_handler

    def find_handler(request: HTTPServerRequest, **options: Any) -> Any:
        origin = urlsplit(request.headers.get("Origin", f"http://{_LOCAL}")).hostname
        if request.host_name in _NAMES and origin in _NAMES:
            return find(request, **options)
        return application.get_handler_delegate(request, tornado.web.ErrorHandler, {"status_code": 403})

    application.find_handler = find_handler


def _connected(address: str) -> distributed.Client:
    try:
        return distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({first_line(error)}): start one with "
            "`dask scheduler`, or correct the address"
        ) from None


@contextlib.contextmanager
def _started(scheduler: str) -> Iterator[Any]:
    """A cluster of the class that a file names. It is closed at the end."""
    params = ClusterParams.read(_file(scheduler))
    new = _class_of(params, scheduler)
    try:
        cluster = new(**params.options)
    except Exception as error:  # every class raises its own errors
        raise InputError(
            f"--scheduler {scheduler}: {params.cluster} does not start: {first_line(error)}: correct "
            "`options`, or provide what it needs"
        ) from None
    with cluster:
        if params.workers is not None:
            least = params.workers if params.minimum is None else params.minimum
            if hasattr(cluster, "adapt"):  # replaces lost workers, such as jobs whose time is over
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
        what = f"the module {module} has no {name}: correct `cluster`"
    raise InputError(f"--scheduler {scheduler}: {what}")


def _file(scheduler: str) -> Path:
    if scheduler.endswith((".yaml", ".yml")):
        return Path(scheduler)
    raise InputError(
        f"--scheduler {scheduler}: use local, an address such as tcp://host:8786, or the YAML file of a cluster, "
        "such as those in params/clusters"
    )


def check_workers(cluster: Cluster, shared: Shared) -> None:
    """Check that all workers see what a study uses. Raises InputError that names the first that does not."""
    for worker, trouble in cluster.client.run(study_worker.trouble, shared, on_error="return").items():
        if trouble:  # an exception if cxr is not installed there
            raise InputError(f"the worker {worker}: {trouble}")
