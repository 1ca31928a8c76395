"""Images a second from disk to tensor: `python tests/benchmarks/bench_data.py [--small] [--files N]`.

JPEGs as those of a real set (grey, longest side 320, some 17 kB) become 224 x 224 pixels in batches of 32, in the
ways of 1_train and 2_attribute:

    files            `data.load_images` into a new cache entry, then one pass over it by `training._dataset`
    cache            that pass alone, in order and shuffled as in training; `new`: the first pass of a data set,
                     with the making of its graph; `cold`: after the system was told to forget the file (Linux)
    rows             the reading alone, without TensorFlow

and as the yardstick what tf.data alone does with the same files (`decode_jpeg`, `resize` with antialias,
rounding), which neither hashes nor checks them.

`wall` is what a user waits for, `core` per second of processor time, `cores` the processor time a second: on a
machine that is shared `core` says more. Of each the best of several turns, in which the ways alternate.
"""

import argparse
import mmap
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter

from cxr.core import arrays
from cxr.core.params import DataParams, TrainParams
from cxr.data import loading, reading
from cxr.data import manifest as data_manifest
from cxr.data.phantom import rendering
from cxr.training import fitting

SIZE = 224
BATCH = 32


def make_files(folder: Path, n: int) -> None:
    """n JPEGs in two classes: 16 phantoms, blurred to the file size of real ones, cut here and there."""
    rng = np.random.default_rng(0)
    pictures = rendering.render_stack(0, range(16), 330)[0]
    pictures = [gaussian_filter(picture.astype(np.float32), 0.7) for picture in pictures]
    for number in range(n):
        height, width = rng.permutation([320, int(rng.integers(220, 321))])
        down, right = rng.integers(0, 11, 2)
        grey = pictures[number % 16][down : down + height, right : right + width]
        path = folder / "ab"[number % 2] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(grey).astype(np.uint8)).save(path, "JPEG", quality=90)


def consume(batches: tf.data.Dataset) -> None:
    for _ in batches:
        pass


def by_tf(paths: list[str]) -> tf.data.Dataset:
    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=1)
        return tf.cast(tf.round(tf.image.resize(image, (SIZE, SIZE), antialias=True)), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(paths).map(load, num_parallel_calls=reading.cores())
    return dataset.batch(BATCH).prefetch(2)


def forget(rows: np.memmap) -> None:
    """Have the system drop the file from memory: first what is mapped here, then its own copy."""
    rows._mmap.madvise(mmap.MADV_DONTNEED)
    with open(rows.filename, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(ways: dict[str, tuple[int, Callable, Callable]], repeats: int) -> None:
    """`ways`: images, what is done before, and what is measured."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (_, before, call) in ways.items():
            before()
            wall, core = time.perf_counter(), time.process_time()
            call()
            found[name].append((time.perf_counter() - wall, time.process_time() - core))
    print(f"{'':34}{'wall':>9}{'core':>9}{'cores':>7}   images/s")
    for name, (n, _, _) in ways.items():
        wall, core = (min(times) for times in zip(*found[name], strict=True))
        cores = max(core / wall for wall, core in found[name])
        print(f"{name:34}{n / wall:9.0f}{n / core:9.0f}{cores:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="200 files")
    parser.add_argument("--files", type=int, default=0)
    arguments = parser.parse_args()
    n = arguments.files or (200 if arguments.small else 3000)
    n_rows = 3 * n  # of the cache
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="cxr-data-") as place:
        folder = Path(place) / "images"
        make_files(folder, n)
        manifest = data_manifest.build_manifest(DataParams(data=str(folder)))
        paths = [str(folder / path) for path in manifest["path"]]
        kilobytes = sum(os.path.getsize(path) for path in paths) / n / 1000
        settings = TrainParams(architecture="CompactResNetV2", image_size=SIZE, batch_size=BATCH, weights="none")

        def dataset(images: np.ndarray, shuffled: bool) -> tf.data.Dataset:
            return fitting.dataset((images, np.zeros(len(images), np.int32)), settings, training=shuffled)

        def from_files() -> None:
            with tempfile.TemporaryDirectory(dir=place) as cache:
                images = loading.load_images(manifest, root=folder, size=SIZE, cache=Path(cache))
                consume(dataset(images, shuffled=False))

        noise = np.random.default_rng(0).integers(0, 256, (100, SIZE, SIZE), dtype=np.uint8)
        rows = arrays.write(
            Path(place) / "rows.npy", (n_rows, SIZE, SIZE), np.uint8, (noise for _ in range(n_rows // 100))
        )
        order = np.random.default_rng(0).permutation(n_rows)

        def read_in_order() -> None:
            for first in range(0, n_rows, BATCH):
                np.array(rows[first : first + BATCH])

        def read_shuffled() -> None:
            for first in range(0, n_rows, BATCH):
                rows[order[first : first + BATCH]]

        in_order, shuffled = dataset(rows, shuffled=False), dataset(rows, shuffled=True)

        def nothing() -> None:
            pass

        def cold() -> None:
            forget(rows)

        print(
            f"{n} JPEGs of {kilobytes:.1f} kB, a cache of {n_rows} images, to {SIZE} x {SIZE}, batches of "
            f"{BATCH}; {reading.cores()} cores"
        )
        ways = {
            "files": (n, nothing, from_files),
            "files, tf.data alone": (n, nothing, lambda: consume(by_tf(paths))),
            "cache, in order": (n_rows, nothing, lambda: consume(in_order)),
            "cache, in order, new": (n_rows, nothing, lambda: consume(dataset(rows, shuffled=False))),
            "cache, in order, cold": (n_rows, cold, lambda: consume(in_order)),
            "cache, shuffled": (n_rows, nothing, lambda: consume(shuffled)),
            "cache, shuffled, new": (n_rows, nothing, lambda: consume(dataset(rows, shuffled=True))),
            "cache, shuffled, cold": (n_rows, cold, lambda: consume(shuffled)),
            "rows, in order": (n_rows, nothing, read_in_order),
            "rows, shuffled": (n_rows, nothing, read_shuffled),
            "rows, shuffled, cold": (n_rows, cold, read_shuffled),
        }
        report(ways, repeats=2 if arguments.small else 5)


if __name__ == "__main__":
    main()
