"""ResNet-18 and ResNet-34 (He et al. 2016) as feature maps at stride 16."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.continuous_attention import ConvNorm

RESNET18 = (2, 2, 2, 2)
RESNET34 = (3, 4, 6, 3)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, projected where stride or width changes."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H/stride, W/stride, features]."""
        y = nn.relu(ConvNorm(self.features, 3, self.stride, dtype=self.dtype, name="conv_1")(x, train))
        y = ConvNorm(self.features, 3, dtype=self.dtype, name="conv_2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = ConvNorm(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x, train)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """Image [B, H, W, C] -> feature map [B, H/16, W/16, features * 2^(stages - 1)], H and W multiples of 16.

    7x7 stride-2 stem, 3x3 stride-2 max-pooling, then stages at strides 1, 2, 2, 1: the fourth stage keeps stride 16
    (where the classifier of the paper has 32), so three or four blocks both end on the same grid.

    Attributes:
      stage_sizes: blocks of each stage, RESNET18 or RESNET34, cut to the stages wanted.
      features: channels of the first stage, 64 in the paper.
      dtype: compute type.
    """

    stage_sizes: tuple[int, ...] = RESNET18
    features: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H/16, W/16, F]."""
        x = nn.relu(ConvNorm(self.features, 7, 2, dtype=self.dtype, name="stem")(x, train))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, n_blocks in enumerate(self.stage_sizes):
            for i in range(n_blocks):
                stride = 2 if stage in (1, 2) and i == 0 else 1
                features = self.features * 2**stage
                x = BasicBlock(features, stride, dtype=self.dtype, name=f"stage_{stage + 1}_block_{i}")(x, train)
        return x
