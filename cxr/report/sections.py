"""Sections of the report that only some studies have: a table each, or one sentence that says why there is none.

Each function returns tables without rows where its question cannot be asked, and then shows the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cxr.core.display import say
from cxr.core.methods import LABELS, SCORE_LABELS, SCORES
from cxr.metrics import multiverse_rankings
from cxr.metrics import regions as places
from cxr.metrics.metric_table import METRICS
from cxr.metrics.multiverse import PAIR
from cxr.report import comparison
from cxr.report.evidence import Evidence, power_table, primary_scores
from cxr.report.scores import Study
from cxr.statistics import contrasts
from cxr.statistics.rank_tests import paired_tests
from cxr.statistics.score_rows import Scores

SHOWN = {
    "pairs": ["method", "a", "b", "difference", "low", "high", "p_holm", "difference_raw"],
    "interaction": ["method_a", "method_b", "a", "b", "difference", "low", "high", "p_holm"],
    "multiverse": ["axis", "level", "n", "share_a", "share_b", "share_reversal"],
    "paired_tests": ["method", "test", "a", "b", "statistic", "effect", "p", "p_holm"],
}
"""The columns of wide tables that the report shows, at most eight; the run holds all of them."""


def random_markers(study: Study) -> pd.DataFrame:
    """AUC, and AUC with markers drawn at random, before and after; without rows where no shortcut was trained."""
    rows = []
    for run in study.training_runs.values():
        if "auc_macro_random_markers_before" not in run.metrics:
            continue
        row: dict[str, str | float] = {"architecture": run.params["architecture"], "seed": run.params["seed"]}
        for checkpoint in ("before", "after"):
            row[f"AUC, {checkpoint}"] = run.metrics[f"auc_macro_{checkpoint}"]
            row[f"AUC with random markers, {checkpoint}"] = run.metrics[f"auc_macro_random_markers_{checkpoint}"]
        rows.append(row)
    table = pd.DataFrame(rows)
    if len(table):
        say(
            "Where the marker betrays the class (`shortcut`), the AUC with markers drawn at random shows how much "
            "each checkpoint relies on them, whatever its maps say:"
        )
    return table


def empty_pairs(summary: pd.DataFrame) -> None:
    """Say where pairs with an empty map could move the median overlap by more than 0.02. `summary`: `pooled`."""
    low, high = (summary[f"overlap_median_if_empty_{worst}"] for worst in (0, 1))
    wide = [
        f"{row.architecture} under {row.method} ({row.n_empty} of {row.n_images} pairs): "
        f"{row.overlap_median_if_empty_0:.2f} to {row.overlap_median_if_empty_1:.2f}"
        for row in summary[high - low > 0.02].itertuples()
    ]
    if wide:
        say(
            "**Empty maps matter here.** Pairs with an empty map have no overlap and enter no median. The median "
            f"would lie between these values, if all of them counted as 0 or as 1: {'; '.join(wide)}."
        )


def ranking(summary: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranks and reversals (`comparison.ranking`): one row an architecture, its name as the index; one row a
    reversal."""
    ranks, reversals = comparison.ranking(summary, metric)
    return ranks, pd.DataFrame(reversals)


def differences(evidence: Evidence) -> pd.DataFrame:
    """Differences between architectures, under each method: the columns of `Evidence.pairs` that are numbers."""
    columns = ["method", "a", "b", "difference", "low", "high", "p", "p_holm", "difference_raw", "n_seeds"]
    table = evidence.pairs[[*columns, "n_patients"]]
    if table.empty:
        say("Not asked: there is one architecture.")
    return table


def interactions(study: Study, metric: str, *, level: float, n_boot: int) -> pd.DataFrame:
    """Whether a difference between architectures depends on the method (`contrasts.interaction`)."""
    table = contrasts.interaction(primary_scores(study.scores, metric, n_boot=n_boot, level=level))
    if table.empty:
        say("Not asked: it needs two architectures and two methods.")
    return table


def rank_tests(study: Study, metric: str) -> pd.DataFrame:
    """Rank tests over patients (`cxr.statistics.rank_tests.paired_tests`)."""
    table = paired_tests(Scores.of(study.scores, metric))
    if table.empty:
        say("Not asked: there is one architecture.")
    return table


def power(evidence: Evidence) -> pd.DataFrame:
    """`cxr.report.evidence.power_table`."""
    table = power_table(evidence.pairs)
    if table.empty:
        say("Not asked: it needs two architectures and two seeds. One seed does not show how seeds vary.")
    return table


@dataclass(frozen=True)
class Multiverse:
    """The answers of all analyses; made by `multiverse`. All tables are empty where it cannot be asked.

    analyses, rankings, shares, influence: of `cxr.metrics.multiverse`.
    methods: the two that are compared.
    """

    analyses: pd.DataFrame
    rankings: pd.DataFrame
    shares: pd.DataFrame
    influence: pd.DataFrame
    methods: Sequence[str]


def analyses(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """`multiverse_rankings.analyses` of all runs; without rows where it cannot be asked.

    `rows`: `multiverse.parquet` of all score runs (`Study.score_tables`).
    """
    asked = set(PAIR) <= set(study.runs["method"]) and study.runs["architecture"].nunique() > 1
    if rows.empty or not asked:
        return pd.DataFrame()
    return multiverse_rankings.analyses(rows, images=study.params["images"])


def multiverse(study: Study, rows: pd.DataFrame, analyses: pd.DataFrame) -> Multiverse:
    """What each analysis finds that another analyst may have chosen.

    `rows`: as for `analyses`; `analyses`: of the function of this name.
    """
    if analyses.empty:
        say(
            "Not asked: it needs two architectures, the methods LayerCAM and Grad-CAM++, and `multiverse` in "
            "`2_attribute`."
        )
        return Multiverse(*(pd.DataFrame() for _ in range(4)), methods=())
    same = {"layer-final", *(["default", *(f"score-{s}" for s in SCORES)] if study.methods_coincide else [])}
    orders = multiverse_rankings.rankings(analyses, coincide=same)
    shares = multiverse_rankings.summary(orders)
    total = shares.iloc[0]
    if text := _left_out(rows, analyses):
        say(text)
    say(
        f"There are {len(orders)} analyses. The order of this study holds in {total['share_a']:.0%} of them under "
        f"LayerCAM and in {total['share_b']:.0%} under Grad-CAM++. In {total['share_reversal']:.0%}, some two "
        "architectures change places between the two methods. Analyses share images and networks: these "
        "percentages are counts, not probabilities."
    )
    if words := other_scores(analyses):
        say(words)
    return Multiverse(analyses, orders, shares, multiverse_rankings.influence(orders), PAIR)


def _left_out(rows: pd.DataFrame, analyses: pd.DataFrame) -> str:
    """How many analyses do not count, and why; empty if all do."""
    coarse = multiverse_rankings.too_coarse(rows)
    if coarse.empty:
        return ""
    least, left = multiverse_rankings.LEAST_CELLS, coarse["n"].sum()
    total = left + len(analyses.drop_duplicates(multiverse_rankings.AXES))
    text = (
        f"{left} of {total} analyses do not count, because their top area has fewer than {least} cells of the "
        "layer's own grid: such an overlap shows whether the peak stays, not how an area does."
    )
    own = coarse[(coarse["variant"] == "default") & (coarse["q"] == multiverse_rankings.DEFAULT["q"])]
    if len(own):
        text += (
            f" This study's own analysis has {own['cells'].iloc[0]} cells only. It stays, as the others are "
            "compared with it; larger images or a shallower `target_layer` give it more."
        )
    return text


def other_scores(analyses: pd.DataFrame) -> str:
    """How far the values of the default analysis are from those of other explained scores, in words.

    Args: analyses: `multiverse_rankings.analyses`. Empty if no other score has maps of its own.
    """
    cell, same = ["architecture", "method"], ["grid", "q", "images", "scale"]
    own = analyses[analyses["is_default"]]
    texts = []
    for score, label in SCORE_LABELS.items():
        other = analyses[(analyses["variant"] == f"score-{score}") & ~analyses["uses_default_maps"]]
        both = own.merge(other, on=[*cell, *same], suffixes=("", "_other")).dropna(subset=["value", "value_other"])
        if len(both):
            row = both.loc[(both["value_other"] - both["value"]).abs().idxmax()]
            texts.append(
                f"With the {label} as the explained score, the overlap differs by at most "
                f"{abs(row['value_other'] - row['value']):.3f} ({len(both)} values): {row['architecture']}, "
                f"{LABELS[row['method']]}, has {row['value_other']:.3f} instead of {row['value']:.3f}."
            )
    return " ".join(texts)


def regions(study: Study) -> pd.DataFrame:
    """`cxr.metrics.regions.summary` of all cells."""
    table = places.summary(study.scores)
    if table.empty:
        say("No masks of lesion or lung are known for these images.")
    return table


def sensitivity(study: Study) -> pd.DataFrame:
    """`comparison.sensitivity`; with a shortcut, also how metrics follow the evidence in the marker."""
    shortcut = study.training_params["shortcut"] != "none"
    table = comparison.sensitivity(study.scores, region="marker" if shortcut else "")
    if table.empty:
        say("Not asked: there are no extra heads (`extra_heads`).")
    return table


def blind(seen: pd.DataFrame) -> pd.DataFrame:
    """Metrics that do not see the drift, one row an architecture and method. `seen`: of `sensitivity`."""
    if seen.empty or seen["sees"].all():
        return pd.DataFrame()
    say("**These metrics do not distinguish the drift from noise:**")
    found = seen[~seen["sees"]].groupby(comparison.CELL, sort=False)["metric"]
    return found.agg(", ".join).reset_index()


def following(seen: pd.DataFrame) -> pd.DataFrame:
    """How each metric follows the evidence in the marker: method, metric, and a column an architecture.

    `seen`: of `sensitivity`. Without rows where no shortcut was trained.
    """
    if "follows" not in seen:
        return pd.DataFrame()
    say(
        "**Which metrics follow the movement that is known?** Spearman's correlation, over images, of a metric's "
        "distance from identical maps with the change of energy in the marker:"
    )
    table = seen.pivot(index=["method", "metric"], columns="architecture", values="follows").reset_index()
    place = table["metric"].map(list(METRICS).index)
    rows = table.assign(place=place).sort_values(["method", "place"])
    return rows.drop(columns="place").rename_axis(columns=None)


def course(study: Study, metric: str, *, level: float, n_boot: int) -> pd.DataFrame:
    """`comparison.course` of all cells."""
    rows = study.score_tables("course.parquet")
    if rows.empty:
        say("No checkpoints were kept during fine-tuning: set `checkpoint_every`.")
        return rows
    return comparison.course(rows, study.auc_by_epoch(), metric=metric, level=level, n_boot=n_boot)


def failing(checks: pd.DataFrame) -> pd.DataFrame:
    """The maps that fail their checks, with the reason. `checks`: of `Study.checks_over_seeds`."""
    if checks.empty:
        say("Not checked: `map_check_images` is 0.")
        return checks
    failed = checks[~checks["passes_checks"]]
    if failed.empty:
        say("All maps pass.")
    return failed[["architecture", "method", "checkpoint", "reason"]]


def caution(summary: pd.DataFrame) -> None:
    """Name the cells whose maps fail their checks, or were not checked. `summary`: of `comparison.pooled`."""
    for found, words in (("no", "do not pass their checks"), ("not checked", "were not checked")):
        cells = summary[summary["map_check"] == found].groupby("architecture", sort=False)["method"]
        if len(cells):
            named = [f"{name} ({', '.join(LABELS[each] for each in own)})" for name, own in cells]
            say(
                f"**Caution: these maps {words}: {'; '.join(named)}.** Their drift may say nothing about the "
                "network; see “Do the maps pass their checks?”"
            )
