import json
import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.core.errors import InputError
from cxr.pair import gates
from cxr.pair.gates import Gate


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("overlap_median>=0.5", Gate("overlap_median", ">=", 0.5)),
        ("  centroid_shift_median <= 5e-2 ", Gate("centroid_shift_median", "<=", 0.05)),
        ("gini_change_median>-0.1", Gate("gini_change_median", ">", -0.1)),
        ("n_empty<3", Gate("n_empty", "<", 3.0)),
        ("gradcampp/overlap_median>=.25", Gate("gradcampp/overlap_median", ">=", 0.25)),
        ("auc_Pleural thickening_before>0.9", Gate("auc_Pleural thickening_before", ">", 0.9)),
        ("log_loss_after<inf", Gate("log_loss_after", "<", math.inf)),
    ],
)
def test_parse(text, gate):
    assert gates.parse(text) == gate
    assert gates.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overlap_median", "in a shell, put the whole in quotes"),
        ("", "expected METRIC>=NUMBER"),
        ("overlap_median>=", "expected METRIC>=NUMBER"),
        (">=0.5", "expected METRIC>=NUMBER"),
        ("0.3<overlap_median<0.5", "expected METRIC>=NUMBER"),
        ("overlap_median==0.5", "expected METRIC>=NUMBER"),
        ("overlap_median=>0.5", "expected METRIC>=NUMBER"),
        ("overlap_median>=half", "'half' is not a number"),
        ("overlap_median>=nan", "'nan' is not a number"),
        ("overlap_median>=__import__('os')", "is not a number"),
    ],
)
def test_what_is_no_gate(text, message):
    with pytest.raises(InputError, match="^gate '"):
        gates.parse(text)
    with pytest.raises(InputError) as error:
        gates.parse(text)
    assert message in str(error.value)


@given(
    st.sampled_from([(">=", operator.ge), (">", operator.gt), ("<=", operator.le), ("<", operator.lt)]),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
)
def test_passes_is_the_comparison(sign, value, limit):
    text, compare = sign
    assert Gate("x", text, limit).passes(value) is compare(value, limit)


@pytest.mark.parametrize("sign", [">=", ">", "<=", "<"])
@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_fails(sign, value):
    assert Gate("x", sign, 0.5).passes(value) is False


def test_unknown_metrics_are_told_with_close_ones():
    known = ["overlap_median", "overlap_q10_median", "pearson_median", "n_empty"]
    gates.check([Gate("overlap_median", ">", 0)], known)
    with pytest.raises(
        InputError, match="no metric 'overlap_mean' is measured here: use overlap_median, overlap_q10"
    ):
        gates.check([Gate("overlap_median", ">", 0), Gate("overlap_mean", ">", 0)], known)
    with pytest.raises(InputError, match="no metric 'zzz' is measured here: use overlap_median, n_empty"):
        gates.check([Gate("zzz", ">", 0)], known)


def test_judge_and_its_lines():
    metrics = {
        "overlap_median": 0.61234, "overlap_ci_low": 0.55, "overlap_ci_high": 0.66,
        "overlap_corrected_median": 0.4,
        "overlap_corrected_ci_low": 0.3, "overlap_corrected_ci_high": 0.5, "n_empty": 3, "ssim_median": math.nan,
        "ssim_ci_low": math.nan, "ssim_ci_high": math.nan,
    }  # fmt: skip
    texts = ["overlap_median>=0.5", "overlap_corrected_median>0.45", "n_empty<=3", "ssim_median<1", "two_seeds<1"]
    results = gates.judge([gates.parse(text) for text in texts], metrics)
    assert [result["passed"] for result in results] == [True, False, True, False, False]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert [gates.line(result) for result in results] == [
        "gate overlap_median>=0.5: passed, measured 0.6123 [0.55, 0.66]",
        "gate overlap_corrected_median>0.45: FAILED, measured 0.4 [0.3, 0.5]",
        "gate n_empty<=3: passed, measured 3",
        "gate ssim_median<1: FAILED, no value (NaN)",
        "gate two_seeds<1: FAILED, no value (NaN)",
    ]
