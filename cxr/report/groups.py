"""Drift and performance of groups of images: classes, and any column that the study declared (`groups`).

A pooled median can hide that one group drifts and another does not. Each group is compared with all other images:
with two groups this is their difference, with more it asks which group differs from the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.core import markdown
from cxr.core.methods import LABELS
from cxr.data import groups as data_groups
from cxr.data import multi_label
from cxr.metrics import baselines, classification
from cxr.metrics.metric_table import METRICS
from cxr.report.comparison import CELL, LOCATED
from cxr.report.scores import Study
from cxr.statistics import bootstrap, estimates, resampling
from cxr.statistics.bootstrap import FEW_PATIENTS
from cxr.statistics.estimates import Estimate

NO_VALUE = "no value"
MEASURES = ("macro AUC", "accuracy")
AUC = "AUC"
"""The measure of a finding, where an image can have several."""
INDEX = ["image_id", "patient_id"]


@dataclass(frozen=True)
class Groups:
    """What a study says of its groups; made by `of_study`.

    drift: of `drift`. performance: of `performance`. differences: of `differences`.
    metric: the primary metric.
    level: of the intervals; tests are at 1 - level.
    """

    drift: pd.DataFrame
    performance: pd.DataFrame
    differences: pd.DataFrame
    metric: str
    level: float


def of_study(
    study: Study,
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    metric: str,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
) -> Groups:
    """All groups that the study declared, in all cells. `predictions`: `Study.predictions`."""
    names = declared(study)
    options = {"level": level, "n_boot": n_boot}
    return Groups(
        drift=drift(study.scores, names, metric, **options),
        performance=performance(predictions, names, **options),
        differences=differences(study.scores, predictions, names, metric, **options),
        metric=metric,
        level=level,
    )


def declared(study: Study) -> list[str]:
    """The names of the groups: the parameter `groups` of the train runs; the classes alone in earlier versions."""
    label = "label" in study.training_params.get("groups", "label").split(", ")
    found = data_groups.columns(study.scores.columns)
    return ["label"] * label + [name.removeprefix(data_groups.PREFIX) for name in found]


def drift(
    scores: pd.DataFrame, names: list[str], metric: str, *, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """Drift of every group.

    Args:
        scores: per-image rows of all score runs (`comparison.score_table`), with the columns of the groups.
        names: of groups, such as "label" and "sex".
        metric: the primary metric.

    Returns: architecture, method, group, value, n_images (over all seeds; with a value of the metric), n_patients,
        <metric>_median, <metric>_ci_low, <metric>_ci_high, and the same of <metric>_corrected where it is known
        (`baselines.corrected` of the group's medians). Intervals are those of `estimates.located`, NaN with fewer
        than `FEW_PATIENTS` patients. Images without a value of the group are the last one, `NO_VALUE`.
    """
    rows = []
    for (architecture, method), cell in scores.dropna(subset=[metric]).groupby(CELL, sort=False):
        found = _Drift(cell, metric, n_boot)
        for name, value, members in _members(found.index, cell, names):
            row = {"architecture": architecture, "method": method, "group": name, "value": value}
            row |= found.counts(members)
            for measure in found.measures:
                per_seed, draws = found.statistic(measure, members)
                bounds = METRICS[metric].bounds if measure == metric else (None, 1)
                location = np.clip(_located(per_seed, draws, row["n_patients"], level), *bounds)
                row |= {f"{measure}_{part}": x for part, x in zip(LOCATED, location, strict=True)}
            rows.append(row)
    return pd.DataFrame(rows)


def performance(
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    names: list[str],
    *,
    level: float = 0.95,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Performance of every group on the test set.

    Args:
        predictions: per architecture, seed and checkpoint, `cxr.training.stages.prediction_table`.
        names: of groups.

    Returns: architecture, group, value, n_images, n_patients, measure ("macro AUC" if every class occurs in the
        group, else "accuracy"; if an image can have several findings: "AUC" of a finding, over all images of which
        it is known, whose number is n_images; n_patients are those that have it), and for before and after:
        <checkpoint>_median, <checkpoint>_ci_low, <checkpoint>_ci_high (over seeds, as in `drift`).
    """
    rows = []
    for architecture in dict.fromkeys(architecture for architecture, _, _ in predictions):
        ends = {
            checkpoint: _Performance(predictions, architecture, checkpoint, n_boot)
            for checkpoint in ("before", "after")
        }
        for name, value, members, row in ends["after"].members(names):
            row = {"architecture": architecture, "group": name, "value": value} | row
            for checkpoint, end in ends.items():
                values = end.statistic(row["measure"], members, value)
                location = _located(*values, row["n_patients"], level, on=estimates.proportion)
                row |= {f"{checkpoint}_{part}": x for part, x in zip(LOCATED, location, strict=True)}
            rows.append(row)
    return pd.DataFrame(rows)


def differences(
    scores: pd.DataFrame,
    predictions: Mapping[tuple[str, int, str], pd.DataFrame],
    names: list[str],
    metric: str,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Does a group differ from all other images?

    The quantities are the corrected primary metric (or the metric itself, if it has no corrected form) and the
    performance after fine-tuning; not that of a class, which is another question. A difference is taken under each
    seed, and resampled over patients: where patients are in several groups, it is within patients. Of two groups
    in a column only the first is listed: the other has the same difference with the other sign. Groups with fewer
    than `FEW_PATIENTS` patients are not tested, nor do they count among the others.

    Args: as for `drift` and `performance`.

    Returns: measure, architecture, method ("" for performance), group, value, difference (the group minus the
        others), difference_ci_low, difference_ci_high, p (`estimates.estimate`, `p_value`), p_holm (over all
        rows), n_seeds, n_patients (of the smaller side).
    """
    rows = []
    for (architecture, method), cell in scores.dropna(subset=[metric]).groupby(CELL, sort=False):
        found = _Drift(cell, metric, n_boot)
        head = {"architecture": architecture, "method": method}
        rows += [head | row for row in _tests(found, cell, names, level)]
    for architecture in dict.fromkeys(architecture for architecture, _, _ in predictions):
        found = _Performance(predictions, architecture, "after", n_boot)
        head = {"architecture": architecture, "method": ""}
        rows += [head | row for row in _tests(found, found.table, [n for n in names if n != "label"], level)]
    columns = ["measure", "architecture", "method", "group", "value", "difference"]
    columns += ["difference_ci_low", "difference_ci_high", "p", "n_seeds", "n_patients"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(columns.index("p") + 1, "p_holm", estimates.holm(table["p"].astype(float)))
    return table


def _tests(
    found: _Drift | _Performance, rows: pd.DataFrame, names: list[str], level: float
) -> Iterator[dict[str, str | float]]:
    """The rows of `differences` for one cell, or one architecture."""
    for name, value, *sides in _contrasts(found.index, rows, names):
        measure = found.measure(*sides)
        count = min(found.index[side].unique("patient_id").size for side in sides)
        both = (found.statistic(measure, side) for side in sides)
        yield {"measure": measure, "group": name, "value": value} | _difference(*both, count, level)


class _Drift:
    """The scores of one cell, none NaN: medians over some images, by seed, with replicates over patients."""

    def __init__(self, cell: pd.DataFrame, metric: str, n_boot: int) -> None:
        other = f"{metric}_two_patients"
        corrects = METRICS[metric].identical == 1 and other in cell
        self.metric, self._other = metric, other
        self.measures = [metric, *([f"{metric}_corrected"] if corrects else [])]
        self.values = cell.pivot(
            index=INDEX, columns="seed", values=[metric, other] if corrects else [metric]
        ).astype(float)
        self.index = self.values.index
        patients = self.index.get_level_values("patient_id")
        self._draws = resampling.counts_by_row(bootstrap.patient_weights(patients, n_boot=n_boot))

    def measure(self, *sides: np.ndarray) -> str:
        """What is tested: the corrected metric where it is known."""
        return self.measures[-1]

    def counts(self, members: np.ndarray) -> dict[str, int]:
        own = self.values.loc[members, self.metric]
        return {"n_images": int(own.count().sum()), "n_patients": own.index.unique("patient_id").size}

    def statistic(self, measure: str, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The measure of these images: float [k], of the seeds; and [n_boot, k]. NaN under a seed without any."""
        if measure == self.metric:
            return self._medians(measure, members)
        point, two_patients = (self._medians(name, members) for name in (self.metric, self._other))
        return tuple(map(baselines.corrected, point, two_patients))

    def _medians(self, name: str, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        medians, replicates = [], []
        for column in self.values[name].to_numpy().T:
            rows = np.flatnonzero(members & ~np.isnan(column))
            medians.append(np.median(column[rows]) if len(rows) else np.nan)
            replicates.append(resampling.replicates("median", column[rows], self._draws, rows))
        return np.array(medians), np.stack(replicates, axis=1)


class _Performance:
    """Predictions of one architecture and checkpoint for the test set: AUC or accuracy of some images, by seed."""

    def __init__(
        self,
        predictions: Mapping[tuple[str, int, str], pd.DataFrame],
        architecture: str,
        checkpoint: str,
        n_boot: int,
    ) -> None:
        self._tables = [
            table[table["split"] == "test"]
            for (a, _, c), table in predictions.items()
            if (a, c) == (architecture, checkpoint)
        ]
        # the test images of all seeds; they are the same unless the splits vary
        self.table = pd.concat(self._tables).drop_duplicates("image_id").sort_values("image_id", ignore_index=True)
        self.index = self.table.set_index(INDEX).index
        self._findings = multi_label.names(self.table)
        self._classes = sorted(self.table["label"].unique())
        weights = bootstrap.patient_weights(self.table["patient_id"].to_numpy(), n_boot=n_boot)
        self._weights = np.ones((n_boot + 1, len(self.table)), np.int32)  # half the memory of int64
        self._weights[1:] = weights

    def members(self, names: list[str]) -> Iterator[tuple[str, str, np.ndarray, dict[str, int | str]]]:
        """Group, value, its images, bool [n], and n_images, n_patients and measure, of all groups."""
        patients = self.table["patient_id"]
        truth = multi_label.truth_of(self.table, self._classes)
        for k, finding in enumerate(self._findings if "label" in names else ()):
            known, having = ~np.isnan(truth[:, k]), truth[:, k] == 1
            row = {"n_images": int(known.sum()), "n_patients": patients[having].nunique(), "measure": AUC}
            yield "label", finding, known, row
        for name in names:
            if name == "label" and self._findings:
                continue
            for _, value, members in _members(self.index, self.table, [name]):
                row = {"n_images": int(members.sum()), "n_patients": patients[members].nunique()}
                yield name, value, members, row | {"measure": self.measure(members)}

    def measure(self, *sides: np.ndarray) -> str:
        """The macro AUC if every class occurs in each of these sets of images, else accuracy.

        Of findings: if each set has images with and without each of them.
        """
        if self._findings:
            truth = multi_label.truth_of(self.table, self._classes)
            both = all((truth[members] == value).any(axis=0).all() for members in sides for value in (0, 1))
            return MEASURES[not both]
        classes = min(self.table["label"][members].nunique() for members in sides)
        return MEASURES[classes < len(self._classes)]

    def statistic(self, measure: str, members: np.ndarray, finding: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The measure of these images: float [k], of the seeds; and its replicates [n_boot, k]. NaN: no value.

        Args: finding: of which the AUC is, if that is the measure.
        """
        columns = []
        for table in self._tables:
            place = pd.Index(self.table["image_id"]).get_indexer(table["image_id"])
            own, weights = table[members[place]], self._weights[:, place[members[place]]]
            with np.errstate(invalid="ignore"):
                if measure in (MEASURES[0], AUC):
                    labels = multi_label.truth_of(own, self._classes)
                    p = own.filter(regex=r"^p_\d+$").to_numpy(float)
                    if measure == AUC:
                        k = self._findings.index(finding)
                        labels, p = labels[:, [k]], p[:, [k]]
                    columns.append(classification.auc_replicates(labels, p, weights))
                else:
                    columns.append(weights @ self._right(own) / weights.sum(1))
        values = np.stack(columns, axis=1)
        return values[0], values[1:]

    def _right(self, own: pd.DataFrame) -> np.ndarray:
        """The share of each image's labels that are predicted right, float [n]: 0 or 1 for one class."""
        if not self._findings:
            return own["correct"].to_numpy(float)
        truth = multi_label.truth_of(own, self._classes)
        called = own[[f"{multi_label.CALLED}{k}" for k in range(len(self._findings))]].to_numpy(bool)
        right = np.where(np.isnan(truth), np.nan, called == (truth == 1))
        return np.nanmean(right, axis=1)


def _members(index: pd.MultiIndex, rows: pd.DataFrame, names: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Group, value and its images, bool [n] by the rows of `index`; images without a value last."""
    by_image = rows.drop_duplicates("image_id").set_index("image_id")
    for name in names:
        column = "label" if name == "label" else data_groups.PREFIX + name
        values = by_image.loc[index.get_level_values("image_id"), column].to_numpy(str)
        for value in data_groups.ordered(values[values != ""]):
            yield name, value, values == value
        if (values == "").any():
            yield name, NO_VALUE, values == ""


def _contrasts(
    index: pd.MultiIndex, rows: pd.DataFrame, names: list[str]
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Group, value, its images and all others, among the groups of a column that have enough patients."""
    for name in names:
        found = [(value, members) for _, value, members in _members(index, rows, [name]) if value != NO_VALUE]
        large = [(v, members) for v, members in found if index[members].unique("patient_id").size >= FEW_PATIENTS]
        everyone = np.any([members for _, members in large], axis=0) if large else None
        for value, members in large if len(large) > 2 else large[:1] * (len(large) == 2):
            yield name, value, members, everyone & ~members


def _located(
    per_seed: np.ndarray,
    draws: np.ndarray,
    n_patients: int,
    level: float,
    on: Callable[[Estimate], Estimate] | None = None,
) -> tuple[float, float, float]:
    """`estimates.located` over the seeds with a value; no interval with fewer than `FEW_PATIENTS` patients."""
    known = np.isfinite(per_seed)
    draws = _complete(draws[:, known])
    options = {"n_patients": n_patients, "level": level, "least": FEW_PATIENTS, "on": on}
    return estimates.located(per_seed[known], draws, **options)


def _complete(draws: np.ndarray) -> np.ndarray:
    """The replicates that have a value under every seed, if most have: one may lack a rare class."""
    whole = np.isfinite(draws).all(axis=1)
    return draws[whole] if whole.mean() > 0.95 else draws


def _difference(
    inside: tuple[np.ndarray, np.ndarray], outside: tuple[np.ndarray, np.ndarray], n_patients: int, level: float
) -> dict[str, float]:
    per_seed, draws = (first - second for first, second in zip(inside, outside, strict=True))
    known = np.isfinite(per_seed)
    found = estimates.NOTHING
    if known.any():
        found = estimates.estimate(per_seed[known], _complete(draws[:, known]), n_patients=n_patients, level=level)
    return {
        "difference": found.value,
        "difference_ci_low": found.low,
        "difference_ci_high": found.high,
        "p": estimates.p_value(found),
        "n_seeds": found.n_seeds,
        "n_patients": n_patients,
    }


def sentence(found: Groups) -> str:
    """What was found, in a few sentences, for the report."""
    tested = found.differences.dropna(subset=["p"])
    if found.drift.empty:
        return "Not asked: no groups were declared (`groups`)."
    small = found.drift.loc[found.drift["n_patients"] < FEW_PATIENTS, ["group", "value"]].drop_duplicates()
    left = ", ".join(_name(row.group, row.value) for row in small.itertuples())
    left = f" Too small to be tested (fewer than {FEW_PATIENTS} patients in a cell): {left}." if left else ""
    column = f"{found.metric}_corrected_median"
    column = column if column in found.drift else f"{found.metric}_median"
    large = found.drift[(found.drift["n_patients"] >= FEW_PATIENTS) & (found.drift["value"] != NO_VALUE)]
    spans = large.groupby([*CELL, "group"], sort=False)[column].agg(["min", "max", "idxmin", "idxmax"])
    spans = spans[spans["idxmin"] != spans["idxmax"]]
    if spans.empty:
        return f"No group of the study can be compared with another.{left}"
    architecture, method, name = (spans["max"] - spans["min"]).idxmax()
    widest = spans.loc[(architecture, method, name)]
    low, high = (large.at[widest[end], "value"] for end in ("idxmin", "idxmax"))
    what = _what(column.removesuffix("_median"))
    text = (
        f"The widest range is that of {markdown.plain(name)} in {architecture} under {LABELS[method]}: {what} "
        f"from {widest['min']:.2f} ({markdown.plain(low)}) to {widest['max']:.2f} ({markdown.plain(high)}). "
    )
    sure = tested[tested["p_holm"] < 1 - found.level]
    text += f"{len(sure)} of {len(tested)} tests find that a group differs from the other images (Holm over all)"
    listed = [
        f"{_name(row.group, row.value)}: {row.difference:+.2f} in {_what(row.measure)}, {row.architecture}"
        + (f" under {LABELS[row.method]}" if row.method else "")
        for row in sure.sort_values("p_holm").head(3).itertuples()
    ]
    return text + (f", such as {'; '.join(listed)}." if listed else ".") + left


def _what(measure: str) -> str:
    """A measure in a sentence: "overlap_corrected" is the corrected overlap."""
    plain = measure.removesuffix("_corrected").replace("_", " ")
    return f"corrected {plain}" if measure.endswith("_corrected") else plain


def _name(group: str, value: str) -> str:
    """A group in a sentence, in Markdown; classes speak for themselves."""
    return markdown.plain(value if group == "label" else f"{group} {value}")
