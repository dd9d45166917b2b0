"""Windows become intervals; intervals are compared."""

import numpy as np
import pytest

from mer_jax.predict import expression
from mer_jax.predict.intervals import find, matches, overlap

MIDDLES = 0.5 + 0.1 * np.arange(8)


def spans(scores, threshold=0.5, shortest=0.0):
    found = find(np.array(scores, float), MIDDLES, 0.1, threshold, shortest)
    return [(round(i.start, 3), round(i.end, 3), i.windows, i.peak) for i in found]


def test_neighbours_above_the_threshold_are_one_interval():
    assert spans([0, 0.6, 0.9, 0.5, 0.4, 0, 0.7, 0.8]) == [(0.55, 0.85, (1, 3), 2), (1.05, 1.25, (6, 7), 7)]
    assert spans([0.4] * 8) == []
    assert spans([1.0] * 8) == [(0.45, 1.25, (0, 7), 0)]


def test_short_ones_are_dropped_and_unknown_windows_part():
    assert spans([0, 1, 0, 0, 1, 1, 1, 0], shortest=0.2) == [(0.85, 1.15, (4, 6), 4)]
    assert spans([0, 1, np.nan, 1, 0, 0, 0, 0]) == [(0.55, 0.65, (1, 1), 1), (0.75, 0.85, (3, 3), 3)]


def test_an_interval_does_not_begin_before_the_recording():
    assert find(np.array([1.0]), np.array([0.02]), 0.1, 0.5, 0.0)[0].start == 0.0


def test_overlap_is_intersection_over_union():
    assert overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert overlap((0, 1), (2, 3)) == 0
    assert overlap((0, 4), (1, 3)) == pytest.approx(0.5)


def test_each_true_interval_is_found_once():
    true = [(0.0, 1.0), (2.0, 3.0)]
    assert matches([(0.1, 1.0), (0.0, 0.9)], true) == 1
    assert matches([(0.1, 1.0), (2.0, 2.6)], true) == 2
    assert matches([(0.0, 3.0)], true) == 0
    assert matches([], true) == 0


def test_an_expression_is_what_is_not_neutral():
    probability = np.array([[0.2, 0.7, 0.1]])
    np.testing.assert_allclose(expression(probability, ("a", "neutral", "b")), [0.3])
    assert expression(probability, ("a", "b", "c")) is None
