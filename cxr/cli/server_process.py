"""Run a command that ends, with all its children, when the process that started it ends, however that ends.

`cxr ui` runs MLflow's server with it, as a script: `python server_process.py WORD ...`. Its standard input is a
pipe from `cxr ui`, which the system closes when `cxr ui` ends: by Ctrl-C, SIGTERM, a closed terminal or SIGKILL.
Only the standard library and psutil are imported, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

import psutil  # of ipykernel's own requirements

_PATIENCE_SECONDS = 5.0  # for the server to close its connections


def main(words: list[str]) -> int:
    """Run `words`, and return its exit code; 0 if it was ended because standard input was closed."""
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    ended = threading.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        ended.set()
        _end(command.pid)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    code = command.wait()
    return 0 if ended.is_set() else code


def _end(pid: int) -> None:
    """Terminate a process and its descendants, and kill those that are left."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(family, timeout=_PATIENCE_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
