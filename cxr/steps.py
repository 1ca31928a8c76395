"""The steps of a study: its grid laid out as notebooks, each with the command that executes it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import tracking
from cxr.errors import InputError
from cxr.files import parse
from cxr.params import NOTEBOOKS, Params, StudyParams, read_yaml

PROGRESS = "» "  # how a progress line of a notebook starts
RUN_LINE = "run "  # how the first line of a step's log starts
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}  # of every notebook


@dataclass(frozen=True)
class Step:
    """One notebook to execute.

    Attributes:
        key: unique, such as "score/CompactDenseNet/s0/layercam".
        stage: a key of `tracking.STAGES`.
        parameters: what the step lays over the parameter file, besides run ids: its box of the grid.
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
    words = [
        *_papermill(),
        from_here(notebooks / f"{step.notebook}.ipynb"),
        from_here(Path(out) / f"{step.file}.ipynb"),
        *("-k", "python3", "--log-output", "--no-progress-bar"),
        *("-f", str(params_file)),
    ]
    ids = handed_over(step, runs)
    lists = {**overrides, **{key: value for key, value in ids.items() if isinstance(value, list)}}
    if lists:
        words += ["-y", json.dumps(lists)]  # JSON is YAML
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
    own = notebook_parameters(path)
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


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and values of a notebook's cell tagged `parameters`. Raises InputError if it has none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise InputError(f"{path}: cannot read the notebook ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a Jupyter notebook (format 4)") from None
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise InputError(f"{path}: no cell is tagged 'parameters'")
    values = {}
    try:
        for statement in parse("".join(tagged[0]["source"])).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                values[statement.target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, TypeError):
        raise InputError(f"{path}: the parameters cell may hold only `name = literal` lines") from None
    return values


def from_here(path: Path) -> str:
    """The path as a person in this folder, which is the notebooks' own too, would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _papermill() -> list[str]:
    beside = Path(sys.executable).parent
    found = shutil.which("papermill")
    if found and Path(found).parent.samefile(beside):
        return ["papermill"]
    return [sys.executable, "-m", "papermill"]  # the environment is not activated


def start(words: list[str], environment: Mapping[str, str]) -> subprocess.Popen:
    """Start papermill; its output, as text, comes from `stdout`. `environment`: laid over this process' own."""
    return subprocess.Popen(
        words,
        env={**os.environ, **ENVIRONMENT, **environment, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is the caller's to pass on
    )


def error_of(notebook: Path) -> tuple[str, str] | None:
    """Kind and message of the error that an executed notebook holds; None if it holds none, or is not whole."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return None  # papermill died before, or while, it wrote: the log says why
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    return (errors[0]["ename"], errors[0]["evalue"]) if errors else None


def last_line(log: Path) -> str:
    """The last thing that papermill said."""
    lines = log.read_text(encoding="utf-8").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith(RUN_LINE)]
    return said[-1] if said else "papermill said nothing"
