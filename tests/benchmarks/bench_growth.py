"""Processor time and peak memory of every stage, for ever more images and methods.

    python tests/benchmarks/bench_growth.py [--small] [--figure docs/growth.png]

Images of 64 x 64 pixels (`bench_memory.make_files`), an untrained CompactResNetV2; each stage at each size in a
process of its own, on one core, two at a time. Libraries and the network are loaded before; the compiling of
TensorFlow's graphs, the same whatever the number of images, counts.

    decode       manifest from files, images into the cache
    transfer     one epoch of the head, with the features of the backbone
    fine-tune    one epoch of every layer
    attribute    LayerCAM and Grad-CAM++ maps of one checkpoint
    score        all metrics and their baselines (4 draws each) of one method
    compare      2 architectures x 2 methods: summaries, bootstrap of ranks, differences, interaction, rank tests

`slope` is the exponent with which a stage grows between its two largest sizes: 1 is linear. The second table has
the methods of attribution, each beside the ones before it, on one set of images. Linux only.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from bench_memory import SHARES, SIDE, Steps, make_files, settings_for

from cxr.report.figures import METHOD_LABELS

SIZES = (100, 316, 1000, 3162, 10_000)
METHOD_IMAGES = 32


def decode(folder: Path):
    from cxr.data import loading
    from cxr.data import manifest as data_manifest

    settings = settings_for(folder / "images")

    def run() -> None:
        manifest = data_manifest.build_manifest(settings)
        loading.load_images(manifest, root=folder / "images", size=SIDE, cache=folder / "cache")
        data_manifest.write_manifest(manifest, folder / "manifest.csv")

    return run


def _loaded(folder: Path):
    """Settings, images, labels, splits and an untrained network."""
    from cxr.data import loading
    from cxr.data import manifest as data_manifest
    from cxr.models import build
    from cxr.training import stages as training_stages

    settings = settings_for(folder / "images")
    manifest = data_manifest.read_manifest(folder / "manifest.csv")
    images = loading.load_images(manifest, root=folder / "images", size=SIDE, cache=folder / "cache")
    labels = data_manifest.class_index(manifest["label"], data_manifest.classes(manifest))
    training_stages.seed_everything(0)
    model = build.build(settings.architecture, n_classes=len(SHARES), image_size=SIDE)
    return settings, images, labels, manifest["split"].to_numpy(), model


def _trained(folder: Path, stage: str):
    from cxr.core import arrays
    from cxr.training import stages as training_stages

    settings, images, labels, split, model = _loaded(folder)
    rows = [np.flatnonzero(split == name) for name in ("train", "val")]
    train, val = ((arrays.Subset(images, own), labels[own]) for own in rows)
    return lambda: getattr(training_stages, stage)(model, train, val, settings)


def transfer(folder: Path):
    return _trained(folder, "transfer")


def fine_tune(folder: Path):
    return _trained(folder, "fine_tune")


def attribute(folder: Path, methods: int = 2):
    from cxr.attribution import explaining
    from cxr.core.methods import METHODS

    _, images, labels, _, model = _loaded(folder)
    options = {"layer": "penultimate", "methods": METHODS[:methods]}
    return lambda: explaining.attribute(model, images, labels, **options)


def _maps(n: int) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).normal(size=(2, n, 8, 8)), 0).astype(np.float32)


def _identities(folder: Path) -> pd.DataFrame:
    from cxr.data import manifest as data_manifest

    return data_manifest.read_manifest(folder / "manifest.csv")[["image_id", "patient_id", "label"]]


def score(folder: Path):
    from cxr.metrics import baselines, similarity

    table = _identities(folder)
    before, after = _maps(len(table))

    def run() -> None:
        similarity.compare_maps(before, after, size=SIDE)
        baselines.baselines(before, after, table["label"], table["patient_id"], size=SIDE, draws=4)

    return run


def compare(folder: Path):
    from cxr.metrics import metric_table
    from cxr.report import comparison
    from cxr.statistics import contrasts, rank_tests
    from cxr.statistics.score_rows import Scores

    images = _identities(folder)
    rng = np.random.default_rng(0)
    wanted = [name + level for name in metric_table.METRICS for level in ("", "_two_patients", "_chance")]

    def cell(architecture: str, method: str) -> pd.DataFrame:
        values = {name: rng.uniform(size=len(images)) for name in wanted}
        values |= {f"empty_{stage}": np.zeros(len(images), bool) for stage in ("before", "after")}
        return comparison.score_table(values, images, architecture=architecture, seed=0, method=method)

    cells = [(architecture, method) for architecture in "AB" for method in ("layercam", "gradcampp")]
    scores = pd.concat([cell(*key) for key in cells], ignore_index=True)
    runs = pd.DataFrame(cells, columns=["architecture", "method"])
    runs = runs.assign(seed=0, auc_macro_before=0.9, auc_macro_after=0.9, passes_checks="")

    def run() -> None:
        summary = comparison.pooled(scores, runs)
        values = Scores.of(scores, "overlap")
        comparison.ranking(summary, "overlap")
        contrasts.compare_architectures(values)
        contrasts.interaction(values)
        rank_tests.paired_tests(values)

    return run


STAGES = {
    "decode": decode,
    "transfer": transfer,
    "fine-tune": fine_tune,
    "attribute": attribute,
    "score": score,
    "compare": compare,
}


def measure(stage: str, folder: Path, methods: int) -> None:
    """One stage; prints processor seconds and peaks of memory (MiB) as a line of JSON."""
    warnings.filterwarnings("ignore")
    run = attribute(folder, methods) if methods else STAGES[stage](folder)
    steps = Steps()
    with steps.step(stage):
        run()
    found = steps.found[stage]
    if methods:
        from cxr.core.methods import METHODS

        found["added"] = METHODS[methods - 1]
    print(json.dumps(found))


def measured(stage: str, folder: Path, core: int, methods: int = 0) -> dict[str, float]:
    """`measure` in a process of its own on one core."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", stage, "--folder", folder, "--methods", str(methods)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        raise SystemExit(f"{stage}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def both_cores(jobs: list[tuple]) -> list[dict[str, float]]:
    """`measured` of each (stage, folder, methods), one on each of two cores, if there are two."""
    cores = sorted(os.sched_getaffinity(0))[:2]

    def work(job: tuple) -> dict[str, float]:
        stage, folder, methods = job
        core = cores.pop()
        try:
            return measured(stage, folder, core, methods)
        finally:
            cores.append(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(work, jobs))


def slope(rows: pd.DataFrame, column: str) -> float:
    """Exponent between the two largest sizes."""
    last, end = (rows.sort_values("images").iloc[k] for k in (-2, -1))
    return math.log(end[column] / last[column]) / math.log(end["images"] / last["images"])


def print_growth(rows: list[dict]) -> pd.DataFrame:
    """The first table; returns it."""
    images = pd.DataFrame(rows)
    images["stage"] = pd.Categorical(images["stage"], list(STAGES))
    images = images.sort_values(["stage", "images"])
    print(f"{'stage':12}{'images':>8}{'core s':>9}{'anon MiB':>10}{'hwm MiB':>9}{'slope: time':>13}{'memory':>8}")
    for stage, own in images.groupby("stage", observed=True, sort=False):
        for row in own.itertuples():
            last = row.images == own["images"].max()
            slopes = f"{slope(own, 'core'):13.2f}{slope(own, 'anon'):8.2f}" if last else ""
            print(f"{stage:12}{row.images:8d}{row.core:9.2f}{row.anon:10.0f}{row.hwm:9.0f}{slopes}")
    return images


def draw(images: pd.DataFrame, methods: pd.DataFrame, path: Path) -> None:
    """Time and memory against images, time against methods."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    from cxr.report.figures import COLOURS

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
    for (stage, rows), colour, marker in zip(images.groupby("stage", sort=False), COLOURS, "osD^vP", strict=False):
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.3, "label": stage}
        left.loglog(rows["images"], rows["core"], **style)
        middle.loglog(rows["images"], rows["anon"], **style)
    ends = np.array([images["images"].min(), images["images"].max()])
    level = images.loc[images["images"] == ends[1], "core"].max() * 2.5
    left.loglog(ends, level * ends / ends[1], "--", color="#7F7F7F", linewidth=1, label="linear (slope 1)")
    left.set(xlabel="images", ylabel="processor time (s)", title="Time of a stage")
    middle.set(xlabel="images", ylabel="peak of allocated memory (MiB)", title="Memory of a stage")
    middle.set_ylim(images["anon"].min() / 2, images["anon"].max() * 4)
    middle.yaxis.set_major_formatter(ScalarFormatter())
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    positions = np.arange(1, len(methods) + 1)
    right.plot(positions, methods["core"], "o-", color=COLOURS[0], markersize=4, linewidth=1.3)
    names = [METHOD_LABELS[name].replace("integrated gradients", "int. gradients") for name in methods["added"]]
    right.set_xticks(positions, [f"{k}: {name}" for k, name in zip(positions, names, strict=True)], rotation=60)
    right.tick_params(axis="x", labelsize=8)
    plt.setp(right.get_xticklabels(), ha="right", rotation_mode="anchor")
    right.set_ylim(0, None)
    right.set(
        xlabel="methods of attribution",
        ylabel="processor time (s)",
        title=f"Methods, each with those\nbefore it, {methods['images'].iloc[0]} images",
    )
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="100 and 316 images, two methods, no training")
    parser.add_argument("--figure", type=Path, help="file for the figure")
    parser.add_argument("--only", choices=list(STAGES)[1:], help="one stage, and no methods")
    parser.add_argument("--sizes", type=int, nargs=2, default=[], help="so many images, about")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # one measurement
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--methods", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        measure(arguments.stage, arguments.folder, arguments.methods)
        return
    sizes = arguments.sizes or (SIZES[:2] if arguments.small else SIZES)
    with tempfile.TemporaryDirectory(prefix="cxr-growth-") as place:
        folders = {n: Path(place) / str(n) for n in (METHOD_IMAGES, *sizes)}
        for n, folder in folders.items():
            make_files(folder / "images", n)
        counts = {n: sum(1 for _ in folder.rglob("*.png")) for n, folder in folders.items()}
        jobs = [("decode", folder, 0) for folder in folders.values()]
        first = both_cores(jobs)[1:]
        rows = [{"stage": "decode", "images": counts[n], **row} for n, row in zip(sizes, first, strict=True)]
        left_out = ("decode", "transfer", "fine-tune") if arguments.small else ("decode",)
        stages = [arguments.only] if arguments.only else [stage for stage in STAGES if stage not in left_out]
        plan = [(stage, n) for stage in stages for n in sizes]
        plan.sort(key=lambda entry: -entry[1])  # the longest first, so that both cores end together
        found = both_cores([(stage, folders[n], 0) for stage, n in plan])
        rows += [{"stage": key, "images": counts[n], **row} for (key, n), row in zip(plan, found, strict=True)]
        if arguments.only:
            print_growth(rows)
            return
        numbers = (2, 1) if arguments.small else range(len(METHOD_LABELS), 0, -1)
        by_method = both_cores([("attribute", folders[METHOD_IMAGES], k) for k in numbers])
    images = print_growth(rows)
    methods = pd.DataFrame([{"methods": k, **row} for k, row in zip(numbers, by_method, strict=True)])[::-1]
    methods["images"] = counts[METHOD_IMAGES]
    print(f"\n{'methods':>8}{'core s':>9}{'anon MiB':>10}   the last of them, on {counts[METHOD_IMAGES]} images")
    for row in methods.itertuples():
        print(f"{row.methods:8d}{row.core:9.2f}{row.anon:10.0f}   {row.added}")
    if arguments.figure:
        draw(images, methods, arguments.figure)


if __name__ == "__main__":
    main()
