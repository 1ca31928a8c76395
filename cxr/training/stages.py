"""The two stages of training: a new head on a frozen backbone, then every layer. And more of the second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.core.progress import progress
from cxr.data import groups, multi_label
from cxr.models import build, graph, targets
from cxr.models.weights import Head
from cxr.training import features
from cxr.training.checkpointing import Backup
from cxr.training.fitting import Arrays, Images, OnEpoch, fit, start_hash

MAX_HEADS = 1000
_HEAD_SEEDS = 2**31  # seeds of heads begin here; seeds of runs are smaller
_SECONDS_BETWEEN_BACKUPS = 5.0  # on cached features: an epoch takes milliseconds, and losing a few costs little


class Transfer(NamedTuple):
    """What `transfer` returns: the history, one row an epoch, and the extra heads."""

    history: pd.DataFrame
    heads: list[Head]


def seed_everything(seed: int, *, deterministic: bool = True) -> None:
    """Seed Python, NumPy and TensorFlow. With `deterministic`, operations give the same bits every time."""
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
    """Stage 1, in place: train the head (`build.head`) on the frozen backbone, which is in inference mode.

    Without augmentation the backbone's pooled features are computed once, or read from the folder `cache` (see
    `features.pooled`). Only the head is fitted to them, which is the same arithmetic. The model ends with the
    weights of the epoch with the lowest validation loss.

    Then `settings.extra_heads` extra heads are trained on the same features in the same way, with seeds of their
    own (`head_seed`). They are the baseline *two heads*. They change neither `model` nor any random number that it
    or the next stage draws. With augmentation there are no features to share, and each head would cost as much as
    the stage: there are no extra heads then, and a progress line says so.

    Args:
        model: from `cxr.models.build`.
        train, val: images uint8 [n, side, side] and labels int [n], or float [n, findings] for a model that ends
            with sigmoids.
        settings: the notebook's parameters.
        on_epoch: called as on_epoch(epoch, metrics) after each epoch.
        backup: the stage and each extra head are saved there. What an earlier process saved is restored, and the
            rest is trained as it would have been: on a CPU with `deterministic`, to the bit. On cached features
            the state is saved every few seconds and at the end, otherwise after every epoch. Restored epochs are
            given to `on_epoch` before the next one begins (see `fine_tune`).
        cache: folder of features.

    Returns:
        history: one row an epoch: epoch (1, 2, ...), loss, accuracy, val_loss, val_accuracy, seconds.
        heads: of each extra head (kernel float32 [d, n_classes], bias float32 [n_classes]), or all weights of the
            head of a foreign classifier, in the order of its layers.

    Raises:
        InputError: more than MAX_HEADS heads.
    """
    if settings.extra_heads > MAX_HEADS:
        raise InputError(f"extra_heads: at most {MAX_HEADS}, got {settings.extra_heads}")
    if settings.augmentation == "none":
        start = start_hash(model.variables, train, val, settings) if backup else ""
        saving = {"backup": backup, "start": start, "every": _SECONDS_BETWEEN_BACKUPS}
        with build.computing(model, settings.precision):
            backbone = build.to_features(model)
            pooled = [
                (features.pooled(backbone, images, settings, cache=cache), labels)
                for images, labels in (train, val)
            ]
        with model.distribute_strategy.scope():
            head = build.head(model)
        history = fit(head, *pooled, "transfer", settings, on_epoch=on_epoch, **saving)
        heads = []
        for number in range(settings.extra_heads):
            progress(f"transfer: extra head {number + 1}/{settings.extra_heads} for the baseline two heads")
            seed = head_seed(settings.seed, number)
            with model.distribute_strategy.scope():
                other = another(build.head(model), seed)  # `head` is compiled: its optimizer would be copied
            fit(other, *pooled, "transfer", settings, seed=seed, part=f"head_{number}", **saving)
            heads.append(tuple(np.array(v, np.float32) for layer in other.layers for v in layer.weights))
        return Transfer(history, heads)
    if settings.extra_heads:
        progress("transfer: no extra heads: with augmentation there are no features to share")
    head_layers = build.head_layers(model)
    rest = [layer for layer in model.layers if layer not in head_layers]
    with _frozen(rest), build.computing(model, settings.precision):
        network = _to_logits(model, head_alone=True)
        on_epoch = _in_float32(model, on_epoch)
        history = fit(network, train, val, "transfer", settings, on_epoch=on_epoch, backup=backup)
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
    """Stage 2, in place: train every layer at a low learning rate, or only those after `fine_tune_from`.

    With `batchnorm: inference`, BatchNorm layers are frozen: they keep their pretrained statistics, scale and
    offset (Keras' advice for fine-tuning on few images). With `training` they follow the batches, except frozen
    ones. The model ends with the weights of the best epoch by `fine_tune_monitor` (`fitting.best_epoch`).

    Args:
        model, train, val, settings: as for `transfer`.
        on_epoch: called as on_epoch(epoch, metrics) after each epoch; `model` has the weights of that epoch then.
        backup: the state is saved there after every epoch, when `on_epoch` has returned. Training resumes after
            the last epoch that an earlier process saved, as it would have gone on: on a CPU with `deterministic`,
            to the bit. Restored epochs are given to `on_epoch` first, all at once. `model` does not have their
            weights then: keep with `backup.keep` what `on_epoch` computes from weights.

    Returns the history, with columns as for `transfer`. Raises InputError as `targets.frozen_layers` does.
    """
    return _fit_layers(model, train, val, settings, "fine_tuning", on_epoch=on_epoch, backup=backup)


def more_training(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    settings: TrainParams,
    *,
    epochs: int,
    on_epoch: OnEpoch | None = None,
    backup: Backup | None = None,
) -> pd.DataFrame:
    """Fine-tuning once more, in place, from the checkpoint after: the matched null.

    It repeats what `fine_tune` did, from where that ended: the same images, learning rate, optimizer (which begins
    anew, as it did there), BatchNorm mode, frozen layers and augmentation. Only the order of the batches and the
    draws of the augmentation are others (`more_training_seed`). There is no early stopping and no choice of an
    epoch: the model ends with the weights of the last one. So the evidence moves as far as this operator moves it
    when the images have nothing new to teach. (The matched-operator null of yoadjei/uec-research, a public
    repository, 2026, trains on fresh images of the same source instead: here there are none.)

    Args:
        model: as `fine_tune` left it. The other arguments as there.
        epochs: as many as `fine_tune` took to reach the weights that it ended with (`fitting.best_epoch`), at
            least 1.

    Returns the history, with columns as for `transfer`.
    """
    seed = more_training_seed(settings.seed)
    options = {"seed": seed, "exactly": epochs, "on_epoch": on_epoch, "backup": backup}
    return _fit_layers(model, train, val, settings, "more_training", **options)


def more_training_seed(seed: int) -> int:
    """The seed of the order of batches in `more_training`: (seed + 2^30) mod 2^31, with the run's own `seed`."""
    return (seed + 2**30) % 2**31


def _fit_layers(
    model: keras.Model,
    train: Arrays,
    val: Arrays,
    settings: TrainParams,
    stage: str,
    *,
    on_epoch: OnEpoch | None,
    **options: Any,
) -> pd.DataFrame:
    """Fit every layer that `settings` leave trainable (`fine_tune`). `options`: of `fitting.fit`."""
    frozen = targets.frozen_layers(model, settings.fine_tune_from)
    if settings.batchnorm == "inference":
        frozen += [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    with _frozen(frozen), build.computing(model, settings.precision):
        on_epoch = _in_float32(model, on_epoch)
        return fit(_to_logits(model), train, val, stage, settings, on_epoch=on_epoch, **options)


def predict(model: keras.Model, images: Images, batch_size: int) -> np.ndarray:
    """Class probabilities float32 [n, n_classes] for grey images uint8 [n, side, side]."""
    return np.concatenate(list(features.predicted(model, images, batch_size)))


def prediction_table(
    manifest: pd.DataFrame,
    probabilities: np.ndarray,
    classes: list[str],
    thresholds: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row an image, in the manifest's order.

    Columns: image_id, patient_id, split, label, predicted, correct, the probability of class k as `p_<k>`, and the
        groups of the manifest (`cxr.data.groups`). The classes have numbers, since their names may hold any
        character.

    If an image can have several findings, `predicted` names those whose probability reaches its threshold
        (`thresholds`, float [findings]), and `correct` says whether that is right for all that are known. There
        are also `called_<k>`, bool, and the columns `finding_<name>` of the manifest.
    """
    own = multi_label.columns(manifest)
    table = manifest[["image_id", "patient_id", "split", "label"]].reset_index(drop=True)
    if own:
        called, truth = probabilities >= thresholds, multi_label.truth(manifest)
        table["predicted"] = multi_label.texts(called, classes)
        table["correct"] = ((called == (truth == 1)) | np.isnan(truth)).all(axis=1)
    else:
        table["predicted"] = np.array(classes)[probabilities.argmax(1)]
        table["correct"] = table["label"].to_numpy() == table["predicted"].to_numpy()
    for k in range(len(classes)):
        table[f"p_{k}"] = probabilities[:, k]
        if own:
            table[f"{multi_label.CALLED}{k}"] = called[:, k]
    return table.join(manifest[[*own, *groups.columns(manifest)]].reset_index(drop=True))


@contextlib.contextmanager
def _frozen(chosen: Iterable[keras.Layer]) -> Iterator[None]:
    """Within the context, none of these layers trains; afterwards those train that did before."""
    trainable = [layer for layer in chosen if layer.trainable]
    for layer in trainable:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in trainable:
            layer.trainable = True


def _to_logits(model: keras.Model, *, head_alone: bool = False) -> keras.Model:
    """A model from images to logits that shares the layers. With `head_alone`, gradients stop before the head."""
    with model.distribute_strategy.scope():
        if not head_alone:
            return keras.Model(model.input, model.get_layer("logits").output)
        # Freezing the layers would give the same, but the backward pass through all of them would be traced.
        pooled = keras.ops.stop_gradient(graph.head_input(model))
        return keras.Model(model.input, build.head(model)(pooled))


def _in_float32(model: keras.Model, on_epoch: OnEpoch | None) -> OnEpoch | None:
    """`on_epoch`, with `model` computing in float32 meanwhile, as it does after training."""
    if on_epoch is None:
        return None

    def call(epoch: int, metrics: Mapping[str, float]) -> None:
        with build.computing(model, "float32"):
            on_epoch(epoch, metrics)

    return call


def another(head: keras.Model, seed: int) -> keras.Model:
    """A head like `head`, with new weights from seeds of its own.

    Keras' defaults would draw from the global seed instead. Layers of the same kind get different seeds; the last
    one of each kind gets `seed` itself.
    """
    kinds = [type(layer) for layer in head.layers]

    def reseeded(layer: keras.Layer) -> keras.Layer:
        behind = kinds[head.layers.index(layer) + 1 :].count(type(layer))
        return type(layer).from_config(_reseeded(layer.get_config(), seed + behind * _HEAD_SEEDS))

    return keras.models.clone_model(head, clone_function=reseeded)


def _reseeded(config: Any, seed: int) -> Any:
    """A layer's configuration with every seed in it replaced by `seed`, also in its initializers."""
    if not isinstance(config, dict):
        return config
    return {key: seed if key == "seed" else _reseeded(value, seed) for key, value in config.items()}


def head_seed(seed: int, number: int) -> int:
    """Seed of extra head `number` (0 to MAX_HEADS - 1) of a run: 2^31 + (MAX_HEADS seed + number) mod 2^31.

    It is the seed of no run: those are below 2^31. Two runs share a head's seed only if their own seeds are two
    million apart.
    """
    return _HEAD_SEEDS + (MAX_HEADS * seed + number) % _HEAD_SEEDS
