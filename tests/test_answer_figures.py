"""Figures of answers, groups and consistency: what is drawn, and where."""

import warnings

import drawn_texts
import figure_tables as made
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cxr.report import figures
from cxr.report.figures import style

NAMES, METHODS = ("A", "B"), ("layercam", "gradcampp")
CELLS = ["A\nLayerCAM", "A\nGrad-CAM++", "B\nLayerCAM", "B\nGrad-CAM++"]


@pytest.fixture(autouse=True)
def close():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def points(axis, *, hollow=False, **wanted):
    """x and y of the points of a panel that are hollow, or not, from top to bottom."""
    lines = [line for line in axis.get_lines() if line.get_marker() == "o"]
    lines = [line for line in lines if (line.get_markerfacecolor() == "white") == hollow]
    lines = [line for line in lines if all(getattr(line, f"get_{key}")() == v for key, v in wanted.items())]
    found = [xy for line in lines for xy in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    return sorted((xy for xy in found if np.isfinite(xy[0])), key=lambda xy: xy[1])


def upright(axis):
    """x of the lines through a panel, by colour."""
    lines = [line for line in axis.get_lines() if line.get_linewidth() == 1.4 and len(line.get_xdata()) == 2]
    return {line.get_color(): line.get_xdata()[0] for line in lines if line.get_xdata()[0] == line.get_xdata()[1]}


def texts(axis):
    return [text.get_text() for text in axis.texts]


def words(figure):
    return " ".join(drawn_texts.drawn(figure).texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def of(table, number):
    """The rows of one panel."""
    cell = list(table.drop_duplicates(made.KEYS)[made.KEYS].itertuples(index=False, name=None))[number]
    return table[(table["architecture"] == cell[0]) & (table["method"] == cell[1])]


def test_answers_are_points_beside_two_patients_and_two_seeds():
    rows = made.answered(NAMES, METHODS)
    gone = (rows["answer"] == "kept wrong") & (rows["architecture"] == "B")
    rows.loc[gone, [f"overlap_{part}" for part in ("median", "ci_low", "ci_high")]] = np.nan
    figure = figures.answers(rows)
    assert [axis.get_title() for axis in figure.axes] == CELLS
    first, last = figure.axes[0], figure.axes[3]
    medians = of(rows, 0)["overlap_median"].tolist()
    assert [x for x, _ in points(first)] == pytest.approx([medians[0], medians[1], medians[3]])
    assert [x for x, _ in points(first, hollow=True)] == [pytest.approx(medians[2])], "without an interval: hollow"
    intervals = [segment[:, 0] for lines in first.collections for segment in lines.get_segments()]
    np.testing.assert_allclose(intervals[:3], of(rows, 0)[["overlap_ci_low", "overlap_ci_high"]].dropna())
    assert texts(last) == ["n/a"] and set(texts(first)) == {"two patients", "two seeds"}
    assert [text.get_text() for text in first.get_yticklabels()][:2] == ["kept right (327)", "fixed (327)"]
    for axis in figure.axes:
        colours = [style.BASELINES[key][1] for key in ("two_patients", "two_seeds")]
        assert axis.get_xlim() == (0, 1) and upright(axis) == dict(zip(colours, (0.3, 0.6), strict=True))
    told = words(figure)
    assert "further right: moved less" in told and "hollow: too few patients" in told and "95 % interval" in told
    changed = rows[rows["answer"].isin(["fixed", "broken"])]["overlap_median"]
    assert f"answer changed: {changed.min():.2f} to {changed.max():.2f}" in told


def test_groups_are_rows_and_small_ones_are_hollow():
    rows = made.in_groups(NAMES, METHODS, ["a", "b", "F", "M"])
    small = rows["value"] == "M"
    rows.loc[small, ["overlap_corrected_ci_low", "overlap_corrected_ci_high"]] = np.nan
    summary = made.drift(NAMES, METHODS).assign(overlap_two_patients_median=0.5)
    figure = figures.groups(rows, summary=summary)
    first = figure.axes[0]
    assert [axis.get_title() for axis in figure.axes] == CELLS
    assert [text.get_text() for text in first.get_yticklabels()] == ["a", "b", "sex: F", "sex: M"]
    spots = first.get_yticks()
    assert spots[2] - spots[1] > 1.5 * (spots[1] - spots[0]), "a gap between columns"
    assert first.get_ylim()[0] > first.get_ylim()[1], "the first row is on top"
    for number, axis in enumerate(figure.axes):
        own = of(rows, number)["overlap_corrected_median"].tolist()
        assert [x for x, _ in points(axis)] == pytest.approx(own[:3])
        assert [x for x, _ in points(axis, hollow=True)] == pytest.approx(own[3:])
        lines = upright(axis)  # (0.7 - 0.5) / (1 - 0.5)
        assert lines[style.BASELINES["two_patients"][1]] == 0
        assert lines[style.BASELINES["two_seeds"][1]] == pytest.approx(0.4)
    assert "corrected overlap, 95 % interval" in words(figure) and "hollow" in words(figure)
    alone = figures.groups(rows)
    assert set(upright(alone.axes[0])) == {style.BASELINES["two_patients"][1]}


def test_groups_of_a_distance_are_turned():
    rows = made.in_groups(NAMES, METHODS, ["a", "b"], metric="centroid_shift")
    figure = figures.groups(
        rows, metric="centroid_shift", summary=made.drift(NAMES, METHODS, metrics=["centroid_shift"])
    )
    axis = figure.axes[0]
    assert axis.get_xlim()[0] > axis.get_xlim()[1]
    told = words(figure)
    assert "Centroid shift, 95 % interval; (fraction of the image diagonal); further right: moved less" in told
    assert "hollow" not in told and upright(axis)[style.BASELINES["two_seeds"][1]] == pytest.approx(0.03)


def test_consistency_before_and_after():
    rows = made.consistent(NAMES, METHODS, ["a", "all classes"])
    figure = figures.consistency(rows)
    high = rows[rows["checkpoint"] != "epoch_001"]["consistency_ci_high"].max()
    assert {axis.get_xlim() for axis in figure.axes} == {(0, 1.08 * high)}
    for number, axis in enumerate(figure.axes):
        own = of(rows, number)
        for checkpoint, colour in (("before", style.BEFORE), ("after", style.AFTER)):
            wanted = own[own["checkpoint"] == checkpoint]["consistency_median"]
            assert [x for x, _ in points(axis, color=colour)] == pytest.approx(wanted.tolist())
    assert set(texts(figure.axes[0])) == {"before", "after"} and not texts(figure.axes[1])
    assert "all classes change by +0.06" in words(figure)


def test_the_course_of_consistency_beside_auc():
    rows = made.consistent(NAMES, METHODS, ["a", "all classes"])
    rows.loc[rows["checkpoint"] == "epoch_001", "epoch"] = np.nan  # not during fine-tuning
    auc = pd.DataFrame({"architecture": np.repeat(NAMES, 3), "epoch": [0, 1, 2] * 2, "auc": np.arange(6) / 10})
    figure = figures.consistency_course(rows, auc)
    *upper, lower = figure.axes
    assert [axis.get_title() for axis in upper] == ["LayerCAM", "Grad-CAM++"]
    shown = rows[(rows["label"] == "all classes") & rows["epoch"].notna()]
    own = shown[(shown["architecture"] == "B") & (shown["method"] == "gradcampp")]
    line = upper[1].get_lines()[1]
    assert list(line.get_xdata()) == [0, 2]
    assert list(line.get_ydata()) == pytest.approx(own["consistency_median"].tolist())
    assert upper[0].get_ylim() == pytest.approx((0, 1.08 * shown["consistency_ci_high"].max()))
    assert list(lower.get_lines()[1].get_ydata()) == [0.3, 0.4, 0.5]
    colours = {text.get_text(): text.get_color() for text in lower.texts}
    assert colours == {name: upper[0].get_lines()[k].get_color() for k, name in enumerate(NAMES)}
    assert "AUC by +0.20" in words(figure)
