"""The folders of the package, and which may import which: read from the source, nothing is run."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from cxr.tracking import source as cv

ORDER = (
    *("cli", "study", "pair", "explore", "report", "training", "attribution", "tracking"),
    *("models", "metrics", "data", "statistics", "core"),
)
"""A folder imports from folders to the right of it, and from itself."""
MODULES = cv.modules(cv.PACKAGE)
OF_FOLDERS = {name: path for name, path in MODULES.items() if name.split(".")[0] in ORDER}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return {name: cv.imports_of(path) - {""} for name, path in MODULES.items()}


def folder(name: str) -> str:
    return name.split(".")[0]


def test_every_module_lies_in_a_folder_of_the_order():
    assert {folder(name) for name in MODULES if name} == {*ORDER, "api"}  # api: the public face, above all


def test_imports_run_downwards(imports):
    wrong = {
        name: above
        for name in OF_FOLDERS
        if (above := {other for other in imports[name] if ORDER.index(folder(other)) < ORDER.index(folder(name))})
    }
    assert wrong == {}, "these modules import from a folder above their own"


def test_an_upward_import_would_be_found(tmp_path):
    path = tmp_path / "cxr" / "core" / "errors.py"
    path.parent.mkdir(parents=True)
    for other in ("", "report", "core"):
        (tmp_path / "cxr" / other / "__init__.py").parent.mkdir(exist_ok=True)
        (tmp_path / "cxr" / other / "__init__.py").touch()
    (tmp_path / "cxr" / "report" / "verdicts.py").touch()
    path.write_text("def f():\n    from ..report.verdicts import table\n")
    assert cv.imports_of(path, tmp_path / "cxr") == {"report.verdicts"}


def test_no_circle_of_modules(imports):
    # an `__init__` that re-exports its own modules is no circle
    graph = {
        name: {other for other in others - {name} if not name.startswith(f"{other}.")}
        for name, others in imports.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize(
    ("library", "folders"),
    [
        ("mlflow", {"tracking"}),
        ("distributed", {"study"}),
        ("tensorflow", {"models", "training", "attribution"}),
        ("tf_keras_vis", {"attribution"}),
        ("papermill", {"core", "tracking"}),
        ("matplotlib", {"core", "data", "report", "explore"}),
    ],
)
def test_only_these_folders_import_a_library(library, folders):
    assert {folder(name) for name, path in OF_FOLDERS.items() if library in libraries(path)} <= folders


def libraries(path: Path) -> set[str]:
    """Top-level names of what a module imports at run time."""
    return {
        target.split(".")[0] for level, target in cv._analysed(path.read_text(encoding="utf-8"))[1] if not level
    }


def test_packages_say_which_question_they_answer():
    for name in ORDER:
        assert ast.get_docstring(ast.parse((cv.PACKAGE / name / "__init__.py").read_text())), name
