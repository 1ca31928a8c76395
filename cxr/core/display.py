"""Figures, tables and sentences in the output of a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cxr.core import tables

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FINE = 150  # dots an inch of figures in files and notebooks
# options of `Figure.savefig`: pictures take half the time of Pillow's own level, 6; files are 2 to 6 % larger
PNG = {"pil_kwargs": {"compress_level": 4}}
# `element` is where Jupyter puts the output of the script
_SCROLL = 'if (typeof element !== "undefined") setTimeout(() => element.scrollIntoView({block: "center"}), 500)'


def show_figure(figure: Figure, png: bytes = b"") -> None:
    """Show a figure in a notebook and close it.

    As an image: with `MPLBACKEND=Agg` in the environment, `plt.show()` would show nothing.

    Args: png: the figure as a PNG file of 150 dots an inch, where it is at hand: drawing takes a while.
    """
    from IPython.display import Image, display

    if not png:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=FINE, bbox_inches="tight", **PNG)
        png = buffer.getvalue()
    close(figure)
    pixels = int.from_bytes(png[16:20], "big")  # the width, in a PNG's header
    display(Image(png, width=round(pixels * 100 / FINE)))  # in the size of 100 dots an inch


def close(figure: Figure) -> None:
    """Close a figure: Jupyter shows those that are open at the end of a cell."""
    import matplotlib.pyplot as plt

    plt.close(figure)


def show_table(table: pd.DataFrame, *, links: Mapping[str, Callable[[str], str]] | None = None) -> None:
    """Show a table of results with headings, three decimals, and intervals in brackets (`tables.readable`).

    `links`: for columns of run ids (separated by spaces in a cell), the function that gives the address of an id.
    """
    from IPython.display import HTML, display

    display(HTML(tables.html(tables.readable(table), links=links)))


def say(text: str) -> None:
    """Show a sentence, in Markdown, in the notebook and in the report."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def scroll_here() -> None:
    """Move the page to the output of the running cell; nothing outside of a Jupyter kernel.

    *Run All Cells* of JupyterLab moves the page to the last cell, also if a cell above has failed.
    """
    from IPython import get_ipython
    from IPython.display import display

    if hasattr(get_ipython(), "kernel"):
        display({"application/javascript": _SCROLL}, raw=True)
