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
import numpy as np

FORMS = ("auto", "direct", "patches", "taps")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def best_form(places: int, channels: int, features: int, taps: int, stride: int) -> str:
    """The fastest form on the default device (measured, see tests/benchmarks/bench_mol.py).

    Args:
      places: pixels of the result.
      channels: channels of the input.
      features: channels of the result.
      taps: pixels of the kernel.
      stride: of both axes.
    """
    if jax.default_backend() != "cpu":
        return "direct"
    if features <= 4 and stride == 1:
        return "taps"
    return "patches" if taps == 1 or places <= 4 or (places <= 64 and channels >= 256) else "direct"


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
        form = best_form(high * wide, channels, features, rows * columns, stride)
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


def to_blocks(x: jax.Array) -> jax.Array:
    """[N, 2 H, 2 W, C] -> [N, H, W, 4 C]: blocks of 2x2 pixels, row by row, as channels."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // 2, width // 2, 4 * channels)


def from_blocks(x: jax.Array) -> jax.Array:
    """[N, H, W, 4 C] -> [N, 2 H, 2 W, C], the inverse of `to_blocks`."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * height, 2 * width, channels // 4)


def blocks_kernel(kernel: jax.Array) -> jax.Array:
    """A 3x3 kernel [3, 3, C, F] as one that works on blocks, [3, 3, 4 C, 4 F]; four times the sums, most of them 0.

    Worth it where C and F are a few channels: convolutions are slow there.
    """
    offset, before, after = np.ogrid[:3, :2, :2]
    taps = _or_nothing(2 * (offset - 1) + before - after + 1, 3)  # [a, p, u]
    whole = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))[taps][:, :, :, taps]  # [a, p, u, b, q, v, C, F]
    return whole.transpose(0, 3, 1, 4, 6, 2, 5, 7).reshape(3, 3, 4 * kernel.shape[2], 4 * kernel.shape[3])


def _or_nothing(taps: np.ndarray, size: int) -> np.ndarray:
    """Numbers of taps; those that are none become `size`, where a padded kernel is 0."""
    return np.where((taps >= 0) & (taps < size), taps, size)


def upconvolve(x: jax.Array, kernel: jax.Array, form: str = "auto", blocks: bool = False) -> jax.Array:
    """Transposed convolution with kernel 4, stride 2 and padding 1: twice the size.

    y[2 i + k - 1] gets kernel[:, k] x[i], along both axes.

    Args:
      x: [N, H, W, C].
      kernel: [C, 4, 4, F], in the order in which `taps` multiplies it.
      form: `direct` (XLA's); `taps`: every pixel times the whole kernel, then a sum of shifted parts; `blocks`: a 3x3
        convolution to blocks of 2x2 pixels (9/4 of the sums, for few features); `auto`.
      blocks: whether the result stays in blocks, see `to_blocks`.

    Returns:
      [N, 2 H, 2 W, F], or [N, H, W, 4 F].

    Raises:
      ValueError: another form.
    """
    n, height, width, channels = x.shape
    features = kernel.shape[-1]
    if form == "auto":
        form = "direct" if jax.default_backend() != "cpu" else "blocks" if features <= 16 else "taps"
    if form == "direct":
        y = jax.lax.conv_general_dilated(
            x, kernel[:, ::-1, ::-1], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "IHWO", "NHWC"),
        )  # fmt: skip
        return to_blocks(y) if blocks else y
    if form == "blocks":
        offset, parity = np.ogrid[:3, :2]
        taps = _or_nothing(parity + 3 - 2 * offset, 4)  # [a, p]
        whole = jnp.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, taps][:, :, :, taps]  # [C, a, p, b, q, F]
        y = convolve(x, whole.transpose(1, 3, 0, 2, 4, 5).reshape(3, 3, channels, 4 * features), 1, 1)
    elif form == "taps":
        each = (x.reshape(-1, channels) @ kernel.reshape(channels, -1)).reshape(n, height, width, 4, 4, features)
        rows = _pair(jnp.moveaxis(each, 3, 0), 1)
        y = jnp.concatenate([part for row in rows for part in _pair(jnp.moveaxis(row, 3, 0), 2)], axis=-1)
    else:
        raise ValueError(f"form {form!r}: expected direct, taps, blocks or auto")
    return y if blocks else from_blocks(y)


def _pair(taps: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The even and odd lines of a transposed convolution along `axis` from its four taps [4, N, H, W, ...].

    Taps 1 and 3 (one line before) make the even lines, 2 and 0 (one line after) the odd ones.
    """

    def shifted(x: jax.Array, by: int) -> jax.Array:
        size = x.shape[axis]
        kept = jax.lax.slice_in_dim(x, max(-by, 0), size - max(by, 0), axis=axis)
        pads = [(0, 0)] * x.ndim
        pads[axis] = (max(by, 0), max(-by, 0))
        return jnp.pad(kept, pads)

    return taps[1] + shifted(taps[3], 1), taps[2] + shifted(taps[0], -1)


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
    """Transposed convolution to twice the size, [N, H, W, C] -> [N, 2 H, 2 W, features], no bias; see `upconvolve`.

    Attributes:
      features: output channels F.
      kernel_init: of the parameter "kernel" [C, 4, 4, features], given the shape [4, 4, C, features].
      blocks: whether the result stays in blocks, [N, H, W, 4 features].
      dtype: compute type.
    """

    features: int
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    blocks: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, 2 H, 2 W, features]."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", lambda key: self.kernel_init(key, shape).transpose(2, 0, 1, 3))
        return upconvolve(x.astype(self.dtype), kernel.astype(self.dtype), blocks=self.blocks)
