"""Can metadata or brightness alone predict the class? Then a network may learn them instead of the disease."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cxr.data import multi_label
from cxr.data.checks.files import THUMB, Look
from cxr.data.checks.findings import Finding

BETRAYS = 0.05  # report metadata with a balanced accuracy this far above chance, if it is significant
ALPHA = 0.01  # level of significance, over all variables and their joint test (Bonferroni)
# Folds share training images. So without any shortcut, accuracy varies 1.2 to 1.5 times as much as patients alone
# would cause (simulated: docs/checks.md). The p value takes this into account.
_SPREAD = 1.5
_SAMPLE = 20_000  # about so many images are used to test metadata, all images of a patient or none
_LEVELS = 20  # of a text variable; rarer ones are put together


def metadata(rows: pd.DataFrame, known: dict[str, tuple[str, np.ndarray]]) -> list[Finding]:
    """How well metadata alone predict the class, cross-validated over patients.

    `known`: of `variables`, with a value for each row.
    """
    task = _Task(rows)
    if task.folds is None or not known:
        what = "nothing varies" if task.folds is not None else "a class has fewer than three patients"
        return [Finding("metadata", "note", f"cannot test whether metadata predict the class: {what}")]

    def judge(names: list[str], make: Callable[[], Any], tests: int) -> dict[str, Any]:
        return task.judge(make, np.column_stack([known[name][1][task.sample] for name in names]), tests)

    tests = 2 * len(known)
    table = pd.DataFrame(
        [{"variable": name, "kind": kind} | judge([name], _tree, tests) for name, (kind, _) in known.items()]
    ).sort_values("balanced accuracy", ascending=False, ignore_index=True)
    found = []
    seen = [name for name, (kind, _) in known.items() if kind != "name"]
    part = table[table["kind"] != "name"].reset_index(drop=True)
    chance = 1 / len(task.label_names)
    if seen:
        joint = judge(seen, partial(_forest, len(task.sample)), 2)
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
    task = _Task(rows)
    if task.folds is None:
        return []
    coarse = thumbs[task.sample].reshape(-1, 8, THUMB // 8, 8, THUMB // 8).mean(axis=(2, 4)).reshape(-1, 64)
    judged = task.judge(_linear, coarse, 1)
    text = (
        "a linear classifier of 8 x 8 grey values predicts the class with a balanced accuracy of "
        f"{_interval(judged)} (chance {1 / len(task.label_names):.2f}): brightness, framing and build alone "
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


class _Task:
    """To predict the class of images that were not trained on, cross-validated over patients.

    sample : row numbers of about _SAMPLE images at most: all images of a patient or none.
    label_names, label, patients : the classes, and the numbers of each image's class and patient.
    folds : (rows to train on, rows to predict) of each; None if there are too few patients.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        from sklearn.model_selection import StratifiedGroupKFold

        names, number = np.unique(rows["patient_id"].to_numpy(dtype=str), return_inverse=True)
        self.sample = np.arange(len(rows))
        if len(rows) > _SAMPLE:
            place = np.random.default_rng(0).permutation(len(names))[number]
            self.sample = np.flatnonzero(place < np.sort(place)[_SAMPLE])
        by_class = multi_label.by_class(rows.iloc[self.sample].reset_index(drop=True))
        self.sample = self.sample[by_class.index]  # an image with several findings stands there for each
        self.patients = number[self.sample]
        self.label_names, self.label = np.unique(by_class["label"].to_numpy(dtype=str), return_inverse=True)
        of_class = pd.Series(self.patients).groupby(self.label).nunique()
        self.folds = None
        if len(of_class) > 1 and of_class.min() >= 3:
            splitter = StratifiedGroupKFold(min(5, of_class.min()), shuffle=True, random_state=0)
            self.folds = list(splitter.split(self.label, self.label, self.patients))

    def judge(self, make: Callable[[], Any], values: np.ndarray, tests: int) -> dict[str, Any]:
        """Cross-validated balanced accuracy with its 95 % interval over patients, and the AUC of each class.

        Balanced accuracy is a mean of ratios. So its variance over patients is the sum of the squares of each
        patient's influence on it. p is one-sided (see _SPREAD). "betrays" is true if the accuracy is above chance
        at the level ALPHA / tests, and by BETRAYS or more.
        """
        from sklearn.metrics import roc_auc_score

        label, label_names = self.label, self.label_names
        k = len(label_names)
        scores = np.zeros((len(label), k))
        for train, test in self.folds:
            model = make().fit(values[train], label[train])
            scores[np.ix_(test, model.classes_)] = model.predict_proba(values[test])
        right = scores.argmax(axis=1) == label
        of_class = np.bincount(label, minlength=k)
        recall = np.bincount(label, right, minlength=k) / of_class
        influence = np.bincount(self.patients, (right - recall[label]) / (k * of_class[label]))
        # If all are right or all wrong, the error is not 0: take at least the binomial variance of shrunken
        # recalls.
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


def variables(
    rows: pd.DataFrame, looks: Sequence[Look], extra: pd.DataFrame | None
) -> dict[str, tuple[str, np.ndarray]]:
    """What is known about each image besides its pixels: name to (kind, values float64 [n], NaN if unknown).

    Kinds: "file" (headers), "table" (other columns of the user's table), "name" (of file, folder and patient: no
    network sees them, but they may say where an image comes from). Variables with one value, and texts that equal
    the label, are left out.
    """
    raw: dict[str, tuple[str, pd.Series]] = {}
    headers = [look.header for look in looks]
    for name in ("width", "height", "bits", "frames", "mode", "format"):
        raw[name] = "file", pd.Series([getattr(header, name) for header in headers])
    raw["aspect"] = "file", raw["width"][1] / raw["height"][1]
    raw["file_size"] = "file", pd.Series([look.size for look in looks])
    raw["bytes_per_pixel"] = "file", raw["file_size"][1] / (raw["width"][1] * raw["height"][1])
    for name in sorted({key for header in headers for key in header.details}):
        raw[name] = "file", pd.Series([str(header.details.get(name, "")) for header in headers])
    for name in [] if extra is None else extra.columns:
        # a column may also be called "width"
        raw[f"column {name}"] = "table", extra[name].reindex(rows["path"]).fillna("").reset_index(drop=True)
    paths = [PurePosixPath(path) for path in rows["path"]]
    raw["name_prefix"] = "name", pd.Series([_letters(path.stem) for path in paths])
    raw["name_length"] = "name", pd.Series([len(path.stem) for path in paths])
    raw["patient_prefix"] = "name", pd.Series([_letters(patient) for patient in rows["patient_id"]])
    for depth in range(min(len(path.parts) for path in paths) - 1):
        raw[f"folder_{depth + 1}"] = "name", pd.Series([path.parts[depth] for path in paths])
    label = rows["label"].str.casefold().to_numpy()
    out = {}
    for name, (kind, values) in raw.items():
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            if (values.str.strip().str.casefold().to_numpy() == label).mean() > 0.9:
                continue
            for suffix, numbers in _numbers(values.astype(str)):
                out[name + suffix] = kind, numbers
        else:
            out[name] = kind, values.to_numpy(dtype=float)
    return {name: (kind, values) for name, (kind, values) in out.items() if _varies(values)}


def _letters(text: str) -> str:
    return re.match(r"[^\W\d_]*", text).group().casefold()


def _varies(values: np.ndarray) -> bool:
    return len(np.unique(values)) > 1  # NaN is one value


def _numbers(values: pd.Series) -> Iterable[tuple[str, np.ndarray]]:
    """A text as numbers: itself, the numbers in it ("1024x800 L" has two), or a code for each frequent text."""
    values = values.str.strip()
    known = values[values != ""]
    plain = pd.to_numeric(values, errors="coerce")
    if len(known) and plain.notna().sum() >= 0.9 * len(known):
        yield "", plain.to_numpy(dtype=float)
        return
    counts = known.value_counts()
    if len(counts) > _LEVELS:
        inside = known.str.findall(r"\d+(?:\.\d+)?")
        if inside.str.len().nunique() == 1 and 1 <= len(inside.iloc[0]) <= 4:
            for place in range(len(inside.iloc[0])):
                numbers = pd.Series(np.nan, values.index)
                numbers[known.index] = inside.str[place].astype(float)
                yield f" [{place + 1}]", numbers.to_numpy()
            return
    codes = {text: code for code, text in enumerate(counts.index[:_LEVELS], start=1)}
    # Sort by text if all fit, so that codes do not depend on ties in the counts.
    if len(counts) <= _LEVELS:
        codes = {text: code for code, text in enumerate(sorted(counts.index), start=1)}
    yield "", np.array([codes.get(text, 0 if text == "" else _LEVELS + 1) for text in values], float)
