"""A small version of the kill test. It is a file of its own, because CI runs files in parallel."""

import re
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT

from cxr.core.params import read_yaml


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_study_that_is_killed_ends_as_one_that_is_left_alone(tmp_path):
    params = tmp_path / "study.yaml"
    fewer = {"architecture": ["tiny_nets:small"], "method": ["layercam"], "multiverse": False}
    fewer |= {"map_check_images": 2, "extra_heads": 0, "checkpoint_every": 0, "placebo": False}
    params.write_text(yaml.safe_dump(read_yaml(PROJECT / "params" / "smoke.yaml") | fewer))
    done = subprocess.run(
        [sys.executable, "tests/benchmarks/kill_study.py", "--kills", "1", "--params", str(params)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found = re.search(r"1 kills in \d+ studies; (\d+) hashes of each compared: 0 differ", done.stdout)
    assert found and int(found.group(1)) > 30, done.stdout[-3000:]
