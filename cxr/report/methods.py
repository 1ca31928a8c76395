"""The text of the report, written from what the runs logged: its heading and its methods section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cxr import tracking
from cxr.core import architectures
from cxr.metrics.metric_table import METRICS

if TYPE_CHECKING:
    from cxr.core.params import CompareParams
    from cxr.report.scores import Study

_WEIGHTS = {
    "imagenet": "pretrained on ImageNet (Keras' own weights)",
    "source": "pretrained on this project's procedural source task of textures and shapes",
    "none": "random, which makes the maps meaningless",
}


def heading(study: Study, *, name: str, url: str) -> str:
    """The title of the report and what it covers, in Markdown.

    `name`: of the study; `url`: of the comparison's own run.
    """
    runs, one = study.runs, study.params
    return (
        f"# Does the evidence move under fine-tuning? Study `{name}`\n\n"
        f"{runs['architecture'].nunique()} architectures, {runs['seed'].nunique()} seeds and "
        f"{runs['method'].nunique()} attribution methods, at `{one['target_layer']}` (grids "
        f"{', '.join(sorted(set(runs['grid'])))}), on {one['images']} images of the test set. Weights before "
        f"transfer: `{one['weights']}`; images {one['image_size']} px. In MLflow: [this comparison]({url}); links "
        "to the runs behind every number stand beside it and at the end."
    )


def of_study(study: Study, settings: CompareParams) -> str:
    """`methods_text` of a study."""
    names = ["tensorflow", "keras", "tf-keras-vis", "numpy", "scipy", "cxr"]
    return methods_text(
        [run.params for run in study.training_runs.values()],
        study.params,
        compare=settings.model_dump(),
        counts=study.splits(),
        versions=tracking.versions(study.score_runs[0].run_id, names),
    )


def _networks(names: list[str], weights: str, dropout: str) -> str:
    """Which networks, with which weights and heads; a function of the user's gives its own."""
    ours = [name for name in names if not architectures.is_entry_point(name)]
    theirs = [f"`{name}`" for name in names if architectures.is_entry_point(name)]
    head = f"a new head (global average pooling, dropout {dropout}, softmax)"
    parts = [f"{', '.join(ours)}, weights {weights}, {head}"] if ours else []
    if theirs:
        parts.append(f"{', '.join(theirs)}, with weights of its own, and its own head or else {head}")
    return "; ".join(parts)


def methods_text(
    train: Sequence[Mapping[str, str]],
    score: Mapping[str, str],
    *,
    compare: Mapping[str, object],
    counts: pd.DataFrame,
    versions: Mapping[str, str],
) -> str:
    """The methods section, in Markdown, written from what the runs say of themselves.

    Args:
        train: parameters of the train runs.
        score: parameters of one score run.
        compare: settings of the comparison (`cxr.core.params.CompareParams`).
        counts: images and patients of each split: columns split, images, patients.
        versions: of tensorflow, keras, tf-keras-vis and cxr.
    """
    one = train[0]
    seeds = sorted({run["seed"] for run in train}, key=int)
    names = list(dict.fromkeys(run["architecture"] for run in train))
    splits = ", ".join(f"{row.split} {row.images} ({row.patients} patients)" for row in counts.itertuples())
    if one["data"] == "phantom":
        data = (
            f"{one['phantom_images']} procedurally drawn radiographs (seed {one['phantom_seed']}, lesion contrast "
            f"{one['lesion_contrast']}); nothing in them is measured from patients"
        )
        if one["shortcut"] != "none":
            data += (
                f". In the training images of the stage `{one['shortcut']}`, and in all test images, a "
                "marker tells "
                "the class; in the training images of the other stage the same markers are drawn at random"
            )
    else:
        data = f"images of `{one['data']}`"
    frozen = (
        f", all up to `{one['fine_tune_from']}` frozen" if one["fine_tune_from"] else ", every layer trainable"
    )
    norm = "in inference mode" if one["batchnorm"] == "inference" else "following the batches"
    weights = _WEIGHTS.get(one["weights"], f"from `{one['weights']}`")
    chosen = "classified correctly by both checkpoints" if score["images"] == "correct" else "of the test set"
    explained = "true class" if score["explain"] == "true" else "class that the checkpoint after predicts"
    level = float(compare["level"])
    draws = f"bootstrap over patients ({compare['n_boot']} replicates)"
    intervals = (
        f"Medians over images, averaged over seeds; intervals over new trainings and new patients, with a {draws},"
        if len(seeds) > 1
        else f"Medians over images; percentile intervals by {draws}, which describe these networks only,"
    )
    return "\n\n".join(
        [
            f"**Data.** {data}; {one['image_size']} px, grey, resized to a square. Splits are stratified by class "
            f"and grouped by patient: {splits}.",
            f"**Networks.** {_networks(names, weights, one['dropout'])}. Stage 1 (transfer) trains "
            "the head on the frozen backbone, at most "
            f"{one['transfer_epochs']} epochs at {one['transfer_learning_rate']} ({one['optimizer']}, patience "
            f"{one['transfer_patience']}). Stage 2 (fine-tuning) continues from it for at most "
            f"{one['fine_tune_epochs']} epochs at {one['fine_tune_learning_rate']}{frozen}, BatchNorm {norm}. "
            f"Batches of {one['batch_size']}, augmentation {one['augmentation']}; each stage ends with the "
            "epoch of "
            f"the lowest validation loss. Training seeds: {', '.join(seeds)}.",
            f"**Attribution.** Maps of the {explained}'s logit at `{score['target_layer']}`, of both "
            "checkpoints, on "
            f"the test images {chosen}. Raw maps are scaled to [0, 1], enlarged bilinearly to the image's "
            "size and "
            "compared there. A map with no range (all zero above all) is empty: counted, never scored.",
            f"**Drift.** The primary metric, declared beforehand, is `{compare['primary_metric']}`: "
            f"{METRICS[str(compare['primary_metric'])].label}. Baselines: *chance* (the map after, "
            "map moved "
            "by a random translation on the torus), *two patients* (the map before against the "
            "map after of "
            "another patient's image of the same class: what the anatomy alone gives; "
            f"{score['baseline_draws']} draws an image), *two heads* (transfer heads on the same features that "
            f"differ by seed; {one['extra_heads']} each) and *two seeds* (fine-tuned checkpoints of two "
            "training seeds). Corrected overlap = (overlap - two patients) / (1 - two patients).",
            f"**Inference.** {intervals} at {level:.0%}. Tests treat training seeds and patients as crossed "
            "sources of chance: variance of Obuchowski and Rockette (1995), each source with its own degrees of "
            "freedom (Banerjee 1960), covariances by bootstrap over patients. Stability is shown by equivalence "
            f"(TOST) within margins declared beforehand (AUC ±{compare['auc_margin']}, centroid "
            f"{compare['centroid_margin']} of the diagonal, overlap ±{compare['overlap_margin']}), a reversal by "
            "two orders that are both significant with opposite signs. Holm's correction over pairs of "
            "architectures.",
            "**Software.** " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        ]
    )
