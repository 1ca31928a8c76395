"""Splits, grouped by patient and stratified by class: made here, or checked if they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some

SPLITS = ("train", "val", "test")

# The cost of a class that is absent from a split; an imbalance costs less than 1 / the fraction of the split.
_ABSENT = 1e6


def limit_per_class(labels: Sequence[str], patients: Sequence[str], *, at_most: int, seed: int) -> np.ndarray:
    """Which images to keep so that each class has at most `at_most`; bool [n].

    Patients are taken in one random order for all classes, with all their images, until the next patient would
    exceed the limit of a class; the first images of that patient (in row order) fill the class. So each class
    keeps min(at_most, number of its images), and at most one patient of each class loses images.
    """
    labels, patients = np.asarray(labels, dtype=object), np.asarray(patients, dtype=object)
    names, number = np.unique(patients.astype(str), return_inverse=True)
    place = np.random.default_rng([seed, 1]).permutation(len(names))[number]
    order = np.argsort(place, kind="stable")
    rank = pd.Series(labels[order]).groupby(labels[order], sort=False).cumcount().to_numpy()
    keep = np.zeros(len(labels), bool)
    keep[order] = rank < at_most
    return keep


def assign_splits(
    labels: Sequence[str], patients: Sequence[str], *, val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """The split of each image, "train", "val" or "test", grouped by patient and stratified by class; str [n].

    Patients are drawn into splits one by one, in random order. The odds of a split are the room that it has left
    for the classes of the patient. So a patient with many images is in each split as often as the fractions say,
    unless it alone would be more than half of a class there. Then single patients move, small ones first, as long
    as this lowers the sum over splits s and classes c of
    (share of c's images in s - fraction of s)^2 / fraction of s.
    A class that is absent from a split costs more than any imbalance.

    Why not StratifiedGroupKFold of scikit-learn: its folds have equal size, so that 15 and 30 % take 3 and 6 of 20
    folds, and a patient larger than a fold unbalances them. On 555 images of 357 patients (one with 28 of the 111
    images of a class) its worst class missed its share by 0.17 to 0.18; this function by 0.003 in the median and
    0.018 at most over 300 seeds. On a phantom of 100 images it left a class out of a split.

    A patient may have images of several classes. The order of rows does not matter. Raises InputError with fewer
    than two classes, if a class has fewer than three patients, or if not every split can have every class.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise InputError(f"data: at least two classes are needed, found {some(names) or 'none'}")
    fractions = [1 - val_fraction - test_fraction, val_fraction, test_fraction]
    return np.array(SPLITS)[_draw(labels, patients, fractions, np.random.default_rng([seed, 2]), _too_few)]


def val_from_train(
    labels: Sequence[str], patients: Sequence[str], splits: Sequence[str], *, val_fraction: float, seed: int
) -> np.ndarray:
    """`splits` ("train" and "test") with `val_fraction` of the images in train as "val"; str [n].

    Grouped by patient and stratified by class, as in `assign_splits`. Raises InputError if a class has fewer than
    two patients in train.
    """
    splits = np.asarray(splits, dtype=object).copy()
    train = np.flatnonzero(splits == "train")

    def too_few(name: str, n: int) -> str:
        return (
            f"data: class '{name}' has too few patients in train to give val one: add a val folder, or set "
            "given_splits to ignore"
        )

    labels, patients = np.asarray(labels, dtype=str)[train], np.asarray(patients, dtype=str)[train]
    split = _draw(labels, patients, [1 - val_fraction, val_fraction], np.random.default_rng([seed, 3]), too_few)
    splits[train[split == 1]] = "val"
    return splits


def check_given_splits(manifest: pd.DataFrame, *, where: str) -> None:
    """Raise InputError if a split is missing, a patient is in two, or a class is not in all. `where`: the data."""
    found = sorted(set(manifest["split"]))
    if found != sorted(SPLITS):
        raise InputError(
            f"{where}: the split column has {some(found)}: it needs train, val and test and nothing else; "
            "leave the column out to have the splits made"
        )
    spread = manifest.groupby("patient_id")["split"].agg(lambda values: ", ".join(sorted(set(values))))
    torn = [f"{patient} ({splits})" for patient, splits in spread.items() if ", " in splits]
    if torn:
        raise InputError(
            f"{where}: {len(torn)} patients are in more than one split: {some(torn)}: all images of a patient "
            "belong in one split: correct that, or set given_splits to ignore",
            items=torn,
        )
    if manifest["label"].nunique() < 2:
        raise InputError(f"{where}: at least two classes are needed, found {manifest['label'].iloc[0]}")
    table = pd.crosstab(manifest["label"], manifest["split"])
    for name, row in table.iterrows():
        absent = [split for split in SPLITS if row[split] == 0]
        if absent:
            patients = manifest.loc[manifest["label"] == name, "patient_id"].nunique()
            raise InputError(
                f"{where}: class '{name}' ({patients} patients) has no image in {', '.join(absent)}: every class "
                "needs images in every split; correct the given splits, set given_splits to ignore, or raise "
                "max_images_per_class if that is what cut the class down"
            )


def _draw(
    labels: Sequence[str],
    patients: Sequence[str],
    fractions: Sequence[float],
    rng: np.random.Generator,
    too_few: Callable[[str, int], str],
) -> np.ndarray:
    """The number of each image's split, int [n].

    If not every split can have every class, raises InputError with the message `too_few(class, its patients)`.
    """
    label_names, label = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    patient_names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    counts = np.zeros((len(patient_names), len(label_names)))
    np.add.at(counts, (patient, label), 1)
    shares = counts / counts.sum(axis=0)
    for _ in range(20):  # rarely no single move helps an absent class: then start again
        order = rng.permutation(len(patient_names))
        split = np.empty(len(order), int)
        split[order] = _allocate(shares[order], np.array(fractions), rng)
        present = np.array([(shares[split == s] > 0).any(axis=0) for s in range(len(fractions))])
        if present.all():
            return split[patient]
    having = (counts > 0).sum(axis=0)
    absent = min(np.flatnonzero(~present.all(axis=0)), key=lambda number: having[number])
    raise InputError(too_few(label_names[absent], having[absent]))


def _allocate(shares: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Split number of each patient, int [patients]; `shares` [patients, classes] sums to 1 over patients."""
    fits = (shares[:, None, :] <= fractions[:, None] / 2).all(axis=-1)
    fits[~fits.any(axis=1), fractions.argmax()] = True
    have = np.zeros((len(fractions), shares.shape[1]))
    split = np.zeros(len(shares), int)
    for p, chance in enumerate(rng.random(len(shares))):
        # Not the split where the imbalance grows least: for large patients that is nearly always the largest.
        room = np.clip(fractions[:, None] - have, 0, None) @ shares[p] * fits[p]
        odds = np.cumsum(room if room.sum() > 1e-12 else fractions * fits[p])
        split[p] = np.searchsorted(odds, chance * odds[-1], side="right")
        have[split[p]] += shares[p]

    size = shares.sum(axis=1)
    tiny = shares[shares > 0].min() / 2  # below this: no image, only rounding

    def cost(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        f = fractions[which][:, None]
        return ((rows - f) ** 2 / f + _ABSENT * (rows < tiny)).sum(axis=-1)

    everyone, all_splits = np.arange(len(shares)), np.arange(len(fractions))
    while True:
        now = cost(have, all_splits)
        leave = cost(have[split] - shares, split) - now[split]
        enter = np.stack([cost(have[s] + shares, np.full(len(shares), s)) - now[s] for s in all_splits], axis=1)
        change = leave[:, None] + enter
        change[everyone, split] = 0
        lowers = change < -1e-9
        if not lowers.any():
            return split
        fills = change < -_ABSENT / 2
        chosen = fills if fills.any() else lowers
        # Move the smallest patients first, so that large ones stay where chance put them.
        chosen &= (size == size[chosen.any(axis=1)].min())[:, None]
        p, s = np.unravel_index(np.where(chosen, change, 0).argmin(), change.shape)
        split[p] = s
        have = np.stack([shares[split == k].sum(axis=0) for k in all_splits])


def _too_few(name: str, n: int) -> str:
    return (
        f"data: class '{name}' has {n} patient{'s' if n != 1 else ''}, too few for each of train, val and "
        "test to hold one: add images of more patients, leave the class out or merge it with another, or raise "
        "max_images_per_class if that is what cut it down"
    )
