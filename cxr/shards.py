"""A study's images in parts: which images belong to which, and the parts' results as those of one run.

Attribution explains each image by itself and scoring compares each by itself, so that a cell of the grid need not
stay on one machine. A *shard* is one of `shards` parts of the images; `rows` says which are its own. A run that
joins shards puts their files and tables together (`join_files`, `join_tables`) as one run would have made them,
after `in_order` has seen that they are all the parts of one and the same thing.

What is a property of all images is not computed by a shard: which maps are degenerate, which other patients an
image is compared with, which images are tested and shown. A scoring shard reads all maps for that reason.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr import maps, regions
from cxr.errors import InputError
from cxr.files import atomic

if TYPE_CHECKING:
    from cxr.tracking import RunInfo

_OF_ALL = ("stage", "method", "layer", "classes", "checkpoint_sha256")  # of a stack of maps, the same in all parts


def check(shards: int, n_images: int, *, what: str = "images") -> None:
    """Raise InputError if some of so many parts would be without an image."""
    if shards > n_images:
        raise InputError(
            f"shards: {n_images} {what} cannot be shared between {shards} parts: set shards to {n_images} or less"
        )


def rows(images: pd.DataFrame, *, shard: int, shards: int) -> np.ndarray:
    """Which images belong to part number `shard` of `shards`.

    Laid out by class, within it by whether they are scored, and then by id, images are dealt out in turn: parts
    differ by at most one image in all, in each class, and in the scored ones of each class. The order of rows does
    not matter.

    Args:
        images: columns image_id, label and scored (`cxr.maps.select`).
        shard: from 1; 0 stands for all images.

    Returns: bool [n].
    Raises: InputError when there is no such part, or it is without an image.
    """
    if shard == 0:
        return np.ones(len(images), bool)
    if not 1 <= shard <= shards:
        raise InputError(f"shard: from 1 to shards ({shards}), got {shard}")
    check(shards, len(images))
    order = np.lexsort([pd.factorize(images[key], sort=True)[0] for key in ("image_id", "scored", "label")])
    own = np.zeros(len(images), bool)
    own[order[shard - 1 :: shards]] = True
    return own


def in_order(runs: Sequence[RunInfo], *, whole: str, settings: Mapping[str, str], stage: str) -> list[RunInfo]:
    """The runs of all parts by their number, if they are just that.

    Args:
        runs: of the parts, in any order.
        whole: fingerprint of the run that joins them, which every part has as the tag `cxr.shard_of`: the same
            runs read, settings, code and weights.
        settings: the joining run's, as MLflow keeps them, to say what differs.
        stage: theirs.

    Raises: InputError that names what does not fit, and the run.
    """
    numbers: dict[int, RunInfo] = {}
    counts = set()
    for run in runs:
        which = f"run {run.run_id} ({run.name})"
        if run.stage != stage:
            raise InputError(f"{which}: is a {run.stage or 'nameless'} run, no {stage} run: name the shards' runs")
        if not run.complete:
            raise InputError(f"{which}: is {run.status} and not complete: run it again")
        if run.tags.get("cxr.shard_of") != whole:
            raise InputError(f"{which}: {_difference(run, settings)}: run the shard again, as it is to be joined")
        number, _, count = run.tags["cxr.shard"].partition(" of ")
        if int(number) in numbers:
            raise InputError(f"{which}: shard {number} is there twice, as run {numbers[int(number)].run_id} too")
        numbers[int(number)] = run
        counts.add(int(count))
    if len(counts) > 1:
        splits = " and of ".join(map(str, sorted(counts)))
        raise InputError(f"shards: the runs are of splits into {splits} parts: take those of one")
    lacking = sorted(set(range(1, max(counts, default=0) + 1)) - set(numbers))
    if lacking:
        raise InputError(f"shards: of {max(counts)} shards number {', '.join(map(str, lacking))} is not there")
    return [run for _, run in sorted(numbers.items())]


def _difference(run: RunInfo, settings: Mapping[str, str]) -> str:
    """Why a part has another `cxr.shard_of`, as far as its parameters tell."""
    other = [
        f"{key} {run.params[key]} instead of {value}"
        for key, value in settings.items()
        if run.params.get(key, value) != value
    ]
    if other:
        return f"was made with {', '.join(other)}"
    return "was made from other runs, or by another version of the code or the weights"


def join_tables(parts: Iterable[pd.DataFrame], image_id: Sequence[str], *, by: str = "") -> pd.DataFrame:
    """Tables of a row an image (and value of `by`) as one.

    Args:
        parts: with the same columns, image_id among them; one may be empty.
        image_id: of all images, in the order of one run's table.
        by: column of which every value has a row of each image; they come in the order of their first appearance.

    Returns: all rows, those of each value of `by` in the order of `image_id`.
    Raises: InputError when columns differ, or an image is missing, there twice, or not one of `image_id`.
    """
    parts = list(parts)
    for number, part in enumerate(parts, start=1):
        if list(part.columns) != list(parts[0].columns):
            odd = sorted(set(part.columns) ^ set(parts[0].columns)) or ["their order"]
            raise InputError(f"shards: the tables of shard 1 and {number} differ in columns: {', '.join(odd)}")
    # an empty table's columns have no types of their own, and would take away the others'
    whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    place = pd.Index(image_id).get_indexer(whole["image_id"])
    group, groups = pd.factorize(whole[by]) if by else (np.zeros(len(whole), int), [""])
    for number in range(len(groups)):
        _check_once(place[group == number], whole["image_id"][group == number], image_id)
    return whole.iloc[np.lexsort([place, group])].reset_index(drop=True)


def join_arrays(
    parts: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]], image_id: np.ndarray
) -> dict[str, np.ndarray]:
    """Arrays of a row an image as one, in the order of `image_id`.

    Args:
        parts: ids [m] and arrays by name [m, ...]; taken one after the other, so that besides what is returned
            only one of them need be in memory.
        image_id: str [n], of all images.

    Raises: InputError when names, shapes or types of the parts differ, or an image is missing, there twice, or not
        one of `image_id`.
    """
    out: dict[str, np.ndarray] = {}
    places, ids = [], []
    for number, (own, arrays) in enumerate(parts, start=1):
        kinds = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
        if not out:
            first = kinds
            out = {name: np.empty((len(image_id), *shape), dtype) for name, (shape, dtype) in kinds.items()}
        if kinds != first:
            raise InputError(f"shards: what shard {number} holds is {kinds}, of shard 1 {first}: run both again")
        places.append(pd.Index(image_id).get_indexer(own))
        ids.append(own)
        for name, array in arrays.items():
            known = places[-1] >= 0
            out[name][places[-1][known]] = array[known]
    _check_once(np.concatenate(places), np.concatenate(ids), image_id)
    return out


def _check_once(place: np.ndarray, ids: Sequence[str], image_id: Sequence[str]) -> None:
    """Raise InputError unless `place` (where in `image_id` each of `ids` is, or -1) has every place once."""
    ids = np.asarray(ids)
    if (place < 0).any():
        raise InputError(f"shards: image {ids[place < 0][0]} is in a shard, and not one of the images to join")
    times = np.bincount(place, minlength=len(image_id))
    if (times > 1).any():
        raise InputError(f"shards: image {np.asarray(image_id)[times > 1][0]} is in two shards")
    if (times < 1).any():
        raise InputError(
            f"shards: {(times < 1).sum()} of {len(image_id)} images are in no shard, such as "
            f"{np.asarray(image_id)[times < 1][0]}"
        )


def join_maps(parts: Iterable[maps.MapStack], image_id: np.ndarray) -> maps.MapStack:
    """Stacks of one checkpoint, method and layer as one, in the order of `image_id`; as `join_arrays`.

    Raises: InputError also when the parts' stage, method, layer, classes or checkpoint differ.
    """
    of_all: dict[str, object] = {}

    def arrays() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for number, part in enumerate(parts, start=1):
            own = {name: getattr(part, name) for name in _OF_ALL}
            for name in _OF_ALL:
                if own[name] != of_all.setdefault(name, own[name]):
                    raise InputError(
                        f"shards: the maps of shard 1 and {number} differ in {name}: {of_all[name]} and "
                        f"{own[name]}: run the shards again"
                    )
            yield part.image_id, {"class_index": part.class_index, "maps": part.maps}

    found = join_arrays(arrays(), image_id)
    return maps.MapStack(image_id=np.asarray(image_id, str), **found, **of_all)


def join_files(folders: Sequence[Path], image_id: np.ndarray, out: Path) -> Iterator[str]:
    """Join what attribute runs keep of every image: maps, thumbnails, masks of regions.

    Args:
        folders: a part's files each, `.npz` as 2_attribute writes them: `thumbnails.npz`, `regions.npz`, and
            stacks of maps.
        image_id: of all images, in the order in which the joined files will have them.
        out: folder for the joined files, under the names of the parts'.

    Yields: each name, such as "maps/layercam/transfer.npz", once its file is there. One file is joined after the
        other: in memory are the one, twice, and a part's.
    Raises: InputError when a part lacks a file that another has, and as `join_arrays` and `join_maps`.
    """
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*.npz")} for folder in folders]
    odd = sorted(set.union(*names) - set.intersection(*names))
    if odd:
        lacking = ", ".join(str(number) for number, own in enumerate(names, start=1) if odd[0] not in own)
        raise InputError(f"shards: {odd[0]} is not in shard {lacking}, and in another: run the shards again")
    for name in sorted(names[0]):
        paths = [folder / name for folder in folders]
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == "regions.npz":
            _join_regions(paths, image_id, target)
        elif name == "thumbnails.npz":
            save_thumbnails(target, image_id, join_arrays(map(_thumbnails, paths), image_id)["images"])
        else:
            join_maps(map(maps.load, paths), image_id).save(target)
        yield name


def _join_regions(paths: Sequence[Path], image_id: np.ndarray, target: Path) -> None:
    """Packed as they are: unpacked, masks would take eight times the memory."""
    shapes: set[tuple[int, int]] = set()

    def packed() -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
        for masks in map(regions.read, paths):
            shapes.add(masks.shape)
            yield masks.image_id, masks.regions

    joined = join_arrays(packed(), image_id)
    if len(shapes) > 1:
        raise InputError(f"shards: masks of shapes {' and '.join(map(str, sorted(shapes)))}: run the shards again")
    regions.write(target, regions.Packed(image_id, joined, shapes.pop()))


def save_thumbnails(path: str | Path, image_id: np.ndarray, images: np.ndarray) -> None:
    """Write small images, uint8 [n, side, side], as `cxr.report.thumbnails` reads them."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, image_id=np.asarray(image_id, str), images=images)


def _thumbnails(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["image_id"], {"images": file["images"]}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of thumbnails ({error})") from None
