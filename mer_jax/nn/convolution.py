"""3x3 convolutions in three forms with the same parameters and sums: direct, patches + matmul, Winograd.

XLA's convolutions on CPU reach about half of what its matmuls do, less where images are small, and slow down many
times inside loops; the two other forms are matmuls. Which one wins depends on the shapes alone (`best_form`).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FORMS = ("auto", "direct", "patches", "winograd")


def best_form(batch: int, height: int, width: int, channels: int, stride: int = 1) -> str:
    """The fastest form on the default device for images [batch, height, width, channels] (measured, see bench_fdp)."""
    if jax.default_backend() != "cpu":
        return "direct"
    if height <= 2 or width <= 2:  # XLA's convolution takes 30 times as long as its matmul
        return "patches"
    if stride > 1 or height % 2 or width % 2 or batch * height * width < 256 or channels < 48:
        return "direct"
    return "winograd"


def conv3x3(x: jax.Array, kernel: jax.Array, form: str = "auto", groups: int = 1, stride: int = 1) -> jax.Array:
    """Convolution with zero padding 1.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C / groups, F]; group g makes the g-th of `groups` equal parts of F from that part of C.
      form: one of FORMS; winograd needs even H and W, and stride 1.
      groups: groups of channels that do not mix. On CPU the kernel is filled up with zeros: more sums, but XLA's
        grouped convolutions take ten times as long backwards there.
      stride: 1 or 2.

    Returns:
      [B, ceil(H/stride), ceil(W/stride), F].

    Raises:
      ValueError: another form, or one that does not fit.
    """
    if form == "auto":
        form = best_form(x.shape[0], x.shape[1], x.shape[2], x.shape[3], stride)
    if groups > 1 and (form != "direct" or jax.default_backend() == "cpu"):
        kernel, groups = _block_diagonal(kernel, groups), 1
    if form == "direct":
        layout = ("NHWC", "HWIO", "NHWC")
        padding = ((1, 1), (1, 1))
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
        )
    if form == "patches":
        return _patches(x, kernel, stride)
    if form == "winograd" and stride == 1:
        return _winograd(x, kernel)
    raise ValueError(f"form {form!r} with stride {stride}: expected one of {FORMS}, winograd with stride 1")


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """[3, 3, C / groups, F] -> [3, 3, C, F], zero between groups."""
    split = kernel.reshape(3, 3, 1, kernel.shape[2], groups, -1)
    same = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (split * same).reshape(3, 3, groups * kernel.shape[2], kernel.shape[3])


def _patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    columns = jnp.concatenate(shifted, axis=-1)
    return columns @ kernel.reshape(9 * channels, -1)


def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """F(2x2, 3x3) of Lavin & Gray (CVPR 2016): 16 products for four outputs instead of 36."""
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"winograd needs even sides, found {height} x {width}")
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _input_transform([padded[:, i : i + height - 1 : 2] for i in range(4)])
    weights = [_kernel_transform([k[0], k[1], k[2]]) for k in _kernel_transform([kernel[0], kernel[1], kernel[2]])]
    sums = []  # of the second axis: 4 rows of 2 columns
    for row, weight in zip(rows, weights, strict=True):
        tiles = _input_transform([row[:, :, j : j + width - 1 : 2] for j in range(4)])
        products = [t.reshape(-1, channels) @ w for t, w in zip(tiles, weight, strict=True)]
        sums.append(_output_transform(products))
    columns = [_output_transform([s[j] for s in sums]) for j in range(2)]  # [column][row]
    y = jnp.stack([jnp.stack([columns[j][i] for j in range(2)], axis=1) for i in range(2)], axis=1)
    y = y.reshape(batch, height // 2, width // 2, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, height, width, -1)


def _input_transform(d: list[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel_transform(g: list[jax.Array]) -> list[jax.Array]:
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _output_transform(m: list[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


class Conv3x3(nn.Module):
    """3x3 convolution with zero padding 1, [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), features].

    Attributes:
      features: output channels F.
      groups: groups of channels that do not mix.
      use_bias: whether a bias is added.
      form: see FORMS.
      dtype: compute type.
      kernel_init: of the kernel.
      stride: 1 or 2; with 2 the form is always patches or direct.
    """

    features: int
    groups: int = 1
    use_bias: bool = False
    form: str = "auto"
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), features]."""
        shape = (3, 3, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        y = conv3x3(x.astype(self.dtype), kernel, self.form, self.groups, self.stride)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y
