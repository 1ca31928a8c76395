"""Files of images are read and decoded in parallel, and trouble with single files is gathered into one error."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cxr.core.errors import InputError, some
from cxr.data.formats import Unusable

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


def read_file(root: Path, path: str) -> bytes:
    """The bytes of a file of the manifest. Raises Unusable."""
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        raise Unusable(f"not found in {root}") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a path with a NUL character
        raise Unusable("cannot be read: not a valid file name") from None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
