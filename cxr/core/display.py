"""Figures and tables in front of a reader of a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cxr.core import tables

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def show_figure(figure: Figure) -> None:
    """Show a figure in a notebook and close it.

    As an image: with `MPLBACKEND=Agg` in the environment, `plt.show()` would show nothing.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Image, display

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    display(Image(buffer.getvalue()))


def show_table(table: pd.DataFrame, *, links: Mapping[str, Callable[[str], str]] | None = None) -> None:
    """Show a table of results as people read it: headings, three decimals, intervals in brackets.

    Columns of `links` hold run ids, several in a cell with spaces between; `links` makes an id's address.
    """
    from IPython.display import HTML, display

    display(HTML(tables.html(tables.readable(table), links=links)))
