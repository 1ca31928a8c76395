"""Which image has which class and which patient, and the streams of random numbers."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np
import pandas as pd

CLASSES: tuple[str, ...] = ("cavities", "consolidation", "ground_glass", "interstitial", "normal")
FINDINGS = CLASSES[:-1]
"""What an image may have several of, if it is drawn with findings in place of one class."""
_HAS = 0.35  # the share of patients that have a finding, for each independently


# One cycle of the catalogue has 18 rounds; a round has one image of every class. Each class has 12 patients in a
# cycle, a quarter of them with several images: 9 x 1 + 2 + 3 + 4 = 18.
_VISITS = (1,) * 9 + (2, 3, 4)
_ROUNDS = sum(_VISITS)
_CYCLE_IMAGES = _ROUNDS * len(CLASSES)
_CYCLE_PATIENTS = len(_VISITS) * len(CLASSES)


class Stream(IntEnum):
    """Separate streams of random numbers (`random_stream`): no stream depends on the draws of another."""

    CATALOGUE = 0
    PATIENT = 1
    IMAGE = 2
    MARKER = 3
    NOISE = 4
    LESION = 5
    LESION_IMAGE = 6
    FINDINGS = 7


def catalogue(n_images: int, seed: int) -> pd.DataFrame:
    """The first `n_images` images of the data set `seed`: columns index, image_id, label, patient_id.

    Every five consecutive images (from a multiple of five on) have each class once, so that class counts differ
    by one at most. A patient has one class; one patient in four has two to four images. A row depends only on
    (seed, index), so a shorter catalogue is the beginning of a longer one.
    """
    rows = [identity(seed, index) for index in range(n_images)]
    return pd.DataFrame(
        {
            "index": np.arange(n_images, dtype=np.int64),
            "image_id": pd.Series([image_id_of(seed, index) for index in range(n_images)], dtype=str),
            "label": pd.Series([CLASSES[label] for label, _ in rows], dtype=str),
            "patient_id": pd.Series([patient_id_of(seed, patient) for _, patient in rows], dtype=str),
        }
    )


def identity(seed: int, index: int) -> tuple[int, int]:
    """The number of the class and of the patient of an image."""
    cycle, place = divmod(index, _CYCLE_IMAGES)
    return _cycle(seed, cycle)[place]


@lru_cache(maxsize=256)
def _cycle(seed: int, cycle: int) -> tuple[tuple[int, int], ...]:
    """(class, patient) of the images of one cycle. Numbers of patients are shuffled: they show no class."""
    rng = random_stream(seed, Stream.CATALOGUE, cycle)
    numbers = rng.permutation(_CYCLE_PATIENTS).reshape(len(CLASSES), len(_VISITS)) + cycle * _CYCLE_PATIENTS
    visits = [rng.permutation(np.repeat(row, _VISITS)) for row in numbers]
    order = [rng.permutation(len(CLASSES)) for _ in range(_ROUNDS)]
    return tuple((int(c), int(visits[c][r])) for r in range(_ROUNDS) for c in order[r])


def findings(seed: int, patient: int) -> tuple[str, ...]:
    """The findings of a patient: any number of FINDINGS, each independently of the others."""
    drawn = random_stream(seed, Stream.FINDINGS, patient).random(len(FINDINGS))
    return tuple(name for name, value in zip(FINDINGS, drawn, strict=True) if value < _HAS)


def image_id_of(seed: int, index: int) -> str:
    return f"phantom-s{seed}-{index:06d}"


def patient_id_of(seed: int, patient: int) -> str:
    return f"p{seed}-{patient:05d}"


def random_stream(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """Random numbers of a stream for one patient, image or cycle (`number`)."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, number]))
