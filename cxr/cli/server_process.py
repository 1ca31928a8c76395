"""Run a command that ends, with all its children, when the process that started it ends, however that ends.

`cxr ui` runs MLflow's server with it: `python -m cxr.cli.server_process WORD ...`. Its standard input is a pipe
from `cxr ui`, which the system closes when `cxr ui` ends: by Ctrl-C, SIGTERM, a closed terminal or SIGKILL.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from cxr.core import processes

_PATIENCE_SECONDS = 5.0  # for the server to close its connections


def main(words: list[str]) -> int:
    """Run `words`, and return its exit code; 0 if it was ended because standard input was closed."""
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    ended = threading.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        ended.set()
        processes.stop([command.pid], ask=signal.SIGTERM, family=True, patience=_PATIENCE_SECONDS)

    watcher = threading.Thread(target=wait_for_parent, daemon=True)
    watcher.start()
    code = command.wait()
    if not ended.is_set():
        return code
    watcher.join()  # the command has ended, its children perhaps not yet
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
