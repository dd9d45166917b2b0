"""Quick compilation for tests of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _quick(function: Callable, *args: Any) -> Any:
    return jax.jit(function)(*args)


@pytest.fixture(scope="session")
def quick() -> Callable:
    """`(function, *args) -> function(*args)` as one program: by itself every operation would be compiled alone."""
    return _quick


@pytest.fixture(scope="session")
def random_params() -> Callable:
    """`(module, *args) -> ` parameters that are random everywhere: zero-initialised layers would hide others."""

    def build(module: Any, *args: Any) -> Any:
        rng = np.random.default_rng(9)
        tree = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *args))["params"]
        return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32), tree)

    return build


@pytest.fixture(scope="session")
def random_variables() -> Callable:
    """`(module, *args) -> ` all variables, random everywhere; variances and scales positive."""

    def build(module: Any, *args: Any) -> Any:
        rng = np.random.default_rng(9)

        def leaf(path: Any, x: Any) -> jax.Array:
            if path[-1].key in ("var", "scale"):
                return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
            return jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(lambda: module.init(jax.random.key(0), *args)))

    return build
