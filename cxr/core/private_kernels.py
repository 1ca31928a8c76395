"""Papermill whose kernel talks over files of this user's own: `python -m cxr.core.private_kernels ARGUMENT ...`.

Papermill's own kernels listen on TCP ports of this machine. Every user of the machine can connect to them and read
what a notebook prints, and two that start at once can pick the same port. Where the system has no such files
(Windows), the kernel listens on TCP.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from cxr.core import kernel_server


def main(words: list[str]) -> None:
    """Run papermill with the arguments `words`. It ends with SystemExit, as the command does."""
    # jsonschema loads it if it can: two seconds, for a kind of web address that no notebook holds
    sys.modules.setdefault("rfc3987_syntax", None)
    from papermill import cli

    if os.name != "posix":
        cli.papermill(words)
    with tempfile.TemporaryDirectory(
        prefix="cxr-", dir=kernel_server.room_for_sockets(), ignore_cleanup_errors=True
    ) as folder:  # which only this user enters
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        _use_sockets(folder)
        cli.papermill(words)


def _use_sockets(folder: str) -> None:
    """Have papermill's default engine start kernels that listen on Unix sockets in a folder.

    The kernelspec may say that a server forks them (`kernel_server`).
    """
    from importlib.metadata import EntryPoint

    from jupyter_client.provisioning import KernelProvisionerFactory as Factory
    from papermill.engines import NBClientEngine, papermill_engines
    from traitlets.config import Config

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
            return super().execute_managed_notebook(nb_man, kernel_name, config=config, **options)

    papermill_engines.register(None, Engine)
    forking = EntryPoint(kernel_server.PROVISIONER, f"{kernel_server.__name__}:Provisioner", Factory.GROUP_NAME)
    Factory.instance().provisioners[forking.name] = forking


if __name__ == "__main__":
    main(sys.argv[1:])
