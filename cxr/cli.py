"""The `cxr` command: `cxr check FILE` checks the data, `cxr study FILE` runs a study, `cxr ui` shows its runs.

Exit codes: 0; 1 when a notebook failed or a check found an error; 2 for bad input, with one line that says what to
do; 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from cxr.errors import InputError

_LOCAL = "127.0.0.1"

# Everything else is imported where it is used, so that `cxr --help` and a mistyped option answer at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process'), and return the exit code."""
    arguments = _parser().parse_args(argv)
    format_before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(f"cxr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cxr: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has had enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    finally:
        warnings.formatwarning = format_before


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours without the line of code that it came from."""
    where = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return f"cxr: warning: {where}{message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cxr",
        description="Does the visual evidence behind a chest X-ray classifier change under fine-tuning?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    study = commands.add_parser(
        "study",
        help="run a study: every notebook of its grid that is not done yet",
        description="Run a study: every notebook of its grid that is not done yet. The same command resumes.",
    )
    study.set_defaults(run=_study)
    study.add_argument("params", metavar="PARAMS.yaml", help="the study's parameters, such as params/study.yaml")
    _add_set(study)
    _add_tracking_uri(study)
    study.add_argument("--out", metavar="DIR", help="executed notebooks and report (default: mlruns/studies/NAME)")
    study.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        help="notebooks at once (default: the file's; 0: one for every two cores)",
    )
    study.add_argument(
        "--scheduler",
        metavar="WHERE",
        default="local",
        help="where notebooks run: local (default), the address of a Dask scheduler (tcp://host:8786), slurm, "
        "kubernetes, or the YAML file of a cluster",
    )
    study.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    study.add_argument("--fresh", action="store_true", help="run everything again, done or not")

    check = commands.add_parser(
        "check",
        help="check a study's images and labels before anything is trained on them",
        description="Check a study's images and labels: what is broken, copied, or betrays the class by itself. "
        "Exit code 1 if there is an error that `cxr study` would stop at.",
    )
    check.set_defaults(run=_check)
    check.add_argument("params", metavar="PARAMS.yaml", help="the study's parameters, such as params/study.yaml")
    _add_set(check)
    check.add_argument(
        "--full", action="store_true", help="decode every pixel: near duplicates, blank images, hidden damage"
    )
    check.add_argument("--out", metavar="DIR", help="for checks.html (default: mlruns/studies/NAME)")

    ui = commands.add_parser(
        "ui", help="show the runs in the browser", description="Show the runs in the browser."
    )
    ui.set_defaults(run=_ui)
    _add_tracking_uri(ui)
    ui.add_argument("--port", metavar="PORT", type=_count, default=5000, help="default: 5000")
    ui.add_argument(
        "--host", metavar="HOST", default=_LOCAL, help="address to listen on (default: this machine only)"
    )
    ui.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        help="with --host: the names by which browsers may ask for it, comma-separated (default: MLflow's)",
    )
    ui.add_argument("--cors-allowed-origins", metavar="ORIGINS", help="with --host: other sites that may use it")
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="other values than the file's, written as in the file: --set seed=[0] image_size=96",
    )


def _add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default: the environment's MLFLOW_TRACKING_URI, or mlruns/mlflow.db)",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, got '{text}'")
    return int(text)


def _study(arguments: argparse.Namespace) -> int:
    from cxr.params import StudyParams, read_overrides

    overrides = read_overrides(arguments.set)
    params = StudyParams.read(arguments.params, overrides)
    from cxr import study  # MLflow, and with it seconds: after what can be said at once

    options = {
        "tracking_uri": arguments.tracking_uri,
        "out": arguments.out,
        "fresh": arguments.fresh,
        "jobs": arguments.jobs,
    }
    if arguments.dry_run:
        study.dry_run(params, arguments.params, overrides, **options)
        return 0
    return study.run(params, arguments.params, overrides, **options, scheduler=arguments.scheduler)


def _check(arguments: argparse.Namespace) -> int:
    import shutil
    from pathlib import Path

    from cxr.params import StudyParams, read_overrides

    params = StudyParams.read(arguments.params, read_overrides(arguments.set))
    from cxr import checks, checks_page

    report = checks.run(params, full=arguments.full)
    print(checks_page.lines(report, width=shutil.get_terminal_size((100, 24)).columns))
    if arguments.out:
        folder = Path(arguments.out)
    else:
        from cxr import study  # MLflow, and with it seconds: after what there is to read

        folder = study.default_out(params)
    print(f"page: {checks_page.write(report, folder / 'checks.html')}")
    return 1 if report.of("error") else 0


def _ui_command(uri: str, arguments: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    words += ["--host", arguments.host, "--port", str(arguments.port), "--workers", "1"]
    if arguments.allowed_hosts:
        words += ["--allowed-hosts", arguments.allowed_hosts]
    if arguments.cors_allowed_origins:
        words += ["--cors-allowed-origins", arguments.cors_allowed_origins]
    return words


def _ui(arguments: argparse.Namespace) -> int:
    import socket
    import subprocess

    from cxr import tracking

    uri = tracking.resolve(arguments.tracking_uri)
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on a server: open {uri}")
        return 0
    if tracking.is_new(uri):
        raise InputError(f"{uri}: there are no runs yet: make some with `cxr study`, or mend --tracking-uri")
    with socket.socket() as probe:
        if probe.connect_ex((_LOCAL, arguments.port)) == 0:
            raise InputError(
                f"port {arguments.port} is taken, perhaps by another `cxr ui`: choose one with --port"
            )
    tracking.connect(uri)
    here = f"http://127.0.0.1:{arguments.port}"
    print(f"Open {here} in a browser on this machine. Ctrl-C ends it.", flush=True)
    for line in tracking.front_pages(here):
        print(line, flush=True)
    if arguments.host not in (_LOCAL, "localhost", "::1"):
        print(
            f"CAUTION: whoever reaches {arguments.host}:{arguments.port} can read, change and delete the runs: "
            "MLflow asks for no password here. docs/server.md says how to run a server that does (`mlflow server "
            "--app-name basic-auth`).",
            file=sys.stderr,
            flush=True,
        )
    words = _ui_command(uri, arguments)
    # MLflow would also start eight processes that wait for jobs which nobody here gives them.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(words, env={**quiet, **os.environ})
    try:
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        process.wait()  # the terminal has told it too
        return 0


if __name__ == "__main__":
    sys.exit(main())
