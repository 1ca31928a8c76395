"""Features are computed once for what they depend on, and are the same ones when they come from the cache."""

import warnings

import keras
import numpy as np
import pytest

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import cache as data_cache
from cxr.models import build, weights
from cxr.training import features, stages

SETTINGS = TrainParams(architecture="CompactResNetV2", image_size=48, batch_size=8, weights="none")


def images(seed=0, n=20, side=48):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), np.uint8)


@pytest.fixture(scope="module")
def whole():
    stages.seed_everything(0)
    return build.build(SETTINGS.architecture, n_classes=3, image_size=48)


@pytest.fixture(scope="module")
def model(whole):
    return build.to_features(whole)


@pytest.fixture
def passes(monkeypatch):
    """What was given to the backbone: one number of images a call."""
    calls = []
    real = features.predicted

    def counted(network, images, *args, **options):
        calls.append(len(images))
        return real(network, images, *args, **options)

    monkeypatch.setattr(features, "predicted", counted)
    return calls


def test_what_is_cached_is_what_was_computed(model, passes, tmp_path):
    plain = features.pooled(model, images(), SETTINGS)
    first = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    second = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    assert (
        passes == [20, 20]
        and first.dtype == np.float32
        and first.shape == (20, model.get_layer("pool").output.shape[1])
    )
    np.testing.assert_array_equal(plain, first)
    np.testing.assert_array_equal(plain, second)


def test_batches_of_any_size_are_one_trace_that_reads_the_weights_of_now():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(Counting()(inputs)))
    rows, built = np.random.default_rng(0).random((20, 8), np.float32), len(traces)
    for _ in range(2):
        found = np.concatenate(list(features.predicted(model, rows, 8)))  # 8, 8 and 4 rows
        kernel, bias = model.get_weights()
        np.testing.assert_allclose(found, rows @ kernel + bias, atol=1e-6)
        model.set_weights([kernel + 1, bias])
    assert len(traces) == built + 1


def test_each_thing_that_they_depend_on_makes_another_entry(whole, model, passes, tmp_path):
    def count():
        before = len(passes)
        return lambda: len(passes) - before

    features.pooled(model, images(), SETTINGS, cache=tmp_path)
    new = count()
    for change in (
        {"seed": 1},
        {"transfer_learning_rate": 0.5},
        {"extra_heads": 9},
        {"split_seed": 3},
        {"dropout": 0.1},
    ):
        features.pooled(model, images(), SETTINGS.model_copy(update=change), cache=tmp_path)
    assert new() == 0
    features.pooled(model, images()[::-1], SETTINGS, cache=tmp_path)
    one = images()
    one[-1, -1, -1] ^= 1
    features.pooled(model, one, SETTINGS, cache=tmp_path)
    features.pooled(model, images(), SETTINGS.model_copy(update={"batch_size": 7}), cache=tmp_path)
    with build.computing(whole, "mixed_bfloat16"):
        features.pooled(build.to_features(whole), images(), SETTINGS, cache=tmp_path)
    stages.seed_everything(1)
    other = build.build(SETTINGS.architecture, n_classes=3, image_size=48)
    features.pooled(build.to_features(other), images(), SETTINGS, cache=tmp_path)
    small = build.build(SETTINGS.architecture, n_classes=3, image_size=40)
    features.pooled(build.to_features(small), images(side=40), SETTINGS, cache=tmp_path)
    assert new() == 6 and len(list(tmp_path.glob("features-*.npy"))) == 7
    head = build.build(SETTINGS.architecture, n_classes=4, image_size=48)
    for layer in build.backbone(whole).layers:
        head.get_layer(layer.name).set_weights(layer.get_weights())
    features.pooled(build.to_features(head), images(), SETTINGS, cache=tmp_path)  # another head, the same backbone
    assert new() == 6


@pytest.mark.parametrize("damage", ["a bit", "short", "empty", "text"])
def test_a_damaged_entry_is_made_anew_with_a_warning(model, passes, tmp_path, damage):
    expected = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    (path,) = tmp_path.glob("features-*.npy")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"a bit": content, "short": content[:-5], "empty": b"", "text": b"no"}[damage])
    with pytest.warns(UserWarning, match="cached features are damaged .* and are made again"):
        found = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert len(passes) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features.pooled(model, images(), SETTINGS, cache=tmp_path)
    assert len(passes) == 2


def test_large_features_stay_in_their_file(model, tmp_path, monkeypatch):
    expected = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    monkeypatch.setattr(features, "_IN_MEMORY", 100)
    found = features.pooled(model, images(), SETTINGS, cache=tmp_path)
    assert isinstance(found, np.memmap) and found.shape == expected.shape
    np.testing.assert_array_equal(found[:], expected)


def test_the_cache_keeps_to_its_limit_and_training_does_without(model, passes, tmp_path, monkeypatch, capsys):
    features.pooled(model, images(), SETTINGS, cache=tmp_path)
    (first,) = tmp_path.glob("features-*.npy")
    monkeypatch.setenv("CXR_CACHE_GIB", str(1.5 * first.stat().st_size / 2**30))
    features.pooled(model, images(1), SETTINGS, cache=tmp_path)
    assert len(list(tmp_path.glob("features-*.npy"))) == 1 and not first.exists()
    (tmp_path / "file").write_text("")
    found = features.pooled(model, images(), SETTINGS, cache=tmp_path / "file")  # no folder can be there
    assert found.shape[0] == 20 and "features: cannot be kept in" in "".join(capsys.readouterr())
    monkeypatch.setenv("CXR_CACHE_GIB", "much")
    with pytest.raises(InputError, match="CXR_CACHE_GIB: expected the GiB"):
        data_cache._make_room(tmp_path / "features-x.npy", 1)


def test_a_second_seed_makes_no_forward_pass(passes, tmp_path):
    train, val = (images(0), np.arange(20) % 3), (images(1, 10), np.arange(10) % 3)
    results = []
    for seed, cache in ((0, None), (0, tmp_path), (1, tmp_path)):
        settings = SETTINGS.model_copy(
            update={"seed": seed, "weights": "source", "transfer_epochs": 2, "extra_heads": 1}
        )
        stages.seed_everything(seed)
        trained = build.build(settings.architecture, n_classes=3, image_size=48)
        weights.load_backbone(trained, "source")
        stages.transfer(trained, train, val, settings, cache=cache)
        results.append(weights.sha256_weights(trained))
    assert passes == [20, 10, 20, 10]
    assert results[0] == results[1] != results[2]


def test_features_do_not_depend_on_the_batch_that_an_image_is_in(model):
    """A head on cached features sees what it would in `fit`, which shuffles, up to rounding."""
    expected = features.pooled(model, images(), SETTINGS)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(features.pooled(model, images()[order], SETTINGS), expected[order], atol=1e-6)
