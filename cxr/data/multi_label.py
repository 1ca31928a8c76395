"""Several findings an image (`task: multi_label`): which image has which, from the labels of a table.

A manifest then has a column `finding_<name>` for each finding, str: "1" (the image has it), "0" (it has not), and
"" (not known: such a label is part of no loss and of no number). The column `label` names the findings that an
image has, for people to read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cxr.core.errors import InputError, some
from cxr.core.names import metric_names
from cxr.core.params import DataParams
from cxr.data.labels import read_cells, refuse_unseen

PREFIX = "finding_"
NONE = "no finding"
NOT_CALLED = "not called"
CALLED = "called_"
"""The prefix of the columns of predictions that say whether finding k is called."""

_VALUES = {"1": "1", "1.0": "1", "True": "1", "0": "0", "0.0": "0", "False": "0", "-1": "-1", "-1.0": "-1", "": ""}
_RULES = {"zero": "0", "one": "1", "ignore": ""}


def columns(present: Iterable[str]) -> list[str]:
    """The columns of findings among the columns of a table, in their order."""
    return [name for name in present if name.startswith(PREFIX)]


def names(present: Iterable[str]) -> list[str]:
    """The findings among the columns of a table, in their order; none where an image has one class."""
    return [name.removeprefix(PREFIX) for name in columns(present)]


def truth(table: pd.DataFrame) -> np.ndarray:
    """Which image has which finding: float32 [n, findings], 1 or 0, NaN where it is not known."""
    cells = table[columns(table)].to_numpy(dtype=object)
    return np.where(cells == "", np.nan, np.where(cells == "1", 1.0, 0.0)).astype(np.float32).reshape(cells.shape)


def truth_of(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """What is true of each image: its findings (`truth`), or else the place of its label in `classes`, int [n]."""
    if columns(table):
        return truth(table)
    return pd.Index(classes).get_indexer(table["label"])


def by_class(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest by class: `table` itself where an image has one class.

    Else an image has a row for each finding that it has, with this finding as `label`, or one row with the label
    `NONE`. The index names the row of `table`.
    """
    found = columns(table)
    if not found:
        return table
    has = (table[found] == "1").to_numpy()
    has = np.column_stack([has, ~has.any(axis=1)])
    row, finding = np.nonzero(has)
    labels = np.array([*names(table), NONE], dtype=object)[finding]
    return table.iloc[row].assign(label=labels)


def with_and_without(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest by what every split needs: `table` itself where an image has one class.

    Else patient_id, split (if it is there) and label, with a row for each finding that is known of an image:
    "<finding>" or "without <finding>". The index names the row of `table`.

    Raises: InputError: a finding that all images have, or none.
    """
    found = columns(table)
    if not found:
        return table
    cells = table[found].to_numpy(dtype=object)
    for name, own in zip(names(table), cells.T, strict=True):
        if missing := {"1", "0"} - set(own):
            lacks = "no image has it" if "1" in missing else "no image is known to be without it"
            raise InputError(f"data: finding '{name}': {lacks}, so nothing can be learned: leave it out")
    row, finding = np.nonzero(cells != "")
    labels = np.array([[name, f"without {name}"] for name in names(table)], dtype=object)
    own = table[[name for name in ("patient_id", "split") if name in table]]
    return own.iloc[row].assign(label=labels[finding, (cells[row, finding] == "0").astype(int)])


def by_finding(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of predictions (`cxr.training.stages.prediction_table`) that can be explained.

    `predictions` itself where an image has one class. Else a row for each image and finding that it has: `image`
    (the image's id), image_id ("<image>: <finding>"), label (the finding), predicted (the finding, or
    `NOT_CALLED`), correct (whether it is called), and all other columns but those of findings.
    """
    found = columns(predictions)
    if not found:
        return predictions
    row, finding = np.nonzero((predictions[found] == "1").to_numpy())
    labels = np.array(names(predictions), dtype=object)[finding]
    called = predictions[[f"{CALLED}{k}" for k in range(len(found))]].to_numpy(bool)[row, finding]
    table = predictions.iloc[row].reset_index(drop=True)
    ids = [f"{image}: {label}" for image, label in zip(table["image_id"], labels, strict=True)]
    own = {"image": table["image_id"], "image_id": ids, "label": labels, "correct": called}
    table = table.assign(**own, predicted=np.where(called, labels, NOT_CALLED))
    return table.drop(columns=[*found, *(name for name in table if name.startswith(CALLED))])


def assign_findings(frame: pd.DataFrame, settings: DataParams, *, where: str) -> pd.DataFrame:
    """The rows whose labels are known, with `label` and a column for each finding, sorted by name.

    The findings are those of `label_columns` (a column each) or of `label_map` (labels in one cell; labels that
    are not in it do not count). `uncertain` and `blank` say what -1 and an empty label count as. Images of which
    no finding is known are left out, with a warning.

    Args:
        frame: rows of a table, str, with the line number as "line".
        where: the table, for messages.

    Raises: InputError: values that are no labels, uncertain or blank labels without a rule, labels of `label_map`
        that no image has, or fewer than two findings.
    """
    read = _from_columns if settings.label_columns else _from_cells
    found = read(frame, settings, where)
    if found.shape[1] < 2:
        raise InputError(
            f"{where}: task: multi_label needs two findings or more, got {some(found)}: for one, set task to "
            "single_label and give the images without it a class too"
        )
    known = (found != "").any(axis=1)
    if not known.all():
        warnings.warn(
            f"{where}: {(~known).sum()} of {len(frame)} images are left out: no finding is known of them",
            stacklevel=5,
        )
    found = found[known][sorted(found)]
    metric_names(list(found))
    labels = texts((found == "1").to_numpy(), list(found))
    return frame[known].assign(label=labels).join(found.add_prefix(PREFIX)).reset_index(drop=True)


def _from_columns(frame: pd.DataFrame, settings: DataParams, where: str) -> pd.DataFrame:
    """The values of `label_columns` by finding, "1", "0" or ""; two columns of one finding are one (any)."""
    lacking = [name for name in settings.label_columns if name not in frame]
    if lacking:
        raise InputError(
            f"{where}: label_columns: no column {some(lacking)}: there are "
            f"{some([name for name in frame if name != 'line'])}"
        )
    found: dict[str, pd.Series] = {}
    for column, finding in settings.label_columns.items():
        cells = frame[column].str.strip()
        strange = ~cells.isin(_VALUES)
        if strange.any():
            row = strange.idxmax()
            raise InputError(
                f"{where}: column {column}: {cells[row]!r} in line {frame.loc[row, 'line']} is no label of a "
                "finding: write 1 (yes), 0 (no), -1 (uncertain), or nothing"
            )
        # blanks first: an uncertain label that is to be ignored becomes one
        cells = _ruled(cells.map(_VALUES), "", "blank", settings.blank, column, where)
        cells = _ruled(cells, "-1", "uncertain", settings.uncertain, column, where)
        if finding in found:
            cells = cells.where(found[finding] != "1", "1").where((found[finding] != "") | (cells == "1"), "")
        found[finding] = cells
    return pd.DataFrame(found)


def _ruled(cells: pd.Series, value: str, name: str, rule: str, column: str, where: str) -> pd.Series:
    """Labels with one value replaced as the parameter `name` says. Raises InputError if it says: refuse."""
    here = cells == value
    if rule == "refuse" and here.any():
        others = "zero, one or ignore" if name == "uncertain" else "zero or ignore"
        raise InputError(
            f"{where}: column {column} has {here.sum()} labels that are {name}: say what they count as: set "
            f"{name} to {others}"
        )
    return cells.where(~here, _RULES[rule] if rule != "refuse" else value)


def _from_cells(frame: pd.DataFrame, settings: DataParams, where: str) -> pd.DataFrame:
    """Which of the findings of `label_map` the cell of each row names: "1", "0" or ""."""
    cells = read_cells(frame["label"], settings.label_separator, where=where)
    refuse_unseen(settings.label_map, {label for labels in cells for label in labels}, where=where)
    found = pd.DataFrame(
        {
            finding: [
                "1" if any(settings.label_map.get(label) == finding for label in labels) else "0"
                for labels in cells
            ]
            for finding in dict.fromkeys(settings.label_map.values())
        },
        index=frame.index,
    )
    empty = pd.Series([not labels for labels in cells], index=frame.index)
    if empty.any() and settings.blank == "refuse":
        raise InputError(
            f"{where}: {empty.sum()} images have no label (line {some(frame.loc[empty, 'line'].tolist())}): say "
            "what that counts as: set blank to zero (no finding) or ignore (not known)"
        )
    return found.mask(empty & (settings.blank == "ignore"), "")


def merge_rows(frame: pd.DataFrame, rule: str, *, where: str) -> pd.DataFrame:
    """One row a file, where a table has several: one for each box, or each reader.

    Findings are joined by `rule`: "any" (a row has it) or "majority" (more than half of the rows that know have
    it; half is not enough). A finding that no row knows stays unknown. All else must be the same in all rows.

    Args:
        frame: path, label, "line", findings (`assign_findings`) and other columns.
        rule: the parameter `repeated_rows`.

    Raises: InputError: rows of one file differ in something else, such as the patient or the class.
    """
    double = frame["path"].duplicated(keep=False)
    if not double.any():
        return frame
    own = columns(frame)
    same = [name for name in frame if name not in own and name != "line" and (not own or name != "label")]
    rows = frame[double]
    for name in same:
        if len(differ := _differing(rows, name)):
            raise InputError(
                f"{where}: rows of one file differ in {name}: {some(differ)}: correct them, or keep one row",
                items=differ,
            )
    merged = frame.drop_duplicates("path").set_index("path")
    if own:
        has, known = ((frame[own] == "1"), (frame[own] != ""))
        votes, voters = (part.groupby(frame["path"], sort=False).sum() for part in (has, known))
        won = votes > 0 if rule == "any" else votes > voters / 2
        values = won.astype(int).astype(str).mask(voters == 0, "")
        merged[own] = values.loc[merged.index]
        merged["label"] = texts((merged[own] == "1").to_numpy(), names(own))
    return merged.reset_index()[list(frame)]


def _differing(rows: pd.DataFrame, name: str) -> list[str]:
    counts = rows.groupby("path")[name].nunique()
    return counts.index[counts > 1].tolist()


def texts(has: np.ndarray, findings: Sequence[str]) -> list[str]:
    """The findings that each image has, as one text: "a + b", or `NONE`. Args: has: bool [n, findings]."""
    return [" + ".join(name for name, yes in zip(findings, row, strict=True) if yes) or NONE for row in has]
