"""Ranking of frames in time: a scorer of single frames, a loss on the order of its scores, pooling by scores."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class RankScorer(nn.Module):
    """g: a frame's feature -> its score. Frames are scored one by one, so reversing a clip reverses its scores.

    Attributes:
      hidden: width of a hidden layer with ReLU; 0 = linear.
      dtype: compute type; scores are float32.
    """

    hidden: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [..., D] -> scores float32 [...]."""
        x = features.astype(self.dtype)
        if self.hidden:
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        return nn.Dense(1, dtype=self.dtype, name="score")(x)[..., 0].astype(jnp.float32)


def ranking_loss(scores: jax.Array, position: jax.Array, margin: float = 1.0) -> jax.Array:
    """Mean over pairs of max(0, margin - (s_later - s_earlier)), the hinge of rank pooling.

    (Bilen et al., Dynamic Image Networks, CVPR 2016, equation 1, without its weight decay.)

    Args:
      scores: [B, T].
      position: [B, T], the order wanted; pairs of equal positions do not count.
      margin: by which a later frame's score should be larger.

    Returns:
      [B]; 0 where no pair counts.
    """
    later = position[:, None, :] > position[:, :, None]  # [B, earlier, later]
    gap = scores[:, None, :] - scores[:, :, None]
    return jnp.where(later, jax.nn.relu(margin - gap), 0.0).sum(axis=(1, 2)) / jnp.maximum(later.sum(axis=(1, 2)), 1)


def score_pooling(features: jax.Array, scores: jax.Array) -> jax.Array:
    """sum_k (s_k - mean s) F_k / T.

    The weights sum to 0, as those of approximate rank pooling do: what all frames share cancels, and a clip without
    change gives exactly 0.

    Args:
      features: [B, T, ...].
      scores: [B, T].

    Returns:
      [B, ...].
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    change = features - features[:, :1]
    return jnp.einsum("bt,bt...->b...", centred, change) / scores.shape[1]


def kendall_tau(scores: jax.Array, position: jax.Array, mask: jax.Array) -> jax.Array:
    """Kendall's tau of scores against time: (concordant - discordant) / pairs, over pairs of different positions.

    Args:
      scores: [B, T]; equal scores count neither way.
      position: [B, T].
      mask: bool [B, T], which entries count.

    Returns:
      [B], -1..1; NaN where no pair counts.
    """
    later = (position[:, None, :] > position[:, :, None]) & mask[:, None, :] & mask[:, :, None]
    sign = jnp.sign(scores[:, None, :] - scores[:, :, None])
    pairs = later.sum(axis=(1, 2))
    return jnp.where(later, sign, 0.0).sum(axis=(1, 2)) / jnp.where(pairs > 0, pairs, jnp.nan)
