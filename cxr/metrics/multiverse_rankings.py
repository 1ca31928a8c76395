"""How the order of architectures depends on the analysis: values, rankings and which choice matters.

For the tables of all score runs together (`cxr.metrics.multiverse.long_table`):

    analyses -> rankings -> summary, influence

Analyses share images and networks, and nobody drew them at random from a population. A share of analyses
therefore describes how far a ranking depends on choices that could have been made otherwise. It is neither a
probability nor a test (Steegen et al. 2016, Perspectives on Psychological Science 11, on the multiverse;
Simonsohn, Simmons and Nelson 2020, Nature Human Behaviour 4, on the specification curve).

A map has as much information as its layer's grid has cells. On a 4x4 grid, the top 5 % is one cell: the overlap
asks where the peak is, and an image's IoU is 0 or 1. On the image's grid the same map has thousands of pixels. But
they are interpolated from the 16 cells, and the top area is the surroundings of the peak cell. The IoU is between
0 and 1, and still depends on that cell. Therefore an analysis counts, on either grid, if its top area has at least
`LEAST_CELLS` cells of the layer's own grid in every run (`too_coarse` has the others). The study's own analysis is
always there, as the others are compared with it.

Ties are kept, and written "A = B".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from cxr.metrics import baselines
from cxr.metrics.map_features import top_count
from cxr.metrics.multiverse import (
    AXES,
    DEFAULT,
    GRIDS,
    LEAST_CELLS,
    PAIR,
    QS,
    RUN,
    SCALES,
    TWO_PATIENTS,
    VALUES,
    uses_default_maps,
)
from cxr.statistics import stability_ranks


def analyses(table: pd.DataFrame, *, images: str = "correct") -> pd.DataFrame:
    """The value of every architecture under every method in every analysis.

    Parameters
    ----------
    table : the `long_table`s of all runs, concatenated.
    images : the study's own choice of images, "correct" or "all".

    Returns
    -------
    DataFrame, a row per analysis, architecture and method, in this order:

    variant, grid ("image", "native"), q (0.05, 0.1, 0.2, 0.3), images ("correct", "all"), scale ("raw",
                  "corrected"): the analysis.
    architecture, method
    value         raw: median IoU over the images, averaged over seeds, empty pairs left out; NaN if none is left.
                  corrected: `baselines.corrected` of each seed's medians of the IoU and of that of two patients,
                  averaged over seeds; as in `cxr.report.comparison.summarise`.
    n_images      number of images over all seeds, with those that have an empty map.
    n_empty       number of images with an empty map, before or after.
    is_default    bool, whether this is the study's own analysis.
    uses_default_maps  bool, whether this method has no maps of this variant and uses its default maps
                  (`multiverse.uses_default_maps`). Its order is then that of another analysis.
    complete      bool, whether every architecture has this variant's maps under this method for every seed, and a
                  value. Incomplete analyses are shown, but not ranked.

    Analyses that are `too_coarse` are left out. A variant makes no analyses of its own if its maps are those of an
    earlier variant in every run that has it (`layer-penultimate`, if the default is at that layer in all
    architectures): they would count twice. If both checkpoints classify every image correctly, or only such images
    were explained, there is one level of images, the study's own.
    """
    own = dict(tuple(table.groupby([*RUN, "variant"], sort=False)))
    runs = list(table[RUN].drop_duplicates().itertuples(index=False, name=None))
    sources = _sources(own, runs, list(dict.fromkeys(["default", *table["variant"]])))
    subsets = [images] if table["both_correct"].all() else ["correct", "all"]
    cells = list(dict.fromkeys((architecture, method) for architecture, _, method in runs))

    coarse = set(_coarse(own, sources))
    rows = []
    for variant, subset in product(sources, subsets):
        found = {}
        for architecture, method in cells:
            keys = [
                (*run, source)
                for run, source in sources[variant].items()
                if run[0] == architecture and run[2] == method
            ]
            parts = [own[key] for key in keys if key[-1] is not None]
            part = pd.concat(parts) if parts else table[:0]
            if subset == "correct":
                part = part[part["both_correct"]]
            found[architecture, method] = {
                "values": _values(part),
                "n_images": len(part),
                "n_empty": int(part["empty"].sum()),
                "uses_default_maps": variant != "default" and any(key[-1] == "default" for key in keys),
                "complete": len(parts) == len(keys),
            }
        for grid, (q, name), scale in product(GRIDS, QS.items(), SCALES):
            analysis = {"variant": variant, "grid": grid, "q": q, "images": subset, "scale": scale}
            is_default = analysis == {**DEFAULT, "images": images}
            if (variant, q) in coarse and not is_default:
                continue
            for (architecture, method), cell in found.items():
                value = cell["values"][f"{name}@{grid}", scale]
                rows.append(
                    analysis
                    | {"architecture": architecture, "method": method, "value": value}
                    | {key: cell[key] for key in ("n_images", "n_empty")}
                    | {"is_default": is_default, "uses_default_maps": cell["uses_default_maps"]}
                    | {"complete": cell["complete"] and not np.isnan(value)}
                )
    frame = pd.DataFrame(rows)
    frame["complete"] = frame.groupby([*AXES, "method"], sort=False)["complete"].transform("all")
    return frame


def too_coarse(table: pd.DataFrame) -> pd.DataFrame:
    """The analyses that do not count: their top area has fewer than `LEAST_CELLS` cells of the layer's own grid.

    Parameters
    ----------
    table : the `long_table`s of all runs, concatenated.

    Returns
    -------
    DataFrame, a row per variant and q: variant, q, cells (of the top area, in the run with the fewest), n (number
    of analyses of this variant and q; without the study's own, which is always there).
    """
    own = dict(tuple(table.groupby([*RUN, "variant"], sort=False)))
    runs = list(table[RUN].drop_duplicates().itertuples(index=False, name=None))
    sources = _sources(own, runs, list(dict.fromkeys(["default", *table["variant"]])))
    each = len(GRIDS) * len(SCALES) * (1 if table["both_correct"].all() else 2)
    is_own = {(DEFAULT["variant"], DEFAULT["q"])}
    return pd.DataFrame(
        [
            {"variant": variant, "q": q, "cells": cells, "n": each - ((variant, q) in is_own)}
            for (variant, q), cells in _coarse(own, sources).items()
        ],
        columns=["variant", "q", "cells", "n"],
    )


def rankings(analyses: pd.DataFrame, *, coincide: Collection[str] = ()) -> pd.DataFrame:
    """How each analysis orders the architectures under the two methods `PAIR`.

    Parameters
    ----------
    analyses : as `analyses` returns them.
    coincide : variants at whose layer the two methods give the same map up to a factor: `layer-final`, which only
        global average pooling follows. If that is the study's target layer, also `default` and the other variants
        that are taken there.

    Returns
    -------
    DataFrame, a row per analysis that is complete under both methods, in the order of `analyses`; it may be empty:

    variant, grid, q, images, scale, is_default, method_a, method_b
    order_a, order_b            text, "A > B = C": from most to least stable; ties in the order of the table.
    spread_a, spread_b          largest minus smallest value.
    same_order_as_default_a, _b boolean, ties included: "A > B = C" is another order than "A > B > C".
    tau_a, tau_b                Kendall's tau-b with the default analysis's values; NaN where either is all ties.
    uses_default_maps_a, _b     bool, as in `analyses`.
    reversal                    boolean, whether some two architectures are ordered one way under method_a and the
                                other way under method_b (ties are neither).

    Missing (<NA>, NaN): comparisons with the default, if the default is incomplete under the method; reversal, for
    the variants in `coincide`; all of these with a single architecture.
    """
    method_a, method_b = PAIR
    methods = {"a": method_a, "b": method_b}
    whole = analyses[analyses["complete"] & analyses["method"].isin(PAIR)]
    own = {
        side: whole[whole["is_default"] & (whole["method"] == method)].set_index("architecture")["value"]
        for side, method in methods.items()
    }
    rows = []
    for analysis, group in whole.groupby(AXES, sort=False):
        if group["method"].nunique() < 2:
            continue
        row = dict(zip(AXES, analysis, strict=True))
        row |= {"is_default": bool(group["is_default"].iloc[0]), "method_a": method_a, "method_b": method_b}
        for side, method in methods.items():
            cell = group[group["method"] == method].set_index("architecture")
            values, reference = cell["value"], own[side]
            comparable = len(values) > 1 and len(reference) > 0
            order = order_text(values)
            row |= {
                f"order_{side}": order,
                f"spread_{side}": values.max() - values.min(),
                f"same_order_as_default_{side}": order == order_text(reference) if comparable else pd.NA,
                f"tau_{side}": _tau(values, reference[values.index]) if comparable else np.nan,
                f"uses_default_maps_{side}": bool(cell["uses_default_maps"].iloc[0]),
            }
        values = group.pivot(index="architecture", columns="method", values="value")
        askable = len(values.dropna()) > 1 and row["variant"] not in coincide
        row["reversal"] = bool(stability_ranks.reversals(values, method_a, method_b)) if askable else pd.NA
        rows.append(row)
    frame = pd.DataFrame(rows, columns=_RANKING_COLUMNS)
    three = ["same_order_as_default_a", "same_order_as_default_b", "reversal"]
    return frame.astype({name: "boolean" for name in three})


_RANKING_COLUMNS = [
    *AXES, "is_default", "method_a", "method_b", "order_a", "order_b", "spread_a", "spread_b",
    "same_order_as_default_a", "same_order_as_default_b", "tau_a", "tau_b",
    "uses_default_maps_a", "uses_default_maps_b", "reversal",
]  # fmt: skip


def order_text(values: pd.Series) -> str:
    """ "A > B = C": the index of `values` from the highest value to the lowest, ties in the order of the index."""
    ranked = values.sort_values(ascending=False, kind="stable")
    signs = ["", *(" = " if b == a else " > " for a, b in zip(ranked, ranked[1:], strict=False))]
    return "".join(f"{sign}{name}" for sign, name in zip(signs, ranked.index, strict=True))


def summary(rankings: pd.DataFrame) -> pd.DataFrame:
    """How often analyses keep the default order, and how often a pair of architectures reverses.

    Shares are counts over these analyses, not probabilities (see the module).

    Parameters
    ----------
    rankings : as `rankings` returns them.

    Returns
    -------
    DataFrame, the row ("all", "all") first, then a row for each level of each axis:

    axis, level      text ("q", "0.05").
    n                ranked analyses of the level.
    n_a, share_a     how many of them can disagree with the default under method_a, and the share that keeps its
                     order. The default itself cannot disagree, and neither can an analysis in which the method
                     uses its default maps.
    n_b, share_b     the same under method_b.
    n_reversal, share_reversal  how many can show a reversal, and the share that does.

    The share is NaN where the count is 0.
    """
    levels = [("all", "all", rankings)]
    for axis in AXES:
        levels += [
            (axis, f"{level:g}" if axis == "q" else level, part)
            for level, part in rankings.groupby(axis, sort=False)
        ]
    rows = []
    for axis, level, part in levels:
        row = {"axis": axis, "level": level, "n": len(part)}
        for side in "ab":
            same = part.loc[
                ~part["is_default"] & ~part[f"uses_default_maps_{side}"], f"same_order_as_default_{side}"
            ].dropna()
            row |= {f"n_{side}": len(same), f"share_{side}": _share(same)}
        asked = part["reversal"].dropna()
        rows.append(row | {"n_reversal": len(asked), "share_reversal": _share(asked)})
    return pd.DataFrame(rows)


def influence(rankings: pd.DataFrame) -> pd.DataFrame:
    """Which axis matters most: how often changing that choice alone changes the answer.

    For each axis: among all pairs of analyses that differ in this choice only, the share of pairs whose orders
    differ. Axes with different numbers of levels can be compared this way. The widest gap between levels in
    `summary` cannot: it grows with their number.

    Parameters
    ----------
    rankings : as `rankings` returns them.

    Returns
    -------
    DataFrame, a row per axis: axis; n_a, flips_a: the number of pairs, without analyses in which the method uses
    its default maps, and the share whose order under method_a differs; n_b, flips_b: the same under method_b;
    n_reversal, flips_reversal: the number of pairs in which both analyses can show a reversal, and the share in
    which only one does. NaN without a pair.
    """
    questions = {
        "a": rankings.loc[~rankings["uses_default_maps_a"], [*AXES, "order_a"]],
        "b": rankings.loc[~rankings["uses_default_maps_b"], [*AXES, "order_b"]],
        "reversal": rankings.loc[rankings["reversal"].notna(), [*AXES, "reversal"]],
    }
    rows = []
    for axis in AXES:
        row: dict[str, str | int | float] = {"axis": axis}
        for question, table in questions.items():
            answer = table.columns[-1]
            pairs = same = 0
            for _, group in table.groupby([other for other in AXES if other != axis]):
                pairs += _pairs(len(group))
                same += sum(map(_pairs, group[answer].value_counts()))
            row |= {f"n_{question}": pairs, f"flips_{question}": (pairs - same) / pairs if pairs else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def _sources(
    own: Mapping[tuple, pd.DataFrame], runs: list[tuple], variants: list[str]
) -> dict[str, dict[tuple, str | None]]:
    """Per variant and run, the variant under which its rows are found.

    That is the variant itself, `default` if it exists for another method only, or None if its maps are missing.
    Variants whose maps are all those of an earlier variant are left out.
    """
    out: dict[str, dict[tuple, str | None]] = {}
    seen: list[dict[tuple, str]] = []
    for variant in variants:
        sources = {}
        for run in runs:
            if (*run, variant) in own:
                sources[run] = variant
            else:
                sources[run] = "default" if uses_default_maps(variant, run[2]) else None
        maps = {run: own[(*run, source)]["maps_of"].iloc[0] for run, source in sources.items() if source}
        if not any(maps.items() <= earlier.items() for earlier in seen):
            seen.append(maps)
            out[variant] = sources
    return out


def _coarse(
    own: Mapping[tuple, pd.DataFrame], sources: Mapping[str, Mapping[tuple, str | None]]
) -> dict[tuple[str, float], int]:
    """By variant and q: the cells in the top area, where they are fewer than `LEAST_CELLS` in some run."""
    out = {}
    for variant, found in sources.items():
        cells = min(own[(*run, source)]["cells"].min() for run, source in found.items() if source)
        out |= {(variant, q): n for q in QS if (n := top_count(q, int(cells))) < LEAST_CELLS}
    return out


def _values(rows: pd.DataFrame) -> dict[tuple[str, str], float]:
    """By column of `VALUES` and scale, the mean over seeds, as in `cxr.report.comparison.summarise`."""
    medians = rows.groupby("seed")[[*VALUES, *TWO_PATIENTS.values()]].median()
    out = {}
    for name in VALUES:
        raw = medians[name]
        corrected = baselines.corrected(raw.to_numpy(), medians[TWO_PATIENTS[name]].to_numpy())
        for scale, values in zip(SCALES, (raw, corrected), strict=True):
            known = values[~np.isnan(values)]
            out[name, scale] = float(known.mean()) if len(known) else float("nan")
    return out


def _tau(values: pd.Series, reference: pd.Series) -> float:
    return float(stats.kendalltau(values.to_numpy(), reference.to_numpy()).statistic)


def _share(answers: pd.Series) -> float:
    return float(answers.astype(float).mean()) if len(answers) else float("nan")


def _pairs(n: int) -> int:
    return n * (n - 1) // 2
