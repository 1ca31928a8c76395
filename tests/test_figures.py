import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cxr.metrics.metric_table import METRICS
from cxr.report import figures
from cxr.report.figures import style


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def norms(figure):
    return [(i.norm.vmin, i.norm.vmax) for axis in figure.axes for i in axis.images]


def test_overlays_share_one_scale_whatever_the_maps():
    image = np.full((8, 8), 100, np.uint8)
    for scale in (0.2, 1.0):
        figure = figures.overlay(image, np.full((8, 8), scale), np.zeros((8, 8)), title="t")
        assert norms(figure) == [(0, 255), (0, 255), (0, 1), (0, 255), (0, 1), (0, 255), (-1, 1)]


def test_an_empty_map_is_named():
    figure = figures.overlay(np.zeros((8, 8), np.uint8), np.full((8, 8), np.nan), np.ones((8, 8)))
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        "image",
        "before: empty map",
        "after",
        "after minus before",
    ]


def test_pixels_are_an_image_and_close_the_figure():
    figure = figures.overlay(
        np.zeros((8, 8), np.uint8), np.eye(8), np.eye(8), outline=np.eye(8, dtype=bool), title="outlined"
    )
    array = figures.pixels(figure)
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.std() > 0
    assert figure.number not in plt.get_fignums()


def test_show_displays_a_picture_whatever_the_backend(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure = figures.contact_sheet(np.zeros((1, 4, 4), np.uint8), ["a"])
    figures.show(figure)
    assert shown[0].data.startswith(b"\x89PNG") and figure.number not in plt.get_fignums()


def test_contact_sheet_keeps_the_grey_scale():
    figure = figures.contact_sheet(np.zeros((5, 4, 4), np.uint8), list("abcde"), columns=3)
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
    figure = figures.drift(summary(), ["overlap", "centroid_shift"])
    for axis, identical in zip(figure.axes, (1.0, 0.0), strict=True):
        assert len(axis.containers) == 2, "an error bar a method"
        assert any(np.allclose(line.get_ydata(), identical) for line in axis.get_lines())
        low, high = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
        assert (low, high) == pytest.approx((0.4, 0.7))
    assert "fraction of the image diagonal" in figure.axes[1].get_ylabel().replace("\n", " ")
    assert "95% interval" in figure.axes[0].get_ylabel()


def test_drift_by_class_leaves_out_what_is_not_scored():
    table = pd.DataFrame({"label": ["a", "a", "b", "b"], "overlap": [0.2, np.nan, 0.5, 0.7]})
    axis = figures.drift_by_class(table, ["overlap"]).axes[0]
    shown = [len(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "."]
    assert shown == [1, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b"]


def test_confusion_shares_are_of_the_true_class():
    figure = figures.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert norms(figure)[0] == (0, 1)


def test_ranking_and_performance_and_reliability():
    ranks = pd.DataFrame({"layercam": [1, 2], "gradcampp": [2, 1]}, index=["A", "B"])
    axis = figures.ranking(ranks).axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "rank 1 is on top"
    assert [list(line.get_ydata()) for line in axis.get_lines()] == [[1, 2], [2, 1]]
    runs = pd.DataFrame({"architecture": ["A", "A", "B"], "auc_macro_before": 0.9, "auc_macro_after": 0.95})
    assert [t.get_text() for t in figures.performance(runs).axes[0].get_xticklabels()] == ["A", "B"]
    table = pd.DataFrame({"confidence": [0.5, np.nan], "accuracy": [0.4, np.nan], "n": [10, 0]})
    assert len(figures.reliability({"before": table}).axes[0].get_lines()[1].get_xdata()) == 1
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5]})
    assert figures.history(history, {"training": "loss"}, ylabel="cross-entropy").axes[0].get_ylabel()


NAMES = ["DenseNet201", "ResNet50V2", "InceptionV3", "CompactDenseNet", "CompactResNetV2", "CompactInception"]
METHODS = list(figures.METHOD_LABELS)


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def points(axis, label):
    """(x, y) of the markers that the legend calls `label`."""
    lines = [line for line in axis.get_lines() if line.get_label() == label]
    return np.concatenate([line.get_xydata() for line in lines])


def ranges(container):
    """[low, high] of an error bar container's intervals that are known."""
    return np.array([s[:, 1] for s in container.lines[2][0].get_segments() if len(s)])


def inside_the_page(figure):
    """Drawn without a warning, no wider than a page, and no text cut off."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    assert figure.get_figwidth() <= 9.001
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, axis.get_title()


def cells(names, methods, **columns):
    index = pd.MultiIndex.from_product([names, methods], names=["architecture", "method"])
    return pd.DataFrame(columns, index=index).reset_index()


LEVELS = {
    f"overlap{level}_{part}": value + add
    for level, value in {
        "": 0.5,
        "_two_patients": 0.3,
        "_two_heads": 0.9,
        "_two_seeds": 0.7,
        "_chance": 0.1,
    }.items()
    for part, add in (("median", 0.0), ("ci_low", -0.04), ("ci_high", 0.05))
}


def test_a_method_looks_the_same_whatever_stands_beside_it():
    styles = set()
    for methods in (METHODS, METHODS[::-1], ["occlusion"]):
        figure = figures.drift(cells(["A"], methods, **LEVELS), ["overlap"])
        line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "occlusion")
        styles.add((line.get_color(), line.get_marker()))
    assert len(styles) == 1
    assert len({style.method_style(method) for method in METHODS}) == len(METHODS)


def test_drift_draws_each_level_in_its_own_cell():
    table = cells(["A", "B"], ["layercam", "gradcampp"], **LEVELS)
    table.loc[
        3, ["overlap_two_patients_median", "overlap_two_patients_ci_low", "overlap_two_patients_ci_high"]
    ] = 0.4, 0.35, 0.42
    figure = figures.drift(table, ["overlap"])
    axis = figure.axes[0]
    bars = {box.get_label(): box.patches for box in axis.containers if hasattr(box, "patches")}
    assert set(bars) == {
        "two patients (same class)",
        "two heads",
        "two seeds",
    }
    assert {"identical maps", "chance", "LayerCAM", "Grad-CAM++", *bars} == set(legend(figure))
    x = sorted([*points(axis, "LayerCAM")[:, 0], *points(axis, "Grad-CAM++")[:, 0]])
    two_patients = bars["two patients (same class)"]
    for spot, bar, low, high in zip(x, two_patients, [0.26] * 3 + [0.35], [0.35] * 3 + [0.42], strict=True):
        assert bar.get_x() < spot < bar.get_x() + bar.get_width()
        assert (bar.get_y(), bar.get_y() + bar.get_height()) == pytest.approx((low, high))
    for left, right in zip(two_patients, two_patients[1:], strict=False):
        assert left.get_x() + left.get_width() <= right.get_x(), "a band stays in its cell"
    medians = [segment[0, 1] for lines in axis.collections if hasattr(lines, "get_segments")
               for segment in lines.get_segments() if np.allclose(*segment[:, 1])]  # fmt: skip
    assert medians.count(0.3) == 3 and medians.count(0.4) == 1 and medians.count(0.1) == 4


def test_drift_marks_what_is_missing_and_draws_no_band_for_it():
    table = cells(["A", "B"], ["layercam"], **LEVELS)
    table.loc[1] = ["B", "layercam", *[np.nan] * len(LEVELS)]
    table["overlap_two_seeds_median"] = np.nan
    table[["overlap_two_heads_ci_low", "overlap_two_heads_ci_high"]] = np.nan
    figure = figures.drift(table, ["overlap"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["n/a"]
    assert figure.axes[0].texts[0].get_position()[0] == 1
    assert "two seeds" not in legend(figure) and "two heads" in legend(figure)
    bars = {box.get_label(): box.patches for box in figure.axes[0].containers if hasattr(box, "patches")}
    assert len(bars["two patients (same class)"]) == 1
    assert [bar.get_height() for bar in bars["two heads"]] == [0]
    # a cell without a row is as missing as one of NaN
    figure = figures.drift(cells(["A", "B"], ["layercam", "gradcampp"], **LEVELS).iloc[:3], ["overlap"])
    assert len(figure.axes[0].texts) == 1
    inside_the_page(figure)


def test_an_interval_stands_where_it_is_even_beside_its_point():
    table = cells(["A"], ["layercam"], overlap_median=0.9, overlap_ci_low=0.2, overlap_ci_high=0.4)
    axis = figures.drift(table, ["overlap"]).axes[0]
    np.testing.assert_allclose(ranges(axis.containers[0]), [[0.2, 0.4]])
    np.testing.assert_allclose(points(axis, "LayerCAM"), [[0, 0.9]])


@pytest.mark.parametrize("names, methods", [(1, 1), (3, 2), (6, 8)])
def test_drift_and_corrected_fit_the_page(names, methods):
    table = cells(NAMES[:names], METHODS[:methods], **LEVELS)
    inside_the_page(figures.drift(table, ["overlap"] * 3))
    index = cells(NAMES[:names], METHODS[:methods], corrected=0.3, ci_low=0.2, ci_high=0.4)
    inside_the_page(figures.corrected(index))


def test_corrected_has_lines_at_nothing_and_all():
    index = cells(["A", "B"], ["layercam"], corrected=[0.2, np.nan], ci_low=[-0.1, np.nan], ci_high=[0.3, np.nan])
    figure = figures.corrected(index, level=0.9)
    (axis,) = figure.axes
    levels = [line.get_ydata()[0] for line in axis.get_lines() if len(set(line.get_ydata())) == 1]
    assert {0, 1} <= set(levels) and "90% interval" in axis.get_ylabel()
    np.testing.assert_allclose(points(axis, "LayerCAM"), [[0, 0.2], [1, np.nan]])
    np.testing.assert_allclose(ranges(axis.containers[0]), [[-0.1, 0.3]])
    assert [text.get_text() for text in axis.texts] == ["n/a"]


def analyses():
    """Four analyses of q and grid; C is over A in one of them, in which the order reverses."""
    rows = []
    for q, grid, values in (
        (0.2, "image", (0.5, 0.7, 0.3)),  # default: B most stable, C least; difference 0.4
        (0.2, "native", (0.5, 0.4, 0.6)),  # -0.2
        (0.1, "image", (0.5, 0.6, 0.5)),  # 0.1
        (0.1, "native", (0.5, np.nan, 0.5)),  # unknown
    ):
        for name, value in zip(("A", "B", "C"), values, strict=True):
            row = {"variant": "default", "grid": grid, "q": q, "images": "all", "architecture": name}
            row |= {"method": "layercam", "value": value, "complete": not (q == 0.1 and grid == "native")}
            rows.append(row | {"is_default": q == 0.2 and grid == "image", "borrowed": False})
    return pd.DataFrame(rows)


def test_specification_curve_sorts_by_the_difference_of_the_default_extremes():
    figure = figures.specification_curve(analyses(), method="layercam")
    values, difference, *choices = figure.axes
    assert difference.get_ylabel() == "B\n\N{MINUS SIGN} C"
    heights = [bar.get_height() for bar in difference.patches if hasattr(bar, "get_height")][-3:]
    assert heights == pytest.approx([-0.2, 0.1, 0.4])
    # B: complete analyses are filled, the incomplete one has no value of it
    np.testing.assert_allclose(points(values, "B"), [[0, 0.4], [1, 0.6], [2, 0.7]])
    np.testing.assert_allclose(points(values, "A"), [[0, 0.5], [1, 0.5], [2, 0.5]])
    hollow = [line for line in values.get_lines() if line.get_markerfacecolor() == "white"]
    assert sorted(tuple(xy) for line in hollow for xy in line.get_xydata() if np.isfinite(xy).all()) == [
        (3.0, 0.5),
        (3.0, 0.5),
    ]
    # one of three complete analyses reverses B and C; only the default keeps B > A > C (A = C is another order)
    assert difference.get_title(loc="left") == (
        "reversed in 1 of 3 complete analyses; all 3 as in the default analysis in 1 of 3"
    )
    table = analyses()
    table.loc[(table["q"] == 0.2) & (table["grid"] == "native"), "complete"] = False
    assert figures.specification_curve(table, method="layercam").axes[1].get_title(loc="left") == (
        "reversed in 0 of 2 complete analyses; all 3 as in the default analysis in 1 of 2"
    )
    dashes = {
        (axis.get_ylabel(), label.get_text()): list(line.get_xdata())
        for axis in choices
        for label, line in zip(axis.get_yticklabels(), axis.get_lines(), strict=True)
    }
    assert dashes["area q", "top 10%"] == [1, 3] and dashes["area q", "top 20%"] == [0, 2]
    assert dashes["grid", "image"] == [1, 2] and dashes["grid", "native"] == [0, 3]
    assert dashes["variant", "default"] == [0, 1, 2, 3]
    shaded = values.patches[0]
    assert shaded.get_x() < 2 < shaded.get_x() + shaded.get_width(), "the default analysis is marked"
    inside_the_page(figure)


def test_specification_curve_marks_analyses_in_which_the_methods_disagree():
    keys = ["variant", "grid", "q", "images"]
    rankings = analyses().drop_duplicates(keys)[keys].assign(method_a="gradcampp", method_b="layercam")
    rankings["reversal"] = pd.array([False, True, pd.NA, False], dtype="boolean")
    axis = figures.specification_curve(analyses(), rankings, method="layercam").axes[-1]
    assert axis.get_yticklabels()[0].get_text() == "against Grad-CAM++"
    assert list(axis.get_lines()[0].get_xdata()) == [0]
    other = rankings.assign(method_b="gradcam")
    axis = figures.specification_curve(analyses(), other, method="layercam").axes[-1]
    assert axis.get_ylabel() == "images", "rankings of other methods say nothing here"


def test_specification_curve_leaves_out_what_is_borrowed():
    twice = pd.concat([analyses(), analyses().assign(variant="copy", is_default=False, borrowed=True)])
    assert "4 analyses" in figures.specification_curve(twice, method="layercam").axes[0].get_title()


def test_specification_curve_holds_many_analyses():
    rng = np.random.default_rng(0)
    rows = [
        {"variant": f"variant-{v}", "grid": g, "q": q, "images": i, "architecture": a, "method": "layercam"}
        | {"value": rng.uniform(), "complete": True, "is_default": (v, g, q, i) == (0, "image", 0.2, "correct")}
        | {"borrowed": False}
        for v in range(8)
        for g in ("image", "native")
        for q in (0.05, 0.1, 0.2, 0.3)
        for i in ("correct", "all")
        for a in NAMES
    ]
    inside_the_page(figures.specification_curve(pd.DataFrame(rows), method="layercam"))


def courses(names=("A", "B"), methods=("layercam", "gradcampp"), seeds=(0, 1)):
    rows = [
        {
            "architecture": a,
            "method": m,
            "seed": s,
            "epoch": e,
            "value": 1 - 0.1 * e - 0.02 * s,
            "auc": 0.9 + e / 100,
        }
        for a in names
        for m in methods
        for s in seeds
        for e in (0, 2, 4)
    ]
    table = pd.DataFrame(rows)
    return table.assign(ci_low=table["value"] - 0.03, ci_high=table["value"] + 0.01)


def test_course_has_a_thin_line_a_seed_their_mean_and_one_time_axis():
    figure = figures.course(courses())
    auc, drift = figure.axes
    assert auc.get_xlabel() == "epoch of fine-tuning (0: before)" and "AUC" in auc.get_ylabel()
    assert auc.get_xlim() == drift.get_xlim()
    lines = [line for line in drift.get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 4 * 3, "2 architectures x 2 methods x (2 seeds and their mean)"
    thick = [line for line in lines if line.get_linewidth() > 1]
    assert len(thick) == 4 and len({(line.get_color(), line.get_linestyle()) for line in thick}) == 4
    np.testing.assert_allclose(thick[0].get_ydata(), [0.99, 0.79, 0.59])
    band = drift.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.57, 1.01))
    assert len([line for line in auc.get_lines()]) == 2 * 3, "AUC has no methods"
    assert [text for text in legend(figure) if "seed" in text] == ["mean of the seeds (thin: each)"]


def test_course_names_the_metric_and_ends_with_the_last_epoch():
    figure = figures.course(courses(["A"], ["layercam"], [0]), metric="soft_iou")
    assert "Soft IoU" in figure.axes[1].get_ylabel()
    assert max(figure.axes[0].get_xticks()) <= 4, "no tick where there is no epoch"


def test_course_gives_many_methods_a_panel_each():
    figure = figures.course(courses(NAMES, METHODS, [0]))
    assert [axis.get_title() for axis in figure.axes[1:]] == list(figures.METHOD_LABELS.values())
    inside_the_page(figure)


def panel(name, rule, before=None, after=None):
    empty = np.zeros((6, 6))
    return {"class": name, "rule": rule, "image": np.full((6, 6), 90, np.uint8), "text": f"{name}, {rule}"} | {
        "before": empty if before is None else before,
        "after": empty if after is None else after,
    }


def test_examples_share_one_scale_whatever_the_maps():
    rules = ("least drift", "median drift", "most drift")
    panels = [panel(name, rule, np.full((6, 6), 0.2)) for name in ("a", "b") for rule in rules]
    figure = figures.examples(panels, title="t")
    tiles = [axis for axis in figure.axes if axis.images]
    assert len(tiles) == 2 * 9
    assert {(len(axis.images), axis.images[-1].norm.vmin, axis.images[-1].norm.vmax) for axis in tiles} == {
        (1, 0, 255),
        (2, 0, 1),
    }
    texts = [text.get_text() for text in figure.texts]
    assert {"a", "b", *rules, "a, least drift", "b, most drift"} <= set(texts)
    inside_the_page(figure)


def test_examples_name_empty_maps_and_gaps():
    panels = [
        panel("Enlarged_Cardiomediastinum", "least drift", np.full((6, 6), np.nan)),
        panel("b", "most drift"),
    ]
    figure = figures.examples(panels)
    assert [t.get_text() for axis in figure.axes for t in axis.texts] == ["empty\nmap"]
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("no such image") == 2 and "Enlarged\nCardiomediastinum" in texts
    figure.canvas.draw()
    label = next(text for text in figure.texts if text.get_text().startswith("Enlarged"))
    assert label.get_window_extent().x0 >= 0


@pytest.mark.parametrize("methods", [1, 2, 8])
def test_a_pair_is_drawn_as_drift_and_examples_of_a_and_b(methods):
    table = cells(["a -> b"], METHODS[:methods], **LEVELS)
    rules = ("least drift", "median drift", "most drift")
    names = [figures.METHOD_LABELS[method] for method in METHODS[:methods]]
    panels = [panel(name, rule, np.full((6, 6), 0.2)) for name in names for rule in rules]
    figure = figures.pair(table, ["overlap"] * 3, panels, title="t")
    known = {"two patients", "two seeds of A", "two seeds of B", "chance", "identical maps"}
    assert set(legend(figure)) == known | set(names)
    assert points(figure.axes[0], "LayerCAM")[:, 1].tolist() == [0.5]
    tiles = [axis for axis in figure.axes if axis.images]
    assert len(tiles) == 9 * methods and {axis.get_xlabel() for axis in tiles[-9:]} == {"image", "A", "B"}
    inside_the_page(figure)
    box, below = figure.legends[0].get_window_extent(), max(axis.get_window_extent().y1 for axis in tiles)
    above = min(axis.get_tightbbox().y0 for axis in figure.axes[:3])
    assert below < box.y0 and box.y1 < above + 2, "the legend stands between the two"


def test_a_pair_without_an_example():
    figure = figures.pair(cells(["a"], ["layercam"], **LEVELS), ["overlap"], [])
    assert not [axis for axis in figure.axes if axis.images]
    inside_the_page(figure)


def located(names=("A", "B"), methods=("layercam",), regions=("lesion", "lung")):
    tables = []
    for area, region in zip((0.05, 0.4, 0.01), regions, strict=False):
        table = cells(names, methods, area=area, energy_before=area * 2, energy_after=area * 3)
        change = {"energy_change": area, "energy_change_ci_low": area / 2, "energy_change_ci_high": area * 2}
        tables.append(table.assign(region=region, **change))
    return pd.concat(tables, ignore_index=True)


def test_regions_arrows_lead_from_before_to_after_beside_the_area():
    figure = figures.regions(located())
    lesion, lung, change, _ = figure.axes
    assert (lesion.get_title(), lung.get_title()) == ("lesion", "lung")
    for axis, area in ((lesion, 0.05), (lung, 0.4)):
        arrows = [(note.xyann, note.xy) for note in axis.texts if note.arrow_patch is not None]
        assert arrows == [((0, area * 2), (0, area * 3)), ((1, area * 2), (1, area * 3))]
        before, after = (line for line in axis.get_lines() if line.get_marker() == "o")
        assert (before.get_markerfacecolor(), set(before.get_ydata())) == ("white", {area * 2})
        assert after.get_markerfacecolor() != "white" and set(after.get_ydata()) == {area * 3}
        uniform = [s for lines in axis.collections for s in lines.get_segments()]
        assert len(uniform) == 2 and {y for s in uniform for y in s[:, 1]} == {area}
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > area * 3
    np.testing.assert_allclose(ranges(change.containers[0]), [[0.025, 0.1]] * 2)
    assert any(set(line.get_ydata()) == {0} for line in change.get_lines())
    assert set(legend(figure)) == {"LayerCAM", "a uniform map", "before", "after"}


def test_regions_mark_what_is_missing_and_fit_the_page():
    table = located()
    table.loc[0, ["energy_before", "energy_change", "energy_change_ci_low", "energy_change_ci_high"]] = np.nan
    figure = figures.regions(table)
    assert [t.get_text() for axis in figure.axes for t in axis.texts if t.get_text()] == ["n/a", "n/a"]
    inside_the_page(figures.regions(located(NAMES, METHODS)))
    inside_the_page(figures.regions(located(NAMES[:3], METHODS[:4], ("lesion", "lung", "marker"))))
    inside_the_page(figures.regions(located(NAMES[:1], METHODS[:1], ("lesion",))))


def passes_checks(names=("A",), methods=("layercam",), checkpoints=("after", "before"), seeds=(0, 1)):
    tables = []
    for checkpoint in checkpoints:
        for seed in seeds:
            gains = {"deletion_gain": 0.1 + seed, "deletion_gain_ci_low": 0.0 + seed}
            gains |= {"deletion_gain_ci_high": 0.3 + seed, "insertion_gain": 0.2, "insertion_gain_ci_low": 0.1}
            gains |= {
                "insertion_gain_ci_high": 0.4,
                "checkpoint": checkpoint,
                "seed": seed,
                "passes_checks": seed == 0,
            }
            tables.append(cells(names, methods, **gains))
    return pd.concat(tables, ignore_index=True)


def test_map_checks_crosses_the_maps_that_fail():
    figure = figures.map_checks(passes_checks())
    assert [axis.get_title() for axis in figure.axes] == [
        "deletion, before",
        "insertion, before",
        "deletion, after",
        "insertion, after",
    ]
    axis = figure.axes[0]
    markers = [(line.get_marker(), line.get_markerfacecolor(), *line.get_ydata()) for line in axis.get_lines()
               if line.get_marker() in ("o", "x") and len(line.get_ydata())]  # fmt: skip
    assert [m[0] for m in markers] == ["o", "o", "x"]
    assert [m[2] for m in markers] == pytest.approx([0.1, 1.1, 1.1])
    assert markers[0][1] != "white" and markers[1][1] == "white"
    np.testing.assert_allclose(np.concatenate([ranges(c) for c in axis.containers]), [[0.0, 0.3], [1.0, 1.3]])
    spots = [
        line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "o" and len(line.get_xdata())
    ]
    assert spots[0] < spots[1], "seeds stand side by side"
    assert {"a random map", "passes", "fails", "LayerCAM"} == set(legend(figure))


def test_map_checks_fits_the_page_with_cells_missing():
    table = passes_checks(NAMES, METHODS).iloc[1:]
    figure = figures.map_checks(table)
    inside_the_page(figure)
    # the pair without a row is missing in the stage and seed that it was taken from, in both games
    assert sum(t.get_text() == "n/a" for axis in figure.axes for t in axis.texts) == 2
    inside_the_page(figures.map_checks(passes_checks(["A"], ["gradcampp"], ["before"], [0])))


def test_perturbation_curves_show_what_knows_nothing_in_grey():
    share = np.linspace(0, 1, 5)
    curves = pd.concat(
        pd.DataFrame({"method": method, "kind": kind, "share": share, "probability": 1 - share / (2 + number)})
        for number, method in enumerate(("random", "centre", "layercam"))
        for kind in ("insertion", "deletion")
    )
    figure = figures.perturbation_curves(curves.sample(frac=1, random_state=0), title="t")
    assert [axis.get_title().split(":")[0] for axis in figure.axes] == ["deletion", "insertion"]
    assert figure.axes[0].get_xlabel() == "share of the pixels deleted"
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines) == ["random map", "centre prior", "LayerCAM"]
    np.testing.assert_allclose(lines["LayerCAM"].get_ydata(), 1 - share / 4)
    assert lines["random map"].get_color() == lines["centre prior"].get_color() == "0.55"
    assert figure.axes[0].get_ylim() == (0, 1)
    two = pd.concat([curves.assign(grid=grid) for grid in ("4x4", "8x8")])
    two = two[(two["method"] == "random") | (two["grid"] == "8x8")]
    assert legend(figures.perturbation_curves(two))[:1] == ["LayerCAM"]
    assert {"random map (4x4)", "random map (8x8)"} <= set(legend(figures.perturbation_curves(two)))
    assert len(figures.perturbation_curves(curves[curves["kind"] == "deletion"]).axes) == 1


def cascade(methods=("layercam",), checkpoints=("after", "before")):
    rows = [
        {"method": m, "checkpoint": s, "level": level, "up_to": name, "spearman": 1 / (1 + level) - image / 10}
        for m in methods
        for s in checkpoints
        for level, name in enumerate(("logits", "conv4_block6_preact_relu", "conv1_conv"))
        for image in range(5)
    ]
    return pd.DataFrame(rows)


def test_randomisation_draws_medians_quartiles_and_the_limit():
    table = cascade()
    table.loc[len(table)] = ["layercam", "before", 2, "conv1_conv", np.nan]  # an empty map is left out
    figure = figures.randomisation(table, limit=0.4)
    axis = figure.axes[0]
    assert axis.get_title() == "before fine-tuning", "checkpoints in the order of training"
    line = next(line for line in axis.get_lines() if line.get_label() == "LayerCAM")
    np.testing.assert_allclose(line.get_ydata(), [0.8, 0.3, 1 / 3 - 0.2])
    band = axis.collections[0].get_paths()[0].vertices
    assert {round(y, 6) for x, y in band if x == 0} == {0.7, 0.9}, "quartiles of 0.6, 0.7, 0.8, 0.9, 1.0"
    limit = next(line for line in axis.get_lines() if line.get_label() == "survival limit (0.4)")
    assert set(limit.get_ydata()) == {0.4}
    names = [label.get_text() for label in axis.get_xticklabels()]
    assert names == ["logits", "conv4_block6_preact_relu", "conv1_conv"]
    inside_the_page(figure)
    inside_the_page(figures.randomisation(cascade(METHODS), limit=0.5))
    inside_the_page(figures.randomisation(cascade(checkpoints=["before"]), limit=0.5))


def test_metrics_seen_keeps_one_colour_scale_and_outlines_what_sees():
    table = pd.DataFrame({
        "metric": ["overlap", "overlap", "lesion_gain"],
        "architecture": ["A", "B", "A"],
        "method": "layercam",
        "standardised": [2.5, -0.01, 40.0],
        "sees": [True, False, True],
    })  # fmt: skip
    figure = figures.metrics_seen(table)
    axis = figure.axes[0]
    image = axis.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-3, 3)
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[2.5, -0.01], [40.0, np.nan]])
    centres = sorted((p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in axis.patches)
    np.testing.assert_allclose(centres, [(0, 0), (0, 1)])
    assert [text.get_text() for text in axis.texts] == ["2.5", "0.0", "40.0", "n/a"]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "Overlap of the top 20 % area",
        "lesion gain",
    ]
    assert legend(figure) == ["the metric sees the change", "not available"]
    many = cells(NAMES, METHODS, standardised=1.0, sees=False)
    inside_the_page(figures.metrics_seen(pd.concat([many.assign(metric=name) for name in METRICS])))
    inside_the_page(figures.metrics_seen(table[:1]))


def test_power_has_a_line_a_number_of_patients_and_a_panel_an_effect():
    rows = [
        {"seeds": s, "patients": p, "effect": e, "power": min(1.0, s * p * e / 100)}
        for e in (0.1, 0.5, 0.7, 0.9)
        for p in (100, 20)
        for s in (5, 1)
    ]
    figure = figures.power(pd.DataFrame(rows))
    assert [axis.get_title() for axis in figure.axes] == [
        f"a difference of {effect}" for effect in (0.1, 0.5, 0.7, 0.9)
    ]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines["power 0.8"].get_ydata()) == {0.8}
    np.testing.assert_allclose(lines["20 patients"].get_xydata(), [[1, 0.02], [5, 0.1]])
    np.testing.assert_allclose(lines["100 patients"].get_xydata(), [[1, 0.1], [5, 0.5]])
    assert (
        figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and figure.axes[0].get_xlabel() == "number of seeds"
    )
    inside_the_page(figure)
    inside_the_page(figures.power(pd.DataFrame(rows[:1])))
