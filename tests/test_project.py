"""What has to agree between files: versions, notebooks and parameters."""

import json
import re
import tomllib

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cxr.core import execution
from cxr.core.params import NOTEBOOKS, StudyParams

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
LOCK = [Requirement(line) for line in (PROJECT / "requirements.lock").read_text().splitlines() if line.strip()]


def test_every_dependency_is_pinned_once_per_platform_and_within_its_range():
    extras = PYPROJECT["optional-dependencies"].values()
    for wanted in map(Requirement, [*PYPROJECT["dependencies"], *(item for extra in extras for item in extra)]):
        pins = [pin for pin in LOCK if pin.name.lower() == wanted.name.lower()]
        assert pins, f"{wanted.name} is not in requirements.lock: run `make lock`"
        for pin in pins:
            versions = [spec.version for spec in pin.specifier if spec.operator == "=="]
            assert len(versions) == 1 and wanted.specifier.contains(versions[0]), f"{pin} does not fit {wanted}"


def test_the_lock_has_no_addresses():
    text = (PROJECT / "requirements.lock").read_text()
    assert "://" not in text and not re.search(r"^\s*--", text, re.M)


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = next(item for item in conda if item.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PYPROJECT["requires-python"])
    assert pip["pip"] == ["-c requirements.lock", "-e .[dev]"]
    assert sum("==" in item for item in conda) == 0


def test_gpu_extra():
    assert PYPROJECT["optional-dependencies"]["gpu"][0].startswith("tensorflow[and-cuda]")


def test_ci_runs_the_readmes_test_command():
    assert (
        "make test" in (PROJECT / ".ci" / "run").read_text() and "make test" in (PROJECT / "README.md").read_text()
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_clean_and_their_defaults_are_the_packages(name):
    notebook = json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and "".join(tagged[0]["source"]).startswith("# Parameters\n")
    defaults = NOTEBOOKS[name]().model_dump()
    assert execution.parameters_of(PROJECT / "notebooks" / f"{name}.ipynb") == defaults
    assert notebook["cells"][0]["cell_type"] == "markdown"


@pytest.mark.parametrize("path", sorted((PROJECT / "params").glob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_are_valid_and_say_what_they_are(path):
    StudyParams.read(path)
    assert path.read_text().startswith("# ")


def test_the_makefile_names_files_that_are_there():
    names = re.findall(r"(?<![\w/$])[\w/]+\.(?:yaml|py|toml|lock)\b", (PROJECT / "Makefile").read_text())
    assert "params/quick.yaml" in names and "docs/examples/render.py" in names
    assert [name for name in names if not (PROJECT / name).exists()] == []


def test_a_first_result_is_of_trained_networks():
    study = StudyParams.read(PROJECT / "params" / "quick.yaml")
    assert (study.data, study.weights) == ("phantom", "source") and study.map_check_images >= 50


def test_scoring_and_comparing_do_not_need_tensorflow():
    import subprocess
    import sys

    from cxr.tracking import source

    folders = ("cli", "core", "data", "explore", "metrics", "report", "statistics", "study", "tracking")
    names = [name for name in source.modules(source.PACKAGE) if name.split(".")[0] in folders]
    imports = ", ".join(f"cxr.{name}" for name in [*names, "attribution.maps"] if not name.endswith("__main__"))
    script = f"import sys, {imports}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT).returncode == 0
