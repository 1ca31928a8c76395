"""What is checked before the first notebook starts: parameters, images, weights and layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cxr.core import execution
from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.models.size import Size
from cxr.report.declared import deviations, plan_file
from cxr.study import externals, memory
from cxr.study.console import say
from cxr.study.grid import Setup, Step, plan

if TYPE_CHECKING:
    import pandas as pd

    from cxr.data.checks import findings
    from cxr.report.declared.plan_file import Plan
    from cxr.study.session import Session


def plan_and_check(study: StudyParams, setup: Setup) -> list[Step]:
    """The steps of a study, after the parameters of every notebook are checked.

    Raises:
        InputError: a parameter does not fit, or a notebook would use another value than the study.
    """
    steps = plan(study)
    ours = study.model_dump()
    for step in steps:
        settings = setup.settings(step, {})
        if step.stage == externals.STAGE:  # it gets all that is the study's, and reads no parameter file
            continue
        theirs = settings.model_dump()
        for name in theirs.keys() & ours.keys() - step.parameters.keys() - settings.filters - {"data"}:
            if theirs[name] != ours[name]:
                raise InputError(
                    f"{step.notebook}.ipynb would run with {name} = {theirs[name]!r} where a study has "
                    f"{ours[name]!r}, as it is not in {setup.params_file}: add it there"
                )
    return steps


def read_plan(study: StudyParams) -> Plan | None:
    """The frozen plan of a study; None without one.

    Raises:
        InputError: it cannot be read, was changed after it was frozen, or the study contradicts it.
    """
    if not study.plan:
        return None
    plan = plan_file.read(study.plan)
    deviations.refuse(plan, deviations.find(plan, study.model_dump(mode="json")))
    return plan


def about_plan(session: Session, cited: Mapping[str, str]) -> list[str]:
    """Which plan a study keeps to, and how it deviates from it, in lines; printed before anything is trained.

    `cited`: plans that runs of a study of this name cite (`tracking.plans_cited`).
    """
    plan = session.plan
    if plan is None:
        return [
            f"CAUTION: an earlier run of this study cites the plan {short} of {date[:10]}, and this one cites "
            "none: give it with --plan"
            for short, date in cited.items()
        ]
    lines = [f"plan {plan.path}: sha256 {plan.short}, of {plan.written:%Y-%m-%d %H:%M} UTC"]
    if not plan.values["design"]["images"]["counted"]:
        lines.append("  the images cannot be compared: they were not counted when the plan was written")
    found = deviations.find(plan, session.study.model_dump(mode="json"), manifest_hash=session.manifest_hash)
    lines += [f"  deviates from the plan: {deviation.line}" for deviation in found]
    return lines if found else [*lines, "  the study keeps to the plan"]


def check(
    study: StudyParams,
    manifest: pd.DataFrame,
    architectures: list[str],
    *,
    at_once: int = 0,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> findings.Report:
    """Find what would fail after hours: unreadable images, wrong labels, missing weights, layers or memory.

    Args:
        manifest: the images; with `vary_split`, with the splits of the first seed.
        architectures: the networks that will be trained; each is built once.
        at_once: notebooks that run at a time on this machine's processors; 0: they run elsewhere, or on GPUs.
        environment: environment variables of the notebooks on this machine.

    Returns:
        The findings of `cxr check` in the images' headers. Its warnings, and what it says of splits that vary with
        the seed, are printed.

    Raises:
        InputError: the first error.
    """
    from cxr.data import loading
    from cxr.data import manifest as data_manifest
    from cxr.data.checks import checklist

    if architectures:
        execution.get_ready(environment)  # while the images are checked
    report = checklist.run(study, manifest=manifest)
    if errors := report.of("error"):
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        named = f": {', '.join(map(repr, errors[0].files[:3]))}" if errors[0].files else ""
        named += ", ..." if len(errors[0].files) > 3 else ""
        raise InputError(f"data: {errors[0].text}{named}{more}. `cxr check PARAMS.yaml` shows all")
    for finding in (*report.of("warning"), *(one for one in report.of("note") if one.check == "vary_split")):
        say(f"  {finding.check}: {finding.text}")
    loading.check_images(manifest, data_manifest.data_root(study))
    if architectures:
        sizes = _check_networks(study, len(data_manifest.classes(manifest)), architectures, environment)
        if at_once:
            say(f"  {memory.check(sizes, study, at_once=at_once, gib=memory.of_machine())}")
    return report


def _check_networks(
    study: StudyParams, n_classes: int, architectures: list[str], environment: Mapping[str, str]
) -> dict[str, Size]:
    """Build the networks in another process, since TensorFlow takes seconds to load and much memory."""
    common = {
        "weights": study.weights,
        "target": study.target_layer,
        "image_size": study.image_size,
        "n_classes": n_classes,
        "multi_label": study.task == "multi_label",
        "fine_tune_from": study.fine_tune_from,
        "methods": study.method,
    }
    wanted = json.dumps([{"architecture": name, **common} for name in architectures])
    environment = {**environment, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    said = execution.run_module("cxr.study.building", [wanted], environment).strip().splitlines()
    try:
        answer = json.loads(said[-1])
        sizes = answer.get("sizes", [])
    except (IndexError, AttributeError, ValueError):
        last = said[-1] if said else "their process was killed. The system does that when memory is short"
        raise InputError(f"the models cannot be built: {last}") from None
    if "error" in answer:
        raise InputError(answer["error"])
    return {name: Size(*size) for name, size in zip(architectures, sizes, strict=True)}
