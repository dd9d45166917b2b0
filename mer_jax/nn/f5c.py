"""F5C: fully-connected convolution (FCC) and channel-correspondence convolution (CCC), the block of MOL.

Shao et al., TPAMI 2025 (arXiv 2506.14511) describe FCC as a transformer-style convolution with a local and a global
receptive field and CCC as a graph over feature patterns, i.e. channels; their formulas were not available. FCC follows
the released code, whose operator is the position-aware circular convolution of ParC-Net (Zhang et al., ECCV 2022).
CCC has two forms: `channel`, as described, and `released`, as the code computes it.

Everything is vectorised over frames, nodes and neighbours, and all maps are [N, H, W, C].
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

FCC_KERNELS = ("size", "crop", "resize")
FFNS = ("none", "unused", "applied")
EPSILON = 1e-5  # of BatchNorm
MOMENTUM = 0.9  # PyTorch counts the other way round: 0.1


def _uniform(bound: float) -> nn.initializers.Initializer:
    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_kernel(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """PyTorch's default for convolutions and linear layers: U(+-1/sqrt(fan in)); kernels [..., in, out]."""
    return _uniform(float(np.prod(shape[:-1])) ** -0.5)(key, shape, dtype)


def batch_norm(name: str, dtype: Any) -> Any:
    """BatchNorm as PyTorch sets it up; `train` chooses between the batch and the running statistics."""
    return lambda x, train: nn.BatchNorm(
        use_running_average=not train, momentum=MOMENTUM, epsilon=EPSILON, dtype=dtype, name=name
    )(x)


def circulant(kernel: jax.Array) -> jax.Array:
    """Matrices M [C, L, L] of the circular correlations with kernel [L, C]: M[c, i, j] = kernel[(j - i) mod L, c]."""
    length = kernel.shape[0]
    return kernel.T[:, (np.arange(length) - np.arange(length)[:, None]) % length]


def circular_correlation(x: jax.Array, kernel: jax.Array, axis: Literal[1, 2]) -> jax.Array:
    """Depth-wise circular correlation along the rows (axis 1) or columns (axis 2): y[i] = sum_r kernel[r] x[i + r].

    A product with circulant matrices: measured faster than 16 shifted products and than an FFT, forwards and backwards,
    on CPU (`tests/benchmarks/bench_mol.py`), with the same sums as the shifted products.

    Args:
      x: [N, H, W, C].
      kernel: [L, C], L the length of the axis.
      axis: 1 or 2.

    Returns:
      [N, H, W, C]; every output depends on all places of its line in its own channel, and on no other channel.
    """
    matrix = circulant(kernel)
    if axis == 1:
        return jnp.einsum("nhwc,cih->niwc", x, matrix)
    return jnp.einsum("nhwc,ciw->nhic", x, matrix)


def fit_length(line: jax.Array, length: int, how: str) -> jax.Array:
    """A meta kernel or position embedding [L, C] at the length of the map: its first taps, or linearly resized."""
    if line.shape[0] == length:
        return line
    if how == "crop":
        if line.shape[0] < length:
            raise ValueError(f"a kernel of {line.shape[0]} taps cannot be cropped to {length}; resize it")
        return line[:length]
    return jax.image.resize(line, (length, line.shape[1]), "linear", antialias=False)


class FCC(nn.Module):
    """Fully-connected convolution [N, H, W, C] -> [N, H, W, C].

    With A and B the two halves of the channels, (x) circular correlation along the rows (H) or columns (W):

      A' = A + ((BN(A + P1h) (x)_H K1h + b1h) + P2w) (x)_W K2w + b2w
      B' = B + ((BN(B + P1w) (x)_W K1w + b1w) + P2h) (x)_H K2h + b2h

    Attributes:
      kernel: `size`: kernels and positions are as long as the map. Else they have `meta` taps, of which the first ones
        are taken (`crop`, the released code) or which are resized to the map (`resize`).
      meta: length of meta kernels and positions; 32 in the released code.
      positions: whether there are position embeddings P; without them FCC is equivariant to circular shifts.
      spread: standard deviation of positions and biases at the start. The released code has 1. INFERRED: 0.02 as in
        ParC-Net, since at 1 the positions are all that the BatchNorm sees.
      ffn: `none`; `unused`, which the released code builds and never calls; or `applied`: BN, 1x1 to C/64 channels,
        hard swish, 1x1, dropout 0.1, residual (INFERRED: what the code meant to do).
      dtype: compute type.
    """

    kernel: str = "size"
    meta: int = 32
    positions: bool = True
    spread: float = 0.02
    ffn: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = x.astype(self.dtype)
        a, b = jnp.split(x, 2, axis=-1)
        a = a + self._half(a, "h", "w", train)
        b = b + self._half(b, "w", "h", train)
        y = jnp.concatenate([a, b], axis=-1)
        if self.ffn != "none":
            hidden = self._ffn(y, train)
            y = y + hidden if self.ffn == "applied" else y
        return y

    def _half(self, x: jax.Array, first: str, second: str, train: bool) -> jax.Array:
        names = {"h": f"{first}{second}_{{}}_h", "w": f"{first}{second}_{{}}_w"}
        lengths = {"h": x.shape[1], "w": x.shape[2]}

        def line(kind: str, axis: str, init: nn.initializers.Initializer) -> jax.Array:
            taps = lengths[axis] if self.kernel == "size" else self.meta
            whole = self.param(names[axis].format(kind), init, (taps, x.shape[-1]))
            return fit_length(whole, lengths[axis], self.kernel).astype(self.dtype)

        def place(axis: str) -> jax.Array:
            p = line("position", axis, nn.initializers.normal(self.spread))
            return p[:, None] if axis == "h" else p

        for number, axis in enumerate((first, second)):
            if self.positions:
                x = x + place(axis)
            if number == 0:
                x = batch_norm(f"{first}{second}_norm", self.dtype)(x, train)
            taps = line("kernel", axis, lambda k, s, d=jnp.float32: _uniform(s[0] ** -0.5)(k, s, d))
            bias = self.param(names[axis].format("bias"), nn.initializers.normal(self.spread), x.shape[-1:])
            x = circular_correlation(x, taps, 1 if axis == "h" else 2) + bias.astype(self.dtype)
        return x

    def _ffn(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        y = batch_norm("ffn_norm", self.dtype)(x, train)
        y = nn.Dense(max(1, channels // 64), dtype=self.dtype, kernel_init=torch_kernel, name="ffn_in")(y)
        y = nn.Dense(channels, dtype=self.dtype, kernel_init=torch_kernel, name="ffn_out")(nn.hard_swish(y))
        return nn.Dropout(0.1)(y, deterministic=not train)


def _cosine(x: jax.Array) -> jax.Array:
    """Cosines between rows: [N, n, d] -> [N, n, n], in float32 and without gradient: they only choose neighbours."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return jnp.einsum("nid,njd->nij", x, x, precision=jax.lax.Precision.HIGHEST)


def neighbours(x: jax.Array, k: int, itself: bool) -> jax.Array:
    """The k nearest rows of each row by cosine, nearest first.

    Args:
      x: rows [N, n, d].
      k: neighbours.
      itself: whether a row counts among its own neighbours.

    Returns:
      int32 [N, n, k]; no gradient.
    """
    cosine = _cosine(x)
    if not itself:
        cosine = jnp.where(np.eye(x.shape[1], dtype=bool), -jnp.inf, cosine)
    return jax.lax.top_k(cosine, k)[1].astype(jnp.int32)


def take_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """Rows x [N, n, d] at index [N, m, k] -> [N, m, k, d]."""
    flat = index.reshape(index.shape[0], -1, 1)
    return jnp.take_along_axis(x, flat, axis=1).reshape(*index.shape, x.shape[-1])


class CCC(nn.Module):
    """Channel correspondence convolution [N, H, W, C] -> [N, H, W, C], without the residual around it.

    With X_i the map of channel i as a vector of H W numbers, N(i) its k nearest channels by cosine:

      channel    out_i = max_{j in N(i)} ReLU(W1 X_i + W2 (X_j - X_i) + b), then a 1x1 convolution over the channels
      released   neighbours are *places* p by the cosine of their channel vectors, the place itself first:
                 out_c = max_j ReLU(W1 X_c + b1 + W2 (D_cj - X_c) + b2), D_cj[p] = X_c[nbr_j(p)] - X_c[p]

    W1, W2 are shared by all channels. ReLU and max commute, so `channel` needs two products whatever k is:
    A = W1 X, Q = W2 X, out_i = ReLU(A_i - Q_i + b + max_j Q_j).

    INFERRED for `channel`: the edge function is that of EdgeConv (Wang et al., 2019), to which the released code comes
    close; the 1x1 convolution has a bias and neither norm nor activation.

    Attributes:
      form: channel | released.
      k: neighbours; `released` counts the place itself.
      itself: whether a channel is among its own neighbours (`channel`). INFERRED: not.
      dtype: compute type.
    """

    form: str = "channel"
    k: int = 4
    itself: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, C]."""
        n, height, width, channels = x.shape
        places = height * width
        x = x.astype(self.dtype).reshape(n, places, channels)

        def weights(number: int) -> tuple[jax.Array, jax.Array]:
            kernel = self.param(f"kernel_{number}", torch_kernel, (places, places))
            bias = self.param(f"bias_{number}", _uniform(places**-0.5), (places,))
            return kernel.astype(self.dtype), bias.astype(self.dtype)[:, None]

        (w1, b1), (w2, b2) = weights(1), weights(2)

        def product(maps: jax.Array, w: jax.Array) -> jax.Array:
            return jnp.einsum("npc,pq->nqc", maps, w)

        if self.form == "released":
            near = neighbours(x, self.k, itself=True)
            edges = take_rows(x, near) - 2 * x[:, :, None]  # [N, p, k, C]
            y = jnp.einsum("npkc,pq->nkqc", edges, w2).max(axis=1)
            return nn.relu(product(x, w1) + b1 + b2 + y).reshape(n, height, width, channels)
        near = neighbours(x.swapaxes(1, 2), self.k, self.itself)
        q = product(x, w2)
        y = take_rows(q.swapaxes(1, 2), near).max(axis=2)
        y = nn.relu(product(x, w1) - q + b1 + b2 + y.swapaxes(1, 2))
        y = nn.Dense(channels, dtype=self.dtype, kernel_init=torch_kernel, name="mix")(y)
        return y.reshape(n, height, width, channels)


class F5C(nn.Module):
    """FCC and then CCC with a residual, [N, H, W, C] -> [N, H, W, C]: F = Y + CCC(Y), Y = FCC(X).

    Attributes:
      fcc: circular | conv (a 3x3 convolution in its place) | none.
      ccc: channel | released | none.
      k: neighbours of CCC.
      itself: see CCC.
      kernel: see FCC, as are the next four.
      meta: length of meta kernels.
      positions: position embeddings.
      spread: of positions and biases at the start.
      ffn: the feed-forward part.
      dtype: compute type.
    """

    fcc: str = "circular"
    ccc: str = "channel"
    k: int = 4
    itself: bool = False
    kernel: str = "size"
    meta: int = 32
    positions: bool = True
    spread: float = 0.02
    ffn: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, C]."""
        if self.fcc == "circular":
            x = FCC(self.kernel, self.meta, self.positions, self.spread, self.ffn, self.dtype, name="fcc")(x, train)
        elif self.fcc == "conv":
            x = x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=torch_kernel, name="conv")(x)
        if self.ccc != "none":
            x = x + CCC(self.ccc, self.k, self.itself, self.dtype, name="ccc")(x)
        return x
