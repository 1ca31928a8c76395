"""The figure of drift by what became of an image's answer."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from cxr.metrics.metric_table import METRICS
from cxr.report.figures.layout import arrange, make_panels, name_axis, shared_legend
from cxr.report.figures.marks import bands, dots
from cxr.report.figures.style import wrapped


def answers(table: pd.DataFrame, *, level: float = 0.95) -> Figure:
    """Median overlap by answer, beside the level of two patients; a panel an architecture.

    Parameters
    ----------
    table : one row an architecture, method and answer: architecture, method, answer, n_images, overlap_median,
        overlap_ci_low, overlap_ci_high (NaN: no interval, or no image), and the baseline
        `overlap_two_patients_<part>` of the cell, drawn as a band.
    level : of the intervals, for the axis label.
    """
    names, methods, order = (list(dict.fromkeys(table[key])) for key in ("architecture", "method", "answer"))
    figure, axes = make_panels(len(names), order, methods, sharey=True, most=2)
    for axis, name in zip(axes, names, strict=True):
        own = table[table["architecture"] == name]
        places = own.drop(columns="architecture").rename(columns={"answer": "architecture"})
        _, _, cells, slot = arrange(places, order)
        bands(axis, cells, "overlap", slot)
        dots(axis, cells, "overlap_median", "overlap_ci_low", "overlap_ci_high")
        counts = own.groupby("answer")["n_images"].max()
        axis.set_title(name, fontsize=9)
        name_axis(axis, order)
        axis.set_xticks(range(len(order)), [f"{answer}\n({counts[answer]})" for answer in order], fontsize=8)
        axis.set_ylim(0, 1)
        axis.set_xlabel("answer (images, all seeds)", fontsize=9)
        axis.set_ylabel(f"{wrapped(METRICS['overlap'].label)}\nmedian, {level:.0%} interval", fontsize=9)
    shared_legend(figure, axes, rename={"two patients (same class)": "two patients (images scored)"})
    return figure
