"""How well a checkpoint classifies: numbers from labels and probabilities."""

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_auc_score

from cxr.core.errors import InputError
from cxr.core.names import metric_name, metric_names  # noqa: F401


def performance(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Discrimination, accuracy and calibration of one set of predictions.

    Parameters
    ----------
    labels : int [n], indices into `classes`.
    probabilities : float [n, c], rows sum to 1.
    classes : names, in the order of the columns; in the keys as `metric_name` writes them.

    Returns
    -------
    dict of floats, keys ready for MLflow:

    auc_<class>, auc_macro : area under the ROC curve of the class against all others; their mean.
    accuracy : share of images whose most probable class (the first of tied ones) is the true one.
    sensitivity_<class>, specificity_<class>, and _macro : of that prediction, the class against all others;
        their means. balanced_accuracy is sensitivity_macro, under the name scikit-learn gives it.
    ece : expected calibration error, Guo et al. (2017), eq. 3: 15 equal bins of the top probability.
    brier : mean over images of the squared error summed over classes (Brier 1950), in [0, 2].
    log_loss : mean of -log p(true class), natural; p clipped to at least float64's epsilon, so at most 36.04.
    n_images : number of images.

    Raises
    ------
    InputError : on inconsistent shapes, on rows that are not distributions, and on a class without images or
        without images of other classes, because its AUC does not exist.
    """
    labels, p = _checked(labels, probabilities, len(classes))
    in_keys = metric_names(classes)
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count in (0, len(labels)):
            raise InputError(
                f"performance: {count} of {len(labels)} images are of class {name!r}, so its AUC does not "
                "exist; evaluate on a set with images of every class, or leave the class out."
            )

    table = confusion(labels, p, len(classes))
    hit = np.diag(table)
    sensitivity = hit / counts
    false_positive = table.sum(0) - hit
    specificity = 1 - false_positive / (len(labels) - counts)
    auc = np.array([roc_auc_score(labels == k, p[:, k]) for k in range(len(classes))])
    bins = reliability(labels, p)
    gap = (bins["accuracy"] - bins["confidence"]).abs()  # NaN in empty bins, which weigh nothing
    true = p[np.arange(len(labels)), labels]
    out = {
        "auc_macro": auc.mean(),
        "accuracy": hit.sum() / len(labels),
        "balanced_accuracy": sensitivity.mean(),
        "sensitivity_macro": sensitivity.mean(),
        "specificity_macro": specificity.mean(),
        "ece": (gap * bins["n"]).sum() / len(labels),
        "brier": ((p - np.eye(len(classes))[labels]) ** 2).sum(1).mean(),
        "log_loss": -np.log(np.maximum(true, np.finfo(np.float64).eps)).mean(),
        "n_images": len(labels),
    }
    for i, name in enumerate(in_keys):
        out[f"auc_{name}"] = auc[i]
        out[f"sensitivity_{name}"] = sensitivity[i]
        out[f"specificity_{name}"] = specificity[i]
    return {key: float(value) for key, value in out.items()}


def confusion(labels: np.ndarray, probabilities: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts int [c, c]: rows are true classes, columns the most probable one (the first of tied ones)."""
    return confusion_matrix(labels, np.argmax(probabilities, axis=1), labels=range(n_classes))


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """The reliability diagram's table (Guo et al. 2017, section 2): top probability against accuracy.

    Bin m of M holds the images whose top probability lies in ((m - 1) / M, m / M].

    Returns
    -------
    DataFrame with M rows: center (the bin's middle), confidence (mean top probability), accuracy (share of
    right top classes), n (images). Confidence and accuracy are NaN in an empty bin.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return calibration(p.max(1), p.argmax(1) == labels, bins)


def calibration(probabilities: np.ndarray, right: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """What `reliability` returns, from probabilities float [n] and whether that came true, bool [n]."""
    index = np.searchsorted(np.arange(1, bins) / bins, probabilities, side="left")
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, probabilities, minlength=bins) / n
        accuracy = np.bincount(index, right, minlength=bins) / n
    center = (np.arange(bins) + 0.5) / bins
    return pd.DataFrame({"center": center, "confidence": confidence, "accuracy": accuracy, "n": n})


def auc_replicates(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro one-against-rest AUC of resampled predictions: float64 [b].

    The mean over classes of P(score of an image of the class > score of another) + P(equal) / 2 (the Mann-Whitney
    form). Each image counts as often as it was drawn. With all weights one it equals `performance`'s auc_macro.

    Parameters
    ----------
    labels, probabilities : as for `performance`; or those of findings (`cxr.metrics.findings.performance`).
    weights : int [b, n], how often each image was drawn (`cxr.statistics.bootstrap.patient_weights`; with the same
        weights for two checkpoints, or two seeds, the replicates are paired).

    Returns
    -------
    float64 [b] in [0, 1]. NaN where a replicate holds no image of some class, or no image of any other.
    """
    if labels.ndim == 1:
        labels = (labels[:, None] == np.arange(probabilities.shape[1])).astype(float)
    blocks = max(1, round(weights.size / 2_000_000))  # bounds the memory for intermediate arrays
    return np.concatenate(
        [_weighted_auc(labels, probabilities, block) for block in np.array_split(weights, blocks)]
    )


def _weighted_auc(truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """truth: float [n, c], 1, 0, or NaN: the image is no part of this column."""
    total = np.zeros(len(weights))
    for k in range(p.shape[1]):
        rank = np.argsort(p[:, k], kind="stable")
        rank = rank[~np.isnan(truth[rank, k])]
        score, positive = p[rank, k], truth[rank, k] == 1
        starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # of each run of tied scores
        drawn = weights[:, rank]
        hits = np.add.reduceat(drawn * positive, starts, axis=1)
        others = np.add.reduceat(drawn * ~positive, starts, axis=1)
        below = np.cumsum(others, axis=1) - others / 2  # those with a lower score, and half of the tied ones
        pairs = hits.sum(1) * others.sum(1)
        with np.errstate(invalid="ignore"):
            total += (hits * below).sum(1) / pairs  # 0 / 0 is NaN: the class, or all others, not drawn
    return total / p.shape[1]


def _checked(labels: np.ndarray, probabilities: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] and float64 [n, c], or InputError."""
    labels, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or p.shape != (len(labels), n_classes) or len(labels) == 0 or n_classes < 2:
        raise InputError(
            "predictions: expected labels [n] and probabilities [n, c] with n of 1 and c of 2 or more, and "
            f"c = {n_classes} classes; got shapes {labels.shape} and {p.shape}."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= n_classes:
        raise InputError(
            f"predictions: labels must be integers from 0 to {n_classes - 1}, got dtype {labels.dtype} "
            f"with values {np.unique(labels)[:8].tolist()}."
        )
    # The sums of a softmax in float16 are off by up to about 1e-3; those of logits by far more.
    wrong = ~((p >= 0).all(1) & (p <= 1 + 1e-6).all(1) & (np.abs(p.sum(1) - 1) < 1e-2))  # NaN too
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        raise InputError(
            f"predictions: {wrong.sum()} rows of probabilities are not a distribution, first row {first}: "
            f"{p[first].tolist()}; pass the softmax, not the logits."
        )
    return labels.astype(np.int64), p
