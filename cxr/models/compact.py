"""Compact networks modelled on the paper's three: the same blocks, layer names and strides, a million parameters.

With them a whole study, with several seeds, takes minutes on a CPU. Each takes one grey channel. Padding is 'same'
throughout, so a feature map has side / 16 (`penultimate`) or side / 32 (`final`).
"""

from __future__ import annotations

from keras import KerasTensor, layers

BN_EPSILON = 1.001e-5  # as in keras.applications' DenseNet and ResNetV2


def _bn(x: KerasTensor, name: str, **options) -> KerasTensor:
    return layers.BatchNormalization(epsilon=BN_EPSILON, name=name, **options)(x)


def _relu(x: KerasTensor, name: str) -> KerasTensor:
    return layers.Activation("relu", name=name)(x)


def _conv(x: KerasTensor, filters: int, size, name: str, *, strides: int = 1, bias: bool = False) -> KerasTensor:
    return layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=bias, name=name)(x)


def densenet(x: KerasTensor, *, blocks=(3, 5, 8, 6), growth: int = 24) -> KerasTensor:
    """DenseNet-BC (Huang et al. 2017, arXiv 1608.06993), names as in `keras.applications.DenseNet201`."""
    x = _conv(x, 2 * growth, 7, "conv1_conv", strides=2)
    x = _relu(_bn(x, "conv1_bn"), "conv1_relu")
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    for stage, n_layers in enumerate(blocks, start=2):
        for block in range(1, n_layers + 1):
            name = f"conv{stage}_block{block}"
            y = _relu(_bn(x, f"{name}_0_bn"), f"{name}_0_relu")
            y = _conv(y, 4 * growth, 1, f"{name}_1_conv")
            y = _relu(_bn(y, f"{name}_1_bn"), f"{name}_1_relu")
            y = _conv(y, growth, 3, f"{name}_2_conv")
            x = layers.Concatenate(name=f"{name}_concat")([x, y])
        if stage - 1 < len(blocks):
            x = _relu(_bn(x, f"pool{stage}_bn"), f"pool{stage}_relu")
            x = _conv(x, x.shape[-1] // 2, 1, f"pool{stage}_conv")
            x = layers.AveragePooling2D(2, strides=2, padding="same", name=f"pool{stage}_pool")(x)
    return _relu(_bn(x, "bn"), "relu")


def resnet_v2(x: KerasTensor, *, blocks=(2, 3, 4, 3), filters=(16, 32, 64, 96)) -> KerasTensor:
    """Pre-activation ResNet (He et al. 2016, arXiv 1603.05027), as `keras.applications.ResNet50V2`.

    In every stack but the last, the last block halves the grid, and its shortcut subsamples the sum before it.
    """
    x = _conv(x, 32, 7, "conv1_conv", strides=2, bias=True)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1_pool")(x)
    for stage, (n_blocks, width) in enumerate(zip(blocks, filters, strict=True), start=2):
        for block in range(1, n_blocks + 1):
            name = f"conv{stage}_block{block}"
            strides = 2 if block == n_blocks and stage - 1 < len(blocks) else 1
            pre = _relu(_bn(x, f"{name}_preact_bn"), f"{name}_preact_relu")
            if block == 1:
                shortcut = _conv(pre, 4 * width, 1, f"{name}_0_conv", bias=True)
            elif strides > 1:
                shortcut = layers.MaxPooling2D(1, strides=strides, name=f"{name}_0_pool")(x)
            else:
                shortcut = x
            y = _relu(_bn(_conv(pre, width, 1, f"{name}_1_conv"), f"{name}_1_bn"), f"{name}_1_relu")
            y = _conv(y, width, 3, f"{name}_2_conv", strides=strides)
            y = _relu(_bn(y, f"{name}_2_bn"), f"{name}_2_relu")
            y = _conv(y, 4 * width, 1, f"{name}_3_conv", bias=True)
            x = layers.Add(name=f"{name}_out")([shortcut, y])
    return _relu(_bn(x, "post_bn"), "post_relu")


def inception(x: KerasTensor, *, width: float = 0.25) -> KerasTensor:
    """InceptionV3 (Szegedy et al. 2016, arXiv 1512.00567) at a quarter of its width.

    It has one block of each kind and grid: `mixed0`, `mixed2` (stride 8), `mixed3`, `mixed5`, `mixed7` (16),
    `mixed8`, `mixed10` (32).
    """

    def conv(y, filters, size, name, strides=1):
        y = _conv(y, max(8, round(filters * width / 8) * 8), size, f"{name}_conv", strides=strides)
        y = layers.BatchNormalization(scale=False, epsilon=1e-3, name=f"{name}_bn")(y)
        return _relu(y, f"{name}_relu")

    def pool(y, name):
        return layers.AveragePooling2D(3, strides=1, padding="same", name=name)(y)

    def max_pool(y, name):
        return layers.MaxPooling2D(3, strides=2, padding="same", name=name)(y)

    def chain(y, name, *steps):
        for number, (filters, size, *strides) in enumerate(steps, start=1):
            y = conv(y, filters, size, f"{name}_{number}", *strides)
        return y

    x = chain(x, "stem", (96, 3, 2), (128, 3))
    x = max_pool(x, "stem_pool1")
    x = chain(x, "stem_b", (160, 1), (192, 3))
    x = max_pool(x, "stem_pool2")
    for name, pooled in (("mixed0", 32), ("mixed2", 64)):
        x = layers.Concatenate(name=name)(
            [
                chain(x, f"{name}_1x1", (64, 1)),
                chain(x, f"{name}_5x5", (48, 1), (64, 5)),
                chain(x, f"{name}_3x3dbl", (64, 1), (96, 3), (96, 3)),
                chain(pool(x, f"{name}_avg"), f"{name}_pool", (pooled, 1)),
            ]
        )
    x = layers.Concatenate(name="mixed3")(
        [
            chain(x, "mixed3_3x3", (384, 3, 2)),
            chain(x, "mixed3_3x3dbl", (64, 1), (96, 3), (96, 3, 2)),
            max_pool(x, "mixed3_max"),
        ]
    )
    for name, inner in (("mixed5", 160), ("mixed7", 192)):
        x = layers.Concatenate(name=name)(
            [
                chain(x, f"{name}_1x1", (192, 1)),
                chain(x, f"{name}_7x7", (inner, 1), (inner, (1, 7)), (192, (7, 1))),
                chain(
                    x,
                    f"{name}_7x7dbl",
                    (inner, 1),
                    (inner, (7, 1)),
                    (inner, (1, 7)),
                    (inner, (7, 1)),
                    (192, (1, 7)),
                ),
                chain(pool(x, f"{name}_avg"), f"{name}_pool", (192, 1)),
            ]
        )
    x = layers.Concatenate(name="mixed8")(
        [
            chain(x, "mixed8_3x3", (192, 1), (320, 3, 2)),
            chain(x, "mixed8_7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
            max_pool(x, "mixed8_max"),
        ]
    )
    branch_3x3 = chain(x, "mixed10_3x3", (384, 1))
    branch_dbl = chain(x, "mixed10_3x3dbl", (448, 1), (384, 3))
    return layers.Concatenate(name="mixed10")(
        [
            chain(x, "mixed10_1x1", (320, 1)),
            conv(branch_3x3, 384, (1, 3), "mixed10_3x3_a"),
            conv(branch_3x3, 384, (3, 1), "mixed10_3x3_b"),
            conv(branch_dbl, 384, (1, 3), "mixed10_3x3dbl_a"),
            conv(branch_dbl, 384, (3, 1), "mixed10_3x3dbl_b"),
            chain(pool(x, "mixed10_avg"), "mixed10_pool", (192, 1)),
        ]
    )
