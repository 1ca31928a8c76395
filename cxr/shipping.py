"""A study's images and weights on their way to workers that do not have them: packed into a run, unpacked from it.

The files go as they are, with the paths that they have within the data's folder, so that a worker finds the very
same manifest in them. What was unpacked is kept in the worker's cache, once for a data set.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from cxr import data, store, tracking
from cxr.console import progress
from cxr.errors import InputError
from cxr.files import atomic

_PART_BYTES = 2**28  # of files, in one archive: what is sent, or sent again, at once
_FOLDER = "data"
_INDEX = f"{_FOLDER}/index.json"


def visible(path: str, manifest_csv: str, samples: int = 3) -> bool:
    """Whether this machine has the images of a study at `path` (`data` of its parameters).

    Args: manifest_csv: the text of the manifest. samples: of how many images the contents are compared.
    """
    import io

    if path == "phantom":
        return True
    manifest = pd.read_csv(io.StringIO(manifest_csv), dtype=str, keep_default_na=False)
    root = _root(Path(path).expanduser())
    rows = manifest.iloc[:: max(1, len(manifest) // samples)]
    return all(
        (root / row.path).is_file() and tracking.contents(root / row.path) == row.sha256
        for row in rows.itertuples()
    )


def publish(run_id: str, settings: Any, manifest: pd.DataFrame) -> None:
    """Log the files of a study to its run, unless they are there: images, masks, tables, and files of weights.

    Args:
        run_id: of any run, open or ended.
        settings: with `data` and `weights`.
        manifest: of `data.build_manifest(settings)`.
    Raises: InputError when a file lies outside of the data's folder: it would have another path elsewhere.
    """
    given = Path(settings.data).expanduser()
    digest = data.manifest_hash(manifest)
    if f"{_FOLDER}/" in tracking.artifacts(run_id) and _index(run_id)["manifest"] == digest:
        return
    root = _root(given)
    files = _files(given, root, manifest)
    total = sum((root / name).stat().st_size for name in files)
    parts, sent = [], 0
    for number, names in enumerate(_parts(root, files)):
        archive = tracking.scratch() / f"part-{number:05d}.tar"
        with tarfile.open(archive, "w") as tar:
            for name in names:
                tar.add(root / name, arcname=name, recursive=False)
        sent += archive.stat().st_size
        parts.append({"name": archive.name, "sha256": tracking.contents(archive)})
        tracking.log_file_as(run_id, archive, f"{_FOLDER}/{archive.name}")
        archive.unlink()
        progress(f"images for the workers: {sent / 2**20:.0f} of {total / 2**20:.0f} MiB are in the store")
    weights = _weights_files(settings.weights)
    for file in weights:
        tracking.log_file_as(run_id, file, f"{_FOLDER}/weights/{file.name}")
    index = {
        "manifest": digest,
        "data": "" if given.is_dir() else given.name,
        "parts": parts,
        "weights": {file.name: tracking.contents(file) for file in weights},
        "weights_is_file": Path(settings.weights).expanduser().is_file(),
    }
    tracking.log_text(json.dumps(index, indent=1), _INDEX, run_id=run_id)


def fetch(run_id: str, manifest_hash: str) -> dict[str, str]:
    """What `publish` logged, unpacked in this machine's cache; one process does it, others wait.

    Returns: the parameters `data` and, if there are files of weights, `weights`, as they are on this machine.
    Raises: InputError when the run does not hold these images, or a file is not the one that was sent.
    """
    folder = data.default_cache() / "studies" / manifest_hash[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    index = _index(run_id)
    if index["manifest"] != manifest_hash:
        raise InputError(f"run {run_id} holds other images than the study's: give the study's command again")
    with store.locked(folder.with_name(f"{folder.name}.lock"), lambda: progress("waiting for the images")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "images").mkdir(parents=True)
            for number, part in enumerate(index["parts"], start=1):
                archive = _checked(run_id, f"{_FOLDER}/{part['name']}", part["sha256"])
                with tarfile.open(archive) as tar:
                    tar.extractall(folder / "images", filter="data")
                archive.unlink()
                progress(f"images of the study: part {number} of {len(index['parts'])} is here")
            (folder / "complete").touch()
        weights = folder / "weights"
        weights.mkdir(exist_ok=True)
        for name, digest in index["weights"].items():
            if not (weights / name).is_file() or tracking.contents(weights / name) != digest:
                with atomic(weights / name) as temporary:
                    shutil.copyfile(_checked(run_id, f"{_FOLDER}/weights/{name}", digest), temporary)
    found = {"data": str(folder / "images" / index["data"])}
    if index["weights"]:
        only = next(iter(index["weights"])) if index["weights_is_file"] else ""
        found["weights"] = str(weights / only)
    return found


def _index(run_id: str) -> dict[str, Any]:
    return json.loads(tracking.fetch(run_id, _INDEX).read_text(encoding="utf-8"))


def _checked(run_id: str, name: str, sha256: str) -> Path:
    path = tracking.fetch(run_id, name)
    if tracking.contents(path) != sha256:
        raise InputError(f"run {run_id}: artifact '{name}' is damaged: delete it, and give the command again")
    return path


def _root(given: Path) -> Path:
    return given if given.is_dir() else given.parent


def _files(given: Path, root: Path, manifest: pd.DataFrame) -> list[str]:
    """Paths within `root` of all that the manifest was made of, sorted."""
    names = {path for column in ("path", *data.MASKS) if column in manifest for path in manifest[column] if path}
    names |= {row["path"] for row in manifest.attrs.get("skipped", []) if (root / row["path"]).is_file()}
    table = root / "manifest.csv" if given.is_dir() else given
    if table.is_file():
        names.add(table.name)
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise InputError(
            f"data: {len(outside)} files lie outside of {root}, such as {sorted(outside)[0]}, and the workers do "
            "not have them: give paths relative to the table, or put the images where every worker has them"
        )
    return sorted(names)


def _parts(root: Path, names: Iterable[str]) -> Iterator[list[str]]:
    part, size = [], 0
    for name in names:
        part.append(name)
        size += (root / name).stat().st_size
        if size >= _PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _weights_files(weights: str) -> list[Path]:
    """The files that `weights` names, as `cxr.models.find_weights` looks for them; none for words."""
    path = Path(weights).expanduser()
    if weights in ("imagenet", "source", "none"):
        return []
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".h5", ".keras", ".npz"))
    return [path] if path.is_file() else []
