"""Executed notebooks of a finished study as Markdown pages with pictures: the pages in this folder.

    make examples                 (or: python docs/examples/render.py STUDY)

It reads the notebooks that the study's runs logged, and executes none of them; only `explore`, which reads
finished runs and has no run of its own, is executed (some seconds). Text and code come from the notebooks as they
are now. The code has to be the code that the study ran: comments and layout may differ.

A page is the record of a run, and names its commit. `tests/test_examples.py` compares it with the notebook of that
commit: the notebooks may have changed since.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode
from PIL import Image

from cxr import tracking
from cxr.core import execution
from cxr.core.errors import InputError
from cxr.tracking.source import cell_version

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
COMMAND = "make examples"
PAGES = {
    "report": "the report: what the study says, without code",
    "1_train": "train one network in two stages",
    "2_attribute": "compute the maps of both checkpoints, and check them",
    "3_score": "measure how far the evidence of every image moved",
    "4_compare": "the report with its code",
    "5_drift": "compare two models of your own",
    "explore": "look at one image at a time",
}
"""Pages, by the name of their file without suffix, and what each is about."""

_WIDTH = 720  # pixels; a code host shows a page little wider
_MOST_DRAWN = 10_000  # colours of a chart; radiographs have more
_LOCAL_LINK = re.compile(r"\[([^\]]*)\]\(https?://[^)]*#/experiments/[^)]*\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ASSIGNED = re.compile(r"^(\w+) = ", re.MULTILINE)
_PATH = re.compile(r"(?<![\w./<])/([\w.-]+)/[^\s\"'`|)]*")


@dataclass(frozen=True)
class Executed:
    """An executed notebook. `about`: the run that it made, in words; `commit`: of the code that it ran."""

    notebook: NotebookNode
    about: str
    commit: str


def notebook_of(page: str) -> Path:
    """The notebook that a page shows."""
    return PROJECT / "notebooks" / f"{'4_compare' if page == 'report' else page}.ipynb"


def shown_cells(page: str, commit: str = "") -> list[NotebookNode]:
    """The cells of a notebook that a page shows: all of them, or what readers of the report see.

    Args: commit: whose notebook; "": as it is now. Raises: CalledProcessError: git does not know the commit here.
    """
    path = notebook_of(page)
    if commit:
        words = ["git", "show", f"{commit}:{path.relative_to(PROJECT).as_posix()}"]
        text = subprocess.run(words, cwd=PROJECT, capture_output=True, check=True).stdout.decode()
    else:
        text = path.read_text(encoding="utf-8")
    cells = nbformat.reads(text, as_version=4).cells
    return [cell for cell in cells if page != "report" or "hide" not in cell.metadata.get("tags", [])]


def texts_of_notebook(page: str, commit: str) -> dict[str, str]:
    """Text and code that a page has to show, by the id of the cell. (The report shows no code.)"""
    return {
        cell.id: cell.source.strip()
        for cell in shown_cells(page, commit)
        if page != "report" or cell.cell_type == "markdown"
    }


def commit_of_page(page: str) -> str:
    """The commit of the code that made what a page shows."""
    return re.search(r"at commit `([0-9a-f]{7})`", _file(page).read_text(encoding="utf-8"))[1]


def texts_of_page(page: str, commit: str) -> dict[str, str]:
    """Text and code that a page shows, by the id of the cell: the counterpart of `texts_of_notebook`."""
    kinds = {cell.id: cell.cell_type for cell in shown_cells(page, commit)}
    _, *parts = re.split(r"^<!-- cell (\S+) -->$", _file(page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    if page == "report":
        found = {key: text for key, text in found.items() if kinds.get(key) != "code"}
    return {key: _code(text) if kinds.get(key) == "code" else text.strip() for key, text in found.items()}


def _code(text: str) -> str:
    block = re.search(r"^```python\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    return block[1].strip() if block else ""


def _file(page: str) -> Path:
    return HERE / f"{page}.md"


# ------------------------------------------------------------------------------------------ reading a study


def read(study: str) -> dict[str, Executed]:
    """The executed notebooks of a finished study, by the page that shows them.

    Of 1_train to 3_score, those of one cell: the first network and method whose maps pass their checks, with the
    first seed. `5_drift` compares the checkpoints of the same training, as if they were models of one's own.

    Raises:
        InputError: a run is missing, or has no notebook.
    """
    compare = _newest("compare", study)
    summary = compare.table("summary.csv")
    passing = summary[summary["map_check"] == "yes"] if "map_check" in summary else summary
    first = (passing if len(passing) else summary).iloc[0]
    scores = tracking.find("score", experiment=study)
    wanted = {"architecture": first["architecture"], "method": first["method"]}
    scores = [run for run in scores if all(run.params[key] == value for key, value in wanted.items())]
    score = min(scores, key=lambda run: int(run.params["seed"]))
    runs = {
        "report": compare,
        "1_train": tracking.stored(score.params["train_run"]),
        "2_attribute": tracking.stored(score.params["attribute_run"]),
        "3_score": score,
        "4_compare": compare,
    }
    runs["5_drift"] = _pair(study, runs["1_train"])
    found = {page: _logged(run) for page, run in runs.items()}
    return {**found, "explore": _explored(study, found["report"].commit)}


def _pair(study: str, train: tracking.StoredRun) -> tracking.StoredRun:
    """The comparison of both checkpoints of a training by `cxr drift`, which is no part of the study."""
    experiment = f"{study}-drift"
    try:
        return _newest("drift", experiment)
    except InputError as error:
        folder = f"mlruns/artifacts/{study}/{train.run_id}/artifacts/checkpoints"
        models = f"{folder}/before.keras {folder}/after.keras"
        raise InputError(
            f"{error}: run `cxr drift {models} phantom --split test --name {experiment} "
            f"--out mlruns/{experiment}.parquet` (a minute)"
        ) from None


def _newest(stage: str, experiment: str) -> tracking.StoredRun:
    runs = [run for run in tracking.find(stage, experiment=experiment) if run.has("notebook.ipynb")]
    if not runs:
        raise InputError(f"no finished {stage} run with its notebook in the experiment '{experiment}'")
    return runs[0]


def _logged(run: tracking.StoredRun) -> Executed:
    notebook = nbformat.read(run.file("notebook.ipynb"), as_version=4)
    return Executed(notebook, run.name, run.tags.get("mlflow.source.git.commit", "")[:7])


def _explored(study: str, commit: str) -> Executed:
    """`explore`, executed here: it reads the study's runs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "explore.ipynb"
        words = [sys.executable, "-m", "papermill", str(notebook_of("explore")), str(out), "-k", "python3"]
        done = subprocess.run([*words, "--no-progress-bar", "-p", "name", study], capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"explore.ipynb failed: {done.stderr.strip().splitlines()[-1]}")
        return Executed(nbformat.read(out, as_version=4), "explore", commit)


# ------------------------------------------------------------------------------------------ writing a page


class Writer:
    """Writes pages, and pictures beside them: a picture that two pages show is one file."""

    def __init__(self, folder: Path, study: str) -> None:
        self.folder, self.study = folder, study

    def page(self, name: str, executed: Executed) -> str:
        """The Markdown of a page.

        Raises:
            InputError: the study ran other code, or the page would name a folder or server of this machine.
        """
        cells = executed.notebook.cells
        given = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
        ran = {cell.id: cell for cell in cells if cell not in given}
        parts, heading = [self._head(name, executed)], name
        for cell in shown_cells(name):
            parts.append(f"<!-- cell {cell.id} -->")
            if cell.cell_type == "markdown":
                parts.append(cell.source.strip())
                heading = (_HEADING.findall(cell.source) or [heading])[-1]
                continue
            if cell.id not in ran or cell_version(ran[cell.id].source) != cell_version(cell.source):
                raise InputError(
                    f"{notebook_of(name).name}, cell {cell.id}: the study '{self.study}' ran other code: run the "
                    f"study again, or this notebook with papermill, and then `{COMMAND}`"
                )
            if name != "report":
                parts += self._input(cell, given)
            parts += self._outputs(cell.id, ran[cell.id].outputs, heading)
        text = "\n\n".join(parts) + "\n"
        if found := private(text):
            raise InputError(f"{name}.md would name a folder or server of this machine: {', '.join(found)}")
        return text

    def _head(self, name: str, executed: Executed) -> str:
        links = [f"[{other}]({other}.md)" if other != name else f"**{other}**" for other in PAGES]
        return (
            f"> An example, written by `{COMMAND}` from the run *{executed.about}* of the study `{self.study}`, "
            f"at commit `{executed.commit}`.\n> {' · '.join(links)}"
        )

    def _input(self, cell: NotebookNode, given: Sequence[NotebookNode]) -> Iterator[str]:
        code = f"```python\n{cell.source.strip()}\n```"
        if "parameters" not in cell.metadata.get("tags", []):
            yield code
            return
        yield _folded("Parameters", code)
        own = set(_ASSIGNED.findall(cell.source))
        for other in given:  # papermill's cell has the parameters of all notebooks
            lines = [line for line in other.source.splitlines() if own & set(_ASSIGNED.findall(line))]
            yield _folded("Values that the study gives them", "```python\n" + "\n".join(lines) + "\n```")

    def _outputs(self, cell: str, outputs: Sequence[NotebookNode], heading: str) -> Iterator[str]:
        printed = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
        lines = [line for line in printed.splitlines() if not line.startswith(execution.PROGRESS)]
        if lines:
            yield "```\n" + "\n".join(lines) + "\n```"
        pictures = itertools.count()
        for output in outputs:
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                yield "*(Here are widgets: open the notebook in JupyterLab.)*"
            elif "image/png" in data:
                name = f"{cell}-{next(pictures)}"
                yield self._picture(name, base64.b64decode(data["image/png"]), heading)
            elif "text/markdown" in data:
                yield _LOCAL_LINK.sub(r"\1", data["text/markdown"])
            elif "text/html" in data:
                yield markdown(data["text/html"])
            elif "text/plain" in data:
                yield f"```\n{data['text/plain']}\n```"

    def _picture(self, name: str, png: bytes, heading: str) -> str:
        picture = Image.open(io.BytesIO(png)).convert("RGB")
        if picture.width > _WIDTH:
            picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.LANCZOS)
        content = io.BytesIO()
        if picture.getcolors(_MOST_DRAWN):
            suffix = "png"
            few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(content, "PNG", optimize=True)
        else:
            suffix = "jpg"
            picture.save(content, "JPEG", quality=70, subsampling=0, optimize=True)
        file = self.folder / "pictures" / f"{name}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
        return f"![{heading}](pictures/{file.name})"


def private(text: str) -> list[str]:
    """Folders and servers of this machine that a text names."""
    folders = [match[0] for match in _PATH.finditer(text) if Path("/", match[1]).is_dir()]
    names = ("127.0.0.1", "localhost", socket.gethostname())
    return folders + [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]


def markdown(html: str) -> str:
    """HTML of a notebook's output as Markdown for a code host: no styles, tables as Markdown tables.

    Code hosts show the tags that are left (`<details>`, `<b>`, `<p>`), without their attributes.
    """
    page = BeautifulSoup(html, "html.parser")
    for tag in page.find_all("style"):
        tag.decompose()
    tables = {}
    for tag in page.find_all("table"):
        place = f"table{len(tables)}"
        tables[place] = _table(tag)
        tag.replace_with(f"\n\n{place}\n\n")
    for tag in page.find_all(True):
        tag.attrs = {}
        if tag.name in ("div", "a", "span"):
            tag.unwrap()
        elif tag.name == "details":
            tag.insert_before("\n\n")
            tag.insert_after("\n\n")
    text = re.sub(r"\n\s*\n+", "\n\n", str(page)).strip()
    return re.sub(r"table\d+", lambda match: tables.get(match[0], match[0]), text)


def _table(table: Tag) -> str:
    rows = _grid(table)
    heads = len(table.find("thead").find_all("tr")) if table.find("thead") else 1
    # pandas writes groups of columns, and the name of the index, into rows of their own
    head = [" ".join(filter(None, dict.fromkeys(texts))) for texts in zip(*rows[:heads], strict=True)]
    lines = [head, ["---"] * len(head), *rows[heads:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _grid(table: Tag) -> list[list[str]]:
    """The texts of a table by row. A cell over several columns fills all of them; one over rows, the first."""
    rows: list[list[str]] = []
    taken: dict[int, int] = {}  # columns that a cell of an earlier row still covers, and for how many rows
    for row in table.find_all("tr"):
        texts: list[str] = []
        cells = row.find_all(["th", "td"])
        while cells or taken.get(len(texts)):
            if taken.get(len(texts)):
                taken[len(texts)] -= 1
                texts.append("")
                continue
            cell = cells.pop(0)
            for _ in range(int(cell.get("colspan", 1))):
                taken[len(texts)] = int(cell.get("rowspan", 1)) - 1
                texts.append(_cell(cell))
        rows.append(texts)
    return rows


def _cell(cell: Tag) -> str:
    return " ".join(cell.get_text(" ").split()).replace("|", "\\|").replace("<", "&lt;")


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def index(study: str, executed: Executed) -> str:
    """The page that leads to the others."""
    lines = [f"- [{name}]({name}.md): {about}" for name, about in PAGES.items()]
    return (
        "# What a study looks like\n\n"
        f"These pages show the finished study `{study}` and its notebooks, with all numbers, tables and pictures. "
        "**Its images are synthetic.** Nothing has to be run to read them.\n\n"
        + "\n".join(lines)
        + f"\n\n`{COMMAND}` writes them from the runs of the study, at commit `{executed.commit}`; "
        "a test compares them with the notebooks of that commit. Notebooks may have changed since.\n"
    )


def write(study: str, folder: Path = HERE) -> None:
    """Write all pages and pictures of a study into a folder; pictures of earlier pages go. Raises InputError."""
    tracking.connect()
    executed = read(study)
    with tempfile.TemporaryDirectory() as temporary:
        writer = Writer(Path(temporary), study)
        texts = {name: writer.page(name, executed[name]) for name in PAGES}
        shutil.rmtree(folder / "pictures", ignore_errors=True)
        shutil.copytree(Path(temporary) / "pictures", folder / "pictures")
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(index(study, executed["report"]), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".md", ".png", ".jpg"))
    print(f"{folder}: {len(PAGES)} pages and their pictures, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", default="phantom", help="its name (default: phantom)")
    try:
        write(parser.parse_args().study)
    except InputError as error:
        sys.exit(f"error: {error}")
