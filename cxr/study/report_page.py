"""The report of a study as one HTML file: the compare notebook without its code."""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

from cxr import tracking
from cxr.core.execution import PROGRESS
from cxr.core.files import atomic


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

    Cells tagged `hide`, output to stderr and progress lines are left out.
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
    )
    body, _ = exporter.from_notebook_node(pages, resources={"metadata": {"path": str(Path(notebook).parent)}})
    with atomic(html) as temporary:
        temporary.write_text(body, encoding="utf-8")


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
