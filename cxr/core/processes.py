"""Processes: which one that is, whether it lives, and how it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

PATIENCE_SECONDS = 15.0  # for papermill to stop its kernel before both are killed
_LOOK_SECONDS = 2.0


def identity(pid: int) -> str:
    """`host:pid:create_time` of a process, which tells it from a later one with the same number."""
    import psutil  # of ipykernel's own requirements

    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.0f}"


def stop_orphans(runs: Mapping[str, str]) -> int:
    """Stop papermill and the kernels of these runs, as far as they are on this machine. Returns how many.

    They are found by what is noted, and by the run's id in their environment: of a kernel whose papermill is gone,
    nothing else tells whose it is.

    Args: runs: run ids to the identity of their papermill (the tag `cxr.process`), empty where it is not known.
    """
    import psutil

    if not runs:
        return 0
    first = {pid for noted in runs.values() if (pid := lives(noted))}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in first or process.environ().get("MLFLOW_RUN_ID") in runs:
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
    found.pop(os.getpid(), None)
    children = set()
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            children |= {child.pid for child in process.children()}
    stop([found[pid] for pid in found.keys() - children], found.values())
    return len(found)


def lives(process: str) -> int:
    """The process id in `host:pid:create_time`, if that very process lives on this machine; else 0."""
    import psutil

    host, pid, created = (["", ""] + process.rsplit(":", 2))[-3:]
    if host != socket.gethostname() or not pid.isdecimal():
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(int(pid))
        # the clock may be set meanwhile: a second or two are no other process
        if found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(created)) < 3:
            return int(pid)
    return 0


def stop(first: Iterable[psutil.Process], all_of_them: Iterable[psutil.Process]) -> None:
    """Interrupt the first ones, which end the others; kill those that are left after `PATIENCE_SECONDS`."""
    import psutil

    for process in first:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT) if os.name == "posix" else process.terminate()
    _, alive = psutil.wait_procs(list(all_of_them), timeout=PATIENCE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def die_with(process: str) -> None:
    """End this process, at once and however busy it is, when another one on this machine has gone.

    A notebook whose worker was lost runs again elsewhere, in the same MLflow run: two must not write to it.

    Args: process: its `identity`; nothing is done when it is not on this machine.
    """
    import psutil

    if process.rsplit(":", 2)[0] != socket.gethostname():
        return

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid := lives(process):
                watched = psutil.Process(pid)  # which a clock that is set does not make another one
                while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="die_with", daemon=True).start()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM (a batch system's way to stop a job) does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread only
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
