"""The multiverse of one run: the overlap of its maps under every other defensible analysis.

An analysis is one choice on each of five axes:

- the *variant* of the maps: default; another target layer, `layer-*`; another score than the study's, `score-*`;
  multi-layer LayerCAM, `layers-fused`;
- the *grid* on which maps are compared: the image's, or the layer's own;
- the area *q* of the overlap;
- the *images*: those that both checkpoints classify correctly, or all;
- the *scale*: the overlap as it is, `raw`, or less what two patients share, `corrected`
  (`cxr.metrics.baselines.corrected`).

The value of an analysis for an architecture under a method is the median IoU over images, averaged over seeds; on
the scale `corrected`, the corrected overlap of each seed's medians, averaged over seeds. It orders the
architectures from most to least stable: from high to low.

    score notebook     score_variant, one call a variant -> long_table -> multiverse.parquet, a table a run
    compare notebook   the runs' tables, concatenated -> cxr.metrics.multiverse_rankings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.core.methods import TABLE
from cxr.metrics import baselines, similarity
from cxr.metrics.map_features import Features
from cxr.metrics.map_grids import is_empty, prepare, upsample

QS = {0.05: "overlap_q05", 0.10: "overlap_q10", 0.20: "overlap", 0.30: "overlap_q30"}
GRIDS = ("image", "native")
SCALES = ("raw", "corrected")
VALUES = tuple(f"{name}@{grid}" for grid in GRIDS for name in QS.values())
# The same overlap between maps of two patients, for each of VALUES.
TWO_PATIENTS = {value: value.replace("@", "_two_patients@") for value in VALUES}
AXES = ["variant", "grid", "q", "images", "scale"]
# The study's own analysis. Its parameters choose the images.
DEFAULT: Mapping[str, str | float] = {"variant": "default", "grid": "image", "q": 0.20, "scale": "corrected"}
# Cells of the layer's own grid in the top area of an analysis that counts, at least.
LEAST_CELLS = 8
# The two methods whose rankings the paper compares.
PAIR = ("layercam", "gradcampp")
RUN = ["architecture", "seed", "method"]
CELL = ["architecture", "method"]


def score_variant(
    before: np.ndarray,
    after: np.ndarray,
    label: Sequence,
    patient: Sequence,
    *,
    size: int | tuple[int, int],
    draws: int = 4,
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """Overlap of every pair of maps of one variant, and that of two patients, at every q, on both grids.

    Parameters
    ----------
    before, after : arrays [n, h, w] of raw maps on the layer's own grid; row i of both is the same image
        and class.
    label, patient : [n], the class explained and the patient of each row, see `cxr.metrics.baselines.partners`.
        The same rows have the same partners in all variants, for all q and on both grids, so that analyses do not
        differ by the draw.
    size : the image grid, one integer or (H, W).
    draws : other patients that each image is compared with.
    workers : number of images scored at a time, see `similarity.in_parts`. No value depends on it.

    Returns
    -------
    dict with one float64 [n] for each name in `VALUES`: `overlap_q05@image` ... `overlap_q30@image` are exactly
    the columns of `similarity.compare_maps` on the image grid, `overlap_q05@native` ... `overlap_q30@native`
    those on the layer's grid [h, w]. NaN where either map is empty (`map_grids.is_empty`; the same maps on both
    grids). For each of these also that of `TWO_PATIENTS`, as `baselines.baselines` has it with these draws. And
    `empty`, bool [n], and `cells`, int64 [n]: h w.

    Raises
    ------
    InputError : on sets of different shapes, or a size smaller than the maps.
    """
    before, after = np.asarray(before), np.asarray(after)
    n = len(before)
    if before.ndim != 3 or before.shape != after.shape:
        raise InputError(
            f"score_variant: expected two sets of maps of one shape [n, h, w], got {before.shape} and "
            f"{after.shape}; take both at the same layer and join them by image id."
        )
    if not len(label) == len(patient) == n:
        raise InputError(
            f"score_variant: {n} images, but {len(label)} labels and {len(patient)} patients; give one of each "
            "for every row of the maps."
        )
    upsample(before[:0], size)  # refuses a size that is too small
    no_after = is_empty(after)
    empty = is_empty(before) | no_after
    walk, partners = baselines.partners(label, patient, draws=draws)
    out = {name: np.full(n, np.nan) for name in (*VALUES, *TWO_PATIENTS.values())}
    for grid, side in zip(GRIDS, (size, before.shape[1:]), strict=True):
        columns = {name: f"{name}@{grid}" for name in QS.values()}

        def fill(part: np.ndarray, side: int | tuple[int, int] = side, columns: dict[str, str] = columns) -> None:
            @lru_cache(maxsize=draws + 2)  # on a walk along the ring, each map after is prepared once
            def of(j: int) -> Features:
                return Features(prepare(after[j : j + 1], side)[0])

            for i in part.tolist():
                own = Features(prepare(before[i : i + 1], side)[0])
                others = [of(j) for j in partners[i].tolist() if j >= 0 and not no_after[j]]
                for name, value in similarity.score(own, of(i), columns).items():
                    out[columns[name]][i] = value
                for name, value in baselines.mean_scores(own, others, list(columns)).items():
                    out[TWO_PATIENTS[columns[name]]][i] = value

        similarity.in_parts(fill, walk[~empty[walk]], workers)
    return out | {"empty": empty, "cells": np.full(n, before.shape[1] * before.shape[2])}


def long_table(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    images: pd.DataFrame,
    *,
    architecture: str,
    seed: int,
    method: str,
    layers: Mapping[str, str],
) -> pd.DataFrame:
    """The multiverse table of one run: a row per variant and image.

    Parameters
    ----------
    scores : per variant (`default` among them), what `score_variant` returned.
    images : columns image_id, patient_id and both_correct (bool); rows as in the sets that were scored.
    architecture, seed, method : the run's.
    layers : the name of the real layer behind every variant that this method has, *also behind variants without
        maps of their own because another variant's maps are the same*. Among `default` and the `layer-*` variants,
        those at one real layer share one set of maps, that of the first one scored, and all get its values
        (`penultimate_cut` is `penultimate` in DenseNet and Inception). A `layer-*` variant at a layer that was not
        scored, or one that is not named here, was left out because its grid is too small. It gets no rows, and its
        analyses are incomplete.

    Returns
    -------
    DataFrame with columns architecture, seed, method, variant, maps_of (the variant whose maps these are: itself
    or another one), layer, image_id, patient_id, both_correct (bool), empty (bool), cells (int64, of the layer's
    own grid), and the float64 columns `VALUES` and those of `TWO_PATIENTS`; `default` first.
    """
    maps_of = {variant: variant for variant in ["default", *scores]}
    at_layer: dict[str, str] = {}
    for variant in filter(_is_layer, maps_of):
        at_layer.setdefault(layers[variant], variant)
    for variant in filter(_is_layer, layers):
        if layers[variant] in at_layer:
            maps_of[variant] = at_layer[layers[variant]]

    head = images[["image_id", "patient_id", "both_correct"]].reset_index(drop=True)
    parts = []
    for variant, source in maps_of.items():
        cell = {"architecture": architecture, "seed": seed, "method": method}
        cell |= {"variant": variant, "maps_of": source, "layer": layers[variant]}
        values = {name: scores[source][name] for name in ("empty", "cells", *VALUES, *TWO_PATIENTS.values())}
        parts.append(
            pd.concat([pd.DataFrame(cell, index=head.index), head, pd.DataFrame(values, index=head.index)], axis=1)
        )
    return pd.concat(parts, ignore_index=True)


def uses_default_maps(variant: str, method: str) -> bool:
    """Whether a method that has no maps of this variant uses its default maps for it.

    `layers-fused` exists for LayerCAM alone. A study that explains log-odds has no `score-probability` of a method
    whose maps of both are the same up to a factor (`proportional` in `cxr.core.methods`), and the other way round.
    """
    if variant == "layers-fused":
        return method != "layercam"
    return variant in ("score-log_odds", "score-probability") and TABLE[method].proportional


def _is_layer(variant: str) -> bool:
    return variant == "default" or variant.startswith("layer-")
