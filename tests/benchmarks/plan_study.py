"""Core hours and bytes of a study that is too large to try, from what this machine measures on a few images.

    python tests/benchmarks/plan_study.py [--params params/paper.yaml] [--images 100000] [--seeds 5] [--epochs 10]
                                          [--workers 1] [--small]

Each architecture's costs per image are measured in a process of its own (compiling, the same for any number of
images, is left out): one pass of the frozen backbone, a fine-tuning step, attribution of a checkpoint with its
variants, and of an extra transfer head; and the bytes of checkpoints, of a backup's state, and of maps. So are
scoring, and comparing: that on tables as large as the study's own, with the memory that it takes. Weights are
random, images noise: arithmetic takes as long with them.

Times are of processors, so that other work on the machine hardly counts: a core hour is an hour of one core, and
`--workers` machines with this one's cores need at the least the total divided by all cores. They cannot make the
longest chain (one training, its attribution, the comparison) shorter. Fine-tuning is planned with `--epochs`; a
patience may end it sooner. Not counted: starting notebooks (about a quarter of a minute each), tests of maps
against the model (a minute or so a network), and waiting for a shared store.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd

from cxr.attribution import explaining
from cxr.core.params import StudyParams, TrainParams
from cxr.metrics import baselines, metric_table, similarity
from cxr.models import build
from cxr.report import comparison
from cxr.statistics import contrasts, rank_tests
from cxr.statistics.score_rows import Scores
from cxr.training import optimisation, stages

CLASSES = 5


def timed(work) -> float:
    """Processor seconds of the second call of two: the first one compiles."""
    work()
    began = time.process_time()
    work()
    return time.process_time() - began


def network(architecture: str, side: str, batch: str) -> dict:
    """Seconds an image, and bytes, of one architecture."""
    import tensorflow as tf

    side, batch = int(side), int(batch)
    settings = TrainParams(architecture=architecture, image_size=side, batch_size=batch, weights="none")
    stages.seed_everything(0)
    model = build.build(architecture, n_classes=CLASSES, image_size=side)
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side), np.uint8)
    labels = np.arange(batch) % CLASSES
    found = {}

    features = build.backbone(model)
    forward = tf.function(lambda x: features(x, training=False), autograph=False)
    tensor = tf.constant(images[..., None], tf.float32)
    found["forward"] = timed(lambda: forward(tensor).numpy()) / batch

    options = {"layer": "penultimate", "methods": ("layercam", "gradcampp"), "batch_size": batch}
    every = explaining.checkpoint_explainer(model, **options, with_variants=True)
    found["explain"] = timed(lambda: every(images, labels)) / batch
    plain = explaining.explainer(model, **options)
    found["explain a head"] = timed(lambda: plain(images, labels)) / batch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        found["checkpoint bytes"] = path.stat().st_size
        maps, variants, _ = every(images, labels)

        def stored(some: np.ndarray) -> float:
            np.savez_compressed(Path(folder) / "maps.npz", maps=some)
            return (Path(folder) / "maps.npz").stat().st_size / batch

        sizes = [stored(of_method) for of_method in maps.values()]
        found["bytes of a map set"] = max(sizes)
        found["bytes of a checkpoint's maps"] = sum(sizes) + sum(stored(one.maps) for one in variants.values())
    found["backup bytes"] = 3 * sum(int(np.prod(w.shape)) * 4 for w in model.trainable_weights)  # and Adam's two

    trainee = keras_model(model)
    optimisation.compile_model(trainee, 1e-5, settings, labels)
    steps = tf.data.Dataset.from_tensor_slices((images[..., None], labels)).batch(batch)
    with optimisation.graph_optimizers(on=False):
        found["fine-tune"] = timed(lambda: trainee.fit(steps.repeat(2), epochs=1, verbose=0)) / (2 * batch)
    return found


def keras_model(model):
    import keras

    return keras.Model(model.input, model.get_layer("logits").output)


def scoring(side: str, n: str, grid: str) -> dict:
    """Seconds an image of a method: all metrics and their baselines."""
    n, side = int(n), int(side)
    maps = np.maximum(np.random.default_rng(0).normal(size=(2, n, int(grid), int(grid))), 0).astype(np.float32)
    label, patient = np.arange(n) % CLASSES, np.arange(n).astype(str)
    began = time.process_time()
    similarity.compare_maps(*maps, size=side)
    baselines.baselines(*maps, label, patient, size=side, draws=4)
    return {"score": (time.process_time() - began) / n}


def comparing(n: str, architectures: str, seeds: str) -> dict:
    """Seconds and peak MiB of the comparison of a whole study with `n` images in each cell."""
    n, rng = int(n), np.random.default_rng(0)
    images = pd.DataFrame({"image_id": np.arange(n).astype(str)})
    images = images.assign(patient_id=images["image_id"], label=np.where(np.arange(n) % 2, "ill", "well"))
    wanted = [
        name + level for name in metric_table.METRICS for level in ("", "_two_patients", "_chance", "_two_heads")
    ]
    cells = [(f"A{a}", s, m) for a in range(int(architectures)) for s in range(int(seeds))
             for m in ("layercam", "gradcampp")]  # fmt: skip

    def cell(architecture: str, seed: int, method: str) -> pd.DataFrame:
        values = {name: rng.uniform(size=n) for name in wanted}
        values |= {f"empty_{checkpoint}": np.zeros(n, bool) for checkpoint in ("before", "after")}
        return comparison.score_table(values, images, architecture=architecture, seed=seed, method=method)

    scores = pd.concat([cell(*key) for key in cells], ignore_index=True)
    table = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = pd.DataFrame(cells, columns=["architecture", "seed", "method"])
    runs = runs.assign(auc_macro_before=0.9, auc_macro_after=0.9, passes_checks="")
    began = time.process_time()
    summary = comparison.pooled(scores, runs)
    values = Scores.of(scores, "overlap")
    comparison.ranking(summary, "overlap")
    contrasts.compare_architectures(values)
    contrasts.interaction(values)
    rank_tests.paired_tests(values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"compare": time.process_time() - began, "tables MiB": table / 1024, "peak MiB": peak / 1024}


SECTIONS = {"network": network, "scoring": scoring, "comparing": comparing}


def fresh(section: str, *arguments) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--section", section, *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="params/paper.yaml")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    parser.add_argument("--workers", type=int, default=1, help="machines like this one")
    parser.add_argument("--small", action="store_true", help="the embedded study's networks, 1,000 images")
    parser.add_argument("--section", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        name, *arguments = options.section
        print(json.dumps(SECTIONS[name](*arguments)))
        return
    study = StudyParams.read("params/smoke.yaml" if options.small else options.params)
    images, seeds = (1000, 2) if options.small else (options.images, options.seeds)
    test = round(images * study.test_fraction)
    val = round(images * study.val_fraction)
    train = images - test - val
    side, methods, heads = study.image_size, len(study.method), study.extra_heads
    null = int(study.placebo)  # at most: it takes the epochs up to the best one
    print(
        f"{len(study.architecture)} architectures x {seeds} seeds x {methods} methods, {images:,} images of "
        f"{side} pixels ({train:,} to train, {val:,}, {test:,} to test), {options.epochs} epochs of fine-tuning"
        f"{', and as many again at most' if null else ''}, "
        f"{os.cpu_count()} cores\n"
    )
    costs, rows = {}, []
    for name in study.architecture:
        costs[name] = own = fresh("network", name, side, study.batch_size)
        hours = {
            "transfer, first seed": own["forward"] * images,
            "fine-tuning": (1 + null) * options.epochs * (own["fine-tune"] * train + own["forward"] * val),
            "predictions": (2 + null) * own["forward"] * images,
            "attribution": test * (2 * own["explain"] + (heads + null) * own["explain a head"]),
        }
        per_network = sum(hours.values()) - hours["transfer, first seed"]
        rows.append({
            "architecture": name,
            **{f"{key}, ms an image": 1000 * own[key] for key in ("forward", "fine-tune", "explain")},
            **{f"{key}, core h": value / 3600 for key, value in hours.items()},
            f"all {seeds} seeds, core h": (hours["transfer, first seed"] + seeds * per_network) / 3600,
        })  # fmt: skip
    table = pd.DataFrame(rows).set_index("architecture")
    print(table.T.round(2).to_string(), "\n", flush=True)

    score = fresh("scoring", side, 64 if options.small else 400, 4 if options.small else 14)["score"]
    scores_h = score * test * methods * len(rows) * seeds / 3600
    compare = fresh("comparing", test, len(rows), seeds)
    networks_h = table.iloc[:, -1].sum()
    print(f"scoring: {1000 * score:.1f} ms an image and method, {scores_h:.1f} core h in all")
    print(
        f"comparing {test:,} images x {len(rows) * seeds * methods} cells: {compare['compare']:.0f} s, peak "
        f"{compare['peak MiB']:,.0f} MiB (the tables as read: {compare['tables MiB']:,.0f} MiB)"
    )
    total = networks_h + scores_h + compare["compare"] / 3600
    cores = os.cpu_count()
    print(
        f"core hours in all: {total:,.0f}; hours on one machine like this, at the least: {total / cores:,.0f}; on "
        f"{options.workers}: {total / cores / options.workers:,.0f}"
    )
    chain = ["transfer, first seed, core h", "fine-tuning, core h", "predictions, core h", "attribution, core h"]
    longest = table[chain].sum(axis=1).max()
    print(f"the longest chain, however many there are: {longest / cores:,.1f} h and the comparison\n")

    sizes = {
        "images, decoded, in each worker's cache": images * side**2,
        "checkpoints": seeds * sum((2 + null) * own["checkpoint bytes"] for own in costs.values()),
        "backups, while trainings run": options.workers * max(own["backup bytes"] for own in costs.values()),
        "maps of both stages, with variants": seeds
        * test
        * sum(2 * own["bytes of a checkpoint's maps"] for own in costs.values()),
        "maps of heads and of the matched null": seeds
        * test
        * sum((heads + null) * methods * own["bytes of a map set"] for own in costs.values()),
        "thumbnails": len(rows) * seeds * test * min(side, 128) ** 2,
    }
    for name, size in sizes.items():
        print(f"{name:42}{size / 2**30:8.1f} GiB")


if __name__ == "__main__":
    main()
