"""Files of images and tables that tests write, and the settings to read them with."""

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data.manifest import build_manifest
from cxr.data.splits import SPLITS

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real-cxr5"
FRACTIONS = {"train": 0.55, "val": 0.15, "test": 0.30}
HEADER = ["path", "label", "patient_id"]


def noise(seed, shape=(12, 9)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(values, fmt="PNG", **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return path


def write_folder(root):
    """Two classes, six patients each, two images a patient, named p<patient>_<view>.png."""
    for c, name in enumerate(("ill", "well")):
        for patient in range(6):
            for view in range(2):
                number = 100 * c + 10 * patient + view
                put(root / name / f"p{c}{patient:02d}_{view}.png", noise(number))
    return root


def params(path="phantom", **more):
    return DataParams(data=str(path), **more)


def grouped(path, **more):
    return params(path, patient_pattern=r"(p\d+)_", **more)


def write_table(path, rows, columns=("path", "label", "patient_id")):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(columns)] + [",".join(row) for row in rows]) + "\n", encoding="utf-8")
    return path


def list_files(folder):
    """A manifest CSV beside the folder; patients are called 007 and the like."""
    rows = [
        (f"images/{file.parent.name}/{file.name}", file.parent.name, f"0{file.name[1:4]}")
        for file in sorted(folder.rglob("*.png"))
    ]
    return write_table(folder.parent / "list.csv", rows)


def rows_of(table):
    return [line.split(",") for line in table.read_text().splitlines()[1:]]


def split_table(labels, split):
    return pd.crosstab(np.asarray(labels), np.asarray(split)).reindex(columns=list(SPLITS), fill_value=0)


def refused(match, chosen):
    """Building the manifest of `chosen` says `match` on one line, before any warning."""
    with warnings.catch_warnings(), pytest.raises(InputError, match=match) as caught:
        warnings.simplefilter("error")
        build_manifest(chosen)
    assert "\n" not in str(caught.value)
