"""`cxr params`: list the parameters of a study."""

from __future__ import annotations

import argparse

from cxr.cli.parser import add_command


def add(commands: argparse._SubParsersAction) -> None:
    params = add_command(
        commands,
        "params",
        run,
        "list the parameters of a study",
        """\
These are the keys of a parameter file and of --set. Each has its default, what
it does, and which values it takes.""",
        """\
examples:
  cxr params
  cxr params seed image_size weights
  cxr params | grep -A 2 patient""",
    )
    params.add_argument("keys", metavar="KEY", nargs="*", help="show only these parameters")


def run(arguments: argparse.Namespace) -> int:
    import shutil

    from cxr.cli import params_page

    print(params_page.lines(arguments.keys, width=shutil.get_terminal_size((100, 24)).columns))
    return 0
