"""Key-frame mining against the formulas, clip by clip in numpy; ties, gradients in both forms, guards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import key_frames as functions

key_frames: Any = functions  # numpy arrays will do
RNG = np.random.default_rng(0)
LENGTHS = (7, 4, 1, 5)
MASK = np.arange(7) < np.array(LENGTHS)[:, None]
POOLED = np.abs(RNG.normal(size=(4, 7, 6))).astype(np.float32)  # means of ReLU outputs
WEIGHTS = RNG.uniform(size=(4, 7)).astype(np.float32)
SCORES = np.asarray(key_frames.cosine_to_sum(POOLED, WEIGHTS, MASK))


def test_scores_are_cosines_to_the_weighted_sum_of_the_clip() -> None:
    for i, n in enumerate(LENGTHS):
        p, a = POOLED[i, :n].astype(np.float64), WEIGHTS[i, :n]
        g = (a[:, None] * p).sum(0)
        beta = p @ g / (np.linalg.norm(p, axis=1) * np.linalg.norm(g))
        np.testing.assert_allclose(SCORES[i, :n], beta, atol=1e-6)
        assert (SCORES[i, n:] == 0).all()
    assert SCORES.min() >= 0
    assert SCORES.max() <= 1 + 1e-6


def test_a_frame_without_features_has_no_direction() -> None:
    pooled = jnp.asarray(POOLED).at[0, 2].set(0.0)
    score = lambda p: key_frames.cosine_to_sum(p, WEIGHTS, MASK)  # noqa: E731
    assert float(score(pooled)[0, 2]) == 0
    gradient = jax.grad(lambda p: score(p).sum())(pooled)
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.abs(gradient).max() < 10


def test_permuted_frames_permute_scores_and_selection() -> None:
    order = np.stack([np.r_[RNG.permutation(n), np.arange(n, 7)] for n in LENGTHS])
    at = lambda x: np.take_along_axis(x, order.reshape(4, 7, *(1,) * (x.ndim - 2)), axis=1)  # noqa: E731
    scores = key_frames.cosine_to_sum(at(POOLED), at(WEIGHTS), MASK)
    np.testing.assert_allclose(scores, at(SCORES), atol=1e-6)
    np.testing.assert_array_equal(key_frames.binarise(scores, MASK), at(np.asarray(key_frames.binarise(SCORES, MASK))))


@pytest.mark.parametrize("threshold", functions.THRESHOLDS)
def test_frames_above_the_mean_of_their_clip_are_kept(threshold: str) -> None:
    tied = np.array([[0.25, 0.5, 0.75, 0.5, 9, 9, 9]], np.float32)
    scores = np.concatenate([SCORES, tied])
    mask = np.concatenate([MASK, [[True] * 4 + [False] * 3]])
    gate = np.asarray(key_frames.binarise(scores, mask, threshold))
    for i, n in enumerate((*LENGTHS, 4)):
        own = scores[i, :n]
        expected = own > own.mean() if threshold == "above" and n > 1 else own >= own.mean()
        np.testing.assert_array_equal(gate[i, :n], expected)
        assert gate[i, :n].any()
        assert not gate[i, n:].any()
    assert gate[4].sum() == (1 if threshold == "above" else 3)


@pytest.mark.parametrize("threshold", functions.THRESHOLDS)
@pytest.mark.parametrize("value", [0.1, 0.9999999, 1.0])
def test_identical_frames_are_all_kept(threshold: str, value: float) -> None:
    """Also where the rounded mean of equal numbers is another number."""
    scores, mask = np.full((2, 7), value, np.float32), np.array([[True] * 7, [True] + [False] * 6])
    np.testing.assert_array_equal(key_frames.binarise(scores, mask, threshold), mask)


def gradients(gradient: str, scores: np.ndarray, weights: np.ndarray) -> Any:
    gate = lambda s: key_frames.binarise(s, MASK, "above", gradient)  # noqa: E731
    return np.asarray(jax.grad(lambda s: (gate(s) * weights).sum())(jnp.asarray(scores))), np.asarray(gate(scores))


def test_gradient_of_the_paper_reaches_kept_frames_and_that_of_the_code_all() -> None:
    weights = RNG.normal(size=(4, 7)).astype(np.float32)
    found, kept = gradients("kept", SCORES, weights)
    np.testing.assert_array_equal(found, weights * kept)
    scores = SCORES.copy()
    scores[3] -= 1.0  # a clip whose mean is outside 0..1
    found, _ = gradients("all", scores, weights)
    inside = np.array([True, True, SCORES[2, 0] < 1, False])[:, None]
    np.testing.assert_array_equal(found, weights * (MASK & inside))


@pytest.mark.parametrize("sets", functions.SETS)
def test_losses_of_each_clip(sets: str) -> None:
    gate = key_frames.binarise(SCORES, MASK)
    sparsity = np.asarray(key_frames.global_sparsity(gate))
    margin = np.asarray(key_frames.mean_margin(SCORES, gate, MASK, sets))
    gradient = np.asarray(jax.grad(lambda s: key_frames.mean_margin(s, gate, MASK, sets).sum())(jnp.asarray(SCORES)))
    for i, n in enumerate(LENGTHS):
        own = SCORES[i, :n]
        high = own > own.mean()
        assert sparsity[i] == max(high.sum() - 1, 0)
        if n == 1:
            assert margin[i] == 2
            assert not gradient[i].any()
            continue
        np.testing.assert_allclose(margin[i], 2 - (own[high].mean() - own[~high].mean()), rtol=1e-6)
        assert 1 <= margin[i] <= 2
        np.testing.assert_allclose(gradient[i, :n], np.where(high, -1 / high.sum(), 1 / (~high).sum()), rtol=1e-5)
        assert not gradient[i, n:].any()


def test_ties_with_the_mean_are_in_neither_strict_set() -> None:
    scores, mask = np.array([[0.25, 0.5, 0.75, 0.5]], np.float32), np.ones((1, 4), bool)
    gate = key_frames.binarise(scores, mask, "at_least")
    assert float(key_frames.mean_margin(scores, gate, mask, "strict")[0]) == 2 - (0.75 - 0.25)
    np.testing.assert_allclose(key_frames.mean_margin(scores, gate, mask, "kept"), 2 - (1.75 / 3 - 0.25), rtol=1e-6)
    equal = np.full((1, 4), 0.5, np.float32)
    assert float(key_frames.mean_margin(equal, np.ones((1, 4)), mask, "strict")[0]) == 2
    assert float(key_frames.mean_margin(equal, np.ones((1, 4)), mask, "kept")[0]) == 2


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'below'"):
        key_frames.binarise(SCORES, MASK, "below")
    with pytest.raises(ValueError, match="found 'all'"):
        key_frames.mean_margin(SCORES, SCORES, MASK, "all")
