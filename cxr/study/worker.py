"""What a Dask worker holds while it executes notebooks: a plugin that stops them and checks the worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from distributed import Worker, WorkerPlugin

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError
from cxr.study import shared_files
from cxr.study.shared_files import Shared

_PLUGIN = "cxr"


class Notebooks(WorkerPlugin):
    """The notebooks that a worker executes. They stop with the worker, and when their study is stopped."""

    name = _PLUGIN

    def setup(self, worker: Worker) -> None:
        self.running: dict[str, subprocess.Popen] = {}  # by the task's key
        self.stopped: set[str] = set()
        self.stores: dict[str, int] = {}  # how many tasks use each store
        self.checked: set[str] = set()  # runners whose files this worker sees
        self.lock = threading.Lock()

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        if start == "executing" and finish == "released":  # its study was stopped, or is dead
            threading.Thread(target=self.stop, args=([key],)).start()

    def teardown(self, worker: Worker) -> None:
        self.stop()

    def stop(self, keys: list[str] | None = None) -> None:
        """Interrupt the notebooks of these tasks (None: of all): papermill saves them. Then kill what is left."""
        chosen = {key: process for key, process in list(self.running.items()) if keys is None or key in keys}
        self.stopped |= chosen.keys()
        processes.stop(process.pid for process in chosen.values())

    @contextlib.contextmanager
    def using(self, uri: str) -> Iterator[None]:
        """Use a store. MLflow knows only one per process: raises InputError while tasks use another."""
        with self.lock:
            others = [other for other, count in self.stores.items() if count and other != uri]
            if others:
                raise InputError(f"this worker is busy with the store {others[0]}: use other workers, or wait")
            if os.environ.get("MLFLOW_TRACKING_URI") != uri:
                tracking.connect(uri)
            self.stores[uri] = self.stores.get(uri, 0) + 1
        try:
            yield
        finally:
            with self.lock:
                self.stores[uri] -= 1

    def trouble(self, shared: Shared) -> str:
        """What keeps this worker from working for a study; empty for nothing. Looks once for each runner."""
        if shared.runner in self.checked:
            return ""
        if found := shared_files.trouble(shared):
            return found
        try:
            with self.using(shared.tracking_uri):
                self.checked.add(shared.runner)
        except InputError as error:
            return f"in its environment: {error}"
        return ""


def plugin_of(worker: Worker) -> Notebooks:
    """The plugin of a worker."""
    return worker.plugins[_PLUGIN]


def stop_all(dask_worker: Worker) -> None:
    """Stop all notebooks of a worker (for `distributed.Client.run`)."""
    plugin_of(dask_worker).stop()


def trouble(shared: Shared, dask_worker: Worker) -> str:
    """`Notebooks.trouble` of a worker (for `distributed.Client.run`)."""
    return plugin_of(dask_worker).trouble(shared)


def gpus_of(worker: Worker) -> str:
    """The GPUs that an embedded worker has to itself, from its name ("GPU 0", "GPU 0,1"); else empty."""
    name = str(worker.name)
    return name.removeprefix("GPU ") if name.startswith("GPU ") else ""
