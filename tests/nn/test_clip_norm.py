"""BatchNorm of clips against one clip at a time in numpy, and against Linen's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn.clip_norm import ClipNorm
from mer_jax.nn.resnet import RESNET18, ResNet, max_pool

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(3, 4, 2, 2, 5))).astype(np.float32)  # 3 clips, 4 frames
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], bool)
SCALE, BIAS = RNG.uniform(0.5, 1.5, 5).astype(np.float32), RNG.normal(size=5).astype(np.float32)
MEAN, VAR = RNG.normal(size=5).astype(np.float32), RNG.uniform(0.5, 2, 5).astype(np.float32)
VARIABLES: Any = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": {"mean": MEAN, "var": VAR}}


def normalised(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    return (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


def run(quick: Callable, statistics: str, x: np.ndarray, train: bool = True) -> tuple[np.ndarray, Any]:
    module = ClipNorm(statistics)

    def apply(x: jax.Array) -> Any:
        flat = x.reshape(-1, *x.shape[2:])
        out, changed = module.apply(VARIABLES, flat, MASK, train, mutable=["batch_stats"])
        return out.reshape(x.shape), {**VARIABLES["batch_stats"], **changed.get("batch_stats", {})}

    out, stats = quick(apply, x)
    return np.asarray(out), stats


def test_clips_are_normalised_one_at_a_time(quick: Callable) -> None:
    found, stats = run(quick, "clip", X)
    mean, var = MEAN.astype(np.float64), VAR.astype(np.float64)
    for clip, mask, out in zip(X, MASK, found, strict=True):
        own = clip[mask].reshape(-1, 5).astype(np.float64)
        np.testing.assert_allclose(out[mask], normalised(clip[mask], own.mean(0), own.var(0)), atol=1e-4)
        mean = 0.9 * mean + 0.1 * own.mean(0)
        var = 0.9 * var + 0.1 * own.var(0, ddof=1)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)


@pytest.mark.parametrize("statistics", ["clip", "batch"])
def test_invalid_frames_change_nothing(statistics: str, quick: Callable) -> None:
    other = np.where(MASK[..., None, None, None], X, 1e6).astype(np.float32)
    (one, first), (two, second) = run(quick, statistics, X), run(quick, statistics, other)
    np.testing.assert_array_equal(one[MASK], two[MASK])
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_batch_is_normalised_together(quick: Callable) -> None:
    found, stats = run(quick, "batch", X)
    every = X[MASK].reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(found[MASK], normalised(X[MASK], every.mean(0), every.var(0)), atol=1e-4)
    np.testing.assert_allclose(stats["mean"], 0.9 * MEAN + 0.1 * every.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 * VAR + 0.1 * every.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize(("statistics", "train"), [("frozen", True), ("clip", False)])
def test_running_averages_serve_evaluation_and_frozen_training(statistics: str, train: bool, quick: Callable) -> None:
    found, stats = run(quick, statistics, X, train)
    np.testing.assert_allclose(found, normalised(X, MEAN, VAR), atol=1e-4)
    linen: Any = nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(VARIABLES, X)
    np.testing.assert_allclose(found, linen, atol=1e-5)
    np.testing.assert_array_equal(stats["mean"], MEAN)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="none of clip, batch, frozen"):
        ClipNorm("none").init(jax.random.key(0), X[0], MASK[:1], True)


def test_resnet_of_akmnet_has_the_published_size() -> None:
    """11,168,704 parameters; a grey frame of 128 pixels becomes 512 x 4 x 4, and clips keep the names of frames."""
    module = ResNet(RESNET18, stem=5, strides=(1, 2, 2, 2), statistics="clip")
    x, mask = jnp.zeros((2, 128, 128, 1)), jnp.ones((1, 2), bool)

    def shapes(*mask: Any) -> Any:
        return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, False, *mask))

    (out, clips), (_, frames) = shapes(mask), shapes()
    assert out.shape == (2, 4, 4, 512)
    assert sum(int(np.prod(p.shape)) for p in jax.tree.leaves(clips["params"])) == 11_168_704
    assert jax.tree.map(jnp.shape, clips) == jax.tree.map(jnp.shape, frames)


def test_pooling_is_that_of_linen(quick: Callable) -> None:
    x = np.maximum(RNG.normal(size=(2, 8, 6, 3)), 0).astype(np.float32)
    weigh = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)

    def both(x: jax.Array, pool: Callable) -> Any:
        return pool(x), jax.grad(lambda x: (pool(x) * weigh).sum())(x)

    theirs = lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # noqa: E731
    (one, slope), (two, expected) = (quick(lambda x, p=p: both(x, p), x) for p in (max_pool, theirs))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(slope[x > 0], expected[x > 0], atol=1e-6)  # of equal zeros either may be the largest
