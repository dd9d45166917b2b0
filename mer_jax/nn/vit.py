"""Vision transformer (Dosovitskiy et al. 2021) as a map of patch tokens."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.attention import LAYER_NORM_EPSILON, TransformerBlock


class VisionTransformer(nn.Module):
    """Image [B, H, W, C] -> patch tokens [B, H/patch, W/patch, dim], with learned positions and no class token.

    The defaults are ViT-S/16 (DeiT-S). The class token is left out: the tokens are read as a map.

    Attributes:
      patch: side of a patch in pixels.
      dim: channels.
      depth: number of blocks.
      heads: attention heads.
      mlp_ratio: hidden width of the MLPs in units of `dim`.
      drop_path: probability of stochastic depth.
      final_norm: whether a LayerNorm ends the network.
      dtype: compute type.
    """

    patch: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    final_norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H/patch, W/patch, dim]."""
        patch = (self.patch, self.patch)
        x = nn.Conv(self.dim, patch, patch, padding="VALID", dtype=self.dtype, name="patches")(x)
        batch, height, width, _ = x.shape
        shape = (1, height * width, self.dim)
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        x = x.reshape(batch, height * width, self.dim) + positions.astype(x.dtype)
        for i in range(self.depth):
            block = TransformerBlock(self.heads, self.mlp_ratio, self.drop_path, dtype=self.dtype, name=f"block_{i}")
            x = block(x, train)
        if self.final_norm:
            x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(x)
        return x.reshape(batch, height, width, self.dim)
