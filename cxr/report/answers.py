"""Answers and certainty: do maps move more where the network changed its answer, or how sure it is?

Drift is scored on images that both checkpoints classify correctly. That leaves out the images near a decision
boundary. Here every image that was explained counts: `table` measures one score run, `of_study` pools a study.

The answer of an image compares its predictions with its label: kept right, fixed (wrong before, right after),
broken (right before, wrong after), kept wrong (wrong twice, perhaps in another way). Certainty is the log-odds of
the explained class, log(p / (1 - p)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.attribution.maps import MapSet
from cxr.core.tables import percent, span
from cxr.metrics.similarity import compare_maps
from cxr.report import comparison
from cxr.report.comparison import CELL, LOCATED
from cxr.report.scores import Study
from cxr.report.scoring import ScoredMaps
from cxr.statistics import bootstrap, estimates, resampling
from cxr.statistics.bootstrap import FEW_PATIENTS

ANSWERS = ("kept right", "fixed", "broken", "kept wrong")
CHANGED = ("fixed", "broken")
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Answers:
    """What a study says of answers and certainty; made by `of_study`. Both tables may be empty.

    by_answer: of `by_answer`, with the baselines of each cell (`overlap_two_patients_<part>` and
        `overlap_two_seeds_<part>`).
    summary: of `summary`.
    level: of the intervals; tests are at 1 - level.
    """

    by_answer: pd.DataFrame
    summary: pd.DataFrame
    level: float


def log_odds(probabilities: np.ndarray, class_index: np.ndarray, *, exclusive: bool = True) -> np.ndarray:
    """log(p / (1 - p)) of one class of each image: float64 [n].

    If classes exclude each other (a softmax), 1 - p is the sum of the other classes' probabilities, because a
    float32 p rounds to 1 from log-odds of 17 on. The sum resolves log-odds up to 87, where a float32 softmax gives
    0 to all other classes; beyond, 87.3 is returned, and -87.3 where p itself is 0.

    Args:
        probabilities: float32 [n, n_classes].
        class_index: int [n].
        exclusive: whether they are of a softmax; otherwise each is a sigmoid, and p is between 2^-24 from 0 and 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not exclusive:
        own = np.clip(p[np.arange(len(p)), class_index], 2.0**-24, 1 - 2.0**-24)  # where float32 ends near 1
        return np.log(own / (1 - own))
    own = np.zeros(p.shape, bool)
    own[np.arange(len(p)), class_index] = True
    others = np.where(own, 0, p).sum(1)
    return np.log(np.maximum(p[own], _TINY)) - np.log(np.maximum(others, _TINY))


def table(scored_maps: ScoredMaps) -> pd.DataFrame:
    """Overlap, centroid shift, answer and log-odds of every image that was explained, scored or not.

    Returns: `comparison.score_table` of all `images` with answer (one of `ANSWERS`), log_odds_before,
        log_odds_after, log_odds_change, overlap, centroid_shift (NaN where either map is empty), empty_before and
        empty_after.
    """
    images = scored_maps.images
    before, after = scored_maps.pair()
    drift = compare_maps(before.maps, after.maps, size=scored_maps.size, names=("overlap", "centroid_shift"))
    odds = {f"log_odds_{name}": _log_odds(scored_maps, name, before) for name in ("before", "after")}
    change = odds["log_odds_after"] - odds["log_odds_before"]
    own = {"answer": answers(images), **odds, "log_odds_change": change}
    return comparison.score_table(own | drift, images, **scored_maps.cell)


def answers(images: pd.DataFrame) -> np.ndarray:
    """The answer of each image, str [n]. `images`: label, predicted_before, predicted_after."""
    before, after = (images["label"] == images[f"predicted_{name}"] for name in ("before", "after"))
    return np.select([before & after, ~before & after, before & ~after], ANSWERS[:3], ANSWERS[3])


def _log_odds(scored_maps: ScoredMaps, checkpoint: str, explained: MapSet) -> np.ndarray:
    predictions = scored_maps.predictions(checkpoint).set_index("image_id")
    own = predictions.loc[explained.image_id, [f"p_{k}" for k in range(len(explained.classes))]]
    return log_odds(own.to_numpy(), explained.class_index, exclusive="image" not in predictions)


def of_study(study: Study, pooled: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000) -> Answers:
    """All cells of a study.

    Args:
        pooled: `comparison.pooled`, for the baseline two patients.
    """
    rows = study.score_tables("answers.parquet")
    if rows.empty:
        return Answers(pd.DataFrame(), pd.DataFrame(), level)
    known = [f"overlap_{key}_{part}" for key in ("two_patients", "two_seeds") for part in LOCATED]
    baseline = [*CELL, *known]
    found = by_answer(rows, level=level, n_boot=n_boot)
    found = found.merge(pooled[[name for name in baseline if name in pooled]], on=CELL, how="left")
    return Answers(found, summary(rows, level=level, n_boot=n_boot), level)


def by_answer(rows: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000) -> pd.DataFrame:
    """The median overlap of each answer.

    Args:
        rows: `table` of all runs.

    Returns: architecture, method, answer, n_images (over all seeds; with a map that is not empty), n_patients,
        overlap_median, overlap_ci_low, overlap_ci_high: `estimates.located` of the seeds that have such images.
        NaN where there are none; the interval is NaN with fewer than `FEW_PATIENTS` patients.
    """
    out = []
    for (architecture, method), cell in rows.groupby(CELL, sort=False):
        values, draws = _overlaps(cell, {answer: (answer,) for answer in ANSWERS}, n_boot)
        for answer in ANSWERS:
            own = values.get(answer, pd.DataFrame()).dropna(how="all")
            row = {"architecture": architecture, "method": method, "answer": answer}
            row |= {"n_images": int(own.count().sum()), "n_patients": _patients(own)}
            found = (np.nan,) * 3
            if len(own):
                options = {"n_patients": row["n_patients"], "level": level, "least": FEW_PATIENTS}
                found = estimates.located(own.median(), draws[answer].to_numpy(), **options)
            out.append(row | {f"overlap_{p}": x for p, x in zip(LOCATED, np.clip(found, 0, 1), strict=True)})
    return pd.DataFrame(out)


def summary(rows: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000) -> pd.DataFrame:
    """Does the evidence move more where the answer or the certainty changed? One row an architecture and method.

    Args:
        rows: `table` of all runs.

    Returns: architecture, method, n_changed, n_kept (images over all seeds), overlap_changed (fixed or broken),
        overlap_kept (kept right): means over seeds of medians; difference (changed minus kept right, over the
        seeds that have both), difference_ci_low, difference_ci_high, p (`estimates.estimate`, `p_value`), p_holm
        (over the rows), NaN where either has fewer than `FEW_PATIENTS` patients; spearman (rank correlation, over
        all images, of 1 - overlap with |change of the log-odds|), spearman_ci_low, spearman_ci_high
        (`estimates.located`, by a bootstrap over patients).
    """
    out = []
    for (architecture, method), cell in rows.groupby(CELL, sort=False):
        parts = {"changed": CHANGED, "kept": ANSWERS[:1]}
        values, draws = _overlaps(cell, parts, n_boot)
        row: dict[str, object] = {"architecture": architecture, "method": method}
        for part in parts:
            row[f"n_{part}"] = int(values[part].count().sum()) if part in values else 0
            row[f"overlap_{part}"] = values[part].median().mean() if part in values else np.nan
        found = _difference(values, draws, level)
        row |= {"difference": found.value, "difference_ci_low": found.low, "difference_ci_high": found.high}
        row["p"] = estimates.p_value(found)
        names = ("spearman", "spearman_ci_low", "spearman_ci_high")
        out.append(row | dict(zip(names, _correlation(cell, level, n_boot), strict=True)))
    found = pd.DataFrame(out)
    found.insert(found.columns.get_loc("p") + 1, "p_holm", estimates.holm(found["p"].astype(float)))
    return found


def _difference(values: pd.DataFrame, draws: pd.DataFrame, level: float) -> estimates.Estimate:
    """Median overlap of "changed" minus that of "kept", over the seeds that have both. Args: of `_overlaps`."""
    seeds = [seed for part, seed in values if part == "changed" and ("kept", seed) in values]
    if not seeds or min(_patients(values[part]) for part in ("changed", "kept")) < FEW_PATIENTS:
        return estimates.NOTHING
    changed, kept = ([(part, seed) for seed in seeds] for part in ("changed", "kept"))
    medians = values.median()
    return estimates.estimate(
        medians[changed].to_numpy() - medians[kept].to_numpy(),
        draws[changed].to_numpy() - draws[kept].to_numpy(),
        n_patients=_patients(values["changed"]),
        level=level,
    )


def _overlaps(
    cell: pd.DataFrame, parts: dict[str, tuple[str, ...]], n_boot: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Overlaps by image, and replicates of their medians over patients: columns (part, seed), if it has values."""
    index = ["image_id", "patient_id"]
    wide = {
        part: cell[cell["answer"].isin(answers)].pivot(index=index, columns="seed", values="overlap")
        for part, answers in parts.items()
    }
    values = pd.concat(wide, axis=1).dropna(axis=1, how="all")
    return values, bootstrap.patient_replicates(values, n_boot=n_boot)


def _patients(values: pd.DataFrame) -> int:
    """Patients with a value. `values`: of `_overlaps`."""
    return values.dropna(how="all").index.unique("patient_id").size if len(values) else 0


def _correlation(cell: pd.DataFrame, level: float, n_boot: int) -> tuple[float, float, float]:
    known = cell.dropna(subset=["overlap"]).sort_values(["seed", "image_id"])
    if known.empty:
        return np.nan, np.nan, np.nan
    images = known.drop_duplicates("image_id")
    place = pd.Series(np.arange(len(images)), images["image_id"])
    weights = bootstrap.patient_weights(images["patient_id"].to_numpy(), n_boot=n_boot)
    all_once = np.ones((1, len(images)), int)
    values, draws = [], []
    for _, own in known.groupby("seed"):
        drift, change = 1 - own["overlap"].to_numpy(), own["log_odds_change"].abs().to_numpy()
        rows = place[own["image_id"]].to_numpy()
        values.append(spearman(drift, change, all_once, rows)[0])
        draws.append(spearman(drift, change, weights, rows))
    count = images["patient_id"].nunique()
    return tuple(np.clip(estimates.located(values, np.stack(draws, axis=1), n_patients=count, level=level), -1, 1))


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x and y, float [n], where image k counts as often as `weights[:, rows[k]]` says.

    Returns: float64 [b], as SciPy's `spearmanr` (ties: mean ranks) of the repeated values; NaN where x or y is
        constant.
    """
    blocks = np.array_split(weights, max(1, round(weights.size / resampling.BLOCK)))
    return np.concatenate([_spearman(x, y, block[:, rows]) for block in blocks])


def _spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1, keepdims=True)
    ranks = [_ranks(values, weights) for values in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks)
        spread = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
        return np.where(spread > 1e-9, (weights * a * b).sum(1) / spread, np.nan)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean rank of each value among all values repeated by their weights, float64 [b, n]."""
    rank = np.argsort(values, kind="stable")
    ascending = values[rank]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    tied = np.add.reduceat(weights[:, rank], starts, axis=1)
    middle = np.cumsum(tied, axis=1) - (tied - 1) / 2
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))
    out = np.empty(weights.shape)
    out[:, rank] = middle[:, run]
    return out


def sentence(found: Answers) -> str:
    """What was found, in one or two sentences, for the report."""
    rows = found.summary
    if rows.empty:
        return "Not asked: these score runs hold no answers; run 3_score again."
    known = rows.dropna(subset=["difference"])
    if known.empty:
        text = (
            f"Only {rows['n_changed'].max()} images at most changed their answer in a cell (fixed or broken): too "
            "few to compare their overlap with that of images that stay right."
        )
    else:
        text = (
            f"Maps of images whose answer changed (fixed or broken) overlap by {span(known['overlap_changed'])}, "
            f"those of images that stay right by {span(known['overlap_kept'])}. "
        )
        shown = (known["p_holm"] < 1 - found.level) & (known["difference"] < 0)
        other = (known["p_holm"] < 1 - found.level) & (known["difference"] > 0)
        text += (
            f"That changed answers come with less overlap is shown in {shown.sum()} of {len(known)} cells, the "
            f"opposite in {other.sum()} (tests at {percent(1 - found.level)}, Holm over cells)."
        )
    above, below = (rows["spearman_ci_low"] > 0).sum(), (rows["spearman_ci_high"] < 0).sum()
    return (
        f"{text} Drift and the change of the log-odds correlate at {span(rows['spearman'])} (Spearman); the "
        f"interval lies above 0 in {above} of {len(rows)} cells, and below 0 in {below}."
    )
