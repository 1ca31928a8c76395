"""Notebooks run with kernels that no other user of the machine can listen to."""

import json
import os

import nbformat
import pytest

from cxr.core import execution

CELL = """
import json, os, psutil, stat, sys
from pathlib import Path
from ipykernel.connect import get_connection_info
info = get_connection_info(unpack=True)
folder = Path(info["ip"]).parent
sockets = [path for path in folder.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
print(json.dumps({"transport": info["transport"], "mode": folder.stat().st_mode & 0o777, "sockets": len(sockets),
                  "here": sorted(os.listdir())}))
"""


@pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
@pytest.mark.parametrize("temporary", ["short", "l" * 120])
def test_a_kernel_listens_in_a_folder_of_this_user_only(tmp_path, monkeypatch, temporary):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(CELL)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "a.ipynb")
    (tmp_path / "p.yaml").write_text("{}\n")
    (tmp_path / temporary).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / temporary))  # also where the paths of sockets would be too long
    monkeypatch.chdir(tmp_path)
    words = execution.command(tmp_path / "a.ipynb", tmp_path / "b.ipynb", params_file=tmp_path / "p.yaml")
    with execution.start(words, {}) as process:
        log = process.stdout.read()
    assert process.returncode == 0, log
    [output] = [cell.outputs for cell in nbformat.read(tmp_path / "b.ipynb", 4).cells if cell.outputs]
    found = json.loads(output[0].text)
    assert (found["transport"], found["mode"]) == ("ipc", 0o700) and found["sockets"] >= 5
    assert not [name for name in found["here"] if "ipc" in name or "kernel" in name]
    assert not list((tmp_path / temporary).glob("cxr-*"))  # nothing is left
