"""Notebooks run in the environment that starts them, whatever kernels and paths there are."""

import json
import sys

import nbformat
import pytest

from cxr.core import execution
from cxr.core.errors import InputError


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_somebody_elses_kernel_named_python3_is_not_taken(tmp_path, monkeypatch):
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    words = [sys.executable, "-c", "raise SystemExit('the other kernel')", "{connection_file}"]
    (other / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "x", "language": "python"}))
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    code = [
        "import sys, os\nprint(sys.executable, os.environ['OWN'])",
        "from cxr.core import execution\nexecution.check_kernel()",
    ]
    source = notebook(tmp_path / "{a} %41 #1.ipynb", *code)
    (tmp_path / "p.yaml").write_text("")
    executed = tmp_path / "out {seed}.ipynb"
    process = execution.start(
        execution.command(source, executed, params_file=tmp_path / "p.yaml"), {"OWN": "mine"}
    )
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"{sys.executable} mine" in said and len(execution.cells_of(executed)) >= 2


@pytest.mark.parametrize("parent", ["/other/venv:/other/cxr", ""])
def test_a_kernel_of_another_environment_is_refused(parent, monkeypatch):
    monkeypatch.delenv("CXR_PARENT", raising=False)
    execution.check_kernel()
    monkeypatch.setenv("CXR_PARENT", parent)
    with pytest.raises(InputError, match="this kernel has another Python or another copy of cxr"):
        execution.check_kernel()


def test_a_folder_that_begins_with_a_dash_is_no_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = execution.command(tmp_path / "a.ipynb", tmp_path / "-x" / "{b}.ipynb", params_file="p")
    assert words[-8:-6] == ["a.ipynb", "./-x/{{b}}.ipynb"]
