"""Latents of frames that are standardised per channel: block DCT, a frozen autoencoder, or the pixels themselves.

What is fitted to data before training (mean, standard deviation, the autoencoder's weights) is kept in the variable
collection "constants": it takes no gradient and travels with the checkpoint.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.nn.autoencoder import ConvAutoencoder

LATENTS = ("dct", "ae", "pixel")
BLOCK = 8  # pixels on a side of a DCT block; also the autoencoder's reduction
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# INFERRED: the lowest AC terms by |frequency|, a set that flips and transposition map to itself
# (JPEG's zig-zag order would take (2, 0) before (1, 1)).
DCT_TERMS = ((0, 0), (0, 1), (1, 0), (1, 1))


def dct_basis() -> np.ndarray:
    """Orthonormal 8x8 DCT-II basis images of DCT_TERMS, float32 [4, 8, 8] (row, column)."""
    n = np.arange(BLOCK)
    wave = [np.full(BLOCK, np.sqrt(1 / BLOCK)), np.sqrt(2 / BLOCK) * np.cos((2 * n + 1) * np.pi / (2 * BLOCK))]
    return np.stack([np.outer(wave[u], wave[v]) for u, v in DCT_TERMS]).astype(np.float32)


def luma(frames: jax.Array) -> jax.Array:
    """RGB [..., 3] or grey [..., 1] -> luma [...]."""
    if frames.shape[-1] == 1:
        return frames[..., 0]
    return frames @ jnp.asarray(LUMA, frames.dtype)


def dct_encode(frames: jax.Array) -> jax.Array:
    """Frames [B, H, W, C] -> the four lowest DCT terms of each 8x8 block of luma, [B, H/8, W/8, 4]."""
    batch, height, width = frames.shape[:3]
    blocks = luma(frames).reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return jnp.einsum("bhiwj,cij->bhwc", blocks, dct_basis())


def dct_decode(latents: jax.Array) -> jax.Array:
    """The luma image [B, 8h, 8w, 1] that has the DCT terms [B, h, w, 4] and no others."""
    batch, height, width, _ = latents.shape
    image = jnp.einsum("bhwc,cij->bhiwj", latents, dct_basis())
    return image.reshape(batch, height * BLOCK, width * BLOCK, 1)


def patchify(latents: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Latents [B, h*p, w*q, C] -> tokens [B, h, w, p*q*C] on the grid (h, w); raises where it does not divide."""
    batch, height, width, channels = latents.shape
    h, w = grid
    if height % h or width % w:
        raise ValueError(f"a latent of {height} x {width} has no whole patches on a grid of {h} x {w}")
    tokens = latents.reshape(batch, h, height // h, w, width // w, channels)
    return tokens.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, -1)


def unpatchify(tokens: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `patchify`: tokens [B, h, w, p*q*C] -> latents of `shape` [B, h*p, w*q, C]."""
    batch, height, width, channels = shape
    h, w = tokens.shape[1:3]
    latents = tokens.reshape(batch, h, w, height // h, width // w, channels)
    return latents.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


class Latent(nn.Module):
    """Frames [B, H, W, C] in 0..1 -> standardised latents, float32.

    dct: [B, H/8, W/8, 4], the lowest DCT terms of luma; ae: [B, H/8, W/8, 4], a frozen ConvAutoencoder;
    pixel: [B, H, W, C], the frames (for ablation).

    Attributes:
      kind: one of LATENTS.
      channels: channels C of the frames.
      features: channels of the autoencoder.
    """

    kind: str = "dct"
    channels: int = 3
    features: tuple[int, int, int] = (32, 64, 64)

    def setup(self) -> None:
        """Declares the constants; raises ValueError for an unknown kind."""
        if self.kind not in LATENTS:
            raise ValueError(f"a latent is one of {LATENTS}, got {self.kind!r}")
        n = self.channels if self.kind == "pixel" else 4
        self.mean = self.variable("constants", "mean", jnp.zeros, (n,))
        self.std = self.variable("constants", "std", jnp.ones, (n,))
        if self.kind == "ae":
            self.autoencoder = self.variable("constants", "autoencoder", self._init_autoencoder)

    def _network(self) -> ConvAutoencoder:
        return ConvAutoencoder(self.features, channels=self.channels, parent=None)

    def _init_autoencoder(self) -> Any:
        frames = jnp.zeros((1, BLOCK, BLOCK, self.channels))
        return self._network().init(self.make_rng("params"), frames)["params"]

    def raw(self, frames: jax.Array) -> jax.Array:
        """Frames -> latents before standardisation: what mean and standard deviation are fitted to."""
        if self.kind == "dct":
            return dct_encode(frames)
        if self.kind == "ae":
            return jnp.asarray(self._network().apply({"params": self.autoencoder.value}, frames, method="encode"))
        return frames

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Frames [B, H, W, C] -> standardised latents; no gradient flows back."""
        return jax.lax.stop_gradient((self.raw(frames) - self.mean.value) / self.std.value)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Standardised latents -> frames [B, H, W, C], or luma [B, H, W, 1] for dct."""
        latents = latents * self.std.value + self.mean.value
        if self.kind == "dct":
            return dct_decode(latents)
        if self.kind == "ae":
            return jnp.asarray(self._network().apply({"params": self.autoencoder.value}, latents, method="decode"))
        return latents
