"""Small vision transformers in plain Keras, as users build them."""

import keras
import numpy as np
from keras import layers, ops

SIDE, PATCH, WIDTH, HEADS = 48, 8, 16, 2
GRID = SIDE // PATCH


@keras.saving.register_keras_serializable("tests")
class Embedding(layers.Layer):
    """Adds positions, and tokens of its own before or behind those of the image."""

    def __init__(self, before=0, after=0, **options):
        super().__init__(**options)
        self.before, self.after = before, after

    def build(self, shape):
        tokens, width = shape[1] + self.before + self.after, shape[2]
        self.own = self.add_weight(shape=(1, self.before + self.after, width), initializer="random_normal")
        self.positions = self.add_weight(shape=(1, tokens, width), initializer="random_normal")

    def call(self, x):
        own = ops.broadcast_to(self.own, (ops.shape(x)[0], *self.own.shape[1:]))
        return ops.concatenate([own[:, : self.before], x, own[:, self.before :]], axis=1) + self.positions

    def get_config(self):
        return {**super().get_config(), "before": self.before, "after": self.after}


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A whole block of a transformer as one layer."""

    def build(self, shape):
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.inner, self.outer = layers.Dense(2 * WIDTH, "gelu"), layers.Dense(WIDTH)
        for layer in (*self.norms, self.inner):
            layer.build(shape)
        self.attention.build(shape, shape)
        self.outer.build((*shape[:-1], 2 * WIDTH))

    def call(self, x):
        normal = self.norms[0](x)
        x = x + self.attention(normal, normal)
        return x + self.outer(self.inner(self.norms[1](x)))


def block(x):
    normal = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(normal, normal)])
    y = layers.Dense(2 * WIDTH, "gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(WIDTH)(y)])


def embed(x, order="rows"):
    """Patches to tokens: by a convolution and Reshape, or by cutting them out of the image."""
    if order == "cut out":
        patches = ops.image.extract_patches(x, PATCH)
        return layers.Dense(WIDTH)(layers.Reshape((GRID**2, PATCH**2))(patches))
    x = layers.Conv2D(WIDTH, PATCH, strides=PATCH)(x)
    x = layers.Permute((2, 1, 3))(x) if order == "columns" else x
    return layers.Reshape((GRID**2, WIDTH))(x)


def transformer(depth=4, before=1, after=0, head="class token", order="rows", own_blocks=False, classes=3, seed=0):
    """A classifier of grey images of 48 pixels, with random weights."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIDE, SIDE, 1))
    x = Embedding(before, after)(embed(layers.Rescaling(1 / 127.5, -1)(image), order))
    for _ in range(depth):
        x = Block()(x) if own_blocks else block(x)
    x = layers.LayerNormalization()(x)
    x = x[:, 0] if head == "class token" else layers.GlobalAveragePooling1D()(x) if head == "mean" else x
    x = layers.Flatten()(x) if head == "flat" else x
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name="vit")


def images(n=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, GRID, GRID), np.uint8).repeat(PATCH, 1).repeat(PATCH, 2), np.arange(n) % 3
