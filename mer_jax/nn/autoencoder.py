"""A small convolutional image autoencoder: 8 times smaller, 4 channels."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class _Layer(nn.Module):
    """3x3 convolution -> SiLU."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H/stride, W/stride, features]."""
        pad = ((1, 1), (1, 1))
        return nn.silu(nn.Conv(self.features, (3, 3), self.stride, padding=pad, dtype=self.dtype, name="conv")(x))


class ConvAutoencoder(nn.Module):
    """Frames [B, H, W, C] in 0..1 <-> latents [B, H/8, W/8, 4]; H and W multiples of 8.

    Three stride-2 convolutions down; three times nearest-neighbour doubling and a convolution up (no transposed
    convolutions: they leave checkerboards). No normalisation layers: they would remove the brightness of a frame.

    Attributes:
      features: channels at strides 2, 4 and 8.
      latent_channels: channels of the latent.
      channels: channels of the frames.
      dtype: compute type; latents and frames are float32.
    """

    features: tuple[int, int, int] = (32, 64, 64)
    latent_channels: int = 4
    channels: int = 3
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        pad = ((1, 1), (1, 1))
        self.down = [_Layer(f, 2, dtype=self.dtype) for f in self.features]
        self.to_latent = nn.Conv(self.latent_channels, (3, 3), padding=pad, dtype=self.dtype)
        self.from_latent = nn.Conv(self.features[-1], (3, 3), padding=pad, dtype=self.dtype)
        self.up = [_Layer(f, dtype=self.dtype) for f in reversed(self.features)]
        self.to_frame = nn.Conv(self.channels, (3, 3), padding=pad, dtype=self.dtype)

    def encode(self, frames: jax.Array) -> jax.Array:
        """Frames [B, H, W, C] -> latents [B, H/8, W/8, latent_channels]."""
        x = frames - 0.5
        for layer in self.down:
            x = layer(x)
        return self.to_latent(x).astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents [B, h, w, latent_channels] -> frames [B, 8h, 8w, C]."""
        x = self.from_latent(latents)
        for layer in self.up:
            x = layer(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
        return self.to_frame(x).astype(jnp.float32) + 0.5

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Frames -> reconstructed frames, the same shape."""
        return self.decode(self.encode(frames))


def reconstruction_loss(output: jax.Array, target: jax.Array, gradient_weight: float = 0.1) -> jax.Array:
    """L1 plus `gradient_weight` times the L1 of the differences between neighbouring pixels, [B, H, W, C] -> [B]."""
    error = output - target
    l1 = jnp.abs(error).mean(axis=(1, 2, 3))
    rows = jnp.abs(jnp.diff(error, axis=1)).mean(axis=(1, 2, 3))
    columns = jnp.abs(jnp.diff(error, axis=2)).mean(axis=(1, 2, 3))
    return l1 + gradient_weight * (rows + columns)
