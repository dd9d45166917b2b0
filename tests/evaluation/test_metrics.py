from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_jax.evaluation import metrics

# Published counts of the STSTNet log on the MEGC 2019 composite set: part -> (n, UF1, UAR, mean precision, Acc,
# (TP, FP, FN) of negative, positive, surprise).
STSTNET = {
    "full": (442, 0.7353, 0.7186, 0.7605, 0.7692, ((219, 61, 31), (62, 25, 47), (59, 16, 24))),
    "smic": (164, 0.6801, 0.6703, 0.7013, 0.6829, ((54, 31, 16), (30, 11, 21), (28, 10, 15))),
    "casme2": (145, 0.8382, 0.8190, 0.8686, 0.8621, ((83, 14, 5), (19, 5, 13), (23, 1, 2))),
    "samm": (133, 0.6588, 0.6415, 0.6810, 0.7744, ((82, 16, 10), (13, 9, 13), (8, 5, 7))),
}


def matrix_of(counts: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """A 3x3 confusion matrix with the given TP, FP, FN of each class (one entry off the diagonal is free)."""
    tp, fp, fn = np.array(counts).T
    for free in range(fn[0] + 1):
        m = np.diag(tp)
        m[0, 1], m[0, 2] = free, fn[0] - free
        m[2, 1] = fp[1] - m[0, 1]
        m[2, 0] = fn[2] - m[2, 1]
        m[1, 0] = fp[0] - m[2, 0]
        m[1, 2] = fn[1] - m[1, 0]
        if (m >= 0).all() and m[0, 2] + m[1, 2] == fp[2]:
            return m
    raise AssertionError("no matrix has these counts")


def labels_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.indices(matrix.shape)
    return np.repeat(truth.ravel(), matrix.ravel()), np.repeat(predicted.ravel(), matrix.ravel())


@pytest.mark.parametrize("part", STSTNET)
def test_the_ststnet_table_from_its_published_counts(part):
    n, uf1, uar, precision, acc, counts = STSTNET[part]
    truth, predicted = labels_of(matrix_of(counts))
    matrix = metrics.confusion(truth, predicted, 3)
    assert matrix.dtype == np.int64
    assert matrix.sum() == n
    np.testing.assert_allclose(
        [metrics.uf1(matrix), metrics.uar(matrix), metrics.acc(matrix)], [uf1, uar, acc], atol=5e-5
    )
    assert metrics.class_precision(matrix).mean() == pytest.approx(precision, abs=5e-5)
    assert abs(metrics.class_precision(matrix).mean() - metrics.uar(matrix)) > 0.02  # what the paper printed as UAR


def test_the_parts_of_the_ststnet_table_add_up_to_the_whole():
    parts = sum(np.array(STSTNET[p][5]) for p in ("smic", "casme2", "samm"))
    np.testing.assert_array_equal(parts, STSTNET["full"][5])


def test_rows_are_truth_and_columns_prediction():
    matrix = metrics.confusion(np.array([0, 0, 0, 1]), np.array([1, 1, 0, 1]), 2)
    np.testing.assert_array_equal(matrix, [[1, 2], [0, 1]])
    np.testing.assert_allclose(metrics.class_recall(matrix), [1 / 3, 1])
    np.testing.assert_allclose(metrics.class_precision(matrix), [1, 1 / 3])
    assert metrics.uar(matrix) == pytest.approx(2 / 3)
    assert metrics.uar(np.array([[9, 1], [5, 5]])) == pytest.approx(0.7)
    assert metrics.uar(np.array([[9, 5], [1, 5]])) == pytest.approx((9 / 14 + 5 / 6) / 2)


def test_always_negative_on_the_composite_set():
    truth = np.repeat([0, 1, 2], [250, 109, 83])
    matrix = metrics.confusion(truth, np.zeros_like(truth), 3)
    assert metrics.acc(matrix) == pytest.approx(250 / 442)
    assert round(float(metrics.acc(matrix)), 4) == 0.5656
    assert metrics.uf1(matrix) == pytest.approx(500 / 692 / 3)
    assert round(float(metrics.uf1(matrix)), 4) == 0.2408
    assert metrics.uar(matrix) == pytest.approx(1 / 3)


def test_pooled_scores_are_not_the_mean_over_folds():
    # Three persons; the second lacks class 1, the third has one clip.
    folds = [([0, 0, 1, 1], [0, 0, 1, 0]), ([0, 0, 0], [0, 1, 0]), ([1], [1])]
    pooled = sum(metrics.confusion(np.array(t), np.array(p), 2) for t, p in folds)
    truth, predicted = (np.concatenate([f[k] for f in folds]) for k in (0, 1))
    assert metrics.uf1(pooled) == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="macro"))
    all_labels = [sklearn.metrics.f1_score(t, p, labels=[0, 1], average="macro", zero_division=0) for t, p in folds]
    assert metrics.uf1(pooled) == pytest.approx(0.7333333333)
    assert np.mean(all_labels) == pytest.approx((0.7333333333 + 0.4 + 0.5) / 3)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_sklearn(data):
    n_classes = data.draw(st.integers(2, 6))
    n = data.draw(st.integers(n_classes, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    predicted = rng.integers(0, n_classes, n)
    matrix = metrics.confusion(truth, predicted, n_classes)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(truth, predicted))
    reference = {
        "acc": sklearn.metrics.accuracy_score(truth, predicted),
        "uf1": sklearn.metrics.f1_score(truth, predicted, average="macro"),
        "uar": sklearn.metrics.balanced_accuracy_score(truth, predicted),
        "wf1": sklearn.metrics.f1_score(truth, predicted, average="weighted"),
    }
    for name, score in metrics.SCORES.items():
        assert score(matrix) == pytest.approx(reference[name]), name
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(n_classes), zero_division=0
    )
    np.testing.assert_allclose(metrics.class_precision(matrix), precision)
    np.testing.assert_allclose(metrics.class_recall(matrix), recall)
    np.testing.assert_allclose(metrics.class_f1(matrix), f1)
    np.testing.assert_array_equal(matrix.sum(-1), support)


def test_scores_are_the_same_under_jit_and_over_leading_axes():
    matrices = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    matrices[0, 0, 2] = matrices[0, 0, :, 2] = 0  # a class that is neither true nor predicted
    matrices[1, 2] = 0  # nothing at all: a padded fold
    for name, score in metrics.SCORES.items():
        here = score(matrices)
        assert here.shape == (2, 3)
        traced = jax.jit(score)(jnp.asarray(matrices))
        np.testing.assert_allclose(traced, here, rtol=1e-6, err_msg=name)
        each = [[score(m) for m in row] for row in matrices]
        np.testing.assert_allclose(here, each, rtol=1e-12, err_msg=name)
    assert np.isfinite(metrics.uf1(matrices)).all()


def test_a_class_without_clips():
    matrix = np.array([[3, 1, 0], [1, 3, 0], [0, 0, 0]])
    assert metrics.missing_classes(matrix).tolist() == [2]
    assert metrics.uf1(matrix) == pytest.approx(0.75)  # neither true nor predicted: left out
    matrix[0, 2] = 1  # predicted but never true: counts 0
    assert metrics.uf1(matrix) == pytest.approx((6 / 9 + 6 / 8 + 0) / 3)
    assert metrics.uar(matrix) == pytest.approx((3 / 5 + 3 / 4) / 2)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="prediction is outside"):
        metrics.confusion(np.array([0]), np.array([3]), 3)
    with pytest.raises(ValueError, match="truth is outside"):
        metrics.confusion(np.array([-1]), np.array([0]), 3)
    with pytest.raises(ValueError, match="2 truths"):
        metrics.confusion(np.array([0, 1]), np.array([0]), 3)


def slow_bootstrap(per_person: np.ndarray, replicates: int, seed: int) -> tuple[dict[str, list[float]], int]:
    """Person by person, clip by clip, scored with sklearn; the weights are the only thing shared."""
    weights = metrics.person_weights(per_person.shape[1], replicates, seed)
    values: dict[str, list[float]] = {name: [] for name in metrics.SCORES}
    incomplete = 0
    n_classes = per_person.shape[-1]
    for times in weights.astype(int):
        scores = {name: [] for name in metrics.SCORES}
        for counts in per_person:
            truth, predicted = [], []
            for person, repeats in enumerate(times):
                for _ in range(repeats):
                    t, p = labels_of(counts[person])
                    truth += t.tolist()
                    predicted += p.tolist()
            present = sorted(set(truth))
            scores["acc"].append(sklearn.metrics.accuracy_score(truth, predicted))
            scores["uf1"].append(sklearn.metrics.f1_score(truth, predicted, labels=present, average="macro"))
            scores["uar"].append(sklearn.metrics.recall_score(truth, predicted, labels=present, average="macro"))
            scores["wf1"].append(sklearn.metrics.f1_score(truth, predicted, average="weighted", zero_division=0))
        incomplete += len(present) < n_classes
        for name, seeds in scores.items():
            values[name].append(float(np.mean(seeds)))
    return values, incomplete


def test_bootstrap_against_a_slow_reference():
    rng = np.random.default_rng(3)
    n_persons, n_classes = 5, 3
    per_person = np.zeros((2, n_persons, n_classes, n_classes), np.int64)
    for person in range(n_persons):
        truth = rng.integers(0, 2, 4)
        truth[0] = 2 if person == 0 else 0  # one person carries class 2: many replicates lack it
        for seed in range(2):
            per_person[seed, person] = metrics.confusion(truth, rng.integers(0, 3, 4), n_classes)
    result = metrics.bootstrap(per_person, replicates=60, seed=11)
    values, incomplete = slow_bootstrap(per_person, 60, 11)
    assert result.incomplete == incomplete > 0
    assert (result.replicates, result.persons, result.level) == (60, 5, 0.95)
    for name, mine in result.intervals.items():
        np.testing.assert_allclose(mine, np.quantile(values[name], [0.025, 0.975]), err_msg=name)


def test_bootstrap_covers_the_truth():
    """95 % intervals hold the accuracy of the population that the persons come from about 95 times in 100."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        skill = rng.uniform(0.3, 0.9, 30)  # mean 0.6
        right = rng.binomial(10, skill)
        per_person = np.zeros((1, 30, 2, 2), np.int64)
        per_person[0, :, 0, 0], per_person[0, :, 0, 1] = right, 10 - right
        low, high = metrics.bootstrap(per_person, replicates=300, seed=trial).intervals["acc"]
        covered += low <= 0.6 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_weights_draw_persons_with_replacement():
    weights = metrics.person_weights(4, 4000, 0)
    np.testing.assert_array_equal(weights.sum(1), 4)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.06)
    assert (weights.max(1) > 1).mean() == pytest.approx(1 - 24 / 256, abs=0.02)
