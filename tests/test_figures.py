import io

import drawn_texts
import figure_tables as made
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.report import figures
from cxr.report.figures import style
from cxr.report.figures.checks import CHECKS


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def norms(figure):
    return [(i.norm.vmin, i.norm.vmax) for axis in figure.axes for i in axis.images]


def under(image, values, colours="inferno", low=0, alpha=0.55):
    """An image under a map, whose colours go from `low` to 1."""
    shown = matplotlib.colormaps[colours]((np.asarray(values, float) - low) / (1 - low))[..., :3]
    return np.rint((1 - alpha) * image[..., None] + alpha * 255 * shown)


def drawn_pictures(figure):
    return [picture.get_array() for axis in figure.axes for picture in axis.images]


def bars(figure):
    """The ends of the colour bars, by their label."""
    return {axis.get_xlabel(): axis.get_xlim() for axis in figure.axes if axis.get_xlabel()}


def test_overlays_share_one_scale_whatever_the_maps():
    image = np.full((8, 8), 100, np.uint8)
    for scale in (0.2, 1.0):
        before, after = np.full((8, 8), scale), np.zeros((8, 8))
        figure = figures.overlay(image, before, after, title="t")
        lowered = under(image, after - before, "PuOr_r", low=-1, alpha=0.7)
        wanted = [np.dstack([image] * 3), under(image, before), under(image, after), lowered]
        np.testing.assert_array_equal(drawn_pictures(figure), wanted)
        np.testing.assert_array_equal(drawn_pictures(figures.tiles(image, before, after)), wanted)
        assert bars(figure) == {"attribution, min-max of each map": (0, 1), "difference": (-1, 1)}


def test_an_empty_map_is_named():
    image, full = np.full((8, 8), 90, np.uint8), np.ones((8, 8))
    for draw in (figures.overlay, figures.tiles):
        figure = draw(image, np.full((8, 8), np.nan), full)
        assert texts(figure.axes[0]) == ["image", "before: empty map", "after", "after minus before"]
        _, before, after, _ = drawn_pictures(figure)
        assert (before == 90).all() and (after == under(image, full)).all()


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
    assert norms(figure) == [(0, 255)] * 5 and len(figure.axes) == 1


def test_the_outline_of_a_mask_lies_on_its_image():
    masks = np.zeros((2, 10, 10), bool)
    masks[1, 2:6, 5:9] = True  # the first has none
    figure = figures.outlined(np.zeros((2, 10, 10), np.uint8), masks, ["a", "b"])
    (axis,) = figure.axes
    (outline,) = axis.collections
    left, right, low, high = axis.images[1].get_extent()
    (x0, y0), (x1, y1) = outline.get_datalim(axis.transData).get_points()
    across, down = (
        np.sort([(x0 - left) / (right - left), (x1 - left) / (right - left)]),
        np.sort([(y0 - high) / (low - high), (y1 - high) / (low - high)]),
    )
    np.testing.assert_allclose(across, [0.5, 0.9], atol=0.051)  # half a pixel at most
    np.testing.assert_allclose(down, [0.2, 0.6], atol=0.051)


def test_each_image_of_a_contact_sheet_is_square_under_its_own_title():
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    figure = figures.contact_sheet(images, ["a", "b", "a long title on lines", "d", "e"], columns=3, heading="x")
    figure.canvas.draw()
    shown = {image.get_array()[0, 0]: image.get_window_extent() for image in figure.axes[0].images}
    titles = [text.get_window_extent() for text in figure.axes[0].texts]
    assert list(shown) == list(range(5))
    for box, title in zip(shown.values(), titles, strict=True):
        assert box.width == pytest.approx(box.height, abs=1)
        assert title.y0 >= box.y1 - 1 and title.y0 - box.y1 < 5  # pixels: directly above
        assert (title.x0 + title.x1) / 2 == pytest.approx((box.x0 + box.x1) / 2, abs=2)
    assert shown[0].y0 > shown[3].y1 and shown[1].x0 > shown[0].x1  # row by row


def test_what_was_saved_is_shown_and_not_drawn_again(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure, file = figures.contact_sheet(np.zeros((1, 4, 4), np.uint8), ["a"]), io.BytesIO()
    figure.savefig(file, dpi=150)
    figures.show(figure, file.getvalue())
    assert shown[0].data == file.getvalue() and figure.number not in plt.get_fignums()
    with Image.open(file) as picture:
        assert shown[0].width == round(picture.width / 1.5)


def test_drift_by_class_leaves_out_what_is_not_scored():
    table = pd.DataFrame({"label": ["a", "a", "b", "b"], "overlap": [0.2, np.nan, 0.5, 0.7]})
    axis = figures.drift_by_class(table, ["overlap"]).axes[0]
    shown = [sorted(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "."]
    assert shown == [[0.2], [0.5, 0.7]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    low, high = axis.get_ylim()
    assert low > high, "the first class is on top"


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
    axis = figures.performance(runs).axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["before", "after"] * 2
    assert [t.get_text() for t in axis.texts] == ["A", "B"]
    table = pd.DataFrame({"confidence": [0.5, np.nan], "accuracy": [0.4, np.nan], "n": [10, 0]})
    assert len(figures.reliability({"before": table}).axes[0].get_lines()[1].get_xdata()) == 1
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5]})
    assert figures.history(history, {"training": "loss"}, ylabel="cross-entropy").axes[0].get_ylabel()


def points(axis, label):
    """(x, y) of the markers that the legend calls `label`."""
    lines = [line for line in axis.get_lines() if line.get_label() == label]
    return np.concatenate([line.get_xydata() for line in lines])


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
            row = {"variant": "default", "grid": grid, "q": q, "images": "all", "scale": "raw"}
            row |= {"architecture": name}
            row |= {"method": "layercam", "value": value, "complete": not (q == 0.1 and grid == "native")}
            rows.append(row | {"is_default": q == 0.2 and grid == "image", "uses_default_maps": False})
    return pd.DataFrame(rows)


def lines_of(axis, **wanted):
    """x and y of the lines of an axis whose marker, colour and so on are as wanted."""
    fits = [
        line for line in axis.get_lines() if all(getattr(line, f"get_{key}")() == v for key, v in wanted.items())
    ]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in fits]


def x_of_points(axis):
    """x of the points of a panel of rows, from top to bottom."""
    return [x[0] for x, y in sorted(lines_of(axis, marker="o"), key=lambda line: line[1][0])]


def texts(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def words(figure):
    return " ".join(drawn_texts.drawn(figure).texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def test_drift_draws_every_cell_with_its_interval_and_its_baselines():
    table = made.drift(["A", "B"], ["layercam", "gradcampp"])
    table["overlap_median"] = [0.4, 0.5, 0.6, 0.45]
    axis = figures.drift(table, ["overlap"]).axes[0]
    assert x_of_points(axis) == [0.6, 0.5, 0.45, 0.4], "the highest overlap first"
    names = ["B, LayerCAM", "A, Grad-CAM++", "B, Grad-CAM++", "A, LayerCAM"]
    assert texts(axis)[:4] == names
    intervals = lines_of(axis, linewidth=1.4)
    assert [x for x, _ in intervals] == [pytest.approx([0.46, 0.55])] * 4
    for key, value in made.BASELINES.items():
        marks = [line for line in axis.get_lines() if line.get_color() == style.BASELINES[key][1]]
        bold = [list(line.get_xdata()) for line in marks if line.get_linewidth() == 2.6]
        assert bold == [[value, value]] * 4, "a mark a cell"
        ends = [list(line.get_xdata()) for line in marks if line.get_linewidth() == 1.2]
        assert ends == [pytest.approx([value - 0.04, value + 0.05])] * 4, "its interval"
    assert set(texts(axis)[4:]) == {"before and after", *(name for name, _ in style.BASELINES.values())}
    assert "95" in axis.get_xlabel() and "90" in figures.drift(table, ["overlap"], level=0.9).axes[0].get_xlabel()


def test_further_right_is_moved_less_in_every_panel():
    table = made.drift(["A", "B"], ["layercam"], metrics=("overlap", "centroid_shift"))
    table["centroid_shift_median"] = [0.01, 0.2]
    overlap, shift = figures.drift(table, ["overlap", "centroid_shift"]).axes
    assert overlap.get_xlim()[0] < overlap.get_xlim()[1] == 1
    assert shift.get_xlim()[0] > shift.get_xlim()[1] == 0
    for axis, identical in ((overlap, 1), (shift, 0)):
        assert f"further right: moved less ({identical}: identical)" in axis.get_xlabel()
    assert "fraction of the image diagonal" in shift.get_xlabel() and not texts(shift)
    assert x_of_points(shift) == [0.01, 0.2], "rows are those of the first panel"
    by_class = pd.DataFrame({"label": ["a", "b"], "overlap": [0.2, 0.5], "centroid_shift": [0.1, 0.3]})
    left, right = figures.drift_by_class(by_class, ["overlap", "centroid_shift"]).axes
    assert left.get_xlim()[0] < left.get_xlim()[1] and right.get_xlim()[0] > right.get_xlim()[1]


def test_drift_marks_what_is_missing_and_names_no_mark_that_is_not_there():
    table = made.drift(["A", "B"], ["layercam"])
    table.loc[1, [name for name in table if name.startswith("overlap")]] = np.nan
    table["overlap_two_seeds_median"] = np.nan
    figure = figures.drift(table, ["overlap"])
    found = texts(figure.axes[0])
    assert "n/a: empty maps" in found and "two seeds" not in found and "two heads" in found
    assert "two patients" in figure.texts[0].get_text(), "the message compares with what there is"


def test_cells_that_fail_their_checks_stand_below():
    table = made.drift(["A", "B", "C"], ["layercam"]).assign(map_check=["no", "yes", "not checked"])
    table["overlap_median"] = [0.9, 0.3, 0.5]
    axis = figures.drift(table, ["overlap"]).axes[0]
    assert x_of_points(axis) == [0.3, 0.5, 0.9]
    heads = ["maps pass their checks", "maps were not checked", "maps fail their checks"]
    assert [text for text in texts(axis) if text.startswith("maps")] == heads


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
    assert "LayerCAM: 1 of 3 complete analyses reverse B and C" in words(figure)
    kept = "all 3 networks as in the default analysis in 1 of 3"
    assert difference.get_title(loc="left") == f"4 analyses; {kept}"
    table = analyses()
    table.loc[(table["q"] == 0.2) & (table["grid"] == "native"), "complete"] = False
    assert "0 of 2 complete analyses" in words(figures.specification_curve(table, method="layercam"))
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


def test_specification_curve_marks_analyses_in_which_the_methods_disagree():
    keys = ["variant", "grid", "q", "images", "scale"]
    rankings = analyses().drop_duplicates(keys)[keys].assign(method_a="gradcampp", method_b="layercam")
    rankings["reversal"] = pd.array([False, True, pd.NA, False], dtype="boolean")
    axis = figures.specification_curve(analyses(), rankings, method="layercam").axes[-1]
    assert axis.get_yticklabels()[0].get_text() == "against Grad-CAM++"
    assert list(axis.get_lines()[0].get_xdata()) == [0]
    other = rankings.assign(method_b="gradcam")
    axis = figures.specification_curve(analyses(), other, method="layercam").axes[-1]
    assert axis.get_ylabel() == "scale", "rankings of other methods say nothing here"


def test_specification_curve_leaves_out_repeated_default_maps():
    twice = pd.concat([analyses(), analyses().assign(variant="copy", is_default=False, uses_default_maps=True)])
    difference = figures.specification_curve(twice, method="layercam").axes[1]
    assert difference.get_title(loc="left").startswith("4 analyses")


def test_course_has_a_thin_line_a_seed_their_mean_and_one_time_axis():
    summary = made.drift(["A", "B"], ["layercam", "gradcampp"])
    figure = figures.course(made.courses(["A", "B"], ["layercam", "gradcampp"]), summary=summary)
    *panels, auc = figure.axes
    assert [axis.get_title() for axis in panels] == ["LayerCAM", "Grad-CAM++"] and "AUC" in auc.get_ylabel()
    assert {axis.get_xlabel() for axis in figure.axes} == {"epoch of fine-tuning (0: before)"}
    assert panels[0].get_xlim() == panels[1].get_xlim() and panels[0].get_ylim() == panels[1].get_ylim()
    for axis in panels:
        lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 3]
        assert len(lines) == 2 * 3, "2 networks x (2 seeds and their mean)"
        thick = [line for line in lines if line.get_linewidth() > 1]
        assert len(thick) == len({line.get_color() for line in thick}) == 2
        np.testing.assert_allclose(thick[0].get_ydata(), [0.99, 0.79, 0.59])
        band = axis.collections[0].get_paths()[0].vertices
        assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.57, 1.01))
        dashed = lines_of(axis, linestyle="--")
        assert [y for _, y in dashed] == [[1, 1], [0.7, 0.7], [0.7, 0.7]], (
            "identical maps; two seeds of each network"
        )
    assert "dashed: two seeds" in panels[0].get_ylabel() and "higher: moved less" in panels[0].get_ylabel()
    assert len(auc.get_lines()) == 2 * 3, "AUC has no methods"
    assert {"A", "B"} == set(texts(auc)) and not figure.legends
    assert max(auc.get_xticks()) <= 4, "no tick where there is no epoch"


def test_course_of_a_distance_is_turned():
    figure = figures.course(made.courses(["A"], ["layercam"], [0]), metric="centroid_shift")
    low, high = figure.axes[0].get_ylim()
    assert low > high and "Centroid shift" in figure.axes[0].get_ylabel()
    assert "two seeds" not in figure.axes[0].get_ylabel()


def outlines(figure):
    """The colours of the lines on each picture of images and maps."""
    return [
        [line.get_color() for line in axis.lines if lies_on(line.get_xydata(), picture.get_extent())]
        for axis in figure.axes
        for picture in axis.images
    ]


def lies_on(points, extent):
    left, right, bottom, top = extent
    (x0, y0), (x1, y1) = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    return left <= x0 <= x1 <= right and top <= y0 <= y1 <= bottom


BOTH = [style.BEFORE, style.AFTER]


def test_examples_share_one_scale_and_outline_the_areas_on_every_map():
    rules = ("least drift", "median drift", "most drift")
    made_of = made.examples(["a", "b"], before=made.blob(3, 3) / 5)
    figure = figures.examples(made_of, title="t")
    image, before, after = (made_of[0][key] for key in ("image", "before", "after"))
    wanted = [np.dstack([image] * 3), under(image, before), under(image, after)]
    np.testing.assert_array_equal(drawn_pictures(figure), wanted * 6)
    assert list(bars(figure).values()) == [(0, 1)]
    assert outlines(figure) == [BOTH, BOTH[:1], BOTH[1:]] * 6
    found = texts(figure.axes[0])
    assert {"a", "b", *rules} <= set(found) and found.count("…L2-IM-1342-0001: overlap 0.85") == 6


def test_examples_name_empty_maps_and_gaps():
    empty = made.examples(["Enlarged_Cardiomediastinum"], ["least drift"], before=np.full((32, 32), np.nan))
    figure = figures.examples([*empty, *made.examples(["b"], ["most drift"])])
    found = texts(figure.axes[0])
    assert found.count("empty\nmap") == 1
    assert outlines(figure) == [BOTH[1:], [], BOTH[1:], BOTH, BOTH[:1], BOTH[1:]]
    image, before, *_ = drawn_pictures(figure)
    np.testing.assert_array_equal(before, image)
    assert found.count("no such image") == 2 and "Enlarged\nCardiomediastinum" in found


def test_overlays_outline_both_areas():
    image = np.full((32, 32), 100, np.uint8)
    figure = figures.overlay(image, made.blob(10, 10), made.blob(20, 20), title="t")
    assert outlines(figure) == [BOTH, BOTH[:1], BOTH[1:], BOTH]
    figure = figures.tiles(image, made.blob(10, 10), np.full((32, 32), np.nan))
    assert outlines(figure) == [BOTH[:1], BOTH[:1], [], BOTH[:1]]


def test_a_lesion_is_dashed_on_the_image_alone():
    image, lesion = np.full((32, 32), 100, np.uint8), np.zeros((32, 32), bool)
    lesion[8:12, 20:26] = True
    for draw in (figures.overlay, figures.tiles):
        figure = draw(image, made.blob(10, 10), made.blob(20, 20), outline=lesion)
        (dashed,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
        picture = figure.axes[0].images[0]
        left, right, bottom, top = picture.get_extent()
        pixels = (dashed.get_xydata() - [left, top]) / [right - left, bottom - top] * 32  # from the image's corner
        assert np.nanmin(pixels, axis=0) == pytest.approx([20, 8])
        assert np.nanmax(pixels, axis=0) == pytest.approx([26, 12])
        assert texts(figure.axes[0])[0] == "image, lesion dashed"


def test_a_pair_is_drawn_as_drift_and_examples_of_a_and_b():
    methods = ["layercam", "gradcampp"]
    baselines = {key: value for key, value in made.BASELINES.items() if key != "more_training"}
    table = made.drift(["a -> b"], methods, baselines)
    table["overlap_median"] = [0.6, 0.5]
    panels = made.examples([figures.METHOD_LABELS[name] for name in methods])
    figure = figures.pair(table, ["overlap"] * 3, panels, title="A: a.keras   B: b.keras")
    names = {"A and B", "two patients", "two seeds of A", "two seeds of B", "chance"}
    assert texts(figure.axes[0])[:2] == ["LayerCAM", "Grad-CAM++"] and set(texts(figure.axes[0])[2:]) == names
    assert x_of_points(figure.axes[0]) == [0.6, 0.5]
    assert "two seeds of B" in words(figure) and "A: a.keras   B: b.keras" in words(figure)
    (tiles,) = [axis for axis in figure.axes if axis.images]
    assert len(tiles.images) == 9 * 2 and {"image", "A", "B"} <= set(texts(tiles))
    assert tiles.get_window_extent().y1 < min(axis.get_tightbbox().y0 for axis in figure.axes[:3])
    alone = figures.pair(table, ["overlap"], [])
    assert not [axis for axis in alone.axes if axis.images]


def test_regions_have_a_row_a_cell_and_a_panel_a_region():
    figure = figures.regions(made.located(["A", "B"], ["layercam"], ["lesion", "lung"]))
    lesion, lung = figure.axes
    assert (lesion.get_title(), lung.get_title()) == ("inside: lesion", "inside: lung")
    for axis, area in ((lesion, 0.05), (lung, 0.4)):
        before, after = (lines_of(axis, marker="o", color=colour) for colour in (style.BEFORE, style.AFTER))
        assert [x[0] for x, _ in before] == [area * 2] * 2 and [x[0] for x, _ in after] == [area * 3] * 2
        changes = [x for x, _ in lines_of(axis, linewidth=1.4)]
        assert changes == [pytest.approx([2 * area + area / 2, 2 * area + area * 2])] * 2
        marks = [x for x, y in lines_of(axis, color="black") if len(set(x)) == 1 and y[0] != y[-1]]
        assert [area, area] in marks, "a uniform map"
        assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] > area * 4
    assert texts(lesion) == ["A, LayerCAM", "B, LayerCAM", "a uniform map", "before", "after"] and not texts(lung)
    table = made.located(["A", "B"], ["layercam"], ["lesion", "lung"])
    table.loc[0, ["energy_before", "energy_change", "energy_change_ci_low", "energy_change_ci_high"]] = np.nan
    assert "n/a" in texts(figures.regions(table).axes[0])


def test_map_checks_crosses_the_checks_that_fail():
    figure = figures.map_checks(made.checked(["A"], ["layercam"]))
    assert [axis.get_title() for axis in figure.axes] == list(CHECKS.values())
    deletion, insertion = figure.axes[:2]
    names = ["maps pass their checks", "maps fail their checks", "A, LayerCAM, seed 0", "A, LayerCAM, seed 1"]
    assert texts(deletion) == [*names, "after", "before"]
    heights = {text.get_text(): text.get_position()[1] for text in deletion.texts}
    assert sorted(names, key=heights.get) == [names[0], names[2], names[1], names[3]]
    hollow = [line for line in deletion.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata()[0] for line in hollow] == [1.1, 1.1], "before and after of seed 1"
    assert [x for x, _ in lines_of(deletion, marker="x")] == [[1.1], [1.1]]
    assert not lines_of(insertion, marker="x"), "both seeds pass"
    assert {tuple(x) for x, _ in lines_of(deletion, linewidth=1.3)} == {(0.0, 0.3), (1.0, 1.3)}
    for side, colour in (("before", style.BEFORE), ("after", style.AFTER)):
        points = lines_of(deletion, marker="o", color=colour)
        assert sorted(x[0] for x, _ in points) == [0.1, 1.1], side
    assert "2 of 4 sets of maps pass all 5 checks" in words(figure)
    table = made.checked(["A"], ["layercam"])
    table.loc[3, ["class_gain", "class_gain_ci_low", "class_gain_ci_high"]] = np.nan
    assert [text for axis in figures.map_checks(table).axes[1:] for text in texts(axis)] == ["n/a"]


def test_metrics_seen_keeps_one_colour_scale_and_frames_what_sees():
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
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[2.5, 40.0], [-0.01, np.nan]])
    centres = sorted((p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in axis.patches)
    np.testing.assert_allclose(centres, [(0, 0), (1, 0)], atol=1e-12)
    assert texts(axis) == ["2.5", "40.0", "0.0", "n/a"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A,\nLayerCAM", "B,\nLayerCAM"]
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "Overlap of the top\n20 % area",
        "lesion gain",
    ]
    told = words(figure)
    assert "0 of 2 metrics see the change in every cell" in told and "grey: not available" in told


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
    first = figure.axes[0]
    assert [0.8, 0.8] in [y for _, y in lines_of(first)]
    colours = {text.get_text(): text.get_color() for text in first.texts}
    for name, values in (("20 patients", [0.02, 0.1]), ("100 patients", [0.1, 0.5])):
        ((x, y),) = lines_of(first, color=colours[name])
        assert x == [1, 5] and y == pytest.approx(values), "a line has the colour of its name"
    assert first.get_ylim() == figure.axes[1].get_ylim() and first.get_xlabel() == "number of seeds"
    told = words(figure)
    assert "Seeds for a power of 0.8 with 20 patients: more than 5 for 0.1" in told and "5 for 0.9" in told


def test_names_at_the_ends_of_lines_keep_apart():
    rows = pd.DataFrame({"epoch": [1, 2], "a": [1.0, 0.5], "b": [1.0, 0.501], "c": [1.0, 0.502]})
    figure = figures.history(rows, {"one": "a", "two": "b", "three": "c"}, ylabel="loss")
    heights = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert heights["one"] < heights["two"] < heights["three"] and drawn_texts.drawn(figure).faults() == []


def test_titles_say_what_is_shown():
    runs = pd.DataFrame({"architecture": ["A", "A"], "auc_macro_before": 0.9, "auc_macro_after": [0.95, 0.88]})
    assert "Macro AUC changes by \N{MINUS SIGN}0.020 to +0.050" in words(figures.performance(runs))
    same = pd.DataFrame({"layercam": [1, 2], "gradcampp": [1, 2]}, index=["A", "B"])
    assert "the same under every method" in words(figures.ranking(same))
    other = same.assign(gradcampp=[2, 1])
    assert "depends on the method (by overlap)" in words(figures.ranking(other, title="by overlap"))
    assert "before: 75% of 4 images" in words(
        figures.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], title="before")
    )
