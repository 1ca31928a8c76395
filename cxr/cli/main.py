"""The `cxr` command. Each of its commands is a module with `add`, which makes its parser, and `run`.

Exit codes: 0; 1 when a notebook failed or a check found an error; 2 for bad input, with one line that says what to
do; 130 for Ctrl-C.

Modules of commands import other packages inside `run`, so that `cxr --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

from cxr.cli import check, completion, drift, lungs, models, params, plan, study, ui
from cxr.core.errors import InputError, first_line, on_one_line

_OVERVIEW = """\
Does the visual evidence behind a chest X-ray classifier change under
fine-tuning, even where its accuracy does not?

Use the commands in this order: `cxr check` finds what is wrong with the images
and labels before anything is trained on them. `cxr plan` freezes what will be
tested. `cxr study` trains, explains, scores and compares; it ends with a table
and a report. `cxr ui` shows all runs in the browser. `cxr drift` compares two
models that were trained elsewhere; it needs no study. `cxr lungs` finds lungs
where there are no masks. One parameter file describes a study, such as
params/study.yaml: `cxr params` lists the parameters, and `cxr models` the
networks."""

_OVERVIEW_END = """\
examples:
  cxr check params/study.yaml
  cxr plan params/study.yaml
  cxr study params/study.yaml --plan plans/phantom.yaml
  cxr study params/paper.yaml --set data=/data/my-xrays name=mine
  cxr drift before.keras after.keras images/
  cxr ui

exit codes:
  0    done
  1    a notebook failed, a check found an error, or a gate failed
  2    bad input: one line says what is wrong, and what to do
  130  interrupted (Ctrl-C)

`cxr COMMAND --help` shows the options and examples of a command.
docs/tutorial.md leads from a folder of images to a report."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process'), and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not have every letter
    arguments = parser().parse_args(argv)
    format_before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        loaded = sys.modules.get("cxr.data.pseudonyms")  # if not, the message has no pseudonyms
        print(f"cxr: error: {loaded.explained(str(error)) if loaded else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cxr: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output stopped, such as `head`
        return 1
    except UnicodeEncodeError as error:
        print(
            f"cxr: error: this system's names of files cannot have {on_one_line(ascii(error.object))}: set the "
            "environment variable PYTHONUTF8=1, or a locale of UTF-8",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"cxr: error: {_of_the_system(error)}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = format_before
        _end_output()


def _of_the_system(error: OSError) -> str:
    """What the system refused, on one line, and what to do."""
    said = error.strerror or first_line(error)
    what = on_one_line(error.filename) if error.filename else "the output"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"{what}: cannot be written ({said}): make room on the disk, and run the same command again"
    if not error.filename:
        return f"{type(error).__name__}: {said}: see that disks and network answer, and run the same command again"
    return (
        f"{what}: cannot be read or written ({said}): correct its place or its permissions (--out: another folder)"
    )


def _end_output() -> None:
    """Write what is left of the output; nowhere if that fails, or Python complains at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # no file, in a test
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """The parser of `cxr` and of its commands."""
    found = argparse.ArgumentParser(
        prog="cxr",
        description=_OVERVIEW,
        epilog=_OVERVIEW_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"cxr {metadata.version('cxr')}")
    commands = found.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (check, plan, study, drift, lungs, ui, models, params):
        command.add(commands)
    completion.add(commands, found)
    return found


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package without the line of code that raised it."""
    where = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return f"cxr: warning: {where}{message}\n"
