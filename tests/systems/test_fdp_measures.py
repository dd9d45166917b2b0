"""Scores of dynamic images against scikit-image and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.systems import fdp_measures

metrics = pytest.importorskip("skimage.metrics")  # of the extra `test`; training machines may lack it

RNG = np.random.default_rng(0)
FOUND, TRUE = (RNG.uniform(size=(2, 16, 16)).astype(np.float32) for _ in range(2))


def test_image_scores_are_those_of_scikit_image():
    mixed = 0.7 * TRUE + 0.3 * FOUND
    scores = jax.jit(fdp_measures.image_scores)(jnp.asarray(mixed), jnp.asarray(TRUE))
    for i in range(2):
        np.testing.assert_allclose(scores["mse"][i], metrics.mean_squared_error(TRUE[i], mixed[i]), rtol=1e-5)
        psnr = metrics.peak_signal_noise_ratio(TRUE[i], mixed[i], data_range=1)
        np.testing.assert_allclose(scores["psnr"][i], psnr, rtol=1e-5)
        ssim = metrics.structural_similarity(TRUE[i], mixed[i], data_range=1, win_size=7)
        np.testing.assert_allclose(scores["ssim"][i], ssim, atol=1e-5)


def test_correlation_looks_inside_the_region_only():
    region = RNG.uniform(size=TRUE.shape) < 0.3
    spoiled = np.where(region, FOUND, 9.0)
    found = jax.jit(fdp_measures.correlation)(jnp.asarray(spoiled), jnp.asarray(TRUE), jnp.asarray(region))
    expected = [np.corrcoef(FOUND[i][region[i]], TRUE[i][region[i]])[0, 1] for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isnan(fdp_measures.correlation(jnp.ones((1, 8, 8)), jnp.asarray(TRUE[:1, :8, :8]), region[:1, :8, :8]))


def test_the_moving_region_is_where_the_change_is():
    change = 0.01 * RNG.normal(size=(1, 32, 32))
    change[0, 20:26, 4:12] -= 1.0
    region = np.asarray(fdp_measures.moving_region(jnp.asarray(change, jnp.float32)))[0]
    assert abs(region.mean() - 0.1) < 0.02
    assert region[20:26, 4:12].all()
    assert not region[:14].any()
