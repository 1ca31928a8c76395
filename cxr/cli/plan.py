"""`cxr plan`: freeze the plan of a study."""

from __future__ import annotations

import argparse

import shtab

from cxr.cli.parser import add_command, add_params_file, add_set, add_tracking_uri


def add(commands: argparse._SubParsersAction) -> None:
    plan = add_command(
        commands,
        "plan",
        run,
        "freeze what a study will ask and test, before it runs",
        """\
Writes a plan: the question, the claims, the primary metric, margins, networks,
methods, seeds, images and exclusions, and the smallest difference that the
design finds with 80 % power. The plan has a date and a hash, so that a change
is noticed. An existing plan is never overwritten. Nothing is trained.

Give the plan to `cxr study --plan`. The report then says what was declared
before, and what was looked at afterwards.""",
        """\
examples:
  cxr plan params/study.yaml
  cxr plan params/study.yaml --output plans/a.yaml --question 'Do maps move?'
  cxr plan params/paper.yaml --set data=/data/xrays name=mine --pilot my-pilot
  cxr study params/study.yaml --plan plans/phantom.yaml

docs/frozen-plan.md says what a plan holds. (Time and disk space of a large
study are another matter: docs/plan.md.)""",
    )
    add_params_file(plan)
    add_set(plan)
    plan.add_argument(
        "--question",
        metavar="TEXT",
        default="",
        help="the question in one sentence (default: whether fine-tuning moves the visual evidence, even where "
        "accuracy stays)",
    )
    plan.add_argument(
        "--pilot",
        metavar="NAME",
        default="",
        help="a finished study in the store: what the design can find follows from its variances (default: from "
        "stated assumptions)",
    )
    add_tracking_uri(plan)
    plan.add_argument(
        "--output", metavar="PATH", help="the file of the plan (default: plans/NAME.yaml)"
    ).complete = shtab.FILE


def run(arguments: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from cxr.core.errors import InputError
    from cxr.core.params import StudyParams, read_overrides
    from cxr.core.terminal import wrapped

    study = StudyParams.read(arguments.params, read_overrides(arguments.set))
    path = Path(arguments.output or f"plans/{study.name}.yaml")
    from cxr.data import manifest, pseudonyms
    from cxr.report.declared import contents, plan_file

    plan_file.check_free(path)
    try:
        images = manifest.build_manifest(study)
    except InputError as error:  # the images may be elsewhere: a plan can be written before they are at hand
        print(f"cxr: warning: the images are not counted, and the plan says so: {error}", file=sys.stderr)
        images = None
    if images is not None and (said := pseudonyms.notice(study)):
        print(said, file=sys.stderr)
    text = contents.text(
        pseudonyms.neutral(study),
        images,
        question=arguments.question,
        pilot=arguments.pilot,
        tracking_uri=arguments.tracking_uri,
    )
    plan_file.write(path, text)
    print(wrapped("\n".join(contents.summary(plan_file.read(path))), hang=2))
    return 0
