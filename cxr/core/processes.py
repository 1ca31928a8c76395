"""Processes: identify them, find out whether they live, and stop them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 15.0  # time for papermill to stop its kernel before both are killed
_LOOK_SECONDS = 2.0


def identity(pid: int) -> str:
    """`host:pid:start` of a process; no other process has it, on any machine, before or after.

    `start` does not depend on the clock of the machine, where the system tells that (Linux): it is the time since
    the machine started, with the place (this start of this machine, and its space of process numbers).
    """
    return f"{socket.gethostname()}:{pid}:{_start(pid)}"


def is_here(process: str) -> bool:
    """Whether a process that `identity` names was started where its number means the same process as here.

    That is not so on another machine, in another container, or before this machine was started again.
    """
    host, _, start = (["", ""] + process.rsplit(":", 2))[-3:]
    return host == socket.gethostname() and start.partition("@")[2] == _place()


def lives(process: str) -> int:
    """The process id of an `identity` if this process lives on this machine, otherwise 0."""
    import psutil

    if not is_here(process):
        return 0
    _, pid, start = process.rsplit(":", 2)
    with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
        number = int(pid)
        if psutil.Process(number).status() != psutil.STATUS_ZOMBIE and _start(number) == start:
            return number
    return 0


def _start(pid: int) -> str:
    """When a process started, and where: its number alone may be given to another process later.

    Raises: OSError or psutil.NoSuchProcess: there is no such process.
    """
    import psutil

    try:
        # psutil adds the time at which the machine started, which moves when somebody sets the clock
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return f"{fields[19]}@{_place()}"
    except (OSError, IndexError):
        return f"{psutil.Process(pid).create_time():.0f}@{_place()}"


@functools.cache
def _place() -> str:
    """Eight digits that are the same for all processes that see each other by number; empty if it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return hashlib.sha256(f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
    except OSError:
        return ""


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


def stop(
    pids: Iterable[int], *, ask: int | None = None, family: bool = False, patience: float = PATIENCE_SECONDS
) -> int:
    """Ask processes to end, and kill what is left of them and of their descendants.

    Args:
        ask: the signal that asks; None: what Ctrl-C sends.
        family: ask the descendants too. Papermill passes Ctrl-C on to its kernel itself, and saves the notebook.
        patience: seconds until the rest is killed.

    Returns: how many processes these were, with the descendants.
    """
    import psutil

    ask = (signal.SIGINT if os.name == "posix" else signal.SIGTERM) if ask is None else ask
    families = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            own = [parent, *parent.children(recursive=True)]
            families += own
            for process in own if family else [parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(ask)
    _, alive = psutil.wait_procs(families, timeout=patience)
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

    if not is_here(process):
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

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt, signal.SIGTERM):
        yield


@contextlib.contextmanager
def undisturbed(on_signal: Callable[[], Any]) -> Iterator[None]:
    """Within this context the first Ctrl-C or SIGTERM only calls `on_signal`; the next one acts like Ctrl-C."""
    signals = []

    def note(*_: Any) -> None:
        signals.append(1)
        if len(signals) > 1:
            raise KeyboardInterrupt
        on_signal()

    with _handling(note, signal.SIGINT, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[..., Any], *signals: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
