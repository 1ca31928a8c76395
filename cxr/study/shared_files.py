"""What workers share with the machine that runs a study: files under the same paths, code, and the store.

The study says what it uses (`used_by`), and every worker looks for it before it executes a notebook (`trouble`).
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr import tracking
from cxr.core.params import StudyParams
from cxr.tracking.source import package_version

if TYPE_CHECKING:
    import pandas as pd

RUNNING = ".running"  # the file in a study's folder that holds its runner's identity while it runs
_SAMPLES = 3  # images whose contents are compared
_WEIGHTS = (".h5", ".keras", ".npz")


@dataclass(frozen=True)
class Shared:
    """What a study uses.

    Attributes:
        host: of the study's runner.
        runner: its identity, which it has written to `<out>/.running`.
        version: `cxr.tracking.source.package_version` there.
        tracking_uri: of the store.
        out: the folder that executed notebooks and logs are written to.
        files: absolute paths and the SHA-256 of what they hold.
    """

    host: str
    runner: str
    version: str
    tracking_uri: str
    out: str
    files: dict[str, str]


def used_by(
    study: StudyParams,
    *,
    runner: str,
    tracking_uri: str,
    out: Path,
    params_file: Path,
    notebooks: Collection[Path],
    manifest: pd.DataFrame,
) -> Shared:
    """What a study uses; of images, a few stand for all.

    Args:
        runner: identity of the process that runs it. notebooks: the files.
        manifest: of `cxr.data.loading.build_manifest(study)`.
    """
    files = [params_file, *notebooks, *_images(study, manifest), *_weights(study.weights)]
    return Shared(
        host=socket.gethostname(),
        runner=runner,
        version=package_version(),
        tracking_uri=tracking_uri,
        out=str(out.absolute()),
        files={str(file.absolute()): tracking.contents(file) for file in files},
    )


def absolute(study: StudyParams) -> dict[str, str]:
    """The parameters of a study that are relative paths, as absolute ones: workers run in folders of their own."""
    given = {"data": study.data, "weights": study.weights}
    words = ("phantom", "imagenet", "source", "none")
    return {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path not in words}


def trouble(shared: Shared) -> str:
    """What this machine lacks to execute a study's notebooks, and what to do; empty for nothing.

    The store is not asked for here (`cxr.tracking.connect`), but a SQLite store must be on this very machine.
    """
    if package_version() != shared.version:
        return "has another version of the package cxr: install the one that the study is started with"
    if not tracking.is_server(shared.tracking_uri) and socket.gethostname() != shared.host:
        return (
            f"is on another machine ({socket.gethostname()}) than the study ({shared.host}), and the store "
            f"{shared.tracking_uri} is not for several: give --tracking-uri the address of an MLflow server that "
            "both reach (docs/server.md)"
        )
    advice = "all machines of a study share its files: have the same folder there under the same path"
    for name, sha256 in shared.files.items():
        try:
            found = tracking.contents(Path(name))
        except OSError as error:
            return f"cannot read {name} ({error.strerror}): {advice} (docs/cluster.md)"
        if found != sha256:
            return f"has another file at {name} than the study: {advice} (docs/cluster.md)"
    probe = Path(shared.out) / RUNNING
    try:
        if probe.read_text(encoding="utf-8") != shared.runner:
            raise FileNotFoundError
    except OSError:
        return f"does not see {probe}, which the study has written: {advice}, or choose another with --out"
    try:
        with tempfile.NamedTemporaryFile(dir=shared.out, prefix=".cxr-"):
            return ""
    except OSError as error:
        return f"cannot write to {shared.out} ({error.strerror}): let it, or choose another folder with --out"


def _images(study: StudyParams, manifest: pd.DataFrame) -> list[Path]:
    """A few of the images, and the table that lists them."""
    if study.data == "phantom":
        return []
    given = Path(study.data).expanduser()
    root = given if given.is_dir() else given.parent
    table = root / "manifest.csv" if given.is_dir() else given
    some = manifest["path"].iloc[:: max(1, len(manifest) // _SAMPLES)]
    return [*([table] if table.is_file() else []), *(root / path for path in some)]


def _weights(weights: str) -> list[Path]:
    """The files that `weights` names, as `cxr.models.weights.find_weights` looks for them; none for words."""
    path = Path(weights).expanduser()
    if weights in ("imagenet", "source", "none"):
        return []
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
    return [path] if path.is_file() else []
