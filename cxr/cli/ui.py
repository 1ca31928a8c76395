"""`cxr ui`: show the runs in the browser."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time

from cxr.cli import server_process
from cxr.cli.parser import add_command, add_tracking_uri, count
from cxr.core.errors import InputError

_LOCAL = "127.0.0.1"
_EVERY_ADDRESS = ("0.0.0.0", "::")


def add(commands: argparse._SubParsersAction) -> None:
    ui = add_command(
        commands,
        "ui",
        run,
        "show the runs in the browser",
        """\
Starts MLflow's own pages, for browsers on this machine only unless you give
--host, and prints the link to the scores of the latest study. Press Ctrl-C to
end it.""",
        """\
examples:
  cxr ui
  cxr ui --port 5001
  cxr ui --tracking-uri sqlite:////data/runs/mlflow.db

docs/server.md: a server with passwords for several users.""",
    )
    add_tracking_uri(ui)
    ui.add_argument("--port", metavar="PORT", type=count, default=5000, help="default: 5000")
    ui.add_argument(
        "--host", metavar="HOST", default=_LOCAL, help="address to listen on (default: this machine only)"
    )
    ui.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        help="with --host: names under which browsers may open it, separated by commas (default: MLflow's)",
    )
    ui.add_argument("--cors-allowed-origins", metavar="ORIGINS", help="with --host: other sites that may use it")


def run(arguments: argparse.Namespace) -> int:
    from cxr import tracking

    uri = tracking.resolve(arguments.tracking_uri)
    if tracking.is_server(uri):
        print(f"The runs are on a server: open {uri}")
        return 0
    if tracking.is_new(uri):
        raise InputError(f"{uri}: there are no runs yet: make some with `cxr study`, or correct --tracking-uri")
    here = _LOCAL if arguments.host in _EVERY_ADDRESS else arguments.host
    if _listens(here, arguments.port):
        raise InputError(f"port {arguments.port} is taken, perhaps by another `cxr ui`: choose one with --port")
    tracking.connect(uri)
    page = tracking.front_page(f"http://{f'[{here}]' if ':' in here else here}:{arguments.port}")
    who = f"everyone who reaches {arguments.host}:{arguments.port}"
    if arguments.host in (_LOCAL, "localhost", "::1"):
        who = "every user of this machine"
    print(
        f"CAUTION: {who} can read, change and delete the runs while this server runs, since MLflow asks for no "
        "password here. docs/server.md says how to run a server with passwords.",
        file=sys.stderr,
        flush=True,
    )
    process = start(command(arguments), uri)
    try:
        while process.poll() is None and not _listens(here, arguments.port):
            time.sleep(0.3)
        if process.poll() is None:
            print(f"Open {page}\nCtrl-C ends it.", flush=True)
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        return 0
    finally:
        process.stdin.close()
        process.wait()


def start(words: list[str], uri: str) -> subprocess.Popen:
    """Start the server of a store in a process group of its own; it ends when this process ends or closes `stdin`.

    Its command line, which other users of the machine can read, does not hold the store's address, which may
    hold a password.
    """
    # Without the second variable, MLflow would start eight processes for jobs that do not exist here.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet |= {"PYTHONWARNINGS": "ignore"}  # of MLflow's own packages
    return subprocess.Popen(
        [sys.executable, "-m", server_process.__name__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # remarks on its options; errors are on stderr
        env={**quiet, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri},
        start_new_session=True,  # Ctrl-C in the terminal is for `cxr ui`, which ends the server
    )


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def command(arguments: argparse.Namespace) -> list[str]:
    """The command that starts MLflow's server, which finds its store in the environment."""
    words = [sys.executable, "-m", "mlflow", "ui", "--no-serve-artifacts"]  # files are shown, not taken
    words += ["--host", arguments.host, "--port", str(arguments.port), "--workers", "1"]
    words += ["--uvicorn-opts", "--log-level warning"]  # a line a request would push the link out of sight
    if arguments.allowed_hosts:
        words += ["--allowed-hosts", arguments.allowed_hosts]
    if arguments.cors_allowed_origins:
        words += ["--cors-allowed-origins", arguments.cors_allowed_origins]
    return words
