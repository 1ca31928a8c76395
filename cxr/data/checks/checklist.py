"""All checks of a data set in order: what a study should know about its data before anything is trained.

`run` reads the headers of the files and the user's table; with `full` it decodes every pixel. It needs neither
TensorFlow nor MLflow. docs/checks.md explains the thresholds and the data that they were chosen on.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.core.params import DataParams, StudyParams
from cxr.data import layouts
from cxr.data import manifest as data_manifest
from cxr.data.checks.copies import exact_duplicates, near_duplicates
from cxr.data.checks.counts import class_counts
from cxr.data.checks.files import CONSTANT, look_at_all, near_constant, unreadable
from cxr.data.checks.findings import Finding, Report
from cxr.data.checks.metadata import variables
from cxr.data.checks.shortcuts import brightness, metadata


def run(settings: StudyParams | DataParams, *, full: bool = False, manifest: pd.DataFrame | None = None) -> Report:
    """Check the data of `settings`.

    Args:
        settings: of a study (then the class counts are also compared with its margins), or of the data alone.
        full: decode every file. This finds damage inside files, near duplicates and images that show nothing.
        manifest: of `manifest.build_manifest(settings)`, if you have it. Otherwise it is made here, which reads
            every byte.

    Returns the report. Raises InputError like `build_manifest` if there is no data set to check.
    """
    began = time.perf_counter()
    found: list[Finding] = []
    if manifest is None:
        manifest, found = _manifest(settings)
    counts = _counts(manifest)
    if manifest is not None:
        root = data_manifest.data_root(settings)
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
    """The manifest of a study with these settings, and findings from building it; None with an error instead."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            manifest = data_manifest.build_manifest(settings)
        except InputError as error:
            if not error.items:
                raise
            text = f"{error} (the table lists all; the other checks run when this is corrected)"
            return None, [Finding("layout", "error", text, pd.DataFrame({"found": error.items}))]
    texts = [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
    # Other checks report copies in two splits and skipped files, with all their names.
    own = ("byte for byte", "(on_bad_image: skip)")
    return manifest, [Finding("layout", "warning", t) for t in texts if not any(words in t for words in own)]


def _counts(manifest: pd.DataFrame | None) -> pd.DataFrame:
    """Patients and images of each class in each split; one row a class."""
    if manifest is None:
        return pd.DataFrame()
    table = manifest.groupby(["label", "split"]).agg(
        patients=("patient_id", "nunique"), images=("image_id", "size")
    )
    table = table.unstack("split", fill_value=0)
    table.columns = [f"{split} {what}" for what, split in table.columns]
    wanted = [f"{split} {what}" for split in ("train", "val", "test") for what in ("patients", "images")]
    return table.reindex(columns=wanted, fill_value=0).rename_axis("class").reset_index()


def _files(manifest: pd.DataFrame, root: Path, settings: DataParams, full: bool) -> list[Finding]:
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
        found += metadata(rows, variables(rows, kept, layouts.extra_columns(settings)))
    return found
