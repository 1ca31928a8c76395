import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# for kernels and other processes: tiny_nets
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PROJECT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config, items):
    """Files of fast tests first. With several workers last, so that the workers end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    sign = -1 if hasattr(config, "workerinput") else 1
    items.sort(key=lambda item: sign * slow[item.path])


@pytest.fixture(scope="session")
def new_store(tmp_path_factory) -> Callable[[Path], str]:
    """Makes an MLflow store without runs in a folder, and returns its URI.

    MLflow takes ten seconds to make its tables, so it makes them once, and the others are copies.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    made = tmp_path_factory.mktemp("empty_store") / "mlflow.db"
    SqlAlchemyStore(f"sqlite:///{made}", str(made.parent / "artifacts"))

    def copy(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    return copy


@pytest.fixture(scope="session", autouse=True)
def private(tmp_path_factory):
    """The folder of the key of pseudonyms: not the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_PRIVATE", str(tmp_path_factory.mktemp("private")))
        yield


@pytest.fixture(scope="session")
def real_cxr5() -> Path:
    folder = PROJECT.parent / "shared" / "data" / "real-cxr5"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders with files made here (`data_files.write_folder`)."""
    from data_files import write_folder

    return write_folder(tmp_path / "images")


@pytest.fixture
def table(folder) -> Path:
    """A CSV file beside `folder` that lists its files (`data_files.list_files`)."""
    from data_files import list_files

    return list_files(folder)
