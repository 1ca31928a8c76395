import dataclasses
import json
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from foreign_models import twin
from keras import layers
from PIL import Image

from cxr.attribution import maps as attribution_maps
from cxr.core.errors import InputError
from cxr.core.params import DriftParams
from cxr.metrics import baselines, metric_table, similarity
from cxr.pair import checking, compare, models, result
from cxr.pair import images as pair_images
from cxr.report import comparison

CLASSES = ["a", "b", "c"]


def cnn(seed: int, *, side: int = 32, classes: int = 3, filters: int = 4) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(filters, 3, activation="relu", padding="same", name="first"),
            layers.MaxPooling2D(2),
            layers.Conv2D(filters, 3, activation="relu", padding="same", name="second"),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("a", 0), ("b", 1), ("a2", 2), ("b2", 3)):
        cnn(seed).save(folder / f"{name}.keras")
    return folder


def loaded(name, path, layer="second", **options):
    return models.load(name, str(path), layer=layer, **options)


def pictures(folder, names):
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(path)


# ------------------------------------------------------------------------------------------------- files


def bad_files(folder):
    """By file name: what makes it, and what is said of it."""
    model = cnn(0)
    model.save_weights(folder / "only.weights.h5")
    (folder / "text.keras").write_text("hello")
    (folder / "lfs.keras").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("x", "y")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").touch()
    (folder / "folder").mkdir()
    model.save(folder / "whole.h5")
    (folder / "whole.h5").rename(folder / "h5.keras")
    model.save(folder / "whole.keras")
    (folder / "whole.keras").rename(folder / "keras.h5")
    return {
        "": "no file is given: give a file that `model.save",
        "none.keras": "does not exist",
        "only.weights.h5": "holds weights only, not the model: build the model",
        "text.keras": "is not a Keras model",
        "lfs.keras": "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
        "zip.keras": "is a ZIP file without a model in it",
        "saved": "is a SavedModel folder, which Keras 3 does not load",
        "folder": "is a folder: give a file",
        "h5.keras": "is a .h5 file by its contents",
        "keras.h5": "is a .keras file by its contents",
    }


def test_files_that_are_no_models(tmp_path, folder):
    for name, message in bad_files(tmp_path).items():
        path = str(tmp_path / name) if name else ""
        with pytest.raises(InputError) as error:
            models.files(DriftParams(model_a=str(folder / "a.keras"), model_b=path))
        assert message in str(error.value) and str(error.value).startswith("model B: "), name


def test_files_are_named_in_order(folder):
    paths = {name: str(folder / f"{name}.keras") for name in ("a", "b", "a2", "b2")}
    found = models.files(DriftParams(model_a=paths["a"], model_b=paths["b"], like_b=[paths["b2"], paths["a2"]]))
    assert found == {"A": paths["a"], "B": paths["b"], "B2": paths["b2"], "B3": paths["a2"]}
    assert models.label(found) == "a -> b"
    assert models.label({"A": "run1/model.keras", "B": "run2/model.h5"}) == "run1/model -> run2/model"


def test_what_cannot_be_loaded_or_explained(tmp_path, folder):
    @keras.saving.register_keras_serializable("test")
    class Odd(layers.Layer):
        def call(self, x):
            return x

    def with_layer(layer, name):
        keras.Sequential([keras.Input((32, 32, 1)), layer, layers.Flatten(), layers.Dense(2, "softmax")]).save(
            tmp_path / name
        )

    with_layer(layers.Lambda(lambda x: x / 255), "lambda.keras")
    with_layer(layers.Lambda(lambda x: x / 255), "lambda.h5")
    with_layer(Odd(), "odd.keras")
    keras.saving.get_custom_objects().pop("test>Odd")
    for name in ("lambda.keras", "lambda.h5"):
        with pytest.raises(InputError, match=f"model B: .*{name} cannot be loaded: a Lambda layer with"):
            loaded("B", tmp_path / name)
    with pytest.raises(InputError, match="cannot be loaded: a layer or function that Keras does not know"):
        loaded("B", tmp_path / "odd.keras")
    with pytest.raises(InputError, match=r"model A \(.*a.keras\): target_layer: .*no layer 'third'"):
        loaded("A", folder / "a.keras", layer="third")
    (tmp_path / "cut.keras").write_bytes((folder / "a.keras").read_bytes()[:-100])
    with pytest.raises(InputError):
        models.files(DriftParams(model_a=str(folder / "a.keras"), model_b=str(tmp_path / "cut.keras")))


OWN = """
import keras

@keras.saving.register_keras_serializable("mine")
class Registered(keras.layers.Layer):
    def call(self, x):
        return x / 255

class Plain(keras.layers.Layer):
    def call(self, x):
        return x / 255

def twice(x):
    return 2 * x
"""


def forget(own):
    for name in ("mine>Registered", *own):
        keras.saving.get_custom_objects().pop(name, None)


@pytest.mark.parametrize("name", ["own.keras", "own.h5"])
def test_a_module_of_the_user_s_gives_the_layers_that_a_model_needs(name, tmp_path):
    (tmp_path / "my_layers.py").write_text(OWN)
    own = models.use_module(str(tmp_path / "my_layers.py"))
    assert set(own) == {"Registered", "Plain", "twice"}
    stack = [own["Registered"](), own["Plain"](), layers.Conv2D(4, 3, activation=own["twice"])]
    end = [layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
    keras.Sequential([keras.Input((32, 32, 1)), *stack, *end]).save(tmp_path / name)
    forget(own)
    path = str(tmp_path / name)
    with pytest.raises(InputError, match=r"give the Python file that defines it with --module FILE.py"):
        models.load("B", path, layer="last_conv", preprocessing="none")
    settings = {"model_a": path, "model_b": path, "target_layer": "last_conv", "preprocessing": "none"}
    found = models.load_all(DriftParams(**settings, module=str(tmp_path / "my_layers.py")))
    assert found["B"].layer == "conv2d" or found["B"].layer.startswith("conv2d")
    forget(own)


def test_a_module_that_is_none_or_fails(tmp_path, folder):
    both = {"model_a": str(folder / "a.keras"), "model_b": str(folder / "b.keras")}
    for name in ("none.py", "a.keras"):
        with pytest.raises(InputError, match=f"module: .*{name} is no Python file: give the .py file"):
            models.files(DriftParams(**both, module=str(tmp_path / name)))
    (tmp_path / "bad.py").write_text("x = 1\nraise RuntimeError('no\\nway')\n")
    with pytest.raises(InputError, match=r"module: .*bad.py cannot be run: RuntimeError: no .*bad.py, line 2\)"):
        models.use_module(str(tmp_path / "bad.py"))


def test_a_whole_h5_model_is_the_same_model(tmp_path, folder):
    keras.models.load_model(folder / "a.keras").save(tmp_path / "a.h5")
    a, same = loaded("A", folder / "a.keras"), loaded("B", tmp_path / "a.h5")
    notes = models.check({"A": a, "B": same})
    assert len(notes) == 1 and notes[0].startswith("A and B have the same weights")
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 1)).astype(np.float32)
    np.testing.assert_array_equal(a.network(images), same.network(images))
    assert (a.size, a.grid, a.layer) == (32, "16x16", "second")
    described = models.describe({"A": a, "B": same})
    assert described["preprocessing"].tolist() == ["none", "none"] and described["grid"].tolist() == ["16x16"] * 2


def test_models_that_do_not_go_together(tmp_path, folder):
    a = loaded("A", folder / "a.keras")
    cnn(1, classes=4).save(tmp_path / "four.keras")
    with pytest.raises(InputError, match="models A and B have 3 and 4 outputs"):
        models.check({"A": a, "B": loaded("B", tmp_path / "four.keras")})
    b = loaded("B", folder / "b.keras")
    cnn(1, filters=5).save(tmp_path / "wider.keras")
    with pytest.raises(InputError, match="model A2 .*wider.keras.* has another structure than A"):
        models.check({"A": a, "B": b, "A2": loaded("A2", tmp_path / "wider.keras")})
    with pytest.raises(InputError, match="model B2 .*b.keras.* has the weights of B .*b.keras"):
        models.check({"A": a, "B": b, "B2": loaded("B2", folder / "b.keras")})
    assert models.check({"A": a, "B": b, "A2": loaded("A2", folder / "a2.keras")}) == []
    cnn(1, side=48).save(tmp_path / "larger.keras")
    notes = models.check({"A": a, "B": loaded("B", tmp_path / "larger.keras", layer="first")})
    assert (
        len(notes) == 2
        and notes[0].startswith("A takes images of 32 px and B of 48 px")
        and "first (48x48)" in notes[1]
    )


# ------------------------------------------------------------------------------------------- images and classes


def settings(data="", **values):
    return DriftParams(data=str(data), **values)


def test_images_of_every_layout(tmp_path):
    pictures(tmp_path, ["classes/x/1.png", "classes/y/2.png", "classes/y/deep/3.png", "flat/4.png", "flat/5.png"])
    manifest, notes = pair_images.find(settings(tmp_path / "classes"))
    assert manifest["label"].tolist() == ["x", "y", "y"] and pair_images.is_labelled(manifest)
    assert (manifest["sha256"].str.len() == 64).all() and (manifest["split"] == "").all()
    assert len(notes) == 1 and "each file is treated as a separate patient" in notes[0]
    manifest, _ = pair_images.find(settings(tmp_path / "classes", image_labels="none"))
    assert manifest["image_id"].tolist() == ["x/1", "y/2", "y/deep/3"] and not pair_images.is_labelled(manifest)
    manifest, _ = pair_images.find(settings(tmp_path / "flat"), hashed=False)
    assert manifest["image_id"].tolist() == ["4", "5"] and (manifest["label"] == "").all()
    assert (manifest["sha256"] == "").all()

    table = tmp_path / "table.csv"
    table.write_text("path,patient_id\nflat/5.png,p\nflat/4.png,p\n")
    manifest, notes = pair_images.find(settings(table))
    assert (
        manifest["image_id"].tolist() == ["flat/4", "flat/5"]
        and notes == []
        and not pair_images.is_labelled(manifest)
    )
    table.write_text("path,patient_id,label,split\nflat/5.png,p,x,test\nflat/4.png,q,y,train\n")
    manifest, notes = pair_images.find(settings(table))
    assert manifest["label"].tolist() == ["y", "x"]
    assert len(notes) == 1 and notes[0].startswith("images of all splits (test, train) are used")
    manifest, notes = pair_images.find(settings(table, use_split="test"))
    assert manifest["image_id"].tolist() == ["flat/5"] and notes == []
    with pytest.raises(InputError, match="no image is in the split val"):
        pair_images.find(settings(table, use_split="val"))
    with pytest.raises(InputError, match="no column diagnosis"):
        pair_images.find(settings(table, label_column="diagnosis"))
    with pytest.raises(InputError, match="use_split: images without labels cannot be split"):
        pair_images.find(settings(tmp_path / "flat", use_split="test"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no .* files: give a folder with files"):
        pair_images.find(settings(tmp_path / "empty"))


def test_a_split_of_the_phantom_is_a_studys():
    from cxr.core.params import TrainParams
    from cxr.data import manifest as data_manifest

    manifest, notes = pair_images.find(settings("phantom", phantom_images=60, use_split="test"))
    whole = data_manifest.build_manifest(TrainParams(phantom_images=60))
    pd.testing.assert_frame_equal(manifest, whole[whole["split"] == "test"].reset_index(drop=True))
    assert notes == []
    everything, _ = pair_images.find(settings("phantom", phantom_images=60))
    assert everything["sha256"].tolist() == whole["sha256"].tolist()


def table_of(labels, patients=None):
    n = len(labels)
    ids = [f"{k:02d}" for k in range(n)]
    return pd.DataFrame(
        {"image_id": ids, "path": ids, "label": labels, "patient_id": patients or ids, "split": "", "sha256": ""}
    )


def test_class_names():
    manifest = table_of(["b", "a", "c"])
    assert pair_images.class_names(settings(), manifest, 3) == CLASSES
    assert pair_images.class_names(settings(class_names=["c", "b", "a"]), manifest, 3) == ["c", "b", "a"]
    assert pair_images.class_names(settings(class_names=["c", "b", "a", "d"]), manifest, 4) == ["c", "b", "a", "d"]
    assert pair_images.class_names(settings(), table_of([""] * 2), 3) == ["0", "1", "2"]
    with pytest.raises(InputError, match="the models have 4 outputs, and the labels are of 3 classes"):
        pair_images.class_names(settings(), manifest, 4)
    with pytest.raises(InputError, match="2 outputs, and class_names names 3 classes"):
        pair_images.class_names(settings(class_names=CLASSES), manifest, 2)
    with pytest.raises(InputError, match="images are labelled c, and the classes are a, b"):
        pair_images.class_names(settings(class_names=["a", "b"]), manifest)
    with pytest.raises(InputError, match="every class once"):
        pair_images.class_names(settings(class_names=["a", "a", "b", "c"]), manifest)


def certain(*predicted):
    """Probabilities of a model that predicts these classes."""
    return np.eye(3, dtype=np.float32)[list(predicted)] * 0.7 + 0.1


def test_select():
    manifest = table_of(["a", "b", "c", "a"])
    says = {"A": certain(0, 1, 1, 2), "B": certain(0, 2, 2, 1)}
    chosen = pair_images.select(manifest, says, CLASSES, explain="auto", images="auto")
    assert chosen["scored"].tolist() == [True, False, False, False]
    assert chosen["explained"].tolist() == ["a", "b", "c", "a"]
    chosen = pair_images.select(manifest, says, CLASSES, explain="predicted", images="all")
    assert chosen["scored"].all() and chosen["explained"].tolist() == ["a", "c", "c", "b"]
    assert chosen["both_correct"].tolist() == [True, False, False, False]
    chosen = pair_images.select(manifest, says, CLASSES, explain="predicted_a", images="correct")
    assert chosen["explained"].tolist() == ["a", "b", "b", "c"] and chosen["scored"].sum() == 1

    unknown = table_of([""] * 4)
    chosen = pair_images.select(unknown, says, CLASSES, explain="auto", images="auto")
    assert chosen["scored"].all() and chosen["explained"].tolist() == ["a", "c", "c", "b"]
    assert "label" not in chosen and chosen["both_correct"].tolist() == [True, False, False, False]
    chosen = pair_images.select(unknown, says, CLASSES, explain="predicted_a", images="correct")
    assert chosen["explained"].tolist() == ["a", "b", "b", "c"] and chosen["scored"].sum() == 1
    with pytest.raises(InputError, match="the true class is not known"):
        pair_images.select(unknown, says, CLASSES, explain="true", images="all")
    with pytest.raises(InputError, match="both models predict the right class: of 1, A does so for 1"):
        pair_images.select(
            manifest[3:], {"A": certain(0), "B": certain(1)}, CLASSES, explain="true", images="correct"
        )


def test_performance_where_it_exists():
    manifest = table_of(["a", "b", "c", "a"])
    says = {"A": certain(0, 1, 2, 0), "B": certain(0, 1, 1, 2)}
    found = pair_images.measured(manifest, says, CLASSES)
    assert found["accuracy_before"] == 1 and found["accuracy_after"] == 0.5
    assert found["auc_macro_before"] == 1
    assert pair_images.measured(table_of([""] * 4), says, CLASSES) == {}
    without_c = pair_images.measured(table_of(["a", "b", "b", "a"]), says, CLASSES)
    assert without_c == {"accuracy_before": 0.75, "accuracy_after": 0.75}
    several = {name: p * 1.5 for name, p in says.items()}  # sigmoids, which need not add up to 1
    assert pair_images.measured(manifest, several, CLASSES) == {"accuracy_before": 1, "accuracy_after": 0.5}


def test_a_wrong_order_of_classes_is_suspected_and_the_right_one_told():
    manifest = table_of(["a", "b", "c"] * 4)
    right = certain(*[0, 1, 2] * 4)
    assert pair_images.doubts(manifest, {"A": right, "B": right}, CLASSES) == []
    turned = right[:, [2, 0, 1]]  # output 0 is c, 1 is a, 2 is b
    (doubt,) = pair_images.doubts(manifest, {"A": turned, "B": turned}, CLASSES)
    assert "accuracy is 0.00 for A and 0.00 for B" in doubt and "With the order c,a,b it would be 1.00" in doubt
    constant = certain(*[0] * 12)
    (doubt,) = pair_images.doubts(manifest, {"A": constant, "B": constant}, CLASSES)
    assert "With the order" not in doubt
    assert "A gives the class a and B gives the class a to all 12 images" in doubt
    assert pair_images.doubts(table_of([""] * 12), {"A": turned, "B": turned}, CLASSES) == []


def test_a_model_that_tells_no_classes_apart_is_a_caution_with_and_without_labels():
    right, constant = certain(*[0, 1, 2] * 4), certain(*[1] * 12)
    for manifest in (table_of(["a", "b", "c"] * 4), table_of([""] * 12)):
        (doubt,) = pair_images.doubts(manifest, {"A": right, "B": constant}, CLASSES)
        assert doubt.startswith("B gives the class b to all 12 images: the images may be prepared in another way")


def test_one_model_at_chance_is_a_caution():
    """Of nine in ten images of one class, a model that guesses gets most right."""
    rng = np.random.default_rng(0)
    labels = rng.permuted(["a"] * 90 + ["b"] * 10)
    truth = (labels == "b").astype(int)
    guess = certain(*rng.permuted(truth))
    (doubt,) = pair_images.doubts(table_of(list(labels)), {"A": certain(*truth), "B": guess}, ["a", "b"])
    assert doubt.startswith("accuracy is 1.00 for A") and "B cannot be told from chance" in doubt
    good = np.where(rng.random(100) < 0.1, 1 - truth, truth)
    assert (
        pair_images.doubts(table_of(list(labels)), {"A": certain(*truth), "B": certain(*good)}, ["a", "b"]) == []
    )


def test_classes_without_images_are_a_caution():
    manifest = table_of(["a", "b"] * 6)
    says = {name: certain(*[0, 1] * 6) for name in "AB"}
    (doubt,) = pair_images.doubts(manifest, says, CLASSES)
    assert doubt.startswith("there is no image of c")
    chosen = pair_images.select(manifest, says, CLASSES, explain="auto", images="auto")
    assert pair_images.by_class(chosen).to_dict() == {"a": 6, "b": 6} and pair_images.lacking(chosen) == []
    says["B"] = certain(*[0] * 12)
    chosen = pair_images.select(manifest, says, CLASSES, explain="auto", images="auto")
    (note,) = pair_images.lacking(chosen)
    assert note.startswith("all scored images are of one class (a 6, b 0)")
    assert "; a 6, b 0); both models" in result.which_images(chosen, settings())


# ------------------------------------------------------------------------------------------------------- scoring


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    map_sets = {name: rng.random((12, 5, 5), np.float32) for name in ("A", "B", "A2", "A3", "B2")}
    map_sets["B"][3] = 0
    chosen = table_of(["a", "b"] * 6, patients=[str(k // 2) for k in range(12)]).drop(columns=["path", "sha256"])
    chosen = chosen.assign(explained=chosen["label"], scored=[k != 5 for k in range(12)], both_correct=True)
    options = settings(n_boot=100, baseline_draws=2, seed=5, like_a=["x", "y"], like_b=["z"])
    return map_sets, chosen, options, compare.score(map_sets, chosen, CLASSES, options, size=20)


def test_scores_are_those_of_the_functions_of_a_study(scored):
    map_sets, chosen, options, values = scored
    counts = chosen["scored"].to_numpy()
    for name, expected in similarity.compare_maps(map_sets["A"], map_sets["B"], size=20).items():
        np.testing.assert_array_equal(values[name], expected[counts])
    levels = baselines.baselines(
        map_sets["A"][counts], map_sets["B"][counts], chosen["label"][counts], chosen["patient_id"][counts],
        size=20, draws=2, rng_seed=5,
    )  # fmt: skip
    for name, expected in levels.items():
        np.testing.assert_array_equal(values[name], expected)
    one = similarity.compare_maps(map_sets["A"], map_sets["A2"], size=20)["overlap"][counts]
    other = similarity.compare_maps(map_sets["A"], map_sets["A3"], size=20)["overlap"][counts]
    np.testing.assert_allclose(values["overlap_two_heads"], (one + other) / 2)
    two_seeds = similarity.compare_maps(map_sets["B"], map_sets["B2"], size=20)["overlap"][counts]
    np.testing.assert_allclose(values["overlap_two_seeds"], two_seeds)
    assert values["empty_after"].sum() == 1 and np.isnan(values["overlap"]).sum() == 1


def test_summary_names_and_words(scored, tmp_path):
    map_sets, chosen, options, values = scored
    rows = chosen[chosen["scored"]].reset_index(drop=True)
    table = comparison.score_table(values, rows, architecture="a -> b", seed=5, method="layercam")
    summary = compare.summarise(table, options)
    assert summary["overlap_median"] == pytest.approx(np.nanmedian(values["overlap"]))
    parts = ("median", "two_patients_median", "two_seeds_median")
    expected = baselines.corrected(*(summary[f"overlap_{part}"] for part in parts))
    assert summary["overlap_share_of_two_seeds"] == pytest.approx(expected, nan_ok=True)
    overview = result.overview(summary)
    assert overview["metric"].tolist() == list(metric_table.METRICS)
    assert {"chance", "two patients", "two seeds of A", "two seeds of B", "corrected"} < set(overview)

    every = compare.metrics({"gradcampp": summary, "layercam": summary}, {"accuracy_before": 1.0})
    assert every["overlap_median"] == every["layercam/overlap_median"] and "gradcampp/overlap_median" not in every
    manifest = table_of(["a", "b", "c"])
    says = {"A": certain(0, 1, 2), "B": certain(0, 1, 2)}
    both = options.model_copy(update={"method": ["gradcampp", "layercam"]})
    summaries = {"gradcampp": summary, "layercam": summary}
    performances = pair_images.measured(manifest, says, CLASSES)
    real = compare.metrics(summaries, performances, passes={"gradcampp": True, "layercam": False})
    assert set(compare.metric_names(both, manifest)) == set(real)
    assert (real["passes_checks"], real["layercam/passes_checks"]) == (1, 0)
    unchecked = both.model_copy(update={"map_check_images": 0})
    assert set(compare.metric_names(unchecked, manifest)) == set(compare.metrics(summaries, performances))
    plain = compare.metric_names(settings(), table_of([""] * 3))
    assert not [name for name in plain if "two_heads" in name or "two_seeds" in name or "auc" in name]
    json.dumps(plain)


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_where_every_map_is_empty_all_is_missing_and_nothing_breaks(scored):
    from cxr.pair import gates
    from cxr.report import figures

    _, chosen, options, _ = scored
    empty = {name: np.zeros((12, 5, 5), np.float32) for name in ("A", "B")}
    values = compare.score(empty, chosen, CLASSES, options, size=20)
    rows = chosen[chosen["scored"]].reset_index(drop=True)
    table = comparison.score_table(values, rows, architecture="a -> b", seed=5, method="layercam")
    summary = compare.summarise(table, options)
    assert summary["n_empty"] == 11 and np.isnan(summary["overlap_median"])
    assert not gates.judge([gates.parse("overlap_median>=0")], summary)[0]["passed"]
    pixels = np.zeros((12, 20, 20), np.uint8)
    assert result.panels(table, pixels, empty, chosen) == []
    row = pd.DataFrame([{"architecture": "a -> b", "method": "layercam", **summary}])
    figures.pixels(figures.pair(row, ["overlap", "centroid_shift"], []))
    figures.pixels(figures.drift_by_class(table, ["overlap"]))
    assert result.overview(summary)["value_median"].isna().all()


def test_methods_that_are_one_are_told(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu", name="before"),
            layers.Conv2D(4, 3, activation="relu", name="final"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.save(tmp_path / "a.keras")
    for layer, methods, told in (
        ("final", ["layercam", "gradcampp"], True),
        ("final", ["gradcampp", "gradcampp_authors"], True),
        ("final", ["layercam"], False),
        ("before", ["layercam", "gradcampp"], False),
    ):
        both = {name: loaded(name, tmp_path / "a.keras", layer=layer) for name in models.CHECKPOINTS}
        notes = models.check(both, methods)
        assert any("are the same map there" in note for note in notes) is told


@pytest.mark.parametrize("score", ["log_odds", "logit"])
def test_models_with_the_same_predictions_do_not_drift(folder, tmp_path, score):
    twin(keras.models.load_model(folder / "a.keras")).save(tmp_path / "twin.keras")
    settings = DriftParams(
        model_a=str(folder / "a.keras"),
        model_b=str(tmp_path / "twin.keras"),
        method=["layercam", "gradcampp", "gradcampp_authors"],
        target_layer="second",
        score=score,
        n_boot=100,
    )
    networks = models.load_all(settings)
    rng = np.random.default_rng(0)
    pixels = {32: rng.integers(0, 256, (12, 8, 8), np.uint8).repeat(4, 1).repeat(4, 2)}
    a, b = compare.predict(networks, pixels, table_of([""] * 12), CLASSES, settings)[0].values()
    np.testing.assert_allclose(a, b, atol=1e-5)
    explained = np.array(CLASSES)[a.argmax(1)]
    names = [f"i{k}" for k in range(12)]
    chosen = pd.DataFrame({"image_id": names, "patient_id": names, "explained": explained, "scored": True})
    maps = compare.explain(networks, pixels, chosen, CLASSES, settings)
    table = compare.score_methods(maps, networks, chosen, CLASSES, settings)
    assert list(compare.by_method(table)) == settings.method and not table["empty_before"].any()
    if score == "logit":
        medians = table.groupby("method")["overlap"].median()
        assert medians["layercam"] < 0.6 and (medians < 1).all()
    else:
        assert (table["overlap"] == 1).all() and (table["pearson"] > 1 - 1e-6).all()


def saved_alone(path, seed, **options):
    """A model with the names of layers that it has in a process of its own."""
    keras.backend.clear_session()
    cnn(seed, **options).save(path)
    return str(path)


def test_a_model_that_differs_in_weights_alone_lends_them_to_a(tmp_path):
    """What is compiled for A serves it, and probabilities and maps are those of its own network."""
    paths = {name: saved_alone(tmp_path / f"{name}.keras", seed) for seed, name in enumerate(("a", "b", "b2"))}
    options = settings(
        model_a=paths["a"], model_b=paths["b"], like_b=[paths["b2"]], target_layer="second", method=["layercam"]
    )
    networks = models.load_all(options)
    assert {name: model.lends for name, model in networks.items()} == {"A": False, "B": True, "B2": True}
    weights = {name: model.network.get_weights() for name, model in networks.items()}
    pixels = {32: np.random.default_rng(0).integers(0, 255, (8, 32, 32), np.uint8)}
    chosen = table_of(["a", "b"] * 4).assign(explained=["a", "b"] * 4, scored=True)
    own = {name: dataclasses.replace(model, lends=False) for name, model in networks.items()}
    found, expected = (compare.predict(which, pixels, chosen, CLASSES, options)[0] for which in (networks, own))
    assert abs(found["A"] - found["B"]).max() > 0.01
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    found, expected = (
        compare.explain(which, pixels, chosen, CLASSES, options)["layercam"] for which in (networks, own)
    )
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    for name, model in networks.items():
        assert all(map(np.array_equal, model.network.get_weights(), weights[name]))


@pytest.mark.parametrize("explain", ["auto", "predicted", "predicted_a"])
def test_the_passes_that_predict_give_the_maps_too(folder, monkeypatch, explain):
    """Maps of the class that is chosen come with the predictions; those of another class are made."""
    from cxr.attribution import explaining

    options = settings(
        model_a=str(folder / "a.keras"), model_b=str(folder / "b.keras"), like_b=[str(folder / "b2.keras")],
        target_layer="second", method=["gradcampp", "layercam"], explain=explain, images="all",
    )  # fmt: skip
    networks = models.load_all(options)
    pixels = {32: np.random.default_rng(0).integers(0, 256, (9, 4, 4), np.uint8).repeat(8, 1).repeat(8, 2)}
    manifest = table_of(["a", "b", "c"] * 3)
    said, seen = compare.predict(networks, pixels, manifest, CLASSES, options)
    for name in ("A", "B"):
        expected = networks[name].network.predict(pixels[32][..., None].astype(np.float32), verbose=0)
        np.testing.assert_allclose(said[name], expected, atol=1e-6)
    assert list(said) == ["A", "B"] and (said["A"].argmax(1) != said["B"].argmax(1)).any()

    made, own = [], explaining.attribute

    def counted(network, images, classes, **rest):
        made.append(classes.tolist())
        return own(network, images, classes, **rest)

    monkeypatch.setattr(explaining, "attribute", counted)
    chosen = pair_images.select(manifest, said, CLASSES, explain=explain, images="all")
    expected = compare.explain(networks, pixels, chosen, CLASSES, options)
    assert len(made) == 3
    for classes, passes in ((chosen["explained"], 1), (chosen["explained"].where(chosen.index != 4, "c"), 3)):
        made.clear()
        other = chosen.assign(explained=classes)
        found = compare.explain(networks, pixels, other, CLASSES, options, seen=seen)
        assert len(made) == passes and list(found) == ["gradcampp", "layercam"]
        same = other["explained"].to_numpy() == chosen["explained"].to_numpy()
        for method, maps in found.items():
            for name, values in maps.items():
                np.testing.assert_allclose(values[same], expected[method][name][same], rtol=1e-4, atol=1e-6)
    assert made[:2] == [[2], [2]]


def test_no_maps_come_with_predictions_where_they_could_not_be_used(folder):
    options = settings(model_a=str(folder / "a.keras"), model_b=str(folder / "b.keras"), target_layer="second")
    networks = models.load_all(options)
    pixels = {32: np.random.default_rng(0).integers(0, 255, (4, 32, 32), np.uint8)}
    said, _ = compare.predict(networks, pixels, table_of([""] * 4), CLASSES, options)
    for manifest, methods in (
        (table_of([""] * 4), ["layercam", "occlusion"]),
        (table_of(["a + b"] * 4).assign(finding_a=1.0, finding_b=1.0, finding_c=0.0), ["layercam"]),
    ):
        other = options.model_copy(update={"method": methods})
        found, seen = compare.predict(networks, pixels, manifest, CLASSES, other)
        assert seen == {}
        np.testing.assert_allclose(found["B"], said["B"], atol=1e-6)


def test_models_that_differ_in_more_than_weights_keep_to_themselves(tmp_path):
    def normalising(path, mean):
        keras.backend.clear_session()
        model = cnn(0)
        layer = layers.Normalization(axis=None, mean=mean, variance=1.0)
        keras.Sequential([keras.Input((32, 32, 1)), layer, *model.layers]).save(path)
        return str(path)

    a = saved_alone(tmp_path / "a.keras", 0)
    for first, second in (
        (a, saved_alone(tmp_path / "wide.keras", 0, filters=5)),
        (a, saved_alone(tmp_path / "small.keras", 0, side=24)),
        (normalising(tmp_path / "n.keras", 0.0), normalising(tmp_path / "m.keras", 0.5)),
    ):
        networks = models.load_all(settings(model_a=first, model_b=second, target_layer="second"))
        assert not networks["B"].lends
        with models.ready(networks, "B") as network:
            assert network is networks["B"].network


@pytest.mark.parametrize("labelled", [True, False])
def test_maps_are_checked_on_some_of_the_scored_images_and_models_stay_as_they_are(folder, labelled):
    from cxr.attribution import explaining, map_checks, passing

    options = settings(
        model_a=str(folder / "a.keras"), model_b=str(folder / "b.keras"), method=["layercam", "gradcampp"],
        target_layer="second", map_check_images=4, n_boot=100,
    )  # fmt: skip
    networks = models.load_all(options)
    weights = {name: model.network.get_weights() for name, model in networks.items()}
    pixels = {32: np.random.default_rng(0).integers(0, 255, (8, 32, 32), np.uint8)}
    ids = [f"i{k}" for k in range(8)]
    scored = [k not in (0, 5) for k in range(8)]
    chosen = pd.DataFrame({"image_id": ids, "patient_id": ids, "explained": ["a", "b"] * 4, "scored": scored})
    chosen = chosen.assign(label=chosen["explained"]) if labelled else chosen
    maps = compare.explain(networks, pixels, chosen, CLASSES, options)
    found = checking.check(networks, pixels, maps, chosen, CLASSES, options)
    cells = found[["model", "checkpoint", "method"]].values.tolist()
    assert cells == [[m, c, k] for m, c in models.CHECKPOINTS.items() for k in ("layercam", "gradcampp")]
    assert (found["n_images"] + found["n_empty"] == 4).all()
    for name, model in networks.items():
        assert all(map(np.array_equal, model.network.get_weights(), weights[name]))

    rows = attribution_maps.per_class(chosen.assign(label=chosen["explained"]), 4)
    assert all(scored[row] for row in rows)
    b = networks["B"]

    def explain(images, classes, methods):
        where = {"layer": "second", "score": "log_odds", "batch_size": 32}
        return explaining.attribute(b.network, images, classes, methods=methods, **where)

    index = np.array([CLASSES.index(name) for name in chosen["explained"][rows]])
    own = explain(pixels[32][rows], index, ["gradcampp"])
    gains = map_checks.gains(b.network, explain, pixels[32][rows], index, own)
    own = passing.verdict(gains.assign(checkpoint="after"), rows, n_boot=100).iloc[0]
    for name in ("deletion_gain", "class_gain", "weights_gain"):
        assert found.iloc[3][name] == pytest.approx(own[name], abs=1e-4)

    none = checking.check(
        networks, pixels, maps, chosen, CLASSES, options.model_copy(update={"map_check_images": 0})
    )
    assert none.empty and checking.by_method(none, ["layercam"]) == {"layercam": "not checked"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "preprocessing", "layer"),
    [("MobileNetV2", "tf", "block_13_expand_relu"), ("EfficientNetB0", "none", "block6a_expand_activation")],
)
def test_a_nested_application_as_tutorials_have_it(application, preprocessing, layer, tmp_path):
    from cxr.attribution import explaining

    keras.utils.set_random_seed(0)
    backbone = getattr(keras.applications, application)(include_top=False, weights=None, input_shape=(96, 96, 3))
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(3, activation="softmax")]
    keras.Sequential([backbone, *head]).save(tmp_path / "a.keras")
    a = loaded("A", tmp_path / "a.keras", layer="penultimate")
    assert (a.network.adapted.preprocessing, a.layer, a.grid, a.size) == (preprocessing, layer, "6x6", 96)
    images = np.random.default_rng(0).integers(0, 255, (2, 96, 96), np.uint8)
    found = explaining.attribute(a.network, images, np.array([0, 1]), layer=a.layer, methods=["layercam"])
    assert found["layercam"].shape == (2, 6, 6) and np.isfinite(found["layercam"]).all()
    assert [note[:27] for note in models.check({"A": a, "B": a})] == ["A and B have the same weigh"]


# ------------------------------------------------------------------------------------- sets from elsewhere


def elsewhere(labels, **more):
    n = len(labels)
    own = {
        "image_id": [f"i{k}" for k in range(n)],
        "patient_id": [f"p{k}" for k in range(n)],
        "label": labels,
        "split": "",
    }
    return pd.DataFrame({**own, **more})


def test_images_of_other_classes_are_left_out_and_missing_classes_said():
    manifest = elsewhere(["ill", "mass", "ill", "scar", "mass"])
    kept, notes = pair_images.of_classes(manifest, ["ill", "well"])
    assert kept["image_id"].tolist() == ["i0", "i2"]
    assert "3 images of other classes than the models' are left out: mass 2, scar 1" in notes[0]
    assert "there is no image of well, so there is no AUC" in notes[1]
    with pytest.raises(
        InputError, match=r"no image is of a class that the models know \(well\), found ill, mass, scar"
    ):
        pair_images.of_classes(manifest, ["well"])


def test_findings_that_the_models_do_not_know_are_left_out():
    manifest = elsewhere(["a", "a + c", "no finding"], finding_a=["1", "1", "0"], finding_c=["0", "1", "0"])
    kept, notes = pair_images.of_classes(manifest, ["a"])
    assert list(kept) == ["image_id", "patient_id", "label", "split", "finding_a"]
    assert "do not know nothing is measured: c" in notes[0]
    with pytest.raises(InputError, match="nothing is said of b, which the models tell apart: name the column"):
        pair_images.of_classes(manifest, ["a", "b"])


def test_findings_that_all_images_have_have_no_auc_and_are_called_from_one_half():
    manifest = elsewhere(["a", "a + b", "a"], finding_a=["1", "1", "1"], finding_b=["0", "1", "0"])
    p = {"A": np.array([[0.4, 0.1], [0.6, 0.8], [0.7, 0.3]]), "B": np.array([[0.6, 0.2], [0.7, 0.9], [0.8, 0.1]])}
    found = pair_images.measured(manifest, p, ["a", "b"])
    assert found["auc_b_before"] == 1 and "auc_a_before" not in found
    chosen = pair_images.select(manifest, p, ["a", "b"], explain="auto", images="auto")
    assert chosen["image_id"].tolist() == ["i0: a", "i1: a", "i1: b", "i2: a"]
    assert chosen["both_correct"].tolist() == [False, True, True, True]
    assert "all images have a, or none has: there is no AUC" in " ".join(
        pair_images.doubts(manifest, p, ["a", "b"])
    )
    pixels = pair_images.in_order({2: np.arange(12).reshape(3, 2, 2)}, manifest, chosen)
    assert pixels[2][:][:, 0, 0].tolist() == [0, 4, 4, 8]
    with pytest.raises(InputError, match="explain: predicted needs one predicted class an image"):
        pair_images.select(manifest, p, ["a", "b"], explain="predicted", images="all")
