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
from cxr.tracking import readable

STUDY = "cxr.study"
"""The tag of a run that says of which finished study's grid it is: the id of that study's run, the latest one."""
_PREFIX = "mlflow.sharedViewState."

KEYS = {
    "scores": ("cxr-scores", "overlap beside its baselines and AUC, by network and method, one row a seed"),
    "charts": ("cxr-means", "the same as charts: one bar a network and method, the mean over seeds"),
    "training": ("cxr-training", "AUC, calibration and duration of each training, losses as charts"),
    "maps": ("cxr-maps", "image, map before, map after and their difference, side by side"),
    "studies": ("cxr-studies", "the answer of each study of this name"),
}
"""The views: {name: (key, what it shows)}."""
_AS_CHARTS = ("charts", "maps")

# MLflow's own sections of charts, which have to be there. It puts a chart of every other metric into the first.
_OTHERS = ("Model metrics", "System metrics")
_RUN_NAME = "tags.`mlflow.runName`"
_MOST_RUNS = 20  # that a chart shows


def tags(methods: Sequence[str] = (), classes: Sequence[str] = (), *, study: str = "") -> dict[str, str]:
    """The experiment's tags that hold all views.

    Args:
        methods, classes: of the study, in the order in which their maps are shown; without them, as MLflow does.
        study: id of the run of the study whose runs the views show, those with the tag `STUDY` of this value. A
            notebook that was run by hand beside the study is then in none. Empty (no study has ended): all
            finished runs.
    """
    states = {
        "scores": _scores(study),
        "charts": _charts(study),
        "training": _training(study),
        "maps": _maps(methods, classes, study),
        "studies": _studies(),
    }
    return {
        f"{_PREFIX}{KEYS[name][0]}": _envelope(name, state, number)
        for number, (name, state) in enumerate(states.items())
    }


def has(experiment_tags: Mapping[str, str]) -> bool:
    """Whether an experiment has these views."""
    return f"{_PREFIX}{KEYS['scores'][0]}" in experiment_tags


def address(experiment_id: str, name: str) -> str:
    """Where the UI shows a view, relative to the server's address: as charts, or as a table."""
    mode = "&compareRunsMode=CHART" if name in _AS_CHARTS else ""
    # without the second, a new user is met by what MLflow has for language models
    return (
        f"#/experiments/{experiment_id}/runs?viewStateShareKey={KEYS[name][0]}&workflowType=machine_learning{mode}"
    )


# ------------------------------------------------------------------------------------------------- the views


def _scores(study: str) -> dict[str, Any]:
    names = (readable.CHECKS, "overlap", "two patients", "two seeds", "AUC before", "AUC after")
    columns = [f"tags.{name}" for name in (*names, "corrected overlap", "images")]
    charts = [
        _bar("Drift", "overlap_median"),
        _bar("Drift", "overlap_two_patients_median"),
        _bar("Drift", "overlap_corrected_median"),
        _bar("Drift", "centroid_shift_median"),
        _bar("Accuracy", "auc_macro_before"),
        _bar("Accuracy", "auc_macro_after"),
    ]
    keys = [{"mode": "tag", "groupByData": readable.CELL}]
    group = {"groupBy": {"aggregateFunction": "average", "groupByKeys": keys}}
    return {**_state(_of("score", study), columns=columns, charts=charts, cards=1, height=340), **group}


def _charts(study: str) -> dict[str, Any]:
    return {**_scores(study), "runListHidden": True}  # room for the names of the bars


def _training(study: str) -> dict[str, Any]:
    numbers = ("AUC before", "AUC after", "accuracy after", "calibration error after", "seconds")
    columns = [
        *(f"tags.{name}" for name in numbers),
        *("tags.weights", "attributes.Dataset", "attributes.Models"),
    ]
    charts = [
        _line("Curves", "transfer/val_loss", "transfer: validation loss by epoch"),
        _line("Curves", "fine_tuning/val_loss", "fine-tuning: validation loss by epoch"),
        _line("Curves", "course/auc_macro", "AUC on the test set, in the course of fine-tuning"),
        _bar("At the end", "auc_macro_before"),
        _bar("At the end", "auc_macro_after"),
        _bar("At the end", "seconds_fine_tuning"),
    ]
    return _state(_of("train", study), columns=columns, charts=charts)


def _maps(methods: Sequence[str], classes: Sequence[str], study: str) -> dict[str, Any]:
    columns = [
        *("params.architecture", "params.seed", "params.layer", "params.grid"),
        *("metrics.n_images", "metrics.n_candidates"),
    ]
    charts = [_images(method, f"{method}/{name}") for method in methods for name in classes]
    # two large cards a row: each has image, both maps and their difference
    return _state(_of("attribute", study), columns=columns, charts=charts, cards=2, height=620)


def _studies() -> dict[str, Any]:
    stages = ("pretrain", "train", "attribute", "score", "compare")
    others = " AND ".join(f"tags.`cxr.stage` != '{stage}'" for stage in stages)  # there is no OR
    columns = ["tags.cxr.answer", "tags.data", "params.image_size", "tags.weights"]
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


def _of(stage: str, study: str) -> str:
    which = f"tags.`{STUDY}` = '{study}'" if study else f"tags.`cxr.schema` = '{SCHEMA}'"
    return f"{which} AND tags.`cxr.stage` = '{stage}' AND attributes.status = 'FINISHED'"


_WIDTHS = {
    **{readable.CHECKS: 95, "overlap": 130, "two patients": 100, "two seeds": 85, "corrected overlap": 140},
    **{"Dataset": 220, "Models": 260, "cxr.answer": 700, "data": 220},
}


def _columns(names: Sequence[str]) -> dict[str, Any]:
    """Which columns are shown, in which order, wide enough for the runs' names and their own."""
    own = {_quoted(name): name.partition(".")[2] for name in names}
    widths = {column: _WIDTHS.get(name, max(90, 30 + 7 * len(name))) for column, name in own.items()}
    first = {"attributes.`Run Name`": 290, "runDateAndNestInfo": 48}  # the second: status, and when it began
    return {
        "selectedColumns": list(own),
        "columnOrder": [*first, *own],
        "columnWidths": first | widths,
    }


def _quoted(column: str) -> str:
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"


def _chart(kind: str, section: str, title: str, **options: Any) -> dict[str, Any]:
    about = {"uuid": f"{section} {title}", "type": kind, "metricSectionId": section, "displayName": title}
    return {**about, "deleted": False, "isGenerated": False, "runsCountToCompare": _MOST_RUNS, **options}


def _bar(section: str, metric: str) -> dict[str, Any]:
    return _chart("BAR", section, metric, metricKey=metric)  # the UI writes the metric's name over it in any case


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


def _envelope(name: str, state: dict[str, Any], number: int) -> str:
    # The menu shows the newest first. Fixed moments keep the order, and a tag that is set again as it was.
    moment = 1_700_000_000_000 - number
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": moment, "updatedAt": moment, "state": f"deflate;{packed}"})
