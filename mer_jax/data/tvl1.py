"""TV-L1 optical flow, batched: the dual method of Zach, Pock and Bischof on an image pyramid.

Sources: Zach, Pock, Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007; Sanchez,
Meinhardt-Llopis, Facciolo, "TV-L1 optical flow estimation", IPOL 3 (2013), whose equations are cited below. Defaults,
names of the settings, the outer iterations with their median filter and the treatment of the image border are those of
OpenCV's `DualTVL1OpticalFlow`, as documented there and seen from outside.

Fields of a batch are solved side by side and independently: a field that has converged stops changing while others go
on. Within the loops there are only shifts and arithmetic on arrays [B, H * W] (convolutions inside loops are slow on
CPU). In flat arrays a shift by one row or one pixel needs no care at the image border: the dual variables vanish in
the last column and row, where the forward gradient is zero.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data.median import WINDOWS, median_filter

_SMALLEST_LEVEL = 16  # pixels; the pyramid ends above it
_CUBIC = -0.75  # slope parameter of the cubic kernel, as in OpenCV's bicubic interpolation
_FLAT = float(np.finfo(np.float32).eps)  # squared gradients below it carry no information


@dataclasses.dataclass(frozen=True)
class TVL1Settings:
    """Settings of TV-L1 flow; names and defaults are OpenCV's (`lambda` is a word of Python's).

    OpenCV's illumination term (`gamma`, 0 by default) and its option to start from a given flow are left out.

    Attributes:
      tau: time step of the dual ascent.
      lambda_: weight of the data term; smaller is smoother.
      theta: tightness of the coupling between the two parts of the split energy.
      nscales: most levels of the pyramid; levels with a side under 16 pixels are left out.
      warps: linearisations per level.
      epsilon: a field has converged when the root mean square of its last update (pixels) is at most this.
      inner_iterations: iterations between two median filters.
      outer_iterations: median filters per warp.
      scale_step: factor between a level and the next coarser one.
      median_filtering: side of the median filter's window, 3 or 5; 1 for none.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    nscales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    scale_step: float = 0.8
    median_filtering: int = 5

    def __post_init__(self) -> None:
        for name in ("tau", "lambda_", "theta", "nscales", "warps", "inner_iterations", "outer_iterations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TV-L1 setting {name}: found {getattr(self, name)}, expected a positive number")
        if not self.epsilon >= 0:
            raise ValueError(f"TV-L1 setting epsilon: found {self.epsilon}, expected 0 or more")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"TV-L1 setting scale_step: found {self.scale_step}, expected a number between 0 and 1")
        if self.median_filtering not in (1, *WINDOWS):
            raise ValueError(f"TV-L1 setting median_filtering: found {self.median_filtering}, expected 1, 3 or 5")


DEFAULTS = TVL1Settings()


def pyramid_sizes(height: int, width: int, settings: TVL1Settings) -> list[tuple[int, int]]:
    """Sizes (height, width) of the levels, finest first."""
    sizes = [(height, width)]
    while len(sizes) < settings.nscales:
        finer = sizes[-1]
        coarser = (round(finer[0] * settings.scale_step), round(finer[1] * settings.scale_step))
        if min(coarser) < _SMALLEST_LEVEL:
            break
        sizes.append(coarser)
    return sizes


def _interpolation_matrix(size: int, new_size: int, step: float) -> np.ndarray:
    """Linear interpolation of `size` samples at (i + 1/2) * step - 1/2, clamped to the signal: [new_size, size]."""
    position = np.clip((np.arange(new_size) + 0.5) * step - 0.5, 0, size - 1)
    left = np.minimum(position.astype(int), max(size - 2, 0))
    matrix = np.zeros((new_size, size), np.float32)
    matrix[np.arange(new_size), left] = 1 - (position - left)
    if size > 1:
        matrix[np.arange(new_size), left + 1] = position - left
    return matrix


def _resize(x: jax.Array, size: tuple[int, int], step: tuple[float, float]) -> jax.Array:
    """Bilinear interpolation of [B, H, W] to `size` on a grid with the given steps (source pixels, down and across)."""
    down = _interpolation_matrix(x.shape[1], size[0], step[0])
    across = _interpolation_matrix(x.shape[2], size[1], step[1])
    return jnp.einsum("ih,bhw,jw->bij", down, x, across, precision=jax.lax.Precision.HIGHEST)


def _centred_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Central differences of [B, H, W] across and down; the border repeats its outermost pixel."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return across, down


def _cubic_weights(t: jax.Array) -> list[jax.Array]:
    """Weights of the samples at -1, 0, 1, 2 for a position t in [0, 1): Keys' kernel with slope `_CUBIC`."""

    def far(d: jax.Array) -> jax.Array:
        return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

    def near(d: jax.Array) -> jax.Array:
        return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _warp(planes: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """Bicubic samples of planes [B, H, W, C] at (x + u, y + v), u and v [B, H, W]; outside the image is 0."""
    _, height, width, channels = planes.shape
    border = 4  # the four taps of a position far outside lie within it
    padded = jnp.pad(planes, ((0, 0), (border, border), (border, border), (0, 0)))
    row_length = width + 2 * border
    x = jnp.arange(width, dtype=u.dtype) + u
    y = jnp.arange(height, dtype=v.dtype)[:, None] + v
    left, top = jnp.floor(x), jnp.floor(y)
    weights_x, weights_y = _cubic_weights(x - left), _cubic_weights(y - top)
    column = jnp.clip(left, -3, width + 1).astype(jnp.int32) + (border - 1)
    row = jnp.clip(top, -3, height + 1).astype(jnp.int32) + (border - 1)
    start = row * row_length + column
    flat = padded.reshape(padded.shape[0], -1, channels)

    def taps(image: jax.Array, first: jax.Array) -> jax.Array:
        dimensions = jax.lax.GatherDimensionNumbers(
            offset_dims=(2, 3), collapsed_slice_dims=(), start_index_map=(0,)
        )  # [H, W] -> four neighbours in a row with all their channels, [H, W, 4, C]
        return jax.lax.gather(
            image, first[..., None], dimensions, (4, channels), mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
        )

    warped = jnp.zeros((*u.shape, channels), planes.dtype)
    for i in range(4):
        values = jax.vmap(taps)(flat, start + i * row_length)
        line = sum(weights_x[j][..., None] * values[..., j, :] for j in range(4))
        warped = warped + weights_y[i][..., None] * line
    return warped


def _shift(x: jax.Array, by: int) -> jax.Array:
    """Flat [B, N] moved by `by` places towards the end (negative: the start), zeros moving in."""
    if by > 0:
        return jnp.pad(x[:, :-by], ((0, 0), (by, 0)))
    return jnp.pad(x[:, -by:], ((0, 0), (0, -by)))


_Fields = tuple[jax.Array, ...]  # u, v and their dual variables p11, p12, p21, p22: [B, H * W] each
_State = tuple[jax.Array, jax.Array, _Fields]  # iterations done, squared size [B] of the last update, fields


def _solve_level(first: jax.Array, second: jax.Array, flow: tuple[jax.Array, jax.Array], s: TVL1Settings) -> _Fields:
    """All warps of one level: images [B, H, W], flow two planes [B, H, W]; returns the planes [B, H * W]."""
    batch, height, width = first.shape
    n = height * width
    limit = s.lambda_ * s.theta
    ratio = s.tau / s.theta
    converged = s.epsilon**2 * n
    index = np.arange(n)
    inside_x = jnp.asarray((index % width < width - 1).astype(np.float32))
    inside_y = jnp.asarray((index // width < height - 1).astype(np.float32))
    planes = jnp.stack([second, *_centred_gradient(second)], axis=-1)
    target = first.reshape(batch, n)
    none = jnp.zeros((), jnp.int32)

    def divergence(px: jax.Array, py: jax.Array) -> jax.Array:
        return px - _shift(px, 1) + py - _shift(py, width)

    def dual(u: jax.Array, px: jax.Array, py: jax.Array, active: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One projected ascent step of the dual variable of one component (IPOL eq. 15)."""
        across = (_shift(u, -1) - u) * inside_x
        down = (_shift(u, -width) - u) * inside_y
        scale = 1 / (1 + ratio * jnp.sqrt(across * across + down * down))
        new_x, new_y = (px + ratio * across) * scale, (py + ratio * down) * scale
        return jnp.where(active, new_x, px), jnp.where(active, new_y, py)

    def warp(_i: int, fields: _Fields) -> _Fields:
        u0, v0 = fields[0], fields[1]
        shape = (batch, height, width)
        warped = _warp(planes, u0.reshape(shape), v0.reshape(shape)).reshape(batch, n, 3)
        gx, gy = warped[..., 1], warped[..., 2]
        constant = warped[..., 0] - gx * u0 - gy * v0 - target
        # Where the squared gradient is below _FLAT the step is bounded by `limit * gradient` and as good as zero.
        inverse = 1 / jnp.maximum(gx * gx + gy * gy, _FLAT)

        def inner(state: _State) -> _State:
            i, error, (u, v, p11, p12, p21, p22) = state
            active = (error > converged)[:, None]
            # The thresholding step (IPOL eq. 13): its three cases are one clipped quotient.
            step = jnp.clip(-(constant + gx * u + gy * v) * inverse, -limit, limit)
            new_u = jnp.where(active, u + step * gx + s.theta * divergence(p11, p12), u)
            new_v = jnp.where(active, v + step * gy + s.theta * divergence(p21, p22), v)
            error = jnp.sum((new_u - u) ** 2 + (new_v - v) ** 2, axis=1)
            return i + 1, error, (new_u, new_v, *dual(new_u, p11, p12, active), *dual(new_v, p21, p22, active))

        def outer(state: _State) -> _State:
            i, error, (u, v, *p) = state
            if s.median_filtering > 1:
                active = (error > converged)[:, None]
                u, v = (
                    jnp.where(active, median_filter(c.reshape(shape), s.median_filtering).reshape(batch, n), c)
                    for c in (u, v)
                )
            _, error, fields = jax.lax.while_loop(
                lambda t: (t[0] < s.inner_iterations) & jnp.any(t[1] > converged),
                inner,
                (none, error, (u, v, *p)),
            )
            return i + 1, error, fields

        _, _, fields = jax.lax.while_loop(
            lambda t: (t[0] < s.outer_iterations) & jnp.any(t[1] > converged),
            outer,
            (none, jnp.full(batch, jnp.inf, jnp.float32), fields),
        )
        return fields

    zero = jnp.zeros((batch, n), jnp.float32)
    start = (flow[0].reshape(batch, n), flow[1].reshape(batch, n), zero, zero, zero, zero)
    return jax.lax.fori_loop(0, s.warps, warp, start)


@functools.partial(jax.jit, static_argnames="settings")
def tvl1_flow(previous: jax.Array, next: jax.Array, settings: TVL1Settings = DEFAULTS) -> jax.Array:
    """Dense motion from `previous` to `next`: previous(x, y) is found at next(x + u, y + v).

    Args:
      previous: [B, H, W] grey levels on the scale 0..255, uint8 or float.
      next: [B, H, W] likewise.
      settings: see TVL1Settings.

    Returns:
      float32 [B, H, W, 2] in pixels: u to the right, v down.

    Raises:
      ValueError: the images are not two batches of one shape.
    """
    if previous.ndim != 3 or previous.shape != next.shape:
        raise ValueError(f"TV-L1 images: found shapes {previous.shape} and {next.shape}, expected two equal [B, H, W]")
    first, second = (x.astype(jnp.float32) for x in (previous, next))
    batch, height, width = first.shape
    sizes = pyramid_sizes(height, width, settings)
    step = 1 / settings.scale_step
    levels = [(first, second)]
    for size in sizes[1:]:
        first, second = levels[-1]
        levels.append((_resize(first, size, (step, step)), _resize(second, size, (step, step))))
    u = v = jnp.zeros((batch, *sizes[-1]), jnp.float32)
    for k in reversed(range(len(sizes))):
        u, v = (c.reshape(batch, *sizes[k]) for c in _solve_level(*levels[k], (u, v), settings)[:2])
        if k:
            coarse, fine = sizes[k], sizes[k - 1]
            steps = (coarse[0] / fine[0], coarse[1] / fine[1])
            u, v = (_resize(c, fine, steps) / settings.scale_step for c in (u, v))
    return jnp.stack([u, v], axis=-1)
