from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_jax.evaluation import au_metrics


def one_group(truth, predicted):
    return au_metrics.au_confusion(truth, predicted, np.zeros(len(truth), int), 1)[0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 40), units=st.integers(1, 5), unknown=st.floats(0, 0.5))
def test_against_sklearn_with_masked_unknowns(seed, n, units, unknown):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (n, units))
    truth[rng.random((n, units)) < unknown] = -1
    truth[0], truth[1] = 1, 0  # every unit is known somewhere, both ways
    predicted = rng.integers(0, 2, (n, units))
    matrix = one_group(truth, predicted)
    binary, macro = [], []
    for k in range(units):
        known = truth[:, k] >= 0
        t, p = truth[known, k], predicted[known, k]
        np.testing.assert_array_equal(matrix[k], sklearn.metrics.confusion_matrix(t, p, labels=[0, 1]))
        binary.append(sklearn.metrics.f1_score(t, p))
        macro.append(sklearn.metrics.f1_score(t, p, average="macro"))
    np.testing.assert_allclose(au_metrics.f1_binary(matrix), binary)
    np.testing.assert_allclose(au_metrics.f1_macro(matrix), macro)
    np.testing.assert_array_equal(au_metrics.support(matrix), (truth == 1).sum(0))
    assert au_metrics.SCORES["f1_binary"](matrix) == pytest.approx(np.mean(binary))
    assert au_metrics.SCORES["f1_macro"](matrix) == pytest.approx(np.mean(macro))


def test_groups_are_kept_apart():
    rng = np.random.default_rng(0)
    truth, predicted, group = rng.integers(-1, 2, (50, 3)), rng.integers(0, 2, (50, 3)), rng.integers(0, 4, 50)
    matrices = au_metrics.au_confusion(truth, predicted, group, 5)
    for g in range(5):
        np.testing.assert_array_equal(matrices[g], one_group(truth[group == g], predicted[group == g]))
    assert matrices[4].sum() == 0


def test_constant_predictors():
    truth = np.array([[1, 0], [0, 0], [0, 1], [-1, 1]])
    matrix = one_group(truth, np.zeros_like(truth))
    for value in (0, 1):
        direct = one_group(truth, np.full_like(truth, value))
        np.testing.assert_array_equal(au_metrics.constant_predictor(matrix, value), direct)
    ones, zeros = (au_metrics.constant_predictor(matrix, v) for v in (1, 0))
    np.testing.assert_allclose(au_metrics.f1_binary(ones), [2 * 1 / (2 * 1 + 2), 2 * 2 / (2 * 2 + 2)])
    np.testing.assert_allclose(au_metrics.f1_binary(zeros), 0)
    np.testing.assert_allclose(au_metrics.f1_macro(zeros), [(4 / 5) / 2, (4 / 6) / 2])


def test_scores_are_the_same_under_jit():
    matrix = np.random.default_rng(0).integers(0, 9, (3, 5, 2, 2))
    matrix[1, 2, 1] = 0  # a unit that does not occur
    matrix[2] = 0
    for score in au_metrics.SCORES.values():
        np.testing.assert_allclose(jax.jit(score)(jnp.asarray(matrix)), score(matrix), rtol=1e-6)


def test_a_unit_that_never_occurs_is_left_out_of_the_average():
    truth = np.array([[1, 0], [0, 0]])
    matrix = one_group(truth, np.array([[1, 1], [0, 0]]))
    assert au_metrics.SCORES["f1_binary"](matrix) == 1.0
    assert au_metrics.SCORES["f1_binary"](one_group(truth[:, 1:], truth[:, 1:])) == 0.0
