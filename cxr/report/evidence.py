"""What the verdicts rest on: estimates and tests over training seeds and patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cxr.data import multi_label
from cxr.metrics import baselines, classification
from cxr.metrics.metric_table import METRICS, sign_of_stability
from cxr.metrics.multiverse import PAIR
from cxr.statistics import bootstrap, contrasts, estimates, planning
from cxr.statistics.estimates import Estimate, equivalence
from cxr.statistics.score_rows import Cell, Scores

Cells = Mapping[Cell, Estimate]
CELL = ["architecture", "method"]

# The same method with another normalisation: a verdict about the one must hold under the other, too.
TWIN = {"gradcampp": "gradcampp_authors"}


def twins(methods: Iterable[str]) -> list[str]:
    """Those of `methods` that are the `TWIN` of another one of them."""
    known = set(methods)
    return [twin for method, twin in TWIN.items() if {method, twin} <= known]


TWO_HEADS = "two heads"
"""`Evidence.against` with fewer than three seeds."""


@dataclass(frozen=True)
class Margins:
    """What counts as no difference and what as a majority, set before anyone looks, and the intervals' level.

    auc: change of macro AUC. centroid: centroid shift, as a fraction of what two patients of one class differ by.
        overlap: difference in the primary metric; of corrected metrics in units of the distance between two
        patients (0) and identical maps (1). majority: share of the multiverse's analyses that must agree with a
        verdict on an order. level: of all intervals.
    """

    auc: float
    centroid: float
    overlap: float
    majority: float = 0.75
    level: float = 0.95

    @property
    def alpha(self) -> float:
        """The level of every one-sided test, (1 - level) / 2. Two-sided tests have two such halves: 1 - level.

        So a claim is shown exactly where the interval lies on its side, apart from Holm's correction.
        """
        return (1 - self.level) / 2


@dataclass(frozen=True)
class Evidence:
    """What the verdicts rest on; made by `gather`.

    metric: the primary metric's name. corrected: whether its corrected form is tested.
    auc, auc_change: per architecture, macro AUC after fine-tuning (interval of `estimates.proportion`), and minus
        that before.
    shift: per architecture and method, the median centroid shift divided by that of two patients; empty without
        that baseline.
    excess: what noise leaves minus what fine-tuning leaves, in the primary metric. Above 0, fine-tuning moves
        more.
    against: what that noise is, "two seeds" or "two heads"; empty without either.
    pairs: `contrasts.compare_architectures` with p_equivalent and difference_raw. Holm's family leaves out the
        `TWIN`s, which are asked only whether they agree.
    crossings: `contrasts.crossover` of LayerCAM and Grad-CAM++, with method_a, method_b.
    unsound: per cell whose maps fail their checks, or were not checked, the reason.
    analyses: of `cxr.metrics.multiverse_rankings`; without rows where there is no multiverse.
    coincide: whether LayerCAM and Grad-CAM++ are the same map at the layer of this study.
    """

    metric: str
    corrected: bool
    margins: Margins
    auc: Mapping[str, Estimate]
    auc_change: Mapping[str, Estimate]
    shift: Cells
    excess: Cells
    against: str
    pairs: pd.DataFrame
    crossings: pd.DataFrame
    unsound: Mapping[Cell, str]
    analyses: pd.DataFrame = field(default_factory=pd.DataFrame)
    coincide: bool = False

    def why_unsound(self, cells: Iterable[Cell]) -> str:
        """Which of some cells have maps that do not pass, and why; empty where all do."""
        by_reason: dict[str, list[str]] = {}
        for cell in dict.fromkeys(cells):
            if reason := self.unsound.get(cell):
                by_reason.setdefault(reason, []).append(" ".join(cell))
        return "; ".join(f"{', '.join(names)} {reason}" for reason, names in by_reason.items())

    @property
    def metric_text(self) -> str:
        return f"corrected {self.metric}" if self.corrected else self.metric


def primary_scores(scores: pd.DataFrame, metric: str, *, n_boot: int = 2000, level: float = 0.95) -> Scores:
    """The primary metric of all networks, in the form that verdicts test.

    A metric that is 1 for identical maps and has the baseline two patients is corrected for it: a network's
    statistic is `baselines.corrected` of its two medians. Other metrics stay as they are.

    Args:
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).
    """
    options = {"n_boot": n_boot, "level": level}
    against = f"{metric}_two_patients"
    if METRICS[metric].identical != 1 or against not in scores or scores[against].isna().all():
        return Scores.of(scores, metric, **options)
    return Scores.of(scores, metric, against=against, combine=baselines.corrected, **options)


def gather(
    scores: pd.DataFrame,
    two_seeds: pd.DataFrame,
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    *,
    metric: str,
    margins: Margins,
    map_checks: pd.DataFrame,
    analyses: pd.DataFrame | None = None,
    n_boot: int = 2000,
    coincide: bool = False,
) -> Evidence:
    """Every estimate and test that a verdict needs.

    Args:
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).
        two_seeds: `comparison.two_seeds_table` of all cells. With fewer than three seeds the baseline two heads
            (`<metric>_two_heads` of `scores`) takes its place: two seeds make one pair, which shows no spread.
        predictions: per architecture, seed and checkpoint, `cxr.training.stages.prediction_table`.
        metric: the primary metric, with a direction of stability.
        map_checks: `cxr.report.scores.Study.checks_over_seeds`; without rows where no map was checked.
        analyses: `cxr.metrics.multiverse_rankings.analyses`; None, or no rows: not checked in other analyses.
        coincide: whether LayerCAM and Grad-CAM++ are the same map at the layer of this study.
    """
    options = {"n_boot": n_boot, "level": margins.level}
    sign_of_stability(metric)  # refuses a metric without a direction
    primary = primary_scores(scores, metric, **options)
    auc, change = _performance(predictions, **options)
    excess, against = _excess(scores, two_seeds, primary, metric)
    return Evidence(
        metric=metric,
        corrected=primary.combine is not None,
        margins=margins,
        auc=auc,
        auc_change=change,
        shift=_shift(scores, **options),
        excess=excess,
        against=against,
        pairs=_pairs(primary, margins),
        crossings=_crossings(primary),
        unsound=unsound(map_checks, scores),
        analyses=pd.DataFrame() if analyses is None else analyses,
        coincide=coincide,
    )


def unsound(map_checks: pd.DataFrame, scores: pd.DataFrame) -> dict[Cell, str]:
    """The cells of `scores` whose maps fail their checks, or were not checked, with the reason: which checks, on
    which checkpoint.
    """
    out = {}
    for cell, rows in scores.groupby(CELL, sort=False):
        own = pd.DataFrame()
        if len(map_checks):
            own = map_checks[(map_checks[CELL] == list(cell)).all(axis=1)]
            own = own[own["checkpoint"].isin(["before", "after"])]
        if own.empty:
            out[cell] = "were not checked"
        elif own["n_seeds"].min() < rows["seed"].nunique() or own["checkpoint"].nunique() < 2:
            out[cell] = "were not checked under every seed"
        elif not own["passes_checks"].all():
            failed = own[~own["passes_checks"].astype(bool)]
            each = [name for name in failed if name.startswith("passes_") and name != "passes_checks"]
            names = [name.removeprefix("passes_") for name in each if not failed[name].astype(bool).all()]
            which = f" ({', '.join(names)})" if names else ""
            out[cell] = f"fail{which} {' and '.join(failed['checkpoint'])}"
    return out


def _pairs(primary: Scores, margins: Margins) -> pd.DataFrame:
    """Differences of the methods that are asked, in one family of Holm's, and then those of their twins."""
    second = twins(primary.methods)
    asked = [method for method in primary.methods if method not in second]
    tables = [contrasts.compare_architectures(of_methods(primary, asked))]
    if second:
        own = contrasts.compare_architectures(of_methods(primary, second))
        tables.append(own.assign(p_holm=np.nan))
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    raw = Scores(primary.values, n_boot=2, level=primary.level)  # the value alone
    return table.assign(
        p_equivalent=[equivalence(est, margins.overlap) for est in table["estimate"]],
        difference_raw=[
            contrasts.contrast(raw, {(row.a, row.method): 1, (row.b, row.method): -1}).value
            for row in table.itertuples()
        ],
    )


def of_methods(scores: Scores, methods: Sequence[str]) -> Scores:
    """The cells of some methods."""
    cells = [cell for cell in scores.values if cell[1] in methods]
    reference = None if scores.reference is None else scores.reference[cells]
    return Scores(scores.values[cells], scores.n_boot, scores.level, reference, scores.combine)


def _crossings(primary: Scores) -> pd.DataFrame:
    if not set(PAIR) <= set(primary.methods):
        return pd.DataFrame()
    return contrasts.crossover(primary, *PAIR).assign(method_a=PAIR[0], method_b=PAIR[1])


def _shift(scores: pd.DataFrame, *, n_boot: int, level: float) -> dict[Cell, Estimate]:
    """Centroid shift as a share of that between two patients."""
    against = "centroid_shift_two_patients"
    if against not in scores or scores[against].isna().all():
        return {}
    own = Scores.of(scores, "centroid_shift", against=against, combine=_share, n_boot=n_boot, level=level)
    return {cell: contrasts.contrast(own, {cell: 1}) for cell in own.values}


def _share(value: float | np.ndarray, reference: float | np.ndarray) -> float | np.ndarray:
    """value / reference; NaN where the reference is 0."""
    reference = np.asarray(reference, dtype=float)
    return (value / np.where(reference > 0, reference, np.nan))[()]


def _performance(
    predictions: Mapping[tuple[str, int, str], pd.DataFrame], *, n_boot: int, level: float
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """AUC after fine-tuning, and its change, per architecture."""
    test = {key: table[table["split"] == "test"].sort_values("image_id") for key, table in predictions.items()}
    patients = pd.Index(pd.concat([table["patient_id"] for table in test.values()]).unique())
    weights = bootstrap.patient_weights(patients, n_boot=n_boot)  # of one draw, should test sets differ
    draws = {
        key: _auc_draws(table, weights[:, patients.get_indexer(table["patient_id"])])
        for key, table in test.items()
    }
    auc, change = {}, {}
    for architecture in dict.fromkeys(architecture for architecture, _, _ in predictions):
        before, after = (
            np.stack([own for (a, _, c), own in draws.items() if (a, c) == (architecture, checkpoint)], axis=1)
            for checkpoint in ("before", "after")
        )
        for out, values in ((auc, after), (change, after - before)):
            kept = values[1:][np.isfinite(values[1:]).all(axis=1)]  # a replicate may lack a small class
            out[architecture] = estimates.estimate(values[0], kept, n_patients=len(patients), level=level)
        auc[architecture] = estimates.proportion(auc[architecture])
    return auc, change


def _auc_draws(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Macro AUC of predictions, and then its replicates with these weights [n_boot, n]: float64 [1 + n_boot]."""
    labels = multi_label.truth_of(table, sorted(table["label"].unique()))
    p = table.filter(regex=r"^p_\d+$").to_numpy(float)
    return classification.auc_replicates(labels, p, np.vstack([np.ones(len(labels), int), weights]))


def _excess(
    scores: pd.DataFrame, two_seeds: pd.DataFrame, primary: Scores, metric: str
) -> tuple[dict[Cell, Estimate], str]:
    """Noise minus drift of every cell, and what the noise is."""
    sign = sign_of_stability(metric)
    pairs = two_seeds.drop_duplicates([*CELL, "seed_a", "seed_b"]) if len(two_seeds) else two_seeds
    if len(pairs) and all(_leave_one_out(own) for _, own in pairs.groupby(CELL)):
        found = {
            cell: _beyond_two_seeds(primary, two_seeds, cell, metric, sign)
            for cell in primary.values
            if ((two_seeds["architecture"] == cell[0]) & (two_seeds["method"] == cell[1])).any()
        }
        return found, "two seeds"
    found = over_drift(scores, metric, "two_heads", n_boot=primary.n_boot, level=primary.level)
    return found, TWO_HEADS if found else ""


def over_drift(
    scores: pd.DataFrame, metric: str, baseline: str, *, n_boot: int, level: float, corrected: bool = True
) -> dict[Cell, Estimate]:
    """A baseline of the metric minus the metric, as stability: above 0, fine-tuning moves more than the baseline.

    Args:
        scores: per-image rows of all cells; the baseline is the column `<metric>_<baseline>`.
        corrected: in the form that verdicts test (`primary_scores`), or as it is.

    Returns: by cell; empty without such a column, or without values.
    """
    name = f"{metric}_{baseline}"
    if name not in scores or scores[name].isna().all():
        return {}
    sign, options = sign_of_stability(metric), {"n_boot": n_boot, "level": level}
    other = scores.assign(method=scores["method"] + " baseline", **{metric: scores[name]})
    both = pd.concat([scores, other[other[metric].notna()]], ignore_index=True)
    values = primary_scores(both, metric, **options) if corrected else Scores.of(both, metric, **options)
    cells = [cell for cell in values.values if (cell[0], f"{cell[1]} baseline") in values.values]
    return {(a, m): contrasts.contrast(values, {(a, f"{m} baseline"): sign, (a, m): -sign}) for a, m in cells}


def _leave_one_out(pairs: pd.DataFrame) -> bool:
    """Whether there is a pair without each of the seeds: with fewer than three seeds there is not."""
    ends = pairs[["seed_a", "seed_b"]]
    return all((ends != seed).all(axis=1).any() for seed in np.unique(ends))


def _beyond_two_seeds(primary: Scores, two_seeds: pd.DataFrame, cell: Cell, metric: str, sign: int) -> Estimate:
    """Two seeds minus drift, by a jackknife over seeds.

    For a pair of seeds: the metric between their two checkpoints, minus the mean of its two values before/after,
    on the images of both. All are corrected by the mean of the two seeds' medians of two patients.
    """
    own = two_seeds[(two_seeds["architecture"] == cell[0]) & (two_seeds["method"] == cell[1])]
    drift = primary.values[cell].unstack("seed")
    reference = None if primary.reference is None else primary.reference[cell].unstack("seed")
    columns, pairs = {}, list(dict.fromkeys(zip(own["seed_a"], own["seed_b"], strict=True)))
    for a, b in pairs:
        rows = own[(own["seed_a"] == a) & (own["seed_b"] == b)].set_index(["image_id", "patient_id"])[metric]
        rows = rows[rows.notna()].rename("noise").to_frame().join(drift[[a, b]].dropna(), how="inner")
        columns |= {(a, b, "noise"): rows["noise"], (a, b, "a"): rows[a], (a, b, "b"): rows[b]}
        if reference is not None:
            columns |= {
                (a, b, f"{end} two patients"): reference[s].reindex(rows.index)
                for end, s in zip("ab", (a, b), strict=True)
            }
    wide = pd.concat(columns, axis=1)
    draws, medians = bootstrap.patient_replicates(wide, n_boot=primary.n_boot), wide.median()

    def excess(of: Callable[[tuple], float | np.ndarray], pair: tuple[int, int]) -> float | np.ndarray:
        noise, *moved = (of((*pair, name)) for name in ("noise", "a", "b"))
        if reference is not None:
            shared = (of((*pair, "a two patients")) + of((*pair, "b two patients"))) / 2
            noise, *moved = (primary.combine(value, shared) for value in (noise, *moved))
        return sign * (noise - (moved[0] + moved[1]) / 2)

    return estimates.over_pairs(
        pairs,
        np.array([excess(medians.__getitem__, pair) for pair in pairs]),
        np.stack([excess(lambda name: draws[name].to_numpy(), pair) for pair in pairs], axis=1),
        n_patients=wide.index.unique("patient_id").size,
        level=primary.level,
    )


def power_table(
    pairs: pd.DataFrame, *, effects: Sequence[float] = (0.05, 0.1, 0.2), seeds: Sequence[int] = (2, 3, 5, 10)
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
