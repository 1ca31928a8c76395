"""How the order of architectures depends on the analysis: values, rankings and which choice matters.

For the tables of all score runs together (`cxr.metrics.multiverse.long_table`):

    analyses -> rankings -> summary, influence

Analyses share images and networks, and nobody drew them at random from a population. A share of analyses
therefore describes how far a ranking depends on choices that could have been made otherwise. It is neither a
probability nor a test (Steegen et al. 2016, Perspectives on Psychological Science 11, on the multiverse;
Simonsohn, Simmons and Nelson 2020, Nature Human Behaviour 4, on the specification curve).

On a small native grid the top area is a handful of cells, one at 4x4 and q = 0.05
(`cxr.metrics.map_features.top_count`): an image's IoU is then 0 or 1, so is the median, and architectures tie.
Ties are kept, and written "A = B".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from cxr.core.errors import InputError
from cxr.metrics.multiverse import AXES, CELL, DEFAULT, GRIDS, QS, RUN, VALUES, borrows, require_bool
from cxr.statistics import stability_ranks
from cxr.statistics.score_rows import require_columns


def analyses(table: pd.DataFrame, *, default: Mapping[str, str | float] = DEFAULT) -> pd.DataFrame:
    """The value of every architecture under every method in every analysis.

    Parameters
    ----------
    table : the `long_table`s of all runs, concatenated.
    default : the study's own choice on each axis (`AXES`); its `variant` is always `default`.

    Returns
    -------
    DataFrame, a row per analysis, architecture and method, in this order:

    variant, grid ("image", "native"), q (0.05, 0.1, 0.2, 0.3), images ("correct", "all"): the analysis.
    architecture, method
    value         median IoU over the images, averaged over seeds, empty pairs left out; NaN if none is left.
    n_images      images, over all seeds, empty ones among them.
    n_empty  how many of them have an empty map, before or after.
    is_default    bool, whether this is the study's own analysis.
    borrowed      bool, whether the variant exists for another method only (`ONE_METHOD`), so that this method
                  has its default maps here: its order in this analysis is that of another one.
    complete      bool, whether every architecture, with every seed, has this variant's maps under this method,
                  and a value. What is not complete is shown, and not ranked.

    A variant whose maps are an earlier one's in every run that has it (`layer-penultimate`, where the default is
    at that layer in all architectures) makes no analyses of its own, which would count the earlier one's twice.
    Nor does "all" where both checkpoints classify every image correctly, or where only those were explained:
    there is then one level of `images`, that of `default`.

    Raises
    ------
    InputError : for missing columns or rows that occur twice, a run without default maps, or a default that is
        not among the analyses.
    """
    require_columns(
        table, [*RUN, "variant", "maps_of", "image_id", "both_correct", "empty", *VALUES], "multiverse"
    )
    for name in ("both_correct", "empty"):
        require_bool(table, name, "multiverse")
    if set(default) != set(AXES) or default["images"] not in ("correct", "all"):
        raise InputError(
            f"multiverse: default names one level of each of {', '.join(AXES)}, of images 'correct' or 'all'; got "
            f"{dict(default)}."
        )
    double = table.duplicated([*RUN, "variant", "image_id"])
    if double.any():
        row = table[double].iloc[0]
        raise InputError(
            f"multiverse: image {row['image_id']!r} occurs twice in {row['variant']} of {row['architecture']}, "
            f"seed {row['seed']}, {row['method']}; pass each run's table once."
        )
    own = dict(tuple(table.groupby([*RUN, "variant"], sort=False)))
    runs = list(table[RUN].drop_duplicates().itertuples(index=False, name=None))
    without = [run for run in runs if (*run, "default") not in own]
    if without:
        raise InputError(f"multiverse: the run {without[0]} has no default maps; score them too.")
    sources = _sources(own, runs, list(dict.fromkeys(["default", *table["variant"]])))
    subsets = [default["images"]] if table["both_correct"].all() else ["correct", "all"]
    cells = list(dict.fromkeys((architecture, method) for architecture, _, method in runs))

    rows = []
    for variant, images in product(sources, subsets):
        found = {}
        for architecture, method in cells:
            keys = [
                (*run, source)
                for run, source in sources[variant].items()
                if run[0] == architecture and run[2] == method
            ]
            parts = [own[key] for key in keys if key[-1] is not None]
            part = pd.concat(parts) if parts else table[:0]
            if images == "correct":
                part = part[part["both_correct"]]
            found[architecture, method] = {
                "medians": {name: _median(part, name) for name in VALUES},
                "n_images": len(part),
                "n_empty": int(part["empty"].sum()),
                "borrowed": borrows(variant, method),
                "complete": len(parts) == len(keys),
            }
        for grid, (q, name) in product(GRIDS, QS.items()):
            for (architecture, method), cell in found.items():
                analysis = {"variant": variant, "grid": grid, "q": q, "images": images}
                value = cell["medians"][f"{name}@{grid}"]
                rows.append(
                    analysis
                    | {"architecture": architecture, "method": method, "value": value}
                    | {key: cell[key] for key in ("n_images", "n_empty")}
                    | {"is_default": analysis == dict(default), "borrowed": cell["borrowed"]}
                    | {"complete": cell["complete"] and not np.isnan(value)}
                )
    frame = pd.DataFrame(rows)
    if not frame["is_default"].any():
        levels = "; ".join(f"{axis}: {', '.join(map(str, frame[axis].unique()))}" for axis in AXES)
        raise InputError(f"multiverse: the default {dict(default)} is not among the analyses ({levels}).")
    frame["complete"] = frame.groupby([*AXES, "method"], sort=False)["complete"].transform("all")
    return frame


def rankings(
    analyses: pd.DataFrame,
    *,
    method_a: str = "layercam",
    method_b: str = "gradcampp",
    coincide: Collection[str] = (),
) -> pd.DataFrame:
    """How each analysis orders the architectures under two methods.

    Parameters
    ----------
    analyses : as `analyses` returns them.
    method_a, method_b : the two methods.
    coincide : variants at whose layer the two methods are the same map up to a factor (`layer-final`, behind
        which stands global average pooling alone; if that is the study's target layer, also `default` and
        what else is taken there).

    Returns
    -------
    DataFrame, a row per analysis that is complete under both methods, in the order of `analyses` (it may have no
    row):

    variant, grid, q, images, is_default, method_a, method_b
    order_a, order_b            text, "A > B = C": from most to least stable, ties in the table's order.
    spread_a, spread_b          largest minus smallest value.
    same_order_as_default_a, _b boolean, ties included: "A > B = C" is another order than "A > B > C".
    tau_a, tau_b                Kendall's tau-b with the default analysis's values; NaN where either is all ties.
    borrowed_a, borrowed_b      bool, as in `analyses`.
    reversal                    boolean, whether some two architectures are ordered one way under method_a and the
                                other way under method_b (ties are neither).

    Missing (<NA>, NaN): what compares with the default, where that is not complete under the method; reversal, for
    the variants in `coincide`; all of these, with a single architecture.

    Raises
    ------
    InputError : for missing columns, a method that is not there, or one method given twice.
    """
    require_columns(analyses, [*AXES, *CELL, "value", "is_default", "borrowed", "complete"], "rankings")
    methods = {"a": method_a, "b": method_b}
    present = list(analyses["method"].unique())
    if method_a == method_b or not {method_a, method_b} <= set(present):
        raise InputError(f"rankings: two methods are needed, got {method_a} and {method_b}; there are {present}.")
    whole = analyses[analyses["complete"] & analyses["method"].isin([method_a, method_b])]
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
                f"borrowed_{side}": bool(cell["borrowed"].iloc[0]),
            }
        cells = group[[*CELL, "value"]].assign(higher_is_more_stable=True)
        shared = set.intersection(*(set(part["architecture"]) for _, part in group.groupby("method")))
        askable = len(shared) > 1 and row["variant"] not in coincide
        row["reversal"] = bool(stability_ranks.reversals(cells, method_a, method_b)) if askable else pd.NA
        rows.append(row)
    frame = pd.DataFrame(rows, columns=_RANKING_COLUMNS)
    three = ["same_order_as_default_a", "same_order_as_default_b", "reversal"]
    return frame.astype({name: "boolean" for name in three})


_RANKING_COLUMNS = [
    *AXES, "is_default", "method_a", "method_b", "order_a", "order_b", "spread_a", "spread_b",
    "same_order_as_default_a", "same_order_as_default_b", "tau_a", "tau_b", "borrowed_a", "borrowed_b", "reversal",
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
                     order. The default itself cannot, nor can an analysis in which the method has borrowed maps.
    n_b, share_b     the same under method_b.
    n_reversal, share_reversal  how many can be asked for a reversal, and the share that has one.

    A share of nothing is NaN.
    """
    require_columns(rankings, _RANKING_COLUMNS, "summary")
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
                ~part["is_default"] & ~part[f"borrowed_{side}"], f"same_order_as_default_{side}"
            ].dropna()
            row |= {f"n_{side}": len(same), f"share_{side}": _share(same)}
        asked = part["reversal"].dropna()
        rows.append(row | {"n_reversal": len(asked), "share_reversal": _share(asked)})
    return pd.DataFrame(rows)


def influence(rankings: pd.DataFrame) -> pd.DataFrame:
    """Which axis matters most: how often changing that choice alone changes the answer.

    For each axis, over all pairs of analyses that differ in it and in nothing else, the share whose orders
    differ. It compares axes of different numbers of levels, which the widest gap between levels in `summary`
    would not: that one grows with their number.

    Parameters
    ----------
    rankings : as `rankings` returns them.

    Returns
    -------
    DataFrame, a row an axis: axis; n_a, flips_a: the pairs, without analyses in which the method has borrowed
    maps, and the share of them whose order under method_a differs; n_b, flips_b the same under method_b;
    n_reversal, flips_reversal: the pairs that can both be asked for a reversal, and the share that gives
    different answers. NaN without a pair.
    """
    require_columns(rankings, _RANKING_COLUMNS, "influence")
    questions = {
        "a": rankings.loc[~rankings["borrowed_a"], [*AXES, "order_a"]],
        "b": rankings.loc[~rankings["borrowed_b"], [*AXES, "order_b"]],
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
    """Per variant and run, the variant under which its rows are found: itself, `default` where it exists for
    another method only, None where its maps are missing. Without variants whose maps are all an earlier one's."""
    out: dict[str, dict[tuple, str | None]] = {}
    seen: list[dict[tuple, str]] = []
    for variant in variants:
        sources = {}
        for run in runs:
            if borrows(variant, run[2]):
                sources[run] = "default"
            else:
                sources[run] = variant if (*run, variant) in own else None
        maps = {run: own[(*run, source)]["maps_of"].iloc[0] for run, source in sources.items() if source}
        if not any(maps.items() <= earlier.items() for earlier in seen):
            seen.append(maps)
            out[variant] = sources
    return out


def _median(rows: pd.DataFrame, name: str) -> float:
    """As `cxr.report.comparison.summarise` has it: the mean over seeds of the median over images."""
    medians = rows.groupby("seed")[name].median().dropna()
    return float(medians.mean()) if len(medians) else float("nan")


def _tau(values: pd.Series, reference: pd.Series) -> float:
    return float(stats.kendalltau(values.to_numpy(), reference.to_numpy()).statistic)


def _share(answers: pd.Series) -> float:
    return float(answers.astype(float).mean()) if len(answers) else float("nan")


def _pairs(n: int) -> int:
    return n * (n - 1) // 2
