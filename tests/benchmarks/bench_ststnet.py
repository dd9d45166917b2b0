"""Times STSTNet's protocol: `python -m tests.benchmarks.bench_ststnet [--modes ...] [--steps N]`.

442 random pictures of 28x28x3, 68 persons, batches of 256: 68 folds x 800 epochs x 2 steps. One row a way to run it,
each in a process of its own: epochs x folds a second, milliseconds of a step of one fold, and the minutes that the
whole protocol would take at that rate. A mode is fold_mode/chunk_mode/folds_per_device/devices; `plain` is what a
script does: one fold after the other, Flax's own layers, batches made by the host, one jitted step at a time on all
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.settings import settings_of

CLIPS, PERSONS, BATCH, EPOCHS = 442, 68, 256, 800
STEPS_AN_EPOCH = -(-(CLIPS - 1) // BATCH)
FOLD_STEPS = PERSONS * EPOCHS * STEPS_AN_EPOCH
MODES = (
    "plain,loop/scan/1/2,loop/dispatch/1/2,loop/scan/1/1,loop/scan/4/2,"
    "vmap/scan/4/2,vmap/scan/8/2,vmap/scan/17/2,vmap/scan/34/2"
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=MODES)
    parser.add_argument("--steps", type=int, default=100, help="steps timed (of each fold side by side)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest one counts")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # the mode that a child process measures
    return parser.parse_args()


def engine(mode: str, steps: int, repeats: int) -> float:
    """Seconds of a step of one fold in the engine."""
    import jax

    from mer_jax import systems
    from mer_jax.training import folds
    from tests.benchmarks import random_data

    jax.config.update("jax_threefry_partitionable", True)  # as `main` does
    fold_mode, chunk_mode, per_device, _ = mode.split("/")
    settings = settings_of("released", "ststnet")
    system = systems.build(settings, 3)
    protocol = random_data.protocol(CLIPS, PERSONS)
    length = folds.FoldSettings(
        steps=EPOCHS * STEPS_AN_EPOCH, steps_per_epoch=STEPS_AN_EPOCH, batch=settings.ft.batch, chunk_steps=steps,
        save_every=steps, evaluate_every=steps, fold_mode=fold_mode, chunk_mode=chunk_mode,
        folds_per_device=int(per_device),
    )  # fmt: skip
    found = folds.FoldEngine(system, random_data.store(system.needs, CLIPS, 1, 3), protocol, length)
    masks, keys = found.inputs(protocol.names[: found.wave_size])
    states = found.init(masks, keys)
    taken = []
    for repeat in range(repeats + 1):  # the first one compiles
        begin = time.perf_counter()
        states, metrics = found.chunk(states, masks, keys, repeat * steps, steps)
        jax.block_until_ready((states, metrics))
        taken.append(time.perf_counter() - begin)
    return min(taken[1:]) / steps / found.wave_size


def plain(steps: int, repeats: int) -> float:
    """Seconds of a step of one fold in a plain training loop in the same framework."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            streams = []
            for filters in (3, 5, 8):
                y = nn.relu(nn.Conv(filters, (3, 3), padding=2)(x))
                y = nn.BatchNorm(use_running_average=not train, momentum=0.9)(y)
                y = nn.max_pool(y, (3, 3), (3, 3), ((1, 1), (1, 1)))
                streams.append(nn.Dropout(0.5, deterministic=not train)(y))
            y = nn.avg_pool(jnp.concatenate(streams, -1), (2, 2), (2, 2))
            return nn.Dense(3)(y.reshape(len(y), -1))

    network, tx = Network(), optax.adam(5e-5)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (CLIPS, 28, 28, 3)).astype(np.float32)
    labels = rng.integers(0, 3, CLIPS)
    variables = network.init(jax.random.key(0), pictures[:2], False)
    state = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))

    @jax.jit
    def step(state: Any, x: jax.Array, label: jax.Array, key: jax.Array) -> Any:
        params, statistics, moments = state

        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": statistics}
            logits, changed = network.apply(variables, x, True, rngs={"dropout": key}, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), changed["batch_stats"]

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = tx.update(gradients, moments)
        return (optax.apply_updates(params, updates), changed, moments), value

    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        for _ in range(steps):
            rows = rng.choice(CLIPS, BATCH, replace=False)
            key = jax.random.key(int(rng.integers(1 << 30)))
            state, value = step(state, jnp.asarray(pictures[rows]), jnp.asarray(labels[rows]), key)
        jax.block_until_ready((state, value))
        taken.append(time.perf_counter() - begin)
    return min(taken[1:]) / steps


def in_a_child(mode: str, options: argparse.Namespace) -> float:
    """Measures a mode in a process of its own: the number of devices is fixed when JAX starts."""
    devices = 1 if mode == "plain" else int(mode.split("/")[3])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.benchmarks.bench_ststnet", "--one", mode]
    command += ["--steps", str(options.steps), "--repeats", str(options.repeats)]
    environment = {**os.environ, "XLA_FLAGS": flags.strip()}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True, cwd=Path(__file__).parents[2]
    )
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main() -> None:
    options = arguments()
    if options.one:
        measured = (
            plain(options.steps, options.repeats)
            if options.one == "plain"
            else engine(options.one, options.steps, options.repeats)
        )
        print(json.dumps({"seconds": measured}))
        return
    modes = options.modes.split(",")
    base = None
    print(f"{CLIPS} clips of 28x28x3, {PERSONS} folds x {EPOCHS} epochs x {STEPS_AN_EPOCH} steps of {BATCH}")
    print(f"{'mode':<20}{'epochs x folds/s':>18}{'ms/step of a fold':>20}{'protocol, min':>15}{'speed-up':>10}")
    for mode in modes:
        seconds = in_a_child(mode, options)
        base = seconds if mode == "plain" else base
        ratio = f"{base / seconds:.2f}" if base else ""
        print(
            f"{mode:<20}{1 / (seconds * STEPS_AN_EPOCH):>18.1f}{1e3 * seconds:>20.2f}"
            f"{seconds * FOLD_STEPS / 60:>15.1f}{ratio:>10}",
            flush=True,
        )


if __name__ == "__main__":
    main()
