"""The phantom as a source of images: the rows of its manifest, their hashes, and rendering in processes.

An image has the path "phantom://<seed>/<index>". With a shortcut, "?marker=class" or "?marker=random"
follows: such an image has a token (see `rendering.render`). "?several" follows if it may have several findings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data import multi_label
from cxr.data.cache import source_hash
from cxr.data.phantom import cases, rendering
from cxr.data.reading import cores

# Rendering 128 x 128 pixels takes 10 ms, starting a process 1 s: give each process at least 2 s of work.
_PIXELS_A_PROCESS = 200 * 128**2
FOLDER = Path(__file__).parent
_PHANTOM = re.compile(r"phantom://(\d+)/(\d+)(?:\?marker=(class|random)|\?(several))?")


def with_random_markers(manifest: pd.DataFrame, lesion_contrast: float) -> pd.DataFrame:
    """The manifest of the same images with tokens that say nothing about the class (see `rendering.render`).

    Only `path` and `sha256` change.

    Args:
        manifest: of a phantom with a `shortcut`, whose images have tokens that show the class.
        lesion_contrast: the one that the manifest was made with; the hashes depend on it.

    Raises InputError for another lesion_contrast.
    """
    verify_phantom(manifest, lesion_contrast)
    paths = manifest["path"].str.replace("?marker=class", "?marker=random", regex=False)
    return manifest.assign(path=paths, sha256=phantom_hashes(paths, lesion_contrast))


def phantom_rows(settings: DataParams) -> pd.DataFrame:
    """image_id, label, patient_id, path and sha256 of the phantom's images, str.

    With `task: multi_label`, also a column for each finding (`cxr.data.multi_label`).
    """
    table = cases.catalogue(settings.phantom_images, settings.phantom_seed)
    token = "" if settings.shortcut == "none" else "?marker=class"
    own = ["image_id", "label", "patient_id"]
    if settings.task == "multi_label":
        token = "?several"
        patients = [cases.identity(settings.phantom_seed, index)[1] for index in table["index"]]
        found = [cases.findings(settings.phantom_seed, patient) for patient in patients]
        has = np.array([[name in of_patient for name in cases.FINDINGS] for of_patient in found])
        table["label"] = multi_label.texts(has, cases.FINDINGS)
        columns = [multi_label.PREFIX + name for name in cases.FINDINGS]
        table[columns] = np.where(has, "1", "0").astype(object)
        own += columns
    paths = [f"phantom://{settings.phantom_seed}/{index}{token}" for index in table["index"]]
    hashes = phantom_hashes(paths, settings.lesion_contrast)
    return table[own].assign(path=paths, sha256=hashes)


def generator_hash() -> str:
    """SHA-256 (hex) of the source of all modules that draw the phantom."""
    return source_hash(*sorted(FOLDER.glob("*.py")))


def phantom_hashes(paths: Iterable[str], lesion_contrast: float) -> list[str]:
    """A SHA-256 (hex) for each path, of all that its pixels depend on: path, contrast and the code that draws."""
    rest = f"lesion_contrast={float(lesion_contrast)!r} {generator_hash()}"
    return [hashlib.sha256(f"{path} {rest}".encode()).hexdigest() for path in paths]


def verify_phantom(manifest: pd.DataFrame, lesion_contrast: float) -> None:
    """Raise InputError if this code and contrast do not draw the images that the manifest names."""
    expected = phantom_hashes(manifest["path"], lesion_contrast)
    changed = (manifest["sha256"] != expected).sum()
    if changed:
        raise InputError(
            f"phantom: {changed} of {len(manifest)} images changed since the manifest was made: "
            f"lesion_contrast (now {lesion_contrast:g}) or the code in cxr/data/phantom is different: use the "
            "same ones again, or make a new manifest"
        )


def render_rows(
    manifest: pd.DataFrame, size: int, lesion_contrast: float, *, what: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """`rendering.render_stack` of up to 16 rows at a time, in the order of the manifest.

    Many images are rendered in processes, as rendering holds the GIL. They are joblib's: those of multiprocessing
    would run a caller's script a second time if it has no main guard.
    """
    found = [_PHANTOM.fullmatch(path) for path in manifest["path"]]
    keys = [
        (int(match.group(1)), match.group(3) or "side", bool(match.group(4)), int(match.group(2)))
        for match in found
    ]
    chunks = [
        (*kind, [index for *_, index in part][start : start + 16])
        for kind, part in ((key, list(group)) for key, group in groupby(keys, key=itemgetter(0, 1, 2)))
        for start in range(0, len(part), 16)
    ]
    jobs = min(cores(), max(1, len(keys) * size**2 // _PIXELS_A_PROCESS))
    task = joblib.delayed(rendering.render_stack)
    tasks = [
        task(seed, part, size, lesion_contrast=lesion_contrast, marker=marker, several=several)
        for seed, marker, several, part in chunks
    ]
    with tqdm(total=len(keys), desc=what, unit="image", delay=2) as bar:
        for part in joblib.Parallel(jobs, return_as="generator")(tasks):
            yield part
            bar.update(len(part[0]))


def is_phantom(manifest: pd.DataFrame) -> bool:
    """Whether the images are the phantom's."""
    return bool(manifest["path"].str.startswith("phantom://").all())
