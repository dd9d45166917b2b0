"""A first layer in one piece: 3x3 convolution, ReLU, BatchNorm and 3x3 max-pooling of small images, as matmuls.

A network that is little more than such a layer is dominated by passes over its largest array, not by its sums. Here
that array never exists: the batch goes through in blocks of examples that fit a cache, the sums that BatchNorm needs
and the maxima that pooling keeps are collected on the way, and the backward pass computes each block again (the input
is data: only the parameters have gradients). There is no convolution in it, so on CPU it is as fast inside a loop as
outside, and examples are the innermost axis, so that every slice copies whole lines.

Along one axis the convolution (padding 2) of an image of 3n - 2 pixels has the positions 0 .. 3n - 1; window i of the
pooling (stride 3, padding 1) holds 3i - 1 .. 3i + 1. A *tap* is one place of all windows: tap 0 the positions 3i - 1,
of which the first, -1, is padding. Position 3n - 1 is in no window; it counts for BatchNorm only.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 3  # of the kernel, and of a window
LANES = 16  # examples in a block on CPU, whose arrays then stay in a cache
_TAPS = tuple((i, j) for i in range(SIDE) for j in range(SIDE))


def pooled_size(size: int) -> int:
    """Windows n along one axis of an image of `size` = 3n - 2 pixels.

    Raises:
      ValueError: another size.
    """
    if size < 1 or size % SIDE != 1:
        raise ValueError(f"images of {size} pixels: expected 1 more than a multiple of {SIDE}, such as 28")
    return (size + 2) // SIDE


def lanes_of(batch: int) -> int:
    """Examples in a block: the largest divisor of the batch up to LANES on CPU, all of them elsewhere.

    All of them, too, where the batch is symbolic (jax.export).
    """
    if jax.default_backend() != "cpu" or not isinstance(batch, int):
        return batch
    return max(b for b in range(1, min(batch, LANES) + 1) if batch % b == 0)


def conv_norm_pool(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    statistics: tuple[jax.Array, jax.Array] | None = None,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """max_pool(scale (relu(conv(x) + bias) - mean) / sqrt(variance + epsilon) + shift).

    The convolution is 3x3 with padding 2, the pooling 3x3 with stride 3 and padding 1. Where several places of a window
    are largest, the first one takes the gradient.

    Args:
      x: [B, S, S, C], S = 3n - 2. No gradient reaches it.
      kernel: [3, 3, C, F].
      bias: [F].
      scale: [F].
      shift: [F].
      statistics: (mean, variance) [F] each; None takes those of the batch (over all positions, not corrected).
      epsilon: of BatchNorm.

    Returns:
      the pooled maps [B / b, F, n, n, b], examples in blocks of b = `lanes_of(B)`; and the mean and variance [F] that
      were used, without gradient.

    Raises:
      ValueError: images of another shape.
    """
    if x.ndim != 4 or x.shape[1] != x.shape[2]:
        raise ValueError(f"expected square images [B, S, S, C], found shape {x.shape}")
    grid = _Grid(pooled_size(x.shape[1]), lanes_of(x.shape[0]), x.shape[3])
    blocks = grid.blocks(jax.lax.stop_gradient(x.astype(jnp.float32)))
    weight = kernel.reshape(-1, kernel.shape[-1]).T
    if statistics is None:
        pooled, mean, variance = _by_batch(blocks, weight, bias, scale, shift, grid, epsilon)
    else:
        mean, variance = statistics

        def one(_: None, block: jax.Array) -> tuple[None, jax.Array]:
            return None, _largest(_maps(grid.patches(block), weight, bias, grid), scale, grid)[0]

        _, largest = jax.lax.scan(one, None, blocks)
        pooled, _ = _normalise(largest, scale, shift, mean, jax.lax.rsqrt(variance + epsilon))
    pooled = pooled.reshape(len(blocks), -1, grid.n, grid.n, grid.lanes)
    return pooled, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(variance)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Sets a share of all elements to 0 and scales the others by 1 / (1 - rate), with a byte of randomness each.

    Random numbers of 32 bits an element would take as long as a third of the layer above.

    Args:
      x: float array.
      rate: share, a multiple of 1/256 below 1 (another one is rounded to it).
      key: random key.
    """
    dropped = round(256 * rate)
    if not 0 <= dropped < 256:
        raise ValueError(f"a dropout rate of {rate} is not in 0 <= rate < 1")
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    noise = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(noise >= dropped, x * np.float32(256 / (256 - dropped)), 0.0)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Where things are in a block of `lanes` images with `n` windows a side and `channels`."""

    n: int
    lanes: int
    channels: int

    @property
    def positions(self) -> int:
        """Positions of the convolution in a block."""
        return (SIDE * self.n) ** 2 * self.lanes

    def blocks(self, x: jax.Array) -> jax.Array:
        """[B, S, S, C] -> [B / b, S + 5, S + 5, C, b]: images last, zero padding around them."""
        batch, size = x.shape[:2]
        lines = jax.lax.optimization_barrier(x.reshape(batch // self.lanes, self.lanes, -1).swapaxes(1, 2))
        x = lines.reshape(-1, size, size, self.channels, self.lanes)
        return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (3, 2), (3, 2), (0, 0), (0, 0))))

    def patches(self, block: jax.Array) -> list[jax.Array]:
        """A block [S + 5, S + 5, C, b] -> what the kernel sees [9C, n n b] at each tap, then at positions of none."""
        places = [(y, x, c) for y in range(SIDE) for x in range(SIDE) for c in range(self.channels)]
        span, last = SIDE * (self.n - 1) + 1, SIDE * self.n  # position p reads rows p + 1 .. p + 3 of the block

        def tap(i: int, j: int) -> jax.Array:
            slices = [block[i + y : i + y + span : SIDE, j + x : j + x + span : SIDE, c] for y, x, c in places]
            return jnp.stack(slices).reshape(len(places), -1)

        def rest(y: int, x: int, c: int) -> jax.Array:
            row, column = block[last + y, x + 1 : x + 1 + last, c], block[y + 1 : y + last, last + x, c]
            return jnp.concatenate([row, column])

        outside = jnp.stack([rest(*place) for place in places]).reshape(len(places), -1)
        found: list[jax.Array] = jax.lax.optimization_barrier([*(tap(i, j) for i, j in _TAPS), outside])
        return found

    def exists(self, tap: int) -> np.ndarray | jax.Array | None:
        """Which positions [n n b] of a tap are not padding; None for all (and for the positions of no tap)."""
        i, j = _TAPS[tap] if tap < len(_TAPS) else (1, 1)
        if i and j:
            return None
        mask = np.ones((self.n, self.n, 1), bool)
        mask[0] &= i > 0
        mask[:, 0] &= j > 0
        spread = np.broadcast_to if isinstance(self.lanes, int) else jnp.broadcast_to  # numpy knows no symbols
        return spread(mask, (self.n, self.n, self.lanes)).reshape(-1)


def _maps(patches: list[jax.Array], weight: jax.Array, bias: jax.Array, grid: _Grid) -> list[jax.Array]:
    """relu(conv + bias) [F, n n b] at each tap, and at the positions of none; 0 in the padding."""
    maps = [jax.nn.relu(weight @ p + bias[:, None]) for p in patches]
    masks = [grid.exists(tap) for tap in range(len(maps))]
    maps = [y if mask is None else y * mask.astype(np.float32) for y, mask in zip(maps, masks, strict=True)]
    kept: list[jax.Array] = jax.lax.optimization_barrier(maps)
    return kept


def _largest(maps: list[jax.Array], scale: jax.Array, grid: _Grid) -> tuple[jax.Array, jax.Array]:
    """The value [F, n n b] of each window that is largest after BatchNorm, and its tap.

    BatchNorm is monotonic: that is the largest value, or the smallest where `scale` is negative.
    """
    sign = jnp.where(scale < 0, -1.0, 1.0)[:, None]
    best, where = jnp.full(maps[0].shape, -jnp.inf), jnp.zeros(maps[0].shape, jnp.int32)
    for tap in range(len(_TAPS)):
        candidate, mask = sign * maps[tap], grid.exists(tap)
        if mask is not None:
            candidate = jnp.where(mask, candidate, -jnp.inf)
        larger = candidate > best
        best, where = jnp.where(larger, candidate, best), jnp.where(larger, tap, where)
    return sign * best, where


def _normalise(
    x: jax.Array, scale: jax.Array, shift: jax.Array, mean: jax.Array, factor: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[N, F, K] -> scale (x - mean) factor + shift, and (x - mean) factor."""
    standard = (x - mean[:, None]) * factor[:, None]
    return standard * scale[:, None] + shift[:, None], standard


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _by_batch(
    blocks: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    grid: _Grid,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pooled maps [B / b, F, n n b], mean and variance [F] of the batch."""
    return _forward(blocks, weight, bias, scale, shift, grid, epsilon)[0]


def _forward(
    blocks: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    grid: _Grid,
    epsilon: float,
) -> tuple[Any, Any]:
    def one(sums: tuple[jax.Array, jax.Array], block: jax.Array) -> Any:
        maps = _maps(grid.patches(block), weight, bias, grid)
        total, squares = sums[0] + sum(y.sum(1) for y in maps), sums[1] + sum((y * y).sum(1) for y in maps)
        return (total, squares), _largest(maps, scale, grid)

    nothing = jnp.zeros_like(bias)
    (total, squares), (largest, where) = jax.lax.scan(one, (nothing, nothing), blocks)
    count = grid.positions * len(blocks)
    mean = total / count
    variance = jnp.maximum(squares / count - mean**2, 0.0)
    factor = jax.lax.rsqrt(variance + epsilon)
    pooled, standard = _normalise(largest, scale, shift, mean, factor)
    return (pooled, mean, variance), (blocks, weight, bias, scale, mean, factor, standard, where)


def _backward(grid: _Grid, epsilon: float, residuals: Any, cotangents: Any) -> tuple[jax.Array | None, ...]:
    """With y the rectified maps, z = (y - mean) factor, o = scale z + shift, and d the gradient of a quantity:

    d shift = sum of do and d scale = sum of do z, both over pooled places only, where do is not 0; at all N positions
    dy = scale factor (do - d shift / N - z d scale / N) = scale factor do + constant + slope y.
    """
    blocks, weight, bias, scale, mean, factor, standard, where = residuals
    d_pooled = cotangents[0]
    d_shift, d_scale = d_pooled.sum((0, 2)), (d_pooled * standard).sum((0, 2))
    count = grid.positions * len(blocks)
    gain = scale * factor
    slope = -gain * factor * d_scale / count
    constant = -gain * d_shift / count - slope * mean
    sparse = gain[:, None] * d_pooled
    sparse, slope, constant = jax.lax.optimization_barrier((sparse, slope[:, None], constant[:, None]))

    def one(sums: tuple[jax.Array, jax.Array], inputs: Any) -> Any:
        block, d_window, tap_of = inputs
        patches = grid.patches(block)
        maps = _maps(patches, weight, bias, grid)

        def d_map(tap: int, y: jax.Array) -> jax.Array:
            dense = constant + slope * y
            return jnp.where(y > 0, dense + jnp.where(tap_of == tap, d_window, 0.0) if tap < len(_TAPS) else dense, 0.0)

        d_maps = jax.lax.optimization_barrier([d_map(tap, y) for tap, y in enumerate(maps)])
        # patches first: a third faster than the transposed product
        d_weight = sums[0] + sum(p @ d.T for p, d in zip(patches, d_maps, strict=True))
        return (d_weight, sums[1] + sum(d.sum(1) for d in d_maps)), None

    start = jnp.zeros(weight.T.shape), jnp.zeros_like(bias)
    (d_weight, d_bias), _ = jax.lax.scan(one, start, (blocks, sparse, where))
    return None, d_weight.T, d_bias, d_scale, d_shift


_by_batch.defvjp(_forward, _backward)
