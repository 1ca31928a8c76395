"""The sentences with which a report opens, and its first screen, on answers and numbers that are made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr.report import opening, page_parts, questions
from cxr.report.judgement import FRAGILE, OPEN, Judgement
from cxr.report.questions import NO, SOME, YES

CELLS = [("A", "layercam"), ("A", "gradcampp"), ("B", "layercam"), ("B", "gradcampp")]
KEYS = ("accuracy", "moved", "seeds", "null", "disease", "network", "method", "class", "checks")
NUMBERS = {
    "overlap_median": [0.45, 0.6, 0.5, 0.77],
    "overlap_two_patients_median": [0.22, 0.3, 0.25, 0.38],
    "overlap_two_seeds_median": [0.51, 0.6, 0.7, 0.83],
    "overlap_more_training_median": [0.81, 0.82, 0.85, 0.9],
}
SPANS = "identical maps 1, two patients 0.22 to 0.38, two seeds 0.51 to 0.83"
OVERLAP = "the strongest 20 % before and after overlap by"
BOTH = "combinations of network and method"
IN_PART = (SOME, "yes in 1 and no in 2 of 4 cells. Corrected overlap 0.1")


def say(answers=None, *, cells=CELLS, unsound=None, auc=(0.001, 0.01), seeds=3, against="two seeds", null=False):
    """The sentences of a study. `answers`: by key, a word or (word, evidence); the others are yes."""
    given = {key: (answers or {}).get(key, YES) for key in KEYS}
    judged = [Judgement(*((word, "") if isinstance(word, str) else word)) for word in given.values()]
    estimates = dict.fromkeys(cells, SimpleNamespace(n_seeds=seeds))
    evidence = SimpleNamespace(
        metric="overlap",
        unsound=unsound or {},
        auc_change={str(k): SimpleNamespace(value=value) for k, value in enumerate(auc)},
        margins=SimpleNamespace(auc=0.02),
        excess=estimates if against else {},
        against=against,
    )
    asked = SimpleNamespace(evidence=evidence, drift=estimates, null=estimates if null else {})
    summary = pd.DataFrame(CELLS, columns=["architecture", "method"]).assign(**NUMBERS)
    summary = summary[[cell in cells for cell in CELLS]]
    summary = summary if seeds > 1 else summary.drop(columns="overlap_two_seeds_median")
    return opening.sentences(asked, dict(zip(questions.QUESTIONS, judged, strict=True)), summary)


def test_the_evidence_moved_and_accuracy_stayed():
    assert say() == [
        f"The evidence moved in every network under every method: {OVERLAP} 0.45 to 0.77 ({SPANS}).",
        "Another seed moves it less.",
        "Accuracy stayed: macro AUC rose by 0.001 to 0.010 (margin ±0.02). All maps pass their checks.",
    ]


def test_one_network_with_one_seed():
    found = say({"seeds": OPEN}, cells=CELLS[:1], seeds=1, against="", auc=[-0.004])
    assert found == [
        f"The evidence moved: {OVERLAP} 0.45 (identical maps 1, two patients 0.22).",
        "There is no comparison with another seed: it needs three seeds.",
        "Accuracy stayed: macro AUC fell by 0.004 (margin ±0.02). All maps pass their checks. One seed: this "
        "describes these checkpoints only.",
    ]


def test_maps_that_all_fail_come_before_everything_and_no_number_of_drift_is_said():
    found = say({"moved": OPEN}, unsound=dict.fromkeys(CELLS, "fail (class) before and after"))
    assert found == [
        "The maps cannot tell whether the evidence moved: they fail their checks. Their drift describes maps, not "
        "networks.",
        "Accuracy stayed: macro AUC rose by 0.001 to 0.010 (margin ±0.02).",
    ]
    one = say({"moved": OPEN}, cells=CELLS[:1], seeds=1, unsound={CELLS[0]: "fail (class) after"})
    assert one[1].endswith("(margin ±0.02). One seed: this describes these checkpoints only.")
    not_checked = say({"moved": OPEN}, unsound=dict.fromkeys(CELLS, "were not checked"))[0]
    assert "whether the evidence moved: they were not checked." in not_checked
    both = say(unsound=dict.fromkeys(CELLS, "were not checked") | {CELLS[0]: "fail (head) after"})[0]
    assert "they fail their checks or were not checked." in both


def test_numbers_are_of_cells_whose_maps_pass():
    moved, _, last = say(unsound={CELLS[0]: "fail (class) before"})
    assert moved.startswith(
        "In the 3 of 4 combinations of network and method whose maps pass their checks, the evidence moved: "
    )
    assert f"{OVERLAP} 0.50 to 0.77 (identical maps 1, two patients 0.25 to 0.38," in moved
    assert "All maps pass" not in last
    moved = say(unsound=dict.fromkeys(CELLS[1:], "fail (class) before"))[0]
    assert moved.startswith(f"In A under LayerCAM, the only one of 4 {BOTH} whose maps pass their checks, the ")


@pytest.mark.parametrize(
    ("answer", "start"),
    [
        (NO, "The evidence did not move in every network under every method: "),
        (OPEN, "This study cannot tell whether the evidence moved: "),
        (FRAGILE, "This study cannot tell whether the evidence moved: "),
        (IN_PART, f"The evidence moved in part (yes in 1 and no in 2 of 4 {BOTH}): "),
    ],
)
def test_no_more_is_claimed_than_the_answer_does(answer, start):
    assert say({"moved": answer})[0] == f"{start}{OVERLAP} 0.45 to 0.77 ({SPANS})."


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (NO, "Another seed moves it further."),
        (OPEN, "This study cannot tell whether another seed moves it as far."),
        (IN_PART, f"Does another seed move it less? Yes in 1 and no in 2 of 4 {BOTH}."),
    ],
)
def test_the_comparison_with_another_seed(answer, text):
    assert say({"seeds": answer})[1] == text
    assert say({"seeds": NO}, against="two heads")[1] == "Another seed of the new head moves it further."
    assert say({"seeds": OPEN}, against="two heads")[1] == (
        "There is no comparison with another seed: it needs three seeds."
    )


def test_the_matched_null_is_said_where_it_was_asked():
    moved, compared, _ = say(null=True)
    assert moved.endswith(f"({SPANS}, as many epochs again 0.81 to 0.90).")
    assert compared == "Another seed moves it less. Training on for as many epochs moves it less."
    assert say({"seeds": OPEN, "null": OPEN}, null=True)[1] == (
        "This study cannot tell whether another seed or training on for as many epochs moves it as far."
    )
    assert say({"null": NO}, against="", null=True)[1] == "Training on for as many epochs moves it further."


@pytest.mark.parametrize(
    ("answer", "auc", "text"),
    [
        (NO, [0.03], "Accuracy did not stay: macro AUC rose by 0.030 (margin ±0.02)."),
        (
            NO,
            [-0.03, 0.01],
            "Accuracy did not stay in every network: macro AUC changed by -0.030 to +0.010 (margin",
        ),
        (OPEN, [-0.03, -0.01], "This study cannot tell whether accuracy stayed: macro AUC fell by 0.010 to 0.030"),
        (OPEN, [np.nan], "Whether accuracy stayed is not known: there is no AUC."),
        (OPEN, [], "Whether accuracy stayed is not known: there is no AUC."),
    ],
)
def test_accuracy(answer, auc, text):
    assert say({"accuracy": answer}, auc=auc)[2].startswith(text)


def test_tags_are_short_and_say_what_the_images_are():
    assert opening.tags(["One.", "Two."], synthetic=True) == {"cxr.answer": "One. Two.", "cxr.synthetic": "yes"}
    found = opening.tags(["word " * 200], synthetic=False)
    assert len(found["cxr.answer"]) <= 500 and found["cxr.answer"].endswith("word …")
    assert found["cxr.synthetic"] == "no"


@pytest.mark.parametrize(
    ("data", "names", "text"),
    [
        ("images.csv", ["CompactDenseNet"], ""),
        (
            "phantom",
            ["CompactDenseNet", "CompactInception"],
            "The images are drawn by a program and the networks are",
        ),
        (
            "phantom",
            ["CompactDenseNet", "DenseNet201"],
            "The images are drawn by a program. Nothing here is about",
        ),
        ("phantom", ["my.models:network"], "The images are drawn by a program. Nothing here is about patients."),
    ],
)
def test_only_the_phantom_is_synthetic(data, names, text):
    study = SimpleNamespace(training_params={"data": data}, runs=pd.DataFrame({"architecture": names}))
    assert opening.warning(study).startswith(text) and bool(opening.warning(study)) == bool(text)


def test_the_first_screen_escapes_and_has_a_banner_only_for_synthetic_data():
    page = page_parts.first_screen(["a <b", "c"], name="<script>x</script>", warning="drawn & small").data
    assert "<script>" not in page and "&lt;script&gt;x&lt;/script&gt;" in page and "a &lt;b" in page
    assert (
        page.index("SYNTHETIC DATA")
        < page.index("drawn &amp; small")
        < page.index("a &lt;b")
        < page.index("c</p>")
    )
    assert "SYNTHETIC" not in page_parts.first_screen(["a"], name="x").data


def test_badges_have_words_and_fold_their_evidence():
    judged = {word: Judgement(word, f"of {word}") for word in questions.ANSWERS}
    page = page_parts.badges(judged | {"<i>?": Judgement(NO, "<script>", "why <u>")}).data
    for word in questions.ANSWERS:
        assert f">{word}</b> {word}</summary><p>Of {word}</p></details>" in page
    assert "<script>" not in page and "<i>" not in page and "<u>" not in page
    assert page.count("<details>") == len(judged) + 1


def test_what_an_open_answer_lacks_stands_before_its_numbers():
    page = page_parts.badges({"q": Judgement(OPEN, "overlap 0.9", "needs maps that pass")}).data
    assert page.index("Needs maps that pass") < page.index("Overlap 0.9")
    page = page_parts.badges({"q": Judgement(SOME, "3 of 4 pass", "B fails")}).data
    assert page.index("3 of 4 pass") < page.index("B fails")


def test_the_checks_of_maps_are_the_first_badge():
    answered = {question: Judgement(YES, "") for question in questions.QUESTIONS}
    ordered = list(opening.checks_first(answered))
    assert ordered[0] == list(questions.QUESTIONS)[-1] and sorted(ordered) == sorted(questions.QUESTIONS)


def luminance(colour):
    values = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("word", [*questions.ANSWERS, "supported", "contradicted"])
def test_a_badge_has_the_contrast_that_wcag_asks_for(word):
    page = page_parts.badges({"q": Judgement(word, "x")}).data
    style = page.split('class="cxr-badge" style="background: ')[1].split('"')[0]
    ground, text = (part.split(": ")[-1] for part in style.split("; "))
    shades = sorted(luminance({"#fff": "#ffffff", "#000": "#000000"}.get(each, each)) for each in (ground, text))
    assert (shades[1] + 0.05) / (shades[0] + 0.05) >= 4.5
