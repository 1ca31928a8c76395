import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_cxr5() -> Path:
    folder = PROJECT.parent / "shared" / "data" / "real-cxr5"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def new_store(tmp_path_factory):
    """A function that makes an MLflow store in a folder, and connects to it.

    It copies an empty database, as MLflow takes seconds to make one.
    """
    from cxr import tracking

    empty = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        tracking.connect(f"sqlite:///{empty}")

    def make(folder: Path, patch: pytest.MonkeyPatch) -> str:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # undone after the test, whatever `connect` sets
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        folder.mkdir(exist_ok=True)
        shutil.copyfile(empty, folder / "mlflow.db")
        return tracking.connect(f"sqlite:///{folder}/mlflow.db")

    return make
