"""The two stages of a run: pre-training on a stream of pairs, and recognition over all folds of a protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import panels
from mer_jax.data import align, motion, sampling
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.pairs import PairSettings
from mer_jax.data.source import default_data_dir
from mer_jax.data.store import build_store
from mer_jax.data.stream import PairStream
from mer_jax.errors import UserError
from mer_jax.evaluation import au_metrics, metrics, protocols, results
from mer_jax.evaluation.results import Predictions
from mer_jax.files import write_json
from mer_jax.prepare import Macro, Micro
from mer_jax.systems import ma2mi_health
from mer_jax.systems.miacnet import STRIDE
from mer_jax.training import mesh
from mer_jax.training.checkpoint import Finished, Rolling, read_arrays, read_meta
from mer_jax.training.folds import FoldEngine, FoldSettings
from mer_jax.training.monitor import Monitor
from mer_jax.training.pretrain import PretrainEngine, PretrainSettings, pretrain
from mer_jax.training.state import Variables, carry_over
from mer_jax.training.step import initial_variables
from mer_jax.training.waves import Score, train_folds
from mer_jax.workdir import Workdir

CONSTANT_PAIRS = 2048  # pairs that latents are standardised on
HEALTH_PAIRS = 128  # held-out pairs of a look
BASELINE_PAIRS = 1024  # training pairs that the linear baselines are fitted to
HEALTH = "health.json"  # beside the states of a pre-training: its scores on held-out people


def epoch_steps(clips: int, batch: int) -> int:
    """Steps of an epoch: ceil(clips / batch)."""
    return max(1, -(-clips // batch))


# -- pre-training ------------------------------------------------------------------------------------------------------


def pretrain_settings(settings: Any, macro: Macro, seed: int) -> PretrainSettings:
    """Length and rhythm of the pre-training stage."""
    per_epoch = epoch_steps(len(macro.train), settings.pre.batch)
    engine = settings.engine
    return PretrainSettings(
        steps=settings.pre.epochs * per_epoch,
        steps_per_epoch=per_epoch,
        batch=settings.pre.batch,
        chunk_steps=engine.chunk_steps,
        save_every=engine.save_every,
        seed=seed,
    )


def run_pretraining(
    settings: Any,
    system: Any,
    macro: Macro,
    workdir: Workdir,
    seed: int,
    monitor: Monitor,
    preemption: mesh.Preemption,
) -> None:
    """Pre-trains one seed into `checkpoints/pretrain/<step>`, unless that is finished."""
    directory = workdir.checkpoints(seed, "pretrain")
    scored = settings.pre.objective == "reconstruct" and len(macro.held_out) > 0
    finished = finished_pretraining(directory)
    if finished is not None and ((directory / HEALTH).exists() or not scored):
        monitor.say(f"pre-training of seed {seed} is finished already and kept")
        return
    length = pretrain_settings(settings, macro, seed)
    stream = pair_stream(settings, macro, macro.train, seed, length.batch, macro.labels)
    for name in stream.skipped:
        monitor.say(f"pre-training leaves out {name}: no pair {settings.pre.pairs.dt_ms} ms apart")
    engine = PretrainEngine(system, length)

    def constants() -> Any:
        whole = pair_stream(settings, macro, macro.train, seed, length.batch, macro.labels, alone=True)
        batches = (engine.prepare(whole(step)) for step in range(-(-CONSTANT_PAIRS // length.batch)))
        return system.fit_constants(batches, jax.random.key(seed))

    monitor.say(
        f"pre-training: {length.steps} steps of {length.batch} pairs from {len(macro.train)} clips of "
        f"{len(macro.persons)} persons; {macro.excluded} clips of tested persons left out"
    )
    health = _health(settings, system, macro, engine) if scored else None
    if finished is not None:  # stopped between the last save and the scores
        variables = load_variables(finished)
    else:
        facts = {"seed": seed, "persons": macro.persons, "dataset": settings.data.macro, "excluded": macro.excluded}
        facts |= {"objective": settings.pre.objective, "normalise": settings.data.normalise}
        rolling = Rolling(directory)
        try:
            variables = pretrain(engine, stream, constants, rolling, monitor, preemption, facts, health)
        finally:
            rolling.close()
    if health is not None:
        found = health(variables) | linear_baselines(settings, system, macro, engine, variables, seed)
        if mesh.is_writer():
            write_json(directory / HEALTH, {**found, "pairs": dict(stream.counters)})
        mesh.barrier("health")
        monitor.say("held-out people: " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()))


def finished_pretraining(directory: Path) -> Path | None:
    """The checkpoint of a pre-training that came to its end, or None."""
    if not directory.is_dir():
        return None
    steps = sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)
    if steps and read_meta(directory / str(steps[0]))["finished"]:
        return directory / str(steps[0])
    return None


def load_variables(checkpoint: Path) -> Variables:
    """Variables of a training state on disk: the moving average of the parameters where there is one."""
    state = read_arrays(checkpoint)
    return {"params": state.get("ema") or state["params"], **state.get("collections", {})}


def pair_stream(
    settings: Any, macro: Macro, rows: np.ndarray, seed: int, batch: int, labels: Any = None, alone: bool = False
) -> PairStream:
    """Pairs of the given rows; this process's slice of each batch, or with `alone` the whole batch on every process."""
    how = align.Alignment(settings.data.macro_align, settings.data.align_margin)
    pairs = PairSettings(task=settings.pre.task, fit=settings.data.fit, align=how, **settings.pre.pairs)
    place = (0, 1) if alone else (jax.process_index(), jax.process_count())
    return PairStream(macro.source, rows, pairs, seed, batch, *place, size=settings.data.size, labels=labels)


def _held_out_batches(settings: Any, macro: Macro, engine: PretrainEngine) -> list[Any]:
    """The same held-out pairs at every look, not augmented."""
    batch = 64
    stream = pair_stream(settings, macro, macro.held_out, 0, batch, alone=True)
    return [engine.prepare(stream(step)) for step in range(HEALTH_PAIRS // batch)]


def _shown_batch(settings: Any, macro: Macro, engine: PretrainEngine) -> Any:
    """Pairs for the report: of held-out people, or of the training people where nobody was held out."""
    rows = macro.held_out if len(macro.held_out) else macro.train
    return engine.prepare(pair_stream(settings, macro, rows, 0, 64, alone=True)(0))


def _health(
    settings: Any, system: Any, macro: Macro, engine: PretrainEngine
) -> Callable[[Variables], dict[str, float]]:
    batches = mesh.put(_held_out_batches(settings, macro, engine), mesh.replicated(engine.mesh))
    errors = jax.jit(system.health_errors)

    def health(variables: Variables) -> dict[str, float]:
        found = [mesh.fetch(errors(variables, batch)) for batch in batches]
        weights = [mesh.fetch(batch["weight"]) for batch in batches]
        sums = {name: sum(float((f[name] * w).sum()) for f, w in zip(found, weights, strict=True)) for name in found[0]}
        return ma2mi_health.scores(sums)

    return health


def linear_baselines(
    settings: Any, system: Any, macro: Macro, engine: PretrainEngine, variables: Variables, seed: int
) -> dict[str, float]:
    """R of linear predictions (PCA of the difference image) on the held-out pairs of `health`.

    R_linear has the rank of the bottleneck. R_linear_code has as many numbers as the bottleneck passes at all places
    together, which is the harder bar: the latents are nearly linear in the difference image.
    """
    stream = pair_stream(settings, macro, macro.train, seed, settings.pre.batch, alone=True)
    batches = [engine.prepare(stream(s)) for s in range(-(-BASELINE_PAIRS // settings.pre.batch))]

    def pairs(batches: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        kept = [np.asarray(b["weight"]) > 0 for b in batches]
        found = [system.difference_and_change(variables, b) for b in batches]
        seen = np.concatenate([np.asarray(f[0])[k] for f, k in zip(found, kept, strict=True)])
        return seen, np.concatenate([np.asarray(f[1])[k] for f, k in zip(found, kept, strict=True)])

    variables = mesh.fetch(variables)
    training, held_out = pairs(batches), pairs(_held_out_batches(settings, macro, engine))
    rank, places = settings.pre.bottleneck, (settings.data.size // STRIDE) ** 2
    ranks = {"R_linear": rank, "R_linear_code": rank * places}
    return {name: ma2mi_health.LinearBaseline(*training, rank=r).score(*held_out) for name, r in ranks.items()}


# -- recognition -------------------------------------------------------------------------------------------------------


def fold_settings(settings: Any, micro: Micro, seed: int) -> FoldSettings:
    """Length and rhythm of the recognition stage: the same number of steps for every fold."""
    largest = max(int(fold.train.sum()) for fold in micro.folds)
    per_epoch = epoch_steps(largest, settings.ft.batch)
    engine = settings.engine
    return FoldSettings(
        steps=settings.ft.epochs * per_epoch,
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
    )


def micro_store(settings: Any, system: Any, micro: Micro) -> Any:
    """The clip store of the scored clips, with the motion targets that the system reads."""
    labels = micro.labels if settings.task == "emotion" else np.zeros(len(micro.rows), np.int32)
    data = settings.data
    how = align.Alignment(data.align, data.align_margin)
    store, table = build_store(
        micro.source, micro.rows, system.needs, labels, fit=data.fit, align=how, extent=data.extent
    )
    if system.needs.motion:
        root = Path(data.dir).expanduser() if data.dir else default_data_dir()
        specs = motion.named(system.needs.motion)
        targets = jax.device_put(
            motion.store_targets(store, specs, MotionCache(root / "motion"), table["clip"].tolist())
        )
        store = dataclasses.replace(store, motion=targets)
    return store


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
) -> Predictions:
    """Trains and scores all folds of one seed into `checkpoints/finetune`, unless they are finished."""
    finished = Finished(workdir.checkpoints(seed, "finetune", "folds"))
    try:
        if not all(finished.exists(fold.name) for fold in micro.folds):
            decided = workdir.manifest().get("choices")
            length = fold_settings(settings, micro, seed)
            engine = FoldEngine(system, store, micro.arrays(settings.select), length, previous, decided)
            workdir.manifest(choices=engine.choices)
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
        return _predictions(micro, finished, seed)
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


def _predictions(micro: Micro, finished: Finished, seed: int) -> Predictions:
    """Test probabilities of all folds, from the folds' own checkpoints."""
    rows = {str(name): i for i, name in enumerate(micro.table["clip"])}
    found: list[tuple[int, str, list[float]]] = []
    for fold in micro.folds:
        clips = read_meta(finished.path(fold.name))["clips"]
        found += [(rows[clip], fold.name, probability) for clip, probability in clips.items()]
    positions, names, probabilities = zip(*found, strict=True)
    return results.predictions_of(
        micro.table,
        micro.labels,
        micro.labelled.classes,
        seed=seed,
        fold=np.array(names),
        probability=np.array(probabilities),
        rows=np.array(positions),
    )


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
        root = Path(settings.init_from).expanduser()
        places = [root / "checkpoints" / f"seed_{seed}" / "pretrain", root / "checkpoints" / "pretrain", root]
        places += sorted(root.glob("checkpoints/seed_*/pretrain"))[:1]  # one pre-training shared by several seeds
        directory = next((p for p in places if p.is_dir()), root)
        where = f"init_from {settings.init_from}"
    elif system.pretrain is None:
        return None
    else:
        chosen = settings.seeds[0] if settings.pre.share else seed
        directory = workdir.checkpoints(chosen, "pretrain")
        where = f"pre-training of seed {chosen}"
    checkpoint = finished_pretraining(directory)
    if checkpoint is None:
        raise UserError(
            f"{where}: no finished pre-training in {directory}; run with stages=all or stages=pretrain first"
        )
    facts = read_meta(checkpoint)
    protocols.check_pretraining_persons(facts["persons"], micro.folds, micro.table, where)
    for field, now in (("objective", settings.pre.objective), ("normalise", settings.data.normalise)):
        if facts.get(field, now) != now:
            raise UserError(f"{where}: was pre-trained with {field} {facts[field]!r}; the config says {now!r}")
    previous = load_variables(checkpoint)
    example = system.view(store, jnp.int32(0), jax.random.key(0), True)
    batch = jax.tree.map(lambda x: x[None], example)
    fresh = jax.eval_shape(lambda: initial_variables(stage, batch, jax.random.key(0)))
    try:
        _, report = carry_over(fresh, previous, stage.carry)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    monitor.say(f"{where}: " + "; ".join(f"{k} {', '.join(v) or 'nothing'}" for k, v in report.items()))
    return previous


def write_panels(settings: Any, system: Any, micro: Micro, macro: Macro | None, store: Any, workdir: Workdir) -> None:
    """The arrays behind the report's pictures, from the checkpoints of the first seed."""
    seed = settings.seeds[0]
    arrays: dict[str, np.ndarray] = {}
    checkpoint = finished_pretraining(workdir.checkpoints(seed, "pretrain"))
    if macro is not None and checkpoint is not None and settings.pre.objective == "reconstruct":
        engine = PretrainEngine(system, pretrain_settings(settings, macro, seed))
        batch = _shown_batch(settings, macro, engine)
        arrays |= panels.reconstruction(settings, load_variables(checkpoint), batch)
    if settings.task == "emotion":
        finished = Finished(workdir.checkpoints(seed, "finetune", "folds"))
        tested = ((read_arrays(finished.path(fold.name)), np.flatnonzero(fold.test)) for fold in micro.folds)
        shown = panels.choose_clips(micro.labels)
        arrays |= panels.heat_maps(
            system, store, micro.table, micro.labelled.classes, tested, shown, partial(_apex_landmarks, settings, micro)
        )
        finished.close()
    panels.write(workdir.root, arrays)


def _apex_landmarks(settings: Any, micro: Micro, clip: int) -> np.ndarray:
    """Landmarks [68, 2] of a scored clip at its apex, in pixels of the store."""
    row, facts = int(micro.rows[clip]), micro.source.table
    apex = sampling.known_apex(*(facts[name][row : row + 1] for name in ("onset", "apex", "offset")))[0]
    data = settings.data
    how = align.Alignment(data.align, data.align_margin)
    place = align.crop_of(micro.source, row, data.size, data.fit, how).way(int(apex))
    return place.points(micro.source.landmarks(row)[apex])
