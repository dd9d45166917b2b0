"""Pre-training on a stream: one network, the batch divided over every device there is.

jit over a mesh with the axis `data`: the step is written for the global batch, so the loss, the gradients and the
BatchNorm statistics are those of the global batch, on one device or on a pod. Parameters, moments and averages are
whole on every device, or divided over them too (`PretrainSettings.shard_params`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.errors import Preempted, UserError
from mer_jax.training import mesh, optimizer
from mer_jax.training.checkpoint import Rolling, nest, unflatten
from mer_jax.training.monitor import Monitor, Rate, check_finite
from mer_jax.training.state import TrainState, Variables
from mer_jax.training.step import check_remat, initial_variables, make_step


class Stream(Protocol):
    """Batches by step: a pure function of the step, each process holding its own slice (`data.stream.PairStream`)."""

    def __call__(self, step: int) -> dict[str, np.ndarray]: ...  # noqa: D102
    def iterate(self, start: int = 0, stop: int | None = None) -> Any: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """How the pre-training stage runs.

    Attributes:
      steps: training length.
      steps_per_epoch: ceil(clips / batch).
      batch: global batch, over all devices.
      chunk_steps: steps between two looks of the host.
      save_every: steps between two saves, a multiple of chunk_steps.
      seed: of this training.
      shard_params: divides large parameters, their moments and averages over the devices (`mesh.spread`): a step
        gathers the parameters, and each device updates its share with its share of the gradients.
      remat: see `step.make_step`.
    """

    steps: int
    steps_per_epoch: int
    batch: int
    chunk_steps: int = 50
    save_every: int = 200
    seed: int = 0
    shard_params: bool = False
    remat: str = "none"

    def __post_init__(self) -> None:
        check_remat(self.remat)
        if min(self.batch, self.chunk_steps, self.save_every) < 1 or self.save_every % self.chunk_steps:
            raise UserError(
                f"pre.batch, engine.chunk_steps and engine.save_every are {self.batch}, {self.chunk_steps} and "
                f"{self.save_every}; expected whole numbers above 0, save_every a multiple of chunk_steps"
            )


class PretrainEngine:
    """The compiled pieces of the pre-training stage of one system.

    Args:
      system: a `systems.base.System` with a `pretrain` stage and `pretrain_view`.
      settings: see PretrainSettings.
      over: mesh with the axis `data`; that of all devices where not given.
    """

    def __init__(self, system: Any, settings: PretrainSettings, over: jax.sharding.Mesh | None = None) -> None:
        self.system, self.stage, self.settings = system, system.pretrain, settings
        self.mesh = over if over is not None else mesh.make_mesh(mesh.DATA)
        if settings.batch % self.mesh.size:
            below = settings.batch // self.mesh.size * self.mesh.size
            near = " or ".join(str(n) for n in (below, below + self.mesh.size) if n)
            raise UserError(
                f"pre.batch is {settings.batch}; expected a multiple of the {self.mesh.size} devices it is divided "
                f"over: {near}"
            )
        self._tx = optimizer.build(self.stage.optimizer, settings.steps, settings.steps_per_epoch)
        divide = (self._gather, self._scatter) if settings.shard_params else ()
        self._step = make_step(self.stage, self._tx, settings.remat, *divide)
        self._key = jax.random.key_data(jax.random.key(settings.seed, impl="threefry2x32"))
        self.layout: Any = None  # where the leaves of a state lie; known once a batch has been seen, as the next two
        self._init: Any = None
        self._train: Any = None

    def _lay_out(self, one: Any, constants: Any) -> TrainState:
        """Decides where the state of batches like this one lies; returns its shapes, with their shardings."""
        whole, divided = mesh.replicated(self.mesh), mesh.split(self.mesh)
        shapes = jax.eval_shape(self._init_global, one, constants)
        if self.layout is None:
            sharded = self.settings.shard_params
            self.layout = mesh.spread(shapes, self.mesh) if sharded else jax.tree.map(lambda _: whole, shapes)
            self._init = mesh.Together(jax.jit(self._init_global, out_shardings=self.layout))
            placed = (self.layout, divided, whole)
            results = (self.layout, whole)
            train = jax.jit(self._train_global, in_shardings=placed, out_shardings=results, donate_argnums=0)
            self._train = mesh.Together(train)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.layout)

    def _gather(self, params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, mesh.replicated(self.mesh))

    def _scatter(self, gradients: Any) -> Any:
        return jax.lax.with_sharding_constraint(gradients, self.layout.params)

    def init(self, batch: dict[str, np.ndarray], constants: Any) -> TrainState:
        """A fresh state for batches like this one, around the fitted collection "constants" (empty: none)."""
        one = jax.tree.map(lambda x: np.zeros_like(x[:1]), batch)  # for shapes; the same on all processes
        self._lay_out(one, constants)
        return self._init(one, constants)

    def train(self, state: TrainState, batch: dict[str, np.ndarray], step: int) -> tuple[TrainState, Any]:
        """One step on this process's slice of the global batch; donates the state."""
        arrays = mesh.put_local(batch, mesh.split(self.mesh))
        return self._train(state, arrays, np.int32(step))

    def lower(self, batch: Any, constants: Any = None) -> Any:
        """The step for global batches of these shapes (`jax.ShapeDtypeStruct`), lowered; nothing is run."""
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), batch)
        state = self._lay_out(one, constants or {})
        return self._train.lower(state, batch, jax.ShapeDtypeStruct((), jnp.int32))

    def prepare(self, batch: dict[str, np.ndarray], train: bool = False) -> Any:
        """A raw batch of the stream as the network sees it (traced or not): unit range, cropped, augmented."""
        key = jax.random.wrap_key_data(self._key, impl="threefry2x32")
        frames = {k: v.astype(jnp.float32) / 255 if v.dtype == np.uint8 else jnp.asarray(v) for k, v in batch.items()}

        def one(example: Any) -> Any:
            own = jax.random.fold_in(jax.random.fold_in(key, example["epoch"]), example["example"])
            return self.system.pretrain_view(example, own, train)

        return jax.vmap(one)(frames)

    def seconds_a_step(self, batch: dict[str, np.ndarray], constants: Any, steps: int = 4) -> float:
        """Measured time of a step on one batch, with a throw-away state; compilation not counted."""
        state, _ = self.train(self.init(batch, constants), batch, 0)
        jax.block_until_ready(state)
        begin = time.perf_counter()
        for step in range(steps):
            state, _ = self.train(state, batch, step)
        jax.block_until_ready(state)
        return (time.perf_counter() - begin) / steps

    def _init_global(self, batch: Any, constants: Any) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(self._key, impl="threefry2x32"), 0x1417)
        variables = initial_variables(self.stage, self.prepare(batch), key)
        if constants:
            variables = {**variables, "constants": constants}
        return TrainState.create(variables, self._tx, self.stage.optimizer.ema)

    def _train_global(self, state: TrainState, batch: Any, step: Any) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(self._key, impl="threefry2x32"), step)
        return self._step(state, self.prepare(batch, train=True), key)


def pretrain(
    engine: PretrainEngine,
    stream: Stream,
    constants: Callable[[], Any],
    rolling: Rolling,
    monitor: Monitor,
    preemption: mesh.Preemption,
    meta: dict[str, Any],
    health: Callable[[Variables], dict[str, float]] | None = None,
) -> Variables:
    """Runs the stage to its end, from where the last save left it.

    Args:
      engine: compiled stage.
      stream: batches.
      constants: fits the collection "constants" of the module; called once, a resumed run has it in its checkpoint.
      rolling: states of this stage; the last one is the result, and says so ("finished" in its meta).
      monitor: looks and progress.
      preemption: asked after each chunk.
      meta: facts to keep with the checkpoint (persons, datasets).
      health: metrics of the current variables on held-out examples, taken at each look.

    Returns:
      The final variables.

    Raises:
      Preempted: SIGTERM; the state is saved.
      NonFiniteError: a metric is not finite; nothing of that chunk is saved.
    """
    settings = engine.settings
    start = rolling.latest() or 0
    arrays = rolling.restore(start)[0] if start else {}
    # fitted by every process, but rounding may differ between machines: those of the first one count
    fitted = nest(arrays).get("collections", {}).get("constants", {}) if start else mesh.agree_on(constants())
    state = engine.init(stream(0), fitted)
    if start:
        state = mesh.put(unflatten(jax.eval_shape(lambda: state), arrays), engine.layout)
        monitor.say(f"pre-training goes on from step {start} of {settings.steps}")
    rate = Rate(settings.steps, start)
    with stream.iterate(start, settings.steps) as batches:
        for end in _ends(start, settings):
            state, seconds, waited, metrics = _chunk(engine, state, batches, end)
            means = {k: float(np.mean([m[k] for m in metrics])) for k in metrics[0]}
            check_finite(means, f"pre-training before step {end}")
            means["waiting_for_data"] = waited / seconds
            if health is not None:
                means |= health(state.final_variables)
            monitor.look("pretrain", settings.seed, end, means)
            stop = preemption.reached()
            if stop or end % settings.save_every == 0 or end == settings.steps:
                rolling.save(end, state, {**meta, "step": end, "finished": end == settings.steps})
            if stop:
                rolling.wait()
                raise Preempted(f"stopped in pre-training at step {end}; saved. Run the same command again")
            rate.update(end)
            shown = "  ".join(f"{k} {means[k]:.3f}" for k in ("loss", "R", "R_shuf") if k in means)
            monitor.progress(
                f"pre-training {end}/{settings.steps}  {shown}  "
                f"{rate.per_second * settings.batch:.0f} examples/s  {rate.left} left"
            )
    rolling.wait()
    return state.final_variables


def _ends(start: int, settings: PretrainSettings) -> Iterator[int]:
    """Ends of the chunks: functions of the step number alone."""
    while start < settings.steps:
        start = min((start // settings.chunk_steps + 1) * settings.chunk_steps, settings.steps)
        yield start


def _chunk(engine: PretrainEngine, state: TrainState, batches: Any, end: int) -> tuple[TrainState, float, float, Any]:
    """Steps up to `end`; returns (state, seconds, seconds waited for data, metrics of each step)."""
    step = end - ((end - 1) % engine.settings.chunk_steps + 1)
    begin, waited = time.perf_counter(), 0.0
    metrics: list[Any] = []
    while step < end:
        asked = time.perf_counter()
        batch = next(batches)
        if not metrics or metrics[-1]["loss"].is_ready():  # the device had nothing to do during (part of) the wait
            waited += time.perf_counter() - asked
        state, values = engine.train(state, batch, step)
        metrics.append(values)
        step += 1
    host = mesh.fetch(metrics)  # waits for the device
    return state, time.perf_counter() - begin, waited, host
