"""`cxr check`: check the images and labels of a study."""

from __future__ import annotations

import argparse

from cxr.cli.parser import add_command, add_out, add_params_file, add_set


def add(commands: argparse._SubParsersAction) -> None:
    check = add_command(
        commands,
        "check",
        run,
        "check a study's images and labels before anything is trained on them",
        """\
Finds images that are broken, that are in two splits, or that reveal the class
by something other than the patient. Says how large an effect this number of
patients can show. Prints its findings, and writes a page with pictures. The
exit code is 1 if there is an error that would stop `cxr study`.""",
        """\
examples:
  cxr check params/study.yaml
  cxr check params/paper.yaml --set data=/data/my-xrays name=mine
  cxr check params/paper.yaml --set data=/data/my.csv name=mine --full

docs/checks.md says what is checked, and what to do about each finding.""",
    )
    add_params_file(check)
    add_set(check)
    check.add_argument(
        "--full",
        action="store_true",
        help="decode every image: finds near duplicates, blank images, hidden damage",
    )
    add_out(check, "folder for checks.html (default: mlruns/studies/NAME)")


def run(arguments: argparse.Namespace) -> int:
    import shutil
    from pathlib import Path

    from cxr.core.params import StudyParams, read_overrides

    params = StudyParams.read(arguments.params, read_overrides(arguments.set))
    from cxr.data import pseudonyms
    from cxr.data.checks import checklist, page

    report = checklist.run(params, full=arguments.full)
    print(page.lines(report, width=shutil.get_terminal_size((100, 24)).columns))
    if said := pseudonyms.notice(params):
        print(said)
    if arguments.out:
        folder = Path(arguments.out)
    else:
        from cxr.study import session  # loads MLflow, which takes seconds: only after the findings are printed

        folder = session.default_out(params)
    print(f"page: {page.write(report, folder / 'checks.html')}")
    return 1 if report.of("error") else 0
