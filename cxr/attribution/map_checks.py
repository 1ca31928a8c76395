"""Does an attribution map pass its checks? Two tests of each method on each checkpoint, and a verdict.

`perturbation` asks whether the pixels that a map ranks high carry the class probability: deletion and insertion
(Petsiuk, Das and Saenko 2018, RISE, arXiv 1806.07421), against maps that know nothing of the model.

`cascade` asks whether the map depends on what the model has learned: cascading randomisation of its weights
(Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv 1810.03292). A map that outlives the weights describes
the image, not the model.

Neither proves that a map is right; a map that fails either is no basis for a statement about the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from cxr.core.errors import InputError
from cxr.core.progress import progress
from cxr.metrics import map_features, map_grids, similarity
from cxr.models import targets
from cxr.statistics import bootstrap

SURVIVES = 0.5  # the limit of `verdict`
RANDOM, CENTRE = "random", "centre"
KINDS = ("deletion", "insertion")

Explain = Callable[[keras.Model], Mapping[str, np.ndarray]]


class Perturbation(NamedTuple):
    """`areas`: one row an image and method. `curves`: the mean curves behind their means. See `perturbation`."""

    areas: pd.DataFrame
    curves: pd.DataFrame


def perturbation(
    model: keras.Model,
    images: np.ndarray,
    class_index: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    steps: int = 10,
    blur: float = 1 / 16,
    random_draws: int = 2,
    batch_size: int = 32,
    rng_seed: int = 0,
    label: str = "",
) -> Perturbation:
    """Deletion and insertion AUC of every map, and of baselines that know nothing of the model.

    Deletion replaces pixels by those of the blurred image, the most important first; insertion starts from the
    blurred image and reveals the original's pixels, the most important first (RISE, section 4.3). The class
    probability is followed over the share of pixels changed, 0, 1 / steps, ..., 1; its area (trapezoid) is small
    for a good map under deletion, and large under insertion.

    Replacement. RISE deletes to a constant and inserts into a blur. Here both use the blur: on a radiograph a
    patch of even grey is itself a finding (it looks like a consolidation over lung, like a lucency over the
    mediastinum) and a constant adds an edge of full contrast, so deletion could raise the very probability it
    should lower. A blur takes away focal opacities and texture and leaves exposure and anatomy. Its price: what is
    larger than the blur (a big heart, a white lung) is not deleted, which weakens the test for such classes but
    favours no map, since every map and baseline is followed between the same two images. `blur` large (10) turns
    the replacement into the image's mean grey, deletion to a constant.

    What the test can and cannot say. Images in between are like none that the model was trained on (Hooker et
    al. 2019, arXiv 1806.10758): a probability may fall because a picture is odd, not because evidence is gone.
    Hence no AUC is read alone: a baseline of the same smoothness makes pictures just as odd, and only the
    difference counts. It is about the ranking of pixels, about this model and this replacement; it does not say
    that the pixels are the disease.

    Baselines. "random": white noise on the grid of the maps, upsampled as they are (noise by pixel would break up
    every structure of the image, and compare smoothness). Insertion by a map is deletion in the reverse order, so
    each of `random_draws` draws also gives the curves of its negative; the means of all of them have one area,
    under deletion as under insertion. "centre": a Gaussian about the image's centre, of which only the order
    counts, and that is the same for every width.

    Equal values in a map (a rectifier's zeros) are ordered by a smooth random map, the same for all maps of a
    grid: where a map says nothing it is taken as chance, not as "from the top down".

    Cost: 2 + 2 (steps - 1) (methods + 1 + random_draws x grids) forward passes an image.

    Parameters
    ----------
    model : from grey values in [0, 255], float32 [n, side, side, 1], to class probabilities [n, c].
    images : uint8 [n, side, side].
    class_index : int [n], the class whose probability is followed.
    maps : per method [n, h, w], raw or not; rows as `images`; at most side x side. Not named "random" or "centre".
    steps : number of intervals of the share of pixels.
    blur : standard deviation of the Gaussian blur, as a share of the side.
    random_draws : random maps an image.
    batch_size : images per pass.
    rng_seed : the random maps of row i are a function of this, i and the grid.
    label : what to call this in progress lines; empty: none are printed.

    Returns
    -------
    areas : columns row (position in the set), method, grid ("8x8"; empty for "centre"), deletion, insertion
        (both in [0, 1]). "random" has one row an image and grid. NaN where the map is empty
        (`cxr.metrics.map_grids.is_empty`).
    curves : columns method, grid, kind ("deletion", "insertion"), share, probability (mean over images), n_images.

    Raises
    ------
    InputError : on shapes that do not fit each other or the model, reserved names, and options out of range.
    """
    images, classes, maps = _checked(model, images, class_index, maps)
    for name, value, low in (
        ("steps", steps, 2),
        ("random_draws", random_draws, 1),
        ("batch_size", batch_size, 1),
    ):
        if value < low:
            raise InputError(f"perturbation: {name} must be at least {low}, got {value}.")
    if not blur > 0:
        raise InputError(f"perturbation: blur must be positive, got {blur}: it is a share of the image's side.")

    n, side = images.shape[:2]
    grids = list(dict.fromkeys(map_set.shape[1:] for map_set in maps.values()))
    usable = {name: ~map_grids.is_empty(map_set) for name, map_set in maps.items()}
    shares = np.linspace(0, 1, steps + 1)
    counts = np.round(shares[1:-1] * side * side)
    predict = _class_probability(model)
    centre = _ranks(_centre(side), np.zeros((side, side)))
    keys = [*((name, _grid(map_set.shape[1:])) for name, map_set in maps.items())]
    keys += [(CENTRE, ""), *((RANDOM, _grid(grid)) for grid in grids)]
    found = {key: np.full((n, 2, steps + 1), np.nan) for key in keys}

    for row in range(n):
        orders: list[tuple[tuple[str, str], np.ndarray]] = []
        ties = {}
        for grid in grids:
            noise = np.random.default_rng([rng_seed, row, *grid]).standard_normal((random_draws, *grid))
            fields = map_grids.prepare(noise, side)
            ties[grid] = fields[0]
            orders += [((RANDOM, _grid(grid)), _ranks(field, fields[0])) for field in fields]
        for name, map_set in maps.items():
            if usable[name][row]:
                prepared = map_grids.prepare(map_set[[row]], side)[0]
                orders.append(((name, _grid(map_set.shape[1:])), _ranks(prepared, ties[map_set.shape[1:]])))
        orders.append(((CENTRE, ""), centre))

        image = images[row].astype(np.float32)
        blurred = gaussian_filter(image, blur * side, mode="reflect")
        pictures = [image[None], blurred[None]]
        for _, ranks in orders:
            first = ranks < counts[:, None, None]
            pictures += [np.where(first, blurred, image), np.where(first, image, blurred)]
        p = _in_batches(predict, np.concatenate(pictures), classes[row], batch_size)

        start, end = p[:2]
        inner = p[2:].reshape(len(orders), 2, steps - 1)
        collected: dict[tuple[str, str], list[np.ndarray]] = {}
        for (key, _), (deletion, insertion) in zip(orders, inner, strict=True):
            pair = np.array([[start, *deletion, end], [end, *insertion, start]])
            collected.setdefault(key, []).append(pair)
            if key[0] == RANDOM:  # the negative of the draw: its deletion is this one's insertion, backwards
                collected[key].append(pair[::-1, ::-1])
        for key, pairs in collected.items():
            found[key][row] = np.mean(pairs, axis=0)
        if label and (row + 1) % max(1, n // 4) == 0:
            progress(f"{label}: image {row + 1}/{n}")

    areas, curves = [], []
    for (name, grid), values in found.items():
        area = np.trapezoid(values, shares, axis=-1)
        areas.append(
            pd.DataFrame(
                {
                    "row": np.arange(n),
                    "method": name,
                    "grid": grid,
                    "deletion": area[:, 0],
                    "insertion": area[:, 1],
                }
            )
        )
        kept = values[~np.isnan(area[:, 0])]
        for kind, mean in zip(KINDS, kept.mean(0) if len(kept) else np.full((2, steps + 1), np.nan), strict=True):
            curves.append(
                pd.DataFrame(
                    {
                        "method": name,
                        "grid": grid,
                        "kind": kind,
                        "share": shares,
                        "probability": mean,
                        "n_images": len(kept),
                    }
                )
            )
    return Perturbation(pd.concat(areas, ignore_index=True), pd.concat(curves, ignore_index=True))


def cascade(
    model: keras.Model,
    explain: Explain,
    *,
    layer: str,
    size: int,
    rng_seed: int = 0,
    label: str = "",
) -> pd.DataFrame:
    """How much of the maps is left while the model's weights are randomised from the logits downwards.

    Cumulative levels: 0 the logits; 1 all behind `layer`; 2 half of the layers from there down; 3 all weights. A
    level that adds no layer is left out (at the last feature map nothing but the logits stands behind).

    A layer is randomised by a permutation of the entries of each of its weight tensors, which keeps their
    distribution, and so the scale of what they do. BatchNorm's moving mean and variance were learned too, and are
    permuted likewise (leaving them, or BatchNorm altogether, as they are changed no conclusion on the three
    compact networks). Tensors of equal entries, such as a fresh bias, stay as they are.

    Parameters
    ----------
    model : a flat functional model with a layer `logits`. Its weights are changed in place and restored, bit by
        bit, whatever happens.
    explain : model -> per method raw maps [n, h, w]; called once on the model as it is, then once a level, with
        the same object. A compiled function stays right, since the weights are variables: compile once, outside.
        It must be deterministic, and read the weights at every call (no clone of the model).
    layer : the target layer, as `cxr.models.targets.target_layer` knows it.
    size : the image grid on which maps are compared.
    rng_seed : the permutations are a function of this and the layers.
    label : what to call this in progress lines; empty: none are printed.

    Returns
    -------
    One row a method, level and image: method, level (int), up_to (the deepest layer randomised), row, spearman and
    overlap (`similarity.compare_maps`) of the map against that of the intact model, vanished (bool: the intact
    model's map was usable, this one is empty). Both metrics are NaN where either map is empty; a
    vanished map did not survive.

    Raises
    ------
    InputError : for an unknown layer, and maps that are no sets.
    """
    levels = _levels(model, targets.target_layer(model, layer))
    before = explain(model)
    intact = {name: _features(map_set, size) for name, map_set in before.items()}
    kept = [(variable, variable.numpy()) for variable in model.weights]
    rng = np.random.default_rng(rng_seed)
    rows = []
    try:
        for level, names in enumerate(levels):
            if label:
                progress(f"{label}: weights randomised down to {names[-1]}")
            for name in names:
                _permute(model.get_layer(name), rng)
            for method, map_set in explain(model).items():
                for row, (a, b) in enumerate(zip(intact[method], _features(map_set, size), strict=True)):
                    both = a is not None and b is not None
                    alike = similarity.score(a, b, ("spearman", "overlap")) if both else {}
                    rows.append(
                        {
                            "method": method,
                            "level": level,
                            "up_to": names[-1],
                            "row": row,
                            "spearman": alike.get("spearman", np.nan),
                            "overlap": alike.get("overlap", np.nan),
                            "vanished": a is not None and b is None,
                        }
                    )
    finally:
        for variable, value in kept:
            variable.assign(value)
    return pd.DataFrame(rows)


def verdict(
    areas: pd.DataFrame,
    randomised: pd.DataFrame,
    patients: Sequence,
    *,
    level: float = 0.95,
    survives: float = SURVIVES,
    n_boot: int = 2000,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Which methods pass their checks on this checkpoint.

    `passes_deletion`, `passes_insertion`: the interval of the mean gain over random maps lies above 0. Both must
    hold, so that testing twice makes passing harder, not easier. `passes_randomisation`: with all weights
    randomised the maps have little to do with those before: the interval of the median Spearman correlation lies
    below `survives`; a vanished map counts as 0. A few images thus fail a test rather than pass it by luck.
    `passes_checks`: all three.

    What is arbitrary: `survives` (no paper gives a limit; maps of one network on one grid correlate for reasons of
    anatomy and padding alone, so 0 is not to be expected, and 0.5 leaves a quarter of the rank variance in
    common), and `level`. What is conditional: the intervals are over patients, for this checkpoint and one draw of
    random weights (over five draws the last level's median spanned 0.07 to 0.24 on two compact networks). A
    failure means: not shown on these images, which proves nothing; `reason` says which ("not
    shown to be better", "worse"). The gain is in probability, so that images of which the model is sure weigh
    most; it should be measured on images that the model classifies correctly. A method can pass and be no
    better than the centre prior (`beats_centre`), where the evidence is in the centre; and it can pass
    though it hardly changes with the logits alone (`head_spearman` near 1), in which case it shows what the
    network sees rather than what speaks for the class, and nothing that training a head alone has changed.

    Parameters
    ----------
    areas : from `perturbation`.
    randomised : from `cascade`, on the same rows and methods.
    patients : [n], the patient of each row: the unit of resampling.
    level : of the intervals.
    survives : see above, in (0, 1].
    n_boot, rng_seed : see `cxr.statistics.bootstrap.bootstrap`.

    Returns
    -------
    One row a method, in the order of `areas`: method; n_images, n_patients (with a usable map), n_empty;
    deletion, insertion and the same of both baselines on the same images (deletion_random, deletion_centre, ...),
    means; for each kind the gain, positive where the map is better (random - map for deletion, map - random for
    insertion): deletion_gain, deletion_gain_ci_low, deletion_gain_ci_high, and deletion_gain_centre with its
    interval over the centre prior; head_spearman (median at the first level), randomised_spearman (median at the
    last), randomised_ci_low, randomised_ci_high, randomised_overlap (median, vanished maps as 0), vanished (share
    at the last level); passes_deletion, passes_insertion, passes_randomisation, beats_centre (both kinds),
    passes_checks: bool, False where nothing can be said (NaN); reason: why it does not pass, "" if it does.

    Raises
    ------
    InputError : on missing columns or methods, patients that do not cover the rows, options out of range.
    """
    _require(areas, ("row", "method", "grid", *KINDS), "areas")
    _require(randomised, ("row", "method", "level", "spearman", "overlap", "vanished"), "randomised")
    if not 0 < survives <= 1:
        raise InputError(f"verdict: survives must lie in (0, 1], got {survives}: it is a rank correlation.")
    patients = np.asarray(patients)
    names = [name for name in areas["method"].unique() if name not in (RANDOM, CENTRE)]
    missing = sorted(set(names) - set(randomised["method"]))
    if missing or not names:
        raise InputError(f"verdict: no rows for {missing or 'any method'}; pass both tests of the same methods.")
    rows = {*areas["row"], *randomised["row"]}
    if rows != set(range(len(patients))):
        raise InputError(
            f"verdict: {len(patients)} patients for rows {min(rows)} to {max(rows)}: one a row of the set."
        )

    def interval(values: np.ndarray, statistic: str) -> tuple[float, float]:
        draws = bootstrap.bootstrap(values, patients, statistic=statistic, n_boot=n_boot, rng_seed=rng_seed)
        return bootstrap.interval(draws, level)

    def by_row(table: pd.DataFrame) -> pd.DataFrame:
        return table.set_index("row").reindex(range(len(patients)))

    found = []
    for name in names:
        mine = by_row(areas[areas["method"] == name])
        usable = mine["deletion"].notna().to_numpy()
        grid = areas.loc[areas["method"] == name, "grid"].iloc[0]
        baselines = {
            RANDOM: by_row(areas[(areas["method"] == RANDOM) & (areas["grid"] == grid)]),
            CENTRE: by_row(areas[areas["method"] == CENTRE]),
        }
        out: dict[str, object] = {
            "method": name,
            "n_images": int(usable.sum()),
            "n_patients": len(pd.unique(patients[usable])),
            "n_empty": int((~usable).sum()),
        }
        out |= {kind: mine[kind].mean() for kind in KINDS}
        for kind, sign in zip(KINDS, (-1, 1), strict=True):
            for baseline, table in baselines.items():
                out[f"{kind}_{baseline}"] = table.loc[usable, kind].mean()
            for baseline, table in baselines.items():
                gain = (sign * (mine[kind] - table[kind])).to_numpy()
                key = f"{kind}_gain" if baseline == RANDOM else f"{kind}_gain_{baseline}"
                low, high = interval(gain, "mean")
                out |= {key: float(gain[usable].mean()) if usable.any() else np.nan}
                out |= {f"{key}_ci_low": low, f"{key}_ci_high": high}

        levels = randomised[randomised["method"] == name]
        first, last = (
            by_row(levels[levels["level"] == at]) for at in (levels["level"].min(), levels["level"].max())
        )
        gone = last["vanished"].to_numpy(bool)
        left = {key: last[key].mask(gone, 0.0) for key in ("spearman", "overlap")}
        low, high = interval(left["spearman"].to_numpy(), "median")
        out |= {
            "head_spearman": first["spearman"].mask(first["vanished"].astype(bool), 0.0).median(),
            "randomised_spearman": left["spearman"].median(),
            "randomised_ci_low": low,
            "randomised_ci_high": high,
            "randomised_overlap": left["overlap"].median(),
            "vanished": gone.sum() / max(1, left["spearman"].notna().sum()),
            "passes_deletion": bool(out["deletion_gain_ci_low"] > 0),
            "passes_insertion": bool(out["insertion_gain_ci_low"] > 0),
            "passes_randomisation": bool(high < survives),
            "beats_centre": all(bool(out[f"{kind}_gain_centre_ci_low"] > 0) for kind in KINDS),
        }
        out["passes_checks"] = all(out[f"passes_{test}"] for test in (*KINDS, "randomisation"))
        found.append(out | {"reason": _reason(out, survives)})
    return pd.DataFrame(found)


def _reason(out: Mapping[str, object], survives: float) -> str:
    if out["n_patients"] < 2:
        return "usable maps of fewer than two patients: nothing can be said"
    reasons = []
    for kind, done in zip(KINDS, ("deleted", "inserted"), strict=True):
        if not out[f"passes_{kind}"]:
            verb = "worse than" if out[f"{kind}_gain_ci_high"] < 0 else "not shown to be better than"
            reasons.append(f"{verb} a random map when its pixels are {done}")
    if not out["passes_randomisation"]:
        verb = "survives" if out["randomised_ci_low"] >= survives else "may survive"
        reasons.append(f"{verb} the randomisation of all weights")
    return "; ".join(reasons)


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"verdict: {name} has no columns {missing}; it has {list(table.columns)}.")


def _checked(
    model: keras.Model, images: np.ndarray, class_index: np.ndarray, maps: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    images, classes = np.asarray(images), np.asarray(class_index)
    side, n_classes = model.input_shape[1], model.output_shape[-1]
    if images.ndim != 3 or len(images) == 0 or images.shape[1:] != (side, side):
        raise InputError(
            f"perturbation: images must be [n, {side}, {side}], as the model takes them, got {images.shape}."
        )
    if images.dtype != np.uint8:
        raise InputError(f"perturbation: images must be grey values of dtype uint8, got {images.dtype}.")
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise InputError(
            f"perturbation: class_index must be one integer an image, {len(images)} in all, got "
            f"{classes.dtype} {classes.shape}."
        )
    if classes.min() < 0 or classes.max() >= n_classes:
        raise InputError(f"perturbation: class_index must lie between 0 and {n_classes - 1}, got {classes}.")
    maps = {name: np.asarray(map_set) for name, map_set in maps.items()}
    reserved = [name for name in maps if name in (RANDOM, CENTRE)]
    if not maps or reserved:
        raise InputError(
            f"perturbation: maps must hold one set a method, none of them named '{RANDOM}' or '{CENTRE}' "
            f"(the baselines), got {list(maps)}."
        )
    for name, map_set in maps.items():
        map_grids.upsample(map_set[:0], side)  # its own message for what is no set, and for too large a grid
        if len(map_set) != len(images):
            raise InputError(f"perturbation: {len(map_set)} maps by {name} for {len(images)} images.")
    return images, classes, maps


def _grid(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _centre(side: int) -> np.ndarray:
    distance = (np.arange(side) - (side - 1) / 2) ** 2
    return np.exp(-(distance[:, None] + distance) / (2 * (side / 4) ** 2))


def _ranks(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """int [s, s]: 0 for the largest value; among equal ones, by `ties`, then by index (lexsort is stable)."""
    order = np.lexsort((-ties.ravel(), -values.ravel()))
    ranks = np.empty(values.size, np.int64)
    ranks[order] = np.arange(values.size)
    return ranks.reshape(values.shape)


def _class_probability(model: keras.Model) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
    """A compiled function (float32 [n, side, side], classes int32 [n]) -> probability [n]; one trace for all n."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *model.input_shape[1:3]), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ],
        autograph=False,
    )
    def predict(images, classes):
        return tf.gather(model(images[..., None], training=False), classes, batch_dims=1)

    return predict


def _in_batches(predict: Callable, pictures: np.ndarray, class_index: int, batch_size: int) -> np.ndarray:
    parts = (pictures[first : first + batch_size] for first in range(0, len(pictures), batch_size))
    return np.concatenate([predict(part, np.full(len(part), class_index, np.int32)).numpy() for part in parts])


def _features(maps: np.ndarray, size: int) -> list[map_features.Features | None]:
    """Of each map, None where empty."""
    bad = map_grids.is_empty(maps)
    return [
        None if b else map_features.Features(m) for b, m in zip(bad, map_grids.prepare(maps, size), strict=True)
    ]


def _levels(model: keras.Model, layer: str) -> list[list[str]]:
    """Names of the layers with weights that each level adds, the one nearest the output first."""
    names = [found.name for found in model.layers]  # in topological order
    target = names.index(layer)
    weighted = [found.name for found in model.layers if _floating(found)][::-1]
    behind = [name for name in weighted if names.index(name) > target and name != "logits"]
    rest = [name for name in weighted if names.index(name) <= target]
    half = (len(rest) + 1) // 2
    return [level for level in (["logits"], behind, rest[:half], rest[half:]) if level]


def _floating(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Its weights, without a dropout's random state."""
    return [variable for variable in layer.weights if "float" in str(variable.dtype)]


def _permute(layer: keras.layers.Layer, rng: np.random.Generator) -> None:
    for variable in _floating(layer):
        value = variable.numpy()
        variable.assign(rng.permutation(value.ravel()).reshape(value.shape))
