"""Stacks of raw attribution maps: their file format, and the join of two stacks by image."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import InputError


@dataclass(frozen=True)
class MapStack:
    """Maps of one checkpoint by one method at one layer, as they came out: on the layer's grid, not normalised.

    Row order carries no meaning: rows are joined by `image_id`.
    """

    image_id: np.ndarray  # str [n], unique
    class_index: np.ndarray  # int [n], the class explained
    maps: np.ndarray  # float32 [n, h, w]
    stage: str
    method: str
    layer: str
    classes: tuple[str, ...]
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        n = len(self.image_id)
        if self.maps.ndim != 3 or len(self.maps) != n or self.class_index.shape != (n,):
            raise ValueError(
                f"a map stack needs n ids, n classes and maps [n, h, w]; got {n} ids, classes "
                f"{self.class_index.shape}, maps {self.maps.shape}"
            )
        if len(np.unique(self.image_id)) < n:
            raise ValueError("a map stack holds every image once; an image_id occurs twice")

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that needs no pickle: arrays image_id, class_index, maps (float32), and meta (JSON)."""
        meta = {name: getattr(self, name) for name in ("stage", "method", "layer", "classes", "checkpoint_sha256")}
        np.savez_compressed(
            path,
            image_id=np.asarray(self.image_id, str),
            class_index=np.asarray(self.class_index, np.int32),
            maps=np.asarray(self.maps, np.float32),
            meta=np.array(json.dumps(meta)),
        )


def load(path: str | Path) -> MapStack:
    """Read what `MapStack.save` wrote. Raises InputError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            meta["classes"] = tuple(meta["classes"])
            return MapStack(image_id=file["image_id"], class_index=file["class_index"], maps=file["maps"], **meta)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a stack of attribution maps ({error})") from None


def join(transfer: MapStack, fine_tuned: MapStack) -> tuple[MapStack, MapStack]:
    """Both stacks in the same order of images, sorted by id.

    Raises InputError unless they hold the same images, explained for the same classes, by the same method
    at the same layer.
    """
    for name in ("method", "layer", "classes"):
        a, b = getattr(transfer, name), getattr(fine_tuned, name)
        if a != b:
            raise InputError(f"the two stacks of maps differ in {name}: {a} and {b} cannot be compared")
    odd = set(transfer.image_id.tolist()) ^ set(fine_tuned.image_id.tolist())
    if odd:
        raise InputError(
            f"the two stacks of maps hold different images: {len(odd)} are in one only, such as {min(odd)}"
        )
    transfer, fine_tuned = (take(stack, np.sort(stack.image_id)) for stack in (transfer, fine_tuned))
    other_class = np.flatnonzero(transfer.class_index != fine_tuned.class_index)
    if len(other_class):
        raise InputError(
            f"{len(other_class)} images are explained for another class in the second stack, such as "
            f"{transfer.image_id[other_class[0]]}"
        )
    return transfer, fine_tuned


def select(transfer: pd.DataFrame, fine_tuned: pd.DataFrame, *, images: str, explain: str) -> pd.DataFrame:
    """For which class each image is explained, and whether it counts.

    Args:
        transfer, fine_tuned: predictions of both checkpoints on one split (`cxr.training.prediction_table`):
            image_id, patient_id, split, label, predicted, correct.
        images: `correct` (by both checkpoints) or `all`: which ones are scored.
        explain: `true` (the label's logit) or `predicted` (that of the fine-tuned checkpoint's prediction, in
            both maps: the evidence for one and the same class is compared).

    Returns: image_id, patient_id, split, label, predicted_transfer, predicted_fine_tuned, both_correct, scored,
        explained (the class' name), of all images, sorted by image_id.
    Raises: InputError when no image is scored.
    """
    key = ["image_id", "patient_id", "split", "label"]
    both = transfer.merge(fine_tuned, on=key, suffixes=("_transfer", "_fine_tuned"), validate="one_to_one")
    if not len(both) == len(transfer) == len(fine_tuned):
        raise InputError("the two checkpoints' predictions are not of the same images: train again")
    both["both_correct"] = both["correct_transfer"] & both["correct_fine_tuned"]
    both["scored"] = both["both_correct"] | (images == "all")
    if not both["scored"].any():
        raise InputError(
            f"no image of the {len(transfer)} is classified correctly by both checkpoints: train longer, or "
            "set images: all"
        )
    both["explained"] = both["label"] if explain == "true" else both["predicted_fine_tuned"]
    columns = [*key, "predicted_transfer", "predicted_fine_tuned", "both_correct", "scored", "explained"]
    return both[columns].sort_values("image_id", ignore_index=True)


def take(stack: MapStack, image_id: np.ndarray) -> MapStack:
    """The rows of `stack` whose ids are `image_id`, in that order. Raises InputError when one is not there."""
    rows = pd.Index(stack.image_id).get_indexer(np.asarray(image_id, str))
    if (rows < 0).any():
        raise InputError(f"the stack of maps ({stack.stage}, {stack.method}) lacks image {image_id[rows < 0][0]}")
    values = {**vars(stack)}
    for name in ("image_id", "class_index", "maps"):
        values[name] = values[name][rows]
    return MapStack(**values)


def per_class(images: pd.DataFrame, n: int) -> np.ndarray:
    """Row numbers of about `n` of the scored `images` (`select`), as evenly over the classes as they allow,
    drawn at random with a fixed seed; sorted."""
    scored = images[images["scored"]].sample(frac=1, random_state=0)
    turn = scored.groupby("label").cumcount()
    return np.sort(scored.index[np.argsort(turn, kind="stable")][:n].to_numpy())
