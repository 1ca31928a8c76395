"""What a frozen backbone makes of images: computed once, and kept by what it depends on.

An entry of the cache is one `.npy` file beside the decoded images, named by the SHA-256 of images, weights, way of
computing and code. A second seed, another head, or a training that goes on after a kill reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.data import cache as data_cache
from cxr.models import build, compact, graph

Images = np.ndarray | arrays.Subset  # uint8 [n, side, side], in memory or not

_IN_MEMORY = 2**25  # bytes of features; more stay in a file
_OUTPUT_BYTES = 2**24  # of what a model says in one call
_DIGEST_BYTES = 32  # of a SHA-256


def pooled(model: keras.Model, images: Images, settings: TrainParams, *, cache: Path | None = None) -> Images:
    """Pooled features float32 [n, d] of the backbone in inference mode, for grey images uint8 [n, side, side].

    `model` may itself be what `models.to_features` makes: it is then used as it is, and called for several stacks
    it is traced once.
    In batches of `settings.batch_size`, with its `xla`; what the layers compute in is theirs (`models.computing`).
    With a folder `cache` they are read from there, or computed and kept there within `$CXR_CACHE_GIB`; a damaged
    entry is made anew, with a warning. Where it cannot be written, a progress line says so. Who wants an entry
    that another process is writing waits for it.

    Returns an array, in memory up to 32 MiB, else the entry or a temporary file that is mapped into memory. Raises
    InputError when the latter has no room.
    """
    is_whole = any(layer.name == "logits" for layer in model.layers)
    network = build.to_features(model) if is_whole else model
    shape = (len(images), *network.output.shape[1:])
    if cache is None:
        progress(f"transfer: features of {len(images)} images")
    else:
        path = Path(cache) / f"features-{key(network, images, settings)}.npy"
        if (found := _kept(path, network, images, shape, settings)) is not None:
            return found
    blocks = predicted(network, images, settings.batch_size, xla=settings.xla)
    if 4 * math.prod(shape) <= _IN_MEMORY:
        return np.concatenate(list(blocks))
    try:
        return arrays.temporary(shape, np.float32, blocks)
    except OSError as error:
        raise InputError(
            f"features: cannot write a temporary file of {4 * math.prod(shape) >> 20} MiB ({error.strerror}): set "
            "TMPDIR to a folder with room"
        ) from None


def predicted(model: keras.Model, images: Images, batch_size: int, *, xla: bool = False) -> Iterator[np.ndarray]:
    """What `model` says of the images, in blocks; the batches are those of one call, few in memory at a time."""
    row = 4 * math.prod(model.output.shape[1:])
    block = max(1, _OUTPUT_BYTES // (row * batch_size)) * batch_size
    model.jit_compile = xla  # else Keras chooses, and the bits with it
    for first in range(0, len(images), block):
        rows = tf.data.Dataset.range(first, min(first + block, len(images))).batch(batch_size)
        yield model.predict(rows.map(lambda rows: gather(images, rows)).prefetch(2), verbose=0)


def gather(array: Images, rows: tf.Tensor) -> tf.Tensor:
    """The rows of those numbers, int [m], read when the graph runs: [m, side, side, 1] of images, or [m, ...]."""
    is_image = array.ndim == 3

    def read(rows: np.ndarray) -> np.ndarray:
        return array[rows][..., None] if is_image else array[rows]

    found = tf.numpy_function(read, [rows], tf.as_dtype(array.dtype), stateful=False)
    found.set_shape((None, *array.shape[1:], *([1] * is_image)))
    return found


def key(network: keras.Model, images: Images, settings: TrainParams) -> str:
    """SHA-256 of all that the bits of `network`'s features depend on, hex.

    These are the images in their order; names, shapes and values of the weights; what each layer computes in; the
    batches, since the last one's size may choose another kernel; whether XLA or deterministic operations are
    used; this code, the configuration of each layer, as a foreign model's code is not ours, and its libraries; and
    the kind of machine.
    """
    digest = hashlib.sha256()
    for block in arrays.blocks(images):
        digest.update(np.ascontiguousarray(block).data)
    devices = [
        tf.config.experimental.get_device_details(device).get("device_name", device.device_type)
        for device in tf.config.list_physical_devices()
    ]
    parts = {
        "images": [digest.hexdigest(), list(images.shape), str(images.dtype)],
        "weights": build.sha256_weights(network),
        "graph": _configuration(json.loads(network.to_json())["config"]["layers"]),  # not the model's own name
        "layers": [[type(layer).__name__, layer.name, layer.compute_dtype] for layer in network.layers],
        "computing": [settings.architecture, settings.batch_size, settings.xla, settings.deterministic],
        "code": [build.sha256_file(file) for file in (__file__, compact.__file__, graph.__file__, build.__file__)],
        "libraries": [keras.__version__, tf.__version__, np.__version__],
        "machine": [platform.machine(), platform.processor(), *devices],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _configuration(part: Any) -> Any:
    """A configuration without the numbers by which Keras knows an object again, which are new in every process."""
    if isinstance(part, dict):
        return {key: _configuration(value) for key, value in part.items() if key != "shared_object_id"}
    return [_configuration(value) for value in part] if isinstance(part, list) else part


def _kept(
    path: Path, network: keras.Model, images: Images, shape: tuple[int, ...], settings: TrainParams
) -> Images | None:
    """The features in the entry `path`, made where missing; None when that cannot be written."""
    if (found := _read(path, shape)) is not None:
        return found
    rows = shape[0] + _digest_rows(shape[1])
    waits = f"features: waiting for another process that is writing {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with arrays.locked(path.with_suffix(".lock"), lambda: progress(waits)):
            if (found := _read(path, shape)) is not None:  # another has made it since
                return found
            progress(f"transfer: features of {len(images)} images")
            blocks = predicted(network, images, settings.batch_size, xla=settings.xla)
            data_cache.write_entry(path, (rows, shape[1]), np.float32, _signed(blocks, shape[1]))
    except OSError as error:
        progress(
            f"features: cannot be kept in {path.parent} ({error.strerror}): this run computes them for itself"
        )
        return None
    return _read(path, shape)


def _read(path: Path, shape: tuple[int, ...]) -> Images | None:
    """The features in an entry, which is then the one used last; None when there are none, or others."""
    try:
        rows = arrays.read(path, (shape[0] + _digest_rows(shape[1]), shape[1]), np.float32)
        found, signature = rows[: shape[0]], rows[shape[0] :]
        if signature.tobytes()[:_DIGEST_BYTES] != hashlib.sha256(found.data).digest():
            raise ValueError("has other bytes than were written")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, EOFError) as error:
        warnings.warn(f"{path}: cached features are damaged ({error}) and are made anew", stacklevel=4)
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):  # a cache that others filled and that may only be read
        os.utime(path)
    progress(f"transfer: features of {len(found)} images, from the cache")
    return np.array(found) if found.nbytes <= _IN_MEMORY else found


def _signed(blocks: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """The blocks, then rows that hold their SHA-256: an entry is whole, and right, or it is none."""
    digest = hashlib.sha256()
    for block in blocks:
        block = np.ascontiguousarray(block, np.float32)
        digest.update(block.data)
        yield block
    last = np.zeros(4 * _digest_rows(width) * width, np.uint8)
    last[:_DIGEST_BYTES] = np.frombuffer(digest.digest(), np.uint8)
    yield last.view(np.float32).reshape(-1, width)


def _digest_rows(width: int) -> int:
    """Rows of `width` float32 that a SHA-256 takes."""
    return -(-_DIGEST_BYTES // (4 * width))
