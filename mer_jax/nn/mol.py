"""The network of MOL: a trunk with F5C blocks, and heads for flow, landmarks and expressions (Shao et al., TPAMI 2025).

Only abstract and overview figure of the paper were available; sizes, orders and layers are those of the released code.
All maps are [N, H, W, C].
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.f5c import batch_norm, torch_kernel
from mer_jax.nn.patches import Conv

STEM = ((8, 4, 2, 0), (32, 3, 2, 0), (64, 2, 2, 1), (128, 1, 1, 0))  # features, kernel, stride, padding
N_LANDMARKS = 68


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`channels` times `width`, rounded to a multiple; at least four (and one multiple)."""
    return max(multiple, multiple * round(max(4, channels * width) / multiple))


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases: U(+-1/sqrt(fan in))."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5
    )  # fmt: skip


class ConvStack(nn.Module):
    """Grey frames [N, S, S, 1] -> [N, s, s, C], s about S / 8, C = 128 times the width.

    Attributes:
      width: factor on the channels 8, 32, 64, 128.
      activation: the released code has neither norm nor activation here (`none`); `norm_relu` puts both after every
        convolution but the last.
      dtype: compute type.
    """

    width: float = 1.0
    activation: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, S, S, 1] -> [N, s, s, C]."""
        for number, (features, kernel, stride, padding) in enumerate(STEM, start=1):
            bias = torch_bias(kernel**2 * x.shape[-1])
            x = Conv(
                scaled(features, self.width, 4), kernel, stride, padding, True, torch_kernel, bias,
                dtype=self.dtype, name=f"conv_{number}",
            )(x)  # fmt: skip
            if self.activation == "norm_relu" and number < len(STEM):
                x = nn.relu(batch_norm(f"norm_{number}", self.dtype)(x, train))
        return x


class Dense(nn.Module):
    """Linear layer [N, C] -> [N, features] that starts as PyTorch's does."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, C] -> [N, features]."""
        bias = torch_bias(x.shape[-1])
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=torch_kernel, bias_init=bias, name="dense")(x)


def channels_first(x: jax.Array) -> jax.Array:
    """[N, ..., C] -> [N, C ...], flat, in the order in which the released layers expect it."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


class LandmarkHead(nn.Module):
    """Features of a frame [N, h, w, C] -> 68 points [N, 68, 2].

    Attributes:
      width: factor on the 32 channels and 512 hidden units.
      dtype: compute type; the result is float32.
    """

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, h, w, C] -> [N, 68, 2], x before y."""
        bias = torch_bias(9 * x.shape[-1])
        conv = Conv(scaled(32, self.width), 3, 1, 0, True, torch_kernel, bias, dtype=self.dtype, name="conv")
        x = channels_first(nn.relu(conv(x)))
        x = nn.relu(Dense(scaled(512, self.width), self.dtype, name="hidden")(x))
        return Dense(2 * N_LANDMARKS, self.dtype, name="points")(x).astype(jnp.float32).reshape(-1, N_LANDMARKS, 2)


def max_pool(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Maximum over neighbouring twos along those axes that have two; an odd end is cut off.

    A maximum of two slices: its gradient is cheap on every backend, that of a window's maximum is not.
    """
    for axis in [a for a in axes if x.shape[a] > 1]:
        size = x.shape[axis] // 2 * 2
        halves = (jax.lax.slice_in_dim(x, i, size, 2, axis) for i in (0, 1))
        x = jnp.maximum(*halves)
    return x


class RecognitionHead(nn.Module):
    """Features over time [N, h, w, T, C] -> a code [N, 256 times the width], before the classifier.

    Conv3d 2x2 (space) by 5 (time) with stride 2 in space, to 32 channels; max pooling by 2; dropout; 256, ReLU,
    dropout. No activation before the pooling.

    Attributes:
      width: factor on the 32 channels and 256 units.
      dropout: probability.
      dtype: compute type.
    """

    width: float = 1.0
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, h, w, T, C] -> [N, D]."""
        n, height, width, length, channels = x.shape
        features, h, w = scaled(32, self.width), height // 2, width // 2
        taps = min(5, length)
        kernel = self.param("kernel", torch_kernel, (2, 2, 5, channels, features))[:, :, :taps].astype(self.dtype)
        bias = self.param("bias", torch_bias(20 * channels), (features,)).astype(self.dtype)
        # blocks of 2x2 places beside each other: one product over (2, 2, channels) for all taps, then a shifted sum
        x = x.astype(self.dtype)[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, length, channels)
        each = jnp.einsum("nhiwjtc,ijscf->nhwtsf", x, kernel)
        steps = length - taps + 1
        y = sum((each[:, :, :, s : s + steps, s] for s in range(1, taps)), start=each[:, :, :, :steps, 0]) + bias
        y = channels_first(max_pool(y, (1, 2, 3)))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = nn.relu(Dense(scaled(256, self.width), self.dtype, name="hidden")(y))
        return nn.Dropout(self.dropout)(y, deterministic=not train)
