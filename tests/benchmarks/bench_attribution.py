"""What attribution costs, in forward passes: `python tests/benchmarks/bench_attribution.py [--small]`.

`default` are LayerCAM and Grad-CAM++ at `penultimate`, `variants` all their variants (`cxr.attribution.variants`).
Weights are random. Times are processor time of all cores, which other work on the machine hardly touches, of a
batch and of warm, compiled functions; their tracing is given apart. `--small`: the compact architectures alone.
For a machine without an accelerator.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from cxr import attribution, models
from cxr.params import ARCHITECTURES


def seconds(call, repeats: int) -> tuple[float, float]:
    """Of the first call beyond a later one, and the best of the later ones."""
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    best = min(times[1:])
    return times[0] - best, best


def measure(architecture: str, *, side: int, n: int, repeats: int) -> None:
    keras.utils.set_random_seed(0)
    model = models.build(architecture, n_classes=5, image_size=side)
    images = tf.random.uniform((n, side, side, 1), 0, 255)
    classes = tf.constant(np.arange(n) % 5, tf.int32)
    methods = ("layercam", "gradcampp")
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    default = attribution._explainer(model, "penultimate", methods)
    everything, _, _ = attribution._variants_explainer(model, "penultimate", methods)
    _, bare = seconds(lambda: forward(images), repeats)
    first, plain = seconds(lambda: default(images, classes), repeats)
    first_all, varied = seconds(lambda: everything(images, classes), repeats)
    print(
        f"{architecture:18}{bare:9.3f} s{plain:9.3f} s{varied:9.3f} s{plain / bare:14.2f}{varied / plain:14.2f}"
        f"{first:12.1f} s{first_all:9.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the compact architectures alone")
    small = parser.parse_args().small
    print(f"{'':18}{'forward':>11}{'default':>11}{'variants':>11}{'default/fwd':>14}{'variants/def.':>14}"
          f"{'tracing: def.':>14}{'variants':>11}")  # fmt: skip
    for name in ARCHITECTURES[3:]:
        measure(name, side=128, n=32, repeats=10)
    for name in () if small else ARCHITECTURES[:3]:
        measure(name, side=224, n=16, repeats=2)


if __name__ == "__main__":
    main()
