"""Lung masks that lie in folders: which file is the mask of which image (`lung_mask_folder`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cxr.core.errors import InputError, some
from cxr.core.params import DataParams


def columns(root: Path, paths: Sequence[str], settings: DataParams) -> dict[str, list[str]]:
    """The column lung_mask of images: the path of each mask, "" if there is no such file. No column without masks.

    Args: root: what `paths` are relative to.

    With `image_folder`, the masks lie beside the images (`beside`), otherwise in a folder of their own (`apart`).
    Says how many images have no mask. Raises: InputError if no image has one, or two images have the same.
    """
    masks = settings.lung_mask_folder
    if not masks:
        return {}
    if settings.image_folder:
        expected = [beside(path, settings.image_folder, masks) for path in paths]
    else:
        expected = [apart(path, Path(masks).absolute()).as_posix() for path in paths]
        refuse_twins(paths, expected)
    found = [mask if (root / mask).is_file() else "" for mask in expected]
    if not any(found):
        raise InputError(
            f"{root}: no image has a mask in a folder {masks} (lung_mask_folder): expected {some(expected[-1:])} "
            f"for {some(paths[-1:])}, for example",
            items=[*expected[-1:], *paths[-1:]],
        )
    if without := [path for path, mask in zip(paths, found, strict=True) if not mask]:
        warning = UserWarning(
            f"{root}: {len(without)} of {len(paths)} images have no mask in a folder {masks} (lung_mask_folder): "
            f"{some(without)}"
        )
        warning.items = without
        warnings.warn(warning, stacklevel=4)
    return {"lung_mask": found}


def beside(path: str, images: str, masks: str) -> str:
    """For the image `a/IMAGES/b.jpg` the mask `a/MASKS/b.png`; IMAGES is the last folder of this name."""
    parts = list(PurePosixPath(path).parts)
    parts[len(parts) - 2 - parts[-2::-1].index(images)] = masks
    return PurePosixPath(*parts).with_suffix(".png").as_posix()


def apart(path: str, masks: Path) -> Path:
    """For the image `a/b.jpg` the mask `MASKS/a/b.png`; anchors and `..` are left out."""
    within = PurePosixPath(path)
    below = (part for part in within.parts if part not in (within.anchor, ".."))
    return masks.joinpath(*below).with_suffix(".png")


def refuse_twins(paths: Sequence[str], expected: Sequence[str]) -> None:
    """Raise InputError if two images have the same mask."""
    first: dict[str, str] = {}
    for path, mask in zip(paths, expected, strict=True):
        if mask in first:
            raise InputError(
                f"lung masks: {first[mask]} and {path} would have the same mask, {mask}: give one of the images "
                "another name",
                items=[first[mask], path],
            )
        first[mask] = path
