"""The cache on disk: where it is, how an entry is written and read, and how room is made for the next one."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.core.progress import progress

_CACHE_GIB = 50.0


def read_hashes(path: Path) -> set[str]:
    """The hashes of files that decode, from `add_hashes`; empty if `path` is missing or damaged."""
    try:
        return set(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return set()


def add_hashes(path: Path, hashes: set[str]) -> None:
    """Add hashes of files that decode to those in `path`. If it cannot be written, the next run decodes again."""
    known = read_hashes(path)  # read again: another process may have written in the meantime
    if hashes <= known:
        return
    with suppress(OSError), atomic(path) as temporary:
        temporary.write_text("\n".join(sorted(known | hashes)))


def default_cache() -> Path:
    """Folder of the cache: `$CXR_CACHE`, or `$XDG_CACHE_HOME/cxr`, or `~/.cache/cxr`."""
    if own := os.environ.get("CXR_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr"


def entry(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    make: Callable[[], Iterable[np.ndarray]],
    *,
    check: Callable[[np.memmap], None] | None = None,
) -> np.memmap:
    """The array of an entry, mapped into memory and marked as used last. A missing one is made.

    If another process is writing the entry, this one waits for it. A damaged entry is made again, with a warning.

    Args:
        path: of the entry; its name begins with what it holds, as in `images-<key>.npy`.
        shape, dtype: of the array.
        make: called if the entry is missing or damaged.
        check: raises ValueError if the content is not what was written. Sizes are compared in any case.

    Raises OSError if the entry cannot be written, any error of `make`, and InputError if CXR_CACHE_GIB is not a
    number.
    """
    what = path.stem.partition("-")[0]

    def read() -> np.memmap | None:
        try:
            array = arrays.read(path, shape, dtype)
            if check is not None:
                check(array)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with suppress(OSError):  # a cache of others that may only be read
            os.utime(path)
        return array

    with suppress(ValueError, OSError, EOFError):  # those below say what is wrong
        if (array := read()) is not None:
            return array
    path.parent.mkdir(parents=True, exist_ok=True)
    waits = f"{what}: waiting for another process that is writing {path}"
    with arrays.locked(path.with_suffix(".lock"), lambda: progress(waits)):
        try:
            if (array := read()) is not None:  # another process has written it
                return array
        except (ValueError, OSError, EOFError) as error:
            warnings.warn(f"{path}: cached {what} are damaged ({error}) and are made again", stacklevel=3)
        for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):  # left by a process that was killed
            left.unlink(missing_ok=True)
        _make_room(path, math.prod(shape) * np.dtype(dtype).itemsize)
        return arrays.write(path, shape, dtype, make())


def _make_room(path: Path, size: int) -> None:
    """Remove the least recently used entries beside `path` until `size` more bytes fit into CXR_CACHE_GIB.

    Raises InputError if CXR_CACHE_GIB is not a number.
    """
    text = os.environ.get("CXR_CACHE_GIB", "")
    try:
        allowed = float(text or _CACHE_GIB) * 2**30
    except ValueError:
        allowed = -1.0
    if not 0 <= allowed < math.inf:
        raise InputError(
            f"CXR_CACHE_GIB: expected the GiB that the cache may take, a number of at least 0, got {text!r}"
        )
    entries = []
    for entry in (*path.parent.glob("images-*.npy"), *path.parent.glob("features-*.npy")):
        with suppress(FileNotFoundError):  # another process has removed it
            found = entry.stat()
            entries.append((found.st_mtime_ns, found.st_size, entry))
    total = size + sum(other for _, other, entry in entries if entry != path)
    for _, other, entry in sorted(entries):
        if total > allowed and entry != path:
            with suppress(OSError):  # Windows does not remove an open file
                entry.unlink(missing_ok=True)
                total -= other


def source_hash(*files: str | Path) -> str:
    """SHA-256 (hex) over the contents of source files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()
