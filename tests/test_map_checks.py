import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from scipy.ndimage import gaussian_filter, sobel
from scipy.stats import spearmanr

from cxr.attribution import deleting, map_checks, randomising
from cxr.core.errors import InputError
from cxr.metrics import map_grids
from cxr.statistics import bootstrap

SIDE = 16


def linear_model(weights, bias=0.0, activation="linear"):
    """Output [1 - m, m] with m = activation(sum(weights * image) / 255 + bias)."""
    side = len(weights)
    inputs = keras.Input((side, side, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Dense(1, activation=activation, name="logits")(layers.Flatten()(x))
    outputs = layers.Concatenate()([layers.Rescaling(-1.0, 1.0)(x), x])
    model = keras.Model(inputs, outputs)
    model.get_layer("logits").set_weights([np.reshape(weights, (-1, 1)), np.array([bias])])
    return model


def conv_model(seed=0, dropout=0.0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = layers.Conv2D(8, 3, padding="same", name="one", bias_initializer="random_normal")(x)
    x = layers.BatchNormalization(name="bn", moving_mean_initializer="random_normal")(x)
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="two")(x)
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="three")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="four")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="probabilities")(x))


def cam(model, images):
    """Class activation maps (Zhou et al. 2016) of class 0, and what ignores the model: edges."""
    features = keras.Model(model.input, model.get_layer("four").output)
    pixels = tf.constant(images[..., None], tf.float32)
    edges = np.stack([np.hypot(sobel(i, 0), sobel(i, 1)) for i in images.astype(float)])

    def explain(same):
        assert same is model
        kernel = model.get_layer("logits").kernel.numpy()[:, 0]
        return {"cam": np.maximum(features(pixels).numpy() @ kernel, 0), "edges": edges}

    return explain


def noise_images(n, seed=0, side=SIDE):
    coarse = np.random.default_rng(seed).integers(0, 256, (n, side // 2, side // 2), dtype=np.uint8)
    return coarse.repeat(2, 1).repeat(2, 2)


@pytest.fixture(scope="module")
def blob():
    """Images with a bright blob off the centre, a model that looks for it, and its evidence, pixel by pixel."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:SIDE, :SIDE]
    where = np.exp(-((row - 4) ** 2 + (column - 11) ** 2) / 8)
    images = (60 + 150 * where + rng.normal(0, 12, (30, SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    model = linear_model(where, bias=-12.0, activation="sigmoid")
    blurred = np.stack([gaussian_filter(i.astype(float), SIDE / 8) for i in images])
    return model, images, np.ones(30, int), where * (images - blurred)


@pytest.fixture(scope="module")
def perturbed(blob):
    model, images, classes, evidence = blob
    noise = np.random.default_rng(9).random(evidence.shape)
    maps = {"truth": evidence, "inverted": -evidence, "noise": noise}
    return deleting.perturbation(model, images, classes, maps, blur=1 / 8)


def test_areas_worked_out_by_hand():
    # Grey 240, 120, 60, 60 have the mean 120: replaced in turn by 120, m falls by 60, stays, rises by 7.5, 7.5,
    # from 120 + 30 + 7.5 + 7.5 = 165 to 120 (over 255).
    model = linear_model(np.array([[0.5, 0.25], [0.125, 0.125]]))
    image = np.array([[[240, 120], [60, 60]]], np.uint8)
    maps = {"good": np.array([[[4, 3], [2, 1]]]), "bad": np.array([[[1, 3], [4, 3.5]]])}
    areas, curves = deleting.perturbation(model, image, np.array([1]), maps, steps=4, blur=10)
    got = areas.set_index("method")[["deletion", "insertion"]] * 255 * 4
    # deletion 165, 105, 105, 112.5, 120; insertion 120, 180, 180, 172.5, 165
    np.testing.assert_allclose(got.loc["good"], [142.5 + 105 + 105 + 112.5, 142.5 + 180 + 180 + 172.5], rtol=1e-5)
    # pixels in the order 2, 3, 1, 0: deletion 165, 172.5, 180, 180, 120; insertion 120, 112.5, 105, 105, 165
    np.testing.assert_allclose(got.loc["bad"], [142.5 + 172.5 + 180 + 180, 142.5 + 112.5 + 105 + 105], rtol=1e-5)
    good = curves[(curves["method"] == "good") & (curves["kind"] == "deletion")]
    np.testing.assert_allclose(good["share"], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(good["probability"] * 255, [165, 105, 105, 112.5, 120], rtol=1e-5)
    # Every order of a linear model's pixels and its reverse meet in the middle: (165 + 120) / 2.
    np.testing.assert_allclose(got.loc["random"], [570, 570], rtol=1e-5)


def test_the_other_class_is_followed_when_asked():
    model = linear_model(np.array([[0.5, 0.25], [0.125, 0.125]]))
    image = np.array([[[240, 120], [60, 60]]] * 2, np.uint8)
    maps = {"map": np.array([[[4, 3], [2, 1]]] * 2)}
    areas, _ = deleting.perturbation(model, image, np.array([0, 1]), maps, steps=4, blur=10)
    mine = areas[areas["method"] == "map"]
    np.testing.assert_allclose(mine[["deletion", "insertion"]].sum(), 1, rtol=1e-5)  # p of class 0 is 1 - m


def test_evidence_is_told_from_its_inverse_and_from_noise(perturbed):
    mean = perturbed.areas.groupby("method")[["deletion", "insertion"]].mean()
    assert mean.loc["truth", "deletion"] < mean.loc["random", "deletion"] - 0.1
    assert mean.loc["truth", "insertion"] > mean.loc["random", "insertion"] + 0.1
    assert mean.loc["inverted", "deletion"] > mean.loc["random", "deletion"] + 0.1
    assert mean.loc["inverted", "insertion"] < mean.loc["random", "insertion"] - 0.1
    assert abs(mean.loc["noise", "deletion"] - mean.loc["random", "deletion"]) < 0.03
    assert (perturbed.areas.loc[perturbed.areas["method"] == "centre", "grid"] == "").all()


def test_curves_are_the_means_behind_the_areas(perturbed):
    areas, curves = perturbed
    assert set(curves["method"]) == {"truth", "inverted", "noise", "random", "centre"}
    means = areas.groupby("method")[["deletion", "insertion"]].mean()
    for (name, kind), curve in curves.groupby(["method", "kind"]):
        assert len(curve) == 11 and (curve["n_images"] == 30).all()
        area = np.trapezoid(curve["probability"], curve["share"])
        assert area == pytest.approx(means.loc[name, kind], rel=1e-5)
    # All run between the same two images.
    ends = curves[curves["share"] == curves["kind"].map({"deletion": 0.0, "insertion": 1.0})]["probability"]
    assert ends.max() - ends.min() < 1e-6


def test_random_maps_have_one_area_under_deletion_and_insertion(perturbed):
    random = perturbed.areas[perturbed.areas["method"] == "random"]
    np.testing.assert_allclose(random["deletion"], random["insertion"], rtol=1e-5)
    assert random["deletion"].std() > 0


def test_each_grid_has_random_maps_of_its_own(blob):
    model, images, classes, evidence = blob
    coarse = evidence.reshape(30, 4, 4, 4, 4).mean((2, 4))
    maps = {"fine": evidence, "coarse": coarse, "coarse_too": coarse**3}
    areas, curves = deleting.perturbation(model, images[:5], classes[:5], {k: m[:5] for k, m in maps.items()})
    assert areas.groupby(["method", "grid"]).size().to_dict() == {
        ("fine", "16x16"): 5, ("coarse", "4x4"): 5, ("coarse_too", "4x4"): 5,
        ("random", "16x16"): 5, ("random", "4x4"): 5, ("centre", ""): 5,
    }  # fmt: skip
    alone, _ = deleting.perturbation(model, images[:5], classes[:5], {"coarse": coarse[:5]}, batch_size=7)
    merged = alone.merge(areas, on=["row", "method", "grid"], suffixes=("", "_all"))
    assert len(merged) == 15  # the same random maps, and one result, whatever else is asked and however batched
    np.testing.assert_allclose(merged["deletion"], merged["deletion_all"], rtol=1e-5)
    np.testing.assert_allclose(merged["insertion"], merged["insertion_all"], rtol=1e-5)


def test_rows_do_not_depend_on_each_other(blob):
    model, images, classes, evidence = blob
    one, _ = deleting.perturbation(model, images[:2], classes[:2], {"map": evidence[:2]})
    two, _ = deleting.perturbation(model, images[:1], classes[:1], {"map": evidence[:1]})
    first = one[one["row"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, two)
    other, _ = deleting.perturbation(model, images[:1], classes[:1], {"map": evidence[:1]}, rng_seed=1)
    assert other.set_index("method")["deletion"]["random"] != two.set_index("method")["deletion"]["random"]
    assert other["deletion"][0] == pytest.approx(two["deletion"][0], rel=1e-5) and two["method"][0] == "map"


def test_ties_are_ordered_by_the_random_map_and_then_by_index():
    values = np.array([[0.0, 1.0], [0.0, 0.0]])
    ties = np.array([[0.2, 0.9], [0.7, 0.2]])
    assert deleting._ranks(values, ties).tolist() == [[2, 0], [1, 3]]


def test_centre_prior_orders_by_distance():
    ranks = deleting._ranks(deleting._centre(5), np.zeros((5, 5)))
    assert ranks[2, 2] == 0
    assert set(ranks[[1, 2, 2, 3], [2, 1, 3, 2]]) == {1, 2, 3, 4}
    assert set(ranks[[0, 0, 4, 4], [0, 4, 0, 4]]) == {21, 22, 23, 24}


def test_empty_maps_are_nan_and_left_out_of_the_curve(blob):
    model, images, classes, evidence = blob
    maps = {"map": evidence[:4].copy(), "empty": np.zeros((4, 4, 4))}
    maps["map"][1] = 0
    areas, curves = deleting.perturbation(model, images[:4], classes[:4], maps)
    mine = areas[areas["method"] == "map"]
    assert mine["deletion"].isna().tolist() == mine["insertion"].isna().tolist() == [False, True, False, False]
    assert areas[areas["method"] == "empty"]["deletion"].isna().all()
    assert areas[areas["method"].isin(["random", "centre"])].notna().all(axis=None)
    assert curves.groupby("method")["n_images"].first().to_dict() == {
        "map": 3, "empty": 0, "random": 4, "centre": 4,
    }  # fmt: skip
    assert curves[curves["method"] == "empty"]["probability"].isna().all()
    kept = curves[(curves["method"] == "map") & (curves["kind"] == "deletion")]
    assert np.trapezoid(kept["probability"], kept["share"]) == pytest.approx(mine["deletion"].mean(), rel=1e-5)


def test_one_trace_serves_all_batches_and_progress_is_printed(capsys):
    traces = []

    class Counting(layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    inputs = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(Counting()(inputs))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    built = len(traces)
    images = noise_images(3, side=8)
    maps = {"map": np.random.default_rng(0).random((3, 4, 4))}
    deleting.perturbation(model, images, np.array([0, 1, 0]), maps, batch_size=7, label="ours")
    assert len(traces) == built + 1
    assert capsys.readouterr().out.splitlines()[-1] == "» ours: image 3/3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 8, 8), np.uint8)}, r"images must be \[n, 16, 16\]"),
        ({"images": np.zeros((3, 16, 16))}, "dtype uint8, got float64"),
        ({"class_index": np.array([0, 1])}, "one integer for each of 3 images"),
        ({"class_index": np.array([0, 1, 2])}, "between 0 and 1"),
        ({"maps": {}}, "maps must hold one set for each method"),
        ({"maps": {"random": np.zeros((3, 4, 4))}}, "the baselines"),
        ({"maps": {"m": np.zeros((2, 4, 4))}}, "2 maps by m for 3 images"),
        ({"maps": {"m": np.zeros((3, 32, 32))}}, "cannot be brought to 16x16"),
        ({"steps": 1}, "steps must be at least 2"),
        ({"random_draws": 0}, "random_draws must be at least 1"),
        ({"blur": 0}, "blur must be positive"),
    ],
)
def test_bad_input_to_perturbation(blob, change, message):
    call = {
        "images": np.zeros((3, 16, 16), np.uint8),
        "class_index": np.array([0, 1, 0]),
        "maps": {"m": np.zeros((3, 4, 4))},
    }
    with pytest.raises(InputError, match=message):
        deleting.perturbation(blob[0], **call | change)


@pytest.fixture(scope="module")
def randomised():
    model, images = conv_model(), noise_images(12)
    before = [w.numpy() for w in model.weights]
    maps = cam(model, images)(model)
    table = randomising.cascade(model, cam(model, images), layer="two", size=SIDE)
    return model, before, maps, table


def test_levels_go_from_the_logits_to_all_weights(randomised):
    *_, table = randomised
    assert list(table) == ["method", "level", "up_to", "row", "spearman", "overlap", "vanished"]
    levels = table.groupby("level")["up_to"].unique().map(list).to_dict()
    assert levels == {0: ["logits"], 1: ["three"], 2: ["bn"], 3: ["one"]}
    assert len(table) == 2 * 4 * 12


def test_levels_without_a_layer_are_left_out():
    model = conv_model(dropout=0.5)  # whose random state is no weight
    assert randomising._levels(model, "four") == [["logits"], ["four", "three", "two"], ["bn", "one"]]


def test_weights_are_permuted_cumulatively_and_come_back_bit_by_bit(randomised):
    model, before, *_ = randomised
    assert all(np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True))
    seen = []

    def explain(same):
        seen.append({v.path: v.numpy() for v in same.weights})
        return {"map": np.eye(4)[None]}

    randomising.cascade(model, explain, layer="two", size=SIDE)
    intact, *levels = seen
    order = ["logits", "four", "three", "two", "bn", "one"]
    for state, deepest in zip(levels, ["logits", "three", "bn", "one"], strict=True):
        for path, value in state.items():
            layer = path.split("/")[0]
            np.testing.assert_array_equal(np.sort(value, None), np.sort(intact[path], None))
            changed = order.index(layer) <= order.index(deepest) and np.ptp(intact[path]) > 0
            assert np.array_equal(value, intact[path]) != changed, (path, deepest)
    for earlier, later in zip(levels, levels[1:], strict=False):  # each tensor is permuted once
        np.testing.assert_array_equal(earlier["logits/kernel"], later["logits/kernel"])
    assert all(np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True))


def test_weights_come_back_when_the_explainer_fails(randomised):
    model, before, *_ = randomised
    calls = []

    def explain(same):
        calls.append(1)
        if len(calls) == 3:
            assert not np.array_equal(same.get_layer("four").kernel, before[-4])
            raise RuntimeError("out of memory")
        return {"map": np.eye(4)[None]}

    with pytest.raises(RuntimeError, match="out of memory"):
        randomising.cascade(model, explain, layer="two", size=SIDE)
    assert all(np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True))


def test_a_map_of_the_image_alone_survives_and_one_of_the_model_does_not(randomised):
    *_, table = randomised
    edges = table[table["method"] == "edges"]
    np.testing.assert_allclose(edges[["spearman", "overlap"]], 1, rtol=1e-9)
    assert not table["vanished"].any()
    last = table[(table["method"] == "cam") & (table["level"] == 3)]
    assert last["spearman"].median() < 0.4


def test_similarity_is_that_of_the_prepared_maps(randomised):
    model, _, maps, table = randomised
    kept = model.get_weights()
    rng = np.random.default_rng(0)
    model.get_layer("logits").set_weights(
        [rng.permutation(w.ravel()).reshape(w.shape) for w in model.get_layer("logits").get_weights()]
    )
    after = cam(model, noise_images(12))(model)["cam"]
    model.set_weights(kept)
    got = table[(table["method"] == "cam") & (table["level"] == 0)].set_index("row")
    a, b = map_grids.prepare(maps["cam"], SIDE), map_grids.prepare(after, SIDE)
    for row in range(12):
        assert got.loc[row, "spearman"] == pytest.approx(spearmanr(a[row], b[row], axis=None).statistic, abs=1e-9)


def test_a_vanished_map_is_told_from_one_that_never_was():
    model = conv_model()
    stacks = iter([np.stack([np.eye(4), np.eye(4), np.zeros((4, 4))]), *[np.zeros((3, 4, 4))] * 4])
    table = randomising.cascade(model, lambda _: {"map": next(stacks)}, layer="two", size=SIDE)
    assert table[["spearman", "overlap"]].isna().all(axis=None)
    assert table[table["level"] == 3]["vanished"].tolist() == [True, True, False]


def tables(deletion, insertion, spearman, *, vanished=None, random=0.5, centre=0.4):
    """Both tables of one method "map" on one grid, from its values by row; two levels, the first all 0.9."""
    rows = np.arange(len(deletion))
    areas = pd.concat(
        [
            pd.DataFrame({"method": "map", "grid": "8x8", "deletion": deletion, "insertion": insertion}),
            pd.DataFrame({"method": "random", "grid": "8x8", "deletion": random, "insertion": random}, index=rows),
            pd.DataFrame({"method": "random", "grid": "4x4", "deletion": 0.0, "insertion": 1.0}, index=rows),
            pd.DataFrame({"method": "centre", "grid": "", "deletion": centre, "insertion": 0.6}, index=rows),
        ]
    ).rename_axis("row").reset_index()  # fmt: skip
    gone = np.zeros(len(rows), bool) if vanished is None else np.array(vanished)
    levels = [
        pd.DataFrame({"row": rows, "method": "map", "level": 0, "up_to": "logits", "spearman": 0.9, "overlap": 0.8,
                      "vanished": False}),
        pd.DataFrame({"row": rows, "method": "map", "level": 1, "up_to": "one", "spearman": spearman,
                      "overlap": 0.1, "vanished": gone}),
    ]  # fmt: skip
    return areas, pd.concat(levels)


DELETION = np.array([0.30, 0.20, 0.45, 0.35, 0.25, 0.40])
INSERTION = np.array([0.70, 0.75, 0.80, 0.65, 0.72, 0.55])
PATIENTS = np.array(["a", "a", "b", "c", "d", "d"])


def test_verdict_by_hand():
    areas, levels = tables(DELETION, INSERTION, [0.1, 0.0, -0.2, 0.3, 0.2, 0.1])
    result = map_checks.verdict(areas.sample(frac=1, random_state=0), levels, PATIENTS)
    [row] = result.to_dict("records")
    assert (row["method"], row["n_images"], row["n_patients"], row["n_empty"]) == ("map", 6, 4, 0)
    assert row["deletion"] == pytest.approx(0.325) and row["insertion"] == pytest.approx(0.695)
    assert (row["deletion_random"], row["insertion_random"]) == (0.5, 0.5)  # of its own grid
    assert row["deletion_centre"] == pytest.approx(0.4) and row["insertion_centre"] == pytest.approx(0.6)
    assert row["deletion_gain"] == pytest.approx(0.175) and row["insertion_gain"] == pytest.approx(0.195)
    assert row["deletion_gain_centre"] == pytest.approx(0.075)
    assert row["insertion_gain_centre"] == pytest.approx(0.095)
    draws = bootstrap.bootstrap(0.5 - DELETION, PATIENTS, statistic="mean")
    assert (row["deletion_gain_ci_low"], row["deletion_gain_ci_high"]) == pytest.approx(bootstrap.interval(draws))
    draws = bootstrap.bootstrap(INSERTION - 0.6, PATIENTS, statistic="mean")
    assert row["insertion_gain_centre_ci_low"] == pytest.approx(bootstrap.interval(draws)[0])
    assert (row["head_spearman"], row["randomised_spearman"]) == pytest.approx((0.9, 0.1))
    assert row["randomised_overlap"] == pytest.approx(0.1) and row["vanished"] == 0
    assert row["passes_deletion"] and row["passes_insertion"] and row["passes_randomisation"]
    assert row["passes_checks"] is True and row["reason"] == ""
    assert row["beats_centre"] == (
        row["deletion_gain_centre_ci_low"] > 0 and row["insertion_gain_centre_ci_low"] > 0
    )


@pytest.mark.parametrize(
    ("values", "failed", "reason"),
    [
        ((1 - DELETION, INSERTION, 0.1), "deletion", "worse than a random map when its pixels are deleted"),
        ((DELETION + 0.175, INSERTION, 0.1), "deletion",
         "not shown to be better than a random map when its pixels are deleted"),
        ((DELETION, 1 - INSERTION, 0.1), "insertion", "worse than a random map when its pixels are inserted"),
        ((DELETION, INSERTION, 0.8), "randomisation", "survives the randomisation of all weights"),
        # The median, 0.3, is under the limit; its interval is not.
        ((DELETION, INSERTION, [0.1, 0.9, 0.2, 0.8, 0.1, 0.4]), "randomisation",
         "may survive the randomisation of all weights"),
    ],
)  # fmt: skip
def test_each_failure_is_named_and_only_it(values, failed, reason):
    [row] = map_checks.verdict(*tables(*values), PATIENTS).to_dict("records")
    passes = {name: row[f"passes_{name}"] for name in ("deletion", "insertion", "randomisation")}
    assert [name for name, passed in passes.items() if not passed] == [failed]
    assert row["passes_checks"] is False and row["reason"] == reason


def test_vanished_maps_count_as_not_surviving_and_empty_ones_not_at_all():
    nan = np.nan
    deletion = np.array([nan, *DELETION[1:]])
    spearman = [nan, nan, nan, nan, 0.9, 0.9]  # row 0 never was; 1, 2, 3 vanished
    areas, levels = tables(deletion, deletion + 0.4, spearman, vanished=[False, True, True, True, False, False])
    [row] = map_checks.verdict(areas, levels, PATIENTS).to_dict("records")
    assert (row["n_images"], row["n_patients"], row["n_empty"]) == (5, 4, 1)
    assert row["randomised_spearman"] == 0  # of 0, 0, 0, 0.9, 0.9
    assert row["vanished"] == pytest.approx(3 / 5)
    assert row["deletion"] == pytest.approx(DELETION[1:].mean())


def test_one_patient_supports_no_verdict():
    areas, levels = tables(DELETION, INSERTION, 0.1)
    [row] = map_checks.verdict(areas, levels, ["a"] * 6).to_dict("records")
    assert row["passes_checks"] is False and row["reason"].startswith("usable maps of fewer than two patients")
    assert np.isnan(row["deletion_gain_ci_low"]) and row["deletion_gain"] == pytest.approx(0.175)


def test_verdict_on_maps_known_to_be_right_and_wrong(perturbed, randomised):
    """Both tests together: of the linear model's evidence all but its inverse and noise pass perturbation; of
    the convolutional model's maps, edges fail randomisation, whatever they do under perturbation."""
    patients = np.arange(30) // 2
    table = randomised[-1]
    borrowed = {"truth": "cam", "inverted": "cam", "noise": "edges"}
    levels = pd.concat([table[table["method"] == source].assign(method=name) for name, source in borrowed.items()])
    levels = pd.concat([levels.assign(row=levels["row"] + shift) for shift in (0, 12, 24)])
    result = map_checks.verdict(perturbed.areas, levels[levels["row"] < 30], patients).set_index("method")
    assert result["passes_deletion"].to_dict() == {"truth": True, "inverted": False, "noise": False}
    assert result["passes_insertion"].to_dict() == {"truth": True, "inverted": False, "noise": False}
    assert result["passes_randomisation"].to_dict() == {"truth": True, "inverted": True, "noise": False}
    assert result["passes_checks"].to_dict() == {"truth": True, "inverted": False, "noise": False}
    noise = result.loc["noise"]
    assert noise["deletion_gain_ci_low"] < 0 < noise["deletion_gain_ci_high"]
    assert result.loc["inverted", "deletion_gain_ci_high"] < 0


def test_bad_input_to_verdict():
    areas, levels = tables(DELETION, INSERTION, 0.1)
    with pytest.raises(InputError, match="5 patients for rows 0 to 5"):
        map_checks.verdict(areas, levels, PATIENTS[:5])
    with pytest.raises(InputError, match=r"no rows for \['map'\]"):
        map_checks.verdict(areas, levels.assign(method="other"), PATIENTS)
    with pytest.raises(InputError, match=r"areas has no columns \['grid'\]"):
        map_checks.verdict(areas.drop(columns="grid"), levels, PATIENTS)
    with pytest.raises(InputError, match="survives must lie in"):
        map_checks.verdict(areas, levels, PATIENTS, survives=0)
