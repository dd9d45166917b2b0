"""Which frames of a clip are looked at: extents, positions by time, temporal interpolation, boundary jitter (traced).

Positions count frames of a clip from 0. Everything here takes and returns scalars of one clip; batches by vmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.errors import UserError

Extent = Literal["onset_offset", "onset_apex", "whole"]
Position = TypeVar("Position", jax.Array, np.ndarray)  # traced on the device, or columns of a table on the host


def known_apex(onset: Position, apex: Position, offset: Position) -> Position:
    """The apex, or the middle of onset and offset where it is unknown (-1).

    The result table counts such clips by `apex_source`, so the stand-in never passes for an annotation.
    """
    return apex + (apex < 0) * ((onset + offset) // 2 - apex)


def extent(
    which: Extent, onset: Position, apex: Position, offset: Position, length: Position
) -> tuple[Position, Position]:
    """First and last position (both included) of a clip's part; for traced scalars and for columns of a table.

    Args:
      which: `onset_offset`, `onset_apex` (the middle stands in for an unknown apex) or `whole`.
      onset: position of the onset.
      apex: position of the apex, -1 where unknown.
      offset: position of the offset.
      length: number of frames of the clip.

    Returns:
      (first, last), whole numbers.

    Raises:
      ValueError: another value of `which`.
    """
    if which == "whole":
        return length * 0, length - 1
    if which == "onset_offset":
        return onset, offset
    if which == "onset_apex":
        return onset, known_apex(onset, apex, offset)
    raise ValueError(f"extent {which!r} is none of onset_offset, onset_apex, whole")


def jitter_extent(
    key: jax.Array, first: jax.Array, last: jax.Array, length: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Moves both ends of an extent at random, for training.

    INFERRED: each end moves by up to int(share * span) frames inwards or outwards, since annotators err both ways.

    Args:
      key: random key.
      first: first position.
      last: last position.
      length: number of frames of the clip; the result stays inside it.
      share: largest movement as a share of the span last - first, below one half; 0 changes nothing.

    Returns:
      (first, last) int32 with first <= last.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"a jitter of {share} of the span is not in 0 <= share < 0.5: the ends could cross")
    bound = jnp.floor(share * (last - first)).astype(jnp.int32)
    move = jax.random.randint(key, (2,), -bound, bound + 1)
    return jnp.clip(first + move[0], 0, length - 1), jnp.clip(last + move[1], 0, length - 1)


def jitter_key_frames(
    key: jax.Array, onset: jax.Array, apex: jax.Array, offset: jax.Array, share: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Moves the key frames inwards at random, for training.

    With s = apex - onset: onset ~ U[onset, onset + int(share s)], apex ~ U[apex - int(share s), apex], in whole
    frames (MMNet, the predecessor of MIACNet, takes share = 0.0375). INFERRED: the offset, which MMNet does not read,
    moves in the same way by its own distance to the apex.

    Args:
      key: random key.
      onset: position of the onset.
      apex: position of the apex, -1 where unknown (then the middle stands in for it).
      offset: position of the offset.
      share: largest movement as a share of the span, at most one half; 0 changes nothing.

    Returns:
      (onset, apex, offset), int32, in order.
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"a jitter of {share} of the span is not in 0 <= share <= 0.5: the key frames could cross")
    apex = known_apex(onset, apex, offset)
    keys = jax.random.split(key, 3)
    rise = jnp.floor(share * (apex - onset)).astype(jnp.int32)
    fall = jnp.floor(share * (offset - apex)).astype(jnp.int32)
    return (
        onset + jax.random.randint(keys[0], (), 0, jnp.maximum(rise, 0) + 1),
        apex - jax.random.randint(keys[1], (), 0, jnp.maximum(rise, 0) + 1),
        offset - jax.random.randint(keys[2], (), 0, jnp.maximum(fall, 0) + 1),
    )


def require_fps(view: str, clips: Sequence[str] | np.ndarray, fps: np.ndarray) -> None:
    """Refuses a view by time where the rate of a clip is unknown; host code, called once before a run.

    Args:
      view: what asks for time, for the message.
      clips: names of the clips [n].
      fps: frames a second [n], NaN where unknown.

    Raises:
      UserError: naming the first such clip.
    """
    unknown = np.flatnonzero(~(np.asarray(fps) > 0))
    if len(unknown):
        first = str(clips[unknown[0]])
        raise UserError(
            f"{view} counts in milliseconds, but clip {first!r} (and {len(unknown) - 1} more) has no known "
            "frame rate; expected: frames a second > 0. Build the dataset with its fps, or choose a view by frame count"
        )


def positions_by_time(
    origin: jax.Array, milliseconds: jax.Array | np.ndarray, fps: jax.Array, length: jax.Array
) -> jax.Array:
    """Nearest frames at given times from an origin, whatever the frame rate.

    Args:
      origin: position at time 0.
      milliseconds: times [L], negative before the origin.
      fps: frames a second; must be known, see `require_fps`.
      length: number of frames; times beyond the clip give its first or last frame.

    Returns:
      int32 [L].
    """
    exact = origin + jnp.asarray(milliseconds) * fps / 1000
    return jnp.clip(jnp.round(exact).astype(jnp.int32), 0, length - 1)


def positions_even(first: jax.Array, last: jax.Array, count: int) -> jax.Array:
    """`count` positions float32 [count] from `first` to `last`, evenly spaced in time; one position is the middle."""
    if count == 1:
        return jnp.asarray((first + last) / 2, jnp.float32)[None]
    return first + (last - first) * jnp.arange(count, dtype=jnp.float32) / (count - 1)


def sequence_positions(length: jax.Array, count: int, phase: jax.Array | float) -> jax.Array:
    """One sequence of frames as FDP takes them of a clip: i * r + j with r = length // count, j = floor(phase * r).

    `motion.phase_positions` is phase 0, on the host. INFERRED there: a clip with fewer frames than `count` is spread
    evenly, some frames twice.

    Args:
      length: number of frames of the clip.
      count: frames of a sequence, static.
      phase: 0 <= phase < 1, which of the r sequences.

    Returns:
      int32 [count].
    """
    step = length // count
    apart = jnp.arange(count) * step + jnp.floor(phase * step).astype(jnp.int32)
    spread = jnp.round(jnp.arange(count) * (length - 1) / (count - 1)).astype(jnp.int32)
    return jnp.where(step > 0, apart, spread)


def tim(frames: jax.Array, length: jax.Array | int, count: int, first: jax.Array | int = 0) -> jax.Array:
    """Temporal interpolation: resamples a stretch of frames linearly to `count` frames.

    Only the 2 `count` frames that are needed are read: `frames` may be the packed array of a whole clip store.

    Args:
      frames: [T, ...], any trailing shape (frames uint8 or float, landmarks, flow).
      length: number of frames of the stretch (`first .. first + length - 1`), at least 1, may be traced.
      count: number of frames wanted, static.
      first: where the stretch begins, may be traced.

    Returns:
      float32 [count, ...]; the first and last frame of the stretch are exact.
    """
    # whole-number arithmetic relative to the stretch: float32 would lose the fraction at a large row of a packed store
    last = jnp.asarray(length) - 1
    numerator = np.arange(count) * last if count > 1 else last[None]
    denominator = count - 1 if count > 1 else 2  # a single frame is the middle one
    low = (numerator // denominator).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    at = (numerator % denominator) / denominator
    weight = at.reshape(-1, *(1,) * (frames.ndim - 1))
    below = jnp.take(frames, first + low, axis=0, mode="clip").astype(jnp.float32)
    above = jnp.take(frames, first + high, axis=0, mode="clip").astype(jnp.float32)
    return below + weight * (above - below)
