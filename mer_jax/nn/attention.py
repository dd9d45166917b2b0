"""Transformer blocks: self- and cross-attention, the pre-norm ViT block, adaLN-Zero with token-wise condition."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

LAYER_NORM_EPSILON = 1e-6  # ViT (Dosovitskiy et al. 2021) and DiT (Peebles & Xie 2023)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D sine-cosine positions, float32 [height * width, dim]; `dim` must divide by 4.

    The first half of the channels codes the row, the second half the column, each with dim/4 frequencies
    10000^(-k / (dim/4)) as sines then cosines (Chen, Xie & He 2021, MoCo v3; used by MAE and DiT).
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions need channels in multiples of 4, got {dim}")
    frequency = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))

    def code(position: np.ndarray) -> np.ndarray:
        angle = position[:, None] * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.concatenate([code(row.ravel()), code(column.ravel())], axis=1).astype(np.float32)


def _heads(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class SelfAttention(nn.Module):
    """Multi-head self-attention, [B, N, D] -> [B, N, D], with biases (Vaswani et al. 2017)."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, N, D] -> [B, N, D]."""
        dim = x.shape[-1]
        query, key, value = jnp.split(nn.Dense(3 * dim, dtype=self.dtype, name="qkv")(x), 3, axis=-1)
        y = jax.nn.dot_product_attention(*(_heads(part, self.heads) for part in (query, key, value)))
        return nn.Dense(dim, dtype=self.dtype, name="out")(y.reshape(x.shape))


class CrossAttention(nn.Module):
    """Multi-head attention of queries [B, N, D] to a context [B, M, E] -> [B, N, D], with biases."""

    heads: int
    zero_init: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Tokens [B, N, D], context [B, M, E] -> [B, N, D]."""
        dim = x.shape[-1]
        query = nn.Dense(dim, dtype=self.dtype, name="query")(x)
        key, value = jnp.split(nn.Dense(2 * dim, dtype=self.dtype, name="key_value")(context), 2, axis=-1)
        y = jax.nn.dot_product_attention(*(_heads(part, self.heads) for part in (query, key, value)))
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        return nn.Dense(dim, dtype=self.dtype, kernel_init=init, name="out")(y.reshape(x.shape))


class Mlp(nn.Module):
    """Dense -> GELU -> Dense, hidden width `ratio` times the input's."""

    ratio: float = 4.0
    tanh_gelu: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        hidden = nn.Dense(int(self.ratio * x.shape[-1]), dtype=self.dtype, name="up")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.gelu(hidden, approximate=self.tanh_gelu))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch of an example with probability `rate`.

    Draws from the rng "dropout"; survivors are scaled by 1 / (1 - rate). Identity when not training.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, ...] -> the same shape."""
        if not train or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0).astype(x.dtype)


def _layer_norm(name: str, dtype: Any, affine: bool = True) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_bias=affine, use_scale=affine, dtype=dtype, name=name)


class TransformerBlock(nn.Module):
    """Pre-norm ViT block on tokens [B, N, D] (Dosovitskiy et al. 2021), optionally with stochastic depth."""

    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    tanh_gelu: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Tokens [B, N, D] -> [B, N, D]."""
        y = SelfAttention(self.heads, dtype=self.dtype, name="attention")(_layer_norm("norm_1", self.dtype)(x))
        x = x + DropPath(self.drop_path, name="drop_1")(y, train)
        mlp = Mlp(self.mlp_ratio, tanh_gelu=self.tanh_gelu, dtype=self.dtype, name="mlp")
        return x + DropPath(self.drop_path, name="drop_2")(mlp(_layer_norm("norm_2", self.dtype)(x)), train)


class CrossAttentionBlock(nn.Module):
    """x + attention(LN(x), LN(context)) with a zero-initialised output: the identity in x at the start.

    x [B, N, D], context [B, M, E] -> [B, N, D].
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Tokens [B, N, D], context [B, M, E] -> [B, N, D]."""
        attention = CrossAttention(self.heads, zero_init=True, dtype=self.dtype, name="attention")
        return x + attention(_layer_norm("norm", self.dtype)(x), _layer_norm("norm_context", self.dtype)(context))


class Modulation(nn.Module):
    """SiLU -> zero-initialised Dense, split into `n` modulation vectors of `dim` channels (DiT, section 3.2)."""

    n: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, condition: jax.Array) -> list[jax.Array]:
        """Condition [B, N, E] -> `n` vectors [B, N, dim]."""
        dense = nn.Dense(self.n * self.dim, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="dense")
        return jnp.split(dense(nn.silu(condition)), self.n, axis=-1)


class AdaLNBlock(nn.Module):
    """DiT block with adaLN-Zero (Peebles & Xie 2023, section 3.2) whose condition may differ from token to token.

    x [B, N, D]; condition [B, N, E] (token-wise) or [B, 1, E] (one vector for all tokens). The gates start at zero,
    so the block is the identity at the start.
    """

    heads: int
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Tokens [B, N, D], condition [B, N or 1, E] -> [B, N, D]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = Modulation(
            6, x.shape[-1], dtype=self.dtype, name="modulation"
        )(condition)
        y = _layer_norm("norm_1", self.dtype, affine=False)(x) * (1 + scale_1) + shift_1
        x = x + gate_1 * SelfAttention(self.heads, dtype=self.dtype, name="attention")(y)
        y = _layer_norm("norm_2", self.dtype, affine=False)(x) * (1 + scale_2) + shift_2
        return x + gate_2 * Mlp(self.mlp_ratio, tanh_gelu=True, dtype=self.dtype, name="mlp")(y)
