"""Replicates and intervals of per-image tables by bootstrap. NumPy and pandas only.

Everything uses one resampling scheme (`cxr.statistics.resampling`): a hierarchical bootstrap over run seeds,
patients and images (Davison and Hinkley 1997, section 3.8).

Patients and seeds: every level is drawn with replacement, nested; a seed that is drawn twice gets two
independent samples of its patients. That is right when each seed has patients of its own. Where the same
patients occur under every seed (one test set, several trainings), nested resampling averages each patient's own
effect over the seeds, and its intervals are too short. `crossed=True` then draws the patients once a replicate
and uses that draw under every seed (Owen 2007, the pigeonhole bootstrap).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.statistics import resampling
from cxr.statistics.resampling import Statistic
from cxr.statistics.score_rows import require_columns


def bootstrap(
    values: Sequence[float],
    patient: Sequence,
    *,
    seed: Sequence | None = None,
    statistic: Statistic = "median",
    n_boot: int = 2000,
    rng_seed: int = 0,
    crossed: bool = False,
) -> np.ndarray:
    """Replicates of a statistic under hierarchical resampling of run seeds, patients and images.

    Parameters
    ----------
    values : float [n], one per image; NaN (empty maps, say) are dropped first.
    patient : [n], labels. Images of one patient are drawn together with that patient.
    seed : [n], labels of the run that each value comes from; None, or one seed only: no such level.
    statistic : "median", "mean", or a function of the resampled values (float [m]) to a float, which is
        called once a replicate and therefore slow. A median is `np.median` of the resampled values.
    n_boot : number of replicates.
    rng_seed : the replicates are a function of the arguments and this.
    crossed : the same patients recur under every seed, see the module.

    Returns
    -------
    float64 [n_boot]. All NaN with fewer than two patients: between patients nothing can then be learned, and
    the spread within one of them must not pass for it. A single replicate is NaN where it drew no row at all
    (possible only if `crossed` and seeds lack patients).

    Raises
    ------
    InputError : on lengths that differ, infinite values, missing labels, an unknown statistic.
    """
    values = np.asarray(values, dtype=np.float64)
    patient = _labels(patient, values, "patient")
    seed = np.zeros(len(values), dtype=int) if seed is None else _labels(seed, values, "seed")
    if np.isinf(values).any():
        raise InputError(f"bootstrap: {np.isinf(values).sum()} values are infinite; correct or drop them.")
    resampling.check_draws(n_boot)
    resampling.check_statistic(statistic)
    keep = ~np.isnan(values)
    values, patient, seed = values[keep], patient[keep], seed[keep]
    if len(pd.unique(patient)) < 2:
        return np.full(n_boot, np.nan)
    weights = resampling.row_weights(
        seed, patient, n_boot=n_boot, rng=np.random.default_rng(rng_seed), crossed=crossed
    )
    return np.concatenate(
        [resampling.weighted(statistic, values, resampling.counts_by_row(block).T) for block in weights]
    )


def interval(replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) that holds the central `level` of the replicates.

    (nan, nan) if any replicate is NaN, as all are with fewer than two patients: an interval over the
    replicates that happened to work would look sharper than what is known.
    """
    if not 0 < level < 1:
        raise InputError(f"interval: level must lie between 0 and 1, got {level}.")
    replicates = np.asarray(replicates, dtype=np.float64)
    if replicates.ndim != 1 or len(replicates) == 0:
        raise InputError(f"interval: expected replicates [n_boot], got an array of shape {replicates.shape}.")
    if np.isnan(replicates).any():
        return float("nan"), float("nan")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(
    values: Sequence[float],
    patient: Sequence,
    *,
    seed: Sequence | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    rng_seed: int = 0,
    crossed: bool = False,
) -> dict[str, float | int]:
    """Location, spread and the median's interval of per-image values, NaN dropped.

    Parameters as for `bootstrap` and `interval`. Returns n_images and n_patients (int; what is left without
    NaN), median, q25, q75 and mean over all images, ci_low and ci_high (of the median); NaN where undefined.
    """
    values = np.asarray(values, dtype=np.float64)
    replicates = bootstrap(
        values, patient, seed=seed, n_boot=n_boot, rng_seed=rng_seed, crossed=crossed
    )  # checks the input
    low, high = interval(replicates, level)
    kept = ~np.isnan(values)
    present = values[kept]
    q25, median, q75 = np.quantile(present, [0.25, 0.5, 0.75]) if len(present) else [float("nan")] * 3
    return {
        "n_images": len(present),
        "n_patients": len(pd.unique(np.asarray(patient)[kept])),
        "median": float(median),
        "q25": float(q25),
        "q75": float(q75),
        "ci_low": low,
        "ci_high": high,
        "mean": float(present.mean()) if len(present) else float("nan"),
    }


def paired_replicates(
    tables: Mapping[tuple[str, str], pd.DataFrame],
    *,
    n_boot: int = 2000,
    rng_seed: int = 0,
    statistic: Statistic = "median",
    crossed: bool = False,
) -> pd.DataFrame:
    """Replicates of every (architecture, method) cell from the same draws of seeds, patients and images.

    What cells share (hard patients, odd seeds) then moves them together and cancels in their differences.

    Parameters
    ----------
    tables : a table per cell with columns image_id, patient_id, seed, value; an image at most once a seed.
        NaN values are dropped. Rows are matched by (seed, image_id); cells may lack some of the others'
        images, but must hold the same seeds.
    n_boot, rng_seed, statistic, crossed : as for `bootstrap`.

    Returns
    -------
    float64 DataFrame, n_boot rows, a column per cell (MultiIndex architecture, method). All NaN with fewer
    than two patients; a replicate that drew no row of a cell is NaN there.
    """
    resampling.check_draws(n_boot)
    resampling.check_statistic(statistic)
    if not tables:
        raise InputError("paired_replicates: no tables were given.")
    clean = {cell: _cell_table(cell, table) for cell, table in tables.items()}
    columns = pd.MultiIndex.from_tuples(clean, names=["architecture", "method"])
    seeds = {cell: frozenset(table["seed"]) for cell, table in clean.items()}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{cell}: {sorted(s, key=str)}" for cell, s in seeds.items())
        raise InputError(
            f"paired_replicates: the cells do not hold the same run seeds once NaN is dropped "
            f"({listed}); complete the missing runs, or leave those seeds out."
        )
    rows = pd.concat(clean.values())[["seed", "image_id", "patient_id"]].drop_duplicates()
    rows = rows.sort_values(["seed", "patient_id", "image_id"], ignore_index=True)  # not the tables' order
    owners = rows.groupby("image_id")["patient_id"].nunique()
    if (owners > 1).any():
        raise InputError(
            f"paired_replicates: image {owners.index[owners > 1][0]!r} belongs to more than one patient; "
            "image ids must be unique across patients and agree across cells."
        )
    if rows["patient_id"].nunique() < 2:
        return pd.DataFrame(np.nan, index=range(n_boot), columns=columns)

    keys = pd.MultiIndex.from_frame(rows[["seed", "image_id"]])
    index = {
        cell: keys.get_indexer(pd.MultiIndex.from_frame(table[["seed", "image_id"]]))
        for cell, table in clean.items()
    }
    weights = resampling.row_weights(
        rows["seed"].to_numpy(),
        rows["patient_id"].to_numpy(),
        n_boot=n_boot,
        rng=np.random.default_rng(rng_seed),
        crossed=crossed,
    )
    blocks = []
    for block in weights:
        by_row = resampling.counts_by_row(block)
        cells = [resampling.weighted(statistic, clean[c]["value"].to_numpy(), by_row[index[c]].T) for c in clean]
        blocks.append(np.stack(cells, axis=1))
    return pd.DataFrame(np.concatenate(blocks), columns=columns)


def patient_weights(patient: Sequence, *, n_boot: int = 2000, rng_seed: int = 0) -> np.ndarray:
    """How often each image is drawn when patients alone are: int64 [n_boot, n], the cluster bootstrap.

    All images of a patient are drawn together, and each as often as the patient (no second stage: under one
    test set the images of a patient are what they are). The draws depend on the set of patients, n_boot and
    rng_seed only, so that statistics of different kinds (maps, predictions) over the same patients can be
    resampled alike.

    Args:
        patient: [n], the label of each image's patient.
    """
    patient = np.asarray(patient)
    if patient.ndim != 1 or len(patient) == 0 or pd.isna(patient).any():
        raise InputError(
            f"patient_weights: expected a patient for each of one or more images, got shape {patient.shape} "
            f"with {pd.isna(patient).sum()} labels missing."
        )
    index, patients = pd.factorize(patient, sort=True)
    return resampling.patient_draws(len(patients), n_boot, rng_seed)[:, index]


def patient_replicates(
    tables: Mapping[tuple, pd.DataFrame],
    *,
    n_boot: int = 2000,
    rng_seed: int = 0,
    statistic: Statistic = "median",
) -> pd.DataFrame:
    """Replicates of every cell's statistic under one bootstrap over the patients that the cells share.

    The draws of `patient_weights`, over the patients of all cells together: a patient drawn twice counts
    twice in every cell. Seeds are not drawn: what the replicates vary by is which patients were examined
    with these very networks. Cells of one architecture and method under several seeds therefore covary by
    what the patients contribute and the seeds do not (`cxr.statistics.estimates.estimate`).

    Parameters
    ----------
    tables : a table per cell, the key any tuple, such as (architecture, method, seed), of one length; columns
        image_id (at most once a cell), patient_id, value. NaN values are dropped; cells may hold different
        images.
    n_boot, rng_seed, statistic : as for `bootstrap`.

    Returns
    -------
    float64 DataFrame, n_boot rows, a column per cell (MultiIndex). All NaN with fewer than two patients in
    all; a replicate that drew no row of a cell is NaN there.
    """
    resampling.check_statistic(statistic)
    if not tables:
        raise InputError("patient_replicates: no tables were given.")
    clean = {cell: _shared_seed_table(cell, table) for cell, table in tables.items()}
    index, patients = pd.factorize(np.concatenate([t["patient_id"].to_numpy() for t in clean.values()]), sort=True)
    stops = np.cumsum([len(t) for t in clean.values()])
    draws = resampling.counts_by_row(resampling.patient_draws(len(patients), n_boot, rng_seed))
    out = np.full((n_boot, len(clean)), np.nan)
    if len(patients) > 1:
        for j, (table, owner) in enumerate(zip(clean.values(), np.split(index, stops[:-1]), strict=True)):
            values, block = table["value"].to_numpy(float), max(1, resampling.BLOCK // len(table))
            for start in range(0, n_boot, block):
                part = slice(start, start + block)
                out[part, j] = resampling.weighted(statistic, values, draws[owner, part].T)
    return pd.DataFrame(out, columns=pd.MultiIndex.from_tuples(clean))


def _shared_seed_table(cell: tuple, table: pd.DataFrame) -> pd.DataFrame:
    """The checked rows of one cell of `patient_replicates`, without NaN."""
    if not isinstance(cell, tuple):
        raise InputError(f"tables: keys must be tuples such as (architecture, method, seed), got {cell!r}.")
    columns = ["image_id", "patient_id", "value"]
    require_columns(table, columns, f"table of {cell}")
    table = table[columns]
    if table[columns[:2]].isna().any(axis=None):
        raise InputError(f"table of {cell}: image_id or patient_id is missing in some rows.")
    if np.isinf(table["value"]).any():
        raise InputError(f"table of {cell}: {np.isinf(table['value']).sum()} values are infinite.")
    double = table["image_id"].duplicated()
    if double.any():
        raise InputError(
            f"table of {cell}: image {table.loc[double, 'image_id'].iloc[0]!r} appears more than once."
        )
    table = table[table["value"].notna()]
    if table.empty:
        raise InputError(f"table of {cell}: no value is left without NaN; leave this cell out.")
    return table


def _cell_table(cell: tuple[str, str], table: pd.DataFrame) -> pd.DataFrame:
    if not (isinstance(cell, tuple) and len(cell) == 2):
        raise InputError(f"tables: keys must be (architecture, method), got {cell!r}.")
    columns = ["image_id", "patient_id", "seed", "value"]
    require_columns(table, columns, f"table of {cell}")
    table = table[columns].reset_index(drop=True)
    for label in columns[:-1]:
        if table[label].isna().any():
            raise InputError(f"table of {cell}: {label} is missing in {table[label].isna().sum()} rows.")
    if np.isinf(table["value"]).any():
        raise InputError(f"table of {cell}: {np.isinf(table['value']).sum()} values are infinite.")
    double = table.duplicated(["seed", "image_id"])
    if double.any():
        image, seed = table.loc[double, ["image_id", "seed"]].iloc[0]
        raise InputError(f"table of {cell}: image {image!r} appears more than once for seed {seed!r}.")
    table = table[table["value"].notna()]
    if table.empty:
        raise InputError(f"table of {cell}: no value is left without NaN; leave this cell out.")
    return table


def _labels(labels: Sequence, values: np.ndarray, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if values.ndim != 1 or labels.shape != values.shape:
        raise InputError(
            f"bootstrap: values and {name} must be of one length, got shapes {values.shape} and {labels.shape}."
        )
    if pd.isna(labels).any():
        raise InputError(f"bootstrap: {name} is missing for {pd.isna(labels).sum()} images.")
    return labels
