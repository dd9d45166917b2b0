"""BatchNorm over the frames of clips of different lengths."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STATISTICS = ("clip", "batch", "frozen")
MOMENTUM = 0.9


class ClipNorm(nn.Module):
    """BatchNorm whose statistics go over valid frames only; parameters and averages are named as Linen's BatchNorm.

    In training

      clip: a clip is normalised by the mean and variance of its own frames, and the running averages take one update
        a clip, one clip after another: what a network that is fed one clip at a time does, its gradients accumulated
        over the batch.
      batch: statistics of all frames of the batch, one update of the averages.
      frozen: the running averages themselves, which stay as they are.

    In evaluation the running averages, in every case. The variance that they keep is the unbiased one, as PyTorch's.

    Attributes:
      statistics: one of STATISTICS.
      epsilon: added to the variance.
      dtype: type of the result; statistics are float32.
    """

    statistics: str = "clip"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Normalises frames.

        Args:
          x: [B T, H, W, C], the frames of B clips one after another; frames that are not valid may hold any finite
            numbers, they are normalised too and change nothing else.
          mask: bool [B, T], which frames are valid.
          train: see above.

        Returns:
          [B T, H, W, C].

        Raises:
          ValueError: another word for `statistics`.
        """
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics {self.statistics!r} is none of {', '.join(STATISTICS)}")
        channels, clips = x.shape[-1], mask.shape[0]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        average = self.variable("batch_stats", "mean", lambda: jnp.zeros(channels))
        spread = self.variable("batch_stats", "var", lambda: jnp.ones(channels))
        if not train or self.statistics == "frozen":
            mean, variance = average.value, spread.value
        else:
            frames = x.astype(jnp.float32).reshape(clips, -1, *x.shape[1:])
            sums = jnp.stack([frames.sum(axis=(2, 3)), (frames**2).sum(axis=(2, 3))])  # [2, B, T, C]
            sums = jnp.where(mask[..., None], sums, 0.0).sum(axis=2)  # [2, B, C]
            count = (mask.sum(axis=1) * x.shape[1] * x.shape[2])[:, None].astype(jnp.float32)  # [B, 1]
            if self.statistics == "batch":
                sums, count = sums.sum(axis=1, keepdims=True), count.sum(axis=0, keepdims=True)
            mean, square = sums / jnp.maximum(count, 1)  # [B or 1, C]
            variance = jnp.maximum(square - mean**2, 0.0)
            if not self.is_initializing():
                unbiased = variance * count / jnp.maximum(count - 1, 1)
                average.value, spread.value = (
                    _after(old, jax.lax.stop_gradient(new))
                    for old, new in ((average.value, mean), (spread.value, unbiased))
                )
            mean, variance = (_per_frame(v, x.shape[0]) for v in (mean, variance))
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


def _after(average: jax.Array, updates: jax.Array) -> jax.Array:
    """A running average [C] after the updates [K, C], the first one first."""
    age = jnp.arange(updates.shape[0])[::-1]
    weight = (1 - MOMENTUM) * MOMENTUM ** age.astype(jnp.float32)
    return MOMENTUM ** updates.shape[0] * average + weight @ updates


def _per_frame(statistics: jax.Array, frames: int) -> jax.Array:
    """[K, C] of K clips -> [frames, 1, 1, C]."""
    return jnp.repeat(statistics, frames // statistics.shape[0], axis=0)[:, None, None]
