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
from pathlib import Path

import numpy as np

from cxr.core.params import TrainParams
from cxr.models import build, weights
from cxr.training import checkpointing, fitting, stages


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    """Have this process killed at a moment."""
    stages._SECONDS_BETWEEN_BACKUPS = 0.0
    if moment == "in stage 1":
        arm_batch("transfer", epoch=3)
    elif moment == "in a head":
        arm_batch("head_0", epoch=3)
    elif moment == "in epoch 1":
        arm_batch("fine_tuning", epoch=1)
    elif moment == "in epoch 2":
        arm_batch("fine_tuning", epoch=2)
    elif moment == "in epoch 3":
        arm_batch("fine_tuning", epoch=3)
    elif moment == "while writing":
        to_disk = checkpointing._to_disk

        def half(path):
            if path.name == "index.json" and (path.parent.parent / "epoch_002").exists():
                kill()
            to_disk(path)

        checkpointing._to_disk = half
    elif moment == "after the last epoch":
        save_end = fitting.Saver.save_end
        fitting.Saver.save_end = lambda self: kill() if self.part == "fine_tuning" else save_end(self)


def arm_batch(part, epoch):
    def on_epoch_begin(self, number, logs=None):
        self.killed = self.part == part and number + 1 == epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.killed and batch == 1:
            kill()

    fitting.Saver.on_epoch_begin = on_epoch_begin
    fitting.Saver.on_train_batch_end = on_train_batch_end


def train(folder, settings, moment):
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(0, 120, (40, 32, 32), np.uint8)
    images[labels == 1, 8:20, 8:20] += 60
    sets = (images[:28], labels[:28]), (images[28:], labels[28:])

    settings = TrainParams(**settings)
    stages.seed_everything(settings.seed)
    model = build.build(settings.architecture, n_classes=2, image_size=32, dropout=settings.dropout)
    saved = checkpointing.take(folder / "backup", folder) if moment != "never" else None
    arm(moment)
    epochs = []

    def on_epoch(epoch, metrics):
        epochs.append([epoch, metrics])
        if saved:
            saved.keep(f"epoch_{epoch:03d}", lambda path: path.write_text(weights.sha256_weights(model)))

    stage_1 = stages.transfer(model, *sets, settings, backup=saved)
    weights_before = weights.sha256_weights(model)
    if moment == "between the stages":
        kill()
    history = stages.fine_tune(model, *sets, settings, on_epoch=on_epoch, backup=saved)
    return {
        "before": weights_before,
        "after": weights.sha256_weights(model),
        "seeds": [np.asarray(v).tolist() for v in model.variables if "seed" in v.path],
        "histories": [t.drop(columns="seconds").to_dict("list") for t in (stage_1.history, history)],
        "heads": [[np.asarray(a, np.float64).tolist() for a in head] for head in stage_1.heads],
        "epochs": epochs,
        "resumed": saved.resumed if saved else {},
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
