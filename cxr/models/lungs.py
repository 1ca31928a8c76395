"""The lung finder: a small network that finds the lungs on frontal radiographs, where no masks are known.

It is a U-Net (Ronneberger et al. 2015, arXiv 1505.04597) that was trained on drawn images only
(notebooks/0_lungs.ipynb). How often it is right on real radiographs: docs/lungs.md. It refuses images on which its
answer does not look like two lungs, or changes when the image is mirrored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from scipy import ndimage

from cxr.core.errors import InputError
from cxr.metrics import map_grids, zones
from cxr.models import weights

SIDE = 96  # pixels of the images that the network reads
NAME = "lungs"
AGREEMENT = 0.80  # least Dice between the lungs of an image and of its mirror image
_SHIPPED = Path(__file__).parent / "pretrained" / f"{NAME}.npz"
_WIDTHS = (16, 32, 64)
_DEEPEST = 96
_BATCH = 64


class Found(NamedTuple):
    """Lungs of several images.

    Attributes:
        share: float32 [n, SIDE, SIDE], the probability of lung.
        agreement: float [n], Dice between the lungs of each image and of its mirror image.
        missing: [n], why the lungs of an image are not used; empty if they are.
    """

    share: np.ndarray
    agreement: np.ndarray
    missing: list[str]

    def masks(self, size: int | tuple[int, int]) -> np.ndarray:
        """The lungs at another size, bool [n, H, W]; all False where they are not used."""
        large = map_grids.upsample(self.share, size) if size != SIDE else self.share
        return (large > 0.5) & np.array([not why for why in self.missing])[:, None, None]


def build() -> keras.Model:
    """The network, with random weights: from `prepared` images to logits [n, SIDE, SIDE, 1]."""
    given = keras.Input((SIDE, SIDE, 1))
    x, before = _convolved(given, _WIDTHS[0], 5, strides=2), []
    for width in _WIDTHS:
        x = _convolved(_convolved(x, width), width)
        before.append(x)
        x = layers.MaxPooling2D()(x)
    x = _convolved(_convolved(x, _DEEPEST), _DEEPEST)
    for width, beside in zip(_WIDTHS[::-1], before[::-1], strict=True):
        x = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(x), beside])
        x = _convolved(_convolved(x, width), width)
    x = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(x), given])
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(given, layers.Conv2D(1, 1)(x), name=NAME)


def _convolved(x: Any, width: int, kernel: int = 3, **options: Any) -> Any:
    x = layers.Conv2D(width, kernel, padding="same", use_bias=False, **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def prepared(images: np.ndarray) -> np.ndarray:
    """Grey images uint8 [n, SIDE, SIDE] as the network reads them: each with mean 0 and variance about 1."""
    values = images.astype(np.float32)
    mean, spread = values.mean((1, 2), keepdims=True), values.std((1, 2), keepdims=True)
    return ((values - mean) / (spread + 1))[..., None]


def find(images: np.ndarray, network: keras.Model | None = None) -> Found:
    """Find the lungs on frontal radiographs.

    Args:
        images: uint8 [n, SIDE, SIDE], whole radiographs resized to a square; air is dark.
        network: `load`; None: loads the one that comes with the package.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise InputError(f"images: expected uint8 [n, {SIDE}, {SIDE}], got {images.dtype} {images.shape}")
    network = network or load()
    given = prepared(images)
    one, other = (
        network.predict(part, batch_size=_BATCH, verbose=0)[..., 0] for part in (given, given[:, :, ::-1])
    )
    other = other[:, :, ::-1]
    share = 1 / (1 + np.exp(-(one + other) / 2))
    share = np.stack([_two_largest(image) for image in share]) if len(share) else share
    agreement = dice(one > 0, other > 0)
    missing = zones.of_lungs(share > 0.5).missing
    for k, value in enumerate(agreement):
        if not missing[k] and value < AGREEMENT:
            missing[k] = f"on the mirrored image the finder sees other lungs (Dice {value:.2f})"
    return Found(share.astype(np.float32), agreement, missing)


def _two_largest(share: np.ndarray) -> np.ndarray:
    """Probabilities of lung, 0 outside the pieces that are large, and 1 in holes of them."""
    inside = ndimage.binary_fill_holes(share > 0.5)
    pieces, n = ndimage.label(inside)
    sizes = np.bincount(pieces.ravel())[1:]
    small = np.isin(pieces, np.flatnonzero(sizes < zones.SMALL * sizes.max(initial=0)) + 1)
    return np.where(small, 0, np.where(inside & (share <= 0.5), 1, share))


def dice(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dice coefficient (Dice 1945) of masks bool [n, H, W]: 2 |A and B| / (|A| + |B|), float [n]; empty: 1."""
    both, each = (a & b).sum((1, 2)), a.sum((1, 2)) + b.sum((1, 2))
    return np.where(each == 0, 1.0, 2 * both / np.maximum(each, 1))


def save(network: keras.Model, folder: Path, *, provenance: dict[str, Any]) -> Path:
    """Write the weights in float16 to `folder/lungs.npz`, and how they were made to the `.json` beside it."""
    arrays = {f"{k:03d}": np.asarray(w, np.float16) for k, w in enumerate(network.get_weights())}
    return weights.write(folder / f"{NAME}.npz", arrays, provenance)


def load(path: Path = _SHIPPED) -> keras.Model:
    """The network with the weights of a file of `save`; by default those of the package.

    Raises: InputError: the file cannot be read, or is of another network.
    """
    network = build()
    try:
        with np.load(path, allow_pickle=False) as file:
            network.set_weights([file[name].astype(np.float32) for name in sorted(file)])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no weights of the lung finder ({error}): make them with 0_lungs.ipynb"
        ) from None
    return network
