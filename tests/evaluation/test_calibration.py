from __future__ import annotations

import numpy as np
import pytest

from mer_jax.evaluation import calibration, results


def make(build_table, n=600, sharpen=1.0, seeds=(0,), persons=20, shared=False):
    """Predictions whose truth is drawn from their own probabilities, which are then sharpened."""
    table = build_table([{"subject": f"{k % persons:02d}"} for k in range(n)])
    parts = []
    labels = None
    for seed in seeds:
        rng = np.random.default_rng(0 if shared else seed)
        p = rng.dirichlet(np.ones(3), n)
        if labels is None:
            labels = np.array([rng.choice(3, p=row) for row in p], np.int32)
        p = p**sharpen / (p**sharpen).sum(1, keepdims=True)
        parts.append(results.predictions_of(table, labels, "abc", seed=seed, fold=table["subject"], probability=p))
    return results.concatenate(parts)


def test_ece_by_the_formula():
    confidence = np.array([0.1, 0.2, 0.35, 0.6, 0.6, 0.95])
    right = np.array([0, 1, 0, 1, 1, 0])
    place = np.array([0, 0, 1, 1, 1, 2])
    expected = 0
    for k in range(3):
        mine = place == k
        expected += mine.sum() / 6 * abs(right[mine].mean() - confidence[mine].mean())
    assert calibration.ece(confidence, right, place) == pytest.approx(expected)


def test_bins():
    rng = np.random.default_rng(0)
    confidence = rng.random(203)
    place = calibration.equal_mass(confidence, 10)
    assert set(np.bincount(place)) <= {20, 21}
    order = np.argsort(confidence)
    assert (np.diff(place[order]) >= 0).all()
    ties = calibration.equal_mass(np.array([0.3, 0.9, 0.9, 0.9, 0.9, 0.95]), 3)
    assert len(set(ties[1:5].tolist())) == 1
    edges = np.array([0.0, 0.05, 0.1, 0.100001, 0.5, 0.9, 1.0])
    assert calibration.equal_width(edges, 10).tolist() == [0, 0, 0, 1, 4, 8, 9]  # (k - 1) / B < q <= k / B


def test_calibrated_and_overconfident(build_table):
    honest = calibration.calibration(make(build_table), replicates=200)
    assert honest.ece < honest.ece_if_calibrated_high
    assert abs(honest.excess) < 0.04
    assert (honest.low <= honest.right).all()
    assert (honest.right <= honest.high).all()
    assert honest.n.sum() == 600
    loud = calibration.calibration(make(build_table, sharpen=4.0), replicates=200)
    assert loud.ece > 2 * loud.ece_if_calibrated_high
    assert loud.ece == pytest.approx(loud.excess, abs=0.03)  # too sure everywhere: the distance is the bias
    assert loud.ece_equal_width == pytest.approx(loud.ece, abs=0.03)


def test_what_a_calibrated_system_would_get(build_table):
    """Its mean is that of fresh truths drawn from the same probabilities."""
    p = make(build_table, n=200)
    found = calibration.calibration(p, replicates=400)
    confidence = p.probability.max(1)
    rng = np.random.default_rng(7)
    place = calibration.equal_mass(confidence, 10)
    again = [calibration.ece(confidence, rng.random(200) < confidence, place) for _ in range(400)]
    assert found.ece_if_calibrated == pytest.approx(np.mean(again), rel=0.1)
    assert len(found.n) == 10
    few = calibration.calibration(make(build_table, n=50), replicates=20)
    assert len(few.n) == 2  # 20 predictions a bin at least


def test_seeds_are_averaged(build_table):
    one = calibration.calibration(make(build_table, sharpen=2.0), replicates=50)
    same = calibration.calibration(make(build_table, sharpen=2.0, seeds=(0, 1, 2), shared=True), replicates=50)
    for name in ("ece", "ece_equal_width", "ece_if_calibrated", "ece_if_calibrated_high", "excess"):
        assert getattr(same, name) == pytest.approx(getattr(one, name))
    for name in ("confidence", "right", "low", "high", "n"):
        np.testing.assert_allclose(getattr(same, name), getattr(one, name))
    p = make(build_table, sharpen=2.0, seeds=(0, 1))
    each = [calibration.calibration(p.select(p.seed == s), replicates=5).ece for s in (0, 1)]
    both = calibration.calibration(p, replicates=5)
    assert both.ece == pytest.approx(np.mean(each))
    assert both.ece_std == pytest.approx(np.std(each, ddof=1))


def test_action_units_and_files_without_probabilities(build_table):
    rng = np.random.default_rng(0)
    table = build_table([{"subject": f"{k % 8:02d}"} for k in range(80)])
    p = np.round(rng.random((80, 4)), 6)
    labels = np.where(rng.random(p.shape) < 0.2, -1, rng.random(p.shape) < p).astype(np.int8)
    units = ("AU1", "AU2", "AU4", "AU12")
    predictions = results.predictions_of(table, labels, units, seed=0, fold=table["subject"], probability=p)
    found = calibration.calibration(predictions, replicates=100)
    known = predictions.truth >= 0
    assert found.n.sum() == known.sum()
    sure = predictions.probability[known]
    expected = calibration.ece(sure, predictions.truth[known] == 1, calibration.equal_mass(sure, 10))
    assert found.ece == pytest.approx(expected)
    assert found.ece < found.ece_if_calibrated_high
    bare = make(build_table, n=40)
    assert calibration.calibration(bare.select(np.array([], int))) is None
    assert calibration.calibration(results.Predictions(**(vars(bare) | {"probability": None}))) is None
