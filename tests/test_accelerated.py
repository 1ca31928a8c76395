"""Mixed precision, XLA and several devices, on the CPU and virtual devices: what a test can do without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_stages import BASE, images_and_labels, make

from cxr.attribution import explaining
from cxr.core.errors import InputError
from cxr.core.params import StudyParams, TrainParams
from cxr.models import build, targets, weights
from cxr.training import optimisation, stages

SETTINGS = {**BASE, "weights": "source", "transfer_epochs": 2, "fine_tune_epochs": 2}


@pytest.fixture(scope="module")
def sets():
    return images_and_labels(24, 0), images_and_labels(12, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"xla": True}, "xla: XLA is not deterministic: set deterministic to false"),
        ({"xla": True, "deterministic": False, "devices": 2}, "xla: works on one device only, got devices 2"),
        ({"devices": 4, "batch_size": 3}, "devices: 4 cannot share batches of 3 images"),
        ({"devices": -1}, "devices: should be greater than or equal to 0"),
        ({"precision": "float16"}, "precision: should be 'float32', 'mixed_float16' or 'mixed_bfloat16'"),
    ],
)
def test_combinations_that_cannot_be_are_refused(values, message):
    for kind in (TrainParams, StudyParams):
        with pytest.raises(InputError, match=message):
            kind.check(values, where="f")


def test_more_devices_than_there_are():
    here = len(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))
    with pytest.raises(InputError, match=f"devices: {here + 1} were asked for, and TensorFlow sees {here} [CG]PU"):
        build.strategy(here + 1)
    assert build.strategy(0).num_replicas_in_sync == build.strategy(1).num_replicas_in_sync == 1


def trained(sets, **changes):
    settings = TrainParams(**{**SETTINGS, **changes})
    model = make(settings)
    weights.load_backbone(model, settings.weights)
    seen = []

    def on_epoch(epoch, metrics):
        seen.append({layer.dtype_policy.name for layer in model.layers})

    stages.transfer(model, *sets, settings)
    history = stages.fine_tune(model, *sets, settings, on_epoch=on_epoch)
    return model, history, seen


@pytest.fixture(scope="module")
def plainly(sets):
    """A model that computed in float32, and the history of its fine-tuning."""
    model, history, _ = trained(sets)
    return model, history


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_training_leaves_a_float32_model(sets, plainly, precision, tmp_path):
    model, history, seen = trained(sets, precision=precision)
    plain, plain_history = plainly
    assert seen == [{"float32"}] * 2  # so that a checkpoint during fine-tuning is one too
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {weight.dtype for weight in model.weights if "seed" not in weight.path} == {"float32"}
    assert not np.array_equal(model.get_weights()[0], plain.get_weights()[0])
    if (
        precision == "mixed_bfloat16"
    ):  # the other leaves out first steps, until the loss is scaled so that none overflows
        np.testing.assert_allclose(history["loss"], plain_history["loss"], rtol=0.15, atol=0.02)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    images, labels = sets[1]
    maps = [
        explaining.attribute(each, images, labels, layer="penultimate", methods=["layercam"])["layercam"]
        for each in (model, loaded)
    ]
    np.testing.assert_array_equal(*maps)


def test_what_is_computed_in_what(sets):
    model = make(TrainParams(**SETTINGS))
    with build.computing(model, "mixed_bfloat16"):
        ends = ["preprocessing", targets.target_layer(model, "penultimate"), "pool", "logits", "probabilities"]
        outputs = [model.get_layer(name).output for name in ends]
        found = keras.Model(model.input, outputs)(sets[1][0][:2, ..., None])
    assert [each.dtype.name for each in found] == ["float32", "bfloat16", "float32", "float32", "float32"]
    expected = keras.Model(model.input, outputs)(sets[1][0][:2, ..., None])
    assert {each.dtype.name for each in expected} == {"float32"}
    np.testing.assert_allclose(found[3], expected[3], atol=0.05)


def test_a_scaled_loss_is_saved_and_comes_back():
    optimizer = optimisation.make_optimizer(0.1, TrainParams(**SETTINGS, precision="mixed_float16"))
    optimizer.build([keras.Variable(np.zeros(3, np.float32))])
    names = {variable.name for variable in optimizer.variables}  # which `_Saver` takes
    assert {"dynamic_scale", "step_counter", "first_moment", "second_moment", "iteration"} <= names


SCRIPT = Path(__file__).with_name("several_devices.py")


def elsewhere(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one():
    """What one device without XLA gives."""
    return elsewhere(0)


@pytest.mark.slow
def test_two_virtual_devices_train_as_one(one):
    two = elsewhere(2)
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert one["optimizer"] == "FlatAdam" and two["optimizer"] == "Adam"
    # sums in another order, of whole batches, so that each device's half weighs the same
    for stage in ("transfer", "fine_tuning"):
        np.testing.assert_allclose(two[stage], one[stage], rtol=2e-3)
    np.testing.assert_allclose(two["probabilities"], one["probabilities"], atol=5e-3)
    # a checkpoint of several devices is one of one
    np.testing.assert_allclose(two["loaded"], two["probabilities"], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_xla_trains_as_without(one):
    compiled = elsewhere(0, "xla")
    for stage in ("transfer", "fine_tuning"):
        np.testing.assert_allclose(compiled[stage], one[stage], rtol=2e-3)
