"""A small version of the kill test. It is a file of its own, because CI runs files in parallel."""

import re
import subprocess
import sys

import pytest
from conftest import PROJECT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_study_that_is_killed_ends_as_one_that_is_left_alone():
    done = subprocess.run(
        [sys.executable, "tests/benchmarks/kill_study.py", "--kills", "2"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found = re.search(r"2 kills in \d+ studies; (\d+) hashes of each compared: 0 differ", done.stdout)
    assert found and int(found.group(1)) > 50, done.stdout[-3000:]
