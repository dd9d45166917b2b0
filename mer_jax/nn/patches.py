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

FORMS = ("auto", "direct", "patches", "taps", "blocks")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def best_form(batch: Any, places: int, channels: int, features: int, sides: tuple[int, int], stride: int) -> str:
    """The fastest form on the default device (measured, see tests/benchmarks/bench_mol.py).

    Args:
      batch: images; where it is free (no int), the network is exported for every device, and the form is direct.
      places: pixels of the result.
      channels: channels of the input.
      features: channels of the result.
      sides: of the kernel.
      stride: of both axes.
    """
    if _any_device(batch):
        return "direct"
    if features <= 8 and stride == 1:
        return "taps"
    if stride == 2 and not any(side % 2 for side in sides):
        return "blocks"
    return "patches" if sides == (1, 1) or places <= 4 or (places <= 64 and channels >= 256) else "direct"


def _any_device(batch: Any) -> bool:
    return jax.default_backend() != "cpu" or not isinstance(batch, int)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, form: str = "auto") -> jax.Array:
    """Convolution (correlation) with zero padding.

    Args:
      x: [N, H, W, C].
      kernel: [k, l, C, F].
      stride: of both axes.
      padding: zeros on every side.
      form: `direct` (XLA's); `patches`: patches [N H' W', k l C] times the kernel; `taps` (stride 1): every pixel times
        the whole kernel, [N H W, k l F], then a sum of shifted parts, for few features; `blocks` (stride 2, a kernel of
        even sides): `patches` cut from blocks of 2x2 pixels, without strides; `auto`: see `best_form`.

    Returns:
      [N, (H + 2 padding - k) // stride + 1, likewise, F].

    Raises:
      ValueError: another form, or one that does not fit.
    """
    rows, columns, channels, features = kernel.shape
    n, height, width, _ = x.shape
    high, wide = ((size + 2 * padding - k) // stride + 1 for size, k in ((height, rows), (width, columns)))
    if form == "auto":
        form = best_form(n, high * wide, channels, features, (rows, columns), stride)
    if form == "direct":
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=_LAYOUT
        )
    if form == "blocks" and stride == 2 and rows % 2 == columns % 2 == 0:
        return _convolve_blocks(x, kernel, padding, (high, wide))
    if form not in ("patches", "taps") or (form == "taps" and stride > 1):
        raise ValueError(
            f"form {form!r} with stride {stride} and kernel {rows} x {columns}: expected one of {FORMS}, taps with "
            "stride 1, blocks with stride 2 and even sides only"
        )
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


def _convolve_blocks(x: jax.Array, kernel: jax.Array, padding: int, size: tuple[int, int]) -> jax.Array:
    rows, columns, channels, features = kernel.shape
    ends = [2 * (n - 1) + k - padding - side for n, k, side in zip(size, kernel.shape, x.shape[1:3], strict=False)]
    edges = [(0, 0, 0), (padding, ends[0], 0), (padding, ends[1], 0), (0, 0, 0)]  # an end below 0 cuts
    blocks = to_blocks(jax.lax.pad(x, jnp.zeros((), x.dtype), edges))
    taps = kernel.reshape(rows // 2, 2, columns // 2, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return convolve(blocks, taps.reshape(rows // 2, columns // 2, 4 * channels, features), form="patches")


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
    channels, features = x.shape[-1], kernel.shape[-1]
    if form == "auto":
        form = "direct" if _any_device(x.shape[0]) else "blocks" if features <= 16 else "taps"
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
        y = jnp.asarray(_upconvolve_taps(x, kernel))
    else:
        raise ValueError(f"form {form!r}: expected direct, taps, blocks or auto")
    return y if blocks else from_blocks(y)


@jax.custom_vjp
def _upconvolve_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """See `upconvolve`; the result in blocks. Gradients are written out: XLA pads each of the taps by itself."""
    n, height, width, channels = x.shape
    each = (x.reshape(-1, channels) @ kernel.reshape(channels, -1)).reshape(n, height, width, 4, 4, -1)
    rows = _pair(jnp.moveaxis(each, 3, 0), 1)
    return jnp.concatenate([part for row in rows for part in _pair(jnp.moveaxis(row, 3, 0), 2)], axis=-1)


def _upconvolve_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return jnp.asarray(_upconvolve_taps(x, kernel)), (x, kernel)


def _upconvolve_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, height, width, channels = x.shape
    features = kernel.shape[-1]
    padded = jnp.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0)))
    lines = ((0, 1), (1, 0), (1, 1), (2, 0))  # where tap k of line i goes, 2 i + k - 1: its block, and the line of it
    parts = [
        padded[:, a : a + height, b : b + width, (2 * p + q) * features : (2 * p + q + 1) * features]
        for a, p in lines
        for b, q in lines
    ]
    each = jnp.concatenate(parts, axis=-1).reshape(-1, 16 * features)
    dx = each @ kernel.reshape(channels, -1).T
    return dx.reshape(x.shape), (x.reshape(-1, channels).T @ each).reshape(kernel.shape)


_upconvolve_taps.defvjp(_upconvolve_forward, _upconvolve_backward)


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
