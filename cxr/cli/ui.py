"""`cxr ui`: show the runs in the browser."""

from __future__ import annotations

import argparse
import os
import sys

from cxr.cli.parser import add_command, add_tracking_uri, count
from cxr.core.errors import InputError

_LOCAL = "127.0.0.1"


def add(commands: argparse._SubParsersAction) -> None:
    ui = add_command(
        commands,
        "ui",
        run,
        "show the runs in the browser",
        """\
Starts MLflow's own pages, for browsers on this machine only unless you give
--host. Press Ctrl-C to end it.""",
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
    import socket
    import subprocess

    from cxr import tracking

    uri = tracking.resolve(arguments.tracking_uri)
    if tracking.is_server(uri):
        print(f"The runs are on a server: open {uri}")
        return 0
    if tracking.is_new(uri):
        raise InputError(f"{uri}: there are no runs yet: make some with `cxr study`, or correct --tracking-uri")
    with socket.socket() as probe:
        if probe.connect_ex((_LOCAL, arguments.port)) == 0:
            raise InputError(
                f"port {arguments.port} is taken, perhaps by another `cxr ui`: choose one with --port"
            )
    tracking.connect(uri)
    here = f"http://{_LOCAL}:{arguments.port}"
    print(f"Open {here} in a browser on this machine. Ctrl-C ends it.", flush=True)
    for line in tracking.front_pages(here):
        print(line, flush=True)
    if arguments.host not in (_LOCAL, "localhost", "::1"):
        print(
            f"CAUTION: everyone who reaches {arguments.host}:{arguments.port} can read, change and delete the "
            "runs, since MLflow asks for no password here. docs/server.md says how to run a server with passwords "
            "(`mlflow server --app-name basic-auth`).",
            file=sys.stderr,
            flush=True,
        )
    # Without the second variable, MLflow would start eight processes for jobs that do not exist here.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command(uri, arguments), env={**quiet, **os.environ})
    try:
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        process.wait()  # the terminal has interrupted it too
        return 0


def command(uri: str, arguments: argparse.Namespace) -> list[str]:
    """The command that starts MLflow's server."""
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    words += ["--host", arguments.host, "--port", str(arguments.port), "--workers", "1"]
    if arguments.allowed_hosts:
        words += ["--allowed-hosts", arguments.allowed_hosts]
    if arguments.cors_allowed_origins:
        words += ["--cors-allowed-origins", arguments.cors_allowed_origins]
    return words
