"""Replicates and intervals of per-image values by bootstrap. NumPy and pandas only.

There are two schemes, for two questions (`cxr.statistics.resampling` draws for both):

- `patient_replicates` and `patient_weights` draw patients only. The covariance between seeds is then what the
  patients contribute, which `cxr.statistics.estimates.estimate` needs.
- `bootstrap` and `paired_replicates` also draw images within a patient (a hierarchical bootstrap: Davison and
  Hinkley 1997, section 3.8), and seeds, if there are several. The same patients occur under every seed (one test
  set, several trainings), so the patients are drawn once a replicate, and this draw holds under every seed (Owen
  2007, the pigeonhole bootstrap). With a draw of its own for each seed, intervals would be too short.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.statistics import resampling
from cxr.statistics.resampling import Statistic


def bootstrap(
    values: Sequence[float],
    patient: Sequence,
    *,
    statistic: Statistic = "median",
    n_boot: int = 2000,
    rng_seed: int = 0,
) -> np.ndarray:
    """Replicates of a statistic under hierarchical resampling of patients and their images.

    Parameters
    ----------
    values : float [n], one per image; NaN (empty maps, say) are dropped first.
    patient : [n], labels. Images of one patient are drawn together with that patient.
    statistic : "median" (`np.median` of the resampled values) or "mean".
    n_boot : number of replicates.
    rng_seed : the replicates are a function of the arguments and this.

    Returns
    -------
    float64 [n_boot]. All NaN with fewer than two patients: the spread between patients is then unknown, and the
    spread within one patient must not replace it.
    """
    values, patient = np.asarray(values, dtype=np.float64), np.asarray(patient)
    keep = ~np.isnan(values)
    values, patient = values[keep], patient[keep]
    if len(pd.unique(patient)) < 2:
        return np.full(n_boot, np.nan)
    weights = resampling.row_weights(
        np.zeros(len(values), int), patient, n_boot=n_boot, rng=np.random.default_rng(rng_seed)
    )
    return np.concatenate(
        [resampling.weighted(statistic, values, resampling.counts_by_row(block).T) for block in weights]
    )


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


def paired_replicates(values: pd.DataFrame, *, n_boot: int = 2000, rng_seed: int = 0) -> pd.DataFrame:
    """Replicates of every cell's median from the same draws of seeds, patients and images.

    Effects that cells share (difficult patients, unusual seeds) then change them together and cancel in
    differences.

    Parameters
    ----------
    values : of `cxr.statistics.score_rows.Scores`. Cells may lack some of the others' images, but must hold the
        same seeds.
    n_boot, rng_seed : as for `bootstrap`.

    Returns
    -------
    float64 DataFrame, n_boot rows, the columns of `values`. All NaN with fewer than two patients; a replicate that
    drew no row of a cell is NaN there.

    Raises
    ------
    InputError : a cell has no value under a seed that others have.
    """
    values = values.dropna(how="all").sort_index(level=["seed", "patient_id", "image_id"])
    held = values.notna().groupby(level="seed").any()
    if not held.all(axis=None):
        held = held.stack(["architecture", "method"], future_stack=True)
        raise InputError(
            "paired_replicates: the cells do not hold the same run seeds once NaN is dropped (no value of seed, "
            f"architecture and method {held.index[~held].tolist()}); complete the missing runs, or leave those "
            "seeds out."
        )
    patient = values.index.get_level_values("patient_id")
    if patient.nunique() < 2:
        return pd.DataFrame(np.nan, index=range(n_boot), columns=values.columns)
    weights = resampling.row_weights(
        values.index.get_level_values("seed"), patient, n_boot=n_boot, rng=np.random.default_rng(rng_seed)
    )
    cells = [(column[~np.isnan(column)], np.flatnonzero(~np.isnan(column))) for column in values.to_numpy().T]
    blocks = []
    for block in weights:
        by_row = resampling.counts_by_row(block)
        drawn = [resampling.weighted("median", present, by_row[rows].T) for present, rows in cells]
        blocks.append(np.stack(drawn, axis=1))
    return pd.DataFrame(np.concatenate(blocks), columns=values.columns)


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
    replicate that drew no row of a column is NaN there.
    """
    values = values.dropna(how="all")
    index, patients = pd.factorize(values.index.get_level_values("patient_id"), sort=True)
    out = np.full((n_boot, values.shape[1]), np.nan)
    if len(patients) > 1:
        draws = resampling.counts_by_row(resampling.patient_draws(len(patients), n_boot, rng_seed))
        for number, column in enumerate(values.to_numpy(float).T):
            rows = np.flatnonzero(~np.isnan(column))
            block = max(1, resampling.BLOCK // len(rows))
            for start in range(0, n_boot, block):
                part = slice(start, start + block)
                out[part, number] = resampling.weighted(statistic, column[rows], draws[index[rows], part].T)
    return pd.DataFrame(out, columns=values.columns)
