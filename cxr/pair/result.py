"""The result of a comparison: a table per method, the summary in words, the figure, and the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.core import tables
from cxr.core.methods import LABELS, SCORE_LABELS
from cxr.core.params import DriftParams
from cxr.metrics import metric_table
from cxr.pair import gates, models
from cxr.pair.compare import LEVELS, by_method
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
    performances: Mapping[str, float],
    settings: DriftParams,
    *,
    notes: Sequence[str] = (),
) -> str:
    """What the command prints: the models, the images, a table per method, missing baselines, and `notes`."""
    lines = []
    for name, model in networks.items():
        known = [
            f"{words} {performances[f'{metric}_{CHECKPOINTS[name]}']:.3f}"
            for metric, words in (("accuracy", "accuracy"), ("auc_macro", "AUC"))
            if name in CHECKPOINTS and f"{metric}_{CHECKPOINTS[name]}" in performances
        ]
        adapted = model.network.adapted
        known += [f"{model.size} px, preprocessing {adapted.preprocessing}: {adapted.preprocessing_why}"]
        lines.append(f"{name:2}  {model.path} (sha256 {model.sha256[:12]}): {', '.join(known)}")
    lines.append(_which_images(chosen, settings))
    for method, summary in summaries.items():
        table = overview(summary)
        shown = tables.readable(table).rename(columns={"value": f"median [{settings.level:.0%} interval]"})
        a, b = networks["A"], networks["B"]
        where = f"{a.layer} ({a.grid})" + ("" if a.layer == b.layer else f" and {b.layer} ({b.grid})")
        lines += ["", f"{LABELS[method]} at {where}", tables.text(shown)]
        empty = [f"{name} {summary[f'n_empty_{checkpoint}']:.0f}" for name, checkpoint in CHECKPOINTS.items()]
        lines.append(f"empty maps (excluded from medians): {summary['n_empty']:.0f} images ({', '.join(empty)})")
    missing = [
        f"no baseline '{_SHOWN_LEVELS[level]}': add --like-{model.lower()} {model}2.keras: {model}, trained again "
        "with another seed"
        for model, level in LEVELS.items()
        if f"{model}2" not in networks
    ]
    last = [*missing, *(f"CAUTION: {note}" for note in notes)]
    return "\n".join([*lines, *([""] if last else []), *last])


def _which_images(chosen: pd.DataFrame, settings: DriftParams) -> str:
    scored = chosen[chosen["scored"]]
    labelled = "label" in chosen
    explain = settings.explain if settings.explain != "auto" else "true" if labelled else "predicted"
    what = "the true class" if explain == "true" else f"what {'B' if explain == 'predicted' else 'A'} predicts"
    by_image = (chosen["patient_id"] == chosen["image_id"]).all()
    patients = "each treated as a separate patient" if by_image else f"{scored['patient_id'].nunique()} patients"
    return (
        f"explained: {what} ({SCORE_LABELS[settings.score]}), on {len(scored)} of {len(chosen)} images "
        f"({patients}); both models predict {'the true class' if labelled else 'it'} of "
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
) -> Figure:
    """Medians with their baselines above; below, for each method, the images with the least, the median and the
    most drift.

    Args: table: `score_methods`. summaries: `summarise_methods`. maps: `explain`. The others as for `explain`.
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


def judge(run: tracking.Run, measured: Mapping[str, float], settings: DriftParams) -> None:
    """Log the gates' results (`gates.json`, tags `cxr.gate.<number>`), and print them.

    Args: measured: `compare.metrics`.
    """
    results = gates.judge([gates.parse(expression) for expression in settings.gate], measured)
    run.json(results, "gates.json")
    lines = [gates.line(result) for result in results]
    run.tags({f"cxr.gate.{number}": line for number, line in enumerate(lines, 1)})
    for line in lines:
        print(line)
