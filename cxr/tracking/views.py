"""Views of an experiment in the MLflow UI: the columns, filters and charts with which it opens.

MLflow 3.17 keeps the views of its *Views* menu as tags of the experiment, `mlflow.sharedViewState.<key>`, and
opens one at the address `#/experiments/<id>/runs?viewStateShareKey=<key>`. The tag's value is JSON: `name`,
`createdAt`, `updatedAt` (milliseconds), and `state`: the state of the page as JSON again, or "deflate;" and the
zlib stream of that in base 64. The format is the UI's own, not documented, and read from its bundle;
`tests/test_notebooks.py` opens every view in a browser. A UI that does not know these tags ignores them.

Pure functions; `cxr.tracking` sets the tags.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr.core.params import SCHEMA

_PREFIX = "mlflow.sharedViewState."

KEYS = {
    "scores": ("cxr-scores", "drift beside its baselines, one row an architecture, method and seed"),
    "means": ("cxr-means", "the same, averaged over seeds"),
    "training": ("cxr-training", "losses, AUC and duration of both stages"),
    "maps": ("cxr-maps", "image, map before, map after and their difference, side by side"),
    "studies": ("cxr-studies", "studies and comparisons: verdicts, reports"),
}
"""The views: {name: (key, what it shows)}."""

# MLflow's own sections of charts, which have to be there. It puts a chart of every other metric into the first.
_OTHERS = ("Model metrics", "System metrics")
_RUN_NAME = "tags.`mlflow.runName`"
_MOST_RUNS = 20  # that a chart shows


def tags(methods: Sequence[str] = (), classes: Sequence[str] = ()) -> dict[str, str]:
    """The experiment's tags that hold all views.

    Args:
        methods, classes: of the study, in the order in which their maps are shown; without them, as MLflow does.
    """
    states = {
        "scores": _scores(),
        "means": _means(),
        "training": _training(),
        "maps": _maps(methods, classes),
        "studies": _studies(),
    }
    return {
        f"{_PREFIX}{KEYS[name][0]}": _envelope(name, state, number)
        for number, (name, state) in enumerate(states.items())
    }


def has(experiment_tags: Mapping[str, str]) -> bool:
    """Whether an experiment has these views."""
    return f"{_PREFIX}{KEYS['scores'][0]}" in experiment_tags


def address(experiment_id: str, name: str, *, charts: bool | None = None) -> str:
    """Where the UI shows a view, relative to the server's address: as charts, or as a table.

    Without `charts`, what the view is for: maps are pictures, and all others numbers.
    """
    key = KEYS[name][0]
    mode = "&compareRunsMode=CHART" if (name == "maps" if charts is None else charts) else ""
    # without the second, a new user is met by what MLflow has for language models
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning{mode}"


# ------------------------------------------------------------------------------------------------- the views


_NUMBERS = [
    *("auc_macro_before", "auc_macro_after", "overlap_median", "overlap_ci_low", "overlap_ci_high"),
    *(
        "overlap_two_patients_median",
        "overlap_two_heads_median",
        "overlap_corrected_median",
        "centroid_shift_median",
    ),
    *("n_images", "n_empty"),
]


def _scores() -> dict[str, Any]:
    columns = [f"metrics.{name}" for name in _NUMBERS]  # architecture, seed and method are the run's name
    charts = [
        _bar("Drift", "overlap_median", "overlap, median"),
        _bar("Drift", "overlap_corrected_median", "corrected overlap, median"),
        _bar("Drift", "centroid_shift_median", "centroid shift, of the diagonal"),
        _scatter("Drift", "auc_macro_after", "overlap_median"),
        _bar("Baselines", "overlap_two_patients_median", "overlap, two patients"),
        _bar("Baselines", "overlap_two_heads_median", "overlap, two heads"),
        _bar("Accuracy", "auc_macro_before", "AUC, before"),
        _bar("Accuracy", "auc_macro_after", "AUC, after"),
    ]
    return _state(_of("score"), columns=[*columns, "params.passes_checks"], charts=charts)


def _means() -> dict[str, Any]:
    keys = [{"mode": "param", "groupByData": name} for name in ("architecture", "method")]
    group = {"aggregateFunction": "average", "groupByKeys": keys}
    columns = [f"metrics.{name}" for name in _NUMBERS if "_ci_" not in name]  # a mean of intervals is none
    return {**_scores(), **_columns(columns, name_width=430), "groupBy": group}


def _training() -> dict[str, Any]:
    columns = [
        *("attributes.Dataset", "attributes.Models", "params.weights", "metrics.auc_macro_before"),
        *("metrics.auc_macro_after", "metrics.accuracy_after", "metrics.ece_after"),
        *("metrics.seconds_transfer", "metrics.seconds_fine_tuning"),
    ]
    charts = [
        _line("Curves", "transfer/val_loss", "transfer: validation loss by epoch"),
        _line("Curves", "fine_tuning/val_loss", "fine-tuning: validation loss by epoch"),
        _line("Curves", "course/auc_macro", "AUC on the test set, in the course of fine-tuning"),
        _bar("At the end", "auc_macro_before", "AUC, before"),
        _bar("At the end", "auc_macro_after", "AUC, after"),
        _bar("At the end", "seconds_fine_tuning", "seconds of fine-tuning"),
    ]
    return _state(_of("train"), columns=columns, charts=charts)


def _maps(methods: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    columns = [
        *("params.architecture", "params.seed", "params.layer", "params.grid"),
        *("metrics.n_images", "metrics.n_candidates"),
    ]
    charts = [_images(method, f"{method}/{name}") for method in methods for name in classes]
    # two large cards a row: each has image, both maps and their difference
    return _state(_of("attribute"), columns=columns, charts=charts, cards=2, height=620)


def _studies() -> dict[str, Any]:
    stages = ("pretrain", "train", "attribute", "score")
    others = " AND ".join(f"tags.`cxr.stage` != '{stage}'" for stage in stages)  # there is no OR
    columns = ["params.data", "params.image_size", "params.weights", "attributes.Description"]
    return _state(others, columns=columns)


# ------------------------------------------------------------------------------------------- MLflow's format


def _state(
    where: str,
    *,
    columns: Sequence[str],
    charts: Sequence[dict[str, Any]] = (),
    cards: int = 3,
    height: int = 360,
) -> dict[str, Any]:
    """The state of the runs page.

    Args:
        where: the filter.
        columns: of the table, such as "metrics.overlap_median".
        charts: in the order of their sections.
        cards, height: charts in a row, and pixels of each.
    """
    sections = list(dict.fromkeys(chart["metricSectionId"] for chart in charts))
    size = {"columns": cards, "cardHeight": height}
    return {
        "searchFilter": where,
        "orderByKey": _RUN_NAME,
        "orderByAsc": True,
        **_columns(columns),
        "compareRunCharts": list(charts),
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name not in _OTHERS, "isReordered": True, **size}
            for name in (*sections, *_OTHERS)
        ],
        "isAccordionReordered": True,  # or the sections would be put into alphabetical order
        "runsHiddenMode": f"FIRST_{_MOST_RUNS}_RUNS",
        "hideEmptyCharts": True,
    }


def _of(stage: str) -> str:
    return f"tags.`cxr.schema` = '{SCHEMA}' AND tags.`cxr.stage` = '{stage}' AND attributes.status = 'FINISHED'"


def _columns(names: Sequence[str], *, name_width: int = 300) -> dict[str, Any]:
    """Which columns are shown, in which order, wide enough for the runs' names and their own."""
    own = [_quoted(name) for name in names]
    widths = {
        column: max(90, 30 + 7 * len(name.partition(".")[2])) for column, name in zip(own, names, strict=True)
    }
    widths |= {"attributes.`Dataset`": 220, "attributes.`Models`": 260, "attributes.`Description`": 400}
    return {
        "selectedColumns": own,
        "columnOrder": ["attributes.`Run Name`", *own],
        "columnWidths": {"attributes.`Run Name`": name_width, **{column: widths[column] for column in own}},
    }


def _quoted(column: str) -> str:
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"


def _chart(kind: str, section: str, title: str, **options: Any) -> dict[str, Any]:
    about = {"uuid": f"{section} {title}", "type": kind, "metricSectionId": section, "displayName": title}
    return {**about, "deleted": False, "isGenerated": False, "runsCountToCompare": _MOST_RUNS, **options}


def _bar(section: str, metric: str, title: str) -> dict[str, Any]:
    return _chart("BAR", section, title, metricKey=metric)


def _line(section: str, metric: str, title: str) -> dict[str, Any]:
    axes = {
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "range": {},
    }
    shown = {
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
    keys = {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "yAxisExpressions": [],
        "selectedXAxisMetricKey": "",
    }
    return _chart("LINE", section, title, **keys, **axes, **shown)


def _images(section: str, key: str) -> dict[str, Any]:
    # without the parameters, which MLflow would write over each picture
    return _chart("IMAGE", section, key, imageKeys=[key], step=0, showRunParams=False)


def _scatter(section: str, x: str, y: str) -> dict[str, Any]:
    axes = {
        axis: {"key": key, "type": "METRIC", "dataAccessKey": key} for axis, key in (("xaxis", x), ("yaxis", y))
    }
    return _chart("SCATTER", section, f"{y} against {x}", **axes)


def _envelope(name: str, state: dict[str, Any], number: int) -> str:
    # The menu shows the newest first. Fixed moments keep the order, and a tag that is set again as it was.
    moment = 1_700_000_000_000 - number
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": moment, "updatedAt": moment, "state": f"deflate;{packed}"})
