"""Clips of one length as a store: windows of a recording, or what an exported network is given. Host or traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.data.clips import AU_SLOTS, MODALITIES, N_LANDMARKS
from mer_jax.data.motion import MotionSpec
from mer_jax.data.store import ClipStore


def pack(
    frames: Any,
    *,
    length: Any,
    onset: Any,
    apex: Any,
    offset: Any,
    fps: Any,
    motion: Mapping[str, Any],
    landmarks: bool,
) -> ClipStore:
    """A store of n clips that hold T frames each, without labels.

    Args:
      frames: uint8 [n, T, S, S, C]; arrays of the host, of a device, or traced; n and T may be symbolic.
      length: int32 [n], frames of a clip that count, from its first.
      onset: int32 [n], position in the clip.
      apex: int32 [n], -1 where unknown.
      offset: int32 [n].
      fps: float32 [n], NaN where unknown.
      motion: motion targets as `data.motion.store_targets` gives them.
      landmarks: whether the store has room for landmarks; they are unknown.
    """
    n, t = frames.shape[:2]
    unknown = jnp.full((n,), -1, jnp.int32)
    modality = MODALITIES.index("rgb" if frames.shape[-1] == 3 else "grey")
    return ClipStore(
        frames=frames.reshape((-1, *frames.shape[2:])),
        start=jnp.arange(n, dtype=jnp.int32) * t,
        length=length,
        fps=fps,
        onset=onset,
        apex=apex,
        offset=offset,
        true_onset=unknown,
        true_apex=unknown,
        true_offset=unknown,
        modality=jnp.full((n,), modality, jnp.int32),
        label=unknown,
        action_units=jnp.full((n, AU_SLOTS), -1, jnp.int8),
        landmarks=jnp.full((n * t if landmarks else 0, N_LANDMARKS, 2), jnp.nan, jnp.float32),
        motion=dict(motion),
    )


def target_shapes(specs: Mapping[str, MotionSpec], size: int, n: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the motion targets of n clips, by name; of fields that vary in number a single one.

    Args:
      specs: see `data.motion.named`.
      size: height and width of the frames in pixels.
      n: number of clips, may be symbolic.
    """
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for name, spec in specs.items():
        if spec.varies:
            shapes[name] = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float16)
            shapes[f"{name}_start"] = jax.ShapeDtypeStruct((n,), jnp.int32)
            continue
        picture: tuple[Sequence[int], Any] = {
            "flow_onset_apex": ((size, size, 2), jnp.float32),
            "strain_onset_apex": ((size, size), jnp.float32),
            "dynamic_image": ((size, size), jnp.float32),
            "flow_grid": ((spec.grid.steps, spec.grid.features + 1), jnp.float32),
            "flow_image": ((spec.side, spec.side, 3), jnp.uint8),
        }[spec.kind]
        shapes[name] = jax.ShapeDtypeStruct((n, *picture[0]), picture[1])
    return shapes


def blank(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Zeros of the given shapes, for targets that only a loss would read."""
    return {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
