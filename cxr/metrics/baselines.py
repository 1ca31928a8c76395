"""What a drift metric is compared with: two patients, chance, two heads, more training. NumPy on `similarity`.

An overlap of 0.5 says nothing by itself. Four baselines give it a scale:

chance        the map before against the same image's map after, moved to a random place. Maps of this shape and
              concentration share so much if their positions have nothing to do with each other.
two patients  the map before against maps after of other patients of the same class. A common prior (the anatomy, a
              habit of the network) gives so much, without any evidence from the image itself.
two heads     the map before against that of a checkpoint that differs by its seed only. This is the
              overlap that training noise leaves.
more training the map after against that of a checkpoint that was trained on from there, for as many epochs as it
              took from before to after. The same training leaves so much when it has nothing new to learn: the
              matched null.

`corrected` puts a value on the scale from two patients (0) to identical maps (1).

Signed metrics (`metric_table.Metric.signed`): all baselines are means of the ABSOLUTE value. Signed values
would average out to about zero, and the question is how large a change such a comparison gives. Compare them with
the absolute value of the metric. Signed metrics hardly depend on where a map lies: moving a map changes them only
through bilinear upsampling at the edges. Their chance baseline is therefore about the absolute change itself, and
says nothing more.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from cxr.metrics.map_features import Features
from cxr.metrics.map_grids import is_empty, prepare
from cxr.metrics.metric_table import METRICS, wanted_metrics
from cxr.metrics.similarity import compare_maps, in_parts, score


def baselines(
    before: np.ndarray,
    after: np.ndarray,
    label: Sequence,
    patient: Sequence,
    *,
    size: int | tuple[int, int],
    draws: int = 4,
    names: Iterable[str] | None = None,
    rng_seed: int = 0,
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """The baselines two patients and chance of every drift metric for every image.

    Parameters
    ----------
    before, after, size, names, workers : as for `similarity.compare_maps`; row i of both
        sets is the same image.
    label, patient : [n], see `partners`.
    draws : number of comparisons that each baseline averages. Memory grows with it (about 7 MB each at 224 px, in
        each worker), not with n.
    rng_seed : the values depend on the arguments and this alone. Random numbers belong to row numbers: the chance
        baseline of a row does not depend on the other rows (except through which maps are empty, a property of the
        set). Partners are drawn by the order of rows too: another order gives other draws of the same
        distribution. Sort by image id to get equal numbers.

    Returns
    -------
    dict of float64 [n]: `<metric>_two_patients` and `<metric>_chance` for each metric in the order of `METRICS`,
    absolute for signed ones (see the module). NaN where either of the image's own maps is empty, so that baselines
    and metric are about the same images. Two patients is also NaN where every partner's map after is empty.

    Notes
    -----
    With T and F the raw maps, both prepared before they are compared:

    two_patients_i = mean over partners j of metric(T_i, F_j); empty F_j are left out.

    chance_i = mean over draws of metric(T_i, F_i moved). A map is moved on its own grid, by a symmetry and by a
    translation on the torus, both uniformly random. Its values stay, and so do neighbourhoods except at the seam;
    any position becomes equally likely (torus translation: Lotwick and Silverman 1982, J. R. Stat. Soc. B 44:406;
    Harms et al. 2001, J. Ecol. 89:947). The symmetries are the 8 of the square if both the grid and `size` are
    square, otherwise the 4 of the rectangle. On the map's own grid, the expected intersection of two top-q areas
    is then exactly q^2 of all pixels (slightly more where values are tied at their edge: `overlap`). The expected
    IoU is q / (2 - q) for scattered areas, and higher for compact ones (IoU is convex in the intersection). It is
    therefore measured, not computed.
    """
    before, after = np.asarray(before), np.asarray(after)
    empty_t = is_empty(before)
    empty_f = is_empty(after)
    n = len(before)
    wanted = wanted_metrics(names)
    walk, table = partners(label, patient, draws=draws, rng_seed=rng_seed)
    h, w = after.shape[1:]
    square = h == w and len(set(np.broadcast_to(size, 2).tolist())) == 1
    moves = np.random.default_rng([rng_seed, 1]).integers(0, [8 if square else 4, h, w], (n, draws, 3))

    values = {f"{name}_{level}": np.full(n, np.nan) for name in wanted for level in ("two_patients", "chance")}

    def fill(part: np.ndarray) -> None:
        @lru_cache(maxsize=2 * draws)  # on a walk along the ring, the next partners were prepared just before
        def partner(j: int) -> Features:
            return _features(after[j], size)

        for i in part.tolist():
            t = _features(before[i], size)
            others = (partner(j) for j in table[i].tolist() if j >= 0 and not empty_f[j])
            moved = (_features(_moved(after[i], *move), size) for move in moves[i].tolist())
            for level, features in (("two_patients", others), ("chance", moved)):
                for name, value in mean_scores(t, features, wanted).items():
                    values[f"{name}_{level}"][i] = value

    in_parts(fill, walk[~(empty_t | empty_f)[walk]], workers)
    return values


def two_heads(
    before: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    size: int | tuple[int, int],
    names: Iterable[str] | None = None,
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """Every metric against maps of checkpoints that differ from this one by their seed only.

    It serves either checkpoint: maps before against those of other heads, or maps after against those of other
    seeds.

    Parameters
    ----------
    before : array [n, h, w] of raw maps.
    others : at least one set of maps of the same images in the same order, of the same class, method and layer.
    size, names, workers : as for `cxr.metrics.similarity.compare_maps`.

    Returns
    -------
    dict of float64 [n], `<metric>_two_heads`: the mean over the other sets of metric(before_i, other_i),
    absolute for signed metrics (see the module). Empty maps of another set are left out; NaN where
    the image's own map is empty, or all of its others.
    """
    before, others = np.asarray(before), [np.asarray(map_set) for map_set in others]
    empty = is_empty(before)
    empty_others = [is_empty(map_set) for map_set in others]
    wanted = wanted_metrics(names)
    values = {f"{name}_two_heads": np.full(len(before), np.nan) for name in wanted}

    def fill(part: np.ndarray) -> None:
        for i in part.tolist():
            features = (
                _features(map_set[i], size)
                for map_set, skip in zip(others, empty_others, strict=True)
                if not skip[i]
            )
            for name, value in mean_scores(_features(before[i], size), features, wanted).items():
                values[f"{name}_two_heads"][i] = value

    in_parts(fill, np.flatnonzero(~empty), workers)
    return values


def more_training(
    before: np.ndarray,
    after: np.ndarray,
    continued: np.ndarray,
    *,
    size: int | tuple[int, int],
    names: Iterable[str] | None = None,
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """Every metric between the maps after, and those after as many epochs again: the matched null.

    Parameters
    ----------
    before, after, continued : arrays of raw maps; row i of all is the same image, of the same class, method and
        layer. Of `before` only the empty maps matter.
    size, names, workers : as for `cxr.metrics.similarity.compare_maps`.

    Returns
    -------
    dict of float64 [n], `<metric>_more_training`: metric(after_i, continued_i), absolute for signed metrics (see
    the module). NaN where any of the three maps is empty, so that baseline and metric are about the same images.

    Raises
    ------
    InputError : as `compare_maps`.
    """
    values = compare_maps(after, continued, size=size, names=names, workers=workers)
    unknown = is_empty(np.asarray(before))
    found = {}
    for name in wanted_metrics(names):
        value = np.abs(values[name]) if METRICS[name].signed else values[name]
        found[f"{name}_more_training"] = np.where(unknown, np.nan, value)
    return found


def corrected(
    value: float | np.ndarray, two_patients: float | np.ndarray, identical: float | np.ndarray = 1.0
) -> float | np.ndarray:
    """A value corrected for what two patients share, as kappa corrects for chance.

    (value - two_patients) / (identical - two_patients): 1 for identical maps; 0 for maps that are no more alike
    than those of two patients of one class; below 0 for less than that. With the value of two seeds as
    `identical`, 1 means as alike as the maps of two seeds, and the index is the share of two seeds. Use it for
    metrics whose higher values mean more stable maps (IoU, correlations, SSIM).

    A ratio of noisy numbers is noisy, and biased where `identical` is close to `two_patients`. Apply it to a
    cell's means or medians over the same images. Do not apply it to single images and average afterwards.

    Parameters
    ----------
    value, two_patients, identical : numbers or arrays that broadcast.

    Returns
    -------
    float64, of the broadcast shape; NaN where identical <= two_patients or a part is NaN.
    """
    value, two_patients, identical = (np.asarray(a, dtype=np.float64) for a in (value, two_patients, identical))
    span = identical - two_patients
    return ((value - two_patients) / np.where(span > 0, span, np.nan))[()]


def partners(
    label: Sequence, patient: Sequence, *, draws: int, rng_seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """For each image, other images of its class and of other patients, at random without replacement.

    Each class is laid out as a ring in random order. An image's partners are the next `draws` images on the ring
    that are not of its own patient. For one image, that is a uniform draw without replacement from all eligible
    images. Over images it is balanced: if no patient has several images, each image is a partner of exactly
    `draws` others. A walk along the ring needs few prepared maps at a time.

    Parameters
    ----------
    label : [n], the class explained.
    patient : [n].
    draws : partners wanted for each image, at least 1.
    rng_seed : the ring depends on this, on the order of rows and on which rows share a class. It does not depend
        on the names of labels.

    Returns
    -------
    walk : int64 [n], all row numbers, ring after ring.
    table : int64 [n, draws], row numbers of the partners. If only m < draws images are eligible: all m of them,
        then -1.
    """
    label, patient = (pd.factorize(pd.Series(labels, dtype=object))[0] for labels in (label, patient))
    order = np.random.default_rng(rng_seed).permutation(len(label))
    walk = order[np.argsort(label[order], kind="stable")]
    table = np.full((len(label), draws), -1)
    for ring in np.split(walk, np.flatnonzero(np.diff(label[walk])) + 1):
        for at, i in enumerate(ring):
            ahead = np.roll(ring, -at)
            found = ahead[patient[ahead] != patient[i]][:draws]
            table[i, : len(found)] = found
    return walk, table


def _features(raw: np.ndarray, size: int | tuple[int, int]) -> Features:
    return Features(prepare(raw[None], size)[0])


def _moved(raw: np.ndarray, symmetry: int, down: int, right: int) -> np.ndarray:
    """A map [h, w] after a symmetry (0 to 3: of the rectangle; to 7: of the square) and a torus translation."""
    if symmetry & 1:
        raw = raw[::-1]
    if symmetry & 2:
        raw = raw[:, ::-1]
    if symmetry & 4:
        raw = raw.T
    return np.roll(raw, (down, right), (0, 1))


def mean_scores(t: Features, others: Iterable[Features], names: list[str]) -> dict[str, float]:
    """Mean of each metric of `t` over `others`, taken one by one; of absolute values if signed; NaN of none."""
    scores = [score(t, other, names) for other in others]
    if not scores:
        return dict.fromkeys(names, np.nan)
    return {
        name: math.fsum(abs(s[name]) if METRICS[name].signed else s[name] for s in scores) / len(scores)
        for name in names
    }
