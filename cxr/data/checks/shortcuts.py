"""Whether metadata or brightness alone tell the class: what a network could learn in place of the disease."""

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

BETRAYS = 0.05  # balanced accuracy above chance from which metadata are reported, if significant too
ALPHA = 0.01  # of that significance, over all variables and their joint test (Bonferroni)
# Folds share training images, so where nothing betrays the class their accuracy varies by 1.2 to 1.5 times what
# patients alone would give (simulated: docs/checks.md); a p value counts that.
_SPREAD = 1.5
_SAMPLE = 20_000  # images on which metadata are tested, patients whole


def metadata(rows: pd.DataFrame, known: dict[str, tuple[str, np.ndarray]]) -> list[Finding]:
    """Findings on how well the class is named by metadata alone, cross-validated over patients."""
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None or not known:
        what = "nothing varies" if folds is not None else "a class has fewer than three patients"
        return [Finding("metadata", "note", f"whether metadata name the class cannot be tested: {what}")]

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
                f"metadata alone name the class with a balanced accuracy of {_interval(best)} (chance "
                f"{chance:.2f}){_alone(betrays)}: a network can learn where an image comes from in place of the "
                "disease. Compare classes from the same source, or mind it in reading the maps"
            )
            rows_ = pd.DataFrame([{"variable": "all of these together", "kind": "all"} | joint])
            whole = pd.concat([rows_, part], ignore_index=True)
            found.append(Finding("metadata", "warning", text, whole))
        else:
            text = f"metadata do not name the class: balanced accuracy {_interval(joint)} (chance {chance:.2f})"
            found.append(Finding("metadata", "note", text, part))
    names = table[(table["kind"] == "name") & table["betrays"]].reset_index(drop=True)
    if len(names):
        text = (
            f"names say the class{_alone(names)}: harmless if files were named by class; if prefixes stand for "
            "hospitals, each class comes from its own"
        )
        found.append(Finding("names", "note", text, names))
    return found


def brightness(rows: pd.DataFrame, thumbs: np.ndarray) -> list[Finding]:
    """What the coarsest look at the pixels says of the class: 8 x 8 grey values and a linear classifier."""
    sample = _sampled(rows["patient_id"])
    label_names, label = np.unique(rows["label"].to_numpy(dtype=str)[sample], return_inverse=True)
    patients = np.unique(rows["patient_id"].to_numpy(dtype=str)[sample], return_inverse=True)[1]
    folds = _folds(label, patients)
    if folds is None:
        return []
    coarse = thumbs[sample].reshape(-1, 8, THUMB // 8, 8, THUMB // 8).mean(axis=(2, 4)).reshape(-1, 64)
    judged = _judge(_linear, coarse, label, patients, folds, label_names, 1)
    text = (
        "a linear classifier of 8 x 8 grey values names the class with a balanced accuracy of "
        f"{_interval(judged)} (chance {1 / len(label_names):.2f}): what brightness, framing and build "
        "give without any detail"
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
    return f"; each by itself: {', '.join(parts)}" if parts else ""


def _sampled(patients: pd.Series) -> np.ndarray:
    """Row numbers of at most about _SAMPLE images, patients whole."""
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
        n_jobs=-1 if n > 2000 else 1,  # threads cost more than they save on few
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

    Balanced accuracy is a mean of ratios, so its variance over patients is the sum of squares of each patient's
    influence on it. p: one-sided, see _SPREAD. "betrays": above chance at ALPHA / tests and by BETRAYS or more.
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
    # All right or all wrong in every class is no certainty: at least the binomial variance of shrunken recalls.
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
