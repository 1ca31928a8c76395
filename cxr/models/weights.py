"""Weights of networks and of heads: where they are found, how they are loaded and saved, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cxr.core import architectures
from cxr.core.errors import InputError, first_line
from cxr.core.files import atomic, sha256_file
from cxr.data.cache import default_cache
from cxr.models import foreign
from cxr.models.build import ARCHITECTURES, application_network, backbone


def load(path: str | Path, architecture: str) -> keras.Model:
    """Load a checkpoint that a study saved, without running code that it holds.

    If `architecture` is the user's function, its module is imported first, so that Keras knows the layers that it
    registers (`keras.saving.register_keras_serializable`).
    """
    if architectures.is_entry_point(architecture):
        architectures.function(architecture)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def load_into(model: keras.Model, path: str | Path) -> None:
    """Give `model` the weights of a checkpoint of the same network, in place; what was compiled for it stays.

    The weights are unpacked first: from within the archive, Keras reads those of an InceptionV3 in 5 s instead of
    0.7 s.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        model.load_weights(archive.extract("model.weights.h5", folder))


def load_backbone(model: keras.Model, weights: str) -> dict[str, str]:
    """Load pretrained backbone weights into `model`, in place; the head keeps its own.

    `weights` is `imagenet`, `source`, `none`, or a file or folder. A model that the user's function made keeps the
    weights that it has, unless `weights` is one file.

    Returns where the weights came from: `weights` (`own` for those of the user's function), `weights_file` (a
    name) and `weights_sha256`. The last two are empty for `none` and `own`. Raises InputError if the weights
    cannot be had or do not fit.
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
    """The file that `weights` stands for. `imagenet` downloads it into Keras' cache.

    None for `none`, and for the user's function, unless `weights` is one file. Raises InputError if the file
    cannot be had; the message says what to fetch and where to put it.
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
    if file.exists() and not file.is_file():
        raise InputError(f"weights: {file} is no regular file: give a .h5, .keras or .npz file")
    if not file.is_file():
        raise InputError(
            f"weights: '{weights}' is none of imagenet, source and none, and there is no such file or folder"
        )
    if file.suffix not in (".h5", ".keras", ".npz"):
        raise InputError(f"weights: {file} is not a .h5, .keras or .npz file")
    return file


def source_folder() -> Path:
    """The folder to which `0_pretrain.ipynb` writes weights, and where `weights: source` looks first."""
    return default_cache() / "weights"


def save_source(model: keras.Model, folder: Path, *, provenance: dict) -> Path:
    """Write the backbone's weights in float16 to `folder/<architecture>.npz`. Returns this file.

    The `.json` file beside it gets their SHA-256 and how they were made (`provenance`). Raises InputError if two
    weights have the same name, and ValueError if a weight does not fit float16.
    """
    kept = [v for v in backbone(model).weights if not _is_seed(v)]
    arrays = {_key(v): np.asarray(v, np.float16) for v in kept}
    if len(arrays) < len(kept):
        raise InputError(f"{model.name}: several weights have one name, so that a .npz file cannot hold them")
    return write(folder / f"{model.name}.npz", arrays, {"architecture": model.name, **provenance})


def write(path: Path, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> Path:
    """Write float16 weights by name to an `.npz`, and their SHA-256 and `provenance` to the `.json` beside it.

    Returns `path`. Raises ValueError if a weight does not fit float16.
    """
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise ValueError(f"{path.stem}: a weight does not fit float16")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    record = {"sha256": sha256_file(path), **provenance}
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return path


def sha256_weights(model: keras.Model) -> str:
    """SHA-256 over the names, shapes and values of a model's weights.

    Equal networks have equal hashes. The hash of a `.keras` file differs, since the file holds the time of saving.
    """
    digest = hashlib.sha256()
    for variable in model.weights:
        if not _is_seed(variable):
            array = np.ascontiguousarray(variable)
            digest.update(f"{_key(variable)} {array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _is_users(name: str) -> bool:
    """Whether an architecture, or the model named after it, comes from the user's function."""
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
    """Load Keras' own weights into the network as Keras builds it, maybe nested, and copy them from there."""
    side, n_classes = model.input_shape[1], model.output_shape[1]
    network = application_network(model.name, side)
    network.load_weights(path)
    other = foreign.adapt(network, preprocessing=model.name, classes=n_classes)
    # by order, not by name: Keras numbers some layers by a global counter
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


Head = tuple[np.ndarray, ...]
"""The weights of a head, in the order of its layers: (kernel [d, n_classes], bias [n_classes]) for ours."""


def save_heads(path: str | Path, heads: Sequence[Head]) -> None:
    """Write heads to an `.npz` file (no pickle): the weights of head k as `k_0` (kernel), `k_1` (bias), ..."""
    arrays = {f"{k}_{i}": weight for k, head in enumerate(heads) for i, weight in enumerate(head)}
    with open(path, "wb") as file:  # NumPy would append a suffix to a name without
        np.savez(file, **arrays)


def load_heads(path: str | Path) -> list[Head]:
    """Read the heads that `save_heads` wrote, in order. Raises InputError if the file is not one of these."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as heads ({error}): run 1_train again") from None
    heads = []
    while f"{len(heads)}_0" in arrays:
        names = [f"{len(heads)}_{i}" for i in range(len(arrays))]
        heads.append(tuple(arrays.pop(name) for name in names if name in arrays))
    if arrays:
        raise InputError(f"{path}: holds {', '.join(arrays)} beside heads: give a file that save_heads wrote")
    return heads
