"""One image of a study at a time: both maps, how far they lie apart, and where that stands among the others.

`Explorer` holds what is chosen, ranks the images by drift, and gathers with `view` all that there is to show of
one of them. It only reads what score, attribute and train runs hold: neither the images nor the networks are
needed, nor TensorFlow. `cxr.explore.page` has the picture and the widgets, `explore.ipynb` shows them.

Finished runs do not change: what is read of one is kept in memory, the last used of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.attribution import maps
from cxr.core.errors import InputError, some
from cxr.core.params import METHODS
from cxr.metrics import map_features, map_grids, regions, similarity
from cxr.metrics.map_features import Features
from cxr.metrics.metric_table import METRICS
from cxr.metrics.multiverse import QS
from cxr.report import comparison
from cxr.tracking import RunInfo

AXES = ("study", "architecture", "seed", "method", "variant", "metric", "label", "image_id")
"""What is chosen, in this order: what there is to choose from depends on the choices before it."""
LEVELS = ("two_patients", "two_heads", "chance")
"""The baselines that a score run has (`cxr.report.comparison.LEVELS`)."""
GRIDS = ("image", "native")
_EPOCHS = 7  # as many maps of checkpoints during fine-tuning are shown
# What a variant is beside the default (`cxr.attribution.cams.variants`).
_VARIANTS = {
    "score-softmax": "gradient of the softmax, not of the logit",
    "norm-positive": "normalised over positive gradients",
    "layers-fused": "several layers fused",
}


class NothingToShow(InputError):
    """There is no finished study; a notebook shows the message alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of the traceback, which would bury what to do."""
        return [f"Nothing to show: {self}"]


@dataclass(frozen=True)
class Course:
    """The course over the epochs of fine-tuning: the metric against the map before.

    `values` are this image's; `low`, `median` and `high` the quartiles of all scored images of the cell.
    """

    epochs: np.ndarray  # int [e], from 0 (before fine-tuning)
    values: np.ndarray  # float [e], NaN where the map is empty
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    shown: np.ndarray  # int [k], some of the epochs
    maps: np.ndarray  # float32 [k, h, w] in [0, 1], theirs; NaN for an empty one


@dataclass(frozen=True)
class View:
    """All there is to show of one image under the current choice."""

    choice: Mapping[str, str]  # by AXES
    layer: str
    grid: str  # of the raw maps, as "8x8"
    label: str  # the image's class
    explained: str  # the class whose evidence the maps show
    patient_id: str
    rank: int | None  # 1: the most drift; None: empty
    n_ranked: int
    image: np.ndarray  # uint8 [s, s], at most 128 pixels wide
    before: np.ndarray  # float32 [h, w] in [0, 1]; all NaN for an empty map
    after: np.ndarray
    q: float
    tops: tuple[np.ndarray, np.ndarray] | None  # bool [h, w]: the top-q areas; None where a map is empty
    overlap: float  # their intersection over union
    masks: Mapping[str, np.ndarray]  # regions of this image, bool [H, W]; only such as there are
    values: pd.DataFrame  # a row a metric: see `Explorer.view`
    scores: pd.Series  # the chosen metric of all scored images, by image_id; NaN for empty ones
    of_label: pd.Series  # bool, the same index: in the classes that are ranked
    located: pd.DataFrame  # a row a region: area, before, after, change, change_mean
    predictions: pd.DataFrame  # a row a class: class, before, after (probabilities)
    course: Course | None
    cautions: list[str]  # what a reader has to know before believing the picture
    missing: Mapping[str, str]  # by part (course, masks, ...): what the runs do not hold, and what gives it


class Explorer:
    """What is chosen, and the images in the order of their drift.

    `choice` maps each of AXES to a value; change it with `choose`, `step`, `go_to` and `find`.
    """

    def __init__(self, study: str = "", *, metric: str = "overlap") -> None:
        """`study`: its name (the MLflow experiment); empty: that with the newest score run.

        Raises:
            NothingToShow: the store holds no finished score run.
            InputError: there is no such study or metric.
        """
        self._studies = tracking.experiments_with("score")
        if not self._studies:
            raise NothingToShow(
                f"no finished study in {tracking.resolve()}: run `make study` first, or name the store that has "
                "one in MLFLOW_TRACKING_URI"
            )
        if study and study not in self._studies:
            raise InputError(
                f"name: no finished score run in the experiment '{study}': choose one of {some(self._studies)}, "
                "or leave it empty for the newest"
            )
        if metric not in METRICS:
            raise InputError(f"primary_metric: unknown metric '{metric}': known are {', '.join(METRICS)}")
        self._runs: dict[str, dict[tuple[str, ...], RunInfo]] = {}
        self.choice: dict[str, str] = {}
        self.choose(study=study or self._studies[0], metric=metric)

    # ------------------------------------------------------------------------------------------ choosing

    def choose(self, **wanted: str) -> None:
        """Choose values of AXES. The others stay as they are where that is possible, or else become the first
        of their options; so the same image stays in view under another architecture or method.

        Raises InputError for an axis or value that there is not; the choice is then as it was.
        """
        unknown = set(wanted) - set(AXES)
        if unknown:
            raise InputError(f"cannot choose {some(sorted(unknown))}: known are {', '.join(AXES)}")
        choice: dict[str, str] = {}
        for axis in AXES:
            options = self._options(axis, choice)
            if axis in wanted and wanted[axis] not in options:
                raise InputError(f"{axis}: '{wanted[axis]}' is not among {some(options)}")
            value = wanted.get(axis, self.choice.get(axis))
            choice[axis] = value if value in options else next(iter(options))
        self.choice = choice

    def options(self, axis: str) -> list[str]:
        """What `axis` can be, given the choices before it; images from the most drift to the least."""
        return list(self._options(axis, self.choice))

    def _options(self, axis: str, choice: Mapping[str, str]) -> Mapping[str, int] | list[str]:
        if axis == "study":
            return self._studies
        cells = self._cells(choice["study"])
        if axis in ("architecture", "seed", "method"):
            place = ("architecture", "seed", "method").index(axis)
            before = tuple(choice[name] for name in ("architecture", "seed", "method")[:place])
            found = dict.fromkeys(key[place] for key in cells if key[:place] == before)
            return list(found)
        run = self._run(choice)
        if axis == "variant":
            return ["default", *_variants(run)]
        table = _scores(run, choice["variant"])
        if axis == "metric":
            return [name for name in METRICS if name in table]
        if axis == "label":
            return ["", *sorted(set(table["label"]))]
        return _order(run.run_id, choice["variant"], choice["metric"], choice["label"])

    def _cells(self, study: str) -> dict[tuple[str, ...], RunInfo]:
        """Score runs of a study by architecture, seed and method."""
        if study not in self._runs:
            found = {run.run_id: run for run in tracking.find("score", experiment=study)}
            runs = [found[key] for key in comparison.latest_cells(list(found.values()))]
            cells = {tuple(run.params[name] for name in ("architecture", "seed", "method")): run for run in runs}
            self._runs[study] = dict(sorted(cells.items(), key=_cell_order))
        return self._runs[study]

    def _run(self, choice: Mapping[str, str]) -> RunInfo:
        cells = self._cells(choice["study"])
        return cells[choice["architecture"], choice["seed"], choice["method"]]

    @property
    def run(self) -> RunInfo:
        """The score run that is shown."""
        return self._run(self.choice)

    # --------------------------------------------------------------------------------------------- ranking

    @property
    def order(self) -> list[str]:
        """Images from the most drift to the least, by the chosen metric and within the chosen class.

        Where neither direction of the metric means stability the size of the change counts. Of equal values the
        lower id comes first. Images with an empty map have no rank and come last.
        """
        return self.options("image_id")

    @property
    def place(self) -> int:
        """Of the image in `order`, from 1."""
        return self._options("image_id", self.choice)[self.choice["image_id"]] + 1

    def step(self, by: int) -> None:
        """Go `by` places towards less drift (1: the next-most-drifted image) or, negative, towards more; at the
        ends it stays."""
        self.go_to(min(max(self.place + by, 1), len(self.order)))

    def go_to(self, place: int) -> None:
        """Show the image at a place of `order`, from 1."""
        order = self.order
        if not 1 <= place <= len(order):
            raise InputError(f"place {place}: there are places 1 to {len(order)}")
        self.choose(image_id=order[place - 1])

    def find(self, text: str) -> None:
        """Show the image with this id, or the most drifted of those whose id has `text` in it, in any class.

        Raises InputError where there is none.
        """
        every = _order(self.run.run_id, self.choice["variant"], self.choice["metric"], "")
        text = text.strip()
        found = text if text in every else next((key for key in every if text and text in key), None)
        if found is None:
            scored = "those that both checkpoints classify correctly"
            scored = scored if self.run.params["images"] == "correct" else "all of the split"
            raise InputError(
                f"no scored image has '{text}' in its id: scored are {scored}, such as {next(iter(every))}"
            )
        here = found in self._options("image_id", self.choice)
        self.choose(image_id=found, **({} if here else {"label": ""}))

    def ranking(self) -> pd.DataFrame:
        """`order` as a table: place, image_id, label, patient_id, and the metrics that are known."""
        table = _scores(self.run, self.choice["variant"]).loc[self.order].reset_index()
        table.insert(0, "place", range(1, len(table) + 1))
        names = [name for name in METRICS if name in table]
        return table[["place", "image_id", "label", "patient_id", *names]]

    # ------------------------------------------------------------------------------------------- showing

    def view(self, *, q: float = 0.20, grid: str = "image") -> View:
        """All there is to show of the chosen image.

        Args:
            q: share of the area in `View.tops`.
            grid: "image": maps as they are scored, enlarged bilinearly to the image's size; "native": on the
                layer's own grid.

        `View.values` has a row a metric (index: `metric_table.METRICS`): label, identical (the value of identical
        maps), value (this image's), low, median, high (quartiles of the cell's scored images), drifts_more (the
        share of the other images that drift less), and for each of LEVELS the image's own `<level>` and the
        cell's median `<level>_median`. Variants have medians for the overlaps only, and no baselines.
        """
        if grid not in GRIDS:
            raise InputError(f"grid: '{grid}' is none of {', '.join(GRIDS)}")
        choice, run = dict(self.choice), self.run
        image_id, variant, metric = (choice[name] for name in ("image_id", "variant", "metric"))
        attribute, method = run.params["attribute_run"], choice["method"]
        size = int(run.params["image_size"])
        table = _scores(run, variant)
        row = table.loc[image_id]
        folder = f"maps/{method}" if variant == "default" else f"variants/{method}/{variant}"
        pair = [_map_set(attribute, folder, checkpoint) for checkpoint in ("before", "after")]
        shown = [map_set.shown(image_id, size, grid) for map_set in pair]
        empty = [not np.isfinite(values).all() for values in shown]
        tops = None if any(empty) else tuple(top_area(values, q) for values in shown)
        order = self._options("image_id", choice)
        ranked = int(table.loc[list(order), metric].notna().sum())
        cautions, missing = _cautions(run, variant, image_id, pair), _missing(run, variant)
        course = None
        if variant == "default" and "course.parquet" in _held(run.run_id):
            course = _course(run, metric, image_id, size=size, grid=grid)
        masks = {}
        if "regions.npz" in _held(attribute):
            place, stored = _regions(attribute)
            masks = {name: mask[place[image_id]] for name, mask in stored.items()}
        images, pixels = _thumbnails(attribute)
        map_set = pair[0].map_set
        return View(
            choice=choice,
            layer=map_set.layer,
            grid="x".join(map(str, map_set.maps.shape[1:])),
            label=row["label"],
            explained=row["explained"],
            patient_id=row["patient_id"],
            rank=None if pd.isna(row[metric]) else order[image_id] + 1,
            n_ranked=ranked,
            image=pixels[images[image_id]],
            before=shown[0],
            after=shown[1],
            q=q,
            tops=tops,
            overlap=float("nan") if tops is None else float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum()),
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


def _cell_order(item: tuple[tuple[str, ...], RunInfo]) -> tuple[str, int, int]:
    """Seeds by number, methods as the parameters list them."""
    architecture, seed, method = item[0]
    return architecture, int(seed), METHODS.index(method)


def by_drift(table: pd.DataFrame, metric: str) -> pd.Index:
    """The index of `table`, image ids, in the order of `Explorer.order` by its column `metric`."""
    ranked = pd.DataFrame({"image_id": table.index, "drift": drift_of(table[metric], metric).to_numpy(float)})
    ranked = ranked.sort_values(["drift", "image_id"], ascending=[False, True], na_position="last")
    return pd.Index(ranked["image_id"])


def drift_of(values: pd.Series, metric: str) -> pd.Series:
    """How much drift values of a metric mean: larger for more, NaN where there is none."""
    higher = METRICS[metric].higher_is_more_stable
    return values.abs() if higher is None else -values if higher else values


def top_area(values: np.ndarray, q: float) -> np.ndarray:
    """The top-q area of a map [h, w] as bool [h, w], exactly as `overlap` and `overlap_q05` to `overlap_q30` take
    it (`similarity`)."""
    top = np.zeros(values.size, bool)
    top[Features(values).order[: map_features.top_count(q, values.size)]] = True
    return top.reshape(values.shape)


def empty_in_words(raw: np.ndarray) -> str:
    """Why a raw map [h, w] that is flagged (`cxr.metrics.map_grids.is_empty`) says nothing."""
    if not np.isfinite(raw).all():
        return "it holds values that are not finite"
    if not raw.any():
        return "it is zero everywhere: at this layer nothing speaks for the class"
    if raw.min() == raw.max():
        return "it has one value everywhere"
    return "its range is under a millionth of what is usual for these maps"


def variant_in_words(variant: str, layer: str) -> str:
    """A variant (`cxr.attribution.cams.variants`) at a real layer as a reader would name it."""
    if variant == "default":
        return f"{layer} (as scored)"
    if variant.startswith("layer-"):
        return f"{layer} ({variant.removeprefix('layer-').replace('_', ' ')})"
    return f"{_VARIANTS.get(variant, variant)}: {layer}"


def layers(run: RunInfo) -> dict[str, str]:
    """The real layer behind each variant that a score run offers, `default` first."""
    return {"default": run.params["layer"], **_variants(run)}


# ---------------------------------------------------------------------------------------- what runs hold
# Cached by run id and name. Tables of a cell are small; masks, images and sets of a large study are not: few are
# kept.


@dataclass(frozen=True)
class _MapSet:
    """A set of maps, with what takes time to find out of all of it."""

    map_set: maps.MapSet
    place: dict[str, int]
    empty: np.ndarray  # bool [n]

    def raw(self, image_id: str) -> np.ndarray:
        return self.map_set.maps[self.place[image_id]]

    def shown(self, image_id: str, size: int, grid: str) -> np.ndarray:
        """float32 [h, w] in [0, 1] on that grid; all NaN for an empty map."""
        raw = self.raw(image_id)[None]
        values = map_grids.prepare(raw, size) if grid == "image" else map_grids.normalise(raw)
        return np.full_like(values[0], np.nan) if self.empty[self.place[image_id]] else values[0]


@lru_cache(maxsize=256)
def _held(run_id: str) -> frozenset[str]:
    return frozenset(tracking.artifact_names(run_id))


@lru_cache(maxsize=128)
def _table(run_id: str, name: str) -> pd.DataFrame:
    return tracking.read_table(run_id, name).set_index("image_id")


@lru_cache(maxsize=64)
def _folder(run_id: str, name: str) -> Path:
    """The maps of all stages at once: asking for each by itself takes longer than reading it."""
    return tracking.fetch(run_id, name)


@lru_cache(maxsize=64)
def _map_set(run_id: str, folder: str, checkpoint: str) -> _MapSet:
    path = _folder(run_id, folder) / f"{checkpoint}.npz"
    if not path.is_file():
        raise InputError(f"run {run_id} has no artifact '{folder}/{checkpoint}.npz': run 2_attribute again")
    map_set = maps.load(path)
    return _MapSet(map_set, _places(map_set.image_id), map_grids.is_empty(map_set.maps))


@lru_cache(maxsize=2)
def _thumbnails(run_id: str) -> tuple[dict[str, int], np.ndarray]:
    with np.load(tracking.fetch(run_id, "thumbnails.npz"), allow_pickle=False) as file:
        return _places(file["image_id"]), file["images"]


@lru_cache(maxsize=2)
def _regions(run_id: str) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    ids, masks = regions.load(tracking.fetch(run_id, "regions.npz"))
    return _places(ids), masks


@lru_cache(maxsize=64)
def _map_checks(run_id: str) -> pd.DataFrame:
    if "map_checks.csv" not in _held(run_id):
        return pd.DataFrame(columns=["checkpoint", "method", "passes_checks", "reason"])
    return tracking.read_table(run_id, "map_checks.csv")


@lru_cache(maxsize=64)
def _multiverse(run_id: str) -> pd.DataFrame:
    """The overlaps of each variant that has maps of its own, by (variant, image_id)."""
    table = tracking.read_table(run_id, "multiverse.parquet")
    table = table[table["variant"] == table["maps_of"]]
    table = table.rename(columns={f"{name}@image": name for name in QS.values()})
    return table.set_index(["variant", "image_id"])[["layer", "empty", *QS.values()]]


def _variants(run: RunInfo) -> dict[str, str]:
    """Variants with maps of their own, beside the default, and the real layer of each."""
    if "multiverse.parquet" not in _held(run.run_id):
        return {}
    layer = _multiverse(run.run_id)["layer"].groupby(level="variant", sort=False).first()
    return {variant: layer[variant] for variant in layer.index if variant != "default"}


def _scores(run: RunInfo, variant: str) -> pd.DataFrame:
    """The scored images by id: label, patient_id, explained, and the metrics that the run has of this variant."""
    return _scores_of(run.run_id, variant)


@lru_cache(maxsize=128)
def _scores_of(run_id: str, variant: str) -> pd.DataFrame:
    table = _table(run_id, "drift.parquet")
    if variant == "default":
        return table
    own = _multiverse(run_id).loc[variant].reindex(table.index)
    return table[["label", "patient_id", "explained"]].join(own)


@lru_cache(maxsize=128)
def _order(run_id: str, variant: str, metric: str, label: str) -> dict[str, int]:
    """See `Explorer.order`: image ids and their places, from 0."""
    table = _scores_of(run_id, variant)
    return _places(by_drift(table if not label else table[table["label"] == label], metric))


def _places(ids: np.ndarray | pd.Index) -> dict[str, int]:
    return {key: number for number, key in enumerate(ids.tolist())}


# -------------------------------------------------------------------------------------------- parts of a view


@lru_cache(maxsize=128)
def _cell(run_id: str, variant: str) -> pd.DataFrame:
    """What `Explorer.view` says of a cell: a row a metric, NaN for what is not known of the variant."""
    table = _scores_of(run_id, variant)
    out = pd.DataFrame({"label": [m.label for m in METRICS.values()]}, index=pd.Index(METRICS, name="metric"))
    out["identical"] = [metric.identical for metric in METRICS.values()]
    quartiles = table.reindex(columns=list(METRICS)).astype(float).quantile([0.25, 0.5, 0.75])
    out["low"], out["median"], out["high"] = quartiles.to_numpy()
    for level in LEVELS:
        columns = [f"{name}_{level}" for name in METRICS]
        out[f"{level}_median"] = table.reindex(columns=columns).astype(float).median().to_numpy()
    return out


def _values(run: RunInfo, variant: str, image_id: str, pair: list[_MapSet]) -> pd.DataFrame:
    """See `Explorer.view`. What was not scored of a variant is computed here, from its maps as in 3_score."""
    table, size = _scores(run, variant), int(run.params["image_size"])
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
    """The share of the other images that drift less; NaN where it is not known."""
    if values is None or not np.isfinite(own) or values.count() < 2:
        return float("nan")
    others = drift_of(values, metric)  # the image itself, among them, does not drift less than itself
    return float((others < drift_of(pd.Series([own]), metric)[0]).sum() / (values.count() - 1))


def _located(table: pd.DataFrame, image_id: str) -> pd.DataFrame:
    """The share of the maps' energy in each region that this image has, and its mean change over the cell."""
    row = table.loc[image_id]
    found = [name for name in regions.regions_in(table.columns) if pd.notna(row[f"{name}_area"])]
    return pd.DataFrame(
        [
            {
                "region": name,
                "area": row[f"{name}_area"],
                "before": row[f"{name}_energy_before"],
                "after": row[f"{name}_energy_after"],
                "change": row[f"{name}_energy_change"],
                "change_mean": table[f"{name}_energy_change"].mean(),
            }
            for name in found
        ],
        columns=["region", "area", "before", "after", "change", "change_mean"],
    )


def _predictions(train_run: str, classes: tuple[str, ...], image_id: str) -> pd.DataFrame:
    checkpoints = ("before", "after")
    rows = {
        checkpoint: _table(train_run, f"predictions_{checkpoint}.parquet").loc[image_id]
        for checkpoint in checkpoints
    }
    found = {checkpoint: [float(row[f"p_{k}"]) for k in range(len(classes))] for checkpoint, row in rows.items()}
    return pd.DataFrame({"class": classes, **found})


@lru_cache(maxsize=128)
def _quartiles(run_id: str, metric: str) -> pd.DataFrame:
    """Quartiles of a metric over all images, by epoch."""
    epochs = _table(run_id, "course.parquet").groupby("epoch")[metric]
    return epochs.quantile([0.25, 0.5, 0.75]).unstack()


def _course(run: RunInfo, metric: str, image_id: str, *, size: int, grid: str) -> Course:
    own = _table(run.run_id, "course.parquet").loc[[image_id]].set_index("epoch")[metric].sort_index()
    quartiles = _quartiles(run.run_id, metric).loc[own.index]
    start = METRICS[metric].identical
    epochs = np.concatenate([[0], own.index.to_numpy(int)])
    low, median, high = (np.concatenate([[start], quartiles[part].to_numpy(float)]) for part in (0.25, 0.5, 0.75))
    shown = epochs[np.unique(np.linspace(0, len(epochs) - 1, min(_EPOCHS, len(epochs))).round().astype(int))]
    folder = f"maps/{run.params['method']}"
    names = ["before" if epoch == 0 else f"epoch_{epoch:03d}" for epoch in shown]
    map_sets = [_map_set(run.params["attribute_run"], folder, name) for name in names]
    return Course(
        epochs=epochs,
        values=np.concatenate([[start], own.to_numpy(float)]),
        low=low,
        median=median,
        high=high,
        shown=shown,
        maps=np.stack([map_set.shown(image_id, size, grid) for map_set in map_sets]),
    )


def _cautions(run: RunInfo, variant: str, image_id: str, pair: list[_MapSet]) -> list[str]:
    out = []
    flags = [map_set.empty[map_set.place[image_id]] for map_set in pair]
    for map_set, flag in zip(pair, flags, strict=True):
        if flag:
            checkpoint = map_set.map_set.checkpoint
            reason = empty_in_words(map_set.raw(image_id))
            out.append(f"The map {checkpoint} of this image is empty: {reason}.")
    if any(flags):
        table = _scores(run, variant)
        either = np.logical_or(*(map_set.empty[[map_set.place[key] for key in table.index]] for map_set in pair))
        out.append(
            "An image with an empty map has no metrics, enters no median, and comes last in the ranking; here "
            f"they are {int(either.sum())} of {len(table)}."
        )
    tests = _map_checks(run.params["attribute_run"])
    if variant == "default":
        for row in tests[
            (tests["method"] == run.params["method"]) & ~tests["passes_checks"].astype(bool)
        ].itertuples():
            out.append(f"The maps {row.checkpoint} of this cell do not pass their checks: {row.reason}.")
    if run.params.get("methods_coincide") == "True" and run.params["method"] in ("layercam", "gradcampp"):
        out.append("At this layer LayerCAM and Grad-CAM++ are the same map up to a factor.")
    return out


def _missing(run: RunInfo, variant: str) -> dict[str, str]:
    """What the runs do not hold, and which parameter gives it; see `View.missing`."""
    held, beside, out = _held(run.run_id), _held(run.params["attribute_run"]), {}
    if "multiverse.parquet" not in held:
        out["variant"] = "Other layers: `multiverse: true` in 2_attribute keeps their maps (of CAMs only)."
    if variant != "default":
        out["course"] = (
            "Of maps at another layer, or by another definition, only the overlaps were scored for all images: "
            "the course, baselines, and medians and ranks by other metrics are of the default's maps."
        )
        return out
    if "course.parquet" not in held:
        out["course"] = (
            "Drift over epochs: `checkpoint_every: 1` in 1_train keeps the checkpoints of fine-tuning, which "
            "2_attribute explains by CAMs (not by methods that take many passes an image)."
        )
    if "overlap_two_heads" not in _table(run.run_id, "drift.parquet"):
        out["two_heads"] = "Two heads: `extra_heads: 2` in 1_train trains extra heads (for CAMs only)."
    if "regions.npz" not in beside:
        out["masks"] = "Outlines: no masks are known; a manifest names them in `lesion_mask` and `lung_mask`."
    if "map_checks.csv" not in beside:
        out["map_checks"] = "Checks of maps: `map_check_images: 40` in 2_attribute."
    return out
