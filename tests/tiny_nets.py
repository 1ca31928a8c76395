"""A classifier that compiles in a second: for tests of what is around a network.

In a study: `architecture=["tiny_nets:small"]` (conftest puts this folder into PYTHONPATH).
"""

import keras
from keras import layers


def small(n_classes: int, image_size: int) -> keras.Model:
    """Three convolutions with BatchNorm, and dropout: from grey images of 0 to 255 to probabilities."""
    image = keras.Input((image_size, image_size, 1))
    x = layers.Rescaling(1 / 255)(image)
    for number, width in enumerate((8, 16, 16)):
        x = layers.Conv2D(width, 3, strides=1 + (number < 2), padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(n_classes, activation="softmax")(x))
