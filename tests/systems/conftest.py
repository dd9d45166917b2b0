"""Settings and variables for tests of systems: the documented defaults, at a size that compiles quickly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.settings import Settings

AUGMENT = {"flip_p": 0.5, "rotate_deg": 3.0, "shift_px": 4, "brightness": 0.1, "contrast": 0.1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "engine": {"dtype": "float32"},
    "data": {"size": 32, "normalise": "imagenet", "action_units": ()},
    "model": {
        "encoder": "miacnet", "variant": "M0", "input": "diff", "width": 0.03, "head": "flatten",
        "head_dropout": 0.5, "position_depth": 1, "position_mlp": 4.0, "position_drop_path": 0.0, "fusion_depth": 1,
    },
    "pre": {
        "objective": "reconstruct", "task": "reconstruct", "latent": "dct", "cond": "token", "bottleneck": 8,
        "dec_dim": 16, "dec_depth": 1, "dec_heads": 2, "shuffle_actions": False, "motion_weight": 0.0,
        "ae_steps": 4, "ae_batch": 4, "ae_learning_rate": 1e-3, "augment": AUGMENT,
        "optimizer": {"learning_rate": 3e-4, "weight_decay": 0.05, "b2": 0.95, "clip_norm": 1.0},
    },
    "ft": {
        "jitter": 0.25, "augment": AUGMENT,
        "optimizer": {"learning_rate": 8e-4, "weight_decay": 0.05, "groups": (("encoder", 0.125),)},
    },
}  # fmt: skip


def make(**changes: Any) -> Settings:
    """Settings with changes like model={"width": 1.0} or task="au"."""
    fields: dict[str, Any] = {"system": "ma2mi", "task": "emotion", **DEFAULTS}
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    return Settings(fields)


def _quick(function: Callable, *args: Any) -> Any:
    return jax.jit(function)(*args)


@pytest.fixture(scope="session")
def quick() -> Callable:
    """`(function, *args) -> function(*args)` as one program: by itself every operation would be compiled alone."""
    return _quick


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    return make


def _shapes(module: nn.Module, batch: Any) -> Any:
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda b: module.init(rngs, b, False), batch)


@pytest.fixture(scope="session")
def shapes() -> Callable[[nn.Module, Any], Any]:
    """`(module, batch) -> ` shapes of its variables; nothing is computed, so any size will do."""
    return _shapes


@pytest.fixture(scope="session")
def random_variables() -> Callable[[nn.Module, Any], Any]:
    """`(module, batch) -> ` variables that are random everywhere: zero-initialised layers would hide others."""

    def build(module: nn.Module, batch: Any, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)

        def leaf(path: Any, x: Any) -> jax.Array:
            names = [k.key for k in path]
            if names[-1] in ("var", "std"):
                return jnp.asarray(rng.uniform(0.5, 2.0, x.shape), jnp.float32)
            if names[-1] == "scale":
                return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
            deviation = np.prod(x.shape[:-1]) ** -0.5 if names[-1] == "kernel" else 0.1
            return jnp.asarray(deviation * rng.normal(size=x.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(leaf, _shapes(module, batch))

    return build


@functools.cache
def _batch(size: int, n: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(size)
    frames = {k: jnp.asarray(rng.uniform(size=(n, size, size, 3)), jnp.float32) for k in ("before", "first", "second")}
    return {**frames, "label": jnp.arange(n, dtype=jnp.int32) % 3}


@pytest.fixture(scope="session")
def make_batch() -> Callable[[int, int], dict[str, jax.Array]]:
    """`(size, n) -> ` a batch of n random triples of frames with labels."""
    return _batch
