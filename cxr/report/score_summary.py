"""What one score run says: its metrics, its summary, its description, and tags of the registered model."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from cxr import tracking
from cxr.core import tables
from cxr.metrics.metric_table import METRICS
from cxr.report import comparison, figures, headlines
from cxr.report.scoring import ScoredMaps
from cxr.tracking import descriptions

# What the tags of a registered model say of a method.
_ON_THE_MODEL = ("overlap_median", "overlap_corrected_median", "centroid_shift_median")


def metrics(summary: Mapping[str, float], where: pd.DataFrame, train: Mapping[str, float]) -> dict[str, float]:
    """All metrics of a score run, with the ones that a study prints first.

    Args:
        summary: `cxr.report.comparison.summarise` of the run's table.
        where: `cxr.metrics.regions.summary` of it.
        train: metrics of the train run.
    """
    located = {
        f"{row.region}_{part}": getattr(row, part)
        for row in where.itertuples()
        for part in ("area", "energy_before", "energy_after", "energy_change")
    }
    return headlines.headline_first({**summary, **performance(train), **located})


def performance(train: Mapping[str, float]) -> dict[str, float]:
    """Of the metrics of a train run, how well the two checkpoints classify."""
    return {
        key: value
        for key, value in train.items()
        if key.endswith(("_before", "_after")) and not key.startswith("seconds")
    }


def overview(summary: Mapping[str, float]) -> pd.DataFrame:
    """A row a metric: value for identical maps, median, quartiles, interval, and the median of each baseline."""
    levels = [name for name in comparison.LEVELS if f"overlap_{name}_median" in summary]
    rows = [
        {"metric": name, "identical maps": metric.identical}
        | {part: summary[f"{name}_{part}"] for part in comparison.PARTS}
        | {level: summary[f"{name}_{level}_median"] for level in levels}
        for name, metric in METRICS.items()
    ]
    return pd.DataFrame(rows)


def title(scored_maps: ScoredMaps) -> str:
    """Architecture, method and seed, for a figure."""
    cell = scored_maps.cell
    return f"{cell['architecture']}, {figures.METHOD_LABELS[cell['method']]}, seed {cell['seed']}"


def headline(scored_maps: ScoredMaps, summary: Mapping[str, float]) -> pd.DataFrame:
    """The numbers that a study prints, as text for people: one row."""
    values = {**scored_maps.cell, **summary, **performance(scored_maps.train.metrics)}
    return tables.readable(headlines.headline_of_one(values))


def publish(run: tracking.Run, scored_maps: ScoredMaps, summary: Mapping[str, float], *, figure: Figure) -> None:
    """Make the run readable in the MLflow UI.

    Logs the data set of the train run, writes the description with `figure` below it, and tags the registered
    model of the train run with the medians of this method.
    """
    attribute, train = scored_maps.attribute, scored_maps.train
    tracking.log_dataset_of(train.run_id)
    text = descriptions.score(
        scored_maps.cell,
        {**summary, **performance(scored_maps.train.metrics)},
        data=train.params["data"],
        links=[train.link, attribute.link],
        caution=scored_maps.caution,
    )
    run.describe(text, figure=figure)
    tags = {**{key: summary[key] for key in _ON_THE_MODEL if key in summary}, "score_run": run.run_id}
    tracking.tag_model(train.run_id, {f"{scored_maps.method}.{key}": value for key, value in tags.items()})
