"""Arrays larger than memory, as `.npy` files that are mapped into memory, and locks on files.

Of a mapped file the system keeps in memory what it has room for. These pages count as resident memory of the
process, but the system takes them back when another needs the room: the process has not allocated them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from cxr.core.files import atomic

_BLOCK_BYTES = 2**23  # what `blocks` reads at once


class Subset:
    """Some rows of an array, in any order, none of them read before it is asked for.

    Args: array [n, ...], in memory or mapped; rows: their numbers, int [m], each from 0 to n - 1.
    Indexed along the first axis, as NumPy would.
    """

    def __init__(self, array: np.ndarray | Subset, rows: np.ndarray) -> None:
        self._array, self._rows = array, np.asarray(rows, np.int64)
        if self._rows.ndim != 1 or ((self._rows < 0) | (self._rows >= len(array))).any():
            raise IndexError(f"rows: numbers from 0 to {len(array) - 1} in one dimension")
        self.shape, self.dtype, self.ndim = (len(self._rows), *array.shape[1:]), array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._array[self._rows[key]]


def blocks(array: np.ndarray | Subset) -> Iterator[np.ndarray]:
    """The rows of `array` [n, ...] in order, in arrays of some 8 MiB, one row at least."""
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def read(path: str | Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """The array in a `.npy` file, mapped into memory, read-only.

    It can be read when the file has been removed (on Linux and macOS). Raises ValueError or EOFError when the file
    is no such array, of that shape and dtype in C order; OSError when it cannot be opened.
    """
    array = np.lib.format.open_memmap(path, mode="r")
    if array.shape != tuple(shape) or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {tuple(shape)}")
    if (size := os.path.getsize(path)) != array.offset + array.nbytes:
        raise ValueError(f"has {size} bytes, not {array.offset + array.nbytes}")
    return array


def write(path: str | Path, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """Write an array of `shape`, that comes in `blocks` [m, *shape[1:]], to `path`, whole or not at all.

    Returns what `read` gives. The folder is made. Raises ValueError when the blocks are no such array, OSError
    when they cannot be written, and what `blocks` raises; `path` is then as it was.
    """
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with atomic(path) as temporary:
        # not through a mapping: a disk that is full would then end the process, not raise
        with open(temporary, "wb") as file:
            header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                if block.shape[1:] != tuple(shape[1:]) or block.dtype != dtype:
                    raise ValueError(f"a block is {block.dtype} {block.shape}, the array {dtype} {tuple(shape)}")
                file.write(np.ascontiguousarray(block).data)
        read(temporary, shape, dtype)  # raises where there are fewer rows, or more
    return read(path, shape, dtype)


def temporary(shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """As `write`, to a temporary file (in `$TMPDIR`).

    It is removed at once, and its room is free when the array goes, or the process ends in whatever way. (Windows
    does not remove what is mapped: the file stays there.)
    """
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as folder:
        return write(Path(folder) / "rows.npy", shape, dtype, blocks)


@contextmanager
def locked(path: Path, on_wait: Callable[[], Any]) -> Iterator[None]:
    """Hold a lock that one thread of one process has at a time.

    `on_wait` is called before waiting. The file `path` is there while somebody holds the lock or waits for it; the
    system lifts the lock of a process that ends in whatever way. Raises OSError where the lock cannot be had: the
    file is another user's, or the file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows an open file stays
            os.unlink(path)  # before the release: who waits for it then locks a new file
        lock.release()
