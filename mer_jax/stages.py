"""Stage two of a run: recognition over all folds of a protocol, and the arrays behind the report's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import pictures
from mer_jax.analysis.pictures.base import Tested, choose_clips, write
from mer_jax.data import prepared, sampling
from mer_jax.errors import UserError
from mer_jax.evaluation import au_metrics, metrics, protocols, results
from mer_jax.evaluation.measures import Measures
from mer_jax.files import path_of
from mer_jax.prepare import Macro, Micro
from mer_jax.pretraining import epoch_steps, finetune_steps, pretrain_settings, shown_batch
from mer_jax.training import mesh
from mer_jax.training.checkpoint import (
    Finished,
    Rolling,
    agreed_state,
    finished_state,
    pretraining_directory,
    read_arrays,
    read_meta,
    read_variables,
)
from mer_jax.training.folds import FoldEngine, FoldSettings
from mer_jax.training.monitor import Monitor
from mer_jax.training.pretrain import PretrainEngine
from mer_jax.training.state import Variables, carry_over
from mer_jax.training.step import initial_variables, view_of
from mer_jax.training.waves import Score, train_folds
from mer_jax.workdir import Workdir

UNKNOWN_PERSONS = (
    "imported weights; the persons that they were trained on are unknown: scores are comparable only if nobody who is "
    "tested here was among them"
)


def fold_settings(settings: Any, micro: Micro, seed: int) -> FoldSettings:
    """Length and rhythm of the recognition stage: the same number of steps for every fold."""
    largest = max(int(fold.train.sum()) for fold in micro.folds)
    per_epoch = epoch_steps(largest, settings.ft.batch)
    engine = settings.engine
    return FoldSettings(
        steps=finetune_steps(settings.ft, per_epoch),
        steps_per_epoch=per_epoch,
        batch=settings.ft.batch,
        sampler=settings.ft.sampler,
        chunk_steps=engine.chunk_steps,
        save_every=engine.save_every,
        evaluate_every=engine.evaluate_every,
        fold_mode=engine.fold_mode,
        chunk_mode=engine.chunk_mode,
        folds_per_device=engine.folds_per_device,
        seed=seed,
        remat=engine.remat,
    )


def micro_store(settings: Any, system: Any, micro: Micro) -> Any:
    """The clip store of the scored clips, with the motion targets that the system reads."""
    labels = micro.labels if settings.task == "emotion" else np.zeros(len(micro.rows), np.int32)
    return prepared.clip_store(settings, system, micro.source, micro.rows, labels)[0]


def run_folds(
    settings: Any,
    system: Any,
    micro: Micro,
    store: Any,
    previous: Variables | None,
    workdir: Workdir,
    seed: int,
    monitor: Monitor,
    preemption: mesh.Preemption,
) -> Measures:
    """Trains and scores all folds of one seed into `checkpoints/finetune`, unless they are finished."""
    finished = Finished(workdir.checkpoints(seed, "finetune", "folds"))
    try:
        names = [fold.name for fold in micro.folds]
        if not finished.which(names).issuperset(names):
            decided = workdir.manifest().get(f"choices on {mesh.devices()}")
            length = fold_settings(settings, micro, seed)
            engine = FoldEngine(system, store, micro.arrays(settings.select), length, previous, decided)
            workdir.manifest(**{f"choices on {mesh.devices()}": engine.choices})
            monitor.say(
                f"recognition: {len(micro.folds)} folds of {length.steps} steps, batch {length.batch}, "
                + ", ".join(f"{k} {v}" for k, v in engine.choices.items())
            )
            rolling = Rolling(workdir.checkpoints(seed, "finetune", "wave"))
            score = None if settings.select == "last" else _selection_score(micro)
            try:
                train_folds(engine, micro.table["clip"], rolling, finished, monitor, preemption, score)
            finally:
                rolling.close()
        return _tested(micro, finished, seed)
    finally:
        finished.close()


def _selection_score(micro: Micro) -> Score:
    """UF1 (mean binary F1 over action units) of the validation clips of a fold."""
    n = len(micro.labelled.classes)

    def emotion(clips: np.ndarray, probabilities: np.ndarray) -> float:
        return float(metrics.uf1(metrics.confusion(micro.labels[clips], probabilities.argmax(-1), n)))

    def action_units(clips: np.ndarray, probabilities: np.ndarray) -> float:
        present = (probabilities > results.THRESHOLD).astype(np.int8)
        matrix = au_metrics.au_confusion(micro.labels[clips], present, np.zeros(len(clips), int), 1)[0]
        return float(au_metrics.SCORES["f1_binary"](matrix))

    return emotion if micro.labelled.task == "emotion" else action_units


def _tested(micro: Micro, finished: Finished, seed: int) -> Measures:
    """Test probabilities and measures of all folds, from the folds' own checkpoints."""
    rows = {str(name): i for i, name in enumerate(micro.table["clip"])}
    found: list[tuple[int, str, list[float]]] = []
    values: dict[str, dict[str, float | None]] = {}
    metas = {fold.name: read_meta(finished.path(fold.name)) for fold in micro.folds} if mesh.is_writer() else {}
    metas = mesh.agree_on_facts(metas)  # other hosts may not see yet what was just written
    for fold in micro.folds:
        meta = metas[fold.name]
        found += [(rows[clip], fold.name, probability) for clip, probability in meta["clips"].items()]
        for name, clips in meta.get("measures", {}).items():
            values.setdefault(name, {}).update(clips)
    positions, names, probabilities = zip(*found, strict=True)
    predictions = results.predictions_of(
        micro.table,
        micro.labels,
        micro.labelled.classes,
        seed=seed,
        fold=np.array(names),
        probability=np.array(probabilities),
        rows=np.array(positions),
    )
    return Measures.of(predictions, values)


def initial_weights(
    settings: Any, system: Any, micro: Micro, store: Any, workdir: Workdir, seed: int, monitor: Monitor
) -> Variables | None:
    """Pre-trained variables for the folds: our own, or those of `init_from`; None for scratch.

    Raises:
      UserError: no finished pre-training there, of another network, or of persons who are tested here.
    """
    stage = system.finetune
    if settings.init_from:
        if not stage.carry:
            raise UserError(
                "init_from is set, but pre.objective is 'none', which takes nothing over; unset one of them"
            )
        where = f"init_from {settings.init_from}"
    elif system.pretrain is None:
        return None
    else:
        where = f"pre-training of seed {settings.seeds[0] if settings.pre.share else seed}"
    directory = pretraining_directory(settings, workdir.root, seed)
    checkpoint = agreed_state(directory)
    if checkpoint is None:
        raise UserError(
            f"{where}: no finished pre-training in {directory}; run with stages=all or stages=pretrain first"
        )
    facts = read_meta(checkpoint)
    if facts["persons"] is None:
        monitor.say(f"{where}: {UNKNOWN_PERSONS}")
    else:
        protocols.check_pretraining_persons(facts["persons"], micro.folds, micro.table, where)
    for field, now in (("objective", settings.pre.objective), ("normalise", settings.data.normalise)):
        if facts.get(field, now) != now:
            raise UserError(f"{where}: was pre-trained with {field} {facts[field]!r}; the config says {now!r}")
    previous = read_variables(checkpoint)
    buckets = system.buckets(store)
    view = view_of(system, buckets.lengths[0] if buckets else 0)

    def initialise(store: Any) -> Variables:
        example = view(store, jnp.int32(0), jax.random.key(0), True)
        return initial_variables(stage, jax.tree.map(lambda x: x[None], example), jax.random.key(0))

    fresh = jax.eval_shape(initialise, store)
    try:
        _, report = carry_over(fresh, previous, stage.carry)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    monitor.say(f"{where}: " + "; ".join(f"{k} {', '.join(v) or 'nothing'}" for k, v in report.items()))
    return previous


def shares_pretraining(settings: Any, workdir: Workdir) -> bool:
    """Whether all of several seeds start from one pre-training."""
    found = {pretraining_directory(settings, workdir.root, seed) for seed in settings.seeds}
    return len(settings.seeds) > 1 == len(found)


def imported(init_from: str) -> bool:
    """Whether these weights were imported, so that the persons behind them are unknown."""
    checkpoint = finished_state(path_of(init_from) / "checkpoints" / "pretrain")
    return checkpoint is not None and read_meta(checkpoint)["persons"] is None


def write_panels(settings: Any, system: Any, micro: Micro, macro: Macro | None, store: Any, workdir: Workdir) -> None:
    """The arrays behind the report's pictures, from the checkpoints of the first seed."""
    drawn_by = pictures.of(settings.system)
    if drawn_by is None:
        return
    seed = settings.seeds[0]
    pretraining = None
    checkpoint = finished_state(workdir.checkpoints(seed, "pretrain"))
    if macro is not None and checkpoint is not None:
        engine = PretrainEngine(system, pretrain_settings(settings, macro, seed))
        pretraining = read_variables(checkpoint), shown_batch(settings, macro, engine)
    tested = Tested(
        settings,
        system,
        jax.device_put(store),
        micro.table,
        micro.labelled.classes,
        _TestedFolds(micro, workdir.checkpoints(seed, "finetune", "folds")),
        choose_clips(micro.labels if settings.task == "emotion" else np.zeros(len(micro.rows), int)),
        partial(_apex_landmarks, settings, micro),
        pretraining,
    )
    write(workdir.root, drawn_by.arrays(tested))


class _TestedFolds:
    """The folds of a seed, one at a time: (variables, rows tested)."""

    def __init__(self, micro: Micro, directory: Path) -> None:
        self._micro, self._directory = micro, directory

    def __iter__(self) -> Iterator[tuple[Variables, np.ndarray]]:
        finished = Finished(self._directory)
        try:
            for fold in self._micro.folds:
                yield read_arrays(finished.path(fold.name)), np.flatnonzero(fold.test)
        finally:
            finished.close()


def _apex_landmarks(settings: Any, micro: Micro, clip: int) -> np.ndarray:
    """Landmarks [68, 2] of a scored clip at its apex, in pixels of the store."""
    row, facts = int(micro.rows[clip]), micro.source.table
    apex = sampling.known_apex(*(facts[name][row : row + 1] for name in ("onset", "apex", "offset")))[0]
    return prepared.landmarks_at(settings, micro.source, row, int(apex))
