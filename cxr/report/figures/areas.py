"""Outlines of the compared areas: the strongest 20 % of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, TransformedBbox
from skimage.measure import find_contours

from cxr.metrics.map_features import top_count
from cxr.report.figures.style import AFTER, BEFORE

SHARE = 0.2  # of the area, as the metric overlap takes it
SIDES = {"before": BEFORE, "after": AFTER}  # colours


def edge(values: np.ndarray) -> float:
    """The level whose contour bounds the strongest 20 % of a map [h, w]: between the last pixel in and the next.

    Pixels that are tied for the last places are left out, as the map does not say which of them belong to the area
    (`cxr.metrics.overlap`). NaN for an empty map.
    """
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return float("nan")
    falling = np.sort(values, axis=None)[::-1].astype(float)
    count = top_count(SHARE, falling.size)
    last, following = falling[count - 1], falling[min(count, falling.size - 1)]
    if last > following:
        return float(last + following) / 2
    higher = falling[falling > last]  # ties at the edge
    return float(last + higher[-1]) / 2 if len(higher) else float(last + falling[falling < last][0]) / 2


def outline(values: np.ndarray, side: str, pictures: Sequence[AxesImage], *, width: float = 1.4) -> None:
    """Outline the strongest 20 % of a map [h, w] on pictures, in the colour of its `side`.

    side: "before" or "after". A dark rim keeps the line visible on bright and on dark parts of an image. An empty
    map has no outline.
    """
    level = edge(values)
    if not np.isnan(level):
        rim = patheffects.withStroke(linewidth=width + 1.0, foreground="black")
        contour(values, level, pictures, color=SIDES[side], linewidth=width, path_effects=[rim])


def contour(values: np.ndarray, level: float, pictures: Sequence[AxesImage], **style: Any) -> None:
    """Draw the line where `values` [h, w] pass a level on pictures of the same image.

    It is found once, and drawn as a `Line2D` of this style on each: `Axes.contour` takes several times as long.
    """
    gap = np.full((1, 2), np.nan)
    parts = [part for found in find_contours(values, level) for part in (found, gap)]
    if not parts:
        return
    place = (np.concatenate(parts) + 0.5) / values.shape  # 0 to 1, from the top left corner
    for picture in pictures:
        left, right, bottom, top = picture.get_extent()
        x, y = left + place[:, 1] * (right - left), top + place[:, 0] * (bottom - top)
        line = picture.axes.add_artist(Line2D(x, y, **style))
        # other pictures may be next to this one
        line.set_clip_box(TransformedBbox(Bbox([(left, top), (right, bottom)]), picture.axes.transData))
