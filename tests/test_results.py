"""What a study prints at its end."""

import types

import pandas as pd
import pytest

from cxr.core import tables
from cxr.study import report_page, results
from cxr.study.session import State

SUMMARY = {
    "seeds": 2,
    "auc_macro_before": 0.948,
    "auc_macro_after": 0.957,
    "overlap_median": 0.5487,
    "overlap_ci_low": 0.4671,
    "overlap_ci_high": 0.6303,
    "overlap_two_patients_median": 0.223,
    "overlap_two_heads_median": 0.86,
    "overlap_two_seeds_median": 0.554,
    "overlap_corrected_median": 0.419,
}
OWN = "a_package_of_mine.networks.densenet:build_a_classifier_with_two_heads"


def cells(**checks) -> pd.DataFrame:
    """A row a cell: the architecture's name and its `map_check`."""
    rows = [
        {"architecture": name, "method": "gradcampp_authors", "map_check": check} for name, check in checks.items()
    ]
    return pd.DataFrame(rows).assign(**SUMMARY)


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_cells_whose_maps_fail_come_last_and_marked_before_their_numbers():
    table = cells(Fails="no", Passes="yes", Unknown="not checked")
    table.loc[1, "overlap_ci_low"] = float("nan")
    lines = results.in_text(table, level=0.9).splitlines()
    values = "gradcampp_authors  0.948 0.957  0.55 [0.47, 0.63]      0.22   0.55       0.42"
    assert "[90% interval]" in lines[1] and lines[1].split()[0] == "network"
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "Passes gradcampp_authors 0.948 0.957 0.55 0.22 0.55 0.42",
        "",
        "? These maps were not checked:",
        f"? Unknown {' '.join(values.split())}",
        "",
        "! These maps FAIL their checks; their numbers may say nothing about the network:",
        f"! Fails {' '.join(values.split())}",
    ]


def test_where_all_pass_there_is_no_mark_and_one_seed_has_two_heads():
    one = cells(CompactInception="yes").drop(columns="overlap_two_seeds_median")
    text = results.in_text(one, level=0.95)
    assert "!" not in text and "?" not in text and len(text.splitlines()) == 3
    assert "heads" in text and "0.86" in text


@pytest.mark.parametrize("name", [OWN, "x" * 200, "CompactInception"])
def test_the_table_is_at_most_100_columns_wide_and_loses_nothing_of_a_long_name(name):
    text = results.in_text(cells(CompactInception="no").assign(architecture=name), level=0.95)
    assert widest(text) <= 100
    first = "".join(
        line[: line.find("gradcampp") if "gradcampp" in line else None] for line in text.splitlines()[4:]
    )
    assert "".join(first.split()) == f"!{name}"
    assert "0.948 0.957  0.55 [0.47, 0.63]" in text


def test_a_study_without_comparison_has_a_row_a_score_run(monkeypatch):
    run = types.SimpleNamespace(metrics=SUMMARY, params={"passes_checks": "False"})
    monkeypatch.setattr(results.tracking, "stored", lambda _: run)
    table = results.table({"score/VGG16/s3/gradcam": "1", "train/VGG16/s3": "2"})
    assert table[["architecture", "seed", "method", "map_check"]].values.tolist() == [
        ["VGG16", "3", "gradcam", "no"]
    ]
    assert "! VGG16  gradcam     3" in results.in_text(table, level=0.95)


class Compare:
    """A stored compare run."""

    run_id = "c"

    def __init__(self, folder, **texts):
        self.folder = folder
        for name, text in texts.items():
            (folder / name.replace("_", ".")).write_text(text)

    def has(self, name):
        return (self.folder / name).exists()

    def file(self, name):
        return self.folder / name

    def table(self, name):
        return pd.read_csv(self.folder / name)


@pytest.mark.parametrize("answered", [True, False])
def test_a_study_ends_with_answer_table_questions_and_report(answered, tmp_path, monkeypatch, capsys):
    said = "The evidence moved: " + "the strongest 20 % of the area before and after overlap by 0.55, " * 3
    texts = {"questions_csv": "question,answer,numbers\nDid the evidence move?,yes,long\n"}
    texts |= {"answer_txt": f"{said}\nAccuracy stayed.\n"} if answered else {}
    compare = Compare(tmp_path, **texts)
    cells(**{"CompactInception": "yes", OWN: "no"}).to_csv(tmp_path / "summary.csv", index=False)
    monkeypatch.setattr(results.tracking, "stored", lambda _: compare)
    monkeypatch.setattr(report_page, "fetch", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    study = types.SimpleNamespace(level=0.95, name="a" * 60)
    session = types.SimpleNamespace(
        study=study, steps=[types.SimpleNamespace(key="compare")], tracking_uri="sqlite:////x/mlflow.db",
        setup=types.SimpleNamespace(out=tmp_path / "mlruns" / "studies" / ("a" * 60)),
    )  # fmt: skip
    failures = {"score/a/s0/b": "InputError: " + "something is wrong " * 10}
    results.show(session, State(runs={"compare": "c"}, failures=failures))
    out = capsys.readouterr().out
    order = [
        "network ",
        "Did the evidence move?  yes",
        "report: mlruns/studies/a",
        "runs:   cxr ui",
        "1 of 1 notebooks",
    ]
    order = ["The evidence moved: the strongest", "Accuracy stayed.", *order] if answered else order
    places = [out.find(text) for text in order]
    assert -1 not in places and places == sorted(places)
    assert ("evidence moved:" in out) == answered and "long" not in out
    assert widest(out) <= 100


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.95, "95%"), (0.995, "99.5%"), (0.999, "99.9%"), (1 - 0.95, "5%"), (1 - 0.995, "0.5%"), (0.5, "50%")],
)
def test_a_share_keeps_its_digits(share, shown):
    assert tables.percent(share) == shown


def test_tables_wrap_names_and_never_numbers():
    shown = pd.DataFrame({"method": ["word " * 30, "b"], "n": ["1" * 50, "2"], "two\nlines": ["3", "4"]})
    heading, rows = tables.lines(shown)
    assert heading.splitlines()[1].startswith("method") and "lines" in heading.splitlines()[1]
    assert "1" * 50 in rows[0].splitlines()[0] and widest(rows[0]) <= 100 and rows[0].count("word") == 30
    assert [line.split() for line in rows[1].splitlines()] == [["b", "2", "4"]]
    assert tables.numbers(pd.DataFrame({"a": [1.0, float("nan")]}), "a", "b", digits=1) == ["1.0 -", "- -"]
