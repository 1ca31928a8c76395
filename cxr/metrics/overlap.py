"""How much of the evidence two maps share: IoU of their top areas, and the soft IoU of all values."""

from typing import NamedTuple

import numpy as np

from cxr.metrics.map_features import Features, top_count


class TopArea(NamedTuple):
    """The top-q area of a map: the pixels that belong to it, and those that are tied for its last places.

    above, tied : sets of pixels, one bit a pixel in uint64 (`tied` None without a tie at the area's edge).
    n_above, n_tied : numbers of pixels in them.
    places : how many of the tied pixels belong to the area, 0 < places < n_tied, or 0 without a tie.
    """

    above: np.ndarray
    tied: np.ndarray | None
    n_above: int
    n_tied: int
    places: int


def overlap(before: Features, after: Features, q: float) -> float:
    """IoU of the two top-q areas: I / (2k - I), where I counts the pixels in both and k = `top_count(q, H W)`.

    Ties. A map may have fewer than k positive values: then some of its zeros have to fill the area. The map does
    not say which, so they are taken at random, and I is the expected number of shared pixels. It is computed in
    closed form, without random numbers. A tied pixel has the weight places / n_tied: the chance that it is taken.

    I is a mixture of two cases, with the weights a and 1 - a:

    - both maps take tied pixels in one random order: a pixel tied in both counts the smaller of its two weights;
    - each map has an order of its own: such a pixel counts the product of its two weights.

    Every other pixel counts the product in both cases. The weight a is how far the two maps agree on what they do
    order: the IoU of the pixels above the ties, times the IoU of the pixels above and tied (1 of two empty sets).

    Why not one of the two alone? Take maps with 2 positive cells of 64. With one order for all, two of them that
    share no positive cell have an overlap of 0.78, as they share nearly all zeros. With separate orders they have
    0.11, which is chance, but such a map has an overlap of only 0.18 with itself. The mixture gives 0.11 to maps
    that share no positive cell, 1 to those that share all of them, and to others a value in between. It does not
    depend on where pixels are. Without ties at the edge of the areas it is the plain IoU.
    """
    both = _shared(before.once(top_area, q), after.once(top_area, q))
    return both / (2 * top_count(q, before.pixels) - both)


def soft_iou(before: Features, after: Features) -> float:
    """Sum of the smaller values / sum of the larger values, pixel by pixel."""
    smaller = np.minimum(before.flat, after.flat).sum()
    return smaller / (before.total + after.total - smaller)


def top_area(features: Features, q: float) -> TopArea:
    """The top-q area of a map, with what is tied for its last places."""
    values, order = features.flat32, features.order
    k = top_count(q, features.pixels)
    edge = values[order[k - 1]]
    if k == features.pixels or values[order[k]] < edge:
        return TopArea(_bits(values >= edge), None, k, 0, 0)
    above, tied = values > edge, values == edge
    n_above = int(np.count_nonzero(above))
    return TopArea(_bits(above), _bits(tied), n_above, int(np.count_nonzero(tied)), k - n_above)


def _shared(b: TopArea, a: TopArea) -> float:
    """The expected number of pixels in both areas: I of `overlap`."""
    above = _common(b.above, a.above)
    # Whole numbers are multiplied before they are divided, so that a map shares exactly k pixels with itself.
    b_above_a_tied = 0 if a.tied is None else _common(b.above, a.tied)
    a_above_b_tied = 0 if b.tied is None else _common(a.above, b.tied)
    certain_in_one = b_above_a_tied * a.places / max(a.n_tied, 1) + a_above_b_tied * b.places / max(b.n_tied, 1)
    if b.tied is None or a.tied is None:
        return above + certain_in_one

    tied = _common(b.tied, a.tied)
    smaller = min(b, a, key=lambda area: area.places / area.n_tied)
    one_order = tied * smaller.places / smaller.n_tied
    own_orders = tied * b.places * a.places / (b.n_tied * a.n_tied)
    reach = above + b_above_a_tied + a_above_b_tied + tied
    agreement = _iou(above, b.n_above + a.n_above) * _iou(reach, b.n_above + b.n_tied + a.n_above + a.n_tied)
    return above + certain_in_one + agreement * one_order + (1 - agreement) * own_orders


def _iou(common: int, sizes: int) -> float:
    """IoU of two sets with `common` pixels in both and `sizes` in one plus the other; 1 of two empty ones."""
    return common / (sizes - common) if sizes else 1.0


def _common(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one & other).sum())


def _bits(member: np.ndarray) -> np.ndarray:
    """A bool [n] as one bit a pixel, in as many uint64 as that takes."""
    padded = np.zeros(-(-member.size // 64) * 64, dtype=bool)
    padded[: member.size] = member
    return np.packbits(padded).view(np.uint64)
