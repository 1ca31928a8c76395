import dataclasses
import hashlib
import json
import sys
from importlib import resources

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from cxr.core import architectures
from cxr.core.errors import InputError
from cxr.models import build, description, graph, targets
from cxr.models import weights as models_weights
from cxr.models.preprocessing import family_of

PAPER, COMPACT = architectures.KNOWN[:3], architectures.KNOWN[3:]
EITHER = [*COMPACT, *(pytest.param(name, marks=pytest.mark.slow) for name in PAPER)]
# grids at the size for which the paper's three are meant, and at that of the embedded study
GRIDS = {
    "DenseNet201": (224, "pool3_relu", (28, 28), "pool4_relu", (14, 14), "relu", (7, 7)),
    "ResNet50V2": (
        224,
        "conv3_block4_preact_relu",
        (28, 28),
        "conv4_block6_preact_relu",
        (14, 14),
        "post_relu",
        (7, 7),
    ),
    "InceptionV3": (224, "mixed2", (25, 25), "mixed7", (12, 12), "mixed10", (5, 5)),
    "CompactDenseNet": (128, "pool3_relu", (16, 16), "pool4_relu", (8, 8), "relu", (4, 4)),
    "CompactResNetV2": (
        128,
        "conv3_block3_preact_relu",
        (16, 16),
        "conv4_block4_preact_relu",
        (8, 8),
        "post_relu",
        (4, 4),
    ),
    "CompactInception": (128, "mixed2", (16, 16), "mixed7", (8, 8), "mixed10", (4, 4)),
}


@pytest.mark.parametrize("name", EITHER)
def test_flat_graph_with_its_target_layers(name):
    size, shallower, shallower_grid, penultimate, grid, final, final_grid = GRIDS[name]
    model = build.build(name, n_classes=3, image_size=size)
    assert model.name == name and model.output_shape == (None, 3)
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)], "nested models hide layers"
    assert targets.target_layer(model, "shallower") == shallower
    assert targets.target_layer(model, "penultimate") == penultimate
    assert targets.target_layer(model, "final") == final
    assert model.get_layer(shallower).output.shape[1:3] == shallower_grid
    assert model.get_layer(penultimate).output.shape[1:3] == grid
    assert model.get_layer(final).output.shape[1:3] == final_grid
    assert graph.feeds_pooling(model, final) and not graph.feeds_pooling(model, penultimate)
    assert isinstance(model.get_layer(targets.target_layer(model, "last_conv")), layers.Conv2D)
    rectified = keras.Model(model.input, [model.get_layer(layer).output for layer in (shallower, penultimate)])
    grey = np.random.default_rng(0).uniform(0, 255, (1, size, size, 1)).astype(np.float32)
    for activations in rectified(grey):
        assert np.min(activations) >= 0 and np.max(activations) > 0
    # the logits can be computed from a cut alone
    cut = targets.target_layer(model, "penultimate_cut")
    assert model.get_layer(cut).output.shape[1:3] == grid
    keras.Model(model.get_layer(cut).output, model.get_layer("logits").output)


@pytest.mark.parametrize("name", PAPER)
def test_preprocessing_is_that_of_keras_applications(name):
    """`test_graph.py` compares each mode with Keras' own function."""
    assert build.ARCHITECTURES[name].preprocessing == family_of(name)[1]


@pytest.mark.parametrize("name", COMPACT)
def test_compact_kin_have_about_a_million_parameters(name):
    assert 0.5e6 < build.build(name, n_classes=5, image_size=128).count_params() < 1.5e6


def test_layer_names_do_not_depend_on_what_was_built_before():
    first = [layer.name for layer in build.build("InceptionV3", n_classes=2, image_size=96).layers]
    again = [layer.name for layer in build.build("InceptionV3", n_classes=2, image_size=96).layers]
    assert first == again


@pytest.mark.parametrize("name", COMPACT)
def test_shipped_weights_load_and_match_their_record(name):
    path = models_weights.find_weights(name, "source")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == models_weights.sha256_file(path)
    keras.utils.set_random_seed(0)
    model = build.build(name, n_classes=2, image_size=64)
    before, head = models_weights.sha256_weights(model), model.get_layer("logits").get_weights()
    source = models_weights.load_backbone(model, "source")
    assert source == {"weights": "source", "weights_file": path.name, "weights_sha256": record["sha256"]}
    assert models_weights.sha256_weights(model) != before
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], head[0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_shipped_weights_are_small():
    files = list((resources.files("cxr.models") / "pretrained").iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6


def test_save_source_round_trip_in_half_precision(tmp_path):
    keras.utils.set_random_seed(3)
    model = build.build("CompactInception", n_classes=2, image_size=64)
    path = models_weights.save_source(model, tmp_path, provenance={"made_by": "test"})
    assert json.loads(path.with_suffix(".json").read_text())["made_by"] == "test"
    other = build.build("CompactInception", n_classes=5, image_size=96)
    models_weights.load_backbone(other, str(tmp_path))
    for ours, theirs in zip(build.backbone(model).weights, build.backbone(other).weights, strict=True):
        np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours, np.float16).astype(np.float32))


def legacy_h5(network, path):
    """Write the format of Keras' own `*_notop.h5` files: a group a layer, in topological order."""
    with h5py.File(path, "w") as file:
        kept = [layer for layer in network.layers if not isinstance(layer, layers.InputLayer)]
        file.attrs["layer_names"] = [layer.name.encode() for layer in kept]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.0.0"
        for layer in kept:
            group = file.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{layer.name}/{weight.name}:0" for weight in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                group.create_dataset(name, data=np.asarray(weight))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50V2"])
def test_imagenet_files_in_keras_own_format(name, tmp_path, monkeypatch):
    keras.utils.set_random_seed(1)
    size = 96
    original = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    weights = architectures.APPLICATIONS[name]
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / weights.file
    legacy_h5(original, path)
    rgb = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    keras.utils.set_random_seed(2)
    model = build.build(name, n_classes=2, image_size=size)
    inner = keras.Model(model.get_layer("preprocessing").output, build.backbone(model).output)
    assert np.abs(inner(rgb) - original(rgb)).max() > 1e-6

    # as `weights: imagenet`: found in Keras' cache, its MD5 checked, nothing downloaded
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    right = dataclasses.replace(weights, hash=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(architectures.APPLICATIONS, name, right)
    loaded = models_weights.load_backbone(model, "imagenet")
    assert loaded["weights_file"] == weights.file
    np.testing.assert_allclose(inner(rgb), original(rgb), rtol=1e-4, atol=1e-6)

    # and as a folder of the user's
    assert models_weights.find_weights(name, str(tmp_path / "models")) == path


@pytest.mark.parametrize("name", ["ResNet50V2", "NASNetMobile", "MobileNetV2"])
def test_imagenet_without_a_network_says_what_to_fetch_and_where_to_put_it(name, tmp_path, monkeypatch):
    weights = dataclasses.replace(architectures.APPLICATIONS[name], url="http://127.0.0.1:9/x.h5")
    monkeypatch.setitem(architectures.APPLICATIONS, name, weights)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        models_weights.find_weights(name, "imagenet")
    for part in (weights.file, weights.url, weights.hash, str(tmp_path / "models"), "weights: FOLDER"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cached_file_with_the_wrong_hash_is_not_used(tmp_path, monkeypatch):
    weights = dataclasses.replace(architectures.APPLICATIONS["ResNet50V2"], url="http://127.0.0.1:9")
    monkeypatch.setitem(architectures.APPLICATIONS, "ResNet50V2", weights)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / weights.file).write_bytes(b"half a download")
    with pytest.raises(InputError, match="cannot be downloaded here"):
        models_weights.find_weights("ResNet50V2", "imagenet")


def test_weights_of_another_architecture_are_refused(tmp_path):
    model = build.build("CompactInception", n_classes=2, image_size=64)
    other = models_weights.find_weights("CompactResNetV2", "source")
    with pytest.raises(InputError, match="does not fit the backbone of CompactInception"):
        models_weights.load_backbone(model, str(other))
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="does not fit the backbone"):
        models_weights.load_backbone(model, str(tmp_path / "broken.npz"))


def test_keras_checkpoint_as_weights(tmp_path):
    keras.utils.set_random_seed(5)
    model = build.build("CompactResNetV2", n_classes=2, image_size=64)
    model.save(tmp_path / "a.keras")
    other = build.build("CompactResNetV2", n_classes=4, image_size=96)
    models_weights.load_backbone(other, str(tmp_path / "a.keras"))
    ours, theirs = (build.backbone(m).get_weights() for m in (model, other))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagnet", "'imagnet' is none of imagenet, source and none"),
        ("imagenet", "no ImageNet weights for CompactDenseNet: use weights: source"),
        ("FOLDER", "holds none of CompactDenseNet.npz, CompactDenseNet.keras"),
        ("FOLDER/a.txt", "is not a .h5, .keras or .npz file"),
    ],
)
def test_weights_that_cannot_be_had(weights, message, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=message):
        models_weights.find_weights("CompactDenseNet", weights.replace("FOLDER", str(tmp_path)))


def test_source_weights_of_a_large_network_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="0_pretrain.ipynb .-p architecture DenseNet201"):
        models_weights.find_weights("DenseNet201", "source")


def test_bad_models():
    with pytest.raises(InputError, match="unknown 'VGG61': did you mean VGG19 or VGG16"):
        build.build("VGG61", n_classes=2, image_size=96)
    with pytest.raises(InputError, match="image_size 64 does not fit InceptionV3"):
        build.build("InceptionV3", n_classes=2, image_size=64)
    options = {"weights": "none", "n_classes": 2}
    with pytest.raises(InputError, match="'mixed10' of InceptionV3 is 1x1 at image_size 96"):
        description.check("InceptionV3", target="final", image_size=96, **options)
    with pytest.raises(InputError, match="has no layer 'mixed11'.*such as mixed10"):
        description.check("CompactInception", target="mixed11", image_size=96, **options)
    with pytest.raises(InputError, match="none.h5"):
        description.check("CompactInception", weights="none.h5", target="final", image_size=96, n_classes=2)


# ------------------------------------------------------------------------------------- networks of the user's


USERS = """
import keras
from keras import layers

from cxr.models import foreign


@keras.saving.register_keras_serializable("theirs")
class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


def body(image_size):
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    return keras.Model(inputs, Gain(name="gain")(x), name="body")


def classifier(n_classes, image_size):
    hidden = [layers.Flatten(), layers.Dense(5, activation="relu"), layers.Dropout(0.2)]
    first = [keras.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255)]
    return keras.Sequential([*first, body(image_size), *hidden, layers.Dense(n_classes, activation="softmax")])


def backbone(n_classes, image_size):
    return foreign.adapt(body(image_size), preprocessing="tf", classes=n_classes)


def silent(n_classes, image_size):
    return body(image_size)


def number(n_classes, image_size):
    return 3


def other_classes(n_classes, image_size):
    return foreign.adapt(body(image_size), preprocessing="tf", classes=n_classes + 1)


def multi_label(n_classes, image_size):
    top = [layers.GlobalAveragePooling2D(), layers.Dense(n_classes, activation="sigmoid")]
    first = [keras.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255)]
    return keras.Sequential([*first, body(image_size), *top])


def backbone_alone(n_classes, image_size):
    first = [keras.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255)]
    return keras.Sequential([*first, body(image_size)])


def broken(n_classes, image_size):
    raise KeyError("no weights")


not_a_function = 1
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A module of the user's in the working folder: its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)
    file = tmp_path / "their_nets.py"
    file.write_text(USERS)
    return file


def test_a_function_of_the_users_is_an_architecture(users, tmp_path):
    keras.utils.set_random_seed(1)
    model = build.build("their_nets:classifier", n_classes=3, image_size=32, dropout=0.5)
    assert model.name == "their_nets.classifier" and model.output_shape == (None, 3)
    found = targets.target_layers(model)
    assert list(found) == ["penultimate", "penultimate_cut", "last_conv", "final"]
    assert list(found.values()) == ["conv1", "conv1", "conv2", "gain"]
    assert [layer.name for layer in build.head_layers(model)] == ["dense", "dropout", "logits"]
    assert build.to_features(model).output_shape == (None, 8 * 8 * 6)
    assert not graph.feeds_pooling(model, "gain")
    before = models_weights.sha256_weights(model)
    for weights in ("imagenet", "source", "none", str(tmp_path)):  # which are for architectures with a name
        assert models_weights.load_backbone(model, weights)["weights"] == "own"
    assert models_weights.sha256_weights(model) == before
    model.save(tmp_path / "x.keras")
    assert (
        models_weights.sha256_weights(models_weights.load(tmp_path / "x.keras", "their_nets:classifier")) == before
    )
    other = build.build("their_nets:classifier", n_classes=3, image_size=32)
    models_weights.load_backbone(other, str(tmp_path / "x.keras"))
    ours, theirs = (build.backbone(m).get_weights() for m in (model, other))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    lines = description.describe(model).lines()
    assert "none: the model does that itself" in lines and "conv1, 16x16" in lines and "Dense(3, softmax)" in lines


def test_a_backbone_of_the_users_gets_a_head(users):
    model = build.build("their_nets:backbone", n_classes=2, image_size=32)
    assert model.adapted.preprocessing == "tf" and graph.feeds_pooling(model, "gain")
    names = [layer.name for layer in build.head_layers(model)]
    assert names == ["dropout", "logits"] and model.get_layer("pool")
    tags = description.describe(model).tags()
    assert tags["preprocessing"] == "tf" and tags["layer_penultimate"] == "conv1 16x16"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:net", "there is no module 'nowhere'.*PYTHONPATH"),
        ("their_nets:nothing", "their_nets.py has no function 'nothing'"),
        ("their_nets:not_a_function", "has no function 'not_a_function'"),
        ("their_nets:silent", "does not show what it expects.*by returning cxr.models.foreign.adapt"),
        ("their_nets:number", "returned a int, not a keras.Model"),
        ("their_nets:other_classes", "returned a model from .* and was asked for"),
        ("their_nets:multi_label", "has Dense.*end it with a softmax, as classes exclude each other"),
        ("their_nets:broken", "their_nets:broken failed: KeyError: 'no weights' .*their_nets.py, line "),
    ],
)
def test_functions_that_are_none(name, message, users):
    with pytest.raises(InputError, match=message) as error:
        build.build(name, n_classes=2, image_size=32)
    assert "\n" not in str(error.value)


def test_networks_for_several_findings_end_with_sigmoids(users):
    for name in ("CompactResNetV2", "their_nets:multi_label", "their_nets:backbone_alone"):
        model = build.build(name, n_classes=3, image_size=32, multi_label=True)
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.float32)
        logits = keras.Model(model.input, model.get_layer("logits").output)(images)
        np.testing.assert_allclose(model(images), 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert model.output_shape == (None, 3)
    with pytest.raises(InputError, match="end it with sigmoids, as findings do not exclude each other"):
        build.build("their_nets:classifier", n_classes=3, image_size=32, multi_label=True)


def test_code_of_the_users_is_part_of_the_fingerprint(users):
    from cxr import tracking
    from cxr.core.params import TrainParams

    settings = TrainParams(architecture="their_nets:classifier")
    first = tracking.fingerprint("train", settings, {})
    assert tracking.fingerprint("train", settings, {}) == first
    users.write_text(users.read_text() + "\n# changed\n")
    assert tracking.fingerprint("train", settings, {}) != first
    users.unlink()
    with pytest.raises(InputError, match="there is no module 'their_nets'"):
        tracking.fingerprint("train", settings, {})


@pytest.mark.slow
def test_weights_of_an_application_reach_the_flat_network(tmp_path):
    """ConvNeXt, whose own layers are nested."""
    keras.utils.set_random_seed(1)
    name = "ConvNeXtTiny"
    original = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3))
    original.save_weights(tmp_path / "x.weights.h5")
    keras.utils.set_random_seed(2)
    model = build.build(name, n_classes=2, image_size=64)
    models_weights.load_backbone(model, str(tmp_path / "x.weights.h5"))
    grey = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype(np.float32)
    want = original(grey.repeat(3, -1))
    np.testing.assert_allclose(build.backbone(model)(grey), want, atol=1e-4)
    with pytest.raises(InputError, match="image_size 16 does not fit"):
        build.build("VGG16", n_classes=2, image_size=16)
