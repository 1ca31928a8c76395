"""Tables of scores: per image, pooled, between seeds, by rank, by epoch; and what metrics see.

The functions take the per-image tables of score runs; they read no file and no run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from cxr.attribution import maps, passing
from cxr.metrics import baselines
from cxr.metrics.metric_table import METRICS, sign_of_stability
from cxr.metrics.similarity import compare_maps
from cxr.statistics import bootstrap, stability_ranks
from cxr.statistics.estimates import holm, located

if TYPE_CHECKING:
    from cxr.attribution.maps import MapSet

CELL = ["architecture", "method"]

# Baselines of a metric, as suffixes of its name, and what each compares.
LEVELS = {
    "chance": "a map moved to a random position",
    "two_patients": "two patients of one class",
    "two_heads": "two transfer heads that differ by seed only",
    "two_seeds": "two fine-tuned checkpoints that differ by seed only",
    "more_training": "the checkpoint after, and the same after as many further epochs on the same data",
}

PARTS = ("median", "q25", "q75", "ci_low", "ci_high")
LOCATED = ("median", "ci_low", "ci_high")


def score_table(
    drift: dict[str, np.ndarray], images: pd.DataFrame, *, architecture: str, seed: int, method: str
) -> pd.DataFrame:
    """The per-image table of a score run.

    Args:
        drift: columns of values, each [n], such as those of `cxr.metrics.similarity.compare_maps`.
        images: n rows in the same order: image_id, patient_id, label, ...
        architecture, seed, method: the cell.

    Returns: n rows: architecture, seed, method, the columns of `images`, those of `drift`.
    """
    head = images.reset_index(drop=True)
    cell = pd.DataFrame({"architecture": architecture, "seed": seed, "method": method}, index=head.index)
    return pd.concat([cell, head, pd.DataFrame(drift)], axis=1)


def summarise(
    table: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000, rng_seed: int = 0
) -> dict[str, float]:
    """Summary of the per-image rows of one cell, of one seed or several.

    For every metric of `METRICS`, and every baseline of it that is a column of `table`
    (`<metric>_two_patients`, ...: `LEVELS`): `<name>_median` over images (with several seeds the mean of the
    seeds' medians), `_q25`, `_q75` (over all rows), and `_ci_low`, `_ci_high`. For metrics that are 1 for
    identical maps also the headline index `<metric>_corrected` (`baselines.corrected` of the medians of the
    metric and of its baseline two patients) with its interval.

    Intervals are those of `cxr.statistics.estimates.located`, cut at the bounds of the metric's values.

    Of overlap also worst cases for pairs with an empty map, which have no value: `overlap_median_if_empty_0` and
    `overlap_median_if_empty_1`, the median if all of them counted as 0, or as 1.

    Counts: n_images, n_scored (neither map empty), n_empty, n_empty_before, n_empty_after, n_patients (of all
    images), n_seeds. Rows with an empty map count as images, but in no median.
    """
    flags = table[["empty_before", "empty_after"]]
    out = {
        "n_images": len(table),
        "n_scored": int((~flags.any(axis=1)).sum()),
        "n_empty": int(flags.any(axis=1).sum()),
        "n_empty_before": int(flags["empty_before"].sum()),
        "n_empty_after": int(flags["empty_after"].sum()),
        "n_patients": int(table["patient_id"].nunique()),
        "n_seeds": int(table["seed"].nunique()),
    }
    wanted = {name: metric for metric in METRICS for name in (metric, *(f"{metric}_{key}" for key in LEVELS))}
    wanted = {name: metric for name, metric in wanted.items() if name in table}
    scored = table[~flags.any(axis=1).groupby(table["seed"]).transform("all")]  # seeds with anything to score
    values = scored.pivot(index=["image_id", "patient_id"], columns="seed", values=list(wanted))
    values = values.dropna(axis=1, how="all")  # columns (name, seed)
    draws = bootstrap.patient_replicates(values, n_boot=n_boot, rng_seed=rng_seed)
    medians = values.median()
    options = {"level": level, "n_patients": out["n_patients"]}
    for name, metric in wanted.items():
        own = [cell for cell in values if cell[0] == name]
        found = located(medians[own].to_numpy(), draws[own].to_numpy(), **options)
        found = np.clip(found, *METRICS[metric].bounds)
        out |= {f"{name}_q{share}": float(table[name].quantile(share / 100)) for share in (25, 75)}
        out |= {f"{name}_{part}": value for part, value in zip(LOCATED, found, strict=True)}
    for name, metric in wanted.items():
        other = f"{name}_two_patients"
        if name == metric and METRICS[metric].identical == 1 and other in table:
            own = [seed for key, seed in values if key == name and (other, seed) in values]
            point, two_patients = ([(key, seed) for seed in own] for key in (name, other))
            index = baselines.corrected(medians[point].to_numpy(), medians[two_patients].to_numpy())
            replicates = baselines.corrected(draws[point].to_numpy(), draws[two_patients].to_numpy())
            found = np.clip(located(index, replicates, **options), None, 1)
            out |= {f"{name}_corrected_{part}": value for part, value in zip(LOCATED, found, strict=True)}
    if "overlap" in table:
        for worst in (0, 1):
            filled = table["overlap"].mask(flags.any(axis=1), worst)
            out[f"overlap_median_if_empty_{worst}"] = float(filled.groupby(table["seed"]).median().mean())
    return out


def pooled(
    scores: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    two_seeds: pd.DataFrame | None = None,
    checks: pd.DataFrame | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """One row an architecture and method, over all seeds.

    Args:
        scores: per-image rows of all score runs (`score_table`).
        runs: one row a score run: architecture, method, seed, auc_macro_before, auc_macro_after.
        two_seeds: `two_seeds_table` of all cells; None, or no rows of a cell, where there is one seed only.
        checks: `cxr.attribution.passing.over_seeds`; None or no rows of a cell: not checked.

    Returns: architecture, method, seeds, the mean AUC before and after over seeds, map_check (whether the maps
        before and after pass their checks: "yes", "no" or "not checked"), then the columns of `summarise`. For
        the metrics of `two_seeds` also `<metric>_two_seeds_<part>` and `<metric>_share_of_two_seeds`: (metric -
        two patients) / (two seeds - two patients). Above 1 the checkpoints differ less than two trainings do.
    """
    rows = []
    for (architecture, method), table in scores.groupby(CELL, sort=False):
        own = runs[(runs["architecture"] == architecture) & (runs["method"] == method)]
        row = {
            "architecture": architecture,
            "method": method,
            "seeds": own["seed"].nunique(),
            "auc_macro_before": own["auc_macro_before"].mean(),
            "auc_macro_after": own["auc_macro_after"].mean(),
            "map_check": map_check(checks, architecture, method),
            **summarise(table, level=level, n_boot=n_boot),
        }
        if two_seeds is not None and len(two_seeds):
            again = two_seeds[(two_seeds["architecture"] == architecture) & (two_seeds["method"] == method)]
            for metric in [name for name in METRICS if name in again]:
                values = bootstrap.summarise(
                    again[metric].to_numpy(float), again["patient_id"].to_numpy(), level=level, n_boot=n_boot
                )
                row |= {f"{metric}_two_seeds_{part}": values[part] for part in PARTS}
                row |= shares_of_two_seeds(row)
        rows.append(row)
    return pd.DataFrame(rows)


def shares_of_two_seeds(summary: Mapping[str, float]) -> dict[str, float]:
    """`<metric>_share_of_two_seeds` (see `pooled`) of the metrics whose medians in `summary` allow it."""
    parts = ("median", "two_patients_median", "two_seeds_median")
    return {
        f"{name}_share_of_two_seeds": float(baselines.corrected(*(summary[f"{name}_{part}"] for part in parts)))
        for name in METRICS
        if f"{name}_two_seeds_median" in summary and f"{name}_corrected_median" in summary
    }


def map_check(checks: pd.DataFrame | None, architecture: str, method: str) -> str:
    """Whether the maps of a cell pass their checks, before and after: "yes", "no" or "not checked".

    `checks`: `cxr.attribution.passing.over_seeds`.
    """
    if checks is None or checks.empty:
        return "not checked"
    return passing.in_word(checks[(checks["architecture"] == architecture) & (checks["method"] == method)])


def two_seeds_table(
    map_sets: Mapping[int, MapSet],
    images: pd.DataFrame,
    *,
    architecture: str,
    method: str,
    size: int,
    names: Sequence[str],
) -> pd.DataFrame:
    """Drift between fine-tuned checkpoints that differ by their training seed only, image by image.

    Args:
        map_sets: per seed, maps after fine-tuning of one architecture by one method.
        images: image_id, patient_id, seed of the images that count under each seed. With `vary_split` these are
            images of that seed's test set: no image is compared that either training has seen.
        size: the image grid.
        names: metrics.

    Returns: architecture, method, seed_a, seed_b, image_id, patient_id, and a column a metric; one row for
        each pair of seeds (seed_a < seed_b; all pairs) and image that counts under both. Empty with one seed,
        and where no image counts under both.
    """
    tables = []
    for a, b in combinations(sorted(map_sets), 2):
        both = images[images["seed"] == a].merge(images[images["seed"] == b], on=["image_id", "patient_id"])
        if both.empty:
            continue
        first, second = (maps.take(map_sets[seed], both["image_id"].to_numpy()) for seed in (a, b))
        cell = {"architecture": architecture, "method": method, "seed_a": a, "seed_b": b}
        values = compare_maps(first.maps, second.maps, size=size, names=names)
        values = {name: values[name] for name in names}
        tables.append(both[["image_id", "patient_id"]].assign(**cell, **values))
    columns = ["architecture", "method", "seed_a", "seed_b", "image_id", "patient_id", *names]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def sensitivity(scores: pd.DataFrame, *, region: str = "") -> pd.DataFrame:
    """Which metrics see that something moved: drift minus the difference of two heads, patient by patient.

    A metric's distance is |value - its value for identical maps|. For each patient, d is the mean over images and
    seeds of the distance before/after minus that of two heads (`<metric>_two_heads`). The result describes these
    networks only, because the test does not treat seeds as a source of chance.

    Args:
        scores: per-image rows of all cells, with `<metric>_two_heads`; without such columns the result is empty.
        region: if `scores` has `<region>_energy_change`, also ask whether the metric follows this known movement.

    Returns: architecture, method, metric, standardised (mean of d / its standard deviation, Cohen's d_z), p
        (one-sided t test, Holm over the metrics of a cell), sees (p < 0.05), and with a region `follows`:
        Spearman's correlation over images of the metric's distance with |energy change of the region|, and
        `p_follows` (two-sided, not corrected; images of one patient count as independent).
    """
    rows = []
    for (architecture, method), table in scores.groupby(CELL, sort=False):
        known = [
            name for name in METRICS if f"{name}_two_heads" in table and table[f"{name}_two_heads"].notna().any()
        ]
        for name in known:
            same = METRICS[name].identical
            distance = (table[name] - same).abs()
            d = (distance - (table[f"{name}_two_heads"] - same).abs()).groupby(table["patient_id"]).mean().dropna()
            spread = d.std(ddof=1)
            row = {"architecture": architecture, "method": method, "metric": name}
            row["standardised"] = float(d.mean() / spread) if spread > 0 else np.nan
            row["p"] = float(stats.ttest_1samp(d, 0, alternative="greater").pvalue) if spread > 0 else np.nan
            if f"{region}_energy_change" in table:
                both = pd.DataFrame({"a": distance, "b": table[f"{region}_energy_change"].abs()}).dropna()
                found = stats.spearmanr(both["a"], both["b"]) if len(both) > 2 else (np.nan, np.nan)
                row["follows"], row["p_follows"] = map(float, found)
            rows.append(row)
    if not rows:
        return pd.DataFrame(columns=[*CELL, "metric", "standardised", "p", "sees"])
    out = pd.DataFrame(rows)
    out["p"] = out.groupby(CELL, sort=False)["p"].transform(holm)
    return out.assign(sees=out["p"] < 0.05)


def ranking(summary: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[dict[str, str | float]]]:
    """Ranks (1: most stable) and reversals between each two methods, by the point estimates.

    Args:
        summary: `pooled`. Where it has `<metric>_corrected_median`, that is what is ranked.
        metric: a metric with a direction.

    Returns: (one row an architecture; a column a method), and the reversals of
        `cxr.statistics.stability_ranks.reversals` with `method_a`, `method_b` added. Ties share their mean rank. A
        cell that is missing or NaN has rank NaN, and does not count among the others.
    Raises: InputError for a metric without a direction.
    """
    sign = sign_of_stability(metric)
    column = f"{metric}_corrected_median" if f"{metric}_corrected_median" in summary else f"{metric}_median"
    values = summary.pivot(index="architecture", columns="method", values=column)
    stability = sign * values.loc[summary["architecture"].unique(), summary["method"].unique()]
    found = [
        {"method_a": method_a, "method_b": method_b, **row}
        for method_a, method_b in combinations(stability.columns, 2)
        for row in stability_ranks.reversals(stability, method_a, method_b)
    ]
    return stability.rank(ascending=False), found


def course(
    drifts: pd.DataFrame, auc: pd.DataFrame, *, metric: str, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """Drift from the checkpoint before fine-tuning, and performance, epoch by epoch.

    Args:
        drifts: per-image rows of the checkpoints during fine-tuning (`score_table`), with `epoch` (1, 2, ...).
        auc: architecture, seed, epoch (0: before fine-tuning), auc_macro.

    Returns: architecture, method, seed, epoch, value (median of the metric; at epoch 0 that of identical maps),
        ci_low, ci_high (over patients), n_scored, auc.
    """
    keys = ["architecture", "method", "seed", "epoch"]
    rows = []
    for cell, table in drifts.groupby(keys, sort=False):
        values = bootstrap.summarise(
            table[metric].to_numpy(float), table["patient_id"].to_numpy(), level=level, n_boot=n_boot
        )
        names = ("value", "ci_low", "ci_high", "n_scored")
        found = (values[name] for name in ("median", "ci_low", "ci_high", "n_images"))
        rows.append(dict(zip(keys, cell, strict=True)) | dict(zip(names, found, strict=True)))
    table = pd.DataFrame(rows)
    same = METRICS[metric].identical
    start = table.drop_duplicates(keys[:3]).assign(epoch=0, value=same, ci_low=same, ci_high=same)
    table = pd.concat([start, table]).sort_values("epoch", kind="stable", ignore_index=True)
    return table.merge(auc.rename(columns={"auc_macro": "auc"}), on=["architecture", "seed", "epoch"])


def settled(
    course: pd.DataFrame, *, auc_margin: float, identical: float = 1.0, share: float = 0.5
) -> pd.DataFrame:
    """When the evidence moves, and when performance has settled.

    Args:
        course: architecture, method, seed, epoch (0: before), value (median of a metric), auc; one row an epoch.
        identical: the metric's value for identical maps.
        auc_margin: AUC has settled at the first epoch from which on it stays within this of the last epoch's.
        share: the evidence has moved at the first epoch with this share of the final drift.

    Returns: architecture, method, seed, epochs, final_drift (distance of the last epoch's value from
        `identical`), epoch_moved, epoch_settled, first ("evidence", "AUC" or "same epoch").
    """
    rows = []
    for (architecture, method, seed), table in course.groupby(["architecture", "method", "seed"], sort=False):
        table = table.sort_values("epoch")
        epochs, drift = table["epoch"].to_numpy(), np.abs(identical - table["value"].to_numpy(float))
        moved = epochs[np.argmax(drift >= share * drift[-1])]
        off = np.flatnonzero(np.abs(table["auc"].to_numpy(float) - table["auc"].iloc[-1]) > auc_margin)
        stable = epochs[off[-1] + 1] if len(off) else epochs[0]
        first = "evidence" if moved < stable else "AUC" if stable < moved else "same epoch"
        rows.append(
            {
                **{"architecture": architecture, "method": method, "seed": seed, "epochs": int(epochs[-1])},
                **{"final_drift": drift[-1], "epoch_moved": moved, "epoch_settled": stable, "first": first},
            }
        )
    return pd.DataFrame(rows)
