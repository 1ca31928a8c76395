"""Finds the lungs of a data set, and writes their masks, and pictures by which a person can judge them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.core.params import DataParams
from cxr.data import images, lung_masks
from cxr.data import manifest as data_manifest
from cxr.data.reading import for_each, read_file
from cxr.report import figures

_LONGEST = 512  # pixels of a mask; its proportions are those of the image
_A_SHEET = 48
_TITLE = 16  # characters


def write(settings: DataParams, out: Path) -> pd.DataFrame:
    """Find the lungs of all images, and write what was found into the folder `out`.

    - `a/b.png` for the image `a/b.jpg`: the mask, white in the lungs (`lung_mask_folder: OUT` reads it). An image
      whose lungs are refused has none.
    - `lungs.csv`: what is returned. It holds paths as they are, without pseudonyms.
    - `sheet_01.png`, ...: all images with the outlines.

    Returns: path, agreement (`lungs.Found`) and refused (the reason, or empty) of each image, str and float.
    Raises: InputError: the images cannot be read, or have masks already; or `out` is among them.
    """
    from cxr.models import lungs  # loads TensorFlow

    settings = settings.model_copy(update={"pseudonymise": False, "lung_mask_folder": ""})
    root = data_manifest.data_root(settings)
    if root is None:
        raise InputError("the phantom has lung masks of its own: give a folder or a table of radiographs")
    if out.absolute().is_relative_to(root.absolute()) and not _is_table(settings):
        raise InputError(
            f"{out} lies in the folder of the images, where masks would be read as images: give another"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of patients, who do not matter here
        manifest = data_manifest.list_images(settings, labelled=data_manifest.has_labels(settings))
    if "lung_mask" in manifest and (manifest["lung_mask"] != "").all():
        raise InputError(f"{settings.data}: all images have lung masks already, in the column lung_mask")
    masks = [lung_masks.apart(path, out) for path in manifest["path"]]
    lung_masks.refuse_twins(manifest["path"], [mask.as_posix() for mask in masks])

    def read(row: Any) -> tuple[np.ndarray, tuple[int, int]]:
        image = images.decode(read_file(root, row.path, row.sha256))
        return images.square(image, lungs.SIDE), image.size

    read_images = for_each(read, manifest, what="reading")
    small = np.stack([image for image, _ in read_images])
    found = lungs.find(small)
    for mask, share, (_, size), why in zip(masks, found.share, read_images, found.missing, strict=True):
        mask.unlink(missing_ok=True)  # of an earlier time
        if not why:
            _write_mask(mask, share, size)
    table = pd.DataFrame({"path": manifest["path"], "agreement": found.agreement, "refused": found.missing})
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "lungs.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.3f")
    _write_sheets(out, small, found.masks(lungs.SIDE), table)
    return table


def _is_table(settings: DataParams) -> bool:
    return data_manifest.source(settings)[1] is not None


def _write_mask(path: Path, share: np.ndarray, size: tuple[int, int]) -> None:
    """Write a mask with the proportions of an image of `size` (width, height)."""
    least = len(share)
    scale = max(_LONGEST / max(size), least / min(size))
    width, height = (max(least, round(side * scale)) for side in size)
    large = Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        Image.fromarray((np.asarray(large) > 0.5).astype(np.uint8) * 255).save(temporary, format="PNG")


def _write_sheets(out: Path, small: np.ndarray, masks: np.ndarray, table: pd.DataFrame) -> None:
    for old in out.glob("sheet_*.png"):
        old.unlink()
    names = [Path(path).stem for path in table["path"]]
    titles = [name if len(name) <= _TITLE else f"...{name[-_TITLE + 3 :]}" for name in names]
    titles = [f"{title} refused" if why else title for title, why in zip(titles, table["refused"], strict=True)]
    for number, first in enumerate(range(0, len(small), _A_SHEET), 1):
        part = slice(first, first + _A_SHEET)
        heading = (
            f"Lungs that were found, images {first + 1} to {min(first + _A_SHEET, len(small))} of {len(small)}"
        )
        figure = figures.outlined(small[part], masks[part], titles[part], heading=heading)
        figure.savefig(out / f"sheet_{number:02d}.png", dpi=150)
        plt.close(figure)
