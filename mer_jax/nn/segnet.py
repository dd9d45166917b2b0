"""SegNet: an encoder-decoder whose decoder puts values back where the encoder's max-pooling took them from.

Badrinarayanan, Kendall & Cipolla, SegNet, TPAMI 2017: VGG-16's convolutions, no skip connections, pooling indices
handed over instead. FDP's released code makes the dynamic image with it.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.convolution import Conv3x3

FEATURES = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)


def max_pool_indices(x: jax.Array, size: int = 2) -> tuple[jax.Array, jax.Array]:
    """Max-pooling over size x size windows side by side, and where each maximum stood.

    A window has few places, so its index is a small number and the pooled value a sum over a one-hot of it: forward and
    backward are elementwise, with neither gather nor scatter. The gradient of a tie goes to the first place.

    Args:
      x: [B, H, W, C]; rows and columns beyond the last whole window are left out.
      size: side of a window.

    Returns:
      (maxima [B, H // size, W // size, C], places in the windows size * row + column, uint8 of that shape).
    """
    height, width = (side // size * size for side in x.shape[1:3])
    places = jnp.stack([x[:, i:height:size, j:width:size] for i in range(size) for j in range(size)])
    index = jnp.argmax(jax.lax.stop_gradient(places), axis=0).astype(jnp.uint8)
    return jnp.where(_one_hot(index, size), places, 0).sum(axis=0), index


def max_unpool(x: jax.Array, index: jax.Array, size: int = 2) -> jax.Array:
    """Inverse of `max_pool_indices`: values [B, h, w, C] back at their places, [B, size h, size w, C], else zero."""
    batch, height, width, channels = x.shape
    places = jnp.where(_one_hot(index, size), x[None], 0).reshape(size, size, batch, height, width, channels)
    return places.transpose(2, 3, 0, 4, 1, 5).reshape(batch, size * height, size * width, channels)


def _one_hot(index: jax.Array, size: int) -> jax.Array:
    return index[None] == jnp.arange(size * size, dtype=index.dtype).reshape(-1, 1, 1, 1, 1)


class SegNet(nn.Module):
    """[B, H, W, C] -> [B, H, W, n_outputs], no activation at the end.

    Encoder stage i: `convolutions[i]` times conv 3x3, BatchNorm, ReLU with `features[i]` channels, then pooling.
    Decoder: the mirror image after unpooling, the last convolution of a stage going to the channels of the stage
    before; the very last one has a bias and neither BatchNorm nor ReLU.

    Attributes:
      features: channels of the stages.
      convolutions: convolutions of each stage.
      n_outputs: channels of the result.
      use_bias: biases before BatchNorm, which removes them again: the released networks have them.
      form: of the convolutions, see nn.convolution.
      dtype: compute type.
    """

    features: tuple[int, ...] = FEATURES
    convolutions: tuple[int, ...] = CONVOLUTIONS
    n_outputs: int = 1
    use_bias: bool = False
    form: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, n_outputs]; H and W multiples of 2^stages.

        Raises:
          ValueError: other sides.
        """
        unit = 2 ** len(self.features)
        if x.shape[1] % unit or x.shape[2] % unit:
            raise ValueError(f"sides {x.shape[1]} x {x.shape[2]} are no multiples of {unit}")
        indices = []
        for stage, (features, count) in enumerate(zip(self.features, self.convolutions, strict=True), start=1):
            for i in range(1, count + 1):
                x = self._layer(x, features, f"{stage}{i}", train)
            x, index = max_pool_indices(x)
            indices.append(index)
        for stage in range(len(self.features), 0, -1):
            x = max_unpool(x, indices[stage - 1])
            for i in range(self.convolutions[stage - 1], 0, -1):
                features = self.features[stage - 1] if i > 1 else self.features[max(stage - 2, 0)]
                if (stage, i) != (1, 1):
                    x = self._layer(x, features, f"{stage}{i}d", train)
        last = Conv3x3(self.n_outputs, use_bias=True, form=self.form, dtype=self.dtype, name="conv11d")
        return jnp.asarray(last(x))

    def _layer(self, x: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        x = Conv3x3(features, use_bias=self.use_bias, form=self.form, dtype=self.dtype, name=f"conv{name}")(x)
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"bn{name}")
        return nn.relu(norm(x))
