"""Pre-activation ResNet-10 with the layers of Caffe that ATNet's spatial stream is made of.

The pre-activation form is that of He, Zhang, Ren & Sun, "Identity mappings in deep residual networks" (ECCV 2016), the
layout that of the released network file of ATNet (Peng et al., ACII 2019): a BatchNorm on the input, one block a stage,
and shortcuts that start behind the shared BatchNorm and ReLU of their block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.convolution import Conv3x3

STAGES = (64, 128, 256, 512)
MSRA = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
MSRA_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class BatchNormScale(nn.Module):
    """Caffe's BatchNorm and Scale layers, [..., C] -> [..., C].

    The stored statistics are weighted sums over all training steps, S' = f S + s with weight w' = f w + 1, and S / w is
    what is used: unlike an average that starts at 0 and 1 they are unbiased from the first step, which matters at the
    fraction f = 0.999 of a training that ends after a few hundred steps. The variance is summed as m / (m - 1) times
    that of the batch of m values a channel.

    Attributes:
      fraction: f, "moving_average_fraction".
      epsilon: added to the variance.
      dtype: compute type; statistics are float32.
    """

    fraction: float = 0.999
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., C] -> [..., C]; batch statistics in training, stored ones else (0 and 1 before the first step)."""
        channels, axes = x.shape[-1], tuple(range(x.ndim - 1))
        mean_sum = self.variable("batch_stats", "mean_sum", jnp.zeros, channels)
        var_sum = self.variable("batch_stats", "var_sum", jnp.zeros, channels)
        weight = self.variable("batch_stats", "weight", jnp.zeros, ())
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if train:
            values = x.astype(jnp.float32)
            mean = values.mean(axes)
            var = jnp.square(values - mean).mean(axes)
            if not self.is_initializing():
                m = values.size // channels
                mean_sum.value = self.fraction * mean_sum.value + mean
                var_sum.value = self.fraction * var_sum.value + var * (m / max(m - 1, 1))
                weight.value = self.fraction * weight.value + 1
        else:
            seen = weight.value > 0
            total = jnp.where(seen, weight.value, 1.0)
            mean, var = mean_sum.value / total, jnp.where(seen, var_sum.value / total, 1.0)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return x.astype(self.dtype) * factor.astype(self.dtype) + (bias - mean * factor).astype(self.dtype)


def ceil_max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pooling with stride 2, [B, H, W, C] -> [B, H', W', C]; no padding, sizes rounded up as Caffe does.

    Rows first, then columns: a third of the time that XLA takes on CPU for a window and its gradient. Equal largest
    values share the gradient.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        results = -(-(size - 3) // 2) + 1
        widths = [(0, 2 * results + 1 - size if k == axis else 0) for k in range(4)]
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        last = 2 * results - 1
        first, second, third = (jax.lax.slice_in_dim(padded, i, i + last, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


class PreActivationBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 plus a shortcut, nothing after the sum.

    Attributes:
      features: channels of the result.
      stride: of the first convolution and of the shortcut.
      projected: whether the input first goes through a BatchNorm and ReLU that both branches share, and the shortcut
        through a 1x1 convolution; else the shortcut is the input itself.
      fraction: see BatchNormScale.
      dtype: compute type.
    """

    features: int
    stride: int = 1
    projected: bool = True
    fraction: float = 0.999
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        shortcut = x
        if self.projected:
            x = nn.relu(BatchNormScale(self.fraction, dtype=self.dtype, name="norm_1")(x, train))
            shortcut = nn.Dense(self.features, use_bias=False, kernel_init=MSRA, dtype=self.dtype, name="shortcut")(
                x[:, :: self.stride, :: self.stride]
            )
        convolve = partial(Conv3x3, self.features, kernel_init=MSRA, dtype=self.dtype)
        x = convolve(stride=self.stride, name="conv_1")(x)
        x = nn.relu(BatchNormScale(self.fraction, dtype=self.dtype, name="norm_2")(x, train))
        return shortcut + convolve(name="conv_2")(x)


class PreActivationResNet10(nn.Module):
    """Images [B, H, W, C] -> features [B, 8 `features`].

    Attributes:
      features: channels of the first stage; 64 in the paper, whose last stage then has 512.
      fraction: see BatchNormScale.
      dtype: compute type; the result is float32.
    """

    features: int = STAGES[0]
    fraction: float = 0.999
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, F], the mean over places of the last feature map."""
        return self.feature_map(x, train).mean(axis=(1, 2))

    @nn.compact
    def feature_map(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / 32, W / 32, F], sizes rounded up."""

        def norm(name: str, y: jax.Array) -> jax.Array:
            return BatchNormScale(self.fraction, dtype=self.dtype, name=name)(y, train)

        x = norm("input_norm", x)
        stem = nn.Conv(
            self.features, (7, 7), 2, ((3, 3), (3, 3)), kernel_init=MSRA_FAN_OUT, dtype=self.dtype, name="conv_1"
        )
        x = ceil_max_pool(nn.relu(norm("norm_1", stem(x))))
        for stage in range(len(STAGES)):
            block = PreActivationBlock(
                self.features * 2**stage, 1 if stage == 0 else 2, stage > 0, self.fraction, self.dtype,
                name=f"block_{stage + 1}",
            )  # fmt: skip
            x = block(x, train)
        return nn.relu(norm("norm_2", x)).astype(jnp.float32)
