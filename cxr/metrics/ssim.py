"""Structural similarity (SSIM) of two maps.

Wang et al. (2004), eq. 13, with K = (0.01, 0.03), L = 1, uniform 7x7 windows and sample covariance; the mean over
whole windows. This is scikit-image's default with data_range=1.
"""

import numpy as np

from cxr.metrics.map_features import Features

WINDOW = 7
_K1, _K2 = 0.01, 0.03
_SAMPLE = WINDOW**2 / (WINDOW**2 - 1)  # from mean square to sample variance


def ssim(before: Features, after: Features) -> float:
    """SSIM in [-1, 1]; both sides of the maps must be at least `WINDOW`."""
    (mean_b, squared_b, variance_b), (mean_a, squared_a, variance_a) = before.once(_local), after.once(_local)
    # (2 m_b m_a + c1) (2 cov + c2) / ((m_b^2 + m_a^2 + c1) (var_b + var_a + c2)), in place: memory is the cost.
    height, width = before.shape
    covariance = _window_means(before.flat * after.flat, width)
    product = mean_b * mean_a
    covariance -= product
    covariance *= 2 * _SAMPLE
    covariance += _K2**2
    product *= 2
    product += _K1**2
    product *= covariance
    denominator = squared_b + squared_a
    denominator *= variance_b + variance_a
    product /= denominator
    edge = WINDOW - 1
    return _window_total(product, width) / ((height - edge) * (width - edge))


def _local(features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One map's parts in every window: the mean m, m^2 + c1 / 2, and the sample variance + c2 / 2.

    The windows are those of `_window_means`. The sums of two maps' second and third parts are the factors of the
    denominator.
    """
    flat, width = features.flat, features.shape[1]
    mean, square = (_window_means(values, width) for values in (flat, flat * flat))
    squared = mean * mean
    square -= squared
    square *= _SAMPLE
    square += _K2**2 / 2
    squared += _K1**2 / 2
    return mean, squared, square


def _window_means(flat: np.ndarray, width: int) -> np.ndarray:
    """Means over 7x7 windows of a flat float64 map [H W], by the pixel at their upper left: [(H - 6) W - 6].

    Sums over the flat array are faster than sums over rows. Windows at the last six pixels of a row reach into the
    next row; `_window_total` leaves them out.
    """
    for step in (1, width):  # sums of 2, 4 and 7, each way
        two = flat[:-step] + flat[step:]
        four = two[: -2 * step] + two[2 * step :]
        seven = four[: -3 * step] + two[4 * step : -step]
        seven += flat[6 * step :]
        flat = seven
    flat /= WINDOW**2
    return flat


def _window_total(values: np.ndarray, width: int) -> float:
    """Sum over the whole windows of `_window_means`. The last row has no others."""
    last = len(values) - (width - WINDOW + 1)
    return values[:last].reshape(-1, width)[:, : 1 - WINDOW].sum() + values[last:].sum()
