"""How good a dynamic image and an order of frames are; traced, [B] each. Read by systems.fdp."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SSIM_WINDOW = 7
MOVING_SHARE = 0.1  # of the pixels


def image_scores(found: jax.Array, true: jax.Array) -> dict[str, jax.Array]:
    """Mean squared error, PSNR in decibels and SSIM of images [B, S, S] in 0..1."""
    error = ((found - true) ** 2).mean(axis=(1, 2))
    return {"mse": error, "psnr": -10 * jnp.log10(jnp.maximum(error, 1e-12)), "ssim": ssim(found, true)}


def ssim(found: jax.Array, true: jax.Array) -> jax.Array:
    """Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004) of images [B, S, S] in 0..1, [B].

    Square windows of 7 pixels with sample covariances, k1 = .01, k2 = .03, mean over the windows that fit.
    """
    count = SSIM_WINDOW**2
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (
        _window_mean(x) for x in (found, true, found * found, true * true, found * true)
    )
    unbiased = count / (count - 1)
    var_a, var_b = unbiased * (mean_aa - mean_a**2), unbiased * (mean_bb - mean_b**2)
    covariance = unbiased * (mean_ab - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean(axis=(1, 2))


def moving_region(change: jax.Array) -> jax.Array:
    """The tenth of the pixels where a dynamic image is furthest from 0, bool [B, S, S].

    Args:
      change: dynamic images [B, S, S] before any scaling. INFERRED: averaged over 7 pixels first, so that sensor noise
        does not pass for motion.
    """
    pad = SSIM_WINDOW // 2
    size = jnp.abs(_window_mean(jnp.pad(change, ((0, 0), (pad, pad), (pad, pad)), "edge")))
    return size > jnp.quantile(size, 1 - MOVING_SHARE, axis=(1, 2), keepdims=True)


def correlation(found: jax.Array, true: jax.Array, region: jax.Array) -> jax.Array:
    """Pearson's correlation of images [B, S, S] inside a region, [B]; NaN where one of them is constant there."""
    count = jnp.maximum(region.sum(axis=(1, 2), keepdims=True), 1)

    def centred(x: jax.Array) -> jax.Array:
        return jnp.where(region, x - jnp.where(region, x, 0.0).sum(axis=(1, 2), keepdims=True) / count, 0.0)

    a, b = centred(found), centred(true)
    norm = jnp.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    return (a * b).sum(axis=(1, 2)) / jnp.where(norm > 1e-9, norm, jnp.nan)


def _window_mean(x: jax.Array) -> jax.Array:
    """Means over all windows that fit, [B, H, W] -> [B, H - 6, W - 6]."""
    ones = (1, SSIM_WINDOW, SSIM_WINDOW)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, ones, (1, 1, 1), "VALID") / SSIM_WINDOW**2
