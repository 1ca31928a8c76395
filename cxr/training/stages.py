"""The two stages: a new head on a frozen backbone, then every layer; and the pretraining of the compact
networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.models import build, graph, targets
from cxr.training import features
from cxr.training.batches import Arrays, Images
from cxr.training.checkpointing import Backup
from cxr.training.fitting import OnEpoch, fit, start_hash
from cxr.training.heads import MAX_HEADS, Head, another, head_seed

STAGES = ("transfer", "fine_tuning")
_SECONDS_BETWEEN_BACKUPS = 5.0  # on cached features, where an epoch takes milliseconds and so may be lost


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
        start = start_hash(model.variables, train, val, settings) if backup else ""
        with build.computing(model, settings.precision):
            backbone = build.to_features(model)
            pooled = [
                (features.pooled(backbone, images, settings, cache=cache), labels)
                for images, labels in (train, val)
            ]
        with model.distribute_strategy.scope():
            head = build.head(model)
        history = fit(
            head, *pooled, **options, stage="transfer", start=start, seed=settings.seed, on_epoch=on_epoch
        )
        heads = []
        for number in range(settings.extra_heads):
            progress(f"before: head {number + 1}/{settings.extra_heads} for the baseline two heads")
            seed = head_seed(settings.seed, number)
            with model.distribute_strategy.scope():
                other = another(head, seed)
            part = f"head_{number}"
            fit(other, *pooled, **options, stage="", part=part, start=start, seed=seed, on_epoch=None)
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
            history = fit(
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
    frozen = targets.frozen_layers(model, settings.fine_tune_from)
    if settings.batchnorm == "inference":
        frozen += [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    frozen = [layer for layer in frozen if layer.trainable]
    for layer in frozen:
        layer.trainable = False
    try:
        with build.computing(model, settings.precision):
            return fit(
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
