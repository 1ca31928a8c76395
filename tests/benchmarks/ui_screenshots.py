"""What a person sees of a study in the MLflow UI: assertions on the pages, and their screenshots.

    python tests/benchmarks/ui_screenshots.py [--tracking-uri URI] [--experiment NAME] [--out FOLDER]

Starts `cxr ui` on a store that holds a study, opens its pages in a headless Chromium at two widths, sees that what
should be there is there, and writes a PNG of each. Exit status 1 when something is missing.
`tests/test_notebooks.py` runs it on a small study.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import browser

from cxr import tracking
from cxr.tracking import entities, views

WIDTHS = (1100, 1440)  # of the window, pixels
_HEIGHT = 900
_PICTURES = "[...document.images].filter(image => image.complete && image.naturalWidth > 100).length"


@dataclass(frozen=True)
class Page:
    """A page, and what has to be on it.

    Attributes:
        name: of its screenshot.
        address: relative to the server's.
        words: that have to be readable.
        pictures: how many have to be shown, at least.
        click: the text of something to click first.
    """

    name: str
    address: str
    words: tuple[str, ...]
    pictures: int = 0
    click: str = ""


def pages(experiment: str) -> list[Page]:
    """The pages of an experiment that holds at least a train, an attribute, two score runs and a compare run."""
    number = tracking.experiment_id(experiment)
    runs = {
        stage: [run for run in tracking.find(stage, experiment=experiment) if views.STUDY in run.tags]
        for stage in ("train", "attribute", "score", "compare")
    }
    study = tracking.find("study", experiment=experiment)[0]
    scores = sorted(run.name for run in runs["score"])[:3]  # the table makes the rows that are in sight
    compare, score, train, attribute = (runs[stage][0] for stage in ("compare", "score", "train", "attribute"))
    several = json.dumps([run.run_id for run in runs["score"][:4]], separators=(",", ":"))
    model = entities.model_name(experiment, train.params["architecture"])

    def of(run: tracking.StoredRun, tab: str = "") -> str:
        return f"#/experiments/{number}/runs/{run.run_id}{tab}?workflowType=machine_learning"

    return [
        Page("scores", views.address(number, "scores"), (*scores, "map checks", "overlap", "Open: scores")),
        Page("charts", views.address(number, "charts"), ("Group by: cell", "Drift", "overlap_median")),
        Page(
            "training",
            views.address(number, "training"),
            (*sorted(run.name for run in runs["train"])[:2], "AUC before", "AUC after"),
        ),
        Page("maps", views.address(number, "maps"), (attribute.name, "layercam"), pictures=len(runs["attribute"])),
        Page("studies", views.address(number, "studies"), (study.name, "cxr.answer")),
        Page(
            "compare-runs",
            f"#/compare-runs?runs={several}&experiments=%5B%22{number}%22%5D&workflowType=machine_learning",
            ("Comparing ", *(run.name for run in runs["score"][:4])),
        ),
        Page("train", of(train), ("Training of", "then every layer"), click="Show more"),
        Page("score", of(score), ("Overlap of the evidence", "two patients"), pictures=1, click="Show more"),
        Page("study", of(study), ("The whole report", "map checks", "overlap/", "passes_checks/")),
        Page("compare", of(compare), ("The whole report", "map checks", "verdict"), pictures=1, click="Show more"),
        Page("grid", of(attribute, "/model-metrics"), ("layercam",), pictures=1),
        Page("artifact", of(compare, "/artifacts/report.html"), ("report.html", "What this study says")),
        Page("models", f"#/experiments/{number}/models?workflowType=machine_learning", ("after", "before")),
        Page("registry", "#/models?workflowType=machine_learning", (model,)),
        Page(
            "model",
            f"#/models/{model}/versions/1?workflowType=machine_learning",
            ("architecture", "layercam.overlap_median", "checkpoints/after.keras"),
        ),
    ]


def look(
    address: str, wanted: list[Page], out: Path | None = None, *, width: int = WIDTHS[-1]
) -> dict[str, list[str]]:
    """Open the pages on the server at `address`; returns what is missing on which. `out`: for screenshots."""
    missing = {}
    with browser.Browser(width=width, height=_HEIGHT) as page:
        for one in wanted:
            began = time.monotonic()
            page.open(f"{address}/{one.address}")
            if one.click:
                button = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() == {one.click!r})"
                if page.wait(f"!!{button}", seconds=60):
                    page.ask(f"{button}.click()")
            lacks = page.missing(*one.words)
            if one.pictures and not page.wait(f"{_PICTURES} >= {one.pictures}", seconds=60):
                lacks.append(f"{one.pictures} pictures")
            if out:
                page.screenshot(out / f"{one.name}-{width}.png")
            if lacks:
                missing[one.name] = lacks
            found = f"lacks {', '.join(lacks)}" if lacks else "ok"
            print(f"{width} {one.name:14}{time.monotonic() - began:5.1f} s  {found}")
    return missing


@contextmanager
def server(uri: str) -> Iterator[str]:
    """`cxr ui` on a store; the address at which it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "cxr.cli", "ui", "--tracking-uri", uri, "--port", str(port)]
    with tempfile.TemporaryFile("w+") as said:
        quiet = {"stdout": said, "stderr": subprocess.STDOUT, "start_new_session": True}
        with subprocess.Popen(words, **quiet) as process:
            address = f"http://127.0.0.1:{port}"
            try:
                if not _answers(address, process):
                    said.seek(0)
                    raise RuntimeError(f"{' '.join(words)} does not answer:\n{said.read()[-3000:]}")
                yield address
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)


def _answers(address: str, process: subprocess.Popen, seconds: float = 180) -> bool:
    """Whether it does, in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
        time.sleep(0.5)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracking-uri", help="the store (default: as for `cxr ui`)")
    parser.add_argument("--experiment", default="phantom", help="the study's name (default: phantom)")
    parser.add_argument("--out", type=Path, default=Path("ui-screenshots"))
    arguments = parser.parse_args()
    if browser.find() is None:
        print(f"no browser found: install one of {', '.join(browser.NAMES)}", file=sys.stderr)
        return 2
    uri = tracking.connect(arguments.tracking_uri)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with server(uri) as address:
        missing = [look(address, pages(arguments.experiment), arguments.out, width=width) for width in WIDTHS]
    return 1 if any(missing) else 0


if __name__ == "__main__":
    sys.exit(main())
