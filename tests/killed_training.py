"""Both stages on a few synthetic images, in processes that kill themselves; run by test_resume.py.

    python killed_training.py FOLDER SETTINGS MOMENT[,MOMENT...]

Each moment has a process of its own, a fork of one that has imported TensorFlow and computed nothing. Printed at
the end, as JSON: what the last one ended with, and how each process ended.
"""

import json
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.params import TrainParams
from cxr.data.dataset import Dataset
from cxr.models import weights
from cxr.training import checkpointing, fitting, stages, two_stages


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    """Have this process killed at a moment."""
    stages._SECONDS_BETWEEN_BACKUPS = 0.0
    if moment == "in stage 1":
        arm_batch("transfer", epoch=3)
    elif moment == "in epoch 2":
        arm_batch("fine_tuning", epoch=2)
    elif moment == "in more training":
        arm_batch("more_training", epoch=2)
    elif moment == "while writing":
        atomic = checkpointing.atomic

        @contextmanager
        def half(path):
            with atomic(path) as temporary:
                yield temporary
                if path.suffix == ".npz" and (path.parent / "epoch_002.keras").exists():
                    kill()

        checkpointing.atomic = half
    elif moment == "after the last epoch":
        save_end = fitting.Saver.save_end
        fitting.Saver.save_end = lambda self: kill() if self.part == "fine_tuning" else save_end(self)


def arm_batch(part, epoch):
    def on_epoch_begin(self, number, logs=None):
        self.killed = self.part == part and number + 1 == epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.killed and batch >= 1:  # on features, one call ends all batches
            kill()

    fitting.Saver.on_epoch_begin = on_epoch_begin
    fitting.Saver.on_train_batch_end = on_train_batch_end


class Recorded:
    """A run that keeps what is logged to it, without the seconds that it took."""

    fingerprint = "run"

    def __init__(self):
        self.metrics_logged, self.tables, self.files = [], {}, {}

    def metrics(self, values, step=None):
        self.metrics_logged += [[key, value, step] for key, value in values.items() if "seconds" not in key]

    def table(self, table, name, *, show=True):
        self.tables[name] = table.drop(columns="seconds", errors="ignore").to_dict("list")

    def file(self, path, folder=""):
        if path.suffix == ".keras":
            self.files[path.name] = weights.sha256_weights(weights.load(path, "tiny_nets:small"))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                self.files[path.name] = {name: array.tolist() for name, array in arrays.items()}
        else:
            self.files[path.name] = path.read_text()

    def params(self, values):
        pass

    tags = params


def synthetic(settings):
    """40 images of two classes: 24 to train on, 8 for validation, 8 for the test."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(0, 120, (40, 32, 32), np.uint8)
    images[labels == 1, 8:20, 8:20] += 60
    manifest = pd.DataFrame(
        {
            "image_id": [f"{number:02d}" for number in range(40)],
            "path": "",
            "label": np.array(["a", "b"])[labels],
            "patient_id": [f"{number:02d}" for number in range(40)],
            "split": ["train"] * 24 + ["val"] * 8 + ["test"] * 8,
            "sha256": "",
        }
    )
    dataset = Dataset(settings, manifest, ["a", "b"], labels.astype(np.int32), None, "hash")
    vars(dataset)["images"] = images  # else they would be decoded
    return dataset


def train(folder, settings, moment):
    os.environ["CXR_CACHE"] = str(folder / "cache")
    settings = TrainParams(**settings)
    two_stages.tracking.log_dataset = lambda **about: None  # which would need an MLflow run
    if moment == "never":  # the reference has no backup at all
        checkpointing.take = lambda folder, spare: checkpointing.Backup(None, spare, ExitStack())
    run = Recorded()
    training = two_stages.TwoStages(synthetic(settings), settings, run)
    arm(moment)
    before = training.transfer()
    if moment == "between the stages":
        kill()
    results = [before, training.fine_tune(), *([training.more_training()] if settings.placebo else [])]
    return {
        "seeds": [np.asarray(v).tolist() for v in training.model.variables if "seed" in v.path],
        "weights": [training.hashes[result.checkpoint]["weights_sha256"] for result in results],
        "probabilities": [result.probabilities.tolist() for result in results],
        "performance": training.side_by_side().to_dict(),
        "metrics": run.metrics_logged,
        "tables": run.tables,
        "files": run.files,
        "resumed": training.backup.resumed,
    }


def main(folder, settings, moments):
    folder, ends = Path(folder), []
    for moment in moments.split(","):
        started = time.perf_counter()
        child = os.fork()
        if not child:
            (folder / "end.json").write_text(json.dumps(train(folder, json.loads(settings), moment)))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        ends.append([moment, os.waitstatus_to_exitcode(status), round(time.perf_counter() - started, 1)])
    print("END " + json.dumps({"ends": ends, **json.loads((folder / "end.json").read_text())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
