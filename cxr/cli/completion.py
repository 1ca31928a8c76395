"""`cxr completion`: print the completion script for a shell."""

from __future__ import annotations

import argparse
import functools

import shtab

from cxr.cli.parser import add_command

_SHELLS = ("bash", "zsh", "tcsh")


def add(commands: argparse._SubParsersAction, whole: argparse.ArgumentParser) -> None:
    """Add the command. `whole`: the parser of `cxr`, from which the script is made."""
    shell = add_command(
        commands,
        "completion",
        functools.partial(run, whole),
        "print the completion script for a shell",
        """\
The script completes commands, options, their choices, and files. Print it again
after an update of cxr.""",
        """\
examples:
  cxr completion bash > ~/.cxr-completion
  cxr completion tcsh > ~/.cxr-completion
  mkdir -p ~/.zfunc && cxr completion zsh > ~/.zfunc/_cxr

Then add `source ~/.cxr-completion` to ~/.bashrc or ~/.tcshrc. For zsh, add to
~/.zshrc: fpath=(~/.zfunc $fpath); autoload -U compinit; compinit""",
    )
    shell.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))


def run(whole: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    print(shtab.complete(whole, arguments.shell))
    return 0
