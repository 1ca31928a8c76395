"""What `cxr drift` says: the answer, its table, its page. Scores are made up; no network is built."""

import functools
import re
import types

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cxr.attribution import passing
from cxr.core.params import DriftParams
from cxr.metrics import metric_table
from cxr.metrics.zones import ZONES
from cxr.pair import answer, checking, chest, compare, page, result
from cxr.report import zones

SETTINGS = {"model_a": "a.keras", "model_b": "b.keras", "n_boot": 200, "data": "films.csv"}
AUC = {"auc_macro_before": 0.91, "auc_macro_after": 0.9, "accuracy_before": 0.8, "accuracy_after": 0.81}


def scores(methods=("layercam",), n=60, **overlap: float) -> pd.DataFrame:
    """Rows of `compare.score_methods`: the overlap and its baselines vary little around these values."""
    rng = np.random.default_rng(0)
    levels = {"overlap": 0.5, "overlap_two_patients": 0.2, **overlap}
    rows = []
    for method in methods:
        values = {name: np.clip(value + rng.uniform(-0.02, 0.02, n), 0, 1) for name, value in levels.items()}
        for metric in metric_table.METRICS:
            others = {name.removeprefix("overlap") for name in levels} | {"_chance"}
            for name in sorted(metric + other for other in others):
                values.setdefault(name, np.full(n, 0.5))
        ids = [f"i{k}" for k in range(n)]
        rows.append(pd.DataFrame({"image_id": ids, "patient_id": ids, "method": method, "seed": 0, **values}))
    return pd.concat(rows, ignore_index=True).assign(empty_before=False, empty_after=False, architecture="a -> b")


def checks(settings: DriftParams, **gains: float) -> pd.DataFrame:
    """`checking.check` where all images gain so much under a method, by both models."""
    rows = [
        {"checkpoint": checkpoint, "method": method, "row": row, "check": check, "gain": gain + row % 3 / 100}
        for method, gain in gains.items()
        for checkpoint in ("before", "after")
        for check in passing.CHECKS
        for row in range(8)
    ]
    table = passing.verdict(pd.DataFrame(rows), range(8), n_boot=200)
    table.insert(0, "model", table["checkpoint"].map({"before": "A", "after": "B"}))
    return table


def said(table: pd.DataFrame, checked: pd.DataFrame, performances=AUC, **options) -> list[str]:
    settings = DriftParams(**{**SETTINGS, "method": list(table["method"].unique()), **options})
    summaries = compare.summarise_methods(table, settings)
    found = answer.sentences(table, summaries, checked, performances, settings)
    assert 2 <= len(found) <= 3
    return found


PASSING = checks(DriftParams(**SETTINGS), layercam=1.0)
FAILING = checks(DriftParams(**SETTINGS), layercam=-1.0)
NONE = PASSING.iloc[:0]


@pytest.mark.parametrize(
    ("overlap", "start"),
    [
        (0.5, "The evidence moved: the strongest 20 % of the area of both maps overlap by 0.50 ["),
        (0.99, "The evidence did not move: the strongest 20 % of the area of both maps overlap by 0.99 ["),
        (0.92, "These images cannot tell whether the evidence moved: "),
        (0.2, "The evidence moved: "),
    ],
)
def test_whether_the_evidence_moved(overlap, start):
    first, again, last = said(scores(overlap=overlap), PASSING)
    assert first.startswith(start) and "identical maps: 1; maps of two patients: 0.20" in first
    assert ("No more is shown than two patients share." in first) == (overlap == 0.2)
    assert again.startswith("Do not conclude") and "--like-b" in again
    auc = "Macro AUC: 0.910 before, 0.900 after."
    assert last == f"{auc} The maps pass their checks. This describes these models on these images."


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (0.8, "Training B again with another seed moves it less (overlap 0.80, 1 model)."),
        (0.3, "Training B again with another seed moves it further (overlap 0.30, 1 model)."),
        (
            0.5,
            "These images cannot tell whether training B again with another seed moves it as far (overlap 0.50, ",
        ),
    ],
)
def test_against_another_seed(seeds, words):
    again = said(scores(overlap_two_seeds=seeds), PASSING, like_b=["b2"])[1]
    assert again.startswith(words) and "Do not conclude" not in again
    both = said(
        scores(overlap_two_seeds=seeds, overlap_two_heads=0.9), PASSING, like_b=["b2"], like_a=["a2", "a3"]
    )
    assert both[1] == f"{again} Training A again with another seed moves it less (overlap 0.90, 2 models)."


def test_where_no_maps_pass_there_is_no_number_of_drift():
    first, more = said(scores(), FAILING)
    assert first.startswith(
        "The maps cannot tell whether the evidence moved: they FAIL their checks (LayerCAM, A: "
    )
    assert "worse than a random map when its pixels are blurred" in first and "0.50" not in first + more
    assert more.startswith("Do not read their overlap as evidence; try another method or layer. Macro AUC: 0.910")


def test_a_method_whose_maps_pass_speaks_for_one_whose_maps_fail():
    table = scores(["gradcampp", "layercam"])
    table.loc[table["method"] == "gradcampp", "overlap"] = 0.7
    checked = checks(DriftParams(**SETTINGS), gradcampp=-1.0, layercam=1.0)
    first, _, last = said(table, checked)
    assert (
        "overlap by 0.50" in first
        and "(LayerCAM;" in first
        and "The maps of Grad-CAM++ fail their checks." in last
    )


def test_without_checks_and_labels_it_says_so():
    assert said(scores(), NONE, performances={})[2] == (
        "The maps were not checked. This describes these models on these images."
    )
    assert "Accuracy: 0.800 before" in said(scores(), PASSING, {k: v for k, v in AUC.items() if "acc" in k})[2]


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_where_all_maps_are_empty_nothing_is_claimed():
    table = scores().assign(empty_before=True)
    values = [name for name in table if name.partition("_")[0] == "overlap"]
    table[values] = np.nan
    assert said(table, NONE)[0].startswith("These images cannot tell whether the evidence moved: ")


@functools.cache
def four_methods():
    names = ["layercam", "gradcampp", "gradcampp_authors", "integrated_gradients"]
    settings = DriftParams(**SETTINGS, method=names, like_a=["a2"], like_b=["b2"], gate=["overlap_median>=0.6"])
    table = scores(names, overlap_two_seeds=0.6, overlap_two_heads=0.7)
    gains = dict(zip(names, (1.0, -1.0, 1.0), strict=False))
    return settings, compare.summarise_methods(table, settings), checks(settings, **gains), table


def test_the_table_keeps_to_100_columns_and_marks_what_fails():
    settings, summaries, checked, _ = four_methods()
    text = answer.in_text(summaries, checked, level=settings.level)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    starts = [next(k for k, line in enumerate(lines) if line.startswith(mark)) for mark in ("LayerCAM", "?", "!")]
    assert starts == sorted(starts) and "? integrated gradients" in text and "! Grad-CAM++ " in text
    assert "FAIL their checks" in lines[starts[2]] and "two seeds" in lines[0]
    assert re.search(r"LayerCAM +0\.50 \[0\.\d\d, 0\.\d\d\] +0\.20 +0\.70 +0\.60 +0\.3\d +0$", text, re.MULTILINE)


def test_whether_maps_pass_can_be_a_gate():
    settings, summaries, checked, _ = four_methods()
    found = result.measured(summaries, checked, AUC)
    names = {name: value for name, value in found.items() if name.endswith("passes_checks")}
    assert names == {"passes_checks": 1, "gradcampp/passes_checks": 0, "gradcampp_authors/passes_checks": 1}
    assert result.measured(summaries, NONE, AUC).keys() == found.keys() - names.keys()
    assert result.heading("layercam", checked) == "LayerCAM"
    assert result.heading("gradcampp", checked).startswith("These maps FAIL their checks")


def test_the_page_opens_with_the_answer_and_has_narrow_tables():
    settings, summaries, checked, table = four_methods()
    settings = settings.model_copy(update={"data": "phantom", "model_b": "<b>.keras"})
    adapted = types.SimpleNamespace(preprocessing="none", preprocessing_why="the model scales them")
    model = types.SimpleNamespace(
        path="<b>.keras", size=96, layer="last", grid="6x6", sha256="0" * 64,
        network=types.SimpleNamespace(adapted=adapted),
    )  # fmt: skip
    chosen = pd.DataFrame({"image_id": ["1", "2"], "patient_id": ["1", "1"], "label": ["x", "y"]})
    chosen = chosen.assign(scored=True, both_correct=True)
    networks = dict.fromkeys(("A", "B", "A2", "B2"), model)
    sentences = answer.sentences(table, summaries, checked, AUC, settings)
    notes = ["A and B <differ>"]
    drawn = {"figure": Figure(figsize=(2, 2)), "notes": notes}
    given = (sentences, networks, chosen, summaries, checked, AUC, settings)
    found = page.html(*given, **drawn, chest=pd.DataFrame())
    places = [
        found.find(text) for text in ("SYNTHETIC DATA", "The evidence moved", "A and B &lt;differ&gt;", "<table>")
    ]
    assert -1 not in places and places == sorted(places)
    assert "<b>.keras" not in found and "gate overlap_median&gt;=0.6: FAILED" in found
    tables = re.findall("<table>.*?</table>", found, re.DOTALL)
    assert len(tables) == 7 and max(one.count("<th>") for one in tables) <= 8
    head = re.findall("<th>(.*?)</th>", tables[0], re.DOTALL)
    assert head[:3] == ["method", "maps", "overlap\n[95% interval]"]  # the mark stands before the numbers
    assert tables[0].index("FAIL their checks") > tables[0].index("LayerCAM")
    assert found.count("<img") == 1 and "in the chest" not in found
    with_zones = page.html(*given, **drawn, chest=in_chest())
    assert with_zones.count("<img") == 2 and "From where to where in the chest?" in with_zones
    [moved] = [one for one in re.findall("<table>.*?</table>", with_zones, re.DOTALL) if "gained" in one]
    assert "LayerCAM" in moved and "left lower +5.0 [+4.0, +6.0]" in moved and "Grad-CAM" not in moved
    text = result.text(networks, chosen, summaries, checked, AUC, settings, said=sentences, notes=notes)
    assert max(map(len, text.splitlines())) <= 100
    order = ["A   <b>.keras", "CAUTION: A and B", "The evidence moved", "[95% interval]", "! Grad-CAM++"]
    places = [text.find(part) for part in order]
    assert -1 not in places and places == sorted(places)


def in_chest():
    """Evidence that went from the right upper to the left lower zone; the maps of the second method fail."""
    found = []
    for method, passes in (("layercam", True), ("gradcampp", False)):
        for zone in ZONES:
            change = {"right_upper": -0.05, "left_lower": 0.05}.get(zone, 0.0)
            row = {"energy_before": 0.125, "energy_after": 0.125 + change, "energy_change": change, "n_images": 9}
            row |= {"energy_change_ci_low": change - 0.01, "energy_change_ci_high": change + 0.01}
            row["direction"] = "towards" if change > 0 else "away" if change < 0 else "unclear"
            row |= {"architecture": "a→b", "method": method, "region": zone, "passes_checks": passes}
            found.append(row)
    return pd.DataFrame(found).assign(label=zones.ALL)


def test_the_zones_are_told_of_maps_that_pass():
    assert chest.sentences(in_chest()) == [
        "From A to B in the chest, points of 100 of the evidence (LayerCAM): gained most: left lower +5.0 "
        "[+4.0, +6.0], lost most: right upper -5.0 [-6.0, -4.0]."
    ]
    still = in_chest().assign(direction="unclear")
    assert chest.sentences(still) == [
        "From A to B in the chest, points of 100 of the evidence (LayerCAM): no zone gained or lost beyond its "
        "interval."
    ]
    assert chest.sentences(in_chest().assign(passes_checks=False)) == chest.sentences(pd.DataFrame()) == []


def test_checks_by_method():
    assert checking.by_method(PASSING, ["layercam", "gradcam"]) == {"layercam": "yes", "gradcam": "not checked"}
    assert checking.by_method(FAILING, ["layercam"]) == {"layercam": "no"}
    assert checking.reasons(PASSING, "layercam") == "" and checking.reasons(FAILING, "layercam").startswith(
        "A: worse"
    )


def test_the_tags_hold_the_answer_and_whether_it_is_synthetic():
    settings = DriftParams(**SETTINGS)
    assert answer.tags(["It moved.", "Or not."], settings) == {
        "cxr.answer": "It moved. Or not.",
        "cxr.synthetic": "no",
    }
    phantom = answer.tags(["word " * 200], settings.model_copy(update={"data": "phantom"}))
    assert len(phantom["cxr.answer"]) <= 500 and phantom["cxr.answer"].endswith(" …")
    assert phantom["cxr.synthetic"] == "yes"
