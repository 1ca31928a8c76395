"""Maps and images as artifacts of a run: what scoring, reports and the explorer read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pandas as pd

from cxr.attribution import thumbnails
from cxr.attribution.cases import Cases
from cxr.attribution.explaining import Explained, Variant
from cxr.attribution.maps import MapSet
from cxr.core.methods import cams
from cxr.metrics import map_grids, regions
from cxr.models import targets

if TYPE_CHECKING:
    from cxr.tracking import Run


class Keeper:
    """Logs sets of maps of `cases` to `run`.

    Args:
        run: the run of the notebook.
        cases: the images; maps have one row for each.
        layer: the name of the target layer.
        sha256: name of a checkpoint -> the hash of its file (`Checkpoints.sha256`).
    """

    def __init__(self, run: Run, cases: Cases, *, layer: str, sha256: Callable[[str], str]) -> None:
        self._run, self._cases, self._layer, self._sha256 = run, cases, layer, sha256

    def keep(self, checkpoint: str, maps: Mapping[str, np.ndarray]) -> dict[str, MapSet]:
        """Log maps float32 [n, h, w] by method as `maps/<method>/<checkpoint>.npz`, and return them as sets.

        Args: checkpoint: `before`, `after`, `head_1`, `epoch_002`, ...
        """
        return {
            method: self._log(checkpoint, f"maps/{method}", method, self._layer, values)
            for method, values in maps.items()
        }

    def keep_variants(self, checkpoint: str, variants: Mapping[tuple[str, str], Variant]) -> None:
        """Log variants by (method, name) as `variants/<method>/<name>/<checkpoint>.npz`."""
        for (method, name), variant in variants.items():
            self._log(checkpoint, f"variants/{method}/{name}", method, variant.layer, variant.maps)

    def log_layers(self, model: keras.Model, found: Explained) -> None:
        """Log `variants.json`: the methods that have variants, and the layer of each variant.

        The layers are those of all target layers that the model has, of `default`, and of the variants. Prints why
        a variant is missing. Does nothing if there are no variants.
        """
        if not found.variants:
            return
        layers = {f"layer-{name}": layer for name, layer in targets.target_layers(model).items()}
        layers["default"] = self._layer
        layers |= {name: variant.layer for (_, name), variant in found.variants.items()}
        self._run.json({"methods": cams(found.maps), "layers": layers}, "variants.json")
        for name, why in found.missing.items():
            print(f"no maps of their own for {name}: {why}")

    def _log(self, checkpoint: str, folder: str, method: str, layer: str, values: np.ndarray) -> MapSet:
        map_set = MapSet(
            image_id=self._cases.image_id,
            class_index=self._cases.class_index,
            maps=values,
            checkpoint=checkpoint,
            method=method,
            layer=layer,
            classes=tuple(self._cases.classes),
            checkpoint_sha256=self._sha256(checkpoint),
        )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{checkpoint}.npz"
            map_set.save(path)
            self._run.file(path, folder)
        return map_set


def log_images(run: Run, cases: Cases) -> None:
    """Log small copies of the images as `thumbnails.npz`, and masks, where they are known, as `regions.npz`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "thumbnails.npz"
        thumbnails.save_thumbnails(path, cases.image_id, thumbnails.shrink(cases.pixels))
        run.file(path)
        if cases.regions:
            path = Path(scratch) / "regions.npz"
            regions.save(path, cases.image_id, cases.regions)
            run.file(path)


def count_empty(map_sets: Mapping[str, Mapping[str, MapSet]]) -> pd.DataFrame:
    """How many maps are empty (`map_grids.is_empty`): columns method, checkpoint, maps, empty.

    Args: map_sets: by checkpoint and method.
    """
    rows = [
        {"method": method, "checkpoint": checkpoint, "maps": len(found.maps), "empty": _n_empty(found)}
        for checkpoint, by_method in map_sets.items()
        for method, found in by_method.items()
    ]
    return pd.DataFrame(rows)


def empty_metrics(counts: pd.DataFrame) -> dict[str, int]:
    """The counts of `count_empty` as metrics of a run: `n_empty_<method>_<checkpoint>`."""
    return {f"n_empty_{row.method}_{row.checkpoint}": row.empty for row in counts.itertuples()}


def _n_empty(found: MapSet) -> int:
    return int(map_grids.is_empty(found.maps).sum())
