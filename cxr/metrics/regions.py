"""Where the evidence lies if masks are known (lesion, lungs, a marker): energy inside, pointing game.

Drift metrics say that evidence moved. With masks one can say from where to where. Masks are bool [n, H, W] on the
grid on which maps are scored. A mask that is all False means that the image has no such region: its values are
NaN, not 0.

Compare an energy with the region's area: a uniform map has exactly that much energy inside, and its maximum falls
inside that often.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core.errors import InputError
from cxr.metrics.map_grids import is_empty, prepare, upsample
from cxr.statistics import bootstrap, estimates

# A region's columns in a table are `<region>_<one of these>`.
COLUMNS = ("area", "energy_before", "energy_after", "energy_change", "hit_before", "hit_after")
_SUMMARY = (
    *("architecture", "method", "region", "n_images", "n_patients", "area"),
    *("energy_before", "energy_after", "energy_change"),
    *("energy_change_ci_low", "energy_change_ci_high", "hit_before", "hit_after", "direction"),
)
_CHUNK = 32  # maps upsampled at a time


def region_table(
    before: np.ndarray,
    after: np.ndarray,
    regions: Mapping[str, np.ndarray],
    *,
    size: int | tuple[int, int],
) -> dict[str, np.ndarray]:
    """Where the evidence lies before and after, in every region.

    Parameters
    ----------
    before, after : arrays [n, h, w] and [n, h2, w2] of raw maps; row i of both is the same image.
    regions : masks by name, bool [n, H, W] at `size` each. Regions may overlap.
    size : the image grid, as for `cxr.metrics.similarity.compare_maps`.

    Returns
    -------
    dict of float64 [n], for each region in order `<region>_<column>` for the columns `COLUMNS`, in [0, 1] (the
    change in [-1, 1]), NaN where the image has no such region:

    area           the mask's share of the image: the energy of a uniform map.
    energy_before, energy_after
                   share of the prepared map's sum inside (energy-based pointing game: Wang et al. 2020,
                   Score-CAM, section 4.3). NaN for an empty map.
    energy_change  after minus before.
    hit_before, hit_after
                   share of the maxima inside: 1 or 0 for a single one (pointing game: Zhang et al. 2018, IJCV
                   126:1084, without its tolerance of 15 pixels), in between for tied ones. Chance is the area. NaN
                   for an empty map.

    Raises
    ------
    InputError : masks are not bool or not at `size`; `size` is smaller than the maps' grid.
    """
    located_before = _located(np.asarray(before), regions, size)
    located_after = _located(np.asarray(after), regions, size)
    out = {}
    for name in regions:
        (energy_t, hit_t, area), (energy_f, hit_f, _) = located_before[name], located_after[name]
        values = (area, energy_t, energy_f, energy_f - energy_t, hit_t, hit_f)
        out |= {f"{name}_{column}": value for column, value in zip(COLUMNS, values, strict=True)}
    return out


def regions_in(columns: Iterable[str]) -> list[str]:
    """Names of the regions of which a table has all of `COLUMNS`, in the order in which they first appear."""
    columns = list(columns)
    names = [name.removesuffix("_area") for name in columns if isinstance(name, str) and name.endswith("_area")]
    return [name for name in names if name and {f"{name}_{column}" for column in COLUMNS} <= set(columns)]


def summary(
    table: pd.DataFrame,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Per architecture, method and region, where the evidence lies before and after, and which way it moved.

    Parameters
    ----------
    table : a row per image and seed with architecture, method, image_id, patient_id, seed, and the columns of
        `region_table`; an image at most once a group (architecture and method) and seed.
    level, n_boot : of the interval.

    Returns
    -------
    A row per group and region, in order of appearance; no row if the table has no regions. Columns:

    architecture, method, region
    n_images : rows in which the region exists and neither map is empty (an image counts once a seed). All other
        numbers are over these rows, so that the numbers of a row can be compared.
    n_patients
    area, energy_before, energy_after, hit_before, hit_after : means over rows.
    energy_change : the mean over seeds of the mean over images.
    energy_change_ci_low, energy_change_ci_high : its interval. With one seed: percentiles of a bootstrap over
        patients; with several: over new trainings and new patients (`estimates.estimate`). NaN with fewer than two
        patients.
    direction : of the evidence: "towards" the region if the interval lies above 0, "away" if it lies below,
        otherwise "unclear" (also without an interval). Not corrected for the number of groups and regions.
    """
    rows = []
    for (architecture, method), group in table.groupby(["architecture", "method"], sort=False):
        for region in regions_in(table.columns):
            own = group[group[f"{region}_energy_change"].notna()]
            patients, (means, draws) = own["patient_id"].nunique(), energy_change(own, region, n_boot=n_boot)
            change, low, high = estimates.located(means, draws, n_patients=patients, level=level)
            rows.append(
                {"architecture": architecture, "method": method}
                | {"region": region, "n_images": len(own), "n_patients": patients}
                | {column: own[f"{region}_{column}"].mean() for column in COLUMNS}
                | {"energy_change": change, "energy_change_ci_low": low, "energy_change_ci_high": high}
                | {"direction": "towards" if low > 0 else "away" if high < 0 else "unclear"}
            )
    return pd.DataFrame(rows, columns=_SUMMARY)


def energy_change(rows: pd.DataFrame, region: str, *, n_boot: int = 2000) -> tuple[list[float], np.ndarray]:
    """Mean energy change of a region under each seed, [k], and its replicates over patients, [n_boot, k].

    Args: rows: of one cell, those in which the change is known.
    """
    name = f"{region}_energy_change"
    by_seed = rows.pivot(index=["image_id", "patient_id"], columns="seed", values=name)
    draws = bootstrap.patient_replicates(by_seed, n_boot=n_boot, statistic="mean").to_numpy()
    return [own.mean() for _, own in rows.groupby("seed")[name]], draws


def save(path: str | Path, image_id: Sequence[str], regions: Mapping[str, np.ndarray]) -> None:
    """Write masks of images to an `.npz` that needs no pickle, eight pixels to the byte.

    Parameters
    ----------
    path : written exactly there.
    image_id : str [n], unique.
    regions : at least one; bool [n, H, W] by name, all of one shape.
    """
    masks = np.stack(list(regions.values()))
    with open(path, "wb") as file:  # NumPy would append ".npz" to a name without it
        np.savez_compressed(
            file,
            image_id=np.asarray(image_id, str),
            region=np.array(list(regions), str),
            shape=np.array(masks.shape[2:], np.int64),
            packed=np.packbits(masks.reshape(*masks.shape[:2], math.prod(masks.shape[2:])), axis=2),
        )


def load(path: str | Path, image_id: Sequence[str] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read what `save` wrote: image_id str [n] and bool [n, H, W] by region, both in the file's order.

    Args: path. image_id: the images wanted, in this order; default all.
    Raises InputError for any other file, and when an image is not in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, names, shape, packed = (file[name] for name in ("image_id", "region", "shape", "packed"))
        height, width = shape.tolist()
        # TypeError: np.load gives a plain array for an .npy. EOFError: an empty file.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: not a file of region masks ({error}); write one with cxr.metrics.regions.save"
        ) from None
    rows = np.arange(len(ids)) if image_id is None else pd.Index(ids).get_indexer(np.asarray(image_id, str))
    if (rows < 0).any():
        raise InputError(f"{path}: has no masks of image {np.asarray(image_id)[rows < 0][0]}")
    masks = {}
    for name, map_set in zip(names.tolist(), packed, strict=True):
        bits = np.unpackbits(map_set[rows], axis=1, count=height * width).view(bool)
        masks[name] = bits.reshape(len(rows), height, width)
    return ids[rows], masks


def _located(
    maps: np.ndarray,
    regions: Mapping[str, np.ndarray],
    size: int | tuple[int, int],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """energy, hit and area (`region_table`) of every region; each map is prepared once for all regions."""
    usable = np.flatnonzero(~is_empty(maps))
    expected = (len(maps), *upsample(maps[:0], size).shape[1:])  # it also checks the size
    out = {}
    for name, mask in regions.items():
        if mask.dtype != bool or mask.shape != expected:
            raise InputError(
                f"region {name!r}: expected bool masks {expected}, one per map at the scored size, got "
                f"{mask.dtype} {mask.shape}."
            )
        area = mask.mean((1, 2))
        area[area == 0] = np.nan
        out[name] = (np.full(len(maps), np.nan), np.full(len(maps), np.nan), area)
    for start in range(0, len(usable), _CHUNK):
        index = usable[start : start + _CHUNK]
        values = prepare(maps[index], size).astype(np.float64)
        top = values == 1  # a prepared map's maximum
        total, peaks = values.sum((1, 2)), top.sum((1, 2))
        for name, (energy, hit, _) in out.items():
            mask = regions[name][index]
            energy[index] = (values * mask).sum((1, 2)) / total
            hit[index] = (top & mask).sum((1, 2)) / peaks
    for energy, hit, area in out.values():
        energy[np.isnan(area)] = hit[np.isnan(area)] = np.nan
    return out
