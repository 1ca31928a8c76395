"""Notebooks as files: their parameters, the papermill process that executes one, and its error."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.core import private_kernels
from cxr.core.errors import InputError
from cxr.core.files import from_here, parse

STAGES: dict[str, str] = {
    "pretrain": "0_pretrain",
    "train": "1_train",
    "attribute": "2_attribute",
    "score": "3_score",
    "compare": "4_compare",
    "drift": "5_drift",
}
"""The notebook of each stage."""

PROGRESS = "» "  # start of a progress line in the output of a notebook
RUN_LINE = "run "  # start of the first line in the log of a step
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}  # environment of every notebook


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook. Raises InputError if the file cannot be read or is no notebook."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise InputError(f"{path}: cannot read the notebook ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a Jupyter notebook (format 4)") from None


def parameters_of(path: Path) -> dict[str, Any]:
    """Names and values of the cell tagged `parameters`. Raises InputError if the notebook has none."""
    tagged = [cell for cell in cells_of(path) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise InputError(f"{path}: no cell is tagged 'parameters': tag the cell with the parameters")
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


def command(
    notebook: Path, executed: Path, *, params_file: str | Path, overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """The papermill command that executes a notebook into another file, with the parameters of a YAML file.

    `overrides` replace parameters of the file.
    """
    words = [*_papermill(), from_here(notebook), from_here(executed)]
    words += ["-k", "python3", "--log-output", "--no-progress-bar", "-f", str(params_file)]
    return [*words, "-y", json.dumps(overrides)] if overrides else words  # JSON is YAML


def _papermill() -> list[str]:
    beside = Path(sys.executable).parent
    found = shutil.which("papermill")
    if found and Path(found).parent.samefile(beside):
        return ["papermill"]
    return [sys.executable, "-m", "papermill"]  # if the environment is not activated


def start(words: list[str], environment: Mapping[str, str]) -> subprocess.Popen:
    """Start papermill; read its output as text from `stdout`. `environment` is added to that of this process.

    Its kernel listens to this user only (`private_kernels`).
    """
    own = [sys.executable, "-m", private_kernels.__name__, *words[words.index("papermill") + 1 :]]
    return subprocess.Popen(
        own,
        env={**os.environ, **ENVIRONMENT, **environment, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # the caller passes Ctrl-C on
    )


def error_of(notebook: Path) -> tuple[str, str] | None:
    """Type and message of the error in an executed notebook; None if there is none or the file is not whole."""
    try:
        cells = cells_of(notebook)
    except InputError:
        return None  # papermill ended before or while it wrote: the log says why
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    return (errors[0]["ename"], errors[0]["evalue"]) if errors else None


def last_line(log: Path) -> str:
    """The last line that papermill wrote to its log."""
    lines = log.read_text(encoding="utf-8").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith(RUN_LINE)]
    return said[-1] if said else "papermill said nothing"
