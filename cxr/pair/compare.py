"""Two models of the user's own: files, images, the class explained, maps, drift and its baselines.

A is the model before and B the model after, under the names of columns and metrics that a study has:
`overlap_median`, `auc_macro_before` (A's), `empty_after` (B's), ... More models that differ from A or from B by
their training's seed alone give the baselines `two_heads` and `two_seeds`. What is measured, and how, is what
`3_score` does.

TensorFlow is imported where a model is loaded: files, images and gates are checked before.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from cxr.attribution import maps
from cxr.core import tables
from cxr.core.errors import InputError, some
from cxr.core.params import DriftParams
from cxr.core.progress import progress
from cxr.data import layouts, loading
from cxr.metrics import baselines, classification, metric_table, similarity
from cxr.report import comparison
from cxr.report import methods as report_methods

if TYPE_CHECKING:
    import keras

CHECKPOINTS = {"A": "before", "B": "after"}
LEVELS = {"A": "two_heads", "B": "two_seeds"}
"""The baseline that more models give, by the model that they are like."""
PRIMARY = "overlap"
_SHOWN_LEVELS = {
    "chance": "chance",
    "two_patients": "two patients",
    "two_heads": "two seeds of A",
    "two_seeds": "two seeds of B",
}


@dataclass(frozen=True)
class Model:
    """A model as the package works on it: flat, from grey values to `logits` and `probabilities`."""

    name: str  # "A", "B", "A2", ...
    path: str
    sha256: str  # of the file
    network: keras.Model
    layer: str  # explained

    @property
    def size(self) -> int:
        """The side of its images."""
        return int(self.network.input_shape[1])

    @property
    def grid(self) -> str:
        """That of the layer."""
        return "x".join(str(side) for side in self.network.get_layer(self.layer).output.shape[1:3])


# ------------------------------------------------------------------------------------------------- model files


def files(settings: DriftParams) -> dict[str, str]:
    """The models' files by their names: A, B, then A2, A3, ... and B2, B3, ... that are like them.

    Raises InputError for the first one that is no whole Keras model, as far as that shows without loading it.
    """
    found = {"A": settings.model_a, "B": settings.model_b}
    for name, others in (("A", settings.like_a), ("B", settings.like_b)):
        found |= {f"{name}{number}": path for number, path in enumerate(others, start=2)}
    for name, path in found.items():
        _check_file(name, path)
    return found


def _check_file(name: str, path: str) -> None:
    which = f"model {name}: {path}"
    whole = "give a file that `model.save('name.keras')` wrote"
    if not path:
        raise InputError(f"model {name}: no file is named: {whole}")
    file = Path(path).expanduser()
    if not file.exists():
        raise InputError(f"{which} does not exist: {whole}")
    if file.is_dir():
        if (file / "saved_model.pb").exists():
            raise InputError(
                f"{which} is a SavedModel folder, which Keras 3 does not load: load it with the Keras that saved "
                "it (tf_keras for Keras 2), and save it as a .h5 file"
            )
        raise InputError(f"{which} is a folder: {whole}")
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputError(f"{which} cannot be read ({error.strerror})") from None
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{which} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if "config.json" not in archive.namelist():
                raise InputError(f"{which} is a ZIP file without a model in it: {whole}")
        suffixes = (".keras",)
    elif start.startswith(b"\x89HDF\r\n\x1a\n"):
        import h5py

        with h5py.File(file) as content:
            if "model_config" not in content.attrs:
                raise InputError(
                    f"{which} holds weights only, not the model that they are of: build the model, load them into "
                    "it with `load_weights`, and save it whole with `model.save('name.keras')`"
                )
        suffixes = (".h5", ".hdf5")
    else:
        raise InputError(f"{which} is not a Keras model: {whole}, or a whole model as .h5")
    if file.suffix not in suffixes:
        raise InputError(f"{which} is a {suffixes[0]} file by its contents: give its name that ending")


def label(files: Mapping[str, str]) -> str:
    """The name of the pair: that of its files, with their folders where they have the same name."""
    paths = [Path(files[name]) for name in CHECKPOINTS]
    names = [path.stem for path in paths]
    if names[0] == names[1]:
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in paths]
    return " -> ".join(names)


def sha256(path: str) -> str:
    """SHA-256 of a model's file, as hex."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(name: str, path: str, *, layer: str, preprocessing: str = "auto", image_size: int = 0) -> Model:
    """Load a model, with code in it refused (`safe_mode`), and adapt it (`cxr.models.foreign.adapt`).

    Raises InputError: it cannot be loaded (custom layers, Lambda layers with code), is no image classifier, or has
    no such layer.
    """
    import keras

    from cxr.models import foreign, targets

    file = Path(path).expanduser()
    progress(f"model {name}: loading {path}")
    try:
        loaded = keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises what its layers, h5py and zipfile do
        raise InputError(f"model {name}: {path} cannot be loaded: {_why(error)}") from None
    try:
        network = foreign.adapt(loaded, preprocessing=preprocessing, image_size=image_size or None)
        return Model(name, path, sha256(path), network, targets.target_layer(network, layer))
    except InputError as error:
        raise InputError(f"model {name} ({path}): {error}") from None


def _why(error: Exception) -> str:
    """In a line what Keras says over many, and what to do where that is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "Lambda" in text and ("safe_mode" in text or "unsafe" in text or "arbitrary code" in text):
        return (
            "a Lambda layer with Python code of its own in it, which could do anything, so that it is not run: "
            "replace it by a layer of Keras (Rescaling, Normalization, ...), and save the model again"
        )
    if "Could not locate class" in text or "custom object" in text or "Unknown layer" in text:
        return (
            f"a layer or function that Keras does not know ({text[:160]}…): register it in a module with "
            "`keras.saving.register_keras_serializable`, or replace it by layers of Keras"
        )
    return text[:300]


def describe(models: Mapping[str, Model]) -> pd.DataFrame:
    """A row a model: its file, what it is, what it expects, and where it is explained."""
    return pd.DataFrame(
        [
            {
                "model": name,
                "file": model.path,
                "network": model.network.name,
                "pixels": model.size,
                "preprocessing": model.network.adapted.preprocessing,
                "because": model.network.adapted.preprocessing_why,
                "head": model.network.adapted.head,
                "layer": model.layer,
                "grid": model.grid,
            }
            for name, model in models.items()
        ]
    )


def check(models: Mapping[str, Model], methods: Sequence[str] = ()) -> list[str]:
    """Whether the models can be compared. Returns what a reader should know of them.

    Raises InputError where they have different numbers of classes, or where one that differs by its seed alone has
    another structure or the same weights.
    """
    a, b = models["A"], models["B"]
    notes = []
    outputs = {name: model.network.output_shape[-1] for name, model in models.items()}
    for name, count in outputs.items():
        if count != outputs["A"]:
            raise InputError(
                f"models A and {name} have {outputs['A']} and {count} outputs: the same classes in the same order "
                "are compared"
            )
    for name, model in models.items():
        like = models[name[0]]
        if model is like:
            continue
        shapes = [[weight.shape for weight in one.network.get_weights()] for one in (like, model)]
        if shapes[0] != shapes[1] or like.layer != model.layer or like.size != model.size:
            raise InputError(
                f"model {name} ({model.path}) is of another structure than {name[0]} ({like.path}): a baseline of "
                "two seeds comes from a training that differs by its seed alone"
            )
        if _same_weights(like, model):
            raise InputError(
                f"model {name} ({model.path}) has the weights of {name[0]} ({like.path}): a baseline of "
                "two seeds comes from another training"
            )
    if a.network.adapted.multi_label or b.network.adapted.multi_label:
        notes.append(
            "labels do not exclude each other in these models (sigmoid): the most probable one counts as predicted"
        )
    from cxr.models.graph import feeds_pooling

    if {"layercam", "gradcampp"} <= set(methods) and any(feeds_pooling(m.network, m.layer) for m in (a, b)):
        notes.append(
            f"behind {a.layer} stands global average pooling alone: LayerCAM and Grad-CAM++ are the same map "
            "there, and to compare them says nothing: use another layer"
        )
    if _same_weights(a, b):
        notes.append("A and B have the same weights: every map is its own pair, and no drift is the right answer")
    if a.size != b.size:
        notes.append(
            f"A sees {a.size} px and B {b.size} px: each gets the images at its own size, and maps are compared "
            f"at {max(a.size, b.size)} px"
        )
    if a.layer != b.layer or a.grid != b.grid:
        notes.append(
            f"A is explained at {a.layer} ({a.grid}) and B at {b.layer} ({b.grid}): what of the difference is "
            "that of the layers cannot be told"
        )
    return notes


def _same_weights(a: Model, b: Model) -> bool:
    ours, theirs = a.network.get_weights(), b.network.get_weights()
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


# ----------------------------------------------------------------------------------- images, classes, predictions


def images(settings: DriftParams, *, hashed: bool = True) -> tuple[pd.DataFrame, list[str]]:
    """The manifest of the images, all labels "" where none are known, and what a reader should know of them.

    With `use_split`, the images of that split: as the data say, or, where they do not, as a study with the same
    parameters splits them. `hashed` as for `cxr.data.loading.list_images`. Raises InputError.
    """
    labelled = settings.image_labels == "auto" and layouts.has_labels(settings)
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        manifest = loading.list_images(settings, labelled=labelled, hashed=hashed)
        if settings.use_split and (manifest["split"] == "").any():
            if not labelled:
                raise InputError("use_split: without labels there are no splits but those that a table names")
            manifest = loading.build_manifest(settings)
    notes += [str(warning.message) for warning in caught if warning.category is UserWarning]
    if settings.use_split:
        manifest = manifest[manifest["split"] == settings.use_split].reset_index(drop=True)
        if manifest.empty:
            raise InputError(f"use_split: no image is of the split {settings.use_split}")
    elif (splits := set(manifest["split"])) > {"test"}:
        notes.append(
            f"the images of all splits ({', '.join(sorted(splits))}) are used, those of the training too: "
            "use_split test (--split test) takes the others"
        )
    return manifest, notes


def is_labelled(manifest: pd.DataFrame) -> bool:
    """Whether the images have labels: all have, or none has."""
    return bool((manifest["label"] != "").all())


def class_names(settings: DriftParams, manifest: pd.DataFrame, outputs: int | None = None) -> list[str]:
    """The classes in the order of the models' outputs: as given, else the labels, sorted, else numbers.

    Raises InputError unless there is one for each of the `outputs` (None: not known yet), and every label is one.
    """
    labels = sorted(set(manifest["label"])) if is_labelled(manifest) else []
    names = list(settings.class_names) or labels or [str(k) for k in range(outputs or 0)]
    if len(set(names)) < len(names):
        raise InputError(f"class_names: every class once, got {', '.join(names)}")
    if strange := sorted(set(labels) - set(names)):
        raise InputError(
            f"class_names: images are labelled {some(strange)}, and the classes are {', '.join(names)}: name them "
            "as the labels are"
        )
    if outputs is not None and len(names) != outputs:
        which = "class_names names" if settings.class_names else "the labels are of"
        raise InputError(
            f"the models have {outputs} outputs, and {which} {len(names)} classes ({some(names)}): name one for "
            "each output, in their order, with class_names (--classes a,b,c), or, if the sub-folders are no "
            "classes, set image_labels to none (--labels none)"
        )
    return names


def predictions(manifest: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """`cxr.training.stages.prediction_table`, without TensorFlow."""
    from cxr.training import checkpoints

    return checkpoints.prediction_table(manifest, probabilities, list(classes))


def measured(
    manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]
) -> dict[str, float]:
    """`classification.performance` of A and B, as `<name>_transfer` and `<name>_fine_tuned`; {} without labels.

    Where a class has no image, so that AUCs do not exist, or probabilities are of labels that do not exclude each
    other: the accuracy of the most probable class alone.
    """
    if not is_labelled(manifest):
        return {}
    labels = loading.class_index(manifest["label"], classes)
    found = {}
    for name, checkpoint in CHECKPOINTS.items():
        p = probabilities[name]
        if len(set(labels.tolist())) == len(classes) and not (np.abs(p.sum(axis=1) - 1) > 1e-2).any():
            values = classification.performance(labels, p, list(classes))
        else:
            values = {"accuracy": float((p.argmax(axis=1) == labels).mean())}
        found |= {f"{metric}_{checkpoint}": value for metric, value in values.items()}
    return found


def doubts(manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[str]:
    """What the predictions say against the order of classes, or against how the images are read."""
    if not is_labelled(manifest):
        return []
    labels = loading.class_index(manifest["label"], classes)
    one = np.eye(len(classes))
    tables = [one[labels].T @ one[probabilities[name].argmax(axis=1)] for name in CHECKPOINTS]  # true, predicted
    accuracy = [float(np.trace(table) / len(labels)) for table in tables]
    chance = 1 / len(classes)
    if max(accuracy) > chance:
        return []
    text = (
        f"accuracy is {accuracy[0]:.2f} for A and {accuracy[1]:.2f} for B, no better than chance ({chance:.2f}): "
        f"the classes may be in another order than {', '.join(classes)} (--classes), or the images prepared "
        "otherwise than in training (--preprocessing)"
    )
    rows, outputs = linear_sum_assignment(-sum(tables))
    best = float(sum(tables)[rows, outputs].sum() / (2 * len(labels)))
    if best > max(2 * chance, max(accuracy) + 0.1):
        order = [classes[row] for row in rows[np.argsort(outputs)]]
        text += f". With the order {','.join(order)} it would be {best:.2f} on average"
    return [text]


def select(
    manifest: pd.DataFrame,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    explain: str,
    images: str,
) -> pd.DataFrame:
    """For which class each image is explained, and whether it counts: `maps.select` for models A and B.

    Args:
        explain: `true`, `predicted` (by B), `predicted_a` or `auto` (`true` where there are labels).
        images: `correct`, those of which both models predict the right class, or, without labels, the class
            explained; `all`; `auto` (`correct` where there are labels).

    Returns: as `maps.select`; without labels, and with both_correct for "both predict the class explained".
    Raises: InputError: the true class without labels, and no image that counts.
    """
    labelled = is_labelled(manifest)
    if explain == "true" and not labelled:
        raise InputError("explain: the true class is not known, as there are no labels: use predicted")
    explain = {"auto": "true" if labelled else "predicted"}.get(explain, explain)
    images = {"auto": "correct" if labelled else "all"}.get(images, images)
    tables = {name: predictions(manifest, probabilities[name], classes) for name in CHECKPOINTS}
    predicted = {"predicted": tables["B"]["predicted"], "predicted_a": tables["A"]["predicted"]}
    if not labelled:
        for table in tables.values():
            table["label"] = predicted[explain].to_numpy()
            table["correct"] = table["label"] == table["predicted"]
    try:
        chosen = maps.select(tables["A"], tables["B"], images=images, explain="true")
    except InputError:
        right = {name: int(table["correct"].sum()) for name, table in tables.items()}
        what = "the right class" if labelled else "the class explained"
        raise InputError(
            f"there is no image of which both models predict {what}: of {len(manifest)}, A does so for "
            f"{right['A']} and B for {right['B']}: see that the classes are in the order of the outputs "
            "(--classes) and images are prepared as in training (--preprocessing), or take all (--images all)"
        ) from None
    if labelled and explain != "true":
        order = pd.Series(predicted[explain].to_numpy(), index=manifest["image_id"].to_numpy())
        chosen["explained"] = order.reindex(chosen["image_id"]).to_numpy()
    return chosen if labelled else chosen.drop(columns="label")


# ------------------------------------------------------------------------------------------------ maps and drift


def score(
    map_sets: Mapping[str, np.ndarray],
    chosen: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
    *,
    size: int,
) -> dict[str, np.ndarray]:
    """Every metric of every image that counts, with its baselines, as `3_score` computes them.

    Args:
        map_sets: raw maps float32 [n, h, w] of each model by one method, row by row the images of `chosen`.
        chosen: `select`. size: the image grid.

    Returns: `similarity.compare_maps` and `baselines.baselines` of A and B over the images that count,
        `<metric>_two_heads` where there are models like A, `<metric>_two_seeds` where there are models like B.
    """
    counts = chosen["scored"].to_numpy()
    progress(f"scoring {counts.sum()} pairs of maps")
    # all images are compared, since an empty map shows beside all others
    values = {
        key: value[counts]
        for key, value in similarity.compare_maps(map_sets["A"], map_sets["B"], size=size).items()
    }
    scored = {name: map_set[counts] for name, map_set in map_sets.items()}
    values |= baselines.baselines(
        scored["A"],
        scored["B"],
        loading.class_index(chosen.loc[counts, "explained"], classes),
        chosen.loc[counts, "patient_id"].to_numpy(),
        size=size,
        draws=settings.baseline_draws,
        rng_seed=settings.seed,
    )
    for name, level in LEVELS.items():
        others = [map_set for key, map_set in scored.items() if key != name and key.startswith(name)]
        if others:
            two_heads = baselines.two_heads(scored[name], others, size=size)
            values |= {key.replace("_two_heads", f"_{level}"): value for key, value in two_heads.items()}
    return values


def summarise(table: pd.DataFrame, settings: DriftParams) -> dict[str, float]:
    """`comparison.summarise` of one method's table, and, with models like B, `<metric>_share_of_two_seeds` as
    `cxr.report.comparison.pooled` has it: what is corrected of what another training retains."""
    options = {"level": settings.level, "n_boot": settings.n_boot, "rng_seed": settings.seed}
    found = comparison.summarise(table, **options)
    for name in metric_table.METRICS:
        if f"{name}_two_seeds_median" in found and f"{name}_corrected_median" in found:
            levels = (found[f"{name}_{level}_median"] for level in ("two_patients", "two_seeds"))
            found[f"{name}_share_of_two_seeds"] = float(baselines.corrected(found[f"{name}_median"], *levels))
    return found


def metrics(summaries: Mapping[str, Mapping[str, float]], performances: Mapping[str, float]) -> dict[str, float]:
    """What a run logs: performance, the first method's summary as it is, and the others' as `<method>/<name>`."""
    first = next(iter(summaries))
    found = dict(performances)
    for method, summary in summaries.items():
        found |= summary if method == first else {f"{method}/{name}": value for name, value in summary.items()}
    return found


def metric_names(settings: DriftParams, manifest: pd.DataFrame) -> list[str]:
    """The names that `metrics` will have, before anything is computed: by the same functions, on two images."""
    like = {"A": settings.like_a, "B": settings.like_b}
    levels = ["chance", "two_patients", *(level for name, level in LEVELS.items() if like[name])]
    columns = [
        name for metric in metric_table.METRICS for name in (metric, *(f"{metric}_{level}" for level in levels))
    ]
    table = pd.DataFrame({name: [0.5, 0.5] for name in columns}).assign(
        image_id=["0", "1"], patient_id=["0", "1"], seed=0, empty_before=False, empty_after=False
    )
    summary = summarise(table, settings.model_copy(update={"n_boot": 100}))
    classes = class_names(settings, manifest)
    uniform = np.full((len(manifest), len(classes)), 1 / max(1, len(classes)))
    performances = measured(manifest, dict.fromkeys(CHECKPOINTS, uniform), classes)
    return list(metrics(dict.fromkeys(settings.method, summary), performances))


# ------------------------------------------------------------------------------------------------------ in words


def overview(summary: Mapping[str, float]) -> pd.DataFrame:
    """A row a metric: metric, its median with interval, its value for identical maps, the medians of the
    baselines that there are, and the corrected median."""
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
    models: Mapping[str, Model],
    chosen: pd.DataFrame,
    summaries: Mapping[str, Mapping[str, float]],
    performances: Mapping[str, float],
    settings: DriftParams,
    *,
    notes: Sequence[str] = (),
) -> str:
    """What the command prints: the models, the images, a table a method, what is missing, and `notes`."""
    from cxr.report.figures import METHOD_LABELS  # Matplotlib, and with it a second

    lines = []
    for name, model in models.items():
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
        a, b = models["A"], models["B"]
        where = f"{a.layer} ({a.grid})" + ("" if a.layer == b.layer else f" and {b.layer} ({b.grid})")
        lines += ["", f"{METHOD_LABELS[method]} at {where}", tables.text(shown)]
        empty = [f"{name} {summary[f'n_empty_{checkpoint}']:.0f}" for name, checkpoint in CHECKPOINTS.items()]
        lines.append(f"empty maps (excluded from medians): {summary['n_empty']:.0f} images ({', '.join(empty)})")
    missing = [
        f"no baseline '{_SHOWN_LEVELS[level]}': a model that differs from {model} by its training's seed alone "
        f"gives it (--like-{model.lower()} {model}2.keras)"
        for model, level in LEVELS.items()
        if f"{model}2" not in models
    ]
    last = [*missing, *(f"CAUTION: {note}" for note in notes)]
    return "\n".join([*lines, *([""] if last else []), *last])


def _which_images(chosen: pd.DataFrame, settings: DriftParams) -> str:
    scored = chosen[chosen["scored"]]
    labelled = "label" in chosen
    explain = settings.explain if settings.explain != "auto" else "true" if labelled else "predicted"
    what = "the true class" if explain == "true" else f"what {'B' if explain == 'predicted' else 'A'} predicts"
    by_image = (chosen["patient_id"] == chosen["image_id"]).all()
    patients = "each taken for a patient of its own" if by_image else f"{scored['patient_id'].nunique()} patients"
    return (
        f"explained: {what}, on {len(scored)} of {len(chosen)} images ({patients}); both models predict "
        f"{'the true class' if labelled else 'it'} of {chosen['both_correct'].sum()}"
    )


def panels(
    table: pd.DataFrame, pixels: np.ndarray, map_sets: Mapping[str, np.ndarray], chosen: pd.DataFrame
) -> list[dict]:
    """What `figures.examples` draws of one method: the images with the least, the median and the most drift.

    Args:
        table: the method's per-image rows. pixels: uint8 [n, side, side], map_sets: raw maps by model, both row by
            row the images of `chosen` (`select`).
    """
    from cxr.report.figures import METHOD_LABELS

    found = report_methods.examples(table.assign(label=METHOD_LABELS[table["method"].iloc[0]]), PRIMARY)
    rows = pd.Index(chosen["image_id"]).get_indexer(found["image_id"])
    if not len(rows):
        return []
    map_sets = {name: map_sets[name][rows] for name in CHECKPOINTS}
    return report_methods.panels(found, pixels[rows], map_sets["A"], map_sets["B"], metric=PRIMARY)
