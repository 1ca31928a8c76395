"""Which images a report shows: examples chosen by rule, with their thumbnails and maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr.attribution import maps
from cxr.attribution.thumbnails import thumbnails
from cxr.metrics.map_grids import prepare
from cxr.metrics.metric_table import sign_of_stability
from cxr.report import comparison

if TYPE_CHECKING:
    from cxr.report.scores import Study


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a study with its maps, as `cxr.report.figures.first_picture` draws it."""

    architecture: str
    method: str
    seed: int
    image_id: str
    label: str
    overlap: float
    map_check: str  # whether the cell's maps pass their checks: "yes", "no" or "not checked"
    image: np.ndarray  # uint8 [side, side]
    before: np.ndarray  # float32 [side, side], as `map_grids.prepare` gives it
    after: np.ndarray


def median_image(study: Study, metric: str, checks: pd.DataFrame) -> Panel | None:
    """The image that stands for a study, chosen by rule.

    The cell is the first network and method whose maps pass their checks, in the order of the study; where none
    do, the first. The image is the one whose value of `metric` is nearest the cell's median (the mean of the
    seeds' medians); of equally near ones the lower id, then the lower seed.

    Args:
        study: of `cxr.report.scores.open`. metric: a column of its scores. checks: `Study.checks_over_seeds`.

    Returns: the image with its maps, or None where every image of the cell has an empty map.
    """
    cells = [(*names, comparison.map_check(checks, *names)) for *names, _ in study.cells()]
    architecture, method, passes = next((cell for cell in cells if cell[2] == "yes"), cells[0])
    rows = study.rows_of(architecture, method).dropna(subset=[metric])
    if rows.empty:
        return None
    median = rows.groupby("seed")[metric].median().mean()
    rows = rows.assign(off=(rows[metric] - median).abs()).sort_values(["off", "image_id", "seed"])
    chosen = rows.iloc[0]
    of_seed = study.runs["seed"].astype(int) == chosen["seed"]
    own = (study.runs["architecture"] == architecture) & (study.runs["method"] == method) & of_seed
    attribute_run = study.runs.loc[own, "attribute_run"].iloc[0]
    ids = np.array([chosen["image_id"]])
    image = thumbnails(study.attribute_runs[attribute_run].file("thumbnails.npz"), ids)[0]
    before, after = (
        prepare(maps.take(study.maps_of(attribute_run, method, checkpoint), ids).maps, image.shape)[0]
        for checkpoint in ("before", "after")
    )
    return Panel(
        architecture=architecture,
        method=method,
        seed=int(chosen["seed"]),
        image_id=chosen["image_id"],
        label=chosen["label"],
        overlap=float(chosen["overlap"]),
        map_check=passes,
        image=image,
        before=before,
        after=after,
    )


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
            "text": f"{_short(row.image_id)}: {metric.replace('_', ' ')} {row.value:.2f}",
        }
        for number, row in enumerate(chosen.itertuples())
    ]


def _short(image_id: str) -> str:
    """The end of an image's id, without its folder: at most 16 characters, so that it fits above its pictures."""
    name = image_id.rsplit("/")[-1]
    return name if len(name) <= 16 else f"…{name[-15:]}"


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
