"""What the report of a study says besides its numbers: examples chosen by rule, and the methods section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.core import architectures
from cxr.core.errors import InputError
from cxr.core.files import atomic
from cxr.metrics.map_grids import prepare
from cxr.metrics.metric_table import METRICS

RULES = ("least drift", "median drift", "most drift")
_WEIGHTS = {
    "imagenet": "pretrained on ImageNet (Keras' own weights)",
    "source": "pretrained on this project's procedural source task of textures and shapes",
    "none": "random, which makes the maps meaningless",
}


def examples(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """For each class the images with the least, the median and the most drift, by rule and never by hand.

    Args:
        scores: per-image rows of ONE score run: image_id, label, and `metric`.
        metric: one with a direction of stability.

    Returns: label, rule (`RULES`), image_id, value: three rows a class, in the order of the classes; of equal
        values the lower id comes first; the median is the lower of two middle ones. Images with an empty map
        are left out, and so is a class that has no other.
    Raises: InputError for a metric without a direction.
    """
    higher = METRICS[metric].higher_is_more_stable
    if higher is None:
        raise InputError(f"examples: {metric} has no direction of stability: use another, such as overlap")
    rows = []
    for label, table in scores.dropna(subset=[metric]).groupby("label"):
        drift = -table[metric] if higher else table[metric]
        table = table.assign(drift=drift).sort_values(["drift", "image_id"])
        for rule, place in zip(RULES, (0, (len(table) - 1) // 2, len(table) - 1), strict=True):
            row = table.iloc[place]
            rows.append({"label": label, "rule": rule, "image_id": row["image_id"], "value": row[metric]})
    return pd.DataFrame(rows, columns=["label", "rule", "image_id", "value"])


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


def save_thumbnails(path: str | Path, image_id: np.ndarray, images: np.ndarray) -> None:
    """Write small images, uint8 [n, side, side], as `thumbnails` reads them; image_id: str [n]."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, image_id=np.asarray(image_id, str), images=images)


def thumbnails(path: str | Path, image_id: np.ndarray) -> np.ndarray:
    """The images of these ids, uint8 [n, side, side], from an attribute run's `thumbnails.npz`."""
    with np.load(path, allow_pickle=False) as file:
        rows = pd.Index(file["image_id"]).get_indexer(np.asarray(image_id, str))
        if (rows < 0).any():
            raise InputError(f"{path}: lacks image {image_id[rows < 0][0]}")
        return file["images"][rows]


def panels(
    chosen: pd.DataFrame, images: np.ndarray, before: np.ndarray, after: np.ndarray, *, metric: str
) -> list[dict]:
    """What `cxr.report.figures.examples` draws: a dict an example, in the order of `examples`' rows.

    Args:
        chosen: `examples`. images: uint8 [n, side, side]. before, after: raw maps [n, h, w] of the same
            rows.
    """
    prepared = [prepare(map_set, images.shape[1]) for map_set in (before, after)]
    return [
        {
            "class": row.label,
            "rule": row.rule,
            "image": images[number],
            "before": prepared[0][number],
            "after": prepared[1][number],
            "text": f"{row.image_id[-32:]}: {metric} {row.value:.2f}",
        }
        for number, row in enumerate(chosen.itertuples())
    ]


def settled(
    course: pd.DataFrame, *, auc_margin: float, identical: float = 1.0, share: float = 0.5
) -> pd.DataFrame:
    """When evidence moves, beside when performance has settled.

    Args:
        course: architecture, method, seed, epoch (0: before), value (median of a metric), auc; one row an epoch.
        identical: the metric's value for identical maps.
        auc_margin: AUC has settled from the first epoch on after which it stays within this of the last epoch's.
        share: of the drift at the last epoch.

    Returns: architecture, method, seed, epochs, final_drift (distance of the last epoch's value from
        `identical`), epoch_moved (the first with at least `share` of the final drift), epoch_settled, first:
        "evidence", "AUC" or "same epoch".
    """
    rows = []
    for (architecture, method, seed), table in course.groupby(["architecture", "method", "seed"], sort=False):
        table = table.sort_values("epoch")
        epochs, drift = table["epoch"].to_numpy(), np.abs(identical - table["value"].to_numpy(float))
        moved = epochs[np.argmax(drift >= share * drift[-1])]
        off = np.flatnonzero(np.abs(table["auc"].to_numpy(float) - table["auc"].iloc[-1]) > auc_margin)
        stable = epochs[off[-1] + 1] if len(off) else epochs[0]
        first = "evidence" if moved < stable else "AUC" if stable < moved else "same epoch"
        rows.append(
            {
                **{"architecture": architecture, "method": method, "seed": seed, "epochs": int(epochs[-1])},
                **{"final_drift": drift[-1], "epoch_moved": moved, "epoch_settled": stable, "first": first},
            }
        )
    return pd.DataFrame(rows)
