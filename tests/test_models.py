import dataclasses
import hashlib
import json

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from cxr import architectures, models
from cxr.errors import InputError
from cxr.params import ARCHITECTURES

PAPER, COMPACT = ARCHITECTURES[:3], ARCHITECTURES[3:]
EITHER = [*COMPACT, *(pytest.param(name, marks=pytest.mark.slow) for name in PAPER)]
KERAS_PREPROCESSING = {
    "DenseNet201": keras.applications.densenet.preprocess_input,
    "ResNet50V2": keras.applications.resnet_v2.preprocess_input,
    "InceptionV3": keras.applications.inception_v3.preprocess_input,
}
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
    model = models.build(name, n_classes=3, image_size=size)
    assert model.name == name and model.output_shape == (None, 3)
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)], "nested models hide layers"
    assert models.target_layer(model, "shallower") == shallower
    assert models.target_layer(model, "penultimate") == penultimate
    assert models.target_layer(model, "final") == final
    assert model.get_layer(shallower).output.shape[1:3] == shallower_grid
    assert model.get_layer(penultimate).output.shape[1:3] == grid
    assert model.get_layer(final).output.shape[1:3] == final_grid
    assert models.feeds_pooling(model, final) and not models.feeds_pooling(model, penultimate)
    assert isinstance(model.get_layer(models.target_layer(model, "last_conv")), layers.Conv2D)
    rectified = keras.Model(model.input, [model.get_layer(layer).output for layer in (shallower, penultimate)])
    grey = np.random.default_rng(0).uniform(0, 255, (1, size, size, 1)).astype(np.float32)
    for activations in rectified(grey):
        assert np.min(activations) >= 0 and np.max(activations) > 0
    # the logits can be computed from a cut alone
    cut = models.target_layer(model, "penultimate_cut")
    assert model.get_layer(cut).output.shape[1:3] == grid
    keras.Model(model.get_layer(cut).output, model.get_layer("logits").output)


@pytest.mark.parametrize("name", PAPER)
def test_preprocessing_is_that_of_keras_applications(name, monkeypatch):
    seen = {}

    def features(x):
        seen["x"] = x
        return layers.Conv2D(2, 1)(x)

    spec = dataclasses.replace(models.ARCHITECTURES[name], features=features)
    monkeypatch.setitem(models.ARCHITECTURES, name, spec)
    model = models.build(name, n_classes=2, image_size=32)
    grey = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    ours = keras.Model(model.input, seen["x"]).predict(grey, verbose=0)
    np.testing.assert_allclose(ours, KERAS_PREPROCESSING[name](grey.repeat(3, -1)), atol=1e-5)


@pytest.mark.parametrize("name", COMPACT)
def test_compact_kin_have_about_a_million_parameters(name):
    assert 0.5e6 < models.build(name, n_classes=5, image_size=128).count_params() < 1.5e6


def test_layer_names_do_not_depend_on_what_was_built_before():
    first = [layer.name for layer in models.build("InceptionV3", n_classes=2, image_size=96).layers]
    again = [layer.name for layer in models.build("InceptionV3", n_classes=2, image_size=96).layers]
    assert first == again


@pytest.mark.parametrize("name", COMPACT)
def test_shipped_weights_load_and_match_their_record(name):
    path = models.find_weights(name, "source")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == models.sha256_file(path)
    keras.utils.set_random_seed(0)
    model = models.build(name, n_classes=2, image_size=64)
    before, head = models.sha256_weights(model), model.get_layer("logits").get_weights()
    source = models.load_backbone(model, "source")
    assert source == {"weights": "source", "weights_file": path.name, "weights_sha256": record["sha256"]}
    assert models.sha256_weights(model) != before
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], head[0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_shipped_weights_are_small():
    files = list((models.resources.files("cxr") / "weights").iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6


def test_save_source_round_trip_in_half_precision(tmp_path):
    keras.utils.set_random_seed(3)
    model = models.build("CompactInception", n_classes=2, image_size=64)
    path = models.save_source(model, tmp_path, provenance={"made_by": "test"})
    assert json.loads(path.with_suffix(".json").read_text())["made_by"] == "test"
    other = models.build("CompactInception", n_classes=5, image_size=96)
    models.load_backbone(other, str(tmp_path))
    for ours, theirs in zip(models.backbone(model).weights, models.backbone(other).weights, strict=True):
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
@pytest.mark.parametrize("name", PAPER)
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
    model = models.build(name, n_classes=2, image_size=size)
    inner = keras.Model(model.get_layer("preprocessing").output, models.backbone(model).output)
    assert np.abs(inner.predict(rgb, verbose=0) - original.predict(rgb, verbose=0)).max() > 1e-6

    # as `weights: imagenet`: found in Keras' cache, its MD5 checked, nothing downloaded
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    right = dataclasses.replace(weights, hash=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(architectures.APPLICATIONS, name, right)
    loaded = models.load_backbone(model, "imagenet")
    assert loaded["weights_file"] == weights.file
    np.testing.assert_allclose(
        inner.predict(rgb, verbose=0), original.predict(rgb, verbose=0), rtol=1e-4, atol=1e-6
    )

    # and as a folder of the user's
    assert models.find_weights(name, str(tmp_path / "models")) == path


@pytest.mark.parametrize("name", ["ResNet50V2", "NASNetMobile", "MobileNetV2"])
def test_imagenet_without_a_network_says_what_to_fetch_and_where_to_put_it(name, tmp_path, monkeypatch):
    weights = dataclasses.replace(architectures.APPLICATIONS[name], url="http://127.0.0.1:9/x.h5")
    monkeypatch.setitem(architectures.APPLICATIONS, name, weights)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        models.find_weights(name, "imagenet")
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
        models.find_weights("ResNet50V2", "imagenet")


def test_weights_of_another_architecture_are_refused(tmp_path):
    model = models.build("CompactInception", n_classes=2, image_size=64)
    other = models.find_weights("CompactResNetV2", "source")
    with pytest.raises(InputError, match="does not fit the backbone of CompactInception"):
        models.load_backbone(model, str(other))
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="does not fit the backbone"):
        models.load_backbone(model, str(tmp_path / "broken.npz"))


def test_keras_checkpoint_as_weights(tmp_path):
    keras.utils.set_random_seed(5)
    model = models.build("CompactResNetV2", n_classes=2, image_size=64)
    model.save(tmp_path / "a.keras")
    other = models.build("CompactResNetV2", n_classes=4, image_size=96)
    models.load_backbone(other, str(tmp_path / "a.keras"))
    ours, theirs = (models.backbone(m).get_weights() for m in (model, other))
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
        models.find_weights("CompactDenseNet", weights.replace("FOLDER", str(tmp_path)))


def test_source_weights_of_a_large_network_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="0_pretrain.ipynb .-p architecture DenseNet201"):
        models.find_weights("DenseNet201", "source")


def test_bad_models():
    with pytest.raises(InputError, match="unknown 'VGG61': did you mean VGG19 or VGG16"):
        models.build("VGG61", n_classes=2, image_size=96)
    with pytest.raises(InputError, match="image_size 64 does not fit InceptionV3"):
        models.build("InceptionV3", n_classes=2, image_size=64)
    options = {"weights": "none", "n_classes": 2}
    with pytest.raises(InputError, match="'mixed10' of InceptionV3 is 1x1 at image_size 96"):
        models.check("InceptionV3", target="final", image_size=96, **options)
    with pytest.raises(InputError, match="has no layer 'mixed11'.*such as mixed10"):
        models.check("CompactInception", target="mixed11", image_size=96, **options)
