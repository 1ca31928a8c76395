"""A verdict for each of the paper's claims: supported, contradicted, fragile, or this study cannot tell.

The claims are those of Elangovan and Ting 2026 (arXiv 2604.08513). We had only the abstract, which gives no
thresholds. The margins are therefore parameters of the comparison, set before anyone looks at the results. The
tests are those of `cxr.statistics`, one-sided at `Margins.alpha`. With one training seed nobody can tell a
difference between two architectures from the luck of two trainings: claims about architectures then stay open,
however small the p value over patients.

- *Supported*: every part of the claim is shown (intersection-union). *Contradicted*: some part is refuted, after
  Holm's correction over all parts.
- *Cannot tell*: neither; or it rests on maps that fail their checks, or were not checked. Such a cell neither
  supports nor contradicts.
- *Fragile*: a verdict on an order of architectures that does not hold in the declared majority of other analyses,
  at both layers, or under both normalisations of Grad-CAM++ (`cxr.report.robustness`).

To add a claim, write a function from `Evidence` to `Judgement` and add it to `CLAIMS`, at the end of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import special

from cxr.core.tables import percent
from cxr.metrics.metric_table import sign_of_stability
from cxr.report import judgement, robustness
from cxr.report.evidence import TWIN, Cells, Evidence, twins
from cxr.report.judgement import (
    CONTRADICTED,
    FRAGILE,
    MORE_SEEDS,
    OPEN,
    SUPPORTED,
    Judgement,
    crossing_text,
    finds,
    judge_all,
    number,
    pair_text,
    settle,
)
from cxr.statistics import estimates
from cxr.statistics.score_rows import Cell

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
        claim.format(auc=margins.auc, centroid=percent(margins.centroid)): judge(evidence)
        for claim, judge in CLAIMS.items()
    }


def table(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a claim: claim, verdict, evidence, limits (what an open claim lacks)."""
    return judgement.table(judged, ["claim", "verdict", "evidence", "limits"])


def tags(judged: Mapping[str, Judgement]) -> dict[str, str]:
    """The verdicts as tags of the compare run: cxr.verdict.1, ..."""
    return judgement.tags(judged, "verdict")


def scope(n_architectures: int, n_seeds: int, *, vary_split: bool = False) -> str:
    """What the verdicts hold for, in a few sentences.

    `vary_split`: whether each seed has its own split into training and test images.
    """
    networks = f"{n_architectures} architecture{'s' * (n_architectures > 1)}"
    if n_seeds == 1:
        trained = "each trained once: results describe these checkpoints only, not another training"
    else:
        trained = f"each trained {n_seeds} times"
    split = "other splits of these images" if vary_split else "the same split of the images"
    new = (
        f"*New trainings* means other seeds with the same pretrained weights and {split}. " if n_seeds > 1 else ""
    )
    cannot = (
        "One network cannot represent others"
        if n_architectures == 1
        else f"{n_architectures} networks cannot represent all others"
    )
    return (
        f"These verdicts hold for {networks} on this data set, {trained}. {new}{cannot}: a study of this size "
        "cannot settle a claim about families of architectures, or about what makes an architecture stable."
    )


def high_auc(evidence: Evidence) -> Judgement:
    """Macro AUC after fine-tuning is above `PAPER_AUC` for every architecture; tested on the logit scale."""
    found, null = [estimates.on_logit(est) for est in evidence.auc.values()], float(special.logit(PAPER_AUC))
    above = [estimates.p_value(est, null, "greater") for est in found]
    under = [estimates.p_value(est, null, "less") for est in found]
    text = "; ".join(f"{name} {number(est, digits=3)}" for name, est in evidence.auc.items())
    return judge_all(above, under, text, list(evidence.auc.values()), evidence.margins.alpha)


def stable_performance(evidence: Evidence) -> Judgement:
    """AUC after minus AUC before is within the margin: an equivalence test; contradicted beyond either margin."""
    found, margin = list(evidence.auc_change.values()), evidence.margins.auc
    same = [estimates.equivalence(est, margin) for est in found]
    moved = [
        np.minimum(estimates.p_value(est, margin, "greater"), estimates.p_value(est, -margin, "less"))
        for est in found
    ]
    text = "; ".join(f"{name} {number(est, sign=True, digits=3)}" for name, est in evidence.auc_change.items())
    return judge_all(same, moved, text, found, evidence.margins.alpha)


def still_centroid(evidence: Evidence) -> Judgement:
    """In every cell the median centroid shift is under the margin, a fraction of what two patients differ by."""
    if not evidence.shift:
        return Judgement(OPEN, "Not measured", "needs the baseline two patients")
    margin = evidence.margins.centroid
    below = [estimates.p_value(est, margin, "less") for est in evidence.shift.values()]
    over = [estimates.p_value(est, margin, "greater") for est in evidence.shift.values()]
    return _every_cell(evidence, evidence.shift, below, over, "Shift divided by that of two patients")


def _every_cell(
    evidence: Evidence, cells: Cells, yes: Sequence[float], no: Sequence[float], what: str
) -> Judgement:
    """`judge_all` over cells; failing maps decide nothing, and a contradiction needs both normalisations.

    `what`: the estimates' name. The text has their range, and the one that decides.
    """
    names, alpha = list(cells), evidence.margins.alpha
    yes, no = (
        [1.0 if cell in evidence.unsound else p for cell, p in zip(names, ps, strict=True)] for ps in (yes, no)
    )
    verdict, deciding = settle(yes, no, alpha)
    values = [est.value for est in cells.values()]
    hardest = int(np.nan_to_num(yes, nan=2.0).argmax())
    decides = names[min(deciding, key=lambda i: no[i]) if verdict == CONTRADICTED else hardest]
    word = "clearest" if verdict == CONTRADICTED else "least sure"
    text = f"{what}: {min(values):.2f} to {max(values):.2f} in {len(names)} cells; {word}: "
    text += f"{' '.join(decides)} {number(cells[decides])}"
    judgement = judge_all(yes, no, text, list(cells.values()), alpha, missing=_failing(evidence, names))
    against = dict(zip(names, no, strict=True))
    partner = {**TWIN, **{twin: method for method, twin in TWIN.items()}}
    others = [against.get((a, partner.get(m, m)), 0.0) for a, m in (names[i] for i in deciding)]
    if verdict == CONTRADICTED and not any(p < alpha for p in others):
        reason = "one normalisation of Grad-CAM++ alone contradicts"
        return Judgement(FRAGILE, f"{judgement.evidence}; {verdict} here, but {reason}")
    return judgement


def _failing(evidence: Evidence, cells: Iterable[Cell]) -> str:
    """Which of some cells have maps that nothing can rest on, and why; empty where all pass."""
    found = evidence.why_unsound(cells)
    return f"needs maps that pass their checks: {found}" if found else ""


def _cells_of(rows: pd.DataFrame) -> list[Cell]:
    return [(name, row.method) for row in rows.itertuples() for name in (row.a, row.b)]


def _sound(evidence: Evidence, rows: pd.DataFrame) -> np.ndarray:
    """For each row of pairs, whether both cells have maps that pass."""
    unsound = evidence.unsound
    return np.array(
        [not any((name, row.method) in unsound for name in (row.a, row.b)) for row in rows.itertuples()],
        dtype=bool,
    )


def depends_on_architecture(evidence: Evidence) -> Judgement:
    """Some two architectures differ in the primary metric under some method; one family of Holm's."""
    margins, sign = evidence.margins, sign_of_stability(evidence.metric)
    pairs = evidence.pairs[~evidence.pairs["method"].isin(twins(evidence.pairs["method"]))]
    if pairs.empty:
        return Judgement(OPEN, "One architecture", "needs two architectures")
    widest = pairs.loc[pairs["difference"].abs().fillna(0.0).idxmax()]
    most = f"{evidence.metric_text}, widest difference: {pair_text(widest)}"
    if pairs["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks, {most}", MORE_SEEDS)
    sound = _sound(evidence, pairs)
    shown = pairs[sound & (pairs["p_holm"] < 2 * margins.alpha)].sort_values("p_holm", kind="stable")
    judged = [
        robustness.mend(
            Judgement(SUPPORTED, f"{evidence.metric_text.capitalize()}: {pair_text(row)}"),
            robustness.check(evidence, [(row.method, row.a, row.b, int(np.sign(sign * row.difference)))]),
        )
        for row in shown.itertuples()
    ]
    if judged:
        best = next((judgement for judgement in judged if judgement.verdict == SUPPORTED), judged[0])
        more = f" ({len(shown)} of {len(pairs)} differences are significant)"
        return best._replace(evidence=best.evidence + more)
    most = most[0].upper() + most[1:]
    if sound.all() and (pairs["p_equivalent"] < margins.alpha).all():
        return Judgement(CONTRADICTED, f"{most}; all within ±{margins.overlap:g}")
    missing = _failing(evidence, _cells_of(pairs[~sound]))
    return Judgement(OPEN, most, missing or finds(pairs["estimate"], margins.alpha / len(pairs)))


def extremes(evidence: Evidence) -> Judgement:
    """Under LayerCAM Inception moves most and ResNetV2 least: each differs from both others, in that direction."""
    own = evidence.pairs[evidence.pairs["method"] == "layercam"]
    family = {name: key for key, names in FAMILIES.items() for name in names}
    present = {family.get(name) for name in [*own["a"], *own["b"]]}
    if not set(FAMILIES) <= present:
        return Judgement(OPEN, "Not asked", "needs the three architectures (or their compact networks), LayerCAM")
    order = {"ResNetV2": 2, "DenseNet": 1, "Inception": 0}  # from the paper: higher is more stable
    pairs = own[own["a"].isin(family) & own["b"].isin(family)]
    pairs = pairs[pairs["a"].map(family) != pairs["b"].map(family)]
    text = f"{evidence.metric_text.capitalize()}: " + "; ".join(
        f"{row.a} - {row.b} {number(row.estimate, sign=True)}" for row in pairs.itertuples()
    )
    if pairs["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks: {text}", MORE_SEEDS)
    stable, sound = sign_of_stability(evidence.metric), _sound(evidence, pairs)
    expected = [1 if order[family[row.a]] > order[family[row.b]] else -1 for row in pairs.itertuples()]
    yes, no = (
        [
            estimates.p_value(replace(est, value=est.value * stable * sign), 0, side) if passes else 1.0
            for est, sign, passes in zip(pairs["estimate"], expected, sound, strict=True)
        ]
        for side in ("greater", "less")
    )
    alpha, missing = evidence.margins.alpha, _failing(evidence, _cells_of(pairs[~sound]))
    judgement = judge_all(yes, no, text, list(pairs["estimate"]), alpha, missing=missing)
    verdict, deciding = settle(yes, no, alpha)
    if verdict == OPEN:
        return judgement
    turned = 1 if verdict == SUPPORTED else -1
    rows = [(pairs.iloc[i], expected[i]) for i in deciding]
    leads = [("layercam", row["a"], row["b"], turned * sign) for row, sign in rows]
    return robustness.mend(judgement, robustness.check(evidence, leads))


def reversal(evidence: Evidence) -> Judgement:
    """Two architectures differ significantly under LayerCAM and under Grad-CAM++, with opposite signs."""
    if evidence.coincide:
        return Judgement(
            OPEN,
            "Cannot be asked at the last feature map: behind global average pooling Grad-CAM++ and LayerCAM are "
            "the same map up to scale",
            "needs target_layer: penultimate",
        )
    crossings = evidence.crossings
    if crossings.empty:
        return Judgement(OPEN, "Not asked", "needs two architectures, under LayerCAM and Grad-CAM++")
    alpha, stable = evidence.margins.alpha, sign_of_stability(evidence.metric)
    best = crossings.loc[crossings["p"].fillna(1.0).idxmin()]
    text = crossing_text(best)
    if crossings["n_seeds"].max() == 1:
        return Judgement(OPEN, f"In these networks: {text}", MORE_SEEDS)
    cells = [
        [(name, method) for method in (row.method_a, row.method_b) for name in (row.a, row.b)]
        for row in crossings.itertuples()
    ]
    sound = np.array([not set(own) & set(evidence.unsound) for own in cells], dtype=bool)
    judged = [
        robustness.mend(Judgement(SUPPORTED, crossing_text(row)), robustness.check(evidence, _leads(row, stable)))
        for row in crossings[sound & (crossings["p_holm"] < 2 * alpha)].itertuples()
    ]
    if judged:
        return next((judgement for judgement in judged if judgement.verdict == SUPPORTED), judged[0])
    if sound.all() and (crossings["p_same_order"] < 2 * alpha).all():
        worst = crossings.loc[crossings["p_same_order"].idxmax()]
        text = f"Every pair keeps its order under both methods; least sure: {crossing_text(worst, 'p_same_order')}"
        kept = Judgement(CONTRADICTED, text)
        leads = [lead for row in crossings.itertuples() for lead in _leads(row, stable)]
        return robustness.mend(kept, robustness.check(evidence, leads))
    missing = _failing(
        evidence, [cell for own, passes in zip(cells, sound, strict=True) if not passes for cell in own]
    )
    both = [*crossings["estimate_a"], *crossings["estimate_b"]]
    return Judgement(OPEN, text, missing or finds(both, alpha / len(crossings)))


def _leads(row, stable: int) -> list[robustness.Lead]:
    return [
        (row.method_a, row.a, row.b, int(np.sign(stable * row.difference_a))),
        (row.method_b, row.a, row.b, int(np.sign(stable * row.difference_b))),
    ]


CLAIMS: Mapping[str, Callable[[Evidence], Judgement]] = {
    f"All architectures end above {PAPER_AUC} macro AUC": high_auc,
    "Performance is stable under fine-tuning (macro AUC within ±{auc:g})": stable_performance,
    "Coarse localisation stays put (centroid shift under {centroid} of that of two patients)": still_centroid,
    "Overlap shows reorganisation that depends on the architecture": depends_on_architecture,
    "Under LayerCAM, InceptionV3 moves most and ResNet50V2 least": extremes,
    "The stability ranking can reverse under Grad-CAM++": reversal,
}
"""What the study asks, in the order of the paper's abstract: a claim, in which {auc} and {centroid} stand for the
margins, and the function that judges it."""
