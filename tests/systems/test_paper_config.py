"""The 224-pixel network of `configs/ma2mi.py:paper` takes a step of both stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import ma2mi
from mer_jax import systems
from mer_jax.settings import Settings
from mer_jax.systems.base import Stage
from mer_jax.training import optimizer
from mer_jax.training.state import TrainState, carry_over
from mer_jax.training.step import initial_variables, make_step


def prepared(stage: Stage, batch: Any) -> tuple[Any, Any]:
    """How a state is made, and the step (without warm-up, whose first step has rate 0)."""
    tx = optimizer.build(dataclasses.replace(stage.optimizer, warmup_steps=0), 10, 10)

    def create(key: jax.Array) -> TrainState:
        return TrainState.create(initial_variables(stage, batch, key), tx, 0.0)

    return create, make_step(stage, tx)


def test_a_step_of_each_stage(quick: Callable) -> None:
    """The pre-training step is run, the recognition step is traced."""
    config = ma2mi.get_config("paper")
    system = systems.build(Settings(config.to_dict()), 5)
    assert config.engine.dtype == "bfloat16"
    assert system.needs.size == 224
    rng = np.random.default_rng(0)
    frames = {k: jnp.asarray(rng.uniform(size=(1, 224, 224, 3)), jnp.float32) for k in ("first", "second")}
    batch, key = {**frames, "label": jnp.array([3])}, jax.random.key(0)
    assert system.pretrain is not None
    create, step = prepared(system.pretrain, batch)
    before = quick(create, key)
    after, metrics = quick(step, before, batch, key)
    assert np.isfinite([float(m) for m in metrics.values()]).all()
    assert float(metrics["loss"]) > 0
    statistics = zip(*(jax.tree.leaves(s.collections["batch_stats"]) for s in (before, after)), strict=True)
    assert all(bool((a != b).any()) for a, b in statistics)  # every layer of the action branch was reached
    assert bool((after.params["decoder"]["last"]["bias"] != 0).all())

    create, step = prepared(system.finetune, batch)
    state = jax.eval_shape(create, key)
    carried, _ = carry_over({"params": state.params, **state.collections}, before.variables, system.finetune.carry)
    state, metrics = jax.eval_shape(step, state.replace(params=carried["params"]), batch, key)
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
    assert sizes == {"encoder": 2_528_884 + 6_407_168, "head": 501_765}
    assert metrics["loss"].shape == ()
