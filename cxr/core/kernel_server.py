"""A process that has imported what notebooks import, and forks a kernel for each of them.

A kernel starts with seconds of imports (TensorFlow, Keras, MLflow), and a study starts dozens. `start` starts one
server a process; `Provisioner` has Jupyter ask it for kernels. Each kernel is a process of its own, with its own
environment variables and session. It ends when the process that asked for it ends.

- Only libraries are imported ahead, never this package: a kernel runs the code that is in the files now.
- Nothing is computed ahead. TensorFlow makes its context and threads in the kernel (tests/test_kernel_server.py).
- Only on Linux, and not where there is an NVIDIA driver: CUDA does not survive a fork. Elsewhere, or if the server
  is lost, Jupyter starts the kernel itself, as always.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

PROVISIONER = "cxr-fork"  # the name of `Provisioner` in a kernelspec
_LIBRARIES = (
    "ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "scipy.stats", "skimage.metrics", "PIL.Image",
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "tensorflow", "keras", "tf_keras_vis",
)  # fmt: skip
_RUN_FILE = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
_LONGEST = 45  # characters of a folder, so that the paths of sockets below it fit into the system's 104
_MOST_BYTES = 1 << 20  # of a request: the words and the environment variables of a kernel


# -- the process that starts notebooks


def supported() -> bool:
    """Whether kernels can be forked on this machine."""
    return sys.platform == "linux" and not has_gpu_driver()


def has_gpu_driver() -> bool:
    """Whether this machine (Linux) has the driver of an NVIDIA GPU, so that TensorFlow may compute on it."""
    return Path("/dev/nvidiactl").exists()


def room_for_sockets() -> str:
    """The folder of temporary files, or /tmp if paths of sockets in it would be too long for the system."""
    temporary = tempfile.gettempdir()
    return "/tmp" if os.name == "posix" and len(temporary) > _LONGEST else temporary


def start(address: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a server that listens at a path of a Unix socket; it ends when this process ends.

    Args: environment: its environment variables, of which libraries read some when they are imported.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)  # requests wait here while the server imports
        return subprocess.Popen(
            # not `-m`: that imports the package, whose files may change before a kernel starts
            [sys.executable, "-c", _RUN_FILE, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=dict(environment),
            stdin=subprocess.PIPE,  # its end is the end of this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )


# -- papermill, which asks for a kernel


class Provisioner(LocalProvisioner):
    """Has the server fork a kernel. The kernelspec names its socket: `"config": {"address": PATH}`."""

    address: str = ""

    def __init__(self, **options: Any) -> None:
        self.address = options.pop("address")
        super().__init__(**options)

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        try:
            self.process = Kernel(self.address, cmd, options["env"], str(options.get("cwd") or os.getcwd()))
        except OSError as error:
            print(f"the server of kernels is lost ({error}): starts this kernel without it", file=sys.stderr)
            return await super().launch_kernel(cmd, **options)
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Kernel:
    """A forked process, mostly a kernel, with those methods of subprocess.Popen that Jupyter uses.

    Args: words: `python -m MODULE ARGUMENT ...`. outputs: the descriptors of its stdout and stderr.
    Raises: OSError if the server does not answer.
    """

    stdin = stdout = stderr = None

    def __init__(
        self,
        address: str,
        words: list[str],
        environment: Mapping[str, str],
        folder: str,
        outputs: tuple[int, int] = (1, 2),
    ) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.connect(address)
            request = json.dumps({"words": words, "environment": dict(environment), "folder": folder}).encode()
            socket.send_fds(self._connection, [len(request).to_bytes(4, "big")], list(outputs))
            self._connection.sendall(request)
            answer = self._connection.recv(16)
        except OSError:
            self._connection.close()
            raise
        if not answer:
            self._connection.close()
            raise ConnectionAbortedError("it ended while it started a kernel")
        self.pid = int(answer)

    def poll(self) -> int | None:
        """None while the kernel lives; then 1, as its own exit status is not known here."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self._connection.recv(1, socket.MSG_DONTWAIT)  # nothing but the end is ever sent
                self._connection.close()
                self.returncode = 1
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the kernel."""
        if self.returncode is None:
            self._connection.recv(1)
        return self.poll() or 1

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# -- the server


def serve(listener: socket.socket) -> None:
    """Import the libraries, then fork a kernel for each request, until stdin ends."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as ipykernel does later
    os.environ["JPY_PARENT_PID"] = "1"  # ipykernel need not watch a parent: `_end_with` does
    for library in _LIBRARIES:
        importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the kernels here
    with selectors.DefaultSelector() as chosen:
        chosen.register(listener, selectors.EVENT_READ)
        chosen.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in chosen.select()):
            connection, _ = listener.accept()
            with connection:
                request, outputs = _receive(connection)
                if request and os.fork() == 0:
                    listener.close()
                    chosen.close()
                    _become_kernel(connection, request, outputs)
                for descriptor in outputs:
                    os.close(descriptor)
    os._exit(0)  # at once: the libraries take a second to end, and have nothing to end


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request, empty if the other side has gone, and the descriptors of its stdout and stderr."""
    length, outputs, _, _ = socket.recv_fds(connection, 4, 2)
    with connection.makefile("rb") as stream:
        data = stream.read(min(int.from_bytes(length, "big"), _MOST_BYTES))
    try:
        return json.loads(data), outputs
    except ValueError:
        return {}, outputs


def _become_kernel(connection: socket.socket, request: Mapping[str, Any], outputs: list[int]) -> None:
    """Run what a command line names, `python -m MODULE ARGUMENT ...`, in this process. Does not return."""
    os.setsid()  # a signal to the kernel's group reaches the kernel and what it starts
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull) as nothing:
        for own, given in zip((0, 1, 2), (nothing.fileno(), *outputs), strict=True):
            os.dup2(given, own)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    random.seed()
    tempfile.tempdir = None  # it is read from the environment again
    importlib.import_module("numpy").random.seed()
    threading.Thread(target=_end_with, args=[connection.dup()], daemon=True).start()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
    words = request["words"]
    module = words[words.index("-m") + 1 :]
    sys.argv = module
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)
    sys.exit()


def _end_with(connection: socket.socket) -> None:
    """End this process at once, even if it is busy, when the one that asked for it has ended."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
