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


def best_form(shape: tuple[int, ...], features: int, stride: int = 1) -> str:
    """The fastest form on the default device for images [B, H, W, C] (measured, see bench_fdp)."""
    batch, height, width, channels = shape
    if jax.default_backend() != "cpu" or not isinstance(batch, int):  # a free batch is exported for every device
        return "direct"
    tiles = batch * (height // 2) * (width // 2)
    if height <= 2 or 8 * tiles < max(channels, features):  # few pixels: XLA's convolution all but stands still
        return "patches"
    if stride > 1 or height % 2 or width % 2 or min(channels, features) < 64:
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
        form = best_form(x.shape, kernel.shape[-1], stride)
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
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(f"winograd needs even sides, found {x.shape[1]} x {x.shape[2]}")
        return jnp.asarray(_winograd(x, kernel))
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


@jax.custom_vjp
def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """F(2x2, 3x3) of Lavin & Gray (CVPR 2016): 16 products for four outputs instead of 36.

    The gradients are written out: they are Winograd's sums again, and XLA makes slow code of the transposed slices.
    """
    return _winograd_products(_tiles(x), _transformed(kernel), x.shape)


def _winograd_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _winograd(x, kernel), (x, kernel)


def _winograd_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # dL/dx is the convolution with the kernel turned around and transposed; turning swaps the first and last transform
    turned = (3, 1, 2, 0)
    weights = _transformed(kernel)
    dx = _winograd_products(_tiles(dy), [weights[4 * i + j].T for i in turned for j in turned], dy.shape)
    batch, height, width, features = dy.shape
    parts = dy.reshape(batch, height // 2, 2, width // 2, 2, features)
    rows = _output_transposed([parts[:, :, i] for i in range(2)])
    products = [p for row in rows for p in _output_transposed([row[:, :, :, j] for j in range(2)])]
    flat = [p.reshape(-1, features) for p in products]
    gradients = [tile.T @ p for tile, p in zip(_tiles(x), flat, strict=True)]
    columns = [_kernel_transposed(gradients[4 * i : 4 * i + 4]) for i in range(4)]  # [row][column of the kernel]
    taps = [_kernel_transposed([columns[i][j] for i in range(4)]) for j in range(3)]  # [column][row]
    dk = jnp.stack([taps[j][i] for i in range(3) for j in range(3)])
    return dx, dk.reshape(kernel.shape)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _tiles(x: jax.Array) -> list[jax.Array]:
    """The 16 transformed tiles of an image [B, H, W, C], each [B * H/2 * W/2, C]."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _input_transform([padded[:, i : i + height - 1 : 2] for i in range(4)])
    tiles = [t for row in rows for t in _input_transform([row[:, :, j : j + width - 1 : 2] for j in range(4)])]
    return [t.reshape(-1, channels) for t in tiles]


def _transformed(kernel: jax.Array) -> list[jax.Array]:
    """The 16 transformed kernels, each [C, F]."""
    rows = _kernel_transform([kernel[i] for i in range(3)])
    return [k for row in rows for k in _kernel_transform([row[j] for j in range(3)])]


def _winograd_products(tiles: list[jax.Array], weights: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    batch, height, width, _ = shape
    products = [t @ w for t, w in zip(tiles, weights, strict=True)]
    sums = [_output_transform(products[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_output_transform([s[j] for s in sums]) for j in range(2)]  # [column][row]
    y = jnp.stack([columns[j][i] for i in range(2) for j in range(2)], axis=1)
    y = y.reshape(batch, height // 2, width // 2, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, height, width, -1)


def _input_transform(d: list[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel_transform(g: list[jax.Array]) -> list[jax.Array]:
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _kernel_transposed(u: list[jax.Array]) -> list[jax.Array]:
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]


def _output_transform(m: list[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_transposed(y: list[jax.Array]) -> list[jax.Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


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
