"""The explorer over a small store that is written here: no network is trained, nothing is drawn from one."""

import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from cxr import tracking
from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.explore import drawing, runs
from cxr.explore import explorer as explorers
from cxr.explore import page as explore_page
from cxr.explore import view as explore_view
from cxr.metrics import baselines, map_features, map_grids, metric_table, multiverse, regions, similarity
from cxr.report import comparison

SIZE, GRID = 32, 4
CLASSES = ("<b>$x_{$</b>", "normal")  # what a folder may be called
IDS = np.array([f"image-{k:02d}" for k in range(12)])
EMPTY = IDS[3]  # its map after is all zero in the bare study


def images():
    label = np.array(CLASSES)[np.arange(len(IDS)) % 2]
    table = pd.DataFrame({"image_id": IDS, "patient_id": [f"p{k // 2}" for k in range(len(IDS))], "split": "test"})
    same = {"label": label, "predicted_before": label, "predicted_after": label, "explained": label}
    return table.assign(**same, both_correct=True, scored=True)


class Store:
    """Writes studies of the artifacts that the notebooks log."""

    def __init__(self, folder):
        self.folder, self.rng = folder, np.random.default_rng(0)

    def run(self, study, checkpoint, params, artifacts, metrics=()):
        tags = {"cxr.stage": checkpoint, "cxr.complete": "true"}
        run_id = tracking.create_run(experiment=study, name=checkpoint, tags=tags, params=params)
        for name, value in artifacts.items():
            path = self.folder / name.rpartition("/")[2]
            if isinstance(value, maps.MapSet):
                value.save(path)
            elif isinstance(value, pd.DataFrame):
                value.to_csv(path, index=False) if path.suffix == ".csv" else value.to_parquet(path, index=False)
            elif name == "regions.npz":
                regions.save(path, IDS, value)
            else:
                np.savez_compressed(path, image_id=IDS, images=value)
            tracking.log_file_as(run_id, path, name)
        tracking.end_run(run_id, "FINISHED")
        return run_id

    def map_set(self, checkpoint, method, empty=False, layer="conv4"):
        values = self.rng.random((len(IDS), GRID, GRID)).astype(np.float32)
        if empty:
            values[IDS == EMPTY] = 0
        index = np.arange(len(IDS)) % 2
        return maps.MapSet(IDS, index, values, checkpoint, method, layer, CLASSES, "0" * 64)

    def cells(self, study, architecture, seed, methods, *, full):
        """A train run, an attribute run and a score run a method."""
        table = images()
        p = self.rng.random(len(IDS))
        probabilities = table[["image_id", "patient_id", "split", "label"]].assign(p_0=p, p_1=1 - p)
        predictions = {f"predictions_{checkpoint}.parquet": probabilities for checkpoint in ("before", "after")}
        train = self.run(study, "train", {}, predictions)
        held = {"thumbnails.npz": self.rng.integers(0, 256, (len(IDS), SIZE, SIZE), np.uint8)}
        masks = {name: np.zeros((len(IDS), SIZE, SIZE), bool) for name in ("lesion", "lung")}
        masks["lesion"][::2, 8:20, 10:18] = True
        masks["lung"][:, :, :16] = True
        if full:
            held["regions.npz"] = masks
            failing = {"checkpoint": "after", "passes_checks": False, "reason": "survives <the> randomisation"}
            held["map_checks.csv"] = pd.DataFrame([{"method": method, **failing} for method in methods])
        checkpoints = ["before", "after", *(["epoch_001", "epoch_002"] if full else [])]
        for method in methods:
            for checkpoint in checkpoints:
                empty = not full and checkpoint == "after"
                held[f"maps/{method}/{checkpoint}.npz"] = self.map_set(checkpoint, method, empty)
                if full and not checkpoint.startswith("epoch"):
                    other = self.map_set(checkpoint, method, layer="conv3")
                    held[f"variants/{method}/layer-shallower/{checkpoint}.npz"] = other
        attribute = self.run(study, "attribute", {}, held)
        cell = {"architecture": architecture, "seed": seed}
        for method in methods:
            pair = [held[f"maps/{method}/{checkpoint}.npz"].maps for checkpoint in ("before", "after")]
            values = similarity.compare_maps(*pair, size=SIZE)
            artifacts = {}
            if full:
                who = np.arange(len(IDS)) % 2, table["patient_id"].to_numpy()
                own = baselines.baselines(*pair, *who, size=SIZE, draws=1)
                values |= own | regions.region_table(*pair, masks, size=SIZE)
                steps = [
                    comparison.score_table(
                        similarity.compare_maps(pair[0], held[f"maps/{method}/epoch_{k:03d}.npz"].maps, size=SIZE),
                        table,
                        **cell,
                        method=method,
                    ).assign(epoch=k)
                    for k in (1, 2)
                ]
                other = [
                    held[f"variants/{method}/layer-shallower/{checkpoint}.npz"].maps
                    for checkpoint in ("before", "after")
                ]
                scored = {
                    "default": multiverse.score_variant(*pair, *who, size=SIZE),
                    "layer-shallower": multiverse.score_variant(*other, *who, size=SIZE),
                }
                layers = {"default": "conv4", "layer-shallower": "conv3", "layer-penultimate": "conv4"}
                artifacts["course.parquet"] = pd.concat(steps)
                artifacts["multiverse.parquet"] = multiverse.long_table(
                    scored, table, layers=layers, **cell, method=method
                )
            artifacts["drift.parquet"] = comparison.score_table(values, table, **cell, method=method)
            params = {**cell, "method": method, "layer": "conv4", "image_size": SIZE, "attribute_run": attribute}
            params |= {"train_run": train, "target_layer": "penultimate", "weights": "none", "images": "all"}
            self.run(
                study,
                "score",
                {**params, "explain": "true", "score": "log_odds", "methods_coincide": "False"},
                artifacts,
            )


@pytest.fixture(scope="module")
def uri(tmp_path_factory, new_store):
    folder = tmp_path_factory.mktemp("explore")
    tracking.connect(new_store(folder))
    store = Store(folder)
    store.cells("bare", "Net", 0, ["layercam"], full=False)
    store.cells("full", "Net", 10, ["layercam"], full=True)
    store.cells("full", "Net", 2, ["layercam", "gradcampp"], full=True)
    store.cells("full", "Other", 2, ["gradcampp"], full=True)
    tracking.create_run(experiment="unfinished", name="score", tags={"cxr.stage": "score"}, params={})
    tags = {"cxr.stage": "score", "cxr.complete": "true"}
    of_earlier_version = tracking.create_run(experiment="old", name="score", tags=tags, params={})
    tracking.end_run(of_earlier_version, "FINISHED")
    mlflow.MlflowClient().delete_tag(of_earlier_version, "cxr.schema")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def explorer(uri):
    tracking.connect(uri)
    return explorers.Explorer("full")


def drift_table(explorer):
    return explorer.run.table("drift.parquet").set_index("image_id")


# ------------------------------------------------------------------------------------------------ choosing


def test_studies_are_those_with_a_complete_score_run_newest_first(uri):
    tracking.connect(uri)
    assert tracking.experiments_with("score") == ["full", "bare"]
    assert explorers.Explorer().choice["study"] == "full"
    with pytest.raises(
        InputError, match="no finished score run in the experiment 'unfinished': choose one of full"
    ):
        explorers.Explorer("unfinished")
    with pytest.raises(InputError, match="no finished score run in the experiment 'old': choose one of full"):
        explorers.Explorer("old")  # whose only run an earlier version made
    with pytest.raises(InputError, match="unknown metric 'overlap_q21'"):
        explorers.Explorer("full", metric="overlap_q21")


def test_an_empty_store_says_what_to_run_and_nothing_else(uri, monkeypatch):
    monkeypatch.setattr(tracking, "experiments_with", lambda checkpoint: [])
    with pytest.raises(explorers.NothingToShow, match="run `make study` first") as caught:
        explorers.Explorer()
    assert caught.value._render_traceback_() == [f"Nothing to show: {caught.value}"]


def test_what_there_is_to_choose_depends_on_what_was_chosen_before(explorer):
    assert explorer.options("architecture") == ["Net", "Other"]
    assert explorer.options("seed") == ["2", "10"], "in the order of numbers"
    assert explorer.options("method") == ["layercam", "gradcampp"], "as the parameters list them"
    assert explorer.options("variant") == ["default", "layer-shallower"], (
        "layer-penultimate has no maps of its own"
    )
    assert explorer.options("metric") == list(metric_table.METRICS)
    assert explorer.options("label") == ["", *sorted(CLASSES)]
    explorer.choose(variant="layer-shallower")
    assert explorer.options("metric") == ["overlap_q05", "overlap_q10", "overlap", "overlap_q30"], (
        "of variants no more was scored"
    )


def test_a_choice_keeps_what_it_can_the_image_above_all(explorer):
    explorer.choose(seed="2", method="gradcampp", metric="centroid_shift", label="normal")
    explorer.go_to(4)
    here = explorer.choice["image_id"]
    explorer.choose(architecture="Other")
    kept = {"seed": "2", "method": "gradcampp", "metric": "centroid_shift", "label": "normal", "image_id": here}
    assert kept.items() <= explorer.choice.items()
    explorer.choose(architecture="Net", seed="10")
    assert explorer.choice["method"] == "layercam", "there is no other"
    explorer.choose(variant="layer-shallower")
    assert explorer.choice["metric"] == "overlap_q05" and explorer.choice["image_id"] == here


def test_a_choice_that_there_is_not_changes_nothing(explorer):
    before = dict(explorer.choice)
    for wanted, message in (
        ({"seed": "3"}, "seed: '3' is not among 2, 10"),
        ({"architecture": "Other", "method": "layercam"}, "method: 'layercam' is not among gradcampp"),
        ({"layer": "conv4"}, "cannot choose layer"),
    ):
        with pytest.raises(InputError, match=message):
            explorer.choose(**wanted)
        assert explorer.choice == before


# ------------------------------------------------------------------------------------------------- ranking


def test_images_are_ranked_from_the_most_drift_to_the_least():
    index = pd.Index(list("dcbae"), name="image_id")
    table = pd.DataFrame(
        {
            "overlap": [0.5, 0.1, np.nan, 0.5, 0.9],  # low is drift
            "centroid_shift": [0.2, 0.1, np.nan, 0.3, 0.0],  # high is drift
            "gini_change": [-0.4, 0.3, np.nan, 0.1, -0.3],  # either way is
        },
        index=index,
    )
    assert list(runs.by_drift(table, "overlap")) == list("cadeb"), "of a and d, which tie, a comes first"
    assert list(runs.by_drift(table, "centroid_shift")) == list("adceb")
    assert list(runs.by_drift(table, "gini_change")) == list("dceab")


@given(
    values=st.lists(st.one_of(st.just(float("nan")), st.floats(-1, 1)), min_size=1, max_size=20),
    metric=st.sampled_from(sorted(metric_table.METRICS)),
)
def test_any_ranking_holds_every_image_once_with_the_drift_falling(values, metric):
    table = pd.DataFrame({metric: values}, index=[f"{k:02d}" for k in range(len(values))])
    order = runs.by_drift(table, metric)
    assert sorted(order) == list(table.index)
    falling = runs.drift_of(table[metric], metric)[order].to_numpy()
    known = np.isfinite(falling)
    assert known[: known.sum()].all(), "images without a value come last"
    assert (np.diff(falling[known]) <= 0).all()


def test_next_most_drifted_and_back(explorer):
    explorer.choose(seed="10")
    explorer.go_to(1)
    order = drift_table(explorer).reset_index().sort_values(["overlap", "image_id"])["image_id"].tolist()
    assert explorer.order == order and explorer.choice["image_id"] == order[0] and explorer.place == 1
    explorer.step(1)
    assert explorer.choice["image_id"] == order[1] and explorer.place == 2
    explorer.step(-1)
    explorer.step(-1)
    assert explorer.place == 1, "at the end it stays"
    explorer.go_to(12)
    explorer.step(1)
    assert explorer.choice["image_id"] == order[-1]
    with pytest.raises(InputError, match="places 1 to 12"):
        explorer.go_to(13)
    explorer.choose(label="normal")
    assert len(explorer.order) == 6 and set(explorer.order) <= set(order)
    ranking = explorer.ranking()
    assert ranking["image_id"].tolist() == explorer.order and ranking["place"].tolist() == list(range(1, 7))
    assert set(ranking["label"]) == {"normal"} and ranking["overlap"].is_monotonic_increasing


def test_an_image_is_found_by_its_id_or_a_part_of_it(explorer):
    explorer.find("image-07")
    assert explorer.choice["image_id"] == "image-07"
    explorer.choose(label="normal")
    explorer.find(" e-04 ")  # an even one: of the other class
    assert explorer.choice["image_id"] == "image-04" and explorer.choice["label"] == ""
    most = explorer.order[0]
    explorer.find("image")
    assert explorer.choice["image_id"] == most, "of several the most drifted"
    for text in ("image-99", "", " "):
        with pytest.raises(InputError, match="no scored image"):
            explorer.find(text)


# ------------------------------------------------------------------------------------------------- showing


def test_the_areas_are_those_that_the_overlaps_are_made_of(explorer):
    table = drift_table(explorer)
    for name, q in (("overlap_q05", 0.05), ("overlap_q10", 0.10), ("overlap", 0.20), ("overlap_q30", 0.30)):
        for image_id in IDS[:3]:
            explorer.choose(image_id=image_id)
            view = explorer.view(q=q)
            assert view.overlap == pytest.approx(table.loc[image_id, name], abs=1e-12)
            k = map_features.top_count(q, SIZE * SIZE)
            assert all(0.9 * k < top.sum() <= k for top in view.tops)  # without a few that are tied at the edge
            assert (view.after[view.tops[1]].min() >= view.after[~view.tops[1]].max()).all()


def test_a_top_area_by_hand():
    values = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)
    assert explore_view.top_area(values, 0.25).tolist() == [[False, True], [False, False]]
    assert explore_view.top_area(values, 0.5).tolist() == [[False, True], [False, False]], "a tie for one place"
    assert explore_view.top_area(values, 0.75).tolist() == [[False, True], [True, True]]
    assert explore_view.top_area(1 - values[::-1], 0.5).tolist() == [[False, False], [True, False]]
    assert explore_view.top_area(np.float32(values > 0), 0.5).tolist() == [[False, True], [True, True]], (
        "the maximum itself is tied"
    )


def test_values_are_the_score_runs_own(explorer):
    table = drift_table(explorer)
    view = explorer.view()
    image_id, row = view.choice["image_id"], table.loc[view.choice["image_id"]]
    for name in metric_table.METRICS:
        shown = view.values.loc[name]
        assert shown["value"] == row[name] and shown["median"] == pytest.approx(table[name].median())
        assert shown["two_patients"] == row[f"{name}_two_patients"]
        assert shown["two_patients_median"] == pytest.approx(table[f"{name}_two_patients"].median())
        assert np.isnan(shown["two_heads"]), "no extra heads"
    others = table.drop(image_id)
    assert view.values.loc["overlap", "drifts_more"] == pytest.approx((others["overlap"] > row["overlap"]).mean())
    less = others["gini_change"].abs() < abs(row["gini_change"])
    assert view.values.loc["gini_change", "drifts_more"] == pytest.approx(less.mean())
    np.testing.assert_allclose(
        similarity.score(*map(map_features.Features, (view.before, view.after)))["ssim"],
        row["ssim"],
    )


def test_parts_of_a_view_belong_to_the_image(explorer):
    explorer.choose(seed="2", image_id="image-04")
    view = explorer.view()
    attribute = explorer.run.params["attribute_run"]
    raw = maps.load(tracking.stored(attribute).file("maps/layercam/before.npz")).maps[4]
    np.testing.assert_array_equal(view.before, map_grids.prepare(raw[None], SIZE)[0])
    with np.load(tracking.stored(attribute).file("thumbnails.npz")) as file:
        np.testing.assert_array_equal(view.image, file["images"][4])
    assert (view.label, view.explained, view.grid) == (CLASSES[0], CLASSES[0], "4x4")
    assert set(view.masks) == {"lesion", "lung"} and view.masks["lesion"].sum() == 12 * 8
    located = view.located.set_index("region")
    assert located.loc["lung", "area"] == 0.5
    assert located.loc["lung", "change"] == pytest.approx(
        view.after[:, :16].sum() / view.after.sum() - view.before[:, :16].sum() / view.before.sum(),
        abs=1e-5,
    )
    predicted = tracking.stored(explorer.run.params["train_run"]).table("predictions_before.parquet").iloc[4]
    assert view.predictions["before"].tolist() == [predicted["p_0"], predicted["p_1"]]
    explorer.choose(image_id="image-05")
    assert set(explorer.view().masks) == {"lung"}, "a normal image has no lesion"
    native = explorer.view(grid="native")
    assert native.before.shape == (GRID, GRID) and native.tops[0].sum() == map_features.top_count(0.2, 16)


def test_the_course_is_the_images_beside_the_cells(explorer):
    stored = explorer.run.table("course.parquet")
    for metric, start in (("overlap", 1.0), ("centroid_shift", 0.0)):
        explorer.choose(metric=metric)
        course = explorer.view().course
        own = stored[stored["image_id"] == explorer.choice["image_id"]].set_index("epoch")[metric]
        assert course.epochs.tolist() == [0, 1, 2] and course.shown.tolist() == [0, 1, 2]
        assert course.values.tolist() == [start, own[1], own[2]]
        assert course.median[1:].tolist() == stored.groupby("epoch")[metric].median().tolist()
        assert course.maps.shape == (3, SIZE, SIZE)
        np.testing.assert_array_equal(course.maps[0], explorer.view().before)


def test_a_variant_is_scored_from_its_own_maps(explorer):
    explorer.choose(variant="layer-shallower", metric="overlap_q30")
    view = explorer.view()
    attribute, row = explorer.run.params["attribute_run"], list(IDS).index(view.choice["image_id"])
    folder = "variants/layercam/layer-shallower"
    map_sets = [
        maps.load(tracking.stored(attribute).file(f"{folder}/{checkpoint}.npz")).maps
        for checkpoint in ("before", "after")
    ]
    values = similarity.compare_maps(*map_sets, size=SIZE)
    assert explorer.order[0] == IDS[np.argmin(values["overlap_q30"])]
    for name in metric_table.METRICS:
        assert view.values.loc[name, "value"] == pytest.approx(values[name][row], abs=1e-12)
    assert view.values.loc["overlap_q30", "median"] == pytest.approx(np.median(values["overlap_q30"]))
    assert np.isnan(view.values.loc["ssim", "median"]) and np.isnan(view.values.loc["ssim", "drifts_more"])
    assert view.layer == "conv3" and view.course is None and "only for the default maps" in view.missing["course"]


def test_what_runs_lack_is_said_with_the_parameter_that_gives_it(uri):
    tracking.connect(uri)
    view = explorers.Explorer("bare").view()
    said = " ".join(view.missing.values())
    words = (
        "`multiverse: true`",
        "`checkpoint_every: 1`",
        "`extra_heads: 2`",
        "`lesion_mask`",
        "`map_check_images: 100`",
    )
    assert all(word in said for word in words)
    assert view.course is None and not view.masks and view.located.empty and not view.cautions
    explorer = explorers.Explorer("full")
    assert set(explorer.view().missing) == {"two_heads"}
    assert "maps after of this cell do not pass their checks" in explorer.view().cautions[0]


def test_an_empty_map_has_no_rank_and_is_told_in_words(uri):
    tracking.connect(uri)
    explorer = explorers.Explorer("bare")
    assert explorer.order[-1] == EMPTY
    explorer.choose(image_id=EMPTY)
    view = explorer.view()
    assert view.rank is None and view.n_ranked == 11 and view.tops is None and np.isnan(view.overlap)
    assert np.isfinite(view.before).all() and np.isnan(view.after).all()
    assert view.values["value"].isna().all() and view.values["drifts_more"].isna().all()
    assert "The map after of this image is empty: it is zero everywhere" in view.cautions[0]
    assert "1 of 12" in view.cautions[1]


def test_why_a_map_is_empty():
    raw = np.ones((2, 2))
    assert "one value" in explore_view.empty_in_words(raw)
    assert "zero everywhere" in explore_view.empty_in_words(raw * 0)
    assert "not finite" in explore_view.empty_in_words(np.array([[1, np.nan], [0, 0]]))
    assert "millionth" in explore_view.empty_in_words(np.array([[1, 1 + 1e-9], [1, 1]]))


def test_a_run_is_read_once(explorer, monkeypatch):
    explorer.view()

    def fail(*_):
        raise AssertionError("read again")

    for name in ("stored", "find"):
        monkeypatch.setattr(tracking, name, fail)
    for _ in range(3):
        explorer.step(1)
        explorer.choose(metric="ssim")
        explorer.view()


# ---------------------------------------------------------------------------------------------- the widgets


@pytest.fixture
def page(explorer):
    return explore_page.Page(explorer)


def size_of(png):
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(png)).size


def test_one_click_shows_the_next_most_drifted_image(page):
    order, first = page.explorer.order, page.picture.value
    assert size_of(first) == (1140, 670) and page.more.disabled and not page.less.disabled
    page.less.click()
    assert page.explorer.choice["image_id"] == order[1] and page.picture.value != first
    assert page.place.value == 2 and not page.more.disabled
    page.more.click()
    assert page.picture.value == first, "the same view is the same picture"
    page.place.value = len(order)
    assert page.explorer.choice["image_id"] == order[-1] and page.less.disabled


def test_every_widget_changes_what_is_shown(page):
    assert [axis for axis in page.axes] == list(explorers.AXES[:-1])
    before = page.picture.value
    for axis, value in (
        ("method", "gradcampp"),
        ("architecture", "Other"),
        ("metric", "pearson"),
        ("label", "normal"),
        ("variant", "layer-shallower"),
        ("study", "bare"),
    ):
        page.axes[axis].value = value
        assert page.explorer.choice[axis] == value and page.picture.value != before and not page.message.value
        before = page.picture.value
        for other, widget in page.axes.items():
            assert widget.value == page.explorer.choice[other], "all widgets follow"
            assert [value for _, value in widget.options] == page.explorer.options(other)
    assert page.axes["variant"].options == (("conv4 (as scored)", "default"),)
    page.axes["study"].value = "full"
    page.axes["label"].value = CLASSES[0]
    assert not page.message.value and page.picture.value
    page.id.value = "image-04"
    assert page.explorer.choice["image_id"] == "image-04" and page.id.value == "", "ready for the next"
    before = page.picture.value
    for widget, value in (
        (page.grid, "native"),
        (page.q, 0.05),
        (page.beneath, False),
        (page.outlines["lesion"], False),
        (page.outlines["lung"], True),
    ):
        widget.value = value
        assert page.picture.value != before
        before = page.picture.value


def test_the_tables_hold_the_numbers_and_escape_names(page):
    page.id.value = "image-04"
    view = page.explorer.view()
    html = page.table.value
    assert f"{view.values.loc['overlap', 'value']:.3f}" in html and html.count("▶") == 1
    assert "two patients" in html and "median of 12 images" in html and "lung" in html
    assert (
        "survives &lt;the&gt; randomisation" in page.notes.value
        and "<code>extra_heads: 2</code>" in page.notes.value
    )
    assert "<b>$x" not in page.table.value + page.notes.value


def test_what_cannot_be_found_is_said_and_the_picture_stays(page):
    before = page.picture.value
    page.id.value = "<nothing>"
    assert "no scored image has &#x27;&lt;nothing&gt;&#x27;" in page.message.value
    assert page.picture.value == before
    page.less.click()
    assert page.message.value == ""


def test_an_artifact_that_is_gone_is_said_and_the_page_goes_on(uri, page, monkeypatch):
    attribute = page.explorer.run.params["attribute_run"]
    for cached in (runs.maps_of, runs._folder):
        cached.cache_clear()

    def gone(run, path):
        raise InputError(f"run {run.run_id} has no artifact '{path}'")

    with monkeypatch.context() as patched:
        patched.setattr(tracking.StoredRun, "file", gone)
        page.less.click()
    assert f"run {attribute} has no artifact" in page.message.value
    assert page.picture.value == b"" and page.table.value == ""
    page.less.click()
    assert page.message.value == "" and size_of(page.picture.value) == (1140, 670)


def texts_of(figure):
    """All that is written in a figure; the title comes first."""
    return [text.get_text() for text in [*figure.texts, *figure.findobj(Text)]]


def test_an_empty_map_and_missing_parts_are_drawn(uri):
    tracking.connect(uri)
    page = explore_page.Page(explorers.Explorer("bare"))
    page.id.value = EMPTY
    assert "Caution" in page.notes.value and "empty" in page.notes.value and "–" in page.table.value
    assert size_of(page.picture.value) == (1140, 670)
    view = page.explorer.view()
    figure = drawing.draw(view)
    texts = texts_of(figure)
    assert "after: empty map" in texts and "before" in texts
    assert [len(axis.images) for axis in figure.axes[:5]] == [1, 2, 2, 2, 1], "no areas"
    assert f"no rank by drift in “{metric_table.METRICS['overlap'].label}”: a map is empty" in texts[0]
    assert any("checkpoint_every" in text for text in texts)


def test_the_picture_says_what_it_shows(page):
    view = page.explorer.view()
    texts = texts_of(drawing.draw(view, outlines=["lung"]))
    assert f"rank 1 of 12 by drift in “{metric_table.METRICS['overlap'].label}”" in texts[0]
    assert all(word in texts[0] for word in ("full: Net, seed 2", "LayerCAM", "grid 4x4"))
    assert f"top 20 % of the area: IoU {view.overlap:.2f}" in texts and "lung" in texts


def test_the_picture_is_saved_under_a_name_that_tells_it(page, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "project", lambda: tmp_path)
    page.save.click()
    image_id = page.explorer.choice["image_id"]
    path = tmp_path / "mlruns" / "studies" / "full" / "explore" / f"Net_s2_layercam_default_{image_id}.png"
    assert str(path) in page.message.value and size_of(path.read_bytes()) == (2280, 1340)
    shutil.rmtree(tmp_path / "mlruns")
    (tmp_path / "mlruns").write_text("in the way")
    page.save.click()
    assert "mlruns" in page.message.value and page.message.value.startswith("<b>")


def test_many_classes_and_one_image_fit(page):
    view = page.explorer.view()
    from dataclasses import replace

    names = [f"class number {k} with a long name" for k in range(20)]
    many = pd.DataFrame({"class": names, "before": np.linspace(0, 0.1, 20), "after": 0.05})
    figure = drawing.draw(replace(view, predictions=many, label=names[0]))
    labels = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
    assert len(labels) == 8 and labels[0].endswith(names[0][-10:]), "the true class is always among them"
    epochs = np.arange(0, 41, dtype=int)
    course = replace(
        view.course,
        epochs=epochs,
        shown=epochs[::7][:6],
        maps=np.repeat(view.course.maps[:1], 6, axis=0),
        **{name: np.linspace(1, 0.5, 41) for name in ("values", "low", "median", "high")},
    )
    assert size_of(drawing.png(drawing.draw(replace(view, course=course)))) == (1140, 670)
