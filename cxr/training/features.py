"""Features that a frozen backbone computes from images. They are computed once, and kept in the cache.

An entry of the cache is one `.npy` file beside the decoded images. Its name is the SHA-256 of all that it depends
on: images, weights, precision, batches and code. A second seed, another head or a resumed training reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.files import sha256_file
from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.data import cache as data_cache
from cxr.models import build, compact, compiled, flatten, foreign, graph, preprocessing, tokens, weights

Images = np.ndarray | arrays.Subset  # uint8 [n, side, side], in memory or not
_IN_MEMORY = 2**25  # bytes; larger features stay in a file
_OUTPUT_BYTES = 2**24  # of a model's output in one call
_CODE = (build, compact, compiled, flatten, foreign, graph, preprocessing, tokens)  # they make the network


def pooled(network: keras.Model, images: Images, settings: TrainParams, *, cache: Path | None = None) -> Images:
    """Pooled features float32 [n, d] of the backbone in inference mode, for grey images uint8 [n, side, side].

    They are computed in batches of `settings.batch_size`, with or without XLA as `settings.xla` says, in the
    precision that the layers have (`build.computing`).

    Args:
        network: what `build.to_features` made of a classifier. It is traced once for several sets of images.
        cache: a folder. Features are read from there, or computed and kept there, within `$CXR_CACHE_GIB`. A
            damaged entry is computed again, with a warning. If an entry cannot be written, a progress line says
            so. If another process is writing the entry, this one waits for it.

    Returns an array: in memory up to 32 MiB, otherwise the entry or a temporary file, mapped into memory. Raises
    InputError if there is no room for a temporary file.
    """
    shape = (len(images), *network.output.shape[1:])

    def make() -> Iterator[np.ndarray]:
        progress(f"transfer: features of {len(images)} images")
        return predicted(network, images, settings.batch_size, xla=settings.xla)

    if cache is not None:
        path = Path(cache) / f"features-{key(network, images, settings)}.npy"
        try:
            found = data_cache.entry(path, shape, np.float32, make)
            return np.array(found) if found.nbytes <= _IN_MEMORY else found
        except OSError as error:
            progress(
                f"features: cannot be kept in {path.parent} ({error.strerror}): this run keeps them for itself"
            )
    if 4 * math.prod(shape) <= _IN_MEMORY:
        return np.concatenate(list(make()))
    try:
        return arrays.temporary(shape, np.float32, make())
    except OSError as error:
        raise InputError(
            f"features: cannot write a temporary file of {4 * math.prod(shape) >> 20} MiB ({error.strerror}): set "
            "TMPDIR to a folder with room"
        ) from None


def predicted(model: keras.Model, images: Images, batch_size: int, *, xla: bool = False) -> Iterator[np.ndarray]:
    """The outputs of `model`, in blocks. Batches are those of one call; few are in memory at a time."""
    row = 4 * math.prod(model.output.shape[1:])
    block = max(1, _OUTPUT_BYTES // (row * batch_size)) * batch_size
    for first in range(0, len(images), block):
        rows = tf.data.Dataset.range(first, min(first + block, len(images))).batch(batch_size)
        batches = rows.map(lambda rows: tf.cast(gather(images, rows), tf.float32)).prefetch(2)
        if model.distribute_strategy.num_replicas_in_sync > 1:
            model.jit_compile = xla  # otherwise Keras chooses, and bits may differ
            yield model.predict(batches, verbose=0)  # shares a batch among the devices
        else:
            compute = compiled.outputs(model, xla=xla)
            yield np.concatenate([compute(batch) for batch in batches])


def gather(array: Images, rows: tf.Tensor) -> tf.Tensor:
    """Rows of an array by their numbers, int [m]: images as [m, side, side, 1], others as [m, ...].

    They are read when the graph runs.
    """
    is_image = array.ndim == 3

    def read(rows: np.ndarray) -> np.ndarray:
        return array[rows][..., None] if is_image else array[rows]

    found = tf.numpy_function(read, [rows], tf.as_dtype(array.dtype), stateful=False)
    found.set_shape((None, *array.shape[1:], *([1] * is_image)))
    return found


def key(network: keras.Model, images: Images, settings: TrainParams) -> str:
    """SHA-256 (hex) of all that the bits of `network`'s features depend on.

    These are: the images in their order; names, shapes and values of the weights; the precision of each layer; the
    batch size, since the size of the last batch may select another kernel; whether XLA or deterministic operations
    are used; the code, the configuration of each layer (the code of a user's model is not hashed), and the
    versions of libraries; and the kind of machine.
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
        "weights": weights.sha256_weights(network),
        "graph": graph.configuration(network),
        "layers": [[type(layer).__name__, layer.name, layer.compute_dtype] for layer in network.layers],
        "computing": [settings.architecture, settings.batch_size, settings.xla, settings.deterministic],
        "code": [sha256_file(file) for file in (__file__, *(module.__file__ for module in _CODE))],
        "libraries": [keras.__version__, tf.__version__, np.__version__],
        "machine": [platform.machine(), platform.processor(), *devices],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
