"""Pairs of maps scored a second, whole table and parts. Run: python tests/benchmarks/bench_drift.py"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: the figure is per core
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time

import numpy as np

from cxr import drift


def rate(pairs: int, call) -> float:
    call()  # warm caches and allocations
    start = time.process_time()
    call()
    return pairs / (time.process_time() - start)


def main(n: int = 64, grid: int = 14, size: int = 224) -> None:
    rng = np.random.default_rng(0)
    transfer, fine_tuned = np.maximum(rng.normal(size=(2, n, grid, grid)), 0).astype(np.float32)
    whole = rate(n, lambda: drift.compare_maps(transfer, fine_tuned, size=size))
    print(f"{n} pairs, {grid}x{grid} to {size}x{size}, processor time of one core")
    print(f"{'whole table':22s}{whole:9.0f} pairs/s")
    for name in drift.METRICS:
        alone = rate(n, lambda name=name: drift.compare_maps(transfer, fine_tuned, size=size, names=[name]))
        print(f"{name + ' alone':22s}{alone:9.0f} pairs/s")
    print(f"{'upsampling alone':22s}{rate(n, lambda: drift.prepare(transfer, size)):9.0f} maps/s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
