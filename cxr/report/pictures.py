"""Which images a report shows: examples chosen by rule, with their thumbnails and maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr.attribution import maps
from cxr.attribution.thumbnails import thumbnails
from cxr.metrics.map_grids import prepare
from cxr.metrics.metric_table import sign_of_stability

if TYPE_CHECKING:
    from cxr.report.scores import Study

RULES = ("least drift", "median drift", "most drift")


def examples(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """For each class the images with the least, the median and the most drift.

    Args:
        scores: per-image rows of ONE score run: image_id, label, and `metric`.
        metric: one with a direction of stability.

    Returns: label, rule (`RULES`), image_id, value: three rows a class, in the order of the classes. Of equal
        values the lower id comes first. The median is the lower of two middle ones. Images with an empty map are
        left out, and so are classes with no other image.
    Raises: InputError for a metric without a direction.
    """
    sign = sign_of_stability(metric)
    rows = []
    for label, table in scores.dropna(subset=[metric]).groupby("label"):
        drift = -sign * table[metric]
        table = table.assign(drift=drift).sort_values(["drift", "image_id"])
        for rule, place in zip(RULES, (0, (len(table) - 1) // 2, len(table) - 1), strict=True):
            row = table.iloc[place]
            rows.append({"label": label, "rule": rule, "image_id": row["image_id"], "value": row[metric]})
    return pd.DataFrame(rows, columns=["label", "rule", "image_id", "value"])


def panels(
    chosen: pd.DataFrame, images: np.ndarray, before: np.ndarray, after: np.ndarray, *, metric: str
) -> list[dict]:
    """What `cxr.report.figures.examples` draws: a dict an example, in the order of `examples`' rows.

    Args:
        chosen: `examples`. images: uint8 [n, side, side]. before, after: raw maps [n, h, w] of the same
            rows.
    """
    prepared = [prepare(map_set, images.shape[1]) for map_set in (before, after)]
    return [
        {
            "class": row.label,
            "rule": row.rule,
            "image": images[number],
            "before": prepared[0][number],
            "after": prepared[1][number],
            "text": f"{row.image_id[-32:]}: {metric} {row.value:.2f}",
        }
        for number, row in enumerate(chosen.itertuples())
    ]


def of_study(study: Study, metric: str) -> Iterator[tuple[Any, list[dict]]]:
    """The examples of every architecture and method under the study's first seed.

    Yields a row of `Study.runs` (architecture, method, seed, ...) and its `panels`.
    """
    first = study.runs["seed"].astype(int).min()
    for row in study.runs[study.runs["seed"].astype(int) == first].itertuples():
        rows = study.rows_of(row.architecture, row.method)
        chosen = examples(rows[rows["seed"] == first], metric)
        ids = chosen["image_id"].to_numpy()
        before, after = (
            maps.take(study.maps_of(row.attribute_run, row.method, checkpoint), ids).maps
            for checkpoint in ("before", "after")
        )
        small = thumbnails(study.attribute_runs[row.attribute_run].file("thumbnails.npz"), ids)
        yield row, panels(chosen, small, before, after, metric=metric)
