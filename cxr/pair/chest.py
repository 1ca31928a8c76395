"""From where to where in the chest: the evidence of two models in its zones, where lung masks are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr.core.methods import LABELS
from cxr.core.params import DriftParams
from cxr.data import cache, loading
from cxr.data import manifest as data_manifest
from cxr.metrics import regions
from cxr.pair import checking, compare, models
from cxr.report import comparison, zones


def of_pair(
    maps: Mapping[str, Mapping[str, np.ndarray]],
    networks: Mapping[str, models.Model],
    manifest: pd.DataFrame,
    chosen: pd.DataFrame,
    checked: pd.DataFrame,
    settings: DriftParams,
) -> pd.DataFrame:
    """Where the evidence of A (before) and B (after) lies, by method, class and zone.

    Args:
        maps: `compare.explain`. manifest: `images.find`. chosen: `images.select`. checked: `checking.check`.

    Returns: `zones.summary`; no rows where no scored image has a lung mask. Masks are read at the size on which
        maps are compared.
    """
    counts = chosen["scored"].to_numpy()
    scored = chosen[counts].reset_index(drop=True)
    image = scored["image" if "image" in scored else "image_id"]
    rows = pd.Index(manifest["image_id"]).get_indexer(image)
    size = models.common_size(networks)
    masks = loading.load_regions(
        manifest.iloc[rows].reset_index(drop=True),
        root=data_manifest.data_root(settings),
        size=size,
        cache=cache.default_cache(),
        lesion_contrast=settings.lesion_contrast,
    )
    found = zones.of_lungs(masks.get("lung"))
    if not found:
        return pd.DataFrame()
    own = compare.cell(settings)
    tables = []
    for method, map_sets in maps.items():
        values = regions.region_table(map_sets["A"][counts], map_sets["B"][counts], found, size=size)
        tables.append(comparison.score_table(values, scored, **own, method=method))
    table = pd.concat(tables, ignore_index=True)
    if "label" not in table:  # without labels: by the class that is explained
        table["label"] = table["explained"]
    unsound = {
        (own["architecture"], method)
        for method, check in checking.by_method(checked, list(maps)).items()
        if check == "no"
    }
    return zones.summary(table, unsound, level=settings.level, n_boot=settings.n_boot)


def sentences(table: pd.DataFrame) -> list[str]:
    """For each method whose maps pass: which zone gained and which lost most from A to B, over all classes.

    Args: table: `of_pair`.
    """
    if table.empty:
        return []
    found = []
    for row in zones.largest(table[table["label"] == zones.ALL]).itertuples():
        moved = {"gained most": row.gained, "lost most": row.lost}
        said = ", ".join(f"{how}: {zone}" for how, zone in moved.items() if zone != "-")
        said = said or "no zone gained or lost beyond its interval"
        found.append(f"From A to B in the chest, points of 100 of the evidence ({LABELS[row.method]}): {said}.")
    return found
