"""What `cxr drift` costs beside bare forward passes: `python tests/benchmarks/bench_drift.py [--small]`.

Two full-size networks with random weights are compared on 150 phantom images at 224 pixels by LayerCAM. The unit
is four forward passes over the images, two by each network (compiled by tf.function, warm). The parts are those of
the executed notebook: cells by what they do, and what papermill and the kernel take beside them (`starting`). With
random weights the checks of maps say nothing; how many images they take depends on the networks.

`--small`: a compact network, few and small images. `--architecture`: of both networks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import pandas as pd
import time_study

from cxr.attribution import following
from cxr.models import build

PARTS = {
    "drift-03": "imports",
    "drift-05": "reading the networks",
    "drift-07": "images, predictions, maps",
    "drift-10": "scores, baselines",
    "drift-checks-c": "checks of maps",
}


def forward(model: keras.Model, n: int, side: int) -> float:
    """Seconds of one pass over n images, the least of three."""
    predict = following.logits_function(model)
    images = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    predict(images[:32])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        predict(images)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def parts(notebook: Path) -> dict[str, float]:
    """Seconds of an executed notebook by what they went into."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    found = dict.fromkeys(["starting", *PARTS.values(), "summaries, figures, page"], 0.0)
    whole = content["metadata"]["papermill"]["duration"]
    for cell in content["cells"]:
        if seconds := cell["metadata"].get("papermill", {}).get("duration"):
            found[PARTS.get(cell["id"], "summaries, figures, page")] += seconds
    return found | {"starting": whole - sum(found.values())}


def compared(folder: Path, n: int, checks: int) -> dict[str, float]:
    """`parts` of one `cxr drift` of a.keras and b.keras in the folder, and `all`: the wall time of the command."""
    words = [sys.executable, "-m", "cxr.cli", "drift", f"{folder}/a.keras", f"{folder}/b.keras", "phantom"]
    words += ["--images", "all", "--map-checks", str(checks), "--set", f"phantom_images={n}"]
    words += ["--out", f"{folder}/out.csv", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    start = time.perf_counter()
    subprocess.run(words, cwd=time_study.ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    [notebook] = folder.rglob("notebook.ipynb")
    return parts(notebook) | {"all": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a compact network, few and small images")
    parser.add_argument("--architecture", default="InceptionV3")
    given = parser.parse_args()
    name, n, side = ("CompactInception", 30, 64) if given.small else (given.architecture, 150, 224)
    columns = {}
    for checks in (0, 100):
        with tempfile.TemporaryDirectory(prefix="cxr-drift-") as scratch:
            folder = Path(scratch)
            for seed, which in enumerate("ab"):
                keras.utils.set_random_seed(seed)
                model = build.build(name, n_classes=5, image_size=side)
                model.save(folder / f"{which}.keras")
            unit = 4 * forward(model, n, side)
            columns["without checks" if checks == 0 else f"up to {checks} checked"] = compared(folder, n, checks)
    table = pd.DataFrame(columns)
    print(f"{name}, {n} images at {side} pixels; four forward passes over them take {unit:.1f} s")
    print(pd.concat({"seconds": table, "of four passes": table / unit}, axis=1).round(2).to_string())


if __name__ == "__main__":
    main()
