"""What all commands have: a parser with help, and the options that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import shtab


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    end: str,
) -> argparse.ArgumentParser:
    """Add a command that calls `run`, and return its parser.

    Args:
        run: gets the parsed arguments, returns the exit code.
        summary: the command's line in `cxr --help`.
        description, end: text before and after the options, wrapped by hand to 80 columns.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}",
        epilog=end,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_params_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "params", metavar="PARAMS.yaml", help="the study's parameters, such as params/study.yaml"
    ).complete = shtab.FILE


def add_set(parser: argparse.ArgumentParser, whose: str = "the file's") -> None:
    """Add `--set`. `whose`: the parameters that it overrides."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help=f"override {whose} parameters, each value as it is, lists in brackets: --set name=mine seed=[0,1]",
    )


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default: the environment variable MLFLOW_TRACKING_URI, or mlruns/mlflow.db)",
    )


def add_out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", metavar="DIR", help=what).complete = shtab.DIRECTORY


def count(text: str) -> int:
    """The type of an option that takes a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, got '{text}'")
    return int(text)
