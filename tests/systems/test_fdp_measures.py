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


def test_scores_of_a_region_look_inside_it_only():
    """PSNR of the chosen pixels; SSIM of scikit-image's windows around them; a region of everything is the image."""
    region = np.zeros(TRUE.shape, bool)
    region[:, 5:9, 4:12] = True
    mixed = np.where(region, 0.7 * TRUE + 0.3 * FOUND, TRUE)
    scores = jax.jit(fdp_measures.region_scores)(*map(jnp.asarray, (mixed, TRUE, region)))
    for i in range(2):
        psnr = metrics.peak_signal_noise_ratio(TRUE[i][region[i]], mixed[i][region[i]], data_range=1)
        np.testing.assert_allclose(scores["region_psnr"][i], psnr, rtol=1e-5)
        _, full = metrics.structural_similarity(TRUE[i], mixed[i], data_range=1, win_size=7, full=True)
        np.testing.assert_allclose(scores["region_ssim"][i], full[region[i]].mean(), atol=1e-5)
    spoiled = np.where(region, mixed, 0.0)
    again = fdp_measures.region_scores(*map(jnp.asarray, (spoiled, TRUE, region)))
    np.testing.assert_allclose(again["region_psnr"], scores["region_psnr"], rtol=1e-5)
    everything = fdp_measures.region_scores(*map(jnp.asarray, (mixed, TRUE, np.ones_like(region))))
    whole = fdp_measures.image_scores(jnp.asarray(mixed), jnp.asarray(TRUE))
    np.testing.assert_allclose(everything["region_psnr"], whole["psnr"], rtol=1e-5)
    np.testing.assert_allclose(everything["region_ssim"], whole["ssim"], rtol=1e-5)


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
