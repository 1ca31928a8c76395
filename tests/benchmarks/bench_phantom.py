"""Images a second of one core's time: `python tests/benchmarks/bench_phantom.py`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads its BLAS
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time

from cxr.data.phantom.rendering import render_stack

N_IMAGES = 100  # twenty of each class

for size in (128, 224):
    render_stack(0, range(5), size)  # coordinates are built once a size
    start = time.process_time()
    render_stack(0, range(N_IMAGES), size)
    print(f"{size} px: {N_IMAGES / (time.process_time() - start):.0f} images/s")
