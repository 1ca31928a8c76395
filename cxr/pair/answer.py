"""The answer of a comparison in two or three plain sentences, and its table: what `cxr drift` ends with.

Numbers are of a method whose maps pass their checks. Where no maps pass, the sentences say so and give no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from cxr.core import tables
from cxr.core.methods import LABELS
from cxr.core.params import DriftParams, StudyParams
from cxr.pair import checking
from cxr.pair.compare import LEVELS, by_method
from cxr.report import opening
from cxr.statistics import bootstrap

MARGIN: float = StudyParams.model_fields["overlap_margin"].default
"""The evidence moved where the corrected overlap is further from 1 than this: as in a study."""


def sentences(
    scores: pd.DataFrame,
    summaries: Mapping[str, Mapping[str, float]],
    checked: pd.DataFrame,
    performances: Mapping[str, float],
    settings: DriftParams,
) -> list[str]:
    """Did the evidence move, how far, compared with what; how far can this be trusted; what not to conclude.

    Args:
        scores: `compare.score_methods`; summaries: `compare.summarise_methods` of it.
        checked: `checking.check`.
        performances: `images.measured`.

    Returns: two or three strings, each of one or a few sentences.
    """
    checks = checking.by_method(checked, list(summaries))
    accuracy = _accuracy(performances)
    if "yes" not in checks.values() and "no" in checks.values():
        failing = next(method for method, check in checks.items() if check == "no")
        return [
            f"The maps cannot tell whether the evidence moved: they FAIL their checks ({LABELS[failing]}, "
            f"{checking.reasons(checked, failing)}).",
            f"Do not read their overlap as evidence; try another method or layer. {accuracy}".strip(),
        ]
    method = next((name for name, check in checks.items() if check == "yes"), next(iter(checks)))
    return [
        _moved(summaries[method], method, settings),
        _again(by_method(scores)[method], summaries[method], settings),
        " ".join(
            [*([accuracy] if accuracy else []), _trust(checks), "This describes these models on these images."]
        ),
    ]


def tags(said: Sequence[str], settings: DriftParams) -> dict[str, str]:
    """Tags of the run, as those of a study's comparison: the answer, and whether the images are synthetic."""
    return opening.tags(said, synthetic=settings.data == "phantom")


def _moved(summary: Mapping[str, float], method: str, settings: DriftParams) -> str:
    low, high = (summary[f"overlap_corrected_ci_{end}"] for end in ("low", "high"))
    if high < 1 - MARGIN:
        found = "The evidence moved"
    elif low > 1 - MARGIN:
        found = "The evidence did not move"
    else:
        found = "These images cannot tell whether the evidence moved"
    ends = ", ".join(f"{summary[f'overlap_ci_{end}']:.2f}" for end in ("low", "high"))
    text = (
        f"{found}: the strongest 20 % of the area of both maps overlap by {summary['overlap_median']:.2f} "
        f"[{ends}] ({LABELS[method]}; identical maps: 1; maps of two patients: "
        f"{summary['overlap_two_patients_median']:.2f})."
    )
    return text if low > 0 or low != low else f"{text} No more is shown than two patients share."


def _again(scores: pd.DataFrame, summary: Mapping[str, float], settings: DriftParams) -> str:
    """Compared with another seed of B, or else of A."""
    likes = {"A": settings.like_a, "B": settings.like_b}
    given = [model for model in ("B", "A") if likes[model]]
    if not given:
        return (
            "Do not conclude that what was done to the model moved it: another seed alone may move it as far "
            "(not measured: --like-a, --like-b)."
        )
    return " ".join(_compared(scores, summary, model, len(likes[model]), settings) for model in given)


def _compared(
    scores: pd.DataFrame, summary: Mapping[str, float], model: str, count: int, settings: DriftParams
) -> str:
    name = f"overlap_{LEVELS[model]}"
    values = scores.set_index("patient_id")[["overlap", name]]
    draws = bootstrap.patient_replicates(values, n_boot=settings.n_boot, rng_seed=settings.seed)
    low, high = bootstrap.interval((draws["overlap"] - draws[name]).to_numpy(), settings.level)
    trained = f"training {model} again with another seed"
    beside = f"(overlap {summary[f'{name}_median']:.2f}, {count} model{'s' * (count > 1)})"
    if high < 0:
        return f"{trained[0].upper()}{trained[1:]} moves it less {beside}."
    if low > 0:
        return f"{trained[0].upper()}{trained[1:]} moves it further {beside}."
    return f"These images cannot tell whether {trained} moves it as far {beside}."


def _accuracy(performances: Mapping[str, float]) -> str:
    for name, words in (("auc_macro", "Macro AUC"), ("accuracy", "Accuracy")):
        if f"{name}_before" in performances:
            return (
                f"{words}: {performances[f'{name}_before']:.3f} before, {performances[f'{name}_after']:.3f} after."
            )
    return ""


def _trust(checks: Mapping[str, str]) -> str:
    if set(checks.values()) == {"not checked"}:
        return "The maps were not checked."
    failing = [LABELS[method] for method, check in checks.items() if check == "no"]
    if failing:
        return f"The maps of {', '.join(failing)} fail their checks."
    return "The maps pass their checks."


def rows(summaries: Mapping[str, Mapping[str, float]], *, level: float) -> pd.DataFrame:
    """A row a method, as text: method, overlap with its interval, its baselines, corrected overlap, images, empty
    maps."""
    found = pd.DataFrame([{"method": method, **summary} for method, summary in summaries.items()])
    levels = {"two\npatients": "two_patients"}
    levels |= {f"two seeds\nof {model}": name for model, name in LEVELS.items()}
    return pd.DataFrame(
        {
            "method": [LABELS[method] for method in found["method"]],
            f"overlap\n[{tables.percent(level)} interval]": tables.numbers(
                found, "overlap_median", interval="overlap"
            ),
            **{
                shown: tables.numbers(found, f"overlap_{name}_median")
                for shown, name in levels.items()
                if f"overlap_{name}_median" in found
            },
            "corrected\noverlap": tables.numbers(found, "overlap_corrected_median"),
            "empty\nmaps": tables.numbers(found, "n_empty", digits=0),
        }
    )


def in_text(summaries: Mapping[str, Mapping[str, float]], checked: pd.DataFrame, *, level: float) -> str:
    """`rows` for the terminal: methods whose maps fail their checks come last, marked (`tables.in_sections`)."""
    checks = checking.by_method(checked, list(summaries))
    return tables.in_sections(rows(summaries, level=level), list(checks.values()))
