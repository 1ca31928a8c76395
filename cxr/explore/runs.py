"""What the score, attribute and train runs of a study hold: tables, maps, images, masks.

A finished run does not change, so what is read of it is kept in memory. Each kind has a limit: tables are small,
but masks, images and maps of a large study are not, so only a few of these are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.data import multi_label
from cxr.metrics import map_grids, regions
from cxr.metrics.metric_table import METRICS
from cxr.metrics.multiverse import QS
from cxr.tracking import StoredRun


def by_drift(table: pd.DataFrame, metric: str) -> pd.Index:
    """The image ids in the index of `table`, in the order of `Explorer.order` by the column `metric`."""
    ranked = pd.DataFrame({"image_id": table.index, "drift": drift_of(table[metric], metric).to_numpy(float)})
    ranked = ranked.sort_values(["drift", "image_id"], ascending=[False, True], na_position="last")
    return pd.Index(ranked["image_id"])


def drift_of(values: pd.Series, metric: str) -> pd.Series:
    """Values of a metric turned so that a larger value means more drift; NaN stays NaN."""
    higher = METRICS[metric].higher_is_more_stable
    return values.abs() if higher is None else -values if higher else values


def layers(run: StoredRun) -> dict[str, str]:
    """The name of the layer of each variant that a score run has maps of, `default` first."""
    return {"default": run.params["layer"], **variants(run)}


@dataclass(frozen=True)
class StoredMaps:
    """The maps of one checkpoint, with what takes time to compute for all of them."""

    map_set: maps.MapSet
    place: dict[str, int]  # row by image id
    empty: np.ndarray  # bool [n]

    def raw(self, image_id: str) -> np.ndarray:
        """The map as it was computed, float32 [h, w]."""
        return self.map_set.maps[self.place[image_id]]

    def shown(self, image_id: str, size: int, grid: str) -> np.ndarray:
        """The map from 0 to 1, float32: [size, size] for `grid` "image", [h, w] for "native". All NaN if empty."""
        raw = self.raw(image_id)[None]
        values = map_grids.prepare(raw, size) if grid == "image" else map_grids.normalise(raw)
        return np.full_like(values[0], np.nan) if self.empty[self.place[image_id]] else values[0]


@lru_cache(maxsize=256)
def held(run_id: str) -> frozenset[str]:
    """The names of a run's artifacts."""
    return frozenset(tracking.stored(run_id).artifacts())


@lru_cache(maxsize=128)
def table_of(run_id: str, name: str) -> pd.DataFrame:
    """A table of a run, by image_id; predictions by finding where an image can have several."""
    return multi_label.by_finding(tracking.stored(run_id).table(name)).set_index("image_id")


@lru_cache(maxsize=64)
def _folder(run_id: str, name: str) -> Path:
    """A folder of maps. All its files are fetched at once, as each request takes longer than reading a file."""
    return tracking.stored(run_id).file(name)


@lru_cache(maxsize=64)
def maps_of(run_id: str, folder: str, checkpoint: str) -> StoredMaps:
    """The maps of a checkpoint ("before", "after", "epoch_001", ...). Raises InputError if there are none."""
    path = _folder(run_id, folder) / f"{checkpoint}.npz"
    if not path.is_file():
        raise InputError(f"run {run_id} has no artifact '{folder}/{checkpoint}.npz': run 2_attribute again")
    map_set = maps.load(path)
    return StoredMaps(map_set, places(map_set.image_id), map_grids.is_empty(map_set.maps))


@lru_cache(maxsize=2)
def thumbnails(run_id: str) -> tuple[dict[str, int], np.ndarray]:
    """Rows by image id, and the small images, uint8 [n, side, side], of an attribute run."""
    with np.load(tracking.stored(run_id).file("thumbnails.npz"), allow_pickle=False) as file:
        return places(file["image_id"]), file["images"]


@lru_cache(maxsize=2)
def regions_of(run_id: str) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Rows by image id, and masks bool [n, h, w] by region (lesion, lung, ...), of an attribute run."""
    ids, masks = regions.load(tracking.stored(run_id).file("regions.npz"))
    return places(ids), masks


@lru_cache(maxsize=64)
def map_checks(run_id: str) -> pd.DataFrame:
    """Whether the maps of an attribute run pass their checks: a row per checkpoint and method; none if unknown."""
    if "map_checks.csv" not in held(run_id):
        return pd.DataFrame(columns=["checkpoint", "method", "passes_checks", "reason"])
    return tracking.stored(run_id).table("map_checks.csv")


@lru_cache(maxsize=64)
def multiverse_of(run_id: str) -> pd.DataFrame:
    """The overlaps of each variant that has maps of its own, by (variant, image_id)."""
    table = tracking.stored(run_id).table("multiverse.parquet")
    table = table[table["variant"] == table["maps_of"]]
    table = table.rename(columns={f"{name}@image": name for name in QS.values()})
    return table.set_index(["variant", "image_id"])[["layer", "empty", *QS.values()]]


def variants(run: StoredRun) -> dict[str, str]:
    """Variants, other than the default, that have maps of their own, and the layer of each."""
    if "multiverse.parquet" not in held(run.run_id):
        return {}
    layer = multiverse_of(run.run_id)["layer"].groupby(level="variant", sort=False).first()
    return {variant: layer[variant] for variant in layer.index if variant != "default"}


@lru_cache(maxsize=128)
def scores(run_id: str, variant: str) -> pd.DataFrame:
    """The scored images by id: label, patient_id, explained, and the metrics that the run has of this variant."""
    table = table_of(run_id, "drift.parquet")
    if variant == "default":
        return table
    own = multiverse_of(run_id).loc[variant].reindex(table.index)
    return table[["label", "patient_id", "explained"]].join(own)


@lru_cache(maxsize=128)
def order(run_id: str, variant: str, metric: str, label: str) -> dict[str, int]:
    """Image ids and their places, from 0, in the order of `Explorer.order`; of one class, or of all for ""."""
    table = scores(run_id, variant)
    return places(by_drift(table if not label else table[table["label"] == label], metric))


def places(ids: np.ndarray | pd.Index) -> dict[str, int]:
    """The place of each id, from 0."""
    return {key: number for number, key in enumerate(ids.tolist())}
