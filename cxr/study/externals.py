"""Test sets from elsewhere (`external`): what `5_drift` gets to compare both checkpoints of a training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxr.core.errors import InputError
from cxr.core.params import DataParams, DriftParams, StudyParams

STAGE = "drift"
_SAME = ("method", "target_layer", "explain", "score", "images", "baseline_draws", "n_boot", "level")
_SAME += ("map_check_images", "image_size", "lesion_contrast")
_LEFT_OUT = frozenset({"groups", "bands"})  # only a study compares groups


def parameters(study: StudyParams, name: str) -> dict[str, Any]:
    """Parameters of `5_drift` for one external set, but for the train run.

    What is measured, and how, is as in the study. How the set is laid out is said by a parameter file, if that is
    what `external` names; else it is a folder, or a table with the columns path, label and patient_id. It is never
    split: all of its images are test images.

    Raises: InputError: the parameter file, or what it says.
    """
    where = study.external[name]
    own: dict[str, Any] = {"data": where}
    if Path(where).suffix in (".yaml", ".yml"):
        read = StudyParams.read(where)
        own = {key: getattr(read, key) for key in DataParams.model_fields if key not in _LEFT_OUT}
        if own["data"] == "phantom":
            raise InputError(f"external: {name}: {where} names no images of its own (data: phantom)")
    own["data"] = str(Path(own["data"]).expanduser().absolute())
    shared = {key: getattr(study, key) for key in _SAME}
    given = {
        **own,
        **shared,
        "name": study.name,
        "task": study.task,
        "batch_size": study.attribute_batch_size,
        "preprocessing": "none",  # a checkpoint of a study begins with its own
        "given_splits": "ignore",
        "shortcut": "none",
    }
    return DriftParams.check(given, where=f"external: {name}").model_dump(mode="json", exclude_defaults=True)
