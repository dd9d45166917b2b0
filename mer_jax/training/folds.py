"""Folds side by side: the protocol as arrays, and the engine that trains and scores waves of its folds.

A wave is `devices x folds_per_device` folds. What is compiled for it is in `training.programs`.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import chex
import jax
import numpy as np

from mer_jax.errors import UserError
from mer_jax.training import draws, mesh
from mer_jax.training.programs import Programs
from mer_jax.training.state import TrainState, Variables
from mer_jax.training.step import check_remat

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
        convolutions inside loops many times slower (unless the stage has none, `Stage.loops`), scan elsewhere.
        Systems with buckets are dispatched: their steps differ in shape.
      folds_per_device: 0 chooses from the device's memory (CPU: 1).
      seed: of this training.
      remat: see `step.make_step`.
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
    remat: str = "none"

    def __post_init__(self) -> None:
        check_remat(self.remat)
        for field, allowed in (("fold_mode", FOLD_MODES), ("chunk_mode", CHUNK_MODES)):
            if getattr(self, field) not in allowed:
                raise UserError(f"engine.{field} is {getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        if self.sampler not in ("permutation", "balanced"):
            raise UserError(f"ft.sampler is {self.sampler!r}; expected permutation or balanced")
        if min(self.steps, self.batch, self.chunk_steps, self.save_every, self.evaluate_every) < 1:
            raise UserError("ft.epochs (or ft.steps), ft.batch and the step counts of engine must be above 0")
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
    """Trains and scores waves of folds of one system.

    Args:
      system: a `systems.base.System`.
      store: ClipStore of host arrays; copied to every device.
      folds: the protocol.
      settings: see FoldSettings; "auto" choices are decided here (`choices`).
      previous: variables of the pre-training stage, or None.
      decided: choices of an earlier start of the same run on such devices, which are kept.
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
        self.system, self.folds, self._seed = system, folds, settings.seed
        self.mesh = mesh.make_mesh(mesh.FOLD)
        self.buckets = system.buckets(store)
        self.store = mesh.put(store, mesh.replicated(self.mesh))
        self._previous = mesh.put(previous, mesh.replicated(self.mesh)) if previous is not None else None
        self._programs = self._decide(settings, decided or {})
        self.settings = self._programs.settings
        self._bucket, self._visit = np.zeros(settings.steps, np.int32), np.arange(settings.steps, dtype=np.int32)
        if self.buckets:
            counts = np.bincount(self.buckets.of_clip, minlength=len(self.buckets.lengths))
            self._bucket, self._visit = draws.bucket_schedule(
                counts, settings.steps, settings.steps_per_epoch, settings.seed
            )

    @property
    def choices(self) -> dict[str, Any]:
        """What "auto" became; to be kept when a run resumes."""
        return {k: getattr(self.settings, k) for k in ("fold_mode", "chunk_mode", "folds_per_device")}

    @property
    def wave_size(self) -> int:
        """Folds in a wave, padding included."""
        return self._programs.wave_size

    def inputs(self, names: tuple[str, ...]) -> tuple[Any, Any]:
        """Masks bool [W, n] and key data uint32 [W, 2] of a wave, on the devices; padded folds have an empty mask."""
        return self._inputs(names, self.wave_size)

    def _inputs(self, names: tuple[str, ...], size: int) -> tuple[Any, Any]:
        place = {name: i for i, name in enumerate(self.folds.names)}
        padding = size - len(names)
        masks = np.stack([self.folds.train[place[n]] for n in names] + [np.zeros_like(self.folds.train[0])] * padding)
        keys = [draws.fold_key(self._seed, n) for n in (*names, *[""] * padding)]
        data = np.stack([np.asarray(jax.random.key_data(k)) for k in keys])
        return mesh.put((masks, data), mesh.split(self.mesh))

    def init(self, masks: Any, keys: Any) -> TrainState:
        """Fresh states of a wave; with pre-training, `stage.carry` comes from there."""
        return self._programs.init(masks, keys, self.store, self._previous)

    def chunk(self, states: TrainState, masks: Any, keys: Any, step: int, steps: int) -> tuple[TrainState, Any]:
        """`steps` training steps from `step`; donates `states`. The metrics are for `read`, when they are needed."""
        run = self._programs.chunk
        if self.settings.chunk_mode == "scan":
            states, metrics = run(states, masks, keys, self.store, np.int32(step), np.int32(step), steps, 0)
            return states, [metrics]
        collected = []
        for s in range(step, step + steps):
            bucket = int(self._bucket[s])
            states, metrics = run(states, masks, keys, self.store, np.int32(s), self._visit[s], 1, bucket)
            collected.append(metrics)
        return states, collected

    def read(self, collected: Any) -> dict[str, np.ndarray]:
        """Metrics of a chunk on the host, [W, steps] each; waits for the chunk.

        They are put side by side here and not on the devices: a program with collectives between those of the folds,
        which run ahead, stops CPU devices for ever, since each takes up its programs in an order of its own.
        """
        return jax.tree.map(lambda *m: np.concatenate(m, axis=1), *mesh.fetch(collected))

    def predict(self, variables: Variables, clips: np.ndarray, bucket: int = 0) -> dict[str, Any]:
        """Scores clips [W, M] (int32, of one bucket; a fold with fewer clips repeats any) by the fold's own network.

        Returns:
          {"probabilities": [W, M, C], "measures": {name: [W, M]}} on the host.
        """
        placed = mesh.put(clips, mesh.split(self.mesh))
        found: dict[str, Any] = mesh.fetch(self._programs.evaluate(variables, placed, self.store, bucket))
        return found

    def lower(self) -> Any:
        """The largest step of a wave, lowered; what its compiler says is of one device."""
        return self._lower(self._programs)[0]

    def step_bytes(self) -> int:
        """Memory of one step of a wave on one device, from its compiled program: states, store and temporaries."""
        memory = self.lower().compile().memory_analysis()
        return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)

    def pick(self, variables: Variables, place: int) -> Variables:
        """The variables of one fold of a wave, whole on every device."""
        return self._programs.pick(variables, np.int32(place))

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, settings: FoldSettings, decided: dict[str, Any]) -> Programs:
        cpu = jax.default_backend() == "cpu"
        if settings.chunk_mode == "auto":
            slow = cpu and not self.system.finetune.loops
            settings = dataclasses.replace(settings, chunk_mode="dispatch" if slow or self.buckets else "scan")
        if self.buckets and settings.chunk_mode == "scan":
            raise UserError("engine.chunk_mode is 'scan'; this system batches clips by length: use dispatch or auto")
        if settings.folds_per_device == 0:
            count = decided.get("folds_per_device") or (1 if cpu else int(mesh.agree(self._fitting_folds(settings))))
            settings = dataclasses.replace(settings, folds_per_device=count)
        # a run that has moved to more devices, or asks for more folds than there are, would train padding
        most = -(-len(self.folds.names) // self.mesh.size)
        settings = dataclasses.replace(settings, folds_per_device=min(settings.folds_per_device, most))
        if settings.fold_mode == "auto":
            if "fold_mode" in decided:
                mode = decided["fold_mode"]
            elif settings.folds_per_device == 1:
                mode = "loop"
            else:
                modes = [(m, dataclasses.replace(settings, fold_mode=m)) for m in ("loop", "vmap")]
                seconds = {m: mesh.agree(self._time(self._compile(changed))) for m, changed in modes}
                mode = min(seconds, key=lambda m: seconds[m])
            settings = dataclasses.replace(settings, fold_mode=mode)
        return self._compile(settings)

    def _compile(self, settings: FoldSettings) -> Programs:
        sets = self.folds.train.sum(1)
        if self.buckets:
            sizes = np.stack([self.folds.train[:, self.buckets.of_clip == b].sum(1) for b in self._used_buckets()])
            sets = sizes[sizes > 0]
        return Programs(self.system, settings, self.mesh, self.buckets, int(sets.min()))

    def _used_buckets(self) -> list[int]:
        return sorted(set(self.buckets.of_clip.tolist())) if self.buckets else [0]

    def _lower(self, programs: Programs) -> tuple[Any, Any]:
        """The largest step of a wave, lowered, and the shapes of the wave's states."""
        masks, keys = self._inputs(self.folds.names[: programs.wave_size], programs.wave_size)
        states = jax.eval_shape(programs.init, masks, keys, self.store, self._previous)
        step = np.int32(0)
        lowered = programs.chunk.lower(states, masks, keys, self.store, step, step, 1, self._used_buckets()[-1])
        return lowered, states

    def _fitting_folds(self, settings: FoldSettings) -> int:
        """Folds per device that fit into 80 % of its memory, from the compiled step of one fold."""
        one = dataclasses.replace(settings, folds_per_device=1, fold_mode="loop")
        lowered, states = self._lower(self._compile(one))
        memory = lowered.compile().memory_analysis()
        stats = jax.local_devices()[0].memory_stats() or {}
        own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states)) // self.mesh.size
        free = 0.8 * (stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
        fitting = int(free // (2 * own + memory.temp_size_in_bytes)) if free > 0 else 1
        return max(1, min(fitting, -(-len(self.folds.names) // self.mesh.size)))

    def seconds_a_step(self) -> float:
        """Measured time of one step of a wave, with throw-away states."""
        return self._time(self._programs) / _TIMED_STEPS

    def _time(self, programs: Programs) -> float:
        """Seconds of _TIMED_STEPS steps of a throw-away wave in the longest bucket, compilation not counted."""
        masks, keys = self._inputs(self.folds.names[: programs.wave_size], programs.wave_size)
        bucket, scan = self._used_buckets()[-1], programs.settings.chunk_mode == "scan"

        def run(states: TrainState, first: int) -> TrainState:
            for s in range(first, first + _TIMED_STEPS, _TIMED_STEPS if scan else 1):
                at, count = np.int32(s), _TIMED_STEPS if scan else 1
                states, _ = programs.chunk(states, masks, keys, self.store, at, at, count, bucket)
            jax.block_until_ready(states)
            return states

        states = run(programs.init(masks, keys, self.store, self._previous), 0)
        start = time.perf_counter()
        run(states, _TIMED_STEPS)
        return time.perf_counter() - start
