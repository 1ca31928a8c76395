"""One image of a study: both maps, how far they lie apart, and where that stands among the other images.

`gather` collects all there is to show; `cxr.explore.drawing` and `cxr.explore.tables` show it. It only reads what
score, attribute and train runs hold (`cxr.explore.runs`): it needs no image files, no networks and no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from cxr.explore import runs
from cxr.metrics import map_features, regions, similarity
from cxr.metrics.map_features import Features
from cxr.metrics.metric_table import METRICS
from cxr.metrics.overlap import overlap
from cxr.tracking import StoredRun

LEVELS = {"two_patients": "two patients", "two_heads": "two heads", "chance": "chance"}
"""The baselines that a score run can have, and what they are called in pictures and tables."""
_EPOCHS = 7  # at most so many maps during fine-tuning are shown
# What the maps are of variants that are not at another layer (`cxr.attribution.explaining.Explained`).
_VARIANTS = {
    "score-log_odds": "of the log-odds",
    "score-logit": "of the logit",
    "score-probability": "of the probability",
    "layers-fused": "several layers fused",
}


@dataclass(frozen=True)
class Course:
    """The course over the epochs of fine-tuning: each epoch's map compared with the map before."""

    epochs: np.ndarray  # int [e], from 0 (before fine-tuning)
    values: np.ndarray  # float [e], the metric of this image; NaN if a map is empty
    low: np.ndarray  # float [e], the first quartile of all scored images of the cell
    median: np.ndarray  # float [e]
    high: np.ndarray  # float [e], the third quartile
    shown: np.ndarray  # int [k], the epochs whose maps are shown
    maps: np.ndarray  # float32 [k, h, w] in [0, 1], the maps of these epochs; NaN if empty


@dataclass(frozen=True)
class View:
    """All there is to show of one image; see `gather`."""

    choice: Mapping[str, str]  # by `explorer.AXES`
    layer: str
    grid: str  # of the raw maps, as "8x8"
    label: str  # the image's class
    explained: str  # the class whose evidence the maps show
    rank: int | None  # 1: the most drift; None: empty
    n_ranked: int
    image: np.ndarray  # uint8 [s, s], at most 128 pixels wide
    before: np.ndarray  # float32 [h, w] in [0, 1]; all NaN for an empty map
    after: np.ndarray
    q: float
    tops: tuple[np.ndarray, np.ndarray] | None  # bool [h, w]: the top-q areas; None if a map is empty
    overlap: float  # their intersection over union (`cxr.metrics.overlap`)
    masks: Mapping[str, np.ndarray]  # regions of this image, bool [H, W]; only those that it has
    values: pd.DataFrame  # one row per metric: see `gather`
    scores: pd.Series  # the chosen metric of all scored images, by image_id; NaN for empty ones
    of_label: pd.Series  # bool, the same index: whether the image is ranked
    located: pd.DataFrame  # one row per region: area, before, after, change, change_mean
    predictions: pd.DataFrame  # one row per class: class, before, after (probabilities)
    course: Course | None
    cautions: list[str]  # reasons to doubt the picture
    missing: Mapping[str, str]  # by part (course, masks, ...): what the runs do not hold, and what gives it


def gather(run: StoredRun, choice: Mapping[str, str], *, q: float = 0.20, grid: str = "image") -> View:
    """All there is to show of one image.

    Args:
        run: the score run. choice: a value for each of `explorer.AXES`; `image_id` is a scored image of the run.
        q: share of the area in `View.tops`.
        grid: "image": maps as they are scored, enlarged bilinearly to the image's size; "native": on the layer's
            own grid.

    `View.values` has a row per metric (index: `metric_table.METRICS`): label, identical (the value of identical
    maps), value (this image's), low, median, high (quartiles of the cell's scored images), drifts_more (the share
    of the other images that drift less), and for each of LEVELS the image's own `<level>` and the cell's median
    `<level>_median`. Variants have medians of the overlaps only, and no baselines.

    Raises: InputError: an artifact of the runs is missing.
    """
    image_id, variant, metric = (choice[name] for name in ("image_id", "variant", "metric"))
    attribute, method = run.params["attribute_run"], choice["method"]
    size = int(run.params["image_size"])
    table = runs.scores(run.run_id, variant)
    row = table.loc[image_id]
    folder = f"maps/{method}" if variant == "default" else f"variants/{method}/{variant}"
    pair = [runs.maps_of(attribute, folder, checkpoint) for checkpoint in ("before", "after")]
    shown = [map_set.shown(image_id, size, grid) for map_set in pair]
    empty = [not np.isfinite(values).all() for values in shown]
    tops = None if any(empty) else tuple(top_area(values, q) for values in shown)
    ranking = runs.order(run.run_id, variant, metric, choice["label"])
    ranked = int(table.loc[list(ranking), metric].notna().sum())
    cautions, missing = _cautions(run, variant, image_id, pair), _missing(run, variant)
    course = None
    if variant == "default" and "course.parquet" in runs.held(run.run_id):
        course = _course(run, metric, image_id, size=size, grid=grid)
    masks = {}
    if "regions.npz" in runs.held(attribute):
        place, stored = runs.regions_of(attribute)
        masks = {name: mask[place[image_id]] for name, mask in stored.items()}
    images, pixels = runs.thumbnails(attribute)
    map_set = pair[0].map_set
    return View(
        choice=dict(choice),
        layer=map_set.layer,
        grid="x".join(map(str, map_set.maps.shape[1:])),
        label=row["label"],
        explained=row["explained"],
        rank=None if pd.isna(row[metric]) else ranking[image_id] + 1,
        n_ranked=ranked,
        image=pixels[images[image_id]],
        before=shown[0],
        after=shown[1],
        q=q,
        tops=tops,
        overlap=float("nan") if tops is None else overlap(*map(Features, shown), q),
        masks={name: mask for name, mask in masks.items() if mask.any()},
        values=_values(run, variant, image_id, pair),
        scores=table[metric],
        of_label=(table["label"] == choice["label"]) | (choice["label"] == ""),
        located=_located(table, image_id),
        predictions=_predictions(run.params["train_run"], map_set.classes, image_id),
        course=course,
        cautions=cautions,
        missing=missing,
    )


def top_area(values: np.ndarray, q: float) -> np.ndarray:
    """The top-q area of a map [h, w] as bool [h, w], as the overlaps take it (`map_features.top_count`).

    Pixels that are tied for its last places are left out, as the map does not say which of them belong to it
    (`cxr.metrics.overlap`). Only if the maximum itself is tied so, all of these are in.
    """
    edge = np.sort(values, axis=None)[-map_features.top_count(q, values.size)]
    at_least, above = values >= edge, values > edge
    exact = np.count_nonzero(at_least) == map_features.top_count(q, values.size)
    return at_least if exact or not above.any() else above


def empty_in_words(raw: np.ndarray) -> str:
    """Why a raw map [h, w] counts as empty (`cxr.metrics.map_grids.is_empty`)."""
    if not np.isfinite(raw).all():
        return "it holds values that are not finite"
    if not raw.any():
        return "it is zero everywhere: nothing at this layer speaks for the class"
    if raw.min() == raw.max():
        return "it has one value everywhere"
    return "its range is less than a millionth of what is usual for these maps"


def variant_in_words(variant: str, layer: str) -> str:
    """A variant (`cxr.attribution.explaining.Explained`) and its layer, in words."""
    if variant == "default":
        return f"{layer} (as scored)"
    if variant.startswith("layer-"):
        return f"{layer} ({variant.removeprefix('layer-').replace('_', ' ')})"
    return f"{_VARIANTS.get(variant, variant)}: {layer}"


@lru_cache(maxsize=128)
def _cell(run_id: str, variant: str) -> pd.DataFrame:
    """The part of `View.values` that all images of a cell share; NaN for what the variant does not have."""
    table = runs.scores(run_id, variant)
    out = pd.DataFrame({"label": [m.label for m in METRICS.values()]}, index=pd.Index(METRICS, name="metric"))
    out["identical"] = [metric.identical for metric in METRICS.values()]
    quartiles = table.reindex(columns=list(METRICS)).astype(float).quantile([0.25, 0.5, 0.75])
    out["low"], out["median"], out["high"] = quartiles.to_numpy()
    for level in LEVELS:
        columns = [f"{name}_{level}" for name in METRICS]
        out[f"{level}_median"] = table.reindex(columns=columns).astype(float).median().to_numpy()
    return out


def _values(run: StoredRun, variant: str, image_id: str, pair: list[runs.StoredMaps]) -> pd.DataFrame:
    """`View.values`. Metrics of a variant that were not scored are computed here, from its maps, as in 3_score."""
    table, size = runs.scores(run.run_id, variant), int(run.params["image_size"])
    row = table.loc[image_id]
    if all(name in table for name in METRICS):
        own = {name: float(row[name]) for name in METRICS}
    elif any(map_set.empty[map_set.place[image_id]] for map_set in pair):
        own = dict.fromkeys(METRICS, float("nan"))
    else:
        own = similarity.score(*(Features(map_set.shown(image_id, size, "image")) for map_set in pair))
    out = _cell(run.run_id, variant).copy()
    out["value"] = pd.Series(own)
    out["drifts_more"] = [_drifts_more(table.get(name), own[name], name) for name in METRICS]
    for level in LEVELS:
        out[level] = [float(row.get(f"{name}_{level}", np.nan)) for name in METRICS]
    return out


def _drifts_more(values: pd.Series | None, own: float, metric: str) -> float:
    """The share of the other images that drift less; NaN if it is not known."""
    if values is None or not np.isfinite(own) or values.count() < 2:
        return float("nan")
    others = runs.drift_of(values, metric)  # with the image itself, which does not drift less than itself
    return float((others < runs.drift_of(pd.Series([own]), metric)[0]).sum() / (values.count() - 1))


def _located(table: pd.DataFrame, image_id: str) -> pd.DataFrame:
    """The share of the maps' energy in each region of the image, and the mean change over all images."""
    row = table.loc[image_id]
    names = [name for name in regions.regions_in(table.columns) if pd.notna(row[f"{name}_area"])]
    columns = {"area": "area", "before": "energy_before", "after": "energy_after", "change": "energy_change"}
    own = {part: [row[f"{name}_{column}"] for name in names] for part, column in columns.items()}
    means = [table[f"{name}_energy_change"].mean() for name in names]
    return pd.DataFrame({"region": names, **own, "change_mean": means})


def _predictions(train_run: str, classes: tuple[str, ...], image_id: str) -> pd.DataFrame:
    found = {"class": classes}
    for checkpoint in ("before", "after"):
        row = runs.table_of(train_run, f"predictions_{checkpoint}.parquet").loc[image_id]
        found[checkpoint] = [float(row[f"p_{k}"]) for k in range(len(classes))]
    return pd.DataFrame(found)


@lru_cache(maxsize=128)
def _quartiles(run_id: str, metric: str) -> pd.DataFrame:
    """Quartiles of a metric over all images, by epoch."""
    epochs = runs.table_of(run_id, "course.parquet").groupby("epoch")[metric]
    return epochs.quantile([0.25, 0.5, 0.75]).unstack()


def _course(run: StoredRun, metric: str, image_id: str, *, size: int, grid: str) -> Course:
    own = runs.table_of(run.run_id, "course.parquet").loc[[image_id]].set_index("epoch")[metric].sort_index()
    quartiles = _quartiles(run.run_id, metric).loc[own.index]
    start = METRICS[metric].identical
    epochs = np.concatenate([[0], own.index.to_numpy(int)])
    low, median, high = (np.concatenate([[start], quartiles[part].to_numpy(float)]) for part in (0.25, 0.5, 0.75))
    shown = epochs[np.unique(np.linspace(0, len(epochs) - 1, min(_EPOCHS, len(epochs))).round().astype(int))]
    folder = f"maps/{run.params['method']}"
    names = ["before" if epoch == 0 else f"epoch_{epoch:03d}" for epoch in shown]
    map_sets = [runs.maps_of(run.params["attribute_run"], folder, name) for name in names]
    return Course(
        epochs=epochs,
        values=np.concatenate([[start], own.to_numpy(float)]),
        low=low,
        median=median,
        high=high,
        shown=shown,
        maps=np.stack([map_set.shown(image_id, size, grid) for map_set in map_sets]),
    )


def _cautions(run: StoredRun, variant: str, image_id: str, pair: list[runs.StoredMaps]) -> list[str]:
    out = []
    flags = [map_set.empty[map_set.place[image_id]] for map_set in pair]
    for map_set, flag in zip(pair, flags, strict=True):
        if flag:
            checkpoint = map_set.map_set.checkpoint
            reason = empty_in_words(map_set.raw(image_id))
            out.append(f"The map {checkpoint} of this image is empty: {reason}.")
    if any(flags):
        table = runs.scores(run.run_id, variant)
        either = np.logical_or(*(map_set.empty[[map_set.place[key] for key in table.index]] for map_set in pair))
        out.append(
            "An image with an empty map has no metrics, is in no median, and comes last in the ranking. "
            f"Empty here: {int(either.sum())} of {len(table)} images."
        )
    tests = runs.map_checks(run.params["attribute_run"])
    if variant == "default":
        for row in tests[
            (tests["method"] == run.params["method"]) & ~tests["passes_checks"].astype(bool)
        ].itertuples():
            out.append(f"The maps {row.checkpoint} of this cell do not pass their checks: {row.reason}.")
    if run.params.get("methods_coincide") == "True" and run.params["method"] in ("layercam", "gradcampp"):
        out.append("At this layer, LayerCAM and Grad-CAM++ are the same map, up to a factor.")
    return out


def _missing(run: StoredRun, variant: str) -> dict[str, str]:
    """What the runs do not hold, and which parameter gives it (`View.missing`)."""
    own, beside, out = runs.held(run.run_id), runs.held(run.params["attribute_run"]), {}
    if "multiverse.parquet" not in own:
        out["variant"] = "Other layers: set `multiverse: true` in 2_attribute to keep their maps (of CAMs only)."
    if variant != "default":
        out["course"] = (
            "For maps at another layer, or by another definition, only the overlaps were scored. The course, the "
            "baselines, and the medians and ranks by other metrics exist only for the default maps."
        )
        return out
    if "course.parquet" not in own:
        out["course"] = (
            "Drift over epochs: set `checkpoint_every: 1` in 1_train to keep the checkpoints during fine-tuning. "
            "2_attribute explains them by CAMs (not by methods that need many passes per image)."
        )
    if "overlap_two_heads" not in runs.table_of(run.run_id, "drift.parquet"):
        out["two_heads"] = "Two heads: set `extra_heads: 2` in 1_train to train extra heads (for CAMs only)."
    if "regions.npz" not in beside:
        out["masks"] = "Outlines: no masks are known. Name them in a manifest, in `lesion_mask` and `lung_mask`."
    if "map_checks.csv" not in beside:
        out["map_checks"] = "Checks of maps: set `map_check_images: 100` in 2_attribute."
    return out
