"""How well a checkpoint recognises several findings an image: each finding is a question of its own, yes or no.

`cxr.metrics.classification` is for images that have one class. A label that is not known (NaN) is part of no
number here.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_curve

from cxr.core.errors import InputError
from cxr.core.names import metric_names
from cxr.metrics.classification import auc_replicates, calibration


def best_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability from which on a finding is called: float64 [findings].

    It maximises sensitivity + specificity (Youden 1950, Cancer 3:32); the highest of equals. Choose it on images
    that no result is of, such as those of the validation.

    Args: truth: [n, findings], 1, 0 or NaN. probabilities: [n, findings].
    Raises: InputError: a finding that all images have, or none.
    """
    truth, p = _checked(truth, probabilities)
    found = []
    for k in range(truth.shape[1]):
        known = ~np.isnan(truth[:, k])
        false, true, thresholds = roc_curve(truth[known, k], p[known, k], drop_intermediate=False)
        gained = np.round((true - false)[1:], 12)  # the first threshold, infinity, calls nothing
        found.append(thresholds[1:][gained.argmax()])
    return np.array(found)


def performance(
    truth: np.ndarray, probabilities: np.ndarray, findings: list[str], thresholds: np.ndarray
) -> dict[str, float]:
    """Discrimination, calls and calibration of one set of predictions.

    Parameters
    ----------
    truth : float [n, f]: 1 (the image has the finding), 0 (it has not), NaN (not known).
    probabilities : float [n, f], each in [0, 1].
    findings : names, in the order of the columns; in the keys as `cxr.core.names.metric_name` writes them.
    thresholds : float [f], from which on a finding is called (`best_thresholds`).

    Returns
    -------
    dict of floats, keys ready for MLflow; "macro" is the mean over the findings:

    auc_<finding>, auc_macro : area under the ROC curve, of the images of which the finding is known.
    average_precision_<finding>, and _macro : the mean of precision over recall; the share of images with the
        finding if the probabilities say nothing.
    sensitivity_<finding>, specificity_<finding>, and _macro : of the calls. balanced_accuracy is the mean of both
        macro numbers.
    accuracy : share of all known labels that the calls say right.
    ece_<finding>, ece : expected calibration error in 15 equal bins of the probability; the mean over findings.
    brier : mean over the known labels of the squared error, in [0, 1].
    log_loss : mean over the known labels of -log p(label), natural; p clipped as in `classification.performance`.
    n_images : number of images.

    Raises
    ------
    InputError : on inconsistent shapes or values, and on a finding that all images have, or none.
    """
    truth, p = _checked(truth, probabilities, findings)
    names = metric_names(findings)
    counts = confusion(truth, p, thresholds).astype(float)
    sensitivity = counts[:, 1, 1] / counts[:, 1].sum(axis=1)
    specificity = counts[:, 0, 0] / counts[:, 0].sum(axis=1)
    columns = [(truth[known, k], p[known, k]) for k, known in enumerate((~np.isnan(truth)).T)]
    once = [np.ones((1, len(own)), int) for own, _ in columns]
    each = {
        "auc": [auc_replicates(y[:, None], q[:, None], w)[0] for (y, q), w in zip(columns, once, strict=True)],
        "average_precision": [average_precision_score(y, q) for y, q in columns],
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ece": [_ece(y, q) for y, q in columns],
    }
    known = ~np.isnan(truth)
    said = np.where(truth == 1, p, 1 - p)[known]
    out = {
        **{f"{name}_macro": np.mean(values) for name, values in each.items() if name != "ece"},
        "accuracy": counts[:, [0, 1], [0, 1]].sum() / counts.sum(),
        "balanced_accuracy": (sensitivity.mean() + specificity.mean()) / 2,
        "ece": np.mean(each["ece"]),
        "brier": ((p - truth)[known] ** 2).mean(),
        "log_loss": -np.log(np.maximum(said, np.finfo(np.float64).eps)).mean(),
        "n_images": len(truth),
    }
    out |= {
        f"{key}_{name}": value for key, values in each.items() for name, value in zip(names, values, strict=True)
    }
    return {key: float(value) for key, value in out.items()}


def confusion(truth: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Counts int [f, 2, 2] of each finding: rows are without and with it, columns not called and called.

    Labels that are not known do not count.
    """
    called = np.asarray(probabilities) >= thresholds
    counts = [[((truth == has) & (called == yes)).sum(axis=0) for yes in (False, True)] for has in (0, 1)]
    return np.moveaxis(np.array(counts), -1, 0)


def reliability(truth: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """The reliability diagram's table over all known labels: probability of a finding against its frequency.

    Returns what `classification.reliability` does; `accuracy` is the share of labels that are 1.
    """
    known = ~np.isnan(truth)
    return calibration(np.asarray(probabilities, np.float64)[known], truth[known] == 1, bins)


def _ece(truth: np.ndarray, p: np.ndarray) -> float:
    table = calibration(p, truth == 1)
    return float(((table["accuracy"] - table["confidence"]).abs() * table["n"]).sum() / len(truth))


def _checked(
    truth: np.ndarray, probabilities: np.ndarray, findings: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [n, f], or InputError."""
    truth, p = np.asarray(truth, np.float64), np.asarray(probabilities, np.float64)
    width = truth.shape[-1] if findings is None else len(findings)
    if truth.ndim != 2 or p.shape != truth.shape or truth.shape[1] != width or not len(truth):
        raise InputError(
            f"predictions: expected labels and probabilities [n, {width}], a column a finding; got shapes "
            f"{truth.shape} and {p.shape}."
        )
    if not (np.isnan(truth) | (truth == 0) | (truth == 1)).all():
        raise InputError("predictions: labels of findings must be 0, 1 or NaN (not known)")
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise InputError("predictions: probabilities must lie in [0, 1]; pass the sigmoids, not the logits.")
    for k in range(width):
        if not {0.0, 1.0} <= set(truth[:, k]):
            name = k if findings is None else repr(findings[k])
            raise InputError(
                f"predictions: all images have the finding {name}, or none has, so its AUC does not exist; "
                "evaluate on a set with both, or leave the finding out."
            )
    return truth, p
