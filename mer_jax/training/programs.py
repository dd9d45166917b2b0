"""The compiled functions over a wave of folds: fresh states, a chunk of steps, evaluation.

Every leaf of a wave's state carries the fold axis, divided over the mesh axis `fold` by shard_map (no collectives). A
fold differs from its neighbours by its mask over clips and its key only.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.training import draws, mesh, optimizer
from mer_jax.training.state import TrainState, Variables, carry_over
from mer_jax.training.step import initial_variables, make_predict, make_step, view_of


class Programs:
    """Compiled functions of one system under one choice of modes; compiled when first used.

    Args:
      system: a `systems.base.System`.
      settings: `folds.FoldSettings` without "auto".
      fold_mesh: mesh with the axis `fold`.
      buckets: clips by length, or None.
      smallest: clips of the smallest set that a fold draws a batch from.
    """

    def __init__(self, system: Any, settings: Any, fold_mesh: jax.sharding.Mesh, buckets: Any, smallest: int) -> None:
        self.system, self.stage, self.settings, self.mesh, self.buckets = (
            system, system.finetune, settings, fold_mesh, buckets
        )  # fmt: skip
        self._tx = optimizer.build(self.stage.optimizer, settings.steps, settings.steps_per_epoch)
        self._step = make_step(self.stage, self._tx, settings.remat)
        self._predict = make_predict(system, self.stage)
        self._epochs = draws.epochs_touched(settings.batch, smallest)

    @property
    def wave_size(self) -> int:
        """Folds in a wave, padding included."""
        return int(self.mesh.size * self.settings.folds_per_device)

    def length(self, bucket: int) -> int:
        """Frames that a view of this bucket holds; 0 without buckets."""
        return self.buckets.lengths[bucket] if self.buckets else 0

    @functools.cached_property
    def init(self) -> Any:
        """`(masks, keys, store, previous) -> states`."""

        def local(masks: Any, keys: Any, store: Any, previous: Any) -> TrainState:
            return jax.vmap(lambda m, k: self._init_one(m, k, store, previous))(masks, keys)

        return jax.jit(mesh.per_device(local, self.mesh, (True, True, False, False)))

    def _init_one(self, mask: jax.Array, key_data: jax.Array, store: Any, previous: Variables | None) -> TrainState:
        key = wrap(key_data)
        example = view_of(self.system, self.length(0))(store, jnp.int32(0), key, True)
        batch = jax.tree.map(lambda x: x[None], example)
        variables = initial_variables(self.stage, batch, jax.random.fold_in(key, 1))
        if previous is not None:
            variables, _ = carry_over(variables, previous, self.stage.carry)
        fitted = self.system.statistics(store, mask)
        if fitted:
            variables["constants"] = {**variables.get("constants", {}), "statistics": dict(fitted)}
        return TrainState.create(variables, self._tx, self.stage.optimizer.ema)

    @functools.cached_property
    def chunk(self) -> Any:
        """`(states, masks, keys, store, step, visit, steps, bucket) -> (states, metrics [W, steps])`.

        `steps` and `bucket` are static; `visit` counts the earlier steps of the bucket. Donates `states`.
        """

        def local(
            states: TrainState, masks: Any, keys: Any, store: Any, step: Any, visit: Any, steps: int, bucket: int
        ) -> Any:
            def body(states: TrainState, number: Any) -> Any:
                def one(s: Any, m: Any, k: Any) -> Any:
                    return self._fold_step(s, m, k, store, step + number, visit + number, bucket)

                return self._over_folds(one, states, masks, keys)

            if steps == 1:
                states, metrics = body(states, 0)
                return states, jax.tree.map(lambda m: m[:, None], metrics)
            states, metrics = jax.lax.scan(body, states, jnp.arange(steps))
            return states, jax.tree.map(lambda m: jnp.moveaxis(m, 0, 1), metrics)

        def chunk(
            states: TrainState, masks: Any, keys: Any, store: Any, step: Any, visit: Any, steps: int, bucket: int
        ) -> Any:
            run = functools.partial(local, steps=steps, bucket=bucket)
            split = (True, True, True, False, False, False)
            return mesh.per_device(run, self.mesh, split)(states, masks, keys, store, step, visit)

        static = (6, 7)
        return mesh.Together(jax.jit(chunk, static_argnums=static, donate_argnums=0), static, collectives=False)

    def _fold_step(
        self, state: TrainState, mask: Any, key_data: Any, store: Any, step: Any, visit: Any, bucket: int
    ) -> Any:
        key, drawn_by = wrap(key_data), wrap(key_data)
        batch = self.settings.batch
        if self.buckets:
            mask = mask & (np.asarray(self.buckets.of_clip) == bucket)
            drawn_by = jax.random.fold_in(key, 0xB0C + bucket)
        if self.settings.sampler == "balanced":
            clips = draws.balanced_batch(mask, store.label, drawn_by, visit, batch)
        else:
            clips = draws.permutation_batch(mask, drawn_by, visit, batch, self._epochs)
        keys = draws.example_keys(key, step, batch)
        view = view_of(self.system, self.length(bucket))
        examples = jax.vmap(lambda i, k: view(store, i, k, True))(clips, keys)
        own = jnp.where(mask.any(), 1.0, 0.0)  # a fold without clips here stays as it is
        weight = examples.get("weight", jnp.ones(batch)) * own
        return self._step(state, {**examples, "weight": weight}, jax.random.fold_in(keys[0], 1))

    def _over_folds(self, one: Any, *arguments: Any) -> Any:
        if self.settings.fold_mode == "vmap":
            return jax.vmap(one)(*arguments)
        if self.mesh.devices.flat[0].platform != "cpu":
            return jax.lax.map(lambda a: one(*a), arguments)
        # On CPU a loop inside the program would slow every convolution down: unrolled instead.
        local = jax.tree.leaves(arguments)[0].shape[0]
        results = [one(*jax.tree.map(lambda x, i=i: x[i], arguments)) for i in range(local)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    @functools.cached_property
    def evaluate(self) -> Any:
        """`(variables, clips [W, M], store, bucket) -> {"probabilities": [W, M, C], "measures": {name: [W, M]}}`."""

        def evaluate(variables: Variables, clips: Any, store: Any, bucket: int) -> Any:
            def local(variables: Variables, clips: Any, store: Any) -> Any:
                def one(v: Any, c: Any) -> Any:
                    return self._predict(v, store, c, self.length(bucket))

                return self._over_folds(one, variables, clips)

            return mesh.per_device(local, self.mesh, (True, True, False))(variables, clips, store)

        return mesh.Together(jax.jit(evaluate, static_argnums=3), (3,), collectives=False)

    @functools.cached_property
    def pick(self) -> Any:
        """`(variables, place) -> variables` of one fold of the wave, whole on every device."""

        def pick(variables: Variables, place: Any) -> Variables:
            return jax.tree.map(lambda x: x[place], variables)

        return mesh.Together(jax.jit(pick, out_shardings=mesh.replicated(self.mesh)))


def wrap(key_data: jax.Array) -> jax.Array:
    """A threefry key from its data."""
    return jax.random.wrap_key_data(key_data, impl="threefry2x32")
