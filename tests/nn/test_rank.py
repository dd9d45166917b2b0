"""Ranking of frames: loss, pooling and tau against loops and scipy; what a single-frame scorer must do."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from mer_jax.nn.rank import RankScorer, kendall_tau, ranking_loss, score_pooling

RNG = np.random.default_rng(0)


def test_loss_is_the_hinge_over_pairs():
    scores = RNG.normal(size=(2, 5)).astype(np.float32)
    position = np.array([[0, 3, 6, 9, 12], [0, 0, 2, 2, 1]])
    expected = []
    for s, p in zip(scores, position, strict=True):
        hinges = [max(0.0, 0.5 - (s[j] - s[i])) for i in range(5) for j in range(5) if p[j] > p[i]]
        expected.append(np.mean(hinges))
    np.testing.assert_allclose(ranking_loss(jnp.asarray(scores), jnp.asarray(position), 0.5), expected, rtol=1e-6)
    ordered = jnp.asarray(position, jnp.float32) * 2
    np.testing.assert_array_equal(ranking_loss(ordered, jnp.asarray(position), 1.0), [0, 0])
    np.testing.assert_array_equal(ranking_loss(jnp.ones((1, 3)), jnp.zeros((1, 3), int)), [0])  # no pair


def test_tau_is_that_of_scipy():
    scores = RNG.normal(size=(3, 7)).astype(np.float32)
    position = np.tile(np.arange(7), (3, 1))
    found = kendall_tau(jnp.asarray(scores), jnp.asarray(position), jnp.ones((3, 7), bool))
    np.testing.assert_allclose(found, [scipy.stats.kendalltau(s, np.arange(7))[0] for s in scores], atol=1e-6)
    mask = np.zeros((3, 7), bool)
    mask[:, 2:6] = True
    found = kendall_tau(jnp.asarray(scores), jnp.asarray(position), jnp.asarray(mask))
    np.testing.assert_allclose(found, [scipy.stats.kendalltau(s[2:6], np.arange(4))[0] for s in scores], atol=1e-6)
    repeated = jnp.asarray([[0, 0, 1, 1]])
    np.testing.assert_array_equal(
        kendall_tau(jnp.asarray([[1.0, 0.0, 2.0, 3.0]]), repeated, jnp.ones((1, 4), bool)), [1]
    )
    assert np.isnan(kendall_tau(jnp.ones((1, 3)), jnp.zeros((1, 3), int), jnp.ones((1, 3), bool)))


def test_a_monotone_function_of_intensity_reaches_one_minus_two_f():
    """A rise over the share f of the event and a fall: the bar that the order of frames has to pass."""
    time = np.arange(400)
    for apex in (120, 200, 310):
        intensity = np.minimum(time / apex, (399 - time) / (399 - apex))
        found = kendall_tau(jnp.asarray(intensity)[None], jnp.asarray(time)[None], jnp.ones((1, 400), bool))
        np.testing.assert_allclose(np.abs(found), abs(1 - 2 * apex / 399), atol=0.01)


def test_reversing_a_clip_reverses_its_scores():
    """True of every scorer of single frames, so tau changes its sign and the pooled rank features stay."""
    features = jnp.asarray(RNG.normal(size=(2, 6, 10)), jnp.float32)
    for scorer in (RankScorer(), RankScorer(4)):
        variables = scorer.init(jax.random.key(0), features)
        scores, reverse = (scorer.apply(variables, f) for f in (features, features[:, ::-1]))
        np.testing.assert_allclose(reverse, scores[:, ::-1], atol=1e-6)
        position, mask = jnp.tile(jnp.arange(6), (2, 1)), jnp.ones((2, 6), bool)
        np.testing.assert_array_equal(kendall_tau(reverse, position, mask), -kendall_tau(scores, position, mask))
        pooled = score_pooling(features, scores)
        np.testing.assert_allclose(score_pooling(features[:, ::-1], reverse), pooled, atol=1e-6)


def test_pooling_weighs_by_centred_scores():
    features = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)
    scores = RNG.normal(size=(2, 4)).astype(np.float32)
    found = score_pooling(jnp.asarray(features), jnp.asarray(scores))
    weights = scores - scores.mean(1, keepdims=True)
    np.testing.assert_allclose(found, np.einsum("bt,btij->bij", weights, features) / 4, atol=1e-6)
    shared = RNG.normal(size=(2, 1, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(score_pooling(jnp.asarray(features + shared), jnp.asarray(scores)), found, atol=1e-6)
    still = jnp.broadcast_to(shared, features.shape)
    np.testing.assert_array_equal(score_pooling(still, jnp.asarray(scores)), 0)
