"""What every worker must see: the study's files under the same paths, the same code, and the store.

`used_by` lists what a study uses. Every worker checks that list before its first notebook (`trouble`).
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr import tracking
from cxr.core.errors import without_password
from cxr.core.params import DriftParams, StudyParams
from cxr.data import manifest as data_manifest
from cxr.data import pseudonyms
from cxr.study import externals
from cxr.study import session as sessions
from cxr.study.grid import Step
from cxr.study.session import Session
from cxr.tracking.source import package_version

if TYPE_CHECKING:
    import pandas as pd

RUNNING = ".running"  # file in the folder of --out: the identity of the runner, while it runs
LOCK = ".lock"  # file there that the runner has locked
_SAMPLES = 3  # how many images are compared
_WEIGHTS = (".h5", ".keras", ".npz")


@dataclass(frozen=True)
class Shared:
    """What a study uses.

    Attributes:
        host: the machine of the study's runner.
        runner: the runner's identity, as in the file `<out>/.running`.
        version: `cxr.tracking.source.package_version` of the runner.
        tracking_uri: of the store.
        out: the folder for executed notebooks and logs.
        files: absolute paths to the SHA-256 of the contents.
    """

    host: str
    runner: str
    version: str
    tracking_uri: str
    out: str
    files: dict[str, str]


def used_by(session: Session, waiting: Sequence[Step]) -> Shared:
    """What a study uses: its files, but only a few of its images.

    Args: waiting: the steps that are not done; a worker needs only their notebooks.
    """
    setup = session.setup
    notebooks = sorted({setup.notebooks / f"{step.notebook}.ipynb" for step in waiting})
    images = [*_images(session.study, session.manifest), *pseudonyms.private_files(session.study.data)]
    for step in waiting:
        if step.stage == externals.STAGE:
            settings = DriftParams.check(step.parameters, where=step.name)
            images += [*_images(settings, session.externals[step.params["external"]])]
            images += pseudonyms.private_files(settings.data)
    files = list(dict.fromkeys([setup.params_file, *notebooks, *images, *_weights(session.study.weights)]))
    files += [Path(session.study.plan)] if session.study.plan else []
    return Shared(
        host=socket.gethostname(),
        runner=sessions.runner(),
        version=package_version(),
        tracking_uri=session.tracking_uri,
        out=str(setup.out.absolute()),
        files={str(file.absolute()): tracking.contents(file) for file in files},
    )


def absolute(study: StudyParams) -> dict[str, str]:
    """The parameters of a study that are paths, made absolute, since workers run in other folders."""
    given = {"data": study.data, "weights": study.weights, "plan": study.plan}
    words = ("phantom", "imagenet", "source", "none", "")
    paths = {name: path for name, path in given.items() if path not in words and not pseudonyms.is_neutral(path)}
    return {name: str(Path(path).expanduser().absolute()) for name, path in paths.items()}


def trouble(shared: Shared) -> str:
    """What this machine lacks to execute a study's notebooks, and what to do; empty for nothing.

    This does not connect to the store, but refuses a SQLite store on another machine.
    """
    if package_version() != shared.version:
        return "has another version of the package cxr: install the version that starts the study"
    if not tracking.is_server(shared.tracking_uri) and socket.gethostname() != shared.host:
        return (
            f"is on another machine ({socket.gethostname()}) than the study ({shared.host}), and the store "
            f"{without_password(shared.tracking_uri)} works on one machine only: give --tracking-uri the address "
            "of an MLflow server that both reach (docs/server.md)"
        )
    advice = "all machines must see the same files: mount the same folder there under the same path"
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
        return f"does not see {probe}, which the study wrote: {advice}, or choose another with --out"
    try:
        with tempfile.NamedTemporaryFile(dir=shared.out, prefix=".cxr-"):
            return ""
    except OSError as error:
        return f"cannot write to {shared.out} ({error.strerror}): allow it, or choose another folder with --out"


def _images(study: StudyParams | DriftParams, manifest: pd.DataFrame) -> list[Path]:
    """A few of the images, and the table that lists them, if there is one."""
    _, table = data_manifest.source(study)
    root = data_manifest.data_root(study)
    if root is None:
        return []
    some = manifest["path"].iloc[:: max(1, len(manifest) // _SAMPLES)]
    return [*([table] if table else []), *(root / path for path in some)]


def _weights(weights: str) -> list[Path]:
    """The files that `weights` names, as `cxr.models.weights.find_weights` looks for them; none for a word."""
    path = Path(weights).expanduser()
    if weights in ("imagenet", "source", "none"):
        return []
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
    return [path] if path.is_file() else []
