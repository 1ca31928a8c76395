"""Intervals, ranks and reversals from per-image tables. NumPy and pandas only.

Everything rests on one resampling scheme (`_row_weights`): a hierarchical bootstrap over run seeds, patients
and images (Davison and Hinkley 1997, section 3.8). A replicate is not a resampled table but a count per row,
how often that row was drawn, so that thousands of replicates are a few array operations, and so that tables
which share rows can be resampled alike (`paired_replicates`).

Patients and seeds. Every level drawn with replacement, nested: a seed drawn twice gets two independent
samples of its patients. That is right when each seed has patients of its own. Where the same patients recur
under every seed (one test set, several trainings), nested resampling averages each patient's own effect over
the seeds and gives intervals that are too short; `crossed=True` then draws the patients once a replicate and
uses that draw under every seed (Owen 2007, the pigeonhole bootstrap).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from cxr.core.errors import InputError

Statistic = str | Callable[[np.ndarray], float]

# Rows x replicates held at a time. Part of what an rng_seed means: draws are made block by block.
_BLOCK = 2_000_000
_MANY = 128  # replicates that are better summed up at once


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
    _check_draws(n_boot)
    _named(statistic)
    keep = ~np.isnan(values)
    values, patient, seed = values[keep], patient[keep], seed[keep]
    if len(pd.unique(patient)) < 2:
        return np.full(n_boot, np.nan)
    weights = _row_weights(seed, patient, n_boot=n_boot, rng=np.random.default_rng(rng_seed), crossed=crossed)
    return np.concatenate([_weighted(statistic, values, _by_row(block).T) for block in weights])


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


def order(summary: pd.DataFrame) -> pd.DataFrame:
    """Stability rank of each architecture under each method; 1 is the most stable.

    Parameters
    ----------
    summary : columns architecture, method, value, higher_is_more_stable (bool, the same in every row: it is
        one metric's table), a row per architecture and method.

    Returns
    -------
    float DataFrame, architectures x methods in the order in which they first appear. Ties share their mean
    rank; a cell that is missing or NaN has rank NaN and does not count among the others.
    """
    values = _cells(summary)
    return values.rank(axis=0, ascending=not _direction(summary), method="average")


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
    _check_draws(n_boot)
    _named(statistic)
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
    weights = _row_weights(
        rows["seed"].to_numpy(),
        rows["patient_id"].to_numpy(),
        n_boot=n_boot,
        rng=np.random.default_rng(rng_seed),
        crossed=crossed,
    )
    blocks = []
    for block in weights:
        by_row = _by_row(block)
        cells = [_weighted(statistic, clean[c]["value"].to_numpy(), by_row[index[c]].T) for c in clean]
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
    return _patient_draws(len(patients), n_boot, rng_seed)[:, index]


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
    what the patients contribute and the seeds do not (`cxr.statistics.hypotheses.estimate`).

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
    _named(statistic)
    if not tables:
        raise InputError("patient_replicates: no tables were given.")
    clean = {cell: _shared_seed_table(cell, table) for cell, table in tables.items()}
    index, patients = pd.factorize(np.concatenate([t["patient_id"].to_numpy() for t in clean.values()]), sort=True)
    stops = np.cumsum([len(t) for t in clean.values()])
    draws = _by_row(_patient_draws(len(patients), n_boot, rng_seed))
    out = np.full((n_boot, len(clean)), np.nan)
    if len(patients) > 1:
        for j, (table, owner) in enumerate(zip(clean.values(), np.split(index, stops[:-1]), strict=True)):
            values, block = table["value"].to_numpy(float), max(1, _BLOCK // len(table))
            for start in range(0, n_boot, block):
                part = slice(start, start + block)
                out[part, j] = _weighted(statistic, values, draws[owner, part].T)
    return pd.DataFrame(out, columns=pd.MultiIndex.from_tuples(clean))


def rank_probabilities(replicates: pd.DataFrame, *, higher_is_more_stable: bool = True) -> pd.DataFrame:
    """P(rank = r) of each architecture under each method, over paired replicates.

    Parameters
    ----------
    replicates : as `paired_replicates` returns them.
    higher_is_more_stable : direction of the metric; rank 1 is the most stable.

    Returns
    -------
    float DataFrame, index (method, architecture), columns 1 ... number of architectures under any method.
    Architectures tied in a replicate share its ranks evenly, so that rows and, per method, columns sum to 1.
    NaN for a method with any NaN replicate.
    """
    methods = replicates.columns.unique("method")
    parts = {method: replicates.xs(method, axis=1, level="method") for method in methods}
    ranks = range(1, max(part.shape[1] for part in parts.values()) + 1)
    out = {}
    for method, part in parts.items():
        stability = part.to_numpy() if higher_is_more_stable else -part.to_numpy()
        for i, architecture in enumerate(part.columns):
            own = stability[:, [i]]
            ahead, level = (stability > own).sum(1), (stability == own).sum(1)
            out[method, architecture] = (
                [np.nan] * len(ranks)
                if np.isnan(stability).any()
                else [float((((ahead < r) & (r <= ahead + level)) / level).mean()) for r in ranks]
            )
    table = pd.DataFrame.from_dict(out, orient="index", columns=pd.Index(ranks, name="rank"))
    table.index = pd.MultiIndex.from_tuples(out, names=["method", "architecture"])
    return table


def p_order(replicates: pd.DataFrame, method: str, a: str, b: str, *, higher_is_more_stable: bool = True) -> float:
    """Share of paired replicates in which `a` is more stable than `b` under `method`; ties count one half.

    So p_order(a, b) + p_order(b, a) = 1. NaN if a replicate of either cell is.
    """
    difference = _difference(replicates, method, a, b, higher_is_more_stable)
    if np.isnan(difference).any():
        return float("nan")
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def p_reversal(
    replicates: pd.DataFrame,
    method_a: str,
    method_b: str,
    a: str,
    b: str,
    *,
    higher_is_more_stable: bool = True,
) -> float:
    """Share of paired replicates in which `a` is the more stable under `method_a`, `b` under `method_b`.

    Strictly in both: ties support no reversal. NaN if a replicate of any of the four cells is.
    """
    first = _difference(replicates, method_a, a, b, higher_is_more_stable)
    second = _difference(replicates, method_b, a, b, higher_is_more_stable)
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    return float(((first > 0) & (second < 0)).mean())


def reversals(
    table: pd.DataFrame, method_a: str, method_b: str, *, replicates: pd.DataFrame | None = None
) -> list[dict[str, str | float]]:
    """Pairs of architectures whose order by the point estimates differs between two methods.

    Parameters
    ----------
    table : as for `order`.
    method_a, method_b : the methods.
    replicates : as `paired_replicates` returns them, of the same metric; without them the probabilities
        are NaN.

    Returns
    -------
    A dict per pair: `stabler_a` and `stabler_b`, the architecture more stable under method_a and the one more
    stable under method_b; `margin_a` and `margin_b` (both > 0), by how much each leads under its method, in
    the metric's units; `p_order_a` and `p_order_b`, the bootstrap share of each lead (`p_order`);
    `p_reversal`, that of both at once (`p_reversal`). Widest reversal (smaller of the margins) first. Ties
    and missing cells are no reversal.

    A flip of two point estimates is weak evidence: read it with its probabilities, and never at a layer where
    the two methods are the same map up to scale.
    """
    values, higher = _cells(table), _direction(table)
    for method in (method_a, method_b):
        if method not in values.columns:
            raise InputError(f"reversals: no method {method!r} in the table; it has {list(values.columns)}.")
    stability = values if higher else -values
    found = []
    for pair in combinations(values.index, 2):
        leads = [stability.at[pair[0], m] - stability.at[pair[1], m] for m in (method_a, method_b)]
        if not leads[0] * leads[1] < 0:  # NaN too
            continue
        a, b = pair if leads[0] > 0 else pair[::-1]
        margins = {"margin_a": float(abs(leads[0])), "margin_b": float(abs(leads[1]))}
        options = {"higher_is_more_stable": higher}
        nan = float("nan")
        found.append(
            {"stabler_a": a, "stabler_b": b}
            | margins
            | {
                "p_order_a": nan if replicates is None else p_order(replicates, method_a, a, b, **options),
                "p_order_b": nan if replicates is None else p_order(replicates, method_b, b, a, **options),
                "p_reversal": (
                    nan if replicates is None else p_reversal(replicates, method_a, method_b, a, b, **options)
                ),
            }
        )
    return sorted(found, key=lambda row: -min(row["margin_a"], row["margin_b"]))


def _row_weights(
    seed: np.ndarray, patient: np.ndarray, *, n_boot: int, rng: np.random.Generator, crossed: bool
) -> Iterator[np.ndarray]:
    """How often each row is drawn: blocks of int64 [replicates, n], n_boot replicates in all.

    Drawing m of P units m times with replacement is a multinomial count vector, and so is the sum of several
    such draws: a seed drawn c times draws its P patients by one multinomial of c P; a patient drawn m times
    its k images by one of m k.
    """
    seed_of_row, seeds = pd.factorize(seed)
    patient_of_row, patients = pd.factorize(patient)
    groups, group_of_row = np.unique(seed_of_row * len(patients) + patient_of_row, return_inverse=True)
    seed_of_group, patient_of_group = np.divmod(groups, len(patients))
    sizes = np.bincount(group_of_row)
    rows_by_group = np.argsort(group_of_row, kind="stable")
    first = np.cumsum(sizes) - sizes

    block = max(1, _BLOCK // len(seed_of_row))
    for start in range(0, n_boot, block):
        b = min(block, n_boot - start)
        seed_draws = _draw(rng, np.full(b, len(seeds)), len(seeds))
        if crossed:
            patient_draws = _draw(rng, np.full(b, len(patients)), len(patients))
            group_draws = seed_draws[:, seed_of_group] * patient_draws[:, patient_of_group]
        else:
            group_draws = np.empty((b, len(groups)), dtype=np.int64)
            for s in range(len(seeds)):
                mine = np.flatnonzero(seed_of_group == s)
                group_draws[:, mine] = _draw(rng, seed_draws[:, s] * len(mine), len(mine))
        weights = np.empty((b, len(seed_of_row)), dtype=np.int64)
        for size in np.unique(sizes):
            these = np.flatnonzero(sizes == size)
            rows = rows_by_group[first[these][:, None] + np.arange(size)]  # [groups, size]
            weights[:, rows] = _draw(rng, group_draws[:, these] * size, size)
        yield weights


def _patient_draws(patients: int, n_boot: int, rng_seed: int) -> np.ndarray:
    """int64 [n_boot, patients]: how often each is among so many draws with replacement."""
    _check_draws(n_boot)
    return _draw(np.random.default_rng(rng_seed), np.full(n_boot, patients), patients)


def _shared_seed_table(cell: tuple, table: pd.DataFrame) -> pd.DataFrame:
    """The checked rows of one cell of `patient_replicates`, without NaN."""
    if not isinstance(cell, tuple):
        raise InputError(f"tables: keys must be tuples such as (architecture, method, seed), got {cell!r}.")
    columns = ["image_id", "patient_id", "value"]
    _require(table, columns, f"table of {cell}")
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


def _draw(rng: np.random.Generator, draws: np.ndarray, units: int) -> np.ndarray:
    """Counts [..., units] of `draws` [...] even draws with replacement from so many units."""
    if units == 1:
        return draws[..., None]
    return rng.multinomial(draws, np.full(units, 1 / units))


def _by_row(weights: np.ndarray) -> np.ndarray:
    """Weights [b, n] as int32 [n, b]: what is done image by image to all replicates at once is then fastest."""
    return np.ascontiguousarray(weights.T, dtype=np.int32)


def _weighted(statistic: Statistic, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The statistic of `values` [n] with each counted as often as `weights` int [b, n] says: float64 [b]."""
    if statistic == "mean":
        total = weights.sum(1)
        return np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan)
    if statistic == "median":
        return _weighted_median(values, weights)
    return np.array([statistic(np.repeat(values, w)) if w.any() else np.nan for w in weights], float)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`np.median` of the values repeated by their weights: the mean of the lower and the upper middle one."""
    rank = np.argsort(values, kind="stable")
    ascending, upto = values[rank], weights.T[rank]
    if upto.shape[1] < _MANY:  # one replicate after the other
        upto = np.cumsum(np.ascontiguousarray(upto.T), axis=1, dtype=upto.dtype).T
    else:
        for before, row in pairwise(upto):  # all at once: the quicker the more there are
            row += before
    total = upto[-1]
    # The j-th smallest (from 0) is the first value with more than j counted up to it.
    lower, half = (upto <= (total - 1) // 2).sum(0), total // 2
    upper = lower.copy()  # but where exactly half are counted up to it
    split = np.flatnonzero(upto[np.minimum(lower, len(upto) - 1), np.arange(len(total))] <= half)
    upper[split] = (upto[:, split] <= half[split]).sum(0)
    last = len(values) - 1
    middle = (ascending[np.minimum(lower, last)] + ascending[np.minimum(upper, last)]) / 2
    return np.where(total > 0, middle, np.nan)


def _difference(replicates: pd.DataFrame, method: str, a: str, b: str, higher: bool) -> np.ndarray:
    for cell in ((a, method), (b, method)):
        if cell not in replicates.columns:
            raise InputError(f"replicates: no column {cell}; there are {list(replicates.columns)}.")
    difference = (replicates[a, method] - replicates[b, method]).to_numpy()
    return difference if higher else -difference


def _cells(summary: pd.DataFrame) -> pd.DataFrame:
    """The values as architectures x methods, in the order in which they first appear."""
    _require(summary, ("architecture", "method", "value", "higher_is_more_stable"), "summary")
    double = summary.duplicated(["architecture", "method"])
    if double.any():
        row = summary[double].iloc[0]
        raise InputError(
            f"summary: {row['architecture']} under {row['method']} appears more than once; "
            "pass one metric's table, with one row per architecture and method."
        )
    table = summary.pivot(index="architecture", columns="method", values="value").astype(float)
    return table.loc[summary["architecture"].unique(), summary["method"].unique()]


def _direction(summary: pd.DataFrame) -> bool:
    directions = set(summary["higher_is_more_stable"].tolist())
    if directions not in ({True}, {False}):
        raise InputError(
            "summary: higher_is_more_stable must be True in every row or False in every row, got "
            f"{sorted(map(str, directions))}; a signed metric has no order of stability: rank its absolute "
            "value instead."
        )
    return directions.pop()


def _cell_table(cell: tuple[str, str], table: pd.DataFrame) -> pd.DataFrame:
    if not (isinstance(cell, tuple) and len(cell) == 2):
        raise InputError(f"tables: keys must be (architecture, method), got {cell!r}.")
    columns = ["image_id", "patient_id", "seed", "value"]
    _require(table, columns, f"table of {cell}")
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


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{name}: columns {missing} are missing; there are {list(table.columns)}.")


def _labels(labels: Sequence, values: np.ndarray, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if values.ndim != 1 or labels.shape != values.shape:
        raise InputError(
            f"bootstrap: values and {name} must be of one length, got shapes {values.shape} and {labels.shape}."
        )
    if pd.isna(labels).any():
        raise InputError(f"bootstrap: {name} is missing for {pd.isna(labels).sum()} images.")
    return labels


def _check_draws(n_boot: int) -> None:
    if n_boot < 1:
        raise InputError(f"bootstrap: n_boot must be at least 1, got {n_boot}.")


def _named(statistic: Statistic) -> None:
    if not callable(statistic) and statistic not in ("median", "mean"):
        raise InputError(f"bootstrap: statistic must be 'median', 'mean' or a function, got {statistic!r}.")
