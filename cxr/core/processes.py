"""Processes: identify them, find out whether they live, and stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PATIENCE_SECONDS = 15.0  # time for papermill to stop its kernel before both are killed
_LOOK_SECONDS = 2.0


def identity(pid: int) -> str:
    """`host:pid:create_time` of a process; a later process with the same number has another identity."""
    import psutil  # ipykernel requires it

    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.0f}"


def stop_orphans(runs: Mapping[str, str]) -> int:
    """Stop papermill and the kernels of these runs on this machine. Returns how many processes it stopped.

    Processes are found by the noted identity and by the run's id in their environment. If papermill has ended,
    only the environment says to which run a kernel belongs.

    Args:
        runs: run id to the identity of its papermill (the tag `cxr.process`), empty if it is unknown.
    """
    import psutil

    if not runs:
        return 0
    noted = {pid for process in runs.values() if (pid := lives(process))}
    parents = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in noted or process.environ().get("MLFLOW_RUN_ID") in runs:
                parents[process.pid] = process.ppid()
    parents.pop(os.getpid(), None)
    return stop(pid for pid, parent in parents.items() if parent not in parents)


def lives(process: str) -> int:
    """The process id in `host:pid:create_time` if this process lives on this machine, otherwise 0."""
    import psutil

    host, pid, created = (["", ""] + process.rsplit(":", 2))[-3:]
    if host != socket.gethostname() or not pid.isdecimal():
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(int(pid))
        # the clock may have been set: a second or two do not make another process
        if found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(created)) < 3:
            return int(pid)
    return 0


def stop(pids: Iterable[int]) -> int:
    """Interrupt processes, and kill what is left of them and of their descendants after `PATIENCE_SECONDS`.

    Returns: how many processes these were, with the descendants.
    """
    import psutil

    families = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            families += [parent, *parent.children(recursive=True)]
            parent.send_signal(signal.SIGINT) if os.name == "posix" else parent.terminate()
    _, alive = psutil.wait_procs(families, timeout=PATIENCE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len(families)


def die_with(process: str) -> None:
    """End this process at once, even if it is busy, when another process on this machine ends.

    If a worker is lost, its notebook runs again elsewhere in the same MLflow run, and two must not write to it.

    Args:
        process: the `identity` of the other process. Nothing happens if it is not on this machine.
    """
    import psutil

    if process.rsplit(":", 2)[0] != socket.gethostname():
        return

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid := lives(process):
                watched = psutil.Process(pid)  # setting the clock does not change this object
                while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="die_with", daemon=True).start()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within this context SIGTERM (with which batch systems stop a job) acts like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
