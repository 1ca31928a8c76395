"""The loop of one training: batches, shuffled and augmented; it logs every epoch, stops early, and resumes."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from scipy import special
from sklearn.utils.class_weight import compute_class_weight

from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.data.dataset import STAGES
from cxr.metrics.classification import auc_replicates
from cxr.training import features
from cxr.training.checkpointing import Backup
from cxr.training.optimisation import compile_model, graph_optimizers

Images = features.Images
Arrays = tuple[Images, np.ndarray]  # images or features, and labels int [n], or float [n, findings]
_ITERATORS_PER_EPOCH = 2  # `fit` opens one to read, and one at the end of the epoch, which it drops
_SETTINGS_OF = STAGES | {"more_training": STAGES["fine_tuning"]}  # the prefix of a stage's parameters


def augmentation_layers(side: int, seed: int) -> keras.Sequential:
    """Augmentation `light`: turns up to 7 degrees, shifts and zooms up to 6 %, contrast and brightness up to 15 %.

    Images are not mirrored: the heart's side is evidence.
    """
    options = {"fill_mode": "constant", "fill_value": 0.0}
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.RandomRotation(7 / 360, seed=seed, **options),
            layers.RandomTranslation(0.06, 0.06, seed=seed + 1, **options),
            layers.RandomZoom(0.06, seed=seed + 2, **options),
            layers.RandomContrast(0.15, value_range=(0, 255), seed=seed + 3),
            layers.RandomBrightness(0.15, value_range=(0, 255), seed=seed + 4),
        ]
    )


def dataset(
    arrays: Arrays,
    settings: TrainParams,
    *,
    training: bool,
    seed: int | None = None,
    augment: keras.Sequential | None = None,
    skip: int = 0,
) -> tf.data.Dataset:
    """Batches of one epoch.

    Args:
        augment: what changes the images; None: nothing.
        skip: the number of epochs that are over; their orders of images are drawn and dropped.
    """
    x, y = arrays
    seed = settings.seed if seed is None else seed
    # Row numbers are shuffled, and a batch's rows are read when it is needed: images are never copied as a whole.
    data = tf.data.Dataset.range(len(y))
    if training:
        data = data.shuffle(len(y), seed=seed)
        for _ in range(skip * _ITERATORS_PER_EPOCH):  # each draws one order of images
            next(iter(data))
    data = data.batch(settings.batch_size).map(lambda rows: (features.gather(x, rows), features.gather(y, rows)))
    if augment is not None:
        data = data.map(lambda images, labels: (augment(tf.cast(images, tf.float32), training=True), labels))
    options = tf.data.Options()
    options.autotune.enabled = False  # nothing here is tuned, and an epoch on features is over before it starts
    return data.prefetch(2).with_options(options)


OnEpoch = Callable[[int, Mapping[str, float]], None]
_IMAGES_OF_START = 64  # images by which a backup recognises its data


def fit(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    stage: str,
    settings: TrainParams,
    *,
    seed: int | None = None,
    exactly: int | None = None,
    on_epoch: OnEpoch | None = None,
    backup: Backup | None = None,
    part: str = "",
    start: str = "",
    every: float = 0.0,
) -> pd.DataFrame:
    """Fit `model`, in place, and end with its best weights. Returns the history.

    Args:
        stage: "transfer", "fine_tuning" or "more_training": whose epochs, learning rate and patience `settings`
            say. More training has those of fine-tuning.
        seed: of the order of images and of the augmentation; None: the settings'.
        exactly: train so many epochs, and end with the weights of the last one; None: at most as many as the
            settings say, until their patience is over, and end with the weights of the best one (`best_epoch`).
        backup: the state is saved there as `part`, at most every `every` seconds and at the end.
        part: of the stage; "": the stage itself, which prints its progress.
        start: hash of what the training begins with (`start_hash`). A state with another hash is not used. By
            default it is computed from the weights now, the settings and the data.
    """
    epochs, learning_rate, patience = (
        getattr(settings, f"{_SETTINGS_OF[stage]}_{name}") for name in ("epochs", "learning_rate", "patience")
    )
    if exactly is not None:
        epochs = patience = exactly  # so patience is never over
    seed = settings.seed if seed is None else seed
    own = model.variables  # before `compile` adds the metrics' variables
    on_features = train[0].ndim == 2  # a step takes less time than its call
    steps = math.ceil(len(train[1]) / settings.batch_size) if on_features else 1
    compile_model(model, learning_rate, settings, train[1], steps_at_once=steps)
    weights = None
    if settings.class_weights and train[1].ndim == 1:
        present = np.unique(train[1])
        weights = dict(zip(present, compute_class_weight("balanced", classes=present, y=train[1]), strict=True))
    augmented = train[0].ndim == 3 and settings.augmentation != "none"
    augment = augmentation_layers(train[0].shape[1], seed) if augmented else None
    log = EpochLog("" if part else stage, epochs, on_epoch)
    monitor = "val_loss" if stage == "transfer" else settings.fine_tune_monitor
    stopping = keras.callbacks.EarlyStopping(
        monitor=monitor,
        mode="max" if monitor == "val_auc" else "min",
        patience=patience,
        restore_best_weights=exactly is None,
    )
    auc = [ValidationAUC(val, settings)] if monitor == "val_auc" else []
    callbacks = [*auc, log, keras.callbacks.TerminateOnNaN(raise_error=True), stopping]
    skip, saver = 0, None
    if backup and backup.folder:
        variables = {
            "model": own,
            "optimizer": model.optimizer.variables,
            "augment": augment.variables if augment else [],
        }
        start = start or start_hash(own, train, val, settings)
        saver = Saver(backup, part or stage, variables, log, stopping, start=start, every=every)
        if saver.state:
            skip = saver.state.notes["epoch"]
            log.replay(saver.state.notes["rows"])
            backup.resumed[part or stage] = skip
            if saver.state.notes["over"]:
                saver.restore_end(model)
                return log.table()
            progress(f"{part or stage}: resumes after epoch {skip}/{epochs} (backup in {backup.folder})")
        callbacks.append(saver)  # last, since it saves the state of the other callbacks
    with graph_optimizers(on=bool(tf.config.list_physical_devices("GPU"))):
        model.fit(
            dataset(train, settings, training=True, seed=seed, augment=augment, skip=skip),
            validation_data=dataset(val, settings, training=False),
            initial_epoch=skip,
            epochs=epochs,
            shuffle=False,  # the data set shuffles itself
            class_weight=weights,
            callbacks=callbacks,
            verbose=0,
        )
    if saver:
        saver.save_end()
    return log.table()


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch (from 1) whose weights `fit` ends with: the first of the best ones.

    Best is the highest `val_auc` if the history has it, else the lowest `val_loss`.
    """
    worst_first = -history["val_auc"] if "val_auc" in history else history["val_loss"]
    return int(history["epoch"].iloc[worst_first.fillna(np.inf).argmin()])


def start_hash(variables: Sequence[keras.Variable], train: Arrays, val: Arrays, settings: TrainParams) -> str:
    """SHA-256 (hex) of what a training begins with: weights, settings, labels, and some of the images."""
    digest = hashlib.sha256(settings.model_dump_json(exclude={"name", "data"}).encode())
    for variable in variables:
        digest.update(np.ascontiguousarray(variable).tobytes())
    for x, y in (train, val):
        some = np.unique(np.linspace(0, len(x) - 1, _IMAGES_OF_START).astype(int))
        digest.update(json.dumps([list(x.shape), str(x.dtype)]).encode())
        digest.update(np.asarray(y, np.int64 if y.ndim == 1 else np.float32).tobytes())
        digest.update(np.ascontiguousarray(x[some]).tobytes())
    return digest.hexdigest()


def _discard(backup: Backup) -> None:
    progress(
        "backup: it belongs to other weights, settings or data, and is deleted: training starts from the beginning"
    )
    backup.clear()


class Saver(keras.callbacks.Callback):
    """Saves all that the next epochs depend on, and restores it when training begins.

    `variables`: those of the model (with the states of its random numbers), the optimizer and the augmentation.
    `state`: what an earlier process saved of the same training, or None.
    """

    def __init__(
        self,
        backup: Backup,
        part: str,
        variables: Mapping[str, Sequence[keras.Variable]],
        log: EpochLog,
        stopping: keras.callbacks.EarlyStopping,
        *,
        start: str,
        every: float,
    ) -> None:
        super().__init__()
        self.backup, self.part, self.variables = backup, part, variables
        self.log, self.stopping = log, stopping
        self.start, self.every = start, every
        self.saved = time.monotonic()
        self.state = backup.load(part)
        if self.state and self.state.notes["start"] != start:
            _discard(backup)
            self.state = None

    def on_train_begin(self, logs=None):
        if self.state is None:
            return
        self._restore(self.variables)
        best = self.state.notes["best"]
        self.stopping.best, self.stopping.best_epoch = best["value"], best["epoch"]
        self.stopping.wait = best["wait"]
        if self.stopping.restore_best_weights:
            self.stopping.best_weights = self._best() or self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self.saved < self.every:
            return
        arrays = {
            f"{group}_{k}": np.array(variable)
            for group, variables in self.variables.items()
            for k, variable in enumerate(variables)
        }
        # those of the best epoch, unless they are the current ones, or the last ones count
        if self.stopping.restore_best_weights and self.stopping.best_epoch != epoch:
            arrays |= {f"best_{k}": weight for k, weight in enumerate(self.stopping.best_weights)}
        stop = bool(self.model.stop_training) or epoch + 1 == self.log.epochs
        best = {
            "value": float(self.stopping.best),
            "epoch": self.stopping.best_epoch,
            "wait": self.stopping.wait,
        }
        self._save(arrays, over=stop, best=best)

    def save_end(self) -> None:
        """Save the weights that training ended with. Nothing else is needed from here on."""
        arrays = {f"model_{k}": np.array(variable) for k, variable in enumerate(self.variables["model"])}
        self._save(arrays, over=True, best=None)

    def restore_end(self, model: keras.Model) -> None:
        """Restore the weights that training ended with, or would have ended with after its last saved epoch."""
        self._restore({"model": self.variables["model"]})
        if self.state.notes["best"] and (best := self._best()):
            model.set_weights(best)

    def _save(self, arrays: dict[str, np.ndarray], *, over: bool, best: dict[str, float] | None) -> None:
        rows = self.log.rows
        notes = {"start": self.start, "epoch": rows[-1]["epoch"], "rows": rows, "over": over, "best": best}
        self.backup.save(self.part, arrays, notes)
        self.saved = time.monotonic()

    def _restore(self, variables: Mapping[str, Sequence[keras.Variable]]) -> None:
        for group, members in variables.items():
            for k, variable in enumerate(members):
                variable.assign(self.state.arrays[f"{group}_{k}"])

    def _best(self) -> list[np.ndarray] | None:
        """Weights of the best epoch. None if it is the last one, or the last one counts: the model has those."""
        found = [name for name in self.state.arrays if name.startswith("best_")]
        return [self.state.arrays[f"best_{k}"] for k in range(len(found))] or None


class ValidationAUC(keras.callbacks.Callback):
    """Adds `val_auc`, the macro AUC on the validation images, to the measures of each epoch.

    It predicts them once more. It has to be the first callback: the others read what it adds.
    """

    def __init__(self, val: Arrays, settings: TrainParams) -> None:
        super().__init__()
        self.val, self.batch_size = val, settings.batch_size

    def on_epoch_end(self, epoch, logs=None):
        images, labels = self.val
        logits = np.concatenate(list(features.predicted(self.model, images, self.batch_size))).astype(np.float64)
        p = special.softmax(logits, axis=1) if labels.ndim == 1 else special.expit(logits)
        logs["val_auc"] = float(auc_replicates(labels, p, np.ones((1, len(labels)), int))[0])


class EpochLog(keras.callbacks.Callback):
    """Collects the history, prints progress lines (if `stage` is given), and calls `on_epoch(epoch, metrics)`."""

    def __init__(self, stage: str, epochs: int, on_epoch: OnEpoch | None) -> None:
        super().__init__()
        self.stage, self.epochs, self.on_epoch = stage, epochs, on_epoch
        self.rows: list[dict[str, float]] = []
        self.started = self.epoch_started = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, **metrics, "seconds": now - self.epoch_started})
        left = (now - self.started) / (epoch + 1) * (self.epochs - epoch - 1)
        if self.stage:
            auc = f"val_auc {metrics['val_auc']:.3f}, " if "val_auc" in metrics else ""
            progress(
                f"{self.stage}: epoch {epoch + 1}/{self.epochs}, loss {metrics['loss']:.3f}, "
                f"val_loss {metrics['val_loss']:.3f}, {auc}at most {left:.0f} s left"
            )
        if self.on_epoch is not None:
            with graph_optimizers(on=True):  # as outside `fit`
                self.on_epoch(epoch + 1, metrics)

    def replay(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add epochs that an earlier process trained."""
        self.rows = [dict(row) for row in rows]
        self.started -= sum(row["seconds"] for row in rows)
        for row in rows if self.on_epoch is not None else ():
            metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
            self.on_epoch(row["epoch"], metrics)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)
