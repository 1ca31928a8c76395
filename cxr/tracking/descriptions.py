"""What MLflow shows at the top of a run, an experiment or a registered model: Markdown of a few lines.

Pure functions of names, numbers and run ids; `cxr.tracking` puts the text where it belongs. The UI folds all but
the first lines away, so the first line is the answer (of a study, its comparison and the experiment) or what the
run did, with its main number. SYNTHETIC DATA stands before it where that is so. Numbers of maps that fail their
checks are marked.

The UI makes HTML of it (GitHub's flavour, in which a line's end breaks the line) and lets through links, tables
and images, but neither their sizes nor `data:` addresses. Addresses here are relative to the server's own, so that
they hold behind a proxy and under a path too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cxr.core.markdown import code, plain
from cxr.core.methods import SCORE_LABELS
from cxr.core.tables import HEADINGS
from cxr.tracking import readable, views

if TYPE_CHECKING:
    import pandas as pd

FIGURE = "overview.png"
"""The artifact that a description shows."""
_MEASURES = {"accuracy": "accuracy", "ece": "calibration error"}


# ------------------------------------------------------------------------------------------------ Markdown


def table(shown: pd.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the rows of a frame, or of dicts of the same keys; empty without rows.

    Cells that come from `link` keep their link.
    """
    rows = shown if isinstance(shown, Sequence) else shown.to_dict("records")
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_cell, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Link(str):
    """Markdown that `table` leaves as it is."""


def link(text: str, address: str) -> Link:
    return Link(f"[{plain(text)}]({address})")


def run_link(text: str, experiment_id: str, run_id: str) -> Link:
    # without its last part, MLflow shows the run among what it has for language models
    return link(text, f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning")


def artifact_link(text: str, run_id: str, path: str) -> Link:
    return link(text, f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}")


def image(run_id: str, path: str = FIGURE) -> str:
    """A picture that is an artifact of a run. It is shown in its own size: keep it small."""
    return f"![{path}](get-artifact?{urlencode({'path': path, 'run_uuid': run_id})})"


def _cell(value: Any) -> str:
    return value if isinstance(value, Link) else plain(value)


def _paragraphs(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def first_line(text: str, *, synthetic: bool) -> str:
    return f"**SYNTHETIC DATA.** {text}" if synthetic else text


def answered(text: str, tags: Mapping[str, str]) -> str:
    """A description below the answer that a run's tags hold (`cxr.answer`); as it is where they hold none."""
    answer = tags.get("cxr.answer", "")
    opening = first_line(plain(answer), synthetic=tags.get("cxr.synthetic") == "yes") if answer else ""
    return _paragraphs([opening, text])


def cells(summary: pd.DataFrame) -> str:
    """A table of a study's numbers: a row a network and method, in eight columns, rounded.

    Args:
        summary: of `cxr.report.comparison.pooled`, or the columns of it that a study prints.
    """
    return table(
        [
            {
                "network": row["architecture"],
                "method": row["method"],
                readable.CHECKS: readable.checks(row.get("map_check", "")),
                "overlap": readable.interval(row, "overlap"),
                "two patients": readable.number(row.get("overlap_two_patients_median")),
                "two seeds": readable.number(row.get("overlap_two_seeds_median")),
                "corrected overlap": readable.interval(row, "overlap_corrected"),
                "AUC": "→".join(readable.number(row.get(f"auc_macro_{end}")) for end in ("before", "after")),
            }
            for row in summary.to_dict("records")
        ]
    )


_HOW_TO_READ = (
    "*Overlap*: of the strongest 20 % before and after fine-tuning (1: identical). *Two patients*: the same "
    "overlap between two patients of one class. *Two seeds*: between two trainings. *Corrected overlap*: "
    "(overlap - two patients) / (1 - two patients). **FAIL**: the maps fail their checks, so their numbers "
    "describe the maps, not the network."
)


# -------------------------------------------------------------------------------------------------- stages


def is_synthetic(data: str) -> bool:
    """Whether the parameter `data` of a study stands for images that a program draws."""
    return data == "phantom"


def images_used(data: str) -> str:
    """What the images are, in words that no one can take for patients where they are none."""
    if is_synthetic(data):
        return "**synthetic images** (the embedded phantom: they say nothing about patients)"
    return f"images of {code(data)}"


def train(settings: Mapping[str, Any], performances: Mapping[str, Mapping[str, float]]) -> str:
    """Of a train run.

    Args:
        settings: its parameters: architecture, seed, weights, image_size, data.
        performances: before, after (and continued, where training went on) to measures, as
            `cxr.metrics.classification.performance` has them.
    """
    rows = [
        {
            "test set": checkpoint,
            "AUC": readable.number(found["auc_macro"]),
            **{shown: readable.number(found[name]) for name, shown in _MEASURES.items() if name in found},
        }
        for checkpoint, found in performances.items()
    ]
    auc = ", ".join(f"{row['AUC']} {row['test set']} fine-tuning" for row in rows[:2])
    return _paragraphs(
        [
            first_line(
                f"Training of **{plain(settings['architecture'])}, seed {settings['seed']}**: AUC on the test set "
                f"{auc}.",
                synthetic=is_synthetic(settings["data"]),
            ),
            f"A new head on the frozen backbone (transfer), then every layer (fine-tuning); pretrained weights: "
            f"{code(settings['weights'])}, {settings['image_size']} px, {images_used(settings['data'])}.",
            table(rows),
            "The checkpoints are under *Artifacts*, `checkpoints`; what they look at is in the attribute and "
            "score runs of the same architecture and seed.",
            "*continued* is the checkpoint after, trained on for as many epochs again: the matched null."
            if "continued" in performances
            else "",
        ]
    )


def attribute(
    train: Mapping[str, Any],
    *,
    layer: str,
    grid: str,
    score: str,
    maps: pd.DataFrame,
    scored: int,
    of: int,
    checks: pd.DataFrame | None = None,
    train_run: str = "",
) -> str:
    """Of an attribute run.

    Args:
        train: parameters of the train run.
        layer, grid: where the maps are taken, and their size.
        score: what they explain, one of `cxr.core.methods.SCORES`.
        maps: method, checkpoint, maps, empty: counts.
        scored, of: images that are scored, of how many.
        checks: method, checkpoint, passes_checks (and more), where maps were checked against the model.
        train_run: a link to it.
    """
    rows = maps.rename(columns={"empty": "empty maps"})
    result = "the maps were not checked"
    if checks is not None and len(checks):
        passed = checks[["method", "checkpoint", "passes_checks"]]
        methods = passed.groupby("method", sort=False)["passes_checks"].all()
        good = [name for name in methods.index if methods[name]]
        result = f"the maps of {len(good)} of {len(methods)} methods pass their checks"
        result += f" ({plain(', '.join(good))})" if good else ""
        passed = passed.assign(passes_checks=passed["passes_checks"].map(readable.checks))
        rows = rows.merge(passed, on=["method", "checkpoint"], how="left")
        rows = rows.rename(columns={"passes_checks": readable.CHECKS})
    return _paragraphs(
        [
            first_line(
                f"Maps of **{plain(train['architecture'])}, seed {train['seed']}** before and after fine-tuning: "
                f"{result}.",
                synthetic=is_synthetic(train["data"]),
            ),
            f"They are taken at {code(layer)} ({grid}) and explain the {SCORE_LABELS[score]}; {scored} of {of} "
            f"images are scored; {images_used(train['data'])}.",
            table(rows),
            f"Overlays of the first images of each class: *Model metrics*, below the numbers. {train_run}",
        ]
    )


def score(
    cell: Mapping[str, Any],
    values: Mapping[str, float],
    *,
    data: str,
    links: Sequence[str] = (),
    caution: str = "",
) -> str:
    """Of a score run.

    Args:
        cell: architecture, seed, method.
        values: metrics of the run (`cxr.report.headlines.HEADLINE`).
        data: the study's parameter.
        links: to the runs behind it.
        caution: why the maps may say nothing about the network, where they fail a test.
    """
    two_patients = readable.number(values.get("overlap_two_patients_median"))
    mark = f"**{readable.MARK.capitalize()}: this describes the maps, not the network.** " if caution else ""
    return _paragraphs(
        [
            first_line(
                f"{mark}Overlap of the evidence before and after fine-tuning, **{plain(cell['architecture'])}, "
                f"seed {cell['seed']}, {plain(cell['method'])}**: {readable.interval(values, 'overlap')} "
                f"(two patients: {two_patients}).",
                synthetic=is_synthetic(data),
            ),
            f"Failed checks: {plain(caution)}." if caution else "",
            table([{"number": heading, "value": value} for heading, value in _values(values)]),
            "*Corrected overlap*: (overlap - two patients) / (1 - two patients) (1: identical maps; 0: no more "
            "than two patients share). *Centroid shift*: share of the image's diagonal. Intervals are over "
            f"patients, about these two checkpoints. Data: {images_used(data)}. " + " · ".join(links),
        ]
    )


def _values(values: Mapping[str, float]) -> Iterable[tuple[str, str]]:
    """Headings and rounded values of those `HEADINGS` that a run has; bounds stand with their median."""
    for name, heading in HEADINGS.items():
        if name not in values or name.endswith(("_ci_low", "_ci_high")):
            continue
        if name.startswith("n_"):
            yield heading, f"{values[name]:.0f}"
        elif name == "centroid_shift_median":
            yield heading, f"{values[name]:.3f}"  # some hundredths
        elif name.endswith("_median"):
            yield heading, readable.interval(values, name.removesuffix("_median"))
        else:
            yield heading, readable.number(values[name])


def compare(summary: pd.DataFrame, answers: pd.DataFrame, claims: pd.DataFrame, *, run_id: str, data: str) -> str:
    """Of a compare run, below its answer (`answered`).

    Args:
        summary: as for `cells`.
        answers: question and answer (and more), one row a question of the study.
        claims: claim and verdict (and more), one row a claim of the paper.
        run_id: its own.
        data: the study's parameter.
    """
    report = artifact_link("The whole report", run_id, "report.html")
    return _paragraphs(
        [
            f"{report} (or *Artifacts*, `report.html`). Data: {images_used(data)}.",
            cells(summary),
            _HOW_TO_READ,
            table(answers[["question", "answer"]]),
            "**The paper's claims**",
            table(claims[["claim", "verdict"]]),
        ]
    )


# --------------------------------------------------------------------------------- study, experiment, model


def study(
    name: str,
    *,
    data: str,
    summary: pd.DataFrame | None,
    answers: pd.DataFrame | None,
    n_runs: int,
    experiment_id: str,
    answer: str = "",
    report_run: str = "",
    figure_run: str = "",
    failures: Mapping[str, str] | None = None,
    differs: str = "",
) -> str:
    """Of a study's own run.

    Args:
        name, data: of the study.
        summary, answers: as for `compare`; None where the study has none.
        n_runs: how many of its runs are done.
        experiment_id: where they are.
        answer: of its comparison; empty where there is none.
        report_run, figure_run: the id of the one that has the report, and the figure (`FIGURE`).
        failures: names of steps and why they failed.
        differs: from the study of this name before it (`difference`).
    """
    report = f"{artifact_link('The whole report', report_run, 'report.html')}." if report_run else ""
    failed = [{"not done": step, "because": reason} for step, reason in (failures or {}).items()]
    return _paragraphs(
        [
            first_line(plain(answer or _no_answer(name, failed)), synthetic=is_synthetic(data)),
            f"{report} Data: {images_used(data)}. {differs}".strip(),
            table(failed),
            f"{cells(summary)}\n\n{_HOW_TO_READ}" if summary is not None else "",
            table(answers[["question", "answer"]]) if answers is not None else "",
            image(figure_run) if figure_run else "",
            f"Its {n_runs} runs: {_links_to_views(experiment_id)}",
        ]
    )


def _links_to_views(experiment_id: str) -> str:
    return " · ".join(link(name, views.address(experiment_id, name)) for name in views.KEYS)


def _no_answer(name: str, failed: Sequence[Any]) -> str:
    why = f"{len(failed)} of its notebooks failed or were not run" if failed else "its comparison gives none"
    return f"The study {name} has no answer in one sentence: {why}."


def difference(settings: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Settings that are not what they were: {name: (before, now)}, as text; without `name`, `jobs` and `plan`."""
    names = [name for name in settings if name not in ("name", "jobs", "plan")]
    return {
        name: (str(before.get(name, "")), str(settings[name]))
        for name in names
        if str(before.get(name, "")) != str(settings[name])
    }


def differs(changed: Mapping[str, tuple[str, str]], before: str) -> str:
    """A sentence of `difference`: what was changed since the study run that `before` links to."""
    if not changed:
        return ""
    words = ", ".join(f"`{name}` {plain(old) or 'not set'} → {plain(new)}" for name, (old, new) in changed.items())
    return f"Other settings than {before}: {words}."


def study_name(name: str, date: str, changed: Mapping[str, tuple[str, str]]) -> str:
    """The name of a study's run: its date, and what tells it from the study of this name before it."""
    words = ", ".join(f"{key} {new}" for key, (_, new) in changed.items())
    words = f" ({words})" if words else ""
    return f"study {name} {date}{words if len(words) <= 80 else f'{words[:78]}…)'}"


def experiment(
    experiment_id: str, *, data: str, summary: pd.DataFrame | None = None, answer: str = "", last: str = ""
) -> str:
    """Of an experiment. Its first line is all that the UI shows of it, until it is unfolded.

    Args:
        experiment_id: its own.
        data: the study's parameter.
        summary: of the last study, as for `cells`; None where it has none.
        answer: of the last study; empty where it has none.
        last: a link to that study's run.
    """
    shown = _links_to_views(experiment_id)
    about = "\n".join(f"- **{key}**: {what}" for key, (_, what) in views.KEYS.items())
    first, others = _split(answer)
    question = "Does the visual evidence behind a classifier change under fine-tuning? No study has answered yet."
    return _paragraphs(
        [
            first_line(plain(first) or question, synthetic=is_synthetic(data)),
            plain(others),
            f"Open: {shown}" + (f" · last study: {last}" if last else ""),
            f"Data: {images_used(data)}.",
            f"{cells(summary)}\n\n{_HOW_TO_READ}" if summary is not None else "",
            about,
        ]
    )


def _split(text: str) -> tuple[str, str]:
    """The first sentence of a text, and the others."""
    found = re.match(r"(.+?[.!?])\s+(?=[A-Z])(.*)", text, re.DOTALL)
    return found.groups() if found else (text, "")


def model(architecture: str, *, experiment: str) -> str:
    """Of a registered model: one architecture of an experiment, a version a training."""
    return (
        f"{plain(architecture)}, fine-tuned in the experiment `{plain(experiment)}`. A version is one training: "
        "the tag `seed` says which, the alias `s<seed>` is on the last of each seed, and tags such as "
        "`layercam.overlap_median` say how far fine-tuning has moved its evidence, by attribution "
        "method."
    )


def model_version(architecture: str, seed: Any, *, experiment_id: str, train_run: str, data: str) -> str:
    """Of a version: where it comes from, and what it takes."""
    return _paragraphs(
        [
            f"{plain(architecture)}, seed {seed}, after fine-tuning, from "
            f"{run_link('its train run', experiment_id, train_run)}; {images_used(data)}.",
            "Its checkpoint is that run's artifact `checkpoints/after.keras`, which "
            "`mlflow.keras.load_model` gives; the one before fine-tuning, `before.keras`, is beside it. It "
            "takes grey images, 0 to 255, [n, side, side, 1].",
        ]
    )
