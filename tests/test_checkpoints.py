from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from cxr.attribution import map_checks, passing
from cxr.attribution.cases import Cases
from cxr.attribution.checkpoints import Checkpoints
from cxr.attribution.explaining import attribute, explainer
from cxr.attribution.maps import MapSet
from cxr.core.errors import InputError
from cxr.models import weights

SIDE = 32


def network(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="first")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(x)
    logits = layers.Dense(2, name="logits", kernel_initializer=keras.initializers.RandomNormal(stddev=9))(
        layers.GlobalAveragePooling2D()(x)
    )
    return keras.Model(inputs, layers.Softmax()(logits), name="small")


@pytest.fixture
def trained(tmp_path):
    """A train run with its checkpoints, as `tracking.take` gives it, the images, and the networks themselves."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE), dtype=np.uint8)
    models = {name: network(seed) for seed, name in enumerate(("before", "after", "epoch_001", "continued"))}
    logged, predictions = {}, {}
    table = pd.DataFrame({"image_id": [f"i{k:02d}" for k in range(70)], "scored": True})
    table["label"] = np.where(np.arange(70) % 2, "b", "a")
    table["patient_id"] = table["image_id"]
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
        logged[name] = {"sha256": weights.sha256_file(folder / f"{name}.keras")}
        p = model(pixels[..., None].astype(np.float32)).numpy()
        predictions[name] = table[["image_id"]].assign(p_0=p[:, 0], p_1=p[:, 1])
    del predictions["epoch_001"]
    cases = Cases(table, pixels, np.arange(70) % 2, ["a", "b"], {}, predictions)
    train = SimpleNamespace(
        run_id="0f1e", name="train small s0", params={"architecture": "small"},
        json=lambda name: logged, file=lambda name: folder,
    )  # fmt: skip
    return train, cases, models


def test_checkpoints_are_loaded_by_name(trained):
    train, cases, models = trained
    found = Checkpoints(train, cases, batch_size=16)
    assert found.during == ["epoch_001"] and found.heads() == [] and found.continued
    for name, model in models.items():
        loaded = found.load(name)
        for own, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(own, other)
    assert found.sha256("head_1") == found.sha256("before") != found.sha256("after")
    assert len({found.sha256(name) for name in models}) == len(models)
    train.json("checkpoints.json").pop("continued")
    assert not Checkpoints(train, cases).continued


def test_extra_heads_are_those_of_the_run(trained):
    train, cases, models = trained
    mine = [tuple(models["after"].get_layer("logits").get_weights())]
    weights.save_heads(train.file("checkpoints") / "heads.npz", mine)
    [found] = Checkpoints(train, cases).heads()
    np.testing.assert_array_equal(found[0], mine[0][0])


def test_another_file_is_refused(trained):
    train, cases, models = trained
    models["after"].save(train.file("checkpoints") / "before.keras")
    found = Checkpoints(train, cases)
    with pytest.raises(InputError, match=r"checkpoints/before.keras of run 0f1e is not the file that was trained"):
        found.load("before")
    (train.file("checkpoints") / "epoch_001.keras").unlink()
    with pytest.raises(InputError, match="epoch_001.keras of run 0f1e is not the file"):
        found.load("epoch_001")


def test_other_images_are_refused(trained):
    train, cases, _ = trained
    cases.pixels[:] //= 4
    found = Checkpoints(train, cases)
    for name in ("before", "continued"):
        with pytest.raises(InputError, match=rf"run 0f1e \(train small s0\), {name}: the model does not say of"):
            found.load(name)
    found.load("epoch_001")  # the train run logged no predictions of it


def test_a_checkpoint_lends_its_weights_for_a_while(trained):
    train, cases, models = trained
    found, model = Checkpoints(train, cases), models["before"]
    own = model.get_weights()
    explain = explainer(model, layer="conv")
    images = cases.pixels[:3], cases.class_index[:3]
    for name in ("after", "epoch_001", "continued"):
        with found.lend(name, model):
            lent = explain(*images)["layercam"]
        np.testing.assert_allclose(lent, attribute(models[name], *images, layer="conv")["layercam"], rtol=1e-6)
        for one, now in zip(own, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, now)
    with pytest.raises(KeyError), found.lend("after", model):
        raise KeyError
    cases.pixels[:] //= 4
    with found.lend("after", model):  # verified above
        pass
    for other, network in ((Checkpoints(train, cases), model), (found, keras.models.clone_model(model))):
        with pytest.raises(InputError, match="after: the model does not say of"), other.lend("after", network):
            pass
    for one, now in zip(own, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, now)


def test_every_method_is_checked_on_every_checkpoint(trained):
    train, cases, models = trained
    networks = {name: models[name] for name in ("before", "after")}
    chosen, where = ("layercam", "occlusion"), {"layer": "conv", "batch_size": 8}
    map_sets = {
        checkpoint: {
            method: MapSet(
                cases.image_id, cases.class_index, values, checkpoint, method, "conv", ("a", "b"), "hash"
            )
            for method, values in attribute(
                model, cases.pixels, cases.class_index, methods=chosen, score="logit", **where
            ).items()
        }
        for checkpoint, model in networks.items()
    }
    rows = np.array([3, 10, 11, 40])
    kept = [weight.copy() for weight in models["before"].get_weights()]
    gains = map_checks.measure(
        Checkpoints(train, cases), models["before"], map_sets, cases, rows, score="logit", **where
    )
    pairs = [(checkpoint, method) for checkpoint in networks for method in chosen]
    for own, now in zip(kept, models["before"].get_weights(), strict=True):
        np.testing.assert_array_equal(own, now, err_msg="weights are restored")
    # of the images that were chosen, and of rivals that explain the same score as the maps
    after, own = networks["after"], {method: map_sets["after"][method].maps[rows] for method in chosen}

    def explain(images, classes, methods):
        return attribute(after, images, classes, methods=methods, score="logit", **where)

    alone = map_checks.gains(after, explain, cases.pixels[rows], cases.class_index[rows], own, batch_size=8)
    assert (gains["image_id"] == cases.image_id[rows][gains["row"]]).all()
    assert (gains["patient_id"] == cases.table["patient_id"].to_numpy()[rows][gains["row"]]).all()
    mine = gains.query("checkpoint == 'after'").drop(columns=["checkpoint", "image_id", "patient_id"])
    mine = mine.reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, alone, atol=1e-4)
    found = passing.verdict(gains, cases.table.loc[rows, "patient_id"])
    assert list(zip(found["checkpoint"], found["method"], strict=True)) == pairs
    assert (found["n_images"] + found["n_empty"] == 4).all()
