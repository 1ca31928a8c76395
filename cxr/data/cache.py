"""The cache on disk: where it is, how an entry is written and read, and how room is made for the next one."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.core.progress import progress

_CACHE_GIB = 50.0
_KINDS = ("images", "masks", "features")  # with which the names of entries begin
_DIGEST_BYTES = 32  # of a SHA-256


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


def entry(path: Path, shape: tuple[int, ...], dtype: Any, make: Callable[[], Iterable[np.ndarray]]) -> np.memmap:
    """The array of an entry, mapped into memory, read-only, and marked as used last. A missing one is made.

    The file holds the array's bytes and then a SHA-256 of the entry's name and of these bytes. An entry that was
    changed, cut, or written under another name is made again, with a warning. If another process is writing the
    entry, this one waits for it.

    Args:
        path: of the entry; its name begins with what it holds, as in `images-<key>.npy`.
        shape, dtype: of the array.
        make: called if the entry is missing or damaged; gives blocks [m, *shape[1:]] of `dtype`.

    Raises OSError if the entry cannot be written, ValueError if the blocks do not make such an array, any error of
    `make`, and InputError if CXR_CACHE_GIB is not a number.
    """
    what = path.stem.partition("-")[0]
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize

    def read() -> np.memmap | None:
        try:
            content = arrays.read(path, (size + _DIGEST_BYTES,), np.uint8)
        except (FileNotFoundError, NotADirectoryError):
            return None
        digest = _digest_of(path)
        digest.update(content[:size].data)
        if digest.digest() != content[size:].tobytes():
            raise ValueError("has other bytes than were written")
        with suppress(OSError):  # a cache of others that may only be read
            os.utime(path)
        return content[:size].view(dtype).reshape(shape)

    def signed() -> Iterator[np.ndarray]:
        digest = _digest_of(path)
        for block in make():
            if block.shape[1:] != tuple(shape[1:]) or block.dtype != dtype:
                raise ValueError(f"a block is {block.dtype} {block.shape}, the array {dtype} {tuple(shape)}")
            content = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
            digest.update(content.data)
            yield content
        yield np.frombuffer(digest.digest(), np.uint8)

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
        _make_room(path, size + _DIGEST_BYTES)
        content = arrays.write(path, (size + _DIGEST_BYTES,), np.uint8, signed())
        return content[:size].view(dtype).reshape(shape)


def _digest_of(path: Path) -> Any:
    """A SHA-256 that has seen the entry's name: the bytes of another entry are not those of this one."""
    return hashlib.sha256(path.stem.encode())


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
    for entry in (found for kind in _KINDS for found in path.parent.glob(f"{kind}-*.npy")):
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
