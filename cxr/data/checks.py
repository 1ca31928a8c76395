"""Checks of a data set before anything is trained on it: what is broken, copied, or betrays the class by itself.

`run` looks at the files' headers and the user's table; with `full` it decodes every pixel too. Nothing here needs
TensorFlow or MLflow. Thresholds, and what they were chosen on: docs/checks.md.
"""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage, special, stats
from scipy.fft import dctn
from tqdm import tqdm

from cxr.core.errors import InputError
from cxr.core.params import DataParams, StudyParams
from cxr.data import images, layouts, loading
from cxr.data.images import Unusable
from cxr.statistics import estimates, planning

Severity = Literal["error", "warning", "note"]

THUMB = 32  # side of the thumbnails that are hashed and compared
NEAR_BITS = 10  # of 63: candidates for near duplicates
NEAR_CORRELATION = 0.95  # of the thumbnails without their coarse shading: what makes a candidate a near duplicate
CONSTANT = 4.0  # grey values of 255: an image whose thumbnail's standard deviation is smaller shows nothing
BETRAYS = 0.05  # balanced accuracy above chance from which metadata are reported, if significant too
ALPHA = 0.01  # of that significance, over all variables and their joint test (Bonferroni)
FEW_PATIENTS = 10  # of a class in the test split: fewer are warned of
# Folds share training images, so where nothing betrays the class their accuracy varies by 1.2 to 1.5 times what
# patients alone would give (simulated: docs/checks.md); a p value counts that.
_SPREAD = 1.5
_SAMPLE = 20_000  # images on which metadata are tested, patients whole
_SHOWN = 24  # pictures a finding
_LEVELS = 20  # of a text variable; rarer ones are taken together
_TAIL = 4096  # bytes in which a file's end mark has to lie: some writers leave a few behind it


@dataclass(frozen=True)
class Picture:
    """Images side by side, each uint8 [h, w], under one caption."""

    caption: str
    images: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Finding:
    """What one check found. `files` are paths as in the manifest; `text` is plain text, never HTML."""

    check: str
    severity: Severity
    text: str
    table: pd.DataFrame | None = None
    files: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All findings, errors first. `counts`: patients and images by class and split; `patients`: all of them."""

    name: str
    source: str
    full: bool
    findings: list[Finding]
    counts: pd.DataFrame
    patients: int
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]


@dataclass(frozen=True)
class _Look:
    """What is known of one file. `thumb`: uint8 [THUMB, THUMB], None where no pixel was decoded."""

    header: Any = None
    size: int = 0
    trouble: str = ""
    thumb: np.ndarray | None = None


def run(settings: StudyParams | DataParams, *, full: bool = False, manifest: pd.DataFrame | None = None) -> Report:
    """Check the data of `settings`: their headers, or with `full` every pixel too.

    Parameters
    ----------
    settings : of a study (then class counts are held against its margins too) or of the data alone.
    full : decode every file: finds what is damaged in the middle, near duplicates, images that show nothing.
    manifest : `data.build_manifest(settings)` if it is at hand; made here otherwise, which reads every byte.

    Returns
    -------
    Report. Raises InputError, as `build_manifest`, where there is no data set to check.
    """
    began = time.perf_counter()
    found: list[Finding] = []
    if manifest is None:
        manifest, found = _manifest(settings)
    counts = _counts(manifest)
    if manifest is not None:
        root = loading.data_root(settings)
        if root is None:
            found.append(Finding("phantom", "note", "synthetic images: only the class counts are checked"))
        else:
            found += _files(manifest, root, settings, full)
        found += class_counts(manifest, settings)
    order = ("error", "warning", "note")
    found.sort(key=lambda finding: order.index(finding.severity))
    patients = 0 if manifest is None else manifest["patient_id"].nunique()
    return Report(settings.name, settings.data, full, found, counts, patients, time.perf_counter() - began)


def _manifest(settings: DataParams) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The manifest that a study would have, and what building it said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            manifest = loading.build_manifest(settings)
        except InputError as error:
            if not error.items:
                raise
            text = f"{error} (all of them are listed; the other checks wait until this is put right)"
            return None, [Finding("layout", "error", text, pd.DataFrame({"found": error.items}))]
    texts = [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
    # Copies in two splits and files that are left out are findings of their own, with all their names.
    own = ("byte for byte", "(on_bad_image: skip)")
    return manifest, [Finding("layout", "warning", t) for t in texts if not any(words in t for words in own)]


def _counts(manifest: pd.DataFrame | None) -> pd.DataFrame:
    if manifest is None:
        return pd.DataFrame()
    table = manifest.groupby(["label", "split"]).agg(
        patients=("patient_id", "nunique"), images=("image_id", "size")
    )
    table = table.unstack("split", fill_value=0)
    table.columns = [f"{split} {what}" for what, split in table.columns]
    wanted = [f"{split} {what}" for split in ("train", "val", "test") for what in ("patients", "images")]
    return table.reindex(columns=wanted, fill_value=0).rename_axis("class").reset_index()


# --- files ----------------------------------------------------------------------------------------


def _files(manifest: pd.DataFrame, root: Path, settings: DataParams, full: bool) -> list[Finding]:
    looks = _look_at_all(manifest, root, full)
    good = np.array([not look.trouble for look in looks])
    found = [*_unreadable(manifest, looks, settings), *_exact_duplicates(manifest)]
    rows = manifest[good].reset_index(drop=True)
    kept = [look for look in looks if not look.trouble]
    if full and kept:
        thumbs = np.stack([look.thumb for look in kept])
        flat = thumbs.reshape(len(thumbs), -1).std(axis=1) < CONSTANT
        found += _near_constant(rows[flat], thumbs[flat], root)
        shows = rows[~flat].reset_index(drop=True)
        found += _near_duplicates(shows, thumbs[~flat], root)
        found += _brightness(shows, thumbs[~flat])
    if kept:
        found += _betrayed(rows, variables(rows, kept, layouts.extra_columns(settings)))
    return found


def _look_at_all(manifest: pd.DataFrame, root: Path, full: bool) -> list[_Look]:
    what = "decoding" if full else "headers"
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4) as pool:
        work = pool.map(lambda path: _look(root / path, full), manifest["path"])
        return list(tqdm(work, total=len(manifest), desc=what, unit="image", delay=2))


def _look(path: Path, full: bool) -> _Look:
    try:
        with path.open("rb") as file:
            header = images.header(file)
            size = file.seek(0, 2)
            # of files with several images only `decode` knows whether they will do
            whole = header.frames == 1 and _has_end(file, header.format, size)
        if whole and not full:
            return _Look(header, size)
        # A file without its end mark is judged by decoding it, for some viewers' files lack it and are whole.
        thumb = images.square(images.decode(path.read_bytes()), THUMB)
        return _Look(header, size, thumb=thumb)
    except Unusable as trouble:
        return _Look(trouble=str(trouble))
    except OSError as error:
        return _Look(trouble=f"cannot be read: {error.strerror or error}")


def _has_end(file: BinaryIO, kind: str, size: int) -> bool:
    """Whether the end of the file is there, as far as its format has one to look for."""
    if kind in ("JPEG", "PNG"):
        file.seek(max(0, size - _TAIL))
        return (b"\xff\xd9" if kind == "JPEG" else b"IEND") in file.read()
    if kind == "TIFF":
        file.seek(0)
        with Image.open(file, formats=["TIFF"]) as image:
            tags = image.tag_v2
            pairs = [(tags.get(a, ()), tags.get(b, ())) for a, b in ((273, 279), (324, 325))]
            return all(at + n <= size for starts, counts in pairs for at, n in zip(starts, counts, strict=False))
    return True


def _unreadable(manifest: pd.DataFrame, looks: Sequence[_Look], settings: DataParams) -> list[Finding]:
    bad = [(path, look.trouble) for path, look in zip(manifest["path"], looks, strict=True) if look.trouble]
    skipped = [(item["path"], item["reason"]) for item in manifest.attrs.get("skipped", [])]
    if not bad and not skipped:
        return []
    bad += skipped
    total = len(manifest) + len(skipped)
    skip = settings.on_bad_image == "skip"
    few = len(bad) <= settings.max_skipped_fraction * total
    if skip and few:
        severity, advice = "warning", "they are left out (on_bad_image: skip)"
    elif skip:
        severity, advice = "error", f"more than max_skipped_fraction ({settings.max_skipped_fraction:g})"
    else:
        severity, advice = "error", "restore or remove them, or set on_bad_image: skip"
    text = f"{len(bad)} of {total} files cannot be used: {advice}"
    table = pd.DataFrame(bad, columns=["file", "reason"])
    return [Finding("unreadable", severity, text, table, table["file"].tolist())]


# --- copies ---------------------------------------------------------------------------------------


def _exact_duplicates(manifest: pd.DataFrame) -> list[Finding]:
    """Files that are the same byte for byte: one finding for those across splits, one for the others."""
    copies = manifest[manifest["sha256"].duplicated(keep=False)]
    if copies.empty:
        return []
    groups = copies.groupby("sha256")
    across = groups["split"].transform("nunique") > 1
    labels = groups["label"].transform("nunique")
    found = []
    for rows, severity, where, advice in (
        (copies[across], "error", "and lie in more than one split", "drop the copies or give them one patient_id"),
        (copies[~across], "warning", "within one split", "drop the copies: they count twice"),
    ):
        if len(rows):
            number = rows["sha256"].nunique()
            torn = rows.loc[labels[rows.index] > 1, "sha256"].nunique()
            also = f"; {torn} under two classes" if torn else ""
            same = "image" if number == 1 else f"{number} images"
            text = f"{len(rows)} files show the same {same}, byte for byte, {where}{also}: {advice}"
            table = rows.sort_values(["sha256", "path"]).assign(group=lambda r: r["sha256"].str[:8])
            table = table[["group", "path", "label", "patient_id", "split"]].reset_index(drop=True)
            found.append(Finding("exact duplicates", severity, text, table, table["path"].tolist()))
    return found


def perceptual_hash(thumbs: np.ndarray) -> np.ndarray:
    """63 bits of each image, uint64 [n]: the signs, about their median, of its lowest 8 x 8 cosine coefficients.

    `thumbs`: uint8 [n, side, side]. The constant coefficient is left out, so brightness and contrast do not count.
    """
    waves = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(thumbs), 64)[:, 1:]
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(63, dtype=np.uint64))


def near_pairs(thumbs: np.ndarray) -> pd.DataFrame:
    """Pairs of images that are copies of each other but for scale, compression, brightness or contrast.

    Candidates differ in at most NEAR_BITS of their 63 bits; of these, copies are those whose thumbnails, freed
    from coarse shading, correlate by NEAR_CORRELATION or more. Returns columns first, second (row numbers), bits,
    correlation. All pairs, as blocks of XORed integers.
    """
    hashes = perceptual_hash(thumbs)
    fine = thumbs.astype(np.float32)
    fine -= ndimage.gaussian_filter(fine, (0, 3, 3))
    fine = fine.reshape(len(fine), -1)
    fine -= fine.mean(axis=1, keepdims=True)
    fine /= np.maximum(np.linalg.norm(fine, axis=1, keepdims=True), 1e-6)
    parts = []
    for start in range(0, len(hashes), 512):
        bits = np.bitwise_count(hashes[start : start + 512, None] ^ hashes[None, start:])
        one, two = np.nonzero(bits <= NEAR_BITS)
        later = two > one
        one, two = one[later], two[later]
        like = np.concatenate(
            [
                np.einsum("ij,ij->i", fine[start + one[k : k + 4096]], fine[start + two[k : k + 4096]])
                for k in range(0, len(one), 4096)
            ]
            or [np.empty(0, np.float32)]
        )
        keep = like >= NEAR_CORRELATION
        parts.append(
            pd.DataFrame(
                {
                    "first": start + one[keep],
                    "second": start + two[keep],
                    "bits": bits[one[keep], two[keep]].astype(int),
                    "correlation": like[keep].astype(float),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).sort_values("correlation", ascending=False, ignore_index=True)


def _near_duplicates(rows: pd.DataFrame, thumbs: np.ndarray, root: Path) -> list[Finding]:
    if len(rows) < 2:
        return []
    pairs = near_pairs(thumbs)
    one, two = rows.iloc[pairs["first"]].reset_index(drop=True), rows.iloc[pairs["second"]].reset_index(drop=True)
    table = pd.DataFrame(
        {
            "first": one["path"],
            "second": two["path"],
            "correlation": pairs["correlation"].round(3),
            "patients": np.where(one["patient_id"] == two["patient_id"], "same", "different"),
            "classes": np.where(one["label"] == two["label"], "same", "different"),
            "splits": np.where(one["split"] == two["split"], one["split"], one["split"] + ", " + two["split"]),
        }
    )
    table = table[(one["sha256"] != two["sha256"]).to_numpy()].reset_index(drop=True)
    across = table["splits"].str.contains(",")
    found = []
    for part, severity, where, advice in (
        (table[across], "warning", "in two splits", "look at them; drop one or give both one patient_id"),
        (table[~across], "note", "within one split", "look at them; drop one if it counts twice"),
    ):
        if len(part):
            part = part.reset_index(drop=True)
            pairs = "pair of images looks" if len(part) == 1 else "pairs of images look"
            text = f"{len(part)} {pairs} like copies of each other {where}: {advice}"
            pictures = [
                Picture(f"{row.first} ({row.splits}) | {row.second}", _shown(root, row.first, row.second))
                for row in part.head(_SHOWN).itertuples()
            ]
            files = sorted({*part["first"], *part["second"]})
            found.append(Finding("near duplicates", severity, text, part, files, pictures))
    return found


def _near_constant(rows: pd.DataFrame, thumbs: np.ndarray, root: Path) -> list[Finding]:
    if rows.empty:
        return []
    table = pd.DataFrame(
        {
            "file": rows["path"].to_numpy(),
            "class": rows["label"].to_numpy(),
            "mean grey": thumbs.mean(axis=(1, 2)).round(1),
            "standard deviation": thumbs.std(axis=(1, 2)).round(2),
        }
    )
    text = (
        f"{_number(len(rows), 'image')} nearly one grey (standard deviation under {CONSTANT:g} of 255): blank, or "
        "with values that use few of the file's bits, so that all is dark: leave out, or rescale"
    )
    pictures = [Picture(path, _shown(root, path)) for path in table["file"].head(_SHOWN)]
    return [Finding("near-constant images", "warning", text, table, table["file"].tolist(), pictures)]


def _number(n: int, what: str) -> str:
    return f"{n} {what} is" if n == 1 else f"{n} {what}s are"


def _shown(root: Path, *paths: str, side: int = 160) -> tuple[np.ndarray, ...]:
    return tuple(images.square(images.decode((root / path).read_bytes()), side) for path in paths)


# --- what betrays the class -----------------------------------------------------------------------


def variables(
    rows: pd.DataFrame, looks: Sequence[_Look], extra: pd.DataFrame | None
) -> dict[str, tuple[str, np.ndarray]]:
    """What is known of each image but its pixels: name to (kind, values), values float64 [n] with NaN for unknown.

    Kinds: "file" (headers), "table" (the user's further columns), "name" (of file, folder and patient, which no
    network sees, but which say where an image comes from). What is the same for all images is left out, and so
    is a text that is the label itself.
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
        # a column may be called "width" too, and says something else than the file
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
    return len(np.unique(values)) > 1  # NaN counts as one value


def _numbers(values: pd.Series) -> Iterable[tuple[str, np.ndarray]]:
    """A text as numbers: as it reads, the numbers in it ("1024x800 L" has two), or one for each frequent text."""
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
    # Sorted by text where all fit, so that the codes do not depend on ties in the counts.
    if len(counts) <= _LEVELS:
        codes = {text: code for code, text in enumerate(sorted(counts.index), start=1)}
    yield "", np.array([codes.get(text, 0 if text == "" else _LEVELS + 1) for text in values], float)


def _betrayed(rows: pd.DataFrame, known: dict[str, tuple[str, np.ndarray]]) -> list[Finding]:
    """Findings on how well the class is named by metadata alone, cross-validated over patients."""
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None or not known:
        what = "nothing varies" if folds is not None else "a class has fewer than three patients"
        return [Finding("metadata", "note", f"whether metadata name the class cannot be tested: {what}")]

    def judge(names: list[str], together: bool, tests: int) -> dict[str, Any]:
        values = np.column_stack([known[name][1][sample] for name in names])
        return _judge(
            partial(_forest, len(sample)) if together else _tree,
            values,
            label,
            patients,
            folds,
            label_names,
            tests,
        )

    tests = 2 * len(known)
    table = pd.DataFrame(
        [{"variable": name, "kind": kind} | judge([name], False, tests) for name, (kind, _) in known.items()]
    ).sort_values("balanced accuracy", ascending=False, ignore_index=True)
    found = []
    seen = [name for name, (kind, _) in known.items() if kind != "name"]
    part = table[table["kind"] != "name"].reset_index(drop=True)
    chance = 1 / len(label_names)
    if seen:
        joint = judge(seen, True, 2)
        betrays = part[part["betrays"]]
        if joint["betrays"] or len(betrays):
            best = joint if joint["betrays"] else betrays.iloc[0]
            text = (
                f"metadata alone name the class with a balanced accuracy of {_interval(best)} (chance "
                f"{chance:.2f}){_alone(betrays)}: a network can learn where an image comes from in place of the "
                "disease. Compare classes from the same source, or mind it in reading the maps"
            )
            rows_ = pd.DataFrame([{"variable": "all of these together", "kind": "all"} | joint])
            whole = pd.concat([rows_, part], ignore_index=True)
            found.append(Finding("metadata", "warning", text, whole))
        else:
            text = f"metadata do not name the class: balanced accuracy {_interval(joint)} (chance {chance:.2f})"
            found.append(Finding("metadata", "note", text, part))
    names = table[(table["kind"] == "name") & table["betrays"]].reset_index(drop=True)
    if len(names):
        text = (
            f"names say the class{_alone(names)}: harmless if files were named by class; if prefixes stand for "
            "hospitals, each class comes from its own"
        )
        found.append(Finding("names", "note", text, names))
    return found


def _brightness(rows: pd.DataFrame, thumbs: np.ndarray) -> list[Finding]:
    """What the coarsest look at the pixels says of the class: 8 x 8 grey values and a linear classifier."""
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None:
        return []
    coarse = thumbs[sample].reshape(-1, 8, THUMB // 8, 8, THUMB // 8).mean(axis=(2, 4)).reshape(-1, 64)
    judged = _judge(_linear, coarse, label, patients, folds, label_names, 1)
    text = (
        "a linear classifier of 8 x 8 grey values names the class with a balanced accuracy of "
        f"{_interval(judged)} (chance {1 / len(label_names):.2f}): what brightness, framing and build "
        "give without any detail"
    )
    table = pd.DataFrame([{"variable": "8 x 8 grey values", "kind": "pixels"} | judged])
    return [Finding("coarse brightness", "note", text, table)]


def _interval(row: Any) -> str:
    return f"{row['balanced accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _alone(table: pd.DataFrame) -> str:
    parts = [
        f"{row['variable']} {row['balanced accuracy']:.2f} (most: {row['most']})"
        for _, row in table.head(4).iterrows()
    ]
    return f"; each by itself: {', '.join(parts)}" if parts else ""


def _sampled(patients: pd.Series) -> np.ndarray:
    """Row numbers of at most about _SAMPLE images, patients whole."""
    if len(patients) <= _SAMPLE:
        return np.arange(len(patients))
    names, number = np.unique(patients.to_numpy(dtype=str), return_inverse=True)
    place = np.random.default_rng(0).permutation(len(names))[number]
    return np.flatnonzero(place < np.sort(place)[_SAMPLE])


def _folds(label: np.ndarray, patients: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(patients[label == k])) for k in range(label.max() + 1)) if len(label) else 0
    if fewest < 3 or label.max() < 1:
        return None
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    return list(splitter.split(label, label, patients))


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=5, class_weight="balanced", random_state=0)


def _forest(n: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        50,
        min_samples_leaf=5,
        max_features=None,
        class_weight="balanced",
        random_state=0,
        n_jobs=-1 if n > 2000 else 1,  # threads cost more than they save on few
    )


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))


def _judge(
    make: Callable[[], Any],
    values: np.ndarray,
    label: np.ndarray,
    patients: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
    label_names: Sequence[str],
    tests: int,
) -> dict[str, Any]:
    """Cross-validated balanced accuracy with its 95 % interval over patients, and the AUC of each class.

    Balanced accuracy is a mean of ratios, so its variance over patients is the sum of squares of each patient's
    influence on it. p: one-sided, see _SPREAD. "betrays": above chance at ALPHA / tests and by BETRAYS or more.
    """
    from sklearn.metrics import roc_auc_score

    k = len(label_names)
    scores = np.zeros((len(label), k))
    for train, test in folds:
        model = make().fit(values[train], label[train])
        scores[np.ix_(test, model.classes_)] = model.predict_proba(values[test])
    right = scores.argmax(axis=1) == label
    of_class = np.bincount(label, minlength=k)
    recall = np.bincount(label, right, minlength=k) / of_class
    influence = np.bincount(patients, (right - recall[label]) / (k * of_class[label]))
    # All right or all wrong in every class is no certainty: at least the binomial variance of shrunken recalls.
    shrunk = (recall * of_class + 1) / (of_class + 2)
    least = (shrunk * (1 - shrunk) / of_class).sum() / k**2
    value, error = float(recall.mean()), math.sqrt(max((influence**2).sum(), least))
    auc = [float(roc_auc_score(label == number, scores[:, number])) for number in range(k)]
    chance = 1 / k
    p = float(stats.norm.sf((value - chance) / (_SPREAD * error)))
    best = int(np.argmax(auc))
    return {
        "balanced accuracy": round(value, 3),
        "low": round(max(0.0, value - 1.96 * error), 3),
        "high": round(min(1.0, value + 1.96 * error), 3),
        "p": "<0.0001" if p < 1e-4 else f"{p:.4f}",
        "betrays": bool(p < ALPHA / tests and value >= chance + BETRAYS),
        "most": f"{label_names[best]}, AUC {auc[best]:.2f}",
        **{f"AUC {name}": round(area, 3) for name, area in zip(label_names, auc, strict=True)},
    }


# --- class counts ---------------------------------------------------------------------------------


def class_counts(manifest: pd.DataFrame, settings: DataParams) -> list[Finding]:
    """What the patients of each class in the test split can show, beside what the study asks of them."""
    patients = manifest[manifest["split"] == "test"].groupby("label")["patient_id"].nunique()
    patients = patients.reindex(sorted(set(manifest["label"])), fill_value=0)
    half = {name: 1.96 * auc_error(0.95, n, int(patients.sum() - n)) for name, n in patients.items()}
    table = pd.DataFrame(
        {
            "class": patients.index,
            "test patients": patients.to_numpy(),
            "AUC 0.95 known to within": [round(half[name], 3) for name in patients.index],
        }
    )
    few = patients[patients < FEW_PATIENTS]
    found = []
    if len(few):
        names = ", ".join(f"{name} {n}" for name, n in few.items())
        text = (
            f"fewer than {FEW_PATIENTS} patients in the test split: {names}: nothing can be said of these classes "
            "by themselves; add patients, merge classes, or raise test_fraction"
        )
        found.append(Finding("class counts", "warning", text, table))
    if not isinstance(settings, StudyParams):
        return found
    # Errors of a mean over classes that share their patients, from those of each: an upper bound is the mean
    # (all errors alike), a lower one takes them as independent. The upper is the honest one here.
    wide = float(np.mean(list(half.values())))
    text = (
        f"{patients.sum()} test patients, {patients.min()} to {patients.max()} a class: a class' AUC of 0.95 is "
        f"known to within ±{wide:.3f} or so, where auc_margin asks of its change ±{settings.auc_margin:g}; the "
        "same patients in both stages make the change somewhat easier to know"
    )
    found.append(Finding("class counts", "note", text, None if few.size else table))
    found.append(_seeds(int(patients.sum()), settings))
    return found


def auc_error(auc: float, positive: int, negative: int) -> float:
    """Standard error of an AUC from so many patients with and without the class; NaN without either.

    Hanley and McNeil's (1982) variance of the Mann-Whitney statistic, with normal scores of equal spread in place
    of their exponential ones, which at an AUC of 0.95 make the error a third too large.
    """
    if not positive or not negative:
        return math.nan
    z = special.ndtri(auc)
    both = auc - 2 * special.owens_t(z, 1 / math.sqrt(3))  # that two with the class pass one without, or one both
    variance = auc * (1 - auc) + (positive + negative - 2) * (both - auc**2)
    return math.sqrt(variance / (positive * negative))


def _seeds(patients: int, settings: StudyParams) -> Finding:
    """The chance to see a difference between architectures, with the spreads that docs/inference.md assumes."""
    seeds = len(settings.seed)
    if seeds == 1:
        text = "one seed: results describe these checkpoints only, not another training of the same networks"
        return Finding("seeds", "warning", text)
    # Of a difference of medians: an image's own noise 0.15 in each network (a median's variance is pi/2 that of
    # a mean), a seed's luck 0.02 in each; what patients have in common cancels.
    residual = 2 * math.pi / 2 * 0.15**2 / max(patients, 2)
    between = 2 * 0.02**2 + residual
    plan = estimates.Estimate(
        *(0.0, math.sqrt(between / seeds), seeds - 1.0, math.nan, math.nan, 0.95),
        *(seeds, max(patients, 2), between, 0.0, residual),
    )
    chances = {effect: planning.power(plan, effect=effect) for effect in (0.05, 0.1)}
    text = (
        f"{seeds} seeds and {patients} test patients: a difference of 0.05 in {settings.primary_metric} between "
        f"two architectures is found with a chance of {chances[0.05]:.2f}, one of 0.1 with {chances[0.1]:.2f}, if "
        "seeds and images vary as docs/inference.md assumes"
    )
    return Finding("seeds", "note", text)
