"""What attribution costs beside tf-keras-vis and beside a forward pass.

    python tests/benchmarks/bench_attribution.py [--small]

`forward` is a bare compiled forward pass. `cxr` are LayerCAM and Grad-CAM++ at `penultimate`
(`explaining.attribute`). `tf-keras-vis` are its `Layercam` and its `GradcamPlusPlus` at the same layer,
called as its documentation does, maps enlarged and normalised by it. `all four` adds Grad-CAM and HiResCAM to
`cxr`, `variants` are all of `cams.variants`. Each is measured warm, its least time of some repeats of
one batch, turn by turn; tracing is given apart. `difference`: the largest between maps of the two, each over its
maximum, on the layer's own grid. `memory`: by how much a process that does nothing else grows at its peak, over
what it had with the network loaded (Linux); `saved` is the share of tf-keras-vis' that `cxr` does without.
Weights are random. `--small`: one compact architecture, small images. For a machine without an accelerator.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
import psutil
import tensorflow as tf
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.layercam import Layercam

from cxr.attribution import explaining
from cxr.core.architectures import KNOWN
from cxr.models import build, targets

METHODS = ("layercam", "gradcampp")
FOUR = (*METHODS, "gradcam", "hirescam")
THEIRS = {"layercam": Layercam, "gradcampp": GradcamPlusPlus}


class Case:
    """One architecture with random weights, a batch of images, and what is measured on them."""

    def __init__(self, architecture: str, side: int, n: int) -> None:
        keras.utils.set_random_seed(0)
        self.model = build.build(architecture, n_classes=5, image_size=side)
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (n, -(-side // 8), -(-side // 8)), np.uint8)
        self.images = coarse.repeat(8, 1).repeat(8, 2)[:, :side, :side]
        self.classes = np.arange(n) % 5
        self.layer = targets.target_layer(self.model, "penultimate")
        to_logits = keras.Model(self.model.input, self.model.get_layer("logits").output)
        self.theirs = {name: explainer(to_logits, clone=False) for name, explainer in THEIRS.items()}
        self.forward_pass = tf.function(lambda x: self.model(x, training=False), autograph=False)
        options = {"layer": "penultimate", "batch_size": n}
        self._two = explaining.explainer(self.model, methods=METHODS, **options)
        self._four = explaining.explainer(self.model, methods=FOUR, **options)
        self._variants = explaining.checkpoint_explainer(
            self.model, methods=METHODS, with_variants=True, **options
        )

    def forward(self):
        return self.forward_pass(tf.constant(self.images[..., None], tf.float32)).numpy()

    def cxr(self):
        return self._two(self.images, self.classes)

    def all_four(self):
        return self._four(self.images, self.classes)

    def variants(self):
        return self._variants(self.images, self.classes)

    def tf_keras_vis(self, **options):
        return {
            name: np.asarray(
                explain(
                    lambda output: tf.gather(output, self.classes, batch_dims=1),
                    self.images[..., None].astype(np.float32),
                    penultimate_layer=self.layer,
                    seek_penultimate_conv_layer=False,
                    **options,
                )
            )
            for name, explain in self.theirs.items()
        }

    def difference(self) -> float:
        theirs = self.tf_keras_vis(expand_cam=False, normalize_cam=False)
        pairs = [(unit(maps), unit(theirs[name])) for name, maps in self.cxr().items()]
        return max(float(np.abs(ours - others).max()) for ours, others in pairs)


CALLS = ("forward", "cxr", "tf_keras_vis", "all_four", "variants")


def unit(maps: np.ndarray) -> np.ndarray:
    return maps / maps.max(axis=(1, 2), keepdims=True)


def peak_growth(call: str, *case) -> float:
    """MiB by which a process of its own grows when it makes that call, twice."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", call, *map(str, case)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def print_peak_growth(call: str, architecture: str, side: str, n: str) -> None:
    case = Case(architecture, int(side), int(n))
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak, starts anew: Linux
    for _ in range(2):
        getattr(case, call)()
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(int(peak) / 2**10 - before / 2**20)


def measure(architecture: str, side: int, n: int, repeats: int) -> dict[str, object]:
    case = Case(architecture, side, n)
    times = {name: [] for name in CALLS}
    for _ in range(1 + repeats):
        for name in CALLS:  # turn by turn: what else goes on meets all of them
            start = time.perf_counter()
            getattr(case, name)()
            times[name].append(time.perf_counter() - start)
    best = {name: min(measured[1:]) for name, measured in times.items()}
    peak = {name: peak_growth(name, architecture, side, n) for name in ("cxr", "tf_keras_vis")}
    return {
        "architecture": architecture,
        "forward s": best["forward"],
        "cxr s": best["cxr"],
        "tf-keras-vis s": best["tf_keras_vis"],
        "tf-keras-vis / cxr": best["tf_keras_vis"] / best["cxr"],
        "cxr / forward": best["cxr"] / best["forward"],
        "all four / cxr": best["all_four"] / best["cxr"],
        "variants / cxr": best["variants"] / best["cxr"],
        "difference": f"{case.difference():.0e}",
        "memory cxr MiB": peak["cxr"],
        "tf-keras-vis MiB": peak["tf_keras_vis"],
        "saved": 1 - peak["cxr"] / peak["tf_keras_vis"],
        "tracing s": times["cxr"][0] - best["cxr"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one compact architecture, small images")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print_peak_growth(*given.peak)
        return
    cases = [(name, 128, 32, 5) for name in KNOWN[3:]] + [(name, 224, 16, 3) for name in KNOWN[:3]]
    if given.small:
        cases = [("CompactResNetV2", 64, 4, 2)]
    rows = [measure(*case) for case in cases]
    print(pd.DataFrame(rows).set_index("architecture").T.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
