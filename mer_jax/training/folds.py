"""Folds side by side: the compiled pieces (init, chunk of steps, evaluation) over a wave of folds.

A wave is `devices x folds_per_device` folds; every leaf of its state carries the fold axis, divided over the mesh axis
`fold` by shard_map (no collectives). A fold differs from its neighbours by its mask over clips and its key only.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.errors import UserError
from mer_jax.training import draws, mesh, optimizer
from mer_jax.training.state import TrainState, Variables, carry_over
from mer_jax.training.step import initial_variables, make_predict, make_step

FOLD_MODES = ("auto", "loop", "vmap")
CHUNK_MODES = ("auto", "scan", "dispatch")
_TIMED_STEPS = 4


@dataclasses.dataclass(frozen=True)
class FoldSettings:
    """How folds are trained.

    Attributes:
      steps: training length of every fold.
      steps_per_epoch: ceil(largest training set / batch).
      batch: examples a step.
      sampler: permutation (the fold's own clips, reshuffled when used up) | balanced (classes equally likely).
      chunk_steps: steps between two looks of the host.
      save_every: steps between two saves of the wave in flight, a multiple of chunk_steps.
      evaluate_every: steps between two scorings when the best step is selected, a multiple of chunk_steps.
      fold_mode: how the folds of one device run: loop, vmap, or auto (timed).
      chunk_mode: scan (one program a chunk), dispatch (one a step), or auto: dispatch on CPU, where XLA runs
        convolutions inside loops many times slower, scan elsewhere.
      folds_per_device: 0 chooses from the device's memory (CPU: 1).
      seed: of this training.
    """

    steps: int
    steps_per_epoch: int
    batch: int
    sampler: str = "permutation"
    chunk_steps: int = 50
    save_every: int = 200
    evaluate_every: int = 50
    fold_mode: str = "auto"
    chunk_mode: str = "auto"
    folds_per_device: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field, allowed in (("fold_mode", FOLD_MODES), ("chunk_mode", CHUNK_MODES)):
            if getattr(self, field) not in allowed:
                raise UserError(f"engine.{field} is {getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        if self.sampler not in ("permutation", "balanced"):
            raise UserError(f"ft.sampler is {self.sampler!r}; expected permutation or balanced")
        if min(self.steps, self.batch, self.chunk_steps, self.save_every, self.evaluate_every) < 1:
            raise UserError("ft.epochs, ft.batch and the step counts of engine must be above 0")
        for field in ("save_every", "evaluate_every"):
            if getattr(self, field) % self.chunk_steps:
                raise UserError(
                    f"engine.{field} is {getattr(self, field)}; expected a multiple of "
                    f"engine.chunk_steps = {self.chunk_steps}"
                )


@dataclasses.dataclass(frozen=True)
class Folds:
    """The folds of a protocol as arrays over the n clips of the store.

    Attributes:
      names: one a fold, unique.
      train: bool [F, n], clips that a fold learns from.
      validation: bool [F, n], clips that select the best step; all False when the last step is taken.
      test: bool [F, n], clips that are scored.
    """

    names: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        chex.assert_shape([self.train, self.validation, self.test], (len(self.names), None))
        if len(set(self.names)) != len(self.names):
            raise ValueError("names of folds must be unique")
        if (self.train & self.test).any():
            raise ValueError("a clip is in training and test of one fold")
        empty = [n for n, mask in zip(self.names, self.train, strict=True) if not mask.any()]
        if empty:
            raise UserError(
                f"fold {empty[0]!r} has no training clip; the protocol needs at least two persons with clips"
            )


class FoldEngine:
    """Compiled functions over waves of folds of one system.

    Args:
      system: a `systems.base.System`.
      store: ClipStore of host arrays; copied to every device.
      folds: the protocol.
      settings: see FoldSettings; "auto" choices are decided here (`choices`).
      previous: variables of the pre-training stage, or None.
      decided: choices of an earlier start of the same run, which are kept.
    """

    def __init__(
        self,
        system: Any,
        store: Any,
        folds: Folds,
        settings: FoldSettings,
        previous: Variables | None = None,
        decided: dict[str, Any] | None = None,
    ) -> None:
        self.system, self.stage, self.folds = system, system.finetune, folds
        self.mesh = mesh.make_mesh(mesh.FOLD)
        self.store = mesh.put(store, mesh.replicated(self.mesh))
        self._previous = mesh.put(previous, mesh.replicated(self.mesh)) if previous is not None else None
        self._tx = optimizer.build(self.stage.optimizer, settings.steps, settings.steps_per_epoch)
        self._step = make_step(self.stage, self._tx)
        self._predict = make_predict(system, self.stage)
        self._epochs = draws.epochs_touched(settings.batch, int(folds.train.sum(1).min()))
        self.settings = self._decide(settings, decided or {})

    @property
    def choices(self) -> dict[str, Any]:
        """What "auto" became; to be kept when a run resumes."""
        return {k: getattr(self.settings, k) for k in ("fold_mode", "chunk_mode", "folds_per_device")}

    @property
    def wave_size(self) -> int:
        """Folds in a wave, padding included."""
        return self.mesh.size * self.settings.folds_per_device

    def inputs(self, names: tuple[str, ...]) -> tuple[Any, Any]:
        """Masks bool [W, n] and key data uint32 [W, 2] of a wave, on the devices; padded folds have an empty mask."""
        place = {name: i for i, name in enumerate(self.folds.names)}
        padding = self.wave_size - len(names)
        masks = np.stack([self.folds.train[place[n]] for n in names] + [np.zeros_like(self.folds.train[0])] * padding)
        keys = [draws.fold_key(self.settings.seed, n) for n in (*names, *[""] * padding)]
        data = np.stack([np.asarray(jax.random.key_data(k)) for k in keys])
        return mesh.put((masks, data), mesh.split(self.mesh))

    def init(self, keys: Any) -> TrainState:
        """Fresh states of a wave; with pre-training, `stage.carry` comes from there."""
        return self._init(keys, self.store, self._previous)

    def chunk(self, states: TrainState, masks: Any, keys: Any, step: int, steps: int) -> tuple[TrainState, Any]:
        """`steps` training steps from `step`; donates `states`. The metrics are for `read`, when they are needed."""
        if self.settings.chunk_mode == "scan":
            states, metrics = self._chunk(states, masks, keys, self.store, np.int32(step), steps)
            return states, [metrics]
        collected = []
        for s in range(step, step + steps):
            states, metrics = self._chunk(states, masks, keys, self.store, np.int32(s), 1)
            collected.append(metrics)
        return states, collected

    def read(self, collected: Any) -> dict[str, np.ndarray]:
        """Metrics of a chunk on the host, [W, steps] each; waits for the chunk."""
        return jax.tree.map(lambda *m: np.concatenate(m, axis=1), *mesh.fetch(collected))

    def probabilities(self, variables: Variables, clips: np.ndarray) -> np.ndarray:
        """Class probabilities [W, M, C] of clips [W, M] (int32; a fold with fewer clips repeats any) per fold."""
        return np.asarray(mesh.fetch(self._evaluate(variables, mesh.put(clips, mesh.split(self.mesh)), self.store)))

    def seconds_a_step(self) -> float:
        """Measured time of one step of a wave, with throw-away states."""
        return self._time(self.settings) / _TIMED_STEPS

    def step_bytes(self) -> int:
        """Memory of one step of a wave on one device, from its compiled program: states, store and temporaries."""
        masks, keys = self.inputs(self.folds.names[: self.wave_size])
        states = jax.eval_shape(self._init, keys, self.store, self._previous)
        memory = self._chunk.lower(states, masks, keys, self.store, np.int32(0), 1).compile().memory_analysis()
        return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)

    def pick(self, variables: Variables, place: int) -> Variables:
        """The variables of one fold of a wave, whole on every device."""
        return self._pick(variables, np.int32(place))

    # -- compiled functions ------------------------------------------------------------------------------------------

    @functools.cached_property
    def _init(self) -> Any:
        def local(keys: Any, store: Any, previous: Any) -> TrainState:
            return jax.vmap(lambda k: self._init_one(k, store, previous))(keys)

        return jax.jit(mesh.per_device(local, self.mesh, (True, False, False)))

    def _init_one(self, key_data: jax.Array, store: Any, previous: Variables | None) -> TrainState:
        key = _wrap(key_data)
        example = self.system.view(store, jnp.int32(0), key, True)
        batch = jax.tree.map(lambda x: x[None], example)
        variables = initial_variables(self.stage, batch, jax.random.fold_in(key, 1))
        if previous is not None:
            variables, _ = carry_over(variables, previous, self.stage.carry)
        return TrainState.create(variables, self._tx, self.stage.optimizer.ema)

    @functools.cached_property
    def _chunk(self) -> Any:
        def local(states: TrainState, masks: Any, keys: Any, store: Any, step: Any, steps: int) -> Any:
            def body(states: TrainState, step: Any) -> Any:
                return self._over_folds(lambda s, m, k: self._fold_step(s, m, k, store, step), states, masks, keys)

            if steps == 1:
                states, metrics = body(states, step)
                return states, jax.tree.map(lambda m: m[:, None], metrics)
            states, metrics = jax.lax.scan(body, states, step + jnp.arange(steps))
            return states, jax.tree.map(lambda m: jnp.moveaxis(m, 0, 1), metrics)

        def chunk(states: TrainState, masks: Any, keys: Any, store: Any, step: Any, steps: int) -> Any:
            run = functools.partial(local, steps=steps)
            return mesh.per_device(run, self.mesh, (True, True, True, False, False))(states, masks, keys, store, step)

        return jax.jit(chunk, static_argnums=5, donate_argnums=0)

    def _fold_step(self, state: TrainState, mask: Any, key_data: Any, store: Any, step: Any) -> Any:
        key = _wrap(key_data)
        batch = self.settings.batch
        if self.settings.sampler == "balanced":
            clips = draws.balanced_batch(mask, store.label, key, step, batch)
        else:
            clips = draws.permutation_batch(mask, key, step, batch, self._epochs)
        keys = draws.example_keys(key, step, batch)
        examples = jax.vmap(lambda i, k: self.system.view(store, i, k, True))(clips, keys)
        own = jnp.where(mask.any(), 1.0, 0.0)  # a padded fold has no clips and stays as it is
        weight = examples.get("weight", jnp.ones(batch)) * own
        return self._step(state, {**examples, "weight": weight}, jax.random.fold_in(keys[0], 1))

    def _over_folds(self, one: Any, *arguments: Any) -> Any:
        if self.settings.fold_mode == "vmap":
            return jax.vmap(one)(*arguments)
        if jax.default_backend() != "cpu":
            return jax.lax.map(lambda a: one(*a), arguments)
        # On CPU a loop inside the program would slow every convolution down: unrolled instead.
        local = jax.tree.leaves(arguments)[0].shape[0]
        results = [one(*jax.tree.map(lambda x, i=i: x[i], arguments)) for i in range(local)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    @functools.cached_property
    def _evaluate(self) -> Any:
        def local(variables: Variables, clips: Any, store: Any) -> jax.Array:
            return self._over_folds(lambda v, c: self._predict(v, store, c), variables, clips)

        return jax.jit(mesh.per_device(local, self.mesh, (True, True, False)))

    @functools.cached_property
    def _pick(self) -> Any:
        def pick(variables: Variables, place: Any) -> Variables:
            return jax.tree.map(lambda x: x[place], variables)

        return jax.jit(pick, out_shardings=mesh.replicated(self.mesh))

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, settings: FoldSettings, decided: dict[str, Any]) -> FoldSettings:
        cpu = jax.default_backend() == "cpu"
        if settings.chunk_mode == "auto":
            settings = dataclasses.replace(settings, chunk_mode="dispatch" if cpu else "scan")
        if settings.folds_per_device == 0:
            count = decided.get("folds_per_device") or (1 if cpu else int(mesh.agree(self._fitting_folds(settings))))
            settings = dataclasses.replace(settings, folds_per_device=count)
        if settings.fold_mode == "auto":
            if "fold_mode" in decided:
                mode = decided["fold_mode"]
            elif settings.folds_per_device == 1:
                mode = "loop"
            else:
                modes = [(m, dataclasses.replace(settings, fold_mode=m)) for m in ("loop", "vmap")]
                seconds = {m: mesh.agree(self._time(changed)) for m, changed in modes}
                mode = min(seconds, key=lambda m: seconds[m])
            settings = dataclasses.replace(settings, fold_mode=mode)
        return settings

    def _probe(self, settings: FoldSettings) -> tuple[FoldEngine, tuple[str, ...]]:
        other = object.__new__(FoldEngine)
        other.__dict__.update({k: v for k, v in self.__dict__.items() if not isinstance(v, functools.cached_property)})
        for name in ("_init", "_chunk", "_evaluate", "_pick"):
            other.__dict__.pop(name, None)
        other.settings = settings
        return other, self.folds.names[: other.wave_size]

    def _fitting_folds(self, settings: FoldSettings) -> int:
        """Folds per device that fit into 80 % of its memory, from the compiled step of one fold."""
        probe, names = self._probe(dataclasses.replace(settings, folds_per_device=1, fold_mode="loop"))
        masks, keys = probe.inputs(names)
        states = jax.eval_shape(probe._init, keys, self.store, self._previous)
        memory = probe._chunk.lower(states, masks, keys, self.store, np.int32(0), 1).compile().memory_analysis()
        stats = jax.local_devices()[0].memory_stats() or {}
        own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states)) // self.mesh.size
        free = 0.8 * (stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
        fitting = int(free // (2 * own + memory.temp_size_in_bytes)) if free > 0 else 1
        return max(1, min(fitting, -(-len(self.folds.names) // self.mesh.size)))

    def _time(self, settings: FoldSettings) -> float:
        """Seconds of _TIMED_STEPS steps of a throw-away wave, compilation not counted."""
        steps = _TIMED_STEPS
        probe, names = self._probe(settings)
        masks, keys = probe.inputs(names)
        states, _ = probe.chunk(probe.init(keys), masks, keys, 0, steps)
        jax.block_until_ready(states)
        start = time.perf_counter()
        states, _ = probe.chunk(states, masks, keys, steps, steps)
        jax.block_until_ready(states)
        return time.perf_counter() - start


def _wrap(key_data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(key_data, impl="threefry2x32")
