"""Optical flow by a network: correlation volume and a decoder after FlowNetC (Dosovitskiy et al., ICCV 2015).

The variant is that of MOL's released code: grey frames, features of the recognition trunk beside the correlation
volume, and a decoder that goes on to the full size of the frames.
"""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.nn.convolution import conv3x3
from mer_jax.nn.f5c import batch_norm
from mer_jax.nn.patches import Conv, UpConv, blocks_kernel, convolve, from_blocks, to_blocks

SLOPE = 0.1  # of LeakyReLU
BASES = ("pair", "difference")
ENCODER = {1: 64, 2: 128, 3: 256}  # channels of a frame's own levels, at 1/2, 1/4, 1/8 of its size
REDIRECTED, JOINT = 32, 256
DEEP = {4: 512, 5: 512, 6: 1024}
DECODER = {5: 512, 4: 256, 3: 128, 2: 128, 1: 64, 0: 32}
# He et al. 2015, for LeakyReLU
he_normal = nn.initializers.variance_scaling(2 / (1 + SLOPE**2), "fan_in", "normal")


def reached(size: int, search: int, dilation: int) -> int:
    """Largest displacement in steps of `dilation`, of at most `search` cells, that stays on a map of `size` cells."""
    return min(search // dilation, (size - 1) // dilation)


def _relative(product: jax.Array) -> jax.Array:
    """[..., L, L] -> [..., L, 2 L - 1]: r[i, d] = m[i, i + d - (L - 1)], 0 where that is outside; pads and reshapes."""
    length = product.shape[-1]
    none = ((0, 0),) * (product.ndim - 2)
    wide = jnp.pad(product, (*none, (0, 0), (length - 1, length - 1)))
    flat = wide.reshape(*product.shape[:-2], -1)
    shifted = jnp.pad(flat, (*none, (0, length))).reshape(*product.shape[:-2], length, -1)
    return shifted[..., : 2 * length - 1]


def correlation(first: jax.Array, second: jax.Array, search: int = 20, dilation: int = 2) -> jax.Array:
    """Correlation volume: c[y, x, i, j] = mean over channels of first[y, x] * second[y + d_i, x + d_j].

    Displacements are multiples of `dilation` cells up to `search` either way; outside the map is 0. Only those that
    can stay on the map are computed: the others, which are 0 everywhere, are the border of the full volume
    (see `reached`). Cells that are a multiple of `dilation` apart are multiplied as matrices, without any loop.

    Args:
      first: [N, H, W, C].
      second: [N, H, W, C].
      search: largest displacement in cells.
      dilation: step between displacements in cells.

    Returns:
      [N, H, W, 2 r_y + 1, 2 r_x + 1] with r from `reached`; rows are vertical displacements, upwards first.
    """
    n, height, width, channels = first.shape
    h, w = -(-height // dilation), -(-width // dilation)
    extra = ((0, 0), (0, h * dilation - height), (0, w * dilation - width), (0, 0))
    a, b = (jnp.pad(x, extra).reshape(n, h, dilation, w, dilation, channels) for x in (first, second))
    product = jnp.einsum("nypxqc,nupvqc->npqyuxv", a, b) / channels
    across = _relative(product).transpose(0, 1, 2, 5, 6, 3, 4)  # [n, p, q, x, dx, y, u]
    both = _relative(across)  # [n, p, q, x, dx, y, dy]
    ry, rx = reached(height, search, dilation), reached(width, search, dilation)
    both = both[:, :, :, :, w - 1 - rx : w + rx, :, h - 1 - ry : h + ry]
    volume = both.transpose(0, 5, 1, 3, 2, 6, 4).reshape(n, h * dilation, w * dilation, 2 * ry + 1, 2 * rx + 1)
    return volume[:, :height, :width]


class JointConv(nn.Module):
    """3x3 convolution of [redirected | correlation volume | trunk], whose kernel has rows for the whole volume.

    The part of the volume that is 0 everywhere is left out of the sums, not of the kernel, so that weights fit whatever
    the size of the frames.

    Attributes:
      features: output channels.
      steps: displacements in the whole volume, along each axis.
      dtype: compute type.
    """

    features: int
    steps: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, redirected: jax.Array, volume: jax.Array, trunk: jax.Array) -> jax.Array:
        """[N, H, W, R], [N, H, W, dy, dx], [N, H, W, T] -> [N, H, W, features]."""
        before, after = redirected.shape[-1], trunk.shape[-1]
        n, height, width, dy, dx = volume.shape
        shape = (3, 3, before + self.steps**2 + after, self.features)
        kernel = self.param("kernel", he_normal, shape).astype(self.dtype)
        y, x = (self.steps - dy) // 2, (self.steps - dx) // 2
        middle = kernel[:, :, before : before + self.steps**2].reshape(3, 3, self.steps, self.steps, self.features)
        middle = middle[:, :, y : y + dy, x : x + dx].reshape(3, 3, dy * dx, self.features)
        used = jnp.concatenate([kernel[:, :, :before], middle, kernel[:, :, before + self.steps**2 :]], axis=2)
        joint = jnp.concatenate([redirected, volume.reshape(n, height, width, dy * dx), trunk], axis=-1)
        return conv3x3(joint.astype(self.dtype), used)


class FlowNet(nn.Module):
    """Flow of pairs of neighbouring frames.

    Where all pairs of a sequence are wanted, every frame is encoded once, although it stands in two of them. In
    training, BatchNorm pools all frames (or pairs) of the batch; the released code calls the network once a pair and
    normalises each call by itself.

    Attributes:
      width: factor on all channels but those of the correlation volume and of the flow.
      depth: levels below 1/8 of the size, 1 to 3.
      search: largest displacement of the correlation volume, in cells of 1/8 of the size.
      dilation: step between its displacements.
      basis: `pair`: the trunk's features of both frames side by side. `difference`: the first frame's and the change
        to the second, each standardised over the batch: the same numbers in another basis, in which a movement of a
        part of a pixel is not buried under what both frames share. Neither in the paper nor in its code, which train
        a larger network for longer.
      zero: whether the last kernel starts at 0, so that the first estimate is no flow (else He's draw, as released).
      dtype: compute type.
    """

    width: float = 1.0
    depth: int = 3
    search: int = 20
    dilation: int = 2
    basis: str = "pair"
    zero: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, trunk: jax.Array, train: bool, pairs: jax.Array | None = None) -> jax.Array:
        """Flow of frame pairs of sequences.

        Args:
          frames: normalised, [B, T, H, W, 1], H and W multiples of 8.
          trunk: features of the pairs [B, P, H/8, W/8, C].
          train: whether BatchNorm uses the batch.
          pairs: int [B, P], the first frames of the pairs; None for all T - 1 pairs in order.

        Returns:
          [B, P, H, W, 2] in pixels.
        """
        batch, count = trunk.shape[:2]
        frames = frames.astype(self.dtype)
        if pairs is not None:  # two frames a pair, without looking for those that are in two
            both = jnp.stack([pairs, pairs + 1], axis=-1).reshape(batch, -1, 1, 1, 1)
            frames = jnp.take_along_axis(frames, both, axis=1)

        def conv(x: jax.Array, name: str, channels: int, kernel: int, stride: int) -> jax.Array:
            padding = (kernel - 1) // 2
            y = Conv(channels, kernel, stride, padding, kernel_init=he_normal, dtype=self.dtype, name=name)(x)
            return normed(y, name)

        def normed(y: jax.Array, name: str) -> jax.Array:
            return nn.leaky_relu(batch_norm(f"{name}_norm", self.dtype)(y, train), SLOPE)

        def of_pairs(x: jax.Array, second: int) -> jax.Array:
            """Of [B T, ...] the first (0) or second (1) frames of the pairs, [B P, ...]."""
            x = x.reshape(batch, -1, *x.shape[1:])
            step = 1 if pairs is None else 2
            x = x[:, second : second + step * (count - 1) + 1 : step]
            return x.reshape(-1, *x.shape[2:])

        levels = [frames.reshape(-1, *frames.shape[2:])]
        for number, kernel in ((1, 6), (2, 4), (3, 2)):
            levels.append(conv(levels[-1], f"conv{number}", self.scaled(ENCODER[number]), kernel, 2))
        first = [of_pairs(x, 0) for x in levels]
        redirected = conv(first[3], "conv_redir", self.scaled(REDIRECTED), 1, 1)
        volume = nn.leaky_relu(correlation(first[3], of_pairs(levels[3], 1), self.search, self.dilation), SLOPE)
        steps = 2 * (self.search // self.dilation) + 1
        joint = JointConv(self.scaled(JOINT), steps, self.dtype, name="conv3_1")
        features = trunk.reshape(-1, *trunk.shape[2:]).astype(self.dtype)
        if self.basis == "difference":
            a, b = jnp.split(features, 2, axis=-1)
            a, b = (batch_norm(f"{name}_norm", self.dtype)(x, train) for name, x in (("trunk", a), ("change", b - a)))
            features = jnp.concatenate([a, b], axis=-1)
        skips = [*first[:3], normed(joint(redirected, volume, features), "conv3_1")]
        for number in range(4, 4 + self.depth):
            deeper = conv(skips[-1], f"conv{number}", self.scaled(DEEP[number]), 3, 2)
            skips.append(conv(deeper, f"conv{number}_1", self.scaled(DEEP[number]), 3, 1))
        return self._decode(skips).reshape(batch, count, *frames.shape[2:4], 2)

    def _decode(self, skips: list[jax.Array]) -> jax.Array:
        """From the deepest level up: each level sees its skip, what comes from below, and the flow found there.

        The last level, at full size and with few channels, is computed on blocks of 2x2 pixels.
        """
        x = skips[-1]
        for number in range(len(skips) - 2, -1, -1):
            skip, last = skips[number], number == 0
            kernel = self._predictor(number + 1, x.shape[-1])
            flow = convolve(x, kernel, padding=1)
            up = UpConv(self.scaled(DECODER[number]), he_normal, last, self.dtype, name=f"deconv{number}")(x)
            finer = UpConv(2, he_normal, last, self.dtype, name=f"up{number + 1}")(flow)
            if last:
                parts = [to_blocks(skip), nn.leaky_relu(up, SLOPE), finer]
                kernel = self._predictor(0, sum(part.shape[-1] for part in parts) // 4)
                ends = [0, skip.shape[-1], skip.shape[-1] + self.scaled(DECODER[0]), kernel.shape[2]]
                kernels = [blocks_kernel(kernel[:, :, i:j]) for i, j in itertools.pairwise(ends)]
                flow = convolve(jnp.concatenate(parts, axis=-1), jnp.concatenate(kernels, axis=2), padding=1)
                return from_blocks(flow).astype(jnp.float32)
            high, wide = skip.shape[1:3]  # odd sizes come back one pixel larger
            parts = [skip, nn.leaky_relu(up, SLOPE)[:, :high, :wide], finer[:, :high, :wide]]
            x = jnp.concatenate(parts, axis=-1)
        raise AssertionError("level 0 is the last one")

    def _predictor(self, number: int, channels: int) -> jax.Array:
        """The 3x3 kernel from the channels of a level to its flow."""
        init = nn.initializers.zeros if self.zero and number == 0 else he_normal
        return _Kernel((3, 3, channels, 2), init, name=f"predict{number}")().astype(self.dtype)

    def scaled(self, channels: int) -> int:
        """`channels` times the width, at least 4."""
        return max(4, round(channels * self.width))


class _Kernel(nn.Module):
    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        kernel: jax.Array = self.param("kernel", self.kernel_init, self.shape)
        return kernel
