"""A whole protocol: wave after wave of folds, with looks, selection, saves, preemption and resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.errors import Preempted
from mer_jax.training import mesh
from mer_jax.training.checkpoint import Finished, Rolling, unflatten
from mer_jax.training.folds import FoldEngine
from mer_jax.training.monitor import Monitor, Rate, check_finite
from mer_jax.training.state import TrainState, Variables

Score = Callable[[np.ndarray, np.ndarray], float]  # (validation clips [m], probabilities [m, C]) -> higher is better
EVALUATION_BLOCK = 32  # clips a fold evaluates at once


@dataclasses.dataclass
class _Wave:
    """A wave in flight."""

    names: tuple[str, ...]
    step: int
    states: TrainState
    best: Variables | None
    best_score: np.ndarray  # [W]
    best_step: np.ndarray  # [W]


def train_folds(
    engine: FoldEngine,
    clip_names: np.ndarray,
    rolling: Rolling,
    finished: Finished,
    monitor: Monitor,
    preemption: mesh.Preemption,
    score: Score | None = None,
) -> None:
    """Trains every fold of the protocol and writes its final variables and test probabilities; finished folds are kept.

    Args:
      engine: compiled folds.
      clip_names: [n], names of the store's clips; predictions are kept under them.
      rolling: states of the wave in flight.
      finished: one checkpoint a fold: variables, and meta {"clips": {clip: probabilities}, "step", "selected_step"}.
      monitor: looks and progress.
      preemption: asked after each chunk.
      score: selection score on the validation clips of a fold; None takes the last step.

    Raises:
      Preempted: SIGTERM; the wave is saved.
      NonFiniteError: a metric is not finite; nothing of that chunk is saved.
    """
    names = engine.folds.names
    waves = [names[i : i + engine.wave_size] for i in range(0, len(names), engine.wave_size)]
    kept = finished.which(names)
    todo = [(i, wave) for i, wave in enumerate(waves) if not kept.issuperset(wave)]
    if len(todo) < len(waves):
        monitor.say(f"folds: {len(kept)} of {len(names)} are finished already and kept")
    rate = Rate(len(names) * engine.settings.steps, (len(waves) - len(todo)) * engine.wave_size * engine.settings.steps)
    saved = rolling.latest()  # of an earlier start: only the first wave can go on from it
    for number, wave in todo:
        state = _begin(engine, rolling, saved, wave, score, monitor)
        saved = None
        _train_wave(engine, number, state, clip_names, rolling, finished, monitor, preemption, score, rate)
    finished.wait()


def _train_wave(
    engine: FoldEngine,
    number: int,
    wave: _Wave,
    clip_names: np.ndarray,
    rolling: Rolling,
    finished: Finished,
    monitor: Monitor,
    preemption: mesh.Preemption,
    score: Score | None,
    rate: Rate,
) -> None:
    settings = engine.settings
    names = wave.names
    masks, keys = engine.inputs(names)
    pending: tuple[int, Any] | None = None

    def look() -> None:
        """Reads the metrics of the chunk before: the device already works on the next one."""
        nonlocal pending
        if pending is not None:
            _look(engine, names, pending[0], engine.read(pending[1]), monitor)
            pending = None

    while wave.step < settings.steps:
        end = min((wave.step // settings.chunk_steps + 1) * settings.chunk_steps, settings.steps)
        states, metrics = engine.chunk(wave.states, masks, keys, wave.step, end - wave.step)
        look()
        wave.states, wave.step, pending = states, end, (end, metrics)
        if score is not None and (end % settings.evaluate_every == 0 or end == settings.steps):
            look()
            _select(engine, wave, score)
        stop = preemption.reached()
        if stop or (end % settings.save_every == 0 and end < settings.steps):
            look()
            _save(engine, rolling, wave)
        if stop:
            rolling.wait()
            finished.wait()
            raise Preempted(f"stopped in fold(s) {', '.join(names)} at step {end}; saved. Run the same command again")
        rate.update(number * engine.wave_size * settings.steps + len(names) * end)
        monitor.progress(
            f"folds {number * engine.wave_size + len(names)}/{len(engine.folds.names)}  step {end}/{settings.steps}  "
            f"{rate.per_second * settings.batch:.0f} clips/s  {rate.left} left"
        )
    look()
    _finish(engine, wave, clip_names, finished)


def _begin(
    engine: FoldEngine,
    rolling: Rolling,
    saved: int | None,
    names: tuple[str, ...],
    score: Score | None,
    monitor: Monitor,
) -> _Wave:
    """The wave as it was saved, repacked from another device count if need be; else a fresh one."""
    states = engine.init(*engine.inputs(names))
    best = jax.tree.map(jnp.copy, states.final_variables) if score is not None else None
    size = engine.wave_size
    fresh = _Wave(names, 0, states, best, np.full(size, -np.inf), np.zeros(size, np.int64))
    if saved is None:
        return fresh
    arrays, meta = rolling.restore(saved)
    stored: list[str] = meta["folds"]
    missing = [n for n in names if n not in stored]
    if missing:
        if len(missing) < len(names):
            monitor.say(f"folds {', '.join(names)} start again: the saved wave holds {', '.join(stored)}")
        return fresh
    rows = [stored.index(n) for n in names] + [0] * (size - len(names))
    template = jax.eval_shape(lambda: {"states": states, "best": best})
    repacked = {k: np.asarray(v)[rows] for k, v in arrays.items()}
    restored = mesh.put(unflatten(template, repacked), mesh.split(engine.mesh))
    monitor.say(f"folds {', '.join(names)} go on from step {meta['step']}")
    return _Wave(
        names,
        int(meta["step"]),
        restored["states"],
        restored["best"],
        np.array([_unjson(meta["best_score"][r]) for r in rows]),
        np.array([meta["best_step"][r] for r in rows], np.int64),
    )


def _save(engine: FoldEngine, rolling: Rolling, wave: _Wave) -> None:
    meta = {
        "folds": list(wave.names),
        "length": engine.wave_size,
        "step": wave.step,
        "best_score": [_json(s) for s in wave.best_score],
        "best_step": [int(s) for s in wave.best_step],
    }
    # numbered by save: the waves of another device count would reuse any number made of wave and step
    rolling.save((rolling.latest() or 0) + 1, {"states": wave.states, "best": wave.best}, meta)


def _look(
    engine: FoldEngine, names: tuple[str, ...], step: int, metrics: dict[str, np.ndarray], monitor: Monitor
) -> None:
    """One line a fold: means over the chunk."""
    for place, name in enumerate(names):
        means = {k: float(v[place].mean()) for k, v in metrics.items() if k != "weight"}
        check_finite(means, f"fold {name} before step {step}")
        monitor.look("finetune", engine.settings.seed, step, means, fold=name)


def _select(engine: FoldEngine, wave: _Wave, score: Score) -> None:
    """Keeps the variables of the best step so far; a tie keeps the earlier one."""
    variables = wave.states.final_variables
    found = evaluate(engine, variables, wave.names, engine.folds.validation)
    better = np.zeros(engine.wave_size, bool)
    for place, scored in enumerate(found):
        value = float(score(scored.clips, scored.probabilities))
        if value > wave.best_score[place]:
            wave.best_score[place], wave.best_step[place], better[place] = value, wave.step, True
    mask = mesh.put(better, mesh.split(engine.mesh))
    wave.best = _replace_where(mask, variables, wave.best)


@jax.jit
def _replace_where(mask: jax.Array, new: Variables, old: Variables) -> Variables:
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _finish(engine: FoldEngine, wave: _Wave, clip_names: np.ndarray, finished: Finished) -> None:
    """Scores the wave's folds and writes their variables."""
    variables = wave.states.final_variables if wave.best is None else wave.best
    kept = finished.which(wave.names)
    for place, scored in enumerate(evaluate(engine, variables, wave.names, engine.folds.test)):
        name = wave.names[place]
        if name in kept:
            continue
        clips = [str(clip_names[c]) for c in scored.clips]
        selected = int(wave.best_step[place]) if wave.best is not None else wave.step
        meta = {
            "fold": name,
            "clips": {c: [float(p) for p in row] for c, row in zip(clips, scored.probabilities, strict=True)},
            "measures": {
                measure: {c: _json(v) for c, v in zip(clips, values, strict=True)}
                for measure, values in scored.measures.items()
            },
            "step": wave.step,
            "selected_step": selected,
        }
        finished.save(name, engine.pick(variables, place), meta)


@dataclasses.dataclass(frozen=True)
class Scored:
    """Clips as the network of one fold sees them.

    Attributes:
      clips: int32 [m], rows of the store, ascending.
      probabilities: float32 [m, C].
      measures: float32 [m] each, NaN where unknown.
    """

    clips: np.ndarray
    probabilities: np.ndarray
    measures: dict[str, np.ndarray]


def evaluate(engine: FoldEngine, variables: Variables, names: tuple[str, ...], masks: np.ndarray) -> list[Scored]:
    """Scores each fold of a wave over its own row of `masks` bool [F, n]."""
    place = {name: i for i, name in enumerate(engine.folds.names)}
    wanted = [np.flatnonzero(masks[place[n]]).astype(np.int32) for n in names]
    buckets = engine.buckets
    # All frames of a clip at once need memory as in training; a view of few frames does not.
    block = min(EVALUATION_BLOCK, engine.settings.batch) if buckets else EVALUATION_BLOCK
    parts: list[list[Scored]] = [[] for _ in names]
    for bucket in range(len(buckets.lengths) if buckets else 1):
        clips = [own[buckets.of_clip[own] == bucket] if buckets else own for own in wanted]
        for first in range(0, max(len(own) for own in clips), block):
            padded = np.tile(np.array([[own[0] if len(own) else 0] for own in clips], np.int32), (1, block))
            padded = np.concatenate([padded, np.zeros((engine.wave_size - len(names), block), np.int32)])
            for row, own in zip(padded, clips, strict=False):
                row[: len(own[first : first + block])] = own[first : first + block]
            found = engine.predict(variables, padded, bucket)
            for i, own in enumerate(clips):
                count = len(own[first : first + block])
                measures = {name: values[i, :count] for name, values in found["measures"].items()}
                parts[i].append(Scored(own[first : first + block], found["probabilities"][i, :count], measures))
    return [_together(own) for own in parts]


def _together(parts: list[Scored]) -> Scored:
    if not parts:
        return Scored(np.zeros(0, np.int32), np.zeros((0, 1), np.float32), {})
    clips = np.concatenate([p.clips for p in parts])
    order = np.argsort(clips)
    measures = {name: np.concatenate([p.measures[name] for p in parts])[order] for name in parts[0].measures}
    return Scored(clips[order], np.concatenate([p.probabilities for p in parts])[order], measures)


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _unjson(value: float | None) -> float:
    return -np.inf if value is None else value
