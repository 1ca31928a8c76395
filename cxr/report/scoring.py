"""The maps of one attribute run by one method, as they are scored: read, verified, joined, measured.

`ScoredMaps` finds and checks the files. The functions measure the course during fine-tuning and the multiverse,
which need more than one pair of maps.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.attribution import maps
from cxr.attribution.maps import MapSet
from cxr.data import multi_label
from cxr.metrics import multiverse
from cxr.metrics import regions as region_metrics
from cxr.metrics.similarity import compare_maps
from cxr.report import comparison
from cxr.tracking import StoredRun, stored

# What a score run repeats of its attribute run, so that runs can be filtered by it.
_PARAMS = ("architecture", "seed", "target_layer", "layer", "grid")
_TAGS = ("image_size", "weights", "images", "explain", "score", "methods_coincide")


class ScoredMaps:
    """All maps of one attribute run by one method. Files are read on demand, and checked by hash and content.

    Attributes:
        attribute, train: the runs that made the maps and the checkpoints.
        method: by which the maps were made.
        size: height and width of the image grid on which maps are compared, in pixels.
        cell: architecture, seed and method, as columns of the tables.
        images: a row an image that was explained, sorted by image id (`cxr.attribution.maps.select`).
        rows: int [m], row numbers in `images` of the images that are scored.
        scored: the rows of `images` that are scored.
    """

    def __init__(self, attribute: StoredRun, method: str, *, train: StoredRun | None = None) -> None:
        """`train`: the run that made the checkpoints; default the one that `attribute` names in its tags."""
        self.attribute, self.method = attribute, method
        self.train = stored(attribute.tags["cxr.train_run"]) if train is None else train
        self.size = int(attribute.tags["cxr.image_size"])
        self.cell = {
            "architecture": attribute.params["architecture"],
            "seed": int(attribute.params["seed"]),
            "method": method,
        }

    @property
    def params(self) -> dict[str, str]:
        """What a score run logs of the runs behind it, as parameters."""
        attribute = self.attribute
        return {
            **{key: attribute.params[key] for key in _PARAMS},
            **{key: attribute.tags[f"cxr.{key}"] for key in _TAGS},
            "passes_checks": str(bool(self.checks["passes_checks"].all())) if len(self.checks) else "",
            "attribute_run": attribute.run_id,
            "train_run": self.train.run_id,
        }

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The checks of these maps against the network, a row a checkpoint; empty where none were made."""
        if not self.attribute.has("map_checks.csv"):
            return pd.DataFrame()
        table = self.attribute.table("map_checks.csv")
        return table[table["method"] == self.method]

    @property
    def caution(self) -> str:
        """Which maps do not pass their checks, and why; empty if all do or none were checked."""
        failed = self.checks[~self.checks["passes_checks"]] if len(self.checks) else self.checks
        return "; ".join(f"{row.checkpoint} fine-tuning: {row.reason}" for row in failed.itertuples())

    @cached_property
    def images(self) -> pd.DataFrame:
        return self.attribute.table("images.parquet")

    @property
    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.images["scored"].to_numpy())

    @property
    def scored(self) -> pd.DataFrame:
        return self.images[self.images["scored"].to_numpy()].reset_index(drop=True)

    @cached_property
    def folder(self) -> Path:
        """A local copy of the folder of the default maps."""
        return self.attribute.file(f"maps/{self.method}")

    def read(self, checkpoint: str, folder: Path | None = None) -> MapSet:
        """The maps of one checkpoint (before, after, continued, head_1, epoch_002): all `images`, in their order.

        Args:
            folder: of a variant (`variants`); default `folder`.

        Raises:
            InputError: a file that is missing or changed, or holds other maps than its name says.
        """
        # The parameters of the train run have the hashes of the checkpoints that a stage ended with. Those of the
        # heads and of epochs during fine-tuning are in checkpoints.json, and 2_attribute has checked them.
        known = self.train.params.get(f"checkpoint_sha256_{checkpoint}", "")
        found = maps.load((folder or self.folder) / f"{checkpoint}.npz")
        maps.verify(found, self.images, checkpoint=checkpoint, method=self.method, checkpoint_sha256=known)
        return maps.take(found, self.images["image_id"].to_numpy())

    def pair(self) -> tuple[MapSet, MapSet]:
        """The maps before and after fine-tuning, of all images: row i of both is row i of `images`."""
        return maps.join(self.read("before"), self.read("after"))

    def predictions(self, checkpoint: str) -> pd.DataFrame:
        """What a checkpoint, or "course", predicts: `cxr.training.stages.prediction_table`, by finding where an
        image can have several (`cxr.data.multi_label.by_finding`)."""
        name = "course_predictions" if checkpoint == "course" else f"predictions_{checkpoint}"
        return multi_label.by_finding(self.train.table(f"{name}.parquet"))

    def keep_scored(self, map_set: MapSet) -> MapSet:
        """The maps of the images that are scored: row i is row i of `scored`."""
        return maps.take(map_set, self.scored["image_id"].to_numpy())

    def heads(self) -> list[np.ndarray]:
        """Raw maps [m, h, w] of the extra transfer heads, which differ from `before` by their seed only."""
        return [self.read(name).maps[self.rows] for name in self.names("head")]

    def continued(self) -> np.ndarray | None:
        """Raw maps [m, h, w] of the checkpoint `continued`; None where the training went on for no more epochs."""
        if not (self.folder / "continued.npz").is_file():
            return None
        return self.read("continued").maps[self.rows]

    def epochs(self) -> dict[int, np.ndarray]:
        """Raw maps [m, h, w] of the checkpoints during fine-tuning, by epoch from 1."""
        names = self.names("epoch")
        return {int(name.removeprefix("epoch_")): self.read(name).maps[self.rows] for name in names}

    def regions(self) -> dict[str, np.ndarray]:
        """Masks of the scored images, bool [m, size, size] by name of the region; empty where none are known."""
        if not self.attribute.has("regions.npz"):
            return {}
        path = self.attribute.file("regions.npz")
        return region_metrics.load(path, self.scored["image_id"].to_numpy())[1]

    def variants(self) -> tuple[dict[str, Path], dict[str, str]]:
        """Folders of the default maps and of their variants, and the layer behind each.

        Both are empty where 2_attribute made no variants of this method.
        """
        known = self.attribute.json("variants.json") if self.attribute.has("variants.json") else {"methods": []}
        if self.method not in known["methods"]:
            return {}, {}
        own = self.attribute.file(f"variants/{self.method}")
        folders = {"default": self.folder, **{path.name: path for path in sorted(own.iterdir())}}
        layers = {
            name: layer for name, layer in known["layers"].items() if name in folders or name.startswith("layer-")
        }
        return folders, layers

    def names(self, kind: str) -> list[str]:
        """The names of the checkpoints of a kind ("head", "epoch") that have maps, in their order."""
        return [path.stem for path in sorted(self.folder.glob(f"{kind}_*.npz"))]


def course(scored_maps: ScoredMaps, before: MapSet) -> pd.DataFrame:
    """Drift of each checkpoint during fine-tuning from the one before it, image by image.

    Args:
        before: the maps before fine-tuning of the scored images.

    Returns: `cxr.report.comparison.score_table` of every checkpoint, with `epoch` (from 1); empty where the train
        run kept no checkpoints.
    """
    tables = [
        comparison.score_table(
            compare_maps(before.maps, after, size=scored_maps.size), scored_maps.scored, **scored_maps.cell
        ).assign(epoch=epoch)
        for epoch, after in scored_maps.epochs().items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def multiverse_table(scored_maps: ScoredMaps) -> pd.DataFrame:
    """Overlap, and that of two patients, of the default maps and of their variants (`multiverse.long_table`).

    Empty where 2_attribute made no variants of this method.
    """
    folders, layers = scored_maps.variants()
    if not folders:
        return pd.DataFrame()
    scores, patient = {}, scored_maps.images["patient_id"]
    for variant, folder in folders.items():
        before, after = (scored_maps.read(checkpoint, folder) for checkpoint in ("before", "after"))
        scores[variant] = multiverse.score_variant(
            before.maps, after.maps, before.class_index, patient, size=scored_maps.size
        )
    return multiverse.long_table(scores, scored_maps.images, layers=layers, **scored_maps.cell)
