"""Tables of any size for figures: what each function of `cxr.report.figures` is drawn from in tests."""

import numpy as np
import pandas as pd

from cxr.metrics.metric_table import METRICS
from cxr.metrics.zones import ZONES
from cxr.report import figures
from cxr.report.figures.checks import CHECKS

NAMES = ["DenseNet201", "ResNet50V2", "InceptionV3", "CompactDenseNet", "CompactResNetV2", "CompactInception"]
METHODS = list(figures.METHOD_LABELS)
KEYS = ["architecture", "method"]
BASELINES = {"two_patients": 0.3, "two_heads": 0.9, "two_seeds": 0.7, "more_training": 0.8, "chance": 0.1}
ANSWERS = ["kept right", "fixed", "broken", "kept wrong"]


def cells(names, methods, **columns):
    """A row for each network and method."""
    return pd.DataFrame(columns, index=pd.MultiIndex.from_product([names, methods], names=KEYS)).reset_index()


def drift(names, methods, baselines=BASELINES, metrics=("overlap",)):
    """Medians of 0.5 with the baselines; of distances a tenth of 1 minus that."""
    columns = {}
    for metric in metrics:
        for suffix, value in {"": 0.5, **{f"_{key}": value for key, value in baselines.items()}}.items():
            middle = value if METRICS[metric].identical == 1 else (1 - value) / 10
            parts = {"median": middle, "ci_low": middle - 0.04, "ci_high": middle + 0.05}
            columns |= {f"{metric}{suffix}_{part}": value for part, value in parts.items()}
    return cells(names, methods, **columns)


def checked(names, methods, checkpoints=("after", "before"), seeds=(0, 1)):
    """Verdicts on maps: all gains are 0.1 (seed 0, passes) and 1.1 (seed 1, fails `deletion` alone)."""
    tables = []
    for checkpoint in checkpoints:
        for number, seed in enumerate(seeds):
            gains = {"checkpoint": checkpoint, "seed": seed}
            for check in CHECKS:
                gains |= {f"{check}_gain": 0.1 + number, f"{check}_gain_ci_low": 0.0 + number}
                gains |= {
                    f"{check}_gain_ci_high": 0.3 + number,
                    f"passes_{check}": not number or check != "deletion",
                }
            tables.append(cells(names, methods, **gains))
    return pd.concat(tables, ignore_index=True)


def located(names, methods, regions):
    tables = []
    for area, region in zip((0.05, 0.4, 0.01), regions, strict=False):
        change = {"energy_change": area, "energy_change_ci_low": area / 2, "energy_change_ci_high": area * 2}
        energy = {"energy_before": area * 2, "energy_after": area * 3}
        tables.append(cells(names, methods, region=region, area=area, **energy, **change))
    return pd.concat(tables, ignore_index=True)


def in_zones(names, methods):
    """Shares of 1/8 that change by up to 7 points, and fail under the second method."""
    tables = []
    for number, zone in enumerate(ZONES):
        change = (number - 3.5) / 50
        parts = {"energy_before": 0.125, "energy_after": 0.125 + change, "energy_change": change}
        parts |= {"direction": "unclear" if abs(change) < 0.02 else "towards" if change > 0 else "away"}
        tables.append(cells(names, methods, region=zone, **parts))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(passes_checks=table["method"] != methods[-1])


def spread(stem, names, methods, **axes):
    """A row for each network, method and entry of `axes`: values 0.1, 0.11, ..., and intervals."""
    index = pd.MultiIndex.from_product([names, methods, *axes.values()], names=[*KEYS, *axes])
    out = index.to_frame(index=False)
    middle = 0.1 + 0.7 * np.arange(len(out)) / len(out)
    for part, shift in {"median": 0, "ci_low": -0.05, "ci_high": 0.05}.items():
        out[f"{stem}_{part}"] = middle + shift
    return out


def answered(names, methods):
    table = spread("overlap", names, methods, answer=ANSWERS).assign(n_images=327)
    table.loc[2, ["overlap_ci_low", "overlap_ci_high"]] = np.nan
    return table.assign(overlap_two_patients_median=0.3, overlap_two_seeds_median=0.6)


def in_groups(
    names, methods, values=("Enlarged_Cardiomediastinum", "normal", "F", "M"), metric="overlap_corrected"
):
    table = spread(metric, names, methods, value=list(values))
    return table.assign(group=np.where(table["value"].isin(["F", "M"]), "sex", "label"))


def consistent(names, methods, labels=("normal", "all classes")):
    table = spread("consistency", names, methods, label=list(labels), checkpoint=["before", "epoch_001", "after"])
    return table.assign(epoch=table["checkpoint"].map({"before": 0, "epoch_001": 1, "after": 2}))


def courses(names, methods, seeds=(0, 1)):
    index = pd.MultiIndex.from_product([names, methods, seeds, (0, 2, 4)], names=[*KEYS, "seed", "epoch"])
    table = index.to_frame(index=False)
    table["value"] = 1 - 0.1 * table["epoch"] - 0.02 * table["seed"]
    return table.assign(
        ci_low=table["value"] - 0.03, ci_high=table["value"] + 0.01, auc=0.9 + table["epoch"] / 100
    )


def auc(names):
    return pd.DataFrame({"architecture": np.repeat(names, 3), "epoch": [0, 1, 2] * len(names), "auc": 0.9})


def analyses(names, variants=2):
    """Every combination of five choices, with values at random."""
    rng = np.random.default_rng(0)
    choices = {"variant": [f"variant-{k}" for k in range(variants)], "grid": ["image", "native"]}
    choices |= {"q": [0.1, 0.2], "images": ["correct", "all"], "scale": ["raw"], "architecture": names}
    table = pd.MultiIndex.from_product(choices.values(), names=choices).to_frame(index=False)
    first = (table[["variant", "grid", "q", "images"]] == ["variant-0", "image", 0.2, "correct"]).all(axis=1)
    same = {"method": "layercam", "complete": True, "uses_default_maps": False}
    return table.assign(value=rng.uniform(size=len(table)), is_default=first, **same)


def powers(effects=(0.05, 0.1, 0.2), patients=(75, 300)):
    index = pd.MultiIndex.from_product([effects, (2, 3, 5, 10), patients], names=["effect", "seeds", "patients"])
    table = index.to_frame(index=False)
    return table.assign(power=(table["seeds"] * table["patients"] * table["effect"] / 60).clip(upper=1))


def blob(row, column, side=32):
    y, x = np.mgrid[:side, :side]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / 60).astype(np.float32)


def examples(classes, rules=("least drift", "median drift", "most drift"), **maps):
    image = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    shown = {"image": image, "before": blob(10, 10), "after": blob(14, 12), **maps}
    text = {"text": "…L2-IM-1342-0001: overlap 0.85"}
    return [{"class": name, "rule": rule, **shown, **text} for name in classes for rule in rules]
