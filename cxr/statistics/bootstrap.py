"""Replicates and intervals of per-image values by a bootstrap over patients. NumPy and pandas only.

Patients are drawn with replacement, each with all of its images: the cluster bootstrap. Images are not drawn again
within a patient: for the mean of clustered values, that second stage makes the variance too large (Davison and
Hinkley 1997, section 3.8; Field and Welsh 2007, J. R. Stat. Soc. B 69:369). Seeds are not drawn either:
two or three are too few to draw from. How seeds vary is the business of `cxr.statistics.estimates`, which needs
from here the covariance that patients contribute.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr.statistics import resampling
from cxr.statistics.resampling import Statistic

FEW_PATIENTS = 10
"""Of fewer patients nothing is said about a class or a group: no interval, and no test."""


def bootstrap(
    values: Sequence[float],
    patient: Sequence,
    *,
    statistic: Statistic = "median",
    n_boot: int = 2000,
    rng_seed: int = 0,
) -> np.ndarray:
    """Replicates of a statistic under resampling of patients, each with all of its images.

    Parameters
    ----------
    values : float [n], one per image; NaN (empty maps, say) are dropped first.
    patient : [n], labels.
    statistic : "median" (`np.median` of the resampled values) or "mean".
    n_boot : number of replicates.
    rng_seed : the replicates are a function of the arguments and this.

    Returns
    -------
    float64 [n_boot]. All NaN with fewer than two patients: the spread between patients is then unknown.
    """
    rows = pd.DataFrame({"value": np.asarray(values, dtype=np.float64)}, pd.Index(patient, name="patient_id"))
    draws = patient_replicates(rows, n_boot=n_boot, rng_seed=rng_seed, statistic=statistic)
    return draws["value"].to_numpy()


def interval(replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) that holds the central `level` of the replicates.

    (nan, nan) if any replicate is NaN (with fewer than two patients all are): an interval over the other
    replicates would look more certain than it is.
    """
    low, high = np.quantile(np.asarray(replicates, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(
    values: Sequence[float], patient: Sequence, *, level: float = 0.95, n_boot: int = 2000
) -> dict[str, float | int]:
    """Location, spread and the median's interval of per-image values, NaN dropped.

    Parameters as for `bootstrap` and `interval`. Returns n_images (int; what is left without NaN), median, q25 and
    q75 over all images, ci_low and ci_high (of the median); NaN where undefined.
    """
    present = np.asarray(values, dtype=np.float64)
    present = present[~np.isnan(present)]
    low, high = interval(bootstrap(values, patient, n_boot=n_boot), level)
    q25, median, q75 = np.quantile(present, [0.25, 0.5, 0.75]) if len(present) else [float("nan")] * 3
    return {
        "n_images": len(present),
        "median": float(median),
        "q25": float(q25),
        "q75": float(q75),
        "ci_low": low,
        "ci_high": high,
    }


def patient_weights(patient: Sequence, *, n_boot: int = 2000, rng_seed: int = 0) -> np.ndarray:
    """How often each image is drawn when patients alone are: int64 [n_boot, n], the cluster bootstrap.

    All images of a patient are drawn together, each as often as the patient. Images are not drawn within a
    patient, because the test set is given. The draws depend on the set of patients, n_boot and rng_seed only, so
    that statistics of different kinds (maps, predictions) over the same patients can be resampled alike.

    Args:
        patient: [n], the label of each image's patient.
    """
    index, patients = pd.factorize(np.asarray(patient), sort=True)
    return resampling.patient_draws(len(patients), n_boot, rng_seed)[:, index]


def patient_replicates(
    values: pd.DataFrame, *, n_boot: int = 2000, rng_seed: int = 0, statistic: Statistic = "median"
) -> pd.DataFrame:
    """Replicates of every column's statistic under one bootstrap over the patients that the columns share.

    The draws are those of `patient_weights` over the patients of all columns together: a patient drawn twice
    counts twice in every column. Seeds are not drawn: replicates vary only by which patients were examined with
    these networks. The covariance between columns of one architecture and method under several seeds is therefore
    what the patients contribute (`cxr.statistics.estimates.estimate`).

    Parameters
    ----------
    values : float, a row an image, with an index level `patient_id`; a column a cell and seed. NaN where a column
        has no value: columns may hold different images.
    n_boot, rng_seed, statistic : as for `bootstrap`.

    Returns
    -------
    float64 DataFrame, n_boot rows, the columns of `values`. All NaN with fewer than two patients in all; a
    replicate that drew no row of a column is NaN there, and so is a column without values.
    """
    values = values.dropna(how="all")
    index, patients = pd.factorize(values.index.get_level_values("patient_id"), sort=True)
    out = np.full((n_boot, values.shape[1]), np.nan)
    if len(patients) > 1:
        draws = resampling.counts_by_row(resampling.patient_draws(len(patients), n_boot, rng_seed))
        for number, column in enumerate(values.to_numpy(float).T):
            rows = np.flatnonzero(~np.isnan(column))
            out[:, number] = resampling.replicates(statistic, column[rows], draws, index[rows])
    return pd.DataFrame(out, columns=values.columns)
