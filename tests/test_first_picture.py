"""The first picture of a report: which image it shows, and what stands where."""

import io
from types import SimpleNamespace

import drawn_texts
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from cxr.attribution.maps import MapSet
from cxr.attribution.thumbnails import save_thumbnails
from cxr.metrics.map_grids import prepare
from cxr.metrics.similarity import compare_maps
from cxr.report import figures, pictures
from cxr.report.figures import areas
from cxr.report.scores import Study

METHODS = ("layercam", "gradcampp", "gradcampp_authors")
NAMES = ("CompactDenseNet", "CompactInception", "CompactResNetV2")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def study(tmp_path):
    """One network under two methods and two seeds: three images, whose values are their order."""
    ids = np.array(["a", "b", "c"])
    rng = np.random.default_rng(0)
    save_thumbnails(tmp_path / "thumbnails.npz", ids, rng.integers(0, 255, (3, 16, 16), dtype=np.uint8))
    for method in METHODS[:2]:
        for checkpoint in ("before", "after"):
            path = tmp_path / "maps" / method / f"{checkpoint}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {"checkpoint": checkpoint, "method": method, "layer": "l", "classes": ("x",)}
            values = rng.random((3, 4, 4)).astype(np.float32)
            MapSet(ids, np.zeros(3, int), values, checkpoint_sha256="", **kind).save(path)
    keys = pd.MultiIndex.from_product([["A"], METHODS[:2], ["0", "1"]], names=["architecture", "method", "seed"])
    runs = keys.to_frame(index=False).assign(attribute_run="run")
    scores = runs.merge(pd.DataFrame({"image_id": ids, "label": "x"}), how="cross").drop(columns="attribute_run")
    scores["seed"] = scores["seed"].astype(int)
    scores["overlap"] = [*(0.1, 0.4, 0.9), *(0.3, 0.5, 0.8)] * 2
    stored = SimpleNamespace(file=lambda name: tmp_path / name)
    return Study([], runs, scores, {}, {"run": stored})


def checks(**passes):
    return pd.DataFrame([{"architecture": "A", "method": m, "passes_checks": p} for m, p in passes.items()])


def test_the_image_is_the_one_nearest_the_median_of_the_first_cell_that_passes(study):
    panel = pictures.median_image(study, "overlap", checks(layercam=False, gradcampp=True))
    # the seeds' medians are 0.4 and 0.5, both 0.05 from their mean and of image b: the lower seed
    assert (panel.method, panel.image_id, panel.seed, panel.overlap) == ("gradcampp", "b", 0, 0.4)
    assert panel.map_check == "yes" and panel.image.shape == panel.before.shape == panel.after.shape
    stored = study.maps_of("run", "gradcampp", "after").maps
    np.testing.assert_array_equal(panel.after, prepare(stored, 16)[1])
    failing = pictures.median_image(study, "overlap", checks(layercam=False, gradcampp=False))
    assert (failing.method, failing.map_check) == ("layercam", "no")
    assert pictures.median_image(study, "overlap", pd.DataFrame()).map_check == "not checked"


def test_of_equally_near_images_the_lower_id_is_shown(study):
    study.scores["overlap"] = [*(0.4, np.nan, 0.6), *(0.6, np.nan, 0.4)] * 2
    panel = pictures.median_image(study, "overlap", pd.DataFrame())
    assert (panel.image_id, panel.seed) == ("a", 0)
    study.scores["overlap"] = np.nan
    assert pictures.median_image(study, "overlap", pd.DataFrame()) is None


def blob(row, column, side=32):
    y, x = np.mgrid[:side, :side]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / 60).astype(np.float32)


def panel(**changes):
    values = {
        **{"architecture": "CompactDenseNet", "method": "layercam", "seed": 1, "image_id": "images/0001_002"},
        **{"label": "pneumonia", "overlap": 0.482, "map_check": "yes"},
        "image": np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8),
        **{"before": blob(10, 10), "after": blob(14, 12)},
    }
    return pictures.Panel(**{**values, **changes})


def summary(names=NAMES, methods=METHODS, baselines=("two_patients", "two_seeds", "more_training")):
    keys = pd.MultiIndex.from_product([names, methods], names=["architecture", "method"])
    table = keys.to_frame(index=False).assign(map_check="yes")
    table["overlap_median"] = 0.4 + 0.03 * np.arange(len(table))
    for part, shift in (("ci_low", -0.05), ("ci_high", 0.02)):
        table[f"overlap_{part}"] = table["overlap_median"] + shift
    for key, value in zip(baselines, (0.3, 0.7, 0.75), strict=False):
        table[f"overlap_{key}_median"] = value
    return table


def right(figure):
    """The axis of the cells, and the heights at which its texts stand (inches from the top)."""
    axis = next(axis for axis in figure.axes if not axis.images)
    return axis, {text.get_text(): text.get_position()[1] for text in axis.texts}


def words(figure):
    return " ".join(drawn_texts.drawn(figure).texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


CASES = {
    "nine": summary(),
    "one": summary(NAMES[:1], METHODS[:1]),
    "one seed": summary(NAMES[:2], METHODS[:2], ["two_patients"]),
    "all fail": summary().assign(map_check="no"),
    "not checked": summary(NAMES[:1]).assign(map_check="not checked"),
    "mixed": summary().assign(map_check=["yes", "no", "not checked"] * 3),
    "empty": summary(NAMES[:1], METHODS[:2]).assign(overlap_median=np.nan),
    "close": summary(NAMES[:1], METHODS[:1]).assign(
        overlap_two_patients_median=0.41, overlap_two_seeds_median=0.42
    ),
    "low": summary(NAMES[:1], METHODS[:1]).assign(overlap_median=0.02, overlap_two_patients_median=0.01),
    "high": summary(NAMES[:1], METHODS[:1]).assign(overlap_median=0.99, overlap_more_training_median=0.98),
}


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_all_texts_can_be_read(name, shown):
    figure = figures.first_picture(panel() if shown else None, CASES[name], level=0.95, synthetic=True)
    drawn = drawn_texts.drawn(figure)
    assert figure.get_figwidth() == drawn_texts.PAGE and drawn.smallest >= 8
    assert drawn.faults() == []


def test_cells_that_fail_stand_below_the_others_and_the_rest_is_sorted():
    table = summary(NAMES[:1]).assign(map_check=["yes", "yes", "no"])  # the failing one has the highest overlap
    axis, heights = right(figures.first_picture(panel(), table, level=0.95, synthetic=False))
    cells = [
        f"CompactDenseNet, {figures.METHOD_LABELS[name]}"
        for name in ("gradcampp", "layercam", "gradcampp_authors")
    ]
    order = ["maps pass their checks", *cells[:2], "before and after", "maps fail their checks", cells[2]]
    found = [heights[name] for name in order]
    assert found == sorted(found) and axis.get_ylim()[0] > axis.get_ylim()[1]
    points = [line for line in axis.get_lines() if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([0.43, 0.4, 0.46])
    assert [line.get_color() == "black" for line in points] == [True, True, False]
    intervals = [line for line in axis.get_lines() if line.get_linewidth() == 1.4]
    assert [list(line.get_xdata()) for line in intervals] == [
        pytest.approx([v - 0.05, v + 0.02]) for v in (0.43, 0.4, 0.46)
    ]


def test_marks_are_named_where_they_stand():
    axis, heights = right(figures.first_picture(panel(), summary(), level=0.9, synthetic=False))
    assert {"two patients", "two seeds", "as many epochs again"} <= set(heights)
    lines = {line.get_color(): line.get_xdata()[0] for line in axis.get_lines() if line.get_linewidth() == 0.7}
    named = {text.get_text(): text for text in axis.texts}
    for name, value in (("two patients", 0.3), ("two seeds", 0.7), ("as many epochs again", 0.75)):
        assert lines[named[name].get_color()] == value
        assert abs(named[name].get_position()[0] - value) < 0.03
    assert "further right: moved less" in axis.get_xlabel() and "90" in axis.get_xlabel()
    _, alone = right(figures.first_picture(panel(), CASES["one seed"], level=0.9, synthetic=False))
    assert "two patients" in alone and not {"two seeds", "as many epochs again"} & set(alone)


def test_the_words_say_what_is_shown():
    told = words(figures.first_picture(panel(), summary(), level=0.95, synthetic=True))
    for part in (
        "overlap by 0.40 to 0.64",
        "two seeds: 0.70",
        "SYNTHETIC DATA",
        "both: overlap 0.48",
        "seed 1",
        "pneumonia",
    ):
        assert part in told
    assert "fail" not in told
    told = words(figures.first_picture(panel(map_check="no"), CASES["all fail"], level=0.95, synthetic=False))
    assert "No maps pass their checks" in told and "SYNTHETIC" not in told
    assert told.count("maps fail their checks") == 2, "over the cells, and on the image"


def test_the_outlined_areas_have_the_overlap_that_is_written_there():
    before, after = (prepare(np.random.default_rng(k).random((1, 6, 6)), 64)[0] for k in (0, 1))
    image = np.zeros((64, 64), np.uint8)
    own = panel(image=image, before=before, after=after)
    figure = figures.first_picture(own, summary(), level=0.95, synthetic=False)
    shown = [axis for axis in figure.axes if axis.images]
    assert sorted(len(axis.lines) for axis in shown) == [1, 1, 2], "an outline a map, both on the image"
    both = next(axis for axis in shown if len(axis.lines) == 2)
    inside = []
    for values, line in zip((before, after), both.lines, strict=True):
        x, y = line.get_xydata()[np.isfinite(line.get_xdata())].T
        levels = ndimage.map_coordinates(values.astype(float), [y, x], order=1, mode="nearest")
        assert np.ptp(levels) < 1e-9, "the outline runs along one level of its map"
        inside.append(values > levels.mean())
    assert [area.mean() for area in inside] == pytest.approx([0.2, 0.2], abs=1e-3)
    iou = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
    wanted = compare_maps(before[None], after[None], size=64, names=["overlap"])["overlap"][0]
    assert iou == pytest.approx(wanted, abs=1e-6)


def test_the_edge_of_an_area_leaves_out_what_is_tied():
    assert np.isnan(areas.edge(np.full((8, 8), np.nan))) and np.isnan(areas.edge(np.zeros((8, 8))))
    few = np.zeros((10, 10))
    few[0, :5] = [1, 2, 3, 4, 5]  # 20 places, 5 positive cells: the zeros are tied
    assert (few > areas.edge(few)).sum() == 5
    many = np.ones((10, 10))
    many[0, :5] = 0  # all of the highest are tied: they are the area
    assert (many > areas.edge(many)).sum() == 95


def test_the_file_is_small(tmp_path):
    noise = np.random.default_rng(0).normal(size=(128, 128))
    image = (100 + 100 * blob(60, 60, 128) + 8 * noise).astype(np.uint8)
    large = panel(image=image, before=blob(40, 50, 128), after=blob(40, 60, 128))
    figure = figures.first_picture(large, summary(), level=0.95, synthetic=True)
    buffer, path = io.BytesIO(), tmp_path / "picture.png"
    for where in (buffer, path):
        figure.savefig(where, dpi=150, bbox_inches="tight")
    assert path.read_bytes() == buffer.getvalue() and len(buffer.getvalue()) < 150 * 1024
    with Image.open(path) as picture:
        assert abs(picture.width - 1100) < 60 and picture.convert("RGB").getpixel((2, 200)) == (255, 255, 255)
    figure.savefig(tmp_path / "picture.svg")
    assert "<svg" in (tmp_path / "picture.svg").read_text()
