"""Times the engine on this machine: `python tests/benchmarks/bench_engine.py [--config words] [--devices N]`.

Prints one JSON line a measurement: fine-tuning clips/s in each fold mode and chunk mode, pre-training pairs/s, peak
memory, over frames of noise; and seconds from starting `mer_jax.main` to the end of its first step, with a cold and a
warm compilation cache (its data are built first, where they are not). `--stream synthetic_faces/macro` reads pairs of a
built set and tells the share of the time that a step waits for them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.settings import settings_of

ROOT = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="", help="what stands after the colon of configs/ma2mi.py:...")
    parser.add_argument("--devices", type=int, default=0, help="forced host devices; 0 = as they are")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--modes", default="loop/dispatch/1,loop/scan/1,loop/dispatch/2,vmap/dispatch/2")
    parser.add_argument("--only", default="", help="finetune | pretrain | start")
    parser.add_argument("--stream", default="", help="a built dataset of macro-expressions")
    parser.add_argument("--cache", default="", help="compilation cache; default: a new one")
    return parser.parse_args()


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def finetune(options: argparse.Namespace) -> None:
    import jax

    from mer_jax import systems
    from mer_jax.training import folds
    from tests.benchmarks import random_data

    settings = settings_of(options.config)
    system = systems.build(settings, 5, 7)
    n, people = 220, options.folds
    store, protocol = random_data.store(system.needs, n, 40, 5), random_data.protocol(n, people)
    for mode in options.modes.split(","):
        fold_mode, chunk_mode, per_device = mode.split("/")
        length = folds.FoldSettings(
            steps=2 * options.steps, steps_per_epoch=7, batch=settings.ft.batch, chunk_steps=options.steps,
            save_every=options.steps, evaluate_every=options.steps, fold_mode=fold_mode, chunk_mode=chunk_mode,
            folds_per_device=int(per_device),
        )  # fmt: skip
        engine = folds.FoldEngine(system, store, protocol, length)
        wave = protocol.names[: engine.wave_size]
        masks, keys = engine.inputs(wave)
        states = engine.init(masks, keys)
        begin = time.perf_counter()
        states, metrics = engine.chunk(states, masks, keys, 0, options.steps)
        jax.block_until_ready((states, metrics))
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        states, metrics = engine.chunk(states, masks, keys, options.steps, options.steps)
        jax.block_until_ready((states, metrics))
        seconds = time.perf_counter() - begin
        clips = options.steps * settings.ft.batch * len(wave)
        report(
            stage="finetune", devices=jax.device_count(), fold_mode=fold_mode, chunk_mode=chunk_mode,
            folds_per_device=int(per_device), clips_per_second=round(clips / seconds, 1),
            ms_a_fold_and_step=round(1e3 * seconds / options.steps / len(wave), 1),
            compile_seconds=round(first - seconds, 1),
        )  # fmt: skip


def pretrain(options: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from mer_jax import systems
    from mer_jax.training import pretrain as stage
    from tests.benchmarks import random_data

    settings = settings_of(options.config)
    system = systems.build(settings, 5, 7)
    batch, size = settings.pre.batch, settings.data.size
    engine = stage.PretrainEngine(system, stage.PretrainSettings(options.steps, 7, batch))
    pairs = random_data.pairs(batch, size, settings.pre.task, 7)
    constants = system.fit_constants([engine.prepare(pairs)], jax.random.key(0))
    state = engine.init(pairs, constants)
    begin = time.perf_counter()
    state, metrics = engine.train(state, pairs, 0)
    jax.block_until_ready(state)
    first = time.perf_counter() - begin
    source = streamed(options, settings) if options.stream else None
    waited = 0.0
    begin = time.perf_counter()
    for step in range(1, options.steps + 1):
        asked = time.perf_counter()
        batch_of_pairs = next(source) if source else pairs
        waited += (time.perf_counter() - asked) if metrics["loss"].is_ready() else 0.0
        state, metrics = engine.train(state, batch_of_pairs, step)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - begin) / options.steps
    if source:
        source.close()
    assert jnp.isfinite(metrics["loss"])
    report(
        stage="pretrain", devices=jax.device_count(), pairs_per_second=round(batch / seconds, 1),
        ms_a_step=round(1e3 * seconds, 1), compile_seconds=round(first - seconds, 1),
        waiting_for_data=round(waited / seconds / options.steps, 4) if source else None,
    )  # fmt: skip


def streamed(options: argparse.Namespace, settings):
    from mer_jax.data.pairs import PairSettings
    from mer_jax.data.source import open_dataset
    from mer_jax.data.stream import PairStream

    source = open_dataset(options.stream)
    rows = source.table["expression_type"] == "macro"
    pairs = PairSettings(**settings.pre.pairs)
    return PairStream(source, rows, pairs, 0, settings.pre.batch, size=settings.data.size).iterate()


def start(options: argparse.Namespace) -> None:
    """Seconds of the real command from its start to the end of its first training step; data are built before."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.first_step", f"--config=configs/ma2mi.py:{options.config}"]
        command += [f"--cpu_devices={options.devices}"]
        for state in ("data", "cold", "warm"):
            cache = f"{folder}/{'other' if state == 'data' else 'cache'}"
            flags = [f"--workdir={folder}/{state}", f"--compilation_cache={cache}"]
            begin = time.perf_counter()
            done = subprocess.run([*command, *flags], cwd=ROOT, check=True, capture_output=True, text=True)
            if state != "data":
                seconds = round(time.perf_counter() - begin, 1)
                report(stage="start", cache=state, seconds_to_first_step=seconds, step=done.stdout.splitlines()[-1])


def main() -> None:
    options = arguments()
    if options.devices:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    import jax

    jax.config.update("jax_compilation_cache_dir", options.cache or tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for name, run in (("finetune", finetune), ("pretrain", pretrain), ("start", start)):
        if options.only in ("", name):
            run(options)
    report(peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
