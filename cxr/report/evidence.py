"""What the verdicts rest on: estimates and tests over training seeds and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.metrics import classification
from cxr.metrics.metric_table import METRICS
from cxr.statistics import bootstrap, contrasts, estimates, planning, score_rows
from cxr.statistics.estimates import Estimate

Cells = Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True)
class Margins:
    """What counts as no difference, declared before looking; and the level of the intervals."""

    auc: float
    centroid: float
    overlap: float
    level: float = 0.95

    @property
    def alpha(self) -> float:
        return 1 - self.level


@dataclass(frozen=True)
class Evidence:
    """What the verdicts rest on; made by `gather`.

    auc, auc_change: per architecture, macro AUC after fine-tuning, and minus that before.
    shift: per architecture and method, the median centroid shift.
    excess: the median overlap of two checkpoints that differ by seed alone minus that of before and after;
        against: what those checkpoints are (empty: neither is there).
    pairs: `contrasts.compare_architectures` with `estimate` and `p_equivalent`.
    crossings: `contrasts.crossover` of LayerCAM and Grad-CAM++ with method_a, method_b, `estimate_a`,
        `estimate_b` and `p_same_order`: the larger p value of one order under both.
    coincide: whether LayerCAM and Grad-CAM++ are the same map at the layer of this study.
    """

    metric: str
    margins: Margins
    auc: Mapping[str, Estimate]
    auc_change: Mapping[str, Estimate]
    shift: Cells
    excess: Cells
    against: str
    pairs: pd.DataFrame
    crossings: pd.DataFrame
    coincide: bool


def gather(
    scores: pd.DataFrame,
    two_seeds: pd.DataFrame,
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    *,
    metric: str,
    margins: Margins,
    n_boot: int = 2000,
    coincide: bool = False,
) -> Evidence:
    """Every estimate and test that a verdict needs.

    Args:
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).
        two_seeds: `comparison.two_seeds_table` of all cells; without rows, the baseline two heads
            (`<metric>_two_heads` of `scores`) takes its place.
        predictions: per architecture, seed and checkpoint, `cxr.training.stages.prediction_table`.
        metric: the primary metric, with a direction of stability.
        coincide: whether LayerCAM and Grad-CAM++ are the same map at the layer of this study.
    """
    options = {"n_boot": n_boot, "level": margins.level}
    cells = list(scores[["architecture", "method"]].drop_duplicates().itertuples(index=False, name=None))
    auc, change = _performance(predictions, **options)
    sign = 1 if METRICS[metric].higher_is_more_stable else -1
    noise = _noise(scores, two_seeds, metric)
    return Evidence(
        metric=metric,
        margins=margins,
        auc=auc,
        auc_change=change,
        shift={cell: contrasts.contrast(scores, "centroid_shift", {cell: 1}, **options) for cell in cells},
        excess={
            (a, m): contrasts.contrast(noise, "value", {(a, f"{m} noise"): sign, (a, m): -sign}, **options)
            for a, m in cells
            if len(noise) and (noise["method"] == f"{m} noise").any()
        },
        against="two seeds" if len(two_seeds) else "two heads" if len(noise) else "",
        pairs=_pairs(scores, metric, margins, options),
        crossings=_crossings(scores, metric, options),
        coincide=coincide,
    )


def _performance(
    predictions: Mapping[tuple[str, int, str], pd.DataFrame], *, n_boot: int, level: float
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """AUC after fine-tuning, and its change, per architecture."""
    found: dict[str, list[tuple[float, float, np.ndarray, np.ndarray]]] = {}
    patients = set()
    for architecture, seed, checkpoint in predictions:
        if checkpoint != "before":
            continue
        both = []
        for name in ("before", "after"):
            table = predictions[architecture, seed, name]
            table = table[table["split"] == "test"].sort_values("image_id")
            labels = np.searchsorted(sorted(table["label"].unique()), table["label"])
            p = table.filter(regex=r"^p_\d+$").to_numpy(float)
            weights = bootstrap.patient_weights(table["patient_id"].to_numpy(), n_boot=n_boot)
            patients.add(table["patient_id"].nunique())
            draws = classification.auc_replicates(labels, p, np.vstack([np.ones(len(labels), int), weights]))
            both.append(draws)
        found.setdefault(architecture, []).append((both[1], both[1] - both[0]))
    auc, change = {}, {}
    for architecture, runs in found.items():
        for out, number in ((auc, 0), (change, 1)):
            draws = np.stack([run[number] for run in runs], axis=1)
            kept = draws[1:][np.isfinite(draws[1:]).all(axis=1)]  # a replicate may lack a small class altogether
            out[architecture] = estimates.estimate(draws[0], kept, n_patients=max(patients), level=level)
    return auc, change


def _noise(scores: pd.DataFrame, two_seeds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of both kinds in the form that `contrasts.contrast` takes: the drift of before and after under the
    method's name, that between seeds under "<method> noise". A pair of seeds stands under its first seed; of two
    seeds' only pair, under both, so that how far another pair would lie elsewhere is not in the interval."""
    own = scores[score_rows.KEYS].assign(value=scores[metric])
    if len(two_seeds):
        noise = two_seeds.rename(columns={"seed_a": "seed"}).assign(value=two_seeds[metric])
        if two_seeds.groupby(["architecture", "method"])["seed_b"].nunique().max() == 1:
            noise = pd.concat([noise, noise.assign(seed=two_seeds["seed_b"])])
    elif f"{metric}_two_heads" in scores:
        noise = scores.assign(value=scores[f"{metric}_two_heads"])
    else:
        return own.iloc[:0]
    noise = noise.assign(method=noise["method"] + " noise")[[*score_rows.KEYS, "value"]].dropna(subset=["value"])
    return pd.concat([own, noise], ignore_index=True)


def _pairs(scores: pd.DataFrame, metric: str, margins: Margins, options: Mapping) -> pd.DataFrame:
    table = contrasts.compare_architectures(scores, metric, **options)
    table["estimate"] = [
        contrasts.contrast(scores, metric, {(row.a, row.method): 1, (row.b, row.method): -1}, **options)
        for row in table.itertuples()
    ]
    table["p_equivalent"] = [estimates.equivalence(est, margins.overlap) for est in table["estimate"]]
    return table


def _crossings(scores: pd.DataFrame, metric: str, options: Mapping) -> pd.DataFrame:
    methods = ("layercam", "gradcampp")
    if not set(methods) <= set(scores["method"]) or scores["architecture"].nunique() < 2:
        return pd.DataFrame()
    table = contrasts.crossover(scores, metric, *methods, **options).assign(
        method_a=methods[0], method_b=methods[1]
    )
    for end, method in (("_a", methods[0]), ("_b", methods[1])):
        table[f"estimate{end}"] = [
            contrasts.contrast(scores, metric, {(row.a, method): 1, (row.b, method): -1}, **options)
            for row in table.itertuples()
        ]
    same = []
    for first, second in zip(table["estimate_a"], table["estimate_b"], strict=True):
        ways = [max(estimates.p_value(e, 0, way) for e in (first, second)) for way in ("greater", "less")]
        same.append(min(1.0, 2 * min(ways)))
    return table.assign(p_same_order=same)


def power_table(
    pairs: pd.DataFrame, *, effects: Sequence[float] = (0.02, 0.05, 0.1), seeds: Sequence[int] = (2, 3, 5, 10)
) -> pd.DataFrame:
    """What a study with these variances would see: how many seeds and patients for which difference.

    Args:
        pairs: of `Evidence`, with `estimate`.
        effects: differences of the primary metric between two architectures.

    Returns: effect, seeds, patients (those of this study, and four times as many), power (`planning.power`,
        the mean over pairs of architectures and methods). Empty with one seed, which does not show how seeds vary.
    """
    known = [est for est in pairs.get("estimate", []) if est.n_seeds > 1 and est.se > 0]
    rows = []
    for effect in effects if known else []:
        for patients in (pairs["n_patients"].max(), 4 * pairs["n_patients"].max()):
            for k in seeds:
                chances = [planning.power(est, effect=effect, seeds=k, patients=patients) for est in known]
                rows.append({"effect": effect, "seeds": k, "patients": int(patients), "power": np.mean(chances)})
    return pd.DataFrame(rows, columns=["effect", "seeds", "patients", "power"])
