"""The section of the report "What was declared before": what the plan says, and what was looked at afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr.core.markdown import plain
from cxr.report.declared import asked, deviations, plan_file
from cxr.report.declared.deviations import ADDED, CHANGED, CONTRADICTS, NOT_DONE
from cxr.report.declared.plan_file import Plan

if TYPE_CHECKING:
    from cxr.core.params import CompareParams
    from cxr.report.scores import Study

NO_PLAN = "No plan was frozen before this study; the primary metric and margins are those of the parameter file."
KEPT, AFTERWARDS = "as declared", "looked at afterwards"
COLUMNS = ("what", "declared", "in this report", "status")
_OF_WHAT_IS_DECLARED = (
    "What this study says",
    "The paper's claims",
    "What was declared before",
    "The numbers",
    "Methods",
    "Runs",
)
"""Sections of the report that show what is declared, or how it was made. Those of `asked.TABLES` are judged."""


@dataclass(frozen=True)
class Declared:
    """What the report says of its plan; made by `of`.

    sentences: in Markdown. table: columns `COLUMNS`; without rows where there is no plan.
    text: of the plan's file; empty without one. tags: of the run.
    """

    sentences: str
    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    text: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


def of(settings: CompareParams, study: Study) -> Declared:
    """What the report of a study says of its plan, which `settings.plan` names.

    Raises InputError: the plan cannot be read, or was changed after it was frozen.
    """
    from cxr import tracking

    trained = list(study.training_runs)
    experiment = study.training_runs[trained[0]].experiment_name
    cited = plan_file.read(settings.plan) if settings.plan else None
    others = tracking.plans_cited(experiment)
    if cited is not None:
        others.pop(cited.short, None)
    if cited is None:
        return Declared(" ".join([NO_PLAN if not others else _left_out(others)]))
    own = {run_id: tracking.started(run_id) for run_id in trained}
    all_runs = [run.run_id for run in tracking.find("train", experiment=experiment, complete=False)]
    every = {**{run_id: tracking.started(run_id) for run_id in all_runs if run_id not in own}, **own}
    manifests = {run.tags.get("cxr.inputs.manifest", "") for run in study.training_runs.values()}
    rows = table(
        cited,
        parameters_of(settings, study),
        judged=asked.texts(settings),
        cells=list(study.runs[["architecture", "seed", "method"]].itertuples(index=False, name=None)),
        manifest_hash=manifests.pop() if len(manifests) == 1 else "",
        sections=headings(),
    )
    sentences = [
        cites(cited, rows),
        when(cited.written, list(own.values()), list(every.values())),
        *([f"Other plans of this study: {_listed(others)}."] if others else []),
    ]
    return Declared(" ".join(filter(None, sentences)), rows, cited.text, cited.tags)


def cites(plan: Plan, rows: pd.DataFrame) -> str:
    """The sentences that cite a plan, and say whether the study keeps to it. `rows`: of `table`."""
    question = plain(plan.values["question"])
    found = f"A plan was frozen on {_moment(plan.written)} (SHA-256 `{plan.short}`…): “{question}”"
    wrong = rows.loc[rows["status"] == CONTRADICTS, "what"]
    departed = int(rows["status"].isin([CHANGED, ADDED, NOT_DONE]).sum())
    if len(wrong):
        found += f" **The verdicts do not test what it declares: {', '.join(wrong)}.**"
    if departed:
        return f"{found} The study departs from it in {departed} point{'s' * (departed > 1)}."
    return found if len(wrong) else f"{found} The study keeps to it."


def when(written: datetime, own: Sequence[datetime], every: Sequence[datetime]) -> str:
    """Whether the plan came before the trainings, in one or two sentences.

    Args:
        written: when the plan says that it was written.
        own: when the training runs of this report began.
        every: when any training run of the experiment began, also those that failed or are not in this report.
    """
    first = min(own)
    if written > first:
        return f"**This plan was written after the first training**, which began on {_moment(first)}."
    found = f"The first training of this report began on {_moment(first)}, after the plan."
    if earlier := sum(moment < written for moment in every):
        found += (
            f" But {earlier} other trainings of the experiment, not in this report, began before the plan: "
            "their results may have been known when it was written."
        )
    return found


def _left_out(others: Mapping[str, str]) -> str:
    return (
        "**This report cites no plan, but an earlier run of the study does** "
        f"({_listed(others)}): the primary metric and margins here are those of the parameter file."
    )


def _listed(plans: Mapping[str, str]) -> str:
    return ", ".join(f"`{short}` of {date[:10]}" for short, date in plans.items())


def parameters_of(settings: CompareParams, study: Study) -> dict[str, Any]:
    """The parameters of a study as its runs logged them; axes as lists."""
    first = study.score_runs[0]
    train, attribute = study.runs["train_run"].iloc[0], study.runs["attribute_run"].iloc[0]
    runs = (study.training_runs[train], study.attribute_runs[attribute], first)
    found: dict[str, Any] = {}
    for run in runs:
        found |= run.settings
    found |= settings.model_dump(mode="json")
    axes = {name: study.runs[name].drop_duplicates().tolist() for name in deviations.AXES}
    return {**found, **axes, "seed": sorted(map(int, axes["seed"]))}


def headings() -> list[str]:
    """The sections of the report, from its notebook."""
    from cxr import tracking
    from cxr.core import execution

    cells = execution.cells_of(tracking.notebooks_folder() / f"{tracking.STAGES['compare']}.ipynb")
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    lines = [line for text in texts for line in text.splitlines()]
    return [line.removeprefix("## ").strip() for line in lines if line.startswith("## ")]


def table(
    plan: Plan,
    parameters: Mapping[str, Any],
    *,
    judged: Mapping[str, Mapping[str, str]],
    cells: Sequence[tuple[str, Any, str]],
    manifest_hash: str = "",
    sections: Sequence[str] = (),
) -> pd.DataFrame:
    """What was declared, what the report has, and whether that is the same.

    Args:
        parameters: of the study, as `deviations.find` takes them.
        judged: what the report judges, as `asked.texts` has it.
        cells: (architecture, seed, method) of the report's score runs.
        manifest_hash: of the images; empty: unknown.
        sections: headings of the report.

    Returns: columns `COLUMNS`, text. Rows: the primary metric, what it is judged with, the axes and the images;
        other parameters only where they deviate; each claim that was added or not judged; the sections that the
        plan does not name.
    """
    found = deviations.find(plan, parameters, manifest_hash=manifest_hash)
    rows = []
    for name in deviations.binding():
        if name in plan.parameters and name in parameters and name not in {each.what for each in found}:
            value = deviations.as_text(parameters[name])
            rows.append((name, value, value, KEPT))
    for name, what in deviations.AXES.items():
        if what not in {each.what for each in found}:
            value = deviations.as_text(parameters[name])
            rows.append((what, value, value, KEPT))
    rows += [
        (each.what, each.declared, each.now, CONTRADICTS if each.contradicts else each.status) for each in found
    ]
    rows += _cells(plan, cells) + _images(plan, manifest_hash)
    for kind, texts in judged.items():
        rows += _judged(kind, plan.values.get(kind, {}), texts)
    others = [heading for heading in sections if heading not in _OF_WHAT_IS_DECLARED]
    if others:
        rows.append(("other sections", "-", "; ".join(others), AFTERWARDS))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _cells(plan: Plan, cells: Sequence[tuple[str, Any, str]]) -> list[tuple[str, str, str, str]]:
    """A row if cells of the declared grid lack a run although their architecture, seed and method have others."""
    axes = [plan.parameters[name] for name in ("architecture", "seed", "method")]
    have = {(architecture, int(seed), method) for architecture, seed, method in cells}
    seen = [{cell[place] for cell in have} for place in range(3)]
    wanted = [(a, s, m) for a in axes[0] for s in axes[1] for m in axes[2]]
    asked_for = [cell for cell in wanted if all(value in seen[place] for place, value in enumerate(cell))]
    missing = [f"{a} s{s} {m}" for a, s, m in asked_for if (a, s, m) not in have]
    return [("cells", ", ".join(missing), "-", NOT_DONE)] if missing else []


def _images(plan: Plan, manifest_hash: str) -> list[tuple[str, str, str, str]]:
    """The row of the images where they do not deviate."""
    images = plan.values["design"].get("images", {})
    if not images.get("counted"):
        return [("image set", "not counted", f"manifest {manifest_hash[:12]}", "cannot be compared")]
    if manifest_hash != images["manifest_sha256"]:
        return [] if manifest_hash else [("image set", "counted", "several manifests", "cannot be compared")]
    total = f"{sum(images['images'].values())} images of {sum(images['patients'].values())} patients"
    return [("image set", total, total, KEPT)]


def _judged(kind: str, declared: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Rows of one table of what is judged: one for those that are kept, and one for each other."""
    kept = [name for name in declared if now.get(name) == declared[name]]
    rows = [(kind, str(len(kept)), str(len(kept)), KEPT)] if kept else []
    for name in now:
        if name not in declared:
            rows.append((kind, "-", now[name], AFTERWARDS))
        elif now[name] != declared[name]:
            rows.append((kind, declared[name], now[name], CHANGED))
    return rows + [(kind, declared[name], "-", NOT_DONE) for name in declared if name not in now]


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
