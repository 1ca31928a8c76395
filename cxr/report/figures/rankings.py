"""Figures of rankings: under each method, and in every analysis of the multiverse."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cxr.report.figures.style import COLOURS, FONT, MARKERS, METHOD_LABELS, WIDTH, plain

# the choices of an analysis, in the order of the rows under a specification curve
_CHOICES = {"variant": "variant", "q": "area q", "grid": "grid", "images": "images", "scale": "scale"}


def ranking(ranks: pd.DataFrame, *, title: str = "") -> Figure:
    """The ranks of the architectures under each method (1: moved least). Crossing lines are reversals.

    `ranks` has one row an architecture, one column a method.
    """
    methods = list(ranks.columns)
    width = min(WIDTH, 2.6 + 1.5 * len(methods))
    figure, axis = plt.subplots(figsize=(width, max(2.1, 1.1 + 0.42 * len(ranks))), layout="constrained")
    for number, (name, row) in enumerate(ranks.iterrows()):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(range(len(methods)), row[methods].to_numpy(float), "-o", color=colour, markersize=7)
        spot = (len(methods) - 1, row[methods[-1]])
        style = {"va": "center", "color": colour, "fontsize": FONT, "annotation_clip": False}
        axis.annotate(name, spot, (8, 0), textcoords="offset points", **style)
    letters = max(8, int((width - 2.2) / len(methods) / 0.066))
    labels = [textwrap.fill(METHOD_LABELS[method], letters) for method in methods]
    axis.set_xticks(range(len(methods)), labels)
    axis.set_yticks(range(1, len(ranks) + 1))
    axis.set_xlim(-0.3, len(methods) - 1 + 0.1)
    axis.set_ylabel("rank (1: moved least)", fontsize=FONT)
    axis.set_ylim(len(ranks) + 0.4, 0.6)
    axis.tick_params(labelsize=FONT)
    axis.spines[["top", "right"]].set_visible(False)
    known = ranks.dropna()
    same = all((known[method] == known[methods[0]]).all() for method in methods)
    message = "The order of the networks is the same under every method"
    if len(methods) == 1:
        message = "The order of the networks"
    elif not same:
        message = "The order of the networks depends on the method"
    figure.suptitle(f"{message} ({title})" if title else message, fontsize=9.5, weight="bold", x=0.01, ha="left")
    return figure


def specification_curve(
    analyses: pd.DataFrame,
    rankings: pd.DataFrame | None = None,
    *,
    method: str,
    label: str = "overlap, raw or corrected",
) -> Figure:
    """Specification curve (Simonsohn, Simmons and Nelson 2020) of the architectures' stability under one method.

    Parameters
    ----------
    analyses : one row an analysis x architecture x method: variant, q, grid, images, scale (the choices of
        an analysis), architecture, method, value (higher is more stable; NaN where missing), complete (bool),
        is_default (bool, one analysis a method), uses_default_maps (bool: the variant exists for another method
        only; these rows are left out, as they repeat those of the default variant).
    rankings : `multiverse.rankings`: the choices, method_a, method_b and reversal (bool, missing where it
        cannot be asked). Where `method` is one of the two, a last row marks the analyses in which the two methods
        rank some pair of architectures in opposite ways. None: no such row.
    method : the one to show.
    label : the name of `value`, for the axis.

    The default analysis finds one architecture most stable and one least stable. Analyses are sorted by the
    difference between these two; a negative difference reverses the finding. Analyses without one of the two
    values come last. The upper panel has a point for each architecture, hollow where the analysis is incomplete.
    Below are the difference and the choices.
    """
    table = analyses[(analyses["method"] == method) & ~analyses["uses_default_maps"]]
    keys = list(_CHOICES)
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    names = list(dict.fromkeys(table["architecture"]))
    default = np.unique(codes[table["is_default"].to_numpy(bool)])
    values = table.assign(analysis=codes).pivot(index="analysis", columns="architecture", values="value")[names]
    ranked = values.loc[default[0]].dropna().sort_values(ascending=False, kind="stable").index
    first, last = ranked[0], ranked[-1]
    difference = values[first] - values[last]
    order = difference.sort_values(kind="stable", na_position="last").index
    values, difference = values.loc[order], difference.loc[order]
    chosen = table.assign(analysis=codes).groupby("analysis")[keys].first().loc[order]
    complete = table["complete"].to_numpy(bool)
    complete = pd.Series(complete).groupby(codes).all().loc[order].to_numpy()
    x = np.arange(len(order))
    here = list(order).index(default[0])

    options = {}
    for key in keys:
        found = [value for value in dict.fromkeys(chosen.loc[chosen.index.sort_values(), key]) if pd.notna(value)]
        options[key] = sorted(found) if key == "q" else found
    options = {key: found for key, found in options.items() if found}
    opposite = _reversed_analyses(rankings, chosen, method)
    if opposite is not None:
        options["opposite"] = [opposite[0]]
        chosen = chosen.assign(opposite=np.where(opposite[1], opposite[0], None))
    heights = [2.3, 1.2, *(0.08 + 0.18 * len(found) for found in options.values())]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(WIDTH, sum(heights) + 1.0),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)
    axes = axes[:, 0]
    for axis in axes:
        axis.axvspan(here - 0.5, here + 0.5, color=COLOURS[4], alpha=0.35, linewidth=0)
        axis.tick_params(labelsize=FONT)
    size = float(np.clip(240 / len(x), 3, 7))
    for number, name in enumerate(names):
        colour, value = COLOURS[number % len(COLOURS)], values[name].to_numpy(float)
        for marks, face in ((complete, colour), (~complete, "white")):
            axes[0].plot(
                x[marks],
                value[marks],
                MARKERS[number % len(MARKERS)],
                color=colour,
                markerfacecolor=face,
                markersize=size,
                label=name if face != "white" else None,
            )
    axes[0].set_ylabel(f"{label}\nhigher: moved less", fontsize=FONT)
    axes[0].grid(axis="y", color="0.9")
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(Rectangle((0, 0), 1, 1, color=COLOURS[4], alpha=0.35, linewidth=0))
    labels.append("default analysis")
    if not complete.all():
        handles.append(Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle=""))
        labels.append("incomplete analysis (hollow, pale)")
    axis = axes[1]
    height = difference.to_numpy(float)
    known = np.isfinite(height)
    colours = [
        (COLOURS[1] if value < 0 else "#4D4D4D", 1.0 if solid else 0.4)
        for value, solid in zip(height[known], complete[known], strict=True)
    ]
    axis.bar(x[known], height[known], width=0.8, color=colours)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_ylabel(f"{first}\n\N{MINUS SIGN} {last}", fontsize=FONT)
    ranks = values.rank(axis=1)  # ties share a rank: another order than one without ties
    whole = values.notna().all(axis=1).to_numpy() & complete  # incomplete analyses have no ranks
    same = (ranks.to_numpy() == ranks.loc[default[0]].to_numpy()).all(1) & whole
    negative, asked = height < 0, known & complete
    counted = f"{int((negative & asked).sum())} of {int(asked.sum())} complete analyses"
    title = f"{METHOD_LABELS[method]}: {counted} reverse {first} and {last}"
    figure.suptitle("\n".join(textwrap.wrap(title, 88)), fontsize=9.5, weight="bold", x=0.01, ha="left")
    text = f"{len(x)} analyses"
    if len(names) > 2 and whole[here]:
        text += (
            f"; all {len(names)} networks as in the default analysis in {int(same.sum())} of {int(whole.sum())}"
        )
    axis.set_title(text, fontsize=FONT, loc="left", pad=3)
    for axis, (key, found) in zip(axes[-len(options) :], options.items(), strict=True):
        for row, option in enumerate(found):
            spots = x[(chosen[key] == option).to_numpy()]
            axis.plot(
                spots,
                np.full(len(spots), row),
                "|",
                color=COLOURS[1] if key == "opposite" else "black",
                markersize=8,
                markeredgewidth=1.6,
            )
        axis.set_yticks(range(len(found)), [_option(key, option) for option in found], fontsize=FONT)
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set_ylabel(
            _CHOICES.get(key, "reversal"), fontsize=FONT, rotation=0, ha="right", va="center", fontweight="bold"
        )
        axis.tick_params(axis="x", bottom=False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[-1].set_xlim(-0.8, len(x) - 0.2)
    axes[-1].set_xlabel("analysis, sorted by the difference", fontsize=FONT)
    axes[-1].tick_params(axis="x", bottom=True)
    axes[-1].spines["bottom"].set_visible(True)
    figure.align_ylabels(axes[: -len(options)])
    figure.align_ylabels(axes[-len(options) :])
    style = {"loc": "outside lower center", "frameon": False, "fontsize": FONT, "columnspacing": 1.2}
    figure.legend(handles, labels, ncols=min(4, len(labels)), **style)
    return figure


def _option(key: str, value: object) -> str:
    """A choice, as text for readers."""
    if key == "q":
        return f"top {float(value):.0%}"
    return plain(value)


def _reversed_analyses(
    rankings: pd.DataFrame | None, chosen: pd.DataFrame, method: str
) -> tuple[str, np.ndarray] | None:
    """Where two methods rank some pair of architectures in opposite ways.

    Returns: a label, and a bool for each row of `chosen`. None where `method` is not one of the two of `rankings`,
        or no analysis has an answer.
    """
    if rankings is None or rankings.empty:
        return None
    table = rankings[(rankings["method_a"] == method) | (rankings["method_b"] == method)].dropna(subset="reversal")
    if table.empty:
        return None
    other = table["method_b"].where(table["method_a"] == method, table["method_a"]).unique()
    opposite = set(table.loc[table["reversal"].astype(bool), list(_CHOICES)].itertuples(index=False, name=None))
    rows = chosen[list(_CHOICES)].itertuples(index=False, name=None)
    label = "against " + ", ".join(METHOD_LABELS[name] for name in other)
    return label, np.array([row in opposite for row in rows])
