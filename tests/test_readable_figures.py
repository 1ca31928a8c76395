"""What holds for every figure: texts can be read at the width of a page, and none lies on another."""

import inspect
import warnings

import drawn_texts
import figure_tables as made
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figure_tables import METHODS, NAMES

from cxr.metrics.metric_table import METRICS
from cxr.report import figures

ONE, LONG = ["A"], ["CompactDenseNet", "CompactInception", "CompactResNetV2"]
FEW = ["layercam", "gradcampp", "gradcampp_authors"]
IMAGE = made.blob(12, 16)


def runs(names):
    table = pd.DataFrame(
        {"architecture": np.repeat(names, 2), "seed": [0, 1] * len(names), "auc_macro_before": 0.9}
    )
    return table.assign(auc_macro_after=0.92 + 0.01 * table["seed"])


def seen(names, methods, metrics=METRICS):
    table = made.cells(names, methods, standardised=1.25, sees=True)
    return pd.concat([table.assign(metric=name) for name in metrics], ignore_index=True)


def calibration(low):
    return pd.DataFrame({"confidence": [low, 0.95], "accuracy": [low - 0.1, 0.9], "n": [5, 80]})


def history(epochs):
    return pd.DataFrame({"epoch": range(1, epochs + 1), "a": np.geomspace(1, 0.4, epochs), "b": 0.41})


def first(table):
    return figures.first_picture(None, table.assign(map_check="yes"), level=0.95, synthetic=True)


CLASSES = ["Enlarged_Cardiomediastinum", "No_Finding", "Pneumothorax"]
DRIFT = {"metrics": ("overlap", "centroid_shift", "pearson")}
CURVES = {"training": "a", "validation": "b"}
CASES = {
    "answers": [
        lambda: figures.answers(made.answered(ONE, FEW[:1])),
        lambda: figures.answers(made.answered(LONG[:2], FEW)),
    ],
    "confusion": [
        lambda: figures.confusion(np.array([[3, 1], [0, 12]]), ["a", "b"]),
        lambda: figures.confusion(np.full((7, 7), 123), [*CLASSES, "d", "e", "f", "g"], title="after fine-tuning"),
    ],
    "consistency": [
        lambda: figures.consistency(made.consistent(ONE, FEW[:1])),
        lambda: figures.consistency(made.consistent(LONG[:2], FEW, [*CLASSES, "all classes"])),
    ],
    "consistency_course": [
        lambda: figures.consistency_course(made.consistent(ONE, FEW[:1]), made.auc(ONE)),
        lambda: figures.consistency_course(made.consistent(LONG, FEW), made.auc(LONG)),
    ],
    "outlined": [
        lambda: figures.outlined(
            np.zeros((8, 8, 8), np.uint8),
            np.arange(8)[:, None] < [[[4]]] * np.ones((8, 8, 8)),
            ["...film_17 refused"] * 8,
        )
    ],
    "contact_sheet": [
        lambda: figures.contact_sheet(np.zeros((1, 8, 8), np.uint8), ["a"]),
        lambda: figures.contact_sheet(
            np.zeros((16, 8, 8), np.uint8), [*CLASSES, "b"] * 4, heading="Training images"
        ),
    ],
    "course": [
        lambda: figures.course(made.courses(ONE, FEW[:1], [0])),
        lambda: figures.course(made.courses(LONG, FEW), summary=made.drift(LONG, FEW)),
        lambda: figures.course(made.courses(LONG[:1], METHODS, [0])),
    ],
    "drift": [
        lambda: figures.drift(made.drift(ONE, FEW[:1], {}), ["overlap"]),
        lambda: figures.drift(made.drift(LONG, METHODS, **DRIFT), DRIFT["metrics"][:2]),
        lambda: figures.drift(made.drift(LONG, FEW[:2], **DRIFT).assign(map_check=["yes", "no"] * 3), ["overlap"]),
    ],
    "drift_by_class": [
        lambda: figures.drift_by_class(pd.DataFrame({"label": ["a", "b"], "overlap": [0.2, 0.5]}), ["overlap"]),
        lambda: figures.drift_by_class(
            pd.DataFrame({"label": CLASSES * 9, **dict.fromkeys(DRIFT["metrics"], np.linspace(0, 1, 27))}),
            DRIFT["metrics"],
            title="CompactResNetV2, Grad-CAM++, seed 0",
        ),
    ],
    "examples": [
        lambda: figures.examples(made.examples(["a"])),
        lambda: figures.examples(made.examples(CLASSES), title="CompactResNetV2, Grad-CAM++, seed 0"),
        lambda: figures.examples(made.examples(["a"], before=np.full((32, 32), np.nan))[:2]),
    ],
    "first_picture": [lambda: first(made.drift(ONE, FEW[:1])), lambda: first(made.drift(LONG, METHODS))],
    "groups": [
        lambda: figures.groups(made.in_groups(ONE, FEW[:1])),
        lambda: figures.groups(made.in_groups(LONG, FEW), summary=made.drift(LONG, FEW)),
        lambda: figures.groups(made.in_groups(LONG, FEW, metric="centroid_shift"), metric="centroid_shift"),
    ],
    "history": [
        lambda: figures.history(history(1), {"training": "a"}, ylabel="accuracy"),
        lambda: figures.history(history(12), CURVES, ylabel="cross-entropy", title="fine-tuning"),
    ],
    "map_checks": [
        lambda: figures.map_checks(made.checked(ONE, FEW[:1], ["before"], [0])),
        lambda: figures.map_checks(made.checked(LONG, FEW, seeds=["all seeds"])),
        lambda: figures.map_checks(made.checked(LONG[:1], METHODS)),
    ],
    "metrics_seen": [
        lambda: figures.metrics_seen(seen(ONE, FEW[:1], ["overlap"])),
        lambda: figures.metrics_seen(seen(LONG, FEW)),
        lambda: figures.metrics_seen(seen(LONG, METHODS)),
    ],
    "overlay": [
        lambda: figures.overlay(np.zeros((32, 32), np.uint8), IMAGE, IMAGE.T, title="image 3: overlap 0.69")
    ],
    "pair": [
        lambda: figures.pair(made.drift(["a -> b"], FEW[:1], {}), ["overlap"], []),
        lambda: figures.pair(
            made.drift(["a -> b"], METHODS[:5], **DRIFT),
            DRIFT["metrics"],
            made.examples([figures.METHOD_LABELS[name] for name in METHODS[:3]]),
            title=f"A: {'a' * 50}   B: b.keras",
        ),
    ],
    "performance": [lambda: figures.performance(runs(ONE)), lambda: figures.performance(runs(NAMES))],
    "power": [
        lambda: figures.power(made.powers([0.05], [75])),
        lambda: figures.power(made.powers([0.05, 0.1, 0.2, 0.4])),
    ],
    "ranking": [
        lambda: figures.ranking(pd.DataFrame({"layercam": [1.0]}, index=ONE)),
        lambda: figures.ranking(
            pd.DataFrame({name: range(1, 7) for name in METHODS[:5]}, index=NAMES), title="by corrected overlap"
        ),
    ],
    "regions": [
        lambda: figures.regions(made.located(ONE, FEW[:1], ["lesion"])),
        lambda: figures.regions(made.located(LONG, FEW, ["lesion", "lung", "marker"])),
    ],
    "reliability": [
        lambda: figures.reliability({"before": calibration(0.2)}),
        lambda: figures.reliability({"before": calibration(0.5), "after": calibration(0.6)}),
    ],
    "specification_curve": [
        lambda: figures.specification_curve(made.analyses(NAMES[:2]), method="layercam"),
        lambda: figures.specification_curve(made.analyses(NAMES, 8), method="layercam"),
    ],
    "zones": [
        lambda: figures.zones(made.in_zones(ONE, FEW[:1])),
        lambda: figures.zones(made.in_zones(LONG, FEW)),
    ],
    "tiles": [lambda: figures.tiles(np.zeros((32, 32), np.uint8), IMAGE, IMAGE.T)],
}
DRAWN = [pytest.param(make, id=f"{name}-{k}") for name, makers in CASES.items() for k, make in enumerate(makers)]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_every_figure_is_here():
    functions = {name for name in figures.__all__ if inspect.isfunction(getattr(figures, name))}
    assert functions - {"show", "pixels"} == set(CASES)


@pytest.mark.parametrize("make", DRAWN)
def test_texts_can_be_read_at_the_width_of_a_page(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make()
        drawn = drawn_texts.drawn(figure)
    assert figure.get_figwidth() <= drawn_texts.PAGE + 1e-6
    assert drawn.smallest >= 8
    assert drawn.faults() == []
    assert not [text for text in drawn.texts if "universe" in text or "nan" in text]


def test_faults_are_found():
    figure = plt.figure(figsize=(4, 2))
    figure.text(0.1, 0.5, "one")
    figure.text(0.12, 0.52, "two", fontsize=6)
    figure.text(0.99, 0.2, "three")
    hidden = figure.text(0.1, 0.5, "hidden")
    hidden.set_visible(False)
    figure.add_axes((0.5, 0.5, 0.4, 0.4)).axis("off")
    drawn = drawn_texts.drawn(figure)
    assert drawn.faults() == ["'three' is cut off", "'two' lies on 'one'"] and drawn.smallest == 6
    figure.set_figwidth(14.6)
    assert drawn_texts.drawn(figure).smallest == 3
