"""A study from its start to its end: a grid of notebooks, each executed by papermill and logged as an MLflow run.

A step is done when the experiment has a complete run with its fingerprint (`tracking.fingerprint`). So the same
command resumes an interrupted study, and after a change only the steps that depend on it run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr import tracking
from cxr.core import kernel_server
from cxr.core.errors import InputError, first_line, without_password
from cxr.core.files import from_here
from cxr.core.params import StudyParams
from cxr.study import (
    claims,
    cluster,
    externals,
    following,
    holding,
    preflight,
    results,
    resuming,
    shared_files,
    study_run,
)
from cxr.study import session as sessions
from cxr.study.console import say
from cxr.study.grid import Setup, Step
from cxr.study.session import Session, State

if TYPE_CHECKING:
    import pandas as pd

    from cxr.data.checks import findings
    from cxr.study.shared_files import Shared


def run(
    study: StudyParams,
    params_file: str | Path,
    overrides: Mapping[str, Any],
    *,
    tracking_uri: str | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    notebooks: str | Path | None = None,
    scheduler: str = "local",
    dry_run: bool = False,
) -> int:
    """Run all steps of a study that are not done; print how it goes, and the results.

    A step that fails leaves a FAILED run with its notebook. Steps that need it are not run; all others are. Ctrl-C
    or SIGTERM stops the notebooks, and their runs end as KILLED.

    Args:
        study: the validated study, `StudyParams.read(params_file, overrides)`.
        params_file: the YAML file; papermill reads it too.
        overrides: parameters that win over the file's (`--set`).
        tracking_uri: see `tracking.connect`.
        out: folder for executed notebooks, logs and the report; default `mlruns/studies/<name>`.
        fresh: run all steps again, under a new parent run.
        notebooks: their folder; default `tracking.notebooks_folder()`.
        scheduler: where the notebooks run, see `cluster.opened`.
        dry_run: only print the commands of the notebooks. Nothing is created.

    Returns:
        The exit code: 0, 1 if a step failed, 130 if interrupted.

    Raises:
        InputError: a check before the first notebook failed (a parameter, the plan, the data, weights, a layer,
            the store, the scheduler, a worker), or the scheduler does not answer any more.
    """
    cluster.check(scheduler)
    setup = Setup(
        params_file=Path(params_file),
        overrides=overrides,
        notebooks=Path(notebooks).resolve() if notebooks else tracking.notebooks_folder(),
        out=Path(out) if out else sessions.default_out(study),
    )
    session = _session(study, setup, tracking_uri, fresh=fresh, new_store=not dry_run)
    state = State()
    if dry_run:
        _print_commands(session, state)
        return 0
    for line in preflight.about_plan(session, tracking.plans_cited(study.name)):
        say(line)
    if earlier := tracking.count_earlier(study.name):
        runs = f"{earlier} run{'s' * (earlier > 1)}"
        say(f"experiment {study.name}: {runs} of an earlier version of cxr, which this study does not use")
    try:
        return _run(session, state, scheduler)
    except tracking.StoreGone as error:
        say(f"stopped: {error}")
    except Exception as error:
        if not tracking.disk_full(error):
            raise
        say(f"stopped: the disk of {setup.out} or of the store is full: {first_line(error)}")
        say("What is done is kept: make room, and run the same command again.")
    return 1


def _session(
    study: StudyParams, setup: Setup, tracking_uri: str | None, *, fresh: bool, new_store: bool
) -> Session:
    """Check the parameters, connect to the store, and read which images there are.

    Args: new_store: whether to make a store that does not exist yet.
    """
    from cxr.data import manifest, pseudonyms

    plan = preflight.read_plan(study)
    steps = preflight.plan_and_check(study, setup)
    uri = tracking.resolve(tracking_uri)
    tracking.keep_key_out(study, uri, setup.out)
    if new_store or not tracking.is_new(uri):
        tracking.connect(uri)
    first, *others = study.seed
    images = manifest.build_manifest(study, vary=first if study.vary_split else None)
    if said := pseudonyms.notice(study):
        say(said)
    study = pseudonyms.neutral(study)
    if pseudonyms.is_neutral(study.data):  # notebooks get the images by this name, and hold no path
        setup = dataclasses.replace(setup, overrides={**setup.overrides, "data": study.data})
    steps, elsewhere = _externals(steps, manifest.classes(images))
    return Session(
        study=study,
        setup=setup,
        steps=steps,
        manifest=images,
        tracking_uri=uri,
        environment=sessions.environment(setup.notebooks, cluster.embedded_slots(study.jobs, study.devices)),
        fresh=fresh,
        other_splits={seed: manifest.with_splits_of(images, study, seed) for seed in others if study.vary_split},
        plan=plan,
        externals=elsewhere,
    )


def _externals(steps: list[Step], classes: list[str]) -> tuple[list[Step], dict[str, pd.DataFrame]]:
    """The steps, and the manifest of each external set by its name; with pseudonyms where they are asked for.

    Says which classes are left out, or missing. Raises: InputError: a set or its images cannot be read, or it has
    no class of the study.
    """
    from cxr.core.params import DriftParams
    from cxr.data import loading, manifest, pseudonyms
    from cxr.pair import images as pair_images

    found: dict[str, pd.DataFrame] = {}
    stored: dict[str, str] = {}
    for step in steps:
        if step.stage != externals.STAGE or (name := step.params["external"]) in found:
            continue
        settings = DriftParams.check(step.parameters, where=f"external: {name}")
        try:
            found[name], notes = pair_images.find(settings)
            kept, left = pair_images.of_classes(found[name], classes)
            loading.check_images(found[name], manifest.data_root(settings))
        except InputError as error:
            raise InputError(f"external: {name}: {error}", items=error.items) from None
        say(f"  external: {name}: {pair_images.in_words(kept)}")
        for line in (*notes, *left, *filter(None, [pseudonyms.notice(settings)])):
            say(f"  external: {name}: {line}")
        stored[name] = pseudonyms.neutral(settings).data

    def with_names(step: Step) -> Step:
        if step.stage != externals.STAGE:
            return step
        return dataclasses.replace(step, parameters={**step.parameters, "data": stored[step.params["external"]]})

    return [with_names(step) for step in steps], found


def _print_commands(session: Session, state: State) -> None:
    """Print shell commands for all steps; done steps are comments with the ids of their runs.

    A command that is typed by hand makes a run of its own; replace `<key>` in a later command by the id of that
    step's run.
    """
    setup = session.setup
    for line in preflight.about_plan(session, {}):
        print(f"# {line}")
    if not tracking.is_new(session.tracking_uri):
        resuming.find_done(session, state)
    uri = without_password(session.tracking_uri)
    if uri != session.tracking_uri:
        print("# put the password into the next line yourself: it is not printed")
    for name, value in {"MLFLOW_TRACKING_URI": uri, **session.environment}.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"mkdir -p {shlex.quote(from_here(setup.out))}")
    for step in session.steps:
        if step.key in state.runs:
            print(f"# {step.key}: done already, run {state.runs[step.key]}")
        else:
            print(f"# {step.key}\n{shlex.join(setup.command(step, state.runs))}")


def _run(session: Session, state: State, scheduler: str) -> int:
    """What `run` does after the first checks."""
    watch = holding.refuse_if_running(session)
    resuming.find_done(session, state)
    waiting = [step for step in session.steps if step.key not in state.runs]
    say(
        f"study {session.study.name}: {len(session.steps)} notebooks, {len(state.runs)} done already, "
        f"{len(waiting)} to run, into {from_here(session.setup.out)}"
    )
    code = 0
    with resuming.claimed(session.setup.out):
        resuming.log_missing_notebooks(session, state)
        # a study that was killed after its last notebook has not ended
        if waiting or not study_run.find(session, complete=True):
            try:
                code = _run_waiting(session, state, waiting, scheduler, watch)
            except KeyboardInterrupt:
                if not state.parent:
                    raise
                say(
                    f"interrupted: {len(state.runs)} notebooks are done and kept. Those that were running ended "
                    "as KILLED. Run the same command again to go on."
                )
                return 130
        results.show(session, state)
    return code


def _run_waiting(session: Session, state: State, waiting: list[Step], scheduler: str, watch: claims.Watch) -> int:
    """Run the steps that are not done, after the last checks, and conclude the study. Returns the exit code."""
    with contextlib.ExitStack() as holds:  # it lets the study go after the cluster has stopped
        if waiting:
            with cluster.opened(scheduler, jobs=session.study.jobs, devices=session.study.devices) as where:
                shared, report = _last_checks(session, waiting, where)
                held = holds.enter_context(holding.held(session, state, watch))
                say(f"  {where.slots} at a time; dashboard: {where.dashboard}")
                if report is not None:
                    from cxr.data.checks import page as checks_page

                    page = checks_page.write(report, session.setup.out / "checks.html")
                    tracking.log_file_as(state.parent, page, "checks.html")
                following.run_all(session, state, waiting, where, shared, held)
        else:
            held = holds.enter_context(holding.held(session, state, watch))
        held.check()
        return _conclude(session, state)


def _last_checks(
    session: Session, waiting: list[Step], where: cluster.Cluster
) -> tuple[Shared | None, findings.Report | None]:
    """Check the workers, the images and the networks; what workers elsewhere must see, and what was found."""
    shared = None
    if not where.embedded:
        shared = shared_files.used_by(session, waiting)
        cluster.check_workers(where, shared)
    if not any(step.runs_network for step in waiting):
        return shared, None
    to_train = [step.parameters["architecture"] for step in waiting if step.stage == "train"]
    here = where.slots if where.embedded and not kernel_server.has_gpu_driver() else 0
    report = preflight.check(
        session.study,
        session.manifest,
        list(dict.fromkeys(to_train)),
        at_once=here,
        environment=session.environment,
    )
    return shared, report


def _conclude(session: Session, state: State) -> int:
    """Record, describe and end the study's own run. Returns the exit code."""
    mixed = resuming.find_mixed(session, state)
    code = 1 if state.failures or mixed else 0
    tracking.log_text(state.parent, json.dumps(state.runs, indent=1), study_run.RECORD)
    resuming.note_mixed(state, mixed)
    results.describe(session, state)
    if not code:
        tracking.set_tags(state.parent, {"cxr.complete": "true"})
    tracking.end_run(state.parent, "FAILED" if code else "FINISHED")
    return code
