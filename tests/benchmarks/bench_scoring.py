"""Images scored a second, the memory it takes, and the bootstrap.

Run: python tests/benchmarks/bench_scoring.py [--small]

The whole table is `drift.compare_maps` and `references.baselines`: 13 metrics of 14x14 maps at 224x224, and
each beside four maps of other patients (two patients) and four moved ones (chance). Rates by the clock depend on
what else the machine does; those by processor time are of one core, whose part in threads the second row shows.
"""

import os

# All cores, whatever the caller has set: how many are used is what is measured.
os.environ.pop("OMP_NUM_THREADS", None)

import argparse
import resource
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd

from cxr.metrics import baselines, metric_table, similarity
from cxr.report import comparison
from cxr.statistics.bootstrap import patient_replicates
from cxr.statistics.score_rows import Scores

GRID, DRAWS = 14, 4
LEVELS = ("chance", "two_patients", "two_heads")  # those in a score run's table


def map_sets(n: int) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).normal(size=(2, n, GRID, GRID)), 0).astype(np.float32)


def score(maps: np.ndarray, size: int, *, moved: bool = True, workers: int | None = None) -> None:
    """The whole table; without `moved`, two patients alone: slower, as partners are prepared anew."""
    before, after = maps
    n = len(before)
    label, patient = np.arange(n) % 2, np.arange(n)
    similarity.compare_maps(before, after, size=size, workers=workers)
    if moved:
        baselines.baselines(before, after, label, patient, size=size, draws=DRAWS, workers=workers)
    else:
        _, table = baselines.partners(label, patient, draws=DRAWS)
        baselines.two_heads(before, [after[row] for row in table.T], size=size, workers=workers)


def rates(n: int, call) -> tuple[float, float]:
    """Images a second by the clock and by processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return n / (time.perf_counter() - clock), n / (time.process_time() - processor)


def scoring(n: int, size: int) -> None:
    maps = map_sets(n)
    before, after = maps
    print(f"{n} images, {GRID}x{GRID} maps to {size}x{size}, {DRAWS} draws")
    print(f"{'':42s}{'threads':>8s}{'images/s':>10s}{'a core':>8s}")
    compare = partial(similarity.compare_maps, before, after, size=size)
    table = {
        "metrics": compare,
        "metrics, two patients (partners prepared anew)": partial(score, maps, size, moved=False),
        "metrics, two patients and chance": partial(score, maps, size),
    }
    for label, call in table.items():
        for workers in sorted({1, similarity._cores()}):
            call(workers=workers)  # warm caches and allocations
            clock, processor = rates(n, partial(call, workers=workers))
            print(f"{label:42s}{workers:8d}{clock:10.0f}{processor:8.0f}")
    for name in metric_table.METRICS:
        clock, processor = rates(n, partial(compare, names=[name], workers=1))
        print(f"{name + ' alone':42s}{1:8d}{clock:10.0f}{processor:8.0f}")


def memory(numbers: tuple[int, int], size: int) -> None:
    print(f"\n{'images':>8s}{'peak MB of a process that scores them':>40s}")
    for n in numbers:
        command = [sys.executable, __file__, "--peak", str(n), "--size", str(size)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"{n:8d}{float(peak):40.0f}")


def peak(n: int, size: int) -> None:
    score(map_sets(n), size)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(kilobytes / 1024)


def scores(images: int, patients: int, seeds: int = 3) -> pd.DataFrame:
    """Per-image rows of three architectures under two methods, every metric with every baseline."""
    rng = np.random.default_rng(0)
    patient = np.concatenate([np.arange(patients), rng.integers(0, patients, images - patients)])
    names = [name for metric in metric_table.METRICS for name in (metric, *(f"{metric}_{k}" for k in LEVELS))]
    head = pd.DataFrame({"image_id": np.arange(images), "patient_id": patient})
    head = head.assign(empty_before=False, empty_after=False)
    cells = [
        pd.concat([head, pd.DataFrame(rng.random((images, len(names))), columns=names)], axis=1).assign(
            architecture=architecture, method=method, seed=seed
        )
        for architecture in "ABC"
        for method in ("layercam", "gradcampp")
        for seed in range(seeds)
    ]
    return pd.concat(cells, ignore_index=True)


def bootstrap(images: int, patients: int, n_boot: int) -> None:
    table = scores(images, patients)
    overlap = Scores.of(table, "overlap").values.unstack("seed")
    runs = table[["architecture", "method", "seed"]].drop_duplicates()
    runs = runs.assign(auc_macro_before=0.9, auc_macro_after=0.9, passes_checks="True")
    calls = {
        "one metric, draws of all cells alike": lambda: patient_replicates(overlap, n_boot=n_boot),
        "every metric and level, all cells": lambda: comparison.pooled(table, runs, n_boot=n_boot),
    }
    print(f"\n{n_boot} replicates, 6 cells x 3 seeds x {images} images of {patients} patients")
    for label, call in calls.items():
        clock, processor = time.perf_counter(), time.process_time()
        call()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        print(f"{label:42s}{clock:8.1f} s, {processor:.1f} s of one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few images, for a check in seconds")
    parser.add_argument("--peak", type=int, metavar="N", help="print the peak memory of scoring N images, and end")
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    if args.peak:
        peak(args.peak, args.size)
    elif args.small:
        scoring(8, 64)
        memory((8, 16), 64)
        bootstrap(30, 20, 100)
    else:
        scoring(200, args.size)
        memory((200, 2000), args.size)
        bootstrap(1000, 700, 10_000)


if __name__ == "__main__":
    main()
