"""Times a training step of ATNet: `python -m tests.benchmarks.bench_atnet [--config words] [--steps N]`.

Frames and flows are random, so nothing has to be built. For each stream: one step on a batch, the same clips one at a
time (a gradient each, added up, one update: what a plain loop over clips does), and a step of several folds side by
side, in a loop and under vmap. Milliseconds a step, median of the repetitions; ratio to the batched step of one fold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.settings import settings_of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="", help="what stands after the colon of configs/atnet.py:...")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folds", type=int, default=6, help="folds side by side")
    parser.add_argument("--streams", default="spatial,temporal,fusion")
    return parser.parse_args()


def milliseconds(run: Callable[[Any], Any], state: Any, steps: int) -> float:
    """Median time of `state = run(state)`, the first call (compilation) not counted."""
    import jax

    state = jax.block_until_ready(run(state))
    taken = []
    for _ in range(steps):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state))
        taken.append(time.perf_counter() - begin)
    return 1000 * statistics.median(taken)


def measure(settings: Any, steps: int, folds: int) -> dict[str, float]:
    """Milliseconds a step of every way to run it."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from mer_jax import systems
    from mer_jax.training import optimizer
    from mer_jax.training.state import TrainState
    from mer_jax.training.step import initial_variables, make_step

    system = systems.build(settings, 3, 7)
    stage, n = system.finetune, settings.ft.batch
    grid, size = system.grid, settings.data.size
    rng = np.random.default_rng(0)
    batch = jax.device_put(
        {
            "apex": rng.uniform(size=(n, size, size, 1)).astype(np.float32),
            "flow": rng.normal(size=(n, grid.steps, grid.features)).astype(np.float32),
            "valid": np.ones((n, grid.steps), bool),
            "label": rng.integers(0, 3, n).astype(np.int32),
        }
    )
    tx = optimizer.build(stage.optimizer, 1000, 100)
    key = jax.random.key(0)
    state = jax.jit(lambda b: TrainState.create(initial_variables(stage, b, key), tx, 0.0))(batch)
    step = make_step(stage, tx)
    whole = jax.jit(lambda s: step(s, batch, key)[0])

    def loss(params: Any, collections: Any, clip: Any) -> Any:
        outputs, changed = stage.module.apply(
            {"params": params, **collections}, clip, True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return stage.objective(outputs, clip)[0].mean(), changed

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    @jax.jit
    def update(state: Any, total: Any, changed: Any) -> Any:
        updates, moments = tx.update(jax.tree.map(lambda x: x / n, total), state.opt_state, state.params)
        collections = {**state.collections, **changed}
        return TrainState(optax.apply_updates(state.params, updates), collections, moments, state.ema)

    clips = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(n)]

    def one_by_one(state: Any) -> Any:
        total, changed = gradient(state.params, state.collections, clips[0])
        for clip in clips[1:]:
            more, changed = gradient(state.params, {**state.collections, **changed}, clip)
            total = add(total, more)
        return update(state, total, changed)

    many = jax.tree.map(lambda x: jnp.stack([x] * folds), state)
    side_by_side = jax.jit(jax.vmap(lambda s: step(s, batch, key)[0]))
    found = {
        "batch": milliseconds(whole, state, steps),
        "clip by clip": milliseconds(one_by_one, state, max(steps // 4, 3)),
        f"{folds} folds, vmap": milliseconds(side_by_side, many, max(steps // 4, 3)),
    }
    return found | {f"{folds} folds, loop": folds * found["batch"]}


def main() -> None:
    options = arguments()
    print(f"{'streams':<10} {'way':<16} {'ms a step':>10} {'ratio':>7}")
    for streams in options.streams.split(","):
        settings = settings_of(
            ",".join(filter(None, (options.config, streams if streams != "fusion" else ""))), "atnet"
        )
        found = measure(settings, options.steps, options.folds)
        for way, value in found.items():
            print(f"{streams:<10} {way:<16} {value:>10.2f} {value / found['batch']:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
