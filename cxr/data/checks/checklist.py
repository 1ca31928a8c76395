"""All checks of a data set in order: what a study should know about its data before anything is trained.

`run` reads the headers of the files and the user's table; with `full` it decodes every pixel. It needs neither
TensorFlow nor MLflow. docs/checks.md explains the thresholds and the data that they were chosen on.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from cxr.core.errors import InputError
from cxr.core.params import DataParams, StudyParams
from cxr.data import dicom, multi_label, pseudonyms
from cxr.data import manifest as data_manifest
from cxr.data.checks.copies import exact_duplicates, near_duplicates
from cxr.data.checks.files import CONSTANT, look_at_all, near_constant, unreadable
from cxr.data.checks.findings import Finding, Report
from cxr.data.checks.shortcuts import brightness, metadata, variables
from cxr.statistics import planning
from cxr.statistics.bootstrap import FEW_PATIENTS


def run(settings: StudyParams | DataParams, *, full: bool = False, manifest: pd.DataFrame | None = None) -> Report:
    """Check the data of `settings`.

    Args:
        settings: of a study (then the class counts are also compared with its margins), or of the data alone.
        full: decode every file. This finds damage inside files, near duplicates and images that show nothing.
        manifest: of `manifest.build_manifest(settings)`, if you have it (with `vary_split`, that of the first
            seed). Otherwise it is made here, which reads every byte.

    With `vary_split`, what concerns splits is checked for the first seed, and copies in two splits for every seed.
    Returns the report. Raises InputError like `build_manifest` if there is no data set to check.
    """
    began = time.perf_counter()
    found: list[Finding] = []
    if manifest is None:
        manifest, found = _manifest(settings)
    settings = pseudonyms.neutral(settings)
    counts = _counts(manifest)
    if manifest is not None:
        root = data_manifest.data_root(settings)
        if root is None:
            found.append(Finding("phantom", "note", "synthetic images: only the class counts are checked"))
        else:
            found += _files(manifest, root, settings, full)
        found += class_counts(manifest, settings)
        if isinstance(settings, StudyParams) and settings.vary_split:
            found += varied_splits(manifest, settings)
    order = ("error", "warning", "note")
    found.sort(key=lambda finding: order.index(finding.severity))
    seconds = time.perf_counter() - began
    if manifest is None:
        return Report(settings.name, settings.data, full, found, counts, "", 0, 0, seconds)
    what = "with {} findings" if multi_label.columns(manifest) else "in {} classes"
    classes, patients = what.format(len(data_manifest.classes(manifest))), manifest["patient_id"].nunique()
    return Report(settings.name, settings.data, full, found, counts, classes, len(manifest), patients, seconds)


def _manifest(settings: DataParams) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The manifest of a study with these settings, and findings from building it; None with an error instead."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            vary = isinstance(settings, StudyParams) and settings.vary_split
            manifest = data_manifest.build_manifest(settings, vary=settings.seed[0] if vary else None)
        except InputError as error:
            if not error.items or isinstance(error, pseudonyms.PrivateError):
                raise
            text = f"{error} (the table lists all; the other checks run when this is corrected)"
            return None, [Finding("layout", "error", text, pd.DataFrame({"found": error.items}))]
    texts = [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
    # Other checks report copies in two splits and skipped files, with all their names.
    own = ("byte for byte", "(on_bad_image: skip)")
    return manifest, [Finding("layout", "warning", t) for t in texts if not any(words in t for words in own)]


def _counts(manifest: pd.DataFrame | None) -> pd.DataFrame:
    """Patients and images of each class in each split; one row a class. Several findings count each."""
    if manifest is None:
        return pd.DataFrame()
    table = (
        multi_label.by_class(manifest)
        .groupby(["label", "split"])
        .agg(patients=("patient_id", "nunique"), images=("image_id", "size"))
    )
    table = table.unstack("split", fill_value=0)
    table.columns = [f"{split} {what}" for what, split in table.columns]
    wanted = [f"{split} {what}" for split in ("train", "val", "test") for what in ("patients", "images")]
    return table.reindex(columns=wanted, fill_value=0).rename_axis("class").reset_index()


def _files(
    manifest: pd.DataFrame, root: Path | pseudonyms.Folder, settings: DataParams, full: bool
) -> list[Finding]:
    """The checks that need image files."""
    looks = look_at_all(manifest, root, full)
    good = np.array([not look.trouble for look in looks])
    found = [*unreadable(manifest, looks, settings), *exact_duplicates(manifest)]
    rows = manifest[good].reset_index(drop=True)
    kept = [look for look in looks if not look.trouble]
    if full and kept:
        thumbs = np.stack([look.thumb for look in kept])
        flat = thumbs.reshape(len(thumbs), -1).std(axis=1) < CONSTANT
        found += near_constant(rows[flat], thumbs[flat], root)
        shows = rows[~flat].reset_index(drop=True)
        found += near_duplicates(shows, thumbs[~flat], root)
        found += brightness(shows, thumbs[~flat])
    if kept:
        # of the variables only their own names are shown, never a value
        real = root.undo(rows) if isinstance(root, pseudonyms.Folder) else rows
        found += metadata(rows, variables(real, kept, data_manifest.extra_columns(settings)))
        found += burned_in(rows, [dicom.is_burned_in(look.header.details) for look in kept])
    return found


def burned_in(rows: pd.DataFrame, burnt: Sequence[bool]) -> list[Finding]:
    """Images whose headers say that text is burnt into the pixels. `burnt`: of each row."""
    files = rows["path"][np.array(burnt, bool)].tolist()
    text = dicom.about_burned_in(len(files), len(rows))
    return [Finding("burnt-in text", "warning", text, pd.DataFrame({"file": files}), files)] if files else []


def class_counts(manifest: pd.DataFrame, settings: DataParams) -> list[Finding]:
    """How precisely the test patients of each class can measure an AUC, next to what the study asks for."""
    test = manifest[manifest["split"] == "test"]
    patients = multi_label.by_class(test).groupby("label")["patient_id"].nunique()
    patients = patients.reindex(data_manifest.classes(manifest), fill_value=0)
    everyone = test["patient_id"].nunique()
    half = {name: 1.96 * auc_error(0.95, n, int(everyone - n)) for name, n in patients.items()}
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
            f"fewer than {FEW_PATIENTS} patients in the test split: {names}: too few to say anything about these "
            "classes alone: add patients, merge classes, or raise test_fraction"
        )
        found.append(Finding("class counts", "warning", text, table))
    if not isinstance(settings, StudyParams):
        return found
    # The error of a mean over classes that share patients lies between that of independent errors and the mean
    # error (all errors equal). Take the larger one.
    wide = float(np.mean(list(half.values())))
    text = (
        f"{everyone} test patients, {patients.min()} to {patients.max()} a class: with so many patients "
        f"an AUC of 0.95 is known to about ±{wide:.3f}; auc_margin is ±{settings.auc_margin:g}. A change between "
        "stages is known a little better, as the patients are the same"
    )
    found.append(Finding("class counts", "note", text, None if few.size else table))
    found.append(_seeds(everyone, settings))
    return found


FEW_SHARED = 30  # images in the test sets of two seeds; warn of fewer


def varied_splits(manifest: pd.DataFrame, settings: StudyParams) -> list[Finding]:
    """How many test images seeds share if each has splits of its own, and copies that these splits tear apart.

    `manifest`: with the splits of the first seed. Raises InputError if those of a seed cannot have every class.
    """
    first, *others = settings.seed
    found = [
        Finding(
            "vary_split",
            "note",
            f"each training draws its splits with split_seed + seed ({len(settings.seed)} seeds): counts by split "
            f"are those of seed {first}",
        )
    ]
    by_seed = {first: manifest} | {seed: data_manifest.with_splits_of(manifest, settings, seed) for seed in others}
    for seed in others:
        torn = [finding for finding in exact_duplicates(by_seed[seed]) if finding.severity == "error"]
        found += [replace(finding, text=f"with the splits of seed {seed}: {finding.text}") for finding in torn]
    test = {seed: set(rows.loc[rows["split"] == "test", "image_id"]) for seed, rows in by_seed.items()}
    pairs = [(a, b, len(test[a] & test[b])) for a, b in combinations(settings.seed, 2)]
    if pairs:
        table = pd.DataFrame(pairs, columns=["seed", "other seed", "shared test images"])
        fewest = min(shared for *_, shared in pairs)
        text = (
            f"the baseline two seeds needs images in the test sets of both seeds: they share {fewest} or more of "
            f"{len(test[first])}"
        )
        few = fewest < FEW_SHARED
        advice = ": too few: raise test_fraction, or set vary_split to false" if few else ""
        found.append(Finding("vary_split", "warning" if few else "note", text + advice, table))
    return found


def auc_error(auc: float, positive: int, negative: int) -> float:
    """Standard error of an AUC with so many patients with and without the class; NaN if either is 0.

    Source: Hanley and McNeil (1982), the variance of the Mann-Whitney statistic, but with normal scores of equal
    spread. Their exponential scores make the error a third too large at an AUC of 0.95.
    """
    if not positive or not negative:
        return math.nan
    z = special.ndtri(auc)
    # The chance that two with the class score above one without it, or one with it above two without.
    both = auc - 2 * special.owens_t(z, 1 / math.sqrt(3))
    variance = auc * (1 - auc) + (positive + negative - 2) * (both - auc**2)
    return math.sqrt(variance / (positive * negative))


def _seeds(patients: int, settings: StudyParams) -> Finding:
    """The chance to detect a difference between architectures, with the spreads that docs/inference.md assumes."""
    seeds = len(settings.seed)
    if seeds == 1:
        text = "one seed: results describe these checkpoints only, not another training of the same networks"
        return Finding("seeds", "warning", text)
    plan = planning.assumed(planning.SEED_SDS[0], seeds=seeds, patients=max(patients, 2), level=0.95)
    chances = {effect: planning.power(plan, effect=effect) for effect in (0.05, 0.1)}
    text = (
        f"{seeds} seeds and {patients} test patients: a difference of 0.05 in {settings.primary_metric} (not "
        f"corrected) between two architectures is found with a chance of {chances[0.05]:.2f}, one of 0.1 with "
        f"{chances[0.1]:.2f}, if seeds and images vary as assumed in docs/inference.md"
    )
    return Finding("seeds", "note", text)
