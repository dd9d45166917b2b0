"""Where the apex of a clip is, as annotated or without an annotation."""

from __future__ import annotations

import numpy as np

from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError

ANNOTATED = "annotated"
_SPOT_GRID = 8  # frames are compared as means over a grid of this size: noise averages out, movement stays


def apex_positions(how: str, store: ClipStore, seed: int = 0) -> np.ndarray:
    """Apex positions [n] of the clips of a store, counted from their first frames.

    Args:
      how: annotated; middle, of onset and offset; spotted, the frame between onset and offset that differs most from
        the onset frame (mean absolute difference over a grid; INFERRED: the simplest spotter that needs no training);
        jitter:<ms>, the annotated apex plus normal noise of that standard deviation, kept between onset and offset.
      store: the clips.
      seed: of the jitter.

    Raises:
      UserError: another word, or jitter without a frame rate.
    """
    onset, apex, offset, fps = (np.asarray(x) for x in (store.onset, store.apex, store.offset, store.fps))
    if how == ANNOTATED:
        return apex
    if how == "middle":
        return ((onset + offset) // 2).astype(np.int32)
    if how == "spotted":
        return np.array([_spot(store, k) for k in range(len(onset))], np.int32)
    kind, _, milliseconds = how.partition(":")
    if kind != "jitter" or not milliseconds.replace(".", "", 1).isdigit():
        raise UserError(f"eval.apex is {how!r}; expected annotated, middle, spotted or jitter:<ms>, as in jitter:20")
    if not np.isfinite(fps).all():
        raise UserError("eval.apex=jitter needs the frame rate of every clip; some clips have none")
    noise = np.random.default_rng(seed).normal(0, float(milliseconds) / 1000, len(apex))
    known = np.where(apex < 0, (onset + offset) // 2, apex)
    return np.clip(np.rint(known + noise * fps), onset, offset).astype(np.int32)


def _spot(store: ClipStore, k: int) -> int:
    first, onset, offset = (int(np.asarray(x)[k]) for x in (store.start, store.onset, store.offset))
    frames = np.asarray(store.frames[first + onset : first + offset + 1]).astype(np.float32).mean(-1)
    t, size = len(frames), frames.shape[1] // _SPOT_GRID * _SPOT_GRID
    grid = frames[:, :size, :size].reshape(t, _SPOT_GRID, size // _SPOT_GRID, _SPOT_GRID, size // _SPOT_GRID)
    change = np.abs(grid.mean((2, 4)) - grid[:1].mean((2, 4))).mean((1, 2))
    return onset + int(change.argmax())
