"""Training of the lung finder (`cxr.models.lungs`) on drawn chests (`cxr.training.lung_task`)."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from cxr.core.params import LungParams
from cxr.core.progress import progress
from cxr.data.phantom.rendering import render_stack
from cxr.models import lungs
from cxr.training import lung_task
from cxr.training.fitting import EpochLog, OnEpoch


def train(settings: LungParams, *, on_epoch: OnEpoch | None = None) -> tuple[keras.Model, pd.DataFrame]:
    """Train the lung finder from random weights.

    The loss is binary cross-entropy plus one minus the soft Dice coefficient (Milletari et al. 2016, arXiv
    1606.04797, equation of section 3, without squares). The optimizer is Adam with cosine decay. Images are
    mirrored at random. The end of training is the end of the decay: no epoch is chosen.

    Returns: the network; and its history, one row an epoch: epoch, loss, val_loss, dice, val_dice, seconds, where
        `val_` is of images that were not trained on.
    """
    n_val = max(32, settings.images // 24)
    progress(f"lungs: draws {settings.images + n_val} chests")
    images, shares = lung_task.render_stack(settings.seed, range(settings.images + n_val), lungs.SIDE)
    images, shares = lungs.prepared(images), shares[..., None]
    network = lungs.build()
    steps = -(-settings.images // settings.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 10,
        decay_steps=steps * settings.epochs,
        warmup_target=settings.learning_rate,
        warmup_steps=min(100, steps),
    )
    dice = keras.metrics.MeanMetricWrapper(_dice, name="dice")
    network.compile(keras.optimizers.Adam(schedule), loss=_loss, metrics=[dice])

    def dataset(part: slice, training: bool) -> tf.data.Dataset:
        data = tf.data.Dataset.from_tensor_slices((images[part], shares[part]))
        if training:
            data = data.shuffle(settings.images, seed=settings.seed)
            data = data.enumerate().map(lambda step, row: _mirrored(row, step, settings.seed))
        return data.batch(settings.batch_size).prefetch(2)

    log = EpochLog("lungs", settings.epochs, on_epoch)
    network.fit(
        dataset(slice(0, settings.images), True),
        validation_data=dataset(slice(settings.images, None), False),
        epochs=settings.epochs,
        shuffle=False,  # the data set shuffles itself
        callbacks=[log],
        verbose=0,
    )
    return network, log.table()


def on_phantoms(network: keras.Model, seed: int, n: int, size: int = 224) -> np.ndarray:
    """Dice of the lungs that are found on images of the phantom (not of the task): float [n]; 0 where refused."""
    small, large = render_stack(seed, range(n), lungs.SIDE)[0], render_stack(seed, range(n), size)[2]
    return lungs.dice(lungs.find(small, network).masks(size), large)


def _loss(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    p = tf.sigmoid(logits)
    overlap = (2 * tf.reduce_sum(truth * p, (1, 2, 3)) + 1) / (tf.reduce_sum(truth + p, (1, 2, 3)) + 1)
    each = tf.nn.sigmoid_cross_entropy_with_logits(truth, logits)
    return tf.reduce_mean(each, (1, 2, 3)) + 1 - overlap


def _dice(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    a, b = tf.cast(truth > 0.5, tf.float32), tf.cast(logits > 0, tf.float32)
    return (2 * tf.reduce_sum(a * b, (1, 2, 3)) + 1) / (tf.reduce_sum(a + b, (1, 2, 3)) + 1)


def _mirrored(row: tuple[tf.Tensor, tf.Tensor], step: tf.Tensor, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    key = tf.stack([tf.cast(step, tf.int64), tf.constant(seed, tf.int64)])
    mirror = tf.random.stateless_uniform([], key) < 0.5
    return tuple(tf.where(mirror, tf.reverse(one, [1]), one) for one in row)
