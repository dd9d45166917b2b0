"""ResNet-18 and ResNet-34 (He et al. 2016) as feature maps."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.continuous_attention import ConvNorm, Initializer

RESNET18 = (2, 2, 2, 2)
RESNET34 = (3, 4, 6, 3)


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of 3x3 places, stride 2, padding 1: [B, H, W, C] with even H, W -> [B, H/2, W/2, C].

    As maxima of shifted rows, then columns: XLA:CPU takes three times as long to run the gradient of its own pooling.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        edges = [(0, 0)] * 4
        edges[axis] = (1, 1)
        padded = jnp.pad(x, edges, constant_values=-jnp.inf)
        parts = [jax.lax.slice_in_dim(padded, k, k + size - 1, 2, axis) for k in range(3)]
        x = jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
    return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, projected where stride or width changes."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    statistics: str = "batch"
    kernel_init: Initializer = nn.linear.default_kernel_init
    form: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, H/stride, W/stride, features]; mask as in ConvNorm."""
        how: Any = {
            "dtype": self.dtype, "statistics": self.statistics, "kernel_init": self.kernel_init, "form": self.form
        }  # fmt: skip
        y = nn.relu(ConvNorm(self.features, 3, self.stride, **how, name="conv_1")(x, train, mask))
        y = ConvNorm(self.features, 3, **how, name="conv_2")(y, train, mask)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = ConvNorm(self.features, 1, self.stride, **how, name="shortcut")(x, train, mask)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """Image [B, H, W, C] -> feature map [B, H/s, W/s, features * 2^(stages - 1)], H and W multiples of s.

    7x7 stride-2 stem, 3x3 stride-2 max-pooling, then the stages. By default their strides are 1, 2, 2, 1, so s = 16:
    the fourth stage keeps the grid (the classifier of the paper has stride 2 and s = 32), and three or four stages
    both end on the same one.

    Attributes:
      stage_sizes: blocks of each stage, RESNET18 or RESNET34, cut to the stages wanted.
      features: channels of the first stage, 64 in the paper.
      dtype: compute type.
      stem: side of the first kernel.
      strides: of the first block of each stage.
      statistics: see ConvNorm, as is the next.
      kernel_init: of all convolutions.
      form: see ConvNorm.
    """

    stage_sizes: tuple[int, ...] = RESNET18
    features: int = 64
    dtype: Any = jnp.float32
    stem: int = 7
    strides: tuple[int, ...] = (1, 2, 2, 1)
    statistics: str = "batch"
    kernel_init: Initializer = nn.linear.default_kernel_init
    form: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, H/s, W/s, F]; with mask bool [clips, T], B = clips T are frames of clips."""
        how: Any = {
            "dtype": self.dtype, "statistics": self.statistics, "kernel_init": self.kernel_init, "form": self.form
        }  # fmt: skip
        x = nn.relu(ConvNorm(self.features, self.stem, 2, **how, name="stem")(x, train, mask))
        x = max_pool(x)
        for stage, n_blocks in enumerate(self.stage_sizes):
            for i in range(n_blocks):
                stride = self.strides[stage] if i == 0 else 1
                features = self.features * 2**stage
                x = BasicBlock(features, stride, **how, name=f"stage_{stage + 1}_block_{i}")(x, train, mask)
        return x
