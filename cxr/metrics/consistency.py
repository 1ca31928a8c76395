"""Consistency of one checkpoint: do its maps agree between patients of one class?

Drift compares two checkpoints; consistency needs one. If a network has learned where a finding lies, its maps for
different patients of a class resemble each other; if not, they scatter. The question is that of Elangovan and Ting
2026, arXiv 2604.08502, who use a "confidence-weighted, intensity-emphasised pairwise soft IoU". We had only the
abstract. This definition is ours:

    consistency = sum over pairs (i, j) of p_i p_j IoU(i, j) / sum over pairs (i, j) of p_i p_j

The pairs are all images of one class that the checkpoint classifies correctly, of different patients. p is the
probability that the checkpoint gives to the class. IoU is the soft IoU, sum of minima / sum of maxima, of the two
maps on the layer's own grid, each divided by its maximum and squared (so that the strongest evidence counts most).
It is 1 if all maps are the same up to a factor. Anatomy alone gives a positive value, as lungs are always in the
same place: compare checkpoints with each other, not with 0.
"""

import numpy as np
from scipy.spatial.distance import pdist, squareform

from cxr.core.errors import InputError
from cxr.metrics.map_grids import checked_maps


def pairwise_soft_iou(maps: np.ndarray) -> np.ndarray:
    """Soft IoU of every two maps, each divided by its maximum and squared: float64 [n, n], symmetric, diagonal 1.

    With a and b the two maps and D the sum of |a - b|, the sum of minima is (sum a + sum b - D) / 2, and that of
    maxima (sum a + sum b + D) / 2.

    Parameters
    ----------
    maps : array [n, h, w] of raw maps, at least 0, none of them empty (`cxr.metrics.map_grids.is_empty`).

    Raises
    ------
    InputError : a map that is negative somewhere, zero everywhere, or not finite.
    """
    maps = checked_maps(maps, "maps").astype(np.float64)
    highest = maps.max((1, 2), keepdims=True)
    if not ((maps >= 0).all() and (highest > 0).all() and np.isfinite(highest).all()):
        raise InputError(
            "consistency: maps must be at least 0, finite, and not zero everywhere: leave empty maps out"
        )
    values = ((maps / highest) ** 2).reshape(len(maps), -1)
    total = values.sum(1)
    both = total[:, None] + total
    apart = squareform(pdist(values, "cityblock")) if len(maps) > 1 else np.zeros((len(maps), len(maps)))
    return (both - apart) / (both + apart)


def consistency(
    maps: np.ndarray, confidence: np.ndarray, patient: np.ndarray, draws: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Agreement of the maps of one class between patients, and its replicates over patients.

    Parameters
    ----------
    maps : array [n, h, w], as for `pairwise_soft_iou`.
    confidence : float [n], the probability of the class, in (0, 1].
    patient : [n], the patient of each image.
    draws : int [b, n], how often each image's patient was drawn (`cxr.statistics.bootstrap.patient_weights`). A
        pair counts as often as the product. A patient that is drawn twice is not paired with itself.

    Returns
    -------
    (value, float64 [b]), in [0, 1]; NaN without a pair of different patients.
    """
    maps, patient = np.asarray(maps), np.asarray(patient)
    weight = np.asarray(confidence, dtype=np.float64)
    draws = np.empty((0, len(maps))) if draws is None else np.asarray(draws, dtype=np.float64)
    if not len(maps) == len(weight) == len(patient) == draws.shape[1]:
        raise InputError(
            f"consistency: {len(maps)} maps, {len(weight)} probabilities, {len(patient)} patients and draws of "
            f"{draws.shape[1]} images: give one of each for each image"
        )
    if not len(maps):
        return float("nan"), np.full(len(draws), np.nan)
    counted = np.outer(weight, weight) * (patient[:, None] != patient)
    agreeing = counted * pairwise_soft_iou(maps)
    drawn = np.vstack([np.ones(len(maps)), draws])
    with np.errstate(invalid="ignore"):
        values = ((drawn @ agreeing) * drawn).sum(1) / ((drawn @ counted) * drawn).sum(1)
    return float(values[0]), values[1:]
