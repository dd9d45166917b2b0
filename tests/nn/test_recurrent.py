"""GRU and LSTM against step-by-step numpy recurrences; gaps, directions, layers, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn.recurrent import Recurrent, Weights, uniform

HIDDEN, FEATURES, STEPS = 3, 4, 6
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(cell: str, weights: Any, x: np.ndarray) -> np.ndarray:
    """Outputs [T, H] of one sequence [T, F] without mask, gate by gate."""
    w, u, b = (np.asarray(weights[k], np.float64) for k in ("input_kernel", "hidden_kernel", "input_bias"))
    d = np.asarray(weights.get("hidden_bias", np.zeros_like(b)), np.float64)
    gate = [slice(k * HIDDEN, (k + 1) * HIDDEN) for k in range(4)]
    h, c, out = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for now in x.astype(np.float64):
        a, v = now @ w + b, h @ u + d
        if cell == "gru":
            r, z = sigmoid(a[gate[0]] + v[gate[0]]), sigmoid(a[gate[1]] + v[gate[1]])
            n = np.tanh(a[gate[2]] + r * v[gate[2]])
            h = (1 - z) * n + z * h
        else:
            i, f, g, o = (a[k] + v[k] for k in gate)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out).reshape(-1, HIDDEN)


def both_ways(cell: str, params: Any, layers: int, x: np.ndarray) -> np.ndarray:
    for k in range(layers):
        forward = reference(cell, params[f"layer_{k}_forward"], x)
        reverse = reference(cell, params[f"layer_{k}_reverse"], x[::-1])[::-1]
        x = np.concatenate([forward, reverse], axis=-1)
    return x


def inputs() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(4, STEPS, FEATURES)), jnp.float32)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_masked_layers_are_the_valid_steps_alone(cell: str, quick: Callable, random_params: Callable) -> None:
    """Every sequence, gaps taken out, through slow recurrences; nothing leaks from masked steps."""
    module, x = Recurrent(HIDDEN, cell, layers=2, bidirectional=True), inputs()
    params = random_params(module, x, MASK)

    def run(x: jax.Array) -> Any:
        return module.apply({"params": params}, x, MASK)

    outputs, final = quick(run, x)
    for i, mask in enumerate(MASK):
        expected = both_ways(cell, params, 2, np.asarray(x)[i][mask])
        np.testing.assert_allclose(outputs[i][mask], expected, atol=2e-6)
        np.testing.assert_array_equal(outputs[i][~mask], 0)
        if mask.any():
            last = [expected[-1, :HIDDEN], expected[0, HIDDEN:]]
            np.testing.assert_allclose(final[i], np.concatenate(last), atol=2e-6)
    np.testing.assert_array_equal(final[3], 0)
    gradient = quick(jax.grad(lambda x: (run(x)[0] ** 2).sum() + (run(x)[1] ** 3).sum()), x)
    np.testing.assert_array_equal(np.asarray(gradient)[~MASK], 0)
    assert (np.abs(np.asarray(gradient)[MASK]).sum(axis=-1) > 0).all()


def test_one_direction_reads_no_later_step(quick: Callable, random_params: Callable) -> None:
    module, x = Recurrent(HIDDEN, "lstm", hidden_bias=False), inputs()
    params = random_params(module, x, MASK)
    assert set(params) == {"layer_0_forward"}
    assert set(params["layer_0_forward"]) == {"input_kernel", "hidden_kernel", "input_bias"}
    everything = np.ones((1, STEPS), bool)  # the mask is broadcast
    run = lambda x: module.apply({"params": params}, x, everything)[0]  # noqa: E731
    one, other = quick(run, x), quick(run, x.at[:, 4:].set(0))
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert float(jnp.abs(one[:, 4:] - other[:, 4:]).max()) > 1e-3
    np.testing.assert_allclose(one[2], reference("lstm", params["layer_0_forward"], np.asarray(x)[2]), atol=2e-6)


def test_gradient_is_that_of_finite_differences(quick: Callable, random_params: Callable) -> None:
    module, x = Recurrent(HIDDEN, "gru", bidirectional=True), inputs()
    params = random_params(module, x, MASK)
    weigh = jnp.asarray(np.random.default_rng(2).normal(size=(4, STEPS, 2 * HIDDEN)), jnp.float32)

    def loss(p: Any) -> jax.Array:
        return (module.apply({"params": p}, x, MASK)[0] * weigh).sum()

    gradient = quick(jax.grad(loss), params)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    step, value = 1e-2, jax.jit(loss)
    ends = [value(jax.tree.map(lambda p, d, s=s: p + s * step * d, params, direction)) for s in (1, -1)]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=2e-3)


def test_leading_axes_are_sequences_of_their_own(quick: Callable, random_params: Callable) -> None:
    module, x = Recurrent(HIDDEN, bidirectional=True), inputs()
    params = random_params(module, x, MASK)
    flat, _ = quick(lambda x: module.apply({"params": params}, x, MASK), x)
    folded, final = quick(
        lambda x: module.apply({"params": params}, x, MASK.reshape(2, 2, STEPS)), x.reshape(2, 2, STEPS, FEATURES)
    )
    np.testing.assert_array_equal(folded.reshape(flat.shape), flat)
    assert final.shape == (2, 2, 2 * HIDDEN)


def test_initial_weights_are_orthogonal_or_uniform() -> None:
    module = Weights(8, 3, True, jax.nn.initializers.orthogonal(), uniform(1.0, 0.0))
    params = module.init(jax.random.key(0), 40)["params"]
    np.testing.assert_allclose(params["input_kernel"].T @ params["input_kernel"], np.eye(24), atol=1e-5)
    np.testing.assert_allclose(params["hidden_kernel"] @ params["hidden_kernel"].T, np.eye(8), atol=1e-5)
    assert 0 <= float(params["input_bias"].min()) < float(params["input_bias"].max()) < 1
    plain = Weights(64, 4).init(jax.random.key(0), 128)["params"]
    assert 0.12 < max(float(jnp.abs(p).max()) for p in jax.tree.leaves(plain)) <= 1 / 8


def count(module: Recurrent, features: int) -> int:
    x, mask = jnp.zeros((1, 2, features)), jnp.ones((1, 2), bool)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, mask))
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(shapes))


def test_published_sizes() -> None:
    # AKMNet's pixel-wise bi-GRU; ATNet's temporal stream (two Caffe LSTMs, one bias a gate)
    assert count(Recurrent(32, "gru", 2, bidirectional=True), 512) == 123_648
    assert count(Recurrent(512, "lstm", 2, hidden_bias=False), 128) == 3_411_968
