"""Copies among the images: the same bytes, or nearly the same picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.fft import dctn

from cxr.data.checks.files import SHOWN, shown_images
from cxr.data.checks.findings import Finding, Picture

NEAR_BITS = 10  # of 63: at most so many different bits in candidates
NEAR_CORRELATION = 0.95  # of thumbnails without coarse shading: from here candidates are near duplicates


def exact_duplicates(manifest: pd.DataFrame) -> list[Finding]:
    """Files with the same bytes: one finding for those in several splits, one for the others."""
    copies = manifest[manifest["sha256"].duplicated(keep=False)]
    if copies.empty:
        return []
    groups = copies.groupby("sha256")
    across = groups["split"].transform("nunique") > 1
    labels = groups["label"].transform("nunique")
    found = []
    for rows, severity, where, advice in (
        (copies[across], "error", "in more than one split", "remove the copies or give them one patient_id"),
        (copies[~across], "warning", "within one split", "remove the copies, which count twice"),
    ):
        if len(rows):
            number = rows["sha256"].nunique()
            torn = rows.loc[labels[rows.index] > 1, "sha256"].nunique()
            also = f"; {torn} in two classes" if torn else ""
            same = "image" if number == 1 else f"{number} images"
            text = f"{len(rows)} files show the same {same}, byte for byte, {where}{also}: {advice}"
            table = rows.sort_values(["sha256", "path"]).assign(group=lambda r: r["sha256"].str[:8])
            table = table[["group", "path", "label", "patient_id", "split"]].reset_index(drop=True)
            found.append(Finding("exact duplicates", severity, text, table, table["path"].tolist()))
    return found


def perceptual_hash(thumbs: np.ndarray) -> np.ndarray:
    """63 bits of each image, uint64 [n]: which of its lowest 8 x 8 cosine coefficients exceed their median.

    `thumbs`: uint8 [n, side, side]. Brightness and contrast have no effect, as the constant is left out.
    """
    waves = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(thumbs), 64)[:, 1:]
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(63, dtype=np.uint64))


def near_pairs(thumbs: np.ndarray) -> pd.DataFrame:
    """Pairs of images that are copies, apart from scale, compression, brightness or contrast.

    Candidates differ in at most NEAR_BITS of the 63 bits of `perceptual_hash`. Candidates are copies if their
    thumbnails, without coarse shading, have a correlation of at least NEAR_CORRELATION. All pairs are compared.

    `thumbs`: uint8 [n, side, side]. Returns the columns first, second (row numbers), bits and correlation.
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


def near_duplicates(rows: pd.DataFrame, thumbs: np.ndarray, root: Path) -> list[Finding]:
    """Images that look like copies: a warning for those in two splits, a note for the others."""
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
        (table[across], "warning", "in two splits", "look at them; remove one or give both one patient_id"),
        (table[~across], "note", "within one split", "look at them; remove one if it counts twice"),
    ):
        if len(part):
            part = part.reset_index(drop=True)
            pairs = "pair of images looks" if len(part) == 1 else "pairs of images look"
            text = f"{len(part)} {pairs} like copies of each other {where}: {advice}"
            pictures = [
                Picture(f"{row.first} ({row.splits}) | {row.second}", shown_images(root, row.first, row.second))
                for row in part.head(SHOWN).itertuples()
            ]
            files = sorted({*part["first"], *part["second"]})
            found.append(Finding("near duplicates", severity, text, part, files, pictures))
    return found
