"""Vision transformers: tokens as grids, and the maps made of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import transformers
from keras import layers, ops
from transformers import GRID, HEADS, PATCH, WIDTH

from cxr.attribution import explaining
from cxr.core.errors import InputError
from cxr.metrics import map_grids
from cxr.models import build, description, foreign, graph, tokens

KINDS = {
    "class token": {},
    "mean": {"head": "mean", "before": 0},
    "registers, flattened": {"head": "flat", "before": 1, "after": 2},
    "cut out of the image": {"order": "cut out"},
    "blocks of the user's": {"own_blocks": True, "head": "mean"},
}


def predictions(model, images):
    return np.asarray(model(np.asarray(images, np.float32)[..., None], training=False))


@pytest.mark.parametrize("kind", KINDS)
def test_grids_change_nothing_and_name_the_layers(kind, tmp_path):
    theirs = transformers.transformer(**KINDS[kind])
    ours = foreign.adapt(theirs)
    images, _ = transformers.images()
    np.testing.assert_array_equal(predictions(ours, images), predictions(theirs, images))
    found = graph.targets(ours)
    assert {target.grid for target in found.values()} == {(GRID, GRID)}
    pools = "class token" not in (kind, KINDS[kind].get("head", "class token"))
    assert list(found) == ["shallower", "penultimate", "final"]
    assert found["final"].layer.endswith("_pooled_token_grid") == pools
    assert (found["final"].layer == found["penultimate"].layer) == (not pools)
    assert found["penultimate"].why == "tokens before the last block (values of either sign)"
    assert found["shallower"].why.startswith("tokens before the last 2 blocks")
    ours.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert graph.target_layers(loaded) == graph.target_layers(ours)
    assert graph.target_layers(foreign.adapt(loaded)) == graph.target_layers(ours)  # as `cxr drift` does
    np.testing.assert_array_equal(predictions(loaded, images), predictions(theirs, images))
    assert build.to_features(ours).output_shape[1] == (WIDTH if KINDS[kind].get("head") != "flat" else 39 * WIDTH)


def test_a_grid_is_the_tokens_of_the_cells_in_rows():
    theirs = transformers.transformer(before=1, after=2, depth=1)
    ours = foreign.adapt(theirs)
    images, _ = transformers.images(1)
    embedded = keras.Model(theirs.input, theirs.layers[4].output)(images[..., None].astype(np.float32))
    assert embedded.shape == (1, GRID**2 + 3, WIDTH)
    grid = keras.Model(ours.input, ours.get_layer(graph.target_layers(ours)["final"]).output)
    found = np.asarray(grid(images[..., None].astype(np.float32)))
    np.testing.assert_array_equal(found[0, 2, 5], np.asarray(embedded)[0, 1 + 2 * GRID + 5])


@pytest.mark.parametrize("kind", ["mean", "class token"])
def test_maps_are_those_of_the_tokens_of_the_user_s_own_model(kind):
    theirs = transformers.transformer(**KINDS[kind])
    images, classes = transformers.images()
    last = [layer for layer in theirs.layers if isinstance(layer, layers.MultiHeadAttention)][-1]
    normal = last._inbound_nodes[0].input_tensors[0]._keras_history.operation  # the norm before the last attention
    stream = normal._inbound_nodes[0].input_tensors[0]
    logits = theirs.layers[-1].input @ theirs.layers[-1].kernel.numpy() + theirs.layers[-1].bias.numpy()
    both = keras.Model(theirs.input, [stream, logits])
    with tf.GradientTape() as tape:
        activations, found = both(images[..., None].astype(np.float32), training=False)
        tape.watch(activations)
        rest = keras.Model(stream, logits)(activations)
        score = tf.reduce_sum(tf.gather(rest, classes, batch_dims=1))
    gradients = tape.gradient(score, activations)
    first = activations.shape[1] - GRID**2
    cells = [np.asarray(one)[:, first:].reshape(3, GRID, GRID, WIDTH) for one in (activations, gradients)]
    expected = {
        "hirescam": np.maximum((cells[0] * cells[1]).sum(-1), 0),
        "layercam": np.maximum((cells[0] * np.maximum(cells[1], 0)).sum(-1), 0),
    }
    maps = explaining.attribute(
        foreign.adapt(theirs), images, classes, layer="penultimate", methods=list(expected), score="logit"
    )
    for name, values in expected.items():
        np.testing.assert_allclose(maps[name], values, rtol=1e-3, atol=1e-5 * max(1, values.max()), err_msg=name)


def test_a_map_finds_the_cell_that_the_class_depends_on():
    """Without attention between cells, the class depends on the brightness of one cell."""
    image = keras.Input((transformers.SIDE, transformers.SIDE, 1))
    patches = layers.Conv2D(4, PATCH, strides=PATCH, kernel_initializer="ones")(layers.Rescaling(1 / 255)(image))
    x = layers.Reshape((GRID**2, 4))(patches)
    attention = layers.MultiHeadAttention(1, 4)
    x = layers.Add()([x, attention(x, x)])
    dense = layers.Dense(2)
    model = keras.Model(image, layers.Softmax()(dense(layers.Flatten()(x))))
    attention.set_weights([weight * 0 for weight in attention.get_weights()])
    kernel = np.zeros((GRID, GRID, 4, 2), np.float32)
    kernel[1, 4, :, 1] = 1
    dense.set_weights([kernel.reshape(-1, 2), np.zeros(2, np.float32)])
    images, _ = transformers.images(2)
    maps = explaining.attribute(
        foreign.adapt(model), images, np.array([1, 1]), layer="penultimate", methods=["layercam", "hirescam"]
    )
    for of_method in maps.values():
        assert np.argwhere(of_method > 0).tolist() == [[0, 1, 4], [1, 1, 4]]


def test_tokens_in_another_order_are_refused():
    image = keras.Input((transformers.SIDE, transformers.SIDE, 1))
    x = transformers.embed(layers.Rescaling(1 / 255)(image))
    for what, shuffled in {
        "columns": ops.reshape(ops.transpose(ops.reshape(x, (-1, GRID, GRID, WIDTH)), (0, 2, 1, 3)), (-1, 36, 16)),
        "turned": ops.flip(x, axis=1),
        "a token between": ops.concatenate([x[:, :9], x[:, :1] * 0, x[:, 9:]], axis=1),
        "not square": x[:, :30],
    }.items():
        y = transformers.block(shuffled)
        model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(y)), name="odd")
        with pytest.raises(
            InputError, match="odd is a transformer, and the .* tokens of .* are not the cells|moves"
        ):
            foreign.adapt(model)
            pytest.fail(what)


def test_a_backbone_gets_a_head_that_pools_its_tokens():
    theirs = transformers.transformer()
    backbone = keras.Model(theirs.input, theirs.layers[-3].output, name="backbone")
    assert len(backbone.output_shape) == 3
    ours = foreign.adapt(backbone, classes=4)
    assert ours.output_shape == (None, 4) and graph.head_input(ours).shape == (None, WIDTH)
    assert graph.target_layers(ours)["final"].endswith("_pooled_token_grid")


def test_mlp_mixer_has_grids_too():
    image = keras.Input((transformers.SIDE, transformers.SIDE, 1))
    x = transformers.embed(layers.Rescaling(1 / 255)(image))
    for _ in range(3):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Permute((2, 1))(layers.Dense(GRID**2)(y))])
        x = layers.Add()([x, layers.Dense(WIDTH)(layers.LayerNormalization()(x))])
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    found = graph.targets(foreign.adapt(model))
    assert found["final"].grid == found["penultimate"].grid == (GRID, GRID)
    with pytest.raises(InputError, match="attention_rollout needs a transformer with layers.MultiHeadAttention"):
        tokens.attention(foreign.adapt(model))


def test_what_has_no_tokens_stays_as_it_is():
    ours = foreign.adapt(
        keras.Sequential(
            [
                keras.Input((48, 48, 1)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(4, 3, padding="same", activation="relu"),
                layers.Reshape((48 * 48, 4)),
                layers.Dense(3),
                layers.GlobalAveragePooling1D(),
                layers.Dense(2),
            ]
        )
    )
    assert tokens.with_grids(ours) is ours and graph.target_layers(ours)["final"].startswith("conv2d")


# --- layers of other packages


@keras.saving.register_keras_serializable("tests")
class WithTraining(transformers.Block):
    def call(self, x, training=None):
        return super().call(x) if not training else x


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """As a layer of keras-hub: its configuration also lists what it derives."""

    def __init__(self, by=2.0, **options):
        super().__init__(**options)
        self.by, self.half = by, by / 2

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by, "half": self.half}


def test_a_block_that_is_one_layer_is_taken_apart():
    theirs = transformers.transformer(own_blocks=True, head="mean")
    ours = foreign.adapt(theirs)
    assert len(tokens.attention(ours).calls) == 4
    assert not [layer for layer in ours.layers if isinstance(layer, transformers.Block)]
    assert [
        layer for layer in ours.layers if isinstance(layer, transformers.Embedding)
    ]  # it has weights of its own
    images, classes = transformers.images()
    block = [layer for layer in theirs.layers if isinstance(layer, transformers.Block)][-1]
    whole = keras.Model(theirs.input, block.output)(images[..., None].astype(np.float32))
    last = ours.get_layer(graph.target_layers(ours)["final"]).output
    norm = [layer for layer in theirs.layers if isinstance(layer, layers.LayerNormalization)][-1]
    found = np.asarray(keras.Model(ours.input, last)(images[..., None].astype(np.float32)))
    expected = np.asarray(norm(whole))[:, 1:].reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_trains_in_another_way_stays_whole():
    image = keras.Input((transformers.SIDE, transformers.SIDE, 1))
    x = transformers.embed(layers.Rescaling(1 / 255)(image))
    for _ in range(2):
        x = WithTraining()(x)
    ours = foreign.adapt(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))
    assert sum(isinstance(layer, WithTraining) for layer in ours.layers) == 2
    assert graph.targets(ours)["penultimate"].grid == (GRID, GRID)
    with pytest.raises(InputError, match="has none in its graph"):
        tokens.attention(ours)


def test_a_configuration_may_list_what_the_layer_derives():
    image = keras.Input((32, 32, 1))
    x = layers.Conv2D(3, 3, activation="relu")(Scaled(3.0)(layers.Rescaling(1 / 255)(image)))
    theirs = keras.Model(image, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32))
    np.testing.assert_array_equal(predictions(foreign.adapt(theirs), images), predictions(theirs, images))


# --- attention rollout


def attention_by_hand(layer, x):
    """Softmax of query times key over the root of the width, mean over heads: [t, t]."""
    names = {weight.path.rsplit("/", 2)[-2] + "/" + weight.name: weight.numpy() for weight in layer.weights}
    query, key = (
        np.einsum("td,dhk->htk", x, names[f"{name}/kernel"]) + names[f"{name}/bias"][:, None]
        for name in ("query", "key")
    )
    weights = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS))
    return (weights / weights.sum(axis=-1, keepdims=True)).mean(axis=0)


@pytest.mark.parametrize("kind", ["class token", "mean", "registers, flattened"])
def test_attention_rollout_by_hand(kind):
    theirs = transformers.transformer(**KINDS[kind])
    for layer in theirs.layers:  # so that attention is not nearly uniform
        if isinstance(layer, layers.MultiHeadAttention):
            layer.set_weights([weight * 4 for weight in layer.get_weights()])
    images, classes = transformers.images(2)
    calls = [layer for layer in theirs.layers if isinstance(layer, layers.MultiHeadAttention)]
    inputs = keras.Model(theirs.input, [call._inbound_nodes[0].input_tensors[0] for call in calls])
    found = [np.asarray(one, np.float64) for one in inputs(images[..., None].astype(np.float32))]
    expected = []
    for image in range(2):
        product = np.eye(found[0].shape[1])
        for call, x in zip(calls, found, strict=True):
            mixed = 0.5 * attention_by_hand(call, x[image]) + 0.5 * np.eye(len(product))
            product = mixed @ product
        before = KINDS[kind].get("before", 1)
        row = product[0] if kind == "class token" else product.mean(axis=0)
        expected.append(row[before : before + GRID**2].reshape(GRID, GRID))
    maps = explaining.attribute(
        foreign.adapt(theirs), images, classes, layer="penultimate", methods=["attention_rollout"]
    )["attention_rollout"]
    assert np.ptp(maps) > 1e-3
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-7)
    others = explaining.attribute(
        foreign.adapt(theirs), images, classes[::-1], layer="final", methods=["attention_rollout"], score="logit"
    )["attention_rollout"]
    np.testing.assert_array_equal(maps, others)  # of any class, layer and score


def test_rollout_of_a_network_without_attention_is_refused_before_training():
    options = {"weights": "none", "target": "penultimate", "image_size": 64, "n_classes": 2}
    description.check("CompactResNetV2", **options, methods=["layercam", "occlusion"])
    with pytest.raises(
        InputError, match="method: attention_rollout needs a transformer .* CompactResNetV2 has none"
    ):
        description.check("CompactResNetV2", **options, methods=["layercam", "attention_rollout"])


def test_masked_attention_is_refused():
    image = keras.Input((transformers.SIDE, transformers.SIDE, 1))
    x = transformers.embed(layers.Rescaling(1 / 255)(image))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8, name="causal")(x, x, use_causal_mask=True)])
    model = foreign.adapt(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))
    with pytest.raises(InputError, match="'causal' of .* is masked"):
        tokens.attention(model)


def test_all_methods_on_a_transformer():
    ours = foreign.adapt(transformers.transformer(head="mean", own_blocks=False))
    images, classes = transformers.images()
    explain = explaining.checkpoint_explainer(
        ours, layer="penultimate", methods=["layercam", "hirescam", "attention_rollout"], with_variants=True
    )
    found = explain(images, classes)
    assert all(maps.shape == (3, GRID, GRID) and maps.min() >= 0 for maps in found.maps.values())
    assert not map_grids.is_empty(found.maps["attention_rollout"]).any()
    assert ("layercam", "layer-shallower") in found.variants and (
        "attention_rollout",
        "default",
    ) not in found.variants
