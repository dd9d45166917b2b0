"""Convolutions of any size as matmuls, next to XLA's own: the same parameters and sums.

On CPU, XLA's convolutions are as fast as its matmuls on large maps and many times slower on maps of a few pixels, for
few features, backwards through a transposed convolution, and inside loops. Which form is fastest depends on the shapes
alone (`best_form`).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FORMS = ("auto", "direct", "patches", "taps")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def best_form(places: int, features: int, taps: int, stride: int) -> str:
    """The fastest form on the default device (measured, see tests/benchmarks/bench_mol.py).

    Args:
      places: pixels of the result.
      features: channels of the result.
      taps: pixels of the kernel.
      stride: of both axes.
    """
    if jax.default_backend() != "cpu":
        return "direct"
    if features <= 4 and stride == 1:
        return "taps"
    return "patches" if taps == 1 or places <= 64 else "direct"


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, form: str = "auto") -> jax.Array:
    """Convolution (correlation) with zero padding.

    Args:
      x: [N, H, W, C].
      kernel: [k, l, C, F].
      stride: of both axes.
      padding: zeros on every side.
      form: `direct` (XLA's); `patches`: patches [N H' W', k l C] times the kernel; `taps` (stride 1): every pixel times
        the whole kernel, [N H W, k l F], then a sum of shifted parts, for few features; `auto`: see `best_form`.

    Returns:
      [N, (H + 2 padding - k) // stride + 1, likewise, F].

    Raises:
      ValueError: another form.
    """
    rows, columns, channels, features = kernel.shape
    n, height, width, _ = x.shape
    high, wide = ((size + 2 * padding - k) // stride + 1 for size, k in ((height, rows), (width, columns)))
    if form == "auto":
        form = best_form(high * wide, features, rows * columns, stride)
    if form == "direct":
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=_LAYOUT
        )
    if form not in FORMS or (form == "taps" and stride > 1):
        raise ValueError(f"form {form!r} with stride {stride}: expected one of {FORMS}, taps with stride 1 only")
    offsets = [(i, j) for i in range(rows) for j in range(columns)]

    def part(padded: jax.Array, i: int, j: int) -> jax.Array:
        return padded[:, i : i + (high - 1) * stride + 1 : stride, j : j + (wide - 1) * stride + 1 : stride]

    if form == "patches":
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        patches = jnp.concatenate([part(padded, i, j) for i, j in offsets], axis=-1)
        flat = patches.reshape(-1, rows * columns * channels) @ kernel.reshape(-1, features)
        return flat.reshape(n, high, wide, features)
    each = (x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)).reshape(n, height, width, -1)
    each = jnp.pad(each, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    parts = [part(each[..., t * features : (t + 1) * features], i, j) for t, (i, j) in enumerate(offsets)]
    return sum(parts[1:], start=parts[0])


def upconvolve(x: jax.Array, kernel: jax.Array, form: str = "auto") -> jax.Array:
    """Transposed convolution with kernel 4, stride 2 and padding 1: twice the size.

    y[2 i + k - 1] gets kernel[k] x[i], along both axes.

    Args:
      x: [N, H, W, C].
      kernel: [4, 4, C, F].
      form: `direct`, or `taps`: every pixel times the whole kernel, then a sum of shifted parts; `auto`: taps on CPU.

    Returns:
      [N, 2 H, 2 W, F].
    """
    if form == "direct" or (form == "auto" and jax.default_backend() != "cpu"):
        return jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=_LAYOUT
        )
    n, height, width, channels = x.shape
    features = kernel.shape[-1]
    # rows 1 and 3 of the kernel make the even rows of the result, 0 and 2 the odd ones; columns likewise
    each = x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    each = each.reshape(n, height, width, 4, 4, features)
    down, up = ((1, 0), (0, 0)), ((0, 1), (0, 0))
    even = each[:, :, :, 1] + _pad_rows(each[:, :-1, :, 3], down)
    odd = each[:, :, :, 2] + _pad_rows(each[:, 1:, :, 0], up)
    y = jnp.stack([even, odd], axis=2).reshape(n, 2 * height, width, 4, features)
    down, up = ((0, 0), (1, 0)), ((0, 0), (0, 1))
    even = y[:, :, :, 1] + _pad_rows(y[:, :, :-1, 3], down)
    odd = y[:, :, :, 2] + _pad_rows(y[:, :, 1:, 0], up)
    return jnp.stack([even, odd], axis=3).reshape(n, 2 * height, 2 * width, features)


def _pad_rows(x: jax.Array, by: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *by, *((0, 0),) * (x.ndim - 3)))


class Conv(nn.Module):
    """Convolution [N, H, W, C] -> [N, H', W', features] with a parameter "kernel" [k, k, C, features] and "bias".

    Attributes:
      features: output channels F.
      kernel: its side k.
      stride: of both axes.
      padding: zeros on every side.
      use_bias: whether a bias is added.
      kernel_init: of the kernel.
      bias_init: of the bias.
      form: see `convolve`.
      dtype: compute type.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    form: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', features]."""
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, x.shape[-1], self.features))
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding, self.form)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


class UpConv(nn.Module):
    """Transposed convolution to twice the size, [N, H, W, C] -> [N, 2 H, 2 W, features], no bias; see `upconvolve`."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    form: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, 2 H, 2 W, features]."""
        kernel = self.param("kernel", self.kernel_init, (4, 4, x.shape[-1], self.features))
        return upconvolve(x.astype(self.dtype), kernel.astype(self.dtype), self.form)
