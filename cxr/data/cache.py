"""The cache on disk: where it is, how an entry is written and read, and how room is made for the next one."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cxr.core import arrays
from cxr.core.errors import InputError
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
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write("\n".join(sorted(known | hashes)))
        os.replace(file.name, path)


def default_cache() -> Path:
    """Folder of the cache: `$CXR_CACHE`, or `$XDG_CACHE_HOME/cxr`, or `~/.cache/cxr`."""
    if own := os.environ.get("CXR_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr"


def cached_array(path: Path, shape: tuple[int, ...], make: Callable[[], Iterable[np.ndarray]]) -> np.memmap:
    """The array of an entry, uint8 of `shape`, mapped into memory; if there is none, `make()` gives its blocks.

    If another process is writing the entry, this one waits for it. A damaged entry is replaced, with a warning.
    Raises InputError if the cache cannot be written.
    """

    def read(warn: bool) -> np.memmap | None:
        """The array, marked as used last; None if there is none, or another one."""
        try:
            images = arrays.read(path, shape, np.uint8)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError) as error:
            if warn:
                warnings.warn(f"{path}: cached images are damaged ({error}) and are loaded again", stacklevel=4)
            return None
        with suppress(OSError):  # a cache of others that may only be read
            os.utime(path)
        return images

    if (images := read(warn=False)) is not None:
        return images
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waits = f"images: waiting for another process that is writing {path}"
        with arrays.locked(path.with_suffix(".lock"), lambda: progress(waits)):
            if (images := read(warn=True)) is not None:  # another process has written it
                return images
            return write_entry(path, shape, np.uint8, make())
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write the image cache ({error.strerror}): set CXR_CACHE to a folder that "
            "you can write to and that has room"
        ) from None


def write_entry(path: Path, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """Make room for an entry of the cache (images or features) and write it. The caller holds its lock.

    Raises what `cxr.core.arrays.write` raises, and InputError if CXR_CACHE_GIB is not a number.
    """
    for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):  # left by a process that was killed
        left.unlink(missing_ok=True)
    _make_room(path, math.prod(shape) * np.dtype(dtype).itemsize)
    return arrays.write(path, shape, dtype, blocks)


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


def versions(*packages: str) -> Iterator[str]:
    """Name and version of each of the packages that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def source_hash(*files: str | Path) -> str:
    """SHA-256 (hex) over the contents of source files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()
