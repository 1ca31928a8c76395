"""Notebooks as files: their parameters, papermill's process that executes one, and the error that it left."""

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

PROGRESS = "» "  # how a progress line of a notebook starts
RUN_LINE = "run "  # how the first line of a step's log starts
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}  # of every notebook


def parameters_of(path: Path) -> dict[str, Any]:
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


def command(
    notebook: Path, executed: Path, *, params_file: str | Path, overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """The papermill command that executes a notebook into another file, with the parameters of a YAML file.

    `overrides` win over the file's parameters.
    """
    words = [*_papermill(), from_here(notebook), from_here(executed)]
    words += ["-k", "python3", "--log-output", "--no-progress-bar", "-f", str(params_file)]
    return [*words, "-y", json.dumps(overrides)] if overrides else words  # JSON is YAML


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
