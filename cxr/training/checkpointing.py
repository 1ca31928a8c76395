"""The backup of a training on disk: after a kill, a power cut or a crash, the training resumes from it.

A folder holds *states*, in the order in which they were saved. A state belongs to a *part* of the training (a
stage, a head) and replaces earlier states of that part; two of each part are kept. Beside them are *kept* files,
which the caller wrote (such as the checkpoint of an epoch). A kept file counts once a later state names it.

Everything is written completely or not at all: under a temporary name, flushed to the disk, then renamed. Each
state holds the SHA-256 of its files and of the kept files. A file that does not match is not used. No pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr.core import arrays as core_arrays
from cxr.core.progress import progress

_STATES = 2  # of each part: if the newest is damaged, the one before it is used
_TEMPORARY = ".tmp-"


class State(NamedTuple):
    """What was saved with `Backup.save`."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


class _Owned(Exception):
    """Another process uses the folder."""


class Backup:
    """The backup of one training. `take` makes it. Use it from one thread.

    `folder` is None if there is no backup: `load` finds nothing then, `save` does nothing, and `keep` writes to
    `spare`. `resumed` says what was restored: each part, and how many epochs of it.
    """

    def __init__(self, folder: Path | None, spare: Path, lock: ExitStack) -> None:
        self.folder, self.spare = folder, spare
        self.resumed: dict[str, int] = {}
        self._lock = lock
        self._states: list[tuple[int, str]] = []  # number and part, in order
        self._kept: dict[str, str] = {}  # name and SHA-256
        if folder is not None:
            self._open()

    def load(self, part: str) -> State | None:
        """The newest state of `part`, or None. Its files were checked when the backup was taken."""
        for number, name in reversed(self._states):
            if name == part:
                folder = self._path(number, part)
                notes = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
                with np.load(folder / "arrays.npz", allow_pickle=False) as file:
                    return State(dict(file), notes)
        return None

    def save(self, part: str, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> bool:
        """Save a state of `part` (letters, digits, `_`), and with it all files that were kept so far.

        Args:
            part: of the training.
            arrays: of any numeric dtype.
            notes: values that JSON can hold (NaN and infinities too).

        Returns whether it was saved. If the disk is full or fails, nothing is raised, and a progress line says so.
        """
        if self.folder is None:
            return False
        number = self._states[-1][0] + 1 if self._states else 1
        temporary = self.folder / f"{_TEMPORARY}{number}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            with open(temporary / "arrays.npz", "wb") as file:
                np.savez(file, **arrays)
            (temporary / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
            hashes = {}
            for name in ("arrays.npz", "notes.json"):
                _to_disk(temporary / name)
                hashes[name] = _sha256(temporary / name)
            index = {"files": hashes, "kept": self._kept}
            (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
            _to_disk(temporary / "index.json")
            _to_disk(temporary)
            os.replace(temporary, self._path(number, part))
            _to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            progress(f"{part}: the backup could not be written ({_reason(error)}): training continues without it")
            return False
        self._states.append((number, part))
        for old in [state for state in self._states if state[1] == part][:-_STATES]:
            self._states.remove(old)
            shutil.rmtree(self._path(*old), ignore_errors=True)
        return True

    def offer(self, name: str, write: Callable[[Path], Any]) -> bool:
        """Keep a file `name` in `folder`, which `write(path)` writes; `path` has the suffix of `name`.

        A file that an earlier process kept stays as it is. Returns whether the file is there; if not, a progress
        line says so.
        """
        if self.folder is None or name in self._kept:
            return name in self._kept
        temporary = self.folder / f"{_TEMPORARY}{name}"
        try:
            write(temporary)
            _to_disk(temporary)
            digest = _sha256(temporary)
            os.replace(temporary, self.folder / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            progress(f"{name}: could not be kept in the backup ({_reason(error)}): training continues without it")
            return False
        self._kept[name] = digest
        return True

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """The file `name`: the one that an earlier process kept, or the one that `write(path)` writes now.

        Without a backup, or if the backup cannot be written, the file is in `spare`. Errors there are raised.
        """
        if self.offer(name, write):
            return self.folder / name
        write(self.spare / name)
        return self.spare / name

    def clear(self) -> None:
        """Delete all states and kept files; this process keeps the folder."""
        self._states, self._kept = [], {}
        if self.folder is not None:
            self._remove(keep=set())

    def delete(self) -> None:
        """Delete the folder, and release it: the training is finished. A second call does nothing."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        self.folder = None

    def _path(self, number: int, part: str) -> Path:
        return self.folder / f"{number:06d}.{part}"

    def _open(self) -> None:
        states = sorted(
            (int(number), part)
            for number, _, part in (path.name.partition(".") for path in self.folder.iterdir())
            if number.isdigit() and part
        )
        wrong = {state: fault for state in states if (fault := self._fault(state))}
        # States after a damaged one depend on it, unless a later state of the same part replaces it.
        while lost := [
            state for state in dict((part, (n, part)) for n, part in states).values() if state in wrong
        ]:
            first = min(lost)
            progress(f"backup: {wrong[first]}: training resumes from the state before it")
            states = [state for state in states if state < first]
        self._states = [state for state in states if state not in wrong]
        if self._states:
            index = self._path(*self._states[-1]) / "index.json"
            self._kept = json.loads(index.read_text(encoding="utf-8"))["kept"]
        self._remove(keep={self._path(*state).name for state in self._states} | set(self._kept))

    def _fault(self, state: tuple[int, str]) -> str:
        """What is wrong with a state; empty if nothing is."""
        folder = self._path(*state)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            for path, digest in [
                *((folder / name, digest) for name, digest in index["files"].items()),
                *((self.folder / name, digest) for name, digest in index["kept"].items()),
            ]:
                if _sha256(path) != digest:
                    return f"{path} is damaged"
            if set(index["files"]) != {"arrays.npz", "notes.json"}:
                return f"{folder} is incomplete"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{folder} cannot be read ({error})"
        return ""

    def _remove(self, keep: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def take(folder: str | Path, spare: str | Path) -> Backup:
    """The backup in `folder`, which is created if missing. It is this process's alone until it ends or deletes it.

    Damaged states are left out, and a progress line says so. If another process uses the folder, or if it cannot
    be used, the backup that is returned has no folder, and a progress line says so.
    """
    folder, spare = Path(folder).absolute(), Path(spare)
    lock = ExitStack()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.enter_context(core_arrays.locked(folder.with_name(f"{folder.name}.lock"), _refuse))
        folder.mkdir(exist_ok=True)
        return Backup(folder, spare, lock)
    except _Owned:
        progress(f"backup: another process uses {folder}: this one trains without a backup")
    except OSError as error:
        progress(f"backup: {folder} cannot be used ({_reason(error)}): training has no backup")
    lock.close()
    return Backup(None, spare, ExitStack())


def _refuse() -> None:
    raise _Owned


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows flushes folders by itself
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # not supported by the file system
            raise
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
