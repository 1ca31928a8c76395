"""Tables of results as text for people: in a notebook, in a report, on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from html import escape

import pandas as pd

from cxr.core.terminal import WIDTH

HEADINGS = {
    "auc_macro_before": "AUC before",
    "auc_macro_after": "AUC after",
    "centroid_shift_median": "centroid shift",
    "overlap_median": "overlap",
    "overlap_ci_low": "low",
    "overlap_ci_high": "high",
    "overlap_two_patients_median": "two patients",
    "overlap_two_heads_median": "two heads",
    "overlap_two_seeds_median": "two seeds",
    "overlap_more_training_median": "as many epochs again",
    "overlap_corrected_median": "corrected overlap",
    "overlap_corrected_ci_low": "low",
    "overlap_corrected_ci_high": "high",
    "overlap_share_of_two_seeds": "share of two seeds",
    "n_images": "images",
    "n_empty": "empty maps",
    "map_check": "passes its checks",
}
"""Headings of columns for people; other columns keep their names."""
MARKS = {"yes": "", "not checked": "? ", "no": "! "}
"""By whether maps pass their checks: the mark before their numbers."""
MEANING = {
    "yes": "These maps pass their checks",
    "not checked": "These maps were not checked",
    "no": "These maps FAIL their checks; their numbers may say nothing about the network",
}
"""What the marks mean."""
_NAMES = ("architecture", "network", "method", "metric", "model", "question", "answer")


def percent(share: float) -> str:
    """A share in percent, with all of its digits: 0.95 is "95%", 0.995 is "99.5%"."""
    return f"{100 * share:.6g}%"


def span(values: pd.Series) -> str:
    """The lowest and the highest value with two digits, "0.20 to 0.35"; once if they are the same."""
    low, high = (f"{value:.2f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of results as text for people.

    It has headings, whole counts, other numbers with three decimals, "-" for missing ones, and each interval in
    brackets after its median.
    """
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.endswith(("_ci_low", "_ci_high")):
            continue
        texts = [_cell(name, value) for value in table[name].tolist()]
        stem = name.removesuffix("_median")
        if f"{stem}_ci_low" in table:
            bounds = zip(table[f"{stem}_ci_low"], table[f"{stem}_ci_high"], strict=True)
            ranges = [f"[{_cell(name, low)}, {_cell(name, high)}]" for low, high in bounds]
            texts = [
                text if "-]" in limits else f"{text} {limits}" for text, limits in zip(texts, ranges, strict=True)
            ]
        shown[HEADINGS.get(name, stem)] = texts
    return shown


def text(shown: pd.DataFrame, *, width: int = WIDTH) -> str:
    """A table of strings for the terminal: names aligned left, numbers aligned right (`lines`)."""
    heading, rows = lines(shown, width=width)
    return "\n".join([heading, *rows])


def lines(shown: pd.DataFrame, *, width: int = WIDTH) -> tuple[str, list[str]]:
    """The headings of a table of strings, and its rows, each as text for the terminal.

    A heading may have several lines. Names that do not fit into the width are wrapped within their column, the
    longest first; numbers never are.
    """
    table = [list(shown.columns), *shown.astype(str).to_numpy().tolist()]
    cells = [[str(cell).split("\n") for cell in row] for row in table]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    names = [k for k, name in enumerate(shown.columns) if name in _NAMES]
    while names and sum(widths) + 2 * (len(widths) - 1) > width:
        longest = max(names, key=widths.__getitem__)
        if widths[longest] <= 8:
            break
        widths[longest] -= 1
    out = []
    for row in cells:
        for k in names:
            row[k] = [part for line in row[k] for part in textwrap.wrap(line, widths[k], subsequent_indent="  ")]
        high = max(map(len, row))
        padded = []
        for k, cell in enumerate(row):
            blank = [""] * (high - len(cell))
            # headings stand on the first row of numbers, rows begin on the line of their name
            cell = [*blank, *cell] if not out else [*cell, *blank]
            padded.append([line.ljust(widths[k]) if k in names else line.rjust(widths[k]) for line in cell])
        out.append("\n".join("  ".join(parts).rstrip() for parts in zip(*padded, strict=True)))
    return out[0], out[1:]


def in_sections(shown: pd.DataFrame, checks: Sequence[str]) -> str:
    """A table of strings for the terminal (`lines`). Rows whose maps were not checked or fail come last, marked.

    A line above them says what is the matter, and their first column begins with the mark.

    Args:
        checks: for each row, "yes" (its maps pass their checks), "not checked" or "no".
    """
    order = pd.Series(list(checks)).map(list(MARKS).index).argsort(kind="stable")
    checks = [checks[row] for row in order]
    shown = shown.iloc[order]
    first = shown.columns[0]
    marked = [MARKS[check] + name for check, name in zip(checks, shown[first], strict=True)]
    heading, rows = lines(shown.assign(**{first: marked}))
    out = [heading]
    for check in MARKS:
        own = [row for row, is_of in zip(rows, checks, strict=True) if is_of == check]
        out += ["", f"{MARKS[check]}{MEANING[check]}:"] if own and MARKS[check] else []
        out += own
    return "\n".join(out)


def numbers(table: pd.DataFrame, *columns: str, interval: str = "", digits: int = 2) -> list[str]:
    """The values of some columns of each row, side by side, as text; "-" for a missing value or column.

    `interval`: the stem of the columns `<stem>_ci_low` and `<stem>_ci_high`, whose values follow in brackets.
    """
    ends = [f"{interval}_ci_{end}" for end in ("low", "high")] if interval else []
    rows = table.reindex(columns=[*columns, *ends]).astype(float).to_numpy()
    out = []
    for row in rows:
        texts = ["-" if value != value else f"{value:.{digits}f}" for value in row]
        values, limits = texts[: len(columns)], texts[len(columns) :]
        brackets = [f"[{', '.join(limits)}]"] if limits and "-" not in limits else []
        out.append(" ".join([*values, *brackets]))
    return out


def html(shown: pd.DataFrame, *, links: Mapping[str, Callable[[str], str]] | None = None) -> str:
    """A table of strings as HTML: aligned left, wrapped and escaped.

    `links`: for columns of run ids (separated by spaces in a cell), the function that gives the address of an id.
    """
    rule = (
        "text-align: left !important; white-space: normal; vertical-align: top; padding: 3px 5px; font-size: 11px"
    )
    wide = "table.cxr {display: block; overflow-x: auto; max-width: 100%; font-size: 11px}"
    style = f"<style>.cxr td, .cxr th {{{rule}}} {wide}</style>"
    cells = shown.astype(str).map(escape)
    for column, address in (links or {}).items():
        cells[column] = [
            " ".join(f'<a href="{escape(address(key))}">{escape(key[:8])}</a>' for key in keys.split())
            for keys in shown[column]
        ]
    cells.columns = [escape(str(name)).replace("_", "_<wbr>") for name in cells.columns]  # where a line may break
    with pd.option_context("display.max_colwidth", None):
        return style + cells.to_html(index=False, border=0, classes="cxr", escape=False)


def _cell(name: str, value: float | str | None) -> str:
    if value is None or value != value:
        return "-"
    if name.startswith(("n_", "seed")):
        return f"{float(value):.0f}"
    if name in ("p", "p_holm", "p_friedman", "p_follows") and 0 <= value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
