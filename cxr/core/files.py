"""Files that are written whole or not at all, and Python source that only one thread parses at a time."""

import ast
import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARSING = threading.Lock()


def parse(source: str) -> ast.Module:
    """`ast.parse` in one thread at a time. Raises SyntaxError and ValueError as `ast.parse` does.

    CPython 3.11 raises SystemError ("AST constructor recursion depth mismatch") if two threads parse at the same
    time (see python/cpython#106905).
    """
    with _PARSING:
        return ast.parse(source)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends without an error.

    The temporary file is flushed to the disk first. So `path` always holds either the old content or all of the
    new one, also after a kill or a power cut. After an error (such as a full disk) the temporary file is removed
    and `path` is unchanged. The temporary name keeps the suffix, as `np.savez` and Keras depend on it. A missing
    folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that people know
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_regular(path: str | Path, *, most: int | None = None) -> None:
    """Raise OSError for anything but a regular file of at most `most` bytes: reading it might block, or never end.

    The error's `strerror` says what it is, as in "it is a pipe, not a regular file". A missing file gives
    FileNotFoundError.
    """
    found = os.stat(path)
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    if not stat.S_ISREG(found.st_mode):
        kind = kinds.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {most:,} are read", str(path))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_here(path: Path) -> str:
    """The path relative to the working folder, if it lies there: as a person would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
