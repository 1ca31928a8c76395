"""How files of images are read, and how many are read at once. Trouble with single files makes one error.

Every image and mask takes one path: `opened` (a regular file of a sensible size), `read_file` (the bytes that the
manifest names), `images.decode` (a header that fits its pixels), `images.square`, and the cache (`cache.entry`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from tqdm import tqdm

from cxr.core.errors import InputError, some
from cxr.core.files import require_regular
from cxr.data.formats import Unusable

MAX_BYTES = 2**30  # of one file: the largest image that is read, in colour of 16 bits
_PIECE = 2**16
_ROWS_AT_ONCE = 8  # rows that a thread takes at a time


@contextmanager
def naming(column: str, path: str) -> Iterator[None]:
    """Name the mask in the message if it is a mask, not the image, that cannot be used."""
    try:
        yield
    except Unusable as trouble:
        raise Unusable(f"{column} {path}: {trouble}") from None


def for_each(work: Callable[[Any], Any], manifest: pd.DataFrame, *, what: str) -> list[Any]:
    """`stream` as a list."""
    return list(stream(work, manifest, what=what))


def stream(work: Callable[[Any], Any], manifest: pd.DataFrame, *, what: str) -> Iterator[Any]:
    """`work(row)` of every row of the manifest, in order, computed in threads, with a progress bar named `what`.

    Threads are enough, as reading, hashing, decoding and resizing release the GIL. Only a few rows are computed
    ahead, so that results do not pile up. If `work` raises Unusable, the other rows are still tried; at the end
    InputError names the bad ones.
    """

    def attempt(row: Any) -> Any:
        try:
            return work(row)
        except Unusable as trouble:
            return trouble

    def attempts(rows: list[Any]) -> list[Any]:
        return [attempt(row) for row in rows]

    bad = []
    ahead: deque[tuple[list[Any], Future]] = deque()

    def first() -> Iterator[Any]:
        rows, future = ahead.popleft()
        for row, result in zip(rows, future.result(), strict=True):
            bar.update()
            if isinstance(result, Unusable):
                bad.append(f"{row.path} ({result})")
            else:
                yield result

    # Giving one row to a thread takes a tenth of the time of a small image, so give several at once.
    at_once = min(_ROWS_AT_ONCE, math.ceil(len(manifest) / (4 * cores())))
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(manifest), desc=what, unit="image", delay=2) as bar,
    ):
        rows = manifest.itertuples(index=False)
        while some_rows := list(islice(rows, at_once)):
            ahead.append((some_rows, pool.submit(attempts, some_rows)))
            if len(ahead) > 2 * cores():
                yield from first()
        while ahead:
            yield from first()
    if bad:
        raise InputError(
            f"{len(bad)} of {len(manifest)} images cannot be used: {some(bad)}: restore or remove them, then make "
            "a new manifest"
        )


@contextmanager
def opened(root: Path, path: str) -> Iterator[BinaryIO]:
    """An image or mask file, open for reading. Raises Unusable; so does an error of reading within the context.

    Anything but a regular file, and a file of more than MAX_BYTES, is refused before a byte is read.
    """
    try:
        require_regular(root / path, most=MAX_BYTES)
        with (root / path).open("rb") as file:
            yield file
    except FileNotFoundError:
        raise Unusable(f"not found in {root}") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from None
    except ValueError:  # a path with a NUL character
        raise Unusable("cannot be read: not a valid file name") from None


def read_file(root: Path, path: str, sha256: str = "") -> bytes:
    """The bytes of a file. Raises Unusable, also if a SHA-256 (hex) is given and they have another."""
    with opened(root, path) as file:
        content = file.read(os.fstat(file.fileno()).st_size)
        # nothing more, unless the file grows, or said that it is empty
        while len(content) <= MAX_BYTES and (piece := file.read(_PIECE)):
            content += piece
    if len(content) > MAX_BYTES:
        raise Unusable(f"too large: more than {MAX_BYTES:,} bytes")
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise Unusable("changed since the manifest was made")
    return content


def hash_file(root: Path, path: str) -> str:
    """The SHA-256 (hex) of a file, read in pieces. Raises Unusable."""
    with opened(root, path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
