"""A judgement about one claim: how estimates become supported, contradicted, fragile or open, and the wording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr.statistics import planning
from cxr.statistics.estimates import Estimate, holm

SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "cannot tell"
FRAGILE = "fragile"
"""Supported or contradicted here, but not in the declared majority of analyses, or not in an analysis that must
agree."""
MORE_SEEDS = "needs two training seeds or more: with one, a difference may be the luck of that training"
NO_SPREAD = "needs values that differ: without any spread no interval and no test exist"


class Judgement(NamedTuple):
    """What the estimates say about one claim.

    verdict: SUPPORTED, CONTRADICTED, FRAGILE or OPEN.
    evidence: the numbers behind it, as text.
    needed: what limits an open claim: the smallest difference that this design finds, or what is missing.
    """

    verdict: str
    evidence: str
    needed: str = ""


def table(judged: Mapping[str, Judgement], columns: Sequence[str]) -> pd.DataFrame:
    """One row a judgement. `columns`: names for what is judged and for the three parts of a `Judgement`."""
    return pd.DataFrame([(text, *judgement) for text, judgement in judged.items()], columns=list(columns))


def tags(judged: Mapping[str, Judgement], kind: str) -> dict[str, str]:
    """The judgements as tags of the compare run: cxr.<kind>.1, ..."""
    return {
        f"cxr.{kind}.{number}": f"{judgement.verdict}: {text}"
        for number, (text, judgement) in enumerate(judged.items(), start=1)
    }


def of_one_seed(n_seeds: int) -> str:
    """What to add to evidence that comes from one seed; empty for more."""
    return " (one seed: these networks only)" if n_seeds == 1 else ""


def settle(yes: Sequence[float], no: Sequence[float], alpha: float) -> tuple[str, list[int]]:
    """The verdict on a claim about all of several members, and the members that decide it.

    Args:
        yes, no: for each member, the one-sided p-values for the claim and against it; NaN where there is no test.
        alpha: the one-sided level.

    Returns: SUPPORTED where every member is shown, each at the level (intersection-union, Berger 1982): all
        members decide. CONTRADICTED where some member is refuted after Holm's correction over all members: these
        decide. Else OPEN: the members that are not shown.
    """
    shown = [p < alpha for p in yes]
    if len(shown) and all(shown):
        return SUPPORTED, list(range(len(shown)))
    refuted = np.flatnonzero(holm(no) < alpha).tolist()
    if refuted:
        return CONTRADICTED, refuted
    return OPEN, [member for member, sure in enumerate(shown) if not sure]


def judge_all(
    yes: Sequence[float],
    no: Sequence[float],
    evidence: str,
    estimates: Sequence[Estimate],
    alpha: float,
    *,
    missing: str = "",
) -> Judgement:
    """Judge a claim about every one of several estimates, by `settle`.

    Args:
        yes, no, alpha: as for `settle`.
        evidence: the estimates as text.
        estimates: in the same order.
        missing: what the claim lacks, if you know; without it an open judgement says what this design can find.
    """
    verdict, members = settle(yes, no, alpha)
    here = of_one_seed(estimates[0].n_seeds) if estimates else ""
    if verdict != OPEN:
        return Judgement(verdict, evidence + here)
    return Judgement(OPEN, evidence + here, missing or finds([estimates[member] for member in members], alpha))


def finds(estimates: Iterable[Estimate], alpha: float) -> str:
    """The smallest difference that this design finds with 80 % power, for the hardest of some estimates: text."""
    found = list(estimates)
    if not found or not all(est.se > 0 for est in found):
        return NO_SPREAD
    if found[0].n_seeds == 1:
        return MORE_SEEDS
    smallest = [planning.smallest_effect(est, alpha=2 * alpha) for est in found]
    hardest = found[int(np.argmax(smallest))]
    return (
        f"finds {_rounded(max(smallest))} or more with {planning.POWER:.0%} power ({hardest.n_seeds} seeds, "
        f"{hardest.n_patients} patients)"
    )


def number(
    est: Estimate, *, sign: bool = False, bounds: tuple[float, float] = (-np.inf, np.inf), digits: int = 2
) -> str:
    """An estimate with its interval, cut at `bounds`; `sign`: also write a plus."""
    return interval_text(est.value, *np.clip([est.low, est.high], *bounds), sign=sign, digits=digits)


def interval_text(value: float, low: float, high: float, *, sign: bool, digits: int = 2) -> str:
    """A value with its interval, or with "(no interval)" where that is not finite."""
    limits = f"[{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite([low, high]).all() else "(no interval)"
    return f"{value:{'+' if sign else ''}.{digits}f} {limits}"


def pair_text(row) -> str:
    """A row of `Evidence.pairs` as text: the difference between two architectures under one method."""
    return f"{row.method}: {row.a} - {row.b} {number(row.estimate, sign=True)}, p {p_text(row.p_holm)}"


def crossing_text(row, test: str = "p_holm") -> str:
    """A row of `Evidence.crossings` as text: the difference between two architectures under two methods, and the p
    value of a column."""
    return (
        f"{row.a} - {row.b}: {number(row.estimate_a, sign=True)} under {row.method_a}, "
        f"{number(row.estimate_b, sign=True)} under {row.method_b}, p {p_text(getattr(row, test))}"
    )


def p_text(value: float) -> str:
    """A p value with three decimals; "-" for NaN."""
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _rounded(value: float) -> str:
    """Two decimals, or one significant digit of smaller numbers."""
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"
