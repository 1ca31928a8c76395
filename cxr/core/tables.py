"""Tables of results as text for people: in a notebook, in a report, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

import pandas as pd

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


def text(shown: pd.DataFrame) -> str:
    """A table of strings for the terminal: names aligned left, numbers aligned right."""
    lines: list[list[str]] = [[] for _ in range(len(shown) + 1)]
    for name in shown.columns:
        texts = [name, *shown[name]]
        width = max(map(len, texts))
        left = name in ("architecture", "method", "metric")
        for line, item in zip(lines, texts, strict=True):
            line.append(item.ljust(width) if left else item.rjust(width))
    return "\n".join("  ".join(line).rstrip() for line in lines)


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
