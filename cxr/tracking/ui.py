"""What the MLflow UI shows beside numbers: descriptions and data sets."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag

from cxr.tracking import descriptions, views
from cxr.tracking.connection import active_run_id
from cxr.tracking.names import key_of
from cxr.tracking.source import sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from cxr.tracking.artifacts import new_file
from cxr.tracking.connection import mlflow_client

_NOTE = "mlflow.note.content"  # the description of a run or an experiment, in Markdown


_DESCRIBED = "cxr.description_sha256"  # of the description that was written here: a person's own is left alone


_FIGURE_PIXELS = 800  # the UI shows a picture in its own size, in a column about so wide


def describe(text: str, *, figure: Figure | None = None) -> None:
    """Give this notebook's run its description (Markdown, `cxr.tracking.descriptions`), with a figure below it.

    The figure is logged as `overview.png`, small enough for the column that the UI shows it in.
    """
    run_id = active_run_id()
    if figure is not None:
        with new_file(descriptions.FIGURE) as path:
            figure.savefig(path, bbox_inches="tight", dpi=min(100, _FIGURE_PIXELS / figure.get_size_inches()[0]))
        text += "\n\n" + descriptions.image(run_id)
    describe_run(run_id, text)


def describe_run(run_id: str, text: str) -> None:
    """Give any run its description, unless a person has written another there."""
    _describe(mlflow_client().get_run(run_id).data.tags, text, functools.partial(mlflow_client().set_tag, run_id))


def describe_experiment(experiment: str, text: str, *, methods: Sequence[str], classes: Sequence[str]) -> None:
    """Give an experiment its description, unless a person has written another, and its views (`views`)."""
    client = mlflow_client()
    found = client.get_experiment_by_name(experiment)
    set_tag = functools.partial(client.set_experiment_tag, found.experiment_id)
    for key, value in views.tags(methods, [key_of(name) for name in classes]).items():
        if found.tags.get(key) != value:
            set_tag(key, value)
    _describe(found.tags, text, set_tag)


def _describe(tags: Mapping[str, str], text: str, set_tag: Callable[[str, str], Any]) -> None:
    before = tags.get(_NOTE, "")
    if before and sha256(before) != tags.get(_DESCRIBED):
        return
    set_tag(_DESCRIBED, sha256(text))
    set_tag(_NOTE, text)


def log_dataset(
    name: str, digest: str, *, source: str, columns: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Log the data set of a train run as MLflow's own entities: what it is trained on, and its test split.

    Two entities, as MLflow keeps one role of a data set in a run.

    Args:
        name: of the data set, such as "phantom" or the folder's.
        digest: the manifest's hash; its beginning is enough to tell it by, and is shown beside the name.
        source: where it is; a path or a word, never read.
        columns: of the manifest.
        counts: split to {class: images}.
    """
    roles = {
        "training": (name, {split: counts[split] for split in counts if split != "test"}),
        "evaluation": (f"{name}, test split", {split: counts[split] for split in counts if split == "test"}),
    }
    schema = json.dumps({"mlflow_colspec": [{"name": column, "type": "string"} for column in columns]})
    datasets = []
    for role, (called, own) in roles.items():
        total = sum(sum(of.values()) for of in own.values())
        profile = json.dumps({"num_rows": total, "images_by_split_and_class": own})
        about = {
            "source_type": "local",
            "source": json.dumps({"uri": source}),
            "schema": schema,
            "profile": profile,
        }
        datasets.append((Dataset(called[:_MAX_DATASET_NAME], digest[:_DIGEST], **about), role))
    _log_datasets(datasets)


_MAX_DATASET_NAME, _DIGEST = 500, 12  # MLflow's limits are 500 and 36


def log_dataset_of(run_id: str) -> None:
    """Log the data set that a train run was evaluated on as one of this notebook's run too."""
    _log_datasets([(dataset, "evaluation") for dataset in evaluated_on(mlflow_client().get_run(run_id))])


def evaluated_on(run: mlflow.entities.Run) -> list[Dataset]:
    """Empty for a run of an older version."""
    found = run.inputs.dataset_inputs
    return [item.dataset for item in found if any(tag.value == "evaluation" for tag in item.tags)]


def _log_datasets(datasets: Sequence[tuple[Dataset, str]]) -> None:
    if datasets:
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", role)]) for dataset, role in datasets]
        mlflow_client().log_inputs(active_run_id(), datasets=inputs)
