"""Do the maps of both models pass their checks? As in a study (`cxr.attribution.map_checks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxr.attribution import maps as attribution_maps
from cxr.attribution import passing
from cxr.core.params import DriftParams
from cxr.data import manifest as data_manifest
from cxr.pair import models
from cxr.pair.models import CHECKPOINTS, Model


def check(
    networks: Mapping[str, Model],
    pixels: Mapping[int, np.ndarray],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    chosen: pd.DataFrame,
    classes: Sequence[str],
    settings: DriftParams,
) -> pd.DataFrame:
    """The checks of the maps of A and B by every method, on `map_check_images` of the scored images.

    Args: as of `cxr.pair.compare.explain`, and `maps`, what it returns.
    Returns: `passing.verdict` with the column `model` (A, B); no rows without images to check.
    """
    if not settings.map_check_images:
        return pd.DataFrame(columns=["model", "checkpoint", "method", "passes_checks", "reason"])
    from cxr.attribution import map_checks

    # without labels, the class that is explained stands for the class
    rows = attribution_maps.per_class(chosen.assign(label=chosen["explained"]), settings.map_check_images)
    class_index = data_manifest.class_index(chosen["explained"], classes)[rows]
    patients = chosen["patient_id"].to_numpy()[rows]
    gains = []
    for name, checkpoint in CHECKPOINTS.items():
        model = networks[name]
        with models.ready(networks, name) as network:
            found = map_checks.until_settled(
                network,
                np.asarray(pixels[model.size][rows]),
                class_index,
                patients,
                {method: map_sets[name][rows] for method, map_sets in maps.items()},
                layer=model.layer,
                score=settings.score,
                batch_size=settings.batch_size,
                level=settings.level,
                label=f"{name}, checks",
            )
        gains.append(found.assign(checkpoint=checkpoint))
    table = passing.verdict(pd.concat(gains), patients, level=settings.level, n_boot=settings.n_boot)
    model_of = {checkpoint: name for name, checkpoint in CHECKPOINTS.items()}
    table.insert(0, "model", table["checkpoint"].map(model_of))
    return table


def by_method(checked: pd.DataFrame, methods: Sequence[str]) -> dict[str, str]:
    """Whether the maps of both models pass, by method: "yes", "no" or "not checked". Args: checked: `check`."""
    return {method: passing.in_word(checked[checked["method"] == method]) for method in methods}


def reasons(checked: pd.DataFrame, method: str) -> str:
    """Why the maps of a method fail, by model; empty if they pass."""
    own = checked[(checked["method"] == method) & ~checked["passes_checks"].astype(bool)]
    return "; ".join(f"{row.model}: {row.reason}" for row in own.itertuples())
