"""Times AKMNet's training step: `python -m tests.benchmarks.bench_akmnet [--config words] [--buckets 1,2,3,6]`.

Random clips of 24 to 141 frames at 200 fps, as long as those of CASME II. One row a way to batch them, milliseconds a
clip and the share of the frames that is padding: all clips padded to the longest (1 bucket), buckets of like length
(each weighed by its clips), and `plain`, what a script does: one clip at a time at its own length, gradients added up,
one update a batch. The plain row times clips at even quantiles of the lengths, since each length compiles for itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.settings import settings_of

CLIPS, SHORTEST, LONGEST, CLASSES = 255, 24, 141, 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="", help="what stands after the colon of configs/akmnet.py:...")
    parser.add_argument("--buckets", default="1,2,3,6")
    parser.add_argument("--quantiles", type=int, default=6, help="lengths that the plain row times")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest one counts")
    return parser.parse_args()


def random_store(size: int) -> Any:
    """Clips of many lengths over one block of noise."""
    import numpy as np

    from mer_jax.data.clips import AU_SLOTS
    from mer_jax.data.store import ClipStore

    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(62), 0.4, CLIPS)).astype(np.int32), SHORTEST, LONGEST)
    lengths[:2] = SHORTEST, LONGEST
    zeros = np.zeros(CLIPS, np.int32)
    return ClipStore(
        frames=rng.integers(0, 255, (LONGEST, size, size, 1), np.uint8), start=zeros, length=lengths,
        fps=np.full(CLIPS, 200, np.float32), onset=zeros, apex=lengths // 2, offset=lengths - 1, true_onset=zeros,
        true_apex=lengths // 2, true_offset=lengths - 1, modality=zeros,
        label=np.arange(CLIPS, dtype=np.int32) % CLASSES,
        action_units=np.full((CLIPS, AU_SLOTS), -1, np.int8), landmarks=np.zeros((0, 68, 2), np.float32), motion={},
    )  # fmt: skip


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs, after one that compiles."""
    import jax

    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Measures and prints the table."""
    options = arguments()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mer_jax.systems import akmnet
    from mer_jax.training import optimizer
    from mer_jax.training.state import TrainState
    from mer_jax.training.step import initial_variables, make_step

    settings = settings_of(options.config, "akmnet")
    system = akmnet.build(settings, CLASSES, CLASSES)
    stage, batch = system.finetune, settings.ft.batch
    host = random_store(settings.data.size)
    store, key = jax.device_put(host), jax.random.key(0)
    tx = optimizer.build(stage.optimizer, 100, 10)

    def examples(clips: jax.Array, length: int) -> Any:
        return jax.vmap(lambda i: system.view(store, i, key, True, length))(clips)

    variables = jax.jit(lambda: initial_variables(stage, examples(jnp.zeros(1, jnp.int32), 2), key))()
    state = TrainState.create(variables, tx, 0.0)
    step = jax.jit(lambda s, c, n: make_step(stage, tx)(s, examples(c, n), key)[0], static_argnums=2)
    rows: list[tuple[str, float, float]] = []
    counts = np.zeros(CLIPS)
    for number in (int(n) for n in options.buckets.split(",")):
        fields = settings.to_dict()
        fields["ft"] = {**settings.ft.to_dict(), "buckets": number}
        buckets = akmnet.build(type(settings)(fields), CLASSES, CLASSES).buckets(host)
        seconds, padded = 0.0, 0
        for b, length in enumerate(buckets.lengths):
            clips = np.flatnonzero(buckets.of_clip == b)
            drawn = jnp.asarray(np.resize(clips, batch), jnp.int32)
            seconds += len(clips) * fastest(lambda c=drawn, n=length: step(state, c, n), options.repeats) / batch
            padded += len(clips) * length
        if not counts.any():
            every = examples(jnp.arange(CLIPS), max(buckets.lengths))
            counts = np.asarray(every["mask"].sum(axis=1))
        name = "padded" if len(buckets.lengths) == 1 else f"{len(buckets.lengths)} buckets"
        rows.append((name, seconds / CLIPS, 1 - counts.sum() / padded))

    def loss(params: Any, collections: Any, clips: jax.Array, length: int) -> Any:
        seen = examples(clips, length)
        rngs = {"dropout": key}
        outputs, changed = stage.module.apply(
            {"params": params, **collections}, seen, True, rngs=rngs, mutable=["batch_stats"]
        )
        return stage.objective(outputs, seen)[0].mean() / batch, changed

    def one(params: Any, collections: Any, total: Any, clips: jax.Array, length: int) -> Any:
        gradient, changed = jax.grad(loss, has_aux=True)(params, collections, clips, length)
        return jax.tree.map(jnp.add, total, gradient), changed

    def update(state: TrainState, gradient: Any) -> Any:
        changes, moments = tx.update(gradient, state.opt_state, state.params)
        return jax.tree.map(jnp.add, state.params, changes), moments

    alone, update = jax.jit(one, static_argnums=4), jax.jit(update)
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    seconds = fastest(lambda: update(state, nothing), options.repeats) / batch
    order = np.argsort(counts)
    for place in (np.arange(options.quantiles) + 0.5) / options.quantiles:
        clip = int(order[int(place * CLIPS)])
        run = lambda c=clip: alone(state.params, state.collections, nothing, jnp.array([c]), int(counts[c]))  # noqa: E731
        seconds += fastest(run, options.repeats) / options.quantiles
    rows.append(("plain", seconds, 0.0))

    print(f"{settings.data.size} px, width {settings.model.width}, batch {batch}, {jax.default_backend()}")
    print(f"{CLIPS} clips, {counts.min():.0f} to {counts.max():.0f} frames, mean {counts.mean():.1f}")
    best = min(seconds for _, seconds, _ in rows)
    print(f"{'':12}{'ms a clip':>10}{'padding':>10}{'to the best':>13}")
    for name, seconds, padding in rows:
        print(f"{name:12}{1000 * seconds:10.2f}{padding:10.0%}{seconds / best:12.2f}x")


if __name__ == "__main__":
    main()
