"""Times of a system's stage on one device: on the clock and of all cores together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def seconds(function: Callable[[], Any], repeats: int) -> np.ndarray:
    """Median time of a call, after one that is not counted: [on the clock, of all cores together]."""
    jax.block_until_ready(function())
    found = []
    for _ in range(repeats):
        begin, work = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        found.append((time.perf_counter() - begin, time.process_time() - work))
    return np.median(found, axis=0)


def time_form(stage: Any, variables: Any, batch: Any, repeats: int) -> tuple[Any, list[Any]]:
    """Outputs in evaluation, and [seconds forward, seconds a step, temporary bytes, seconds compiling]."""
    from mer_jax.training import optimizer
    from mer_jax.training.state import TrainState
    from mer_jax.training.step import make_step

    key, tx = jax.random.key(0), optimizer.build(stage.optimizer, 10, 10)
    forward = jax.jit(lambda v, b: stage.module.apply(v, b, False))
    taken = seconds(lambda: forward(variables, batch), repeats)
    outputs = jax.tree.map(np.asarray, forward(variables, batch))
    holder = [jax.tree.map(jnp.copy, TrainState.create(variables, tx, 0.0))]
    begin = time.perf_counter()
    step = jax.jit(make_step(stage, tx), donate_argnums=0).lower(holder[0], batch, key).compile()
    compiled = time.perf_counter() - begin

    def advance() -> Any:
        holder[0], metrics = step(holder[0], batch, key)
        return metrics

    memory: Any = step.memory_analysis()
    return outputs, [taken, seconds(advance, repeats), memory.temp_size_in_bytes, compiled]
