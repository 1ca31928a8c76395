"""The benchmarks run, in their small size. What they say of speed is not tested."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference", "references", "attribution", "memory"])
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
