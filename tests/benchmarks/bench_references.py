"""Cost of reference levels beside the metrics: `python tests/benchmarks/bench_references.py [--small]`.

pairs/s of one core: plain pairs (both maps prepared for each), pairs of maps already prepared, and the pairs of
`reference_levels` (8 an image with draws=4: 4 shuffled, 4 chance).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: the figure is per core
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time

import numpy as np

from cxr import drift, references

DRAWS = 4


def rate(pairs: int, call) -> float:
    call()  # warm caches and allocations
    start = time.process_time()
    call()
    return pairs / (time.process_time() - start)


def score_all(transfer: list[drift.Features], fine_tuned: list[drift.Features]) -> None:
    for t, f in zip(transfer, fine_tuned, strict=True):
        drift.score(t, f)


def main(*sizes: int, n: int, grid: int = 14) -> None:
    rng = np.random.default_rng(0)
    transfer, fine_tuned = np.maximum(rng.normal(size=(2, n, grid, grid)), 0).astype(np.float32)
    label, patient = np.arange(n) % 2, np.arange(n)
    print(f"{n} images, {grid}x{grid} maps, all metrics, draws={DRAWS}, pairs/s of one core's processor time")
    print(
        f"{'size':>6s}{'plain':>9s}{'prepared':>10s}{'references':>12s}{'references an image / plain pairs':>36s}"
    )
    for size in sizes:
        plain = rate(n, lambda size=size: drift.compare_maps(transfer, fine_tuned, size=size))
        ready = [[drift.Features(m) for m in drift.prepare(maps, size)] for maps in (transfer, fine_tuned)]
        prepared = rate(n, lambda ready=ready: score_all(*ready))
        pairs = rate(
            2 * DRAWS * n,
            lambda size=size: references.reference_levels(
                transfer, fine_tuned, label, patient, size=size, draws=DRAWS
            ),
        )
        print(f"{size:6d}{plain:9.0f}{prepared:10.0f}{pairs:12.0f}{2 * DRAWS * plain / pairs:36.1f}")


if __name__ == "__main__":
    if "--small" in sys.argv[1:]:
        main(64, n=8)
    else:
        main(128, 224, n=64)
