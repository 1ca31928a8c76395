"""The parser of the command line, and the options that several commands share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable

import shtab


class Parser(argparse.ArgumentParser):
    """A parser that suggests corrections of mistyped commands and options. Commands have parsers of this class."""

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is not None:
            self._check_command(words)
        arguments, unknown = super().parse_known_args(words, namespace)
        if unknown:  # refused here, so that the usage in the message is that of the command
            self._refuse(unknown[0])
        return arguments, unknown

    def _check_command(self, words: list[str]) -> None:
        """The first word that is not an option is the command: no option before it takes a value."""
        for word in words:
            if not word.startswith("-"):
                if word not in commands_of(self):
                    self.error(f"no such command: {word}{_close(word, commands_of(self))}")
                return
            if not any(option.startswith(word) for option in self._option_string_actions):
                self._refuse(word)

    def _refuse(self, word: str) -> None:
        if not word.startswith("-"):
            self.error(f"one word too many: {word}")
        option = word.partition("=")[0]
        self.error(f"no such option: {option}{_close(option, self._option_string_actions)}")


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def _close(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {found[0]}?" if found else ""


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
        help=f"override {whose} parameters, written as in a parameter file: --set seed=[0] image_size=96",
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
