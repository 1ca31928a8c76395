"""How much of the evidence two maps share: IoU of their top areas, and the soft IoU of all values."""

import numpy as np

from cxr.metrics.map_features import Features, top_count


def overlap(before: Features, after: Features, q: float) -> float:
    """IoU of the two top-q areas: I / (2k - I), where I counts the pixels in both and k = `top_count(q, H W)`.

    Among equal values the lower row-major pixel index enters the area first.
    """
    both = int(np.bitwise_count(before.once(_top_area, q) & after.once(_top_area, q)).sum())
    return both / (2 * top_count(q, before.pixels) - both)


def soft_iou(before: Features, after: Features) -> float:
    """Sum of the smaller values / sum of the larger values, pixel by pixel."""
    smaller = np.minimum(before.flat, after.flat).sum()
    return smaller / (before.total + after.total - smaller)


def _top_area(features: Features, q: float) -> np.ndarray:
    """The pixels of the top-q area as a set: one bit a pixel, in as many uint64 as that takes."""
    member = np.zeros(-(-features.pixels // 64) * 64, dtype=bool)
    member[features.order[: top_count(q, features.pixels)]] = True
    return np.packbits(member).view(np.uint64)
