"""The answer of a study in two or three plain sentences, with which its report opens.

They claim what the answers to the study's questions claim (`cxr.report.questions`), and no more. Numbers are of
cells whose maps pass their checks. Where no maps pass, the sentences say so first and give no number of drift.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr.core.architectures import NETWORKS
from cxr.core.methods import LABELS
from cxr.metrics.metric_table import METRICS
from cxr.report import questions
from cxr.report.evidence import TWO_HEADS
from cxr.report.judgement import OPEN, Judgement
from cxr.report.questions import NO, SOME, YES, Asked
from cxr.statistics.score_rows import Cell

if TYPE_CHECKING:
    from cxr.report.scores import Study

FILE = "answer.txt"
"""The artifact of the compare run: a sentence a line."""
TAG_LENGTH = 500
_CELLS = "combinations of network and method"  # cells, for readers who do not know the word yet
_FAILS = "fail"  # how a reason of `Evidence.unsound` begins if checks were made


def sentences(asked: Asked, answered: Mapping[str, Judgement], summary: pd.DataFrame) -> list[str]:
    """Did the evidence move, how far, compared with what; did accuracy stay; how far can this be trusted.

    Args:
        asked: `questions.gather`; answered: `questions.answers` of it.
        summary: `cxr.report.comparison.pooled` of the same study.

    Returns: two or three strings, each of one or a few sentences.
    """
    own = {judge: answered[question] for question, judge in questions.QUESTIONS.items()}
    last = " ".join([_accuracy(asked, own[questions.accuracy]), *_trust(asked)])
    unsound = [cell for cell in asked.drift if cell in asked.evidence.unsound]
    if len(unsound) == len(asked.drift):
        return [_no_maps([asked.evidence.unsound[cell] for cell in unsound]), last]
    return [
        _moved(asked, own[questions.moved], summary),
        _compared(asked, own[questions.beyond_seeds], own[questions.beyond_null]),
        last,
    ]


def tags(said: Sequence[str], *, synthetic: bool) -> dict[str, str]:
    """Tags of the compare run: the sentences (cut, with an ellipsis, at `TAG_LENGTH`), and what the images are."""
    answer = textwrap.shorten(" ".join(said), TAG_LENGTH, placeholder=" …")
    return {"cxr.answer": answer, "cxr.synthetic": "yes" if synthetic else "no"}


def warning(study: Study) -> str:
    """What the images are, where they are synthetic; empty for a study of radiographs."""
    if study.training_params["data"] != "phantom":
        return ""
    names = study.runs["architecture"].unique()
    compact = all(name in NETWORKS and NETWORKS[name].function for name in names)
    networks = " and the networks are compact" if compact else ""
    return f"The images are drawn by a program{networks}. Nothing here is about patients."


def checks_first(answered: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """The same answers, with the checks of maps first: they say which of the others count."""
    first = next(question for question, judge in questions.QUESTIONS.items() if judge is questions.checks)
    return {first: answered[first], **answered}


def _no_maps(reasons: Iterable[str]) -> str:
    failed = {reason.startswith(_FAILS) for reason in reasons}
    why = "or were not checked" if len(failed) == 2 else ""
    why = f"they fail their checks {why}".rstrip() if True in failed else "they were not checked"
    return f"The maps cannot tell whether the evidence moved: {why}. Their drift describes maps, not networks."


def _moved(asked: Asked, judgement: Judgement, summary: pd.DataFrame) -> str:
    where, everywhere = _where(list(asked.drift), asked.evidence.unsound)
    found = {
        YES: f"the evidence moved{everywhere}",
        NO: f"the evidence did not move{everywhere}",
        SOME: f"the evidence moved in part ({_counts(judgement)})",
    }.get(judgement.verdict, "this study cannot tell whether the evidence moved")
    text = f"{where}{found}: {_numbers(asked, summary)}."
    return text[0].upper() + text[1:]


def _where(cells: Sequence[Cell], unsound: Collection[Cell]) -> tuple[str, str]:
    """The cells that count, as the start of a sentence, and as its end; both are empty for a single cell."""
    sound = [cell for cell in cells if cell not in unsound]
    if len(sound) == len(cells):
        networks, methods = (len({cell[k] for cell in cells}) > 1 for k in (0, 1))
        return "", f"{' in every network' * networks}{' under every method' * methods}"
    which = f"the {len(sound)} of {len(cells)} {_CELLS}"
    if len(sound) == 1:
        which = f"{sound[0][0]} under {LABELS[sound[0][1]]}, the only one of {len(cells)} {_CELLS}"
    return f"in {which} whose maps pass their checks, ", ""


def _counts(judgement: Judgement) -> str:
    """The counts with which `questions.per_cell` begins the evidence of an answer "in part"."""
    return judgement.evidence.partition(". ")[0].replace("cells", _CELLS)


def _numbers(asked: Asked, summary: pd.DataFrame) -> str:
    """The primary metric in the cells that count, and beside it what it is compared with."""
    metric, unsound = asked.evidence.metric, asked.evidence.unsound
    pairs = zip(summary["architecture"], summary["method"], strict=True)
    rows = summary[[pair not in unsound for pair in pairs]]
    what = f"{METRICS[metric].label}, before to after, is"
    if metric == "overlap":
        what = "the strongest 20 % before and after overlap by"
    beside = [f"identical maps {METRICS[metric].identical:g}"]
    for name in ("two_patients", "two_seeds", *(["more_training"] if asked.null else [])):
        column = f"{metric}_{name}_median"
        if column in rows and rows[column].notna().any():
            shown = name.replace("_", " ").replace("more training", "as many epochs again")
            beside.append(f"{shown} {_span(rows[column])}")
    return f"{what} {_span(rows[f'{metric}_median'])} ({', '.join(beside)})"


def _compared(asked: Asked, seeds: Judgement, null: Judgement) -> str:
    """Compared with another seed and, if it was asked, with training on for as many epochs."""
    heads = asked.evidence.against == TWO_HEADS
    seed = "another seed of the new head" if heads else "another seed"
    counts = asked.evidence.excess and (not heads or seeds.verdict == NO)  # heads say nothing else about seeds
    rivals = [(seed, seeds)] if counts else []
    rivals += [("training on for as many epochs", null)] if asked.null else []
    if not rivals:
        return "There is no comparison with another seed: it needs three seeds."
    if len(rivals) == 2 and {seeds.verdict, null.verdict} == {OPEN}:
        both = " or ".join(rival for rival, _ in rivals)
        return f"This study cannot tell whether {both} moves it as far."
    return " ".join(_rival(rival, judgement) for rival, judgement in rivals)


def _rival(rival: str, judgement: Judgement) -> str:
    start = rival[0].upper() + rival[1:]
    return {
        YES: f"{start} moves it less.",
        NO: f"{start} moves it further.",
        SOME: f"Does {rival} move it less? {_counts(judgement).capitalize()}.",
    }.get(judgement.verdict, f"This study cannot tell whether {rival} moves it as far.")


def _accuracy(asked: Asked, judgement: Judgement) -> str:
    changes = np.array([est.value for est in asked.evidence.auc_change.values()], dtype=float)
    known = changes[np.isfinite(changes)]
    if not len(known):
        return "Whether accuracy stayed is not known: there is no AUC."
    found = {
        YES: "Accuracy stayed",
        NO: f"Accuracy did not stay{' in every network' * (len(changes) > 1)}",
    }.get(judgement.verdict, "This study cannot tell whether accuracy stayed")
    return f"{found}: macro AUC {_change(known)} (margin ±{asked.evidence.margins.auc:g})."


def _change(values: np.ndarray) -> str:
    """Changes in words, with three decimals."""
    if (values >= 0).all():
        return f"rose by {_span(values, digits=3)}"
    if (values <= 0).all():
        return f"fell by {_span(-values, digits=3)}"
    return f"changed by {min(values):+.3f} to {max(values):+.3f}"


def _trust(asked: Asked) -> list[str]:
    """What the maps' checks and one seed mean for all that was said."""
    one = max(est.n_seeds for est in asked.drift.values()) == 1
    said = {
        "All maps pass their checks.": not set(asked.drift) & set(asked.evidence.unsound),
        "One seed: this describes these checkpoints only.": one,
    }
    return [text for text, holds in said.items() if holds]


def _span(values: Iterable[float], *, digits: int = 2) -> str:
    """The lowest and the highest of some values; one number, if both are the same as written."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "no value"
    return " to ".join(dict.fromkeys(f"{end:.{digits}f}" for end in (min(known), max(known))))
