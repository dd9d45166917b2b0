"""The clip store: all clips of an experiment as packed arrays on the device, so that a step does no host work."""

from __future__ import annotations

import flax.struct
import jax


@flax.struct.dataclass
class ClipStore:
    """n clips with N frames in all; a pytree of arrays, read by traced code only.

    Attributes:
      frames: uint8 [N, H, W, C], the frames of all clips one after another.
      start: int32 [n], row of `frames` where a clip begins.
      length: int32 [n], number of frames of a clip.
      fps: float32 [n], frames a second, NaN where unknown.
      onset: int32 [n], position within the clip.
      apex: int32 [n], position within the clip; -1 where unknown.
      offset: int32 [n], position within the clip.
      modality: int32 [n], index into clips.MODALITIES.
      label: int32 [n], class of the label set; -1 where a clip has none.
      action_units: int8 [n, AU_SLOTS], 1 present, 0 absent, -1 unknown.
      landmarks: float32 [N, 68, 2] in pixels of `frames`, or [0, 68, 2] where no system needs them.
      motion: motion targets by name, see `data.motion`.
    """

    frames: jax.Array
    start: jax.Array
    length: jax.Array
    fps: jax.Array
    onset: jax.Array
    apex: jax.Array
    offset: jax.Array
    modality: jax.Array
    label: jax.Array
    action_units: jax.Array
    landmarks: jax.Array
    motion: dict[str, jax.Array]
