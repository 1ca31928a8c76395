"""Architectures: the paper's three and their compact kin, their preprocessing, target layers and weights.

A model is one flat functional graph from grey values in [0, 255], shape [n, side, side, 1], to class
probabilities: preprocessing, the backbone's own layers, `pool`, `dropout`, `logits`, `probabilities`. Any of its
layers can be named as a target, and a saved checkpoint needs no code of ours to be used.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers

from cxr import compact
from cxr.data import default_cache
from cxr.errors import InputError
from cxr.files import atomic

MIN_GRID = 4
TARGETS = ("shallower", "penultimate", "penultimate_cut", "last_conv", "final")  # names of layers, anywhere
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class Architecture:
    """What sets one architecture apart: `features` maps a preprocessed image tensor to the last feature map;
    the network sees `scale * grey + offset` in each of `channels` equal channels."""

    features: Callable[[KerasTensor], KerasTensor]
    channels: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    shallower: str
    penultimate: str
    final: str
    penultimate_cut: str = ""  # where it is another layer than `penultimate`
    imagenet_file: str = ""
    imagenet_md5: str = ""
    imagenet_url: str = ""


def _application(name: str) -> Callable[[KerasTensor], KerasTensor]:
    def features(x: KerasTensor) -> KerasTensor:
        application = getattr(keras.applications, name)
        return application(include_top=False, weights=None, input_tensor=x).output

    return features


_PLUS_MINUS_ONE = {"scale": (1 / 127.5,), "offset": (-1.0,)}
_TORCH = {"scale": tuple(1 / (255 * _IMAGENET_STD)), "offset": tuple(-_IMAGENET_MEAN / _IMAGENET_STD)}

# `penultimate_cut` is the feature map at stride 16 on which alone the rest depends, `penultimate` its rectified
# form. They differ in ResNets only, where the cut is a residual sum, of either sign, and its rectified successor
# is bypassed by the shortcut. CAMs assume non-negative activations: at the sum, Grad-CAM++ loses many maps and the
# rest overlap no better than by chance (`cxr study params/study.yaml --set target_layer=penultimate_cut`).
# `shallower` is to stride 8 what `penultimate` is to stride 16.
ARCHITECTURES: dict[str, Architecture] = {
    "DenseNet201": Architecture(
        _application("DenseNet201"), 3, **_TORCH, shallower="pool3_relu", penultimate="pool4_relu",
        final="relu",
        imagenet_file="densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_md5="c13680b51ded0fb44dff2d8f86ac8bb1",
        imagenet_url=f"{_KERAS_URL}/densenet",
    ),
    "ResNet50V2": Architecture(
        _application("ResNet50V2"), 3, **_PLUS_MINUS_ONE, shallower="conv3_block4_preact_relu",
        penultimate="conv4_block6_preact_relu", final="post_relu", penultimate_cut="conv4_block5_out",
        imagenet_file="resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_md5="fac2f116257151a9d068a22e544a4917",
        imagenet_url=f"{_KERAS_URL}/resnet",
    ),
    "InceptionV3": Architecture(
        _application("InceptionV3"), 3, **_PLUS_MINUS_ONE, shallower="mixed2", penultimate="mixed7",
        final="mixed10",
        imagenet_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_md5="bcbd6486424b2319ff4ef7d526e38f63",
        imagenet_url=f"{_KERAS_URL}/inception_v3",
    ),
    "CompactDenseNet": Architecture(
        compact.densenet, 1, **_PLUS_MINUS_ONE, shallower="pool3_relu", penultimate="pool4_relu", final="relu"
    ),
    "CompactResNetV2": Architecture(
        compact.resnet_v2, 1, **_PLUS_MINUS_ONE, shallower="conv3_block3_preact_relu",
        penultimate="conv4_block4_preact_relu", final="post_relu", penultimate_cut="conv4_block3_out"
    ),
    "CompactInception": Architecture(
        compact.inception, 1, **_PLUS_MINUS_ONE, shallower="mixed2", penultimate="mixed7", final="mixed10"
    ),
}  # fmt: skip


def build(
    architecture: str, *, n_classes: int, image_size: int, dropout: float = 0.0, devices: int = 0
) -> keras.Model:
    """A flat classifier with fresh random weights (seed Keras first for repeatable ones).

    Input [n, image_size, image_size, 1] grey values in [0, 255]; output [n, n_classes] probabilities. The model is
    named after its architecture. With `devices` it will be trained on so many GPUs (see `strategy`).
    Raises InputError for an unknown architecture, an image too small for it, and more devices than there are.
    """
    spec = _spec(architecture)
    # InceptionV3's convolutions are numbered by a global counter: start it afresh, so that a
    # layer has one name whatever was built before.
    keras.utils.clear_session(free_memory=False)
    with strategy(devices).scope():  # which would not outlive the clearing
        inputs = keras.Input((image_size, image_size, 1), name="image")
        x = layers.Concatenate(name="grey_to_rgb")([inputs] * 3) if spec.channels == 3 else inputs
        scale, offset = (list(v) if len(v) > 1 else v[0] for v in (spec.scale, spec.offset))
        x = layers.Rescaling(scale, offset, name="preprocessing")(x)
        try:
            x = spec.features(x)
        except ValueError as error:
            raise InputError(
                f"image_size {image_size} does not fit {architecture} ({str(error).splitlines()[0]}): use 224"
            ) from None
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dropout(dropout, name="dropout")(x)
        x = layers.Dense(n_classes, name="logits")(x)
        x = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
        return keras.Model(inputs, x, name=architecture)


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
    return keras.Model(model.input, model.get_layer("pool").input, name=f"{model.name}_backbone")


@contextlib.contextmanager
def computing(model: keras.Model, precision: str) -> Iterator[None]:
    """Have the backbone's layers compute in `precision` meanwhile: float32, mixed_float16 or mixed_bfloat16.

    Weights stay float32, and so does what is made of the last feature map and of grey values: pooling, logits,
    probabilities, preprocessing. Functions that were traced before keep the precision that they were traced in.
    """
    outside = {"image", "grey_to_rgb", "preprocessing", "pool", "dropout", "logits", "probabilities"}
    policies = {layer: layer.dtype_policy for layer in model.layers if layer.name not in outside}
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
    if name == "last_conv":
        name = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)][-1]
    elif name in TARGETS:
        spec = _spec(model.name)
        name = getattr(spec, name) or spec.penultimate
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
    return model.get_layer(layer).output is model.get_layer("pool").input


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
            "earlier layer, 'pool' at the latest"
        )
    return frozen


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

    `weights` is `imagenet`, `source`, `none`, or a file or folder. Returns where they came from: keys
    `weights`, `weights_file` (its name) and `weights_sha256`, empty for `none`.
    Raises InputError when they cannot be had or do not fit.
    """
    path = find_weights(model.name, weights)
    if path is None:
        return {"weights": "none", "weights_file": "", "weights_sha256": ""}
    network = backbone(model)
    try:
        if path.suffix == ".npz":
            _load_npz(network, path)
        elif path.suffix == ".keras":
            _load_keras(network, path)
        else:
            network.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"weights: {path} does not fit the backbone of {model.name} ({reason}): give the file made for this "
            "architecture, without its classification top"
        ) from None
    return {"weights": weights, "weights_file": path.name, "weights_sha256": sha256_file(path)}


def find_weights(architecture: str, weights: str) -> Path | None:
    """The file that `weights` stands for, None for `none`; `imagenet` downloads it into Keras' cache.

    Raises InputError, with what to fetch and where to put it, when it cannot be had.
    """
    spec = _spec(architecture)
    if weights == "none":
        return None
    if weights == "source":
        name = f"{architecture}.npz"
        shipped = resources.files("cxr") / "weights" / name
        for candidate in (source_folder() / name, Path(str(shipped))):
            if candidate.is_file():
                return candidate
        raise InputError(
            f"weights: no source-pretrained weights for {architecture} in {source_folder()} or in the package: "
            f"make them with notebooks/0_pretrain.ipynb (-p architecture {architecture}), or use weights: imagenet"
        )
    if weights == "imagenet":
        return _imagenet(architecture, spec)
    path = Path(weights).expanduser()
    if path.is_dir():
        names = [name for name in (spec.imagenet_file, f"{architecture}.npz", f"{architecture}.keras") if name]
        for name in names:
            if (path / name).is_file():
                return path / name
        raise InputError(f"weights: the folder {path} holds none of {', '.join(names)}")
    if not path.is_file():
        raise InputError(
            f"weights: '{weights}' is none of imagenet, source and none, and there is no such file or folder"
        )
    if path.suffix not in (".h5", ".keras", ".npz"):
        raise InputError(f"weights: {path} is not a .h5, .keras or .npz file")
    return path


def source_folder() -> Path:
    """Where `0_pretrain.ipynb` puts weights, and where `weights: source` looks first."""
    return default_cache() / "weights"


def save_source(model: keras.Model, folder: Path, *, provenance: dict) -> Path:
    """Write the backbone's weights in float16 to `folder/<architecture>.npz`, and how they were made
    (`provenance`) with their SHA-256 to the `.json` beside it. Returns the `.npz` file."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {_key(v): np.asarray(v, np.float16) for v in backbone(model).weights if not _is_seed(v)}
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


def _spec(architecture: str) -> Architecture:
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture: unknown '{architecture}': use one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture]


def _key(variable: keras.Variable) -> str:
    return "/".join(variable.path.split("/")[-2:])


def _is_seed(variable: keras.Variable) -> bool:
    return "seed_generator" in variable.path


def _load_npz(network: keras.Model, path: Path) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        variables = {_key(v): v for v in network.weights}
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


def _imagenet(architecture: str, spec: Architecture) -> Path:
    if not spec.imagenet_file:
        raise InputError(
            f"weights: there are no ImageNet weights for {architecture}: use weights: source, or one of "
            f"{', '.join(name for name, s in ARCHITECTURES.items() if s.imagenet_file)}"
        )
    url = f"{spec.imagenet_url}/{spec.imagenet_file}"
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return Path(
            keras.utils.get_file(
                spec.imagenet_file, url, cache_dir=cache, cache_subdir="models", file_hash=spec.imagenet_md5
            )
        )
    except Exception as error:  # urllib's, socket's and Keras' own
        raise InputError(
            f"weights: the ImageNet weights of {architecture} cannot be downloaded here "
            f"({str(error).splitlines()[0]}): on a machine with a network fetch {url} (MD5 {spec.imagenet_md5}), "
            f"put it into {cache / 'models'} or any folder, and in the second case set weights: FOLDER"
        ) from None
