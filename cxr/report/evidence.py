"""What the verdicts rest on: estimates and tests over training seeds and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.metrics import classification
from cxr.metrics.metric_table import sign_of_stability
from cxr.metrics.multiverse import PAIR
from cxr.statistics import bootstrap, contrasts, estimates, planning
from cxr.statistics.estimates import Estimate, equivalence
from cxr.statistics.score_rows import KEYS, Scores

Cells = Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True)
class Margins:
    """The largest differences that count as none, set before anyone looks, and the level of the intervals.

    auc: change of macro AUC. centroid: centroid shift, as a fraction of the image's diagonal. overlap: difference
        in the primary metric. level: of all intervals; tests are at 1 - level.
    """

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
    excess: the median overlap of two checkpoints that differ by seed only, minus the overlap before/after.
    against: which baseline that is, "two seeds" or "two heads"; empty without either.
    pairs: `contrasts.compare_architectures` with `p_equivalent`.
    crossings: `contrasts.crossover` of LayerCAM and Grad-CAM++ with method_a, method_b; `estimate_a` and
        `estimate_b`, those of `pairs` under either method; and `p_same_order`, the p value of the same order.
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
    primary = Scores.of(scores, metric, **options)
    shift = Scores.of(scores, "centroid_shift", **options)
    auc, change = _performance(predictions, **options)
    sign = sign_of_stability(metric)
    noise = _noise(scores, two_seeds, metric)
    drift_and_noise = Scores.of(noise, "value", **options) if len(noise) else None
    pairs = contrasts.compare_architectures(primary)
    return Evidence(
        metric=metric,
        margins=margins,
        auc=auc,
        auc_change=change,
        shift={cell: contrasts.contrast(shift, {cell: 1}) for cell in shift.values},
        excess={
            (a, m): contrasts.contrast(drift_and_noise, {(a, f"{m} noise"): sign, (a, m): -sign})
            for a, m in primary.values
            if drift_and_noise and f"{m} noise" in drift_and_noise.methods
        },
        against="two seeds" if len(two_seeds) else "two heads" if len(noise) else "",
        pairs=pairs.assign(p_equivalent=[equivalence(est, margins.overlap) for est in pairs["estimate"]]),
        crossings=_crossings(primary, pairs),
        coincide=coincide,
    )


def _performance(
    predictions: Mapping[tuple[str, int, str], pd.DataFrame], *, n_boot: int, level: float
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """AUC after fine-tuning, and its change, per architecture."""
    test = {key: table[table["split"] == "test"].sort_values("image_id") for key, table in predictions.items()}
    # One draw of all patients for all seeds: with `vary_split`, their test sets overlap in part.
    everyone = np.unique(np.concatenate([table["patient_id"] for table in test.values()]))
    weights = bootstrap.patient_weights(everyone, n_boot=n_boot)
    draws = {
        key: _auc_draws(table, weights[:, np.searchsorted(everyone, table["patient_id"])])
        for key, table in test.items()
    }
    patients = max(table["patient_id"].nunique() for table in test.values())
    auc, change = {}, {}
    for architecture in dict.fromkeys(architecture for architecture, _, _ in predictions):
        before, after = (
            np.stack([own for (a, _, c), own in draws.items() if (a, c) == (architecture, checkpoint)], axis=1)
            for checkpoint in ("before", "after")
        )
        for out, values in ((auc, after), (change, after - before)):
            kept = values[1:][np.isfinite(values[1:]).all(axis=1)]  # a replicate may lack a small class
            out[architecture] = estimates.estimate(values[0], kept, n_patients=patients, level=level)
    return auc, change


def _auc_draws(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Macro AUC of predictions, and then its replicates with each row's `weights` [n_boot, n]: [1 + n_boot]."""
    labels = np.searchsorted(sorted(table["label"].unique()), table["label"])
    p = table.filter(regex=r"^p_\d+$").to_numpy(float)
    return classification.auc_replicates(labels, p, np.vstack([np.ones(len(labels), int), weights]))


def _noise(scores: pd.DataFrame, two_seeds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Drift and noise as rows for `contrasts.contrast`; the method of noise is called "<method> noise".

    Noise is the overlap of two seeds, or without it that of two heads. A pair of seeds (a, b) is stored as seed a;
    with two seeds, also as seed b. The interval then leaves out how much another pair would differ.
    """
    own = scores[KEYS].assign(value=scores[metric])
    if len(two_seeds):
        noise = two_seeds.rename(columns={"seed_a": "seed"}).assign(value=two_seeds[metric])
        if two_seeds.groupby(["architecture", "method"])["seed_b"].nunique().max() == 1:
            noise = pd.concat([noise, noise.assign(seed=two_seeds["seed_b"])])
    elif f"{metric}_two_heads" in scores:
        noise = scores.assign(value=scores[f"{metric}_two_heads"])
    else:
        return own.iloc[:0]
    noise = noise.assign(method=noise["method"] + " noise")[[*KEYS, "value"]].dropna(subset=["value"])
    return pd.concat([own, noise], ignore_index=True)


def _crossings(scores: Scores, pairs: pd.DataFrame) -> pd.DataFrame:
    if not set(PAIR) <= set(scores.methods) or pairs.empty:
        return pd.DataFrame()
    table = contrasts.crossover(scores, *PAIR).assign(method_a=PAIR[0], method_b=PAIR[1])
    known = pairs.set_index(["method", "a", "b"])["estimate"]
    for end, method in zip("ab", PAIR, strict=True):
        table[f"estimate_{end}"] = [known[method, row.a, row.b] for row in table.itertuples()]
    same = map(estimates.same_order_p, table["estimate_a"], table["estimate_b"])
    return table.assign(p_same_order=list(same))


def power_table(
    pairs: pd.DataFrame, *, effects: Sequence[float] = (0.02, 0.05, 0.1), seeds: Sequence[int] = (2, 3, 5, 10)
) -> pd.DataFrame:
    """The power of studies with the variances of this one, for more seeds and more patients.

    Args:
        pairs: of `Evidence`, with `estimate`.
        effects: differences of the primary metric between two architectures.

    Returns: effect, seeds, patients (those of this study, and four times as many), power (`planning.power`,
        the mean over pairs of architectures and methods). Empty with one seed: it does not show how seeds vary.
    """
    known = [est for est in pairs.get("estimate", []) if est.n_seeds > 1 and est.se > 0]
    rows = []
    for effect in effects if known else []:
        for patients in (pairs["n_patients"].max(), 4 * pairs["n_patients"].max()):
            for k in seeds:
                chances = [planning.power(est, effect=effect, seeds=k, patients=patients) for est in known]
                rows.append({"effect": effect, "seeds": k, "patients": int(patients), "power": np.mean(chances)})
    return pd.DataFrame(rows, columns=["effect", "seeds", "patients", "power"])
