"""Which run already has the results that a step would give."""

from __future__ import annotations

from collections.abc import Callable

from cxr import tracking
from cxr.study.grid import Step


def find(
    step: Step,
    study: str,
    fingerprint: str,
    *,
    recorded: str = "",
    parent: str | None = None,
    has_notebook: Callable[[str], bool] = lambda run_id: False,
) -> tracking.StoredRun | None:
    """The complete run of this fingerprint, or None.

    If several runs have it, `recorded` is preferred to newer ones: a newer run would have another id, and so all
    later steps would run again. A compare run counts only with its report, or with the notebook that the report
    is made from.

    Args:
        study: the MLflow experiment.
        recorded: the run of this step when the study last ended; "" for none.
        parent: look only at runs below this one; None: at all runs of the experiment.
        has_notebook: whether the executed notebook of a compare run is there, although it is not logged.
    """
    found = tracking.find(step.stage, experiment=study, fingerprint=fingerprint, parent=parent)
    if step.stage == "compare":
        found = [run for run in found if has_report(run.run_id) or has_notebook(run.run_id)]
    return next((run for run in found if run.run_id == recorded), found[0] if found else None)


def has_report(run_id: str) -> bool:
    """Whether a compare run has its report, or the notebook that the report is made from."""
    return bool({"report.html", "notebook.ipynb"} & set(tracking.stored(run_id).artifacts()))
