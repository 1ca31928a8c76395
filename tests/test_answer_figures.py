"""Figures of answers, groups and consistency: what is drawn, and where."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cxr.report import figures

NAMES, METHODS = ("A", "B"), ("layercam", "gradcampp")
PARTS = ("median", "ci_low", "ci_high")


@pytest.fixture(autouse=True)
def close():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def table(stem, **axes):
    """A row for each architecture, method and entry of `axes`: values 0.1, 0.11, ..., intervals of 0.05."""
    index = pd.MultiIndex.from_product([NAMES, METHODS, *axes.values()], names=["architecture", "method", *axes])
    out = index.to_frame(index=False)
    middle = 0.1 + 0.01 * np.arange(len(out))
    for part, shift in zip(PARTS, (0, -0.05, 0.05), strict=True):
        out[f"{stem}_{part}"] = middle + shift
    return out


def drawn(axis):
    """y of all points, sorted; not of the ends of error bars."""
    points = [line for line in axis.get_lines() if line.get_marker() not in ("None", "_", None)]
    return sorted(y for line in points for y in line.get_ydata())


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_answers_are_points_beside_the_band_of_two_patients():
    rows = table("overlap", answer=["kept right", "fixed", "broken", "kept wrong"]).assign(n_images=7)
    for part, value in zip(PARTS, (0.3, 0.28, 0.32), strict=True):
        rows[f"overlap_two_patients_{part}"] = value
    gone = (rows["answer"] == "kept wrong") & (rows["architecture"] == "B")
    rows.loc[gone, [f"overlap_{part}" for part in PARTS]] = np.nan
    figure = figures.answers(rows)
    first, second = figure.axes
    own = rows[rows["architecture"] == "A"]
    assert drawn(first) == pytest.approx(sorted(own["overlap_median"]))
    assert texts(second) == ["n/a", "n/a"] and not texts(first)
    assert [t.get_text() for t in first.get_xticklabels()][:2] == ["kept right\n(7)", "fixed\n(7)"]
    assert first.get_ylim() == (0, 1) and "two patients (images scored)" in legend(figure)


def test_groups_are_rows_and_small_ones_are_hollow():
    values = [("label", "a"), ("label", "b"), ("sex", "F"), ("sex", "M")]
    rows = table("overlap_corrected", row=range(4))
    rows["group"], rows["value"] = zip(*[values[k] for k in rows["row"]], strict=True)
    small = rows["value"] == "M"
    rows.loc[small, ["overlap_corrected_ci_low", "overlap_corrected_ci_high"]] = np.nan
    figure = figures.groups(rows)
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == ["a", "b", "sex: F", "sex: M"]
    spots = left.get_yticks()
    assert spots[1] - spots[0] == 1 and spots[2] - spots[1] > 1, "a gap between columns"
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first row is on top"
    hollow = [
        line for line in right.get_lines() if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    wanted = rows[small & (rows["method"] == "gradcampp")]["overlap_corrected_median"]
    assert [x for line in hollow for x in line.get_xdata()] == pytest.approx(list(wanted))
    assert legend(figure) == ["A", "B", "too few patients", "0: two patients"]
    assert left.get_xlabel() == "corrected overlap, 95% interval"


def test_groups_of_a_metric_without_a_corrected_form():
    rows = table("centroid_shift", value=["a", "b"]).assign(group="label")
    figure = figures.groups(rows, metric="centroid_shift")
    assert "Centroid shift" in figure.axes[0].get_xlabel() and legend(figure) == ["A", "B"]


def test_consistency_before_and_after():
    rows = table("consistency", label=["a", "all classes"], checkpoint=["before", "epoch_001", "after"])
    figure = figures.consistency(rows)
    axis = figure.axes[1]
    own = rows[(rows["architecture"] == "B") & (rows["checkpoint"] != "epoch_001")]
    assert drawn(axis) == pytest.approx(sorted(own["consistency_median"]))
    assert axis.get_ylim() == pytest.approx((0, 1.08 * rows["consistency_ci_high"].max()))
    hollow = [line for line in axis.get_lines() if line.get_markerfacecolor() == "white"]
    before = own[own["checkpoint"] == "before"]["consistency_median"]
    assert sorted(y for line in hollow for y in line.get_ydata()) == pytest.approx(sorted(before))
    assert legend(figure) == ["LayerCAM", "Grad-CAM++", "before", "after"]


def test_the_course_of_consistency_beside_auc():
    rows = table("consistency", label=["a", "all classes"], epoch=[0.0, 1.0, 2.0, np.nan])
    auc = pd.DataFrame({"architecture": np.repeat(NAMES, 3), "epoch": [0, 1, 2] * 2, "auc": np.arange(6) / 10})
    figure = figures.consistency_course(rows, auc)
    *upper, lower = figure.axes
    assert [axis.get_title() for axis in upper] == ["LayerCAM", "Grad-CAM++"]
    own = rows[(rows["label"] == "all classes") & (rows["architecture"] == "B") & (rows["method"] == "gradcampp")]
    line = upper[1].get_lines()[1]
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == pytest.approx(own["consistency_median"].tolist()[:3])
    shown = rows[(rows["label"] == "all classes") & rows["epoch"].notna()]
    assert upper[0].get_ylim() == pytest.approx((0, 1.08 * shown["consistency_ci_high"].max()))
    assert list(lower.get_lines()[1].get_ydata()) == [0.3, 0.4, 0.5]
    assert legend(figure) == list(NAMES)
