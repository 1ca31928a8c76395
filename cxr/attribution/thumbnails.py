"""Small copies of the explained images, by which reports and the explorer show them without the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.core.files import atomic

SIDE = 128


def shrink(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images uint8 [n, h, h] at most `side` pixels wide, uint8; smaller ones stay as they are."""
    if images.shape[1] <= side:
        return np.asarray(images)
    from skimage.transform import resize  # who only reads thumbnails does not wait for it

    small = [resize(image / 255, (side, side), anti_aliasing=True) for image in images]
    return np.stack([np.rint(image * 255).astype(np.uint8) for image in small])


def save_thumbnails(path: str | Path, image_id: np.ndarray, images: np.ndarray) -> None:
    """Write small images, uint8 [n, side, side], as `thumbnails` reads them; image_id: str [n]."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, image_id=np.asarray(image_id, str), images=images)


def thumbnails(path: str | Path, image_id: np.ndarray) -> np.ndarray:
    """The images of these ids, uint8 [n, side, side], from an attribute run's `thumbnails.npz`.

    Raises: InputError when an id is not in the file.
    """
    with np.load(path, allow_pickle=False) as file:
        rows = pd.Index(file["image_id"]).get_indexer(np.asarray(image_id, str))
        if (rows < 0).any():
            raise InputError(f"{path}: lacks image {image_id[rows < 0][0]}")
        return file["images"][rows]
