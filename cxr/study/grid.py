"""The steps of a study: its grid laid out as notebooks, each with the command that executes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import tracking
from cxr.core import execution
from cxr.core.errors import InputError
from cxr.core.params import NOTEBOOKS, Params, StudyParams, read_yaml


@dataclass(frozen=True)
class Step:
    """One notebook to execute.

    Attributes:
        key: unique, such as "score/CompactDenseNet/s0/layercam".
        stage: a key of `tracking.STAGES`.
        parameters: what the step lays over the parameter file, besides run ids: its cell of the grid.
        needs: keys of the steps whose runs it reads.
    """

    key: str
    stage: str
    parameters: Mapping[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def notebook(self) -> str:
        return tracking.STAGES[self.stage]

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.key.replace("/", " ")

    @property
    def file(self) -> str:
        """The name of its executed notebook and log, without suffix."""
        return self.key.replace("/", "-").replace(":", ".")


def plan(study: StudyParams) -> list[Step]:
    """The steps of a study, each after those that it needs; one cell of the grid after the other."""
    steps: list[Step] = []
    scores: list[str] = []
    for architecture in study.architecture:
        for seed in study.seed:
            cell = f"{architecture}/s{seed}"
            train = Step(f"train/{cell}", "train", {"architecture": architecture, "seed": seed})
            attribute = Step(f"attribute/{cell}", "attribute", {}, (train.key,))
            steps += [train, attribute]
            for method in study.method:
                score = Step(f"score/{cell}/{method}", "score", {"method": method}, (attribute.key,))
                steps.append(score)
                scores.append(score.key)
    steps.append(Step("compare", "compare", {}, tuple(scores)))
    return steps


def handed_over(step: Step, runs: Mapping[str, str]) -> dict[str, Any]:
    """The run ids that a step gets; `<key>` in place of one that is not in `runs`."""
    ids = [runs.get(key, f"<{key}>") for key in step.needs]
    if step.stage == "compare":
        return {"score_run_ids": ids}
    name = {"attribute": "train_run_id", "score": "attribute_run_id"}.get(step.stage)
    return {name: ids[0]} if name else {}


def command(
    step: Step,
    *,
    params_file: str | Path,
    overrides: Mapping[str, Any],
    out: str | Path,
    notebooks: Path,
    runs: Mapping[str, str],
) -> list[str]:
    """The papermill command of a step, as `run` runs it and `dry_run` prints it.

    `runs` maps keys of steps to their run ids; those that are missing stand as `<key>`.
    """
    ids = handed_over(step, runs)
    lists = {**overrides, **{key: value for key, value in ids.items() if isinstance(value, list)}}
    words = execution.command(
        notebooks / f"{step.notebook}.ipynb",
        Path(out) / f"{step.file}.ipynb",
        params_file=params_file,
        overrides=lists,
    )
    for key, value in step.parameters.items():
        words += ["-p", key, str(value)]
    for key, value in ids.items():
        if isinstance(value, str):
            words += ["-r", key, value]  # as it is: papermill's -p reads 123e4567… as a number
    return words


def settings(
    step: Step, *, params_file: Path, overrides: Mapping[str, Any], notebooks: Path, runs: Mapping[str, str]
) -> Params:
    """The validated parameters that the step's notebook will have: its own, the file's, the step's.

    Raises:
        InputError: a value does not fit, or the notebook does not have a parameter that it is given, which
            papermill only warns of.
    """
    path = notebooks / f"{step.notebook}.ipynb"
    own = execution.parameters_of(path)
    model = NOTEBOOKS[step.notebook]
    unknown = [name for name in own if name not in model.model_fields]
    if unknown:
        raise InputError(f"{path}: its parameters cell sets {', '.join(unknown)}, which is no parameter of it")
    given = {**read_yaml(params_file), **overrides, **step.parameters, **handed_over(step, runs)}
    missing = [name for name in given if name in model.model_fields and name not in own]
    if missing:
        raise InputError(
            f"{path}: its parameters cell (tagged 'parameters') lacks {', '.join(missing)}: add each there, "
            "with its default"
        )
    return model.check({**own, **given}, where=f"{params_file} ({step.key})")
