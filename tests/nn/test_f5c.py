"""F5C against slow numpy formulas, and what its parts can and cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import f5c

N, H, W, C = 2, 3, 4, 6


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, H, W, C)).astype(np.float32)


def correlate(x: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """y[i] = sum_r kernel[r] x[(i + r) mod L]."""
    return sum(kernel[r] * np.roll(x, -r, axis) for r in range(x.shape[axis]))


@pytest.mark.parametrize(("axis", "length"), [(1, H), (2, W)])
def test_circular_correlation(maps: np.ndarray, axis: Any, length: int) -> None:
    kernel = np.random.default_rng(1).normal(size=(length, C)).astype(np.float32)
    found = f5c.circular_correlation(jnp.asarray(maps), jnp.asarray(kernel), axis)
    np.testing.assert_allclose(found, correlate(maps, kernel, axis), rtol=1e-4, atol=1e-5)


def test_fcc(maps: np.ndarray, random_variables: Callable, quick: Callable) -> None:
    """Both halves in their own order of axes, with running statistics; meta kernels cropped to the map."""
    module = f5c.FCC(kernel="crop", meta=5)
    variables = random_variables(module, jnp.asarray(maps), False)
    found = quick(lambda v, x: module.apply(v, x, False), variables, maps)
    p, s = (jax.tree.map(np.asarray, variables[k]) for k in ("params", "batch_stats"))
    halves = []
    for half, (first, second) in enumerate((("h", "w"), ("w", "h"))):
        x, name = maps[..., 3 * half : 3 * half + 3], first + second
        place = {"h": p[f"{name}_position_h"][:H, None], "w": p[f"{name}_position_w"][:W]}
        norm, stats = p[f"{name}_norm"], s[f"{name}_norm"]
        y = (x + place[first] - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
        sizes, axes = {"h": H, "w": W}, {"h": 1, "w": 2}
        for number, axis in enumerate((first, second)):
            y = y + place[axis] if number else y
            y = correlate(y, p[f"{name}_kernel_{axis}"][: sizes[axis]], axes[axis]) + p[f"{name}_bias_{axis}"]
        halves.append(x + y)
    np.testing.assert_allclose(found, np.concatenate(halves, axis=-1), rtol=1e-4, atol=1e-5)


def test_fcc_reaches_every_place_of_its_own_channel(maps: np.ndarray, random_variables: Callable) -> None:
    module = f5c.FCC()
    variables = random_variables(module, jnp.asarray(maps), False)
    gradients = jax.jit(jax.jacrev(lambda x: module.apply(variables, x, False)[0, 1, 2, np.array([0, 5])]))(maps)
    for channel, gradient in zip((0, 5), gradients, strict=True):  # one of each half
        assert (np.abs(gradient[0, :, :, channel]) > 1e-4).all()
        others = np.delete(np.asarray(gradient[0]), channel, axis=-1)
        assert (others == 0).all()
        assert (np.asarray(gradient[1]) == 0).all()


def test_fcc_without_positions_moves_with_its_input(maps: np.ndarray, random_variables: Callable) -> None:
    for positions in (False, True):
        module = f5c.FCC(positions=positions)
        variables = random_variables(module, jnp.asarray(maps), False)
        apply = jax.jit(lambda x, m=module, v=variables: m.apply(v, x, False))
        moved, expected = apply(np.roll(maps, (1, 3), (1, 2))), np.roll(np.asarray(apply(maps)), (1, 3), (1, 2))
        same = np.allclose(moved, expected, rtol=1e-4, atol=1e-5)
        assert same != positions


def test_meta_kernels_fit_any_map() -> None:
    line = jnp.asarray(np.random.default_rng(2).normal(size=(8, 2)), jnp.float32)
    np.testing.assert_array_equal(f5c.fit_length(line, 5, "crop"), line[:5])
    np.testing.assert_allclose(f5c.fit_length(line, 4, "resize"), (line[::2] + line[1::2]) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be cropped"):
        f5c.fit_length(line, 9, "crop")


def test_ffn(maps: np.ndarray, random_variables: Callable) -> None:
    """Unused, its parameters are there and change nothing; applied, it adds to the map without it."""
    outputs = {}
    for ffn in ("none", "unused", "applied"):
        module = f5c.FCC(ffn=ffn)
        variables = random_variables(f5c.FCC(ffn="applied"), jnp.asarray(maps), False)
        outputs[ffn] = np.asarray(jax.jit(lambda v, m=module: m.apply(v, maps, False))(variables))
        sizes = jax.eval_shape(lambda m=module: m.init(jax.random.key(0), maps, False))["params"]
        assert ("ffn_in" in sizes) == (ffn != "none")
    np.testing.assert_array_equal(outputs["none"], outputs["unused"])
    p, s = (jax.tree.map(np.asarray, variables[k]) for k in ("params", "batch_stats"))
    x = (outputs["none"] - s["ffn_norm"]["mean"]) / np.sqrt(s["ffn_norm"]["var"] + 1e-5)
    hidden = (x * p["ffn_norm"]["scale"] + p["ffn_norm"]["bias"]) @ p["ffn_in"]["kernel"] + p["ffn_in"]["bias"]
    hidden = hidden * np.clip(hidden + 3, 0, 6) / 6
    expected = outputs["none"] + hidden @ p["ffn_out"]["kernel"] + p["ffn_out"]["bias"]
    np.testing.assert_allclose(outputs["applied"], expected, rtol=1e-4, atol=1e-5)


# -- CCC ---------------------------------------------------------------------------------------------------------------


def test_neighbours_are_nearest_by_cosine() -> None:
    rows = np.random.default_rng(3).normal(size=(2, 7, 5)).astype(np.float32)
    rows *= np.linspace(0.1, 10, 7, dtype=np.float32)[:, None]  # lengths do not matter
    for itself in (True, False):
        found = np.asarray(f5c.neighbours(jnp.asarray(rows), 3, itself))
        for n in range(2):
            for i in range(7):
                cosines = rows[n] @ rows[n, i] / np.linalg.norm(rows[n], axis=1)
                order = [j for j in np.argsort(-cosines, kind="stable") if itself or j != i]
                assert found[n, i].tolist() == order[:3]
        assert (found[..., 0] == np.arange(7)).all() == itself


def parameters(module: f5c.CCC, maps: np.ndarray, random_params: Callable) -> tuple[Any, dict[str, np.ndarray]]:
    params = random_params(module, jnp.asarray(maps))
    return params, jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("itself", [False, True])
def test_channel_form(maps: np.ndarray, random_params: Callable, itself: bool) -> None:
    """Node after node and neighbour after neighbour, as the formula says it."""
    module = f5c.CCC(k=3, itself=itself)
    params, p = parameters(module, maps, random_params)
    found = jax.jit(lambda v, x: module.apply({"params": v}, x))(params, maps)
    w1, w2, b = p["kernel_1"].T, p["kernel_2"].T, p["bias_1"] + p["bias_2"]
    for n in range(N):
        nodes = maps[n].reshape(-1, C).T  # [C, places]
        unit = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
        out = np.zeros_like(nodes)
        for i in range(C):
            near = [j for j in np.argsort(-unit @ unit[i]) if itself or j != i][:3]
            edges = [np.maximum(w1 @ nodes[i] + w2 @ (nodes[j] - nodes[i]) + b, 0) for j in near]
            out[i] = np.max(edges, axis=0)
        expected = (out.T @ p["mix"]["kernel"] + p["mix"]["bias"]).reshape(H, W, C)
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-4)


def test_released_form(maps: np.ndarray, random_params: Callable) -> None:
    """Neighbours are places, each its own first; the centre is subtracted twice; no 1x1 convolution."""
    module = f5c.CCC(form="released", k=3)
    params, p = parameters(module, maps, random_params)
    assert set(p) == {"kernel_1", "kernel_2", "bias_1", "bias_2"}
    found = jax.jit(lambda v, x: module.apply({"params": v}, x))(params, maps)
    w1, w2 = p["kernel_1"].T, p["kernel_2"].T
    for n in range(N):
        places = maps[n].reshape(-1, C)
        unit = places / np.linalg.norm(places, axis=1, keepdims=True)
        near = np.argsort(-unit @ unit.T, axis=1)[:, :3]
        assert (near[:, 0] == np.arange(H * W)).all()
        for c in range(C):
            x = places[:, c]
            edges = [w1 @ x + p["bias_1"] + w2 @ ((x[near[:, j]] - x) - x) + p["bias_2"] for j in range(3)]
            expected = np.maximum(np.max(edges, axis=0), 0).reshape(H, W)
            np.testing.assert_allclose(found[n, :, :, c], expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_everything(maps: np.ndarray, random_variables: Callable, quick: Callable) -> None:
    """And are those of finite differences: choosing neighbours adds none."""
    for fcc, ccc in (("circular", "channel"), ("conv", "released")):
        module = f5c.F5C(fcc, ccc, k=2)
        variables = random_variables(module, jnp.asarray(maps), False)
        rest = {k: v for k, v in variables.items() if k != "params"}

        def loss(params: Any, x: Any, module: Any = module, rest: Any = rest) -> jax.Array:
            return (module.apply({"params": params, **rest}, x, False) ** 2).mean()

        value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
        _, (by_params, by_maps) = value_and_grad(variables["params"], maps)
        assert all((np.abs(g) > 0).any() for g in jax.tree.leaves(by_params))
        direction = np.random.default_rng(4).normal(size=maps.shape).astype(np.float32)
        ahead, behind = (value_and_grad(variables["params"], maps + s * 1e-3 * direction)[0] for s in (1, -1))
        assert float(ahead - behind) / 2e-3 == pytest.approx(float((by_maps * direction).sum()), rel=0.03)


def test_parts_can_be_left_out(maps: np.ndarray) -> None:
    names = {}
    for fcc, ccc in (("circular", "none"), ("none", "channel"), ("conv", "none"), ("none", "none")):
        module = f5c.F5C(fcc, ccc)
        shapes = jax.eval_shape(lambda m=module: m.init(jax.random.key(0), maps, False))
        names[fcc, ccc] = set(shapes.get("params", {}))
    assert list(names.values()) == [{"fcc"}, {"ccc"}, {"conv"}, set()]
    np.testing.assert_array_equal(f5c.F5C("none", "none").apply({}, jnp.asarray(maps), False), maps)
