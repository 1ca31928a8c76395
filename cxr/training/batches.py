"""Batches of images or features, shuffled and augmented."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cxr.core.params import TrainParams
from cxr.training import features

Images = features.Images
Arrays = tuple[Images, np.ndarray]  # images or features, and labels int [n]
_ITERATORS_PER_EPOCH = 2  # `fit` opens one to read, and one at the end of the epoch, which it drops


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
    return data.prefetch(2)
