"""Attention blocks against numpy formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import attention

B, N, D, HEADS = 2, 5, 8, 2


def tokens(seed: int, n: int = N, d: int = D) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (B, n, d))


def dense(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"], np.float64)


def layer_norm(x: np.ndarray, p: Any = None) -> np.ndarray:
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return y if p is None else y * np.asarray(p["scale"]) + np.asarray(p["bias"])


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) v, head by head in plain loops."""
    out = np.zeros_like(q)
    width = q.shape[-1] // HEADS
    for b in range(q.shape[0]):
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            score = q[b, :, part] @ k[b, :, part].T / np.sqrt(width)
            weight = np.exp(score - score.max(-1, keepdims=True))
            out[b, :, part] = weight / weight.sum(-1, keepdims=True) @ v[b, :, part]
    return out


def self_attention(p: Any, x: np.ndarray) -> np.ndarray:
    return dense(p["out"], attend(*np.split(dense(p["qkv"], x), 3, axis=-1)))


def erf_gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_vit_block_follows_the_formula(quick: Callable, random_params: Callable) -> None:
    block = attention.TransformerBlock(HEADS)
    x = tokens(0)
    params = random_params(block, x)
    ref = np.asarray(x, np.float64)
    ref = ref + self_attention(params["attention"], layer_norm(ref, params["norm_1"]))
    hidden = erf_gelu(dense(params["mlp"]["up"], layer_norm(ref, params["norm_2"])))
    ref = ref + dense(params["mlp"]["down"], hidden)
    np.testing.assert_allclose(quick(block.apply, {"params": params}, x), ref, rtol=2e-4, atol=2e-4)


def test_cross_attention_block_follows_the_formula_and_starts_as_identity(
    quick: Callable, random_params: Callable
) -> None:
    block = attention.CrossAttentionBlock(HEADS)
    x, context = tokens(0), tokens(1, n=3)
    np.testing.assert_array_equal(quick(block.init_with_output, jax.random.key(1), x, context)[0], x)
    params = random_params(block, x, context)
    a = params["attention"]
    ref, other = np.asarray(x, np.float64), np.asarray(context, np.float64)
    k, v = np.split(dense(a["key_value"], layer_norm(other, params["norm_context"])), 2, axis=-1)
    ref = ref + dense(a["out"], attend(dense(a["query"], layer_norm(ref, params["norm"])), k, v))
    np.testing.assert_allclose(quick(block.apply, {"params": params}, x, context), ref, rtol=2e-4, atol=2e-4)


def test_adaln_block_follows_the_formula_and_starts_as_identity(quick: Callable, random_params: Callable) -> None:
    block = attention.AdaLNBlock(HEADS)
    x, condition = tokens(0), tokens(1, d=6)
    np.testing.assert_array_equal(quick(block.init_with_output, jax.random.key(1), x, condition)[0], x)
    params = random_params(block, x, condition)
    ref, c = np.asarray(x, np.float64), np.asarray(condition, np.float64)
    silu = c / (1 + np.exp(-c))
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense(params["modulation"]["dense"], silu), 6, -1)
    ref = ref + gate_1 * self_attention(params["attention"], layer_norm(ref) * (1 + scale_1) + shift_1)
    hidden = tanh_gelu(dense(params["mlp"]["up"], layer_norm(ref) * (1 + scale_2) + shift_2))
    ref = ref + gate_2 * dense(params["mlp"]["down"], hidden)
    np.testing.assert_allclose(quick(block.apply, {"params": params}, x, condition), ref, rtol=5e-4, atol=5e-4)


def test_one_condition_for_all_tokens_equals_the_same_condition_at_each(
    quick: Callable, random_params: Callable
) -> None:
    block = attention.AdaLNBlock(HEADS)
    x, one = tokens(0), tokens(1, n=1, d=6)
    variables = {"params": random_params(block, x, one)}
    repeated = quick(block.apply, variables, x, jnp.repeat(one, N, axis=1))
    np.testing.assert_allclose(quick(block.apply, variables, x, one), repeated, rtol=1e-5, atol=1e-5)


def test_positions_in_closed_form() -> None:
    table = attention.sincos_2d(3, 4, 8)
    assert table.shape == (12, 8)
    # row 2, column 3; two frequencies an axis: 1 and 1/100
    expected = [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02), np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)]
    np.testing.assert_allclose(table[2 * 4 + 3], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="multiples of 4"):
        attention.sincos_2d(2, 2, 6)


def test_drop_path_drops_whole_examples_and_keeps_the_mean() -> None:
    drop = attention.DropPath(0.25)
    x = jnp.ones((4000, 3))
    y = np.asarray(drop.apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y.round(4))) == {0.0, np.float32(1.3333)}
    assert (y == y[:, :1]).all()
    assert abs(y.mean() - 1) < 0.03  # five standard errors: sqrt(.25/.75/4000) = .009
    np.testing.assert_array_equal(drop.apply({}, x, False), x)
