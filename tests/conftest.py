import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_cxr5() -> Path:
    folder = PROJECT.parent / "shared" / "data" / "real-cxr5"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}")
    return folder
