"""Pretraining of a backbone on the procedural source task (`cxr.training.source_task`)."""

from __future__ import annotations

import keras
import pandas as pd
import tensorflow as tf
from keras import layers

from cxr.core.params import PretrainParams
from cxr.core.progress import progress
from cxr.models import build, graph
from cxr.training import source_task
from cxr.training.fitting import EpochLog, OnEpoch


def pretrain(settings: PretrainParams, *, on_epoch: OnEpoch | None = None) -> tuple[keras.Model, pd.DataFrame]:
    """Train an architecture from scratch on the procedural source task (`cxr.training.source_task`).

    There are two softmax heads, one for the texture and one for the object. The optimizer is Adam with cosine
    decay. Pictures are flipped and turned by right angles at random.

    Args:
        settings: the notebook's parameters.
        on_epoch: called as on_epoch(epoch, metrics) after each epoch.

    Returns:
        The model, whose own head is untrained: keep only its backbone. And the history, one row an epoch, with
        val_texture_accuracy and val_object_accuracy of pictures that were not trained on.
    """
    n_val = max(64, settings.source_images // 12)
    progress(f"pretrain: {settings.source_images + n_val} pictures of the source task")
    images, textures, things = source_task.render_stack(
        settings.seed, settings.source_images + n_val, settings.image_size
    )
    model = build.build(settings.architecture, n_classes=2, image_size=settings.image_size)
    pooled = graph.head_input(model)
    heads = {
        "texture": layers.Dense(len(source_task.TEXTURES), name="texture")(pooled),
        "object": layers.Dense(len(source_task.OBJECTS), name="object")(pooled),
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
        loss_weights={"texture": 1.0, "object": 2.0},  # the object is harder
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
    log = EpochLog("pretrain", settings.epochs, on_epoch)
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
