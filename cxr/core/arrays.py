"""Arrays larger than memory, as `.npy` files that are mapped into memory, and locks on files.

The system keeps as much of a mapped file in memory as there is room for. These pages count as resident memory of
the process, but the process has not allocated them: the system takes them back when it needs the room.
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

_BLOCK_BYTES = 2**23  # bytes that `blocks` reads at once


class Subset:
    """Some rows of an array, in any order. A row is read when it is asked for.

    Index it along the first axis, like an array of NumPy.

    Args:
        array: [n, ...], in memory or mapped.
        rows: row numbers, int [m], each from 0 to n - 1.
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
    """The rows of `array` [n, ...] in order, in arrays of about 8 MiB, at least one row each."""
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def read(path: str | Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """The array in a `.npy` file, mapped into memory, read-only.

    It can still be read after the file is removed (on Linux and macOS). Raises ValueError or EOFError if the file
    is not an array of this shape and dtype in C order, OSError if it cannot be opened.
    """
    array = np.lib.format.open_memmap(path, mode="r")
    if array.shape != tuple(shape) or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {tuple(shape)}")
    if (size := os.path.getsize(path)) != array.offset + array.nbytes:
        raise ValueError(f"has {size} bytes, not {array.offset + array.nbytes}")
    return array


def write(path: str | Path, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """Write an array of `shape` from `blocks` [m, *shape[1:]] to `path`, whole or not at all; make the folder.

    Returns the array as `read` does. Raises ValueError if the blocks do not make such an array, OSError if they
    cannot be written, and any error of `blocks`. After an error `path` is unchanged.
    """
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with atomic(path) as temporary:
        # not through a mapping: a full disk would then end the process instead of raising an error
        with open(temporary, "wb") as file:
            header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                if block.shape[1:] != tuple(shape[1:]) or block.dtype != dtype:
                    raise ValueError(f"a block is {block.dtype} {block.shape}, the array {dtype} {tuple(shape)}")
                file.write(np.ascontiguousarray(block).data)
        read(temporary, shape, dtype)  # raises if there are fewer or more rows
    return read(path, shape, dtype)


def temporary(shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.memmap:
    """Like `write`, to a temporary file in `$TMPDIR`.

    The file is removed at once; its room is free when the array is deleted or the process ends in any way.
    (Windows does not remove a mapped file, so the file stays there.)
    """
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as folder:
        return write(Path(folder) / "rows.npy", shape, dtype, blocks)


@contextmanager
def locked(path: Path, on_wait: Callable[[], Any]) -> Iterator[None]:
    """Hold a lock that only one thread of one process has at a time.

    `on_wait` is called before waiting. The file `path` exists while somebody holds the lock or waits for it. The
    system releases the lock of a process that ends in any way. Raises OSError if the lock is not possible: the
    file belongs to another user, or the file system has no locks.
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
        with suppress(OSError):  # Windows does not remove an open file
            os.unlink(path)  # before the release: those that wait then lock a new file
        lock.release()
