"""`eval.apex`: scores a finished run again with another apex, to see how much the annotated one was worth."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from mer_jax.data import prepared
from mer_jax.data.apex import ANNOTATED, apex_positions
from mer_jax.errors import UserError
from mer_jax.evaluation import results
from mer_jax.evaluation.results import Predictions
from mer_jax.prepare import Micro
from mer_jax.training.checkpoint import Finished, read_arrays
from mer_jax.training.step import make_predict
from mer_jax.workdir import Workdir

__all__ = ["ANNOTATED", "apex_positions", "check", "predict_again"]


def check(settings: Any, system: Any) -> None:
    """Raises UserError where another apex is asked for of a system that looks at none."""
    apex = settings.eval.apex
    if apex != ANNOTATED and system.oracle_inputs != "boundaries+apex":
        raise UserError(
            f"eval.apex: found {apex!r}; {settings.system} as configured here never looks at the apex, so its scores "
            f"are the same with any. Leave it at {ANNOTATED}"
        )


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
