"""How far two sets of attribution maps lie apart: one value per image and metric. Pure NumPy.

Both maps of an image are brought to the image grid (`cxr.metrics.map_grids.prepare`). What the metrics need of
each map is computed once (`cxr.metrics.map_features.Features`). Then every metric of the table
(`cxr.metrics.metric_table.METRICS`) compares the two.

Row i of both sets must be the same image: join by image id before calling. The rows are scored in threads
(`in_parts`), each image by itself, so that no value depends on the number of threads.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from cxr.core.errors import InputError
from cxr.metrics.map_features import Features
from cxr.metrics.map_grids import checked_maps, grid_size, is_empty, prepare, upsample
from cxr.metrics.metric_table import METRICS, wanted_metrics

# Rows in a part of `in_parts`. Few enough that all threads end at about the same time; many compared with the few
# maps that `baselines` prepares twice where two parts meet.
_PART = 64


def compare_maps(
    before: np.ndarray,
    after: np.ndarray,
    *,
    size: int | tuple[int, int],
    names: Iterable[str] | None = None,
    workers: int | None = None,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every drift metric of every pair of maps.

    Parameters
    ----------
    before, after : arrays [n, h, w] and [n, h2, w2] of raw maps; row i of both is the same image and
        class. The grids may differ.
    size : the image grid on which maps are compared, one integer or (H, W); at least as large as either grid,
        and as each metric's `smallest_side` (7 for SSIM, whose window is 7x7).
    names : the metrics wanted, default all of `METRICS`. What only other metrics need is not computed.
    workers : number of images scored at a time, see `in_parts`. Each takes a few MB of memory, whatever n is. No
        value depends on it.
    rows : int [m], row numbers of the pairs wanted; default all. Which maps are empty is decided among all rows.

    Returns
    -------
    dict of float64 [m] per metric, in the order of `METRICS`, NaN where either map is empty, and
    "empty_before" and "empty_after", bool [m]; in the order of `rows`.

    Raises
    ------
    InputError : on sets of other shapes or different lengths, unknown names, or a size too small.
    """
    before, after = checked_maps(before, "before"), checked_maps(after, "after")
    if len(before) != len(after):
        raise InputError(
            f"compare_maps: {len(before)} maps before against {len(after)} after; "
            "join both by image id first, so that row i is the same image in both."
        )
    wanted = wanted_metrics(names)
    size = grid_size(size)
    for name in wanted:
        least = METRICS[name].smallest_side
        if min(size) < least:
            raise InputError(
                f"compare_maps: size {size[0]}x{size[1]} is too small for the metric {name!r}, which needs "
                f"{least}x{least}; ask for a larger size, or leave {name!r} out of names."
            )
    for maps in (before, after):  # also for sets too bad to be scored
        upsample(maps[:0], size)

    flags = {
        "empty_before": is_empty(before),
        "empty_after": is_empty(after),
    }
    rows = np.arange(len(before)) if rows is None else np.asarray(rows, int)
    flags = {name: flag[rows] for name, flag in flags.items()}
    usable = np.flatnonzero(~(flags["empty_before"] | flags["empty_after"]))
    values = {name: np.full(len(rows), np.nan) for name in wanted}

    def fill(part: np.ndarray) -> None:
        for at in part.tolist():
            i = rows[at]
            pair = (Features(prepare(maps[i : i + 1], size)[0]) for maps in (before, after))
            for name, value in score(*pair, wanted).items():
                values[name][at] = value

    in_parts(fill, usable, workers)
    return values | flags


def in_parts(work: Callable[[np.ndarray], None], rows: np.ndarray, workers: int | None = None) -> None:
    """Call `work` with each part of `rows`, in threads. Parts are short runs of consecutive entries.

    NumPy computes without Python's lock, so the threads work at the same time. Meanwhile BLAS uses one thread in
    the whole process: more threads of its own would compete with these, and the way in which BLAS divides a sum
    changes its last digits.

    Parameters
    ----------
    work : writes its results where the caller finds them. A row's result must not depend on the part it is in.
    rows : [n], row numbers.
    workers : number of threads. Default: the cores that this process may use, but at most OMP_NUM_THREADS, which a
        study that runs several notebooks at the same time sets for each of them.
    """
    if workers is None:
        workers = _cores()
    length = max(1, min(_PART, -(-len(rows) // workers)))
    parts = [rows[start : start + length] for start in range(0, len(rows), length)]
    # Allocating and freeing 24 MB makes glibc keep freed arrays of a map's size for the next ones. Otherwise it
    # returns their pages to the system each time, and the page faults take longer than the arithmetic.
    np.empty(3 << 20)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, parts):  # raises what a part raised
            pass


def score(before: Features, after: Features, names: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics `names` (default all) of one pair of maps of the same size; see `compare_maps`."""
    return {name: float(METRICS[name].compute(before, after)) for name in wanted_metrics(names)}


def _cores() -> int:
    """Cores for this process: those it may run on, fewer if OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores
