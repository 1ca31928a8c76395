"""The `cxr` command: `cxr check FILE` checks the data, `cxr study FILE` runs a study, `cxr models` shows
architectures, `cxr ui` shows the runs.

A command has two functions: `_add_NAME` makes its parser, `_NAME` runs it and returns the exit code.

Exit codes: 0; 1 when a notebook failed or a check found an error; 2 for bad input, with one line that says what to
do; 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence

import shtab

from cxr.core.errors import InputError

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


class _Parser(argparse.ArgumentParser):
    """A parser that says which command or option was perhaps meant. Its commands' parsers are of its kind."""

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is not None:
            self._check_command(words)
        arguments, unknown = super().parse_known_args(words, namespace)
        if unknown:  # said here, so that the usage above it is the command's own
            self._refuse(unknown[0])
        return arguments, unknown

    def _check_command(self, words: list[str]) -> None:
        """The first word that is no option is the command: none of the options before it takes a value."""
        for word in words:
            if not word.startswith("-"):
                if word not in _commands(self):
                    self.error(f"no such command: {word}{_close(word, _commands(self))}")
                return
            if not any(option.startswith(word) for option in self._option_string_actions):
                self._refuse(word)

    def _refuse(self, word: str) -> None:
        if not word.startswith("-"):
            self.error(f"one word too many: {word}")
        option = word.partition("=")[0]
        self.error(f"no such option: {option}{_close(option, self._option_string_actions)}")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser's commands by name."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def _close(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {found[0]}?" if found else ""


class _Version(argparse.Action):
    """Prints the installed version; looked up only when asked for, since that takes longer than all the rest."""

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import metadata

        print(f"cxr {metadata.version('cxr')}")
        parser.exit()


_OVERVIEW = """\
Does the visual evidence behind a chest X-ray classifier change under
fine-tuning, even where its accuracy does not?

In this order: `cxr check` says what is wrong with the images and labels before
anything is trained on them; `cxr study` trains, explains, scores and compares,
and ends with a table and a report; `cxr ui` shows all runs in the browser. `cxr
drift` compares two models that were trained elsewhere, and needs no study. All
of a study is in one parameter file, such as params/study.yaml; `cxr params`
says what can stand in it, and `cxr models` which networks there are."""

_OVERVIEW_END = """\
examples:
  cxr check params/study.yaml
  cxr study params/study.yaml
  cxr study params/paper.yaml --set data=/data/my-xrays name=mine
  cxr drift before.keras after.keras images/
  cxr ui

exit codes:
  0    done
  1    a notebook failed, a check found an error, or a gate failed
  2    bad input: one line says what is wrong, and what to do
  130  interrupted (Ctrl-C)

`cxr COMMAND --help` has each command's options and examples; docs/tutorial.md
goes from a folder of images to a report."""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cxr",
        description=_OVERVIEW,
        epilog=_OVERVIEW_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in (_add_check, _add_study, _add_drift, _add_ui, _add_models, _add_params, _add_completion):
        add(commands)
    return parser


def _add_command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    end: str,
) -> argparse.ArgumentParser:
    """A command that calls `run`: `summary` is its line in `cxr --help`; the texts are wrapped by hand."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}",
        epilog=end,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_study(commands: argparse._SubParsersAction) -> None:
    study = _add_command(
        commands,
        "study",
        _study,
        "run a study: every notebook of its grid that is not done yet",
        """\
Train, attribute, score and compare, for every architecture, seed and method of
the parameter file. Each step is one notebook and one MLflow run. The same
command, started again, does only what is not done yet.""",
        """\
--set lays single values over the file's, written as in the file; `cxr params`
lists the keys. Quote what the shell would read: brackets, braces, spaces.
  --set data=/data/my-xrays name=mine    one value each, as many as you like
  --set 'seed=[0,1,2]'                   a list: another axis of the grid
  --set 'label_map={NORMAL: normal, PNEUMONIA: pneumonia}'    a mapping

examples:
  cxr study params/study.yaml
  cxr study params/study.yaml --dry-run
  cxr study params/study.yaml --set 'method=[layercam,gradcampp,hirescam]'
  cxr study params/paper.yaml --set data=/data/my-xrays name=mine --jobs 2
  cxr study params/paper.yaml --tracking-uri http://server:5000
  cxr study params/paper.yaml --scheduler params/clusters/slurm.yaml""",
    )
    _add_params_file(study)
    _add_set(study)
    _add_tracking_uri(study)
    _add_out(study, "executed notebooks and report (default: mlruns/studies/NAME)")
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
        help="where notebooks run: local (default), the address of a Dask scheduler (tcp://host:8786), or the "
        "YAML file of a cluster (params/clusters)",
    ).complete = shtab.FILE
    study.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    study.add_argument("--fresh", action="store_true", help="run everything again, done or not")


def _add_check(commands: argparse._SubParsersAction) -> None:
    check = _add_command(
        commands,
        "check",
        _check,
        "check a study's images and labels before anything is trained on them",
        """\
Finds what is broken, copied into two splits, or betrays the class by itself,
and says what so many patients can show. Prints its findings and writes a page
with pictures. Exit code 1 if there is an error that `cxr study` would stop at.""",
        """\
examples:
  cxr check params/study.yaml
  cxr check params/paper.yaml --set data=/data/my-xrays name=mine
  cxr check params/paper.yaml --set data=/data/my.csv name=mine --full

docs/checks.md says what is checked, and what to do about each finding.""",
    )
    _add_params_file(check)
    _add_set(check)
    check.add_argument(
        "--full", action="store_true", help="decode every pixel: near duplicates, blank images, hidden damage"
    )
    _add_out(check, "for checks.html (default: mlruns/studies/NAME)")


def _add_models(commands: argparse._SubParsersAction) -> None:
    models = _add_command(
        commands,
        "models",
        _models,
        "list architectures, or show what is found of one",
        """\
Without a name, all that a study may name. With names, for each: preprocessing,
parameters, target layers with their grids, and why these.""",
        """\
examples:
  cxr models
  cxr models MobileNetV2 --image-size 128
  cxr models my_net:classifier

docs/models.md says how to use a network of your own.""",
    )
    models.add_argument("names", metavar="NAME", nargs="*", help="architectures, or package.module:function")
    models.add_argument(
        "--image-size", metavar="N", type=_count, default=224, help="side in pixels (default: 224)"
    )
    models.add_argument("--markdown", action="store_true", help="as rows of a table")


def _add_drift(commands: argparse._SubParsersAction) -> None:
    drift = _add_command(
        commands,
        "drift",
        _drift,
        "measure the drift between two models of your own",
        """\
Explain the same images with both, and say how far the evidence moved, beside
what such a number is to be read against. Nothing is trained. The models may
come from anywhere, as long as Keras 3 loads them and they end in Dense (softmax
or sigmoid). Writes a table of all images, a figure, and an MLflow run with
everything.

IMAGES is a folder with one sub-folder a class; a folder of images without
labels; a table (CSV or Parquet) with the columns path, patient_id and, if
known, label; or 'phantom'. With labels, the true class is explained, on images
that both models get right; without, the class that B predicts, on all.""",
        """\
examples:
  cxr drift before.keras after.keras images/
  cxr drift before.keras after.keras test.csv --method layercam,gradcampp
  cxr drift A.keras B.keras images/ --layer block5_conv3 --preprocessing caffe
  cxr drift A.keras B.keras images/ --like-a A2.keras --like-b B2.keras
  cxr drift A.keras B.keras images/ --gate 'overlap_median>=0.5'
  cxr drift A.keras B.keras films.csv --set path_column=file patient_column=pid

exit codes: 0; 1 when a gate fails, or the notebook; 2 for bad input.
docs/drift.md explains the output, and has a step for your CI.""",
    )
    for name, metavar, what in (
        ("model_a", "A", "the model before: a .keras file, or a whole model as .h5"),
        ("model_b", "B", "the model after"),
        ("data", "IMAGES", "folder, table, or 'phantom'"),
    ):
        drift.add_argument(name, metavar=metavar, help=what).complete = shtab.FILE
    # What is not given is not set: the defaults are those of the notebook.
    option = functools.partial(drift.add_argument, default=argparse.SUPPRESS)
    named = functools.partial(option, metavar="NAME")
    named(
        "--layer",
        dest="target_layer",
        help="penultimate (default), shallower, final, last_conv, or a layer's name",
    )
    named("--layer-b", dest="target_layer_b", help="in B, where it is another")
    names = functools.partial(option, metavar="NAMES", type=_names)
    names("--method", help="one or several, with commas between (default: layercam)")
    names("--classes", dest="class_names", help="in the order of the outputs (default: the labels, sorted)")
    option(
        "--labels",
        choices=("auto", "none"),
        dest="image_labels",
        help="none: sub-folders are no classes, and images in them lie at any depth",
    )
    option("--split", choices=("train", "val", "test"), dest="use_split", help="its images only (default: all)")
    option(
        "--explain",
        choices=("true", "predicted", "predicted_a"),
        help="the true class (default, with labels), or what B or A predicts",
    )
    option(
        "--images",
        choices=("correct", "all"),
        help="scored: those of which both models predict the class explained (default, with labels), or all",
    )
    for key, model in (("a", "A"), ("b", "B")):
        option(
            f"--like-{key}",
            metavar="MODEL",
            action="append",
            help=f"a model that differs from {model} by its training's seed alone: a baseline; repeatable",
        ).complete = shtab.FILE
    option(
        "--preprocessing",
        metavar="MODE",
        help="what the models expect of grey values: none, tf, torch, caffe, unit (default: found out)",
    )
    for name, key, what in (
        ("--image-size", "image_size", "side in pixels (default: the models')"),
        ("--batch-size", "batch_size", "images a pass (default: 32)"),
        ("--draws", "baseline_draws", "other images that an image is compared with (default: 4)"),
        ("--n-boot", "n_boot", "bootstrap replicates (default: 2000)"),
        ("--seed", "seed", "of bootstrap and draws (default: 0)"),
    ):
        option(name, metavar="N", type=_count, dest=key, help=what)
    option("--level", metavar="SHARE", type=float, help="of the intervals (default: 0.95)")
    option(
        "--gate",
        metavar="EXPR",
        action="append",
        help="a condition such as 'overlap_median>=0.5' (in quotes): exit code 1 unless it holds; repeatable",
    )
    named("--name", help="MLflow experiment (default: drift)")
    _add_set(drift, "the notebook's")
    _add_tracking_uri(drift)
    for name, default, what in (
        ("--out", "drift.parquet", "the table of all images, .parquet or .csv (default: drift.parquet)"),
        ("--figure", "", ".png or .pdf (default: as --out, as .png)"),
    ):
        drift.add_argument(name, metavar="FILE", default=default, help=what).complete = shtab.FILE


def _add_ui(commands: argparse._SubParsersAction) -> None:
    ui = _add_command(
        commands,
        "ui",
        _ui,
        "show the runs in the browser",
        """\
MLflow's own pages, on this machine only unless --host says otherwise. Ctrl-C
ends it.""",
        """\
examples:
  cxr ui
  cxr ui --port 5001
  cxr ui --tracking-uri sqlite:////data/runs/mlflow.db

For a server that many share, with passwords: docs/server.md.""",
    )
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


def _add_params(commands: argparse._SubParsersAction) -> None:
    params = _add_command(
        commands,
        "params",
        _params,
        "list the parameters of a study",
        """\
They are the keys of a parameter file and of --set. For each: its default, what
it does, and what it may be.""",
        """\
examples:
  cxr params
  cxr params seed image_size weights
  cxr params | grep -A 2 patient""",
    )
    params.add_argument("keys", metavar="KEY", nargs="*", help="only these parameters")


def _add_completion(commands: argparse._SubParsersAction) -> None:
    shell = _add_command(
        commands,
        "completion",
        _completion,
        "print the completion script for a shell",
        """\
It completes commands, options, their choices, and files. Print it again when
cxr has been updated.""",
        """\
examples:
  cxr completion bash > ~/.cxr-completion
  cxr completion tcsh > ~/.cxr-completion
  mkdir -p ~/.zfunc && cxr completion zsh > ~/.zfunc/_cxr

Then add `source ~/.cxr-completion` to ~/.bashrc or ~/.tcshrc; for zsh, to
~/.zshrc: fpath=(~/.zfunc $fpath); autoload -U compinit; compinit""",
    )
    shells = ("bash", "zsh", "tcsh")
    shell.add_argument("shell", metavar="SHELL", choices=shells, help=", ".join(shells))


def _add_params_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "params", metavar="PARAMS.yaml", help="the study's parameters, such as params/study.yaml"
    ).complete = shtab.FILE


def _add_out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", metavar="DIR", help=what).complete = shtab.DIRECTORY


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _drift(arguments: argparse.Namespace) -> int:
    from cxr.core.params import DriftParams, read_overrides

    values = {key: value for key, value in vars(arguments).items() if key in DriftParams.model_fields}
    overrides = read_overrides(arguments.set)
    if strange := [key for key in overrides if key not in DriftParams.model_fields]:
        raise InputError(f"--set {strange[0]}: no parameter of this command: see notebooks/5_drift.ipynb for all")
    settings = DriftParams.check({**values, **overrides}, where="cxr drift")
    from cxr.pair import command  # MLflow, and with it seconds: after what can be said at once

    return command.run(settings, out=arguments.out, figure=arguments.figure, tracking_uri=arguments.tracking_uri)


def _add_set(parser: argparse.ArgumentParser, than: str = "the file's") -> None:
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help=f"other values than {than}, written as in a parameter file: --set seed=[0] image_size=96",
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
    from cxr.core.params import StudyParams, read_overrides

    overrides = read_overrides(arguments.set)
    params = StudyParams.read(arguments.params, overrides)
    from cxr.study import runner  # MLflow, and with it seconds: after what can be said at once

    options = {
        "tracking_uri": arguments.tracking_uri,
        "out": arguments.out,
        "fresh": arguments.fresh,
        "jobs": arguments.jobs,
    }
    if arguments.dry_run:
        runner.dry_run(params, arguments.params, overrides, **options)
        return 0
    return runner.run(params, arguments.params, overrides, **options, scheduler=arguments.scheduler)


def _check(arguments: argparse.Namespace) -> int:
    import shutil
    from pathlib import Path

    from cxr.core.params import StudyParams, read_overrides

    params = StudyParams.read(arguments.params, read_overrides(arguments.set))
    from cxr.data import checks, checks_page

    report = checks.run(params, full=arguments.full)
    print(checks_page.lines(report, width=shutil.get_terminal_size((100, 24)).columns))
    if arguments.out:
        folder = Path(arguments.out)
    else:
        from cxr.study import runner  # MLflow, and with it seconds: after what there is to read

        folder = runner.default_out(params)
    print(f"page: {checks_page.write(report, folder / 'checks.html')}")
    return 1 if report.of("error") else 0


def _models(arguments: argparse.Namespace) -> int:
    from cxr.core import architectures

    if not arguments.names:
        print(architectures.listing())
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from cxr.models import build
    from cxr.models import description as models_description

    if arguments.markdown:
        print(models_description.MARKDOWN)
    for name in arguments.names:
        found = models_description.describe(build.build(name, n_classes=2, image_size=arguments.image_size))
        print(found.markdown() if arguments.markdown else found.lines(), flush=True)
    return 0


def _params(arguments: argparse.Namespace) -> int:
    import shutil

    from cxr.cli import params_page

    print(params_page.lines(arguments.keys, width=shutil.get_terminal_size((100, 24)).columns))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    print(shtab.complete(_parser(), arguments.shell))
    return 0


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
    if tracking.is_server(uri):
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
