"""Keep TensorFlow's start-up lines off the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow writes them to the file descriptor before its log level counts: information (I), warnings (W), and an
# error (E) that no GPU answers.
_START_UP = re.compile(
    rb"(WARNING: All log messages before absl|[IW]\d{4} \d\d:|E\d{4} .*\bcuInit\b|To enable the following instr).*"
)


@contextlib.contextmanager
def tensorflow() -> Iterator[None]:
    """Within the context, hold back what is written to stderr. At its end, print it without these lines.

    It works on the file descriptor, since C++ code writes there; so only one thread may use it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    descriptor = 2
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, descriptor)
            os.close(kept)
            held.seek(0)
            said = b"".join(line for line in held if not _START_UP.match(line))
            os.write(descriptor, said)
