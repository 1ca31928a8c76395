"""cxr.metrics.consistency: agreement of maps between patients, against a loop over pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxr.core.errors import InputError
from cxr.metrics.consistency import consistency, pairwise_soft_iou
from cxr.statistics import bootstrap

POSITIVE = arrays(np.float64, st.tuples(st.integers(2, 6), st.just(3), st.just(4)), elements=st.floats(0.01, 100))


def by_pairs(maps, confidence, patient, copies=None):
    """The definition, pair by pair; `copies`: how often each image counts."""
    copies = np.ones(len(maps), int) if copies is None else copies
    rows = np.repeat(np.arange(len(maps)), copies)
    over = under = 0.0
    for i in rows:
        for j in rows:
            if patient[i] != patient[j]:
                a, b = ((maps[k] / maps[k].max()) ** 2 for k in (i, j))
                weight = confidence[i] * confidence[j]
                over += weight * np.minimum(a, b).sum() / np.maximum(a, b).sum()
                under += weight
    return over / under if under else np.nan


def test_worked_out_by_hand():
    maps = np.array([[[2.0, 0.0], [0.0, 0.0]], [[1.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    # squared and divided by the maximum: (1, 0, 0, 0), (1, 1/4, 0, 0), (0, 0, 0, 1)
    expected = [[1, 1 / 1.25, 0], [1 / 1.25, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(pairwise_soft_iou(maps), expected, atol=1e-15)
    value, _ = consistency(maps, np.array([1.0, 0.5, 0.5]), np.array(["a", "b", "c"]))
    assert value == pytest.approx(0.5 * 0.8 / (0.5 + 0.5 + 0.25))
    value, _ = consistency(maps, np.ones(3), np.array(["a", "a", "b"]))  # one patient has two images
    assert value == 0


def test_against_a_loop_over_pairs_with_replicates_over_patients():
    rng = np.random.default_rng(0)
    maps = rng.gamma(0.5, size=(14, 5, 4))
    patient = np.array(list("aabcdefghiijkl"))
    confidence = rng.uniform(0.2, 1, 14)
    draws = bootstrap.patient_weights(patient, n_boot=30)
    value, replicates = consistency(maps, confidence, patient, draws)
    assert value == pytest.approx(by_pairs(maps, confidence, patient), rel=1e-12)
    wanted = [by_pairs(maps, confidence, patient, row) for row in draws]
    np.testing.assert_allclose(replicates, wanted, rtol=1e-12)
    assert 0 < replicates.std() < 0.2


@given(POSITIVE)
def test_soft_iou_is_symmetric_between_0_and_1_and_1_with_itself(maps):
    found = pairwise_soft_iou(maps)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1)
    assert (found >= -1e-12).all() and (found <= 1 + 1e-12).all()


@given(POSITIVE, st.floats(0.01, 1), st.floats(0.1, 10))
def test_what_changes_nothing(maps, confidence, factor):
    patient = np.arange(len(maps))
    weights = np.linspace(0.1, 1, len(maps))
    value, _ = consistency(maps, weights, patient)
    assert consistency(maps, weights * confidence, patient)[0] == pytest.approx(value)  # one factor for all
    assert consistency(maps * factor, weights, patient)[0] == pytest.approx(value)  # the scale of the maps
    assert consistency(maps[::-1], weights[::-1], patient)[0] == pytest.approx(value)  # the order
    assert consistency(maps[:, ::-1], weights, patient)[0] == pytest.approx(value)  # where things lie
    same = np.repeat(maps[:1], len(maps), axis=0) * np.arange(1, len(maps) + 1)[:, None, None]
    assert consistency(same, weights, patient)[0] == pytest.approx(1)


def test_certain_images_count_more():
    alike = np.eye(4)[None] + 0.01
    maps = np.concatenate([alike, alike, np.eye(4)[None, ::-1] + 0.01])
    patient = np.arange(3)
    even, _ = consistency(maps, np.ones(3), patient)
    sure, _ = consistency(maps, np.array([1, 1, 0.1]), patient)
    assert sure > even + 0.2


def test_without_pairs_there_is_no_value():
    draws = np.ones((3, 2), int)
    for maps, patient in ((np.ones((2, 2, 2)), ["a", "a"]), (np.ones((0, 2, 2)), [])):
        value, replicates = consistency(maps, np.ones(len(maps)), patient, draws[:, : len(maps)])
        assert np.isnan(value) and np.isnan(replicates).all() and len(replicates) == 3
    _, replicates = consistency(np.ones((2, 2, 2)), np.ones(2), ["a", "b"], np.array([[1, 1], [2, 0]]))
    np.testing.assert_array_equal(replicates, [1, np.nan])


@pytest.mark.parametrize("bad", [np.zeros((1, 2, 2)), -np.ones((1, 2, 2)), np.full((1, 2, 2), np.nan)])
def test_empty_and_negative_maps_are_refused(bad):
    with pytest.raises(InputError, match="leave empty maps out"):
        pairwise_soft_iou(np.concatenate([np.ones((1, 2, 2)), bad]))
    with pytest.raises(InputError, match="2 maps, 1 probabilities"):
        consistency(np.ones((2, 2, 2)), np.ones(1), ["a", "b"])
