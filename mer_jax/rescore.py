"""`eval.apex`: scores a finished run again with another apex, to see how much the annotated one was worth."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from mer_jax.data import prepared
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.evaluation import results
from mer_jax.evaluation.results import Predictions
from mer_jax.prepare import Micro
from mer_jax.training.checkpoint import Finished, read_arrays
from mer_jax.training.step import make_predict
from mer_jax.workdir import Workdir

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


def predict_again(
    settings: Any, system: Any, micro: Micro, store: Any, workdir: Workdir, seed: int, apex: str
) -> Predictions:
    """Predictions of the finished folds of one seed with another apex; nothing is trained."""
    moved = dataclasses.replace(store, apex=apex_positions(apex, store, seed))
    moved = jax.device_put(prepared.with_motion(settings, system, moved, micro.table["clip"].tolist()))
    predict = jax.jit(make_predict(system, system.finetune))
    finished = Finished(workdir.checkpoints(seed, "finetune", "folds"))
    rows, names, probabilities = [], [], []
    for fold in micro.folds:
        clips = np.flatnonzero(fold.test).astype(np.int32)
        padded = np.zeros(max(int(f.test.sum()) for f in micro.folds), np.int32)
        padded[: len(clips)] = clips
        found = np.asarray(predict(read_arrays(finished.path(fold.name)), moved, padded)["probabilities"])[: len(clips)]
        rows += clips.tolist()
        names += [fold.name] * len(clips)
        probabilities += found.tolist()
    finished.close()
    return results.predictions_of(
        micro.table,
        micro.labels,
        micro.labelled.classes,
        seed=seed,
        fold=np.array(names),
        probability=np.array(probabilities),
        rows=np.array(rows),
    )
