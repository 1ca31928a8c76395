"""A judgement about one claim: how estimates become supported, contradicted or open, and their wording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr.report.evidence import Cells
from cxr.statistics import planning
from cxr.statistics.estimates import Estimate

SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "cannot tell"
MORE_SEEDS = "at least two training seeds: with one, a difference may be the luck of that training"
NO_SPREAD = "values that differ: without any spread no interval and no test exist"
_MOST_PATIENTS = 20_000  # nobody can plan a study with more


class Judgement(NamedTuple):
    """What the estimates say about one claim.

    verdict: SUPPORTED, CONTRADICTED or OPEN.
    evidence: the numbers behind it, as text.
    needed: what it would take to settle an open claim; empty otherwise.
    """

    verdict: str
    evidence: str
    needed: str = ""


def judge_all(
    yes: Sequence[bool], no: Sequence[bool], evidence: str, estimates: Sequence[Estimate], null: float
) -> Judgement:
    """Judge a claim about every one of several estimates.

    Args:
        yes, no: for each estimate, whether a test supports the claim, and whether one contradicts it.
        evidence: the estimates as text.
        estimates: in the same order.
        null: the value that the tests compare with.

    Returns: SUPPORTED where all say yes, CONTRADICTED where one says no, else OPEN with what the hardest of the
        open estimates needs.
    """
    suffix = " (one seed: these networks only)" if estimates and estimates[0].n_seeds == 1 else ""
    if all(yes):
        return Judgement(SUPPORTED, evidence + suffix)
    if any(no):
        return Judgement(CONTRADICTED, evidence + suffix)
    open_ones = [est for est, sure in zip(estimates, yes, strict=True) if not sure]
    if open_ones[0].n_seeds == 1:
        return Judgement(OPEN, evidence + suffix, MORE_SEEDS)
    hardest = min(open_ones, key=lambda est: abs(est.value - null) / est.se if est.se else 0.0)
    return Judgement(OPEN, evidence, seeds_for(hardest, null))


def seeds_for(est: Estimate, null: float, *, tests: int = 1) -> str:
    """How many seeds or patients show the observed distance from `null`, as text.

    With 80 % power, at 5 % over `tests` tests (the first step of Holm's correction, which is the strictest).
    """
    effect = abs(est.value - null)
    if not est.se > 0:
        return NO_SPREAD
    alpha = 0.05 / tests
    seeds = planning.seeds_needed(est, effect=effect, alpha=alpha)
    if seeds is not None:
        seeds = max(seeds, est.n_seeds + 1)  # the seeds of this study did not show it
        return f"about {seeds} training seeds on these patients (80 % power to see {effect:.3f})"
    patients = planning.patients_needed(est, effect=effect, alpha=alpha, at_most=_MOST_PATIENTS)
    if patients is not None:
        return f"about {patients} patients in the test set: more seeds alone would not show {effect:.3f}"
    return f"no realistic sample would settle this: an effect of {effect:.3f} is too small"


def cells_text(cells: Cells, *, sign: bool = False, bounds: tuple[float, float] = (-1, 1)) -> str:
    """The estimates of all cells, with their intervals cut at `bounds`."""
    return "; ".join(
        f"{name} {method} {number(est, sign=sign, bounds=bounds)}" for (name, method), est in cells.items()
    )


def number(est: Estimate, *, sign: bool = False, bounds: tuple[float, float] = (-1, 1)) -> str:
    """An estimate with its interval, cut at `bounds`; `sign`: also write a plus."""
    return interval_text(est.value, *np.clip([est.low, est.high], *bounds), sign=sign)


def interval_text(value: float, low: float, high: float, *, sign: bool) -> str:
    """A value with its interval, or with "(no interval)" where that is not finite."""
    limits = f"[{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else "(no interval)"
    return f"{value:{'+' if sign else ''}.3f} {limits}"


def pair_text(row) -> str:
    """A row of `Evidence.pairs` as text: the difference between two architectures under one method."""
    return f"{row.method}: {row.a} - {row.b} {number(row.estimate, sign=True)}, p {p_text(row.p_holm)}"


def crossing_text(row) -> str:
    """A row of `Evidence.crossings` as text: the difference between two architectures under two methods."""
    return (
        f"{row.a} against {row.b}: {interval_text(row.difference_a, row.low_a, row.high_a, sign=True)} under "
        f"{row.method_a}, {interval_text(row.difference_b, row.low_b, row.high_b, sign=True)} under "
        f"{row.method_b}, P(reversal) {row.p_reversal:.2f}, p {p_text(row.p_holm)}"
    )


def p_text(value: float) -> str:
    """A p value with three decimals; "-" for NaN."""
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
