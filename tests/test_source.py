"""Which code counts for a notebook, on packages that are written here."""

import functools
import shutil
from pathlib import Path

import nbformat
import pytest

from cxr.core.errors import InputError
from cxr.core.execution import STAGES
from cxr.core.params import NOTEBOOKS
from cxr.tracking import provenance
from cxr.tracking import source as cv


def notebook(path: Path, *cells: str) -> Path:
    nodes = [nbformat.v4.new_code_cell(source) for source in ["# Parameters\nseed = 0", *cells]]
    nodes.insert(1, nbformat.v4.new_markdown_cell("Some words."))
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), path)
    return path


def package(folder: Path, **sources: str) -> Path:
    """A package `cxr` with modules by dotted name: `a__b` is a.b, `a` with modules below it is a/__init__."""
    root = folder / "cxr"
    names = {name.replace("__", "."): source for name, source in sources.items()}
    for name in ["", *names]:
        is_package = not name or any(other.startswith(f"{name}.") for other in names)
        parts = [*filter(None, name.split(".")), *(["__init__"] if is_package else [])]
        path = root.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(names.get(name, ""), encoding="utf-8")
    for below in [path for path in root.rglob("*") if path.is_dir()]:
        (below / "__init__.py").touch()
    return root


def changed_by(root: Path, module: str, notebooks: list[Path], **options) -> set[str]:
    """Names of the notebooks whose version another line of a module changes."""
    path = cv.modules(root)[module]
    before = {path: cv.code_version(path, package=root, **options) for path in notebooks}
    path.write_text(path.read_text() + "\nx = 1\n")
    return {path.stem for path in notebooks if cv.code_version(path, package=root, **options) != before[path]}


SOURCES = {
    "data__loading": "import numpy\nfrom cxr.core import params, errors",
    "data__splits": "",
    "models__build": "def build():\n    from ..data.loading import load\n    import cxr.core.files",
    "models__graph": "",
    "core__errors": "",
    "core__files": "",
    "core__params": "",
    "report__figures__maps": "from cxr.metrics import similarity",
    "report__figures__training": "",
    "metrics__similarity": "",
    "statistics__bootstrap": "import scipy.stats\nfrom . import draws",
    "statistics__draws": "",
    "tracking__run": "from cxr.core import params",
}


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("models.build", {"train"}),
        ("data.loading", {"train"}),  # imported by models.build, within a function, relatively
        ("data.splits", set()),  # beside a module that counts
        ("data", {"train"}),  # its __init__ runs on the way to data.loading
        ("models.graph", set()),
        ("core.errors", {"train"}),
        ("core.files", {"train"}),
        ("statistics.bootstrap", {"compare"}),
        ("statistics.draws", {"compare"}),
        ("report.figures.maps", {"compare"}),
        ("report.figures.training", set()),
        ("metrics.similarity", {"compare"}),  # imported by a figure
        ("tracking.run", set()),
        ("core.params", set()),  # values are settings
        ("", {"train", "compare"}),  # cxr/__init__
    ],
)
def test_version_is_of_the_modules_that_a_notebook_reaches(tmp_path, module, changed):
    root = package(tmp_path, **SOURCES)
    train = notebook(
        tmp_path / "train.ipynb",
        "%matplotlib inline\nfrom cxr.report.figures import training\nfrom cxr import tracking\n"
        "from cxr.models.build import build",
    )
    compare = notebook(
        tmp_path / "compare.ipynb", "import cxr.statistics.bootstrap as inf\nfrom cxr.report.figures import maps"
    )
    without = {"tracking", "core.params", "report.figures.training"}
    assert changed_by(root, module, [train, compare], without=without) == changed


def test_a_package_that_is_imported_by_itself_counts_with_all_its_modules(tmp_path):
    root = package(tmp_path, **SOURCES)
    whole = notebook(tmp_path / "whole.ipynb", "from cxr import data")
    for module in ("data", "data.loading", "data.splits", "core.errors"):
        assert changed_by(root, module, [whole]) == {"whole"}, module
    assert changed_by(root, "models.graph", [whole]) == set()
    everything = notebook(tmp_path / "everything.ipynb", "import cxr")
    assert changed_by(root, "models.graph", [everything]) == {"everything"}


def test_of_a_package_from_which_a_name_is_taken_all_imports_count(tmp_path):
    facade = "def __getattr__(name):\n    from cxr import api\n    return getattr(api, name)"
    root = package(tmp_path, api="from cxr.metrics import similarity", **SOURCES)
    (root / "__init__.py").write_text(facade)
    by_name = notebook(tmp_path / "by_name.ipynb", "from cxr import overlap")
    passing = notebook(tmp_path / "passing.ipynb", "from cxr.models import graph")
    assert changed_by(root, "api", [by_name, passing]) == {"by_name"}
    assert changed_by(root, "metrics.similarity", [by_name, passing]) == {"by_name"}
    assert changed_by(root, "models.graph", [by_name, passing]) == {"passing"}


def test_imports_for_type_checkers_do_not_count(tmp_path):
    source = "if typing.TYPE_CHECKING:\n    from cxr import b\nelse:\n    from cxr import c"
    root = package(tmp_path, a=source, b="", c="")
    one = notebook(tmp_path / "one.ipynb", "from cxr import a")
    assert changed_by(root, "b", [one]) == set()
    assert changed_by(root, "c", [one]) == {"one"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import cxr", {""}),
        ("import cxr.data, os", {"data"}),
        ("import cxr.data.loading as d", {"data.loading"}),
        ("from cxr import data, tracking as t", {"data", "tracking"}),
        ("from cxr.models.build import build", {"models.build"}),
        ("from cxr.models import build, nothing", {"models.build", "models"}),
        ("from . import build", {"models.build"}),
        ("from .build import curve", {"models.build"}),
        ("from ..data import loading", {"data.loading"}),
        ("from .. import tracking", {"tracking"}),
        ("import cxrlib; from cxrlib import data; from other.cxr import x", set()),
        ("def f():\n    if 1:\n        from cxr.data.splits import draw", {"data.splits"}),
    ],
)
def test_imports_of_a_module(tmp_path, source, expected):
    root = package(tmp_path, **{**SOURCES, "models__graph": source})
    assert cv.imports_of(root / "models" / "graph.py", root) == expected


BASE = '''"""A module."""
from __future__ import annotations

LIMIT = 0.5
"""What it is."""


def judge(x: float) -> bool:
    """Whether x is high.

    More."""
    if x < 0:
        raise ValueError(f"x: from 0, got {x}")  # a limit
    return x > LIMIT
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("A module.", "Another one.", True),
        ('"""What it is."""\n', "", True),
        ("Whether x is high.\n\n    More.", "High?", True),
        ("  # a limit", "", True),
        ("x: from 0, got {x}", "x must be 0 or more, not {x}", True),
        ("\n\n\ndef", "\n\n\n\n# next\ndef", True),
        ("return x > LIMIT", "return (x > LIMIT)", True),
        ("ValueError", "TypeError", False),
        ("0.5", "0.50001", False),
        ("x > LIMIT", "x >= LIMIT", False),
        ("x < 0", "x < 0.0", False),
        ("x: float", "x: int", False),
    ],
)
def test_words_do_not_count_and_code_does(tmp_path, old, new, same):
    assert old in BASE
    versions = set()
    for number, source in enumerate((BASE, BASE.replace(old, new))):
        root = package(tmp_path / str(number), a=source)
        versions.add(cv.code_version(notebook(tmp_path / "n.ipynb", "from cxr import a"), package=root))
    assert (len(versions) == 1) is same


def test_a_function_of_words_alone_is_like_an_empty_one():
    assert cv.cell_version('def f():\n    """Words."""') == cv.cell_version('def f():\n    """Other words."""')


def test_version_is_of_code_cells_only(tmp_path):
    root = package(tmp_path, a="")
    path = notebook(tmp_path / "n.ipynb", "from cxr import a", "!ls\na.x  # words")
    before = cv.code_version(path, package=root)
    content = nbformat.read(path, as_version=4)
    content.cells[0].source = "# Parameters\nseed = 5"
    content.cells[1].source = "Other words."
    content.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
    content.cells[2].execution_count = 3
    content.cells[3].source = "!ls\na.x  # other words"
    nbformat.write(content, path)
    assert cv.code_version(path, package=root) == before
    for source in ("!ls\na.y", "!ls -l\na.x"):
        content.cells[3].source = source
        nbformat.write(content, path)
        assert cv.code_version(path, package=root) != before


def test_line_ends_do_not_count(tmp_path):
    root = package(tmp_path, a="x = 1\ny = 2\n")
    path = notebook(tmp_path / "n.ipynb", "from cxr import a")
    before, whole = cv.code_version(path, package=root), cv.package_version(root)
    (root / "a.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert cv.code_version(path, package=root) == before
    assert cv.package_version(root) == whole


def test_files_that_a_module_reads_count_with_it(tmp_path):
    root = package(tmp_path, models__weights="", models__other="")
    shipped = root / "models" / "pretrained" / "a.npz"
    shipped.parent.mkdir()
    shipped.write_bytes(b"1")
    paths = [
        notebook(tmp_path / f"{name}.ipynb", f"from cxr.models import {name}") for name in ("weights", "other")
    ]
    before = [cv.code_version(path, package=root) for path in paths]
    shipped.write_bytes(b"2")
    after = [cv.code_version(path, package=root) for path in paths]
    assert after[0] != before[0] and after[1] == before[1]


def test_package_version_is_of_all_files_at_any_depth(tmp_path):
    root = package(tmp_path, **SOURCES)
    seen = {cv.package_version(root)}
    (root / "report" / "figures" / "maps.py").write_text("# words count here: it is about the same files")
    seen.add(cv.package_version(root))
    (root / "models" / "a.npz").write_bytes(b"1")
    seen.add(cv.package_version(root))
    (root / "models" / "__pycache__").mkdir()
    (root / "models" / "__pycache__" / "graph.pyc").write_bytes(b"1")
    seen.add(cv.package_version(root))
    assert len(seen) == 3


def test_of_nothing(tmp_path):
    with pytest.raises(InputError, match="9_none.ipynb: cannot read the notebook"):
        cv.code_version(tmp_path / "9_none.ipynb")
    (tmp_path / "text.ipynb").write_text("[]")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        cv.code_version(tmp_path / "text.ipynb")
    with pytest.raises(InputError, match="a code cell is not Python"):
        cv.code_version(notebook(tmp_path / "n.ipynb", "this is no Python"))


def test_each_source_is_read_into_a_tree_once_a_process(tmp_path, monkeypatch):
    root = package(tmp_path, a="value = 'read once'", b="from cxr import a")
    path = notebook(tmp_path / "n.ipynb", "from cxr import b, a  # read once")
    parsed = []
    monkeypatch.setattr(cv, "parse", lambda source: parsed.append(source) or __import__("ast").parse(source))
    first = cv.code_version(path, package=root)
    seen = len(parsed)
    assert seen and cv.code_version(path, package=root) == first and len(parsed) == seen
    (root / "a.py").write_text("value = 'changed meanwhile'")
    assert cv.code_version(path, package=root) != first and len(parsed) == seen + 1


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [("core.methods", '"Grad-CAM++"', '"Grad CAM, second"'), ("core.tables", '"AUC before"', '"AUC, before"')],
)
def test_a_label_in_other_words_makes_only_the_report_out_of_date(tmp_path, monkeypatch, module, old, new):
    root = shutil.copytree(cv.PACKAGE, tmp_path / "cxr")
    monkeypatch.setattr(provenance, "code_version", functools.partial(cv.code_version, package=root))

    def fingerprints():
        return {
            stage: provenance.fingerprint(stage, NOTEBOOKS[name](), {})
            for stage, name in STAGES.items()
            if stage in ("train", "attribute", "score", "compare")
        }

    before = fingerprints()
    path = cv.modules(root)[module]
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")
    after = fingerprints()
    assert {stage for stage in before if after[stage] != before[stage]} == {"compare"}


def test_the_package_itself(tmp_path):
    """What the train notebook reaches, by its real source: models and training, and nothing that draws or logs."""
    path = Path(__file__).resolve().parent.parent / "notebooks" / "1_train.ipynb"
    cells = (target for cell in cv.code_cells(path) for _, target in cv._analysed(cv._without_magics(cell))[1])
    reached = cv._reached(set(cells), cv.modules(cv.PACKAGE), "cxr", cv.NOT_IN_CODE)
    assert {"models.build", "training.stages", "data.loading", "models.graph", "training.fitting"} <= reached
    runs = [name for name in reached if name.split(".")[0] in ("cli", "report", "study", "tracking")]
    assert set(runs) <= {"report"}  # its __init__, on the way to figures
