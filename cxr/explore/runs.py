"""What score, attribute and train runs hold of a study's images.

Finished runs do not change: what is read of one is kept in memory, up to a number of entries. Tables of a cell are
small; masks, images and map sets of a large study are not, so that few of these are kept.
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
from cxr.metrics import map_grids, regions
from cxr.metrics.metric_table import METRICS
from cxr.metrics.multiverse import QS
from cxr.tracking import RunInfo


def by_drift(table: pd.DataFrame, metric: str) -> pd.Index:
    """The index of `table`, image ids, in the order of `Explorer.order` by its column `metric`."""
    ranked = pd.DataFrame({"image_id": table.index, "drift": drift_of(table[metric], metric).to_numpy(float)})
    ranked = ranked.sort_values(["drift", "image_id"], ascending=[False, True], na_position="last")
    return pd.Index(ranked["image_id"])


def drift_of(values: pd.Series, metric: str) -> pd.Series:
    """How much drift values of a metric mean: larger for more, NaN where there is none."""
    higher = METRICS[metric].higher_is_more_stable
    return values.abs() if higher is None else -values if higher else values


def layers(run: RunInfo) -> dict[str, str]:
    """The real layer behind each variant that a score run offers, `default` first."""
    return {"default": run.params["layer"], **variants(run)}


@dataclass(frozen=True)
class StoredMaps:
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
def held(run_id: str) -> frozenset[str]:
    return frozenset(tracking.artifact_names(run_id))


@lru_cache(maxsize=128)
def table_of(run_id: str, name: str) -> pd.DataFrame:
    return tracking.read_table(run_id, name).set_index("image_id")


@lru_cache(maxsize=64)
def _folder(run_id: str, name: str) -> Path:
    """The maps of all stages at once: asking for each by itself takes longer than reading it."""
    return tracking.fetch(run_id, name)


@lru_cache(maxsize=64)
def maps_of(run_id: str, folder: str, checkpoint: str) -> StoredMaps:
    path = _folder(run_id, folder) / f"{checkpoint}.npz"
    if not path.is_file():
        raise InputError(f"run {run_id} has no artifact '{folder}/{checkpoint}.npz': run 2_attribute again")
    map_set = maps.load(path)
    return StoredMaps(map_set, places(map_set.image_id), map_grids.is_empty(map_set.maps))


@lru_cache(maxsize=2)
def thumbnails(run_id: str) -> tuple[dict[str, int], np.ndarray]:
    with np.load(tracking.fetch(run_id, "thumbnails.npz"), allow_pickle=False) as file:
        return places(file["image_id"]), file["images"]


@lru_cache(maxsize=2)
def regions_of(run_id: str) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    ids, masks = regions.load(tracking.fetch(run_id, "regions.npz"))
    return places(ids), masks


@lru_cache(maxsize=64)
def map_checks(run_id: str) -> pd.DataFrame:
    if "map_checks.csv" not in held(run_id):
        return pd.DataFrame(columns=["checkpoint", "method", "passes_checks", "reason"])
    return tracking.read_table(run_id, "map_checks.csv")


@lru_cache(maxsize=64)
def multiverse_of(run_id: str) -> pd.DataFrame:
    """The overlaps of each variant that has maps of its own, by (variant, image_id)."""
    table = tracking.read_table(run_id, "multiverse.parquet")
    table = table[table["variant"] == table["maps_of"]]
    table = table.rename(columns={f"{name}@image": name for name in QS.values()})
    return table.set_index(["variant", "image_id"])[["layer", "empty", *QS.values()]]


def variants(run: RunInfo) -> dict[str, str]:
    """Variants with maps of their own, beside the default, and the real layer of each."""
    if "multiverse.parquet" not in held(run.run_id):
        return {}
    layer = multiverse_of(run.run_id)["layer"].groupby(level="variant", sort=False).first()
    return {variant: layer[variant] for variant in layer.index if variant != "default"}


@lru_cache(maxsize=128)
def scores(run_id: str, variant: str) -> pd.DataFrame:
    table = table_of(run_id, "drift.parquet")
    if variant == "default":
        return table
    own = multiverse_of(run_id).loc[variant].reindex(table.index)
    return table[["label", "patient_id", "explained"]].join(own)


@lru_cache(maxsize=128)
def order(run_id: str, variant: str, metric: str, label: str) -> dict[str, int]:
    """See `Explorer.order`: image ids and their places, from 0."""
    table = scores(run_id, variant)
    return places(by_drift(table if not label else table[table["label"] == label], metric))


def places(ids: np.ndarray | pd.Index) -> dict[str, int]:
    return {key: number for number, key in enumerate(ids.tolist())}
