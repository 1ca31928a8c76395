"""Files that are written whole or not at all, and Python source that is parsed by one thread at a time."""

import ast
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARSING = threading.Lock()


def parse(source: str) -> ast.Module:
    """`ast.parse`, which in CPython 3.11 raises SystemError ("AST constructor recursion depth mismatch") when
    another thread parses too (as in python/cpython#106905). Raises SyntaxError and ValueError as it does.
    """
    with _PARSING:
        return ast.parse(source)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, to write to; it takes `path`'s place when the block ends without an error.

    It is flushed to the disk first, so that `path` is at every moment, after a kill or a power cut too, either
    what it was or all that was written. On an error (a full disk too) the temporary file is removed and `path` is
    as before. The temporary name keeps the suffix, as writers such as `np.savez` and Keras go by it. The folder is
    made where missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def from_here(path: Path) -> str:
    """The path as a person in this folder, which is the notebooks' own too, would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
