"""The two models: find their files, load and adapt them, describe them, check that they can be compared.

A is the model before and B the model after. A2, A3, ... differ from A by the seed of their training alone, and
B2, B3, ... from B. The files are checked without TensorFlow, which takes seconds to import; `load` imports it.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.core import architectures
from cxr.core.errors import InputError, on_one_line
from cxr.core.files import require_regular, sha256_file
from cxr.core.params import DriftParams
from cxr.core.progress import progress
from cxr.data import manifest as data_manifest

if TYPE_CHECKING:
    import keras
_REBUILD = (
    "build the same model with the Keras installed here, copy the weights (`new.set_weights(old.get_weights())`, "
    "old loaded with the Keras that saved it: tf_keras for Keras 2), and save it with `new.save('name.keras')`"
)
CHECKPOINTS = {"A": "before", "B": "after"}
"""What each model is called in columns and metrics."""


@dataclass(frozen=True)
class Model:
    """A model in the form that the package works on: one flat graph from grey values to class probabilities."""

    name: str  # "A", "B", "A2", ...
    path: str
    sha256: str  # of the file
    network: keras.Model  # as `cxr.models.foreign.adapt` returns it
    layer: str  # the layer whose maps are computed
    lends: bool = False  # whether it may lend A's network its weights: see `ready`

    @property
    def size(self) -> int:
        """The side of the images that it takes, in pixels."""
        return int(self.network.input_shape[1])

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return int(self.network.output_shape[-1])

    @property
    def grid(self) -> str:
        """The height and width of its maps, such as "8x8"."""
        return "x".join(str(side) for side in self.network.get_layer(self.layer).output.shape[1:3])


def files(settings: DriftParams) -> dict[str, str]:
    """The models' files by the models' names: A, B, then A2, A3, ... (`like_a`) and B2, B3, ... (`like_b`).

    Raises:
        InputError: a file is missing, or it is not a whole Keras model, or `module` is no Python file. What shows
            only when a model is loaded is left to `load`.
    """
    if settings.module and not (settings.module.endswith(".py") and Path(settings.module).expanduser().is_file()):
        raise InputError(
            f"module: {settings.module} is no Python file: give the .py file that defines your layers"
        )
    found = {"A": settings.model_a, "B": settings.model_b}
    if settings.train_run_id:
        folder = training(settings.train_run_id).file("checkpoints")
        found = {name: str(folder / f"{checkpoint}.keras") for name, checkpoint in CHECKPOINTS.items()}
    for name, others in (("A", settings.like_a), ("B", settings.like_b)):
        found |= {f"{name}{number}": path for number, path in enumerate(others, start=2)}
    for name, path in found.items():
        _check_file(name, path)
    return found


def training(run_id: str) -> tracking.StoredRun:
    """The train run whose checkpoints are compared. Raises InputError if it is none, or has not ended."""
    tracking.connect()
    run = tracking.stored(run_id)
    if run.stage != "train" or not run.complete:
        raise InputError(f"train_run_id: run {run_id} ({run.name}) is no finished train run: name another")
    return run


def classes_of(run_id: str) -> list[str]:
    """The classes of a train run, in the order of its models' outputs."""
    return data_manifest.classes(data_manifest.read_manifest(training(run_id).file("manifest.csv")))


def _check_file(name: str, path: str) -> None:
    which = f"model {name}: {path}"
    whole = "give a file that `model.save('name.keras')` wrote"
    if not path:
        raise InputError(f"model {name}: no file is given: {whole}")
    file = Path(path).expanduser()
    if not file.exists():
        raise InputError(f"{which} does not exist: {whole}")
    if file.is_dir():
        if (file / "saved_model.pb").exists():
            raise InputError(f"{which} is a SavedModel folder, which Keras 3 does not load: {_REBUILD}")
        raise InputError(f"{which} is a folder: {whole}")
    try:
        require_regular(file)
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
                    f"{which} holds weights only, not the model: build the model, load the weights with "
                    "`load_weights`, and save the whole model with `model.save('name.keras')`"
                )
        suffixes = (".h5", ".hdf5")
    else:
        raise InputError(f"{which} is not a Keras model: {whole}, or a whole model as .h5")
    if file.suffix not in suffixes:
        raise InputError(
            f"{which} is a {suffixes[0]} file by its contents: rename it so that it ends in {suffixes[0]}"
        )


def label(files: Mapping[str, str]) -> str:
    """A name for the pair: the names of both files, with their folders if the names are equal."""
    paths = [Path(files[name]) for name in CHECKPOINTS]
    names = [path.stem for path in paths]
    if names[0] == names[1]:
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in paths]
    return " -> ".join(names)


def sha256(path: str) -> str:
    """SHA-256 of a model's file, in hexadecimal."""
    return sha256_file(Path(path).expanduser())


def use_module(module: str) -> dict[str, Any]:
    """Run a Python file of the user's. Keras then knows its classes and functions, also unregistered ones.

    Returns: these classes and functions, by name. Raises InputError if the file cannot be run.
    """
    import keras

    file = Path(module).expanduser().absolute()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    found = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(found)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"module: {module} cannot be run: {architectures.failure(error, file)}") from None
    own = {name: value for name, value in vars(found).items() if getattr(value, "__module__", "") == file.stem}
    own = {name: value for name, value in own.items() if callable(value)}
    keras.saving.get_custom_objects().update(own)
    return own


def load(name: str, path: str, *, layer: str, preprocessing: str = "auto", image_size: int = 0) -> Model:
    """Load one model and adapt it (`cxr.models.foreign.adapt`). Python code inside the file is never run.

    Args:
        name: "A", "B", "A2", ...
        path: a .keras file, or a .h5 file with the whole model.
        layer: the layer to explain, as `cxr.models.targets.target_layer` takes it.
        preprocessing: what the model expects of grey values, as `cxr.models.foreign.adapt` takes it.
        image_size: the side of the images in pixels; 0: the model's own.

    Raises:
        InputError: the model cannot be loaded (custom layers, Lambda layers with code), is not an image
            classifier, or has no such layer.
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


def load_all(settings: DriftParams) -> dict[str, Model]:
    """Load all models that the settings name: A, B, A2, ..., B2, ... Runs the file `module` first.

    Raises InputError as `files`, `use_module` and `load`.
    """
    paths = files(settings)
    layers = {"A": settings.target_layer, "B": settings.target_layer_b or settings.target_layer}
    options = {"preprocessing": settings.preprocessing, "image_size": settings.image_size}
    if settings.module:
        use_module(settings.module)
    found = {name: load(name, path, layer=layers[name[0]], **options) for name, path in paths.items()}
    from cxr.models.graph import differ_in_weights_alone

    for name, model in found.items():
        lends = name != "A" and differ_in_weights_alone(model.network, found["A"].network)
        found[name] = replace(model, lends=lends)
    return found


@contextmanager
def ready(models: Mapping[str, Model], name: str) -> Iterator[keras.Model]:
    """The network of a model, to compute with.

    It is A's network with the model's weights, where the two differ in weights alone: what is compiled for A then
    serves all. At the end A has its own weights again.
    """
    from cxr.attribution.explaining import assigned

    own, first = models[name].network, models["A"].network
    if not models[name].lends:
        yield own
        return
    with assigned(first.weights, own.weights):
        yield first


def common_size(models: Mapping[str, Model]) -> int:
    """The side of the grid, in pixels, on which maps are compared: the larger of A's and B's images."""
    return max(models["A"].size, models["B"].size)


def _why(error: Exception) -> str:
    """Keras' message in one line, and what to do if that is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "Lambda" in text and ("safe_mode" in text or "unsafe" in text or "arbitrary code" in text):
        return (
            "a Lambda layer with Python code in it, which could do anything and is therefore not run: replace it "
            "by a layer of Keras (Rescaling, Normalization, ...), and save the model again"
        )
    if "Could not locate class" in text or "custom object" in text or "Unknown layer" in text:
        return (
            f"a layer or function that Keras does not know ({on_one_line(text, 240)}): give the Python file that "
            "defines it with --module FILE.py (`module` in a notebook or script), which runs this file; or "
            "replace it by layers of Keras"
        )
    return f"{on_one_line(text, 600)}. If another version of Keras saved it: {_REBUILD}"


def describe(models: Mapping[str, Model]) -> pd.DataFrame:
    """One row per model: model, file, network, pixels, preprocessing, because (why that), head, layer, grid."""
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


def facts(models: Mapping[str, Model]) -> dict[str, str | int]:
    """What a run logs of the models as parameters: layer, layer_b, grid (of A's maps) and size (`common_size`)."""
    a, b = models["A"], models["B"]
    return {"layer": a.layer, "layer_b": b.layer, "grid": a.grid, "size": common_size(models)}


def check(models: Mapping[str, Model], methods: Sequence[str] = (), *, task: str = "single_label") -> list[str]:
    """Check that the models can be compared.

    Args: task: "multi_label" if an image can have several findings; the models then have to end with sigmoids.

    Returns: notes that a reader of the result should know.
    Raises:
        InputError: the numbers of classes differ; or a model like A (or B) has another structure than A, or the
            same weights.
    """
    a, b = models["A"], models["B"]
    notes = []
    outputs = {name: model.outputs for name, model in models.items()}
    for name, count in outputs.items():
        if count != outputs["A"]:
            raise InputError(
                f"models A and {name} have {outputs['A']} and {count} outputs: give models of the same classes in "
                "the same order"
            )
    for name, model in models.items():
        like = models[name[0]]
        if model is like:
            continue
        shapes = [[weight.shape for weight in one.network.get_weights()] for one in (like, model)]
        if shapes[0] != shapes[1] or like.layer != model.layer or like.size != model.size:
            raise InputError(
                f"model {name} ({model.path}) has another structure than {name[0]} ({like.path}): for the "
                f"baseline, train {name[0]} again and change only the seed"
            )
        if _same_weights(like, model):
            raise InputError(
                f"model {name} ({model.path}) has the weights of {name[0]} ({like.path}): for the baseline, "
                f"train {name[0]} again with another seed"
            )
    sigmoids = {name: model.network.adapted.multi_label for name, model in models.items()}
    if task == "multi_label":
        if not all(sigmoids.values()):
            name = next(name for name, own in sigmoids.items() if not own)
            raise InputError(
                f"task: multi_label needs models with sigmoids, a probability for each finding, and model {name} "
                f"has {models[name].network.adapted.head}: give such models, or set task to single_label"
            )
    elif sigmoids["A"] or sigmoids["B"]:
        notes.append(
            "an image can have several labels in these models (sigmoid outputs): the most probable one counts as "
            "predicted, and the log-odds of each are its own logit (task=multi_label takes each label for itself)"
        )
    from cxr.models.graph import feeds_pooling

    same = {"layercam", "gradcampp", "gradcampp_authors"} & set(methods)
    if len(same) > 1 and any(feeds_pooling(m.network, m.layer) for m in (a, b)):
        notes.append(
            f"only global average pooling follows {a.layer}: LayerCAM and Grad-CAM++ are the same map there, and "
            "comparing them says nothing: use another layer"
        )
    if _same_weights(a, b):
        notes.append(
            "A and B have the same weights: both maps of an image are equal, and no drift is the right answer"
        )
    if a.size != b.size:
        notes.append(
            f"A takes images of {a.size} px and B of {b.size} px: each gets the images at its own size, and the "
            f"maps are compared at {common_size(models)} px"
        )
    if a.layer != b.layer or a.grid != b.grid:
        notes.append(
            f"A is explained at {a.layer} ({a.grid}) and B at {b.layer} ({b.grid}): a part of the difference may "
            "come from the layers"
        )
    return notes


def _same_weights(a: Model, b: Model) -> bool:
    ours, theirs = a.network.get_weights(), b.network.get_weights()
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
