"""What a user types, for tests. It runs in this process, so that all notebooks share its one server of kernels."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import PROJECT

from cxr.cli import main
from cxr.core import execution


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def cxr(*words, store: Path, code: int = 0, folder: Path = PROJECT) -> Done:
    """`cxr word ...` in a folder, with the MLflow store and the cache in the folder `store`."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with _at(folder, store), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        found = main.main([str(word) for word in words])
    done = Done(stdout.getvalue(), stderr.getvalue())
    assert found == code, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def papermill(*words, store: Path, fails: bool = False, folder: Path = PROJECT) -> str:
    """`papermill word ... --log-output`, and what it printed, stderr included."""
    with _at(folder, store):
        process = execution.start(["papermill", *map(str, words), "--no-progress-bar", "--log-output"], {})
        said = process.communicate()[0]
    assert (process.returncode != 0) is fails, said[-6000:]
    return said


@contextlib.contextmanager
def _at(folder: Path, store: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
        patch.setenv("CXR_CACHE", os.fspath(store / "cache"))
        patch.chdir(folder)
        yield
