"""`--plan`: what a run would do, what it would need, how long it would take; nothing is trained or written."""

from __future__ import annotations

from typing import Any

import jax

from mer_jax import pretraining, stages
from mer_jax.data.store import store_bytes
from mer_jax.prepare import Macro, Micro
from mer_jax.training.folds import FoldEngine
from mer_jax.training.monitor import clock
from mer_jax.training.pretrain import PretrainEngine


def show(settings: Any, system: Any, micro: Micro, macro: Macro | None) -> None:
    """Prints the plan; the times are those of a few throw-away steps on this machine."""
    seeds = len(settings.seeds)
    total = 0.0
    print(f"devices        {jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)")
    print(f"scored         {len(micro.rows)} clips of {len(set(micro.table.person.tolist()))} persons")
    if macro is not None:
        pre = pretraining.pretrain_settings(settings, macro, settings.seeds[0])
        stream = pretraining.pair_stream(settings, macro, macro.train, settings.seeds[0], pre.batch, macro.labels)
        engine = PretrainEngine(system, pre)
        batch = stream(0)
        constants = system.fit_constants([engine.prepare(batch)], jax.random.key(0))
        seconds = pre.steps * engine.seconds_a_step(batch, constants)
        repeats = 1 if settings.pre.share else seeds
        total += repeats * seconds
        print(
            f"pre-training   {pre.steps} steps of {pre.batch} pairs from {len(macro.train)} clips of "
            f"{len(macro.persons)} persons, {clock(seconds)} a seed"
        )
    store = stages.micro_store(settings, system, micro)
    length = stages.fold_settings(settings, micro, settings.seeds[0])
    folds = FoldEngine(system, store, micro.arrays(settings.select), length)
    waves = -(-len(micro.folds) // folds.wave_size)
    seconds = waves * length.steps * folds.seconds_a_step()
    total += seeds * seconds
    print(
        f"folds          {len(micro.folds)} ({settings.data.protocol}) in {waves} waves, {length.steps} steps of "
        f"{length.batch} clips, {clock(seconds)} a seed"
    )
    print("               " + ", ".join(f"{k} {v}" for k, v in folds.choices.items()))
    megabytes = store_bytes(micro.table, system.needs, settings.data.extent) / 2**20
    print(f"memory         {folds.step_bytes() / 2**20:.0f} MiB a device, {megabytes:.0f} MiB of them the clip store")
    print(f"time           {clock(total)} for {seeds} seed(s), without building data, compiling and the report")
