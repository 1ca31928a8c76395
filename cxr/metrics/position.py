"""Where a map points: how far its centroid and its peak moved.

Coordinates are those of pixel centres, (row, column) from (0, 0) to (H - 1, W - 1). Distances are divided by the
image diagonal sqrt(H^2 + W^2): they do not depend on the resolution and stay below 1.
"""

import math

import numpy as np

from cxr.metrics.map_features import Features


def centroid_shift(before: Features, after: Features) -> float:
    """Distance of the intensity-weighted centroids / diagonal."""
    return _distance(centroid(before), centroid(after), before.shape)


def peak_shift(before: Features, after: Features) -> float:
    """Distance of the maxima / diagonal.

    Where several pixels share the maximum, their mean position counts. (A maximum in a corner becomes a plateau
    when the map is enlarged; the mean treats all corners alike.)
    """
    return _distance(peak(before), peak(after), before.shape)


def centroid(features: Features) -> np.ndarray:
    """Intensity-weighted mean (row, column), float64 [2]."""
    return features.once(_centroid)


def peak(features: Features) -> np.ndarray:
    """(row, column) of the maximum, float64 [2]; the mean position of tied ones."""
    return features.once(_peak)


def _centroid(features: Features) -> np.ndarray:
    values = features.flat.reshape(features.shape)
    height, width = features.shape
    return np.array([values.sum(1) @ np.arange(height), values.sum(0) @ np.arange(width)]) / features.total


def _peak(features: Features) -> np.ndarray:
    tied = np.flatnonzero(features.flat32 == features.flat32.max())
    return np.array([index.mean() for index in np.unravel_index(tied, features.shape)])


def _distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, int]) -> float:
    return math.hypot(*(a - b)) / math.hypot(*shape)
