"""The images of one training: their manifest, labels and pixels, and which of them each stage is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import cache, loading, multi_label, pseudonyms
from cxr.data import manifest as data_manifest
from cxr.data.phantom.rows import with_random_markers
from cxr.data.splits import SPLITS

Pair = tuple[arrays.Subset, np.ndarray]
"""Images uint8 [m, size, size], read when they are asked for, and their labels (`Dataset.labels`)."""

STAGES = {"transfer": "transfer", "fine_tuning": "fine_tune"}
"""Each stage of training, and the value of the parameter `shortcut` that names it."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its splits, as `open` returns it.

    settings : the parameters that it was made from, as they may be stored (`cxr.data.pseudonyms.neutral`).
    manifest : one row an image (see `cxr.data.manifest`), sorted by image_id, with a RangeIndex.
    classes : the names of the classes, or of the findings, sorted; a class' position in this list is its number.
    labels : the number of each image's class, int32 [n], in the order of the manifest. If an image can have
        several findings, which of them it has: float32 [n, findings], 1 or 0, NaN where it is not known.
    root : the absolute folder that paths in the manifest are relative to, as `cxr.data.manifest.data_root` has it.
    manifest_hash : sha256 (hex) of the manifest, which identifies every image, label and split.
    """

    settings: TrainParams
    manifest: pd.DataFrame
    classes: list[str]
    labels: np.ndarray
    root: Path | pseudonyms.Folder | None
    manifest_hash: str

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def images(self) -> np.ndarray:
        """All images in the order of the manifest, uint8 [n, size, size], grey values 0 to 255, read-only.

        They are decoded on first use. They stay in a file of the cache, which is mapped into memory (see
        `cxr.data.loading.load_images`). With a `shortcut` every image has the marker that shows its class.
        """
        return self._load(self.manifest)

    @cached_property
    def random_markers(self) -> np.ndarray | None:
        """The same images with markers that say nothing of the class, as `images`; None without a `shortcut`."""
        if self.settings.shortcut == "none":
            return None
        rows = with_random_markers(self.manifest, self.settings.lesion_contrast)
        return self._load(rows)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The files that were left out because they do not decode: {"path", "reason"} of each."""
        return self.manifest.attrs.get("skipped", [])

    def rows(self, split: str) -> np.ndarray:
        """The row numbers of the images in a split ("train", "val" or "test"), int [m], ascending."""
        if split not in SPLITS:
            raise InputError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        return np.flatnonzero(self.manifest["split"] == split)

    def for_stage(self, stage: str) -> tuple[Pair, Pair]:
        """(training, validation) images and labels of a stage of training, "transfer" or "fine_tuning".

        No image is read before it is asked for. With a `shortcut` the stage that it names gets images whose
        marker shows the class; the other stage gets the same images with random markers.
        """
        same = self.settings.shortcut in ("none", STAGES[stage])
        images = self.images if same else self.random_markers
        train, val = self.rows("train"), self.rows("val")
        return (
            (arrays.Subset(images, train), self.labels[train]),
            (arrays.Subset(images, val), self.labels[val]),
        )

    def examples(self, split: str, per_class: int) -> pd.DataFrame:
        """Rows of the manifest: the first images of each class in a split, by class.

        An image with several findings stands under each of them (`cxr.data.multi_label.by_class`). The index names
        the row of the manifest.
        """
        rows = multi_label.by_class(self.manifest.iloc[self.rows(split)])
        return rows.groupby("label").head(per_class).sort_values("label", kind="stable")

    def counts(self) -> pd.DataFrame:
        """How many images and patients each class has in each split.

        One row a class (index "label"); columns ("images" | "patients", split). An image with several findings
        counts for each of them.
        """
        groups = multi_label.by_class(self.manifest).groupby(["label", "split"])
        table = groups.agg(images=("image_id", "size"), patients=("patient_id", "nunique"))
        return table.unstack().reindex(columns=list(SPLITS), level=1)

    def describe(self) -> dict[str, Any]:
        """What a tracking store records of a data set: the arguments of `cxr.tracking.log_dataset`.

        name : "phantom", or the name of the folder or table.
        digest : the manifest's hash.
        source : where the images are.
        columns : those of the manifest.
        counts : {split: {class: number of images}}.
        """
        data = self.settings.data
        splits = multi_label.by_class(self.manifest).groupby("split")["label"]
        return {
            "name": data if data == "phantom" else Path(data).name,
            "digest": self.manifest_hash,
            "source": str(self.root or "drawn by cxr.data.phantom"),
            "columns": list(self.manifest.columns),
            "counts": {split: labels.value_counts().sort_index().to_dict() for split, labels in splits},
        }

    def _load(self, rows: pd.DataFrame) -> np.ndarray:
        return loading.load_images(
            rows,
            root=self.root,
            size=self.settings.image_size,
            cache=cache.default_cache(),
            lesion_contrast=self.settings.lesion_contrast,
        )


def open(settings: TrainParams) -> Dataset:
    """The data set that `settings` name, with its splits. No image is decoded yet.

    With `vary_split`, the splits are those of the settings' seed.

    Raises InputError where `cxr.data.manifest.build_manifest` does: images are missing or cannot be split.
    """
    manifest = data_manifest.build_manifest(settings, vary=settings.seed if settings.vary_split else None)
    settings = pseudonyms.neutral(settings)
    classes = data_manifest.classes(manifest)
    return Dataset(
        settings=settings,
        manifest=manifest,
        classes=classes,
        labels=_labels(manifest, classes),
        root=data_manifest.data_root(settings),
        manifest_hash=data_manifest.manifest_hash(manifest),
    )


def _labels(manifest: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    if multi_label.columns(manifest):
        return multi_label.truth(manifest)
    return data_manifest.class_index(manifest["label"], classes)
