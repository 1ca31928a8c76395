"""The backup of a training on disk: after a kill, a power cut or a crash, the training resumes from it.

A folder holds *states*, in the order in which they were saved. A state belongs to a *part* of the training (a
stage, a head) and replaces earlier states of that part; two of each part are kept. Beside them are *kept* files,
which the caller wrote (such as the checkpoint of an epoch). A kept file counts once a later state names it.

Every file is written completely or not at all (`cxr.core.files.atomic`). A state is an `.npz` file without
pickles: its checksums show damage. It holds the SHA-256 of the kept files. What is damaged is not used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr.core import arrays as core_arrays
from cxr.core.files import atomic, sha256_file
from cxr.core.progress import progress

_STATES = 2  # of each part: if the newest is damaged, the one before it is used
_ABOUT = "about"  # the array of a state that holds its notes and the hashes of kept files, as JSON


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
        for state in reversed(self._states):
            if state[1] == part:
                arrays, about = self._read(state)
                return State(arrays, about["notes"])
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
        state = (self._states[-1][0] + 1 if self._states else 1, part)
        about = json.dumps({"notes": notes, "kept": self._kept})
        try:
            with atomic(self._path(state)) as temporary:
                np.savez(temporary, **arrays, **{_ABOUT: about})
        except OSError as error:
            progress(f"{part}: the backup could not be written ({_reason(error)}): training continues without it")
            return False
        self._states.append(state)
        for old in [each for each in self._states if each[1] == part][:-_STATES]:
            self._states.remove(old)
            self._path(old).unlink(missing_ok=True)
        return True

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """The file `name`: the one that an earlier process kept, or the one that `write(path)` writes now.

        `path` has the suffix of `name`. Without a backup the file is in `spare`. It is also there, and a progress
        line says so, if the backup cannot be written. Errors in `spare` are raised.
        """
        if self.folder is not None and name not in self._kept:
            try:
                with atomic(self.folder / name) as temporary:
                    write(temporary)
                self._kept[name] = sha256_file(self.folder / name)
            except OSError as error:
                progress(
                    f"{name}: could not be kept in the backup ({_reason(error)}): training continues without it"
                )
        if name in self._kept:
            return self.folder / name
        write(self.spare / name)
        return self.spare / name

    def clear(self) -> None:
        """Delete all states and kept files; this process keeps the folder."""
        self._states, self._kept = [], {}
        self._remove_others()

    def delete(self) -> None:
        """Delete the folder, and release it: the training is finished. A second call does nothing."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        self.folder = None

    def _path(self, state: tuple[int, str]) -> Path:
        number, part = state
        return self.folder / f"{number:06d}.{part}.npz"

    def _read(self, state: tuple[int, str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays of a state, and its notes with the hashes of kept files."""
        with np.load(self._path(state), allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays.pop(_ABOUT)))

    def _open(self) -> None:
        states = sorted(
            (int(number), part)
            for number, _, part in (path.stem.partition(".") for path in self.folder.glob("*.npz"))
            if number.isdigit()
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
            self._kept = self._read(self._states[-1])[1]["kept"]
        self._remove_others()

    def _fault(self, state: tuple[int, str]) -> str:
        """What is wrong with a state; empty if nothing is."""
        try:
            for name, digest in self._read(state)[1]["kept"].items():
                if sha256_file(self.folder / name) != digest:
                    return f"{self.folder / name} is damaged"
        except Exception as error:  # a damaged file may raise any
            return f"{self._path(state)} cannot be read ({error})"
        return ""

    def _remove_others(self) -> None:
        """Remove all files that are neither a state nor kept."""
        known = {self._path(state) for state in self._states} | {self.folder / name for name in self._kept}
        for path in self.folder.iterdir():
            if path not in known:
                path.unlink()


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


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
