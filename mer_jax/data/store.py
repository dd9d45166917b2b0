"""The clip store: all clips of an experiment as packed arrays on the device, so that a step does no host work."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Mapping
from typing import Protocol

import flax.struct
import jax
import numpy as np

from mer_jax.data import align as align_lib
from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import AU_SLOTS, MODALITIES, N_LANDMARKS, ClipTable
from mer_jax.data.source import ClipSource
from mer_jax.errors import UserError
from mer_jax.progress import Progress

EXTENTS = ("whole", "onset_offset")
_POSITIONS = ("onset", "apex", "offset", "true_onset", "true_apex", "true_offset")


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
      true_onset, true_apex, true_offset: int32 [n], the exact positions of synthetic clips; -1 where unknown.
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
    true_onset: jax.Array
    true_apex: jax.Array
    true_offset: jax.Array
    modality: jax.Array
    label: jax.Array
    action_units: jax.Array
    landmarks: jax.Array
    motion: dict[str, jax.Array]


class StoreNeeds(Protocol):
    """What a system wants to find in the store (`systems.base.Needs` is one)."""

    @property
    def size(self) -> int:
        """Side of the stored frames in pixels."""

    @property
    def channels(self) -> int:
        """3 (colour) or 1 (grey)."""

    @property
    def landmarks(self) -> bool:
        """Whether landmarks are stored."""

    @property
    def modality(self) -> str:
        """What every clip must be; "" for any."""


def cut(table: ClipTable, extent: str = "whole", margin: int = 0) -> tuple[ClipTable, np.ndarray]:
    """The part of each clip that a store keeps.

    Args:
      table: facts of whole clips.
      extent: `whole`, or `onset_offset`: from onset to offset with `margin` frames on both sides where there are any.
      margin: frames kept on both sides of `onset_offset`.

    Returns:
      the table of the parts (lengths and positions count from the part's first frame), and int32 [n], the position
      of that frame in the whole clip.

    Raises:
      ValueError: unknown extent or negative margin.
    """
    if extent not in EXTENTS or margin < 0:
        raise ValueError(f"extent is one of {EXTENTS} with a margin >= 0; found {extent!r}, {margin}")
    if extent == "whole":
        return table, np.zeros(len(table), np.int32)
    first = np.maximum(table["onset"] - margin, 0).astype(np.int32)
    last = np.minimum(table["offset"] + margin, table["length"] - 1)
    columns = dict(table.columns)
    columns["length"] = (last - first + 1).astype(np.int32)
    for name in _POSITIONS:
        moved = np.clip(table[name] - first, 0, columns["length"] - 1)
        columns[name] = np.where(table[name] < 0, -1, moved).astype(np.int32)
    return ClipTable(columns), first


def store_bytes(table: ClipTable, needs: StoreNeeds, extent: str = "whole", margin: int = 0) -> int:
    """Memory of the store of these clips in bytes, motion targets left out; nothing is read."""
    part, _ = cut(table, extent, margin)
    frames = int(part["length"].sum(dtype=np.int64))
    a_frame = needs.size * needs.size * needs.channels + (N_LANDMARKS * 2 * 4 if needs.landmarks else 0)
    return frames * a_frame + len(table) * (11 * 4 + AU_SLOTS)


def build_store(
    source: ClipSource,
    rows: np.ndarray,
    needs: StoreNeeds,
    labels: np.ndarray,
    *,
    fit: str = "crop",
    align: align_lib.Alignment = align_lib.NONE,
    extent: str = "whole",
    margin: int = 0,
    motion: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
) -> tuple[ClipStore, ClipTable]:
    """Reads clips into a store of host arrays; whoever trains or predicts places it on devices.

    Args:
      source: where the clips are.
      rows: the clips wanted: positions in `source.table`, or a boolean mask over it.
      needs: frame size, channels, landmarks.
      labels: int32, the class of each of the wanted clips, -1 where a clip has none.
      fit: how a frame that is not square becomes one: `crop`, `pad` or `stretch`, see `frames.square`.
      align: whether and how faces are cut out instead, see `align.Alignment`.
      extent: `whole` clips, or `onset_offset` to save memory.
      margin: frames kept on both sides of `onset_offset`.
      motion: motion targets of the wanted clips by name, stored as they are; they can be added later with
        `store.replace(motion=...)`.
      threads: threads that decode; None for one a core.

    Returns:
      the store, and the table of its clips: same order, positions and lengths as stored.

    Raises:
      UserError: a frame cannot be decoded, a clip's modality cannot be brought to `needs.channels`, or a clip that is
        to be aligned has no landmarks.
    """
    rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
    labels = np.asarray(labels, np.int32)
    if labels.shape != rows.shape:
        raise ValueError(f"one label a clip: {len(rows)} clips, labels of shape {labels.shape}")
    _check_modalities(source.table.select(rows), needs)
    table, first = cut(source.table.select(rows), extent, margin)
    ends = np.cumsum(table["length"], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total > np.iinfo(np.int32).max:
        raise UserError(f"{total} frames do not fit into one store; choose fewer clips")
    start = (ends - table["length"]).astype(np.int32)
    frames = np.empty((total, needs.size, needs.size, needs.channels), np.uint8)
    landmarks = np.empty((total if needs.landmarks else 0, N_LANDMARKS, 2), np.float32)

    def fill(k: int) -> None:
        row, begin, length = int(rows[k]), int(start[k]), int(table["length"][k])
        crop = align_lib.crop_of(source, row, needs.size, fit, align)
        for t in range(length):
            at = int(first[k]) + t
            frame = frames_lib.with_channels(source.frame(row, at), needs.channels)
            frames[begin + t] = crop.way(at).image(frame)
        if needs.landmarks:
            landmarks[begin : begin + length] = crop.points(source.landmarks(row))[first[k] : first[k] + length]

    workers = threads or os.cpu_count() or 1
    with Progress("decoding clips", len(rows), "clips") as progress:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        try:
            for _ in pool.map(fill, range(len(rows))):
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)

    modality = np.array([MODALITIES.index(m) for m in table["modality"]], np.int32)
    arrays = {
        "frames": frames,
        "start": start,
        "length": table["length"],
        "fps": table["fps"],
        **{name: table[name] for name in _POSITIONS},
        "modality": modality,
        "label": labels,
        "action_units": table["action_units"],
        "landmarks": landmarks,
        "motion": dict(motion or {}),
    }
    return ClipStore(**arrays), table


def _check_modalities(table: ClipTable, needs: StoreNeeds) -> None:
    flow = table["modality"] == "flow_strain"
    if flow.any() and needs.channels != 3:
        raise UserError(
            f"clip {table['clip'][flow][0]} holds flow and strain, which cannot be brought to {needs.channels} "
            "channel(s); choose a system that reads 3 channels, or leave these clips out"
        )
    other = table["modality"] != needs.modality
    if needs.modality and other.any():
        raise UserError(
            f"clip {table['clip'][other][0]} is {table['modality'][other][0]}; expected {needs.modality} in every "
            "clip, as these settings ask for"
        )
