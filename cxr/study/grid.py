"""The steps of a study: the grid as a list of notebooks, and how each notebook is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import tracking
from cxr.core import execution
from cxr.core.errors import InputError
from cxr.core.params import NOTEBOOKS, Params, StudyParams, read_yaml
from cxr.study import externals

_EXTERNAL = "external/"  # start of the keys of comparisons on external sets


@dataclass(frozen=True)
class Step:
    """One notebook to execute.

    Attributes:
        key: unique, such as "score/CompactDenseNet/s0/layercam".
        stage: a key of `tracking.STAGES`.
        parameters: values of this cell of the grid; they win over the parameter file's.
        needs: keys of the steps whose runs this step reads.
    """

    key: str
    stage: str
    parameters: Mapping[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def notebook(self) -> str:
        """The name of the notebook, without suffix."""
        return tracking.STAGES[self.stage]

    @property
    def name(self) -> str:
        """The name of the step's run."""
        return self.key.replace("/", " ")

    @property
    def file(self) -> str:
        """The name of the executed notebook and of its log, without suffix."""
        return self.key.replace("/", "-").replace(":", ".")

    @property
    def runs_network(self) -> bool:
        """Whether the notebook runs a network, on a GPU if there is one."""
        return self.stage in ("train", "attribute", externals.STAGE)

    @property
    def params(self) -> Mapping[str, Any]:
        """What its run can be told by, before the notebook starts."""
        if self.stage == externals.STAGE:
            return {"external": self.key.rsplit("/", 1)[-1]}
        return self.parameters


def plan(study: StudyParams) -> list[Step]:
    """The steps of a study, one cell of the grid after the other; every step follows those that it needs."""
    steps: list[Step] = []
    compared: list[str] = []
    elsewhere = {name: externals.parameters(study, name) for name in study.external}
    for architecture in study.architecture:
        for seed in study.seed:
            cell = f"{architecture}/s{seed}"
            train = Step(f"train/{cell}", "train", {"architecture": architecture, "seed": seed})
            attribute = Step(f"attribute/{cell}", "attribute", {}, (train.key,))
            steps += [train, attribute]
            for method in study.method:
                score = Step(f"score/{cell}/{method}", "score", {"method": method}, (attribute.key,))
                steps.append(score)
                compared.append(score.key)
            for name, parameters in elsewhere.items():
                external = Step(f"{_EXTERNAL}{cell}/{name}", externals.STAGE, parameters, (train.key,))
                steps.append(external)
                compared.append(external.key)
    steps.append(Step("compare", "compare", {}, tuple(compared)))
    return steps


@dataclass(frozen=True)
class Setup:
    """What all notebooks of a study have in common.

    In its methods, `runs` maps the keys of done steps to their run ids.

    Attributes:
        params_file: the study's YAML file.
        overrides: parameters that win over the file's (`--set`).
        notebooks: the folder of the notebooks.
        out: the folder for executed notebooks and their logs.
    """

    params_file: Path
    overrides: Mapping[str, Any]
    notebooks: Path
    out: Path

    def command(self, step: Step, runs: Mapping[str, str]) -> list[str]:
        """The papermill command of a step; `<key>` stands for a run that is not in `runs`."""
        ids = _run_ids(step, runs)
        if step.stage == externals.STAGE:  # it reads no parameter of a study by itself
            return execution.command(
                self.notebooks / f"{step.notebook}.ipynb",
                self.executed(step),
                overrides={**step.parameters, **ids},
            )
        lists = {**self.overrides, **{key: value for key, value in ids.items() if isinstance(value, list)}}
        words = execution.command(
            self.notebooks / f"{step.notebook}.ipynb",
            self.executed(step),
            params_file=self.params_file,
            overrides=lists,
        )
        for key, value in step.parameters.items():
            words += ["-p", key, str(value)]
        for key, value in ids.items():
            if isinstance(value, str):
                words += ["-r", key, value]  # papermill's -p would read an id such as 123e4567 as a number
        return words

    def settings(self, step: Step, runs: Mapping[str, str]) -> Params:
        """The validated parameters that the notebook of a step will have.

        The notebook's own defaults come first; the file, `overrides` and the step's parameters win over them.

        Raises:
            InputError: a value does not fit, or the notebook's parameters cell lacks a parameter that the study
                gives it (papermill would only warn of it).
        """
        path = self.notebooks / f"{step.notebook}.ipynb"
        own = execution.parameters_of(path)
        model = NOTEBOOKS[step.notebook]
        unknown = [name for name in own if name not in model.model_fields]
        if unknown:
            raise InputError(
                f"{path}: its parameters cell sets {', '.join(unknown)}, which is no parameter of this notebook: "
                "remove it there"
            )
        of_study = {} if step.stage == externals.STAGE else {**read_yaml(self.params_file), **self.overrides}
        given = {**of_study, **step.parameters, **_run_ids(step, runs)}
        missing = [name for name in given if name in model.model_fields and name not in own]
        if missing:
            raise InputError(
                f"{path}: its parameters cell (tagged 'parameters') lacks {', '.join(missing)}: add each there, "
                "with its default"
            )
        return model.check({**own, **given}, where=f"{self.params_file} ({step.key})")

    def fingerprint(self, step: Step, runs: Mapping[str, str], manifest_hash: str) -> str:
        """The fingerprint that the run of a step will have. Raises InputError as `settings` does."""
        inputs: dict[str, str] = {}
        for needs in _of_one_stage(step):
            inputs |= tracking.upstream(*(runs[key] for key in needs)) if needs else {}
        if not step.needs or step.stage == externals.STAGE:
            inputs["manifest"] = manifest_hash
        return tracking.fingerprint(step.stage, self.settings(step, runs), inputs, notebooks=self.notebooks)

    def executed(self, step: Step) -> Path:
        """Where the executed notebook of a step goes."""
        return self.out / f"{step.file}.ipynb"

    def log(self, step: Step) -> Path:
        """Where papermill's output goes."""
        return self.out / f"{step.file}.log"


def _run_ids(step: Step, runs: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a step that are run ids."""
    own, elsewhere = ([runs.get(key, f"<{key}>") for key in keys] for keys in _of_one_stage(step))
    if step.stage == "compare":
        return {"score_run_ids": own} | ({"external_run_ids": elsewhere} if elsewhere else {})
    names = {"attribute": "train_run_id", "score": "attribute_run_id", externals.STAGE: "train_run_id"}
    return {names[step.stage]: own[0]} if step.stage in names else {}


def _of_one_stage(step: Step) -> tuple[list[str], list[str]]:
    """The keys that a step needs, all of one stage; and those of comparisons on external sets."""
    elsewhere = [key for key in step.needs if key.startswith(_EXTERNAL)]
    return [key for key in step.needs if key not in elsewhere], elsewhere
