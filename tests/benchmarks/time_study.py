"""Where each second of a study goes: `python tests/benchmarks/time_study.py [PARAMS.yaml] [--figure PATH]`.

Runs the study in a folder of its own, with an empty image cache, and reads the times that papermill noted of
every cell. With `--finished FOLDER` (such as mlruns/studies/phantom) it runs nothing, and reads a finished
study from the start of its first notebook to the end of its last.

What a cell is for is told by its tag (`training`, `attribution`, `scoring`, `comparison`, `data`); cells
without one are `figures and logging`, but for the first of a notebook with code, the `imports`. Before its
first cell and after its last a notebook is `starting and ending`; a moment in which none runs is the `runner`'s
own. Where several run at once, each counts as its share of the second: the parts add up to the time from the
start of the command to its end. What counts as work are training, attribution and scoring.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
WORK = ("training", "attribution", "scoring")
PARTS = (*WORK, "comparison", "data", "figures and logging", "imports", "starting and ending", "runner")
PARAMETERS = ("parameters", "injected-parameters")


def intervals(notebook: dict) -> Iterator[tuple[float, float, str]]:
    """(begin, end, part) of all that one executed notebook did, in seconds of the clock, without gaps."""
    whole = notebook["metadata"]["papermill"]
    now, first = moment(whole["start_time"]), True
    part = "starting and ending"
    for cell in notebook["cells"]:
        times = cell["metadata"].get("papermill", {})
        if cell["cell_type"] != "code" or not times.get("start_time"):
            continue
        yield now, moment(times["start_time"]), part
        tags = set(cell["metadata"].get("tags", []))
        if tags & set(PARTS):
            [part] = tags & set(PARTS)
        elif tags & set(PARAMETERS):
            part = "starting and ending"
        else:
            part = "imports" if first else "figures and logging"
            first = False
        now = moment(times["end_time"])
        yield moment(times["start_time"]), now, part
    yield now, moment(whole["end_time"]), "starting and ending"


def moment(text: str) -> float:
    return datetime.fromisoformat(text + ("" if "+" in text else "+00:00")).timestamp()


def shares(spans: list[tuple[float, float, str]], start: float, end: float) -> dict[str, float]:
    """Seconds of each part between start and end; spans that overlap share what they have in common."""
    edges = sorted({start, end, *(t for a, b, _ in spans for t in (a, b) if start < t < end)})
    seconds = dict.fromkeys(PARTS, 0.0)
    for a, b in itertools.pairwise(edges):
        running = Counter(part for begin, stop, part in spans if begin <= a and b <= stop)
        for part, count in running.items():
            seconds[part] += (b - a) * count / running.total()
        if not running:
            seconds["runner"] += b - a
    return seconds


def run(params: Path, folder: Path) -> tuple[float, float]:
    """Run the study into a folder; when it started and ended."""
    command = [sys.executable, "-m", "cxr.cli", "study", str(params), "--out", str(folder / "out")]
    command += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    begin = time.time()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "CXR_CACHE": str(folder / "cache")}, check=True)
    return begin, time.time()


Spans = dict[str, list[tuple[float, float, str]]]


def read(folder: Path) -> Spans:
    """`intervals` of the executed notebooks in a folder, by stage."""
    spans: Spans = {}
    for path in sorted(folder.glob("*.ipynb")):
        found = list(intervals(json.loads(path.read_text(encoding="utf-8"))))
        spans.setdefault(path.stem.partition("-")[0], []).extend(found)
    return spans


def table(spans: Spans, begin: float, end: float) -> pd.DataFrame:
    """Seconds of every part, by notebook and in all; `all` adds up to end - begin."""
    columns = {"all": shares(list(itertools.chain(*spans.values())), begin, end)}
    for stage in ("train", "attribute", "score", "compare"):
        own = Counter()
        for a, b, part in spans.get(stage, []):
            own[part] += b - a
        columns[f"in {stage} notebooks"] = own
    found = pd.DataFrame(columns).reindex(list(PARTS)).fillna(0.0)
    found.insert(1, "share", found["all"] / (end - begin))
    return found


def draw(seconds: pd.DataFrame, path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = ["#0072B2" if part in WORK else "#E69F00" for part in seconds.index]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    bars = axes.barh(seconds.index, seconds["all"], color=colours)
    labels = [f"{value:.0f} s, {share:.0%}" for value, share in zip(seconds["all"], seconds["share"], strict=True)]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("wall time (s)")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, nargs="?", default=ROOT / "params" / "study.yaml")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--finished", type=Path, metavar="FOLDER", help="read this study, run none")
    given = parser.parse_args()
    if given.finished:
        spans = read(given.finished)
        begins, ends, _ = zip(*itertools.chain(*spans.values()), strict=True)
        begin, end = min(begins), max(ends)
    else:
        with tempfile.TemporaryDirectory(prefix="cxr-time-") as folder:
            begin, end = run(given.params.resolve(), Path(folder))
            spans = read(Path(folder) / "out")
    seconds = table(spans, begin, end)
    print(seconds.to_string(float_format="{:.2f}".format))
    work = seconds.loc[list(WORK), "all"].sum() / (end - begin)
    name = given.finished.name if given.finished else given.params.name
    summary = f"{name}: {end - begin:.0f} s, of which {work:.0%} are {', '.join(WORK)}"
    print(summary)
    if given.figure:
        draw(seconds, given.figure, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
