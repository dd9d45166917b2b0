"""Stage one of a run: pre-training on a stream of macro-expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mer_jax.data import align
from mer_jax.data.pairs import PairSettings
from mer_jax.data.stream import PairStream
from mer_jax.files import write_json
from mer_jax.prepare import Macro
from mer_jax.systems import ma2mi_health
from mer_jax.systems.miacnet import STRIDE
from mer_jax.training import mesh
from mer_jax.training.checkpoint import Rolling, agreed_state, read_variables
from mer_jax.training.monitor import Monitor
from mer_jax.training.pretrain import PretrainEngine, PretrainSettings, pretrain
from mer_jax.training.state import Variables
from mer_jax.workdir import Workdir

CONSTANT_PAIRS = 2048  # pairs that latents are standardised on, at most: no more than the training sees
HEALTH_PAIRS = 128  # held-out pairs of a look
BASELINE_PAIRS = 1024  # training pairs that the linear baselines are fitted to, likewise
HEALTH = "health.json"  # beside the states of a pre-training: its scores on held-out people


def epoch_steps(clips: int, batch: int) -> int:
    """Steps of an epoch: ceil(clips / batch)."""
    return max(1, -(-clips // batch))


def finetune_steps(ft: Any, per_epoch: int) -> int:
    """Steps of the recognition stage: `ft.steps`, or `ft.epochs` where that is 0."""
    return int(ft.steps or ft.epochs * per_epoch)


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
        shard_params=engine.shard_params,
        remat=engine.remat,
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
    scored = system.scores_pretraining and len(macro.held_out) > 0
    finished = agreed_state(directory)
    if finished is not None and (mesh.agree((directory / HEALTH).exists()) or not scored):
        monitor.say(f"pre-training of seed {seed} is finished already and kept")
        return
    length = pretrain_settings(settings, macro, seed)
    stream = pair_stream(settings, macro, macro.train, seed, length.batch, macro.labels)
    for name in stream.skipped:
        monitor.say(f"pre-training leaves out {name}: no pair {settings.pre.pairs.dt_ms} ms apart")
    engine = PretrainEngine(system, length)

    def constants() -> Any:
        whole = pair_stream(settings, macro, macro.train, seed, length.batch, macro.labels, alone=True)
        batches = (engine.prepare(whole(step)) for step in range(min(-(-CONSTANT_PAIRS // length.batch), length.steps)))
        return system.fit_constants(batches, jax.random.key(seed))

    monitor.say(
        f"pre-training: {length.steps} steps of {length.batch} pairs from {len(macro.train)} clips of "
        f"{len(macro.persons)} persons; {macro.excluded} clips of tested persons left out"
    )
    health = _health(settings, system, macro, engine) if scored else None
    if finished is not None:  # stopped between the last save and the scores
        variables = read_variables(finished)
    else:
        facts = {"seed": seed, "persons": macro.persons, "dataset": settings.data.macro, "excluded": macro.excluded}
        facts |= {"objective": settings.pre.objective, "normalise": settings.data.normalise}
        rolling = Rolling(directory)
        try:
            variables = pretrain(engine, stream, constants, rolling, monitor, preemption, facts, health)
        finally:
            rolling.close()
    if health is not None:
        pairs = mesh.sum_over_processes(np.array([*stream.counters.values()]))
        found = health(variables) | linear_baselines(settings, system, macro, engine, variables, seed)
        if mesh.is_writer():
            write_json(directory / HEALTH, {**found, "pairs": dict(zip(stream.counters, pairs.tolist(), strict=True))})
        mesh.barrier("health")
        monitor.say("held-out people: " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()))


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


def shown_batch(settings: Any, macro: Macro, engine: PretrainEngine) -> Any:
    """Pairs for the report: of held-out people, or of the training people where nobody was held out."""
    rows = macro.held_out if len(macro.held_out) else macro.train
    return engine.prepare(pair_stream(settings, macro, rows, 0, 64, alone=True)(0))


def _health(
    settings: Any, system: Any, macro: Macro, engine: PretrainEngine
) -> Callable[[Variables], dict[str, float]]:
    batches = mesh.put(_held_out_batches(settings, macro, engine), mesh.replicated(engine.mesh))
    errors = mesh.Together(jax.jit(system.health_errors))  # divided parameters are collected in it

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
    steps = min(-(-BASELINE_PAIRS // settings.pre.batch), engine.settings.steps)
    batches = [engine.prepare(stream(s)) for s in range(steps)]

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
