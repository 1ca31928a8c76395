"""The two stages: a new head on a frozen backbone, then every layer; and the pretraining of the compact
networks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from sklearn.utils.class_weight import compute_class_weight

from cxr.core.errors import InputError
from cxr.core.params import PretrainParams, TrainParams
from cxr.core.progress import progress
from cxr.models import build, graph
from cxr.training import features, pretraining
from cxr.training.checkpointing import Backup
from cxr.training.flat_adam import FlatAdam

STAGES = ("transfer", "fine_tuning")

OnEpoch = Callable[[int, Mapping[str, float]], None]
Images = features.Images
Arrays = tuple[Images, np.ndarray]  # images or features, and labels int [n]
Head = tuple[np.ndarray, ...]  # weights of `models.head`: kernel float32 [d, n_classes], bias float32 [n_classes]

MAX_HEADS = 1000
_HEAD_SEEDS = 2**31  # the seeds of runs end where those of heads begin
_SECONDS_BETWEEN_BACKUPS = 5.0  # on cached features, where an epoch takes milliseconds and so may be lost
_ITERATORS_PER_EPOCH = 2  # that `fit` makes of a data set: one to read, and one as the epoch ends, which it drops
_IMAGES_OF_START = 64  # images, by which a backup knows its data again


class Transfer(NamedTuple):
    """What `transfer` returns: one row an epoch, and extra heads on the same features."""

    history: pd.DataFrame
    heads: list[Head]


def seed_everything(seed: int, *, deterministic: bool = True) -> None:
    """Seed Python, NumPy and TensorFlow; with `deterministic`, ops give the same bits every time."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def transfer(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    settings: TrainParams,
    *,
    on_epoch: OnEpoch | None = None,
    backup: Backup | None = None,
    cache: Path | None = None,
) -> Transfer:
    """Stage 1, in place: train the head (`models.head`) on the frozen backbone, which is in inference mode.

    Without augmentation the backbone's pooled features are computed once, or found in the folder `cache` (see
    `features.pooled`), and the head alone is fitted to them, which is the same arithmetic. Ends with the weights
    of the epoch with the lowest validation loss.

    `settings.extra_heads` extra heads are then trained on those features in the same way, from `head_seed`: what
    two heads that differ by their seed alone disagree on is noise. They leave `model`, and every random number
    that it or the next stage draws, as they are without them. With augmentation, where there are no features
    to share and each head would cost as much as the stage, there are none, and a progress line says so.

    Returns (history, heads): history with one row an epoch: epoch (1, 2, ...), loss, accuracy, val_loss,
    val_accuracy, seconds; heads as (kernel float32 [d, n_classes], bias float32 [n_classes]), or all weights of
    the head of a foreign classifier, in the order of its layers.
    Raises InputError for more than MAX_HEADS heads.

    With a `backup`, the stage and each extra head are kept there. What an earlier process saved is
    taken from it, and the rest is trained as it would have been then: on a CPU with `deterministic` to the bit. On
    cached features the state is saved every few seconds and at the end, otherwise after every epoch. Epochs that
    are restored are given to `on_epoch` before the next one begins (see `fine_tune`).
    """
    if settings.extra_heads > MAX_HEADS:
        raise InputError(f"extra_heads: at most {MAX_HEADS}, got {settings.extra_heads}")
    options = {
        "epochs": settings.transfer_epochs,
        "learning_rate": settings.transfer_learning_rate,
        "patience": settings.transfer_patience,
        "settings": settings,
    }
    if settings.augmentation == "none":
        options |= {"backup": backup, "every": _SECONDS_BETWEEN_BACKUPS}
        start = _start(model.variables, train, val, settings) if backup else ""
        with build.computing(model, settings.precision):
            backbone = build.to_features(model)
            pooled = [
                (features.pooled(backbone, images, settings, cache=cache), labels)
                for images, labels in (train, val)
            ]
        with model.distribute_strategy.scope():
            head = build.head(model)
        history = _fit(
            head, *pooled, **options, stage="transfer", start=start, seed=settings.seed, on_epoch=on_epoch
        )
        heads = []
        for number in range(settings.extra_heads):
            progress(f"before: head {number + 1}/{settings.extra_heads} for the baseline two heads")
            seed = head_seed(settings.seed, number)
            with model.distribute_strategy.scope():
                other = _another(head, seed)
            part = f"head_{number}"
            _fit(other, *pooled, **options, stage="", part=part, start=start, seed=seed, on_epoch=None)
            heads.append(tuple(np.array(v, np.float32) for layer in other.layers for v in layer.weights))
        return Transfer(history, heads)
    if settings.extra_heads:
        progress("before: no extra heads: with augmentation there are no features to share")
    head_layers = build.head_layers(model)
    trainable = [layer for layer in model.layers if layer not in head_layers and layer.trainable]
    for layer in trainable:
        layer.trainable = False
    try:
        with build.computing(model, settings.precision):
            history = _fit(
                _to_logits(model, head_alone=True),
                train,
                val,
                **options,
                stage="transfer",
                seed=settings.seed,
                on_epoch=_in_float32(model, on_epoch),
                backup=backup,
            )
    finally:
        for layer in trainable:
            layer.trainable = True
    return Transfer(history, [])


def _another(head: keras.Model, seed: int) -> keras.Model:
    """A head like `head` with new weights, from seeds of its own, where the layers' defaults would draw from the
    global ones. Layers of one kind have different seeds, the last of each kind `seed` itself."""
    kinds = [type(layer) for layer in head.layers]

    def anew(layer: keras.Layer) -> keras.Layer:
        behind = kinds[head.layers.index(layer) + 1 :].count(type(layer))
        return type(layer).from_config(_reseeded(layer.get_config(), seed + behind * _HEAD_SEEDS))

    return keras.models.clone_model(head, clone_function=anew)


def _reseeded(config: Any, seed: int) -> Any:
    """A layer's configuration with `seed` for every seed in it, those of its initializers too."""
    if not isinstance(config, dict):
        return config
    return {key: seed if key == "seed" else _reseeded(value, seed) for key, value in config.items()}


def head_seed(seed: int, number: int) -> int:
    """Seed of extra head `number` (0 to MAX_HEADS - 1) of a run: 2^31 + (MAX_HEADS seed + number) mod 2^31.

    No run has it, as theirs are under 2^31; two runs share one only if their seeds are two million apart.
    """
    return _HEAD_SEEDS + (MAX_HEADS * seed + number) % _HEAD_SEEDS


def save_heads(path: str | Path, heads: Sequence[Head]) -> None:
    """Write heads to an `.npz` file (no pickle): the weights of head k as `k_0` (kernel), `k_1` (bias), ..."""
    arrays = {f"{k}_{i}": weight for k, head in enumerate(heads) for i, weight in enumerate(head)}
    with open(path, "wb") as file:  # NumPy would append a suffix to a name without
        np.savez(file, **arrays)


def load_heads(path: str | Path) -> list[Head]:
    """What `save_heads` wrote, in order. Raises InputError when it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as heads ({error}): run 1_train anew") from None
    heads = []
    while f"{len(heads)}_0" in arrays:
        names = [f"{len(heads)}_{i}" for i in range(len(arrays))]
        heads.append(tuple(arrays.pop(name) for name in names if name in arrays))
    if arrays:
        raise InputError(f"{path}: holds {', '.join(arrays)} beside heads: give a file that save_heads wrote")
    return heads


def fine_tune(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    settings: TrainParams,
    *,
    on_epoch: OnEpoch | None = None,
    backup: Backup | None = None,
) -> pd.DataFrame:
    """Stage 2, in place: train every layer, at a low learning rate; with `fine_tune_from` only those behind it.

    With `batchnorm: inference` BatchNorm layers are frozen: pretrained statistics, scale and offset stay
    (Keras' advice for fine-tuning on few images); with `training` they follow the batches, except in
    `frozen_layers`. While `on_epoch(epoch, metrics)` runs, `model` has the weights at the end of that epoch.
    Ends with the weights of the epoch with the lowest validation loss; returns rows as `before`'s history.
    Raises InputError as `frozen_layers` does.

    With a `backup` the state is saved after every epoch, when `on_epoch` has returned, and training goes on after
    the epoch that an earlier process saved last, as it would have gone on then: on a CPU with `deterministic` to
    the bit. Epochs that are restored are given to `on_epoch` first, all at once: `model` does not have their
    weights then, so that what `on_epoch` makes of the weights must have been kept with `backup.keep`.
    """
    frozen = build.frozen_layers(model, settings.fine_tune_from)
    if settings.batchnorm == "inference":
        frozen += [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    frozen = [layer for layer in frozen if layer.trainable]
    for layer in frozen:
        layer.trainable = False
    try:
        with build.computing(model, settings.precision):
            return _fit(
                _to_logits(model),
                train,
                val,
                epochs=settings.fine_tune_epochs,
                learning_rate=settings.fine_tune_learning_rate,
                patience=settings.fine_tune_patience,
                stage="fine_tuning",
                settings=settings,
                seed=settings.seed,
                on_epoch=_in_float32(model, on_epoch),
                backup=backup,
            )
    finally:
        for layer in frozen:
            layer.trainable = True


def predict(model: keras.Model, images: Images, batch_size: int) -> np.ndarray:
    """Class probabilities float32 [n, n_classes] for grey images uint8 [n, side, side]."""
    return np.concatenate(list(features.predicted(model, images, batch_size)))


def prediction_table(manifest: pd.DataFrame, probabilities: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """One row an image, in the manifest's order: image_id, patient_id, split, label, predicted, correct, and the
    probability of class k as `p_<k>` (names may hold any character, so columns go by number)."""
    predicted = np.array(classes)[probabilities.argmax(1)]
    table = manifest[["image_id", "patient_id", "split", "label"]].reset_index(drop=True)
    table["predicted"] = predicted
    table["correct"] = table["label"].to_numpy() == predicted
    for k in range(len(classes)):
        table[f"p_{k}"] = probabilities[:, k]
    return table


def pretrain(settings: PretrainParams, *, on_epoch: OnEpoch | None = None) -> tuple[keras.Model, pd.DataFrame]:
    """Train an architecture from scratch on the procedural source task (`pretraining`): two softmax heads, the
    texture and the object, Adam with cosine decay, pictures flipped and turned by right angles at random.

    Returns the model (its head untrained: only the backbone is meant to be kept) and one row an epoch, among
    them val_texture_accuracy and val_object_accuracy on pictures not trained on.
    """
    n_val = max(64, settings.source_images // 12)
    progress(f"pretrain: {settings.source_images + n_val} pictures of the source task")
    images, textures, things = pretraining.render_stack(
        settings.seed, settings.source_images + n_val, settings.image_size
    )
    model = build.build(settings.architecture, n_classes=2, image_size=settings.image_size)
    pooled = graph.head_input(model)
    heads = {
        "texture": layers.Dense(len(pretraining.TEXTURES), name="texture")(pooled),
        "object": layers.Dense(len(pretraining.OBJECTS), name="object")(pooled),
    }
    trainee = keras.Model(model.input, heads)
    steps = -(-settings.source_images // settings.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 10,
        decay_steps=steps * settings.epochs,
        warmup_target=settings.learning_rate,
        warmup_steps=steps // 4,
    )
    trainee.compile(
        keras.optimizers.Adam(schedule),
        loss={name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in heads},
        loss_weights={"texture": 1.0, "object": 2.0},  # the object is the harder of the two
        metrics={name: ["accuracy"] for name in heads},
    )

    def dataset(part: slice, training: bool) -> tf.data.Dataset:
        labels = {"texture": textures[part], "object": things[part]}
        data = tf.data.Dataset.from_tensor_slices((images[part][..., None], labels))
        if training:
            data = data.shuffle(settings.source_images, seed=settings.seed)
            data = data.enumerate().map(lambda step, row: (_flip(row[0], step, settings.seed), row[1]))
        return data.batch(settings.batch_size).prefetch(2)

    val = dataset(slice(settings.source_images, None), False)
    log = _EpochLog("pretrain", settings.epochs, on_epoch)
    trainee.fit(
        dataset(slice(0, settings.source_images), True),
        validation_data=val,
        epochs=settings.epochs,
        shuffle=False,  # the data set shuffles itself
        callbacks=[log],
        verbose=0,
    )
    return model, log.table()


def _flip(image: tf.Tensor, step: tf.Tensor, seed: int) -> tf.Tensor:
    key = tf.stack([tf.cast(step, tf.int64), tf.constant(seed, tf.int64)])
    image = tf.image.stateless_random_flip_left_right(image, key)
    return tf.image.rot90(image, tf.random.stateless_uniform([], key + 1, 0, 4, tf.int32))


def _to_logits(model: keras.Model, *, head_alone: bool = False) -> keras.Model:
    """From images to logits, as a model of its own; with `head_alone` gradients end before the head."""
    with model.distribute_strategy.scope():
        if not head_alone:
            return keras.Model(model.input, model.get_layer("logits").output)
        # Layers that are not trainable would do, but the backward pass through them all would be traced.
        pooled = keras.ops.stop_gradient(graph.head_input(model))
        return keras.Model(model.input, build.head(model)(pooled))


def _in_float32(model: keras.Model, on_epoch: OnEpoch | None) -> OnEpoch | None:
    """`on_epoch`, with a model that is saved, and predicts, as it does when training is over."""
    if on_epoch is None:
        return None

    def call(epoch: int, metrics: Mapping[str, float]) -> None:
        with build.computing(model, "float32"):
            on_epoch(epoch, metrics)

    return call


def _compile(model: keras.Model, learning_rate: float, settings: TrainParams) -> None:
    """For a quick first step: few operations, and variables that are there before it, as it is traced anew
    when it makes any."""
    with model.distribute_strategy.scope():
        optimizer = _optimizer(learning_rate, settings)
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],  # "accuracy" would be built late
            jit_compile=settings.xla,
        )


@contextlib.contextmanager
def _graph_optimizers(*, on: bool) -> Iterator[None]:
    """Whether TensorFlow rewrites the graphs that are first run meanwhile, those of data sets among them.

    For a deep network's step it takes seconds, and saves none of its time on a CPU (measured: DenseNet201). On a
    GPU it chooses the layout of tensors. It may change bits: off for a part of `fit` alone, an epoch would depend
    on which of them came first in its process.
    """
    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": not on})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def _optimizer(learning_rate: float, settings: TrainParams) -> keras.optimizers.Optimizer:
    """Under a strategy with several replicas Adam is Keras' own."""
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    elif tf.distribute.get_strategy().num_replicas_in_sync > 1:
        progress("training on several devices: with Keras' own Adam, whose first step takes longer")
        optimizer = keras.optimizers.Adam(learning_rate)
    else:
        optimizer = FlatAdam(learning_rate)
    if settings.precision == "mixed_float16":  # whose small gradients would be zero
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _augment(side: int, seed: int) -> keras.Sequential:
    """`light`: turns up to 7 degrees, shifts and zooms up to 6 %, contrast and brightness up to 15 %.

    No mirroring: the heart's side is evidence.
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


def _dataset(
    arrays: Arrays,
    settings: TrainParams,
    *,
    training: bool,
    seed: int | None = None,
    augment: keras.Sequential | None = None,
    skip: int = 0,
) -> tf.data.Dataset:
    """Batches of an epoch. `augment` is to be given when its state matters; `skip`: epochs that are over already,
    whose orders of images have been drawn."""
    x, y = arrays
    seed = settings.seed if seed is None else seed
    is_image = x.ndim == 3
    # Numbers are shuffled, and each batch's rows read when it is due: no copy of all, in memory or in the graph.
    data = tf.data.Dataset.range(len(y))
    if training:
        data = data.shuffle(len(y), seed=seed)
        for _ in range(skip * _ITERATORS_PER_EPOCH):  # each draws an order, which `data` then is past
            next(iter(data))
    data = data.batch(settings.batch_size).map(lambda rows: (features.gather(x, rows), features.gather(y, rows)))
    if training and is_image and settings.augmentation != "none":
        augment = augment or _augment(x.shape[1], seed)
        data = data.map(lambda images, labels: (augment(tf.cast(images, tf.float32), training=True), labels))
    return data.prefetch(2)


def _fit(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    *,
    epochs: int,
    learning_rate: float,
    patience: int,
    stage: str,
    settings: TrainParams,
    seed: int,
    on_epoch: OnEpoch | None,
    backup: Backup | None = None,
    part: str = "",
    start: str = "",
    every: float = 0.0,
) -> pd.DataFrame:
    """Fit `model`, in place, and end with its best weights. Returns the history.

    `backup`: where the state is saved, as `part` (else `stage`), at most every `every` seconds and at the end.
    `start`: of what training it is the state; by default that is told by the weights now, and the data.
    """
    own = model.variables  # before `compile`, and so without those of the metrics
    _compile(model, learning_rate, settings)
    weights = None
    if settings.class_weights:
        present = np.unique(train[1])
        weights = dict(zip(present, compute_class_weight("balanced", classes=present, y=train[1]), strict=True))
    augmented = train[0].ndim == 3 and settings.augmentation != "none"
    augment = _augment(train[0].shape[1], seed) if augmented else None
    log = _EpochLog(stage, epochs, on_epoch)
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience, restore_best_weights=True)
    callbacks = [log, keras.callbacks.TerminateOnNaN(raise_error=True), stopping]
    skip, saver = 0, None
    if backup and backup.folder:
        variables = {
            "model": own,
            "optimizer": model.optimizer.variables,
            "augment": augment.variables if augment else [],
        }
        start = start or _start(own, train, val, settings)
        saver = _Saver(backup, part or stage, variables, log, stopping, start=start, every=every)
        if saver.state:
            skip = saver.state.notes["epoch"]
            log.replay(saver.state.notes["rows"])
            backup.resumed[part or stage] = skip
            if saver.state.notes["over"]:
                saver.restore_end(model)
                return log.table()
            progress(f"{part or stage}: goes on after epoch {skip}/{epochs} (backup in {backup.folder})")
        callbacks.append(saver)  # the last, as it saves what the others have become
    with _graph_optimizers(on=bool(tf.config.list_physical_devices("GPU"))):
        model.fit(
            _dataset(train, settings, training=True, seed=seed, augment=augment, skip=skip),
            validation_data=_dataset(val, settings, training=False),
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


def _start(variables: Sequence[keras.Variable], train: Arrays, val: Arrays, settings: TrainParams) -> str:
    """SHA-256 of what a training begins with: weights, settings, labels, and some of the images."""
    digest = hashlib.sha256(settings.model_dump_json(exclude={"name", "data"}).encode())
    for variable in variables:
        digest.update(np.ascontiguousarray(variable).tobytes())
    for x, y in (train, val):
        some = np.unique(np.linspace(0, len(x) - 1, _IMAGES_OF_START).astype(int))
        digest.update(json.dumps([list(x.shape), str(x.dtype)]).encode())
        digest.update(np.asarray(y, np.int64).tobytes())
        digest.update(np.ascontiguousarray(x[some]).tobytes())
    return digest.hexdigest()


def _discard(backup: Backup) -> None:
    progress("backup: is of other weights, settings or data: training begins anew")
    backup.clear()


class _Saver(keras.callbacks.Callback):
    """Saves all that the next epochs depend on, and brings it back when training begins.

    `variables`: of the model (with the states of its random numbers), the optimizer and the augmentation.
    `state`: what an earlier process saved of the same training, or None.
    """

    def __init__(
        self,
        backup: Backup,
        part: str,
        variables: Mapping[str, Sequence[keras.Variable]],
        log: _EpochLog,
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
        self.stopping.best_weights = self._best() or self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self.saved < self.every:
            return
        arrays = {
            f"{group}_{k}": np.array(variable)
            for group, variables in self.variables.items()
            for k, variable in enumerate(variables)
        }
        if self.stopping.best_epoch != epoch:  # else they are the weights
            arrays |= {f"best_{k}": weight for k, weight in enumerate(self.stopping.best_weights)}
        stop = bool(self.model.stop_training) or epoch + 1 == self.log.epochs
        best = {
            "value": float(self.stopping.best),
            "epoch": self.stopping.best_epoch,
            "wait": self.stopping.wait,
        }
        self._save(arrays, over=stop, best=best)

    def save_end(self) -> None:
        """Save the weights that training ended with: they are all that is needed from here on."""
        arrays = {f"model_{k}": np.array(variable) for k, variable in enumerate(self.variables["model"])}
        self._save(arrays, over=True, best=None)

    def restore_end(self, model: keras.Model) -> None:
        """Bring back what training ended with, or would have when its last epoch had been saved."""
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
        """Weights of the best epoch; None when it is the last one, whose weights the model has."""
        found = [name for name in self.state.arrays if name.startswith("best_")]
        return [self.state.arrays[f"best_{k}"] for k in range(len(found))] or None


class _EpochLog(keras.callbacks.Callback):
    """Rows for the history, progress lines (with a `stage`), and the caller's `on_epoch(epoch, metrics)`."""

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
            progress(
                f"{self.stage}: epoch {epoch + 1}/{self.epochs}, loss {metrics['loss']:.3f}, "
                f"val_loss {metrics['val_loss']:.3f}, at most {left:.0f} s left"
            )
        if self.on_epoch is not None:
            with _graph_optimizers(on=True):  # as outside of `fit`
                self.on_epoch(epoch + 1, metrics)

    def replay(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take up epochs that an earlier process went through."""
        self.rows = [dict(row) for row in rows]
        self.started -= sum(row["seconds"] for row in rows)
        for row in rows if self.on_epoch is not None else ():
            metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
            self.on_epoch(row["epoch"], metrics)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)
