"""Kernels are forked by a server that has imported the libraries, and are processes of their own."""

import json
import os
import signal
import subprocess
import time

import nbformat
import psutil
import pytest

from cxr.core import execution, kernel_server

pytestmark = pytest.mark.skipif(not kernel_server.supported(), reason="kernels are forked on Linux without a GPU")

FRESH = """
import json, os, sys
from tensorflow.python.eager import context
found = {"parent": os.getppid(), "session": os.getsid(0) == os.getpid(), "own": os.environ.get("OWN"),
         "computed": context._context is not None and context._context._initialized,
         "imported": [name for name in ("tensorflow", "mlflow", "cxr") if name in sys.modules],
         "hash": hash("a"), "umask": os.umask(0o077), "folder": os.getcwd()}
import random
import numpy as np
found["random"] = [random.random(), np.random.random()]
print(json.dumps(found))
"""
SHOWN = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
BUSY = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\nwhile True: time.sleep(0.01)"


@pytest.fixture(scope="module", autouse=True)
def new_server():
    """A server of this file, whose Matplotlib shows figures as Jupyter does (conftest chooses Agg)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "_KERNELS", [])
        patch.delenv("MPLBACKEND")
        yield


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes a notebook and starts it; returns the process of papermill."""
    monkeypatch.chdir(tmp_path)
    started = []

    def run(*cells, name="a", **environment) -> subprocess.Popen:
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
        )
        nbformat.write(content, tmp_path / f"{name}.ipynb")
        words = execution.command(tmp_path / f"{name}.ipynb", tmp_path / f"{name}-out.ipynb")
        started.append(execution.start(words, environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def outputs(tmp_path):
    def read(name="a") -> list:
        cells = nbformat.read(tmp_path / f"{name}-out.ipynb", 4).cells
        return [output for cell in cells for output in cell.outputs]

    return read


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def busy_kernel(tmp_path) -> psutil.Process:
    return psutil.Process(int(wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())))


def test_kernels_of_one_server_share_nothing_but_imports(notebook, outputs, tmp_path):
    found = []
    for name in "ab":
        process = notebook(FRESH, SHOWN, name=name, OWN=name)
        log = process.communicate()[0]
        assert process.returncode == 0, log
        assert "lost" not in log and "NOTE" not in log
        said, shown = outputs(name)
        found.append(json.loads(said.text))
        assert "image/png" in shown.data
    one, other = found
    assert one["parent"] == other["parent"] != os.getpid()
    assert "kernel_server" in " ".join(psutil.Process(one["parent"]).cmdline())
    assert (one["own"], other["own"]) == ("a", "b") and one["session"]
    assert one["imported"] == ["tensorflow", "mlflow"]  # and not this package, whose files may change
    assert not one["computed"]
    assert one["hash"] == other["hash"]  # PYTHONHASHSEED
    assert one["random"][0] != other["random"][0] and one["random"][1] != other["random"][1]
    assert one["folder"] == str(tmp_path)


def test_the_server_is_not_taken_for_a_process_of_the_first_run(notebook, outputs):
    assert notebook(FRESH, MLFLOW_RUN_ID="0" * 32).communicate() and outputs()
    server = psutil.Process(json.loads(outputs()[0].text)["parent"])
    assert "MLFLOW_RUN_ID" not in server.environ()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_busy_kernel_ends_with_its_papermill(notebook, tmp_path, number):
    process = notebook(BUSY)
    kernel = busy_kernel(tmp_path)
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: not kernel.is_running())


def test_ctrl_c_reaches_the_kernel(notebook, tmp_path):
    # where tests run in the background, Ctrl-C may be switched off, and children would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = notebook(BUSY)
    finally:
        signal.signal(signal.SIGINT, before)
    kernel = busy_kernel(tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_for(lambda: not kernel.is_running())


def test_a_kernel_that_dies_is_reported(notebook):
    process = notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert "Kernel died" in process.communicate(timeout=120)[0]
    assert process.returncode != 0


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    server = kernel_server.start(tmp_path / "server", os.environ)
    try:
        server.stdin.close()  # as when this process ends, however it ends
        assert server.wait(timeout=120) == 0
    finally:
        server.kill()


def test_without_its_server_a_kernel_starts_and_the_log_says_so(notebook, outputs):
    notebook(FRESH).communicate()
    server = psutil.Process(json.loads(outputs()[0].text)["parent"])
    server.kill()
    process = notebook(FRESH)
    log = process.communicate()[0]
    assert process.returncode == 0 and "the server of kernels is lost" in log
    assert json.loads(outputs()[0].text)["parent"] == process.pid
