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
        ("iou20_median>=0.5", Gate("iou20_median", ">=", 0.5)),
        ("  centroid_shift_median <= 5e-2 ", Gate("centroid_shift_median", "<=", 0.05)),
        ("gini_change_median>-0.1", Gate("gini_change_median", ">", -0.1)),
        ("n_degenerate<3", Gate("n_degenerate", "<", 3.0)),
        ("gradcampp/iou20_median>=.25", Gate("gradcampp/iou20_median", ">=", 0.25)),
        ("auc_Pleural thickening_transfer>0.9", Gate("auc_Pleural thickening_transfer", ">", 0.9)),
        ("log_loss_fine_tuned<inf", Gate("log_loss_fine_tuned", "<", math.inf)),
    ],
)
def test_parse(text, gate):
    assert gates.parse(text) == gate
    assert gates.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iou20_median", "in a shell, > and < need quotes"),
        ("", "expected METRIC>=NUMBER"),
        ("iou20_median>=", "expected METRIC>=NUMBER"),
        (">=0.5", "expected METRIC>=NUMBER"),
        ("0.3<iou20_median<0.5", "expected METRIC>=NUMBER"),
        ("iou20_median==0.5", "expected METRIC>=NUMBER"),
        ("iou20_median=>0.5", "expected METRIC>=NUMBER"),
        ("iou20_median>=half", "'half' is not a number"),
        ("iou20_median>=nan", "'nan' is not a number"),
        ("iou20_median>=__import__('os')", "is not a number"),
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
    known = ["iou20_median", "iou10_median", "pearson_median", "n_degenerate"]
    gates.check([Gate("iou20_median", ">", 0)], known)
    with pytest.raises(InputError, match="no metric 'iou20_mean' is measured here: use iou20_median, iou10"):
        gates.check([Gate("iou20_median", ">", 0), Gate("iou20_mean", ">", 0)], known)
    with pytest.raises(InputError, match="no metric 'zzz' is measured here: use iou20_median, n_degenerate"):
        gates.check([Gate("zzz", ">", 0)], known)


def test_judge_and_its_lines():
    metrics = {
        "iou20_median": 0.61234, "iou20_ci_low": 0.55, "iou20_ci_high": 0.66, "iou20_retained": 0.4,
        "iou20_retained_ci_low": 0.3, "iou20_retained_ci_high": 0.5, "n_degenerate": 3, "ssim_median": math.nan,
        "ssim_ci_low": math.nan, "ssim_ci_high": math.nan,
    }  # fmt: skip
    texts = ["iou20_median>=0.5", "iou20_retained>0.45", "n_degenerate<=3", "ssim_median<1", "refit<1"]
    results = gates.judge([gates.parse(text) for text in texts], metrics)
    assert [result["passed"] for result in results] == [True, False, True, False, False]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert [gates.line(result) for result in results] == [
        "gate iou20_median>=0.5: passed, measured 0.6123 [0.55, 0.66]",
        "gate iou20_retained>0.45: FAILED, measured 0.4 [0.3, 0.5]",
        "gate n_degenerate<=3: passed, measured 3",
        "gate ssim_median<1: FAILED, no value (NaN)",
        "gate refit<1: FAILED, no value (NaN)",
    ]
