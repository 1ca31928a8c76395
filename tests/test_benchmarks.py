"""The benchmarks run, in their small size (what they say of speed is not tested)."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime

import pytest
from conftest import PROJECT

from cxr.metrics import metric_table

LONG = (
    "growth",
    "memory",
    "training",
    "attribution",
    "kernels",
    "peers",
    "drift",
)  # minutes of many processes: `make bench ARGS=--small` runs them


@pytest.mark.slow
def test_long_benchmarks_start():
    code = """
        import runpy, sys
        sys.path.insert(0, "tests/benchmarks")
        for name in sys.argv[1:]:
            sys.argv = [name, "--help"]
            try:
                runpy.run_path(f"tests/benchmarks/bench_{name}.py", run_name="__main__")
            except SystemExit as end:
                assert not end.code
    """
    words = [sys.executable, "-c", textwrap.dedent(code), *LONG]  # one process: it imports TensorFlow once
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n  --small ") == len(LONG)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference", "scoring", "map_checks", "data", "store"])
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


def test_each_second_of_a_study_is_somebodys():
    spec = importlib.util.spec_from_file_location("time_study", PROJECT / "tests/benchmarks/time_study.py")
    time_study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(time_study)

    def at(seconds):
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    def code(begin, end, *tags):
        times = {"papermill": {"start_time": at(begin), "end_time": at(end)}, "tags": list(tags)}
        return {"cell_type": "code", "metadata": times}

    cells = [
        code(12, 12, "parameters"),
        {"cell_type": "markdown", "metadata": {}},
        code(12, 15),
        code(15, 25, "training"),
        code(25, 26),
    ]
    notebook = {"metadata": {"papermill": {"start_time": at(10), "end_time": at(28)}}, "cells": cells}
    spans = list(time_study.intervals(notebook))
    expected = {"training": 10, "imports": 3, "figures and logging": 1, "starting and ending": 4, "runner": 10}
    found = time_study.shares(spans, 5, 33)
    assert {part: seconds for part, seconds in found.items() if seconds} == expected
    # another notebook from 20 to 30 takes half of what they have in common, and two seconds of the runner's
    found = time_study.shares([*spans, (20, 30, "scoring")], 5, 33)
    expected |= {"training": 7.5, "figures and logging": 0.5, "starting and ending": 3, "scoring": 6, "runner": 8}
    assert {part: seconds for part, seconds in found.items() if seconds} == expected


def test_the_page_on_metrics_has_what_the_metrics_say(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "tests/benchmarks")
    import figure_metrics

    page = (PROJECT / "docs/metrics.md").read_text("utf-8")
    (header,) = (line for line in page.splitlines() if line.startswith("| pair |"))
    shown = [name.strip() for name in header.strip("|").split("|")[1:]]  # the page has some of the metrics
    assert figure_metrics.markdown(figure_metrics.constructed_table()[shown], "pair") in page
    for name in metric_table.METRICS:  # each is explained, and drawn at its highest and lowest
        assert f"**`{name}`" in page or f", `{name}`" in page.replace("**", ""), name
        assert sum(name in group for group in figure_metrics.GROUPS.values()) == 1
