"""Notebooks are files as JupyterLab writes them: to open, run nothing and save one changes nothing.

JupyterLab takes the kernel's description from the kernel that is running. What depends on the machine is left out
here: `language_info.version`, the kernel's version of Python.
"""

import nbformat
import pytest
from conftest import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 7


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_as_jupyterlab_writes_it(path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    # sorted keys, one space of indentation, characters as they are, sources as lists of lines, a final newline
    assert text == nbformat.writes(notebook) + "\n"
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_metadata_are_those_of_a_running_kernel(path):
    metadata = dict(nbformat.read(path, as_version=4).metadata)
    assert metadata.pop("kernelspec") == KERNELSPEC
    language = dict(metadata.pop("language_info"))
    assert language.pop("version").startswith("3.") and language == LANGUAGE
    assert not metadata, "left by a tool or an extension: remove it"


def test_the_kernels_description_is_the_installed_one():
    from ipykernel.kernelspec import get_kernel_dict

    spec = get_kernel_dict()
    assert {key: spec[key] for key in ("display_name", "language")} == {
        key: KERNELSPEC[key] for key in ("display_name", "language")
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_hold_no_results_and_short_stable_ids(path):
    cells = nbformat.read(path, as_version=4).cells
    stem = path.stem.split("_")[-1]
    for cell in cells:
        assert cell.id.startswith(f"{stem}-") and len(cell.id) <= 20, cell.id
        assert set(cell.metadata) <= {"tags"}, f"{cell.id}: JupyterLab's traces: {set(cell.metadata)}"
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{cell.id}: clear its output"
