"""A verdict for each of the paper's claims: supported, contradicted, or this study cannot tell.

The claims are those of Elangovan and Ting 2026 (arXiv 2604.08513). We had only the abstract, which gives no
thresholds. The margins are therefore parameters of the comparison, set before anyone looks at the results. The
tests are those of `cxr.statistics`. With one training seed nobody can tell a difference between two architectures
from the luck of two trainings: claims about architectures then stay open, however small the p value over patients.

To add a claim, write a function from `Evidence` to `Judgement` and add it to `CLAIMS`, at the end of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from cxr.metrics.metric_table import METRICS, sign_of_stability
from cxr.report.evidence import Evidence
from cxr.report.judgement import (
    CONTRADICTED,
    MORE_SEEDS,
    NO_SPREAD,
    OPEN,
    SUPPORTED,
    Judgement,
    cells_text,
    crossing_text,
    judge_all,
    number,
    pair_text,
    seeds_for,
)
from cxr.statistics import estimates

PAPER_AUC = 0.99
FAMILIES = {
    "DenseNet": ("DenseNet201", "CompactDenseNet"),
    "ResNetV2": ("ResNet50V2", "CompactResNetV2"),
    "Inception": ("InceptionV3", "CompactInception"),
}
"""The paper's architectures and our compact networks of the same family."""


def claims(evidence: Evidence) -> dict[str, Judgement]:
    """The judgement on each of `CLAIMS`, by the claim, in their order."""
    margins = evidence.margins
    return {
        claim.format(auc=margins.auc, centroid=margins.centroid): judge(evidence)
        for claim, judge in CLAIMS.items()
    }


def table(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a claim: claim, verdict, evidence, what it would take."""
    rows = [(claim, *judgement) for claim, judgement in judged.items()]
    return pd.DataFrame(rows, columns=["claim", "verdict", "evidence", "what it would take"])


def tags(judged: Mapping[str, Judgement]) -> dict[str, str]:
    """The verdicts as tags of the compare run: cxr.verdict.1, ..."""
    return {
        f"cxr.verdict.{number}": f"{judgement.verdict}: {claim}"
        for number, (claim, judgement) in enumerate(judged.items(), start=1)
    }


def scope(n_architectures: int, n_seeds: int) -> str:
    """What the verdicts hold for, in two or three sentences."""
    networks = f"{n_architectures} architecture{'s' * (n_architectures > 1)}"
    if n_seeds == 1:
        trained = "each trained once: results describe these checkpoints only, not another training"
    else:
        trained = f"each trained {n_seeds} times"
    cannot = (
        "One network cannot represent others"
        if n_architectures == 1
        else f"{n_architectures} networks cannot represent all others"
    )
    return (
        f"These verdicts hold for {networks} on this data set, {trained}. {cannot}: a study of this size cannot "
        "settle a claim about families of architectures, or about what makes an architecture stable."
    )


def high_auc(evidence: Evidence) -> Judgement:
    """Macro AUC after fine-tuning is above `PAPER_AUC` for every architecture."""
    found, alpha = list(evidence.auc.values()), evidence.margins.alpha
    above = [estimates.p_value(est, PAPER_AUC, "greater") < alpha for est in found]
    under = [estimates.p_value(est, PAPER_AUC, "less") < alpha for est in found]
    text = "; ".join(f"{name} {number(est, bounds=(0, 1))}" for name, est in evidence.auc.items())
    return judge_all(above, under, text, found, PAPER_AUC)


def stable_performance(evidence: Evidence) -> Judgement:
    """AUC after minus AUC before is within the margin: an equivalence test."""
    found, margin, alpha = list(evidence.auc_change.values()), evidence.margins.auc, evidence.margins.alpha
    same = [estimates.equivalence(est, margin) < alpha for est in found]
    moved = [
        min(
            estimates.p_value(est, margin, "greater"),
            estimates.p_value(est, -margin, "less"),
        )
        < alpha / 2
        for est in found
    ]
    text = "; ".join(f"{name} {number(est, sign=True)}" for name, est in evidence.auc_change.items())
    return judge_all(same, moved, text, found, margin)


def still_centroid(evidence: Evidence) -> Judgement:
    """The median centroid shift is under the margin in every cell."""
    found, margin, alpha = list(evidence.shift.values()), evidence.margins.centroid, evidence.margins.alpha
    below = [estimates.p_value(est, margin, "less") < alpha for est in found]
    over = [estimates.p_value(est, margin, "greater") < alpha for est in found]
    text = cells_text(evidence.shift, bounds=METRICS["centroid_shift"].bounds)
    return judge_all(below, over, text, found, margin)


def beyond_seeds(evidence: Evidence) -> Judgement:
    """The overlap before/after is lower than that of two checkpoints that differ by their seed only."""
    if not evidence.excess:
        return Judgement(OPEN, "Not measured", "several seeds, or extra_heads of 1 or more")
    found, alpha = list(evidence.excess.values()), evidence.margins.alpha
    more = [estimates.p_value(est, 0, "greater") < alpha / 2 for est in found]
    less = [estimates.p_value(est, 0, "less") < alpha / 2 for est in found]
    cells = cells_text(evidence.excess, sign=True)
    text = f"Overlap of {evidence.against} minus overlap before/after: {cells}"
    return judge_all(more, less, text, found, 0.0)


def depends_on_architecture(evidence: Evidence) -> Judgement:
    """Some two architectures differ in the primary metric under some method."""
    pairs, margins = evidence.pairs, evidence.margins
    if pairs.empty:
        return Judgement(OPEN, "One architecture", "at least two architectures")
    text = "; ".join(map(pair_text, pairs.itertuples()))
    text += f" (median {evidence.metric}, {margins.level:.0%} intervals)"
    if pairs["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks: {text}", MORE_SEEDS)
    if (pairs["p_holm"] < margins.alpha).any():
        return Judgement(SUPPORTED, text)
    if (pairs["p_equivalent"] < margins.alpha).all():
        return Judgement(CONTRADICTED, f"{text}; all within ±{margins.overlap:g}")
    widest = pairs.loc[pairs["difference"].abs().fillna(0.0).idxmax()]
    tests = int((pairs["method"] == widest["method"]).sum())
    return Judgement(OPEN, text, seeds_for(widest["estimate"], 0.0, tests=tests))


def extremes(evidence: Evidence) -> Judgement:
    """Under LayerCAM Inception moves most and ResNetV2 least: each differs from both others, in that direction."""
    pairs = evidence.pairs
    own = pairs[pairs["method"] == "layercam"] if len(pairs) else pairs
    family = {name: key for key, names in FAMILIES.items() for name in names}
    present = {family.get(name) for name in [*own["a"], *own["b"]]} if len(own) else set()
    if not set(FAMILIES) <= present:
        return Judgement(OPEN, "Not asked", "the three architectures (or their compact networks) under LayerCAM")
    sign = sign_of_stability(evidence.metric)
    order = {"ResNetV2": 2, "DenseNet": 1, "Inception": 0}  # from the paper: higher is more stable
    pairs = own[own["a"].isin(family) & own["b"].isin(family)]
    pairs = pairs[pairs["a"].map(family) != pairs["b"].map(family)]
    expected = [1 if order[family[row.a]] > order[family[row.b]] else -1 for row in pairs.itertuples()]
    leads = [
        sign * row.difference * direction for row, direction in zip(pairs.itertuples(), expected, strict=True)
    ]
    sure = (pairs["p_holm"] < evidence.margins.alpha).tolist()
    text = "; ".join(map(pair_text, pairs.itertuples()))
    if pairs["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks: {text}", MORE_SEEDS)
    if all(lead > 0 and certain for lead, certain in zip(leads, sure, strict=True)):
        return Judgement(SUPPORTED, text)
    if any(lead < 0 and certain for lead, certain in zip(leads, sure, strict=True)):
        return Judgement(CONTRADICTED, text)
    undecided = [row for row, certain in zip(pairs.itertuples(), sure, strict=True) if not certain]
    nearest = min(undecided, key=lambda row: abs(row.difference))
    return Judgement(OPEN, text, seeds_for(nearest.estimate, 0.0, tests=len(own)))


def reversal(evidence: Evidence) -> Judgement:
    """Two architectures differ significantly under LayerCAM and under Grad-CAM++, with opposite signs."""
    crossings, alpha = evidence.crossings, evidence.margins.alpha
    if evidence.coincide:
        return Judgement(
            OPEN,
            "Cannot be asked at the last feature map: behind global average pooling Grad-CAM++ and LayerCAM are "
            "the same map up to scale",
            "target_layer: penultimate",
        )
    if crossings.empty:
        return Judgement(OPEN, "Not asked", "two architectures, under LayerCAM and Grad-CAM++")
    text = "; ".join(map(crossing_text, crossings.itertuples()))
    if crossings["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks: {text}", MORE_SEEDS)
    if (crossings["p_holm"] < alpha).any():
        return Judgement(SUPPORTED, text)
    if (crossings["p_same_order"] < alpha).all():
        return Judgement(CONTRADICTED, f"{text}; every pair keeps its order under both methods")
    best = crossings.loc[crossings["p"].fillna(1.0).idxmin()]
    if not (best["estimate_a"].se > 0 and best["estimate_b"].se > 0):
        return Judgement(OPEN, text, NO_SPREAD)
    weaker = max((best["estimate_a"], best["estimate_b"]), key=lambda est: estimates.p_value(est))
    crosses = best["difference_a"] * best["difference_b"] < 0
    needed = seeds_for(weaker, 0.0, tests=len(crossings)) if crosses else "no pair crosses here"
    return Judgement(OPEN, text, needed)


CLAIMS: Mapping[str, Callable[[Evidence], Judgement]] = {
    f"All architectures end above {PAPER_AUC} macro AUC": high_auc,
    "Performance is stable under fine-tuning (macro AUC within ±{auc:g})": stable_performance,
    "Coarse localisation stays put (centroid moves under {centroid:g} of the diagonal)": still_centroid,
    "Fine-tuning moves evidence more than another seed would, in every cell": beyond_seeds,
    "Overlap shows reorganisation that depends on the architecture": depends_on_architecture,
    "Under LayerCAM, InceptionV3 moves most and ResNet50V2 least": extremes,
    "The stability ranking can reverse under Grad-CAM++": reversal,
}
"""What the study asks, in the order of the paper's abstract: a claim, in which {auc} and {centroid} stand for the
margins, and the function that judges it."""
