"""What a plan says: question, claims, metric, margins, design, exclusions, and what the design can find."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.core import git
from cxr.core.params import StudyParams
from cxr.core.tables import percent
from cxr.metrics.metric_table import METRICS, sign_of_stability, wanted_metrics
from cxr.report.declared import asked, effects, plan_file
from cxr.report.declared.deviations import NOT_DECLARED, binding

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Does fine-tuning move the visual evidence, even where accuracy stays?"
CORRECTED = (
    "yes: (value - two patients) / (1 - two patients), so that what two patients of one "
    "class share counts as 0, and identical maps as 1; the raw value is shown beside it"
)


def text(
    study: StudyParams,
    manifest: pd.DataFrame | None,
    *,
    question: str = "",
    pilot: str = "",
    tracking_uri: str | None = None,
    now: datetime | None = None,
) -> str:
    """The text of a plan, with its hash.

    Args:
        manifest: the images (`cxr.data.manifest.build_manifest`); None if they are not at hand.
        question: in one sentence; empty: `QUESTION`.
        pilot: a study in the store, whose variances say what the design can find; empty: stated assumptions.
        now: the time that it states; None: this moment.

    Raises: InputError: the primary metric is unknown or has no direction; the pilot cannot be used.
    """
    (metric,) = wanted_metrics([study.primary_metric])
    sign_of_stability(metric)
    counted = counts(study, manifest)
    patients = counted["patients"][study.attribute_split] if manifest is not None else 0
    design = {
        "architectures": study.architecture,
        "methods": study.method,
        "seeds": study.seed,
        "images": counted,
    }
    about = {
        "format": plan_file.FORMAT,
        "study": study.name,
        "question": " ".join((question or QUESTION).split()),
        "written": (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "software": software(),
    }
    judging = {
        "primary_metric": {"name": metric, "means": METRICS[metric].label, "corrected": corrected(metric)},
        "judged_with": {name: getattr(study, name) for name in binding() if name != "primary_metric"},
    }
    found = effects.declared(study, patients, pilot=pilot, tracking_uri=tracking_uri)
    parts: dict[str, Mapping[str, Any]] = {
        "": about,
        "What the report judges. Whatever else it shows, it looks at afterwards.": asked.texts(study),
        "How it judges.": judging,
        "The design.": {"design": design},
        "What is left out.": {"exclusions": exclusions(study)},
        "What the design can find.": {"smallest_difference": found},
        "All parameters: those that differ from the defaults, and the others.": {"parameters": parameters(study)},
    }
    return plan_file.frozen(parts)


def summary(plan: plan_file.Plan) -> list[str]:
    """What a person should see of a plan that was just written, in lines."""
    values = plan.values
    judged = "; ".join(f"{len(values[kind])} {kind}" for kind in asked.TABLES if kind in values)
    found = values["smallest_difference"]
    lines = [
        f"plan:     {plan.path}",
        f"sha256:   {plan.sha256}",
        f"written:  {values['written']}",
        f"declares: {judged}; {values['primary_metric']['name']}; "
        f"{', '.join(f'{name} {value}' for name, value in values['judged_with'].items())}",
    ]
    if isinstance(found, str):
        return [*lines, f"the design finds: {found}"]
    lines.append(f"the design finds, with a power of {found['power']}, {found['of']}:")
    for row in found["smallest"]:
        each = [f"{value} {name.replace('_', ' ')}" for name, value in row.items() if name != "rests_on"]
        lines.append(f"  {', '.join(each)}. {row['rests_on']}")
    return lines


def corrected(metric: str) -> str:
    """Whether the primary metric is corrected for what two patients share: only if identical maps have 1."""
    return CORRECTED if METRICS[metric].identical == 1 else "no: identical maps do not have the value 1"


def parameters(study: StudyParams) -> dict[str, dict[str, Any]]:
    """The parameters of a study, as JSON has them: `changed` differ from the defaults, `defaults` do not."""
    usual = StudyParams().model_dump(mode="json")
    values = {name: value for name, value in study.model_dump(mode="json").items() if name not in NOT_DECLARED}
    return {
        "changed": {name: value for name, value in values.items() if value != usual[name]},
        "defaults": {name: value for name, value in values.items() if value == usual[name]},
    }


def counts(study: StudyParams, manifest: pd.DataFrame | None) -> dict[str, Any]:
    """Images and patients of each split, and the hash of the manifest; says so if they are not counted."""
    if manifest is None:
        return {"counted": False, "data": study.data}
    from cxr.data.manifest import classes, manifest_hash

    splits = manifest.groupby("split")
    order = [name for name in ("train", "val", "test") if name in splits.groups]
    return {
        "counted": True,
        "data": study.data,
        "classes": classes(manifest),
        "images": {name: int(splits["image_id"].size()[name]) for name in order},
        "patients": {name: int(splits["patient_id"].nunique()[name]) for name in order},
        "manifest_sha256": manifest_hash(manifest),
    }


def exclusions(study: StudyParams) -> list[str]:
    """Which images and maps count for nothing, in sentences."""
    found = [
        "images: only those whose explained class both checkpoints predict"
        if study.images == "correct"
        else "images: none is left out for what a checkpoint predicts",
        f"images: only the {study.attribute_split} split gets maps",
        "files that cannot be decoded: the study stops"
        if study.on_bad_image == "stop"
        else "files that cannot be decoded: left out; more than "
        f"{percent(study.max_skipped_fraction)} stop the study",
        "empty maps (without any range): counted, and in no median",
        f"maps that fail their checks (on up to {study.map_check_images} images a run): the report names them"
        if study.map_check_images
        else "maps are not checked: map_check_images is 0",
    ]
    if study.max_images_per_class:
        found.append(f"classes: at most {study.max_images_per_class} images of each, chosen by patient")
    if study.task == "multi_label":
        rules = {
            "refuse": "refused",
            "zero": "no finding",
            "one": "a finding",
            "ignore": "not known, and left out",
        }
        found.append(f"labels that are uncertain: {rules[study.uncertain]}; that are blank: {rules[study.blank]}")
    elif study.label_map:
        found.append(f"labels: all but {', '.join(study.label_map)} are left out")
    for name, values in study.only.items():
        found.append(f"rows of the table: only those whose {name} is {' or '.join(values)}")
    if study.multi_label != "refuse":
        found.append(f"images with several classes: {study.multi_label}")
    return found


def software() -> Mapping[str, Any]:
    """The version of cxr, and, in a checkout of it, the commit and whether files differ from it."""
    found: dict[str, Any] = {"cxr": importlib.metadata.version("cxr")}
    checkout = Path(__file__).resolve().parents[3]
    state = git.commit(checkout) if (checkout / "pyproject.toml").is_file() else None
    if state is not None:
        found["commit"], found["changed_since_commit"] = state
    return found
