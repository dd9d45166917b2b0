"""The scored clips as settings ask for them: cut out, magnified, with the motion targets that a system reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import files
from mer_jax.data import align, motion
from mer_jax.data.clips import ClipTable
from mer_jax.data.magnify import Magnification, magnify_store
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.source import ClipSource, default_data_dir
from mer_jax.data.store import ClipStore, build_store


def data_dir(settings: Any) -> Path:
    """Where the datasets of a run are."""
    return files.path_of(settings.data.dir) if settings.data.dir else default_data_dir()


def clip_store(
    settings: Any, system: Any, source: ClipSource, rows: np.ndarray, labels: np.ndarray
) -> tuple[ClipStore, ClipTable]:
    """The store of some clips of a source as a system wants it.

    Args:
      settings: of the run; reads `data`.
      system: see `systems.base.System`; reads `needs`.
      source: where the clips are.
      rows: int [n], the clips.
      labels: int [n], their classes, -1 for none.

    Returns:
      See `store.build_store`.

    Raises:
      UserError: see `store.build_store`; or an unknown way to magnify.
    """
    data, how = settings.data, alignment(settings)
    store, table = build_store(source, rows, system.needs, labels, fit=data.fit, align=how, extent=data.extent)
    clips = table["clip"].tolist()
    store = magnify_store(store, magnification(settings), _cache(settings), clips)
    return with_motion(settings, system, store, clips), table


def with_motion(settings: Any, system: Any, store: ClipStore, clips: list[str]) -> ClipStore:
    """The store with the motion targets that the system reads, computed or from the cache on disk."""
    if not system.needs.motion:
        return store
    specs = motion.named(system.needs.motion)
    targets: Any = motion.store_targets(store, specs, _cache(settings), clips)  # host arrays, placed later
    return dataclasses.replace(store, motion=targets)


def magnification(settings: Any) -> Magnification:
    """How the scored clips are magnified.

    Raises:
      UserError: an unknown option.
    """
    data = settings.data
    band = tuple(float(f) for f in data.magnify_band)
    return Magnification(
        data.magnify, data.magnify_alpha, band, data.magnify_unit, data.magnify_cutoff, data.magnify_blur
    )


def alignment(settings: Any) -> align.Alignment:
    """How faces are cut out of the scored clips; raises UserError for an unknown way."""
    return align.Alignment(settings.data.align, settings.data.align_margin)


def landmarks_at(settings: Any, source: ClipSource, row: int, position: int) -> np.ndarray:
    """Landmarks [68, 2] of a frame of a clip, in pixels of the store; NaN where unknown.

    Args:
      settings: of the run.
      source: where the clip is.
      row: of the clip in the source.
      position: of the frame in the whole clip.
    """
    way = align.crop_of(source, row, settings.data.size, settings.data.fit, alignment(settings)).way(position)
    return way.points(source.landmarks(row)[position])


def _cache(settings: Any) -> MotionCache:
    """What is computed once for all runs: motion targets, magnified clips."""
    root = data_dir(settings)
    return MotionCache((files.local_cache() if files.is_remote(root) else root) / "motion")
