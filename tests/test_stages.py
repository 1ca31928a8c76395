import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from cxr.attribution import explaining
from cxr.core.architectures import KNOWN
from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import loading
from cxr.data import manifest as data_manifest
from cxr.metrics import baselines
from cxr.models import build, targets, weights
from cxr.models import foreign as models_foreign
from cxr.training import features, fitting, stages

SIZE = 64
BASE = {
    "architecture": "CompactResNetV2",
    "image_size": SIZE,
    "weights": "none",
    "batch_size": 8,
    "transfer_epochs": 3,
    "fine_tune_epochs": 2,
    "dropout": 0.0,
}


def images_and_labels(n, seed, size=SIZE, n_classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    images = rng.normal(120, 20, (n, size, size))
    for image, label in zip(images, labels, strict=True):
        image[:: 4 * (label + 1)] += 100  # stripes, one pitch a class
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture
def sets():
    return images_and_labels(24, 0), images_and_labels(12, 1)


def make(settings, n_classes=3):
    stages.seed_everything(settings.seed)
    model = build.build(
        settings.architecture, n_classes=n_classes, image_size=settings.image_size, dropout=settings.dropout
    )
    return model


def backbone_weights(model):
    return [np.array(weight) for weight in build.backbone(model).get_weights()]


def test_transfer_on_cached_features_equals_fit_with_a_frozen_backbone(sets):
    settings = TrainParams(**BASE, transfer_patience=99)
    ours = make(settings)
    before = backbone_weights(ours)
    history = stages.transfer(ours, *sets, settings).history
    assert list(history["epoch"]) == [1, 2, 3]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= set(history.columns)
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone_weights(ours), strict=True))

    theirs = make(settings)
    assert weights.sha256_weights(theirs) != weights.sha256_weights(ours)
    for layer in theirs.layers:
        layer.trainable = layer.name == "logits"
    to_logits = keras.Model(theirs.input, theirs.get_layer("logits").output)
    to_logits.compile(
        keras.optimizers.Adam(settings.transfer_learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # Keras sets `trainable` aside from `training`: a frozen BatchNorm runs in inference mode
    (train, val) = sets
    theirs_history = to_logits.fit(
        fitting.dataset(train, settings, training=True),
        validation_data=fitting.dataset(val, settings, training=False),
        epochs=settings.transfer_epochs,
        verbose=0,
        shuffle=False,
        callbacks=[keras.callbacks.EarlyStopping(patience=99, restore_best_weights=True)],
    )
    # up to rounding: without AVX-512, an image's place in its batch changes the last bits of its features
    np.testing.assert_allclose(history["loss"], theirs_history.history["loss"], rtol=1e-5)
    for a, b in zip(ours.get_layer("logits").get_weights(), theirs.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("stage", ["transfer", "fine_tune"])
def test_gradients_reach_the_backbone_in_fine_tuning_only(sets, stage, monkeypatch):
    settings = TrainParams(**{**BASE, "transfer_epochs": 1, "fine_tune_epochs": 1}, augmentation="light")
    real, trained, operations = stages._to_logits, [], set()
    monkeypatch.setattr(stages, "_to_logits", lambda *a, **k: trained.append(real(*a, **k)) or trained[0])

    def on_epoch(epoch, metrics):
        batch = tf.zeros((8, SIZE, SIZE, 1)), tf.zeros(8, tf.int32)
        step = tf.function(trained[0].train_step, autograph=False).get_concrete_function(batch)
        operations.update(operation.type for operation in step.graph.get_operations())

    getattr(stages, stage)(make(settings), *sets, settings, on_epoch=on_epoch)
    assert "Conv2D" in operations
    assert any(name.startswith("Conv2DBackprop") for name in operations) == (stage == "fine_tune")


@pytest.mark.parametrize("batchnorm", ["inference", "training"])
def test_fine_tuning_trains_every_convolution_and_batchnorm_as_asked(sets, batchnorm):
    settings = TrainParams(**BASE, batchnorm=batchnorm)
    model = make(settings)
    kinds = {"conv": layers.Conv2D, "norm": layers.BatchNormalization}
    chosen = {name: [layer for layer in model.layers if isinstance(layer, kind)] for name, kind in kinds.items()}
    before = {name: [layer.get_weights() for layer in found] for name, found in chosen.items()}
    stages.fine_tune(model, *sets, settings)
    moved = {
        name: [
            any(not np.array_equal(a, b) for a, b in zip(old, layer.get_weights(), strict=True))
            for old, layer in zip(before[name], found, strict=True)
        ]
        for name, found in chosen.items()
    }
    assert all(moved["conv"])
    assert all(moved["norm"]) if batchnorm == "training" else not any(moved["norm"])
    assert all(layer.trainable for layer in model.layers), "the checkpoint is left as it came"


def test_same_seed_same_weights(sets):
    def trained(seed):
        settings = TrainParams(
            **{**BASE, "dropout": 0.3, "seed": seed, "transfer_epochs": 1, "fine_tune_epochs": 1}
        )
        model = make(settings)
        stages.transfer(model, *sets, settings)
        stages.fine_tune(model, *sets, settings)
        return weights.sha256_weights(model)

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


# --- extra heads, for the baseline two heads


def test_heads_leave_the_model_and_the_next_stage_bitwise_alone(sets):
    def trained(extra_heads):
        # From `pool` the next stage is cheap, and draws what it always draws: order and dropout.
        settings = TrainParams(**{**BASE, "dropout": 0.3, "extra_heads": extra_heads}, fine_tune_from="pool")
        model = make(settings)
        history, heads = stages.transfer(model, *sets, settings)
        hashes = [weights.sha256_weights(model)]
        stages.fine_tune(model, *sets, settings)
        return history.drop(columns="seconds"), heads, [*hashes, weights.sha256_weights(model)]

    (history, none, hashes), (other_history, heads, other_hashes) = trained(0), trained(2)
    assert none == [] and len(heads) == 2
    assert hashes == other_hashes and hashes[0] != hashes[1]
    pd.testing.assert_frame_equal(history, other_history, check_exact=True)


def test_heads_are_trained_as_the_main_one_and_differ_by_seed(sets):
    settings = TrainParams(**{**BASE, "weights": "source", "transfer_epochs": 12, "extra_heads": 2})
    model = make(settings)
    weights.load_backbone(model, settings.weights)
    history, heads = stages.transfer(model, *sets, settings)
    images, labels = sets[1]
    pooled = features.pooled(build.to_features(model), images, settings)
    main = tuple(model.get_layer("logits").get_weights())
    assert all(
        a.shape == b.shape and a.dtype == np.float32 for head in heads for a, b in zip(head, main, strict=True)
    )
    losses = []
    for kernel, bias in (main, *heads):
        logits = pooled @ kernel + bias
        spread = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        losses.append((spread - logits[np.arange(len(labels)), labels]).mean())
    assert losses[0] == pytest.approx(history["val_loss"].min(), rel=1e-3)
    untrained = history["val_loss"].iloc[0]
    assert max(losses) < 0.5 * untrained  # each of them is trained
    kernels = [main[0], *(kernel for kernel, _ in heads)]
    assert all(not np.allclose(kernels[i], kernels[j], atol=1e-3) for i, j in ((0, 1), (0, 2), (1, 2)))

    again = make(settings)
    weights.load_backbone(again, settings.weights)
    _, (first,) = stages.transfer(again, *sets, settings.model_copy(update={"extra_heads": 1}))
    for a, b in zip(first, heads[0], strict=True):
        np.testing.assert_array_equal(a, b)  # how many there are is nothing to the first


def test_head_seeds_never_collide_for_neighbours_nor_with_a_runs():
    runs = [0, 1, 2, 3, 41, 42, 2_000_000]
    seeds = [stages.head_seed(run, number) for run in runs for number in range(stages.MAX_HEADS)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 2**31 and max(seeds) < 2**32
    edge = [stages.head_seed(2**31 - run, number) for run in (1, 2) for number in range(stages.MAX_HEADS)]
    assert len(set(edge)) == len(edge) and min(edge) >= 2**31 and max(edge) < 2**32


def test_too_many_heads(sets):
    settings = TrainParams(**{**BASE, "extra_heads": 1001})
    with pytest.raises(InputError, match="extra_heads: at most 1000, got 1001"):
        stages.transfer(make(settings), *sets, settings)


@pytest.mark.parametrize("count", [0, 1, 12])
def test_saved_heads_come_back(tmp_path, count):
    rng = np.random.default_rng(0)
    heads = [
        (rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)) for _ in range(count)
    ]
    weights.save_heads(tmp_path / "heads", heads)
    loaded = weights.load_heads(tmp_path / "heads")
    assert len(loaded) == count
    for (kernel, bias), (other_kernel, other_bias) in zip(heads, loaded, strict=True):
        assert kernel.dtype == other_kernel.dtype
        np.testing.assert_array_equal(kernel, other_kernel)
        np.testing.assert_array_equal(bias, other_bias)


def test_files_without_heads_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "pickle.npz", **{"0_0": np.array([{}], dtype=object), "0_1": np.zeros(3)})
    for name in ("none.npz", "text.npz", "empty.npz", "array.npy", "pickle.npz"):
        with pytest.raises(InputError, match=f"{name}: cannot be read as heads"):
            weights.load_heads(tmp_path / name)
    np.savez(tmp_path / "more.npz", **{"0_0": np.zeros((2, 3)), "0_1": np.zeros(3)}, other=np.zeros(1))
    with pytest.raises(InputError, match="holds other beside heads"):
        weights.load_heads(tmp_path / "more.npz")


# --- what fine-tuning leaves alone, and shows meanwhile


@pytest.mark.parametrize("name", ["penultimate", "pool"])
def test_fine_tuning_from_a_layer_freezes_it_and_what_it_depends_on(sets, name):
    settings = TrainParams(**{**BASE, "fine_tune_epochs": 1}, fine_tune_from=name, batchnorm="training")
    model = make(settings)
    layer = name if name == "pool" else targets.target_layer(model, name)
    upstream, queue = set(), [layer]
    while queue:  # its ancestors, by the graph's edges
        current = queue.pop()
        if current not in upstream:
            upstream.add(current)
            nodes = model.get_layer(current)._inbound_nodes
            queue += [tensor._keras_history.operation.name for node in nodes for tensor in node.input_tensors]
    before = {each.name: each.get_weights() for each in model.layers if each.weights}
    stages.fine_tune(model, *sets, settings)
    moved = {
        each
        for each, old in before.items()
        if any(not np.array_equal(a, b) for a, b in zip(old, model.get_layer(each).get_weights(), strict=True))
    }
    assert moved == set(before) - upstream and "logits" in moved
    assert (name == "pool") == (moved == {"logits"})
    assert all(each.trainable for each in model.layers), "the checkpoint is left as it came"


def test_layers_to_fine_tune_from_are_checked():
    model = make(TrainParams(**BASE))
    assert targets.frozen_layers(model, "") == []
    with pytest.raises(InputError, match="^fine_tune_from: CompactResNetV2 has no layer 'penultimte'"):
        targets.frozen_layers(model, "penultimte")
    for name in ("logits", "probabilities"):
        with pytest.raises(InputError, match=f"up to '{name}' is all of CompactResNetV2, which leaves nothing"):
            targets.frozen_layers(model, name)


def test_weights_in_on_epoch_are_those_of_that_epoch_and_the_best_are_kept(sets):
    """Through the stage's own model, whose layers are shared: what a checkpoint saved there would hold."""
    settings = TrainParams(
        **{**BASE, "fine_tune_epochs": 4, "fine_tune_learning_rate": 0.02}, fine_tune_from="penultimate"
    )
    model = make(settings)
    images, labels = sets[1]
    seen, hashes = [], []

    def on_epoch(epoch, metrics):
        probabilities = stages.predict(model, images, 8)
        loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        seen.append((epoch, loss, metrics["val_loss"]))
        hashes.append(weights.sha256_weights(model))

    history = stages.fine_tune(model, *sets, settings, on_epoch=on_epoch)
    epochs, losses, logged = zip(*seen, strict=True)
    assert epochs == (1, 2, 3, 4) and len(set(hashes)) == 4
    np.testing.assert_allclose(losses, logged, rtol=1e-3)
    assert np.ptp(losses) > 0.01
    best = history["val_loss"].idxmin()
    assert best != len(history) - 1, "this learning rate must overshoot"
    assert weights.sha256_weights(model) == hashes[best]
    assert fitting.best_epoch(history) == best + 1

    # More training has neither a patience nor a choice: the last weights count. Wrong labels make the loss rise.
    impatient = settings.model_copy(update={"fine_tune_patience": 1})
    wrong = images, (labels + 1) % 3
    more = stages.more_training(model, sets[0], wrong, impatient, epochs=4, on_epoch=on_epoch)
    assert more["epoch"].tolist() == [1, 2, 3, 4] and len(set(hashes)) == 8
    assert fitting.best_epoch(more) < 3, "it must look worse for two epochs"
    assert weights.sha256_weights(model) == hashes[-1]


def test_more_training_is_fine_tuning_again_from_the_weights_after(sets):
    # One batch holds all images, so that its order does not matter. Adam would take the sign, even of noise.
    settings = TrainParams(
        **{**BASE, "fine_tune_epochs": 2, "fine_tune_learning_rate": 0.2, "batch_size": 24}, optimizer="sgd"
    )
    model = make(settings)
    stages.fine_tune(model, *sets, settings)
    after = model.get_weights()
    more = stages.more_training(model, *sets, settings, epochs=2)
    continued = model.get_weights()
    model.set_weights(after)
    again = stages.fine_tune(model, *sets, settings)
    np.testing.assert_allclose(more["loss"], again["loss"], rtol=1e-4)
    assert np.ptp(more["loss"]) > 0.005
    assert max(np.abs(a - b).max() for a, b in zip(after, continued, strict=True)) > 1e-3
    assert fitting.best_epoch(again) == 2, "else it ends with the weights of another epoch"
    for own, other in zip(continued, model.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)

    # It begins with exactly these weights: a rate that changes nothing leaves them, and the maps.
    explain = explaining.explainer(model, layer="penultimate", methods=["layercam"])
    left, maps = model.get_weights(), explain(*sets[1])["layercam"]
    still = settings.model_copy(update={"fine_tune_learning_rate": 1e-30})
    stages.more_training(model, *sets, still, epochs=1)
    for own, other in zip(model.get_weights(), left, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-28)
    null = baselines.more_training(maps, maps, explain(*sets[1])["layercam"], size=SIZE, names=["overlap"])
    assert np.nanmin(null["overlap_more_training"]) == 1


def test_more_training_has_an_order_of_batches_of_its_own():
    arrays = np.arange(24, dtype=np.float32)[:, None], np.arange(24)
    settings = TrainParams(**BASE, seed=3)
    orders = [
        np.concatenate([y for _, y in fitting.dataset(arrays, settings, training=True, seed=seed)]).tolist()
        for seed in (3, stages.more_training_seed(3))
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert stages.more_training_seed(0) != stages.more_training_seed(1)
    assert 0 <= stages.more_training_seed(2**31 - 1) < 2**31


def test_the_best_epoch_is_the_first_of_the_lowest():
    def best(*losses):
        return fitting.best_epoch(pd.DataFrame({"epoch": range(1, len(losses) + 1), "val_loss": losses}))

    assert best(3, 1, 2) == 2 and best(2, 1, 1) == 2 and best(1, 2) == 1
    assert best(np.nan, 5, 6) == 2 and best(np.nan, np.nan) == 1


def test_augmentation_sees_other_pixels_keeps_the_backbone_and_has_no_extra_heads(sets, capsys):
    settings = TrainParams(**{**BASE, "transfer_epochs": 1, "extra_heads": 2}, augmentation="light")
    batches = [
        np.concatenate([x for x, _ in fitting.dataset(sets[0], settings, training=True, augment=augment)])
        for augment in (fitting.augmentation_layers(SIZE, settings.seed), None)
    ]
    assert batches[0].shape == batches[1].shape
    assert np.abs(np.sort(batches[0].ravel()) - np.sort(batches[1].ravel())).mean() > 1
    assert batches[0].min() >= 0 and batches[0].max() <= 255
    model = make(settings)
    before = backbone_weights(model)
    assert stages.transfer(model, *sets, settings).heads == []
    assert "no extra heads: with augmentation" in "".join(capsys.readouterr())
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone_weights(model), strict=True))
    assert all(layer.trainable for layer in model.layers)


def test_class_weights_lift_the_rare_class():
    images, labels = images_and_labels(30, 0, n_classes=2)
    keep = (labels == 0) | (np.arange(30) < 6)
    train = images[keep], labels[keep]
    shares = []
    for weighted in (False, True):
        settings = TrainParams(**{**BASE, "transfer_epochs": 1}, class_weights=weighted)
        model = make(settings, n_classes=2)
        stages.transfer(model, train, train, settings)
        shares.append(stages.predict(model, images, 8)[:, 1].mean())
    assert shares[1] > shares[0]


def test_diverging_training_stops_with_an_error(sets):
    settings = TrainParams(**BASE, optimizer="sgd", fine_tune_learning_rate=1e12)
    with pytest.raises(RuntimeError, match="(?i)nan"):
        stages.fine_tune(make(settings), *sets, settings)
    assert graph_optimizers_are_on()


def graph_optimizers_are_on():
    return not tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)


def test_graph_optimizers_are_off_within_fit_alone(sets, monkeypatch):
    settings = TrainParams(**{**BASE, "fine_tune_epochs": 1}, fine_tune_from="pool")
    real, within, outside = keras.Model.fit, [], []

    def fit(self, *args, **options):
        within.append(graph_optimizers_are_on())
        return real(self, *args, **options)

    monkeypatch.setattr(keras.Model, "fit", fit)
    stages.fine_tune(
        make(settings), *sets, settings, on_epoch=lambda *_: outside.append(graph_optimizers_are_on())
    )
    assert within == [bool(tf.config.list_physical_devices("GPU"))]
    assert outside == [True] and graph_optimizers_are_on()


def test_prediction_table():
    manifest = pd.DataFrame(
        {
            "image_id": ["a", "b"],
            "patient_id": ["p", "q"],
            "split": "test",
            "label": ["x", "y"],
            "path": ["1", "2"],
        }
    )
    table = stages.prediction_table(manifest, np.array([[0.9, 0.1], [0.6, 0.4]]), ["x", "y"])
    assert table["predicted"].tolist() == ["x", "x"] and table["correct"].tolist() == [True, False]
    assert table["p_1"].tolist() == [0.1, 0.4]


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN[:3])
def test_the_papers_networks_through_both_stages_and_both_methods(name):
    size = 128
    settings = TrainParams(
        architecture=name,
        data="phantom",
        phantom_images=30,
        image_size=size,
        weights="none",
        batch_size=8,
        optimizer="sgd",
        transfer_epochs=1,
        fine_tune_epochs=1,
        fine_tune_learning_rate=1e-4,
    )
    manifest = data_manifest.build_manifest(settings)
    classes = data_manifest.classes(manifest)
    pixels = loading.load_images(
        manifest, root=None, size=size, cache=None, lesion_contrast=settings.lesion_contrast
    )
    labels = data_manifest.class_index(manifest["label"], classes)
    train, val = (
        (pixels[rows], labels[rows]) for rows in (manifest["split"] == "train", manifest["split"] == "val")
    )
    model = make(settings, n_classes=len(classes))
    explain = explaining.explainer(model, layer="penultimate")
    maps = {}
    for checkpoint, fit in (("before", stages.transfer), ("after", stages.fine_tune)):
        result = fit(model, train, val, settings)
        history = result.history if checkpoint == "before" else result
        assert np.isfinite(history["loss"]).all()
        maps[checkpoint] = explain(pixels[:4], labels[:4])
    for method in ("layercam", "gradcampp"):
        a, b = maps["before"][method], maps["after"][method]
        assert (
            a.shape
            == b.shape
            == (4, *model.get_layer(targets.target_layer(model, "penultimate")).output.shape[1:3])
        )
        assert np.isfinite(a).all() and np.isfinite(b).all() and not np.array_equal(a, b)


def foreign(n_classes=2, side=32):
    """A classifier with a head of several layers, adapted."""
    inputs = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(6, activation="relu", name="hidden_1")(x)
    x = layers.Dense(6, activation="relu", name="hidden_2")(layers.Dropout(0.2)(x))
    return models_foreign.adapt(
        keras.Model(inputs, layers.Dense(n_classes, activation="softmax")(x), name="foreign")
    )


@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_the_whole_head_of_a_foreign_classifier_is_trained_and_nothing_else(augmentation, tmp_path):
    stages.seed_everything(0)
    model = foreign()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (24, 32, 32), np.uint8), np.arange(24) % 2
    settings = TrainParams(
        architecture="some.where:foreign", image_size=32, batch_size=8, augmentation=augmentation, extra_heads=2,
        transfer_epochs=2, transfer_learning_rate=0.001, fine_tune_epochs=1, weights="none", phantom_images=60,
    )  # fmt: skip
    before = {layer.name: layer.get_weights() for layer in model.layers}

    def moved():
        return {
            layer.name
            for layer in model.layers
            if any(not np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
        }

    result = stages.transfer(model, (images, labels), (images, labels), settings)
    assert moved() == {"hidden_1", "hidden_2", "logits"}
    assert len(result.heads) == (2 if augmentation == "none" else 0)
    for head in result.heads:
        assert [weight.shape for weight in head] == [(900, 6), (6,), (6, 6), (6,), (6, 2), (2,)]
        with explaining.head(model, *head):
            assert np.array_equal(model.get_layer("hidden_2").get_weights()[0], head[2])
    if result.heads:
        weights.save_heads(tmp_path / "heads.npz", result.heads)
        again = weights.load_heads(tmp_path / "heads.npz")
        for head, loaded in zip(result.heads, again, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(head, loaded, strict=True))
        assert not np.array_equal(result.heads[0][2], result.heads[1][2]), "each head from weights of its own"
    stages.fine_tune(model, (images, labels), (images, labels), settings)
    assert "conv" in moved()
