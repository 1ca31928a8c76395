"""The text of the report, written from what the runs logged: its heading and its methods section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cxr.core import architectures
from cxr.core.markdown import code
from cxr.core.methods import SCORE_LABELS
from cxr.core.tables import percent
from cxr.metrics.metric_table import METRICS
from cxr.report import verdicts

if TYPE_CHECKING:
    from cxr.core.params import CompareParams
    from cxr.report.scores import Study

_WEIGHTS = {
    "imagenet": "pretrained on ImageNet (Keras' own weights)",
    "source": "pretrained on this project's procedural source task of textures and shapes",
    "none": "random: the maps mean nothing",
}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def _several(train: Mapping[str, str]) -> bool:
    """Whether an image can have several findings. `train`: parameters of a train run."""
    return train.get("task") == "multi_label"


def _scored(settings: Mapping[str, str], *, several: bool) -> str:
    """Which images are scored, in words. `settings`: of an attribute run: attribute_split, images."""
    split = f"{_SPLITS[settings['attribute_split']]} images"
    if several and settings["images"] == "correct":
        return f"the findings of the {split} that both checkpoints call"
    if several:
        return f"all findings of the {split}"
    return (
        f"the {split} that both checkpoints classify correctly"
        if settings["images"] == "correct"
        else f"all {split}"
    )


def covered(study: Study, *, url: str) -> str:
    """What the report covers, and what its answers hold for, in Markdown. `url`: of the comparison's own run."""
    runs, one = study.runs, study.params
    counts = [
        f"{runs[name].nunique()} {text}{'s' * (runs[name].nunique() > 1)}"
        for name, text in (("architecture", "network"), ("seed", "seed"), ("method", "attribution method"))
    ]
    holds = verdicts.scope(
        runs["architecture"].nunique(),
        runs["seed"].nunique(),
        vary_split=study.training_params.get("vary_split") == "True",
    )
    images = _scored(study.attribution, several=_several(study.training_params))
    return (
        f"**Covered:** {', '.join(counts)}, at {code(one['target_layer'])} (grids "
        f"{', '.join(sorted(set(runs['grid'])))}), on {images} ({one['image_size']} px); "
        f"weights before transfer: {code(one['weights'])}. [This comparison in MLflow]({url}).\n\n{holds}"
    )


def of_study(study: Study, settings: CompareParams) -> str:
    """`methods_text` of a study."""
    names = ["tensorflow", "keras", "tf-keras-vis", "numpy", "scipy", "cxr"]
    return methods_text(
        [run.params for run in study.training_runs.values()],
        {**study.params, **study.attribution},
        compare=settings.model_dump(),
        counts=study.splits(),
        versions=study.score_runs[0].versions(names),
    )


def _networks(names: list[str], weights: str, dropout: str, *, several: bool) -> str:
    """Names of the networks, with their weights and heads; a user's function may bring its own."""
    ours = [name for name in names if not architectures.is_entry_point(name)]
    theirs = [code(name) for name in names if architectures.is_entry_point(name)]
    end = "a sigmoid for each finding" if several else "softmax"
    head = f"a new head (global average pooling, dropout {dropout}, {end})"
    parts = [f"{', '.join(ours)}, weights {weights}, {head}"] if ours else []
    if theirs:
        parts.append(f"{', '.join(theirs)}, with its own weights, and its own head or else {head}")
    return "; ".join(parts)


def methods_text(
    train: Sequence[Mapping[str, str]],
    score: Mapping[str, str],
    *,
    compare: Mapping[str, object],
    counts: pd.DataFrame,
    versions: Mapping[str, str],
) -> str:
    """The methods section, in Markdown, written from what the runs logged.

    Args:
        train: parameters of the train runs.
        score: parameters of one score run, and settings of its attribute run (`attribute_split` and more).
        compare: settings of the comparison (`cxr.core.params.CompareParams`).
        counts: images and patients of each split: columns split, images, patients.
        versions: of tensorflow, keras, tf-keras-vis and cxr.
    """
    counted = ", ".join(f"{row.split} {row.images} ({row.patients} patients)" for row in counts.itertuples())
    one, n_seeds = train[0], len({run["seed"] for run in train})
    varies = one.get("vary_split") == "True"
    whose = f" in the training with seed {one['seed']}" if varies else ""
    splits = (
        f"Each training has splits of its own, drawn with the seed {one['split_seed']} + its training seed; the "
        "baseline *two seeds* is measured on images that are in the test sets of both."
        if varies
        else "All trainings have the same splits."
    )
    made = "stratified by class and grouped by patient"
    if one["data"] != "phantom" and one.get("given_splits", "honour") == "honour":
        made = f"those that the data give, or else {made}"
    paragraphs = {
        "Data": f"{_images(one)}; {one['image_size']} px, grey, resized to a square. Splits are {made}: "
        f"{counted}{whose}. {splits}",
        "Networks": _training(train),
        "Attribution": _attribution(score, several=_several(one)),
        "Drift": _drift(one, score, compare, n_seeds=n_seeds),
        "Inference": _inference(compare, n_seeds=n_seeds, varies=varies),
        "Software": ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    }
    return "\n\n".join(f"**{title}.** {text}" for title, text in paragraphs.items())


def _images(train: Mapping[str, str]) -> str:
    if train["data"] != "phantom":
        return f"images of {code(train['data'])}{_left_out(train)}"
    text = (
        f"{train['phantom_images']} procedurally drawn radiographs (seed {train['phantom_seed']}, lesion contrast "
        f"{train['lesion_contrast']}); nothing in them is measured from patients"
    )
    if _several(train):
        text += ". An image can have several findings: each patient has each of four with a chance of 35 %"
    if train["shortcut"] != "none":
        text += (
            f". In the training images of the stage `{train['shortcut']}`, and in all test images, a marker tells "
            "the class; in the training images of the other stage the same markers are drawn at random"
        )
    return text


def _left_out(train: Mapping[str, str]) -> str:
    """What the parameters leave out of the data, or join."""
    parts = []
    if _several(train):
        rules = {"refuse": "refused", "zero": "counted as 0", "one": "counted as 1", "ignore": "left out"}
        parts.append(
            "an image can have several findings; uncertain labels are "
            f"{rules[train['uncertain']]}, blank ones {rules[train['blank']]}"
        )
    elif train.get("label_map", "{}") != "{}":
        parts.append("labels are mapped to classes, and others left out")
    if train.get("multi_label", "refuse") != "refuse":
        several = {"single": "left out", "first_of_priority": "of the first class in the order of the map"}
        parts.append(f"images with several classes are {several[train['multi_label']]}")
    if train.get("only", "{}") != "{}":
        parts.append(f"only rows with {code(train['only'])}")
    if train.get("max_images_per_class", "0") != "0":
        parts.append(f"at most {train['max_images_per_class']} images of each class")
    if train.get("on_bad_image", "stop") == "skip":
        parts.append("files that cannot be decoded are left out")
    return f" ({'; '.join(parts)})" if parts else ""


def _training(train: Sequence[Mapping[str, str]]) -> str:
    one = train[0]
    seeds = sorted({run["seed"] for run in train}, key=int)
    names = list(dict.fromkeys(run["architecture"] for run in train))
    weights = _WEIGHTS.get(one["weights"], f"from {code(one['weights'])}")
    trained = (
        f"all up to {code(one['fine_tune_from'])} frozen" if one["fine_tune_from"] else "every layer trainable"
    )
    kept_by_auc = one.get("fine_tune_monitor") == "val_auc"
    by_auc = ", and fine-tuning the one with the highest macro AUC on the validation images" if kept_by_auc else ""
    norm = "in inference mode" if one["batchnorm"] == "inference" else "with the statistics of the batches"
    return (
        f"{_networks(names, weights, one['dropout'], several=_several(one))}. "
        "Stage 1 (transfer) trains the head on the frozen backbone, "
        f"for at most {one['transfer_epochs']} epochs at a learning rate of {one['transfer_learning_rate']} "
        f"({one['optimizer']}, patience {one['transfer_patience']}). Stage 2 (fine-tuning) continues from it for "
        f"at most {one['fine_tune_epochs']} epochs at {one['fine_tune_learning_rate']}, with {trained} and "
        f"BatchNorm {norm}. Batches of {one['batch_size']}, augmentation {one['augmentation']}{_options(one)}; "
        f"each stage keeps the epoch with the lowest validation loss{by_auc}. Training seeds: {', '.join(seeds)}."
    )


def _options(train: Mapping[str, str]) -> str:
    """Options of training that differ from what is usual."""
    parts = []
    if train.get("class_weights") == "True":
        parts.append(
            "images with and without a finding weighted to count the same in the loss"
            if _several(train)
            else "classes weighted in the loss by the inverse of their number of images"
        )
    if train.get("precision", "float32") != "float32":
        parts.append(f"the backbone in {train['precision']}")
    if train.get("xla") == "True":
        parts.append("compiled with XLA")
    if train.get("deterministic") == "False":
        parts.append("without deterministic operations")
    if int(train.get("devices", "0")) > 1:
        parts.append(f"batches shared by {train['devices']} devices")
    return "".join(f", {part}" for part in parts)


def _attribution(score: Mapping[str, str], *, several: bool) -> str:
    explained = "the true class" if score["explain"] == "true" else "the class that the checkpoint after predicts"
    if several:
        explained = "each finding that an image has"
    return (
        f"Maps explain the {SCORE_LABELS[score['score']]} of {explained} at {code(score['target_layer'])}, "
        f"of both checkpoints, on {_scored(score, several=several)}. "
        "Raw maps are scaled to [0, 1], enlarged bilinearly to "
        "the image's size and compared there. A map without any range (above all, a map of zeros) is empty: it "
        "is counted, never scored."
    )


def _set(compare: Mapping[str, object]) -> str:
    """Where the primary metric and the margins come from."""
    return "declared in the frozen plan" if compare.get("plan") else "set in the parameter file"


def _drift(
    train: Mapping[str, str], score: Mapping[str, str], compare: Mapping[str, object], *, n_seeds: int
) -> str:
    metric = str(compare["primary_metric"])
    baselines = [
        "*chance* (the map after is moved by a random translation on the torus)",
        "*two patients* (the map before against the map after of another patient's image of the same class: what "
        f"anatomy alone gives; {score['baseline_draws']} draws an image)",
    ]
    if int(train["extra_heads"]) and train["augmentation"] == "none":
        baselines.append(
            f"*two heads* (transfer heads on the same features that differ by seed; {train['extra_heads']} each)"
        )
    if n_seeds > 1:
        baselines.append("*two seeds* (fine-tuned checkpoints of two training seeds)")
    matched_null = (
        " *As many epochs again* is the matched null: the checkpoint after against the same one, trained on for "
        "as many epochs as it took from before to after, with the same images and settings, a new optimizer and "
        "another order of batches."
    )
    return (
        f"The primary metric, {_set(compare)}, is `{metric}`: {METRICS[metric].label}"
        f"{'; tests are of its corrected form' if METRICS[metric].identical == 1 else ''}. Baselines: "
        f"{', '.join(baselines[:-1])} and {baselines[-1]}."
        f"{matched_null if train.get('placebo') == 'True' else ''} "
        "Corrected overlap = (overlap - two patients) / (1 - two patients)."
    )


def _inference(compare: Mapping[str, object], *, n_seeds: int, varies: bool) -> str:
    level = float(compare["level"])
    draws = f"bootstrap over patients ({compare['n_boot']} replicates)"
    intervals = (
        f"Medians over images, averaged over seeds. Intervals at {percent(level)} are over new trainings and new "
        f"patients, with a {draws}; {'new splits included' if varies else 'given these splits'}."
        if n_seeds > 1
        else f"Medians over images. Percentile intervals at {percent(level)} by {draws}; they describe these "
        "networks only."
    )
    return (
        f"{intervals} Tests treat training seeds and patients as crossed sources of chance: variance of "
        "Obuchowski and Rockette (1995), each source with its own degrees of freedom (Banerjee 1960), "
        "covariances by bootstrap over patients. Seeds are paired between methods, which explain the same "
        "networks, and independent between architectures (Welch's degrees of freedom). Pairs of seeds have a "
        f"jackknife over seeds. Every test is one-sided at {(1 - level) / 2:g}, or has two such halves. A "
        "claim about all cells is supported where each cell shows it, and contradicted where one refutes it after "
        "Holm's correction over all. Differences between architectures are one family of Holm's, over methods and "
        "pairs. Stability is shown by equivalence tests (TOST) within margins that are "
        f"{_set(compare)} (AUC "
        f"±{compare['auc_margin']}, centroid shift {compare['centroid_margin']} of that of two patients, primary "
        f"metric ±{compare['overlap_margin']}). A verdict on an order is fragile if fewer than "
        f"{percent(float(str(compare['majority'])))} of the other analyses agree with it. Intervals of AUC are "
        "symmetric on the logit scale."
    )
