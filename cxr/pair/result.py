"""The result of a comparison: a table per method, what the command prints, the figure, and the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.core import tables, terminal
from cxr.core.methods import LABELS, SCORE_LABELS
from cxr.core.params import DriftParams
from cxr.metrics import metric_table
from cxr.pair import answer, checking, compare, gates, images, models
from cxr.pair.compare import by_method
from cxr.pair.models import CHECKPOINTS, Model
from cxr.report import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRIMARY = "overlap"
"""The metric by which examples are chosen."""
SHOWN = ("overlap", "centroid_shift", "pearson")
"""The metrics in figures."""
_SHOWN_LEVELS = {
    "chance": "chance",
    "two_patients": "two patients",
    "two_heads": "two seeds of A",
    "two_seeds": "two seeds of B",
}


def overview(summary: Mapping[str, float]) -> pd.DataFrame:
    """One row per metric: its median with interval, its value for identical maps, the medians of the baselines
    that there are, and the corrected median."""
    levels = {name: level for level, name in _SHOWN_LEVELS.items() if f"{PRIMARY}_{level}_median" in summary}
    return pd.DataFrame(
        [
            {
                "metric": name,
                **{f"value_{part}": summary[f"{name}_{part}"] for part in ("median", "ci_low", "ci_high")},
                "identical": metric.identical,
                **{shown: summary[f"{name}_{level}_median"] for shown, level in levels.items()},
                "corrected": summary.get(f"{name}_corrected_median", np.nan),
            }
            for name, metric in metric_table.METRICS.items()
        ]
    )


def text(
    networks: Mapping[str, Model],
    chosen: pd.DataFrame,
    summaries: Mapping[str, Mapping[str, float]],
    checked: pd.DataFrame,
    performances: Mapping[str, float],
    settings: DriftParams,
    *,
    said: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """What the command prints: the models, the images, `notes`, the answer, and a row a method.

    Args: checked: `checking.check`. said: `answer.sentences`.
    """
    lines = []
    for name, model in networks.items():
        known = [
            f"{words} {performances[f'{metric}_{CHECKPOINTS[name]}']:.3f}"
            for metric, words in (("accuracy", "accuracy"), ("auc_macro", "AUC"))
            if name in CHECKPOINTS and f"{metric}_{CHECKPOINTS[name]}" in performances
        ]
        adapted = model.network.adapted
        known += [
            f"{model.size} px, preprocessing {adapted.preprocessing}: {adapted.preprocessing_why}",
            f"explained at {model.layer} ({model.grid})",
        ]
        lines.append(f"{name:2}  {model.path} (sha256 {model.sha256[:12]}): {', '.join(known)}")
    lines.append(which_images(chosen, settings))
    lines += [f"CAUTION: {note}" for note in (*notes, *images.lacking(chosen))]
    table = answer.in_text(summaries, checked, level=settings.level)
    return "\n".join(
        [*(terminal.wrapped(line, hang=4) for line in lines), "", *map(terminal.wrapped, said), "", table]
    )


def heading(method: str, checked: pd.DataFrame) -> str:
    """The method's name, after what is the matter with its maps, if they do not pass their checks."""
    check = checking.by_method(checked, [method])[method]
    return LABELS[method] if check == "yes" else f"{tables.MEANING[check]}: {LABELS[method]}"


def measured(
    summaries: Mapping[str, Mapping[str, float]], checked: pd.DataFrame, performances: Mapping[str, float]
) -> dict[str, float]:
    """What a run logs (`compare.metrics`), with whether the maps of each method pass their checks (1 or 0)."""
    checks = checking.by_method(checked, list(summaries))
    return compare.metrics(
        summaries, performances, passes={name: c == "yes" for name, c in checks.items() if c != "not checked"}
    )


def which_images(chosen: pd.DataFrame, settings: DriftParams) -> str:
    """Which class of how many images is explained, in words."""
    scored = chosen[chosen["scored"]]
    labelled = "label" in chosen
    explain = settings.explain if settings.explain != "auto" else "true" if labelled else "predicted"
    what = "the true class" if explain == "true" else f"what {'B' if explain == 'predicted' else 'A'} predicts"
    several = "image" in chosen
    by_image = (chosen["patient_id"] == chosen["image" if several else "image_id"]).all()
    patients = "each treated as a separate patient" if by_image else f"{scored['patient_id'].nunique()} patients"
    counts = ", ".join(f"{name} {count}" for name, count in images.by_class(chosen).items())
    if several:
        return (
            f"explained: each finding that an image has ({SCORE_LABELS[settings.score]}), on {len(scored)} of "
            f"{len(chosen)} ({patients}; {counts}); both models call {chosen['both_correct'].sum()}"
        )
    return (
        f"explained: {what} ({SCORE_LABELS[settings.score]}), on {len(scored)} of {len(chosen)} images "
        f"({patients}; {counts}); both models predict {'the true class' if labelled else 'it'} of "
        f"{chosen['both_correct'].sum()}"
    )


def figure(
    table: pd.DataFrame,
    summaries: Mapping[str, Mapping[str, float]],
    networks: Mapping[str, Model],
    pixels: Mapping[int, np.ndarray],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    chosen: pd.DataFrame,
    settings: DriftParams,
    checked: pd.DataFrame,
) -> Figure:
    """Medians with their baselines above; below, for each method, the images with the least, the median and the
    most drift. The title names the methods whose maps fail their checks.

    Args:
        table: `score_methods`. summaries: `summarise_methods`. maps: `explain`. checked: `checking.check`.
        The others as for `explain`.
    """
    from cxr.report import figures

    label, size = models.label(models.files(settings)), models.common_size(networks)
    examples = [
        panel
        for method, rows in by_method(table).items()
        for panel in panels(rows, pixels[size], maps[method], chosen)
    ]
    summary = pd.DataFrame(
        [{"architecture": label, "method": method, **values} for method, values in summaries.items()]
    )
    paths = "   ".join(f"{name}: {networks[name].path[-50:]}" for name in CHECKPOINTS)
    title = f"{paths}   {chosen['scored'].sum()} images"
    failing = [
        LABELS[method] for method, check in checking.by_method(checked, list(maps)).items() if check == "no"
    ]
    if failing:
        title += (
            f"\nMaps of {', '.join(failing)} FAIL their checks: their numbers may say nothing about the models"
        )
    return figures.pair(summary, list(SHOWN), examples, title=title, level=settings.level)


def panels(
    table: pd.DataFrame, pixels: np.ndarray, map_sets: Mapping[str, np.ndarray], chosen: pd.DataFrame
) -> list[dict]:
    """What `figures.examples` draws of one method: the images with the least, the median and the most drift.

    Args:
        table: the method's rows. pixels: uint8 [n, side, side], map_sets: raw maps by model, both in the order of
            `chosen` (`images.select`).
    """
    found = pictures.examples(table.assign(label=LABELS[table["method"].iloc[0]]), PRIMARY)
    rows = pd.Index(chosen["image_id"]).get_indexer(found["image_id"])
    if not len(rows):
        return []
    map_sets = {name: map_sets[name][rows] for name in CHECKPOINTS}
    return pictures.panels(found, pixels[rows], map_sets["A"], map_sets["B"], metric=PRIMARY)


def judge(run: tracking.Run, values: Mapping[str, float], settings: DriftParams) -> None:
    """Log the gates' results (`gates.json`, tags `cxr.gate.<number>`), and print them.

    Args: values: `measured`.
    """
    results = gates.judge([gates.parse(expression) for expression in settings.gate], values)
    run.json(results, "gates.json")
    lines = [gates.line(result) for result in results]
    run.tags({f"cxr.gate.{number}": line for number, line in enumerate(lines, 1)})
    for line in lines:
        print(line)
