"""Peak memory and seconds of each step from files to predictions, for data sets of growing size.

    python tests/benchmarks/bench_memory.py [--small] [images ...]

Files are grey PNG of 64 x 64 pixels in five classes with 70, 20, 8, 1.5 and 0.5 % of the images. Each size runs
in a process of its own: manifest, images decoded into the cache, images from the cache, one epoch of either stage
with an untrained CompactResNetV2, predictions for all. `anon` is the peak of what the process itself has allocated
(RssAnon, sampled every 10 ms); `hwm` the resident peak of the step (VmHWM), which includes shared libraries and as
much of the images' file as has been read, which the system takes back when it needs the room.
Linux only.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SIDE = 64
SHARES = {"most": 0.7, "many": 0.2, "some": 0.08, "few": 0.015, "rare": 0.005}
STEPS = ("start", "manifest", "decode", "from cache", "transfer", "fine-tune", "predict")


def make_files(folder: Path, n: int) -> None:
    """About n images in a folder a class, at least 8 a class, every two of one patient."""
    from PIL import Image

    shade = np.linspace(0, 120, SIDE, dtype=np.float32)

    def make(task: tuple[str, int]) -> None:
        name, number = task
        rng = np.random.default_rng([list(SHARES).index(name), number])
        noise = rng.integers(0, 120, (SIDE, SIDE), dtype=np.uint8)
        pixels = (noise + np.roll(shade, 12 * list(SHARES).index(name))).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        (folder / name / f"p{number // 2:06d}_{number % 2}.png").write_bytes(file.getvalue())

    for name in SHARES:
        (folder / name).mkdir(parents=True)
    tasks = [(name, number) for name, share in SHARES.items() for number in range(max(8, round(n * share)))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, tasks, chunksize=200))


def status(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":")) / 1024


class Steps:
    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        anon, done = [status("RssAnon")], threading.Event()

        def sample() -> None:
            while not done.wait(0.01):
                anon[0] = max(anon[0], status("RssAnon"))

        sampler = threading.Thread(target=sample)
        sampler.start()
        start, core = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, core = time.perf_counter() - start, time.process_time() - core
            done.set()
            sampler.join()
        self.found[name] = {"seconds": seconds, "core": core, "hwm": status("VmHWM"), "anon": anon[0]}


def settings_for(folder: Path):
    """`TrainParams` of a small network and one epoch of either stage, on images by `make_files`."""
    from cxr.core.params import TrainParams

    return TrainParams(
        data=str(folder),
        patient_pattern=r"(p\d+)_",
        image_size=SIDE,
        architecture="CompactResNetV2",
        weights="none",
        class_weights=True,
        transfer_epochs=1,
        fine_tune_epochs=1,
        extra_heads=0,
    )


def measure(folder: Path, cache: Path) -> None:
    """All steps on one data set; prints them as one line of JSON."""
    steps = Steps()
    warnings.filterwarnings("ignore")
    with steps.step("start"):
        from cxr.core import arrays
        from cxr.data import loading
        from cxr.data import manifest as data_manifest
        from cxr.models import build
        from cxr.training import stages

        settings = settings_for(folder)
        stages.seed_everything(0)
        model = build.build(settings.architecture, n_classes=len(SHARES), image_size=SIDE)
    with steps.step("manifest"):
        manifest = data_manifest.build_manifest(settings)
    options = {"root": data_manifest.data_root(settings), "size": SIDE, "cache": cache}
    with steps.step("decode"):
        loading.load_images(manifest, **options)
    with steps.step("from cache"):
        images = loading.load_images(manifest, **options)
    labels = data_manifest.class_index(manifest["label"], data_manifest.classes(manifest))
    rows = {split: np.flatnonzero(manifest["split"] == split) for split in ("train", "val")}
    train, val = ((arrays.Subset(images, rows[split]), labels[rows[split]]) for split in ("train", "val"))
    with steps.step("transfer"):
        stages.transfer(model, train, val, settings)
    with steps.step("fine-tune"):
        stages.fine_tune(model, train, val, settings)
    with steps.step("predict"):
        predicted = stages.predict(model, images, settings.batch_size)
    assert predicted.shape == (len(manifest), len(SHARES))
    print(json.dumps({"n": len(manifest), **steps.found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int, nargs="*")
    parser.add_argument("--small", action="store_true", help="400 images")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of one data set: measure it
    arguments = parser.parse_args()
    if arguments.folder:
        measure(arguments.folder / "images", arguments.folder / "cache")
        return
    sizes = arguments.images or ([400] if arguments.small else [1000, 10_000, 50_000])
    print(f"{'images':>7}  {'step':<10}  {'seconds':>8}  {'hwm MiB':>8}  {'anon MiB':>8}")
    for n in sizes:
        with tempfile.TemporaryDirectory(prefix="cxr-memory-") as folder:
            make_files(Path(folder) / "images", n)
            done = subprocess.run(
                [sys.executable, __file__, "--folder", folder],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        found = json.loads(done.stdout.splitlines()[-1])
        for name in STEPS:
            row = found[name]
            print(
                f"{found['n']:>7}  {name:<10}  {row['seconds']:>8.1f}  {row['hwm']:>8.0f}  {row['anon']:>8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
