"""Weights of classification heads as a file: training writes it, attribution reads it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr.core.errors import InputError

Head = tuple[np.ndarray, ...]
"""The weights of a head, in the order of its layers: (kernel [d, n_classes], bias [n_classes]) for ours."""


def save_heads(path: str | Path, heads: Sequence[Head]) -> None:
    """Write heads to an `.npz` file (no pickle): the weights of head k as `k_0` (kernel), `k_1` (bias), ..."""
    arrays = {f"{k}_{i}": weight for k, head in enumerate(heads) for i, weight in enumerate(head)}
    with open(path, "wb") as file:  # NumPy would append a suffix to a name without
        np.savez(file, **arrays)


def load_heads(path: str | Path) -> list[Head]:
    """Read the heads that `save_heads` wrote, in order. Raises InputError if the file is not one of these."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as heads ({error}): run 1_train again") from None
    heads = []
    while f"{len(heads)}_0" in arrays:
        names = [f"{len(heads)}_{i}" for i in range(len(arrays))]
        heads.append(tuple(arrays.pop(name) for name in names if name in arrays))
    if arrays:
        raise InputError(f"{path}: holds {', '.join(arrays)} beside heads: give a file that save_heads wrote")
    return heads
