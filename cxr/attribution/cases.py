"""Which images are explained, for which class, and which of them are scored, checked and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.core.params import AttributeParams
from cxr.data import cache, loading, multi_label, pseudonyms
from cxr.data import manifest as data_manifest
from cxr.metrics import map_grids

if TYPE_CHECKING:
    from cxr.tracking import StoredRun

CHECKPOINTS = ("before", "after")


@dataclass(frozen=True, eq=False)
class Cases:
    """The images of one split, as `choose` returns them. All arrays have one row for each row of `table`."""

    table: pd.DataFrame  # see `cxr.attribution.maps.select`
    pixels: np.ndarray  # uint8 [n, side, side]; may be mapped from a file
    class_index: np.ndarray  # int [n], the class that is explained
    classes: list[str]
    regions: dict[str, np.ndarray]  # bool [n, side, side] by region, such as "lesion"; empty: no masks are known
    predictions: dict[str, pd.DataFrame]  # of the split, by checkpoint, as the train run logged them

    @property
    def image_id(self) -> np.ndarray:
        """str [n]"""
        return self.table["image_id"].to_numpy(str)

    @property
    def size(self) -> int:
        """The side of the images in pixels."""
        return self.pixels.shape[1]

    @property
    def n_scored(self) -> int:
        return int(self.table["scored"].sum())

    def counts(self) -> pd.DataFrame:
        """How many images and patients of each class are scored."""
        scored = self.table[self.table["scored"]]
        counted = scored.groupby("label").agg(images=("image_id", "size"), patients=("patient_id", "nunique"))
        return counted.reset_index()

    def checked(self, n: int) -> np.ndarray:
        """Row numbers of about `n` scored images, on which maps are checked: see `maps.per_class`."""
        return maps.per_class(self.table, n)

    def shown(self, per_class: int) -> np.ndarray:
        """Row numbers of the first `per_class` scored images of each class, by image id."""
        return self.table[self.table["scored"]].groupby("label").head(per_class).index.to_numpy()


class Example(NamedTuple):
    """One image with its two maps, as figures show it."""

    image_id: str
    label: str
    explained: str  # the class
    rank: int  # among the examples of its label, from 0
    panels: dict[str, np.ndarray | None]  # image, before, after, outline: what `figures.overlay` takes


def choose(train: StoredRun, settings: AttributeParams) -> Cases:
    """The images of `settings.attribute_split`, decoded, with what both checkpoints of a train run said of them.

    All images of the split are explained. Which ones are scored: see `cxr.attribution.maps.select`. What the
    checkpoint `continued` says of them, where there is one, does not matter for that.

    If an image can have several findings, it is explained for each one that it has: it is a case of its own for
    each (`cxr.data.multi_label.by_finding`), and its patient is one patient.

    Raises: InputError when no image is scored, and when the images cannot be read or have changed.
    """

    def predicted(checkpoint: str) -> pd.DataFrame:
        table = train.table(f"predictions_{checkpoint}.parquet")
        return multi_label.by_finding(table[table["split"] == settings.attribute_split])

    predictions = {checkpoint: predicted(checkpoint) for checkpoint in CHECKPOINTS}
    several = "image" in predictions["before"]
    if several and settings.explain == "predicted":
        raise InputError(
            "explain: predicted needs one predicted class an image, and this study has several findings: set "
            "explain to true, which explains each finding that an image has"
        )
    selected = maps.select(**predictions, images=settings.images, explain=settings.explain)
    if train.has("predictions_continued.parquet"):  # of no weight in which images are scored
        predictions["continued"] = predicted("continued")

    manifest = data_manifest.read_manifest(train.file("manifest.csv"))
    classes = data_manifest.classes(manifest)
    image = selected["image" if several else "image_id"]
    rows = manifest.set_index("image_id").loc[image].reset_index()[manifest.columns]
    known = train.params["data_root"]
    root = data_manifest.data_root(settings.model_copy(update={"data": settings.data or known or "phantom"}))
    if pseudonyms.is_neutral(known) and isinstance(root, Path):  # the images were moved
        root = pseudonyms.folder(root, known)
    where = {
        "root": root,
        "cache": cache.default_cache(),
        "size": int(train.params["image_size"]),
        "lesion_contrast": float(train.params["lesion_contrast"]),
    }
    return Cases(
        table=selected,
        pixels=loading.load_images(rows, **where),
        class_index=data_manifest.class_index(selected["explained"], classes),
        classes=classes,
        regions=loading.load_regions(rows, **where, findings=selected["explained"] if several else ()),
        predictions=predictions,
    )


def examples(cases: Cases, map_sets: Mapping[str, maps.MapSet], *, per_class: int) -> Iterator[Example]:
    """The first images of each class by id (not the clearest ones), with their maps, ready for figures.

    Args:
        map_sets: `before` and `after`, both by one method; rows as `cases`.
        per_class: images of each class.

    The maps are scaled to [0, 1] and enlarged to the image's size; an empty map is NaN.
    """
    rows = cases.shown(per_class)
    if not len(rows):
        return
    prepared = {name: map_grids.prepare(map_sets[name].maps[rows], cases.size) for name in CHECKPOINTS}
    labels = cases.table.loc[rows, "label"]
    ranks = labels.groupby(labels).cumcount().to_numpy()
    outline = cases.regions.get("lesion")
    for number, row in enumerate(rows):
        case = cases.table.loc[row]
        panels = {
            "image": cases.pixels[row],
            **{name: prepared[name][number] for name in CHECKPOINTS},
            "outline": None if outline is None else outline[row],
        }
        yield Example(case["image_id"], case["label"], case["explained"], int(ranks[number]), panels)
