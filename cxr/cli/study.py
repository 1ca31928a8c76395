"""`cxr study`: run a study."""

from __future__ import annotations

import argparse

import shtab

from cxr.cli.parser import add_command, add_out, add_params_file, add_set, add_tracking_uri, count


def add(commands: argparse._SubParsersAction) -> None:
    study = add_command(
        commands,
        "study",
        run,
        "run a study: every notebook of its grid that is not done yet",
        """\
Train, attribute, score and compare, for every architecture, seed and method of
the parameter file. Each step is one notebook and one MLflow run. Running the
same command again skips the steps that are done.""",
        """\
--set overrides parameters of the file; `cxr params` lists them. A value is
taken as you type it; lists stand in brackets, mappings in braces. Quote what
the shell would read: brackets, braces, spaces.
  --set data=/data/my-xrays name=mine    one value each, as many as you like
  --set seed=0 method=layercam           one value stands for a list of one
  --set 'seed=[0,1,2]'                   a list: another axis of the grid
  --set 'label_map={NORMAL: normal, PNEUMONIA: pneumonia}'    a mapping

examples:
  cxr study params/study.yaml
  cxr study params/study.yaml --dry-run
  cxr study params/study.yaml --plan plans/phantom.yaml
  cxr study params/study.yaml --set 'method=[layercam,gradcampp,hirescam]'
  cxr study params/paper.yaml --set data=/data/my-xrays name=mine --jobs 2
  cxr study params/paper.yaml --tracking-uri http://server:5000
  cxr study params/paper.yaml --scheduler params/clusters/slurm.yaml""",
    )
    add_params_file(study)
    add_set(study)
    add_tracking_uri(study)
    add_out(study, "folder for executed notebooks and the report (default: mlruns/studies/NAME)")
    study.add_argument(
        "--jobs",
        metavar="N",
        type=count,
        help="notebooks at once (default: the file's; 0: one for every two cores)",
    )
    study.add_argument(
        "--scheduler",
        metavar="WHERE",
        default="local",
        help="where notebooks run: local (default), the address of a Dask scheduler (tcp://host:8786), or the "
        "YAML file of a cluster (params/clusters)",
    ).complete = shtab.FILE
    study.add_argument(
        "--plan",
        metavar="PLAN",
        help="the frozen plan of this study (see `cxr plan`): deviations are printed and reported; a study that "
        "contradicts it, or a changed plan, is refused",
    ).complete = shtab.FILE
    study.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    study.add_argument("--fresh", action="store_true", help="run all steps again, also those that are done")


def run(arguments: argparse.Namespace) -> int:
    from cxr.core.params import StudyParams, read_overrides

    options = {"jobs": arguments.jobs, "plan": arguments.plan}
    given = {key: value for key, value in options.items() if value is not None}
    overrides = read_overrides(arguments.set, StudyParams, given)
    params = StudyParams.read(arguments.params, overrides)
    from cxr.study import runner  # loads MLflow, which takes seconds: only after the parameters are checked

    return runner.run(
        params,
        arguments.params,
        overrides,
        tracking_uri=arguments.tracking_uri,
        out=arguments.out,
        fresh=arguments.fresh,
        scheduler=arguments.scheduler,
        dry_run=arguments.dry_run,
    )
