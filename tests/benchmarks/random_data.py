"""Clips and pairs of noise in the shapes that a system needs, so that nothing has to be built to measure it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from mer_jax.data import shapes


def filled(tree: Any) -> Any:
    """Noise for every `jax.ShapeDtypeStruct` of a tree; arrays are left alone."""
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if np.issubdtype(x.dtype, np.integer):
            return rng.integers(0, 255, x.shape, np.uint8).astype(x.dtype)
        return rng.uniform(0, 1, x.shape).astype(x.dtype)

    return jax.tree.map(one, tree)


def store(needs: Any, clips: int, frames: int, classes: int) -> Any:
    """A `ClipStore` of clips of one length, with the motion targets and landmarks that a system needs."""
    return filled(shapes.store(needs, clips, frames, classes))


def pairs(batch: int, size: int, task: str, classes: int) -> dict[str, np.ndarray]:
    """A batch of the pre-training stream."""
    numbers = np.arange(batch, dtype=np.int32)
    facts = {"weight": np.ones(batch, np.float32), "label": numbers % classes, "example": numbers, "epoch": 0 * numbers}
    return {**filled(shapes.pairs(batch, size, task)), **facts}


def protocol(clips: int, people: int) -> Any:
    """Leave-one-person-out folds, clips dealt round."""
    from mer_jax.training.folds import Folds

    test = np.stack([np.arange(clips) % people == p for p in range(people)])
    return Folds(tuple(f"p{p}" for p in range(people)), ~test, np.zeros_like(test), test)
