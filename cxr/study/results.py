"""What a study prints and describes at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cxr import tracking
from cxr.core.files import from_here
from cxr.core.terminal import wrapped
from cxr.study import report_page, study_run
from cxr.study.console import say
from cxr.study.session import Session, State
from cxr.tracking import descriptions

if TYPE_CHECKING:
    import pandas as pd

_OF_THE_ANSWER = ("cxr.answer", "cxr.synthetic")  # tags of a compare run


def table(runs: Mapping[str, str]) -> pd.DataFrame | None:
    """The study's table: the compare run's `summary.csv`, or one row per score run; None if there is neither.

    Args:
        runs: keys of steps (see `grid.plan`) to run ids.

    Returns: columns `architecture`, `method`, `seeds` or `seed`, and the metrics of the score runs
        (`auc_macro_before`, `overlap_median`, ...), and `map_check` (yes, no, not checked).
    """
    import pandas as pd

    from cxr.report import headlines

    compare = tracking.stored(runs["compare"]) if "compare" in runs else None
    if compare is not None and compare.has("summary.csv"):
        return compare.table("summary.csv")
    rows = []
    for key, run_id in runs.items():
        stage, *cell = key.split("/")
        if stage == "score":
            run = tracking.stored(run_id)
            names = [name for name in headlines.HEADLINE if name not in headlines.OF_SEVERAL_RUNS]
            values = {name: run.metrics.get(name) for name in names}
            cell = {"architecture": cell[0], "method": cell[2], "seed": cell[1].removeprefix("s")}
            rows.append(
                {**cell, **values, "map_check": _CHECKED.get(run.params.get("passes_checks"), "not checked")}
            )
    return pd.DataFrame(rows) if rows else None


_CHECKED = {"True": "yes", "False": "no"}


def in_text(headline: pd.DataFrame, *, level: float) -> str:
    """The study's table for the terminal, by `tables.in_sections`.

    `headline`: of `table`, a row a network and method, or a row a score run.
    """
    from cxr.core import tables

    again = "two_seeds" if "overlap_two_seeds_median" in headline else "two_heads"
    cells = {
        "network": headline["architecture"],
        "method": headline["method"],
        **({"seed": headline["seed"]} if "seed" in headline else {}),
        "AUC before\nand after": tables.numbers(headline, "auc_macro_before", "auc_macro_after", digits=3),
        f"overlap\n[{tables.percent(level)} interval]": tables.numbers(
            headline, "overlap_median", interval="overlap"
        ),
        "two\npatients": tables.numbers(headline, "overlap_two_patients_median"),
        again.replace("_", "\n"): tables.numbers(headline, f"overlap_{again}_median"),
        "corrected\noverlap": tables.numbers(headline, "overlap_corrected_median"),
    }
    return tables.in_sections(headline[[]].assign(**cells), headline["map_check"].tolist())


def describe(session: Session, state: State) -> None:
    """Make the study readable in the MLflow UI.

    Writes the descriptions of the study's run and of the experiment, logs the study's main numbers as metrics of
    its run, and, if nothing failed, marks its runs as those that the experiment's views show.
    """
    from cxr.data.manifest import classes

    name, data = session.study.name, session.study.data
    experiment = tracking.experiment_id(name)
    done = _in_order(session, state)
    compare = tracking.stored(done["compare"]) if "compare" in done else None
    artifacts = compare.artifacts() if compare else []
    summary = compare.table("summary.csv") if "summary.csv" in artifacts else None
    answer = {key: compare.tags[key] for key in _OF_THE_ANSWER if key in compare.tags} if compare else {}
    tracking.set_tags(state.parent, answer)
    if summary is not None:
        tracking.log_metrics(state.parent, study_run.headline_metrics(summary))
    changed, before = study_run.changed(session)
    text = descriptions.study(
        name,
        data=data,
        summary=summary,
        answers=compare.table("questions.csv") if "questions.csv" in artifacts else None,
        answer=answer.get("cxr.answer", ""),
        n_runs=sum(step.key in done for step in session.steps),
        experiment_id=experiment,
        report_run=compare.run_id if compare else "",
        figure_run=compare.run_id if descriptions.FIGURE in artifacts else "",
        failures=state.failures,
        differs=descriptions.differs(changed, before),
    )
    tracking.describe_run(state.parent, text)
    if not state.failures:
        study_run.publish_grid(state.parent, done, summary)
    last = tracking.stored(state.parent).link
    text = descriptions.experiment(
        experiment, data=data, summary=summary, answer=answer.get("cxr.answer", ""), last=last
    )
    tracking.describe_experiment(
        name,
        text,
        methods=session.study.method,
        classes=classes(session.manifest),
        study="" if state.failures else state.parent,
    )


def show(session: Session, state: State) -> None:
    """Print the answer, the table, the questions' answers, where the report and the runs are, and what failed.

    Writes `report.html`.
    """
    compare = tracking.stored(state.runs["compare"]) if "compare" in state.runs else None
    if compare is not None and compare.has("answer.txt"):
        say("\n" + wrapped(compare.file("answer.txt").read_text(encoding="utf-8").strip()))
    headline = table(_in_order(session, state))
    if headline is not None:
        say("\n" + in_text(headline, level=session.study.level))
    if compare is not None:
        html = session.setup.out / "report.html"
        report_page.fetch(compare.run_id, html)
        if compare.has("questions.csv"):
            from cxr.core import tables

            say("\n" + tables.text(compare.table("questions.csv")[["question", "answer"]]))
        say(f"\nreport: {from_here(html)}")
    say(
        wrapped(
            f"runs:   {tracking.ui_command(session.tracking_uri)}  (experiment '{session.study.name}')", hang=8
        )
    )
    if state.failures:
        say(f"\n{len(state.failures)} of {len(session.steps)} notebooks failed or were not run:")
        for key, reason in state.failures.items():
            say(wrapped(f"  {key}: {reason}", hang=2))
        say("Fix the cause and run the same command again: it skips what is done.")


def _in_order(session: Session, state: State) -> dict[str, str]:
    """Keys of done steps to run ids, in the order of the plan."""
    return {step.key: state.runs[step.key] for step in session.steps if step.key in state.runs}
