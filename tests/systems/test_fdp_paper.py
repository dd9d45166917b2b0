"""FDP as described, at the full width of `configs/fdp.py:paper`, takes a training step (of two frames a clip)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import fdp as config
from mer_jax import systems
from mer_jax.settings import Settings
from mer_jax.training import optimizer
from mer_jax.training.state import TrainState
from mer_jax.training.step import initial_variables, make_step

OPTIONS: Any = {"xla_backend_optimization_level": 0}


def test_a_step_at_full_width() -> None:
    settings = Settings(config.get_config("paper,model.form=direct,data.frames=2").to_dict())
    model = settings.model
    assert (model.depths, model.widths, model.map_size) == ((3, 4, 10, 3), (96, 192, 384, 768), 64)
    assert (model.local, model.attention, model.pool, settings.ft.rank_weight) == ("grouped", True, "rank_score", 1.0)
    stage = systems.build(settings, 5).finetune
    rng = np.random.default_rng(0)
    batch = {
        "frames": jnp.asarray(rng.uniform(size=(1, 2, 64, 64, 1)), jnp.float32),
        "position": jnp.arange(2)[None],
        "label": jnp.array([3]),
    }
    tx = optimizer.build(stage.optimizer, 10, 10)

    def create(key: jax.Array) -> TrainState:
        return TrainState.create(initial_variables(stage, batch, key), tx, 0.0)

    key = jax.random.key(0)
    before = jax.jit(create).lower(key).compile(compiler_options=OPTIONS)(key)
    blocks = {name for name in before.params["encoder"] if name.startswith("stage")}
    assert len(blocks) == 20 + 4  # local aggregators, and a global one at the end of each stage
    step = jax.jit(make_step(stage, tx)).lower(before, batch, key).compile(compiler_options=OPTIONS)
    after, metrics = step(before, batch, key)
    assert np.isfinite([float(m) for m in metrics.values()]).all()
    assert min(float(metrics[name]) for name in ("cross_entropy", "dynamic_mse", "rank", "gradient_norm")) > 0
    statistics = zip(*(jax.tree.leaves(s.collections["batch_stats"]) for s in (before, after)), strict=True)
    assert all(bool((a != b).any()) for a, b in statistics)  # every layer was reached
    changed = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)]
    assert np.mean(changed) > 0.9  # biases before a softmax over tokens, and blocks dropped this time, stay
