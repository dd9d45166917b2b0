"""One measurement in a process of its own: `python -m tests.benchmarks.measure PART '{"system": "ststnet", ...}'`.

Prints one line of JSON. Parts: machine, ceiling, step, compile, protocol, pipeline; `python -m tests.benchmarks` calls
them all.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks import machine
from tests.benchmarks.settings import settings_of

CLASSES, MACRO_CLASSES, CLIPS, FRAMES = 5, 7, 64, 16
GRAIN = importlib.util.find_spec("grain") is not None


def described(**_: Any) -> dict[str, Any]:
    return machine.describe()


def ceiling(dtype: str, sizes: tuple[int, ...] = (), **_: Any) -> dict[str, Any]:
    """The most FLOP/s of a square matrix product, over a few sizes: what a step can be compared with."""
    import jax
    import jax.numpy as jnp

    best = (0.0, 0)
    for n in sizes or ((1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384)):
        a = jnp.ones((n, n), dtype)
        product = jax.jit(jnp.matmul)
        taken = min(timed(lambda a=a, f=product: f(a, a), 5))
        best = max(best, (2 * n**3 / taken, n))
    return {"flops_per_second": best[0], "side": best[1]}


def timed(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that is not counted."""
    import jax

    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - begin)
    return taken


def fold_engine(settings: Any, steps: int, people: int, per_device: int = 1) -> Any:
    """Folds over clips of noise."""
    from mer_jax import systems
    from mer_jax.training.folds import FoldEngine, FoldSettings
    from tests.benchmarks import random_data

    system = systems.build(settings, CLASSES, MACRO_CLASSES)
    engine = settings.engine
    length = FoldSettings(
        steps=100 * steps, steps_per_epoch=-(-CLIPS // settings.ft.batch), batch=settings.ft.batch, chunk_steps=steps,
        save_every=steps, evaluate_every=steps, fold_mode=engine.fold_mode, chunk_mode=engine.chunk_mode,
        folds_per_device=engine.folds_per_device or per_device, remat=engine.remat,
    )  # fmt: skip
    store = random_data.store(system.needs, CLIPS, FRAMES, CLASSES)
    return FoldEngine(system, store, random_data.protocol(CLIPS, people), length)


def facts(compiled: Any, taken: list[float], seconds: float, clips: int) -> dict[str, Any]:
    """What is said of a step: `taken` are seconds of some, `seconds` compiled it, `clips` are in one."""
    import jax

    cost = compiled.cost_analysis()
    flops = float((cost[0] if isinstance(cost, list) else cost).get("flops", 0.0))
    memory = compiled.memory_analysis()
    step, stats = statistics.median(taken), jax.local_devices()[0].memory_stats() or {}
    return {
        "step_ms": 1e3 * step,
        "step_ms_range": [1e3 * min(taken), 1e3 * max(taken)],
        "clips_per_second": clips / step,
        "flops": flops,
        "flops_per_second": flops / step,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "peak_mib": stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else machine.peak_mib(),
        "compile_seconds": seconds,
    }


def compiled(lowered: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    done = lowered.compile()
    return done, time.perf_counter() - begin


def step(system: str, words: str, stage: str, steps: int, repeats: int, **_: Any) -> dict[str, Any]:
    """A training step on one device: of one fold, or of pre-training."""
    import jax

    settings = settings_of(words, system)
    if stage == "pretrain":
        return pretraining_step(settings, steps * repeats)
    engine = fold_engine(settings, steps, people=8)
    done, seconds = compiled(engine.lower())
    masks, keys = engine.inputs(engine.folds.names[: engine.wave_size])
    states = engine.init(masks, keys)
    taken = []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        states, metrics = engine.chunk(states, masks, keys, repeat * steps, steps)
        jax.block_until_ready((states, metrics))
        taken.append((time.perf_counter() - begin) / steps)
    clips = settings.ft.batch * engine.settings.folds_per_device
    return facts(done, taken[1:], seconds, clips) | {"batch": settings.ft.batch, **engine.choices}


def pretrain_engine(settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The engine of the pre-training stage, its fitted constants, a batch of noise."""
    import jax

    from mer_jax import systems
    from mer_jax.training.pretrain import PretrainEngine, PretrainSettings
    from tests.benchmarks import random_data

    system = systems.build(settings, CLASSES, MACRO_CLASSES)
    batch = settings.pre.batch
    length = PretrainSettings(10_000, 10, batch, remat=settings.engine.remat, shard_params=settings.engine.shard_params)
    engine = PretrainEngine(system, length)
    pairs = random_data.pairs(batch, settings.data.size, settings.pre.task, MACRO_CLASSES)
    return engine, system.fit_constants([engine.prepare(pairs)], jax.random.key(0)), pairs


def pretraining_step(settings: Any, steps: int) -> dict[str, Any]:
    """A step of pre-training, on a batch that is there; then fed by the stream, and how long it waits for that."""
    import jax

    engine, constants, pairs = pretrain_engine(settings)
    state = engine.init(pairs, constants)
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pairs)
    done, seconds = compiled(engine.lower(placed, constants))
    taken = []
    for number in range(steps + 1):
        begin = time.perf_counter()
        state, metrics = engine.train(state, pairs, number)
        jax.block_until_ready(metrics)
        taken.append(time.perf_counter() - begin)
    found = facts(done, taken[1:], seconds, settings.pre.batch) | {"batch": settings.pre.batch}
    if not GRAIN:
        return found | {"waiting_for_data": None}
    stream, waited = pair_stream(settings, settings.pre.pairs.threads), 0.0
    with stream.iterate(0, steps + 2) as batches:
        state, metrics = engine.train(state, next(batches), 0)
        jax.block_until_ready(metrics)
        begin = time.perf_counter()
        for number in range(1, steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked if metrics["loss"].is_ready() else 0.0
            state, metrics = engine.train(state, batch, number)
        jax.block_until_ready(metrics)
        return found | {"waiting_for_data": waited / (time.perf_counter() - begin)}


def compile_again(system: str, words: str, stage: str, steps: int, **_: Any) -> dict[str, Any]:
    """Seconds to compile the step of `step` once more, with what the cache holds."""
    import jax

    settings = settings_of(words, system)
    if stage == "pretrain":
        engine, constants, pairs = pretrain_engine(settings)
        lowered = engine.lower(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pairs), constants)
    else:
        lowered = fold_engine(settings, steps, people=8).lower()
    return {"compile_seconds": compiled(lowered)[1]}


def protocol(system: str, words: str, folds: int, steps: int, only: int = 0, **_: Any) -> dict[str, Any]:
    """Seconds of `steps` steps of all folds (or of the first `only`), wave after wave, over the devices there are.

    Compilation is not counted.
    """
    import jax

    engine = fold_engine(settings_of(words, system), steps, people=folds)
    names, size = engine.folds.names[: only or folds], engine.wave_size

    def wave(names: tuple[str, ...]) -> None:
        masks, keys = engine.inputs(names)
        states, metrics = engine.chunk(engine.init(masks, keys), masks, keys, 0, steps)
        jax.block_until_ready((states, metrics))

    wave(names[:size])
    begin = time.perf_counter()
    for first in range(0, len(names), size):
        wave(names[first : first + size])
    return {"seconds": time.perf_counter() - begin, "devices": jax.device_count(), "wave": size, **engine.choices}


def pair_stream(settings: Any, threads: int) -> Any:
    """The pre-training stream over clips in memory, encoded as on disk."""
    import numpy as np

    from mer_jax.data.pairs import PairSettings
    from mer_jax.data.source import memory_source
    from mer_jax.data.stream import PairStream
    from tests.benchmarks import many_clips

    clips = memory_source(list(many_clips.records(512, settings.data.size)))
    how = PairSettings(threads=threads, prefetch=4, cache_mb=1.0, task=settings.pre.task)
    return PairStream(clips, np.arange(len(clips)), how, 0, settings.pre.batch, size=settings.data.size)


def pipeline(system: str, words: str, threads: int, steps: int, **_: Any) -> dict[str, Any]:
    """Pairs a second of the stream alone, with nobody who uses them; hardly anything is cached."""
    settings = settings_of(words, system)
    stream = pair_stream(settings, threads)
    with stream.iterate(0, steps + 1) as batches:
        next(batches)
        begin = time.perf_counter()
        for _ in batches:
            pass
        seconds = time.perf_counter() - begin
    return {"pairs_per_second": steps * settings.pre.batch / seconds, "size": settings.data.size, "threads": threads}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "machine": described, "ceiling": ceiling, "step": step, "compile": compile_again, "protocol": protocol,
    "pipeline": pipeline,
}  # fmt: skip


def main() -> None:
    import jax

    options = json.loads(sys.argv[2])
    if options.get("cache"):
        jax.config.update("jax_compilation_cache_dir", options["cache"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_threefry_partitionable", True)  # as `main` does
    print(json.dumps(PARTS[sys.argv[1]](**options)), flush=True)


if __name__ == "__main__":
    main()
