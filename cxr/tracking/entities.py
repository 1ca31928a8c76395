"""What the MLflow UI shows beside numbers and files: descriptions, data sets, models and their registry."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow
import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from cxr.core.errors import first_line
from cxr.tracking import descriptions, views
from cxr.tracking.artifacts import log_text
from cxr.tracking.connection import StoreGone, active_run_id, key_of, mlflow_client, param_value
from cxr.tracking.source import sha256
from cxr.tracking.stored import stored

_NOTE = "mlflow.note.content"  # the description of a run or an experiment, in Markdown
_DESCRIBED = "cxr.description_sha256"  # of the description that was written here: a person's own is left alone
_MAX_DATASET_NAME, _DIGEST = 500, 12  # MLflow's limits are 500 and 36


def describe_run(run_id: str, text: str) -> None:
    """Give any run its description, unless a person has written another there."""
    _describe(mlflow_client().get_run(run_id).data.tags, text, functools.partial(mlflow_client().set_tag, run_id))


def describe_experiment(
    experiment: str, text: str, *, methods: Sequence[str], classes: Sequence[str], study: str = ""
) -> None:
    """Give an experiment its description, unless a person has written another, and its views (`views`).

    `study`: id of the run of the finished study whose runs the views show; empty: as before.
    """
    client = mlflow_client()
    found = client.get_experiment_by_name(experiment)
    set_tag = functools.partial(client.set_experiment_tag, found.experiment_id)
    study = study or found.tags.get(views.STUDY, "")
    wanted = views.tags(methods, [key_of(name) for name in classes], study=study)
    for key, value in (wanted | {views.STUDY: study}).items():
        if found.tags.get(key, "") != value:
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


def log_model(
    checkpoint: str,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    sha256: str,
    loadable: bool = False,
) -> None:
    """Log a checkpoint of this notebook's run as MLflow's own model entity; its file is logged before.

    The entity says what the model is and points to `checkpoints/<checkpoint>.keras` of the run: weights are kept
    once.

    Args:
        checkpoint: "before" or "after".
        params: to tell it by: architecture, seed, ...
        metrics: of this model on the test set; they become `model/<name>`, one column for both models of a run.
        sha256: of its file.
        loadable: whether `mlflow.keras` loads this one from "runs:/<run id>/checkpoints". One a run.
    """
    run_id = active_run_id()
    client = mlflow_client()
    run = client.get_run(run_id)
    if loadable:
        log_text(run_id, _mlmodel(checkpoint, run_id), "checkpoints/MLmodel")
    where = f"runs:/{run_id}/checkpoints/{checkpoint}.keras"
    # external: MLflow then does not look for files of its own
    tags = {
        "cxr.stage": checkpoint,
        "cxr.checkpoint": where,
        "cxr.sha256": sha256,
        "mlflow.model.isExternal": "true",
    }
    model = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(r"""[/:.%"']""", "_", f"{params['architecture']}-s{params['seed']}-{checkpoint}"),  # refused
        source_run_id=run_id,
        tags=tags,
        params={key: param_value(value) for key, value in params.items()},
        model_type="keras",
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    now = int(time.time() * 1000)
    known = evaluated_on(run)[:1]
    of = {"dataset_name": known[0].name, "dataset_digest": known[0].digest} if known else {}
    values = [
        Metric(f"model/{key_of(key)}", float(value), now, 0, model_id=model.model_id, run_id=run_id, **of)
        for key, value in metrics.items()
        if math.isfinite(value)
    ]
    client.log_batch(run_id, metrics=values)


def _mlmodel(checkpoint: str, run_id: str) -> str:
    """The file by which `mlflow.keras.load_model` finds `<checkpoint>.keras` in its own folder."""
    flavour = {
        "data": checkpoint,
        "keras_version": importlib.metadata.version("keras"),
        "keras_backend": "tensorflow",
    }
    return yaml.safe_dump(
        {
            "artifact_path": "checkpoints",
            "flavors": {"keras": {**flavour, "save_exported_model": False}},
            "mlflow_version": mlflow.__version__,
            "run_id": run_id,
        }
    )


def model_name(experiment: str, architecture: str) -> str:
    """The name of the registered model of an architecture; MLflow refuses `/` and `:` in it."""
    return re.sub(r"[/:]", "_", f"{experiment}.{architecture}")


def register(*, architecture: str, seed: Any, weights: str, data: str) -> None:
    """Register the fine-tuned model of this notebook's train run: one version a training, once.

    A store without a registry, or one in which this user may not write, is said in one line and is no error.
    """
    run = stored(active_run_id())
    name = model_name(run.experiment_name, architecture)
    client = mlflow_client()
    with _registry():
        if _versions_of(run.run_id):
            return
        try:
            about = descriptions.model(architecture, experiment=run.experiment_name)
            client.create_registered_model(name, tags={"cxr.experiment": run.experiment_name}, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=f"runs:/{run.run_id}/checkpoints",
            run_id=run.run_id,
            tags={"architecture": architecture, "seed": str(seed), "weights": weights},
            description=descriptions.model_version(
                architecture, seed, experiment_id=run.experiment_id, train_run=run.run_id, data=data
            ),
        )
        client.set_registered_model_alias(name, f"s{seed}", version.version)
        for output in client.get_run(run.run_id).outputs.model_outputs:
            if client.get_logged_model(output.model_id).tags.get("cxr.stage") == "after":
                # a server sets this tag itself where it is told of the model, but then it wants the weights there
                registered = json.dumps([{"name": name, "version": version.version}])
                client.set_logged_model_tags(output.model_id, {"mlflow.modelVersions": registered})
        print(f"registered: models:/{name}/{version.version}, also models:/{name}@s{seed}")


def tag_model(train_run: str, tags: Mapping[str, Any]) -> None:
    """Set tags of the registered model of a train run, if there is one (see `register`). NaN is left out."""
    client = mlflow_client()
    with _registry():
        for version in _versions_of(train_run):
            for key, value in tags.items():
                if not (isinstance(value, float) and math.isnan(value)):
                    text = f"{value:.4f}" if isinstance(value, float) else str(value)
                    client.set_model_version_tag(version.name, version.version, key, text)


def _versions_of(train_run: str) -> list[Any]:
    return list(mlflow_client().search_model_versions(f"run_id = '{train_run}'"))


@contextmanager
def _registry() -> Iterator[None]:
    try:
        yield
    except StoreGone:
        raise
    except (MlflowException, NotImplementedError) as error:
        print(f"not registered as a model, which nothing depends on: {first_line(error, most=200)}")
