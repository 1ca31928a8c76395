"""Do the checks of maps fail impostors, and pass the map itself?

    python tests/benchmarks/bench_map_checks.py [--small] [--share X] [--layer NAME] [--architecture NAME ...]

The compact networks have their source weights and a head trained on the phantom. On test images that the
network classifies correctly, `map_checks.gains` measures LayerCAM and maps that are none of the class: LayerCAM
for the runner-up class, the sum of the layer's activations, the image's edges, and LayerCAM under given heads of
random weights. There are several of these, as one can be like the own by chance. Each of the random seeds (of
the checks' own draws) has images of its own. A repeat draws as many images as a study checks, without
replacement, from all that were measured, and `passing.verdict` judges them. So repeats share images: they say how
much the verdict depends on which images and draws were taken, for these networks.

`passes`: of the repeats, how many pass all checks; then for each check how many pass it. A second table shows how
surely each candidate does better than its rivals: the mean gain of all images over its standard error. A third
says what stopping early (`passing.unsettled`) changes: how often the decision is that of all images, and how many
images a method and a check take. `--small`: one network, few images, which says nothing. `--share`: of the area
that is blurred, other than a study's.
`--layer`: by default a layer through which all paths go. (In CompactResNetV2, part of the evidence takes the
shortcut around `penultimate`.)
"""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent))

import impostors
import keras
import numpy as np
import pandas as pd

from cxr.attribution import explaining, following, map_checks, passing
from cxr.core.params import TrainParams
from cxr.data import dataset
from cxr.models import build, targets, weights
from cxr.training import stages

NETWORKS = ("CompactDenseNet", "CompactResNetV2", "CompactInception")
HEADS = range(11, 19)  # random heads, by seeds other than those of the checks


def trained(settings: TrainParams, data: dataset.Dataset) -> keras.Model:
    stages.seed_everything(settings.seed)
    model = build.build(settings.architecture, n_classes=len(data.classes), image_size=settings.image_size)
    weights.load_backbone(model, "source")
    stages.transfer(model, *data.for_stage("transfer"), settings)
    return model


def candidates(model: keras.Model, layer: str) -> dict[str, impostors.Explain]:
    """LayerCAM and its impostors, by name."""
    explain = explaining.explainer(model, layer=layer, methods=("layercam",))

    def layercam(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return explain(images, classes)["layercam"]

    return {
        "LayerCAM": layercam,
        "wrong class": impostors.wrong_class(model, layercam),
        "no head": impostors.head_free(model, targets.target_layer(model, layer)),
        "edges": impostors.edges,
        **{f"other head {seed}": impostors.other_head(model, layercam, seed) for seed in HEADS},
    }


def measured(model: keras.Model, data: dataset.Dataset, layer: str, images: int, seeds: int) -> pd.DataFrame:
    """`map_checks.gains` of all candidates: `images` for each of the seeds, with the patient."""
    test = data.rows("test")
    pixels, labels = np.asarray(data.images[test]), data.labels[test]
    patients = data.manifest["patient_id"].to_numpy(str)[test]
    right = np.flatnonzero(following.logits_function(model)(pixels).argmax(1) == labels)
    if len(right) < images * seeds:
        raise SystemExit(f"{len(right)} test images are classified correctly, and {images * seeds} are needed")
    maps = candidates(model, layer)

    def explain(images: np.ndarray, classes: np.ndarray, methods: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: maps[name](images, classes) for name in methods}

    tables = []
    for seed in range(seeds):
        rows = right[seed * images : (seed + 1) * images]
        own = explain(pixels[rows], labels[rows], list(maps))
        table = map_checks.gains(model, explain, pixels[rows], labels[rows], own, batch_size=64, rng_seed=seed)
        tables.append(table.assign(patient=patients[rows][table["row"]], row=table["row"] + seed * images))
    return pd.concat(tables, ignore_index=True)


def judged(gains: pd.DataFrame, images: int, repeats: int) -> pd.DataFrame:
    """Of the repeats, how many pass; a row a candidate."""
    patients = gains.drop_duplicates("row").set_index("row")["patient"]
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(repeats):
        drawn = np.sort(rng.choice(len(patients), images, replace=False))
        table = gains[gains["row"].isin(drawn)].assign(checkpoint="before")
        table["row"] = np.searchsorted(drawn, table["row"])
        verdicts.append(passing.verdict(table, patients.loc[drawn].to_numpy(), n_boot=1000))
    found = pd.concat(verdicts)
    columns = ["passes_checks", *(f"passes_{check}" for check in passing.CHECKS)]
    return found.groupby("method", sort=False)[columns].sum()


def early(gains: pd.DataFrame, images: int, repeats: int) -> pd.DataFrame:
    """What stopping early changes, a row a candidate: in how many repeats the decision is that of all images, in
    how many it passes what all images fail, and the mean number of images of the method and of a check."""
    patients = gains.drop_duplicates("row").set_index("row")["patient"]
    by_method = dict(tuple(gains.assign(checkpoint="before").groupby("method", sort=False)))
    rng = np.random.default_rng(1)
    found = []
    for _ in range(repeats):
        drawn = rng.permutation(len(patients))[:images]
        own = patients.loc[drawn].to_numpy()
        for method, part in by_method.items():
            place = pd.Series(range(images), index=drawn)
            table = part[part["row"].isin(drawn)]
            table = table.assign(row=table["row"].map(place)).sort_values("row", kind="stable")
            measured = until_settled(table, own, images)
            verdicts = (passing.verdict(gains, own, n_boot=1000) for gains in (table, measured))
            passes = [bool(verdict["passes_checks"].iloc[0]) for verdict in verdicts]
            row = {"same": passes[0] == passes[1], "passes too much": passes[1] > passes[0]}
            row |= {"images": measured["row"].nunique(), "a check": len(measured) / len(passing.CHECKS)}
            found.append({"method": method, **row})
    table = pd.DataFrame(found).groupby("method", sort=False)
    return table.agg({"same": "sum", "passes too much": "sum", "images": "mean", "a check": "mean"})


def until_settled(gains: pd.DataFrame, patients: np.ndarray, images: int) -> pd.DataFrame:
    """What `map_checks.until_settled` would have measured of these gains of one method, in the order of `row`."""
    checks, first, kept = passing.CHECKS, 0, []
    for last in passing.looks(images):
        of_checks = gains[gains["check"].isin(checks)]
        kept.append(of_checks[of_checks["row"].between(first, last - 1)])
        first = last
        if last < images:
            checks = passing.unsettled(of_checks[of_checks["row"] < last], patients, last / images)
    return pd.concat(kept)


def surely(gains: pd.DataFrame) -> pd.DataFrame:
    """Mean gain over its standard error; a row a candidate, a column a check."""
    found = gains.groupby(["method", "check"], sort=False)["gain"].agg(["mean", "sem"])
    return (found["mean"] / found["sem"]).unstack().round(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one network, few images")
    parser.add_argument("--share", type=float, default=following.SHARE, help="of the area that is blurred")
    parser.add_argument("--layer", default="penultimate_cut", help="the target layer")
    parser.add_argument("--architecture", nargs="*", default=NETWORKS)
    given = parser.parse_args()
    images, seeds, drawn, repeats, names = 120, 2, 100, 100, given.architecture
    settings = TrainParams(phantom_images=1600, transfer_epochs=60, extra_heads=0)
    if given.small:
        images, seeds, drawn, repeats, names = 12, 1, 9, 3, NETWORKS[1:2]
        small = {"phantom_images": 90, "test_fraction": 0.5, "image_size": 64, "transfer_epochs": 4}
        settings = settings.model_copy(update=small)
    data = dataset.open(settings)
    map_checks.following.follow = functools.partial(following.follow, share=given.share)
    verdicts, stopped, certain = {}, {}, {}
    for name in names:
        model = trained(settings.model_copy(update={"architecture": name}), data)
        gains = measured(model, data, given.layer, images, seeds)
        verdicts[name], certain[name] = judged(gains, drawn, repeats), surely(gains)
        stopped[name] = early(gains, drawn, repeats)
    columns = {f"passes_{check}": check for check in passing.CHECKS} | {"passes_checks": "passes"}
    print(f"of {repeats} repeats with {drawn} images, {given.share:g} of the area blurred or kept")
    print(pd.concat(verdicts, names=["architecture"]).rename(columns=columns).to_string())
    print(f"of {repeats} repeats, with looks after {passing.looks(drawn)} images: the same decision as with all")
    print(pd.concat(stopped, names=["architecture"]).to_string())
    print(f"mean gain over its standard error, {images * seeds} images")
    print(pd.concat(certain, names=["architecture"])[list(passing.CHECKS)].to_string())


if __name__ == "__main__":
    main()
