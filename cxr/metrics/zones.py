"""Zones of the chest, from lung masks: where in the chest does the evidence lie?

Eight zones tile the image: the upper, middle and lower third of each lung, the mediastinum between the lungs, and
the outside. Nothing is guessed: an image whose mask does not look like two lungs has no zones, and the reason is
said.

Sides are the patient's, as a radiograph is looked at: the right lung is on the left of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage import measure

from cxr.core.errors import InputError

THIRDS = ("upper", "middle", "lower")
ZONES = (
    *(f"{side}_{third}" for side in ("right", "left") for third in THIRDS),
    "mediastinum",
    "outside",
)
SMALL = 0.1  # of the larger lung: smaller pieces of the mask are no lung
_AREA = (0.02, 0.4)  # of the image, of one lung
_RATIO = 3.0  # of the larger lung's area to the smaller one's
_BESIDE = 0.5  # of the rows of the shorter lung: so many have the other lung beside it


class Zones(NamedTuple):
    """The zones of several images."""

    masks: dict[str, np.ndarray]  # by zone, in the order of ZONES: bool [n, H, W]; all False without zones
    missing: list[str]  # [n]: why an image has no zones; empty if it has


def of_lungs(lungs: np.ndarray) -> Zones:
    """The zones of images with lung masks.

    Args: lungs: bool [n, H, W], both lungs; all False: not known.

    Returns: for each image either masks that tile it, each pixel in one zone, or none. A third is a third of the
        lung's own height. The mediastinum is what lies between both lungs, in the rows that have both. Pieces
        under a tenth of the larger lung count as outside.
    Raises: InputError for other arrays.
    """
    lungs = np.asarray(lungs)
    if lungs.dtype != bool or lungs.ndim != 3:
        raise InputError(f"lungs: expected bool masks [n, H, W], got {lungs.dtype} {lungs.shape}")
    index = np.full(lungs.shape, -1, np.int8)  # of the zone in ZONES
    missing = []
    for number, mask in enumerate(lungs):
        found, why = _zones(mask)
        missing.append(why)
        if not why:
            index[number] = found
    return Zones({name: index == number for number, name in enumerate(ZONES)}, missing)


def _zones(mask: np.ndarray) -> tuple[np.ndarray, str]:
    """The index of each pixel's zone [H, W], and why there is none, if so."""
    index = np.full(mask.shape, ZONES.index("outside"), np.int8)
    if not mask.any():
        return index, "no lung mask"
    pieces = measure.label(mask, connectivity=1)
    sizes = np.bincount(pieces.ravel())[1:]
    lungs = [pieces == piece for piece in np.flatnonzero(sizes >= SMALL * sizes.max()) + 1]
    if len(lungs) != 2:
        return index, f"the lung mask has {len(lungs)} large pieces, not two"
    lungs.sort(key=lambda lung: np.nonzero(lung)[1].mean())  # the right one first
    areas = [lung.mean() for lung in lungs]
    if not all(_AREA[0] <= area <= _AREA[1] for area in areas):
        return index, f"a lung covers {min(areas):.0%} to {max(areas):.0%} of the image"
    if max(areas) > _RATIO * min(areas):
        return index, f"one lung is {max(areas) / min(areas):.1f} times as large as the other"
    rows = [lung.any(axis=1) for lung in lungs]
    both = np.flatnonzero(rows[0] & rows[1])
    inner = [lungs[0].shape[1] - 1 - lungs[0][:, ::-1].argmax(axis=1), lungs[1].argmax(axis=1)]
    if (
        len(both) < _BESIDE * min(own.sum() for own in rows)
        or (inner[0][both] > inner[1][both]).mean() > 1 - _BESIDE
    ):
        return index, "the lungs are not side by side"
    for row in both:
        index[row, inner[0][row] + 1 : inner[1][row]] = ZONES.index("mediastinum")
    for side, lung in enumerate(lungs):
        where = np.nonzero(lung)
        top, height = where[0].min(), np.ptp(where[0]) + 1
        index[where] = side * len(THIRDS) + (where[0] - top) * len(THIRDS) // height
    return index, ""
