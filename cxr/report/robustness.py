"""Does a verdict on an order hold in other analyses, at another layer and with another normalisation?

A *lead* is one difference that a verdict rests on: (method, a, b, sign), where sign is 1 if a is the more stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from cxr.core.tables import percent
from cxr.metrics.multiverse import AXES
from cxr.report.evidence import TWIN, Evidence
from cxr.report.judgement import CONTRADICTED, FRAGILE, SUPPORTED, Judgement
from cxr.statistics.estimates import p_value

Lead = tuple[str, str, str, int]

# Both have the resolution of the layer that studies explain; one lies before the last branch, one after it.
LAYERS = ("layer-penultimate", "layer-penultimate_cut")


class Robustness(NamedTuple):
    """Why a verdict is fragile (empty: it is not), and what was looked at."""

    reasons: list[str]
    note: str


def check(evidence: Evidence, leads: Sequence[Lead]) -> Robustness:
    """Whether some leads hold, all together: in the declared majority of analyses, at both layers, under twins."""
    reasons = [
        f"{TWIN[method]} does not show it"
        for method in dict.fromkeys(lead[0] for lead in leads)
        if method in TWIN and not twin_agrees(evidence, [lead for lead in leads if lead[0] == method])
    ]
    known = set(evidence.pairs["method"])
    unknown = [TWIN[method] for method, *_ in leads if method in TWIN and TWIN[method] not in known]
    alone = f"; not checked under {unknown[0]}" if unknown else ""
    if evidence.analyses.empty:
        return Robustness(reasons, "not checked in other analyses" + alone)
    n, agree = agreement(evidence.analyses, leads)
    if n == 0:
        return Robustness(reasons, "no other analysis has all values" + alone)
    note = f"holds in {agree} of {n} other analyses"
    if agree < evidence.margins.majority * n:
        reasons.append(f"{note}, {agree / n:.0%}; the declared majority is {percent(evidence.margins.majority)}")
    turned = [layer for layer in LAYERS if not at_layer(evidence.analyses, leads, layer)]
    reasons += [f"turns round at {layer.removeprefix('layer-')}" for layer in turned]
    return Robustness(reasons, note + alone)


def mend(judgement: Judgement, found: Robustness) -> Judgement:
    """A settled judgement with what `check` says: FRAGILE with the reasons, or the same with the note."""
    if judgement.verdict not in (SUPPORTED, CONTRADICTED):
        return judgement
    if not found.reasons:
        return judgement._replace(evidence=f"{judgement.evidence}; {found.note}")
    return Judgement(FRAGILE, f"{judgement.evidence}; {judgement.verdict} here, but " + "; ".join(found.reasons))


def agreement(analyses: pd.DataFrame, leads: Sequence[Lead]) -> tuple[int, int]:
    """How many other analyses have all values of some leads, and in how many of them all signs hold.

    The study's own analysis does not count. Neither does one in which every method of the leads only repeats its
    default maps (`uses_default_maps`), nor, for leads under several methods, one at the last feature map, where
    LayerCAM and Grad-CAM++ are the same map. A tie does not hold.
    """
    methods = {lead[0] for lead in leads}
    table = analyses[~analyses["is_default"] & analyses["complete"] & analyses["method"].isin(methods)]
    if len(methods) > 1:
        table = table[table["variant"] != "layer-final"]
    n = agree = 0
    for _, group in table.groupby([name for name in AXES if name in table], sort=False):
        if set(group["method"]) != methods or group["uses_default_maps"].all():
            continue
        values = group.set_index(["architecture", "method"])["value"]
        if all((name, method) in values for method, a, b, _ in leads for name in (a, b)):
            n += 1
            agree += _holds(values, leads)
    return n, agree


def at_layer(analyses: pd.DataFrame, leads: Sequence[Lead], layer: str) -> bool:
    """Whether the signs hold at another layer, all other choices being the study's own; True where it has none.

    A multiverse has no rows of a layer whose maps are the study's own.
    """
    axes = [name for name in AXES if name in analyses and name != "variant"]
    own = analyses[analyses["is_default"]]
    if own.empty:
        return True
    choices = own[axes].iloc[0]
    there = analyses[
        (analyses[axes] == choices).all(axis=1) & (analyses["variant"] == layer) & analyses["complete"]
    ]
    values = there.set_index(["architecture", "method"])["value"]
    known = [lead for lead in leads if (lead[1], lead[0]) in values and (lead[2], lead[0]) in values]
    return _holds(values, known)


def twin_agrees(evidence: Evidence, leads: Sequence[Lead]) -> bool:
    """Whether each lead is significant, on the same side, under the other normalisation; True if it was not run.

    Each at the one-sided level: both normalisations must agree, and that needs no correction.
    """
    pairs = evidence.pairs.set_index(["method", "a", "b"])["estimate"]
    for method, a, b, sign in leads:
        twin, a, b, sign = (
            (TWIN[method], a, b, sign) if (TWIN[method], a, b) in pairs else (TWIN[method], b, a, -sign)
        )
        if (twin, a, b) not in pairs:
            continue
        est = replace(pairs[twin, a, b], value=sign * pairs[twin, a, b].value)
        if not p_value(est, 0, "greater") < evidence.margins.alpha:
            return False
    return True


def _holds(values: pd.Series, leads: Sequence[Lead]) -> bool:
    return all(sign * (values[a, method] - values[b, method]) > 0 for method, a, b, sign in leads)
