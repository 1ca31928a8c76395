"""What the study itself asks, whatever the number of its networks: an answer to each question.

The paper's claims are about three families of networks (`cxr.report.verdicts`). These questions can be asked of
any study, also of one network that was trained once:

1. Did accuracy stay?
2. Did the evidence move? Compared with identical maps, with two patients of one class, and with chance.
3. Further than another seed moves it? (three seeds; two heads can only refute it)
4. Further than the same training again moves it? (the matched null)
5. Towards the disease, or away from it? (where masks are known)
6. Does the drift depend on the network? 7. On the method? 8. On the class?
9. Do the maps pass their checks?

Most questions are asked in every cell (a network under a method). Cells whose maps fail their checks, or were not
checked, are left out, and the answer says so. The tests are those of the verdicts: one-sided at `Margins.alpha`.
"Yes" and "no" need every cell (intersection-union, Berger 1982); an answer about some cells needs Holm's
correction over all of them.

To add a question, write a function from `Asked` to `Judgement` and add it to `QUESTIONS`, at the end of this
module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from cxr.metrics import regions
from cxr.metrics.metric_table import sign_of_stability
from cxr.report import judgement, verdicts
from cxr.report.evidence import CELL, TWO_HEADS, Cells, Evidence, over_drift, primary_scores, twins
from cxr.report.judgement import (
    CONTRADICTED,
    FRAGILE,
    NO_SPREAD,
    OPEN,
    SUPPORTED,
    Judgement,
    finds,
    number,
    of_one_seed,
)
from cxr.statistics import contrasts, estimates
from cxr.statistics.estimates import Estimate, holm, p_value
from cxr.statistics.score_rows import Cell, Scores

YES, NO, SOME = "yes", "no", "in part"
"""Answers; besides, FRAGILE and OPEN of `cxr.report.judgement`."""
DISEASE = "lesion"  # the region of the disease, where masks are known
_AS_ANSWERS = {SUPPORTED: YES, CONTRADICTED: NO}


@dataclass(frozen=True)
class Asked:
    """What the answers rest on; made by `gather`.

    evidence: of `cxr.report.evidence`.
    drift: per cell, the primary metric in the form that is tested.
    chance: per cell, the metric of chance minus that of before/after, as stability (below 0: more alike than
        chance). As it is, not corrected: two patients are no scale for chance.
    null: per cell, the primary metric of the matched null minus that of before/after, as stability; empty without.
    disease: per cell, the change of the share of energy in the lesion; empty without masks.
    methods: per architecture and pair of methods, the difference of the primary metric.
    classes: differences between a class and the others: architecture, method, value (the class), difference, p;
        no rows where they were not tested.
    checks: `cxr.report.scores.Study.checks_over_seeds`.
    """

    evidence: Evidence
    drift: Cells
    chance: Cells
    null: Cells
    disease: Cells
    methods: Mapping[tuple[str, str, str], Estimate]
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    checks: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def alpha(self) -> float:
        return self.evidence.margins.alpha


def gather(
    evidence: Evidence,
    scores: pd.DataFrame,
    *,
    checks: pd.DataFrame,
    classes: pd.DataFrame | None = None,
    n_boot: int = 2000,
) -> Asked:
    """Every estimate that an answer needs.

    Args:
        evidence: of the same study.
        scores: per-image rows of all cells (`cxr.report.comparison.score_table`).
        checks: `cxr.report.scores.Study.checks_over_seeds`; without rows where no map was checked.
        classes: `cxr.report.groups.differences`; its rows of the group `label` count.
    """
    metric, options = evidence.metric, {"n_boot": n_boot, "level": evidence.margins.level}
    primary = primary_scores(scores, metric, **options)
    classes = pd.DataFrame() if classes is None else classes
    if len(classes):
        classes = classes[(classes["group"] == "label") & (classes["method"] != "")]
    return Asked(
        evidence=evidence,
        drift={cell: contrasts.contrast(primary, {cell: 1}) for cell in primary.values},
        chance=over_drift(scores, metric, "chance", corrected=False, **options),
        null=over_drift(scores, metric, "more_training", **options),
        disease=_disease(scores, **options),
        methods=_between_methods(primary),
        classes=classes,
        checks=checks,
    )


def _disease(scores: pd.DataFrame, *, n_boot: int, level: float) -> dict[Cell, Estimate]:
    """The mean change of the share of a map's energy in the lesion (`cxr.metrics.regions`), in every cell."""
    name = f"{DISEASE}_energy_change"
    if name not in scores:
        return {}
    found = {}
    for cell, rows in scores[scores[name].notna()].groupby(CELL, sort=False):
        means, draws = regions.energy_change(rows, DISEASE, n_boot=n_boot)
        found[cell] = estimates.estimate(means, draws, n_patients=rows["patient_id"].nunique(), level=level)
    return found


def _between_methods(primary: Scores) -> dict[tuple[str, str, str], Estimate]:
    """Differences between two methods on the same networks, without those between a method and its `TWIN`."""
    asked = [method for method in primary.methods if method not in twins(primary.methods)]
    return {
        (name, a, b): contrasts.contrast(primary, {(name, a): 1, (name, b): -1})
        for a, b in combinations(asked, 2)
        for name in primary.architectures(a, b)
    }


def answers(asked: Asked) -> dict[str, Judgement]:
    """The answer to each of `QUESTIONS`, by the question, in their order."""
    return {question: answer(asked) for question, answer in QUESTIONS.items()}


def table(answered: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a question: question, answer, numbers, limits (what an open answer lacks)."""
    return judgement.table(answered, ["question", "answer", "numbers", "limits"])


def tags(answered: Mapping[str, Judgement]) -> dict[str, str]:
    """The answers as tags of the compare run: cxr.answer.1, ..."""
    return judgement.tags(answered, "answer")


def per_cell(
    asked: Asked,
    cells: Cells,
    yes: Sequence[float],
    no: Sequence[float],
    numbers: str,
    *,
    words: tuple[str, str] = (YES, NO),
) -> Judgement:
    """An answer about all cells, or about some of them.

    Args:
        cells: estimates by cell.
        yes, no: for each of them, the one-sided p-values for the answers `words[0]` and `words[1]`.
        numbers: the estimates as text.

    Returns: `words[0]` or `words[1]` where every cell that counts shows it, `SOME` where some cells do after
        Holm's correction, else OPEN. Cells whose maps do not pass their checks do not count.
    """
    unsound = [cell for cell in cells if cell in asked.evidence.unsound]
    sound = np.array([cell not in unsound for cell in cells], dtype=bool)
    if not sound.any():
        return Judgement(OPEN, numbers, asked.evidence.why_unsound(unsound) or "needs maps")
    found = [est for est, counts in zip(cells.values(), sound, strict=True) if counts]
    one = of_one_seed(found[0].n_seeds)
    sides = [np.asarray(p, dtype=float)[sound] for p in (yes, no)]
    n, alpha = int(sound.sum()), asked.alpha
    left_out = f"; without {_cells(len(unsound))} whose maps do not pass" if unsound else ""
    for word, p in zip(words, sides, strict=True):
        if (p < alpha).all():
            return Judgement(word, f"{numbers}{left_out}{one}")
    some = [int((holm(p) < alpha).sum()) for p in sides]
    if any(some):
        counted = " and ".join(f"{word} in {k}" for word, k in zip(words, some, strict=True) if k)
        return Judgement(SOME, f"{counted} of {_cells(n)}. {numbers}{left_out}{one}")
    return Judgement(OPEN, f"{numbers}{left_out}{one}", finds(found, alpha))


def _cells(n: int) -> str:
    return f"{n} cell{'s' * (n != 1)}"


def _counted(asked: Asked, cells: Cells) -> Cells:
    """The cells whose maps pass their checks; all, if none do."""
    return {cell: est for cell, est in cells.items() if cell not in asked.evidence.unsound} or cells


def span(cells: Mapping[tuple[str, ...], Estimate], *, sign: bool = False) -> str:
    """The lowest and the highest of several estimates, as text with their cells; one estimate alone."""
    known = {cell: est for cell, est in cells.items() if np.isfinite(est.value)}
    if not known:
        return "no value"
    low, high = (pick(known, key=lambda cell: known[cell].value) for pick in (min, max))
    ends = [f"{number(known[cell], sign=sign)} ({' '.join(cell)})" for cell in dict.fromkeys((low, high))]
    return " to ".join(ends)


def accuracy(asked: Asked) -> Judgement:
    """The change of macro AUC is within the margin in every network: `verdicts.stable_performance`."""
    return _as_answer(verdicts.stable_performance(asked.evidence))


def moved(asked: Asked) -> Judgement:
    """The primary metric is further from identical maps than the margin, in every cell."""
    evidence, sign = asked.evidence, sign_of_stability(asked.evidence.metric)
    identical = 1.0 if sign > 0 else 0.0
    null, found = identical - sign * evidence.margins.overlap, list(asked.drift.values())
    away, alike = ("less", "greater") if sign > 0 else ("greater", "less")
    counted = _counted(asked, asked.drift)

    def unmoved(est: Estimate) -> bool:
        """All maps are identical: there is no spread, and so no test; nor is there a doubt."""
        return est.value == identical and est.se == 0

    text = f"{evidence.metric_text.capitalize()} {span(counted)}, where identical maps have {identical:g}"
    if evidence.corrected:
        text += " and maps of two patients 0"
        kept = [unmoved(est) or p_value(est, 0, "greater") < asked.alpha for est in counted.values()]
        none_left = len(kept) - sum(kept)
        text += f". In {none_left} of {_cells(len(counted))} no more is left than two patients share"
    if asked.chance:
        lost = [asked.chance[cell] for cell in counted if cell in asked.chance]
        lost = sum(not p_value(est, 0, "less") < asked.alpha for est in lost)
        text += f", in {lost} no more than chance"
    yes, no = ([p_value(est, null, side) for est in found] for side in (away, alike))
    no = [0.0 if unmoved(est) else p for est, p in zip(found, no, strict=True)]
    return per_cell(asked, asked.drift, yes, no, text)


def beyond_seeds(asked: Asked) -> Judgement:
    """Fine-tuning moves the evidence further than another seed does, in every cell.

    Two heads on the same features differ by less than two trainings. So they can show that another seed moves the
    evidence as far, never that it moves it less.
    """
    evidence = asked.evidence
    needed = "needs three seeds: two make one pair, which shows no spread"
    if not evidence.excess:
        return Judgement(OPEN, "Not measured", needed)
    text = f"{evidence.metric_text.capitalize()} of {evidence.against} minus that of before/after: "
    found = _above_zero(asked, evidence.excess, text)
    if evidence.against == TWO_HEADS and found.verdict in (YES, SOME):
        return Judgement(OPEN, found.evidence, f"{needed}; two heads differ by less than two trainings")
    return found


def beyond_null(asked: Asked) -> Judgement:
    """Fine-tuning moves the evidence further than as many epochs again do, in every cell."""
    if not asked.null:
        return Judgement(OPEN, "Not measured", "needs placebo: true")
    text = f"{asked.evidence.metric_text.capitalize()} of as many epochs again minus that of before/after: "
    return _above_zero(asked, asked.null, text)


def _above_zero(asked: Asked, cells: Cells, text: str) -> Judgement:
    yes, no = ([p_value(est, 0, side) for est in cells.values()] for side in ("greater", "less"))
    return per_cell(asked, cells, yes, no, text + span(_counted(asked, cells), sign=True))


def towards_disease(asked: Asked) -> Judgement:
    """The share of the maps' energy in the lesion rises, or falls, in every cell."""
    if not asked.disease:
        return Judgement(OPEN, "Not asked: no masks of lesions", "needs masks (docs/data.md)")
    yes, no = ([p_value(est, 0, side) for est in asked.disease.values()] for side in ("greater", "less"))
    text = f"Share of the maps' sum in the lesion, change: {span(_counted(asked, asked.disease), sign=True)}"
    return per_cell(asked, asked.disease, yes, no, text, words=("towards", "away"))


def by_network(asked: Asked) -> Judgement:
    """Some two networks differ: `verdicts.depends_on_architecture`."""
    return _as_answer(verdicts.depends_on_architecture(asked.evidence))


def by_method(asked: Asked) -> Judgement:
    """Under some two methods the same networks drift differently; Holm over networks and pairs of methods."""
    unsound = asked.evidence.unsound
    kept = {
        key: est for key, est in asked.methods.items() if not {(key[0], key[1]), (key[0], key[2])} & set(unsound)
    }
    if not asked.methods:
        return Judgement(OPEN, "Not asked: one method", "needs two methods")
    text = f"{asked.evidence.metric_text.capitalize()}, widest difference: "
    if not kept:
        return Judgement(OPEN, "No network has two methods whose maps pass", asked.evidence.why_unsound(unsound))
    widest = max(kept, key=lambda key: abs(np.nan_to_num(kept[key].value)))
    text += f"{widest[0]}, {widest[1]} - {widest[2]} {number(kept[widest], sign=True)}"
    found = list(kept.values())
    shown, text = _significant(asked, holm([p_value(est) for est in found]), text, found[0].n_seeds)
    if shown:
        return Judgement(YES, text)
    margin = asked.evidence.margins.overlap
    if all(estimates.equivalence(est, margin) < asked.alpha for est in found):
        return Judgement(NO, f"{text}; all within ±{margin:g}")
    return Judgement(OPEN, text, finds(found, asked.alpha / len(found)))


def by_class(asked: Asked) -> Judgement:
    """The drift of some class differs from that of the others; Holm over all cells and classes."""
    if asked.classes.empty:
        return Judgement(OPEN, "Not tested", "needs groups with label, and ten patients of two classes")
    unsound = asked.evidence.unsound
    rows = asked.classes
    sound = [cell not in unsound for cell in zip(rows["architecture"], rows["method"], strict=True)]
    rows = rows[np.array(sound, dtype=bool)]
    if rows.empty:
        return Judgement(OPEN, "No cell has maps that pass", asked.evidence.why_unsound(unsound))
    rows = rows.dropna(subset=["p"])
    if rows.empty:
        return Judgement(OPEN, "The differences between classes have no spread", NO_SPREAD)
    widest = rows.loc[rows["difference"].abs().idxmax()]
    text = (
        f"Widest difference: {widest['value']} against the other classes {widest['difference']:+.2f} "
        f"({widest['architecture']} {widest['method']})"
    )
    p = holm(rows["p"].astype(float).to_numpy())
    shown, text = _significant(asked, p, text, rows["n_seeds"].max())
    return Judgement(YES, text) if shown else Judgement(OPEN, text, "no difference is shown; none is excluded")


def _significant(asked: Asked, p: np.ndarray, text: str, n_seeds: int) -> tuple[int, str]:
    """How many two-sided p of a Holm family are below the level, and `text` with that number."""
    shown = int((p < 2 * asked.alpha).sum())
    return shown, f"{text}; {shown} of {len(p)} differences are significant{of_one_seed(n_seeds)}"


def checks(asked: Asked) -> Judgement:
    """All maps pass all their checks, before and after."""
    rows = asked.checks
    if rows.empty:
        return Judgement(OPEN, "Not checked", "needs map_check_images above 0")
    passed = rows["passes_checks"].astype(bool)
    cells = rows.assign(passed=passed).groupby(["architecture", "method"], sort=False)["passed"].all()
    text = f"In {passed.sum()} of {len(rows)} cases (a cell, before or after) the maps pass"
    if passed.all():
        return Judgement(YES, text)
    return Judgement(SOME if cells.any() else NO, text, asked.evidence.why_unsound(cells.index[~cells]))


def _as_answer(judgement: Judgement) -> Judgement:
    return judgement._replace(verdict=_AS_ANSWERS.get(judgement.verdict, judgement.verdict))


QUESTIONS: Mapping[str, Callable[[Asked], Judgement]] = {
    "Did accuracy stay?": accuracy,
    "Did the evidence move?": moved,
    "Further than another seed moves it?": beyond_seeds,
    "Further than the same training again moves it?": beyond_null,
    "Towards the disease?": towards_disease,
    "Does the drift depend on the network?": by_network,
    "Does it depend on the method?": by_method,
    "Does it depend on the class?": by_class,
    "Do the maps pass their checks?": checks,
}
"""What the report opens with: a question, and the function that answers it."""

ANSWERS = (YES, SOME, NO, "towards", "away", FRAGILE, OPEN)
"""All words that an answer can be."""
