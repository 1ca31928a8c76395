"""Architectures: the paper's three and their compact networks, every other classifier of keras.applications, and
the user's own; their preprocessing, target layers and weights.

A model is one flat functional graph from grey values in [0, 255], shape [n, side, side, 1], to class
probabilities: preprocessing, the backbone's own layers, `pool`, `dropout`, `logits`, `probabilities`. Any of its
layers can be named as a target, and a saved checkpoint needs no code of ours to be used. A whole classifier of the
user's keeps the head that it has, between `preprocessing` and `logits` (`cxr.models.graph.adapt`).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers

from cxr.core import architectures
from cxr.core.errors import InputError, first_line
from cxr.core.files import atomic
from cxr.data.cache import default_cache
from cxr.models import compact, graph

MIN_GRID = 4
TARGETS = ("shallower", "penultimate", "penultimate_cut", "last_conv", "final")  # names of layers, anywhere


@dataclass(frozen=True)
class Architecture:
    """What sets one architecture apart: `features` maps a preprocessed image tensor to the last feature map."""

    features: Callable[[KerasTensor], KerasTensor]
    channels: int
    preprocessing: str  # a key of `cxr.models.graph.PREPROCESSING`


def _application(name: str) -> Callable[[KerasTensor], KerasTensor]:
    def features(x: KerasTensor) -> KerasTensor:
        application = getattr(keras.applications, name)
        return application(include_top=False, weights=None, input_tensor=x).output

    return features


ARCHITECTURES: dict[str, Architecture] = {
    "DenseNet201": Architecture(_application("DenseNet201"), 3, "torch"),
    "ResNet50V2": Architecture(_application("ResNet50V2"), 3, "tf"),
    "InceptionV3": Architecture(_application("InceptionV3"), 3, "tf"),
    "CompactDenseNet": Architecture(compact.densenet, 1, "tf"),
    "CompactResNetV2": Architecture(compact.resnet_v2, 1, "tf"),
    "CompactInception": Architecture(compact.inception, 1, "tf"),
}


def build(
    architecture: str, *, n_classes: int, image_size: int, dropout: float = 0.0, devices: int = 0
) -> keras.Model:
    """A flat classifier with fresh random weights (seed Keras first for repeatable ones).

    Input [n, image_size, image_size, 1] grey values in [0, 255]; output [n, n_classes] probabilities. The model is
    named after its architecture. With `devices` it will be trained on so many GPUs (see `strategy`).

    `architecture` is one of ARCHITECTURES, another classifier of keras.applications, or `package.module:function`,
    which is called as function(n_classes=n_classes, image_size=image_size) and returns a keras.Model: a classifier
    whose classes exclude each other, a backbone, to which a head is added, or what `graph.adapt` made of one.
    Its weights are those that the function gives it.

    Raises InputError for an unknown architecture, an image too small for it, more devices than there are, and for
    what `cxr.models.graph.adapt` cannot take.
    """
    # InceptionV3's convolutions are numbered by a global counter: start it afresh, so that a
    # layer has one name whatever was built before.
    keras.utils.clear_session(free_memory=False)
    with strategy(devices).scope():  # which would not outlive the clearing
        if architecture in ARCHITECTURES:
            return _build_own(architecture, n_classes, image_size, dropout)
        options = {"classes": n_classes, "dropout": dropout, "name": architectures.plain(architecture)}
        if architectures.is_entry_point(architecture):
            return _build_by_user(architecture, image_size, options)
        return graph.adapt(_network(architecture, image_size), preprocessing=architecture, **options)


def _build_own(architecture: str, n_classes: int, image_size: int, dropout: float) -> keras.Model:
    spec = ARCHITECTURES[architecture]
    inputs = keras.Input((image_size, image_size, 1), name="image")
    x = layers.Concatenate(name="grey_to_rgb")([inputs] * 3) if spec.channels == 3 else inputs
    x = graph.preprocessing_layer(spec.preprocessing)(x)
    try:
        x = spec.features(x)
    except ValueError as error:
        raise _too_small(architecture, image_size, error) from None
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(n_classes, name="logits")(x)
    x = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=architecture)


def _network(application: str, image_size: int) -> keras.Model:
    """The backbone of a classifier of keras.applications, as Keras makes it."""
    if application not in architectures.APPLICATIONS:
        try:
            architectures.check(application)
        except ValueError as error:
            raise InputError(f"architecture: {error}") from None
        raise InputError(f"architecture: '{application}' is none of keras.applications")
    try:
        return getattr(keras.applications, application)(
            include_top=False, weights=None, input_shape=(image_size, image_size, 3)
        )
    except ValueError as error:
        raise _too_small(application, image_size, error) from None


def _too_small(architecture: str, image_size: int, error: ValueError) -> InputError:
    return InputError(f"image_size {image_size} does not fit {architecture} ({first_line(error)}): use 224")


def _build_by_user(architecture: str, image_size: int, options: Mapping[str, Any]) -> keras.Model:
    function = architectures.function(architecture)
    try:
        model = function(n_classes=options["classes"], image_size=image_size)
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises
        reason = architectures.failure(error, architectures.source(architecture))
        raise InputError(f"architecture: {architecture} failed: {reason}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"architecture: {architecture} returned a {type(model).__name__}, not a keras.Model")
    try:
        if not hasattr(model, "adapted"):
            model = graph.adapt(model, image_size=image_size, **options)
    except InputError as error:
        message = str(error)
        if message.startswith("preprocessing:"):
            message += ", by returning cxr.models.graph.adapt(model, preprocessing=...)"
        raise InputError(f"architecture: {architecture}: {message}") from None
    wanted = ((None, image_size, image_size, 1), (None, options["classes"]))
    if (model.input_shape, model.output_shape) != wanted:
        raise InputError(
            f"architecture: {architecture} returned a model from {model.input_shape} to {model.output_shape}, and "
            f"was asked for one from {wanted[0]} to {wanted[1]}"
        )
    if model.adapted.multi_label:
        raise InputError(
            f"architecture: {architecture} has {model.adapted.head}, for labels that do not exclude each other, "
            "and those of a study do: end it with a softmax"
        )
    named = keras.Model(model.input, model.output, name=options["name"])
    named.adapted = model.adapted
    return named


def strategy(devices: int) -> tf.distribute.Strategy:
    """What a model is built under to be trained on so many GPUs.

    Each batch is shared between them, each has all weights, and gradients are averaged (Keras' own way of data
    parallelism with TensorFlow, `tf.distribute.MirroredStrategy`). Without GPUs virtual CPU devices do as well
    (`tf.config.set_logical_device_configuration`). 0 and 1: TensorFlow's default. Keras then draws an order of
    images more, so that the batches are not those of one device, and equal seeds give similar weights, not equal
    ones. Raises InputError for more devices than there are.
    """
    if devices <= 1:
        return tf.distribute.get_strategy()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(found):
        raise InputError(
            f"devices: {devices} were asked for, and TensorFlow sees {len(found)} "
            f"{found[0].device_type}{'s' if len(found) > 1 else ''}: lower devices, or 0 for one"
        )
    return tf.distribute.MirroredStrategy([device.name for device in found[:devices]])


def backbone(model: keras.Model) -> keras.Model:
    """The part of `model` from image to last feature map, sharing its layers."""
    final = graph.target_layers(model)["final"]
    return keras.Model(model.input, model.get_layer(final).output, name=f"{model.name}_backbone")


def to_features(model: keras.Model) -> keras.Model:
    """From images to what the head starts from, [n, d]: the output of `pool`, or of what a foreign classifier has
    in its place, such as Flatten. Shares the model's layers."""
    return keras.Model(model.input, graph.head_input(model))


def head(model: keras.Model) -> keras.Model:
    """From there, [n, d], to the logits, [n, n_classes]: `dropout` and `logits`, and in a foreign classifier
    whatever stands in between. Shares the model's layers."""
    return keras.Model(graph.head_input(model), model.get_layer("logits").output)


def head_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of `head`, in the order of the graph."""
    before = to_features(model).layers
    return [
        layer for layer in keras.Model(model.input, model.get_layer("logits").output).layers if layer not in before
    ]


@contextlib.contextmanager
def computing(model: keras.Model, precision: str) -> Iterator[None]:
    """Have the backbone's layers compute in `precision` meanwhile: float32, mixed_float16 or mixed_bfloat16.

    Weights stay float32, and so does what is made of the last feature map and of grey values: pooling, logits,
    probabilities, preprocessing. Functions that were traced before keep the precision that they were traced in.
    """
    inside = {layer.name for layer in backbone(model).layers} - {"image", "grey_to_rgb", "preprocessing"}
    policies = {layer: layer.dtype_policy for layer in model.layers if layer.name in inside}
    try:
        for layer in policies:
            layer.dtype_policy = precision
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy


def target_layer(model: keras.Model, name: str) -> str:
    """The layer of `model` meant by one of TARGETS (`shallower`, `penultimate`, `penultimate_cut`, `last_conv`,
    `final`) or a layer's name.

    Raises InputError when there is none, when its output is not a feature map, or when its grid is under
    4x4 (a map of fewer positions localises nothing).
    """
    if name in TARGETS:
        found = graph.target_layers(model)
        if name not in found:
            raise InputError(
                f"target_layer: {model.name} has no '{name}': it has {', '.join(found)}, and layers by name"
            )
        name = found[name]
    try:
        shape = model.get_layer(name).output.shape
    except ValueError:
        names = [layer.name for layer in model.layers]
        close = difflib.get_close_matches(name, names, n=4) or names[-8:]
        raise InputError(
            f"target_layer: {model.name} has no layer '{name}': use {', '.join(TARGETS)} or a "
            f"layer's name, such as {', '.join(close)}"
        ) from None
    if len(shape) != 4:
        raise InputError(f"target_layer: '{name}' of {model.name} has no feature map (its output is {shape[1:]})")
    if min(shape[1:3]) < MIN_GRID:
        raise InputError(
            f"target_layer: '{name}' of {model.name} is {shape[1]}x{shape[2]} at image_size "
            f"{model.input_shape[1]}, and a map needs at least {MIN_GRID}x{MIN_GRID}: use larger images or "
            "an earlier layer"
        )
    return name


def target_layers(model: keras.Model) -> dict[str, str]:
    """The model's layer for each of TARGETS that it has, on a grid of at least 4x4; several may be one layer."""
    found = {}
    for name in TARGETS:
        with contextlib.suppress(InputError):
            found[name] = target_layer(model, name)
    return found


def feeds_pooling(model: keras.Model, layer: str) -> bool:
    """Whether `layer` is the last feature map, behind which stands global average pooling alone: there
    Grad-CAM++ and LayerCAM are the same map up to a factor, and comparing methods compares nothing."""
    return graph.feeds_pooling(model, layer)


def frozen_layers(model: keras.Model, name: str) -> list[keras.Layer]:
    """The layers that `fine_tune_from: name` keeps as they are: the one of that name and all that it depends on.

    `name`: what `target_layer` knows, or any layer's name; "" for none. Raises InputError for an
    unknown one, and for one that leaves nothing to train.
    """
    if not name:
        return []
    if name not in {layer.name for layer in model.layers}:
        try:
            name = target_layer(model, name)
        except InputError as error:
            raise InputError(f"fine_tune_from: {str(error).removeprefix('target_layer: ')}") from None
    frozen = keras.Model(model.input, model.get_layer(name).output).layers
    if model.get_layer("logits") in frozen:
        raise InputError(
            f"fine_tune_from: up to '{name}' is all of {model.name}, which leaves nothing to train: name an "
            f"earlier layer, '{graph.head_input(model)._keras_history.operation.name}' at the latest"
        )
    return frozen


@dataclass(frozen=True)
class Description:
    """What was found of a model, to be shown and logged."""

    architecture: str
    input: str
    preprocessing: str
    preprocessing_why: str
    head: str
    parameters: int
    targets: dict[str, graph.Target]  # as found, on whatever grid

    def tags(self) -> dict[str, str]:
        """For a run: `preprocessing`, and `layer_<target>` with its grid."""
        layers = {f"layer_{key}": f"{t.layer} {t.grid[0]}x{t.grid[1]}" for key, t in self.targets.items()}
        return {"preprocessing": self.preprocessing, **layers}

    def lines(self) -> str:
        """As a person reads it."""
        rows = [
            ("input", self.input),
            ("preprocessing", f"{self.preprocessing}: {self.preprocessing_why}"),
            ("head", self.head),
            ("parameters", f"{self.parameters:,}"),
            *(
                (key, f"{t.layer}, {t.grid[0]}x{t.grid[1]}{_too_coarse(t)}: {t.why}")
                for key, t in self.targets.items()
            ),
        ]
        return "\n".join([self.architecture, *(f"  {key:16} {text}" for key, text in rows)])

    def markdown(self) -> str:
        """As a row of a table under MARKDOWN."""
        layers = [
            f"`{t.layer}` {t.grid[0]}x{t.grid[1]}{' ±' if t.signed else ''}" if t else ""
            for t in map(self.targets.get, ("shallower", "penultimate", "penultimate_cut", "final"))
        ]
        cells = [self.architecture, self.preprocessing, f"{self.parameters / 1e6:.1f}", *layers]
        return f"| {' | '.join(cells)} |"


MARKDOWN = (
    "| architecture | preprocessing | million parameters | shallower | penultimate | penultimate_cut | final |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def _too_coarse(target: graph.Target) -> str:
    return "" if min(target.grid) >= MIN_GRID else f" (under {MIN_GRID}x{MIN_GRID}: refused at this size)"


def describe(model: keras.Model) -> Description:
    """What was found of a model that `build` or `cxr.models.graph.adapt` made."""
    adapted = getattr(model, "adapted", None)
    spec = ARCHITECTURES.get(model.name)
    if adapted is not None:
        mode, why, head = adapted.preprocessing, adapted.preprocessing_why, adapted.head
    elif spec is not None:
        mode, why, head = spec.preprocessing, "of this architecture", "none"
    else:
        raise InputError(f"{model.name}: describe the model that build or adapt made, not one that was loaded")
    channels = model.get_layer("preprocessing").output.shape[-1]
    grey = "as it is" if channels == 1 else "copied into three channels"
    side = model.input_shape[1]
    return Description(
        architecture=model.name,
        input=f"{side}x{side}, grey values 0 to 255, {grey}",
        preprocessing=mode,
        preprocessing_why=why,
        head=head if head != "none" else "added: global average pooling, dropout, logits, softmax",
        parameters=model.count_params(),
        targets=graph.targets(model),
    )


def load(path: str | Path, architecture: str) -> keras.Model:
    """A checkpoint that a study saved, read without running code from it.

    For a function of the user's its module is imported first, so that layers of its own that are registered
    (`keras.saving.register_keras_serializable`) are known.
    """
    if architectures.is_entry_point(architecture):
        architectures.function(architecture)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def check(
    architecture: str, *, weights: str, target: str, image_size: int, n_classes: int, fine_tune_from: str = ""
) -> str:
    """Everything about a model that can fail, before training starts. Returns the target layer's name."""
    find_weights(architecture, weights)  # first, as it fails fast
    model = build(architecture, n_classes=n_classes, image_size=image_size)
    layer = target_layer(model, target)
    frozen_layers(model, fine_tune_from)
    load_backbone(model, weights)
    return layer


def load_backbone(model: keras.Model, weights: str) -> dict[str, str]:
    """Load pretrained backbone weights into `model`, in place; the head keeps its own.

    `weights` is `imagenet`, `source`, `none`, or a file or folder. A function of the user's gives its model
    weights itself, and these stay, unless `weights` is one file. Returns where they came from: keys `weights`
    (`own`, of a function), `weights_file` (its name) and `weights_sha256`, empty for `none` and `own`.
    Raises InputError when they cannot be had or do not fit.
    """
    path = find_weights(model.name, weights)
    if path is None:
        return {"weights": "own" if _is_users(model.name) else "none", "weights_file": "", "weights_sha256": ""}
    network = backbone(model)
    try:
        if path.suffix == ".npz":
            _load_npz(network, path)
        elif path.suffix == ".keras":
            _load_keras(network, path)
        elif model.name in architectures.APPLICATIONS and model.name not in ARCHITECTURES:
            _load_application(model, path)
        else:
            network.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        reason = first_line(error)
        raise InputError(
            f"weights: {path} does not fit the backbone of {model.name} ({reason}): give the file made for this "
            "architecture, without its classification top"
        ) from None
    return {"weights": weights, "weights_file": path.name, "weights_sha256": sha256_file(path)}


def find_weights(architecture: str, weights: str) -> Path | None:
    """The file that `weights` stands for, None for `none`; `imagenet` downloads it into Keras' cache. None too for
    a function of the user's, unless `weights` is one file.

    Raises InputError, with what to fetch and where to put it, when it cannot be had.
    """
    architecture = architectures.plain(architecture)
    file = Path(weights).expanduser()
    if weights == "none" or (_is_users(architecture) and (weights in ("imagenet", "source") or file.is_dir())):
        return None
    if weights == "source":
        name = f"{architecture}.npz"
        shipped = resources.files("cxr.models") / "pretrained" / name
        for candidate in (source_folder() / name, Path(str(shipped))):
            if candidate.is_file():
                return candidate
        raise InputError(
            f"weights: no source-pretrained weights for {architecture} in {source_folder()} or in the package: "
            f"make them with notebooks/0_pretrain.ipynb (-p architecture {architecture}), or use weights: imagenet"
        )
    imagenet = architectures.APPLICATIONS.get(architecture)
    if weights == "imagenet":
        return _imagenet(architecture, imagenet)
    if file.is_dir():
        names = [f"{architecture}.npz", f"{architecture}.keras"]
        names = [imagenet.file, *names] if imagenet else names
        for name in names:
            if (file / name).is_file():
                return file / name
        raise InputError(f"weights: the folder {file} holds none of {', '.join(names)}")
    if not file.is_file():
        raise InputError(
            f"weights: '{weights}' is none of imagenet, source and none, and there is no such file or folder"
        )
    if file.suffix not in (".h5", ".keras", ".npz"):
        raise InputError(f"weights: {file} is not a .h5, .keras or .npz file")
    return file


def source_folder() -> Path:
    """Where `0_pretrain.ipynb` puts weights, and where `weights: source` looks first."""
    return default_cache() / "weights"


def save_source(model: keras.Model, folder: Path, *, provenance: dict) -> Path:
    """Write the backbone's weights in float16 to `folder/<architecture>.npz`, and how they were made
    (`provenance`) with their SHA-256 to the `.json` beside it. Returns the `.npz` file."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [v for v in backbone(model).weights if not _is_seed(v)]
    arrays = {_key(v): np.asarray(v, np.float16) for v in kept}
    if len(arrays) < len(kept):
        raise InputError(f"{model.name}: several weights have one name, so that a .npz file cannot hold them")
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise ValueError(f"{model.name}: a weight does not fit float16")
    path = folder / f"{model.name}.npz"
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    record = {"architecture": model.name, "sha256": sha256_file(path), **provenance}
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return path


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_weights(model: keras.Model) -> str:
    """SHA-256 over the names, shapes and values of a model's weights.

    Equal for equal networks, where the hash of the `.keras` file also depends on the time it was saved.
    """
    digest = hashlib.sha256()
    for variable in model.weights:
        if not _is_seed(variable):
            array = np.ascontiguousarray(variable)
            digest.update(f"{_key(variable)} {array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _is_users(name: str) -> bool:
    """Whether an architecture, or the model named after it, is a function's of the user's."""
    return "." in architectures.plain(name)


def _key(variable: keras.Variable) -> str:
    return "/".join(variable.path.split("/")[-2:])


def _is_seed(variable: keras.Variable) -> bool:
    return "seed_generator" in variable.path


def _load_npz(network: keras.Model, path: Path) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        variables = {_key(v): v for v in network.weights}
        if len(variables) < len(network.weights):
            raise ValueError("several weights have one name, so that a .npz file cannot hold them: use .keras")
        if set(variables) != set(arrays.files):
            odd = sorted(set(variables) ^ set(arrays.files))
            raise ValueError(f"{len(odd)} weights differ in name, such as {odd[0]}")
        for key, variable in variables.items():
            variable.assign(arrays[key].astype(np.float32))


def _load_keras(network: keras.Model, path: Path) -> None:
    other = keras.models.load_model(path, compile=False, safe_mode=True)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(other.get_layer(layer.name).get_weights())


def _load_application(model: keras.Model, path: Path) -> None:
    """Weights of Keras' own, by way of the network as Keras makes it, whose layers may be nested."""
    side, n_classes = model.input_shape[1], model.output_shape[1]
    network = _network(model.name, side)
    network.load_weights(path)
    other = graph.adapt(network, preprocessing=model.name, classes=n_classes)
    # in order: Keras numbers some layers by a global counter, and this is not the first network
    mine, theirs = ([layer for layer in backbone(one).layers if layer.weights] for one in (model, other))
    for layer, other in zip(mine, theirs, strict=True):
        layer.set_weights(other.get_weights())


def _imagenet(architecture: str, weights: architectures.Weights | None) -> Path:
    if weights is None:
        raise InputError(
            f"weights: there are no ImageNet weights for {architecture}: use weights: source, or a classifier of "
            "keras.applications"
        )
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return Path(
            keras.utils.get_file(
                weights.file,
                weights.url,
                cache_dir=cache,
                cache_subdir="models",
                file_hash=weights.hash or None,
            )
        )
    except Exception as error:  # urllib's, socket's and Keras' own
        kind = {32: "MD5 ", 64: "SHA-256 "}.get(len(weights.hash), "Keras knows no hash of it")
        renamed = "" if weights.url.endswith(weights.file) else f" as {weights.file}"
        raise InputError(
            f"weights: the ImageNet weights of {architecture} cannot be downloaded here "
            f"({first_line(error)}): on a machine with a network fetch {weights.url} "
            f"({kind}{weights.hash}), put it into {cache / 'models'} or any folder{renamed}, and in the second "
            "case set weights: FOLDER"
        ) from None
