import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cxr import plots
from cxr.drift import METRICS


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def norms(figure):
    return [(i.norm.vmin, i.norm.vmax) for axis in figure.axes for i in axis.images]


def test_overlays_share_one_scale_whatever_the_maps():
    image = np.full((8, 8), 100, np.uint8)
    for scale in (0.2, 1.0):
        figure = plots.overlay(image, np.full((8, 8), scale), np.zeros((8, 8)), title="t")
        assert norms(figure) == [(0, 255), (0, 255), (0, 1), (0, 255), (0, 1), (0, 255), (-1, 1)]


def test_a_degenerate_map_is_named():
    figure = plots.overlay(np.zeros((8, 8), np.uint8), np.full((8, 8), np.nan), np.ones((8, 8)))
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        "image",
        "transfer: degenerate map",
        "fine-tuned",
        "fine-tuned minus transfer",
    ]


def test_pixels_are_an_image_and_close_the_figure():
    figure = plots.overlay(
        np.zeros((8, 8), np.uint8), np.eye(8), np.eye(8), outline=np.eye(8, dtype=bool), title="outlined"
    )
    array = plots.pixels(figure)
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.std() > 0
    assert figure.number not in plt.get_fignums()


def test_show_displays_a_picture_whatever_the_backend(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure = plots.contact_sheet(np.zeros((1, 4, 4), np.uint8), ["a"])
    plots.show(figure)
    assert shown[0].data.startswith(b"\x89PNG") and figure.number not in plt.get_fignums()


def test_contact_sheet_keeps_the_grey_scale():
    figure = plots.contact_sheet(np.zeros((5, 4, 4), np.uint8), list("abcde"), columns=3)
    assert norms(figure) == [(0, 255)] * 5 and len(figure.axes) == 6


def summary():
    rows = []
    for number, architecture in enumerate(("A", "B")):
        for method in ("layercam", "gradcampp"):
            row = {"architecture": architecture, "method": method}
            for name in METRICS:
                row |= {f"{name}_median": 0.5 + number / 10, f"{name}_ci_low": 0.4, f"{name}_ci_high": 0.7}
            rows.append(row)
    return pd.DataFrame(rows)


def test_drift_draws_intervals_and_the_value_of_identical_maps():
    figure = plots.drift(summary(), ["iou20", "centroid_shift"])
    for axis, identical in zip(figure.axes, (1.0, 0.0), strict=True):
        assert len(axis.containers) == 2, "an error bar a method"
        assert any(np.allclose(line.get_ydata(), identical) for line in axis.get_lines())
        low, high = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
        assert (low, high) == pytest.approx((0.4, 0.7))
    assert "fraction of the image diagonal" in figure.axes[1].get_ylabel().replace("\n", " ")
    assert "95% interval" in figure.axes[0].get_ylabel()


def test_drift_by_class_leaves_out_what_is_not_scored():
    table = pd.DataFrame({"label": ["a", "a", "b", "b"], "iou20": [0.2, np.nan, 0.5, 0.7]})
    axis = plots.drift_by_class(table, ["iou20"]).axes[0]
    shown = [len(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "."]
    assert shown == [1, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b"]


def test_confusion_shares_are_of_the_true_class():
    figure = plots.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert norms(figure)[0] == (0, 1)


def test_ranking_and_performance_and_reliability():
    ranks = pd.DataFrame({"layercam": [1, 2], "gradcampp": [2, 1], "P(layercam)": [0.9, 0.9]}, index=["A", "B"])
    axis = plots.ranking(ranks).axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "rank 1 is on top"
    assert [list(line.get_ydata()) for line in axis.get_lines()] == [[1, 2], [2, 1]]
    runs = pd.DataFrame({"architecture": ["A", "A", "B"], "auc_macro_transfer": 0.9, "auc_macro_fine_tuned": 0.95})
    assert [t.get_text() for t in plots.performance(runs).axes[0].get_xticklabels()] == ["A", "B"]
    table = pd.DataFrame({"confidence": [0.5, np.nan], "accuracy": [0.4, np.nan], "n": [10, 0]})
    assert len(plots.reliability({"transfer": table}).axes[0].get_lines()[1].get_xdata()) == 1
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5]})
    assert plots.history(history, {"training": "loss"}, ylabel="cross-entropy").axes[0].get_ylabel()
