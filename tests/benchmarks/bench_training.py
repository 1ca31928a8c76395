"""What makes training quick, and what it costs: `python tests/benchmarks/bench_training.py [--small]`.

Three tables. The first step of fine-tuning against plain `keras.Model.fit` with Adam, in fresh processes, both
with deterministic operations (and so without XLA); and how far the losses of all steps are apart. Stage 1 without
augmentation against `fit` with a frozen backbone. What mixed precision and XLA change, on phantom images: accuracy
and the fine-tuned network's maps (medians of the test images) against those of float32, beside what another seed
changes. Ratios are of processor time of all cores, which other work on the machine hardly touches. `--small`: the
compact architectures alone. For a machine without an accelerator, where mixed precision and XLA save no time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from cxr.attribution import explaining
from cxr.core.architectures import KNOWN
from cxr.core.params import TrainParams
from cxr.data import loading
from cxr.data import manifest as data_manifest
from cxr.metrics import similarity
from cxr.models import build
from cxr.models import weights as models_weights
from cxr.training import fitting, optimisation, stages

BATCH = 16
SPLITS = ("train", "val", "test")
WAYS = {
    "float32": {},
    "another seed": {"seed": 1},
    "mixed_bfloat16": {"precision": "mixed_bfloat16"},
    "mixed_float16": {"precision": "mixed_float16"},
    "XLA": {"xla": True},
}


class Clock:
    """Seconds since it was made: of processors, and of the wall."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self.cpu, time.perf_counter() - self.wall


def noise(n: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 256, (n, side, side), np.uint8), np.arange(n) % 5


def first_step(kind: str, architecture: str, side: str, steps: str) -> dict:
    """Seconds until the first step has been made, and the mean loss after each; `kind` is plain or cxr."""
    side, steps = int(side), int(steps)
    settings = TrainParams(architecture=architecture, image_size=side, batch_size=BATCH, weights="none")
    stages.seed_everything(0)
    model = build.build(architecture, n_classes=5, image_size=side)
    for layer in model.layers:  # as `fine_tune` has it by default
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    images, labels = noise(BATCH * steps, side)
    batches = tf.data.Dataset.from_tensor_slices((images[..., None], labels)).batch(BATCH)
    times, losses = [], []

    def on_train_batch_end(batch, logs):
        times.append(clock.read())
        losses.append(logs["loss"])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)
    clock = Clock()
    trainee = keras.Model(model.input, model.get_layer("logits").output)
    optimizers = True
    if kind == "cxr":
        optimisation.compile_model(trainee, 1e-4, settings, labels)
        optimizers = False  # as `_fit` has it
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainee.compile(keras.optimizers.Adam(1e-4), loss=loss, metrics=["accuracy"])
    with optimisation.graph_optimizers(on=optimizers):
        trainee.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[callback])
    later = (times[-1][0] - times[0][0]) / max(1, steps - 1)
    return {"cpu": times[0][0], "wall": times[0][1], "later": later, "losses": losses}


def stage_1(architecture: str, side: str, n: str) -> dict:
    """Ten epochs on `n` images: `fit` with a frozen backbone, and `transfer`, without and with cached features."""
    n_train, side = int(n), int(side)
    settings = TrainParams(
        architecture=architecture,
        image_size=side,
        batch_size=BATCH,
        weights="none",
        transfer_epochs=10,
        transfer_patience=10,
        extra_heads=0,
    )
    images, labels = noise(n_train + BATCH, side)
    train, val = (images[:n_train], labels[:n_train]), (images[n_train:], labels[n_train:])
    found = {}

    def model():
        stages.seed_everything(0)
        return build.build(architecture, n_classes=5, image_size=side)

    def note(name, trained, clock):
        weights = [weight.tobytes() for weight in trained.get_layer("logits").get_weights()]
        found[name] = [*clock.read(), weights == reference if name != "fit" else True]
        return weights

    theirs = model()
    clock = Clock()
    for layer in theirs.layers:
        layer.trainable = layer.name == "logits"
    trainee = keras.Model(theirs.input, theirs.get_layer("logits").output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainee.compile(keras.optimizers.Adam(settings.transfer_learning_rate), loss=loss, metrics=["accuracy"])
    trainee.fit(
        fitting.dataset(train, settings, training=True),
        validation_data=fitting.dataset(val, settings, training=False),
        epochs=10,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)],
    )
    reference = note("fit", theirs, clock)
    with tempfile.TemporaryDirectory() as cache:
        for name in ("transfer", "transfer, features from the cache"):
            ours = model()
            clock = Clock()
            stages.transfer(ours, train, val, settings, cache=cache)
            note(name, ours, clock)
    return found


def precision(n: str, side: str, epochs: str, ways: str) -> list:
    """Both stages on `n` phantom images in each of the first `ways`, against the first."""
    side = int(side)
    settings = TrainParams(
        phantom_images=int(n),
        image_size=side,
        transfer_epochs=20,
        fine_tune_epochs=int(epochs),
        extra_heads=0,
        deterministic=False,
    )
    manifest = data_manifest.build_manifest(settings)
    images = loading.load_images(
        manifest, root=None, size=side, cache=None, lesion_contrast=settings.lesion_contrast
    )
    labels = data_manifest.class_index(manifest["label"], data_manifest.classes(manifest))
    train, val, test = (
        (images[rows], labels[rows]) for rows in ((manifest["split"] == name).to_numpy() for name in SPLITS)
    )
    rows, reference = [], None
    for name, changes in list(WAYS.items())[: int(ways)]:
        way = settings.model_copy(update=changes)
        stages.seed_everything(way.seed, deterministic=False)
        model = build.build(way.architecture, n_classes=5, image_size=side)
        models_weights.load_backbone(model, "source")
        clock = Clock()
        stages.transfer(model, train, val, way)
        stages.fine_tune(model, train, val, way)
        seconds = clock.read()[0]
        accuracy = (stages.predict(model, test[0], 32).argmax(1) == test[1]).mean()
        maps = explaining.attribute(model, *test, layer="penultimate", methods=["layercam"])["layercam"]
        reference = maps if reference is None else reference
        drifts = similarity.compare_maps(reference, maps, size=side)
        middle = [float(np.nanmedian(drifts[metric])) for metric in ("pearson", "overlap")]
        rows.append([name, accuracy, *middle, seconds])
    return rows


SECTIONS = {"first_step": first_step, "stage_1": stage_1, "precision": precision}


def fresh(section: str, *arguments) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--section", section, *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the compact architectures alone")
    parser.add_argument("--section", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        name, *arguments = options.section
        print(json.dumps(SECTIONS[name](*arguments)))
        return
    small = options.small

    columns = f"{'processors':>24}{'wall':>22}{'a later step':>21}{'losses differ by':>18}"
    print(f"{'first step of fine-tuning':36}{columns}")
    for architecture, side, steps in (
        [("CompactResNetV2", 64, 3)] if small else [("DenseNet201", 96, 20), ("DenseNet201", 224, 2)]
    ):
        plain, ours = (fresh("first_step", kind, architecture, side, steps) for kind in ("plain", "cxr"))
        off = np.abs(np.subtract(plain["losses"], ours["losses"])).max()
        print(
            f"{f'{architecture}, {side} px, {steps} steps':36}"
            + "".join(
                f"{plain[key]:8.1f} {ours[key]:6.1f} s{ours[key] / plain[key]:6.2f}" for key in ("cpu", "wall")
            )
            + f"{plain['later']:10.2f} {ours['later']:6.2f} s{off:18.1e}",
            flush=True,
        )

    cases = [(name, 224, 64) for name in KNOWN[:3]]
    for architecture, side, n in [("CompactResNetV2", 64, 64)] if small else cases:
        heading = f"stage 1, {architecture}, {side} px, {n} images, 10 epochs"
        columns = f"{'processors':>12}{'times faster':>14}{'wall':>9}{'times faster':>14}  head's weights"
        print(f"\n{heading:60}{columns}")
        found = fresh("stage_1", architecture, side, n)
        for name, (cpu, wall, equal) in found.items():
            print(
                f"{name:60}{cpu:10.1f} s{found['fit'][0] / cpu:14.1f}{wall:7.1f} s{found['fit'][1] / wall:14.1f}"
                f"  {'equal to the bit' if equal else 'DIFFERENT'}",
                flush=True,
            )

    n, side, epochs, ways = (60, 64, 1, 2) if small else (400, 96, 3, 5)
    heading = f"CompactResNetV2 on {n} phantom images, {side} px"
    print(f"\n{heading:44}{'accuracy':>10}{'pearson':>10}{'overlap':>8}{'both stages':>14}")
    for name, accuracy, pearson, iou, seconds in fresh("precision", n, side, epochs, ways):
        print(f"{name:44}{accuracy:10.3f}{pearson:10.3f}{iou:8.3f}{seconds:12.1f} s", flush=True)


if __name__ == "__main__":
    main()
