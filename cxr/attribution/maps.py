"""Sets of raw attribution maps: their file format, which images they are of, and the join of two sets."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.data import groups


@dataclass(frozen=True)
class MapSet:
    """Maps of one checkpoint by one method at one layer: on the layer's own grid, not normalised.

    The order of rows has no meaning: rows are joined by `image_id`.
    """

    image_id: np.ndarray  # str [n], unique
    class_index: np.ndarray  # int [n], the class explained
    maps: np.ndarray  # float32 [n, h, w]
    checkpoint: str  # before, after, head_1, epoch_002, ...
    method: str
    layer: str
    classes: tuple[str, ...]
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        n = len(self.image_id)
        if self.maps.ndim != 3 or len(self.maps) != n or self.class_index.shape != (n,):
            raise ValueError(
                f"a map set needs n ids, n classes and maps [n, h, w]; got {n} ids, classes "
                f"{self.class_index.shape}, maps {self.maps.shape}"
            )
        if len(np.unique(self.image_id)) < n:
            raise ValueError("a map set holds every image once; an image_id occurs twice")

    @property
    def grid(self) -> str:
        """The size of the maps, such as "8x8"."""
        return "x".join(map(str, self.maps.shape[1:]))

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that needs no pickle: arrays image_id, class_index, maps (float32), and meta (JSON)."""
        meta = {
            name: getattr(self, name) for name in ("checkpoint", "method", "layer", "classes", "checkpoint_sha256")
        }
        with atomic(path) as temporary:
            np.savez_compressed(
                temporary,
                image_id=np.asarray(self.image_id, str),
                class_index=np.asarray(self.class_index, np.int32),
                maps=np.asarray(self.maps, np.float32),
                meta=np.array(json.dumps(meta)),
            )


def load(path: str | Path) -> MapSet:
    """Read what `MapSet.save` wrote. Raises InputError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            meta["classes"] = tuple(meta["classes"])
            return MapSet(image_id=file["image_id"], class_index=file["class_index"], maps=file["maps"], **meta)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a set of attribution maps ({error})") from None


def verify(
    map_set: MapSet, images: pd.DataFrame, *, checkpoint: str, method: str, checkpoint_sha256: str = ""
) -> MapSet:
    """Return `map_set` if it holds maps of this checkpoint, by this method, of these images.

    Args:
        images: as `select` returns them and 2_attribute logs them: image_id, explained.
        checkpoint: as in the set: before, after, head_1, epoch_002, ...
        checkpoint_sha256: of the checkpoint's file, as the train run logged it; empty: the train run logged none.

    Raises: InputError, which names what differs.
    """
    which = f"the set of maps '{checkpoint}' by {method}"
    advice = "run 2_attribute again"
    for name, wanted in {"checkpoint": checkpoint, "method": method}.items():
        if getattr(map_set, name) != wanted:
            raise InputError(f"{which}: holds maps of {name} '{getattr(map_set, name)}': {advice}")
    if checkpoint_sha256 and map_set.checkpoint_sha256 != checkpoint_sha256:
        raise InputError(
            f"{which}: was made from another checkpoint (sha256 {map_set.checkpoint_sha256[:16]}…) than the train "
            f"run logged ({checkpoint_sha256[:16]}…): {advice}"
        )
    odd = set(map_set.image_id.tolist()) ^ set(images["image_id"])
    if odd:
        raise InputError(
            f"{which}: {len(odd)} images are only in it or only in images.parquet, such as {min(odd)}: {advice}"
        )
    index = {label: number for number, label in enumerate(map_set.classes)}
    wanted = images.set_index("image_id")["explained"].map(index).reindex(map_set.image_id)
    other = np.flatnonzero(wanted.to_numpy(float) != map_set.class_index)
    if len(other):
        raise InputError(
            f"{which}: {len(other)} images are explained for another class than images.parquet says, such as "
            f"{map_set.image_id[other[0]]}: {advice}"
        )
    return map_set


def verify_predictions(
    logged: pd.DataFrame, image_id: np.ndarray, probabilities: np.ndarray, *, where: str, tolerance: float = 1e-2
) -> None:
    """Raise InputError unless a loaded model predicts for these images what the train run logged.

    Otherwise another model would be explained, or images that changed or are prepared in another way. The same
    model on the same images differs a little too, on another kind of processor or with another batch size: on
    GPUs, which round to ten bits, by about 1e-3. Hence the `tolerance`, a difference in probability.

    Args:
        logged: the train run's predictions (`cxr.training.stages.prediction_table`): image_id, p_0, p_1, ...
        image_id: str [n]. probabilities: float [n, n_classes], of the model as loaded.
        where: the run and the checkpoint, for the message.
    """
    columns = [f"p_{k}" for k in range(probabilities.shape[1])]
    if columns != [name for name in logged.columns if name.startswith("p_")]:
        raise InputError(f"{where}: the model has {len(columns)} classes, other than the predictions: train again")
    told = logged.set_index("image_id")[columns].reindex(image_id).to_numpy(float)
    off = np.abs(told - probabilities).max(axis=1)
    wrong = np.flatnonzero(~(off <= tolerance))  # NaN too
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"{where}: the model does not say of {len(wrong)} of {len(image_id)} images what it said when it was "
            f"trained, such as {image_id[first]} (probabilities differ by {off[first]:.3g}): the images or how "
            "they are read have changed, or the model: run 1_train again"
        )


def join(before: MapSet, after: MapSet) -> tuple[MapSet, MapSet]:
    """Both sets with their images in the same order, sorted by id.

    Raises: InputError unless they hold the same images, explained for the same classes, by the same method at the
        same layer.
    """
    for name in ("method", "layer", "classes"):
        a, b = getattr(before, name), getattr(after, name)
        if a != b:
            raise InputError(f"the two sets of maps differ in {name}: {a} and {b} cannot be compared")
    odd = set(before.image_id.tolist()) ^ set(after.image_id.tolist())
    if odd:
        raise InputError(
            f"the two sets of maps hold different images: {len(odd)} are in one only, such as {min(odd)}"
        )
    before, after = (take(map_set, np.sort(map_set.image_id)) for map_set in (before, after))
    other_class = np.flatnonzero(before.class_index != after.class_index)
    if len(other_class):
        raise InputError(
            f"{len(other_class)} images are explained for another class in the second set, such as "
            f"{before.image_id[other_class[0]]}"
        )
    return before, after


def select(before: pd.DataFrame, after: pd.DataFrame, *, images: str, explain: str) -> pd.DataFrame:
    """For which class each image is explained, and whether it is scored.

    Args:
        before, after: predictions of both checkpoints on one split (`stages.prediction_table`, by finding where an
            image can have several: `cxr.data.multi_label.by_finding`): image_id, patient_id, split, label,
            predicted, correct, groups (`cxr.data.groups`).
        images: which ones are scored: `correct` (those that both checkpoints classify correctly) or `all`.
        explain: `true` (the label's logit) or `predicted` (that of the class that the checkpoint after predicts).
            It is the same class in both maps: evidence for one class is compared.

    Returns: image_id, patient_id, split, label, predicted_before, predicted_after, both_correct, scored,
        explained (the class' name), and the groups, of all images, sorted by image_id; and `image`, if it is
        there.
    Raises: InputError when no image is scored.
    """
    own = groups.columns(before)
    key = ["image_id", "patient_id", "split", "label", *(["image"] if "image" in before else []), *own]
    both = before.merge(after, on=key, suffixes=("_before", "_after"), validate="one_to_one")
    if not len(both) == len(before) == len(after):
        raise InputError("the two checkpoints' predictions are not of the same images: train again")
    both["both_correct"] = both["correct_before"] & both["correct_after"]
    both["scored"] = both["both_correct"] | (images == "all")
    if not both["scored"].any():
        raise InputError(
            f"no image of the {len(before)} is classified correctly by both checkpoints: train longer, or "
            "set images: all"
        )
    both["explained"] = both["label"] if explain == "true" else both["predicted_after"]
    found = ["predicted_before", "predicted_after", "both_correct", "scored", "explained"]
    return both[[*key[: len(key) - len(own)], *found, *own]].sort_values("image_id", ignore_index=True)


def take(map_set: MapSet, image_id: np.ndarray) -> MapSet:
    """The rows of `map_set` whose ids are `image_id`, in that order. Raises InputError if one is missing."""
    rows = pd.Index(map_set.image_id).get_indexer(np.asarray(image_id, str))
    if (rows < 0).any():
        raise InputError(
            f"the set of maps ({map_set.checkpoint}, {map_set.method}) lacks image {image_id[rows < 0][0]}"
        )
    values = {**vars(map_set)}
    for name in ("image_id", "class_index", "maps"):
        values[name] = values[name][rows]
    return MapSet(**values)


def per_class(images: pd.DataFrame, n: int) -> np.ndarray:
    """Row numbers of at most `n` of the scored `images` (`select`), int.

    They are drawn at random with a fixed seed, as evenly over the classes as possible, the first few as well as
    all of them.
    """
    scored = images[images["scored"]].sample(frac=1, random_state=0)
    turn = scored.groupby("label").cumcount()
    return scored.index[np.argsort(turn, kind="stable")][:n].to_numpy()
