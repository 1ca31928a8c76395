"""The benchmarks run, in their small size (what they say of speed is not tested), and the kill test."""

import os
import re
import subprocess
import sys

import pytest
from conftest import PROJECT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference", "references", "attribution", "memory", "training"])
def test_a_benchmark_prints_its_table(name):
    done = subprocess.run(
        [sys.executable, f"tests/benchmarks/bench_{name}.py", "--small"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if any(character.isdigit() for character in line)]
    assert len(rows) >= 2 and "nan" not in done.stdout


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
