"""Files of runs: logged with their hash, fetched and checked by it."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException

from cxr.core.errors import InputError, first_line
from cxr.core.execution import STAGES
from cxr.tracking.connection import ask, mlflow_client
from cxr.tracking.source import contents

if TYPE_CHECKING:
    from cxr.tracking.stored import StoredRun

HASHES = "sha256.json"
HASHES_TAG = "cxr.artifacts_sha256"
LATER = "cxr.sha256."
"""Prefix of the tags that hold the SHA-256 of files which another process logs, or this one after `Run.finish`:
the executed notebook, the report, a study's own files."""
ALL = {"cxr.hashes": "all"}
"""The tag of a run of which every file has a hash; runs of older versions lack it."""
_GRID = "images"  # MLflow's own folder of the image grid


def log_text(run_id: str, text: str, name: str) -> None:
    """Log a text file, as UTF-8, to any run, open or ended."""
    with new_file(run_id, name) as path:
        path.write_bytes(text.encode())
    _tag_later(run_id, name)


def log_file_as(run_id: str, path: str | Path, name: str) -> None:
    """Log a file to any run, open or ended, under another name."""
    with new_file(run_id, name) as copy:
        shutil.copyfile(path, copy)
    _tag_later(run_id, name)


def _tag_later(run_id: str, name: str) -> None:
    """Note the hash of a file in a tag, unless the run is open in this process: `Run.finish` then notes it."""
    active = mlflow.active_run()
    if active is None or active.info.run_id != run_id:
        mlflow_client().set_tag(run_id, f"{LATER}{name}", logged_hashes(run_id)[name])


@contextmanager
def new_file(run_id: str, name: str) -> Iterator[Path]:
    """A file to write, which is logged to a run as `name` at the end."""
    folder, _, base = name.rpartition("/")
    _check_artifact_path(name)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / base
        yield path
        log_to(run_id, path, folder)


def log_to(run_id: str, path: Path, folder: str) -> None:
    """Log a file, under its own name, and remember its hash."""
    name = f"{folder}/{path.name}" if folder else path.name
    _check_artifact_path(name)
    digest = contents(path)
    mlflow_client().log_artifact(run_id, str(path), folder or None)
    logged_hashes(run_id)[name] = digest


@functools.cache
def logged_hashes(run_id: str) -> dict[str, str]:
    """Artifact paths and SHA-256 of what this process has logged to a run; filled by `log_to`."""
    return {}


def _check_artifact_path(name: str) -> None:
    """Names may come from data: none leads out of the run's own folder."""
    parts = name.split("/")
    if not all(part.strip() for part in parts) or {".", ".."} & set(parts) or "\\" in name or "\0" in name:
        raise InputError(
            f"artifact '{name}': not a plain path within the run (a, a/b): leave out '..', empty parts and "
            "backslashes"
        )


def fetch(run: StoredRun, artifact_path: str) -> Path:
    """See `StoredRun.file`."""
    _check_artifact_path(artifact_path)
    # MLflow puts what it downloads under its last name: `maps/x` and `variants/x` are two things
    folder = scratch() / run.run_id / PurePosixPath(artifact_path).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = ask(
            mlflow.artifacts.download_artifacts,
            run_id=run.run_id,
            artifact_path=artifact_path,
            dst_path=str(folder),
        )
    except (MlflowException, OSError) as error:
        raise InputError(
            f"run {run.run_id} ({run.name}, {run.status}) has no artifact '{artifact_path}' that can be read: "
            f"{first_line(error)}. It holds: {', '.join(run.artifacts()) or 'nothing'}"
        ) from None
    if artifact_path != HASHES:
        _verify(run, artifact_path, Path(found))
    return Path(found)


def _verify(run: StoredRun, artifact_path: str, found: Path) -> None:
    """Raise InputError where a downloaded file or folder is not what the run logged.

    Within a folder of which the run logged some files, a missing or an added file counts as well. Files without a
    hash are taken as they are in runs that are open or failed, and in those of older versions.
    """
    later = {key.removeprefix(LATER): value for key, value in run.tags.items() if key.startswith(LATER)}
    closed = HASHES_TAG in run.tags
    logged = (_logged_by(run) if closed else {}) | later | logged_hashes(run.run_id)
    is_whole = ALL.items() <= run.tags.items() and (closed or run.stage == "study")
    within = {name for name in logged if name.startswith(f"{artifact_path}/")}
    files = {artifact_path: found}
    if found.is_dir():
        files = {f"{artifact_path}/{p.relative_to(found).as_posix()}": p for p in found.rglob("*") if p.is_file()}
    which = f"run {run.run_id} ({run.name})"
    advice = _again(run)
    for name in sorted(within - set(files)):
        raise InputError(f"{which}: artifact '{name}', which the run logged, is missing: {advice}")
    for name, path in sorted(files.items()):
        if name not in logged:
            if within or (is_whole and name.split("/")[0] != _GRID):
                raise InputError(f"{which}: artifact '{name}' was not logged by the run: remove it")
            continue
        digest = contents(path)
        if digest != logged[name]:
            raise InputError(
                f"{which}: artifact '{name}' is not the file that the run logged (sha256 {digest[:16]}… instead "
                f"of {logged[name][:16]}…): {advice}"
            )


def _logged_by(run: StoredRun) -> dict[str, str]:
    """The run's `sha256.json`, if it is the one that its tag tells of; this process fetches it once."""
    path = scratch() / run.run_id / HASHES
    if not path.is_file():
        fetch(run, HASHES)
    if contents(path) != run.tags[HASHES_TAG]:
        raise InputError(
            f"run {run.run_id} ({run.name}): '{HASHES}' is not the file that the run logged: {_again(run)}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _again(run: StoredRun) -> str:
    """Advice when a file of a run fails its hash check. A study reuses the run as long as it exists."""
    notebook = STAGES.get(run.stage, "its notebook")
    return f"restore it, or delete the run (`mlflow runs delete --run-id {run.run_id}`) and run {notebook} again"


def table_suffix(name: str) -> str:
    suffix = Path(name).suffix
    if suffix not in (".parquet", ".csv"):
        raise InputError(f"table '{name}': the name has to end in .parquet or .csv")
    return suffix


@functools.cache
def scratch() -> Path:
    """This process' own folder for files on their way into or out of runs; deleted when it exits."""
    folder = Path(tempfile.mkdtemp(prefix="cxr-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
