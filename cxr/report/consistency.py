"""Consistency along a study: how far the maps of each checkpoint agree between patients of one class.

`table` measures one score run (`cxr.metrics.consistency` has the definition). `of_study` pools a study and asks
which falls first during fine-tuning: consistency or AUC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.core.tables import percent
from cxr.metrics.consistency import consistency
from cxr.metrics.map_grids import is_empty
from cxr.report.comparison import CELL, LOCATED
from cxr.report.scores import Study
from cxr.report.scoring import ScoredMaps
from cxr.statistics import bootstrap, estimates
from cxr.statistics.bootstrap import FEW_PATIENTS

ALL = "all classes"
MOST = 500  # images of a class that are compared: n images are n (n - 1) / 2 pairs
COLUMNS = ["architecture", "seed", "method", "checkpoint", "epoch", "label", "consistency", "ci_low", "ci_high"]
COLUMNS += ["n_images", "n_patients", "n_empty", "replicates"]


@dataclass(frozen=True)
class Consistencies:
    """What a study says of consistency; made by `of_study`. Tables are empty where nothing is known.

    checkpoints: of `pooled`.
    changes: of `changes`.
    falls: of `falls`; empty if no checkpoints were kept during fine-tuning.
    auc: architecture, epoch, auc: means over seeds.
    level: of the intervals; tests are at 1 - level.
    """

    checkpoints: pd.DataFrame
    changes: pd.DataFrame
    falls: pd.DataFrame
    auc: pd.DataFrame
    level: float


def table(scored_maps: ScoredMaps, *, level: float = 0.95, n_boot: int = 2000) -> pd.DataFrame:
    """Consistency of every checkpoint of a run and class.

    Only images that are explained for their own class count, and of a class with more than `MOST` images so many,
    drawn at random with a fixed seed: the same ones under every checkpoint and seed.

    Checkpoints during fine-tuning are there if their maps and predictions were kept; these are of the test set.

    Returns: architecture, seed, method, checkpoint ("before", "epoch_001", ..., "after"), epoch (0 for before; NaN
        for after, whose weights are of the best epoch), label (a class, or `ALL`: the
        mean over the classes, NaN if one has no value), consistency, ci_low, ci_high (percentiles over patients),
        n_images (classified correctly, with a map), n_patients (of them), n_empty (classified correctly, empty
        map), replicates (float32 [n_boot], under one draw of patients for all rows).
    """
    images = scored_maps.images
    own = images[images["explained"] == images["label"]].sample(frac=1, random_state=0)
    own = own.groupby("label").head(MOST).sort_index()
    draws = bootstrap.patient_weights(own["patient_id"].to_numpy(), n_boot=n_boot)
    out = []
    for checkpoint, epoch, predictions in _checkpoints(scored_maps):
        map_set = scored_maps.read(checkpoint)
        empty = is_empty(map_set.maps)[own.index]
        index = map_set.class_index[own.index]
        found = predictions.set_index("image_id").loc[own["image_id"]]
        p = found[[f"p_{k}" for k in range(len(map_set.classes))]].to_numpy(float)[np.arange(len(own)), index]
        right = (found["predicted"].to_numpy() == own["label"]).to_numpy()
        rows = []
        for label in sorted(own["label"].unique()):
            here = right & (own["label"] == label).to_numpy()
            kept = np.flatnonzero(here & ~empty)
            patients = own["patient_id"].to_numpy()[kept]
            value, replicates = consistency(map_set.maps[own.index[kept]], p[kept], patients, draws[:, kept])
            row = {"label": label, "consistency": value, "replicates": replicates}
            row |= {"n_images": len(kept), "n_patients": len(set(patients)), "n_empty": int((here & empty).sum())}
            rows.append(row)
        rows.append(_mean(rows))
        for row in rows:
            row["ci_low"], row["ci_high"] = bootstrap.interval(row["replicates"], level)
            row["replicates"] = row["replicates"].astype(np.float32)
            out.append({**scored_maps.cell, "checkpoint": checkpoint, "epoch": epoch, **row})
    return pd.DataFrame(out)[COLUMNS]


def _mean(rows: list[dict]) -> dict:
    """The row `ALL`: the mean over the classes, NaN if one has no value, and the sums of their counts."""
    counts = {name: sum(row[name] for row in rows) for name in ("n_images", "n_patients", "n_empty")}
    value, replicates = (np.mean([row[name] for row in rows], axis=0) for name in ("consistency", "replicates"))
    return {"label": ALL, "consistency": float(value), **counts, "replicates": replicates}


def _checkpoints(scored_maps: ScoredMaps) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Name, epoch and predictions of each checkpoint that has maps, in the order of training."""
    yield "before", 0.0, scored_maps.predictions("before")
    names = scored_maps.names("epoch")
    if names and scored_maps.train.has("course_predictions.parquet"):
        course = scored_maps.predictions("course")
        if scored_maps.images["image_id"].isin(course["image_id"]).all():  # it is of the test set
            for name in names:
                epoch = int(name.removeprefix("epoch_"))
                yield name, float(epoch), course[course["epoch"] == epoch]
    yield "after", np.nan, scored_maps.predictions("after")


def of_study(study: Study, *, auc_margin: float, level: float = 0.95) -> Consistencies:
    """All cells of a study. `auc_margin`: see `falls`."""
    rows = study.score_tables("consistency.parquet")
    if rows.empty:
        return Consistencies(*(pd.DataFrame() for _ in range(4)), level)
    auc = study.auc_by_epoch() if (rows["epoch"] > 0).any() else pd.DataFrame()
    return Consistencies(
        pooled(rows, level=level),
        changes(rows, level=level),
        falls(rows, auc, auc_margin=auc_margin, level=level) if len(auc) else pd.DataFrame(),
        auc.groupby(["architecture", "epoch"], sort=False)["auc_macro"].mean().rename("auc").reset_index()
        if len(auc)
        else pd.DataFrame(columns=["architecture", "epoch", "auc"]),
        level,
    )


def pooled(rows: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Consistency over all seeds.

    Args:
        rows: `table` of all runs.

    Returns: architecture, method, checkpoint, epoch, label, n_seeds, n_images (mean over seeds), n_patients
        (smallest of the seeds), consistency_median (the mean over seeds), consistency_ci_low, consistency_ci_high
        (`estimates.located`; NaN with fewer than `FEW_PATIENTS` patients).
    """
    out = []
    for key, own in rows.groupby([*CELL, "checkpoint", "epoch", "label"], sort=False, dropna=False):
        values, draws = _by_seed(own)
        patients = int(own["n_patients"].min())
        found = estimates.located(values, draws, n_patients=patients, level=level, least=FEW_PATIENTS)
        row = dict(zip([*CELL, "checkpoint", "epoch", "label"], key, strict=True))
        row |= {"n_seeds": len(values), "n_images": own["n_images"].mean(), "n_patients": patients}
        out.append(row | {f"consistency_{part}": x for part, x in zip(LOCATED, np.clip(found, 0, 1), strict=True)})
    return pd.DataFrame(out)


def changes(rows: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Does fine-tuning change the consistency? One test an architecture and method, over the mean of the classes.

    Args:
        rows: `table` of all runs.

    Returns: architecture, method, before, after (means over seeds), change, change_ci_low, change_ci_high, p
        (`estimates.estimate`, `p_value`), p_holm (over the rows).
    """
    out = []
    for (architecture, method), cell in rows[rows["label"] == ALL].groupby(CELL, sort=False):
        ends = [cell[cell["checkpoint"] == name].set_index("seed") for name in ("before", "after")]
        seeds = [seed for seed in ends[0].index if all(end["consistency"].notna()[seed] for end in ends)]
        row = {"architecture": architecture, "method": method}
        found = estimates.NOTHING
        if seeds:
            (before, first), (after, last) = (_by_seed(end.loc[seeds]) for end in ends)
            patients = int(min(end.loc[seeds, "n_patients"].min() for end in ends))
            if patients >= FEW_PATIENTS:
                found = estimates.estimate(after - before, last - first, n_patients=patients, level=level)
            row |= {"before": before.mean(), "after": after.mean()}
        row |= {"change": found.value, "change_ci_low": found.low, "change_ci_high": found.high}
        out.append(row | {"p": estimates.p_value(found)})
    table = pd.DataFrame(out)
    return table.assign(p_holm=estimates.holm(table["p"].astype(float)))


def _by_seed(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Values [k] of the rows that have one, and their replicates [n_boot, k]."""
    known = rows[rows["consistency"].notna()]
    draws = np.stack(known["replicates"].to_list(), axis=1).astype(float) if len(known) else np.empty((0, 0))
    return known["consistency"].to_numpy(float), draws


def falls(rows: pd.DataFrame, auc: pd.DataFrame, *, auc_margin: float, level: float = 0.95) -> pd.DataFrame:
    """Does consistency fall before AUC does? One row a run, over its checkpoints during fine-tuning.

    Args:
        rows: `table` of all runs.
        auc: architecture, seed, epoch (0: before fine-tuning), auc_macro.

    Returns: architecture, method, seed; consistency_falls: the first epoch whose consistency (mean of the classes)
        is lower than the highest one before it, with an interval over patients of the difference below 0;
        auc_falls: the first epoch whose AUC is lower than the highest one before it by more than `auc_margin`
        (both NaN: never); first ("consistency", "AUC", "same epoch" or "neither").
    """
    out = []
    course = rows[(rows["label"] == ALL) & rows["epoch"].notna() & rows["consistency"].notna()]
    for (architecture, method, seed), own in course.groupby([*CELL, "seed"], sort=False):
        own = own.sort_values("epoch")
        if len(own) < 2:
            continue
        values, draws = _by_seed(own)
        high = np.maximum.accumulate(np.arange(len(own)) * (values >= np.maximum.accumulate(values)))
        apart = draws - draws[:, high]
        lower = [k for k in range(1, len(own)) if bootstrap.interval(apart[:, k], level)[1] < 0]
        measured = auc[(auc["architecture"] == architecture) & (auc["seed"] == seed)].sort_values("epoch")
        drop = np.flatnonzero(measured["auc_macro"].cummax() - measured["auc_macro"] > auc_margin)
        epochs = (
            own["epoch"].iloc[lower[0]] if lower else np.nan,
            measured["epoch"].iloc[drop[0]] if len(drop) else np.nan,
        )
        row = {"architecture": architecture, "method": method, "seed": seed}
        row |= {"consistency_falls": epochs[0], "auc_falls": epochs[1]}
        out.append(row | {"first": _first(*epochs)})
    return pd.DataFrame(out)


def _first(consistency_falls: float, auc_falls: float) -> str:
    a, b = np.nan_to_num([consistency_falls, auc_falls], nan=np.inf)
    if np.isinf(min(a, b)):
        return "neither"
    return "consistency" if a < b else "AUC" if b < a else "same epoch"


def sentence(found: Consistencies) -> str:
    """What was found, in two sentences, for the report."""
    rows = found.changes
    if rows.empty:
        return "Not asked: these score runs hold no consistency; run 3_score again."
    if rows["change"].isna().all():
        return (
            "Not known: in no cell do both checkpoints classify images of enough patients of every class "
            f"correctly (two in each, {FEW_PATIENTS} in all)."
        )
    sure = rows["p_holm"] < 1 - found.level
    up, down = ((sure & (rows["change"] * sign > 0)).sum() for sign in (1, -1))
    text = (
        f"From before to after fine-tuning, consistency rises in {up} of {len(rows)} cells and falls in {down} "
        f"(tests at {percent(1 - found.level)}, Holm over cells); it changes by {rows['change'].min():+.2f} to "
        f"{rows['change'].max():+.2f}."
    )
    if found.falls.empty:
        return f"{text} Whether it falls before AUC does was not asked: set `checkpoint_every`."
    counts = found.falls["first"].value_counts()
    return (
        f"{text} During fine-tuning, consistency falls before AUC in {counts.get('consistency', 0)} of "
        f"{len(found.falls)} runs, after it in {counts.get('AUC', 0)}, in the same epoch in "
        f"{counts.get('same epoch', 0)}; in {counts.get('neither', 0)} neither falls."
    )
