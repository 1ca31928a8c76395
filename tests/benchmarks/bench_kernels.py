"""How long does it take to start a notebook? With kernels that a server forks, and that Jupyter starts.

    python tests/benchmarks/bench_kernels.py [--small]

The notebook imports what 1_train imports, and computes one sum by TensorFlow. Wall time and processor time of
papermill, its kernel and (once) the server, of pairs in alternating order. `--small`: one pair.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from cxr.core import execution, kernel_server

CELL = """
from cxr import tracking
from cxr.core.params import TrainParams
from cxr.data import dataset
from cxr.report import figures
from cxr.training.two_stages import TwoStages
import tensorflow as tf
float(tf.reduce_sum(tf.ones(3)))
import os
print(sum(os.times()[:2]))
"""


def timed(notebook: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds, and processor seconds of papermill and its kernel."""
    executed = notebook.with_name("out.ipynb")
    start = time.perf_counter()
    process = execution.start(execution.command(notebook, executed), environment)
    watched = psutil.Process(process.pid)
    papermill = 0.0
    while process.poll() is None:
        try:
            used = watched.cpu_times()
            papermill = used.user + used.system
        except psutil.Error:
            break
        time.sleep(0.05)
    log = process.communicate()[0]
    if process.returncode:
        raise SystemExit(log)
    wall = time.perf_counter() - start
    cells = json.loads(executed.read_text())["cells"]
    text = next("".join(out["text"]) for cell in cells for out in cell["outputs"] if out.get("name") == "stdout")
    return wall, papermill + float(text.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one pair")
    pairs = 1 if parser.parse_args().small else 5
    if not kernel_server.supported():
        raise SystemExit("kernels are forked on Linux without a GPU only")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": CELL}
    content = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "start.ipynb"
        notebook.write_text(json.dumps(content))
        first, _ = timed(notebook, {})  # waits for the server
        print(f"the first notebook, which waits for the server: {first:.1f} s")
        forked_spec = list(execution._KERNELS)
        found: dict[str, list[tuple[float, float]]] = {"forked": [], "started": []}
        for pair in range(pairs):
            for kind in ("forked", "started") if pair % 2 else ("started", "forked"):
                if kind == "started":
                    execution._KERNELS.clear()
                    own, kernel_server.supported = kernel_server.supported, lambda: False
                found[kind].append(timed(notebook, {}))
                if kind == "started":
                    kernel_server.supported = own
                execution._KERNELS[:] = forked_spec
    for kind, values in found.items():
        wall, used = np.median(values, axis=0)
        print(f"{kind:8} wall {wall:5.1f} s   processor {used:5.1f} s")
    ratios = np.median(found["started"], axis=0) / np.median(found["forked"], axis=0)
    print(f"started / forked: wall {ratios[0]:.1f}, processor {ratios[1]:.1f} ({pairs} pairs)")


if __name__ == "__main__":
    main()
