"""FDP as described, at the full size of `configs/fdp.py:paper`; a training step of two frames a clip, at full width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import fdp as config
from mer_jax import systems
from mer_jax.settings import Settings
from mer_jax.training import optimizer
from mer_jax.training.state import TrainState
from mer_jax.training.step import make_step

SETTINGS = Settings(config.get_config("paper,model.form=direct,data.frames=2").to_dict())
BATCH = {
    "frames": np.random.default_rng(0).uniform(size=(1, 2, 64, 64, 1)).astype(np.float32),
    "position": np.arange(2)[None],
    "label": np.array([3]),
}


def blocks(params: Any) -> int:
    return sum(name.startswith("stage") for name in params["encoder"])


def test_the_whole_network(shapes: Callable) -> None:
    model = SETTINGS.model
    assert (model.depths, model.widths, model.map_size) == ((3, 4, 10, 3), (96, 192, 384, 768), 64)
    assert (model.local, model.attention, model.pool, SETTINGS.ft.rank_weight) == ("grouped", True, "rank_score", 1.0)
    stage = systems.build(SETTINGS, 5).finetune
    params = shapes(stage.module, BATCH)["params"]
    assert blocks(params) == 20 + 4  # local aggregators, and a global one at the end of each stage
    assert sum(x.size for x in jax.tree.leaves(params)) == 69_740_377


def test_a_step_at_full_width(random_variables: Callable, quick: Callable) -> None:
    """Of a shallower network: all that a step does, with less to compile."""
    stage = systems.build(SETTINGS.replace(model=SETTINGS.model.replace(depths=(1, 1, 2, 1))), 5).finetune
    batch = jax.tree.map(jnp.asarray, BATCH)
    tx = optimizer.build(stage.optimizer, 10, 10)
    key = jax.random.key(0)
    before = TrainState.create(random_variables(stage.module, batch), tx, 0.0)
    assert blocks(before.params) == 5 + 4
    after, metrics = quick(make_step(stage, tx), before, batch, key)
    assert np.isfinite([float(m) for m in metrics.values()]).all()
    assert min(float(metrics[name]) for name in ("cross_entropy", "dynamic_mse", "rank", "gradient_norm")) > 0
    statistics = zip(*(jax.tree.leaves(s.collections["batch_stats"]) for s in (before, after)), strict=True)
    assert all(bool((a != b).any()) for a, b in statistics)  # every layer was reached
    changed = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)]
    assert np.mean(changed) > 0.9  # biases before a softmax over tokens, and blocks dropped this time, stay
