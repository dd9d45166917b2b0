"""Shapes of data that is not there: what a compiler needs to know of a store, its motion targets, a batch of pairs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from mer_jax.data.clips import AU_SLOTS, N_LANDMARKS
from mer_jax.data.motion import MotionSpec, named, pair_positions
from mer_jax.data.store import ClipStore


def pairs(batch: int, size: int, task: str) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of `stream.PairStream` for colour frames of `size` pixels."""
    names = ("before", "first", "second") if task == "forecast" else ("first", "second")
    frames, number = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8), jax.ShapeDtypeStruct((batch,), np.int32)
    facts = {"weight": jax.ShapeDtypeStruct((batch,), np.float32), "label": number, "example": number, "epoch": number}
    return dict.fromkeys(names, frames) | facts


def store(needs: Any, clips: int, frames: int, classes: int) -> ClipStore:
    """A store of clips of one length: its facts are arrays, its frames, landmarks and motion targets are shapes."""
    rows, side = clips * frames, needs.size

    def all_(value: int) -> np.ndarray:
        return np.full(clips, value, np.int32)

    onset, apex, offset = (all_(round(share * (frames - 1))) for share in (0.2, 0.5, 0.8))
    motion: dict[str, Any] = {}
    for name, spec in named(needs.motion).items():
        shape, kind = target_shape(spec, side, int(offset[0] - onset[0]) + 1)
        motion[name] = jax.ShapeDtypeStruct((clips * shape[0], *shape[1:]) if spec.varies else (clips, *shape), kind)
        if spec.varies:
            motion[f"{name}_start"] = np.arange(clips, dtype=np.int32) * shape[0]
    arrays: dict[str, Any] = {
        "frames": jax.ShapeDtypeStruct((rows, side, side, needs.channels), np.uint8),
        "start": np.arange(clips, dtype=np.int32) * frames,
        "length": all_(frames),
        "fps": np.full(clips, 200, np.float32),
        "onset": onset,
        "apex": apex,
        "offset": offset,
        **{f"true_{name}": all_(-1) for name in ("onset", "apex", "offset")},
        "modality": all_(0),
        "label": np.arange(clips, dtype=np.int32) % classes,
        "action_units": np.zeros((clips, AU_SLOTS), np.int8),
        "landmarks": jax.ShapeDtypeStruct((rows if needs.landmarks else 0, N_LANDMARKS, 2), np.float32),
        "motion": motion,
    }
    return ClipStore(**arrays)


def target_shape(spec: MotionSpec, side: int, length: int) -> tuple[tuple[int, ...], Any]:
    """Shape and type of a motion target of one clip, see `data.motion.MotionSpec.kind`."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "flow_onset_apex": ((side, side, 2), np.float32),
        "strain_onset_apex": ((side, side), np.float32),
        "dynamic_image": ((side, side), np.float32),
        "flow_image": ((spec.side, spec.side, 3), np.uint8),
        "flow_grid": ((spec.grid.steps, spec.grid.features + 1), np.float32),
    }
    if spec.kind == "flow_pairs":
        return (len(pair_positions(length, spec.phases, spec.sequences)), side, side, 2), np.float16
    return shapes[spec.kind]
