"""Two models compared: the maps of both, their drift and its baselines, and the summary.

Columns and metrics have the names that a study's score runs have: *before* is model A and *after* is model B
(`overlap_median`, `auc_macro_before`, `empty_after`, ...). The notebook `3_score` computes them in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.core import arrays
from cxr.core.methods import cams
from cxr.core.params import DriftParams
from cxr.core.progress import progress
from cxr.data import manifest as data_manifest
from cxr.data import multi_label
from cxr.metrics import baselines, metric_table, similarity
from cxr.pair import gates, images, models
from cxr.pair.models import CHECKPOINTS, Model
from cxr.report import comparison

LEVELS = {"A": "two_heads", "B": "two_seeds"}
"""The baseline that further models give, by the model that they are like."""


def start(settings: DriftParams, manifest: pd.DataFrame) -> tracking.Run:
    """Open the run of a comparison, and log the hashes of the models and the manifest.

    What needs no computing is checked first: the models' files and the metrics of the gates.

    Args: manifest: `images.find`.
    Raises: InputError: a file is not a whole Keras model, or a gate names no metric that will be measured.
    """
    files = models.files(settings)
    train = models.training(settings.train_run_id) if settings.train_run_id else None
    gates.check([gates.parse(text) for text in settings.gate], metric_names(settings, manifest))
    hashes = {name: models.sha256(path) for name, path in files.items()}
    run = tracking.start(
        "drift",
        settings,
        name=f"drift {models.label(files)}",
        reads=[train] if train else [],
        inputs={
            "manifest": data_manifest.manifest_hash(manifest),
            **({} if train else {f"model_{name}": value for name, value in hashes.items()}),
            **({"module": models.sha256(settings.module)} if settings.module else {}),
        },
        params={
            "architecture": train.params["architecture"] if train else models.label(files),
            **({"train_run": train.run_id, "train_seed": train.params["seed"]} if train else {}),
            **{f"checkpoint_sha256_{checkpoint}": hashes[name] for name, checkpoint in CHECKPOINTS.items()},
        },
    )
    path = tracking.scratch() / "manifest.csv"
    data_manifest.write_manifest(manifest, path)
    run.file(path)
    return run


def cell(settings: DriftParams) -> dict[str, str | int]:
    """What names the pair in the table: architecture and seed. Of a train run these are its own; else the names of
    both files, and the seed of the draws."""
    if settings.train_run_id:
        run = models.training(settings.train_run_id)
        return {"architecture": run.params["architecture"], "seed": int(run.params["seed"])}
    return {"architecture": models.label(models.files(settings)), "seed": settings.seed}


@dataclass(frozen=True)
class Seen:
    """The maps that came with a model's predictions: of each image for one class."""

    image_id: np.ndarray  # str [n]
    class_index: np.ndarray  # int [n]
    maps: dict[str, np.ndarray]  # by method: raw maps float32 [n, h, w]


def predict(
    networks: Mapping[str, Model],
    pixels: Mapping[int, np.ndarray],
    manifest: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
) -> tuple[dict[str, np.ndarray], dict[str, Seen]]:
    """What A and B say of the images: probabilities float32 [n, n_classes] by the model's name, and maps.

    A pass that explains an image predicts for it too. So the class that `images.select` will choose is explained
    at once, which saves a pass over all images. `explain` computes what lacks. There are no maps where an image
    has several findings, or a method is no CAM.

    Args: pixels: `images.load`, in the order of the manifest.
    """
    from cxr.attribution import explaining
    from cxr.training import stages

    said, seen = {}, {}
    if multi_label.columns(manifest) or cams(settings.method) != settings.method:
        for name in CHECKPOINTS:
            with models.ready(networks, name) as network:
                said[name] = stages.predict(network, pixels[networks[name].size], settings.batch_size)
        return said, seen
    order = list(CHECKPOINTS)
    class_index = None
    if images.explained(settings.explain, manifest) == "true" and images.is_labelled(manifest):
        class_index = data_manifest.class_index(manifest["label"], classes)
    elif settings.explain != "predicted_a":
        order.reverse()  # B predicts the class, which A is explained for too
    for name in order:
        model = networks[name]
        with models.ready(networks, name) as network:
            said[name], maps = explaining.predict_and_attribute(
                network, pixels[model.size], class_index, layer=model.layer,
                label=f"predictions and maps of {name}", **_options(settings),
            )  # fmt: skip
        class_index = said[name].argmax(axis=1) if class_index is None else class_index
        seen[name] = Seen(manifest["image_id"].to_numpy(str), class_index, maps)
    return {name: said[name] for name in CHECKPOINTS}, seen


def explain(
    networks: Mapping[str, Model],
    pixels: Mapping[int, np.ndarray],
    chosen: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
    *,
    seen: Mapping[str, Seen] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """The maps of all images by all models: raw maps float32 [n, h, w] by method, then by the model's name.

    Images that are not scored get maps too: a map is empty or not in comparison with all others.

    Args:
        pixels: `images.load`. chosen: `images.select`, with the class explained; both have the same order.
        seen: maps that are there already (`predict`); those for another class than `chosen` has are not taken.
    """
    from cxr.attribution import explaining

    class_index = data_manifest.class_index(chosen["explained"], classes)
    found = {}
    for name, model in networks.items():
        maps, lacking = _taken((seen or {}).get(name), chosen, class_index)
        if len(lacking):
            with models.ready(networks, name) as network:
                made = explaining.attribute(
                    network, arrays.Subset(pixels[model.size], lacking), class_index[lacking], layer=model.layer,
                    label=f"maps of {name}", **_options(settings),
                )  # fmt: skip
            for method, values in made.items():
                maps.setdefault(method, np.zeros((len(chosen), *values.shape[1:]), np.float32))[lacking] = values
        found[name] = maps
    return {method: {name: maps[method] for name, maps in found.items()} for method in settings.method}


def _options(settings: DriftParams) -> dict[str, Any]:
    return {"methods": settings.method, "score": settings.score, "batch_size": settings.batch_size}


def _taken(
    seen: Seen | None, chosen: pd.DataFrame, class_index: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The maps of `chosen` that are there, with any values for the others; and the rows of the others."""
    if seen is None:
        return {}, np.arange(len(chosen))
    rows = pd.Index(seen.image_id).get_indexer(chosen["image_id"])
    lacking = (rows < 0) | (seen.class_index[rows] != class_index)
    return {method: maps[rows] for method, maps in seen.maps.items()}, np.flatnonzero(lacking)


def score(
    map_sets: Mapping[str, np.ndarray],
    chosen: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
    *,
    size: int,
) -> dict[str, np.ndarray]:
    """Every metric of every scored image, with its baselines, as `3_score` computes them.

    Args:
        map_sets: raw maps float32 [n, h, w] of each model by one method, in the order of `chosen`.
        chosen: `images.select`.
        size: the side of the grid, in pixels, on which maps are compared.

    Returns: `similarity.compare_maps` and `baselines.baselines` of A and B over the scored images, and
        `<metric>_two_heads` if there are models like A, `<metric>_two_seeds` if there are models like B.
    """
    counts = chosen["scored"].to_numpy()
    progress(f"scoring {counts.sum()} pairs of maps")
    # All images are compared, then the scored ones kept: a map is empty in comparison with all others.
    values = {
        key: value[counts]
        for key, value in similarity.compare_maps(map_sets["A"], map_sets["B"], size=size).items()
    }
    scored = {name: map_set[counts] for name, map_set in map_sets.items()}
    values |= baselines.baselines(
        scored["A"],
        scored["B"],
        data_manifest.class_index(chosen.loc[counts, "explained"], classes),
        chosen.loc[counts, "patient_id"].to_numpy(),
        size=size,
        draws=settings.baseline_draws,
        rng_seed=settings.seed,
    )
    for name, level in LEVELS.items():
        others = [map_set for key, map_set in scored.items() if key != name and key.startswith(name)]
        if others:
            found = baselines.two_heads(scored[name], others, size=size)
            values |= {key.replace("_two_heads", f"_{level}"): value for key, value in found.items()}
    return values


def score_methods(
    maps: Mapping[str, Mapping[str, np.ndarray]],
    networks: Mapping[str, Model],
    chosen: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
) -> pd.DataFrame:
    """The table of all results: a row per method and scored image (`score`, `comparison.score_table`).

    Args: maps: `explain`. The others as for `score`.
    """
    size = models.common_size(networks)
    scored = chosen[chosen["scored"]].reset_index(drop=True)
    own = cell(settings)
    parts = [
        comparison.score_table(score(map_sets, chosen, classes, settings, size=size), scored, **own, method=method)
        for method, map_sets in maps.items()
    ]
    return pd.concat(parts, ignore_index=True)


def summarise(table: pd.DataFrame, settings: DriftParams) -> dict[str, float]:
    """The summary of one method's rows: `comparison.summarise`, and with models like B also
    `<metric>_share_of_two_seeds`, as `cxr.report.comparison.pooled` has it:
    (overlap - two patients) / (two seeds - two patients)."""
    options = {"level": settings.level, "n_boot": settings.n_boot, "rng_seed": settings.seed}
    found = comparison.summarise(table, **options)
    return found | comparison.shares_of_two_seeds(found)


def summarise_methods(table: pd.DataFrame, settings: DriftParams) -> dict[str, dict[str, float]]:
    """`summarise` of each method in the table of `score_methods`, by method."""
    return {method: summarise(rows, settings) for method, rows in by_method(table).items()}


def by_method(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each method, in the order of the table."""
    return {method: rows.reset_index(drop=True) for method, rows in table.groupby("method", sort=False)}


def metrics(
    summaries: Mapping[str, Mapping[str, float]],
    performances: Mapping[str, float],
    *,
    passes: Mapping[str, bool] | None = None,
) -> dict[str, float]:
    """What a run logs: performance, the first method's summary, and the others' as `<method>/<name>`.

    `passes`: whether the maps of a method pass their checks, logged as `passes_checks` (1 or 0).
    """
    first = next(iter(summaries))
    found = dict(performances)
    for method, summary in summaries.items():
        if passes and method in passes:
            summary = {**summary, "passes_checks": float(passes[method])}
        found |= summary if method == first else {f"{method}/{name}": value for name, value in summary.items()}
    return found


def metric_names(settings: DriftParams, manifest: pd.DataFrame) -> list[str]:
    """The names that `metrics` will have, known before anything is computed.

    The same functions give them, applied to a table of two made-up images.
    """
    like = {"A": settings.like_a, "B": settings.like_b}
    levels = ["chance", "two_patients", *(level for name, level in LEVELS.items() if like[name])]
    columns = [
        name for metric in metric_table.METRICS for name in (metric, *(f"{metric}_{level}" for level in levels))
    ]
    table = pd.DataFrame({name: [0.5, 0.5] for name in columns}).assign(
        image_id=["0", "1"], patient_id=["0", "1"], seed=0, empty_before=False, empty_after=False
    )
    summary = summarise(table, settings.model_copy(update={"n_boot": 100}))
    classes = images.class_names(settings, manifest)
    if settings.train_run_id:
        manifest, _ = images.of_classes(manifest, classes)
    uniform = np.full((len(manifest), len(classes)), 1 / max(1, len(classes)))
    performances = images.measured(manifest, dict.fromkeys(CHECKPOINTS, uniform), classes)
    passes = dict.fromkeys(settings.method, True) if settings.map_check_images else None
    return list(metrics(dict.fromkeys(settings.method, summary), performances, passes=passes))
