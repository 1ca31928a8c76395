import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.layercam import Layercam
from tf_keras_vis.saliency import Saliency

from cxr.attribution import cams, explaining, perturbing
from cxr.core.architectures import KNOWN
from cxr.core.errors import InputError
from cxr.core.methods import LABELS, METHODS, SCORES, TABLE, Method
from cxr.core.methods import cams as cams_of
from cxr.core.params import AttributeParams
from cxr.metrics import map_grids
from cxr.models import build, targets

PAPER = [pytest.param(name, "log_odds", marks=pytest.mark.slow) for name in KNOWN[:3]]
COMPACT = list(KNOWN[3:])
N_CLASSES = 5
FOR_ANY_NETWORK = [name for name in METHODS if TABLE[name].kind != "attention"]
CAMS = ("layercam", "gradcampp", "gradcampp_authors", "gradcam", "hirescam")


@pytest.fixture(scope="module", params=COMPACT)
def case(request):
    return network_and_images(request.param)


def network_and_images(name):
    """A network with random weights of a sensible scale, three images and three classes."""
    keras.utils.set_random_seed(0)
    size = 96 if name != "InceptionV3" else 128
    model = build.build(name, n_classes=N_CLASSES, image_size=size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, size // 8, size // 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return model, images, np.array([4, 0, 2])


def unit(maps):
    """Each map over its maximum, as tf-keras-vis' oracles and ours differ by a positive factor a map."""
    return maps / maps.max(axis=(1, 2), keepdims=True)


def score_of(output, classes, score):
    """The class' logit, or its log-odds: the logit minus the log-sum-exp of the others. float32."""
    own = tf.gather(output, classes, batch_dims=1)
    if score == "logit":
        return own
    return own - tf.reduce_logsumexp(output - 1e9 * tf.one_hot(classes, N_CLASSES), axis=1)


def oracle(model, images, classes, layer, explainer, score):
    """tf-keras-vis as documented: the full model, its logits, and back-propagation through all of it."""
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    maps = explainer(to_logits, clone=False)(
        lambda output: score_of(output, classes, score),
        tf.constant(images[..., None], tf.float32),
        penultimate_layer=layer,
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    return np.asarray(maps)


@pytest.mark.parametrize(
    ("name", "score"), [*((name, score) for name in COMPACT for score in ("log_odds", "logit")), *PAPER]
)
def test_equal_to_tf_keras_vis_on_the_full_model(name, score):
    model, images, classes = network_and_images(name)
    layer = targets.target_layer(model, "penultimate")
    ours = explaining.attribute(model, images, classes, layer="penultimate", score=score, batch_size=2)
    for name, explainer in (("layercam", Layercam), ("gradcampp", GradcamPlusPlus)):
        theirs = oracle(model, images, classes, layer, explainer, score)
        assert ours[name].shape == theirs.shape and ours[name].dtype == np.float32
        assert theirs.max(axis=(1, 2)).min() > 0, "the oracle's maps must not be empty"
        np.testing.assert_allclose(unit(ours[name]), unit(theirs), atol=1e-5)


def test_gradcampp_of_the_authors_on_the_full_model(case):
    model, images, classes = case
    layer = targets.target_layer(model, "penultimate")
    both = keras.Model(model.input, [model.get_layer(layer).output, model.get_layer("logits").output])
    with tf.GradientTape() as tape:
        activations, output = both(tf.constant(images[..., None], tf.float32))
        score = score_of(output, classes, "log_odds")
    gradients = tape.gradient(score, activations).numpy().astype(float)
    theirs = np.stack(
        [authors_gradcampp(*pair, score=0) for pair in zip(activations.numpy(), gradients, strict=True)]
    )
    ours = explaining.attribute(model, images, classes, layer=layer, methods=["gradcampp_authors", "gradcampp"])
    assert theirs.max(axis=(1, 2)).min() > 0
    np.testing.assert_allclose(unit(ours["gradcampp_authors"]), unit(theirs), atol=1e-5)
    assert np.abs(unit(ours["gradcampp"]) - unit(theirs)).max() > 1e-3, "tf-keras-vis normalises in another way"


def test_gradcam_equal_to_tf_keras_vis_on_the_full_model(case):
    # it averages gradients of both signs, so that some of its maps are empty: hence every class
    model, images, _ = case
    images, classes = images[[0] * N_CLASSES], np.arange(N_CLASSES)
    layer = targets.target_layer(model, "penultimate")
    ours = explaining.attribute(model, images, classes, layer="penultimate", methods=["gradcam"])["gradcam"]
    theirs = oracle(model, images, classes, layer, Gradcam, "log_odds")
    assert theirs.max() > 0
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * theirs.max())


def test_methods_are_the_same_map_at_final_and_not_before(case):
    model, images, classes = case
    if min(model.get_layer("pool").input.shape[1:3]) < targets.MIN_GRID:
        spec_final = build.graph.target_layers(model)["final"]
        with pytest.raises(InputError, match=f"'{spec_final}' of {model.name} is .* needs at least 4x4"):
            explaining.attribute(model, images, classes, layer="final")
        model = build.build(model.name, n_classes=N_CLASSES, image_size=192)
        images = images.repeat(2, 1).repeat(2, 2)[:, :192, :192]
    final = explaining.attribute(model, images, classes, layer="final", methods=CAMS)
    np.testing.assert_allclose(unit(final["layercam"]), unit(final["gradcampp"]), atol=1e-5)
    scale = final["hirescam"].max()
    assert scale > 0
    np.testing.assert_allclose(final["gradcam"], final["hirescam"], atol=1e-4 * scale)
    earlier = explaining.attribute(model, images, classes, layer="penultimate", methods=CAMS)
    assert np.abs(unit(earlier["layercam"]) - unit(earlier["gradcampp"])).max() > 1e-3
    assert np.abs(earlier["gradcam"] - earlier["hirescam"]).max() > 1e-3 * earlier["hirescam"].max()


def test_layercam_by_hand():
    # two channels on a 2x2 grid
    a = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 4.0]]], np.float32)[None]
    g = np.array([[[1.0, -1.0], [0.5, 2.0]], [[-3.0, 1.0], [-1.0, -1.0]]], np.float32)[None]
    expected = [[1 * 1 + 0, 3 * 0.5 + 0], [0 + 1, 0]]
    np.testing.assert_allclose(cams.layercam(tf.constant(a), tf.constant(g))[0], expected)


def test_hirescam_and_gradcam_by_hand():
    # the arrays of the LayerCAM test: HiResCAM keeps every gradient's sign, Grad-CAM averages over positions
    a = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 4.0]]], np.float32)[None]
    g = np.array([[[1.0, -1.0], [0.5, 2.0]], [[-3.0, 1.0], [-1.0, -1.0]]], np.float32)[None]
    np.testing.assert_allclose(cams.hirescam(tf.constant(a), tf.constant(g))[0], [[0, 1.5], [1, 0]])
    g[0, 1, 1, 0] = 3.5  # weights 2 / 4 and 1 / 4
    expected = [[0.5 * 1 + 0.25 * 2, 0.5 * 3], [0.25 * 1, 0.5 * 2 + 0.25 * 4]]
    np.testing.assert_allclose(cams.gradcam(tf.constant(a), tf.constant(g))[0], expected)


def test_layercam_is_rectified_where_activations_are_negative():
    a = tf.constant(-np.ones((1, 4, 4, 2), np.float32))
    assert cams.layercam(a, tf.ones_like(a)).max() == 0


def test_gradcampp_by_hand():
    # one channel, alphas from equation 19 with exp(score) = 1: alpha = g^2 / (2 g^2 + g^3 * sum A), then over
    # their sum; weight = sum alpha * relu(g); map = relu(weight * A)
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    g = np.array([[1.0, 0.5], [0.0, 2.0]])
    alpha = np.divide(g**2, 2 * g**2 + g**3 * a.sum(), out=np.zeros_like(g), where=g != 0)
    weight = (alpha / alpha.sum() * np.maximum(g, 0)).sum()
    arrays = (tf.constant(v.astype(np.float32)[None, ..., None]) for v in (a, g))
    np.testing.assert_allclose(cams.gradcampp(*arrays)[0], weight * a, rtol=1e-5)


def test_gradcampp_authors_by_hand():
    # as above: where the gradient is negative, alpha is left out of the normaliser (tf-keras-vis leaves it in)
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    g = np.array([[1.0, 0.5], [-1.0, 2.0]])
    alpha = {1.0: 1 / 12, 0.5: 1 / 7, 2.0: 1 / 22}  # 1 / (2 + g * 10)
    weight = sum(g * alpha for g, alpha in alpha.items()) / sum(alpha.values())
    arrays = [tf.constant(v.astype(np.float32)[None, ..., None]) for v in (a, g)]
    np.testing.assert_allclose(cams.gradcampp_authors(*arrays)[0], weight * a, rtol=1e-5)
    # -1's alpha is 1 / (2 - 10), and the sum of all is smaller by it
    everywhere = sum(alpha.values()) - 1 / 8
    theirs = sum(g * alpha for g, alpha in alpha.items()) / everywhere
    np.testing.assert_allclose(cams.gradcampp(*arrays)[0], theirs * a, rtol=1e-5)


def authors_gradcampp(a, g, score):
    """One image [h, w, k], step by step as Chattopadhay et al. describe it, with exp(score) left in."""
    first, second, third = (np.exp(score) * g**power for power in (1, 2, 3))
    denominator = 2 * second + third * a.sum((0, 1))
    alphas = second / np.where(denominator != 0, denominator, 1)
    weights = np.maximum(first, 0)
    total = np.where(weights > 0, alphas, 0).sum((0, 1))
    alphas = alphas / np.where(total != 0, total, 1)
    return np.maximum(((weights * alphas).sum((0, 1)) * a).sum(-1), 0)


def test_gradcampp_authors_is_the_authors():
    rng = np.random.default_rng(0)
    a = np.maximum(rng.normal(size=(3, 6, 6, 4)), 0)
    g = rng.normal(size=a.shape) * (rng.random(a.shape) > 0.2)
    g[:, :, :, 0] = -np.abs(g[:, :, :, 0])  # a channel without positive gradient
    ours = cams.gradcampp_authors(tf.constant(a, tf.float32), tf.constant(g, tf.float32))
    theirs = np.stack([authors_gradcampp(*pair, score=1.5) for pair in zip(a, g, strict=True)])
    assert theirs.max() > 0
    np.testing.assert_allclose(ours * np.exp(1.5), theirs, rtol=1e-4)


@pytest.mark.parametrize("shift", [500.0, -500.0])
def test_large_logits_neither_overflow_nor_vanish(shift):
    model, images, classes = small_case()
    before = explaining.attribute(model, images, classes, layer="conv")
    model.get_layer("logits").bias.assign_add([shift] * N_CLASSES)
    after = explaining.attribute(model, images, classes, layer="conv")
    for name in before:
        assert before[name].max() > 0
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)


def test_batch_size_does_not_matter_and_the_last_batch_does_not_retrace():
    model, images, classes = small_case()
    whole = explaining.attribute(model, images, classes, layer="conv", batch_size=3)
    for name, maps in explaining.attribute(model, images, classes, layer="conv", batch_size=2).items():
        np.testing.assert_allclose(maps, whole[name], rtol=1e-3, atol=1e-6 * whole[name].max())
    compute = cams.activations_and_gradients(model, [("conv", "logit"), ("conv", "probability")])
    for n in (3, 2):
        x = tf.constant(images[:n, ..., None], tf.float32)
        [pair, _], _ = compute(x, tf.constant(classes[:n], tf.int32))
        cams.gradcampp(*pair)
    assert compute.experimental_get_tracing_count() == 1
    compiled = cams._compiled_gradcampp(tuple(pair[0].shape[1:]))
    assert compiled.experimental_get_tracing_count() == 1


def test_works_on_a_model_that_is_not_trainable():
    inputs = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 3, strides=4, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Softmax()(layers.Dense(2, name="logits")(x))
    model = keras.Model(inputs, outputs)
    model.trainable = False
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
    assert explaining.attribute(model, images, np.array([0]), layer="conv")["layercam"].shape == (1, 8, 8)


def small_case(n=3, architecture=""):
    """A network (a small one of no known architecture if none is named), `n` images of 96 pixels, and classes."""
    keras.utils.set_random_seed(0)
    if architecture:
        model = build.build(architecture, n_classes=N_CLASSES, image_size=96)
    else:
        inputs = keras.Input((96, 96, 1))
        x = layers.Rescaling(1 / 127.5, -1)(inputs)
        for filters, strides, name in ((6, 4, "first"), (40, 4, "conv"), (8, 1, "last")):
            x = layers.Conv2D(filters, 5, strides=strides, padding="same", activation="relu", name=name)(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        model = keras.Model(inputs, layers.Softmax()(layers.Dense(N_CLASSES, name="logits")(x)), name="small")
    images = np.random.default_rng(0).integers(0, 256, (n, 12, 12), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return model, images, np.array([4, 0, 2])[:n]


def explained(model, images, classes, **options):
    """Maps, variants, and why a variant is missing."""
    return explaining.checkpoint_explainer(model, with_variants=True, **options)(images, classes)


def logits(model, images):
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    return to_logits(tf.constant(np.asarray(images)[..., None], tf.float32)).numpy()


def linear(side, weights):
    """A model whose logits are the images' inner products with `weights` [side, side, n_classes]."""
    inputs = keras.Input((side, side, 1))
    x = layers.Conv2D(1, 1, use_bias=False, name="conv", kernel_initializer="ones")(inputs)
    dense = layers.Dense(weights.shape[-1], use_bias=False, name="logits")
    model = keras.Model(inputs, layers.Softmax()(dense(layers.Flatten()(x))))
    dense.set_weights([weights.reshape(side * side, -1)])
    return model


def test_one_table_says_which_methods_there_are():
    assert all(callable(explaining.function_of(name)) for name in TABLE)
    assert METHODS == tuple(LABELS) == tuple(TABLE) and len(set(LABELS.values())) == len(TABLE)
    assert tuple(cams_of()) == CAMS and cams_of(["occlusion", "hirescam", "layercam"]) == ["hirescam", "layercam"]
    assert AttributeParams.check({"method": list(METHODS)}, where="here").method == list(METHODS)
    with pytest.raises(
        InputError, match="method.*'layercam', 'gradcampp'.*or 'attention_rollout', got 'gradcamp'"
    ):
        AttributeParams.check({"method": ["gradcamp"]}, where="here")


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("cams", lambda activations, gradients: tf.reduce_max(activations, axis=-1).numpy()),
        ("perturbing", lambda model, layer, score: lambda images, classes: images.numpy()[:, ::16, ::16, 0]),
    ],
)
def test_a_new_method_takes_a_function_and_a_row_of_the_table(kind, function, monkeypatch):
    model, images, classes = small_case()
    monkeypatch.setitem(TABLE, "mine", Method("Mine", kind))
    monkeypatch.setattr({"cams": cams, "perturbing": perturbing}[kind], "mine", function, raising=False)
    found = explaining.attribute(model, images, classes, layer="conv", methods=["mine", "layercam"])
    assert list(found) == ["mine", "layercam"] and found["mine"].shape == (3, 6, 6) and found["mine"].max() > 0
    if kind == "cams":
        beside = explained(model, images, classes, layer="conv", methods=["mine"])
        np.testing.assert_array_equal(beside.maps["mine"], found["mine"])
        assert ("mine", "score-logit") in beside.variants


@pytest.mark.parametrize("with_variants", [True, False])
def test_a_checkpoint_is_explained_by_cams_together_and_by_others_one_by_one(with_variants):
    model, images, classes = small_case(2)
    chosen = ["occlusion", "layercam", "integrated_gradients", "gradcampp"]
    explain = explaining.checkpoint_explainer(
        model, layer="conv", methods=chosen, with_variants=with_variants, batch_size=2
    )
    found = explain(images, classes)
    assert list(found.maps) == chosen
    for name in chosen:
        alone = explaining.attribute(model, images, classes, layer="conv", methods=[name], batch_size=2)[name]
        np.testing.assert_allclose(found.maps[name], alone, rtol=1e-5, atol=1e-6 * alone.max())
    of_cams = {"methods": ["layercam", "gradcampp"], "batch_size": 2}
    expected = explained(model, images, classes, layer="conv", **of_cams)
    names = set(expected.variants) if with_variants else set()
    assert set(found.variants) == names and found.missing == (expected.missing if with_variants else {})


def test_every_method_gives_maps_that_depend_on_their_own_image_alone():
    model, images, classes = small_case()
    options = {"layer": "conv", "methods": FOR_ANY_NETWORK}
    whole = explaining.attribute(model, images, classes, batch_size=3, **options)
    assert list(whole) == FOR_ANY_NETWORK
    turned = explaining.attribute(model, images[::-1], classes[::-1], batch_size=2, **options)
    for name, maps in whole.items():
        grid = {"occlusion": (8, 8), "smoothgrad": (64, 64), "integrated_gradients": (64, 64)}.get(name, (6, 6))
        assert maps.shape == (3, *grid) and maps.dtype == np.float32
        assert maps.min() >= 0 and maps.max() > 0
        np.testing.assert_allclose(turned[name][::-1], maps, rtol=1e-2, atol=2e-3 * maps.max(), err_msg=name)


def test_a_model_is_compiled_once_for_a_layer_and_a_score(tmp_path, monkeypatch):
    made, own = [], cams.activations_and_gradients
    monkeypatch.setattr(cams, "activations_and_gradients", lambda *args: made.append(1) or own(*args))
    model, images, classes = small_case()

    def maps(n=3, **options):
        options = {"layer": "conv", "methods": ["layercam"], **options}
        return explaining.attribute(model, images[:n], classes[:n], **options)["layercam"]

    first = maps()
    np.testing.assert_allclose(maps(2), first[:2], rtol=1e-4, atol=1e-6 * first.max())
    assert len(made) == 1
    maps(layer="last"), maps(score="logit"), maps(methods=["layercam", "gradcam"])
    assert len(made) == 3  # all CAMs share one
    model.get_layer("logits").kernel.assign(-model.get_layer("logits").kernel)
    assert np.abs(maps() - first).max() > 0.1 * first.max() and len(made) == 3  # of the weights as they are now
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").count_params() == model.count_params()


def test_what_is_compiled_keeps_no_model_alive():
    model, images, classes = small_case()
    explaining.attribute(model, images, classes, layer="conv", methods=["layercam"])
    kept = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert kept() is None


def test_scorecam_step_by_step():
    model, images, classes = small_case(1)
    found = explaining.attribute(model, images, classes, layer="conv", methods=["scorecam"])["scorecam"]
    layer = model.get_layer("conv")
    x = tf.constant(images[..., None], tf.float32)
    a = keras.Model(model.input, layer.output)(x).numpy()[0]
    chosen = np.argsort(a.std((0, 1)))[-perturbing.SCORECAM_CHANNELS :]
    expected = np.zeros(a.shape[:2])
    position = np.linspace(0, 5, 96)  # tf-keras-vis enlarges with corners aligned
    for k in chosen:
        columns = np.stack([np.interp(position, range(6), row) for row in a[..., k]])
        mask = np.stack([np.interp(position, range(6), column) for column in columns.T]).T
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        masked = tf.constant((images[0] * mask)[None, ..., None], tf.float32)
        expected += model(masked).numpy()[0, classes[0]] * a[..., k]
    np.testing.assert_allclose(unit(found)[0], expected / expected.max(), rtol=1e-3)


def test_scorecam_of_probabilities_that_round_to_zero():
    model, images, classes = small_case(1)
    options = {"layer": "conv", "methods": ["scorecam"]}
    before = explaining.attribute(model, images, classes, **options)["scorecam"]
    model.get_layer("logits").bias.assign(-200.0 * np.eye(N_CLASSES)[classes[0]])
    assert model(images[..., None].astype(np.float32)).numpy()[0, classes[0]] == 0
    # at the start all classes are about equal, so that odds and probabilities differ by nearly a factor
    after = explaining.attribute(model, images, classes, **options)["scorecam"]
    np.testing.assert_allclose(unit(after), unit(before), atol=0.02)


def test_smoothgrad_is_tf_keras_vis_of_one_image_and_leaves_numpy_alone():
    model, images, classes = small_case(2)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = explaining.attribute(model, images, classes, layer="conv", methods=["smoothgrad"], score="logit")
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    to_logits = keras.Model([model.input], model.get_layer("logits").output)
    for number, class_index in enumerate(classes):
        np.random.seed(perturbing.SMOOTHGRAD_SEED)  # noqa: NPY002
        theirs = Saliency(to_logits, clone=False)(
            lambda output, c=class_index: output[:, c],
            images[number][None, ..., None].astype(np.float32),
            smooth_samples=perturbing.SMOOTHGRAD_SAMPLES,
            smooth_noise=perturbing.SMOOTHGRAD_NOISE,
            normalize_map=False,
        )
        # 96 pixels on 64 cells of one and a half: three pixels make two cells
        pixels = np.asarray(theirs)[0].repeat(2, 0).repeat(2, 1)
        cells = pixels.reshape(64, 3, 64, 3).mean((1, 3))
        np.testing.assert_allclose(found["smoothgrad"][number], cells, rtol=1e-3, atol=1e-4 * cells.max())


@pytest.mark.parametrize("score", ["log_odds", "logit"])
def test_integrated_gradients_are_complete(score):
    model, images, classes = small_case()
    x, c = tf.constant(images[..., None], tf.float32), tf.constant(classes, tf.int32)
    signed = perturbing.signed_integrated_gradients(model, score)(x, c)
    assert signed.shape == images.shape and signed.min() < 0 < signed.max()
    grey = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    of_image, of_grey = (score_of(tf.constant(logits(model, x)), classes, score).numpy() for x in (images, grey))
    rise = of_image - of_grey
    assert np.abs(rise).min() > 1e-3
    np.testing.assert_allclose(signed.sum((1, 2)), rise, atol=0.01 * np.abs(rise).mean())


def test_integrated_gradients_of_a_linear_model_are_exact_and_rectified_by_cell():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(128, 128, 2)).astype(np.float32)
    model = linear(128, weights)
    images = rng.integers(0, 256, (1, 128, 128), dtype=np.uint8)
    # of two classes the log-odds are the difference of the logits
    signed = (images[0] - images[0].mean()) * (weights[..., 1] - weights[..., 0])
    cells = signed.reshape(64, 2, 64, 2).mean((1, 3))
    found = explaining.attribute(model, images, np.array([1]), layer="conv", methods=["integrated_gradients"])
    np.testing.assert_allclose(
        found["integrated_gradients"][0], np.maximum(cells, 0), rtol=1e-3, atol=1e-3 * cells.max()
    )


def test_occlusion_finds_a_planted_patch():
    # class 1 sees rows 24 to 31, columns 40 to 47 (cell 3, 5) for it, and the cell beside it against it
    weights = np.zeros((64, 64, 2), np.float32)
    weights[24:32, 40:48, 1] = 1
    weights[24:32, 48:56, 1] = -1
    images = np.full((1, 64, 64), 50, np.uint8)
    images[0, 24:32, 40:56] = 200
    maps = explaining.attribute(linear(64, weights), images, np.array([1]), layer="conv", methods=["occlusion"])[
        "occlusion"
    ]
    expected = np.zeros((8, 8))
    expected[3, 5] = 64 * (200 - images.mean())
    np.testing.assert_allclose(maps[0], expected, rtol=1e-5)


def test_occlusion_cells_tile_an_image_that_they_do_not_divide():
    weights = np.ones((36, 36, 2), np.float32) * np.array([1, 0], np.float32)
    images = np.random.default_rng(0).integers(0, 256, (1, 36, 36), dtype=np.uint8)
    images[0, :20] += np.uint8(255) - images[0, :20]  # bright above: every cell there counts
    maps = explaining.attribute(linear(36, weights), images, np.array([0]), layer="conv", methods=["occlusion"])[
        "occlusion"
    ][0]
    above = (images - images.mean())[0][:18].sum()  # the first four of eight rows
    np.testing.assert_allclose(maps[:4].sum(), above, rtol=1e-4)


def test_gradient_of_the_probability():
    model, images, classes = small_case()
    layer = "conv"
    compute = cams.activations_and_gradients(model, [(layer, "probability"), (layer, "logit")])
    x = tf.constant(images[..., None], tf.float32)
    [(_, found), _], _ = compute(x, tf.constant(classes, tf.int32))
    p = tf.nn.softmax(logits(model, images)).numpy()
    per_class = np.stack(
        [compute(x, tf.constant([j] * 3, tf.int32))[0][1][1].numpy() for j in range(N_CLASSES)], axis=1
    )
    mean = (p[..., None, None, None] * per_class).sum(1)
    rows = np.arange(3)
    expected = p[rows, classes][:, None, None, None] * (per_class[rows, classes] - mean)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_gradient_of_a_probability_that_rounds_to_one():
    model, images, classes = small_case(1)
    model.get_layer("logits").bias.assign(20.0 * np.eye(N_CLASSES)[classes[0]])
    assert model(images[..., None].astype(np.float32)).numpy().max() == 1
    layer = "conv"
    found = explaining.attribute(model, images, classes, layer=layer, methods=CAMS, score="probability")
    assert all(maps.max() > 0 for maps in found.values())


def test_fused_by_hand():
    # two layers, 1x2 and 2x4: columns of the small one reach 0, 1/4, 3/4, 1 of the way on the large grid
    small = np.array([[[2.0, 6.0]]])
    large = np.array([[[0.0, 1.0, 2.0, 4.0], [4.0, 0.0, 0.0, 0.0]]])
    t = np.tanh(2.0)
    spread = np.array([0, t / 4, 3 * t / 4, t])
    expected = np.maximum(np.tanh(large[0] / 2), spread)
    np.testing.assert_allclose(cams.fuse([small, large])[0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        cams.fuse([small, np.zeros((1, 8, 8))])[0],
        map_grids.upsample(np.tanh([[[0.0, 2.0]]]), 8)[0],
        rtol=1e-6,
        err_msg="a constant map adds nothing",
    )
    assert np.isnan(cams.fuse([small * np.nan, large])).all()
    assert cams.fuse([small * 0, large * 0]).max() == 0


def test_variants():
    model, images, classes = small_case(architecture="CompactResNetV2")
    at = {"layer": "penultimate", "methods": CAMS, "batch_size": 2}
    defaults, found, missing = explained(model, images, classes, **at)
    names = {
        "layer-shallower": "conv3_block3_preact_relu",
        "layer-penultimate_cut": "conv4_block3_out",
        "score-logit": "conv4_block4_preact_relu",
        "score-probability": "conv4_block4_preact_relu",
        "layers-fused": "conv3_block3_preact_relu+conv4_block4_preact_relu",
    }
    for method in CAMS:
        left_out = {"score-probability"} if TABLE[method].proportional else set()
        left_out |= {"layers-fused"} if method != "layercam" else set()
        expected = {name: layer for name, layer in names.items() if name not in left_out}
        assert {v: found[m, v].layer for m, v in found if m == method} == expected
    # 96 px leave 3x3 at stride 32: why is told, as it is for another name of a layer that is there
    assert set(missing) == {"layer-penultimate", "layer-last_conv", "layer-final", "score-probability"}
    same = "maps of LayerCAM and Grad-CAM and HiResCAM are up to a factor those of log_odds"
    assert missing["score-probability"] == same
    assert missing["layer-penultimate"] == "conv4_block4_preact_relu is the layer of default"
    assert "3x3" in missing["layer-final"] and "3x3" in missing["layer-last_conv"]

    alone = {
        layer: explaining.attribute(model, images, classes, layer=layer, methods=CAMS, batch_size=2)
        for layer in {names[name] for name in ("score-logit", "layer-shallower", "layer-penultimate_cut")}
    }
    for method, of_default in defaults.items():
        expected = alone[names["score-logit"]][method]
        np.testing.assert_allclose(of_default, expected, rtol=1e-5, atol=1e-6 * expected.max())
    for (method, variant), result in found.items():
        assert result.maps.dtype == np.float32 and result.maps.min() >= 0
        assert result.maps.shape == (3, *((12, 12) if result.layer.startswith("conv3") else (6, 6)))
        if variant.startswith("layer-"):
            expected = alone[result.layer][method]
            np.testing.assert_allclose(result.maps, expected, rtol=1e-5, atol=1e-6 * expected.max())
        elif variant == "layers-fused":
            parts = [alone[layer][method] for layer in result.layer.split("+")]
            np.testing.assert_allclose(result.maps, cams.fuse(parts), atol=1e-5)
        else:
            assert np.abs(result.maps - alone[result.layer][method]).max() > 1e-2 * result.maps.max()


def test_the_table_says_which_maps_log_odds_and_probability_share():
    model, images, classes = small_case()
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 20, bias])  # where gradients are small, Grad-CAM++ is LayerCAM
    options = {"layer": "conv", "methods": CAMS}
    a, b = (explaining.attribute(model, images, classes, score=s, **options) for s in ("log_odds", "probability"))
    for name in CAMS:
        seen = (a[name].max((1, 2)) > 0) & (b[name].max((1, 2)) > 0)
        assert seen.any()
        off = np.abs(unit(a[name][seen]) - unit(b[name][seen])).max()
        assert off < 1e-5 if TABLE[name].proportional else off > 1e-3, (name, off)


@pytest.mark.parametrize("score", SCORES)
def test_variants_of_other_scores_are_those_scores_maps(score):
    model, images, classes = small_case()
    options = {"layer": "conv", "methods": ["layercam", "gradcampp"]}
    found = explained(model, images, classes, score=score, **options).variants
    others = {(m, v) for m, v in found if v.startswith("score-")}
    expected = {(m, f"score-{other}") for m in options["methods"] for other in SCORES if other != score}
    assert (
        others
        == expected
        - {
            "log_odds": {("layercam", "score-probability")},
            "probability": {("layercam", "score-log_odds")},
            "logit": set(),
        }[score]
    )
    for method, variant in others:
        own = variant.removeprefix("score-")
        alone = explaining.attribute(model, images, classes, score=own, **options)[method]
        np.testing.assert_allclose(found[method, variant].maps, alone, rtol=1e-4, atol=1e-6 * alone.max())


def test_variants_of_outputs_with_sigmoids_and_of_a_model_without_probabilities():
    model, images, classes = small_case()
    options = {"layer": "conv", "methods": ["layercam", "gradcampp"]}
    scores_alone = keras.Model(model.input, layers.Activation("sigmoid")(model.get_layer("logits").output))
    _, found, missing = explained(scores_alone, images, classes, **options)
    assert {key for key in found if key[1].startswith("score-")} == {("gradcampp", "score-probability")}
    assert missing["score-logit"] == "maps of LayerCAM and Grad-CAM++ are equal to those of log_odds"
    without = keras.Model(model.input, model.get_layer("logits").output, name="bare")
    _, found, missing = explained(without, images, classes, score="logit", **options)
    assert not [key for key in found if key[1].startswith("score-")]
    assert "bare ends with 'logits'" in missing["score-log_odds"] and "score-probability" in missing
    with pytest.raises(InputError, match="bare ends with 'logits', .* or explain the logit"):
        explaining.attribute(without, images, classes, layer="conv")


def test_variants_of_a_layer_that_two_targets_share():
    model, images, classes = small_case(1, "CompactDenseNet")
    _, found, missing = explained(model, images, classes, layer="shallower", methods=["layercam"])
    assert found["layercam", "layer-penultimate"].layer == "pool4_relu"
    assert missing["layer-penultimate_cut"] == "pool4_relu is the layer of layer-penultimate"
    assert found["layercam", "layers-fused"].layer == "pool3_relu+pool4_relu"


def test_variants_where_there_is_one_feature_map():
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    model = linear(8, np.ones((8, 8, 2), np.float32))
    _, found, missing = explained(model, images, np.array([0]), layer="conv", methods=["layercam", "gradcampp"])
    assert {variant for _, variant in found} == {"score-logit", "score-probability"}
    assert missing["layers-fused"] == "needs two of shallower, penultimate and final, and there are 1"


def test_heads():
    model, images, classes = small_case()
    rng = np.random.default_rng(1)
    kernel, bias = model.get_layer("logits").get_weights()
    others = [(rng.normal(size=kernel.shape).astype(np.float32), bias + 1), (kernel, bias)]
    explain = explaining.explainer(model, layer="conv")
    found = []
    for head in others:
        with explaining.head(model, *head):
            found.append(explain(images, classes))
    first, second = found
    own = explaining.attribute(model, images, classes, layer="conv")
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], kernel)
    model.get_layer("logits").set_weights(list(others[0]))
    rebuilt = explaining.attribute(model, images, classes, layer="conv")
    for name in own:
        np.testing.assert_allclose(first[name], rebuilt[name], rtol=1e-5, atol=1e-6 * first[name].max())
        np.testing.assert_allclose(second[name], own[name], rtol=1e-5, atol=1e-6 * own[name].max())
        assert np.abs(unit(first[name]) - unit(own[name])).max() > 1e-2


def test_a_head_is_given_back_after_an_error():
    model, *_ = small_case(1)
    kernel, bias = model.get_layer("logits").get_weights()
    with pytest.raises(KeyError), explaining.head(model, kernel * 0, bias):
        assert model.get_layer("logits").get_weights()[0].max() == 0
        raise KeyError
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], kernel)
    with (
        pytest.raises(InputError, match=r"head: small needs .* got \[\(3, 5\), \(5,\)\]"),
        explaining.head(model, kernel[:3], bias),
    ):
        pass


def test_bad_input():
    model = build.build("CompactResNetV2", n_classes=2, image_size=64)
    images = np.zeros((1, 64, 64), np.uint8)
    with pytest.raises(InputError, match="method: unknown gradcam3: use layercam, gradcampp"):
        explaining.attribute(model, images, np.array([0]), layer="penultimate", methods=["gradcam3"])
    with pytest.raises(InputError, match="no layer 'conv4_block3_ou'.*such as conv4_block3_out"):
        explaining.attribute(model, images, np.array([0]), layer="conv4_block3_ou")
    with pytest.raises(InputError, match="has no feature map"):
        explaining.attribute(model, images, np.array([0]), layer="pool")
    with pytest.raises(InputError, match="no image"):
        explaining.attribute(model, images[:0], np.array([], int), layer="penultimate")
    with pytest.raises(InputError, match="score: unknown softmax: use log_odds, logit, probability"):
        explaining.attribute(model, images, np.array([0]), layer="penultimate", score="softmax")
