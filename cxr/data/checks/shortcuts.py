"""Can metadata or brightness alone predict the class? Then a network may learn them instead of the disease."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cxr.data.checks.files import THUMB
from cxr.data.checks.findings import Finding

BETRAYS = 0.05  # report metadata with a balanced accuracy this far above chance, if it is significant
ALPHA = 0.01  # level of significance, over all variables and their joint test (Bonferroni)
# Folds share training images. So without any shortcut, accuracy varies 1.2 to 1.5 times as much as patients alone
# would cause (simulated: docs/checks.md). The p value takes this into account.
_SPREAD = 1.5
_SAMPLE = 20_000  # about so many images are used to test metadata, all images of a patient or none


def metadata(rows: pd.DataFrame, known: dict[str, tuple[str, np.ndarray]]) -> list[Finding]:
    """How well metadata alone predict the class, cross-validated over patients.

    `known`: of `metadata.variables`, with a value for each row.
    """
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None or not known:
        what = "nothing varies" if folds is not None else "a class has fewer than three patients"
        return [Finding("metadata", "note", f"cannot test whether metadata predict the class: {what}")]

    def judge(names: list[str], together: bool, tests: int) -> dict[str, Any]:
        values = np.column_stack([known[name][1][sample] for name in names])
        return _judge(
            partial(_forest, len(sample)) if together else _tree,
            values,
            label,
            patients,
            folds,
            label_names,
            tests,
        )

    tests = 2 * len(known)
    table = pd.DataFrame(
        [{"variable": name, "kind": kind} | judge([name], False, tests) for name, (kind, _) in known.items()]
    ).sort_values("balanced accuracy", ascending=False, ignore_index=True)
    found = []
    seen = [name for name, (kind, _) in known.items() if kind != "name"]
    part = table[table["kind"] != "name"].reset_index(drop=True)
    chance = 1 / len(label_names)
    if seen:
        joint = judge(seen, True, 2)
        betrays = part[part["betrays"]]
        if joint["betrays"] or len(betrays):
            best = joint if joint["betrays"] else betrays.iloc[0]
            text = (
                f"metadata alone predict the class with a balanced accuracy of {_interval(best)} (chance "
                f"{chance:.2f}){_alone(betrays)}: a network can learn where an image comes from instead of the "
                "disease. Compare classes from the same source, or keep it in mind when reading the maps"
            )
            rows_ = pd.DataFrame([{"variable": "all of these together", "kind": "all"} | joint])
            whole = pd.concat([rows_, part], ignore_index=True)
            found.append(Finding("metadata", "warning", text, whole))
        else:
            text = f"metadata do not predict the class: balanced accuracy {_interval(joint)} (chance {chance:.2f})"
            found.append(Finding("metadata", "note", text, part))
    names = table[(table["kind"] == "name") & table["betrays"]].reset_index(drop=True)
    if len(names):
        text = (
            f"names predict the class{_alone(names)}: harmless if files were named by class; if names stand for "
            "hospitals, each class comes from another hospital"
        )
        found.append(Finding("names", "note", text, names))
    return found


def brightness(rows: pd.DataFrame, thumbs: np.ndarray) -> list[Finding]:
    """How well 8 x 8 grey values and a linear classifier predict the class; `thumbs` uint8 [n, THUMB, THUMB]."""
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None:
        return []
    coarse = thumbs[sample].reshape(-1, 8, THUMB // 8, 8, THUMB // 8).mean(axis=(2, 4)).reshape(-1, 64)
    judged = _judge(_linear, coarse, label, patients, folds, label_names, 1)
    text = (
        "a linear classifier of 8 x 8 grey values predicts the class with a balanced accuracy of "
        f"{_interval(judged)} (chance {1 / len(label_names):.2f}): brightness, framing and build alone "
        "give this"
    )
    table = pd.DataFrame([{"variable": "8 x 8 grey values", "kind": "pixels"} | judged])
    return [Finding("coarse brightness", "note", text, table)]


def _interval(row: Any) -> str:
    return f"{row['balanced accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _alone(table: pd.DataFrame) -> str:
    parts = [
        f"{row['variable']} {row['balanced accuracy']:.2f} (most: {row['most']})"
        for _, row in table.head(4).iterrows()
    ]
    return f"; alone: {', '.join(parts)}" if parts else ""


def _sampled(patients: pd.Series) -> np.ndarray:
    """Row numbers of about _SAMPLE images at most: all images of a patient or none."""
    if len(patients) <= _SAMPLE:
        return np.arange(len(patients))
    names, number = np.unique(patients.to_numpy(dtype=str), return_inverse=True)
    place = np.random.default_rng(0).permutation(len(names))[number]
    return np.flatnonzero(place < np.sort(place)[_SAMPLE])


def _folds(label: np.ndarray, patients: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(patients[label == k])) for k in range(label.max() + 1)) if len(label) else 0
    if fewest < 3 or label.max() < 1:
        return None
    splitter = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=0)
    return list(splitter.split(label, label, patients))


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=5, class_weight="balanced", random_state=0)


def _forest(n: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        50,
        min_samples_leaf=5,
        max_features=None,
        class_weight="balanced",
        random_state=0,
        n_jobs=-1 if n > 2000 else 1,  # for few images threads cost more than they save
    )


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))


def _judge(
    make: Callable[[], Any],
    values: np.ndarray,
    label: np.ndarray,
    patients: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
    label_names: Sequence[str],
    tests: int,
) -> dict[str, Any]:
    """Cross-validated balanced accuracy with its 95 % interval over patients, and the AUC of each class.

    Balanced accuracy is a mean of ratios. So its variance over patients is the sum of the squares of each
    patient's influence on it. p is one-sided (see _SPREAD). "betrays" is true if the accuracy is above chance at
    the level ALPHA / tests, and by BETRAYS or more.
    """
    from sklearn.metrics import roc_auc_score

    k = len(label_names)
    scores = np.zeros((len(label), k))
    for train, test in folds:
        model = make().fit(values[train], label[train])
        scores[np.ix_(test, model.classes_)] = model.predict_proba(values[test])
    right = scores.argmax(axis=1) == label
    of_class = np.bincount(label, minlength=k)
    recall = np.bincount(label, right, minlength=k) / of_class
    influence = np.bincount(patients, (right - recall[label]) / (k * of_class[label]))
    # If all are right or all wrong, the error is not 0: take at least the binomial variance of shrunken recalls.
    shrunk = (recall * of_class + 1) / (of_class + 2)
    least = (shrunk * (1 - shrunk) / of_class).sum() / k**2
    value, error = float(recall.mean()), math.sqrt(max((influence**2).sum(), least))
    auc = [float(roc_auc_score(label == number, scores[:, number])) for number in range(k)]
    chance = 1 / k
    p = float(stats.norm.sf((value - chance) / (_SPREAD * error)))
    best = int(np.argmax(auc))
    return {
        "balanced accuracy": round(value, 3),
        "low": round(max(0.0, value - 1.96 * error), 3),
        "high": round(min(1.0, value + 1.96 * error), 3),
        "p": "<0.0001" if p < 1e-4 else f"{p:.4f}",
        "betrays": bool(p < ALPHA / tests and value >= chance + BETRAYS),
        "most": f"{label_names[best]}, AUC {auc[best]:.2f}",
        **{f"AUC {name}": round(area, 3) for name, area in zip(label_names, auc, strict=True)},
    }
