"""Adaptive key-frame mining of AKMNet (Peng et al., arXiv 2009.09179): scores, selection, losses, under a mask.

Frames of a clip lie along the last axis of scores [B, T] and the second of features [B, T, C]; `mask` bool [B, T] says
which of them there are. All of it is equivariant: permuted frames give permuted scores and selections.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

THRESHOLDS = ("above", "at_least")  # the clip's mean: the paper's equation 8; the authors' code
GRADIENTS = ("kept", "all")  # frames that the selection's gradient reaches: equations 14 to 17; the authors' code
SETS = ("kept", "strict")  # what the margin separates: the selection (paper); strictly above and below (code)
EPSILON = 1e-12  # shorter vectors have no direction


class LocalAttention(nn.Module):
    """a_t = sigmoid(w . p_t + b): a weight for each frame, from it alone (equation 5, which has no b; the code has)."""

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        """p [B, T, C] -> a [B, T]."""
        dense = nn.Dense(1, kernel_init=nn.initializers.variance_scaling(1.0, "fan_avg", "normal"), name="linear")
        return nn.sigmoid(dense(pooled)[..., 0])


def cosine_to_sum(pooled: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
    """beta_t = cosine(p_t, g) with g = sum_t a_t p_t (equations 6 and 7).

    Args:
      pooled: p [B, T, C].
      weights: a [B, T].
      mask: valid frames [B, T].

    Returns:
      beta [B, T] in -1..1 (0..1 where p is not negative); 0 where masked.
    """
    whole = jnp.einsum("bt,btc->bc", jnp.where(mask, weights, 0.0), pooled)
    beta = jnp.einsum("btc,bc->bt", _unit(pooled), _unit(whole))
    return jnp.where(mask, beta, 0.0)


def _unit(x: jax.Array) -> jax.Array:
    """x / |x|; 0 with gradient 0 where |x| is below EPSILON (features that no ReLU let through)."""
    square = (x**2).sum(axis=-1, keepdims=True)
    safe = square > EPSILON**2
    return jnp.where(safe, x * jax.lax.rsqrt(jnp.where(safe, square, 1.0)), 0.0)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the frames of the mask [B]; 0 where there is none."""
    return jnp.where(mask, values, 0.0).sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1)


def binarise(scores: jax.Array, mask: jax.Array, threshold: str = "above", gradient: str = "kept") -> jax.Array:
    """B_t = 1 where the score exceeds the clip's mean score, else 0, with a straight-through gradient.

    The gradient with respect to the scores: for `kept`, that of B on the kept frames and 0 on the others (the forward
    is read as "the score if kept, else 0"); for `all`, that of B on every frame of the clip if the mean lies strictly
    inside 0..1, else 0. The mean itself has none.

    INFERRED: where no score exceeds the mean (one frame, identical frames, or a mean that rounding lifts above them)
    the frames with the largest score are kept, so that a clip is never empty.

    Args:
      scores: [B, T].
      mask: valid frames [B, T].
      threshold: above (>) | at_least (>=).
      gradient: kept | all.

    Returns:
      float32 [B, T], exactly 0 or 1.

    Raises:
      ValueError: another word.
    """
    if threshold not in THRESHOLDS or gradient not in GRADIENTS:
        raise ValueError(f"expected one of {THRESHOLDS} and of {GRADIENTS}; found {threshold!r}, {gradient!r}")
    fixed = jax.lax.stop_gradient(scores)
    mean = masked_mean(fixed, mask)[:, None]
    keep = mask & (fixed > mean if threshold == "above" else fixed >= mean)
    top = mask & (fixed == jnp.where(mask, fixed, -jnp.inf).max(axis=-1, keepdims=True))
    keep = jnp.where(keep.any(axis=-1, keepdims=True), keep, top)
    reached = keep if gradient == "kept" else mask & (mean > 0) & (mean < 1)
    return keep.astype(jnp.float32) + jnp.where(reached, scores - fixed, 0.0)


def global_sparsity(gate: jax.Array) -> jax.Array:
    """L_GS = max(0, sum_t B_t - 1) (equation 10), [B, T] -> [B]."""
    return jnp.maximum(gate.sum(axis=-1) - 1, 0.0)


def mean_margin(scores: jax.Array, gate: jax.Array, mask: jax.Array, sets: str = "kept") -> jax.Array:
    """L_MMM = 2 - (mean score of the kept frames - mean score of the dropped ones) (equations 11 to 13).

    INFERRED: where one of the two sets is empty (one frame, identical frames) there is no gap, and the loss is the
    constant 2.

    Args:
      scores: [B, T].
      gate: B [B, T].
      mask: valid frames [B, T].
      sets: kept (frames with B = 1 and with B = 0) | strict (strictly above and strictly below the clip's mean score).

    Returns:
      [B].

    Raises:
      ValueError: another word.
    """
    if sets not in SETS:
        raise ValueError(f"sets: expected one of {SETS}; found {sets!r}")
    fixed = jax.lax.stop_gradient(scores)
    mean = masked_mean(fixed, mask)[:, None]
    high, low = (gate > 0.5, gate < 0.5) if sets == "kept" else (fixed > mean, fixed < mean)
    high, low = high & mask, low & mask
    gap = masked_mean(scores, high) - masked_mean(scores, low)
    return 2 - jnp.where(high.any(axis=-1) & low.any(axis=-1), gap, 0.0)
