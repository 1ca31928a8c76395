"""What is known of each image without its pixels, as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from cxr.data.checks.files import Look

_LEVELS = 20  # of a text variable; rarer ones are put together


def variables(
    rows: pd.DataFrame, looks: Sequence[Look], extra: pd.DataFrame | None
) -> dict[str, tuple[str, np.ndarray]]:
    """What is known about each image besides its pixels: name to (kind, values float64 [n], NaN if unknown).

    Kinds: "file" (headers), "table" (other columns of the user's table), "name" (of file, folder and patient: no
    network sees them, but they may say where an image comes from). Variables with one value, and texts that equal
    the label, are left out.
    """
    raw: dict[str, tuple[str, pd.Series]] = {}
    headers = [look.header for look in looks]
    for name in ("width", "height", "bits", "frames", "mode", "format"):
        raw[name] = "file", pd.Series([getattr(header, name) for header in headers])
    raw["aspect"] = "file", raw["width"][1] / raw["height"][1]
    raw["file_size"] = "file", pd.Series([look.size for look in looks])
    raw["bytes_per_pixel"] = "file", raw["file_size"][1] / (raw["width"][1] * raw["height"][1])
    for name in sorted({key for header in headers for key in header.details}):
        raw[name] = "file", pd.Series([str(header.details.get(name, "")) for header in headers])
    for name in [] if extra is None else extra.columns:
        # a column may also be called "width"
        raw[f"column {name}"] = "table", extra[name].reindex(rows["path"]).fillna("").reset_index(drop=True)
    paths = [PurePosixPath(path) for path in rows["path"]]
    raw["name_prefix"] = "name", pd.Series([_letters(path.stem) for path in paths])
    raw["name_length"] = "name", pd.Series([len(path.stem) for path in paths])
    raw["patient_prefix"] = "name", pd.Series([_letters(patient) for patient in rows["patient_id"]])
    for depth in range(min(len(path.parts) for path in paths) - 1):
        raw[f"folder_{depth + 1}"] = "name", pd.Series([path.parts[depth] for path in paths])
    label = rows["label"].str.casefold().to_numpy()
    out = {}
    for name, (kind, values) in raw.items():
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            if (values.str.strip().str.casefold().to_numpy() == label).mean() > 0.9:
                continue
            for suffix, numbers in _numbers(values.astype(str)):
                out[name + suffix] = kind, numbers
        else:
            out[name] = kind, values.to_numpy(dtype=float)
    return {name: (kind, values) for name, (kind, values) in out.items() if _varies(values)}


def _letters(text: str) -> str:
    return re.match(r"[^\W\d_]*", text).group().casefold()


def _varies(values: np.ndarray) -> bool:
    return len(np.unique(values)) > 1  # NaN is one value


def _numbers(values: pd.Series) -> Iterable[tuple[str, np.ndarray]]:
    """A text as numbers: itself, the numbers in it ("1024x800 L" has two), or a code for each frequent text."""
    values = values.str.strip()
    known = values[values != ""]
    plain = pd.to_numeric(values, errors="coerce")
    if len(known) and plain.notna().sum() >= 0.9 * len(known):
        yield "", plain.to_numpy(dtype=float)
        return
    counts = known.value_counts()
    if len(counts) > _LEVELS:
        inside = known.str.findall(r"\d+(?:\.\d+)?")
        if inside.str.len().nunique() == 1 and 1 <= len(inside.iloc[0]) <= 4:
            for place in range(len(inside.iloc[0])):
                numbers = pd.Series(np.nan, values.index)
                numbers[known.index] = inside.str[place].astype(float)
                yield f" [{place + 1}]", numbers.to_numpy()
            return
    codes = {text: code for code, text in enumerate(counts.index[:_LEVELS], start=1)}
    # Sort by text if all fit, so that codes do not depend on ties in the counts.
    if len(counts) <= _LEVELS:
        codes = {text: code for code, text in enumerate(sorted(counts.index), start=1)}
    yield "", np.array([codes.get(text, 0 if text == "" else _LEVELS + 1) for text in values], float)
