"""What a Dask worker holds while it executes notebooks: a plugin that stops them and checks the worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Worker, WorkerPlugin

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError, without_password
from cxr.study import claims, shared_files
from cxr.study.shared_files import Shared

_PLUGIN = "cxr"
_ENDED_SECONDS = 30.0  # for stopped tasks to end their runs in the store


class Notebooks(WorkerPlugin):
    """The notebooks that a worker executes. They stop with the worker, and when their study is stopped."""

    name = _PLUGIN

    def setup(self, worker: Worker) -> None:
        self.running: dict[str, subprocess.Popen] = {}  # by the task's key
        self.busy: set[str] = set()  # keys of the tasks that are being executed
        self.stopped: set[str] = set()  # keys, and attempts of studies (`claims.refused`)
        self.closed = False
        self.stores: dict[str, int] = {}  # how many tasks use each store
        self.checked: set[str] = set()  # runners whose files this worker sees
        self.lock = threading.RLock()
        self.idle = threading.Condition(self.lock)

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        if start == "executing" and finish == "released":  # its study was stopped, or is dead
            threading.Thread(target=self.stop, args=(key,)).start()

    def teardown(self, worker: Worker) -> None:
        self.stop()

    @contextlib.contextmanager
    def executing(self, key: str) -> Iterator[None]:
        """While a task is executed: `stop` waits for its end."""
        with self.lock:
            self.busy.add(key)
        try:
            yield
        finally:
            with self.lock:
                self.busy.discard(key)
                self.running.pop(key, None)
                self.idle.notify_all()

    def is_stopped(self, key: str) -> bool:
        """Whether this task, its study or this worker was stopped: nothing of it may start any more."""
        with self.lock:
            return self.closed or claims.refused(key, self.stopped)

    def launch(self, key: str, start: Callable[[], subprocess.Popen]) -> subprocess.Popen | None:
        """Start the notebook of a task, or return None if it was stopped. No stop comes between the two."""
        with self.lock:
            if self.is_stopped(key):
                return None
            self.running[key] = start()
            return self.running[key]

    def stop(self, what: str = "", *, patience: float = 0.0) -> None:
        """Let nothing start any more, interrupt what runs (papermill saves it), and kill what is left of it.

        Args:
            what: the key of a task, or the attempt of a study; "": all that this worker executes.
            patience: seconds to wait until the tasks have ended their runs in the store.
        """
        with self.lock:
            self.stopped.add(what)
            self.closed |= not what
            chosen = [process.pid for key, process in self.running.items() if self.is_stopped(key)]
        processes.stop(chosen)
        with self.idle:
            self.idle.wait_for(lambda: not any(map(self.is_stopped, self.busy)), timeout=patience)

    @contextlib.contextmanager
    def using(self, uri: str) -> Iterator[None]:
        """Use a store. MLflow knows only one per process: raises InputError while tasks use another."""
        with self.lock:
            others = [other for other, count in self.stores.items() if count and other != uri]
            if others:
                raise InputError(
                    f"this worker is busy with the store {without_password(others[0])}: use other workers, or wait"
                )
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


async def stop_all(attempt: str, dask_worker: Worker) -> None:
    """Stop the notebooks of a study on a worker, and wait for the ends of their runs (`Client.run` calls this)."""
    await asyncio.to_thread(plugin_of(dask_worker).stop, attempt, patience=_ENDED_SECONDS)


def trouble(shared: Shared, dask_worker: Worker) -> str:
    """`Notebooks.trouble` of a worker (for `distributed.Client.run`)."""
    return plugin_of(dask_worker).trouble(shared)


def gpus_of(worker: Worker) -> str:
    """The GPUs that an embedded worker has to itself, from its name ("GPU 0", "GPU 0,1"); else empty."""
    name = str(worker.name)
    return name.removeprefix("GPU ") if name.startswith("GPU ") else ""
