"""The report of a study as one HTML file: the compare notebook without its code, with a list of contents."""

from __future__ import annotations

import copy
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from cxr import tracking
from cxr.core.execution import PROGRESS
from cxr.core.files import atomic

APPENDIX = "Appendix"
"""The heading of the first level after which sections are listed as those of the appendix."""
# a heading of a Markdown cell, as nbconvert writes it
_HEADING = re.compile(r'<h(?P<level>[12]) id="(?P<id>[^"]*)">(?P<text>.*?)<a class="anchor-link"', re.DOTALL)
# What names of folders and classes smuggle in loads nothing and runs nothing.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'\">"
)
_STYLE = """<style>
body.jp-Notebook {padding: 12px}
main {max-width: 1000px; margin: 0 auto}
main .jp-Cell {padding: 2px 0}
main .jp-RenderedMarkdown, main .jp-RenderedHTMLCommon {padding: 0}
.cxr-contents {border: 1px solid #ccc; border-radius: 4px; padding: 8px 12px; margin: 12px 0; font-size: 14px}
.cxr-contents a {margin-right: 14px; white-space: nowrap}
</style>"""


def fetch(run_id: str, html: Path) -> None:
    """Write the report of a compare run to `html`.

    A compare notebook that was run by hand has no report yet: it is made from the logged notebook, and logged.
    """
    run = tracking.stored(run_id)
    if run.has("report.html"):
        with atomic(html) as temporary:
            shutil.copyfile(run.file("report.html"), temporary)
    else:
        export(run.file("notebook.ipynb"), html)
        tracking.log_file_as(run_id, html, "report.html")


def export(notebook: str | Path, html: str | Path) -> None:
    """Write an executed notebook as a page for readers: no code, no prompts, images inside the file.

    Cells tagged `hide`, output to stderr and progress lines are left out. A list of contents stands after the
    first section.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    pages = copy.deepcopy(nbformat.read(str(notebook), as_version=4))
    for cell in pages.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_for_readers, cell.outputs) if output is not None]
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # "Alternative text is missing"
    config = Config()
    config.TagRemovePreprocessor.remove_cell_tags = {"hide"}
    config.TagRemovePreprocessor.enabled = True
    exporter = HTMLExporter(
        config=config,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        require_js_url="",  # the page loads nothing from the network
        mathjax_url="",
        mermaid_js_url="",
    )
    about = {"path": str(Path(notebook).parent), "name": "Report of a study"}
    body, _ = exporter.from_notebook_node(pages, resources={"metadata": about})
    body = _with_contents(body).replace("<head>", f"<head>{_POLICY}", 1).replace("</head>", f"{_STYLE}</head>", 1)
    with atomic(html) as temporary:
        temporary.write_text(body, encoding="utf-8")


def _with_contents(body: str) -> str:
    """The page with links to its sections, before the second of them; as it is with fewer than two."""
    found = list(_HEADING.finditer(body))
    sections = [heading for heading in found if heading["level"] == "2"]
    if len(sections) < 2:
        return body
    start = next((each.start() for each in found if (each["level"], each["text"]) == ("1", APPENDIX)), len(body))
    parts = {
        "Contents": [each for each in sections if each.start() < start],
        APPENDIX: [each for each in sections if each.start() > start],
    }
    links = {title: " ".join(map(_link, own)) for title, own in parts.items() if own}
    texts = "".join(f"<div><b>{title}:</b> {text}</div>" for title, text in links.items())
    at = sections[1].start()
    return f'{body[:at]}<nav class="cxr-contents">{texts}</nav>{body[at:]}'


def _link(heading: re.Match[str]) -> str:
    return f'<a href="#{heading["id"]}">{heading["text"]}</a>'


def _for_readers(output: Any) -> Any:
    """An output as readers see it; None for one that is left out."""
    if "text/markdown" in output.get("data", {}):
        # Markdown lets HTML through, and may hold names of paths and studies. Our own text has no tags.
        text = output.data["text/markdown"].replace("<", "&lt;")
        return type(output)({**output, "data": {**output.data, "text/markdown": text}})
    if output.output_type != "stream":
        return output
    lines = [line for line in output.text.splitlines(keepends=True) if not line.startswith(PROGRESS)]
    if output.name == "stderr" or not lines:
        return None
    return type(output)({**output, "text": "".join(lines)})
