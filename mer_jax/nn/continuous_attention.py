"""Residual block with a spatial attention map that is passed on from stage to stage (MMNet, IJCAI 2022)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.clip_norm import ClipNorm
from mer_jax.nn.convolution import Conv3x3

Initializer = jax.nn.initializers.Initializer


class ConvNorm(nn.Module):
    """Bias-free convolution with symmetric padding, then BatchNorm, [B, H, W, C] -> [B, H/s, W/s, features].

    Attributes:
      features: output channels.
      kernel: side of the kernel.
      stride: 1 or 2.
      dtype: compute type.
      statistics: over which frames of clips BatchNorm's statistics go where a mask is given, see ClipNorm.
      kernel_init: of the convolution.
      form: how a 3x3 convolution is computed, see convolution.FORMS.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    statistics: str = "batch"
    kernel_init: Initializer = nn.linear.default_kernel_init
    form: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, H/stride, W/stride, features]; with mask bool [clips, T], B = clips T are frames."""
        how: Any = {"use_bias": False, "dtype": self.dtype, "kernel_init": self.kernel_init, "name": "conv"}
        if self.kernel == 3 and self.form != "direct":
            x = Conv3x3(self.features, stride=self.stride, form=self.form, **how)(x)
        else:
            pad, sides = self.kernel // 2, (self.kernel, self.kernel)
            x = nn.Conv(self.features, sides, self.stride, padding=((pad, pad), (pad, pad)), **how)(x)
        if mask is not None:
            return ClipNorm(self.statistics, dtype=self.dtype, name="norm")(x, mask, train)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="norm")(x)


def channel_max(x: jax.Array) -> jax.Array:
    """Largest channel, [..., C] -> [..., 1], with its gradient sent to the first channel that holds it.

    The gradient of `jnp.max` divides by the number of channels equal to the maximum. A compiler that computes x twice,
    rounded differently, finds none, and 0 / 0 follows. An index has no such hazard.
    """
    winner = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
    return (x * jax.lax.stop_gradient(winner)).sum(axis=-1, keepdims=True)


class ContinuousAttentionBlock(nn.Module):
    """CA block of MMNet.

    y = ReLU(BN(conv1x1(ReLU(BN(conv3x3_s(x))))) + shortcut(x)), shortcut = BN(conv1x1_s(x)) where stride or width
    changes, else x. Map a = sigmoid(BN(conv1x1([mean_c y; max_c y]))), times MaxPool3x3_s(previous map) where there
    is one. All convolutions are bias-free.

    Attributes:
      features: output channels F.
      stride: 1 or 2.
      dtype: compute type.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, previous: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], previous map [B, H, W, 1] -> (y * a [B, H/s, W/s, F], a [B, H/s, W/s, 1])."""
        y = nn.relu(ConvNorm(self.features, 3, self.stride, dtype=self.dtype, name="conv_1")(x, train))
        y = ConvNorm(self.features, 1, dtype=self.dtype, name="conv_2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = ConvNorm(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x, train)
        y = nn.relu(y + x)
        summary = jnp.concatenate([y.mean(axis=-1, keepdims=True), channel_max(y)], axis=-1)
        attention = nn.sigmoid(ConvNorm(1, 1, dtype=self.dtype, name="map")(summary, train))
        if previous is not None:
            strides = (self.stride, self.stride)
            attention = attention * nn.max_pool(previous, (3, 3), strides, padding=((1, 1), (1, 1)))
        return y * attention, attention
