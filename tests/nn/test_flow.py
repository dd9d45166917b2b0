"""Correlation volume and flow network, and the convolutions below them, against slow numpy formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import flow, patches


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "forms"),
    [
        (3, 1, 1, ("direct", "patches", "taps")),
        (4, 2, 1, ("direct", "patches", "blocks")),
        (2, 2, 0, ("direct", "patches", "blocks")),
        (6, 2, 2, ("direct", "patches", "blocks")),
    ],
)
def test_convolutions(kernel: int, stride: int, padding: int, forms: tuple[str, ...]) -> None:
    """Sum over the window, place after place; gradients of all forms are the same."""
    x, k = random(2, 6, 5, 3), random(kernel, kernel, 3, 4, seed=1)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (6, 5))
    expected = np.zeros((2, height, width, 4))
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[:, i, j] = np.einsum("nhwc,hwcf->nf", window, k)
    gradients = []
    for form in forms:

        def loss(x: Any, k: Any, form: str = form) -> tuple[jax.Array, jax.Array]:
            y = patches.convolve(x, k, stride, padding, form)
            return (y**2).sum(), y

        found, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, k)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        gradients.append(found)
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), gradients[0], other)
    for form, side in (("taps", kernel), ("blocks", 3)):
        with pytest.raises(ValueError, match="form"):
            patches.convolve(x, random(side, side, 3, 4), 2, padding, form)


def test_a_free_batch_keeps_the_form_of_every_device() -> None:
    """A network that is exported for CPU, GPU and TPU at once has no forms that are fast on one of them alone."""
    (free,) = jax.export.symbolic_shape("b")

    def text(batch: Any) -> str:
        x = jax.ShapeDtypeStruct((batch, 8, 8, 4), jnp.float32)
        k, up = (jax.ShapeDtypeStruct((4, 4, 4, features), jnp.float32) for features in (6, 20))
        return jax.export.export(
            jax.jit(lambda x, k, up: (patches.convolve(x, k, 2, 1), patches.upconvolve(x, up))),
            platforms=("cpu", "tpu"),
        )(x, k, up).mlir_module()

    assert "stablehlo.dot_general" not in text(free)
    assert "stablehlo.convolution" not in text(2)


def test_transposed_convolution() -> None:
    """Every pixel adds its kernel at twice its place, minus one."""
    x, k = random(2, 3, 2, 3), random(3, 4, 4, 5, seed=1)
    expected = np.zeros((2, 8, 6, 5))
    for i in range(3):
        for j in range(2):
            expected[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("nc,chwf->nhwf", x[:, i, j], k)
    gradients = []
    for form in ("direct", "taps", "blocks"):
        found, blocks = (patches.upconvolve(jnp.asarray(x), jnp.asarray(k), form, b) for b in (False, True))
        np.testing.assert_allclose(found, expected[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(blocks, patches.to_blocks(found))
        for b in (False, True):
            loss = jax.grad(lambda x, k, f=form, b=b: (patches.upconvolve(x, k, f, b) ** 3).sum(), (0, 1))
            gradients.append(loss(jnp.asarray(x), jnp.asarray(k)))
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), gradients[0], other)
    with pytest.raises(ValueError, match="form"):
        patches.upconvolve(jnp.asarray(x), jnp.asarray(k), "patches")


def test_convolution_of_blocks() -> None:
    x, k = random(2, 6, 4, 3), random(3, 3, 3, 2, seed=1)
    blocks = patches.to_blocks(jnp.asarray(x))
    np.testing.assert_array_equal(blocks[0, 1, 1, :6], np.concatenate([x[0, 2, 2], x[0, 2, 3]]))
    found = patches.convolve(blocks, patches.blocks_kernel(jnp.asarray(k)), padding=1)
    expected = patches.convolve(jnp.asarray(x), jnp.asarray(k), padding=1, form="direct")
    np.testing.assert_allclose(patches.from_blocks(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "search", "dilation"), [((4, 6), 20, 2), ((5, 4), 20, 2), ((4, 5), 2, 1), ((6, 6), 2, 2)]
)
def test_correlation(size: tuple[int, int], search: int, dilation: int) -> None:
    """Displacement after displacement, zero outside; the full volume is what is computed, framed by zeros."""
    (height, width), steps = size, search // dilation
    a, b = random(2, height, width, 3), random(2, height, width, 3, seed=1)
    expected = np.zeros((2, height, width, 2 * steps + 1, 2 * steps + 1))
    for i in range(2 * steps + 1):
        for j in range(2 * steps + 1):
            for y in range(height):
                for x in range(width):
                    y2, x2 = y + (i - steps) * dilation, x + (j - steps) * dilation
                    if 0 <= y2 < height and 0 <= x2 < width:
                        expected[:, y, x, i, j] = (a[:, y, x] * b[:, y2, x2]).mean(-1)
    found = np.asarray(flow.correlation(jnp.asarray(a), jnp.asarray(b), search, dilation))
    empty = [steps - flow.reached(s, search, dilation) for s in size]
    full = np.pad(found, ((0, 0),) * 3 + ((empty[0],) * 2, (empty[1],) * 2))
    np.testing.assert_allclose(full, expected, rtol=1e-4, atol=1e-5)


def test_joint_convolution_leaves_out_zeros_only(random_params: Callable) -> None:
    """The same as a convolution over the whole volume, whose border is zero."""
    redirected, trunk, volume = random(1, 4, 4, 2), random(1, 4, 4, 3, seed=1), random(1, 4, 4, 3, 3, seed=2)
    module = flow.JointConv(5, steps=7)
    params = random_params(module, redirected, volume, trunk)
    full = np.pad(volume, ((0, 0),) * 3 + ((2, 2), (2, 2))).reshape(1, 4, 4, 49)
    joint = np.concatenate([redirected, full, trunk], axis=-1)
    expected = patches.convolve(jnp.asarray(joint), params["kernel"], padding=1, form="direct")
    found = module.apply({"params": params}, redirected, volume, trunk)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_every_pair_sees_its_own_two_frames(random_variables: Callable) -> None:
    """And nothing else: not the other pairs, not its place in the sequence."""
    module = flow.FlowNet(width=0.03, depth=2)
    frames, trunk = random(2, 4, 24, 24, 1), random(2, 3, 3, 3, 4, seed=1)
    variables = random_variables(module, frames, trunk, False)
    apply = jax.jit(lambda f, t: module.apply(variables, f, t, False))
    before = np.asarray(apply(frames, trunk))
    assert before.shape == (2, 3, 24, 24, 2)
    least = 1e-4 * np.abs(before).max()
    changed = frames.copy()
    changed[1, 3] += random(24, 24, 1, seed=5)
    difference = np.abs(np.asarray(apply(changed, trunk)) - before).max(axis=(2, 3, 4))
    assert (difference > least).tolist() == [[False] * 3, [False, False, True]]
    changed = trunk.copy()
    changed[0, 1] += 1
    difference = np.abs(np.asarray(apply(frames, changed)) - before).max(axis=(2, 3, 4))
    assert (difference > least).tolist() == [[False, True, False], [False] * 3]
    moved = np.asarray(apply(np.roll(frames, -1, axis=1), np.roll(trunk, -1, axis=1)))
    np.testing.assert_allclose(moved[:, :2], before[:, 1:], atol=least)
    chosen = np.array([[2, 0], [1, 2]])
    alone = jax.jit(lambda f, t: module.apply(variables, f, t, False, chosen))
    some = alone(frames, trunk[np.arange(2)[:, None], chosen])
    np.testing.assert_allclose(some, before[np.arange(2)[:, None], chosen], atol=least)


def test_the_change_basis_starts_at_no_flow_and_sees_changes_that_are_small(random_variables: Callable) -> None:
    """A change of the trunk a thousand times smaller than the trunk drives the gradient as much as the trunk does."""
    module = flow.FlowNet(width=0.03, depth=1, basis="difference", zero=True)
    frames, first = random(4, 2, 24, 24, 1), random(4, 1, 3, 3, 2, seed=1)
    trunk = np.concatenate([first, first + 1e-3 * random(4, 1, 3, 3, 2, seed=2)], axis=-1)
    first_kernel = jax.jit(lambda: module.init(jax.random.key(0), frames, trunk, True)["params"]["predict0"]["kernel"])
    assert (np.asarray(first_kernel()) == 0).all()
    variables = random_variables(module, frames, trunk, True)

    def loss(params: Any) -> jax.Array:
        flow, _ = module.apply({**variables, "params": params}, frames, trunk, True, mutable=["batch_stats"])
        return (flow * frames[:, :1]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])["conv3_1"]["kernel"]
    shared, change = (np.abs(np.asarray(gradient)[:, :, rows]).mean() for rows in (slice(-4, -2), slice(-2, None)))
    assert change > 0.2 * shared


def test_full_size() -> None:
    """39,730,282 parameters with two trunk features of 128 channels, whatever the size of the frames."""
    for size in (64, 128):
        frames = jax.ShapeDtypeStruct((1, 2, size, size, 1), jnp.float32)
        trunk = jax.ShapeDtypeStruct((1, 1, size // 8, size // 8, 256), jnp.float32)
        module = flow.FlowNet()
        variables = jax.eval_shape(lambda f, t, m=module: m.init(jax.random.key(0), f, t, False), frames, trunk)
        assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 39_730_282
        assert variables["params"]["conv3_1"]["kernel"].shape == (3, 3, 32 + 441 + 256, 256)
