"""Arrays larger than memory: rows of a `.npy` file that are read when they are asked for.

A memory map would do, but the pages that it has touched count as resident memory of the process, and with a pass
over all images that is all of them. What is read here is a copy of the rows asked for, and nothing else stays.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

_BLOCK_BYTES = 2**23  # what iteration reads at once


class Stack:
    """An array of rows, read-only, that lies elsewhere: indexed along its first axis, as NumPy would, by an
    integer, a slice, or an array or list of integers or booleans. Each access gives an array of its own, which may
    be changed.
    `np.asarray` reads the whole.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """The rows of those numbers, int [m], each from 0 to len(self) - 1: an array [m, *shape[1:]]."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole, where it lies."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            raise IndexError(f"{type(self).__name__} is indexed by rows alone: index the array that they give")
        rows = np.arange(len(self))[key]  # so that NumPy decides what a key means, and which are out of bounds
        return self._read(rows.reshape(-1)).reshape((*rows.shape, *self.shape[1:]))

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in blocks(self):
            yield from block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{type(self).__name__} lies elsewhere: as an array it is a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dtype} {list(self.shape)})"

    def take(self, rows: Any) -> Subset:
        """The rows of a key, as `self[rows]` has them, none of them read yet."""
        return Subset(self, np.arange(len(self))[rows])


class Subset(Stack):
    """Some rows of a stack or an array, in any order, none of them read before it is asked for.

    Args: source [n, ...]; rows int [m], each from 0 to n - 1.
    """

    def __init__(self, source: Stack | np.ndarray, rows: np.ndarray) -> None:
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 1 or ((rows < 0) | (rows >= len(source))).any():
            raise IndexError(f"rows: numbers from 0 to {len(source) - 1} in one dimension")
        self._source, self._rows = source, rows
        self.shape, self.dtype = (len(rows), *source.shape[1:]), source.dtype

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self._source[self._rows[rows]]


class Rows(Stack):
    """The array in a `.npy` file (C order, no objects), of which nothing is in memory.

    Args: path. Raises ValueError when the file is no such array, or is shorter or longer than its header says;
        OSError when it cannot be opened, or when rows are read from a file that was cut short meanwhile.
    The file stays open until the object goes: on Linux and macOS rows can be read even when it has been removed.
    May be used from several threads; a pickle holds the path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._file = open(self.path, "rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self.shape, fortran, self.dtype = _header(self._file)
        if fortran or self.dtype.hasobject:
            raise ValueError(f"holds {'columns' if fortran else 'objects'}, not rows of numbers")
        self._start = self._file.tell()
        size = os.fstat(self._file.fileno()).st_size
        if size != self._start + self.nbytes:
            raise ValueError(f"has {size} bytes, not {self._start + self.nbytes}")

    @classmethod
    def write(cls, path: str | Path, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> Rows:
        """Write an array of `shape`, that comes in `blocks` [m, *shape[1:]], to `path`, whole or not at all.

        The blocks go to a file beside it, which takes its name at the end: whoever opens `path` finds what was
        there before, or all of this. The folder is made. Raises ValueError when the blocks are no such array,
        OSError when they cannot be written, and what `blocks` raises; `path` is then as it was.
        """
        path, dtype = Path(path), np.dtype(dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        try:
            with open(descriptor, "wb") as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": tuple(shape),
                }
                np.lib.format.write_array_header_1_0(file, header)
                count = 0
                for block in blocks:
                    if block.shape[1:] != tuple(shape[1:]) or block.dtype != dtype:
                        raise ValueError(
                            f"a block is {block.dtype} {block.shape}, the array {dtype} {tuple(shape)}"
                        )
                    file.write(np.ascontiguousarray(block).data)
                    count += len(block)
                if count != shape[0]:
                    raise ValueError(f"{count} rows came, not {shape[0]}")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        return cls(path)

    @classmethod
    def temporary(cls, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> Rows:
        """As `write`, to a temporary file (in `$TMPDIR`) that goes with the object: it cannot be pickled."""
        folder = tempfile.mkdtemp(prefix="cxr-")
        try:
            rows = cls.write(Path(folder) / "rows.npy", shape, dtype, blocks)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(rows, _discard, rows._file, folder)
        if os.name != "nt":  # an open file can be removed: so nothing is left whatever becomes of the process
            shutil.rmtree(folder, ignore_errors=True)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.path,)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        width = found.nbytes // max(1, len(rows))
        if not found.nbytes:
            return found
        view = found.reshape(-1).view(np.uint8).data
        # One read for each run of neighbours: all of a slice, a row of a shuffled batch.
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        ends = [*starts[1:], len(rows)]
        offsets = self._start + rows[starts].astype(np.int64) * width
        runs = list(zip(offsets.tolist(), starts * width, np.multiply(ends, width), strict=True))
        if len(runs) > 1 and hasattr(os, "posix_fadvise"):
            # What is not in the system's cache is then fetched at once, not read by read.
            with suppress(OSError):
                for offset, first, end in runs:
                    os.posix_fadvise(self._file.fileno(), offset, end - first, os.POSIX_FADV_WILLNEED)
        for offset, first, end in runs:
            self._fill(view[first:end], offset)
        return found

    def _fill(self, view: memoryview, offset: int) -> None:
        """Read `len(view)` bytes at `offset`. One read call gives 2 GiB at the most, or less."""
        while len(view):
            if hasattr(os, "preadv"):
                got = os.preadv(self._file.fileno(), [view], offset)
            else:  # Windows: a seek and a read, which threads must not mix
                with self._lock:
                    self._file.seek(offset)
                    got = self._file.readinto(view)
            if not got:
                raise OSError(f"{self.path}: has been cut short since it was opened")
            view, offset = view[got:], offset + got


def _discard(file: Any, folder: str) -> None:
    file.close()
    shutil.rmtree(folder, ignore_errors=True)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"is .npy of version {version}, not 1.0 or 2.0")


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


def blocks(array: Stack | np.ndarray, rows: int = 0) -> Iterator[np.ndarray]:
    """`array` in order, in arrays of `rows` rows (the last may have fewer); 0: of some 8 MiB, one row at least."""
    if not rows:
        row = array.nbytes // max(1, len(array))
        rows = max(1, _BLOCK_BYTES // max(1, row))
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def in_memory(shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks [m, *shape[1:]] as one array, which is never twice in memory."""
    found = np.empty(shape, dtype)
    first = 0
    for block in blocks:
        found[first : first + len(block)] = block
        first += len(block)
    return found
