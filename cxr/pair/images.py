"""The images: which ones, their classes, what both models predict, and which images are scored.

A *manifest* is a table with a row per image: image_id, path, label ("" if unknown), patient_id, split, ...
(`cxr.data.loading`). No TensorFlow is needed until `select` is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from cxr.attribution import maps
from cxr.core import arrays
from cxr.core.errors import InputError, some
from cxr.core.names import metric_names
from cxr.core.params import DriftParams
from cxr.data import cache, dicom, loading, multi_label
from cxr.data import manifest as data_manifest
from cxr.data.reading import for_each
from cxr.metrics import classification, findings
from cxr.pair import models
from cxr.pair.models import CHECKPOINTS, Model
from cxr.statistics import bootstrap


def find(settings: DriftParams, *, hashed: bool = True) -> tuple[pd.DataFrame, list[str]]:
    """The manifest of the images, and notes that a reader of the result should know.

    If `use_split` names a split, only its images are taken. The data say which these are; if they do not, the
    images are split as a study with the same parameters splits them.

    Args:
        hashed: whether the SHA-256 of each image is computed, as for `cxr.data.manifest.list_images`.

    Raises: InputError: the data cannot be read, or no image is left.
    """
    labelled = settings.image_labels == "auto" and data_manifest.has_labels(settings)
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        manifest = data_manifest.list_images(settings, labelled=labelled, hashed=hashed)
        if settings.use_split and (manifest["split"] == "").any():
            if not labelled:
                raise InputError(
                    "use_split: images without labels cannot be split: name the splits in a table, in the column "
                    f"'{settings.split_column}'"
                )
            manifest = data_manifest.build_manifest(settings)
    # once, as both lists of images say the same
    notes += dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning)
    if hashed and (root := data_manifest.data_root(settings)) is not None:
        burnt = for_each(lambda row: dicom.says_burned_in(root / row.path), manifest, what="headers")
        notes += [text] if (text := dicom.about_burned_in(sum(burnt), len(manifest))) else []
    if settings.use_split:
        manifest = manifest[manifest["split"] == settings.use_split].reset_index(drop=True)
        if manifest.empty:
            raise InputError(f"use_split: no image is in the split {settings.use_split}: choose another split")
    elif (splits := set(manifest["split"])) > {"test"}:
        notes.append(
            f"images of all splits ({', '.join(sorted(splits))}) are used, also those of the training: "
            "use_split test (--split test) leaves the others out"
        )
    return manifest, notes


def of_classes(manifest: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The images of classes that the models know, and notes on what is left out, and on classes without images.

    If an image can have several findings: all images, with the findings that the models know.

    Raises: InputError: no image is of such a class; or nothing is said of a finding that the models know.
    """
    if own := multi_label.names(manifest):
        if lacking := [name for name in classes if name not in own]:
            raise InputError(
                f"data: nothing is said of {some(lacking)}, which the models tell apart: name the column, or the "
                "label, in label_columns or label_map"
            )
        others = [name for name in own if name not in classes]
        left = [f"of findings that the models do not know nothing is measured: {some(others)}"] if others else []
        return manifest.drop(columns=[multi_label.PREFIX + name for name in others]), left
    known = manifest["label"].isin(classes)
    if not known.any():
        found = some(sorted(set(manifest["label"])))
        raise InputError(
            f"data: no image is of a class that the models know ({some(classes)}), found {found}: give the labels "
            "these names (label_map)"
        )
    notes = []
    if not known.all():
        counts = manifest.loc[~known, "label"].value_counts()
        listed = some(f"{name} {n}" for name, n in counts.items())
        notes.append(f"{counts.sum()} images of other classes than the models' are left out: {listed}")
    if missing := [name for name in classes if name not in set(manifest["label"])]:
        notes.append(f"there is no image of {some(missing)}, so there is no AUC")
    return manifest[known].reset_index(drop=True), notes


def is_labelled(manifest: pd.DataFrame) -> bool:
    """Whether the images have labels: either all have one, or none has."""
    return bool((manifest["label"] != "").all())


def in_words(manifest: pd.DataFrame) -> str:
    """How many images and patients there are, and whether the classes are known."""
    labels = "with" if is_labelled(manifest) else "without"
    return f"{len(manifest)} images of {manifest['patient_id'].nunique()} patients, {labels} labels"


def class_names(settings: DriftParams, manifest: pd.DataFrame, outputs: int | None = None) -> list[str]:
    """The classes in the order of the models' outputs: `class_names`, or the sorted labels, or numbers.

    Args:
        outputs: the models' number of outputs; None: not known yet, and not checked.

    Raises:
        InputError: a class is named twice or cannot name metrics, a label is not among the classes, or there is
            not one class for each output.
    """
    if settings.train_run_id:
        return models.classes_of(settings.train_run_id)
    labels = data_manifest.classes(manifest) if is_labelled(manifest) else []
    names = list(settings.class_names) or labels or [str(k) for k in range(outputs or 0)]
    if len(set(names)) < len(names):
        raise InputError(f"class_names: name every class once, got {', '.join(names)}")
    metric_names(names)
    if strange := sorted(set(labels) - set(names)):
        raise InputError(
            f"class_names: images are labelled {some(strange)}, and the classes are {', '.join(names)}: use the "
            "names that the labels have"
        )
    if outputs is not None and len(names) != outputs:
        which = "class_names names" if settings.class_names else "the labels are of"
        raise InputError(
            f"the models have {outputs} outputs, and {which} {len(names)} classes ({some(names)}): name one class "
            "for each output, in their order, with class_names (--classes a,b,c); or, if the sub-folders are not "
            "classes, set image_labels to none (--labels none)"
        )
    return names


def load(manifest: pd.DataFrame, settings: DriftParams, networks: Mapping[str, Model]) -> dict[int, np.ndarray]:
    """The images at the size of each model: uint8 [n, size, size] by size, in the order of the manifest."""
    options = {
        "root": data_manifest.data_root(settings),
        "cache": cache.default_cache(),
        "lesion_contrast": settings.lesion_contrast,
    }
    sizes = {model.size for model in networks.values()}
    return {size: loading.load_images(manifest, size=size, **options) for size in sizes}


def measured(
    manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]
) -> dict[str, float]:
    """How well both models classify: `classification.performance` as `<name>_before` and `<name>_after`.

    If an image can have several findings (`task: multi_label`), that of `cxr.metrics.findings`, with the calls of
    `thresholds`.

    Returns: {} without labels. Only the accuracy of the most probable class if AUCs do not exist, because a class
        has no image, or if probabilities do not add up to 1, because the models' outputs are sigmoids. Findings
        that all images have, or none, are left out.
    """
    if not is_labelled(manifest):
        return {}
    if multi_label.columns(manifest):
        return _measured_findings(manifest, probabilities, classes)
    labels = data_manifest.class_index(manifest["label"], classes)
    found = {}
    for name, checkpoint in CHECKPOINTS.items():
        p = probabilities[name]
        if len(set(labels.tolist())) == len(classes) and not (np.abs(p.sum(axis=1) - 1) > 1e-2).any():
            values = classification.performance(labels, p, list(classes))
        else:
            values = {"accuracy": float((p.argmax(axis=1) == labels).mean())}
        found |= {f"{metric}_{checkpoint}": value for metric, value in values.items()}
    return found


def _measured_findings(
    manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]
) -> dict[str, float]:
    truth = truth_of(manifest, classes)
    both = _told_apart(truth)
    names = [name for name, known in zip(classes, both, strict=True) if known]
    found = {}
    for name, checkpoint in CHECKPOINTS.items() if names else ():
        p = probabilities[name][:, both]
        values = findings.performance(truth[:, both], p, names, findings.best_thresholds(truth[:, both], p))
        found |= {f"{metric}_{checkpoint}": value for metric, value in values.items()}
    return found


def _told_apart(truth: np.ndarray) -> np.ndarray:
    """Of which findings there are images with and without: bool [findings]."""
    return (truth == 1).any(axis=0) & (truth == 0).any(axis=0)


def thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """`findings.best_thresholds` on these images, and 0.5 for a finding that all of them have, or none."""
    found, both = np.full(truth.shape[1], 0.5), _told_apart(truth)
    if both.any():
        found[both] = findings.best_thresholds(truth[:, both], probabilities[:, both])
    return found


def truth_of(manifest: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Which image has which finding, in the order of the models' outputs: float32 [n, findings]."""
    return multi_label.truth(manifest[[multi_label.PREFIX + name for name in classes]])


def side_by_side(performances: Mapping[str, float]) -> pd.DataFrame:
    """Accuracy and macro AUC of both models, rounded, as far as `measured` has them: a row per model."""
    names = {"accuracy": "accuracy", "auc_macro": "macro AUC"}
    rows = {
        f"{checkpoint} ({model})": {
            shown: round(performances[f"{name}_{checkpoint}"], 3)
            for name, shown in names.items()
            if f"{name}_{checkpoint}" in performances
        }
        for model, checkpoint in CHECKPOINTS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def doubts(manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[str]:
    """Notes if a model gives one class to all images, is no better than chance, or if a class has no image.

    "No better than chance": 1.64 standard errors of the balanced accuracy reach down to chance. If another order
    of the classes gives a much better accuracy, the note names it. Without labels only the first note is possible.
    If an image can have several findings: a note if a model tells no finding from its absence.
    """
    if multi_label.columns(manifest):
        return _doubted_findings(manifest, probabilities, classes)
    predicted = {name: probabilities[name].argmax(axis=1) for name in CHECKPOINTS}
    constant = [name for name, own in predicted.items() if len(own) > 1 and len(set(own.tolist())) == 1]
    notes = []
    if constant:
        given = " and ".join(f"{name} gives the class {classes[predicted[name][0]]}" for name in constant)
        notes.append(
            f"{given} to all {len(manifest)} images: the images may be prepared in another way than in the "
            "training (--preprocessing), or the model tells no classes apart; do not read its maps before this is "
            "settled"
        )
    if not is_labelled(manifest):
        return notes
    labels = data_manifest.class_index(manifest["label"], classes)
    if lacking := [name for k, name in enumerate(classes) if k not in set(labels.tolist())]:
        notes.append(f"there is no image of {some(lacking)}: the result says nothing about this class")
    weak = [name for name in CHECKPOINTS if name not in constant and _at_chance(labels, predicted[name])]
    if not weak:
        return notes
    one = np.eye(len(classes))
    tables = [one[labels].T @ one[predicted[name]] for name in CHECKPOINTS]  # true, predicted
    accuracy = [float(np.trace(table) / len(labels)) for table in tables]
    chance = 1 / len(classes)
    which = " and ".join(weak)
    text = (
        f"accuracy is {accuracy[0]:.2f} for A and {accuracy[1]:.2f} for B; {which} cannot be told from chance on "
        f"these images: the classes may be in another order than {', '.join(classes)} (--classes), or the images "
        "prepared in another way than in the training (--preprocessing)"
    )
    rows, outputs = linear_sum_assignment(-sum(tables))
    best = float(sum(tables)[rows, outputs].sum() / (2 * len(labels)))
    if len(weak) == len(tables) and best > max(2 * chance, max(accuracy) + 0.1):
        order = [classes[row] for row in rows[np.argsort(outputs)]]
        text += f". With the order {','.join(order)} it would be {best:.2f} on average"
    return [*notes, text]


def _doubted_findings(
    manifest: pd.DataFrame, probabilities: Mapping[str, np.ndarray], classes: Sequence[str]
) -> list[str]:
    """Notes on the calls, and on findings that a model does not recognise: the interval of the AUC reaches 0.5."""
    notes = [
        "a finding counts as called from the probability on that is best for each model on these very images "
        "(highest sum of sensitivity and specificity): calls look a little better than they would elsewhere"
    ]
    truth = truth_of(manifest, classes)
    both = _told_apart(truth)
    if not both.all():
        lacking = [name for name, known in zip(classes, both, strict=True) if not known]
        notes.append(
            f"all images have {some(lacking)}, or none has: there is no AUC, and it is called from a probability "
            "of 0.5 on"
        )
    weights = bootstrap.patient_weights(manifest["patient_id"].to_numpy(), n_boot=500)
    for name in CHECKPOINTS:
        weak = []
        for k, finding in enumerate(classes):
            if not both[k]:
                continue
            draws = classification.auc_replicates(truth[:, [k]], probabilities[name][:, [k]], weights)
            if not bootstrap.interval(draws[np.isfinite(draws)], 0.95)[0] > 0.5:
                weak.append(finding)
        if weak:
            notes.append(
                f"{name} cannot be shown to recognise {some(weak)} on these images (AUC): the findings may be in "
                f"another order than {', '.join(classes)} (--classes), or the images prepared in another way than "
                "in the training (--preprocessing)"
            )
    return notes


def _at_chance(labels: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether the mean recall of the classes with images is no better than 1 / their number, within its error."""
    present = np.unique(labels)
    if len(present) < 2:
        return False
    hits = [predicted[labels == k] == k for k in present]
    recall = np.array([hit.mean() for hit in hits])
    error = np.sqrt(sum(r * (1 - r) / len(hit) for r, hit in zip(recall, hits, strict=True))) / len(present)
    return bool(recall.mean() - 1.64 * error <= 1 / len(present))


def by_class(chosen: pd.DataFrame) -> pd.Series:
    """How many images of each class are scored: int, by the class that is explained (or else the label), sorted.

    Args: chosen: `select`.
    """
    return chosen.groupby("explained" if "explained" in chosen else "label")["scored"].sum().sort_index()


def lacking(chosen: pd.DataFrame) -> list[str]:
    """A note if no image of a class is scored, though there are some. Args: chosen: `select`."""
    counts = by_class(chosen)
    if not (counts == 0).any():
        return []
    of = "all scored images are of one class" if (counts > 0).sum() == 1 else "a class has no scored image"
    listed = some(f"{name} {count}" for name, count in counts.items())
    return [
        f"{of} ({listed}): the result says nothing about the others; a model may confuse them (--images all "
        "scores all images)"
    ]


def explained(explain: str, manifest: pd.DataFrame) -> str:
    """Which class is explained: `true`, `predicted` or `predicted_a`; `auto` is `true` if there are labels."""
    return {"auto": "true" if is_labelled(manifest) else "predicted"}.get(explain, explain)


def select(
    manifest: pd.DataFrame,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    explain: str,
    images: str,
) -> pd.DataFrame:
    """For which class each image is explained, and whether it is scored: `maps.select` for models A and B.

    Args:
        explain: `true`, `predicted` (by B), `predicted_a` or `auto` (`true` if there are labels).
        images: `correct`: those of which both models predict the right class, or, without labels, the class
            explained; `all`; `auto` (`correct` if there are labels).

    If an image can have several findings, it has a row for each one that it has (`multi_label.by_finding`), and
    `explain` has to be `true` or `auto`. `in_order` then gives the pixels of these rows.

    Returns: as `maps.select`. Without labels there is no column `label`, and both_correct means that both models
        predict the class explained.
    Raises: InputError: the true class is to be explained and there are no labels; or no image is left.
    """
    labelled = is_labelled(manifest)
    if explain == "true" and not labelled:
        raise InputError("explain: the true class is not known, as there are no labels: use predicted")
    explain = explained(explain, manifest)
    images = {"auto": "correct" if labelled else "all"}.get(images, images)
    from cxr.training.stages import prediction_table

    several = bool(multi_label.columns(manifest))
    if several and explain != "true":
        raise InputError(
            f"explain: {explain} needs one predicted class an image, and there are several findings: use true, "
            "which explains each finding that an image has"
        )
    tables = {}
    for name in CHECKPOINTS:
        p, cuts = probabilities[name], None
        if several:  # in the order of the manifest's columns
            p = p[:, [list(classes).index(finding) for finding in multi_label.names(manifest)]]
            cuts = thresholds(multi_label.truth(manifest), p)
        names = multi_label.names(manifest) or list(classes)
        tables[name] = multi_label.by_finding(prediction_table(manifest, p, names, cuts))
    predicted = {"predicted": tables["B"]["predicted"], "predicted_a": tables["A"]["predicted"]}
    if not labelled:
        for table in tables.values():
            table["label"] = predicted[explain].to_numpy()
            table["correct"] = table["label"] == table["predicted"]
    try:
        chosen = maps.select(tables["A"], tables["B"], images=images, explain="true")
    except InputError:
        right = {name: int(table["correct"].sum()) for name, table in tables.items()}
        what = "a finding that it has" if several else "the right class" if labelled else "the class explained"
        raise InputError(
            f"there is no image of which both models predict {what}: of {len(manifest)}, A does so for "
            f"{right['A']} and B for {right['B']}: check that the classes are in the order of the outputs "
            "(--classes) and that images are prepared as in the training (--preprocessing), or take all images "
            "(--images all)"
        ) from None
    if labelled and explain != "true":
        order = pd.Series(predicted[explain].to_numpy(), index=manifest["image_id"].to_numpy())
        chosen["explained"] = order.reindex(chosen["image_id"]).to_numpy()
    return chosen if labelled else chosen.drop(columns="label")


def in_order(
    pixels: Mapping[int, np.ndarray], manifest: pd.DataFrame, chosen: pd.DataFrame
) -> dict[int, np.ndarray | arrays.Subset]:
    """The images of the rows of `chosen` (`select`), as `load` has them.

    An image with several findings is there once for each.
    """
    image = chosen["image" if "image" in chosen else "image_id"]
    rows = pd.Index(manifest["image_id"]).get_indexer(image)
    same = np.array_equal(rows, np.arange(len(manifest)))
    return {size: own if same else arrays.Subset(own, rows) for size, own in pixels.items()}
