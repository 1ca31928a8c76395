"""Attribution beside the libraries that users pick: tf-keras-vis, Xplique, pytorch-grad-cam.

    python tests/benchmarks/bench_peers.py [--environment FOLDER] [--small]

LayerCAM and Grad-CAM++ of one batch, called as each library's documentation does, at the layer of the same place
in the network; 224 pixels, batches of 16, random weights. Beside each: the bare forward pass of its framework
(compiled by tf.function, or torch in inference mode). Xplique has no LayerCAM: its Grad-CAM stands in. `again`:
our `explaining.attribute`, which is called with the model each time, after the first call.

Each library has a process of its own, in two rounds of alternating order; times are the least of all repeats.
PyTorch and Xplique are installed into an environment of their own (`--environment`, kept for the next time; 2 GB).
For PyTorch without CUDA: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. `--small`: one network, small
images.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

PEERS = (
    "torch>=2.9",
    "torchvision>=0.24",
    "grad-cam==1.5.7",
    "tf-keras==2.21.*",
    "tensorflow-probability==0.25.*",
    "einops",
    "deprecated",
)
XPLIQUE = "xplique==2.0.2"  # without what it requires: TensorFlow with CUDA
NETWORKS = {  # ours: torchvision's, and its layer where ours is (`penultimate`)
    "DenseNet201": ("densenet201", "features.denseblock3"),
    "ResNet50V2": ("resnet50", "layer3"),
    "InceptionV3": ("inception_v3", "Mixed_6e"),
}
LIBRARIES = ("cxr", "tf-keras-vis", "xplique", "pytorch-grad-cam")
Call = Callable[[], object]


def calls_of(library: str, network: str, layer: str, side: int, n: int) -> dict[str, Call]:
    """What is timed of a library: `forward`, `maps`, and for `cxr` also `again`."""
    if library == "pytorch-grad-cam":
        return of_torch(network, side, n)
    if library == "xplique":
        return of_xplique(network, layer, side, n)
    return of_cxr(network, side, n) if library == "cxr" else of_tf_keras_vis(network, side, n)


def of_cxr(network: str, side: int, n: int) -> dict[str, Call]:
    from bench_attribution import METHODS, Case

    from cxr.attribution import explaining

    case, options = Case(network, side, n), {"layer": "penultimate", "batch_size": n, "methods": METHODS}
    again = functools.partial(explaining.attribute, case.model, case.images, case.classes, **options)
    return {"forward": case.forward, "maps": case.cxr, "again": again}


def of_tf_keras_vis(network: str, side: int, n: int) -> dict[str, Call]:
    from bench_attribution import Case

    case = Case(network, side, n)
    return {"forward": case.forward, "maps": case.tf_keras_vis}


def of_xplique(network: str, layer: str, side: int, n: int) -> dict[str, Call]:
    import keras
    import numpy as np
    import tensorflow as tf

    sys.modules["torch"] = None  # Xplique would import it too, and with both in one process it crashes
    from xplique.attributions import GradCAM, GradCAMPP

    kind = getattr(keras.applications, network)
    model = kind(weights=None, classes=5, input_shape=(side, side, 3), classifier_activation=None)
    images = np.random.default_rng(0).random((n, side, side, 3), np.float32)
    targets = np.eye(5, dtype=np.float32)[np.arange(n) % 5]
    explainers = [kind(model, batch_size=n, conv_layer=layer) for kind in (GradCAM, GradCAMPP)]
    compiled = tf.function(lambda x: model(x, training=False), autograph=False)
    return {
        "forward": lambda: compiled(tf.constant(images)).numpy(),
        "maps": lambda: [np.asarray(explain(images, targets)) for explain in explainers],
    }


def of_torch(network: str, side: int, n: int) -> dict[str, Call]:
    import torch
    import torchvision
    from pytorch_grad_cam import GradCAMPlusPlus, LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    name, layer = NETWORKS[network]
    options = {"transform_input": False, "aux_logits": False, "init_weights": False} if "inception" in name else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=5, **options).eval()
    images = torch.rand((n, 3, side, side))
    targets = [ClassifierOutputTarget(k % 5) for k in range(n)]

    def forward():
        with torch.inference_mode():
            return model(images)

    at = {"model": model, "target_layers": [model.get_submodule(layer)]}
    explainers = [kind(**at) for kind in (LayerCAM, GradCAMPlusPlus)]
    given = {"input_tensor": images, "targets": targets}
    return {"forward": forward, "maps": lambda: [explain(**given) for explain in explainers]}


def measure(library: str, network: str, layer: str, side: int, n: int, repeats: int) -> None:
    """Print the least seconds of each call, as JSON; the first call of each is not counted."""
    found = {}
    for name, call in calls_of(library, network, layer, side, n).items():
        call()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        found[name] = min(seconds)
    print(json.dumps(found))


def peers(folder: Path) -> Path:
    """The Python of the environment of the peers, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installs {', '.join((*PEERS, XPLIQUE))} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PEERS, "scikit-image", "scikit-learn"], check=True)
        subprocess.run([*install, "--no-deps", XPLIQUE], check=True)
        (folder / "complete").touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="where the peers are (default: in the cache)")
    parser.add_argument("--small", action="store_true", help="one network, small images")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if given.measure:
        library, network, layer, *numbers = given.measure
        measure(library, network, layer, *map(int, numbers))
        return

    import pandas as pd

    from cxr.data.cache import default_cache
    from cxr.models import build, targets

    theirs = peers(given.environment or default_cache() / "peers")
    side, n, repeats = (96, 4, 1) if given.small else (224, 16, 3)
    rows = []
    for network in ["ResNet50V2"] if given.small else NETWORKS:
        layer = targets.target_layer(build.build(network, n_classes=5, image_size=side), "penultimate")
        best: dict[str, dict[str, float]] = {name: {} for name in LIBRARIES}
        for order in (LIBRARIES, LIBRARIES[::-1]):
            for library in order:
                python = theirs if library in ("xplique", "pytorch-grad-cam") else sys.executable
                words = [python, __file__, "--measure", library, network, layer, *map(str, (side, n, repeats))]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                for call, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                    best[library][call] = min(seconds, best[library].get(call, seconds))
        for library, found in best.items():
            own = {"network": network, "library": library, "forward s": found["forward"], "maps s": found["maps"]}
            own |= {"maps / forward": found["maps"] / found["forward"], "again s": found.get("again")}
            rows.append(own | {"maps / ours": found["maps"] / best["cxr"]["maps"]})
            print(*(f"{value:.2f}" if isinstance(value, float) else value for value in own.values()), flush=True)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
