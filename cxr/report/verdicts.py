"""A verdict for each of the paper's claims: supported, contradicted, or this study cannot tell and what it would
take.

The claims are those of Elangovan and Ting 2026 (arXiv 2604.08513, abstract), whose thresholds are unknown: the
margins are parameters of the comparison, declared before looking. The tests are those of `hypotheses`. With
one training seed the difference between two architectures cannot be told from the luck of two trainings, so that
claims about architectures stay open then, however small a p value over patients is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.metrics import classification
from cxr.metrics.metric_table import METRICS
from cxr.statistics import bootstrap, contrasts, estimates, planning, score_rows
from cxr.statistics.estimates import Estimate

SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "cannot tell"
PAPER_AUC = 0.99
# The families of the paper, by which its claims about one architecture are looked up among the compact networks.
FAMILIES = {
    "DenseNet": ("DenseNet201", "CompactDenseNet"),
    "ResNetV2": ("ResNet50V2", "CompactResNetV2"),
    "Inception": ("InceptionV3", "CompactInception"),
}
_MORE_SEEDS = "at least two training seeds: with one, a difference may be the luck of that training"

_NO_SPREAD = "values that differ: without any spread there is no certainty either"
_PATIENTS = 20_000  # a plan for more is no plan

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
class Verdict:
    """One claim: `verdict` is SUPPORTED, CONTRADICTED or OPEN; `needed` says what it would take to settle it."""

    claim: str
    verdict: str
    evidence: str
    needed: str = ""


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


def gather(
    scores: pd.DataFrame,
    two_seeds: pd.DataFrame,
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    *,
    metric: str,
    margins: Margins,
    n_boot: int = 2000,
) -> Evidence:
    """Every estimate and test that a verdict needs.

    Args:
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).
        two_seeds: `comparison.two_seeds_table` of all cells; without rows, the baseline two heads
            (`<metric>_two_heads` of `scores`) takes its place.
        predictions: per architecture, seed and checkpoint, `cxr.training.stages.prediction_table`.
        metric: the primary metric, with a direction of stability.
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
    )


def claims(evidence: Evidence, *, coincide: bool) -> list[Verdict]:
    """The verdicts, in the order of the paper's abstract. `coincide`: whether LayerCAM and Grad-CAM++ are the same
    map at the layer of this study."""
    metric, margins = evidence.metric, evidence.margins
    return [
        high_auc(evidence.auc, margins),
        stable_performance(evidence.auc_change, margins),
        still_centroid(evidence.shift, margins),
        beyond_seeds(evidence.excess, margins, against=evidence.against),
        depends_on_architecture(evidence.pairs, metric, margins),
        extremes(evidence.pairs, metric, margins),
        reversal(evidence.crossings, metric, margins, coincide=coincide),
    ]


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


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Columns: the paper's claim, verdict, evidence, what it would take."""
    rows = [(item.claim, item.verdict, item.evidence, item.needed) for item in verdicts]
    return pd.DataFrame(rows, columns=["claim", "verdict", "evidence", "what it would take"])


def scope(n_architectures: int, n_seeds: int) -> str:
    """What the verdicts hold for, in one or two sentences."""
    trainings = (
        "one training each: results describe these checkpoints only, not another training of the same networks"
        if n_seeds == 1
        else f"{n_seeds} trainings each"
    )
    return (
        f"These verdicts are about {n_architectures} architecture{'s' * (n_architectures > 1)} on this data set, "
        f"{trainings}. {n_architectures} architectures are no sample of all architectures: a claim about "
        "families, or about what makes an architecture stable cannot be settled by a study of this size."
    )


def high_auc(auc: Mapping[str, Estimate], margins: Margins) -> Verdict:
    """Macro AUC after fine-tuning above `PAPER_AUC` for every architecture."""
    claim = f"All architectures end above {PAPER_AUC} macro AUC"
    above = [estimates.p_value(est, PAPER_AUC, "greater") < margins.alpha for est in auc.values()]
    under = [estimates.p_value(est, PAPER_AUC, "less") < margins.alpha for est in auc.values()]
    evidence = "; ".join(f"{name} {_number(est, bounds=(0, 1))}" for name, est in auc.items())
    return _all(claim, above, under, evidence, [est for est in auc.values()], PAPER_AUC)


def stable_performance(change: Mapping[str, Estimate], margins: Margins) -> Verdict:
    """AUC after minus AUC before within the margin: an equivalence test."""
    claim = f"Performance is stable under fine-tuning (macro AUC within ±{margins.auc:g})"
    same = [estimates.equivalence(est, margins.auc) < margins.alpha for est in change.values()]
    moved = [
        min(estimates.p_value(est, margins.auc, "greater"), estimates.p_value(est, -margins.auc, "less"))
        < margins.alpha / 2
        for est in change.values()
    ]
    evidence = "; ".join(f"{name} {_number(est, sign=True)}" for name, est in change.items())
    return _all(claim, same, moved, evidence, list(change.values()), margins.auc)


def still_centroid(shift: Cells, margins: Margins) -> Verdict:
    """Median centroid shift under the margin in every cell."""
    claim = f"Coarse localisation stays put (centroid moves under {margins.centroid:g} of the diagonal)"
    below = [estimates.p_value(est, margins.centroid, "less") < margins.alpha for est in shift.values()]
    over = [estimates.p_value(est, margins.centroid, "greater") < margins.alpha for est in shift.values()]
    return _all(
        claim,
        below,
        over,
        _cells(shift, bounds=METRICS["centroid_shift"].bounds),
        list(shift.values()),
        margins.centroid,
    )


def beyond_seeds(excess: Cells, margins: Margins, *, against: str) -> Verdict:
    """The overlap of before and after is lower than that of two checkpoints that differ by seed alone.

    `excess`: overlap of the baseline minus that of before and after; `against`: which baseline.
    """
    claim = "Fine-tuning moves evidence more than another seed would, in every cell"
    if not excess:
        return Verdict(claim, OPEN, "Not measured", "several seeds, or extra_heads of 1 or more")
    more = [estimates.p_value(est, 0, "greater") < margins.alpha / 2 for est in excess.values()]
    less = [estimates.p_value(est, 0, "less") < margins.alpha / 2 for est in excess.values()]
    evidence = f"Overlap of {against} minus overlap of before and after: {_cells(excess, sign=True)}"
    return _all(claim, more, less, evidence, list(excess.values()), 0.0)


def depends_on_architecture(pairs: pd.DataFrame, metric: str, margins: Margins) -> Verdict:
    """Some two architectures differ in the metric under some method; `pairs`:
    `contrasts.compare_architectures`."""
    claim = "Overlap shows reorganisation that depends on the architecture"
    if pairs.empty:
        return Verdict(claim, OPEN, "One architecture", "at least two architectures")
    different = pairs["p_holm"] < margins.alpha
    evidence = "; ".join(map(_pair, pairs.itertuples())) + f" (median {metric}, {margins.level:.0%} intervals)"
    if pairs["n_seeds"].max() == 1:
        return Verdict(claim, OPEN, f"In these networks: {evidence}", _MORE_SEEDS)
    if different.any():
        return Verdict(claim, SUPPORTED, evidence)
    if (pairs["p_equivalent"] < margins.alpha).all():
        return Verdict(claim, CONTRADICTED, f"{evidence}; all within ±{margins.overlap:g}")
    widest = pairs.loc[pairs["difference"].abs().fillna(0.0).idxmax()]
    tests = int((pairs["method"] == widest["method"]).sum())
    return Verdict(claim, OPEN, evidence, _seeds_for(widest["estimate"], 0.0, tests=tests))


def extremes(pairs: pd.DataFrame, metric: str, margins: Margins) -> Verdict:
    """Under LayerCAM Inception moves most and ResNetV2 least: each differs from both others, in that direction."""
    claim = "Under LayerCAM, InceptionV3 moves most and ResNet50V2 least"
    own = pairs[pairs["method"] == "layercam"] if len(pairs) else pairs
    family = {name: key for key, names in FAMILIES.items() for name in names}
    present = {family.get(name) for name in [*own["a"], *own["b"]]} if len(own) else set()
    if not set(FAMILIES) <= present:
        return Verdict(
            claim, OPEN, "Not asked", "the three architectures (or their compact networks) under LayerCAM"
        )
    sign = 1 if METRICS[metric].higher_is_more_stable else -1
    order = {"ResNetV2": 2, "DenseNet": 1, "Inception": 0}  # from the paper: higher is more stable
    pairs = own[own["a"].isin(family) & own["b"].isin(family)]
    pairs = pairs[pairs["a"].map(family) != pairs["b"].map(family)]
    expected = [1 if order[family[row.a]] > order[family[row.b]] else -1 for row in pairs.itertuples()]
    leads = [sign * row.difference * way for row, way in zip(pairs.itertuples(), expected, strict=True)]
    sure = (pairs["p_holm"] < margins.alpha).tolist()
    evidence = "; ".join(map(_pair, pairs.itertuples()))
    if pairs["n_seeds"].max() == 1:
        return Verdict(claim, OPEN, f"In these networks: {evidence}", _MORE_SEEDS)
    if all(lead > 0 and certain for lead, certain in zip(leads, sure, strict=True)):
        return Verdict(claim, SUPPORTED, evidence)
    if any(lead < 0 and certain for lead, certain in zip(leads, sure, strict=True)):
        return Verdict(claim, CONTRADICTED, evidence)
    undecided = [row for row, certain in zip(pairs.itertuples(), sure, strict=True) if not certain]
    nearest = min(undecided, key=lambda row: abs(row.difference))
    return Verdict(claim, OPEN, evidence, _seeds_for(nearest.estimate, 0.0, tests=len(own)))


def reversal(crossings: pd.DataFrame, metric: str, margins: Margins, *, coincide: bool) -> Verdict:
    """Two architectures whose order under LayerCAM and under Grad-CAM++ are both significant, with opposite signs.

    `crossings`: `contrasts.crossover` of the two methods.
    """
    claim = "The stability ranking can reverse under Grad-CAM++"
    if coincide:
        return Verdict(
            claim,
            OPEN,
            "Cannot be asked at the last feature map: behind global average pooling Grad-CAM++ and LayerCAM "
            "are the "
            "same map up to scale",
            "target_layer: penultimate",
        )
    if crossings.empty:
        return Verdict(claim, OPEN, "Not asked", "two architectures, under LayerCAM and Grad-CAM++")
    evidence = "; ".join(
        f"{row.a} against {row.b}: {_text(row.difference_a, row.low_a, row.high_a, sign=True)} under "
        f"{row.method_a}, {_text(row.difference_b, row.low_b, row.high_b, sign=True)} under {row.method_b}, "
        f"P(reversal) {row.p_reversal:.2f}, p {_p(row.p_holm)}"
        for row in crossings.itertuples()
    )
    if crossings["n_seeds"].max() == 1:
        return Verdict(claim, OPEN, f"In these networks: {evidence}", _MORE_SEEDS)
    if (crossings["p_holm"] < margins.alpha).any():
        return Verdict(claim, SUPPORTED, evidence)
    if (crossings["p_same_order"] < margins.alpha).all():
        return Verdict(claim, CONTRADICTED, f"{evidence}; every pair keeps its order under both methods")
    best = crossings.loc[crossings["p"].fillna(1.0).idxmin()]
    if not (best["estimate_a"].se > 0 and best["estimate_b"].se > 0):
        return Verdict(claim, OPEN, evidence, _NO_SPREAD)
    weaker = max((best["estimate_a"], best["estimate_b"]), key=lambda est: estimates.p_value(est))
    crosses = best["difference_a"] * best["difference_b"] < 0
    needed = _seeds_for(weaker, 0.0, tests=len(crossings)) if crosses else "no pair crosses here"
    return Verdict(claim, OPEN, evidence, needed)


def _all(
    claim: str, yes: Sequence[bool], no: Sequence[bool], evidence: str, ests: Sequence[Estimate], null: float
) -> Verdict:
    """Supported where all say yes, contradicted where one says no."""
    suffix = " (one seed: these networks only)" if ests and ests[0].n_seeds == 1 else ""
    if all(yes):
        return Verdict(claim, SUPPORTED, evidence + suffix)
    if any(no):
        return Verdict(claim, CONTRADICTED, evidence + suffix)
    open_ones = [est for est, sure in zip(ests, yes, strict=True) if not sure]
    if open_ones[0].n_seeds == 1:
        return Verdict(claim, OPEN, evidence + suffix, _MORE_SEEDS)
    hardest = min(open_ones, key=lambda est: abs(est.value - null) / est.se if est.se else 0.0)
    return Verdict(claim, OPEN, evidence, _seeds_for(hardest, null))


def _seeds_for(est: Estimate, null: float, *, tests: int = 1) -> str:
    """What it takes to see the observed distance from `null` with 80 % power, at 5 % over so many tests (Holm's
    first step, the strictest)."""
    effect = abs(est.value - null)
    if not est.se > 0:
        return _NO_SPREAD
    alpha = 0.05 / tests
    seeds = planning.seeds_needed(est, effect=effect, alpha=alpha)
    if seeds is not None:
        seeds = max(seeds, est.n_seeds + 1)  # those at hand have not shown it
        return f"about {seeds} training seeds on these patients (80 % power to see {effect:.3f})"
    patients = planning.patients_needed(est, effect=effect, alpha=alpha, at_most=_PATIENTS)
    if patients is not None:
        return f"about {patients} patients in the test set: more seeds alone would not show {effect:.3f}"
    return f"more seeds and more patients than can be planned from this: {effect:.3f} is too small an effect"


def _cells(cells: Cells, *, sign: bool = False, bounds: tuple[float, float] = (-1, 1)) -> str:
    return "; ".join(
        f"{name} {method} {_number(est, sign=sign, bounds=bounds)}" for (name, method), est in cells.items()
    )


def _number(est: Estimate, *, sign: bool = False, bounds: tuple[float, float] = (-1, 1)) -> str:
    return _text(est.value, *np.clip([est.low, est.high], *bounds), sign=sign)


def _text(value: float, low: float, high: float, *, sign: bool) -> str:
    """A value and its interval, where there is one."""
    limits = f"[{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else "(no interval)"
    return f"{value:{'+' if sign else ''}.3f} {limits}"


def _pair(row) -> str:
    return f"{row.method}: {row.a} - {row.b} {_number(row.estimate, sign=True)}, p {_p(row.p_holm)}"


def _p(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
