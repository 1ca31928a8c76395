"""Notebooks as files: their parameters, the papermill process that executes one, and its error."""

from __future__ import annotations

import ast
import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cxr.core import kernel_server, private_kernels
from cxr.core.errors import InputError
from cxr.core.files import from_here, parse

STAGES: dict[str, str] = {
    "pretrain": "0_pretrain",
    "lungs": "0_lungs",
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
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                values[target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, TypeError, AttributeError):
        raise InputError(f"{path}: the parameters cell may hold only `name = literal` lines") from None
    return values


def command(
    notebook: Path, executed: Path, *, params_file: str | Path = "", overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """The papermill command that executes a notebook into another file, with the parameters of a YAML file.

    `overrides` replace parameters of the file; without a file they are all.
    """
    words = [*_papermill(), _argument(notebook), _argument(executed)]
    words += ["-k", "python3", "--log-output", "--no-progress-bar"]
    words += ["-f", str(params_file)] if params_file else []
    # not JSON, whose pairs of surrogates YAML reads as two characters
    text = yaml.safe_dump(dict(overrides or {}), default_flow_style=True, width=10**9, sort_keys=False).strip()
    return [*words, "-y", text] if overrides else words


def _argument(path: Path) -> str:
    """A path as papermill takes it: it puts parameters in place of braces, and reads `-x` as an option."""
    text = from_here(path).replace("{", "{{").replace("}", "}}")
    return f"./{text}" if text.startswith("-") else text


def _papermill() -> list[str]:
    beside = Path(sys.executable).parent
    found = shutil.which("papermill")
    if found and Path(found).parent.samefile(beside):
        return ["papermill"]
    return [sys.executable, "-m", "papermill"]  # if the environment is not activated


def start(words: list[str], environment: Mapping[str, str]) -> subprocess.Popen:
    """Start papermill; read its output as text from `stdout`. `environment` is added to that of this process.

    The notebook's kernel is this Python, whatever kernels named `python3` this machine has; the notebook checks it
    (`check_kernel`). It listens to this user only (`private_kernels`).
    """
    everywhere = {**os.environ, **ENVIRONMENT, **environment}
    paths = [str(_kernels(everywhere)), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    own = {"JUPYTER_PATH": os.pathsep.join(paths), _PARENT: _this_python(), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-m", private_kernels.__name__, *words[words.index("papermill") + 1 :]],
        env={**everywhere, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # the caller passes Ctrl-C on
    )


def get_ready(environment: Mapping[str, str]) -> None:
    """Let the server of kernels import its libraries, while this process goes on. `environment`: as of `start`."""
    _kernels({**os.environ, **ENVIRONMENT, **environment})


def run_module(module: str, words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run `python -m module word ...` in a process of its own, and return what it printed, stderr included.

    The server of kernels forks it, where that is possible, as it has imported TensorFlow already. `environment`:
    as of `start`.
    """
    everywhere = {**os.environ, **ENVIRONMENT, **environment}
    command = [sys.executable, "-m", module, *words]
    with tempfile.TemporaryFile() as said:
        forked = False
        if kernel_server.supported():
            server = str(_kernels(everywhere) / _SERVER)
            with contextlib.suppress(OSError):  # it is lost
                outputs = (said.fileno(), said.fileno())
                kernel_server.Kernel(server, command, everywhere, os.getcwd(), outputs).wait()
                forked = True
        if not forked:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=everywhere)
        said.seek(0)
        return said.read().decode("utf-8", "replace")


_PARENT = "CXR_PARENT"  # environment variable: `_this_python` of the process that started papermill


_KERNELS: list[Path] = []
_SERVER = "server"  # the name of the socket of the server, in that folder
_STARTING = threading.Lock()


def _kernels(environment: Mapping[str, str]) -> Path:
    """A folder that Jupyter searches first, with the one kernel `python3`; deleted when this process exits.

    The kernels of this process are forked by one server (`kernel_server`), where that is possible. `environment`
    is that of the first notebook: the variables that libraries read when they are imported are the same for all.
    """
    with _STARTING:
        if not _KERNELS:
            folder = Path(tempfile.mkdtemp(prefix="cxr-kernels-", dir=kernel_server.room_for_sockets()))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            spec = {"argv": words, "display_name": "Python 3 (ipykernel)", "language": "python"}
            if kernel_server.supported():
                address = folder / _SERVER
                # without the run's id, by which `processes.stop_orphans` finds the processes of a run
                kernel_server.start(address, {k: v for k, v in environment.items() if k != "MLFLOW_RUN_ID"})
                config = {"provisioner_name": kernel_server.PROVISIONER, "config": {"address": str(address)}}
                spec["metadata"] = {"kernel_provisioner": config}
            (folder / "kernels" / "python3").mkdir(parents=True)
            (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
            _KERNELS.append(folder)
        return _KERNELS[0]


def _this_python() -> str:
    """The environment of this process, and the folder of this package."""
    return os.pathsep.join([os.path.realpath(sys.prefix), str(Path(__file__).resolve().parents[1])])


def check_kernel() -> None:
    """Raise InputError where this is the kernel of a notebook that another environment or checkout has started."""
    parent = os.environ.get(_PARENT)
    if parent not in (None, _this_python()):
        raise InputError(
            f"this kernel has another Python or another copy of cxr ({_this_python()}) than the command that "
            f"started the notebook ({parent}): remove the Jupyter kernel 'python3' that leads here "
            "(`jupyter kernelspec list`), and see that PYTHONPATH names no other copy"
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
