"""How good a dynamic image and an order of frames are; traced, [B] each. Read by systems.fdp."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mer_jax.nn.rank import kendall_tau

SSIM_WINDOW = 7
MOVING_SHARE = 0.1  # of the pixels


def image_measures(target: jax.Array, change: jax.Array, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Scores of constructed dynamic images and of what they must beat.

    Args:
      target: true dynamic images [B, S, S] in 0..1.
      change: the same before scaling.
      images: name -> images [B, S, S] in 0..1.

    Returns:
      For each name NAME_mse, NAME_psnr and NAME_ssim of the whole image; NAME_region_psnr, NAME_region_ssim and
      NAME_correlation inside the region where the true image is furthest from 0, NaN where an image is constant there.
    """
    region = moving_region(change)
    found: dict[str, jax.Array] = {}
    for name, image in images.items():
        quality = image_scores(image, target) | region_scores(image, target, region)
        found |= {f"{name}_{score}": value for score, value in quality.items()}
    return found


def order_measures(
    scores: jax.Array, departure: jax.Array, position: jax.Array, key_frames: jax.Array
) -> dict[str, jax.Array]:
    """Kendall's tau of scores against time, and of what needs no scorer.

    Args:
      scores: [B, P] of frames spread over the event.
      departure: [B, P], how far these frames are from the first one of their sequence.
      position: [B, P], where these frames are.
      key_frames: [B, 3] onset, apex (-1 where unknown: then only the taus of the event are known) and offset.

    Returns:
      tau_onset_apex, tau_apex_offset, tau_event of the scores, tau_departure_* of the departure. With f the share of
      the rise in the event, tau_rising = 2 f - 1, what one increasing function of the intensity reaches; tau_intensity
      = |1 - 2 f|, what it would reach if it could be turned around clip by clip.
    """
    onset, apex, offset = (k[:, None] for k in key_frames.T)
    known = apex >= 0
    masks = {
        "onset_apex": known & (position <= apex),
        "apex_offset": known & (position >= apex),
        "event": jnp.ones_like(position, bool),
    }
    share = ((apex - onset) / jnp.maximum(offset - onset, 1))[:, 0]
    rising = jnp.where(known[:, 0], 2 * share - 1, jnp.nan)
    found = {f"tau_{part}": kendall_tau(scores, position, mask) for part, mask in masks.items()}
    found |= {f"tau_departure_{part}": kendall_tau(departure, position, mask) for part, mask in masks.items()}
    return found | {"tau_rising": rising, "tau_intensity": jnp.abs(rising)}


def image_scores(found: jax.Array, true: jax.Array) -> dict[str, jax.Array]:
    """Mean squared error, PSNR in decibels and SSIM of images [B, S, S] in 0..1."""
    error = ((found - true) ** 2).mean(axis=(1, 2))
    return {"mse": error, "psnr": _decibels(error), "ssim": ssim_map(found, true).mean(axis=(1, 2))}


def region_scores(found: jax.Array, true: jax.Array, region: jax.Array) -> dict[str, jax.Array]:
    """PSNR, SSIM (mean over the windows whose middle is in the region) and correlation inside bool [B, S, S]."""
    count = jnp.maximum(region.sum(axis=(1, 2)), 1)
    error = jnp.where(region, (found - true) ** 2, 0.0).sum(axis=(1, 2)) / count
    edge = SSIM_WINDOW // 2
    inner = region[:, edge:-edge, edge:-edge]
    windows = inner.sum(axis=(1, 2))
    similar = jnp.where(inner, ssim_map(found, true), 0.0).sum(axis=(1, 2)) / jnp.where(windows > 0, windows, jnp.nan)
    return {
        "region_psnr": _decibels(error),
        "region_ssim": similar,
        "correlation": correlation(found, true, region),
    }


def ssim_map(found: jax.Array, true: jax.Array) -> jax.Array:
    """Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004) of images [B, S, S] in 0..1, [B, S - 6, S - 6].

    One number for each of the square windows of 7 pixels that fit, with sample covariances, k1 = .01, k2 = .03.
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
    return score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


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


def _decibels(error: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of a mean squared error of images in 0..1."""
    return -10 * jnp.log10(jnp.maximum(error, 1e-12))


def _window_mean(x: jax.Array) -> jax.Array:
    """Means over all windows that fit, [B, H, W] -> [B, H - 6, W - 6]."""
    ones = (1, SSIM_WINDOW, SSIM_WINDOW)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, ones, (1, 1, 1), "VALID") / SSIM_WINDOW**2
