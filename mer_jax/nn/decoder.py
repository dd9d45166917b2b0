"""A transformer that changes latent tokens under a condition; at the start it changes nothing."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.attention import AdaLNBlock, CrossAttentionBlock, Modulation, TransformerBlock, sincos_2d

CONDITIONS = ("token", "global", "cross_attn", "concat")


class LatentDecoder(nn.Module):
    """DiT-style decoder: tokens [B, h, w, F] and condition [B, h, w, E] -> change of the tokens [B, h, w, F].

    `condition_by`:
      token: adaLN-Zero, every token modulated by the condition at its own place.
      global: adaLN-Zero, all tokens modulated by the mean of the condition over places (DiT's one vector).
      cross_attn: pre-norm blocks, each followed by zero-initialised cross-attention to the condition tokens.
      concat: pre-norm blocks on the sequence of tokens followed by the condition tokens (DiT's in-context option);
        both carry the same positions, the condition half is dropped at the end.
    The last layer starts at zero, hence the output does too. Then the condition has zero gradient in the first step.

    Attributes:
      dim: channels D of the tokens inside.
      depth: number of blocks.
      heads: attention heads.
      mlp_ratio: hidden width of the MLPs in units of D.
      condition_by: one of CONDITIONS.
      dtype: compute type; parameters and output are float32.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    condition_by: str = "token"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, condition: jax.Array) -> jax.Array:
        """Tokens [B, h, w, F], condition [B, h, w, E] -> change [B, h, w, F]; raises ValueError if the grids differ."""
        if self.condition_by not in CONDITIONS:
            raise ValueError(f"condition_by is one of {CONDITIONS}, got {self.condition_by!r}")
        if tokens.shape[:3] != condition.shape[:3]:
            raise ValueError(f"tokens {tokens.shape} and condition {condition.shape} lie on different grids")
        batch, height, width, features = tokens.shape
        n = height * width
        positions = jnp.asarray(sincos_2d(height, width, self.dim), self.dtype)
        x = nn.Dense(self.dim, dtype=self.dtype, name="tokens")(tokens.reshape(batch, n, features)) + positions
        c = nn.Dense(self.dim, dtype=self.dtype, name="condition")(condition.reshape(batch, n, -1))
        if self.condition_by in ("token", "global"):
            if self.condition_by == "global":
                c = c.mean(axis=1, keepdims=True)
            for i in range(self.depth):
                x = AdaLNBlock(self.heads, self.mlp_ratio, dtype=self.dtype, name=f"block_{i}")(x, c)
            shift, scale = Modulation(2, self.dim, dtype=self.dtype, name="last_modulation")(c)
            norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=self.dtype, name="last_norm")
            x = norm(x) * (1 + scale) + shift
        else:
            if self.condition_by == "concat":
                x = jnp.concatenate([x, c + positions], axis=1)
            else:
                c = c + positions
            for i in range(self.depth):
                block = TransformerBlock(
                    self.heads, self.mlp_ratio, tanh_gelu=True, dtype=self.dtype, name=f"block_{i}"
                )
                x = block(x)
                if self.condition_by == "cross_attn":
                    x = CrossAttentionBlock(self.heads, dtype=self.dtype, name=f"cross_{i}")(x, c)
            x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="last_norm")(x[:, :n])
        change = nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="last")(x)
        return change.astype(jnp.float32).reshape(tokens.shape)
