import impostors
import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers
from scipy.special import logsumexp

from cxr.attribution import explaining, following, map_checks, passing, randomising
from cxr.attribution.map_checks import CHECKS
from cxr.core.errors import InputError
from cxr.metrics import map_grids
from cxr.report.figures import checks as figures_of_checks
from cxr.statistics import bootstrap

SIDE = 32


def linear_model(weights):
    """Logits sum(weights[..., c] * image) / 255 for weights [side, side, classes], and their softmax."""
    side, _, classes = np.shape(weights)
    inputs = keras.Input((side, side, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="pixels")(x)  # a feature map
    x = layers.Flatten()(x)
    x = layers.Dense(classes, use_bias=False, name="logits")(x)
    model = keras.Model(inputs, layers.Activation("softmax", name="probabilities")(x))
    model.get_layer("logits").set_weights([np.reshape(weights, (-1, classes))])
    return model


def noise_images(n, seed=0, side=8):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


# One class that counts, over a second one of logit 0: the log-odds of class 1 are its logit.
ONE = np.dstack([np.zeros((2, 2)), [[0.5, 0.25], [0.125, 0.125]]])
IMAGE = np.array([[[240, 120], [60, 60]]], np.uint8)


def followed(maps, images=IMAGE, weights=ONE, **options):
    predict = following.logits_function(linear_model(weights))
    return following.follow(predict, images, maps, **{"blur": 10, **options})


def test_logits_worked_out_by_hand():
    # Grey 240, 120, 60, 60 have the mean 120: replaced in turn by 120, the logit (times 255) falls by 60, stays,
    # rises by 7.5 and 7.5, from 120 + 30 + 7.5 + 7.5 = 165 to 120.
    maps = {"good": np.array([[[4, 3], [2, 1]]]), "bad": np.array([[[1, 3], [4, 3.5]]])}
    found = {
        (key, share): values[0, :, 1] * 255
        for share in (0.25, 0.75)
        for key, values in followed(maps, share=share).items()
    }
    assert all((values[0, :, 0] == 0).all() for values in followed(maps).values())
    np.testing.assert_allclose(found["good", 0.25], [105, 180], rtol=1e-5)
    np.testing.assert_allclose(found["good", 0.75], [112.5, 172.5], rtol=1e-5)
    # pixels in the order 2, 3, 1, 0
    np.testing.assert_allclose(found["bad", 0.25], [172.5, 112.5], rtol=1e-5)
    np.testing.assert_allclose(found["bad", 0.75], [180, 105], rtol=1e-5)


MAPS = hnp.arrays(np.float32, (3, 4, 4), elements=st.sampled_from(np.linspace(0, 1, 9, dtype=np.float32)))


@settings(max_examples=20)
@given(values=MAPS)
def test_what_one_kind_blurs_the_other_keeps(values):
    """Of a linear model, the logits of both add up to those of the image and the blurred image, for any map."""
    weights = np.random.default_rng(1).normal(size=(8, 8, 2))
    images = noise_images(3)
    found, other = (followed({"map": values}, images, weights, share=share)["map"].sum(1) for share in (0.2, 0.7))
    np.testing.assert_allclose(found, other, rtol=1e-3, atol=1e-3)


def test_deletion_by_a_map_is_insertion_by_its_reverse():
    values = np.random.default_rng(0).random((3, 8, 8))
    weights = np.random.default_rng(1).normal(size=(8, 8, 2))
    few, most = (
        followed({"map": values, "reverse": -values}, noise_images(3), weights, share=share)
        for share in (0.25, 0.75)
    )
    np.testing.assert_allclose(few["map"][:, 0], most["reverse"][:, 1], rtol=1e-4, atol=1e-5)


def test_better_maps_lose_more_and_keep_more():
    """The more of a linear model's evidence a map ranks right, the lower is deletion and the higher insertion."""
    rng = np.random.default_rng(3)
    images, weights = noise_images(20), np.dstack([np.zeros((8, 8)), rng.normal(size=(8, 8))])
    truth = weights[..., 1] * (images - images.mean((1, 2), keepdims=True))
    maps = {noise: truth + noise * truth.std() * rng.normal(size=truth.shape) for noise in (0, 1, 4, 100)}
    deletion, insertion = np.moveaxis(
        np.array([values[..., 1].mean(0) for values in followed(maps, images, weights).values()]), 1, 0
    )
    assert (np.diff(deletion) > 0).all() and (np.diff(insertion) < 0).all()


def test_a_row_depends_on_its_image_and_map_alone():
    values, images = np.random.default_rng(0).random((3, 4, 4)), noise_images(3)
    weights = np.random.default_rng(1).normal(size=(8, 8, 3))
    all_of_them = followed({"map": values, "other": values[::-1]}, images, weights)["map"]
    alone = followed({"map": values[:1]}, images[:1], weights, batch_size=3)["map"]
    np.testing.assert_allclose(alone, all_of_them[:1], rtol=1e-4, atol=1e-5)


def test_only_the_kinds_that_are_asked_for_are_predicted():
    maps = {"both": np.random.default_rng(0).random((3, 4, 4)), "one": np.random.default_rng(1).random((3, 4, 4))}
    predict = following.logits_function(linear_model(np.random.default_rng(1).normal(size=(8, 8, 2))))
    counts = []

    def counted(images):
        counts.append(len(images))
        return predict(images)

    everything = following.follow(counted, noise_images(3), maps, batch_size=5)
    assert sum(counts) == 12
    counts.clear()
    kinds = {"both": following.KINDS, "one": ("insertion",)}
    some = following.follow(counted, noise_images(3), maps, kinds=kinds, batch_size=5)
    assert sum(counts) == 9
    np.testing.assert_allclose(some["both"], everything["both"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(some["one"][:, 1], everything["one"][:, 1], rtol=1e-5, atol=1e-6)
    assert np.isnan(some["one"][:, 0]).all()


def test_a_map_that_says_nothing_counts_as_the_random_map_of_its_grid():
    images, weights = noise_images(2), np.random.default_rng(1).normal(size=(8, 8, 2))
    maps = {
        "random": following.random_maps(2, (4, 4), 7),
        "zero": np.zeros((2, 4, 4)),
        "broken": np.full((2, 4, 4), np.nan),
    }
    found = followed(maps, images, weights, rng_seed=7)
    for name in ("zero", "broken"):
        np.testing.assert_array_equal(found[name], found["random"])
    other = followed(maps, images, weights, rng_seed=8)
    assert not np.array_equal(other["zero"], found["zero"])


def test_ties_are_ordered_by_the_random_map_and_then_by_index():
    values = np.array([[0.0, 1.0], [0.0, 0.0]])
    ties = np.array([[0.2, 0.9], [0.7, 0.2]])
    order = [(0, 1), (1, 0), (0, 0), (1, 1)]
    for count in range(1, 5):
        inside = following.strongest(values, ties, count)
        assert sorted(order[:count]) == [tuple(place) for place in np.argwhere(inside)]


def test_one_trace_serves_all_batches_and_progress_is_printed(capsys):
    traces = []

    class Counting(layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    inputs = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(Counting()(inputs))
    model = keras.Model(inputs, layers.Softmax()(layers.Dense(2, name="logits")(x)))
    predict, built = following.logits_function(model), len(traces)
    maps = {"map": np.random.default_rng(0).random((3, 4, 4))}
    following.follow(predict, noise_images(3), maps, batch_size=7, label="ours")
    assert len(traces) == built + 1
    assert capsys.readouterr().out.splitlines()[-1] == "» ours: image 3/3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 8, 4), np.uint8)}, r"grey values uint8 \[n, side, side\], got uint8 \(3, 8, 4\)"),
        ({"images": np.zeros((3, 8, 8))}, "got float64"),
        ({"maps": {}}, "there is no set of maps"),
        ({"maps": {"m": np.zeros((2, 4, 4))}}, "2 maps by m for 3 images"),
        ({"maps": {"m": np.zeros((3, 32, 32))}}, "cannot be brought to 8x8"),
        ({"share": 0}, "share must lie between 0 and 1"),
        ({"share": 1}, "share must lie between 0 and 1"),
        ({"blur": 0}, "blur must be positive"),
    ],
)
def test_bad_input_to_follow(change, message):
    call = {"images": noise_images(3), "maps": {"m": np.zeros((3, 4, 4))}}
    with pytest.raises(InputError, match=message):
        following.follow(lambda images: images[:, 0, :2], **call | change)


def conv_model(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn", moving_mean_initializer="random_normal")(x)
    x = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(3, name="logits")(x)))


def test_weights_are_drawn_from_each_tensors_own_and_come_back_bit_by_bit():
    model = conv_model()
    before = {weight.path: weight.numpy() for weight in model.weights}
    with randomising.randomised(model.layers, 0):
        for weight in model.weights:
            if "float" in str(weight.dtype):
                assert np.isin(weight.numpy(), before[weight.path]).all(), weight.path
                assert np.array_equal(weight, before[weight.path]) == (np.ptp(before[weight.path]) == 0), (
                    weight.path
                )
        changed = model.get_layer("conv").kernel.numpy()
        assert 12 < len(np.unique(changed)) < 36, "36 draws with replacement: about 63 % of the entries are drawn"
        with randomising.randomised([model.get_layer("conv")], 5):
            assert not np.array_equal(model.get_layer("conv").kernel, changed)
        np.testing.assert_array_equal(model.get_layer("conv").kernel, changed)
    for weight in model.weights:
        np.testing.assert_array_equal(weight, before[weight.path])


def test_weights_come_back_after_an_error():
    model = conv_model()
    before = [weight.numpy() for weight in model.weights]

    def explain(images, classes):
        assert not np.array_equal(model.get_layer("conv").kernel, before[0])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        randomising.explained(explain, model.layers, noise_images(4), np.zeros(4, int), draws=2)
    for own, now in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(own, now)


def test_each_image_is_explained_under_one_draw():
    model, images, classes = conv_model(), noise_images(7), np.arange(7)
    kernel = model.get_layer("conv").kernel
    calls = []

    def explain(images, classes):
        calls.append(classes.tolist())
        values = images / 255 * kernel.numpy()[0, 0, 0, 0] + classes[:, None, None] * images[:, ::-1]
        values[classes == 3] = 0
        return {"map": values}

    found = randomising.explained(explain, [model.get_layer("conv")], images, classes, draws=3, rng_seed=4)["map"]
    assert sorted(map(len, calls)) == [2, 2, 3] and sorted(sum(calls, [])) == list(range(7))
    np.testing.assert_array_equal(
        found,
        randomising.explained(explain, [model.get_layer("conv")], images, classes, draws=3, rng_seed=4)["map"],
    )
    assert (found[3] == 0).all() and found.dtype == np.float32, "an empty map says nothing"
    for draw, rows in enumerate(calls[:3]):
        with randomising.randomised([model.get_layer("conv")], [4, draw]):
            expected = map_grids.normalise(explain(images[rows], classes[rows])["map"])
        np.testing.assert_array_equal(found[rows], np.nan_to_num(expected))


def by_hand(model, image, values, share=0.2):
    """Logits [2, c] of one image of a linear model: another way than `follow`. The map has no ties."""
    kernel = model.get_layer("logits").get_weights()[0]
    order = np.argsort(-values.ravel())
    grey = following.gaussian_filter(image.astype(np.float32), image.shape[0] / 16, mode="reflect").ravel()
    found = []
    top, rest = np.split(order, [round(share * order.size)])
    for blurred in (top, rest):
        pixels = image.ravel().astype(float)
        pixels[blurred] = grey[blurred]
        found.append(pixels @ kernel / 255)
    return np.array(found)


def test_gains_of_a_linear_model_by_hand():
    """The evidence of a linear model is pixels times weights."""
    rng = np.random.default_rng(0)
    images, classes = noise_images(4), np.array([0, 2, 1, 0])
    weights = rng.normal(size=(8, 8, 3))
    model = linear_model(weights)
    kernel = model.get_layer("logits").kernel

    def evidence(images, classes, methods=("map",)):
        return {"map": images * np.moveaxis(np.reshape(kernel, (8, 8, 3))[..., classes], -1, 0)}

    table = map_checks.gains(model, evidence, images, classes, evidence(images, classes), rng_seed=3)
    assert list(table) == ["method", "row", "check", "gain"] and len(table) == 4 * 5
    got = table.pivot(index="row", columns="check", values="gain")
    random = following.random_maps(4, (8, 8), 3)
    for row, c in enumerate(classes):
        logits = weights.reshape(-1, 3).T @ images[row].ravel() / 255
        other = max(set(range(3)) - {int(c)}, key=lambda k: logits[k])

        def odds(z, c=c):  # deletion, insertion
            return z[:, c] - logsumexp(np.delete(z, c, -1), axis=-1)

        def pair(z, c=c, other=other):
            return z[:, c] - z[:, other]

        own, wrong = (by_hand(model, images[row], evidence(images, np.full(4, k))["map"][row]) for k in (c, other))
        noise = by_hand(model, images[row], random[row])
        reverse = by_hand(model, images[row], -random[row])
        chance = (odds(noise) + odds(reverse)) / 2
        assert got.loc[row, "deletion"] == pytest.approx(chance[0] - odds(own)[0], abs=1e-4)
        assert got.loc[row, "insertion"] == pytest.approx(odds(own)[1] - chance[1], abs=1e-4)
        expected = ((pair(wrong) - pair(own))[0] + (pair(own) - pair(wrong))[1]) / 2
        assert got.loc[row, "class"] == pytest.approx(expected, abs=1e-4)
        for check, randomised in (("head", [model.get_layer("logits")]), ("weights", model.layers)):
            shuffled = []
            for draw in range(5):
                with randomising.randomised(randomised, [3, draw]):
                    rival = evidence(images, classes)["map"][row]
                away = by_hand(model, images[row], rival)
                shuffled.append(((odds(away) - odds(own))[0] + (odds(own) - odds(away))[1]) / 2)
            assert np.abs(np.array(shuffled) - got.loc[row, check]).min() < 1e-4, (
                f"{check}: under one of the draws"
            )


def test_empty_maps_have_no_gain_and_empty_rivals_count_as_chance():
    images, classes = noise_images(4), np.array([0, 1, 1, 0])
    weights = np.random.default_rng(0).normal(size=(8, 8, 2))
    model = linear_model(weights)

    def explain(images, classes, methods=("map",)):  # there is a map for class 1 alone
        return {"map": images * (classes == 1)[:, None, None]}

    got = map_checks.gains(model, explain, images, classes, explain(images, classes))
    got = got.pivot(index="row", columns="check", values="gain")
    assert got.loc[[0, 3]].isna().all(axis=None) and got.loc[[1, 2]].notna().all(axis=None)
    random = {"map": following.random_maps(4, (8, 8))}
    chance = followed(random, images, weights, blur=1 / 16)["map"]
    own = followed({"map": images}, images, weights, blur=1 / 16)["map"]
    margin = (own - chance)[..., 1] - (own - chance)[..., 0]
    np.testing.assert_allclose(got["class"][[1, 2]], (margin[:, 1] - margin[:, 0])[[1, 2]] / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": noise_images(3, side=4)}, r"images must be \[n, 8, 8\], as the model takes them"),
        ({"class_index": np.array([0, 1])}, "one integer for each of 3 images"),
        ({"class_index": np.array([0.0, 1, 1])}, "one integer for each of 3 images, got float64"),
        ({"class_index": np.array([0, 1, 2])}, "between 0 and 1"),
    ],
)
def test_bad_input_to_gains(change, message):
    call = {"images": noise_images(3), "class_index": np.array([0, 1, 0]), "maps": {}}
    with pytest.raises(InputError, match=message):
        map_checks.gains(linear_model(np.ones((8, 8, 2))), lambda *_: {}, **call | change)


def texture_network():
    """Three classes, each a direction of stripes that four filters of its own see, in four phases."""
    rows, columns = np.mgrid[:5, :5]
    directions = [rows, columns, rows + columns]
    waves = [np.cos(2 * np.pi * across / 4 + turn * np.pi / 2) for across in directions for turn in range(4)]
    filters = [(wave - wave.mean()) / wave.std() for wave in waves]
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(12, 5, strides=3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Softmax()(layers.Dense(3, name="logits")(x)), name="textures")
    model.get_layer("conv").set_weights([np.stack(filters, -1)[:, :, None], np.zeros(12)])
    head = np.kron(np.eye(3), np.ones((4, 1))) + np.random.default_rng(0).normal(0, 0.1, (12, 3))
    model.get_layer("logits").set_weights([10 * head, np.zeros(3)])
    return model


def texture_images(n, seed=0):
    """A patch of stripes for each class in three corners; those of the image's class are the strongest."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    across = [rows, columns, rows + columns]
    images, classes = rng.normal(110, 12, (n, SIDE, SIDE)), np.arange(n) % 3
    for image, c in zip(images, classes, strict=True):
        corners = rng.permutation([(0, 0), (0, 16), (16, 0), (16, 16)])
        for turn, (top, left) in enumerate(corners[:3]):
            part = np.s_[top + 2 : top + 14, left + 2 : left + 14]
            strength = (60, 30, 15)[turn] * rng.uniform(0.8, 1.2)
            image[part] += strength * np.cos(2 * np.pi * across[(c + turn) % 3][part] / 4 + rng.uniform(0, 6))
    return images.clip(0, 255).astype(np.uint8), classes


@pytest.fixture(scope="module")
def judged():
    """The verdict on LayerCAM of a network that is known, and on its impostors."""
    model = texture_network()
    images, classes = texture_images(45)
    right = following.logits_function(model)(images).argmax(1) == classes
    assert right.mean() > 0.8, right.mean()
    images, classes = images[right], classes[right]
    explainer = explaining.explainer(model, layer="conv", methods=("layercam",))

    def layercam(images, classes):
        return explainer(images, classes)["layercam"]

    maps = {
        "layercam": layercam,
        "wrong class": impostors.wrong_class(model, layercam),
        "no head": impostors.head_free(model, "conv"),
        "edges": impostors.edges,
    }
    kept = [weight.numpy() for weight in model.weights]

    def explain(images, classes, methods):
        return {name: maps[name](images, classes) for name in methods}

    gains = map_checks.gains(model, explain, images, classes, explain(images, classes, list(maps)))
    for own, now in zip(kept, model.weights, strict=True):
        np.testing.assert_array_equal(own, now)
    return passing.verdict(gains.assign(checkpoint="after"), np.arange(len(images))).set_index("method")


def test_the_map_passes(judged):
    assert judged.loc["layercam", "reason"] == "" and judged.loc["layercam", "passes_checks"]


@pytest.mark.parametrize(
    ("impostor", "reason"),
    [
        ("wrong class", "worse than the map for another class"),
        ("no head", "the same as the map for another class"),
        ("no head", "the same as the map under a random head"),
        ("edges", "the same as the map of a random network"),
    ],
)
def test_impostors_fail_and_the_reason_says_why(judged, impostor, reason):
    assert not judged.loc[impostor, "passes_checks"] and reason in judged.loc[impostor, "reason"].split("; ")


def test_images_are_measured_until_the_verdict_is_clear():
    """LayerCAM of the known network passes after a part of the images; random maps, called another, fail early."""
    model = texture_network()
    images, classes = texture_images(120)
    right = following.logits_function(model)(images).argmax(1) == classes
    images, classes = images[right], classes[right]
    patients = np.arange(len(images))
    maps = explaining.attribute(model, images, classes, layer="conv", methods=("layercam", "gradcam"))
    maps["gradcam"] = following.random_maps(len(images), maps["gradcam"].shape[1:], 99).astype(np.float32)
    gains = map_checks.until_settled(model, images, classes, patients, maps, layer="conv")
    looks = passing.looks(len(images))
    n_rows = {}
    for (method, check), part in gains.groupby(["method", "check"]):
        assert sorted(part["row"]) == list(range(len(part))) and len(part) in looks
        n_rows.setdefault(method, {})[check] = len(part)
    assert max(n_rows["layercam"].values()) < len(images) and set(n_rows["gradcam"].values()) == {looks[0]}
    found = passing.verdict(gains.assign(checkpoint="after"), patients).set_index("method")
    assert found["passes_checks"].to_dict() == {"layercam": True, "gradcam": False}
    assert found["n_images"].to_dict() == {method: max(of.values()) for method, of in n_rows.items()}
    assert (found["n_empty"] == 0).all()

    def explain(images, classes, methods):
        return explaining.attribute(model, images, classes, layer="conv", methods=methods)

    part = slice(0, looks[0])
    alone = map_checks.gains(model, explain, images[part], classes[part], {"layercam": maps["layercam"][part]})
    same = gains[(gains["method"] == "layercam") & (gains["row"] < looks[0])].sort_values(["check", "row"])
    np.testing.assert_allclose(same["gain"], alone.sort_values(["check", "row"])["gain"], atol=1e-3)


def test_only_the_checks_that_are_asked_for_are_measured_and_their_gains_are_the_same():
    model = texture_network()
    images, classes = texture_images(6)
    calls = []

    def explain(images, classes, methods):
        calls.append(tuple(methods))
        return explaining.attribute(model, images, classes, layer="conv", methods=methods)

    maps = explain(images, classes, ("layercam", "gradcam"))
    everything = map_checks.gains(model, explain, images, classes, maps)
    calls.clear()
    asked = {"layercam": ("class", "deletion"), "gradcam": ("insertion",)}  # with one random map for both
    some = map_checks.gains(model, explain, images, classes, maps, checks=asked)
    assert calls == [("layercam",)], "only the rival for another class was explained, for one method"
    assert {name: tuple(part["check"].unique()) for name, part in some.groupby("method")} == asked
    both = some.merge(everything, on=["method", "row", "check"], validate="1:1")
    assert len(both) == len(some) == 18
    np.testing.assert_allclose(both["gain_x"], both["gain_y"], atol=1e-4)


def errors_above_zero(z, n=4000, rng_seed=0):
    """Gains of all checks for `n` patients, whose mean lies `z` standard errors above 0."""
    values = np.random.default_rng(rng_seed).standard_normal(n)
    values = (values - values.mean()) / values.std(ddof=1) + z / np.sqrt(n)
    return pd.DataFrame({"row": np.arange(n), **dict.fromkeys(CHECKS, values)}).melt(
        "row", var_name="check", value_name="gain"
    )


@pytest.mark.parametrize(
    ("share", "z", "clear"),
    [
        (0.25, 4.40, True),  # the bounds of O'Brien and Fleming type: 4.333, 2.963 and 2.340
        (0.25, 4.27, False),
        (0.5, 3.00, True),
        (0.5, 2.90, False),
        (0.75, 2.40, True),
        (0.75, 2.28, False),
        # the chance to pass if the gain is z + 1.645: at a half, 1 - Phi(1.96 sqrt(2) - (2 z + 1.645))
        (0.5, -0.55, False),  # 0.013
        (0.5, -0.65, True),  # 0.008
        (0.25, -1.20, False),  # 0.014, of 1 - Phi((1.96 - z / 2 - 1.5 (z + 1.645)) / sqrt(0.75))
        (0.25, -1.30, True),  # 0.008
        (0.75, 0.35, False),  # 0.015, of 1 - Phi((1.96 - sqrt(0.75) z - 0.25 (z + 1.645) / sqrt(0.75)) / 0.5)
        (0.75, 0.20, True),  # 0.006
    ],
)
def test_when_a_verdict_is_clear(share, z, clear):
    assert passing.unsettled(errors_above_zero(z), np.arange(4000), share) == (() if clear else CHECKS)


def test_one_hopeless_check_is_enough_and_four_good_ones_are_not():
    good, bad, weak = (errors_above_zero(z) for z in (9.0, -2.0, 1.5))
    for other, left in ((bad, ()), (weak, ("head",))):
        mixed = pd.concat([good[good["check"] != "head"], other[other["check"] == "head"]])
        assert passing.unsettled(mixed, np.arange(4000), 0.5) == left
    assert passing.unsettled(weak[weak["check"] == "head"], np.arange(4000), 0.5) == ("head",)


def test_patients_are_clusters_and_few_tell_nothing():
    gains = errors_above_zero(4.5)
    assert not passing.unsettled(gains, np.arange(4000), 0.25)
    doubled = pd.concat([gains, gains.assign(row=gains["row"] + 4000)])  # each patient has the same image twice
    assert not passing.unsettled(doubled, np.tile(np.arange(4000), 2), 0.25)
    assert passing.unsettled(errors_above_zero(4.2), np.arange(4000), 0.25)
    twice = errors_above_zero(4.2)
    twice = pd.concat([twice, twice.assign(row=twice["row"] + 4000)])  # no more is known: sqrt(2) * 4.2 would pass
    assert passing.unsettled(twice, np.tile(np.arange(4000), 2), 0.25)
    assert passing.unsettled(gains, np.arange(4000) % 2, 0.25)


def test_looks_early_add_hardly_any_false_pass():
    """Of 4,000 maps that are worth nothing, hardly more pass (2.8 %) than with one look at the end (2.5 %)."""
    rng, n, passes = np.random.default_rng(0), 100, 0
    for _ in range(4000):
        values = rng.standard_normal(n)
        for look in passing.looks(n):
            t = values[:look].mean() / values[:look].std(ddof=1) * np.sqrt(look)
            if look == n:
                passes += t > 1.984  # of Student's t with 99 degrees of freedom
            elif t > 2:  # or it is not clear that it passes
                table = pd.DataFrame({"row": np.arange(look), **dict.fromkeys(CHECKS, values[:look])})
                table = table.melt("row", var_name="check", value_name="gain")
                if not passing.unsettled(table, np.arange(n), look / n):
                    passes += 1
                    break
    assert 0.02 < passes / 4000 < 0.035


def test_looks():
    assert [passing.looks(n) for n in (100, 40, 39, 20, 19, 3)] == [
        [25, 50, 75, 100], [10, 20, 30, 40], [10, 20, 29, 39], [10, 15, 20], [10, 14, 19], [3]
    ]  # fmt: skip


PATIENTS = np.array(["a", "a", "b", "c", "d", "d"])
GOOD = np.array([0.30, 0.20, 0.45, 0.35, 0.25, 0.40])


def gains_of(**changed):
    """Gains of one method on one checkpoint: GOOD, but for the checks in `changed`."""
    values = {check: np.broadcast_to(changed.get(check, GOOD), 6) for check in CHECKS}
    return pd.DataFrame({"row": np.arange(6), **values}).melt("row", var_name="check", value_name="gain").assign(
        method="map", checkpoint="after"
    )  # fmt: skip


def test_verdict_by_hand():
    [row] = passing.verdict(gains_of().sample(frac=1, random_state=0), PATIENTS).to_dict("records")
    assert (row["checkpoint"], row["method"]) == ("after", "map")
    assert (row["n_images"], row["n_patients"], row["n_empty"]) == (6, 4, 0)
    assert row["passes_checks"] is True and row["reason"] == ""
    interval = bootstrap.interval(bootstrap.bootstrap(GOOD, PATIENTS, statistic="mean"))
    for check in CHECKS:
        assert row[f"{check}_gain"] == pytest.approx(0.325) and row[f"passes_{check}"] is True
        assert (row[f"{check}_gain_ci_low"], row[f"{check}_gain_ci_high"]) == pytest.approx(interval)


def test_seeds_are_checked_together_with_the_patients_that_they_share():
    weak = np.array([0.5, -0.2, 0.4, 0.3, -0.1, 0.4])
    seeds = [gains_of(head=weak + shift).assign(seed=seed) for seed, shift in ((0, -0.05), (1, 0.15))]
    gains = pd.concat([own.assign(architecture="A", patient_id=PATIENTS[own["row"]]) for own in seeds])
    [row] = passing.over_seeds(gains.sample(frac=1, random_state=0)).to_dict("records")
    assert (row["architecture"], row["n_seeds"], row["n_images"], row["n_patients"]) == ("A", 2, 12, 4)
    both = np.concatenate([weak - 0.05, weak + 0.15])
    assert row["head_gain"] == pytest.approx(both.mean())
    draws = bootstrap.bootstrap(both, np.tile(PATIENTS, 2), statistic="mean")
    assert (row["head_gain_ci_low"], row["head_gain_ci_high"]) == pytest.approx(bootstrap.interval(draws))
    other = gains.assign(architecture="B")
    other.loc[(other["check"] == "class") & (other["seed"] == 1), "gain"] *= -1
    found = passing.over_seeds(pd.concat([gains, other])).set_index("architecture")
    assert not found.loc["B", "passes_class"] and found.loc["A", "passes_class"]
    assert passing.over_seeds(gains.iloc[:0]).empty


def test_a_seed_that_stopped_early_counts_as_much_as_the_others():
    """One seed's maps are bad, and few of its images were measured: the images together would pass."""
    values = np.array([*np.tile([-0.3, -0.32, -0.28], 2), *np.tile([0.25, 0.27, 0.23], 5)])
    seeds = np.array([0] * 6 + [1] * 15)
    rows = np.concatenate([np.arange(6), np.arange(15)])
    table = pd.DataFrame({"seed": seeds, "row": rows, "patient_id": [f"p{row}" for row in rows], "gain": values})
    gains = pd.concat([table.assign(check=check) for check in CHECKS])
    gains = gains.assign(architecture="A", method="map", checkpoint="after")
    [row] = passing.over_seeds(gains).to_dict("records")
    assert row["class_gain"] == pytest.approx((-0.3 + 0.25) / 2) and not row["passes_checks"]
    assert row["reason"].startswith("worse than a random map") and row["n_images"] == 21
    together = bootstrap.bootstrap(values, gains["patient_id"][:21], statistic="mean")
    assert bootstrap.interval(together)[0] > 0


@pytest.mark.parametrize(
    ("check", "gain", "reason"),
    [
        ("deletion", -GOOD, "worse than a random map when its pixels are blurred"),
        ("insertion", GOOD - 0.325, "not shown to be better than a random map when only its pixels are kept"),
        ("class", 0.0, "the same as the map for another class"),
        ("head", GOOD - 0.325, "not shown to be better than the map under a random head"),
        ("weights", -GOOD, "worse than the map of a random network"),
    ],
)
def test_each_failure_is_named_and_only_it(check, gain, reason):
    [row] = passing.verdict(gains_of(**{check: gain}), PATIENTS).to_dict("records")
    assert [name for name in CHECKS if not row[f"passes_{name}"]] == [check]
    assert row["passes_checks"] is False and row["reason"] == reason


def test_empty_maps_count_not_at_all_and_one_patient_supports_no_verdict():
    empty = dict.fromkeys(CHECKS, np.where(np.arange(6) == 2, np.nan, GOOD))
    [row] = passing.verdict(gains_of(**empty), PATIENTS).to_dict("records")
    assert (row["n_images"], row["n_patients"], row["n_empty"]) == (5, 3, 1)
    assert row["class_gain"] == pytest.approx(0.3)
    [row] = passing.verdict(gains_of(), ["a"] * 6).to_dict("records")
    assert row["passes_checks"] is False and row["reason"].startswith("usable maps of fewer than two patients")
    assert np.isnan(row["class_gain_ci_low"]) and row["class_gain"] == pytest.approx(0.325)
    nothing = passing.verdict(gains_of(**dict.fromkeys(CHECKS, np.nan)), PATIENTS)
    assert nothing["n_images"].item() == 0 and nothing["class_gain"].isna().all()


def test_methods_and_checkpoints_are_judged_apart():
    table = pd.concat(
        [gains_of(), gains_of(head=-GOOD).assign(method="b"), gains_of(head=0).assign(checkpoint="c")]
    )
    found = passing.verdict(table, PATIENTS)
    assert found[["checkpoint", "method"]].to_numpy().tolist() == [["after", "map"], ["after", "b"], ["c", "map"]]
    assert found["passes_checks"].tolist() == [True, False, False]


def test_bad_input_to_verdict():
    with pytest.raises(InputError, match="5 patients for rows 0 to 5"):
        passing.verdict(gains_of(), PATIENTS[:5])
    with pytest.raises(InputError, match=r"no rows of \['head'\]"):
        passing.verdict(gains_of().query("check != 'head'"), PATIENTS)
    with pytest.raises(InputError, match=r"gains has no columns \['gain'\]"):
        passing.verdict(gains_of().drop(columns="gain"), PATIENTS)


def test_the_figure_shows_every_check():
    assert tuple(figures_of_checks.CHECKS) == CHECKS
