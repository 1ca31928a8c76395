"""Stacks of raw attribution maps: their file format, and the join of two stacks by image."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.core.files import atomic


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
        with atomic(path) as temporary:
            np.savez_compressed(
                temporary,
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


def verify(
    stack: MapStack, images: pd.DataFrame, *, stage: str, method: str, checkpoint_sha256: str = ""
) -> MapStack:
    """`stack`, if it is what it is taken for: maps of this stage's checkpoint, by this method, of these images.

    Args:
        images: as `select` returns them and 2_attribute logs them: image_id, explained.
        stage: as in the stack: transfer, fine_tuned, head_1, epoch_002, ...
        checkpoint_sha256: of the checkpoint's file as the train run logged it; empty: not known to it.

    Raises: InputError that names what differs.
    """
    which = f"the stack of maps '{stage}' by {method}"
    advice = "run 2_attribute again"
    for name, wanted in {"stage": stage, "method": method}.items():
        if getattr(stack, name) != wanted:
            raise InputError(f"{which}: holds maps of {name} '{getattr(stack, name)}': {advice}")
    if checkpoint_sha256 and stack.checkpoint_sha256 != checkpoint_sha256:
        raise InputError(
            f"{which}: was made from another checkpoint (sha256 {stack.checkpoint_sha256[:16]}…) than the train "
            f"run logged ({checkpoint_sha256[:16]}…): {advice}"
        )
    odd = set(stack.image_id.tolist()) ^ set(images["image_id"])
    if odd:
        raise InputError(
            f"{which}: {len(odd)} images are in it or in images.parquet only, such as {min(odd)}: {advice}"
        )
    index = {label: number for number, label in enumerate(stack.classes)}
    wanted = images.set_index("image_id")["explained"].map(index).reindex(stack.image_id)
    other = np.flatnonzero(wanted.to_numpy(float) != stack.class_index)
    if len(other):
        raise InputError(
            f"{which}: {len(other)} images are explained for another class than images.parquet says, such as "
            f"{stack.image_id[other[0]]}: {advice}"
        )
    return stack


def verify_predictions(
    logged: pd.DataFrame, image_id: np.ndarray, probabilities: np.ndarray, *, where: str, tolerance: float = 1e-2
) -> None:
    """Raise InputError unless a loaded model says of these images what the train run logged that it says.

    Another model, images that changed or are prepared in another way would be explained otherwise. The same model
    on the same images differs too, on another kind of processor and by the size of batches: on GPUs, which round
    to ten bits, by some 1e-3; hence `tolerance`.

    Args:
        logged: the train run's predictions (`cxr.training.stages.prediction_table`): image_id, p_0, p_1, ...
        image_id: str [n]. probabilities: float [n, n_classes], of the model as loaded.
        where: names the run and the stage in the message.
    """
    columns = [f"p_{k}" for k in range(probabilities.shape[1])]
    if columns != [name for name in logged.columns if name.startswith("p_")]:
        raise InputError(f"{where}: the model has {len(columns)} classes, other than the predictions: train again")
    before = logged.set_index("image_id")[columns].reindex(image_id).to_numpy(float)
    off = np.abs(before - probabilities).max(axis=1)
    wrong = np.flatnonzero(~(off <= tolerance))  # NaN too
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"{where}: the model does not say of {len(wrong)} of {len(image_id)} images what it said when it was "
            f"trained, such as {image_id[first]} (probabilities differ by {off[first]:.3g}): the images or how "
            "they are read have changed, or the model: run 1_train again"
        )


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
        transfer, fine_tuned: predictions of both checkpoints on one split (`stages.prediction_table`):
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
